"""Attention over all pixels of a frame with one wide head, as products of matrices.

Wan's head has 384 channels and more, which the fused kernels do not take (or take at a tenth of the speed, backward). The weights are
computed again in the backward pass, some queries at a time, so nothing of quadratic size is kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

WEIGHTS_AT_A_TIME = 2**26


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """`softmax(q k' / sqrt(C)) v` of [N, tokens, C] each; sums in float32 at least."""
    return _Attention.apply(q, k, v)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(q)
        for some in _pieces(q):
            out[:, some] = torch.bmm(_weights(q[:, some], k).to(v.dtype), v)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        q, k, v = ctx.saved_tensors
        scale = q.shape[-1] ** -0.5
        to_q = torch.empty_like(q)
        wide = torch.promote_types(q.dtype, torch.float32)
        to_k, to_v = (torch.zeros_like(x, dtype=wide) for x in (k, v))
        for some in _pieces(q):
            weights, piece = _weights(q[:, some], k), grad[:, some]
            to_v += _wide_product(weights.to(v.dtype).mT, piece)
            pull = _wide_product(piece, v.mT)
            # The gradient through the softmax.
            pull.sub_((pull * weights).sum(dim=-1, keepdim=True)).mul_(weights).mul_(scale)
            logits = pull.to(q.dtype)
            to_q[:, some] = torch.bmm(logits, k)
            to_k += _wide_product(logits.mT, q[:, some])
        return to_q, to_k.to(k.dtype), to_v.to(v.dtype)


def _weights(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Softmax over the keys [N, queries, tokens], in float32 at least."""
    return _wide_product(q, k.mT).mul_(q.shape[-1] ** -0.5).softmax(dim=-1)


def _wide_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A batched product whose result is float32 at least."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(a, b, out_dtype=torch.float32)
    wide = torch.promote_types(a.dtype, torch.float32)
    return torch.bmm(a.to(wide), b.to(wide))


def _pieces(q: torch.Tensor) -> list[slice]:
    """Queries to take at a time."""
    count, tokens = q.shape[:2]
    at_once = max(1, WEIGHTS_AT_A_TIME // (count * tokens))
    return [slice(start, min(start + at_once, tokens)) for start in range(0, tokens, at_once)]
