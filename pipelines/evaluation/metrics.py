"""The registry of metrics. A metric looks at one frame (and the one before) and gives a number, or None with a reason.

Add one with `register(Metric(...))`; `splatmend evaluate` scores everything that is registered. What compares all frames of a clip with
real ones is a `Distribution`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from splatmend.datasets.image_metrics import (
    BACKBONE_FILES,
    HAARPSI_SIDE_PX,
    LPIPS_SIDE_PX,
    SSIM_SIDE_PX,
    LpipsNet,
    dists_available,
    dists_network,
    float32_convolutions,
    frame_scores,
    lpips_available,
    lpips_score,
    network_free_scores,
)
from splatmend.pipelines.evaluation.distributions import (
    I3D_FILE,
    I3D_FRAMES,
    I3D_STRIDE,
    INCEPTION_FILE,
    FrameSet,
    InceptionSet,
    VideoSet,
    i3d,
    i3d_available,
    inception,
    inception_available,
)
from splatmend.pipelines.evaluation.flow import Flow
from splatmend.pipelines.evaluation.novel_agents import AgentView, LaneView, nta_iou, ntl_iou

NETWORK_MISSING = "network missing"
FEW_VIEWS = 3
"""What fewer training views have seen than this is seen by few."""
SEE_THROUGH = 0.5
"""A pixel with less opacity than this shows what lies behind the scene."""

Need = Literal["truth", "flow", "network", "own_flow", "scene", "detector", "lane_model"]
_HUB = "into torch's hub cache (`splatmend doctor` names the folder)"


@dataclass(frozen=True, kw_only=True)
class SceneView:
    """What the scene itself says of one rendered frame.

    `opacity [H, W]` in [0, 1]; `views` (any shape) how many training views saw what a pixel shows, counted up to `FEW_VIEWS`;
    `depth_error_m [P]` rendered less measured depth at LiDAR points (empty where there are none).
    """

    opacity: np.ndarray
    views: np.ndarray
    depth_error_m: np.ndarray


@dataclass(frozen=True)
class FrameView:
    """What a metric may look at: pictures `[H, W, 3]` float32 in [0, 1]; those before and the flows are None at a clip's first frame.

    `usable` (bool `[H, W]`; None: all) are the pixels where the recording can be trusted; in the others the picture has the truth's values.
    PSNR, SSIM and LPIPS are over usable pixels (`frame_scores` says how), other scores count the others as right.

    `flow` is the truth's, `own_flow` that of the rendered clip itself. `truth` is None where nothing is known to be true, `scene` where
    the picture is no render, `agents` and `lanes` where nothing was looked for.
    """

    picture: torch.Tensor
    truth: torch.Tensor | None = None
    usable: torch.Tensor | None = None
    previous_picture: torch.Tensor | None = None
    flow: Flow | None = None
    own_flow: Flow | None = None
    scene: SceneView | None = None
    agents: AgentView | None = None
    lanes: LaneView | None = None

    @property
    def known_truth(self) -> torch.Tensor:
        """The true picture, for metrics that say they need it."""
        if self.truth is None:
            raise ValueError("this metric needs a true picture")
        return self.truth

    @cached_property
    def pixel_scores(self) -> Mapping[str, float]:
        return frame_scores(self.picture, self.known_truth, usable=self.usable, lpips_net=None)

    @cached_property
    def structure_scores(self) -> Mapping[str, float]:
        return network_free_scores(self.picture, self.known_truth)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of the scores. `function` gives None where this frame cannot be scored, for the reason `undefined` names.

    `missing()` gives the reason why nothing can be scored on this machine, or None; `provide` says what to do about it.
    """

    name: str
    label: str
    direction: Literal["higher", "lower"]
    function: Callable[[FrameView], float | None]
    needs: tuple[Need, ...] = ("truth",)
    missing: Callable[[], str | None] = lambda: None
    provide: str = ""
    undefined: str = "not defined here"
    decimals: int = 3

    @property
    def suits_clips(self) -> bool:
        """Whether clips and a truth are all that it looks at."""
        return "truth" in self.needs


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """How far all frames of a clip are from real frames of other poses. `start(device)` begins an empty set; the other fields are those
    of `Metric`."""

    name: str
    label: str
    start: Callable[[torch.device], FrameSet]
    direction: Literal["higher", "lower"] = "lower"
    missing: Callable[[], str | None] = lambda: None
    provide: str = ""
    undefined: str = "needs real frames"
    decimals: int = 3


