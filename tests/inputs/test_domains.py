"""Functions that are not defined everywhere, and periodic ones: what leaves the domain is refused by name."""

from __future__ import annotations

import math

import pytest
import torch
from flint import arb, ctx

import jacobound as jb
from exact import BITS, DTYPE_NAMES, DTYPES, ball, outside
from jacobound import Budget, Graph, InvalidRegionError
from jacobound.activations import activation
from jacobound.activations.kinds.periodic import reduced
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input
from jacobound.method import Query
from jacobound.operators.kinds import Dense

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
METHODS = (jb.IBP(), jb.FastLin(), jb.CROWN())
JACOBIAN_METHODS = (
    jb.FastLip(),
    jb.RecurJac(),
    jb.RecurJac(preactivation=jb.IBP(), direction="both"),
    jb.LinearSlopes(),
)

DOMAINS = {  # inside, outside
    "log": ([(1e-300, 1.0), (0.5, math.inf)], [(0.0, 1.0), (-1.0, 1.0), (-3.0, -2.0), (math.nan, 1.0)]),
    "log1p": ([(-0.999, 1.0), (0.0, math.inf)], [(-1.0, 1.0), (-3.0, -2.0)]),
    "sqrt": ([(0.0, 1.0), (0.0, 0.0), (1.0, math.inf)], [(-1e-300, 1.0), (-math.inf, math.inf)]),
    "rsqrt": ([(1e-300, 1.0)], [(0.0, 1.0), (-1.0, 1.0)]),
    "reciprocal": ([(1e-9, 1.0), (-math.inf, -1.0)], [(0.0, 1.0), (-1.0, 0.0), (-1.0, 1.0), (0.0, 0.0)]),
    "power:-2": ([(1e-9, 1.0), (-2.0, -1.0)], [(-1.0, 0.0), (-1.0, 1.0)]),
    "power:1.5": ([(0.0, 1.0)], [(-1.0, 1.0)]),
    "power:-1.5": ([(0.1, 1.0)], [(0.0, 1.0)]),
    "exp": ([(-math.inf, math.inf)], []),
}


def network(name: str, shift: float = 2.0) -> Graph:
    """W a(V x + shift) of two neurons."""
    x = Input((2,), "x")
    weight = Dense(torch.tensor([[1.0, 0.5], [0.25, -1.0]], dtype=torch.float64))
    z = Affine(((weight, x),), torch.full((2,), shift, dtype=torch.float64), "z")
    h = Elementwise(activation(name), z, "h")
    return Graph(Affine(((Dense(torch.ones(1, 2, dtype=torch.float64)), h),), None, "out"))


@both_dtypes
@pytest.mark.parametrize("name", DOMAINS)
def test_only_intervals_inside_the_domain_are_bounded(name: str, dtype: torch.dtype) -> None:
    act, (inside, beyond) = activation(name), DOMAINS[name]
    good, bad = (Interval(*torch.tensor(ends or [(1.0, 1.0)], dtype=dtype).unbind(1)) for ends in (inside, beyond))
    if dtype == torch.float32:
        good = good[(good.lower != 0) | torch.tensor([low == 0 for low, _ in inside])]  # 1e-300 is zero there
    act.require(good, "h")
    assert (act.range(good).lower > -math.inf).all() or name in ("log", "reciprocal")
    if not beyond:
        return
    bad = bad[(bad.lower != 0) | (bad.upper != 1) | torch.tensor([low == 0 for low, _ in beyond])]
    for k in range(len(bad.lower)):
        with pytest.raises(InvalidRegionError, match=f"node 'h': {act.name} is defined on"):
            act.require(bad[k : k + 1], "h")
    for found in (act.range(bad), act.derivative_range(bad)):
        assert (found.lower == -math.inf).all() and (found.upper == math.inf).all()
    for lines in (act.lines(bad), act.parallel_lines(bad)):
        assert (lines.lower_offset == -math.inf).all() and (lines.upper_offset == math.inf).all()
        assert (lines.lower_slope == 0).all() and (lines.upper_slope == 0).all()


@pytest.mark.parametrize("name", ["log", "sqrt", "reciprocal", "power:1.5"])
def test_methods_refuse_what_leaves_the_domain_and_say_where(name: str) -> None:
    graph, centre = network(name), torch.zeros(2, dtype=torch.float64)
    fitting, large = jb.Ball(centre, 0.5), jb.Ball(centre, 2.0)
    words = rf"node 'h': {name}.* at entry \(\d,\) is \[-.*smaller region"
    for method in METHODS:
        assert jb.bound_output(graph, fitting, method).status.certified
        with pytest.raises(InvalidRegionError, match=words):
            jb.bound_output(graph, large, method)
    for method in JACOBIAN_METHODS:
        assert jb.bound_jacobian(graph, fitting, method).status.certified
        with pytest.raises(InvalidRegionError, match=words):
            jb.bound_jacobian(graph, large, method)


def test_ranges_given_from_elsewhere_are_checked_too() -> None:
    graph = network("log")
    domain = jb.Ball(torch.zeros(2, dtype=torch.float64), 2.0).domains(graph)[0][:]
    ranges = dict(jb.IBP().ranges(network("exp"), domain, Budget()))
    ranges = dict(zip(graph.nodes, ranges.values(), strict=True))
    for method in JACOBIAN_METHODS:
        with pytest.raises(InvalidRegionError, match="node 'h'"), torch.no_grad():
            method.enclose(Query(graph, domain, Budget(), ranges=ranges))


