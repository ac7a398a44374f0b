"""Boxes of KITTI raw (`tracklet_labels.xml`): one tracklet per body, its size, and a pose per frame in the scanner's frame.

Format: readme of KITTI's raw-data development kit. A pose gives the centre of the box's *bottom* face and a turn about the vertical
axis; the size is given as h, w, l.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import numpy as np

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, yaw_pose
from splatmend.datasets.log import ActorTrack

ActorClass = Literal["vehicle", "pedestrian", "cyclist", "sign", "other"]
_CLASSES: dict[str, ActorClass] = {
    "Car": "vehicle",
    "Van": "vehicle",
    "Truck": "vehicle",
    "Tram": "vehicle",
    "Pedestrian": "pedestrian",
    "Person (sitting)": "pedestrian",
    "Cyclist": "cyclist",
}


def read_tracklets(path: Path, world_from_velodyne: PoseTrack, frame_times_us: np.ndarray) -> tuple[ActorTrack, ...]:
    """Tracks in the world; `frame_times_us [N]` gives the time of each frame number. Poses of frames beyond it are left out."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: cannot read the boxes ({error}); copy the file again or remove it.") from error
    tracklets = root.find("tracklets")
    if tracklets is None:
        raise UserError(f"{path}: there is no <tracklets> element; give a tracklet file of KITTI raw or remove it.")
    actors = (_actor(path, number, item, world_from_velodyne, frame_times_us) for number, item in enumerate(tracklets.findall("item")))
    return tuple(actor for actor in actors if actor is not None)


def _actor(
    path: Path, number: int, item: ElementTree.Element, world_from_velodyne: PoseTrack, frame_times_us: np.ndarray
) -> ActorTrack | None:
    height, width, length = (_number(path, number, item, key) for key in ("h", "w", "l"))
    first = int(_number(path, number, item, "first_frame"))
    times_us, poses = [], []
    for offset, box in enumerate(item.findall("poses/item")):
        if not 0 <= first + offset < len(frame_times_us):
            continue
        x, y, z, yaw_rad = (_number(path, number, box, key) for key in ("tx", "ty", "tz", "rz"))
        t_us = int(frame_times_us[first + offset])
        times_us.append(t_us)
        poses.append(world_from_velodyne.at(t_us) @ yaw_pose(yaw_rad, np.array([x, y, z + height / 2])))
    if not poses:
        return None
    return ActorTrack(
        actor_id=f"tracklet_{number:04d}",
        actor_class=_CLASSES.get(item.findtext("objectType", "").strip(), "other"),
        size_m=(length, width, height),
        track=PoseTrack(times_us=np.array(times_us, dtype=np.int64), world_from_body=np.stack(poses)),
    )


def _number(path: Path, tracklet: int, element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key)
    try:
        value = float(text) if text is not None else None
    except ValueError:
        value = None
    if value is None or not np.isfinite(value):
        raise UserError(f"{path}: tracklet {tracklet} has no finite number <{key}>; correct the file or remove it.")
    return value
