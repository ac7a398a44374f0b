"""The densification of the first paper, in plain torch for both splat models and backends.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (SIGGRAPH 2023), section 5: Gaussians whose places in the
pictures want to move are doubled where they are small and split in two where they are large, transparent and oversized ones are removed,
and now and then all become nearly transparent, so that what is not needed fades. The paper takes the gradient of a Gaussian's place in
the picture; here it is that of its mean across the line of sight, over its distance, which is the same to first order and which every
model has.

Shape letter: N Gaussians. Parameters as in `splatmend.recon.densify`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from splatmend.datasets.errors import UserError
from splatmend.recon.densify import Refinement, moments_of, place_of, rotated
from splatmend.recon.gaussians import joined

_SHRINK = 1.6
"""The two halves of a Gaussian that is split are smaller by this factor."""
_RESET_OPACITY = 0.01
"""Opacity that all are brought down to."""


@dataclass(frozen=True, kw_only=True)
class ClassicConfig:
    """When and how much to densify."""

    cap: int = 1_000_000
    """Number of Gaussians that growth stops at: those that want to move the most come first."""
    refine_start: int = 500
    """Iteration after which Gaussians are added and removed."""
    refine_stop: int = 15_000
    """Iteration from which on their number is fixed."""
    refine_every: int = 100
    """Iterations from one refinement to the next."""
    stride: int = 1
    """Iterations that one step of the optimiser counts for: whatever is due in any of them is done at its end."""
    reset_every: int = 3_000
    """Iterations from one fading of all to the next."""
    fades: bool = True
    """Whether they fade then: what few pictures show would not come back."""
    gradient: float = 2e-4
    """Mean gradient of the loss from which on a Gaussian is doubled or split; places are counted in half widths of the picture."""
    large: float = 0.01
    """Standard deviation, over the node's extent, from which on a Gaussian is split rather than doubled."""
    oversized: float = 0.1
    """Standard deviation, likewise, from which on it is removed after the first `reset_every` iterations."""
    min_opacity: float = 0.005
    """A Gaussian below this opacity is removed."""

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise UserError(f"densification: a cap of {self.cap} Gaussians leaves none; give at least 1.")
        if min(self.refine_every, self.reset_every) < 1 or not 0 <= self.refine_start <= self.refine_stop:
            raise UserError(
                f"densification: refine from {self.refine_start} to {self.refine_stop} every {self.refine_every} iterations is no "
                "schedule; give 0 <= refine_start <= refine_stop and intervals of at least 1."
            )


