"""``jacobound bound``: certified bounds of the outputs and of every entry of the Jacobian over a ball."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from torch import Tensor

from jacobound.cli.commands.inspect import say_network
from jacobound.cli.given.around import around, wanted_radii
from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.given.options import (
    REGION,
    ExecutedOptions,
    JacobianOptions,
    Norm,
    PointOptions,
    RunOptions,
    ShowOptions,
    check_target,
    one_radius,
)
from jacobound.cli.given.points import Point
from jacobound.cli.shown.summaries import centre_values, say_answer, say_files, say_jacobian, say_outputs, say_status
from jacobound.cli.shown.text import COMMAND, say, say_fact, say_json
from jacobound.results.kinds import JacobianBounds, OutputBounds
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
    meant: ExecutedOptions = ExecutedOptions(),  # noqa: B008
    output: Annotated[Path | None, Parameter(group="Output")] = None,
    run: RunOptions = RunOptions(),  # noqa: B008
    show: ShowOptions = ShowOptions(),  # noqa: B008
) -> int:
    """Bound the outputs and every Jacobian entry over a ball or a VNN-LIB box.

    Exit code: 0 when the bounds are certified, 1 when they are not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file.
        radius: Radius of the ball; a decimal or a ratio is rounded outward.
        norm: Norm of the ball. [default: inf]
        units: Units of the inputs: distances are |x - point| / UNITS; one number, or one per channel or input.
        output: Save all bounds as arrays in this .npz file.
    """
    show.check()
    if output is not None:
        check_target(output, (".npz",), "--output")
    radii = wanted_radii(point, radius, norm, units)
    if radius is not None:
        one_radius(radii, radius)
    method, _ = how.jacobian_method(), point.limits
    graph = run.placed(network.read(net))
    asked, matrix = around(point, graph, radii, radius, norm or "inf", units), how.matrix(graph)
    (_, region), place = asked.regions[0], asked.place
    assert place is not None
    with run.budget("bound") as budget:
        outputs = bound_output(
            graph, region, how.output_method(), rows=matrix, budget=budget, semantics=meant.semantics
        )
        jacobian = bound_jacobian(graph, region, method, rows=matrix, budget=budget)
    outputs, jacobian = outputs.asked_by(COMMAND.get()), jacobian.asked_by(COMMAND.get())
    names = how.names(graph)
    if output is not None:
        save(output, outputs, jacobian)
    if show.plot is not None:
        _draw(show.plot, jacobian, f"output {names[0]}, {place.story}", place)
    if show.json:
        say_json({"output": outputs.to_dict(), "jacobian": jacobian.to_dict()})
    else:
        say_network(net, graph)
        say_fact("region", asked.story)
        say_fact("method", f"{jacobian.provenance.method}\n")
        _say(outputs, jacobian, names, centre_values(graph, place.values, matrix), show.most)
        say_files(output, show.plot)
        say_status(outputs.status, jacobian.status)
        say_answer(f"outputs {outputs.headline()}; Jacobian {jacobian.headline()}")
    return 0 if outputs.status.certified and jacobian.status.certified else 1


def _say(outputs: OutputBounds, jacobian: JacobianBounds, names: list[str], centre: Tensor, most: int) -> None:
    """Both tables."""
    if outputs.provenance.semantics != "real":
        say(f"outputs   as {outputs.provenance.semantics}; the Jacobian is that of the exact network")
    say_outputs(outputs, names, centre, most)
    say("")
    say_jacobian(jacobian, names, most)


def _draw(path: Path, jacobian: JacobianBounds, name: str, place: Point) -> None:
    """A figure of the first row, as an image when the file held one."""
    figures = importlib.import_module("jacobound.reports.figures")  # needs matplotlib, which may be missing
    picture = place.arranged if len([side for side in place.arranged if side != 1]) == 2 else None
    axes = figures.plot_jacobian(jacobian, 0, shape=picture)
    axes.set_title(f"{axes.get_title()}\n{name}", fontsize="medium", parse_math=False)
    axes.figure.savefig(path, dpi=150)


def save(path: Path, outputs: OutputBounds, jacobian: JacobianBounds) -> None:
    """All bounds as arrays: `lower` and `upper` of the Jacobian, `output_lower` and `output_upper`."""
    np.savez(
        path,
        lower=jacobian.lower.detach().cpu().numpy(),
        upper=jacobian.upper.detach().cpu().numpy(),
        output_lower=outputs.lower.detach().cpu().numpy(),
        output_upper=outputs.upper.detach().cpu().numpy(),
        certified=np.array(outputs.status.certified and jacobian.status.certified),
    )
