"""Linear enclosures of slopes: lines around derivatives, forms against exact numbers, and how tight the Jacobian is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import flint
import numpy as np
import pytest
import torch
from flint import arb, fmpq
from torch import Generator, Tensor

import jacobound as jb
from activation_cases import Case, certainly_outside, each_sample, every_case, every_dtype, intervals, moderate
from exact import rational, rationals
from jacobound import Budget, LinearSlopes
from jacobound.activations import activation
from jacobound.activations.lines.offsets import Lines
from jacobound.activations.lines.slope_lines import STEPS
from jacobound.arithmetic.intervals import Interval
from jacobound.inputs.domains import Domain
from jacobound.jacobian.affine import forms, linear_slopes
from jacobound.jacobian.affine.forms import Forms, Symbols
from jacobound.method import derivative_ranges
from jacobound.operators.kinds import Dense, Scale
from single import enclosure_of
from zoo import normal


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    with flint.ctx.workprec(300):
        yield


# --- lines around derivatives ------------------------------------------------------------------------------------


@every_dtype
@every_case
def test_lines_hold_every_slope(case: Case, dtype: torch.dtype) -> None:
    act = case.activation.to("cpu", dtype)
    x = intervals(act, dtype)
    lines, plain = act.slope_lines(x), act.derivative_range(x)
    assert torch.equal(lines.lower_slope, lines.upper_slope)
    assert all(end.dtype == dtype and end.shape == x.shape for end in vars(lines).values())
    flat = lines.lower_slope == 0
    assert torch.equal(lines.lower_offset[flat], plain.lower[flat])
    known = plain.lower == plain.upper  # also where the interval is one point: nothing is lost to rounding
    assert flat[known].all() and torch.equal(lines.upper_offset[known], plain.upper[known])
    numbers = [end.tolist() for end in vars(lines).values()]
    for k, z in each_sample(case, act, dtype):
        slope, lower, _, upper = (end[k] for end in numbers)
        if z not in case.kinks:
            rest = case.derivative(arb(z)) - arb(slope) * arb(z)
            assert not certainly_outside(rest, lower, upper), (z, slope, lower, upper)


@every_case
def test_lines_are_as_close_as_the_samples_allow(case: Case) -> None:
    """Against the best of many slopes by brute force, up to the rise of two steps."""
    act = case.activation.to("cpu", torch.float64)
    x = moderate(act)
    x = x[act.derivative_range(x).magnitude().isfinite() & (x.upper - x.lower < 10)]
    lines, plain = act.slope_lines(x), act.derivative_range(x)
    points = x.lower + (x.upper - x.lower) * torch.linspace(0, 1, 401, dtype=torch.float64)[:, None]
    shown = act.derivative_range(Interval.exact(points))
    steepest = (plain.upper - plain.lower) / (x.upper - x.lower)
    best = torch.full_like(x.lower, math.inf)
    for share in torch.linspace(-2, 2, 161, dtype=torch.float64).tolist():
        tilt = share * steepest * points
        best = torch.minimum(best, (shown.upper - tilt).amax(0) - (shown.lower - tilt).amin(0))
    width = lines.upper_offset - lines.lower_offset
    height = plain.upper - plain.lower
    jump = torch.as_tensor(case.kinks or (math.nan,), dtype=torch.float64)[:, None]
    smooth = ~((jump >= x.lower) & (jump <= x.upper)).any(0)
    assert ((width <= height) & ((width <= best + 0.05 * height + 1e-12) | ~smooth)).all()


def test_lines_around_the_slope_of_tanh_close_with_the_square_of_the_width() -> None:
    halves = torch.tensor([0.1, 0.05, 0.025], dtype=torch.float64)
    lines = activation("tanh").slope_lines(Interval(0.4 - halves, 0.4 + halves))
    rise = 2 * halves * lines.lower_slope.abs()
    gaps = lines.upper_offset - lines.lower_offset - 2 * rise / STEPS
    assert ((gaps[:-1] / gaps[1:] > 3.5) & (gaps[:-1] / gaps[1:] < 4.5)).all()


# --- forms against rational numbers ------------------------------------------------------------------------------

COUNT, ENTRIES = 5, 4


def random_symbols(generator: Generator, p: float = math.inf) -> Symbols:
    centre = normal((1, 2), generator)
    box = Interval(centre - torch.tensor([[0.25, 3.0]]), centre + torch.tensor([[0.25, 3.0]]))
    if p == math.inf:
        return Symbols.of(Domain(box))
    return Symbols.of(Domain(box, centre, torch.tensor([0.5], dtype=torch.float64), p))


def random_values(symbols: Symbols, generator: Generator) -> list[fmpq]:
    """Exact numbers that the symbols can take, two of the input and three further ones."""
    half = rationals(symbols.half)
    shares = [fmpq(int(k), 4) for k in torch.randint(-4, 5, (COUNT,), generator=generator)]
    offset = [h * s for h, s in zip(half, shares, strict=False)]
    if symbols.radius is not None:
        length = sum((x * x for x in offset), fmpq(0)) if symbols.dual == 2 else sum(map(abs, offset), fmpq(0)) ** 2
        most = rationals(symbols.radius)[0]
        while length > most**2:
            offset, length = [x / 2 for x in offset], length / 4
    return [*offset, *shares[2:]]


def random_forms(generator: Generator, count: int = COUNT, outputs: int | None = None, scale: float = 1.0) -> Forms:
    lead = (1,) if outputs is None else (1, outputs)
    centre, linear = (scale * normal(shape, generator) / 3 for shape in ((*lead, ENTRIES), (*lead, count, ENTRIES)))
    error = scale * 1e-3 * torch.rand(centre.shape, generator=generator, dtype=torch.float64)
    return Forms(centre, linear, error)


def at(found: Forms, values: Sequence[fmpq], names: int) -> list[fmpq]:
    """Exact values of a form's known part, with its first `names` symbols, over all leading axes."""
    entries = found.linear.shape[-1]
    rows = rationals(found.centre)
    linear = found.linear.flatten(0, -3)
    for i, number in enumerate(rows):
        lead, entry = divmod(i, entries)
        column = rationals(linear[lead, :names, entry])
        rows[i] = number + sum((a * b for a, b in zip(column, values, strict=False)), fmpq(0))
    return rows


