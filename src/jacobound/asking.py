"""What every entry point does around a method: strict arithmetic, rows, runs of sets that fit, provenance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from jacobound.budget import Budget, interruptible
from jacobound.errors import ShapeError
from jacobound.graph import Graph, size
from jacobound.methods.base import sets_worth
from jacobound.results import Provenance, Status
from jacobound.rounding import strict

Rows = Tensor | np.ndarray | Sequence[Sequence[float]]


@contextlib.contextmanager
def strictly(graph: Graph, budget: Budget | None) -> Iterator[tuple[Budget, Callable[[], float]]]:
    """The budget with its clock started, and the clock, inside strict arithmetic without gradients.

    A first Ctrl-C ends the call with what is certified by then.
    """
    started = monotonic()
    own = (Budget() if budget is None else budget).started_now()
    with strict(graph.device, graph.dtype), torch.no_grad(), interruptible(own.interrupt):
        yield own, lambda: monotonic() - started


def row_matrix(rows: Rows | None, graph: Graph) -> Tensor | None:
    """Row combinations as an exact float64 matrix, shape (k, outputs).

    Raises:
        ShapeError: when the rows are no finite matrix with one column per output.
    """
    if rows is None:
        return None
    matrix = torch.as_tensor(np.asarray(rows) if not isinstance(rows, Tensor) else rows)
    if matrix.dim() != 2 or not bool(torch.isfinite(matrix).all()):
        raise ShapeError(
            f"rows must be a finite matrix of shape (k, {size(graph.output)}), one column per output; "
            f"got shape {tuple(matrix.shape)}. For the outputs a and b use torch.eye({size(graph.output)})[[a, b]]"
        )
    return matrix.to(torch.float64)


def sets_together(count: int, graph: Graph, bytes_each: int, budget: Budget) -> int:
    """How many of `count` sets are worth working on together and fit the memory."""
    return max(1, min(budget.memory // (2 * bytes_each), sets_worth(graph), count))


def in_time(status: Status, budget: Budget) -> Status:
    """Past the time limit methods leave refinements out, so a better answer may exist."""
    if budget.interrupt.is_asked and status in (Status.CERTIFIED, Status.TIME_LIMIT):
        return Status.INTERRUPTED
    return Status.TIME_LIMIT if status is Status.CERTIFIED and budget.is_over else status


def provenance(
    graph: Graph, method: object, seconds: float, seed: int | None = None, semantics: str = "real"
) -> Provenance:
    """How an answer was found, and what it takes for granted."""
    return Provenance(
        repr(method),
        graph.fingerprint,
        str(graph.device),
        str(graph.dtype),
        seconds,
        seed=seed,
        semantics=semantics,
        assumptions=graph.assumptions,
    )
