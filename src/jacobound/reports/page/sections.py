"""What a page can hold: `Answer`s of typed sections, plain numbers and words that know nothing of HTML or of figures.

Whatever can be told in these sections can be shown: results, rows of a store, verdicts. Numbers are exact here; the
page rounds what it shows to the safe side and keeps the exact values beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from jacobound.errors import ShapeError

Cell = str | int | float
Kind = Literal["text", "whole", "number", "lower", "upper"]

# How numbers of a column are rounded: lower bounds down, upper bounds up, others to the nearest.
KINDS: Mapping[str, Kind] = {
    "lower": "lower",
    "upper": "upper",
    "radius": "lower",
    "margin": "lower",
    "attack_radius": "upper",
    "vanishing_radius": "upper",
    "swing": "upper",
    "slack": "upper",
    "gap": "upper",
}
TITLES = {"attack_radius": "attacked at", "vanishing_radius": "zero gradient within", "radius": "certified radius"}


APART = "networks with other inputs or outputs belong on a page of their own"


@dataclass(frozen=True)
class Names:
    """What inputs and outputs are called, where the user says so.

    Args:
        features: one name for each input entry, in row-major order; empty for numbers.
        outputs: one name for each output of the network; empty for numbers.
        image: (height, width) of an image whose entries lie in a row; None for the input's own shape.
    """

    features: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    image: tuple[int, int] | None = None

    def inputs(self, shape: Sequence[int], chosen: Sequence[int] | None = None) -> list[str]:
        """The name of every input entry, or of the chosen ones by their flat places.

        Raises:
            ShapeError: when there are other numbers of names and entries.
        """
        if chosen is not None:
            if self.features and len(self.features) <= max(chosen, default=0):
                told = f"{len(self.features)} names of features, and derivatives by input {max(chosen)}"
                raise ShapeError(f"{told}; give a name for each input of the network; {APART}")
            return [self.features[k] if self.features else f"input {k}" for k in chosen]
        count = math.prod(shape)
        if self.features and len(self.features) != count:
            raise ShapeError(f"{len(self.features)} names of features for {count} inputs; give one for each; {APART}")
        return list(self.features) or [f"input {k}" for k in range(count)]

    def rows(self, matrix: Tensor | None, count: int) -> list[str]:
        """The name of every row: of the output, of the difference of two, or its number.

        Raises:
            ShapeError: when there are other numbers of names and outputs.
        """
        outputs = count if matrix is None else matrix.shape[-1]
        if self.outputs and len(self.outputs) != outputs:
            raise ShapeError(f"{len(self.outputs)} names of outputs for {outputs} outputs; give one for each; {APART}")
        called = list(self.outputs) or [f"output {k}" for k in range(outputs)]
        if matrix is None or len(matrix) != count:
            return called if len(called) == count else [f"row {k}" for k in range(count)]
        return [_row_name(row, called, k) for k, row in enumerate(matrix.tolist())]

    def picture(self, shape: Sequence[int]) -> tuple[int, int, int] | None:
        """Channels, height and width where the input is an image, else None.

        Raises:
            ShapeError: when the image that the user speaks of has another number of entries.
        """
        count = math.prod(shape)
        if self.image is not None:
            if count % max(1, math.prod(self.image)):
                raise ShapeError(
                    f"{count} inputs can not be arranged as images of {self.image[0]} x {self.image[1]}; {APART}"
                )
            return (count // math.prod(self.image), *self.image)
        sides = [side for side in shape if side != 1]
        if len(sides) == 3 and sides[0] <= 4 and min(sides[1:]) >= 4:
            return sides[0], sides[1], sides[2]
        return (1, sides[0], sides[1]) if len(sides) == 2 and min(sides) >= 4 else None


def _row_name(row: list[float], called: list[str], k: int) -> str:
    parts = {j: value for j, value in enumerate(row) if value}
    if len(parts) == 1 and 1.0 in parts.values():
        return called[next(iter(parts))]
    if len(parts) == 2 and sorted(parts.values()) == [-1.0, 1.0]:
        first, second = sorted(parts, key=lambda j: -parts[j])
        return f"{called[first]} - {called[second]}"
    return f"row {k}"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        title: its head.
        kind: what its cells are; lower bounds are shown rounded down, upper ones up.
    """

    title: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Table:
    """Rows that can be sorted and filtered."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @staticmethod
    def of(title: str, rows: Sequence[Mapping[str, object]], note: str = "", **titles: str) -> Table:
        """A table of plain rows such as `Result.table` gives; kinds follow from the columns' names.

        Args:
            title: of the table.
            rows: all with the same names.
            note: what there is to say about it.
            titles: heads of columns that shall not be called by their names.
        """
        names = list(rows[0]) if rows else []
        heads = TITLES | titles
        columns = tuple(Column(heads.get(name, name.replace("_", " ")), _kind(name, rows)) for name in names)
        return Table(title, columns, tuple(tuple(_cell(row[name]) for name in names) for row in rows), note)


def _kind(name: str, rows: Sequence[Mapping[str, object]]) -> Kind:
    values = [row[name] for row in rows]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "text"
    return KINDS.get(name) or ("whole" if all(isinstance(value, int) for value in values) else "number")


def _cell(value: object) -> Cell:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Facts:
    """Named facts, in their order."""

    title: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Curve:
    """A constant over radii.

    Args:
        parts: what the curve is about, by name; equal parts make one curve, also from several answers.
        points: (radius, lower end, upper end).
    """

    parts: tuple[tuple[str, str], ...]
    points: tuple[tuple[float, float, float], ...]

    @property
    def sorted(self) -> Curve:
        """With rising radii."""
        return replace(self, points=tuple(sorted(set(self.points))))


@dataclass(frozen=True)
class Curves:
    """Constants over radius, both ends; curves of several answers with equal parts are joined on one page."""

    title: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Accuracy:
    """Certified accuracy against attack.

    Args:
        parts: what it is about, by name; those of several answers with equal parts are joined on one page.
        held: certified radius of every point; negative where not even the point itself is decided.
        attacked: distance of the nearest attack on it, inf where there is none.
    """

    parts: tuple[tuple[str, str], ...]
    held: tuple[float, ...]
    attacked: tuple[float, ...]

    def certified(self, radius: float) -> float:
        """Share of the points that hold within a radius."""
        return sum(value >= radius for value in self.held) / max(1, len(self.held))

    def unattacked(self, radius: float) -> float:
        """Share of the points that were decided and that no attack moved within a radius."""
        pairs = zip(self.held, self.attacked, strict=True)
        return sum(held >= 0 and attack > radius for held, attack in pairs) / max(1, len(self.held))


@dataclass(frozen=True)
class Brackets:
    """Two ends for each name, such as a certified radius and the distance of an attack.

    Args:
        title: of the figure.
        names, first, second: one entry each.
        words: what the first and the second number are.
        axis: what both measure.
    """

    title: str
    names: tuple[str, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    words: tuple[str, str]
    axis: str


@dataclass(frozen=True)
class Intervals:
    """An interval for each name.

    Args:
        title: of the figure.
        names, lower, upper: one entry each.
        axis: what the intervals bound.
        words: a word for each name, by which it is coloured; empty for whether the sign is certified.
    """

    title: str
    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    axis: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class HeatMap:
    """Bounds of every entry of a rectangle, the middle coloured, grey where the sign is not certified.

    Args:
        title: of the figure.
        lower, upper: row by row.
        rows, columns: names of rows and columns; empty for an image, whose pixels are told by their place.
        entry: what one entry is, such as "d output 3".
    """

    title: str
    lower: tuple[tuple[float, ...], ...]
    upper: tuple[tuple[float, ...], ...]
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    entry: str = ""


Section = Table | Facts | Curves | Accuracy | Brackets | Intervals | HeatMap


@dataclass(frozen=True)
class Check:
    """What a second program said of a certificate.

    Args:
        by: the program and its version.
        passed: whether it proved the answer again.
        said: its words.
        certificate: name and SHA-256 of the file.
    """

    by: str
    passed: bool
    said: str
    certificate: str = ""


@dataclass(frozen=True)
class Answer:
    """One answer on a page.

    Args:
        kind: what was asked, such as "Lipschitz constant".
        headline: the answer in one line.
        status, meaning: the word of `Status` and what it means.
        certified: whether the answer is proved.
        claim: what is proved, in a sentence.
        assumptions: under what.
        asked, found: the question, and how the answer was found, as named facts.
        sections: its tables and figures.
        failures: (who, why) of what could not answer.
        network: what the overview calls the network.
        method: what the overview calls the method.
        seconds: wall-clock time.
        source: the file that it was read from.
        check: what a second program said; None for an answer that was not checked.
    """

    kind: str
    headline: str
    status: str
    meaning: str
    certified: bool
    claim: str = ""
    assumptions: tuple[str, ...] = ()
    asked: tuple[tuple[str, str], ...] = ()
    found: tuple[tuple[str, str], ...] = ()
    sections: tuple[Section, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    network: str = ""
    method: str = ""
    seconds: float = 0.0
    source: str = ""
    check: Check | None = None


@dataclass(frozen=True)
class Page:
    """Everything that a page shows.

    Args:
        title: of the page.
        answers: one article each.
        sections: of the page as a whole, before the answers; a store's tables and figures.
        failures: (who, why) of what was asked and has no answer.
    """

    title: str
    answers: tuple[Answer, ...] = ()
    sections: tuple[Section, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
