"""Lipschitz constants from enclosures: merged sums, split products, norms of operators, against enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import ball, outside, random_floats, rationals
from jacobound import CROWN, Ball, Budget, FastLip, Graph, RecurJac, from_layers
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import strict
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian.recursion import directions, recursion, reversal
from jacobound.jacobian.recursion.product_lines import chord
from jacobound.jacobian.recursion.recursion import MOST_ROWS
from jacobound.method import JacobianEnclosure, Query
from jacobound.method import from_entries as constants
from jacobound.operators.convolution import Convolution
from jacobound.operators.kinds import Dense, Scale, Select
from jacobound.operators.norms import norms_of_rows, operator_norm
from oracles import NORMS, autodiff, dot
from single import enclosure_of, lifted, nth, single
from zoo import KINDS, normal

from_entries, split_products, norms_before = map(
    single, (constants.from_entries, constants.split_products, constants.norms_before)
)
merged_row_sums, merged_column_sums = map(single, (constants.merged_row_sums, constants.merged_column_sums))
sums_across = single(recursion.sums_across)
recur, forward, forward_shifted, both = map(
    single, (recursion.recur, reversal.forward, reversal.forward_shifted, directions.both)
)


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


@pytest.mark.slow
def test_merged_sums_hold_over_random_networks() -> None:
    for kind, seed in itertools.product(("mlp", "residual", "several_consumers"), range(3)):
        generator = Generator().manual_seed(seed)
        graph = KINDS[kind](generator).with_rows(None)
        centre = torch.randn(graph.in_shape, generator=generator, dtype=torch.float64)
        region = Ball(centre, 0.2)
        (domain,), _ = region.domains(graph)
        sample = domain.sample(60, generator)[0]
        attained = autodiff(graph, sample).abs().sum(2).amax(0)
        for method in (FastLip(), RecurJac("constant"), RecurJac("chord")):
            merged = merged_row_sums(enclosure_of(method, graph, region))
            assert bool((attained <= merged * (1 + 1e-10) + 1e-12).all())


def chain(widths: tuple[int, ...], seed: int, known: float) -> tuple[Graph, dict[Node, Interval], list[Tensor]]:
    """A layered network, slopes of its activations (a part of them known), and its weights."""
    generator = Generator().manual_seed(seed)
    weights = [normal((b, a), generator, 1 / math.sqrt(a)) for a, b in itertools.pairwise(widths)]
    graph = from_layers(weights).with_rows(None)
    slopes: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            low = torch.where(torch.rand(node.shape, generator=generator) < known, 1.0, 0.25).double()
            slopes[node] = Interval(low, torch.ones_like(low))
    return graph, slopes, weights


def jacobians_at_corners(weights: list[Tensor], slopes: dict[Node, Interval], ends: int = 12) -> Tensor:
    """Jacobians for all choices of end slopes; sums of absolute values are convex in each slope, so these suffice."""
    low = torch.cat([slope.lower for slope in slopes.values()])
    free = (low != 1).nonzero().squeeze(1)
    assert 1 <= len(free) <= ends
    patterns = low.new_ones(2 ** len(free), len(low))
    patterns[:, free] = torch.tensor(list(itertools.product((0.25, 1.0), repeat=len(free)))).double()
    matrix, start = weights[0].expand(len(patterns), -1, -1), 0
    for weight in weights[1:]:
        matrix = weight @ (patterns[:, start : start + weight.shape[1]].unsqueeze(2) * matrix)
        start += weight.shape[1]
    return matrix


RUNS = (recur, forward, forward_shifted, both)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_merged_sums_hold_in_every_row_and_column_of_every_direction(run: Callable[..., JacobianEnclosure]) -> None:
    """Against enumeration. The published forward versions repeat the first row's bound for all rows."""
    worst = []
    for seed in range(6):
        graph, slopes, weights = chain((4, 5, 5, 5, 3), seed, 0.5)
        corners_ = jacobians_at_corners(weights, slopes)
        found = run(graph, slopes, {}, chord, Budget())
        for sums, plain, true in (
            (merged_row_sums(found), found.entries.magnitude().sum(1), corners_.abs().sum(2).amax(0)),
            (merged_column_sums(found), found.entries.magnitude().sum(0), corners_.abs().sum(1).amax(0)),
        ):
            assert bool((true <= sums * (1 + 1e-13)).all()), (seed, true, sums)
            assert bool((sums <= plain * (1 + 1e-13)).all())
            worst.append(float((sums / true).max()))
    assert sum(worst) / len(worst) <= (1.65 if run is forward_shifted else 1.2)


