"""The runner: what runs, what is skipped, what goes on after an interruption, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from splatmend.datasets.artifact import Manifest, building, read_json, write_json
from splatmend.datasets.errors import UserError
from splatmend.pipelines import stage as stage_module
from splatmend.pipelines.planning import plan
from splatmend.pipelines.records import done_records_behind, read_record, write_record
from splatmend.pipelines.runner import run
from splatmend.pipelines.stage import Stage, fingerprint


@dataclass(frozen=True, kw_only=True)
class Add:
    amount: int = 1


def add(config: Add, inputs, out: Path, context) -> None:
    """Reads a number, adds, writes a number: ten steps with a checkpoint after each."""
    total = sum(read_json(path / "number.json" if path.is_dir() else path) for path in inputs.values())
    manifest = Manifest(kind="number", config={"amount": config.amount})
    with building(out, manifest, overwrite=True, resume=context.resume) as partial:
        done = read_json(partial / "checkpoint.json") if (partial / "checkpoint.json").exists() else 0
        for step in range(done, 10):
            if (fault := out.parent / "fault").exists() and step == 5:
                fault.unlink()
                raise KeyboardInterrupt
            write_json(partial / "checkpoint.json", step + 1)
            context.say(f"step {step}")
        write_json(partial / "number.json", total + config.amount)


def chain(source: Path, amount: int = 1) -> list[Stage]:
    return [
        Stage(name="first", config=Add(amount=amount), run=add, inputs={"a": source}, resumes=True),
        Stage(name="second", config=Add(), run=add, inputs={"a": "first"}),
        Stage(name="aside", config=Add(), run=add, inputs={"a": source}),
        Stage(name="third", config=Add(), run=add, inputs={"a": "second", "b": "aside"}),
    ]


def product(source: Path) -> list[Stage]:
    """Another recipe, with one stage of the same name and one of its own."""
    return [
        Stage(name="first", config=Add(amount=7), run=add, inputs={"a": source}),
        Stage(name="product", config=Add(), run=add, inputs={"a": "first"}),
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.json"
    write_json(path, 40)
    return path


def actions(stages: list[Stage], out: Path, **options) -> dict[str, tuple[str, str]]:
    return {step.stage.name: (step.action, step.reason) for step in plan("sums", stages, out, **options).steps}


def execute(stages: list[Stage], out: Path, say=lambda line: None, recipe="sums", **options) -> list[dict]:
    return run(plan(recipe, stages, out, **options), out, say=say)


def test_runs_once_and_then_skips(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert set(actions(chain(source), out).values()) == {("run", "new")}
    execute(chain(source), out)
    assert read_json(out / "third" / "number.json") == (40 + 1 + 1) + (40 + 1) + 1
    assert set(actions(chain(source), out).values()) == {("skip", "unchanged")}
    before = (out / "third" / "number.json").stat().st_mtime_ns
    records = execute(chain(source), out)
    assert (out / "third" / "number.json").stat().st_mtime_ns == before
    assert [record["action"] for record in records] == ["skip"] * 4
    assert all(record["usage"]["seconds"] > 0 and record["usage"]["memory_bytes"] > 2**20 for record in records)


def test_inputs_are_recorded_so_that_the_run_and_the_working_folder_may_change(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    execute(product(Path(source.name)), Path("out"), recipe="product")
    assert read_record(Path("out"), "first")["input_paths"] == {"a": str(source)}
    assert read_record(Path("out"), "product")["input_paths"] == {"a": "first"}


def test_config_change_runs_the_stage_and_what_takes_from_it(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(chain(source), out)
    found = actions(chain(source, amount=5), out)
    assert found["first"] == ("run", "config changed: amount 1 -> 5")
    assert found["second"] == ("run", "first runs again")
    assert found["aside"] == ("skip", "unchanged")
    execute(chain(source, amount=5), out)
    assert read_json(out / "third" / "number.json") == (40 + 5 + 1) + (40 + 1) + 1


def test_input_change_code_change_and_lost_output(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    execute(chain(source), out)
    write_json(source, 400)
    assert actions(chain(source), out)["aside"] == ("run", "input changed: a")
    execute(chain(source), out)
    (out / "aside" / "number.json").unlink()
    (out / "aside" / "checkpoint.json").unlink()
    (out / "aside" / "manifest.json").unlink()
    (out / "aside").rmdir()
    assert actions(chain(source), out)["aside"] == ("run", "its output is gone")
    monkeypatch.setattr(Stage, "code_key", lambda self: "another")
    assert actions(chain(source), out)["first"] == ("run", "code changed")


def test_interrupted_stage_goes_on(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fault").touch()
    with pytest.raises(KeyboardInterrupt):
        execute(chain(source), out)
    assert not (out / "first").exists()
    assert actions(chain(source), out)["first"] == ("resume", "interrupted")
    # A changed configuration must not go on from the checkpoint of another one.
    assert actions(chain(source, amount=2), out)["first"] == ("run", "config changed: amount 1 -> 2")
    said: list[str] = []
    execute(chain(source), out, say=said.append)
    assert said[:2] == ["[1/4] first (interrupted)", "step 5"]
    assert read_json(out / "first" / "number.json") == 41


@pytest.mark.parametrize("killed", [False, True])
def test_a_resumed_stage_counts_the_seconds_of_its_earlier_attempts(source: Path, tmp_path: Path, killed: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fault").touch()
    with pytest.raises(KeyboardInterrupt):
        execute(chain(source), out)
    record = read_record(out, "first")
    if killed:  # a process that is killed writes no usage down
        started_s = (out / "first.partial" / "checkpoint.json").stat().st_mtime - 100.0
        write_record(out, {name: value for name, value in record.items() if name != "usage"} | {"started_s": started_s})
    else:
        assert 0 < record["usage"]["seconds"] < 60
        write_record(out, record | {"usage": record["usage"] | {"seconds": 100.0, "memory_bytes": 2**50}})
    records = execute(chain(source), out)
    assert 100 < records[0]["usage"]["seconds"] < 160
    assert records[0]["usage"]["memory_bytes"] == 2**50 or killed
    assert all(record["usage"]["seconds"] < 60 for record in records[1:])
    # What starts anew counts from nothing.
    assert execute(chain(source), out, first="first")[0]["usage"]["seconds"] < 60


def test_a_stage_that_cannot_resume_starts_anew(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(chain(source), out, last="first")
    (out / "fault").touch()
    with pytest.raises(KeyboardInterrupt):
        execute(chain(source), out)
    assert (out / "second.partial" / "checkpoint.json").exists()
    assert actions(chain(source), out)["second"] == ("run", "interrupted; it starts anew")
    said: list[str] = []
    execute(chain(source), out, say=said.append)
    assert said[:2] == ["[2/4] second (interrupted; it starts anew)", "step 0"]


def test_a_resume_needs_a_checkpoint(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "fault").touch()
    with pytest.raises(KeyboardInterrupt):
        execute(chain(source), out)
    (out / "first.partial" / "checkpoint.json").unlink()
    assert actions(chain(source), out)["first"] == ("run", "interrupted before it wrote a checkpoint")


def test_a_folder_belongs_to_one_recipe(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(product(source), out, recipe="product")
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match="holds a run of product; give another --out for sums, or --overwrite"):
        plan("sums", chain(source), out)
    assert sorted(out.rglob("*")) == before
    planned = plan("sums", chain(source), out, overwrite=True)
    assert planned.leftovers == ("first", "product")
    assert sorted(out.rglob("*")) == before
    run(planned, out, say=lambda line: None)
    names = {"first", "second", "aside", "third"}
    assert {path.name for path in out.iterdir()} == {*names, "stages"}
    assert {path.stem for path in (out / "stages").glob("*.json")} == names
    assert {read_record(out, name)["recipe"] for name in names} == {"sums"}


def test_what_another_recipe_left_is_no_input_of_this_one(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(product(source), out, recipe="product")
    with pytest.raises(UserError, match="which --overwrite would remove"):
        plan("sums", chain(out / "product" / "number.json"), out, overwrite=True)


def test_records_behind_a_stage_leave_out_what_it_does_not_take_from(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(chain(source), out)
    assert [record["stage"] for record in done_records_behind(out, "third")] == ["first", "second", "aside"]
    assert [record["stage"] for record in done_records_behind(out, "second")] == ["first"]


def test_from_after_until_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(chain(source), out)
    for first, last in (("third", "second"), ("aside", "second")):
        with pytest.raises(UserError, match=f"--from {first}: .*--until {last} leaves it out"):
            plan("sums", chain(source), out, first=first, last=last)
    assert actions(chain(source), out, first="second", last="second")["second"] == ("run", "--from second")


def test_from_until_and_overwrite(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert list(actions(chain(source), out, last="second")) == ["first", "second"]
    execute(chain(source), out)
    found = actions(chain(source), out, first="second")
    assert [found[name][0] for name in ("first", "second", "aside", "third")] == ["skip", "run", "skip", "run"]
    assert {action for action, _ in actions(chain(source), out, overwrite=True).values()} == {"run"}
    with pytest.raises(UserError, match="no such stage"):
        plan("sums", chain(source), out, last="fourth")


def test_foreign_folder_is_not_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "first").mkdir(parents=True)
    with pytest.raises(UserError, match="no run of this recipe has made this"):
        plan("sums", chain(source), tmp_path / "out")


def test_missing_input_and_broken_record(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(chain(source), out)
    (out / "stages" / "first.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        plan("sums", chain(source), out)
    (out / "stages" / "first.json").write_text("{}")
    with pytest.raises(UserError, match=r"no record of a stage.*--overwrite"):
        read_record(out, "first")
    execute(chain(source), out, overwrite=True)
    assert set(actions(chain(source), out).values()) == {("skip", "unchanged")}
    with pytest.raises(UserError, match="no such file"):
        fingerprint(tmp_path / "nothing")


def test_a_folder_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    for out in (source / "out", Path("/proc/out")):
        with pytest.raises(UserError, match=f"{out}: it cannot be written"):
            execute(chain(source), out)


def test_fingerprint_of_a_folder_follows_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "0.png").write_bytes(b"abc")
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    (folder / "images" / "1.png").write_bytes(b"")
    assert fingerprint(folder) != first


def test_a_chosen_drive_is_an_input_of_its_own_files(tmp_path: Path) -> None:
    folder = tmp_path / "drives"
    for component in ("camera_image", "vehicle_pose"):
        (folder / component).mkdir(parents=True)
        for drive in ("one", "two"):
            (folder / component / f"{drive}.parquet").write_text(f"{component} of {drive}")
    chosen = Path(f"{folder}#one")
    first = fingerprint(chosen)
    (folder / "camera_image" / "two.parquet").write_text("changed")
    assert fingerprint(chosen) == first != fingerprint(Path(f"{folder}#two"))
    (folder / "camera_image" / "one.parquet").write_text("changed")
    assert fingerprint(chosen) != first
    assert actions(chain(chosen), tmp_path / "out")["first"] == ("run", "new")
    with pytest.raises(UserError, match="no drive three"):
        actions(chain(Path(f"{folder}#three")), tmp_path / "out")


def test_stages_differ_by_config() -> None:
    stage = Stage(name="a", config=Add(), run=add)
    assert replace(stage, config=Add(amount=2)).config_values() == {"amount": 2}


def test_a_small_folder_counts_by_content_and_a_large_one_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights" / "w.bin"
    file.parent.mkdir()
    file.write_bytes(b"abc")
    first = fingerprint(file.parent)
    os.utime(file, ns=(1, 1))
    assert fingerprint(file.parent) == first  # installed again
    file.write_bytes(b"abd")
    assert fingerprint(file.parent) != first
    monkeypatch.setattr(stage_module, "_SMALL_BYTES", 2)
    os.utime(file, ns=(1, 1))
    large = fingerprint(file.parent)
    os.utime(file, ns=(2, 2))
    assert fingerprint(file.parent) != large
