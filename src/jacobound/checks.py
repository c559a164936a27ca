"""Options as users write them: numbers of any library, classes in place of instances; everything else is refused."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jacobound.errors import InvalidOptionError

Wanted = TypeVar("Wanted")


def shown(value: object) -> str:
    """A value for a message, however long it is and however it was made."""
    try:
        text = repr(value)
    except Exception:  # the user's own __repr__
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def whole(value: Any, what: str, least: int, most: int = 1 << 62) -> int:
    """A whole number of Python, numpy or torch.

    Raises:
        InvalidOptionError: when it is none, or too small or large.
    """
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except Exception:  # the user's own __index__
        found = None
    if found is None or not least <= found <= most:
        limit = f" and at most {most}" if most < 1 << 62 else ""
        raise InvalidOptionError(f"{what} must be a whole number, at least {least}{limit}, not {shown(value)}")
    return found


def real(value: Any, what: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A number of Python, numpy or torch between two ends, which may be infinite; never NaN.

    Raises:
        InvalidOptionError: when it is none, or outside.
    """
    try:
        found = math.nan if isinstance(value, bool | str | bytes) else float(value)
    except Exception:  # the user's own __float__ may raise anything
        found = math.nan
    if not least <= found <= most:
        limits = [f"at least {least:g}"] * math.isfinite(least) + [f"at most {most:g}"] * math.isfinite(most)
        raise InvalidOptionError(f"{what} must be a number{', '.join(['', *limits])}, not {shown(value)}")
    return found


def seconds(value: Any, what: str) -> float | None:
    """A time limit, None for none.

    Raises:
        InvalidOptionError: when it is no number >= 0.
    """
    return None if value is None else real(value, what, 0.0)


def text(value: Any, what: str) -> str:
    """Text.

    Raises:
        InvalidOptionError: when it is none.
    """
    if not isinstance(value, str):
        raise InvalidOptionError(f"{what} must be text, not {shown(value)}")
    return value


def path(value: Any, what: str) -> Path:
    """A path of a file, as text or as a path.

    Raises:
        InvalidOptionError: when it is none.
    """
    try:
        return Path(value)
    except TypeError:
        raise InvalidOptionError(f"{what} is a file, as text or as a Path, not {shown(value)}") from None


def items(value: Any, what: str, example: str) -> list[Any]:
    """What a list, tuple, array or range holds; text and mappings are none of these.

    Args:
        example: how it is written, for the message.

    Raises:
        InvalidOptionError: when it is something else.
    """
    try:
        found = None if isinstance(value, str | bytes | Mapping) else list(value)
    except Exception:  # the user's own __iter__
        found = None
    if found is None:
        raise InvalidOptionError(f"{what} must be a list such as {example}, not {shown(value)}")
    return found


def places(value: Any, what: str) -> tuple[int, ...]:
    """Positions among flattened values, from 0; a single one may stand alone.

    Raises:
        InvalidOptionError: when something is no whole number >= 0.
    """
    alone = hasattr(value, "__index__") and not getattr(value, "shape", ())
    given = [value] if alone else items(value, what, "[0, 2]")
    return tuple(whole(one, f"an entry of {what}", 0) for one in given)


def yes_or_no(value: Any, what: str) -> bool:
    """True or False.

    Raises:
        InvalidOptionError: when it is something else.
    """
    if not isinstance(value, bool):
        raise InvalidOptionError(f"{what} must be True or False, not {shown(value)}")
    return value


def instance(value: Any, kind: type[Wanted] | tuple[type[Any], ...], what: str, cure: str) -> Any:
    """An instance of a kind; of a class that needs no arguments one is made.

    Args:
        cure: what to write instead, for the message.

    Raises:
        InvalidOptionError: when it is something else.
    """
    if isinstance(value, type) and issubclass(value, kind):
        try:
            value = value()
        except TypeError:
            raise InvalidOptionError(f"{what} is the class {value.__name__} itself; {cure}") from None
    if not isinstance(value, kind):
        raise InvalidOptionError(f"{what} can not be {shown(value)}; {cure}")
    return value
