"""Where edits put bodies, what they leave alone, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny_log import ORIGIN_M, STEP_US, gaussians, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, inverse, pose, yaw_pose
from splatmend.recon.assets.asset import Asset
from splatmend.recon.edits.apply import EditedScene, apply_edits
from splatmend.recon.edits.boxes import boxes_meet
from splatmend.recon.edits.reading import parse_edits, read_edits
from splatmend.recon.nodes import StaticNode
from splatmend.recon.scene import Scene, median_camera_step

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def suv() -> Asset:
    """A body longer and higher than the car of the tiny log."""
    places = np.random.default_rng(5).uniform(-1, 1, (90, 3)) * [1.4, 0.6, 0.6]
    return Asset(
        asset_id="suv",
        actor_class="vehicle",
        size_m=(3.0, 1.3, 1.4),
        gaussians=gaussians(places, np.tile([[0.1, 0.2, 0.8]], (90, 1)), 0.12),
        material=None,
        quality=1.0,
    )


def _load(name: str) -> Asset:
    if name != "suv":
        raise UserError(f"library: the library has no asset {name}; it has suv.")
    return suv()


def _applied(text: str, scene: Scene | None = None, unit: float | None = None) -> EditedScene:
    return apply_edits(scene or true_scene(), parse_edits(text, Path("edits.yaml")), _load, unit=unit)


def _refusal(text: str, scene: Scene | None = None) -> str:
    with pytest.raises(UserError) as fault:
        _applied(text, scene)
    return str(fault.value)


def _path(path: str, name: str = "body") -> str:
    return f"edits:\n  - duplicate: car/1\n    as: {name}\n    path: {path}\n"


def _driven(path: str, scene: Scene | None = None, unit: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and poses of a copy of the car on a path, places less the log's origin."""
    edited = _applied(_path(path), scene, unit)
    track = edited.scene.actors["body"].track.track
    poses = track.world_from_body.copy()
    poses[:, :3, 3] -= ORIGIN_M
    return track.times_us * 1e-6, poses


def _yaw_deg(poses: np.ndarray) -> np.ndarray:
    return np.degrees(np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0])))


def hilly_scene(height: Callable[[np.ndarray], np.ndarray], frames: int = 12, thick: float = 0.02) -> Scene:
    """A wide road whose height is a function of x and y, with posts that stand on it and a few Gaussians below; the ego's origin is 1.7
    above it. Colours do not matter."""
    random = np.random.default_rng(8)
    road = np.concatenate([random.uniform([-10, -12], [40, 12], (9000, 2)), np.zeros((9000, 1))], axis=1)
    road[:, 2] = height(road[:, :2]) + random.normal(0, thick, len(road))
    posts = road[random.choice(len(road), 1500)] + random.uniform([0, 0, 0], [0, 0, 3], (1500, 3))
    below = road[random.choice(len(road), 300)] - random.uniform([0, 0, 0.1], [0, 0, 1.0], (300, 3))
    places = np.concatenate([road, posts, below])
    scene = true_scene(frames)
    ego_xy = np.stack([0.25 * np.arange(frames), np.zeros(frames)], axis=1)
    ego_m = np.concatenate([ego_xy, height(ego_xy)[:, None] + 1.7], axis=1) + ORIGIN_M
    ego = PoseTrack(times_us=np.arange(frames) * STEP_US, world_from_body=np.stack([yaw_pose(0.0, place) for place in ego_m]))
    background = StaticNode(gaussians=gaussians(places, np.full_like(places, 0.5), 0.1), origin_world_m=ORIGIN_M)
    car = scene.actors["car/1"]
    on_road = np.array([yaw_pose(0.0, [*p, height(np.array([p]))[0] + 0.5]) for p in [[5 + 0.35 * i, 0.8] for i in range(frames)]])
    on_road[:, :3, 3] += ORIGIN_M
    moved = replace(car, track=replace(car.track, track=replace(car.track.track, world_from_body=on_road)))
    return replace(scene, background=background, ego=ego, actors={"car/1": moved})


