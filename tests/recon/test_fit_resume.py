"""A fit that is killed goes on, in a new process, to the very same bits."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_log import tiny_log

from splatmend.datasets.artifact import content_key, plain
from splatmend.datasets.errors import UserError
from splatmend.datasets.interruption import PutAway, interruptions_noted
from splatmend.recon.fit import (
    CoarseConfig,
    CorrectionConfig,
    DensifyConfig,
    ExposureConfig,
    FitConfig,
    InitConfig,
    fit,
)
from splatmend.recon.fit.corrections import Corrections, NotFiniteError
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.scene_files import load_scene

# Argument 1: output folder; 2: iteration at whose row to kill the process with SIGKILL, or 0 to resume; 3: name of the settings.
PROGRAM = f"""
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {str(Path(__file__).resolve().parent)!r})
from splatmend.recon.fit import fit
from test_fit_resume import CONFIGS
from tiny_log import tiny_log

def progress(row):
    if row["iteration"] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

fit(tiny_log(6), Path(sys.argv[1]), CONFIGS[sys.argv[3]], resume=int(sys.argv[2]) == 0, on_progress=progress)
"""
CONFIG = FitConfig(
    iterations=20,
    sh_degree=1,
    sh_every=5,
    sky_rows=16,
    device="cpu",
    camera_poses=CorrectionConfig(on=True),
    actor_poses=CorrectionConfig(on=True),
    init=InitConfig(point_count=200, ray_count=50, actor_count=60),
    densify=DensifyConfig(cap=300, actor_cap=80, start=1, every=3, stop_share=1.0),
    log_every=1,
    checkpoint_every=10,
)

CONFIGS = {
    "mcmc": replace(CONFIG, densify=replace(CONFIG.densify, strategy="mcmc")),
    "classic": replace(
        CONFIG,
        densify=replace(CONFIG.densify, strategy="classic", every=4, classic_gradient=1e-6),
    ),
    # Full size from iteration 15 on, after the kill.
    "coarse": replace(CONFIG, coarse=CoarseConfig(until=0.75, halvings=1)),
    "exposure grids": replace(CONFIG, exposure=ExposureConfig(model="bilateral", columns=4, rows=3, levels=2)),
}


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _run(out: Path, kill_at: int, settings: str) -> int:
    return subprocess.run([sys.executable, "-c", PROGRAM, str(out), str(kill_at), settings], check=False, timeout=200).returncode


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("settings", CONFIGS)
def test_twenty_steps_equal_ten_a_kill_and_ten_more(tmp_path: Path, settings: str) -> None:
    fit(tiny_log(6), tmp_path / "whole", CONFIGS[settings], on_progress=lambda row: None)
    assert _run(tmp_path / "cut", 13, settings) == -signal.SIGKILL
    assert (tmp_path / "cut.partial" / "checkpoint.pt").is_file()
    assert not (tmp_path / "cut").exists()
    assert _run(tmp_path / "cut", 0, settings) == 0
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "cut") for path in (tmp_path / "cut").rglob("*") if path.is_file())
    for file in files:
        if file.name == "manifest.json":  # holds the time that the fit took
            continue
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    # Corrections had begun by then, so that what they need was in the checkpoint.
    assert not np.allclose(load_scene(tmp_path / "cut").shots[0].logged_from_camera, np.eye(4), atol=1e-5)
    rows = [json.loads(line) for line in (tmp_path / "cut" / "curve.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == list(range(1, 21))
    assert rows[-1]["gaussians"] > rows[0]["gaussians"]


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """As in a terminal, whatever the tests run in: scripts start what runs in their background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_one_thread", "_interruptible")
@pytest.mark.parametrize(("number", "at"), [(signal.SIGINT, 3), (signal.SIGTERM, 6)])
def test_an_interruption_leaves_a_checkpoint_of_a_fit_too_short_for_one(tmp_path: Path, number: signal.Signals, at: int) -> None:
    config = replace(CONFIG, iterations=6, checkpoint_every=1000)
    before = signal.getsignal(number)

    def interrupt(row: dict) -> None:
        if row["iteration"] == at:
            signal.raise_signal(number)

    with pytest.raises(PutAway, match=f"checkpoint.pt holds iteration {at}$"):
        fit(tiny_log(6), tmp_path / "cut", config, on_progress=interrupt)
    assert signal.getsignal(number) is before
    assert (tmp_path / "cut.partial" / "checkpoint.pt").is_file()
    seen: list[int] = []
    fit(tiny_log(6), tmp_path / "cut", config, resume=True, on_progress=lambda row: seen.append(row["iteration"]))
    assert seen == list(range(at + 1, 7))
    fit(tiny_log(6), tmp_path / "whole", config, on_progress=lambda row: None)
    for file in ("background.ply", "curve.jsonl", "shots.jsonl", "heldout.jsonl"):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


