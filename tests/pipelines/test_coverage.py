"""What training views have seen, with depth maps that are known: in front, behind, outside, through, and on an actor that moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from splatmend.datasets.geometry import PoseTrack, pose
from splatmend.datasets.log import ActorTrack, Camera
from splatmend.datasets.shot import Shot
from splatmend.pipelines.evaluation.coverage import TrainingViews
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.nodes import RigidActor, StaticNode
from splatmend.recon.scene import RecordedShot, Scene

CAMERA = Camera(name="FRONT", width=40, height=20, focal_px=(20.0, 20.0), principal_px=(20.0, 10.0))
WALL_M = 10.0
OPAQUE = np.ones((20, 40))


def at(right_m: float, t_us: int = 0) -> Shot:
    """A camera that looks along the world's z, so that world and camera axes agree."""
    return Shot.still(CAMERA, pose(np.eye(3), np.array([right_m, 0.0, 0.0])), t_us)


def gaussian() -> Gaussians:
    return Gaussians(
        means=torch.tensor([[0.0, 0.0, WALL_M]]),
        quats_wxyz=torch.tensor([[1.0, 0, 0, 0]]),
        log_scales=torch.full((1, 3), 2.0),
        opacity_logits=torch.tensor([9.0]),
        sh=torch.zeros(1, 1, 3),
    )


def scene(shots: list[Shot], actors: dict[str, RigidActor] | None = None) -> Scene:
    return Scene(
        background=StaticNode(gaussians=gaussian(), origin_world_m=np.zeros(3)),
        actors=actors or {},
        sky=None,
        exposure=ExposureTable.identity([], []),
        shots=tuple(RecordedShot(shot=shot, frame_index=i, role="held_out" if i == 1 else "train") for i, shot in enumerate(shots)),
        ego=PoseTrack(times_us=np.array([0]), world_from_body=np.eye(4)[None]),
        up_world=(0.0, -1.0, 0.0),
        metric=True,
        source="made up",
        log_id="wall",
        median_camera_step=1.0,
    )


def views(shots: list[Shot], depth_m: float, actors: dict[str, RigidActor] | None = None) -> TrainingViews:
    depths = tuple(np.full((20, 40), depth_m, np.float16) for _ in shots)
    return TrainingViews(scene=scene(shots, actors), shots=tuple(shots), depths=depths)


@pytest.mark.parametrize(("depth_m", "seen"), [(WALL_M, 2), (5.0, 2), (10.4, 2), (11.0, 0), (20.0, 0)])
def test_what_lies_behind_the_wall_is_not_seen(depth_m: float, seen: int) -> None:
    counts = views([at(0.0), at(0.0, 100_000)], WALL_M).counts(at(0.0), np.full((20, 40), depth_m), OPAQUE)
    assert counts.shape == (20, 40)
    assert (counts == seen).all()


def test_counts_stop_at_three() -> None:
    counts = views([at(0.0, t) for t in range(7)], WALL_M).counts(at(0.0), np.full((20, 40), WALL_M), OPAQUE)
    assert (counts == 3).all()


def test_only_what_falls_into_the_frustum_is_seen() -> None:
    # 5 m to the side at 10 m: 10 of the 40 columns fall outside.
    counts = views([at(0.0)], WALL_M).counts(at(5.0), np.full((20, 40), WALL_M), OPAQUE)
    np.testing.assert_array_equal(counts, np.broadcast_to(np.arange(40) < 30, (20, 40)))


def test_sky_is_seen_through_sky_and_holes_behind_walls_are_not() -> None:
    nothing = np.zeros((20, 40))
    assert (views([at(0.0)], np.inf).counts(at(0.5), nothing, nothing) == 1).all()
    assert (views([at(0.0)], WALL_M).counts(at(0.5), nothing, nothing) == 0).all()


def test_points_on_an_actor_go_with_it() -> None:
    track = ActorTrack(
        actor_id="car",
        actor_class="vehicle",
        size_m=(100.0, 100.0, 2.0),
        track=PoseTrack(
            times_us=np.array([0, 1_000_000]),
            world_from_body=np.stack([pose(np.eye(3), np.array([0, 0, 20.0])), pose(np.eye(3), np.array([0, 0, 6.0]))]),
        ),
    )
    actors = {"car": RigidActor(gaussians=gaussian(), track=track)}
    # The view a second later shows a surface at 6 m: the actor's, which is at 20 m when the render is asked after.
    later, much_later = at(0.0, 1_000_000), at(0.0, 9_000_000)
    depth_m = np.full((20, 40), 20.0)
    middle = (slice(7, 13), slice(14, 26))  # nearer, the actor fills more than the picture
    assert (views([later], 6.0, actors).counts(at(0.0), depth_m, OPAQUE)[middle] == 1).all()
    assert (views([later], 6.0).counts(at(0.0), depth_m, OPAQUE)[middle] == 0).all()
    assert (views([much_later], np.inf, actors).counts(at(0.0), depth_m, OPAQUE)[middle] == 0).all()


def test_depth_maps_are_the_renderers_of_training_shots_only() -> None:
    shots = [at(0.0), at(0.5), at(1.0)]
    found = TrainingViews.of(scene(shots))
    assert [shot.world_from_camera[0, 3] for shot in found.shots] == [0.0, 1.0]
    assert found.depths[0][10, 20] == pytest.approx(WALL_M, abs=0.01)
