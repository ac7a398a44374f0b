"""Looks at a fitted street: `python benchmarks/sheet.py LOG SCENE --out FOLDER --left 0 2`.

For each shift a picture `SCENE-left2.jpg`: held-out frames over the whole drive, the oracle's picture on the left (on the path the recorded
one), the scene's on the right, `--width` pixels wide each. PSNRs are printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from splatmend.datasets.images import to_uint8
from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street import load_street
from splatmend.recon.render import render
from splatmend.recon.scene_files import load_scene
from splatmend.recon.trajectory import TrajectoryConfig, build_trajectory

QUALITY = 88


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--left", type=float, nargs="+", default=[0.0, 2.0], help="metres")
    parser.add_argument("--frames", type=int, default=7)
    parser.add_argument("--width", type=int, default=640)
    chosen = parser.parse_args(argv)
    scene = load_scene(chosen.scene, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    log, street = open_log(chosen.log), load_street(chosen.log)
    recorded = log.frames_of(scene.front_camera)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for left in chosen.left:
        trajectory = build_trajectory(scene, TrajectoryConfig(camera=scene.front_camera, left=left, ease_s=0.5))
        held_out = [number for number, extra in enumerate(trajectory.extra) if extra["held_out"] or left]
        rows = []
        for at in np.linspace(0, len(held_out) - 1, min(chosen.frames, len(held_out))):
            number = held_out[round(at)]
            shot = trajectory.shots[number]
            with torch.no_grad():
                drawn = render(scene, shot, ("rgb",)).rgb
            assert drawn is not None
            size = (chosen.width, round(chosen.width * shot.camera.height / shot.camera.width))
            if left:
                true = to_uint8(street.render(replace(shot, camera=shot.camera.resized(*size)), supersample=1).rgb)
            else:
                true = cv2.resize(recorded[number].read_image(), size, interpolation=cv2.INTER_AREA)
            shown = cv2.resize(to_uint8(drawn.cpu().numpy()), size, interpolation=cv2.INTER_AREA)
            error = np.square(shown.astype(float) - true).mean()
            print(f"{left:g} m, frame {number}: {10 * np.log10(255**2 / max(error, 1e-9)):.2f} dB", flush=True)
            rows.append(np.hstack([true, shown]))
        file = chosen.out / f"{chosen.scene.name}-left{left:g}.jpg"
        cv2.imwrite(str(file), np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return 0


if __name__ == "__main__":
    sys.exit(main())
