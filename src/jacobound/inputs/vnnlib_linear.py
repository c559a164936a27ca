"""Exact linear expressions of inputs and outputs, and sets of points by bounds of them (`Cell`)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

from jacobound.errors import InvalidRegionError
from jacobound.inputs.vnnlib_syntax import Term, fail

LONGEST_FRACTION = 20_000  # bits

Linear = tuple[Fraction, dict[int, Fraction]]
"""A constant and the factor of each value: input k is k, output k is ~k (-1 - k)."""

Key = int | tuple[tuple[int, int], ...]
"""A value, or the values of a sum with their factors: whole, without common divisor, the first one positive."""

End = tuple[Fraction, int]
"""A bound, and what a strict one lies inside of it: 1 for a lower end, -1 for an upper one, else 0; so the tightest
of several is the largest lower and the smallest upper one, and a set is empty where a lower end exceeds the upper."""

Cell = dict[Key, tuple[End | None, End | None]]
"""The ends of some values and sums; None where an end is missing."""

EQUALITIES = ("=", "==")
COMPARISONS = ("<=", ">=", "<", ">", *EQUALITIES)


def cells_where(head: str, difference: Linear, closed: bool, line: int) -> list[Cell]:
    """The cell where a difference compares with zero; [{}] for everything, [] for nothing.

    Args:
        head: one of `COMPARISONS`.
        closed: strict inequalities count as their closure.
    """
    constant, factors = difference
    if head in (">", ">="):
        constant, factors = -constant, {k: -factor for k, factor in factors.items()}
    strict = head in ("<", ">") and not closed
    if not factors:
        holds = constant == 0 if head in EQUALITIES else constant < 0 or (constant == 0 and not strict)
        return [{}] if holds else []
    key, factor = key_of(factors, line)
    end = -constant / factor
    if head in EQUALITIES:
        return [{key: ((end, 0), (end, 0))}]
    return [{key: (None, (end, -1 if strict else 0)) if factor > 0 else ((end, 1 if strict else 0), None)}]


def key_of(factors: dict[int, Fraction], line: int) -> tuple[Key, Fraction]:
    """The sum that factors, none of them 0, are a multiple of, and the multiple."""
    ordered, whole = sorted(factors.items()), 1
    if len(ordered) == 1:
        return ordered[0][0], ordered[0][1]
    for _, factor in ordered:
        whole = int(short(Fraction(math.lcm(whole, factor.denominator)), line))
    common = math.gcd(*(int(factor * whole) for _, factor in ordered))
    scale = Fraction(common, whole) if ordered[0][1] > 0 else -Fraction(common, whole)
    return tuple((k, int(factor / scale)) for k, factor in ordered), scale


def product_of(parts: list[Linear], head: str, line: int) -> Linear:
    """Products with one factor that is not constant, and quotients by constants."""
    if head == "/" and any(factors or constant == 0 for constant, factors in parts[1:]):
        fail(line, "a division by an input, an output or zero is not understood")
    found = parts[0]
    for part in parts[1:]:
        if part[1] and found[1]:
            fail(line, "a product of two inputs or outputs is not understood")
        if head == "/":
            found = times(found, 1 / part[0], line)
        else:
            found = times(part, found[0], line) if part[1] else times(found, part[0], line)
    return found


def added(parts: list[Linear], line: int) -> Linear:
    """The sum of expressions."""
    constant, factors = Fraction(0), dict[int, Fraction]()
    for more, others in parts:
        constant = short(constant + more, line)
        for k, factor in others.items():
            factors[k] = short(factors.get(k, Fraction(0)) + factor, line)
    return constant, {k: factor for k, factor in factors.items() if factor}


def times(part: Linear, factor: Fraction, line: int) -> Linear:
    """A multiple of an expression."""
    scaled = {k: short(other * factor, line) for k, other in part[1].items() if factor}
    return short(part[0] * factor, line), scaled


def short(value: Fraction, line: int) -> Fraction:
    """Refuse numbers that grow without end."""
    if value.numerator.bit_length() + value.denominator.bit_length() > LONGEST_FRACTION:
        fail(line, "a number has too many digits")
    return value


def tighter(first: End | None, second: End | None, choose: Callable[[End, End], End]) -> End | None:
    """The tighter of two ends, either of which may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return choose(first, second)


def empty(cell: Cell) -> bool:
    """Whether some ends contradict each other; sums are not looked at together."""
    return any(low is not None and high is not None and low > high for low, high in cell.values())


def outward(value: Fraction, direction: float) -> float:
    """The nearest float that is not inside of `value`."""
    try:
        nearest = float(value)
    except OverflowError:
        raise InvalidRegionError("a bound of the property is too large for a float") from None
    inside = Fraction(nearest) > value if direction < 0 else Fraction(nearest) < value
    return math.nextafter(nearest, direction) if inside else nearest


def integers(text: str, line: int) -> tuple[int, ...]:
    """The numbers of ``[1,2,3]``."""
    match = re.fullmatch(r"\[((?:[0-9]{1,9}(?:,[0-9]{1,9})*)?)\]", text)
    if match is None:
        fail(line, f"'{text}' is no list of sizes or positions such as [1,28,28]")
    return tuple(int(part) for part in match[1].split(",") if part)


def position(k: int, shape: tuple[int, ...]) -> list[int]:
    """Where entry k of a tensor stands."""
    found: list[int] = []
    for length in reversed(shape):
        found.insert(0, k % length)
        k //= length
    return found


def told(term: Term) -> str:
    """A term in a few words."""
    return term if isinstance(term, str) else f"({term.head()} ...)"


def entry(name: str, shape: tuple[int, ...], indexed: bool, line: int) -> int:
    """Position of an entry such as ``X[0,1]`` in row-major order."""
    base = name.partition("[")[0]
    index = integers(name[len(base) :], line) if indexed else ()
    if not shape and index in ((), (0,)):
        return 0
    if len(index) != len(shape) or any(k >= n for k, n in zip(index, shape, strict=True)):
        fail(line, f"'{name}' is no entry of '{base}' of shape {list(shape)}")
    found = 0
    for k, length in zip(index, shape, strict=True):
        found = found * length + k
    return found