def test_the_recorded_scene_stays_as_it_is() -> None:
    scene = true_scene()
    before = {name: (actor, actor.gaussians.means.clone(), actor.track) for name, actor in scene.actors.items()}
    background = scene.background.gaussians.means.clone()
    edited = _applied(
        "edits:\n  - replace: car/1\n    asset: suv\n    scale: 2\n"
        "  - duplicate: car/1\n    as: copy\n    path: {ego: {ahead: 3, left: 1}}\n"
        "  - insert: suv\n    as: parked\n    path: {parked: {ahead: 7, left: -2}}\n",
        scene,
    )
    assert edited.recorded is scene
    assert set(scene.actors) == {"car/1"}
    for name, (actor, means, track) in before.items():
        assert scene.actors[name] is actor
        assert torch.equal(actor.gaussians.means, means)
        assert actor.track is track
    assert torch.equal(scene.background.gaussians.means, background)
    assert edited.scene.background is scene.background
    assert set(edited.scene.actors) == {"car/1-replaced", "copy", "parked"}
    assert edited.removed == ("car/1",)
    assert {name: (one.edit, one.asset is None) for name, one in edited.inserted.items()} == {
        "car/1-replaced": (0, False),
        "copy": (1, True),
        "parked": (2, False),
    }
    assert edited.scene.actors["copy"].gaussians is scene.actors["car/1"].gaussians
    doubled = edited.inserted["car/1-replaced"].asset
    assert doubled is not None
    assert doubled.size_m == (6.0, 2.6, 2.8)
    torch.testing.assert_close(doubled.gaussians.means, 2 * suv().gaussians.means)
    torch.testing.assert_close(doubled.gaussians.scales, 2 * suv().gaussians.scales)


def test_removed_and_moved_actors() -> None:
    removed = _applied("edits:\n  - remove: car/1\n")
    assert dict(removed.scene.actors) == {}
    assert (removed.removed, dict(removed.inserted), removed.notes) == (("car/1",), {}, ())
    moved = _applied("edits:\n  - move: car/1\n    path: {parked: {ahead: 8}}\n")
    assert (moved.removed, moved.moved) == ((), ("car/1",))
    np.testing.assert_allclose(moved.scene.actors["car/1"].track.world_from_actor(0)[:3, 3] - ORIGIN_M, [7.97, 0.64, 0.5], atol=0.05)


def test_beside_the_ego_path_at_its_speed() -> None:
    t_s, poses = _driven("{ego: {ahead: 4, left: 1.5}}")
    assert (t_s[0], t_s[-1]) == (0.0, pytest.approx(1.1))
    heading = np.arctan2(0.02, 0.25)
    along, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    expected = (4 + np.hypot(2.5, 0.2) * t_s)[:, None] * along + 1.5 * left
    np.testing.assert_allclose(poses[:, :2, 3], expected, atol=2e-3)
    np.testing.assert_allclose(_yaw_deg(poses), np.degrees(heading), atol=0.1)


def test_against_the_ego_path_with_a_speed_that_changes() -> None:
    t_s, poses = _driven("{ego: {ahead: 10, left: 2, direction: against, speed: [[0, 6], [0.5, 6], [0.8, 0]]}}")
    way = np.hypot(*np.diff(poses[:, :2, 3], axis=0).T)
    speed = np.interp(0.5 * (t_s[1:] + t_s[:-1]), [0, 0.5, 0.8], [6, 6, 0])
    np.testing.assert_allclose(way / np.diff(t_s), speed, atol=0.15)
    # It looks back along the path, also once it stands.
    np.testing.assert_allclose(_yaw_deg(poses) % 360, 180 + np.degrees(np.arctan2(0.02, 0.25)), atol=0.5)
    assert poses[-1, 0, 3] == pytest.approx(10 - 6 * 0.5 - 6 * 0.3 / 2, abs=0.25)


def test_changing_lanes_turns_the_body_and_turns_it_back() -> None:
    _, poses = _driven("{ego: {ahead: 2, speed: 10, left: [[0.2, 0], [0.9, 2]]}}")
    yaw = _yaw_deg(poses) - np.degrees(np.arctan2(0.02, 0.25))
    assert abs(yaw[0]) < 1
    assert 10 < yaw.max() < 30
    assert abs(yaw[-1]) < 5
    assert poses[-1, 1, 3] - poses[0, 1, 3] > 2.0


