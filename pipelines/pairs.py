"""Pairs of degraded and true clips, from scenes that were fitted badly on purpose, are seen from elsewhere, or have holes.

Strategies, a module each in `splatmend.pipelines.pairing`:

    sparse          fitted to every n-th frame only; the whole recorded path is rendered
    underfit        copies of the scene at a quarter, half and three quarters of its schedule
    cycle           fitted to renders from beside the path, and rendered back along the recorded path
    cross-camera    fitted without one camera, and seen through it
    low-resolution  fitted to small pictures, and drawn at full size
    inpaint         an ordinary render with an actor, or a region, cut out
    reinsert        the true frame, or a fit's, with a log's own vehicles put back under a wrong light
    insert          procedural streets only: a harvested vehicle put in elsewhere, lit, against the oracle's picture with its mesh
    shift           procedural streets only: the path beside the recorded one, against the oracle's picture of the very same shots

The folder (artefact kind "pairs") holds `pairs.jsonl`, `clips/SCENE/...` and `sheets/SCENE.png`. A scene is wholly in one split.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from splatmend.datasets.artifact import Manifest, building, partial_folder, plain, read_json, write_json
from splatmend.datasets.errors import UserError
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.index import INDEX, PARTS, part, read_rows, write_rows
from splatmend.pipelines.pairing.split import split_of

__all__ = ["INDEX", "PairsConfig", "make_pairs", "split_of"]
_STATE = "checkpoint.json"


def make_pairs(
    sources: Sequence[str],
    out: Path,
    config: PairsConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    workers: int = 1,
    say: Callable[[str], None] = print,
) -> Path:
    """Make the pairs of logs (paths, or `street:SEED`); returns the folder.

    With `resume` an interrupted run's finished pairs and scenes are kept. `workers` scenes are made at a time, each in a process of its
    own. Raises `UserError` for a source that is none, a strategy that it cannot serve, or a resumed run with other settings.
    """
    from splatmend.pipelines.device import torch_device
    from splatmend.pipelines.pair_sources import open_source
    from splatmend.pipelines.pairing.making import FITS, make_scene, plans
    from splatmend.pipelines.pairing.statistics import statistics
    from splatmend.pipelines.pairing.workers import make_scenes

    if workers < 1:
        raise UserError(f"workers: {workers} processes make nothing; give 1 or more.")
    torch_device(device)
    opened = [open_source(source, config.street) for source in sources]
    names = [source.scene for source in opened]
    if len(set(names)) < len(names):
        raise UserError(f"{sources[0]}: a log is given twice ({', '.join(sorted(names))}); give each once.")
    for source in opened:
        plans(config, source)
    asked = {"pairs": plain(config), "sources": list(sources)}
    state = partial_folder(out) / _STATE
    if resume and state.is_file() and read_json(state) != asked:
        raise UserError(
            f"{partial_folder(out)}: it was begun with other settings or logs; give those with --resume, or start anew with --overwrite in "
            "place of --resume."
        )
    manifest = Manifest(kind="pairs", config=asked)
    with building(out, manifest, overwrite=overwrite, resume=resume) as partial:
        write_json(partial / _STATE, asked)
        try:
            if min(workers, len(opened)) > 1:
                make_scenes(sources, partial, config, device, min(workers, len(opened)), say)
            else:
                for source in opened:
                    make_scene(source, partial, config, device, say)
        except UserError:
            if not any((partial / PARTS).glob("*.jsonl")) and not any((partial / FITS).glob("*/*")):
                (partial / _STATE).unlink()  # nothing stands that another run could go on from
            raise
        rows = [row for name in names for row in read_rows(part(partial, name))]
        write_rows(partial / INDEX, rows)
        manifest.facts = {"pairs": len(rows), "scenes": len(names), "statistics": statistics(rows)}
        for left in (PARTS, FITS):
            shutil.rmtree(partial / left, ignore_errors=True)
        (partial / _STATE).unlink()
    return out
