"""The three questions: `bound_output`, `bound_jacobian`, `lipschitz`.

Each checks its arguments, enters strict arithmetic, asks a method for every set of the region, and stamps the answer
with status and provenance. A Jacobian method answers `lipschitz` as well: the norm of an enclosure of the Jacobian is
a Lipschitz constant.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from jacobound.domains import Domain, Domains
from jacobound.errors import InvalidOptionError, ShapeError
from jacobound.execution import Executed
from jacobound.graph import Elementwise, Graph, size
from jacobound.intervals import Interval, concatenated
from jacobound.methods.base import Budget, JacobianEnclosure, JacobianMethod, OutputMethod, sets_worth
from jacobound.methods.constants import from_entries, split_products
from jacobound.methods.crown import CROWN
from jacobound.methods.executed import executed, execution_error
from jacobound.methods.recurjac import RecurJac
from jacobound.methods.sampling import Sampling, Witness
from jacobound.methods.tangents import is_unstable
from jacobound.regions import Ball, Region
from jacobound.results import JacobianBounds, LipschitzBound, OutputBounds, Provenance, Status
from jacobound.rounding import strict

# An accelerator that can not give this much has no room to work in.
LEAST_MEMORY = 1 << 22

Found = TypeVar("Found")
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

        def work(domain: Domain, budget: Budget) -> Interval:
            return method.ranges(target, domain, budget)[target.output]

        found = concatenated(_in_runs(work, domains, target, budget, method.bytes_per_set(target)), 0)
        shape = (*lead, *(graph.out_shape if rows is None else target.out_shape))
        lower, upper = found.lower.reshape(shape), found.upper.reshape(shape)
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

        def work(domain: Domain, budget: Budget) -> tuple[Interval, Tensor, Status]:
            enclosure = method.enclose(target, domain, budget)
            return enclosure.entries, _unstable(enclosure, len(domain)), enclosure.status

        found = _in_runs(work, domains, target, budget, method.bytes_per_set(target))
        entries = concatenated([one for one, _, _ in found], 0)
        shape = (*lead, size(target.output), *graph.in_shape)
        lower, upper = entries.lower.reshape(shape), entries.upper.reshape(shape)
        unstable = torch.cat([one for _, one, _ in found]).reshape(lead)
        status = Status.of(_in_time(_worst([one for _, _, one in found]), budget), lower, upper)
    return JacobianBounds(lower, upper, status, _provenance(graph, method, clock()), unstable, _activations(target))


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
    matrix = None if rows is None else _matrix(rows, graph)
    target = graph.with_rows(matrix).expanded()
    run = None if semantics == "real" else _meant(graph, semantics).with_rows(matrix).expanded()
    with _prepared(target, region, budget) as (domains, lead, budget, clock):
        work = partial(_constants, target, run, method, (p, q), search)
        found = _in_runs(work, domains, target, budget, method.bytes_per_set(target))
        upper = torch.cat([torch.stack(list(one.known.values())).amin(0) for one in found])
        status = Status.of(_in_time(_worst([one.status for one in found]), budget), upper)
        witnesses = [one.witness for one in found if one.witness is not None]
        details = {name: torch.cat([one.known[name] for one in found]).reshape(lead) for name in found[0].known}
        deltas = [one.delta for one in found if one.delta is not None]
        status = Status.of(status, *deltas)
    return LipschitzBound(
        upper=upper.reshape(lead),
        lower=_attained(witnesses, upper).reshape(lead),
        witness=torch.cat([w.point for w in witnesses]).reshape(*lead, *graph.in_shape) if witnesses else None,
        status=status,
        norm=(p, q),
        method=min(found[0].known, key=lambda name: float(found[0].known[name][0])),
        seconds=clock(),
        details=details,
        unstable=torch.cat([one.unstable for one in found]).reshape(lead),
        activations=_activations(target),
        radii=region.radii if isinstance(region, Ball) else (),
        provenance=_provenance(graph, method, clock(), search.seed if search is not None else None, semantics),
        delta=torch.cat(deltas).reshape(lead) if deltas else None,
    )


@dataclass(frozen=True, eq=False)
class _Constants:
    """What one run of sets gave: constants by name (N,), unstable neurons (N,), points, errors of execution (N,)."""

    known: dict[str, Tensor]
    unstable: Tensor
    status: Status
    witness: Witness | None
    delta: Tensor | None


def _constants(
    graph: Graph,
    run: Graph | None,
    method: JacobianMethod,
    norm: tuple[float, float],
    search: Sampling | None,
    domain: Domain,
    budget: Budget,
) -> _Constants:
    """Constants over one run of sets, with witnesses; `run` is the executed network, if that is asked about."""
    enclosure = method.enclose(graph, domain, budget)
    known = _candidates(graph, enclosure, type(method).__name__, *norm)
    known = {name: value.expand(len(domain)) for name, value in known.items()}
    witness = None if search is None else search.search(graph, domain, norm, budget)
    delta = None if run is None else execution_error(run, domain, budget, CROWN(), norm[1])
    return _Constants(known, _unstable(enclosure, len(domain)), enclosure.status, witness, delta)


def _candidates(graph: Graph, enclosure: JacobianEnclosure, name: str, p: float, q: float) -> dict[str, Tensor]:
    """Every certified constant that is at hand, by name."""
    return {name: from_entries(enclosure, p, q), **split_products(graph, enclosure, p, q)}


def _attained(witnesses: list[Witness], upper: Tensor) -> Tensor:
    """The witnessed values; their own rounding (they are evaluated in floating point) may not pass the upper bound."""
    if not witnesses:
        return torch.zeros_like(upper)
    values = torch.cat([w.value for w in witnesses])
    close = values <= upper * (1 + 1e-6)
    return torch.where(close, torch.minimum(values, upper), values)


def _unstable(enclosure: JacobianEnclosure, sets: int) -> Tensor:
    """How many neurons of each set have more than one possible slope, shape (N,)."""
    counts = [is_unstable(slope).flatten(1).sum(1).cpu() for slope in enclosure.slopes.values()]
    return torch.stack(counts).sum(0) if counts else torch.zeros(sets, dtype=torch.int64)


def _activations(graph: Graph) -> int:
    return sum(size(node) for node in graph.nodes if isinstance(node, Elementwise))


@contextlib.contextmanager
def _prepared(
    graph: Graph, region: Region, budget: Budget | None
) -> Iterator[tuple[Domains, tuple[int, ...], Budget, Callable[[], float]]]:
    """The region's sets, the budget and a clock, inside strict arithmetic without gradients."""
    started = monotonic()
    with strict(graph.device, graph.dtype), torch.no_grad():
        domains, lead = region.domains(graph)
        budget = replace(Budget() if budget is None else budget, started=started)
        yield domains, lead, budget, lambda: monotonic() - started


def _in_runs(
    work: Callable[[Domain, Budget], Found], domains: Domains, graph: Graph, budget: Budget, bytes_each: int
) -> list[Found]:
    """What `work` finds for runs of sets that fit the memory together, with progress.

    When an accelerator has less memory than the budget says, runs are halved, and then the budget.
    """
    step = max(1, min(budget.memory // (2 * bytes_each), sets_worth(graph), len(domains)))
    done, found, allowed = 0, [], budget
    while done < len(domains):
        budget.tell(done, len(domains), "regions")
        try:
            found.append(work(domains[done : done + step], allowed))
        except torch.OutOfMemoryError:
            if step == 1 and allowed.memory < LEAST_MEMORY:
                raise
            allowed = allowed if step > 1 else replace(allowed, memory=allowed.memory // 2)
            step = max(1, step // 2)
            continue
        done += step
    budget.tell(len(domains), len(domains), "regions")
    return found


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
