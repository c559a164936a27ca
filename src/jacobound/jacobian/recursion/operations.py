"""How many operations the recursion takes, counted before it runs.

The formula is that of RecurJac's cost (AAAI 2019, section 3) written for the unstable core: with n_b unstable neurons
in block b, every column of every start is pushed through the later blocks twice (upper and lower) for every output.
"""

from __future__ import annotations

from collections.abc import Iterable

from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.tangents import can_differ
from jacobound.method import Facts, is_unstable
from jacobound.operators.base import LinearOperator


def recursion_operations(graph: Graph, slopes: Facts) -> float:
    """Multiplications and additions of `recur` on a graph; rounding work (about as much again) is not counted.

    Args:
        graph: with an affine last node.
        slopes: derivative range of every elementwise node over one set, (1, *node shape).
    """
    return _Count(graph, slopes).total()


class _Count:
    """Walks of the core and the recursion on sizes alone, which count their operations; lives for one call."""

    def __init__(self, graph: Graph, slopes: Facts) -> None:
        self._graph, self._outputs = graph, size(graph.output)
        self._columns: dict[Node, int] = {graph.input: size(graph.input)}
        self._live: dict[Node, int] = {}  # entries of a node that can carry a tangent
        self._targets: dict[Node, list[Node]] = {graph.input: []}
        self._steady: dict[Node, int] = {}
        for node in graph.nodes:
            self._live[node] = size(node)
            if isinstance(node, Elementwise):
                unstable = int(is_unstable(slopes[node]).sum())
                self._steady[node] = int((can_differ(slopes[node]) & ~is_unstable(slopes[node])).sum())
                self._live[node] = int(can_differ(slopes[node]).sum())
                if unstable:
                    self._columns[node], self._targets[node] = unstable, []

    def total(self) -> float:
        inner = [node for node in self._graph.nodes if node is not self._graph.output]  # the last weights are read off
        return self._of_core() + interval_operations(inner, self._outputs) + self._of_recursion()

    def _of_core(self) -> float:
        """Pushing the columns of all starts through the affine nodes; also finds out what reaches what."""
        arriving: dict[Node, set[Node]] = {}
        total = 0.0
        for node in self._graph.nodes:
            if isinstance(node, Input):
                arriving[node] = {node}
            elif isinstance(node, Affine):
                arriving[node] = set().union(*(arriving[source] for source in node.sources))
                for operator, source in node.terms:
                    # Unit vectors are read off the weights; only what has been moved before is multiplied.
                    vectors = sum(self._columns[start] for start in arriving[source] if start is not source)
                    carried = self._steady.get(source, size(source)) / max(1, size(source))
                    total += 2.0 * vectors * products(operator) * carried * self._share_needed(node)
            else:
                assert isinstance(node, Elementwise)
                arriving[node] = set(arriving[node.source]) if self._steady[node] else set()
                if node in self._columns:
                    for start in arriving[node.source]:
                        self._targets[start].append(node)
                    arriving[node].add(node)
        for start in arriving[self._graph.output]:
            self._targets[start].append(self._graph.output)
        return total

    def _share_needed(self, node: Affine) -> float:
        """The part of an affine node that some reader passes on."""
        readers = self._graph.consumers[node]
        if node is self._graph.output or not all(isinstance(reader, Elementwise) for reader in readers):
            return 1.0
        return min(1.0, sum(self._live[reader] for reader in readers) / max(1, size(node)))

    def _of_recursion(self) -> float:
        total = 0.0
        for start, columns in self._columns.items():
            reached = set(self._targets[start])
            for block in self._columns:  # in topological order
                if block not in reached:
                    continue
                reached.update(self._targets[block])
                width = sum(
                    1 if target is self._graph.output else self._columns[target] for target in self._targets[block]
                )
                total += 4.0 * self._outputs * columns * self._columns[block] * width
        return total


def interval_operations(nodes: Iterable[Node], outputs: int) -> float:
    """An interval sweep through some nodes: centre and radius of every output's row through every operator."""
    operators = [operator for node in nodes if isinstance(node, Affine) for operator, _ in node.terms]
    return 4.0 * outputs * sum(products(operator) for operator in operators)


def products(operator: LinearOperator) -> int:
    """Multiplications of one application; 0 where entries are only moved."""
    return operator.terms * operator.out_size
