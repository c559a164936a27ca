"""Each section as HTML: facts as a list, tables, figures with their captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from jacobound.reports.page import drawings, maps
from jacobound.reports.page.markup import EMPTY, Markup, element, joined
from jacobound.reports.page.sections import (
    Accuracy,
    Brackets,
    Cell,
    Column,
    Curve,
    Curves,
    Facts,
    HeatMap,
    Intervals,
    Section,
    Table,
)
from jacobound.words import rounded_down, rounded_up

FILTERED = 8  # rows from which a table has a filter


@dataclass(frozen=True)
class Room:
    """How much a page may hold, and its ids.

    Args:
        rows: of one table at most.
        cells: of heat maps of one answer at most.
        figures: of one answer at most.
        answers: that are told in full; the overview has all.
        numbers: from which ids are made.
    """

    rows: int = 2000
    cells: int = 12000
    figures: int = 8
    answers: int = 500
    numbers: count[int] = field(default_factory=lambda: count(1))

    def id(self, what: str) -> str:
        """An id that the page has once."""
        return f"{what}{next(self.numbers)}"


def facts_block(facts: Sequence[tuple[str, str]]) -> Markup:
    """Named facts as a list of descriptions."""
    return element("dl", *(joined(element("dt", name), element("dd", told)) for name, told in facts))


def sections_block(sections: Sequence[Section], room: Room) -> Markup:
    """Sections below each other, and what was left out."""
    blocks, cells, figures, missing = [], 0, 0, 0
    for section in sections:
        if isinstance(section, Table | Facts):
            blocks.append(section_block(section, room))
            continue
        size = len(section.lower) * len(section.lower[0]) if isinstance(section, HeatMap) and section.lower else 0
        if figures >= room.figures or cells + size > room.cells:
            missing += 1
            continue
        blocks.append(section_block(section, room))
        figures, cells = figures + 1, cells + size
    if missing:
        blocks.append(
            element("p", f"{missing} more figures are left out; the results hold all numbers.", class_="soft")
        )
    return joined(*blocks)


def section_block(section: Section, room: Room) -> Markup:
    """One section under its title."""
    match section:
        case Facts():
            return joined(element("h3", section.title), facts_block(section.facts))
        case Table():
            return joined(element("h3", section.title), table_block(section, room))
        case Curves():
            return joined(*(_curves(section.title, part, room) for part in _few(labelled_curves(section.curves))))
        case Accuracy():
            return accuracies_block("Certified accuracy against attack", [("", section)], room)
        case Brackets():
            rest = _rest(len(section.names), drawings.MOST_NAMES)
            return _figure(section.title, lambda: drawings.pairs_figure(section), rest, room)
        case Intervals():
            rest = _rest(len(section.names), drawings.MOST_NAMES)
            return _figure(section.title, lambda: drawings.intervals_figure(section), rest, room)
        case HeatMap():
            words = "Hover over a field for its bounds. Colours: the middle of the bounds; grey: sign not certified."
            return _figure(section.title, lambda: maps.map_figure(section), words, room)


def _rest(count: int, most: int) -> str:
    return f"The first {most} of {count}; the table has all." if count > most else ""


def table_block(table: Table, room: Room, link: Callable[[int], str | None] | None = None) -> Markup:
    """A table that can be scrolled, sorted and filtered.

    Args:
        table: what it shows.
        room: how much of it.
        link: from the first cell of each row to a place on the page.
    """
    if not table.rows:
        return element("p", "Nothing to list.", class_="soft")
    name, shown = room.id("table"), table.rows[: room.rows]
    said = f"{len(table.rows)} rows" if len(table.rows) > 1 else "1 row"
    if len(shown) < len(table.rows):
        said = f"the first {len(shown)} of {said}; the results hold all"
    heads = (
        element("th", column.title, scope="col", class_=None if column.kind == "text" else "number")
        for column in table.columns
    )
    rows = (_row(row, table.columns, None if link is None else link(k)) for k, row in enumerate(shown))
    made = element(
        "table",
        element("caption", f"{table.title}: {said}. {table.note}".rstrip()),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        id=name,
        data_sortable=len(shown) > 1,
    )
    scrolled = element("div", made, class_="scroll", tabindex="0", role="region", aria_label=f"table: {table.title}")
    return joined(_filter(name, len(shown)) if len(shown) > FILTERED else EMPTY, scrolled)


def _filter(table: str, rows: int) -> Markup:
    """Where rows are chosen by words; hidden until a script can do it."""
    label = element("label", "Show rows with (several between commas)", for_=f"{table}-filter")
    typed = element("input", type="search", id=f"{table}-filter", autocomplete="off", aria_controls=table)
    told = element("output", f"{rows} of {rows} rows", for_=f"{table}-filter", class_="soft")
    return element("div", label, typed, told, class_="filter", data_filters=table, hidden=True)


def _row(row: Sequence[Cell], columns: Sequence[Column], link: str | None) -> Markup:
    cells = [_content(cell, column) for cell, column in zip(row, columns, strict=True)]
    if link is not None:
        cells[0] = element("a", cells[0], href=link)
    classes = ["number" if column.kind != "text" else None for column in columns]
    return element("tr", *(element("td", cell, class_=one) for cell, one in zip(cells, classes, strict=True)))


def _content(cell: Cell, column: Column) -> Markup:
    """What a cell holds; numbers are rounded to the safe side and carry their exact value."""
    if isinstance(cell, str):
        return joined(cell)
    return element("data", cell if isinstance(cell, int) else told_number(cell, column), value=repr(cell))


def told_number(value: float, column: Column) -> str:
    """A number as the column shows it."""
    if not math.isfinite(value):
        return {math.inf: "∞", -math.inf: "−∞"}.get(value, "none")
    told = {"lower": rounded_down, "upper": rounded_up}.get(column.kind)
    return f"{value:.6g}" if told is None else told(value)


def labelled_curves(curves: Sequence[Curve]) -> list[tuple[str, Curve]]:
    """Curves with equal parts joined, each called by the parts in which it differs from the others."""
    found: dict[tuple[tuple[str, str], ...], list[tuple[float, float, float]]] = {}
    for curve in curves:
        found.setdefault(curve.parts, []).extend(curve.points)
    labels = differences(list(found), "constant")
    return [(label, Curve(parts, tuple(found[parts]))) for label, parts in zip(labels, found, strict=True)]


def differences(several: Sequence[tuple[tuple[str, str], ...]], alone: str) -> list[str]:
    """What each of several things is called: by as few of its parts as tell all of them apart, the first ones first."""
    told = [dict(parts) for parts in several]
    labels = [""] * len(told)
    for name in dict.fromkeys(name for parts in told for name in parts):
        longer = [", ".join(filter(None, (label, parts.get(name)))) for label, parts in zip(labels, told, strict=True)]
        labels = longer if len(set(longer)) > len(set(labels)) else labels
    return [label or alone for label in labels]


def _few(labelled: list[tuple[str, Curve]]) -> list[list[tuple[str, Curve]]]:
    """As many curves together as there are colours."""
    most = drawings.MOST_CURVES
    return [labelled[k : k + most] for k in range(0, len(labelled), most)]


def _curves(title: str, labelled: list[tuple[str, Curve]], room: Room) -> Markup:
    places = sum(len(curve.points) for _, curve in labelled)
    shown = sum(0 < end < math.inf for _, curve in labelled for point in curve.points for end in point[1:])
    words = "Full lines: the constant is at most this; dashed lines: at least this. Hover over a mark for its value."
    if shown < 2 * places:
        words += f" {2 * places - shown} ends that are 0 or infinite have no place on a logarithmic axis."
    figure = _figure(title, lambda: drawings.curves_figure(labelled), words, room)
    return joined(figure, table_block(curves_table(labelled), room))


def curves_table(labelled: Sequence[tuple[str, Curve]]) -> Table:
    """The numbers of a figure of constants."""
    columns = (Column("constant"), Column("radius", "number"), Column("lower", "lower"), Column("upper", "upper"))
    rows = tuple((label, *point) for label, curve in labelled for point in curve.sorted.points)
    return Table("Constants over radius", columns, rows)


def accuracies_block(title: str, accuracies: Sequence[tuple[str, Accuracy]], room: Room) -> Markup:
    """Certified accuracy against attack, with its numbers."""
    words = (
        "Certified: the label is proved to hold within the radius. Not attacked: no attack that was tried moved it; "
        "the truth lies between the two lines. The share counts as accuracy where the labels are those of a data set."
    )
    columns = (Column("of"), Column("points", "whole"), Column("radius", "number"), Column("certified", "number"))
    rows = tuple(
        (label or "all points", len(one.held), radius, one.certified(radius), one.unattacked(radius))
        for label, one in accuracies
        for radius in drawings.accuracy_radii(one)
    )
    table = Table("Shares of the points", (*columns, Column("not attacked", "number")), rows)
    figure = _figure(title, lambda: drawings.accuracy_figure(accuracies), words, room)
    return joined(figure, table_block(table, room))


def _figure(title: str, make: Callable[[], tuple[drawings.Figure, drawings.Hover]], words: str, room: Room) -> Markup:
    """A figure below its title."""
    picture = drawings.drawn(make, room.id("figure"), title)
    wide = 'class="wide"' in picture[:400]
    if wide:
        picture = element("div", picture, class_="scroll", tabindex="0", role="region", aria_label=f"figure: {title}")
    caption = element("figcaption", words) if words else EMPTY
    return joined(element("h3", title), element("figure", picture, caption, class_="broad" if wide else None))
