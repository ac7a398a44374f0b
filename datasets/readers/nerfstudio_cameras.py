"""Cameras of a `transforms.json`: intrinsics for the whole file or for a frame, scaled to the pictures that are there."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import Camera, DistortionModel

_KEYS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "k1", "k2", "k3", "k4", "p1", "p2")
_PINHOLE = ("PINHOLE", "SIMPLE_PINHOLE")
_RADIAL = ("SIMPLE_RADIAL", "RADIAL", "OPENCV")
_FISHEYE = ("OPENCV_FISHEYE",)
ASPECT_TOLERANCE = 0.02  # pictures scaled by a whole number round their sides


def intrinsics_entry(content: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The intrinsics that hold for one frame: the file's, overridden by the frame's own. Missing ones are missing; types are as
    `intrinsics_fault` wants them."""
    merged = {key: source[key] for source in (content, entry) for key in (*_KEYS, "camera_model") if key in source}
    if content.get("is_fisheye") and "camera_model" not in merged:
        merged["camera_model"] = "OPENCV_FISHEYE"
    return merged


def intrinsics_fault(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    """The first key of an entry (the file's or a frame's) whose value has the wrong type, and in words what it is; None if none has."""
    for key in _KEYS:
        if key in entry and not _is_finite_number(entry[key]):
            return key, f"{reprlib.repr(entry[key])}, not a finite number"
    if not isinstance(entry.get("camera_model", ""), str):
        return "camera_model", f"{reprlib.repr(entry['camera_model'])}, not a name"
    return None


def _is_finite_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def camera_from_entry(file: Path, name: str, intrinsics: Mapping[str, Any], width: int, height: int) -> Camera:
    """The camera, with its intrinsics scaled from the size in the file to the picture's `width` x `height`."""
    values = {key: float(intrinsics[key]) for key in _KEYS if key in intrinsics}
    file_width, file_height = values.get("w", float(width)), values.get("h", float(height))
    if min(file_width, file_height) <= 0 or abs(width / file_width / (height / file_height) - 1) > ASPECT_TOLERANCE:
        raise UserError(
            f"{file}: {name} is calibrated for {file_width:g}x{file_height:g} pixels but its pictures have {width}x{height}, which is no "
            "scaled copy; give the pictures or the calibration that belong together."
        )
    focal_px = _focal(file, name, values, file_width, file_height)
    model, distortion = _distortion(file, name, intrinsics.get("camera_model", "OPENCV"), values)
    # COLMAP's convention puts the principal point of a centred picture at half its size.
    principal_px = (values.get("cx", file_width / 2), values.get("cy", file_height / 2))
    scale = (width / file_width, height / file_height)
    camera = Camera(
        name=name,
        width=width,
        height=height,
        focal_px=(focal_px[0] * scale[0], focal_px[1] * scale[1]),
        principal_px=(principal_px[0] * scale[0], principal_px[1] * scale[1]),
        distortion_model=model,
        distortion=distortion,
    )
    if fault := camera.fault():
        raise UserError(f"{file}: {name} has {fault}; correct the calibration.")
    return camera


def _focal(file: Path, name: str, values: Mapping[str, float], width: float, height: float) -> tuple[float, float]:
    if "fl_x" in values:
        return values["fl_x"], values.get("fl_y", values["fl_x"])
    if "camera_angle_x" in values and 0 < values["camera_angle_x"] < np.pi:
        focal_x = 0.5 * width / float(np.tan(0.5 * values["camera_angle_x"]))
        if 0 < values.get("camera_angle_y", 0.0) < np.pi:
            return focal_x, 0.5 * height / float(np.tan(0.5 * values["camera_angle_y"]))
        return focal_x, focal_x
    raise UserError(f"{file}: {name} has neither fl_x nor camera_angle_x; add its focal length in pixels.")


def _distortion(file: Path, name: str, model: str, values: Mapping[str, float]) -> tuple[DistortionModel, tuple[float, ...]]:
    """Model and coefficients in `Camera`'s order. A coefficient that is not given is zero, as in nerfstudio."""

    def given(*keys: str) -> tuple[float, ...]:
        return tuple(values.get(key, 0.0) for key in keys)

    if model in _FISHEYE:
        return "opencv_fisheye", given("k1", "k2", "k3", "k4")
    if model in _PINHOLE:
        return "none", ()
    if model in _RADIAL:
        if values.get("k4", 0.0):
            raise UserError(f"{file}: {name} has k4, which the camera model {model} does not know; calibrate with OPENCV.")
        coefficients = given("k1", "k2", "p1", "p2", "k3")
        return ("opencv", coefficients) if any(coefficients) else ("none", ())
    known = ", ".join((*_PINHOLE, *_RADIAL, *_FISHEYE))
    raise UserError(f"{file}: {name} has the camera model {model}, which is not known ({known}); undistort the pictures first.")
