"""What made the pictures of a report: which enhancer, and which splatmend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from splatmend.datasets.artifact import read_manifest
from splatmend.datasets.clip import Clip
from splatmend.pipelines.code_state import CodeState
from splatmend.pipelines.stage import flat

Row = tuple[str, str]


def makers_of_records(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[Row]]:
    """A few words for the head of the page and rows of a table, from the runner's records."""
    enhancers: list[Mapping[str, Any]] = []
    stages_by_code: dict[str, list[str]] = {}
    for record in records:
        enhancer = record["facts"].get("enhancer")
        if enhancer is not None and enhancer not in enhancers:
            enhancers.append(enhancer)
        stages_by_code.setdefault(str(CodeState(**record["splatmend"])), []).append(record["stage"])
    words = [f"enhancer {enhancer['name']} ({enhancer['weights']})" for enhancer in enhancers]
    rows = [row for enhancer in enhancers for row in _enhancer_rows(enhancer)]
    for code, stages in stages_by_code.items():
        words.append(f"splatmend {code}")
        rows.append(("splatmend", code if len(stages_by_code) == 1 else f"{code} ({', '.join(stages)})"))
    return words, rows


def makers_of_clips(clips: Mapping[str, Clip]) -> list[Row]:
    """Rows of a table from what clips that splatmend wrote say of themselves; videos and folders of images say nothing."""
    rows = []
    for name, clip in clips.items():
        if not (clip.path / "manifest.json").is_file():
            continue
        manifest = read_manifest(clip.path)
        rows.append((f"{name}: splatmend", manifest.code_version))
        enhancer = manifest.config.get("enhancer")
        if enhancer is not None:
            rows += [(f"{name}: {what}", value) for what, value in _enhancer_rows(enhancer)]
    return rows


def _enhancer_rows(enhancer: Mapping[str, Any]) -> Iterable[Row]:
    for label, key in (("enhancer", "name"), ("enhancer's weights", "weights"), ("enhancer's base", "base"), ("enhancer's task", "task")):
        if key in enhancer:
            yield label, str(enhancer[key])
    for name, value in flat(dict(enhancer["provenance"])).items():
        yield f"enhancer's training: {name}", _text(value)


def _text(value: Any) -> str:
    """A value in a table; what a list holds several times is counted."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(f"{item} ({count} times)" if count > 1 else str(item) for item, count in Counter(map(str, value)).items())
    return str(value)
