"""Planes below and above products and log-sum-exp, against exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from flint import arb
from torch import Generator, Tensor

from exact import ball
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Planes
from jacobound.graph.vector.log_sum_exp import log_sum_exp_planes, tangent_planes
from jacobound.relaxation.planes import product_planes


def boxes(shape: tuple[int, ...], width: float, generator: Generator) -> Interval:
    ends = torch.randn((2, *shape), generator=generator, dtype=torch.float64)
    return Interval(ends[0] - width * ends[1].abs(), ends[0] + width * ends[1].abs())


def points(x: Interval, generator: Generator) -> Tensor:
    """A point of every box, at a corner in half of the entries."""
    share = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    share = torch.where(torch.rand(x.shape, generator=generator) < 0.5, share.round(), share)
    return torch.minimum(torch.maximum(x.lower + share * (x.upper - x.lower), x.lower), x.upper)


@pytest.mark.parametrize("width", [1e-9, 0.1, 1e3])
def test_products_lie_between_their_planes(width: float) -> None:
    generator = Generator().manual_seed(0)
    for dtype in (torch.float64, torch.float32):
        pair = [boxes((1, 200), width, generator) for _ in range(2)]
        x, y = (Interval(box.lower.to(dtype), box.upper.to(dtype)) for box in pair)
        planes = product_planes(x, y)
        (k, _), (h, _) = planes.slopes
        for a, b in ((x.lower, y.lower), (x.lower, y.upper), (x.upper, y.lower), (x.upper, y.upper)):
            for slopes in zip(a[0], b[0], k[0], h[0], planes.lower[0], planes.upper[0], strict=True):
                one, two, steep, other, low, high = (Fraction(float(number)) for number in slopes)
                assert low <= one * two - steep * one - other * two <= high  # bilinear: corners suffice
        apart = planes.upper - planes.lower
        rise = (x.upper - x.lower) * (y.upper - y.lower) / 2
        assert bool((apart <= rise * 1.01 + 1e-5 * (1 + x.magnitude() * y.magnitude())).all())


def test_products_of_unbounded_factors_have_no_planes_but_the_whole_line() -> None:
    x = Interval(torch.tensor([[-math.inf, 0.0]]), torch.tensor([[1.0, 1.0]]))
    planes = product_planes(x, Interval(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 3.0]])))
    assert planes.lower[0, 0] == -math.inf and planes.upper[0, 0] == math.inf
    assert all(bool(torch.isfinite(slope).all()) for pair in planes.slopes for slope in pair)
    assert bool(torch.isfinite(planes.lower[0, 1]))


def holds(planes: Planes, x: Interval, allowed: Tensor | None, generator: Generator) -> None:
    open_ = torch.ones(x.shape, dtype=torch.bool) if allowed is None else allowed.expand(x.shape)
    ((below, above),) = planes.slopes
    for _ in range(6):
        at = points(x, generator)
        for row in range(x.shape[1]):
            terms = [arb(float(v)).exp() for v, some in zip(at[0, row], open_[0, row], strict=True) if some]
            value = sum(terms, arb(0)).log()
            low, high = (
                sum((ball(float(k)) * ball(float(v)) for k, v in zip(slope[0, row], at[0, row], strict=True)), arb(0))
                for slope in (below, above)
            )
            assert not value < low + ball(float(planes.lower[0, row, 0]))
            assert not value > high + ball(float(planes.upper[0, row, 0]))


@pytest.mark.parametrize("width", [1e-6, 0.3, 5.0, 60.0])
def test_log_sum_exp_lies_between_its_planes(width: float) -> None:
    generator = Generator().manual_seed(1)
    x = boxes((1, 12, 4), width, generator)
    mask = torch.rand((1, 12, 4), generator=generator) < 0.6
    mask[..., 0] = True
    for allowed in (None, mask):
        for planes in (log_sum_exp_planes(x, allowed), tangent_planes(x, allowed)):
            holds(planes, x, allowed, generator)
    apart = (log_sum_exp_planes(x).upper - log_sum_exp_planes(x).lower).amax()
    assert float(apart) < (1e-9 if width < 1e-3 else 1.0 if width < 1 else 200.0)


def test_rows_without_bounds_get_the_whole_line() -> None:
    x = Interval(torch.tensor([[[0.0, -math.inf], [0.0, 1.0]]]), torch.tensor([[[1.0, 2.0], [1.0, 2.0]]]))
    planes = log_sum_exp_planes(x)
    assert planes.lower[0, 0, 0] == -math.inf and planes.upper[0, 0, 0] == math.inf
    assert bool(torch.isfinite(planes.lower[0, 1, 0]) & torch.isfinite(planes.upper[0, 1, 0]))
