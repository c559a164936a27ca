"""Parts of the backward pass on their own: which entries matter, what its steps look up, and where it starts."""

from __future__ import annotations

import itertools

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import DTYPE_NAMES, DTYPES, outside, random_floats, rational, rationals
from jacobound import CROWN, IBP, Box, Budget, Graph
from jacobound.activations import activation
from jacobound.activations.kinds.base import Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import tiny, unit, unrounded
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.domains import ONE_SET
from jacobound.operators.kinds import Dense, Scale
from jacobound.relaxation.elementwise import Relaxation
from jacobound.relaxation.linear_bounds import BackwardPass, Rows
from oracles import dot
from single import lifted

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def unit_lines(sets: int = 2) -> tuple[Lines, Tensor]:
    """Lines over five neurons: each of the first four has one number that is not zero, in the last set alone."""
    parts = [torch.zeros(sets, 5, dtype=torch.float64) for _ in range(4)]
    for k, part in enumerate(parts):
        part[-1, k] = 0.5
    return Lines(*parts), torch.ones(sets, 5, dtype=torch.float64)


def test_every_slope_and_every_offset_keeps_a_neuron_alive() -> None:
    lines, magnitude = unit_lines()
    alive = Relaxation(lines, magnitude).alive
    assert alive is not None and alive.tolist() == [0, 1, 2, 3]
    noise = torch.zeros_like(magnitude)
    noise[0, 4] = 1e-3
    assert Relaxation(lines, magnitude, noise).alive is None


def test_neurons_with_two_lines_or_an_offset_are_bent() -> None:
    lines, magnitude = unit_lines()
    lines.upper_slope[:, 4] = lines.lower_slope[:, 4] = 1.0
    _, bent, rounded, *_, parallel = Relaxation(lines, magnitude).on_alive
    assert bent.tolist() == [0, 1, 2, 3] and rounded.tolist() == [0, 1, 2, 3] and not parallel
    same = Lines(lines.upper_slope, lines.lower_offset, lines.upper_slope, lines.lower_offset)
    assert Relaxation(same, magnitude).on_alive[-1]


@both_dtypes
def test_the_slack_of_lines_is_that_of_their_products(dtype: torch.dtype) -> None:
    """2 u |steeper slope| |argument| and gamma |larger offset| at least, and hardly more; 0 where nothing rounds."""
    generator = torch.Generator().manual_seed(8)
    parts = [random_floats((2, 30), dtype, generator, (-20, 20)) for _ in range(4)]
    parts[0][:, ::3] *= 2.0**30  # either line may be the steeper one, or the one with the larger offset
    parts[1][:, 1::3] *= 2.0**30
    magnitude = random_floats((2, 30), dtype, generator, (-20, 20)).abs()
    for part in parts:
        part[:, 25:] = 0.0
    parts[0][0, 25:27] = parts[2][0, 25:27] = 1.0  # the identity over one of the sets
    parts[0][1, 25] = parts[2][1, 25] = 0.5
    _, bent, rounded, slack, floor, _, _ = Relaxation(Lines(*parts), magnitude).on_alive
    assert bent.tolist() == list(range(25)) and rounded.tolist() == list(range(26))
    u = rational(unit(dtype))
    for n in range(2):
        low, below, high, above, reach = (rationals(part[n]) for part in (*parts, magnitude))
        for place, k in enumerate(rounded.tolist()):
            found = rational(float(slack[n, place]))
            product = 2 * u * max(abs(low[k]), abs(high[k])) * reach[k]
            offset = u * max(abs(below[k]), abs(above[k]))
            least = product + len(bent) * offset if k < 25 or n == 1 else fmpq(0)
            assert (
                least <= found <= (product + (len(bent) + 4) * offset) * fmpq(1001, 1000) + 50 * rational(tiny(dtype))
            )
        assert k == 25 and (slack[0, 25] == 0) and (slack[1, 25] > 0)
        assert float(floor[n]) >= float(magnitude[n, rounded].sum()) * tiny(dtype) + 2 * len(bent) * tiny(dtype)


