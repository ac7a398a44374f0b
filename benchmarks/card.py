"""Measures what `docs/benchmarks.md` shows of one machine, the most telling rows first: `python benchmarks/card.py --out FOLDER`.

One GPU: the decoder's gradients, then training steps and inference, then other truncations and the rivals, each part in a process of its
own (`chopgrad.py`, `onestep.py`). `--gpus 2` measures one training step shared by so many GPUs, and then the same step on one of them.

No row is started once `--budget-s` seconds are over; what was measured by then is in FOLDER (`chopgrad.jsonl`, `onestep.jsonl`). A row,
or a whole part, that fails does not stop the rest. `--list` prints the commands, `--toy` runs them with tiny models on the CPU.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
GRACE_S = 80
"""A part that is still at work so long after the budget is ended: a row that was started is worth finishing."""

FIRST_ROWS = (
    "decode/fast/81/480x832",
    "mse/D=1,fast,fast/81/480x832",
    "mse/D=1,small,fast/81/480x832",
    "mse/D=1,balanced,fast/81/480x832",
    "mse/D=1,small,fast/21/480x832",
    "mse/D=1,small,fast/161/480x832",
    "mse/D=1,small,fast/81/720x1280",
    "mse/D=1,small,fast,2x2/81/720x1280",
    "lpips/D=1,fast,fast/81/480x832",
    "lpips/D=1,small,fast/81/480x832",
)
STEP_ROWS = ("lora 1.3B fast", "lora 1.3B small", "lora 14B small", "infer 1.3B", "infer 14B", "full 1.3B")
LATER_ROWS = (
    "mse/D=0,fast,fast/81/480x832",
    "mse/D=2,fast,fast/81/480x832",
    "mse/D=1,fast,fast,B=?/81/480x832",
    "mse/literal/81/480x832",
    "mse/full/21/480x832",
    "mse/checkpointing/21/480x832",
    "mse/D=?/21/480x832",
    "mse/D=1,fast,fast,B=?/21/480x832",
    "mse/frame-wise/21/480x832",
    "mse/first-latent/21/480x832",
    "mse/random-window/21/480x832",
    "mse/literal/21/480x832",
    "decode/reference/81/480x832",
)


@dataclass(frozen=True)
class Part:
    """A benchmark and its arguments, started with `processes` of torchrun's where that is more than one."""

    script: str
    arguments: tuple[str, ...]
    processes: int = 1

    def command(self, out: Path, toy: bool, seconds: float) -> list[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)] if self.processes > 1 else []
        arguments = ["--out", str(out / f"{Path(self.script).stem}.jsonl"), "--budget-s", f"{max(seconds, 0):.0f}"]
        return [sys.executable, *launcher, str(HERE / self.script), *(["--toy"] if toy else []), *arguments, *self.arguments]


def parts(gpus: int) -> list[Part]:
    """What is run, in order."""
    gradients = ("--repeats", "3", "--row-s", "6", "--cosine-frames", "21", "--rows")
    steps = ("--repeats", "2", "--warm-up", "1")
    if gpus > 1:
        shared = Part("onestep.py", (*steps, "--memory", "small", "--rows", "parallel"), processes=gpus)
        return [shared, Part("onestep.py", (*steps, "--rows", "lora 14B small"))]
    return [
        Part("chopgrad.py", (*gradients, *FIRST_ROWS)),
        Part("onestep.py", (*steps, "--rows", *STEP_ROWS)),
        Part("chopgrad.py", (*gradients, *LATER_ROWS)),
    ]


def run(part: Part, out: Path, toy: bool, seconds: float) -> int:
    """The exit code of one part, or 124 where it had to be ended."""
    command = part.command(out, toy, seconds)
    print(shlex.join(command), flush=True)
    # Else cached memory of one size would not serve another, and rows near the card's limit would fail.
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} | os.environ
    try:
        return subprocess.run(command, env=environment, timeout=max(seconds, 0) + GRACE_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return 124


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("measured"), help="folder that the lines are added to")
    parser.add_argument("--gpus", type=int, default=1, help="more than 1: the step that they share, and the same on one")
    parser.add_argument("--budget-s", type=float, default=520, help="start no row after this many seconds")
    parser.add_argument("--commit", help="name of the commit, where the repository is not at hand")
    parser.add_argument("--list", action="store_true", help="print the commands and end")
    parser.add_argument("--toy", action="store_true", help="tiny models on the CPU")
    chosen = parser.parse_args(argv)
    end = time.monotonic() + chosen.budget_s
    named = ("--commit", chosen.commit) if chosen.commit else ()
    todo = [Part(part.script, (*named, *part.arguments), part.processes) for part in parts(chosen.gpus)]
    if chosen.list:
        print("\n".join(shlex.join(part.command(chosen.out, chosen.toy, chosen.budget_s)) for part in todo))
        return 0
    chosen.out.mkdir(parents=True, exist_ok=True)
    codes = [run(part, chosen.out, chosen.toy, end - time.monotonic()) for part in todo]
    print(f"exit codes: {codes}", flush=True)
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())
