"""Lay a collage out: two worlds, one to drive through and one to walk around in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from splatmend.datasets.collage.cards import Card, cut_texture, outline
from splatmend.datasets.collage.config import CollageConfig
from splatmend.datasets.collage.draw import draw_cards
from splatmend.datasets.geometry import BODY_FROM_OPENCV, inverse, pose

_UP = np.array([0.0, 0.0, 1.0])
_POINT_FRAMES = 6
_POINT_NOISE = 0.004


@dataclass(frozen=True, kw_only=True)
class Collage:
    """Cards, a pinhole and its way: `world_from_camera [T, 4, 4]` with OpenCV axes."""

    config: CollageConfig
    cards: tuple[Card, ...]
    intrinsics: np.ndarray
    world_from_camera: np.ndarray

    def pictures(self) -> Iterator[np.ndarray]:
        """What the camera sees, frame by frame, `[H, W, 3]` uint8 sRGB."""
        for frame in range(self.config.frames):
            yield self._draw(frame)[0]

    def sparse_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Points of what stands still `[N, 3]` float64 with noise in proportion to depth, and their colours `[N, 3]` uint8."""
        rng = np.random.default_rng([self.config.seed, 1])
        xyz, rgb = [], []
        still = np.array([not card.moves for card in self.cards])
        for frame in np.linspace(0, self.config.frames - 1, _POINT_FRAMES).round().astype(int):
            picture, depth, number = self._draw(frame)
            rows, columns = np.nonzero((number >= 0) & still[number])
            if rows.size == 0:
                continue
            taken = rng.permutation(rows.size)[: -(-self.config.points // _POINT_FRAMES)]
            rows, columns = rows[taken], columns[taken]
            z = depth[rows, columns] * (1 + _POINT_NOISE * rng.standard_normal(rows.size))
            rays = np.stack([columns + 0.5, rows + 0.5, np.ones(rows.size)], axis=1) @ np.linalg.inv(self.intrinsics).T
            world = self.world_from_camera[frame]
            xyz.append((rays * z[:, None]) @ world[:3, :3].T + world[:3, 3])
            rgb.append(picture[rows, columns])
        return np.concatenate(xyz), np.concatenate(rgb)

    def _draw(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        size = self.config.height, self.config.width
        return draw_cards(self.cards, inverse(self.world_from_camera[frame]), self.intrinsics, size, frame, self.config.supersample)


def build_collage(config: CollageConfig, photos: Sequence[np.ndarray]) -> Collage:
    """A collage of pictures `[h, w, 3]` uint8; there must be one at least."""
    rng = np.random.default_rng([config.seed, 0])
    drive = rng.random() < 0.6
    cards = [*(_street if drive else _room)(photos, rng)]
    standing = [_standing(photos, rng, drive) for _ in range(config.cards)]
    moving = [_set_in_motion(card, rng) for card in standing[: config.moving]]
    focal_px = config.width / 2 / np.tan(np.radians(config.field_of_view_deg) / 2)
    intrinsics = np.array([[focal_px, 0, config.width / 2], [0, focal_px, config.height / 2], [0, 0, 1.0]])
    return Collage(
        config=config,
        cards=tuple(cards + moving + standing[config.moving :]),
        intrinsics=intrinsics,
        world_from_camera=_drive(config.frames, rng) if drive else _walk(config.frames, rng),
    )


def _card(
    photos: Sequence[np.ndarray],
    rng: np.random.Generator,
    centre_m: Sequence[float] | np.ndarray,
    across_m: np.ndarray,
    up_m: np.ndarray,
    *,
    whole: bool,
    size_px: int = 384,
) -> Card:
    aspect = float(np.clip(np.linalg.norm(across_m) / np.linalg.norm(up_m), 0.15, 6.0))
    rgb = cut_texture(photos, rng, aspect=aspect, size_px=size_px)
    alpha = np.full(rgb.shape[:2], 255, np.uint8) if whole else outline(rgb.shape[:2], rng)
    # Cards that face the light less are darker, the same over a card.
    normal = np.cross(across_m, up_m)
    facing = abs(float(normal @ [0.4, -0.6, 0.7])) / max(float(np.linalg.norm(normal)), 1e-9)
    rgb = cv2.convertScaleAbs(rgb, alpha=0.7 + 0.3 * facing)
    return Card(centre_m=np.asarray(centre_m, float), across_m=across_m, up_m=up_m, rgb=rgb, alpha=alpha, velocity_m=np.zeros(3))


def _backdrop(photos: Sequence[np.ndarray], rng: np.random.Generator, distance_m: float) -> Iterator[Card]:
    """Five large cards around the scene, without gaps, seen from anywhere inside."""
    for turn in np.linspace(-np.pi / 2, np.pi / 2, 5):
        ahead, across = np.array([np.cos(turn), np.sin(turn), 0]), np.array([np.sin(turn), -np.cos(turn), 0])
        yield _card(photos, rng, ahead * distance_m, across * distance_m * 0.45, _UP * distance_m * 0.9, whole=True, size_px=768)


def _street(photos: Sequence[np.ndarray], rng: np.random.Generator) -> Iterator[Card]:
    """Ground in slabs, walls on both sides, a backdrop. The camera drives along x at y = 0."""
    yield from _backdrop(photos, rng, 70.0)
    for x in np.arange(-4.0, 60.0, 8.0):
        for y in (-8.0, 0.0, 8.0):
            yield _card(photos, rng, (x + 4, y, 0.0), np.array([0, -4.0, 0]), np.array([4.0, 0, 0]), whole=True, size_px=512)
    for side in (-1.0, 1.0):
        x = 0.0
        while x < 55.0:
            length, height = rng.uniform(4, 10), rng.uniform(3, 9)
            centre = (x + length / 2, side * rng.uniform(6, 10), height / 2)
            yield _card(photos, rng, centre, np.array([-side * length / 2, 0, 0]), _UP * height / 2, whole=True, size_px=512)
            x += length + rng.uniform(0, 3)


def _room(photos: Sequence[np.ndarray], rng: np.random.Generator) -> Iterator[Card]:
    """A floor and a backdrop around what stands 3 to 12 m ahead."""
    yield from _backdrop(photos, rng, float(rng.uniform(14, 30)))
    yield _card(photos, rng, (6.0, 0, 0), np.array([0, -12.0, 0]), np.array([12.0, 0, 0]), whole=True, size_px=768)


def _standing(photos: Sequence[np.ndarray], rng: np.random.Generator, drive: bool) -> Card:
    """A cut-out on the ground: a board, something like a bush, or a pole."""
    if drive:
        x, y = rng.uniform(3, 45), float(rng.choice([-1.0, 1.0])) * rng.uniform(1.8, 6.5)
    else:
        x, y = rng.uniform(2.5, 12), rng.uniform(-5, 5)
    height = rng.uniform(0.5, 3.5)
    length = height * rng.uniform(0.05, 0.12) if rng.random() < 0.25 else rng.uniform(0.4, 3.0)
    turn, lean = rng.uniform(0, np.pi), rng.uniform(-0.5, 0.5) * (rng.random() < 0.4)
    across = np.array([np.cos(turn), np.sin(turn), 0]) * length / 2
    up = Rotation.from_rotvec(across / np.linalg.norm(across) * lean).apply(_UP) * height / 2
    raised = rng.uniform(0, 2.5) if rng.random() < 0.3 else 0.0
    return _card(photos, rng, (x, y, height / 2 + raised), across, up, whole=False)


def _set_in_motion(card: Card, rng: np.random.Generator) -> Card:
    heading = rng.uniform(0, 2 * np.pi)
    velocity = np.array([np.cos(heading), np.sin(heading), 0]) * rng.uniform(0.02, 0.2)
    return Card(centre_m=card.centre_m, across_m=card.across_m, up_m=card.up_m, rgb=card.rgb, alpha=card.alpha, velocity_m=velocity)


def _poses(position_m: np.ndarray, yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    turns = Rotation.from_euler("ZYX", np.stack([yaw, pitch, roll], axis=1)).as_matrix()
    return np.stack([pose(turn, at) @ BODY_FROM_OPENCV for turn, at in zip(turns, position_m)])


def _drive(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Ahead along x at eye height, with a little sway."""
    s = np.linspace(0, 1, frames)
    length, sway = rng.uniform(3, 12), rng.uniform(-0.8, 0.8, 2)
    position = np.stack([s * length, sway[0] * np.sin(np.pi * s + sway[1]), 1.6 + 0.02 * np.sin(9 * s)], axis=1)
    yaw = rng.uniform(-0.35, 0.35) + rng.uniform(-0.25, 0.25) * s
    return _poses(position, yaw, rng.uniform(-0.05, 0.1) + 0.01 * np.sin(11 * s), 0.01 * np.sin(7 * s))


def _walk(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Along an arc around what stands ahead, looking at it."""
    s = np.linspace(-1, 1, frames) * float(rng.choice([-1.0, 1.0]))
    reach, target = rng.uniform(0.8, 2.5), np.array([rng.uniform(4, 8), 0.0, 0.9])
    position = np.stack([0.25 * reach * s**2, reach * s, 1.5 + rng.uniform(-0.5, 0.5) * s], axis=1)
    to = target - position
    yaw = np.arctan2(to[:, 1], to[:, 0])
    pitch = -np.arctan2(to[:, 2], np.hypot(to[:, 0], to[:, 1]))
    return _poses(position, yaw, pitch, 0.02 * np.sin(5 * s))
