"""A street written as a Waymo v2 drive, with the configuration beside it from which the oracle is built again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse
from splatmend.datasets.street import lidar
from splatmend.datasets.street.as_log import recorded_image
from splatmend.datasets.street.casters import Backend
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.street import Street, build_street
from splatmend.datasets.waymo_range_image import vectors_from_poses

if TYPE_CHECKING:
    from splatmend.datasets.waymo_v2_writer import WaymoBox, WaymoV2Writer

CONFIG_FILE = "street.json"
Pictures = Callable[[str, int], np.ndarray]
"""What a camera recorded in a frame, `[H, W, 3]` uint8 sRGB."""
Turns = Callable[[int], lidar.LidarTurn]
"""What the LiDAR measured in a frame's turn."""
FORMAT_VERSION = 1
_JPEG_QUALITY = 95
# Labels are drawn for cars that a LiDAR of this reach could have met.
_LABEL_RANGE_M = 75.0


def is_street(folder: Path) -> bool:
    """Whether a folder was written by `write_street`."""
    return (folder / CONFIG_FILE).is_file()


def write_street(
    street: Street,
    folder: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    pictures: Pictures | None = None,
    turns: Turns | None = None,
) -> Path:
    """Write the drive into a new or empty folder as Waymo v2 components and `street.json`; gives the folder back.

    `progress(done, frames)` is called after every frame. `pictures` and `turns` give the street's own pictures and LiDAR turns where they
    are made elsewhere, frame by frame; by default they are made here. `UserError` if the folder holds something already.
    """
    # Parquet files need pyarrow; hosts that only render streets do without it.
    from splatmend.datasets.waymo_v2_writer import WaymoV2Writer

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: there is something already, and a street is written into a new folder; remove it or give another path.")
    config = street.config
    with WaymoV2Writer(folder, street.log_id) as writer:
        for name, camera in street.cameras.items():
            writer.camera_calibration(name, camera, street.vehicle_from_camera[name])
        writer.lidar_calibration(lidar.NAME, lidar.beam_inclinations_rad(config), lidar.VEHICLE_FROM_LIDAR)
        for index, frame_us in enumerate(street.frame_times_us.tolist()):
            _write_frame(writer, street, index, frame_us, pictures or partial(recorded_image, street), turns or street.lidar_turn)
            if progress is not None:
                progress(index + 1, config.frame_count)
    # Last, so that a folder with this file is whole.
    (folder / CONFIG_FILE).write_text(json.dumps({"format_version": FORMAT_VERSION, "street": asdict(config)}, indent=2) + "\n")
    return folder


def load_config(folder: Path) -> StreetConfig:
    """The configuration beside a street's components. `UserError` if the file is missing, damaged or of another version."""
    path = Path(folder) / CONFIG_FILE
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, so this folder is no (whole) street; write it again with `splatmend street`.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no JSON ({error}); write the street again.") from error
    if not isinstance(raw, dict) or raw.get("format_version") != FORMAT_VERSION or not isinstance(raw.get("street"), dict):
        raise UserError(f"{path}: is not of format version {FORMAT_VERSION}; write the street again with this version of splatmend.")
    # Streets from before there were people have none.
    values = {"pedestrians": 0, **raw["street"]}
    if set(values) != {field.name for field in fields(StreetConfig)}:
        raise UserError(f"{path}: holds other settings than this version of splatmend knows; write the street again.")
    return StreetConfig(**{**values, "cameras": tuple(values["cameras"])})


def load_street(folder: Path, *, device: str | torch.device = "cpu", backend: Backend | None = None) -> Street:
    """Build the oracle of a written street again. `UserError` as in `load_config`."""
    return build_street(load_config(folder), device=device, backend=backend)


def _write_frame(writer: WaymoV2Writer, street: Street, index: int, frame_us: int, pictures: Pictures, turns: Turns) -> None:
    world_from_vehicle = street.ego.at(frame_us)
    writer.vehicle_pose(frame_us, world_from_vehicle)
    for name in street.cameras:
        shot = street.shot(name, index)
        linear, angular = _velocities(street, shot.mid_us)
        done, encoded = cv2.imencode(".jpg", pictures(name, index)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        if not done:
            raise RuntimeError(f"OpenCV could not encode frame {index} of camera {name}")
        writer.camera_image(
            frame_us,
            name,
            encoded.tobytes(),
            start_us=shot.start_us,
            end_us=shot.end_us,
            world_from_vehicle=street.ego.at(shot.mid_us),
            pose_us=shot.mid_us,
            linear_velocity_m_s=linear,
            angular_velocity_rad_s=angular,
        )
    turn = turns(index)
    image = np.zeros((*turn.range_m.shape, 4), dtype=np.float32)
    image[..., 0], image[..., 1] = turn.range_m, turn.intensity
    pixel_pose = np.broadcast_to(vectors_from_poses(turn.world_from_vehicle)[None], (*turn.range_m.shape, 6))
    writer.lidar(frame_us, lidar.NAME, image, pixel_pose.astype(np.float32))
    writer.boxes(frame_us, _boxes(street, frame_us, world_from_vehicle, turn.labels))


def _boxes(street: Street, frame_us: int, world_from_vehicle: np.ndarray, labels: np.ndarray) -> list[WaymoBox]:
    from splatmend.datasets.waymo_v2_writer import WaymoBox

    counts = (
        np.bincount(labels.ravel(), minlength=street.actor_label(street.actors[-1].actor_id) + 1)
        if street.actors
        else np.zeros(0, dtype=int)
    )
    period = street.config.period_us
    boxes = []
    for actor in street.actors:
        world_from_box = actor.world_from_actor(frame_us)
        vehicle_from_box = inverse(world_from_vehicle) @ world_from_box
        if np.linalg.norm(vehicle_from_box[:2, 3]) > _LABEL_RANGE_M:
            continue
        speed = (actor.world_from_actor(frame_us + period)[:3, 3] - world_from_box[:3, 3]) / (period * 1e-6)
        points = int(counts[street.actor_label(actor.actor_id)])
        boxes.append(
            WaymoBox(
                actor_id=actor.actor_id,
                actor_class=actor.actor_class,
                size_m=actor.size_m,
                vehicle_from_box=vehicle_from_box,
                speed_m_s=(float(speed[0]), float(speed[1]), float(speed[2])),
                lidar_points=points,
                top_lidar_points=points,
            )
        )
    return boxes


def _velocities(street: Street, t_us: int) -> tuple[np.ndarray, np.ndarray]:
    """Linear (m/s) and angular velocity (rad/s) of the vehicle in the world's axes; both are constant between the path's poses."""
    times = street.ego.times_us
    right = int(np.clip(np.searchsorted(times, t_us, side="right"), 1, len(times) - 1))
    before, after = street.ego.world_from_body[right - 1 : right + 1]
    seconds = (times[right] - times[right - 1]) * 1e-6
    turn = Rotation.from_matrix(after[:3, :3] @ before[:3, :3].T).as_rotvec()
    return (after[:3, 3] - before[:3, 3]) / seconds, turn / seconds
