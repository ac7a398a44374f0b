"""Adam as torch has it, without what torch does around its kernels: per group and step that takes longer than the kernels themselves."""

from __future__ import annotations

import torch
from torch import Tensor


class LeanAdam(torch.optim.Adam):
    """`torch.optim.Adam(..., fused=True)` for plain float tensors on one device: no weight decay, no amsgrad, rates are numbers, no hooks
    of steps are called. State and results are the same."""

    def __init__(self, groups: list[dict], *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-15) -> None:
        super().__init__(groups, betas=betas, eps=eps, fused=True)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        moved = []
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if params:
                moved.append((group, params, [self._state_of(param) for param in params]))
        if not moved:
            return
        # Those of all groups by one kernel.
        torch._foreach_add_([state["step"] for _, _, states in moved for state in states], 1)
        for group, params, states in moved:
            beta1, beta2 = group["betas"]
            torch._fused_adam_(
                params,
                [param.grad for param in params],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    # torch wraps `step` in what profiles and hooks need, unless it finds that this was done.
    step.hooked = True  # type: ignore[attr-defined]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; they are never set to zero instead."""
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    def _state_of(self, param: Tensor) -> dict[str, Tensor]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(param), torch.zeros_like(param)
        return state
