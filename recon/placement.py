"""Nodes' Gaussians on their way to the rasteriser: coloured in the node's own frame, then brought into the scene's.

All bodies go together: what depends on poses is one small table, made on the host (`splatmend.recon.pose_tables`), so that the work of a
picture does not grow with the number of bodies but with that of their Gaussians.

Shape letters: N Gaussians, n of them of actors, M bodies (the background first, then actors), T twists.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from splatmend.recon.gaussians import Gaussians, body_of_each, joined, joined_harmonics
from splatmend.recon.harmonics import colours
from splatmend.recon.pose_tables import PARTS, DeviceTables, PoseTables, own_slopes
from splatmend.recon.split_harmonics import split_colours


@dataclass(frozen=True, kw_only=True)
class PoseTwists:
    """Zeros that take the gradients of poses: rows of `values`, those of `actors` by their ids in this order, then, if `camera`, the
    camera's. A twist is a turn about the body's (or camera's) axes in radians, then a shift along them."""

    values: Float[Tensor, "T 6"]
    actors: tuple[str, ...] = ()
    camera: bool = False


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Gaussians in the scene's frame: activated, with their sRGB (None where it was not asked for)."""

    means: Float[Tensor, "N 3"]
    quats_wxyz: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, "N"]
    rgb: Float[Tensor, "N 3"] | None
    directions: Float[Tensor, "N 3"]
    """From the camera's place to the Gaussian, in the axes of its node."""
    camera_from_scene: Float[Tensor, "4 4"]

    @functools.cached_property
    def depths_m(self) -> Float[Tensor, "N"]:
        """Camera z, in the graph; most pictures of a fit along rays do not ask for it."""
        view = self.camera_from_scene[2]
        return self.means @ view[:3] + view[3]


def place(
    background: Gaussians,
    actors: Sequence[tuple[str, Gaussians, Float[np.ndarray, "4 4"]]],
    scene_from_camera: Float[np.ndarray, "4 4"],
    twists: PoseTwists | None,
    sh_degree: int | None,
    *,
    coloured: bool,
) -> Placed:
    """A scene's Gaussians as a camera sees them.

    Args:
        background: Gaussians that are in the scene's frame already.
        actors: id, Gaussians in its own frame, `scene_from_actor` of each.
        scene_from_camera: the camera's pose; `camera_from_scene` of the result is its inverse.
        twists: they reach the picture through the Gaussians, to first order: values stay the same bits.
        sh_degree: harmonics to use, None for all; colours see no twists.
        coloured: whether colours are wanted.
    """
    poses = [pose for _, _, pose in actors]
    tables = PoseTables.of(scene_from_camera, poses, camera_slopes=twists is not None and twists.camera)
    return place_by(tables.to(background.device), background, actors, twists, sh_degree, coloured=coloured)


def place_by(
    tables: DeviceTables,
    background: Gaussians,
    actors: Sequence[tuple[str, Gaussians, Float[np.ndarray, "4 4"]]],
    twists: PoseTwists | None,
    sh_degree: int | None,
    *,
    coloured: bool,
    higher: Sequence[Float[Tensor, "n K-1 3"]] | None = None,
) -> Placed:
    """The same by tables that are on the device already. `higher` are harmonics of all bodies above degree 0, where their Gaussians have
    those of degree 0 alone."""
    parts = [background, *(gaussians for _, gaussians, _ in actors)]
    frame = _Frame(tables=tables, counts=[len(part) for part in parts], names=[name for name, _, _ in actors], twists=twists)
    given = [(part.means, part.quats_wxyz, part.log_scales, part.opacity_logits) for part in parts]
    values = None if twists is None else twists.values
    means, quats, scales, opacities, directions = _Placing.apply(frame, values, *(tensor for kind in zip(*given) for tensor in kind))
    rgb = None
    if coloured:
        sh = [part.sh for part in parts]
        rgb = colours(joined_harmonics(sh), directions, sh_degree) if higher is None else split_colours(sh, higher, directions, sh_degree)
    return Placed(
        means=means,
        quats_wxyz=quats,
        scales=scales,
        opacities=opacities,
        rgb=rgb,
        directions=directions,
        camera_from_scene=tables.camera_from_scene,
    )


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """What placing needs beside Gaussians. `counts` are the numbers of Gaussians of the background and of each of the actors `names`."""

    tables: DeviceTables
    counts: list[int]
    names: list[str]
    twists: PoseTwists | None


