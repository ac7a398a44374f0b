"""Both models on CUDA by gsplat.

The only module that imports gsplat, and only inside the call: on a machine with a compiler but without a GPU the import would start
a long build.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from splatmend.datasets.geometry import inverse
from splatmend.datasets.log import Camera
from splatmend.recon.raster.camera_rays import RayCamera, line_views
from splatmend.recon.raster.types import RasterInputs, RasterOutput, RasterStats
from splatmend.recon.transfer import upload, upload_together

RAY_TILE_PX = 8
"""Side of the tiles that `ray` is drawn in."""


def without_camera_axis(means2d: Tensor) -> Tensor:
    """`[N, 2]` of the `[1, N, 2]` that gsplat draws from, with the gradient that `backward` brings there in its `grad`.

    A plain index would be a branch beside the graph and never see a gradient.
    """
    flat = means2d.detach().squeeze(0)

    def keep(grad: Tensor) -> None:
        flat.grad = grad.squeeze(0)

    if means2d.requires_grad:
        means2d.register_hook(keep)
    return flat


def _need_cuda() -> None:
    if not torch.cuda.is_available():
        raise RuntimeError("the gsplat backend needs a CUDA device, and torch sees none")


def rasterize_ewa(inputs: RasterInputs) -> RasterOutput:
    """Draw with the `ewa` model on CUDA; see `splatmend.recon.raster.rasterize`.

    gsplat pads channels to a count that it has a kernel for and draws more than 32 of them in chunks.

    Raises:
        RuntimeError: where torch sees no CUDA device.
    """
    _need_cuda()
    if inputs.means.shape[0] == 0:
        # gsplat divides by the number of Gaussians and ends the process.
        return _nothing(inputs, "ewa")
    from gsplat import rasterization

    picture, opacity, meta = rasterization(
        inputs.means,
        inputs.quats_wxyz,
        inputs.scales,
        inputs.opacities,
        inputs.channels,
        inputs.camera_from_world[None],
        inputs.intrinsics[None],
        inputs.width,
        inputs.height,
        near_plane=inputs.near_m,
        far_plane=inputs.far_m,
        eps2d=inputs.eps2d,
        sh_degree=None,
        packed=False,
        render_mode="RGB",
        rasterize_mode="classic",
        camera_model="pinhole",
    )
    return RasterOutput(
        channels=picture.squeeze(0),
        opacity=opacity.squeeze((0, -1)),
        means2d=without_camera_axis(meta["means2d"]),
        radii=meta["radii"].squeeze(0),
        stats=RasterStats(model="ewa", backend="gsplat", intersections=int(meta["flatten_ids"].shape[0])),
    )


def rasterize_ray(inputs: RasterInputs) -> RasterOutput:
    """Draw with the `ray` model on CUDA; see `splatmend.recon.raster.rasterize`.

    gsplat cuts each Gaussian at a box from the unscented transform and leaves out those with a sigma point more than a tenth of the
    picture outside it or at a ray that its undistortion does not reach; the CPU kernels bound exactly and draw them. Its projection gives
    no gradient, so there are no `means2d`. Along rays it draws three channels and ends the process at any other number, so more are drawn
    three at a time. Between lines it interpolates views where the CPU kernels interpolate places: with a shift of `s` metres and a turn of
    `a` radians during the readout its camera is up to `s a / 8` metres beside theirs (15 m/s at 30 degrees a second, 30 ms: 1 mm).

    Raises:
        RuntimeError: where torch sees no CUDA device.
    """
    _need_cuda()
    if inputs.means.shape[0] == 0:
        return _nothing(inputs, "ray")
    from gsplat import rasterization

    assert inputs.ray_camera is not None
    lens = inputs.ray_camera
    # Around the camera, where float32 is finest, and where gsplat's poses between lines leave ours the least.
    eye, views = upload_together(line_views(lens), inputs.means.device) if inputs.line_views is None else inputs.line_views
    picture, opacity, meta = rasterization(
        inputs.means - eye,
        inputs.quats_wxyz,
        inputs.scales,
        inputs.opacities,
        _in_threes(inputs.channels),
        Ks=inputs.intrinsics[None],
        width=inputs.width,
        height=inputs.height,
        near_plane=inputs.near_m,
        far_plane=inputs.far_m,
        eps2d=inputs.eps2d,
        sh_degree=None,
        packed=False,
        render_mode="RGB",
        rasterize_mode="classic",
        with_ut=True,
        with_eval3d=True,
        channel_chunk=3,
        tile_size=RAY_TILE_PX,
        **lens_arguments(lens.camera, inputs.means.device),
        **_shutter(lens, views),
    )
    picture = picture.squeeze(0)
    return RasterOutput(
        channels=picture if picture.shape[-1] == inputs.channels.shape[1] else picture.narrow(-1, 0, inputs.channels.shape[1]),
        opacity=opacity.squeeze((0, -1)),
        means2d=None,
        radii=meta["radii"].squeeze(0),
        stats=RasterStats(model="ray", backend="gsplat", intersections=int(meta["flatten_ids"].shape[0])),
    )


def harmonic_sums(directions: Tensor, sh: Tensor, degree: int) -> Tensor:
    """Sums `[N, 3]` of the harmonics up to a degree, with coefficients `sh [N, K, 3]`, in directions `[N, 3]` of any length."""
    from gsplat import spherical_harmonics

    return spherical_harmonics(degree, directions, sh)


def _in_threes(channels: Tensor) -> Tensor:
    """Channels [N, C] with as many zeros after them as make C a multiple of three."""
    missing = -channels.shape[1] % 3
    return torch.nn.functional.pad(channels, (0, missing)) if missing else channels


@functools.lru_cache(maxsize=16)
def lens_arguments(camera: Camera, device: torch.device) -> Mapping[str, Any]:
    """gsplat's arguments for the lens: it takes six radial coefficients of a pinhole and the tangential ones apart."""
    if camera.distortion_model == "none":
        return {"camera_model": "pinhole"}
    if camera.distortion_model == "opencv_fisheye":
        return {"camera_model": "fisheye", "radial_coeffs": torch.tensor([camera.distortion], device=device)}
    k1, k2, p1, p2, k3 = camera.distortion
    return {
        "camera_model": "pinhole",
        "radial_coeffs": torch.tensor([[k1, k2, k3, 0.0, 0.0, 0.0]], device=device),
        "tangential_coeffs": torch.tensor([[p1, p2]], device=device),
    }


