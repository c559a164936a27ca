"""VNN-LIB properties, versions 1 and 2: what they declare and assert, and the boxes of inputs that they speak of.

Bounds are exact rational numbers until they are rounded outward to floats. `read_vnnlib` leaves out whatever speaks of
outputs or hidden values, which can only make the set of inputs larger; `inputs/properties.py` reads outputs as well.
Source: the VNN-LIB standard (https://www.vnnlib.org).
"""

from __future__ import annotations

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import prod

from jacobound.errors import InvalidRegionError, ShapeError
from jacobound.inputs.files import read_file, unpacked
from jacobound.inputs.vnnlib_linear import (
    COMPARISONS,
    Cell,
    Linear,
    added,
    cells_where,
    empty,
    entry,
    integers,
    outward,
    position,
    product_of,
    tighter,
    times,
    told,
)
from jacobound.inputs.vnnlib_syntax import Form, Term, fail, number, read_forms

LARGEST_TEXT = 1 << 26  # bytes
MOST_INPUTS = 1 << 22
MOST_BOXES = 4096
MOST_WORK = 1 << 24  # bounds that are compared while disjunctions are multiplied out


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
    reader = BoxReader()
    reader.read(source)
    return reader.finished()


def text_of(source: str | bytes | os.PathLike[str]) -> str:
    """The text of a property.

    Raises:
        InvalidRegionError: when it can not be read, is too long or is no text.
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
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRegionError(f"the property is no text ({error}); give a .vnnlib or .vnnlib.gz file") from error


@dataclass
class Reader(ABC):
    """What has been read so far; readers differ in what they make of outputs."""

    flat: set[int] = field(default_factory=set)  # inputs of version 1
    flat_outputs: set[int] = field(default_factory=set)
    tensors: dict[str, tuple[int, ...]] = field(default_factory=dict)  # inputs of version 2
    outputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    hidden: set[str] = field(default_factory=set)
    networks: int = 0
    common: Cell = field(default_factory=dict)
    choices: list[list[Cell]] = field(default_factory=list)
    work: int = 0

    @abstractmethod
    def other(self, name: str, line: int) -> Linear | None:
        """An output or a hidden value; None where whatever speaks of it is left out."""

    @abstractmethod
    def relation(self, head: str, difference: Linear, line: int) -> list[Cell]:
        """Where a difference of inputs and outputs compares with zero."""

    @abstractmethod
    def opaque(self, form: Form) -> None:
        """Refuse a form that is no linear condition, unless it is left out."""

    def read(self, source: str | bytes | os.PathLike[str]) -> None:
        """All commands of a property."""
        for form in read_forms(text_of(source)):
            self.command(form)

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

    def in_shape(self) -> tuple[int, ...]:
        """The shape of the input, once all is read."""
        if len(self.tensors) > 1 or (self.tensors and self.flat):
            raise InvalidRegionError(f"the property has {len(self.tensors)} inputs; networks with one are understood")
        shape = next(iter(self.tensors.values())) if self.tensors else (len(self.flat),)
        if not self.tensors and self.flat != set(range(len(self.flat))):
            missing = next(k for k in range(len(self.flat)) if k not in self.flat)
            raise InvalidRegionError(f"the property declares {len(self.flat)} inputs, but not X_{missing}")
        if prod(shape) == 0:
            raise InvalidRegionError("the property declares no inputs (X_0, X_1, ..., or a tensor by declare-input)")
        return shape

    def ends(self, cell: Cell, shape: tuple[int, ...]) -> list[tuple[tuple[Fraction, int], tuple[Fraction, int]]]:
        """Lower and upper end of every input.

        Raises:
            InvalidRegionError: when one is missing.
        """
        found = []
        for k in range(prod(shape)):
            low, high = cell.get(k, (None, None))
            if low is None or high is None:
                side = "lower" if low is None else "upper"
                name = f"input {position(k, shape)} of '{next(iter(self.tensors))}'" if self.tensors else f"X_{k}"
                raise InvalidRegionError(f"{name} has no {side} bound in the property; add an assertion with one")
            found.append((low, high))
        return found

    def _declare_number(self, name: Term, line: int) -> None:
        match = re.fullmatch(r"([XY])_([0-9]{1,9})", name) if isinstance(name, str) else None
        if match is None:
            fail(line, f"inputs are called X_0, X_1, ... and outputs Y_0, Y_1, ..., not '{told(name)}'")
        if int(match[2]) >= MOST_INPUTS:
            fail(line, f"{match[0]}: at most {MOST_INPUTS} inputs and outputs are read")
        elif match[1] == "Y":
            self.flat_outputs.add(int(match[2]))
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
        shape = integers(size, form.line)
        if name in self.tensors or name in self.outputs or name in self.hidden:
            fail(form.line, f"'{name}' is declared twice")
        if head == "declare-hidden":
            self.hidden.add(name)
        elif prod(shape) > MOST_INPUTS or len(shape) > 16:
            fail(form.line, f"'{name}' has shape {list(shape)}; at most {MOST_INPUTS} entries are read")
        else:
            (self.tensors if head == "declare-input" else self.outputs)[name] = shape

    def _require(self, cells: list[Cell], line: int) -> None:
        if len(cells) == 1:
            self.common = self.both(self.common, cells[0], line)
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
            return self.product([self._compared(head, a, b, line) for a, b in pairwise(sides)], line)
        if head == "and":
            return self.product([self._cells(argument, line) for argument in arguments], line)
        if head == "or":
            found = [cell for argument in arguments for cell in self._cells(argument, line)]
            if len(found) > MOST_BOXES:
                fail(line, f"more than {MOST_BOXES} boxes")
            return [{}] if {} in found else found
        self.opaque(formula)
        return [{}]

    def _compared(self, head: str, left: Linear | None, right: Linear | None, line: int) -> list[Cell]:
        """Where ``left head right``; everything where a side is left out."""
        if left is None or right is None:
            return [{}]
        return self.relation(head, added([left, times(right, Fraction(-1), line)], line), line)

    def product(self, unions: list[list[Cell]], line: int) -> list[Cell]:
        """The intersection of unions of boxes."""
        alone: Cell = {}
        for union in unions:
            if len(union) == 1:
                alone = self.both(alone, union[0], line)
        found = [alone]
        for union in sorted((union for union in unions if len(union) != 1), key=len):
            if len(found) * len(union) > MOST_BOXES:
                fail(line, f"more than {MOST_BOXES} boxes")
            found = [self.both(dict(cell), other, line) for cell in found for other in union]
            found = [cell for cell in found if not empty(cell)]
        return found

    def both(self, cell: Cell, other: Cell, line: int) -> Cell:
        """The intersection of two boxes, written into the first."""
        self.work += len(other) + 1
        if self.work > MOST_WORK:
            fail(line, "the property has too many combinations of bounds")
        for k, (low, high) in other.items():
            lower, upper = cell.get(k, (None, None))
            cell[k] = tighter(lower, low, max), tighter(upper, high, min)
        return cell

    def _linear(self, term: Term, line: int) -> Linear | None:
        """An expression as a linear one; None when it speaks of values that are left out."""
        if isinstance(term, str):
            value = number(term, line)
            if value is not None:
                return value, {}
            return self._value(term, line)
        head, line = term.head(), term.line
        parts = [self._linear(argument, line) for argument in term.items[1:]]
        if head not in ("+", "-", "*", "/") or not parts:
            self.opaque(term)
            return None
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        if head == "+":
            return added(known, line)
        if head == "-":
            negated = [times(part, Fraction(-1), line) for part in known]
            return negated[0] if len(known) == 1 else added([known[0], *negated[1:]], line)
        return product_of(known, head, line)

    def _value(self, name: str, line: int) -> Linear | None:
        """An input, an output or a hidden value."""
        base, bracket, _ = name.partition("[")
        flat = re.fullmatch(r"([XY])_([0-9]{1,9})", name)
        if flat is not None and int(flat[2]) in (self.flat if flat[1] == "X" else self.flat_outputs):
            return (Fraction(0), {int(flat[2]): Fraction(1)}) if flat[1] == "X" else self.other(name, line)
        if base in self.hidden or base in self.outputs:
            return self.other(name, line)
        if base not in self.tensors:
            fail(line, f"'{name}' is neither a number nor declared")
        return Fraction(0), {entry(name, self.tensors[base], bool(bracket), line): Fraction(1)}

    def speaks_of_inputs(self, term: Term) -> bool:
        """Whether an input occurs in a term."""
        if isinstance(term, Form):
            return any(self.speaks_of_inputs(item) for item in term.items)
        return term.partition("[")[0] in self.tensors or re.fullmatch(r"X_[0-9]+", term) is not None


@dataclass
class BoxReader(Reader):
    """Inputs alone: whatever speaks of other values is left out, strict inequalities count as their closure."""

    def other(self, name: str, line: int) -> Linear | None:
        return None

    def relation(self, head: str, difference: Linear, line: int) -> list[Cell]:
        if len(difference[1]) > 1:
            fail(line, "a condition relates several inputs, so that the set of inputs is no box")
        return cells_where(head, difference, True, line)

    def opaque(self, form: Form) -> None:
        if self.speaks_of_inputs(form):
            fail(form.line, f"({form.head()} ...) with inputs is not understood; write <=, >=, and, or, +, -, *")

    def finished(self) -> InputSet:
        """Every combination of the disjunctions, cut with what holds for all."""
        shape = self.in_shape()
        cells = self.product([[self.common], *self.choices], 0)
        if len(cells) * prod(shape) > MOST_WORK:
            raise InvalidRegionError(f"the property has {len(cells)} boxes of {prod(shape)} inputs; that is too much")
        boxes: dict[tuple[tuple[float, ...], tuple[float, ...]], None] = {}
        for cell in cells:
            if not empty(cell):
                ends = self.ends(cell, shape)
                lower = tuple(outward(low, -math.inf) for (low, _), _ in ends)
                boxes[lower, tuple(outward(high, math.inf) for _, (high, _) in ends)] = None
        if not boxes:
            raise InvalidRegionError("no input satisfies the property: its bounds contradict each other")
        return InputSet(shape, tuple(boxes))


def fitting(shape: Sequence[int] | None, declared: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a network's input, for a property that declares one; None for the declared one.

    Raises:
        ShapeError: when it is no shape, or has another number of entries.
    """
    if not isinstance(shape, list | tuple | None) or not all(type(side) is int and side >= 0 for side in shape or ()):
        raise ShapeError(f"shape is that of the network's input, such as graph.in_shape, not a {type(shape).__name__}")
    wanted = declared if shape is None else tuple(shape)
    if math.prod(wanted) != math.prod(declared):
        raise ShapeError(f"the property has inputs of shape {declared}, which do not fit a network that takes {wanted}")
    return wanted
