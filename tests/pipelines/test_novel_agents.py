"""NTA-IoU and NTL-IoU: what should be seen, what is found, and models by their paths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import PoseTrack, pose
from splatmend.datasets.log import ActorTrack, Camera
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import StreetConfig, build_street, street_log
from splatmend.pipelines.boxes import filled, outline_px
from splatmend.pipelines.evaluation.detectors import open_detector, open_lane_model
from splatmend.pipelines.evaluation.novel_agents import AgentView, LaneView, expected_boxes_px, nta_iou, ntl_iou

CPU = torch.device("cpu")
STREET = StreetConfig(seed=11, duration_s=0.4, width=160, height=96, cameras=("FRONT",), lidar_beams=8, lidar_columns=64, moving_cars=4)
CAMERA = Camera(name="C", width=100, height=80, focal_px=(50.0, 50.0), principal_px=(50.0, 40.0))


class ColouredBoxes(torch.nn.Module):
    """Finds the rectangle around all red pixels (label 3), and that around all blue ones (label 1), in torchvision's format."""

    def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = []
        for picture in pictures:
            boxes: list[torch.Tensor] = []
            labels: list[int] = []
            for channel, label in ((0, 3), (2, 1)):
                mask = (picture[channel] > 0.8) & (picture.sum(dim=0) < 1.2)
                rows, columns = torch.where(mask)
                if rows.numel() > 0:
                    boxes.append(torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float())
                    labels.append(label)
            stacked = torch.stack(boxes) if len(boxes) > 0 else torch.zeros((0, 4))
            found.append({"boxes": stacked, "scores": torch.full((len(labels),), 0.9), "labels": torch.tensor(labels, dtype=torch.int64)})
        return found


class Threshold(torch.nn.Module):
    """Calls white pixels lane paint."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return (picture.mean(dim=1, keepdim=True) > 0.9).float()


def scripted(module: torch.nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))
    return path


def car(x: float, y: float, ahead: float, name: str = "car") -> ActorTrack:
    """A box of 2 m a side whose centre is there in the axes of the still camera at the world's origin."""
    return ActorTrack(
        actor_id=name,
        actor_class="vehicle",
        size_m=(2.0, 2.0, 2.0),
        track=PoseTrack(times_us=np.array([0, 1000]), world_from_body=np.stack([pose(np.eye(3), np.array([x, y, ahead]))] * 2)),
    )


def seen(*actors: ActorTrack) -> np.ndarray:
    log = replace(street_log(build_street(replace(STREET, moving_cars=0, parked_cars=0))), actors=actors)
    return expected_boxes_px(log, Shot.still(CAMERA, np.eye(4), 500))


def test_outline_of_a_box_is_its_corners() -> None:
    outline = outline_px(Shot.still(CAMERA, np.eye(4), 0), pose(np.eye(3), np.array([0.0, 0, 6])), (2.0, 2.0, 2.0))
    np.testing.assert_allclose([outline.min(0), outline.max(0)], [[40, 30], [60, 50]], atol=1e-4)  # the near side, 5 m away: 10 px a metre
    assert filled(outline, (80, 100)).sum() == pytest.approx(20 * 20, rel=0.12)
    assert len(outline_px(Shot.still(CAMERA, np.eye(4), 0), pose(np.eye(3), np.array([0.0, 0, -6])), (2.0, 2.0, 2.0))) == 0
    around = outline_px(Shot.still(CAMERA, np.eye(4), 0), np.eye(4), (2.0, 2.0, 2.0))  # the camera stands in it
    assert filled(around, (80, 100)).all()


def test_expected_are_vehicles_that_can_be_seen() -> None:
    np.testing.assert_allclose(seen(car(0, 0, 6)), [[40, 30, 60, 50]], atol=1e-4)
    assert len(seen(car(0, 0, 40))) == 0  # 2.6 pixels a side
    assert len(seen(car(5.4, 0, 6))) == 0  # most of it lies outside
    assert len(seen(car(0, 0, 6), car(0.3, 0, 9, "behind"))) == 1
    assert len(seen(car(0, 0, 6), car(-3.5, 0, 9, "beside"))) == 2
    assert len(seen(replace(car(0, 0, 6), actor_class="pedestrian"))) == 0
    late = car(0, 0, 6)
    late = replace(late, track=replace(late.track, times_us=late.track.times_us + 10_000_000))
    assert len(seen(late)) == 0


