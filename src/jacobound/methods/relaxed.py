"""One sweep over the graph that encloses every node: by intervals, and by linear bounds where that can help.

`IBP`, `FastLin` and `CROWN` are this sweep with no lines, parallel lines and the best lines.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.activations.base import Activation, Lines
from jacobound.graph import Affine, Elementwise, Graph, Input, Node, size
from jacobound.intervals import Interval, concatenated
from jacobound.linear_bounds import BackwardPass, Relaxation
from jacobound.methods.base import Budget, flat_indices
from jacobound.regions import Domain

LinesOf = Callable[[Activation, Interval], Lines]


def propagate(
    graph: Graph, domain: Domain, budget: Budget, lines_of: LinesOf | None, with_output: bool
) -> dict[Node, Interval]:
    """Enclose all nodes in topological order.

    Args:
        lines_of: lines for an activation on an interval; None uses intervals alone, except that a node which is
            affine in the input is bounded by dual norms.
        with_output: whether the output node is worth tightening.

    Returns:
        Certified interval of every node, of the node's shape.
    """
    ranges: dict[Node, Interval] = {}
    relaxations: dict[Node, Relaxation] = {}
    backward = BackwardPass(graph, domain, ranges, relaxations)
    reachable = set()  # nodes that a backward pass can reach from
    for done, node in enumerate(graph.nodes):
        budget.tell(done, len(graph.nodes), "ranges")
        if isinstance(node, Input):
            ranges[node] = domain.box
            reachable.add(node)
        elif isinstance(node, Affine):
            ranges[node] = _enclose(node, ranges)
            if all(source in reachable for source in node.sources):
                reachable.add(node)
                _tighten(graph, node, domain, budget, ranges, backward, with_output)
        else:
            ranges[node] = node.activation.range(ranges[node.source])
            if lines_of is not None and domain.bounded:
                argument = ranges[node.source]
                relaxations[node] = Relaxation(lines_of(node.activation, argument), argument.magnitude())
                reachable.add(node)
    return ranges


def _enclose(node: Affine, ranges: dict[Node, Interval]) -> Interval:
    """Interval image of an affine node."""
    total: Interval | None = None
    for operator, source in node.terms:
        image = operator.enclose(ranges[source])
        total = image if total is None else total + image
    assert total is not None
    return total if node.bias is None else total + node.bias


def _tighten(
    graph: Graph,
    node: Affine,
    domain: Domain,
    budget: Budget,
    ranges: dict[Node, Interval],
    backward: BackwardPass,
    with_output: bool,
) -> None:
    """Intersect a node's interval with linear bounds, for the entries where that can change anything later."""
    rows = flat_indices(_worthwhile(graph, node, ranges, with_output))
    if (
        budget.is_over
        or not domain.bounded
        or not len(rows)
        or (domain.centre is None and _is_one_operator_on_input(node))
    ):
        return
    pieces = []
    for chunk in budget.chunks(len(rows), backward.bytes_per_row(node)):
        pieces.append(backward.enclose(node, rows[chunk]))
        budget.tell(graph.nodes.index(node) + chunk.stop / len(rows), len(graph.nodes), "ranges")
    found = concatenated(pieces, 0)
    flat = ranges[node].reshape(size(node))
    better = found.intersect(flat[rows])
    ranges[node] = Interval(
        flat.lower.index_copy(0, rows, better.lower), flat.upper.index_copy(0, rows, better.upper)
    ).reshape(*node.shape)


def _worthwhile(graph: Graph, node: Affine, ranges: dict[Node, Interval], with_output: bool) -> Tensor:
    """Entries whose tighter range can change a line or a slope: arguments of activations that are not settled."""
    wanted = torch.zeros_like(ranges[node].lower, dtype=torch.bool)
    if node is graph.output and with_output:
        return ~wanted
    for reader in graph.consumers[node]:
        if isinstance(reader, Elementwise):
            wanted |= ~reader.activation.settled(ranges[node])
    return wanted


def _is_one_operator_on_input(node: Affine) -> bool:
    """On a box the interval image of a single operator is already exact (up to rounding)."""
    return len(node.terms) == 1 and isinstance(node.terms[0][1], Input)
