"""Who moves and who stands: the vehicle's own drive, the cars around it and people, as tracks that labels and pictures share exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.log import ActorTrack
from splatmend.datasets.street.cars import car_mesh
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.layout import KERB_M, Layout
from splatmend.datasets.street.mesh import Mesh
from splatmend.datasets.street.people import Figure, person

EPOCH_US = 1_550_000_000_000_000


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """The vehicle's path, and cars and people with their meshes (around the middle of their boxes), in the same order."""

    ego: PoseTrack
    actors: tuple[ActorTrack, ...]
    meshes: tuple[Mesh | Figure, ...]


def knots_us(config: StreetConfig) -> np.ndarray:
    """Times at which poses are given: every frame, and one period before the first and two after the last."""
    return EPOCH_US + config.period_us * np.arange(-1, config.frame_count + 2, dtype=np.int64)


def draw_traffic(config: StreetConfig, layout: Layout) -> Traffic:
    """Cars, people and their ways, drawn from the seed. Poses between knots follow `PoseTrack`, for pictures, LiDAR and labels alike."""
    times_us = knots_us(config)
    seconds = (times_us - EPOCH_US) * 1e-6
    ego = _ego_path(config, layout, times_us, seconds)
    generator = np.random.default_rng([config.seed, 3])
    placed: list[tuple[Mesh, np.ndarray]] = []
    drive_m = config.speed_m_s * config.duration_s
    oncoming_speed, own_speed = generator.uniform(6.0, 10.0), config.speed_m_s * generator.uniform(0.94, 1.06)
    ahead, meeting = generator.uniform(13, 20), generator.uniform(9, 24)
    for number in range(config.moving_cars):
        mesh = car_mesh(generator)
        wobble = 0.08 * np.sin(seconds * generator.uniform(0.3, 0.8) + generator.uniform(0, 6.3))
        if number % 3 == 1 and ahead < drive_m + 100:
            s = np.clip(ahead + own_speed * seconds, None, layout.end_m - 8)
            left, turn = -0.5 * layout.lane_m + wobble, 0.0
            ahead += generator.uniform(11, 22)
        else:
            # They are met one after the other, and wait at the street's ends before and after.
            meet_s = meeting * (oncoming_speed + config.speed_m_s) / max(oncoming_speed, 1e-6)
            s = np.clip(meet_s - oncoming_speed * seconds, layout.start_m + 6.5 * number, layout.end_m - 6.5 * number)
            left, turn = 0.5 * layout.lane_m + wobble, np.pi
            meeting += generator.uniform(9, 24)
        placed.append((mesh, _poses(layout, mesh, s, left, np.full(len(s), turn))))
    placed += _parked(config, layout, generator, len(times_us), drive_m)
    actors = []
    for number, (mesh, poses) in enumerate(placed):
        low, high = mesh.bounds
        size = high - low
        actors.append(
            ActorTrack(
                actor_id=f"car-{number:02d}",
                actor_class="vehicle",
                size_m=(float(size[0]), float(size[1]), float(size[2])),
                track=PoseTrack(times_us=times_us, world_from_body=poses),
            )
        )
    people = _people(config, layout, times_us, drive_m)
    return Traffic(
        ego=ego,
        actors=(*actors, *(actor for actor, _ in people)),
        meshes=(*(mesh for mesh, _ in placed), *(figure for _, figure in people)),
    )


