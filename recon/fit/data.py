"""Pictures and LiDAR targets for the optimiser, read when they are due and kept while they fit into the cache."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from splatmend.datasets.errors import UserError
from splatmend.datasets.jumps import without_jumps
from splatmend.datasets.log import Camera, CameraFrame, SceneLog
from splatmend.datasets.shot import Shot
from splatmend.datasets.undistort import resized, resized_picture, undistorted
from splatmend.recon.fit.coarse import coarser_targets, halved
from splatmend.recon.fit.config import SMALLEST_SIDE, DataConfig
from splatmend.recon.fit.lidar_targets import LidarTargets
from splatmend.recon.fit.usable_pixels import usable_pixels
from splatmend.recon.raster.api import Model
from splatmend.recon.scene import RecordedShot, Role


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One picture to fit. `pixels` are indices into the flattened picture where LiDAR says `depth_m` (camera z), `depth_shares` what each
    of these counts in their mean (zeros stand for no point)."""

    rgb: UInt8[Tensor, "H W 3"]
    valid: Bool[Tensor, "H W"] | None
    pixels: Int[Tensor, "P"]
    depth_m: Float[Tensor, "P"]
    depth_shares: Float[Tensor, "P"]

    def to(self, device: torch.device) -> Sample:
        """The same on another device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = None if value is None else value.to(device)
        return Sample(**moved)

    @property
    def nbytes(self) -> int:
        tensors = (self.rgb, self.valid, self.pixels, self.depth_m, self.depth_shares)
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


Wanted = tuple[int, int]
"""Number of a frame, and how often the sides of its picture are halved."""


class FrameSource:
    """Samples of a prepared log by frame number, on the fit's device. Frames that are expected are read by other threads meanwhile; what
    LiDAR says of them lies in a temporary file once `prepare` was called."""

    def __init__(self, log: SceneLog, device: torch.device, cache_mib: int, model: Model = "ewa") -> None:
        self.log = log
        self.device = device
        self.room = cache_mib * 2**20
        self.held: OrderedDict[Wanted, Sample] = OrderedDict()
        self.lidar = LidarTargets(log, model)
        self._coming: dict[Wanted, Future[Sample]] = {}
        # On the CPU the fit itself needs the cores.
        self._readers = ThreadPoolExecutor(1 if device.type == "cpu" else min(8, os.cpu_count() or 1), thread_name_prefix="frames")

    def __getitem__(self, wanted: int | Wanted) -> Sample:
        """The sample of a frame, by its number or with how often the sides of its picture are halved."""
        wanted = (wanted, 0) if isinstance(wanted, int) else wanted
        if wanted in self.held:
            self.held.move_to_end(wanted)
            return self.held[wanted]
        coming = self._coming.pop(wanted, None)
        sample = (self._read(*wanted) if coming is None else coming.result()).to(self.device)
        self.held[wanted] = sample
        self.room -= sample.nbytes
        while self.room < 0 and len(self.held) > 1:
            self.room += self.held.popitem(last=False)[1].nbytes
        return sample

    def prepare(self, numbers: Iterable[int]) -> None:
        """Look at the sweeps of these frames, one after the other in time."""
        self.lidar.prepare(tuple(numbers))

    def expect(self, wanted: Iterable[Wanted]) -> None:
        """Begin to read what will be asked for next."""
        for one in wanted:
            if one not in self.held and one not in self._coming:
                self._coming[one] = self._readers.submit(self._read, *one)

    def _read(self, number: int, halvings: int) -> Sample:
        """A sample on the host."""
        frame = self.log.frames[number]
        full = self.log.cameras[frame.camera]
        camera = halved(full, halvings)

        def sized(picture: np.ndarray) -> np.ndarray:
            return picture if halvings == 0 else resized_picture(picture, camera)

        valid = usable_pixels(frame, camera, sized)
        pixels, depth_m = self.lidar.of(number)
        if halvings:
            pixels, depth_m = coarser_targets(pixels, depth_m, full, camera)
        if valid is not None:
            usable = valid.reshape(-1)[pixels]
            pixels, depth_m = pixels[usable], depth_m[usable]
        rgb = frame.read_image()
        if rgb.shape[:2] != (full.height, full.width):
            raise ValueError(f"picture {rgb.shape[:2]} of {frame.camera} frame {frame.index} for a {full.width}x{full.height} camera")
        rgb = sized(rgb)
        depth_shares = np.full(len(pixels), 1.0 / max(len(pixels), 1), np.float32)
        if self.device.type == "cuda":
            # Few kinds of pictures, few CUDA graphs.
            valid = np.ones(rgb.shape[:2], dtype=bool) if valid is None else valid
            pixels, depth_m, depth_shares = _in_full_rows(pixels, depth_m, depth_shares)
        return Sample(
            rgb=torch.from_numpy(np.ascontiguousarray(rgb)),
            valid=None if valid is None else torch.from_numpy(np.array(valid, dtype=bool)),
            pixels=torch.from_numpy(pixels.astype(np.int64)),
            depth_m=torch.from_numpy(depth_m.astype(np.float32)),
            depth_shares=torch.from_numpy(depth_shares),
        )


def _in_full_rows(*parts: np.ndarray, row: int = 32768) -> tuple[np.ndarray, ...]:
    """Pixels, depths and shares of points, with points that do not count up to a multiple of `row`."""
    missing = -len(parts[0]) % row
    return tuple(np.concatenate([part, np.full(missing, fill, part.dtype)]) for part, fill in zip(parts, (0, 1, 0), strict=True))
