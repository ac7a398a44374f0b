"""What a log's reader left out or assumed, said before work on the log begins."""

from __future__ import annotations

import logging
from pathlib import Path

from splatmend.datasets.launch import launched_rank
from splatmend.datasets.log import SceneLog
from splatmend.datasets.readers.registry import open_log

_logger = logging.getLogger(__name__)


def open_log_with_notes(path: Path) -> SceneLog:
    """Open a log and give each of its reader's notes as a warning; of processes that were launched together only the first one does."""
    log = open_log(path)
    for note in log.notes if launched_rank() == 0 else ():
        _logger.warning("%s: %s", log.path, note)
    return log
