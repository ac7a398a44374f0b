"""The doctor: every line has a state and, where something is amiss, what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from splatmend.pipelines import doctor
from splatmend.pipelines.cli import main


def test_every_check_answers_and_gsplat_is_not_imported(tmp_path: Path) -> None:
    checks = doctor.examine(tmp_path)
    assert len({check.what for check in checks}) == len(checks) >= 12
    for check in checks:
        assert check.found
        assert check.state == "works" or check.advice, check
    assert "gsplat" not in sys.modules


def test_the_table_is_printed_and_the_exit_code_says_whether_all_can_work(capsys: pytest.CaptureFixture[str]) -> None:
    broken = any(check.state == "broken" for check in doctor.examine())
    assert main(["doctor"]) == int(broken)
    text = capsys.readouterr().out
    assert "CPU rasteriser" in text
    assert "what to do" in text


def test_missing_weights_say_which_file_goes_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("splatmend.datasets.image_metrics.hub_checkpoints", lambda: tmp_path)
    check = doctor.lpips_weights("vgg")
    assert check.state == "absent"
    assert check.found == "network missing"
    assert str(tmp_path) in check.advice
    (tmp_path / "vgg16-397923af.pth").touch()
    assert doctor.lpips_weights("vgg").state == "works"


def test_an_encoder_that_is_missing_is_absent_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splatmend.datasets.video._ENCODERS", {"h264": "no_such_encoder", "av1": "no_such_encoder"})
    check = doctor.video_codec("h264")
    assert check.state == "absent"
    assert "PyAV" in check.advice


def test_little_disk_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("Usage", (), {"free": 2**30, "available": 2**30, "total": 4 * 2**30})()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    monkeypatch.setattr("psutil.virtual_memory", lambda: usage)
    assert doctor.disk(tmp_path).advice
    assert "demo" in doctor.memory().advice


def test_a_library_that_is_installed_but_does_not_load_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.import_fault("json") is None
    assert "no_such_module_here" in str(doctor.import_fault("no_such_module_here"))
    assert doctor.import_fault("os; os.abort()") == "its import is ended by signal 6"
    monkeypatch.setattr(doctor, "import_fault", lambda module: f"libEGL of {module} is missing")
    monkeypatch.setattr(doctor, "package_version", lambda name: "0.19")
    check = doctor.open3d()
    assert (check.state, check.found) == ("absent", "0.19, but libEGL of open3d is missing")
    assert "apt-get" in check.advice


def test_without_torch_the_line_of_gsplat_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor.gsplat().advice == "mend torch first"


def test_packages_that_are_not_installed_are_a_line_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    (line,) = [check for check in doctor.examine(tmp_path) if check.what == "numba"]
    assert (line.state, line.found) == ("broken", "not installed")
    assert "pip install ." in line.advice

    def ours() -> doctor.Check:
        raise ModuleNotFoundError("No module named 'splatmend.x'", name="splatmend.x")

    monkeypatch.setattr(doctor, "python", ours)
    with pytest.raises(ModuleNotFoundError):
        doctor.examine(tmp_path)
