"""Points to begin with for a moving body that LiDAR does not say enough of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.log import ActorTrack, CameraFrame
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.points import ColouredPoints
from splatmend.recon.fit.shown import nearest_view
from splatmend.recon.fit.usable_pixels import usable_pixels

COUNT = 400
"""Points of a body: 30 cm from one to the next on a car's box, 13 on a person's."""
_WITHIN = 0.9
"""A body's sides over those of its box, which is drawn around it with some room."""


def box_points(
    actor: ActorTrack, frames: Sequence[CameraFrame], shots: Sequence[Shot], count: int, generator: np.random.Generator
) -> ColouredPoints | None:
    """Points all over the sides of a body's box, in its frame, with the colours that the picture shows there which sees it from nearest;
    those that it does not show have the mean of the others'. None where no picture shows the body. `shots` are those of the frames."""
    number = nearest_view(actor, shots)
    if number is None:
        return None
    xyz = _on_sides(_WITHIN * np.asarray(actor.size_m), count, generator)
    frame, shot = frames[number], shots[number]
    camera_from_actor = inverse(shot.world_from_camera) @ actor.world_from_actor(shot.mid_us)
    pixels, inside = project(shot.camera, transform(camera_from_actor, xyz))
    columns, rows = np.where(inside[:, None], pixels, 0.0).astype(np.int64).T
    usable = usable_pixels(frame, shot.camera)
    if usable is not None:
        inside &= usable[rows, columns]
    if not inside.any():
        return None
    rgb = frame.read_image()[rows, columns] / 255.0
    return ColouredPoints(xyz=xyz, rgb=np.where(inside[:, None], rgb, rgb[inside].mean(axis=0)))


def _on_sides(size_m: Float[np.ndarray, "3"], count: int, generator: np.random.Generator) -> Float[np.ndarray, "N 3"]:
    """Places on the six sides of a box around its centre, as many for each square metre."""
    xyz = generator.uniform(-0.5, 0.5, (count, 3)) * size_m
    area_m2 = np.prod(size_m) / size_m
    axis = generator.choice(3, count, p=area_m2 / area_m2.sum())
    xyz[np.arange(count), axis] = generator.choice([-0.5, 0.5], count) * size_m[axis]
    return xyz
