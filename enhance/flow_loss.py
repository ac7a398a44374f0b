"""A loss on flicker: how far the error of a frame is from that of the frame before, followed along the motion of the target.

With errors e = output - target, moved by the flow W of the target clip, a frame's loss is the mean of |e_t - W e_{t-1}| where a point is
seen in both frames. Since W is linear this is |(o_t - W o_{t-1}) - (y_t - W y_{t-1})|: the warping loss of Lai et al. 2018 (Learning Blind
Video Temporal Consistency) less what the target itself changes along its flow, so that reflections and errors of the flow cost nothing, nor
does a fault that stays where it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from splatmend.datasets.optical_flow import estimated_flow


class Motion(NamedTuple):
    """How the target of some frames moves.

    `flow [B, 3, t, H, W]`: x and y in pixels, from a frame to the one before, and 1 where a point is seen in both, else 0. `before
    [B, 3, 1, H, W]`: output less target of the frame before these, a constant; None where they begin the clip.
    """

    flow: torch.Tensor
    before: torch.Tensor | None = None


def target_flow(frames: np.ndarray) -> np.ndarray:
    """The flow channels `[3, T, H, W]` float16 of a clip `[T, H, W, 3]` uint8 (OpenCV DIS); nothing is visible in the first frame."""
    flow = np.zeros((3, *frames.shape[:3]), np.float16)
    for number in range(1, len(frames)):
        found = estimated_flow(frames[number - 1], frames[number])
        flow[:2, number] = found.xy_px.transpose(2, 0, 1)
        flow[2, number] = found.visible
    return flow


def flow_warping(error: torch.Tensor, motion: Motion) -> torch.Tensor:
    """The loss of frames by their errors `[B, 3, t, H, W]`, a scalar: the **sum over frames** of each frame's mean over batch, channels and
    pixels. The first frame of a clip has none."""
    errors = error if motion.before is None else torch.cat([motion.before, error], dim=2)
    pairs = errors.shape[2] - 1
    if pairs == 0:
        return (0.0 * error).sum()
    flow = motion.flow[:, :, -pairs:].to(error.dtype)
    moved = warped(errors[:, :, :-1], flow[:, :2])
    return ((errors[:, :, 1:] - moved).abs() * flow[:, 2:]).mean(dim=(0, 1, 3, 4)).sum()


def warped(frames: torch.Tensor, flow_px: torch.Tensor) -> torch.Tensor:
    """Frames `[B, C, t, H, W]` as the frames after them would see them (bilinear), by flows `[B, 2, t, H, W]` in pixels."""
    batch, _, count, height, width = frames.shape
    rows = torch.arange(height, device=frames.device, dtype=frames.dtype)[:, None]
    columns = torch.arange(width, device=frames.device, dtype=frames.dtype)
    x, y = columns + flow_px[:, 0], rows + flow_px[:, 1]
    # Positions of pixels' centres from -1 to 1 over the whole picture.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1).flatten(0, 1)
    pictures = frames.transpose(1, 2).flatten(0, 1)
    seen = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return seen.unflatten(0, (batch, count)).transpose(1, 2)
