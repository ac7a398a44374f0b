"""Going on with a scene that is finished: the log's frames and, in a stated share of the iterations, extra views.

What the log says stays what is believed. An extra view moves Gaussians only, by as much as its weights let it: the sky, the colour
corrections and the poses take nothing from it, and poses stay as the scene has them. Relocation and growth go by opacity (see
`splatmend.recon.densify`), so that extra views have no statistics there to dominate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from splatmend.datasets.artifact import content_key
from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.recon.fit.config import CoarseConfig, FitConfig
from splatmend.recon.fit.extra_views import ExtraView, ExtraViews
from splatmend.recon.fit.losses import photometric
from splatmend.recon.fit.picture_exposures import RATE_END
from splatmend.recon.fit.picture_terms import ground_opacity
from splatmend.recon.fit.trainer import StepReport, Trainer
from splatmend.recon.render import render
from splatmend.recon.scene import Scene
from splatmend.recon.sky import ray_directions


@dataclass(frozen=True, kw_only=True)
class ContinueConfig:
    """How a fit goes on."""

    share: float = 0.4
    """Share of the iterations that show an extra view; the others show a frame of the log."""
    weight: float = 0.5
    """What an extra view's loss counts over that of a frame, below 1."""
    rate_share: float = 0.3
    """Where the means' learning rate begins, over where that of the fit began; it falls to where that of the fit ended."""

    def __post_init__(self) -> None:
        faults = {
            f"share must lie between 0 and 0.9, not {self.share}": not 0 <= self.share <= 0.9,
            f"weight must be at least 0 and below 1, not {self.weight}": not 0 <= self.weight < 1,
            f"rate-share must lie above 0 and not above 1, not {self.rate_share}": not 0 < self.rate_share <= 1,
        }
        for sentence, wrong in faults.items():
            if wrong:
                raise UserError(f"refine settings: {sentence}.")


def continued_config(config: FitConfig, more: ContinueConfig, iterations: int) -> FitConfig:
    """The settings of a fit that goes on for so many iterations: poses stay, pictures have their full size, means and
    exposures start at lower rates, and Gaussians are relocated, whatever strategy the fit had: fading all of them would leave too few
    iterations to come back."""
    rates = replace(
        config.rates,
        means=max(more.rate_share * config.rates.means, config.rates.means_end),
        # As slowly as the fit ended: a first step is the whole rate, however good a map is.
        exposure=RATE_END * config.rates.exposure,
    )
    return replace(
        config,
        iterations=iterations,
        rates=rates,
        densify=replace(config.densify, strategy="mcmc"),
        coarse=CoarseConfig(),
        camera_poses=replace(config.camera_poses, on=False),
        actor_poses=replace(config.actor_poses, on=False),
        snapshots_at=(),
    )


class ContinuedTrainer(Trainer):
    """A trainer that starts from a scene. `log` is prepared as for the fit, with a frame for each of the scene's shots.

    Args:
        config: as `continued_config` gives it.
        settings_key: what else a checkpoint must have in common with this run.

    Raises:
        UserError: where the log's frames are not those of the scene.
    """

    def __init__(
        self, log: SceneLog, scene: Scene, config: FitConfig, more: ContinueConfig, device: torch.device, settings_key: str = ""
    ) -> None:
        _check_frames(log, scene)
        super().__init__(log, scene.shots, config, device, scene=scene)
        self.more = more
        self.config_key = content_key([self.config_key, more, settings_key])
        self.extra = ExtraViews((), device, config.data.cache_mib)

    def show_also(self, views: Sequence[ExtraView]) -> None:
        """From the next iteration on, these are the extra views."""
        self.extra = ExtraViews(views, self.device, self.config.data.cache_mib)

    @property
    def sh_degree(self) -> int | None:
        return None

    def step(self) -> StepReport:
        """One iteration, of a frame or an extra view."""
        done = self._extra_before(self.iteration)
        if not len(self.extra) or self._extra_before(self.iteration + 1) == done:
            return super().step()
        return self._extra_step(done)

    def frame_number(self, iteration: int) -> int:
        """As in a fit, of the iterations that show a frame."""
        return super().frame_number(iteration - self._extra_before(iteration))

    def _extra_before(self, iteration: int) -> int:
        """How many of the first iterations show an extra view, where there are any: they come evenly."""
        # The small addition keeps whole numbers whole.
        return int(iteration * self.more.share + 1e-9)

    def _extra_number(self, turn: int) -> int:
        """Every extra view once per round, in an order that depends on seed and round alone."""
        turn, place = divmod(turn, len(self.extra))
        order = torch.Generator().manual_seed(self.config.seed * 1_000_003 + 500_000 + turn)
        return int(torch.randperm(len(self.extra), generator=order)[place])

    def _extra_step(self, turn: int) -> StepReport:
        shot, sample = self.extra[self._extra_number(turn)]
        scene = self.current_scene()
        if scene.sky is not None:
            scene = replace(scene, sky=scene.sky.with_logits(scene.sky.logits.detach()))
        out = render(
            scene,
            shot,
            ("rgb", "depth"),
            backend=self.config.backend,
            exposure=scene.exposure.at(shot.camera.name, shot.mid_us).detach(),
            sh_degree=self.sh_degree,
        )
        drawn = self.drawn_nodes(shot)
        assert out.rgb is not None
        truth = sample.rgb.float() / 255.0
        weight = sample.weight.float() / 255.0
        seen = photometric(out.rgb, truth, weight, self.config.loss.ssim)
        terms = {f"extra_{name}": self.more.weight * term for name, term in seen.items()}
        if scene.metric and scene.sky is not None and self.config.loss.ground_opacity > 0:
            # That the ground is there holds wherever one looks from.
            directions = torch.nn.functional.normalize(ray_directions(shot, self.device, scene.camera_model), dim=-1)
            upwards = directions @ torch.tensor(scene.sky.sky_from_world[2], dtype=directions.dtype, device=self.device)
            terms["ground_opacity"] = self.config.loss.ground_opacity * ground_opacity(out.opacity, upwards)
        terms |= self.nodes.regularisers(drawn)
        torch.stack(list(terms.values())).sum().backward()
        self.iteration += 1
        self.nodes.step(drawn, self.iteration, self.generator)
        self.shared_optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            squared_error = (out.rgb - truth).square().mean()
        return StepReport(terms={name: value.detach() for name, value in terms.items()}, squared_error=squared_error)


def _check_frames(log: SceneLog, scene: Scene) -> None:
    """`UserError` unless the log's frames and the scene's colour corrections are those of its shots, in their order."""
    shots = [recorded.shot for recorded in scene.shots]
    frames = [(f.camera, f.start_us, log.cameras[f.camera].width, log.cameras[f.camera].height) for f in log.frames]
    if frames != [(shot.camera.name, shot.start_us, shot.camera.width, shot.camera.height) for shot in shots]:
        raise UserError(f"{log.path}: its frames are not those that the scene was fitted to; give the log of the fit, or fit again.")
    trained = [(r.shot.camera.name, r.shot.mid_us) for r in scene.shots if r.role == "train"]
    if trained != list(zip(scene.exposure.cameras, scene.exposure.times_us)):
        raise UserError("the scene's colour corrections are not those of its training frames; fit the scene again.")
