"""What clips are scored against: another clip, the recorded frames of a log, or a procedural street's own picture from the same shot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from splatmend.datasets.clip import Clip, ClipFrame, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.log import Camera, CameraFrame, SceneLog
from splatmend.datasets.shot import Shot
from splatmend.datasets.undistort import resized, undistorted
from splatmend.datasets.video import VIDEO_SUFFIXES, to_uint8
from splatmend.pipelines.evaluation.flow import Flow, estimated_flow, exact_flow

if TYPE_CHECKING:
    from splatmend.datasets.street.street import Street


@dataclass(frozen=True, kw_only=True)
class TrueFrame:
    """`rgb [H, W, 3]` uint8; `valid [H, W]` bool where the recording can be trusted (None: everywhere)."""

    rgb: np.ndarray
    valid: np.ndarray | None = None

    def flow_from(self, previous: TrueFrame) -> Flow:
        """Flow from this frame to the one before it."""
        return estimated_flow(previous.rgb, self.rgb)


@dataclass(frozen=True, kw_only=True)
class StreetFrame(TrueFrame):
    """An oracle's picture with what it knows: `depth_m [H, W]` camera z, `ids [H, W]` which body."""

    street: Street
    shot: Shot
    depth_m: np.ndarray
    ids: np.ndarray

    def flow_from(self, previous: TrueFrame) -> Flow:
        if not isinstance(previous, StreetFrame):
            return super().flow_from(previous)
        return exact_flow(self.shot, previous.shot, self.depth_m, previous.depth_m, lambda points: self._moved(points, previous))

    def _moved(self, points: np.ndarray, previous: StreetFrame) -> np.ndarray:
        """World points of this frame where they were in the previous one: those on an actor move with it."""
        out = points.copy()
        for actor in self.street.actors:
            mask = self.ids == self.street.actor_label(actor.actor_id)
            if mask.any():
                before_from_now = actor.world_from_actor(previous.shot.mid_us) @ inverse(actor.world_from_actor(self.shot.mid_us))
                out[mask] = transform(before_from_now, points[mask])
        return out


class Truth(Protocol):
    """True frames in the order of a clip's frames; None where the truth does not know one."""

    def frames(self, cameras: Sequence[ClipFrame]) -> Iterator[TrueFrame | None]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class ClipTruth:
    """Another clip, frame by frame."""

    clip: Clip

    def frames(self, cameras: Sequence[ClipFrame]) -> Iterator[TrueFrame | None]:
        if len(cameras) != len(self.clip):
            raise UserError(
                f"{self.clip.path}: the truth has {len(self.clip)} frames and the clip {len(cameras)}; give clips of the same shots."
            )
        for rgb in self.clip.iter_rgb():
            yield TrueFrame(rgb=rgb)

    def describe(self) -> dict[str, Any]:
        return {"kind": "clip", "path": str(self.clip.path)}


@dataclass(frozen=True, kw_only=True)
class LogTruth:
    """The recorded frames, undistorted and resized to the clip's cameras as the fit saw them; matched by camera and start time."""

    log: SceneLog

    def frames(self, cameras: Sequence[ClipFrame]) -> Iterator[TrueFrame | None]:
        recorded: Mapping[tuple[str, int], CameraFrame] | None = None
        for clip_frame in cameras:
            shot = clip_frame.shot
            if shot is None:
                raise UserError(f"{self.log.path}: a clip without cameras cannot be matched with a log; give a clip that splatmend wrote.")
            if recorded is None:
                prepared = _fitted_to(self.log, cameras)
                recorded = {(frame.camera, frame.start_us): frame for frame in prepared.frames}
            frame = recorded.get((shot.camera.name, shot.start_us))
            if frame is None or not _same_pose(frame.world_from_camera_start, shot.world_from_camera_start):
                yield None
                continue
            valid = frame.masks["valid"]() if "valid" in frame.masks else None
            yield TrueFrame(rgb=frame.read_image(), valid=valid)

    def describe(self) -> dict[str, Any]:
        return {"kind": "log", "path": str(self.log.path)}


@dataclass(frozen=True, kw_only=True)
class StreetTruth:
    """A procedural street, seen from any shot."""

    street: Street
    path: Path

    def frames(self, cameras: Sequence[ClipFrame]) -> Iterator[TrueFrame | None]:
        for frame in cameras:
            if frame.shot is None:
                raise UserError(f"{self.path}: a clip without cameras cannot be matched with a street; give a clip that splatmend wrote.")
            seen = self.street.render(frame.shot, supersample=self.street.config.supersample)
            yield StreetFrame(rgb=to_uint8(seen.rgb), street=self.street, shot=frame.shot, depth_m=seen.depth_m, ids=seen.ids)

    def describe(self) -> dict[str, Any]:
        return {"kind": "street", "path": str(self.path)}


def open_truth(path: Path) -> Truth:
    """A truth from its path: a folder written by `splatmend street`, a clip (also a video or a folder of images), else a log.

    Raises `UserError` where it is none of them.
    """
    from splatmend.datasets.readers.registry import open_log
    from splatmend.datasets.street import is_street, load_street

    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; check the path.")
    if is_street(path):
        return StreetTruth(street=load_street(path), path=path)
    if (path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES) or (path / "manifest.json").is_file():
        return ClipTruth(clip=open_clip(path))
    return LogTruth(log=open_log(path))


def _fitted_to(log: SceneLog, cameras: Sequence[ClipFrame]) -> SceneLog:
    """The log without distortion, with the pictures of each camera at the size of the clip's."""
    wanted: dict[str, Camera] = {frame.shot.camera.name: frame.shot.camera for frame in cameras if frame.shot is not None}
    ideal = undistorted(log)
    frames: list[CameraFrame] = []
    kept: dict[str, Camera] = {}
    for name, camera in wanted.items():
        if name not in ideal.cameras:
            raise UserError(f"{log.path}: the log has no camera {name}, which the clip shows; its cameras are {', '.join(ideal.cameras)}.")
        one = replace(ideal, cameras={name: ideal.cameras[name]}, frames=ideal.frames_of(name))
        if one.cameras[name].width != camera.width:
            one = resized(one, width=camera.width)
        found = one.cameras[name]
        own, asked = ((*c.focal_px, *c.principal_px, c.width, c.height) for c in (found, camera))
        if not np.allclose(own, asked, rtol=1e-3, atol=0.05):
            raise UserError(
                f"{log.path}: camera {name} has another calibration or shape in the clip; give the log that the scene was fitted to."
            )
        kept[name] = found
        frames.extend(one.frames)
    frames.sort(key=lambda frame: (frame.start_us, frame.camera))
    return replace(ideal, cameras=kept, frames=tuple(frames))


def _same_pose(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.allclose(a, b, atol=1e-3))
