"""`splatmend doctor`: what works on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say what works on this machine and what to do about the rest; exit code 1 where something that every command needs is broken."""

    path: Path = Path(".")
    """Folder whose disk is looked at."""


def run(options: Options) -> int:
    from rich.console import Console
    from rich.table import Table

    from splatmend.pipelines.doctor import examine

    table = Table(title="splatmend doctor", title_justify="left")
    for column in ("what", "state", "found", "what to do"):
        table.add_column(column, overflow="fold")
    colours = {"works": "green", "absent": "yellow", "broken": "red"}
    checks = examine(options.path)
    for check in checks:
        table.add_row(check.what, f"[{colours[check.state]}]{check.state}[/]", check.found, check.advice)
    Console().print(table)
    return 1 if any(check.state == "broken" for check in checks) else 0
