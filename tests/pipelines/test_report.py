"""The report: one file, nothing fetched, videos that decode, raw and enhanced side by side."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building, read_manifest
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.video import iter_video
from splatmend.pipelines.cli import main
from splatmend.pipelines.evaluation.scores import EvaluateConfig, evaluate
from splatmend.pipelines.evaluation.table import score_lines
from splatmend.pipelines.evaluation.truth import ClipTruth
from splatmend.pipelines.report.build import PAGE, Comparison, ReportInputs, build_report
from splatmend.pipelines.report.curves import draw, read_curve
from splatmend.pipelines.report.made_by import makers_of_records


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())


def write_clip(out: Path, level: float, frames: int = 4) -> Path:
    with building(out, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for index in range(frames):
            rows, columns = np.mgrid[0:48, 0:64]
            writer.write(np.stack([rows / 48, columns / 64, np.full((48, 64), level + index / 20)], axis=-1))
        manifest.facts = writer.facts
    return out


RECORD = {
    "stage": "fit <b>",
    "config": {"iterations": 800, "data.max_width": None},
    "usage": {"seconds": 75.0, "memory_bytes": 3 * 2**30, "accelerator_bytes": 0},
    "splatmend": {"version": "0.1.0", "commit": "0123456789abcdef", "changed": False},
    "facts": {
        "enhancer": {
            "name": "bundled",
            "weights": "fedcba987654",
            "base": "small",
            "task": "restore",
            "provenance": {"steps": 548, "seconds": 220.434292626, "losses": {"l1": 2.0}, "data": ["pairs", "pairs", "dog"]},
        }
    },
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    truth, raw, enhanced = (write_clip(folder / name, level) for name, level in (("truth", 0.5), ("raw", 0.3), ("enhanced", 0.45)))
    metrics = EvaluateConfig(metrics=("psnr", "ssim", "lpips_vgg"))
    evaluate({"raw": raw, "enhanced": enhanced}, ClipTruth(clip=open_clip(truth)), folder / "scores", metrics)
    comparison = Comparison(
        title="Lane shift", clips={"raw": raw, "enhanced": enhanced, "truth": truth}, scores={"Lane shift": folder / "scores"}, note="2 m"
    )
    path = build_report(ReportInputs(title="A & B", comparisons=[comparison], records=[RECORD]), folder / "out")
    assert read_manifest(folder / "out", "report").facts["bytes"] == path.stat().st_size
    assert path.name == PAGE
    return path.read_text()


def test_nothing_is_fetched(page: str) -> None:
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "fetch(" not in page


def test_every_video_decodes_and_pairs_are_offered(page: str, tmp_path: Path) -> None:
    parsed = Page(page)
    videos = [attributes for tag, attributes in parsed.tags if tag == "video"]
    assert [video["data-name"] for video in videos] == ["raw", "enhanced", "truth"]
    means = []
    for video in videos:
        head, data = str(video["src"]).split(",", 1)
        assert head == "data:video/mp4;base64"
        file = tmp_path / "video.mp4"
        file.write_bytes(base64.b64decode(data))
        frames = list(iter_video(file))
        assert len(frames) == 4
        means.append(frames[0][..., 2].mean() / 255)
    assert means == pytest.approx([0.3, 0.45, 0.5], abs=0.03)
    pairs = [(a["data-left"], a["data-right"]) for tag, a in parsed.tags if tag == "button" and "data-left" in a]
    assert pairs == [("raw", "enhanced"), ("raw", "truth"), ("enhanced", "truth")]


def test_tables_and_names_are_there_and_escaped(page: str) -> None:
    text = Page(page).text
    assert "A & B" in text
    assert "<b>" not in page[page.index("<main>") :]
    assert "network missing" in text
    psnr = text.index("PSNR (dB) ↑")
    raw, enhanced, difference = (float(cell) for cell in [cell for cell in text[psnr + 1 :] if cell][:3])
    assert difference == pytest.approx(enhanced - raw, abs=0.011)
    assert difference > 0
    assert "1 min 15 s" in text
    assert "3.0 GiB" in text
    assert "iterations" in text


def test_the_page_says_which_enhancer_and_which_commit_made_the_pictures(page: str) -> None:
    text = Page(page).text
    assert "enhancer bundled (fedcba987654)" in text
    assert "splatmend 0.1.0, commit 0123456789ab" in text
    rows = {name: text[text.index(name) + 1] for name in text if name.startswith("enhancer's")}
    assert rows == {
        "enhancer's weights": "fedcba987654",
        "enhancer's base": "small",
        "enhancer's task": "restore",
        "enhancer's training: steps": "548",
        "enhancer's training: seconds": "220.434",
        "enhancer's training: losses.l1": "2",
        "enhancer's training: data": "pairs (2 times), dog",
    }


def test_stages_of_two_commits_are_told_apart() -> None:
    other = RECORD | {"stage": "shift", "splatmend": RECORD["splatmend"] | {"changed": True}}
    words, rows = makers_of_records([RECORD, other])
    assert words[1:] == ["splatmend 0.1.0, commit 0123456789ab", "splatmend 0.1.0, commit 0123456789ab with uncommitted changes"]
    assert words[0] == "enhancer bundled (fedcba987654)"  # the same one, once
    assert rows[-1] == ("splatmend", "0.1.0, commit 0123456789ab with uncommitted changes (shift)")


@pytest.mark.parametrize(("raw", "enhanced", "difference"), [(20.0, 19.9996, "0.00"), (20.0, 20.5, "+0.50"), (20.0, 19.5, "-0.50")])
def test_differences_have_a_sign_unless_they_round_to_zero(raw: float, enhanced: float, difference: str) -> None:
    metric = {"label": "PSNR (dB)", "direction": "higher", "decimals": 2, "missing": None}
    rows = {"raw": {"mean": {"psnr": raw}}, "enhanced": {"mean": {"psnr": enhanced}}, "truth": {"mean": {"psnr": -0.001}}}
    line = score_lines({"metrics": {"psnr": metric}, "rows": rows})[0]
    assert line.difference == difference
    assert line.values[2] == "0.00"


def test_curves_are_svg_and_broken_lines_are_named(tmp_path: Path) -> None:
    rows = [{"iteration": i, "loss": 1 / (i + 1), "psnr": 20.0 + i} for i in range(5)]
    curve = draw(rows, "iteration", ["loss"], "loss", logarithmic=True)
    assert curve is not None
    assert curve.svg.startswith("<svg")
    assert curve.svg == draw(rows, "iteration", ["loss"], "loss", logarithmic=True).svg
    assert not re.search(r"<metadata", curve.svg)
    assert draw(rows, "iteration", ["absent"], "none") is None
    (tmp_path / "curve.jsonl").write_text(json.dumps(rows[0]) + "\n{\n")
    with pytest.raises(UserError, match="line 2"):
        read_curve(tmp_path / "curve.jsonl")


def test_a_report_of_what_is_no_clip_leaves_nothing(tmp_path: Path) -> None:
    bad = Comparison(title="x", clips={"raw": tmp_path / "none"}, scores={})
    with pytest.raises(UserError, match="no such file or folder"):
        build_report(ReportInputs(title="x", comparisons=[bad]), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_clips_of_different_shots_make_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short, long = write_clip(tmp_path / "short", 0.1, frames=2), write_clip(tmp_path / "long", 0.2)
    assert main(["report", "--raw", str(short), "--enhanced", str(long), "--out", str(tmp_path / "page")]) == 2
    assert "give clips of the same shots" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()
