"""Truncated backpropagation through the groups of one clip: ChopGrad, arXiv 2603.17812, Algorithm 1.

Notation: group i decodes `x_i, c_i = dec(z_i, c_{i-1})`, L_i is the loss on the frames x_i, D the truncation distance. The gradient
of L_i may cross the links c_{i-1}, ..., c_{i-D}, so it reaches z_i, ..., z_{i-D}. Forward values are untouched by D.

With blocks of B > 1 groups, the losses of a block are pulled back in one sweep that adds them up, across all links within the block and
D links before it: L_i crosses between D and D + B - 1. That is (B + D) / B passes a group in place of D + 1, and another estimator than
Algorithm 1, at least as close to the exact gradient.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from splatmend.enhance.decoder.adapter import Cache
from splatmend.enhance.decoder.chunks import SpatialCrop
from splatmend.enhance.decoder.ends import GraphEnd, pull_back
from splatmend.enhance.decoder.gradients import Sums, forget_autocast_weights
from splatmend.enhance.decoder.stages import Stage


@dataclass
class _KeptGroup:
    """One group's graph, between its ends (`output`, `cache_out`, `pending`) and its leaves (`cache_in`, `latent`, `side`)."""

    index: int
    latent: torch.Tensor
    side: dict[str, torch.Tensor]
    output: GraphEnd | None
    """The group's output, where later losses reach it by another way than the cache."""
    cache_in: tuple[torch.Tensor, ...]
    cache_out: tuple[GraphEnd, ...]
    pending: tuple[GraphEnd, torch.Tensor] | None
    """Frames whose loss was not pulled back yet, and its gradient. The output head hangs on the frames alone: dropping them frees it
    while the rest of the graph is kept."""


class TruncatedBackprop:
    """Walks one spatial crop of a clip, group after group; at most D + B groups' graphs are alive at any time.

    With `rebuild`, a cache is not held while the losses of the groups before it are pulled back, but decoded once more afterwards:
    another forward pass for a cache less in memory.
    """

    def __init__(
        self,
        stage: Stage,
        truncation: int,
        params: Sequence[torch.Tensor],
        sums: Sums,
        crop: SpatialCrop,
        *,
        block: int = 1,
        rebuild: bool = False,
    ) -> None:
        self._stage = stage
        self._truncation = truncation
        self._block = block
        self._rebuild = rebuild
        self._params = list(params)
        self._sums = sums
        self._crop = crop
        self._cache: Cache = stage.initial_cache()
        self._kept: deque[_KeptGroup] = deque()

    def step(
        self,
        index: int,
        z_group: torch.Tensor,
        side: Mapping[str, torch.Tensor] | None,
        pull: Callable[[torch.Tensor], torch.Tensor | None],
        last: bool,
        pull_earlier: Callable[[int], torch.Tensor | None] | None = None,
    ) -> None:
        """Decode group `index`, ask `pull` for the gradient with respect to its frames, and at the end of a block send that back.

        Where `pull` gives None the group has no loss here: its graph is kept for the losses of later groups, and nothing is sent back.

        `pull_earlier(j)`: the gradient of this group's loss with respect to the output of the earlier group j, where it reaches that
        by another way than the cache (in a stage whose output a later stage remembers).

        `z_group` [B, C, 1, h, w] and `side` are of this crop; side tensors get a gradient where they require one. With `last`, no
        graph is kept for a later group.
        """
        latent = z_group.detach().requires_grad_()
        leaves = {name: tensor.detach().requires_grad_(tensor.requires_grad) for name, tensor in (side or {}).items()}
        # Where nothing crosses a link, the incoming cache needs no gradient.
        crossed = self._truncation > 0 or index % self._block > 0
        links = tuple(t.detach().requires_grad_(crossed) for t in self._stage.cache_tensors(self._cache))
        cache_in = self._stage.replace_cache_tensors(self._cache, links)
        conditions = leaves if side is not None else None
        with torch.enable_grad():
            frames, cache_out = self._stage.decode(latent, cache_in, index, conditions)
        gradient = pull(frames)
        end = GraphEnd(frames)
        ends = tuple(GraphEnd(tensor) for tensor in self._stage.cache_tensors(cache_out))
        output = None if pull_earlier is None else end
        self._kept.append(_KeptGroup(index, latent, leaves, output, links, ends, None if gradient is None else (end, gradient)))
        swept = gradient is not None and (last or (index + 1) % self._block == 0)
        self._cache = None if swept and (self._rebuild or last) else self._stage.detach_cache(cache_out)
        del cache_out, frames, gradient
        if swept:
            self._sweep(index, last, pull_earlier)
        if swept and self._rebuild and not last:
            with torch.no_grad():
                _, cache_out = self._stage.decode(latent, cache_in, index, conditions)
            forget_autocast_weights()
            self._cache = self._stage.detach_cache(cache_out)

    def skip(self, index: int, z_group: torch.Tensor, side: Mapping[str, torch.Tensor] | None) -> torch.Tensor:
        """Decode a group that no loss reaches, for the sake of its cache; returns its frames. Before any `step`."""
        last, self._cache = [self._cache], None
        frames = self._stage.pass_by(z_group, last, index, side)
        self._cache = last.pop()
        return frames

    def _sweep(self, index: int, last: bool, pull_earlier: Callable[[int], torch.Tensor | None] | None) -> None:
        """Pull the losses of the block that ends with group `index` back, and release what no later block needs."""
        furthest = max(0, index - index % self._block - self._truncation)
        cotangents: list[torch.Tensor | None] = []
        for group in reversed(self._kept):
            keep = not last and group.index > index - self._truncation
            ends: tuple[GraphEnd, ...] = group.cache_out if cotangents else ()
            if group.pending is not None:
                ends = (*ends, group.pending[0])
                cotangents.append(group.pending[1])
            elif pull_earlier is not None and group.output is not None:
                ends = (*ends, group.output)
                cotangents.append(pull_earlier(group.index))
            group.pending = None
            cotangents = self._through(group, ends, cotangents, cross=group.index > furthest, keep=keep)
            del ends
        self._kept = deque([] if last else [group for group in self._kept if group.index > index - self._truncation])

    def _through(
        self, group: _KeptGroup, ends: Sequence[GraphEnd], cotangents: list[torch.Tensor | None], *, cross: bool, keep: bool
    ) -> list[torch.Tensor | None]:
        """Pull `cotangents` of `ends` back through one group's graph, add what reaches its inputs to the sums. Empties `cotangents`.

        Returns the gradients of the incoming cache (with `cross`), which are cotangents of the group before. `keep` keeps the graph.
        """
        trained_side = [name for name, tensor in group.side.items() if tensor.requires_grad]
        links = group.cache_in if cross else ()
        inputs = [group.latent, *(group.side[name] for name in trained_side), *links, *self._params]
        grads = pull_back(ends, cotangents, inputs, keep=keep)
        if grads is None:
            return [None] * len(group.cache_in)
        if grads[0] is not None:
            self._sums.add_latent(group.index, grads[0], self._crop)
        for name, grad in zip(trained_side, grads[1:], strict=False):
            if grad is not None:
                self._sums.add_side(group.index, name, grad, self._crop)
        rest = grads[1 + len(trained_side) :]
        self._sums.add_params(rest[len(links) :])
        return list(rest[: len(links)])
