"""From a scene and a trajectory to a clip on disk, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from splatmend.datasets.artifact import Manifest, building, plain
from splatmend.datasets.clip import ClipWriter, Encoding
from splatmend.datasets.errors import UserError
from splatmend.datasets.shot import Shot
from splatmend.recon.raster.api import Backend
from splatmend.recon.references import References
from splatmend.recon.render import Channel, render
from splatmend.recon.scene import Scene
from splatmend.recon.trajectory import Trajectory


def render_clip(
    scene: Scene,
    shots: Sequence[Shot],
    out: Path,
    *,
    encoding: Encoding = "png",
    depth: bool = False,
    opacity: bool = True,
    references: References | None = None,
    extra: Sequence[Mapping[str, Any]] | None = None,
    rate_hz: float | None = None,
    inputs: Mapping[str, str] | None = None,
    overwrite: bool = False,
    backend: Backend | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render shots into a clip artefact; returns its folder.

    A `Trajectory` brings its own `extra`, `rate_hz` and edits of actors; for a plain list of shots they are given here (10 Hz by
    default). `references`, of this scene, give the clip layers of them. `on_progress` is called
    with the number of frames done and of all. `inputs` goes into the manifest.

    Raises:
        UserError: where there is no shot, or `out` exists or cannot be written.
    """
    if not len(shots):
        raise UserError(f"{out}: there is no shot to render; give a trajectory with frames.")
    trajectory = shots if isinstance(shots, Trajectory) else None
    actor_poses = trajectory.actor_poses if trajectory else None
    gone = set(trajectory.without) if trajectory else set()
    rows = extra if extra is not None else (trajectory.extra if trajectory else [{}] * len(shots))
    rate = rate_hz if rate_hz is not None else (trajectory.rate_hz if trajectory else 10.0)
    channels: list[Channel] = ["rgb", "depth"] if depth else ["rgb"]
    facts = plain(dict(trajectory.facts)) if trajectory else {}
    manifest = Manifest(
        kind="clip",
        config={
            "trajectory": facts.pop("trajectory", None),
            "encoding": encoding,
            "depth": depth,
            "opacity": opacity,
            "without": sorted(gone),
            "references": None if references is None else references.config,
        },
        inputs=dict(inputs or {}),
    )
    with building(Path(out), manifest, overwrite=overwrite) as folder:
        with ClipWriter(folder, encoding=encoding, rate_hz=rate, log_id=scene.log_id) as writer, torch.no_grad():
            for number, (shot, row) in enumerate(zip(shots, rows, strict=True)):
                drawn = render(scene, shot, channels, backend=backend, without=gone, actor_poses=actor_poses)
                assert drawn.rgb is not None
                writer.write(
                    drawn.rgb.cpu().numpy(),
                    shot,
                    depth_m=None if drawn.depth_m is None else drawn.depth_m.cpu().numpy(),
                    opacity=drawn.opacity.cpu().numpy() if opacity else None,
                    references=None if references is None else references.of(shot, without=gone, actor_poses=actor_poses),
                    extra=row,
                )
                if on_progress is not None:
                    on_progress(number + 1, len(shots))
        manifest.facts = {**writer.facts, **facts, "metric": scene.metric}
    return Path(out)
