"""Clips: frames and their cameras on disk, written and read one frame at a time.

Layout of the folder (artefact kind "clip"): `frames/000000.png ...` or `frames.mp4`, `cameras.jsonl` (one line per frame), and
where they were asked for `depth/000000.png` (uint16, `depth_step_m` metres a step, 0 = none), `opacity/000000.png` (uint8, 255 = opaque),
`masks/NAME/000000.png`, `references/0/000000.png`, `references/1/...` (RGBA: what recorded frames show of the same surfaces, alpha 255
where they do; layer 0 is the nearest frame that does, pixel by pixel).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from jaxtyping import UInt8

from splatmend.datasets.actor_edits import ActorEdits
from splatmend.datasets.artifact import plain, read_manifest
from splatmend.datasets.errors import UserError
from splatmend.datasets.geometry import inverse, rotation_fault
from splatmend.datasets.images import images_in, read_image, read_numbers, read_rgba, to_uint8, write_image
from splatmend.datasets.log import Camera
from splatmend.datasets.shot import Shot
from splatmend.datasets.video import VIDEO_SUFFIXES, VideoWriter, iter_video

Encoding = Literal["png", "h264", "av1"]
DEPTH_STEP_M = 1 / 256  # 256 m at most in 16 bits, in steps of 4 mm


def shot_to_json(shot: Shot) -> dict[str, Any]:
    """A shot as JSON."""
    return plain(shot)


def shot_from_json(raw: Mapping[str, Any]) -> Shot:
    """The inverse of `shot_to_json`; `ValueError`, `KeyError` or `TypeError` where the entry is no shot."""
    camera = dict(raw["camera"])
    for name in ("focal_px", "principal_px", "distortion"):
        camera[name] = tuple(camera[name])
    poses = [np.asarray(raw[f"world_from_camera_{end}"], dtype=np.float64) for end in ("start", "end")]
    shapes = [pose.shape for pose in poses if pose.shape != (4, 4)]
    if fault := f"a pose of shape {shapes[0]}" if shapes else Camera(**camera).fault() or rotation_fault(np.stack(poses)):
        raise ValueError(fault)
    return Shot(
        camera=Camera(**camera),
        world_from_camera_start=poses[0],
        world_from_camera_end=poses[1],
        start_us=int(raw["start_us"]),
        end_us=int(raw["end_us"]),
    )


class ClipWriter:
    """Writes a clip's files into a folder (use it inside `artifact.building`). A context manager; `write` takes frames in order.

    `log_id` names the log that the clip shows, None where none is known.
    """

    def __init__(self, folder: Path, *, encoding: Encoding = "png", rate_hz: float = 10.0, log_id: str | None = None) -> None:
        self.folder = folder
        self.encoding = encoding
        self.rate_hz = rate_hz
        self.log_id = log_id
        self.count = 0
        self.references = 0
        self._cameras: IO[str] | None = None
        self._video = None if encoding == "png" else VideoWriter(folder / "frames.mp4", rate_hz, encoding)

    def __enter__(self) -> ClipWriter:
        self._cameras = (self.folder / "cameras.jsonl").open("w")
        return self

    def write(
        self,
        rgb: np.ndarray,
        shot: Shot | None = None,
        *,
        depth_m: np.ndarray | None = None,
        opacity: np.ndarray | None = None,
        masks: Mapping[str, np.ndarray] | None = None,
        references: UInt8[np.ndarray, "K H W 4"] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """One frame: `rgb [H, W, 3]` float in [0, 1] or uint8, `depth_m [H, W]`, `opacity [H, W]` in [0, 1], `masks` bool `[H, W]`.

        `references` are RGBA layers (`splatmend.recon.references`), for every frame of a clip equally many.
        `extra` goes into the frame's line of `cameras.jsonl` (for instance `held_out`).
        """
        if self._cameras is None:
            raise RuntimeError("use ClipWriter as a context manager")
        drawn = () if references is None else references
        layers = len(drawn)
        if layers != self.references and self.count:
            raise ValueError(f"frame {self.count} has {layers} layers of references where the frames before have {self.references}")
        self.references = layers
        # Compressing a large picture takes longer than rendering it, so the layers are compressed side by side.
        with ThreadPoolExecutor(max(layers, 1), thread_name_prefix="references") as pool:
            waited = [pool.submit(self._image, f"references/{number}", layer) for number, layer in enumerate(drawn)]
            self._write_others(rgb, depth_m, opacity, masks or {})
        for one in waited:
            one.result()
        line = {"frame": self.count, "shot": None if shot is None else shot_to_json(shot)} | plain(dict(extra or {}))
        self._cameras.write(json.dumps(line) + "\n")
        self.count += 1

    def _write_others(
        self, rgb: np.ndarray, depth_m: np.ndarray | None, opacity: np.ndarray | None, masks: Mapping[str, np.ndarray]
    ) -> None:
        """Everything of a frame but its references."""
        picture = rgb if rgb.dtype == np.uint8 else to_uint8(rgb)
        if self._video is not None:
            self._video.write(picture)
        else:
            self._image("frames", picture)
        if depth_m is not None:
            steps = np.rint(np.nan_to_num(depth_m, posinf=0.0) / DEPTH_STEP_M)
            self._image("depth", np.where(steps <= 65535, steps, 0).astype(np.uint16))
        if opacity is not None:
            self._image("opacity", to_uint8(opacity))
        for name, mask in masks.items():
            self._image(f"masks/{name}", mask.astype(np.uint8) * 255)

    def _image(self, channel: str, picture: np.ndarray) -> None:
        write_image(self.folder / channel / f"{self.count:06d}.png", picture)

    def __exit__(self, *exception: object) -> None:
        if self._cameras is not None:
            self._cameras.close()
        if self._video is not None:
            self._video.close()

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest of the clip says."""
        facts: dict[str, Any] = {"frames": self.count, "encoding": self.encoding, "depth_step_m": DEPTH_STEP_M, "rate_hz": self.rate_hz}
        if self.references:
            facts["references"] = self.references
        return facts if self.log_id is None else facts | {"log_id": self.log_id}


