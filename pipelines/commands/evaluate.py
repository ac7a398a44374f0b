"""`splatmend evaluate`: scores of clips against the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from splatmend.datasets.errors import UserError
from splatmend.pipelines.evaluation.scores import EvaluateConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Score clips against the truth; with two clips of the same shots (raw, enhanced) the table shows the difference."""

    clip: Positional[Path]
    """Clip to score (a clip, a video file or a folder of images)."""
    enhanced: Path | None = None
    """The same shots after enhancement: a second row."""
    also: tuple[Path, ...] = ()
    """More clips of the same shots: rows named as their folders."""
    truth: Path
    """A clip of the same shots (also a video file or a folder of images), the log that the scene was fitted to, or a folder that
    `splatmend street` wrote."""
    out: Path
    """Folder of the scores to write."""
    config: Annotated[EvaluateConfig, arg(name="")] = field(default_factory=EvaluateConfig)
    """What counts."""
    device: str = "auto"
    """auto, cpu or cuda."""
    overwrite: bool = False
    """Replace existing scores."""


def run(options: Options) -> int:
    from rich.console import Console

    from splatmend.pipelines.commands.output import refuse_existing
    from splatmend.pipelines.evaluation.scores import evaluate
    from splatmend.pipelines.evaluation.table import score_table
    from splatmend.pipelines.evaluation.truth import open_truth

    refuse_existing(options.out, options.overwrite)
    clips = {"raw": options.clip}
    if options.enhanced is not None:
        clips["enhanced"] = options.enhanced
    for path in options.also:
        if path.stem in (*clips, "truth"):
            raise UserError(f"{path}: a row called {path.stem} is there already; rename the folder.")
        clips[path.stem] = path
    scores = evaluate(clips, open_truth(options.truth), options.out, options.config, device=options.device, overwrite=options.overwrite)
    Console().print(score_table(scores))
    print(f"scores: {options.out / 'scores.json'}")
    return 0
