"""Processes that share cores: each works with the threads that it was told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import ClipWriter
from splatmend.enhance.train.data import DataConfig, RawBatch, TrainingClips

ASK = """
import cv2, torch
from splatmend.datasets.threads import use_threads
use_threads(1)
print(torch.get_num_threads(), cv2.getNumThreads())
"""


def test_pytorch_and_opencv_heed_it() -> None:
    assert subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.split() == ["1", "1"]


def test_workers_that_prepare_batches_take_one_thread_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in a worker, where OpenCV would otherwise take every core."""
    manifest = Manifest(kind="clip", config={})
    with building(tmp_path / "clip", manifest) as folder, ClipWriter(folder, encoding="png", rate_hz=10.0) as writer:
        for _ in range(5):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    clips = TrainingClips(DataConfig(videos=(tmp_path / "clip",), workers=1), clip_frames=5, crop_px=(16, 16), batch=1, seed=0)
    raw = clips.raw

    def told(step: int, process: int = 0) -> RawBatch:
        batch = raw(step, process)
        batch.target[:] = cv2.getNumThreads()
        return batch

    monkeypatch.setattr(clips, "raw", told)
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    # A pool of threads is there when workers are forked.
    big = np.zeros((2000, 2000, 3), np.uint8)
    cv2.GaussianBlur(cv2.resize(big, (1500, 1500)), (0, 0), 5.0)
    try:
        batches = clips.batches(0, 0, torch.device("cpu"))
        target = next(batches).target
        assert cv2.getNumThreads() == 3, "its own threads"
        batches.close()
    finally:
        cv2.setNumThreads(before)
    assert round(float((target.float().mean() + 1) * 127.5)) == 1
