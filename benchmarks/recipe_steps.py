"""The recipes of Wan 2.1 at full size, ten steps each, interrupted and gone on with: `python benchmarks/recipe_steps.py --work FOLDER`.

Every row is what a user runs: `splatmend train RECIPE` (with `--gpus N` by torchrun, one clip shared by all) with the recipe's own
settings, stopped after its first steps by `--pause-seconds` and gone on with by `--resume`. Base models in diffusers' layout and the VGG-16
of LPIPS have random weights, made on the GPU; the pair is a made-up clip of 81 frames of 480x832 and a spoilt copy of it. A base and the
pair stay in FOLDER for later rows. Options behind `--` go to `splatmend train` as they are (`-- --decoder-memory small`).

Each row is a line of JSON: steps before and after the interruption, the loss of each, the median of a step's seconds after the first of
either run, and what the enhancer's folder holds. `--toy` is a tiny model on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from long_log import show
from measured_on import environment
from onestep import CAPTION_TOKENS, PACKAGES, Size
from safetensors.torch import save_file
from torchvision.models import vgg16

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.datasets.image_metrics import BACKBONE_FILES
from splatmend.pipelines.pairing.index import INDEX, write_rows

RECIPES = {
    "wan21-1.3b-lora": "1.3B",
    "wan21-1.3b": "1.3B",
    "wan21-14b-lora": "14B",
    "wan21-14b": "14B",
}
MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "vae": ["diffusers", "AutoencoderKLWan"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
}


def make_base(folder: Path, name: str, size: Size) -> Path:
    """A base model with random weights in diffusers' layout, with the caption's embedding beside it; what is there stays."""
    if not (folder / "model_index.json").is_file():
        enhancer = size.enhancer(name, torch.bfloat16)
        enhancer.transformer.save_pretrained(folder / "transformer")
        enhancer.vae.save_pretrained(folder / "vae")
        save_file({"caption": enhancer.caption[:, :CAPTION_TOKENS].contiguous().cpu()}, folder / "caption.safetensors")
        (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX))
        del enhancer
        if not size.toy:
            torch.cuda.empty_cache()
    return folder


def make_networks(folder: Path) -> Path:
    """A torch home whose hub cache has a VGG-16 of random weights. Its classifier, which LPIPS leaves out, is zeros that take no room."""
    file = folder / "hub" / "checkpoints" / BACKBONE_FILES["vgg"]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(1)
        state = vgg16(weights=None).state_dict()
        torch.save({k: torch.zeros(1).expand(v.shape) if k.startswith("classifier") else v for k, v in state.items()}, file)
    return folder


def make_pair(folder: Path, size: Size) -> Path:
    """A pair of clips: a picture of smooth noise that drifts, and the same blurred and with blots."""
    if (folder / INDEX).is_file():
        return folder
    random = np.random.default_rng(0)
    wide = random.integers(0, 256, (size.height // 8 + 2, (size.width + size.frames) // 8 + 2, 3), dtype=np.uint8)
    wide = cv2.resize(wide, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    for name in ("target", "degraded"):
        with building(folder / name, Manifest(kind="clip", config={})) as made, ClipWriter(made, encoding="png", rate_hz=10.0) as writer:
            for number in range(size.frames):
                picture = wide[: size.height, number : number + size.width].copy()
                if name == "degraded":
                    picture = cv2.GaussianBlur(picture, (0, 0), 2.0)
                    at = random.integers(0, (size.width, size.height))
                    cv2.circle(picture, at.tolist(), size.height // 16, (255, 255, 255), -1)
                writer.write(picture)
    write_rows(folder / INDEX, [{"degraded": "degraded", "target": "target", "kind": "sparse", "split": "train", "scene": "made-up"}])
    return folder


def run_row(recipe: str, chosen: argparse.Namespace, size: Size) -> dict[str, Any]:
    """One recipe, interrupted and gone on with. `SystemExit` where a run fails."""
    work: Path = chosen.work
    out = work / f"{recipe}-{chosen.gpus}"
    base = make_base(work / f"base-{RECIPES[recipe]}", RECIPES[recipe], size)
    home, pair = make_networks(work / "torch-home"), make_pair(work / "pair", size)
    starter = [sys.executable, "-m", "splatmend.pipelines.cli"]
    if chosen.gpus > 1:
        starter = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(chosen.gpus), *starter[1:]]
    line = [*starter, "train", recipe, "--base", str(base), "--pairs", str(pair), "--out", str(out), "--steps", str(chosen.steps)]
    line += ["--context-parallel", str(chosen.gpus)] if chosen.gpus > 1 else []
    line += ["--clip-frames", str(size.frames), "--crop-px", str(size.height), str(size.width), "--device", "cpu"] if size.toy else []
    line += chosen.options
    surroundings = os.environ | {"TORCH_HOME": str(home)}
    started = time.monotonic()
    _run([*line, "--pause-seconds", str(chosen.pause_s)], surroundings)
    curve = work / f"{out.name}.partial" / "curve.jsonl"
    before = len(curve.read_text().splitlines()) if curve.is_file() else chosen.steps
    if before < chosen.steps:
        _run([*line, "--resume"], surroundings)
    rows = [json.loads(text) for text in (out / "curve.jsonl").read_text().splitlines()]
    settled = [b["seconds"] - a["seconds"] for a, b in pairwise(rows) if b["step"] != before + 1]
    return {
        "steps_before": before,
        "steps": [row["step"] for row in rows],
        "loss": [round(row["loss"], 5) for row in rows],
        "lpips_vgg": [round(row["lpips_vgg"], 5) for row in rows],
        "seconds_a_step": round(statistics.median(settled), 3) if settled else None,
        "whole_s": round(time.monotonic() - started, 1),
        "megabytes": {part.name: round(_bytes(part) / 1e6, 1) for part in sorted(out.iterdir())},
    }


def _run(line: Sequence[str], surroundings: dict[str, str]) -> None:
    done = subprocess.run(line, env=surroundings, check=False)
    if done.returncode:
        raise SystemExit(f"recipe_steps: {' '.join(line)} ended with {done.returncode}; its message stands above.")


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of bases, pair and enhancers")
    parser.add_argument("--rows", nargs="+", choices=tuple(RECIPES), default=["wan21-1.3b-lora", "wan21-1.3b", "wan21-14b-lora"])
    parser.add_argument("--gpus", type=int, default=1, help="GPUs that share the clip")
    parser.add_argument("--steps", type=int, default=10, help="of each row, both runs together")
    parser.add_argument("--pause-s", type=float, default=30.0, help="seconds of training after which the first run ends")
    parser.add_argument("--out", type=Path, help="file that the lines are added to as well")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="a tiny model, on the CPU")
    given = list(sys.argv[1:] if argv is None else argv)
    split = given.index("--") if "--" in given else len(given)
    chosen = parser.parse_args(given[:split])
    chosen.options = given[split + 1 :]
    size = Size(9, 32, 32, toy=True) if chosen.toy else Size()
    chosen.work.mkdir(parents=True, exist_ok=True)
    facts = environment(PACKAGES, cuda=not chosen.toy, commit=chosen.commit) | {"gpus": chosen.gpus, "options": chosen.options}
    show({"kind": "environment", **facts}, chosen.out)
    for recipe in chosen.rows:
        show({"kind": "row", "row": recipe, **run_row(recipe, chosen, size)}, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
