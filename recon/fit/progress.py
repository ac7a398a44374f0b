"""What a person sees while a fit runs: one line."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class FitBar:
    """A progress bar with loss, PSNR, number of Gaussians and time left, on standard error; silent where that is no terminal."""

    def __init__(self, total: int) -> None:
        console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("fit"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  PSNR {task.fields[psnr]:.2f} dB  {task.fields[gaussians]:,} Gaussians"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("fit", total=total, loss=float("nan"), psnr=float("nan"), gaussians=0)

    def __enter__(self) -> FitBar:
        self.progress.start()
        return self

    def __call__(self, row: dict[str, Any]) -> None:
        self.progress.update(self.task, completed=row["iteration"], loss=row["loss"], psnr=row["psnr"], gaussians=row["gaussians"])

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()
