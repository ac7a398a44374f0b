"""Times the rasterisers on random Gaussians and prints a table of medians: `python benchmarks/raster.py`.

A run is one forward and one backward pass that asks for the gradients of all parameters. The splats' sizes are drawn so that a
typical one covers some five pixels to each side and nearly every pixel is covered, as in a fitted scene.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from measured_on import hardware
from torch import Tensor

from splatmend.recon.raster import RasterOutput, rasterize
from splatmend.recon.raster.api import Model

SIZES = [(20_000, 320, 192), (100_000, 640, 384), (400_000, 1280, 768)]
MODELS: tuple[Model, ...] = ("ewa", "ray")
CHANNELS = 4


def random_gaussians(count: int, width: int, height: int, device: str) -> tuple[list[Tensor], Tensor, Tensor]:
    """Leaves in the order of `rasterize`, pose and intrinsics of a camera that sees most of them."""
    generator = torch.Generator().manual_seed(0)
    focal = float(width)
    z = 2.0 + 30.0 * torch.rand(count, generator=generator)
    column = width * (1.2 * torch.rand(count, generator=generator) - 0.6)
    row = height * (1.2 * torch.rand(count, generator=generator) - 0.6)
    deviation_px = 2.0 * (width * height * 20_000 / (320 * 192 * count)) ** 0.5
    leaves = [
        torch.stack([column * z / focal, row * z / focal, z], dim=1),
        torch.randn(count, 4, generator=generator),
        torch.exp(0.5 * torch.randn(count, 3, generator=generator)) * (deviation_px * z / focal)[:, None],
        0.05 + 0.9 * torch.rand(count, generator=generator),
        torch.rand(count, CHANNELS, generator=generator),
    ]
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return [leaf.to(device).requires_grad_() for leaf in leaves], torch.eye(4, device=device), intrinsics.to(device)


def seconds(device: str) -> float:
    """Now, once all work given to the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(model: Model, count: int, width: int, height: int, device: str, repeats: int) -> tuple[RasterOutput, float, float, float]:
    """One picture and the medians of forward, backward and total time in milliseconds; the first two runs (compilation) do not count."""
    leaves, view, intrinsics = random_gaussians(count, width, height, device)
    times = []
    for _ in range(repeats + 2):
        start = seconds(device)
        output = rasterize(*leaves, view, intrinsics, width, height, model=model)
        middle = seconds(device)
        (output.channels.sum() + output.opacity.sum()).backward()
        end = seconds(device)
        times.append((middle - start, end - middle, end - start))
    forward, backward, total = (1e3 * statistics.median(column) for column in zip(*times[2:], strict=True))
    return output, forward, backward, total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="runs that each median is taken over")
    parser.add_argument("--largest", type=int, default=100_000, help="leave out rows with more Gaussians than this")
    chosen = parser.parse_args()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    print("| hardware | model | backend | Gaussians | picture | channels | mean opacity | forward ms | backward ms | total ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for device in devices:
        rows = [(model, *size) for model in MODELS for size in SIZES if size[0] <= chosen.largest]
        for model, count, width, height in rows:
            output, forward, backward, total = measure(model, count, width, height, device, chosen.repeats)
            print(
                f"| {hardware(cuda=device == 'cuda')} | {model} | {output.stats.backend} | {count:,} | {width}x{height} | {CHANNELS} "
                f"| {output.opacity.mean().item():.2f} | {forward:.1f} | {backward:.1f} | {total:.1f} |"
            )


if __name__ == "__main__":
    main()
