"""Pairs of degraded and true clips, from scenes that were fitted badly on purpose or are seen from beside the recorded lane.

    sparse    fitted to every n-th frame only; the whole recorded path is rendered (source of the idea: Difix3D+, arXiv 2503.01774)
    underfit  copies of the scene at a quarter, half and three quarters of its schedule
    shift     procedural streets only: the path beside the recorded one, against the oracle's picture of the very same shots

The folder (artefact kind "pairs") holds `pairs.jsonl`, `clips/SCENE/...` and `sheets/SCENE.png`. A scene is wholly in one split.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from splatmend.datasets.artifact import Manifest, building, partial_folder, plain, read_json, write_json
from splatmend.datasets.clip import Encoding
from splatmend.datasets.errors import UserError
from splatmend.datasets.street.config import StreetConfig
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.trajectory import TrajectoryConfig

if TYPE_CHECKING:
    from splatmend.pipelines.pair_sources import PairSource
    from splatmend.recon.scene import Scene

Strategy = Literal["sparse", "underfit", "shift"]
INDEX = "pairs.jsonl"
_STATE = "checkpoint.json"


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Which pairs to make."""

    strategies: tuple[Strategy, ...] = ("sparse", "underfit")
    """sparse, underfit, and for procedural streets shift."""
    every: tuple[int, ...] = (8,)
    """sparse: fit only every n-th frame; one fit for each number."""
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """underfit: shares of the schedule after which the scene is taken."""
    shifts: tuple[float, ...] = (2.0, -2.0)
    """shift: metres to the left (negative: right)."""
    cameras: tuple[str, ...] = ()
    """Cameras to render; none means all."""
    validation_share: float = 0.1
    """Share of scenes that go into the split "validation"; which ones follows from the scene's name alone."""
    encoding: Encoding = "png"
    """How clips are stored."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How scenes are fitted."""
    street: StreetConfig = field(default_factory=StreetConfig)
    """What the streets of `street:SEED` are like; the seed comes from there."""

    def __post_init__(self) -> None:
        if not self.strategies:
            raise UserError("strategies: none is given; choose among sparse, underfit and shift.")
        if any(n < 2 for n in self.every):
            raise UserError(f"every: {min(self.every)} leaves no frame out; give 2 or more.")
        if any(not 0 < share < 1 for share in self.shares):
            raise UserError("shares: each must lie between 0 and 1, both excluded.")
        if 0 in self.shifts or not all(map(math.isfinite, self.shifts)):
            raise UserError(f"shifts: {' '.join(map(str, self.shifts))} must be metres and not 0, the recorded path; give other numbers.")
        for name in ("strategies", "every", "shifts", "cameras"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise UserError(f"{name}: {' '.join(map(str, getattr(self, name)))} names something twice; give each once.")
        if not 0 <= self.validation_share <= 1:
            raise UserError(f"validation_share: {self.validation_share} is not between 0 and 1; change it.")


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """One pair to make: of which fit (None: the finished scene, else a snapshot's iteration), along which path."""

    name: str
    kind: Strategy
    fit: str
    snapshot: int | None
    trajectory: TrajectoryConfig


def make_pairs(
    sources: Sequence[str],
    out: Path,
    config: PairsConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Path:
    """Make the pairs of logs (paths, or `street:SEED`); returns the folder.

    With `resume` an interrupted run's finished pairs and scenes are kept. Raises `UserError` for a source that is none, a strategy that it
    cannot serve, or a resumed run with other settings.
    """
    from splatmend.pipelines.device import torch_device
    from splatmend.pipelines.pair_sources import open_source

    torch_device(device)
    opened = [open_source(source, config.street, device) for source in sources]
    names = [source.scene for source in opened]
    if len(set(names)) < len(names):
        raise UserError(f"{sources[0]}: a log is given twice ({', '.join(sorted(names))}); give each once.")
    for source in opened:
        if "shift" in config.strategies and not source.sees_everything:
            raise UserError(
                f"{source.name}: the strategy shift needs a truth beside the path, which only streets have (street:SEED, or a folder that "
                "`splatmend street` wrote); leave it out."
            )
        _cameras(source, config)
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
            for source in opened:
                _pairs_of(source, partial, config, device, say)
        except UserError:
            if not _rows(partial) and not any((partial / "fits").glob("*")):
                (partial / _STATE).unlink()  # nothing stands that another run could go on from
            raise
        rows = _rows(partial)
        manifest.facts = {"pairs": len(rows), "scenes": len(names), "means": summary(rows)}
        shutil.rmtree(partial / "fits", ignore_errors=True)
        (partial / _STATE).unlink()
    return out


def split_of(scene: str, validation_share: float) -> Literal["train", "validation"]:
    """The split of a scene, the same wherever and however often it is asked."""
    number = int(hashlib.sha256(scene.encode()).hexdigest()[:12], 16) / 16**12
    return "validation" if number < validation_share else "train"


def plans(config: PairsConfig, cameras: Iterable[str]) -> list[PairPlan]:
    """Every pair of a scene with these cameras."""
    made = []
    for camera in cameras:
        path = TrajectoryConfig(camera=camera)
        if "sparse" in config.strategies:
            made += [
                PairPlan(name=f"{camera}-sparse{n}", kind="sparse", fit=f"sparse{n}", snapshot=None, trajectory=path) for n in config.every
            ]
        if "underfit" in config.strategies:
            made += [
                PairPlan(name=f"{camera}-underfit{i}", kind="underfit", fit="whole", snapshot=i, trajectory=path)
                for i in _snapshots(config)
            ]
        if "shift" in config.strategies:
            for metres in config.shifts:
                shifted = TrajectoryConfig(camera=camera, left=metres, ease_s=0.5)
                side = f"{'left' if metres > 0 else 'right'}{abs(metres):g}"
                made.append(PairPlan(name=f"{camera}-{side}", kind="shift", fit="whole", snapshot=None, trajectory=shifted))
    return made


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean scores of the degraded clips by kind."""
    from splatmend.datasets.image_metrics import mean_scores

    kinds = sorted({row["kind"] for row in rows})
    return {kind: mean_scores([row["scores"] for row in rows if row["kind"] == kind]) for kind in kinds}


def _snapshots(config: PairsConfig) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(share * config.fit.iterations)) for share in config.shares}))


def _fit_config(name: str, config: PairsConfig, device: str, *, exact_poses: bool) -> FitConfig:
    """A fit by its name: `sparseN`, or `whole` with the snapshots. Where poses are exact they stay, for all fits share one target."""
    from splatmend.pipelines.device import torch_device

    fit = replace(config.fit, device=torch_device(device))
    if exact_poses:
        off = {name: replace(getattr(fit, name), on=False) for name in ("camera_poses", "actor_poses")}
        fit = replace(fit, **off)
    if name.startswith("sparse"):
        return replace(fit, data=replace(fit.data, holdout_every=0, train_every=int(name.removeprefix("sparse"))), snapshots_at=())
    taken = _snapshots(config) if "underfit" in config.strategies else ()
    return replace(fit, data=replace(fit.data, holdout_every=0), snapshots_at=taken)


def _pairs_of(source: PairSource, folder: Path, config: PairsConfig, device: str, say: Callable[[str], None]) -> None:
    from splatmend.pipelines.contact_sheet import write_contact_sheet

    wanted = plans(config, _cameras(source, config))
    done = {row["degraded"] for row in _rows(folder)}
    for plan in wanted:
        degraded = f"clips/{source.scene}/{plan.name}/degraded"
        if degraded in done:
            continue
        say(f"{source.scene}: {plan.name}")
        _write_rows(folder, [*_rows(folder), _make_pair(source, plan, folder, config, device)])
    rows = [row for row in _rows(folder) if row["scene"] == source.scene]
    (folder / "sheets").mkdir(exist_ok=True)
    write_contact_sheet(folder, rows, folder / "sheets" / f"{source.scene}.png")
    for fit in sorted({plan.fit for plan in wanted}):
        shutil.rmtree(folder / "fits" / f"{source.scene}-{fit}", ignore_errors=True)


def _make_pair(source: PairSource, plan: PairPlan, folder: Path, config: PairsConfig, device: str) -> dict[str, Any]:
    from splatmend.pipelines.contact_sheet import clip_scores
    from splatmend.recon.render_clip import render_clip
    from splatmend.recon.trajectory import build_trajectory

    scene = _scene(source, plan, folder, config, device)
    trajectory = build_trajectory(scene, plan.trajectory)
    degraded = folder / "clips" / source.scene / plan.name / "degraded"
    # What was half done when a run was interrupted is made again; clips are whole or not there.
    render_clip(scene, trajectory, degraded, encoding=config.encoding, overwrite=True)
    shared = plan.name if plan.kind == "shift" else f"{plan.trajectory.camera}-recorded"
    target = folder / "clips" / source.scene / shared / "target"
    if not target.exists():
        source.write_target(trajectory, target, config.encoding)
    return {
        "degraded": str(degraded.relative_to(folder)),
        "target": str(target.relative_to(folder)),
        "kind": plan.kind,
        "split": split_of(source.scene, config.validation_share),
        "scene": source.scene,
        "frames": len(trajectory),
        "scores": clip_scores(degraded, target),
    }


def _scene(source: PairSource, plan: PairPlan, folder: Path, config: PairsConfig, device: str) -> Scene:
    from splatmend.pipelines.device import torch_device
    from splatmend.recon.fit.fit import fit
    from splatmend.recon.scene_files import load_scene

    path = folder / "fits" / f"{source.scene}-{plan.fit}"
    if not path.exists():
        fit(source.log, path, _fit_config(plan.fit, config, device, exact_poses=source.sees_everything), resume=True)
    if plan.snapshot is not None:
        path = path / "snapshots" / f"{plan.snapshot:06d}"
    return load_scene(path, device=torch_device(device))


def _cameras(source: PairSource, config: PairsConfig) -> tuple[str, ...]:
    """The cameras to render; `UserError` for one that the source lacks."""
    for name in config.cameras:
        if name not in source.log.cameras:
            raise UserError(f"{source.name}: there is no camera {name}; it has {', '.join(source.log.cameras)}.")
    return config.cameras or tuple(source.log.cameras)


def _rows(folder: Path) -> list[dict[str, Any]]:
    index = folder / INDEX
    return [json.loads(line) for line in index.read_text().splitlines()] if index.is_file() else []


def _write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The index, which is whole at every moment."""
    beside = folder / f"{INDEX}.new"
    beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside.replace(folder / INDEX)