@pytest.mark.usefixtures("_interruptible")
def test_a_second_interruption_does_not_wait() -> None:
    def work() -> None:
        with interruptions_noted() as interrupted:
            assert not interrupted()
            signal.raise_signal(signal.SIGINT)
            assert interrupted()
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second one waits")

    with pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.usefixtures("_interruptible")
def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptions_noted() as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert not interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_an_interruption_that_nobody_asks_for_comes_at_the_end() -> None:
    done: list[bool] = []

    def work() -> None:
        with interruptions_noted():
            signal.raise_signal(signal.SIGTERM)
            done.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done


def test_a_checkpoint_from_before_there_were_exposure_grids_goes_on() -> None:
    log = tiny_log(6)
    shots = recorded_shots(log, CONFIG.data)
    trainer = Trainer(log, shots, CONFIG, torch.device("cpu"))
    settings = plain(replace(CONFIG, device="auto", checkpoint_every=1))
    older = {name: value for name, value in settings.items() if name not in ("exposure", "coarse")}
    # What bends by default was held by its names.
    older["actors"] |= {"deformable": ["pedestrian", "cyclist"]}
    del older["rates"]["means_by_distance"]
    trainer.load_state_dict(trainer.state_dict() | {"config_key": content_key(older)})
    grids = Trainer(log, shots, CONFIGS["exposure grids"], torch.device("cpu"))
    with pytest.raises(UserError, match="other settings"):
        grids.load_state_dict(trainer.state_dict())


@pytest.mark.usefixtures("_one_thread")
def test_what_fails_while_a_scene_is_scored_loses_no_iteration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, checkpoint_every=1_000)
    fit(tiny_log(6), tmp_path / "whole", config, on_progress=lambda row: None)
    module = importlib.import_module("splatmend.recon.fit.fit")

    def interrupted(*given: object) -> dict:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_scored", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(tiny_log(6), tmp_path / "cut", config, on_progress=lambda row: None)
    rows: list[dict] = []
    fit(tiny_log(6), tmp_path / "cut", config, resume=True, on_progress=rows.append)
    assert not rows
    for name in ("background.ply", "curve.jsonl", "heldout.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


@pytest.mark.parametrize("places", [{}, {"checkpoint_every": 1}, {"iterations": 1}, {"snapshots_at": (1,)}])
def test_a_gradient_of_a_pose_that_is_not_finite_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, Any]
) -> None:
    def wrong(self: Corrections, names: tuple[str, ...], t_us: int, gradients: np.ndarray, progress: float) -> None:
        raise NotFiniteError("the gradient of the pose of front at 5 us is not finite")

    monkeypatch.setattr(Corrections, "step_all", wrong)
    with pytest.raises(UserError, match="the pose of front at 5 us is not finite at iteration 1; lower the learning rates"):
        fit(tiny_log(6), tmp_path / "scene", replace(CONFIG, **places), on_progress=lambda row: None)


def test_a_parameter_that_is_not_finite_is_named_and_nothing_is_kept_of_it(tmp_path: Path) -> None:
    config = replace(CONFIG, rates=replace(CONFIG.rates, sky=1e38), checkpoint_every=1)
    with pytest.raises(UserError, match=r"became (infinite|nan)"):
        fit(tiny_log(6), tmp_path / "scene", config, on_progress=lambda row: None)
    assert not (tmp_path / "scene").exists()


def test_a_checkpoint_of_other_settings_or_logs_is_refused(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(row: dict) -> None:
        if row["iteration"] == 11:
            raise Stopped

    with pytest.raises(Stopped):
        fit(tiny_log(6), tmp_path / "scene", CONFIG, on_progress=stop)
    with pytest.raises(UserError, match=r"other settings \(seed 0 in place of 1\)"):
        fit(tiny_log(6), tmp_path / "scene", FitConfig(**{**vars(CONFIG), "seed": 1}), resume=True, on_progress=stop)
    other = replace(CONFIG, densify=replace(CONFIG.densify, every=4))
    with pytest.raises(UserError, match=r"other settings \(densify.every 3 in place of 4\)"):
        fit(tiny_log(6), tmp_path / "scene", other, resume=True, on_progress=stop)
    with pytest.raises(UserError, match="another log"):
        fit(tiny_log(7), tmp_path / "scene", CONFIG, resume=True, on_progress=stop)
    assert (tmp_path / "scene.partial" / "checkpoint.pt").is_file()
