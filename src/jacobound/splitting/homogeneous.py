"""Constants over the whole space as constants over the faces of a box: what homogeneity gives.

Let F(x, s) be the network with every bias multiplied by one more input s. Where all activations are homogeneous
(``a(t z) = t a(z)`` for t > 0: ReLU, leaky ReLU, absolute values, and with them maxima and sorting) so is F, and
``F(x, s) = s f(x / s)`` for s > 0. Its derivative by x is then the same along every ray from the origin, and at (x, s)
it is that of f at x / s. Every ray with s > 0 leaves the box ``|x| <= 1, 0 <= s <= 1`` through one of the faces
``x_k = 1``, ``x_k = -1``, ``s = 1``, so the largest constant over these faces is that over the whole space (ours).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from jacobound.arithmetic.intervals import Interval
from jacobound.graph.copies import on_sources
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Identity, Select


def is_homogeneous(graph: Graph) -> bool:
    """Whether all activations of a network of affine maps and activations have two linear pieces that meet in 0."""
    return all(_bends_at_zero(node) for node in graph.nodes if isinstance(node, Elementwise))


def _bends_at_zero(node: Elementwise) -> bool:
    activation = node.activation
    breaks = [one for one in activation.breaks if isinstance(one, float | int)]
    linear = all(piece.line is not None and _is_zero(piece.line[1]) for piece in activation.pieces)
    return linear and activation.reduce is None and len(breaks) == len(activation.breaks) and not any(breaks)


def _is_zero(offset: float | torch.Tensor) -> bool:
    return not bool((torch.as_tensor(offset) != 0).any())


def homogenised(graph: Graph) -> Graph:
    """The network of (x, s), flat, with biases times s; of affine maps and activations, in float64."""
    count, like = size(graph.input), graph.example
    whole = Input((count + 1,), graph.input.name)
    places = torch.arange(count).reshape(graph.in_shape)
    first: tuple[tuple[LinearOperator, Node], ...] = ((Select(places, (count + 1,), like), whole),)
    moved: dict[Node, Node] = {graph.input: Affine(first, None, "x")}
    last: tuple[tuple[LinearOperator, Node], ...] = ((Select(torch.tensor([count]), (count + 1,), like), whole),)
    scale = Affine(last, None, "s")
    for node in graph.nodes:
        if isinstance(node, Affine) and node.bias is not None:
            column = Affine(((Dense(node.bias.flatten().unsqueeze(1)), scale),), None, f"bias of {node.name}")
            reshaped = Identity(column.shape, node.shape, like)
            terms = (*((operator, moved[source]) for operator, source in node.terms), (reshaped, column))
            moved[node] = Affine(terms, None, node.name)
        elif not isinstance(node, Input):
            moved[node] = on_sources(node, moved, graph.device)
    return Graph(moved[graph.output])


def around(inputs: int) -> Interval:
    """The box ``|x| <= 1, 0 <= s <= 1``, (1, inputs + 1)."""
    lower, upper = -torch.ones(1, inputs + 1, dtype=torch.float64), torch.ones(1, inputs + 1, dtype=torch.float64)
    lower[0, inputs] = 0.0
    return Interval(lower, upper)


def faces(inputs: int) -> Iterator[Interval]:
    """The faces of that box that rays with s > 0 leave it through, (inputs + 1,)."""
    box = around(inputs)[0]
    for k in range(inputs + 1):
        for side in (1.0, -1.0) if k < inputs else (1.0,):
            low, high = box.lower.clone(), box.upper.clone()
            low[k] = high[k] = side
            yield Interval(low, high)


def without_last_input(graph: Graph) -> tuple[Graph, dict[Node, Node]]:
    """A network of gates with 0 in place of its last input, and for every node the one that stands for it."""
    count = size(graph.input) - 1
    index = torch.arange(count + 1)
    index[count] = -1
    rest = Input((count,), graph.input.name)
    terms: tuple[tuple[LinearOperator, Node], ...] = ((Select(index, (count,), graph.example), rest),)
    moved: dict[Node, Node] = {graph.input: Affine(terms, None, "x")}
    for node in graph.nodes:
        if node is not graph.input:
            moved[node] = on_sources(node, moved, graph.device)
    return Graph(moved[graph.output], frozenset(moved.values())), moved
