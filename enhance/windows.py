"""Overlapping windows of latents, blended linearly: what the transformer sees of a long clip.

L latents in all, windows of W with V in common. Windows start at 0, W - V, 2 (W - V), ...; the last one is moved back so that it is
whole. Weights ramp up over the overlap and down again, and are divided by their sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch


def window_starts(count: int, window: int, overlap: int) -> list[int]:
    """First latent of every window; `ValueError` for an overlap that leaves no stride, or no latents."""
    if window < 1 or not 0 <= overlap < window:
        raise ValueError(f"windows need at least one latent and an overlap smaller than themselves; got {window} and {overlap}")
    if count < 1:
        raise ValueError(f"there must be at least one latent; got {count}")
    if count <= window:
        return [0]
    starts = list(range(0, count - window, window - overlap))
    return [*starts, count - window]


def window_weights(length: int, overlap: int, first: bool, last: bool) -> torch.Tensor:
    """Weights `[length]` of one window's latents."""
    weights = torch.ones(length)
    ramp = torch.arange(1, overlap + 1, dtype=torch.float32) / (overlap + 1)
    ramp = ramp[:length]
    if not first:
        weights[: ramp.numel()] *= ramp
    if not last:
        weights[length - ramp.numel() :] *= ramp.flip(0)
    return weights


def stream_windows(
    latents: Iterable[torch.Tensor], count: int, window: int, overlap: int, predict: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Apply `predict` (`[B, C, W, h, w]` to the same shape) to windows of a stream of `count` latents `[B, C, 1, h, w]`.

    Yields the blended latents in order, one at a time, as soon as no later window touches them; holds about one window.
    Gradients flow where they are on. `ValueError` where the stream holds fewer.
    """
    starts = window_starts(count, window, overlap)
    source = iter(latents)
    held: dict[int, torch.Tensor] = {}
    sums: dict[int, tuple[torch.Tensor, float]] = {}
    read = 0
    for number, start in enumerate(starts):
        stop = min(start + window, count)
        while read < stop:
            latent = next(source, None)
            if latent is None:
                raise ValueError(f"the stream ended after {read} of its {count} latents")
            held[read] = latent
            read += 1
        result = predict(torch.cat([held[i] for i in range(start, stop)], dim=2))
        last = number == len(starts) - 1
        weights = window_weights(stop - start, overlap, number == 0, last).tolist()
        for offset, weight in enumerate(weights):
            piece = result[:, :, offset : offset + 1] * weight
            before = sums.get(start + offset)
            sums[start + offset] = (piece, weight) if before is None else (before[0] + piece, before[1] + weight)
        reach = count if last else starts[number + 1]
        for index in [i for i in held if i < reach]:
            del held[index]
        for index in sorted(i for i in sums if i < reach):
            total, weight = sums.pop(index)
            yield total / weight


def in_windows(z: torch.Tensor, window: int, overlap: int, predict: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`stream_windows` over latents `[B, C, L, h, w]` at hand, with the same errors."""
    if len(window_starts(z.shape[2], window, overlap)) == 1:
        return predict(z)
    return torch.cat(list(stream_windows(z.split(1, dim=2), z.shape[2], window, overlap, predict)), dim=2)
