"""The `ewa` model on the CPU: Numba kernels behind two autograd functions.

Projection and blending are separate functions, so that the projected means are a tensor of the graph and can keep their gradient,
as gsplat's do. The kernels use as many threads as torch may (`torch.set_num_threads`), and give the same bits for any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatmend.recon.raster import binning, projection, tiles
from splatmend.recon.raster.threads import in_shares
from splatmend.recon.raster.types import RasterInputs, RasterOutput, RasterStats


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor's values outside the graph, in C order."""
    return tensor.detach().contiguous().numpy()


def by_fours(channels: Tensor) -> np.ndarray:
    """`[N, C]` padded with zeros to a multiple of four channels, as the tile kernels take them."""
    return as_array(torch.nn.functional.pad(channels.detach(), (0, -channels.shape[1] % 4)))


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, inputs: RasterInputs) -> tuple[Tensor, ...]:
        count = means.shape[0]
        # Numpy's small allocations start no threads, which torch's fills do.
        means2d = np.empty((count, 2), np.float32)
        conics = np.zeros((count, 3), np.float32)
        depths = np.zeros(count, np.float32)
        extents = np.zeros((count, 2), np.float32)
        radii = np.empty((count, 2), np.int32)
        view = as_array(inputs.camera_from_world.double())
        intrinsics = inputs.intrinsics.double()
        pinhole = as_array(torch.stack([intrinsics[0, 0], intrinsics[1, 1], intrinsics[0, 2], intrinsics[1, 2]]))
        in_shares(
            projection.project_forward,
            as_array(means), as_array(quats), as_array(scales), as_array(opacities), view, pinhole,
            inputs.width, inputs.height, float(inputs.near_m), float(inputs.far_m), float(inputs.eps2d),
            means2d, conics, depths, extents, radii,
        )  # fmt: skip
        outputs = tuple(torch.from_numpy(array) for array in (means2d, conics, depths, extents, radii))
        ctx.save_for_backward(means, quats, scales, outputs[1], outputs[4])
        ctx.view, ctx.pinhole, ctx.width, ctx.height = view, pinhole, inputs.width, inputs.height
        ctx.mark_non_differentiable(*outputs[2:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad_means2d, grad_conics = grads[:2]
        means, quats, scales, conics, radii = ctx.saved_tensors
        grad_means, grad_quats, grad_scales = torch.empty_like(means), torch.empty_like(quats), torch.empty_like(scales)
        in_shares(
            projection.project_backward,
            as_array(means), as_array(quats), as_array(scales), ctx.view, ctx.pinhole, ctx.width, ctx.height,
            as_array(conics), as_array(radii), as_array(grad_means2d), as_array(grad_conics),
            grad_means.numpy(), grad_quats.numpy(), grad_scales.numpy(),
        )  # fmt: skip
        return grad_means, grad_quats, grad_scales, None, None


@dataclass(frozen=True)
class _Kept:
    """What blending keeps for the way back beside tensors."""

    tiles_x: int
    order: np.ndarray
    lists: binning.TileLists
    light_left: np.ndarray
    lasts: np.ndarray


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, conics: Tensor, opacities: Tensor, channels: Tensor,
        depths: Tensor, extents: Tensor, radii: Tensor, size: tuple[int, int],
    ) -> tuple[Tensor, Tensor, int]:  # fmt: skip
        width, height = size
        tiles_x = -(-width // binning.TILE_PX)
        tiles_y = -(-height // binning.TILE_PX)
        picture = np.empty((height, width, channels.shape[1]), np.float32)
        light_left = np.empty((height, width), np.float32)
        lasts = np.empty((height, width), np.int32)
        splats = (as_array(means2d), as_array(conics), as_array(extents), as_array(opacities))
        order = binning.depth_order(as_array(depths), as_array(radii))
        lists = binning.bin_gaussians(order, splats[0], splats[1], splats[3], splats[2], tiles_x, tiles_y)
        in_shares(
            tiles.draw,
            lists.tile_starts, lists.pair_gaussians, *splats, by_fours(channels), tiles_x, picture, light_left, lasts,
        )  # fmt: skip
        ctx.save_for_backward(means2d, conics, extents, opacities, channels)
        ctx.kept = _Kept(tiles_x, order, lists, light_left, lasts)
        return torch.from_numpy(picture), torch.from_numpy(1.0 - light_left), len(lists.pair_gaussians)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        grad_picture, grad_opacity = grads[:2]
        means2d, conics, extents, opacities, channels = ctx.saved_tensors
        kept: _Kept = ctx.kept
        lists = kept.lists
        padded = by_fours(channels)
        pair_grads = np.empty((len(lists.pair_gaussians), 6 + padded.shape[1]), np.float32)
        in_shares(
            tiles.undraw,
            lists.tile_starts, lists.pair_gaussians, lists.pair_slots,
            as_array(means2d), as_array(conics), as_array(extents), as_array(opacities), padded, kept.tiles_x,
            kept.light_left, kept.lasts, as_array(grad_picture), as_array(grad_opacity), pair_grads,
        )  # fmt: skip
        sums = [np.zeros(tensor.shape, np.float32) for tensor in (means2d, conics, opacities, channels)]
        in_shares(tiles.gather_pairs, kept.order, lists.slot_starts, pair_grads, *sums)
        return *(torch.from_numpy(array) for array in sums), None, None, None, None


def rasterize_ewa(inputs: RasterInputs) -> RasterOutput:
    """Draw with the `ewa` model on the CPU; see `splatmend.recon.raster.rasterize`."""
    means2d, conics, depths, extents, radii = _Project.apply(inputs.means, inputs.quats_wxyz, inputs.scales, inputs.opacities, inputs)
    if means2d.requires_grad:
        means2d.retain_grad()
    picture, opacity, intersections = _Blend.apply(
        means2d, conics, inputs.opacities, inputs.channels, depths, extents, radii, (inputs.width, inputs.height)
    )
    return RasterOutput(
        channels=picture,
        opacity=opacity,
        means2d=means2d,
        radii=radii,
        stats=RasterStats(model="ewa", backend="cpu", intersections=intersections),
    )
