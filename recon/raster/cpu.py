"""The `ewa` model on the CPU: Numba kernels behind two autograd functions.

Projection and blending are separate functions, so that the projected means are a tensor of the graph and can keep their gradient,
as gsplat's do. The kernels use as many threads as torch may (`torch.set_num_threads`), and give the same bits for any number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatmend.recon.raster import binning, projection, tiles
from splatmend.recon.raster.threads import in_shares
from splatmend.recon.raster.types import RasterInputs, RasterOutput, RasterStats


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, inputs: RasterInputs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        count = means.shape[0]
        means2d = torch.empty(count, 2)
        conics = torch.zeros(count, 3)
        depths = torch.zeros(count)
        extents = torch.zeros(count, 2)
        radii = torch.empty(count, 2, dtype=torch.int32)
        view = _array(inputs.camera_from_world.double())
        intrinsics = inputs.intrinsics.double()
        pinhole = _array(torch.stack([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]))
        in_shares(
            projection.project_forward,
            _array(means), _array(quats), _array(scales), _array(opacities), view, pinhole,
            inputs.width, inputs.height, float(inputs.near_m), float(inputs.far_m), float(inputs.eps2d),
            means2d.numpy(), conics.numpy(), depths.numpy(), extents.numpy(), radii.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, conics, radii)
        ctx.view, ctx.pinhole, ctx.width, ctx.height = view, pinhole, inputs.width, inputs.height
        ctx.mark_non_differentiable(depths, extents, radii)
        return means2d, conics, depths, extents, radii

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad_means2d, grad_conics = grads[:2]
        means, quats, scales, conics, radii = ctx.saved_tensors
        grad_means, grad_quats, grad_scales = torch.empty_like(means), torch.empty_like(quats), torch.empty_like(scales)
        in_shares(
            projection.project_backward,
            _array(means), _array(quats), _array(scales), ctx.view, ctx.pinhole, ctx.width, ctx.height,
            _array(conics), _array(radii), _array(grad_means2d), _array(grad_conics),
            grad_means.numpy(), grad_quats.numpy(), grad_scales.numpy(),
        )  # fmt: skip
        return grad_means, grad_quats, grad_scales, None, None


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, channels: Tensor,
        depths: Tensor, extents: Tensor, radii: Tensor, size: tuple[int, int],
    ) -> tuple[Tensor, Tensor, int]:  # fmt: skip
        width, height = size
        tiles_x = -(-width // binning.TILE_PX)
        tiles_y = -(-height // binning.TILE_PX)
        # The kernels take channels by fours.
        padded = torch.nn.functional.pad(channels.detach(), (0, -channels.shape[1] % 4)).contiguous()
        picture = torch.empty(height, width, channels.shape[1])
        light_left = torch.empty(height, width)
        lasts = torch.empty(height, width, dtype=torch.int32)
        splats = (_array(means2d), _array(conics), _array(extents), _array(opacities))
        order = binning.depth_order(_array(depths), _array(radii))
        lists = binning.bin_gaussians(order, splats[0], splats[1], splats[3], splats[2], tiles_x, tiles_y)
        in_shares(
            tiles.draw,
            lists.tile_starts, lists.pair_gaussians, *splats, padded.numpy(), tiles_x,
            picture.numpy(), light_left.numpy(), lasts.numpy(),
        )  # fmt: skip
        ctx.save_for_backward(means2d, conics, extents, opacities, padded, light_left, lasts)
        ctx.lists, ctx.order, ctx.tiles_x, ctx.channel_count = lists, order, tiles_x, channels.shape[1]
        return picture, 1.0 - light_left, len(lists.pair_gaussians)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad_picture, grad_opacity = grads[:2]
        means2d, conics, extents, opacities, padded, light_left, lasts = ctx.saved_tensors
        lists = ctx.lists
        pair_grads = np.empty((len(lists.pair_gaussians), 6 + padded.shape[1]), np.float32)
        grad_means2d, grad_conics = torch.zeros_like(means2d), torch.zeros_like(conics)
        grad_opacities = torch.zeros_like(opacities)
        grad_channels = torch.zeros(padded.shape[0], ctx.channel_count)
        in_shares(
            tiles.undraw,
            lists.tile_starts, lists.pair_gaussians, lists.pair_slots,
            _array(means2d), _array(conics), _array(extents), _array(opacities), padded.numpy(), ctx.tiles_x,
            light_left.numpy(), lasts.numpy(), _array(grad_picture), _array(grad_opacity), pair_grads,
        )  # fmt: skip
        in_shares(
            tiles.gather_pairs,
            ctx.order, lists.slot_starts, pair_grads,
            grad_means2d.numpy(), grad_conics.numpy(), grad_opacities.numpy(), grad_channels.numpy(),
        )  # fmt: skip
        return grad_means2d, grad_conics, grad_opacities, grad_channels, None, None, None, None


def rasterize_ewa(inputs: RasterInputs) -> RasterOutput:
    """Draw with the `ewa` model on the CPU; see `splatmend.recon.raster.rasterize`."""
    means2d, conics, depths, extents, radii = _Project.apply(inputs.means, inputs.quats_wxyz, inputs.scales, inputs.opacities, inputs)
    if means2d.requires_grad:
        means2d.retain_grad()
    picture, opacity, intersections = _Blend.apply(
        means2d, conics, inputs.opacities, inputs.channels, depths, extents, radii, (inputs.width, inputs.height)
    )
    radii_px = radii.amax(dim=1)
    return RasterOutput(
        channels=picture,
        opacity=opacity,
        means2d=means2d,
        radii_px=radii_px,
        visible=radii_px > 0,
        stats=RasterStats(model="ewa", backend="cpu", intersections=intersections),
    )
