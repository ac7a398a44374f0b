from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from splatmend.datasets.errors import UserError
from splatmend.recon.edits.reading import edits_schema, parse_edits, read_edits
from splatmend.recon.edits.types import Duplicate, Edits, Insert, Move, Remove, Replace, shown_id

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = sorted((DOCS / "examples").glob("*.yaml"))
EVERYTHING = """\
edits:
  - remove: car-1
  - move: car-2
    path:
      follow: {actor: car-2, delay_s: 0.5, ahead: -3, left: [[0, 0], [1.5, 2]]}
      from_s: 0.2
      until_s: 3
  - replace: "3"
    asset: suv
    as: new-suv
    scale: 1.1
  - duplicate: car-2
    as: oncoming
    path:
      ego: {left: 3.5, ahead: 30, speed: [[0, 8], [2, 0]], direction: against}
  - insert: assets/van
    as: van
    path:
      keys:
        poses: [{at: [1, 2], yaw_deg: 10}, {at: [5, 2, 0]}]
        speed: 10
        start_s: 1
    scale: 0.5
  - insert: van
    as: flying
    path:
      world:
        - {time_s: 0, at: [1, 2, 3], yaw_deg: 0}
        - {time_s: 1, at: [4, 2, 3], yaw_deg: 20}
      on_ground: false
  - insert: van
    as: parked
    path: {parked: {ahead: 10, left: -2, yaw_deg: 90}}
"""

