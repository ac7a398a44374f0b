"""Bodies of a world on a device: the static street and every rigid mover with its own small scene, and the hits of timed rays on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from splatmend.datasets.geometry import PoseTrack
from splatmend.datasets.street.casters import Backend, build_caster
from splatmend.datasets.street.mesh import PART_WIDTH, Mesh
from splatmend.datasets.street.rays import Rays

SKY_ID = 0
STATIC_ID = 1
FIRST_ACTOR_ID = 2


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Scalar products `[N]` of vectors `[N, 3]`; on the CPU several times faster than a sum over the short axis."""
    return a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2]


class Body:
    """A mesh in its own frame with a caster over it. Movers have a track, and rays are turned into their frame at each ray's moment."""

    def __init__(self, mesh: Mesh, track: PoseTrack | None, label: int, backend: Backend, device: torch.device) -> None:
        self.track, self.label = track, label
        self.caster = build_caster(mesh.vertices, mesh.triangles, backend, device)
        corners = mesh.vertices[mesh.triangles]
        flat = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)

        def floats(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).float().to(device)

        self.flat_normal = floats(flat)
        self.attributes = floats(np.concatenate([mesh.normals, mesh.texture], axis=1)[mesh.triangles].reshape(-1, 18))
        self.material = torch.from_numpy(mesh.material).to(device)
        self.part = torch.from_numpy(mesh.part).to(device)
        self.parts = floats(mesh.parts)
        low, high = mesh.bounds
        self.low, self.high = floats(low - 0.01), floats(high + 0.01)


