"""Whether a lens distortion can be that of the pictures it comes with: a model that folds back, or stretches, well inside them is not."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from splatmend.datasets.geometry import distort, largest_ideal_radius

if TYPE_CHECKING:
    from splatmend.datasets.log import Camera

_WIDEST_RAD = np.radians(85.0)
_CIRCLE_RAD = np.radians(60.0)
"""A model that reaches this far from the axis may end before the corners: a wide lens leaves them dark."""
_SAMPLES = 32
_MOST_STRETCH = 1.5
"""How many times farther from the axis than without distortion a lens may show a thing: those that bulge the most reach about 1.1."""
_MOST_SKEW = 0.5
"""How far, as a share of its distance from the axis, decentred glass may move a pixel: thousandths are usual."""
LEAST_SHARE = 0.5


@lru_cache(maxsize=256)
def lens_fault(camera: Camera) -> str | None:
    """Why a distortion is none of a real lens, in a few words; None where the model holds for at least half of the picture (of its bright
    circle, for a wide lens)."""
    if camera.distortion_model == "none":
        return None
    share = held_share(camera)
    if share >= LEAST_SHARE:
        return None
    values = " ".join(f"{value:g}" for value in camera.distortion)
    return f"a lens distortion ({values}) that no lens has, for its model holds for {share:.0%} of the picture"


def held_share(camera: Camera) -> float:
    """The share of a distorted camera's pixels that its model gives one ray, of a direction that a lens could show there.

    The radial part is inverted by a table up to where it folds back (`largest_ideal_radius`); what the tangential part adds is small for
    any real lens, and is measured at the rays so found.
    """
    columns, rows = np.meshgrid(*((np.arange(_SAMPLES) + 0.5) / _SAMPLES * side for side in (camera.width, camera.height)))
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    bent = (pixels - np.asarray(camera.principal_px)) / np.asarray(camera.focal_px)
    bent_radius = np.linalg.norm(bent, axis=-1)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        angles = np.linspace(0.0, min(np.arctan(largest_ideal_radius(camera)), _WIDEST_RAD), 2048)
        ideal_radii = np.tan(angles)
        on_axis = np.stack([ideal_radii, np.zeros_like(ideal_radii)], axis=-1)
        bent_radii = distort(_radial(camera), on_axis)[:, 0]
        ideal_radius = np.interp(bent_radius, bent_radii, ideal_radii)
        # A fisheye's picture grows with the angle from the axis, not with its tangent.
        straight = np.arctan(ideal_radius) if camera.distortion_model == "opencv_fisheye" else ideal_radius
        ideal = bent * (ideal_radius / np.maximum(bent_radius, 1e-12))[:, None]
        skew = np.linalg.norm(distort(camera, ideal) - bent, axis=-1)
        held = (bent_radius <= bent_radii[-1]) & (bent_radius <= _MOST_STRETCH * straight) & (skew <= _MOST_SKEW * bent_radius)
    if angles[-1] >= _CIRCLE_RAD:
        held = held[bent_radius <= bent_radii[-1]]
    return float(held.mean()) if held.size else 0.0


def _radial(camera: Camera) -> Camera:
    """The camera without the tangential part of its distortion."""
    if camera.distortion_model != "opencv":
        return camera
    k1, k2, _, _, k3 = camera.distortion
    return replace(camera, distortion=(k1, k2, 0.0, 0.0, k3))
