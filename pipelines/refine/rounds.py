"""The extra views of one round: renders beside the recorded path, enhanced, with a weight for every pixel.

A round's folder holds, per path (`front-left-2`), `raw/` and `enhanced/` (clips), `weights/000000.png` (uint8, 255 counts fully) and
last, when all of it stands, `round.json` (what was made, for the scene's manifest). Frames at the times of held-out ones are rendered and
enhanced with the others, so that the clip moves evenly, and are no extra views: what is held out stays a gap for the fit.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from splatmend.datasets.artifact import read_json, write_json
from splatmend.datasets.clip import Clip, ClipFrame, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import read_image, read_numbers, write_image
from splatmend.datasets.progress import ConsoleBar
from splatmend.pipelines.refine.config import RefineConfig
from splatmend.pipelines.refine.observed import RecordedViews
from splatmend.recon.fit.extra_views import ExtraView
from splatmend.recon.references import References
from splatmend.recon.render_clip import render_clip
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import file_name
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory

Enhance = Callable[[Clip, Path], Path]
"""Makes an enhanced clip of a clip, in a folder; returns the folder."""
ROUND = "round.json"


def make_round(
    scene: Scene, folder: Path, shift: float, config: RefineConfig, enhance: Enhance, references: References | None = None
) -> None:
    """Render both sides of the recorded path at a shift, enhance them and weigh their pixels, into a folder that is replaced where it is
    there. `references` of the scene give the renders layers of fitted frames; held-out ones never serve.

    Raises:
        UserError: for a camera that the scene does not have.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    unknown = set(config.cameras) - set(scene.cameras)
    if unknown:
        raise UserError(f"refine settings: the scene has no camera {sorted(unknown)[0]}; it has {', '.join(scene.cameras)}.")
    held_out = {(r.shot.camera.name, r.shot.start_us) for r in scene.shots if r.role == "held_out"}
    with ConsoleBar("recorded depth", sum(r.role == "train" for r in scene.shots)) as bar:
        done = count(1)
        recorded = RecordedViews.of(scene, config.observed_deg, on_view=lambda: bar.show(next(done)))
    paths = []
    for camera in config.cameras or scene.cameras:
        for side, sign in (("left", 1.0), ("right", -1.0)):
            name = f"{file_name(camera)}-{side}-{shift:g}"
            wanted = TrajectoryConfig(camera=camera, left=sign * shift, ease_s=0.0, frames=config.frames)
            trajectory = build_trajectory(scene, wanted)
            with ConsoleBar(f"render {name}", len(trajectory)) as bar:
                drawn = render_clip(scene, trajectory, folder / name / "raw", depth=True, references=references, on_progress=bar.show)
            raw = open_clip(drawn)
            enhance(raw, folder / name / "enhanced")
            used = [number for number, frame in enumerate(raw.frames) if _key(frame) not in held_out]
            shares = [_weigh(recorded, raw, number, folder / name / "weights") for number in used]
            paths.append({"name": name, "frames": used, "mean_weight": float(np.mean(shares)) if shares else 0.0})
    write_json(folder / ROUND, {"shift": shift, "paths": paths})


def extra_views(folder: Path) -> list[ExtraView]:
    """What a round's folder gives the fit; pictures are read when they are due.

    Raises:
        UserError: where something of it is missing.
    """
    views = []
    for path in read_round(folder)["paths"]:
        clip = open_clip(folder / path["name"] / "enhanced")
        for number in path["frames"]:
            shot = clip.frames[number].shot
            assert shot is not None
            weights = folder / path["name"] / "weights" / f"{number:06d}.png"
            views.append(
                ExtraView(shot=shot, read_rgb=partial(read_image, clip.images[number]), read_weight=partial(read_numbers, weights))
            )
    return views


def is_whole(folder: Path) -> bool:
    """Whether all of a round's folder stands."""
    return (folder / ROUND).is_file()


def read_round(folder: Path) -> dict[str, Any]:
    """What a round's folder says of itself; `UserError` where it is missing."""
    if not is_whole(folder):
        raise UserError(f"{folder}: the pictures of this round are missing, so --resume cannot go on; start anew with --overwrite.")
    return dict(read_json(folder / ROUND))


def _key(frame: ClipFrame) -> tuple[str, int]:
    assert frame.shot is not None
    return frame.shot.camera.name, frame.shot.start_us


def _weigh(recorded: RecordedViews, raw: Clip, number: int, folder: Path) -> float:
    """Write the weights of a frame; returns their mean."""
    shot, depth_m, opacity = raw.frames[number].shot, raw.read_channel("depth", number), raw.read_channel("opacity", number)
    assert shot is not None
    assert depth_m is not None
    assert opacity is not None
    weight = recorded.unobserved(shot, depth_m, opacity)
    write_image(folder / f"{number:06d}.png", np.rint(255 * weight).astype(np.uint8))
    return float(weight.mean())
