"""What clips are scored against: the same shots only, actors as the clip shows them, plain images."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splatmend.datasets.actor_edits import ActorEdits
from splatmend.datasets.artifact import Manifest, building, plain
from splatmend.datasets.clip import ClipFrame, ClipWriter, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import pose
from splatmend.datasets.images import to_uint8
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.datasets.street import StreetConfig, build_street, street_log
from splatmend.datasets.street.street import OracleImage, Street
from splatmend.datasets.undistort import undistorted_camera
from splatmend.pipelines.evaluation.scores import EvaluateConfig, evaluate
from splatmend.pipelines.evaluation.truth import ClipTruth, LogTruth, StreetFrame, StreetTruth, TrueFrame, open_truth

CAMERA = Camera(name="FRONT", width=32, height=24, focal_px=(30.0, 30.0), principal_px=(16.0, 12.0))
PSNR = EvaluateConfig(metrics=("psnr",))


def still(index: int, camera: Camera = CAMERA, left_m: float = 0.0, delay_us: int = 0) -> Shot:
    return Shot.still(camera, pose(np.eye(3), np.array([left_m, 0.0, 0.1 * index])), index * 100_000 + delay_us)


def write_clip(out: Path, shots: list[Shot], edits: ActorEdits | None = None, level: float = 0.0) -> Path:
    extra = {} if edits is None else {"actors": plain(edits)}
    with building(out, manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for index, shot in enumerate(shots):
            writer.write(np.full((24, 32, 3), level + 0.2 * index), shot, extra=extra)
        manifest.facts = writer.facts
    return out


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "raw", [still(i) for i in range(3)])


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ([still(0), still(1), still(2, left_m=0.5)], "frame 2 has a pose that lies 0.5 "),
        ([still(0), still(1, delay_us=20_000), still(2)], "frame 1 is exposed from 120000"),
        ([still(0, replace(CAMERA, name="SIDE")), still(1), still(2)], "frame 0 is of camera SIDE, but of FRONT"),
        ([still(0), still(1, replace(CAMERA, focal_px=(40.0, 40.0))), still(2)], "frame 1 of camera FRONT has another calibration"),
        ([still(0), still(1)], "has 2 frames and .* 3"),
    ],
)
def test_clips_of_other_shots_are_refused(clip: Path, tmp_path: Path, other: list[Shot], words: str) -> None:
    second = write_clip(tmp_path / "other", other)
    with pytest.raises(UserError, match=f"other: .*{words}"):
        evaluate({"raw": clip, "enhanced": second}, ClipTruth(clip=open_clip(clip)), tmp_path / "scores", PSNR)
    with pytest.raises(UserError, match=f"other: .*{words}"):
        evaluate({"raw": clip}, open_truth(second), tmp_path / "scores", PSNR)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "raw"]


@dataclass(frozen=True, kw_only=True)
class MaskedTruth(ClipTruth):
    """A clip whose frames are valid in a part only."""

    valid: np.ndarray

    def frames(self, cameras: Sequence[ClipFrame], needed: Sequence[bool] | None = None) -> Iterator[TrueFrame | None]:
        for true in super().frames(cameras, needed):
            assert true is not None
            yield replace(true, valid=self.valid)


def test_pixels_where_the_recording_is_not_valid_are_not_scored(clip: Path, tmp_path: Path) -> None:
    """The picture is wrong by 0.2 everywhere; a mask makes it no better."""
    truth = write_clip(tmp_path / "truth", [still(i) for i in range(3)], level=0.2)
    valid = np.zeros((24, 32), dtype=bool)
    config = EvaluateConfig(metrics=("psnr", "ssim"))
    means = []
    for columns in (32, 8, 0):
        valid[:, :] = False
        valid[:, :columns] = True
        scores = evaluate({"raw": clip}, MaskedTruth(clip=open_clip(truth), valid=valid.copy()), tmp_path / f"{columns}", config)
        means.append(scores["rows"]["raw"]["mean"])
    assert means[0]["psnr"] == pytest.approx(-20 * np.log10(0.2), abs=0.05)
    assert means[1]["psnr"] == pytest.approx(means[0]["psnr"], abs=1e-4)
    assert means[1]["ssim"] < 0.99
    assert means[2] == {"psnr": None, "ssim": None}


def test_clips_with_other_actors_are_refused_and_equal_ones_are_not(clip: Path, tmp_path: Path) -> None:
    shots = [still(i) for i in range(3)]
    without = write_clip(tmp_path / "without", shots, ActorEdits(removed=("car",)))
    with pytest.raises(UserError, match="frame 0 leaves out or moves other actors"):
        evaluate({"raw": clip}, open_truth(without), tmp_path / "scores", PSNR)
    same = write_clip(tmp_path / "same", shots, ActorEdits(removed=("car",)))
    assert evaluate({"raw": same}, open_truth(without), tmp_path / "scores", PSNR)["count"] == 3


def test_a_broken_line_of_edits_is_refused(clip: Path) -> None:
    cameras = clip / "cameras.jsonl"
    cameras.write_text(
        cameras.read_text().replace('{"frame": 1,', '{"frame": 1, "actors": {"removed": [], "shifted": {"car": [1, "x", 0]}},')
    )
    with pytest.raises(UserError, match="list of cameras"):
        open_clip(clip)


def test_a_folder_of_images_is_a_truth(clip: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(clip / "frames", images)
    scores = evaluate({"raw": clip}, open_truth(images), tmp_path / "scores", PSNR)
    assert scores["rows"]["raw"]["mean"]["psnr"] == pytest.approx(100.0)
    (images / "000002.png").unlink()
    with pytest.raises(UserError, match=r"images: it has 2 frames and .* 3"):
        evaluate({"raw": clip}, open_truth(images), tmp_path / "more", PSNR)
    for image in images.iterdir():
        image.unlink()
    with pytest.raises(UserError, match="no known data set"):
        open_truth(images)


@pytest.mark.parametrize("device", ["foo", "cuda"])
def test_a_device_that_is_not_there_is_refused(clip: Path, tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="device"):
        evaluate({"raw": clip}, open_truth(clip), tmp_path / "scores", PSNR, device=device)
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


@pytest.fixture(scope="module")
def street() -> Street:
    return build_street(StreetConfig(seed=3, duration_s=0.4, width=64, height=48, cameras=("FRONT",), supersample=1))


def most_visible(street: Street) -> str:
    ids = street.render(street.shot("FRONT", 0), supersample=1).ids
    return max(street.actors, key=lambda actor: int((ids == street.actor_label(actor.actor_id)).sum())).actor_id


def true_frames(street: Street, edits: ActorEdits) -> list[StreetFrame]:
    cameras = [ClipFrame(shot=street.shot("FRONT", index), extra={"actors": plain(edits)}) for index in range(2)]
    frames = list(StreetTruth(street=street, path=Path("street")).frames(cameras))
    assert all(isinstance(frame, StreetFrame) for frame in frames)
    return [frame for frame in frames if isinstance(frame, StreetFrame)]


def test_a_street_leaves_out_what_the_clip_leaves_out(street: Street) -> None:
    actor_id = most_visible(street)
    shown = true_frames(street, ActorEdits())[0]
    removed = true_frames(street, ActorEdits(removed=(actor_id,), shifted={actor_id: (0.0, 1.0, 0.0)}))[0]
    expected = street.render(street.shot("FRONT", 0), without=(actor_id,), supersample=1)
    assert (shown.ids == street.actor_label(actor_id)).sum() > 20
    np.testing.assert_array_equal(removed.rgb, to_uint8(expected.rgb))
    np.testing.assert_array_equal(removed.ids, expected.ids)


def test_a_street_moves_what_the_clip_moves(street: Street) -> None:
    actor_id = most_visible(street)
    label = street.actor_label(actor_id)
    columns = []
    for up_m in (0.0, 1.0):
        frame, after = true_frames(street, ActorEdits(shifted={actor_id: (0.0, 0.0, up_m)}))
        assert not (frame.ids == label).any()
        mask = frame.ids == max(frame.paths)
        assert mask.sum() > 20
        columns.append(np.nonzero(mask)[0].mean())
        # The flow of the moved body is its own: it comes from where the picture before shows it.
        flow = after.flow_from(frame)
        rows, cols = np.nonzero((after.ids == max(after.paths)) & flow.visible)
        x, y = (flow.xy_px[rows, cols] + np.stack([cols, rows], axis=1)).round().astype(int).T
        inside = (x >= 0) & (x < 64) & (y >= 0) & (y < 48)
        assert (frame.ids[y[inside], x[inside]] == max(frame.paths)).mean() > 0.8
    assert columns[1] < columns[0] - 1  # higher in the picture


@pytest.mark.parametrize("bent", [True, False])
def test_recorded_frames_are_undistorted_only_for_clips_without_distortion(street: Street, bent: bool) -> None:
    log = street_log(street)
    camera = replace(log.cameras["FRONT"], distortion_model="opencv", distortion=(-0.2, 0.0, 0.0, 0.0, 0.0))
    log = replace(log, cameras={"FRONT": camera})
    seen = Shot.of(log.frames[1], camera if bent else undistorted_camera(camera))
    (found,) = LogTruth(log=log).frames([ClipFrame(shot=seen)])
    assert found is not None
    assert (found.rgb == log.frames[1].read_image()).all() == bent
    other = replace(seen, camera=replace(camera, distortion=(-0.1, 0.0, 0.0, 0.0, 0.0)))
    with pytest.raises(UserError, match="another calibration"):
        list(LogTruth(log=log).frames([ClipFrame(shot=other)]))


def test_a_frame_whose_pose_was_corrected_is_still_the_recorded_one(street: Street) -> None:
    log = street_log(street)
    frame = log.frames[0]
    correction = pose(np.eye(3), np.array([0.05, 0.0, -0.1]))
    shot = Shot.of(frame, log.cameras[frame.camera]).moved(correction)
    told = ClipFrame(shot=shot, extra={"logged_from_camera": correction.tolist()})
    (recorded,) = LogTruth(log=log).frames([told])
    assert recorded is not None
    np.testing.assert_array_equal(recorded.rgb, frame.read_image())
    assert list(LogTruth(log=log).frames([ClipFrame(shot=shot)])) == [None]
    (drawn,) = StreetTruth(street=street, path=Path("street")).frames([told])
    assert drawn is not None
    assert np.abs(drawn.rgb.astype(float) - frame.read_image()).mean() < 1.0


@pytest.mark.parametrize(("metric", "drawn"), [("psnr", [2]), ("warping_error", [1, 2])])
def test_a_street_draws_only_what_is_scored(
    street: Street, tmp_path: Path, metric: str, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that is held out and, where flow is asked for, the one before it."""
    shots = [street.shot("FRONT", index) for index in range(4)]
    with building(tmp_path / "clip", manifest := Manifest(kind="clip", config={})) as partial, ClipWriter(partial) as writer:
        for index, shot in enumerate(shots):
            writer.write(np.full((48, 64, 3), 0.5), shot, extra={"held_out": index == 2})
        manifest.facts = writer.facts
    seen: list[int] = []
    render = street.render

    def counted(shot: Shot, **options: Any) -> OracleImage:
        seen.append([one.start_us for one in shots].index(shot.start_us))
        return render(shot, **options)

    monkeypatch.setattr(street, "render", counted)
    truth, config = StreetTruth(street=street, path=Path("street")), EvaluateConfig(frames="held_out", metrics=(metric,))
    scores = evaluate({"raw": tmp_path / "clip"}, truth, tmp_path / "scores", config)
    assert seen == drawn
    assert scores["count"] == scores["rows"]["raw"]["count"][metric] == 1


