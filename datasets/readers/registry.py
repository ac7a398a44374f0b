"""Which reader opens a folder. A new data set is one file with `recognises` and `read`, and one line in `SOURCES`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from splatmend.datasets.errors import UserError
from splatmend.datasets.gaps import with_gaps_noted
from splatmend.datasets.log import SceneLog


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set: the module that reads it (imported when it is first asked), and what its folder looks like."""

    name: str
    module: str
    layout: str

    def recognises(self, path: Path) -> bool:
        check: Callable[[Path], bool] = import_module(self.module).recognises
        return check(path)

    def read(self, path: Path) -> SceneLog:
        read: Callable[[Path], SceneLog] = import_module(self.module).read
        return read(path)


_READERS = "splatmend.datasets.readers"
SOURCES: tuple[Source, ...] = (
    Source(
        name="KITTI raw",
        module=f"{_READERS}.kitti_raw",
        layout="a drive folder with image_02/data, calibration files beside it, and oxts or poses_velodyne.txt",
    ),
    Source(
        name="KITTI odometry",
        module=f"{_READERS}.kitti_odometry",
        layout="sequences/NAME with calib.txt and image_2 or image_0, and poses/NAME.txt",
    ),
    Source(
        name="nerfstudio, DL3DV",
        module=f"{_READERS}.nerfstudio",
        layout="a folder with transforms.json and its pictures",
    ),
    Source(
        name="Waymo Open Dataset v1",
        module=f"{_READERS}.waymo_v1",
        layout="a segment .tfrecord, or a folder with one",
    ),
    Source(
        name="Waymo Open Dataset v2",
        module=f"{_READERS}.waymo_v2",
        layout="a folder with the components' folders (camera_image, vehicle_pose, ...) of Parquet files",
    ),
)


def source_of(path: Path) -> Source | None:
    """The data set whose layout a path has; None where no reader knows it."""
    return next((source for source in SOURCES if source.recognises(path)), None)


def on_disk(path: Path) -> tuple[Path, ...]:
    """What lies on disk for a path: the file or folder itself, or the files of a drive that `FOLDER#DRIVE` chooses; empty where there is
    nothing. `UserError` where the folder has no such drive."""
    if path.exists():
        return (path,)
    from splatmend.datasets.readers.waymo_v2_files import find_segment, is_segment_folder

    return tuple(sorted(find_segment(path).files.values())) if is_segment_folder(path) else ()


def open_log(path: Path | str) -> SceneLog:
    """Read and validate the log at a path. Pictures and points are read later, when they are asked for.

    Raises `UserError` when the path is missing, no reader knows its layout, or the log has a fault.
    """
    path = Path(path).expanduser()
    if (source := source_of(path)) is not None:
        return with_gaps_noted(source.read(path).validate())
    if not on_disk(path):
        raise UserError(f"{path}: there is no such file or folder; check the path of the log.")
    layouts = "; ".join(f"{source.name}: {source.layout}" for source in SOURCES)
    raise UserError(f"{path}: no known data set was found here; give the path of one of these: {layouts}.")
