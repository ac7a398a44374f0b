"""Pictures in and out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from splatmend.datasets.clip import open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import read_image, read_numbers, write_image

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "a.png", PICTURE)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), PICTURE)
    numbers = PICTURE[..., 0].astype(np.uint16) * 200
    write_image(tmp_path / "b.png", numbers)
    np.testing.assert_array_equal(read_numbers(tmp_path / "b.png"), numbers)
    smooth = cv2.GaussianBlur(PICTURE, (0, 0), 4)
    write_image(tmp_path / "c.jpg", smooth)
    assert np.abs(read_image(tmp_path / "c.jpg").astype(int) - smooth).mean() < 3
    with pytest.raises(UserError, match=r"c.gif: pictures are written as"):
        write_image(tmp_path / "c.gif", PICTURE)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_is_cut_short_is_named_wherever_it_is_read(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"0{suffix}"
    write_image(path, PICTURE)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for read in (lambda: read_image(path), lambda: list(open_clip(tmp_path).iter_rgb())):
        with pytest.raises(UserError, match=f"0{suffix}: (the picture is cut short|this is no picture)"):
            read()


def test_a_jpeg_whose_thumbnail_is_whole_is_still_cut_short(tmp_path: Path) -> None:
    """The end marker of a thumbnail, in the picture's head or after the cut, is not the picture's own."""
    path = tmp_path / "0.jpg"
    write_image(path, PICTURE)
    data = path.read_bytes()
    thumbnail = cv2.imencode(".jpg", PICTURE[:8, :8])[1].tobytes()
    head = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    path.write_bytes(data[:2] + head + data[2:])
    np.testing.assert_array_equal(read_image(path).shape, PICTURE.shape)
    path.write_bytes(data[:2] + head + data[2:-60])
    with pytest.raises(UserError, match="cut short"):
        list(open_clip(tmp_path).iter_rgb())


def test_orientation_is_left_to_the_calibration(tmp_path: Path) -> None:
    """A photo that says it is to be turned has the shape of its camera's calibration, in a log and in a folder of images alike."""
    path = tmp_path / "0.jpg"
    write_image(path, PICTURE)
    entry = (0x0112).to_bytes(2, "big") + (3).to_bytes(2, "big") + (1).to_bytes(4, "big") + (6).to_bytes(2, "big") + bytes(2)
    body = b"Exif\0\0MM\0*" + (8).to_bytes(4, "big") + (1).to_bytes(2, "big") + entry + bytes(4)
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + data[2:])
    assert cv2.imread(str(path)).shape == (40, 24, 3)
    assert read_image(path).shape == (24, 40, 3)
    assert next(open_clip(tmp_path).iter_rgb()).shape == (24, 40, 3)
