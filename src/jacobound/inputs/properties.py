"""`Property`: what outputs must never do over regions of the input, as unions of linear inequalities; from VNN-LIB.

A property is written as its violation: it is violated at a point of a region where all inequalities of at least one
alternative hold. Numbers are exact fractions; what floats can not hold is rounded outward for bounds of the region,
inward for points that are to lie in it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from jacobound.checks import items, shown, text, whole, yes_or_no
from jacobound.errors import InvalidOptionError, InvalidRegionError, ShapeError
from jacobound.graph.units import real_tensor
from jacobound.inputs.files import name_of
from jacobound.inputs.grammar import MOST_DIGITS
from jacobound.inputs.regions import Ball, Box, Region
from jacobound.inputs.vnnlib import MOST_WORK, Reader, fitting
from jacobound.inputs.vnnlib_linear import Cell, Key, Linear, cells_where, empty, entry, key_of, outward
from jacobound.inputs.vnnlib_syntax import Form, fail
from jacobound.stored import stored

ALTERNATIVES = "[[Inequality.of({0: 1}, 3)]]"
Factors = tuple[tuple[int, int], ...]
Number = int | float | str | Decimal | Fraction
Ends = tuple[tuple[tuple[Fraction, int], tuple[Fraction, int]], ...]
"""Lower and upper end of every input; see `vnnlib_linear.End`."""


@stored
@dataclass(frozen=True)
class Inequality:
    """``outputs . y + inputs . x <= bound``, or ``<`` where it is strict, in the smallest whole factors.

    Args:
        outputs, inputs: (position among the flattened values, factor), ascending; at least one of them.
        bound: the right side.
        strict: whether equality is left out.
    """

    outputs: Factors
    inputs: Factors
    bound: Fraction
    strict: bool = False

    @classmethod
    def of(
        cls,
        outputs: Mapping[int, Number],
        bound: Number,
        *,
        inputs: Mapping[int, Number] | None = None,
        strict: bool = False,
    ) -> Inequality:
        """From factors by position; floats are exact, and so are decimals written as text such as "0.1".

        Raises:
            InvalidOptionError: when something is no finite number, or all factors are 0.
        """
        values = [(~k, factor) for k, factor in _factors(outputs, "outputs")]
        values += _factors({} if inputs is None else inputs, "inputs")
        exact = {k: factor for k, factor in values if factor}
        if not exact:
            raise InvalidOptionError("an inequality has a factor other than 0")
        key, scale = key_of(exact, 0)
        return _inequality(key, exact_number(bound) / scale, scale < 0, yes_or_no(strict, "strict"))

    def __str__(self) -> str:
        terms = [(f"Y_{k}", factor) for k, factor in self.outputs] + [(f"X_{k}", factor) for k, factor in self.inputs]
        told = [
            f"{'-' if factor < 0 else '+'} {'' if abs(factor) == 1 else f'{abs(factor)} '}{x}" for x, factor in terms
        ]
        first = told[0].removeprefix("+ ").replace("- ", "-", 1)
        sign = "<" if self.strict else "<="
        return f"{' '.join((first, *told[1:]))} {sign} {float(self.bound):g}"


@stored
@dataclass(frozen=True, eq=False)
class Case:
    """One box of inputs, and what would be a violation there.

    Args:
        box: one box, its ends rounded outward.
        open_lower, open_upper: ends that do not lie in the set themselves, rounded outward or excluded; bool, of the
            input's shape.
        unsafe: alternatives: conjunctions of inequalities.
    """

    box: Box
    open_lower: Tensor
    open_upper: Tensor
    unsafe: tuple[tuple[Inequality, ...], ...]

    def enclosing(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest points of the set, as boxes that hold them: no width but where the set holds no float.

        Args:
            points: float64, (k, *input shape).
        """
        lower, upper = torch.as_tensor(self.box.lower), torch.as_tensor(self.box.upper)
        low = torch.where(self.open_lower, torch.nextafter(lower, upper.new_tensor(math.inf)), lower)
        high = torch.where(self.open_upper, torch.nextafter(upper, upper.new_tensor(-math.inf)), upper)
        moved, between = torch.minimum(torch.maximum(points, low), high), low > high
        return torch.where(between, lower, moved), torch.where(between, upper, moved)


