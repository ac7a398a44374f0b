"""Parameters, optimiser and densification of all nodes: the background and the actors.

Every node has its own parameters, so that no Gaussian is ever moved from one node to another; one optimiser steps all that were drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from splatmend.datasets.shot import Shot
from splatmend.recon.densify import MCMC, MCMCConfig, moments_of, shake
from splatmend.recon.densify_classic import Classic, ClassicConfig, note, wishes_to_move
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.lean_adam import LeanAdam
from splatmend.recon.fit.motion_terms import MotionSizes, motion_term
from splatmend.recon.fit.step_lengths import StepLengths
from splatmend.recon.fit.step_scaling import ONE_PICTURE, StepScaling
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.motion import Motion
from splatmend.recon.nodes import DeformableActor, RigidActor

_SHORTEST_RESET = 300
"""Iterations that Gaussians need at least to come back after all have faded."""
_STEPS_TO_RETURN = 100
"""Steps that see a Gaussian, likewise: its logit has five units to go, by .05 each."""


def refinement_end(config: FitConfig) -> int:
    """The iteration from which on the number of Gaussians stays."""
    return int(config.densify.stop_share * config.iterations)


def fading_interval(config: FitConfig) -> int:
    """Iterations between those at which splitting fades all opacities."""
    return max(refinement_end(config) // 5, _SHORTEST_RESET)


def before_fading(iteration: int, config: FitConfig) -> int:
    """An iteration at which a scene can be looked at: this one, or, where opacities were faded less than half an interval ago and cannot
    have come back, the last before that."""
    interval = fading_interval(config)
    since, faded = iteration % interval, iteration - iteration % interval
    fades = config.densify.strategy == "classic" and min(config.densify.start, refinement_end(config)) < faded < refinement_end(config)
    return faded - 1 if fades and since < interval / 2 else iteration


class FittedNode:
    """Parameters of one node. `params` have a row per Gaussian; `courses`, of a node whose Gaussians move in its frame, have not.
    `extent` is its unit of length (see `splatmend.recon.fit.points.scene_extent`; an actor's is half its diagonal). There are at most `cap`
    Gaussians, the given ones included. `shown` is the share of the pictures that show the node: where these are too few, splitting never
    fades it. `steps` says how far they go where cameras move among them."""

    def __init__(
        self,
        gaussians: Gaussians,
        extent: float,
        cap: int,
        config: FitConfig,
        device: torch.device,
        motion: Motion | None = None,
        scaling: StepScaling = ONE_PICTURE,
        steps: StepLengths | None = None,
        shown: float = 1.0,
    ) -> None:
        self.extent = extent
        self.steps = steps
        self.params = _parameters(gaussians, device)
        self.courses: Parameter | None = None
        if motion is not None:
            self.params["motion"] = Parameter(motion.coefficients.detach().to(device).clone())
            self.courses = Parameter(motion.courses.detach().to(device).clone())
        densify = config.densify
        stop = refinement_end(config)
        schedule = {
            "cap": cap,
            "refine_start": min(densify.start, stop),
            "refine_stop": stop,
            "refine_every": densify.every,
            "stride": scaling.pictures,
        }
        self.densifier: MCMC | Classic = (
            Classic(_splitting(schedule, shown, config), extent) if densify.strategy == "classic" else MCMC(MCMCConfig(**schedule))
        )

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    @property
    def gaussians(self) -> Gaussians:
        """The parameters as they are rendered, in the graph."""
        lowest = self.without_higher
        return replace(lowest, sh=torch.cat([lowest.sh, self.params["shN"]], dim=1)) if "shN" in self.params else lowest

    @property
    def without_higher(self) -> Gaussians:
        """The same with harmonics of degree 0 alone; those above are in `params["shN"]`, where there are any."""
        return Gaussians(
            means=self.params["means"],
            quats_wxyz=self.params["quats"],
            log_scales=self.params["log_scales"],
            opacity_logits=self.params["opacity_logits"],
            sh=self.params["sh0"],
        )

    def carried_by(self, actor: RigidActor, *, higher: bool = True) -> RigidActor:
        """The actor with these parameters, in the graph; `higher` says whether with harmonics above degree 0."""
        gaussians = self.gaussians if higher else self.without_higher
        if not isinstance(actor, DeformableActor):
            return replace(actor, gaussians=gaussians)
        assert self.courses is not None
        motion = replace(actor.motion, coefficients=self.params["motion"], courses=self.courses)
        return replace(actor, gaussians=gaussians, motion=motion)

    @property
    def all_params(self) -> dict[str, Parameter]:
        """Those with a row per Gaussian and the others."""
        return self.params if self.courses is None else {**self.params, "courses": self.courses}


def _splitting(schedule: Mapping[str, Any], shown: float, config: FitConfig) -> ClassicConfig:
    """How a node that a share of the pictures shows is split."""
    interval = fading_interval(config)
    fades = shown * interval >= _STEPS_TO_RETURN
    return ClassicConfig(**schedule, reset_every=interval, fades=fades, gradient=config.densify.classic_gradient)


class NodesOptimiser:
    """All nodes by their keys. A step takes the keys of those that were drawn; the others stay as they are."""

    def __init__(self, nodes: Mapping[str, FittedNode], config: FitConfig, scaling: StepScaling = ONE_PICTURE) -> None:
        self.nodes = dict(nodes)
        self.config = config
        self.scaling = scaling
        self.adam = self._new_adam()
        self._shares: dict[tuple[tuple[str, int], ...], tuple[Tensor, Tensor]] = {}

    def __getitem__(self, key: str) -> FittedNode:
        return self.nodes[key]

    @property
    def gaussian_count(self) -> int:
        """Of all nodes together."""
        return sum(map(len, self.nodes.values()))

    def _new_adam(self) -> LeanAdam:
        """One group for each kind of parameter but the means, whose rates are in proportion to the nodes' extents."""
        rates = self.config.rates
        groups: list[dict[str, Any]] = [
            {"params": [node.params["means"]], "lr": self.scaling.rate(rates.means * node.extent), "node": key}
            for key, node in self.nodes.items()
        ]
        by_name = {
            "quats": rates.quats,
            "log_scales": rates.log_scales,
            "opacity_logits": rates.opacity_logits,
            "sh0": rates.sh0,
            "shN": rates.sh_rest,
        }
        by_name |= {"motion": self.config.actors.motion_rate, "courses": self.config.actors.course_rate}
        for name, rate in by_name.items():
            held = [node.all_params[name] for node in self.nodes.values() if name in node.all_params]
            groups.append({"params": held, "lr": self.scaling.rate(rate)})
        return LeanAdam([group for group in groups if group["params"]], **self.scaling.adam)

    def regularisers(self, drawn: Sequence[str]) -> dict[str, Tensor]:
        """Terms on opacity, size and motion, to be added to the loss of a picture that shows these nodes: sums of each node's means."""
        weights = self.config.loss
        terms = {}
        if self.config.densify.strategy == "mcmc":
            each, by_extent = self._shares_of(drawn)
            opacities = torch.cat([self.nodes[key].params["opacity_logits"] for key in drawn]).sigmoid()
            scales = torch.cat([self.nodes[key].params["log_scales"] for key in drawn]).exp()
            terms = {"opacity": weights.opacity * (opacities @ each), "scale": weights.scale * (by_extent @ scales).mean()}
        if moving := [self.nodes[key] for key in drawn if self.nodes[key].courses is not None]:
            terms["motion"] = self._motion_term(moving)
        return terms

    def _motion_term(self, moving: Sequence[FittedNode]) -> Tensor:
        coefficients = [node.params["motion"] for node in moving]
        courses = [node.courses for node in moving if node.courses is not None]
        sizes = MotionSizes(
            shapes=tuple((*own.shape[:2], course.shape[1]) for own, course in zip(coefficients, courses, strict=True)),
            extents=tuple(node.extent for node in moving),
            motion=self.config.actors.motion,
            bend=self.config.actors.course_bend,
        )
        return motion_term(sizes, coefficients, courses)

    def _shares_of(self, drawn: Sequence[str]) -> tuple[Tensor, Tensor]:
        """What a Gaussian counts in its node's mean, and that over the node's extent, `[N]` each."""
        key = tuple((name, len(self.nodes[name])) for name in drawn)
        if key not in self._shares:
            if len(self._shares) >= 16:  # numbers change with every refinement
                self._shares.clear()
            device = self.nodes[drawn[0]].params["means"].device
            counts = [count for _, count in key]
            each = torch.cat([torch.full((count,), 1.0 / count) for count in counts])
            extents = torch.cat([torch.full((count,), self.nodes[name].extent) for name, count in key])
            self._shares[key] = (each.to(device), (each / extents).to(device))
        return self._shares[key]

    def wishes(self, shot: Shot, drawn: Sequence[str], directions: Float[Tensor, "N 3"], iteration: int) -> dict[str, Tensor]:
        """What the gradients of a picture tell the classic strategy of each node (see `densify_classic.note`); nothing where it asks no
        more, and for other strategies.

        Args:
            drawn: the nodes that the picture shows.
            directions: from its camera to their Gaussians, in this order, in each node's axes.
        """
        found = {}
        for key, part in zip(drawn, directions.split([len(self.nodes[key]) for key in drawn]), strict=True):
            densifier, gradient = self.nodes[key].densifier, self.nodes[key].params["means"].grad
            if isinstance(densifier, Classic) and iteration < densifier.config.refine_stop and gradient is not None:
                found[key] = (gradient, part)
        if not found:
            return {}
        gradients, parts = zip(*found.values())
        return dict(zip(found, wishes_to_move(gradients, parts, shot.camera.focal_px[0], shot.camera.width)))

    def note(self, wishes: Mapping[str, Tensor]) -> None:
        """Let the classic strategy know, once per step."""
        strategies = [self.nodes[key].densifier for key in wishes]
        if wishes:
            note([strategy for strategy in strategies if isinstance(strategy, Classic)], list(wishes.values()))

    def step(self, drawn: Sequence[str], iteration: int, generator: torch.Generator) -> None:
        """Take the gradients, then relocate, grow and shake."""
        rates = self.config.rates
        means_lr = self.scaling.rate(rates.means * (rates.means_end / rates.means) ** (iteration / self.config.iterations))
        for group in self.adam.param_groups:
            if "node" in group:
                group["lr"] = means_lr * self.nodes[group["node"]].extent
        nodes = [self.nodes[key] for key in drawn]
        self._move(nodes, anew=self.scaling.due(self.config.densify.every, iteration - self.scaling.pictures))
        self.adam.zero_grad(set_to_none=True)
        for node in nodes:
            node.densifier.refine(node.params, self.adam, iteration, generator)
        # Noise is covariance (a length squared) times this rate; in scenes measured in extents it is the plain rate, so a length
        # has to be divided out here.
        noise = [means_lr / node.extent * node.densifier.config.noise_lr for node in nodes if isinstance(node.densifier, MCMC)]
        if noise:
            shares = [None if node.steps is None else node.steps.shares(node.params["means"], anew=False) for node in nodes]
            shake([node.params for node in nodes], noise, generator, shares)

    def _move(self, nodes: Sequence[FittedNode], *, anew: bool) -> None:
        """The optimiser's step, cut to the nodes' step lengths, which are found `anew` where that is due."""
        measured = [(node.params["means"], node.steps) for node in nodes if node.steps is not None]
        before = [means.detach().clone() for means, _ in measured]
        self.adam.step()
        with torch.no_grad():
            for (means, steps), old in zip(measured, before):
                torch.lerp(old, means, steps.shares(old, anew=anew), out=means)

    @property
    def tensors(self) -> list[Tensor]:
        """Parameters and moments of all nodes, in an order that depends on their keys alone."""
        params = [param for node in self.nodes.values() for param in node.all_params.values()]
        moments = [value for param in params for _, value in sorted(moments_of(self.adam, param).items())]
        return [*(param.detach() for param in params), *moments]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {key: self._node_state(node) for key, node in self.nodes.items()}

    def _node_state(self, node: FittedNode) -> dict[str, Any]:
        return {
            "params": {name: param.detach() for name, param in node.all_params.items()},
            "moments": {name: dict(self.adam.state.get(param, {})) for name, param in node.all_params.items()},
            "densifier": node.densifier.state_dict(),
            "steps": None if node.steps is None else node.steps.known,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; numbers of Gaussians may differ from the present ones."""
        for key, node in self.nodes.items():
            device = node.params["means"].device
            node.params = {name: Parameter(value.to(device)) for name, value in state[key]["params"].items()}
            node.courses = node.params.pop("courses", None)
            node.densifier.load_state_dict(state[key]["densifier"], device)
            if node.steps is not None:
                shares = state[key]["steps"]
                node.steps.known = None if shares is None else shares.to(device)
        self.adam = self._new_adam()
        for key, node in self.nodes.items():
            for name, param in node.all_params.items():
                moments = state[key]["moments"][name]
                if moments:
                    self.adam.state[param] = {kind: value.to(param.device).clone() for kind, value in moments.items()}


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