def test_a_standing_body_keeps_its_heading() -> None:
    places = [(0.0, [3, 0]), (0.3, [4.5, 1.5]), (0.6, [4.5, 1.5]), (0.8, [6, 3]), (1.1, [9, 3])]
    world = ", ".join(f"{{time_s: {t}, at: [{ORIGIN_M[0] + x}, {ORIGIN_M[1] + y}]}}" for t, (x, y) in places)
    t_s, poses = _driven(f"{{world: [{world}]}}")
    yaw = _yaw_deg(poses)
    assert yaw[0] == pytest.approx(45, abs=3)
    np.testing.assert_allclose(yaw[(t_s > 0.31) & (t_s < 0.59)], 45, atol=4)
    assert np.ptp(yaw[(t_s > 0.31) & (t_s < 0.59)]) < 1e-6
    assert yaw[-1] == pytest.approx(0, abs=3)
    np.testing.assert_allclose(poses[np.searchsorted(t_s, 0.449), :2, 3], [4.5, 1.5], atol=5e-3)


def test_following_with_a_delay_and_with_a_distance() -> None:
    recorded = true_scene().actors["car/1"].track.track
    edited = _applied(_path("{follow: {actor: car/1, delay_s: 0.4}}"))
    track = edited.scene.actors["body"].track.track
    later = recorded.at(track.times_us - 400_000)
    np.testing.assert_allclose(track.world_from_body[:, :2, 3], later[:, :2, 3], atol=1e-6)
    # The car slides along x but looks 0.1 rad to the left: its copy looks so too.
    np.testing.assert_allclose(_yaw_deg(track.world_from_body), np.degrees(0.1), atol=1e-6)
    assert track.start_us * 1e-6 == pytest.approx(0.34)
    assert any("is there from 0.34 to 1.1 s of 1.1 s" in note for note in edited.notes)
    _, behind = _driven("{follow: {actor: car/1, ahead: -3, left: 1}}")
    np.testing.assert_allclose(behind[::2, :2, 3], (recorded.world_from_body[:, :3, 3] - ORIGIN_M)[:, :2] + [-3, 1], atol=0.02)


def test_bodies_follow_what_edits_made_of_others() -> None:
    edited = _applied(
        "edits:\n  - duplicate: car/1\n    as: second\n    path: {follow: {actor: first, ahead: -2}}\n"
        "  - duplicate: car/1\n    as: first\n    path: {ego: {ahead: 6, left: 2}}\n"
    )
    first, second = (edited.scene.actors[name].track.track.world_from_body for name in ("first", "second"))
    np.testing.assert_allclose(np.hypot(*(first - second)[:, :2, 3].T), 2.0, atol=0.02)
    moved = _applied("edits:\n  - move: car/1\n    path: {follow: {actor: car/1, ahead: 2}}\n").scene.actors["car/1"].track.track
    np.testing.assert_allclose(moved.world_from_body[0, :2, 3] - ORIGIN_M[:2], [7, 0.8], atol=0.02)


def test_through_key_poses_at_a_speed() -> None:
    keys = ", ".join(
        f"{{at: [{ORIGIN_M[0] + x}, {ORIGIN_M[1] + y}]{extra}}}"
        for x, y, extra in ((2, 0, ", yaw_deg: 0"), (5, 1, ""), (6, 4, ", yaw_deg: 90"))
    )
    t_s, poses = _driven(f"{{keys: {{poses: [{keys}], speed: 8, start_s: 0.2}}}}")
    before, after = t_s <= 0.2, t_s > 0.2 + 8 / 8
    np.testing.assert_allclose(poses[before, :2, 3], np.tile([2, 0], (before.sum(), 1)), atol=1e-3)
    np.testing.assert_allclose(poses[after, :2, 3], np.tile([6, 4], (after.sum(), 1)), atol=1e-3)
    steps = np.hypot(*np.diff(poses[(t_s >= 0.2) & (t_s < 0.9), :2, 3], axis=0).T)
    np.testing.assert_allclose(steps, 0.4, atol=0.02)
    assert np.hypot(*(poses[:, :2, 3] - [5, 1]).T).min() < 0.25
    yaw = _yaw_deg(poses)
    assert (yaw[0], yaw[-1]) == (pytest.approx(0, abs=0.01), pytest.approx(90, abs=0.01))


def test_whole_poses_are_taken_as_they_are_where_nothing_stands_on_the_ground() -> None:
    given = [yaw_pose(0.2 * i, ORIGIN_M + np.array([4 + i, 1, 2 + i])) for i in range(3)]
    given[1] = given[1] @ pose(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.zeros(3))
    world = ", ".join(f"{{time_s: {0.5 * i}, world_from_actor: {p.tolist()}}}" for i, p in enumerate(given))
    edited = _applied(_path(f"{{world: [{world}], on_ground: false}}"))
    track = edited.scene.actors["body"].track.track
    for index, expected in enumerate(given):
        np.testing.assert_allclose(track.at(500_000 * index), expected, atol=1e-6)


