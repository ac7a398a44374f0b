"""How fast an enhancer takes a clip, bytes to bytes: `python benchmarks/enhancer_speed.py --device cuda --size 480 832`.

Frames of noise in memory, streamed as `splatmend enhance` streams them, without reading or writing files; a first clip warms up. Frames a
second are the median over turns, lowest and highest in brackets; with two layers of references beside each frame where the model takes
them, and without. `--threads` on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from measured_on import environment

from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.stream import StreamingEnhancer
from splatmend.enhance.transformer import inference_dtype

PACKAGES = ("splatmend", "torch", "diffusers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--size", type=int, nargs=2, default=[192, 320], help="rows and columns")
    parser.add_argument("--frames", type=int, default=97)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    chosen = parser.parse_args()
    if chosen.device == "cpu":
        torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    enhancer = load_enhancer(chosen.model, device=device, dtype=inference_dtype(device))
    rng = np.random.default_rng(0)
    height, width = chosen.size
    frames = rng.integers(0, 256, (chosen.frames, height, width, 3), dtype=np.uint8)
    layers = None
    if enhancer.spec.references:
        layers = rng.integers(0, 256, (enhancer.spec.references, height, width, 4), dtype=np.uint8)
        layers[..., 3] = 255
    print(json.dumps({"kind": "environment", **environment(PACKAGES, cuda=chosen.device == "cuda", commit=chosen.commit)}))
    for references in [False] if layers is None else [False, True]:
        rates = []
        for turn in range(chosen.turns + 1):
            beside = (layers for _ in frames) if references else None
            started = time.perf_counter()
            done = sum(1 for _ in StreamingEnhancer(enhancer, compile=chosen.compile).frames(iter(frames), len(frames), references=beside))
            if turn:
                rates.append(done / (time.perf_counter() - started))
        row = {"size": chosen.size, "references": references, "frames_per_s": round(statistics.median(rates), 2)}
        print(json.dumps(row | {"lowest": round(min(rates), 2), "highest": round(max(rates), 2)}), flush=True)


if __name__ == "__main__":
    main()
