"""Where the gradients of a clip are gathered, and what `loss_and_grad` returns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from splatmend.enhance.decoder.chunks import SpatialCrop


class LossAndGrad(NamedTuple):
    """A clip's loss and its truncated gradients (of `loss * loss_scale`)."""

    loss: torch.Tensor
    """Scalar: sum of the group losses (of a share, of its groups) divided once by the number of valid frames. Not scaled, detached."""
    grad_z: torch.Tensor
    """Gradient with respect to the latents [B, C, L, h, w], in their dtype."""
    grad_side: list[dict[str, torch.Tensor]]
    """Per group: block name -> gradient of that side tensor, for side tensors that require a gradient. Groups that no loss reaches (past
    the valid frames, or the span of a share) have none."""
    grad_params: tuple[torch.Tensor, ...]
    """Gradients of `params` in their order and dtype; zeros where a parameter had no influence."""


def surrogate(z: torch.Tensor, grad_z: torch.Tensor) -> torch.Tensor:
    """A scalar whose gradient with respect to `z` is `grad_z`: `(z * grad_z).sum()`, with `grad_z` held constant.

    For frameworks that must start the backward pass themselves (accelerate, DistributedDataParallel, GradScaler). Its value means
    nothing; log `LossAndGrad.loss` instead. Scale once: either by `loss_scale` or through the framework, not both. `ValueError` for a
    gradient of another shape.
    """
    if z.shape != grad_z.shape:
        raise ValueError(f"the gradient of latents {tuple(z.shape)} cannot be {tuple(grad_z.shape)}")
    return (z * grad_z.detach()).sum()


def without_autocast(device: torch.device) -> torch.autocast:
    """The context for a backward pass that is started where autocast is on.

    On CUDA devices the backward pass runs in threads of its own, which take over that autocast is on but not its dtype: products of
    matrices would be computed in float16, where small gradients are zero. What a checkpoint computes again runs as it did forwards.
    """
    return torch.autocast(device.type, enabled=False)


def forget_autocast_weights() -> None:
    """Forget the weights that autocast cast during a pass without gradients.

    Earlier PyTorch releases hand those, without their gradient, to a later pass of the same autocast region (2.11 does not).
    """
    if torch.is_autocast_cache_enabled():
        torch.clear_autocast_cache()


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32: many small contributions are summed, and half precision would lose them."""
    return torch.promote_types(dtype, torch.float32)


class Sums(Protocol):
    """Where a walk over a clip puts gradients, each at a group's place and within a crop."""

    def add_latent(self, index: int, grad: torch.Tensor, crop: SpatialCrop) -> None:
        """The gradient [B, C, 1, h', w'] of what goes into group `index`."""
        ...

    def add_side(self, index: int, name: str, grad: torch.Tensor, crop: SpatialCrop) -> None:
        """The gradient of a group's side tensor."""
        ...

    def add_params(self, grads: Sequence[torch.Tensor | None]) -> None:
        """Gradients of the parameters, None where one took no part."""
        ...


def to_host(x: torch.Tensor) -> torch.Tensor:
    """A tensor's copy in pinned host memory, made while the device works on; on the CPU the tensor itself.

    Only for what goes back with `to_device`: the device has not filled it yet when this returns.
    """
    if not x.is_cuda:
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def to_device(held: torch.Tensor, device: torch.device) -> torch.Tensor:
    """What `to_host` put aside, in the order of the device's own work."""
    return held.to(device, non_blocking=True)


class HeldFeatures(Sequence[torch.Tensor]):
    """Features of every group, in host memory since they grow with the clip; each comes back to the device when it is asked for."""

    def __init__(self, features: Iterable[torch.Tensor], device: torch.device) -> None:
        self._held = [to_host(group) for group in features]
        self._device = device

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, index: Any) -> Any:
        return to_device(self._held[index], self._device)

    def zeros_like(self, index: int) -> torch.Tensor:
        """Zeros on the device in the shape of a group's features, for sums."""
        held = self._held[index]
        return torch.zeros(held.shape, dtype=accumulation_dtype(held.dtype), device=self._device)

    def dtype(self, index: int) -> torch.dtype:
        """Of a group's features."""
        return self._held[index].dtype


class FeatureGradients:
    """Gradients of each group's loss with respect to the features between two stages, kept apart by loss: at most D + 1 a loss.

    They grow with the clip, so they lie in host memory. Everything else goes on to `sums`.
    """

    def __init__(self, sums: Sums, features: HeldFeatures) -> None:
        self._sums = sums
        self._features = features
        self._pieces: dict[tuple[int, int], list[tuple[SpatialCrop, torch.Tensor]]] = {}
        self.loss_index = 0
        """The group whose loss is being walked."""

    def add_latent(self, index: int, grad: torch.Tensor, crop: SpatialCrop) -> None:
        """Add a gradient [B, C, 1, h', w'] of the present loss with respect to group `index`'s features within `crop`."""
        self._pieces.setdefault((self.loss_index, index), []).append((crop, to_host(grad)))

    def add_side(self, index: int, name: str, grad: torch.Tensor, crop: SpatialCrop) -> None:
        """See `Sums`."""
        self._sums.add_side(index, name, grad, crop)

    def add_params(self, grads: Sequence[torch.Tensor | None]) -> None:
        """See `Sums`."""
        self._sums.add_params(grads)

    def take(self, loss_index: int, index: int) -> torch.Tensor | None:
        """The gradient of one loss with respect to one group's features, in their dtype, and forget it."""
        pieces = self._pieces.pop((loss_index, index), None)
        if pieces is None:
            return None
        total = self._features.zeros_like(index)
        for crop, piece in pieces:
            crop.outer(total).add_(to_device(piece, total.device))
        return total.to(self._features.dtype(index))


class GradientSums:
    """Running sums of the gradients of one clip, each in float32 or wider, whole frames whatever crop a contribution comes from.

    Raises `ValueError` for a parameter that requires no gradient.
    """

    def __init__(self, z: torch.Tensor, params: Sequence[torch.Tensor]) -> None:
        if any(not p.requires_grad for p in params):
            raise ValueError("every tensor in `params` must require a gradient")
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
