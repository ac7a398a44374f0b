"""The shots at which a scene is judged: the recorded path, paths beside it, and cameras that the fit has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.shot import Shot
from splatmend.datasets.undistort import resized, undistorted
from splatmend.recon.scene import Scene
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory


@dataclass(frozen=True, kw_only=True)
class ViewpointsConfig:
    """Paths at which a scene is judged, each held over the whole clip, beside the recorded one. Lengths are metres (median camera steps in
    scenes without a scale)."""

    shift: tuple[float, ...] = ()
    """Shifts to the left (negative: to the right), a path for each."""
    height: tuple[float, ...] = ()
    """Shifts upwards, a path for each."""
    yaw: tuple[float, ...] = ()
    """Turns to the left in degrees, a path for each."""
    camera: str | None = None
    """Recorded camera whose path it is; by default the one that looks ahead the most."""
    max_frames: int | None = None
    """At most so many frames of each path."""

    def __post_init__(self) -> None:
        for name, values in (("shift", self.shift), ("height", self.height), ("yaw", self.yaw)):
            if not np.isfinite(values).all() or 0.0 in values:
                raise UserError(f"{name}: give finite numbers other than 0 (the recorded path is always judged).")
            if len(set(values)) < len(values):
                raise UserError(f"{name}: a number is there twice; give each path once.")

        if self.max_frames is not None and self.max_frames < 1:
            raise UserError(f"max-frames: it must be at least 1, not {self.max_frames}.")

    @property
    def asks(self) -> bool:
        """Whether anything was asked for."""
        return self != ViewpointsConfig()


@dataclass(frozen=True, kw_only=True)
class Viewpoint:
    """A path to judge. `recorded`: the log has pictures from these very shots; `changes` says how it differs from the recorded path."""

    name: str
    trajectory: Trajectory
    recorded: bool
    changes: Mapping[str, float]

    @property
    def file_stem(self) -> str:
        return "".join(c if c.isalnum() or c in "._-" else "-" for c in self.name)


def viewpoints(scene: Scene, log: SceneLog, config: ViewpointsConfig) -> list[Viewpoint]:
    """The recorded path, the paths that the configuration asks for, and each camera of the log that the fit left out.

    Raises `UserError` for a camera that the scene does not have, or a scene without a recorded path.
    """
    base = TrajectoryConfig(camera=config.camera, frames=config.max_frames, ease_s=0.0)
    unit = "m" if scene.metric else "steps"
    paths: list[tuple[str, TrajectoryConfig, dict[str, float]]] = [("recorded", base, {})]
    for metres in config.shift:
        side = "left" if metres > 0 else "right"
        paths.append((f"{side} {abs(metres):g} {unit}", replace(base, left=metres), {"left": metres}))
    for metres in config.height:
        way = "up" if metres > 0 else "down"
        paths.append((f"{way} {abs(metres):g} {unit}", replace(base, up=metres), {"up": metres}))
    for degrees in config.yaw:
        side = "left" if degrees > 0 else "right"
        paths.append((f"turned {side} {abs(degrees):g} deg", replace(base, yaw_deg=degrees), {"yaw_deg": degrees}))
    found = [
        Viewpoint(name=name, trajectory=build_trajectory(scene, wanted), recorded=not changes, changes=changes)
        for name, wanted, changes in paths
    ]
    return found + _left_out_cameras(scene, log, config.max_frames, found[0].trajectory.rate_hz)


def _left_out_cameras(scene: Scene, log: SceneLog, max_frames: int | None, rate_hz: float) -> list[Viewpoint]:
    """The cameras of the log that no shot of the scene is of, at the size of the fit, with the scene's exposure left alone."""
    found = []
    widest = max(recorded.shot.camera.width for recorded in scene.shots)
    for name in log.cameras:
        if name in scene.cameras:
            continue
        alone = replace(log, cameras={name: log.cameras[name]}, frames=log.frames_of(name))
        if scene.camera_model == "ewa":
            alone = undistorted(alone)
        alone = resized(alone, max_width=widest)
        shots = tuple(Shot.of(frame, alone.cameras[name]) for frame in alone.frames[:max_frames])
        if not shots:
            continue
        extra = tuple(
            {"camera": name, "source_index": frame.index, "recorded": True, "held_out": True} for frame in alone.frames[: len(shots)]
        )
        trajectory = Trajectory(shots=shots, extra=extra, rate_hz=rate_hz)
        found.append(Viewpoint(name=f"camera {name}", trajectory=trajectory, recorded=True, changes={}))
    return found
