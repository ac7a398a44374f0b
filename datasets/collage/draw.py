"""Draw cards: every ray's exact hit with each rectangle, the nearest one seen.

A point of a card is `M [a b 1]` in camera coordinates, M = [across up centre], so a ray through p (in camera coordinates, z = 1) meets it
where `M^-1 p` is proportional to [a b 1], and that vector's last entry is one over the depth. Textures are read from the level of their
pyramid whose texels are about as large as the rays' spacing there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numba import njit

from splatmend.datasets.collage.cards import Card, Pyramid

_NEAR_M = 0.05


def draw_cards(
    cards: Sequence[Card], camera_from_world: np.ndarray, intrinsics: np.ndarray, size: tuple[int, int], frame: int, supersample: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture `[H, W, 3]` uint8, camera z `[H, W]` float32 in metres (inf where nothing stands) and card numbers `[H, W]` (-1: none) of
    a ray near each pixel's centre. `intrinsics` is the 3x3 matrix, `size` (height, width)."""
    height, width = size[0] * supersample, size[1] * supersample
    scaled = np.diag([supersample, supersample, 1.0]) @ intrinsics
    ray_from_pixel = np.linalg.inv(scaled)
    rgb = np.zeros((height, width, 3), np.uint8)
    depth = np.full((height, width), np.inf, np.float32)
    number = np.full((height, width), -1, np.int32)
    rotation = camera_from_world[:3, :3]
    for index, card in enumerate(cards):
        centre = rotation @ (card.centre_m + frame * card.velocity_m) + camera_from_world[:3, 3]
        camera_from_card = np.stack([rotation @ card.across_m, rotation @ card.up_m, centre], axis=1)
        box = _box(camera_from_card, scaled, height, width)
        if box is not None and abs(np.linalg.det(camera_from_card)) > 1e-9:
            _draw_card(index, np.linalg.inv(camera_from_card) @ ray_from_pixel, box, card.pyramid, rgb, depth, number)
    shown = cv2.resize(rgb, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    middle = supersample // 2
    return shown, depth[middle::supersample, middle::supersample], number[middle::supersample, middle::supersample]


def _box(camera_from_card: np.ndarray, intrinsics: np.ndarray, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Rows and columns (top, bottom, left, right) that a card can cover; None: none."""
    corners = np.stack([camera_from_card @ [a, b, 1.0] for a in (-1, 1) for b in (-1, 1)])
    if (corners[:, 2] < _NEAR_M).all():
        return None
    if (corners[:, 2] < _NEAR_M).any():
        return 0, height, 0, width
    xy = corners @ intrinsics.T
    xy = xy[:, :2] / xy[:, 2:]
    left, top = np.maximum(np.floor(xy.min(axis=0)), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(xy.max(axis=0)), (width, height)).astype(int).tolist()
    return (top, bottom, left, right) if top < bottom and left < right else None


@njit(cache=True, nogil=True)
def _draw_card(
    index: int,
    hit: np.ndarray,
    box: tuple[int, int, int, int],
    pyramid: Pyramid,
    rgb: np.ndarray,
    depth: np.ndarray,
    number: np.ndarray,
) -> None:
    texels, starts, rows, columns = pyramid
    top, bottom, left, right = box
    for y in range(top, bottom):
        for x in range(left, right):
            px, py = x + 0.5, y + 0.5
            per_depth = hit[2, 0] * px + hit[2, 1] * py + hit[2, 2]
            if per_depth <= 0.0:
                continue
            z = 1.0 / per_depth
            if z < _NEAR_M or z >= depth[y, x]:
                continue
            a = (hit[0, 0] * px + hit[0, 1] * py + hit[0, 2]) * z
            b = (hit[1, 0] * px + hit[1, 1] * py + hit[1, 2]) * z
            if not (-1.0 < a < 1.0 and -1.0 < b < 1.0):
                continue
            # Texels a ray's step crosses, along the picture's rows and columns; their mean, so that grazing ground keeps some detail.
            along = (abs(hit[0, 0] - a * hit[2, 0]) * columns[0] + abs(hit[1, 0] - b * hit[2, 0]) * rows[0]) * z / 2
            down = (abs(hit[0, 1] - a * hit[2, 1]) * columns[0] + abs(hit[1, 1] - b * hit[2, 1]) * rows[0]) * z / 2
            level = math.floor(math.log2(max(math.sqrt(along * down), 1e-6)) + 0.5)
            level = min(max(level, 0), len(starts) - 1)
            u = min(max((a + 1.0) / 2 * columns[level] - 0.5, 0.0), columns[level] - 1.0)
            v = min(max((1.0 - b) / 2 * rows[level] - 0.5, 0.0), rows[level] - 1.0)
            u0, v0 = int(u), int(v)
            u1, v1 = min(u0 + 1, columns[level] - 1), min(v0 + 1, rows[level] - 1)
            fu, fv = u - u0, v - v0
            upper, lower = starts[level] + v0 * columns[level], starts[level] + v1 * columns[level]
            w00, w01, w10, w11 = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
            cover = w00 * texels[upper + u0, 3] + w01 * texels[upper + u1, 3] + w10 * texels[lower + u0, 3] + w11 * texels[lower + u1, 3]
            if cover <= 127.0:
                continue
            for channel in range(3):
                rgb[y, x, channel] = np.uint8(
                    w00 * texels[upper + u0, channel]
                    + w01 * texels[upper + u1, channel]
                    + w10 * texels[lower + u0, channel]
                    + w11 * texels[lower + u1, channel]
                    + 0.5
                )
            depth[y, x] = z
            number[y, x] = index
