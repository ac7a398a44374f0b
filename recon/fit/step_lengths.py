"""How far Gaussians go in a step of the optimiser.

Learning rates of places are in units of the scene's extent, as if all stood about as far from the cameras as these are from each other. On
a drive much does not: what stands a metre beside the path would go in one step as far as what stands fifty metres off, across half a
picture. And what few pictures show goes farther for each of them, for Adam measures steps by how large gradients are on average: in a
drive of five hundred pictures a leaf beside the path jumps by decimetres whenever one shows it, and ends as fog before the cameras. So
steps are in proportion to the distance from the nearest camera, and an angle, up to the full step; and since what stands by the path is
shown by some tens of pictures, however many there are, that angle is the smaller the more there are.

Shape letters: N Gaussians, C cameras, one for each picture.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST = 0.005
"""Share of the full step that is left to what touches a camera."""
_PICTURES = 500
"""In so many pictures steps are as long as the distance over the extent says. Adam's step of what a share of the pictures shows is one over
the root of the share."""
_PAIRS = 1 << 22
"""Distances that are held at once."""


class StepLengths:
    """Of a node that cameras at `centres` move through; `extent` is its unit of length. `known` are the shares that were found last, which
    a checkpoint keeps."""

    def __init__(self, centres: Float[Tensor, "C 3"], extent: float) -> None:
        self.centres = centres
        self.extent = extent
        self.known: Float[Tensor, "N 1"] | None = None

    def shares(self, means: Float[Tensor, "N 3"], *, anew: bool) -> Float[Tensor, "N 1"]:
        """Of a full step; those of before where they need not be found `anew` and there are as many Gaussians as then."""
        if anew or self.known is None or len(self.known) != len(means):
            parts = means.detach().split(max(_PAIRS // len(self.centres), 1))
            nearest = torch.cat([_nearest(part, self.centres) for part in parts])
            lengths = nearest * (math.sqrt(_PICTURES / len(self.centres)) / self.extent)
            self.known = lengths.clamp_(_LEAST, 1.0)[:, None]
        return self.known


def _nearest(means: Float[Tensor, "n 3"], centres: Float[Tensor, "C 3"]) -> Float[Tensor, "n"]:
    """Distance to the nearest centre. Axis by axis: by products of matrices it would lose its digits far from the origin, and without
    them `torch.cdist` starts a block of CUDA threads for each pair, which takes a hundred times as long."""
    squared = torch.zeros((), device=means.device)
    for own, of_centres in zip(means.unbind(dim=1), centres.unbind(dim=1), strict=True):
        squared = squared + (own[:, None] - of_centres[None]).square_()
    return squared.amin(dim=1).sqrt()
