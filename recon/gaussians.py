"""A set of 3D Gaussians as it is stored and optimised: before activations, in one frame.

Shape letters: N Gaussians, K harmonics per colour (1, 4, 9 or 16).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
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

    def placed(
        self, a_from_bodies: Float[np.ndarray, "M 4 4"], body: Int[Tensor, "N"], twists: Float[Tensor, "M 6"] | None = None
    ) -> Gaussians:
        """Gaussians of several bodies, each in the frame of its own (`body` says which), in frame a.

        Harmonics keep the axes of the bodies: evaluate colours before. `twists` go with each body as in `nudged`.
        """
        poses = upload(a_from_bodies, self.device)
        turns = upload(Rotation.from_matrix(a_from_bodies[:, :3, :3]).as_quat(scalar_first=True), self.device)
        rotations, shifts, lefts = poses[:, :3, :3], poses[:, :3, 3], left_matrices(turns)
        if twists is not None:
            turn, shift = twists[:, :3], twists[:, 3:]
            rotations = rotations + rotations @ cross_matrices(turn)
            shifts = shifts + (poses[:, :3, :3] @ shift[:, :, None])[:, :, 0]
            lefts = lefts @ left_matrices(torch.cat([torch.ones_like(turn[:, :1]), turn / 2], dim=1))
        return replace(
            self,
            means=(rotations.index_select(0, body) * self.means[:, None, :]).sum(dim=-1) + shifts.index_select(0, body),
            quats_wxyz=(lefts.index_select(0, body) * self.quats_wxyz[:, None, :]).sum(dim=-1),
        )

    def nudged(self, a_from_body: Float[np.ndarray, "4 4"], twist: Float[Tensor, "6"]) -> Gaussians:
        """Gaussians of frame a that go along with a body: a turn about its axes (first three, radians), a shift along them.

        To first order: values stay the same bits for a zero twist, whose gradient is that of the body's pose.
        """
        pose = upload(a_from_body, self.device)
        axes, place = pose[:3, :3], pose[:3, 3]
        turn, shift = axes @ twist[:3], axes @ twist[3:]
        half = torch.cat([torch.ones_like(turn[:1]), turn / 2])
        # Products with small matrices: a few kernels where the cross product and its gradient take dozens.
        return replace(
            self,
            means=self.means + ((self.means - place) @ cross_matrices(turn).T + shift),
            quats_wxyz=self.quats_wxyz @ left_matrices(half).T,
        )


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


_LEFT = ("+w -x -y -z", "+x +w -z +y", "+y +z +w -x", "+z -y +x +w")
_CROSS = ("0 -z +y", "+z 0 -x", "-y +x 0")


@functools.lru_cache(maxsize=16)
def _linear(rows: tuple[str, ...], names: str, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "K n2"]:
    """What makes of K numbers, named by letters, the flattened matrix that is written down row by row."""
    out = torch.zeros(len(names), sum(len(row.split()) for row in rows), dtype=dtype)
    for place, entry in enumerate(" ".join(rows).split()):
        if entry != "0":
            out[names.index(entry[1]), place] = 1.0 if entry[0] == "+" else -1.0
    return out.to(device)


def left_matrices(a_wxyz: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Matrices that make of a quaternion b the Hamilton product `a b`: the rotation b followed by the rotation a."""
    return (a_wxyz @ _linear(_LEFT, "wxyz", a_wxyz.dtype, a_wxyz.device)).unflatten(-1, (4, 4))


def cross_matrices(turn: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Matrices that make of a vector v the cross product `turn x v`."""
    return (turn @ _linear(_CROSS, "xyz", turn.dtype, turn.device)).unflatten(-1, (3, 3))
