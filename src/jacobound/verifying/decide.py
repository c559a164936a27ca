"""`verify`: whether a property holds, with a proof either way."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.asking import in_time, provenance, question, strictly
from jacobound.budget import Budget
from jacobound.errors import InvalidModelError, InvalidOptionError
from jacobound.given import Limit, budget_given, graph_given
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.importers.onnx.file import run_onnx
from jacobound.inputs.domains import Domain
from jacobound.inputs.properties import Property
from jacobound.relaxation.ranges import CROWN, IBP
from jacobound.results.kinds import Status
from jacobound.results.question import Question
from jacobound.verifying.claims import LipschitzAtMost, Monotone
from jacobound.verifying.search import Outcome, VerdictSearch
from jacobound.verifying.sensitivity import verify_constant, verify_monotone
from jacobound.verifying.target import Target
from jacobound.verifying.verdict import Decision, EngineRun, Verdict

SECONDS = 60.0
STATUS = {Outcome.TIME: Status.TIME_LIMIT, Outcome.MEMORY: Status.MEMORY_LIMIT, Outcome.STUCK: Status.INCOMPLETE}
NAMED = "it takes a Property (Property.from_vnnlib(path)), LipschitzAtMost(...) or Monotone(...)"


def verify(
    graph: Graph,
    claim: Property | LipschitzAtMost | Monotone | str | os.PathLike[str],
    *,
    budget: Limit | None = None,
    model: str | os.PathLike[str] | None = None,
) -> Verdict:
    """Whether a property holds for all inputs that it speaks of: certified, refuted by a proved point, or unknown.

    Conditions on outputs: branch and bound over boxes of inputs, and points by descent; for few inputs, a dozen or so,
    it decides nearly everything in time; for many inputs bounds of the whole box decide. Claims about constants and
    monotone inputs: `lipschitz` and `monotone_features`, then smaller parts. "Holds" and "violated" are about the
    real-number network with the stored weights, rounding included.

    Args:
        graph: the network.
        claim: what is claimed; of a path the VNN-LIB property in that file.
        budget: time, memory and progress, or seconds; None gives 60 seconds.
        model: the ONNX file that the graph was imported from: a witness is then run in onnxruntime too, and the
            verdict says what that computes (`Verdict.engine`).

    Raises:
        ShapeError, InvalidRegionError: when the property does not fit the network.
        InvalidModelError, InvalidOptionError: when something else is given in place of a graph, claim or budget.
        UnsafeArithmeticError: when the machine's settings break the rounding model, or floats can not hold a factor.
    """
    graph, budget = graph_given(graph), budget_given(budget)
    budget = Budget(SECONDS) if budget is None else budget
    if isinstance(claim, str | os.PathLike):
        claim = Property.from_vnnlib(claim, graph.in_shape)
    if isinstance(claim, LipschitzAtMost):
        return verify_constant(graph, claim, budget)
    if isinstance(claim, Monotone):
        return verify_monotone(graph, claim, budget)
    if not isinstance(claim, Property):
        raise InvalidOptionError(f"the claim can not be a {type(claim).__name__}; {NAMED}")
    cases = claim.cases_for(graph.in_shape, size(graph.output))
    asked = question("verify", graph, cases[0].box, None, budget)
    asked = replace(asked, region=cases[0].box if len(cases) == 1 else None, options={"property": claim})
    with strictly(graph, budget) as (own, clock):
        target = Target.of(graph, cases)
        search = VerdictSearch(target, cases, own)
        end = search.run()
        verdict = _verdict(graph, search, end, own, clock(), asked)
        if verdict.witness is None or model is None:
            return verdict
        best = search.points.best
        assert best is not None
        return replace(verdict, **_run(graph, target, best.case, verdict.witness, model))


def _verdict(
    graph: Graph, search: VerdictSearch, end: Outcome, budget: Budget, seconds: float, asked: Question
) -> Verdict:
    best, lower = search.points.best, search.margin
    status = Status.of(in_time(STATUS.get(end, Status.CERTIFIED), budget))
    answer = {Outcome.HOLDS: Decision.HOLDS, Outcome.VIOLATED: Decision.VIOLATED}.get(end, Decision.UNKNOWN)
    if answer is not Decision.UNKNOWN and status.certified:
        status = Status.CERTIFIED
    elif not status.certified:
        answer = Decision.UNKNOWN
    witness, enclosed = None, None
    if best is not None:
        witness = best.place.lower.reshape(graph.in_shape).cpu()
        enclosed = _outputs(graph, best.place)
    return Verdict(
        answer,
        torch.tensor(lower, dtype=torch.float64),
        torch.tensor(math.inf if best is None else best.margin, dtype=torch.float64),
        witness,
        None,
        None if enclosed is None else enclosed.lower,
        None if enclosed is None else enclosed.upper,
        None,
        search.bounded,
        0 if answer is Decision.HOLDS else len(search.open),
        end.value,
        status,
        seconds,
        provenance(graph, CROWN(), seconds, seed=0, asked=asked),
    )


def _outputs(graph: Graph, place: Interval) -> Interval:
    """The enclosed outputs at a witness, flattened."""
    double = graph.double
    form = double.expanded() if double.expands else double.lowered()
    ranges = IBP().ranges(form, Domain(place.map(lambda end: end.reshape(1, *graph.in_shape))), Budget())
    return ranges[form.output].map(lambda end: end.flatten().cpu())


def _run(
    graph: Graph, target: Target, case: int, witness: Tensor, model: str | os.PathLike[str]
) -> dict[str, EngineRun | str | None]:
    """What an engine makes of the witness."""
    if graph.source.units:
        return {"note": "the file was not run: the network has other units in front of or behind it"}
    values, engine, digest = run_onnx(model, witness.unsqueeze(0), graph.source.until)
    if graph.source.sha256 is not None and digest != graph.source.sha256:
        raise InvalidModelError(
            f"'{os.fspath(model)}' is not the file of this graph; give the one it was imported from"
        )
    outputs = values[0].flatten().to(torch.float64)
    where = torch.tensor([case], device=target.row.device)
    met = target.of_outputs(witness.flatten(), outputs).unsqueeze(0)[:, target.members].all(2) & target.own(where)
    return {"engine": EngineRun(engine, tuple(outputs.tolist()), bool(met.any()))}
