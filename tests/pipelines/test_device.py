"""The meaning of `--device`."""

from __future__ import annotations

import pytest
import torch

from splatmend.datasets.errors import UserError
from splatmend.pipelines.device import torch_device


def test_devices_are_named_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("cpu") == torch_device("auto") == "cpu"
    with pytest.raises(UserError, match="no CUDA device"):
        torch_device("cuda")
    with pytest.raises(UserError, match="none of auto"):
        torch_device("foo")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("auto") == torch_device("cuda") == "cuda"
