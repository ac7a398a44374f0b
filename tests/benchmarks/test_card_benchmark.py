"""The benchmark of a whole machine: its rows exist, and its parts start, keep to the budget and leave their lines."""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def card() -> ModuleType:
    return importlib.import_module("card")


def test_every_row_it_names_is_one(card: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    chopgrad, onestep = importlib.import_module("chopgrad"), importlib.import_module("onestep")
    monkeypatch.setattr(sys, "argv", ["onestep.py", "--toy"])
    steps = onestep.all_rows(onestep.parse(), onestep.Size(toy=True))
    first, later = chopgrad.chosen_rows(list(card.FIRST_ROWS)), chopgrad.chosen_rows(list(card.LATER_ROWS))
    assert [row.name for row in first] == list(card.FIRST_ROWS)
    # The exact gradient comes before those that take their cosine from it.
    assert next(row.name for row in later if row.frames == 21) == "mse/full/21/480x832"
    assert not {row.name for row in first} & {row.name for row in later if row.frames > 21}
    assert all(any(fnmatchcase(name, pattern) for name in steps) for pattern in card.STEP_ROWS)


def test_several_gpus_share_a_step_that_one_makes_too(card: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert card.main(["--gpus", "2", "--list", "--out", str(tmp_path), "--commit", "abc"]) == 0
    shared, alone = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert shared[1:3] == ["-m", "torch.distributed.run"]
    assert shared[shared.index("--nproc-per-node") + 1] == "2"
    assert shared[-1] == "parallel"
    assert alone[1].endswith("onestep.py")
    assert alone[-1] == "lora 14B small"
    assert all(command[command.index("--commit") + 1] == "abc" for command in (shared, alone))


def test_no_row_is_started_past_the_budget(card: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "GRACE_S", 3600)
    assert card.main(["--toy", "--budget-s", "0", "--out", str(tmp_path), "--commit", "abc"]) == 0
    for name, environments in (("chopgrad", 2), ("onestep", 1)):
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert [line["kind"] for line in lines] == ["environment"] * environments
        assert {line["commit"] for line in lines} == {"abc"}
