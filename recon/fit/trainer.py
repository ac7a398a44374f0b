"""The fitting loop: its state, one iteration, and its checkpoints. What surrounds it (files, progress, scores) is in `fit.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatmend.datasets.checkpoint import random_state, restore_random_state
from splatmend.datasets.errors import UserError
from splatmend.datasets.log import SceneLog
from splatmend.datasets.log_key import log_key
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.astray import RecentPictures
from splatmend.recon.fit.coarse import CoarseSchedule, halved_shot
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.config_json import first_difference, result_settings, settings_key
from splatmend.recon.fit.data import FrameSource
from splatmend.recon.fit.graphed import PictureLosses
from splatmend.recon.fit.lean_adam import LeanAdam
from splatmend.recon.fit.nodes_optimiser import FittedNode, NodesOptimiser
from splatmend.recon.fit.picture_exposures import PictureExposures
from splatmend.recon.fit.picture_terms import PicturePlan, plan_of, tensors_of, view_of
from splatmend.recon.fit.points import scene_extent
from splatmend.recon.fit.pose_refinement import PoseRefinement
from splatmend.recon.fit.processes import ALONE, Processes
from splatmend.recon.fit.seeding import seed_scene
from splatmend.recon.fit.shared_step import StepGradients, StepPicture, align, exchanged
from splatmend.recon.fit.shown import shown_shares
from splatmend.recon.fit.step_lengths import StepLengths
from splatmend.recon.fit.step_scaling import StepScaling
from splatmend.recon.fit.symmetry import MirroredDraws, one_sided
from splatmend.recon.nodes import DeformableActor
from splatmend.recon.render import Channel, SplatPicture, draw_splats
from splatmend.recon.scene import RecordedShot, Scene

BACKGROUND = "background"
_AHEAD = 12
"""Pictures that are read before they are due."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One iteration: loss terms (weighted, on the device), the picture's mean squared error, and terms that are only computed where the
    iteration is reported, before the next one."""

    terms: dict[str, Tensor]
    squared_error: Tensor
    others: Callable[[], dict[str, float]] = dict

    def as_row(self, iteration: int, gaussian_count: int, processes: Processes = ALONE) -> dict[str, float]:
        """A row of the loss curve; means over the processes' pictures, of which one without a term counts as zero.

        Raises:
            UserError: with the term's name where one is not finite: the fit has diverged.
        """
        own = {name: value.item() for name, value in self.terms.items()} | self.others()
        everyone = processes.gathered((own, float(self.squared_error)))
        names = dict.fromkeys(name for terms, _ in everyone for name in terms)
        terms = {name: sum(terms.get(name, 0.0) for terms, _ in everyone) / len(everyone) for name in names}
        for name, value in terms.items():
            if not np.isfinite(value):
                raise UserError(
                    f"fit: the loss term {name} became {value} at iteration {iteration}; lower the learning rates or that term's weight."
                )
        psnr = -10.0 * float(np.log10(max(sum(error for _, error in everyone) / len(everyone), 1e-10)))
        return {"iteration": iteration, "loss": sum(terms.values()), "psnr": psnr, "gaussians": gaussian_count, **terms}


class Trainer:
    """State of a fit of a prepared log. `iteration` counts the iterations that are done. It starts from `scene`, or from one that is
    seeded with the log's points.

    Each of several processes has a trainer of its own, whose state is that of the others; a step then takes a picture from each and counts
    for as many iterations.

    Raises:
        UserError: where there are fewer frames to train on than processes.
    """

    def __init__(
        self,
        log: SceneLog,
        shots: Sequence[RecordedShot],
        config: FitConfig,
        device: torch.device,
        *,
        scene: Scene | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.config = config
        self.device = device
        self.iteration = 0
        self.config_key = settings_key(config)
        self.log_key = log_key(log)
        self.train_numbers = [number for number, recorded in enumerate(shots) if recorded.role == "train"]
        if len(self.train_numbers) < processes.count:
            raise UserError(
                f"{log.path}: there are {len(self.train_numbers)} frames to train on, too few for {processes.count} processes; start "
                "fewer, or lower holdout_every or train_every."
            )
        self._order = lru_cache(maxsize=4)(lambda turn: _shuffled(len(self.train_numbers), config.seed * 1_000_003 + turn))
        self.processes = processes
        self.scaling = StepScaling(processes.count)
        self.picture_losses = PictureLosses(graphs=config.cuda_graphs)
        self.recent = RecentPictures()
        self.coarse = CoarseSchedule(config.coarse, config.iterations, log.cameras.values(), processes.count)
        self._halvings = self.coarse.first
        self.source = FrameSource(log, device, config.data.cache_mib, config.camera_model)
        self.source.prepare(self.train_numbers)
        self.generator = torch.Generator(device=device).manual_seed(config.seed)
        self.scene = (seed_scene(log, shots, config) if scene is None else scene).to(device)
        extent = scene_extent([log.frames[number] for number in self.train_numbers], log.metric)
        trained = [shots[number].shot for number in self.train_numbers]
        centres = np.stack([shot.world_from_camera[:3, 3] for shot in trained]) - self.scene.background.origin_world_m
        lengths = StepLengths(torch.tensor(centres, dtype=torch.float32, device=device), extent)
        steps = lengths if config.rates.means_by_distance else None
        ground, cap = self.scene.background.gaussians, config.densify.cap
        nodes = {BACKGROUND: FittedNode(ground, extent, cap, config, device, scaling=self.scaling, steps=steps)}
        tracks = [actor.track for actor in self.scene.actors.values()]
        shown = shown_shares(tracks, trained)
        for actor_id, actor in self.scene.actors.items():
            reach = float(np.linalg.norm(actor.track.size_m)) / 2
            motion = actor.motion if isinstance(actor, DeformableActor) else None
            cap = config.densify.actor_cap
            nodes[_actor_key(actor_id)] = FittedNode(
                actor.gaussians, reach, cap, config, device, motion, self.scaling, shown=shown[actor_id]
            )
        self.nodes = NodesOptimiser(nodes, config, self.scaling)
        self.exposures = PictureExposures(self.scene.exposure, self.train_numbers, config.rates.exposure, device)
        self.shared: dict[str, Tensor] = {}
        if self.scene.sky is not None:
            self.shared["sky"] = self.scene.sky.logits.clone().requires_grad_(True)
        self.shared_optimizer = self._new_shared_optimizer()
        self.mirrored = MirroredDraws(one_sided(tracks, trained, config.actors), config.actors.mirrored_share, config.seed)
        self.poses = PoseRefinement(self.scene, self.train_numbers, config, device)
        self._drawn: dict[int, list[str]] = {}
        self._one = torch.ones((), device=device)

    def _new_shared_optimizer(self) -> LeanAdam:
        groups = [{"params": list(self.shared.values()), "lr": self.scaling.rate(self.config.rates.sky)}]
        return LeanAdam(groups, **self.scaling.adam)

    @property
    def gaussian_count(self) -> int:
        return self.nodes.gaussian_count

    def current_scene(self, *, higher: bool = True) -> Scene:
        """The scene with the present parameters, in the graph; `higher` says whether with harmonics above degree 0."""
        nodes = {actor_id: self.nodes[_actor_key(actor_id)] for actor_id in self.scene.actors}
        actors = {actor_id: nodes[actor_id].carried_by(actor, higher=higher) for actor_id, actor in self.scene.actors.items()}
        ground = self.nodes[BACKGROUND]
        background = replace(self.scene.background, gaussians=ground.gaussians if higher else ground.without_higher)
        sky = None if self.scene.sky is None else self.scene.sky.with_logits(self.shared["sky"])
        return replace(self.scene, background=background, actors=actors, sky=sky, exposure=self.exposures.table)

    def finished_scene(self) -> Scene:
        """The scene as it is kept: on the CPU and outside the graph, the exposure's mean taken off, with corrected poses."""
        scene = self.current_scene()
        actors = {actor_id: actor.detached() for actor_id, actor in scene.actors.items()}
        scene = replace(scene.with_gaussians(scene.background.gaussians.detached()), actors=actors)
        sky = None if scene.sky is None else scene.sky.with_logits(scene.sky.logits.detach())
        exposure = scene.exposure.with_deltas(scene.exposure.centred)
        return self.poses.refined(replace(scene, sky=sky, exposure=exposure).to("cpu"))

    def frame_number(self, iteration: int) -> int:
        """Which frame an iteration sees: every training frame once per round, in an order that depends on seed and round alone."""
        turn, place = divmod(iteration, len(self.train_numbers))
        return self.train_numbers[self._order(turn)[place]]

    @property
    def sh_degree(self) -> int | None:
        """Degree of the harmonics that the next iteration uses; None for all that there are."""
        return self.iteration // self.config.sh_every

    def drawn_nodes(self, shot: Shot) -> list[str]:
        """Keys of the nodes that a shot shows: the background, and the actors that are there at its time."""
        there = [_actor_key(name) for name, actor in self.scene.actors.items() if actor.is_there(shot.mid_us)]
        return [BACKGROUND, *there]

    def step(self) -> StepReport:
        """One step of the optimiser: one iteration for each process."""
        place = self.iteration + self.processes.rank
        number = self.frame_number(place)
        halvings = self.coarse.halvings(place)
        if halvings != self._halvings:
            self._halvings = halvings
            self.picture_losses.forget()
        sample = self.source[number, halvings]
        coming = [place + self.processes.count * more for more in range(1, _AHEAD + 1)]
        self.source.expect((self.frame_number(other), self.coarse.halvings(other)) for other in coming)
        # The most numerous parameters are joined once, for all that is drawn; mirrored ones are made of all harmonics.
        higher = None if self.mirrored.due(place) else self._higher()
        scene = self.mirrored.of(self.current_scene(higher=higher is None), place)
        poses = self.poses.of(number)
        shot = halved_shot(poses.shot, halvings)
        view = view_of(scene, shot)
        picture = draw_splats(
            scene,
            shot,
            self._channels(),
            backend=self.config.backend,
            actor_poses=poses.actor_poses,
            twists=poses.twists,
            sh_degree=self.sh_degree,
            ray_camera=view.ray_camera,
            along=[view.lines],
            higher=higher,
        )
        drawn = [BACKGROUND if name is None else _actor_key(name) for name in picture.nodes]
        given = tensors_of(scene, picture, view, self.exposures.of(number), sample)
        seen = self.picture_losses(self._plan(scene, picture, shot), given)
        others = self.nodes.regularisers(drawn)
        total = torch.stack([seen.total, *others.values()]).sum() if others else seen.total
        total.backward(self._one)
        terms = dict(zip(seen.names, seen.terms)) | {name: value.detach() for name, value in others.items()}
        wishes = self.nodes.wishes(shot, drawn, picture.directions, self.iteration + 1)
        exposures = self.exposures.gradient(number)[None]
        step = self._of_all_processes(StepGradients(drawn=drawn, wishes=wishes, twists=poses.step_twists, exposures=exposures))
        self.nodes.note(step.wishes)
        progress = self.iteration / self.config.iterations
        self.poses.step(poses, progress, step.twists)
        self.exposures.step(self._shown_numbers(), step.exposures, progress)
        self.iteration += self.processes.count
        self.nodes.step(step.drawn, self.iteration, self.generator)
        self.shared_optimizer.step()
        self.shared_optimizer.zero_grad(set_to_none=True)
        if self.scaling.due(self.config.densify.every, self.iteration):
            self.align()
        if halvings == 0:
            self.recent.note(seen.squared_error)
        return StepReport(terms=terms, squared_error=seen.squared_error, others=lambda: self.poses.prior_terms(poses))

    def _higher(self) -> dict[str | None, Tensor] | None:
        """Harmonics above degree 0 of the background (None) and the actors; None where the nodes have not as many of them."""
        held = {None: self.nodes[BACKGROUND].params} | {name: self.nodes[_actor_key(name)].params for name in self.scene.actors}
        found: dict[str | None, Tensor] = {name: params["shN"] for name, params in held.items() if "shN" in params}
        return found if len(found) == len(held) and len({one.shape[1] for one in found.values()}) == 1 else None

    def _plan(self, scene: Scene, picture: SplatPicture, shot: Shot) -> PicturePlan:
        return plan_of(scene, picture, shot, self.config.loss, self.depth_every, self.config.exposure.variation)

    def _of_all_processes(self, own: StepGradients) -> StepGradients:
        if self.processes.count == 1:
            return own
        pictures = [StepPicture(drawn=self._drawn_in(number), poses=self.poses.shown(number)) for number in self._shown_numbers()]
        return exchanged(own, pictures, self.processes, self.nodes, list(self.shared.values()), self.poses.most_twists)

    def _shown_numbers(self) -> list[int]:
        """The frames that a step shows, in the order of the processes' ranks."""
        return [self.frame_number(self.iteration + rank) for rank in range(self.processes.count)]

    def _drawn_in(self, number: int) -> list[str]:
        """Keys of the nodes that the picture of a frame shows."""
        if number not in self._drawn:
            self._drawn[number] = self.drawn_nodes(self.scene.shots[number].shot)
        return self._drawn[number]

    def align(self) -> None:
        """Let all processes go on from the first one's parameters, which they differ from by no more than rounding."""
        shared = [self.exposures.deltas, *(value.detach() for value in self.shared.values())]
        align(self.processes, [*self.nodes.tensors, *shared], self.iteration)

    @property
    def depth_every(self) -> int:
        """Steps from one with terms on depth to the next."""
        given = self.config.loss.depth_every
        iterations = given if given is not None else 5 if self.config.camera_model == "ray" else 1
        return -(-iterations // self.processes.count)

    def _channels(self) -> tuple[Channel, ...]:
        """What the next step draws."""
        if (self.iteration // self.processes.count + 1) % self.depth_every:
            return ("rgb",)
        return ("rgb", "depth")

    def check_finite(self) -> None:
        """`UserError` with its name where a parameter is not finite: the fit has diverged."""
        held = {f"{name} of the node {key}": param for key, node in self.nodes.nodes.items() for name, param in node.all_params.items()}
        shared = {f"the {name}": value for name, value in self.shared.items()}
        for name, param in (held | shared | {"exposures": self.exposures.deltas}).items():
            if not bool(torch.isfinite(param.detach()).all()):
                raise UserError(f"fit: {name} became infinite by iteration {self.iteration}; lower the learning rates.")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, as plain tensors, numbers and strings."""
        return {
            "config_key": self.config_key,
            "settings": result_settings(self.config),
            "log_key": self.log_key,
            "iteration": self.iteration,
            "processes": self.processes.count,
            "nodes": self.nodes.state_dict(),
            "shared": {name: value.detach() for name, value in self.shared.items()},
            "shared_optimizer": self.shared_optimizer.state_dict(),
            "exposures": self.exposures.state_dict(),
            "poses": self.poses.state_dict(),
            "recent": self.recent.state_dict(),
            "generator": self.generator.get_state(),
            "device": self.device.type,
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            UserError: where the state belongs to another log or other settings.
        """
        change = first_difference(state["settings"], result_settings(self.config)) if "settings" in state else None
        settings = "other settings" + ("" if change is None else f" ({change})")
        for key, own, what in (("log_key", self.log_key, "another log"), ("config_key", self.config_key, settings)):
            if state[key] != own:
                raise UserError(f"--resume: the checkpoint was made with {what}; give the same again, or start anew without --resume.")
        count = state.get("processes", 1)  # older checkpoints are of one
        if count != self.processes.count:
            raise UserError(
                f"--resume: the checkpoint was made by {count} processes, not by {self.processes.count}; start as many again, or anew "
                "without --resume."
            )
        self.iteration = state["iteration"]
        self.nodes.load_state_dict(state["nodes"])
        self.shared = {name: value.to(self.device).clone().requires_grad_(True) for name, value in state["shared"].items()}
        self.shared_optimizer = self._new_shared_optimizer()
        self.shared_optimizer.load_state_dict(state["shared_optimizer"])
        self.exposures.load_state_dict(state["exposures"])
        self.poses.load_state_dict(state["poses"])
        self.recent.load_state_dict(state.get("recent", ()))  # older checkpoints do not say
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"].cpu())
        else:  # generators of different devices have different states
            self.generator.manual_seed(self.config.seed + self.iteration)
        restore_random_state(state["random"])


def _shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _actor_key(actor_id: str) -> str:
    return f"actor/{actor_id}"
