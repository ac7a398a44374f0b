"""A set of 3D Gaussians as it is stored and optimised: before activations, in one frame.

Shape letters: N Gaussians, K harmonics per colour (1, 4, 9 or 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
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

    def colourless(self) -> Gaussians:
        """The same shapes with no harmonics (K = 0), for when their colours are known."""
        return replace(self, sh=self.sh[:, :0])

    def transformed(self, a_from_b: Float[np.ndarray, "4 4"]) -> Gaussians:
        """Means and rotations (of frame b) in frame a; the pose is rigid. Harmonics keep the axes of frame b: evaluate colours before."""
        pose = upload(a_from_b, self.device)
        turn = upload(Rotation.from_matrix(a_from_b[:3, :3]).as_quat(scalar_first=True), self.device)
        return replace(self, means=self.means @ pose[:3, :3].T + pose[:3, 3], quats_wxyz=turned(turn, self.quats_wxyz))

    def nudged(self, a_from_body: Float[np.ndarray, "4 4"], twist: Float[Tensor, "6"]) -> Gaussians:
        """Gaussians of frame a that go along with a body: a turn about its axes (first three, radians), a shift along them.

        To first order: values stay the same bits for a zero twist, whose gradient is that of the body's pose.
        """
        pose = upload(a_from_body, self.device)
        axes, place = pose[:3, :3], pose[:3, 3]
        turn, shift = axes @ twist[:3], axes @ twist[3:]
        half = torch.cat([torch.ones_like(turn[:1]), turn / 2])
        # Products with small matrices: a few kernels where the cross product and its gradient take dozens.
        across = torch.linalg.cross(torch.eye(3, dtype=turn.dtype, device=turn.device), turn.expand(3, 3))
        return replace(self, means=self.means + ((self.means - place) @ across.T + shift), quats_wxyz=turned(half, self.quats_wxyz))


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
    most = max(part.sh.shape[1] for part in parts)
    padded = [torch.nn.functional.pad(part.sh, (0, 0, 0, most - part.sh.shape[1])) for part in parts]
    return Gaussians(
        means=torch.cat([part.means for part in parts]),
        quats_wxyz=torch.cat([part.quats_wxyz for part in parts]),
        log_scales=torch.cat([part.log_scales for part in parts]),
        opacity_logits=torch.cat([part.opacity_logits for part in parts]),
        sh=torch.cat(padded),
    )


def turned(a_wxyz: Float[Tensor, "4"], b_wxyz: Float[Tensor, "N 4"]) -> Float[Tensor, "N 4"]:
    """Hamilton products `a b`: the rotations b followed by the rotation a."""
    w, x, y, z = a_wxyz.unbind()
    rows = [torch.stack(row) for row in ((w, -x, -y, -z), (x, w, -z, y), (y, z, w, -x), (z, -y, x, w))]
    return b_wxyz @ torch.stack(rows).T
