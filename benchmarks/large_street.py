"""A procedural street as a log with large pictures, which are rendered small by many processes and enlarged.

Rendering takes 1.7 s a picture of 384x256 on one core, with Embree. Enlarged pictures have the size of a real drive's and the detail of
the small ones, so what is measured on them says what a fit takes, not how sharp it gets.
"""

from __future__ import annotations

import shutil
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from splatmend.datasets.street.as_log import recorded_image
from splatmend.datasets.street.as_waymo import write_street
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.lidar import LidarTurn
from splatmend.datasets.street.street import Street, build_street
from splatmend.datasets.threads import use_threads

_JPEG_QUALITY = 95
_THREADS = 4
Item, Made = TypeVar("Item"), TypeVar("Made")
_street: Street | None = None
"""Of a process that renders."""


def render_pictures(config: StreetConfig, file: Path, processes: int) -> Path:
    """The street's pictures as JPEG in a new archive, rendered by so many processes."""
    partial = file.with_name(file.name + ".partial")
    order = [(name, index) for index in range(config.frame_count) for name in config.cameras]
    with ProcessPoolExecutor(processes, get_context("spawn"), _build, (config,)) as pool, zipfile.ZipFile(partial, "w") as archive:
        for (name, index), encoded in zip(order, pool.map(_rendered, order), strict=True):
            archive.writestr(_entry(name, index), encoded)
    partial.rename(file)
    return file


def write_large_street(config: StreetConfig, pictures: Path, folder: Path, factor: int, processes: int) -> Path:
    """The street's log in a new folder, its cameras and pictures larger by a factor, cubic between pixels, its LiDAR turns cast by so many
    processes."""
    larger = replace(config, width=factor * config.width, height=factor * config.height)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    street = build_street(larger)
    order = [(name, index) for index in range(config.frame_count) for name in config.cameras]
    with (
        zipfile.ZipFile(pictures) as archive,
        ProcessPoolExecutor(processes, get_context("spawn"), _build, (larger,)) as casters,
        ThreadPoolExecutor(_THREADS) as enlargers,
    ):
        turns = ahead(casters, _turn, range(config.frame_count), 4 * processes)

        def enlarged(which: tuple[str, int]) -> np.ndarray:
            small = cv2.imdecode(np.frombuffer(archive.read(_entry(*which)), np.uint8), cv2.IMREAD_COLOR)
            return cv2.resize(small, (larger.width, larger.height), interpolation=cv2.INTER_CUBIC)[..., ::-1]

        large = ahead(enlargers, enlarged, order, 4 * _THREADS)
        # The log asks for them in this very order.
        write_street(street, partial, pictures=lambda camera, frame: next(large), turns=lambda frame: next(turns))
    partial.rename(folder)
    return folder


def ahead(pool: Executor, function: Callable[[Item], Made], items: Iterable[Item], count: int) -> Iterator[Made]:
    """What a function makes of each item, in their order, so many of them under way or waiting at most."""
    waiting: deque[Future[Made]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _entry(camera: str, frame: int) -> str:
    return f"{frame:04d}-{camera}.jpg"


def _build(config: StreetConfig) -> None:
    global _street
    use_threads(1)
    _street = build_street(config)


def _turn(frame: int) -> LidarTurn:
    assert _street is not None
    return _street.lidar_turn(frame)


def _rendered(which: tuple[str, int]) -> bytes:
    assert _street is not None
    done, encoded = cv2.imencode(".jpg", recorded_image(_street, *which)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise RuntimeError(f"OpenCV could not encode {which}")
    return encoded.tobytes()