def gradient_in_picture(
    gradient: Float[Tensor, "N 3"], directions: Float[Tensor, "N 3"], focal_px: float, width_px: int, out: Float[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """Size of the gradient with respect to a Gaussian's place in the picture, in half widths, from that of its mean; written to `out`,
    where that is given.

    `directions` lead from the camera to the means. A shift by `s` across the line of sight at distance `d` moves the place by `focal s / d`
    pixels, so it is the part of the gradient across the ray, times the distance: the length of their cross product.
    """
    return torch.linalg.vector_norm(torch.linalg.cross(gradient, directions), dim=1, out=out).mul_(width_px / 2 / focal_px)


def wishes_to_move(
    gradients: Sequence[Float[Tensor, "N 3"]], directions: Sequence[Float[Tensor, "N 3"]], focal_px: float, width_px: int
) -> list[Float[Tensor, "2 N"]]:
    """What a picture says of each Gaussian of several sets: `gradient_in_picture`, and 1 where that is not zero."""
    counts = [len(one) for one in gradients]
    both = gradients[0].new_empty(2, sum(counts))
    size, moves = both.unbind()
    gradient_in_picture(joined(gradients), joined(directions), focal_px, width_px, out=size)
    torch.gt(size, 0, out=moves)
    return list(both.split_with_sizes(counts, dim=1))


class Classic:
    """The strategy for one set of Gaussians of a unit of length `extent`: call `note` (below) between the backward pass and the
    optimiser's step, `refine` after it."""

    def __init__(self, config: ClassicConfig, extent: float) -> None:
        self.config, self.extent = config, extent
        self.added = 0
        self.removed = 0
        self.wishes: Float[Tensor, "2 N"] | None = None

    def refine(
        self, params: MutableMapping[str, Parameter], optimizer: Optimizer, iteration: int, generator: torch.Generator
    ) -> Refinement:
        """Add, remove and fade Gaussians where the schedule says so.

        Entries of `params` are replaced by other parameters where their number changes; the optimiser follows. Moments of new Gaussians,
        and of all opacities after a fading, are zero.

        Raises:
            ValueError: where the optimiser lacks one of the parameters.
        """
        config = self.config
        if not config.refine_start < iteration < config.refine_stop:
            return Refinement()
        done = Refinement()
        with torch.no_grad():
            if iteration % config.refine_every < config.stride:
                done = self._refine(params, optimizer, iteration > config.reset_every, generator)
                self.wishes = None
            if config.fades and iteration % config.reset_every < config.stride:
                logits = params["opacity_logits"]
                logits.clamp_max_(math.log(_RESET_OPACITY / (1 - _RESET_OPACITY)))
                for moment in moments_of(optimizer, logits).values():
                    moment.zero_()
        self.added += done.added
        self.removed += done.removed
        return done

    def _refine(
        self, params: MutableMapping[str, Parameter], optimizer: Optimizer, prune_large: bool, generator: torch.Generator
    ) -> Refinement:
        count = len(params["means"])
        chosen = self._restless(count)
        size = params["log_scales"].exp().amax(dim=1) / self.extent
        split = chosen[size[chosen] > self.config.large]
        doubled = chosen[size[chosen] <= self.config.large]
        # The first half of what is split takes its place, the second is added.
        hosts = torch.cat([doubled, split])
        take(params, optimizer, torch.cat([torch.arange(count, device=hosts.device), hosts]), fresh=count)
        halves = torch.cat([split, torch.arange(count + len(doubled), count + len(hosts), device=hosts.device)])
        if len(halves):
            quats = torch.nn.functional.normalize(params["quats"][halves], dim=1)
            normal = torch.randn(len(halves), 3, generator=generator, device=quats.device, dtype=quats.dtype)
            params["means"][halves] += rotated(quats, normal * params["log_scales"][halves].exp())
            params["log_scales"][halves] -= math.log(_SHRINK)
            for parameter in params.values():
                for moment in moments_of(optimizer, parameter).values():
                    moment[split] = 0
        keep = params["opacity_logits"].sigmoid() >= self.config.min_opacity
        if prune_large:
            keep &= params["log_scales"].exp().amax(dim=1) <= self.config.oversized * self.extent
        if not bool(keep.any()):
            # A node without Gaussians could never get one again.
            keep[params["opacity_logits"].argmax()] = True
        removed = int((~keep).sum())
        if removed:
            take(params, optimizer, keep.nonzero()[:, 0])
        return Refinement(added=len(hosts), removed=removed)

    def _restless(self, count: int) -> Int[Tensor, "M"]:
        """Those above the threshold, as many as the cap has room for."""
        if self.wishes is None:
            return torch.zeros(0, dtype=torch.long)
        gradient, seen = self.wishes
        mean = gradient / seen.clamp_min(1)
        room = max(self.config.cap - count, 0)
        order = mean.argsort(descending=True, stable=True)[:room]
        return order[mean[order] > self.config.gradient]

    def state_dict(self) -> dict[str, Any]:
        """Everything but what parameters, optimiser and generator hold."""
        return {"added": self.added, "removed": self.removed, "wishes": self.wishes}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take over what `state_dict` gave."""
        self.added, self.removed = int(state["added"]), int(state["removed"])
        self.wishes = None if state["wishes"] is None else state["wishes"].to(device).clone()


def note(strategies: Sequence[Classic], wishes: Sequence[Float[Tensor, "2 N"]]) -> None:
    """Let several sets take note of what one or several pictures say: the sum of `wishes_to_move` over them."""
    for strategy, one in zip(strategies, wishes):
        if strategy.wishes is None:
            strategy.wishes = torch.zeros_like(one)
    held = [strategy.wishes for strategy in strategies if strategy.wishes is not None]
    torch._foreach_add_(held, [*wishes])


def take(params: MutableMapping[str, Parameter], optimizer: Optimizer, rows: Tensor, fresh: int | None = None) -> None:
    """Make parameters of some of the Gaussians, in the order of `rows`; from place `fresh` on with moments of zero."""
    for name, old in list(params.items()):
        group, index = place_of(optimizer, old, name)
        new = Parameter(old[rows], requires_grad=old.requires_grad)
        moments = {key: moment[rows] for key, moment in moments_of(optimizer, old).items()}
        for moment in moments.values():
            moment[len(rows) if fresh is None else fresh :] = 0
        state = optimizer.state.pop(old, None)
        if state is not None:
            optimizer.state[new] = {**state, **moments}
        group[index] = new
        params[name] = new
