"""How much a rounding defect at a node can matter: bounds of the outputs' derivatives, without the interval blow-up.

Interval adjoints lose the dependence between neighbours in every layer and grow by a factor of the row sums, also
through layers that are perfectly linear. Here unit rows of the outputs and of every unstable neuron are pushed
backwards through the stable slopes as plain numbers, so

    |derivative with respect to v| <= |row of the output at v| + sum_i (bound at unstable neuron i) |row of i at v|,

and the bounds at unstable neurons follow from the last layer to the first. Rounding of the rows themselves is
propagated by absolute values, which is harmless at this second order.

Derivation: sort the paths from v to output j by the first unstable neuron i on them. Paths without one add up to the
row r_j(v); those whose first one is i add up to ``rho_i(v) s_i Y[j, i]``: rho_i is the row of i through stable slopes
alone, s_i its slope, Y its output's derivative. So

    d out_j / d v = r_j(v) + sum_i Y[j, i] s_i rho_i(v),        |Y[j, i] s_i| <= behind[j, i] := |Y[j, i]| max |s_i|,

and the triangle inequality gives the bound for all slopes at once. ``behind`` of a neuron needs weights behind it only,
so one sweep from the output suffices. A weight that is too large is sound and costs tightness; for that reason each is
the smaller one of this bound and the interval adjoint. Source: this project.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import inflate, rigorous, underflow, unit, up
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, size
from jacobound.jacobian.cut_transfers import cut_nodes, transfer_norms
from jacobound.jacobian.tangents import Neurons, Tangents, can_differ, passing, push_through
from jacobound.method import Facts, flat_indices, is_unstable
from jacobound.operators.base import positions

# While interval adjoints at the input are no larger than this times their middle, they are good enough as weights:
# the roundoff they multiply is about 1e-13.
HARMLESS = 256.0
# Weights at the input beyond this many times that middle are rounding of many layers. Shallow networks stay far below.
GROWN = 1000.0

Given = tuple[Facts, Facts, Mapping[Node, Tensor]]
"""Slopes, interval adjoints, and defects of known slopes."""


def defect_weights(
    graph: Graph, slopes: Facts, adjoints: Facts, defects: Mapping[Node, Tensor] | None = None
) -> dict[Node, Tensor]:
    """Certified bounds of ``|d output_j / d node|``, (N, outputs, *node shape), never above the interval adjoints.

    Entries of an elementwise node whose own slope is known to be 0 are given as 0: no tangent ever reaches them.

    Args:
        slopes: derivative range of every elementwise node.
        adjoints: interval enclosures of the same derivatives.
        defects: how far known slopes may lie from their floats (`KnownSlopes`), of the same shapes.
    """
    defects = {} if defects is None else defects
    entries = adjoints[graph.input].map(lambda end: end.flatten(1))
    middles = entries.midpoint_and_radius()[0].abs().sum(1)
    blown_up = entries.magnitude().sum(1) > HARMLESS * middles
    if rigorous() and bool(blown_up.any()):
        found = _Backwards(graph, slopes, adjoints, defects).run()
        grown = ~(found[graph.input].flatten(1).sum(1) <= GROWN * middles)
        return _sharpened(graph, (slopes, adjoints, defects), found) if bool(grown.any()) else found
    return {node: adjoint.magnitude() for node, adjoint in adjoints.items()}


def _sharpened(graph: Graph, given: Given, known: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """The smaller ones of known weights and of those by norms between cuts, which are found set by set."""
    cuts = cut_nodes(graph)
    sets = max(len(weight) for weight in known.values())
    swept: list[dict[Node, Tensor]] = []
    for number in range(sets):
        slopes, adjoints, defects = _of_one_set(given, number)
        norms = transfer_norms(graph, slopes, cuts)
        if norms is None:
            return known
        by_cut: dict[Node, Tensor] = dict(zip(cuts, norms.unbind(1), strict=True))
        swept.append(_Backwards(graph, slopes, adjoints, defects, by_cut).run())
    # Both bound the same; a sweep that ran into NaN says nothing.
    return {node: weight.fmin(torch.cat([one[node] for one in swept])) for node, weight in known.items()}


def _of_one_set(given: Given, number: int) -> Given:
    """Facts of one of several sets; what all sets share stands once."""

    def one(x: Tensor) -> Tensor:
        return x[number : number + 1] if len(x) > 1 else x

    slopes, adjoints = ({node: fact.map(one) for node, fact in facts.items()} for facts in given[:2])
    return slopes, adjoints, {node: one(defect) for node, defect in given[2].items()}


class _Backwards:
    """The backward sweep; lives for one call.

    Args:
        defects: of known slopes.
        norms: of every cut, bounds of the transfers to it and to all cuts in topological order; none: absolute values.
    """

    def __init__(
        self,
        graph: Graph,
        slopes: Facts,
        adjoints: Facts,
        defects: Mapping[Node, Tensor] | None = None,
        norms: Mapping[Node, Tensor] | None = None,
    ) -> None:
        self._norms, self._defects = norms or {}, defects or {}
        self._born: list[Tensor] = []  # norms of what each cut so far has gathered since the one behind it
        self._graph, self._slopes, self._adjoints = graph, slopes, adjoints
        self._outputs = size(graph.output)
        self._rows: dict[Node, dict[Node | None, Tangents]] = {node: {} for node in graph.nodes}
        self._behind: dict[Node, Tensor] = {}  # bound at the unstable neurons of a node, (N, outputs, neurons)
        self._doubt: dict[Node, Tensor] = {}  # rounding of the rows at a node, (N, outputs, size)
        self._fresh: dict[Node, Tensor] = {}  # the part of it since the last cut, by absolute values

    def run(self) -> dict[Node, Tensor]:
        graph, found = self._graph, {}
        everything = Neurons(positions(self._outputs, graph.example), None)
        self._rows[graph.output][None] = Tangents.unit(everything, graph.example)
        for node in graph.nodes:
            self._doubt[node] = graph.example.new_zeros(1, self._outputs, size(node))
            self._fresh[node] = self._doubt[node]
        for node in reversed(graph.nodes):
            if node in self._norms:
                self._cross(node)
            spread = self._spread(node)
            weight = torch.minimum(self._adjoints[node].magnitude().flatten(2), up(spread + self._doubt[node]))
            found[node] = weight.reshape(*weight.shape[:2], *node.shape)
            if isinstance(node, Affine):
                self._through_affine(node, spread)
            elif isinstance(node, Elementwise):
                self._through_elementwise(node, weight, spread)
            del self._rows[node], self._doubt[node], self._fresh[node]
        return found

    def _cross(self, node: Node) -> None:
        """At a cut: what was gathered up to each cut so far arrives by the norm of the transfer from there."""
        self._born.insert(0, vector_norm_upper(self._fresh[node], 2))
        born = torch.stack(self._born)  # (cuts from here on, N, outputs)
        norms = self._norms[node][-len(born) :].reshape(-1, 1, 1)
        arriving = inflate(torch.where(born == 0, 0.0, born * norms).sum(0), len(born) + 2)
        self._doubt[node] = torch.minimum(self._doubt[node], arriving.unsqueeze(2))
        self._fresh[node] = torch.zeros_like(self._fresh[node])

    def _kinds_of_doubt(self) -> tuple[dict[Node, Tensor], ...]:
        """What grows by the same rules: all of the doubt, and where cuts are used its part since the last one."""
        return (self._doubt, self._fresh) if self._norms else (self._doubt,)

    def _spread(self, node: Node) -> Tensor:
        """Sum of the absolute rows at a node, each with the bound behind it, rounded up; (N, outputs, size)."""
        total, terms = torch.zeros_like(self._doubt[node]), 2
        for sink, rows in self._rows[node].items():
            values = rows.on(None, size(node)).abs()
            total = total + (values if sink is None else self._behind[sink] @ values)
            terms += 1 if sink is None else values.shape[1]
        return inflate(total, terms)

    def _floor(self, node: Node, terms: int) -> Tensor:
        """What underflow in one push can add to any entry, over all rows at a node; shape (N, outputs, 1)."""
        behind = [self._behind[sink].sum(2, keepdim=True) for sink in self._rows[node] if sink is not None]
        total = sum(behind, torch.ones_like(self._doubt[node][..., :1]))
        return inflate(total, len(behind) + size(node)) * underflow(terms, total)

    def _through_affine(self, node: Affine, spread: Tensor) -> None:
        spread = spread.reshape(*spread.shape[:2], *node.shape)
        for operator, source in node.terms:
            backward, floor = operator.transpose(), self._floor(node, operator.longest_sum)
            needed = self._alive(source)
            for sink, image in push_through(backward, self._rows[node], needed).items():
                self._add(source, sink, Tangents(needed, image, self._graph.example))
            for kind in self._kinds_of_doubt():
                doubt = kind[node].reshape(*kind[node].shape[:2], *node.shape)
                image = backward.slack(spread, doubt).flatten(2)
                kind[source] = up(up(kind[source] + image) + floor)

    def _alive(self, node: Node) -> Tensor | None:
        """Entries of an elementwise node with a slope that can differ from zero; None for other nodes."""
        if not isinstance(node, Elementwise):
            return None
        return flat_indices(can_differ(self._slopes[node]).any(0))

    def _through_elementwise(self, node: Elementwise, weight: Tensor, spread: Tensor) -> None:
        slope, source = self._slopes[node].map(lambda end: end.flatten(1)), node.source
        unstable = Neurons.of(is_unstable(slope))
        entries, steepness = passing(slope)
        steepness = steepness.unsqueeze(1)
        if len(entries):
            inexact = bool(((steepness != 0) & (steepness != 1)).any())
            for kind in self._kinds_of_doubt():
                passed = up(kind[node][..., entries] * steepness.abs())
                if inexact:
                    rounded = inflate(2 * unit(weight.dtype) * spread[..., entries] * steepness.abs(), 3)
                    passed = up(up(passed + rounded) + self._floor(node, 2))
                if node in self._defects:  # (slope - float) times the derivative itself, whose bound the weight is
                    defect = self._defects[node].flatten(1)[:, entries].unsqueeze(1)
                    passed = up(passed + up(defect * weight[..., entries]))
                doubt = torch.zeros_like(weight).expand(len(passed), -1, -1).index_copy(2, entries, passed)
                kind[source] = up(kind[source] + doubt)
            for sink, rows in self._rows[node].items():
                values = rows.on(entries, size(node)) * steepness
                self._add(source, sink, Tangents(entries, values, self._graph.example))
        if len(unstable):
            behind = up(slope.magnitude().unsqueeze(1) * weight)
            self._behind[node] = unstable.pick(behind[..., unstable.union])
            self._add(source, node, Tangents.unit(unstable, self._graph.example))

    def _add(self, node: Node, sink: Node | None, rows: Tangents) -> None:
        """Add rows at a node that may hold some of the same sink from another reader."""
        if sink in self._rows[node]:
            known, count = self._rows[node][sink].on(None, size(node)), size(node)
            total = known + rows.on(None, count)
            sums = total.abs() if sink is None else self._behind[sink] @ total.abs()
            rounded = inflate(2 * unit(total.dtype) * sums, total.shape[1] + 2)
            for kind in self._kinds_of_doubt():
                kind[node] = up(kind[node] + rounded)
            rows = Tangents(None, total, self._graph.example)
        self._rows[node][sink] = rows
