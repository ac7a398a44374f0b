"""The ray casters of torch and Numba against Embree, on a street's own mesh and on one triangle known by hand."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from splatmend.datasets.street import StreetConfig, build_street
from splatmend.datasets.street.casters import Backend, EmbreeCaster, build_caster
from splatmend.datasets.street.layout import lay_out
from splatmend.datasets.street.numba_tree import DEEPEST, LEAF_SIZE, tree_of
from splatmend.datasets.street.torch_caster import CLUSTER_SIZE, clusters_of

CPU = torch.device("cpu")
each_caster = pytest.mark.parametrize("backend", ["numba", "torch"])


@pytest.fixture(scope="module")
def mesh() -> tuple[np.ndarray, np.ndarray]:
    static = lay_out(0, 5.0).static
    return static.vertices, static.triangles


@pytest.fixture(scope="module")
def rays() -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(0)
    directions = generator.standard_normal((1200, 3)) * [1, 1, 0.35]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    origins = generator.uniform([0, -3, 1.0], [40, 3, 2.5], (1200, 3))
    return torch.from_numpy(origins).float(), torch.from_numpy(directions).float()


@each_caster
def test_one_triangle_is_hit_where_it_lies(backend: Backend) -> None:
    caster = build_caster(np.array([[2.0, 0, 0], [2, 1, 0], [2, 0, 1]]), np.array([[0, 1, 2]]), backend, CPU)
    origins = torch.tensor([[0.0, 0.25, 0.5], [0.0, 0.75, 0.5], [4.0, 0.25, 0.5], [4.0, 0.25, 0.5]])
    directions = torch.tensor([[1.0, 0, 0], [1, 0, 0], [-1, 0, 0], [1, 0, 0]])
    hits = caster.cast(origins, directions)
    assert hits.distance.tolist() == [2.0, float("inf"), 2.0, float("inf")]
    assert hits.triangle.tolist() == [0, -1, 0, -1]
    assert torch.allclose(hits.barycentric[0], torch.tensor([0.25, 0.5]))


@each_caster
def test_agrees_with_embree_on_a_street(
    mesh: tuple[np.ndarray, np.ndarray], rays: tuple[torch.Tensor, torch.Tensor], backend: Backend
) -> None:
    ours, embree = build_caster(*mesh, backend, CPU).cast(*rays), EmbreeCaster(*mesh).cast(*rays)
    both = torch.isfinite(ours.distance) & torch.isfinite(embree.distance)
    # A ray through an edge may slip past it in one of the two.
    assert (torch.isfinite(ours.distance) == torch.isfinite(embree.distance)).float().mean() > 0.998
    off = (ours.distance - embree.distance).abs()[both]
    assert (off < 1e-3).float().mean() > 0.998
    same = ours.triangle[both] == embree.triangle[both]
    assert same.float().mean() > 0.995
    assert (ours.barycentric[both] - embree.barycentric[both]).abs().amax(1)[same].quantile(0.99) < 1e-2


@each_caster
def test_occlusion_agrees_with_embree(
    mesh: tuple[np.ndarray, np.ndarray], rays: tuple[torch.Tensor, torch.Tensor], backend: Backend
) -> None:
    blocked = build_caster(*mesh, backend, CPU).occluded(*rays)
    assert 0.05 < blocked.float().mean() < 1.0
    assert (blocked == EmbreeCaster(*mesh).occluded(*rays)).float().mean() > 0.998


def test_threads_share_the_rays(mesh: tuple[np.ndarray, np.ndarray], rays: tuple[torch.Tensor, torch.Tensor]) -> None:
    caster, before = build_caster(*mesh, "numba", CPU), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append((caster.cast(*rays), caster.cast(*(part[:2] for part in rays)), caster.cast(*(part[:0] for part in rays))))
    finally:
        torch.set_num_threads(before)
    for alone, shared in zip(*found):
        assert all(torch.equal(a, b) for a, b in zip(vars(alone).values(), vars(shared).values()))
    assert len(found[0][2].distance) == 0


@pytest.mark.parametrize("kind", ["street", "one place", "lopsided", "single"])
def test_a_tree_holds_every_triangle_once_in_boxes_that_reach_around_them(mesh: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    corners = mesh[0][mesh[1]].astype(np.float64)
    if kind == "one place":
        corners = np.repeat(corners[:1], 600, axis=0)
    elif kind == "lopsided":  # each one ten times as far as the one before: a split takes off few
        corners = corners[0] - corners[0].mean(axis=0) + (10.0 ** np.arange(45) * 1e-9)[:, None, None]
    elif kind == "single":
        corners = corners[:1]
    tree = tree_of(corners)
    assert sorted(tree.order.tolist()) == list(range(len(corners)))
    depths, leaves = {0: 1}, 0
    for node, ((left, right), (start, stop)) in enumerate(zip(tree.children.tolist(), tree.spans.tolist(), strict=True)):
        held = corners[tree.order[start:stop]]
        low, high = tree.boxes[node, :3], tree.boxes[node, 3:]
        assert (low <= held.min(axis=(0, 1)) + 1e-6 * np.abs(low)).all()
        assert (high >= held.max(axis=(0, 1)) - 1e-6 * np.abs(high)).all()
        if left < 0:
            assert 1 <= stop - start <= LEAF_SIZE
            leaves += stop - start
            continue
        assert tree.spans[left].tolist() == [start, tree.spans[right][0]]
        assert tree.spans[right].tolist()[1] == stop
        depths[left] = depths[right] = depths[node] + 1
    assert leaves == len(corners)
    assert max(depths.values()) < DEEPEST


def test_clusters_hold_every_triangle_once() -> None:
    groups = clusters_of(np.random.default_rng(1).random((1001, 3)))
    assert sorted(np.concatenate(groups).tolist()) == list(range(1001))
    assert max(map(len, groups)) <= CLUSTER_SIZE


def test_a_street_without_open3d_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    config = StreetConfig(seed=1, width=96, height=56, moving_cars=2, parked_cars=2)
    pictures = []
    for blocked in (False, True):
        if blocked:
            monkeypatch.setitem(sys.modules, "open3d", None)
        street = build_street(config)
        assert street.backend == ("numba" if blocked else "embree")
        pictures.append(street.render(street.shot("FRONT", 3), supersample=1))
    by_embree, by_numba = pictures
    assert (by_embree.ids == by_numba.ids).mean() > 0.999
    assert np.abs(by_embree.rgb - by_numba.rgb).mean() < 1e-3
    assert np.abs(by_embree.shadow - by_numba.shadow).mean() < 1e-3


@pytest.mark.gpu
def test_cuda_gives_the_pictures_of_the_cpu() -> None:
    config = StreetConfig(seed=1, width=96, height=56, moving_cars=2, parked_cars=2)
    pictures = []
    for device in ("cpu", "cuda"):
        street = build_street(config, device=device, backend="torch")
        pictures.append(street.render(street.shot("FRONT", 3), supersample=1))
    on_cpu, on_gpu = pictures
    assert (on_cpu.ids == on_gpu.ids).mean() > 0.995
    assert np.abs(on_cpu.rgb - on_gpu.rgb).mean() < 0.01
