"""What enhancers make of pairs they were not trained on, kind by kind: `python benchmarks/enhancer.py PAIRS... --model bundled`.

Every degraded clip is enhanced and scored against its target, as `splatmend enhance` and `splatmend evaluate` do it. `--model NAME=FOLDER`
takes several; `@S` behind a folder sets its strength, `@none` leaves references out. A row is the mean over clips of the means over their
frames. Drift is by how much the last quarter of a clip gains less than its first, in shares of the render's LPIPS, for clips of 64 frames
or more. `--out` keeps a line per clip (JSON lines); clips that it has are left out when the same line is run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from measured_on import environment

from splatmend.datasets.clip import ClipFrame, open_clip
from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.model import Enhancer
from splatmend.enhance.stream import enhance_clip
from splatmend.pipelines.device import torch_device
from splatmend.pipelines.evaluation.scores import EvaluateConfig, evaluate
from splatmend.pipelines.evaluation.truth import ClipTruth, TrueFrame
from splatmend.pipelines.pairing.index import INDEX, read_rows
from splatmend.pipelines.recipes import enhancer_folder

PACKAGES = ("splatmend", "torch", "diffusers", "torchmetrics")
LPIPS = "lpips_squeeze"
METRICS = ("psnr", "ssim", LPIPS, "ms_ssim", "gmsd", "haarpsi", "warping_error")
LONG_CLIP = 64


class Model(NamedTuple):
    """An enhancer, and how it is used: how much of its change is taken (None: what its spec says), with or without references."""

    name: str
    enhancer: Enhancer
    strength: float | None
    references: bool


class Pair(NamedTuple):
    """Two clips of the same shots."""

    kind: str
    scene: str
    degraded: Path
    target: Path


class TargetTruth(ClipTruth):
    """The target of a pair, frame by frame. Its poses may be those of the log where the fit has corrected them."""

    def frames(self, cameras: Sequence[ClipFrame], needed: Sequence[bool] | None = None) -> Iterator[TrueFrame | None]:
        """See `Truth`."""
        for rgb in self.clip.iter_rgb():
            yield TrueFrame(rgb=rgb)


def pairs_of(folders: Iterable[Path], kinds: Sequence[str]) -> list[Pair]:
    """All pairs of indexes, or those of some kinds; exits where there is none."""
    found = [
        Pair(row["kind"], row["scene"], folder / row["degraded"], folder / row["target"])
        for folder in folders
        for row in read_rows(folder / INDEX)
        if not kinds or row["kind"] in kinds
    ]
    if not found:
        raise SystemExit(f"{' '.join(map(str, folders))}: there are no such pairs")
    return found


def model_of(text: str, device: str) -> Model:
    """`[NAME=]FOLDER[@STRENGTH | @none]`."""
    name, _, folder = text.rpartition("=")
    folder, _, how = folder.partition("@")
    strength = float(how) if how not in ("", "none") else None
    return Model(name or text, load_enhancer(enhancer_folder(folder), device=device), strength, how != "none")


def score(pair: Pair, models: Sequence[Model], device: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    """Row name ("raw", then models, and "truth" where it has a value of its own) -> means, and LPIPS frame by frame."""
    degraded = open_clip(pair.degraded)
    with tempfile.TemporaryDirectory() as scratch:
        clips = {"raw": pair.degraded}
        for model in models:
            clips[model.name] = Path(scratch) / f"clip{len(clips)}"
            enhance_clip(model.enhancer, degraded, clips[model.name], strength=model.strength, references=model.references)
        truth = TargetTruth(clip=open_clip(pair.target))
        scores = evaluate(clips, truth, Path(scratch) / "scores", EvaluateConfig(metrics=metrics), device=device)
    return {name: {"mean": row["mean"], "lpips": [frame.get(LPIPS) for frame in row["per_frame"]]} for name, row in scores["rows"].items()}


def drift(raw: Sequence[float], enhanced: Sequence[float]) -> float | None:
    """Gain of the first quarter less that of the last, as shares of the render's LPIPS; None for short clips."""
    if len(raw) < LONG_CLIP:
        return None
    quarter = len(raw) // 4

    def gain(part: slice) -> float:
        return 1 - sum(enhanced[part]) / sum(raw[part])

    return gain(slice(0, quarter)) - gain(slice(-quarter, None))


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Kind by kind, with the number of clips, and what changed against the render."""
    values: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        for name, row in record["rows"].items():
            kept = values[record["kind"], name]
            for metric, value in row["mean"].items():
                if value is not None:
                    kept[metric].append(value)
            if name not in ("raw", "truth") and None not in row["lpips"]:
                moved = drift(record["rows"]["raw"]["lpips"], row["lpips"])
                if moved is not None:
                    kept["drift"].append(moved)
    columns = (*METRICS, "drift")
    print(f"| kind | row | clips | {' | '.join(columns)} | LPIPS to raw |")
    print(f"|{'---|' * (len(columns) + 4)}")
    for (kind, name), row in values.items():
        means = {metric: statistics.fmean(found) for metric, found in row.items()}
        cells = [_cell(metric, means.get(metric)) for metric in columns]
        raw = statistics.fmean(values[kind, "raw"][LPIPS]) if values[kind, "raw"][LPIPS] else None
        against = f"{100 * (means[LPIPS] / raw - 1):+.1f} %" if raw and LPIPS in means else ""
        print(f"| {kind} | {name} | {max(map(len, row.values()), default=0)} | {' | '.join(cells)} | {against} |")


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if metric in ("psnr", "warping_error") else f"{value:.4f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="+", help="folders of `splatmend pairs`")
    parser.add_argument("--model", nargs="+", default=["bundled"], metavar="[NAME=]FOLDER[@STRENGTH|@none]")
    parser.add_argument("--kinds", nargs="*", default=[], help="kinds of pairs; none means all")
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), choices=METRICS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("enhancer.jsonl"), help="JSON lines to add to")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    chosen = parser.parse_args(argv)
    device = torch_device(chosen.device)
    models = [model_of(text, device) for text in chosen.model]
    records = [json.loads(line) for line in chosen.out.read_text().splitlines()] if chosen.out.exists() else []
    asked = [model.name for model in models]
    done = {record["degraded"] for record in records if record["kind"] != "environment" and record["models"] == asked}
    with chosen.out.open("a") as file:
        file.write(json.dumps({"kind": "environment"} | environment(PACKAGES, cuda=device != "cpu", commit=chosen.commit)) + "\n")
        for pair in pairs_of(chosen.pairs, chosen.kinds):
            if str(pair.degraded) in done:
                continue
            rows = score(pair, models, device, tuple(chosen.metrics))
            records.append({"kind": pair.kind, "scene": pair.scene, "degraded": str(pair.degraded), "models": asked, "rows": rows})
            file.write(json.dumps(records[-1]) + "\n")
            file.flush()
            print(pair.scene, pair.kind, {name: round(row["mean"][LPIPS], 4) for name, row in rows.items() if row["mean"].get(LPIPS)})
    print_table([record for record in records if record["kind"] != "environment" and record["models"] == asked])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
