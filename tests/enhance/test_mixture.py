"""Mixtures of degraded frames and their target."""

from __future__ import annotations

import numpy as np
import pytest

from splatmend.enhance.train.mixture import draw_mixture, mixed


def shares(count: int = 60) -> list[float | np.ndarray]:
    rng = np.random.default_rng(3)
    return [draw_mixture(rng, (9, 40, 56), 0.6) for _ in range(count)]


def test_mixtures_are_numbers_and_fields_between_nothing_and_all() -> None:
    drawn = shares()
    fields = [share for share in drawn if isinstance(share, np.ndarray)]
    numbers = [share for share in drawn if isinstance(share, float)]
    assert len(fields) > 20
    assert len(numbers) > 12
    assert all(0 <= number < 1 for number in numbers)
    for field in fields:
        assert field.shape == (9, 40, 56, 1)
        assert field.dtype == np.float32
        assert 0 <= field.min() < field.max() <= 1


def test_the_share_says_how_many_are_fields() -> None:
    rng = np.random.default_rng(1)
    assert all(isinstance(draw_mixture(rng, (5, 8, 8), 0.0), float) for _ in range(20))
    assert all(isinstance(draw_mixture(rng, (5, 8, 8), 1.0), np.ndarray) for _ in range(20))


def test_fields_leave_places_clean_and_others_wholly_degraded() -> None:
    fields = [share for share in shares() if isinstance(share, np.ndarray)]
    both = [field for field in fields if (field == 0).mean() > 0.05 and (field == 1).mean() > 0.05]
    assert len(both) > len(fields) / 4


def test_fields_change_slowly_in_space_and_time() -> None:
    for field in (share for share in shares() if isinstance(share, np.ndarray)):
        for axis in range(3):
            assert np.abs(np.diff(field, axis=axis)).max() < 0.8
        assert np.abs(np.diff(field, axis=1)).mean() < 0.15


def test_mixed_frames_lie_where_the_share_says() -> None:
    target, degraded = np.full((2, 4, 4, 3), 10, np.uint8), np.full((2, 4, 4, 3), 210, np.uint8)
    assert (mixed(target, degraded, 0.25) == 60).all()
    share = np.zeros((2, 4, 4, 1), np.float32)
    share[1, 2:] = 1.0
    frames = mixed(target, degraded, share)
    assert (frames[0] == 10).all()
    assert (frames[1, 2:] == 210).all()
    assert (frames[1, :2] == 10).all()


@pytest.mark.parametrize("frames", [1, 2, 33])
def test_clips_of_any_length(frames: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        share = draw_mixture(rng, (frames, 16, 24), 0.6)
        assert isinstance(share, float) or share.shape == (frames, 16, 24, 1)
