"""Fixtures of the data-set tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def official_waymo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic drive as Waymo's own tools wrote it (see `golden/make_waymo_golden.py`): Parquet components and `v1.tfrecord`."""
    folder = tmp_path_factory.mktemp("official_waymo")
    with np.load(GOLDEN / "waymo_official.npz") as arrays:
        for name in arrays.files:
            if name.startswith("parquet_"):
                component = folder / name.removeprefix("parquet_")
                component.mkdir()
                (component / "synthetic_0_000_1_000.parquet").write_bytes(arrays[name].tobytes())
        (folder / "v1.tfrecord").write_bytes(arrays["tfrecord"].tobytes())
    return folder