@both_dtypes
def test_offsets_that_vanish_have_a_floor_of_their_own(dtype: torch.dtype) -> None:
    parts = [torch.ones(1, 9, dtype=dtype) for _ in range(4)]
    floor = Relaxation(Lines(*parts), torch.zeros(1, 9, dtype=dtype)).on_alive[4]
    assert float(floor) >= (2 * 9 - 1) * tiny(dtype)


def uncertain(dtype: torch.dtype, noisy: bool = False) -> tuple[Graph, BackwardPass]:
    """Two factors with a radius on two parts of the input."""
    x = Input((2,))
    h = Affine(((Scale(torch.ones(2, dtype=dtype)), x),), None, "h")
    factor, radius = torch.tensor([0.5, -0.25], dtype=dtype), torch.tensor([0.125, 0.0625], dtype=dtype)
    terms = ((Scale(factor, radius), x), (Scale(2 * factor, radius), h))
    graph = Graph(Affine(terms, None, "y"))
    (domain,), _ = Box(torch.ones(2, dtype=dtype), torch.ones(2, dtype=dtype)).domains(graph)
    ranges = {node: Interval.exact(torch.ones(1, 2, dtype=dtype)) for node in (x, h)}
    ranges[graph.output] = Interval.whole(torch.ones(1, 2, dtype=dtype))
    noise = {graph.output: torch.full((1, 2), 3.0, dtype=dtype)} if noisy else {}
    return graph, BackwardPass(graph, domain, ranges, {}, noise)


@both_dtypes
@pytest.mark.parametrize("noisy", [False, True])
def test_a_pass_starts_with_the_doubt_of_its_weights_and_its_noise(dtype: torch.dtype, noisy: bool) -> None:
    graph, steps = uncertain(dtype, noisy)
    found = steps.enclose(graph.output, torch.arange(2), ONE_SET)
    wide = torch.tensor([0.25, 0.125], dtype=dtype) + (3.0 if noisy else 0.0)
    centre = torch.tensor([1.5, -0.75], dtype=dtype)
    assert outside(found.lower, rationals(centre - wide), found.upper) == []
    assert outside(found.lower, rationals(centre + wide), found.upper) == []
    assert torch.all(found.width <= 2 * wide + 200 * unit(dtype) * (1 + wide))


def test_a_pass_starts_with_the_rows_of_the_weights() -> None:
    """No product and no error; only a node that reads one source twice starts with unit rows."""
    generator = torch.Generator().manual_seed(9)
    one, other = (random_floats((3, 4), torch.float64, generator, (-3, 3)) for _ in range(2))
    x = Input((4,))
    plain = Graph(Affine(((Dense(one), x),), torch.ones(3, dtype=torch.float64), "y"))
    twice = Graph(Affine(((Dense(one), x), (Dense(other), x)), None, "y"))
    applied = Graph(Elementwise(activation("relu"), Affine(((Dense(one), x),), None, "z"), "h"))
    rows = torch.tensor([2, 0])
    for graph in (plain, twice, applied):
        (domain,), _ = Box(torch.zeros(4), torch.ones(4)).domains(graph)
        ranges = dict(IBP().ranges(graph, domain, Budget()))
        relaxations = {
            node: Relaxation(node.activation.lines(ranges[node.source]), ranges[node.source].magnitude())
            for node in graph.nodes
            if isinstance(node, Elementwise)
        }
        state = BackwardPass(graph, domain, ranges, relaxations, {})._start(graph.output, rows, ONE_SET)
        (start,) = state.coefficient
        assert start is (graph.input if graph is plain else graph.output)
        assert not state.error.any()
        if graph is plain:
            assert torch.equal(state.coefficient[graph.input][1], one[rows].unsqueeze(0))
            assert torch.equal(state.constant, torch.ones(2, 2, dtype=torch.float64))


