"""What a fit makes of actors by their class: those that bend, those whose sides are alike, those that are left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit_resume import CONFIG
from tiny_log import CAMERA, EGO_FROM_CAMERA, ORIGIN_M, STEP_US, gaussians, tiny_log, true_scene

from splatmend.datasets.artifact import plain
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, yaw_pose
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.shot import Shot
from splatmend.pipelines.cli import main
from splatmend.recon.fit import ActorsConfig, FitConfig, fit
from splatmend.recon.fit.config_json import fit_config_from_json, result_settings, settings_key
from splatmend.recon.fit.symmetry import MirroredDraws, seen_side
from splatmend.recon.gaussians import concatenate
from splatmend.recon.motion import Motion
from splatmend.recon.nodes import DeformableActor, RigidActor
from splatmend.recon.reflection import mirrored
from splatmend.recon.render import render
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene

NONE = ActorsConfig(deformable=(), symmetric=())


def walking_scene(frames: int = 24) -> Scene:
    """A pedestrian three metres ahead whose two legs swing against each other while the trunk is still."""
    scene = true_scene(frames)
    random = np.random.default_rng(5)
    trunk = random.uniform(-1, 1, (60, 3)) * [0.15, 0.3, 0.4] + [0, 0, 0.3]
    legs = random.uniform(-1, 1, (60, 3)) * [0.1, 0.1, 0.4] + [0, 0.25, -0.5]
    legs[:30, 1] *= -1
    colours = np.concatenate([np.tile([[0.8, 0.1, 0.1]], (60, 1)), np.tile([[0.1, 0.2, 0.9]], (60, 1))])
    swing = torch.zeros(120, 1, 6)
    swing[60:, 0, 3] = torch.cat([torch.full((30,), 0.5), torch.full((30,), -0.5)])
    course = torch.sin(2 * torch.pi * (torch.arange(frames + 2) - 1) / 10)[None]
    motion = Motion(coefficients=swing, courses=course, first_us=0, step_us=STEP_US, reach_m=5.0)
    times_us = np.arange(frames) * STEP_US
    # They walk across, so that the swing is seen.
    poses = np.stack([yaw_pose(np.pi / 2, ORIGIN_M + np.array([4 + 0.25 * i, 0.6, 1.0])) for i in range(frames)])
    track = ActorTrack(
        actor_id="person",
        actor_class="pedestrian",
        size_m=(1.4, 0.9, 2.0),
        track=PoseTrack(times_us=times_us, world_from_body=poses),
    )
    shape = gaussians(np.concatenate([trunk, legs]), colours, 0.1)
    return replace(scene, actors={"person": DeformableActor(gaussians=shape, track=track, motion=motion)})


def error_of(scene: Scene, truth: Scene, shots: list[Shot]) -> float:
    """Mean squared error where the truth's actors show."""
    errors = []
    for shot in shots:
        with torch.no_grad():
            seen = [
                render(held, shot, ("rgb",), exposure=None, without=without).rgb
                for held, without in ((scene, ()), (truth, ()), (truth, tuple(truth.actors)))
            ]
        picture, true, empty = (rgb for rgb in seen if rgb is not None)
        where = (true - empty).abs().amax(-1) > 0.1
        assert where.sum() > 20
        errors.append((picture - true)[where].square().mean())
    return float(torch.stack(errors).mean())


def short(actors: ActorsConfig, iterations: int) -> FitConfig:
    """The tiny log's fit with poses as they are."""
    still = {name: replace(getattr(CONFIG, name), on=False) for name in ("camera_poses", "actor_poses")}
    densify = replace(CONFIG.densify, cap=600, actor_cap=200, every=20)
    init = replace(CONFIG.init, point_count=500, actor_count=150)
    return replace(CONFIG, iterations=iterations, actors=actors, densify=densify, init=init, log_every=50, checkpoint_every=1000, **still)


