"""The oracle's own cars, written as .glb, come back from the importer as they are: size, forward direction, normals, colours."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from splatmend.datasets.street.cars import car_mesh
from splatmend.datasets.street.mesh import Mesh
from splatmend.datasets.street.noise import Noise
from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.importing import import_mesh

oracle_cars = importlib.import_module("oracle_cars")


@pytest.fixture(scope="module")
def noise() -> Noise:
    return Noise(3, torch.device("cpu"))


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return car_mesh(np.random.default_rng(2))


@pytest.fixture(scope="module")
def asset(mesh: Mesh, noise: Noise, tmp_path_factory: pytest.TempPathFactory) -> Asset:
    return import_mesh(oracle_cars.export_car(mesh, noise, tmp_path_factory.mktemp("car") / "car.glb"))


def test_it_stands_where_the_mesh_does(mesh: Mesh, asset: Asset) -> None:
    low, high = mesh.bounds
    assert asset.size_m == pytest.approx(high - low, abs=0.02)
    # The oracle draws the mesh at the pose of the asset's box.
    assert np.abs(0.5 * (low + high)).max() < 1e-6
    surface, _ = oracle_cars.subdivided(mesh)
    distance = cKDTree(surface[:, :, :3].mean(axis=1)).query(asset.gaussians.means.numpy())[0]
    assert distance.max() < 0.03
    assert asset.facts["placed_by"] == {"up": "format", "forward": "format", "length": "format"}


def test_red_lamps_are_behind_and_normals_are_those_of_the_mesh(mesh: Mesh, asset: Asset) -> None:
    assert asset.material is not None
    albedo, means, normals = asset.material.albedo.numpy(), asset.gaussians.means.numpy(), asset.material.normals.numpy()
    half = 0.5 * asset.size_m[0]
    red = albedo[:, 0] > 4 * albedo[:, 1]
    assert red.sum() > 20
    assert (means[red, 0] < -half + 0.35).all()
    surface, _ = oracle_cars.subdivided(mesh)
    nearest = cKDTree(surface[:, :, :3].mean(axis=1)).query(means)[1]
    own = surface[nearest, :, 3:6].mean(axis=1)
    agree = (normals * own / np.linalg.norm(own, axis=1, keepdims=True)).sum(axis=1)
    assert np.quantile(agree, 0.05) > 0.95


def test_its_colours_are_those_of_the_street(mesh: Mesh, asset: Asset, noise: Noise) -> None:
    assert asset.material is not None
    surface, face = oracle_cars.subdivided(mesh)
    middles = surface.mean(axis=1)
    albedo = oracle_cars.surface_at(mesh, middles, face, noise).albedo.numpy()
    near = cKDTree(middles[:, :3]).query(asset.gaussians.means.numpy(), k=9)[1]
    expected, got = albedo[near].mean(axis=1), asset.material.albedo.numpy()
    # Seams and letters are finer than the Gaussians; black parts must not be lost to the file's 8 bits.
    assert np.median(np.abs(got - expected)) < 0.004
    assert np.abs(got.mean(axis=0) - expected.mean(axis=0)).max() < 0.01
    dark = expected.max(axis=1) < 0.03
    assert dark.sum() > 500
    assert np.median(np.abs(got - expected)[dark]) < 0.0004


def test_pieces_are_small_and_cover_the_mesh(mesh: Mesh) -> None:
    pieces, face = oracle_cars.subdivided(mesh)
    assert np.linalg.norm(np.roll(pieces[:, :, :3], -1, axis=1) - pieces[:, :, :3], axis=2).max() <= oracle_cars.EDGE_M

    def areas(corners: np.ndarray) -> np.ndarray:
        return 0.5 * np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)

    whole = areas(mesh.vertices[mesh.triangles])
    assert np.bincount(face, weights=areas(pieces[:, :, :3]), minlength=len(whole)) == pytest.approx(whole, abs=1e-9)


def test_boxes_overlap_as_they_do() -> None:
    insertion = importlib.import_module("insertion")
    assert insertion.box_iou([0, 0, 10, 10], [0, 0, 10, 10]) == 1.0
    assert insertion.box_iou([0, 0, 10, 10], [5, 0, 15, 10]) == pytest.approx(1 / 3)
    assert insertion.box_iou([0, 0, 10, 10], [20, 20, 30, 30]) == 0.0
    assert insertion.box_iou([0, 0, 10, 10], None) == 0.0
