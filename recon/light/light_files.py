"""A light as a folder (artefact kind "light").

`environment.safetensors` (the environment and the rotation into it), `environment.hdr` (the same, as any viewer of panoramas shows it, with
the world's x axis in the middle; `light_from_hdr` reads it back, without the sun), and in the manifest's facts the sun and where the light
comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from splatmend.datasets.artifact import Manifest, building, plain, read_manifest
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import to_uint8, write_image
from splatmend.recon.light.colour import srgb_from_linear
from splatmend.recon.light.scene_light import SceneLight
from splatmend.recon.sky import look_up, rotation_to_z

_PREVIEW_ROWS = 256


def save_light(
    out: Path,
    light: SceneLight,
    *,
    facts: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a light as an artefact; `facts` are kept beside its own. Errors: those of `artifact.building`."""
    manifest = Manifest(kind="light", config=plain(dict(config or {})))
    with building(Path(out), manifest, overwrite=overwrite) as folder:
        tensors = {
            "environment": light.environment.detach().cpu().contiguous(),
            "environment_from_world": torch.from_numpy(np.asarray(light.environment_from_world, dtype=np.float64)).contiguous(),
        }
        save_file(tensors, str(folder / "environment.safetensors"))
        done, data = cv2.imencode(".hdr", np.ascontiguousarray(panorama(light, light.environment.shape[0])[..., ::-1]))
        if not done:
            raise ValueError(f"{out}: the environment cannot be encoded as .hdr")
        (folder / "environment.hdr").write_bytes(data.tobytes())
        write_image(folder / "preview.png", preview(light))
        manifest.facts = {
            **plain(dict(facts or {})),
            "to_sun_world": list(light.to_sun_world),
            "sun": list(light.sun),
            "sun_azimuth_deg": light.sun_azimuth_deg,
            "sun_elevation_deg": light.sun_elevation_deg,
            "made_by": light.made_by,
            "recorded": light.recorded,
            "moved_from_deg": light.moved_from_deg,
        }
    return Path(out)


def load_light(path: Path, device: str | torch.device = "cpu") -> SceneLight:
    """A light from its folder.

    Raises:
        UserError: where the folder is no light, or one of its files is missing or broken.
    """
    path = Path(path)
    facts = read_manifest(path, "light").facts
    file = path / "environment.safetensors"
    try:
        tensors = load_file(str(file))
    except FileNotFoundError:
        raise UserError(f"{file}: the light's environment is missing; copy the whole folder again, or make the light again.") from None
    except SafetensorError as fault:
        raise UserError(f"{file}: the environment cannot be read ({fault}); make the light again.") from None
    try:
        environment, rotation = tensors["environment"].float(), tensors["environment_from_world"].double().numpy()
        sun = np.asarray([facts["to_sun_world"], facts["sun"]], dtype=np.float64)
        if not (bool(torch.isfinite(environment).all()) and np.isfinite(sun).all() and sun.shape == (2, 3)):
            raise ValueError("values that are no finite numbers")
        if rotation.shape != (3, 3) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6):
            raise ValueError("a rotation that is none")
        light = SceneLight(
            to_sun_world=tuple(sun[0].tolist()),
            sun=tuple(sun[1].tolist()),
            environment=environment,
            environment_from_world=rotation,
            made_by=str(facts["made_by"]),
            recorded=bool(facts.get("recorded", True)),
            moved_from_deg=None if (moved := facts.get("moved_from_deg")) is None else (float(moved[0]), float(moved[1])),
        )
    except (KeyError, IndexError, TypeError, ValueError) as fault:
        raise UserError(f"{path}: an entry of the light is missing or broken ({fault}); make the light again.") from fault
    return light.to(device)


def panorama(light: SceneLight, rows: int) -> np.ndarray:
    """The environment `[rows, 2 rows, 3]`, linear float32, as who stands in it sees it: the world's x axis (laid into the plane) in the
    middle, azimuths, counter-clockwise seen from above, falling to the right."""
    directions = _panorama_directions(rows) @ rotation_to_z(light.up_world)
    turned = torch.from_numpy(directions @ light.environment_from_world.T).float()
    return look_up(light.environment.detach().cpu(), turned).numpy()


def preview(light: SceneLight) -> np.ndarray:
    """The panorama in sRGB, `[H, 2H, 3]` uint8, as bright as its upper half's mean allows, with the sun marked: a full circle where it
    shines, a thin one where it does not."""
    linear = panorama(light, _PREVIEW_ROWS)
    mean = float(linear[: _PREVIEW_ROWS // 2].mean())
    picture = np.ascontiguousarray(to_uint8(srgb_from_linear(torch.from_numpy(linear) * (0.4 / max(mean, 1e-6))).numpy()))
    column = int((0.5 - light.sun_azimuth_deg / 360) * 2 * _PREVIEW_ROWS) % (2 * _PREVIEW_ROWS)
    row = int((0.5 - light.sun_elevation_deg / 180) * _PREVIEW_ROWS)
    shines = max(light.sun) > 0
    cv2.circle(picture, (column, row), 7, (255, 230, 60), -1 if shines else 1, cv2.LINE_AA)
    cv2.circle(picture, (column, row), 9, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def _panorama_directions(rows: int) -> np.ndarray:
    """Directions `[rows, 2 rows, 3]` in a frame with z up."""
    elevation = (0.5 - (np.arange(rows) + 0.5) / rows) * math.pi
    azimuth = (0.5 - (np.arange(2 * rows) + 0.5) / (2 * rows)) * 2 * math.pi
    up, around = np.meshgrid(elevation, azimuth, indexing="ij")
    return np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], axis=-1)