def test_legs_that_swing_are_fitted_better_by_an_actor_that_bends(tmp_path: Path) -> None:
    """In the mean of three fits each: a single one may miss the swing, and which one does depends on the processor."""
    truth = walking_scene()
    log = tiny_log(24, scene=truth)
    held_out = [recorded.shot for recorded in truth.shots if recorded.role == "held_out"]
    errors = {"rigid": 0.0, "bends": 0.0}
    for name, actors in (("rigid", NONE), ("bends", replace(NONE, deformable=("pedestrian",), motion_rate=2e-2))):
        for seed in range(3):
            config = replace(short(actors, 400), seed=seed)
            scene = load_scene(fit(log, tmp_path / f"{name}{seed}", config, on_progress=lambda row: None))
            errors[name] += error_of(scene, truth, held_out) / 3
            (actor,) = scene.actors.values()
            assert isinstance(actor, DeformableActor) == (name == "bends")
            # Nothing flies off, at any time.
            assert float(actor.gaussians_at(10**9).means.abs().max()) < 4.0
    assert errors["bends"] < 0.7 * errors["rigid"], errors


@pytest.mark.parametrize("actor_class", ["vehicle", "pedestrian"])
def test_an_actor_that_two_pictures_show_stays_in_its_box(tmp_path: Path, actor_class: str) -> None:
    """With every way to go wrong: harmonics, corrections of poses and boxes, growth, a body that bends, and all opacities fading a hundred
    iterations before the end, of which too few show the actor for it to come back."""
    truth = walking_scene(12)
    (person,) = truth.actors.values()
    boxes = PoseTrack(times_us=person.track.track.times_us[6:8], world_from_body=person.track.track.world_from_body[6:8])
    track = replace(person.track, actor_class=actor_class, track=boxes)
    truth = replace(truth, actors={"person": replace(person, track=track)})
    log = tiny_log(12, scene=truth)
    corrections = {"camera_poses": CONFIG.camera_poses, "actor_poses": CONFIG.actor_poses}
    config = replace(short(FitConfig().actors, 400), sh_degree=2, sh_every=50, **corrections)
    assert config.actor_poses.on
    scene = load_scene(fit(log, tmp_path / "scene", config, on_progress=lambda row: None))
    (actor,) = scene.actors.values()
    assert isinstance(actor, DeformableActor) == (actor_class == "pedestrian")
    half = torch.tensor(track.size_m) / 2
    solid = actor.gaussians.opacities > 0.1
    assert int(solid.sum()) > 50
    for t_us in boxes.times_us.tolist():
        means = actor.gaussians_at(t_us).means[solid]
        assert float((means.abs() / half).max()) < 2.0
        moved = actor.track.world_from_actor(t_us) @ np.linalg.inv(track.world_from_actor(t_us))
        assert np.linalg.norm((moved @ np.array([*ORIGIN_M, 1.0]))[:3] - ORIGIN_M) < 0.5
    assert float(actor.gaussians.log_scales[solid].exp().max()) < float(half.norm())
    # From two metres beside the path it is where it should be, and nothing of it is where it should not be.
    beside = [
        Shot.still(CAMERA, yaw_pose(0.0, truth.ego.at(int(t))[:3, 3] + [0, 2.0, 0]) @ EGO_FROM_CAMERA, int(t)) for t in boxes.times_us
    ]
    assert error_of(scene, truth, beside) < 0.05
    for shot in beside:
        with torch.no_grad():
            shown, true = (render(held, shot, ("rgb", "actors")).extra["actors"] for held in (scene, truth))
        assert float(shown[true < 0.02].mean()) < 0.05


def test_a_log_without_lidar_has_its_labelled_movers(tmp_path: Path) -> None:
    truth = true_scene(12)
    log = replace(tiny_log(12, scene=truth), sweeps=())
    held_out = [recorded.shot for recorded in truth.shots if recorded.role == "held_out"]
    errors = {}
    for name, actors in (("there", NONE), ("left out", replace(NONE, left_out=("vehicle",)))):
        config = replace(short(actors, 300), init=replace(CONFIG.init, point_count=0, ray_count=500))
        scene = load_scene(fit(log, tmp_path / name, config, on_progress=lambda row: None))
        assert len(scene.actors) == (name == "there")
        errors[name] = error_of(scene, truth, held_out)
    assert errors["there"] < 0.5 * errors["left out"], errors


