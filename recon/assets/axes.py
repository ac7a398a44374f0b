"""Which way a body of another program's file is up and looks, and how long it is: as asked for, as its format says, or guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.spatial import cKDTree

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import ActorClass

Axis = Literal["auto", "+x", "-x", "+y", "-y", "+z", "-z"]
_USUAL_LENGTH_M = {"vehicle": 4.5, "pedestrian": 0.6, "cyclist": 1.8, "sign": 1.0, "other": 1.0}
_SANE_LENGTH_M = {"vehicle": (1.5, 25.0), "pedestrian": (0.2, 1.5), "cyclist": (0.8, 3.0), "sign": (0.02, 12.0), "other": (0.02, 40.0)}
"""Lengths that are believed of files whose unit is said to be the metre."""
_UNITLESS_LENGTH_M = {"vehicle": (3.0, 6.5), **{name: span for name, span in _SANE_LENGTH_M.items() if name != "vehicle"}}
"""Lengths that are believed of files that say no unit."""
_SURE = 1.3
"""Ratio of two measures of shape beyond which the guess goes by it."""


@dataclass(frozen=True, kw_only=True)
class Placing:
    """How a file's coordinates become those of an asset: `body = rotation @ (file - centre) * scale`. `said` maps up, forward and length to
    where each comes from ("asked", "format", "guessed")."""

    rotation: np.ndarray
    centre: np.ndarray
    scale: float
    size_m: tuple[float, float, float]
    up: str
    forward: str
    said: dict[str, str]
    notes: tuple[str, ...]

    def points(self, xyz: np.ndarray) -> np.ndarray:
        """Places `[N, 3]` of the file in the frame of the body, metres."""
        return (xyz - self.centre) @ self.rotation.T * self.scale

    def facts(self) -> dict[str, Any]:
        """For the asset's facts."""
        return {"up": self.up, "forward": self.forward, "scale": self.scale, "placed_by": dict(self.said)}


def place_body(
    points: np.ndarray, actor_class: ActorClass, *, gltf: bool, up: Axis, forward: Axis, length_m: float | None, where: str
) -> Placing:
    """Placing of a body whose surface has `points [N, 3]`, so that it stands in its box with x forward, y left, z up.

    `length_m` is its longest horizontal side. What is "auto" or None comes from glTF's conventions, else from the shape: the longest side
    of a vehicle is its length, the two halves that are alike are its left and right, it is narrower at the top, and its roof lies behind
    its middle; people are longest upwards.

    Raises:
        UserError: where `up` and `forward` lie on one line, or the points have no extent.
    """
    said, notes = {"up": "asked", "forward": "asked", "length": "asked"}, []
    if up != "auto" and forward != "auto" and up[1] == forward[1]:
        raise UserError(f"{where}: up {up} and forward {forward} lie on one line; choose two different axes.")
    extent = np.ptp(points, axis=0)
    if not extent.max() > 0:
        raise UserError(f"{where}: all its points lie in one place; export it again.")
    if gltf:
        if up == "auto" and forward in ("auto", "+z", "-z", "+x", "-x"):
            up, said["up"] = "+y", "format"
        if forward == "auto" and up in ("+y", "-y"):
            forward, said["forward"] = "+z", "format"
    if up == "auto":
        up, said["up"] = _guessed_up(points, actor_class, forward), "guessed"
    if forward == "auto":
        forward, said["forward"] = _guessed_forward(points, up, actor_class), "guessed"
    if guessed := [name for name in ("up", "forward") if said[name] == "guessed"]:
        axes = ", ".join(f"{name} {up if name == 'up' else forward}" for name in guessed)
        notes.append(f"axes were guessed from the shape: {axes}; give --{' and --'.join(guessed)} where that is wrong")
    z, x = _vector(up), _vector(forward)
    rotation = np.stack([x, np.cross(z, x), z])
    turned = points @ rotation.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    sides = high - low
    longest = float(max(sides[:2]))
    if not longest > 0:
        raise UserError(f"{where}: it has no extent but upwards ({up}); choose another --up.")
    scale = 1.0
    if length_m is not None:
        scale = length_m / longest
    else:
        least, most = (_SANE_LENGTH_M if gltf else _UNITLESS_LENGTH_M)[actor_class]
        said["length"] = "format" if gltf else "guessed"
        if not least <= longest <= most:
            scale, said["length"] = _USUAL_LENGTH_M[actor_class] / longest, "guessed"
            notes.append(f"its length of {longest:.3g} was set to {_USUAL_LENGTH_M[actor_class]} m; give --length-m where that is wrong")
        elif not gltf:
            notes.append(f"its unit was taken to be the metre (length {longest:.2f} m); give --length-m where that is wrong")
    return Placing(
        rotation=rotation,
        centre=rotation.T @ (0.5 * (low + high)),
        scale=scale,
        size_m=(float(sides[0] * scale), float(sides[1] * scale), float(sides[2] * scale)),
        up=up,
        forward=forward,
        said=said,
        notes=tuple(notes),
    )


