"""Random graphs of all operators and activations x regions x methods, against sampled points and autodiff."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from campaign.claims import CONSTANT_METHODS, JACOBIAN_METHODS, NORMS, OUTPUT_METHODS, status_is_wrong
from campaign.families import pick
from campaign.runner import Part, Tally
from jacobound import Best, Budget, Graph, RecurJac, Sampling, lipschitz
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import strict
from jacobound.inputs.domains import Domain
from jacobound.inputs.regions import Region
from jacobound.method import JacobianEnclosure, JacobianMethod, LipschitzMethod, Query
from jacobound.method.from_entries import from_entries, split_products
from oracles import Observation, not_enclosed, observe
from single import nth
from zoo import KINDS, REGIONS, integer, realised


@dataclass(frozen=True)
class Example:
    """A graph on a region, and what one of the networks that it stands for does at some points.

    Args:
        graph: what is bounded; float64 or float32.
        region: a single set.
        points: float64 points of it, shape (points, *input shape).
        twin: the float64 graph that was observed, with exact weights; its nodes correspond to those of `graph`.
        seen: its values and Jacobians.
    """

    graph: Graph
    region: Region
    points: Tensor
    twin: Graph
    seen: Observation

    @property
    def domain(self) -> Domain:
        domains, _ = self.region.domains(self.graph)
        return domains[:]


def example(kind: str, region: str, single: bool, generator: Generator) -> Example:
    """A random graph of a kind of `zoo.KINDS` on a region of `zoo.REGIONS`."""
    graph = KINDS[kind](generator).expanded()
    described, points = REGIONS[region](graph.in_shape, generator)
    twin = realised(graph, generator).with_rows(None)
    graph = (graph.to(dtype=torch.float32) if single else graph).with_rows(None)
    points = points[_without_overflow(twin, points)]
    return Example(graph, described, points, twin, observe(twin, points))


def _without_overflow(graph: Graph, points: Tensor) -> Tensor:
    """Points at which floating point gives a finite value of every node."""
    values = graph.values(points).values()
    return torch.stack([value.flatten(1).isfinite().all(1) for value in values]).all(0)


def _no_bounds(found: Interval) -> list[str]:
    """NaN ends and impossible infinities."""
    wrong = found.lower.isnan() | found.upper.isnan() | (found.lower == math.inf) | (found.upper == -math.inf)
    return [f"entry {k} is no bound" for k in wrong.flatten().nonzero().flatten().tolist()]


def check_ranges(case: Example) -> Tally:
    """Every node by every method."""
    tally, domain, seen = Tally(), case.domain, case.seen
    with torch.no_grad(), strict(case.graph.device, case.graph.dtype):
        for method in OUTPUT_METHODS:
            ranges = method.ranges(case.graph, domain, Budget())
            for node, twin in zip(case.graph.nodes, case.twin.nodes, strict=True):
                found = nth(ranges[node])
                wrong = not_enclosed(found, seen.values[twin], seen.value_error[twin]) + _no_bounds(found)
                tally.add("values", seen.values[twin].numel(), [f"{method}, {node.name}: {line}" for line in wrong])
    return tally


def check_jacobians(case: Example, method: JacobianMethod, generator: Generator) -> Tally:
    """Entries, directional derivatives and constants of one method."""
    tally, seen = Tally(), case.seen
    with torch.no_grad(), strict(case.graph.device, case.graph.dtype):
        whole = method.enclose(Query(case.graph, case.domain, Budget()))
        enclosure = nth(whole)
        entries = enclosure.entries
        wrong = not_enclosed(entries, seen.jacobian, seen.jacobian_error) + _no_bounds(entries)
        tally.add("Jacobian entries", seen.jacobian.numel(), [f"{method}: {line}" for line in wrong])
        directions = torch.randn(entries.shape, generator=generator).to(entries.lower)
        image = (seen.jacobian * directions.double()).sum(2)
        error = (seen.jacobian_error * directions.double().abs()).sum(2) + 1e-12 * image.abs()
        wrong = not_enclosed(enclosure.along(directions), image, error)
        tally.add("directional derivatives", image.numel(), [f"{method}: {line}" for line in wrong])
        if enclosure.across is not None:
            image = (seen.jacobian * directions.double()).sum(1)
            error = (seen.jacobian_error * directions.double().abs()).sum(1) + 1e-12 * image.abs()
            wrong = not_enclosed(enclosure.across(directions), image, error)
            tally.add("sums over outputs", image.numel(), [f"{method}: {line}" for line in wrong])
        tally.merge(check_constants(case, whole, f"{method}", generator))
    return tally


def check_constants(case: Example, enclosure: JacobianEnclosure, method: str, generator: Generator) -> Tally:
    """Slopes between pairs of points stay below every constant."""
    tally, half = Tally(), len(case.points) // 2
    outputs = case.seen.values[case.twin.output].flatten(1)
    spread = 2 * case.seen.value_error[case.twin.output].flatten(1).amax(0)
    steps = (case.points[:half] - case.points[half : 2 * half]).flatten(1)
    rises = outputs[:half] - outputs[half : 2 * half]
    for p, q in (NORMS[integer(0, 8, generator)] for _ in range(2)):
        run, height = (torch.linalg.vector_norm(x, ord=r, dim=1) for x, r in ((steps, p), (rises, q)))
        doubt = torch.linalg.vector_norm(spread, ord=q) + 1e-13 * height
        constants = {
            "entries": from_entries(enclosure, p, q),
            **split_products(enclosure.graph or case.graph, enclosure, p, q),
        }
        for name, constant in constants.items():
            steep = ~(height <= float(constant) * run * (1 + 1e-13) + doubt) & (run > 0)
            line = f"{method}, l_{p} to l_{q}, {name}: {float(constant)!r}"
            tally.add("slopes between points", half, [line] * int(steep.sum()))
    return tally


def check_bracket(case: Example, norm: tuple[float, float], method: JacobianMethod | LipschitzMethod | Best) -> Tally:
    """`lipschitz` gives a bracket, and no attained norm lies above it."""
    search = Sampling(points=6, steps=2, ascents=2)
    found = lipschitz(case.graph, case.region, method, norm=norm, search=search, budget=Budget(1.0))
    largest = attained(case.seen.jacobian, *norm) - case.seen.jacobian_error.sum((1, 2))
    wrong = status_is_wrong(found.status, found.upper)
    if not (bool(found.lower <= found.upper) and bool(found.lower >= 0)):
        wrong.append(f"[{float(found.lower)!r}, {float(found.upper)!r}] is no bracket")
    above = ~(largest * (1 - 1e-12) <= float(found.upper))
    wrong += [f"{norm}: {value!r} is above {float(found.upper)!r}" for value in largest[above].tolist()]
    wrong += [
        f"{name} is below the minimum" for name, one in found.details.items() if not bool(one.value >= found.upper)
    ]
    tally = Tally()
    tally.add("attained norms", len(largest), [f"{method}: {line}" for line in wrong])
    return tally


def attained(jacobian: Tensor, p: float, q: float) -> Tensor:
    """Norms of the images of some unit vectors, including the corners that matter for p = 1 and inf."""
    inputs = jacobian.shape[2]
    units = torch.eye(inputs, dtype=jacobian.dtype)
    signs = torch.where(jacobian >= 0, 1.0, -1.0).transpose(1, 2)  # the best corner for every row
    # Rows of saturated networks can be so small that their squares vanish.
    rows = jacobian / jacobian.abs().amax(2, keepdim=True).clamp(min=torch.finfo(jacobian.dtype).tiny)
    candidates = torch.cat((units.expand(len(jacobian), -1, -1), signs, rows.transpose(1, 2)), 2)
    length = torch.linalg.vector_norm(candidates, ord=p, dim=1).clamp(min=1e-300)
    return (torch.linalg.vector_norm(jacobian @ candidates, ord=q, dim=1) / length).amax(1)


def batch(generator: Generator) -> Tally:
    """Five graphs, each on one region with all range methods and one or two others."""
    tally = Tally()
    for _ in range(5):
        kind, region, single = pick([*KINDS], generator), pick([*REGIONS], generator), integer(0, 1, generator) == 1
        try:
            found = examine(example(kind, region, single, generator), generator)
        except Exception as error:
            found = Tally(violations=[f"raised {error!r}"])
        found.violations = [f"{kind}, {region}, single={single}: {line}" for line in found.violations]
        found.cases["graphs"] += 1
        tally.merge(found)
    return tally


def examine(case: Example, generator: Generator) -> Tally:
    """All range methods, one Jacobian method, and now and then the bracket of another."""
    tally = check_ranges(case)
    tally.merge(check_jacobians(case, JACOBIAN_METHODS[integer(0, len(JACOBIAN_METHODS) - 1, generator)], generator))
    if integer(0, 2, generator) == 0:
        methods = ((RecurJac(),), JACOBIAN_METHODS, CONSTANT_METHODS)[integer(0, 2, generator)]
        method = methods[integer(0, len(methods) - 1, generator)]
        tally.merge(check_bracket(case, NORMS[integer(0, 8, generator)], method))
    return tally


PART = Part("graphs", "graphs", batch, ("graphs",))
