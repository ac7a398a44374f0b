"""A built street: its drive, sensors and labels, and the oracle that answers what any camera would see, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from splatmend.datasets.geometry import WAYMO_FROM_OPENCV, PoseTrack, pose, yaw_pose
from splatmend.datasets.log import ActorTrack, Camera
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import lidar
from splatmend.datasets.street.bodies import FIRST_ACTOR_ID, STATIC_ID, Bodies, Body, hit_points
from splatmend.datasets.street.casters import Backend, best_backend
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.layout import Layout, lay_out
from splatmend.datasets.street.materials import Material
from splatmend.datasets.street.mesh import Mesh, mesh_of, part_row
from splatmend.datasets.street.noise import Noise
from splatmend.datasets.street.people import Figure
from splatmend.datasets.street.rays import shot_rays
from splatmend.datasets.street.shading import Light, camera_response, seen_lane_lines, shade
from splatmend.datasets.street.sky import Air, Sky, Sun, draw_air
from splatmend.datasets.street.skylight import SkyVisibility
from splatmend.datasets.street.traffic import EPOCH_US, draw_traffic

if TYPE_CHECKING:
    import trimesh

_CAMERA_YAW_RAD = {
    "FRONT": 0.0,
    "FRONT_LEFT": np.radians(45.0),
    "FRONT_RIGHT": np.radians(-45.0),
    "SIDE_LEFT": np.radians(90.0),
    "SIDE_RIGHT": np.radians(-90.0),
}
_CAMERA_PLACE_M = {
    "FRONT": (1.54, 0.0, 2.11),
    "FRONT_LEFT": (1.49, 0.10, 2.11),
    "FRONT_RIGHT": (1.49, -0.10, 2.11),
    "SIDE_LEFT": (1.43, 0.12, 2.11),
    "SIDE_RIGHT": (1.43, -0.12, 2.11),
}
_CAMERA_DELAY_US = {"SIDE_LEFT": 0, "FRONT_LEFT": 4_000, "FRONT": 10_000, "FRONT_RIGHT": 16_000, "SIDE_RIGHT": 20_000}


@dataclass(frozen=True, kw_only=True)
class OracleImage:
    """The truth behind a picture.

    `rgb` and `albedo` (linear) `[H, W, 3]` float32 and `shadow [H, W]` float32 (share of the sun kept off) are means over a pixel's rays;
    `depth_m [H, W]` float32 (camera z at the row's pose, infinite for sky), `ids [H, W]` int32 (0 sky, 1 static street, 2 + i the i-th of
    `Street.actors`, then `extra`) and `normals_world [H, W, 3]` float32 belong to the ray through its middle.
    """

    rgb: np.ndarray
    depth_m: np.ndarray
    ids: np.ndarray
    normals_world: np.ndarray
    albedo: np.ndarray
    shadow: np.ndarray


class Street:
    """Made by `build_street`. World origin: the road's middle below the vehicle's first position; `ego` is world from vehicle."""

    def __init__(self, config: StreetConfig, device: torch.device, backend: Backend) -> None:
        self.config, self.device, self.backend = config, device, backend
        self.layout: Layout = lay_out(config.seed, config.speed_m_s * config.duration_s)
        traffic = draw_traffic(config, self.layout)
        self.ego: PoseTrack = traffic.ego
        self.actors: tuple[ActorTrack, ...] = traffic.actors
        self.actor_meshes: tuple[Mesh | Figure, ...] = traffic.meshes
        self.sun: Sun
        self.air: Air
        self.sun, self.air = draw_air(config)
        self.cameras: dict[str, Camera] = {name: _camera(config, name) for name in config.cameras}
        self.vehicle_from_camera: dict[str, np.ndarray] = {
            name: pose(np.eye(3), np.array(_CAMERA_PLACE_M[name])) @ yaw_pose(_CAMERA_YAW_RAD[name], np.zeros(3)) @ WAYMO_FROM_OPENCV
            for name in config.cameras
        }
        self._static = Body(self.layout.static, None, STATIC_ID, backend, device)
        self._movers = [
            self._bodies(mesh, actor.track, FIRST_ACTOR_ID + index)
            for index, (mesh, actor) in enumerate(zip(traffic.meshes, traffic.actors))
        ]
        self._noise = Noise(config.seed, device)
        self._visibility = SkyVisibility(self._static.caster, self.layout.line, self.layout.start_m, self.layout.end_m)

    @property
    def log_id(self) -> str:
        """What its log is called."""
        return f"street-{self.config.seed}"

    @property
    def frame_times_us(self) -> np.ndarray:
        """When each frame's LiDAR turn begins, `[frames]` int64; labels are given at these times."""
        return EPOCH_US + self.config.period_us * np.arange(self.config.frame_count, dtype=np.int64)

    def actor_label(self, actor_id: str) -> int:
        """The actor's number in `OracleImage.ids`."""
        return FIRST_ACTOR_ID + [actor.actor_id for actor in self.actors].index(actor_id)

    def shot(self, camera: str, frame: int) -> Shot:
        """The recorded exposure of a camera in a frame."""
        calibration = self.cameras[camera]
        start_us = int(self.frame_times_us[frame]) + _CAMERA_DELAY_US[camera]
        end_us = start_us + calibration.readout_us
        start, end = self.ego.at(np.array([start_us, end_us])) @ self.vehicle_from_camera[camera]
        return Shot(camera=calibration, world_from_camera_start=start, world_from_camera_end=end, start_us=start_us, end_us=end_us)

    def recorded_exposure(self, camera: str, t_us: int) -> float:
        """The exposure, as a factor, with which the drive's cameras record at a time."""
        phase = list(_CAMERA_YAW_RAD).index(camera) * 2.1 if camera in _CAMERA_YAW_RAD else 0.0
        turn = 2 * np.pi * (t_us - EPOCH_US) * 1e-6 / max(self.config.duration_s, 1e-6)
        return float(2 ** (self.config.exposure_drift * np.sin(turn + phase)))

    def render(
        self,
        shot: Shot,
        *,
        sun: Sun | None = None,
        air: Air | None = None,
        exposure: float | None = None,
        without: Sequence[str] = (),
        extra: Sequence[tuple[trimesh.Trimesh | Mesh | Figure, PoseTrack]] = (),
        window: tuple[slice, slice] | None = None,
        supersample: int = 2,
    ) -> OracleImage:
        """What the shot would have recorded.

        Args:
            sun, air: another sun, and other weather and grading.
            exposure: another exposure, a factor; None: the drive's own.
            without: ids of actors that are left out.
            extra: bodies that are put in, meshes in their own frames with world-from-body tracks.
            window: the rows and columns that are asked for, of which the image then is; None: all.
            supersample: rays a pixel along each axis.
        """
        movers = self._present(without)
        for index, (mesh, track) in enumerate(extra):
            movers += self._bodies(mesh, track, FIRST_ACTOR_ID + len(self.actors) + index)
        light = Light(sky=Sky(sun or self.sun, air or self.air, self._noise, self.device), visibility=self._visibility, noise=self._noise)
        factor = self.recorded_exposure(shot.camera.name, shot.mid_us) if exposure is None else exposure
        wanted = np.arange(shot.camera.height * shot.camera.width).reshape(shot.camera.height, shot.camera.width)
        wanted = wanted if window is None else wanted[window]
        chosen = torch.from_numpy(wanted.reshape(-1)).to(self.device)
        (height, width), size, count = wanted.shape, wanted.size, supersample**2
        rgb, albedo = torch.zeros((size, 3), device=self.device), torch.zeros((size, 3), device=self.device)
        shadow = torch.zeros(size, device=self.device)
        middle, cosine = shot_rays(shot, (0.5, 0.5), self.device)
        middle, cosine = middle.at(chosen), cosine[chosen]
        bodies = Bodies([self._static, *movers], middle.moments_us, self.device)
        for index in range(count):
            row, column = divmod(index, supersample)
            offset = ((column + 0.5) / supersample, (row + 0.5) / supersample)
            rays, _ = shot_rays(shot, offset, self.device, 1.0 / supersample)
            jitter = (0.0, 0.0) if supersample == 1 else (2 * offset[1] - 1, 1 - 2 * offset[0])
            rays = rays.at(chosen)
            shaded = shade(bodies, rays, bodies.trace(rays), light, jitter)
            # Averaged after the response: a single highlight among a pixel's few rays would otherwise burn the whole pixel out and flicker.
            rgb += camera_response(shaded.radiance, light.sky, factor) / count
            albedo += shaded.albedo / count
            shadow += shaded.shadow / count
        hits = bodies.trace(middle)
        points = hit_points(bodies, middle, hits)
        normals = torch.zeros((size, 3), device=self.device)
        normals[points.ray] = points.normal
        return OracleImage(
            rgb=rgb.view(height, width, 3).cpu().numpy(),
            depth_m=(hits.distance * cosine).view(height, width).cpu().numpy(),
            ids=bodies.labels(hits).view(height, width).cpu().numpy(),
            normals_world=normals.view(height, width, 3).cpu().numpy(),
            albedo=albedo.view(height, width, 3).cpu().numpy(),
            shadow=shadow.view(height, width).cpu().numpy(),
        )

    def lane_lines(self, shot: Shot) -> np.ndarray:
        """Where a shot sees the lines along the road's lanes, `[H, W]` bool: pixels that they cover by a quarter or more, worn or not."""
        rays, _ = shot_rays(shot, (0.5, 0.5), self.device)
        bodies = Bodies([self._static, *self._present(())], rays.moments_us, self.device)
        hits = bodies.trace(rays)
        points = hit_points(bodies, rays, hits)
        covered = torch.zeros(shot.camera.height * shot.camera.width, device=self.device)
        covered[points.ray] = seen_lane_lines(points, rays, hits.distance[points.ray])
        return (covered >= 0.25).view(shot.camera.height, shot.camera.width).cpu().numpy()

    def lidar_turn(self, frame: int, without: Sequence[str] = ()) -> lidar.LidarTurn:
        """The LiDAR's turn of a frame as a range image."""
        start_us = int(self.frame_times_us[frame])
        bodies = Bodies([self._static, *self._present(without)], lidar.turn_times_us(self.config, start_us), self.device)
        return lidar.cast_turn(self.config, bodies, self.ego, start_us, self._noise)

    def _present(self, without: Sequence[str]) -> list[Body]:
        unknown = set(without) - {actor.actor_id for actor in self.actors}
        if unknown:
            raise KeyError(f"no actor called {', '.join(sorted(unknown))} in this street")
        return [body for bodies, actor in zip(self._movers, self.actors) if actor.actor_id not in without for body in bodies]

    def _bodies(self, mesh: trimesh.Trimesh | Mesh | Figure, track: PoseTrack, label: int) -> list[Body]:
        parts = mesh.placed(track) if isinstance(mesh, Figure) else [(_as_mesh(mesh), track)]
        return [Body(part, way, label, self.backend, self.device) for part, way in parts]