@pytest.mark.parametrize("kind", ["street", "log"])
def test_a_truth_of_another_log_is_refused(street: Street, tmp_path: Path, kind: str) -> None:
    """Also where size, calibration, times and poses agree; a clip that does not name its log is taken as it is."""
    truth = StreetTruth(street=street, path=Path("street")) if kind == "street" else LogTruth(log=street_log(street))
    clips = {}
    for name, log_id in {"same": "street-3", "other": "street-4", "old": None}.items():
        with (
            building(tmp_path / name, manifest := Manifest(kind="clip", config={})) as partial,
            ClipWriter(partial, log_id=log_id) as writer,
        ):
            writer.write(np.zeros((48, 64, 3)), street.shot("FRONT", 0))
            manifest.facts = writer.facts
        clips[name] = tmp_path / name
    for name in ("same", "old"):
        assert evaluate({"raw": clips[name]}, truth, tmp_path / f"scores-{name}", PSNR)["count"] == 1
    with pytest.raises(UserError, match=r"street\S*: this is the log street-3, but .*other is of the log street-4; give that one"):
        evaluate({"raw": clips["same"], "enhanced": clips["other"]}, truth, tmp_path / "scores", PSNR)
    assert not (tmp_path / "scores").exists()


def test_edits_that_a_truth_cannot_follow_are_refused(street: Street) -> None:
    with pytest.raises(UserError, match="no actor bus"):
        true_frames(street, ActorEdits(removed=("bus",)))
    frame = ClipFrame(shot=street.shot("FRONT", 0), extra={"actors": plain(ActorEdits(removed=(street.actors[0].actor_id,)))})
    with pytest.raises(UserError, match="leaves out, moves or inserts actors"):
        list(LogTruth(log=street_log(street)).frames([frame]))
