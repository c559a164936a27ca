"""Vector nodes: expansion is exact, bounds are sound, and what is decided costs nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

import jacobound as jb
from jacobound import (
    CROWN,
    IBP,
    Ball,
    Box,
    FastLip,
    Graph,
    RecurJac,
    ShapeError,
    bound_jacobian,
    bound_output,
    lipschitz,
)
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector, VectorFunction
from jacobound.graph.vector.comparisons import DOUBLE, Maximum, Sort, sorting_network
from jacobound.operators.kinds import Convolution, Dense, Identity, Scale, Scatter, Select, Sparse, with_shapes
from zoo import dense, integer, normal

seeds = st.integers(0, 2**30)
some = settings(max_examples=max(1, settings().max_examples // 5))


def random_maximum(generator: Generator, inputs: int = 9) -> Maximum:
    """Windows with absent and repeated candidates."""
    windows = torch.randint(0, inputs, (integer(1, 7, generator), 2, 3), generator=generator)
    windows[1:][torch.rand(windows[1:].shape, generator=generator) < 0.3] = -1
    order = torch.randperm(len(windows), generator=generator)
    return Maximum(windows[order], (inputs,))


def largest(x: Tensor, function: Maximum) -> Tensor:
    """One entry after the other, from a list."""
    rows = [
        [max(point[place] for place in window if place >= 0) for window in function.windows.flatten(1).T.tolist()]
        for point in x.tolist()
    ]
    return torch.tensor(rows, dtype=x.dtype).reshape(len(x), *function.out_shape)


def over(function: VectorFunction) -> Graph:
    return Graph(Vector(function, Input(function.in_shape), "vector"))


# --- the functions and their expansion -----------------------------------------------------------------------------


@pytest.mark.slow
@given(seed=seeds)
def test_the_maximum_and_its_expansion(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    function = random_maximum(generator)
    graph = over(function)
    x = torch.randint(-5, 6, (4, 9), generator=generator).double()  # differences of small integers are exact
    expected = largest(x, function)
    assert torch.equal(graph(x), expected)
    assert torch.equal(graph.expanded()(x), expected)
    assert torch.equal(graph(x.reshape(2, 2, 9)), expected.reshape(2, 2, *graph.out_shape))


@given(seed=seeds)
def test_sorting_and_its_expansion(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    graph = over(Sort((integer(1, 3, generator), integer(1, 9, generator))))
    x = torch.randint(-5, 6, (3, *graph.in_shape), generator=generator).double()
    assert torch.equal(graph(x), x.sort(-1).values)
    assert torch.equal(graph.expanded()(x), x.sort(-1).values)


@pytest.mark.parametrize("length", range(1, 13))
def test_the_network_sorts_whatever_consists_of_zeros_and_ones(length: int) -> None:
    """By the 0-1 principle it then sorts everything."""
    x = torch.tensor(list(itertools.product((0, 1), repeat=length)))
    for comparators in sorting_network(length):
        places = [place for pair in comparators for place in pair]
        assert len(set(places)) == len(places) and all(low < high for low, high in comparators)
        for low, high in comparators:
            x[:, [low, high]] = x[:, [low, high]].sort(1).values
    assert torch.equal(x, x.sort(1).values)


def test_comparisons_are_not_made_twice() -> None:
    """k entries need k - 1 comparisons; windows that share a pair share its neuron; absent ones cost nothing."""

    def neurons(windows: list[list[int]]) -> int:
        graph = over(Maximum(torch.tensor(windows).T, (8,))).expanded()
        return sum(node.shape[0] for node in graph.nodes if isinstance(node, Elementwise))

    assert neurons([list(range(8))]) == 7
    assert neurons([[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7]]) == 4 + 3
    assert neurons([[3, -1, -1], [-1, 2, -1], [0, 0, 0]]) == 0
    assert neurons([[0, 1, -1], [0, 1, 2], [-1, 1, 0]]) <= 3
    assert sum(len(comparators) for comparators in sorting_network(2)) == 1


def test_vector_functions_that_make_no_sense() -> None:
    with pytest.raises(ShapeError, match="outside"):
        Maximum(torch.tensor([[3]]), (3,))
    with pytest.raises(ShapeError, match="no entry at all"):
        Maximum(torch.tensor([[0, -1], [1, -1]]), (3,))
    with pytest.raises(ShapeError, match="candidates"):
        Maximum(torch.zeros(0, 2, dtype=torch.int64), (3,))
    with pytest.raises(ShapeError, match="nothing to sort"):
        Sort((2, 0))
    with pytest.raises(ShapeError, match="sort of 3 takes"):
        Vector(Sort((3,)), Input((4,)), "pool")


# --- graphs --------------------------------------------------------------------------------------------------------


def pooled(generator: Generator, width: int = 8) -> Graph:
    """A layer, maxima over its entries, a group-sort, and two outputs."""
    z = dense(Input((3,)), width, generator, "z")
    windows = torch.randint(0, width, (3, 4), generator=generator)
    node: Node = Vector(Maximum(windows, (width,)), z, "pool")
    groups = Affine(((Identity((4,), (2, 2), DOUBLE), node),), None, "groups")
    ordered = Vector(Sort((2, 2)), groups, "sort")
    flat = Affine(((Identity((2, 2), (4,), DOUBLE), ordered),), None, "flat")
    return Graph(dense(Elementwise(activation("relu"), flat, "relu"), 2, generator, "out"))


def test_a_graph_is_expanded_once_and_only_if_needed(generator: Generator) -> None:
    graph = pooled(generator)
    plain = graph.expanded()
    assert graph.expanded() is plain and plain.expanded() is plain
    assert not any(isinstance(node, Vector) for node in plain.nodes)
    assert {node.name for node in graph.nodes} <= {node.name for node in plain.nodes}
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    assert torch.allclose(plain(x), graph(x), rtol=0, atol=1e-13)
    unchanged = Graph(dense(Input((2,)), 2, generator))
    assert unchanged.expanded() is unchanged


def test_the_table_and_the_fingerprint_know_vector_nodes(generator: Generator) -> None:
    graph = pooled(generator)
    rows = {row["name"]: row for row in graph.table()}
    assert (rows["pool"]["kind"], rows["pool"]["detail"]) == ("Vector", "maximum of 3")
    assert rows["sort"]["detail"] == "sort of 2"
    functions = [
        Maximum(torch.tensor([[0, 1], [2, 3]]), (4,)),
        Maximum(torch.tensor([[0, 1], [2, 2]]), (4,)),
        Maximum(torch.tensor([[0, 1], [2, -1]]), (4,)),
        Sort((4,)),
    ]
    assert len({over(function).fingerprint for function in functions}) == 4


def test_moving_to_another_dtype(generator: Generator) -> None:
    graph = pooled(generator)
    x = torch.randn(5, 3, generator=generator)
    for there in (graph.to(dtype=torch.float32), graph.expanded().to(dtype=torch.float32)):
        assert there(x).dtype == torch.float32
        assert torch.allclose(there(x).double(), graph(x), rtol=1e-5, atol=1e-5)
        plain = there.expanded()
        assert all(operator.example().dtype == torch.float32 for operator in operators(plain))
        assert any(node.choice is not None for node in plain.nodes if isinstance(node, Affine))
    alone = over(Sort((3,))).to(dtype=torch.float32)
    assert alone.dtype == torch.float32 and alone.expanded()(x).dtype == torch.float32


def operators(graph: Graph) -> list:
    return [operator for node in graph.nodes if isinstance(node, Affine) for operator, _ in node.terms]


def test_operators_under_other_shapes() -> None:
    """The kinds that can take or give a single number; the others refuse."""
    kinds = [
        Identity((1,), (), DOUBLE),
        Select(torch.tensor(3), (2, 2), DOUBLE),
        Scatter(Select(torch.tensor(3), (2, 2), DOUBLE)),
        Scale(torch.tensor(3.0).double(), torch.tensor(1.0).double()),
        Sparse(normal((3,), Generator()), torch.tensor([0, 3, 1]), (4,), normal((3,), Generator()).abs()),
    ]
    for operator in kinds:
        shapes = operator.in_shape or (1,), operator.out_shape or (1,)
        moved = with_shapes(operator, *shapes)
        assert (moved.in_shape, moved.out_shape) == shapes
        assert torch.equal(moved.materialise(), operator.materialise())
        assert with_shapes(moved, *shapes) is moved
        one, two = (o.uncertainty(torch.ones(o.in_shape, dtype=torch.float64)) for o in (operator, moved))
        assert (one is None) == (two is None) and (one is None or two is None or one.flatten() == two.flatten())
    kernel = Convolution(torch.ones(1, 1, 2), (1, 3), (1,), (0,), (1,))
    with pytest.raises(ShapeError, match="Convolution can not map"):
        with_shapes(kernel, (3,), (2,))


# --- entry points --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_results_are_of_the_users_graph(generator: Generator) -> None:
    graph = pooled(generator)
    region = Ball(torch.zeros(3, dtype=torch.float64), 0.5, 2)
    rows = torch.tensor([[1.0, -1.0]])
    for result in (
        bound_output(graph, region, rows=rows),
        bound_jacobian(graph, region, rows=rows),
        lipschitz(graph, region, rows=rows),
    ):
        assert result.provenance.network == graph.fingerprint
        assert result.provenance.network != graph.expanded().fingerprint
        assert result.status.certified
    assert bound_jacobian(graph, region).lower.shape == (2, 3)
    assert bound_output(Graph(Vector(Sort((2,)), graph.output, "last")), region).lower.shape == (2,)


@pytest.mark.slow
@some
@given(seed=seeds)
def test_bounds_of_outputs_and_jacobians_hold(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    graph = pooled(generator)
    centre = torch.randn(3, generator=generator, dtype=torch.float64)
    region = Ball(centre, 0.4, torch.inf)
    points = centre + 0.4 * (2 * torch.rand(40, 3, generator=generator, dtype=torch.float64) - 1)
    values = graph(points)
    jacobians = torch.stack([torch.func.jacrev(graph)(point) for point in points])
    for method in (IBP(), CROWN()):
        found = bound_output(graph, region, method)
        assert bool((found.lower <= values + 1e-12).all() and (values <= found.upper + 1e-12).all())
    for method in (FastLip(), RecurJac(), RecurJac(direction="both")):
        found = bound_jacobian(graph, region, method)
        assert bool((found.lower <= jacobians + 1e-12).all() and (jacobians <= found.upper + 1e-12).all())


def test_an_engine_rounds_nothing_when_it_compares(generator: Generator) -> None:
    """Rounded values of a float32 run of the user's graph stay inside; and maxima add no noise of their own."""
    graph = pooled(generator)
    centre = torch.randn(3, generator=generator)
    region = Ball(centre.double(), 0.3, torch.inf)
    found = bound_output(graph, region, semantics="executed")
    points = (centre + 0.3 * (2 * torch.rand(50, 3, generator=generator) - 1)).float()
    values = graph.to(dtype=torch.float32)(points).double()
    assert bool((found.lower <= values).all() and (values <= found.upper).all())
    x = Input((6,))
    exact = Graph(Vector(Maximum(torch.tensor([[0, 1, 2], [3, 4, 5]]), (6,)), x, "pool"))
    point = Ball(torch.linspace(-2.0, 2.0, 6, dtype=torch.float64), 0.0, torch.inf)
    rounded = bound_output(exact, point, IBP(), semantics="executed")
    moved = Graph(Affine(((Select(torch.tensor([3, 4, 5]), (6,), DOUBLE), x),), None, "winners"))
    expected = bound_output(moved, point, IBP(), semantics="executed")
    assert torch.equal(rounded.lower, expected.lower) and torch.equal(rounded.upper, expected.upper)


