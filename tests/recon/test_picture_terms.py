"""The loss of a picture from tensors alone, against the picture that `render` draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_log import true_scene

from splatmend.datasets.shot import Shot
from splatmend.recon.bilateral import variation
from splatmend.recon.exposure import ExposureTable, from_identity
from splatmend.recon.fit.config import LossConfig
from splatmend.recon.fit.data import Sample
from splatmend.recon.fit.graphed import PictureLosses, StaticInputs
from splatmend.recon.fit.losses import below_horizon, bending, photometric, relative_depth
from splatmend.recon.fit.picture_terms import picture_terms, plan_of, tensors_of, view_of
from splatmend.recon.render import draw_splats, render
from splatmend.recon.scene import Scene
from splatmend.recon.sky import ray_directions

WEIGHTS = LossConfig()


def _sample(shot: Shot) -> Sample:
    generator = torch.Generator().manual_seed(0)
    size = (shot.camera.height, shot.camera.width)
    return Sample(
        rgb=torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator),
        valid=torch.rand(size, generator=generator) > 0.1,
        pixels=torch.tensor([100, 900, 2000]),
        depth_m=torch.tensor([4.0, 9.0, 12.0]),
        depth_shares=torch.tensor([0.5, 0.5, 0.0]),
    )


def _scene_and_shot(model: str, shutter: str, grid: tuple[int, ...] = ()) -> tuple[Scene, Shot]:
    scene = true_scene()
    scene = replace(scene, camera_model=model)
    shot = scene.shots[5].shot
    if shutter != "global":
        later = scene.shots[6].shot.world_from_camera
        shot = replace(
            shot,
            camera=replace(shot.camera, shutter=shutter),
            world_from_camera_start=shot.world_from_camera,
            world_from_camera_end=later,
            start_us=shot.mid_us - 15_000,
            end_us=shot.mid_us + 15_000,
        )
    exposure = ExposureTable.identity(["front"] * 3, [0, 1, 2], grid)
    deltas = 0.1 * torch.randn(3, *grid, 3, 4, generator=torch.Generator().manual_seed(1))
    return replace(scene, exposure=exposure.with_deltas(deltas)), shot


@pytest.mark.parametrize(
    ("model", "shutter", "grid"),
    [
        ("ewa", "global", ()),
        ("ray", "global", ()),
        ("ray", "top_to_bottom", ()),
        ("ray", "right_to_left", ()),
        ("ewa", "global", (2, 3, 4)),
        ("ray", "top_to_bottom", (2, 3, 4)),
    ],
)
def test_terms_are_those_of_the_rendered_picture(model: str, shutter: str, grid: tuple[int, ...]) -> None:
    scene, shot = _scene_and_shot(model, shutter, grid)
    sample = _sample(shot)
    with torch.no_grad():
        own = scene.exposure.centred[1]
        view = view_of(scene, shot)
        drawn = draw_splats(scene, shot, ("rgb", "depth"), ray_camera=view.ray_camera, along=[view.lines])
        plan = plan_of(scene, drawn, shot, WEIGHTS, exposure_variation=0.3)
        terms, squared_error = picture_terms(plan, tensors_of(scene, drawn, view, own, sample))
        out = render(scene, shot, ("rgb", "depth"), exposure=from_identity(scene.exposure.centred[1]))
    assert out.rgb is not None
    assert out.depth_m is not None
    truth = sample.rgb.float() / 255
    expected = photometric(out.rgb, truth, sample.valid, WEIGHTS.ssim)
    depths = out.depth_m.reshape(-1)[sample.pixels]
    expected["lidar_depth"] = WEIGHTS.lidar_depth * relative_depth(depths[:2], sample.depth_m[:2], torch.tensor([0.5, 0.5]))
    expected["bending"] = WEIGHTS.bending * bending(out.depth_m, out.opacity, truth)
    upwards = torch.nn.functional.normalize(ray_directions(shot, "cpu", scene.camera_model), dim=-1)[..., 2]
    expected["ground_opacity"] = WEIGHTS.ground_opacity * ((1 - out.opacity) * below_horizon(upwards)).mean()
    expected["exposure"] = WEIGHTS.exposure * own.square().mean()
    if grid:
        expected["exposure_variation"] = 0.3 * variation(own)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-7, msg=name)
    torch.testing.assert_close(squared_error, (out.rgb - truth).square().mean())


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("model", "shutter", "grid"), [("ewa", "global", ()), ("ray", "top_to_bottom", ()), ("ray", "top_to_bottom", (4, 8, 8))]
)
def test_a_graph_gives_what_the_kernels_give_one_by_one(model: str, shutter: str, grid: tuple[int, ...]) -> None:
    scene, shot = _scene_and_shot(model, shutter, grid)
    scene = scene.to("cuda")
    losses = {graphs: PictureLosses(graphs=graphs) for graphs in (False, True)}
    for picture in range(3):
        sample = _sample(shot)
        sample = Sample(**{name: getattr(sample, name).cuda() for name in Sample.__dataclass_fields__})
        sample = replace(sample, rgb=sample.rgb.roll(picture, 0))
        results = {}
        for graphs, of_picture in losses.items():
            sky = scene.sky.logits.detach().clone().requires_grad_()
            deltas = scene.exposure.deltas.detach().clone().requires_grad_()
            background = scene.background.gaussians
            means = background.means.detach().clone().requires_grad_()
            now = replace(scene.with_gaussians(replace(background, means=means)), sky=scene.sky.with_logits(sky))
            view = view_of(now, shot)
            drawn = draw_splats(now, shot, ("rgb", "depth"), ray_camera=view.ray_camera, along=[view.lines])
            given = tensors_of(now, drawn, view, deltas[picture] - deltas.mean(dim=0), sample)
            seen = of_picture(plan_of(now, drawn, shot, WEIGHTS, exposure_variation=0.3), given)
            seen.total.backward()
            results[graphs] = (seen.names, seen.terms, seen.squared_error, means.grad, sky.grad, deltas.grad.clone())
        assert results[True][0] == results[False][0]
        for one, other in zip(results[True][1:], results[False][1:]):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()))


def test_what_a_graph_reads_is_copied_only_where_it_changed() -> None:
    generator = torch.Generator().manual_seed(0)
    held = [torch.zeros(3, 2), torch.zeros(2), torch.zeros(4, dtype=torch.uint8), torch.zeros(2)]
    inputs = StaticInputs(held)
    lens, parameter = torch.randn(3, 2, generator=generator), torch.ones(2, requires_grad=True)
    for picture in range(1, 4):
        row, rgb = torch.full((2,), float(picture)), torch.full((4,), picture, dtype=torch.uint8)
        filled = inputs.filled([lens, row, rgb, parameter])
        assert [one is other for one, other in zip(filled, held)] == [True, True, True, False]
        assert filled[3] is parameter
        assert all(torch.equal(one, other) for one, other in zip(filled, (lens, row, rgb, parameter)))
        held[0].zero_()  # seen only where it is not copied again
        if picture == 1:
            inputs.filled([lens, row, rgb, parameter])
            assert not held[0].any()
        lens.mul_(2)
    assert not held[3].any()
