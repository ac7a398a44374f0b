"""A procedural street with a drive through it and an oracle that knows the truth of every picture."""

from splatmend.datasets.street.as_log import street_log
from splatmend.datasets.street.as_waymo import is_street, load_config, load_street, write_street
from splatmend.datasets.street.config import StreetConfig
from splatmend.datasets.street.sky import Air, Sun, draw_other_air
from splatmend.datasets.street.street import OracleImage, Street, build_street

__all__ = [
    "Air",
    "OracleImage",
    "Street",
    "StreetConfig",
    "Sun",
    "build_street",
    "draw_other_air",
    "is_street",
    "load_config",
    "load_street",
    "street_log",
    "write_street",
]
