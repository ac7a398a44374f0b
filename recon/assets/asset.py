"""An asset: a body in its own frame, as it looks and as light sees it, and how it lies on disk.

Layout of the folder (artefact kind "asset"): `asset.ply` (a standard file of Gaussians), `material.safetensors`, `thumbnail.png`, and in
the manifest's facts its class, size and where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from splatmend.datasets.artifact import Manifest, building, plain, read_manifest
from splatmend.datasets.errors import UserError
from splatmend.datasets.images import write_image
from splatmend.datasets.log import ActorClass
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.ply import export_ply, import_ply


@dataclass(frozen=True, kw_only=True)
class Material:
    """What light needs to know of N Gaussians' surfaces: `albedo` (linear share of diffuse light given back, in [0, 1]), unit `normals`
    (outwards, in the frame of the body), `roughness` in (0, 1] (GGX's alpha is its square), `specular` (linear share mirrored when looked
    at straight). `lit_by` is the linear radiance that white matt surfaces had, each at its Gaussian's place, in the light that the body's
    own colours show; None where these show no light that is known."""

    albedo: Float[Tensor, "N 3"]
    normals: Float[Tensor, "N 3"]
    roughness: Float[Tensor, "N"]
    specular: Float[Tensor, "N 3"]
    lit_by: Float[Tensor, "N 3"] | None = None

    def to(self, device: str | torch.device) -> Material:
        """The same material on another device."""
        return Material(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def select(self, which: Tensor) -> Material:
        """Those of a bool mask `[N]` or of indices."""
        return Material(**{name: tensor[which] for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """What it holds, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A body around the centre of its box (x forward, y left, z up; metres): `size_m` is length, width, height.

    `gaussians` hold the colours that it has by itself: those of the light it was harvested in, or of a neutral one. `material` is None
    where only those colours are known, which then cannot be lit anew. `quality` in [0, 1] says how much of it was seen; `facts` where it
    comes from.
    """

    asset_id: str
    actor_class: ActorClass
    size_m: tuple[float, float, float]
    gaussians: Gaussians
    material: Material | None
    quality: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to(self, device: str | torch.device) -> Asset:
        """The same asset on another device."""
        return replace(self, gaussians=self.gaussians.to(device), material=None if self.material is None else self.material.to(device))


def save_asset(
    out: Path, asset: Asset, *, thumbnail: np.ndarray | None = None, config: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write an asset as an artefact; `thumbnail [H, W, 3]` uint8. Errors: those of `artifact.building`."""
    manifest = Manifest(kind="asset", config=plain(dict(config or {})))
    with building(Path(out), manifest, overwrite=overwrite) as folder:
        export_ply(asset.gaussians, folder / "asset.ply")
        if asset.material is not None:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in asset.material.tensors().items()}
            save_file(tensors, str(folder / "material.safetensors"))
        if thumbnail is not None:
            write_image(folder / "thumbnail.png", thumbnail)
        manifest.facts = {
            **plain(dict(asset.facts)),
            "asset_id": asset.asset_id,
            "actor_class": asset.actor_class,
            "size_m": list(asset.size_m),
            "quality": asset.quality,
            "material": asset.material is not None,
            "gaussians": len(asset.gaussians),
        }
    return Path(out)


def load_asset(path: Path, device: str | torch.device = "cpu") -> Asset:
    """An asset from its folder.

    Raises:
        UserError: where the folder is no asset, or one of its files is missing or broken.
    """
    path = Path(path)
    facts = dict(read_manifest(path, "asset").facts)
    gaussians = import_ply(path / "asset.ply")
    try:
        size_m = cast("tuple[float, float, float]", tuple(float(side) for side in facts["size_m"]))
        if len(size_m) != 3 or not (np.isfinite(size_m).all() and min(size_m) > 0):
            raise ValueError(f"a size of {facts['size_m']}")
        if facts["actor_class"] not in get_args(ActorClass):
            raise ValueError(f"the class {facts['actor_class']!r}")
        asset = Asset(
            asset_id=str(facts["asset_id"]),
            actor_class=facts["actor_class"],
            size_m=size_m,
            gaussians=gaussians,
            material=_load_material(path / "material.safetensors", len(gaussians)) if facts["material"] else None,
            quality=float(facts["quality"]),
            facts=facts,
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise UserError(f"{path}: an entry of the asset is missing or broken ({fault}); make the asset again.") from fault
    return asset.to(device)


def _load_material(path: Path, count: int) -> Material:
    try:
        tensors = load_file(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: the asset's material is missing; copy the whole folder again, or make the asset again.") from None
    except SafetensorError as fault:
        raise UserError(f"{path}: the material cannot be read ({fault}); make the asset again.") from None
    shapes = {"albedo": (count, 3), "normals": (count, 3), "roughness": (count,), "specular": (count, 3)}
    if "lit_by" in tensors:
        shapes["lit_by"] = (count, 3)
    for name, shape in shapes.items():
        if name not in tensors or tuple(tensors[name].shape) != shape or not bool(torch.isfinite(tensors[name]).all()):
            raise UserError(f"{path}: {name} is missing, not finite or not of shape {list(shape)}; make the asset again.")
    return Material(**{name: tensors[name].float() for name in shapes})
