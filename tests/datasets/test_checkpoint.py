from __future__ import annotations

import errno
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from splatmend.datasets import checkpoint
from splatmend.datasets.checkpoint import load_checkpoint, random_state, restore_random_state, save_checkpoint
from splatmend.datasets.errors import UserError


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", {"random": random_state(), "step": 3})
    first = (torch.rand(3), np.random.rand(3))  # noqa: NPY002
    state = load_checkpoint(tmp_path / "c.pt")
    restore_random_state(state["random"])
    again = (torch.rand(3), np.random.rand(3))  # noqa: NPY002
    assert state["step"] == 3
    assert torch.equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_broken_and_absent_checkpoints_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes(b"nothing")
    with pytest.raises(UserError, match="this is no whole checkpoint; delete it and run again"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_full_disk_keeps_the_former_checkpoint_and_leaves_no_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "c.pt", {"step": 1})

    def full(state: object, file: object) -> None:
        raise RuntimeError("unexpected pos 64 vs 0")  # what torch makes of ENOSPC

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(OSError, match=r"c\.pt") as caught:
        save_checkpoint(tmp_path / "c.pt", {"step": 2})
    assert caught.value.errno == errno.ENOSPC
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    assert load_checkpoint(tmp_path / "c.pt") == {"step": 1}
