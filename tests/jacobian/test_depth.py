"""Rounding does not grow with depth: weights by norms of true products between cuts, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor

import jacobound as jb
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import strict
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian.cut_transfers import cut_nodes, transfer_norms
from jacobound.jacobian.rounding_weights import defect_weights
from jacobound.operators.kinds import Dense, Identity


def deep_network(width: int, depth: int, kind: str, residual: bool = False) -> Graph:
    """Random layers with variance 2 / width, or blocks around which the argument is carried."""
    generator = Generator().manual_seed(3)

    def dense(node: Node, outputs: int, scale: float = 1.0) -> Affine:
        inputs = node.shape[0]
        weight = torch.randn(outputs, inputs, generator=generator).double() * scale * (2 / inputs) ** 0.5
        return Affine(((Dense(weight), node),), torch.randn(outputs, generator=generator).double() * 0.1)

    node: Node = dense(Input((5,)), width)
    for _ in range(depth):
        inner = dense(Elementwise(activation(kind), node), width, 0.2 if residual else 1.0)
        if residual:
            inner = Affine((*inner.terms, (Identity((width,), (width,), torch.zeros(1).double()), node)), inner.bias)
        node = inner
    return Graph(dense(Elementwise(activation(kind), node), 3))


def jacobian(graph: Graph, x: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(lambda y: graph(y.unsqueeze(0))[0], x)


@pytest.mark.parametrize("residual", (False, True))
@pytest.mark.parametrize("kind", ("relu", "leaky_relu:0.1"))
@pytest.mark.parametrize("sets", (1, 2))
def test_at_a_point_the_jacobian_of_a_deep_network_is_known(kind: str, residual: bool, sets: int) -> None:
    graph = deep_network(32, 60, kind, residual)
    x = torch.rand(sets, 5, generator=Generator().manual_seed(1), dtype=torch.float64)
    found = jb.bound_jacobian(graph, jb.Ball(x, 0.0), jb.RecurJac())
    for n in range(sets):
        true = jacobian(graph, x[n])
        lower, upper = (end.reshape(sets, 3, 5)[n] for end in (found.lower, found.upper))
        scale = float(true.abs().max())
        assert float((upper - lower).max()) <= 1e-8 * scale
        assert bool(((lower - 1e-12 * scale <= true) & (true <= upper + 1e-12 * scale)).all())


@pytest.mark.parametrize("kind", ("relu", "leaky_relu:0.1"))
def test_in_a_ball_sampled_jacobians_of_a_deep_network_lie_inside(kind: str) -> None:
    graph = deep_network(24, 45, kind)
    x = torch.rand(5, generator=Generator().manual_seed(1), dtype=torch.float64)
    found = jb.bound_jacobian(graph, jb.Ball(x, 3e-3), jb.RecurJac())
    assert int(found.unstable) > 0
    lower, upper = (end.reshape(3, 5) for end in (found.lower, found.upper))
    scale = float(jacobian(graph, x).abs().max())
    assert float((upper - lower).max()) <= 10 * scale
    for step in torch.randn(40, 5, generator=Generator().manual_seed(2)).double():
        true = jacobian(graph, x + 3e-3 * step / step.norm())
        assert bool(((lower - 1e-12 * scale <= true) & (true <= upper + 1e-12 * scale)).all())


def facts(graph: Graph, draw: Callable[[Node], Interval]) -> dict[Node, Interval]:
    return {node: draw(node) for node in graph.nodes}


@pytest.mark.parametrize("stopped", (False, True))
@pytest.mark.parametrize("residual", (False, True))
def test_norms_between_cuts_are_above_true_norms_and_close(residual: bool, stopped: bool) -> None:
    graph = deep_network(12, 13, "leaky_relu:0.1", residual)
    generator = Generator().manual_seed(7)
    slopes: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            low = torch.tensor([0.0, 0.1, 1.0]).double()[torch.randint(3, (1, 12), generator=generator)]
            slopes[node] = Interval(low, torch.where(torch.rand(1, 12, generator=generator) < 0.1, 1.5, low))
            if stopped and len(slopes) in (4, 5):  # nothing passes there
                slopes[node] = Interval(torch.zeros_like(low), torch.ones_like(low))
    cuts = cut_nodes(graph)
    assert len(cuts) == 15
    with strict(graph.device, graph.dtype):
        norms = transfer_norms(graph, slopes, cuts)
    assert norms is not None
    known_slopes = [torch.where(slope.lower == slope.upper, slope.lower, 0.0)[0] for slope in slopes.values()]
    blocks = []
    for low, high in pairwise(cuts):
        steps: dict[Node, Tensor] = {low: torch.eye(12).double()}
        for node in graph.nodes[graph.nodes.index(low) + 1 : graph.nodes.index(high) + 1]:
            if isinstance(node, Elementwise):
                slope = slopes[node]
                known = torch.where(slope.lower == slope.upper, slope.lower, 0.0)[0]
                steps[node] = known.unsqueeze(1) * steps[node.source]
            elif isinstance(node, Affine):
                steps[node] = sum(operator.apply(steps[source].mT).mT for operator, source in node.terms)
        blocks.append(steps[high])
    for j in range(len(cuts)):
        true = torch.eye(12).double()
        for k in range(j, len(cuts)):
            passing_rows = true if residual or k + 1 == len(cuts) else true[known_slopes[k] != 0]
            exact = float(torch.linalg.matrix_norm(passing_rows, 2)) if len(passing_rows) else 0.0
            assert exact <= float(norms[k, j]) * (1 + 1e-12)
            assert k == j or float(norms[k, j]) <= 1e3 * max(exact, 1e-6)  # absolute values are beyond 1e6 here
            true = blocks[k] @ true if k < len(blocks) else true


class _Short(Dense):
    """Products that fall short by a part in ten of what they should be, and say so; columns are exact."""

    def between(self, inputs: Tensor | None, outputs: Tensor | None, vectors: int) -> Callable[[Tensor], Tensor]:
        push = super().between(inputs, outputs, vectors)
        return lambda x: 0.9 * push(x)

    def slack(self, magnitude: Tensor, doubt: Tensor | None = None) -> Tensor:
        moved = 0.1 * magnitude if doubt is None else 0.1 * magnitude + doubt
        return self.abs().apply(moved) * (1 + 1e-13)

    def transpose(self) -> _Short:
        return _Short(self.weight.mT)


@pytest.mark.parametrize("depth", (1, 2, 7, 12))
def test_what_products_fall_short_is_paid_at_every_cut(depth: int) -> None:
    """In a chain of single neurons the shortfalls add up without any loss: with one part left out they do not reach."""
    one = torch.ones(1, 1, dtype=torch.float64)
    node: Node = Input((1,))
    for layer in range(depth + 1):
        kind = Dense if layer == depth else _Short  # rows start as columns of the last one, which round nothing
        node = Affine(((kind(one * (2.0 if layer % 2 else 0.5)), node),), one[0])
        node = node if layer == depth else Elementwise(activation("relu"), node)
    graph = Graph(node)
    slopes = {node: Interval(one, one) for node in graph.nodes if isinstance(node, Elementwise)}
    huge = facts(graph, lambda node: Interval(-1e6 * one.unsqueeze(0), 1e6 * one.unsqueeze(0)))
    with strict(graph.device, graph.dtype):
        weights = defect_weights(graph, slopes, huge)
    true = 1.0
    for node in reversed(graph.nodes):
        weight = float(weights[node])
        assert true <= weight <= true * (1 + 1e-9)
        if isinstance(node, Affine):
            true *= float(node.terms[0][0].columns(torch.zeros(1, dtype=torch.int64)))
