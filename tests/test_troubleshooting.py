"""The table of faults quotes what the program prints, and names options that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import splatmend.datasets
import splatmend.enhance
import splatmend.pipelines
import splatmend.recon
from splatmend.pipelines.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "troubleshooting.md"
HOLE = "…"


def sentences(tree: ast.AST) -> Iterator[str]:
    """The strings of a source, with a hole for each value that is put in; pieces that stand side by side are one."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


@pytest.fixture(scope="module")
def printed() -> list[str]:
    rooms = (splatmend.datasets, splatmend.recon, splatmend.enhance, splatmend.pipelines)
    files = [path for room in rooms for path in Path(str(room.__file__)).parent.rglob("*.py")]
    return [text for path in files for text in sentences(ast.parse(path.read_text()))]


def test_every_quoted_sentence_is_one_that_the_program_prints(printed: list[str]) -> None:
    quotes = re.findall(r'"([^"]+)"', PAGE.read_text())
    assert len(quotes) > 5
    for quote in quotes:
        assert any(quote in text for text in printed), quote


def test_every_option_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    options = set(re.findall(r"--[a-z][a-z.-]+[a-z]", re.sub(r"`(sudo|pip) [^`]*`", "", PAGE.read_text()))) - {"--debug"}
    helps = ""
    for verb in ("fit", "render", "enhance", "run"):
        assert main([verb, "--help"]) == 0
        helps += capsys.readouterr().out
    assert len(options) > 5
    assert not {option for option in options if f"{option} " not in helps and f"{option}," not in helps}
