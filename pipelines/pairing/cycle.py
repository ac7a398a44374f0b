"""There and back: a scene fitted to renders from beside the path, seen along the recorded path, where photos are.

What a fit knows of the recorded path has then gone through two reconstructions and a change of view, so its faults are those of a shifted
path (holes at what the first fit never saw, smeared far sides), and a true picture is at hand on any log.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from splatmend.datasets.clip import open_clip
from splatmend.datasets.images import read_image
from splatmend.datasets.log import CameraFrame, SceneLog
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.shift import side
from splatmend.pipelines.pairing.workshop import PairPlan, Workshop, recorded_target
from splatmend.recon.render_clip import render_clip
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import file_name
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory


def plans(config: PairsConfig, source: PairSource, camera: str) -> list[PairPlan]:
    """A pair for each shift."""
    return [
        PairPlan(
            name=f"{camera}-cycle-{side(metres)}",
            kind="cycle",
            target=recorded_target(camera),
            degrade=partial(degrade, camera=camera, metres=metres),
        )
        for metres in config.cycle_shifts
    ]


def degrade(shop: Workshop, out: Path, *, camera: str, metres: float) -> Trajectory:
    """The recorded path through a fit to renders of all cameras from so many metres to its left."""
    first = shop.whole()
    seen = log_from_beside(shop, first, metres)
    # These pictures stand exactly where they were rendered.
    config = replace(shop.fit_config, data=replace(shop.fit_config.data, bridge_jumps=False, max_width=None))
    config = replace(config, camera_poses=replace(config.camera_poses, on=False))
    second = shop.fitted(f"cycle-{side(metres)}", config, seen)
    return shop.render(second, build_trajectory(first, TrajectoryConfig(camera=camera)), out, seen)


def log_from_beside(shop: Workshop, scene: Scene, metres: float) -> SceneLog:
    """The source's log with the recorded pictures replaced by renders of a scene from a shifted path; LiDAR, boxes and times stay.

    The renders lie beside the fits and are kept for a run that goes on.
    """
    frames: list[CameraFrame] = []
    cameras = {}
    for camera in scene.cameras:
        trajectory = build_trajectory(scene, TrajectoryConfig(camera=camera, left=metres, ease_s=0.0))
        folder = shop.fits / f"seen-{side(metres)}-{file_name(camera)}"
        if not folder.exists():
            render_clip(scene, trajectory, folder)
        cameras[camera] = trajectory[0].camera
        for shot, extra, image in zip(trajectory.shots, trajectory.extra, open_clip(folder).images, strict=True):
            frames.append(
                CameraFrame(
                    camera=camera,
                    index=extra["source_index"],
                    start_us=shot.start_us,
                    end_us=shot.end_us,
                    world_from_camera_start=shot.world_from_camera_start,
                    world_from_camera_end=shot.world_from_camera_end,
                    read_image=partial(read_image, image),
                    file=image,
                )
            )
    frames.sort(key=lambda frame: (frame.start_us, frame.camera))
    return replace(shop.source.log, cameras=cameras, frames=tuple(frames))
