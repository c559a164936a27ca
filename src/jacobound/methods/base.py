"""What a method is: `OutputMethod` (ranges), `JacobianMethod` (derivative enclosures), and `Budget`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from time import monotonic

import torch
from torch import Tensor

from jacobound.errors import InvalidOptionError
from jacobound.graph import Elementwise, Graph, Node
from jacobound.intervals import Interval
from jacobound.regions import Domain
from jacobound.results import Status


@dataclass(frozen=True)
class Budget:
    """What a call may use.

    Args:
        seconds: soft time limit of one call, in seconds; None for no limit. When it is over the remaining refinements
            are left out, and what is known by then is returned with `Status.TIME_LIMIT`: certified, only looser.
        memory: working memory in bytes; work is cut into chunks that fit.
        progress: called with (work done, work in total, what is being done); it may raise to interrupt.
    """

    seconds: float | None = None
    memory: int = 1 << 31
    progress: Callable[[float, float, str], None] | None = None
    started: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        if not self.memory > 0 or (self.seconds is not None and not self.seconds >= 0):
            raise InvalidOptionError(
                f"a budget needs memory > 0 bytes and seconds >= 0, not {self.memory} and {self.seconds}"
            )

    def chunks(self, count: int, bytes_each: int) -> Iterator[slice]:
        """Slices of range(count) whose work fits the memory, at least one item each."""
        step = max(1, min(count, self.memory // max(1, bytes_each)))
        for start in range(0, count, step):
            yield slice(start, min(count, start + step))

    def fits(self, size_in_bytes: int) -> bool:
        return size_in_bytes <= self.memory

    @property
    def is_over(self) -> bool:
        return self.seconds is not None and monotonic() - self.started > self.seconds

    @property
    def remaining(self) -> float:
        """Seconds until the time limit; negative when it is over, infinite without one."""
        return inf if self.seconds is None else self.seconds - (monotonic() - self.started)

    def tell(self, done: float, total: float, what: str) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(done, total, what)


class OutputMethod(ABC):
    """Encloses the values of a graph's nodes."""

    @abstractmethod
    def ranges(
        self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True
    ) -> Mapping[Node, Interval]:
        """An enclosure of every node over the domain, each of the node's shape.

        Args:
            with_output: also tighten the output node; callers that need only pre-activations switch it off.
        """


class Deferred(Mapping[Node, Interval]):
    """Intervals of nodes that are found when one of them is first asked for."""

    def __init__(self, find: Callable[[], Mapping[Node, Interval]]) -> None:
        self._find = find

    @cached_property
    def _found(self) -> Mapping[Node, Interval]:
        return self._find()

    def __getitem__(self, node: Node) -> Interval:
        return self._found[node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@dataclass(frozen=True, eq=False)
class JacobianEnclosure:
    """What a Jacobian method knows: entries, and sums of entries.

    Args:
        entries: interval of shape (outputs, inputs), both flattened; certified.
        along: for directions u of shape (outputs, inputs), exact floats, a certified interval of shape (outputs,)
            that holds ``sum_k J[j, k] u[j, k]`` for every Jacobian over the domain.
        adjoints: enclosures of the derivative of each output with respect to each node, shape (outputs, *node shape).
        slopes: derivative range of every elementwise node.
        ranges: the enclosures of the nodes' values that were used.
        status: `Status.CERTIFIED`, or why the bound is looser than the method could do.
        across: the same for columns: for exact floats u of shape (outputs, inputs) a certified interval of shape
            (inputs,) that holds ``sum_j J[j, k] u[j, k]``; None when it knows no more than the entries do.
    """

    entries: Interval
    along: Callable[[Tensor], Interval]
    adjoints: Mapping[Node, Interval]
    slopes: Mapping[Node, Interval]
    ranges: Mapping[Node, Interval]
    status: Status = Status.CERTIFIED
    across: Callable[[Tensor], Interval] | None = None


class JacobianMethod(ABC):
    """Encloses the Jacobian over a domain, entry by entry."""

    @abstractmethod
    def enclose(
        self, graph: Graph, domain: Domain, budget: Budget, ranges: Mapping[Node, Interval] | None = None
    ) -> JacobianEnclosure:
        """Bounds of the derivative of every (flattened) output with respect to every (flattened) input.

        Args:
            ranges: known enclosures of the nodes, in place of the method's own pre-activation bounds.
        """


def derivative_ranges(graph: Graph, ranges: Mapping[Node, Interval]) -> Mapping[Node, Interval]:
    """The slopes that every elementwise node can have, from the range of its argument.

    Raises:
        InvalidRegionError: when that range leaves the domain of the activation.
    """
    found = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            node.activation.require(ranges[node.source], node.name)
            found[node] = node.activation.derivative_range(ranges[node.source])
    return found


def flat_indices(mask: Tensor) -> Tensor:
    """Flat positions of the true entries."""
    return mask.flatten().nonzero().squeeze(1).to(torch.int64)
