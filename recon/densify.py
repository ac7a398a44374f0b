"""Densification as Markov chain Monte Carlo, in plain torch for both backends.

Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo" (arXiv 2404.09591): Gaussians that have faded away are
moved onto opaque ones in a way that keeps the picture, their number grows by a fixed share up to a cap, and a little noise on the
positions explores space. The paper's regularisers on opacity and scale belong to the loss.

Shape letter: N Gaussians. Parameters are a dict with at least `means [N, 3]` (metres), `quats [N, 4]` (wxyz), `log_scales [N, 3]` and
`opacity_logits [N]`; further entries `[N, ...]` (harmonics, semantics, ...) are copied along.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from splatmend.datasets.errors import UserError

MAX_COPIES = 51
"""More Gaussians than this at one place are treated as this many: the sums of equation 9 alternate and lose their digits."""


@dataclass(frozen=True, kw_only=True)
class MCMCConfig:
    """When and how much to densify."""

    cap: int = 1_000_000
    """Number of Gaussians that growth stops at."""
    refine_start: int = 500
    """Iteration after which Gaussians are moved and added."""
    refine_stop: int = 25_000
    """Iteration from which on their number is fixed."""
    refine_every: int = 100
    """Iterations from one refinement to the next."""
    stride: int = 1
    """Iterations that one step of the optimiser counts for: whatever is due in any of them is done at its end."""
    noise_lr: float = 5e5
    """Size of the noise on positions, in units of the learning rate of the means."""
    min_opacity: float = 0.005
    """A Gaussian at or below this opacity is dead."""
    grow_factor: float = 1.05
    """Growth of the number of Gaussians at each refinement."""

    def __post_init__(self) -> None:
        if self.cap < 1:
            raise UserError(f"densification: a cap of {self.cap} Gaussians leaves none; give at least 1.")
        if self.refine_every < 1 or not 0 <= self.refine_start <= self.refine_stop:
            raise UserError(
                f"densification: refine from {self.refine_start} to {self.refine_stop} every {self.refine_every} iterations is no "
                "schedule; give 0 <= refine_start <= refine_stop and refine_every >= 1."
            )
        if not 0.0 < self.min_opacity < 1.0:
            raise UserError(f"densification: min_opacity {self.min_opacity} is no opacity; give a number between 0 and 1.")
        if self.grow_factor < 1.0 or self.noise_lr < 0.0:
            raise UserError(
                f"densification: grow_factor {self.grow_factor} or noise_lr {self.noise_lr} is too small; give at least 1 and 0."
            )


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What one step did."""

    relocated: int = 0
    """Dead Gaussians that were moved."""
    added: int = 0
    """Gaussians that were added."""
    removed: int = 0
    """Gaussians that were removed."""


def relocated_opacity_and_scale(
    opacities: Float[Tensor, "N"], scales: Float[Tensor, "N 3"], copies: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "N 3"]]:
    """Opacity and scale of each of `copies` equal Gaussians that together look like the one given (equation 9 of the paper).

    With `o' = 1 - (1 - o)^(1/n)` the paper divides `o` by `sum_{i=1..n} sum_{k=0..i-1} C(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1)`; the sum
    over i of the binomials is `C(n, k+1)`, which leaves a single sum. Computed in float64.

    Args:
        opacities: in (0, 1), `[N]`.
        scales: linear, `[N, 3]`.
        copies: at least 1; more than `MAX_COPIES` count as `MAX_COPIES`, `[N]`.
    """
    n = copies.clamp(1, MAX_COPIES)
    opacity = opacities.double()
    shared = -torch.expm1(torch.log1p(-opacity) / n)
    table = torch.tensor(
        [[math.comb(row, k) * (-1.0) ** (k - 1) / math.sqrt(k) for k in range(1, MAX_COPIES + 1)] for row in range(MAX_COPIES + 1)],
        dtype=torch.float64,
        device=opacities.device,
    )
    powers = shared[:, None] ** torch.arange(1, MAX_COPIES + 1, device=opacities.device)
    divisor = (table[n] * powers).sum(dim=1)
    return shared.to(opacities.dtype), (scales.double() * (opacity / divisor)[:, None]).to(scales.dtype)


