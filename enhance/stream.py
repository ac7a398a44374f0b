"""Enhancing clips of any length and size in constant memory.

Frames are encoded once and decoded once, group by group with caches; the transformer sees overlapping windows of latents, which are
blended in latent space. What is held at any time is about one window: its frames, latents and skip features. Frames travel as bytes, and
are read, copied and written beside the work.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from splatmend.datasets.artifact import Manifest, building, content_key, naming_full_disk
from splatmend.datasets.clip import Clip, ClipWriter, Encoding
from splatmend.datasets.errors import UserError
from splatmend.datasets.video import Codec, VideoWriter
from splatmend.enhance.attention import Attention, use_attention
from splatmend.enhance.decoder import regroup_frames
from splatmend.enhance.fusion import layers_as_channels
from splatmend.enhance.insertion import CHANNELS, insertions_of, put_in_facts
from splatmend.enhance.model import Encoded, Enhancer
from splatmend.enhance.opacity import fixed_noise, group_opacity, with_noise
from splatmend.enhance.overlap import WriteBehind, as_arrays, as_tensor_on, read_ahead
from splatmend.enhance.strength import check_strength
from splatmend.enhance.transformer import compile_blocks
from splatmend.enhance.windows import stream_windows

Progress = Callable[[int, int], None]
"""`on_progress(frames done, frames in all)`."""
_FRAMES_AHEAD, _FRAMES_BEHIND = 8, 8


class _Held(NamedTuple):
    """One group between encoding and decoding."""

    frames: torch.Tensor
    """With what was taken from references."""
    inserted: torch.Tensor | None
    """What was put in, `[1, 4, t, H, W]` in [0, 1]."""
    latent: torch.Tensor
    side: dict[str, torch.Tensor]


class StreamingEnhancer:
    """Enhances one clip frame by frame. `peak_groups` is the largest number of groups that were held at once."""

    def __init__(
        self,
        enhancer: Enhancer,
        *,
        strength: float | None = None,
        window: int | None = None,
        overlap: int | None = None,
        attention: Attention = "auto",
        compile: bool = False,
    ) -> None:
        """`strength`: how much of the change is taken; None: what the enhancer's spec says. `window`, `overlap`: in latents; None: what
        it was trained with. `UserError` for values out of range.

        `attention` and `compile` are set on the enhancer's transformer and stay. A compiled transformer is faster after its first
        window, which takes minutes: for long clips, or many.
        """
        self.window = enhancer.spec.window if window is None else window
        self.overlap = min(enhancer.spec.overlap, self.window - 1) if overlap is None else overlap
        check_strength(strength)
        if self.window < 1:
            raise UserError(f"window: {self.window} latents are none; give 1 or more.")
        if not 0 <= self.overlap < self.window:
            raise UserError(f"overlap: {self.overlap} latents do not lie between 0 and the window of {self.window}; give another overlap.")
        self.enhancer, self.strength = enhancer, enhancer.spec.strength if strength is None else strength
        self.peak_groups = 0
        self._held: deque[_Held] = deque()
        use_attention(enhancer.transformer, attention, enhancer.device, enhancer.transformer.dtype)
        if compile:
            compile_blocks(enhancer.transformer)

    def frames(
        self,
        frames: Iterable[np.ndarray],
        count: int,
        opacity: Iterable[np.ndarray | None] | None = None,
        references: Iterable[np.ndarray | None] | None = None,
        inserted: Iterable[np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """Enhanced frames `[H, W, 3]` uint8 of `count` frames `[H, W, 3]` uint8, in order. At strength 0 the frames themselves, with
        what references gave them.

        For enhancers that look at them: `opacity` of each frame `[H, W]` in [0, 1], None where it is not known and all counts as opaque;
        `references` of each frame `[K, H, W, 4]` uint8, the last channel 255 where they are seen, None where there are none; what was
        `inserted` into each frame `[H, W, 4]` uint8 (`insertion_channels`), which one that harmonises must be told (else `ValueError`).

        `UserError` for no frames, fewer than `count`, or frames that are not `[H, W, 3]` uint8.
        """
        if inserted is None and self.enhancer.spec.harmonises:
            raise ValueError("this enhancer harmonises: it must be told what was put in")
        frames = _checked(frames, count)
        fuses = references is not None and self.enhancer.spec.references > 0
        if self.strength == 0.0 and not fuses:
            yield from frames
            return
        if opacity is not None and self.enhancer.looks_at_opacity:
            frames = _with_opacity(frames, opacity)
        if references is not None and fuses:
            frames = _with_references(frames, references, self.enhancer.spec.references)
        if inserted is not None and self.enhancer.spec.harmonises:
            frames = _with_insertions(frames, inserted)
        adapter = self.enhancer.adapter()
        groups = 1 + -(-(count - 1) // adapter.temporal_factor)
        source = read_ahead(frames, _FRAMES_AHEAD)
        first = next(source)
        height, width = first.shape[:2]
        pieces = (self._to_tensor(rgb) for rgb in _chain(first, source))
        latents = self._encode(regroup_frames(pieces, adapter.temporal_factor, pad=True))
        enhanced = self._decode(stream_windows(latents, groups, self.window, self.overlap, self._predict))
        done = 0
        for pictures in as_arrays(_bytes(piece) for piece in enhanced):
            for picture in pictures[: count - done]:
                yield picture[:height, :width]
            done += len(pictures)

    def _encode(self, groups: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        adapter = self.enhancer.adapter()
        cache = adapter.initial_encoder_cache()
        for index, frames in enumerate(groups):
            frames, opacity, references, inserted = self._parts(frames)
            with torch.no_grad():
                fused = self.enhancer.fused(frames, references)
                latent, cache, tapped = adapter.encode_group(fused.to(self.enhancer.vae.dtype), cache, index, self.enhancer.taps)
                latent = adapter.normalise(latent)
                if opacity is not None:
                    small = group_opacity((opacity + 1.0) / 2.0, adapter.spatial_factor)
                    latent = with_noise(latent, small, self.enhancer.spec.opacity_noise, fixed_noise(latent, [index]))
                encoded = Encoded(latent, (self.enhancer.side_features(tapped),))
                latent, (side,) = self.enhancer.told(encoded, inserted)
            self._held.append(_Held(fused, inserted, latent, side))
            self.peak_groups = max(self.peak_groups, len(self._held))
            yield latent

    def _parts(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Frames, and opacity, references and what was put in where they came along."""
        inserted = None
        if self.enhancer.spec.harmonises:
            given, inserted = given[:, :-CHANNELS], (given[:, -CHANNELS:] + 1.0) / 2.0
        layers = 4 * self.enhancer.spec.references
        more = given.shape[1] - 3
        references = given[:, -layers:] if layers and more >= layers else None
        opacity = given[:, 3:4] if more == 1 or more == layers + 1 else None
        return given[:, :3], opacity, references, inserted

    def _predict(self, z_in: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.enhancer.predict(z_in)

    def _decode(self, latents: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        adapter = self.enhancer.adapter()
        cache = adapter.initial_decoder_cache()
        for index, z_out in enumerate(latents):
            held = self._held.popleft()
            with torch.no_grad():
                z = self.enhancer.decoder_latents(held.latent, z_out)
                side = self.enhancer.decoder_side(held.side) if self.enhancer.spec.skips else None
                cache = cache.for_last_use()
                decoded, cache = adapter.decode_group(z, cache, index, side)
                enhanced = self.enhancer.compose(held.frames, decoded.float())
                result = self.enhancer.taken(held.frames, enhanced, held.inserted, self.strength)
            yield result

    def _to_tensor(self, rgb: np.ndarray) -> torch.Tensor:
        """`[H, W, C]` uint8 -> `[1, C, 1, H', W']` in [-1, 1], reflected at the right and at the bottom up to whole latents.

        For an enhancer that harmonises by a row of latents more, which is cut off: trained on whole frames, the bundled one draws dots at
        the lower edge.
        """
        multiple = self.enhancer.size_multiple
        height, width = rgb.shape[:2]
        below = -height % multiple + (multiple if self.enhancer.spec.harmonises else 0)
        padded = np.pad(rgb, ((0, below), (0, -width % multiple), (0, 0)), mode="symmetric")
        tensor = as_tensor_on(padded, self.enhancer.device).permute(2, 0, 1).float() / 127.5 - 1.0
        return tensor[None, :, None]


def enhance_clip(
    enhancer: Enhancer,
    clip: Clip,
    out: Path,
    *,
    strength: float | None = None,
    window: int | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
    encoding: Encoding = "png",
    on_progress: Progress | None = None,
    attention: Attention = "auto",
    compile: bool = False,
    references: bool = True,
) -> Path:
    """Enhance a clip into a new clip at `out`, which keeps its cameras, depth, opacity, masks, frame rate, what it says was put in, and the
    name of its log.

    `strength` 0 gives the input's frames exactly, with what references gave them; `references` False leaves those of the clip out. All
    settings: see `StreamingEnhancer`. `UserError` where `out` exists already or a setting is out of range.
    """
    stream = StreamingEnhancer(enhancer, strength=strength, window=window, overlap=overlap, attention=attention, compile=compile)
    config = {
        "strength": stream.strength,
        "window": stream.window,
        "overlap": stream.overlap,
        "encoding": encoding,
        "enhancer": enhancer.spec,
        "references": min(enhancer.spec.references, clip.references) if references else 0,
    }
    inserted = insertions_of(clip) if enhancer.spec.harmonises else None
    manifest = Manifest(kind="clip", config=config, inputs={"clip": _clip_key(clip)})
    with building(out, manifest, overwrite=overwrite) as folder:
        mask_names = sorted(p.name for p in (clip.path / "masks").iterdir() if p.is_dir()) if (clip.path / "masks").is_dir() else []
        tell = None if on_progress is None else partial(_tell, on_progress, len(clip))
        with (
            ClipWriter(folder, encoding=encoding, rate_hz=clip.rate_hz, log_id=clip.log_id) as writer,
            WriteBehind(_FRAMES_BEHIND, tell) as behind,
        ):
            layers = _references_of(clip) if references else None
            for index, rgb in enumerate(stream.frames(clip.iter_rgb(), len(clip), _opacity_of(clip), layers, inserted)):
                behind.submit(partial(_write, writer, clip, mask_names, index, rgb))
        manifest.facts = writer.facts | put_in_facts(clip) | {"model": enhancer.spec.base, "strength": stream.strength}
    return Path(out)


def enhance_video(
    enhancer: Enhancer,
    clip: Clip,
    out: Path,
    *,
    strength: float | None = None,
    window: int | None = None,
    overlap: int | None = None,
    overwrite: bool = False,
    codec: Codec = "h264",
    on_progress: Progress | None = None,
    compile: bool = False,
    references: bool = True,
) -> Path:
    """Enhance a clip into a video file at `out` (.mp4), frames only; the rest as `enhance_clip`. The file is there whole or not at all."""
    if out.exists() and not overwrite:
        raise UserError(f"{out}: this exists already; give another --out, or --overwrite to replace it.")
    stream = StreamingEnhancer(enhancer, strength=strength, window=window, overlap=overlap, compile=compile)
    inserted = insertions_of(clip) if enhancer.spec.harmonises else None
    tell = None if on_progress is None else partial(_tell, on_progress, len(clip))
    beside = out.with_name(f"{out.stem}.partial{out.suffix}")  # what a video is comes from the end of its name
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with naming_full_disk(out), VideoWriter(beside, clip.rate_hz, codec) as writer, WriteBehind(_FRAMES_BEHIND, tell) as behind:
            layers = _references_of(clip) if references else None
            for rgb in stream.frames(clip.iter_rgb(), len(clip), _opacity_of(clip), layers, inserted):
                behind.submit(partial(writer.write, rgb))
        os.replace(beside, out)
    finally:
        beside.unlink(missing_ok=True)
    return out


def _write(writer: ClipWriter, clip: Clip, mask_names: list[str], index: int, rgb: np.ndarray) -> None:
    """Frame `index` of the enhanced clip, with what the input has for it."""
    masks = {name: clip.read_channel(f"masks/{name}", index) for name in mask_names}
    writer.write(
        rgb,
        clip.frames[index].shot,
        depth_m=clip.read_channel("depth", index),
        opacity=clip.read_channel("opacity", index),
        masks={name: mask for name, mask in masks.items() if mask is not None},
        extra=clip.frames[index].extra,
    )


def _opacity_of(clip: Clip) -> Iterator[np.ndarray | None]:
    """What a clip says of the opacity of its frames, read when it is due."""
    return (clip.read_channel("opacity", index) for index in range(len(clip)))


def _with_opacity(frames: Iterable[np.ndarray], opacity: Iterable[np.ndarray | None]) -> Iterator[np.ndarray]:
    """Frames `[H, W, 4]` uint8 with opacity as a fourth channel, so that both travel together; 255 where it is not known."""
    for rgb, known in zip(frames, opacity, strict=True):
        alpha = np.full(rgb.shape[:2], 255, np.uint8) if known is None else np.rint(255.0 * known).astype(np.uint8)
        yield np.concatenate([rgb, alpha[..., None]], axis=-1)


def _references_of(clip: Clip) -> Iterator[np.ndarray | None] | None:
    """The references of a clip's frames, read when they are due; None where it has none."""
    return (clip.read_references(index) for index in range(len(clip))) if clip.references else None


def _with_references(frames: Iterable[np.ndarray], references: Iterable[np.ndarray | None], layers: int) -> Iterator[np.ndarray]:
    """Frames `[H, W, C + 4 layers]` uint8 with the first layers of references as further channels; what is missing was not seen."""
    for rgb, known in zip(frames, references, strict=True):
        yield np.concatenate([rgb, layers_as_channels(known, layers, *rgb.shape[:2])], axis=-1)


def _with_insertions(frames: Iterable[np.ndarray], inserted: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Frames `[H, W, C + 4]` uint8 with what was put in as further channels; `UserError` where masks are of another size."""
    for number, (rgb, channels) in enumerate(zip(frames, inserted, strict=True)):
        if channels.shape[:2] != rgb.shape[:2]:
            raise UserError(
                f"masks: that of frame {number} has {channels.shape[1]}x{channels.shape[0]} pixels where the frame has "
                f"{rgb.shape[1]}x{rgb.shape[0]}; write the clip again."
            )
        yield np.concatenate([rgb, channels], axis=-1)


def _checked(frames: Iterable[np.ndarray], count: int) -> Iterator[np.ndarray]:
    """The same frames; `UserError` where one is no picture of bytes, or they end before `count`."""
    if count < 1:
        raise UserError(f"frames: {count} are none to enhance; give a clip with at least one frame.")
    seen = 0
    for rgb in frames:
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
            raise UserError(
                f"frames: frame {seen} is {rgb.dtype} of shape {tuple(rgb.shape)}, not [height, width, 3] uint8; "
                "give colours as bytes, 0 to 255."
            )
        seen += 1
        yield rgb
    if seen < count:
        raise UserError(f"frames: there are {seen}, but {count} were to be enhanced; give a count of at most {seen}, or all frames.")


def _tell(on_progress: Progress, count: int, done: int) -> None:
    on_progress(done, count)


def _bytes(piece: torch.Tensor) -> torch.Tensor:
    """Frames `[1, 3, t, H, W]`, not clamped -> `[t, H, W, 3]` uint8 on the same device, so that few bytes travel."""
    pictures = (piece[0].float().clamp(-1, 1) + 1) / 2
    return (pictures * 255.0).round_().to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _clip_key(clip: Clip) -> str:
    """The clip's manifest, or for a plain video its path and size, as a short hash."""
    manifest = clip.path / "manifest.json"
    if manifest.is_file():
        return content_key(manifest.read_text())
    return content_key([str(clip.path), len(clip)])


def _chain(first: np.ndarray, rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    yield first
    yield from rest
