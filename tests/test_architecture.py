"""The arrows between the packages, and what a machine without the optional libraries can still import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import splatmend

# Each package and what of splatmend it may import.
ARROWS = {
    "datasets": {"datasets"},
    "recon": {"datasets", "recon"},
    "enhance": {"datasets", "enhance"},
    "pipelines": {"datasets", "recon", "enhance", "pipelines"},
}
INSTALLED = {name: Path(__import__(f"splatmend.{name}", fromlist=["x"]).__file__).parent for name in ARROWS}


def imported_rooms(path: Path) -> set[str]:
    """Packages of splatmend that a file imports anywhere, functions included."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "splatmend" else [node.module or ""]
        rooms |= {name.split(".")[1] for name in names if name.startswith("splatmend.") and name != "splatmend.__version__"}
    return rooms


@pytest.mark.parametrize("room", ARROWS)
def test_packages_import_only_along_the_arrows(room: str) -> None:
    files = sorted(INSTALLED[room].rglob("*.py"))
    assert len(files) > 3
    for path in files:
        assert imported_rooms(path) <= ARROWS[room], f"{path} imports against the arrows"


def test_gsplat_is_imported_in_one_module_of_recon() -> None:
    importers = []
    for room in INSTALLED.values():
        for path in room.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                module = node.module if isinstance(node, ast.ImportFrom) else None
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [module or ""]
                if any(name.split(".")[0] == "gsplat" for name in names):
                    importers.append(path.relative_to(INSTALLED["recon"].parent).as_posix())
    assert set(importers) == {"recon/raster/gsplat_backend.py"}, importers


def test_training_and_fitting_import_without_the_optional_libraries() -> None:
    """A GPU host may lack PyAV, Open3D, viser and ray: every module must import there."""
    modules = []
    for room, folder in INSTALLED.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [p for p in path.relative_to(folder).with_suffix("").parts if p != "__init__"]
            modules.append(".".join(["splatmend", room, *parts]))
    code = (
        "import importlib, sys\n"
        "for name in ('av', 'open3d', 'viser', 'ray', 'waymo_open_dataset', 'gsplat'): sys.modules[name] = None\n"
        f"for module in {modules!r}: importlib.import_module(module)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_package_names_its_version() -> None:
    assert splatmend.__version__.count(".") == 2
