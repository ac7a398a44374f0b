"""A set of 3D Gaussians as it is stored and optimised: before activations, in one frame.

Shape letters: N Gaussians, K harmonics per colour (1, 4, 9 or 16).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from splatmend.recon.transfer import upload


@dataclass(frozen=True, kw_only=True)
class Gaussians:
    """Gaussians in the frame of the node that holds them, float32.

    `log_scales` are natural logarithms of standard deviations, `opacity_logits` go through a sigmoid, `quats_wxyz` need not be
    normalised, `sh` are coefficients of real spherical harmonics in the order of `splatmend.recon.harmonics`.
    """

    means: Float[Tensor, "N 3"]
    quats_wxyz: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    opacity_logits: Float[Tensor, "N"]
    sh: Float[Tensor, "N K 3"]

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def device(self) -> torch.device:
        return self.means.device

    @property
    def sh_degree(self) -> int:
        """Degree of the harmonics that are stored."""
        return round(self.sh.shape[1] ** 0.5) - 1

    @property
    def scales(self) -> Float[Tensor, "N 3"]:
        """Standard deviations along the axes."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Float[Tensor, "N"]:
        """In [0, 1]."""
        return self.opacity_logits.sigmoid()

    def to(self, device: str | torch.device) -> Gaussians:
        """The same Gaussians on another device."""
        return Gaussians(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def detached(self) -> Gaussians:
        """The same values outside every graph."""
        return Gaussians(**{f.name: getattr(self, f.name).detach() for f in fields(self)})

    def select(self, which: Tensor) -> Gaussians:
        """Those of a bool mask `[N]` or of indices."""
        return Gaussians(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def empty(sh_degree: int = 0, device: str | torch.device = "cpu") -> Gaussians:
    """No Gaussian at all."""
    return Gaussians(
        means=torch.zeros(0, 3, device=device),
        quats_wxyz=torch.zeros(0, 4, device=device),
        log_scales=torch.zeros(0, 3, device=device),
        opacity_logits=torch.zeros(0, device=device),
        sh=torch.zeros(0, (sh_degree + 1) ** 2, 3, device=device),
    )


def concatenate(parts: Sequence[Gaussians]) -> Gaussians:
    """All of them one after the other; those of lower harmonic degree get zeros for the higher ones."""
    return Gaussians(
        means=joined([part.means for part in parts]),
        quats_wxyz=joined([part.quats_wxyz for part in parts]),
        log_scales=joined([part.log_scales for part in parts]),
        opacity_logits=joined([part.opacity_logits for part in parts]),
        sh=joined_harmonics([part.sh for part in parts]),
    )


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other; one alone is not copied."""
    return torch.cat(list(parts)) if len(parts) > 1 else parts[0]


def joined_harmonics(parts: Sequence[Float[Tensor, "N K 3"]]) -> Float[Tensor, "N K 3"]:
    """Likewise harmonics; those of lower degree get zeros for the higher ones."""
    most = max(part.shape[1] for part in parts)
    return joined([part if part.shape[1] == most else torch.nn.functional.pad(part, (0, 0, 0, most - part.shape[1])) for part in parts])


def left_matrices(a_wxyz: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Matrices that make of a quaternion b the Hamilton product `a b`: the rotation b followed by the rotation a."""
    return (a_wxyz @ left_entries(a_wxyz.dtype, a_wxyz.device)).unflatten(-1, (4, 4))


_LEFT = "+w -x -y -z +x +w -z +y +y +z +w -x +z -y +x +w"


@functools.lru_cache(maxsize=16)
def left_entries(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "4 16"]:
    """What makes of w, x, y, z the flattened matrix."""
    out = torch.zeros(4, 16, dtype=dtype)
    for place, entry in enumerate(_LEFT.split()):
        out["wxyz".index(entry[1]), place] = 1.0 if entry[0] == "+" else -1.0
    return out.to(device)


@functools.lru_cache(maxsize=64)
def body_of_each(counts: tuple[int, ...], device: torch.device) -> Int[Tensor, "N"]:
    """Which body each Gaussian belongs to, where those of several stand one after the other."""
    bodies = torch.arange(len(counts), dtype=torch.int32, device=device)
    return torch.repeat_interleave(bodies, upload(np.array(counts), device, torch.int64), output_size=sum(counts))
