"""Lets the tests of this folder import its shared parts (the oracle, scenes): the import mode in use adds no folder to the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

_HERE = str(Path(__file__).resolve().parent)
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)

pytest.register_assert_rewrite("raster_checks")
