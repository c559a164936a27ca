"""Halves of parts meet in one float and are nothing but the part; parts that meet a ball are never left out."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from jacobound.arithmetic.intervals import Interval
from jacobound.inputs.domains import Domain
from jacobound.splitting.parts import halves, may_meet, splittable


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_halves_leave_no_gap(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    ends = (
        torch.randn(2, 200, 3, generator=generator, dtype=torch.float64)
        * 10.0 ** torch.arange(-3, 3).repeat(100)[:200, None]
    )
    low, high = ends.amin(0).to(dtype), ends.amax(0).to(dtype)
    high[:20] = low[:20].nextafter(torch.full_like(low[:20], torch.inf)).nextafter(torch.full_like(low[:20], torch.inf))
    parts, along = Interval(low, high), torch.arange(200) % 3
    both, row = halves(parts, along), torch.arange(200)
    left, right = both[:200], both[200:]
    assert torch.equal(left.lower, low) and torch.equal(right.upper, high)
    assert torch.equal(left.upper[row, along], right.lower[row, along])  # the same float: nothing lies between
    others = torch.arange(3) != along.unsqueeze(1)
    assert torch.equal(left.upper[others], high[others]) and torch.equal(right.lower[others], low[others])
    assert bool(splittable(parts).all()) and not bool(splittable(Interval(low, low)).any())


@pytest.mark.parametrize("p", [1, 2])
def test_only_parts_outside_of_the_ball_are_left_out(p: int) -> None:
    generator = torch.Generator().manual_seed(p)
    centre, radius = torch.tensor([[0.1, -0.3]], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    whole = Domain(Interval(centre - 0.7, centre + 0.7), centre, radius, p)
    corner = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    # Corners within a few roundings of the sphere are the hard ones.
    lengths = torch.linalg.vector_norm(corner, p, dim=1, keepdim=True)
    corner[:300] *= 0.7 / lengths[:300] * (1 + torch.linspace(-4, 4, 300).double()[:, None] * 2.0**-53)
    nearest = centre + corner
    far = nearest + corner.sign() * 0.1
    parts = Interval(torch.minimum(nearest, far), torch.maximum(nearest, far))
    kept = may_meet(parts, whole).tolist()
    middle, reach = [Fraction(x) for x in centre[0].tolist()], Fraction(0.7)
    for point, own in zip(nearest.tolist(), kept, strict=True):
        away = [abs(Fraction(x) - c) for x, c in zip(point, middle, strict=True)]
        meets = sum(away) <= reach if p == 1 else sum(x * x for x in away) <= reach * reach
        assert own or not meets
    assert not all(kept)
