from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, pose
from splatmend.recon.fit import CorrectionConfig
from splatmend.recon.fit.corrections import Corrections, matrix

CONFIG = CorrectionConfig(start_share=0.0)
COURSE = CorrectionConfig(start_share=0.0, smooth="course")


def _table(config: CorrectionConfig = CONFIG, unit: float = 1.0) -> Corrections:
    return Corrections({"front": [0, 100, 300], "rear": [50]}, config, unit)


def test_between_times_corrections_are_interpolated_and_beyond_them_held() -> None:
    table = _table()
    table.values[:, 3] = [1.0, 2.0, 4.0, 8.0]
    places = [float(table.at("front", t)[0, 3]) for t in (-50, 0, 25, 100, 200, 300, 900)]
    assert places == pytest.approx([1, 1, 1.25, 2, 3, 4, 4])
    assert float(table.at("rear", 0)[0, 3]) == 8.0
    np.testing.assert_array_equal(table.at("left", 0), np.eye(4))


def _check_prior(table: Corrections) -> None:
    """The prior's gradient against finite differences, from random corrections on."""
    table.values = np.random.default_rng(1).normal(size=table.values.shape) * table.spread
    for row in range(len(table.values)):
        _, gradient = table.prior(row)
        for number in range(6):
            step = 1e-4 * table.spread[number]
            values = []
            for sign in (1, -1):
                table.values[row, number] += sign * step
                values.append(table.prior(row)[0])
                table.values[row, number] -= sign * step
            assert gradient[number] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_the_prior_is_that_of_finite_differences() -> None:
    _check_prior(_table())


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


def _drive(count: int, step_us: int = 100_000) -> PoseTrack:
    """A body that brakes while it turns."""
    t = np.arange(count) * step_us * 1e-6
    poses = [pose(Rotation.from_rotvec([0, 0, 0.3 * s]).as_matrix(), np.array([8 * s - 1.5 * s**2, 0.6 * s**2, 0.0])) for s in t]
    return PoseTrack(times_us=(np.arange(count) * step_us).astype(np.int64), world_from_body=np.stack(poses))


def _jittered(track: PoseTrack, metres: float, degrees: float, seed: int = 0) -> PoseTrack:
    random = np.random.default_rng(seed)
    off = [
        pose(Rotation.from_rotvec(np.radians(degrees) * random.normal(size=3)).as_matrix(), metres * random.normal(size=3))
        for _ in track.times_us
    ]
    return PoseTrack(times_us=track.times_us, world_from_body=track.world_from_body @ np.stack(off))


def _of_course(track: PoseTrack, config: CorrectionConfig = COURSE) -> Corrections:
    return Corrections({"car": track.times_us.tolist()}, config, 1.0, {"car": track})


def _errors(track: PoseTrack, table: Corrections, truth: PoseTrack) -> tuple[float, float]:
    """Mean distance and mean angle from the truth, in metres and degrees."""
    got = np.stack([track.at(int(t)) @ table.at("car", int(t)) for t in track.times_us])
    turns = Rotation.from_matrix(np.swapaxes(got[:, :3, :3], 1, 2) @ truth.world_from_body[:, :3, :3])
    metres = np.linalg.norm(got[:, :3, 3] - truth.world_from_body[:, :3, 3], axis=1)
    return float(metres.mean()), float(np.degrees(turns.magnitude()).mean())


def test_boxes_drawn_one_by_one_begin_on_a_smooth_course() -> None:
    truth = _drive(40)
    jittered = _jittered(truth, 0.1, 1.0)
    as_given = Corrections({"car": truth.times_us.tolist()}, CONFIG, 1.0)
    metres, degrees = _errors(jittered, as_given, truth)
    smooth_m, smooth_deg = _errors(jittered, _of_course(jittered), truth)
    assert smooth_m < 0.5 * metres
    assert smooth_deg < 0.7 * degrees


def test_a_course_that_is_smooth_stays_where_it_is() -> None:
    truth = _drive(40)
    metres, degrees = _errors(truth, _of_course(truth), truth)
    assert metres < 0.012
    assert degrees < 0.05
    for count in (1, 2):
        short = _of_course(_drive(count))
        assert not short.values.any()
        short.values[0, 3] = 0.05
        assert (short.prior(count - 1)[1][3] < 0) == (count == 2), "of two poses the one draws the other after it"


def test_a_long_gap_holds_little() -> None:
    """What a body does in a second without a label is not known from those beside it."""
    times = [0, 100_000, 1_100_000, 2_100_000, 2_200_000]
    poses = np.stack([pose(np.eye(3), np.array([x, 0.0, 0.0])) for x in (0, 1, 12.5, 21, 22)])
    track = PoseTrack(times_us=np.array(times, dtype=np.int64), world_from_body=poses)
    assert np.abs(_of_course(track).values[2, 3]) < 0.05


def test_the_prior_of_a_course_is_that_of_finite_differences() -> None:
    _check_prior(_of_course(_jittered(_drive(5), 0.1, 1.0)))


def test_what_no_picture_has_shown_follows_its_neighbours() -> None:
    table = _of_course(_drive(9))
    table.values[:, 4] = 0.05
    table.values[4] = 0.0
    table.visits[:] = 1
    assert not table.with_unseen_settled().values[4].any(), "all were shown"
    table.visits[4] = 0
    settled = table.with_unseen_settled()
    assert settled.values[4, 4] == pytest.approx(0.05, rel=0.1)
    assert settled.values[[3, 5], 4] == pytest.approx([0.05, 0.05])
    assert float(settled.at("car", 400_000)[1, 3]) == settled.values[4, 4]
    assert not table.values[4].any(), "the fit goes on from what there is"
    held = _table()
    held.values[:, 3] = [1.0, 2.0, 4.0, 8.0]
    assert held.with_unseen_settled().values[:, 3].tolist() == [1.0, 2.0, 4.0, 8.0], "smooth corrections are interpolated"
