"""People of a street stay in their boxes while their limbs swing, and are told apart from what stands behind them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.geometry import PoseTrack, inverse, pose, transform
from splatmend.datasets.street import Street, StreetConfig, build_street, load_config
from splatmend.datasets.street.as_waymo import CONFIG_FILE
from splatmend.datasets.street.people import Figure, person

CONFIG = StreetConfig(
    seed=11, duration_s=1.0, width=192, height=112, cameras=("FRONT",), speed_m_s=2.0, moving_cars=1, parked_cars=1, pedestrians=3,
    supersample=1, lidar_beams=16, lidar_columns=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def street() -> Street:
    return build_street(CONFIG)


def test_limbs_stay_in_the_box_and_swing(street: Street) -> None:
    people = [(actor, mesh) for actor, mesh in zip(street.actors, street.actor_meshes) if actor.actor_class == "pedestrian"]
    assert [actor.actor_id for actor, _ in people] == ["person-00", "person-01", "person-02"]
    for actor, figure in people:
        assert isinstance(figure, Figure)
        reach = []
        for t_us in range(actor.track.start_us, actor.track.end_us, 70_000):
            world_from_actor = actor.world_from_actor(t_us)
            own = [transform(inverse(world_from_actor) @ way.at(t_us), mesh.vertices) for mesh, way in figure.placed(actor.track)]
            places = np.concatenate(own)
            assert (np.abs(places) <= np.array(actor.size_m) / 2 + 0.02).all()
            assert places[:, 2].max() - places[:, 2].min() > 0.9 * actor.size_m[2]
            reach.append(places[:, 0].max() - places[:, 0].min())
        assert max(reach) > min(reach) + 0.2


def test_who_stands_does_not_swing() -> None:
    times_us = np.arange(5) * 100_000
    figure, _ = person(np.random.default_rng(0), times_us, np.full(5, 2.0))
    for _, track in figure.limbs:
        np.testing.assert_array_equal(track.world_from_body, track.world_from_body[:1].repeat(len(track.times_us), axis=0))


def test_a_person_is_one_actor_to_the_oracle(street: Street) -> None:
    actor = street.actors[-1]
    world_from_camera = street.shot("FRONT", 4)
    seen = street.render(world_from_camera, supersample=1)
    without = street.render(world_from_camera, supersample=1, without=[actor.actor_id])
    label = street.actor_label(actor.actor_id)
    assert (seen.ids == label).sum() > 10
    assert not (without.ids == label).any()
    assert seen.ids.max() <= label
    # Moved elsewhere as a whole, limbs and all.
    moved = PoseTrack(
        times_us=actor.track.times_us, world_from_body=actor.track.world_from_body @ pose(np.eye(3), np.array([0.0, 0.0, 0.4]))
    )
    up = street.render(world_from_camera, supersample=1, without=[actor.actor_id], extra=[(street.actor_meshes[-1], moved)])
    rows, rows_up = (np.nonzero(image.ids == number)[0] for image, number in ((seen, label), (up, label + 1)))
    assert rows_up.min() <= rows.min() - 2


def test_people_change_nothing_else(street: Street) -> None:
    empty = build_street(replace(CONFIG, pedestrians=0))
    names = [actor.actor_id for actor in street.actors if actor.actor_class == "pedestrian"]
    shot = street.shot("FRONT", 2)
    np.testing.assert_array_equal(street.render(shot, without=names).rgb, empty.render(shot).rgb)


def test_a_street_from_before_there_were_people_has_none(tmp_path: Path) -> None:
    old = {name: value for name, value in vars(CONFIG).items() if name != "pedestrians"}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"format_version": 1, "street": old}))
    assert load_config(tmp_path) == replace(CONFIG, pedestrians=0)
