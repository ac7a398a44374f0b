"""What the shipped weights do, on clips longer than those they were trained on."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.model import Enhancer
from splatmend.enhance.stream import StreamingEnhancer
from splatmend.enhance.windows import window_starts

FRAMES = 73
BORDER_FRAMES = 49


def blocks_of_a_street(seed: int = 4, height: int = 96, width: int = 256) -> np.ndarray:
    """A picture `[height, width, 3]` uint8 of boxes, lines and grain."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 150, np.uint8)
    for _ in range(60):
        x, y = (int(n) for n in rng.integers(0, (width, height)))
        w, h = (int(n) for n in rng.integers(4, 48, size=2))
        cv2.rectangle(picture, (x, y), (x + w, y + h), [int(c) for c in rng.integers(20, 236, size=3)], -1)
    for _ in range(16):
        a, b = ([int(n) for n in rng.integers(0, (width, height))] for _ in range(2))
        cv2.line(picture, a, b, [int(c) for c in rng.integers(20, 236, size=3)], 1, cv2.LINE_AA)
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def still() -> np.ndarray:
    return np.repeat(blocks_of_a_street()[None, :, 80:208], FRAMES, axis=0)


def moving() -> np.ndarray:
    """To and fro, so that early and late frames show the same."""
    picture = blocks_of_a_street()
    offsets = [abs((2 * i) % 144 - 72) for i in range(FRAMES)]
    return np.stack([picture[:, x : x + 128] for x in offsets])


@pytest.fixture(scope="module")
def changes() -> dict[str, np.ndarray]:
    """Mean change of each frame in grey levels, by clip, with all of the change taken."""
    enhancer = load_enhancer("bundled")
    found = {}
    for name, clip in (("still", still()), ("moving", moving())):
        blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.2) for frame in clip])
        frames = StreamingEnhancer(enhancer, strength=1.0).frames(iter(blurred), len(blurred))
        found[name] = np.abs(np.stack(list(frames)).astype(np.float64) - blurred).mean(axis=(1, 2, 3))
    return found


def test_blurred_frames_are_changed(changes: dict[str, np.ndarray]) -> None:
    assert changes["still"].min() > 0.5
    assert changes["moving"].min() > 0.5


def test_a_still_picture_changes_alike_in_early_and_late_frames(changes: dict[str, np.ndarray]) -> None:
    change = changes["still"]
    assert change.max() / change.min() < 1.4
    # A step between neighbours would show as a sudden change of sharpness, wherever clips of training ended.
    assert np.abs(np.diff(np.log(change))).max() < 0.15


def test_a_moving_picture_changes_alike_when_it_comes_back(changes: dict[str, np.ndarray]) -> None:
    change = changes["moving"]
    early, late = change[1:37], change[37:]
    assert late.mean() / early.mean() == pytest.approx(1.0, abs=0.14)


def sliding(frames: int = BORDER_FRAMES) -> np.ndarray:
    """A camera that slides by a pixel a frame."""
    picture = blocks_of_a_street()
    return np.stack([picture[:, x : x + 96] for x in range(frames)])


def enhanced(enhancer: Enhancer, clip: np.ndarray, **options: float) -> np.ndarray:
    return np.stack(list(StreamingEnhancer(enhancer, **options).frames(iter(clip), len(clip)))).astype(np.float64)  # type: ignore[arg-type]


def test_windows_add_no_flicker_where_they_meet() -> None:
    """Warping errors along the true flow into latents with which a window begins or ends, against the same clip in one window."""
    enhancer = load_enhancer("bundled")
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.2) for frame in sliding()])
    latents = 1 + (BORDER_FRAMES - 1) // 4
    window, overlap = enhancer.spec.window, enhancer.spec.overlap
    begins = {start + part for start in window_starts(latents, window, overlap)[1:] for part in (0, overlap)}
    border = np.array([frame % 4 == 1 and 1 + frame // 4 in begins for frame in range(1, BORDER_FRAMES)])
    assert 5 <= border.sum() < latents

    def errors(window: int) -> np.ndarray:
        clip = enhanced(enhancer, blurred, strength=1.0, window=window, overlap=min(overlap, window - 1))
        return np.abs(clip[1:, :, :-1] - clip[:-1, :, 1:]).mean(axis=(1, 2, 3))

    ratio = errors(window) / errors(latents)
    assert ratio[border].mean() < 1.05 * ratio[~border].mean()
    assert ratio.max() < 1.05


def test_clean_frames_stay_clean() -> None:
    clean = sliding(9)
    change = enhanced(load_enhancer("bundled"), clean) - clean
    assert 10 * np.log10(255**2 / np.square(change).mean(axis=(1, 2, 3))).min() > 45


def test_sharp_references_sharpen_a_blurred_render() -> None:
    """One layer shows the truth, the other one the same a pixel aside, as warped neighbouring frames do; the shipped weights take from the
    first."""
    enhancer = load_enhancer("bundled")
    truth = moving()[:9]
    blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 2.0) for frame in truth])
    layers = np.full((9, enhancer.spec.references, *truth.shape[1:3], 4), 255, np.uint8)
    layers[:, 0, :, :, :3], layers[:, 1, :, :, :3] = truth, np.roll(truth, -1, axis=1)
    inside = (slice(None), slice(8, -8), slice(8, -8))

    def error(frames: np.ndarray) -> float:
        return float(np.square(frames.astype(np.float64) - truth)[inside].mean())

    bare = np.stack(list(StreamingEnhancer(enhancer).frames(iter(blurred), 9)))
    helped = np.stack(list(StreamingEnhancer(enhancer).frames(iter(blurred), 9, references=iter(layers))))
    assert error(helped) < 0.3 * error(bare)
