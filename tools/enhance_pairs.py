"""Lets an enhancer mend the degraded clips of pairs, so that what comes behind it learns what it leaves.

    python tools/enhance_pairs.py PAIRS...

Beside each degraded clip of a folder of `splatmend pairs` an `enhanced` one is written, and beside its index `enhanced.jsonl`, in which
these take the degraded clips' places: `splatmend train harmonise --pairs FOLDER/enhanced.jsonl`. References are used and not kept. What is
there is not made anew.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from splatmend.datasets.clip import open_clip
from splatmend.enhance.artifact import load_enhancer
from splatmend.enhance.model import Enhancer
from splatmend.enhance.stream import enhance_clip
from splatmend.pipelines.pairing.index import INDEX, read_rows, write_rows

ENHANCED = "enhanced"


def enhance_pairs(folder: Path, enhancer: Enhancer) -> Path:
    """The index of a folder's pairs with enhanced clips in place of degraded ones."""
    rows = []
    for row in read_rows(folder / INDEX):
        degraded = Path(row["degraded"])
        enhanced = degraded.with_name(f"{degraded.name}-{ENHANCED}")
        if not (folder / enhanced / "manifest.json").is_file():
            enhance_clip(enhancer, open_clip(folder / degraded), folder / enhanced)
        rows.append(row | {"degraded": str(enhanced)})
    index = folder / f"{ENHANCED}.jsonl"
    write_rows(index, rows)
    return index


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 1 where a folder has no pairs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="+", help="folders that `splatmend pairs` wrote")
    parser.add_argument("--model", default="bundled", help="folder of an enhancer, or its name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(argv)
    without = [folder for folder in chosen.pairs if not (folder / INDEX).is_file()]
    if without:
        print(f"enhance_pairs: {without[0]}: there is no {INDEX}; give folders that splatmend pairs wrote.", file=sys.stderr)
        return 1
    enhancer = load_enhancer(chosen.model, device=torch.device(chosen.device))
    for folder in chosen.pairs:
        print(enhance_pairs(folder, enhancer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