def scalar(kind: str, generator: Generator) -> Graph:
    """A number for each point, by way of nodes without axes."""
    h = Elementwise(activation("relu"), dense(Input((3,)), 4, generator, "z"), "h")
    if kind == "maximum":
        return Graph(Vector(Maximum(torch.arange(4), (4,)), h, "largest"))
    total = Affine(((Dense(normal((1, 4), generator)), h),), None, "total")
    number = Affine(((Identity((1,), (), DOUBLE), total),), normal((), generator), "number")
    part = Affine(((Select(torch.tensor(2), (4,), DOUBLE), h),), None, "part")
    scaled = Affine(((Scale(normal((), generator)), number), (Identity((), (), DOUBLE), part)), None, "scaled")
    if kind == "sum":
        return Graph(Elementwise(activation("tanh"), scaled, "tanh"))
    table = Sparse(normal((1, 2), generator), torch.tensor([[0, 0]]), ())
    pair = Affine(((table, scaled), (Select(torch.tensor([0, -1]), (), DOUBLE), number)), None, "pair")
    return Graph(dense(pair, 2, generator))


@pytest.mark.parametrize("kind", ["maximum", "sum", "spread"])
def test_nodes_without_axes(kind: str, generator: Generator) -> None:
    graph = scalar(kind, generator)
    assert all(node.shape != () for node in graph.expanded().nodes)
    centre = torch.randn(3, generator=generator, dtype=torch.float64)
    region = Ball(centre, 0.3, torch.inf)
    points = centre + 0.3 * (2 * torch.rand(30, 3, generator=generator, dtype=torch.float64) - 1)
    values = graph(points)
    jacobians = torch.stack([torch.func.jacrev(graph)(point).reshape(-1, 3) for point in points])
    found = bound_output(graph, region)
    assert found.lower.shape == graph.out_shape
    assert bool(((found.lower - 1e-12 <= values) & (values <= found.upper + 1e-12)).all())
    for method in (FastLip(), RecurJac(), RecurJac(direction="both")):
        bounds = bound_jacobian(graph, region, method)
        assert bool(((bounds.lower - 1e-12 <= jacobians) & (jacobians <= bounds.upper + 1e-12)).all())
    assert lipschitz(graph, region).status.certified
    executed = bound_output(graph, region, semantics="executed")
    assert executed.lower.shape == graph.out_shape and bool((executed.lower <= found.lower + 1e-12).all())


