"""Where the camera goes: the recorded path, the path beside it, slower or faster, or a curve through given poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from splatmend.datasets.actor_edits import ActorEdits
from splatmend.datasets.artifact import plain
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import FARTHEST_M, PoseTrack, pose
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.recon.render import ActorPoses, listed
from splatmend.recon.scene import RecordedShot, Scene
from splatmend.recon.spline import spline_shots

_FAR = 30.0
"""Farther than so many metres (where a scene has no scale: units of length) from where anything was recorded there is little to see."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """A path for one of the scene's cameras. Lengths are metres; in scenes without a scale they count in median camera steps unless
    `unit` says how many scene units one is."""

    camera: str | None = None
    """Recorded camera to use; by default the one that looks ahead the most."""
    left: float = 0.0
    """Shift to the left of the recorded vehicle (negative: to the right), across its heading."""
    up: float = 0.0
    """Shift upwards."""
    yaw_deg: float = 0.0
    """Turn to the left about the vertical."""
    ease_s: float = 1.0
    """Seconds of the clip over which shift and turn grow from nothing; 0 has them from the first frame on."""
    speed: float = 1.0
    """Speed along the recorded path over the recorded one, 0.01 to 100; the world's clock runs with it, so actors move slower or faster
    too."""
    frames: int | None = None
    """Number of frames: of a recorded path at most so many, of a curve through poses exactly so many."""
    poses: Path | None = None
    """JSON file of camera poses to go through instead of the recorded path (see `splatmend.recon.spline`)."""
    shutter: Literal["recorded", "global"] = "recorded"
    """"recorded" reads rows as the log's camera does (scenes of the `ray` model show it), "global" all at the middle of the exposure."""
    max_width: int | None = None
    """Pictures no wider than this; None keeps the size of the fit."""
    unit: float | None = None
    """Scene units per unit of length above; None means 1 in metric scenes and the median camera step in others."""
    remove_actors: tuple[str, ...] = ()
    """Actors that are not drawn."""
    shift_actors: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    """Actors that are moved: forward, left and up in their own frames."""

    def __post_init__(self) -> None:
        shifts = [value for shift in self.shift_actors.values() for value in shift]
        faults = {
            f"speed must lie between 0.01 and 100, not {self.speed}": not 0.01 <= self.speed <= 100,
            f"ease_s must be finite and not negative, not {self.ease_s}": not 0 <= self.ease_s < np.inf,
            f"frames must be at least 1, not {self.frames}": self.frames is not None and self.frames < 1,
            f"max_width must be at least 8, not {self.max_width}": self.max_width is not None and self.max_width < 8,
            f"unit must be positive and finite, not {self.unit}": self.unit is not None and not 0 < self.unit < np.inf,
            "left, up and yaw_deg must be finite": not np.isfinite([self.left, self.up, self.yaw_deg]).all(),
            f"left, up and the shifts of actors must stay within {FARTHEST_M / 10:g}": (
                np.abs([self.left, self.up, *shifts]).max() > FARTHEST_M / 10
            ),
            "the shifts of actors must be finite": not np.isfinite(shifts).all(),
            "an actor is both removed and shifted; choose one": bool(set(self.remove_actors) & set(self.shift_actors)),
            "speed does not apply to a curve through poses; set the times of the poses or frames instead": (
                self.poses is not None and self.speed != 1.0
            ),
        }
        for sentence, wrong in faults.items():
            if wrong:
                raise UserError(f"trajectory: {sentence}.")

    @property
    def is_recorded(self) -> bool:
        """Whether every shot is a recorded one."""
        straight = self.poses is None and not (self.left or self.up or self.yaw_deg) and self.speed == 1.0
        return straight and self.shutter == "recorded"

    @property
    def edits_actors(self) -> bool:
        """Whether an actor is removed or moved."""
        return bool(self.remove_actors or self.shift_actors)


@dataclass(frozen=True, kw_only=True)
class Trajectory(Sequence[Shot]):
    """The shots in order. `extra` has a mapping per shot for its line in a clip: `camera`, `source_index` (recorded frame of the same
    time, or None), `recorded` (the shot is that frame's, so there is a true picture), `held_out` (which the fit has not seen),
    `logged_from_camera` (where the fit corrected the pose: how, as in `RecordedShot`) and, where actors are edited, `actors`
    (`ActorEdits` as JSON). `rate_hz` is the clip's frame rate; `without` and `actor_poses` go to the renderer, `facts` to the clip's
    manifest; `notes` are sentences that a person should know."""

    shots: tuple[Shot, ...]
    extra: tuple[Mapping[str, Any], ...]
    rate_hz: float
    without: tuple[str, ...] = ()
    actor_poses: ActorPoses | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.shots)

    @overload
    def __getitem__(self, index: int) -> Shot: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shot]: ...
    def __getitem__(self, index: int | slice) -> Shot | Sequence[Shot]:
        return self.shots[index]


