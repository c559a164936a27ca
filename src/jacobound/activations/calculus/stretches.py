"""Where a function is defined: `Stretch`, one open or closed interval of the line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval


@dataclass(frozen=True)
class Stretch:
    """All numbers between two ends; a finite end belongs to it when `closed`."""

    lower: float = -math.inf
    upper: float = math.inf
    closed: bool = False

    def holds(self, x: Interval) -> Tensor:
        """Bool mask: the interval lies inside. A side without end holds infinite ends too; NaN lies nowhere."""
        after = x.lower >= self.lower if self.closed or self.lower == -math.inf else x.lower > self.lower
        before = x.upper <= self.upper if self.closed or self.upper == math.inf else x.upper < self.upper
        return after & before

    def __str__(self) -> str:
        left = "[" if self.closed and self.lower > -math.inf else "("
        right = "]" if self.closed and self.upper < math.inf else ")"
        return f"{left}{self.lower:g}, {self.upper:g}{right}"


EVERYWHERE: Final = (Stretch(),)
POSITIVE: Final = (Stretch(0.0),)
NOT_NEGATIVE: Final = (Stretch(0.0, closed=True),)
NOT_ZERO: Final = (Stretch(upper=0.0), Stretch(0.0))


def defined(domain: tuple[Stretch, ...], x: Interval) -> Tensor:
    """Bool mask: the (tidy) interval lies in one of the stretches; always true for the whole line."""
    found = torch.full_like(x.lower, domain == EVERYWHERE, dtype=torch.bool)
    if domain != EVERYWHERE:
        for stretch in domain:
            found = found | stretch.holds(x)
    return found
