"""A fit that gets worse says so, however short it is, and no other one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_fit_resume import CONFIG
from tiny_log import tiny_log

from splatmend.recon.fit import CoarseConfig, DataConfig, fit
from splatmend.recon.fit.astray import RecentPictures, runs_db, warn_of_worse
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.trainer import Trainer


def rows_of(psnr: np.ndarray, log_every: int = 50) -> list[dict[str, float]]:
    """The curve of a fit that draws pictures as well as that: a row of the first one, then one in so many, and one of the last."""
    ends = sorted({1, *range(log_every, len(psnr) + 1, log_every), len(psnr)})
    return [
        {"iteration": end, "psnr": float(psnr[end - 1]), "pictures": end - begin, "mean_psnr": float(psnr[begin:end].mean())}
        for begin, end in zip([0, *ends], ends)
    ]


def drawn(iterations: int, late_db: float, seed: int) -> np.ndarray:
    """PSNR of each picture of a fit that rises from 14 to 21 dB and ends elsewhere. One of two cameras is drawn better than the other."""
    random = np.random.default_rng(seed)
    first, last = iterations // 5, iterations // 4
    course = np.concatenate([np.linspace(14, 21, first), np.full(iterations - first - last, 21.0), np.full(last, late_db)])
    return course + random.choice([-2.5, 2.5], iterations) + random.normal(scale=1.0, size=iterations)


@pytest.mark.parametrize("iterations", [150, 300, 600, 5_000])
@pytest.mark.parametrize(("late_db", "astray"), [(15.0, True), (20.0, False), (26.0, False)])
def test_a_fit_that_gets_worse_says_so(iterations: int, late_db: float, astray: bool, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(40):
        caplog.clear()
        warn_of_worse(Path("scene"), rows_of(drawn(iterations, late_db, seed)), "curve.jsonl")
        assert ("scene: the fit has gone astray: pictures were drawn with" in caplog.text) == astray, seed


def test_runs_are_whole_rows_and_alike_and_older_rows_tell_nothing() -> None:
    steps = np.repeat([10.0, 12.0, 14.0, 16.0], 50)
    assert runs_db(rows_of(steps)) == pytest.approx([16, 14, 12, (49 * 10) / 49])
    assert len(runs_db(rows_of(np.zeros(5_000)))) == 10
    assert len(runs_db(rows_of(np.zeros(60)))) == 1
    assert runs_db(rows_of(np.zeros(19), 5)) == runs_db([{"iteration": 50, "psnr": 20.0}] * 9) == []


def test_recent_pictures_are_told_once_and_outlive_a_checkpoint() -> None:
    recent, reused = RecentPictures(), torch.tensor(0.1)
    recent.note(reused)
    reused.fill_(0.001)
    recent.note(reused)
    later = RecentPictures()
    later.load_state_dict(recent.state_dict())
    for pictures in (recent, later):
        pictures.note(torch.tensor(0.01))
        assert pictures.take() == {"pictures": 3, "mean_psnr": pytest.approx(20.0, abs=1e-4)}
        assert pictures.take() == {}


def test_pictures_of_full_size_count() -> None:
    log, config = tiny_log(6), replace(CONFIG, data=DataConfig(holdout_every=0), coarse=CoarseConfig(until=0.5, halvings=1))
    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"))
    told = []
    for _ in range(config.iterations):
        report = trainer.step()
        told.append((trainer.recent.take(), -10 * float(torch.log10(report.squared_error))))
    assert [row for row, _ in told[:10]] == [{}] * 10
    assert all(row == {"pictures": 1, "mean_psnr": pytest.approx(psnr, abs=1e-4)} for row, psnr in told[10:])


@pytest.mark.parametrize("astray", [True, False])
def test_a_short_fit_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, astray: bool) -> None:
    if astray:
        get_worse(monkeypatch, after=45)
    config = replace(CONFIG, iterations=90, log_every=5, checkpoint_every=1_000)
    fit(tiny_log(6), tmp_path / "scene", config, on_progress=lambda row: None)
    assert ("gone astray" in caplog.text) == astray


def get_worse(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let pictures be told as 10 dB worse after so many."""
    noted, plain = [], RecentPictures.note

    def note(recent: RecentPictures, squared_error: torch.Tensor) -> None:
        noted.append(squared_error)
        plain(recent, squared_error * (10.0 if len(noted) > after else 1.0))

    monkeypatch.setattr(RecentPictures, "note", note)