@dataclass(kw_only=True)
class Registry:
    """Metrics and distributions by name, in the order in which tables show them."""

    metrics: dict[str, Metric] = field(default_factory=dict)
    distributions: dict[str, Distribution] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.metrics, *self.distributions)

    def register(self, metric: Metric) -> Metric:
        self._refuse_double(metric.name)
        self.metrics[metric.name] = metric
        return metric

    def register_distribution(self, distribution: Distribution) -> Distribution:
        self._refuse_double(distribution.name)
        self.distributions[distribution.name] = distribution
        return distribution

    def _refuse_double(self, name: str) -> None:
        if name in self.names:
            raise ValueError(f"a metric called {name} is registered already")


REGISTRY = Registry()
register = REGISTRY.register


def _structure(name: str) -> Callable[[FrameView], float | None]:
    return lambda view: view.structure_scores.get(name)


def _large(side_px: int) -> str:
    return f"needs pictures of {side_px} pixels or more, not all masked"


def _lpips(net: LpipsNet) -> Metric:
    def score(view: FrameView) -> float | None:
        if min(view.picture.shape[:2]) < LPIPS_SIDE_PX or (view.usable is not None and not bool(view.usable.any())):
            return None
        a, b = (x.permute(2, 0, 1)[None] for x in (view.picture, view.known_truth))
        with float32_convolutions(), torch.no_grad():
            return lpips_score(net, a, b, view.usable)

    return Metric(
        name=f"lpips_{net}",
        label=f"LPIPS {net}" + (" (offline weights)" if net == "squeeze" else ""),
        direction="lower",
        function=score,
        needs=("truth", "network"),
        missing=lambda: None if lpips_available(net) else NETWORK_MISSING,
        provide=f"put torchvision's {BACKBONE_FILES[net]} {_HUB}",
        undefined=_large(LPIPS_SIDE_PX),
    )


def _dists(view: FrameView) -> float | None:
    if min(view.picture.shape[:2]) < LPIPS_SIDE_PX:
        return None
    a, b = (x.permute(2, 0, 1)[None] for x in (view.picture, view.known_truth))
    return float(dists_network(str(view.picture.device))(a, b))


def warping_error(view: FrameView) -> float | None:
    """Mean absolute difference (x 100) between a frame and the one before, moved by the truth's flow, where both see the point.

    After Lai et al. 2018 (Learning Blind Video Temporal Consistency), with the absolute instead of the squared difference. The truth
    itself scores above zero (reflections, noise, flow errors): compare with its row.
    """
    return _warped_difference(view, view.flow)


def own_warping_error(view: FrameView) -> float | None:
    """As `warping_error`, by the flow that is estimated between the rendered frames themselves: for shots that have no truth.

    What flickers so much that no flow can follow it counts as hidden, so compare clips of the same render only.
    """
    return _warped_difference(view, view.own_flow)


def _warped_difference(view: FrameView, flow: Flow | None) -> float | None:
    if view.previous_picture is None or flow is None or flow.visible.mean() < 0.05:
        return None
    warped = flow.warp(view.previous_picture.cpu().numpy())
    difference = np.abs(warped - view.picture.cpu().numpy()).mean(-1)
    return 100.0 * float(difference[flow.visible].mean())


def _depth(summary: Callable[[np.ndarray], float]) -> Callable[[FrameView], float | None]:
    def score(view: FrameView) -> float | None:
        if view.scene is None or not len(view.scene.depth_error_m):
            return None
        return float(summary(np.abs(view.scene.depth_error_m)))

    return score


def _share(chosen: Callable[[SceneView], np.ndarray]) -> Callable[[FrameView], float | None]:
    return lambda view: None if view.scene is None else 100.0 * float(chosen(view.scene).mean())


