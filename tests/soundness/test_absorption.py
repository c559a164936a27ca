"""The contracts of backward substitution, one step at a time and without rounding: absorption and lines."""

from __future__ import annotations

import itertools

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rational, rational_matrix, rationals
from jacobound import IBP, Box, Budget, Graph
from jacobound.activations import activation
from jacobound.activations.kinds.base import Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.regions import Domain
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Convolution, Dense, Identity, Scale, Scatter, Select
from jacobound.relaxation.linear_bounds import BackwardPass, Relaxation, Rows, absorb, floor_of
from oracles import dot, point_inside
from single import lifted, nth

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
SCALES = ((-3, 3), (-40, 40), (-70, -60))  # binary exponents of coefficients and weights


def operators(dtype: torch.dtype, generator: Generator, exponents: tuple[int, int]) -> dict[str, LinearOperator]:
    def draw(*shape: int) -> Tensor:
        return random_floats(shape, dtype, generator, exponents)

    like = torch.zeros((), dtype=dtype)
    twice = Select(torch.tensor([0, 2, 2, -1, 1, 2]), (4,), like)
    return {
        "dense": Dense(draw(5, 7)),
        "wide": Dense(draw(3, 30)),
        "convolution": Convolution(draw(2, 2, 3), (2, 6), (2,), (1,), (1,)),
        "adjoint": Convolution(draw(2, 2, 3), (2, 6), (2,), (1,), (1,), adjoint=True),
        "scale": Scale(draw(6)),
        "select": twice,
        "scatter": Scatter(twice),
    }


@both_dtypes
@pytest.mark.parametrize("exponents", SCALES, ids=str)
def test_an_absorbed_product_is_off_by_no_more_than_it_says(dtype: torch.dtype, exponents: tuple[int, int]) -> None:
    """|(A W - A') x| <= |A| slack + floor for the worst x with |x| <= X that vanishes outside the wanted entries."""
    generator = Generator().manual_seed(1)
    for trial in range(6):
        for name, operator in operators(dtype, generator, exponents).items():
            out, inputs = operator.out_size, operator.in_size
            covered = torch.randperm(out, generator=generator)[: max(1, out - trial)].sort().values
            wanted = torch.randperm(inputs, generator=generator)[: max(1, inputs - trial)].sort().values
            rows = random_floats((20, len(covered)), dtype, generator, exponents)  # 16 rows or more take another path
            magnitude = random_floats((inputs,), dtype, generator, exponents).abs()
            found = absorb(operator, covered, wanted, len(rows))(rows)
            slack = rationals(operator.slack(magnitude.reshape(operator.in_shape)))
            floor = rational(float(floor_of(operator, lifted(magnitude))))
            exact = rational_matrix(rows) * rational_matrix(operator.materialise()[covered])
            for r in range(0, 20, 5):
                size_of_error = sum(
                    (
                        abs(exact[r, int(k)] - rational(float(found[r, i]))) * rational(float(magnitude[k]))
                        for i, k in enumerate(wanted)
                    ),
                    fmpq(0),
                )
                allowed = dot([abs(a) for a in rationals(rows[r])], [slack[int(i)] for i in covered]) + floor
                assert size_of_error <= allowed, (name, r)


