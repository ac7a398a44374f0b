"""What pixel losses and their truncation bring: the same small enhancer trained in several ways, at equal steps, on several seeds.

    python benchmarks/pixel_losses.py --autoencoder FOLDER --pairs FOLDER... --held-out FOLDER... --out FOLDER

Only the transformer learns, behind the frozen autoencoder and without skips or references; a render gets the difference between its decoded
latents before and after, so that nothing is lost by the round trip alone and pixel losses must reach the latents through the decoder. The
latents of the target itself are what no training can surpass by much; the round trip of the target says how good the autoencoder is. With
`--whole` pixel losses train what the bundled model trains but the encoder, whose latents keep their meaning: decoder and skips too, for a
residual behind them. A latent loss reaches neither, so its ways stay as they are. Two ways more ask what an option brings to D = 1: a loss
on flicker along the target's flow, and noise in latents where a scene is empty.

Every (way, seed) is a process of its own, `--jobs` at a time, in turn on `--devices`; it trains, then scores the held-out pairs as
`enhancer.py` does. What is there is not made anew, and a training that `--budget-s` cuts short goes on when the same line is given again.
The table has means over seeds, and in brackets the lowest and the highest. `--toy` is a tiny one of everything, on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from enhancer import METRICS, Model, Pair, drift, pairs_of, score
from measured_on import environment

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter, open_clip
from splatmend.datasets.threads import use_threads
from splatmend.enhance.artifact import load_autoencoder, load_enhancer
from splatmend.enhance.model import Enhancer, OutputMode, decode_at_once
from splatmend.enhance.skips import Skip
from splatmend.enhance.small import SMALL_SKIPS, small_enhancer, small_transformer
from splatmend.enhance.train.config import OneStepTrainConfig
from splatmend.enhance.train.data import DataConfig
from splatmend.enhance.train.onestep import train_onestep
from splatmend.pipelines.pairing.index import INDEX

PACKAGES = ("splatmend", "torch", "diffusers", "torchmetrics")
COLUMNS = (*METRICS, "drift")
LATENT = {"latent_mse": 0.3}
PIXELS = LATENT | {"l1": 2.0, "lpips_squeeze": 1.0}
NETWORK_FREE = LATENT | {"l1": 2.0, "ssim": 1.0}
UNTRAINED = "untrained"
"""Nothing but the autoencoder: the renders themselves."""
ROUND_TRIP, PERFECT = "round trip of the target", "latents of the target"


@dataclass(frozen=True)
class Way:
    """How one is trained: `settings` of its training, and by how much longer than the others."""

    settings: Mapping[str, Any]
    longer: int = 1


WAYS: Mapping[str, Way] = {
    "latent MSE": Way({"losses": LATENT}),
    "latent MSE, twice the steps": Way({"losses": LATENT}, longer=2),
    "frame-wise": Way({"losses": PIXELS, "pixel_gradient": "frame-wise"}),
    "first latent": Way({"losses": PIXELS, "pixel_gradient": "first-latent"}),
    "D = 0": Way({"losses": PIXELS, "truncation": 0}),
    "D = 1": Way({"losses": PIXELS, "truncation": 1}),
    "D = 2": Way({"losses": PIXELS, "truncation": 2}),
    "exact": Way({"losses": PIXELS, "truncation": None}),
    "D = 1, L1 + SSIM": Way({"losses": NETWORK_FREE, "truncation": 1}),
    "D = 1, flow warping": Way({"losses": PIXELS, "truncation": 1, "flow_warping": 2.0}),
    "D = 1, opacity noise": Way({"losses": PIXELS, "truncation": 1, "opacity_noise": 0.5}),
}


def config_of(way: Way, seed: int, chosen: argparse.Namespace) -> OneStepTrainConfig:
    """The training of a way."""
    config = OneStepTrainConfig(
        steps=chosen.steps * way.longer,
        lr=1e-3,
        warmup_steps=min(50, chosen.steps // 4),
        schedule="cosine",
        batch=chosen.batch,
        cuda_graph=True,
        clip_frames=17,
        crop_px=(128, 128),
        checkpoint_every=1_000_000,
        sample_every=1_000_000,
        pause_seconds=chosen.budget_s,
        seed=seed,
        log=False,
        decoder="full" if is_whole(way, chosen) else "none",
        **way.settings,
    )
    if not chosen.toy:
        return config
    # Networks may be missing where toys run.
    losses = {name: weight for name, weight in config.losses.items() if not name.startswith("lpips")}
    return replace(config, clip_frames=9, crop_px=(32, 32), device="cpu", losses=losses)


def is_whole(way: Way, chosen: argparse.Namespace) -> bool:
    """Whether a way trains all that lies behind the latents."""
    return chosen.whole and way.settings["losses"] != LATENT


def untrained(chosen: argparse.Namespace, seed: int = 0, output: OutputMode = "difference", skips: tuple[Skip, ...] = ()) -> Enhancer:
    """What all begin with: it changes nothing, or shows what it decodes ("direct")."""
    transformer = small_transformer(1, 1, 32) if chosen.toy else None
    return small_enhancer(load_autoencoder(chosen.autoencoder), transformer, output=output, skips=skips, seed=seed)


def beginning(way: Way, seed: int, chosen: argparse.Namespace) -> Enhancer:
    """What a way's training begins with."""
    return untrained(chosen, seed, "residual", SMALL_SKIPS) if is_whole(way, chosen) else untrained(chosen, seed)