def build_street(config: StreetConfig, *, device: str | torch.device = "cpu", backend: Backend | None = None) -> Street:
    """Build the street that a configuration describes, on a torch device; `backend` chooses the ray caster (None: Embree on the CPU where
    Open3D is installed, else Numba's; torch elsewhere)."""
    where = torch.device(device)
    return Street(config, where, backend or best_backend(where))


def _camera(config: StreetConfig, name: str) -> Camera:
    focal = 0.5 * config.width / np.tan(np.radians(0.5 * config.field_of_view_deg))
    return Camera(
        name=name,
        width=config.width,
        height=config.height,
        focal_px=(float(focal), float(focal)),
        principal_px=(0.5 * config.width, 0.5 * config.height),
        shutter="top_to_bottom" if config.readout_us else "global",
        readout_us=config.readout_us,
    )


def _as_mesh(mesh: trimesh.Trimesh | Mesh) -> Mesh:
    """A mesh with materials as it is; another one with its vertices' colours (grey without any) as matt paint."""
    if isinstance(mesh, Mesh):
        return mesh
    visual: Any = mesh.visual
    if visual.kind == "texture":
        visual = visual.to_color()
    colours = np.asarray(visual.vertex_colors, dtype=np.float64)[:, :3] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    vertices, triangles = np.asarray(mesh.vertices, dtype=np.float64), np.asarray(mesh.faces, dtype=np.int64)
    return mesh_of(
        vertices, triangles, Material.COLOURED, part_row((0, 0, 0), 0), linear, np.asarray(mesh.vertex_normals, dtype=np.float64)
    )
