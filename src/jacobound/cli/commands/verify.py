"""``jacobound verify``: whether a property of outputs, a constant or derivatives holds, with a proof either way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.commands.inspect import say_network
from jacobound.cli.given.around import around_each, wanted_radii
from jacobound.cli.given.networks import NUMBERS, NetworkOptions
from jacobound.cli.given.options import Norm, PointOptions, RunOptions, ShowOptions, check_target, one_radius
from jacobound.cli.shown.summaries import say_answer, say_files, say_status
from jacobound.cli.shown.text import COMMAND, say, say_fact, say_json, say_table
from jacobound.errors import InvalidOptionError, JacoboundError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.grammar import parse_indices, parse_rows, row_matrix
from jacobound.inputs.properties import Property
from jacobound.verifying import Decision, LipschitzAtMost, Monotone, Verdict
from jacobound.verifying import verify as decide
from jacobound.verifying.decide import SECONDS
from jacobound.verifying.standard import counterexample_text
from jacobound.words import nearest

CODES = {Decision.HOLDS: 0, Decision.UNKNOWN: 1, Decision.VIOLATED: 3}


@Parameter(name="*", group="Claim")
@dataclass(frozen=True, kw_only=True)
class ClaimOptions:
    """What is claimed over a region around --input, in place of a property file.

    Args:
        lipschitz_below: The Lipschitz constant is at most this.
        p: Norm of the input for --lipschitz-below. [default: 2]
        q: Norm of the output for --lipschitz-below. [default: 2]
        increasing: Inputs that can only raise the rows, such as 0,2.
        decreasing: Inputs that can only lower the rows.
        rows: Outputs and margins: 3 is output 3, 3-5 output 3 minus output 5. [default: all]
        radius: Radius of the ball; a decimal or a ratio is rounded outward.
        norm: Norm of the ball. [default: inf]
        units: Units of the inputs: distances are |x - point| / UNITS.
    """

    lipschitz_below: Annotated[str | None, NUMBERS] = None
    p: Norm | None = None
    q: Norm | None = None
    increasing: Annotated[str | None, NUMBERS] = None
    decreasing: Annotated[str | None, NUMBERS] = None
    rows: Annotated[str | None, NUMBERS] = None
    radius: Annotated[str | None, NUMBERS] = None
    norm: Norm | None = None
    units: Annotated[str | None, NUMBERS] = None

    def refuse(self, point: PointOptions) -> None:
        """Refuse whatever a property file holds itself."""
        if self != ClaimOptions() or point != PointOptions():
            raise InvalidOptionError(
                "a property file holds its own region and claim; leave out --input, --radius and other claims"
            )

    def made(self, graph: Graph, point: PointOptions) -> tuple[LipschitzAtMost | Monotone, str]:
        """The claim, and the claim in words."""
        about_signs = self.increasing is not None or self.decreasing is not None
        if (self.lipschitz_below is None) != about_signs:
            raise InvalidOptionError(
                "what is claimed? Give a .vnnlib file, or --lipschitz-below 3, or --increasing 0,2 and --decreasing 1"
            )
        radii = wanted_radii(point, self.radius, self.norm, self.units)
        one_radius(radii, self.radius)
        asked, *others = around_each(point, graph, radii, self.radius, self.norm or "inf", self.units)
        if others:
            raise InvalidOptionError(f"a claim is about one input, not {1 + len(others)}; choose one with --index")
        region, p, q = asked.regions[0][1], self.p or "2", self.q or "2"
        matrix = None if self.rows is None else row_matrix(parse_rows(self.rows), size(graph.output))
        if self.lipschitz_below is not None:
            claim = LipschitzAtMost(region, self.lipschitz_below, (float(p), float(q)), matrix)
            return claim, f"the l{p} -> l{q} Lipschitz constant is at most {self.lipschitz_below}; {asked.story}"
        if self.p is not None or self.q is not None:
            raise InvalidOptionError("--p and --q belong to --lipschitz-below; leave them out")
        pairs = (("fall", self.increasing), ("rise", self.decreasing))
        up, down = (() if text is None else tuple(parse_indices(text, "--increasing")) for _, text in pairs)
        told = [f"never {word} as input {text} rises" for word, text in pairs if text]
        return Monotone(region, up, down, matrix), f"the rows {' and '.join(told)}; {asked.story}"


def verify(
    net: Path,
    property: Path | None = None,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    claim: ClaimOptions = ClaimOptions(),
    point: PointOptions = PointOptions(),  # noqa: B008
    cpu_seconds: Annotated[float | None, Parameter(group="Run")] = None,
    counterexample: Annotated[Path | None, Parameter(group="Output")] = None,
    run: RunOptions = RunOptions(),  # noqa: B008
    show: ShowOptions = ShowOptions(),  # noqa: B008
) -> int:
    """Decide a VNN-LIB property, a bound of a constant or signs of derivatives, with a proof either way.

    Exit code: 0 holds, 3 violated, 1 unknown within the limits, 2 for an error.

    Args:
        net: The network, an .onnx or .onnx.gz file.
        property: A .vnnlib or .vnnlib.gz file; what satisfies it is a violation. Without one the claim is one of the
            options below, over the region around --input.
        cpu_seconds: Time limit in seconds of the processor. [default: 60 seconds]
        counterexample: Write a violation into this .txt file, in the form of VNN-COMP.
    """
    show.check()
    if counterexample is not None:
        check_target(counterexample, (".txt", ".counterexample"), "--counterexample")
    if cpu_seconds is not None and not cpu_seconds > 0:
        raise JacoboundError("--cpu-seconds must be above 0")
    graph = run.placed(network.read(net))
    if property is not None:
        claim.refuse(point)
        meant: Property | LipschitzAtMost | Monotone = Property.from_vnnlib(property, graph.in_shape)
        story = str(meant)
    else:
        meant, story = claim.made(graph, point)
    with run.budget("verify", None if cpu_seconds is not None else SECONDS) as budget:
        own = replace(budget, cpu_seconds=cpu_seconds)
        found = decide(graph, meant, budget=own, model=None if property is None else net)
    found = found.asked_by(COMMAND.get())
    violated = found.decision is Decision.VIOLATED
    if counterexample is not None and violated:
        counterexample.write_text(f"sat\n{counterexample_text(found)}", encoding="utf-8")
    show.draw(found)
    if show.json:
        say_json(found.to_dict())
    else:
        say_network(net, graph)
        say_fact("claim", f"{story}\n")
        _say(found, show.most)
        say_files(counterexample if violated else None, show.plot)
        say_status(found.status)
        say_answer(found.headline())
    return CODES[found.decision]


def _say(found: Verdict, most: int) -> None:
    """The witness with its outputs, and what an engine makes of it."""
    say(f"searched  {found.parts} parts, {found.open_parts} open; {found.note}")
    if found.witness is None:
        return
    violation = found.decision is Decision.VIOLATED
    say(f"witness   {'the violation' if violation else 'the nearest point that was found'}")
    points = [one.flatten().tolist() for one in (found.witness, found.partner) if one is not None]
    rows = [(k, *map(nearest, values)) for k, values in enumerate(zip(*points, strict=True))]
    say_table(("input", "value", "second point")[: 1 + len(points)], rows[:most])
    if found.outputs_lower is not None and found.outputs_upper is not None:
        ends = zip(found.outputs_lower.tolist(), found.outputs_upper.tolist(), strict=True)
        say_table(("output", "value"), [(k, nearest(low / 2 + high / 2)) for k, (low, high) in enumerate(ends)][:most])
    if found.engine is not None:
        word = "violates" if found.engine.violates else "does not violate"
        say(f"engine    what {found.engine.engine} computes there {word} the property")