def test_appearing_and_disappearing() -> None:
    edited = _applied(_path("{ego: {ahead: 3}, from_s: 0.3, until_s: 0.8}"))
    body = edited.scene.actors["body"]
    assert (body.track.track.start_us, body.track.track.end_us) == (300_000, 800_000)
    assert body.world_from_node(200_000) is None
    assert body.world_from_node(500_000) is not None
    assert any("is there from 0.3 to 0.8 s of 1.1 s" in note for note in edited.notes)


@pytest.mark.parametrize(("slope_x", "slope_y"), [(0.0, 0.0), (0.06, 0.0), (-0.04, 0.05)])
def test_wheels_stand_on_a_road_that_rises_and_leans(slope_x: float, slope_y: float) -> None:
    """Posts on the road and Gaussians below it do not lift or sink a body, which pitches and rolls with the road."""
    scene = hilly_scene(lambda xy: slope_x * xy[:, 0] + slope_y * xy[:, 1])
    up = np.array([-slope_x, -slope_y, 1.0]) / np.sqrt(slope_x**2 + slope_y**2 + 1)
    for path in (
        "{ego: {ahead: 3, left: 3.5, direction: against, speed: 5}}",
        "{ego: {ahead: 20, left: -4}}",
        "{parked: {ahead: 12, left: 6}}",
    ):
        _, poses = _driven(path, scene)
        bottom = poses[:, :3, 3] - 0.5 * poses[:, :3, 2]
        ground = slope_x * bottom[:, 0] + slope_y * bottom[:, 1]
        np.testing.assert_allclose(bottom[:, 2], ground, atol=0.03)
        np.testing.assert_allclose(poses[:, :3, 2], np.tile(up, (len(poses), 1)), atol=0.02)
        np.testing.assert_allclose(
            poses[:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2), np.tile(np.eye(3), (len(poses), 1, 1)), atol=1e-9
        )


def test_a_hump_is_driven_over() -> None:
    def hump(xy: np.ndarray) -> np.ndarray:
        return 0.5 * np.exp(-0.5 * ((xy[:, 0] - 15) / 5) ** 2)

    _, poses = _driven("{ego: {ahead: 6, left: 2, speed: 16}}", hilly_scene(hump))
    bottom = poses[:, :3, 3] - 0.5 * poses[:, :3, 2]
    np.testing.assert_allclose(bottom[:, 2], hump(bottom), atol=0.08)
    pitch = np.degrees(np.arcsin(poses[:, 2, 0]))
    assert pitch[poses[:, 0, 3] < 12].mean() > 1.5
    assert pitch[poses[:, 0, 3] > 18].mean() < -1.5
    assert np.abs(np.diff(pitch)).max() < 1.5


def test_without_ground_the_plane_of_the_recorded_wheels_is_taken_and_said() -> None:
    edited = _applied(_path("{parked: {ahead: 60, left: 30}}"))
    assert any("shows no ground; it is put on the plane of the recorded vehicle's wheels" in note for note in edited.notes)
    (note,) = edited.notes
    assert note.startswith("edits.yaml: line 4: body ")
    place = edited.scene.actors["body"].track.world_from_actor(0)[:3, 3] - ORIGIN_M
    assert place[2] == pytest.approx(0.5, abs=0.05)


def test_a_replaced_body_stands_where_the_old_one_stood() -> None:
    edited = _applied("edits:\n  - replace: car/1\n    asset: suv\n    as: new\n", hilly_scene(lambda xy: 0.02 * xy[:, 0]))
    old, new = edited.recorded.actors["car/1"].track, edited.scene.actors["new"].track
    assert new.size_m == (3.0, 1.3, 1.4)
    for t_us in (0, 450_000, 1_100_000):
        a, b = old.world_from_actor(t_us), new.world_from_actor(t_us)
        np.testing.assert_allclose(b[:2, 3], a[:2, 3], atol=0.03)
        assert (b[:3, 3] - 0.7 * b[:3, 2])[2] == pytest.approx((a[:3, 3] - 0.5 * a[:3, 2])[2], abs=0.03)


