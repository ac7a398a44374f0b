"""Pictures and LiDAR targets for the optimiser, read when they are due and kept while they fit into the cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, project, transform
from splatmend.datasets.jumps import without_jumps
from splatmend.datasets.log import Camera, CameraFrame, LidarSweep, SceneLog
from splatmend.datasets.point_projection import project_frame
from splatmend.datasets.shot import Shot
from splatmend.datasets.undistort import resized, undistorted
from splatmend.recon.fit.config import SMALLEST_SIDE, DataConfig
from splatmend.recon.movers.apply import TRANSIENT
from splatmend.recon.raster.api import Model
from splatmend.recon.raster.camera_rays import lens_rays
from splatmend.recon.scene import RecordedShot, Role

MAX_SWEEP_GAP_US = 60_000
"""A sweep farther in time from a picture than this gives it no depth."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture to fit. `pixels` are indices into the flattened picture where LiDAR says `depth_m` (camera z), `depth_shares` what each
    of these counts in their mean (zeros stand for no point)."""

    rgb: UInt8[Tensor, "H W 3"]
    valid: Bool[Tensor, "H W"] | None
    sky: Bool[Tensor, "H W"] | None
    pixels: Int[Tensor, "P"]
    depth_m: Float[Tensor, "P"]
    depth_shares: Float[Tensor, "P"]

    @property
    def nbytes(self) -> int:
        tensors = (self.rgb, self.valid, self.sky, self.pixels, self.depth_m, self.depth_shares)
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def prepared_log(log: SceneLog, config: DataConfig, model: Model = "ewa") -> SceneLog:
    """The log as it is fitted: chosen cameras, no more than the greatest width, no poses that jump, and for the `ewa` model no distortion.

    Raises:
        UserError: for a camera that the log does not have, or pictures that become too small to be compared.
    """
    if unknown := set(config.cameras) - set(log.cameras):
        raise UserError(f"{log.path}: there is no camera {sorted(unknown)[0]}; the log has {', '.join(log.cameras)}.")
    if config.cameras:
        cameras = {name: camera for name, camera in log.cameras.items() if name in config.cameras}
        log = replace(log, cameras=cameras, frames=tuple(frame for frame in log.frames if frame.camera in cameras))
    if config.bridge_jumps:
        log = without_jumps(log)
    if model == "ewa":
        log = undistorted(log)
    full = log.cameras
    if config.max_width is not None and max(camera.width for camera in log.cameras.values()) > config.max_width:
        log = resized(log, max_width=config.max_width)
    _refuse_small(log, full, config)
    return log


def _refuse_small(log: SceneLog, full: Mapping[str, Camera], config: DataConfig) -> None:
    for camera in log.cameras.values():
        if min(camera.width, camera.height) < SMALLEST_SIDE:
            enough = -(-SMALLEST_SIDE * full[camera.name].width // full[camera.name].height)
            remedy = "leave that camera out" if config.max_width is None else f"give at least {enough} as max_width"
            raise UserError(
                f"{log.path}: pictures of {camera.name} would be fitted at {camera.width}x{camera.height} pixels, where "
                f"{SMALLEST_SIDE} rows and columns are needed to compare them; {remedy}."
            )


def frame_roles(frames: Sequence[CameraFrame], config: DataConfig) -> list[Role]:
    """Role of each frame: index 4, 12, ... of each camera is held out (of every 8), so that neighbours stand on both sides;
    frames whose pose is not the log's are left out.

    Raises:
        UserError: where nothing is left to train on.
    """
    roles: list[Role] = []
    kept: dict[str, int] = {}
    for frame in frames:
        if frame.pose_bridged:
            roles.append("left_out")
            continue
        if config.holdout_every and frame.index % config.holdout_every == config.holdout_every // 2:
            roles.append("held_out")
            continue
        count = kept.get(frame.camera, 0)
        kept[frame.camera] = count + 1
        roles.append("train" if count % config.train_every == 0 else "left_out")
    if "train" not in roles:
        raise UserError("fit settings: no frame is left to train on; lower holdout_every or train_every.")
    return roles


def recorded_shots(log: SceneLog, config: DataConfig) -> tuple[RecordedShot, ...]:
    """The prepared log's frames as shots, in the log's order."""
    roles = frame_roles(log.frames, config)
    return tuple(
        RecordedShot(shot=Shot.of(frame, log.cameras[frame.camera]), frame_index=frame.index, role=role)
        for frame, role in zip(log.frames, roles)
    )


class FrameSource:
    """Samples of a prepared log by frame number, on the fit's device."""

    def __init__(self, log: SceneLog, device: torch.device, cache_mib: int, model: Model = "ewa") -> None:
        self.log = log
        self.model = model
        self.device = device
        self.room = cache_mib * 2**20
        self.held: OrderedDict[int, Sample] = OrderedDict()
        self.sweep_times_us = np.array([sweep.timestamp_us for sweep in log.sweeps], dtype=np.int64)

    def __getitem__(self, number: int) -> Sample:
        if number in self.held:
            self.held.move_to_end(number)
            return self.held[number]
        sample = self._read(self.log.frames[number])
        self.held[number] = sample
        self.room -= sample.nbytes
        while self.room < 0 and len(self.held) > 1:
            self.room += self.held.popitem(last=False)[1].nbytes
        return sample

    def _read(self, frame: CameraFrame) -> Sample:
        camera = self.log.cameras[frame.camera]
        masks = {name: frame.masks[name]() for name in ("valid", "sky") if name in frame.masks}
        pixels, depth_m = lidar_targets(frame, self.log, nearest_sweeps(self.log.sweeps, frame.mid_us), self.model)
        if camera.distortion_model != "none":
            reached = lens_rays(camera)[1]
            masks["valid"] = masks["valid"] & reached if "valid" in masks else reached.copy()
        if TRANSIENT in frame.masks:
            stays = ~frame.masks[TRANSIENT]()
            masks["valid"] = masks["valid"] & stays if "valid" in masks else stays
        if "valid" in masks:
            usable = masks["valid"].reshape(-1)[pixels]
            pixels, depth_m = pixels[usable], depth_m[usable]
        rgb = frame.read_image()
        if rgb.shape[:2] != (camera.height, camera.width):
            raise ValueError(f"picture {rgb.shape[:2]} of {frame.camera} frame {frame.index} for a {camera.width}x{camera.height} camera")
        tensors = {name: torch.from_numpy(np.ascontiguousarray(mask, dtype=bool)).to(self.device) for name, mask in masks.items()}
        if self.device.type == "cuda" and "valid" not in masks:
            # Few kinds of pictures, few CUDA graphs.
            masks["valid"] = np.ones(rgb.shape[:2], dtype=bool)
        pixels, depth_m, depth_shares = _in_full_rows(pixels, depth_m) if self.device.type == "cuda" else _evenly(pixels, depth_m)
        return Sample(
            rgb=torch.from_numpy(np.ascontiguousarray(rgb)).to(self.device),
            valid=tensors.get("valid"),
            sky=tensors.get("sky"),
            pixels=torch.from_numpy(pixels).to(self.device),
            depth_m=torch.from_numpy(depth_m.astype(np.float32)).to(self.device),
            depth_shares=torch.from_numpy(depth_shares).to(self.device),
        )