def test_memory_of_a_row_covers_two_chains_at_the_widest_node() -> None:
    x = Input((4,))
    wide = Affine(((Dense(torch.ones(100, 4).double()), x),), None, "wide")
    graph = Graph(Affine(((Dense(torch.ones(3, 100).double()), wide),), None, "y"))
    (domain,), _ = Box(torch.zeros(4), torch.ones(4)).domains(graph)
    steps = BackwardPass(graph, domain, {}, {}, {})
    for target, widest in ((wide, 100), (graph.output, 100), (x, 4)):
        assert 8 * 8 * widest <= steps.bytes_per_row(target) <= 20 * 8 * widest


@both_dtypes
@pytest.mark.parametrize("cancels", [True, False])
def test_the_last_sums_are_rounded_outward_one_by_one(dtype: torch.dtype, cancels: bool) -> None:
    """An error that cancels the constant leaves a small result, whose step does not cover the first sum."""
    generator = torch.Generator().manual_seed(10)
    graph = Graph(Affine(((Dense(torch.ones(1, 1, dtype=dtype)), Input((1,))),)))
    constant = random_floats((200,), dtype, generator, (0, 0)).abs()
    reach = random_floats((200,), dtype, generator, (-20, -10))
    error = constant * (1 - random_floats((200,), dtype, generator, (-18, -8)).abs())
    error = error if cancels else random_floats((200,), dtype, generator, (0, 3)).abs()
    one = torch.ones(1, dtype=dtype)
    (domain,), _ = Box(one, one).domains(graph)
    steps = BackwardPass(graph, domain, {}, {}, {})
    coefficient = {graph.input: (None, reach.reshape(1, 200, 1))}
    found = steps._concretise(Rows(coefficient, torch.stack((-constant, constant)), torch.stack((error, error))))
    parts = list(zip(*map(rationals, (constant, reach, error)), strict=True))
    assert outside(torch.full_like(reach, -torch.inf), [r - c + e for c, r, e in parts], found.upper) == []
    assert outside(found.lower, [c + r - e for c, r, e in parts], torch.full_like(reach, torch.inf)) == []


@both_dtypes
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("scale", [0, 20])
def test_a_bias_pays_for_its_product_and_its_sum(dtype: torch.dtype, scale: int, known: bool) -> None:
    """Without weights nothing else pays: neither for A b, nor for adding it to a constant of either sign."""
    generator = torch.Generator().manual_seed(11)
    x = Input((2,))
    bias = random_floats((40,), dtype, generator, (-3, 3))
    node = Affine(((Dense(torch.zeros(40, 2, dtype=dtype)), x),), bias, "y")
    graph = Graph(node)
    (domain,), _ = Box(torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)).domains(graph)
    steps = BackwardPass(graph, domain, {x: domain.box, node: lifted(Interval.exact(bias))}, {}, {})
    rows = random_floats((1, 30, 40), dtype, generator, (-3, 3))
    constant = random_floats((2, 30), dtype, generator, (scale, scale))
    before = random_floats((2, 30), dtype, generator, (scale, scale)).abs() if known else torch.zeros_like(constant)
    state = steps._through_affine(Rows({}, constant, before), node, None, rows)
    for side, row in itertools.product(range(2), range(30)):
        exact = rational(float(constant[side, row])) + dot(rationals(rows[0, row]), rationals(bias))
        missed = abs(rational(float(state.constant[side, row])) - exact)
        assert rational(float(before[side, row])) + missed <= rational(float(state.error[side, row]))


def test_readers_of_one_node_with_other_dead_neurons_are_added_up() -> None:
    """relu(z) + |z| over z in [-2, -1] x [1, 2]: the first reader knows the second entry only."""
    x = Input((2,))
    z = Affine(((Dense(torch.eye(2).double()), x),), None, "z")
    readers = [Elementwise(activation(name), z, name) for name in ("relu", "abs")]
    ones = Dense(torch.tensor([[1.0, 1.0]]).double())
    graph = Graph(Affine(tuple((ones, reader) for reader in readers), None, "y"))
    (domain,), _ = Box([-2.0, 1.0], [-1.0, 2.0]).domains(graph)
    found = CROWN().ranges(graph, domain, Budget())[graph.output]
    assert abs(float(found.lower) - 3.0) < 1e-12 and abs(float(found.upper) - 6.0) < 1e-12


