"""The fitting loop: its state, one iteration, and its checkpoints. What surrounds it (files, progress, scores) is in `fit.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splatmend.datasets.artifact import content_key
from splatmend.datasets.checkpoint import random_state, restore_random_state
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, transform
from splatmend.datasets.log import SceneLog
from splatmend.datasets.log_key import log_key
from splatmend.datasets.shot import Shot
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.data import FrameSource, Sample
from splatmend.recon.fit.losses import bending, downward_pixels, line_of_sight, photometric, relative_depth
from splatmend.recon.fit.nodes_optimiser import FittedNode, NodesOptimiser
from splatmend.recon.fit.points import scene_extent
from splatmend.recon.fit.pose_refinement import PoseRefinement, RefinedPoses
from splatmend.recon.fit.processes import ALONE, Processes
from splatmend.recon.fit.seeding import seed_scene
from splatmend.recon.fit.shared_step import StepGradients, StepPicture, align, exchanged
from splatmend.recon.fit.step_scaling import StepScaling
from splatmend.recon.fit.symmetry import MirroredDraws, one_sided
from splatmend.recon.nodes import DeformableActor
from splatmend.recon.render import RenderOutput, render
from splatmend.recon.scene import RecordedShot, Scene
from splatmend.recon.sky import ray_directions

BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One iteration: loss terms (weighted, on the device) and the picture's mean squared error."""

    terms: dict[str, Tensor]
    squared_error: Tensor

    def as_row(self, iteration: int, gaussian_count: int, processes: Processes = ALONE) -> dict[str, float]:
        """A row of the loss curve; means over the processes' pictures, of which one without a term counts as zero.

        Raises:
            UserError: with the term's name where one is not finite: the fit has diverged.
        """
        own = {name: float(value) for name, value in self.terms.items()}
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
        # Where and how noisily a fit runs does not change what is fitted.
        plain_config = replace(config, device="auto", backend=None, checkpoint_every=1, log_every=1)
        self.config_key = content_key(plain_config)
        self.log_key = log_key(log)
        self.train_numbers = [number for number, recorded in enumerate(shots) if recorded.role == "train"]
        if len(self.train_numbers) < processes.count:
            raise UserError(
                f"{log.path}: there are {len(self.train_numbers)} frames to train on, too few for {processes.count} processes; start "
                "fewer, or lower holdout_every or train_every."
            )
        self.processes = processes
        self.scaling = StepScaling(processes.count)
        self.exposure_rows = {number: row for row, number in enumerate(self.train_numbers)}
        self.source = FrameSource(log, device, config.data.cache_mib, config.camera_model)
        self.generator = torch.Generator(device=device).manual_seed(config.seed)
        self.scene = (seed_scene(log, shots, config) if scene is None else scene).to(device)
        extent = scene_extent([log.frames[number] for number in self.train_numbers], log.metric)
        nodes = {BACKGROUND: FittedNode(self.scene.background.gaussians, extent, config.densify.cap, config, device, scaling=self.scaling)}
        for actor_id, actor in self.scene.actors.items():
            reach = float(np.linalg.norm(actor.track.size_m)) / 2
            motion = actor.motion if isinstance(actor, DeformableActor) else None
            cap = config.densify.actor_cap
            nodes[_actor_key(actor_id)] = FittedNode(actor.gaussians, reach, cap, config, device, motion, self.scaling)
        self.nodes = NodesOptimiser(nodes, config, self.scaling)
        self.shared = {"exposure": self.scene.exposure.deltas.clone().requires_grad_(True)}
        if self.scene.sky is not None:
            self.shared["sky"] = self.scene.sky.logits.clone().requires_grad_(True)
        self.shared_optimizer = self._new_shared_optimizer()
        trained = [shots[number].shot for number in self.train_numbers]
        tracks = [actor.track for actor in self.scene.actors.values()]
        self.mirrored = MirroredDraws(one_sided(tracks, trained, config.actors), config.actors.mirrored_share, config.seed)
        self.poses = PoseRefinement(self.scene, self.train_numbers, config, device)
        self._drawn: dict[int, list[str]] = {}

    def _new_shared_optimizer(self) -> torch.optim.Adam:
        rates = {"exposure": self.config.rates.exposure, "sky": self.config.rates.sky}
        groups = [{"params": [value], "lr": self.scaling.rate(rates[name])} for name, value in self.shared.items()]
        return torch.optim.Adam(groups, **self.scaling.adam)

    @property
    def gaussian_count(self) -> int:
        return self.nodes.gaussian_count

    def current_scene(self) -> Scene:
        """The scene with the present parameters, in the graph."""
        actors = {actor_id: self.nodes[_actor_key(actor_id)].carried_by(actor) for actor_id, actor in self.scene.actors.items()}
        scene = replace(self.scene.with_gaussians(self.nodes[BACKGROUND].gaussians), actors=actors)
        sky = None if scene.sky is None else scene.sky.with_logits(self.shared["sky"])
        return replace(scene, sky=sky, exposure=scene.exposure.with_deltas(self.shared["exposure"]))

    def finished_scene(self) -> Scene:
        """The scene as it is kept: on the CPU and outside the graph, the exposure's mean taken off, with corrected poses."""
        scene = self.current_scene()
        actors = {actor_id: actor.detached() for actor_id, actor in scene.actors.items()}
        scene = replace(scene.with_gaussians(scene.background.gaussians.detached()), actors=actors)
        sky = None if scene.sky is None else scene.sky.with_logits(scene.sky.logits.detach())
        exposure = scene.exposure.with_deltas(scene.exposure.centred.detach())
        return self.poses.refined(replace(scene, sky=sky, exposure=exposure).to("cpu"))

    def frame_number(self, iteration: int) -> int:
        """Which frame an iteration sees: every training frame once per round, in an order that depends on seed and round alone."""
        turn, place = divmod(iteration, len(self.train_numbers))
        order = torch.Generator().manual_seed(self.config.seed * 1_000_003 + turn)
        return self.train_numbers[int(torch.randperm(len(self.train_numbers), generator=order)[place])]

    @property
    def sh_degree(self) -> int | None:
        """Degree of the harmonics that the next iteration uses; None for all that there are."""
        return self.iteration // self.config.sh_every

    def drawn_nodes(self, shot: Shot) -> list[str]:
        """Keys of the nodes that a shot shows: the background, and the actors that are there at its time."""
        there = [_actor_key(name) for name, actor in self.scene.actors.items() if actor.world_from_node(shot.mid_us) is not None]
        return [BACKGROUND, *there]

    def step(self) -> StepReport:
        """One step of the optimiser: one iteration for each process."""
        place = self.iteration + self.processes.rank
        number = self.frame_number(place)
        sample = self.source[number]
        scene = self.mirrored.of(self.current_scene(), place)
        poses = self.poses.of(number)
        shot = poses.shot
        out = render(
            scene,
            shot,
            ("rgb", "depth", "log_depth") if self._sees_returns(sample) else ("rgb", "depth"),
            backend=self.config.backend,
            exposure=scene.exposure.row(self.exposure_rows[number]),
            actor_poses=poses.actor_poses,
            camera_twist=poses.camera_twist,
            actor_twists=poses.actor_twists,
            sh_degree=self.sh_degree,
        )
        drawn = self.drawn_nodes(shot)
        assert out.rgb is not None
        truth = sample.rgb.float() / 255.0
        terms = photometric(out.rgb, truth, sample.valid, self.config.loss.ssim)
        terms |= self._geometry_terms(out, sample, shot)
        if self.config.loss.bending > 0:
            assert out.depth_m is not None
            terms["bending"] = self.config.loss.bending * bending(out.depth_m, out.opacity, truth)
        terms |= self.nodes.regularisers(drawn)
        if self.config.loss.exposure > 0:
            terms["exposure"] = self.config.loss.exposure * self.shared["exposure"].square().mean()
        torch.stack(list(terms.values())).sum().backward()
        wishes = self.nodes.wishes(shot, self._eyes(scene, poses)) if self.config.densify.strategy == "classic" else {}
        step = self._of_all_processes(StepGradients(drawn=drawn, wishes=wishes, twists=poses.step_twists))
        self.nodes.note(step.wishes)
        terms |= self.poses.step(poses, self.iteration / self.config.iterations, step.twists)
        self.iteration += self.processes.count
        self.nodes.step(step.drawn, self.iteration, self.generator)
        self.shared_optimizer.step()
        self.shared_optimizer.zero_grad(set_to_none=True)
        if self.scaling.due(self.config.densify.every, self.iteration):
            self.align()
        with torch.no_grad():
            squared_error = (out.rgb - truth).square().mean()
        return StepReport(terms={name: value.detach() for name, value in terms.items()}, squared_error=squared_error)

    def _of_all_processes(self, own: StepGradients) -> StepGradients:
        if self.processes.count == 1:
            return own
        numbers = [self.frame_number(self.iteration + rank) for rank in range(self.processes.count)]
        pictures = [StepPicture(drawn=self._drawn_in(number), poses=self.poses.shown(number)) for number in numbers]
        return exchanged(own, pictures, self.processes, self.nodes, list(self.shared.values()), self.poses.most_twists)

    def _drawn_in(self, number: int) -> list[str]:
        """Keys of the nodes that the picture of a frame shows."""
        if number not in self._drawn:
            self._drawn[number] = self.drawn_nodes(self.scene.shots[number].shot)
        return self._drawn[number]

    def align(self) -> None:
        """Let all processes go on from the first one's parameters, which they differ from by no more than rounding."""
        align(self.processes, [*self.nodes.tensors, *(value.detach() for value in self.shared.values())], self.iteration)

    def _eyes(self, scene: Scene, poses: RefinedPoses) -> dict[str, np.ndarray]:
        """The camera's place in the frame of each node that is there."""
        eye_world_m, t_us = poses.shot.world_from_camera[:3, 3], poses.shot.mid_us
        eyes = {BACKGROUND: eye_world_m - scene.origin_world_m}
        for name, actor in scene.actors.items():
            pose = actor.world_from_node(t_us) if poses.actor_poses is None else poses.actor_poses(name, t_us)
            if pose is not None:
                eyes[_actor_key(name)] = transform(inverse(pose), eye_world_m[None])[0]
        return eyes

    def _sees_returns(self, sample: Sample) -> bool:
        return self.config.loss.line_of_sight > 0 and sample.pixels.numel() > 0

    def _geometry_terms(self, out: RenderOutput, sample: Sample, shot: Shot) -> dict[str, Tensor]:
        weights = self.config.loss
        terms = {}
        assert out.depth_m is not None
        if sample.pixels.numel():
            # Unlike plain indexing, gathering need not sort the pixels on the way back.
            opacity = out.opacity.reshape(-1).gather(0, sample.pixels)
            if weights.lidar_depth > 0:
                depth_m = out.depth_m.reshape(-1).gather(0, sample.pixels)
                terms["lidar_depth"] = weights.lidar_depth * relative_depth(depth_m, sample.depth_m)
            if self._sees_returns(sample):
                moments = out.extra["log_depth"].reshape(-1, 2).index_select(0, sample.pixels)
                terms["line_of_sight"] = weights.line_of_sight * line_of_sight(moments, opacity, sample.depth_m)
        if sample.sky is not None and weights.sky_opacity > 0:
            terms["sky_opacity"] = weights.sky_opacity * (out.opacity * sample.sky).mean()
        if self.scene.metric and self.scene.sky is not None and weights.ground_opacity > 0:
            below = downward_pixels(ray_directions(shot, self.device, self.scene.camera_model), self.scene.up_world)
            terms["ground_opacity"] = weights.ground_opacity * ((1 - out.opacity) * below).mean()
        return terms

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, as plain tensors, numbers and strings."""
        return {
            "config_key": self.config_key,
            "log_key": self.log_key,
            "iteration": self.iteration,
            "processes": self.processes.count,
            "nodes": self.nodes.state_dict(),
            "shared": {name: value.detach() for name, value in self.shared.items()},
            "shared_optimizer": self.shared_optimizer.state_dict(),
            "poses": self.poses.state_dict(),
            "generator": self.generator.get_state(),
            "device": self.device.type,
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            UserError: where the state belongs to another log or other settings.
        """
        for key, own, what in (("log_key", self.log_key, "another log"), ("config_key", self.config_key, "other settings")):
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
        self.poses.load_state_dict(state["poses"])
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"].cpu())
        else:  # generators of different devices have different states
            self.generator.manual_seed(self.config.seed + self.iteration)
        restore_random_state(state["random"])


def _actor_key(actor_id: str) -> str:
    return f"actor/{actor_id}"
