"""What a method is: `OutputMethod` (ranges) and `JacobianMethod` (derivative enclosures)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.budget import Budget as Budget
from jacobound.budget import checkpoint
from jacobound.checks import instance
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, size
from jacobound.inputs.domains import Domain
from jacobound.results.kinds import Status

# Products in one evaluation of the network, over all sets that go together, beyond which more sets do not pay.
SHARED_PRODUCTS = 1 << 22
SHARED_PRODUCTS_ACCELERATOR = 1 << 34


class OutputMethod(ABC):
    """Encloses the values of a graph's nodes, over N sets of inputs at once."""

    @abstractmethod
    def ranges(
        self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True
    ) -> Mapping[Node, Interval]:
        """An enclosure of every node over every set of the domain, shape (N, *node shape).

        Args:
            with_output: also tighten the output node; callers that need only pre-activations switch it off.
        """

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory that `ranges` needs for each set, in bytes: a cautious estimate."""
        return ranges_bytes(graph)


def output_method(method: object, what: str = "preactivation") -> OutputMethod:
    """A method that bounds outputs; of a class an instance.

    Raises:
        InvalidOptionError: when it is something else.
    """
    return instance(method, OutputMethod, what, "it takes CROWN(), FastLin(), IBP() or SinglePrecision()")


def ranges_bytes(graph: Graph) -> int:
    """Memory for enclosures and lines of all nodes over one set, and for temporaries at the widest node."""
    sizes = [size(node) for node in graph.nodes]
    return (16 * sum(sizes) + 48 * max(sizes)) * graph.example.element_size()


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
    """What a Jacobian method knows, for each of N sets: entries, and sums of entries.

    Args:
        entries: interval of shape (N, outputs, inputs), the last two flattened; certified.
        along: for directions u of shape (N, outputs, inputs), exact floats, a certified interval of shape (N, outputs)
            that holds ``sum_k J[j, k] u[n, j, k]`` for every Jacobian over the n-th set.
        adjoints: enclosures of the derivative of each output with respect to each node, (N, outputs, *node shape).
        slopes: derivative range of every elementwise node, (N, *node shape).
        ranges: the enclosures of the nodes' values that were used, (N, *node shape).
        status: `Status.CERTIFIED`, or why the bound of some set is looser than the method could do.
        across: the same for columns: for exact floats u of shape (N, outputs, inputs) a certified interval of shape
            (N, inputs) that holds ``sum_j J[j, k] u[n, j, k]``; None when it knows no more than the entries do.
        rows: for p = 2 and inf certified upper bounds of the dual l_p norm of every row, shape (N, outputs), that may
            be infinite; None when it knows no more than the entries and `along` do.
    """

    entries: Interval
    along: Callable[[Tensor], Interval]
    adjoints: Mapping[Node, Interval]
    slopes: Mapping[Node, Interval]
    ranges: Mapping[Node, Interval]
    status: Status = Status.CERTIFIED
    across: Callable[[Tensor], Interval] | None = None
    rows: Callable[[float], Tensor] | None = None

    def over(self, sets: int) -> JacobianEnclosure:
        """The same with entries written out for every set, where the derivative is the same for all of them."""
        if len(self.entries.lower) == sets:
            return self
        return replace(self, entries=self.entries.map(lambda end: end.expand(sets, -1, -1)))


class JacobianMethod(ABC):
    """Encloses the Jacobian over each of N sets, entry by entry."""

    @abstractmethod
    def enclose(
        self,
        graph: Graph,
        domain: Domain,
        budget: Budget,
        ranges: Mapping[Node, Interval] | None = None,
        slopes: Mapping[Node, Interval] | None = None,
    ) -> JacobianEnclosure:
        """Bounds of the derivative of every (flattened) output with respect to every (flattened) input.

        Args:
            ranges: known enclosures of the nodes, in place of the method's own pre-activation bounds.
            slopes: what stands in for the derivative of every elementwise node, such as `secant_ranges`; the result
                then encloses every product of the chain rule with slopes from there.
        """

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory that `enclose` needs for each set, in bytes: a cautious estimate."""
        sizes, outputs = [size(node) for node in graph.nodes], size(graph.output)
        adjoints = outputs * (2 * sum(sizes) + 16 * max(sizes)) * graph.example.element_size()
        return ranges_bytes(graph) + adjoints


def sets_worth(graph: Graph) -> int:
    """How many sets are worth working on together.

    Sharing saves the overhead of small operations. Sets of a large network gain nothing on a CPU, and lose that each
    leaves its own dead neurons out of the matrix products.
    """
    shared = SHARED_PRODUCTS if graph.device.type == "cpu" else SHARED_PRODUCTS_ACCELERATOR
    return max(1, shared // max(1, products_of(graph)))


def products_of(graph: Graph) -> int:
    """Multiplications of one evaluation of a network; entries that only move count as one."""
    operators = (operator for node in graph.nodes if isinstance(node, Affine) for operator, _ in node.terms)
    return sum(operator.out_size * max(1, operator.terms) for operator in operators)


def derivative_ranges(graph: Graph, ranges: Mapping[Node, Interval]) -> Mapping[Node, Interval]:
    """The slopes that every elementwise node can have, from the range of its argument.

    Raises:
        InvalidRegionError: when that range leaves the domain of the activation.
    """
    found = {}
    for node in graph.nodes:
        checkpoint()
        if isinstance(node, Elementwise):
            node.activation.require(ranges[node.source], node.name)
            found[node] = node.activation.derivative_range(ranges[node.source])
    return found


def secant_ranges(graph: Graph, near: Mapping[Node, Interval], far: Mapping[Node, Interval]) -> Mapping[Node, Interval]:
    """The ratios ``(f(y) - f(z)) / (y - z)`` that every elementwise node can have, from the ranges of z and of y.

    With them in place of derivatives a product of the chain rule is ``(F(y) - F(x)) / (y - x)`` itself: for every two
    inputs x and y there is a matrix J of such a product with ``F(y) - F(x) = J (y - x)``.

    Args:
        near: enclosures of the nodes over the sets of x, (N or 1, *node shape).
        far: over those of y, (N, *node shape).

    Raises:
        InvalidRegionError: when a range leaves the domain of the activation.
    """
    found = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            node.activation.require(far[node.source], node.name)
            shape = far[node.source].shape
            before = near[node.source].map(lambda end, shape=shape: end.expand(shape))
            found[node] = node.activation.secant_range(before, far[node.source])
    return found


def flat_indices(mask: Tensor) -> Tensor:
    """Flat positions of the true entries."""
    return mask.flatten().nonzero().squeeze(1).to(torch.int64)