def test_lengths_of_a_scene_without_scale_count_in_its_unit() -> None:
    scene = replace(true_scene(), metric=False)
    assert median_camera_step(scene.shots) == pytest.approx(np.hypot(0.25, 0.02))
    edited = _applied(_path("{ego: {ahead: 12, left: 4}}") + "  - insert: suv\n    as: new\n    path: {parked: {ahead: 20}}\n", scene)
    place = edited.scene.actors["body"].track.world_from_actor(0)[:3, 3] - ORIGIN_M
    np.testing.assert_allclose(np.hypot(*place[:2]), np.hypot(12, 4) * scene.median_camera_step, rtol=1e-2)
    np.testing.assert_allclose(edited.scene.actors["new"].track.size_m, np.array([3.0, 1.3, 1.4]) * scene.median_camera_step)
    _, given = _driven("{ego: {ahead: 2, left: 1}}", scene, unit=2.0)
    np.testing.assert_allclose(np.hypot(*given[0, :2, 3]), np.hypot(4, 2), rtol=1e-2)
    still = replace(scene, shots=(), median_camera_step=0.0)
    assert "say by --trajectory.unit" in _refusal(_path("{parked: {ahead: 1}}"), still)


def test_an_upright_world_need_not_have_z_up() -> None:
    """The same street, turned over: bodies stand at the turned places."""
    turn = pose(np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), np.zeros(3))
    scene = hilly_scene(lambda xy: 0.03 * xy[:, 0])
    at_zero = replace(scene.background, origin_world_m=turn[:3, :3] @ scene.origin_world_m)
    means = scene.background.gaussians.means @ torch.from_numpy(turn[:3, :3].T).float()
    actors = {
        name: replace(a, track=replace(a.track, track=replace(a.track.track, world_from_body=turn @ a.track.track.world_from_body)))
        for name, a in scene.actors.items()
    }
    turned = replace(
        scene,
        background=replace(at_zero, gaussians=replace(scene.background.gaussians, means=means)),
        actors=actors,
        ego=replace(scene.ego, world_from_body=turn @ scene.ego.world_from_body),
        up_world=tuple(turn[:3, 2]),
    )
    path = _path("{ego: {ahead: 6, left: 2}}")
    upright, over = (_applied(path, one).scene.actors["body"].track.track.world_from_body for one in (scene, turned))
    np.testing.assert_allclose(inverse(turn) @ over, upright, atol=0.01)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("edits:\n  - remove: bus", 2, "the scene has no actor bus; its actors are car/1"),
        ("edits:\n  - remove: car/1\n  - duplicate: truck\n    as: b\n    path: {ego: {}}", 3, "the scene has no actor truck"),
        ("edits:\n  - insert: suv\n    as: car/1\n    path: {ego: {}}", 2, "the scene has an actor car/1 already; choose another id"),
        ("edits:\n  - insert: bike\n    as: b\n    path: {ego: {}}", 2, "the asset bike cannot be taken (library: "),
        (_path("{follow: {actor: bus}}"), 4, "there is no actor bus to follow; there are car/1"),
        (_path("{follow: {actor: body}}"), 4, "there is no actor body to follow"),
        (_path("{follow: {actor: two}}", "one") + _path("{follow: {actor: one}}", "two")[7:], 4 + 3, "one and two follow each other"),
        (_path("{parked: {at: [0, 0]}}"), 4, "body stays 40"),
        (_path("{ego: {ahead: 500}}"), 4, "beyond 200 the scene knows nothing"),
        (_path("{ego: {ahead: 5}, from_s: 7}"), 4, "body is never there during the log, which lasts from 0 to 1.1 s"),
        (_path("{world: [{time_s: 5, at: [1, 1]}, {time_s: 6, at: [2, 1]}]}"), 4, "body is never there during the log"),
        (_path("{follow: {actor: car/1, delay_s: 9}}"), 4, "body is never there during the log"),
    ],
)  # fmt: skip
def test_what_a_scene_cannot_have_is_refused_with_the_line(text: str, line: int, words: str) -> None:
    sentence = _refusal(text)
    assert sentence.startswith(f"edits.yaml: line {line}: "), sentence
    assert words in sentence, sentence
    assert sentence.endswith(".")


