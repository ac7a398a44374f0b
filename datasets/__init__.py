"""Logs and clips: what they are, one reader per source, pictures, sizes and summaries. Start with `open_log`."""

from __future__ import annotations

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import (
    ActorTrack,
    Camera,
    CameraFrame,
    LidarPoints,
    LidarSweep,
    SceneLog,
    SfmPoints,
)
from splatmend.datasets.readers.registry import open_log

__all__ = [
    "ActorTrack",
    "Camera",
    "CameraFrame",
    "LidarPoints",
    "LidarSweep",
    "SceneLog",
    "SfmPoints",
    "UserError",
    "open_log",
]
