"""Assets by the names that edits give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from splatmend.datasets.artifact import MANIFEST
from splatmend.datasets.errors import UserError
from splatmend.recon.assets.asset import Asset, load_asset
from splatmend.recon.edits.forms import listed


def asset_loader(library: Path | None, beside: Path, device: str | torch.device = "cpu") -> Callable[[str], Asset]:
    """A function that loads an asset by its name in a library (a folder of assets), or by the path of its folder, which counts from the
    folder `beside`. Each is read once. It raises `UserError` where there is no such asset or its files are broken."""
    held: dict[str, Asset] = {}

    def load(name: str) -> Asset:
        if name not in held:
            held[name] = load_asset(_folder_of(name, library, beside), device)
        return held[name]

    return load


def _folder_of(name: str, library: Path | None, beside: Path) -> Path:
    if library is not None and (library / name / MANIFEST).is_file():
        return library / name
    if (beside / name / MANIFEST).is_file():
        return beside / name
    if library is None:
        raise UserError(f"{name}: there is no such folder of an asset, and no library was given; give --assets, or the asset's folder.")
    if not library.is_dir():
        raise UserError(f"{library}: there is no such library of assets; check --assets.")
    known = [folder.name for folder in library.iterdir() if (folder / MANIFEST).is_file()]
    raise UserError(f"{library}: the library has no asset {name}; it has {listed(known)}.")
