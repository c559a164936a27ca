"""The three questions: `bound_output`, `bound_jacobian`, `lipschitz`.

Each checks its arguments, enters strict arithmetic, asks a method for every set of the region, and stamps the answer
with status and provenance. A Jacobian method answers `lipschitz` as well: the norm of an enclosure of the Jacobian is
a Lipschitz constant.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import monotonic
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jacobound.errors import InvalidOptionError, ShapeError
from jacobound.execution import Executed
from jacobound.graph import Graph, size
from jacobound.methods.base import Budget, JacobianEnclosure, JacobianMethod, OutputMethod
from jacobound.methods.constants import from_entries, split_products
from jacobound.methods.crown import CROWN
from jacobound.methods.executed import executed, execution_error
from jacobound.methods.recurjac import RecurJac
from jacobound.methods.sampling import Sampling, Witness
from jacobound.methods.tangents import unstable_entries
from jacobound.regions import Ball, Domain, Region
from jacobound.results import JacobianBounds, LipschitzBound, OutputBounds, Provenance, Status
from jacobound.rounding import strict

Rows = Tensor | np.ndarray | Sequence[Sequence[float]]
Semantics = Literal["real", "executed"] | Executed


def bound_output(
    graph: Graph,
    region: Region,
    method: OutputMethod | None = None,
    *,
    rows: Rows | None = None,
    budget: Budget | None = None,
    semantics: Semantics = "real",
) -> OutputBounds:
    """Certified bounds of the network's outputs over a region.

    Args:
        graph: the network.
        region: where the input is.
        method: `IBP`, `FastLin` or `CROWN` (the default).
        rows: combinations of the flattened outputs, shape (k, outputs); None for the outputs as they are.
        budget: time, memory and progress.
        semantics: "real" for the exact network with the stored weights; "executed" (float32) or `Executed(dtype)` for
            what an inference engine computes, inputs rounded first, sums in any order; rows are then exact
            combinations of the executed outputs.

    Raises:
        ShapeError, InvalidRegionError: when region or rows do not fit the network.
        UnsafeArithmeticError: when the machine's settings break the rounding model.
    """
    method = CROWN() if method is None else method
    meant = _meant(graph, semantics)
    target = (meant if rows is None else meant.with_rows(_matrix(rows, graph))).expanded()
    with _prepared(target, region, budget) as (domains, lead, budget, clock):
        found = [method.ranges(target, domain, budget)[target.output] for domain in _told(domains, budget)]
        shape = graph.out_shape if rows is None else target.out_shape
        lower, upper = (_arranged([getattr(x, end).reshape(shape) for x in found], lead) for end in ("lower", "upper"))
        status = Status.of(_in_time(Status.CERTIFIED, budget), lower, upper)
    return OutputBounds(lower, upper, status, _provenance(graph, method, clock(), semantics=semantics), lead)


def bound_jacobian(
    graph: Graph,
    region: Region,
    method: JacobianMethod | None = None,
    *,
    rows: Rows | None = None,
    budget: Budget | None = None,
) -> JacobianBounds:
    """Certified element-wise bounds of the Jacobian over a region.

    Args:
        graph: the network.
        region: where the input is.
        method: `RecurJac` (the default) or `FastLip`.
        rows: combinations of the flattened outputs, shape (k, outputs): one class, a margin e_c - e_t; None for all.
        budget: time, memory and progress.

    Returns:
        Bounds of shape (*radii, *batch, rows, *input shape).

    Raises:
        ShapeError, InvalidRegionError: when region or rows do not fit the network.
        UnsafeArithmeticError: when the machine's settings break the rounding model.
    """
    method = RecurJac() if method is None else method
    target = graph.with_rows(None if rows is None else _matrix(rows, graph)).expanded()
    with _prepared(target, region, budget) as (domains, lead, budget, clock):
        found = [method.enclose(target, domain, budget) for domain in _told(domains, budget)]
        shape = (size(target.output), *graph.in_shape)
        lower = _arranged([x.entries.lower.reshape(shape) for x in found], lead)
        upper = _arranged([x.entries.upper.reshape(shape) for x in found], lead)
        unstable = torch.tensor([_unstable(x) for x in found]).reshape(lead)
        status = Status.of(_in_time(_worst([x.status for x in found]), budget), lower, upper)
    return JacobianBounds(lower, upper, status, _provenance(graph, method, clock()), unstable, _activations(found[0]))


def lipschitz(
    graph: Graph,
    region: Region,
    method: JacobianMethod | None = None,
    *,
    norm: tuple[float, float] = (2, 2),
    rows: Rows | None = None,
    budget: Budget | None = None,
    search: Sampling | None = Sampling(),  # noqa: B008 - a frozen value
    semantics: Semantics = "real",
) -> LipschitzBound:
    """A Lipschitz constant over a region, as a bracket: a certified upper bound and an attained lower one.

    Args:
        graph: the network.
        region: where the input is; convex, so that Jacobian bounds are Lipschitz constants.
        method: a Jacobian method; None takes `RecurJac()` and says so in the result. The minimum with products of
            norms is always taken; `details` lists every candidate.
        norm: (p, q) with p, q in {1, 2, inf}: ``||f(x) - f(y)||_q <= L ||x - y||_p``.
        rows: combinations of the flattened outputs, shape (k, outputs); None for all outputs.
        budget: time, memory and progress.
        search: how the lower bound is found; None leaves it out (0 is returned).
        semantics: "real" for the exact network. An executed network is a step function without a useful derivative;
            with "executed" (float32) or `Executed(dtype)` the result has a certified `delta` besides, for which
            ``||F(x) - F(y)||_q <= upper ||x - y||_p + 2 delta`` holds for the executed network F.

    Raises:
        ShapeError, InvalidRegionError: when region, rows or norm do not fit.
        UnsafeArithmeticError: when the machine's settings break the rounding model.
    """
    method = RecurJac() if method is None else method
    p, q = _norm(norm)
    target = graph.with_rows(None if rows is None else _matrix(rows, graph)).expanded()
    with _prepared(target, region, budget) as (domains, lead, budget, clock):
        found, enclosures, witnesses = [], [], []
        for domain in _told(domains, budget):
            enclosures.append(method.enclose(target, domain, budget))
            found.append(_candidates(target, enclosures[-1], type(method).__name__, p, q))
            if search is not None:
                witnesses.append(search.search(target, domain, (p, q), budget))
        upper = torch.stack([torch.stack(list(values.values())).amin() for values in found])
        status = Status.of(_in_time(_worst([x.status for x in enclosures]), budget), upper)
        names = list(dict.fromkeys(name for values in found for name in values))
        missing = torch.full_like(upper[0], math.inf)
        details = {name: torch.stack([v.get(name, missing) for v in found]).reshape(lead) for name in names}
        delta = None
        if semantics != "real":
            run = _meant(graph, semantics).with_rows(None if rows is None else _matrix(rows, graph)).expanded()
            errors = [execution_error(run, domain, budget, CROWN(), q) for domain in domains]
            delta, status = torch.stack(errors).reshape(lead), Status.of(status, *errors)
    return LipschitzBound(
        upper=upper.reshape(lead),
        lower=_attained(witnesses, upper).reshape(lead),
        witness=torch.stack([w.point for w in witnesses]).reshape(*lead, *graph.in_shape) if witnesses else None,
        status=status,
        norm=(p, q),
        method=min(found[0], key=lambda name: float(found[0][name])),
        seconds=clock(),
        details=details,
        unstable=torch.tensor([_unstable(x) for x in enclosures]).reshape(lead),
        activations=_activations(enclosures[0]),
        radii=region.radii if isinstance(region, Ball) else (),
        provenance=_provenance(graph, method, clock(), search.seed if search is not None else None, semantics),
        delta=delta,
    )


def _candidates(graph: Graph, enclosure: JacobianEnclosure, name: str, p: float, q: float) -> dict[str, Tensor]:
    """Every certified constant that is at hand, by name."""
    return {name: from_entries(enclosure, p, q), **split_products(graph, enclosure, p, q)}


def _attained(witnesses: list[Witness], upper: Tensor) -> Tensor:
    """The witnessed values; their own rounding (they are evaluated in floating point) may not pass the upper bound."""
    if not witnesses:
        return torch.zeros_like(upper)
    values = torch.stack([w.value for w in witnesses])
    close = values <= upper * (1 + 1e-6)
    return torch.where(close, torch.minimum(values, upper), values)


def _unstable(enclosure: JacobianEnclosure) -> int:
    return sum(len(unstable_entries(slope)) for slope in enclosure.slopes.values())


def _activations(enclosure: JacobianEnclosure) -> int:
    return sum(slope.lower.numel() for slope in enclosure.slopes.values())


@contextlib.contextmanager
def _prepared(
    graph: Graph, region: Region, budget: Budget | None
) -> Iterator[tuple[list[Domain], tuple[int, ...], Budget, Callable[[], float]]]:
    """The region's sets, the budget and a clock, inside strict arithmetic without gradients."""
    started = monotonic()
    with strict(graph.device, graph.dtype), torch.no_grad():
        domains, lead = region.domains(graph)
        budget = replace(Budget() if budget is None else budget, started=started)
        yield domains, lead, budget, lambda: monotonic() - started


