"""``jacobound monotone``: which inputs can only raise, or only lower, an output over a box."""

from __future__ import annotations

from pathlib import Path

from jacobound.cli.around import around, wanted_radii
from jacobound.cli.inspect import say_network
from jacobound.cli.networks import NetworkOptions
from jacobound.cli.options import JacobianOptions, PointOptions, RunOptions, ShowOptions, one_radius
from jacobound.cli.radius import refuse_figure
from jacobound.cli.summaries import MOST_ROWS, say_status
from jacobound.cli.text import say, say_json, say_table
from jacobound.questions import MonotoneFeatures, monotone_features
from jacobound.words import rounded_down, rounded_up


def monotone(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    radius: str | None = None,
    parts: int = 2000,
    negligible: float = 1e-9,
    how: JacobianOptions = JacobianOptions(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    show: ShowOptions = ShowOptions(),  # noqa: B008
) -> int:
    """Certify which inputs only raise or only lower an output, over a linf ball or a VNN-LIB box.

    Exit code: 0 when the bounds are certified, 1 when they are not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file.
        radius: Radius of the ball; a decimal is rounded outward.
        parts: How many parts of the box are looked at.
        negligible: What a derivative may miss a sign by (the slack), as a share of the input's own scale; 0 is strict.
    """
    refuse_figure(show)
    radii = wanted_radii(point, radius)
    if radius is not None:
        one_radius(radii, radius)
    method, _ = how.jacobian_method(), point.limits
    graph = run.placed(network.read(net))
    asked, matrix = around(point, graph, radii, radius, "inf"), how.matrix(graph)
    with run.budget("monotone") as budget:
        limits = {"most": parts, "negligible": negligible}
        found = monotone_features(graph, asked.regions[0][1], matrix, method=method, budget=budget, **limits)
    if show.json:
        say_json(found.to_dict())
    else:
        say_network(net, graph)
        say(f"region    {asked.story}, {int(found.boxes)} parts looked at")
        say(f"method    {found.provenance.method}\n")
        say_features(found, how.names(graph))
    return 0 if found.status.certified else 1


def say_features(found: MonotoneFeatures, names: list[str]) -> None:
    """One line per row and input, the inputs that matter most first, and how many there are of each kind."""
    table = sorted(found.table(), key=lambda row: (row["row"], -float(str(row["swing"]))))
    rows = []
    for row in table[:MOST_ROWS]:
        lower, upper, slack, swing = (float(str(row[name])) for name in ("lower", "upper", "slack", "swing"))
        cells = (row["answer"], rounded_down(lower), rounded_up(upper), f"{slack:.1e}", rounded_up(swing))
        rows.append((names[int(str(row["row"]))], row["input"], *cells))
    say_table(("row", "input", "<answer", "derivative >=", "derivative <=", "slack", "swing <="), rows)
    if len(table) > len(rows):
        say(f"... and {len(table) - len(rows)} more; all are in --json")
    words = found.words()
    say(", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)))
    say("swing: what the input alone can change; slack: what a sign may be missed by")
    say_status(found.status)
