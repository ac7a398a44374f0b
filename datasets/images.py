"""Pictures in and out: decoding that notices a truncated file, and readers that are called when the picture is wanted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from splatmend.datasets.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_WRITTEN = (".png", ".jpg", ".jpeg")


def read_image(path: Path) -> np.ndarray:
    """A picture as `[H, W, 3]` uint8 sRGB; grey files give three equal channels, the EXIF orientation is not applied.

    Raises `UserError` when the file is missing, cut short or no picture.
    """
    return cv2.cvtColor(_read(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)


def read_grey_image(path: Path) -> np.ndarray:
    """A picture as `[H, W]` uint8; errors as `read_image`."""
    return _read(path, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def read_numbers(path: Path) -> np.ndarray:
    """A picture's numbers as they are stored, for instance `[H, W]` uint16; errors as `read_image`."""
    return _read(path, cv2.IMREAD_UNCHANGED)


def read_rgba(path: Path) -> np.ndarray:
    """A picture with an alpha channel as `[H, W, 4]` uint8; errors as `read_image`, also for a picture of another kind."""
    raw = _read(path, cv2.IMREAD_UNCHANGED)
    if raw.ndim != 3 or raw.shape[2] != 4 or raw.dtype != np.uint8:
        raise UserError(f"{path}: this is no picture of 8 bits with an alpha channel; write it again.")
    return cv2.cvtColor(raw, cv2.COLOR_BGRA2RGBA)


def to_uint8(rgb: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] as rounded bytes."""
    return np.rint(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8)


def image_reader(path: Path, width: int, height: int) -> Callable[[], np.ndarray]:
    """A function that reads the picture when called and raises `UserError` unless it has the size its camera is calibrated for."""

    def read() -> np.ndarray:
        image = read_image(path)
        if image.shape[:2] != (height, width):
            raise UserError(
                f"{path}: the picture has {image.shape[1]}x{image.shape[0]} pixels but its camera is calibrated for {width}x{height}; "
                "give every picture of a camera the same size."
            )
        return image

    return read


def mask_reader(path: Path, width: int, height: int) -> Callable[[], np.ndarray]:
    """A function that reads a mask when called: `[H, W]` bool, True where the file is not black, resized (nearest) to the picture.
    Errors as `read_image`."""

    def read() -> np.ndarray:
        mask = cv2.resize(read_grey_image(path), (width, height), interpolation=cv2.INTER_NEAREST)
        return mask > 0

    return read


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture; errors as `read_image`."""
    height, width = read_image(path).shape[:2]
    return width, height


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts frame_9 before frame_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def images_in(folder: Path) -> tuple[Path, ...]:
    """The pictures that lie in a folder, numbers in their names in the order of numbers."""
    found = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return tuple(sorted(found, key=lambda path: (natural_key(path.name), path.name)))


def check_picture_name(path: Path) -> None:
    """Refuse a file that `write_image` could not write, before anything is computed for it."""
    if path.suffix.lower() not in _WRITTEN:
        raise UserError(f"{path}: pictures are written as .png or .jpg; choose one of these.")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write `[H, W, 3]` uint8 sRGB, with an alpha `[H, W, 4]`, or `[H, W]` uint8 or uint16, as PNG or JPEG after the suffix; missing
    folders are made.

    Raises `UserError` for another suffix, `OSError` where the system refuses.
    """
    check_picture_name(path)
    suffix = path.suffix.lower()
    flags = [cv2.IMWRITE_PNG_COMPRESSION, 3] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 95]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(suffix, image, flags)
    if not done:
        raise ValueError(f"{path}: cannot encode an array of shape {image.shape} and type {image.dtype}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # cv2.imwrite reports a full disk as plain False; writing bytes raises the reason.
    path.write_bytes(data.tobytes())


def numbered_images(folder: Path) -> dict[int, Path]:
    """Pictures of a folder by the number that their name is, e.g. `0000000012.png` as 12; other files are left out."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() in IMAGE_SUFFIXES and path.stem.isdecimal():
            found[int(path.stem)] = path
    return found


def _read(path: Path, flags: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the picture ({error.strerror}); check that the file is there.") from error
    if is_cut_short(data):
        raise UserError(f"{path}: the picture is cut short ({len(data)} bytes); copy or download the file again.")
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags) if data else None
    if image is None:
        raise UserError(f"{path}: this is no picture that can be decoded; replace it with a PNG or JPEG.")
    return image


def is_cut_short(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end. Decoders fill the rest of a truncated JPEG with grey and only print a warning.

    JPEG (ITU T.81, B.1.1): compressed data never holds a marker, so an end-of-image marker must follow the last start of scan.
    """
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") <= data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-1024:]
    return False
