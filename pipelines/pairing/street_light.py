"""The light of a procedural street: what it is, by the oracle, and as an estimate would have it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from splatmend.datasets.street import Street
from splatmend.recon.light.colour import light_from_picture
from splatmend.recon.light.scene_light import SceneLight, environment_directions

_TURNED_DEG, _RAISED_DEG = 6.0, 3.0
_STRONGER_STOPS = 0.4


def known_light(street: Street) -> SceneLight:
    """The light of a street by least squares on the oracle's pictures: colours over albedo, by sun, sky and ground."""
    to_sun = np.array(street.sun.direction_world)
    rows, values = [], []
    for camera in street.cameras:
        for frame in range(0, street.config.frame_count, max(street.config.frame_count // 3, 1)):
            seen = street.render(street.shot(camera, frame), supersample=1, exposure=1.0)
            good = (seen.ids == 1) & (seen.rgb.max(-1) < 0.97) & (seen.albedo.min(-1) > 0.03) & (seen.depth_m < 40)
            normals = seen.normals_world[good]
            facing = np.clip(normals @ to_sun, 0, None) * (1 - seen.shadow[good])
            rows.append(np.stack([facing, 0.5 + 0.5 * normals[:, 2], 0.5 - 0.5 * normals[:, 2]], axis=1))
            values.append(light_from_picture(torch.from_numpy(seen.rgb)).numpy()[good] / seen.albedo[good])
    found = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0].clip(min=0.0)
    directions, _ = environment_directions(16)
    halves = torch.from_numpy(np.where(directions[:, 2:].numpy() > 0, found[1], found[2])).float()
    return SceneLight(
        to_sun_world=street.sun.direction_world,
        sun=tuple(found[0].tolist()),
        environment=halves.view(16, 32, 3),
        environment_from_world=np.eye(3),
        made_by="regressed on the oracle",
    )


def as_estimated(right: SceneLight, rng: np.random.Generator) -> SceneLight:
    """A light with the error that an estimate has: its sun turned, raised, and stronger or weaker."""
    turned_deg, raised_deg = rng.normal(0.0, (_TURNED_DEG, _RAISED_DEG))
    elevation_deg = float(np.clip(right.sun_elevation_deg + raised_deg, 6, 80))
    red, green, blue = (float(2 ** rng.uniform(-_STRONGER_STOPS, _STRONGER_STOPS)) * np.asarray(right.sun)).tolist()
    # Its direction alone: who estimates a light fits the colour to the pictures, wherever the sun is thought to be.
    to_sun = right.with_sun(right.sun_azimuth_deg + float(turned_deg), elevation_deg).to_sun_world
    return replace(right, to_sun_world=to_sun, sun=(red, green, blue))
