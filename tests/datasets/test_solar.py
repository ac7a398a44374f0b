"""The sun's place against published values."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest

from splatmend.datasets.errors import UserError
from splatmend.datasets.solar import direction_east_north_up


def _angles(time: datetime, latitude: float, longitude: float) -> tuple[float, float]:
    """Azimuth from north over east, and elevation, in degrees."""
    east, north, up = direction_east_north_up(time, latitude, longitude)
    assert math.hypot(east, north, up) == pytest.approx(1)
    return math.degrees(math.atan2(east, north)) % 360, math.degrees(math.asin(up))


def test_the_example_of_the_solar_position_algorithm() -> None:
    # Reda and Andreas, NREL/TP-560-34302, table A5.1: zenith 50.11162 degrees with refraction (50.1280 without), azimuth 194.34024.
    azimuth, elevation = _angles(datetime(2003, 10, 17, 12, 30, 30, tzinfo=timezone(timedelta(hours=-7))), 39.742476, -105.1786)
    assert azimuth == pytest.approx(194.34024, abs=0.02)
    assert 90 - elevation == pytest.approx(50.1280, abs=0.02)


@pytest.mark.parametrize(("month", "day", "tilt"), [(6, 21, 23.44), (12, 21, -23.44), (3, 20, 0.0)])
def test_noon_heights_of_solstices_and_equinox(month: int, day: int, tilt: float) -> None:
    latitude = 49.01
    highest = max(_angles(datetime(2011, month, day, 10, tzinfo=UTC) + timedelta(minutes=m), latitude, 8.4)[1] for m in range(0, 180, 2))
    assert highest == pytest.approx(90 - latitude + tilt, abs=0.2)


def test_the_sun_is_south_at_noon_and_east_in_the_morning() -> None:
    morning, _ = _angles(datetime(2011, 9, 26, 6, tzinfo=UTC), 49.01, 8.4)
    noon, _ = _angles(datetime(2011, 9, 26, 11, 17, tzinfo=UTC), 49.01, 8.4)
    assert 90 < morning < 120
    assert noon == pytest.approx(180, abs=1)
    # South of the equator it is north at noon.
    azimuth, _ = _angles(datetime(2011, 9, 26, 2, 5, tzinfo=UTC), -33.9, 151.2)
    assert min(azimuth, 360 - azimuth) < 10


def test_faults_are_one_sentence() -> None:
    with pytest.raises(UserError, match="zone"):
        direction_east_north_up(datetime(2011, 9, 26, 6), 49.0, 8.4)
    with pytest.raises(UserError, match="no place"):
        direction_east_north_up(datetime(2011, 9, 26, 6, tzinfo=UTC), 94.0, 8.4)
    with pytest.raises(UserError, match="year"):
        direction_east_north_up(datetime(1811, 9, 26, 6, tzinfo=UTC), 49.0, 8.4)
