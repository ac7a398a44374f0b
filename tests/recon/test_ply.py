from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement

from splatmend.datasets.errors import UserError
from splatmend.recon.gaussians import Gaussians
from splatmend.recon.ply import export_ply, import_ply


def _random(degree: int) -> Gaussians:
    generator = torch.Generator().manual_seed(degree)
    shapes = {"means": (5, 3), "quats_wxyz": (5, 4), "log_scales": (5, 3), "opacity_logits": (5,), "sh": (5, (degree + 1) ** 2, 3)}
    return Gaussians(**{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()})


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_value_comes_back(tmp_path: Path, degree: int) -> None:
    g = _random(degree)
    export_ply(g, tmp_path / "g.ply")
    back = import_ply(tmp_path / "g.ply")
    for name in ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh"):
        assert torch.equal(getattr(back, name), getattr(g, name)), name


def test_the_layout_is_the_one_that_viewers_read(tmp_path: Path) -> None:
    g = _random(1)
    export_ply(g, tmp_path / "g.ply")
    vertices = PlyData.read(str(tmp_path / "g.ply"))["vertex"].data
    dc = [f"f_dc_{i}" for i in range(3)]
    rest = [f"f_rest_{i}" for i in range(9)]
    tail = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert list(vertices.dtype.names) == ["x", "y", "z", "nx", "ny", "nz", *dc, *rest, *tail]
    # Red's three harmonics first, then green's, then blue's.
    np.testing.assert_array_equal(vertices["f_rest_1"], g.sh[:, 2, 0].numpy())
    np.testing.assert_array_equal(vertices["f_rest_3"], g.sh[:, 1, 1].numpy())
    np.testing.assert_array_equal(vertices["f_rest_8"], g.sh[:, 3, 2].numpy())
    np.testing.assert_array_equal(vertices["rot_0"], g.quats_wxyz[:, 0].numpy())


def test_foreign_files_with_other_orders_and_types_are_read(tmp_path: Path) -> None:
    g = _random(0)
    names = ["rot_3", "rot_2", "rot_1", "rot_0", "opacity", "scale_0", "scale_1", "scale_2", "f_dc_0", "f_dc_1", "f_dc_2", "z", "y", "x"]
    vertices = np.zeros(5, dtype=[(name, "f8") for name in names] + [("label", "u1")])
    for i in range(4):
        vertices[f"rot_{i}"] = g.quats_wxyz[:, i].numpy()
    vertices["x"] = g.means[:, 0].numpy()
    PlyData([PlyElement.describe(vertices, "vertex")], text=True).write(str(tmp_path / "foreign.ply"))
    back = import_ply(tmp_path / "foreign.ply")
    assert back.means.dtype == torch.float32
    torch.testing.assert_close(back.quats_wxyz, g.quats_wxyz)
    torch.testing.assert_close(back.means[:, 0], g.means[:, 0])


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        import_ply(tmp_path / "absent.ply")
    (tmp_path / "text.ply").write_text("hello")
    with pytest.raises(UserError, match="cannot be read"):
        import_ply(tmp_path / "text.ply")
    points = np.zeros(3, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    PlyData([PlyElement.describe(points, "vertex")]).write(str(tmp_path / "points.ply"))
    with pytest.raises(UserError, match="f_dc_0 is missing"):
        import_ply(tmp_path / "points.ply")
    export_ply(_random(3), tmp_path / "whole.ply")
    (tmp_path / "cut.ply").write_bytes((tmp_path / "whole.ply").read_bytes()[:-40])
    with pytest.raises(UserError, match="cannot be read"):
        import_ply(tmp_path / "cut.ply")
    shifted = (tmp_path / "whole.ply").read_bytes().replace(b"property float f_rest_0\n", b"property float f_rest_99\n")
    (tmp_path / "shifted.ply").write_bytes(shifted)
    with pytest.raises(UserError, match="f_rest_0 is missing"):
        import_ply(tmp_path / "shifted.ply")
    none = Gaussians(**{name: getattr(_random(0), name)[:0] for name in ("means", "quats_wxyz", "log_scales", "opacity_logits", "sh")})
    export_ply(none, tmp_path / "none.ply")
    with pytest.raises(UserError, match=r"none\.ply: there are no Gaussians in it"):
        import_ply(tmp_path / "none.ply")
    broken = _random(0)
    broken.means[2, 1] = float("nan")
    export_ply(broken, tmp_path / "nan.ply")
    with pytest.raises(UserError, match="means are not finite"):
        import_ply(tmp_path / "nan.ply")