@torch.no_grad()
def with_latents_of_target(enhancer: Enhancer, pair: Pair, folder: Path) -> Path:
    """The clip that comes of a pair's render where its latents become the target's, in a folder."""
    clips = [np.stack(list(open_clip(path).iter_rgb())) for path in (pair.degraded, pair.target)]
    count, height, width = clips[0].shape[:3]
    padding = (0, -width % 16, 0, -height % 16, 0, (1 - count) % 4)
    render, target = (
        torch.nn.functional.pad(torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1, padding, mode="replicate").to(
            enhancer.device
        )
        for clip in clips
    )
    z_in, z_target = (enhancer.encode(clip).latents for clip in (render, target))
    decoded = decode_at_once(enhancer.adapter(), enhancer.decoder_latents(z_in, z_target), None)
    frames = enhancer.compose(render, decoded)[0, :, :count, :height, :width].permute(1, 2, 3, 0)
    with building(folder, Manifest(kind="clip", config={}), overwrite=True) as made, ClipWriter(made) as writer:
        for frame in frames:
            writer.write(((frame + 1) / 2).clamp(0, 1).float().cpu().numpy())
    return folder


def name_of(way: str, seed: int) -> str:
    return f"{way.replace(' ', '').replace(',', '_')}-{seed}"


def scored(lines: Path) -> set[str]:
    """The pairs that a file has rows of."""
    return {json.loads(line)["degraded"] for line in lines.read_text().splitlines()} if lines.exists() else set()


def train_and_score(way: str, seed: int, chosen: argparse.Namespace) -> None:
    """One training and its rows, or what is left of them, in this process."""
    use_threads(chosen.threads)
    device = "cpu" if chosen.toy else "cuda"
    folder, lines = chosen.out / name_of(way, seed), chosen.out / f"{name_of(way, seed)}.jsonl"
    if way == UNTRAINED:
        enhancer = untrained(chosen).to(device).eval()
    else:
        if not (folder / "enhancer.json").exists():
            data = DataConfig(pairs=tuple(pairs / INDEX for pairs in chosen.pairs), clean_share=0.05, workers=0 if chosen.toy else 1)
            resumes = folder.with_name(folder.name + ".partial").is_dir()
            chosen_way = WAYS[way]
            begun = beginning(chosen_way, seed, chosen)
            if train_onestep(config_of(chosen_way, seed, chosen), data, begun, folder, resume=resumes) is None:
                return
        enhancer = load_enhancer(folder, device=device)
    done = scored(lines)
    model = Model("enhanced", enhancer, 1.0, False)
    for pair in pairs_of(chosen.held_out, chosen.kinds):
        if str(pair.degraded) in done:
            continue
        rows = score(pair, [model], device, tuple(chosen.metrics))
        if way == UNTRAINED:
            direct = Model("enhanced", untrained(chosen, output="direct").to(device).eval(), 1.0, False)
            truth = score(pair._replace(degraded=pair.target), [direct], device, tuple(chosen.metrics))
            with tempfile.TemporaryDirectory() as scratch:
                best = with_latents_of_target(enhancer, pair, Path(scratch) / "clip")
                perfect = score(pair._replace(degraded=best), [], device, tuple(chosen.metrics))
            rows |= {ROUND_TRIP: truth["enhanced"], PERFECT: perfect["raw"]}
        with lines.open("a") as file:
            file.write(json.dumps({"way": way, "seed": seed, "kind": pair.kind, "degraded": str(pair.degraded), "rows": rows}) + "\n")


