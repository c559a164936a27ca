"""The contracts on which soundness rests, one step at a time and without rounding: absorption, lines, core, recursion."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rational, rational_matrix, rationals
from jacobound.activations import activation
from jacobound.activations.base import Lines
from jacobound.graph import Affine, Elementwise, Graph, Input, Node, size
from jacobound.intervals import Interval
from jacobound.linear_bounds import BackwardPass, Relaxation, Rows, absorb, floor_of
from jacobound.methods.base import Budget, derivative_ranges
from jacobound.methods.core import UnstableCore, build_core
from jacobound.methods.defects import defect_weights
from jacobound.methods.fastlip import interval_adjoints
from jacobound.methods.ibp import IBP
from jacobound.methods.product_relaxation import ProductRelaxation, chord, constant
from jacobound.methods.recurjac import RecurJac, Recursion
from jacobound.methods.tangents import unstable_entries
from jacobound.operator_kinds import Convolution, Dense, Scale, Scatter, Select
from jacobound.operators import LinearOperator
from jacobound.regions import Box, Domain
from jacobound.rounding import tiny, unit
from oracles import exact_derivative
from zoo import concatenation, integer

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


def dot(a: list[fmpq], b: list[fmpq]) -> fmpq:
    return sum((x * y for x, y in zip(a, b, strict=True)), fmpq(0))


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
            floor = rational(floor_of(operator, magnitude))
            exact = rational_matrix(rows) * rational_matrix(operator.materialise()[covered])
            for r in range(0, 20, 5):
                size_of_error = sum(
                    (abs(exact[r, int(k)] - rational(float(found[r, i]))) * rational(float(magnitude[k]))
                     for i, k in enumerate(wanted)), fmpq(0),
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
            assert abs(a * (w + side * dw) - found[i]) * x <= abs(a) * slack[i] + rational(floor_of(operator, magnitude))


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
        random_floats((6,), dtype, generator, exponents), "z",
    )
    h = Elementwise(activation("leaky_relu:0.1"), z, "h")
    terms = ((Dense(random_floats((5, 6), dtype, generator, exponents)), h),
             (Dense(random_floats((5, 4), dtype, generator, exponents)), x))
    graph = Graph(Affine(terms, random_floats((5,), dtype, generator, exponents), "y"))
    (domain,), _ = Box(torch.full((4,), -1.0), torch.tensor([1.0, 0.5, -1.0, 3.0])).domains(graph)
    return graph, domain, dict(IBP().ranges(graph, domain, Budget()))


def inside(interval: Interval, generator: Generator) -> list[fmpq]:
    """A rational point of an interval: an end or between, entry by entry."""
    ends = zip(rationals(interval.lower), rationals(interval.upper), strict=True)
    shares = torch.randint(0, 5, (interval.lower.numel(),), generator=generator).tolist()
    return [low + (high - low) * fmpq(share, 4) for (low, high), share in zip(ends, shares, strict=True)]


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
        steps = BackwardPass(graph, domain, ranges, {h: Relaxation(lines, ranges[h.source].magnitude())})
        rows = random_floats((1, 18, 5), dtype, generator, exponents)
        pending = random_floats((1, 18, 4), dtype, generator, exponents)  # coefficients that x has already
        zeros = torch.zeros(2, 18, dtype=dtype)
        state = steps._through_affine(Rows({graph.input: (None, pending)}, zeros, zeros), node, None, rows)
        for row in range(0, 18, 6):
            at = {graph.input: inside(domain.box, generator), h: inside(ranges[h], generator)}
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
        relaxation = Relaxation(getattr(h.activation, method)(argument), argument.magnitude())
        steps = BackwardPass(graph, domain, {z: argument, graph.input: domain.box}, {h: relaxation})
        for chains in (1, 2):
            full = random_floats((chains, 4, 6), dtype, generator, (-4, 4))
            rows = full if relaxation.alive is None else full[..., relaxation.alive]
            zeros = torch.zeros(2, 4, dtype=dtype)
            state = steps._through_elementwise(Rows({}, zeros, zeros), h, rows)
            slope = fmpq(0) if name == "relu" else rational(float(name.partition(":")[2]))
            for row, _ in itertools.product(range(4), range(4)):
                at = {z: inside(argument, generator)}
                value = [t if t >= 0 else slope * t for t in at[z]]
                value = value if relaxation.alive is None else [value[int(k)] for k in relaxation.alive]
                upper, lower = (dot(rationals(rows[side, row]), value) for side in (0, -1))
                error = rationals(state.error[:, row])
                assert upper <= state_value(state, at, 0, row) + error[0]
                assert lower >= state_value(state, at, 1, row) - error[1]


@both_dtypes
def test_an_activation_step_pays_for_its_own_products(dtype: torch.dtype) -> None:
    """Lines with full mantissas: slope products and offset sums are off by no more than the error."""
    generator = Generator().manual_seed(6)
    for exponents in ((-3, 3), (-30, 30)):
        slopes, offsets = (random_floats((2, 9), dtype, generator, exponents) for _ in range(2))
        offsets = offsets.sort(0).values
        lines = Lines(slopes[0], offsets[0], slopes[1], offsets[1])
        magnitude = random_floats((9,), dtype, generator, exponents).abs()
        z = Affine(((Dense(torch.ones(9, 2, dtype=dtype)), Input((2,))),), None, "z")
        h = Elementwise(activation("relu"), z, "h")
        graph = Graph(Affine(((Dense(torch.ones(1, 9, dtype=dtype)), h),)))
        (domain,), _ = Box(torch.zeros(2), torch.ones(2)).domains(graph)
        steps = BackwardPass(graph, domain, {z: Interval(-magnitude, magnitude)}, {h: Relaxation(lines, magnitude)})
        rows = random_floats((2, 5, 9), dtype, generator, exponents)
        zeros = torch.zeros(2, 5, dtype=dtype)
        state = steps._through_elementwise(Rows({}, zeros, zeros), h, rows)
        for row, chain in itertools.product(range(5), (0, 1)):
            a = rationals(rows[chain, row])
            high = [(t > 0) == (chain == 0) for t in a]
            slope = [rational(float(slopes[int(up), i])) for i, up in enumerate(high)]
            offset = [rational(float(offsets[int(up), i])) for i, up in enumerate(high)]
            found = rationals(state.coefficient[z][1][chain, row])
            missed = sum((abs(t * k - f) * m for t, k, f, m in zip(a, slope, found, rationals(magnitude), strict=True)), fmpq(0))
            missed += abs(dot(a, offset) - rational(float(state.constant[chain, row])))
            assert missed <= rational(float(state.error[chain, row]))


# --- the core --------------------------------------------------------------------------------------------------


def core_graphs(dtype: torch.dtype, generator: Generator, exponents: tuple[int, int]) -> list[Graph]:
    def dense(node: Node, width: int) -> Affine:
        weight = random_floats((width, node.shape[0]), dtype, generator, exponents)
        return Affine(((Dense(weight), node),), random_floats((width,), dtype, generator, (-1, 1)))

    def act(node: Node) -> Elementwise:
        return Elementwise(activation(("relu", "leaky_relu:0.1")[integer(0, 1, generator)]), node)

    x = Input((2,))
    chain = dense(act(dense(act(dense(act(dense(x, 3)), 4)), 3)), 2)
    first = act(dense(x, 3))
    second = Affine(((Dense(random_floats((3, 3), dtype, generator, exponents)), first),
                     (Dense(random_floats((3, 2), dtype, generator, exponents)), x)))
    third = act(second)
    joined = dense(act(_concatenated([third, first, x], dtype)), 2)
    return [Graph(chain), Graph(joined), Graph(act(dense(act(dense(x, 3)), 2)))]


def _concatenated(parts: list[Node], dtype: torch.dtype) -> Affine:
    plain = concatenation(parts)
    return Affine(tuple((operator.to(torch.device("cpu"), dtype), source) for operator, source in plain.terms))


def random_slopes(graph: Graph, dtype: torch.dtype, generator: Generator) -> dict[Node, Interval]:
    """Some neurons dead, some passing, some with a fixed odd slope, the rest uncertain (also of both signs)."""
    found: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            ends = random_floats((2, size(node)), dtype, generator, (-2, 1)).sort(0).values
            kind = torch.randint(0, 5, (size(node),), generator=generator)
            fixed = torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, ends[0]))
            found[node] = Interval(torch.where(kind < 3, fixed, ends[0]), torch.where(kind < 3, fixed, ends[1]))
    return found


def weights_of(graph: Graph, slopes: Mapping[Node, Interval]) -> dict[Node, Tensor]:
    return defect_weights(graph, slopes, interval_adjoints(graph, slopes))


def pick_slopes(slopes: dict[Node, Interval], generator: Generator) -> dict[Node, list[fmpq]]:
    return {node: inside(interval, generator) for node, interval in slopes.items()}


def core_derivative(core: UnstableCore, start: Node, picked: dict[Node, list[fmpq]]) -> tuple[fmpq_mat, fmpq_mat]:
    """What the matrices say, and how wrong they admit to be, both of shape (columns, outputs)."""
    pending: dict[Node, fmpq_mat] = {}
    error = rational_matrix(core.error[start]).transpose()

    def push(source: Node, tangents: fmpq_mat | None) -> None:
        for (target, origin), matrix in core.transfer.items():
            if origin is source:
                image = rational_matrix(matrix)
                image = image if tangents is None else tangents * image
                pending[target] = pending[target] + image if target in pending else image

    push(start, None)
    for block in core.blocks:
        if block is start or block not in pending:
            continue
        before = pending.pop(block)
        slope = [picked[block][int(i)] for i in core.entries[block]]
        after = [before[k, i] * slope[i] for k in range(before.nrows()) for i in range(before.ncols())]
        push(block, fmpq_mat(before.nrows(), before.ncols(), after))
        sizes = fmpq_mat(before.nrows(), before.ncols(), [abs(entry) for entry in after])
        error = error + sizes * rational_matrix(core.error[block]).transpose()
    return pending[core.graph.output], error


@both_dtypes
@pytest.mark.parametrize("exponents", ((-2, 1), (-20, 20)), ids=str)
def test_the_core_misses_no_more_of_the_derivative_than_its_error(dtype: torch.dtype, exponents: tuple[int, int]) -> None:
    """For any slopes: recompute P, Q, R, S without rounding and compare with the matrices, column by column."""
    generator = Generator().manual_seed(7)
    for _ in range(4):
        for graph in core_graphs(dtype, generator, exponents)[:2]:
            slopes = random_slopes(graph, dtype, generator)
            weights = weights_of(graph, slopes)
            core = build_core(graph, slopes, weights)
            for _ in range(3):
                picked = pick_slopes(slopes, generator)
                for node in graph.nodes:
                    true = exact_derivative(graph, picked, node)
                    for j, i in itertools.product(range(true.nrows()), range(true.ncols())):
                        dead = isinstance(node, Elementwise) and not float(slopes[node].magnitude()[i])
                        assert dead or abs(true[j, i]) <= rational(float(weights[node][j, i])), (node.name, j, i)
                for start in (graph.input, *core.blocks):
                    exact = exact_derivative(graph, picked, start)
                    said, error = core_derivative(core, start, picked)
                    entries = range(size(start)) if start is graph.input else core.entries[start].tolist()
                    for (column, entry), j in itertools.product(enumerate(entries), range(size(graph.output))):
                        assert abs(exact[j, entry] - said[column, j]) <= error[column, j], (start.name, j, entry)


@both_dtypes
def test_the_core_of_uncertain_weights_covers_all_of_them(dtype: torch.dtype) -> None:
    generator = Generator().manual_seed(8)
    x = Input((2,))
    factor, radius = random_floats((2,), dtype, generator, (-1, 1)), torch.full((2,), 0.125, dtype=dtype)
    weight = random_floats((2, 2), dtype, generator, (-1, 1))

    def network(first: Scale, second: Scale) -> Graph:
        h = Elementwise(activation("relu"), Affine(((first, x),)))
        return Graph(Affine(((second, Affine(((Dense(weight), h),))),)))

    graph = network(Scale(factor, radius), Scale(factor, radius))
    slopes: dict[Node, Interval] = {graph.nodes[2]: Interval(torch.tensor([0.0, 1.0], dtype=dtype), torch.ones(2, dtype=dtype))}
    weights = weights_of(graph, slopes)
    core = build_core(graph, slopes, weights)
    for sides in itertools.product((-1, 1), repeat=4):
        moved = [Scale(factor + radius * torch.tensor(sides[k : k + 2], dtype=dtype)) for k in (0, 2)]
        true = network(*moved)
        picked: dict[Node, list[fmpq]] = {true.nodes[2]: [fmpq(1, 3), fmpq(1)]}
        exact = exact_derivative(true, picked)
        for node, twin in zip(graph.nodes, true.nodes, strict=True):
            derivative = exact_derivative(true, picked, twin).entries()
            bounds = rationals(weights[node])
            assert all(abs(a) <= b * (1 + fmpq(1, 10**6)) for a, b in zip(derivative, bounds, strict=True))
        said, error = core_derivative(core, graph.input, {graph.nodes[2]: picked[true.nodes[2]]})
        for j, k in itertools.product(range(2), range(2)):
            # The factors themselves were rounded when they were moved: a unit or so of them.
            assert abs(exact[j, k] - said[k, j]) <= error[k, j] + fmpq(1, 10**6)


def test_an_output_that_is_an_activation_has_its_own_place_in_the_core() -> None:
    x = Input((1,))
    graph = Graph(Elementwise(activation("tanh"), Affine(((Dense(torch.ones(1, 1, dtype=torch.float64)), x),))))
    (domain,), _ = Box([-1.0], [1.0]).domains(graph)
    for relaxation in ("constant", "chord"):
        found = RecurJac(relaxation).enclose(graph, domain, Budget()).entries  # type: ignore[arg-type]
        assert float(found.lower) <= 1 - math.tanh(1.0) ** 2 and float(found.upper) >= 1.0


# --- slope times derivative ------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("relax", (constant, chord))
@pytest.mark.parametrize("exponents", ((-3, 3), (-100, 100), (-3, 3)), ids=("plain", "mixed", "dusty"))
def test_product_lines_hold_at_all_slopes_and_derivatives(
    dtype: torch.dtype, relax: ProductRelaxation, exponents: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    generator = Generator().manual_seed(9)
    half = (exponents[0] // 2, exponents[1] // 2)
    slope_ends, ends = random_floats((2, 40), dtype, generator, half), random_floats((2, 3, 40), dtype, generator, half)
    ends[:, :, :6], slope_ends[:, 6:9] = 0.0, slope_ends[0, 6:9]
    ends[0, :, 2:4], ends[1, :, 4:6] = -1.0, 1.0
    if "dusty" in request.node.name:  # one end just beside zero
        ends[0, :, 10:25] = -ends[0, :, 10:25].abs() * unit(dtype)
        ends[1, :, 10:25] = ends[1, :, 10:25].abs()
        ends[0, :, 25:] = -ends[0, :, 25:].abs()
        ends[1, :, 25:] = ends[1, :, 25:].abs() * unit(dtype)
    slope, derivative = (Interval(x.amin(0), x.amax(0)) for x in (slope_ends, ends))
    dust = torch.full((3, 40), 1e-3, dtype=dtype)
    lines = relax(slope, derivative, dust)
    assert bool((lines.upper_offset >= 0).all()) and bool((lines.lower_offset <= 0).all())
    for j, i in itertools.product(range(3), range(40)):
        s_ends = [rational(float(end[i])) for end in (slope.lower, slope.upper)]
        y_ends = [rational(float(end[j, i])) for end in (derivative.lower, derivative.upper)]
        au, bu, al, bl = (rational(float(x[j, i])) for x in
                          (lines.upper_slope, lines.upper_offset, lines.lower_slope, lines.lower_offset))
        for s, y in itertools.product([*s_ends, sum(s_ends) / 2], [*y_ends, sum(y_ends) / 2]):
            assert al * y + bl <= s * y <= au * y + bu


@pytest.mark.parametrize("relax", (constant, chord))
def test_product_lines_of_unbounded_derivatives_claim_nothing(relax: ProductRelaxation) -> None:
    slope = Interval(torch.zeros(3), torch.ones(3))
    derivative = Interval(torch.tensor([[-math.inf, 0.0, -1.0]]), torch.tensor([[math.inf, math.inf, math.inf]]))
    lines = relax(slope, derivative, torch.zeros(1, 3))
    assert lines.upper_offset[0, 0] == math.inf and lines.lower_offset[0, 0] == -math.inf
    assert lines.upper_slope[0, 1] == 1 and lines.upper_offset[0, 1] == 0  # the sign is known
    assert lines.upper_offset[0, 2] == math.inf
    assert not any(bool(x.isnan().any()) for x in vars(lines).values())


@both_dtypes
@pytest.mark.parametrize("relax", (constant, chord))
def test_relaxing_a_block_stays_on_the_right_side(dtype: torch.dtype, relax: ProductRelaxation) -> None:
    """sum s t Y lies between the chains, up to the price that the recursion adds, for all slopes and derivatives."""
    generator = Generator().manual_seed(10)
    for _ in range(6):
        graph = core_graphs(dtype, generator, (-2, 1))[0]
        slopes = random_slopes(graph, dtype, generator)
        core = build_core(graph, slopes, weights_of(graph, slopes))
        recursion = Recursion(core, interval_adjoints(graph, slopes), relax, Budget())
        recursion.run()
        for block in core.blocks:
            width = len(core.entries[block])
            before = random_floats((integer(1, 2, generator), 2, 3, width), dtype, generator, (-6, 6))
            before[..., 0] = 0.0
            after, offset = recursion._through(block, before)
            for j, column in itertools.product(range(2), range(3)):
                y = inside(recursion._derivative[block][j], generator)
                s = inside(core.slopes[block], generator)
                price = 2 * rational(unit(dtype)) * dot([abs(entry) for entry in y], [abs(w) for w in rationals(after[0, j, column])])
                price += rational(tiny(dtype)) * (1 + sum(map(abs, y)))
                for chain, side in ((0, 1), (1, -1)):
                    first = before[chain if len(before) == 2 else 0, j, column]
                    true = dot([a * b for a, b in zip(s, y, strict=True)], rationals(first))
                    said = dot(rationals(after[chain, j, column]), y) + rational(float(offset[chain, j, column]))
                    assert side * true <= side * said + price * (1 + fmpq(1, 1000))


def test_stable_neurons_are_multiplied_out_and_unstable_ones_found() -> None:
    slope = Interval(torch.tensor([0.0, 1.0, 0.0, math.nan, 0.5]), torch.tensor([0.0, 1.0, 1.0, 1.0, 0.5]))
    assert unstable_entries(slope).tolist() == [2, 3]
    graph = core_graphs(torch.float64, Generator().manual_seed(0), (-1, 1))[0]
    ranges = IBP().ranges(graph, Box([0.5, 0.5], [0.5, 0.5]).domains(graph)[0][0], Budget())
    slopes = derivative_ranges(graph, ranges)
    core = build_core(graph, slopes, weights_of(graph, slopes))
    assert core.neurons == 0 and list(core.transfer) == [(graph.output, graph.input)]
