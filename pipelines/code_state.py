"""Which splatmend runs here: its version, and the commit where that is known."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from splatmend import __version__

_ROOMS = ("datasets", "recon", "enhance", "pipelines", "src")


@dataclass(frozen=True, kw_only=True)
class CodeState:
    """`commit`: None where it is not known; `changed`: whether the checkout holds source changes that are not committed."""

    version: str
    commit: str | None = None
    changed: bool = False

    def __str__(self) -> str:
        commit = "" if self.commit is None else f", commit {self.commit[:12]}"
        return f"{self.version}{commit}{' with uncommitted changes' if self.changed else ''}"


@cache
def code_state() -> CodeState:
    """The state of this package: of the git checkout that it lies in, else what pip noted of the commit it was installed from."""
    return checkout_state(Path(__file__).resolve()) or CodeState(version=__version__, commit=_installed_commit())


def checkout_state(module: Path) -> CodeState | None:
    """The state of the checkout that tracks a module of `pipelines/`; None where none does, or git is absent or declines."""
    root = module.parents[1]
    # A file in somebody else's checkout, such as a virtual environment in a project, is not tracked there.
    if _git(root, ["ls-files", "--error-unmatch", str(module)]) is None:
        return None
    commit, changes = _git(root, ["rev-parse", "HEAD"]), _git(root, ["status", "--porcelain", "--", *_ROOMS])
    if commit is None or changes is None:
        return None
    return CodeState(version=__version__, commit=commit.strip(), changed=bool(changes.strip()))


def _git(folder: Path, arguments: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _installed_commit() -> str | None:
    """The commit that pip installed from a repository (PEP 610)."""
    try:
        noted = distribution("splatmend").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    return None if noted is None else json.loads(noted).get("vcs_info", {}).get("commit_id")
