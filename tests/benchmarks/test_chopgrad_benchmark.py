"""The benchmark of pixel gradients at toy size: every row runs, rows are on disk as they come, memory that runs out is a result."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def chopgrad() -> ModuleType:
    return importlib.import_module("chopgrad")


def rows_of(path: Path) -> list[dict]:
    return [record for record in map(json.loads, path.read_text().splitlines()) if record["kind"] == "row"]


@pytest.mark.timeout(900)
def test_every_way_and_setting_runs_at_toy_size(chopgrad: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, patterns = tmp_path / "rows.jsonl", ["*/81/*", "*/161/*"]
    assert chopgrad.main(["--list", "--rows", *patterns]) == 0
    names = capsys.readouterr().out.split()
    assert {row.way for row in chopgrad.all_rows()} == {name.split("/")[1] for name in names}
    assert chopgrad.main(["--toy", "--repeats", "1", "--out", str(out), "--rows", *patterns]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    rows = {row["row"]: row for row in rows_of(out)}
    assert list(rows) == names
    assert {row["status"] for row in rows.values()} == {"measured"}
    gradients = {name: row for name, row in rows.items() if not name.startswith("decode/")}
    assert all(row["peak_bytes"] > 0 for row in gradients.values())
    assert all(row["cosine_to"] == ("checkpointing" if "/161/" in name else "full") for name, row in gradients.items())
    for loss in ("mse", "lpips"):
        at = {name: gradients[f"{loss}/{name}/81/480x832"] for name in ("full", "checkpointing", "D=0", "D=1", "literal", "frame-wise")}
        assert at["checkpointing"]["cosine"] == pytest.approx(1.0, abs=1e-5)
        assert at["checkpointing"]["loss"] == pytest.approx(at["full"]["loss"], rel=1e-5)
        assert at["checkpointing"]["length"] == pytest.approx(1.0, abs=1e-4)
        assert at["literal"]["cosine"] == pytest.approx(at["D=1"]["cosine"], abs=1e-5)
        assert at["D=0"]["cosine"] < at["D=1"]["cosine"] < 0.99
        assert at["frame-wise"]["loss"] != pytest.approx(at["full"]["loss"], rel=1e-4)
        assert at["D=0"]["peak_bytes"] < at["D=1"]["peak_bytes"] < at["full"]["peak_bytes"]
    setting = {memory: gradients[f"mse/D=1,{memory},fast/81/480x832"] for memory in ("fast", "balanced", "small")}
    assert setting["small"]["peak_bytes"] < setting["balanced"]["peak_bytes"] < setting["fast"]["peak_bytes"]
    assert setting["small"]["cosine"] == pytest.approx(setting["fast"]["cosine"], abs=1e-4)


def test_patterns_budget_and_resume(chopgrad: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.jsonl"
    chosen = ["--toy", "--repeats", "1", "--out", str(out), "--rows", "mse/D=?/21/480x832", "decode/fast/21/*"]
    assert chopgrad.main([*chosen, "--budget-s", "0"]) == 0
    assert "5 rows are left, mse/D=0" in capsys.readouterr().out
    assert rows_of(out) == []
    assert chopgrad.main([*chosen, "--commit", "abc", "--profile"]) == 0
    assert all(0 < sum(kernel["ms"] for kernel in row["profile"]["kernels"]) <= row["profile"]["kernel_ms"] for row in rows_of(out))
    names = [row["row"] for row in rows_of(out)]
    assert names == [f"mse/D={d}/21/480x832" for d in (0, 1, 2)] + ["decode/fast/21/480x832", "decode/fast/21/720x1280"]
    assert {row.get("cosine_to") for row in rows_of(out)} == {"checkpointing", None}
    assert chopgrad.main([*chosen, "--resume"]) == 0
    assert [row["row"] for row in rows_of(out)] == names
    with out.open("a") as file:
        file.write('{"kind": "row", "ro')
    capsys.readouterr()
    assert chopgrad.main(["--show", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "commit abc" in shown.out
    assert all(name in shown.out for name in names)
    assert "cut short" in shown.err
    with pytest.raises(SystemExit, match="no row matches"):
        chopgrad.main(["--rows", "mse/D=7/*"])


def test_memory_that_runs_out_is_reported_as_such(chopgrad: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chopgrad.TOY_SIZES, (480, 832), (1 << 24, 1 << 24))
    bench = chopgrad.Bench(toy=True, repeats=1)
    too_large = next(row for row in chopgrad.all_rows() if row.name == "mse/full/21/480x832")
    fits = next(row for row in chopgrad.all_rows() if row.name == "mse/full/21/720x1280")
    assert bench.measure(too_large)["status"] == "out of memory"
    assert bench.measure(fits)["status"] == "measured", "later rows still run"


def test_rows_come_in_the_order_of_their_patterns(chopgrad: ModuleType) -> None:
    names = [row.name for row in chopgrad.chosen_rows(["decode/fast/81/480x832", "decode/*/81/*", "mse/literal/21/480x832"])]
    assert names[0] == "decode/fast/81/480x832"
    assert len(names) == len(set(names))
    assert names[-1] == "mse/literal/21/480x832"


def test_a_long_row_is_run_once_and_cosines_have_a_limit(chopgrad: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    chosen = ["--toy", "--repeats", "3", "--row-s", "0.0001", "--cosine-frames", "21", "--out", str(out)]
    assert chopgrad.main([*chosen, "--rows", "mse/D=0/41/480x832", "mse/D=0/21/480x832"]) == 0
    long, short = rows_of(out)
    assert len(long["all_seconds"]) == 1
    assert "cosine" not in long
    assert short["cosine_to"] == "checkpointing"
    assert short["row_s"] >= short["seconds"]