def slack(found: Forms, names: int) -> list[fmpq]:
    """What symbols behind the first `names` and the error may add."""
    entries = found.linear.shape[-1]
    linear = found.linear.flatten(0, -3)[:, names:]
    columns = [linear[lead, :, k] for lead in range(len(linear)) for k in range(entries)]
    further = [sum(map(abs, rationals(column)), fmpq(0)) for column in columns]
    return [a + b for a, b in zip(further, rationals(found.error.expand_as(found.centre)), strict=True)]


def members(given: Forms, values: Sequence[fmpq], generator: Generator) -> list[fmpq]:
    """Exact numbers that a form allows at these values of its symbols, the ends of its error among them."""
    shares = torch.randint(-2, 3, (given.centre.numel(),), generator=generator).tolist()
    errors = rationals(given.error)
    return [x + fmpq(s, 2) * e for x, s, e in zip(at(given, values, COUNT), shares, errors, strict=True)]


def held(found: Forms, truth: Sequence[fmpq], values: Sequence[fmpq], tight: float | None = 1e-12) -> None:
    """The truth lies in the form at the same symbols, without more room than rounding needs."""
    room = slack(found, COUNT)
    for exact, known, by in zip(truth, at(found, values, COUNT), room, strict=True):
        assert abs(exact - known) <= by, (exact, known, by)
    if tight is not None:
        assert float(found.error.max()) < tight


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("scale", [1.0, 1e-160])
def test_linear_images_and_sums_hold(seed: int, scale: float) -> None:
    generator = Generator().manual_seed(seed)
    symbols = random_symbols(generator)
    values = random_values(symbols, generator)
    weight = scale * normal((3, ENTRIES), generator) / 7
    operators = [Dense(weight), Scale(weight[0], 1e-9 * weight[1].abs())]
    a, b = random_forms(generator, scale=scale), random_forms(generator, 3)
    numbers = members(a, values, generator)
    exact = [[rational(x) for x in row] for row in weight.tolist()]
    products = [sum((w * x for w, x in zip(row, numbers, strict=True)), fmpq(0)) for row in exact]
    held(symbols.image(operators[0], a), products, values, None)
    for sign in (-1, 1):  # any weight within its radius
        doubt = rationals(operators[1].radius)  # type: ignore[union-attr]
        moved = [(w + sign * r) * x for w, r, x in zip(exact[0], doubt, numbers, strict=True)]
        held(symbols.image(operators[1], a), moved, values, None)
    total = [x + y for x, y in zip(numbers, members(b, values, generator), strict=True)]
    held(symbols.sum(a, b), total, values, 3e-3)


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("seed", range(8))
def test_products_hold(seed: int, p: float) -> None:
    generator = Generator().manual_seed(seed)
    symbols = random_symbols(generator, p)
    a, b = random_forms(generator), random_forms(generator, COUNT - seed % 3, 2)
    shared = Forms(*(x.unsqueeze(1) for x in (a.centre, a.linear, a.error)))
    found, after = symbols.product(shared, b, COUNT)
    assert after == COUNT + ENTRIES == found.symbols
    exact, _ = symbols.product(
        Forms(shared.centre, shared.linear, 0 * shared.error), Forms(b.centre, b.linear, 0 * b.error), COUNT
    )
    assert float(exact.error.max()) < 1e-13
    for _ in range(20):
        values = random_values(symbols, generator)
        slopes = members(a, values, generator)
        truth = [s * y for s, y in zip(slopes * 2, members(b, values, generator), strict=True)]
        held(found, truth, values, None)
        plain = [s * y for s, y in zip(at(a, values, COUNT) * 2, at(b, values, COUNT), strict=True)]
        held(exact, plain, values)


