"""A library of assets: a folder with an artefact per asset, found by its name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from splatmend.datasets.artifact import MANIFEST, naming_full_disk, read_manifest
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import read_image, write_image
from splatmend.recon.assets.asset import Asset, load_asset, save_asset
from splatmend.recon.assets.picture import asset_picture

SHEET = "contact_sheet.png"
_COLUMNS, _LABEL_ROWS = 5, 20
_THUMBNAIL = (192, 256, 3)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One asset of a library, as its manifest describes it."""

    asset_id: str
    path: Path
    facts: Mapping[str, Any]

    @property
    def thumbnail(self) -> Path:
        return self.path / "thumbnail.png"


@dataclass(frozen=True)
class AssetLibrary:
    """Assets in a folder, which need not exist before the first is added."""

    folder: Path

    def ids(self) -> tuple[str, ...]:
        """Names of the assets, sorted.

        Raises:
            UserError: where the folder is missing.
        """
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: there is no such library; give a folder that `splatmend assets harvest` or `import` wrote to.")
        return tuple(path.name for path in sorted(self.folder.iterdir()) if _is_asset(path))

    def entries(self) -> tuple[Entry, ...]:
        """All assets with what their manifests say. Errors as `ids`, and those of broken manifests."""
        return tuple(
            Entry(asset_id=name, path=self.folder / name, facts=read_manifest(self.folder / name, "asset").facts) for name in self.ids()
        )

    def load(self, name: str | Path, device: str | torch.device = "cpu") -> Asset:
        """An asset by its name in the library, or by the path of an asset's folder anywhere.

        Raises:
            UserError: where there is none, or its files are broken.
        """
        inside = self.folder / str(name)
        if str(name) == Path(name).name and _is_asset(inside):
            return load_asset(inside, device)
        if (Path(name) / MANIFEST).is_file():
            return load_asset(Path(name), device)
        known = self.ids()
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"its assets are {', '.join(known[:8]) or 'none'}{' ...' if len(known) > 8 else ''}."
        raise UserError(f"{self.folder}: there is no asset {name} in this library; {hint}")

    def add(self, asset: Asset, *, config: Mapping[str, Any] | None = None, overwrite: bool = False) -> Path:
        """Write an asset with its thumbnail into the library, under its id; the path of its folder.

        Raises:
            UserError: where an asset of that name is there and `overwrite` is not given, or the folder cannot be written.
        """
        self.refuse_existing((asset.asset_id,), overwrite=overwrite)
        return save_asset(self.folder / asset.asset_id, asset, thumbnail=asset_picture(asset), config=config, overwrite=overwrite)

    def refuse_existing(self, names: Sequence[str], *, overwrite: bool) -> None:
        """`UserError` where one of the names is taken, so that nobody waits for a refusal at the end."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"{self.folder}: this is a file, but a library is a folder; give another --out.")
        for out in (self.folder / name for name in names):
            if out.exists() and not _is_asset(out):
                raise UserError(f"{out}: this is there and no asset, so it is not replaced; remove it yourself or choose another name.")
            if out.exists() and not overwrite:
                raise UserError(f"{out}: the library has an asset of this name already; choose another name, or --overwrite to replace it.")

    def write_sheet(self) -> Path:
        """A picture of all assets with their names, sizes and qualities (`contact_sheet.png` in the library); its path."""
        cells = [_cell(entry) for entry in self.entries()]
        blank = np.full_like(cells[0], 255) if cells else np.full((_THUMBNAIL[0] + _LABEL_ROWS, *_THUMBNAIL[1:]), 255, dtype=np.uint8)
        columns = min(_COLUMNS, max(len(cells), 1))
        cells += [blank] * (-len(cells) % columns or (0 if cells else columns))
        rows = [np.concatenate(cells[start : start + columns], axis=1) for start in range(0, len(cells), columns)]
        sheet = self.folder / SHEET
        with naming_full_disk(sheet):
            write_image(sheet, np.concatenate(rows))
        return sheet


def _is_asset(path: Path) -> bool:
    return (path / MANIFEST).is_file() and not path.name.endswith(".partial") and read_manifest(path).kind == "asset"


def _cell(entry: Entry) -> np.ndarray:
    picture = read_image(entry.thumbnail) if entry.thumbnail.is_file() else np.full(_THUMBNAIL, 160, dtype=np.uint8)
    picture = cv2.resize(picture, (_THUMBNAIL[1], _THUMBNAIL[0]), interpolation=cv2.INTER_AREA)
    label = np.full((_LABEL_ROWS, _THUMBNAIL[1], 3), 255, dtype=np.uint8)
    text = f"{entry.asset_id[:22]}  {entry.facts['size_m'][0]:.1f} m  q {entry.facts['quality']:.2f}"
    cv2.putText(label, text, (4, _LABEL_ROWS - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([picture, label])
