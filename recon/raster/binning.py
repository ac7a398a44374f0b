"""Numba kernels that sort Gaussians by depth and hand each screen tile its list, front to back.

The order is fixed by depth, then index (as in gsplat, whose radix sort is stable), whatever the number of shares the work is cut
into: each takes a run of the depth order and has its own place in every tile's list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from splatmend.recon.raster.threads import in_shares, thread_count

TILE_PX = 16
"""Side of a screen tile: a row is one 512-bit vector of float32."""
_RADIX_BITS = 11


@njit(cache=True, nogil=True, error_model="numpy")
def depth_order(depths: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Indices of the drawn Gaussians from front to back, `[V]` int32; equal depths keep the order of their indices.

    A least-significant-digit radix sort on the bits of the depth, which order like the number since depths are positive.
    """
    bits = depths.view(np.uint32)
    count = 0
    for n in range(depths.shape[0]):
        if radii[n, 0] > 0:
            count += 1
    source = np.empty(count, np.int32)
    target = np.empty(count, np.int32)
    filled = 0
    for n in range(depths.shape[0]):
        if radii[n, 0] > 0:
            source[filled] = n
            filled += 1
    buckets = 1 << _RADIX_BITS
    for turn in range(3):
        shift = np.uint32(turn * _RADIX_BITS)
        starts = np.zeros(buckets + 1, np.int64)
        for v in range(count):
            starts[((bits[source[v]] >> shift) & np.uint32(buckets - 1)) + 1] += 1
        for bucket in range(buckets):
            starts[bucket + 1] += starts[bucket]
        for v in range(count):
            bucket = (bits[source[v]] >> shift) & np.uint32(buckets - 1)
            target[starts[bucket]] = source[v]
            starts[bucket] += 1
        source, target = target, source
    return source


@njit(cache=True, nogil=True, error_model="numpy")
def _tile_range(mean, extent, tiles):
    """First tile and the one after the last that hold a pixel centre within `extent` of `mean`."""
    first = math.floor((mean - extent - 0.5) / TILE_PX)
    last = math.floor((mean + extent - 0.5) / TILE_PX) + 1
    return int(min(max(first, 0), tiles)), int(min(max(last, 0), tiles))


@njit(cache=True, nogil=True, error_model="numpy")
def touches(x0, x1, y0, y1, a, b, c, limit):
    """Whether the ellipse `0.5 (a x^2 + 2 b x y + c y^2) <= limit` reaches the box [x0, x1] x [y0, y1], given relative to its mean.

    The smallest value of a convex form over a box lies at the mean, if that is inside, or else on an edge, where it is a parabola.
    """
    if x0 <= 0.0 and x1 >= 0.0 and y0 <= 0.0 and y1 >= 0.0:
        return True
    smallest = math.inf
    for x in (x0, x1):
        y = min(max(-b * x / c, y0), y1)
        smallest = min(smallest, 0.5 * (a * x * x + c * y * y) + b * x * y)
    for y in (y0, y1):
        x = min(max(-b * y / a, x0), x1)
        smallest = min(smallest, 0.5 * (a * x * x + c * y * y) + b * x * y)
    return smallest <= limit


@njit(cache=True, nogil=True, error_model="numpy")
def _visit(n, means2d, conics, opacities, extents, tiles_x, tiles_y, tiles):
    """Write the tiles (row-major numbers) that Gaussian `n` touches into `tiles`, growing it as needed; returns it and their number."""
    mean_x, mean_y = np.float64(means2d[n, 0]), np.float64(means2d[n, 1])
    # A hair more than exact, so that rounding never loses a pixel that the tile kernel would draw.
    first_x, last_x = _tile_range(mean_x, np.float64(extents[n, 0]) * 1.0001 + 0.01, tiles_x)
    first_y, last_y = _tile_range(mean_y, np.float64(extents[n, 1]) * 1.0001 + 0.01, tiles_y)
    limit = math.log(np.float64(opacities[n]) * 255.0) * 1.001 + 0.001
    a, b, c = np.float64(conics[n, 0]), np.float64(conics[n, 1]), np.float64(conics[n, 2])
    most = (last_x - first_x) * (last_y - first_y)
    if most > tiles.shape[0]:
        tiles = np.empty(2 * most, np.int32)
    count = 0
    for tile_y in range(first_y, last_y):
        for tile_x in range(first_x, last_x):
            left, top = tile_x * TILE_PX - mean_x, tile_y * TILE_PX - mean_y
            if most == 1 or touches(left + 0.5, left + TILE_PX - 0.5, top + 0.5, top + TILE_PX - 0.5, a, b, c, limit):
                tiles[count] = tile_y * tiles_x + tile_x
                count += 1
    return tiles, count


