"""The registry of metrics. A metric looks at one frame (and the one before) and gives a number, or None with a reason.

Add one with `register(Metric(...))`; `splatmend evaluate` scores everything that is registered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from splatmend.datasets.image_metrics import LpipsNet, frame_scores, lpips_available, lpips_network, network_free_scores
from splatmend.pipelines.evaluation.flow import Flow

NETWORK_MISSING = "network missing"


@dataclass(frozen=True)
class FrameView:
    """What a metric may look at: pictures `[H, W, 3]` float32 in [0, 1]; those before and the flow are None at a clip's first frame."""

    picture: torch.Tensor
    truth: torch.Tensor
    previous_picture: torch.Tensor | None = None
    flow: Flow | None = None

    @cached_property
    def pixel_scores(self) -> Mapping[str, float]:
        return frame_scores(self.picture, self.truth, lpips_net=None)

    @cached_property
    def structure_scores(self) -> Mapping[str, float]:
        return network_free_scores(self.picture, self.truth)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of the scores. `function` gives None where this frame cannot be scored, for the reason `undefined` names.

    `missing()` gives the reason why nothing can be scored on this machine, or None.
    """

    name: str
    label: str
    direction: Literal["higher", "lower"]
    function: Callable[[FrameView], float | None]
    needs: tuple[Literal["truth", "flow", "network"], ...] = ("truth",)
    missing: Callable[[], str | None] = lambda: None
    undefined: str = "not defined here"
    decimals: int = 3


@dataclass(kw_only=True)
class Registry:
    """Metrics by name, in the order in which tables show them."""

    metrics: dict[str, Metric] = field(default_factory=dict)

    def register(self, metric: Metric) -> Metric:
        if metric.name in self.metrics:
            raise ValueError(f"a metric called {metric.name} is registered already")
        self.metrics[metric.name] = metric
        return metric


REGISTRY = Registry()
register = REGISTRY.register


def _lpips(net: LpipsNet) -> Metric:
    def score(view: FrameView) -> float:
        a, b = (x.permute(2, 0, 1)[None] * 2 - 1 for x in (view.picture, view.truth))
        with torch.no_grad():
            return float(lpips_network(net, str(view.picture.device))(a, b))

    return Metric(
        name=f"lpips_{net}",
        label=f"LPIPS {net}" + (" (offline weights)" if net == "squeeze" else ""),
        direction="lower",
        function=score,
        needs=("truth", "network"),
        missing=lambda: None if lpips_available(net) else NETWORK_MISSING,
    )


def warping_error(view: FrameView) -> float | None:
    """Mean absolute difference (x 100) between a frame and the one before, moved by the truth's flow, where both see the point.

    After Lai et al. 2018 (Learning Blind Video Temporal Consistency), with the absolute instead of the squared difference. The truth
    itself scores above zero (reflections, noise, flow errors): compare with its row.
    """
    if view.previous_picture is None or view.flow is None or view.flow.visible.mean() < 0.05:
        return None
    warped = view.flow.warp(view.previous_picture.cpu().numpy())
    difference = np.abs(warped - view.picture.cpu().numpy()).mean(-1)
    return 100.0 * float(difference[view.flow.visible].mean())


register(
    Metric(name="psnr", label="PSNR (dB)", direction="higher", function=lambda view: view.pixel_scores["psnr"], decimals=2),
)
register(Metric(name="ssim", label="SSIM", direction="higher", function=lambda view: view.pixel_scores["ssim"]))
for _net in ("squeeze", "alex", "vgg"):
    register(_lpips(_net))
register(
    Metric(
        name="ms_ssim",
        label="MS-SSIM",
        direction="higher",
        function=lambda view: view.structure_scores.get("ms_ssim"),
        undefined="needs pictures of more than 160 pixels",
    )
)
register(Metric(name="gmsd", label="GMSD", direction="lower", function=lambda view: view.structure_scores["gmsd"]))
register(Metric(name="haarpsi", label="HaarPSI", direction="higher", function=lambda view: view.structure_scores["haarpsi"]))
register(
    Metric(
        name="warping_error",
        label="warping error",
        direction="lower",
        function=warping_error,
        needs=("truth", "flow"),
        undefined="needs consecutive frames",
    )
)
