"""`python ssim_kernels_program.py FOLDER`: what the kernels of SSIM give for the pictures there, in both layouts of memory."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from splatmend.datasets import ssim_kernels


def main(folder: Path) -> None:
    for file in sorted(folder.glob("given-*.pt")):
        given = torch.load(file)
        count, channels, height, width = given["picture"].shape
        for layout in ("planes", "together"):
            step = channels if layout == "together" else 1
            pictures = [given["picture"], given["truth"]]
            if layout == "together":
                pictures = [x.permute(0, 2, 3, 1).reshape(count, 1, height, width * channels) for x in pictures]
            means, slopes = ssim_kernels.forward(*pictures, step, slopes=True)
            assert slopes is not None
            without, _ = ssim_kernels.forward(*pictures, step, slopes=False)
            by_picture = ssim_kernels.backward(*pictures, step, slopes, given["weights"])
            if layout == "together":
                by_picture = by_picture.reshape(count, height, width, channels).permute(0, 3, 1, 2)
            found = {"means": means, "without_slopes": without, "by_picture": by_picture}
            torch.save(found, file.with_name(file.name.replace("given", layout)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
