"""Which objects of a log move: by its labels, or by the motion in its LiDAR sweeps."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.recon.movers.apply import with_movers
from splatmend.recon.movers.find import Movers, find_movers

_logger = logging.getLogger(__name__)


def log_with_movers(log: SceneLog, source: Literal["auto", "labels", "lidar", "off"]) -> SceneLog:
    """The prepared log with the actors that `FitConfig.movers` asks for.

    Raises:
        UserError: where LiDAR is asked for and the log has no sweeps in metres.
    """
    if source == "off":
        return replace(log, actors=())
    if source == "labels" or (source == "auto" and (log.actors or not _is_searchable(log))):
        return log
    movers = found_movers(log)
    _logger.info("%s: %d moving vehicles found, %d transient returns", log.path, len(movers.actors), movers.transient_count)
    return with_movers(replace(log, actors=()), movers)


def found_movers(log: SceneLog) -> Movers:
    """What the log's sweeps say moves.

    Raises:
        UserError: where the log has no sweeps in metres.
    """
    if not _is_searchable(log):
        raise UserError(
            f"{log.path}: what moves is found by LiDAR, but the log has no sweeps in metres; give one that has, or fit with labels or off."
        )
    return find_movers(log.sweeps)


def _is_searchable(log: SceneLog) -> bool:
    return bool(log.sweeps) and log.metric
