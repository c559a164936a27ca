"""`Activation`: facts about one real function, and the registry in which importers and users find it.

An activation states its pieces and its turns; its range, the range of its derivative and its lines follow (`pieces`,
`lines`). Where it is not defined its bounds are infinite, and `require` raises. To add one, append a `Family` to the
file of its kind; nothing else has to change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

import torch
from torch import Tensor

from jacobound.activations.calculus import pieces as _pieces
from jacobound.activations.calculus.pieces import Piece, Turn, choose, tidy
from jacobound.activations.calculus.stretches import EVERYWHERE, Stretch, defined
from jacobound.activations.lines.contacts import tangent_points
from jacobound.activations.lines.envelope import envelope
from jacobound.activations.lines.offsets import Lines, Slopes, enclosing_lines, shifted
from jacobound.activations.lines.rules import SlopeRule, parallel
from jacobound.activations.lines.secants import secants
from jacobound.activations.lines.slope_lines import slope_lines
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import InvalidRegionError, UnsafeArithmeticError, UnsupportedOpError

__all__ = [
    "Activation",
    "Family",
    "Lines",
    "Piece",
    "SlopeRule",
    "Slopes",
    "Stretch",
    "Turn",
    "activation",
    "families",
    "onnx_builder",
    "register",
    "torch_builder",
]

Reduction = Callable[[Interval], tuple[Interval, Interval]]
"""Moves an interval to where the pieces are: the moved interval, and an enclosure of what was subtracted."""


@dataclass(frozen=True, eq=False)
class Activation:
    """One real function, applied to every entry of a node.

    Args:
        name: with its numbers, so that equal names mean equal functions up to `parameters`: "leaky_relu:0.3".
        value: plain torch evaluation, differentiable by autograd; an estimate, never used for bounds.
        pieces: stretches of one curvature, from left to right.
        breaks: where one piece ends and the next begins, ascending; one fewer than pieces.
        turns: where the value stops rising or falling; empty for monotone functions.
        increasing: direction of a monotone function (when `turns` is empty).
        choose: how the slopes of `lines` are chosen; concerns tightness only.
        domain: where the function is defined.
        reduce: for a periodic function, how an interval is moved by a multiple of the period; pieces, breaks and turns
            then describe the function where the moved intervals lie.
        parameters: tensors of the function, broadcastable to the node's shape without batch.
        rebuild: makes the same activation from moved parameters; needed when there are parameters, or when `activation`
            does not read the name. A function of a module, perhaps with first arguments (`functools.partial`).
        proportional: the number k for which the derivative is k z exactly, for a function that has one.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    pieces: tuple[Piece, ...]
    breaks: tuple[Turn, ...] = ()
    turns: tuple[Turn, ...] = ()
    increasing: bool = True
    choose: SlopeRule = envelope
    domain: tuple[Stretch, ...] = EVERYWHERE
    reduce: Reduction | None = None
    parameters: tuple[Tensor, ...] = ()
    rebuild: Callable[..., Activation] | None = None
    proportional: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """By its name or from its parameters: functions are not copied into other processes, they are there already."""
        return (activation, (self.name,)) if self.rebuild is None else (self.rebuild, self.parameters)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Activation:
        """This function with its parameters on another device or in another dtype.

        Raises:
            UnsafeArithmeticError: when `dtype` cannot hold a parameter exactly.
        """
        if not self.parameters or self.rebuild is None:
            return self
        moved = []
        for parameter in self.parameters:
            there = parameter.to(device=device, dtype=dtype)
            if dtype != parameter.dtype and not torch.equal(there.to(parameter.dtype), parameter.to(device)):
                raise UnsafeArithmeticError(
                    f"a parameter of activation '{self.name}' does not fit {dtype} exactly, so the bounds would hold "
                    "for another network; keep float64, or round the model's weights yourself first"
                )
            moved.append(there)
        return self.rebuild(*moved)

    def range(self, x: Interval) -> Interval:
        """Certified enclosure of the function's values on `x`; ends may be infinite."""
        return self._where_defined(x, _pieces.value_range(self, self._moved(x)[0]))

    def derivative_range(self, x: Interval) -> Interval:
        """Certified enclosure of all slopes the function has on `x`; ends may be infinite.

        An interval that only ends at a kink does not see the slope beyond it: ReLU on [0, u] gives exactly [1, 1].
        A single point at a kink gives the slopes of both sides.
        """
        return self._where_defined(x, _pieces.derivative_range(self, self._moved(x)[0]))

    def secant_range(self, near: Interval, far: Interval) -> Interval:
        """Certified enclosure of ``(f(y) - f(z)) / (y - z)`` for all z in `near` and all other y in `far` or `near`.

        Never wider than the derivative range over both; narrower where that is widest at its ends, as at a kink.
        """
        both = near.hull(far)
        found = self.derivative_range(both)
        if self.reduce is not None:
            return found
        chords = secants(self, tidy(near), tidy(both), self.derivative_range)
        return self._where_defined(both, found.intersect(chords))

    def lines(self, x: Interval) -> Lines:
        """Certified lines above and below the function on `x`, close at the middle of the interval."""
        return self._lines(x, self.choose)

    def parallel_lines(self, x: Interval) -> Lines:
        """Certified lines of one common slope, that of the chord (Fast-Lin, Weng et al. 2018)."""
        return self._lines(x, parallel)

    def lines_with(self, x: Interval, lower: Tensor, upper: Tensor) -> Lines:
        """Certified lines on `x` with given slopes below and above, any floats of its shape."""

        def given(curve: _pieces.Curve, moved: Interval) -> Slopes:
            return Slopes(lower, upper, tangent_points(curve, tidy(moved), lower, upper))

        return self._lines(x, given)

    def slope_lines(self, x: Interval) -> Lines:
        """Certified parallel lines around the derivative on `x`, in the sense of `derivative_range`."""
        if self.proportional is not None:
            slope, offset = torch.full_like(x.lower, self.proportional), torch.zeros_like(x.lower)
            return Lines(slope, offset, slope, offset)
        moved, shift = self._moved(x)
        found = slope_lines(self, moved)
        return self._lines_where_defined(x, found if shift is None else shifted(found, shift))

    def require(self, x: Interval, node: str) -> None:
        """Check that the function is defined on all of `x`.

        Args:
            x: certified range of the argument over N sets, shape (N, *node shape).
            node: name of the node, for the message.

        Raises:
            InvalidRegionError: when the range leaves the domain; names the node, an entry, its range and the domain.
        """
        outside = (~self._defined(x)).nonzero()
        if not len(outside):
            return
        which, *entry = outside[0].tolist()
        low, high = (float(end[(which, *entry)]) for end in (x.lower, x.upper))
        where = " over one of the sets" if len(x.lower) > 1 else ""
        raise InvalidRegionError(
            f"node '{node}': {self.name} is defined on {' and '.join(map(str, self.domain))} only, but the certified "
            f"range of its argument at entry {tuple(entry)}{where} is [{low:.6g}, {high:.6g}] ({len(outside)} of "
            f"{x.lower.numel()} entries leave the domain); take a smaller region, a tighter method for the ranges "
            "(CROWN instead of IBP) or more time, or shift the argument in the model (log(z + 1e-3))"
        )

    def _moved(self, x: Interval) -> tuple[Interval, Interval | None]:
        return (x, None) if self.reduce is None else self.reduce(x)

    def _defined(self, x: Interval) -> Tensor:
        return defined(self.domain, tidy(x))

    def _where_defined(self, x: Interval, found: Interval) -> Interval:
        """The whole line where `x` leaves the domain."""
        if self.domain == EVERYWHERE:
            return found
        return choose(self._defined(x), found, Interval.whole(x.lower))

    def _lines(self, x: Interval, rule: SlopeRule) -> Lines:
        moved, shift = self._moved(x)
        found = enclosing_lines(self, moved, rule(self, moved))
        return self._lines_where_defined(x, found if shift is None else shifted(found, shift))

    def _lines_where_defined(self, x: Interval, found: Lines) -> Lines:
        """No more than the whole line where `x` leaves the domain."""
        if self.domain == EVERYWHERE:
            return found
        valid, offsets = self._defined(x), self._where_defined(x, Interval(found.lower_offset, found.upper_offset))
        slopes = (torch.where(valid, k, 0.0) for k in (found.lower_slope, found.upper_slope))
        lower_slope, upper_slope = slopes
        return Lines(lower_slope, offsets.lower, upper_slope, offsets.upper)

    def settled(self, x: Interval) -> Tensor:
        """Bool mask: `x` lies in one exactly linear piece, so tighter bounds of it would change nothing."""
        return _pieces.settled(self, x)


