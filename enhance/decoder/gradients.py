"""Where the gradients of a clip are gathered, and what `loss_and_grad` returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from splatmend.enhance.decoder.chunks import SpatialCrop


class LossAndGrad(NamedTuple):
    """A clip's loss and its truncated gradients (of `loss * loss_scale`)."""

    loss: torch.Tensor
    """Scalar: sum of the group losses divided once by the number of valid frames. Not scaled, detached."""
    grad_z: torch.Tensor
    """Gradient with respect to the latents [B, C, L, h, w], in their dtype."""
    grad_side: list[dict[str, torch.Tensor]]
    """Per group: block name -> gradient of that side tensor, for side tensors that require a gradient."""
    grad_params: tuple[torch.Tensor, ...]
    """Gradients of `params` in their order and dtype; zeros where a parameter had no influence."""


def surrogate(z: torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient with respect to `z` is `grad_z`: `(z * grad_z).sum()`, with `grad_z` held constant.

    For frameworks that must start the backward pass themselves (accelerate, DistributedDataParallel, GradScaler). Its value means
    nothing; log `LossAndGrad.loss` instead. Scale once: either by `loss_scale` or through the framework, not both.
    """
    return (z * grad_z.detach()).sum()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32: many small contributions are summed, and half precision would lose them."""
    return torch.promote_types(dtype, torch.float32)


class GradientSums:
    """Running sums of the gradients of one clip, each in float32 or wider, whole frames whatever crop a contribution comes from."""

    def __init__(self, z: torch.Tensor, params: Sequence[torch.Tensor]) -> None:
        self._z = torch.zeros_like(z, dtype=accumulation_dtype(z.dtype))
        self._z_dtype = z.dtype
        self._params = [torch.zeros_like(p, dtype=accumulation_dtype(p.dtype)) for p in params]
        self._param_dtypes = [p.dtype for p in params]
        self._side: list[dict[str, torch.Tensor]] = [{} for _ in range(z.shape[2])]
        self._side_dtypes: list[dict[str, torch.dtype]] = [{} for _ in range(z.shape[2])]

    def add_latent(self, index: int, grad: torch.Tensor, crop: SpatialCrop) -> None:
        """Add the gradient [B, C, 1, h', w'] of group `index`'s latent within `crop`."""
        crop.outer(self._z[:, :, index : index + 1]).add_(grad)

    def open_side(self, index: int, name: str, whole: torch.Tensor) -> None:
        """Make room for the gradient of a side tensor [B, C, t, H, W] of whole frames, unless there is room already."""
        if name not in self._side[index]:
            self._side[index][name] = torch.zeros_like(whole, dtype=accumulation_dtype(whole.dtype))
            self._side_dtypes[index][name] = whole.dtype

    def add_side(self, index: int, name: str, grad: torch.Tensor, crop: SpatialCrop) -> None:
        """Add the gradient of a side tensor within `crop`; `open_side` came before."""
        crop.outer(self._side[index][name]).add_(grad)

    def add_params(self, grads: Sequence[torch.Tensor | None]) -> None:
        """Add gradients of the parameters, None where a parameter took no part."""
        for total, grad in zip(self._params, grads, strict=True):
            if grad is not None:
                total.add_(grad)

    def result(self, loss: torch.Tensor) -> LossAndGrad:
        """All sums in the dtype of what they are gradients of."""
        side = [
            {name: total.to(dtypes[name]) for name, total in sums.items()}
            for sums, dtypes in zip(self._side, self._side_dtypes, strict=True)
        ]
        params = tuple(total.to(dtype) for total, dtype in zip(self._params, self._param_dtypes, strict=True))
        return LossAndGrad(loss, self._z.to(self._z_dtype), side, params)
