"""Flicker where an enhancer's windows begin and end: `python benchmarks/window_borders.py CLIP... --model bundled`.

Clips are enhanced in the enhancer's own windows and in one that holds the whole clip. Warping errors (x 100, along the flow of the clip
itself, all of the change) of transitions into a latent in which a window begins or the one before it has ended, and of all others, each
over that of the same transitions without windows. Without references, which are fused before any window.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from measured_on import environment

from splatmend.datasets.clip import open_clip
from splatmend.datasets.optical_flow import Flow, estimated_flow
from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.stream import StreamingEnhancer
from splatmend.enhance.windows import window_starts
from splatmend.pipelines.device import torch_device
from splatmend.pipelines.recipes import enhancer_folder


def latent_count(frames: int, factor: int) -> int:
    """Latents that hold so many frames: one for the first, then one for every `factor`, the last of which may be filled up."""
    return 1 + -(-(frames - 1) // factor)


def at_border(frames: int, factor: int, window: int, overlap: int) -> np.ndarray:
    """Of the transitions `[frames - 1]` from a frame to the next those into the first frame of a latent in which a window begins, or of the
    one after the last that the window before has a part in."""
    begins = {start + part for start in window_starts(latent_count(frames, factor), window, overlap)[1:] for part in (0, overlap)}
    return np.array([(frame - 1) % factor == 0 and 1 + (frame - 1) // factor in begins for frame in range(1, frames)])


def warping_errors(pictures: np.ndarray, flows: Sequence[Flow]) -> np.ndarray:
    """Of each transition of a clip `[T, H, W, 3]` uint8: mean change along the flow where it is known, x 100 of white."""
    shown = pictures.astype(np.float32) / 255.0
    changes = [np.abs(flow.warp(before) - now).mean(-1)[flow.visible] for flow, before, now in zip(flows, shown, shown[1:])]
    return np.array([100 * change.mean() if change.size else np.nan for change in changes])


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+")
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    chosen = parser.parse_args(argv)
    device = torch_device(chosen.device)
    enhancer = load_enhancer(enhancer_folder(chosen.model), device=device)
    facts = environment(("splatmend", "torch"), cuda=device != "cpu", commit=chosen.commit)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("| clip | transitions | windows: borders, others | one window: borders, others | borders, others over those without windows |")
    print("|---|---|---|---|---|")
    for path in chosen.clips:
        frames = np.stack(list(open_clip(path).iter_rgb()))
        latents = latent_count(len(frames), enhancer.adapter().temporal_factor)
        flows = [estimated_flow(before, now) for before, now in pairwise(frames)]
        errors = []
        for window in (enhancer.spec.window, latents):
            stream = StreamingEnhancer(enhancer, strength=1.0, window=window, overlap=min(enhancer.spec.overlap, window - 1))
            with torch.no_grad():
                errors.append(warping_errors(np.stack(list(stream.frames(iter(frames), len(frames)))), flows))
        border = at_border(len(frames), enhancer.adapter().temporal_factor, enhancer.spec.window, enhancer.spec.overlap)
        means = [[float(np.nanmean(error[where])) if where.any() else np.nan for where in (border, ~border)] for error in errors]
        ratios = [100 * (within / without - 1) for within, without in zip(*means)]
        cells = [f"{a:.3f}, {b:.3f}" for a, b in means]
        print(
            f"| {path.name} | {border.sum()} of {len(border)} | {' | '.join(cells)} | {ratios[0]:+.2f} %, {ratios[1]:+.2f} % |", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
