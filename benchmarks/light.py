"""How well the light of procedural streets is estimated from fitted scenes alone, on the CPU:
`python benchmarks/light.py --logs STREET... --scenes FOLDER --out rows.jsonl`.

Each log (written by `splatmend street`) is fitted into FOLDER with few iterations, unless a scene of its name lies there; the estimate is
compared with the sun that `street.json` leads to, which a log read from files does not know. Streets are taken as they come: of the
weather, azimuth and elevation that their seeds draw.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import environment

from splatmend.datasets.readers.registry import open_log
from splatmend.datasets.street import StreetConfig, load_street
from splatmend.recon.fit.config import DataConfig, DensifyConfig, FitConfig, InitConfig
from splatmend.recon.fit.fit import fit
from splatmend.recon.light.estimate import estimated_light
from splatmend.recon.scene_files import load_scene

FIT = FitConfig(
    iterations=200,
    sh_degree=0,
    sky_rows=64,
    device="cpu",
    data=DataConfig(max_width=200, holdout_every=0, train_every=2, bridge_jumps=False),
    init=InitConfig(point_count=30_000, ray_count=6_000, actor_count=2_000),
    densify=DensifyConfig(cap=36_000, actor_cap=3_000),
)
"""Enough for shadows on the road; good pictures take ten times as many iterations."""


def measured(log: Path, scenes: Path) -> dict[str, Any]:
    """One street: its sun, the estimate, how far they are apart, and processor seconds of the estimate."""
    scene_path = scenes / f"fit-{log.name.removeprefix('street-')}"
    if not scene_path.is_dir():
        fit(open_log(log), scene_path, FIT)
    street = load_street(log)
    scene = load_scene(scene_path)
    started, seconds = time.process_time(), time.monotonic()
    found = estimated_light(scene)
    used = {"cpu_s": round(time.process_time() - started, 1), "wall_s": round(time.monotonic() - seconds, 1)}
    to_sun = np.asarray(street.sun.direction_world)
    off = np.degrees(np.arccos(np.clip(np.dot(found.light.to_sun_world, to_sun), -1, 1)))
    flat = np.dot(_flat(np.asarray(found.light.to_sun_world)), _flat(to_sun))
    strength = np.asarray(found.light.sun).sum() / found.light.ambient(torch.tensor([[0.0, 0.0, 1.0]])).sum().item()
    return {
        "street": log.name,
        "weather": weather(street.config),
        "azimuth_deg": round(float(np.degrees(street.sun.azimuth_rad)) % 360, 1),
        "elevation_deg": round(float(np.degrees(street.sun.elevation_rad)), 1),
        "found_azimuth_deg": round(found.light.sun_azimuth_deg % 360, 1),
        "found_elevation_deg": round(found.light.sun_elevation_deg, 1),
        "off_deg": round(float(off), 1),
        "azimuth_off_deg": round(float(np.degrees(np.arccos(np.clip(flat, -1, 1)))), 1),
        "confidence": round(found.confidence, 2),
        "gain": round(found.gain, 1),
        "sun_over_sky": round(float(strength), 2),
        "iterations": scene.facts.get("iterations"),
        **used,
    }


def weather(config: StreetConfig) -> str:
    """By how strong the sun is: a street's weather is drawn with its air."""
    from splatmend.datasets.street.sky import draw_air

    if config.weather is not None:
        return config.weather
    sun, air = draw_air(config)
    if air.sun_strength < 0.2:
        return "overcast"
    return "golden" if sun.elevation_rad < np.radians(17) else "hazy" if air.visibility_m < 450 else "clear or fair"


def _flat(direction: np.ndarray) -> np.ndarray:
    return direction[:2] / max(float(np.linalg.norm(direction[:2])), 1e-9)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown, and the medians of those with a sun."""
    lines = [
        "| street | weather | sun: azimuth, elevation | found | apart | azimuths apart | confidence | sun over sky | CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['street']} | {row['weather']} | {row['azimuth_deg']:.0f}, {row['elevation_deg']:.0f} | "
        f"{row['found_azimuth_deg']:.0f}, {row['found_elevation_deg']:.0f} | {row['off_deg']:.1f} | {row['azimuth_off_deg']:.1f} | "
        f"{row['confidence']:.2f} | {row['sun_over_sky']:.2f} | {row['cpu_s']:.0f} s |"
        for row in rows
    ]
    sunny = [row["off_deg"] for row in rows if row["weather"] != "overcast"]
    if sunny:
        lines.append(f"\nMedian with a sun: {np.median(sunny):.1f} degrees ({len(sunny)} streets).")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, nargs="+", required=True, help="folders that splatmend street wrote")
    parser.add_argument("--scenes", type=Path, required=True, help="where their scenes lie or are written")
    parser.add_argument("--out", type=Path, required=True, help="rows, one JSON object a line")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for log in chosen.logs:
        rows.append(measured(log, chosen.scenes))
        with chosen.out.open("a") as lines:
            lines.write(json.dumps(rows[-1] | {"on": environment(["torch", "numpy"], cuda=False)}) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
