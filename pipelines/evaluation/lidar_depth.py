"""Rendered depth against LiDAR."""

from __future__ import annotations

import numpy as np

from splatmend.datasets.log import SceneLog
from splatmend.datasets.shot import Shot
from splatmend.pipelines.evaluation.readout import project_by_line
from splatmend.recon.fit.lidar_targets import nearest_sweeps, unoccluded
from splatmend.recon.fit.timed_points import TimedPoints


def depth_errors_m(log: SceneLog, shot: Shot, depth_m: np.ndarray) -> np.ndarray:
    """Rendered less measured camera z `[P]` in metres, at the pixels where points of the sweeps nearest in time fall (each in the line
    that was read when it was there; give a still shot for renders that stand still). Points in the log's boxes have gone with them.

    Also for shots that nobody took: points that such a camera cannot see, for nearer ones stand before them, are left out. Empty where no
    sweep is near in time, or lengths are no metres.
    """
    sweeps = [log.sweeps[index] for index in nearest_sweeps(log.sweeps, shot.mid_us)] if log.metric else []
    if not sweeps:
        return np.zeros(0)
    points = np.concatenate([TimedPoints.of(sweep.read_points(), log.actors).as_read(shot) for sweep in sweeps])
    pixels, z, inside = project_by_line(shot, points)
    columns, rows = np.floor(pixels[inside]).astype(np.int64).T
    flat, measured_m = unoccluded(columns, rows, z[inside], shot.camera.width, shot.camera.height)
    return depth_m.reshape(-1)[flat].astype(np.float64) - measured_m
