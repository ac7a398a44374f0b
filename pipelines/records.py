"""What is known of the last run of each stage: `OUT/stages/STAGE.json` beside `OUT/STAGE`, written by the runner."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splatmend.datasets.artifact import read_json, write_json
from splatmend.datasets.errors import UserError

RECORDS = "stages"
_NEEDED = {"stage", "recipe", "state", "config", "inputs", "takes_from", "code", "splatmend"}


def record_path(out: Path, stage: str) -> Path:
    """Where the record of a stage lies."""
    return out / RECORDS / f"{stage}.json"


def write_record(out: Path, record: Mapping[str, Any]) -> None:
    """Put a stage's record in place."""
    write_json(record_path(out, record["stage"]), record)


def read_record(out: Path, stage: str) -> dict[str, Any] | None:
    """The record of a stage; None where it never ran. `UserError` where it is broken, or another version's."""
    path = record_path(out, stage)
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not record.keys() >= _NEEDED or record["stage"] != stage:
        raise UserError(f"{path}: this is no record of a stage that this splatmend reads; give another --out, or --overwrite.")
    return record


def recorded_stages(out: Path) -> list[str]:
    """Names of the stages that have a record, readable or not."""
    return sorted(path.stem for path in (out / RECORDS).glob("*.json"))


def done_records_behind(out: Path, stage: str) -> list[dict[str, Any]]:
    """Records of all that a stage was made from, directly or not, in the order in which they ended. What the folder holds of other
    settings of the recipe (an enhanced clip where the last run left enhancement out) is not among them."""
    found: dict[str, dict[str, Any]] = {}
    waiting = [stage]
    while waiting:
        record = read_record(out, waiting.pop())
        if record is not None and record["stage"] not in found:
            found[record["stage"]] = record
            waiting += record["takes_from"]
    done = [record for name, record in found.items() if name != stage and record["state"] == "done"]
    return sorted(done, key=lambda record: record["finished_s"])
