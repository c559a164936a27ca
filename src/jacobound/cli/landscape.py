"""``jacobound landscape``: how far around an input a gradient is certain not to vanish."""

from __future__ import annotations

import math
from pathlib import Path

from jacobound.cli.inspect import say_network
from jacobound.cli.networks import NetworkOptions
from jacobound.cli.options import JacobianOptions, Norm, PointOptions, RunOptions, ShowOptions
from jacobound.cli.radius import refuse_figure
from jacobound.cli.summaries import say_status
from jacobound.cli.text import say, say_json, say_table
from jacobound.questions import StationaryFreeRadius, stationary_free_radius
from jacobound.words import nearest, rounded_down, rounded_up


def landscape(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    norm: Norm = "2",
    largest: float = 10.0,
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
    refuse_figure(show)
    limits, method = point.limits, how.jacobian_method()
    graph = run.placed(network.read(net))
    place, matrix = point.point(graph), how.matrix(graph)
    with run.budget("landscape") as budget:
        exponent = math.inf if norm == "inf" else float(norm)
        found = stationary_free_radius(
            graph, place.values, matrix, exponent, method=method, budget=budget, clip=limits, largest=largest
        )
    if show.json:
        say_json(found.to_dict())
    else:
        say_network(net, graph)
        say(f"input     {place.story}")
        say(f"distance  l{norm}, up to {largest:g}")
        say(f"method    {found.provenance.method}\n")
        say_landscape(found, how.names(graph))
    return 0 if found.status.certified else 1


def say_landscape(found: StationaryFreeRadius, names: list[str]) -> None:
    """One line per row."""
    columns = (found.radius, found.vanishing_radius, found.smallest_gradient)
    values = zip(names, *(column.flatten().tolist() for column in columns), strict=True)
    rows = [(name, rounded_down(free), rounded_up(gone), nearest(seen, 3)) for name, free, gone, seen in values]
    say_table(("row", "no zero gradient within", "a zero gradient within", "smallest seen / at the input"), rows)
    say_status(found.status)
