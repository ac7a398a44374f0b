"""Runs a recipe's stages in order: skips what is unchanged, goes on with what was interrupted, says why.

Every stage writes `OUT/<stage>`; what is known of its last run is in `OUT/stages/<stage>.json`.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from splatmend import __version__
from splatmend.datasets.artifact import content_key, partial_folder, plain, read_json, write_json
from splatmend.datasets.errors import UserError
from splatmend.pipelines.resources import Meter
from splatmend.pipelines.stage import Stage, StageContext, fingerprint, stage_key

Action = Literal["run", "resume", "skip"]
RECORDS = "stages"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What will become of one stage, and why."""

    stage: Stage
    action: Action
    reason: str


def plan(stages: Sequence[Stage], out: Path, *, first: str | None = None, last: str | None = None, overwrite: bool = False) -> list[Step]:
    """What a run would do, without doing it.

    Args:
        first: run this stage and everything that takes from it, changed or not.
        last: leave out every stage that this one does not need.
        overwrite: run everything, and replace folders that no run of this recipe has made.

    Raises `UserError` for a stage that does not exist, an input that does not, or a folder in the way.
    """
    names = [stage.name for stage in stages]
    for name in (first, last):
        if name is not None and name not in names:
            raise UserError(f"{name}: the recipe has no such stage; its stages are {', '.join(names)}.")
    for stage in stages:
        for source in stage.inputs.values():
            if isinstance(source, Path) and not source.exists():
                raise UserError(f"{source}: there is no such file or folder; check the path.")
    wanted = set(names) if last is None else _ancestors(stages, last)
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
    return steps


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
    if record["state"] == "running":
        return ("resume", "interrupted") if partial_folder(target).exists() else ("run", "interrupted before it wrote a checkpoint")
    return ("skip", "unchanged") if target.exists() else ("run", "its output is gone")


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


def run(steps: Sequence[Step], out: Path, *, device: str = "auto", say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Carry out a plan; returns the records of its stages (skipped ones with what their last run took)."""
    records = []
    with _locked(out):
        for number, step in enumerate(steps, 1):
            if step.action != "skip":
                say(f"[{number}/{len(steps)}] {step.stage.name} ({step.reason})")
                _run_stage(step, out, StageContext(device=device, resume=step.action == "resume", say=say))
            record = read_record(out, step.stage.name)
            if record is None:
                raise RuntimeError(f"stage {step.stage.name} has no record after its run")
            records.append(record | {"action": step.action, "reason": step.reason})
    return records


def _run_stage(step: Step, out: Path, context: StageContext) -> None:
    stage, target = step.stage, out / step.stage.name
    inputs, code, config = input_keys(stage, out), stage.code_key(), stage.config_values()
    key = stage_key(config, inputs, code)
    record: dict[str, Any] = {
        "stage": stage.name,
        "state": "running",
        "key": key,
        "config": plain(config),
        "inputs": inputs,
        "input_paths": {name: str(out / source if isinstance(source, str) else source) for name, source in stage.inputs.items()},
        "code": code,
        "device": context.device,
        "code_version": __version__,
    }
    if not context.resume:
        shutil.rmtree(partial_folder(target), ignore_errors=True)
    write_json(_record_path(out, stage.name), record)
    paths = {name: out / source if isinstance(source, str) else source for name, source in stage.inputs.items()}
    meter = Meter()
    with meter:
        stage.run(stage.config, paths, target, context)
    if not target.exists() or meter.usage is None:
        raise RuntimeError(f"stage {stage.name} ended without writing {target}")
    finished = time.time()
    record |= {
        "state": "done",
        # Two runs of one key may differ in their last bits, so what takes from a stage remembers which run it took from.
        "made": content_key([key, finished]),
        "finished_s": finished,
        "usage": plain(meter.usage),
    }
    write_json(_record_path(out, stage.name), record)


def read_record(out: Path, stage: str) -> dict[str, Any] | None:
    """What is known of a stage's last run; None where it never ran."""
    path = _record_path(out, stage)
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not {"state", "config", "inputs", "code"} <= record.keys():
        raise UserError(f"{path}: this is no record of a stage; delete it and run again.")
    return record


def done_records(out: Path) -> list[dict[str, Any]]:
    """Records of the stages that are done in a run's folder, in the order in which they ended."""
    records = [read_record(out, path.stem) for path in sorted((out / RECORDS).glob("*.json"))]
    return sorted((r for r in records if r is not None and r["state"] == "done"), key=lambda r: r["finished_s"])


def _record_path(out: Path, stage: str) -> Path:
    return out / RECORDS / f"{stage}.json"


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


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Only one run at a time in a folder."""
    try:
        (out / RECORDS).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as fault:
        raise UserError(f"{out}: it cannot be made ({fault.strerror}); give an --out in a folder that you may write to.") from None
    with (out / RECORDS / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another run works in this folder; wait for it or give another --out.") from None
        yield