def test_the_published_forward_row_sums_would_be_wrong() -> None:
    """What the row sums of several outputs are if the first row's bound is repeated: below attained values."""
    graph, slopes, weights = chain((4, 5, 5, 5, 3), 1, 0.5)
    attained = jacobians_at_corners(weights, slopes).abs().sum(2).amax(0)
    for run in (forward, forward_shifted):
        rows = merged_row_sums(run(graph, slopes, {}, chord, Budget()))
        assert bool((rows >= attained).all())
        assert bool((rows[0] < attained).any())


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_merged_columns_gain_where_outputs_share_neurons(run: Callable[..., JacobianEnclosure]) -> None:
    gains = []
    for seed in range(4):
        graph, slopes, _ = chain((4, 6, 6, 6), seed, 0.4)
        found = run(graph, slopes, {}, chord, Budget())
        plain, merged = vector_norm_upper(found.entries.magnitude(), 1, dim=-2), merged_column_sums(found)
        assert bool((merged <= plain).all())
        gains.append(float(plain.max() / merged.max()))
        for p in (1.0, 2.0):
            wanted = float(vector_norm_upper(merged, math.inf if p == 1 else 2))
            assert float(from_entries(found, p, 1)) <= wanted
    assert max(gains) >= 1.02


def test_columns_with_one_direction_share_a_row_and_few_rows_are_formed() -> None:
    graph, slopes, _ = chain((30, 6, 6, 5), 2, 0.5)
    entries = recur(graph, slopes, {}, chord, Budget()).entries
    asked = []

    def bound(merged: Graph, own: Mapping[Node, Interval]) -> Interval:
        asked.append(merged.out_shape[0])
        return recursion.recur(merged, own, {}, chord, Budget()).entries

    u = torch.tensor([1.0, -1.0, 0.0, 1.0, 1.0]).double().unsqueeze(1).repeat(1, 30)
    u[:, ::2] *= -1
    u[:, 7] = torch.tensor([0.0, 0.0, 0.0, -1.0, 0.0])  # one term: nothing to merge
    found = sums_across(graph, slopes, entries, u, bound, Budget())
    plain = interval_dot(u.T, entries.map(torch.t))
    assert asked == [1]
    assert bool((found.lower >= plain.lower).all() & (found.upper <= plain.upper).all())
    assert bool((found.upper < plain.upper).any())
    assert float(found.upper[7]) == float(plain.upper[7])
    u = normal((5, 30), Generator().manual_seed(0))
    sums_across(graph, slopes, entries, u, bound, Budget())
    assert asked[1:] == [MOST_ROWS]
    late = sums_across(graph, slopes, entries, u, bound, Budget(seconds=0.0, started=-1e9))
    assert len(asked) == 2 and torch.equal(late.upper, interval_dot(u.T, entries.map(torch.t)).upper)


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
            found = float(operator_norm(operator, p) if kept is None else norms_of_rows(operator, p, lifted(kept)))
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
        enclosure = nth(RecurJac().enclose(Query(graph, domain, Budget())))
        sample = domain.sample(20, generator)[0]
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
        enclosure = nth(RecurJac(preactivation=CROWN()).enclose(Query(graph, domain, Budget())))
        split = split_products(graph, enclosure, 2, 2)
        product = float(norms_before(graph, enclosure.slopes, 2)[graph.output])
    places = [f"derivative behind layer{k}.activation, product of norms before" for k in (1, 2, 3)]
    assert list(split) == ["product of norms", *places]
    assert float(split["product of norms"]) == product
    plain = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights)
    assert product == pytest.approx(plain, rel=1e-6)
    assert min(float(value) for value in split.values()) < float(from_entries(enclosure, 2, 2))
    attained = max(float(torch.linalg.matrix_norm(j, 2)) for j in autodiff(graph, domain.sample(50, generator)[0]))
    assert all(float(value) >= attained for value in (*split.values(), product))


def test_dead_neurons_do_not_count_in_products() -> None:
    graph = from_layers([[[1.0], [1000.0]], [[1.0, 1.0]]], [[0.0, -1e6], None])
    slopes = enclosure_of(RecurJac(), graph, Ball([0.5], 0.1)).slopes
    assert float(norms_before(graph, slopes, math.inf)[graph.output]) == pytest.approx(2.0)


