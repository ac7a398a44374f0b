"""How a clip falls into groups: 1 frame, then `temporal_factor` frames at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Integral

import torch


def frame_span(group_index: int, temporal_factor: int) -> slice:
    """Clip frames that a group stands for: [0, 1) for group 0, then `temporal_factor` frames each."""
    if group_index == 0:
        return slice(0, 1)
    start = 1 + (group_index - 1) * temporal_factor
    return slice(start, start + temporal_factor)


def frame_count(groups: int, temporal_factor: int) -> int:
    """Number of frames that `groups` latents decode to."""
    return 1 + (groups - 1) * temporal_factor


def valid_part(groups: int, temporal_factor: int, valid_frames: int | None) -> tuple[int, int]:
    """Number of frames that count in a clip of `groups` latents (None: all), and of groups that hold such frames.

    Raises `ValueError` where the number lies outside the clip.
    """
    frames = frame_count(groups, temporal_factor)
    valid = frames if valid_frames is None else valid_frames
    if not isinstance(valid, Integral):
        raise ValueError(f"valid_frames is a whole number of frames, got {valid!r}")
    if not 1 <= valid <= frames:
        raise ValueError(f"valid_frames must lie in 1..{frames} for {groups} latents, got {valid}")
    return valid, sum(frame_span(i, temporal_factor).start < valid for i in range(groups))


def group_count(frames: int, temporal_factor: int) -> int:
    """Number of latents that a clip of `frames` frames encodes to.

    Raises `ValueError` where the clip does not fill its last group (autoencoders drop the rest of it silently).
    """
    if frames < 1 or (frames - 1) % temporal_factor:
        raise ValueError(
            f"a clip of {frames} frames does not fill whole groups of 1 + k * {temporal_factor} frames; "
            "repeat its last frame (`pad_to_whole_groups`) and give `valid_frames`"
        )
    return 1 + (frames - 1) // temporal_factor


def pad_to_whole_groups(clip: torch.Tensor, temporal_factor: int) -> torch.Tensor:
    """Repeat the last frame of `clip` [B, C, T, H, W] until it holds 1 + k * `temporal_factor` frames."""
    missing = -(clip.shape[2] - 1) % temporal_factor
    if missing == 0:
        return clip
    return torch.cat([clip, clip[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)


def split_into_groups(clip: torch.Tensor, temporal_factor: int) -> Iterator[torch.Tensor]:
    """Views of `clip` [B, C, T, H, W], one group at a time. Raises `ValueError` as `group_count` does."""
    for index in range(group_count(clip.shape[2], temporal_factor)):
        yield clip[:, :, frame_span(index, temporal_factor)]


def regroup_frames(pieces: Iterable[torch.Tensor], temporal_factor: int, *, pad: bool = False) -> Iterator[torch.Tensor]:
    """Turn a stream of pieces [B, C, any t, H, W] into one of whole groups, holding less than a group and a piece at a time.

    With `pad`, a last group that is not full is filled by repeating the last frame; without it that is a `ValueError`.
    """
    held: torch.Tensor | None = None
    wanted = 1
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], dim=2)
        while held.shape[2] >= wanted:
            yield held[:, :, :wanted]
            held = held[:, :, wanted:]
            wanted = temporal_factor
    if held is None or held.shape[2] == 0:
        return
    if not pad:
        raise ValueError(
            f"the stream ended with {held.shape[2]} of the {wanted} frames of its last group; pass `pad=True` to repeat its last frame"
        )
    yield torch.cat([held, held[:, :, -1:].expand(-1, -1, wanted - held.shape[2], -1, -1)], dim=2)
