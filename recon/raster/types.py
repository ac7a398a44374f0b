"""What goes through the rasteriser's door: inputs after the checks, and the picture that comes out.

Shape letters: N Gaussians, C channels, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Float, Int
from torch import Tensor

from splatmend.recon.raster.camera_rays import RayCamera


@dataclass(frozen=True, kw_only=True)
class RasterInputs:
    """Gaussians in one world frame and one camera; every tensor is float32 and on one device. The `ray` model has a `ray_camera`."""

    means: Float[Tensor, "N 3"]
    quats_wxyz: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, "N"]
    channels: Float[Tensor, "N C"]
    camera_from_world: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    width: int
    height: int
    near_m: float
    far_m: float
    eps2d: float
    ray_camera: RayCamera | None
    line_views: tuple[Float[Tensor, "3"], Float[Tensor, "V 4 4"]] | None = None
    """What `splatmend.recon.raster.camera_rays.line_views` says of the `ray_camera`, where it is on the device already."""


@dataclass(frozen=True, kw_only=True)
class RasterStats:
    """Counts of one call, for logs and benchmarks."""

    model: str
    """Splat model that drew the picture."""
    backend: str
    """Backend that drew the picture."""
    intersections: int
    """Pairs of a screen tile and a Gaussian that may touch it. Backends cut tiles differently, so compare only within one."""


@dataclass(frozen=True, kw_only=True)
class RasterOutput:
    """One picture."""

    channels: Float[Tensor, "H W C"]
    """Alpha-blended channels, with the background behind them where one was given."""
    opacity: Float[Tensor, "H W"]
    """One minus the transmittance left behind the last Gaussian of the pixel."""
    means2d: Float[Tensor, "N 2"] | None
    """Projected means in pixels (x right, y down, the first pixel's centre at 0.5). It keeps its gradient after `backward` when the
    means require one. Rows of Gaussians that are not `visible` are meaningless. None where a backend has no such gradient."""
    radii: Int[Tensor, "N 2"]
    """Half sides of the box around the splat in whole pixels, 0 where it is not drawn."""
    stats: RasterStats

    @cached_property
    def radii_px(self) -> Int[Tensor, "N"]:
        """The larger half side."""
        return self.radii.amax(dim=-1).int()

    @cached_property
    def visible(self) -> Bool[Tensor, "N"]:
        """Gaussians whose box touches the picture, between the near and the far plane."""
        return self.radii_px > 0
