"""What the tests of pixel gradients share: a join, a loss that looks at two frames, seeded numbers."""

from __future__ import annotations

import torch
from torch import nn

from splatmend.enhance.decoder import FrameLoss

JOINED = "up_blocks.1"


class GatedSkip(nn.Module):
    """A join with parameters, not linear in either input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(channels + 3, channels, 1, dtype=torch.float64)

    def forward(self, features: torch.Tensor, side: torch.Tensor) -> torch.Tensor:
        return features + torch.tanh(self.mix(torch.cat([features, side], dim=1)))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Normal numbers that are the same in every run; drawn in float64 and rounded, so that they do not depend on the dtype."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def two_frame_loss(target: torch.Tensor) -> FrameLoss:
    """Sum over frames of a pixel error and of the error of the change from frame to frame."""

    def loss(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
        total = (frames - target[:, :, span]).abs().pow(1.5).mean(dim=(0, 1, 3, 4)).sum()
        before = frames[:, :, :-1] if previous is None else torch.cat([previous, frames[:, :, :-1]], dim=2)
        step = frames[:, :, frames.shape[2] - before.shape[2] :] - before
        return total + 0.3 * step.square().mean(dim=(0, 1, 3, 4)).sum()

    return loss
