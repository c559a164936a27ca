"""The sets of inputs that a command is about: balls around a point, the box of a VNN-LIB property, the whole space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from jacobound.cli.given.options import Norm, PointOptions
from jacobound.cli.shown.summaries import told_ball
from jacobound.errors import InvalidRegionError
from jacobound.graph.graph import Graph
from jacobound.inputs.grammar import RADIUS_HELP, parse_radii
from jacobound.inputs.points import Point
from jacobound.inputs.radii import outward_radius
from jacobound.inputs.regions import Ball, Box, WholeSpace

PROPERTIES = (".vnnlib", ".vnnlib.gz")


@dataclass(frozen=True, eq=False)
class Around:
    """What a command asks about.

    Args:
        regions: with what each is called.
        place: a point of all of them; None for the whole space.
        story: the first in words.
    """

    regions: tuple[tuple[str, Ball | Box | WholeSpace], ...]
    place: Point | None
    story: str


def units_above(text: str) -> float | list[float]:
    """Units of the inputs as floats that are not below the decimals given.

    Raises:
        InvalidRegionError: when one is no number >= 0.
    """
    found = [outward_radius(part.strip()) for part in text.split(",")]
    return found[0] if len(found) == 1 else found


EVERYWHERE = Around((("all", WholeSpace()),), None, "the whole space")


def is_property(point: PointOptions) -> bool:
    """Whether the input is a VNN-LIB property rather than points.

    Raises:
        InvalidRegionError: when it is one of several inputs.
    """
    properties = [file for file in point.files if file.name.lower().endswith(PROPERTIES)]
    if properties and len(point.files) > 1:
        raise InvalidRegionError(f"'{properties[0]}' is a property; ask about it alone, points may stand side by side")
    return bool(properties)


def wanted_radii(
    point: PointOptions, radius: str | None, norm: Norm | None, units: str | None, figure: Path | None = None
) -> list[Decimal | Fraction]:
    """The radii, none for a property; refused before any work when they are missing or too many.

    Args:
        point: the input.
        radius, norm, units: of the ball, as given.
        figure: where to draw something over the radii.

    Raises:
        InvalidRegionError: when a point has no radius, or a property has one or is to be drawn over radii.
    """
    if is_property(point):
        if PointOptions(input=point.input) != point or not radius is norm is units is None:
            raise InvalidRegionError(
                "a .vnnlib property holds its own box of inputs; leave out --radius, --norm, --units, --clip, --key, "
                "--index, --scale and --shift"
            )
        if figure is not None:
            raise InvalidRegionError("--plot draws constants over radii, and a .vnnlib property has none; leave it out")
        return []
    if radius is None:
        raise InvalidRegionError(f"--radius is missing: {RADIUS_HELP}")
    return parse_radii(radius)


def refuse_figure(asked: Sequence[Around], figure: Path | None, what: str) -> None:
    """Refuse to draw when there are several inputs.

    Raises:
        InvalidRegionError: when a figure is wanted and `asked` is about more than one input.
    """
    if len(asked) > 1 and figure is not None:
        raise InvalidRegionError(f"--plot draws the {what} of one input; choose one with --index")


def around_each(
    point: PointOptions, graph: Graph, radii: list[Decimal | Fraction], radius: str | None, p: Norm, units: str | None
) -> list[Around]:
    """The regions around every point, point by point.

    Raises:
        InvalidRegionError, ShapeError: when an input can not be read or does not fit the network.
    """
    if is_property(point):
        (file,) = point.files
        box = Box.from_vnnlib(file, graph.in_shape)
        centre = next(iter(box.domains(graph)[0])).anchor[0].double().cpu()
        place = Point(centre, str(file), graph.in_shape)
        return [Around((("box", box),), place, f"box of inputs of {file}")]
    scale, found = None if units is None else units_above(units), []
    for place in point.points(graph):
        balls = [(f"{float(one):g}", Ball(place.values, one, float(p), point.limits, scale)) for one in radii]
        found.append(Around(tuple(balls), place, told_ball(balls[0][1], radius, place.story)))
    return found
