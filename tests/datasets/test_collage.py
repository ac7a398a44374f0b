"""Collages: exact truth from any pose, in a layout that the nerfstudio reader opens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.collage import CollageConfig, build_collage, write_collage
from splatmend.datasets.collage.cards import Card, cut_texture
from splatmend.datasets.collage.draw import draw_cards
from splatmend.datasets.collage.write import photos_of
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import write_image
from splatmend.datasets.readers.registry import open_log

CONFIG = CollageConfig(seed=3, frames=4, width=48, height=40, cards=12, moving=2, points=120)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (60, 90, 3)).astype(np.uint8) for _ in range(3)]


def board(centre: tuple[float, float, float], rgb: tuple[int, int, int], half_m: float = 1.0) -> Card:
    """A plain board that faces along the camera's axis."""
    return Card(
        centre_m=np.array(centre),
        across_m=np.array([half_m, 0, 0]),
        up_m=np.array([0, -half_m, 0]),
        rgb=np.full((16, 16, 3), rgb, np.uint8),
        alpha=np.full((16, 16), 255, np.uint8),
        velocity_m=np.zeros(3),
    )


def test_boards_lie_where_the_pinhole_puts_them() -> None:
    intrinsics = np.array([[50.0, 0, 20], [0, 50.0, 15], [0, 0, 1]])
    red, blue = board((0, 0, 10), (200, 0, 0), half_m=2.0), board((0.4, 0, 5), (0, 0, 200), half_m=0.4)
    rgb, depth, number = draw_cards([red, blue], np.eye(4), intrinsics, (30, 40), 0, 2)
    # The red board spans 20 +- 10 columns and 15 +- 10 rows; the blue one hides columns 20 to 28 and rows 11 to 19 of it.
    shown = np.full((30, 40), -1)
    shown[5:25, 10:30] = 0
    shown[11:19, 20:28] = 1
    assert np.array_equal(number, shown)
    assert np.array_equal(depth, np.choose(shown + 1, [np.inf, 10.0, 5.0]).astype(np.float32))
    assert np.array_equal(rgb[15, 15], [200, 0, 0])
    assert np.array_equal(rgb[15, 24], [0, 0, 200])
    assert not rgb[0].any()


def test_a_board_behind_the_camera_is_not_seen() -> None:
    number = draw_cards([board((0, 0, -3), (9, 9, 9))], np.eye(4), np.diag([50.0, 50.0, 1.0]), (8, 8), 0, 1)[2]
    assert (number == -1).all()


def test_a_texture_keeps_its_side() -> None:
    card = board((0, 0, 4), (0, 0, 0), half_m=1.0)
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[:8, :8] = 255  # the first rows lie at `up`, the first columns against `across`
    shown = draw_cards([replace(card, rgb=rgb)], np.eye(4), np.array([[40.0, 0, 20], [0, 40.0, 20], [0, 0, 1]]), (40, 40), 0, 2)[0]
    assert shown[13, 13].min() > 250
    assert shown[26, 26].max() < 5
    assert shown[13, 26].max() < 5


def test_the_log_is_what_was_built(photos: list[np.ndarray], tmp_path: Path) -> None:
    for number, photo in enumerate(photos):
        write_image(tmp_path / "photos" / f"{number}.png", photo)
    write_collage(CONFIG, [tmp_path / "photos"], tmp_path / "log")
    collage = build_collage(CONFIG, photos)
    log = open_log(tmp_path / "log")
    assert len(log.frames) == CONFIG.frames
    for frame, picture in zip(log.frames, collage.pictures()):
        assert np.array_equal(frame.read_image(), picture)
    # Levelled by the reader: the same cameras up to one turn.
    read = np.stack([frame.world_from_camera for frame in log.frames])
    steps = np.linalg.inv(collage.world_from_camera[:-1]) @ collage.world_from_camera[1:]
    np.testing.assert_allclose(np.linalg.inv(read[:-1]) @ read[1:], steps, atol=1e-9)
    assert log.read_sfm_points is not None
    points = log.read_sfm_points()
    camera = log.frames[0]
    seen = (points.xyz_world_m - camera.world_from_camera[:3, 3]) @ camera.world_from_camera[:3, :3]
    assert (seen[:, 2] > 0).mean() > 0.9


def test_points_have_the_colour_of_what_they_lie_on(photos: list[np.ndarray]) -> None:
    collage = build_collage(CONFIG, photos)
    xyz, rgb = collage.sparse_points()
    picture = next(collage.pictures())
    first = collage.world_from_camera[0]
    seen = (xyz - first[:3, 3]) @ first[:3, :3] @ collage.intrinsics.T
    taken = slice(0, CONFIG.points // 6)  # the first picture's own
    pixel = np.floor(seen[taken, :2] / seen[taken, 2:]).astype(int)
    np.testing.assert_array_equal(picture[pixel[:, 1], pixel[:, 0]], rgb[taken])


def test_a_seed_decides(photos: list[np.ndarray]) -> None:
    first, again = (np.stack(list(build_collage(CONFIG, photos).pictures())) for _ in range(2))
    other = np.stack(list(build_collage(replace(CONFIG, seed=4), photos).pictures()))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_moving_cards_move(photos: list[np.ndarray]) -> None:
    collage = build_collage(CONFIG, photos)
    assert sum(card.moves for card in collage.cards) == CONFIG.moving


@pytest.mark.parametrize("size", [(1, 1), (15, 200), (17, 2000)])
def test_pictures_too_small_to_cut_from_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    write_image(tmp_path / "small.png", np.zeros((*size, 3), np.uint8))
    for source in (tmp_path, tmp_path / "small.png"):
        with pytest.raises(UserError, match=rf"small\.png: {size[1]}x{size[0]} pixels are too few"):
            list(photos_of([source]))


@pytest.mark.filterwarnings("error")
def test_the_smallest_pictures_give_a_collage_without_warnings() -> None:
    smallest = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        for aspect in (0.15, 1.0, 6.0):
            assert min(cut_texture([smallest], rng, aspect=aspect).shape[:2]) >= 8


def test_faults_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no pictures are given"):
        write_collage(CONFIG, [], tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there are no pictures in this folder"):
        write_collage(CONFIG, [tmp_path / "empty"], tmp_path / "a")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"broken\.png"):
        write_collage(CONFIG, [tmp_path / "broken.png"], tmp_path / "a")
    for wrong in ({"frames": 1}, {"width": 3}, {"moving": 99}, {"field_of_view_deg": float("nan")}, {"seed": -1}, {"points": 0}):
        with pytest.raises(UserError, match="collage: "):
            replace(CONFIG, **wrong)
    assert not (tmp_path / "a").exists()
