"""Numbers, tables and networks in words: decimals rounded to the safe side, plain tables without control characters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal

DIGITS = 6  # significant digits of a printed bound
SCREEN = 80  # characters of a line


def rounded_up(value: float) -> str:
    """A decimal that is not below the value, so that a printed upper bound still holds."""
    return _decimal(value, ROUND_CEILING, DIGITS)


def rounded_down(value: float) -> str:
    """A decimal that is not above the value, so that a printed lower bound still holds."""
    return _decimal(value, ROUND_FLOOR, DIGITS)


def nearest(value: float, digits: int = DIGITS) -> str:
    """The nearest decimal, for numbers that nothing rests upon."""
    return _decimal(value, ROUND_HALF_EVEN, digits)


def _decimal(value: float, rounding: str, digits: int) -> str:
    if not math.isfinite(value):
        return str(value)
    found = Context(prec=digits, rounding=rounding).create_decimal(Decimal(value))
    return f"{found:f}" if -5 <= found.adjusted() < 7 or not found else f"{found:.{digits - 1}e}"


def not_finite(what: str, *, nan: bool) -> str:
    """Why a weight with NaN, or with infinite entries only, is refused."""
    if nan:
        return f"{what} has a NaN entry; nothing can be certified for this model. Check the training run or the file"
    return (
        f"{what} has an infinite entry, which is no weight. If it is a mask, as before a softmax, write a large finite "
        "number such as -1e9 in its place; if it is a limit that never holds, leave it out"
    )


def printable(text: object) -> str:
    """Text without control characters: names in a file that somebody sent must not steer the terminal."""
    told = str(text)
    if told.isprintable():
        return told
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in told)


@dataclass(frozen=True)
class Table:
    """A table whose rows can be written one by one.

    Args:
        titles: heads of the columns; one that starts with "<" is aligned to the left, others to the right.
        widths: least number of characters of each column.
    """

    titles: tuple[str, ...]
    widths: tuple[int, ...]

    def head(self) -> str:
        """Titles and a rule below them."""
        titles = self.row([title.lstrip("<") for title in self.titles])
        return f"{titles}\n{'-' * max(len(titles), sum(self.widths) + 2 * len(self.widths) - 2)}"

    def row(self, cells: Sequence[object]) -> str:
        """One line."""
        placed = (
            f"{printable(cell):{'<' if title.startswith('<') else '>'}{width}}"
            for cell, title, width in zip(cells, self.titles, self.widths, strict=True)
        )
        return "  ".join(placed).rstrip()


def table_text(titles: tuple[str, ...], rows: Iterable[Sequence[object]], widest: int = 1 << 20) -> str:
    """A table with columns as wide as their content.

    Args:
        widest: characters of a line; text (not numbers) is cut where it would be longer.
    """
    lines = [[printable(cell) for cell in row] for row in rows]
    heads = [title.lstrip("<") for title in titles]
    widths = [max(map(len, column)) for column in zip(heads, *lines, strict=True)]
    text = [k for k, title in enumerate(titles) if title.startswith("<")]
    while text and sum(widths) + 2 * len(widths) - 2 > widest:
        longest = max(text, key=lambda k: widths[k] - len(heads[k]))
        if widths[longest] <= max(len(heads[longest]), 6):
            break
        widths[longest] -= 1
    for line in lines:
        for k in text:
            line[k] = cut(line[k], widths[k])
    table = Table(titles, tuple(widths))
    return "\n".join([table.head(), *map(table.row, lines)])


def cut(text: str, width: int) -> str:
    """Text within a width, with dots where something is left out."""
    return text if len(text) <= width else f"{text[: width - 2]}.."


def told(value: object) -> str:
    """Shapes as 3 x 28 x 28, lists of names with commas, other things as they are."""
    if not isinstance(value, tuple):
        return str(value)
    numbers = bool(value) and all(isinstance(item, int) for item in value)
    return (" x " if numbers else ", ").join(map(str, value))


def sizes_text(totals: Mapping[str, object]) -> str:
    """The sizes of a network in one line, from `Graph.totals`."""

    def sides(shape: object) -> str:
        return f" ({told(shape)})" if isinstance(shape, tuple) and len(shape) > 1 else ""

    return (
        f"{totals['inputs']} inputs{sides(totals['input_shape'])}, "
        f"{totals['outputs']} outputs{sides(totals['output_shape'])}, "
        f"{totals['activations']} activations, {totals['parameters']} parameters"
    )
