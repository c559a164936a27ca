"""The primitive part of the campaign: all checks of numbers, one after the other, in both dtypes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from campaign import arithmetic, functions, linear
from campaign.runner import Part, Tally
from exact import DTYPES

Check = Callable[[torch.dtype, Generator], Tally]
CHECKS: tuple[Check, ...] = (*arithmetic.CHECKS, *linear.CHECKS, *functions.CHECKS)


def batch(generator: Generator) -> Tally:
    """Every check once in every dtype."""
    tally = Tally()
    for check in CHECKS:
        for dtype in DTYPES:
            tally.merge(check(dtype, generator))
    return tally


PART = Part("primitives", "numbers", batch)
