"""How many threads a process computes with, where several processes share the cores."""

from __future__ import annotations

import cv2
import torch


def use_threads(count: int) -> None:
    """Let PyTorch and OpenCV work with so many threads in this process. OpenCV heeds no OMP_NUM_THREADS and takes all cores, so that
    some processes side by side, each with all of them, mostly wait for one another."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
