"""Bounds as sections of a page: outputs, entries of Jacobians, constants, and answers to questions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from jacobound.reports.page.sections import (
    Accuracy,
    Brackets,
    Curve,
    Curves,
    HeatMap,
    Intervals,
    Names,
    Section,
    Table,
)
from jacobound.reports.shown import Bounds, Bracket, Features, Landscape, Radius

Rows = Sequence[Mapping[str, object]]
FIELDS = 40  # inputs with a column of their own in a heat map


def output_sections(found: Bounds, table: Rows, sets: Sequence[str], rows: Sequence[str]) -> list[Section]:
    """Intervals of the outputs, a figure for each set, and their table."""
    lower, upper = (_numbers(end).reshape(len(sets), -1) for end in (found.lower, found.upper))
    figures: list[Section] = [
        Intervals(_titled("Bounds of the outputs", called, sets), tuple(rows), _plain(low), _plain(high), "value")
        for called, low, high in zip(sets, lower, upper, strict=True)
    ]
    return [*figures, _told(table, "Bounds of the outputs", set=sets, output=rows)]


def jacobian_sections(
    found: Bounds,
    table: Rows,
    sets: Sequence[str],
    rows: Sequence[str],
    inputs: Sequence[str],
    picture: tuple[int, int, int] | None,
) -> list[Section]:
    """A heat map of each set: over the image for each row, else a field for each row and input; and the table.

    Args:
        found: bounds of shape (*sets, rows, *input shape).
        table: its rows as plain numbers.
        sets, rows, inputs: their names.
        picture: channels, height and width of an input that is an image.
    """
    lower, upper = (_numbers(end).reshape(len(sets), len(rows), -1) for end in (found.lower, found.upper))
    sections: list[Section] = []
    for k, called in enumerate(sets):
        if picture is None:
            sections.append(_fields(lower[k], upper[k], rows, inputs, _titled("Bounds of the Jacobian", called, sets)))
            continue
        for j, row in enumerate(rows):
            for c in range(picture[0]):
                title = _titled(f"d {row} / d pixel", called, sets) + (f", channel {c}" if picture[0] > 1 else "")
                low, high = (end[k, j].reshape(picture)[c] for end in (lower, upper))
                sections.append(HeatMap(title, _rows(low), _rows(high), entry=f"d {row}"))
    return [*sections, _told(table, "Bounds of every entry", set=sets, row=rows, input=inputs)]


def _fields(lower: Tensor, upper: Tensor, rows: Sequence[str], inputs: Sequence[str], title: str) -> HeatMap:
    """Fields of all inputs, or of those that may matter most."""
    if len(inputs) > FIELDS:
        size = torch.maximum(lower.abs(), upper.abs()).nan_to_num(math.inf).amax(0)
        kept = size.argsort(descending=True, stable=True)[:FIELDS].sort().values
        lower, upper = lower[:, kept], upper[:, kept]
        inputs = [inputs[int(j)] for j in kept]
        title += f", the {FIELDS} inputs that may matter most"
    return HeatMap(title, _rows(lower), _rows(upper), tuple(rows), tuple(inputs))


def constant_sections(
    bound: Bracket, table: Rows, sets: Sequence[str], parts: Sequence[tuple[tuple[str, str], ...]]
) -> list[Section]:
    """Curves over the radii, one for each point, and the table.

    Args:
        bound: both ends, shape (*radii, *batch).
        table: its rows as plain numbers.
        sets: names of the sets, radius by radius.
        parts: what the curve of each point is about.
    """
    lower, upper = (_plain(_numbers(end).flatten()) for end in (bound.lower, bound.upper))
    count = len(upper) // max(1, len(bound.radii))
    curves = tuple(
        Curve(
            parts[k],
            tuple((radius, lower[j * count + k], upper[j * count + k]) for j, radius in enumerate(bound.radii)),
        )
        for k in range(count if bound.radii else 0)
    )
    told = [
        {name: value for name, value in row.items() if name not in ("unstable", "radius", "point")} for row in table
    ]
    return [*([Curves("Constants over radius", curves)] if curves else []), _told(told, "Constants", set=sets)]


def radius_sections(
    found: Radius, table: Rows, outputs: Sequence[str], parts: tuple[tuple[str, str], ...]
) -> list[Section]:
    """Radii and attacks of all points, or of all targets of one, accuracy over the radius, and the table."""
    alone = found.label.numel() == 1
    held = found.radius if alone else found.untargeted
    reached = found.attack_radius if alone else found.untargeted_attack
    first, second = _plain(_numbers(held).flatten()), _plain(_numbers(reached).flatten())
    called = [f"to {_named(outputs, int(k))}" for k in found.targets.flatten()]
    names = called if alone else [f"point {k}" for k in range(len(first))]
    axis = f"{_norm(found.p)} radius"
    sections: list[Section] = [
        Brackets(
            "Radii within which the decision holds", tuple(names), first, second, ("certified", "attacked at"), axis
        )
    ]
    decided = (found.margin > 0).all(-1).flatten().tolist()
    untargeted = _plain(_numbers(found.untargeted).flatten())
    kept = tuple(value if sure else -1.0 for value, sure in zip(untargeted, decided, strict=True))
    # One point alone has no accuracy to look at, but counts among those of other answers on the page.
    sections.append(Accuracy(parts, kept, _plain(_numbers(found.untargeted_attack).flatten())))
    told = [
        dict(row) | {"label": _named(outputs, row["label"]), "target": _named(outputs, row["target"])} for row in table
    ]
    return [*sections, Table.of("Radii of points and targets", told)]


def landscape_sections(found: Landscape, table: Rows, rows: Sequence[str]) -> list[Section]:
    """Radii without and with a zero gradient for every row of every point, and the table."""
    points = found.radius.numel() // max(1, len(rows))
    names = [row if points == 1 else f"point {k}, {row}" for k in range(points) for row in rows]
    first, second = _plain(_numbers(found.radius).flatten()), _plain(_numbers(found.vanishing_radius).flatten())
    words, axis = ("no zero gradient within", "a zero gradient within"), f"{_norm(found.p)} radius"
    figure = Brackets("Radii without a zero gradient", tuple(names), first, second, words, axis)
    told = [dict(row) | {"row": rows[_index(row["row"])]} for row in table]
    note = "The smallest gradient is an estimate, as a share of the gradient at the point."
    return [figure, Table.of("Radii without a zero gradient", told, note)]


def feature_sections(
    found: Features, table: Rows, rows: Sequence[str], names: Names, shape: Sequence[int]
) -> list[Section]:
    """Bounds of the derivatives of every row, coloured by the answer, and the table."""
    boxes, inputs = max(1, found.boxes.numel()), names.inputs(shape)
    lower, upper = (_numbers(end).reshape(boxes * len(rows), -1) for end in (found.lower, found.upper))
    words, count = found.words(), lower.shape[1]
    figures: list[Section] = []
    for k in range(len(lower)):
        box = f", box {k // len(rows)}" if boxes > 1 else ""
        title = f"d {rows[k % len(rows)]} / d each input{box}"
        own = tuple(words[k * count : (k + 1) * count])
        figures.append(Intervals(title, tuple(inputs), _plain(lower[k]), _plain(upper[k]), "derivative", own))
    return [*figures, _told(table, "How outputs depend on inputs", row=rows, input=inputs)]


def _told(table: Rows, title: str, **names: Sequence[str]) -> Table:
    """A table with names in place of numbers; a column of one set alone is left out."""
    rows = []
    for row in table:
        kept = {key: value for key, value in row.items() if key != "set" or len(names.get("set", ())) > 1}
        rows.append({key: names[key][_index(value)] if key in names else value for key, value in kept.items()})
    return Table.of(title, rows)


def _index(value: object) -> int:
    assert isinstance(value, int)
    return value


def _named(outputs: Sequence[str], which: object) -> str:
    index = _index(which)
    return outputs[index] if outputs else f"class {index}"


def _titled(title: str, called: str, sets: Sequence[str]) -> str:
    return title if len(sets) == 1 and called.startswith("set") else f"{title}, {called}"


def set_names(radii: Sequence[float], count: int) -> list[str]:
    """Names of sets in row-major order, radius by radius."""
    points = count // max(1, len(radii))
    if not radii:
        return [f"set {k}" if count > 1 else "set" for k in range(count)]
    ball = [f"radius {radius:.6g}" for radius in radii]
    return [ball[k // points] + (f", point {k % points}" if points > 1 else "") for k in range(count)]


def _norm(p: float) -> str:
    return "l∞" if math.isinf(p) else f"l{p:g}"


def _numbers(values: Tensor) -> Tensor:
    return values.detach().to("cpu", torch.float64)


def _plain(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


def _rows(values: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())