def two_sided_scene(frames: int = 12) -> Scene:
    """The car as two walls with the same blocks of colour, of which the camera sees the right one."""
    scene = true_scene(frames)
    (car,) = scene.actors.values()
    random = np.random.default_rng(6)
    wall = np.stack([random.uniform(-1, 1, 150), np.full(150, -0.5), random.uniform(-0.45, 0.45, 150)], axis=1)
    blocks = 0.5 + 0.4 * np.sin(np.floor(wall * [3, 0, 3]) @ np.array([[2.0, 5, 1], [0, 0, 0], [3.0, 1, 4]]))
    right = gaussians(wall, blocks, 0.1)
    left = mirrored(right)
    both = concatenate([right, left])
    poses = np.stack([yaw_pose(0.0, ORIGIN_M + np.array([3.5 + 0.2 * i, 2.0, 0.8])) for i in range(frames)])
    track = replace(car.track, size_m=(2.2, 1.2, 1.1), track=replace(car.track.track, world_from_body=poses))
    return replace(scene, actors={car.actor_id: RigidActor(gaussians=both, track=track)})


def test_a_side_that_nobody_saw_takes_after_the_other(tmp_path: Path) -> None:
    truth = two_sided_scene()
    (car,) = truth.actors.values()
    log = tiny_log(12, scene=truth, scanned=lambda means: (means[:, 1:] < 0).float())
    recorded = [shot.shot for shot in truth.shots]
    beyond = []
    for number in (3, 6, 9):
        place = car.track.world_from_actor(number * STEP_US)[:3, 3] + np.array([-2.5, 2.5, -0.8])
        beyond.append(Shot.still(CAMERA, yaw_pose(-np.pi / 4, place) @ EGO_FROM_CAMERA, number * STEP_US))
    unseen, seen = {}, {}
    for name, actors in (("plain", NONE), ("symmetric", replace(NONE, symmetric=("vehicle",)))):
        scene = load_scene(fit(log, tmp_path / name, short(actors, 150), on_progress=lambda row: None))
        unseen[name], seen[name] = error_of(scene, truth, beyond), error_of(scene, truth, recorded[4:5])
    assert unseen["symmetric"] < 0.65 * unseen["plain"], unseen
    assert seen["symmetric"] < 1.5 * seen["plain"], seen


def test_one_side_is_told_from_two() -> None:
    car = two_sided_scene().actors["car/1"].track

    def shots(*lefts_m: float, back_m: float = 5.0, turn: float = 0.0) -> list[Shot]:
        middle = car.world_from_actor(0)[:3, 3]
        return [Shot.still(CAMERA, yaw_pose(turn, middle + np.array([-back_m, y, 0.0])) @ EGO_FROM_CAMERA, 0) for y in lefts_m]

    assert seen_side(car, shots(-2.0, -1.0, 0.1)) == -1
    assert seen_side(car, shots(2.0)) == 1
    assert seen_side(car, shots(-2.0, 2.0)) == 0
    assert seen_side(car, shots(0.3, -0.3)) == 0  # from straight behind
    assert seen_side(car, shots(2.0, turn=np.pi)) == 0  # looks away
    assert seen_side(car, []) == 0


def test_mirrored_draws_are_a_share_and_depend_on_seed_and_iteration_alone() -> None:
    scene = two_sided_scene()

    def turned(draws: MirroredDraws) -> list[bool]:
        return [draws.of(scene, iteration) is not scene for iteration in range(300)]

    some = turned(MirroredDraws({"car/1": -1}, 0.3, 0))
    assert 60 < sum(some) < 120
    assert turned(MirroredDraws({"car/1": -1}, 0.3, 0)) == some
    assert turned(MirroredDraws({"car/1": -1}, 0.3, 1)) != some
    assert not any(turned(MirroredDraws({}, 1.0, 0)))


