from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from safetensors import SafetensorError

from splatmend.datasets.artifact import Manifest, _exchange, building, naming_full_disk, partial_folder, read_json, read_manifest
from splatmend.datasets.errors import UserError


def _write(out: Path, text: str, **how: bool) -> None:
    with building(out, Manifest(kind="clip", config={"text": text}), **how) as partial:
        (partial / "text").write_text(text)
        assert not (out / "text").exists() or how.get("overwrite")


def test_an_artefact_is_there_whole_with_its_manifest(tmp_path: Path) -> None:
    _write(tmp_path / "a", "one")
    assert (tmp_path / "a" / "text").read_text() == "one"
    assert read_manifest(tmp_path / "a", "clip").config == {"text": "one"}
    assert not partial_folder(tmp_path / "a").exists()


def test_an_existing_one_is_refused_and_replaced_only_when_asked(tmp_path: Path) -> None:
    _write(tmp_path / "a", "one")
    with pytest.raises(UserError, match="exists already"):
        _write(tmp_path / "a", "two")
    _write(tmp_path / "a", "two", overwrite=True)
    assert (tmp_path / "a" / "text").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_nothing_unless_there_is_a_checkpoint(tmp_path: Path) -> None:
    def fail(with_file: str) -> None:
        with building(tmp_path / "a", Manifest(kind="clip", config={})) as partial:
            (partial / with_file).write_text("x")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        fail("checkpoint.pt.new")  # half written: nothing to go on from
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError):
        fail("checkpoint.pt")
    assert (partial_folder(tmp_path / "a") / "checkpoint.pt").is_file()
    with pytest.raises(UserError, match="--resume"):
        _write(tmp_path / "a", "one")
    with building(tmp_path / "a", Manifest(kind="clip", config={}), resume=True) as partial:
        assert (partial / "checkpoint.pt").is_file()


def test_faults_of_manifests_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        read_manifest(tmp_path / "absent")
    with pytest.raises(UserError, match="no splatmend artefact"):
        read_manifest(tmp_path)
    _write(tmp_path / "a", "one")
    with pytest.raises(UserError, match="of the kind clip, but scene"):
        read_manifest(tmp_path / "a", "scene")
    path = tmp_path / "a" / "manifest.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "format_version": 99}))
    with pytest.raises(UserError, match="format version 99 is unknown"):
        read_manifest(tmp_path / "a")
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        read_manifest(tmp_path / "a")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)


def test_a_full_disk_is_named_with_the_output(tmp_path: Path) -> None:
    def fill(number: int) -> None:
        with naming_full_disk(tmp_path / "a"):
            raise OSError(number, "no room")

    with pytest.raises(UserError, match="a: the disk is full"):
        fill(errno.ENOSPC)
    with pytest.raises(UserError, match="a: the disk is full"), naming_full_disk(tmp_path / "a"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(OSError, match="no room"):
        fill(errno.EIO)


def test_a_read_only_file_system_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: int = 0o777) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr("os.mkdir", refuse)
    with pytest.raises(UserError, match=r"a: it cannot be made \(Read-only file system\)"):
        _write(tmp_path / "a", "one")


def test_replacing_leaves_a_whole_artefact_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended as soon as the names are swapped: the new one stands, and what is left of the old one goes with the next run."""
    _write(tmp_path / "a", "one")
    if not _exchange(tmp_path / "a", tmp_path / "a"):
        pytest.skip("names cannot be swapped on this file system")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", killed)
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            _write(tmp_path / "a", "two", overwrite=True)
    assert (tmp_path / "a" / "text").read_text() == "two"
    assert read_manifest(tmp_path / "a").kind == "clip"
    _write(tmp_path / "a", "three", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_where_names_cannot_be_swapped_the_old_one_steps_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splatmend.datasets.artifact._exchange", lambda one, other: False)
    _write(tmp_path / "a", "one")
    _write(tmp_path / "a", "two", overwrite=True)
    assert (tmp_path / "a" / "text").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