def _evenly(pixels: np.ndarray, depth_m: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points with equal shares."""
    return pixels, depth_m, np.full(len(pixels), 1.0 / max(len(pixels), 1), np.float32)


def _in_full_rows(pixels: np.ndarray, depth_m: np.ndarray, row: int = 32768) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Likewise, with points that do not count up to a multiple of `row`, likewise for CUDA graphs."""
    missing = -len(pixels) % row
    pixels, depth_m, shares = _evenly(pixels, depth_m)
    return (
        np.concatenate([pixels, np.zeros(missing, pixels.dtype)]),
        np.concatenate([depth_m, np.ones(missing)]),
        np.concatenate([shares, np.zeros(missing, np.float32)]),
    )


def nearest_sweeps(sweeps: Sequence[LidarSweep], t_us: int) -> list[LidarSweep]:
    """The sweep of each sensor nearest in time (a turn's middle is taken 50 ms after its start), if it is near at all."""
    best: dict[str, LidarSweep] = {}
    for sweep in sweeps:
        gap = abs(sweep.timestamp_us - t_us)
        if gap <= MAX_SWEEP_GAP_US and (sweep.sensor not in best or gap < abs(best[sweep.sensor].timestamp_us - t_us)):
            best[sweep.sensor] = sweep
    return list(best.values())


def lidar_targets(frame: CameraFrame, log: SceneLog, sweeps: Sequence[LidarSweep], model: Model = "ewa") -> tuple[np.ndarray, np.ndarray]:
    """Pixels (flat indices, int64) with the depth (camera z, metres) that LiDAR gives them, nearest return first; as the pose at mid
    exposure sees the points for `ewa`, and as that of each point's own row does for `ray`."""
    camera = log.cameras[frame.camera]
    if not sweeps:
        return np.zeros(0, np.int64), np.zeros(0)
    points = np.concatenate([sweep.read_points().xyz_world_m for sweep in sweeps])
    if model == "ray":
        pixels, depth_m, inside = project_frame(camera, frame, points)
    else:
        in_camera = transform(inverse(frame.world_from_camera), points)
        depth_m = in_camera[:, 2]
        pixels, inside = project(camera, in_camera)
    columns, rows = np.floor(pixels[inside]).astype(np.int64).T
    return unoccluded(columns, rows, depth_m[inside], camera.width, camera.height)


def unoccluded(
    columns: np.ndarray, rows: np.ndarray, depth_m: np.ndarray, width: int, height: int, cell_px: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest point of each pixel, less those well behind a point of a neighbouring cell: the scanner sits elsewhere than the camera
    and looks past edges that hide those points from it."""
    near = depth_m > 0.5
    columns, rows, depth_m = columns[near], rows[near], depth_m[near]
    across, down = -(-width // cell_px), -(-height // cell_px)
    nearest = np.full((down + 2, across + 2), np.inf)
    np.minimum.at(nearest, (rows // cell_px + 1, columns // cell_px + 1), depth_m)
    # Rows of a scanner are apart by more than a cell, so a cell looks at all eight around it.
    around = np.min([nearest[i : i + down, j : j + across] for i in range(3) for j in range(3)], axis=0)
    seen = depth_m <= around[rows // cell_px, columns // cell_px] * 1.15 + 0.3
    flat, depth_m = (rows * width + columns)[seen], depth_m[seen]
    order = np.lexsort((depth_m, flat))
    first = np.unique(flat[order], return_index=True)[1]
    return flat[order][first], depth_m[order][first]
