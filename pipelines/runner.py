"""Carries out a plan: skips what is unchanged, goes on with what was interrupted, writes down what each stage was made of and took."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from splatmend.datasets.artifact import content_key, partial_folder, plain
from splatmend.datasets.disk_faults import disk_is_full
from splatmend.datasets.errors import UserError
from splatmend.pipelines.code_state import code_state
from splatmend.pipelines.planning import Plan, Step, input_keys
from splatmend.pipelines.records import RECORDS, read_record, record_path, write_record
from splatmend.pipelines.resources import Meter, Usage
from splatmend.pipelines.stage import StageContext, stage_key


def run(plan: Plan, out: Path, *, device: str = "auto", say: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Carry out a plan; returns the records of its stages (skipped ones with what their last run took)."""
    records = []
    with _locked(out):
        for name in plan.leftovers:
            _remove(out, name)
        for number, step in enumerate(plan.steps, 1):
            if step.action != "skip":
                say(f"[{number}/{len(plan.steps)}] {step.stage.name} ({step.reason})")
                _run_stage(plan.recipe, step, out, StageContext(device=device, resume=step.action == "resume", say=say))
            record = read_record(out, step.stage.name)
            if record is None:
                raise RuntimeError(f"stage {step.stage.name} has no record after its run")
            records.append(record | {"action": step.action, "reason": step.reason})
    return records


def _run_stage(recipe: str, step: Step, out: Path, context: StageContext) -> None:
    stage, target = step.stage, out / step.stage.name
    inputs, code, config = input_keys(stage, out), stage.code_key(), stage.config_values()
    key = stage_key(config, inputs, code)
    paths = {name: out / source if isinstance(source, str) else source for name, source in stage.inputs.items()}
    earlier = _earlier_usage(out, step)
    record: dict[str, Any] = {
        "stage": stage.name,
        "recipe": recipe,
        "state": "running",
        "key": key,
        "config": plain(config),
        "inputs": inputs,
        # Of another stage within the run's folder, which may be moved; of anything else from the root, whatever the working folder is.
        "input_paths": {name: source if isinstance(source, str) else str(source.resolve()) for name, source in stage.inputs.items()},
        "takes_from": list(stage.upstream()),
        "code": code,
        "device": context.device,
        "splatmend": plain(code_state()),
        "started_s": time.time(),
        "earlier": plain(earlier),
    }
    if not context.resume:
        shutil.rmtree(partial_folder(target), ignore_errors=True)
    write_record(out, record)
    meter = Meter()
    try:
        with meter:
            facts = stage.run(stage.config, paths, target, context)
    except BaseException:
        if meter.usage is not None:
            with suppress(OSError):  # what went wrong is more than that it could not be timed
                write_record(out, record | {"usage": plain(meter.usage.after(earlier))})
        raise
    if not target.exists() or meter.usage is None:
        raise RuntimeError(f"stage {stage.name} ended without writing {target}")
    finished = time.time()
    record |= {
        "state": "done",
        # Two runs of one key may differ in their last bits, so what takes from a stage remembers which run it took from.
        "made": content_key([key, finished]),
        "finished_s": finished,
        "usage": plain(meter.usage.after(earlier)),
        "facts": plain(facts or {}),
    }
    write_record(out, record)


def _earlier_usage(out: Path, step: Step) -> Usage:
    """What the attempts took with which a resumed stage goes on; nothing where it starts anew."""
    record = read_record(out, step.stage.name) if step.action == "resume" else None
    if record is None or "started_s" not in record:  # another version's
        return Usage(seconds=0.0, memory_bytes=0, accelerator_bytes=0)
    if "usage" in record:
        return Usage(**record["usage"])
    # The attempt was killed and could write nothing down; it lived at least until it last wrote to its folder.
    written = [file.stat().st_mtime for file in partial_folder(out / step.stage.name).rglob("*")]
    lived_s = max(0.0, max(written, default=0.0) - record["started_s"])
    return Usage(seconds=lived_s, memory_bytes=0, accelerator_bytes=0).after(Usage(**record["earlier"]))


def _remove(out: Path, name: str) -> None:
    """A stage's folders, then its record: what is interrupted here is found again."""
    for folder in (out / name, partial_folder(out / name)):
        if folder.exists():
            shutil.rmtree(folder)
    record_path(out, name).unlink()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Only one run at a time in a folder."""
    path = out / RECORDS / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as fault:
        if disk_is_full(fault):
            raise
        raise UserError(f"{out}: it cannot be written ({fault.strerror}); give an --out in a folder that you may write to.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another run works in this folder; wait for it or give another --out.") from None
        yield
