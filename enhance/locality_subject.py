"""What locality is measured on: a Wan autoencoder, alone or in an enhancer, and latents of clips with a loss on their frames."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from splatmend.datasets.artifact import MANIFEST, read_json
from splatmend.datasets.clip import Clip
from splatmend.datasets.errors import UserError
from splatmend.enhance.artifact import BUNDLED, INFO, load_autoencoder, load_enhancer
from splatmend.enhance.base import load_part
from splatmend.enhance.decoder import FrameLoss, Memory, Side, TruncatedDecoder, WanAdapter
from splatmend.enhance.lora import lora_parameters
from splatmend.enhance.losses import PixelLoss
from splatmend.enhance.model import Enhancer
from splatmend.enhance.train.degrade import degrade


class Model(NamedTuple):
    """A frozen autoencoder, and the enhancer that it belongs to, if any."""

    vae: AutoencoderKLWan
    enhancer: Enhancer | None

    def adapter(self, memory: Memory) -> WanAdapter:
        """The autoencoder, with the enhancer's joins, driven group by group."""
        return WanAdapter(self.vae, memory=memory) if self.enhancer is None else self.enhancer.adapter(memory=memory)

    @property
    def size_multiple(self) -> int:
        """Height and width of clips must be multiples of this many pixels."""
        return self.adapter("fast").spatial_factor if self.enhancer is None else self.enhancer.size_multiple

    def trained_parameters(self) -> list[torch.Tensor]:
        """The transformer's parameters that training would change: its LoRA where it has one, else all of them."""
        if self.enhancer is None:
            return []
        transformer = self.enhancer.transformer
        return list(lora_parameters(transformer) if self.enhancer.spec.lora is not None else transformer.parameters())


def load_model(path: str, device: torch.device, dtype: torch.dtype) -> Model:
    """The bundled enhancer, an enhancer or autoencoder folder that splatmend wrote, or a diffusers folder of `AutoencoderKLWan`.

    The diffusers folder may be the autoencoder's own or a whole pipeline's, of which only the autoencoder is read. `UserError` where
    it is none of these.
    """
    folder = Path(path)
    if path == BUNDLED or (folder / INFO).is_file():
        enhancer = load_enhancer(path, device=device, dtype=dtype)
        return Model(enhancer.vae, enhancer)
    if not folder.is_dir():
        raise UserError(f"{path}: there is no such folder; give a folder with a Wan autoencoder, or `bundled`.")
    vae: Any = load_autoencoder(folder) if (folder / MANIFEST).is_file() else _from_diffusers(folder, dtype)
    if vae.dtype != dtype:
        vae = vae.to(dtype)
    return Model(vae.to(device).eval().requires_grad_(False), None)


def _from_diffusers(folder: Path, dtype: torch.dtype) -> AutoencoderKLWan:
    for part in (folder, folder / "vae"):
        if (part / "config.json").is_file():
            config = read_json(part / "config.json")
            name = config.get("_class_name") if isinstance(config, dict) else None
            if name != "AutoencoderKLWan":
                raise UserError(f"{part}: what it holds is {name}, but AutoencoderKLWan is needed here; give another folder.")
            return load_part(AutoencoderKLWan, part, dtype)
    raise UserError(f"{folder}: it holds no autoencoder (neither config.json nor vae/config.json); give another folder.")


class Sample(NamedTuple):
    """Frames `[1, 3, T, H, W]` float32 in [-1, 1] and what they are: a name and a hash of their content."""

    name: str
    frames: torch.Tensor
    key: str


def read_sample(clip: Clip, count: int, crop_px: tuple[int, int] | None, max_width_px: int | None, multiple: int) -> Sample:
    """The first `count` frames of a clip, reduced to `max_width_px`, cropped around the centre to `crop_px` and whole latents.

    `UserError` where the clip has fewer frames or is smaller than the crop or than one multiple.
    """
    if len(clip) < count:
        raise UserError(
            f"{clip.path}: it holds {len(clip)} frames, fewer than the {count} asked for; give a longer clip or fewer --frames."
        )
    pictures = []
    for rgb in clip.iter_rgb():
        pictures.append(_fitted(rgb, clip.path, crop_px, max_width_px, multiple))
        if len(pictures) == count:
            break
    stacked = np.stack(pictures)
    frames = torch.from_numpy(stacked).permute(3, 0, 1, 2)[None].float() / 127.5 - 1.0
    return Sample(clip.path.stem, frames, hashlib.sha256(stacked.tobytes()).hexdigest()[:16])


