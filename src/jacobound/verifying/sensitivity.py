"""Verdicts about Lipschitz constants and monotone inputs, from the questions that bound them."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.asking import question
from jacobound.budget import Budget
from jacobound.errors import ShapeError
from jacobound.given import row_matrix
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.exponents import norm_pair
from jacobound.inputs.vnnlib_linear import outward
from jacobound.jacobian.affine.linear_slopes import smooth
from jacobound.method import Method
from jacobound.methods import LinearSlopes, RecurJac, Split
from jacobound.questions.monotonicity import MonotoneFeatures, monotone_features
from jacobound.results.kinds import LipschitzBound, Status
from jacobound.results.question import Question
from jacobound.solve import lipschitz
from jacobound.verifying.claims import LipschitzAtMost, Monotone
from jacobound.verifying.verdict import Decision, Verdict

OF_FIRST = 0.25  # share of the time for the usual methods, before parts are looked at
FEW = 32  # inputs for which parts are looked at
PARTS = (500, 5000, 1 << 30)  # that are bounded at most, attempt by attempt


def verify_constant(graph: Graph, claim: LipschitzAtMost, budget: Budget) -> Verdict:
    """Whether a Lipschitz constant is at most a bound; see `verify`."""
    budget = budget.started_now()
    matrix, norms = row_matrix(claim.rows, graph), norm_pair(claim.norm)
    asked = question("verify", graph, claim.region, matrix, budget, norms)
    asked = replace(asked, options={"at_most": claim.exact})
    first = budget.within(OF_FIRST * budget.remaining)
    found = lipschitz(graph, claim.region, norm=norms, rows=matrix, budget=first)
    verdict = _of_constant(graph, claim, found, asked)
    few = size(graph.input) <= FEW and math.isfinite(budget.limit) and _bounded(claim, graph)
    for most in PARTS if few and graph.expands else ():
        if verdict.decision is not Decision.UNKNOWN or budget.is_over:
            break
        inner: Method = LinearSlopes() if smooth(graph.expanded()) else RecurJac()
        again = lipschitz(
            graph,
            claim.region,
            Split(inner, most=most),
            norm=norms,
            rows=matrix,
            budget=budget.within(budget.remaining),
        )
        better = _of_constant(graph, claim, again, asked)
        if float(better.lower) > float(verdict.lower) or better.decision is not Decision.UNKNOWN:
            verdict = better
    return replace(verdict, seconds=budget.spent)


def _bounded(claim: LipschitzAtMost, graph: Graph) -> bool:
    return all(bool(one.bounded.all()) for one in claim.region.domains(graph)[0])


def _of_constant(graph: Graph, claim: LipschitzAtMost, found: LipschitzBound, asked: Question) -> Verdict:
    """The verdict that a bracket of the constant allows."""
    upper, lower = (end.double().flatten().cpu() for end in (found.upper, found.lower))
    steepest, largest = int(lower.argmax()), float(upper.max())
    holds = found.status.certified and math.isfinite(largest) and Fraction(largest) <= claim.exact
    refuted = found.status is not Status.NOT_RIGOROUS and Fraction(float(lower[steepest])) > claim.exact
    points = [
        None if one is None else one.reshape(-1, *graph.in_shape)[steepest].double().cpu()
        for one in (found.witness, found.partner)
    ]
    low = outward(claim.exact - Fraction(largest), -math.inf) if math.isfinite(largest) else -math.inf
    high = outward(claim.exact - Fraction(float(lower[steepest])), math.inf)
    note = f"the constant is between {float(lower[steepest]):.6g} and {largest:.6g} ({found.method})"
    return _verdict(_answer(holds, refuted), (low, high), points, note, found, asked)


def verify_monotone(graph: Graph, claim: Monotone, budget: Budget) -> Verdict:
    """Whether inputs can only raise or only lower the rows; see `verify`."""
    matrix, inputs = row_matrix(claim.rows, graph), size(graph.input)
    for k in (*claim.increasing, *claim.decreasing):
        if k >= inputs:
            raise ShapeError(f"input {k}: the network has {inputs} inputs, counted from 0")
    asked = question("verify", graph, claim.region, matrix, budget)
    claimed = {name: tuple(getattr(claim, name)) for name in ("increasing", "decreasing")}
    asked = replace(asked, options=claimed | {"negligible": claim.negligible})
    found = monotone_features(graph, claim.region, matrix, budget=budget, most=PARTS[-1], negligible=claim.negligible)
    lower, upper = (end.flatten(-len(graph.in_shape)).cpu() for end in (found.lower, found.upper))
    rising, falling = (pairs.flatten(-len(graph.in_shape) - 1, -2).cpu() for pairs in (found.rising, found.falling))
    up, down = list(claim.increasing), list(claim.decreasing)
    slopes = torch.cat((lower[..., up], -upper[..., down]), -1)
    against = torch.cat((falling[..., up, :], rising[..., down, :]), -2)
    shown = (~against.isnan().any(-1)).nonzero()
    points: list[Tensor | None] = [None, None]
    if len(shown):
        *lead, place = shown[0].tolist()
        feature, kind = ([*up, *down][place], "falling" if place < len(up) else "rising")
        index = torch.unravel_index(torch.tensor(feature), graph.in_shape)
        points = list(found.pair(kind, (*lead, *(int(k) for k in index))).cpu())
    slack = found.slack.flatten(-len(graph.in_shape)).cpu()[..., [*up, *down]]
    least, certified = float(slopes.min()), found.status.certified
    holds = certified and bool((slopes >= -slack).all())
    reached = 0.0 if len(shown) else math.inf  # between the points of a pair some derivative is below 0
    note = f"derivatives count as of the claimed sign up to {float(slack.max()):.1e}"
    if len(shown):
        note = "the pair of points differs in one input, and the row changes against the claim"
    return _verdict(_answer(holds, bool(len(shown))), (least, reached), points, note, found, asked)


def _answer(holds: bool, refuted: bool) -> Decision:
    return Decision.VIOLATED if refuted else Decision.HOLDS if holds else Decision.UNKNOWN


def _verdict(
    answer: Decision,
    margin: tuple[float, float],
    points: list[Tensor | None],
    note: str,
    found: LipschitzBound | MonotoneFeatures,
    asked: Question,
) -> Verdict:
    status = Status.CERTIFIED if answer is not Decision.UNKNOWN else found.status
    parts = int(found.boxes.sum()) if isinstance(found, MonotoneFeatures) else 1
    lower, upper = (torch.tensor(end, dtype=torch.float64) for end in margin)
    return Verdict(
        decision=answer,
        lower=lower,
        upper=upper,
        witness=points[0],
        partner=points[1],
        outputs_lower=None,
        outputs_upper=None,
        engine=None,
        parts=parts,
        open_parts=0 if answer is Decision.HOLDS else parts,
        note=note,
        status=Status.INCOMPLETE if answer is Decision.UNKNOWN and status is Status.CERTIFIED else status,
        seconds=found.seconds,
        provenance=replace(found.provenance, question=asked),
    )
