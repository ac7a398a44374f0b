from __future__ import annotations

import pytest
import torch

from splatmend.recon.exposure import ExposureTable
from splatmend.recon.fit.picture_exposures import PictureExposures

CPU = torch.device("cpu")


def _exposures(count: int, rate: float = 0.01, grid: tuple[int, ...] = ()) -> PictureExposures:
    return PictureExposures(ExposureTable.identity(["front"] * count, range(count), grid), range(count), rate, CPU)


def test_a_picture_moves_its_own_map_alone() -> None:
    exposures = _exposures(5)
    exposures.of(2).sum().backward()
    gradient = exposures.gradient(2)
    assert torch.equal(gradient, torch.ones(3, 4))
    before = exposures.table.centred
    exposures.step([2], gradient[None], 0.0)
    moved = exposures.table.centred - before
    torch.testing.assert_close(moved[2], torch.full((3, 4), -0.01 * 4 / 5))
    torch.testing.assert_close(moved[[0, 1, 3, 4]], torch.full((4, 3, 4), 0.01 / 5))
    assert float(exposures.gradient(2).abs().max()) == 0.0


@pytest.mark.parametrize("grid", [(), (2, 3, 4)])
def test_what_all_pictures_want_drives_no_map_away_however_many_there_are(grid: tuple[int, ...]) -> None:
    """Early in a fit all pictures are too dark; in the first round over many, those that were shown must not leave the others behind."""
    count, rate = 600, 0.01
    exposures = _exposures(count, rate, grid)
    for number in range(count):
        (-exposures.of(number).sum()).backward()
        exposures.step([number], exposures.gradient(number)[None], 0.0)
        assert float(exposures.table.centred.abs().max()) < 1.01 * rate


def test_two_pictures_of_a_step_move_both_and_one_that_comes_twice_moves_once_by_both() -> None:
    exposures = _exposures(3)
    gradients = torch.stack([torch.ones(3, 4), -torch.ones(3, 4)])
    exposures.step([0, 1], gradients, 0.0)
    torch.testing.assert_close(exposures.deltas[:, 0, 0], torch.tensor([-0.01, 0.01, 0.0]))
    exposures.step([2, 2], gradients, 0.0)
    assert float(exposures.deltas[2].abs().max()) == 0.0


def test_rates_fall_and_a_state_goes_on_where_it_was_taken() -> None:
    one, other = _exposures(2), _exposures(2)
    gradient = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    one.step([0], gradient, 0.0)
    first = one.deltas[0].abs().max()
    other.load_state_dict({"deltas": one.deltas.clone(), "optimizer": one.state_dict()["optimizer"]})
    for exposures in (one, other):
        exposures.step([0], gradient, 1.0)
    assert torch.equal(one.deltas, other.deltas)
    torch.testing.assert_close(one.deltas[0].abs().max() - first, 0.1 * first, rtol=1e-4, atol=0)
