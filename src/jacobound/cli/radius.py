"""``jacobound radius``: how far an input may move before the decision of a classifier can change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from jacobound.cli.grammar import parse_classes
from jacobound.cli.inspect import say_network
from jacobound.cli.networks import NetworkOptions
from jacobound.cli.options import Norm, PointOptions, RunOptions, ShowOptions
from jacobound.cli.summaries import say_status
from jacobound.cli.text import say, say_json, say_table
from jacobound.errors import JacoboundError
from jacobound.methods import CROWN, FastLip, LipSDP, RecurJac
from jacobound.questions import PGD, RobustRadius, robust_radius
from jacobound.questions.robustness import Method
from jacobound.words import nearest, rounded_down, rounded_up

METHODS: dict[str, Method | None] = {
    "all": None,
    "crown": CROWN(),
    "recurjac": RecurJac(),
    "fastlip": FastLip(),
    "lipsdp": LipSDP(),
}


def radius(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    norm: Norm = "inf",
    label: int | None = None,
    targets: str | None = None,
    method: Literal["all", "crown", "recurjac", "fastlip", "lipsdp"] = "all",
    constants: int = 8,
    attack: Annotated[PGD, Parameter(name="*")] = PGD(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    show: ShowOptions = ShowOptions(),  # noqa: B008
) -> int:
    """Certify the radius within which a classifier's decision can not change, and attack it from outside.

    Exit code: 0 when the radii are certified, 1 when they are not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file; one output per class.
        norm: Norm of the distance.
        label: Class of the input. [default: what the network says]
        targets: Classes that must not be reached, as 3,5. [default: all others]
        method: Linear bounds, the integral of local constants, or all of them.
        constants: About how many constants the integral takes.
    """
    refuse_figure(show)
    limits, chosen = point.limits, None if targets is None else parse_classes(targets)
    graph = run.placed(network.read(net))
    place = point.point(graph)
    with run.budget("radius") as budget:
        found = robust_radius(
            graph,
            place.values,
            label,
            math.inf if norm == "inf" else float(norm),
            chosen,
            method=METHODS[method],
            budget=budget,
            clip=limits,
            steps=constants,
            attack=attack,
        )
    if show.json:
        say_json(found.to_dict())
    else:
        say_network(net, graph)
        say(f"input     {place.story}, class {int(found.label)}")
        say(f"distance  l{norm}{'' if limits is None else f', inputs from {limits[0]:g} to {limits[1]:g}'}\n")
        say_radii(found)
    return 0 if found.status.certified else 1


def say_radii(found: RobustRadius) -> None:
    """One line per target, and the smallest of each."""
    rows = []
    for row in found.table():
        margin, held, broken = (float(str(row[name])) for name in ("margin", "radius", "attack_radius"))
        cells = (rounded_down(margin), rounded_down(held), rounded_up(broken), _ratio(held, broken), row["method"])
        rows.append((row["target"], *cells))
    held, broken = float(found.untargeted), float(found.untargeted_attack)
    rows.append(("any", "", rounded_down(held), rounded_up(broken), _ratio(held, broken), ""))
    titles = ("target", "margin >=", "certified radius", "attacked at", "ratio", "<method")
    say_table(titles, rows)
    say_status(found.status)


def refuse_figure(show: ShowOptions) -> None:
    """These commands draw nothing.

    Raises:
        JacoboundError: when a figure is wanted.
    """
    if show.plot is not None:
        raise JacoboundError("--plot: there is no figure of this; take --json, or bound and lipschitz for figures")


def _ratio(held: float, broken: float) -> str:
    return nearest(broken / held, 3) if held > 0 and math.isfinite(broken) else "-"