@pytest.mark.parametrize("seed", range(4))
def test_products_and_sums_hold_all_that_errors_allow(seed: int) -> None:
    """Without symbols nothing else can make up for an error that is forgotten."""
    generator = Generator().manual_seed(seed)
    symbols = random_symbols(generator)
    a, b = (random_forms(generator, 0, 1) for _ in "ab")
    a, b = (Forms(x.centre, x.linear, 300 * x.error) for x in (a, b))
    weights = normal((1, 1, ENTRIES), generator)
    product, total = symbols.product(a, b, COUNT)[0], symbols.dot(a, weights)
    for signs in itertools.product((-1, 1), repeat=2):
        x, y = (
            [c + sign * e for c, e in zip(rationals(one.centre), rationals(one.error), strict=True)]
            for one, sign in zip((a, b), signs, strict=True)
        )
        held(product, [s * t for s, t in zip(x, y, strict=True)], [], None)
        pairs = zip(rationals(weights), rationals(a.centre), rationals(a.error), strict=True)
        worst = sum((w * c + signs[0] * abs(w) * e for w, c, e in pairs), fmpq(0))
        held(total, [worst], [], None)
    for count in range(2, COUNT + 1):
        one = random_forms(generator, count, 1)
        values = random_values(symbols, generator)
        numbers = members(one, values, generator)
        total = sum((w * x for w, x in zip(rationals(weights), numbers, strict=True)), fmpq(0))
        held(symbols.dot(one, weights), [total], values, 1.0)


def test_products_of_forms_with_little_in_common_cost_half() -> None:
    """Against the product of both reaches; a square costs that of its own."""
    generator = Generator().manual_seed(0)
    symbols = Symbols.of(Domain(Interval(*torch.tensor([[[-1.0] * 400], [[1.0] * 400]], dtype=torch.float64))))
    nothing = torch.zeros(1, 1, 3, dtype=torch.float64)
    one, other = (Forms(nothing, normal((1, 1, 400, 3), generator), nothing) for _ in "ab")
    reach = symbols.reach(one.linear) * symbols.reach(other.linear)
    unknown = symbols.product(one, other, 400)[0].linear[..., 400:, :].sum(-2)
    assert ((unknown / reach > 0.4) & (unknown / reach < 0.6)).all()
    square, _ = symbols.product(one, one, 400)
    most = symbols.reach(one.linear).square()
    assert torch.allclose(square.centre, most / 2) and torch.allclose(square.linear[..., 400:, :].sum(-2), most / 2)


