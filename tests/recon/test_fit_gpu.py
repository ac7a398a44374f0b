from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_fit import SMALL
from tiny_log import tiny_log, true_scene

from splatmend.datasets.artifact import read_manifest
from splatmend.recon.fit import CoarseConfig, fit
from splatmend.recon.fit.data import recorded_shots
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.render import render

pytestmark = pytest.mark.gpu


def test_a_fit_on_cuda_learns_as_much_as_on_the_cpu(tmp_path: Path) -> None:
    scores = {}
    for device in ("cpu", "cuda"):
        out = fit(tiny_log(), tmp_path / device, replace(SMALL, device=device), on_progress=lambda row: None)
        scores[device] = read_manifest(out, "scene").facts["held_out"]["psnr"]
    assert scores["cuda"] == pytest.approx(scores["cpu"], abs=1.0)


def test_graphs_follow_pictures_that_grow() -> None:
    log = tiny_log()
    growing = replace(SMALL, device="cuda", iterations=80, coarse=CoarseConfig(until=0.5, halvings=1))
    errors = {}
    for graphs in (True, False):
        config = replace(growing, cuda_graphs=graphs)
        trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cuda"))
        errors[graphs] = [float(trainer.step().squared_error) for _ in range(config.iterations)]
    # Before atomics of the rasteriser have led the two apart, and after the change of size.
    assert errors[True][:10] == pytest.approx(errors[False][:10], rel=1e-3)
    assert sum(errors[True][60:]) == pytest.approx(sum(errors[False][60:]), rel=0.2)


def test_both_devices_draw_the_same_picture() -> None:
    scene = true_scene(4, degree=3)
    with torch.no_grad():
        here, there = render(scene, scene.shots[2].shot), render(scene, scene.shots[2].shot, device="cuda")
    assert here.rgb is not None
    assert there.rgb is not None
    assert here.depth_m is not None
    assert there.depth_m is not None
    assert float((here.rgb - there.rgb.cpu()).abs().mean()) < 1e-4
    drawn = here.opacity > 0.5
    assert float((here.depth_m - there.depth_m.cpu())[drawn].abs().mean()) < 1e-2


def test_a_fit_on_cuda_goes_on_after_an_interruption(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(row: dict) -> None:
        if row["iteration"] == 40:
            raise Stopped

    config = replace(SMALL, device="cuda", checkpoint_every=30, snapshots_at=())
    with pytest.raises(Stopped):
        fit(tiny_log(), tmp_path / "scene", config, on_progress=stop)
    rows: list[int] = []
    fit(tiny_log(), tmp_path / "scene", config, resume=True, on_progress=lambda row: rows.append(row["iteration"]))
    assert rows[0] == 40
    assert read_manifest(tmp_path / "scene", "scene").facts["held_out"]["psnr"] > 20
