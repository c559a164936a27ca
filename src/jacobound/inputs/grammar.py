"""The small grammars of the command line and of plans: radii, rows, norms, factors."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Context, Decimal, DecimalException, InvalidOperation, localcontext
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.errors import InvalidRegionError, ShapeError

MOST_RADII = 10_000
MOST_DIGITS = 400  # before or behind the point; floats end before that
RADIUS_HELP = "give a number, a ratio, a comma list, START:STOP:COUNT (even steps) or START:STOP:COUNTlog (even ratios)"
ROWS_HELP = "give outputs and margins between commas: 3 is output 3, 3-5 is output 3 minus output 5"


def parse_radii(text: str) -> list[Decimal | Fraction]:
    """Radii as exact decimals and ratios, for `Ball` to round outward.

    The ends of a range are the numbers given; those between are rounded to 12 significant digits.

    Args:
        text: "0.1", "8/255", "0.1,0.2", "0.1:0.4:4" (even steps), "0.001:0.1:3log" (even ratios), or a comma list
            of these.

    Raises:
        InvalidRegionError: when the text is none of this, or a radius is negative or not finite.
    """
    found = [radius for part in text.split(",") for radius in _radii(part.strip(), text)]
    if len(found) > MOST_RADII:
        raise InvalidRegionError(f"'{text}' asks for {len(found)} radii; at most {MOST_RADII} are accepted")
    return found


def _radii(part: str, text: str) -> Iterator[Decimal | Fraction]:
    ends = part.split(":")
    if len(ends) == 1:
        yield _ratio(part, text) if "/" in part else _radius(part, text)
        return
    match = re.fullmatch(r"([0-9]{1,9})(log)?", ends[-1].strip(), flags=re.ASCII)
    if len(ends) != 3 or match is None:
        raise InvalidRegionError(f"'{part}' is not a range of radii; {RADIUS_HELP}")
    start, stop, count = _radius(ends[0], text), _radius(ends[1], text), int(match[1])
    if count < 2 or count > MOST_RADII:
        raise InvalidRegionError(f"'{part}': a range has 2 to {MOST_RADII} radii, not {count}; for one give the number")
    if match[2] and not (start > 0 and stop > 0):
        raise InvalidRegionError(f"'{part}': even ratios need both ends above 0; use START:STOP:COUNT for even steps")
    yield start
    with localcontext(Context(prec=40)):
        for k in range(1, count - 1):
            share = Decimal(k) / (count - 1)
            between = start * (stop / start) ** share if match[2] else start + (stop - start) * share
            yield Context(prec=12).plus(between)
    yield stop


def _ratio(number: str, text: str) -> Fraction:
    if re.fullmatch(r"\s*[0-9]{1,300}\s*/\s*0*[1-9][0-9]{0,300}\s*", number, flags=re.ASCII) is None:
        raise InvalidRegionError(f"'{number}' in the radius '{text}' is no ratio such as 8/255; {RADIUS_HELP}")
    return Fraction(*map(int, number.split("/")))


def _radius(number: str, text: str) -> Decimal:
    try:
        radius = Decimal(number.strip())
    except InvalidOperation:
        raise InvalidRegionError(f"'{number}' in the radius '{text}' is not a number; {RADIUS_HELP}") from None
    if not radius.is_finite() or radius < 0:
        raise InvalidRegionError(f"a radius must be a finite number >= 0, not '{number}'")
    return radius


def parse_rows(text: str) -> list[tuple[int, int | None]]:
    """Outputs and margins: "3" is (3, None), "3-5" is (3, 5).

    Raises:
        ShapeError: when the text is no such list.
    """
    rows = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part, flags=re.ASCII)
        if match is None:
            raise ShapeError(f"'{part}' in the rows '{text}' is not an output; {ROWS_HELP}")
        rows.append((int(match[1]), None if match[2] is None else int(match[2])))
    return rows


def parse_classes(text: str) -> list[int]:
    """Numbers of classes: "3,5".

    Raises:
        ShapeError: when the text is no such list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,9}", part, flags=re.ASCII) for part in parts):
        raise ShapeError(f"'{text}' is no list of classes; give numbers separated by commas, such as 3,5")
    return [int(part) for part in parts]


