"""The `ewa` model on CUDA by gsplat.

The only module that imports gsplat, and only inside the call: on a machine with a compiler but without a GPU the import would start
a long build.
"""

from __future__ import annotations

import torch
from torch import Tensor

from splatmend.recon.raster.types import RasterInputs, RasterOutput, RasterStats


def without_camera_axis(means2d: Tensor) -> Tensor:
    """`[N, 2]` of the `[1, N, 2]` that gsplat draws from, with the gradient that `backward` brings there in its `grad`.

    A plain index would be a branch beside the graph and never see a gradient.
    """
    flat = means2d[0].detach()

    def keep(grad: Tensor) -> None:
        flat.grad = grad[0].clone()

    if means2d.requires_grad:
        means2d.register_hook(keep)
    return flat


def rasterize_ewa(inputs: RasterInputs) -> RasterOutput:
    """Draw with the `ewa` model on CUDA; see `splatmend.recon.raster.rasterize`.

    gsplat pads channels to a count that it has a kernel for and draws more than 32 of them in chunks.

    Raises:
        RuntimeError: where torch sees no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("the gsplat backend needs a CUDA device, and torch sees none")
    if inputs.means.shape[0] == 0:
        # gsplat divides by the number of Gaussians and ends the process.
        return _nothing(inputs)
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
    radii_px = meta["radii"][0].amax(dim=-1).int()
    return RasterOutput(
        channels=picture[0],
        opacity=opacity[0, ..., 0],
        means2d=without_camera_axis(meta["means2d"]),
        radii_px=radii_px,
        visible=radii_px > 0,
        stats=RasterStats(model="ewa", backend="gsplat", intersections=int(meta["flatten_ids"].shape[0])),
    )


def _nothing(inputs: RasterInputs) -> RasterOutput:
    """The picture of no Gaussians, joined to the inputs' graph."""
    none = inputs.channels.sum()
    return RasterOutput(
        channels=none + inputs.means.new_zeros(inputs.height, inputs.width, inputs.channels.shape[1]),
        opacity=none + inputs.means.new_zeros(inputs.height, inputs.width),
        means2d=inputs.means.new_zeros(0, 2),
        radii_px=torch.zeros(0, dtype=torch.int32, device=inputs.means.device),
        visible=torch.zeros(0, dtype=torch.bool, device=inputs.means.device),
        stats=RasterStats(model="ewa", backend="gsplat", intersections=0),
    )