def _people(config: StreetConfig, layout: Layout, times_us: np.ndarray, drive_m: float) -> list[tuple[ActorTrack, Figure]]:
    """Two of three walk on the pavements, the third crosses the road beyond the end of the drive."""
    generator = np.random.default_rng([config.seed, 5])
    seconds = (times_us - EPOCH_US) * 1e-6
    out = []
    for number in range(config.pedestrians):
        walked = generator.uniform(1.1, 1.6) * (seconds - seconds[0])
        side, onward = (-1, 1)[number % 2], float(generator.choice([-1.0, 1.0]))
        first_s, share = generator.uniform(5, drive_m + 12), generator.random()
        if number % 3 == 2:
            beyond = layout.half_width(-side) + 1.0
            # Who has arrived on the other side stands still.
            walked = np.minimum(walked, layout.half_width(side) + beyond)
            s, left = np.full(len(seconds), drive_m + 6 + 6 * share + 1.5 * number), side * (layout.half_width(side) - 0.5 - walked)
            turn = -side * 0.5 * np.pi
        else:
            s = np.clip(first_s + onward * (walked - 0.5 * walked[-1]), layout.start_m + 5, layout.end_m - 5)
            left = np.full(len(seconds), side * (layout.half_width(side) + 0.5 + share * (layout.pavement_m[side] - 1.0)))
            turn = 0.0 if onward > 0 else np.pi
        figure, size = person(generator, times_us, walked)
        # Up the kerb within a step.
        up = np.array([KERB_M * np.clip((abs(x) - layout.half_width(1 if x > 0 else -1)) / 0.3 + 0.5, 0, 1) for x in left])
        poses = np.stack([layout.line.frame(float(a), float(b), 0.5 * size[2] + float(c), turn_rad=turn) for a, b, c in zip(s, left, up)])
        track = PoseTrack(times_us=times_us, world_from_body=poses)
        out.append((ActorTrack(actor_id=f"person-{number:02d}", actor_class="pedestrian", size_m=size, track=track), figure))
    return out


def _ego_path(config: StreetConfig, layout: Layout, times_us: np.ndarray, seconds: np.ndarray) -> PoseTrack:
    generator = np.random.default_rng([config.seed, 4])
    swing, pace = generator.uniform(0.0, 0.06), generator.uniform(0.4, 0.9)
    phase = generator.uniform(0, 6.3)
    s = config.speed_m_s * (seconds + swing / pace * (np.sin(pace * seconds + phase) - np.sin(phase)))
    sway = generator.uniform(0.05, 0.18)
    left = -0.5 * layout.lane_m + sway * np.sin(s / generator.uniform(14, 22) + generator.uniform(0, 6.3))
    poses = np.stack([layout.line.frame(float(a), float(b)) for a, b in zip(s, left)])
    return PoseTrack(times_us=times_us, world_from_body=poses)


def _poses(layout: Layout, mesh: Mesh, s: np.ndarray, left: np.ndarray, turn: np.ndarray) -> np.ndarray:
    up = 0.5 * float(mesh.bounds[1][2] - mesh.bounds[0][2])
    return np.stack([layout.line.frame(float(a), float(b), up, turn_rad=float(c)) for a, b, c in zip(s, left, turn)])


def _parked(
    config: StreetConfig, layout: Layout, generator: np.random.Generator, count: int, drive_m: float
) -> list[tuple[Mesh, np.ndarray]]:
    slots = [(s, side) for side in (1, -1) if layout.parking_m[side] > 0 for s in np.arange(-14.0, drive_m + 60, 6.6)]
    weights = np.array([1.0 / (1 + max(s - drive_m - 10, 0) / 20) for s, _ in slots])
    chosen = generator.choice(len(slots), size=min(config.parked_cars, len(slots)), replace=False, p=weights / weights.sum())
    out = []
    for index in sorted(chosen.tolist()):
        s, side = slots[index]
        mesh = car_mesh(generator)
        left = side * (layout.half_width(side) - 0.25 - 0.5 * float(mesh.bounds[1][1] - mesh.bounds[0][1]) + generator.uniform(-0.12, 0.08))
        turn = (0.0 if side == -1 or generator.random() < 0.2 else np.pi) + generator.uniform(-0.03, 0.03)
        place = s + generator.uniform(-0.5, 0.5)
        out.append((mesh, np.repeat(_poses(layout, mesh, np.array([place]), np.array([left]), np.array([turn])), count, axis=0)))
    return out
