"""Layers of references that are moved aside in training."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from splatmend.enhance.train.displaced import displaced, draw_displacement


def layer(count: int = 2, height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth texture, seen but for a block."""
    noise = np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)
    made = np.full((count, height, width, 4), 255, np.uint8)
    for number, frame in enumerate(noise):
        made[number, ..., :3] = cv2.GaussianBlur(frame, (0, 0), 2.0)
    made[:, 10:20, 30:40] = 0
    return made


def test_displacements_reach_as_far_as_asked_and_no_farther() -> None:
    rng = np.random.default_rng(4)
    drawn = [draw_displacement(rng, (5, 40, 56), 2.5) for _ in range(60)]
    lengths = [np.linalg.norm(field, axis=-1) for field in drawn]
    assert all(field.shape == (5, 40, 56, 2) and field.dtype == np.float32 for field in drawn)
    assert max(length.max() for length in lengths) <= 2.5 + 1e-4
    # Among them there are hardly moved ones, far moved ones, and all directions.
    means = [length.mean() for length in lengths]
    assert min(means) < 0.6
    assert max(means) > 1.6
    x, y = np.concatenate([field.reshape(-1, 2)[::97] for field in drawn]).T
    assert all(share > 0.1 for share in ((x > 0.3).mean(), (x < -0.3).mean(), (y > 0.3).mean(), (y < -0.3).mean()))


def test_some_shift_as_a_whole_and_others_bend_smoothly() -> None:
    rng = np.random.default_rng(5)
    drawn = [draw_displacement(rng, (5, 80, 96), 2.5) for _ in range(60)]
    whole = [field for field in drawn if np.ptp(field, axis=(0, 1, 2)).max() == 0]
    assert 0.1 < len(whole) / len(drawn) < 0.5
    for field in drawn:
        # Neighbours keep their order, or a layer would fold over.
        assert np.abs(np.diff(field, axis=1)).max() < 1.0
        assert np.abs(np.diff(field, axis=2)).max() < 1.0
        assert np.abs(np.diff(field, axis=2)).mean() < 0.1


@pytest.mark.parametrize(("across", "down"), [(2.0, 0.0), (-1.0, 2.0)])
def test_a_whole_shift_shows_the_pixels_from_there(across: float, down: float) -> None:
    given = layer()
    aside = np.broadcast_to(np.array([across, down], np.float32), (*given.shape[:3], 2))
    moved = displaced(given, aside)
    expected = np.roll(given, (-int(down), -int(across)), axis=(1, 2))[:, 3:-3, 3:-3]
    np.testing.assert_array_equal(moved[:, 3:-3, 3:-3], expected)


def test_between_pixels_it_stays_sharp_and_what_was_seen_in_part_is_not_seen() -> None:
    given = layer()
    half = np.full((*given.shape[:3], 2), 0.5, np.float32)
    there = displaced(given, half)
    back = displaced(there, -half)
    seen = back[..., 3] == 255
    assert set(np.unique(there[..., 3])) == {0, 255}
    # Beyond the picture's right and lower border, and around the block.
    assert not there[:, -1, :, 3].any()
    assert not there[:, 9:20, 29:40, 3].any()
    assert (there[..., 3] == 255).sum() == there[..., 3].size - 2 * (40 + 56 - 1) - 2 * 11 * 11
    assert not there[there[..., 3] == 0].any()
    far = np.abs(back[..., :3].astype(int) - given[..., :3])[seen]
    assert far.mean() < 1.0
    # Beside what was not seen colours are the layer's own, not mixed with black.
    beside = there[:, 8, 30:39, :3].astype(int)
    near = np.stack([given[:, 8:10, 30:40, :3].min(axis=(1, 2)), given[:, 8:10, 30:40, :3].max(axis=(1, 2))])[:, :, None].astype(int)
    assert (beside > near[0] - 12).all()
    assert (beside < near[1] + 12).all()
