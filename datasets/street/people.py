"""People on foot: capsules for trunk and limbs, swinging as they walk (numpy)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.street.materials import Material
from splatmend.datasets.street.mesh import Mesh, icosphere, joined, mesh_of, part_row

STRIDE_M = 1.4
"""Way of two steps, after which the limbs are where they were."""
_LIMB_STEP_US = 20_000
_CLOTHES = np.array(
    [[0.55, 0.08, 0.06], [0.06, 0.16, 0.45], [0.62, 0.55, 0.40], [0.08, 0.30, 0.14], [0.70, 0.45, 0.05], [0.60, 0.62, 0.65],
     [0.05, 0.05, 0.06], [0.12, 0.13, 0.20]]
)  # fmt: skip
_SKIN = np.array([[0.62, 0.40, 0.29], [0.42, 0.24, 0.15], [0.20, 0.11, 0.07]])


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A body with joints: meshes in the frames of its limbs, with `body_from_limb` over time."""

    limbs: tuple[tuple[Mesh, PoseTrack], ...]

    def placed(self, world_from_body: PoseTrack) -> list[tuple[Mesh, PoseTrack]]:
        """Each limb with `world_from_limb`."""
        return [
            (mesh, PoseTrack(times_us=track.times_us, world_from_body=world_from_body.at(track.times_us) @ track.world_from_body))
            for mesh, track in self.limbs
        ]


def capsule(radius_m: float, length_m: float, colour: np.ndarray, seed: float, *, flat: float = 1.0) -> Mesh:
    """An upright capsule that hangs from its upper centre: the lower one is `length_m` below. `flat` scales it along x."""
    directions, triangles = icosphere(2)
    vertices = directions * radius_m
    vertices[directions[:, 2] <= 0, 2] -= length_m
    vertices[:, 0] *= flat
    return mesh_of(vertices, triangles, Material.PLAIN, part_row(colour, seed), vertices, directions)


def person(generator: np.random.Generator, times_us: np.ndarray, walked_m: np.ndarray) -> tuple[Figure, tuple[float, float, float]]:
    """A random person who has walked `walked_m [K]` metres at rising `times_us [K]`, around the middle of the box whose size (length,
    width, height) is given as well: x forward, y left, z up."""
    height = generator.uniform(1.6, 1.9)
    shirt, trousers = _CLOTHES[generator.permutation(len(_CLOTHES))[:2]]
    skin, seed = _SKIN[generator.integers(len(_SKIN))], generator.random()
    phase0 = generator.uniform(0, 2 * np.pi)
    swing, arm_swing = generator.uniform(0.42, 0.52), generator.uniform(0.4, 0.6)
    fine_us = np.arange(times_us[0], times_us[-1] + _LIMB_STEP_US, _LIMB_STEP_US)
    phase = 2 * np.pi * np.interp(fine_us - times_us[0], times_us - times_us[0], walked_m) / STRIDE_M + phase0
    hip, shoulder = 0.50 * height, 0.80 * height
    thigh, shin, arm = 0.245 * height, 0.20 * height, 0.30 * height
    ground = -0.5 * height

    def track(places: np.ndarray, pitch_rad: np.ndarray) -> PoseTrack:
        poses = np.tile(np.eye(4), (len(fine_us), 1, 1))
        poses[:, :3, :3] = Rotation.from_rotvec(pitch_rad[:, None] * [0.0, 1.0, 0.0]).as_matrix()
        poses[:, :3, 3] = places
        return PoseTrack(times_us=fine_us, world_from_body=poses)

    still = np.zeros(len(fine_us))
    trunk = capsule(0.16, shoulder - hip - 0.12, shirt, seed, flat=0.75).moved(_raised(ground + shoulder - 0.08))
    head = capsule(0.1, 0.06, skin, seed).moved(_raised(ground + height - 0.1))
    limbs = [(joined([trunk, head]), track(np.zeros((len(fine_us), 3)), still))]
    for side in (1.0, -1.0):
        turn = phase if side > 0 else phase + np.pi
        # A turn about y (left) that is positive takes what hangs backwards.
        thigh_rad = -swing * np.sin(turn) - 0.05
        shin_rad = thigh_rad + 0.12 + 0.8 * np.clip(np.cos(turn), 0, None) ** 2
        hips = np.tile([0.0, side * 0.1, ground + hip], (len(fine_us), 1))
        knees = hips + thigh * np.stack([-np.sin(thigh_rad), still, -np.cos(thigh_rad)], axis=1)
        shoe = capsule(0.05, 0.0, 0.4 * trousers, seed).moved(_raised(-shin, 0.05))
        limbs.append((capsule(0.085, thigh, trousers, seed), track(hips, thigh_rad)))
        limbs.append((joined([capsule(0.06, shin, trousers, seed), shoe]), track(knees, shin_rad)))
        hand = capsule(0.05, 0.04, skin, seed).moved(_raised(-arm))
        shoulders = np.tile([0.0, side * 0.21, ground + shoulder - 0.1], (len(fine_us), 1))
        limbs.append((joined([capsule(0.05, arm, shirt, seed), hand]), track(shoulders, arm_swing * np.sin(turn) - 0.1)))
    reach = np.max([np.abs(_corners(mesh) @ np.swapaxes(p.world_from_body[:, :3, :3], 1, 2) + p.world_from_body[:, None, :3, 3]).max((0, 1))
                    for mesh, p in limbs], axis=0)  # fmt: skip
    return Figure(limbs=tuple(limbs)), (float(2 * reach[0]), float(2 * reach[1]), float(height))


def _raised(up_m: float, forward_m: float = 0.0) -> np.ndarray:
    out = np.eye(4)
    out[:3, 3] = forward_m, 0.0, up_m
    return out


def _corners(mesh: Mesh) -> np.ndarray:
    low, high = mesh.bounds
    return np.stack(np.meshgrid(*zip(low, high)), axis=-1).reshape(-1, 3)
