"""What lights a scene: a sun far away and an environment around it.

Units are those of the scene's pictures without exposure, made linear: a matt white surface that faces the sun alone shows `sun`, and the
environment shows what a camera would see there. So light, surfaces and pictures need no photometric scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from splatmend.recon.harmonics import basis, quadratic_forms
from splatmend.recon.sky import look_up, rotation_to_z
from splatmend.recon.transfer import upload, upload_together

_COSINE_LOBE = (1.0, *(2 / 3,) * 3, *(1 / 4,) * 5)
"""Factors of the first three orders of harmonics under the clamped cosine, divided by pi (Ramamoorthi and Hanrahan 2001)."""
_ROUGHNESS_LEVELS = (0.05, 0.15, 0.3, 0.5, 0.75, 1.0)
_LEVEL_ROWS = 16
GROUND_ALBEDO = 0.15
"""Albedo that streets are taken to have, which sets the scale of what is estimated: new asphalt has about 0.05 to 0.10, worn 0.10 to 0.18,
concrete 0.20 to 0.35 (Levinson and Akbari 2002, Cement and Concrete Research 32)."""


@dataclass(frozen=True, kw_only=True)
class SceneLight:
    """A sun and an environment.

    `to_sun_world` is a unit vector; `sun` the radiance, linear RGB, of a white matt surface that faces it with nothing between; zero where
    the sky is covered. `environment [E, 2E, 3]` is the linear radiance from all directions, without the sun's disc, in the
    layout of `SkyMap` (row 0 at the zenith, column 0 at azimuth -180 degrees, counter-clockwise seen from above), its lower half what the
    ground gives back; `environment_from_world [3, 3]` turns directions into it. `made_by` says in a few words where it comes from,
    `recorded` whether it is the light that the scene's pictures were taken in; where it was made of that by moving the sun,
    `moved_from_deg` says where that stood (azimuth, elevation).
    """

    to_sun_world: tuple[float, float, float]
    sun: tuple[float, float, float]
    environment: Float[Tensor, "E E2 3"]
    environment_from_world: np.ndarray
    made_by: str
    recorded: bool = True
    moved_from_deg: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not math.isclose(float(np.linalg.norm(self.to_sun_world)), 1.0, rel_tol=1e-4):
            raise ValueError(f"the direction to the sun must be a unit vector, not {self.to_sun_world}")
        if self.environment.ndim != 3 or self.environment.shape[1] != 2 * self.environment.shape[0]:
            raise ValueError(f"the environment must be [E, 2E, 3], not {list(self.environment.shape)}")

    @property
    def device(self) -> torch.device:
        return self.environment.device

    @property
    def up_world(self) -> np.ndarray:
        """The direction away from the ground."""
        return self.environment_from_world[2]

    @property
    def sun_elevation_deg(self) -> float:
        """Height of the sun above the horizon."""
        return math.degrees(math.asin(float(np.clip(np.dot(self.to_sun_world, self.up_world), -1, 1))))

    @property
    def sun_azimuth_deg(self) -> float:
        """Direction of the sun in the plane, counter-clockwise from the world's x axis (laid into that plane), in -180 to 180."""
        flat = rotation_to_z(self.up_world) @ np.asarray(self.to_sun_world)
        return math.degrees(math.atan2(flat[1], flat[0]))

    def to(self, device: str | torch.device) -> SceneLight:
        """The same light on another device."""
        return self if torch.device(device) == self.device else replace(self, environment=self.environment.to(device))

    def with_sun(self, azimuth_deg: float, elevation_deg: float) -> SceneLight:
        """The light with the sun at another place (angles as `sun_azimuth_deg`, `sun_elevation_deg`): the environment turns about the
        vertical along with it, so that the bright side of the sky stays behind the sun, and a lower sun is dimmer and redder by its way
        through clear air (`passed_by_air`)."""
        flat = np.radians([azimuth_deg, elevation_deg])
        up_from_world = rotation_to_z(self.up_world)
        direction = [np.cos(flat[1]) * np.cos(flat[0]), np.cos(flat[1]) * np.sin(flat[0]), np.sin(flat[1])]
        turn = Rotation.from_euler("z", azimuth_deg - self.sun_azimuth_deg, degrees=True).as_matrix()
        # A direction is looked up where it was before the turn; the environment's own z is up.
        world_turn = up_from_world.T @ turn @ up_from_world
        change = passed_by_air(elevation_deg) / passed_by_air(self.sun_elevation_deg)
        return replace(
            self,
            to_sun_world=_three(up_from_world.T @ np.asarray(direction)),
            sun=_three(np.asarray(self.sun) * change),
            environment_from_world=self.environment_from_world @ world_turn.T,
            made_by=f"{self.made_by}, sun moved",
            recorded=False,
            moved_from_deg=(self.sun_azimuth_deg, self.sun_elevation_deg) if self.recorded else self.moved_from_deg,
        )

    def as_recorded(self) -> SceneLight | None:
        """The light of the recording, where this is it or was made of it by moving the sun."""
        if self.recorded or self.moved_from_deg is None:
            return self if self.recorded else None
        return replace(self.with_sun(*self.moved_from_deg), made_by=f"{self.made_by} back", recorded=True, moved_from_deg=None)

    @property
    def to_sun(self) -> Float[Tensor, "3"]:
        """`to_sun_world` where the environment is."""
        return self._uploaded[0]

    @property
    def sun_rgb(self) -> Float[Tensor, "3"]:
        """`sun` where the environment is."""
        return self._uploaded[1]

    def towards(self, other: SceneLight, share: float) -> SceneLight:
        """The light some of the way to another one that differs from it in the environment alone, and not in its size."""
        mixed = replace(self, environment=torch.lerp(self.environment, other.environment, share))
        # Integrals over the environment are linear in it, so they are mixed as well, not made anew.
        vars(mixed).update(
            _uploaded=self._uploaded,
            _ambient_forms=torch.lerp(self._ambient_forms, other._ambient_forms, share),
            _blurred=tuple(torch.lerp(a, b, share) for a, b in zip(self._blurred, other._blurred, strict=True)),
        )
        return mixed

    def ambient(self, normals_world: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Radiance of white matt surfaces under the environment alone, nothing in its way; unit normals."""
        vectors = torch.nn.functional.pad(normals_world @ self._uploaded[2], (0, 1), value=1.0)
        return ((vectors @ self._ambient_forms).unflatten(1, (3, 4)) * vectors[:, None]).sum(dim=-1).clamp_min(0.0)

    def diffuse(
        self,
        normals_world: Float[Tensor, "N 3"],
        sun_seen: Float[Tensor, "N"] | None = None,
        sky_seen: Float[Tensor, "N"] | None = None,
    ) -> Float[Tensor, "N 3"]:
        """Radiance of white matt surfaces under sun and environment; `sun_seen` is the share of the sun's light that nothing keeps off,
        `sky_seen` that of the environment's, both 1 where they are not given."""
        facing = (normals_world @ self.to_sun).clamp_min(0.0)
        facing = facing if sun_seen is None else facing * sun_seen
        ambient = self.ambient(normals_world)
        if sky_seen is not None:
            ambient = ambient * sky_seen[:, None]
        return facing[:, None] * self.sun_rgb + ambient

    def environment_at(self, directions_world: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
        """Radiance of the environment along unit directions."""
        return look_up(self.environment, directions_world @ self._uploaded[2])

    def mirrored(self, directions_world: Float[Tensor, "N 3"], roughness: Float[Tensor, "N"]) -> Float[Tensor, "N 3"]:
        """What the environment, without the sun, shows along unit directions, blurred as surfaces of that roughness blur it."""
        turned = directions_world @ self._uploaded[2]
        levels = torch.cat([look_up(some, turned) for some in self._blurred], dim=1).unflatten(1, (len(_ROUGHNESS_LEVELS), 3))
        steps = self._uploaded[3]
        above = torch.searchsorted(steps, roughness.contiguous()).clamp(1, len(steps) - 1)
        share = ((roughness - steps[above - 1]) / (steps[above] - steps[above - 1])).clamp(0, 1)[:, None]
        rows = torch.arange(len(roughness), device=roughness.device)
        return levels[rows, above - 1] * (1 - share) + levels[rows, above] * share

    @cached_property
    def _uploaded(self) -> tuple[Tensor, ...]:
        """Direction to the sun `[3]`, its radiance `[3]`, what turns directions into the environment `[3, 3]` (they are rows), and the
        roughness of each blurred level `[6]`, by one copy."""
        host = (self.to_sun_world, self.sun, self.environment_from_world.T, _ROUGHNESS_LEVELS)
        return tuple(upload_together([np.asarray(values) for values in host], self.device))

    @cached_property
    def _ambient_forms(self) -> Float[Tensor, "4 12"]:
        """Quadratic forms, a 4x4 matrix for each channel side by side, of what a white surface gives back by its normal: sums of harmonics,
        which one by one would be many small steps."""
        directions, solid = environment_directions(self.environment.shape[0], self.device)
        values = basis(directions, 2) * self.environment.new_tensor(_COSINE_LOBE)
        harmonics = (values * solid[:, None]).T @ self.environment.reshape(-1, 3)
        forms = harmonics.T @ upload(quadratic_forms().reshape(9, 16), self.device)
        return forms.view(3, 4, 4).transpose(0, 1).reshape(4, 12)

    @cached_property
    def _blurred(self) -> tuple[Float[Tensor, "E E2 C"], ...]:
        """The environment under lobes of growing width, the three channels of one after those of the other; those of one size together."""
        rows = min(_LEVEL_ROWS, self.environment.shape[0])
        small = torch.nn.functional.interpolate(self.environment.permute(2, 0, 1)[None], (rows, 2 * rows), mode="area")[0].permute(1, 2, 0)
        directions, solid = environment_directions(rows, self.device)
        cosines = (directions @ directions.T).clamp(-1, 1)
        levels = []
        for roughness in _ROUGHNESS_LEVELS:
            # A lobe of directions about the mirrored one, as wide as that of halfway vectors with GGX's alpha = roughness^2 is about.
            sharpness = 1 / (2 * max(roughness, 0.1) ** 4) / 4
            weights = torch.exp(sharpness * (cosines - 1)) * solid
            blurred = (weights @ small.reshape(-1, 3)) / weights.sum(dim=1, keepdim=True)
            levels.append(blurred.view(rows, 2 * rows, 3))
        if self.environment.shape[0] > rows:
            return self.environment, torch.cat(levels[1:], dim=-1)
        return (torch.cat(levels, dim=-1),)


def environment_directions(rows: int, device: str | torch.device = "cpu") -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P"]]:
    """Unit directions of the pixels of an environment of `rows` rows, row by row, in its own frame, and their solid angles (steradians)."""
    elevation = (0.5 - (torch.arange(rows, device=device) + 0.5) / rows) * math.pi
    azimuth = ((torch.arange(2 * rows, device=device) + 0.5) / (2 * rows) - 0.5) * 2 * math.pi
    up, around = (grid.reshape(-1) for grid in torch.meshgrid(elevation, azimuth, indexing="ij"))
    directions = torch.stack([up.cos() * around.cos(), up.cos() * around.sin(), up.sin()], dim=1)
    edges = (0.5 - torch.arange(rows + 1, device=device) / rows) * math.pi
    bands = edges[:-1].sin() - edges[1:].sin()
    return directions, (bands * math.pi / rows).repeat_interleave(2 * rows)


def passed_by_air(elevation_deg: float) -> np.ndarray:
    """Share of the sun's red, green and blue that clear air lets through at a height above the horizon: optical depths 0.06, 0.13 and
    0.28 at the zenith times the air mass of Kasten and Young (1989)."""
    height = max(float(elevation_deg), 0.0)
    mass = 1 / (math.sin(math.radians(height)) + 0.50572 * (height + 6.07995) ** -1.6364)
    return np.exp(-np.array([0.06, 0.13, 0.28]) * mass)


def _three(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
