"""`splatmend assets`: into the library, out of it, and what is refused before any work is done."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh

from splatmend.datasets.artifact import read_manifest
from splatmend.pipelines.cli import main
from splatmend.recon.ply import import_ply
from splatmend.recon.scene_files import save_scene

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recon"))

from tiny_log import true_scene


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_scene(tmp_path_factory.mktemp("scenes") / "scene", true_scene(), {})


def test_harvest_list_and_export(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = tmp_path / "library"
    assert main(["assets", "harvest", str(scene_folder), "--out", str(library)]) == 0
    (folder,) = [path for path in library.iterdir() if path.is_dir()]
    facts = read_manifest(folder, "asset").facts
    assert facts["actor_id"] == "car/1"
    assert 0 < facts["quality"] <= 1
    assert (library / "contact_sheet.png").is_file()
    assert main(["assets", "list", str(library)]) == 0
    assert folder.name[:12] in capsys.readouterr().out
    out = tmp_path / "car.ply"
    assert main(["assets", "export", str(folder), "--out", str(out)]) == 0
    assert len(import_ply(out)) == facts["gaussians"]
    assert main(["assets", "export", str(folder), "--out", str(out)]) == 2
    assert main(["assets", "harvest", str(scene_folder), "--out", str(library)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_import_of_a_mesh_and_of_what_was_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box = trimesh.creation.box((4.0, 1.8, 1.5))
    box.export(tmp_path / "block.obj")
    library = tmp_path / "library"
    words = ["--count", "300", "--length-m", "5", "--up", "+z", "--forward", "+x", "--colour", "0.2", "0.3", "0.8"]
    assert main(["assets", "import", str(tmp_path / "block.obj"), "--out", str(library), *words]) == 0
    said = capsys.readouterr().out
    assert "5.00 x 2.25 x 1.88 m" in said
    assert "painted as asked" in said
    assert main(["assets", "export", str(library / "block"), "--out", str(tmp_path / "again.ply")]) == 0
    again = ["assets", "import", str(tmp_path / "again.ply"), "--out", str(library), "--up", "+z", "--forward", "+x"]
    assert main([*again, "--name", "second"]) == 0
    size = read_manifest(library / "second", "asset").facts["size_m"]
    np.testing.assert_allclose(size, (5.0, 2.25, 1.875), atol=0.02)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mend"], "no such action"),
        (["harvest", "{scene}", "--out", "{tmp}/l", "--actors", "bus"], "there is no actor bus"),
        (["harvest", "{scene}", "--out", "{tmp}/l", "--min-quality", "2"], "from 0 to 1"),
        (["harvest", "{scene}", "--out", "{tmp}/l", "--min-quality", "1"], "good enough"),
        (["harvest", "{tmp}", "--out", "{tmp}/l"], "no splatmend artefact"),
        (["list", "{tmp}/none"], "no such library"),
        (["list", "{tmp}"], "it holds no asset"),
        (["export", "{tmp}/none/car", "--out", "{tmp}/x.ply"], "no such library"),
        (["export", "{tmp}/none/car", "--out", "{tmp}/x.obj"], "must end in .ply"),
        (["import", "{tmp}/none.glb", "--out", "{tmp}/l"], "no such file"),
    ],
)
def test_faults_are_one_sentence(
    words: list[str], says: str, scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(scene=scene_folder, tmp=tmp_path) for word in words]
    assert main(["assets", *filled]) == 2
    complaint = capsys.readouterr().err.strip()
    assert says in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "l").exists()


def test_help_names_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assets", "--help"]) == 0
    assert {"harvest", "import", "list", "export"} <= set(capsys.readouterr().out.split())
    assert main(["assets"]) == 2
