"""The wheel holds splatmend/ and nothing else, with every sub-package, template and weight of the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOMS = ("datasets", "recon", "enhance", "pipelines")


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    tree = tmp_path_factory.mktemp("tree")
    for name in (*ROOMS, "src"):
        shutil.copytree(REPOSITORY / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, tree / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tree / "dist"), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (tree / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_only_splatmend_is_installed_at_top_level(wheel_names: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel_names if ".dist-info/" not in name} == {"splatmend"}


@pytest.mark.parametrize("room", ROOMS)
def test_every_file_of_a_package_is_in_the_wheel(wheel_names: set[str], room: str) -> None:
    files = [p.relative_to(REPOSITORY) for p in (REPOSITORY / room).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert files
    missing = [f"splatmend/{p.as_posix()}" for p in files if f"splatmend/{p.as_posix()}" not in wheel_names]
    assert not missing


def test_tracked_files_stay_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    sizes = {name: (REPOSITORY / name).stat().st_size for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()}
    assert sum(sizes.values()) < 28 * 2**20
    assert max(sizes.values()) < 15 * 2**20


def test_no_dead_links_in_the_documents() -> None:
    documents = [REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")]
    assert len(documents) > 5
    for document in documents:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
