"""Builds the report: gathers what a run left, and fills the page (artefact kind "report", one file `report.html`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from splatmend.datasets.artifact import Manifest, building, read_manifest
from splatmend.datasets.clip import Clip, open_clip
from splatmend.pipelines.evaluation.same_shots import check_same_shots
from splatmend.pipelines.evaluation.scores import read_scores
from splatmend.pipelines.evaluation.table import score_lines, score_rows
from splatmend.pipelines.report.curves import Curve, draw, read_curve
from splatmend.pipelines.report.log_pictures import LogPictures, log_pictures
from splatmend.pipelines.report.machine import machine_facts
from splatmend.pipelines.report.made_by import makers_of_clips, makers_of_records
from splatmend.pipelines.report.media import clip_uri, jpeg_uri
from splatmend.pipelines.resources import bytes_text, seconds_text
from splatmend.pipelines.stage import flat

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One part of the page: clips of the same shots by name ("raw", "enhanced", "truth") and the scores that belong to them."""

    title: str
    clips: Mapping[str, Path]
    scores: Mapping[str, Path]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """What a report is made of; anything but the title may be missing. `records` are those of the runner."""

    title: str
    comparisons: Sequence[Comparison] = ()
    scene: Path | None = None
    log: Path | None = None
    records: Sequence[Mapping[str, Any]] = ()


def build_report(inputs: ReportInputs, out: Path, *, overwrite: bool = False) -> Path:
    """Write the folder `out` and return the page's path. Raises `UserError` where a named clip, scene, log or score is none."""
    pictures = None if inputs.log is None else log_pictures(inputs.log)
    manifest = Manifest(kind="report", config={"report": inputs.title})
    with building(out, manifest, overwrite=overwrite) as partial:
        page = _page(inputs, pictures)
        (partial / PAGE).write_text(page, encoding="utf-8")
        manifest.facts = {"bytes": len(page.encode())}
    return Path(out) / PAGE


def _page(inputs: ReportInputs, pictures: LogPictures | None) -> str:
    import jinja2

    templates = files("splatmend.pipelines.report") / "templates"
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((templates / "report.html").read_text(encoding="utf-8"))
    clips = {name: open_clip(path) for comparison in inputs.comparisons for name, path in comparison.clips.items()}
    words, makers = makers_of_records(inputs.records) if inputs.records else ([], makers_of_clips(clips))
    total = sum(record["usage"]["seconds"] for record in inputs.records)
    return template.render(
        title=inputs.title,
        style=(templates / "report.css").read_text(encoding="utf-8"),
        script=(templates / "report.js").read_text(encoding="utf-8"),
        lead=[*_lead(inputs, pictures), *words],
        makers=makers,
        comparisons=[_comparison(comparison) for comparison in inputs.comparisons],
        strips=[] if pictures is None else _strips(pictures),
        overlay=None if pictures is None or pictures.overlay is None else jpeg_uri(pictures.overlay, 1080),
        notes=() if pictures is None else pictures.notes,
        curves=[] if inputs.scene is None else _curves(inputs.scene),
        stages=[_stage_row(record, total) for record in inputs.records],
        accelerator=any(record["usage"]["accelerator_bytes"] for record in inputs.records),
        total_time=seconds_text(total),
        settings=_settings(inputs),
        machine=machine_facts(),
    )


def _lead(inputs: ReportInputs, pictures: LogPictures | None) -> list[str]:
    facts = [] if pictures is None else list(pictures.facts)
    if inputs.scene is not None:
        found = read_manifest(inputs.scene, "scene").facts
        count = found["gaussians"]["background"] + sum(found["gaussians"]["actors"].values())
        facts.append(f"{count:,} Gaussians".replace(",", " "))
    return facts


def _comparison(comparison: Comparison) -> dict[str, Any]:
    layers: list[dict[str, str]] = []
    frames, size, rate = 1, (16, 9), 10.0
    first: Clip | None = None
    for name, path in comparison.clips.items():
        clip = open_clip(path)
        first = first or clip
        check_same_shots(first.frames, str(first.path), clip)
        source, frames, size = clip_uri(clip)
        rate = clip.rate_hz
        layers.append({"name": name, "source": source})
    names = [layer["name"] for layer in layers]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {
        "title": comparison.title,
        "note": comparison.note,
        "layers": layers,
        "pairs": pairs,
        "frames": frames,
        "width": size[0],
        "height": size[1],
        "rate_hz": rate,
        "tables": [_table(caption, read_scores(path)) for caption, path in comparison.scores.items()],
    }


def _table(caption: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    names = score_rows(scores)
    compared = [name for name in names if name != "truth"][:2]
    verdicts = {True: "gain", False: "loss", None: ""}
    missing = {metric["label"]: metric["missing"] for metric in scores["metrics"].values()}
    lines = [
        {
            "label": line.label,
            "cells": line.values,
            "difference": line.difference or "–",
            "verdict": verdicts[line.better],
            "missing": missing[line.label[:-2]],
        }
        for line in score_lines(scores)
    ]
    which = "held-out frames" if scores["frames"] == "held_out" else "frames"
    flow = f"; warping error by {scores['flow']} flow" if scores["flow"] else ""
    return {
        "caption": f"{caption}: mean over {scores['count']} {which}, against the {scores['truth']['kind']}{flow}",
        "names": names,
        "lines": lines,
        "difference": f"{compared[1]} − {compared[0]}" if len(compared) == 2 else "",
    }


def _strips(pictures: LogPictures) -> list[dict[str, Any]]:
    return [{"camera": name, "pictures": [jpeg_uri(rgb, 260) for rgb in row]} for name, row in pictures.strips.items()]


def _curves(scene: Path) -> list[Curve]:
    path = scene / "curve.jsonl"
    if not path.is_file():
        return []
    rows = read_curve(path)
    numbers = [name for name in dict.fromkeys(name for row in rows for name in row) if isinstance(rows[-1].get(name), (int, float))]
    losses = [name for name in numbers if name in ("loss", "l1", "ssim", "photometric") or name.endswith("_loss")]
    found = [
        draw(rows, "iteration", losses, "Loss of the pictures shown to the optimiser", logarithmic=True),
        draw(rows, "iteration", [name for name in numbers if "psnr" in name], "PSNR of the pictures shown to the optimiser (dB)"),
        draw(rows, "iteration", [name for name in numbers if "count" in name or name == "gaussians"], "Gaussians"),
    ]
    return [curve for curve in found if curve is not None]


def _stage_row(record: Mapping[str, Any], total: float) -> dict[str, Any]:
    usage = record["usage"]
    return {
        "name": record["stage"],
        "time": seconds_text(usage["seconds"]),
        "share": round(100 * usage["seconds"] / max(total, 1e-9), 1),
        "memory": bytes_text(usage["memory_bytes"]),
        "accelerator": bytes_text(usage["accelerator_bytes"]),
    }


def _settings(inputs: ReportInputs) -> list[dict[str, Any]]:
    blocks = [{"name": f"stage {record['stage']}", "rows": list(record["config"].items())} for record in inputs.records if record["config"]]
    if not blocks and inputs.scene is not None:
        config = flat(dict(read_manifest(inputs.scene, "scene").config))
        blocks.append({"name": "scene", "rows": list(config.items())})
    return blocks
