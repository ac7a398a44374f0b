"""Numba kernels that blend each tile's Gaussians front to back, and the gradients of that.

Blending follows Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (2023), with gsplat 1.5.3's constants:
pixel centres at +0.5, alpha capped at 0.999 and skipped below 1/255, a pixel closed by the first Gaussian that would bring its
transmittance to 1e-4 or less (that Gaussian is not drawn).

A tile is worked on one Gaussian at a time, over the rows that it covers. All pixel values of the tile lie in one flat float32
workspace, plane after plane at constant offsets: LLVM then proves that the planes do not overlap and turns every loop over pixels
into full vectors without run-time checks. For the same reason choices per pixel are selections, never branches, and indices are
unsigned (Numba wraps signed ones around, as Python does, which costs a choice per access).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from splatmend.recon.raster.binning import TILE_PX

# Compiled kernels freeze these numbers; all must be float32, or the loops would widen to float64.
ZERO = np.float32(0.0)
ONE = np.float32(1.0)
HALF = np.float32(0.5)
ALPHA_THRESHOLD = np.float32(1.0 / 255.0)
ALPHA_CAP = np.float32(0.999)
STOP = np.float32(1e-4)

PLANE = TILE_PX * TILE_PX
# Planes of the workspace.
X = np.uint64(0 * PLANE)  # pixel centre in the tile
Y = np.uint64(1 * PLANE)
ALPHA = np.uint64(2 * PLANE)
WEIGHT = np.uint64(3 * PLANE)  # alpha times transmittance in front
LIGHT = np.uint64(4 * PLANE)  # transmittance in front of the current Gaussian, 0 once the pixel is closed
LEFT = np.uint64(5 * PLANE)  # transmittance behind the last Gaussian drawn
LAST = np.uint64(6 * PLANE)  # one more than the place in the tile's list of the last Gaussian drawn
BEHIND = np.uint64(7 * PLANE)  # backward: what lies behind, times its gradient
SHADE = np.uint64(8 * PLANE)  # backward: the Gaussian's channels times the pixel's gradient
# Planes 9 to 23 belong to the rays of `ray_tiles`.
CHANNELS = np.uint64(24 * PLANE)  # one plane per channel, in groups of four
_CHANNEL_1, _CHANNEL_2, _CHANNEL_3 = (np.uint64(channel * PLANE) for channel in (1, 2, 3))

CHECK_EVERY = 16
"""Gaussians between two looks at whether the whole tile is closed."""

# exp(u - 3/4) as a polynomial in u for |u| <= 3/4, so that exp(-x) = exp(-x/4)^4 for 0 <= x <= 6: its relative error is 2e-8.
_EXP_RANGE = np.float32(6.0)
_QUARTER = np.float32(0.25)
_CENTRE = np.float32(0.75)
_EXP_SERIES = np.polynomial.Chebyshev.interpolate(lambda u: np.exp(u - 0.75), 7, domain=[-0.75, 0.75])
_E0, _E1, _E2, _E3, _E4, _E5, _E6, _E7 = (np.float32(c) for c in _EXP_SERIES.convert(kind=np.polynomial.Polynomial).coef)

EXACT = {"contract"}
REASSOCIATE = {"contract", "reassoc", "nsz"}


@njit(cache=True, nogil=True, error_model="numpy", fastmath=EXACT)
def exp_negative(x: np.float32) -> np.float32:
    """`exp(-x)` in float32 for `x` in [0, 6] with a relative error below 1e-6; larger `x` gives `exp(-6)`.

    At exp(-6) every opacity up to one is below the threshold on alpha, so larger `x` need no other value.
    """
    u = _CENTRE - min(x, _EXP_RANGE) * _QUARTER
    p = _E7
    p = p * u + _E6
    p = p * u + _E5
    p = p * u + _E4
    p = p * u + _E3
    p = p * u + _E2
    p = p * u + _E1
    p = p * u + _E0
    p = p * p
    return p * p


@njit(cache=True, nogil=True, error_model="numpy", fastmath=EXACT)
def _write_alphas(work, begin, end, mean_x, mean_y, a, b, c, opacity):
    """Alpha of one Gaussian at the pixels [begin, end) of the tile.

    Both directions call this one function, so that they take the same side of every threshold.
    """
    for p in range(begin, end):
        x = mean_x - work[X + p]
        y = mean_y - work[Y + p]
        sigma = HALF * (a * x * x + c * y * y) + b * x * y
        alpha = min(ALPHA_CAP, opacity * exp_negative(sigma))
        work[ALPHA + p] = alpha if (sigma >= ZERO and alpha >= ALPHA_THRESHOLD) else ZERO


@njit(cache=True, nogil=True, error_model="numpy", fastmath=EXACT)
def blend(work, begin, end, place):
    """Let one Gaussian take its share of the light at each pixel."""
    for p in range(begin, end):
        alpha = work[ALPHA + p]
        light = work[LIGHT + p]
        behind = light * (ONE - alpha)
        closed = behind <= STOP
        drawn = (not closed) and alpha > ZERO
        work[WEIGHT + p] = alpha * light if not closed else ZERO
        work[LIGHT + p] = behind if not closed else ZERO
        work[LEFT + p] = behind if not closed else work[LEFT + p]
        work[LAST + p] = place if drawn else work[LAST + p]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=EXACT)
def add_channels(work, begin, end, plane, c0, c1, c2, c3):
    """Add four channels, weighted, to their planes."""
    for p in range(begin, end):
        weight = work[WEIGHT + p]
        work[plane + p] += weight * c0
        work[plane + _CHANNEL_1 + p] += weight * c1
        work[plane + _CHANNEL_2 + p] += weight * c2
        work[plane + _CHANNEL_3 + p] += weight * c3


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
def open_pixels(work):
    """Number of pixels that still take light."""
    count = ZERO
    for p in range(np.uint64(PLANE)):
        count += ONE if work[LIGHT + p] > ZERO else ZERO
    return count


@njit(cache=True, nogil=True, error_model="numpy")
def _pixel_range(mean_y, extent_y):
    """First pixel and the one after the last of the tile's rows that the Gaussian may touch."""
    first = min(max(math.floor(mean_y - extent_y - np.float32(0.51)), 0), TILE_PX)
    last = min(max(math.floor(mean_y + extent_y - np.float32(0.49)) + 1, first), TILE_PX)
    return np.uint64(first * TILE_PX), np.uint64(last * TILE_PX)


