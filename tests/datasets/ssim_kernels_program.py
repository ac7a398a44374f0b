"""`python ssim_kernels_program.py FOLDER`: what SSIM by kernels gives for the pictures there, in both layouts of memory."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from splatmend.datasets.ssim import _ByKernels


def main(folder: Path) -> None:
    for file in sorted(folder.glob("given-*.safetensors")):
        given = load_file(file)
        for layout, memory in (("planes", torch.contiguous_format), ("together", torch.channels_last)):
            picture, truth = (given[name].contiguous(memory_format=memory) for name in ("picture", "truth"))
            without = _ByKernels.apply(picture, truth)
            means = _ByKernels.apply(picture.requires_grad_(True), truth)
            (by_picture,) = torch.autograd.grad((means * given["weights"]).sum(), picture)
            found = {"means": means.detach(), "without_slopes": without, "by_picture": by_picture}
            save_file({name: value.contiguous() for name, value in found.items()}, file.with_name(file.name.replace("given", layout)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
