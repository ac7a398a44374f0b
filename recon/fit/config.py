"""Settings of a fit. Lengths in "extents" are multiples of the scene's extent (see `splatmend.recon.fit.points.scene_extent`)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from splatmend.datasets.errors import UserError
from splatmend.datasets.log import ActorClass

LARGEST_SEED = 2**32 - 1
SMALLEST_SIDE = 17
"""Rows and columns that a fitted picture needs: SSIM looks through a window of 11, and what LPIPS makes of 16 is empty."""


def _need(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(f"fit settings: {sentence}.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which frames are fitted, and at which size."""

    max_width: int | None = None
    """Pictures wider than this are made smaller; None keeps their size."""
    cameras: tuple[str, ...] = ()
    """Cameras to use; empty means all."""
    holdout_every: int = 8
    """One frame of each camera in so many is kept back to be scored, the middle one of each run; 0 keeps none back."""
    train_every: int = 1
    """Fit only every n-th of the other frames (sparse fits make degraded pictures to train an enhancer on)."""
    bridge_jumps: bool = True
    """Replace poses of cameras and vehicle that cannot be right by their neighbours', and drop such boxes (metric logs); what was
    found is said."""
    cache_mib: int = 2048
    """Decoded pictures kept in memory; the rest is read again when it is due."""

    def __post_init__(self) -> None:
        _need(self.max_width is None or self.max_width >= 32, f"max_width must be at least 32, not {self.max_width}")
        _need(self.holdout_every == 0 or self.holdout_every >= 2, f"holdout_every must be 0 or at least 2, not {self.holdout_every}")
        _need(self.train_every >= 1, f"train_every must be at least 1, not {self.train_every}")
        _need(self.cache_mib >= 0, f"cache_mib must not be negative, not {self.cache_mib}")


@dataclass(frozen=True, kw_only=True)
class CoarseConfig:
    """Smaller pictures to begin with: early iterations, which find where things are, then take less time."""

    until: float = 0.0
    """Share of the iterations before pictures have their full size; 0: they have it from the first one on."""
    halvings: int = 2
    """How often the sides of the first pictures are halved. Over that share they double in equal parts: with 2, a quarter of the sides,
    then half of them. Pictures that would become too small to be compared are halved less often."""

    def __post_init__(self) -> None:
        _need(0 <= self.until <= 1, f"coarse.until must lie between 0 and 1, not {self.until}")
        _need(1 <= self.halvings <= 6, f"coarse.halvings must lie between 1 and 6, not {self.halvings}")


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Gaussians to begin with."""

    point_count: int = 100_000
    """Most Gaussians from LiDAR or structure-from-motion points; more points are thinned."""
    ray_count: int = 40_000
    """Gaussians at random depths along pixel rays, for what the points do not reach (all there is without points)."""
    voxel_m: float = 0.04
    """Points closer than this (at 5 m from the nearest camera; in proportion farther away) become one."""
    far_m: float = 150.0
    """Farthest random depth along rays in metric scenes."""
    min_actor_points: int = 40
    """An actor with fewer LiDAR points in its box begins with points all over the box's sides, coloured by the picture that sees it from
    nearest; one that stands still stays part of the background."""
    actor_count: int = 8_000
    """Most initial Gaussians per actor."""
    scale: float = 0.5
    """Initial standard deviation over the mean distance to the three nearest points."""
    opacity: float = 0.5
    """Initial opacity of points."""
    ray_opacity: float = 0.2
    """Initial opacity of Gaussians along rays."""

    def __post_init__(self) -> None:
        _need(min(self.point_count, self.ray_count) >= 0, "point_count and ray_count must not be negative")
        _need(self.point_count + self.ray_count > 0, "point_count and ray_count must not both be 0")
        _need(0 < self.voxel_m < math.inf and 10 < self.far_m < math.inf, "voxel_m must be a number above 0 and far_m one above 10")
        _need(self.min_actor_points >= 4 and self.actor_count >= 4, "min_actor_points and actor_count must be at least 4")
        _need(0 < self.scale < math.inf, f"the initial scale must be a number above 0, not {self.scale}")
        _need(0 < self.opacity < 1 and 0 < self.ray_opacity < 1, "initial opacities must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class RatesConfig:
    """Learning rates (Adam). Those of means count in extents and fall exponentially."""

    means: float = 1.6e-4
    """At the start."""
    means_end: float = 1.6e-6
    """At the end."""
    means_by_distance: bool = True
    """Whether steps of the background are the shorter the nearer the path they are made."""
    quats: float = 1e-3
    """Rotations."""
    log_scales: float = 5e-3
    """Sizes."""
    opacity_logits: float = 5e-2
    """Opacities."""
    sh0: float = 2.5e-3
    """Colours of degree 0."""
    sh_rest: float = 1.25e-4
    """The other harmonics."""
    sky: float = 1e-2
    """Sky map."""
    exposure: float = 3e-2
    """Colour correction of a picture, each time that it is shown."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            _need(0 <= getattr(self, name) < math.inf, f"the learning rate {name} must be a number from 0 on, not {getattr(self, name)}")
        _need(0 < self.means_end <= self.means, "means_end must be positive and not above means")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss's terms."""

    ssim: float = 0.2
    """Share of 1 - SSIM; the rest is L1."""
    lidar_depth: float = 0.05
    """Relative error of the depth at LiDAR points."""
    ground_opacity: float = 0.05
    """Transparency of pixels that look at least 3 degrees down (metric scenes): there is no sky below the horizon."""
    opacity: float = 0.01
    """Mean opacity: what is not needed fades, and is moved by the densification (Kheradmand et al. 2024)."""
    scale: float = 0.01
    """Mean standard deviation in extents, likewise."""
    bending: float = 0.5
    """Bending of surfaces, by the depth that is drawn, away from edges of the photo."""
    exposure: float = 0.1
    """Mean squared colour correction."""
    depth_every: int | None = None
    """Iterations from one with terms on depth (`lidar_depth`, `bending`) to the next; they weigh as much more. None: 1,
    and 5 for the model "ray", where depth is drawn in a pass of its own."""

    def __post_init__(self) -> None:
        _need(self.depth_every is None or self.depth_every >= 1, f"loss.depth_every must be at least 1, not {self.depth_every}")
        for name in set(self.__dataclass_fields__) - {"depth_every"}:
            _need(0 <= getattr(self, name) < math.inf, f"the loss weight {name} must be a number from 0 on, not {getattr(self, name)}")
        _need(self.ssim <= 1, f"the loss weight ssim must not exceed 1, not {self.ssim}")


