"""All pairs of one scene."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splatmend.datasets.errors import UserError
from splatmend.pipelines.contact_sheet import clip_scores, write_contact_sheet
from splatmend.pipelines.device import torch_device
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig
from splatmend.pipelines.pairing.index import part, read_rows, write_rows
from splatmend.pipelines.pairing.split import split_of
from splatmend.pipelines.pairing.strategies import STRATEGIES
from splatmend.pipelines.pairing.workshop import NothingToShow, PairPlan, Workshop

FITS, SHEETS = "fits", "sheets"


def plans(config: PairsConfig, source: PairSource) -> list[PairPlan]:
    """Every pair of a source, camera by camera. `UserError` for a camera that it lacks or a strategy that it cannot serve."""
    fitted = config.fit.data.cameras
    for name in (*config.cameras, *fitted):
        if name not in source.log.cameras:
            raise UserError(f"{source.name}: there is no camera {name}; it has {', '.join(source.log.cameras)}.")
    # Only cross-camera shows what its fit did not see.
    seen = fitted if fitted and config.strategies != ("cross-camera",) else tuple(source.log.cameras)
    cameras = config.cameras or seen
    unseen = [name for name in cameras if name not in seen]
    if unseen:
        raise UserError(f"{source.name}: no fit sees camera {unseen[0]}; add it to --fit.data.cameras, or leave it out of --cameras.")
    return [plan for camera in cameras for strategy in config.strategies for plan in STRATEGIES[strategy](config, source, camera)]


def make_scene(source: PairSource, folder: Path, config: PairsConfig, device: str, say: Callable[[str], None]) -> None:
    """Make what is missing of a source's pairs in the folder, and its contact sheet; its fits are removed at the end."""
    shop = Workshop(source=source, config=config, fits=folder / FITS / source.scene, device=device)
    index = part(folder, source.scene)
    shop.fits.mkdir(parents=True, exist_ok=True)
    done = {row["degraded"] for row in read_rows(index)}
    for plan in plans(config, source):
        if _degraded(source, plan) in done:
            continue
        say(f"{source.scene}: {plan.name}")
        try:
            made = _make_pair(shop, plan, folder)
        except NothingToShow as error:
            if not plan.may_lack:
                raise
            say(f"{source.scene}: {plan.name} is left out: {error}")
            continue
        write_rows(index, [*read_rows(index), made])
    (folder / SHEETS).mkdir(exist_ok=True)
    write_contact_sheet(folder, read_rows(index), folder / SHEETS / f"{source.scene}.png")
    shutil.rmtree(shop.fits, ignore_errors=True)


def _degraded(source: PairSource, plan: PairPlan) -> str:
    return f"clips/{source.scene}/{plan.name}/degraded"


def _make_pair(shop: Workshop, plan: PairPlan, folder: Path) -> dict[str, Any]:
    source = shop.source
    degraded = folder / _degraded(source, plan)
    # What was half done when a run was interrupted is made again; clips are whole or not there.
    trajectory = plan.degrade(shop, degraded)
    target = folder / "clips" / source.scene / plan.target / "target"
    if not target.exists():
        if plan.write_target is None:
            source.write_target(trajectory, target, shop.config.encoding)
        else:
            plan.write_target(shop, trajectory, target)
    scores, frame_scores = clip_scores(degraded, target, torch_device(shop.device))
    return {
        "degraded": str(degraded.relative_to(folder)),
        "target": str(target.relative_to(folder)),
        "kind": plan.kind,
        "split": split_of(source.scene, shop.config.validation_share),
        "scene": source.scene,
        "frames": len(trajectory),
        "scores": scores,
        "frame_scores": frame_scores,
    }