@njit(cache=True, nogil=True, error_model="numpy")
def new_workspace(channels):
    work = np.zeros(CHANNELS + np.uint64(channels * PLANE), np.float32)
    for p in range(PLANE):
        work[X + np.uint64(p)] = np.float32(p % TILE_PX) + HALF
        work[Y + np.uint64(p)] = np.float32(p // TILE_PX) + HALF
    return work


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_tile(left, top, gaussians, means2d, conics, extents, opacities, channels, picture, light_left, lasts):
    height, width, picture_channels = picture.shape
    padded = channels.shape[1]
    work = new_workspace(padded)
    rows = min(TILE_PX, height - top)
    columns = min(TILE_PX, width - left)
    for row in range(rows):
        for column in range(columns):
            p = np.uint64(row * TILE_PX + column)
            work[LIGHT + p] = ONE
            work[LEFT + p] = ONE

    for place in range(gaussians.shape[0]):
        if place % CHECK_EVERY == 0 and open_pixels(work) == ZERO:
            break
        n = gaussians[place]
        mean_x = means2d[n, 0] - np.float32(left)
        mean_y = means2d[n, 1] - np.float32(top)
        begin, end = _pixel_range(mean_y, extents[n, 1])
        _write_alphas(work, begin, end, mean_x, mean_y, conics[n, 0], conics[n, 1], conics[n, 2], opacities[n])
        blend(work, begin, end, np.float32(place + 1))
        for channel in range(0, padded, 4):
            plane = CHANNELS + np.uint64(channel * PLANE)
            add_channels(
                work, begin, end, plane, channels[n, channel], channels[n, channel + 1], channels[n, channel + 2], channels[n, channel + 3]
            )  # fmt: skip

    for row in range(rows):
        for column in range(columns):
            p = np.uint64(row * TILE_PX + column)
            light_left[top + row, left + column] = work[LEFT + p]
            lasts[top + row, left + column] = int(work[LAST + p])
            for channel in range(picture_channels):
                picture[top + row, left + column, channel] = work[CHANNELS + np.uint64(channel * PLANE) + p]


@njit(cache=True, nogil=True, error_model="numpy")
def draw(
    share: int, shares: int, tile_starts: np.ndarray, pair_gaussians: np.ndarray, means2d: np.ndarray, conics: np.ndarray,
    extents: np.ndarray, opacities: np.ndarray, channels: np.ndarray, tiles_x: int, picture: np.ndarray, light_left: np.ndarray,
    lasts: np.ndarray,
) -> None:  # fmt: skip
    """Blend every tile; writes the last three arguments.

    Args:
        tile_starts, pair_gaussians: as `bin_gaussians` returns them.
        means2d, conics, extents, opacities: as `project_forward` writes them.
        channels: `[N, K]` float32 with K a multiple of four, at least C.
        tiles_x: tiles in a row of the screen.
        picture: `[H, W, C]` float32.
        light_left: `[H, W]` float32, transmittance behind the last Gaussian drawn.
        lasts: `[H, W]` int32, one more than the place in the tile's list of the last Gaussian drawn.
    """
    for tile in range(share, tile_starts.shape[0] - 1, shares):
        gaussians = pair_gaussians[tile_starts[tile] : tile_starts[tile + 1]]
        left = (tile % tiles_x) * TILE_PX
        top = (tile // tiles_x) * TILE_PX
        _draw_tile(left, top, gaussians, means2d, conics, extents, opacities, channels, picture, light_left, lasts)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=EXACT)
def shade(work, begin, end, plane, c0, c1, c2, c3, first):
    """Add four channels times the gradients of the picture to the shade; the first four start it."""
    for p in range(begin, end):
        here = (
            work[plane + p] * c0 + work[plane + _CHANNEL_1 + p] * c1 + work[plane + _CHANNEL_2 + p] * c2 + work[plane + _CHANNEL_3 + p] * c3
        )
        work[SHADE + p] = here if first else here + work[SHADE + p]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
def _unblend(work, begin, end, place, mean_x, mean_y):
    """Step back behind one Gaussian; returns the moments over pixels of the gradient of sigma: 1, x, y, xx, xy, yy.

    With shade `s = c . grad`, transmittance `T` in front and `B` the sum of `s_j alpha_j T_j` behind (less the gradient of the
    transmittance that is left, times it): `d / d alpha = T s - B / (1 - alpha)` and `d / d sigma = -alpha d / d alpha`.
    """
    m = ZERO
    m_x = ZERO
    m_y = ZERO
    m_xx = ZERO
    m_xy = ZERO
    m_yy = ZERO
    for p in range(begin, end):
        alpha = work[ALPHA + p] if work[LAST + p] > place else ZERO
        inverse = ONE / (ONE - alpha)
        light = work[LIGHT + p] * inverse
        weight = alpha * light
        shade = work[SHADE + p]
        behind = work[BEHIND + p]
        grad = alpha * (behind * inverse - light * shade)
        grad = grad if alpha < ALPHA_CAP else ZERO
        work[LIGHT + p] = light
        work[WEIGHT + p] = weight
        work[BEHIND + p] = behind + shade * weight
        x = mean_x - work[X + p]
        y = mean_y - work[Y + p]
        m += grad
        m_x += grad * x
        m_y += grad * y
        m_xx += grad * x * x
        m_xy += grad * x * y
        m_yy += grad * y * y
    return m, m_x, m_y, m_xx, m_xy, m_yy


@njit(cache=True, nogil=True, error_model="numpy", fastmath=REASSOCIATE)
def channel_grads(work, begin, end, plane):
    """Gradients of four channels of one Gaussian."""
    g0 = ZERO
    g1 = ZERO
    g2 = ZERO
    g3 = ZERO
    for p in range(begin, end):
        weight = work[WEIGHT + p]
        g0 += weight * work[plane + p]
        g1 += weight * work[plane + _CHANNEL_1 + p]
        g2 += weight * work[plane + _CHANNEL_2 + p]
        g3 += weight * work[plane + _CHANNEL_3 + p]
    return g0, g1, g2, g3


@njit(cache=True, nogil=True, error_model="numpy")
def load_gradients(work, left, top, light_left, lasts, grad_picture, grad_opacity):
    """Start the way back in a new workspace; returns one more than the place of the last Gaussian that the tile drew."""
    height, width, picture_channels = grad_picture.shape
    drawn = 0
    for row in range(min(TILE_PX, height - top)):
        for column in range(min(TILE_PX, width - left)):
            p = np.uint64(row * TILE_PX + column)
            here = light_left[top + row, left + column]
            work[LIGHT + p] = here
            work[LAST + p] = np.float32(lasts[top + row, left + column])
            # Opacity is one minus the light that is left.
            work[BEHIND + p] = -here * grad_opacity[top + row, left + column]
            drawn = max(drawn, lasts[top + row, left + column])
            for channel in range(picture_channels):
                work[CHANNELS + np.uint64(channel * PLANE) + p] = grad_picture[top + row, left + column, channel]
    return drawn


@njit(cache=True, nogil=True, error_model="numpy")
def _undraw_tile(
    left, top, gaussians, slots, means2d, conics, extents, opacities, channels, light_left, lasts, grad_picture, grad_opacity, pair_grads
):  # fmt: skip
    padded = channels.shape[1]
    work = new_workspace(padded)
    drawn = load_gradients(work, left, top, light_left, lasts, grad_picture, grad_opacity)

    for place in range(drawn, gaussians.shape[0]):
        pair_grads[slots[place], :] = ZERO
    for place in range(drawn - 1, -1, -1):
        n = gaussians[place]
        mean_x = means2d[n, 0] - np.float32(left)
        mean_y = means2d[n, 1] - np.float32(top)
        a, b, c, opacity = conics[n, 0], conics[n, 1], conics[n, 2], opacities[n]
        begin, end = _pixel_range(mean_y, extents[n, 1])
        _write_alphas(work, begin, end, mean_x, mean_y, a, b, c, opacity)
        for channel in range(0, padded, 4):
            plane = CHANNELS + np.uint64(channel * PLANE)
            shade(
                work, begin, end, plane,
                channels[n, channel], channels[n, channel + 1], channels[n, channel + 2], channels[n, channel + 3],
                channel == 0,
            )  # fmt: skip
        m, m_x, m_y, m_xx, m_xy, m_yy = _unblend(work, begin, end, np.float32(place), mean_x, mean_y)
        grads = pair_grads[slots[place]]
        grads[0] = a * m_x + b * m_y
        grads[1] = b * m_x + c * m_y
        grads[2] = HALF * m_xx
        grads[3] = m_xy
        grads[4] = HALF * m_yy
        grads[5] = -m / opacity
        for channel in range(0, padded, 4):
            g0, g1, g2, g3 = channel_grads(work, begin, end, CHANNELS + np.uint64(channel * PLANE))
            grads[6 + channel] = g0
            grads[7 + channel] = g1
            grads[8 + channel] = g2
            grads[9 + channel] = g3


@njit(cache=True, nogil=True, error_model="numpy")
def undraw(
    share: int, shares: int, tile_starts: np.ndarray, pair_gaussians: np.ndarray, pair_slots: np.ndarray, means2d: np.ndarray,
    conics: np.ndarray, extents: np.ndarray, opacities: np.ndarray, channels: np.ndarray, tiles_x: int, light_left: np.ndarray,
    lasts: np.ndarray, grad_picture: np.ndarray, grad_opacity: np.ndarray, pair_grads: np.ndarray,
) -> None:  # fmt: skip
    """Gradients of `draw` for every pair of tile and Gaussian; writes `pair_grads`, `[P, 6 + K]` float32.

    A row holds the gradients of the mean (2), conic (3), opacity (1) and channels (K), at the pair's slot.
    """
    for tile in range(share, tile_starts.shape[0] - 1, shares):
        start, end = tile_starts[tile], tile_starts[tile + 1]
        left = (tile % tiles_x) * TILE_PX
        top = (tile // tiles_x) * TILE_PX
        _undraw_tile(
            left, top, pair_gaussians[start:end], pair_slots[start:end], means2d, conics, extents, opacities, channels,
            light_left, lasts, grad_picture, grad_opacity, pair_grads,
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def gather_pairs(
    share: int, shares: int, order: np.ndarray, slot_starts: np.ndarray, pair_grads: np.ndarray, grad_means2d: np.ndarray,
    grad_conics: np.ndarray, grad_opacities: np.ndarray, grad_channels: np.ndarray,
) -> None:  # fmt: skip
    """Add up each Gaussian's pairs, tile after tile; adds to the last four arguments, which must hold zeros.

    The order is that of the slots, so the sum does not depend on the number of threads.
    """
    for v in range(share * order.shape[0] // shares, (share + 1) * order.shape[0] // shares):
        n = order[v]
        for slot in range(slot_starts[v], slot_starts[v + 1]):
            grads = pair_grads[slot]
            grad_means2d[n, 0] += grads[0]
            grad_means2d[n, 1] += grads[1]
            grad_conics[n, 0] += grads[2]
            grad_conics[n, 1] += grads[3]
            grad_conics[n, 2] += grads[4]
            grad_opacities[n] += grads[5]
            for channel in range(grad_channels.shape[1]):
                grad_channels[n, channel] += grads[6 + channel]
