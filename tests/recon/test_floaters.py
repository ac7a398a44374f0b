"""Gaussians that LiDAR looked through are found and taken out; what it hits, even here and there, stays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import CAMERA, EGO_FROM_CAMERA, ORIGIN_M, gaussians, tiny_log, true_scene

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import pose
from splatmend.datasets.shot import Shot
from splatmend.recon.exposure import ExposureTable
from splatmend.recon.fit.config import DensifyConfig, FitConfig, FloatersConfig
from splatmend.recon.fit.data import prepared_log, recorded_shots
from splatmend.recon.fit.floaters import LidarView, floaters
from splatmend.recon.fit.trainer import BACKGROUND, Trainer
from splatmend.recon.gaussians import concatenate
from splatmend.recon.raster.api import Model
from splatmend.recon.render import draw_splats
from splatmend.recon.scene import Scene

WALL_X, WALL_TOP, POLE_X, POLE_Y, POLE_HALF = 12.0, 4.0, 6.0, 0.5, 0.12
PARTS = ("wall", "pole", "floaters", "above")


def _world(model: Model) -> tuple[Scene, dict[str, slice]]:
    """A wall, a thin pole before it, floaters before both, and floaters so high that no beam looks there."""
    wall = np.stack(np.meshgrid([WALL_X], np.arange(-8, 8.1, 0.4), np.arange(0, WALL_TOP, 0.4)), axis=-1).reshape(-1, 3)
    pole = np.stack([np.full(40, POLE_X), np.full(40, POLE_Y), np.linspace(0, 3, 40)], axis=1)
    floating = np.array([[3.0, -0.6, 1.5], [4.0, -0.2, 1.2], [3.5, 0.0, 1.8], [5.0, -1.0, 2.0]])
    above = floating + np.array([0, 0, 2.5])
    parts = [
        gaussians(xyz, np.full((len(xyz), 3), 0.5), sigma) for xyz, sigma in ((wall, 0.25), (pole, 0.06), (floating, 0.1), (above, 0.1))
    ]
    ends = np.cumsum([0, *map(len, parts)])
    scene = true_scene()
    background = replace(scene.background, gaussians=concatenate(parts))
    return replace(scene, background=background, actors={}, camera_model=model), dict(zip(PARTS, map(slice, ends, ends[1:])))


def _views(count: int = 6, hit_share: float = 0.3) -> list[LidarView]:
    """Pictures from a place that moves to the right, a share of their pixels with the depth of pole or wall."""
    random = np.random.default_rng(1)
    views = []
    for number in range(count):
        place = ORIGIN_M + np.array([0.2 * number, -0.15 * number, 0.0])
        world_from_camera = pose(np.eye(3), place) @ EGO_FROM_CAMERA
        rows, columns = np.mgrid[: CAMERA.height, : CAMERA.width]
        left = -(columns + 0.5 - CAMERA.principal_px[0]) / CAMERA.focal_px[0]
        up = -(rows + 0.5 - CAMERA.principal_px[1]) / CAMERA.focal_px[1]
        eye = world_from_camera[:3, 3] - ORIGIN_M
        depth = np.full(rows.shape, np.inf)
        for x, half, middle, top in ((WALL_X, 8.0, 0.0, WALL_TOP - 0.4), (POLE_X, POLE_HALF, POLE_Y, 3.0)):
            far = x - eye[0]
            met = (np.abs(eye[1] + far * left - middle) < half) & (eye[2] + far * up < top) & (eye[2] + far * up > 0)
            depth = np.where(met, far, depth)
        chosen = np.flatnonzero(np.isfinite(depth).ravel() & (random.random(depth.size) < hit_share))
        views.append(
            LidarView(
                shot=Shot.still(CAMERA, world_from_camera, number * 100_000),
                actor_poses=None,
                pixels=torch.from_numpy(chosen),
                depth_m=torch.from_numpy(depth.ravel()[chosen]).float(),
            )
        )
    return views


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_floaters_go_and_a_thin_pole_stays(model: Model) -> None:
    scene, parts = _world(model)
    gone = floaters(scene, _views(), FloatersConfig())
    assert {name: int(gone[where].sum()) for name, where in parts.items()} == {"wall": 0, "pole": 0, "floaters": 4, "above": 0}


def test_it_takes_several_pictures_and_nearness() -> None:
    scene, _ = _world("ewa")
    assert not floaters(scene, _views(2), FloatersConfig(least_views=3)).any()
    assert floaters(scene, _views(2), FloatersConfig(least_views=2)).any()
    assert not floaters(scene, _views(), FloatersConfig(reach_m=2.0)).any()
    assert not floaters(scene, _views(hit_share=0.0), FloatersConfig()).any(), "nothing is said where nothing is measured"


def test_probes_tell_what_each_gaussian_has_of_a_pixel() -> None:
    scene = true_scene()
    drawn = draw_splats(scene, scene.shots[0].shot, (), shares=["car/1"], probes=1)
    assert drawn.probes is not None
    assert not drawn["probes"].any()
    shares = drawn["shares"][..., 0].detach()
    row, column = np.unravel_index(int(shares.argmax()), shares.shape)
    (gradient,) = torch.autograd.grad(drawn["probes"][row, column, 0], drawn.probes)
    count = len(scene.background.gaussians)
    assert float(gradient[count:].sum()) == pytest.approx(float(shares[row, column]), abs=1e-5)
    assert float(gradient.sum()) == pytest.approx(float(drawn.opacity[row, column].detach()), abs=1e-5)


@pytest.mark.parametrize("strategy", ["classic", "mcmc"])
def test_a_fit_takes_them_out_where_it_is_asked_to(strategy: str) -> None:
    true = true_scene()
    places = np.array([[4.5, -1.2, 1.0], [4.5, -0.5, 0.7], [5.5, -1.2, 1.3]])
    planted = gaussians(places, np.full((3, 3), 0.9), 0.15)
    fitted = [recorded.shot for recorded in true.shots if recorded.role == "train"]
    exposure = ExposureTable.identity([shot.camera.name for shot in fitted], [shot.mid_us for shot in fitted])
    scene = replace(true.with_gaussians(concatenate([true.background.gaussians, planted])), exposure=exposure)
    config = FitConfig(
        iterations=8,
        sh_degree=0,
        sky_rows=16,
        densify=DensifyConfig(strategy=strategy, start=8),
        floaters=FloatersConfig(at=(0.5,), least_views=2),
        device="cpu",
    )
    log = prepared_log(tiny_log(), config.data)

    def near_planted(trainer: Trainer) -> int:
        means = trainer.nodes[BACKGROUND].params["means"].detach()
        return int((torch.cdist(means, torch.from_numpy(places).float()).amin(dim=1) < 0.05).sum())

    trainer = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"), scene=scene)
    for _ in range(3):
        trainer.step()
    before = len(trainer.nodes[BACKGROUND])
    assert near_planted(trainer) == 3
    trainer.step()
    node = trainer.nodes[BACKGROUND]
    assert near_planted(trainer) == 0
    assert before - 3 - len(node) <= 0.05 * before, "what LiDAR met is still there"
    for _ in range(4):
        trainer.step()
    assert torch.isfinite(node.params["means"]).all()
    again = Trainer(log, recorded_shots(log, config.data), config, torch.device("cpu"), scene=scene)
    again.load_state_dict(trainer.state_dict())
    assert len(again.nodes[BACKGROUND]) == len(node)
    kept = Trainer(log, recorded_shots(log, config.data), replace(config, floaters=FloatersConfig()), torch.device("cpu"), scene=scene)
    for _ in range(4):
        kept.step()
    assert near_planted(kept) == 3


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"at": (1.0,)}, {"share": 0.5}, {"views": 0}, {"tolerance": -0.1}, {"reach_m": 0.0}):
        with pytest.raises(UserError, match="fit settings: floaters"):
            FloatersConfig(**wrong)
