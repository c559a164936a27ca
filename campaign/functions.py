"""Ranges, slopes and lines of every registered activation against balls."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from flint import arb, ctx, fmpq
from torch import Generator, Tensor

from activation_cases import CASES, Case, marks
from campaign.families import WIDTHS, inside, numbers, pick
from campaign.runner import Tally
from exact import BITS, ball, rational
from jacobound.activations import Activation
from jacobound.arithmetic.intervals import Interval
from zoo import integer

COUNT = 24
FAMILIES = ("ordinary", "ordinary", "mixed", "everything", "special", "integers", "subnormal")


def accurate(value: arb) -> bool:
    """Whether a ball says enough to judge floats."""
    return bool(value.is_finite()) and (value.rel_accuracy_bits() > 100 or value == 0)


def certainly_above(value: arb, bound: float) -> bool:
    """Whether the value is larger than an upper bound, beyond doubt; NaN and -inf bounds always count."""
    return bound != math.inf and not (math.isfinite(bound) and not value > ball(bound))


def certainly_outside(value: arb, low: float, high: float) -> bool:
    """Whether a value lies outside an enclosure, beyond doubt; NaN and impossible infinities count as outside."""
    return certainly_above(value, high) or certainly_above(-value, -low)


def arguments(act: Activation, dtype: torch.dtype, generator: Generator) -> Interval:
    """Intervals of all families, of moderate sizes, and around the points where the function changes."""
    x, y = (numbers(pick(FAMILIES, generator), (COUNT,), dtype, generator) for _ in range(2))
    near = torch.tensor([*marks(act), 0.0], dtype=dtype)
    beside = near[torch.randint(len(near), (COUNT,), generator=generator)]
    moved = beside.nextafter(torch.where(torch.rand(COUNT, generator=generator) < 0.5, math.inf, -math.inf).to(dtype))
    share = torch.rand(COUNT, generator=generator)
    x = torch.where(share < 0.2, beside, torch.where(share < 0.4, moved, x))
    return WIDTHS[pick([*WIDTHS], generator)](x, y, generator)


def points(act: Activation, x: Interval, generator: Generator) -> list[fmpq]:
    """A point of every interval; where it can be, one where the function does something."""
    found, known = inside(x, generator), [rational(mark) for mark in marks(act)]
    for k, (low, high) in enumerate(zip(x.lower.tolist(), x.upper.tolist(), strict=True)):
        if integer(0, 3, generator):
            close = [m for m in [*known, fmpq(1, 3), fmpq(-7, 5), fmpq(9)] if _holds(low, high, m)]
            found[k] = close[integer(0, len(close) - 1, generator)] if close else found[k]
    return found


def _holds(low: float, high: float, point: fmpq) -> bool:
    return (low == -math.inf or rational(low) <= point) and (high == math.inf or point <= rational(high))


def at_a_break(act: Activation, point: fmpq) -> bool:
    """Whether the function may have no derivative here."""
    for turn in act.breaks:
        ends = turn if isinstance(turn, tuple) else (turn, turn)
        if isinstance(turn, Tensor) or rational(float(ends[0])) <= point <= rational(float(ends[1])):
            return True
    return False


def image(function: Callable[..., object], z: arb) -> arb:
    """A true function of `CASES` at a ball."""
    found = function(z)
    assert isinstance(found, arb)
    return found


def evaluated(function: Callable[..., object], point: fmpq) -> arb | None:
    """A function at an exact point, or None where the balls are too wide to say anything."""
    found = image(function, ball(point))
    return found if accurate(found) else None


def _check(tally: Tally, name: str, case: Case, dtype: torch.dtype, generator: Generator) -> None:
    act = case.activation.to("cpu", dtype)
    x = arguments(act, dtype, generator)
    at = points(act, x, generator)
    values, slopes = act.range(x), act.derivative_range(x)
    both = (act.lines(x), act.parallel_lines(x))
    wrong: dict[str, list[str]] = {"range": [], "slopes": [], "lines": []}
    for k, point in enumerate(at):
        value, where = evaluated(case.value, point), f"{name}, {dtype}, [{x.lower[k]!r}, {x.upper[k]!r}] at {point}"
        if value is not None:
            tally.cases["range of an activation"] += 1
            if certainly_outside(value, values.lower[k].item(), values.upper[k].item()):
                wrong["range"].append(where)
            for lines in both:
                ends = (end[k].item() for end in (lines.lower_slope, lines.lower_offset))
                upper_ends = (end[k].item() for end in (lines.upper_slope, lines.upper_offset))
                (below, low), (above, high) = ends, upper_ends
                tally.cases["lines of an activation"] += 2
                over, under = value - ball(above) * ball(point), ball(below) * ball(point) - value
                if certainly_above(over, high) or certainly_above(under, -low):
                    wrong["lines"].append(where)
        slope = None if at_a_break(act, point) else evaluated(case.derivative, point)
        if slope is not None:
            tally.cases["slopes of an activation"] += 1
            if certainly_outside(slope, slopes.lower[k].item(), slopes.upper[k].item()):
                wrong["slopes"].append(where)
    for kind, lines in wrong.items():
        tally.violations += [f"{kind} of an activation: {line}" for line in lines]


def activations(dtype: torch.dtype, generator: Generator) -> Tally:
    """A few activations on a few intervals each."""
    tally = Tally()
    with ctx.workprec(BITS):
        for _ in range(4):
            name = pick([*CASES], generator)
            _check(tally, name, CASES[name], dtype, generator)
    return tally


CHECKS = (activations,)
