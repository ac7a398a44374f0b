"""Notes on bodies that a trajectory looks at from where nothing recorded them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_edits_apply import suv
from tiny_log import true_scene

from splatmend.recon.assets.asset import Asset
from splatmend.recon.assets.sightings import SEEN_FROM
from splatmend.recon.edits.apply import apply_edits
from splatmend.recon.edits.reading import read_edits
from splatmend.recon.insertion.unseen import unseen_notes
from splatmend.recon.scene import RecordedShot

EDITS = """\
edits:
  - insert: suv
    as: {name}
    path: {{parked: {{ahead: 6, left: -0.5, yaw_deg: {yaw}}}}}
"""


def seen_from(*azimuths_deg: int) -> Asset:
    asset = suv()
    return replace(asset, facts={**asset.facts, SEEN_FROM: list(azimuths_deg)})


@pytest.mark.parametrize(
    ("asset", "yaw_deg", "noted"),
    [
        (seen_from(180, 165, 195), 0, False),  # seen from behind, and looked at from behind
        (seen_from(180, 165, 195), 180, True),  # it comes towards the camera
        (seen_from(0, 15), 180, False),
        (seen_from(0, 15), 90, True),  # from its side
        (seen_from(225), 180, True),
        (suv(), 180, False),  # nothing is known of it
    ],
)
def test_a_note_says_where_a_body_is_looked_at_from_where_nothing_was_recorded(
    asset: Asset, yaw_deg: int, noted: bool, tmp_path: Path
) -> None:
    file = tmp_path / "edits.yaml"
    file.write_text(EDITS.format(name="new", yaw=yaw_deg))
    scene = true_scene(4)
    shots = [recorded.shot for recorded in scene.shots]
    notes = unseen_notes(apply_edits(scene, read_edits(file), lambda _: asset), shots)
    assert len(notes) == int(noted)
    if noted:
        assert f"new: {len(shots)} of the {len(shots)} pictures" in notes[0]


def test_poor_assets_are_named(tmp_path: Path) -> None:
    file = tmp_path / "edits.yaml"
    file.write_text(EDITS.format(name="new", yaw=0))
    scene = true_scene(4)
    shots = [recorded.shot for recorded in scene.shots]
    for quality, count in ((0.2, 1), (0.6, 0)):
        notes = unseen_notes(apply_edits(scene, read_edits(file), lambda _: replace(seen_from(180), quality=quality)), shots)  # noqa: B023
        assert [("quality 0.20" in note) for note in notes] == [True] * count


def test_bodies_out_of_sight_are_not_spoken_of(tmp_path: Path) -> None:
    file = tmp_path / "edits.yaml"
    file.write_text(EDITS.format(name="new", yaw=180))
    scene = true_scene(4)
    edited = apply_edits(scene, read_edits(file), lambda _: seen_from(180))
    backwards = [replace(one.shot, world_from_camera_start=_turned(one), world_from_camera_end=_turned(one)) for one in scene.shots]
    assert unseen_notes(edited, backwards) == ()


def _turned(recorded: RecordedShot) -> np.ndarray:
    turned = recorded.shot.world_from_camera.copy()
    turned[:3, [0, 2]] *= -1
    return turned
