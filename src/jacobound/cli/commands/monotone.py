"""``jacobound monotone``: which inputs can only raise, or only lower, an output over a box."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.commands.inspect import say_network
from jacobound.cli.given.around import around_each, refuse_figure, wanted_radii
from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.given.options import REGION, JacobianOptions, PointOptions, RunOptions, one_radius
from jacobound.cli.given.proving import AnswerOptions
from jacobound.cli.shown.summaries import say_answer, say_rest, say_status
from jacobound.cli.shown.text import COMMAND, say, say_fact, say_table
from jacobound.inputs.regions import Region
from jacobound.questions import MonotoneFeatures, monotone_features
from jacobound.words import rounded_down, rounded_up


def monotone(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    radius: Annotated[str | None, REGION] = None,
    units: Annotated[str | None, REGION] = None,
    parts: Annotated[int, Parameter(group="Method")] = 2000,
    negligible: Annotated[float, Parameter(group="Method")] = 1e-9,
    how: JacobianOptions = JacobianOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    show: AnswerOptions = AnswerOptions(),  # noqa: B008
) -> int:
    """Certify which inputs only raise or only lower an output, over a linf ball or a VNN-LIB box.

    Exit code: 0 when the bounds are certified, 1 when they are not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file.
        radius: Radius of the ball; a decimal or a ratio is rounded outward.
        units: Units of the inputs: each may move by RADIUS * UNITS; one number, or one per channel or input.
        parts: How many parts of the box are looked at.
        negligible: What a derivative may miss a sign by (the slack), as a share of the input's own scale; 0 is strict.
    """
    show.check()
    radii = wanted_radii(point, radius, None, units)
    one_radius(radii, radius)
    method, _ = how.jacobian_method(), point.limits
    graph = run.placed(network.read(net))
    asked, matrix = around_each(point, graph, radii, radius, "inf", units), how.matrix(graph)
    refuse_figure(asked, show.plot, "features")
    show.check_one(len(asked))

    def find(region: Region) -> MonotoneFeatures:
        with run.budget("monotone") as budget:
            limits = {"most": parts, "negligible": negligible}
            found = monotone_features(graph, region, matrix, method=method, budget=budget, **limits)
        return found.asked_by(COMMAND.get())

    found = [find(one.regions[0][1]) for one in asked]
    show.draw(found[0])
    if show.json:
        told = [one.to_dict() for one in found]
        show.say_json(told if len(told) > 1 else told[0], {"": found[0]})
    else:
        say_network(net, graph)
        for features, one in zip(found, asked, strict=True):
            say_fact("region", f"{one.story}, {int(features.boxes)} parts looked at")
            say_fact("method", f"{features.provenance.method}\n")
            say_features(features, how.names(graph), show.most)
            if len(found) > 1:
                say("")
        show.say_written({"": found[0]})
        say_status(*(features.status for features in found))
        for features, one in zip(found, asked, strict=True):
            called = f"{one.place.name}: " if len(found) > 1 and one.place is not None else ""
            say_answer(f"{called}{features.headline()}")
    return 0 if all(features.status.certified for features in found) else 1


def say_features(found: MonotoneFeatures, names: list[str], most: int) -> None:
    """One line per row and input, the inputs that matter most first, and how many there are of each kind."""
    table = sorted(found.table(), key=lambda row: (row["row"], -float(str(row["swing"]))))
    rows = []
    for row in table[:most]:
        lower, upper, slack, swing = (float(str(row[name])) for name in ("lower", "upper", "slack", "swing"))
        cells = (row["answer"], rounded_down(lower), rounded_up(upper), f"{slack:.1e}", rounded_up(swing))
        rows.append((names[int(str(row["row"]))], row["input"], *cells))
    say_table(("row", "input", "<answer", "derivative >=", "derivative <=", "slack", "swing <="), rows)
    say_rest(table, most)
    say("swing: what the input alone can change; slack: what a sign may be missed by")