@dataclass(frozen=True, kw_only=True)
class ClipFrame:
    """One frame's camera (None where a plain video has none) and what else its line holds."""

    shot: Shot | None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edits(self) -> ActorEdits:
        """What the line's `actors` says of actors that were removed or moved; nothing where it has none."""
        return ActorEdits.from_json(self.extra["actors"]) if "actors" in self.extra else ActorEdits()

    @property
    def logged_shot(self) -> Shot | None:
        """The shot with its camera where the log has it: `logged_from_camera` in `extra` is what a fit corrected."""
        if self.shot is None or "logged_from_camera" not in self.extra:
            return self.shot
        return self.shot.moved(inverse(np.asarray(self.extra["logged_from_camera"], dtype=np.float64)))


@dataclass(frozen=True, kw_only=True)
class Clip:
    """An opened clip; frames are read when asked for. Also stands for a plain video file or folder of images (no cameras then).

    `log_id` names the log that it shows; None where it does not say. `references` is the number of their layers.
    """

    path: Path
    frames: tuple[ClipFrame, ...]
    images: tuple[Path, ...]  # empty where the frames are in one video file
    video: Path | None
    rate_hz: float
    log_id: str | None = None
    references: int = 0

    def __len__(self) -> int:
        return len(self.frames)

    def iter_rgb(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Frames `[H, W, 3]` uint8 in order, one at a time: those from `start` up to, not including, `stop`."""
        if self.video is None:
            size = read_image(self.images[0]).shape if start else None
            for path in self.images[start:stop]:
                picture = read_image(path)
                size = size or picture.shape
                if picture.shape != size:
                    raise UserError(
                        f"{path}: it has {picture.shape[1]}x{picture.shape[0]} pixels where the first image has {size[1]}x{size[0]}; "
                        "give images of one size."
                    )
                camera = None if self.frames[0].shot is None else self.frames[0].shot.camera
                if camera is not None and size[:2] != (camera.height, camera.width):
                    raise UserError(
                        f"{path}: it has {size[1]}x{size[0]} pixels where its camera has {camera.width}x{camera.height}; write the clip "
                        "again."
                    )
                yield picture
            return
        # Files from before they said how they were padded, and what OpenCV reads, are cut to the camera's size.
        first = self.frames[0].shot
        height, width = (None, None) if first is None else (first.camera.height, first.camera.width)
        last, count = len(self.frames) if stop is None else stop, 0
        for rgb in iter_video(self.video):
            count += 1
            if start < count <= last:
                yield rgb[:height, :width]
            if stop is not None and count == stop:
                return
        if count < len(self.frames):
            raise UserError(f"{self.video}: it holds {count} frames where {len(self.frames)} are listed; write the clip again.")

    def read_channel(self, channel: str, index: int) -> np.ndarray | None:
        """`depth` in metres (0 = none), `opacity` in [0, 1] or `masks/NAME` (bool) of a frame, `[H, W]`; None where there is none."""
        path = self.path / channel / f"{index:06d}.png"
        if not path.is_file():
            return None
        raw = read_numbers(path)
        if channel == "depth":
            return raw.astype(np.float32) * DEPTH_STEP_M
        if channel == "opacity":
            shot = self.frames[index].shot
            if shot is not None and raw.shape[:2] != (shot.camera.height, shot.camera.width):
                raise UserError(
                    f"{path}: it has {raw.shape[1]}x{raw.shape[0]} pixels where the frame has {shot.camera.width}x{shot.camera.height}; "
                    "write the clip again."
                )
            return raw.astype(np.float32) / 255.0
        return raw > 127

    def read_references(self, index: int) -> UInt8[np.ndarray, "K H W 4"] | None:
        """The layers of references of a frame, RGBA (see `splatmend.recon.references`); None where the clip has none.

        Raises:
            UserError: where a layer is missing, broken, no RGBA, or of another size than the frame's camera.
        """
        if not self.references:
            return None
        layers: list[np.ndarray] = []
        for number in range(self.references):
            path = self.path / "references" / str(number) / f"{index:06d}.png"
            layer = read_rgba(path)
            shot = self.frames[index].shot
            height, width = layers[0].shape[:2] if layers else layer.shape[:2]
            if shot is not None:
                height, width = shot.camera.height, shot.camera.width
            if layer.shape[:2] != (height, width):
                raise UserError(
                    f"{path}: the layer of references has {layer.shape[1]}x{layer.shape[0]} pixels where the frame has {width}x{height}; "
                    "render the clip again."
                )
            layers.append(layer)
        return np.stack(layers)


def open_clip(path: Path) -> Clip:
    """A clip that splatmend wrote, a video file, or a folder of images (in the order of their numbers).

    `UserError` where it is none of these.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            raise UserError(f"{path}: this is neither a clip nor a video ({', '.join(VIDEO_SUFFIXES)}); give another path.")
        count = sum(1 for _ in iter_video(path))
        if count == 0:
            raise UserError(f"{path}: the video holds no frame; give another file.")
        return Clip(path=path, frames=(ClipFrame(shot=None),) * count, images=(), video=path, rate_hz=_video_rate(path))
    if path.is_dir() and not (path / "manifest.json").is_file():
        images = images_in(path)
        if not images:
            raise UserError(f"{path}: it holds neither a manifest.json nor images; give a clip, a video file or a folder of images.")
        return Clip(path=path, frames=(ClipFrame(shot=None),) * len(images), images=images, video=None, rate_hz=10.0)
    facts = read_manifest(path, "clip").facts
    if not isinstance(facts, dict):
        raise UserError(f"{path / 'manifest.json'}: its facts are no list of named values; write the clip again.")
    frames = []
    try:
        for number, line in enumerate((path / "cameras.jsonl").read_text().splitlines()):
            raw = json.loads(line)
            if raw["frame"] != number:
                raise ValueError(f"line {number + 1} is of frame {raw['frame']}")
            shot = None if raw["shot"] is None else shot_from_json(raw["shot"])
            frame = ClipFrame(shot=shot, extra={k: v for k, v in raw.items() if k not in ("frame", "shot")})
            _ = frame.edits
            frames.append(frame)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(f"{path / 'cameras.jsonl'}: the list of cameras is missing or broken ({fault}); write the clip again.") from None
    video = path / "frames.mp4" if facts.get("encoding", "png") != "png" else None
    images = () if video else tuple(path / "frames" / f"{i:06d}.png" for i in range(len(frames)))
    absent = [p for p in images if not p.is_file()]
    shown = _frame_count(video) if video else len(frames) + (path / "frames" / f"{len(frames):06d}.png").is_file()
    if shown not in (None, len(frames)) and not absent:
        held = "more" if shown > len(frames) else shown
        raise UserError(f"{path / 'cameras.jsonl'}: it lists {len(frames)} frames where the clip holds {held}; write the clip again.")
    if not absent and facts.get("frames", len(frames)) != len(frames):
        raise UserError(f"{path}: its manifest speaks of {facts['frames']} frames, and there are {len(frames)}; write the clip again.")
    if not frames or absent:
        what = f"{len(absent)} of {len(frames)} frames are absent, {absent[0].name} first" if absent else "it holds no frame"
        raise UserError(f"{path}: {what}; write the clip again.")
    return Clip(
        path=path,
        frames=tuple(frames),
        images=images,
        video=video,
        rate_hz=_rate(path, facts.get("rate_hz", 10.0)),
        log_id=facts.get("log_id"),
        references=_layer_count(path, facts.get("references", 0)),
    )


def _rate(path: Path, rate_hz: Any) -> float:
    if isinstance(rate_hz, bool) or not isinstance(rate_hz, int | float) or not 0 < rate_hz < math.inf:
        raise UserError(f"{path}: its manifest says {rate_hz!r} where the frames a second belong; write the clip again.")
    return float(rate_hz)


def _layer_count(path: Path, count: Any) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise UserError(f"{path}: its manifest says {count!r} where the number of layers of references belongs; render the clip again.")
    return count


def _frame_count(path: Path) -> int | None:
    """Frames that a video file says it holds; None where it does not say, or cannot be opened (which reading it tells)."""
    return round(_video_property(path, "FRAME_COUNT")) or None


def _video_rate(path: Path) -> float:
    rate = _video_property(path, "FPS")
    return rate if rate > 0 else 10.0


def _video_property(path: Path, name: str) -> float:
    """What OpenCV says of a video file, 0 where it says nothing."""
    import cv2

    capture = cv2.VideoCapture(str(path)) if path.is_file() else None
    value = 0.0 if capture is None else float(capture.get(getattr(cv2, f"CAP_PROP_{name}")))
    if capture is not None:
        capture.release()
    return max(value, 0.0)
