"""What is said of an enhancer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from splatmend.enhance.bundled import BUNDLED, bundled_folder
from splatmend.enhance.model import EnhancerSpec
from splatmend.pipelines.enhancer_facts import enhancer_facts


def test_the_name_is_the_folders_and_the_hash_follows_the_weights(tmp_path: Path) -> None:
    spec = EnhancerSpec(base="small", provenance={"steps": 3})
    folder = tmp_path / "mine"
    (folder / "vae").mkdir(parents=True)
    save_file({"a": np.zeros(3, np.float32)}, folder / "vae" / "model.safetensors")
    first = enhancer_facts(folder, spec)
    assert first | {"weights": ""} == {
        "name": "mine",
        "weights": "",
        "base": "small",
        "task": "restore",
        "strength": 1.0,
        "provenance": {"steps": 3},
    }
    (folder / "enhancer.json").write_text("{}")
    assert enhancer_facts(folder, spec) == first
    save_file({"a": np.ones(3, np.float32)}, folder / "vae" / "model.safetensors")
    assert enhancer_facts(folder, spec)["weights"] != first["weights"]
    assert enhancer_facts(bundled_folder(), spec)["name"] == BUNDLED