def build_trajectory(scene: Scene, config: TrajectoryConfig) -> Trajectory:
    """The shots of a path through a scene.

    Raises:
        UserError: for a camera or actor that the scene does not have, or a broken file of poses.
    """
    _check_actors(scene, config)
    unit = length_unit(scene, config)
    recorded = _recorded(scene, config)
    notes: tuple[str, ...] = ()
    if config.poses is not None:
        shots: list[Shot] = spline_shots(scene, recorded, config.poses, config.frames, camera_is_chosen=config.camera is not None)
        rate_hz = _rate_hz(recorded) if len(recorded) > 1 else 10.0
        extra = [{"camera": shot.camera.name, "source_index": None, "recorded": False, "held_out": False} for shot in shots]
        notes = _outside_the_log(scene, shots, 1e6 / rate_hz)
    else:
        if not recorded:
            raise UserError("trajectory: the scene has no recorded path; give a file of poses.")
        rate_hz = _rate_hz(recorded)
        shots, extra = _along_recorded(recorded, config, rate_hz)
    shots = [_beside(shot, scene, config, unit, number / rate_hz) for number, shot in enumerate(shots)]
    notes += _far_away(scene, shots, unit)
    if config.shutter == "global":
        shots = [Shot.still(replace(shot.camera, shutter="global", readout_us=0), shot.world_from_camera, shot.mid_us) for shot in shots]
    if config.max_width is not None:
        shots = [_narrowed(shot, config.max_width) for shot in shots]
    edits = _actor_edits(config, unit)
    return Trajectory(
        shots=tuple(shots),
        extra=tuple(row | {"actors": plain(edits)} if edits else row for row in extra),
        rate_hz=rate_hz,
        without=edits.removed,
        actor_poses=_shifted_actors(scene, edits) if edits.shifted else None,
        facts={"trajectory": config, "scene_units_per_unit_of_length": unit, "unit_of_length": _unit_name(scene, config)},
        notes=notes,
    )


def length_unit(scene: Scene, config: TrajectoryConfig) -> float:
    """Scene units per unit of length in the configuration."""
    if config.unit is not None:
        return config.unit
    return 1.0 if scene.metric else scene.median_camera_step


def _unit_name(scene: Scene, config: TrajectoryConfig) -> str:
    if config.unit is not None:
        return "given"
    return "metre" if scene.metric else "median camera step"


def _recorded(scene: Scene, config: TrajectoryConfig) -> tuple[RecordedShot, ...]:
    if config.camera is not None and config.camera not in scene.cameras:
        known = ", ".join(scene.cameras) or "none"
        raise UserError(f"trajectory: the scene has no camera {config.camera}; it has {known}.")
    if not scene.cameras:
        return ()
    return scene.shots_of(config.camera or scene.front_camera)


def _outside_the_log(scene: Scene, shots: Sequence[Shot], tolerance_us: float) -> tuple[str, ...]:
    """A note about shots that lie before or after what was recorded, by more than a tolerance."""
    recorded_us = [recorded.shot.mid_us for recorded in scene.shots] or [scene.ego.start_us, scene.ego.end_us]
    start_us, end_us = min(recorded_us), max(recorded_us)
    apart_us = [max(start_us - shot.mid_us, shot.mid_us - end_us) for shot in shots]
    count = sum(apart > tolerance_us for apart in apart_us)
    if not count:
        return ()
    return (
        f"{count} of {len(shots)} frames lie up to {max(apart_us) * 1e-6:.3g} s outside the log, which lasts from {start_us} to {end_us} "
        "us; they show no actors, and the exposure of the nearest recorded picture.",
    )


def _far_away(scene: Scene, shots: Sequence[Shot], unit: float) -> tuple[str, ...]:
    """A note about shots from places that are far from every recorded one."""
    recorded = [one.shot.world_from_camera[:3, 3] for one in scene.shots]
    places = np.stack(recorded) if recorded else scene.ego.world_from_body[:, :3, 3]
    eyes = np.stack([shot.world_from_camera[:3, 3] for shot in shots])
    away = cKDTree(places).query(eyes)[0] / unit
    count = int((away > _FAR).sum())
    if not count:
        return ()
    of = "m" if scene.metric else "units of length"
    return (
        f"frames lie up to {away.max():,.0f} {of} from where the log was recorded ({count} of {len(shots)} far); little was seen there.",
    )


