"""Backward substitution: linear bounds of a node in terms of the input, with every rounding error added at once.

The rows of one pass are entries of one target node, each over one of N sets of inputs; lines and errors are those of
the row's own set, matrix products are shared by all rows. For its rows the pass keeps coefficients A on nodes not yet
substituted, constants, and one error per row. A computed product A' = fl(A W) *is* the new coefficient; what it misses
is at most |A| times a vector that is known beforehand (`absorb`), because the values of all nodes are. Sources: CROWN
(Zhang et al. 2018), eqs. of section 3; the absorption is ours (ARCHITECTURE.md, "Where rounding lives").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, underflow, unit, up
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.inputs.domains import ONE_SET, Domain, Owners
from jacobound.method import Facts
from jacobound.operators.base import LinearOperator
from jacobound.relaxation.elementwise import Relaxation, RowLines
from jacobound.relaxation.planes import PlaneRelaxation


def absorb(
    operator: LinearOperator, inputs: Tensor | None, outputs: Tensor | None, rows: int
) -> Callable[[Tensor], Tensor]:
    """The computed product A -> fl(A W) on the wanted entries.

    Contract: for every x with ``|x| <= X`` that vanishes outside `outputs`,
    ``|(A W - absorb(...)(A)) x| <= |A| operator.slack(X) + floor_of(operator, X)``, with A zero outside `inputs`.

    Args:
        operator: W, from the source's shape to the node's shape.
        inputs: the node's flat entries that A covers, None for all.
        outputs: the source's flat entries that are wanted, None for all.
        rows: how many rows A has, about.
    """
    return operator.transpose().between(inputs, outputs, rows)


def floor_of(operator: LinearOperator, magnitude: Tensor) -> Tensor:
    """The part of the absorption error that does not scale with the coefficients: underflow.

    Args:
        magnitude: shape (N, *operator.in_shape).

    Returns:
        Shape (N,).
    """
    return magnitude.reshape(len(magnitude), -1).sum(1) * underflow(operator.longest_sum, magnitude)


@dataclass(frozen=True, eq=False)
class Rows:
    """State of a backward pass for R rows: ``value <= coefficient . node + constant + error`` and the same below.

    Args:
        coefficient: for each pending node (entries, A); A has shape (S, R, k) with S = 1 while upper and lower bounds
            share their coefficients, and S = 2 (upper first) afterwards.
        constant: shape (2, R), upper first.
        error: shape (2, R), non-negative.
        owners: the set that each row is about.
        own: lines that the rows have for themselves, in place of those of their sets.
    """

    coefficient: dict[Node, tuple[Tensor | None, Tensor]]
    constant: Tensor
    error: Tensor
    owners: Owners = ONE_SET
    own: Mapping[Node, RowLines] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class InputForms:
    """``lower_slope x + lower_offset <= value <= upper_slope x + upper_offset`` for R values; certified.

    Args:
        upper_slope, lower_slope: exact floats, shape (R, inputs).
        upper_offset, lower_offset: shape (R,).
    """

    upper_slope: Tensor
    upper_offset: Tensor
    lower_slope: Tensor
    lower_offset: Tensor


class BackwardPass:
    """Substitutes backwards through one graph; holds what all targets share (slack of nodes, relaxations).

    Args:
        graph: the network.
        domain: where the input is, N sets.
        ranges: enclosures (N, *node shape); must hold all ancestors of a target when `enclose` is called for it.
        relaxations: lines of the elementwise nodes, filled in by the caller as they become known.
        noise: what the execution of a node may add to its value (see `methods.executed`), filled in likewise.
        planes: planes of nodes that are neither affine nor elementwise, filled in likewise.
    """

    def __init__(
        self,
        graph: Graph,
        domain: Domain,
        ranges: Facts,
        relaxations: Mapping[Node, Relaxation],
        noise: Mapping[Node, Tensor],
        planes: Mapping[Node, PlaneRelaxation] | None = None,
    ) -> None:
        self._graph, self._domain, self._ranges, self._relaxations = graph, domain, ranges, relaxations
        self._planes, self._noise = {} if planes is None else planes, noise
        self._slack: dict[Node, tuple[Tensor, Tensor]] = {}
        self._products: dict[LinearOperator, tuple[Tensor | None, Tensor | None, int, Callable[[Tensor], Tensor]]] = {}
        self._position = {node: k for k, node in enumerate(graph.nodes)}

    @property
    def example(self) -> Tensor:
        """A tensor of the graph's dtype and device."""
        return self._graph.example

    def bytes_per_row(self, target: Node) -> int:
        """Working memory of one row of `target`: two chains, argument and result of the widest step, temporaries.

        It is counted twice, because enclosures of all sets may already fill half of the memory.
        """
        before = self._graph.nodes[: self._position[target] + 1]
        return 12 * max(size(node) for node in before) * self._graph.example.element_size()

    def products_per_row(self, target: Node) -> float:
        """Multiplications of one row of `target`, for both chains, all nodes before it counted."""
        before = self._graph.nodes[: self._position[target]]
        operators = (operator for node in before if isinstance(node, Affine) for operator, _ in node.terms)
        return 2.0 * sum(operator.out_size * operator.terms for operator in operators)

    def enclose(
        self, target: Node, rows: Tensor, owners: Owners, own: Mapping[Node, RowLines] | None = None
    ) -> Interval:
        """Certified range of the flat entries `rows` of a node, each over its own set; interval (len(rows),).

        Args:
            own: lines of the rows themselves for some elementwise nodes.
        """
        return self._concretise(self._substituted(target, rows, owners, own))

    def forms(self, target: Node, rows: Tensor, owners: Owners) -> InputForms:
        """Certified linear forms of the input above and below the flat entries `rows` of a node."""
        state = self._substituted(target, rows, owners)
        _, values = state.coefficient[self._graph.input]
        above, below = up(state.constant[0] + state.error[0]), down(state.constant[1] - state.error[1])
        return InputForms(values[0], above, values[-1], below)

    def _substituted(
        self, target: Node, rows: Tensor, owners: Owners, own: Mapping[Node, RowLines] | None = None
    ) -> Rows:
        """What is left when everything but the input is substituted."""
        state = replace(self._start(target, rows, owners), own=own or {})
        while True:
            node = max(state.coefficient, key=self._position.__getitem__)
            if node in self._noise:
                state = self._through_noise(state, node)
            if isinstance(node, Input):
                return state
            entries, values = state.coefficient.pop(node)
            if isinstance(node, Affine):
                state = self._through_affine(state, node, entries, values)
            elif isinstance(node, Elementwise):
                state = self._through_elementwise(state, node, values)
            else:
                state = self._through_planes(state, node, values)

    def _start(self, target: Node, rows: Tensor, owners: Owners) -> Rows:
        zeros = self._graph.example.new_zeros(2, len(rows))
        state = Rows({}, zeros, zeros.clone(), owners)
        if not isinstance(target, Affine) or len({source for _, source in target.terms}) < len(target.terms):
            units = zeros.new_zeros(1, len(rows), size(target))
            units[0, torch.arange(len(rows), device=rows.device), rows] = 1.0
            wanted = self._entries(target)
            state.coefficient[target] = (wanted, units if wanted is None else units[..., wanted])
            return state
        # Rows of the weight are the exact coefficients: no product, no rounding (but for uncertain weights).
        for operator, source in target.terms:
            entries = self._entries(source)
            state.coefficient[source] = (entries, _rows_of(operator, rows, entries, owners).unsqueeze(0))
            extra = operator.uncertainty(self._magnitude(source))
            if extra is not None:
                state = replace(state, error=up(state.error + owners.at(extra.flatten(1), rows)))
        if target in self._noise:
            state = replace(state, error=up(state.error + owners.at(self._noise[target].flatten(1), rows)))
        if target.bias is None:
            return state
        return replace(state, constant=state.constant + target.bias.flatten()[rows])

    def _entries(self, node: Node) -> Tensor | None:
        """The entries of a node that can differ from zero."""
        return self._relaxations[node].alive if isinstance(node, Elementwise) else None

    def _magnitude(self, node: Node) -> Tensor:
        return self._ranges[node].magnitude()

    def _affine_slack(self, node: Affine) -> tuple[Tensor, Tensor]:
        """(error per unit coefficient (N, entries), floor (N,)) of substituting an affine node; computed once."""
        if node not in self._slack:
            slack = torch.zeros_like(self._ranges[node].lower)
            floor = slack.new_zeros(len(slack))
            for operator, source in node.terms:
                magnitude = self._magnitude(source)
                slack = up(slack + operator.slack(magnitude))
                floor = floor + floor_of(operator, magnitude)
            if node.bias is not None:
                slack = up(slack + inflate(node.bias.abs() * gamma(size(node) + 2, node.bias), 2))
                floor = floor + underflow(size(node), node.bias)
            self._slack[node] = slack.flatten(1), floor
        return self._slack[node]

    def _through_noise(self, state: Rows, node: Node) -> Rows:
        """The value of an executed node is off from its exact function by noise: counted with the coefficients."""
        entries, values = state.coefficient[node]
        noise = state.owners.pick(self._noise[node].flatten(1))
        noise = noise if entries is None else noise[..., entries]
        added = torch.where(values == 0, 0.0, values.abs() * noise).sum(-1)
        return replace(state, error=up(state.error + inflate(added, noise.shape[-1] + 1)))

    def _through_affine(self, state: Rows, node: Affine, entries: Tensor | None, values: Tensor) -> Rows:
        constant, error, owners = state.constant, state.error, state.owners
        if rigorous():
            slack, floor = self._affine_slack(node)
            slack = slack if entries is None else slack[:, entries]
            lost = inflate(owners.dot(values.abs(), slack), slack.shape[1] + 1)
            error = up(error + lost + owners.pick(floor))
        for operator, source in node.terms:
            wanted = self._entries(source)
            product = self._product(operator, entries, wanted, values.shape[0] * values.shape[1])
            error = self._add(state, source, wanted, product(values), error)
        if node.bias is not None:
            bias = node.bias.flatten()
            constant = constant + values @ (bias if entries is None else bias[entries])
            error = up(error + 2 * unit(values.dtype) * constant.abs()) if rigorous() else error
        return replace(state, constant=constant, error=error)

    def _product(
        self, operator: LinearOperator, entries: Tensor | None, wanted: Tensor | None, rows: int
    ) -> Callable[[Tensor], Tensor]:
        """`absorb`, prepared once for all targets that need the same entries of a weight."""
        known = self._products.get(operator)
        if known is None or known[0] is not entries or known[1] is not wanted or rows < known[2]:
            known = self._products[operator] = (entries, wanted, rows, absorb(operator, entries, wanted, rows))
        return known[3]

    def _add(self, state: Rows, node: Node, entries: Tensor | None, values: Tensor, error: Tensor) -> Tensor:
        """Add coefficients on a node that may have some already; returns the error with that addition's rounding."""
        if node not in state.coefficient:
            state.coefficient[node] = (entries, values)
            return error
        total = state.coefficient[node][1] + values
        state.coefficient[node] = (entries, total)
        if not rigorous():
            return error
        magnitude = self._magnitude(node).flatten(1)
        magnitude = magnitude if entries is None else magnitude[:, entries]
        lost = 2 * unit(total.dtype) * state.owners.dot(total.abs(), magnitude)
        return up(error + inflate(lost, magnitude.shape[1] + 2))

    def _through_elementwise(self, state: Rows, node: Elementwise, values: Tensor) -> Rows:
        relaxation, owners, own = self._relaxations[node], state.owners, state.own.get(node)
        through, added, lost = relaxation.through(values if own is None else own.without(values), owners)
        constant, error = _plus(state, added, lost)
        if own is not None:
            mine, added, lost = own.through(values)
            through = through.expand(2, *through.shape[1:]).index_copy(-1, own.places, mine)
            constant, error = _plus(replace(state, constant=constant, error=error), added, lost)
        source = node.source
        if isinstance(source, Affine) and len(self._graph.consumers[source]) == 1:
            error = self._add(state, source, relaxation.alive, through, error)
            return replace(state, constant=constant, error=error)
        # Several readers, or not an affine node: spread out first, so that coefficients of all readers add up.
        through, wanted = self._onto(through, relaxation.alive, node), self._entries(source)
        through = through if wanted is None else through[..., wanted]
        error = self._add(state, source, wanted, through, error)
        return replace(state, constant=constant, error=error)

    def _through_planes(self, state: Rows, node: Node, values: Tensor) -> Rows:
        relaxation, owners = self._planes[node], state.owners
        positive, negative = values.clamp(min=0.0), values.clamp(max=0.0)
        below, above = relaxation.lower, relaxation.upper
        upper = owners.dot(positive[0], above) + owners.dot(negative[0], below)
        lower = owners.dot(positive[-1], below) + owners.dot(negative[-1], above)
        constant, error = state.constant + torch.stack((upper, lower)), state.error
        if rigorous():
            slack, floor = relaxation.slack
            lost = inflate(owners.dot(values.abs(), slack), slack.shape[1] + 1)
            error = up(up(error + lost + owners.pick(floor)) + 2 * unit(values.dtype) * constant.abs())
        for source, (low, high, parallel, length) in zip(node.sources, relaxation.slopes, strict=True):
            touched = values if length == 1 else values.repeat_interleave(length, -1)
            through = touched * owners.pick(high)
            if not parallel:
                low, high = owners.pick(low), owners.pick(high)
                chains = (torch.where(touched[0] > 0, high, low), torch.where(touched[-1] > 0, low, high))
                through = torch.stack([slope * touched[k] for slope, k in zip(chains, (0, -1), strict=True)])
            wanted = self._entries(source)
            error = self._add(state, source, wanted, through if wanted is None else through[..., wanted], error)
        return replace(state, constant=constant, error=error)

    def _onto(self, values: Tensor, entries: Tensor | None, node: Node) -> Tensor:
        """Spread coefficients on some entries over all entries of a node."""
        if entries is None:
            return values
        return values.new_zeros(*values.shape[:-1], size(node)).index_copy_(-1, entries, values)

    def _concretise(self, state: Rows) -> Interval:
        _, values = state.coefficient.popitem()[1]
        if self._domain.half_spaces is None:
            reach = self._domain.range_of(values, state.owners)
            highest, lowest = reach.upper[0], reach.lower[-1]
        else:
            highest = self._domain.highest(values[0], state.owners)
            lowest = -self._domain.highest(-values[-1], state.owners)
        upper = up(up(state.constant[0] + highest) + state.error[0])
        lower = down(down(state.constant[1] + lowest) - state.error[1])
        return Interval.safe(lower, upper)


def _plus(state: Rows, added: Tensor | None, lost: Tensor | None) -> tuple[Tensor, Tensor]:
    """Constants and errors (2, R) with terms added that are off by at most `lost`."""
    error = state.error if lost is None else up(state.error + lost)
    if added is None:
        return state.constant, error
    constant = state.constant + added
    return constant, up(error + 2 * unit(constant.dtype) * constant.abs()) if rigorous() else error


def _rows_of(operator: LinearOperator, rows: Tensor, entries: Tensor | None, owners: Owners) -> Tensor:
    """Rows of a weight, exactly; a row that several sets ask for is formed once."""
    if owners.index is None:
        return operator.transpose().columns(rows, entries)
    different, place = torch.unique(rows, return_inverse=True)
    return operator.transpose().columns(different, entries).index_select(0, place)
