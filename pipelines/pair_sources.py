"""Where pairs come from: a log on disk, or a procedural street in memory (`street:SEED`), which can show the truth of any shot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipFrame, ClipWriter, Encoding
from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street import StreetConfig, build_street, is_street, load_street, street_log
from splatmend.pipelines.evaluation.truth import LogTruth, StreetTruth, Truth
from splatmend.recon.trajectory import Trajectory

STREET_PREFIX = "street:"


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """A log with its truth. `scene` names it in the index; `sees_everything`: the truth knows shots beside the recorded path."""

    name: str
    scene: str
    log: SceneLog
    truth: Truth
    sees_everything: bool

    def write_target(self, trajectory: Trajectory, out: Path, encoding: Encoding) -> None:
        """The true pictures of a trajectory's shots, as a clip. `UserError` where the truth does not know one of them."""
        manifest = Manifest(kind="clip", config={"target": self.name}, facts={})
        frames = [ClipFrame(shot=shot, extra=extra) for shot, extra in zip(trajectory.shots, trajectory.extra)]
        with (
            building(out, manifest, overwrite=True) as partial,
            ClipWriter(partial, encoding=encoding, rate_hz=trajectory.rate_hz, log_id=self.log.log_id) as writer,
        ):
            for frame, true in zip(frames, self.truth.frames(frames)):
                if true is None:
                    raise UserError(
                        f"{self.name}: there is no true picture for frame {writer.count} of the path; leave out what changes the path."
                    )
                writer.write(true.rgb, frame.shot, extra=frame.extra)
            manifest.facts = writer.facts


def open_source(name: str, street: StreetConfig, device: str = "auto") -> PairSource:
    """A source by its path or `street:SEED`; `UserError` where it is none."""
    if name.startswith(STREET_PREFIX):
        seed = name.removeprefix(STREET_PREFIX)
        if not seed.isdecimal():
            raise UserError(f"{name}: the seed must be a whole number; write for instance street:7.")
        from splatmend.pipelines.device import torch_device

        built = build_street(replace(street, seed=int(seed)), device=torch_device(device))
        truth: Truth = StreetTruth(street=built, path=Path(name))
        return PairSource(name=name, scene=f"street-{seed}", log=street_log(built), truth=truth, sees_everything=True)
    path = Path(name)
    log = open_log(path)
    # Logs of one name may lie in many folders.
    scene = f"{_plain(log.log_id)}-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]}"
    if is_street(path):
        return PairSource(name=name, scene=scene, log=log, truth=StreetTruth(street=load_street(path), path=path), sees_everything=True)
    return PairSource(name=name, scene=scene, log=log, truth=LogTruth(log=log), sees_everything=False)


def _plain(text: str) -> str:
    kept: Sequence[str] = [c if c.isalnum() or c in "-_." else "_" for c in text]
    return "".join(kept)[:60]
