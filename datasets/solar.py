"""Where the sun stands at a time and place.

The Astronomical Almanac's low-precision formulas as Michalsky (1988, "The Astronomical Almanac's algorithm for approximate solar
position (1950-2050)", Solar Energy 40) gives them: right to 0.01 degrees in these years. Refraction, half a degree at the horizon and a
tenth at ten degrees, is left out.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime

from splatmend.datasets.errors import UserError

_NOON_2000_JAN_1 = datetime(2000, 1, 1, 12, tzinfo=UTC)
YEARS = (1950, 2050)
"""Years that the formulas hold for."""


def direction_east_north_up(time: datetime, latitude_deg: float, longitude_deg: float) -> tuple[float, float, float]:
    """Unit vector to the sun's middle: east, north and up of a place (longitudes count to the east).

    Raises:
        UserError: for a time without its zone or outside of `YEARS`, or a place that is not on Earth.
    """
    if time.tzinfo is None:
        raise UserError(f"the time {time.isoformat()} says no zone; end it with Z or with its hours from UTC, as in +02:00.")
    if not (abs(latitude_deg) <= 90 and abs(longitude_deg) <= 360):
        raise UserError(f"latitude {latitude_deg} and longitude {longitude_deg} are no place on Earth; give degrees north and east.")
    if not YEARS[0] <= time.year <= YEARS[1]:
        raise UserError(f"the year {time.year} is not in {YEARS[0]} to {YEARS[1]}, for which the sun's place is known; correct the time.")
    days = (time - _NOON_2000_JAN_1).total_seconds() / 86_400
    mean_longitude = math.radians((280.460 + 0.9856474 * days) % 360)
    anomaly = math.radians((357.528 + 0.9856003 * days) % 360)
    longitude = mean_longitude + math.radians(1.915 * math.sin(anomaly) + 0.020 * math.sin(2 * anomaly))
    obliquity = math.radians(23.439 - 4e-7 * days)
    right_ascension = math.atan2(math.cos(obliquity) * math.sin(longitude), math.cos(longitude))
    declination = math.asin(math.sin(obliquity) * math.sin(longitude))
    # Sidereal time at Greenwich: days count from a noon, so that the Earth's own turn is in their fraction.
    sidereal_deg = 280.46062 + 360.98564737 * days + longitude_deg
    hour_angle = math.radians(sidereal_deg) - right_ascension
    latitude = math.radians(latitude_deg)
    east = -math.cos(declination) * math.sin(hour_angle)
    north = math.sin(declination) * math.cos(latitude) - math.cos(declination) * math.cos(hour_angle) * math.sin(latitude)
    up = math.sin(declination) * math.sin(latitude) + math.cos(declination) * math.cos(hour_angle) * math.cos(latitude)
    return east, north, up
