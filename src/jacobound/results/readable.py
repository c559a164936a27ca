"""`Candidate`, and results as plain numbers and strings for readers."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from torch import Tensor

from jacobound.results.provenance import Status
from jacobound.stored import stored
from jacobound.words import rounded_down, rounded_up


@stored
@dataclass(frozen=True, eq=False)
class Candidate:
    """One of the constants of which the smallest certified one is the answer.

    Args:
        value: of the shape of the answer's `upper`; inf where the candidate was left out or proves nothing.
        status: whether it is certified, or why it is looser than its method could do.
        seconds: what it took; 0 for those that come along with another one.
        certificates: for methods that prove by multipliers what they proved, set by set; else empty.
        note: what there is to say besides: why a method failed, or that it was given up.
    """

    value: Tensor
    status: Status
    seconds: float = 0.0
    certificates: tuple[tuple[Any, ...], ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Value, status, seconds and note as plain numbers and strings."""
        found = {"value": plain(self.value), "status": plain(self.status), "seconds": self.seconds}
        return found | ({"note": self.note} if self.note else {})


def listed(values: Tensor) -> list[Any]:
    """All numbers in row-major order."""
    return values.detach().cpu().flatten().tolist()


def span(lower: Tensor, upper: Tensor) -> str:
    """The least lower and the largest upper bound."""
    if not lower.numel():
        return "nothing"
    return f"{rounded_down(float(lower.min()))} to {rounded_up(float(upper.max()))}"


def hexadecimal(value: Any) -> Any:
    """Numbers in hexadecimal, lists of them as lists."""
    return [hexadecimal(item) for item in value] if isinstance(value, list) else float(value).hex()


def plain(value: Any) -> Any:
    """Plain numbers, lists and strings for readers; infinities as text."""
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Candidate):
        return value.to_dict()
    if isinstance(value, Status):
        return {"name": value.name.lower(), "certified": value.certified, "meaning": value.value}
    if isinstance(value, enum.Enum):
        return {"name": value.name.lower(), "meaning": value.value}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.init}
    return str(value) if isinstance(value, Decimal | Fraction) else value
