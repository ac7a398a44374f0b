"""Light from a panorama of high dynamic range.

A panorama shows the inside of a sphere: to the right of its middle lies what is to the right of who looks there, so azimuths, which count
counter-clockwise seen from above, fall from left to right. Environments count the other way and are mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from splatmend.datasets.errors import UserError
from splatmend.recon.light.colour import LUMINANCE
from splatmend.recon.light.scene_light import SceneLight, environment_directions
from splatmend.recon.sky import rotation_to_z

SUFFIXES = (".hdr", ".pic", ".pfm", ".exr")
_DISC_DEG = 4.0
"""Radius of what is taken out as the sun: its disc and the glare that lenses make of it."""
_LEAST_PEAK = 20.0
"""A sun's brightest pixel over the mean of the upper half; the brightest part of a covered sky has about 3."""
_LEAST_SHARE = 0.25
"""What a surface that faces the sun gets from it, over what one that faces up gets from all else; street lamps and the moon among the
lights of a night give less."""


def light_from_hdr(
    path: Path,
    up_world: Sequence[float] = (0.0, 0.0, 1.0),
    *,
    heading_deg: float = 0.0,
    scale: float | None = None,
    like: SceneLight | None = None,
    rows: int = 128,
) -> SceneLight:
    """Sun and environment of an equirectangular panorama (zenith at the top).

    Args:
        path: Radiance file (.hdr, .pic), .pfm, or .exr where OpenCV reads it.
        up_world: away from the ground.
        heading_deg: where the picture's middle looks: azimuth from the world's x axis, counter-clockwise seen from above.
        scale: the scene's linear units in one unit of the file; by default what makes surfaces that face up as bright under the environment
            as under that of `like`, or 1 where that is not given either.
        like: the scene's own light.
        rows: most rows of the environment.

    It does not count as the light of the recording: nobody knows whether the panorama was taken there and then.

    Raises:
        UserError: for a file that is missing, cut short, no panorama, or holds values that are no radiance.
    """
    path = Path(path)
    if not math.isfinite(heading_deg):
        raise UserError(f"{path}: a heading of {heading_deg} degrees is nowhere; give a number of degrees.")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise UserError(f"{path}: a scale of {scale} makes no light; give a number above 0.")
    panorama = read_panorama(path)[:, ::-1]
    panorama, towards, sun = without_sun(panorama)
    height = min(rows, len(panorama))
    small = cv2.resize(panorama, (2 * height, height), interpolation=cv2.INTER_AREA)
    turned = Rotation.from_euler("z", -heading_deg, degrees=True).as_matrix() @ rotation_to_z(np.asarray(up_world, dtype=np.float64))
    light = SceneLight(
        to_sun_world=_triple(turned.T @ towards),
        sun=_triple(sun),
        environment=torch.from_numpy(np.ascontiguousarray(small)).float(),
        environment_from_world=turned,
        made_by=path.name,
        recorded=False,
    )
    factor = scale if scale is not None else _matching(light, like)
    return replace(light, sun=_triple(np.asarray(light.sun) * factor), environment=light.environment * factor)


def read_panorama(path: Path) -> np.ndarray:
    """Linear radiance `[H, 2H, 3]` float32 as it lies in the file; errors as `light_from_hdr`."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: light is read from {', '.join(SUFFIXES)}; convert the panorama to .hdr.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the panorama ({error.strerror}); check that the file is there.") from error
    picture = _decoded(data)
    if picture is None and path.suffix.lower() == ".exr":
        raise UserError(f"{path}: OpenCV cannot decode this .exr file here; convert it to .hdr.")
    if picture is None or picture.ndim != 3 or picture.shape[2] < 3 or picture.dtype != np.float32:
        raise UserError(f"{path}: this is cut short or no colour picture of high dynamic range; copy or download the file again.")
    height, width = picture.shape[:2]
    if width != 2 * height or height < 8:
        raise UserError(f"{path}: {width}x{height} pixels are no panorama of all directions, twice as wide as high; convert it to one.")
    panorama = picture[..., 2::-1]
    if not np.isfinite(panorama).all():
        raise UserError(f"{path}: the panorama holds values that are no finite numbers; write it again from its source.")
    if (panorama < 0).any():
        raise UserError(f"{path}: the panorama holds radiance below 0; write it again from its source.")
    return panorama


def _decoded(data: bytes) -> np.ndarray | None:
    """OpenCV's answer, without its own words on standard error where it lets itself be silenced."""
    logging = getattr(cv2.utils, "logging", None)
    before = logging.setLogLevel(logging.LOG_LEVEL_SILENT) if logging is not None else None
    try:
        return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except cv2.error:
        return None
    finally:
        if logging is not None:
            logging.setLogLevel(before)


def without_sun(panorama: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The panorama `[H, 2H, 3]` (layout of `SceneLight.environment`) less its sun, the unit direction to that in its frame, and the
    radiance of a white matt surface that faces it alone: its irradiance over pi. Where no compact region above the horizon is bright
    enough to be a sun, the radiance is zero and the direction that of the brightest pixel.
    """
    height = len(panorama)
    directions, solid = (values.numpy().astype(np.float64) for values in environment_directions(height))
    radiance = panorama.reshape(-1, 3).astype(np.float64)
    bright = radiance @ np.asarray(LUMINANCE)
    above = directions[:, 2] > 0
    peak = int(np.argmax(np.where(above, bright, -1.0)))
    middle = directions[peak]
    # The sun may lie on the corner of four pixels, or be many: its middle is that of what is about as bright as the brightest.
    near = (directions @ middle > math.cos(math.radians(_DISC_DEG))) & (bright > 0.5 * bright[peak])
    middle = (directions[near] * (bright[near] * solid[near])[:, None]).sum(axis=0)
    middle /= max(float(np.linalg.norm(middle)), 1e-12)
    cosine = directions @ (middle if bright[peak] > 0 else directions[peak])
    # At least two rows, so that small panoramas have a disc at all.
    reach = math.radians(max(_DISC_DEG, 2 * 180 / height))
    disc, ring = cosine > math.cos(reach), (cosine <= math.cos(reach)) & (cosine > math.cos(2 * reach))
    around = np.median(radiance[ring], axis=0)
    excess = np.where(disc[:, None], (radiance - around).clip(min=0), 0.0)
    rest = radiance - excess
    sun = (excess * solid[:, None]).sum(axis=0) / math.pi
    upward = (rest * (solid * directions[:, 2].clip(min=0))[:, None]).sum(axis=0) / math.pi
    mean = float((bright * solid)[above].sum() / solid[above].sum())
    weights = np.asarray(LUMINANCE)
    if bright[peak] < _LEAST_PEAK * mean or float(sun @ weights) < _LEAST_SHARE * float(upward @ weights):
        return panorama, directions[peak], np.zeros(3)
    return rest.reshape(panorama.shape).astype(np.float32), middle, sun


def _matching(light: SceneLight, like: SceneLight | None) -> float:
    """What makes the mean ambient of two lights equal."""
    if like is None:
        return 1.0
    weights = np.asarray(LUMINANCE)
    own, other = (float(_upward(one) @ weights) for one in (light, like))
    return other / own if own > 0 and other > 0 else 1.0


def _upward(light: SceneLight) -> np.ndarray:
    up = torch.tensor(light.up_world, dtype=torch.float32, device=light.device)[None]
    return light.ambient(up)[0].cpu().numpy()


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
