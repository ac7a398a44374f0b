"""Which bodies run through each other where edits put them: said, not refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from splatmend.recon.edits.boxes import boxes_meet
from splatmend.recon.scene import Scene
from splatmend.recon.sky import rotation_to_z

STEP_US = 100_000
EGO = "the recorded vehicle"
EGO_SIZE = (5.0, 1.9, 1.5)
EGO_AHEAD = 0.8
"""Metres from the recorded body's origin (between the rear axle and the roof's middle, by the log) to the middle of its assumed box."""


def collision_notes(scene: Scene, lines: Mapping[str, int], file: str) -> tuple[str, ...]:
    """A sentence per pair of bodies of which at least one was edited (`lines`: the line of its edit) and which meet during the log, the
    recorded vehicle included in scenes in metres."""
    notes = []
    others = [name for name in scene.actors if name not in lines]
    edited = list(lines)
    for number, name in enumerate(edited):
        times_us = _times_of(scene, name)
        own = scene.actors[name].track
        poses = own.track.at(times_us)
        for other in [*edited[number + 1 :], *others]:
            its = scene.actors[other].track
            there = (times_us >= its.track.start_us) & (times_us <= its.track.end_us)
            if there.any():
                met = np.zeros(len(times_us), dtype=bool)
                met[there] = boxes_meet(poses[there], np.asarray(own.size_m), its.track.at(times_us[there]), np.asarray(its.size_m))
                notes += _said(met, times_us, scene, f"{file}: line {lines[name]}: {name} runs into {other}")
        if scene.metric and len(scene.shots):
            during = (times_us >= scene.ego.start_us) & (times_us <= scene.ego.end_us)
            met = during & boxes_meet(poses, np.asarray(own.size_m), _ego_boxes(scene, times_us, poses), np.asarray(EGO_SIZE))
            notes += _said(met, times_us, scene, f"{file}: line {lines[name]}: {name} runs into {EGO}")
    return tuple(notes)


def _times_of(scene: Scene, name: str) -> np.ndarray:
    track = scene.actors[name].track.track
    return np.unique(np.append(np.arange(track.start_us, track.end_us, STEP_US), track.end_us))


def _ego_boxes(scene: Scene, times_us: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Poses of the vehicle's assumed box. How high its body's origin is above the road differs between logs, so the box takes the height
    of what it is compared with."""
    boxes = scene.ego.at(times_us)
    boxes[:, :3, 3] += EGO_AHEAD * boxes[:, :3, 0]
    up = rotation_to_z(np.asarray(scene.up_world, dtype=np.float64))[2]
    boxes[:, :3, 3] += ((poses[:, :3, 3] - boxes[:, :3, 3]) @ up)[:, None] * up
    return boxes


def _said(met: np.ndarray, times_us: np.ndarray, scene: Scene, what: str) -> list[str]:
    if not met.any():
        return []
    start_us = min([r.shot.mid_us for r in scene.shots] or [scene.ego.start_us])
    first, last = (times_us[met][[0, -1]] - start_us) * 1e-6
    when = f"at {first:.2f} s" if last == first else f"from {first:.2f} to {last:.2f} s"
    return [f"{what} {when}."]