# --- tightness -----------------------------------------------------------------------------------------------------


def with_winners(generator: Generator) -> tuple[Graph, Graph, Ball]:
    """A network whose maxima and sorts have certain winners in a ball, and the one with the winners selected.

    The six entries to compare lie far apart, in ascending order.
    """
    inner = dense(Input((4,)), 6, generator, "z")
    level = torch.tensor([0.0, 40.0, 80.0, 120.0, 160.0, 200.0], dtype=torch.float64)
    # An activation, though stable, so that intervals must go through: what is affine in the input is no test for IBP.
    z = Elementwise(activation("relu"), Affine(inner.terms, level + 20, "z"), "h")
    windows = torch.tensor([[0, 2, 5], [4, 3, 1], [1, 2, -1], [5, 5, 0]]).T
    last = dense(Input((4,)), 3, generator)

    def network(chosen: Node) -> Graph:
        return Graph(Affine(((last.terms[0][0], chosen),), last.bias, "out"))

    pool = Vector(Maximum(windows, (6,)), z, "pool")
    ordered = Vector(Sort((2, 2)), Affine(((Identity((4,), (2, 2), DOUBLE), pool),), None, "groups"), "sort")
    flat = Affine(((Identity((2, 2), (4,), DOUBLE), ordered),), None, "flat")
    places = torch.tensor([4, 5, 2, 5])  # the winners are 5, 4, 2, 5; each pair of them is sorted
    selected = Affine(((Select(places, (6,), DOUBLE), z),), None, "winners")
    return network(flat), network(selected), Ball(normal((4,), generator), 0.5, torch.inf)


