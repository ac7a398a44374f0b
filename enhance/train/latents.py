"""Latents of training clips, kept so that a frozen encoder meets every clip once.

A key is the content of the clip's frames together with the autoencoder and the precision, so that nothing stale can be found, however
windows and crops are drawn.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from splatmend.datasets.artifact import content_key, naming_full_disk, plain
from splatmend.datasets.errors import UserError

_NAME = "latents"


class LatentCache:
    """Latents in host memory (the least recently used ones dropped beyond `limit_bytes`) and, with `folder`, on disk."""

    def __init__(self, encoder_key: str, limit_bytes: int, folder: Path | None = None) -> None:
        """`encoder_key`: see `encoder_key`. The folder is made where it is missing."""
        self.limit_bytes = limit_bytes
        self.folder = None if folder is None else Path(folder) / encoder_key
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._held: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.bytes = 0

    def latents(self, key: str, encode: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Latents on the host, float32, of the clip with this key; `encode` makes them where they are not there yet.

        `UserError` where a file in the folder is broken.
        """
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
            return held
        made = self._from_disk(key)
        if made is None:
            made = encode().detach().float().cpu().contiguous()
            self._to_disk(key, made)
        self._hold(key, made)
        return made

    def _hold(self, key: str, latents: torch.Tensor) -> None:
        self._held[key] = latents
        self.bytes += latents.nbytes
        while self.bytes > self.limit_bytes:
            _, dropped = self._held.popitem(last=False)
            self.bytes -= dropped.nbytes

    def _from_disk(self, key: str) -> torch.Tensor | None:
        if self.folder is None or not (self.folder / f"{key}.safetensors").is_file():
            return None
        path = self.folder / f"{key}.safetensors"
        try:
            return load_file(path)[_NAME]
        except (SafetensorError, KeyError) as fault:
            raise UserError(f"{path}: these kept latents cannot be read ({fault}); remove the file.") from None

    def _to_disk(self, key: str, latents: torch.Tensor) -> None:
        if self.folder is None:
            return
        # Several processes may make the same file: each writes its own and the last one stays.
        beside = self.folder / f"{key}.{os.getpid()}.new"
        with naming_full_disk(self.folder):
            save_file({_NAME: latents}, beside)
            os.replace(beside, self.folder / f"{key}.safetensors")


def encoder_key(vae: AutoencoderKLWan, precision: str) -> str:
    """Short hash of the encoder's weights, the autoencoder's config (latent statistics among it) and the precision it runs in."""
    digest = hashlib.blake2b(digest_size=16)
    model: Any = vae  # type checkers do not see the sub-modules that diffusers registers
    for module in (model.encoder, model.quant_conv):
        for name, value in module.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    config = {name: value for name, value in dict(model.config).items() if not name.startswith("_")}
    return content_key([plain(config), precision, digest.hexdigest()])