def _check_actors(scene: Scene, config: TrajectoryConfig) -> None:
    for actor_id in (*config.remove_actors, *config.shift_actors):
        if actor_id not in scene.actors:
            raise UserError(f"trajectory: the scene has no actor {actor_id}; its actors are {listed(scene.actors)}.")


def _rate_hz(recorded: Sequence[RecordedShot]) -> float:
    times_us = np.array([r.shot.mid_us for r in recorded])
    step_us = float(np.median(np.diff(times_us))) if len(times_us) > 1 else 0.0
    return 1e6 / step_us if step_us > 0 else 10.0


def _along_recorded(recorded: Sequence[RecordedShot], config: TrajectoryConfig, rate_hz: float) -> tuple[list[Shot], list[dict[str, Any]]]:
    camera = recorded[0].shot.camera
    if config.speed == 1.0:
        chosen = recorded[: config.frames]
        is_true = config.is_recorded and not config.edits_actors
        extra = [
            {
                "camera": camera.name,
                "source_index": r.frame_index,
                "recorded": is_true,
                "held_out": is_true and r.held_out,
                **r.correction_entry,
            }
            for r in chosen
        ]
        return [r.shot for r in chosen], extra
    times_us = np.array([r.shot.mid_us for r in recorded], dtype=np.int64)
    path = PoseTrack(times_us=times_us, world_from_body=np.stack([r.shot.world_from_camera for r in recorded]))
    count = int((times_us[-1] - times_us[0]) * 1e-6 * rate_hz / config.speed + 1e-6) + 1
    count = count if config.frames is None else min(count, config.frames)
    readout_us = recorded[0].shot.end_us - recorded[0].shot.start_us
    shots = []
    for number in range(count):
        middle_us = int(times_us[0] + round(number * config.speed / rate_hz * 1e6))
        start_us = middle_us - readout_us // 2
        start, end = path.at(np.array([start_us, start_us + readout_us]))
        shots.append(
            Shot(camera=camera, world_from_camera_start=start, world_from_camera_end=end, start_us=start_us, end_us=start_us + readout_us)
        )
    return shots, [{"camera": camera.name, "source_index": None, "recorded": False, "held_out": False} for _ in shots]


def _beside(shot: Shot, scene: Scene, config: TrajectoryConfig, unit: float, clip_s: float) -> Shot:
    """The shot with the configuration's shift and turn, as far as they have grown."""
    if not (config.left or config.up or config.yaw_deg):
        return shot
    share = 1.0 if config.ease_s == 0 else float(np.clip(clip_s / config.ease_s, 0.0, 1.0))
    share = share * share * (3.0 - 2.0 * share)
    up = np.asarray(scene.up_world, dtype=np.float64)
    up /= np.linalg.norm(up)
    left = scene.ego.at(shot.mid_us)[:3, 1]
    left = left - up * (left @ up)
    left /= np.linalg.norm(left)
    offset = share * unit * (config.left * left + config.up * up)
    turn = Rotation.from_rotvec(np.radians(share * config.yaw_deg) * up).as_matrix()

    def moved(world_from_camera: np.ndarray) -> np.ndarray:
        return pose(turn @ world_from_camera[:3, :3], world_from_camera[:3, 3] + offset)

    return replace(
        shot,
        world_from_camera_start=moved(shot.world_from_camera_start),
        world_from_camera_end=moved(shot.world_from_camera_end),
    )


def _narrowed(shot: Shot, max_width: int) -> Shot:
    camera: Camera = shot.camera
    if camera.width <= max_width:
        return shot
    height = max(round(camera.height * max_width / camera.width), 8)
    return replace(shot, camera=camera.resized(max_width, height))


def _actor_edits(config: TrajectoryConfig, unit: float) -> ActorEdits:
    shifted = {actor_id: (unit * ahead, unit * left, unit * up) for actor_id, (ahead, left, up) in config.shift_actors.items()}
    return ActorEdits(removed=tuple(sorted(config.remove_actors)), shifted=shifted)


def _shifted_actors(scene: Scene, edits: ActorEdits) -> ActorPoses:
    shifts = {actor_id: pose(np.eye(3), np.asarray(shift)) for actor_id, shift in edits.shifted.items()}

    def world_from_actor(actor_id: str, t_us: int) -> np.ndarray | None:
        recorded = scene.actors[actor_id].world_from_node(t_us)
        if recorded is None or actor_id not in shifts:
            return recorded
        return recorded @ shifts[actor_id]

    return world_from_actor
