"""Video files in and out, frame by frame, through PyAV (or OpenCV for reading where PyAV is missing)."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import cv2
import numpy as np

from splatmend.datasets.errors import UserError

Codec = Literal["h264", "av1"]
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
_ENCODERS = {"h264": "libx264", "av1": "libsvtav1"}
_OPTIONS = {"h264": {"crf": "16", "preset": "medium"}, "av1": {"crf": "24", "preset": "8"}}
_PADDED = re.compile(r"pictures of (\d+)x(\d+) pixels, padded to even sides")


def iter_video(path: Path) -> Iterator[np.ndarray]:
    """Frames `[H, W, 3]` uint8 of a video file, one at a time; those of `VideoWriter` have the size that they were written with (where
    OpenCV reads them, the even one that is stored)."""
    try:
        import av
    except ImportError:
        yield from _iter_video_opencv(path)
        return
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path.")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: it holds no video stream; give a video file.")
            said = _PADDED.search(container.metadata.get("comment", ""))
            width, height = map(int, said.groups()) if said else (None, None)
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")[:height, :width]
    except (av.error.FFmpegError, OSError) as fault:
        raise UserError(f"{path}: it cannot be read as a video ({fault}); the file may be truncated, replace it.") from fault


def _iter_video_opencv(path: Path) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise UserError(f"{path}: it cannot be read as a video; the file may be missing or truncated.")
        while True:
            there, frame = capture.read()
            if not there:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def can_write_video() -> bool:
    """Whether PyAV is installed (reading falls back on OpenCV, writing does not)."""
    return importlib.util.find_spec("av") is not None


class VideoWriter:
    """Writes `[H, W, 3]` uint8 frames to an MP4 as they come. Odd sizes are padded by one row or column, as the codecs want even ones, and
    the file's comment says so, by which `iter_video` takes them off again; players show them."""

    def __init__(self, path: Path, rate_hz: float = 10.0, codec: Codec = "h264", options: dict[str, str] | None = None) -> None:
        self.path = path
        self.rate = Fraction(rate_hz).limit_denominator(1001)
        self.codec = codec
        self.options = _OPTIONS[codec] | (options or {})
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, rgb: np.ndarray) -> None:
        if not can_write_video():
            raise UserError(f"{self.path}: writing videos needs PyAV, which is not installed; run 'pip install av', or write PNG.")
        import av

        height, width = rgb.shape[:2]
        if self._container is None:
            # SVT-AV1 writes its settings to standard error unless it is told to report errors only, through its own variable.
            os.environ.setdefault("SVT_LOG", "1")
            self._container = av.open(str(self.path), "w", options={"movflags": "+faststart"})
            try:
                self._stream = self._container.add_stream(_ENCODERS[self.codec], rate=self.rate, options=self.options)
            except (av.error.FFmpegError, ValueError) as fault:
                raise UserError(
                    f"{self.path}: this machine's PyAV cannot encode {self.codec} ({fault}); choose another --encoding."
                ) from fault
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            if width % 2 or height % 2:
                self._container.metadata["comment"] = f"pictures of {width}x{height} pixels, padded to even sides"
            self._stream.pix_fmt = "yuv420p"
        rgb = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        if self._container is not None:
            if self._stream is not None:  # None where the encoder was refused
                self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
