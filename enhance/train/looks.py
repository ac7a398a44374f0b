"""Other looks and scales of a training pair: the same change for both clips, so that no palette and no texel size is learnt by heart.

Shape letters: T frames, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from splatmend.datasets.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LookConfig:
    """How far samples are changed; the defaults change nothing."""

    share: float = 0.0
    """Share of the samples whose tones and colours change."""
    gain_stops: float = 0.6
    """Exposure, up to so many stops to either side."""
    channel_gain_stops: float = 0.25
    """The same for each channel on its own: the tint of light."""
    gamma: float = 0.35
    """Exponent of the tone curve, e^-gamma to e^gamma."""
    grey: float = 0.15
    """Probability of a grey clip among those changed."""
    swap: float = 0.25
    """Probability that the channels change places."""
    saturation: tuple[float, float] = (0.3, 1.4)
    """Range of the factor on colourfulness, where a clip does not become grey."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Pieces are cut so that crops show them reduced or enlarged by a factor in this range."""

    def __post_init__(self) -> None:
        for name in ("share", "grey", "swap"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(
                    f"training looks: {name.replace('share', 'look-share')} is {getattr(self, name)}; give a share between 0 and 1."
                )
        for name in ("gain_stops", "channel_gain_stops", "gamma"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise UserError(f"training looks: {name} is {getattr(self, name)}; give 0 or more.")
        for name in ("saturation", "scale"):
            low, high = getattr(self, name)
            least, most = (0.125, 8.0) if name == "scale" else (0.0, 8.0)
            if not least <= low <= high <= most:
                raise UserError(
                    f"training looks: {name} is {low} to {high}; give two numbers from {least:g} to {most:g}, the smaller one first."
                )


@dataclass(frozen=True)
class Look:
    """Tone curve for each channel, then a colour matrix."""

    gain: np.ndarray
    """`[3]`"""
    gamma: float
    matrix: np.ndarray
    """`[3, 3]`, rows sum to one: grey stays grey."""

    def of(self, frames: np.ndarray) -> np.ndarray:
        """Frames `[T, H, W, 3]` uint8 with this look."""
        levels = (np.arange(256, dtype=np.float32) / 255.0) ** self.gamma
        curves = np.clip(levels[:, None] * self.gain.astype(np.float32), 0.0, 1.0)
        toned = np.stack([curves[frames[..., c], c] for c in range(3)], axis=-1)
        mixed = toned @ self.matrix.T.astype(np.float32)
        return np.rint(np.clip(mixed, 0.0, 1.0) * 255.0).astype(np.uint8)


def draw_look(rng: np.random.Generator, config: LookConfig) -> Look | None:
    """The look of one sample, None for its own."""
    if rng.random() >= config.share:
        return None
    stops = rng.uniform(-config.gain_stops, config.gain_stops)
    gain = 2.0 ** (stops + rng.uniform(-config.channel_gain_stops, config.channel_gain_stops, 3))
    gamma = math.exp(rng.uniform(-config.gamma, config.gamma))
    saturation = 0.0 if rng.random() < config.grey else rng.uniform(*config.saturation)
    order = rng.permutation(3) if rng.random() < config.swap else np.arange(3)
    # Luma of ITU-R BT.709.
    luma = np.tile([0.2126, 0.7152, 0.0722], (3, 1))
    return Look(gain, gamma, (saturation * np.eye(3) + (1.0 - saturation) * luma)[order])


def draw_scale(rng: np.random.Generator, config: LookConfig, largest_cut: float) -> float:
    """Factor by which a sample is enlarged; its cut is crop / factor, and no larger than the frame (`largest_cut`, in crops)."""
    low, high = config.scale
    if low == high == 1.0:
        return 1.0
    low = max(low, 1.0 / largest_cut)
    return math.exp(rng.uniform(math.log(low), math.log(max(low, high))))


def resized(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames `[T, H, W, C]` uint8 in another size."""
    if frames.shape[1:3] == (height, width):
        return frames
    how = cv2.INTER_AREA if height < frames.shape[1] else cv2.INTER_CUBIC
    # OpenCV drops an axis of one channel.
    sized = [cv2.resize(np.ascontiguousarray(frame), (width, height), interpolation=how) for frame in frames]
    return np.stack(sized).reshape(len(frames), height, width, frames.shape[-1])
