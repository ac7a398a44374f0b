"""Numba kernels that project 3D Gaussians to 2D conics (EWA splatting) and carry gradients back.

The camera is a pinhole with x right, y down, z forward. Following Zwicker et al., "EWA Volume Splatting" (2001), the covariance is
carried through the Jacobian of the projection at the mean, `cov2d = J W Sigma W^T J^T + eps2d I`; conventions and thresholds are
those of gsplat 1.5.3 (ray clamped at 1.3 times the field of view around the principal point, box of at most 3.33 sigma that shrinks
with opacity, after Radl et al., "StopThePop", arXiv 2402.00525, appendix B.2).

Arithmetic is float64 inside, because the determinant of a long thin conic cancels in float32.
Gaussians are independent, so the number of shares (`splatmend.recon.raster.threads`) cannot change a bit of the result.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

ALPHA_THRESHOLD = 1.0 / 255.0
"""A contribution below this is not drawn."""
MAX_EXTENT_SIGMA = 3.33
"""Half size of the box in standard deviations; the threshold on alpha lies inside it for every opacity up to one."""
FOV_MARGIN = 0.3
"""The ray at which the Jacobian is taken may leave the picture by this share of half the field of view."""


@njit(cache=True, nogil=True, error_model="numpy")
def rotation(w, x, y, z):
    """Rotation matrix of a unit quaternion, row by row."""
    return (
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def quaternion_gradient(g_r, qw, qi, qj, qk, norm):
    """Gradient of a quaternion of length `norm` and direction `q` from that of its rotation matrix, `g_r [9]` row by row."""
    g_w = 2.0 * (qi * (g_r[7] - g_r[5]) + qj * (g_r[2] - g_r[6]) + qk * (g_r[3] - g_r[1]))
    g_i = 2.0 * (-2.0 * qi * (g_r[4] + g_r[8]) + qj * (g_r[1] + g_r[3]) + qk * (g_r[2] + g_r[6]) + qw * (g_r[7] - g_r[5]))
    g_j = 2.0 * (qi * (g_r[1] + g_r[3]) - 2.0 * qj * (g_r[0] + g_r[8]) + qk * (g_r[5] + g_r[7]) + qw * (g_r[2] - g_r[6]))
    g_k = 2.0 * (qi * (g_r[2] + g_r[6]) + qj * (g_r[5] + g_r[7]) - 2.0 * qk * (g_r[0] + g_r[4]) + qw * (g_r[3] - g_r[1]))
    along = g_w * qw + g_i * qi + g_j * qj + g_k * qk
    return (g_w - along * qw) / norm, (g_i - along * qi) / norm, (g_j - along * qj) / norm, (g_k - along * qk) / norm


@njit(cache=True, nogil=True, error_model="numpy")
def _ray_limits(focal, centre, size):
    """Smallest and largest `x / z` at which the Jacobian is taken."""
    margin = FOV_MARGIN * 0.5 * size / focal
    return -(centre / focal + margin), (size - centre) / focal + margin


@njit(cache=True, nogil=True, error_model="numpy")
def _splat_axes(view, quat, scale, x, y, z, pinhole, width, height):
    """Both rows of `T = J W R S` (pixels), of which `T T^T` is the 2D covariance without the blur."""
    w, i, j, k = np.float64(quat[0]), np.float64(quat[1]), np.float64(quat[2]), np.float64(quat[3])
    inverse_norm = 1.0 / math.sqrt(w * w + i * i + j * j + k * k)
    r = rotation(w * inverse_norm, i * inverse_norm, j * inverse_norm, k * inverse_norm)
    low_x, high_x = _ray_limits(pinhole[0], pinhole[2], width)
    low_y, high_y = _ray_limits(pinhole[1], pinhole[3], height)
    j00 = pinhole[0] / z
    j02 = -pinhole[0] * min(high_x, max(low_x, x / z)) / z
    j11 = pinhole[1] / z
    j12 = -pinhole[1] * min(high_y, max(low_y, y / z)) / z
    a0 = j00 * view[0, 0] + j02 * view[2, 0]
    a1 = j00 * view[0, 1] + j02 * view[2, 1]
    a2 = j00 * view[0, 2] + j02 * view[2, 2]
    b0 = j11 * view[1, 0] + j12 * view[2, 0]
    b1 = j11 * view[1, 1] + j12 * view[2, 1]
    b2 = j11 * view[1, 2] + j12 * view[2, 2]
    s0, s1, s2 = np.float64(scale[0]), np.float64(scale[1]), np.float64(scale[2])
    row_x = (
        (a0 * r[0] + a1 * r[3] + a2 * r[6]) * s0,
        (a0 * r[1] + a1 * r[4] + a2 * r[7]) * s1,
        (a0 * r[2] + a1 * r[5] + a2 * r[8]) * s2,
    )
    row_y = (
        (b0 * r[0] + b1 * r[3] + b2 * r[6]) * s0,
        (b0 * r[1] + b1 * r[4] + b2 * r[7]) * s1,
        (b0 * r[2] + b1 * r[5] + b2 * r[8]) * s2,
    )
    return row_x, row_y


@njit(cache=True, nogil=True, error_model="numpy")
def _project_one(
    n, means, quats, scales, opacities, view, pinhole, width, height, near_m, far_m, eps2d, means2d, conics, depths, extents, radii
):  # fmt: skip
    fx, fy, cx, cy = pinhole[0], pinhole[1], pinhole[2], pinhole[3]
    radii[n, 0] = 0
    radii[n, 1] = 0
    means2d[n, 0] = 0.0
    means2d[n, 1] = 0.0
    px, py, pz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
    x = view[0, 0] * px + view[0, 1] * py + view[0, 2] * pz + view[0, 3]
    y = view[1, 0] * px + view[1, 1] * py + view[1, 2] * pz + view[1, 3]
    z = view[2, 0] * px + view[2, 1] * py + view[2, 2] * pz + view[2, 3]
    opacity = np.float64(opacities[n])
    # Written so that a NaN fails the test.
    if not (z >= near_m and z <= far_m and opacity >= ALPHA_THRESHOLD):
        return

    t0, t1 = _splat_axes(view, quats[n], scales[n], x, y, z, pinhole, width, height)
    cov_xx = t0[0] * t0[0] + t0[1] * t0[1] + t0[2] * t0[2] + eps2d
    cov_xy = t0[0] * t1[0] + t0[1] * t1[1] + t0[2] * t1[2]
    cov_yy = t1[0] * t1[0] + t1[1] * t1[1] + t1[2] * t1[2] + eps2d
    determinant = cov_xx * cov_yy - cov_xy * cov_xy
    if not determinant > 0.0:
        return

    extent = min(MAX_EXTENT_SIGMA, math.sqrt(2.0 * math.log(opacity / ALPHA_THRESHOLD)))
    extent_x = extent * math.sqrt(cov_xx)
    extent_y = extent * math.sqrt(cov_yy)
    radius_x = math.ceil(extent_x)
    radius_y = math.ceil(extent_y)
    mean_x = fx * x / z + cx
    mean_y = fy * y / z + cy
    inside_x = mean_x + radius_x > 0.0 and mean_x - radius_x < width
    inside_y = mean_y + radius_y > 0.0 and mean_y - radius_y < height
    if not (radius_x > 0.0 and radius_y > 0.0 and inside_x and inside_y):
        return

    means2d[n, 0] = mean_x
    means2d[n, 1] = mean_y
    conics[n, 0] = cov_yy / determinant
    conics[n, 1] = -cov_xy / determinant
    conics[n, 2] = cov_xx / determinant
    depths[n] = z
    extents[n, 0] = extent_x
    extents[n, 1] = extent_y
    largest = float(2**30)
    radii[n, 0] = int(min(radius_x, largest))
    radii[n, 1] = int(min(radius_y, largest))


@njit(cache=True, nogil=True, error_model="numpy")
def project_forward(
    share: int, shares: int, means: np.ndarray, quats: np.ndarray, scales: np.ndarray, opacities: np.ndarray, view: np.ndarray,
    pinhole: np.ndarray, width: int, height: int, near_m: float, far_m: float, eps2d: float, means2d: np.ndarray,
    conics: np.ndarray, depths: np.ndarray, extents: np.ndarray, radii: np.ndarray,
) -> None:  # fmt: skip
    """Project N Gaussians; writes the last five arguments.

    Args:
        means, quats, scales, opacities: `[N, 3]`, `[N, 4]` (wxyz, any length), `[N, 3]`, `[N]` float32.
        view: `camera_from_world`, `[4, 4]` float64.
        pinhole: `fx, fy, cx, cy` in pixels, `[4]` float64.
        means2d: `[N, 2]` float32, pixels.
        conics: `[N, 3]` float32, upper triangle of the inverse 2D covariance.
        depths: `[N]` float32, camera z.
        extents: `[N, 2]` float32, exact half sides of the box around the ellipse where alpha reaches the threshold, pixels.
        radii: `[N, 2]` int32, the box that decides visibility, 0 where the Gaussian is not drawn.
    """
    for n in range(share * means.shape[0] // shares, (share + 1) * means.shape[0] // shares):
        _project_one(
            n, means, quats, scales, opacities, view, pinhole, width, height, near_m, far_m, eps2d, means2d, conics, depths, extents, radii
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _unproject_one(
    n, means, quats, scales, view, pinhole, width, height,
    conics, radii, grad_means2d, grad_conics, grad_means, grad_quats, grad_scales,
):  # fmt: skip
    fx, fy = pinhole[0], pinhole[1]
    low_x, high_x = _ray_limits(pinhole[0], pinhole[2], width)
    low_y, high_y = _ray_limits(pinhole[1], pinhole[3], height)
    grad_means[n, :] = 0.0
    grad_quats[n, :] = 0.0
    grad_scales[n, :] = 0.0
    if radii[n, 0] == 0:
        return
    px, py, pz = np.float64(means[n, 0]), np.float64(means[n, 1]), np.float64(means[n, 2])
    x = view[0, 0] * px + view[0, 1] * py + view[0, 2] * pz + view[0, 3]
    y = view[1, 0] * px + view[1, 1] * py + view[1, 2] * pz + view[1, 3]
    z = view[2, 0] * px + view[2, 1] * py + view[2, 2] * pz + view[2, 3]

    # Conic to covariance: -conic G conic, with G symmetric.
    a, b, c = np.float64(conics[n, 0]), np.float64(conics[n, 1]), np.float64(conics[n, 2])
    g_a, g_b, g_c = np.float64(grad_conics[n, 0]), 0.5 * np.float64(grad_conics[n, 1]), np.float64(grad_conics[n, 2])
    p00, p01 = a * g_a + b * g_b, a * g_b + b * g_c
    p10, p11 = b * g_a + c * g_b, b * g_b + c * g_c
    g_xx = -(p00 * a + p01 * b)
    g_xy = -(p00 * b + p01 * c)
    g_yy = -(p10 * b + p11 * c)

    # Covariance to T, then to J, scales and rotation.
    row_x, row_y = _splat_axes(view, quats[n], scales[n], x, y, z, pinhole, width, height)
    norm = math.sqrt(
        np.float64(quats[n, 0]) ** 2 + np.float64(quats[n, 1]) ** 2 + np.float64(quats[n, 2]) ** 2 + np.float64(quats[n, 3]) ** 2
    )
    qw, qi, qj, qk = quats[n, 0] / norm, quats[n, 1] / norm, quats[n, 2] / norm, quats[n, 3] / norm
    r = rotation(qw, qi, qj, qk)
    ray_x, ray_y = x / z, y / z
    clamped_x = min(high_x, max(low_x, ray_x))
    clamped_y = min(high_y, max(low_y, ray_y))
    j00, j02 = fx / z, -fx * clamped_x / z
    j11, j12 = fy / z, -fy * clamped_y / z
    g_j00 = 0.0
    g_j02 = 0.0
    g_j11 = 0.0
    g_j12 = 0.0
    g_r = np.zeros(9)
    for k in range(3):
        scale = np.float64(scales[n, k])
        g_tx = 2.0 * (g_xx * row_x[k] + g_xy * row_y[k])
        g_ty = 2.0 * (g_xy * row_x[k] + g_yy * row_y[k])
        # Column k of W R, the splat's axis in the camera frame.
        axis_x = view[0, 0] * r[k] + view[0, 1] * r[3 + k] + view[0, 2] * r[6 + k]
        axis_y = view[1, 0] * r[k] + view[1, 1] * r[3 + k] + view[1, 2] * r[6 + k]
        axis_z = view[2, 0] * r[k] + view[2, 1] * r[3 + k] + view[2, 2] * r[6 + k]
        g_j00 += g_tx * axis_x * scale
        g_j02 += g_tx * axis_z * scale
        g_j11 += g_ty * axis_y * scale
        g_j12 += g_ty * axis_z * scale
        g_axis_x = g_tx * j00
        g_axis_y = g_ty * j11
        g_axis_z = g_tx * j02 + g_ty * j12
        grad_scales[n, k] = g_axis_x * axis_x + g_axis_y * axis_y + g_axis_z * axis_z
        for m in range(3):
            g_r[3 * m + k] = scale * (view[0, m] * g_axis_x + view[1, m] * g_axis_y + view[2, m] * g_axis_z)

    grad_quats[n, 0], grad_quats[n, 1], grad_quats[n, 2], grad_quats[n, 3] = quaternion_gradient(g_r, qw, qi, qj, qk, norm)

    # Jacobian and projected mean to the camera-frame mean. A clamped ray depends on z no longer.
    g_u, g_v = np.float64(grad_means2d[n, 0]), np.float64(grad_means2d[n, 1])
    g_x = g_u * fx / z
    g_y = g_v * fy / z
    g_z = -(g_u * fx * ray_x + g_v * fy * ray_y) / z
    g_z += -(g_j00 * j00 + g_j11 * j11 + g_j02 * j02 + g_j12 * j12) / z
    if ray_x >= low_x and ray_x <= high_x:
        g_x += -g_j02 * fx / (z * z)
        g_z += g_j02 * fx * ray_x / (z * z)
    if ray_y >= low_y and ray_y <= high_y:
        g_y += -g_j12 * fy / (z * z)
        g_z += g_j12 * fy * ray_y / (z * z)
    for m in range(3):
        grad_means[n, m] = view[0, m] * g_x + view[1, m] * g_y + view[2, m] * g_z


@njit(cache=True, nogil=True, error_model="numpy")
def project_backward(
    share: int, shares: int, means: np.ndarray, quats: np.ndarray, scales: np.ndarray, view: np.ndarray, pinhole: np.ndarray,
    width: int, height: int, conics: np.ndarray, radii: np.ndarray, grad_means2d: np.ndarray, grad_conics: np.ndarray,
    grad_means: np.ndarray, grad_quats: np.ndarray, grad_scales: np.ndarray,
) -> None:  # fmt: skip
    """Gradients of `project_forward`; writes the last three arguments (zero where the Gaussian was not drawn).

    `grad_conics[:, 1]` is the derivative with respect to the off-diagonal entry that stands for both of its places.
    With `T = J W R S` and `cov = T T^T + eps I`: `d cov^-1 = -cov^-1 (d cov) cov^-1` and `grad T = 2 (grad cov) T`.
    """
    for n in range(share * means.shape[0] // shares, (share + 1) * means.shape[0] // shares):
        _unproject_one(
            n, means, quats, scales, view, pinhole, width, height,
    conics, radii, grad_means2d, grad_conics, grad_means, grad_quats, grad_scales,
        )  # fmt: skip