SCALED = [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def _parsed(text: str) -> Edits:
    return parse_edits(text, Path("edits.yaml"))


def _fault(text: str) -> str:
    """The sentence with which a text is refused."""
    with pytest.raises(UserError) as refusal:
        _parsed(text)
    sentence = str(refusal.value)
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


def test_everything_that_can_be_written_is_read_with_its_line() -> None:
    edits = _parsed(EVERYTHING).edits
    assert [type(edit) for edit in edits] == [Remove, Move, Replace, Duplicate, Insert, Insert, Insert]
    assert [edit.line for edit in edits] == [2, 3, 8, 12, 16, 24, 31]
    assert [shown_id(edit) for edit in edits] == [None, "car-2", "new-suv", "oncoming", "van", "flying", "parked"]
    move, replaced, oncoming, van = edits[1], edits[2], edits[3], edits[4]
    assert isinstance(move, Move)
    assert isinstance(replaced, Replace)
    assert isinstance(oncoming, Duplicate)
    assert isinstance(van, Insert)
    assert move.path.line == 5
    assert move.path.follow is not None
    assert (move.path.follow.left.times_s, move.path.follow.left.values) == ((0.0, 1.5), (0.0, 2.0))
    assert (replaced.actor, replaced.scale) == ("3", 1.1)
    assert oncoming.path.ego is not None
    assert oncoming.path.ego.speed is not None
    assert oncoming.path.ego.speed.at(1.0) == 4.0
    assert van.path.keys is not None
    assert van.path.keys.speed.values == (10.0,)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "the file is empty"),
        ("edits: []", 1, "at least 1"),
        ("edits: 3", 1, "`3` is no list"),
        ("- remove: a", 1, "a list is no mapping"),
        ("edits:\n  - remove: a\n  - remove: [b", 3, "this is no YAML"),
        ("edits:\n\t- remove: a", 2, "this is no YAML"),
        ("edits: \x07", 1, "this is no YAML"),
        ("edit:\n  - remove: a", 1, "edit is not known here; write only edits"),
        ("edits:\n  - drop: a", 2, "give it one of remove, move, replace, duplicate, insert"),
        ("edits:\n  - remove: a\n    move: b", 2, "remove and move exclude each other"),
        ("edits:\n  - remove: a\n    as: b", 3, "as is not known here; write only remove"),
        ("edits:\n  - remove: a\n    remove: b", 3, "remove stands here twice"),
        ("edits:\n  - remove:", 2, "an empty value is no name"),
        ("edits:\n  - remove: yes", 2, "`yes` is no name"),
        ("edits:\n  - duplicate: a\n    path: {parked: {ahead: 1}}", 2, "as is missing"),
        ("edits:\n  - move: a\n    path: {}", 3, "it has none of ego, world, follow, keys, parked"),
        ("edits:\n  - move: a\n    path:\n      ego: {ahead: 1}\n      parked: {ahead: 1}", 4, "ego and parked exclude each other"),
        ("edits:\n  - move: a\n    path:\n      ego:\n        ahead: far", 5, "`far` is no finite number"),
        ("edits:\n  - move: a\n    path:\n      ego:\n        ahead: .nan", 5, "`.nan` is no finite number"),
        ("edits:\n  - move: a\n    path:\n      ego:\n        ahead: 1e99", 5, "1e+99 is out of range"),
        ("edits:\n  - move: a\n    path:\n      ego:\n        ahead: 1\n        speed: -3", 6, "write a number from 0 to 200"),
        ("edits:\n  - move: a\n    path: {ego: {direction: against}}", 3, "add speed"),
        ("edits:\n  - move: a\n    path: {ego: {direction: up}}", 3, "write with or against"),
        ("edits:\n  - move: a\n    path: {ego: {left: [[1, 2], [1, 3]]}}", 3, "let the times of a list rise"),
        ("edits:\n  - move: a\n    path: {ego: {left: [[1, 2, 3]]}}", 3, "a list of 2"),
        ("edits:\n  - move: a\n    path:\n      parked: {at: [1]}", 4, "a list of 2 or 3"),
        ("edits:\n  - move: a\n    path:\n      parked: {at: [1, 2], left: 1}", 4, "leave one of them out"),
        ("edits:\n  - move: a\n    path:\n      parked: {yaw_deg: 3}", 4, "it has none of at, ahead"),
        ("edits:\n  - move: a\n    path: {parked: {at: [1, 2]}, on_ground: maybe}", 3, "write true or false"),
        ("edits:\n  - move: a\n    path: {parked: {at: [1, 2]}, on_ground: false}", 3, "with x, y and z"),
        ("edits:\n  - move: a\n    path: {ego: {ahead: 2}, from_s: 3, until_s: 2}", 3, "correct from_s or until_s"),
        ("edits:\n  - move: a\n    path:\n      world:\n        - {time_s: 0}", 5, "it has none of at, world_from_actor"),
        ("edits:\n  - move: a\n    path: {world: [{time_s: 1, at: [0, 0]}, {time_s: 1, at: [1, 0]}]}", 3, "let the times of world rise"),
        ("edits:\n  - move: a\n    path: {world: [{time_s: 1, at: [0, 0], yaw_deg: 1}, {time_s: 2, at: [1, 0]}]}", 3, "to all or to none"),
        ("edits:\n  - move: a\n    path:\n      keys:\n        speed: 3\n        poses: [{at: [1, 1]}, {at: [1, 1]}]", 5, "same place"),
        ("edits:\n  - move: a\n    path:\n      keys:\n        speed: 3\n        poses: [{at: [1, 1]}]", 6, "at least 2"),
        ("edits:\n  - insert: a\n    as: b\n    path: {parked: {ahead: 1}}\n    scale: -1", 5, "-1 is out of range"),
        ("edits:\n  - insert: a\n    as: b\n    path: {parked: {ahead: 1}}\n    scale: 0", 5, "0 is out of range"),
        ("edits:\n  - remove: a\n  - replace: a\n    asset: b", 3, "a is replaced here and removed in line 2"),
        ("edits:\n  - remove: a\n  - remove: a", 3, "a is removed here and removed in line 2"),
        ("edits:\n  - move: a\n    path: {ego: {ahead: 1}}\n  - replace: a\n    asset: b", 4, "a is replaced here and moved in line 2"),
        ("edits:\n  - replace: a\n    asset: s\n    as: n\n  - replace: b\n    asset: s\n    as: n", 5, "n is also given in line 2"),
        (f"edits:\n  - move: a\n    path: {{world: [{{time_s: 0, world_from_actor: {SCALED}}}]}}", 3, "not orthonormal"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(text: str, line: int, words: str) -> None:
    sentence = _fault(text)
    assert sentence.startswith(f"edits.yaml: line {line}: "), sentence
    assert words in sentence, sentence


def test_numbers_are_those_that_people_write() -> None:
    """YAML 1.1 reads `1e1` as text and `1_0` as a number; people and YAML 1.2 do not."""
    for written, value in (("1e1", 10.0), ("-.5", -0.5), ("+3", 3.0), ("0", 0.0)):
        (edit,) = _parsed(f"edits:\n  - move: a\n    path: {{parked: {{ahead: {written}}}}}").edits
        assert isinstance(edit, Move)
        assert edit.path.parked is not None
        assert edit.path.parked.ahead == value
    for written in ("1_0", "1:30", "'3'", "0x1f", "true", "~"):
        assert "is no finite number" in _fault(f"edits:\n  - move: a\n    path: {{parked: {{ahead: {written}}}}}").replace(
            "an empty value", ""
        )


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: there is no such file"):
        read_edits(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_edits(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"edits:\n  - remove: stra\xdfe\n")
    with pytest.raises(UserError, match=r"line 2: it is no UTF-8 text"):
        read_edits(latin)
    deep = tmp_path / "deep.yaml"
    deep.write_text("[" * 5000)
    with pytest.raises(UserError, match=r"deep\.yaml: line 1"):
        read_edits(deep)
    circle = tmp_path / "circle.yaml"
    circle.write_text("edits: &all [*all]\n")
    with pytest.raises(UserError, match=r"circle\.yaml: line 1"):
        read_edits(circle)


def test_the_examples_of_the_documentation_are_read_and_fit_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert len(EXAMPLES) >= 3
    seen = set()
    for example in EXAMPLES:
        seen |= {type(edit) for edit in read_edits(example).edits}
        jsonschema.validate(yaml.safe_load(example.read_text()), edits_schema())
    assert seen == {Remove, Move, Replace, Duplicate, Insert}


def test_the_published_schema_is_that_of_the_types() -> None:
    published = json.loads((DOCS / "edits.schema.json").read_text())
    assert published == edits_schema(), "write it anew: python -m splatmend.recon.edits.reading > docs/edits.schema.json"


def _changed(value: Any) -> Iterator[Any]:
    """The value with each of its parts left out or replaced in turn."""
    yield from (None, True, "word", -1, 1e99, [], [[0, 1]], {}, {"at": [1, 2]})
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            for other in _changed(value[key]):
                yield {**value, key: other}
        yield {**value, "stranger": 1}
    if isinstance(value, list):
        for index, item in enumerate(value):
            for other in _changed(item):
                yield [*value[:index], other, *value[index + 1 :]]


BEYOND_A_SCHEMA = (
    "exclude each other; leave one",  # pose and heading
    "add speed",
    "rise",
    "to all or to none",
    "on_ground: true",
    "same place",
    "leave one of them out",
    "also given in line",
    "correct from_s or until_s",
    "pose has",
)
"""What only code can say: entries of several places against each other."""


def test_reader_and_schema_agree_on_every_single_change_of_a_whole_file() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(edits_schema())
    whole = yaml.safe_load(EVERYTHING)
    assert validator.is_valid(whole)
    count = 0
    for edit in whole["edits"]:
        for other in _changed(edit):
            document = {"edits": [copy.deepcopy(other)]}
            # JSON is YAML, but for numbers such as 1e+99, which the reader takes for numbers too.
            text = json.dumps(document)
            try:
                _parsed(text)
                refusal = None
            except UserError as fault:
                refusal = str(fault)
            valid = validator.is_valid(document)
            if refusal is None or not any(words in refusal for words in BEYOND_A_SCHEMA):
                assert valid == (refusal is None), (text, refusal)
            count += 1
    assert count > 500