def _fitted(rgb: np.ndarray, path: Path, crop_px: tuple[int, int] | None, max_width_px: int | None, multiple: int) -> np.ndarray:
    height, width = rgb.shape[:2]
    if max_width_px is not None and width > max_width_px:
        height, width = round(height * max_width_px / width), max_width_px
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    wanted = crop_px or (height, width)
    wanted = (wanted[0] // multiple * multiple, wanted[1] // multiple * multiple)
    if wanted[0] > height or wanted[1] > width or min(wanted) == 0:
        raise UserError(
            f"{path}: frames of {height}x{width} pixels give no crop of {wanted[0]}x{wanted[1]} (multiples of {multiple}); "
            "change --crop or --max-width."
        )
    top, left = (height - wanted[0]) // 2, (width - wanted[1]) // 2
    return np.ascontiguousarray(rgb[top : top + wanted[0], left : left + wanted[1]])


@dataclass(frozen=True)
class Subject:
    """One clip ready to be differentiated. With an enhancer, `z` hangs on the transformer's graph."""

    model: Model
    z: torch.Tensor
    """What the decoder takes `[B, C, L, h, w]`; B = 2 where the enhancer decodes its input beside its output, the output first."""
    sides: tuple[dict[str, torch.Tensor], ...]
    shown: torch.Tensor
    """The clip that the enhancer sees; without one, the target."""
    target: torch.Tensor

    @property
    def side(self) -> Side | None:
        """Side features as the decoder asks for them."""
        return self.sides.__getitem__ if self.sides else None

    def frame_loss(self, name: str) -> FrameLoss:
        """The loss of that name between the clip's final frames and the target."""
        pixel_loss, enhancer = PixelLoss({name: 1.0}), self.model.enhancer

        def loss(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
            del previous
            final = frames if enhancer is None else enhancer.compose(self.shown[:, :, span], frames.float())
            return pixel_loss(final, self.target[:, :, span])

        return loss


def make_subject(model: Model, sample: Sample, latent_noise: float, generator: torch.Generator) -> Subject:
    """Without an enhancer: the clip's own latents with noise of `latent_noise` times each channel's spread, so that there is an error
    to differentiate. With one: the latents that it makes of the clip under synthetic artefacts, as in training.
    """
    device, dtype = model.vae.device, model.vae.dtype
    target = sample.frames.to(device)
    if model.enhancer is None:
        with torch.no_grad():
            z = TruncatedDecoder(model.vae).encode(target.to(dtype))
        noise = torch.randn(z.shape, generator=generator).to(device, dtype)
        return Subject(model, z + latent_noise * z.std(dim=(0, 2, 3, 4), keepdim=True) * noise, (), target, target)
    enhancer = model.enhancer
    shown = degrade(sample.frames, generator).to(device)
    with torch.no_grad():
        encoded = enhancer.encode(shown)
    with torch.enable_grad():
        z = enhancer.decoder_latents(encoded.latents, enhancer.predict_windows(encoded.latents))
    sides = tuple(enhancer.decoder_side(side) for side in encoded.side) if enhancer.spec.skips else ()
    return Subject(model, z, sides, shown, target)


def flat_parameter_gradient(z: torch.Tensor, parameters: Sequence[torch.Tensor], grad_z: torch.Tensor, limit: int) -> torch.Tensor:
    """Gradient of the parameters that made `z`, for `grad_z` at it: one vector in float32 on the host.

    Of more than `limit` numbers every n-th is taken, so that several gradients of a large model fit; the graph is kept.
    """
    grads = torch.autograd.grad(z, parameters, grad_z, retain_graph=True, allow_unused=True)
    stride = -(-sum(p.numel() for p in parameters) // limit)
    pieces = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    return torch.cat([piece.flatten()[::stride].float().cpu() for piece in pieces])
