from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from splatmend.datasets.errors import UserError
from splatmend.recon.fit import CorrectionConfig
from splatmend.recon.fit.corrections import Corrections, matrix

CONFIG = CorrectionConfig(start_share=0.0)


def _table(config: CorrectionConfig = CONFIG, unit: float = 1.0) -> Corrections:
    return Corrections({"front": [0, 100, 300], "rear": [50]}, config, unit)


def test_between_times_corrections_are_interpolated_and_beyond_them_held() -> None:
    table = _table()
    table.values[:, 3] = [1.0, 2.0, 4.0, 8.0]
    places = [float(table.at("front", t)[0, 3]) for t in (-50, 0, 25, 100, 200, 300, 900)]
    assert places == pytest.approx([1, 1, 1.25, 2, 3, 4, 4])
    assert float(table.at("rear", 0)[0, 3]) == 8.0
    np.testing.assert_array_equal(table.at("left", 0), np.eye(4))


def test_the_prior_is_that_of_finite_differences() -> None:
    table = _table()
    table.values = np.random.default_rng(1).normal(size=(4, 6)) * table.spread
    for row in range(4):
        _, gradient = table.prior(row)
        for number in range(6):
            step = 1e-4 * table.spread[number]
            values = []
            for sign in (1, -1):
                table.values[row, number] += sign * step
                values.append(table.prior(row)[0])
                table.values[row, number] -= sign * step
            assert gradient[number] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_a_correction_goes_where_the_gradient_leads_and_the_prior_brings_it_back() -> None:
    table = _table()
    target = np.array([0.002, -0.001, 0.0, 0.02, 0.01, -0.02])
    for visit in range(200):
        table.step("front", 100, (table.values[1] - target) / table.spread**2, visit / 200)
    np.testing.assert_allclose(table.values[1], target, rtol=0.05)
    assert not table.values[[0, 2, 3]].any()
    for visit in range(200):
        table.step("front", 100, np.zeros(6), visit / 200)
    assert (np.abs(table.values[1]) < 0.6 * np.abs(target) + 1e-9).all()


def test_lengths_count_in_the_unit_of_the_log() -> None:
    small, large = _table(), _table(unit=1000.0)
    for table, unit in ((small, 1.0), (large, 1000.0)):
        table.step("rear", 50, np.array([0.3, 0, 0, 0.5 / unit, 0, 0]), 0.0)
    np.testing.assert_allclose(large.values[3], small.values[3] * [1, 1, 1, 1000, 1000, 1000])


def test_nothing_moves_before_its_share_of_the_fit() -> None:
    table = _table(replace(CONFIG, start_share=0.5))
    table.step("rear", 50, np.ones(6), 0.49)
    assert not table.values.any()
    table.step("rear", 50, np.ones(6), 0.5)
    assert table.values[3].all()


def test_a_gradient_that_is_not_finite_is_named() -> None:
    with pytest.raises(ValueError, match="pose of rear at 50 us"):
        _table().step("rear", 50, np.full(6, np.nan), 0.0)


def test_a_matrix_is_rigid() -> None:
    moved = matrix(np.array([0.1, -0.2, 0.3, 1, 2, 3]))
    np.testing.assert_allclose(moved[:3, :3] @ moved[:3, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(moved[:3, 3], [1, 2, 3])


@pytest.mark.parametrize("setting", [{"rate_m": -1.0}, {"spread_deg": 0.0}, {"weight": float("nan")}, {"start_share": 1.5}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UserError, match="of pose corrections must"):
        CorrectionConfig(**setting)
