"""``jacobound radius``: how far an input may move before the decision of a classifier can change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from cyclopts import Parameter

from jacobound.cli.commands.inspect import say_network
from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.given.options import REGION, Norm, PointOptions, RunOptions
from jacobound.cli.given.proving import AnswerOptions
from jacobound.cli.shown.summaries import say_answer, say_rest, say_status
from jacobound.cli.shown.text import COMMAND, say_fact, say_table
from jacobound.errors import JacoboundError
from jacobound.inputs.grammar import parse_classes
from jacobound.inputs.points import Point
from jacobound.method import Method, OutputMethod
from jacobound.methods import every
from jacobound.questions import PGD, RobustRadius, robust_radius
from jacobound.words import nearest, rounded_down, rounded_up

QUESTION = Parameter(group="Question", allow_leading_hyphen=True)
METHODS: dict[str, type[OutputMethod | Method]] = {
    kind.__name__.lower(): kind for kind in (*every(OutputMethod), *every(Method))
}

if TYPE_CHECKING:
    Word = str
else:
    Word = Literal[("all", *METHODS)]


def radius(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    norm: Annotated[Norm, REGION] = "inf",
    label: Annotated[int | None, QUESTION] = None,
    targets: Annotated[str | None, QUESTION] = None,
    method: Annotated[Word, Parameter(group="Method")] = "all",
    constants: Annotated[int | None, Parameter(group="Method")] = None,
    attack: Annotated[PGD, Parameter(name="*", group="Method")] = PGD(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    show: AnswerOptions = AnswerOptions(),  # noqa: B008
) -> int:
    """Certify the radius within which a classifier's decision can not change, and attack it from outside.

    Exit code: 0 when the radii are certified, 1 when they are not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file; one output per class.
        norm: Norm of the distance.
        label: Class of the inputs. [default: what the network says]
        targets: Classes that must not be reached, as 3,5. [default: all others]
        method: Linear bounds, the integral of local constants, or all of them.
        constants: About how many constants the integral takes. [default: 8]
    """
    show.check()
    limits, chosen = point.limits, None if targets is None else parse_classes(targets)
    if constants is not None and method in METHODS and issubclass(METHODS[method], OutputMethod):
        raise JacoboundError(
            f"--constants belongs to the integral of local constants; leave it out with --method {method}"
        )
    graph = run.placed(network.read(net))
    places = point.points(graph)
    points = torch.stack([place.values for place in places])
    options = {"clip": limits, "steps": 8 if constants is None else constants, "attack": attack}
    with run.budget("radius") as budget:
        found = robust_radius(
            graph,
            points if len(places) > 1 else points[0],
            label,
            math.inf if norm == "inf" else float(norm),
            chosen,
            method=None if method == "all" else METHODS[method](),
            budget=budget,
            **options,
        )
    found = found.asked_by(COMMAND.get())
    show.draw(found)
    if show.json:
        show.say_json(found.to_dict(), {"": found})
    else:
        say_network(net, graph)
        _say(found, places, f"l{norm}{'' if limits is None else f', inputs from {limits[0]:g} to {limits[1]:g}'}", show)
    return 0 if found.status.certified else 1


def _say(found: RobustRadius, places: list[Point], distance: str, show: AnswerOptions) -> None:
    """Everything below the network."""
    several = len(places) > 1
    say_fact("input", f"{len(places)}, from {places[0].story}" if several else places[0].story)
    say_fact("distance", f"{distance}\n")
    if not several or show.verbose:
        say_radii(found, show.most)
    if several:
        names = [place.name for place in places]
        files = {name.partition("[")[0] for name in names}
        say_points(found, names if len(files) > 1 else [name.removeprefix(*files) for name in names], show.most)
    show.say_written({"": found})
    say_status(found.status)
    say_answer(found.headline())


def say_radii(found: RobustRadius, most: int) -> None:
    """One line per point and target."""
    rows = []
    for row in found.table():
        margin, held, broken = (float(str(row[name])) for name in ("margin", "radius", "attack_radius"))
        cells = (rounded_down(margin), rounded_down(held), rounded_up(broken), _ratio(held, broken), row["method"])
        rows.append((row["point"], row["target"], *cells) if found.label.dim() else (row["target"], *cells))
    if not found.label.dim():
        held, broken = float(found.untargeted), float(found.untargeted_attack)
        rows = [*rows[:most], ("any", "", rounded_down(held), rounded_up(broken), _ratio(held, broken), "")]
        most += 1
    titles = ("target", "margin >=", "certified", "attacked", "ratio", "<method")
    say_table((("point", *titles) if found.label.dim() else titles), rows[:most])
    say_rest(rows, most)


def say_points(found: RobustRadius, names: list[str], most: int) -> None:
    """One line per point: the nearest target decides."""
    held, broken = found.untargeted.tolist(), found.untargeted_attack.tolist()
    near, count = found.radius.argmin(-1), found.targets.shape[-1]
    rows = []
    for k, (label, radius, attack, name) in enumerate(zip(found.label.tolist(), held, broken, names, strict=True)):
        place = int(near[k])
        cells = (rounded_down(radius), rounded_up(attack), _ratio(radius, attack), int(found.targets[k, place]))
        rows.append((k, label, *cells, found.method[k * count + place], name))
    titles = ("point", "class", "certified", "attacked", "ratio", "next", "<method", "<input")
    say_table(titles, rows[:most])
    say_rest(rows, most)


def _ratio(held: float, broken: float) -> str:
    return nearest(broken / held, 3) if held > 0 and math.isfinite(broken) else "-"
