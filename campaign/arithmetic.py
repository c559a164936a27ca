"""The rounding primitives and interval arithmetic against exact rationals and balls."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from flint import arb, fmpq
from torch import Generator, Tensor

from campaign.families import NUMBERS, WIDTHS, cancelling, inside, intervals, numbers, pick
from campaign.runner import Tally
from exact import at_least, ball, outside, rational, rationals
from jacobound.arithmetic.intervals import Interval, dot_slack, interval_dot
from jacobound.arithmetic.rounding import down, gamma, inflate, outward, tiny, underflow, up
from zoo import integer

COUNT = 200  # numbers in one call
OPERATIONS: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def _interval(dtype: torch.dtype, generator: Generator, count: int = COUNT) -> Interval:
    return intervals(pick([*NUMBERS], generator), pick([*WIDTHS], generator), (count,), dtype, generator)


def steps(dtype: torch.dtype, generator: Generator) -> Tally:
    """`up`, `down` and `outward` around one correctly rounded operation."""
    tally = Tally()
    for name, operation in OPERATIONS.items():
        a, b = (numbers(pick([*NUMBERS], generator), (COUNT,), dtype, generator) for _ in range(2))
        if integer(0, 3, generator) == 0:
            b = cancelling(Interval.exact(a), generator).lower
        if name == "/":
            a, b = a[b != 0], b[b != 0]
        computed = operation(a, b)
        exact = [operation(x, y) for x, y in zip(rationals(a), rationals(b), strict=True)]
        tally.add("outward steps", len(exact), outside(down(computed), exact, up(computed)))
        low, high = outward(computed, computed)
        tally.add("outward steps", len(exact), outside(low, exact, high))
    return tally


def binary(dtype: torch.dtype, generator: Generator) -> Tally:
    """Sums, differences, products and quotients of two intervals, and of an interval and a number."""
    tally = Tally()
    for name, operation in OPERATIONS.items():
        x, y = _interval(dtype, generator), _interval(dtype, generator)
        if integer(0, 3, generator) == 0:
            y = cancelling(x, generator)
        one, other = inside(x, generator), inside(y, generator)
        form = integer(0, 3, generator)
        given: Interval | Tensor | float = y
        if form == 1:  # a tensor, maybe of the wider dtype
            wide = torch.float64 if integer(0, 1, generator) else dtype
            given = numbers(pick(("ordinary", "mixed", "special"), generator), (COUNT,), wide, generator)
            other = rationals(given)
        elif form == 2:
            given = numbers(pick(("ordinary", "mixed", "special"), generator), (1,), torch.float64, generator).item()
            other = [rational(given)] * COUNT
        found = operation(x, given)
        kept = [k for k, second in enumerate(other) if name != "/" or second != 0]
        exact = [operation(one[k], other[k]) for k in kept]
        index = torch.tensor(kept, dtype=torch.int64)
        tally.add(f"interval {name}", len(kept), outside(found.lower[index], exact, found.upper[index]))
    return tally


def from_the_left(dtype: torch.dtype, generator: Generator) -> Tally:
    """A number on the left of an interval."""
    tally = Tally()
    for name, operation in OPERATIONS.items():
        x = _interval(dtype, generator)
        number = numbers(pick(("ordinary", "mixed", "special"), generator), (1,), torch.float64, generator).item()
        points = inside(x, generator)
        kept = [k for k, point in enumerate(points) if name != "/" or point != 0]
        found, index = operation(number, x), torch.tensor(kept, dtype=torch.int64)
        exact = [operation(rational(number), points[k]) for k in kept]
        tally.add(f"interval {name}", len(kept), outside(found.lower[index], exact, found.upper[index]))
    return tally


def unary(dtype: torch.dtype, generator: Generator) -> Tally:
    """Sign, absolute value, square, reciprocal, width, centre and radius, intersection and hull."""
    tally, x = Tally(), _interval(dtype, generator)
    points = inside(x, generator)
    functions = (("neg", operator.neg), ("abs", abs), ("square", lambda a: a * a))
    for name, function in functions:
        found = x.square() if name == "square" else function(x)
        tally.add("interval " + name, COUNT, outside(found.lower, [function(p) for p in points], found.upper))
    found, kept = x.reciprocal(), [k for k, p in enumerate(points) if p != 0]
    index = torch.tensor(kept, dtype=torch.int64)
    exact = [1 / points[k] for k in kept]
    tally.add("interval reciprocal", len(kept), outside(found.lower[index], exact, found.upper[index]))
    middle, radius = x.midpoint_and_radius()
    spread = [abs(p - rational(c)) for p, c in zip(points, middle.tolist(), strict=True)]
    tally.add("centre and radius", COUNT, outside(torch.zeros_like(radius), spread, radius))
    others = inside(x, generator)
    gaps = [abs(p - q) for p, q in zip(points, others, strict=True)]
    tally.add("interval width", COUNT, outside(torch.zeros_like(x.lower), gaps, x.width))
    sizes = [abs(p) for p in points]
    tally.add("interval magnitude", COUNT, outside(torch.zeros_like(x.lower), sizes, x.magnitude()))
    other = _interval(dtype, generator)
    both, hull = x.intersect(other), x.hull(other)
    common = [k for k, p in enumerate(points) if _holds(other, k, p)]
    index = torch.tensor(common, dtype=torch.int64)
    shared = [points[k] for k in common]
    tally.add("intersection", len(common), outside(both.lower[index], shared, both.upper[index]))
    tally.add("hull", COUNT, outside(hull.lower, points, hull.upper))
    return tally


def _holds(x: Interval, k: int, point: fmpq) -> bool:
    low, high = x.lower[k].item(), x.upper[k].item()
    return not (low > -torch.inf and rational(low) > point) and not (high < torch.inf and rational(high) < point)


# Function, lower end of the domain, and where its value leaves every float.
ELEMENTARY: dict[str, tuple[Callable[[arb], arb], float, float]] = {
    "exp": (arb.exp, -1e4, 1e4),
    "expm1": (arb.expm1, -80.0, 1e4),
    "log": (arb.log, 0.0, torch.inf),
    "log1p": (arb.log1p, -1.0, torch.inf),
    "tanh": (arb.tanh, -80.0, 80.0),
    "atan": (arb.atan, -torch.inf, torch.inf),
    "erf": (arb.erf, -12.0, 12.0),
    "sqrt": (arb.sqrt, 0.0, torch.inf),
}
NEAR_ONE = ("ordinary", "mixed", "tiny", "everything", "special", "subnormal")


def elementary(dtype: torch.dtype, generator: Generator) -> Tally:
    """Elementary functions on exact numbers and on intervals; points where a ball says nothing are left out."""
    tally = Tally()
    for name, (function, low, high) in ELEMENTARY.items():
        family = pick(NEAR_ONE, generator)
        width = pick([*WIDTHS], generator)
        x = intervals(family, width, (COUNT // 2,), dtype, generator)
        if low in (0.0, -1.0) and integer(0, 1, generator):
            x = abs(x) + low
        points, found = inside(x, generator), getattr(x, name)()
        balls = {k: function(ball(p)) for k, p in enumerate(points) if _within(p, low, high)}
        # The logarithm of a number that is 1 up to the oracle's own precision is a ball around 0.
        known = {k: value for k, value in balls.items() if value.rel_accuracy_bits() > 100}
        index = torch.tensor([*known], dtype=torch.int64)
        tally.add(name, len(known), outside(found.lower[index], [*known.values()], found.upper[index]))
    return tally


def _within(x: fmpq, low: float, high: float) -> bool:
    return (low == -torch.inf or x > rational(low)) and (high == torch.inf or x < rational(high))


def _dot(a: list[fmpq], b: list[fmpq]) -> fmpq:
    return sum((x * y for x, y in zip(a, b, strict=True)), fmpq(0))


def sums(dtype: torch.dtype, generator: Generator) -> Tally:
    """Sums and dot products in several orders against gamma and the underflow term, and their enclosures."""
    tally = Tally()
    terms = integer(1, 24, generator)
    a, b = (numbers(pick([*NUMBERS], generator), (40, terms), dtype, generator) for _ in range(2))
    if integer(0, 2, generator) == 0:  # pairs that cancel, and one that stays
        a = torch.cat((a, -a, a[:, :1]), 1)
        b = torch.cat((b, b, numbers("ordinary", (40, 1), dtype, generator)), 1)
        terms = 2 * terms + 1
    order = torch.randperm(terms, generator=generator)
    products = a * b
    in_one_product = (a.unsqueeze(1) @ b.unsqueeze(2)).flatten()
    computed = [in_one_product, (a[:, order] * b[:, order]).sum(-1), products.cumsum(-1)[:, -1]]
    slack = dot_slack(products.abs(), terms)
    sizes, exact = [], []
    for left, right in zip(a, b, strict=True):
        first, second = rationals(left), rationals(right)
        exact.append(_dot(first, second))
        sizes.append(_dot([abs(x) for x in first], [abs(x) for x in second]))
    allowed = [rational(gamma(terms, a)) * s + rational(underflow(terms, a)) for s in sizes]
    for found in computed:
        finite = torch.isfinite(found).nonzero().squeeze(1).tolist()
        errors = {k: abs(rational(found[k].item()) - exact[k]) for k in finite}
        wrong = [f"{terms} terms, off by {float(errors[k])}" for k in finite if errors[k] > allowed[k]]
        tally.add("gamma", len(finite), wrong)
        wrong = [f"{terms} terms" for k in finite if not at_least(slack[k].item(), errors[k])]
        tally.add("slack of a sum", len(finite), wrong)
    x = intervals(pick([*NUMBERS], generator), pick([*WIDTHS], generator), (40, terms), dtype, generator)
    found, points = interval_dot(a, x), inside(x, generator)
    truth = [_dot(rationals(row), points[k * terms : (k + 1) * terms]) for k, row in enumerate(a)]
    tally.add("interval dot product", 40, outside(found.lower, truth, found.upper))
    return tally


def inflated(dtype: torch.dtype, generator: Generator) -> Tally:
    """`inflate` on sums, products and quotients of non-negative numbers."""
    tally, terms = Tally(), integer(1, 20, generator)
    family = pick(("ordinary", "mixed", "tiny", "subnormal", "integers", "huge"), generator)
    x = numbers(family, (60, terms), dtype, generator).abs()
    small = numbers("ordinary", (60,), dtype, generator).abs().clamp(max=1.0)
    total = x[:, 0]
    for column in x[:, 1:].T:
        total = total + column
    exact = [sum(rationals(row), fmpq(0)) for row in x]
    tally.add("inflate", 60, outside(torch.zeros_like(total), exact, inflate(total, terms - 1)))
    scaled = [value * factor for value, factor in zip(exact, rationals(small), strict=True)]
    tally.add("inflate", 60, outside(torch.zeros_like(total), scaled, inflate(total * small, terms)))
    divisor = 1 + small
    shares = [value / (1 + factor) for value, factor in zip(exact, rationals(small), strict=True)]
    tally.add("inflate", 60, outside(torch.zeros_like(total), shares, inflate(total / divisor, terms + 1)))
    vanishing = numbers("root of tiny", (60, terms), dtype, generator)
    squares = vanishing.square().sum(-1)
    exact = [sum((e * e for e in rationals(row)), fmpq(0)) for row in vanishing]
    tally.add("inflate", 60, outside(torch.zeros_like(squares), exact, inflate(squares, 2 * terms)))
    enough = at_least(underflow(terms, x), terms * rational(tiny(dtype)))
    tally.add("underflow", 1, [] if enough else [f"{terms} terms"])
    return tally


CHECKS = (steps, binary, from_the_left, unary, elementary, sums, inflated)