@pytest.mark.parametrize("name", ["log", "sqrt", "rsqrt", "reciprocal", "power:-3", "power:2.5", "log1p", "exp"])
def test_bounds_hold_inside_the_domain_and_shrink_to_the_truth(name: str) -> None:
    graph, source = network(name), torch.Generator().manual_seed(0)
    centre = torch.tensor([0.2, -0.1], dtype=torch.float64)
    for radius in (0.7, 1e-4):
        points = centre + radius * (2 * torch.rand(200, 2, generator=source, dtype=torch.float64) - 1)
        points.requires_grad_()
        values = graph(points)
        (slopes,) = torch.autograd.grad(values.sum(), points)
        found = jb.bound_output(graph, jb.Ball(centre, radius, math.inf))
        jacobian = jb.bound_jacobian(graph, jb.Ball(centre, radius, math.inf))
        assert ((found.lower <= values + 1e-12) & (values - 1e-12 <= found.upper)).all()
        assert ((jacobian.lower[0] <= slopes + 1e-12) & (slopes - 1e-12 <= jacobian.upper[0])).all()
    assert float(found.upper - found.lower) <= 4 * radius * float(slopes.abs().sum(1).max())
    assert float((jacobian.upper - jacobian.lower).max()) <= 0.01


def test_a_root_at_zero_is_infinitely_steep_and_said_so() -> None:
    x = Input((2,), "x")
    graph = Graph(Elementwise(activation("sqrt"), Elementwise(activation("relu"), x, "r"), "h"))
    region = jb.Box([-1.0, 0.25], [4.0, 1.0])
    found = jb.bound_jacobian(graph, region, jb.FastLip())
    assert not found.status.certified and found.upper[0, 0] == math.inf and 1 <= found.upper[1, 1] <= 1.000001
    steep = activation("power:0.3").derivative_range(Interval(torch.zeros(1), torch.ones(1)))
    assert steep.upper == math.inf and 0.29 < steep.lower <= 0.3
    values = jb.bound_output(graph, region)
    assert values.status.certified
    assert torch.allclose(values.upper, torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert torch.allclose(values.lower, torch.tensor([0.0, 0.5], dtype=torch.float64), atol=1e-15)


@both_dtypes
def test_intervals_are_moved_by_whole_periods(dtype: torch.dtype) -> None:
    ctx.prec = BITS
    source = torch.Generator().manual_seed(3)
    sizes = 10.0 ** (torch.rand(300, generator=source) * 8 - 1)
    low = (torch.randn(300, generator=source) * sizes).to(dtype)
    periods = torch.tensor([float(2 * arb.pi() * k) for k in (1, 2, 7, 355, 1000, 3999)], dtype=dtype)
    x = Interval(low, low + (torch.rand(300, generator=source) * 7).to(dtype))
    x = Interval(*(torch.cat([end, periods, -periods]) for end in (x.lower, x.upper)))  # some that nearly cancel
    moved, shift = reduced(x)
    kept = moved.lower.isfinite() & moved.upper.isfinite()
    limit = 1e4 if dtype == torch.float32 else 1e7
    assert kept[(x.magnitude() < limit) & (x.width < 6)].all()
    assert ((moved.lower >= -9.4248) & (moved.upper <= 9.4248))[kept].all()
    for k in kept.nonzero().squeeze(1).tolist():
        turns = round(float((ball(float(shift.lower[k])) / (2 * arb.pi())).mid()))
        period = 2 * arb.pi() * turns
        truth = [ball(float(x.lower[k])) - period, ball(float(x.upper[k])) - period, period]
        ends = [(moved.lower[k], truth[0]), (-moved.upper[k], -truth[1])]
        assert all(not ball(float(end)) > exact for end, exact in ends)
        assert outside(shift.lower[k], [period], shift.upper[k]) == [] or turns == 0
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        assert float(moved.lower[k]) >= float(truth[0].mid()) - tolerance
        assert float(moved.upper[k]) <= float(truth[1].mid()) + tolerance
    assert (shift.lower[~kept] == 0).all() and (shift.upper[~kept] == 0).all()


@both_dtypes
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_waves_are_bounded_far_out(name: str, dtype: torch.dtype) -> None:
    ctx.prec = BITS
    act, reach = activation(name), 2e4 if dtype == torch.float32 else 1e7
    low = torch.linspace(-reach, reach, 200, dtype=dtype)
    x = Interval(low, low.nextafter(torch.tensor(math.inf, dtype=dtype)))
    truth = [getattr(ball(z), name)() for z in x.lower.tolist()]
    found, lines = act.range(x), act.lines(x)
    assert outside(found.lower, truth, found.upper) == []
    assert (found.width <= 3 * (x.upper - x.lower) + (1e-14 if dtype == torch.float64 else 1e-6)).all()
    for k, z in enumerate(x.lower.tolist()):
        for slope, offset, side in (
            (lines.lower_slope, lines.lower_offset, 1),
            (lines.upper_slope, lines.upper_offset, -1),
        ):
            height = ball(float(slope[k])) * ball(z) + ball(float(offset[k]))
            assert not side * height > side * truth[k]
            assert abs(float((height - truth[k]).mid())) <= (1e-7 if dtype == torch.float64 else 2e-2)
    whole = act.range(Interval(-low.abs() - 10, low.abs() + 10))
    assert (whole.lower == -1).all() and (whole.upper == 1).all()