def test_nta_iou_is_that_of_the_nearest_detection() -> None:
    expected = np.array([[10.0, 10, 30, 30], [50, 10, 70, 30]])
    # The nearest to the first is shifted by half its width: IoU 1 / 3. A larger overlap farther away does not count instead.
    found = np.array([[20.0, 10, 40, 30], [50, 10, 70, 30], [0, 0, 64, 64]])
    assert nta_iou(AgentView(expected_px=expected, found_px=found)) == pytest.approx((1 / 3 + 1) / 2)
    far = np.array([[28.0, 10, 48, 30]])  # 18 pixels away, where 14.1 are allowed
    assert nta_iou(AgentView(expected_px=expected[:1], found_px=far)) == 0.0
    assert nta_iou(AgentView(expected_px=expected, found_px=np.zeros((0, 4)))) == 0.0
    assert nta_iou(AgentView(expected_px=np.zeros((0, 4)), found_px=found)) is None


def test_a_torchscript_detector_finds_a_car_where_it_is(tmp_path: Path) -> None:
    picture = np.zeros((80, 100, 3), np.uint8)
    picture[30:50, 40:60, 0] = 255
    picture[10:20, 5:15, 2] = 255
    path = scripted(ColouredBoxes(), tmp_path / "boxes.pt")
    everything = open_detector(path, (), CPU)(picture)
    assert everything.tolist() == [[40, 30, 60, 50], [5, 10, 15, 20]]
    found = open_detector(path, ("3",), CPU)(picture)
    assert nta_iou(AgentView(expected_px=seen(car(0, 0, 6)), found_px=found)) == pytest.approx(1.0, abs=1e-4)
    assert open_detector(path, (), CPU)(np.zeros((80, 100, 3), np.uint8)).shape == (0, 4)
    with pytest.raises(UserError, match="has numbers for classes, not car"):
        open_detector(path, ("car",), CPU)
    (tmp_path / "broken.pt").write_bytes(b"no module")
    for wrong, part in (
        (tmp_path / "absent.pt", "no such file"),
        (tmp_path / "broken.pt", "cannot load a detector"),
        (tmp_path, "no detect"),
    ):
        with pytest.raises(UserError, match=part):
            open_detector(wrong, (), CPU)


def test_a_transformers_detector_is_read_from_its_folder(tmp_path: Path) -> None:
    """A real architecture with random weights: all its guesses are boxes in the picture, of the classes that count."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32], patch_size=8,
        num_detection_tokens=12, id2label={0: "car", 1: "tree"}, label2id={"car": 0, "tree": 1},
    )  # fmt: skip
    model = YolosForObjectDetection(config)
    weight = model.class_labels_classifier.layers[-1].weight
    assert isinstance(weight, torch.Tensor)
    torch.nn.init.normal_(weight, std=3.0)
    model.save_pretrained(tmp_path)
    YolosImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    picture = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    counts = {}
    for classes in ((), ("Car",), ("tree",), ("car", "tree")):
        boxes = open_detector(tmp_path, classes, CPU)(picture)
        assert boxes.shape[1] == 4
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert ((boxes[:, :2] + boxes[:, 2:]) / 2 <= (100, 80)).all()
        counts[classes] = len(boxes)
    assert counts[()] == counts[("Car",)]
    assert counts[("car", "tree")] == counts[("Car",)] + counts[("tree",)] > 0
    with pytest.raises(UserError, match=r"knows no class ship; it has car, tree"):
        open_detector(tmp_path, ("ship",), CPU)


def test_lane_lines_of_a_street_are_where_the_paint_is(tmp_path: Path) -> None:
    street = build_street(STREET)
    shot = street.shot("FRONT", 1)
    lines = street.lane_lines(shot)
    assert 0.002 < lines.mean() < 0.1
    seen = street.render(shot)
    assert (seen.ids[lines] == 1).all()
    assert np.abs(seen.normals_world[lines][:, 2]).min() > 0.9  # they lie on the road
    road = (seen.ids == 1) & (np.abs(seen.normals_world[..., 2]) > 0.9) & ~lines
    assert seen.albedo[lines].mean() > 1.5 * np.median(seen.albedo[road])
    model = open_lane_model(scripted(Threshold(), tmp_path / "lanes.pt"), CPU)
    painted = np.where(lines[..., None], np.uint8(255), np.uint8(60)).repeat(3, axis=-1)
    assert ntl_iou(LaneView(expected=lines, found=model(painted))) == 1.0
    painted[:, :80] = 60
    half = ntl_iou(LaneView(expected=lines, found=model(painted)))
    assert half == pytest.approx(lines[:, 80:].sum() / lines.sum())
    assert ntl_iou(LaneView(expected=np.zeros_like(lines), found=lines)) is None


def test_a_lane_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = open_lane_model(scripted(torch.nn.AvgPool2d(2), tmp_path / "half.pt"), CPU)
    with pytest.raises(UserError, match=r"gives \[1, 3, 40, 50\] for a picture of 100x80"):
        model(np.zeros((80, 100, 3), np.uint8))
