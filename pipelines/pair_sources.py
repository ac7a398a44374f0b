"""Where pairs come from: a log on disk, or a procedural street in memory (`street:SEED`), which can show the truth of any shot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipFrame, ClipWriter, Encoding
from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import StreetConfig, build_street, is_street, load_street, street_log
from splatmend.pipelines.evaluation.truth import LogTruth, StreetTruth, TrueFrame, Truth
from splatmend.recon.trajectory import Trajectory

Read = TypeVar("Read")
STREET_PREFIX, STREET_SOURCE = "street:", "street"


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """A log with its truth. `scene` names it in the index; `sees_everything`: the truth knows shots beside the recorded path.

    `open_truth` is called when the truth is first asked for: to build a street takes seconds, and whoever only plans needs none.
    """

    name: str
    scene: str
    log: SceneLog
    open_truth: Callable[[], Truth]
    sees_everything: bool

    @cached_property
    def truth(self) -> Truth:
        return self.open_truth()

    def shots(self, camera: str) -> list[Shot]:
        """The recorded shots of a camera as the log has them."""
        return [Shot.of(frame, self.log.cameras[camera]) for frame in self.log.frames_of(camera)]

    def write_target(self, trajectory: Trajectory, out: Path, encoding: Encoding) -> None:
        """The true pictures of a trajectory's shots, as a clip. `UserError` where the truth does not know one of them."""
        manifest = Manifest(kind="clip", config={"target": self.name}, facts={})
        frames = [ClipFrame(shot=shot, extra=extra) for shot, extra in zip(trajectory.shots, trajectory.extra)]
        with (
            building(out, manifest, overwrite=True) as partial,
            ClipWriter(partial, encoding=encoding, rate_hz=trajectory.rate_hz, log_id=self.log.log_id) as writer,
        ):
            for frame, true in zip(frames, self._true(frames)):
                if true is None:
                    raise UserError(
                        f"{self.name}: there is no true picture for frame {writer.count} of the path; leave out what changes the path."
                    )
                writer.write(true.rgb, frame.shot, extra=frame.extra)
            manifest.facts = writer.facts

    def _true(self, frames: Sequence[ClipFrame]) -> Iterator[TrueFrame | None]:
        """True frames. Those that a street in memory recorded are the log's, which has drawn them exactly so already."""
        whole = all(frame.shot is not None and frame.shot.camera == self.log.cameras[frame.shot.camera.name] for frame in frames)
        if self.log.source != STREET_SOURCE or not whole:
            yield from self.truth.frames(frames)
            return
        recorded = list(LogTruth(log=self.log).frames(frames))
        drawn = self.truth.frames(frames, [true is None for true in recorded])
        for true, other in zip(recorded, drawn):
            yield true or other


def open_source(name: str, street: StreetConfig) -> PairSource:
    """A source by its path or `street:SEED`; `UserError` where it is none. Streets are drawn on the CPU, which casts rays faster than torch
    does on a GPU, and leaves that to the fits."""
    if name.startswith(STREET_PREFIX):
        seed = name.removeprefix(STREET_PREFIX)
        if not seed.isdecimal():
            raise UserError(f"{name}: the seed must be a whole number; write for instance street:7.")
        seed = str(int(seed))
        built = build_street(replace(street, seed=int(seed)))
        truth = StreetTruth(street=built, path=Path(name))
        return PairSource(
            name=name, scene=f"street-{seed}", log=read_once(street_log(built)), open_truth=lambda: truth, sees_everything=True
        )
    path = Path(name)
    log = open_log(path)
    # Logs of one name may lie in many folders.
    scene = f"{_plain(log.log_id)}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"
    if is_street(path):
        return PairSource(
            name=name, scene=scene, log=log, open_truth=lambda: StreetTruth(street=load_street(path), path=path), sees_everything=True
        )
    return PairSource(name=name, scene=scene, log=log, open_truth=lambda: LogTruth(log=log), sees_everything=False)


def read_once(log: SceneLog) -> SceneLog:
    """A log whose pictures and sweeps are kept in memory once they are read: several fits, references and targets look at the same ones."""
    frames = tuple(replace(frame, read_image=_kept(frame.read_image)) for frame in log.frames)
    sweeps = tuple(replace(sweep, read_points=_kept(sweep.read_points)) for sweep in log.sweeps)
    return replace(log, frames=frames, sweeps=sweeps)


def _kept(read: Callable[[], Read]) -> Callable[[], Read]:
    once = cache(read)
    # A copy for each reader, since readers may change what they were given.
    return lambda: deepcopy(once())


def _plain(text: str) -> str:
    kept: Sequence[str] = [c if c.isalnum() or c in "-_." else "_" for c in text]
    return "".join(kept)[:60]
