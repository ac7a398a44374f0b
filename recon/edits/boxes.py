"""Bodies' boxes that meet: the separating axis theorem on oriented boxes, for many moments at once."""

from __future__ import annotations

import numpy as np


def boxes_meet(world_from_a: np.ndarray, size_a: np.ndarray, world_from_b: np.ndarray, size_b: np.ndarray) -> np.ndarray:
    """Whether `[T]` pairs of boxes overlap; poses `[T, 4, 4]` of their centres, sizes `[3]`.

    Gottschalk, Lin and Manocha 1996, "OBBTree", section 5: two boxes are apart where one of 15 axes parts them.
    """
    a, b = world_from_a[:, :3, :3], world_from_b[:, :3, :3]
    between = world_from_b[:, :3, 3] - world_from_a[:, :3, 3]
    crossed = np.cross(a.transpose(0, 2, 1)[:, :, None], b.transpose(0, 2, 1)[:, None, :]).reshape(len(a), 9, 3)
    axes = np.concatenate([a.transpose(0, 2, 1), b.transpose(0, 2, 1), crossed], axis=1)
    reach = np.abs(axes @ a) @ (0.5 * np.asarray(size_a)) + np.abs(axes @ b) @ (0.5 * np.asarray(size_b))
    apart = np.abs(np.einsum("tki,ti->tk", axes, between)) > reach
    # Axes of parallel edges vanish and part nothing.
    apart &= np.linalg.norm(axes, axis=2) > 1e-6
    return ~apart.any(axis=1)