@dataclass(frozen=True, eq=False)
class Family:
    """Activations of one form, and how models spell them.

    Args:
        name: as in `activation("name:0.3")`.
        make: builds one from numbers, with defaults.
        torch: ATen overload name -> builder called with the arguments that follow the input.
        onnx: ONNX operator -> builder called with the further inputs as tensors and the attributes as keywords.
        aliases: further names for `activation`.
    """

    name: str
    make: Callable[..., Activation]
    torch: Mapping[str, Callable[..., Activation]] = field(default_factory=dict)
    onnx: Mapping[str, Callable[..., Activation]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


_FAMILIES: Final[dict[str, Family]] = {}  # filled once, by the imports of this package; read-only afterwards


def register(family: Family) -> Family:
    """Make a family known to importers, to `activation` and to the tests.

    Raises:
        UnsupportedOpError: when the name is taken.
    """
    if family.name in _FAMILIES:
        raise UnsupportedOpError(f"an activation family named '{family.name}' exists; choose another name")
    _FAMILIES[family.name] = family
    return family


def families() -> tuple[Family, ...]:
    """All registered families."""
    return tuple(_FAMILIES.values())


def activation(text: str) -> Activation:
    """The activation that `text` names: "relu", "leaky_relu:0.3", "leaky_relu:1/3", "elu:1.0,1.05,1.0".

    Raises:
        UnsupportedOpError: when the name is unknown or the numbers do not fit it.
    """
    name, _, arguments = text.strip().partition(":")
    for family in families():
        if name.lower() in (family.name, *family.aliases):
            try:
                numbers = [
                    Fraction(part) if "/" in part else float(part) for part in arguments.split(",") if part.strip()
                ]
                if not all(math.isfinite(one) for one in numbers):
                    raise ValueError("numbers must be finite")
                return family.make(*numbers)
            except (TypeError, ValueError, ZeroDivisionError) as error:
                raise UnsupportedOpError(
                    f"activation '{text}': the numbers after ':' do not fit '{family.name}' ({error}); write them as "
                    f"'{family.name}:0.5' with commas between several, or leave them out for the defaults"
                ) from error
    known = ", ".join(family.name for family in families())
    raise UnsupportedOpError(f"activation '{text}' is not known; known are: {known}")


def torch_builder(op: str) -> Callable[..., Activation] | None:
    """The builder for an ATen overload such as "aten.leaky_relu.default", or None."""
    return next((family.torch[op] for family in families() if op in family.torch), None)


def onnx_builder(op: str) -> Callable[..., Activation] | None:
    """The builder for an ONNX operator such as "LeakyRelu", or None."""
    return next((family.onnx[op] for family in families() if op in family.onnx), None)