def position_noise(
    quats_wxyz: Float[Tensor, "N 4"], log_scales: Float[Tensor, "N 3"], opacity_logits: Float[Tensor, "N"], normal: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 3"]:
    """Standard normal noise carried through each Gaussian's covariance and damped where it is opaque (section 4.2 of the paper).

    The gate `sigmoid(100 (0.005 - opacity))` leaves what is already seen in place.
    """
    w, axis = torch.nn.functional.normalize(quats_wxyz, dim=1).split([1, 3], dim=1)
    # Into the splat's own axes, where the covariance is diagonal, and back.
    local = _rotate(w, -axis, normal) * torch.exp(2.0 * log_scales)
    gate = torch.sigmoid(100.0 * (0.005 - torch.sigmoid(opacity_logits)))
    return _rotate(w, axis, local) * gate[:, None]


def rotated(quats_wxyz: Float[Tensor, "N 4"], vectors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """`q v q*` of unit quaternions."""
    w, axis = quats_wxyz.split([1, 3], dim=1)
    return _rotate(w, axis, vectors)


def _rotate(w: Tensor, axis: Tensor, vectors: Tensor) -> Tensor:
    """`q v q*` for unit quaternions given as scalar `[N, 1]` and vector part `[N, 3]`."""
    twice = 2.0 * torch.linalg.cross(axis, vectors)
    return vectors + w * twice + torch.linalg.cross(axis, twice)


def shake(
    nodes: Sequence[Mapping[str, Parameter]],
    rates: Sequence[float],
    generator: torch.Generator,
    shares: Sequence[Float[Tensor, "N 1"] | None] | None = None,
) -> None:
    """Put noise on the positions of several sets of Gaussians in one go.

    Args:
        nodes: parameters of each set, see the head of this module; means are changed.
        rates: size of each set's noise: the learning rate of its means times `MCMCConfig.noise_lr`.
        generator: source of the randomness, on the device of the parameters.
        shares: what each Gaussian of a set takes of it; None for all of it.
    """
    with torch.no_grad():
        quats, log_scales, logits = (torch.cat([params[name] for params in nodes]) for name in ("quats", "log_scales", "opacity_logits"))
        normal = torch.randn(log_scales.shape, generator=generator, device=quats.device, dtype=quats.dtype)
        counts = [len(params["means"]) for params in nodes]
        noise = position_noise(quats, log_scales, logits, normal).split(counts)
        for params, rate, part, share in zip(nodes, rates, noise, shares or [None] * len(nodes), strict=True):
            params["means"].add_(part if share is None else part * share, alpha=rate)


class MCMC:
    """The strategy for one set of Gaussians; call `refine` once per iteration after the optimiser's step, and `shake` after that."""

    def __init__(self, config: MCMCConfig) -> None:
        self.config = config
        self.relocated = 0
        self.added = 0

    def refine(
        self, params: MutableMapping[str, Parameter], optimizer: Optimizer, iteration: int, generator: torch.Generator
    ) -> Refinement:
        """Move and add Gaussians where the schedule says so.

        Growth replaces the entries of `params` by larger parameters (moving changes them in place); the optimiser follows. The
        moments of every Gaussian that was moved, added or shares its place with one start at zero.

        Args:
            params: see the head of this module; changed.
            optimizer: holds each of them, in whatever groups; changed.
            iteration: counted from 0.
            generator: source of all randomness, on the device of the parameters.

        Raises:
            ValueError: where the optimiser lacks one of the parameters.
        """
        config = self.config
        if not (config.refine_start < iteration < config.refine_stop and iteration % config.refine_every < config.stride):
            return Refinement()
        with torch.no_grad():
            done = Refinement(relocated=self._relocate(params, optimizer, generator), added=self._grow(params, optimizer, generator))
        self.relocated += done.relocated
        self.added += done.added
        return done

    def state_dict(self) -> dict[str, int]:
        """Totals so far. All else that a run needs to go on is in the parameters, the optimisers and the generator."""
        return {"relocated": self.relocated, "added": self.added}

    def load_state_dict(self, state: Mapping[str, int], device: torch.device | None = None) -> None:
        """Take over what `state_dict` gave; nothing of it lies on a device.

        Raises:
            KeyError: where an entry is missing.
        """
        self.relocated, self.added = int(state["relocated"]), int(state["added"])

    def _relocate(self, params: MutableMapping[str, Parameter], optimizer: Optimizer, generator: torch.Generator) -> int:
        """Move every dead Gaussian onto a living one, drawn by opacity; returns how many."""
        opacities = torch.sigmoid(params["opacity_logits"])
        dead = (opacities <= self.config.min_opacity).nonzero()[:, 0]
        living = (opacities > self.config.min_opacity).nonzero()[:, 0]
        if len(dead) == 0 or len(living) == 0:
            return 0
        hosts = living[_draw(opacities[living], len(dead), generator)]
        self._share_out(params, hosts)
        for parameter in params.values():
            parameter[dead] = parameter[hosts]
            for moment in moments_of(optimizer, parameter).values():
                moment[dead] = 0
                moment[hosts] = 0
        return len(dead)

    def _grow(self, params: MutableMapping[str, Parameter], optimizer: Optimizer, generator: torch.Generator) -> int:
        """Add Gaussians at the places of others, drawn by opacity; returns how many."""
        count = len(params["means"])
        more = min(self.config.cap, int(self.config.grow_factor * count)) - count
        if more <= 0:
            return 0
        hosts = _draw(torch.sigmoid(params["opacity_logits"]), more, generator)
        self._share_out(params, hosts)
        for name, old in list(params.items()):
            place, index = place_of(optimizer, old, name)
            new = Parameter(torch.cat([old, old[hosts]]), requires_grad=old.requires_grad)
            moments = moments_of(optimizer, old)
            for moment in moments.values():
                moment[hosts] = 0
            grown = {key: torch.cat([moment, torch.zeros_like(moment[hosts])]) for key, moment in moments.items()}
            state = optimizer.state.pop(old, None)
            if state is not None:
                optimizer.state[new] = {**state, **grown}
            place[index] = new
            params[name] = new
        return more

    def _share_out(self, params: Mapping[str, Parameter], hosts: Tensor) -> None:
        """Make each host one of as many equal Gaussians as will lie at its place; `hosts` has an entry per newcomer."""
        chosen, newcomers = torch.unique(hosts, return_counts=True)
        opacities, scales = relocated_opacity_and_scale(
            torch.sigmoid(params["opacity_logits"][chosen]), torch.exp(params["log_scales"][chosen]), newcomers + 1
        )
        highest = 1.0 - torch.finfo(opacities.dtype).eps
        params["opacity_logits"][chosen] = torch.logit(opacities.clamp(self.config.min_opacity, highest))
        params["log_scales"][chosen] = torch.log(scales)


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """`count` indices with replacement, by weight. Unlike `torch.multinomial` it takes more than 2^24 weights."""
    sums = torch.cumsum(weights.double(), dim=0)
    at = torch.rand(count, generator=generator, device=weights.device, dtype=torch.float64) * sums[-1]
    return torch.searchsorted(sums, at, right=True).clamp(max=len(weights) - 1)


def moments_of(optimizer: Optimizer, parameter: Parameter) -> dict[str, Tensor]:
    """The optimiser's tensors that have an entry per Gaussian (Adam's moments, not its step count)."""
    state = optimizer.state.get(parameter, {})
    return {key: value for key, value in state.items() if isinstance(value, Tensor) and value.shape == parameter.shape}


def place_of(optimizer: Optimizer, parameter: Parameter, name: str) -> tuple[list[Parameter], int]:
    """The list of an optimiser's group that holds a parameter, and where in it."""
    for group in optimizer.param_groups:
        for index, held in enumerate(group["params"]):
            if held is parameter:
                return group["params"], index
    raise ValueError(f"the optimiser does not hold the parameter {name!r}")
