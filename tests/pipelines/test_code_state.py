"""The version and the commit of the code that runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from splatmend import __version__
from splatmend.pipelines.code_state import CodeState, checkout_state


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    module = tmp_path / "pipelines" / "code_state.py"
    module.parent.mkdir()
    module.write_text("")
    git(tmp_path, "init", "-q")
    return module


def test_a_checkout_has_a_commit_and_says_when_it_differs_from_it(checkout: Path) -> None:
    root = checkout.parents[1]
    assert checkout_state(checkout) is None  # not tracked yet
    git(root, "add", ".")
    git(root, "commit", "-qm", "First")
    head = git(root, "rev-parse", "HEAD")
    assert checkout_state(checkout) == CodeState(version=__version__, commit=head)
    (root / "notes.txt").write_text("no source")
    assert checkout_state(checkout) == CodeState(version=__version__, commit=head)
    (checkout.parent / "more.py").write_text("")
    changed = checkout_state(checkout)
    assert changed == CodeState(version=__version__, commit=head, changed=True)
    assert str(changed) == f"{__version__}, commit {head[:12]} with uncommitted changes"


def test_without_git_the_version_is_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert checkout_state(checkout) is None
    assert str(CodeState(version="1.2.3")) == "1.2.3"
