"""The door to every rasteriser.

A splat model says what a Gaussian looks like on the screen, a backend draws it; `_RASTERIZERS` lists the pairs there are. Two
models are never compared with each other, two backends of one model must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor, float32

from splatmend.datasets.geometry import inverse
from splatmend.datasets.log import Camera
from splatmend.recon.raster import cpu, gsplat_backend, ray_cpu
from splatmend.recon.raster.camera_rays import RayCamera
from splatmend.recon.raster.types import RasterInputs, RasterOutput

Model = Literal["ewa", "ray"]
Backend = Literal["cpu", "gsplat"]

_RASTERIZERS: dict[tuple[str, str], Callable[[RasterInputs], RasterOutput]] = {
    ("ewa", "cpu"): cpu.rasterize_ewa,
    ("ewa", "gsplat"): gsplat_backend.rasterize_ewa,
    ("ray", "cpu"): ray_cpu.rasterize_ray,
    ("ray", "gsplat"): gsplat_backend.rasterize_ray,
}


def rasterize(
    means: Float[Tensor, "N 3"],
    quats_wxyz: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, "N"],
    channels: Float[Tensor, "N C"],
    camera_from_world: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    *,
    model: Model = "ewa",
    backend: Backend | None = None,
    near_m: float = 0.01,
    far_m: float = 1e10,
    eps2d: float = 0.3,
    background: Float[Tensor, "C"] | None = None,
    ray_camera: RayCamera | None = None,
    line_views: tuple[Float[Tensor, "3"], Float[Tensor, "V 4 4"]] | None = None,
) -> RasterOutput:
    """Draw 3D Gaussians with one camera (x right, y down, z forward).

    Differentiable with respect to means, quaternions, scales, opacities, channels and background; not to the camera. The picture
    is that of gsplat 1.5.3's `rasterization(..., rasterize_mode="classic", sh_degree=None, packed=False)`: alpha skipped below 1/255
    and capped at 0.999, a pixel closed at transmittance 1e-4, pixel centres at +0.5. `ewa` draws a 2D conic per Gaussian with a
    pinhole. `ray` (`with_ut=True, with_eval3d=True`) evaluates each Gaussian along the pixel's own ray, so that it draws any lens
    and rolling shutters; both models draw front to back by the z of the centres.

    Args:
        means: centres in the world, metres, `[N, 3]`.
        quats_wxyz: rotations, need not be normalised, `[N, 4]`.
        scales: standard deviations along the axes (linear), metres, `[N, 3]`.
        opacities: in [0, 1] (linear), `[N]`.
        channels: values to blend, any number of them, after every activation (colour from harmonics, camera z, ...), `[N, C]`.
        camera_from_world: rigid transform, `[4, 4]`.
        intrinsics: pinhole matrix in pixels of this picture; skew is ignored, `[3, 3]`.
        width, height: size of the picture in pixels.
        model: splat model.
        backend: where to draw; by default gsplat for CUDA tensors and the CPU kernels for the others.
        near_m, far_m: Gaussians whose centre has a camera z outside this range are not drawn.
        eps2d: variance added to both axes of the projected covariance, square pixels (`ewa`).
        background: value of each channel behind everything; zero by default, `[C]`.
        ray_camera: lens and shutter of the `ray` model, in the world of the means; by default the pinhole at `camera_from_world`, which
            stays the pose that depths and planes count in.
        line_views: its `splatmend.recon.raster.camera_rays.line_views`, where they are on the device already.

    Raises:
        ValueError: for a model or backend that does not exist, a shape or dtype that does not fit, or a near plane at or behind
            the camera.
    """
    if backend is None:
        backend = "gsplat" if means.is_cuda else "cpu"
    if (model, backend) not in _RASTERIZERS:
        known = ", ".join(f"{a!r} on {b!r}" for a, b in _RASTERIZERS)
        raise ValueError(f"there is no splat model {model!r} on backend {backend!r}; available: {known}")
    inputs = RasterInputs(
        means=means,
        quats_wxyz=quats_wxyz,
        scales=scales,
        opacities=opacities,
        channels=channels,
        camera_from_world=camera_from_world,
        intrinsics=intrinsics,
        width=width,
        height=height,
        near_m=near_m,
        far_m=far_m,
        eps2d=eps2d,
        ray_camera=ray_camera,
        line_views=line_views,
    )
    _check(inputs, model, backend, background)
    if model == "ray" and ray_camera is None:
        inputs = replace(inputs, ray_camera=_pinhole(inputs))
    output = _RASTERIZERS[model, backend](inputs)
    if background is None:
        return output
    # Behind the rasteriser, so that both backends and the background's gradient share one formula.
    behind = (1.0 - output.opacity)[..., None] * background
    return replace(output, channels=output.channels + behind)


def _pinhole(inputs: RasterInputs) -> RayCamera:
    """The camera of `camera_from_world` and `intrinsics`, all lines at once."""
    (fx, _, cx), (_, fy, cy), _ = inputs.intrinsics.tolist()
    camera = Camera(name="pinhole", width=inputs.width, height=inputs.height, focal_px=(fx, fy), principal_px=(cx, cy))
    world_from_camera = inverse(inputs.camera_from_world.double().cpu().numpy())
    return RayCamera(camera=camera, world_from_first=world_from_camera, world_from_last=world_from_camera)


def _check(inputs: RasterInputs, model: str, backend: str, background: Tensor | None) -> None:
    count = inputs.means.shape[0]
    shapes = {
        "means": (count, 3),
        "quats_wxyz": (count, 4),
        "scales": (count, 3),
        "opacities": (count,),
        "camera_from_world": (4, 4),
        "intrinsics": (3, 3),
    }
    tensors = {name: getattr(inputs, name) for name in (*shapes, "channels")}
    if inputs.channels.ndim != 2 or inputs.channels.shape[0] != count or inputs.channels.shape[1] == 0:
        raise ValueError(f"channels must be [{count}, at least 1], not {list(inputs.channels.shape)}")
    if background is not None:
        tensors["background"] = background
        shapes["background"] = (inputs.channels.shape[1],)
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} must be {list(shape)}, not {list(tensors[name].shape)}")
    device_type = "cuda" if backend == "gsplat" else "cpu"
    for name, tensor in tensors.items():
        if tensor.dtype != float32 or tensor.device.type != device_type:
            raise ValueError(f"{name} must be float32 on {device_type}, not {tensor.dtype} on {tensor.device.type}")
    if inputs.width < 1 or inputs.height < 1:
        raise ValueError(f"the picture must have pixels, not {inputs.width} x {inputs.height}")
    if not 0.0 < inputs.near_m < inputs.far_m:
        raise ValueError(f"0 < near_m < far_m must hold, not near_m={inputs.near_m}, far_m={inputs.far_m}")
    if inputs.ray_camera is not None:
        if model != "ray":
            raise ValueError(f"a ray_camera needs the splat model 'ray', not {model!r}")
        camera = inputs.ray_camera.camera
        if (camera.width, camera.height) != (inputs.width, inputs.height):
            raise ValueError(f"the ray_camera has {camera.width} x {camera.height} pixels, the picture {inputs.width} x {inputs.height}")