class _Placing(torch.autograd.Function):
    """Means, quaternions, scales, opacities and directions of all bodies' Gaussians in the scene's frame.

    One function with its gradients by hand: operation by operation the host takes longer to ask for each way than the device to answer.
    Twists are zero, so only their slopes count: sums of outer products of what comes back with what was moved, times small tables.
    """

    @staticmethod
    def forward(ctx: Any, frame: _Frame, values: Float[Tensor, "T 6"] | None, *given: Tensor) -> tuple[Tensor, ...]:
        """`given`: of each body the means, then of each the quaternions, the logarithms of scales and the logits of opacities."""
        count = len(frame.counts)
        means, quats, log_scales, logits = (given[start : start + count] for start in range(0, 4 * count, count))
        directions = means[0] - frame.tables.eye
        body = rows = own_means = own_quats = None
        if count > 1:
            body = body_of_each(tuple(frame.counts[1:]), means[0].device)
            own_means, own_quats = joined(means[1:]), joined(quats[1:])
            rows = frame.tables.motions.index_select(0, body)
            turn, shift, left, eyes = rows.split_with_sizes(PARTS, dim=1)
            placed_means = torch.mul(turn.view(-1, 3, 3), own_means[:, None]).sum(dim=2).add_(shift)
            placed_quats = torch.mul(left.view(-1, 4, 4), own_quats[:, None]).sum(dim=2)
            directions = torch.cat([directions, own_means - eyes])
            placed = torch.cat([means[0], placed_means]), torch.cat([quats[0], placed_quats])
        else:
            placed = means[0].view_as(means[0]), quats[0].view_as(quats[0])
        scales = torch.cat(log_scales).exp_() if count > 1 else log_scales[0].exp()
        opacities = torch.cat(logits).sigmoid_() if count > 1 else logits[0].sigmoid()
        ctx.frame, ctx.body = frame, body
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*placed, scales, opacities, rows, own_means, own_quats)
        return *placed, scales, opacities, directions

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        g_means: Tensor | None,
        g_quats: Tensor | None,
        g_scales: Tensor | None,
        g_opacities: Tensor | None,
        g_directions: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        means, quats, scales, opacities, turned, own_means, own_quats = ctx.saved_tensors
        counts, twists = ctx.frame.counts, ctx.frame.twists
        g_means = torch.zeros_like(means) if g_means is None else g_means
        g_quats = torch.zeros_like(quats) if g_quats is None else g_quats
        of_actors: tuple[Tensor, Tensor] | None = None
        if len(counts) > 1:
            turn, _, left, _ = turned.split_with_sizes(PARTS, dim=1)
            own_g = torch.mul(turn.view(-1, 3, 3), g_means[counts[0] :, :, None]).sum(dim=1)
            own_q = torch.mul(left.view(-1, 4, 4), g_quats[counts[0] :, :, None]).sum(dim=1)
            of_actors = own_g, own_q
        of_values = None
        if twists is not None and ctx.needs_input_grad[1]:
            rows = []
            if twists.actors:
                rows.append(_of_actors(ctx.frame, of_actors, ctx.body, own_means, own_quats, like=means))
            if twists.camera:
                numbers = torch.cat([(g_means.T @ means).view(-1), g_means.sum(dim=0), (g_quats.T @ quats).view(-1)])
                rows.append((numbers @ ctx.frame.tables.by_camera)[None])
            of_values = joined(rows)
        grads: list[Sequence[Tensor | None]] = [_by_node(g_means, of_actors and of_actors[0], counts, g_directions)]
        grads.append(_by_node(g_quats, of_actors and of_actors[1], counts))
        grads.append([None] * len(counts) if g_scales is None else (g_scales * scales).split_with_sizes(counts))
        faded = None if g_opacities is None else torch.ops.aten.sigmoid_backward(g_opacities, opacities)
        grads.append([None] * len(counts) if faded is None else faded.split_with_sizes(counts))
        return None, of_values, *(grad for kind in grads for grad in kind)


def _of_actors(
    frame: _Frame,
    grads: tuple[Float[Tensor, "n 3"], Float[Tensor, "n 4"]] | None,
    body: Int[Tensor, "n"] | None,
    means: Float[Tensor, "n 3"] | None,
    quats: Float[Tensor, "n 4"] | None,
    *,
    like: Tensor,
) -> Float[Tensor, "A 6"]:
    """Gradients of the twists of `frame.twists.actors`, from those of means and quaternions in the actors' own frames."""
    assert frame.twists is not None
    wanted = frame.twists.actors
    if grads is None or body is None or means is None or quats is None or not set(wanted) & set(frame.names):
        return like.new_zeros(len(wanted), 6)
    g, q = grads
    products = torch.cat([(g[:, :, None] * means[:, None]).flatten(1), g, (q[:, :, None] * quats[:, None]).flatten(1)], dim=1)
    found = g.new_zeros(len(frame.names), products.shape[1]).index_add_(0, body, products) @ own_slopes(g.device)
    if list(wanted) == frame.names:
        return found
    rows = dict(zip(frame.names, found))
    return torch.stack([rows[name] if name in rows else like.new_zeros(6) for name in wanted])


def _by_node(
    in_scene: Tensor, of_actors: Tensor | None, counts: list[int], more: Float[Tensor, "N 3"] | None = None
) -> Sequence[Tensor | None]:
    """Gradients of each node's own tensor: of the background's from those in the scene, `more` beside them in each node's frame."""
    background = in_scene if of_actors is None else in_scene[: counts[0]]
    if more is not None:
        background = background + more[: counts[0]]
    if of_actors is None:
        return [background]
    of_actors = of_actors if more is None else of_actors + more[counts[0] :]
    return [background, *of_actors.split_with_sizes(counts[1:])]
