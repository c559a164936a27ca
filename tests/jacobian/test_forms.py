"""Affine forms number by number: every size and every error against exact numbers, from below and from above."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from flint import arb, fmpq
from torch import Generator, Tensor

from exact import at_least, at_most, ball, random_floats, rational, rationals
from jacobound.activations.lines.offsets import Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import tiny, unit
from jacobound.inputs.domains import Domain
from jacobound.jacobian.affine.forms import Forms, Symbols
from jacobound.operators.kinds import Dense, Identity, Scale
from zoo import normal

INF = math.inf
DOUBLE = torch.float64
U = fmpq(1, 2**53)
SETS, INPUTS, COUNT, ENTRIES = 2, 2, 5, 60


def floats(shape: Sequence[int], generator: Generator, exponents: tuple[int, int] = (-3, 3)) -> Tensor:
    return random_floats(shape, DOUBLE, generator, exponents)


def symbols_of(generator: Generator, p: float = INF, inputs: int = INPUTS) -> Symbols:
    half = floats((SETS, inputs), generator).abs()
    if p == INF:
        return Symbols(torch.zeros_like(half), half, None, 1.0)
    return Symbols(torch.zeros_like(half), half, floats((SETS,), generator).abs(), {1: INF, 2: 2.0}[int(p)])


def forms_of(generator: Generator, lead: tuple[int, ...] = (), count: int = COUNT, scale: float = 1.0) -> Forms:
    centre, linear = (floats((SETS, *lead, *more, ENTRIES), generator) * scale for more in ((), (count,)))
    return Forms(centre, linear, floats(centre.shape, generator).abs())


def close(found: Tensor, exact: Sequence[fmpq | arb], room: fmpq | float = 40 * U) -> None:
    """No number lies below the exact one, nor far above it."""
    for number, value in zip(found.flatten().tolist(), exact, strict=True):
        assert at_least(number, value), (number, value)
        assert at_most(number, value * (1 + (ball(room) if isinstance(value, arb) else room)) + fmpq(1, 10**290))


def columns(linear: Tensor) -> list[list[fmpq]]:
    """The coefficients of every entry, in the order of flattened centres."""
    return [rationals(column) for column in linear.movedim(-2, -1).flatten(0, -2)]


def sizes_of(symbols: Symbols, forms: Forms) -> list[list[fmpq]]:
    """What the symbols can be at most, for every entry."""
    further = [fmpq(1)] * (forms.symbols - symbols.half.shape[1])
    return [
        [*rationals(half), *further][: forms.symbols] for half in symbols.half for _ in range(forms.centre[0].numel())
    ]


def spreads(symbols: Symbols, forms: Forms) -> list[fmpq]:
    pairs = zip(columns(forms.linear), sizes_of(symbols, forms), strict=True)
    return [sum((abs(a) * s for a, s in zip(column, sizes, strict=True)), fmpq(0)) for column, sizes in pairs]


def sizes(symbols: Symbols, forms: Forms) -> list[fmpq]:
    return [abs(c) + s for c, s in zip(rationals(forms.centre), spreads(symbols, forms), strict=True)]


def reaches(symbols: Symbols, forms: Forms) -> list[arb]:
    found = []
    per_set = forms.centre[0].numel()
    for k, (spread, column) in enumerate(zip(spreads(symbols, forms), columns(forms.linear), strict=True)):
        inputs, further = column[: symbols.half.shape[1]], column[symbols.half.shape[1] :]
        found.append(ball(spread))
        if symbols.radius is not None and column:
            (radius,) = rationals(symbols.radius[k // per_set])
            norm = (
                ball(sum((x * x for x in inputs), fmpq(0))).sqrt() if symbols.dual == 2 else ball(max(map(abs, inputs)))
            )
            other = norm * ball(radius) + ball(sum(map(abs, further), fmpq(0)))
            found[-1] = min(found[-1], other)
    return found


def totals(symbols: Symbols, forms: Forms) -> list[fmpq]:
    """One for the centre, and the sizes of all symbols, for every entry."""
    return [1 + sum(row) for row in sizes_of(symbols, forms)]


def gamma(terms: int) -> fmpq:
    return terms * U / (1 - terms * U)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("p", [1, 2, INF])
@pytest.mark.parametrize("count", [0, INPUTS, COUNT, 40])
def test_spread_reach_size_and_range(lead: tuple[int, ...], p: float, count: int) -> None:
    generator = Generator().manual_seed(count)
    symbols, forms = symbols_of(generator, p), forms_of(generator, lead, count)
    if not count:
        nothing = torch.zeros_like(forms.centre)
        assert torch.equal(symbols.spread(forms.linear), nothing) and torch.equal(symbols.reach(forms.linear), nothing)
    room = (16 + 4 * count) * U
    close(symbols.spread(forms.linear), spreads(symbols, forms), room)
    close(symbols.size(forms), sizes(symbols, forms), room)
    close(symbols.reach(forms.linear), reaches(symbols, forms), 20 * U if p == 1 and count == INPUTS else 2 * room)
    found = symbols.range(forms)
    parts = zip(rationals(forms.centre), reaches(symbols, forms), rationals(forms.error), strict=True)
    for (centre, reach, error), low, high in zip(
        parts, found.lower.flatten().tolist(), found.upper.flatten().tolist(), strict=True
    ):
        wide = reach + ball(error)
        assert at_most(low, ball(centre) - wide) and at_least(high, ball(centre) + wide)
        allowed = wide + (wide + ball(abs(centre))) * ball(4 * room) + ball(1e-290)
        assert at_least(low, ball(centre) - allowed) and at_most(high, ball(centre) + allowed)


@pytest.mark.parametrize("alone", ["centre", "reach", "error"])
def test_ranges_are_rounded_outward(alone: str) -> None:
    """A ball of l1, whose norms are exact; two of the three numbers are far below the last digit of the other."""
    generator = Generator().manual_seed(3)
    symbols = symbols_of(generator, 1)
    small = {name: 1.0 if name == alone else 2.0**-60 for name in ("centre", "reach", "error")}
    plain = forms_of(generator, (), INPUTS)
    forms = Forms(plain.centre * small["centre"], plain.linear * small["reach"], plain.error * small["error"])
    found = symbols.range(forms)
    for low, high, centre, reach, error in zip(
        found.lower.flatten().tolist(),
        found.upper.flatten().tolist(),
        rationals(forms.centre),
        reaches(symbols, forms),
        rationals(forms.error),
        strict=True,
    ):
        assert at_most(low, ball(centre - error) - reach) and at_least(high, ball(centre + error) + reach)


@pytest.mark.parametrize("p", [1, 2, INF])
def test_offsets_are_measured_from_the_centre(p: float) -> None:
    generator = Generator().manual_seed(7)
    ends = floats((2, 3, 4), generator).sort(0).values
    box = Interval(ends[0], ends[1])
    middle = ends[0] + (ends[1] - ends[0]) * torch.rand(3, 4, generator=generator).double()
    radius = floats((3,), generator).abs()
    symbols = Symbols.of(Domain(box) if p == INF else Domain(box, middle, radius, p))
    assert (symbols.radius is None) == (p == INF)
    if p != INF:
        assert torch.equal(symbols.middle, middle) and symbols.radius is radius
        assert symbols.dual == (INF if p == 1 else 2)
    exact = [
        max(high - at, at - low)
        for low, at, high in zip(rationals(box.lower), rationals(symbols.middle), rationals(box.upper), strict=True)
    ]
    close(symbols.half, exact)
    start = symbols.input()
    assert torch.equal(start.centre, symbols.middle) and not start.error.any()
    assert torch.equal(start.linear, torch.eye(4).double().expand(3, 4, 4))
    wide = symbols.range(start)
    assert bool((wide.lower <= box.lower).all() | (p != INF)) and start.symbols == 4
    plain = Forms.constant(box)
    assert plain.linear.shape == (3, 0, 4) and plain.symbols == 0
    assert Forms.constant(box.map(lambda end: end[:, None].expand(3, 2, 4))).linear.shape == (3, 2, 0, 4)
    assert bool((plain.centre - plain.error <= box.lower).all() & (plain.centre + plain.error >= box.upper).all())


def lost_at_least(size: Sequence[fmpq], roundings: int, known: Sequence[fmpq]) -> list[fmpq]:
    return [error + s * gamma(roundings) for error, s in zip(known, size, strict=True)]


def between(found: Tensor, least: Sequence[fmpq], most: Sequence[fmpq]) -> None:
    for number, low, high in zip(found.flatten().tolist(), least, most, strict=True):
        assert low <= rational(number) <= high * (1 + 40 * U) + fmpq(1, 10**290), (float(low), number, float(high))


@pytest.mark.parametrize("roundings", [1, 2, 7])
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("known", [0.0, 1.0, 2.0**40])
def test_roundings_count_with_all_sizes(roundings: int, lead: tuple[int, ...], known: float) -> None:
    generator = Generator().manual_seed(roundings)
    symbols, forms = symbols_of(generator), forms_of(generator, lead)
    forms = Forms(forms.centre, forms.linear, forms.error * known)
    further = floats(forms.centre.shape, generator).abs()
    for more in (None, further):
        given = (symbols.rounded(forms, roundings) if more is None else symbols.rounded(forms, roundings, more)).error
        size = sizes(symbols, forms)
        if more is not None:
            size = [a + b for a, b in zip(size, rationals(more), strict=True)]
        errors = rationals(forms.error)
        most = lost_at_least(size, roundings + 1, errors)
        between(given, lost_at_least(size, roundings, errors), [x * fmpq(100001, 100000) for x in most])


@pytest.mark.parametrize("half", [1e-3, 1e3])
@pytest.mark.parametrize("count", [INPUTS, 40])
def test_what_vanishes_counts_with_the_sizes_of_all_symbols(half: float, count: int) -> None:
    ends = torch.full((SETS, INPUTS), half, dtype=DOUBLE)
    symbols = Symbols(torch.zeros_like(ends), ends, None, 1.0)
    nothing = torch.zeros(SETS, 3, 4, dtype=DOUBLE)
    forms = Forms(nothing, torch.zeros(SETS, 3, count, 4, dtype=DOUBLE), nothing)
    least = [total * rational(tiny(DOUBLE)) for total in totals(symbols, forms)]
    weight = torch.ones(1, 4, dtype=DOUBLE)
    for roundings in (1, 9):
        floor = [roundings * x for x in least]
        found = symbols.rounded(forms, roundings).error
        assert all(low <= rational(x) <= 80 * low for x, low in zip(found.flatten().tolist(), floor, strict=True))
    (image, dot) = symbols.image(Dense(weight), forms), symbols.dot(forms, torch.ones(SETS, 3, 4, dtype=DOUBLE))
    for one in (image.error, dot.error):  # sums of four products
        total = [4 * x for x in least[::4]]
        most = 200 << 20  # the floor of a product stays away from numbers below the normal range
        assert all(low <= rational(x) <= most * low for x, low in zip(one.flatten().tolist(), total, strict=True))
    assert not symbols.image(Identity((4,), (4,), ends[0, 0]), forms).error.any()


@pytest.mark.parametrize("known", [0.0, 1.0, 2.0**60])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_sums_and_dot_products(known: float, lead: tuple[int, ...]) -> None:
    generator = Generator().manual_seed(5)
    symbols = symbols_of(generator)
    a, b = (forms_of(generator, lead, count) for count in (COUNT, COUNT - 2))
    a, b = (Forms(x.centre, x.linear, x.error * known) for x in (a, b))
    for one, other in ((a, b), (b, a)):
        found = symbols.sum(one, other)
        padded = torch.nn.functional.pad(b.linear, (0, 0, 0, 2))
        assert torch.equal(found.linear, a.linear + padded) and torch.equal(found.centre, a.centre + b.centre)
        errors = [x + y for x, y in zip(rationals(a.error), rationals(b.error), strict=True)]
        size = sizes(symbols, found)
        most = [x * fmpq(100001, 100000) for x in lost_at_least(size, 2, errors)]
        between(found.error, lost_at_least(size, 1, errors), most)
    if not lead:
        return
    weights = floats(a.centre.shape, generator)
    found = symbols.dot(a, weights)
    assert torch.allclose(found.centre, (a.centre * weights).sum(-1, keepdim=True), rtol=1e-13)
    assert torch.allclose(found.linear, (a.linear * weights.unsqueeze(-2)).sum(-1, keepdim=True), rtol=1e-11)
    weight = [abs(w) for w in rationals(weights)]
    errors, whole = (
        [x * w for x, w in zip(part, weight, strict=True)] for part in (rationals(a.error), sizes(symbols, a))
    )
    rows = [[sum(part[k : k + ENTRIES], fmpq(0)) for k in range(0, len(part), ENTRIES)] for part in (errors, whole)]
    size = [x + y for x, y in zip(rows[1], sizes(symbols, found), strict=True)]
    least = lost_at_least(rows[1], ENTRIES, rows[0])
    wide = 1 + 400 * U
    most = [(e + s * gamma(ENTRIES + 1) * fmpq(100001, 100000)) * wide for e, s in zip(rows[0], size, strict=True)]
    between(found.error, least, most)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("count", [0, COUNT])
def test_linear_images_count_errors_and_roundings(lead: tuple[int, ...], count: int) -> None:
    generator = Generator().manual_seed(6)
    symbols, weight = symbols_of(generator), floats((4, ENTRIES), generator)
    for scale, known in ((1.0, 0.0), (2.0**-80, 1.0)):
        forms = forms_of(generator, lead, count, scale)
        forms = Forms(forms.centre, forms.linear, forms.error * known)
        found = symbols.image(Dense(weight), forms)
        assert found.linear.shape == (SETS, *lead, count, 4)
        assert torch.allclose(found.centre, forms.centre @ weight.T, rtol=1e-10, atol=1e-12 * scale)
        assert torch.allclose(found.linear, forms.linear @ weight.T, rtol=1e-10, atol=1e-12 * scale)
        rows = [rationals(row) for row in weight]
        size, errors = sizes(symbols, forms), rationals(forms.error)
        least, most = [], []
        for k in range(0, len(size), ENTRIES):
            for row in rows:
                s, e = (
                    sum((abs(w) * x for w, x in zip(row, part[k : k + ENTRIES], strict=True)), fmpq(0))
                    for part in (size, errors)
                )
                least.append(e + s * gamma(ENTRIES))
                most.append((e + s * gamma(ENTRIES + 2) * fmpq(100001, 100000)) * (1 + 400 * U))
        between(found.error, least, most)


def test_errors_in_front_of_small_forms_are_rounded_up_in_images_and_dot_products() -> None:
    """One product each; then 1 + u + u + ..., of which a float sum loses many of the small terms."""
    generator = Generator().manual_seed(12)
    symbols, forms = symbols_of(generator), forms_of(generator, (), COUNT, 2.0**-100)
    weight = floats((ENTRIES,), generator)
    found = symbols.image(Scale(weight), forms).error
    factors = [abs(w) for w in rationals(weight)] * SETS
    close(found, [w * e for w, e in zip(factors, rationals(forms.error), strict=True)])
    many = torch.full((SETS, 1, 4096), 0.9 * 2.0**-53, dtype=DOUBLE)
    many[..., 0] = 1.0
    small = Forms(0 * many, torch.zeros(SETS, 1, 0, 4096).double(), many)
    exact = sum(rationals(many[0]), fmpq(0))
    for sign in (1.0, -1.0):
        close(symbols.dot(small, sign * torch.ones_like(many)).error, [exact] * SETS, 100000 * U)


@pytest.mark.parametrize("known", [0.0, 1.0, 2.0**60])
def test_lines_scale_the_error_and_add_a_symbol(known: float) -> None:
    generator = Generator().manual_seed(8)
    symbols, forms = symbols_of(generator), forms_of(generator)
    forms = Forms(forms.centre, forms.linear, forms.error * known)
    slope, low, width = floats((3, SETS, ENTRIES), generator)
    width = width.abs() * (torch.arange(ENTRIES) % 3 != 0)  # every third line is exact
    high = low + width
    found, after = symbols.between_lines(forms, Lines(slope, low, slope, high), COUNT + 1)
    bent = [k for k in range(ENTRIES) if k % 3]
    assert after == COUNT + 1 + len(bent) == found.symbols
    own = found.linear[:, COUNT + 1 :]
    assert not own[:, :, ::3].any() and not found.linear[:, COUNT].any()
    for n, (place, k) in itertools.product(range(SETS), enumerate(bent)):
        assert float(own[n, place, k]) >= float(width[n, k]) / 2 * (1 - 1e-15) and (own[n, :, k] != 0).sum() == 1
    shift = found.centre - slope * forms.centre
    assert torch.allclose(shift, (low + high) / 2, atol=1e-12) and torch.allclose(
        own.sum(1), width / 2, rtol=1e-9, atol=1e-12
    )
    assert torch.allclose(found.linear[:, :COUNT], slope.unsqueeze(1) * forms.linear)
    without = Forms(found.centre, found.linear[:, :COUNT], found.error)
    size = [
        s + abs(k * c)
        for s, k, c in zip(sizes(symbols, without), rationals(slope), rationals(forms.centre), strict=True)
    ]
    errors = [abs(k) * e for k, e in zip(rationals(slope), rationals(forms.error), strict=True)]
    most = [x * fmpq(100001, 100000) for x in lost_at_least(size, 3, errors)]
    between(found.error, lost_at_least(size, 2, errors), most)


@pytest.mark.parametrize("known", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("scale", [1.0, 2.0**-60])
def test_products_count_errors_with_what_they_are_multiplied_with(known: tuple[float, float], scale: float) -> None:
    generator = Generator().manual_seed(9)
    symbols = symbols_of(generator)
    a, b = forms_of(generator, (1,), COUNT, scale), forms_of(generator, (3,), COUNT - 1, scale)
    a, b = (Forms(x.centre, x.linear, x.error * e) for x, e in zip((a, b), known, strict=True))
    found, after = symbols.product(a, b, COUNT)
    assert after == COUNT + ENTRIES
    shared = Forms(*(x.expand(SETS, 3, *x.shape[2:]) for x in (a.centre, a.linear, a.error)))
    middle = found.centre - shared.centre * b.centre
    linear = shared.centre.unsqueeze(-2) * torch.nn.functional.pad(b.linear, (0, 0, 0, 1))
    linear = linear + b.centre.unsqueeze(-2) * shared.linear
    assert torch.allclose(found.linear[..., :COUNT, :], linear, rtol=1e-9, atol=1e-14 * scale**2)
    least, most = [], []
    without = Forms(found.centre, found.linear[..., :COUNT, :], found.error)
    numbers = (sizes(symbols, shared), sizes(symbols, b), rationals(shared.error), rationals(b.error))
    for s, t, e, f, whole, between_them in zip(*numbers, sizes(symbols, without), rationals(middle), strict=True):
        plain = e * (t + f) + s * f
        least.append(plain + 2 * s * t * gamma(2))
        rounded = (whole + 2 * (s * t + abs(between_them)) * (1 + 100 * U)) * gamma(4) * fmpq(100001, 100000)
        most.append((plain + rounded) * (1 + 100 * U))
    between(found.error, least, most)


def test_forms_in_single_precision() -> None:
    third = torch.tensor([[1 / 3]], dtype=torch.float32)
    symbols = Symbols(torch.zeros(1, 1), torch.ones(1, 1), None, 1.0)
    form = Forms(third, third[None], torch.zeros(1, 1))
    found = symbols.sum(form, form).error
    assert found.dtype == torch.float32 and float(found) >= unit(torch.float32)


def test_unknown_parts_get_symbols_where_some_set_or_output_has_one(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    symbols = symbols_of(generator)
    forms = forms_of(generator, (), COUNT)
    low = normal((SETS, ENTRIES), generator)
    high = low.clone()
    high[0, 3] += 1.0
    high[1, 7] += 3.0
    slope = torch.ones_like(low)
    found, after = symbols.between_lines(forms, Lines(slope, low, slope, high), COUNT)
    assert after == COUNT + 2 and float(found.linear[0, COUNT, 3]) == pytest.approx(0.5)
    assert float(found.linear[1, COUNT + 1, 7]) == pytest.approx(1.5) and (found.linear[:, COUNT:] != 0).sum() == 2
    found, after = symbols.between_lines(forms, Lines(slope, low, slope, low), COUNT)
    assert after == COUNT and found.symbols == COUNT
