"""Modules of other packages that an import does not find: what to say of them. Nothing but the standard library is imported here."""

from __future__ import annotations

INSTALL = "run 'pip install .' in splatmend's source folder, or use the .venv that 'make' builds there"


def missing_module(fault: BaseException) -> str | None:
    """The name of a module that is not installed; None for any other fault, and where the module is our own, which is a bug."""
    if not isinstance(fault, ModuleNotFoundError) or fault.name is None:
        return None
    return None if fault.name.partition(".")[0] == "splatmend" else fault.name
