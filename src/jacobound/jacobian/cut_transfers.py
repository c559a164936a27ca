"""Certified spectral norms of the derivatives between nodes that every path crosses, through the known slopes.

Absolute values grow by the row sums of a layer, several times a layer, where true products of layers stay moderate:
what bounds rounding across many layers has to multiply the layers first and take norms afterwards. Between two
neighbouring cuts the derivative through known slopes is one matrix; longer stretches are products of two halves, level
by level, each with a bound of its spectral error,

    ||high low - fl(high low)|| <= N_high e_low + N_low e_high + e_low e_high + gamma ||high||_F ||low||_F + underflow,

where N bounds the computed factors' norms and e their own errors. Any other stretch is covered by a few of these, and
norms are sub-multiplicative. Source: this project.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import gamma, inflate, underflow, unit, up
from jacobound.budget import checkpoint
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, size
from jacobound.jacobian.tangents import passing
from jacobound.method import Facts, flat_indices
from jacobound.operators.base import positions
from jacobound.operators.gram_iteration import gram_iteration

# Products of wider matrices, or of more of them, cost more than the bounds that need them.
WIDEST_NODE = 4096
MOST_ENTRIES = 2**26
GRAM_STEPS = 2


def cut_nodes(graph: Graph) -> tuple[Affine, ...]:
    """Affine nodes that every path from the input to the output crosses, in topological order."""
    position = {node: k for k, node in enumerate(graph.nodes)}
    found: list[Affine] = []
    reach = position[graph.input]
    for node in graph.nodes[reach:]:
        if isinstance(node, Affine) and reach == position[node]:
            found.append(node)
        reach = max([reach, *(position[reader] for reader in graph.consumers[node])])
    return tuple(found)


def transfer_norms(graph: Graph, slopes: Facts, cuts: tuple[Affine, ...]) -> Tensor | None:
    """Certified bounds ``[k, j]`` of the spectral norm of d cuts[k] / d cuts[j] through known slopes alone; one set.

    Rows and columns are those entries of a cut from which a known slope other than zero leads on: elsewhere the
    derivative of what follows is 0, and so is what has been gathered there.

    Args:
        slopes: derivative range of every elementwise node, shape (1, *node shape); unknown slopes pass nothing on.
        cuts: what `cut_nodes` gives.

    Returns:
        Shape (cuts, cuts), +inf for k < j; None where products would be too large, or where nothing passes.
    """
    entries = {node: _passing_entries(graph, slopes, node) for node in cuts}
    counts = [size(node) if kept is None else len(kept) for node, kept in entries.items()]
    widest = max([1, *counts])
    nodes = graph.nodes
    between = nodes[nodes.index(cuts[0]) :] if cuts else ()
    if (
        len(cuts) < 2
        or not any(counts[:-1])
        or max(map(size, between)) > WIDEST_NODE
        or len(cuts) * widest * widest > MOST_ENTRIES
    ):
        return None
    leaves, errors = [], []
    for low, high in pairwise(cuts):
        checkpoint()
        matrix, error = _leaf(graph, slopes, (low, entries[low]), (high, entries[high]))
        padding = (0, widest - matrix.shape[1], 0, widest - matrix.shape[0])  # zeros change no norm
        leaves.append(torch.nn.functional.pad(matrix, padding))
        errors.append(error)
    return _shortest(_dyadic_norms(torch.stack(leaves), torch.stack(errors)), len(cuts))


def _passing_entries(graph: Graph, slopes: Facts, node: Node) -> Tensor | None:
    """Entries of a node from which a known slope other than zero leads on; None for all."""
    readers = graph.consumers[node]
    if node is graph.output or not all(isinstance(reader, Elementwise) for reader in readers):
        return None
    mask = torch.zeros(size(node), dtype=torch.bool, device=graph.device)
    for reader in readers:
        mask[passing(slopes[reader].map(lambda end: end.flatten(1)))[0]] = True
    return flat_indices(mask)


def _leaf(
    graph: Graph, slopes: Facts, low: tuple[Affine, Tensor | None], high: tuple[Affine, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Matrix d high / d low on the entries of both, and a bound of the spectral norm of its error."""
    first, columns = low
    last, rows = high
    nodes = graph.nodes
    if rows is None:
        rows = positions(size(last), graph.example)
    if len(rows) == 0 or (columns is not None and len(columns) == 0):  # nothing passes: a matrix without entries
        width = size(first) if columns is None else len(columns)
        return graph.example.new_zeros(len(rows), width), graph.example.new_zeros(())
    flight = _Flight()
    for operator, source in last.terms:
        image = operator.transpose().columns(rows)
        flight.add(source, image, torch.zeros_like(image))
    for node in reversed(nodes[nodes.index(first) + 1 : nodes.index(last)]):
        if node not in flight.at:
            continue
        values, doubt = flight.at.pop(node)
        if isinstance(node, Affine):
            for operator, source in node.terms:
                backward = operator.transpose()
                shaped, doubted = (x.reshape(-1, *node.shape) for x in (values, doubt))
                image, lost = backward.apply(shaped).flatten(1), backward.slack(shaped.abs(), doubted).flatten(1)
                flight.add(source, image, up(lost + underflow(operator.longest_sum, image)))
        elif isinstance(node, Elementwise):
            kept, steepness = passing(slopes[node].map(lambda end: end.flatten(1)))
            factors = values.new_zeros(values.shape[1]).index_copy(0, kept, steepness[0])
            image, lost = values * factors, up(doubt * factors.abs())
            if bool(((factors != 0) & (factors != 1)).any()):
                lost = up(lost + inflate(2 * unit(image.dtype) * image.abs(), 2))
            flight.add(node.source, image, lost)
    values, doubt = flight.at.get(first) or (graph.example.new_zeros(len(rows), size(first)),) * 2
    if columns is not None:
        values, doubt = values[:, columns], doubt[:, columns]
    return values, vector_norm_upper(doubt.flatten(), 2)