@stored
@dataclass(frozen=True, eq=False)
class Property:
    """What must not happen: an input of a case for which all inequalities of one of its alternatives hold.

    Args:
        cases: at least one, with boxes of one shape.
        outputs: how many there are, flattened; None where it is not said.
        name: what it is called.
    """

    cases: tuple[Case, ...]
    outputs: int | None = None
    name: str = "property"

    def __post_init__(self) -> None:
        if not self.cases or not all(isinstance(case, Case) for case in self.cases):
            raise InvalidOptionError("a property has at least one case; Property.never(region, unsafe) makes them")
        if not all(case.unsafe and all(case.unsafe) for case in self.cases):
            raise InvalidOptionError(
                "a violation is stated by inequalities: [[a, b], [c]] means both of a and b, or c; at least one each"
            )

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Of the boxes."""
        return tuple(torch.as_tensor(self.cases[0].box.lower).shape)

    def cases_for(self, in_shape: tuple[int, ...], outputs: int) -> list[Case]:
        """The cases for a network, one box each.

        Raises:
            ShapeError: when inputs or outputs do not fit it.
        """
        if self.outputs is not None and self.outputs != outputs:
            raise ShapeError(f"the property is about {self.outputs} outputs, the network has {outputs}")
        found: list[Case] = []
        for case in self.cases:
            rest = [case.box.lower, case.box.upper, case.open_lower, case.open_upper]
            tensors = [torch.as_tensor(one) for one in rest]
            shape, count = tuple(tensors[0].shape), math.prod(in_shape)
            fits = shape[len(shape) - len(in_shape) :] == in_shape or math.prod(shape) == count
            if not fits:
                raise ShapeError(f"the property has inputs of shape {shape}, the network takes {in_shape}")
            for lower, upper, *opened in zip(*(one.reshape(-1, *in_shape) for one in tensors), strict=True):
                found.append(Case(Box(lower, upper), opened[0], opened[1], case.unsafe))
            for one in chain(*case.unsafe):
                if any(k >= outputs for k, _ in one.outputs) or any(k >= count for k, _ in one.inputs):
                    raise ShapeError(f"{one}: the network has {count} inputs and {outputs} outputs")
        return found

    @classmethod
    def from_vnnlib(cls, source: str | bytes | os.PathLike[str], shape: Sequence[int] | None = None) -> Property:
        """The property in a VNN-LIB file, version 1 or 2; a satisfying assignment of the file is a violation.

        All conditions on inputs and outputs are read, strict and not, those that relate several of them too. Decimals
        are exact. What is not linear, or speaks of hidden values, is refused.

        Args:
            source: path of the file (.vnnlib, .vnnlib.gz), or the text itself.
            shape: of the network's input; None for the shape that the file declares.

        Raises:
            InvalidRegionError: when it is not understood (with the line), leaves an input unbounded, says nothing of
                the outputs, or contradicts itself.
            ShapeError: when the number of inputs does not fit `shape`.
        """
        reader = _PropertyReader()
        reader.read(source)
        is_text = isinstance(source, str) and ("\n" in source or source.lstrip().startswith(("(", ";")))
        return reader.made(shape, "text" if is_text else name_of(source))

    @classmethod
    def never(
        cls, region: Region, unsafe: Sequence[Sequence[Inequality]], *, outputs: int | None = None, name: str = "never"
    ) -> Property:
        """For no input of a region all inequalities of one of the alternatives hold.

        Args:
            region: a bounded `Box`, or an l_inf `Ball` of one radius; a batch is several cases.
            unsafe: alternatives, each a conjunction of `Inequality`.
            outputs: how many outputs the network has; checked when given.

        Raises:
            InvalidRegionError: when the region is of another kind or not bounded.
        """
        given = items(unsafe, "unsafe", ALTERNATIVES)
        alternatives = tuple(tuple(items(one, "an alternative", "[Inequality.of({0: 1}, 3)]")) for one in given)
        if not all(isinstance(one, Inequality) for one in chain(*alternatives)):
            raise InvalidOptionError(f"alternatives are lists of Inequality, such as {ALTERNATIVES}")
        outputs = None if outputs is None else whole(outputs, "outputs", 1)
        return cls(tuple(Case(*one, alternatives) for one in _boxes(region)), outputs, text(name, "name"))

    @classmethod
    def classified_as(cls, region: Region, label: int, outputs: int) -> Property:
        """Output `label` is larger than every other one, for all inputs of a region (see `never`)."""
        outputs = whole(outputs, "outputs", 2)
        label = whole(label, "the label", 0, outputs - 1)
        others = [k for k in range(outputs) if k != label]
        unsafe = [[Inequality.of({label: 1, k: -1}, 0)] for k in others]
        return cls.never(region, unsafe, outputs=outputs, name=f"classified as {label}")

    @classmethod
    def within(
        cls, region: Region, lower: Sequence[Number] | None = None, upper: Sequence[Number] | None = None
    ) -> Property:
        """Outputs stay between bounds, one for each output; None for no bound on that side (see `never`)."""
        if lower is None and upper is None:
            raise InvalidOptionError("Property.within takes lower=, upper= or both: one bound for each output")
        low = None if lower is None else items(lower, "lower", "[0, 1]")
        high = None if upper is None else items(upper, "upper", "[0, 1]")
        if low is not None and high is not None and len(low) != len(high):
            raise ShapeError(f"{len(low)} lower and {len(high)} upper bounds: there is one of each for every output")
        below = [[Inequality.of({k: 1}, end, strict=True)] for k, end in enumerate(low or ())]
        above = [[Inequality.of({k: -1}, -exact_number(end), strict=True)] for k, end in enumerate(high or ())]
        return cls.never(region, [*below, *above], outputs=len(high or low or ()), name="outputs within bounds")

    def __str__(self) -> str:
        alternatives = self.cases[0].unsafe
        first = " and ".join(map(str, alternatives[0][:4])) + (" and ..." if len(alternatives[0]) > 4 else "")
        more = "" if len(alternatives) == 1 else f", or {len(alternatives) - 1} alternatives"
        several = "" if len(self.cases) == 1 else f"; {len(self.cases)} cases"
        return f"{self.name}: never {first}{more}{several}"


def _factors(given: Any, what: str) -> list[tuple[int, Fraction]]:
    if not isinstance(given, Mapping):
        raise InvalidOptionError(f"{what} are factors by position, such as {{0: 1, 3: -1}}, not {shown(given)}")
    return [(whole(k, f"a position of {what}", 0), exact_number(factor)) for k, factor in given.items()]


def exact_number(number: Any) -> Fraction:
    """A finite number as it is.

    Raises:
        InvalidOptionError: when it is none.
    """
    try:
        if isinstance(number, Decimal) or (isinstance(number, str) and "/" not in number):
            number = Decimal(number)
            if number and not abs(number.adjusted()) < MOST_DIGITS:
                raise InvalidOptionError(f"{shown(number)} has more than {MOST_DIGITS} digits; floats end before that")
        if not isinstance(number, bool | complex):
            return Fraction(number if isinstance(number, int | str | Decimal | Fraction) else float(number))
    except (TypeError, ValueError, OverflowError, ZeroDivisionError, InvalidOperation):
        pass
    raise InvalidOptionError(f"{shown(number)} is no finite number; write 0.5, '0.1' or Fraction(1, 3)")


def _inequality(key: Key, bound: Fraction, flipped: bool, strict: bool) -> Inequality:
    """``key <= bound``, or ``key >= bound`` when it is flipped."""
    sign = -1 if flipped else 1
    terms = [(key, 1)] if isinstance(key, int) else key
    outputs = sorted((~k, sign * factor) for k, factor in terms if k < 0)
    return Inequality(tuple(outputs), tuple((k, sign * f) for k, f in terms if k >= 0), sign * bound, strict)


def _boxes(region: Region) -> list[tuple[Box, Tensor, Tensor]]:
    """The boxes of a region, one by one, with the ends that do not lie in it."""
    if isinstance(region, Ball) and region.p == math.inf and region.scale is None and len(region.radii) == 1:
        return _boxes_of_ball(region)
    if not isinstance(region, Box):
        raise InvalidRegionError(
            "a property is about boxes: give a Box, or a Ball with p=inf, one radius and no scale; for other balls ask "
            "robust_radius"
        )
    lower, upper = real_tensor(region.lower, "the lower end"), real_tensor(region.upper, "the upper end")
    if not bool((lower.isfinite() & upper.isfinite()).all()):
        raise InvalidRegionError("a property needs bounded inputs; give every end of the box a finite number")
    inside = torch.zeros_like(lower, dtype=torch.bool)
    return [(Box(lower, upper), inside, inside)]


def _boxes_of_ball(ball: Ball) -> list[tuple[Box, Tensor, Tensor]]:
    centre = real_tensor(ball.center, "the centre")
    radius = Fraction(ball.radii[0])
    clips = (-math.inf, math.inf) if ball.clip is None else ball.clip
    low_clip, high_clip = (torch.as_tensor(end, dtype=torch.float64).expand_as(centre) for end in clips)
    ends: list[list[tuple[float, bool]]] = []
    for sign, clip, choose in ((-1, low_clip, max), (1, high_clip, min)):
        exact = [Fraction(x) + sign * radius for x in centre.flatten().tolist()]
        rounded = [outward(end, sign * math.inf) for end in exact]
        pairs = zip(exact, rounded, clip.flatten().tolist(), strict=True)
        ends.append([(one, Fraction(one) != end) if choose(one, c) != c else (c, False) for end, one, c in pairs])
    tensors = [torch.tensor([one for one, _ in side], dtype=torch.float64).reshape(centre.shape) for side in ends]
    opened = [torch.tensor([is_open for _, is_open in side]).reshape(centre.shape) for side in ends]
    return [(Box(tensors[0], tensors[1]), opened[0], opened[1])]


@dataclass
class _PropertyReader(Reader):
    """Inputs and outputs, exactly; whatever can not be read is refused."""

    def other(self, name: str, line: int) -> Linear:
        base, bracket, _ = name.partition("[")
        if base in self.hidden:
            fail(line, f"'{name}' is a hidden value, which properties can not speak of; state the condition on outputs")
        k = entry(name, self.outputs[base], bool(bracket), line) if base in self.outputs else int(name[2:])
        return Fraction(0), {~k: Fraction(1)}

    def relation(self, head: str, difference: Linear, line: int) -> list[Cell]:
        return cells_where(head, difference, False, line)

    def opaque(self, form: Form) -> None:
        cure = "write linear conditions with <=, >=, <, >, =, and, or, +, -, * and /"
        fail(form.line, f"({form.head()} ...) is not understood; {cure}")

    def made(self, shape: Sequence[int] | None, name: str) -> Property:
        """The property, with alternatives of the same box side by side."""
        declared, outputs = self.in_shape(), self._out_size()
        wanted = fitting(shape, declared)
        cases: dict[Ends, list[tuple[Inequality, ...]]] = {}
        known: dict[frozenset[tuple[Any, Any]], Ends] = {}
        for cell in self.product(self.choices, 0) if self.choices else [{}]:
            whole = self.both(dict(cell), _parts(self.common)[1], 0)
            own, conditions = _parts(whole)
            place = frozenset(own.items())
            if place not in known:
                if len(known) * math.prod(declared) > MOST_WORK:
                    raise InvalidRegionError(f"the property has more than {len(known)} boxes; that is too much")
                known[place] = tuple(self.ends(self.both(dict(_parts(self.common)[0]), own, 0), declared))
            ends = known[place]
            if not empty(conditions) and all(low <= high for low, high in ends):
                cases.setdefault(ends, []).append(tuple(_inequalities(conditions)))
        if not cases:
            raise InvalidRegionError("no point can satisfy the property: its conditions contradict each other")
        if not all(all(unsafe) for unsafe in cases.values()):
            raise InvalidRegionError("the property says nothing of the outputs for some inputs; add a condition")
        return Property(tuple(_case(ends, wanted, unsafe) for ends, unsafe in cases.items()), outputs, name)

    def _out_size(self) -> int:
        if len(self.outputs) > 1 or (self.outputs and self.flat_outputs):
            raise InvalidRegionError("the property has several outputs; networks with one are understood")
        if self.outputs:
            return math.prod(next(iter(self.outputs.values())))
        if self.flat_outputs != set(range(len(self.flat_outputs))):
            missing = next(k for k in range(len(self.flat_outputs)) if k not in self.flat_outputs)
            raise InvalidRegionError(f"the property declares {len(self.flat_outputs)} outputs, but not Y_{missing}")
        return len(self.flat_outputs)


def _parts(cell: Cell) -> tuple[Cell, Cell]:
    """Bounds of inputs, and all other conditions."""
    inputs: Cell = {key: ends for key, ends in cell.items() if isinstance(key, int) and key >= 0}
    return inputs, {key: ends for key, ends in cell.items() if key not in inputs}


def _inequalities(conditions: Cell) -> list[Inequality]:
    found: list[Inequality] = []
    for key, (low, high) in conditions.items():
        for end, flipped in ((low, True), (high, False)):
            if end is not None:
                found.append(_inequality(key, end[0], flipped, end[1] != 0))
    return found


def _case(ends: Ends, shape: tuple[int, ...], unsafe: list[tuple[Inequality, ...]]) -> Case:
    sides: list[Tensor] = []
    opened: list[Tensor] = []
    for k, direction in ((0, -math.inf), (1, math.inf)):
        exact = [pair[k] for pair in ends]
        rounded = [outward(value, direction) for value, _ in exact]
        is_open = [strict != 0 or Fraction(one) != value for one, (value, strict) in zip(rounded, exact, strict=True)]
        sides.append(torch.tensor(rounded, dtype=torch.float64).reshape(shape))
        opened.append(torch.tensor(is_open).reshape(shape))
    return Case(Box(sides[0], sides[1]), opened[0], opened[1], tuple(dict.fromkeys(unsafe)))
