"""Shared fixtures: the folder of real samples, and no GPU tests where there is no GPU."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SAMPLES = Path(os.environ.get("SPLATMEND_SAMPLES", REPOSITORY.parent / "shared" / "data"))
SQUEEZENET = "squeezenet1_1-b8a52dc0.pth"


def _offer_squeezenet() -> None:
    """Where the hub cache lacks LPIPS's SqueezeNet and the samples bring one, point torch at a cache that has it."""
    brought = SAMPLES.parent / "weights" / "squeezenet1_1_imagenet.pth"
    if (Path(torch.hub.get_dir()) / "checkpoints" / SQUEEZENET).is_file() or not brought.is_file():
        return
    home = Path(tempfile.mkdtemp(prefix="splatmend-torch-home-"))
    (home / "hub" / "checkpoints").mkdir(parents=True)
    (home / "hub" / "checkpoints" / SQUEEZENET).symlink_to(brought.resolve())
    os.environ["TORCH_HOME"] = str(home)


# At import, since tests decide when they are collected whether to skip.
_offer_squeezenet()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real samples: `$SPLATMEND_SAMPLES`, or `shared/data` beside the repository. Skips where there is none."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no real samples at {SAMPLES} (set SPLATMEND_SAMPLES)")
    return SAMPLES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
