"""The core with middle slopes: recomputed without rounding, and as a description of every Jacobian of a region."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator

from certificate_cases import slopes_of
from exact import random_floats, rational, rational_matrix, rationals
from jacobound import CROWN, Ball, Budget, Graph, UnsupportedOpError
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.certificates.dense.forwards import sdp_core
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.known_slopes import middle_slopes
from jacobound.method import derivative_ranges
from jacobound.operators.kinds import Dense, Scale
from zoo import concatenation


def graphs(generator: Generator, exponents: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Graph]:
    """A chain, a graph with skips and an uncertain scale, and one that ends in an activation."""

    def dense(node: Node, width: int) -> Affine:
        weight = random_floats((width, node.shape[0]), dtype, generator, exponents)
        return Affine(((Dense(weight), node),), random_floats((width,), dtype, generator, (-1, 1)))

    def act(node: Node, name: str = "leaky_relu:0.1") -> Elementwise:
        return Elementwise(activation(name), node)

    x = Input((2,))
    chain = dense(act(dense(act(dense(act(dense(x, 3)), 4), "relu"), 3), "tanh"), 2)
    first = act(dense(x, 3))
    second = Affine(((Dense(random_floats((3, 3), dtype, generator, exponents)), first), dense(x, 3).terms[0]))
    joined = concatenation([act(second, "relu"), first, x])
    joined = Affine(tuple((operator.to(torch.device("cpu"), dtype), source) for operator, source in joined.terms))
    factor = random_floats((2,), dtype, generator, (-1, 1))
    scaled = Affine(((Scale(factor, factor.abs() * 2.0**-20), dense(act(joined), 2)),))
    return [Graph(chain), Graph(scaled), Graph(act(dense(act(dense(x, 3)), 2)))]


def exact_core(graph: Graph, slopes: Mapping[Node, Interval], uncertain: int = 0) -> fmpq_mat:
    """The matrix over the rationals, by tangents pushed forwards; `uncertain` (-1, 0, 1) moves the scales' factors."""
    halves = {node: middle_slopes(slopes[node].map(lambda end: end.flatten().double())) for node in slopes}
    unstable = [(node, i) for node in graph.nodes if node in halves for i in halves[node][1].nonzero().flatten()]
    columns = size(graph.input) + len(unstable)
    tangent: dict[Node, fmpq_mat] = {}
    rows: list[list[fmpq]] = []
    for node in graph.nodes:
        if isinstance(node, Input):
            tangent[node] = fmpq_mat(size(node), columns, [fmpq(i == j) for i in range(2) for j in range(columns)])
        elif isinstance(node, Affine):
            total = fmpq_mat(size(node), columns)
            for operator, source in node.terms:
                matrix = operator.materialise()
                exact = rational_matrix(matrix)
                if isinstance(operator, Scale) and operator.radius is not None:
                    exact += rational_matrix(torch.diag(operator.radius)) * uncertain
                total += exact * tangent[source]
            tangent[node] = total
        else:
            assert isinstance(node, Elementwise)
            middle, half = halves[node]
            before = tangent[node.source]
            entries = []
            for i in range(size(node)):
                row = [rational(float(middle[i])) * before[i, j] for j in range(columns)]
                if half[i] != 0:
                    position = next(k for k, (owner, n) in enumerate(unstable) if owner is node and int(n) == i)
                    row[size(graph.input) + position] += rational(float(half[i]))
                    rows.append([before[i, j] for j in range(columns)])
                entries += row
            tangent[node] = fmpq_mat(size(node), columns, entries)
    last = tangent[graph.output]
    outputs = [[last[i, j] for j in range(columns)] for i in range(size(graph.output))]
    every = outputs + rows
    return fmpq_mat(len(every), columns, [entry for row in every for entry in row])


