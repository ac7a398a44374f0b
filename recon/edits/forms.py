"""What a value in a YAML file may look like. A form reads it, refusing it with its line, and says the same as JSON schema.

Dataclasses whose fields carry a form in their metadata (`entry`) are forms themselves (`Struct`), so that a file's reader, its schema and
the types in memory have one source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import yaml

from splatmend.datasets.errors import UserError

_INTEGER, _FLOAT, _TEXT, _FLAG = (f"tag:yaml.org,2002:{name}" for name in ("int", "float", "str", "bool"))


def refuse(file: Path, node: yaml.Node, sentence: str) -> NoReturn:
    """`UserError` that names the file, the node's line and what is wrong with it."""
    raise UserError(f"{file}: line {line_of(node)}: {sentence}.")


def line_of(node: yaml.Node) -> int:
    """The line of a file, from 1, on which a node begins."""
    return int(node.start_mark.line) + 1


class Form(Protocol):
    """One kind of value."""

    def read(self, file: Path, node: yaml.Node) -> Any:
        """The value of a node; `UserError` with its line where it has another form."""
        ...

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        """The form as JSON schema; what several places use goes into `shared` by name."""
        ...


@dataclass(frozen=True)
class Number:
    """A finite number from `low` to `high`; with `positive`, above zero."""

    low: float
    high: float
    positive: bool = False

    def read(self, file: Path, node: yaml.Node) -> float:
        value = _number(node)
        if value is None:
            refuse(file, node, f"{_shown(node)} is no finite number; write one from {self._range}")
        if not self.low <= value <= self.high or (self.positive and value <= 0):
            refuse(file, node, f"{value:g} is out of range; write a number from {self._range}")
        return value

    @property
    def _range(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (" (above zero)" if self.positive else "")

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {"type": "number", "maximum": self.high} | ({"exclusiveMinimum": 0} if self.positive else {"minimum": self.low})


@dataclass(frozen=True)
class Text:
    """A word, such as an id; plain whole numbers count as what is written."""

    def read(self, file: Path, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag not in (_TEXT, _INTEGER) or not node.value.strip():
            refuse(file, node, f"{_shown(node)} is no name; write one, in quotes if it looks like something else")
        return str(node.value)

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": r"\S"}, {"type": "integer"}]}


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, file: Path, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.value not in self.words:
            refuse(file, node, f"{_shown(node)} is not known here; write {' or '.join(self.words)}")
        return str(node.value)

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Flag:
    """True or false."""

    def read(self, file: Path, node: yaml.Node) -> bool:
        if not isinstance(node, yaml.ScalarNode) or node.tag != _FLAG:
            refuse(file, node, f"{_shown(node)} is neither; write true or false")
        return node.value.lower() in ("true", "yes", "on")

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Listing:
    """A list of `least` to `most` values of one form, as a tuple."""

    item: Form
    least: int = 1
    most: int | None = None

    def read(self, file: Path, node: yaml.Node) -> tuple[Any, ...]:
        if not isinstance(node, yaml.SequenceNode):
            refuse(file, node, f"{_shown(node)} is no list; write {self._count}")
        if len(node.value) < self.least or (self.most is not None and len(node.value) > self.most):
            refuse(file, node, f"the list has {len(node.value)} entries; write {self._count}")
        return tuple(self.item.read(file, one) for one in node.value)

    @property
    def _count(self) -> str:
        if self.most is None:
            return f"a list of at least {self.least}"
        return f"a list of {self.least}" + (f" or {self.most}" if self.most > self.least else "")

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        limits = {"minItems": self.least} | ({} if self.most is None else {"maxItems": self.most})
        return {"type": "array", "items": self.item.schema(shared)} | limits


@dataclass(frozen=True)
class Struct:
    """A mapping whose entries are those of a dataclass.

    Fields with a form are read (see `entry`); a field `line` is given the line. `ONE_OF` of the class names entries of which exactly
    one must be there. What the class refuses by `ValueError` is refused with the line.
    """

    of: type

    def read(self, file: Path, node: yaml.Node) -> Any:
        held = entries_of(file, node)
        known = entries(self.of)
        for name, (key, _) in held.items():
            if name not in known:
                refuse(file, key, f"{name} is not known here; write only {', '.join(known)}")
        values = {f.name: f.metadata["form"].read(file, held[name][1]) for name, f in known.items() if name in held}
        for name, f in known.items():
            if name not in held and f.default is MISSING and f.default_factory is MISSING:
                refuse(file, node, f"{name} is missing; add it")
        one_of: tuple[str, ...] = getattr(self.of, "ONE_OF", ())
        if one_of and len(chosen := [name for name in one_of if name in held]) != 1:
            what = f"{' and '.join(chosen)} exclude each other" if chosen else f"it has none of {', '.join(one_of)}"
            refuse(file, node, f"{what}; write exactly one of them")
        if "line" in {f.name for f in dataclasses.fields(self.of)}:
            values["line"] = line_of(node)
        try:
            return self.of(**values)
        except ValueError as fault:
            refuse(file, node, str(fault))

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        name = self.of.__name__
        if name not in shared:
            shared[name] = {}
            known = entries(self.of)
            needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
            shared[name] = {
                "type": "object",
                "description": " ".join((self.of.__doc__ or "").split()),
                "properties": {n: f.metadata["form"].schema(shared) | {"description": f.metadata["says"]} for n, f in known.items()},
                "additionalProperties": False,
                **({"required": needed} if needed else {}),
                **({"oneOf": [{"required": [n]} for n in self.of.ONE_OF]} if hasattr(self.of, "ONE_OF") else {}),
            }
        return {"$ref": f"#/$defs/{name}"}


@dataclass(frozen=True)
class Tagged:
    """A mapping that is one of several structs; which one, an entry of that name says."""

    structs: Mapping[str, type]

    def read(self, file: Path, node: yaml.Node) -> Any:
        held = entries_of(file, node)
        found = [name for name in self.structs if name in held]
        if len(found) > 1:
            refuse(file, node, f"{' and '.join(found)} exclude each other; write them as entries of their own")
        if not found:
            refuse(file, node, f"the entry does not say what to do; give it one of {', '.join(self.structs)}")
        return Struct(self.structs[found[0]]).read(file, node)

    def schema(self, shared: dict[str, Any]) -> dict[str, Any]:
        return {"oneOf": [Struct(of).schema(shared) for of in self.structs.values()]}


def entry(form: Form, says: str, *, name: str | None = None) -> dict[str, Any]:
    """Metadata of a dataclass's field that a file holds under its own name or `name`; `says` is its line in the schema."""
    return {"form": form, "name": name, "says": says}


def entries(of: type) -> dict[str, Any]:
    """The fields of a dataclass that files hold, by their names there."""
    return {f.metadata["name"] or f.name: f for f in dataclasses.fields(of) if "form" in f.metadata}


def entries_of(file: Path, node: yaml.Node) -> dict[str, tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping by the key's text."""
    if not isinstance(node, yaml.MappingNode):
        refuse(file, node, f"{_shown(node)} is no mapping; write entries such as `name: value`")
    held: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            refuse(file, key, f"{_shown(key)} is no name of an entry; write a word")
        if key.value in held:
            refuse(file, key, f"{key.value} stands here twice; leave one of them out")
        held[key.value] = (key, value)
    return held


def _number(node: yaml.Node) -> float | None:
    """A node's finite number; None where it has none. YAML takes `1e3` for text, people do not."""
    if not isinstance(node, yaml.ScalarNode) or node.style is not None or node.tag not in (_INTEGER, _FLOAT, _TEXT) or "_" in node.value:
        return None
    try:
        value = float(node.value)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _shown(node: yaml.Node) -> str:
    """A node in a few words."""
    if isinstance(node, yaml.ScalarNode):
        text = " ".join(node.value.split())
        return f"`{text[:40]}{'...' if len(text) > 40 else ''}`" if text else "an empty value"
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a sentence, the first few of them."""
    shown = sorted(names)[:most]
    return (", ".join(shown) + (" ..." if len(names) > most else "")) if shown else "none"
