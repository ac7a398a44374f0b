"""`edits.yaml`: read, checked for contradictions, and described by a JSON schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from splatmend.datasets.errors import UserError
from splatmend.recon.edits.forms import Struct
from splatmend.recon.edits.types import Duplicate, Edit, Edits, EditsBody, Insert, Move, Remove, Replace, shown_id

_VERBS: dict[type, str] = {Remove: "removed", Move: "moved", Replace: "replaced"}


def read_edits(file: Path) -> Edits:
    """The edits of a file.

    Raises:
        UserError: where the file is missing, no YAML, or says something that is not known or contradicts itself; with the line.
    """
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; check the path.") from None
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        raise UserError(f"{file}: line {line}: it is no UTF-8 text; save the file as UTF-8.") from None
    except OSError as fault:
        raise UserError(f"{file}: it cannot be read ({fault.strerror}); check the path.") from None
    return parse_edits(text, file)


def parse_edits(text: str, file: Path) -> Edits:
    """The edits in a text; `file` is what messages name. Errors: those of `read_edits`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as fault:
        raise UserError(f"{file}: line {_line_of(fault, text)}: this is no YAML ({_said(fault)}); correct the line.") from None
    except RecursionError:
        raise UserError(f"{file}: line 1: it is nested too deeply; write a list `edits`.") from None
    if node is None:
        raise UserError(f"{file}: line 1: the file is empty; write a list `edits`.")
    edits = Edits(file=file, edits=Struct(EditsBody).read(file, node).edits)
    _refuse_contradictions(edits)
    return edits


def edits_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a file of edits; it holds what can be said without a scene and of one edit at a time."""
    shared: dict[str, Any] = {}
    top = Struct(EditsBody).schema(shared)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "edits of a scene", **top, "$defs": shared}


def _refuse_contradictions(edits: Edits) -> None:
    done: dict[str, Edit] = {}
    shown: dict[str, Edit] = {}
    for edit in edits.edits:
        where = f"{edits.file}: line {edit.line}"
        if not isinstance(edit, (Duplicate, Insert)):
            if (other := done.get(edit.actor)) is not None:
                here, there = _VERBS[type(edit)], _VERBS[type(other)]
                raise UserError(f"{where}: {edit.actor} is {here} here and {there} in line {other.line}; leave one of them out.")
            done[edit.actor] = edit
        new_id = shown_id(edit)
        if new_id is None:
            continue
        if (other := shown.get(new_id)) is not None:
            raise UserError(f"{where}: the id {new_id} is also given in line {other.line}; choose another.")
        shown[new_id] = edit


def _line_of(fault: yaml.YAMLError, text: str) -> int:
    mark = getattr(fault, "problem_mark", None) or getattr(fault, "context_mark", None)
    if mark is not None:
        return int(mark.line) + 1
    position = getattr(fault, "position", 0)
    return text.count("\n", 0, position) + 1 if isinstance(position, int) else 1


def _said(fault: yaml.YAMLError) -> str:
    reason = getattr(fault, "problem", None) or getattr(fault, "reason", None) or str(fault)
    return " ".join(str(reason).split())[:120]


if __name__ == "__main__":
    print(json.dumps(edits_schema(), indent=1))
