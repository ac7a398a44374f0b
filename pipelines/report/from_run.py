"""What a report shows of a run, read from the records that the runner wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splatmend.datasets.errors import UserError
from splatmend.pipelines.evaluation.scores import TRUTH_VIDEO
from splatmend.pipelines.records import done_records_behind, read_record
from splatmend.pipelines.report.build import Comparison, ReportInputs


def comparison(folder: Path, section: Mapping[str, Any]) -> Comparison:
    """A part of the page from the names of stages in a run's folder; the truth comes from the scores, where they have one."""
    clips = {name: folder / stage for name, stage in section["clips"].items()}
    scores = {caption: folder / stage for caption, stage in section["scores"].items()}
    truth = next((path / TRUTH_VIDEO for path in scores.values() if clips and (path / TRUTH_VIDEO).is_file()), None)
    if truth is not None:
        clips["truth"] = truth
    return Comparison(title=section["title"], clips=clips, scores=scores, note=section["note"])


def inputs_of_run(folder: Path, title: str | None = None) -> ReportInputs:
    """What the report stage of a finished run was made of. `UserError` where the folder holds no such run."""
    record = read_record(folder, "report")
    if record is None or record["state"] != "done":
        raise UserError(f"{folder}: there is no finished run with a report here; give the --out of `splatmend run`.")
    config = record["config"]
    sections: Sequence[Mapping[str, Any]] = config["sections"]
    paths = {name: folder / path for name, path in record["input_paths"].items()}
    return ReportInputs(
        title=title or config["title"],
        comparisons=[comparison(folder, section) for section in sections],
        scene=paths["scene"],
        log=paths["log"],
        records=done_records_behind(folder, "report"),
    )