def test_what_lies_partly_outside_is_said() -> None:
    def at(x: float) -> str:
        return f"[{ORIGIN_M[0] + x}, {ORIGIN_M[1]}]"

    notes = _applied(_path(f"{{world: [{{time_s: -1, at: {at(0)}}}, {{time_s: 0.5, at: {at(3)}}}, {{time_s: 9, at: {at(9)}}}]}}")).notes
    assert any("line 4: body has times from -1 to 9 s, but the log lasts from 0 to 1.1 s" in note for note in notes)
    notes = _applied(_path(f"{{world: [{{time_s: 0, at: {at(0)}}}, {{time_s: 1, at: {at(300)}}}]}}")).notes
    assert any("is farther than 200 from the recorded path" in note for note in notes)
    assert any("moves at up to" in note for note in notes)


def test_collisions_are_said_with_their_times() -> None:
    """A copy that comes towards the car (at 5 + 3.5 t) and the ego (at 2.5 t) along their path."""
    notes = _applied(_path("{ego: {ahead: 16, left: 0.6, direction: against, speed: 10}}")).notes
    met_car = [note for note in notes if "body runs into car/1 from" in note]
    met_ego = [note for note in notes if "body runs into the recorded vehicle from" in note]
    assert len(met_car) == 1
    assert met_car[0].startswith("edits.yaml: line 2: ")
    # Their middles meet at 11 / 13.5 s; boxes of 2.2 m touch 2.2 / 13.5 s earlier.
    first, last = (float(word) for word in met_car[0].split(" from ")[1].removesuffix(" s.").split(" to "))
    assert first == pytest.approx(11 / 13.5 - 2.2 / 13.5, abs=0.11)
    assert last == pytest.approx(11 / 13.5 + 2.2 / 13.5, abs=0.11)
    assert len(met_ego) == 1
    assert not _applied(_path("{ego: {ahead: 16, left: -2.4, direction: against, speed: 10}}")).notes
    two = _applied(_path("{parked: {ahead: 12, left: -2}}", "one") + _path("{parked: {ahead: 13, left: -2}}", "two")[7:]).notes
    assert [note for note in two if "runs" in note] == ["edits.yaml: line 2: one runs into two from 0.00 to 1.10 s."]
    # What was removed or moved away is not in the way.
    gone = "edits:\n  - remove: car/1\n" + _path("{follow: {actor: car/1}}")[7:]
    assert not [note for note in _applied(gone).notes if "car/1" in note]


def test_boxes_meet_like_their_points() -> None:
    """Against dense points of one box that lie in the other."""
    random = np.random.default_rng(0)
    size_a, size_b = np.array([4.0, 2.0, 1.5]), np.array([1.0, 3.0, 0.7])
    a, b = (np.tile(np.eye(4), (300, 1, 1)) for _ in range(2))
    a[:, :3, :3], b[:, :3, :3] = (Rotation.random(300, random_state=seed).as_matrix() for seed in (1, 2))
    a[:5, :3, :3] = b[:5, :3, :3] = np.eye(3)
    b[:, :3, 3] = random.uniform(-3, 3, (300, 3))
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 25)] * 3), axis=-1).reshape(-1, 3)
    met = boxes_meet(a, size_a, b, size_b)
    for index in range(300):

        def inside(margin: float, index: int = index) -> bool:
            points = (inverse(a[index]) @ b[index])[:3, :3] @ (grid * size_b).T + (inverse(a[index]) @ b[index])[:3, 3:]
            return bool((np.abs(points.T) <= 0.5 * size_a + margin).all(axis=1).any())

        if inside(-0.02) or not inside(0.15):
            assert met[index] == inside(-0.02), index
    assert 50 < met.sum() < 250


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_of_the_documentation_can_be_applied(example: Path) -> None:
    edited = apply_edits(true_scene(), read_edits(example), _load)
    for name in edited.inserted:
        poses = edited.scene.actors[name].track.track.world_from_body
        height = edited.scene.actors[name].track.size_m[2]
        bottom = poses[:, :3, 3] - 0.5 * height * poses[:, :3, 2] - ORIGIN_M
        np.testing.assert_allclose(bottom[:, 2], 0.0, atol=0.1)


def test_vehicles_that_are_scaled_beyond_reason_are_spoken_of() -> None:
    for scale, said in ((10, True), (0.2, True), (1.5, False)):
        notes = _applied(f"edits:\n  - insert: suv\n    as: new\n    scale: {scale}\n    path: {{parked: {{ahead: 6}}}}\n").notes
        assert any("m long, as no vehicle is" in note and "line 2" in note for note in notes) == said