@both_dtypes
def test_absorption_through_uncertain_weights_covers_all_of_them(dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(2)
    factor, rows, magnitude = (random_floats((6,), dtype, generator, (-3, 3)) for _ in range(3))
    radius = random_floats((6,), dtype, generator, (-12, -8)).abs()
    operator, magnitude = Scale(factor, radius), magnitude.abs()
    found = rationals(absorb(operator, None, None, 1)(rows.unsqueeze(0)))
    slack = rationals(operator.slack(magnitude))
    for side in (1, -1):
        for i, (a, w, dw, x) in enumerate(zip(*map(rationals, (rows, factor, radius, magnitude)), strict=True)):
            assert abs(a * (w + side * dw) - found[i]) * x <= abs(a) * slack[i] + rational(
                float(floor_of(operator, lifted(magnitude)))
            )


@both_dtypes
@pytest.mark.parametrize("exponents", SCALES, ids=str)
def test_slack_covers_the_error_of_an_application(dtype: torch.dtype, exponents: tuple[int, int]) -> None:
    generator = Generator().manual_seed(3)
    for name, operator in operators(dtype, generator, exponents).items():
        points = random_floats((3, operator.in_size), dtype, generator, exponents)
        slack = rationals(operator.slack(points.abs().amax(0).reshape(operator.in_shape)))
        found = operator.apply(points.reshape(3, *operator.in_shape)).reshape(3, -1)
        exact = rational_matrix(points) * rational_matrix(operator.materialise()).transpose()
        for r, i in itertools.product(range(3), range(operator.out_size)):
            assert abs(exact[r, i] - rational(float(found[r, i]))) <= slack[i], name


# --- one step of the backward pass ------------------------------------------------------------------------------


def step_fixture(dtype: torch.dtype, generator: Generator, exponents: tuple[int, int]) -> tuple[Graph, Domain, dict]:
    """x -> z = W x + b -> leaky relu -> V h + U x + c, with ranges."""
    x = Input((4,))
    z = Affine(
        ((Dense(random_floats((6, 4), dtype, generator, exponents)), x),),
        random_floats((6,), dtype, generator, exponents),
        "z",
    )
    h = Elementwise(activation("leaky_relu:0.1"), z, "h")
    terms = (
        (Dense(random_floats((5, 6), dtype, generator, exponents)), h),
        (Dense(random_floats((5, 4), dtype, generator, exponents)), x),
    )
    graph = Graph(Affine(terms, random_floats((5,), dtype, generator, exponents), "y"))
    (domain,), _ = Box(torch.full((4,), -1.0), torch.tensor([1.0, 0.5, -1.0, 3.0])).domains(graph)
    return graph, domain, dict(IBP().ranges(graph, domain, Budget()))


def state_value(state: Rows, at: dict[Node, list[fmpq]], chain: int, row: int) -> fmpq:
    """constant + sum of coefficients times node values, exactly."""
    total = rational(float(state.constant[chain, row]))
    for node, (entries, values) in state.coefficient.items():
        kept = at[node] if entries is None else [at[node][int(k)] for k in entries]
        total += dot(rationals(values[min(chain, len(values) - 1), row]), kept)
    return total


@both_dtypes
@pytest.mark.parametrize("exponents", ((-3, 3), (-25, 25)), ids=str)
def test_substituting_an_affine_node_is_off_by_no_more_than_the_error(
    dtype: torch.dtype, exponents: tuple[int, int]
) -> None:
    generator = Generator().manual_seed(4)
    for _ in range(6):
        graph, domain, ranges = step_fixture(dtype, generator, exponents)
        node, h = graph.output, graph.nodes[2]
        assert isinstance(node, Affine) and isinstance(h, Elementwise)
        lines = h.activation.lines(ranges[h.source])
        steps = BackwardPass(graph, domain, ranges, {h: Relaxation(lines, ranges[h.source].magnitude())}, {})
        rows = random_floats((1, 18, 5), dtype, generator, exponents)
        pending = random_floats((1, 18, 4), dtype, generator, exponents)  # coefficients that x has already
        zeros = torch.zeros(2, 18, dtype=dtype)
        state = steps._through_affine(Rows({graph.input: (None, pending)}, zeros, zeros), node, None, rows)
        for row in range(0, 18, 6):
            at = {graph.input: point_inside(nth(domain.box), generator), h: point_inside(nth(ranges[h]), generator)}
            weights = [rational_matrix(operator.materialise()) for operator, _ in node.terms]
            assert node.bias is not None
            value = rational_matrix(node.bias)
            for weight, (_, source) in zip(weights, node.terms, strict=True):
                value = value + weight * fmpq_mat(len(at[source]), 1, at[source])
            exact = dot(rationals(rows[0, row]), value.entries()) + dot(rationals(pending[0, row]), at[graph.input])
            for end in (0, 1):
                assert abs(exact - state_value(state, at, end, row)) <= rational(float(state.error[end, row]))


@both_dtypes
@pytest.mark.parametrize("method", ("lines", "parallel_lines"))
@pytest.mark.parametrize("name", ("relu", "leaky_relu:0.1", "leaky_relu:-0.5"))
def test_substituting_an_activation_stays_on_the_right_side(dtype: torch.dtype, method: str, name: str) -> None:
    generator = Generator().manual_seed(5)
    for trial in range(6):
        z = Affine(((Dense(random_floats((6, 3), dtype, generator, (-3, 3))), Input((3,))),), None, "z")
        h = Elementwise(activation(name), z, "h")
        graph = Graph(Affine(((Dense(random_floats((2, 6), dtype, generator, (-3, 3))), h),), None, "y"))
        centre, half = random_floats((6,), dtype, generator, (-2, 2)), 10.0 ** -(3 * (trial % 3))
        argument = Interval(centre - half, centre + half)
        (domain,), _ = Box(torch.zeros(3), torch.ones(3)).domains(graph)
        relaxation = Relaxation(getattr(h.activation, method)(lifted(argument)), lifted(argument.magnitude()))
        steps = BackwardPass(graph, domain, {z: lifted(argument), graph.input: domain.box}, {h: relaxation}, {})
        for chains in (1, 2):
            full = random_floats((chains, 4, 6), dtype, generator, (-4, 4))
            rows = full if relaxation.alive is None else full[..., relaxation.alive]
            zeros = torch.zeros(2, 4, dtype=dtype)
            state = steps._through_elementwise(Rows({}, zeros, zeros), h, rows)
            slope = fmpq(0) if name == "relu" else rational(float(name.partition(":")[2]))
            for row, _ in itertools.product(range(4), range(4)):
                at = {z: point_inside(argument, generator)}
                value = [t if t >= 0 else slope * t for t in at[z]]
                value = value if relaxation.alive is None else [value[int(k)] for k in relaxation.alive]
                upper, lower = (dot(rationals(rows[side, row]), value) for side in (0, -1))
                error = rationals(state.error[:, row])
                assert upper <= state_value(state, at, 0, row) + error[0]
                assert lower >= state_value(state, at, 1, row) - error[1]


@both_dtypes
@pytest.mark.parametrize("known", [False, True])
def test_an_activation_step_pays_for_its_own_products(dtype: torch.dtype, known: bool) -> None:
    """Lines with full mantissas: slope products and offset sums are off by no more than the error."""
    generator = Generator().manual_seed(6)
    for exponents in ((-3, 3), (-30, 30)):
        slopes, offsets = (random_floats((2, 9), dtype, generator, exponents) for _ in range(2))
        offsets = offsets.sort(0).values
        lines = Lines(slopes[:1], offsets[:1], slopes[1:], offsets[1:])
        magnitude = random_floats((9,), dtype, generator, exponents).abs()
        z = Affine(((Dense(torch.ones(9, 2, dtype=dtype)), Input((2,))),), None, "z")
        h = Elementwise(activation("relu"), z, "h")
        graph = Graph(Affine(((Dense(torch.ones(1, 9, dtype=dtype)), h),)))
        (domain,), _ = Box(torch.zeros(2), torch.ones(2)).domains(graph)
        relaxations = {h: Relaxation(lines, lifted(magnitude))}
        steps = BackwardPass(graph, domain, {z: lifted(Interval(-magnitude, magnitude))}, relaxations, {})
        rows = random_floats((2, 5, 9), dtype, generator, exponents)
        before = random_floats((2, 5), dtype, generator, (exponents[1], exponents[1])).abs() * float(known)
        start = random_floats((2, 5), dtype, generator, (exponents[1], exponents[1] + 20))
        state = steps._through_elementwise(Rows({}, start, before), h, rows)
        for row, chain in itertools.product(range(5), (0, 1)):
            a = rationals(rows[chain, row])
            high = [(t > 0) == (chain == 0) for t in a]
            slope = [rational(float(slopes[int(up), i])) for i, up in enumerate(high)]
            offset = [rational(float(offsets[int(up), i])) for i, up in enumerate(high)]
            found = rationals(state.coefficient[z][1][chain, row])
            missed = sum(
                (abs(t * k - f) * m for t, k, f, m in zip(a, slope, found, rationals(magnitude), strict=True)), fmpq(0)
            )
            constant = rational(float(start[chain, row])) + dot(a, offset)
            missed += abs(constant - rational(float(state.constant[chain, row])))
            assert missed + rational(float(before[chain, row])) <= rational(float(state.error[chain, row]))


@both_dtypes
def test_products_that_vanish_count_with_the_values_behind_them(dtype: torch.dtype) -> None:
    """A and W are so small that A W is zero, and the source is so large that it matters."""
    small, large = (2.0**-600, 2.0**900) if dtype == torch.float64 else (2.0**-80, 2.0**118)
    x = Input((2,))
    node = Affine(((Dense(torch.full((2, 2), small, dtype=dtype)), x),), None, "y")
    graph = Graph(node)
    ranges = {x: Interval(torch.zeros(2, dtype=dtype), torch.full((2,), large, dtype=dtype))}
    ranges[node] = Interval(torch.zeros(2, dtype=dtype), torch.full((2,), 3 * small * large, dtype=dtype))
    (domain,), _ = Box([0.0, 0.0], [large, large]).domains(graph)
    zeros = torch.zeros(2, 1, dtype=dtype)
    rows = torch.full((1, 1, 2), small, dtype=dtype)
    steps = BackwardPass(graph, domain, lifted(ranges), {}, {})
    state = steps._through_affine(Rows({}, zeros, zeros), node, None, rows)
    assert not bool(state.coefficient[x][1].any())
    lost = 4 * rational(small) * rational(small) * rational(large)
    assert rational(float(state.error[0, 0])) >= lost and rational(float(state.error[1, 0])) >= lost


@both_dtypes
def test_coefficients_that_meet_at_a_node_are_added_with_their_rounding(dtype: torch.dtype) -> None:
    """Through an identity nothing rounds but the sum with what is pending already."""
    generator = Generator().manual_seed(7)
    x = Input((5,))
    node = Affine(((Identity((5,), (5,), torch.zeros((), dtype=dtype)), x),), None, "y")
    graph = Graph(node)
    (domain,), _ = Box(torch.ones(5), torch.full((5,), 2.0)).domains(graph)
    rows, pending = random_floats((2, 1, 20, 5), dtype, generator, (-6, 6))
    zeros = torch.zeros(2, 20, dtype=dtype)
    steps = BackwardPass(graph, domain, {x: domain.box, node: domain.box}, {}, {})
    state = steps._through_affine(Rows({x: (None, pending)}, zeros, zeros), node, None, rows)
    for row in range(20):
        parts = zip(*(rationals(part[0, row]) for part in (rows, pending, state.coefficient[x][1])), strict=True)
        lost = sum((abs(a + b - total) * 2 for a, b, total in parts), fmpq(0))
        assert lost <= rational(float(state.error[0, row]))
