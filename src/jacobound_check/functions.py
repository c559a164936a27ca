"""Activations as pieces of one curvature: values, slopes, and lines above and below with given slopes.

On a piece of one curvature the slope is monotone, so its range is that of the ends. For a line with slope k its offset
must cover ``s(z) - k z``: on a linear or a suitably bent piece the extremes lie at the ends, on the others the function
lies on one side of its tangent at any point t, ``s(z) - k z <= s(t) - k t + (s'(t) - k)(z - t)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from jacobound_check.errors import UnreadableError
from jacobound_check.rounding import Array, Interval, down, falling_from_zero, rising, safe, up

Map = Callable[[Interval], Interval]

exp = rising(np.exp)
expm1 = rising(np.expm1)
log = rising(np.log)
log1p = rising(np.log1p)
tanh = rising(np.tanh)
arctan = rising(np.arctan)
sqrt = rising(lambda x: np.sqrt(np.maximum(x, 0.0)))
erf = rising(lambda x: np.array([math.erf(z) for z in x.ravel()]).reshape(x.shape))
_minus_erfc = rising(lambda x: -np.array([math.erfc(z) for z in x.ravel()]).reshape(x.shape))


def _sigmoid(x: Array) -> Array:
    q = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, q) / (1 + q)


sigmoid = rising(_sigmoid)
softplus = rising(lambda x: np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))
bell_of_sigmoid = falling_from_zero(lambda x: np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2)
bell_of_tanh = falling_from_zero(lambda x: 4 * np.exp(-2 * np.abs(x)) / (1 + np.exp(-2 * np.abs(x))) ** 2)
bell_of_arctan = falling_from_zero(lambda x: 1 / (1 + x * x))
softsign = rising(lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(x))))
bell_of_softsign = falling_from_zero(lambda x: 1 / (1 + np.abs(x)) ** 2)


def square(x: Interval) -> Interval:
    """x^2, never negative."""
    found = x * x
    low = np.where((x.low <= 0) & (x.high >= 0), 0.0, found.low)
    return Interval(np.maximum(low, 0.0), found.high)


def enclosed(number: float) -> Interval:
    """A few floats around an irrational number that is given to the last place or two."""
    return Interval(np.float64(number - 2 * math.ulp(number)), np.float64(number + 2 * math.ulp(number)))  # type: ignore[arg-type]


HALF_ROOT = enclosed(math.sqrt(0.5))
DENSITY = enclosed(0.3989422804014327)  # 1 / sqrt(2 pi)
BELL = enclosed(1.1283791670955126)  # 2 / sqrt(pi)


def _share(x: Interval) -> Interval:
    """The normal distribution function."""
    return (-_minus_erfc(-(x * HALF_ROOT)) * 0.5).clipped(0.0, 1.0)


def _density(x: Interval) -> Interval:
    return exp(square(x) * -0.5) * DENSITY


@dataclass(frozen=True, eq=False)
class Piece:
    """A stretch of a function: "convex", "concave" or "linear", its value and its slope."""

    curvature: str
    value: Map
    slope: Map
    line: tuple[Interval, Interval] | None = None


def linear(slope: Interval, offset: Interval) -> Piece:
    """slope z + offset."""
    return Piece("linear", lambda x: x * slope + offset, lambda x: _spread(slope, x), (slope, offset))


def _spread(x: Interval, like: Interval) -> Interval:
    return Interval(np.broadcast_to(x.low, like.low.shape), np.broadcast_to(x.high, like.low.shape))


@dataclass(frozen=True, eq=False)
class Function:
    """A continuous function, entry by entry.

    Args:
        pieces: from left to right.
        breaks: where they meet, as enclosures; a few floats around each belong to both neighbours.
        turns: where the value stops rising or falling.
        start: the function is defined above there; -inf for everywhere.
        hole: whether it is not defined at 0.
    """

    pieces: tuple[Piece, ...]
    breaks: tuple[Interval, ...] = ()
    turns: tuple[Interval, ...] = ()
    start: float = -math.inf
    hole: bool = False

    def require(self, x: Interval, where: str) -> None:
        """Raises UnreadableError where the argument may leave the domain."""
        outside = (x.low <= self.start) if self.start > -math.inf else np.zeros(x.low.shape, dtype=bool)
        if self.hole:
            outside |= (x.low <= 0) & (x.high >= 0)
        if outside.any():
            raise UnreadableError(f"{where}: the argument may leave the domain of the function")

    def _parts(self, x: Interval, ends_count: bool) -> list[tuple[Piece, Interval, Array]]:
        """Every piece with the part of x on it, and whether there is one."""
        found = []
        for k, piece in enumerate(self.pieces):
            first = self.breaks[k - 1].low if k else np.float64(-math.inf)
            last = self.breaks[k].high if k < len(self.breaks) else np.float64(math.inf)
            met = (x.low <= last) & (x.high >= first)
            if not ends_count:  # an interval that only ends at a kink does not see the piece beyond
                met &= ((x.low < last) & (x.high > first)) | (x.low == x.high)
            found.append((piece, Interval(np.clip(x.low, first, last), np.clip(x.high, first, last)), met))
        return found

    def range(self, x: Interval) -> Interval:
        """All values on x: those at the ends and at the turns inside."""
        low, high = np.full_like(x.low, np.inf), np.full_like(x.low, -np.inf)
        for piece, part, met in self._parts(x, True):
            values = [piece.value(Interval.at(part.low)), piece.value(Interval.at(part.high))]
            for turn in self.turns:
                inside = Interval(np.clip(turn.low, part.low, part.high), np.clip(turn.high, part.low, part.high))
                values.append(piece.value(inside))
            for found in values:
                low = np.where(met, np.minimum(low, found.low), low)
                high = np.where(met, np.maximum(high, found.high), high)
        return safe(low, high)

    def slopes(self, x: Interval) -> Interval:
        """All slopes on x."""
        low, high = np.full_like(x.low, np.inf), np.full_like(x.low, -np.inf)
        for piece, part, met in self._parts(x, False):
            for found in (piece.slope(Interval.at(part.low)), piece.slope(Interval.at(part.high))):
                low = np.where(met, np.minimum(low, found.low), low)
                high = np.where(met, np.maximum(high, found.high), high)
        return safe(low, high)

    def offsets(self, x: Interval, below: Array, above: Array, points: tuple[Array | None, ...]) -> Interval:
        """Offsets (b, t) with ``below z + b <= s(z) <= above z + t`` on x.

        Args:
            points: for every piece where its tangent is taken; None on linear ones.
        """
        low, high = np.full_like(x.low, np.inf), np.full_like(x.low, -np.inf)
        for (piece, part, met), point in zip(self._parts(x, True), points, strict=True):
            least, most = _offsets(piece, part, below, above, point)
            low, high = np.where(met, np.minimum(low, least), low), np.where(met, np.maximum(high, most), high)
        return safe(low, high)


def _offsets(piece: Piece, x: Interval, below: Array, above: Array, point: Array | None) -> tuple[Array, Array]:
    """The least s(z) - below z and the largest s(z) - above z on one piece."""
    ends = (x.low, x.high)
    if piece.line is not None:
        slope, offset = piece.line
        low = [((slope - Interval.at(below)) * Interval.at(z) + offset).low for z in ends]
        high = [((slope - Interval.at(above)) * Interval.at(z) + offset).high for z in ends]
        return np.minimum(*low), np.maximum(*high)
    least = np.minimum(*((piece.value(Interval.at(z)) - Interval.at(z) * Interval.at(below)).low for z in ends))
    most = np.maximum(*((piece.value(Interval.at(z)) - Interval.at(z) * Interval.at(above)).high for z in ends))
    if point is None:
        raise UnreadableError("a bent piece of a function needs a point for its tangent")
    touch = Interval.at(np.clip(np.where(np.isnan(point), x.low, point), x.low, x.high))
    value, slope = piece.value(touch), piece.slope(touch)
    if piece.curvature == "concave":
        rest = [((slope - Interval.at(above)) * (Interval.at(z) - touch)).high for z in ends]
        most = (value - touch * Interval.at(above)).high
        return least, up(most + np.maximum(np.maximum(*rest), 0.0))
    rest = [((slope - Interval.at(below)) * (Interval.at(z) - touch)).low for z in ends]
    least = (value - touch * Interval.at(below)).low
    return down(least + np.minimum(np.minimum(*rest), 0.0)), most


ZERO = Interval.at(0.0)


def _sigmoidal(value: Map, slope: Map) -> Function:
    return Function((Piece("convex", value, slope), Piece("concave", value, slope)), (ZERO,))


def _gated(value: Map, slope: Map, far: float, first: Interval, turn: Interval) -> Function:
    """Concave, convex, concave, with opposite inflections; from -far on between 0 and its value at -far.

    Slopes are monotone on either side: beyond far they lie between that at far and 1, beyond -far between it and 0.
    """

    def near(function: Map, limit: float) -> Map:
        def image(x: Interval) -> Interval:
            found = function(x.clipped(-far, far if limit else np.inf))
            low = np.where(x.low < -far, np.minimum(found.low, 0.0), found.low)
            high = np.where(x.low < -far, np.maximum(found.high, 0.0), found.high)
            beyond = x.high > far if limit else np.zeros_like(x.high, dtype=bool)
            return Interval(np.where(beyond, np.minimum(low, 1.0), low), np.where(beyond, np.maximum(high, 1.0), high))

        return image

    value, slope = near(value, 0.0), near(slope, 1.0)
    pieces = tuple(Piece(curvature, value, slope) for curvature in ("concave", "convex", "concave"))
    return Function(pieces, (-first, first), (turn,))


def _silu(beta: float = 1.0) -> Function:
    scale = Interval.at(beta)

    def slope(x: Interval) -> Interval:
        return sigmoid(x * scale) + x * scale * bell_of_sigmoid(x * scale)

    first, turn = (enclosed(z) * scale.inverse() for z in (2.3993572805154677, -1.2784645427610738))
    return _gated(lambda x: x * sigmoid(x * scale), slope, 700.0 / beta, first, turn)


def _gelu() -> Function:
    def slope(x: Interval) -> Interval:
        return _share(x) + x * _density(x)

    return _gated(lambda x: x * _share(x), slope, 35.0, enclosed(math.sqrt(2.0)), enclosed(-0.7517915246935645))


def _exponential_unit(steep: Interval, height: Interval, scale: Interval) -> Function:
    """scale z right of 0, height (exp(steep z) - 1) left of it."""
    left = Piece(
        "convex", lambda x: expm1(x * steep).clipped(-1.0, 0.0) * height, lambda x: exp(x * steep) * height * steep
    )
    return Function((left, linear(scale, ZERO)), (ZERO,))


def _elu(alpha: float = 1.0, scale: float = 1.0, steep: float = 1.0) -> Function:
    if not (alpha >= 0 and scale > 0 and steep > 0):
        raise UnreadableError("an exponential unit has positive numbers")
    return _exponential_unit(Interval.at(steep), Interval.at(scale) * alpha, Interval.at(scale))


def _celu(alpha: float) -> Function:
    if not alpha > 0:
        raise UnreadableError("an exponential unit has positive numbers")
    return _exponential_unit(Interval.at(alpha).inverse(), Interval.at(alpha), Interval.at(1.0))


def _softplus(beta: float = 1.0) -> Function:
    scale = Interval.at(beta)
    return Function((Piece("convex", lambda x: softplus(x * scale) * scale.inverse(), lambda x: sigmoid(x * scale)),))


def _reciprocal() -> Function:
    pieces = tuple(Piece(curve, Interval.inverse, lambda x: -square(x.inverse())) for curve in ("concave", "convex"))
    return Function(pieces, (ZERO,), hole=True)


def _alone(
    curvature: str, value: Map, slope: Map, start: float = -math.inf, turns: tuple[Interval, ...] = ()
) -> Function:
    return Function((Piece(curvature, value, slope),), turns=turns, start=start)


SMOOTH: dict[str, Callable[..., Function]] = {
    "tanh": lambda: _sigmoidal(tanh, bell_of_tanh),
    "sigmoid": lambda: _sigmoidal(sigmoid, bell_of_sigmoid),
    "arctan": lambda: _sigmoidal(arctan, bell_of_arctan),
    "softsign": lambda: _sigmoidal(softsign, bell_of_softsign),
    "erf": lambda: _sigmoidal(erf, lambda x: exp(-square(x)) * BELL),
    "softplus": _softplus,
    "log_sigmoid": lambda: _alone("concave", lambda x: -softplus(-x), lambda x: sigmoid(-x)),
    "exp": lambda: _alone("convex", exp, exp),
    "expm1": lambda: _alone("convex", expm1, exp),
    "log": lambda: _alone("concave", log, Interval.inverse, 0.0),
    "log1p": lambda: _alone("concave", log1p, lambda x: (x + 1.0).inverse(), -1.0),
    "sqrt": lambda: _alone("concave", sqrt, lambda x: (sqrt(x) * 2.0).inverse(), 0.0),
    "rsqrt": lambda: _alone(
        "convex", lambda x: sqrt(x).inverse(), lambda x: sqrt(x).inverse() * x.inverse() * -0.5, 0.0
    ),
    "square": lambda: _alone("convex", square, lambda x: x * 2.0, turns=(ZERO,)),
    "reciprocal": _reciprocal,
    "elu": _elu,
    "celu": _celu,
    "gelu": _gelu,
    "silu": _silu,
}


def smooth(name: str, numbers: list[float]) -> Function:
    """One of the functions that are no lines, by its name and numbers.

    Raises:
        UnreadableError: when it is not known here.
    """
    if name not in SMOOTH or not all(math.isfinite(one) for one in numbers):
        raise UnreadableError(f"the function {name[:60]!r} is not known to the checker")
    if name in ("softplus", "silu") and not all(one > 0 for one in numbers):
        raise UnreadableError(f"{name} has a positive number")
    try:
        return SMOOTH[name](*numbers)
    except TypeError as error:
        raise UnreadableError(f"the function {name} does not take {len(numbers)} numbers") from error


def piecewise(slopes: list[list[Fraction]], offsets: list[list[Fraction]], breaks: list[list[Fraction]]) -> Function:
    """A continuous function of lines; every number is one for all entries, or a list with one for each.

    Raises:
        UnreadableError: when the pieces do not meet, which no Lipschitz continuous function does.
    """
    if not len(slopes) == len(offsets) == len(breaks) + 1:
        raise UnreadableError("a function of lines has one break between two pieces")
    for k, at in enumerate(breaks):
        width = max(map(len, (at, slopes[k], slopes[k + 1], offsets[k], offsets[k + 1])))
        numbers = [x * width if len(x) == 1 else x for x in (at, slopes[k], slopes[k + 1], offsets[k], offsets[k + 1])]
        if {len(x) for x in numbers} != {width}:
            raise UnreadableError("the numbers of a function of lines have different lengths")
        for z, a, b, c, d in zip(*numbers, strict=True):
            if a * z + c != b * z + d:
                raise UnreadableError("the pieces of a function of lines do not meet: it jumps")
        if k and any(
            one > other
            for one, other in zip(
                breaks[k - 1] * (len(at) if len(breaks[k - 1]) == 1 else 1),
                at * (len(breaks[k - 1]) if len(at) == 1 else 1),
                strict=True,
            )
        ):
            raise UnreadableError("the breaks of a function of lines do not ascend")
    ends = [tuple(map(_outward, part)) for part in (slopes, offsets, breaks)]
    pieces = tuple(linear(slope, offset) for slope, offset in zip(ends[0], ends[1], strict=True))
    return Function(pieces, ends[2], ends[2])


def _outward(numbers: list[Fraction]) -> Interval:
    """The floats around rational numbers; one interval for all entries where there is one number."""
    floats = np.array([float(x) for x in numbers])
    exact = np.array([Fraction(float(x)) == x for x in numbers])
    low, high = np.where(exact, floats, down(floats)), np.where(exact, floats, up(floats))
    return Interval(low[0], high[0]) if len(numbers) == 1 else Interval(low, high)