@pytest.mark.parametrize("seed", range(8))
def test_numbers_between_lines_hold(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    symbols = random_symbols(generator)
    z = random_forms(generator)
    slope, low, width = normal((3, 1, ENTRIES), generator).unbind(0)
    lines = Lines(slope, low, slope, low + width.abs())
    found, after = symbols.between_lines(z, lines, COUNT + 2)
    assert after == COUNT + 2 + ENTRIES
    for _ in range(10):
        values = random_values(symbols, generator)
        arguments = members(z, values, generator)
        for offset in (lines.lower_offset, lines.upper_offset):
            truth = [k * x + t for k, x, t in zip(rationals(slope), arguments, rationals(offset), strict=True)]
            held(found, truth, values, 1.0)


def test_ranges_of_forms_are_dual_norms() -> None:
    linear = torch.tensor([[[3.0], [4.0], [2.0]]], dtype=torch.float64)
    form = Forms(torch.ones(1, 1).double(), linear, torch.zeros(1, 1).double())
    wide = Interval(torch.full((1, 2), -9.0).double(), torch.full((1, 2), 9.0).double())
    for p, expected in ((1, 4 * 0.5 + 2), (2, 5 * 0.5 + 2)):
        ball = Domain(wide, torch.zeros(1, 2).double(), torch.tensor([0.5]).double(), p)
        assert math.isclose(float(Symbols.of(ball).range(form).upper), 1 + expected)
    assert math.isclose(float(Symbols.of(Domain(wide)).range(form).upper), 1 + 9 * 7 + 2)


# --- the method ----------------------------------------------------------------------------------------------------


def network(widths: tuple[int, ...], name: str, seed: int) -> jb.Graph:
    draw = Generator().manual_seed(seed)
    weights = [normal((b, a), draw, 1.5 / math.sqrt(a)) for a, b in itertools.pairwise(widths)]
    return jb.from_layers(weights, [normal((b,), draw, 0.3) for b in widths[1:]], name)


CORNERS = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=5)), dtype=torch.float64)
VERTICES = torch.cat([torch.eye(5), -torch.eye(5)]).double()


@pytest.mark.parametrize("p", [1, math.inf])
@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "silu", "softplus", "sin"])
def test_the_excess_falls_with_the_square_of_the_radius(name: str, p: float) -> None:
    """Over the norm that is attained at a corner; slopes known as intervals lose in proportion to the radius."""
    graph = network((5, 12, 12, 1), name, 3)
    excess = []
    for radius in (0.02, 0.01, 0.005):
        jacobians = torch.stack([jacobian_at(graph, radius * x)[0] for x in (VERTICES if p == 1 else CORNERS)])
        attained = float(jacobians.abs().amax() if p == 1 else jacobians.abs().sum(1).amax())
        ball = jb.Ball(torch.zeros(5).double(), radius, p)
        found = float(jb.lipschitz(graph, ball, LinearSlopes(), norm=(p, 1), search=None).upper)
        plain = float(jb.lipschitz(graph, ball, jb.RecurJac(), norm=(p, 1), search=None).upper)
        assert attained <= found <= attained + 0.4 * (plain - attained)
        excess.append(found - attained)
    assert excess[2] < 0.45 * excess[1] < 0.45**2 * excess[0]


@pytest.mark.parametrize("name", ["relu", "leaky_relu:0.3", "identity"])
def test_kinks_do_no_harm(name: str) -> None:
    graph = network((3, 8, 8, 2), name, 1)
    point = jb.Ball(torch.ones(3).double(), 0.0)
    exact = enclosure_of(jb.RecurJac(), graph, point).entries
    found = enclosure_of(LinearSlopes(), graph, point).entries
    assert torch.allclose(found.lower, exact.lower, atol=1e-11) and torch.allclose(found.upper, exact.upper, atol=1e-11)
    wide = jb.Ball(torch.ones(3).double(), 0.5)
    intervals_alone = enclosure_of(jb.FastLip(), graph, wide).entries
    found = enclosure_of(LinearSlopes(), graph, wide).entries
    assert (found.lower >= intervals_alone.lower).all() and (found.upper <= intervals_alone.upper).all()


def test_no_symbol_has_two_meanings() -> None:
    """Inputs; one for the value, one for the slope of every neuron; one for every product."""
    graph = network((5, 12, 11, 2), "tanh", 3)
    (domain,), _ = jb.Ball(torch.zeros(5).double(), 0.1).domains(graph)
    ranges = jb.CROWN().ranges(graph, domain, Budget())
    sweeps = linear_slopes.Sweeps(graph, Symbols.of(domain), derivative_ranges(graph, ranges), ranges, Budget())
    jacobian = sweeps.jacobian()
    assert jacobian is not None and jacobian.symbols == 5 + 3 * (12 + 11)
    assert (jacobian.linear[..., 5:, :] != 0).any(-1).any(1).sum() >= 5 + 2 * (12 + 11) - 11


