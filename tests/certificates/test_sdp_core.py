"""The core with middle slopes: recomputed without rounding, and as a description of every Jacobian of a region."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from certificate_cases import slopes_of
from exact import random_floats, rational, rational_matrix, rationals
from jacobound import CROWN, Ball, Budget, Graph, UnsupportedOpError
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.certificates.dense.matrices import SdpCore, _Backwards, _scaled, middle_slopes, sdp_core
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.method import derivative_ranges
from jacobound.operators.kinds import Dense, Scale
from zoo import KINDS, concatenation


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


def jacobian_of(core: SdpCore, d: Tensor) -> Tensor:
    """``R + S (1 - D Q)^-1 D P``: what the core says of the Jacobian for one choice of slopes."""
    q, n = core.outputs, core.inputs
    upper, lower = core.matrix[:q], core.matrix[q:]
    inner = torch.eye(core.neurons, dtype=torch.float64) - d.unsqueeze(1) * lower[:, n:]
    return upper[:, :n] + upper[:, n:] @ torch.linalg.solve(inner, d.unsqueeze(1) * lower[:, :n])


def by_chain_rule(graph: Graph, slopes: Mapping[Node, Tensor]) -> Tensor:
    count = size(graph.input)
    tangent: dict[Node, Tensor] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            tangent[node] = torch.eye(count, dtype=torch.float64).reshape(count, *node.shape)
        elif isinstance(node, Affine):
            tangent[node] = sum(operator.apply(tangent[source]) for operator, source in node.terms)  # type: ignore[assignment]
        else:
            assert isinstance(node, Elementwise)
            tangent[node] = slopes[node] * tangent[node.source]
    return tangent[graph.output].flatten(1).T


def drawn(slopes: Mapping[Node, Interval], generator: Generator) -> tuple[dict[Node, Tensor], Tensor]:
    """Slopes anywhere in their ranges, and the numbers d of the unstable ones in topological order."""
    chosen, numbers = {}, []
    for node, slope in slopes.items():
        middle, half = middle_slopes(slope.map(torch.flatten))
        d = 2 * torch.rand(len(half), generator=generator, dtype=torch.float64) - 1
        d = torch.where(torch.rand(len(half), generator=generator) < 0.5, d.sign(), d)
        chosen[node] = (middle + half * d).reshape(slope.shape)
        numbers.append(d[half != 0])
    return chosen, torch.cat(numbers) if numbers else torch.zeros(0).double()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("batch_norm", "convolution")])
def test_core_gives_every_jacobian_of_the_region(kind: str, seed: int) -> None:
    """Also transposed, row by row, and without what has no influence."""
    generator = Generator().manual_seed(seed)
    for _ in range(4):
        graph = KINDS[kind](generator).with_rows(None)
        slopes = slopes_of(graph, 0.5, seed)
        whole = _Backwards(graph, slopes).build()
        pruned = sdp_core(graph, slopes)
        for _ in range(3):
            chosen, d = drawn(slopes, generator)
            truth = by_chain_rule(graph, chosen)
            size_of = 1e-10 * (1 + float(truth.abs().max()))
            assert float((jacobian_of(whole, d) - truth).abs().max()) <= size_of
            turned = whole.transposed()
            assert float((jacobian_of(turned, d.flip(0)) - truth.T).abs().max()) <= size_of
            lower = turned.matrix[turned.outputs :, turned.inputs :]
            assert float(lower.triu().abs().max() if lower.numel() else 0.0) == 0.0
            if pruned.neurons == whole.neurons and pruned.inputs == whole.inputs:
                row = pruned.rows(torch.tensor([truth.shape[0] - 1]))
                if row.neurons == whole.neurons and row.inputs == whole.inputs:
                    assert float((jacobian_of(row, d) - truth[-1:]).abs().max()) <= size_of


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


def test_products_and_sums_of_rows_pay_their_rounding(generator: Generator) -> None:
    """One product with a slope, and one sum at a node with two readers, each without any other rounding near it."""
    rows, more = (random_floats((3, 4), torch.float64, generator, (-3, 3)) for _ in range(2))
    factor = torch.tensor([0.1, -0.7, 1.0, 0.0], dtype=torch.float64)
    product, radius = _scaled(rows, torch.zeros_like(rows), factor)
    for x, f, y, r in zip(*(rationals(e) for e in (rows, factor.expand(3, 4), product, radius)), strict=True):
        assert abs(x * f - y) <= r
    assert float(radius.max()) < 1e-13 and bool((radius[:, 2:] == 0).all()) and not bool(product[:, 3].any())
    x = Input((4,))
    sweep = _Backwards(Graph(Affine(((Dense(torch.ones(1, 4, dtype=torch.float64)), x),))), {})
    sweep._add(x, rows, torch.zeros_like(rows))
    sweep._add(x, more[:2], torch.zeros_like(more[:2]))
    total, radius = sweep._at[x]
    padded = torch.cat((more[:2], torch.zeros(1, 4, dtype=torch.float64)))
    for a, b, y, r in zip(*(rationals(e) for e in (rows, padded, total, radius)), strict=True):
        assert abs(a + b - y) <= r