register(
    Metric(name="psnr", label="PSNR (dB)", direction="higher", function=lambda view: view.pixel_scores.get("psnr"), decimals=2),
)
register(
    Metric(
        name="ssim",
        label="SSIM",
        direction="higher",
        function=lambda view: view.pixel_scores.get("ssim"),
        undefined=_large(SSIM_SIDE_PX),
    )
)
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
register(
    Metric(
        name="gmsd",
        label="GMSD",
        direction="lower",
        function=_structure("gmsd"),
        undefined=_large(HAARPSI_SIDE_PX),
    )
)
register(
    Metric(
        name="haarpsi",
        label="HaarPSI",
        direction="higher",
        function=_structure("haarpsi"),
        undefined=_large(HAARPSI_SIDE_PX),
    )
)
register(
    Metric(
        name="dists",
        label="DISTS",
        direction="lower",
        function=_dists,
        needs=("truth", "network"),
        missing=lambda: None if dists_available() else NETWORK_MISSING,
        provide=f"put torchvision's {BACKBONE_FILES['vgg']} {_HUB}, with torchmetrics 1.7 or later",
        undefined=_large(LPIPS_SIDE_PX),
    )
)
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
register(
    Metric(
        name="own_warping_error",
        label="warping error, own flow (DIS)",
        direction="lower",
        function=own_warping_error,
        needs=("own_flow",),
        undefined="needs consecutive frames",
    )
)
register(
    Metric(
        name="nta_iou",
        label="NTA-IoU",
        direction="higher",
        function=lambda view: None if view.agents is None else nta_iou(view.agents),
        needs=("detector",),
        provide="give --detector: a folder that transformers loads (AutoModelForObjectDetection), or a TorchScript file",
        undefined="no labelled vehicle in view",
    )
)
register(
    Metric(
        name="ntl_iou",
        label="NTL-IoU",
        direction="higher",
        function=lambda view: None if view.lanes is None else ntl_iou(view.lanes),
        needs=("lane_model",),
        provide="give --lane-model: a TorchScript file",
        undefined="no lane line is known (only those of streets are)",
    )
)
for _name, _label, _summary in (
    ("lidar_depth_median_m", "LiDAR depth, median (m)", lambda error_m: float(np.median(error_m))),
    ("lidar_depth_mean_m", "LiDAR depth, mean (m)", lambda error_m: float(np.mean(error_m))),
    ("lidar_depth_over_1m", "LiDAR depth, over 1 m (%)", lambda error_m: 100.0 * float(np.mean(error_m > 1.0))),
):
    register(
        Metric(
            name=_name, label=_label, direction="lower", function=_depth(_summary), needs=("scene",), undefined="no LiDAR at these times"
        )
    )
for _name, _label, _chosen in (
    ("see_through", "see through (%)", lambda scene: scene.opacity < SEE_THROUGH),
    ("never_seen", "never seen (%)", lambda scene: scene.views == 0),
    ("seen_by_few", f"seen by under {FEW_VIEWS} (%)", lambda scene: scene.views < FEW_VIEWS),
):
    register(Metric(name=_name, label=_label, direction="lower", function=_share(_chosen), needs=("scene",), decimals=2))
for _name, _label, _start, _decimals in (
    ("kid", "KID x 1000", lambda device: InceptionSet("kid", inception(), device), 2),
    ("fid", "FID", lambda device: InceptionSet("fid", inception(), device), 1),
):
    REGISTRY.register_distribution(
        Distribution(
            name=_name,
            label=_label,
            start=_start,
            missing=lambda: None if inception_available() else NETWORK_MISSING,
            provide=f"pip install torch-fidelity, and put its {INCEPTION_FILE} {_HUB}",
            decimals=_decimals,
        )
    )
REGISTRY.register_distribution(
    Distribution(
        name="fvd",
        label="FVD",
        start=lambda device: VideoSet(i3d(), device),
        missing=lambda: None if i3d_available() else NETWORK_MISSING,
        provide=f"put the I3D network as TorchScript, {I3D_FILE}, {_HUB}",
        undefined=f"needs {I3D_FRAMES + I3D_STRIDE} real frames and as many of a path",
        decimals=1,
    )
)
