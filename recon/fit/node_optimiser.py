"""Parameters, optimisers and densification of one node: the background, or one actor.

Every node has its own, so that no Gaussian is ever moved from one node to another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from splatmend.recon.densify import MCMC, MCMCConfig
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.gaussians import Gaussians


class NodeOptimiser:
    """`extent` is the node's unit of length (see `splatmend.recon.fit.points.scene_extent`; an actor's is half its diagonal). There are
    at most `cap` Gaussians, the given ones included."""

    def __init__(self, gaussians: Gaussians, extent: float, cap: int, config: FitConfig, device: torch.device) -> None:
        self.extent = extent
        self.config = config
        self.params = _parameters(gaussians, device)
        self.optimizers = self._new_optimizers()
        densify = config.densify
        stop = int(densify.stop_share * config.iterations)
        self.densifier = MCMC(
            MCMCConfig(
                cap=cap,
                refine_start=min(densify.start, stop),
                refine_stop=stop,
                refine_every=densify.every,
            )
        )

    def _new_optimizers(self) -> dict[str, torch.optim.Adam]:
        rates = self.config.rates
        by_name = {
            "means": rates.means * self.extent,
            "quats": rates.quats,
            "log_scales": rates.log_scales,
            "opacity_logits": rates.opacity_logits,
            "sh0": rates.sh0,
            "shN": rates.sh_rest,
        }
        return {name: torch.optim.Adam([param], lr=by_name[name], eps=1e-15, fused=True) for name, param in self.params.items()}

    @property
    def gaussians(self) -> Gaussians:
        """The parameters as they are rendered, in the graph."""
        sh = torch.cat([self.params["sh0"], self.params["shN"]], dim=1) if "shN" in self.params else self.params["sh0"]
        return Gaussians(
            means=self.params["means"],
            quats_wxyz=self.params["quats"],
            log_scales=self.params["log_scales"],
            opacity_logits=self.params["opacity_logits"],
            sh=sh,
        )

    def regularisers(self) -> dict[str, Tensor]:
        """Terms on opacity and size, to be added to the loss of a picture that shows the node."""
        weights = self.config.loss
        return {
            "opacity": weights.opacity * self.params["opacity_logits"].sigmoid().mean(),
            "scale": weights.scale * self.params["log_scales"].exp().mean() / self.extent,
        }

    def step(self, iteration: int, generator: torch.Generator) -> None:
        """Take the gradients, then relocate, grow and shake. Call it for nodes that were rendered only."""
        rates = self.config.rates
        means_lr = rates.means * (rates.means_end / rates.means) ** (iteration / self.config.iterations)
        self.optimizers["means"].param_groups[0]["lr"] = means_lr * self.extent
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        # Noise is covariance (a length squared) times this rate; in scenes measured in extents it is the plain rate, so a length
        # has to be divided out here.
        self.densifier.step(self.params, self.optimizers, iteration, means_lr / self.extent, generator)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "params": {name: param.detach() for name, param in self.params.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "densifier": self.densifier.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`; the number of Gaussians may differ from the present one."""
        device = self.params["means"].device
        self.params = {name: Parameter(value.to(device)) for name, value in state["params"].items()}
        self.optimizers = self._new_optimizers()
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.densifier.load_state_dict(state["densifier"])


def _parameters(gaussians: Gaussians, device: torch.device) -> dict[str, Parameter]:
    tensors = {
        "means": gaussians.means,
        "quats": gaussians.quats_wxyz,
        "log_scales": gaussians.log_scales,
        "opacity_logits": gaussians.opacity_logits,
        "sh0": gaussians.sh[:, :1],
    }
    if gaussians.sh.shape[1] > 1:
        tensors["shN"] = gaussians.sh[:, 1:]
    return {name: Parameter(tensor.detach().to(device).contiguous().clone()) for name, tensor in tensors.items()}
