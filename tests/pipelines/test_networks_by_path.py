"""FVD and DISTS: numbers where their networks are at hand, a reason and a remedy where not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.pipelines.evaluation import distributions
from splatmend.pipelines.evaluation.distributions import I3D_FILE, VideoSet
from splatmend.pipelines.evaluation.metrics import NETWORK_MISSING, REGISTRY, FrameView
from splatmend.pipelines.evaluation.scene_table import how_to_provide

CPU = torch.device("cpu")


class Scripted(torch.nn.Module):
    """Stands for I3D, with its way to be called: mean colours, and mean change from frame to frame, among 400 numbers."""

    def forward(self, clips: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
        assert not rescale
        assert not resize
        assert return_features
        assert clips.shape[1:] == torch.Size([3, 16, 224, 224])
        colours = clips.mean(dim=[2, 3, 4])
        change = (clips[:, :, 1:] - clips[:, :, :-1]).abs().mean(dim=[2, 3, 4])
        rest = torch.zeros(clips.shape[0], 394)
        return torch.cat([colours, change, rest], dim=1)


def frames(count: int, flicker: float = 0.0) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    base = rng.integers(60, 160, (12, 20, 3)).astype(float)
    return [np.clip(base + 2 * i + flicker * (-1) ** i, 0, 255).astype(np.uint8) for i in range(count)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    distributions.i3d.cache_clear()
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_fvd_compares_stretches_with_what_moves_in_them(hub: Path) -> None:
    entry = REGISTRY.distributions["fvd"]
    assert entry.missing() == NETWORK_MISSING
    torch.jit.script(Scripted()).save(str(hub / I3D_FILE))
    assert entry.missing() is None
    judged = entry.start(CPU)
    assert isinstance(judged, VideoSet)
    for frame in frames(40):
        judged.add_real(frame)
    found = []
    for clip in (frames(40), frames(40, flicker=3.0), frames(40, flicker=12.0), frames(23)):
        for frame in clip:
            judged.add(frame)
        found.append(judged.value())
    assert found[0] == pytest.approx(0.0, abs=1e-6)
    little, much = (value for value in found[1:3] if value is not None)
    assert 1e-5 < little < much
    assert found[3] is None  # one stretch of 16 frames has no spread
    distributions.i3d.cache_clear()


def test_fvd_is_the_formula(hub: Path) -> None:
    """|m - m'|^2 + tr(C + C' - 2 sqrt(C C')) of the features of stretches at frames 0, 8, 16, ..."""
    from scipy.linalg import sqrtm

    torch.jit.script(Scripted()).save(str(hub / I3D_FILE))
    judged = VideoSet(distributions.i3d(), CPU)
    rng = np.random.default_rng(3)
    clips = [[rng.integers(0, 256, (224, 224, 3), dtype=np.uint8) // (1 + i // 8) for i in range(40)] for _ in range(2)]
    for real, other in zip(*clips):
        judged.add_real(real)
        judged.add(other // 2)
    moments = []
    for clip, divisor in zip(clips, (1, 2)):
        x = torch.from_numpy(np.stack(clip) // divisor).permute(3, 0, 1, 2).float() / 127.5 - 1
        stretches = torch.stack([x[:, start : start + 16] for start in (0, 8, 16, 24)])
        features = Scripted()(stretches, False, False, True).double().numpy()
        moments.append((features.mean(0), np.cov(features, rowvar=False)))
    (m, c), (n, d) = moments
    expected = np.sum((m - n) ** 2) + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert judged.value() == pytest.approx(expected, rel=1e-3)
    distributions.i3d.cache_clear()


def test_dists_needs_its_network_and_is_torchmetrics_own(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image import dists
    from torchvision.models import vgg16

    metric = REGISTRY.metrics["dists"]
    assert metric.missing() == NETWORK_MISSING
    (hub / "vgg16-397923af.pth").touch()
    assert metric.missing() is None
    torch.manual_seed(0)
    monkeypatch.setattr(dists, "vgg16", lambda weights: vgg16(weights=None))
    picture = torch.rand(48, 64, 3)
    noisy = (picture + 0.2 * torch.randn(48, 64, 3)).clamp(0, 1)
    try:
        assert metric.function(FrameView(picture=picture, truth=picture)) == pytest.approx(0.0, abs=1e-5)
        value = metric.function(FrameView(picture=noisy, truth=picture))
        assert value is not None
        assert value > 0.01
        assert metric.function(FrameView(picture=picture[:20], truth=picture[:20])) is None
    finally:
        from splatmend.datasets.image_metrics import dists_network

        dists_network.cache_clear()


def test_who_lacks_a_network_is_told_what_to_do() -> None:
    scores = {
        "metrics": {
            "a": {"label": "A", "provide": "put x there"},
            "b": {"label": "B", "provide": ""},
            "c": {"label": "C", "provide": "put x there"},
            "d": {"label": "D"},
        }
    }
    assert how_to_provide(scores) == ["for A, C: put x there"]
    for metric in REGISTRY.metrics.values():
        assert bool(metric.provide) == bool({"network", "detector", "lane_model"} & set(metric.needs))
    assert all(entry.provide for entry in REGISTRY.distributions.values())
