"""What a run of a recipe would do, stage by stage, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from splatmend.datasets.artifact import has_checkpoint, partial_folder
from splatmend.datasets.errors import UserError
from splatmend.datasets.readers.registry import on_disk
from splatmend.pipelines.records import read_record, recorded_stages
from splatmend.pipelines.stage import Stage, fingerprint

Action = Literal["run", "resume", "skip"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What will become of one stage, and why."""

    stage: Stage
    action: Action
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a run in their order. `leftovers`: stages of another recipe, whose folders and records go away first."""

    recipe: str
    steps: tuple[Step, ...]
    leftovers: tuple[str, ...] = ()


def plan(
    recipe: str, stages: Sequence[Stage], out: Path, *, first: str | None = None, last: str | None = None, overwrite: bool = False
) -> Plan:
    """What a run would do, without doing it.

    Args:
        recipe: name of the recipe that the stages make up; a folder holds the runs of one.
        first: run this stage and everything that takes from it, changed or not.
        last: leave out every stage that this one does not need.
        overwrite: run everything, and replace folders that no run of this recipe has made.

    Raises `UserError` for a stage that does not exist, an input that does not, a range without a stage, or a folder in the way.
    """
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name is not None and name not in names:
            raise UserError(f"{name}: the recipe has no such stage; its stages are {', '.join(names)}.")
    for stage in stages:
        for source in stage.inputs.values():
            if isinstance(source, Path) and not on_disk(source):
                raise UserError(f"{source}: there is no such file or folder; check the path.")
    leftovers = _leftovers(recipe, stages, out, overwrite)
    wanted = set(names) if last is None else _ancestors(stages, last)
    if first is not None and first not in wanted:
        raise UserError(f"--from {first}: {last} does not take from it, so --until {last} leaves it out; give another --from or --until.")
    forced = set() if first is None else _descendants(stages, first)
    steps: list[Step] = []
    running: set[str] = set()
    for stage in stages:
        if stage.name not in wanted:
            continue
        rerun = next((name for name in stage.upstream() if name in running), None)
        action: Action
        if overwrite:
            action, reason = "run", "--overwrite"
        elif stage.name in forced:
            action, reason = "run", f"--from {first}"
        else:
            action, reason = _action(stage, out, rerun)
        if action != "skip":
            running.add(stage.name)
        steps.append(Step(stage=stage, action=action, reason=reason))
    return Plan(recipe=recipe, steps=tuple(steps), leftovers=leftovers)


def _leftovers(recipe: str, stages: Sequence[Stage], out: Path, overwrite: bool) -> tuple[str, ...]:
    """Stages that another recipe (or another version of splatmend) left in the folder, which only `overwrite` may remove."""
    found = []
    for name in recorded_stages(out):
        try:
            record = read_record(out, name)
        except UserError:
            if not overwrite:
                raise
            found.append(name)
            continue
        if record is not None and record["recipe"] != recipe:
            if not overwrite:
                raise UserError(f"{out}: this folder holds a run of {record['recipe']}; give another --out for {recipe}, or --overwrite.")
            found.append(name)
    for stage in stages:
        for source in stage.inputs.values():
            files = on_disk(source) if isinstance(source, Path) else ()
            inside = [name for name in found if any(file.resolve().is_relative_to((out / name).resolve()) for file in files)]
            if inside:
                raise UserError(f"{source}: it lies in {out / inside[0]}, which --overwrite would remove; give another --out.")
    return tuple(found)


def _action(stage: Stage, out: Path, rerun: str | None) -> tuple[Action, str]:
    record = read_record(out, stage.name)
    target = out / stage.name
    if record is None:
        if target.exists():
            raise UserError(f"{target}: no run of this recipe has made this; give another --out, or --overwrite to replace it.")
        return "run", "new"
    if rerun is not None:
        return "run", f"{rerun} runs again"
    change = _change(stage, out, record)
    if change is not None:
        return "run", change
    if record["state"] != "running":
        return ("skip", "unchanged") if target.exists() else ("run", "its output is gone")
    if not stage.resumes:
        return "run", "interrupted; it starts anew"
    return ("resume", "interrupted") if has_checkpoint(partial_folder(target)) else ("run", "interrupted before it wrote a checkpoint")


def _change(stage: Stage, out: Path, record: Mapping[str, Any]) -> str | None:
    """What differs between a stage and the record of its last run, in a few words."""
    config, before = stage.config_values(), record["config"]
    differing = [name for name in sorted(config.keys() | before.keys()) if config.get(name) != before.get(name)]
    if differing:
        name = differing[0]
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        return f"config changed: {name} {before.get(name)} -> {config.get(name)}{more}"
    inputs = input_keys(stage, out)
    changed = [name for name in sorted(inputs.keys() | record["inputs"].keys()) if inputs.get(name) != record["inputs"].get(name)]
    if changed:
        return f"input changed: {', '.join(changed)}"
    return "code changed" if stage.code_key() != record["code"] else None


def input_keys(stage: Stage, out: Path) -> dict[str, str]:
    """A key for each input: of another stage, which run of it; of anything else, its fingerprint."""
    keys = {}
    for name, source in stage.inputs.items():
        if isinstance(source, str):
            record = read_record(out, source)
            keys[name] = "" if record is None else str(record.get("made", ""))
        else:
            keys[name] = fingerprint(source)
    return keys


def _ancestors(stages: Sequence[Stage], name: str) -> set[str]:
    by_name = {stage.name: stage for stage in stages}
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(by_name[current].upstream())
    return found


def _descendants(stages: Sequence[Stage], name: str) -> set[str]:
    found = {name}
    for stage in stages:  # in the order of the recipe, in which a stage stands after all it takes from
        if found & set(stage.upstream()):
            found.add(stage.name)
    return found