def _told(domains: list[Domain], budget: Budget) -> Iterator[Domain]:
    """The domains one by one, with progress."""
    for done, domain in enumerate(domains):
        budget.tell(done, len(domains), "regions")
        yield domain
    budget.tell(len(domains), len(domains), "regions")


def _arranged(parts: list[Tensor], lead: tuple[int, ...]) -> Tensor:
    return torch.stack(parts).reshape((*lead, *parts[0].shape))


def _worst(statuses: list[Status]) -> Status:
    """A status that is not plainly certified, if there is one."""
    return next((status for status in statuses if status is not Status.CERTIFIED), Status.CERTIFIED)


def _in_time(status: Status, budget: Budget) -> Status:
    """Past the time limit methods leave refinements out, so a tighter bound may exist."""
    return Status.TIME_LIMIT if status is Status.CERTIFIED and budget.is_over else status


def _matrix(rows: Rows, graph: Graph) -> Tensor:
    """Row combinations as an exact float64 matrix."""
    matrix = torch.as_tensor(np.asarray(rows) if not isinstance(rows, Tensor) else rows)
    if matrix.dim() != 2 or not bool(torch.isfinite(matrix).all()):
        raise ShapeError(
            f"rows must be a finite matrix of shape (k, {size(graph.output)}), one column per output; "
            f"got shape {tuple(matrix.shape)}. For the outputs a and b use torch.eye({size(graph.output)})[[a, b]]"
        )
    return matrix.to(torch.float64)


def _norm(norm: tuple[float, float]) -> tuple[float, float]:
    p, q = (float(value) for value in norm)
    if p not in (1, 2, math.inf) or q not in (1, 2, math.inf):
        raise ShapeError(f"norm=(p, q) takes 1, 2 and inf, not {norm}")
    return p, q


def _meant(graph: Graph, semantics: Semantics) -> Graph:
    """The graph whose values are meant: exact ones, or those of an execution."""
    if semantics == "real":
        return graph
    if semantics != "executed" and not isinstance(semantics, Executed):
        raise InvalidOptionError(f"semantics is 'real', 'executed' or Executed(dtype), not {semantics!r}")
    return executed(graph, Executed() if semantics == "executed" else semantics)


def _provenance(
    graph: Graph, method: object, seconds: float, seed: int | None = None, semantics: Semantics = "real"
) -> Provenance:
    meaning = f"executed in {semantics.dtype}" if isinstance(semantics, Executed) else semantics
    meaning = "executed in float32" if meaning == "executed" else meaning
    return Provenance(
        repr(method), graph.fingerprint, str(graph.device), str(graph.dtype), seconds, seed=seed, semantics=meaning
    )