def test_a_mirrored_draw_teaches_the_half_that_is_not_seen() -> None:
    scene = two_sided_scene()
    car = scene.actors["car/1"]
    means = car.gaussians.means.clone().requires_grad_(True)
    scene = replace(scene, actors={"car/1": replace(car, gaussians=replace(car.gaussians, means=means))})
    drawn = MirroredDraws({"car/1": -1}, 1.0, 0).of(scene, 0).actors["car/1"].gaussians
    assert torch.equal(drawn.means, car.gaussians.means * torch.tensor([1.0, -1, 1]))
    drawn.means.sum().backward()
    assert means.grad is not None
    assert torch.equal(means.grad[:, 0] != 0, car.gaussians.means[:, 1] > 0)


def test_a_fit_of_bending_actors_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = replace(CONFIG, iterations=12, checkpoint_every=6, actors=replace(NONE, deformable=("vehicle",)))

    class Stopped(Exception):
        pass

    def stop(row: dict) -> None:
        if row["iteration"] == 9:
            raise Stopped

    try:
        fit(tiny_log(6), tmp_path / "whole", config, on_progress=lambda row: None)
        with pytest.raises(Stopped):
            fit(tiny_log(6), tmp_path / "cut", config, on_progress=stop)
        fit(tiny_log(6), tmp_path / "cut", config, resume=True, on_progress=lambda row: None)
    finally:
        torch.set_num_threads(threads)
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert any(file.name.endswith(".motion.safetensors") for file in files)
    for file in files:
        if file.name != "manifest.json":
            assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    (actor,) = load_scene(tmp_path / "cut").actors.values()
    assert isinstance(actor, DeformableActor)
    assert float(actor.motion.coefficients.abs().max()) > 0


def test_classes_that_bend_by_default_are_the_same_settings_as_those_that_are_named() -> None:
    """Scenes and checkpoints from before a default could be told from them hold the names."""
    given = replace(CONFIG, actors=ActorsConfig(left_out=("cyclist",)))
    named = replace(CONFIG, actors=ActorsConfig(deformable=("pedestrian",), left_out=("cyclist",)))
    assert settings_key(given) == settings_key(named)
    assert result_settings(given)["actors"]["deformable"] == ["pedestrian"]
    for config in (given, named):
        assert fit_config_from_json(plain(config)) == config


def test_the_command_line_tells_a_default_from_what_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["fit", str(tmp_path / "absent"), "--out", str(tmp_path / "scene"), "--actors.symmetric", "pedestrian"]
    for given, said in (
        (["--actors.deformable", "pedestrian", "cyclist"], "pedestrian cannot be both deformable and symmetric"),
        (["--actors.deformable"], "absent: there is no such"),
        ([], "absent: there is no such"),
    ):
        assert main([*command, *given]) == 2
        assert said in " ".join(capsys.readouterr().err.replace("│", " ").split()), given


def test_classes_that_are_left_out_are_no_actors(tmp_path: Path) -> None:
    config = replace(CONFIG, iterations=1, actors=ActorsConfig(symmetric=(), left_out=("vehicle",)))
    assert load_scene(fit(tiny_log(6), tmp_path / "scene", config, on_progress=lambda row: None)).actors == {}


def test_a_class_has_one_nature() -> None:
    with pytest.raises(UserError, match="pedestrian cannot be both deformable and symmetric"):
        ActorsConfig(deformable=("pedestrian",), symmetric=("vehicle", "pedestrian"))
    both = ("pedestrian", "cyclist")
    for other in ("symmetric", "left_out"):
        with pytest.raises(UserError, match=f"cyclist cannot be both deformable and {other}"):
            ActorsConfig(deformable=both, **{other: ("cyclist",)})
    assert ActorsConfig().bending == both
    assert ActorsConfig(symmetric=("vehicle", "pedestrian")).bending == ("cyclist",)
    assert ActorsConfig(left_out=both).bending == ()
    assert ActorsConfig(deformable=(), symmetric=("cyclist",)).bending == ()
    assert replace(ActorsConfig(symmetric=("cyclist",)), symmetric=()).bending == both
    with pytest.raises(UserError, match="mirrored_share"):
        ActorsConfig(mirrored_share=0.7)
