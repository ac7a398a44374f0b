"""Actors that bend: where their Gaussians are over time, on disk, and through densification."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_log import STEP_US, true_scene

from splatmend.datasets.errors import UserError
from splatmend.recon.fit.config import DensifyConfig, FitConfig
from splatmend.recon.fit.nodes_optimiser import FittedNode, NodesOptimiser
from splatmend.recon.motion import Motion, still
from splatmend.recon.nodes import DeformableActor
from splatmend.recon.render import render
from splatmend.recon.scene import Scene
from splatmend.recon.scene_files import load_scene, save_scene


def motion_of(count: int, size: float = 0.3) -> Motion:
    """Every Gaussian goes its own way."""
    random = torch.Generator().manual_seed(2)
    motion = still(count, start_us=0, end_us=11 * STEP_US, step_us=2 * STEP_US, reach_m=0.8, cadences_hz=(0.4, 1.0))
    return replace(motion, coefficients=size * torch.randn(count, 4, 6, generator=random))


def bending_scene(motion: Motion | None = None) -> Scene:
    scene = true_scene(12)
    (car,) = scene.actors.values()
    moving = DeformableActor(gaussians=car.gaussians, track=car.track, motion=motion or motion_of(len(car.gaussians)))
    return replace(scene, actors={car.actor_id: moving})


def test_what_follows_no_course_stays_bit_for_bit() -> None:
    scene = bending_scene(motion_of(120, size=0.0))
    (car,) = scene.actors.values()
    there = car.gaussians_at(3 * STEP_US)
    for name in ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh"):
        assert torch.equal(getattr(there, name), getattr(car.gaussians, name)), name


def test_ends_are_held_and_courses_are_smooth() -> None:
    motion = motion_of(4)
    assert torch.equal(motion.course_at(-9 * STEP_US), motion.course_at(0))
    end_us = motion.first_us + (motion.courses.shape[1] - 3) * motion.step_us
    assert end_us >= 11 * STEP_US
    torch.testing.assert_close(motion.course_at(end_us + 10**9), motion.course_at(end_us))
    values = torch.stack([motion.course_at(t) for t in range(0, end_us, 5_000)])
    steps = values.diff(dim=0)
    assert float(values.std()) > 0.2
    assert float(steps.diff(dim=0).abs().max()) < 0.1 * float(steps.abs().max())
    # Equal control values are a constant course.
    flat = replace(motion, courses=torch.full_like(motion.courses, 0.7))
    torch.testing.assert_close(flat.course_at(123_456), torch.full((4,), 0.7))


def test_nothing_goes_farther_than_the_reach() -> None:
    scene = bending_scene(motion_of(120, size=1e4))
    (car,) = scene.actors.values()
    moved = car.gaussians_at(4 * STEP_US).means - car.gaussians.means
    assert 0.7 < float(moved.abs().max()) <= 0.8 + 1e-5


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_gradients_reach_measures_and_courses(model: str) -> None:
    motion = motion_of(120)
    motion.coefficients.requires_grad_(True)
    motion.courses.requires_grad_(True)
    scene = replace(bending_scene(motion), camera_model=model)  # type: ignore[arg-type]
    picture = render(scene, scene.shots[5].shot, ("rgb",))
    assert picture.rgb is not None
    picture.rgb.square().sum().backward()
    for tensor in (motion.coefficients, motion.courses):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert float(tensor.grad.abs().sum()) > 0


def test_a_bending_actor_comes_back_from_disk(tmp_path: Path) -> None:
    scene = bending_scene()
    back = load_scene(save_scene(tmp_path / "scene", scene, {}))
    (actor,) = back.actors.values()
    assert isinstance(actor, DeformableActor)
    pictures = []
    for number in (1, 8):
        before, after = render(scene, scene.shots[number].shot).rgb, render(back, scene.shots[number].shot).rgb
        assert before is not None
        assert after is not None
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
        still_there = render(bending_scene(motion_of(120, size=0.0)), scene.shots[number].shot).rgb
        assert still_there is not None
        pictures.append(float((still_there - before).abs().max()))
    assert min(pictures) > 0.05
    # Without its boxes' times it is drawn as far as the track goes, and no farther.
    assert actor.world_from_node(12 * STEP_US + 10**6) is None


def test_broken_motion_is_a_sentence(tmp_path: Path) -> None:
    folder = save_scene(tmp_path / "scene", bending_scene(), {})
    (file,) = (folder / "actors").glob("*.motion.safetensors")
    good = load_file(str(file))
    save_file({**good, "coefficients": good["coefficients"][:-1].contiguous()}, str(file))
    with pytest.raises(UserError, match="motion of 119 Gaussians for an actor that has 120"):
        load_scene(folder)
    save_file({**good, "courses": good["courses"] * float("nan")}, str(file))
    with pytest.raises(UserError, match="no finite numbers"):
        load_scene(folder)
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_scene(folder)
    file.unlink()
    with pytest.raises(UserError, match="is missing"):
        load_scene(folder)


def test_densification_carries_the_measure_of_each_gaussian() -> None:
    gaussians = bending_scene().actors["car/1"].gaussians
    gaussians = replace(gaussians, opacity_logits=torch.where(torch.arange(120) % 4 == 0, -12.0, 2.0))
    motion = motion_of(120)
    motion = replace(motion, coefficients=gaussians.means[:, None, :].repeat(1, 4, 2))  # so that each is known by its place
    config = FitConfig(iterations=100, densify=DensifyConfig(strategy="mcmc", actor_cap=160, start=1, every=2, stop_share=1.0))
    node = FittedNode(gaussians, 1.0, 160, config, torch.device("cpu"), motion)
    nodes = NodesOptimiser({"actor": node}, config)
    done = node.densifier.refine(node.params, nodes.adam, 2, torch.Generator().manual_seed(0))
    assert done.relocated == 30
    assert done.added == 6
    assert node.params["motion"].shape == (126, 4, 6)
    assert torch.equal(node.params["motion"], node.params["means"][:, None, :].repeat(1, 4, 2))
    assert node.courses is not None
    assert torch.equal(node.courses, motion.courses)
