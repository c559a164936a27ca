"""What every entry point does around a method: strict arithmetic, runs of sets that fit, question and provenance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic
from typing import TypeVar

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import strict
from jacobound.budget import Budget, interruptible
from jacobound.certifying.maker import Maker
from jacobound.given import limits_of
from jacobound.graph.graph import Graph
from jacobound.inputs.domains import Domain, Domains
from jacobound.inputs.exponents import Norm
from jacobound.inputs.regions import Region
from jacobound.method import sets_worth
from jacobound.results.kinds import Provenance, Status
from jacobound.results.question import Question

# An accelerator that can not give this much has no room to work in.
LEAST_MEMORY = 1 << 22

Found = TypeVar("Found")

KEPT = (bool, int, float, str, Tensor, type(None))
"""Options that an answer holds as they are."""


@contextlib.contextmanager
def strictly(graph: Graph, budget: Budget | None) -> Iterator[tuple[Budget, Callable[[], float]]]:
    """The budget with its clock started, and the clock, inside strict arithmetic without gradients.

    A first Ctrl-C ends the call with what is certified by then.
    """
    started = monotonic()
    own = (Budget() if budget is None else budget).started_now()
    _ = graph.fingerprint  # of weights by the hundred million: part of every answer, so it counts
    quiet, exact = undisturbed(graph.device), strict(graph.device, graph.dtype)
    with quiet, exact, torch.no_grad(), interruptible(own.interrupt):
        yield own, lambda: monotonic() - started


def question(
    asks: str,
    graph: Graph,
    region: Region,
    rows: Tensor | None,
    budget: Budget | None,
    norm: tuple[Norm, Norm] | None = None,
    by: object = None,
    **options: object,
) -> Question:
    """What was asked, as the answer will hold it; options are plain data or written out.

    Args:
        by: the method that will answer, for the certificate of the answer.
    """
    kept = {name: value if isinstance(value, KEPT) else repr(value) for name, value in options.items()}
    return Question(asks, graph.source, region, rows, norm, limits_of(budget), kept).made_by(Maker(graph, by))


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Without inference mode, whose tensors have no derivatives, and with new tensors on the device by default."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type != device.type:
            stack.enter_context(device)
        yield


def sets_together(count: int, graph: Graph, bytes_each: int, budget: Budget) -> int:
    """How many of `count` sets are worth working on together and fit the memory."""
    return max(1, min(budget.memory // (2 * bytes_each), sets_worth(graph), count))


def in_runs(
    work: Callable[[Domain, Budget], Found], domains: Domains, graph: Graph, budget: Budget, bytes_each: int
) -> list[Found]:
    """What `work` finds for runs of sets that fit the memory together, with progress; they share the time evenly.

    When an accelerator has less memory than the budget says, runs are halved, and then the budget.
    """
    step = sets_together(len(domains), graph, bytes_each, budget)
    done, found, allowed = 0, [], budget
    while done < len(domains):
        budget.tell(done, len(domains), "regions")
        try:
            run = domains[done : done + step]
            found.append(work(run, allowed.within(allowed.remaining * len(run) / (len(domains) - done))))
        except torch.OutOfMemoryError:
            if step == 1 and allowed.memory < LEAST_MEMORY:
                raise
            allowed = allowed if step > 1 else replace(allowed, memory=allowed.memory // 2)
            step = max(1, step // 2)
            continue
        done += step
    budget.tell(len(domains), len(domains), "regions")
    return found


def in_time(status: Status, budget: Budget) -> Status:
    """Past the time limit methods leave refinements out, so a better answer may exist."""
    if budget.interrupt.is_asked and status in (Status.CERTIFIED, Status.TIME_LIMIT):
        return Status.INTERRUPTED
    return Status.TIME_LIMIT if status is Status.CERTIFIED and budget.is_over else status


def provenance(
    graph: Graph,
    method: object,
    seconds: float,
    seed: int | None = None,
    semantics: str = "real",
    asked: Question | None = None,
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
        question=asked,
    )