@pytest.mark.parametrize("narrow", [None, "low", "high"])
@pytest.mark.parametrize("columns", [1, 3])
def test_merged_sums_hold_at_the_ends_of_the_entries(columns: int, narrow: str | None) -> None:
    """The sums with weights are known exactly, for a matrix of ends: only signs and offsets must be right there."""
    generator = Generator().manual_seed(columns)
    ends = random_floats((2, 200, columns), torch.float64, generator, (-4, 4)).sort(0).values
    if narrow:  # one end close to zero, so that the offset is far below what is rounded to get it
        ends = torch.stack((-ends[0].abs() * 2.0**-30, ends[1].abs()))
        ends = ends if narrow == "low" else -ends.flip(0)
    for matrix in (ends[0], ends[1], torch.where(torch.rand(ends[0].shape, generator=generator) < 0.5, *ends)):

        def signed(u: Tensor, matrix: Tensor = matrix) -> Interval:
            exact = [dot(rationals(a), rationals(b)) for a, b in zip(u[0], matrix, strict=True)]
            nearest = torch.tensor([float(ball(value).mid()) for value in exact], dtype=torch.float64)
            return lifted(Interval.outward(nearest, nearest))

        enclosure = JacobianEnclosure(lifted(Interval(ends[0], ends[1])), signed, {}, {}, {})
        found = constants.merged_row_sums(enclosure)[0]
        exact = [sum(map(abs, rationals(row)), fmpq(0)) for row in matrix]
        assert outside(torch.zeros_like(found), exact, found) == []


def test_the_published_choice_counts_row_by_row() -> None:
    """Where only the sums with signs are known well, uncertain entries of one row do not count in another."""
    ends = torch.tensor([[[1.0, -1.0], [-2.0, -2.0]], [[1.0, 0.5], [2.0, 1.0]]]).double()
    entries = Interval(ends[0], ends[1])

    def signed(u: Tensor) -> Interval:
        signs = ((u == 0) | (u.abs() == 1)).all()
        top = torch.tensor([0.25, 0.0]).double() if signs else torch.full((2,), 100.0).double()
        return lifted(Interval(-top, top))

    enclosure = JacobianEnclosure(lifted(entries), signed, {}, {}, {})
    assert torch.allclose(constants.merged_row_sums(enclosure)[0], torch.tensor([1.25, 4.0]).double())


@pytest.mark.parametrize(("p", "q"), NORMS)
def test_constants_of_several_sets_are_those_of_each(p: float, q: float) -> None:
    entries = [random_interval(3, 4, seed) for seed in range(3)]
    both = Interval(*(torch.stack([getattr(one, end) for one in entries]) for end in ("lower", "upper")))
    together = constants.from_entries(JacobianEnclosure(both, lambda u: interval_dot(u, both), {}, {}, {}), p, q)
    alone = [float(from_entries(knowing(one), p, q)) for one in entries]
    assert together.tolist() == alone


@pytest.mark.parametrize("end", [0, 1])
def test_split_products_count_both_ends_of_the_derivative_behind(end: int) -> None:
    x = Input((1,))
    hidden = Elementwise(activation("relu"), Affine(((Dense(torch.tensor([[3.0]]).double()), x),)))
    graph = Graph(Affine(((Dense(torch.ones(1, 1).double()), hidden),)))
    one = torch.ones(1, 1, 1).double()
    behind = Interval(-5 * one, one) if end == 0 else Interval(-one, 5 * one)
    slopes = {hidden: Interval(one[0] * 0.25, one[0] * 0.5)}
    adjoints = dict.fromkeys(graph.nodes, behind)
    enclosure = JacobianEnclosure(behind, lambda u: interval_dot(u, behind), adjoints, slopes, {})
    found = constants.split_products(graph, enclosure, 2, 2)
    before = {x: 1.0, hidden.source: 3.0, hidden: 1.5}
    for node in graph.crossings:
        value = float(found[f"derivative behind {node.name}, product of norms before"])
        assert 5 * before[node] <= value <= 5 * before[node] * (1 + 1e-12)
    assert 1.5 <= float(found["product of norms"]) <= 1.5 * (1 + 1e-12)
