"""`splatmend report`: one HTML file about clips and their scores, or about a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from splatmend.datasets.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Make the report of a run again, or one of single clips (--raw, --enhanced, --truth, --scores)."""

    run: Positional[Path | None] = None
    """Folder of a run (`splatmend run`): its stages, scene, log and scores."""
    out: Path
    """Folder of the report to write; the page is report.html in it."""
    title: str | None = None
    """Heading of the page."""
    raw: Path | None = None
    """Rendered clip."""
    enhanced: Path | None = None
    """The same clip after enhancement."""
    truth: Path | None = None
    """The same shots as recorded."""
    scores: Path | None = None
    """Folder that `splatmend evaluate` wrote for these clips."""
    scene: Path | None = None
    """Scene, for its loss curve."""
    log: Path | None = None
    """Log, for its pictures."""
    overwrite: bool = False
    """Replace an existing report."""


def run(options: Options) -> int:
    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.report.build import Comparison, ReportInputs, build_report
    from splatmend.pipelines.report.from_run import inputs_of_run

    refuse_existing(options.out, options.overwrite)
    named = {"raw": options.raw, "enhanced": options.enhanced, "truth": options.truth}
    clips = {name: path for name, path in named.items() if path is not None}
    if options.run is not None:
        parts = {**named, "scores": options.scores, "scene": options.scene, "log": options.log}
        given = [f"--{name}" for name, path in parts.items() if path is not None]
        if given:
            raise UserError(
                f"{options.run}: a run brings its own clips, scores, scene and log; leave {' and '.join(given)} out, or the run."
            )
        inputs = inputs_of_run(options.run, options.title)
    elif clips:
        scores = {} if options.scores is None else {"Scores": options.scores}
        title = options.title or next(iter(clips.values())).name
        part = Comparison(title="Clips", clips=clips, scores=scores)
        inputs = ReportInputs(title=title, comparisons=[part], scene=options.scene, log=options.log)
    else:
        raise UserError("report: there is nothing to show; give the folder of a run, or --raw and --enhanced.")
    print(f"report: {build_report(inputs, options.out, overwrite=options.overwrite)}")
    return 0
