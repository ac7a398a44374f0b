"""The CPU kernels against the oracle, and what only they promise: the same bits for any number of threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from raster_checks import check_against_oracle
from raster_oracle import rasterize_oracle
from raster_scenes import SCENES, random_scene

from splatmend.recon.raster import rasterize
from splatmend.recon.raster.binning import bin_gaussians, depth_order
from splatmend.recon.raster.threads import in_shares
from splatmend.recon.raster.tiles import exp_negative


@pytest.fixture
def restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", SCENES)
def test_agrees_with_the_oracle(name: str) -> None:
    check_against_oracle(SCENES[name](), "cpu", value_tolerance=1e-4, gradient_tolerance=1e-3)


@pytest.mark.parametrize("channel_count", [1, 5, 9])
def test_takes_any_number_of_channels(channel_count: int) -> None:
    check_against_oracle(random_scene(40, channel_count=channel_count), "cpu", value_tolerance=1e-4, gradient_tolerance=1e-3)


def test_scenes_reach_the_cases_they_are_named_after() -> None:
    scenes = {name: make() for name, make in SCENES.items()}
    with torch.no_grad():
        pictures = {name: rasterize_oracle(*scene.parameters(), *scene.camera()) for name, scene in scenes.items()}
    assert pictures["overlapping opaque"].opacity.max() > 1.0 - 2e-3
    assert (pictures["near plane"].visible[1::3]).any()
    assert not (pictures["near plane"].visible[1::3]).all()
    assert not pictures["behind the camera"].visible[::2].any()
    assert pictures["empty"].channels.abs().max() == 0.0


def picture_and_gradients(threads: int) -> list[torch.Tensor]:
    torch.set_num_threads(threads)
    scene = random_scene(400, width=90, height=70, seed=8)
    leaves = scene.parameters()
    output = rasterize(*leaves, *scene.camera())
    ((output.channels**2).sum() + output.opacity.sum()).backward()
    assert output.means2d is not None
    return [output.channels.detach(), output.opacity.detach(), output.means2d.grad, *(leaf.grad for leaf in leaves)]


def test_one_and_two_threads_give_the_same_bits(restore_threads: None) -> None:
    one, two = picture_and_gradients(1), picture_and_gradients(2)
    for a, b in zip(one, two, strict=True):
        assert a.abs().max() > 0
        assert torch.equal(a, b)


def test_callers_on_several_threads_do_not_disturb_each_other() -> None:
    scenes = [random_scene(100, seed=seed) for seed in range(6)]
    with torch.no_grad():
        alone = [rasterize(*scene.parameters(), *scene.camera()).channels for scene in scenes]
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda scene: rasterize(*scene.parameters(), *scene.camera()).channels, scenes))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)


def test_a_fault_in_any_share_reaches_the_caller(restore_threads: None) -> None:
    def faulty(share: int, shares: int) -> None:
        if share == shares - 1:
            raise MemoryError(f"share {share} of {shares}")

    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(MemoryError, match=f"share {threads - 1} of {threads}"):
            in_shares(faulty)


def test_the_stop_leaves_out_the_gaussian_that_closes_the_pixel() -> None:
    """Three splats of alpha 0.97 on one pixel: 0.03^2 = 9e-4 passes, 0.03^3 = 2.7e-5 would not, so the third is not drawn."""
    means = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 3.0]])
    output = rasterize(
        means,
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(3, 1),
        torch.full((3, 3), 0.5),
        torch.full((3,), 0.97),
        torch.eye(3),
        torch.eye(4),
        torch.tensor([[20.0, 0.0, 0.5], [0.0, 20.0, 0.5], [0.0, 0.0, 1.0]]),
        1,
        1,
    )
    torch.testing.assert_close(output.channels[0, 0], torch.tensor([0.97, 0.03 * 0.97, 0.0]))
    torch.testing.assert_close(output.opacity[0, 0], torch.tensor(1.0 - 0.03**2))


def test_exponential_is_accurate_to_a_millionth() -> None:
    x = np.linspace(0.0, 6.0, 20001, dtype=np.float32)
    error = [exp_negative(value) / math.exp(-float(value)) - 1.0 for value in x]
    assert np.abs(error).max() < 1e-6
    assert exp_negative(np.float32(50.0)) == exp_negative(np.float32(6.0))


def test_depth_order_is_stable_and_leaves_out_what_is_not_drawn() -> None:
    random = np.random.default_rng(0)
    depths = random.choice(np.array([0.01, 0.5, 0.50001, 3.0, 700.0, 1e9], np.float32), 500)
    radii = random.integers(0, 2, (500, 1)).repeat(2, axis=1).astype(np.int32)
    expected = np.argsort(np.where(radii[:, 0] > 0, depths, np.inf), kind="stable")[: int(radii[:, 0].sum())]
    np.testing.assert_array_equal(depth_order(depths, radii), expected)


def test_tile_lists_and_slots_fit_together() -> None:
    """Every pair has one slot, slots of one Gaussian lie side by side, and each tile's list follows the depth order."""
    count, tiles_x, tiles_y = 60, 4, 3
    random = np.random.default_rng(1)
    means2d = random.uniform(-5, 70, (count, 2)).astype(np.float32)
    conics = np.tile(np.float32([0.05, 0.0, 0.05]), (count, 1))
    extents = np.full((count, 2), 3.33 / math.sqrt(0.05), np.float32)
    order = random.permutation(count).astype(np.int32)
    lists = bin_gaussians(order, means2d, conics, np.ones(count, np.float32), extents, tiles_x, tiles_y)
    starts, gaussians, slots, slot_starts = lists.tile_starts, lists.pair_gaussians, lists.pair_slots, lists.slot_starts
    assert sorted(slots) == list(range(len(gaussians)))
    rank = np.argsort(order)
    owner = np.searchsorted(slot_starts, slots, side="right") - 1
    np.testing.assert_array_equal(order[owner], gaussians)
    for tile in range(tiles_x * tiles_y):
        assert (np.diff(rank[gaussians[starts[tile] : starts[tile + 1]]]) > 0).all()
