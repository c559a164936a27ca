"""Single functions behind `jacobian/test_core.py`, number by number."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rational, rational_matrix, rationals
from jacobound import IBP, Box, Budget, Graph
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import tiny, unit
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian import core as cores
from jacobound.jacobian import fastlip
from jacobound.jacobian import rounding_weights as defects
from jacobound.jacobian.core import UnstableCore
from jacobound.jacobian.recursion.product_lines import ProductRelaxation, chord, constant
from jacobound.jacobian.recursion.recursion import Recursion
from jacobound.jacobian.tangents import unstable_entries
from jacobound.method import derivative_ranges
from jacobound.operators.kinds import Dense, Scale
from oracles import dot, exact_derivative, point_inside
from single import lifted, nth, single
from zoo import concatenation, integer

build_core, interval_adjoints = single(cores.build_core), single(fastlip.interval_adjoints)


both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)


def core_graphs(dtype: torch.dtype, generator: Generator, exponents: tuple[int, int]) -> list[Graph]:
    def dense(node: Node, width: int) -> Affine:
        weight = random_floats((width, node.shape[0]), dtype, generator, exponents)
        return Affine(((Dense(weight), node),), random_floats((width,), dtype, generator, (-1, 1)))

    def act(node: Node) -> Elementwise:
        return Elementwise(activation(("relu", "leaky_relu:0.1")[integer(0, 1, generator)]), node)

    x = Input((2,))
    chain = dense(act(dense(act(dense(act(dense(x, 3)), 4)), 3)), 2)
    first = act(dense(x, 3))
    second = Affine(
        (
            (Dense(random_floats((3, 3), dtype, generator, exponents)), first),
            (Dense(random_floats((3, 2), dtype, generator, exponents)), x),
        )
    )
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
            kind = torch.randint(0, 6, (size(node),), generator=generator)
            fixed = torch.where(kind == 0, 0.0, torch.where(kind == 1, 1.0, ends[0]))
            low = torch.where(kind == 5, -ends[1].abs(), ends[0])  # as |z| has it
            high = torch.where(kind == 5, ends[1].abs(), ends[1])
            found[node] = Interval(torch.where(kind < 3, fixed, low), torch.where(kind < 3, fixed, high))
    return found


def weights_of(graph: Graph, slopes: Mapping[Node, Interval]) -> dict[Node, Tensor]:
    """By the backward sweep, which `defect_weights` leaves out while interval adjoints are good enough."""
    by_rows = single(lambda *given: defects._Backwards(*given).run())
    return by_rows(graph, slopes, interval_adjoints(graph, slopes))


def recursion_on(graph: Graph, slopes: Mapping[Node, Interval], relax: ProductRelaxation) -> Recursion:
    """The recursion, run, over one set; with the axis of sets."""
    core = cores.build_core(graph, lifted(slopes), lifted(weights_of(graph, slopes)))
    recursion = Recursion(core, lifted(interval_adjoints(graph, slopes)), relax, Budget())
    recursion.run()
    return recursion


def pick_slopes(slopes: dict[Node, Interval], generator: Generator) -> dict[Node, list[fmpq]]:
    return {node: point_inside(interval, generator) for node, interval in slopes.items()}


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
        slope = [picked[block][int(i)] for i in core.unstable[block].union]
        after = [before[k, i] * slope[i] for k in range(before.nrows()) for i in range(before.ncols())]
        push(block, fmpq_mat(before.nrows(), before.ncols(), after))
        sizes = fmpq_mat(before.nrows(), before.ncols(), [abs(entry) for entry in after])
        error = error + sizes * rational_matrix(core.error[block]).transpose()
    return pending[core.graph.output], error


@both_dtypes
@pytest.mark.parametrize("exponents", ((-2, 1), (-20, 20)), ids=str)
def test_the_core_misses_no_more_of_the_derivative_than_its_error(
    dtype: torch.dtype, exponents: tuple[int, int]
) -> None:
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
                    entries = range(size(start)) if start is graph.input else core.unstable[start].union.tolist()
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
    slopes: dict[Node, Interval] = {
        graph.nodes[2]: Interval(torch.tensor([0.0, 1.0], dtype=dtype), torch.ones(2, dtype=dtype))
    }
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


@both_dtypes
@pytest.mark.parametrize("relax", (constant, chord))
def test_relaxing_a_block_stays_on_the_right_side(dtype: torch.dtype, relax: ProductRelaxation) -> None:
    """sum s t Y lies between the chains, up to the price that the recursion adds, for all slopes and derivatives."""
    generator = Generator().manual_seed(10)
    for _ in range(6):
        graph = core_graphs(dtype, generator, (-2, 1))[0]
        slopes = random_slopes(graph, dtype, generator)
        core = build_core(graph, slopes, weights_of(graph, slopes))
        recursion = recursion_on(graph, slopes, relax)
        for block in core.blocks:
            width = len(core.unstable[block].union)
            before = random_floats((integer(1, 2, generator), 2, 3, width), dtype, generator, (-6, 6))
            before[..., 0] = 0.0
            after, offset = map(nth, recursion._through(block, lifted(before)))
            for j, column in itertools.product(range(2), range(3)):
                y = point_inside(recursion._derivative[block][0, j], generator)
                s = point_inside(core.slopes[block], generator)
                price = (
                    2
                    * rational(unit(dtype))
                    * dot([abs(entry) for entry in y], [abs(w) for w in rationals(after[0, j, column])])
                )
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
    ranges = nth(IBP().ranges(graph, Box([0.5, 0.5], [0.5, 0.5]).domains(graph)[0][:1], Budget()))
    slopes = derivative_ranges(graph, ranges)
    core = build_core(graph, slopes, weights_of(graph, slopes))
    assert core.neurons == 0 and list(core.transfer) == [(graph.output, graph.input)]


@both_dtypes
@pytest.mark.parametrize("relax", (constant, chord))
def test_the_recursion_reaches_no_less_than_the_best_slopes(dtype: torch.dtype, relax: ProductRelaxation) -> None:
    """Derivatives behind are positive, so the extreme slopes are known: the bound must hold for them without rounding.

    Weights of the first layer have both signs and all sizes: the sums of the recursion cancel, and round.
    """
    generator = Generator().manual_seed(11)
    for _ in range(8):
        x = Input((2,))
        first = Dense(random_floats((12, 2), dtype, generator, (-3, 3)))
        h = Elementwise(activation("relu"), Affine(((first, x),)))
        second = Dense(random_floats((6, 12), dtype, generator, (-3, 3)).abs())
        g = Elementwise(activation("relu"), Affine(((second, h),)))
        graph = Graph(Affine(((Dense(random_floats((1, 6), dtype, generator, (-3, 3)).abs()), g),)))
        slopes: dict[Node, Interval] = {}
        for node in (h, g):
            low = 0.5 + torch.rand(size(node), generator=generator).to(dtype)
            slopes[node] = Interval(low, low + torch.rand(size(node), generator=generator).to(dtype) / 8)
        found = nth(recursion_on(graph, slopes, relax).bound(x))
        for k, side in itertools.product(range(2), (1, -1)):
            tangent = rationals(first.weight[:, k])
            for node, weight in ((h, second.weight), (g, graph.output.terms[0][0].weight)):
                low, high = rationals(slopes[node].lower), rationals(slopes[node].upper)
                picked = [c if (t > 0) == (side > 0) else a for t, a, c in zip(tangent, low, high, strict=True)]
                after = [s * t for s, t in zip(picked, tangent, strict=True)]
                tangent = [dot(rationals(row), after) for row in weight]
            bound = rational(float((found.upper if side > 0 else found.lower)[0, k]))
            assert side * bound >= side * tangent[0]


@both_dtypes
@pytest.mark.parametrize("relax", (constant, chord))
@pytest.mark.parametrize("unstable", ("summands", "source"))
def test_long_sums_in_the_recursion_are_paid_for(dtype: torch.dtype, relax: ProductRelaxation, unstable: str) -> None:
    """1 + u + u + ... : a float sum loses most of the small terms, whichever way it goes.

    Either every summand is an unstable neuron, and the recursion sums; or the sum goes through stable neurons behind
    one unstable neuron, and the core sums.
    """
    count = 4096
    terms = torch.full((count, 1), 0.9 * unit(dtype), dtype=dtype)
    terms[0] = 1.0
    x = Input((1,))
    one = torch.ones(1, dtype=dtype)
    slopes: dict[Node, Interval] = {}
    source: Node = x
    if unstable == "source":
        source = Elementwise(activation("relu"), Affine(((Dense(one.reshape(1, 1)), x),)))
        slopes[source] = Interval(0.5 * one, one)
    g = Elementwise(activation("relu"), Affine(((Dense(terms), source),)))
    many = one.expand(count)
    slopes[g] = Interval(0.5 * many if unstable == "summands" else many, many)
    graph = Graph(Affine(((Dense(torch.ones(1, count, dtype=dtype)), g),)))
    recursion = recursion_on(graph, slopes, relax)
    exact = sum(rationals(terms), fmpq(0))
    for found in (recursion.bound(x), recursion.along(torch.ones(1, 1, 1, dtype=dtype))):
        assert rational(float(found.upper)) >= exact
        assert rational(float(found.lower)) <= exact / 2