@both_dtypes
def test_doubt_and_noise_are_added_to_what_is_there_already(dtype: torch.dtype) -> None:
    """The smaller one is lost in the rounding of a sum, unless that is rounded up."""
    generator = torch.Generator().manual_seed(12)
    count = 300
    x = Input((count,))
    radius, magnitude = random_floats((2, count), dtype, generator, (-9, -6)).abs()
    node = Affine(((Scale(torch.ones(count, dtype=dtype), radius), x),), None, "y")
    graph = Graph(node)
    (domain,), _ = Box(-magnitude, magnitude).domains(graph)
    noise = random_floats((1, count), dtype, generator, (0, 0)).abs()
    steps = BackwardPass(graph, domain, {x: domain.box}, {}, {node: noise})
    started = steps._start(node, torch.arange(count), ONE_SET)
    parts = list(zip(*map(rationals, (radius, magnitude, noise)), strict=True))
    assert outside(torch.zeros_like(noise), [r * m + n for r, m, n in parts], started.error[0]) == []
    coefficients = random_floats((1, 1, count), dtype, generator, (-40, -30))
    before = random_floats((2, 1), dtype, generator, (0, 0)).abs()
    empty = torch.zeros(2, 1, dtype=dtype)
    after = steps._through_noise(Rows({node: (None, coefficients)}, empty, before), node).error
    added = dot([abs(a) for a in rationals(coefficients)], rationals(noise))
    assert all(rational(float(new)) >= rational(float(old)) + added for new, old in zip(after, before, strict=True))


@both_dtypes
def test_straight_lines_add_their_slack_to_what_is_there_already(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(13)
    slope = random_floats((1, 9), dtype, generator, (-3, 3))
    z = Affine(((Dense(torch.ones(9, 2, dtype=dtype)), Input((2,))),), None, "z")
    h = Elementwise(activation("relu"), z, "h")
    graph = Graph(Affine(((Dense(torch.ones(1, 9, dtype=dtype)), h),)))
    (domain,), _ = Box(torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)).domains(graph)
    magnitude = torch.ones(1, 9, dtype=dtype)
    relaxation = Relaxation(Lines(slope, torch.zeros_like(slope), slope, torch.zeros_like(slope)), magnitude)
    steps = BackwardPass(graph, domain, {z: Interval(-magnitude, magnitude)}, {h: relaxation}, {})
    rows = random_floats((1, 200, 9), dtype, generator, (-12, -6))
    before = random_floats((2, 200), dtype, generator, (0, 0)).abs()
    state = steps._through_elementwise(Rows({}, torch.zeros_like(before), before), h, rows)
    found = state.coefficient[z][1][0]
    for row in range(200):
        parts = zip(*map(rationals, (rows[0, row], slope[0], found[row])), strict=True)
        missed = sum((abs(a * k - product) for a, k, product in parts), fmpq(0))
        assert rational(float(before[0, row])) + missed <= rational(float(state.error[0, row]))


def test_the_slack_of_a_node_is_made_for_the_larger_end_of_its_sources() -> None:
    x = Input((2,))
    operator = Dense(torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double())
    node = Affine(((operator, x),), None, "y")
    graph = Graph(node)
    (domain,), _ = Box([-1000.0, -1.0], [1e-3, 500.0]).domains(graph)
    steps = BackwardPass(graph, domain, {x: domain.box, node: operator.enclose(domain.box)}, {}, {})
    slack, floor = steps._affine_slack(node)
    assert torch.all(slack >= operator.slack(torch.tensor([[1000.0, 500.0]]).double())) and float(floor) > 0
    assert torch.all(slack <= 1.001 * operator.slack(torch.tensor([[1000.0, 500.0]]).double()))


