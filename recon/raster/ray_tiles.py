"""Numba kernels that blend Gaussians by their response along each pixel's own ray, and the gradients of that (the `ray` model).

A Gaussian with covariance `R S^2 R^T` answers along a ray with its greatest density there (Moenne-Loccoz et al., "3D Gaussian Ray
Tracing", 2024; gsplat's `with_eval3d`). With the ray's direction `d` and any vector `w` from the centre to the ray, `r = d x w` gives
the squared distance in standard deviations as `|A r|^2 / |B d|^2`, where `A = S R^T` and `B = det(S) S^-1 R^T` need no division by a
scale.

`w` may slide along the ray, so it is taken where it is short: relative to the ray of the tile's middle, in float64, and only the small
differences of the other pixels' rays from that one are float32. Workspace and blending are those of `tiles`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splatmend.recon.raster import tiles
from splatmend.recon.raster.binning import TILE_PX
from splatmend.recon.raster.projection import quaternion_gradient, rotation
from splatmend.recon.raster.tiles import (
    ALPHA,
    ALPHA_CAP,
    ALPHA_THRESHOLD,
    BEHIND,
    CHANNELS,
    CHECK_EVERY,
    EXACT,
    HALF,
    LAST,
    LEFT,
    LIGHT,
    ONE,
    PLANE,
    REASSOCIATE,
    SHADE,
    WEIGHT,
    ZERO,
    exp_negative,
)  # fmt: skip

# Planes of the workspace, three for a vector.
_D = np.uint64(9 * PLANE)  # direction of the ray
_TURN = np.uint64(12 * PLANE)  # direction less that of the tile's middle
_SHIFT = np.uint64(15 * PLANE)  # origin less that of the tile's middle
_R = np.uint64(18 * PLANE)  # d x w of the current Gaussian
_INVERSE = np.uint64(21 * PLANE)  # 1 / |B d|^2
_SIGMA = np.uint64(22 * PLANE)  # half the squared distance
_GRAD = np.uint64(23 * PLANE)  # backward: gradient of sigma over |B d|^2
_Y = np.uint64(PLANE)
_Z = np.uint64(2 * PLANE)

PAIR_GRADS = 16
"""Gradients per pair before those of the channels: centre (3), `A^T A` (6), `B^T B` (6, both upper triangles), opacity."""


@njit(cache=True, nogil=True, error_model="numpy", fastmath=EXACT)
def _write_alphas(work, begin, end, a, b, q, slide, opacity):
    """Alpha of one Gaussian at the pixels [begin, end) of the tile; both directions call this one function.

    `a`, `b` are A and B row by row, `q` leads from the centre to the nearest point of the middle ray, `slide` is that point's place on it.
    """
    a0, a1, a2, a3, a4, a5, a6, a7, a8 = a
    b0, b1, b2, b3, b4, b5, b6, b7, b8 = b
    for p in range(begin, end):
        x = work[_D + p]
        y = work[_D + _Y + p]
        z = work[_D + _Z + p]
        w_x = q[0] + work[_SHIFT + p] - slide * work[_TURN + p]
        w_y = q[1] + work[_SHIFT + _Y + p] - slide * work[_TURN + _Y + p]
        w_z = q[2] + work[_SHIFT + _Z + p] - slide * work[_TURN + _Z + p]
        r_x = y * w_z - z * w_y
        r_y = z * w_x - x * w_z
        r_z = x * w_y - y * w_x
        u = a0 * r_x + a1 * r_y + a2 * r_z
        v = a3 * r_x + a4 * r_y + a5 * r_z
        w = a6 * r_x + a7 * r_y + a8 * r_z
        distance = u * u + v * v + w * w
        u = b0 * x + b1 * y + b2 * z
        v = b3 * x + b4 * y + b5 * z
        w = b6 * x + b7 * y + b8 * z
        inverse = ONE / (u * u + v * v + w * w)
        sigma = HALF * distance * inverse
        alpha = min(ALPHA_CAP, opacity * exp_negative(sigma))
        work[_R + p] = r_x
        work[_R + _Y + p] = r_y
        work[_R + _Z + p] = r_z
        work[_INVERSE + p] = inverse
        work[_SIGMA + p] = sigma
        # A comparison with NaN is false.
        work[ALPHA + p] = alpha if (sigma >= ZERO and alpha >= ALPHA_THRESHOLD) else ZERO


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
def _unblend(work, begin, end, place):
    """Step back behind one Gaussian as `tiles.unblend` does; returns the sum of the gradients of sigma and leaves them, over `|B d|^2`."""
    total = ZERO
    for p in range(begin, end):
        alpha = work[ALPHA + p] if work[LAST + p] > place else ZERO
        inverse = ONE / (ONE - alpha)
        light = work[LIGHT + p] * inverse
        weight = alpha * light
        shade = work[SHADE + p]
        behind = work[BEHIND + p]
        grad = alpha * (behind * inverse - light * shade)
        grad = grad if (alpha < ALPHA_CAP and alpha > ZERO) else ZERO
        work[LIGHT + p] = light
        work[WEIGHT + p] = weight
        work[BEHIND + p] = behind + shade * weight
        work[_GRAD + p] = grad * work[_INVERSE + p] if grad != ZERO else ZERO
        total += grad
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
def _sum_rr(work, begin, end):
    """Sums of gradient times `r r^T`, upper triangle."""
    xx, xy, xz, yy, yz, zz = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for p in range(begin, end):
        grad = work[_GRAD + p]
        x = work[_R + p]
        y = work[_R + _Y + p]
        z = work[_R + _Z + p]
        xx += grad * x * x
        xy += grad * x * y
        xz += grad * x * z
        yy += grad * y * y
        yz += grad * y * z
        zz += grad * z * z
    return xx, xy, xz, yy, yz, zz


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
def _sum_dd(work, begin, end):
    """Sums of gradient times sigma times `d d^T`, upper triangle."""
    xx, xy, xz, yy, yz, zz = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for p in range(begin, end):
        grad = work[_GRAD + p]
        grad = grad * work[_SIGMA + p] if grad != ZERO else ZERO
        x = work[_D + p]
        y = work[_D + _Y + p]
        z = work[_D + _Z + p]
        xx += grad * x * x
        xy += grad * x * y
        xz += grad * x * z
        yy += grad * y * y
        yz += grad * y * z
        zz += grad * z * z
    return xx, xy, xz, yy, yz, zz


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
def _sum_dr(work, begin, end):
    """Sums of gradient times `d r^T`, row by row."""
    xx, xy, xz, yx, yy, yz, zx, zy, zz = ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO, ZERO
    for p in range(begin, end):
        grad = work[_GRAD + p]
        x = grad * work[_D + p]
        y = grad * work[_D + _Y + p]
        z = grad * work[_D + _Z + p]
        r_x = work[_R + p]
        r_y = work[_R + _Y + p]
        r_z = work[_R + _Z + p]
        xx += x * r_x
        xy += x * r_y
        xz += x * r_z
        yx += y * r_x
        yy += y * r_y
        yz += y * r_z
        zx += z * r_x
        zy += z * r_y
        zz += z * r_z
    return xx, xy, xz, yx, yy, yz, zx, zy, zz


@njit(cache=True, nogil=True, error_model="numpy")
def _load_rays(work, left, top, origins, directions, valid):
    """Put the tile's rays into the workspace; returns origin and direction of its middle (one of a valid pixel) in float64."""
    height, width = valid.shape
    rows, columns = min(TILE_PX, height - top), min(TILE_PX, width - left)
    middle_row, middle_column = top + rows // 2, left + columns // 2
    origin, direction = origins[middle_row, middle_column], directions[middle_row, middle_column]
    for p in range(PLANE):
        row, column = top + min(p // TILE_PX, rows - 1), left + min(p % TILE_PX, columns - 1)
        for axis in range(3):
            place = np.uint64(axis * PLANE + p)
            work[_D + place] = np.float32(directions[row, column, axis])
            work[_TURN + place] = np.float32(directions[row, column, axis] - direction[axis])
            work[_SHIFT + place] = np.float32(origins[row, column, axis] - origin[axis])
    return (origin[0], origin[1], origin[2]), (direction[0], direction[1], direction[2])


@njit(cache=True, nogil=True, error_model="numpy")
def _place(work, begin, end, frame, origin, direction, opacity):
    """Write the alphas of the Gaussian with that row of `frames`."""
    p_x, p_y, p_z = origin[0] - frame[18], origin[1] - frame[19], origin[2] - frame[20]
    length2 = direction[0] * direction[0] + direction[1] * direction[1] + direction[2] * direction[2]
    slide = -(p_x * direction[0] + p_y * direction[1] + p_z * direction[2]) / length2
    f = np.float32
    q = (f(p_x + slide * direction[0]), f(p_y + slide * direction[1]), f(p_z + slide * direction[2]))
    a = (f(frame[0]), f(frame[1]), f(frame[2]), f(frame[3]), f(frame[4]), f(frame[5]), f(frame[6]), f(frame[7]), f(frame[8]))
    b = (f(frame[9]), f(frame[10]), f(frame[11]), f(frame[12]), f(frame[13]), f(frame[14]), f(frame[15]), f(frame[16]), f(frame[17]))
    _write_alphas(work, begin, end, a, b, q, f(-slide), opacity)


@njit(cache=True, nogil=True, error_model="numpy")
def _pixel_range(outline, row_y):
    """First pixel and the one after the last of the tile's rows that the Gaussian may touch."""
    first, last = TILE_PX, 0
    for row in range(TILE_PX):
        if outline[2] <= row_y[row, 1] and outline[3] >= row_y[row, 0]:
            first, last = min(first, row), row + 1
    return np.uint64(min(first, last) * TILE_PX), np.uint64(last * TILE_PX)


@njit(cache=True, nogil=True, error_model="numpy")
def draw(
    share: int, shares: int, tile_starts: np.ndarray, pair_gaussians: np.ndarray, frames: np.ndarray, outlines: np.ndarray,
    opacities: np.ndarray, channels: np.ndarray, origins: np.ndarray, directions: np.ndarray, valid: np.ndarray, row_y: np.ndarray,
    tiles_x: int, picture: np.ndarray, light_left: np.ndarray, lasts: np.ndarray,
) -> None:  # fmt: skip
    """Blend every tile; writes the last three arguments.

    Args:
        tile_starts, pair_gaussians: as `ray_bounds.by_tiles` returns them.
        frames, outlines: as `ray_bounds.outline_forward` writes them.
        opacities: `[N]` float32.
        channels: `[N, K]` float32 with K a multiple of four, at least C.
        origins, directions, valid: `[H, W, 3]` float64 twice and `[H, W]` bool, the pixels' rays in the common frame.
        row_y: as `ray_bounds.tile_ranges` writes it.
        tiles_x: tiles in a row of the screen.
        picture, light_left, lasts: as `tiles.draw` writes them.
    """
    height, width, picture_channels = picture.shape
    padded = channels.shape[1]
    for tile in range(share, tile_starts.shape[0] - 1, shares):
        left, top = (tile % tiles_x) * TILE_PX, (tile // tiles_x) * TILE_PX
        rows, columns = min(TILE_PX, height - top), min(TILE_PX, width - left)
        work = tiles.new_workspace(padded)
        origin, direction = _load_rays(work, left, top, origins, directions, valid)
        for row in range(rows):
            for column in range(columns):
                p = np.uint64(row * TILE_PX + column)
                work[LIGHT + p] = ONE if valid[top + row, left + column] else ZERO
                work[LEFT + p] = ONE
        gaussians = pair_gaussians[tile_starts[tile] : tile_starts[tile + 1]]
        for place in range(gaussians.shape[0]):
            if place % CHECK_EVERY == 0 and tiles.open_pixels(work) == ZERO:
                break
            n = gaussians[place]
            begin, end = _pixel_range(outlines[n], row_y[tile])
            _place(work, begin, end, frames[n], origin, direction, opacities[n])
            tiles.blend(work, begin, end, np.float32(place + 1))
            for channel in range(0, padded, 4):
                tiles.add_channels(
                    work, begin, end, CHANNELS + np.uint64(channel * PLANE),
                    channels[n, channel], channels[n, channel + 1], channels[n, channel + 2], channels[n, channel + 3],
                )  # fmt: skip
        for row in range(rows):
            for column in range(columns):
                p = np.uint64(row * TILE_PX + column)
                light_left[top + row, left + column] = work[LEFT + p]
                lasts[top + row, left + column] = int(work[LAST + p])
                for channel in range(picture_channels):
                    picture[top + row, left + column, channel] = work[CHANNELS + np.uint64(channel * PLANE) + p]


@njit(cache=True, nogil=True, error_model="numpy")
def _write_pair(grads, work, begin, end, frame, total, opacity):
    """The first `PAIR_GRADS` gradients of one pair, from its sums over pixels."""
    dr = _sum_dr(work, begin, end)
    # `A^T A` as rows; the centre's gradient is the sum of d x (A^T A r).
    for axis in range(3):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        moment = 0.0
        for m in range(3):
            towards = frame[m] * frame[two] + frame[3 + m] * frame[3 + two] + frame[6 + m] * frame[6 + two]
            moment += np.float64(dr[3 * one + m]) * towards
            towards = frame[m] * frame[one] + frame[3 + m] * frame[3 + one] + frame[6 + m] * frame[6 + one]
            moment -= np.float64(dr[3 * two + m]) * towards
        grads[axis] = moment
    rr = _sum_rr(work, begin, end)
    dd = _sum_dd(work, begin, end)
    for number in range(6):
        grads[3 + number] = rr[number]
        grads[9 + number] = dd[number]
    grads[15] = -total / opacity


@njit(cache=True, nogil=True, error_model="numpy")
def undraw(
    share: int, shares: int, tile_starts: np.ndarray, pair_gaussians: np.ndarray, pair_slots: np.ndarray, frames: np.ndarray,
    outlines: np.ndarray, opacities: np.ndarray, channels: np.ndarray, origins: np.ndarray, directions: np.ndarray, valid: np.ndarray,
    row_y: np.ndarray, tiles_x: int, light_left: np.ndarray, lasts: np.ndarray, grad_picture: np.ndarray, grad_opacity: np.ndarray,
    pair_grads: np.ndarray,
) -> None:  # fmt: skip
    """Gradients of `draw` for every pair of tile and Gaussian; writes `pair_grads`, `[P, PAIR_GRADS + K]` float32, at the pair's slot."""
    padded = channels.shape[1]
    for tile in range(share, tile_starts.shape[0] - 1, shares):
        left, top = (tile % tiles_x) * TILE_PX, (tile // tiles_x) * TILE_PX
        work = tiles.new_workspace(padded)
        origin, direction = _load_rays(work, left, top, origins, directions, valid)
        drawn = tiles.load_gradients(work, left, top, light_left, lasts, grad_picture, grad_opacity)
        gaussians = pair_gaussians[tile_starts[tile] : tile_starts[tile + 1]]
        slots = pair_slots[tile_starts[tile] : tile_starts[tile + 1]]
        for place in range(drawn, gaussians.shape[0]):
            pair_grads[slots[place], :] = ZERO
        for place in range(drawn - 1, -1, -1):
            n = gaussians[place]
            begin, end = _pixel_range(outlines[n], row_y[tile])
            _place(work, begin, end, frames[n], origin, direction, opacities[n])
            for channel in range(0, padded, 4):
                tiles.shade(
                    work, begin, end, CHANNELS + np.uint64(channel * PLANE),
                    channels[n, channel], channels[n, channel + 1], channels[n, channel + 2], channels[n, channel + 3], channel == 0,
                )  # fmt: skip
            total = _unblend(work, begin, end, np.float32(place))
            grads = pair_grads[slots[place]]
            _write_pair(grads, work, begin, end, frames[n], total, opacities[n])
            for channel in range(0, padded, 4):
                g0, g1, g2, g3 = tiles.channel_grads(work, begin, end, CHANNELS + np.uint64(channel * PLANE))
                grads[PAIR_GRADS + channel] = g0
                grads[PAIR_GRADS + 1 + channel] = g1
                grads[PAIR_GRADS + 2 + channel] = g2
                grads[PAIR_GRADS + 3 + channel] = g3


@njit(cache=True, nogil=True, error_model="numpy")
def gather_pairs(
    share: int, shares: int, order: np.ndarray, slot_starts: np.ndarray, pair_grads: np.ndarray, frames: np.ndarray, quats: np.ndarray,
    scales: np.ndarray, view: np.ndarray, grad_means: np.ndarray, grad_quats: np.ndarray, grad_scales: np.ndarray,
    grad_opacities: np.ndarray, grad_channels: np.ndarray,
) -> None:  # fmt: skip
    """Add up each Gaussian's pairs in the order of the slots (whatever the number of threads) and carry the sums to its parameters;
    writes the last five arguments, which must hold zeros.

    With P the sum of gradient times `r r^T / |B d|^2` and Q that of gradient times `2 sigma d d^T / |B d|^2`:
    `grad A = A P` and `grad B = -B Q`.
    """
    sums = np.empty(PAIR_GRADS)
    grad_rotation = np.empty(9)
    spread = np.empty((2, 3, 3))
    for v in range(share * order.shape[0] // shares, (share + 1) * order.shape[0] // shares):
        n = order[v]
        sums[:] = 0.0
        for slot in range(slot_starts[v], slot_starts[v + 1]):
            for number in range(PAIR_GRADS):
                sums[number] += pair_grads[slot, number]
            for channel in range(grad_channels.shape[1]):
                grad_channels[n, channel] += pair_grads[slot, PAIR_GRADS + channel]
        grad_opacities[n] = sums[15]
        for m in range(3):
            grad_means[n, m] = view[0, m] * sums[0] + view[1, m] * sums[1] + view[2, m] * sums[2]
        for which in range(2):
            factor = 1.0 if which == 0 else -2.0
            number = 3 + 6 * which
            for i in range(3):
                for j in range(i, 3):
                    spread[which, i, j] = spread[which, j, i] = factor * sums[number]
                    number += 1
        norm = np.sqrt(
            np.float64(quats[n, 0]) ** 2 + np.float64(quats[n, 1]) ** 2 + np.float64(quats[n, 2]) ** 2 + np.float64(quats[n, 3]) ** 2
        )
        qw, qi, qj, qk = quats[n, 0] / norm, quats[n, 1] / norm, quats[n, 2] / norm, quats[n, 3] / norm
        r = rotation(qw, qi, qj, qk)
        s0, s1, s2 = np.float64(scales[n, 0]), np.float64(scales[n, 1]), np.float64(scales[n, 2])
        by_scale = np.zeros(3)
        by_others = np.zeros(3)
        for axis in range(3):
            scale = s0 if axis == 0 else (s1 if axis == 1 else s2)
            others = s1 * s2 if axis == 0 else (s0 * s2 if axis == 1 else s0 * s1)
            towards = np.zeros(3)
            for m in range(3):
                grad_a = 0.0
                grad_b = 0.0
                for k in range(3):
                    grad_a += frames[n, 3 * axis + k] * spread[0, k, m]
                    grad_b += frames[n, 9 + 3 * axis + k] * spread[1, k, m]
                turned = view[m, 0] * r[axis] + view[m, 1] * r[3 + axis] + view[m, 2] * r[6 + axis]
                by_scale[axis] += grad_a * turned
                by_others[axis] += grad_b * turned
                towards[m] = scale * grad_a + others * grad_b
            for m in range(3):
                grad_rotation[3 * m + axis] = view[0, m] * towards[0] + view[1, m] * towards[1] + view[2, m] * towards[2]
        grad_scales[n, 0] = by_scale[0] + by_others[1] * s2 + by_others[2] * s1
        grad_scales[n, 1] = by_scale[1] + by_others[0] * s2 + by_others[2] * s0
        grad_scales[n, 2] = by_scale[2] + by_others[0] * s1 + by_others[1] * s0
        grads = quaternion_gradient(grad_rotation, qw, qi, qj, qk, norm)
        grad_quats[n, 0], grad_quats[n, 1], grad_quats[n, 2], grad_quats[n, 3] = grads
