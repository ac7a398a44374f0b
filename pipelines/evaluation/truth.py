"""What clips are scored against: another clip, the recorded frames of a log, or a procedural street's own picture from the same shot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from splatmend.datasets.actor_edits import ActorEdits
from splatmend.datasets.clip import Clip, ClipFrame, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, inverse, pose, transform
from splatmend.datasets.images import images_in, to_uint8
from splatmend.datasets.log import CameraFrame, SceneLog
from splatmend.datasets.log_for_cameras import log_for_cameras
from splatmend.datasets.shot import Shot
from splatmend.datasets.street.bodies import FIRST_ACTOR_ID
from splatmend.datasets.video import VIDEO_SUFFIXES
from splatmend.pipelines.evaluation.flow import Flow, estimated_flow, exact_flow
from splatmend.pipelines.evaluation.same_shots import check_same_log, check_same_shots, same_pose

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
    """An oracle's picture with what it knows: `depth_m [H, W]` camera z, `ids [H, W]` which body, and the paths of those that move."""

    shot: Shot
    depth_m: np.ndarray
    ids: np.ndarray
    paths: Mapping[int, PoseTrack] = field(default_factory=dict)

    def flow_from(self, previous: TrueFrame) -> Flow:
        if not isinstance(previous, StreetFrame):
            return super().flow_from(previous)
        return exact_flow(self.shot, previous.shot, self.depth_m, previous.depth_m, lambda points: self._moved(points, previous))

    def _moved(self, points: np.ndarray, previous: StreetFrame) -> np.ndarray:
        """World points of this frame where they were in the previous one: those on an actor move with it."""
        out = points.copy()
        for label, path in self.paths.items():
            mask = self.ids == label
            if mask.any():
                before_from_now = path.at(previous.shot.mid_us) @ inverse(path.at(self.shot.mid_us))
                out[mask] = transform(before_from_now, points[mask])
        return out


class Truth(Protocol):
    """True frames in the order of a clip's frames; None where the truth does not know one. A truth that draws its frames leaves out
    those that are not `needed` (None: all are). `check_log` refuses a clip of another log.
    """

    def check_log(self, clip: Clip) -> None: ...

    def frames(self, cameras: Sequence[ClipFrame], needed: Sequence[bool] | None = None) -> Iterator[TrueFrame | None]: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class ClipTruth:
    """Another clip of the same shots, frame by frame."""

    clip: Clip

    def check_log(self, clip: Clip) -> None:
        """Nothing: clips are compared shot by shot, of whatever log they are."""

    def frames(self, cameras: Sequence[ClipFrame], needed: Sequence[bool] | None = None) -> Iterator[TrueFrame | None]:
        check_same_shots(cameras, "the clip to score", self.clip)
        for rgb in self.clip.iter_rgb():
            yield TrueFrame(rgb=rgb)

    def describe(self) -> dict[str, Any]:
        return {"kind": "clip", "path": str(self.clip.path)}


@dataclass(frozen=True, kw_only=True)
class LogTruth:
    """The recorded frames, resized (and undistorted) to the clip's cameras as the fit saw them; matched by camera and start time."""

    log: SceneLog

    def check_log(self, clip: Clip) -> None:
        check_same_log(clip.path, clip.log_id, self.log.path, self.log.log_id)

    def frames(self, cameras: Sequence[ClipFrame], needed: Sequence[bool] | None = None) -> Iterator[TrueFrame | None]:
        recorded: Mapping[tuple[str, int], CameraFrame] | None = None
        for clip_frame in cameras:
            shot = clip_frame.logged_shot
            if shot is None:
                raise UserError(f"{self.log.path}: a clip without cameras cannot be matched with a log; give a clip that splatmend wrote.")
            if clip_frame.edits:
                raise UserError(
                    f"{self.log.path}: the clip leaves out, moves or inserts actors, which the recorded pictures do not; give a clip "
                    "with all actors in their places, or a truth that was edited as the clip was."
                )
            if recorded is None:
                prepared = log_for_cameras(
                    self.log, {frame.shot.camera.name: frame.shot.camera for frame in cameras if frame.shot}, "the clip"
                )
                recorded = {(frame.camera, frame.start_us): frame for frame in prepared.frames}
            frame = recorded.get((shot.camera.name, shot.start_us))
            if frame is None or not same_pose(frame.world_from_camera_start, shot.world_from_camera_start):
                yield None
                continue
            valid = frame.masks["valid"]() if "valid" in frame.masks else None
            yield TrueFrame(rgb=frame.read_image(), valid=valid)

    def describe(self) -> dict[str, Any]:
        return {"kind": "log", "path": str(self.log.path)}


