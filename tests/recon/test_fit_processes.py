"""Two processes that fit one scene on the CPU, launched as torchrun does it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from processes_program import CONFIGS, STEPS, tensors_of, trainer_of
from tiny_log import tiny_log

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.errors import UserError
from splatmend.datasets.launch import launched_count, launched_rank
from splatmend.pipelines.cli import main
from splatmend.recon.densify import shake
from splatmend.recon.fit import DataConfig, fit
from splatmend.recon.fit.processes import Processes, joined_processes
from splatmend.recon.fit.step_scaling import StepScaling
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.scene_files import load_scene

PROGRAM = Path(__file__).with_name("processes_program.py")


def _launch(what: str, folder: Path) -> int:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*launcher, str(PROGRAM), what, str(folder)], check=False, timeout=250).returncode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("processes")
    assert _launch("before", out) == 0
    return out


@pytest.fixture(scope="module")
def gone_on(folder: Path) -> Path:
    assert _launch("after", folder) != 0
    return folder


def _both(folder: Path, name: str) -> list[dict]:
    return [torch.load(folder / f"{name} {rank}.pt", weights_only=True) for rank in (0, 1)]


def _step_of_two_pictures(trainer: Trainer) -> None:
    """What one process gets when it draws the first two pictures and takes one step by the mean of their gradients."""
    plain = SimpleNamespace(step=lambda *a: None, zero_grad=lambda *a, **k: None)
    nodes_step, numbers = trainer.nodes.step, [trainer.frame_number(0), trainer.frame_number(1)]
    optimizers = [trainer.nodes.adam, trainer.shared_optimizer]
    params = [param for optimizer in optimizers for group in optimizer.param_groups for param in group["params"]]
    gradients: list[list[torch.Tensor]] = []
    of_exposures: list[torch.Tensor] = []
    exposures_step = trainer.exposures.step
    trainer.exposures.step = lambda numbers, given, progress: of_exposures.append(given)  # type: ignore[method-assign]
    trainer.nodes.step, trainer.shared_optimizer = plain.step, plain  # type: ignore[method-assign,assignment]
    for number in numbers:
        trainer.iteration = 0
        trainer.frame_number = lambda iteration, number=number: number  # type: ignore[method-assign]
        trainer.step()
        gradients.append([param.grad for param in params])
        for param in params:
            param.grad = None
    trainer.nodes.step, trainer.shared_optimizer = nodes_step, optimizers[1]  # type: ignore[method-assign,assignment]
    exposures_step(numbers, torch.cat(of_exposures), 0.0)
    rates, config = trainer.config.rates, trainer.config
    means_rate = rates.means * (rates.means_end / rates.means) ** (2 / config.iterations)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["betas"], group["eps"] = (0.9**2, 0.999**2), 1e-15 / 2**0.5
            group["lr"] *= 2**0.5
            if "node" in group:
                group["lr"] = 2**0.5 * means_rate * trainer.nodes[group["node"]].extent
    for param, one, other in zip(params, *gradients):
        param.grad = (one + other) / 2
    trainer.nodes._move(list(trainer.nodes.nodes.values()), anew=True)
    optimizers[1].step()
    if config.densify.strategy == "mcmc":
        nodes = list(trainer.nodes.nodes.values())
        noise = [2**0.5 * means_rate / n.extent * n.densifier.config.noise_lr for n in nodes]
        shake([n.params for n in nodes], noise, trainer.generator, [None if n.steps is None else n.steps.known for n in nodes])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_two_processes_is_one_of_the_mean_of_their_gradients(folder: Path, name: str) -> None:
    found = _both(folder, name)[0]["first"]
    trainer = trainer_of(CONFIGS[name])
    start = {key: value.clone() for key, value in tensors_of(trainer).items()}
    _step_of_two_pictures(trainer)
    expected = tensors_of(trainer)
    assert set(found) == set(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")
    moved = ("nodes/background/params/means", "nodes/actor/car/1/params/sh0", "shared/sky", "poses/actors/values")
    assert all(not torch.equal(expected[key], start[key]) for key in moved)
    # Two pictures have moved the poses and the exposures of two.
    assert int((expected["exposures/deltas"] != 0).flatten(1).any(dim=1).sum()) == 2
    assert int(expected["poses/cameras/visits"].sum()) == 2
    if name == "classic":
        assert float(expected["nodes/background/densifier/wishes"][1].max()) == 2.0


@pytest.mark.parametrize("name", CONFIGS)
def test_processes_stay_the_same_to_the_bit(folder: Path, name: str) -> None:
    one, other = _both(folder, name)
    assert set(one["last"]) == set(other["last"])
    assert 0.1 < float((one["last"]["nodes/background/steps"] < 0.9).float().mean()) < 0.5
    assert all(torch.equal(value, other["last"][key]) for key, value in one["last"].items())
    assert one["counts"] == other["counts"]
    changes = [i for i, (before, now) in enumerate(zip(one["counts"], one["counts"][1:]), start=2) if now != before]
    # After pictures 15 and 30, at the end of the step that brought them.
    assert len(one["counts"]) == STEPS
    assert changes == [8, 15]


def test_two_processes_make_one_scene(folder: Path, tmp_path: Path) -> None:
    facts = read_manifest(folder / "whole", "scene").facts
    assert facts["processes"] == 2
    alone = fit(tiny_log(), tmp_path / "alone", CONFIGS["classic"], on_progress=lambda row: None)
    held_out = read_manifest(alone, "scene").facts["held_out"]
    # Sixty steps are few: with as many pictures, half of the steps are 2 to 3 dB behind here, which longer fits make up for.
    assert facts["held_out"]["psnr"] == pytest.approx(held_out["psnr"], abs=3.5)
    assert facts["held_out"]["psnr"] > 28
    assert sorted(p.relative_to(alone) for p in alone.rglob("*")) == sorted(
        p.relative_to(folder / "whole") for p in (folder / "whole").rglob("*")
    )
    assert load_scene(folder / "whole" / "snapshots" / "000025").facts["iterations"] == 26
    rows = [json.loads(line)["iteration"] for line in (folder / "whole" / "curve.jsonl").read_text().splitlines()]
    # Only the first process says and writes anything.
    assert (folder / "rows 0").read_text() == str(rows)
    assert (folder / "rows 1").read_text() == "[]"
    assert rows == [2, *range(10, 121, 10)]


def test_an_interruption_of_one_stops_both_and_a_resumed_fit_ends_the_same(folder: Path, gone_on: Path) -> None:
    assert all((folder / f"interrupted {rank}").is_file() for rank in (0, 1))
    files = sorted(path.relative_to(folder / "long") for path in (folder / "long").rglob("*") if path.is_file())
    for file in files:
        if file.name != "manifest.json":  # holds the time that the fit took
            assert (gone_on / "cut" / file).read_bytes() == (folder / "long" / file).read_bytes(), file
    assert not (gone_on / "cut.partial").exists()


def test_a_process_that_dies_ends_the_others(gone_on: Path) -> None:
    assert "another process of this run has ended" in (gone_on / "said").read_text()
    assert not (gone_on / "dead").exists()


def test_a_checkpoint_belongs_to_as_many_processes() -> None:
    two = trainer_of(CONFIGS["mcmc"], Processes(rank=0, count=2))
    alone = trainer_of(CONFIGS["mcmc"])
    with pytest.raises(UserError, match="made by 2 processes, not by 1; start as many again"):
        alone.load_state_dict(two.state_dict())
    older = {key: value for key, value in alone.state_dict().items() if key != "processes"}
    alone.load_state_dict(older)
    with pytest.raises(UserError, match="made by 1 processes, not by 2"):
        two.load_state_dict(older)


def test_more_processes_than_frames_are_refused() -> None:
    config = replace(CONFIGS["classic"], data=DataConfig(train_every=4))
    with pytest.raises(UserError, match="there are 3 frames to train on, too few for 4 processes; start fewer"):
        trainer_of(config, Processes(rank=1, count=4))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def launch(**variables: str) -> None:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


def test_what_a_launcher_says(launched: Callable[..., None]) -> None:
    launched()
    assert (launched_count(), launched_rank()) == (1, 0)
    launched(RANK="3", LOCAL_RANK="1", WORLD_SIZE="4")
    assert (launched_count(), launched_rank()) == (4, 3)
    # Some clusters set these for a program that nobody launched several times.
    launched(RANK="0", WORLD_SIZE="4")
    assert (launched_count(), launched_rank()) == (1, 0)


def test_more_processes_than_gpus_are_refused(launched: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    launched(RANK="2", LOCAL_RANK="2", WORLD_SIZE="4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="this machine has 2 GPUs, too few for 3 processes"), joined_processes(torch.device("cuda")):
        pass


def test_other_verbs_are_the_work_of_one(launched: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    launched(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2")
    assert main(["render", str(tmp_path / "scene"), "--out", str(tmp_path / "clip")]) == 2
    assert "render: it is the work of one process, but 2 were launched together" in capsys.readouterr().err
    assert main(["train", str(tmp_path / "nothing")]) == 2
    assert "work of one process" not in capsys.readouterr().err


@pytest.mark.parametrize(("every", "pictures"), [(100, 1), (100, 3), (10, 4), (2, 4), (1, 2)])
def test_what_is_due_comes_once_in_every_interval(every: int, pictures: int) -> None:
    scaling = StepScaling(pictures)
    for end in range(pictures, 40 * pictures, pictures):
        passed = any(iteration % every == 0 for iteration in range(end - pictures + 1, end + 1))
        assert scaling.due(every, end) == passed


def test_moments_forget_as_much_per_picture() -> None:
    first, second = StepScaling(4).adam["betas"]
    np.testing.assert_allclose([first, second], [0.9**4, 0.999**4])
    assert StepScaling(1).adam == {"betas": (0.9, 0.999), "eps": 1e-15}
    assert StepScaling(4).rate(0.1) == pytest.approx(0.2)
