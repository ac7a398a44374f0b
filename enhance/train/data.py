"""Training clips: pairs that the pipelines made, and plain videos for the autoencoder and for synthetic artefacts.

What a step sees depends on the seed, the step and the process number alone, so the position in the data is the step itself and a
resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import signal
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from splatmend.datasets.artifact import plain
from splatmend.datasets.clip import Clip, open_clip
from splatmend.datasets.errors import UserError
from splatmend.enhance.flow_loss import target_flow
from splatmend.enhance.fusion import layers_as_channels
from splatmend.enhance.insertion import CHANNELS, inserted_masks, insertion_channels
from splatmend.enhance.train.degrade import DegradeConfig, degrade
from splatmend.enhance.train.displaced import displaced, draw_displacement
from splatmend.enhance.train.identity import source_key
from splatmend.enhance.train.looks import LookConfig, draw_look, draw_scale, resized
from splatmend.enhance.train.mixture import draw_mixture, mixed

Kind = Literal["pair", "synthetic", "clean"]
# Settings of how data are read, and the paths, which count by what lies there.
_HOW_ONLY = ("pairs", "videos", "cache_gb", "latents_gb", "latents_dir", "workers")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where training clips come from."""

    pairs: tuple[Path, ...] = ()
    """JSON-lines indexes of pairs: degraded, target (paths relative to the index), kind, split, scene."""
    videos: tuple[Path, ...] = ()
    """Clips, video files or folders of images without a degraded twin."""
    split: str = "train"
    """Which lines of the indexes count."""
    synthetic_share: float = 0.4
    """Share of samples made from videos by synthetic artefacts, where there are both pairs and videos."""
    clean_share: float = 0.08
    """Share of samples whose input is the target itself, so that good frames stay good."""
    mild_share: float = 0.4
    """Share of the degraded samples that are mixed with their target, by anything from hardly to almost wholly, everywhere alike or
    here more than there: damage of all strengths."""
    patchy_share: float = 0.6
    """Share of these mixtures that vary over the picture and the clip."""
    bare_share: float = 0.3
    """Share of samples whose references are left out, where there are any: a model has to do without them, too."""
    displaced_share: float = 0.0
    """Share of layers of references that are shifted and bent by a few pixels, as where the depth of a scene is wrong."""
    displaced_px: float = 2.5
    """How far a place of such a layer is moved, at most, in pixels of the crop."""
    video_short_side_px: int | None = 256
    """Videos are reduced so that their shorter side has this many pixels (never enlarged); pairs keep their size."""
    segment_frames: int = 240
    """Longer clips are cut into segments of this many frames, the unit of the cache."""
    cache_gb: float = 8.0
    """Decoded frames that are kept in host memory, in gigabytes."""
    flip: bool = True
    distinct_samples: int | None = None
    """Draw windows, crops, flips and artefacts once for so many samples and show those again and again; None: new ones in every step.
    Latents are worth keeping where samples come again."""
    latents_gb: float = 0.0
    """Latents of a frozen encoder that are kept in host memory, in gigabytes. 0: clips are encoded in every step."""
    latents_dir: Path | None = None
    """Folder in which latents of a frozen encoder are kept as well, for later runs and other processes."""
    workers: int | None = None
    """Processes that prepare batches. None: all cores but one (16 at most) beside a CUDA device, none elsewhere."""
    degrade: DegradeConfig = field(default_factory=DegradeConfig)
    look: LookConfig = field(default_factory=LookConfig)
    """Tones, colours and scales that samples are given, the same for both clips."""

    def __post_init__(self) -> None:
        if not self.pairs and not self.videos:
            raise UserError("training data: neither pairs nor videos are given; give at least one.")
        if self.distinct_samples is not None and self.distinct_samples < 1:
            raise UserError(f"training data: distinct_samples is {self.distinct_samples}; give 1 or more, or None.")
        for name in ("cache_gb", "latents_gb"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"training data: {name} is {getattr(self, name)}; give gigabytes, 0 or more.")
        if self.segment_frames < 1 or (self.video_short_side_px is not None and self.video_short_side_px < 1):
            raise UserError(
                f"training data: segment_frames {self.segment_frames} and video_short_side_px {self.video_short_side_px} must be 1 or "
                "more; change them."
            )
        if self.workers is not None and self.workers < 0:
            raise UserError(f"training data: workers is {self.workers}; give 0 or more.")
        if not 0 <= self.displaced_px < math.inf:
            raise UserError(f"training data: displaced_px is {self.displaced_px}; give pixels, 0 or more.")
        for name in ("synthetic_share", "clean_share", "mild_share", "patchy_share", "bare_share", "displaced_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise UserError(f"training data: {name} is {getattr(self, name)}, but a share lies between 0 and 1.")

    @property
    def keeps_latents(self) -> bool:
        """Whether latents are kept anywhere."""
        return self.latents_gb > 0 or self.latents_dir is not None


class Segment(NamedTuple):
    """Frames [start, stop) of a target clip and of its degraded twin (None for a plain video)."""

    target: Clip
    degraded: Clip | None
    start: int
    stop: int


class Batch(NamedTuple):
    """Clips `[B, 3, T, H, W]`, and what each is: float32 in [-1, 1] on the device, or bytes on the host (see `unit_range`)."""

    degraded: torch.Tensor
    target: torch.Tensor
    kinds: tuple[Kind, ...]
    keys: tuple[tuple[str, str], ...] = ()
    """For each clip the content of the degraded and the target frames as hashes, where latents are kept."""
    opacity: torch.Tensor | None = None
    """Of the degraded clips `[B, 1, T, H, W]` uint8, 255 opaque, where it was asked for."""
    flow: torch.Tensor | None = None
    """Of the target clips `[B, 3, T, H, W]` float16 (see `flow_loss.Motion`), where it was asked for."""
    references: torch.Tensor | None = None
    """Of the degraded clips `[B, K * 4, T, H, W]` uint8 (see `fusion.ReferenceFusion`), where they were asked for."""
    inserted: torch.Tensor | None = None
    """What was put into the degraded clips `[B, 4, T, H, W]` uint8 (see `insertion`), where it was asked for."""


class RawBatch(NamedTuple):
    """Clips `[B, T, H, W, 3]` uint8, synthetic artefacts included; `opacity [B, T, H, W]` uint8, `flow [B, 3, T, H, W]` float16,
    `references [B, T, H, W, K * 4]` uint8 and `inserted [B, T, H, W, 4]` uint8 where they were asked for."""

    degraded: np.ndarray
    target: np.ndarray
    kinds: tuple[Kind, ...]
    keys: tuple[tuple[str, str], ...] = ()
    opacity: np.ndarray | None = None
    flow: np.ndarray | None = None
    references: np.ndarray | None = None
    inserted: np.ndarray | None = None


class Sample(NamedTuple):
    """One clip of a batch: frames `[T, H, W, 3]`, and of the degraded one opacity `[T, H, W, 1]`, references `[T, H, W, K * 4]` and what
    was put in `[T, H, W, 4]`, uint8."""

    kind: Kind
    degraded: np.ndarray
    target: np.ndarray
    opacity: np.ndarray
    references: np.ndarray
    inserted: np.ndarray


class Window(NamedTuple):
    """A window and crop of a segment: `degraded` (or the target again) and `target` `[T, H, W, 3]`, and of the degraded clip what a
    `Sample` has of it: all opaque, nothing seen, nothing put in where it was not asked for or there is none."""

    degraded: np.ndarray
    target: np.ndarray
    opacity: np.ndarray
    references: np.ndarray
    inserted: np.ndarray


class ClipCache:
    """Decoded segments in host memory, the least recently used ones dropped beyond `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[tuple[str, int, int, int | None], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def frames(self, clip: Clip, start: int, stop: int, short_side_px: int | None) -> np.ndarray:
        """Frames `[T, H, W, 3]` uint8 of a clip."""
        key = (str(clip.path), start, stop, short_side_px)
        return self._kept(key, lambda: np.stack([_reduced(rgb, short_side_px) for rgb in clip.iter_rgb(start, stop)]))

    def opacity(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        """Opacity `[T, H, W, 1]` uint8 of a clip's frames at their full size, 255 where it does not say."""
        key = (f"{clip.path}/opacity", start, stop, None)
        return self._kept(key, lambda: _opacity(clip, start, self.frames(clip, start, stop, None).shape))

    def references(self, clip: Clip, start: int, stop: int, layers: int) -> np.ndarray:
        """The first layers of references of a clip's frames at their full size, `[T, H, W, layers * 4]` uint8; zeros for none."""
        key = (f"{clip.path}/references", start, stop, layers)
        return self._kept(key, lambda: _references(clip, start, self.frames(clip, start, stop, None).shape, layers))

    def masks(self, clip: Clip, start: int, stop: int) -> np.ndarray:
        """Where something was put into a clip's frames, `[T, H, W, 1]` uint8, 255 where it was; `UserError` where it does not say."""
        key = (f"{clip.path}/inserted", start, stop, None)
        return self._kept(key, lambda: 255 * np.stack(list(islice(inserted_masks(clip), start, stop)))[..., None].astype(np.uint8))

    def _kept(self, key: tuple[str, int, int, int | None], read: Callable[[], np.ndarray]) -> np.ndarray:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        frames = read()
        with self._lock:
            if key not in self._held:
                self._held[key] = frames
                self.bytes += frames.nbytes
            while self.bytes > self.limit_bytes and len(self._held) > 1:
                _, dropped = self._held.popitem(last=False)
                self.bytes -= dropped.nbytes
        return frames


class TrainingClips:
    """Draws batches. `opacity`, `flow`, `inserted`: whether batches say how opaque degraded clips are, how target clips move, and what was
    put into the degraded ones; `references`: how many layers of them batches hold. `UserError` for indexes and clips that cannot be
    used."""

    def __init__(
        self,
        config: DataConfig,
        *,
        clip_frames: int,
        crop_px: tuple[int, int],
        batch: int,
        seed: int,
        opacity: bool = False,
        flow: bool = False,
        references: int = 0,
        inserted: bool = False,
    ) -> None:
        self.config = config
        self.opacity, self.flow, self.references, self.inserted = opacity, flow, references, inserted
        self.clip_frames, self.crop_px, self.batch, self.seed = clip_frames, crop_px, batch, seed
        self.cache = ClipCache(int(config.cache_gb * 1e9))
        self._pairs = [self._open_index(Path(index)) for index in config.pairs]
        self._videos = [open_clip(Path(path)) for path in config.videos]
        if inserted:
            self._check_insertions()
        self.paired = [s for pairs in self._pairs for target, degraded in pairs for s in self._segments(target, degraded)]
        self.plain = [s for clip in self._videos for s in self._segments(clip, None)]

    def _check_insertions(self) -> None:
        """`UserError` unless every clip says what was put in."""
        if self._videos:
            raise UserError(
                f"{self._videos[0].path}: nothing was put into a plain video, and this model is told what was; leave videos out."
            )
        for pairs in self._pairs:
            for _, degraded in pairs:
                inserted_masks(degraded)

    def described(self) -> dict[str, Any]:
        """What decides the samples: settings and, under `sources`, what lies at the paths (see `identity`)."""
        decides = {k: v for k, v in plain(self.config).items() if k not in _HOW_ONLY}
        indexes = zip(self.config.pairs, self._pairs, strict=True)
        pairs = [(str(path), source_key(Path(path), itertools.chain(*held))) for path, held in indexes]
        videos = [(str(path), source_key(None, [clip])) for path, clip in zip(self.config.videos, self._videos, strict=True)]
        return decides | {"sources": {"pairs": pairs, "videos": videos}}

    def raw(self, step: int, process: int = 0) -> RawBatch:
        """The batch of one step on one process, as bytes."""
        rng = np.random.default_rng([self.seed, step, process])
        kinds: list[Kind] = []
        degraded, target, opacity, references, inserted = [], [], [], [], []
        for _ in range(self.batch):
            distinct = self.config.distinct_samples
            sample = self._sample(rng if distinct is None else self._recurring(rng, distinct))
            kinds.append(sample.kind)
            degraded.append(sample.degraded)
            target.append(sample.target)
            opacity.append(sample.opacity)
            references.append(sample.references)
            inserted.append(sample.inserted)
        clips = np.stack(degraded), np.stack(target)
        # By content, so that whatever decides a sample (clip, window, crop, flip, artefacts) decides its key.
        keys = tuple((_content(a), _content(b)) for a, b in zip(*clips, strict=True)) if self.config.keeps_latents else ()
        flow = np.stack([target_flow(clip) for clip in target]) if self.flow else None
        return RawBatch(
            *clips,
            tuple(kinds),
            keys,
            np.stack(opacity)[..., 0] if self.opacity else None,
            flow,
            np.stack(references) if self.references else None,
            np.stack(inserted) if self.inserted else None,
        )

    def _recurring(self, rng: np.random.Generator, distinct: int) -> np.random.Generator:
        """The generator of one of so many distinct samples."""
        return np.random.default_rng([self.seed, 1 << 40, int(rng.integers(distinct))])

    def _sample(self, rng: np.random.Generator) -> Sample:
        synthetic = bool(self.plain) and (not self.paired or rng.random() < self.config.synthetic_share)
        pool = self.plain if synthetic else self.paired
        kind: Kind = "synthetic" if synthetic else "pair"
        if rng.random() < self.config.clean_share:
            kind = "clean"
        a, b, opacity, references, inserted = self._window(pool[int(rng.integers(len(pool)))], rng)
        look = draw_look(rng, self.config.look)
        if look is not None:
            a, b = look.of(a), look.of(b)
            for first in range(0, references.shape[-1], 4):
                references[..., first : first + 3] = look.of(references[..., first : first + 3])
        references = self._displaced(references, rng)
        if kind == "synthetic":
            a = self._with_artefacts(b, int(rng.integers(2**62)))
        opaque = np.full_like(opacity, 255)
        if self.references and rng.random() < self.config.bare_share:
            references = np.zeros_like(references)
        if kind == "clean":
            return Sample(kind, b, b, opaque, references, inserted)
        if rng.random() < self.config.mild_share:
            share = draw_mixture(rng, a.shape[:3], self.config.patchy_share)
            a = mixed(b, a, share)
            if self.opacity:
                # What is mixed with the target is there as much as that counts.
                opacity = mixed(opaque, opacity, share)
        return Sample(kind, a, b, opacity, references, inserted)

    def _displaced(self, references: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """References `[T, H, W, K * 4]` with some of their layers moved, each in its own way."""
        if not self.config.displaced_share:
            return references
        layers = np.split(references, self.references, axis=-1) if self.references else []
        for number, layer in enumerate(layers):
            if rng.random() < self.config.displaced_share:
                layers[number] = displaced(layer, draw_displacement(rng, layer.shape[:3], self.config.displaced_px))
        return np.concatenate(layers, axis=-1) if layers else references

    def batches(self, first_step: int, process: int, device: torch.device, *, on_host: bool = False) -> Generator[Batch]:
        """Batches from `first_step` on, prepared ahead: by worker processes, or by one thread where there are none."""
        workers = self.config.workers
        if workers is None:
            workers = max(0, min(16, (os.cpu_count() or 1) - 1)) if device.type == "cuda" else 0
        for raw in self._raw_batches(first_step, process, workers):
            yield self.finish(raw, device, on_host=on_host)

    def _raw_batches(self, first_step: int, process: int, workers: int) -> Generator[RawBatch]:
        if workers == 0:
            with ThreadPoolExecutor(max_workers=1) as reader:
                ahead = deque(reader.submit(self.raw, first_step + i, process) for i in range(2))
                for step in itertools.count(first_step + 2):
                    raw = ahead.popleft().result()
                    ahead.append(reader.submit(self.raw, step, process))
                    yield raw
        self._fill_cache()
        # Its own generator: the loader must not draw from the one that a resumed run restores.
        loader = DataLoader(
            _StepBatches(self, process),
            batch_size=None,
            sampler=_StepsFrom(first_step),
            num_workers=workers,
            generator=torch.Generator(),
            multiprocessing_context="fork",
            # As they are, through pipes: as tensors they would need shared memory, of which containers have little.
            # A sampler's step is a whole batch, so this gets what `__getitem__` gave and no list of it.
            collate_fn=cast(Any, _as_it_is),
            worker_init_fn=_own_signals,
        )
        threads = cv2.getNumThreads()
        # There are many workers. They are told by what they are forked with: a fork has no threads of a pool that it could give up.
        cv2.setNumThreads(1)
        try:
            prepared = iter(loader)
        finally:
            cv2.setNumThreads(threads)
        yield from prepared

    def _fill_cache(self) -> None:
        """Decode what fits, so that forked workers share it."""
        jobs: list[tuple[Clip, int, int, int | None]] = [
            (clip, s.start, s.stop, None) for s in self.paired for clip in (s.target, s.degraded) if clip is not None
        ]
        jobs += [(s.target, s.start, s.stop, self.config.video_short_side_px) for s in self.plain]
        spans = [(s.degraded, s.start, s.stop) for s in self.paired if s.degraded is not None]
        more: list[Callable[[], np.ndarray]] = [partial(self.cache.frames, *job) for job in jobs]
        more += [partial(self.cache.references, *span, self.references) for span in spans if self.references]
        more += [partial(self.cache.masks, *span) for span in spans if self.inserted]
        more += [partial(self.cache.opacity, *span) for span in spans if self.opacity]
        with ThreadPoolExecutor() as readers:
            for _ in readers.map(lambda read: self.cache.bytes < self.cache.limit_bytes and read(), more):
                pass

    def finish(self, raw: RawBatch, device: torch.device, *, on_host: bool = False) -> Batch:
        """Tensors for the device: there already, or (`on_host`) as bytes from which `unit_range` brings any piece there."""
        opacity = None if raw.opacity is None else torch.from_numpy(raw.opacity)[:, None]
        flow = None if raw.flow is None else torch.from_numpy(raw.flow)
        references, inserted = (
            None if layers is None else torch.from_numpy(layers).permute(0, 4, 1, 2, 3) for layers in (raw.references, raw.inserted)
        )
        if not on_host:
            opacity, flow, references, inserted = (
                None if more is None else more.to(device, non_blocking=True) for more in (opacity, flow, references, inserted)
            )
            clips = (_to_tensor(raw.degraded, device), _to_tensor(raw.target, device))
            return Batch(*clips, raw.kinds, raw.keys, opacity, flow, references, inserted)
        held = [torch.from_numpy(x) for x in (raw.degraded, raw.target)]
        if device.type == "cuda":
            held = [clip.pin_memory() for clip in held]
        degraded, target = (clip.permute(0, 4, 1, 2, 3) for clip in held)
        return Batch(degraded, target, raw.kinds, raw.keys, opacity, flow, references, inserted)

    def _with_artefacts(self, frames: np.ndarray, seed: int) -> np.ndarray:
        """Synthetic artefacts on frames `[T, H, W, 3]` uint8."""
        clip = _to_tensor(frames[None], torch.device("cpu"))
        made = degrade(clip, torch.Generator().manual_seed(seed), self.config.degrade)
        return made[0].add_(1.0).mul_(127.5).round_().to(torch.uint8).permute(1, 2, 3, 0).numpy()

    def _window(self, segment: Segment, rng: np.random.Generator) -> Window:
        """A random window and crop of a segment."""
        short = self.config.video_short_side_px if segment.degraded is None else None
        target = self.cache.frames(segment.target, segment.start, segment.stop, short)
        other = target if segment.degraded is None else self.cache.frames(segment.degraded, segment.start, segment.stop, None)
        if other.shape != target.shape:
            raise UserError(
                f"{segment.target.path}: its frames are {target.shape[1:3]} where those of {getattr(segment.degraded, 'path', None)} are "
                f"{other.shape[1:3]} (height, width); make the pair again."
            )
        count, height, width = target.shape[:3]
        rows, columns = self.crop_px
        if height < rows or width < columns:
            raise UserError(f"{segment.target.path}: frames of {height}x{width} are smaller than the crop of {rows}x{columns}; crop less.")
        index = _window_of(count, self.clip_frames, rng)
        scale = draw_scale(rng, self.config.look, min(height / rows, width / columns))
        cut_rows, cut_columns = (min(max(round(n / scale), 1), whole) for n, whole in ((rows, height), (columns, width)))
        top, left = int(rng.integers(height - cut_rows + 1)), int(rng.integers(width - cut_columns + 1))
        flip = self.config.flip and rng.random() < 0.5

        def cut(frames: np.ndarray) -> np.ndarray:
            piece = resized(frames[index, top : top + cut_rows, left : left + cut_columns], rows, columns)
            return piece[:, :, ::-1] if flip else piece

        opacity = np.full((len(index), rows, columns, 1), 255, np.uint8)
        references = np.zeros((len(index), rows, columns, 4 * self.references), np.uint8)
        inserted = np.zeros((len(index), rows, columns, CHANNELS), np.uint8)
        if segment.degraded is not None:
            span = (segment.degraded, segment.start, segment.stop)
            if self.opacity:
                opacity = cut(self.cache.opacity(*span))
            if self.references:
                layers = self.cache.references(*span, self.references)
                references = np.concatenate([_wholly_seen(cut(layers[..., k : k + 4])) for k in range(0, layers.shape[-1], 4)], axis=-1)
            if self.inserted:
                # Of the crop's own masks, so that a flip or a cut through a body needs no thought.
                inserted = np.stack([insertion_channels(mask[..., 0] > 127) for mask in cut(self.cache.masks(*span))])
        return Window(cut(other), cut(target), opacity, references, inserted)

    def _open_index(self, index: Path) -> list[tuple[Clip, Clip]]:
        """Target and degraded clip of every pair of the split."""
        pairs = []
        for line in read_pairs(index):
            if line.get("split", "train") != self.config.split:
                continue
            degraded, target = open_clip(index.parent / line["degraded"]), open_clip(index.parent / line["target"])
            if len(degraded) != len(target):
                raise UserError(
                    f"{degraded.path}: it has {len(degraded)} frames, its target {target.path} {len(target)}; make the pair again."
                )
            pairs.append((target, degraded))
        if not pairs:
            raise UserError(
                f"{index}: it lists no pair of the split {self.config.split}; make pairs with some for it, or give another index."
            )
        return pairs

    def _segments(self, target: Clip, degraded: Clip | None) -> list[Segment]:
        count, step = len(target), max(self.config.segment_frames, self.clip_frames)
        starts = list(range(0, count, step))
        if len(starts) > 1 and count - starts[-1] < self.clip_frames:
            starts.pop()
        stops = [*starts[1:], count]
        return [Segment(target, degraded, a, b) for a, b in zip(starts, stops, strict=True)]


def read_pairs(index: Path) -> list[dict[str, str]]:
    """The lines of a pairs index; `UserError` where it is missing or broken."""
    try:
        lines = [json.loads(line) for line in index.read_text().splitlines() if line.strip()]
    except FileNotFoundError:
        raise UserError(f"{index}: there is no such pairs index; check the path.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise UserError(f"{index}: a line is not valid JSON ({fault}); write the index again.") from None
    if any(
        not (isinstance(line, dict) and isinstance(line.get("degraded"), str) and isinstance(line.get("target"), str)) for line in lines
    ):
        raise UserError(f"{index}: every line needs the entries degraded and target, which are paths; write the index again.")
    return lines


def _opacity(clip: Clip, start: int, shape: tuple[int, ...]) -> np.ndarray:
    """Opacity of the frames from one on, `[T, H, W, 1]` uint8 where the frames are `shape` [T, H, W, 3]."""
    known = (clip.read_channel("opacity", start + number) for number in range(shape[0]))
    opaque = np.full(shape[1:3], 255, np.uint8)
    return np.stack([opaque if one is None else np.rint(255.0 * one).astype(np.uint8) for one in known])[..., None]


def _references(clip: Clip, start: int, shape: tuple[int, ...], layers: int) -> np.ndarray:
    """References of the frames from one on, `[T, H, W, layers * 4]` uint8 where the frames are `shape` [T, H, W, 3]."""
    known = (clip.read_references(start + number) for number in range(shape[0]))
    return np.stack([layers_as_channels(one, layers, *shape[1:3]) for one in known])


def _wholly_seen(layer: np.ndarray) -> np.ndarray:
    """A layer of references `[T, H, W, 4]` after its size was changed: pixels that were seen in part only are not seen."""
    return np.where(layer[..., 3:] == 255, layer, 0).astype(np.uint8)


def _reduced(rgb: np.ndarray, short_side_px: int | None) -> np.ndarray:
    height, width = rgb.shape[:2]
    if short_side_px is None or min(height, width) <= short_side_px:
        return rgb
    scale = short_side_px / min(height, width)
    return cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


class _StepBatches(Dataset[RawBatch]):
    """What the loader's workers call: step -> batch."""

    def __init__(self, clips: TrainingClips, process: int) -> None:
        self.clips, self.process = clips, process

    def __getitem__(self, step: int) -> RawBatch:
        return self.clips.raw(step, self.process)


def _as_it_is(raw: RawBatch) -> RawBatch:
    return raw


def _own_signals(_worker: int) -> None:
    """What the training does about interruptions is not for a forked worker: it ends when it is told to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _StepsFrom(Sampler[int]):
    """The steps from one on, without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.first)


def _window_of(count: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of a random window of so many frames. A clip that is too short runs back and forth, so that what a model sees late in a
    clip is of the same kind as what it sees early."""
    if count >= wanted:
        return int(rng.integers(count - wanted + 1)) + np.arange(wanted)
    there_and_back = max(2 * (count - 1), 1)
    place = (int(rng.integers(there_and_back)) + np.arange(wanted)) % there_and_back
    return np.minimum(place, there_and_back - place)


def _to_tensor(clips: np.ndarray, device: torch.device) -> torch.Tensor:
    """`[B, T, H, W, 3]` uint8 -> `[B, 3, T, H, W]` float32 in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(clips)).to(device, non_blocking=True)
    return tensor.permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1.0).contiguous()


def unit_range(frames: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Frames of a `Batch`, as bytes or in [-1, 1] already, as float32 in [-1, 1] on the device."""
    if frames.dtype != torch.uint8:
        return frames.to(device)
    return frames.to(device, non_blocking=True).float().div_(127.5).sub_(1.0)


def unit_opacity(opacity: torch.Tensor) -> torch.Tensor:
    """Opacity of a `Batch` as float32 in [0, 1]."""
    return opacity.float().div(255.0)


def unit_inserted(inserted: torch.Tensor) -> torch.Tensor:
    """What was put in, of a `Batch`, as float32 in [0, 1]."""
    return inserted.float().div(255.0)


def unit_references(references: torch.Tensor) -> torch.Tensor:
    """References of a `Batch` as float32 in [-1, 1]."""
    return references.float().div(127.5).sub(1.0)


def _content(frames: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(frames.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(frames).data)
    return digest.hexdigest()