@njit(cache=True, nogil=True, error_model="numpy")
def _count_pairs(share, shares, order, means2d, conics, opacities, extents, tiles_x, tiles_y, pairs, tile_counts):
    """Pairs of each Gaussian, `pairs[v]`, and of each tile within this share, `tile_counts[share, tile]`."""
    tiles = np.empty(64, np.int32)
    for v in range(share * order.shape[0] // shares, (share + 1) * order.shape[0] // shares):
        tiles, count = _visit(order[v], means2d, conics, opacities, extents, tiles_x, tiles_y, tiles)
        pairs[v] = count
        for t in range(count):
            tile_counts[share, tiles[t]] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_pairs(
    share, shares, order, means2d, conics, opacities, extents, tiles_x, tiles_y, slot_starts, heads, pair_gaussians, pair_slots
):  # fmt: skip
    """Write each pair to the place of its tile's list that `heads[share, tile]` has reached."""
    tiles = np.empty(64, np.int32)
    for v in range(share * order.shape[0] // shares, (share + 1) * order.shape[0] // shares):
        tiles, count = _visit(order[v], means2d, conics, opacities, extents, tiles_x, tiles_y, tiles)
        for t in range(count):
            head = heads[share, tiles[t]]
            pair_gaussians[head] = order[v]
            pair_slots[head] = slot_starts[v] + t
            heads[share, tiles[t]] = head + 1


@dataclass(frozen=True)
class TileLists:
    """Which Gaussians each tile draws, V Gaussians in depth order and P pairs of a tile and a Gaussian."""

    tile_starts: np.ndarray
    """`[tiles + 1]` int64, where each tile's list begins."""
    pair_gaussians: np.ndarray
    """`[P]` int32, Gaussian of each pair, tile by tile, front to back."""
    pair_slots: np.ndarray
    """`[P]` int64, the pair's place in an array that holds each Gaussian's pairs side by side."""
    slot_starts: np.ndarray
    """`[V + 1]` int64, where the pairs of the v-th Gaussian of the depth order begin there."""


def bin_gaussians(
    order: np.ndarray, means2d: np.ndarray, conics: np.ndarray, opacities: np.ndarray, extents: np.ndarray, tiles_x: int, tiles_y: int
) -> TileLists:
    """Lists of Gaussians per tile.

    Args:
        order: `[V]` int32, drawn Gaussians from front to back.
        means2d, conics, opacities, extents: as `project_forward` writes them.
        tiles_x, tiles_y: size of the screen in tiles.
    """
    pairs = np.empty(len(order), np.int64)
    tile_counts = np.zeros((thread_count(), tiles_x * tiles_y), np.int64)
    splats = (order, means2d, conics, opacities, extents, tiles_x, tiles_y)
    in_shares(_count_pairs, *splats, pairs, tile_counts)
    slot_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs)])
    # Tile by tile, and within a tile share by share, which is front to back.
    ends = np.cumsum(tile_counts.T.reshape(-1))
    heads = np.ascontiguousarray((ends - tile_counts.T.reshape(-1)).reshape(tile_counts.shape[::-1]).T)
    tile_starts = np.concatenate([heads[0], slot_starts[-1:]])
    pair_gaussians = np.empty(slot_starts[-1], np.int32)
    pair_slots = np.empty(slot_starts[-1], np.int64)
    in_shares(_fill_pairs, *splats, slot_starts, heads, pair_gaussians, pair_slots)
    return TileLists(tile_starts, pair_gaussians, pair_slots, slot_starts)
