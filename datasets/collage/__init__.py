"""Collages: flat cut-outs of real pictures standing in space, seen by a moving camera.

Restoration networks can learn natural pictures' statistics from piles of random shapes ("dead leaves": Achddou, Gousseau and Ladjal 2021,
"Synthetic images as a regularity prior for image restoration neural networks"). Here the pile has depth, occlusion and parallax, so
that splats can be fitted to it, and the texture of photographs, so that fits spoil what they spoil on real footage. Truth is exact.
"""

from splatmend.datasets.collage.build import build_collage
from splatmend.datasets.collage.config import CollageConfig
from splatmend.datasets.collage.write import write_collage

__all__ = ["CollageConfig", "build_collage", "write_collage"]
