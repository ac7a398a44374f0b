from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from splatmend.datasets.artifact import Manifest, building
from splatmend.datasets.clip import Clip, ClipWriter, Encoding, open_clip
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import yaw_pose
from splatmend.datasets.images import write_image
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.datasets.video import Codec, VideoWriter, iter_video

CAMERA = Camera(name="front", width=33, height=25, focal_px=(30.0, 31.0), principal_px=(16.5, 12.5))


def _frames(count: int = 4) -> np.ndarray:
    """Smooth pictures, which every codec keeps."""
    y, x = np.mgrid[0:25, 0:33] / 33.0
    return np.stack([np.stack([x, y, np.full_like(x, 0.2 + 0.1 * i)], axis=-1) for i in range(count)])


def _write(folder: Path, encoding: Encoding = "png") -> Clip:
    manifest = Manifest(kind="clip", config={})
    with building(folder, manifest) as partial, ClipWriter(partial, encoding=encoding, rate_hz=10.0) as writer:
        for i, rgb in enumerate(_frames()):
            shot = Shot.still(CAMERA, yaw_pose(0.1 * i, np.array([i, 2.0, 3.0])), 100_000 * i)
            writer.write(rgb, shot, depth_m=np.full((25, 33), 7.5 + i), opacity=np.full((25, 33), 0.5), extra={"held_out": i == 2})
        manifest.facts = writer.facts
    return open_clip(folder)


@pytest.mark.parametrize(("encoding", "tolerance"), [("png", 0.5 / 255), ("h264", 0.06), ("av1", 0.06)])
def test_frames_cameras_and_channels_come_back(tmp_path: Path, encoding: Encoding, tolerance: float) -> None:
    clip = _write(tmp_path / "clip", encoding)
    frames = list(clip.iter_rgb())
    assert len(clip) == len(frames) == 4
    for i, (frame, true) in enumerate(zip(frames, _frames())):
        assert frame.shape == (25, 33, 3)
        assert np.abs(frame / 255.0 - true).mean() < tolerance
        shot = clip.frames[i].shot
        assert shot is not None
        assert shot.camera == CAMERA
        np.testing.assert_allclose(shot.world_from_camera, yaw_pose(0.1 * i, np.array([i, 2.0, 3.0])), atol=1e-12)
        assert clip.frames[i].extra == {"held_out": i == 2}
        depth, opacity = clip.read_channel("depth", i), clip.read_channel("opacity", i)
        assert depth is not None
        assert opacity is not None
        np.testing.assert_allclose(depth, 7.5 + i, atol=1 / 512)
        np.testing.assert_allclose(opacity, 0.5, atol=1 / 255)
    assert clip.read_channel("masks/none", 0) is None


@pytest.mark.parametrize("codec", ["h264", "av1"])
@pytest.mark.parametrize("size", [(25, 33), (26, 33), (25, 34), (26, 34)])
def test_a_video_of_odd_pictures_comes_back_at_their_size(tmp_path: Path, codec: Codec, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(80, 120, (*size, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "x.mp4", codec=codec) as writer:
        for _ in range(3):
            writer.write(rgb)
    frames = list(iter_video(tmp_path / "x.mp4"))
    assert [frame.shape for frame in frames] == [(*size, 3)] * 3
    assert np.abs(frames[0].astype(int) - rgb).mean() < 20
    assert next(open_clip(tmp_path / "x.mp4").iter_rgb()).shape == (*size, 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row["shot"].update(start_us="x"),
        lambda row: row["shot"]["world_from_camera_start"].pop(),
        lambda row: row["shot"]["world_from_camera_start"][0].__setitem__(0, 5.0),
        lambda row: row["shot"]["camera"].update(width=2),
        lambda row: row.pop("shot"),
        lambda row: row.update(frame=2),
        lambda row: row.pop("frame"),
    ],
)
def test_a_damaged_list_of_cameras_is_named(tmp_path: Path, change) -> None:
    path = _write(tmp_path / "clip").path / "cameras.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[1])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"cameras\.jsonl.*broken"):
        open_clip(tmp_path / "clip")


@pytest.mark.parametrize("encoding", ["png", "h264"])
def test_a_list_of_cameras_that_is_too_short_is_refused(tmp_path: Path, encoding: Encoding) -> None:
    path = _write(tmp_path / "clip", encoding).path / "cameras.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=r"cameras\.jsonl: it lists 3 frames where the clip holds more; write the clip again"):
        open_clip(tmp_path / "clip")


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (None, "its facts are no list of named values"),
        ({"frames": 9}, "its manifest speaks of 9 frames, and there are 4"),
        ({"rate_hz": "fast"}, "says 'fast' where the frames a second belong"),
        ({"rate_hz": 0}, "says 0 where the frames a second belong"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, facts: dict | None, says: str) -> None:
    path = _write(tmp_path / "clip").path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"facts": facts}))
    with pytest.raises(UserError, match=says):
        open_clip(tmp_path / "clip")


