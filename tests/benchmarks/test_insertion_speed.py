"""The benchmark of insertion at toy size: a row for naive and one for finished pictures."""

from __future__ import annotations

import importlib

import pytest


def test_naive_and_finished_pictures_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark = importlib.import_module("insertion_speed")
    settings = ["--device", "cpu", "--count", "2000", "--size", "96", "64", "--frames", "4", "--models", "ewa"]
    monkeypatch.setattr("sys.argv", ["insertion_speed.py", *settings])
    benchmark.main()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "96x64" in line]
    assert [row[7].strip() for row in rows] == ["naive", "finished"]
    assert all(int(row[5]) == 2 and float(row[8]) > 0 for row in rows)
