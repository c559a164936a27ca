"""Interpolation along one axis as a matrix of rational weights, for resizing in torch and ONNX.

Weights are exact: the positions are rational numbers, so are polynomials of them. Two-dimensional resizing is one such
matrix per axis. Sources: the definitions of torch.nn.functional.interpolate and of ONNX Resize; cubic convolution by
R. G. Keys (1981).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, floor

from jacobound.errors import UnsupportedOpError

HALF = Fraction(1, 2)

ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "floor": floor,
    "ceil": ceil,
    "round_prefer_floor": lambda place: ceil(place - HALF),
    "round_prefer_ceil": lambda place: floor(place + HALF),
}


def interpolation(
    length_in: int,
    length_out: int,
    *,
    mode: str,
    position: Callable[[int], Fraction],
    cubic_coeff: Fraction = Fraction(-3, 4),
    exclude_outside: bool = False,
    nearest_rounding: str = "floor",
) -> list[dict[int, Fraction]]:
    """For every entry of the result the weights of the entries of the input; they sum to one.

    Args:
        length_in, length_out: lengths of the axis before and after.
        mode: "nearest" (one entry, chosen by `nearest_rounding`), "nearest-exact" (the nearest one, the larger of two
            equally near), "linear", "cubic", or "area" (means over windows, whatever the positions).
        position: where an entry of the result lies, counted in entries of the input, whose centres are 0, 1, ...
        cubic_coeff: the free number of cubic convolution: -3/4 in torch and by default in ONNX.
        exclude_outside: whether entries beyond the ends get no weight, and the others more; otherwise the first and
            the last entry stand for them.
        nearest_rounding: "floor", "ceil", "round_prefer_floor" or "round_prefer_ceil".

    Raises:
        UnsupportedOpError: for a mode or rounding that is not known.
    """
    if min(length_in, length_out) < 1:
        raise UnsupportedOpError(f"It resizes an axis from {length_in} to {length_out} entries.")
    if mode == "area":
        spans = [(i * length_in // length_out, -(-(i + 1) * length_in // length_out)) for i in range(length_out)]
        return [dict.fromkeys(range(start, stop), Fraction(1, stop - start)) for start, stop in spans]
    rounding = "round_prefer_ceil" if mode == "nearest-exact" else nearest_rounding
    if mode not in ("nearest", "nearest-exact", "linear", "cubic") or rounding not in ROUNDINGS:
        raise UnsupportedOpError(f"Resizing in the mode '{mode}' with the rounding '{rounding}' is not understood.")
    found = []
    for i in range(length_out):
        place = Fraction(position(i))
        if mode.startswith("nearest"):
            taps = {ROUNDINGS[rounding](place): Fraction(1)}
        else:
            start = floor(place)
            share = place - start
            taps = {start: 1 - share, start + 1: share} if mode == "linear" else _cubic(start, share, cubic_coeff)
        found.append(_within(taps, length_in, exclude_outside and mode in ("linear", "cubic")))
    return found


def _cubic(start: int, share: Fraction, a: Fraction) -> dict[int, Fraction]:
    """Keys' kernel at the four entries around a place."""

    def near(t: Fraction) -> Fraction:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Fraction) -> Fraction:
        return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a

    return {start - 1: far(1 + share), start: near(share), start + 1: near(1 - share), start + 2: far(2 - share)}


def _within(taps: dict[int, Fraction], length: int, exclude_outside: bool) -> dict[int, Fraction]:
    """Weights on 0 ... length - 1, without those that are zero."""
    found: dict[int, Fraction] = {}
    for place, weight in taps.items():
        inside = min(max(place, 0), length - 1)
        if inside == place or not exclude_outside:
            found[inside] = found.get(inside, Fraction(0)) + weight
    total = sum(found.values(), Fraction(0))
    if not total:
        raise UnsupportedOpError("An entry of the result lies outside the input, where nothing has a weight.")
    return {place: weight / total for place, weight in found.items() if weight}
