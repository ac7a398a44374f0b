"""What strategies work with: a scene's fits, made when they are first asked for, and renders of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.shot import Shot
from splatmend.pipelines.device import torch_device
from splatmend.pipelines.pair_sources import PairSource
from splatmend.pipelines.pairing.config import PairsConfig, Strategy
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.data import prepared_log
from splatmend.recon.fit.fit import fit
from splatmend.recon.fit.nodes_optimiser import before_fading
from splatmend.recon.references import references_of
from splatmend.recon.render_clip import render_clip
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene
from splatmend.recon.trajectory import Trajectory, TrajectoryConfig, build_trajectory


@dataclass(frozen=True, kw_only=True)
class PairPlan:
    """One pair to make. `degrade` writes the degraded clip into a folder and returns its shots, of which the source then gives the target;
    where it cannot, `write_target` writes the true pictures of these shots into a folder.

    `name` is the pair's folder below `clips/SCENE`; pairs of one `target` show the same true pictures, which are written once.
    """

    name: str
    kind: Strategy
    target: str
    degrade: Callable[[Workshop, Path], Trajectory]
    write_target: Callable[[Workshop, Trajectory, Path], None] | None = None
    may_lack: bool = False
    """Whether a scene that turns out to have nothing for it (`NothingToShow`) does without."""


class NothingToShow(UserError):
    """A scene in which a pair cannot be made, as only the making shows."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """A source with its fits in the folder `fits`, where an interrupted one is gone on with."""

    source: PairSource
    config: PairsConfig
    fits: Path
    device: str

    @property
    def fit_config(self) -> FitConfig:
        """The settings that all fits share: nothing is held out, and exact poses stay, since all fits share one target."""
        config = replace(self.config.fit, device=torch_device(self.device), snapshots_at=())
        config = replace(config, data=replace(config.data, holdout_every=0))
        return without_corrections(config) if self.source.sees_everything else config

    def fitted(self, name: str, config: FitConfig, log: SceneLog | None = None) -> Scene:
        """The scene of a fit by its name, to the source's log or another one."""
        path = self.fits / name
        if not path.exists():
            fit(self.source.log if log is None else log, path, config, resume=True)
        return load_scene(path, device=torch_device(self.device))

    def whole(self, snapshot: int | None = None) -> Scene:
        """The scene of an ordinary fit, or as it was after so many iterations, which must be one of `snapshots`."""
        taken = snapshots(self.config) if "underfit" in self.config.strategies else ()
        finished = self.fitted("whole", replace(self.fit_config, snapshots_at=taken))
        if snapshot is None:
            return finished
        return load_scene(self.fits / "whole" / "snapshots" / f"{snapshot:06d}", device=torch_device(self.device))

    def recorded(self, camera: str) -> Trajectory:
        """The recorded shots of a camera as the log has them, at the size of the fit, whether a fit has seen that camera or not."""
        data = replace(self.fit_config.data, cameras=(camera,))
        log = prepared_log(self.source.log, data, self.config.fit.camera_model)
        shots = tuple(Shot.of(frame, log.cameras[camera]) for frame in log.frames)
        extra = tuple({"camera": camera, "source_index": frame.index, "recorded": True, "held_out": True} for frame in log.frames)
        step_us = (shots[-1].mid_us - shots[0].mid_us) / max(len(shots) - 1, 1)
        return Trajectory(shots=shots, extra=extra, rate_hz=1e6 / step_us if step_us > 0 else 10.0)

    def render(self, scene: Scene, shots: TrajectoryConfig | Trajectory, out: Path, log: SceneLog | None = None) -> Trajectory:
        """Render a path into a clip, with opacity and references from the log that the scene was fitted to (by default the source's); what
        was half done before an interruption is made again."""
        trajectory = build_trajectory(scene, shots) if isinstance(shots, TrajectoryConfig) else shots
        references = references_of(scene, self.source.log if log is None else log, self.config.references)
        render_clip(scene, trajectory, out, encoding=self.config.encoding, references=references, overwrite=True)
        return trajectory


def snapshots(config: PairsConfig) -> tuple[int, ...]:
    """The iterations at which an ordinary fit is looked at for `underfit`: not where it has just faded all opacities."""
    wanted = (max(1, round(share * config.fit.iterations)) for share in config.shares)
    return tuple(sorted({before_fading(iteration, config.fit) for iteration in wanted}))


def without_corrections(config: FitConfig) -> FitConfig:
    """The same fit with all poses left where they are."""
    off = {name: replace(getattr(config, name), on=False) for name in ("camera_poses", "actor_poses")}
    return replace(config, **off)


def recorded_target(camera: str) -> str:
    """The target of all pairs that show a camera's recorded path."""
    return f"{camera}-recorded"
