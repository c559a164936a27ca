"""Which kinds of data a stored result may hold: those that say so themselves, by name; nothing else is made."""

from __future__ import annotations

from typing import TypeVar

Kind = TypeVar("Kind", bound=type)

_KINDS: dict[str, type] = {}


def stored(kind: Kind) -> Kind:
    """A decorator: a dataclass or enumeration that a stored result may hold.

    Raises:
        ValueError: when there is another one of that name.
    """
    if _KINDS.setdefault(kind.__name__, kind) is not kind:
        raise ValueError(f"two kinds of stored data are called {kind.__name__}")
    return kind


def kinds() -> dict[str, type]:
    """All kinds that are loaded, by name."""
    return dict(_KINDS)