def step_through(lines: Lines, magnitude: Tensor, rows: Tensor, before: Tensor, start: Tensor) -> tuple[Rows, Node]:
    """One step through an elementwise node with the given lines; the new state and the node before it."""
    z = Affine(((Dense(magnitude.new_ones(magnitude.shape[1], 2)), Input((2,))),), None, "z")
    h = Elementwise(activation("relu"), z, "h")
    graph = Graph(Affine(((Dense(magnitude.new_ones(1, magnitude.shape[1])), h),)))
    (domain,), _ = Box(magnitude.new_zeros(2), magnitude.new_ones(2)).domains(graph)
    relaxation = Relaxation(lines, magnitude)
    steps = BackwardPass(graph, domain, {z: Interval(-magnitude, magnitude)}, {h: relaxation}, {})
    return steps._through_elementwise(Rows({}, start, before), h, rows), z


@both_dtypes
def test_an_error_only_grows_where_offsets_are_added(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(14)
    parts = [random_floats((1, 3), dtype, generator, (-3, 3)) for _ in range(4)]
    rows = random_floats((2, 200, 3), dtype, generator, (-90, -80))
    before = random_floats((2, 200), dtype, generator, (0, 0)).abs()
    state, _ = step_through(Lines(*parts), torch.ones(1, 3, dtype=dtype), rows, before, torch.zeros_like(before))
    assert torch.all(state.error >= before) and torch.all(state.error <= before * (1 + 20 * unit(dtype)))


@both_dtypes
def test_slopes_that_vanish_count_with_the_argument(dtype: torch.dtype) -> None:
    """Coefficient times slope is zero, and the argument so large that it matters."""
    small, large = (2.0**-600, 2.0**900) if dtype == torch.float64 else (2.0**-80, 2.0**118)
    magnitude = torch.full((1, 2), large, dtype=dtype)
    slope, offset = torch.full_like(magnitude, small), torch.zeros_like(magnitude)
    zeros = torch.zeros(2, 1, dtype=dtype)
    rows = torch.full((1, 1, 2), small, dtype=dtype)
    state, z = step_through(Lines(slope, offset, slope, offset), magnitude, rows, zeros, zeros)
    assert not state.coefficient[z][1].any()
    lost = 2 * rational(small) * rational(small) * rational(large)
    assert all(rational(float(error)) >= lost for error in state.error)


@both_dtypes
def test_lines_that_round_nothing_add_no_error(dtype: torch.dtype) -> None:
    magnitude, zeros = torch.ones(1, 3, dtype=dtype), torch.zeros(2, 4, dtype=dtype)
    slope = torch.tensor([[1.0, 1.0, 0.0]], dtype=dtype)
    rows = torch.full((1, 4, 3), 0.3, dtype=dtype)
    kept = rows if slope.all() else rows[..., :2]
    state, _ = step_through(Lines(slope, 0 * slope, slope, 0 * slope), magnitude, kept, zeros, zeros)
    assert not state.error.any()
    with unrounded():
        bent = Lines(0.3 * slope, 0 * slope, 0.7 * slope, 0.1 * slope)
        state, _ = step_through(bent, magnitude, kept, zeros, zeros)
    assert not state.error.any()


@both_dtypes
def test_the_doubt_of_weights_is_counted_in_full(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(15)
    x, count = Input((300,)), 300
    radii = random_floats((2, count), dtype, generator, (-3, 3)).abs()
    magnitude = random_floats((count,), dtype, generator, (-3, 3)).abs()
    terms = tuple((Scale(torch.ones(count, dtype=dtype), radius), x) for radius in radii[:1])
    node = Affine(terms, None, "y")
    graph = Graph(node)
    (domain,), _ = Box(-magnitude, magnitude).domains(graph)
    steps = BackwardPass(graph, domain, {x: domain.box}, {}, {})
    started = steps._start(node, torch.arange(count), ONE_SET)
    exact = [r * m for r, m in zip(rationals(radii[0]), rationals(magnitude), strict=True)]
    found = rationals(started.error[0])
    assert all(truth <= error for truth, error in zip(exact, found, strict=True))
    u = rational(unit(dtype))
    assert all(
        error <= truth * (1 + 12 * u) + 8 * rational(tiny(dtype)) for truth, error in zip(exact, found, strict=True)
    )
