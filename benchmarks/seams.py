"""Error of spatial chunks at their seam against the halo: `python benchmarks/seams.py [--vae FOLDER]`.

Two chunks side by side, D = 1, squared loss on pixels; gradients at the latents against those of the whole frame. Without a folder:
Wan 2.1's geometry at a sixth of its width with random weights, which see farther than trained ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from rich.console import Console
from rich.table import Table

from splatmend.enhance.artifact import load_autoencoder
from splatmend.enhance.decoder import TruncatedDecoder

HALOS = (0, 1, 2, 3, 4, 6, 8, 10)


def main() -> None:
    """Print one row a halo."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--vae", type=Path, help="an autoencoder's folder")
    arguments.add_argument("--latents", type=int, nargs=3, default=(3, 12, 40), metavar=("GROUPS", "HEIGHT", "WIDTH"))
    options = arguments.parse_args()
    torch.manual_seed(0)
    vae = AutoencoderKLWan(base_dim=16) if options.vae is None else load_autoencoder(options.vae)
    vae = vae.float().eval().requires_grad_(False)
    groups, height, width = options.latents
    z = torch.randn(1, vae.config["z_dim"], groups, height, width)
    target = TruncatedDecoder(vae, engine="fast").decode(z)
    target = target + 0.3 * target.std() * torch.randn_like(target)

    def loss(frames: torch.Tensor, span: slice, previous: torch.Tensor | None) -> torch.Tensor:
        return (frames - target[:, :, span]).square().mean(dim=(0, 1, 3, 4)).sum()

    whole = TruncatedDecoder(vae, 1, engine="fast").loss_and_grad(z, loss).grad_z.double()
    band = slice(width // 2 - 1, width // 2 + 1)
    table = Table("halo (latent pixels)", "relative error", "in the two columns at the seam", title="Spatial chunks")
    for halo in HALOS:
        decoder = TruncatedDecoder(vae, 1, engine="fast", spatial_chunks=(1, 2), halo=halo)
        error = decoder.loss_and_grad(z, loss).grad_z.double() - whole
        table.add_row(str(halo), f"{error.norm() / whole.norm():.4f}", f"{error[..., band].norm() / whole[..., band].norm():.4f}")
    Console().print(table)


if __name__ == "__main__":
    main()
