"""What a person sees while something runs: one line with a bar."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ConsoleBar:
    """A progress bar with the time left, on standard error; silent where that is no terminal. A context manager."""

    def __init__(self, verb: str, total: int) -> None:
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn(verb),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(verb, total=total, text="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def show(self, done: int, total: int | None = None, text: str = "") -> None:
        """`done` of `total` (None: as before), and words beside the numbers."""
        self.progress.update(self.task, completed=done, total=total, text=text)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()
