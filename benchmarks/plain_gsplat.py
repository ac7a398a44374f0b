"""A plain gsplat fit, to measure others against: gsplat's own rasteriser, harmonics and MCMC strategy, L1 and SSIM, a pinhole at mid
exposure; no actors, LiDAR loss, exposure, sky or pose corrections. It begins with the points that the scene of the product begins with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from splatmend.datasets.geometry import inverse
from splatmend.datasets.log import SceneLog
from splatmend.datasets.shot import Shot
from splatmend.datasets.ssim import structural_similarity
from splatmend.recon.fit.config import FitConfig
from splatmend.recon.fit.data import FrameSource
from splatmend.recon.fit.points import scene_extent
from splatmend.recon.fit.trainer import Trainer
from splatmend.recon.raster.camera_rays import RayCamera

SCALE_SHARE = 0.2
"""Initial standard deviations over those of the product's scene (gsplat's MCMC trainer begins with a tenth of the distance to
neighbours, the product with half)."""


class PlainFit:
    """`step` is one iteration; `picture` draws a frame. With `ray`, by gsplat's bare unscented transform along the pixels' rays."""

    def __init__(self, like: Trainer, log: SceneLog, config: FitConfig, cap: int, *, ray: bool = False) -> None:
        from gsplat import MCMCStrategy

        self.log, self.config, self.ray = log, config, ray
        self.iteration = 0
        self.train_numbers, self.frame_number = like.train_numbers, like.frame_number
        self.source = FrameSource(log, torch.device("cuda"), config.data.cache_mib, config.camera_model)
        self.origin = torch.tensor(like.scene.background.origin_world_m, dtype=torch.float64)
        extent = scene_extent([log.frames[number] for number in self.train_numbers], log.metric)
        first = like.scene.background.gaussians
        rates = {"means": 1.6e-4 * extent, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "sh0": 2.5e-3, "shN": 2.5e-3 / 20}
        values = {
            "means": first.means,
            "scales": first.log_scales + math.log(SCALE_SHARE),
            "quats": first.quats_wxyz,
            "opacities": first.opacity_logits,
            "sh0": first.sh[:, :1],
            "shN": first.sh[:, 1:],
        }
        named = {name: torch.nn.Parameter(value.detach().clone().contiguous().cuda()) for name, value in values.items()}
        self.params = torch.nn.ParameterDict(named)
        self.optimizers = {
            name: torch.optim.Adam([{"params": self.params[name], "lr": rate}], eps=1e-15, fused=True) for name, rate in rates.items()
        }
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizers["means"], gamma=0.01 ** (1.0 / config.iterations))
        self.strategy = MCMCStrategy(cap_max=cap, refine_stop_iter=int(config.densify.stop_share * config.iterations))
        self.strategy.check_sanity(self.params, self.optimizers)
        self.state = self.strategy.initialize_state()

    @property
    def gaussian_count(self) -> int:
        return len(self.params["means"])

    def step(self) -> None:
        number = self.frame_number(self.iteration)
        truth = self.source[number].rgb.float() / 255.0
        picture, info = self._draw(number)
        similar = structural_similarity(picture.permute(2, 0, 1)[None], truth.permute(2, 0, 1)[None])[0]
        loss = 0.8 * (picture - truth).abs().mean() + 0.2 * (1 - similar)
        loss = loss + 0.01 * torch.sigmoid(self.params["opacities"]).mean() + 0.01 * torch.exp(self.params["scales"]).mean()
        loss.backward()
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        rate = self.optimizers["means"].param_groups[0]["lr"]
        self.schedule.step()
        self.strategy.step_post_backward(self.params, self.optimizers, self.state, self.iteration, info, lr=rate)
        self.iteration += 1

    def picture(self, number: int) -> Tensor:
        """A frame `[H, W, 3]`, not clamped."""
        with torch.no_grad():
            return self._draw(number)[0]

    def _draw(self, number: int) -> tuple[Tensor, dict]:
        from gsplat import rasterization

        frame = self.log.frames[number]
        camera = self.log.cameras[frame.camera]
        shot = Shot.of(frame, camera)
        view = self._view(shot.world_from_camera)
        more: dict = {}
        if self.ray:
            from splatmend.recon.raster.gsplat_backend import lens_arguments, shutter_arguments

            ray_camera = RayCamera.of(shot)
            more = {"with_ut": True, "with_eval3d": True, **lens_arguments(ray_camera.camera, view.device)}
            more |= shutter_arguments(ray_camera, self.origin.numpy(), view.device)
            view = more.pop("viewmats")[0]
        picture, _, info = rasterization(
            self.params["means"],
            self.params["quats"],
            torch.exp(self.params["scales"]),
            torch.sigmoid(self.params["opacities"]),
            torch.cat([self.params["sh0"], self.params["shN"]], dim=1),
            view[None],
            torch.as_tensor(camera.intrinsics, dtype=torch.float32, device=view.device)[None],
            camera.width,
            camera.height,
            sh_degree=min(self.iteration // self.config.sh_every, self.config.sh_degree),
            packed=False,
            **more,
        )
        return picture[0], info

    def _view(self, world_from_camera: object) -> Tensor:
        view = torch.as_tensor(inverse(world_from_camera), dtype=torch.float64)  # type: ignore[arg-type]
        view[:3, 3] += view[:3, :3] @ self.origin
        return view.float().cuda()
