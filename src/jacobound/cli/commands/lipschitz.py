"""``jacobound lipschitz``: certified brackets of Lipschitz constants over balls, radius by radius, or everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from jacobound.cli.commands.inspect import say_network
from jacobound.cli.given.around import EVERYWHERE, Around, around_each, refuse_figure, wanted_radii
from jacobound.cli.given.columns import ColumnOptions
from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.given.options import (
    REGION,
    ConstantOptions,
    ExecutedOptions,
    Norm,
    PointOptions,
    RunOptions,
    WeightOptions,
)
from jacobound.cli.given.proving import AnswerOptions
from jacobound.cli.shown.summaries import CONSTANTS, constants_row, say_answer, say_candidates, say_status
from jacobound.cli.shown.text import COMMAND, say, say_fact
from jacobound.errors import InvalidRegionError
from jacobound.inputs.exponents import told_norm
from jacobound.inputs.regions import Region
from jacobound.methods import Best, Sampling
from jacobound.methods.best import SECONDS
from jacobound.results.kinds import LipschitzBound
from jacobound.solve import lipschitz as find_constant
from jacobound.words import rounded_up

INTERRUPTED = 130


def lipschitz(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    point: PointOptions = PointOptions(),  # noqa: B008
    everywhere: Annotated[bool, Parameter(name="--global", group="Region")] = False,
    radius: Annotated[str | None, REGION] = None,
    p: Annotated[Norm, Parameter(group="Constant")] = "2",
    q: Annotated[Norm, Parameter(group="Constant")] = "2",
    norm: Annotated[Norm | None, REGION] = None,
    units: Annotated[str | None, REGION] = None,
    weights: WeightOptions = WeightOptions(),  # noqa: B008
    how: ConstantOptions = ConstantOptions(),  # noqa: B008
    of: ColumnOptions = ColumnOptions(),  # noqa: B008
    meant: ExecutedOptions = ExecutedOptions(),  # noqa: B008
    search: Annotated[Sampling, Parameter(name="*", group="Method")] = Sampling(),  # noqa: B008
    run: RunOptions = RunOptions(),  # noqa: B008
    show: AnswerOptions = AnswerOptions(),  # noqa: B008
) -> int:
    """Bracket the Lipschitz constant over balls, a VNN-LIB box, or the whole space.

    L with ||f(x) - f(y)||_q <= L ||x - y||_p for all x, y of the set: certified upper and lower bounds.
    Exit code: 0 when every bound is certified, 1 when one is not, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file.
        everywhere: Bound the constant over the whole space; needs no point and no radius.
        radius: Radii: 0.1, 8/255, or 0.1,0.2, or START:STOP:COUNT, or START:STOP:COUNTlog.
        p: Norm of the input.
        q: Norm of the output.
        norm: Norm of the ball. [default: that of --p]
        units: Units of the inputs: distances are |x - point| / UNITS; one number, or one per channel or input.
    """
    show.check()
    if everywhere:
        _refuse_places(point, radius, norm, units, show)
    radii = [] if everywhere else wanted_radii(point, radius, norm, units, show.plot)
    method, _ = how.constant_method(), point.limits
    graph = run.placed(network.read(net))
    asked = [EVERYWHERE] if everywhere else around_each(point, graph, radii, radius, norm or p, units)
    refuse_figure(asked, show.plot, "constants")
    show.check_one(sum(len(one.regions) for one in asked))
    matrix, norms = how.matrix(graph), (weights.of_input(float(p)), weights.of_output(float(q)))
    if not show.json:
        say_network(net, graph)
        rows = "all outputs" if how.rows is None else f"the rows {how.rows}"
        changes = "" if of.columns is None else f", for changes of the inputs {of.columns}"
        constant = f"{told_norm(norms[0])} -> {told_norm(norms[1])} of {rows}{changes}"
        _say_question(_told_regions(asked), constant, method or Best())
    limit = SECONDS if method is None else None
    options = {"norm": norms, "rows": matrix, "search": search, "semantics": meant.semantics, "columns": of.places}

    def find(called: str, region: Region) -> LipschitzBound:
        with run.budget(f"radius {called}" if radii else called, limit) as budget:
            return find_constant(graph, region, method, budget=budget, **options).asked_by(COMMAND.get())

    found, finished = _found(asked, find, show)
    _close(found, len(asked), show)
    return INTERRUPTED if not finished else 0 if all(bound.status.certified for bound in found) else 1


def _found(
    asked: list[Around], find: Callable[[str, Region], LipschitzBound], show: AnswerOptions
) -> tuple[list[LipschitzBound], bool]:
    """The results, each told when it is there, and whether nobody stopped the command before the last one."""
    found: list[LipschitzBound] = []
    try:
        for called, region in _each(asked, show):
            found.append(find(called, region))
            if not show.json:
                say(constants_row(found[-1], called))
    except KeyboardInterrupt:
        count = sum(len(one.regions) for one in asked)
        say(f"stopped: {len(found)} of {count} radii are finished and shown", error=True)
        return found, False
    return found, True


def _told_regions(asked: list[Around]) -> str:
    """The first region in words, and how many inputs there are."""
    return asked[0].story + (f", and the same around {len(asked) - 1} more" if len(asked) > 1 else "")


def _each(asked: list[Around], show: AnswerOptions) -> Iterator[tuple[str, Region]]:
    """The regions input by input, under its name where there are several."""
    for one in asked:
        if len(asked) > 1 and one.place is not None and not show.json:
            say(f"input {one.place.name}")
        yield from one.regions


def _say_question(region: str, constant: str, method: object) -> None:
    """What is asked, and the head of the table."""
    say_fact("region", region)
    say_fact("constant", constant)
    say_fact("method", f"{method!r}\n")
    say(CONSTANTS.head())


def _refuse_places(
    point: PointOptions, radius: str | None, norm: Norm | None, units: str | None, show: AnswerOptions
) -> None:
    """Refuse what has no meaning for the whole space."""
    if point != PointOptions() or not radius is norm is units is None or show.plot is not None:
        raise InvalidRegionError(
            "--global is about the whole space; leave out the point, its options, --radius, --norm, --units and --plot"
        )


def _close(found: list[LipschitzBound], inputs: int, show: AnswerOptions) -> None:
    """Everything that comes after the last radius; the answer last, of several inputs the largest."""
    if found:
        show.draw(joined(found))
    if show.json:
        show.say_json([bound.to_dict() for bound in found], dict(zip(("",), found, strict=False)))
        return
    for bound in found if show.verbose else ():
        say(f"\ncandidates{f', radius {bound.radii[0]:g}' if bound.radii else ''}")
        say_candidates(bound)
    for reason in dict.fromkeys(reason for bound in found for reason in bound.lower_reason):
        say_fact("lower:", reason)
    if any(bound.delta is not None for bound in found):
        errors = ", ".join(rounded_up(float(bound.delta)) for bound in found if bound.delta is not None)
        meaning = f"|F(x) - F(y)| <= constant |x - y| + 2 delta, delta <= {errors}"
        say_fact("executed", f"{found[0].provenance.semantics}: {meaning}")
    if found:
        show.say_written({"": found[0]})
        say_status(*(bound.status for bound in found))
        if inputs > 1:
            worst = max(found, key=lambda bound: float(bound.upper))
            say_answer(f"{_told(worst)}, the largest of {inputs} inputs")
        else:
            say_answer("; ".join(map(_told, found[-1:] if len(found) > 3 else found)))


def _told(bound: LipschitzBound) -> str:
    return bound.headline() + (f", radius {bound.radii[0]:g}" if bound.radii else "")


def joined(bounds: list[LipschitzBound]) -> LipschitzBound:
    """Results for single radii as one result with an axis of radii, for a figure; status and method of the last."""
    return replace(
        bounds[-1],
        upper=torch.stack([bound.upper for bound in bounds]),
        lower=torch.stack([bound.lower for bound in bounds]),
        witness=None,
        partner=None,
        lower_reason=tuple(reason for bound in bounds for reason in bound.lower_reason),
        unstable=torch.stack([bound.unstable for bound in bounds]),
        details={},
        seconds=sum(bound.seconds for bound in bounds),
        radii=tuple(radius for bound in bounds for radius in bound.radii),
    )
