"""The `ray` model on the CPU: Numba kernels behind one autograd function. Equal bits for any number of threads, as in `cpu`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatmend.recon.raster import ray_bounds, ray_tiles
from splatmend.recon.raster.binning import TILE_PX, TileLists, depth_order
from splatmend.recon.raster.camera_rays import PixelRays, RayCamera, pixel_rays
from splatmend.recon.raster.cpu import as_array, by_fours
from splatmend.recon.raster.threads import in_shares
from splatmend.recon.raster.types import RasterInputs, RasterOutput, RasterStats


@dataclass(frozen=True)
class _Kept:
    """What blending keeps for the way back beside tensors."""

    view: np.ndarray
    rays: PixelRays
    row_y: np.ndarray
    tiles_x: int
    order: np.ndarray
    lists: TileLists
    frames: np.ndarray
    outlines: np.ndarray
    light_left: np.ndarray
    lasts: np.ndarray


def _tile_lists(order: np.ndarray, outlines: np.ndarray, tile_box: np.ndarray, tiles_x: int, tiles_y: int) -> TileLists:
    grid = tile_box.reshape(tiles_y, tiles_x, 4)
    column_x = np.stack([grid[..., 0].min(axis=0), grid[..., 1].max(axis=0)], axis=1)
    line_y = np.stack([grid[..., 2].min(axis=1), grid[..., 3].max(axis=1)], axis=1)
    pairs = np.zeros(len(order), np.int64)
    visit = (order, outlines, tile_box, column_x, line_y)
    in_shares(ray_bounds.visit_tiles, *visit, np.zeros(0, np.int64), pairs, np.zeros(0, np.int32))
    slot_starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(pairs)])
    slot_tiles = np.empty(slot_starts[-1], np.int32)
    in_shares(ray_bounds.visit_tiles, *visit, slot_starts, pairs, slot_tiles)
    return TileLists(*ray_bounds.by_tiles(slot_tiles, slot_starts, order, tiles_x * tiles_y), slot_starts)


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, channels: Tensor, inputs: RasterInputs, lens: RayCamera
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        count = means.shape[0]
        width, height = inputs.width, inputs.height
        tiles_x, tiles_y = -(-width // TILE_PX), -(-height // TILE_PX)
        view = as_array(inputs.camera_from_world.double())
        rays = pixel_rays(lens, view)
        tile_box = np.empty((tiles_x * tiles_y, 4))
        row_y = np.empty((tiles_x * tiles_y, TILE_PX, 2))
        in_shares(ray_bounds.tile_ranges, rays.directions, rays.valid, tiles_x, tile_box, row_y)
        frames, outlines = np.empty((count, ray_bounds.FRAME)), np.empty((count, ray_bounds.OUTLINE))
        depths, drawn = np.zeros(count, np.float32), np.zeros((count, 1), np.int32)
        eyes = np.stack([rays.origins[0, 0], rays.origins[-1, -1]])
        leaves = (as_array(means), as_array(quats), as_array(scales), as_array(opacities))
        in_shares(
            ray_bounds.outline_forward, *leaves, view, eyes, float(inputs.near_m), float(inputs.far_m), frames, outlines, depths, drawn
        )
        order = depth_order(depths, drawn)
        lists = _tile_lists(order, outlines, tile_box, tiles_x, tiles_y)
        picture = np.empty((height, width, channels.shape[1]), np.float32)
        light_left, lasts = np.empty((height, width), np.float32), np.empty((height, width), np.int32)
        in_shares(
            ray_tiles.draw,
            lists.tile_starts, lists.pair_gaussians, frames, outlines, leaves[3], by_fours(channels),
            rays.origins, rays.directions, rays.valid, row_y, tiles_x, picture, light_left, lasts,
        )  # fmt: skip
        ctx.save_for_backward(means, quats, scales, opacities, channels)
        ctx.kept = _Kept(view, rays, row_y, tiles_x, order, lists, frames, outlines, light_left, lasts)
        radii = torch.from_numpy(_radii_px(outlines, order, lists, inputs))
        ctx.mark_non_differentiable(radii)
        return torch.from_numpy(picture), torch.from_numpy(1.0 - light_left), radii, len(lists.pair_gaussians)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        means, quats, scales, opacities, channels = ctx.saved_tensors
        kept: _Kept = ctx.kept
        lists, rays = kept.lists, kept.rays
        padded = by_fours(channels)
        pair_grads = np.empty((len(lists.pair_gaussians), ray_tiles.PAIR_GRADS + padded.shape[1]), np.float32)
        in_shares(
            ray_tiles.undraw,
            lists.tile_starts, lists.pair_gaussians, lists.pair_slots, kept.frames, kept.outlines, as_array(opacities), padded,
            rays.origins, rays.directions, rays.valid, kept.row_y, kept.tiles_x, kept.light_left, kept.lasts,
            as_array(grads[0]), as_array(grads[1]), pair_grads,
        )  # fmt: skip
        sums = [np.zeros(tensor.shape, np.float32) for tensor in (means, quats, scales, opacities, channels)]
        in_shares(
            ray_tiles.gather_pairs,
            kept.order,
            lists.slot_starts,
            pair_grads,
            kept.frames,
            as_array(quats),
            as_array(scales),
            kept.view,
            *sums,
        )
        return *(torch.from_numpy(array) for array in sums), None, None


def _radii_px(outlines: np.ndarray, order: np.ndarray, lists: TileLists, inputs: RasterInputs) -> np.ndarray:
    """Larger half side of the outline's box near the axis, `[N]` int32; 0 where no tile is reached."""
    radii = np.zeros(len(outlines), np.int32)
    seen = order[np.diff(lists.slot_starts) > 0]
    focal = inputs.intrinsics.diagonal()[:2].numpy()
    half = np.stack([outlines[seen, 1] - outlines[seen, 0], outlines[seen, 3] - outlines[seen, 2]], axis=1) * 0.5 * focal
    radii[seen] = np.ceil(np.clip(half.max(axis=1, initial=0.0), 1.0, 2.0**30)).astype(np.int32)
    return radii


def rasterize_ray(inputs: RasterInputs) -> RasterOutput:
    """Draw with the `ray` model on the CPU; see `splatmend.recon.raster.rasterize`."""
    assert inputs.ray_camera is not None
    picture, opacity, radii_px, intersections = _Draw.apply(
        inputs.means, inputs.quats_wxyz, inputs.scales, inputs.opacities, inputs.channels, inputs, inputs.ray_camera
    )
    return RasterOutput(
        channels=picture,
        opacity=opacity,
        means2d=None,
        radii=radii_px[:, None].expand(-1, 2),
        stats=RasterStats(model="ray", backend="cpu", intersections=intersections),
    )
