"""A sweep's points told apart by the bodies that they lie on, so that they can be put where these bodies are at another time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.log import ActorTrack, LidarPoints
from splatmend.datasets.point_projection import times_read_us
from splatmend.datasets.shot import Shot

BOX_MARGIN_M = 0.15
"""Boxes are grown by this much at their sides and top before points are told apart: labels and poses are off by centimetres."""
ROAD_MARGIN_M = 0.05
"""At the bottom they lose this much instead: that is the road."""


@dataclass(frozen=True, kw_only=True)
class OnBody:
    """Points `rows [n]` of a sweep that lie in an actor's box when they are measured, `xyz [n, 3]` in its frame."""

    actor: ActorTrack
    rows: np.ndarray
    xyz: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TimedPoints:
    """Points `xyz_world_m [N, 3]` where and when each was measured. `bodies` share no point."""

    xyz_world_m: np.ndarray
    bodies: tuple[OnBody, ...]

    @classmethod
    def of(cls, points: LidarPoints, actors: Sequence[ActorTrack]) -> TimedPoints:
        """The points of a sweep; where boxes overlap, of the actor that is named first."""
        if not len(points.xyz_world_m):
            return cls(xyz_world_m=points.xyz_world_m, bodies=())
        free = np.ones(len(points.xyz_world_m), dtype=bool)
        median_us = int(np.median(points.time_us))
        bodies = []
        for actor in actors:
            if not actor.is_labelled(median_us):
                continue
            rows, xyz = _in_box(actor, points, median_us)
            own = free[rows]
            if own.any():
                bodies.append(OnBody(actor=actor, rows=rows[own], xyz=xyz[own]))
                free[rows] = False
        return cls(xyz_world_m=points.xyz_world_m, bodies=tuple(bodies))

    @property
    def standing(self) -> np.ndarray:
        """Which points `[N]` lie on no body."""
        free = np.ones(len(self.xyz_world_m), dtype=bool)
        for body in self.bodies:
            free[body.rows] = False
        return free

    def at(self, t_us: int) -> np.ndarray:
        """Where the points are in the world at a time `[N, 3]`: those of actors have gone with them."""
        xyz = self.xyz_world_m.copy() if self.bodies else self.xyz_world_m
        for body in self.bodies:
            xyz[body.rows] = transform(body.actor.world_from_actor(t_us), body.xyz)
        return xyz

    def as_read(self, shot: Shot) -> np.ndarray:
        """Where the points are in the world `[N, 3]` when a shot's readout comes to them: those of a body that moves meanwhile have gone
        with it until that row (or column) is read in which each of them is seen from the middle of the exposure. The row that sees it then
        is a few off at most, so a second step would move it by millimetres."""
        xyz = self.at(shot.mid_us)
        if shot.camera.shutter == "global":
            return xyz
        camera_from_world = inverse(shot.world_from_camera)
        for body in self.bodies:
            if np.array_equal(*body.actor.track.at(np.array([shot.start_us, shot.end_us]))):
                continue
            pixels, inside = project(shot.camera, transform(camera_from_world, xyz[body.rows]))
            if inside.any():
                xyz[body.rows] = transform(body.actor.track.at(times_read_us(shot.camera, shot, pixels)), body.xyz)
        return xyz


def _in_box(actor: ActorTrack, points: LidarPoints, median_us: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the points that lie in the actor's box at their own times, and these points in the actor's frame. `median_us` is the median
    of their times."""
    reach = np.linalg.norm(actor.size_m) / 2 + 3.0  # what a fast car moves during a turn
    near = np.nonzero(np.linalg.norm(points.xyz_world_m - actor.world_from_actor(median_us)[:3, 3], axis=1) < reach)[0]
    if not near.size:
        return np.zeros(0, dtype=np.int64), np.zeros((0, 3))
    in_actor = transform(inverse(actor.track.at(points.time_us[near])), points.xyz_world_m[near])
    half = np.asarray(actor.size_m) / 2
    held = (np.abs(in_actor) <= half + BOX_MARGIN_M).all(axis=1) & (in_actor[:, 2] >= ROAD_MARGIN_M - half[2])
    return near[held], in_actor[held]