@pytest.mark.parametrize("exponents", [(-2, 2), (-25, 25)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_radius_holds_the_exact_matrix(seed: int, exponents: tuple[int, int], dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(seed)
    for graph in graphs(generator, exponents, dtype):
        slopes = slopes_of(graph, 1.0, seed)
        core = sdp_core(graph, slopes)
        for uncertain in (-1, 0, 1):
            exact = exact_core(graph, slopes, uncertain)
            if (exact.nrows(), exact.ncols()) != core.matrix.shape:
                continue  # pruned; the description of all Jacobians below covers it
            for i in range(exact.nrows()):
                for j in range(exact.ncols()):
                    miss = abs(exact[i, j] - rational(float(core.matrix[i, j])))
                    assert miss <= rational(float(core.radius[i, j])), (i, j)
        plain = core.radius <= 1e-12 * core.matrix.abs().max()
        assert bool(plain.all()) or any(isinstance(op, Scale) for node in graph.nodes for op, _ in terms(node))


def terms(node: Node) -> tuple[tuple[object, Node], ...]:
    return node.terms if isinstance(node, Affine) else ()


def test_neurons_and_inputs_without_influence_are_left_out() -> None:
    """The second hidden neuron is not read, the last input is not looked at."""
    x = Input((3,))
    first = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 0.0]]).double()
    hidden = Elementwise(activation("relu"), Affine(((Dense(first), x),)))
    graph = Graph(Affine(((Dense(torch.tensor([[3.0, 0.0]]).double()), hidden),)))
    core = sdp_core(graph, slopes_of(graph, 10.0))
    assert (core.outputs, core.neurons, core.inputs, core.blocks) == (1, 1, 2, (1,))
    assert torch.allclose(core.matrix, torch.tensor([[1.5, 3.0, 1.5], [1.0, 2.0, 0.0]]).double(), rtol=1e-14, atol=0)
    assert float(core.radius.max()) < 1e-14


def test_middle_slopes_cover_the_range_and_keep_known_ones_exact() -> None:
    lower = torch.tensor([0.0, 1.0, -0.1, 0.3, 0.1, -math.inf, math.nan], dtype=torch.float64)
    upper = torch.tensor([1.0, 1.0, 1.1, 0.3, 0.7, 1.0, 1.0], dtype=torch.float64)
    middle, half = middle_slopes(Interval(lower, upper))
    for m, r, a, c in zip(*(rationals(x[:5]) for x in (middle, half, lower, upper)), strict=True):
        assert m - r <= a and m + r >= c
    assert half[1] == half[3] == 0 and middle[3] == 0.3
    assert half[5] == half[6] == math.inf


def test_unbounded_slopes_give_an_infinite_radius() -> None:
    x = Input((1,))
    graph = Graph(Affine(((Dense(torch.ones(1, 1).double()), Elementwise(activation("relu"), x)),)))
    slopes = {node: Interval(torch.zeros(1).double(), torch.full((1,), math.inf).double()) for node in graph.nodes[1:2]}
    assert not sdp_core(graph, slopes).is_finite


def test_a_node_of_another_kind_is_refused() -> None:
    class Other:
        shape, name, sources = (1,), "strange", ()

    x = Input((1,))
    graph = Graph(Affine(((Dense(torch.ones(1, 1).double()), x),)))
    vars(graph)["nodes"] = (x, Other())
    vars(graph)["output"] = graph.nodes[1]
    with pytest.raises(UnsupportedOpError, match="strange"):
        sdp_core(graph, {})


def test_many_stable_neurons_leave_a_small_core() -> None:
    generator = Generator().manual_seed(0)
    x = Input((4,))
    weights = [torch.randn(30, 4, generator=generator).double(), torch.randn(2, 30, generator=generator).double()]
    hidden = Elementwise(activation("relu"), Affine(((Dense(weights[0]), x),), torch.linspace(-3, 3, 30).double()))
    graph = Graph(Affine(((Dense(weights[1]), hidden),)))
    (domain,), _ = Ball(torch.zeros(4).double(), 0.2).domains(graph)
    slopes = derivative_ranges(graph, CROWN().ranges(graph, domain, Budget()))
    unstable = int((slopes[hidden].lower != slopes[hidden].upper).sum())
    assert 0 < unstable < 20 and sdp_core(graph, slopes).neurons == unstable