def test_directions_are_narrower_than_their_entries() -> None:
    graph = network((6, 10, 10, 2), "tanh", 2)
    enclosure = enclosure_of(LinearSlopes(), graph, jb.Ball(torch.zeros(6).double(), 0.05))
    draw = Generator().manual_seed(4)
    directions = torch.randn(2, 6, generator=draw, dtype=torch.float64)
    points = (torch.rand(200, 6, generator=draw, dtype=torch.float64) - 0.5) * 0.1
    sums = torch.stack([(jacobian_at(graph, x) * directions).sum(1) for x in points])
    found = enclosure.along(directions)
    assert ((found.lower <= sums) & (sums <= found.upper)).all()
    assert (found.upper - found.lower < (directions.abs() * (enclosure.entries.width)).sum(1)).all()


def jacobian_at(graph: jb.Graph, x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(lambda point: graph(point), x)  # type: ignore[return-value]


def test_without_memory_or_time_it_is_fast_lip() -> None:
    graph, ball = network((4, 9, 9, 2), "tanh", 5), jb.Ball(torch.zeros(4).double(), 0.1)
    plain = jb.bound_jacobian(graph, ball, jb.FastLip())
    for budget, status in (
        (Budget(memory=1), jb.Status.MEMORY_LIMIT),
        (Budget(seconds=0.0), jb.Status.TIME_LIMIT),
    ):
        found = jb.bound_jacobian(graph, ball, LinearSlopes(jb.CROWN()), budget=budget)
        assert found.status is status
        if status is jb.Status.MEMORY_LIMIT:
            assert torch.allclose(found.upper, plain.upper, rtol=1e-12)


@pytest.mark.slow
def test_the_default_asks_it_for_smooth_networks_only() -> None:
    ball = jb.Ball(torch.zeros(4).double(), 0.01)
    for name, asked in (("tanh", True), ("gelu", True), ("relu", False)):
        found = jb.lipschitz(network((4, 9, 9, 1), name, 6), ball, norm=(math.inf, math.inf))
        assert ("LinearSlopes" in found.details) == asked


def test_the_bound_of_a_product_needs_its_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors scale with what was computed: without them a form of 1/3 times 1/3 would miss its exact product."""
    symbols = random_symbols(Generator().manual_seed(0))
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    third = Forms(one / 3, torch.zeros(1, 1, 0, 1).to(one), 0 * one)
    exact = rational(1 / 3) ** 2
    found, _ = symbols.product(third, third, 0)
    room = rationals(found.error)[0]
    assert 0 < abs(exact - rationals(found.centre)[0]) <= room
    monkeypatch.setattr(forms, "gamma", lambda *_: 0.0)
    found, _ = symbols.product(third, third, 0)
    assert abs(exact - rationals(found.centre)[0]) > rationals(found.error)[0]


@pytest.mark.alike(1)
@pytest.mark.slow
@pytest.mark.parametrize(("radius", "known", "other"), [(0.001, 88.24, 88.48), (0.003, 116.0, 133.93)])
def test_the_trained_tanh_network_is_bounded_tighter_than_by_planes(
    shared_data: Path, radius: float, known: float, other: float
) -> None:
    """`other` is auto_LiRPA's value without optimisation (reference data); slopes as intervals give 101.3 and 196.8."""
    graph = jb.from_onnx(shared_data / "nets" / "mnist_5layer_tanh_50.onnx")
    with np.load(shared_data / "reference" / "peers" / "points.npz") as points:
        centre, label = points["mnist_5layer_tanh_50__x0_0"], int(points["mnist_5layer_tanh_50__c_0"])
    rows = torch.eye(10, dtype=torch.float64)[[label]]
    ball = jb.Ball(torch.as_tensor(centre).reshape(graph.in_shape), radius)
    norm = (math.inf, math.inf)
    assert float(jb.lipschitz(graph, ball, LinearSlopes(), rows=rows, norm=norm, search=None).upper) <= known < other
    found = jb.lipschitz(graph, ball, rows=rows, norm=norm, search=None)
    assert found.method == "LinearSlopes" and float(found.upper) <= known
