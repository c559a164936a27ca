"""Each rounding of the core and of the recursion on its own, where no margin of a neighbouring product hides it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, ball, outside, random_floats, rational, rationals
from jacobound import IBP, Box, Budget, Graph, RecurJac
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import unit, unrounded
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian import rounding_weights as defects
from jacobound.jacobian.core import UnstableCore, build_core
from jacobound.jacobian.fastlip import interval_adjoints
from jacobound.jacobian.recursion.product_lines import chord
from jacobound.jacobian.recursion.recursion import MOST_ROWS, Recursion
from jacobound.jacobian.tangents import can_differ, reached_slopes
from jacobound.method import Query
from jacobound.operators.kinds import Dense, Identity, Scale
from oracles import dot
from zoo import normal

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def fixed(*slopes: Tensor) -> Interval:
    """Known slopes of a node over several sets."""
    return Interval.exact(torch.stack(slopes))


def core_of(graph: Graph, slopes: dict[Node, Interval]) -> UnstableCore:
    weights = defects._Backwards(graph, slopes, interval_adjoints(graph, slopes, {})).run()
    core = build_core(graph, slopes, weights)
    assert core is not None
    return core


def act(source: Node) -> Elementwise:
    return Elementwise(activation("relu"), source)


def moved(source: Node, dtype: torch.dtype, *more: Node) -> Affine:
    """The sum of some nodes: nothing rounds but the sum."""
    like = torch.zeros((), dtype=dtype)
    return Affine(tuple((Identity((6,), (6,), like), node) for node in (source, *more)))


@both_dtypes
def test_products_with_slopes_and_sums_are_paid_for(dtype: torch.dtype) -> None:
    """(c b a + d) for each of six neurons on their own, in exact numbers."""
    generator = Generator().manual_seed(1)
    x = Input((6,))
    first, other = act(x), act(x)
    second = act(moved(first, dtype))
    third = act(moved(second, dtype))
    graph = Graph(moved(third, dtype, other))
    for trial in range(20):
        a, b, c, d = random_floats((4, 6), dtype, generator, (-2, 2))
        if trial % 2:  # nothing but the sum rounds
            a, b, c, d = torch.ones_like(a), torch.ones_like(b), torch.ones_like(c), d * 2.0**-10
        if trial % 4 == 2:  # some of the slopes round nothing
            b[:3], c[3:] = 1.0, 1.0
        core = core_of(graph, {first: fixed(a), second: fixed(b), third: fixed(c), other: fixed(d)})
        found, error = core.transfer[graph.output, x][0], core.error[x][0]
        parts = zip(*map(rationals, (a, b, c, d)), strict=True)
        for k, (p, q, r, s) in enumerate(parts):
            missed = abs(p * q * r + s - rational(float(found[k, k])))
            room = 60 * unit(dtype) * float(abs(p * q * r) + abs(s)) + 1e-30
            assert missed <= rational(float(error[k, k])) and float(error[k, k]) <= room


@both_dtypes
def test_doubts_of_weights_count_to_the_last_digit(dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(6)
    x = Input((6,))
    factor, radius = random_floats((2, 6), dtype, generator, (-2, 2))
    graph = Graph(Affine(((Scale(factor, radius.abs()), x),)))
    error = torch.diagonal(core_of(graph, {}).error[x][0])
    assert all(
        a <= b <= a * (1 + 40 * fmpq(*unit(dtype).as_integer_ratio()))
        for a, b in zip(rationals(radius.abs()), rationals(error), strict=True)
    )


@both_dtypes
def test_a_single_product_with_slopes_is_paid_for_beside_slopes_of_one(dtype: torch.dtype) -> None:
    """Weights are read off without rounding, so nothing else can pay for the slopes."""
    generator = Generator().manual_seed(7)
    for _ in range(10):
        a, b = random_floats((2, 6), dtype, generator, (-2, 2))
        b[0] = 1.0
        x = Input((6,))
        hidden = act(Affine(((Scale(a), x),)))
        graph = Graph(moved(hidden, dtype))
        core = core_of(graph, {hidden: fixed(b)})
        found, error = core.transfer[graph.output, x][0], core.error[x][0]
        for k, (p, q) in enumerate(zip(rationals(a), rationals(b), strict=True)):
            assert abs(p * q - rational(float(found[k, k]))) <= rational(float(error[k, k]))


def test_slopes_of_zero_and_one_cost_nothing() -> None:
    x = Input((6,))
    first = act(x)
    second = act(moved(first, torch.float64))
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0]).double()
    both = fixed(mask, mask.flip(0))  # each slope is 1 in some set
    graph = Graph(moved(second, torch.float64))
    core = core_of(graph, {first: both, second: both})
    assert torch.equal(core.transfer[graph.output, x], torch.diag_embed(both.lower))
    assert float(core.error[x].max()) <= 1e-290


@both_dtypes
@pytest.mark.parametrize("kind", ["slopes", "scales", "weights"])
def test_products_that_vanish_count_with_the_derivative_behind_them(dtype: torch.dtype, kind: str) -> None:
    small, large = (1e-200, 1e300) if dtype == torch.float64 else (1e-25, 1e38)

    def factor(value: float) -> Scale | Dense:
        full = torch.full((6,), value, dtype=dtype)
        return Dense(torch.diag(full)) if kind == "weights" else Scale(full)

    x = Input((6,))
    first = act(x) if kind == "slopes" else Affine(((factor(small), x),))
    second = act(moved(first, dtype)) if kind == "slopes" else Affine(((factor(small), first),))
    graph = Graph(Affine(((factor(large), second),)))
    value = torch.full((6,), small, dtype=dtype)
    core = core_of(graph, {first: fixed(value), second: fixed(value)} if kind == "slopes" else {})
    exact = rational(float(value[0])) ** 2 * rational(float(torch.tensor(large, dtype=dtype)))
    assert not core.transfer[graph.output, x].any()
    assert rational(float(core.error[x][0, 0, 0])) >= exact


def test_neurons_that_one_set_alone_needs_are_kept() -> None:
    generator = Generator().manual_seed(2)
    x = Input((3,))
    weights = normal((6, 3), generator), normal((2, 6), generator)
    hidden = act(Affine(((Dense(weights[0]), x),)))
    graph = Graph(Affine(((Dense(weights[1]), hidden),)))
    masks = torch.eye(6).double()[:3]
    core = core_of(graph, {hidden: fixed(*masks)})
    for found, mask in zip(core.transfer[graph.output, x], masks, strict=True):
        assert torch.allclose(found.T, weights[1] @ (mask.unsqueeze(1) * weights[0]), rtol=1e-12, atol=0)


def recursion_over(seed: int) -> Recursion:
    """Three layers of neurons with slopes of all signs over two sets."""
    generator = Generator().manual_seed(seed)
    node: Node = Input((3,))
    slopes: dict[Node, Interval] = {}
    for _ in range(3):
        node = act(Affine(((Dense(normal((5, node.shape[0]), generator)), node),)))
        ends = normal((2, 2, 5), generator).sort(0).values - 0.5
        slopes[node] = Interval(ends[0], ends[1])
    graph = Graph(Affine(((Dense(normal((2, 5), generator)), node),)))
    recursion = Recursion(core_of(graph, slopes), interval_adjoints(graph, slopes, {}), chord, Budget())
    recursion.run()
    return recursion


def test_defects_at_a_neuron_count_with_slope_times_derivative_of_any_sign(seed: int) -> None:
    recursion = recursion_over(seed)
    for block, weight in recursion._weight.items():
        slope = torch.maximum(*(end.abs() for end in vars(recursion._core.slopes[block]).values()))
        derivative = torch.maximum(*(end.abs() for end in vars(recursion._derivative[block]).values()))
        slopes = rationals(slope.unsqueeze(1).expand_as(derivative))
        exact = [r * s for r, s in zip(slopes, rationals(derivative), strict=True)]
        assert outside(torch.zeros_like(weight), exact, weight) == []
        assert torch.all(weight <= slope.unsqueeze(1) * derivative * (1 + 1e-14))


def test_a_direction_and_its_opposite_have_opposite_ranges(seed: int) -> None:
    """All of the price depends on the size of a direction alone."""
    recursion = recursion_over(seed)
    directions = normal((2, 2, 3), Generator().manual_seed(seed))
    for u in (directions, directions.abs(), -directions.abs()):
        one, other = recursion.along(u), recursion.along(-u)
        assert torch.equal(one.upper, -other.lower) and torch.equal(one.lower, -other.upper)


def test_sums_of_columns_hold_beyond_the_rows_that_are_formed() -> None:
    """Decided neurons, so that the Jacobian of each set is known; many columns, each with a direction of its own."""
    generator = Generator().manual_seed(3)
    count = 2 * MOST_ROWS + 3
    x = Input((count,))
    weights = normal((6, count), generator), normal((3, 6), generator)
    hidden = Elementwise(activation("abs"), Affine(((Dense(weights[0]), x),)))
    graph = Graph(Affine(((Dense(weights[1]), hidden),)))
    centres = normal((2, count), generator)
    assert (centres @ weights[0].T).abs().min() > 1e-3
    domain = Box(centres - 1e-7, centres + 1e-7).domains(graph)[0][:]
    enclosure = RecurJac(preactivation=IBP()).enclose(Query(graph, domain, Budget()))
    directions = normal((2, 3, count), generator)
    directions[:, 0, ::3] = 0.0  # the first weight of a column may be zero, of either sign, or the only one
    directions[:, 1:, ::9] = 0.0
    assert enclosure.across is not None
    found = enclosure.across(directions)
    for n, centre in enumerate(centres):
        signs = torch.sign(weights[0] @ centre)
        rows = [[rationals(weights[1][j]), rationals(signs)] for j in range(3)]
        exact = []
        for k in range(count):
            column = rationals(weights[0][:, k])
            entries = [dot([a * s for a, s in zip(*row, strict=True)], column) for row in rows]
            exact.append(dot(entries, rationals(directions[n, :, k])))
        assert outside(found.lower[n], exact, found.upper[n]) == []
        assert torch.all(found.width[n] < 1e-9)


@pytest.mark.parametrize("side", ["upper_offset", "lower_offset"])
def test_offsets_of_one_side_count(side: str) -> None:
    """Of all neurons, while the others are zero."""
    recursion = recursion_over(0)
    block = recursion._core.blocks[0]
    known = recursion._lines[block]
    step = 0.5 if side == "upper_offset" else -0.5
    zeros = {name: torch.zeros_like(known.upper_offset) for name in ("upper_offset", "lower_offset")}
    zeros[side] = torch.full_like(known.upper_offset, step)
    recursion._lines[block] = replace(known, **zeros)
    before = normal((2, 1, 2, 3, known.upper_offset.shape[2]), Generator().manual_seed(4)).abs()
    for sign in (1.0, -1.0):
        _, added = recursion._through(block, sign * before)
        chain = 0 if (step > 0) == (sign > 0) else 1
        expected = sign * step * before[:, 0].sum(-1)
        assert torch.allclose(added[:, chain], expected) and not (added[:, 1 - chain].abs() > 1e-290).any()


@pytest.mark.parametrize("side", ["upper_offset", "lower_offset"])
def test_one_offset_of_one_neuron_counts(side: str) -> None:
    recursion = recursion_over(0)
    block = recursion._core.blocks[0]
    known = recursion._lines[block]
    zeros = {name: torch.zeros_like(known.upper_offset) for name in ("upper_offset", "lower_offset")}
    zeros[side][:, :, 1] = 0.5 if side == "upper_offset" else -0.5
    recursion._lines[block] = replace(known, **zeros)
    before = normal((2, 1, 2, 3, known.upper_offset.shape[2]), Generator().manual_seed(4))
    _, added = recursion._through(block, before)
    step = 0.5 * before[:, 0, ..., 1].abs()
    positive = before[:, 0, ..., 1] > 0
    above = torch.where(positive == (side == "upper_offset"), step, 0.0)
    assert torch.all(added[:, 0] >= above) and torch.all(added[:, 1] <= above - step)
    assert torch.allclose(added[:, 0], above) and torch.allclose(added[:, 1], above - step)


def weights_of(graph: Graph, slopes: dict[Node, Interval]) -> dict[Node, Tensor]:
    """By the backward sweep alone: interval adjoints are no help."""
    whole = {node: Interval.whole(graph.example.new_zeros(1, 6, *node.shape)) for node in graph.nodes}
    return defects._Backwards(graph, slopes, whole).run()


def behind_a_neuron(node: Node, slopes: dict[Node, Interval], like: Tensor) -> Elementwise:
    """An uncertain neuron of slope at most 1 after a change of sign: its own rows are pushed back, all negative."""
    top = act(Affine(((Scale(-torch.ones_like(like)), node),)))
    slopes[top] = Interval(0.5 * torch.ones_like(like)[None], torch.ones_like(like)[None])
    return top


@both_dtypes
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("uncertain", [False, True])
def test_weights_of_long_chains_hold(dtype: torch.dtype, summed: bool, uncertain: bool) -> None:
    """Forty slopes one after the other, or forty times 1 + slope: far more roundings than any margin covers."""
    generator = Generator().manual_seed(5)
    for exponents in ((-1, 0), (-12, -8), None):
        x = Input((6,))
        node, slopes, exact, size = moved(x, dtype), {}, [fmpq(1)] * 6, torch.ones(6).double()
        for layer in range(40):
            hidden, value = act(node), random_floats((6,), dtype, generator, exponents or (0, 0))
            if layer % 2:
                value[0] = 1.0  # nothing rounds for this neuron alone
            if exponents is None:  # each sum loses nearly all of the smaller part
                value = torch.full_like(value, 0.98 * unit(dtype))
            slopes[hidden] = fixed(value)
            exact = [e * (s + int(summed)) for e, s in zip(exact, rationals(value), strict=True)]
            size = size * (value.double().abs() + int(summed))
            node = moved(hidden, dtype, node) if summed else moved(hidden, dtype)
        if uncertain:
            node = moved(behind_a_neuron(node, slopes, value), dtype)
        else:
            node = Affine(((Scale(-torch.ones_like(value)), node),))
        found = weights_of(Graph(node), slopes)[x][0]
        for k, value in enumerate(exact):
            assert abs(value) <= rational(float(found[k, k]))
            room = 4000 * unit(dtype) * float(size[k]) + 1e-30
            assert float(found[k, k]) <= abs(float(ball(value).mid())) + room


def losing_pair(dtype: torch.dtype) -> tuple[Tensor, Tensor, fmpq]:
    """Two floats whose exact product is nearly one unit roundoff above 1, and is rounded down to 1."""
    k = torch.arange(3, 4096, dtype=dtype)
    excess = [a * b - 1 for a, b in zip(rationals(k), rationals(1 / k), strict=True)]
    best = max(range(len(k)), key=lambda i: excess[i] if k[i] * (1 / k[i]) == 1 else fmpq(-1))
    assert excess[best] > fmpq(*unit(dtype).as_integer_ratio()) * 4 / 5
    return k[best], 1 / k[best], 1 + excess[best]


@both_dtypes
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("uncertain", [False, True])
def test_weights_of_chains_that_always_round_down_hold(dtype: torch.dtype, mixed: bool, uncertain: bool) -> None:
    one, other, product = losing_pair(dtype)
    x = Input((6,))
    node, slopes = moved(x, dtype), {}
    for layer in range(200):
        hidden, value = act(node), torch.full((6,), float(one if layer % 2 else other), dtype=dtype)
        value[0] = 1.0 if mixed else value[0]
        slopes[hidden] = fixed(value)
        node = moved(hidden, dtype)
    if uncertain:
        node = moved(behind_a_neuron(node, slopes, value), dtype)
    found = weights_of(Graph(node), slopes)[x][0]
    exact = product**100
    assert all(rational(float(found[k, k])) >= exact for k in range(1, 6))
    assert float(found[5, 5]) <= 1 + 4000 * unit(dtype)


@both_dtypes
@pytest.mark.parametrize("summed", [False, True])
def test_doubts_of_weights_hold_through_long_chains(dtype: torch.dtype, summed: bool) -> None:
    """The last factor is 0, give or take 1: nothing is known but the doubt."""
    generator = Generator().manual_seed(8)
    one = torch.ones(6, dtype=dtype)
    x = Input((6,))
    node, slopes, exact = moved(x, dtype), {}, [fmpq(1)] * 6
    for _ in range(60):
        hidden, value = act(node), random_floats((6,), dtype, generator, (-1, 0))
        slopes[hidden] = fixed(value)
        exact = [e * (abs(s) + int(summed)) for e, s in zip(exact, rationals(value), strict=True)]
        node = moved(hidden, dtype, node) if summed else moved(hidden, dtype)
    found = weights_of(Graph(Affine(((Scale(0 * one, one), node),))), slopes)[x][0]
    for k, value in enumerate(exact):
        assert value <= rational(float(found[k, k])) <= value * (1 + 4000 * fmpq(*unit(dtype).as_integer_ratio()))


@both_dtypes
def test_weights_behind_many_neurons_hold(dtype: torch.dtype) -> None:
    """1 + u + u + ... over uncertain neurons: a float sum loses many of the small terms."""
    terms = torch.full((4096, 1), 0.9 * unit(dtype), dtype=dtype)
    terms[0] = 1.0
    x = Input((1,))
    hidden = act(Affine(((Dense(terms), x),)))
    graph = Graph(Affine(((Dense(torch.ones(1, 4096, dtype=dtype)), hidden),)))
    one = torch.ones(1, 4096, dtype=dtype)
    whole = {node: Interval.whole(one.new_zeros(1, 1, *node.shape)) for node in graph.nodes}
    found = defects._Backwards(graph, {hidden: Interval(0.5 * one, one)}, whole).run()[x]
    exact = sum(rationals(terms), fmpq(0))
    assert exact <= rational(float(found)) <= exact * (1 + 60000 * fmpq(*unit(dtype).as_integer_ratio()))


def test_weights_behind_neurons_of_many_nodes_hold() -> None:
    """1 + u + u + ... + 1 over neurons of 300 nodes, one after the other: each small term is lost on its own."""
    sizes = [1.0, *[0.9 * unit(torch.float64)] * 298, 1.0]
    x = Input((6,))
    hidden = [act(x) for _ in sizes]
    one = torch.ones(6).double()
    graph = Graph(Affine(tuple((Scale(size * one), node) for size, node in zip(sizes, hidden, strict=True))))
    slopes: dict[Node, Interval] = dict.fromkeys(hidden, Interval(0.5 * one[None], one[None]))
    found = torch.diagonal(weights_of(graph, slopes)[x][0])
    exact = sum(map(rational, sizes), fmpq(0))
    assert all(exact <= a <= exact * (1 + 4000 * rational(unit(torch.float64))) for a in rationals(found))


def test_weights_of_slopes_zero_and_one_round_only_once() -> None:
    x = Input((6,))
    node, slopes = moved(x, torch.float64), {}
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0]).double()
    for _ in range(40):
        hidden = act(node)
        slopes[hidden] = fixed(mask, 1 - mask)
        node = moved(hidden, torch.float64)
    found = weights_of(Graph(node), slopes)[x]
    assert torch.all(found >= torch.diag_embed(torch.stack((mask, 1 - mask))))
    assert torch.all(found <= torch.diag_embed(torch.stack((mask, 1 - mask))) * (1 + 40 * 2.0**-53) + 1e-280)


@both_dtypes
@pytest.mark.parametrize("kind", ["slopes", "scales", "weights"])
@pytest.mark.parametrize("uncertain", [False, True])
def test_weights_that_vanish_count_with_what_stands_before(dtype: torch.dtype, kind: str, uncertain: bool) -> None:
    """Or with what stands behind an uncertain neuron."""
    small, large = (1e-200, 1e300) if dtype == torch.float64 else (1e-25, 1e38)

    def factor(value: float) -> Scale | Dense:
        full = torch.full((6,), value, dtype=dtype)
        return Dense(torch.diag(full)) if kind == "weights" else Scale(full)

    x = Input((6,))
    node, slopes = x if uncertain else Affine(((factor(large), x),)), {}
    for _ in range(2):
        if kind == "slopes":
            node = act(node)  # with nothing between, which would count what vanishes itself
            slopes[node] = fixed(torch.full((6,), small, dtype=dtype))
        else:
            node = Affine(((factor(small), node),))
    if uncertain:
        node = Affine(((factor(large), behind_a_neuron(node, slopes, torch.ones(6, dtype=dtype))),))
    exact = rational(float(torch.tensor(small, dtype=dtype))) ** 2 * rational(float(torch.tensor(large, dtype=dtype)))
    found = weights_of(Graph(node), slopes)[x][0]
    assert all(rational(float(found[k, k])) >= exact for k in range(6))


@pytest.mark.parametrize(("ratio", "by_rows"), [(200, False), (256, False), (300, True)])
@pytest.mark.parametrize("turned", [False, True])
def test_interval_adjoints_serve_while_they_are_not_far_from_their_middle(
    ratio: float, by_rows: bool, turned: bool
) -> None:
    """Two sets of which the other one is harmless; the derivative itself is 1."""
    x = Input((1,))
    graph = Graph(Affine(((Dense(torch.ones(1, 1).double()), x),)))
    ends = torch.tensor([[-256.0 + 512 / ratio, 256.0], [1.0, 3.0]]).double()
    ends = -ends.flip(1) if turned else ends
    adjoint = Interval(ends[:, 0].reshape(2, 1, 1), ends[:, 1].reshape(2, 1, 1))
    found = defects.defect_weights(graph, {}, {node: adjoint for node in graph.nodes})
    assert torch.allclose(
        found[x].flatten(), torch.tensor([1.0 if by_rows else 256.0, 1.0 if by_rows else 3.0]).double()
    )
    assert by_rows or torch.equal(found[x], adjoint.magnitude())
    with unrounded():
        plain = defects.defect_weights(graph, {}, {node: adjoint for node in graph.nodes})
    assert torch.equal(plain[x], adjoint.magnitude())


def test_neurons_of_which_one_end_is_zero_can_differ_from_it() -> None:
    ends = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [-1.0, 1.0], [0.5, 0.5], [float("nan"), 0.0]])
    assert can_differ(Interval(ends[:, 0], ends[:, 1])).tolist() == [False, True, True, True, True, True]


def test_slopes_that_no_derivative_reaches_are_zero() -> None:
    """The first neuron is dead, the second one certain: what stands behind each alone is dead or stays as it is."""
    x = Input((2,))
    first = act(Affine(((Dense(torch.eye(2).double()), x),)))
    second = act(Affine(((Dense(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).double()), first),)))
    graph = Graph(Affine(((Dense(torch.ones(1, 3).double()), second),)))
    slopes: dict[Node, Interval] = {
        first: fixed(torch.tensor([0.0, 1.0]).double()),
        second: Interval(torch.zeros(1, 3).double(), torch.ones(1, 3).double()),
    }
    found = reached_slopes(graph, slopes)
    assert found[first].upper.tolist() == [[0.0, 1.0]]
    assert found[second].upper.tolist() == [[0.0, 1.0, 1.0]] and not found[second].lower.any()
