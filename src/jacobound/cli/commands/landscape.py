"""``jacobound landscape``: how far around an input a gradient is certain not to vanish."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import torch

from jacobound.cli.commands.inspect import say_network
from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.given.options import REGION, JacobianOptions, Norm, PointOptions, RunOptions, ShowOptions
from jacobound.cli.shown.summaries import say_answer, say_files, say_rest, say_status
from jacobound.cli.shown.text import COMMAND, say_fact, say_json, say_table
from jacobound.questions import StationaryFreeRadius, stationary_free_radius
from jacobound.words import nearest, rounded_down, rounded_up


def landscape(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    norm: Annotated[Norm, REGION] = "2",
    largest: Annotated[float, REGION] = 10.0,
    how: JacobianOptions = JacobianOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    show: ShowOptions = ShowOptions(),  # noqa: B008
) -> int:
    """Certify the radius within which the gradient of an output does not vanish.

    Exit code: 0 when the radii are certified, 1 when they are not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file.
        norm: Norm of the distance.
        largest: No larger radius is tried.
    """
    show.check()
    limits, method = point.limits, how.jacobian_method()
    graph = run.placed(network.read(net))
    places, matrix = point.points(graph), how.matrix(graph)
    points = torch.stack([place.values for place in places])
    options = {"method": method, "clip": limits, "largest": largest}
    with run.budget("landscape") as budget:
        exponent = math.inf if norm == "inf" else float(norm)
        asked = points if len(places) > 1 else points[0]
        found = stationary_free_radius(graph, asked, matrix, exponent, budget=budget, **options)
    found = found.asked_by(COMMAND.get())
    show.draw(found)
    if show.json:
        say_json(found.to_dict())
    else:
        say_network(net, graph)
        say_fact("input", places[0].story if len(places) == 1 else f"{len(places)}, from {places[0].story}")
        say_fact("distance", f"l{norm}, up to {largest:g}")
        say_fact("method", f"{found.provenance.method}\n")
        say_landscape(found, how.names(graph), show.most)
        say_files(show.plot)
        say_status(found.status)
        say_answer(found.headline())
    return 0 if found.status.certified else 1


def say_landscape(found: StationaryFreeRadius, names: list[str], most: int) -> None:
    """One line per point and row."""
    columns = (found.radius, found.vanishing_radius, found.smallest_gradient)
    values = list(zip(*(column.flatten().tolist() for column in columns), strict=True))
    rows = [
        (k // len(names), names[k % len(names)], rounded_down(free), rounded_up(gone), nearest(seen, 3))
        for k, (free, gone, seen) in enumerate(values)
    ]
    titles = ("point", "row", "no zero gradient within", "one within", "least seen / at point")
    say_table(titles, rows[:most])
    say_rest(rows, most)
