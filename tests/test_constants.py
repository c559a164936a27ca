"""Lipschitz constants from enclosures: merged sums, split products, norms of operators, against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from jacobound import CROWN, Ball, FastLip, RecurJac, from_layers
from jacobound.convolution import Convolution
from jacobound.graph import Elementwise, Graph
from jacobound.intervals import Interval, interval_dot
from jacobound.methods.base import Budget, JacobianEnclosure
from jacobound.methods.constants import (
    from_entries,
    merged_row_sums,
    norms_before,
    operator_norm,
    split_products,
)
from jacobound.operator_kinds import Dense, Scale, Select
from jacobound.rounding import strict
from oracles import NORMS, autodiff
from zoo import KINDS, normal


def random_interval(rows: int, columns: int, seed: int) -> Interval:
    ends = normal((2, rows, columns), Generator().manual_seed(seed))
    return Interval(ends.amin(0), ends.amax(0))


def knowing(entries: Interval) -> JacobianEnclosure:
    """An enclosure that knows entries alone: every matrix between the ends is possible."""
    return JacobianEnclosure(entries, lambda u: interval_dot(u, entries), {}, {}, {})


def corners(entries: Interval) -> list[Tensor]:
    low, high = entries.lower.flatten().tolist(), entries.upper.flatten().tolist()
    return [torch.tensor(c).double().reshape(entries.shape) for c in itertools.product(*zip(low, high, strict=True))]


def true_norm(matrix: Tensor, p: float, q: float) -> float:
    """Operator norm of a small matrix; for the three hard pairs the largest value over the corners of the ball."""
    if p == 1:
        return float(torch.linalg.vector_norm(matrix, ord=q, dim=0).max())
    if q == math.inf:
        return float(torch.linalg.vector_norm(matrix, ord=2 if p == 2 else 1, dim=1).max())
    if p == q == 2:
        return float(torch.linalg.matrix_norm(matrix, 2))
    if p == math.inf:
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=matrix.shape[1]))).double().T
        return float(torch.linalg.vector_norm(matrix @ signs, ord=q, dim=0).max())
    return true_norm(matrix.T, math.inf, 2)  # (2, 1) is the dual of (inf, 2)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_constants_from_entries_hold_for_every_matrix_between_the_ends(norm: tuple[float, float]) -> None:
    for seed in range(6):
        entries = random_interval(2, 3, seed)
        found = float(from_entries(knowing(entries), *norm))
        largest = max(true_norm(matrix, *norm) for matrix in corners(entries))
        assert largest <= found * (1 + 1e-12)
        assert found <= largest * 1.5


def test_merged_sums_of_bare_entries_are_the_row_sums() -> None:
    for seed in range(4):
        entries = random_interval(3, 4, seed)
        merged = merged_row_sums(knowing(entries))
        assert torch.allclose(merged, entries.magnitude().sum(1), rtol=1e-12)


def test_merged_sums_are_sound_and_better_when_directions_are_known() -> None:
    """All Jacobians are t v for t in [-1, 3]: entries know less than directions."""
    v = torch.tensor([[2.0, -1.0, 0.5, 1.0]], dtype=torch.float64)
    ends = torch.stack((-v, 3 * v))
    entries = Interval(ends.amin(0), ends.amax(0))

    def along(u: Tensor) -> Interval:
        image = (u * v).sum(1)
        ends = torch.stack((-image, 3 * image))
        return Interval(ends.amin(0) - 1e-12, ends.amax(0) + 1e-12)

    tangled = JacobianEnclosure(
        Interval(entries.lower - 1.0, entries.upper + 1.0), along, {}, {}, {}
    )  # the entries are loose by one on each side
    true = 3 * float(v.abs().sum())
    merged = float(merged_row_sums(tangled))
    assert true <= merged < float(tangled.entries.magnitude().sum())


def test_merged_sums_hold_over_random_networks() -> None:
    for kind, seed in itertools.product(("mlp", "residual", "several_consumers"), range(3)):
        generator = Generator().manual_seed(seed)
        graph = KINDS[kind](generator).with_rows(None)
        centre = torch.randn(graph.in_shape, generator=generator, dtype=torch.float64)
        region = Ball(centre, 0.2)
        (domain,), _ = region.domains(graph)
        sample = domain.sample(60, generator)
        attained = autodiff(graph, sample).abs().sum(2).amax(0)
        for method in (FastLip(), RecurJac("constant"), RecurJac("chord")):
            merged = merged_row_sums(method.enclose(graph, domain, Budget()))
            assert bool((attained <= merged * (1 + 1e-10) + 1e-12).all())


@pytest.mark.parametrize("p", (1.0, 2.0, math.inf))
def test_operator_norms_are_upper_bounds_and_close(p: float) -> None:
    generator = Generator().manual_seed(0)
    like = torch.zeros((), dtype=torch.float64)
    operators = [
        Dense(normal((4, 6), generator)),
        Convolution(normal((2, 2, 3), generator), (2, 5), (2,), (1,), (1,)),
        Scale(normal((5,), generator)),
        Select(torch.tensor([0, 0, 2, -1]), (3,), like),
    ]
    for operator in operators:
        for kept in (None, torch.arange(operator.out_size).reshape(operator.out_shape) % 2 == 0):
            matrix = operator.materialise()
            matrix = matrix if kept is None else matrix[kept.flatten()]
            true = float(torch.linalg.matrix_norm(matrix, p))
            found = float(operator_norm(operator, p, kept))
            assert true <= found * (1 + 1e-12)
            assert found <= true * (1 + 1e-6) or (p == 2 and operator.terms <= 1 and found <= 2 * true)


def test_the_norm_of_an_uncertain_scale_covers_its_radius() -> None:
    scale = Scale(torch.tensor([1.0, -2.0]).double(), torch.tensor([0.5, 0.25]).double())
    for p in (1.0, 2.0, math.inf):
        assert float(operator_norm(scale, p)) >= 2.25


def test_crossings_are_the_nodes_that_all_paths_use() -> None:
    generator = Generator().manual_seed(1)
    chain = from_layers([normal((3, 2), generator), normal((3, 3), generator), normal((1, 3), generator)])
    assert chain.crossings == tuple(node for node in chain.nodes if isinstance(node, Elementwise))
    skip = KINDS["input_skip"](generator)
    hidden = [node for node in skip.nodes if isinstance(node, Elementwise)]
    assert skip.crossings == tuple(hidden[1:])  # the input passes beside the first one
    assert KINDS["dense_connections"](generator).crossings == ()
    several = KINDS["several_consumers"](generator)
    assert several.crossings == (several.nodes[-2],)


@pytest.mark.parametrize("kind", ("mlp", "residual", "input_skip", "node_used_twice", "elementwise_input"))
@pytest.mark.parametrize("p", (1.0, 2.0, math.inf))
def test_norms_before_bound_the_derivative_of_every_node(kind: str, p: float) -> None:
    for seed in range(4):
        generator = Generator().manual_seed(seed)
        graph = KINDS[kind](generator)
        (domain,), _ = Ball(torch.zeros(graph.in_shape), 0.5).domains(graph)
        enclosure = RecurJac().enclose(graph, domain, Budget())
        sample = domain.sample(20, generator)
        before = norms_before(graph, enclosure.slopes, p)
        for node in graph.nodes[1:]:
            steepest = max(float(torch.linalg.matrix_norm(j, p)) for j in autodiff(Graph(node), sample))
            # Rows that the next activation can not pass on are left out on purpose, so only crossings are bounds.
            if node in graph.crossings or node is graph.output:
                assert steepest <= float(before[node]) * (1 + 1e-12)


def test_split_products_beat_entries_at_large_radii() -> None:
    generator = Generator().manual_seed(3)
    widths = (20, 15, 15, 15, 2)
    weights = [normal((b, a), generator, 1.5 / math.sqrt(a)) for a, b in itertools.pairwise(widths)]
    graph = from_layers(weights)
    (domain,), _ = Ball(torch.zeros(20), 3.0, 2).domains(graph)
    with strict(graph.device, graph.dtype):
        enclosure = RecurJac(preactivation=CROWN()).enclose(graph, domain, Budget())
        split = split_products(graph, enclosure, 2, 2)
        product = float(norms_before(graph, enclosure.slopes, 2)[graph.output])
    places = [f"derivative behind layer{k}.activation, product of norms before" for k in (1, 2, 3)]
    assert list(split) == ["product of norms", *places]
    assert float(split["product of norms"]) == product
    plain = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights)
    assert product == pytest.approx(plain, rel=1e-6)
    assert min(float(value) for value in split.values()) < float(from_entries(enclosure, 2, 2))
    attained = max(float(torch.linalg.matrix_norm(j, 2)) for j in autodiff(graph, domain.sample(50, generator)))
    assert all(float(value) >= attained for value in (*split.values(), product))


def test_dead_neurons_do_not_count_in_products() -> None:
    graph = from_layers([[[1.0], [1000.0]], [[1.0, 1.0]]], [[0.0, -1e6], None])
    (domain,), _ = Ball([0.5], 0.1).domains(graph)
    slopes = RecurJac().enclose(graph, domain, Budget()).slopes
    assert float(norms_before(graph, slopes, math.inf)[graph.output]) == pytest.approx(2.0)
