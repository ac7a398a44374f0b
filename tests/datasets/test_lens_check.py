"""Which lens distortions are believed: those of real lenses, and none that folds back or stretches inside its picture."""

from __future__ import annotations

import pytest

from splatmend.datasets.lens_check import held_share, lens_fault
from splatmend.datasets.log import Camera, DistortionModel


def camera(model: DistortionModel, values: tuple[float, ...], focal_px: float, width: int = 1600, height: int = 900) -> Camera:
    return Camera(
        name="c",
        width=width,
        height=height,
        focal_px=(focal_px, focal_px),
        principal_px=(width / 2, height / 2),
        distortion_model=model,
        distortion=values,
    )


@pytest.mark.parametrize(
    ("model", "values", "focal_px"),
    [
        ("none", (), 100.0),
        ("opencv", (0.04, -0.33, 0.001, -0.0016, 0.0), 1700.0),  # Waymo
        ("opencv", (0.058, -0.081, -0.001, 0.0002, 0.0), 1100.0),  # a telephone
        ("opencv", (-0.35, 0.15, 0.0, 0.0, -0.03), 900.0),  # a wide action camera
        ("opencv", (-0.2, 20.0, 0.0, 0.0, -120.0), 4000.0),  # overfitted, but sane where the picture is
        ("opencv_fisheye", (0.03, -0.01, 0.002, -0.0003), 600.0),
        ("opencv_fisheye", (0.0, 0.0, 0.0, 0.0), 280.0),  # its circle lies inside the picture
    ],
)
def test_real_lenses_are_believed(model: DistortionModel, values: tuple[float, ...], focal_px: float) -> None:
    assert lens_fault(camera(model, values, focal_px)) is None
    assert camera(model, values, focal_px).fault() is None


@pytest.mark.parametrize("focal_px", [600.0, 1700.0])
@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("opencv", (900.0, 0.0, 0.0, 0.0, 0.0)),
        ("opencv", (50.0, 0.0, 0.0, 0.0, 0.0)),
        ("opencv", (-50.0, 0.0, 0.0, 0.0, 0.0)),
        ("opencv", (0.0, 0.0, 9.0, 0.0, 0.0)),
        ("opencv", (0.0, 0.0, 0.0, 0.0, 1e200)),
        ("opencv_fisheye", (50.0, 0.0, 0.0, 0.0)),
        ("opencv_fisheye", (-20.0, 0.0, 0.0, 0.0)),
    ],
)
def test_lenses_that_cannot_be_are_not(model: DistortionModel, values: tuple[float, ...], focal_px: float) -> None:
    fault = camera(model, values, focal_px).fault()
    assert fault is not None
    assert "no lens has" in fault


def test_a_lens_that_folds_back_holds_up_to_its_fold() -> None:
    """r - r^3 / 3 grows up to r = 1, where it is 2/3: of a square picture whose half side is 1 that is a disc of area (2/3)^2 pi."""
    square = camera("opencv", (-1 / 3, 0.0, 0.0, 0.0, 0.0), 500.0, 1000, 1000)
    assert held_share(square) == pytest.approx((2 / 3) ** 2 * 3.14159 / 4, abs=0.02)