@dataclass(frozen=True, kw_only=True)
class StreetTruth:
    """A procedural street, seen from any shot, with actors left out or moved as the shot's frame says."""

    street: Street
    path: Path

    def check_log(self, clip: Clip) -> None:
        check_same_log(clip.path, clip.log_id, self.path, self.street.log_id)

    def frames(self, cameras: Sequence[ClipFrame], needed: Sequence[bool] | None = None) -> Iterator[TrueFrame | None]:
        for frame, wanted in zip(cameras, repeat(True) if needed is None else needed):
            shot = frame.logged_shot
            if shot is None:
                raise UserError(f"{self.path}: a clip without cameras cannot be matched with a street; give a clip that splatmend wrote.")
            if not wanted:
                yield None
                continue
            if frame.edits.inserted:
                raise UserError(
                    f"{self.path}: the clip shows {frame.edits.inserted[0]}, which the street does not have there; give a truth that was "
                    "edited as the clip was."
                )
            moved = self._moved(frame.edits)
            seen = self.street.render(
                shot,
                without=(*frame.edits.removed, *frame.edits.shifted),
                extra=[(self.street.actor_meshes[index], path) for index, path in moved.items()],
                supersample=self.street.config.supersample,
            )
            paths = dict(enumerate((*(actor.track for actor in self.street.actors), *moved.values()), FIRST_ACTOR_ID))
            yield StreetFrame(rgb=to_uint8(seen.rgb), shot=shot, depth_m=seen.depth_m, ids=seen.ids, paths=paths)

    def lane_lines(self, shot: Shot) -> np.ndarray:
        """Where a shot sees the lines along the street's lanes, `[H, W]` bool."""
        return self.street.lane_lines(shot)

    def _moved(self, edits: ActorEdits) -> dict[int, PoseTrack]:
        """Paths of the actors that are shifted, by their places in `Street.actors`; `UserError` for an actor that the street lacks."""
        places = {actor.actor_id: index for index, actor in enumerate(self.street.actors)}
        if strange := sorted({*edits.removed, *edits.shifted} - places.keys()):
            raise UserError(
                f"{self.path}: the street has no actor {strange[0]}, which the clip leaves out or moves; give the street that the scene "
                "was fitted to."
            )
        moved = {}
        for actor_id, shift in edits.shifted.items():
            if actor_id not in edits.removed:
                track = self.street.actors[places[actor_id]].track
                world_from_body = track.world_from_body @ pose(np.eye(3), np.asarray(shift))
                moved[places[actor_id]] = PoseTrack(times_us=track.times_us, world_from_body=world_from_body)
        return moved

    def describe(self) -> dict[str, Any]:
        return {"kind": "street", "path": str(self.path)}


def open_truth(path: Path) -> Truth:
    """A truth from its path: a folder written by `splatmend street`, a clip (also a video or a folder of images), else a log.

    Raises `UserError` where it is none of them.
    """
    from splatmend.datasets.readers.registry import on_disk, open_log, source_of
    from splatmend.datasets.street import is_street, load_street

    path = Path(path)
    if not on_disk(path):
        raise UserError(f"{path}: there is no such file or folder; check the path.")
    if is_street(path):
        return StreetTruth(street=load_street(path), path=path)
    if (path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES) or (path / "manifest.json").is_file():
        return ClipTruth(clip=open_clip(path))
    if path.is_dir() and source_of(path) is None and images_in(path):
        return ClipTruth(clip=open_clip(path))
    return LogTruth(log=open_log(path))
