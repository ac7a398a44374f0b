"""What LiDAR says of the depth of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.log import CameraFrame, LidarSweep, SceneLog
from splatmend.datasets.point_projection import project_frame
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.timed_points import TimedPoints
from splatmend.recon.raster.api import Model
from splatmend.recon.read_ahead import worked_in_order
from splatmend.recon.spool import Kept, Recent, Spool

MAX_SWEEP_GAP_US = 60_000
"""A sweep whose middle is farther in time from a picture than this gives it no depth."""


class LidarTargets:
    """Pixels (flat indices, int32) with the depths (camera z, metres, float32) that LiDAR gives them, by frame number of a prepared log.

    Sweeps of some logs can only be read in their order, and pictures are fitted in another: `prepare` goes through them once.
    """

    def __init__(self, log: SceneLog, model: Model) -> None:
        self.log = log
        self.model = model
        self._spool = Spool()
        self._kept: dict[int, Kept] = {}
        told_apart = lambda index: TimedPoints.of(log.sweeps[index].read_points(), log.actors)  # noqa: E731
        self._sweeps = Recent(told_apart, 2 * len({sweep.sensor for sweep in log.sweeps}))

    def prepare(self, numbers: Iterable[int]) -> None:
        """Keep the targets of these frames in a temporary file."""
        if self.log.sweeps:
            wanted = sorted(set(numbers) - set(self._kept), key=lambda number: self.log.frames[number].mid_us)
            for number, targets in zip(wanted, worked_in_order(wanted, self._near, self._targets), strict=True):
                self._kept[number] = self._spool.keep(*targets)

    def of(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels and depths of a frame. Safe to call from several threads for frames that are prepared, and where there are no sweeps."""
        return self._kept[number].load() if number in self._kept else self._targets(number, self._near(number))  # type: ignore[return-value]

    def _near(self, number: int) -> list[TimedPoints]:
        """The sweeps that are nearest to a frame."""
        return [self._sweeps(index) for index in nearest_sweeps(self.log.sweeps, self.log.frames[number].mid_us)]

    def _targets(self, number: int, sweeps: Sequence[TimedPoints]) -> tuple[np.ndarray, np.ndarray]:
        frame = self.log.frames[number]
        shot = Shot.of(frame, self.log.cameras[frame.camera])
        points = [sweep.as_read(shot) if self.model == "ray" else sweep.at(frame.mid_us) for sweep in sweeps]
        pixels, depth_m = lidar_targets(frame, self.log, np.concatenate([np.zeros((0, 3)), *points]), self.model)
        return pixels.astype(np.int32), depth_m.astype(np.float32)


def nearest_sweeps(sweeps: Sequence[LidarSweep], t_us: int) -> list[int]:
    """Which sweep of each sensor has its middle nearest in time, if it is near at all."""
    best: dict[str, tuple[int, int]] = {}
    for index, sweep in enumerate(sweeps):
        gap = abs(sweep.middle_us - t_us)
        if gap <= MAX_SWEEP_GAP_US and (sweep.sensor not in best or gap < best[sweep.sensor][0]):
            best[sweep.sensor] = (gap, index)
    return [index for _, index in best.values()]


def lidar_targets(frame: CameraFrame, log: SceneLog, xyz_world_m: np.ndarray, model: Model = "ewa") -> tuple[np.ndarray, np.ndarray]:
    """Pixels (flat indices, int64) with the depth (camera z, metres) that points `[N, 3]` give them, nearest first; as the pose at mid
    exposure sees the points for `ewa`, and as that of each point's own row does for `ray`."""
    camera = log.cameras[frame.camera]
    if not len(xyz_world_m):
        return np.zeros(0, np.int64), np.zeros(0)
    if model == "ray":
        pixels, depth_m, inside = project_frame(camera, frame, xyz_world_m)
    else:
        in_camera = transform(inverse(frame.world_from_camera), xyz_world_m)
        depth_m = in_camera[:, 2]
        pixels, inside = project(camera, in_camera)
    columns, rows = np.floor(pixels[inside]).astype(np.int64).T
    return unoccluded(columns, rows, depth_m[inside], camera.width, camera.height)


def unoccluded(
    columns: np.ndarray, rows: np.ndarray, depth_m: np.ndarray, width: int, height: int, cell_px: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest point of each pixel, less those well behind a point of a neighbouring cell: the scanner sits elsewhere than the camera
    and looks past edges that hide those points from it."""
    near = depth_m > 0.5
    columns, rows, depth_m = columns[near], rows[near], depth_m[near]
    across, down = -(-width // cell_px), -(-height // cell_px)
    nearest = np.full((down + 2, across + 2), np.inf)
    np.minimum.at(nearest, (rows // cell_px + 1, columns // cell_px + 1), depth_m)
    # Rows of a scanner are apart by more than a cell, so a cell looks at all eight around it.
    around = np.min([nearest[i : i + down, j : j + across] for i in range(3) for j in range(3)], axis=0)
    seen = depth_m <= around[rows // cell_px, columns // cell_px] * 1.15 + 0.3
    flat, depth_m = (rows * width + columns)[seen], depth_m[seen]
    order = np.lexsort((depth_m, flat))
    first = np.unique(flat[order], return_index=True)[1]
    return flat[order][first], depth_m[order][first]
