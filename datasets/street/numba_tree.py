"""The tree of boxes that `numba_caster` walks: triangles split where rays will meet least (binned surface areas, Wald 2007, "On fast
construction of SAH-based bounding volume hierarchies").

Shape letters: F triangles, N nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

LEAF_SIZE, DEEPEST = 4, 64
_BINS, _CHOOSY_DEPTH = 16, 40
_MARGIN = 1e-4


class Tree(NamedTuple):
    """Triangles in the order of the leaves `order [F]`; of each node, the root first, its children `[N, 2]` (-1 in leaves), its span of
    `order` `[N, 2]` and its box `[N, 6]` (low and high corner) float32, a little larger than what it holds. No deeper than `DEEPEST`."""

    order: np.ndarray
    children: np.ndarray
    spans: np.ndarray
    boxes: np.ndarray


def tree_of(corners: np.ndarray) -> Tree:
    """The tree over triangles `[F, 3, 3]`, of which there is one at least."""
    low, high = corners.min(axis=1), corners.max(axis=1)
    order = np.arange(len(corners))
    nodes = max(2 * len(corners) - 1, 1)
    children, spans = np.full((nodes, 2), -1, np.int32), np.zeros((nodes, 2), np.int32)
    boxes = np.zeros((nodes, 6))
    count = _grow(low, high, corners.mean(axis=1), order, children, spans, boxes)
    boxes[:, :3] -= _MARGIN
    boxes[:, 3:] += _MARGIN
    return Tree(order, children[:count], spans[:count], boxes[:count].astype(np.float32))


@njit(cache=True, nogil=True, error_model="numpy")
def _grow(
    low: np.ndarray, high: np.ndarray, centres: np.ndarray, order: np.ndarray, children: np.ndarray, spans: np.ndarray, boxes: np.ndarray
) -> int:
    """Fills the arrays from the root on and sorts `order`; the number of nodes."""
    depths = np.zeros(len(children), np.int32)
    spans[0, 1] = len(order)
    count, node = 1, 0
    while node < count:
        start, stop = spans[node]
        for axis in range(3):
            boxes[node, axis], boxes[node, 3 + axis] = np.inf, -np.inf
            for place in range(start, stop):
                boxes[node, axis] = min(boxes[node, axis], low[order[place], axis])
                boxes[node, 3 + axis] = max(boxes[node, 3 + axis], high[order[place], axis])
        if stop - start > LEAF_SIZE:
            # Ever so lopsided trees end: below this depth halves are halves.
            middle = _split(low, high, centres, order, start, stop) if depths[node] < _CHOOSY_DEPTH else (start + stop) // 2
            for side in range(2):
                children[node, side] = count + side
                spans[count + side] = (start, middle) if side == 0 else (middle, stop)
                depths[count + side] = depths[node] + 1
            count += 2
        node += 1
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _split(low: np.ndarray, high: np.ndarray, centres: np.ndarray, order: np.ndarray, start: int, stop: int) -> int:
    """Sorts a span of `order` into two sides, neither empty; where the second one begins."""
    best, best_axis, best_bin, best_from, best_scale = np.inf, -1, 0, 0.0, 0.0
    counts, lows, highs, areas = np.empty(_BINS, np.int64), np.empty((_BINS, 3)), np.empty((_BINS, 3)), np.empty(_BINS)
    for axis in range(3):
        least, most = np.inf, -np.inf
        for place in range(start, stop):
            least, most = min(least, centres[order[place], axis]), max(most, centres[order[place], axis])
        if most - least < 1e-9:
            continue
        scale = _BINS * (1 - 1e-9) / (most - least)
        counts[:], lows[:], highs[:] = 0, np.inf, -np.inf
        for place in range(start, stop):
            triangle = order[place]
            bin_ = int((centres[triangle, axis] - least) * scale)
            counts[bin_] += 1
            for a in range(3):
                lows[bin_, a], highs[bin_, a] = min(lows[bin_, a], low[triangle, a]), max(highs[bin_, a], high[triangle, a])
        # Area times number, of all bins from one on; then the same up to it.
        _sweep(counts, lows, highs, areas, _BINS - 1, 0, -1)
        above = areas.copy()
        _sweep(counts, lows, highs, areas, 0, _BINS - 1, 1)
        left = 0
        for bin_ in range(_BINS - 1):
            left += counts[bin_]
            cost = areas[bin_] + above[bin_ + 1]
            if 0 < left < stop - start and cost < best:
                best, best_axis, best_bin, best_from, best_scale = cost, axis, bin_, least, scale
    if best_axis < 0:
        return (start + stop) // 2
    first, last = start, stop - 1
    while first <= last:
        if int((centres[order[first], best_axis] - best_from) * best_scale) <= best_bin:
            first += 1
        else:
            order[first], order[last] = order[last], order[first]
            last -= 1
    return first


@njit(cache=True, nogil=True, error_model="numpy")
def _sweep(counts: np.ndarray, lows: np.ndarray, highs: np.ndarray, areas: np.ndarray, first: int, last: int, step: int) -> None:
    """`areas` of the boxes around all bins from `first` to each one, times the triangles in them."""
    ax, ay, az, bx, by, bz, held = np.inf, np.inf, np.inf, -np.inf, -np.inf, -np.inf, 0
    for bin_ in range(first, last + step, step):
        held += counts[bin_]
        ax, ay, az = min(ax, lows[bin_, 0]), min(ay, lows[bin_, 1]), min(az, lows[bin_, 2])
        bx, by, bz = max(bx, highs[bin_, 0]), max(by, highs[bin_, 1]), max(bz, highs[bin_, 2])
        x, y, z = bx - ax, by - ay, bz - az
        areas[bin_] = held * (x * y + y * z + z * x) if held else 0.0
