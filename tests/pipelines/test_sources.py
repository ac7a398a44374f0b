"""The sources behind a stage: whatever Python imports for it is in its key, and nothing else changes it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from splatmend.pipelines import sources, stages
from splatmend.pipelines.sources import code_key, sources_behind

STAGES = ("make_street", "fit_scene", "render_scene", "enhance", "score", "report")
# Carries out the imports of each stage's function in a process that has imported nothing of splatmend yet, and says what came with them.
ASK_PYTHON = """
import ast, json, sys
path, names = sys.argv[1], sys.argv[2:]
found = {}
for function in ast.parse(open(path).read()).body:
    if isinstance(function, ast.FunctionDef) and function.name in names:
        for name in [name for name in sys.modules if name.split(".")[0] == "splatmend"]:
            del sys.modules[name]
        for node in ast.walk(function):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                exec(ast.unparse(node))
        found[function.name] = sorted(name for name in sys.modules if name.split(".")[0] == "splatmend")
print(json.dumps(found))
"""


def test_the_key_covers_all_that_python_imports_for_a_stage() -> None:
    command = [sys.executable, "-c", ASK_PYTHON, str(stages.__file__), *STAGES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = json.loads(done.stdout)
    assert set(imported) == set(STAGES)
    for name, modules in imported.items():
        assert len(modules) > 10
        assert set(modules) <= set(sources_behind(getattr(stages, name))[1]), name


def test_stages_know_what_lies_outside_their_main_package_and_not_more() -> None:
    behind = {name: set(sources_behind(getattr(stages, name))[1]) for name in STAGES}
    assert {"splatmend.pipelines.held_out", "splatmend.pipelines.clip_sets"} <= behind["render_scene"]
    assert {"splatmend.pipelines.clip_sets", "splatmend.pipelines.evaluation.metrics"} <= behind["score"]
    assert "splatmend.datasets.readers.waymo_v2" in behind["fit_scene"]  # opened by the name in the registry
    assert "splatmend.pipelines.held_out" not in behind["fit_scene"]
    assert not {name for name in behind["fit_scene"] if name.startswith("splatmend.enhance")}
    assert not {name for name in behind["make_street"] if name.startswith(("splatmend.enhance", "splatmend.recon", "splatmend.pipelines"))}


HOUSE = {
    "__init__.py": "",
    "room/__init__.py": "",
    "room/work.py": (
        "from house.room.types import Settings\n"
        "FACTOR = 2\n"
        "def stage(config: Settings):\n    from house.room import deep\n    return helper() * deep.value()\n"
        "def helper():\n    return FACTOR\n"
        "def neighbour():\n    return 7\n"
    ),
    "room/deep.py": "def value():\n    import house.room.deeper\n    return house.room.deeper.NUMBER\n",
    "room/deeper.py": "NUMBER = 3\n",
    "room/types.py": "class Settings:\n    pass\n",
    "room/page/page.html": "<p>",
    "registry/__init__.py": "from importlib import import_module\ndef read(name):\n    return import_module(name)\n",
    "registry/by_name.py": "",
    "other/__init__.py": "",
}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of its own with one stage."""
    for name, text in HOUSE.items():
        (tmp_path / "house" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "house" / name).write_text(text)
    monkeypatch.setattr(sources, "PACKAGE", "house")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "house"
    for name in [name for name in sys.modules if name.split(".")[0] == "house"]:
        del sys.modules[name]
    sources._file_of.cache_clear()
    sources._imports_of_source.cache_clear()


def test_a_change_counts_where_the_stage_needs_it(house: Path) -> None:
    stage = importlib.import_module("house.room.work").stage

    def changed_by(name: str, before: str, after: str) -> bool:
        first, text = code_key(stage), (house / name).read_text()
        assert before in text
        (house / name).write_text(text.replace(before, after))
        changed = code_key(stage) != first
        (house / name).write_text(text)
        assert code_key(stage) == first
        return changed

    assert changed_by("room/work.py", "return helper()", "return 1 + helper()")
    assert changed_by("room/work.py", "FACTOR = 2", "FACTOR = 4")
    assert changed_by("room/deep.py", "return", "return 1 +")
    assert changed_by("room/deeper.py", "3", "4")
    assert changed_by("room/page/page.html", "<p>", "<b>")
    assert changed_by("room/__init__.py", "", "import house.other")
    assert not changed_by("room/work.py", "return 7", "return 8")
    assert not changed_by("room/types.py", "pass", "...")
    assert not changed_by("registry/by_name.py", "", "1")
    (house / "room" / "deeper.py").write_text("import house.registry\nNUMBER = 3\n")
    assert changed_by("registry/by_name.py", "", "1")
