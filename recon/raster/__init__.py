"""Rasterisers of 3D Gaussians behind one function."""

from splatmend.recon.raster.api import rasterize
from splatmend.recon.raster.types import RasterOutput, RasterStats

__all__ = ["RasterOutput", "RasterStats", "rasterize"]
