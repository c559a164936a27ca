"""``jacobound bound``: certified bounds of the outputs and of every entry of the Jacobian over a ball."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from torch import Tensor

from jacobound.cli.commands.inspect import say_network
from jacobound.cli.given.around import around_each, refuse_figure, wanted_radii
from jacobound.cli.given.columns import ColumnOptions
from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.given.options import (
    REGION,
    ExecutedOptions,
    JacobianOptions,
    Norm,
    PointOptions,
    RunOptions,
    check_target,
    one_radius,
)
from jacobound.cli.given.proving import AnswerOptions
from jacobound.cli.shown.summaries import centre_values, say_answer, say_jacobian, say_outputs, say_status
from jacobound.cli.shown.text import COMMAND, say, say_fact
from jacobound.inputs.points import Point
from jacobound.inputs.regions import Region
from jacobound.results.kinds import JacobianBounds, OutputBounds
from jacobound.results.result import Result
from jacobound.solve import bound_jacobian, bound_output


def bound(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    radius: Annotated[str | None, REGION] = None,
    norm: Annotated[Norm | None, REGION] = None,
    units: Annotated[str | None, REGION] = None,
    how: JacobianOptions = JacobianOptions(),  # noqa: B008
    of: ColumnOptions = ColumnOptions(),  # noqa: B008
    meant: ExecutedOptions = ExecutedOptions(),  # noqa: B008
    output: Annotated[Path | None, Parameter(group="Output")] = None,
    run: RunOptions = RunOptions(),  # noqa: B008
    show: AnswerOptions = AnswerOptions(),  # noqa: B008
) -> int:
    """Bound the outputs and every Jacobian entry over a ball or a VNN-LIB box.

    Exit code: 0 when the bounds are certified, 1 when they are not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file.
        radius: Radius of the ball; a decimal or a ratio is rounded outward.
        norm: Norm of the ball. [default: inf]
        units: Units of the inputs: distances are |x - point| / UNITS; one number, or one per channel or input.
        output: Save all bounds as arrays in this .npz file; of several inputs stacked in front.
    """
    show.check()
    if output is not None:
        check_target(output, (".npz",), "--output")
    radii = wanted_radii(point, radius, norm, units)
    one_radius(radii, radius)
    method, _ = how.jacobian_method(), point.limits
    graph = run.placed(network.read(net))
    asked, matrix = around_each(point, graph, radii, radius, norm or "inf", units), how.matrix(graph)
    refuse_figure(asked, show.plot, "bounds")
    show.check_one(len(asked))
    places = [one.place for one in asked if one.place is not None]

    def find(region: Region) -> tuple[OutputBounds, JacobianBounds]:
        with run.budget("bound") as budget:
            options: dict[str, Any] = {"rows": matrix, "budget": budget}
            outputs = bound_output(graph, region, how.output_method(), semantics=meant.semantics, **options)
            jacobian = bound_jacobian(graph, region, method, columns=of.places, **options)
        return outputs.asked_by(COMMAND.get()), jacobian.asked_by(COMMAND.get())

    found, names = [find(one.regions[0][1]) for one in asked], how.names(graph)
    save(output, found)
    if show.plot is not None:
        _draw(show.plot, found[0][1], f"output {names[0]}, {places[0].story}", places[0] if of.places is None else None)
    if show.json:
        show.say_json(_told(found), _certified(found))
    else:
        say_network(net, graph)
        for pair, one, place in zip(found, asked, places, strict=True):
            say_fact("region", one.story)
            _say(*pair, names, centre_values(graph, place.values, matrix), show.most)
        show.say_written(_certified(found), output)
        _close(found, places)
    return 0 if all(bounds.status.certified for pair in found for bounds in pair) else 1


def _say(outputs: OutputBounds, jacobian: JacobianBounds, names: list[str], centre: Tensor, most: int) -> None:
    """Both tables."""
    say_fact("method", f"{jacobian.provenance.method}\n")
    if outputs.provenance.semantics != "real":
        say(f"outputs   as {outputs.provenance.semantics}; the Jacobian is that of the exact network")
    say_outputs(outputs, names, centre, most)
    say("")
    say_jacobian(jacobian, names, most)
    say("")


def _certified(found: Sequence[tuple[OutputBounds, JacobianBounds]]) -> dict[str, Result]:
    """What certificates are written of: the Jacobian under the given name, the outputs beside it."""
    return {"outputs": found[0][0], "": found[0][1]}


def _told(found: Sequence[tuple[OutputBounds, JacobianBounds]]) -> object:
    """All of it as plain numbers; of several inputs a list."""
    told = [{"output": outputs.to_dict(), "jacobian": jacobian.to_dict()} for outputs, jacobian in found]
    return told if len(told) > 1 else told[0]


def _close(found: Sequence[tuple[OutputBounds, JacobianBounds]], places: Sequence[Point]) -> None:
    """Whether all is certified, and the answer; of several inputs one line for each."""
    say_status(*(bounds.status for pair in found for bounds in pair))
    for (outputs, jacobian), place in zip(found, places, strict=True):
        called = f"{place.name}: " if len(found) > 1 else ""
        say_answer(f"{called}outputs {outputs.headline()}; Jacobian {jacobian.headline()}")


def _draw(path: Path, jacobian: JacobianBounds, name: str, place: Point | None) -> None:
    """A figure of the first row, as an image when the file held one and all of it is asked about."""
    figures = importlib.import_module("jacobound.reports.figures")  # needs matplotlib, which may be missing
    sides = () if place is None else place.arranged
    picture = sides if len([side for side in sides if side != 1]) == 2 else None
    axes = figures.plot_jacobian(jacobian, 0, shape=picture)
    axes.set_title(f"{axes.get_title()}\n{name}", fontsize="medium", parse_math=False)
    axes.figure.savefig(path, dpi=150)


def save(path: Path | None, found: Sequence[tuple[OutputBounds, JacobianBounds]]) -> None:
    """All bounds as arrays: `lower` and `upper` of the Jacobian, `output_lower` and `output_upper`.

    Of several inputs they are stacked in front, in the order of the inputs.
    """
    if path is None:
        return
    arrays = {
        "lower": [jacobian.lower for _, jacobian in found],
        "upper": [jacobian.upper for _, jacobian in found],
        "output_lower": [outputs.lower for outputs, _ in found],
        "output_upper": [outputs.upper for outputs, _ in found],
    }
    certified = [outputs.status.certified and jacobian.status.certified for outputs, jacobian in found]
    arrays["certified"] = list(map(torch.tensor, certified))
    stacked: dict[str, Any] = {name: torch.stack(parts).detach().cpu().numpy() for name, parts in arrays.items()}
    np.savez(path, **(stacked if len(found) > 1 else {name: part[0] for name, part in stacked.items()}))
