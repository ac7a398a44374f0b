"""Numba kernels that bound what a Gaussian can reach on the screen, and hand each tile its list, for the `ray` model.

Everything happens in ideal coordinates (x / z, y / z) of one common camera frame: the ellipsoid where alpha reaches the threshold has an
exact outline there, and each tile knows the range of its own rays, whatever lens bent them and whatever turn of a rolling shutter. What is
left of the shutter is that lines look from different places. For a fixed point, x / z is monotonic along a straight path of the eye, so
the outlines seen from the first and from the last line bound all others.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from splatmend.recon.raster.binning import TILE_PX, touches
from splatmend.recon.raster.projection import ALPHA_THRESHOLD, MAX_EXTENT_SIGMA, rotation

FRAME = 21
"""Numbers per Gaussian in the common frame: A = S R^T and B = det(S) S^-1 R^T row by row (9 each), then the centre (3)."""
OUTLINE = 11
"""Numbers per Gaussian: box from all lines (x0, x1, y0, y1), middle (x, y), conic (a, b, c) and slack (x, y) of the ellipse from the
middle pose. Without an ellipse the conic is zero."""


@njit(cache=True, nogil=True, error_model="numpy")
def _range(m, z, s_mm, s_mz, s_zz):
    """Middle and half length of the range of `x / z` over an ellipsoid in front of the eye (covariance already times k^2)."""
    a = z * z - s_zz
    b = m * z - s_mz
    c = m * m - s_mm
    return b / a, math.sqrt(max(b * b - a * c, 0.0)) / a


@njit(cache=True, nogil=True, error_model="numpy")
def _outline_one(n, means, quats, scales, opacities, view, eyes, near_m, far_m, frames, outlines, depths, drawn):
    drawn[n] = 0
    px, py, pz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
    x = view[0, 0] * px + view[0, 1] * py + view[0, 2] * pz + view[0, 3]
    y = view[1, 0] * px + view[1, 1] * py + view[1, 2] * pz + view[1, 3]
    z = view[2, 0] * px + view[2, 1] * py + view[2, 2] * pz + view[2, 3]
    opacity = np.float64(opacities[n])
    # Written so that a NaN fails the test.
    if not (z >= near_m and z <= far_m and opacity >= ALPHA_THRESHOLD):
        return
    w, i, j, k = np.float64(quats[n, 0]), np.float64(quats[n, 1]), np.float64(quats[n, 2]), np.float64(quats[n, 3])
    inverse_norm = 1.0 / math.sqrt(w * w + i * i + j * j + k * k)
    r = rotation(w * inverse_norm, i * inverse_norm, j * inverse_norm, k * inverse_norm)
    s0, s1, s2 = np.float64(scales[n, 0]), np.float64(scales[n, 1]), np.float64(scales[n, 2])
    frame = frames[n]
    for axis in range(3):
        scale = s0 if axis == 0 else (s1 if axis == 1 else s2)
        others = s1 * s2 if axis == 0 else (s0 * s2 if axis == 1 else s0 * s1)
        for m in range(3):
            turned = view[m, 0] * r[axis] + view[m, 1] * r[3 + axis] + view[m, 2] * r[6 + axis]
            frame[3 * axis + m] = scale * turned
            frame[9 + 3 * axis + m] = others * turned
    frame[18], frame[19], frame[20] = x, y, z
    total = 0.0
    for number in range(FRAME):
        total += frame[number]
    if not math.isfinite(total):
        return

    # A hair more than exact, so that rounding never loses a pixel that the tile kernel would draw.
    extent = min(MAX_EXTENT_SIGMA, math.sqrt(2.0 * math.log(opacity / ALPHA_THRESHOLD))) * 1.0005 + 1e-4
    k2 = extent * extent
    s_xx = k2 * (frame[0] * frame[0] + frame[3] * frame[3] + frame[6] * frame[6])
    s_xy = k2 * (frame[0] * frame[1] + frame[3] * frame[4] + frame[6] * frame[7])
    s_xz = k2 * (frame[0] * frame[2] + frame[3] * frame[5] + frame[6] * frame[8])
    s_yy = k2 * (frame[1] * frame[1] + frame[4] * frame[4] + frame[7] * frame[7])
    s_yz = k2 * (frame[1] * frame[2] + frame[4] * frame[5] + frame[7] * frame[8])
    s_zz = k2 * (frame[2] * frame[2] + frame[5] * frame[5] + frame[8] * frame[8])
    outline = outlines[n]
    outline[:] = 0.0
    outline[0], outline[1], outline[2], outline[3] = math.inf, -math.inf, math.inf, -math.inf
    depths[n] = z
    drawn[n] = 1
    nearest = z - math.sqrt(s_zz)
    eye_z = max(abs(eyes[0, 2]), abs(eyes[1, 2]))
    if nearest - eye_z <= 1e-3 * z:
        # It reaches around the eye: any pixel may see it.
        outline[0], outline[1], outline[2], outline[3] = -math.inf, math.inf, -math.inf, math.inf
        return
    for eye in range(2):
        middle, half = _range(x - eyes[eye, 0], z - eyes[eye, 2], s_xx, s_xz, s_zz)
        outline[0], outline[1] = min(outline[0], middle - half), max(outline[1], middle + half)
        middle, half = _range(y - eyes[eye, 1], z - eyes[eye, 2], s_yy, s_yz, s_zz)
        outline[2], outline[3] = min(outline[2], middle - half), max(outline[3], middle + half)
    a = z * z - s_zz
    mid_x, mid_y = (x * z - s_xz) / a, (y * z - s_yz) / a
    m_xx = mid_x * mid_x - (x * x - s_xx) / a
    m_xy = mid_x * mid_y - (x * y - s_xy) / a
    m_yy = mid_y * mid_y - (y * y - s_yy) / a
    determinant = m_xx * m_yy - m_xy * m_xy
    if determinant > 1e-9 * m_xx * m_yy:
        outline[4], outline[5] = mid_x, mid_y
        outline[6], outline[7], outline[8] = m_yy / determinant, -m_xy / determinant, m_xx / determinant
        # How far the shutter's eyes can move any point of the ellipsoid on the screen.
        far_x, far_y = max(abs(outline[0]), abs(outline[1])), max(abs(outline[2]), abs(outline[3]))
        outline[9] = (max(abs(eyes[0, 0]), abs(eyes[1, 0])) + far_x * eye_z) / (nearest - eye_z)
        outline[10] = (max(abs(eyes[0, 1]), abs(eyes[1, 1])) + far_y * eye_z) / (nearest - eye_z)


@njit(cache=True, nogil=True, error_model="numpy")
def outline_forward(
    share: int, shares: int, means: np.ndarray, quats: np.ndarray, scales: np.ndarray, opacities: np.ndarray, view: np.ndarray,
    eyes: np.ndarray, near_m: float, far_m: float, frames: np.ndarray, outlines: np.ndarray, depths: np.ndarray, drawn: np.ndarray,
) -> None:  # fmt: skip
    """Bring N Gaussians into the common frame and bound their outlines; writes the last four arguments.

    Args:
        means, quats, scales, opacities: `[N, 3]`, `[N, 4]` (wxyz, any length), `[N, 3]`, `[N]` float32.
        view: common frame from world, `[4, 4]` float64.
        eyes: where the first and the last line look from in the common frame, `[2, 3]` float64.
        frames, outlines: `[N, FRAME]`, `[N, OUTLINE]` float64.
        depths: `[N]` float32, z of the centre.
        drawn: `[N, 1]` int32, 0 for what cannot be drawn.
    """
    for n in range(share * means.shape[0] // shares, (share + 1) * means.shape[0] // shares):
        _outline_one(n, means, quats, scales, opacities, view, eyes, near_m, far_m, frames, outlines, depths, drawn[:, 0])


@njit(cache=True, nogil=True, error_model="numpy")
def tile_ranges(share: int, shares: int, directions: np.ndarray, valid: np.ndarray, tiles_x: int, tile_box: np.ndarray, row_y: np.ndarray):
    """Ranges of ideal coordinates of the rays of each tile, `tile_box [T, 4]` (x0, x1, y0, y1), and of y in each of its rows,
    `row_y [T, 16, 2]`; float64, empty (inf, -inf) where no ray is valid."""
    height, width = valid.shape
    for tile in range(share, tile_box.shape[0], shares):
        left, top = (tile % tiles_x) * TILE_PX, (tile // tiles_x) * TILE_PX
        tile_box[tile, 0], tile_box[tile, 1], tile_box[tile, 2], tile_box[tile, 3] = math.inf, -math.inf, math.inf, -math.inf
        for row in range(TILE_PX):
            row_y[tile, row, 0], row_y[tile, row, 1] = math.inf, -math.inf
            if top + row >= height:
                continue
            for column in range(left, min(left + TILE_PX, width)):
                if valid[top + row, column]:
                    ray = directions[top + row, column]
                    x, y = ray[0] / ray[2], ray[1] / ray[2]
                    tile_box[tile, 0], tile_box[tile, 1] = min(tile_box[tile, 0], x), max(tile_box[tile, 1], x)
                    row_y[tile, row, 0], row_y[tile, row, 1] = min(row_y[tile, row, 0], y), max(row_y[tile, row, 1], y)
            tile_box[tile, 2] = min(tile_box[tile, 2], row_y[tile, row, 0])
            tile_box[tile, 3] = max(tile_box[tile, 3], row_y[tile, row, 1])


@njit(cache=True, nogil=True, error_model="numpy")
def _reaches(outline, box):
    if not (outline[0] <= box[1] and outline[1] >= box[0] and outline[2] <= box[3] and outline[3] >= box[2]):
        return False
    if outline[6] == 0.0:
        return True
    x0, x1 = box[0] - outline[9] - outline[4], box[1] + outline[9] - outline[4]
    y0, y1 = box[2] - outline[10] - outline[5], box[3] + outline[10] - outline[5]
    return touches(x0, x1, y0, y1, outline[6], outline[7], outline[8], 0.5)


@njit(cache=True, nogil=True, error_model="numpy")
def visit_tiles(
    share: int, shares: int, order: np.ndarray, outlines: np.ndarray, tile_box: np.ndarray, column_x: np.ndarray, line_y: np.ndarray,
    slot_starts: np.ndarray, pairs: np.ndarray, slot_tiles: np.ndarray,
) -> None:  # fmt: skip
    """Tiles that each drawn Gaussian reaches: their number into `pairs [V]`, and, where `slot_tiles` has room, which they are.

    `column_x [tiles_x, 2]` and `line_y [tiles_y, 2]` are the ranges of whole columns and rows of tiles.
    """
    tiles_x, tiles_y = column_x.shape[0], line_y.shape[0]
    writing = slot_tiles.shape[0] > 0
    for v in range(share * order.shape[0] // shares, (share + 1) * order.shape[0] // shares):
        outline = outlines[order[v]]
        count = 0
        for tile_y in range(tiles_y):
            if outline[2] > line_y[tile_y, 1] or outline[3] < line_y[tile_y, 0]:
                continue
            for tile_x in range(tiles_x):
                if outline[0] > column_x[tile_x, 1] or outline[1] < column_x[tile_x, 0]:
                    continue
                tile = tile_y * tiles_x + tile_x
                if _reaches(outline, tile_box[tile]):
                    if writing:
                        slot_tiles[slot_starts[v] + count] = tile
                    count += 1
        pairs[v] = count


@njit(cache=True, nogil=True, error_model="numpy")
def by_tiles(slot_tiles: np.ndarray, slot_starts: np.ndarray, order: np.ndarray, tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`tile_starts`, `pair_gaussians` and `pair_slots` of `binning.TileLists`: a counting sort of the slots, which are in depth order."""
    tile_starts = np.zeros(tiles + 1, np.int64)
    for slot in range(slot_tiles.shape[0]):
        tile_starts[slot_tiles[slot] + 1] += 1
    for tile in range(tiles):
        tile_starts[tile + 1] += tile_starts[tile]
    heads = tile_starts[:-1].copy()
    pair_gaussians = np.empty(slot_tiles.shape[0], np.int32)
    pair_slots = np.empty(slot_tiles.shape[0], np.int64)
    for v in range(order.shape[0]):
        for slot in range(slot_starts[v], slot_starts[v + 1]):
            head = heads[slot_tiles[slot]]
            pair_gaussians[head] = order[v]
            pair_slots[head] = slot
            heads[slot_tiles[slot]] = head + 1
    return tile_starts, pair_gaussians, pair_slots