def _vector(axis: str) -> np.ndarray:
    out = np.zeros(3)
    out["xyz".index(axis[1])] = 1.0 if axis[0] == "+" else -1.0
    return out


def _guessed_up(points: np.ndarray, actor_class: ActorClass, forward: str) -> Axis:
    extent = np.ptp(points, axis=0)
    order = np.argsort(extent)
    if actor_class in ("pedestrian", "sign"):
        axis = next(int(i) for i in order[::-1] if forward == "auto" or "xyz"[i] != forward[1])
    else:
        length = int(order[-1]) if forward == "auto" else "xyz".index(forward[1])
        one, other = (i for i in range(3) if i != length)
        unlike_one, unlike_other = _unlikeness(points, one), _unlikeness(points, other)
        if max(unlike_one, unlike_other) > _SURE * min(unlike_one, unlike_other):
            axis = one if unlike_one > unlike_other else other
        else:
            axis = one if extent[one] < extent[other] else other
    # Bodies are wider at their feet than at their heads.
    along = points[:, axis]
    low, high = np.quantile(along, [0.0, 1.0])
    step = 0.25 * (high - low)
    beside = [i for i in range(3) if i != axis]
    foot, head = (_footprint(points[which][:, beside]) for which in (along < low + step, along > high - step))
    return _axis(axis, foot >= head)


def _guessed_forward(points: np.ndarray, up: str, actor_class: ActorClass) -> Axis:
    vertical = "xyz".index(up[1])
    across = [i for i in range(3) if i != vertical]
    extent = np.ptp(points, axis=0)
    # People are wider than deep, everything else is longer than wide.
    axis = (min if actor_class in ("pedestrian", "sign") else max)(across, key=lambda i: extent[i])
    height = points[:, vertical] * (1.0 if up[0] == "+" else -1.0)
    head = points[height > height.min() + 0.75 * np.ptp(height)]
    middle = 0.5 * (points[:, axis].min() + points[:, axis].max())
    lean = float(head[:, axis].mean() - middle) if len(head) else 0.0
    return _axis(axis, lean <= 0.01 * extent[axis])


def _footprint(points: np.ndarray) -> float:
    if len(points) < 2:
        return 0.0
    low, high = np.quantile(points, [0.02, 0.98], axis=0)
    return float(np.prod(np.maximum(high - low, 1e-9)))


def _unlikeness(points: np.ndarray, axis: int, most: int = 3000) -> float:
    """Mean distance of points from their mirror images across the middle of an axis, over the largest extent."""
    some = points[np.linspace(0, len(points) - 1, min(len(points), most)).astype(np.int64)]
    mirror = some.copy()
    mirror[:, axis] = points[:, axis].min() + points[:, axis].max() - mirror[:, axis]
    return float(cKDTree(some).query(mirror)[0].mean() / np.ptp(points, axis=0).max())


def _axis(index: int, positive: bool) -> Axis:
    names: tuple[Axis, ...] = ("+x", "+y", "+z", "-x", "-y", "-z")
    return names[index + (0 if positive else 3)]