@dataclass(frozen=True, kw_only=True)
class ExposureConfig:
    """How colours differ from picture to picture (see `splatmend.recon.exposure`). `rates.exposure` and `loss.exposure` are those of both
    models."""

    model: Literal["affine", "bilateral"] = "affine"
    """"affine" is one map of colours per picture; "bilateral" a grid of maps over the picture and over brightness, for cameras that darken
    towards the corners or brighten parts of a picture on their own (Wang et al. 2024)."""
    columns: int = 8
    """Vertices of a grid along a picture's width."""
    rows: int = 8
    """Along its height."""
    levels: int = 4
    """Along brightness."""
    variation: float = 0.1
    """Weight of the mean square change of a grid's maps from vertex to vertex."""

    def __post_init__(self) -> None:
        for name in ("columns", "rows", "levels"):
            _need(1 <= getattr(self, name) <= 64, f"exposure.{name} must lie between 1 and 64, not {getattr(self, name)}")
        _need(0 <= self.variation < math.inf, f"exposure.variation must be a number from 0 on, not {self.variation}")

    @property
    def grid(self) -> tuple[int, ...]:
        """Levels, rows and columns of a picture's grid; `()` for one map."""
        return (self.levels, self.rows, self.columns) if self.model == "bilateral" else ()


@dataclass(frozen=True, kw_only=True)
class DensifyConfig:
    """How the number of Gaussians grows, for each node alone."""

    strategy: Literal["mcmc", "classic"] = "classic"
    """"mcmc" relocates what has faded, grows by a share and shakes (Kheradmand et al. 2024), with the loss's terms `opacity` and `scale`;
    "classic" doubles, splits and removes by gradients (Kerbl et al. 2023), without them. Both stop at the caps."""
    cap: int = 400_000
    """Most Gaussians of the background, those to begin with included."""
    actor_cap: int = 20_000
    """Most Gaussians of an actor, likewise."""
    start: int = 200
    """First iteration that relocates, adds or removes."""
    stop_share: float = 0.8
    """Share of the iterations after which the number is fixed and nothing is relocated any more."""
    every: int = 100
    """Iterations between relocations."""
    classic_gradient: float = 2e-4
    """Mean gradient, for places counted in half widths of the picture, from which on "classic" doubles or splits."""

    def __post_init__(self) -> None:
        _need(0 < self.classic_gradient < math.inf, f"densify.classic_gradient must be a number above 0, not {self.classic_gradient}")
        _need(self.cap >= 1 and self.actor_cap >= 1, "caps must be at least 1")
        _need(self.start >= 0 and self.every >= 1, "densify.start must not be negative, densify.every at least 1")
        _need(0 <= self.stop_share <= 1, "densify.stop_share must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class CorrectionConfig:
    """How the poses of the log are corrected (see `splatmend.recon.fit.corrections`). Lengths are metres, in scenes without a scale median
    camera steps."""

    on: bool = True
    """Whether they are."""
    rate_deg: float = 0.05
    """Learning rate of rotations (Adam, per picture shown); rates fall exponentially."""
    rate_m: float = 0.015
    """Learning rate of shifts."""
    spread_deg: float = 0.5
    """How far a rotation is expected to be off, about each axis."""
    spread_m: float = 0.1
    """How far a place is expected to be off, along each axis."""
    smooth: Literal["corrections", "course"] = "corrections"
    """What is held smooth over time: corrections, where measured courses are smooth already though off, or the corrected course, where
    poses were measured one by one."""
    smooth_share: float = 0.5
    """How far a correction is expected to be from the mean of those before and after, over the spread ("corrections")."""
    acceleration_deg_s2: float = 45.0
    """How fast a turn rate is expected to change, about each axis ("course")."""
    acceleration_m_s2: float = 3.0
    """How fast a speed is expected to change, along each axis ("course")."""
    weight: float = 2e-4
    """Of both priors: the loss of one number that is off by its spread."""
    start_share: float = 0.1
    """Share of the iterations before corrections begin."""

    def __post_init__(self) -> None:
        for name in ("rate_deg", "rate_m", "weight"):
            _need(0 <= getattr(self, name) < math.inf, f"{name} of pose corrections must be a number from 0 on, not {getattr(self, name)}")
        _need(self.smooth in ("corrections", "course"), f"smooth of pose corrections must be corrections or course, not {self.smooth}")
        for name in ("spread_deg", "spread_m", "smooth_share", "acceleration_deg_s2", "acceleration_m_s2"):
            _need(0 < getattr(self, name) < math.inf, f"{name} of pose corrections must be a number above 0, not {getattr(self, name)}")
        _need(0 <= self.start_share <= 1, f"start_share of pose corrections must lie between 0 and 1, not {self.start_share}")


_BENDING: tuple[ActorClass, ...] = ("pedestrian", "cyclist")
"""What bends unless one says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ActorsConfig:
    """What is known of actors by their class. A class that is not named is rigid and may look different on its two sides."""

    deformable: tuple[ActorClass, ...] | None = None
    """Classes whose bodies bend: their Gaussians move in the box over time. None: pedestrians and cyclists, but for those that `symmetric`
    or `left_out` names; without a class after it: none at all."""
    symmetric: tuple[ActorClass, ...] = ()
    """Classes whose left and right are alike. It is used where pictures see one side of an actor only."""
    left_out: tuple[ActorClass, ...] = ()
    """Classes whose boxes are not used: such bodies are part of the background."""
    mirrored_share: float = 0.15
    """Share of the pictures in which an actor that is seen from one side only is drawn mirrored, so that its other side is fitted too."""
    cadences_hz: tuple[float, ...] = (0.5, 0.8, 1.0, 1.2)
    """The Gaussians of a deformable actor follow courses over time, each in its own measure. Courses begin as a cosine and a sine of each
    of these frequencies (people swing their limbs about once a second) and are learnt from there."""
    course_step_s: float = 0.2
    """Seconds between the control values of a course."""
    motion_rate: float = 1e-2
    """Learning rate (Adam) of that measure, in radians and metres."""
    course_rate: float = 2e-2
    """Learning rate of courses, whose values are about 1."""
    motion: float = 1e-3
    """Weight of the mean square of that measure (radians, and metres over half the diagonal of the box)."""
    course_bend: float = 1e-3
    """Weight of the mean square of the second differences of a course's control values."""

    def __post_init__(self) -> None:
        named = {"deformable": self.deformable or (), "symmetric": self.symmetric, "left_out": self.left_out}
        for one, other in (("deformable", "symmetric"), ("deformable", "left_out"), ("symmetric", "left_out")):
            both = set(named[one]) & set(named[other])
            _need(not both, f"actors of class {min(both, default='')} cannot be both {one} and {other}; leave it out of one of them")
        _need(0 <= self.mirrored_share <= 0.5, f"mirrored_share must lie between 0 and 0.5, not {self.mirrored_share}")
        _need(1 <= len(self.cadences_hz) <= 32, f"there must be 1 to 32 cadences_hz, not {len(self.cadences_hz)}")
        _need(all(0 <= cadence < math.inf for cadence in self.cadences_hz), "cadences_hz must be numbers from 0 on")
        _need(1e-3 <= self.course_step_s < math.inf, f"course_step_s must be at least 0.001, not {self.course_step_s}")
        for name in ("motion_rate", "course_rate", "motion", "course_bend"):
            _need(0 <= getattr(self, name) < math.inf, f"{name} of actors must be a number from 0 on, not {getattr(self, name)}")

    @property
    def bending(self) -> tuple[ActorClass, ...]:
        """The classes that `deformable` comes to."""
        if self.deformable is not None:
            return self.deformable
        return tuple(name for name in _BENDING if name not in (*self.symmetric, *self.left_out))


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How a log becomes a scene."""

    iterations: int = 5_000
    """Pictures shown to the optimiser, one per iteration. Several processes (see `splatmend.recon.fit.processes`) show one each in a step,
    which counts for as many iterations; all intervals here count pictures likewise."""
    sh_degree: int = 3
    """Degree of the colours' harmonics, 0 to 3."""
    sh_every: int = 1_000
    """Iterations per degree: degree n is used from iteration n times this on."""
    sky_rows: int = 256
    """Rows of the sky map; 0 leaves the sky out."""
    camera_model: Literal["ewa", "ray"] = "ewa"
    """Splat model: "ewa" draws conics with a pinhole at mid exposure, so pictures are undistorted first; "ray" follows each pixel's own
    ray, with the lens and the rolling shutter as they are; a step takes about as long on CUDA and twice as long on the CPU."""
    data: DataConfig = field(default_factory=DataConfig)
    """Frames."""
    coarse: CoarseConfig = field(default_factory=CoarseConfig)
    """Smaller pictures to begin with."""
    movers: Literal["auto", "labels", "lidar", "off"] = "auto"
    """What moves: "labels" takes the log's boxes; "lidar" finds vehicles by the motion in its sweeps instead, and keeps what else comes and
    goes out of the background; "auto" does so where a log with sweeps has no boxes; "off" takes everything to stand."""
    actors: ActorsConfig = field(default_factory=ActorsConfig)
    """What actors are like, by class."""
    camera_poses: CorrectionConfig = field(default_factory=CorrectionConfig)
    """Corrections of camera poses, one per picture; pictures that are not fitted take those of their camera's neighbours in time."""
    actor_poses: CorrectionConfig = field(default_factory=lambda: CorrectionConfig(weight=2e-5, smooth="course"))
    """Corrections of the actors' poses over time; an actor shows in fewer pixels, so the priors weigh less. Boxes are drawn one by one, by
    hand or by a detector, so it is their course that is smooth."""
    init: InitConfig = field(default_factory=InitConfig)
    """First Gaussians."""
    rates: RatesConfig = field(default_factory=RatesConfig)
    """Learning rates."""
    loss: LossConfig = field(default_factory=LossConfig)
    """Loss."""
    exposure: ExposureConfig = field(default_factory=ExposureConfig)
    """Colours that differ from picture to picture."""
    densify: DensifyConfig = field(default_factory=DensifyConfig)
    """Densification."""
    snapshots_at: tuple[int, ...] = ()
    """Iterations after which a copy of the scene is kept in `snapshots/` (an unfinished scene is a degraded one)."""
    checkpoint_every: int = 1_000
    """Iterations between checkpoints; an interruption (Ctrl-C, SIGTERM) writes one as well."""
    log_every: int = 50
    """Iterations between rows of the loss curve and checks for values that are not finite."""
    seed: int = 0
    """Of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to fit; "auto" takes CUDA where there is some."""
    backend: Literal["cpu", "gsplat"] | None = None
    """Rasteriser; by default the one of the device."""
    cuda_graphs: bool = True
    """On CUDA, start the kernels of a picture's loss together, as graphs; where memory is short, fits without them take less of it."""

    def __post_init__(self) -> None:
        _need(0 <= self.seed <= LARGEST_SEED, f"seed must lie between 0 and {LARGEST_SEED}, not {self.seed}")
        _need(self.iterations >= 1, f"iterations must be at least 1, not {self.iterations}")
        _need(0 <= self.sh_degree <= 3, f"sh_degree must lie between 0 and 3, not {self.sh_degree}")
        _need(self.sh_every >= 1 and self.checkpoint_every >= 1 and self.log_every >= 1, "intervals must be at least 1")
        _need(self.sky_rows == 0 or self.sky_rows >= 8, f"sky_rows must be 0 or at least 8, not {self.sky_rows}")
        outside = [i for i in self.snapshots_at if not 1 <= i <= self.iterations]
        _need(not outside, f"snapshots_at must lie between 1 and iterations, not {outside[:1]}")