@dataclass(frozen=True)
class BodyPoses:
    """A mover's world-from-body rotations `[M, 3, 3]` and translations `[M, 3]` at the moments of a batch of rays."""

    rotation: torch.Tensor
    translation: torch.Tensor

    @classmethod
    def at(cls, track: PoseTrack, moments_us: np.ndarray, device: torch.device) -> BodyPoses:
        poses = torch.from_numpy(track.at(moments_us)).float().to(device)
        return cls(poses[:, :3, :3].contiguous(), poses[:, :3, 3].contiguous())

    def into_body(self, points: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        return self.rotate_back(points - self._pick(self.translation, moment), moment)

    def rotate_back(self, vectors: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        """World vectors in the body's frame."""
        if len(self.rotation) == 1:
            return vectors @ self.rotation[0]
        return (vectors[:, None, :] @ self.rotation[moment])[:, 0]

    def rotate(self, vectors: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        if len(self.rotation) == 1:
            return vectors @ self.rotation[0].T
        return (self.rotation[moment] @ vectors[:, :, None])[:, :, 0]

    def _pick(self, values: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        return values[0] if len(values) == 1 else values[moment]


@dataclass(frozen=True, kw_only=True)
class Hits:
    """For N rays: `distance [N]` (infinite: sky), `body [N]` index into the traced bodies (-1: sky), `triangle [N]`,
    `barycentric [N, 2]`."""

    distance: torch.Tensor
    body: torch.Tensor
    triangle: torch.Tensor
    barycentric: torch.Tensor


class Bodies:
    """The bodies that one batch of rays can meet, posed at the batch's moments."""

    def __init__(self, bodies: Sequence[Body], moments_us: np.ndarray, device: torch.device) -> None:
        self.bodies, self.device = list(bodies), device
        self.poses = [None if body.track is None else BodyPoses.at(body.track, moments_us, device) for body in self.bodies]

    def trace(self, rays: Rays) -> Hits:
        count = len(rays.origins)
        distance = torch.full((count,), float("inf"), device=self.device)
        owner = torch.full((count,), -1, dtype=torch.int64, device=self.device)
        triangle, weights = torch.full_like(owner, -1), torch.zeros((count, 2), device=self.device)
        for index, (body, poses) in enumerate(zip(self.bodies, self.poses)):
            chosen, origins, directions = _candidates(body, poses, rays.origins, rays.directions, rays.moment, distance)
            if len(origins) == 0:
                continue
            found = body.caster.cast(origins, directions)
            if chosen is None:
                distance, triangle, weights = found.distance, found.triangle, found.barycentric
                owner = torch.where(found.triangle >= 0, index, -1)
                continue
            closer = found.distance < distance[chosen]
            rows = chosen[closer]
            distance[rows], triangle[rows] = found.distance[closer], found.triangle[closer]
            weights[rows], owner[rows] = found.barycentric[closer], index
        return Hits(distance=distance, body=owner, triangle=triangle, barycentric=weights)

    def occluded(self, origins: torch.Tensor, directions: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
        """Whether any body lies on each ray `[N]`."""
        reach = torch.full((len(origins),), float("inf"), device=self.device)
        blocked = torch.zeros(len(origins), dtype=torch.bool, device=self.device)
        for body, poses in zip(self.bodies, self.poses):
            chosen, o, d = _candidates(body, poses, origins, directions, moment, reach)
            if len(o) == 0:
                continue
            if chosen is None:
                blocked |= body.caster.occluded(o, d)
            else:
                blocked[chosen] |= body.caster.occluded(o, d)
        return blocked

    def labels(self, hits: Hits) -> torch.Tensor:
        """`[N]` int32: 0 sky, 1 static street, from 2 on the movers."""
        table = torch.tensor([*(body.label for body in self.bodies), SKY_ID], dtype=torch.int32, device=self.device)
        return table[hits.body]


def _candidates(
    body: Body, poses: BodyPoses | None, origins: torch.Tensor, directions: torch.Tensor, moment: torch.Tensor, reach: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Rays in the body's frame that meet its box before `reach [N]`, and which they are (None: all of them, for the static street)."""
    if poses is None:
        return None, origins, directions
    # A sphere around the box throws most rays out before they are turned.
    centre = poses._pick(poses.translation, moment)
    radius = float(torch.linalg.norm(torch.maximum(body.low.abs(), body.high.abs())))
    offset = centre - origins
    along = dot(offset, directions)
    apart = dot(offset, offset) - along * along
    chosen = ((apart < radius * radius) & (along > -radius) & (along - radius < reach)).nonzero()[:, 0]
    if len(chosen) == 0:
        return chosen, origins[:0], directions[:0]
    rows = moment[chosen]
    o, d = poses.into_body(origins[chosen], rows), poses.rotate_back(directions[chosen], rows)
    safe = torch.where(d.abs() < 1e-9, torch.full_like(d, 1e-9), d)
    a, b = (body.low - o) / safe, (body.high - o) / safe
    near, far = torch.minimum(a, b).amax(1), torch.maximum(a, b).amin(1)
    meets = (near <= far) & (far > 0)
    return chosen[meets], o[meets].contiguous(), d[meets].contiguous()


@dataclass(frozen=True, kw_only=True)
class HitPoints:
    """What is known of N hits of rays `ray [N]`: position, unit normals towards the viewer (flat, and interpolated), texture coordinates
    `[N, 3]`, `material [N]` and `part [N, 20]`."""

    ray: torch.Tensor
    position: torch.Tensor
    flat_normal: torch.Tensor
    normal: torch.Tensor
    texture: torch.Tensor
    material: torch.Tensor
    part: torch.Tensor


def hit_points(bodies: Bodies, rays: Rays, hits: Hits) -> HitPoints:
    """Interpolated attributes of all rays that hit something, body by body."""
    columns: list[tuple[torch.Tensor, ...]] = []
    for index, (body, poses) in enumerate(zip(bodies.bodies, bodies.poses)):
        ray = (hits.body == index).nonzero()[:, 0]
        if len(ray) == 0:
            continue
        triangle, weights = hits.triangle[ray], hits.barycentric[ray]
        corner = body.attributes[triangle].view(-1, 3, 6)
        first = 1 - weights.sum(1, keepdim=True)
        mixed = first * corner[:, 0] + weights[:, :1] * corner[:, 1] + weights[:, 1:] * corner[:, 2]
        flat, normal = body.flat_normal[triangle], torch.nn.functional.normalize(mixed[:, :3], dim=1)
        if poses is not None:
            flat, normal = poses.rotate(flat, rays.moment[ray]), poses.rotate(normal, rays.moment[ray])
        d = rays.directions[ray]
        flat = torch.where(dot(flat, d)[:, None] > 0, -flat, flat)
        normal = torch.where(dot(normal, flat)[:, None] < 0, -normal, normal)
        position = rays.origins[ray] + d * hits.distance[ray, None]
        columns.append((ray, position, flat, normal, mixed[:, 3:], body.material[triangle], body.parts[body.part[triangle]]))
    if not columns:
        empty = torch.zeros((0, 3), device=bodies.device)
        nothing = torch.zeros(0, dtype=torch.int64, device=bodies.device)
        return HitPoints(
            ray=nothing,
            position=empty,
            flat_normal=empty,
            normal=empty,
            texture=empty,
            material=nothing,
            part=torch.zeros((0, PART_WIDTH), device=bodies.device),
        )
    ray, position, flat, normal, texture, material, part = (torch.cat(column) for column in zip(*columns))
    return HitPoints(ray=ray, position=position, flat_normal=flat, normal=normal, texture=texture, material=material, part=part)