def test_frames_of_another_size_than_their_camera_are_refused(tmp_path: Path) -> None:
    clip = _write(tmp_path / "clip")
    for path in clip.images:
        write_image(path, np.zeros((7, 9, 3), np.uint8))
    with pytest.raises(UserError, match=r"000000\.png: it has 9x7 pixels where its camera has"):
        next(clip.iter_rgb())


def test_a_clip_with_an_absent_frame_is_refused(tmp_path: Path) -> None:
    (_write(tmp_path / "clip").path / "frames" / "000003.png").unlink()
    with pytest.raises(UserError, match="1 of 4 frames are absent"):
        open_clip(tmp_path / "clip")


@pytest.mark.parametrize("encoding", ["png", "h264"])
def test_a_span_of_a_clip_is_read_as_in_the_whole(tmp_path: Path, encoding: Encoding) -> None:
    clip = _write(tmp_path / "clip", encoding)
    whole = list(clip.iter_rgb())
    for start, stop in ((0, None), (0, 2), (1, 3), (2, None), (3, 4)):
        np.testing.assert_array_equal(list(clip.iter_rgb(start, stop)), whole[start:stop])


def test_a_folder_of_images_is_a_clip_of_one_size(tmp_path: Path) -> None:
    for i, size in enumerate((16, 16, 20)):
        write_image(tmp_path / f"{i}.png", np.full((16, size, 3), 40 * i, dtype=np.uint8))
    clip = open_clip(tmp_path)
    assert len(clip) == 3
    assert clip.frames[0].shot is None
    for span in ((0, None), (2, 3)):
        with pytest.raises(UserError, match=r"2\.png: it has 20x16 pixels"):
            list(clip.iter_rgb(*span))
    with pytest.raises(UserError, match="neither a manifest"):
        open_clip(tmp_path.parent)


def _with_references(folder: Path) -> Clip:
    manifest = Manifest(kind="clip", config={})
    random = np.random.default_rng(0)
    with building(folder, manifest) as partial, ClipWriter(partial) as writer:
        for i, rgb in enumerate(_frames()):
            layers = random.integers(0, 256, (2, 25, 33, 4), dtype=np.uint8)
            layers[..., 3] = 255
            layers[1, :, : 5 + i] = 0
            writer.write(rgb, Shot.still(CAMERA, yaw_pose(0.0, np.zeros(3)), 100_000 * i), references=layers)
        manifest.facts = writer.facts
    return open_clip(folder)


def test_references_come_back_as_they_were(tmp_path: Path) -> None:
    clip = _with_references(tmp_path / "clip")
    assert clip.references == 2
    random = np.random.default_rng(0)
    for i in range(4):
        expected = random.integers(0, 256, (2, 25, 33, 4), dtype=np.uint8)
        expected[..., 3] = 255
        expected[1, :, : 5 + i] = 0
        np.testing.assert_array_equal(clip.read_references(i), expected)
    plain = _write(tmp_path / "plain")
    assert plain.references == 0
    assert plain.read_references(0) is None


def test_damaged_references_are_named(tmp_path: Path) -> None:
    clip = _with_references(tmp_path / "clip")
    layer = clip.path / "references" / "1"
    (layer / "000002.png").unlink()
    with pytest.raises(UserError, match=r"references/1/000002\.png: cannot read"):
        clip.read_references(2)
    write_image(layer / "000001.png", np.zeros((25, 33, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"references/1/000001\.png: this is no picture of 8 bits with an alpha"):
        clip.read_references(1)
    write_image(layer / "000000.png", np.zeros((25, 32, 4), dtype=np.uint8))
    with pytest.raises(UserError, match=r"references/1/000000\.png: .* 32x25 pixels where the frame has 33x25"):
        clip.read_references(0)
    manifest = json.loads((clip.path / "manifest.json").read_text())
    manifest["facts"]["references"] = "many"
    (clip.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="'many' where the number of layers"):
        open_clip(clip.path)


def test_every_frame_has_as_many_layers(tmp_path: Path) -> None:
    with ClipWriter(tmp_path) as writer:
        writer.write(_frames()[0], references=np.zeros((1, 25, 33, 4), dtype=np.uint8))
        with pytest.raises(ValueError, match="frame 1 has 0 layers"):
            writer.write(_frames()[1])


def test_opacity_of_another_size_is_named(tmp_path: Path) -> None:
    clip = _write(tmp_path / "clip")
    assert clip.read_channel("opacity", 1) is not None
    write_image(clip.path / "opacity" / "000001.png", np.zeros((7, 9), np.uint8))
    with pytest.raises(UserError, match=r"000001.png: it has 9x7 pixels where the frame has"):
        clip.read_channel("opacity", 1)
