"""VNN-LIB properties, versions 1 and 2: the boxes of inputs that a file speaks of.

Bounds are exact rational numbers until they are rounded outward to floats. Whatever speaks of outputs or hidden values
is left out, which can only make the set of inputs larger. Source: the VNN-LIB standard (https://www.vnnlib.org).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import prod

from jacobound.errors import InvalidRegionError
from jacobound.inputs.files import read_file, unpacked
from jacobound.inputs.vnnlib_syntax import Form, Term, fail, number, read_forms

LARGEST_TEXT = 1 << 26  # bytes
MOST_INPUTS = 1 << 22
MOST_BOXES = 4096
MOST_WORK = 1 << 24  # bounds that are compared while disjunctions are multiplied out
LONGEST_FRACTION = 20_000  # bits

Linear = tuple[Fraction, dict[int, Fraction]]
"""A constant and the factor of each input."""

Cell = dict[int, tuple[Fraction | None, Fraction | None]]
"""The ends of some inputs; None where an end is missing."""


@dataclass(frozen=True)
class InputSet:
    """The inputs that a property speaks of.

    Args:
        shape: of the network's input as the file declares it; one axis in version 1.
        boxes: lower and upper ends, flattened in row-major order, each rounded outward; without repetition.
    """

    shape: tuple[int, ...]
    boxes: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]


def read_vnnlib(source: str | bytes | os.PathLike[str]) -> InputSet:
    """The boxes of inputs of a VNN-LIB property.

    Args:
        source: a path, or the text itself (it starts with a bracket or a comment, or has several lines); gzip is read.

    Raises:
        InvalidRegionError: when it is no such property, with the line; when an input has no bound; when its inputs are
            no boxes; when no input satisfies it.
    """
    if isinstance(source, str) and (source.lstrip().startswith(("(", ";")) or "\n" in source):
        data = source.encode(errors="replace")
    elif isinstance(source, bytes):
        data = unpacked(source, LARGEST_TEXT, InvalidRegionError, "these bytes")
    else:
        data = read_file(source, LARGEST_TEXT, InvalidRegionError)
    if len(data) > LARGEST_TEXT:
        raise InvalidRegionError(f"the property has {len(data)} bytes; at most {LARGEST_TEXT} are read")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRegionError(f"the property is no text ({error}); give a .vnnlib or .vnnlib.gz file") from error
    reader = _Reader()
    for form in read_forms(text):
        reader.command(form)
    return reader.finished()


@dataclass
class _Reader:
    """What has been read so far."""

    flat: set[int] = field(default_factory=set)  # inputs of version 1
    others: set[str] = field(default_factory=set)  # outputs and hidden values
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)  # inputs of version 2
    networks: int = 0
    common: Cell = field(default_factory=dict)
    choices: list[list[Cell]] = field(default_factory=list)
    work: int = 0

    def command(self, form: Form) -> None:
        head, arguments = form.head(), form.items[1:]
        if head == "assert" and len(arguments) == 1:
            self._require(self._cells(arguments[0], form.line), form.line)
        elif (head, len(arguments)) in (("declare-const", 2), ("declare-fun", 3)):
            self._declare_number(arguments[0], form.line)
        elif head == "declare-network" and len(arguments) >= 2:
            self.networks += 1
            if self.networks > 1:
                fail(form.line, "a second network is declared; a region belongs to one network")
            for part in arguments[1:]:
                if not isinstance(part, Form):
                    fail(form.line, f"'{part}' is no declaration")
                self._declare_tensor(part)
        elif head in ("declare-input", "declare-output", "declare-hidden"):
            self._declare_tensor(form)
        elif head not in ("vnnlib-version", "set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"):
            fail(form.line, f"({head} ...) is not understood")

    def finished(self) -> InputSet:
        """Every combination of the disjunctions, cut with what holds for all."""
        if len(self.tensors) > 1 or (self.tensors and self.flat):
            raise InvalidRegionError(f"the property has {len(self.tensors)} inputs; networks with one are understood")
        shape = next(iter(self.tensors.values())) if self.tensors else (len(self.flat),)
        if not self.tensors and self.flat != set(range(len(self.flat))):
            missing = next(k for k in range(len(self.flat)) if k not in self.flat)
            raise InvalidRegionError(f"the property declares {len(self.flat)} inputs, but not X_{missing}")
        if prod(shape) == 0:
            raise InvalidRegionError("the property declares no inputs (X_0, X_1, ..., or a tensor by declare-input)")
        cells = self._product([[self.common], *self.choices], 0)
        if len(cells) * prod(shape) > MOST_WORK:
            raise InvalidRegionError(f"the property has {len(cells)} boxes of {prod(shape)} inputs; that is too much")
        boxes = dict.fromkeys(self._box(cell, shape) for cell in cells if not _empty(cell))
        if not boxes:
            raise InvalidRegionError("no input satisfies the property: its bounds contradict each other")
        return InputSet(shape, tuple(boxes))

    def _box(self, cell: Cell, shape: tuple[int, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        ends = [cell.get(k, (None, None)) for k in range(prod(shape))]
        for k, (low, high) in enumerate(ends):
            if low is None or high is None:
                side = "lower" if low is None else "upper"
                name = f"input {_position(k, shape)} of '{next(iter(self.tensors))}'" if self.tensors else f"X_{k}"
                raise InvalidRegionError(f"{name} has no {side} bound in the property; add an assertion with one")
        lower = tuple(_outward(low, -math.inf) for low, _ in ends if low is not None)
        return lower, tuple(_outward(high, math.inf) for _, high in ends if high is not None)

    def _declare_number(self, name: Term, line: int) -> None:
        match = re.fullmatch(r"([XY])_([0-9]{1,9})", name) if isinstance(name, str) else None
        if match is None:
            fail(line, f"inputs are called X_0, X_1, ... and outputs Y_0, Y_1, ..., not '{_told(name)}'")
        if match[1] == "Y":
            self.others.add(match[0])
        elif int(match[2]) >= MOST_INPUTS:
            fail(line, f"input {match[0]}: at most {MOST_INPUTS} inputs are read")
        else:
            self.flat.add(int(match[2]))

    def _declare_tensor(self, form: Form) -> None:
        head, arguments = form.head(), form.items[1:]
        if head in ("equal-to", "isomorphic-to"):
            fail(form.line, f"({head} ...) speaks of two networks; a region belongs to one")
        if head not in ("declare-input", "declare-output", "declare-hidden") or len(arguments) < 3:
            fail(form.line, f"({head} ...) is no declaration of an input, an output or a hidden value")
        name, kind, size = arguments[:3]
        if not (isinstance(name, str) and isinstance(kind, str) and isinstance(size, str)):
            fail(form.line, f"({head} NAME TYPE [SHAPE]) is understood")
        shape = _integers(size, form.line)
        if name in self.tensors or name in self.others:
            fail(form.line, f"'{name}' is declared twice")
        if head != "declare-input":
            self.others.add(name)
        elif prod(shape) > MOST_INPUTS or len(shape) > 16:
            fail(form.line, f"input '{name}' has shape {list(shape)}; at most {MOST_INPUTS} entries are read")
        else:
            self.tensors[name] = shape

    def _require(self, cells: list[Cell], line: int) -> None:
        if len(cells) == 1:
            self.common = self._both(self.common, cells[0], line)
        else:
            self.choices.append(cells)

    def _cells(self, formula: Term, line: int) -> list[Cell]:
        """The inputs for which a formula can hold: a union of boxes, [] for none."""
        if isinstance(formula, str):
            if formula not in ("true", "false"):
                fail(line, f"'{formula}' is no condition")
            return [{}] if formula == "true" else []
        head, arguments, line = formula.head(), formula.items[1:], formula.line
        if head in COMPARISONS and len(arguments) >= 2:
            sides = [self._linear(argument, line) for argument in arguments]
            return self._product([self._compared(head, a, b, line) for a, b in pairwise(sides)], line)
        if head == "and":
            return self._product([self._cells(argument, line) for argument in arguments], line)
        if head == "or":
            found = [cell for argument in arguments for cell in self._cells(argument, line)]
            if len(found) > MOST_BOXES:
                fail(line, f"more than {MOST_BOXES} boxes")
            return [{}] if {} in found else found
        if self._speaks_of_inputs(formula):
            fail(line, f"({head} ...) with inputs is not understood; write the box with <=, >=, and, or")
        return [{}]

    def _compared(self, head: str, left: Linear | None, right: Linear | None, line: int) -> list[Cell]:
        """The box of ``left head right``; strict inequalities count as their closure, outputs as anything."""
        if left is None or right is None:
            return [{}]
        constant, factors = _sum([left, _times(right, Fraction(-1), line)], line)
        if head in (">", ">="):
            constant, factors = -constant, {k: -factor for k, factor in factors.items()}
        if len(factors) > 1:
            fail(line, "a condition relates several inputs, so that the set of inputs is no box")
        if not factors:
            return [{}] if (constant == 0 if head in EQUALITIES else constant <= 0) else []
        (k, factor), end = next(iter(factors.items())), -constant / next(iter(factors.values()))
        if head in EQUALITIES:
            return [{k: (end, end)}]
        return [{k: (None, end) if factor > 0 else (end, None)}]

    def _product(self, unions: list[list[Cell]], line: int) -> list[Cell]:
        """The intersection of unions of boxes."""
        alone: Cell = {}
        for union in unions:
            if len(union) == 1:
                alone = self._both(alone, union[0], line)
        found = [alone]
        for union in sorted((union for union in unions if len(union) != 1), key=len):
            if len(found) * len(union) > MOST_BOXES:
                fail(line, f"more than {MOST_BOXES} boxes")
            found = [self._both(dict(cell), other, line) for cell in found for other in union]
            found = [cell for cell in found if not _empty(cell)]
        return found

    def _both(self, cell: Cell, other: Cell, line: int) -> Cell:
        """The intersection of two boxes, written into the first."""
        self.work += len(other) + 1
        if self.work > MOST_WORK:
            fail(line, "the property has too many combinations of bounds")
        for k, (low, high) in other.items():
            lower, upper = cell.get(k, (None, None))
            cell[k] = _tighter(lower, low, max), _tighter(upper, high, min)
        return cell

    def _linear(self, term: Term, line: int) -> Linear | None:
        """An expression as a linear one of inputs; None when it speaks of outputs or hidden values."""
        if isinstance(term, str):
            value = number(term, line)
            if value is not None:
                return value, {}
            k = self._input(term, line)
            return None if k is None else (Fraction(0), {k: Fraction(1)})
        head, line = term.head(), term.line
        parts = [self._linear(argument, line) for argument in term.items[1:]]
        if head not in ("+", "-", "*", "/") or not parts:
            if self._speaks_of_inputs(term):
                fail(line, f"({head} ...) with inputs is not understood")
            return None
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if head == "+":
            return _sum(known, line)
        if head == "-":
            negated = [_times(part, Fraction(-1), line) for part in known]
            return negated[0] if len(known) == 1 else _sum([known[0], *negated[1:]], line)
        return _product_of(known, head, line)

    def _input(self, name: str, line: int) -> int | None:
        """Position of an input among all; None for an output or a hidden value."""
        base, bracket, _ = name.partition("[")
        if name in self.others or base in self.others:
            return None
        match = re.fullmatch(r"X_([0-9]{1,9})", name)
        if match is not None and int(match[1]) in self.flat:
            return int(match[1])
        if base not in self.tensors:
            fail(line, f"'{name}' is neither a number nor declared")
        shape = self.tensors[base]
        index = _integers(name[len(base) :], line) if bracket else ()
        if not shape and index in ((), (0,)):
            return 0
        if len(index) != len(shape) or any(k >= n for k, n in zip(index, shape, strict=True)):
            fail(line, f"'{name}' is no entry of '{base}' of shape {list(shape)}")
        position = 0
        for k, length in zip(index, shape, strict=True):
            position = position * length + k
        return position

    def _speaks_of_inputs(self, term: Term) -> bool:
        if isinstance(term, Form):
            return any(self._speaks_of_inputs(item) for item in term.items)
        return term.partition("[")[0] in self.tensors or re.fullmatch(r"X_[0-9]+", term) is not None


EQUALITIES = ("=", "==")
COMPARISONS = ("<=", ">=", "<", ">", *EQUALITIES)


def _product_of(parts: list[Linear], head: str, line: int) -> Linear:
    """Products with one factor that is not constant, and quotients by constants."""
    if head == "/" and any(factors or constant == 0 for constant, factors in parts[1:]):
        fail(line, "a division by an input or by zero is not understood")
    found = parts[0]
    for part in parts[1:]:
        if part[1] and found[1]:
            fail(line, "a product of two inputs is not understood")
        if head == "/":
            found = _times(found, 1 / part[0], line)
        else:
            found = _times(part, found[0], line) if part[1] else _times(found, part[0], line)
    return found


def _sum(parts: list[Linear], line: int) -> Linear:
    constant, factors = Fraction(0), dict[int, Fraction]()
    for more, others in parts:
        constant = _short(constant + more, line)
        for k, factor in others.items():
            factors[k] = _short(factors.get(k, Fraction(0)) + factor, line)
    return constant, {k: factor for k, factor in factors.items() if factor}


def _times(part: Linear, factor: Fraction, line: int) -> Linear:
    scaled = {k: _short(other * factor, line) for k, other in part[1].items() if factor}
    return _short(part[0] * factor, line), scaled


def _short(value: Fraction, line: int) -> Fraction:
    """Refuse numbers that grow without end."""
    if value.numerator.bit_length() + value.denominator.bit_length() > LONGEST_FRACTION:
        fail(line, "a number has too many digits")
    return value


def _tighter(
    first: Fraction | None, second: Fraction | None, choose: Callable[[Fraction, Fraction], Fraction]
) -> Fraction | None:
    if first is None or second is None:
        return second if first is None else first
    return choose(first, second)


def _empty(cell: Cell) -> bool:
    return any(low is not None and high is not None and low > high for low, high in cell.values())


def _outward(value: Fraction, direction: float) -> float:
    """The nearest float that is not inside of `value`."""
    try:
        nearest = float(value)
    except OverflowError:
        raise InvalidRegionError("a bound of the property is too large for a float") from None
    inside = Fraction(nearest) > value if direction < 0 else Fraction(nearest) < value
    return math.nextafter(nearest, direction) if inside else nearest


def _integers(text: str, line: int) -> tuple[int, ...]:
    """The numbers of ``[1,2,3]``."""
    match = re.fullmatch(r"\[((?:[0-9]{1,9}(?:,[0-9]{1,9})*)?)\]", text)
    if match is None:
        fail(line, f"'{text}' is no list of sizes or positions such as [1,28,28]")
    return tuple(int(part) for part in match[1].split(",") if part)


def _position(k: int, shape: tuple[int, ...]) -> list[int]:
    found: list[int] = []
    for length in reversed(shape):
        found.insert(0, k % length)
        k //= length
    return found


def _told(term: Term) -> str:
    return term if isinstance(term, str) else f"({term.head()} ...)"