@pytest.mark.parametrize("method", [FastLip(), RecurJac(), RecurJac("constant"), FastLip(IBP())], ids=str)
def test_certain_winners_cost_nothing_in_jacobians(method: FastLip | RecurJac, generator: Generator) -> None:
    graph, winners, region = with_winners(generator)
    found, expected = bound_jacobian(graph, region, method), bound_jacobian(winners, region, method)
    assert int(found.unstable) == 0
    assert torch.allclose(found.lower, expected.lower, rtol=0, atol=1e-9)
    assert torch.allclose(found.upper, expected.upper, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", [IBP(), CROWN()], ids=str)
def test_certain_winners_cost_nothing_in_values(method: IBP | CROWN, generator: Generator) -> None:
    graph, winners, region = with_winners(generator)
    found, expected = bound_output(graph, region, method), bound_output(winners, region, method)
    assert torch.allclose(found.lower, expected.lower, rtol=0, atol=1e-9)
    assert torch.allclose(found.upper, expected.upper, rtol=0, atol=1e-9)


@pytest.mark.slow
@given(seed=seeds)
def test_interval_ranges_are_those_of_the_functions(seed: int) -> None:
    """The maximum of intervals is [max of lowers, max of uppers], through any number of rounds; sorting likewise."""
    generator = Generator().manual_seed(seed)
    ends = torch.randn(2, 9, generator=generator, dtype=torch.float64).sort(0).values
    for function in (random_maximum(generator), Sort((9,))):
        found = bound_output(over(function), Box(ends[0], ends[1]), IBP())
        assert torch.equal(found.lower, function.value(ends[0]))
        assert torch.equal(found.upper, function.value(ends[1]))


def test_interval_derivatives_of_undecided_pairs() -> None:
    """Behind a comparison stands one of its two members: [0, 1] of each, not [-1, 1], and for a sorted pair no more."""
    region = Box(-torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    for windows in ([[0, 1, 2]], [[0, 1], [1, 2]]):
        graph = over(Maximum(torch.tensor(windows).T, (3,)))
        found = bound_jacobian(graph, region, FastLip())
        used = torch.tensor([[place in window for place in range(3)] for window in windows]).double()
        assert torch.all(found.lower >= -1e-14)
        assert torch.all(found.upper <= used + 1e-14)
    both = Graph(Affine(((Dense(torch.tensor([[1.0, 1.0]]).double()), over(Sort((2,))).output),), None, "sum"))
    inside = Box(-torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    found = bound_jacobian(both, inside, FastLip())
    assert torch.allclose(found.lower, torch.ones(1, 2).double(), rtol=0, atol=1e-13)
    assert torch.allclose(found.upper, torch.ones(1, 2).double(), rtol=0, atol=1e-13)


def test_recursion_is_exact_for_one_comparison(generator: Generator) -> None:
    """max of two affine functions, undecided: the Jacobian is one of two rows, and their hull is found."""
    graph = Graph(Vector(Maximum(torch.tensor([[0], [1]]), (2,)), dense(Input((3,)), 2, generator), "max"))
    weight = graph.nodes[1].terms[0][0].materialise()  # type: ignore[union-attr]
    region = Ball(torch.zeros(3, dtype=torch.float64), 100.0, torch.inf)
    for method in (RecurJac(), FastLip()):
        found = bound_jacobian(graph, region, method)
        hull = Interval(weight.amin(0), weight.amax(0))
        slack = 0.0 if isinstance(method, RecurJac) else weight.abs().max().item()
        assert torch.all(found.lower[0] >= hull.lower - 1e-12 - slack)
        assert torch.all(found.upper[0] <= hull.upper + 1e-12 + slack)


def test_comparisons_of_dead_entries_cost_nothing() -> None:
    """Entries behind closed ReLUs are exactly 0: their comparison has an argument of 0, where ReLU has two slopes."""
    weight = torch.tensor([[1.0, 0.5], [-1.0, 0.25], [0.5, 1.0], [0.3, -1.0]], dtype=torch.float64)
    bias = torch.tensor([-9.0, -9.0, -9.0, 3.0], dtype=torch.float64)
    hidden = Elementwise(activation("relu"), Affine(((Dense(weight), Input((2,))),), bias))
    pooled = Vector(Maximum(torch.tensor([[0, 2], [1, 3]]), (4,)), hidden, "pool")
    graph = Graph(Affine(((Dense(torch.tensor([[2.0, 3.0]], dtype=torch.float64)), pooled),)))
    region = jb.Ball([0.0, 0.0], 1.0, float("inf"))
    for method in (jb.FastLip(), jb.RecurJac(), jb.RecurJac(direction="forward")):
        found = jb.bound_jacobian(graph, region, method)
        assert int(found.unstable) == 0
        assert torch.allclose(found.lower, 3 * weight[3:], rtol=1e-12) and torch.allclose(found.upper, 3 * weight[3:])
    # An engine's rounding does pass there, so the distance of an execution must not leave it out.
    run = jb.lipschitz(graph, region, search=None, semantics="executed")
    assert run.delta is not None and run.delta > 0


@pytest.mark.parametrize("method", [jb.FastLip(), jb.RecurJac()], ids=["FastLip", "RecurJac"])
def test_a_neuron_is_reached_through_any_term_of_a_sum(method: jb.FastLip | jb.RecurJac) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    x = Input((1,))
    dead = Elementwise(activation("relu"), Affine(((Dense(one), x),), torch.tensor([-9.0], dtype=torch.float64)))
    both = Affine(((Dense(one), dead), (Dense(2 * one), x)), None, "both")
    graph = Graph(Affine(((Dense(3 * one), Elementwise(activation("relu"), both)),)))
    found = jb.bound_jacobian(graph, jb.Ball([0.0], 1.0, float("inf")), method)
    assert float(found.lower) <= 0 and 6 <= float(found.upper) <= 6 * (1 + 1e-9) and int(found.unstable) == 1
