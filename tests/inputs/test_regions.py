"""Regions contain what was asked for, in exact arithmetic; senseless ones are refused with a typed error."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from decimal import Decimal

import numpy as np
import pytest
import torch
from flint import fmpq
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rational, rationals
from jacobound import Ball, Box, Graph, InvalidRegionError, JacoboundError, Radii, ShapeError, WholeSpace, from_layers
from jacobound.inputs.domains import ONE_SET, Domain
from zoo import integer, normal

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def network(inputs: int, dtype: torch.dtype = torch.float64) -> Graph:
    return from_layers([torch.ones(1, inputs)]).to(dtype=dtype)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Ball([0.0], -0.1),
        lambda: Ball([0.0], math.nan),
        lambda: Ball([0.0], math.inf),
        lambda: Ball([0.0], "1e999"),
        lambda: Ball([0.0], "ten"),
        lambda: Ball([0.0], None),  # type: ignore[arg-type]
        lambda: Ball([0.0], []),
        lambda: Ball([0.0], [0.1, -0.1]),
        lambda: Ball([math.nan], 0.1),
        lambda: Ball([0.0, math.nan], 0.1),
        lambda: Ball([math.inf], 0.1),
        lambda: Ball([0.0], 0.1, 3),
        lambda: Ball([0.0], 0.1, math.nan),
        lambda: Ball([0.0], 0.1, clip=(1.0, 0.0)),
        lambda: Ball([0.0, 0.0], 0.1, clip=([-1.0, 1.0], [1.0, 0.0])),
        lambda: Ball([0.0], 0.1, clip=(math.nan, 1.0)),
        lambda: Ball([5.0], 0.1, clip=(0.0, 1.0)).domains(network(1)),
        lambda: Ball([0.5, 5.0], 0.1, clip=(0.0, 1.0)).domains(network(2)),
        lambda: Ball([5.0], [0.1, 10.0], clip=(0.0, 1.0)).domains(network(1)),
        lambda: Ball([5.0], [10.0, 0.1], clip=(0.0, 1.0)).domains(network(1)),
        lambda: Box([1.0], [0.0]),
        lambda: Box([0.0, 1.0], [1.0, 0.0]),
        lambda: Box([0.0, math.inf], [1.0, math.inf]),
        lambda: Box([0.0, -math.inf], [1.0, -math.inf]),
        lambda: Box([math.nan], [1.0]),
        lambda: Box([0.0], [math.nan]),
        lambda: Box([math.inf], [math.inf]),
        lambda: Box([-math.inf], [-math.inf]),
    ],
)
def test_senseless_regions_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidRegionError) as caught:
        make()
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: Box([0.0, 0.0], [1.0]),
        lambda: Ball([0.0, 1.0], 0.1).domains(network(3)),
        lambda: Ball(0.5, 0.1).domains(network(1)),
        lambda: Box([0.0], [1.0]).domains(network(2)),
        lambda: Ball(["a"], 0.1),  # type: ignore[list-item]
        lambda: Ball(torch.tensor([1j]), 0.1),
        lambda: Ball(torch.tensor([True]), 0.1),
    ],
)
def test_points_of_the_wrong_kind_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ShapeError):
        make()


@pytest.mark.parametrize(
    "radius", (0.1, "0.1", Decimal("0.1"), np.float64(0.1), torch.tensor(0.1, dtype=torch.float64), np.array(0.1))
)
def test_a_decimal_radius_is_not_rounded_inward(radius: object) -> None:
    region = Ball([0.0], radius)  # type: ignore[arg-type]
    assert fmpq(1, 10) <= rational(region.radii[0]) <= fmpq(1, 10) + fmpq(1, 10**16)
    domains, lead = region.domains(network(1))
    assert len(domains) == 1 and lead == ()


@pytest.mark.parametrize("radius", (0.0, 0.5, "0.5", Decimal("0.125"), 3))
def test_a_radius_that_is_a_float_stays_what_it_is(radius: float) -> None:
    assert Ball([0.0], radius).radii == (float(radius),)


def test_a_clip_range_and_a_ball_may_touch_in_one_point() -> None:
    (domain,), _ = Ball([0.5, 1.0], 1.0, clip=(0.5, 0.5)).domains(network(2))
    assert domain.box.lower.tolist() == domain.box.upper.tolist() == [[0.5, 0.5]]
    (edge,), _ = Ball([0.5], 0.0, clip=(0.5, 1.0)).domains(network(1))
    assert edge.box.lower.item() == edge.box.upper.item() == 0.5


def test_radius_zero_beside_others_leaves_them_round() -> None:
    domains, _ = Ball([0.0, 0.0], Radii([0.0, 1.0]), 2).domains(network(2))
    both = domains[0:2]
    assert both.centre is not None and both.radius is not None and both.radius.tolist() == [0.0, 1.0]
    assert domains[0:1].centre is None  # a single point is a box


@pytest.mark.parametrize("text", ("0.3", "0.7", "1e-3", "0.30000000000000004", "1e-320", "12345678901234567890.1"))
@both_dtypes
def test_every_decimal_radius_is_covered(text: str, dtype: torch.dtype) -> None:
    (domain,), _ = Ball([0.0, 0.0], text, 2).domains(network(2, dtype))
    meant = fmpq(*Decimal(text).as_integer_ratio())
    assert rational(float(radius_of(domain))) >= meant
    assert rational(float(domain.box.upper[0, 0])) >= meant and rational(float(domain.box.lower[0, 0])) <= -meant


@both_dtypes
@pytest.mark.parametrize("p", (1, 2, math.inf))
def test_a_ball_contains_its_points_exactly(p: float, dtype: torch.dtype) -> None:
    """Also when float32 moves the centre: far ends along the axes, in rationals."""
    generator = Generator().manual_seed(1)
    for exponents in ((-2, 2), (-60, 10), (-30, -29)):
        centre = random_floats((3,), torch.float64, generator, exponents)
        for radius in (1.0, 0.1, 2.0**-30, 0.0):
            (domain,), _ = Ball(centre, radius, p).domains(network(3, dtype))
            exact, meant = rationals(centre), rational(radius) if radius != 0.1 else fmpq(1, 10)
            for k, sign in itertools.product(range(3), (-1, 1)):
                point = list(exact)
                point[k] += sign * meant
                assert inside(domain, point), (exponents, radius)


def radius_of(domain: Domain) -> Tensor:
    assert domain.radius is not None
    return domain.radius


def inside(domain: Domain, point: list[fmpq]) -> bool:
    low, high = rationals(domain.box.lower), rationals(domain.box.upper)
    in_box = all(a <= x <= b for a, x, b in zip(low, point, high, strict=True))
    if domain.centre is None:
        return in_box
    offsets = [abs(x - c) for x, c in zip(point, rationals(domain.centre), strict=True)]
    radius = rational(float(radius_of(domain)))
    if domain.p == 1:
        return in_box and sum(offsets, fmpq(0)) <= radius
    return in_box and sum((d * d for d in offsets), fmpq(0)) <= radius * radius


@both_dtypes
def test_boxes_are_rounded_outward_and_may_have_no_width(dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(2)
    ends = random_floats((2, 5), torch.float64, generator, (-20, 20)).sort(0).values
    ends[1, 0] = ends[0, 0]
    ends[0, 1], ends[1, 2] = -math.inf, math.inf
    (domain,), _ = Box(ends[0], ends[1]).domains(network(5, dtype))
    assert bool((domain.box.lower.double() <= ends[0]).all() & (domain.box.upper.double() >= ends[1]).all())
    width = (domain.box.upper.double() - domain.box.lower.double())[0, [0, 3, 4]]
    assert bool(
        (width <= (ends[1] - ends[0])[[0, 3, 4]] + 2 * ends.abs().amax(0)[[0, 3, 4]] * torch.finfo(dtype).eps).all()
    )
    assert not domain.bounded


@both_dtypes
def test_ranges_of_linear_functions_cover_the_extremes_and_little_more(dtype: torch.dtype) -> None:
    """c . x over a ball in rationals: centre ± radius times the dual norm."""
    generator = Generator().manual_seed(3)
    for p, trial in itertools.product((1, 2, math.inf), range(6)):
        exponents = ((-3, 3), (-30, 30))[trial % 2]
        centre = random_floats((4,), dtype, generator, exponents)
        radius = (0.5, 2.0**-20, 0.0)[trial % 3]
        coefficients = random_floats((3, 4), dtype, generator, exponents)
        (domain,), _ = Ball(centre.double(), radius, p).domains(network(4, dtype))
        found = domain.range_of(coefficients, ONE_SET)
        for row, low, high in zip(coefficients, found.lower.tolist(), found.upper.tolist(), strict=True):
            c = rationals(row)
            middle = sum((a * x for a, x in zip(c, rationals(centre), strict=True)), fmpq(0))
            squared = sum((a * a for a in c), fmpq(0))
            dual = {1: max(map(abs, c)), math.inf: sum(map(abs, c), fmpq(0))}.get(p)
            above, below = rational(high) - middle, middle - rational(low)
            for side in (above, below):
                if dual is None:
                    assert side >= 0 and side * side >= rational(radius) ** 2 * squared
                else:
                    assert side >= rational(radius) * dual
            loose = sum((abs(a * x) for a, x in zip(c, rationals(centre), strict=True)), fmpq(0)) + sum(
                map(abs, c), fmpq(0)
            )
            reach = dual if dual is not None else fmpq(*math.sqrt(float(squared)).as_integer_ratio())
            assert above <= rational(radius) * reach * (1 + fmpq(1, 10**5)) + loose * 40 * rational(
                torch.finfo(dtype).eps
            )


def test_a_clipped_l2_ball_takes_the_tighter_of_ball_and_box() -> None:
    (domain,), _ = Ball([0.5, 0.5], 0.4, 2, clip=(0.0, 0.6)).domains(network(2))
    found = domain.range_of(torch.tensor([[1.0, 0.0], [-1.0, -1.0]], dtype=torch.float64), ONE_SET)
    assert found.upper[0] == pytest.approx(0.6) and found.lower[0] == pytest.approx(0.1)
    assert found.upper[1] == pytest.approx(-1.0 + 0.4 * math.sqrt(2)) and found.lower[1] == pytest.approx(-1.2)


@given(seed=st.integers(0, 2**30), p=st.sampled_from((1, 2, math.inf)), single=st.booleans(), clip=st.booleans())
def test_samples_lie_in_the_region(seed: int, p: float, single: bool, clip: bool) -> None:
    generator = Generator().manual_seed(seed)
    inputs = integer(1, 6, generator)
    centre, radius = normal((inputs,), generator), 10.0 ** -integer(0, 6, generator)
    graph = network(inputs, torch.float32 if single else torch.float64)
    box = (centre - radius / 2, centre + 2 * radius) if clip else None
    (domain,), _ = Ball(centre, radius, p, clip=box).domains(graph)
    points = domain.sample(20, generator)[0]
    assert bool((points >= domain.box.lower).all() & (points <= domain.box.upper).all())
    if domain.centre is not None:
        distance = torch.linalg.vector_norm((points - domain.centre).double(), ord=p, dim=1)
        assert bool((distance <= radius_of(domain) * (1 + 1e-6) + 1e-7 * float(centre.abs().max()) * single).all())


def test_samples_of_an_l1_ball_reach_its_corners() -> None:
    (domain,), _ = Ball(torch.tensor([1.0, 2.0, 3.0]), 0.5, 1).domains(network(3))
    offsets = (domain.sample(200, Generator().manual_seed(0))[0] - domain.anchor).abs()
    assert bool((offsets.sum(1) <= 0.5).all())
    corners = offsets[((offsets > 0).sum(1) == 1) & (offsets.sum(1) > 0.4999)]
    assert len(corners) >= 20 and bool((corners > 0).any(0).all())


def test_batches_and_lists_of_radii_come_in_order() -> None:
    centres = torch.arange(4.0).reshape(2, 2, 1)
    domains, lead = Ball(centres, [0.0, 1.0, 2.0]).domains(network(1))
    assert lead == (3, 2, 2) and len(domains) == 12
    assert domains[:4].anchor.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
    every = domains[:]
    assert (every.box.upper - every.box.lower)[::4].flatten().tolist() == pytest.approx([0.0, 2.0, 4.0])
    for k, alone in enumerate(domains):
        some = domains[k : k + 2]
        assert len(alone) == 1 and torch.equal(alone.box.lower[0], every.box.lower[k])
        assert torch.equal(some.anchor, every.anchor[k : k + 2])
    assert Ball([0.0], [0.5]).domains(network(1))[1] == (1,)
    assert Box(centres, centres + 1).domains(network(1))[1] == (2, 2)
    domains, lead = WholeSpace().domains(network(2))
    assert lead == () and not domains[:1].bounded


def test_a_centre_that_float32_can_not_hold_is_not_forgotten() -> None:
    """Too large for the dtype: the set is unbounded then, never wrong."""
    for p in (1, 2, math.inf):
        (domain,), _ = Ball([1e300], 1.0, p).domains(network(1, torch.float32))
        assert float(domain.box.upper) == math.inf
        found = domain.range_of(torch.ones(1, 1), ONE_SET)
        assert float(found.upper) == math.inf and not math.isnan(float(found.lower))


def test_anchor_is_a_point_of_the_region() -> None:
    def check(domain: Domain) -> Tensor:
        assert bool(domain.box.contains(domain.anchor).all())
        return domain.anchor

    assert check(Ball([0.5], 1.0, 2, clip=(0.6, 1.0)).domains(network(1))[0][:1]) == pytest.approx(0.6)
    assert check(Box([-math.inf], [math.inf]).domains(network(1))[0][:1]) == 0
    assert check(Box([3.0], [math.inf]).domains(network(1))[0][:1]) == 3
    assert issubclass(InvalidRegionError, JacoboundError)


def test_ends_that_meet_are_allowed() -> None:
    """A range of one number, a box of one point, and a ball that touches what is valid."""
    (domain,), _ = Ball([0.5], 0.25, clip=(0.5, 0.5)).domains(network(1))
    assert (float(domain.box.lower), float(domain.box.upper)) == (0.5, 0.5)
    (domain,), _ = Ball([1.0], 0.0, clip=(1.0, 2.0)).domains(network(1))
    assert (float(domain.box.lower), float(domain.box.upper)) == (1.0, 1.0)
    (domain,), _ = Box([0.5], [0.5]).domains(network(1))
    assert (float(domain.box.lower), float(domain.box.upper)) == (0.5, 0.5)
    assert Ball([0.0], "0.5").radii == (0.5,)
    assert Ball([0.0], [0.1, "0.1", Decimal("0.1")]).radii == (0.1, 0.1, 0.1)
    assert Ball([0.0], "0.3").radii == (math.nextafter(0.3, 1),)  # the float 0.3 lies below the decimal number


def test_one_point_beside_the_valid_range_is_enough_to_refuse() -> None:
    """And is said at once, before any set is asked for."""
    for make in (
        lambda: Ball([[0.5], [5.0]], 0.1, clip=(0.0, 1.0)).domains(network(1)),
        lambda: Ball([[0.5, 0.5], [0.5, 5.0]], [9.0, 0.1], clip=(0.0, 1.0)).domains(network(2)),
        lambda: Box([[0.0], [1.0]], [[1.0], [0.0]]),
        lambda: Box([[0.0], [math.inf]], [[1.0], [math.inf]]),
        lambda: Box([[0.0], [-math.inf]], [[1.0], [-math.inf]]),
        lambda: Ball([[0.0], [math.nan]], 0.1),
    ):
        with pytest.raises(InvalidRegionError):
            make()


def test_points_among_balls_leave_them_balls() -> None:
    domains, _ = Ball([0.0, 0.0], Radii([0.0, 1.0]), 2).domains(network(2))
    every = domains[:]
    assert every.centre is not None
    assert radius_of(every).flatten().tolist() == [0.0, 1.0]
    assert domains[:1].centre is None
    assert domains[1:].centre is not None
