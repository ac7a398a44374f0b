"""Bodies that bend, moved and held back together: against formulas that autograd goes through, body by body."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_log import true_scene

from splatmend.recon.fit.motion_terms import MotionSizes, motion_term
from splatmend.recon.gaussians import Gaussians, left_matrices
from splatmend.recon.motion import Motion, moved_together, still
from splatmend.recon.nodes import DeformableActor, RigidActor
from splatmend.recon.render import render

STEP_US = 100_000
NUMBERS = (7, 1, 0, 12)
ENDS_US = (1_000_000, 100_000, 400_000, 2_300_000)


def _body(number: int, seed: int, courses: int = 2) -> tuple[Motion, Gaussians]:
    random = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    gaussians = Gaussians(
        means=drawn(number, 3),
        quats_wxyz=drawn(number, 4),
        log_scales=drawn(number, 3),
        opacity_logits=drawn(number),
        sh=drawn(number, 1, 3),
    )
    cadences = (0.4, 1.0, 2.0)[: courses // 2 + 1]
    motion = still(number, start_us=0, end_us=ENDS_US[seed], step_us=STEP_US, reach_m=0.5 + 0.2 * seed, cadences_hz=cadences)
    coefficients = 0.3 * drawn(number, motion.courses.shape[0], 6)
    return replace(motion, coefficients=coefficients, courses=motion.courses.double() + 0.1 * drawn(*motion.courses.shape)), gaussians


def _bodies() -> list[tuple[Motion, Gaussians]]:
    return [_body(number, seed) for seed, number in enumerate(NUMBERS)]


def _moved_by_operations(motion: Motion, gaussians: Gaussians, t_us: int) -> tuple[torch.Tensor, torch.Tensor]:
    sums = (motion.coefficients * motion.course_at(t_us)[:, None]).sum(dim=1)
    half = torch.cat([torch.ones_like(sums[:, :1]), sums[:, :3] / 2], dim=1)
    means = gaussians.means + motion.reach_m * torch.tanh(sums[:, 3:] / motion.reach_m)
    return means, (left_matrices(half) * gaussians.quats_wxyz[:, None, :]).sum(dim=-1)


def _leaves(bodies: list[tuple[Motion, Gaussians]]) -> list[torch.Tensor]:
    kinds = [(motion.coefficients, motion.courses, gaussians.means, gaussians.quats_wxyz) for motion, gaussians in bodies]
    return [tensor.requires_grad_(True) for kind in kinds for tensor in kind]


@pytest.mark.parametrize("t_us", [-50_000, 0, 333_333, 10_000_000])
@pytest.mark.parametrize("which", [(0,), (0, 1, 2, 3)], ids=["one", "four"])
def test_bodies_that_bend_together_do_as_each_does_alone(t_us: int, which: tuple[int, ...]) -> None:
    bodies = [_bodies()[i] for i in which]
    leaves = _leaves(bodies)
    expected = [tensor for body in bodies for tensor in _moved_by_operations(*body, t_us)]
    found = [tensor for moved in moved_together(bodies, t_us) for tensor in (moved.means, moved.quats_wxyz)]
    random = torch.Generator().manual_seed(9)
    weights = [torch.randn(tensor.shape, generator=random, dtype=torch.float64) for tensor in expected]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
    slopes = [
        torch.autograd.grad(sum((w * tensor).sum() for w, tensor in zip(weights, tensors, strict=True)), leaves)
        for tensors in (found, expected)
    ]
    for own, other in zip(*slopes, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


def test_bodies_of_different_fits_bend_beside_each_other() -> None:
    bodies = [_body(5, 0), _body(4, 1, courses=4)]
    assert bodies[0][0].courses.shape[0] != bodies[1][0].courses.shape[0]
    for moved, body in zip(moved_together(bodies, 250_000), bodies, strict=True):
        means, quats = _moved_by_operations(*body, 250_000)
        torch.testing.assert_close(moved.means, means)
        torch.testing.assert_close(moved.quats_wxyz, quats)


@pytest.mark.parametrize("model", ["ewa", "ray"])
def test_each_of_several_bodies_in_a_picture_bends_in_its_own_way(model: str) -> None:
    """Beside a body that does not bend: as bodies that stand as each of them stands at that time."""
    scene = true_scene(12)
    (car,) = scene.actors.values()
    random = torch.Generator().manual_seed(4)
    shot = scene.shots[5].shot
    bending, standing = {}, {}
    for number, name in enumerate(("a", "rigid", "b", "c")):
        away = np.eye(4)
        away[:3, 3] = (0.0, 1.2 * number - 1.8, 0.3 * number)
        track = replace(car.track, actor_id=name, track=replace(car.track.track, world_from_body=car.track.track.world_from_body @ away))
        rigid = RigidActor(gaussians=car.gaussians, track=track)
        bending[name] = standing[name] = rigid
        if name != "rigid":
            motion = still(120, start_us=0, end_us=1_200_000, step_us=200_000 + 50_000 * number, reach_m=0.8, cadences_hz=(0.4, 1.0))
            motion = replace(motion, coefficients=0.4 * torch.randn(120, 4, 6, generator=random))
            bending[name] = DeformableActor(gaussians=car.gaussians, track=track, motion=motion)
            means, quats = _moved_by_operations(motion, car.gaussians, shot.mid_us)
            standing[name] = replace(rigid, gaussians=replace(car.gaussians, means=means, quats_wxyz=quats))
    pictures = [render(replace(scene, actors=actors, camera_model=model), shot, ("rgb",)).rgb for actors in (bending, standing)]
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-5)
    swapped = bending | {"a": replace(bending["a"], motion=bending["b"].motion)}
    other = render(replace(scene, actors=swapped, camera_model=model), shot, ("rgb",)).rgb
    assert float((other - pictures[1]).abs().max()) > 0.05


def test_the_motion_s_term_is_that_of_each_body_added_up() -> None:
    bodies, extents = [_bodies()[i] for i in (0, 1, 3)], (1.3, 0.6, 2.0)
    coefficients = [motion.coefficients.requires_grad_(True) for motion, _ in bodies]
    courses = [motion.courses.requires_grad_(True) for motion, _ in bodies]
    expected = torch.zeros((), dtype=torch.float64)
    for own, course, extent in zip(coefficients, courses, extents, strict=True):
        turns, shifts = own.split(3, dim=-1)
        bend = torch.diff(course, n=2, dim=1).square().mean()
        expected = expected + 0.02 * (turns.square().mean() + (shifts / extent).square().mean()) + 0.7 * bend
    shapes = tuple((*own.shape[:2], course.shape[1]) for own, course in zip(coefficients, courses, strict=True))
    found = motion_term(MotionSizes(shapes=shapes, extents=extents, motion=0.02, bend=0.7), coefficients, courses)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    leaves = [*coefficients, *courses]
    for own, other in zip(torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * expected, leaves), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-14)
