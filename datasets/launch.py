"""What a launcher that starts several processes (`torchrun`, `accelerate launch`) tells each of them."""

from __future__ import annotations

import os


def launched_count() -> int:
    """How many processes were started together; 1 where this one was started by itself.

    Some clusters set WORLD_SIZE for programs that no launcher has started, which have no LOCAL_RANK.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) if {"RANK", "LOCAL_RANK"} <= set(os.environ) else 1


def launched_rank() -> int:
    """Which of them this is, from 0 on."""
    return int(os.environ["RANK"]) if launched_count() > 1 else 0