def run_all(chosen: argparse.Namespace) -> None:
    """Every way and seed in processes of their own; what one prints goes into a file beside its rows."""
    wanted = {str(pair.degraded) for pair in pairs_of(chosen.held_out, chosen.kinds)}
    jobs = [(UNTRAINED, 0), *((way, seed) for seed in range(chosen.seeds) for way in chosen.ways)]
    jobs = [job for job in jobs if not wanted <= scored(chosen.out / f"{name_of(*job)}.jsonl")]
    ends = time.monotonic() + (chosen.budget_s or float("inf"))

    def run(number: int, way: str, seed: int) -> None:
        left_s = ends - time.monotonic()
        if left_s <= 0:
            return
        budget = [] if chosen.budget_s is None else ["--budget-s", str(left_s)]
        command = [sys.executable, __file__, *chosen.given, *budget, "--one", way, str(seed)]
        visible = {} if chosen.toy else {"CUDA_VISIBLE_DEVICES": str(chosen.devices[number % len(chosen.devices)])}
        with (chosen.out / f"{name_of(way, seed)}.log").open("a") as log:
            subprocess.run(command, env=os.environ | visible, stdout=log, stderr=subprocess.STDOUT, check=False)

    with ThreadPoolExecutor(max_workers=chosen.jobs) as pool:
        for done in [pool.submit(run, number, way, seed) for number, (way, seed) in enumerate(jobs)]:
            done.result()


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Of all ways and seeds, pair by pair."""
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]


def seed_means(records: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, float]]]]:
    """(kind, row, per seed the means over its pairs): the renders, the untrained rows, then the ways in order."""
    found: dict[tuple[str, str], dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for record in records:
        rows = dict(record["rows"])
        raw = rows.pop("raw")
        rows.pop("truth", None)
        named = {record["way"] if name == "enhanced" else name: row for name, row in rows.items()}
        if record["way"] == UNTRAINED:
            named = {"raw": raw} | named
        for name, row in named.items():
            kept = found[record["kind"], name][record["seed"]]
            for metric, value in row["mean"].items():
                if value is not None:
                    kept[metric].append(value)
            moved = None if name == "raw" or None in row["lpips"] else drift(raw["lpips"], row["lpips"])
            if moved is not None:
                kept["drift"].append(moved)
    order = ["raw", ROUND_TRIP, PERFECT, UNTRAINED, *WAYS]
    for kind, name in sorted(found, key=lambda key: (key[0], order.index(key[1]))):
        seeds = found[kind, name].values()
        yield kind, name, [{metric: statistics.fmean(values) for metric, values in seed.items()} for seed in seeds]


def print_table(records: Sequence[dict[str, Any]]) -> None:
    """Kind by kind: means over seeds, with lowest and highest."""
    print(f"| pairs | trained with | seeds | {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * (len(COLUMNS) + 3)}")
    for kind, name, seeds in seed_means(records):
        cells = [_cell(metric, [seed[metric] for seed in seeds if metric in seed]) for metric in COLUMNS]
        print(f"| {kind} | {name} | {len(seeds)} | {' | '.join(cells)} |")


def _cell(metric: str, values: Sequence[float]) -> str:
    if not values:
        return ""
    form = "{:.2f}" if metric in ("psnr", "warping_error") else "{:.4f}"
    mean = form.format(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 where rows of a way are missing at the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--autoencoder", type=Path, required=True, help="folder of `splatmend train small-autoencoder`, or of an enhancer")
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, help="folders of `splatmend pairs` to train on")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="others, to score")
    parser.add_argument("--kinds", nargs="*", default=[], help="kinds of held-out pairs; none means all")
    parser.add_argument("--out", type=Path, required=True, help="folder of enhancers and rows")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--whole", action="store_true", help="pixel losses train decoder and skips too, for a residual output")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--metrics", nargs="+", default=list(METRICS), choices=METRICS)
    parser.add_argument("--jobs", type=int, default=8, help="trainings at the same time")
    parser.add_argument("--devices", type=int, nargs="+", default=[0], help="numbers of GPUs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each")
    parser.add_argument("--budget-s", type=float, help="seconds after which trainings are interrupted")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--toy", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "SEED"), help="this training alone, in this process")
    given = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(given)
    chosen.given = given
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.one:
        train_and_score(chosen.one[0], int(chosen.one[1]), chosen)
        return 0
    facts = environment(PACKAGES, cuda=not chosen.toy, commit=chosen.commit)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), f"{chosen.steps} steps", sep=", ", flush=True)
    run_all(chosen)
    records = records_of(chosen.out)
    print_table(records)
    wanted = {str(pair.degraded) for pair in pairs_of(chosen.held_out, chosen.kinds)}
    names = [name_of(UNTRAINED, 0)] + [name_of(way, seed) for way in chosen.ways for seed in range(chosen.seeds)]
    missing = [name for name in names if not wanted <= scored(chosen.out / f"{name}.jsonl")]
    if missing:
        print(f"not whole: {', '.join(missing)}; give the same line again to go on (their .log files say what happened)", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
