"""One-step video enhancement, and the truncated decoder it is trained through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splatmend.enhance.decoder import TruncatedDecoder, WanAdapter, surrogate

__all__ = ["TruncatedDecoder", "WanAdapter", "surrogate"]


def __getattr__(name: str) -> Any:
    """The decoder's names on first use: diffusers takes seconds to import, which no other part should wait for."""
    if name in __all__:
        from splatmend.enhance import decoder

        return getattr(decoder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
