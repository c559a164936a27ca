"""`Query`: what a method is asked; `OutputMethod`: what bounds the values of the nodes before it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from jacobound.budget import Budget
from jacobound.checks import instance
from jacobound.errors import ShapeError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Vector, size
from jacobound.inputs.domains import Domain
from jacobound.method.about import About
from jacobound.method.facts import Facts


class OutputMethod(ABC):
    """Encloses the values of a graph's nodes, over N sets of inputs at once."""

    bounds: ClassVar[str] = "outputs"
    about: ClassVar[About]

    @abstractmethod
    def ranges(self, graph: Graph, domain: Domain, budget: Budget, *, with_output: bool = True) -> Facts:
        """An enclosure of every node over every set of the domain, shape (N, *node shape).

        Args:
            with_output: also tighten the output node; callers that need only pre-activations switch it off.
        """

    def ranges_within(self, graph: Graph, domain: Domain, budget: Budget, known: Facts) -> Facts:
        """Enclosures for callers that need no output, nowhere looser than what is known, from larger sets say.

        Args:
            known: certified enclosures of some nodes over every set of the domain, (N, *node shape).
        """
        found = dict(self.ranges(graph, domain, budget, with_output=False))
        return found | {node: found[node].intersect(x) for node, x in known.items() if node in found}

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory that `ranges` needs for each set, in bytes: a cautious estimate."""
        return ranges_bytes(graph)


def output_method(method: object, what: str = "preactivation") -> OutputMethod:
    """A method that bounds outputs; of a class an instance.

    Raises:
        InvalidOptionError: when it is something else.
    """
    return instance(method, OutputMethod, what, "it takes CROWN(), AlphaCROWN(), FastLin(), IBP() or SinglePrecision()")


def ranges_bytes(graph: Graph) -> int:
    """Memory for enclosures and lines of all nodes over one set, and for temporaries at the widest node."""
    sizes = [size(node) for node in graph.nodes]
    return (16 * sum(sizes) + 48 * max(sizes)) * graph.example.element_size()


@dataclass(frozen=True, eq=False)
class Query:
    """What a method is asked about the derivative of a network over N sets.

    Args:
        graph: the network.
        domain: the N sets.
        budget: what the answer may cost.
        norm: (p, q), each 1, 2 or inf, of a constant: ``||f(x) - f(y)||_q <= value ||x - y||_p``.
        ranges: enclosures of the nodes that are known already, (N, *node shape), in place of a method's own
            pre-activation bounds; those of a rewritten graph may stand among them.
        slopes: what stands in for the derivative of every elementwise node, such as those of `increments`, for a graph
            of affine and elementwise nodes; bounds then hold
            for every product of the chain rule with slopes from there.
    """

    graph: Graph
    domain: Domain
    budget: Budget
    norm: tuple[float, float] = (2.0, 2.0)
    ranges: Facts | None = None
    slopes: Facts | None = None

    def of_set(self, k: int, budget: Budget) -> Query:
        """The question about one of the sets, with a budget of its own."""

        def own(facts: Facts | None) -> Facts | None:
            return None if facts is None else {node: x[k : k + 1] for node, x in facts.items()}

        return replace(
            self, domain=self.domain[k : k + 1], budget=budget, ranges=own(self.ranges), slopes=own(self.slopes)
        )

    def ranges_by(self, method: OutputMethod, graph: Graph) -> Facts:
        """What is known of the arguments of activations and vector functions of a form, else found; (N, ...)."""
        known = self.ranges
        read = (node.source for node in graph.nodes if isinstance(node, Elementwise | Vector))
        if known is not None and all(source in known for source in read):
            return known
        return method.ranges(graph, self.domain, self.budget, with_output=False)


def facts_of_one(facts: Facts) -> Facts:
    """What is known of a single set, without the axis of sets.

    Raises:
        ShapeError: when there are several sets.
    """
    sets = max((len(x.lower) for x in facts.values()), default=1)
    if sets != 1:
        raise ShapeError(f"a constant is bounded for one set at a time, not for {sets}; take them one by one")
    return {node: x[0] for node, x in facts.items()}