def shutter_arguments(ray_camera: RayCamera, eye: np.ndarray, device: torch.device) -> dict[str, Any]:
    """gsplat's arguments for the poses, in a world around `eye`. Its start and end are those of the first and last line in time; since ours
    are ordered by the picture, two of its directions are enough."""
    around_eye = np.stack([ray_camera.world_from_first, ray_camera.world_from_last][: 1 + ray_camera.rolls])
    around_eye[:, :3, 3] -= eye
    return _shutter(ray_camera, upload(inverse(around_eye), device))


def _shutter(ray_camera: RayCamera, views: Float[Tensor, "V 4 4"]) -> dict[str, Any]:
    if len(views) == 1:
        return {"viewmats": views}
    from gsplat import RollingShutterType

    sideways = ray_camera.camera.shutter in ("left_to_right", "right_to_left")
    kind = RollingShutterType.ROLLING_LEFT_TO_RIGHT if sideways else RollingShutterType.ROLLING_TOP_TO_BOTTOM
    return {"viewmats": views[:1], "viewmats_rs": views[1:], "rolling_shutter": kind}


def _nothing(inputs: RasterInputs, model: str) -> RasterOutput:
    """The picture of no Gaussians, joined to the inputs' graph."""
    none = inputs.channels.sum()
    return RasterOutput(
        channels=none + inputs.means.new_zeros(inputs.height, inputs.width, inputs.channels.shape[1]),
        opacity=none + inputs.means.new_zeros(inputs.height, inputs.width),
        means2d=inputs.means.new_zeros(0, 2) if model == "ewa" else None,
        radii=torch.zeros(0, 2, dtype=torch.int32, device=inputs.means.device),
        stats=RasterStats(model=model, backend="gsplat", intersections=0),
    )
