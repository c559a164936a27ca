"""`difference`: two networks as one graph of what they differ by, carried from node to node.

With h the values of the second network and d what the first has more, an affine node gives
``W_f (h + d) + b_f - W_g h - b_g = W_f d + (W_f - W_g) h + (b_f - b_g)``, an activation an increment, a product
``x_f y_f - x_g y_g = dx y_f + x_g dy``. Nothing large is subtracted from something large, so bounds are about as small
as the difference of the weights. Differences of floats are no floats: each is a float and what is left, which is
one as well (Knuth's two-sum), so that the graph is exactly the difference of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, ShapeError
from jacobound.graph.copies import on_sources
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Product, Vector
from jacobound.graph.rewriting import in_gates, rewritten
from jacobound.graph.source import Source
from jacobound.graph.vector.increments import Increment, LogSumExpIncrement
from jacobound.graph.vector.smooth import LogSumExp
from jacobound.graph.vector.value_nodes import everything, minus, same
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Select

WEIGHTS = ("weight", "factor")
"""Fields of operators that an operator is linear in."""


def difference(first: Graph, second: Graph) -> Graph:
    """The network ``first(x) - second(x)``, for bounds of how far two networks are apart.

    Where both have the same nodes (a quantised, pruned, compressed or fine-tuned copy) the difference is carried from
    node to node, so that its output bounds, Jacobian bounds and constants are about as small as the difference of the
    weights. From the first node that differs on it is a plain difference, whose bounds are those of two networks.
    The graph is exact: no weight is rounded. Methods, regions and questions are those of any graph, in real semantics.

    Raises:
        ShapeError: when inputs or outputs have different shapes.
        InvalidModelError: when one is no graph, or they are on different devices.
        UnsupportedOpError: when a node has no form in affine maps, activations, products and log-sum-exp.
    """
    for graph in (first, second):
        if not isinstance(graph, Graph):
            raise InvalidModelError(
                f"difference(f, g) takes two graphs, not a {type(graph).__name__}; import both networks first "
                "(jb.from_torch(module.eval(), example), jb.from_onnx(path))"
            )
    if first.in_shape != second.in_shape or first.out_shape != second.out_shape:
        raise ShapeError(
            f"networks of shapes {first.in_shape} -> {first.out_shape} and {second.in_shape} -> {second.out_shape} "
            "have no difference; both must take the same points and give the same outputs"
        )
    if first.device != second.device:
        raise InvalidModelError(
            f"the networks are on {first.device} and {second.device}; move one of them: graph.to(device)"
        )
    if first.dtype != second.dtype:
        first, second = first.double, second.double
    one, two = (_in_gates(graph) for graph in (first, second))
    return Graph(_Pairs(one, two).output(), source=Source("graph", f"difference of {first.source} and {second.source}"))


def _in_gates(graph: Graph) -> Graph:
    """The network with products and log-sum-exp in place of other functions; equal nodes stay two."""
    lowered = graph.lowered()
    moved = rewritten(lowered.nodes, lambda _: True, in_gates, graph.device)
    whole = Graph(moved[lowered.output], frozenset(moved.values()))
    free: dict[Node, Node] = {}
    for node in whole.nodes:
        # A choice takes for granted that nothing but it reads its gate, and a difference does.
        plain = replace(node, choice=None) if isinstance(node, Affine) and node.choice is not None else node
        free[node] = plain if isinstance(node, Input) else on_sources(plain, free, graph.device)
    return Graph(free[whole.output], frozenset(free.values()))


@dataclass(eq=False)
class _Pairs:
    """What two networks differ by at each pair of nodes; lives for one call.

    Attributes:
        apart: for every node of the second network the node of the difference; None where it is zero.
        joined: for every node of the first network that is the pair of one of the second, that one.
        alone: for every node of the first network the one with its values on the input of the second.
    """

    first: Graph
    second: Graph
    apart: dict[Node, Node | None] = field(default_factory=dict)
    joined: dict[Node, Node] = field(default_factory=dict)
    alone: dict[Node, Node] = field(default_factory=dict)

    def output(self) -> Node:
        """The node of the difference of the outputs."""
        pairs = dict(zip(self.first.nodes, self.second.nodes, strict=False))
        for node in self.first.nodes:
            other = pairs.get(node)
            if other is not None and self._match(node, other):
                self.joined[node] = other
                self.apart[other] = self._of(node, other)
            elif isinstance(node, Input):  # stands somewhere else there
                self.joined[node] = self.second.input
                self.apart[self.second.input] = None
            self._carry(node)
        last = self.first.output
        if self.joined.get(last) is not self.second.output:
            return self._subtracted(self._value(last), self.second.output, "difference")
        found = self.apart[self.second.output]
        return self._nothing(self.second.output) if found is None else found

    def _match(self, node: Node, other: Node) -> bool:
        """Whether two nodes are the same function but for weights, of pairs."""
        if type(node) is not type(other) or node.shape != other.shape:
            return False
        if len(node.sources) != len(other.sources):
            return False
        if any(self.joined.get(a) is not b for a, b in zip(node.sources, other.sources, strict=True)):
            return False
        if isinstance(node, Affine) and isinstance(other, Affine):
            pairs = zip(node.terms, other.terms, strict=True)
            return all(one.structure() == two.structure() for (one, _), (two, _) in pairs)
        if isinstance(node, Vector) and isinstance(other, Vector):
            return node.function.structure() == other.function.structure()
        return True

    @property
    def _like(self) -> Tensor:
        return self.second.example

    def _value(self, node: Node) -> Node:
        """A node of the first network on the input of the second: its pair itself where both are the same."""
        return self.alone[node]

    def _carry(self, node: Node) -> None:
        """Find what stands for a node of the first network."""
        other = self.joined.get(node)
        if other is not None and self.apart[other] is None:
            self.alone[node] = other
        else:
            self.alone[node] = on_sources(node, self.alone, self.second.device)

    def _subtracted(self, one: Node, two: Node, name: str) -> Node:
        return Affine((same(one, self._like), minus(two, self._like)), None, name)

    def _nothing(self, like: Node) -> Node:
        """Zeros of a node's shape."""
        index = torch.full(like.shape, -1, device=self.second.device)
        return Affine(((Select(index, self.second.in_shape, self._like), self.second.input),), None, "no difference")

    def _of(self, node: Node, other: Node) -> Node | None:
        """The difference at a pair of nodes."""
        if isinstance(other, Input):
            return None
        if isinstance(node, Affine) and isinstance(other, Affine):
            return self._affine(node, other)
        if isinstance(node, Product) and isinstance(other, Product):
            return self._product(node, other)
        if isinstance(node, Elementwise) and isinstance(other, Elementwise):
            return self._elementwise(node, other)
        assert isinstance(node, Vector) and isinstance(other, Vector)
        apart = self.apart[other.source]
        if apart is None:
            return None
        function = other.function
        if isinstance(function, LogSumExp) and function.allowed is None:
            there = self._value(node.source)
            value = Vector(function, there, f"{other.name}.first")
            both = self._beside((other.source, apart, there, other, value), -1, f"{other.name}.pair")
            return Vector(LogSumExpIncrement(function.in_shape, self._like), both, f"{other.name}.difference")
        return self._subtracted(
            Vector(function, self._value(node.source), f"{other.name}.first"), other, f"{other.name}.difference"
        )

    def _affine(self, node: Affine, other: Affine) -> Node | None:
        terms: list[tuple[LinearOperator, Node]] = []
        rest: list[Tensor] = []
        for (one, _), (two, source) in zip(node.terms, other.terms, strict=True):
            apart = self.apart[source]
            if apart is not None:
                terms.append((one, apart))
            changes = _changes(one, two)
            if changes is None:  # no kind of which differences are known: both maps of the second network's values
                mapped = [Affine(((operator, source),), None, f"{other.name}.map") for operator in (one, two)]
                terms += [same(mapped[0], self._like), minus(mapped[1], self._like)]
            else:
                terms += [(change, source) for change in changes]
        biases = [torch.zeros(other.shape).to(self._like) if one.bias is None else one.bias for one in (node, other)]
        for part in _two_sum(biases[0], -biases[1]):
            rest += [part] if bool((part != 0).any()) else []
        if not terms and not rest:
            return None
        name = f"{other.name}.difference"
        found = Affine(tuple(terms), rest[0] if rest else None, name) if terms else None
        if found is None:
            found = replace(self._nothing(other), bias=rest[0], name=name)
        for part in rest[1:]:
            found = Affine((same(found, self._like),), part, name)
        return found

    def _product(self, node: Product, other: Product) -> Node | None:
        """``dx y_f + x_g dy``."""
        name, terms = f"{other.name}.difference", []
        first, second = self.apart[other.first], self.apart[other.second]
        if first is not None:
            terms.append(same(Product(first, self._value(node.second), f"{name}.first"), self._like))
        if second is not None:
            terms.append(same(Product(other.first, second, f"{name}.second"), self._like))
        return Affine(tuple(terms), None, name) if terms else None

    def _elementwise(self, node: Elementwise, other: Elementwise) -> Node | None:
        apart, terms, name = self.apart[other.source], [], f"{other.name}.difference"
        changed = not _equal(node, other)
        if apart is not None:
            here, there = other.source, self._value(node.source)
            before = Elementwise(node.activation, here, f"{other.name}.changed") if changed else other
            after = Elementwise(node.activation, there, f"{other.name}.first")
            both = self._beside((here, apart, there, before, after), None, f"{other.name}.pair")
            made = Vector(Increment(node.activation, other.shape, self._like), both, name)
            terms.append(same(made, self._like))
        if changed:
            moved = Elementwise(node.activation, other.source, f"{other.name}.changed")
            terms += [same(moved, self._like), minus(other, self._like)]
        if len(terms) == 1:
            return terms[0][1]
        return Affine(tuple(terms), None, name) if terms else None

    def _beside(self, parts: Sequence[Node], axis: int | None, name: str) -> Node:
        """Nodes joined along the last axis, or along a new one behind it."""
        terms = []
        for k, node in enumerate(parts):
            tables = [
                everything(one, self._like) if k == j else torch.full(one.shape, -1, device=self.second.device)
                for j, one in enumerate(parts)
            ]
            index = torch.stack(tables, -1) if axis is None else torch.cat(tables, axis)
            terms.append((Select(index, node.shape, self._like), node))
        return Affine(tuple(terms), None, name)


def _equal(node: Elementwise, other: Elementwise) -> bool:
    """Whether two activations are the same function."""
    one, two = node.activation, other.activation
    if one.name != two.name or len(one.parameters) != len(two.parameters):
        return False
    pairs = zip(one.parameters, two.parameters, strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def _changes(one: LinearOperator, two: LinearOperator) -> list[LinearOperator] | None:
    """``one - two`` as a sum of operators, exactly; None for kinds of which that is not known."""
    before, after = two.parameters(), one.parameters()
    if len(before) == len(after) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(after, before, strict=True)
    ):
        return []
    names = {part.name for part in fields(one)} if hasattr(one, "__dataclass_fields__") else set()  # type: ignore[arg-type]
    known = [name for name in WEIGHTS if name in names]
    if len(known) != 1 or len(before) != 1 or len(after) != 1 or before[0].shape != after[0].shape:
        return None  # among them those whose weights are only enclosed
    (name,) = known
    parts = _two_sum(getattr(one, name), -getattr(two, name))
    return [replace(one, **{name: part}) for part in parts if bool((part != 0).any())]  # type: ignore[type-var]


def _two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a + b`` as a float and a float that is left (Knuth, TAOCP 2, 4.2.2), in rounding to nearest."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)
