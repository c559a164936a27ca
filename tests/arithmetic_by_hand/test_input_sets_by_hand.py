"""Single functions behind `inputs/test_input_sets.py`, number by number."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from exact import DTYPE_NAMES, DTYPES, random_floats, rational, rationals
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unit
from jacobound.inputs.domains import Domain, _around

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def boxes(dtype: torch.dtype, generator: Generator, sets: int, size: int, width: int = 0) -> Interval:
    ends = random_floats((2, sets, size), dtype, generator, (-3, 3))
    narrow = ends[0] + 2.0**width * (ends[1] - ends[0])
    return Interval(torch.minimum(ends[0], narrow), torch.maximum(ends[0], narrow))


@both_dtypes
def test_the_spread_around_a_middle_is_rounded_outward(dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(5)
    middle, reach, error = random_floats((3, 2000), dtype, generator, (-3, 3))
    reach, error = (
        reach.abs(),
        error.abs() * torch.where(torch.rand(2000, generator=generator) < 0.5, 0.0, 1.0).to(dtype),
    )
    middle = torch.where(torch.rand(2000, generator=generator) < 0.5, middle, reach + 2 * error)
    found = _around(middle, reach, error)
    for m, r, e, low, high in zip(*map(rationals, (middle, reach, error, found.lower, found.upper)), strict=True):
        room = 20 * rational(unit(dtype)) * (abs(m) + r + 2 * e)
        assert m - r - 2 * e - room <= low <= m - r - 2 * e
        assert m + r + 2 * e <= high <= m + r + 2 * e + room


def test_the_reach_of_a_box_holds_both_ends(generator: Generator) -> None:
    domain = Domain(boxes(torch.float64, generator, 4, 50))
    reach, largest = domain._reach, domain.box.magnitude()
    assert (reach >= largest).all() and (reach <= largest * (1 + 1e-15) + 1e-15).all()
