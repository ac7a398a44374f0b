"""Gaussians to and from .ply files of the usual layout.

Layout (Kerbl et al. 2023, reference viewers): one `vertex` element of float properties `x y z nx ny nz f_dc_0..2 f_rest_* opacity
scale_0..2 rot_0..3`; `f_rest` is grouped by colour (all of red, then green, then blue), opacities are logits, scales logarithms, `rot` is
w x y z.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement, PlyParseError

from splatmend.datasets.errors import UserError
from splatmend.recon.gaussians import Gaussians

_NEEDED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3")


def export_ply(gaussians: Gaussians, path: Path) -> None:
    """Write Gaussians (in their own frame) to a binary little-endian .ply file."""
    sh = gaussians.sh.detach().cpu().numpy()
    count, harmonics = sh.shape[:2]
    columns = {name: gaussians.means.detach().cpu().numpy()[:, i] for i, name in enumerate("xyz")}
    columns |= {name: np.zeros(count, np.float32) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{i}": sh[:, 0, i] for i in range(3)}
    rest = sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * (harmonics - 1))
    columns |= {f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])}
    columns["opacity"] = gaussians.opacity_logits.detach().cpu().numpy()
    columns |= {f"scale_{i}": gaussians.log_scales.detach().cpu().numpy()[:, i] for i in range(3)}
    columns |= {f"rot_{i}": gaussians.quats_wxyz.detach().cpu().numpy()[:, i] for i in range(4)}
    vertices = np.empty(count, dtype=[(name, "<f4") for name in columns])
    for name, column in columns.items():
        vertices[name] = column
    path.parent.mkdir(parents=True, exist_ok=True)
    PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(path))


def import_ply(path: Path) -> Gaussians:
    """Read a .ply file of Gaussians, ours or another program's, with harmonics of degree 0 to 3.

    Raises:
        UserError: where the file is missing, no .ply, has no Gaussians in it, or values that are not finite.
    """
    path = Path(path)
    try:
        data = PlyData.read(str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; check the path.") from None
    except (PlyParseError, ValueError, OSError) as fault:
        raise UserError(f"{path}: this cannot be read as a .ply file ({fault}); export it again.") from None
    if "vertex" not in data:
        raise UserError(f"{path}: the file has no vertices; give a .ply file of Gaussians.")
    vertices = data["vertex"].data
    names = vertices.dtype.names or ()
    if missing := [name for name in _NEEDED if name not in names]:
        raise UserError(f"{path}: the property {missing[0]} is missing, so this is no file of Gaussians; export one from a splat program.")
    if not len(vertices):
        raise UserError(f"{path}: there are no Gaussians in it; export it again from a scene that has some.")
    rest_count = sum(name.startswith("f_rest_") for name in names)
    if rest_count not in (0, 9, 24, 45):
        raise UserError(f"{path}: {rest_count} f_rest properties fit no harmonic degree (0, 9, 24 or 45 would); export the file again.")

    wanted = [*_NEEDED, *(f"f_rest_{i}" for i in range(rest_count))]
    if wrong := [name for name in wanted if name not in names or vertices.dtype[name].kind not in "fiu"]:
        raise UserError(f"{path}: the property {wrong[0]} is missing or no plain number; export the file again.")

    def stacked(*properties: str) -> np.ndarray:
        return np.stack([np.asarray(vertices[name], dtype=np.float32) for name in properties], axis=1)

    sh = stacked("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if rest_count:
        rest = stacked(*(f"f_rest_{i}" for i in range(rest_count))).reshape(len(vertices), 3, rest_count // 3)
        sh = np.concatenate([sh, rest.transpose(0, 2, 1)], axis=1)
    arrays = {
        "means": stacked("x", "y", "z"),
        "quats_wxyz": stacked("rot_0", "rot_1", "rot_2", "rot_3"),
        "log_scales": stacked("scale_0", "scale_1", "scale_2"),
        "opacity_logits": np.asarray(vertices["opacity"], dtype=np.float32),
        "sh": sh,
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: some {name} are not finite; export the file again.")
    return Gaussians(**{name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()})
