"""Pictures and videos as data URIs, small enough for one HTML file."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from splatmend.datasets.clip import Clip
from splatmend.datasets.video import VideoWriter

VIDEO_WIDTH = 960
VIDEO_FRAMES = 240
# A lower rate than that of stored clips: every frame stands in the file as text.
_OPTIONS = {"crf": "22", "preset": "medium"}


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a `data:` address of the given media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def jpeg_uri(rgb: np.ndarray, width: int, quality: int = 85) -> str:
    """A picture `[H, W, 3]` uint8, no wider than `width`, as a JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(shrunk(rgb, width), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a picture of shape {rgb.shape}")
    return data_uri(data.tobytes(), "image/jpeg")


def shrunk(rgb: np.ndarray, width: int) -> np.ndarray:
    """The picture, no wider than `width`, with even sides."""
    height = rgb.shape[0]
    if rgb.shape[1] > width:
        height, across = round(rgb.shape[0] * width / rgb.shape[1]), width
    else:
        across = rgb.shape[1]
    size = (max(2, across - across % 2), max(2, height - height % 2))
    return rgb if size == (rgb.shape[1], rgb.shape[0]) else cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)


def video_uri(
    frames: Iterable[np.ndarray], rate_hz: float, width: int = VIDEO_WIDTH, most: int = VIDEO_FRAMES
) -> tuple[str, int, tuple[int, int]]:
    """Frames `[H, W, 3]` uint8 as an H.264 video; gives the address, the number of frames and (width, height)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        count, size = 0, (0, 0)
        with VideoWriter(path, rate_hz, "h264", _OPTIONS) as writer:
            for rgb in frames:
                if count == most:
                    break
                picture = shrunk(rgb, width)
                writer.write(picture)
                count, size = count + 1, (picture.shape[1], picture.shape[0])
        return data_uri(path.read_bytes(), "video/mp4"), count, size


def clip_uri(clip: Clip) -> tuple[str, int, tuple[int, int]]:
    """A clip's frames as `video_uri` gives them."""
    return video_uri(clip.iter_rgb(), clip.rate_hz)
