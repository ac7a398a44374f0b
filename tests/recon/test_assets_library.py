"""Libraries of assets: listed, loaded by name or path, not overwritten by accident, and drawn on a sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asset_shapes import wedge
from lit_world import ball

from splatmend.datasets.errors import UserError
from splatmend.datasets.images import read_image
from splatmend.recon.assets.importing import ImportConfig, import_mesh
from splatmend.recon.assets.library import AssetLibrary
from splatmend.recon.assets.picture import asset_picture


def test_what_is_added_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    library = AssetLibrary(tmp_path / "library")
    asset = ball(300)
    path = library.add(asset)
    library.add(replace(asset, asset_id="another", material=None))
    (tmp_path / "library" / "notes").mkdir()
    assert library.ids() == ("another", "ball")
    for found in (library.load("ball"), library.load(path), AssetLibrary(tmp_path).load(path)):
        torch.testing.assert_close(found.gaussians.means, asset.gaussians.means)
        assert found.material is not None
        assert asset.material is not None
        torch.testing.assert_close(found.material.normals, asset.material.normals)
    assert library.load("another").material is None
    assert read_image(path / "thumbnail.png").shape == (192, 256, 3)
    assert [entry.facts["quality"] for entry in library.entries()] == [1.0, 1.0]


def test_names_that_are_taken_are_refused(tmp_path: Path) -> None:
    library = AssetLibrary(tmp_path)
    library.add(ball(300))
    with pytest.raises(UserError, match="--overwrite"):
        library.add(ball(400))
    library.add(ball(400), overwrite=True)
    assert len(library.load("ball").gaussians) == 400
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(UserError, match="no asset"):
        library.add(replace(ball(300), asset_id="mine"), overwrite=True)
    assert (tmp_path / "mine" / "letter.txt").is_file()


def test_missing_ones_are_named_with_what_is_near(tmp_path: Path) -> None:
    library = AssetLibrary(tmp_path / "none")
    with pytest.raises(UserError, match="no such library"):
        library.ids()
    library.add(ball(300))
    with pytest.raises(UserError, match="did you mean ball"):
        library.load("bal")
    with pytest.raises(UserError, match="its assets are ball"):
        library.load("lorry")


def test_the_sheet_shows_every_asset(tmp_path: Path) -> None:
    library = AssetLibrary(tmp_path)
    for number in range(6):
        library.add(replace(ball(300), asset_id=f"ball-{number}"))
    sheet = read_image(library.write_sheet())
    assert sheet.shape == (2 * 212, 5 * 256, 3)
    cells = [sheet[212 * row + 40 : 212 * row + 150, 256 * column + 80 : 256 * column + 176] for row in (0, 1) for column in range(5)]
    assert [bool(cell.std() > 1) for cell in cells] == [True] * 6 + [False] * 4


def test_a_picture_shows_the_side_that_is_asked_for(tmp_path: Path) -> None:
    """A body whose cabin lies behind its middle: from its left the front is on the left."""
    wedge().export(tmp_path / "body.obj")
    asset = import_mesh(tmp_path / "body.obj", ImportConfig(count=800, up="+z", forward="+x", length_m=4.0))
    picture = asset_picture(asset, azimuth_deg=90.0, elevation_deg=2.0).astype(int)
    body = np.abs(picture - picture[0, 0]).sum(-1) > 40
    columns, rows = np.flatnonzero(body.any(0)), np.flatnonzero(body.any(1))
    assert columns[0] > 0
    assert columns[-1] < 255
    assert columns[-1] - columns[0] > 150  # it fills the picture
    top = body[rows[0] + 3]
    assert np.flatnonzero(top).mean() > columns.mean() + 4  # the cabin
    before = asset_picture(asset, azimuth_deg=0.0, elevation_deg=2.0).astype(int)
    seen = np.abs(before - before[0, 0]).sum(-1) > 40
    flatness = [np.ptp(np.flatnonzero(shape.any(1))) / np.ptp(np.flatnonzero(shape.any(0))) for shape in (body, seen)]
    assert flatness[0] < 0.45 < 0.6 < flatness[1]
