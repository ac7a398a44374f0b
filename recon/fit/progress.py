"""What a person sees while a fit runs: one line."""

from __future__ import annotations

from typing import Any

from splatmend.datasets.progress import ConsoleBar


class FitBar(ConsoleBar):
    """A bar with loss, PSNR, number of Gaussians and time left."""

    def __init__(self, total: int) -> None:
        super().__init__("fit", total)

    def __call__(self, row: dict[str, Any]) -> None:
        text = f"loss {row['loss']:.4f}  PSNR {row['psnr']:.2f} dB  {row['gaussians']:,} Gaussians"
        self.show(row["iteration"], text=text)