def row_matrix(rows: list[tuple[int, int | None]], outputs: int) -> Tensor:
    """The combinations as a matrix of shape (rows, outputs).

    Raises:
        ShapeError: when the network has no such output, or a margin compares an output with itself.
    """
    matrix = torch.zeros(len(rows), outputs, dtype=torch.float64)
    for place, (plus, minus) in enumerate(rows):
        for output in (plus, minus):
            if output is not None and output >= outputs:
                raise ShapeError(f"there is no output {output}: this network has the outputs 0 to {outputs - 1}")
        if plus == minus:
            raise ShapeError(f"the margin {plus}-{minus} is always 0; {ROWS_HELP}")
        matrix[place, plus] = 1.0
        if minus is not None:
            matrix[place, minus] = -1.0
    return matrix


def row_names(rows: list[tuple[int, int | None]] | None, outputs: int) -> list[str]:
    """What to call the rows in a table."""
    if rows is None:
        return [str(output) for output in range(outputs)]
    return [str(plus) if minus is None else f"{plus}-{minus}" for plus, minus in rows]


def parse_fraction(text: str, option: str) -> Fraction:
    """A number as it stands: decimal or a ratio like 1/255.

    Raises:
        InvalidRegionError: when it is neither.
    """
    try:
        if "/" not in text and not abs(Decimal(text.strip()).adjusted()) < MOST_DIGITS:
            raise ValueError("far beyond all floats")
        return Fraction(text)
    except (ValueError, ZeroDivisionError, DecimalException):
        raise InvalidRegionError(f"{option} takes a number or a ratio such as 1/255, not '{text}'") from None


def parse_numbers(text: str, option: str) -> str | list[float]:
    """One number or ratio as it stands, or several decimals between commas as the nearest floats.

    Raises:
        InvalidRegionError: when it is neither.
    """
    if "," not in text:
        parse_fraction(text, option)
        return text
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidRegionError(f"{option} takes numbers between commas, not '{text}'") from None
    return found


def parse_indices(text: str, option: str = "--index") -> list[int]:
    """Entries of an array: "3", "0,3,5", or "0:10" for 0 to 9.

    Raises:
        InvalidRegionError: when it is none of this, or too many.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?::\s*([0-9]{1,9})\s*)?", part, flags=re.ASCII)
        if match is None:
            raise InvalidRegionError(f"{option} takes a number, 0,3,5 or 0:10 (0 to 9), not '{text}'")
        start, stop = int(match[1]), int(match[1]) + 1 if match[2] is None else int(match[2])
        if not start < stop <= start + MOST_RADII:
            raise InvalidRegionError(
                f"{option} {part}: a range START:STOP has START < STOP and at most {MOST_RADII} entries"
            )
        found += range(start, stop)
    return found


def parse_clip(ends: tuple[str, str]) -> tuple[float, float]:
    """The valid range as floats that enclose the decimals given.

    Raises:
        InvalidRegionError: when an end is not a number or they are crossed.
    """
    try:
        low, high = (Decimal(end) for end in ends)
        crossed = not low <= high
    except DecimalException:
        raise InvalidRegionError(f"--clip takes two numbers, LOW and HIGH, not '{' '.join(ends)}'") from None
    if crossed:
        raise InvalidRegionError(f"--clip LOW HIGH needs LOW <= HIGH, not {low} and {high}")
    below, above = float(low), float(high)
    if Decimal(below) > low:
        below = math.nextafter(below, -math.inf)
    if Decimal(above) < high:
        above = math.nextafter(above, math.inf)
    return below, above