class _Flight:
    """Rows on their way back through a few nodes, each with a bound of its error entry by entry."""

    def __init__(self) -> None:
        self.at: dict[Node, tuple[Tensor, Tensor]] = {}

    def add(self, node: Node, values: Tensor, doubt: Tensor) -> None:
        if node in self.at:
            known, known_doubt = self.at[node]
            values = known + values
            doubt = up(up(known_doubt + doubt) + inflate(2 * unit(values.dtype) * values.abs(), 2))
        self.at[node] = (values, doubt)


def _dyadic_norms(level: Tensor, error: Tensor) -> list[Tensor]:
    """Norm bounds of the matrices themselves, of products of two, four, eight neighbours, ...; from aligned places."""
    widest, norms = level.shape[-1], []
    while len(level):
        checkpoint()
        computed = gram_iteration(level, GRAM_STEPS)
        norms.append(up(computed + error))
        even = 2 * (len(level) // 2)
        low, high = level[0:even:2], level[1:even:2]
        low_error, high_error = error[0:even:2], error[1:even:2]
        lengths = vector_norm_upper(high.flatten(1), 2) * vector_norm_upper(low.flatten(1), 2)
        rounded = inflate(gamma(widest + 2, level) * lengths, 6) + widest * widest * underflow(widest, level)
        inherited = computed[1:even:2] * low_error + computed[0:even:2] * high_error + low_error * high_error
        level, error = high @ low, inflate(up(rounded) + inflate(inherited, 6), 2)
    return norms


def _shortest(norms: list[Tensor], count: int) -> Tensor:
    """The smallest product of known norms that covers the stretch from every cut j to every later cut k."""
    found = norms[0].new_full((count, count), torch.inf)
    for j in range(count - 1, -1, -1):
        for power, row in enumerate(norms):
            step = 1 << power
            if j % step == 0 and j // step < len(row):
                behind = found[:, j + step]
                through = torch.where(torch.isinf(behind), torch.inf, inflate(behind * row[j // step], 1))
                found[:, j] = torch.minimum(found[:, j], through)
        found[j, j] = 1.0
    return found
