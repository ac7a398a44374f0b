"""Evaluating the user's loss on one group of frames after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from splatmend.enhance.decoder.gradients import without_autocast
from splatmend.enhance.decoder.groups import frame_span

FrameLoss: TypeAlias = Callable[[torch.Tensor, slice, torch.Tensor | None], torch.Tensor]
"""`frame_loss(frames, span, previous)`.

`frames`: one group's unclamped frames [B, C, t, H, W]; `span`: which frames of the clip they are; `previous`: the last frame of the
group before [B, C, 1, H, W], a constant, or None in the first group. Returns a scalar, the **sum over the frames** of the group.
"""


class ClipLoss:
    """Sums the losses of the groups `own` of one clip and turns each into the gradient of the scaled mean with respect to its frames.

    `whole`: whether these are all the groups that have a loss.
    """

    def __init__(
        self,
        frame_loss: FrameLoss,
        temporal_factor: int,
        valid_frames: int,
        loss_scale: float,
        params: Sequence[torch.Tensor],
        own: range,
        *,
        whole: bool,
    ) -> None:
        self._own, self._whole = own, whole
        self._frame_loss = frame_loss
        self._temporal_factor = temporal_factor
        self._valid_frames = valid_frames
        self._loss_scale = loss_scale
        self._params = list(params)
        self._previous: torch.Tensor | None = None
        self._total: torch.Tensor | None = None
        self._differentiable = False

    def pull(self, index: int, frames: torch.Tensor) -> tuple[torch.Tensor | None, Sequence[torch.Tensor | None]]:
        """Gradient with respect to `frames` [B, C, t, H, W] of group `index`, and any that reaches the parameters past the frames.

        The loss sees a leaf, not the decoder's graph, so that whatever it keeps (a perceptual network's activations) is gone before
        the decoder is differentiated. Frames past the valid ones are not shown to it and get a zero gradient. A group that is not one of
        `own` has no gradient; groups come in order all the same, since the loss may look at the frame before.

        `ValueError` for frames that are not as many as the group stands for.
        """
        span = frame_span(index, self._temporal_factor)
        if frames.shape[2] != span.stop - span.start:
            raise ValueError(
                f"group {index} stands for {span.stop - span.start} frames of the clip, but the decoder gave {frames.shape[2]}: the first "
                f"group must give one frame and every other one the adapter's temporal_factor ({self._temporal_factor})"
            )
        if index not in self._own:
            self._previous = frames.detach()[:, :, -1:].clone()
            return None, [None] * len(self._params)
        valid = min(span.stop, self._valid_frames) - span.start
        leaf = frames.detach()[:, :, :valid].requires_grad_()
        with torch.enable_grad():
            loss = self._frame_loss(leaf, slice(span.start, span.start + valid), self._previous)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or loss.ndim != 0 or not loss.is_floating_point():
            what = f"a {loss.dtype} tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
            raise ValueError(f"frame_loss must return a scalar floating-point tensor, the sum over the frames it got; it returned {what}")
        self._previous = leaf.detach()[:, :, -1:].clone()
        part = loss.detach().to(torch.promote_types(loss.dtype, torch.float32))
        self._total = part if self._total is None else self._total + part
        if not loss.requires_grad:
            # Legitimate for single groups: a loss between frames says nothing about the first one.
            return torch.zeros_like(frames), [None] * len(self._params)
        self._differentiable = True
        weight = torch.full_like(loss, self._loss_scale / self._valid_frames, requires_grad=False)
        with without_autocast(leaf.device):
            grad, *direct = torch.autograd.grad(loss, [leaf, *self._params], weight, allow_unused=True)
        if grad is None:
            return torch.zeros_like(frames), direct
        if valid == frames.shape[2]:
            return grad, direct
        return torch.cat([grad, torch.zeros_like(frames[:, :, valid:])], dim=2), direct

    def mean(self, nothing: torch.Tensor) -> torch.Tensor:
        """The sum over the groups that were seen, divided by the number of the clip's valid frames; `nothing` where there were none.

        `ValueError` where no group of a whole clip had a loss that depended on anything.
        """
        if self._whole and not self._differentiable:
            raise ValueError("frame_loss returned constants only: compute it from the frames it gets, with gradients on")
        if self._total is None:
            return nothing
        return self._total / self._valid_frames
