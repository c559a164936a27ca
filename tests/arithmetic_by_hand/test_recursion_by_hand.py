"""The recursion on cores that are given number by number: prices, errors, chunks, and what is asked for again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

import jacobound as jb
from exact import random_floats, rational, rationals
from jacobound import Budget, Graph, RecurJac, Status
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.rounding import unrounded
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.domains import Domain
from jacobound.jacobian import core as cores
from jacobound.jacobian.core import UnstableCore, core_bytes, unstable_counts
from jacobound.jacobian.recursion import recursion as recursions
from jacobound.jacobian.recursion.product_lines import ProductLines, chord
from jacobound.jacobian.recursion.recursion import Recursion, recur, sums_across
from jacobound.jacobian.tangents import Neurons
from jacobound.method import Query, derivative_ranges
from jacobound.operators.kinds import Dense
from zoo import normal

U = fmpq(1, 2**53)
SETS = 60


def gamma(terms: int) -> fmpq:
    return terms * U / (1 - terms * U)


def chain(layers: int, inputs: int = 1, width: int = 1) -> tuple[Graph, list[Elementwise]]:
    """Inputs, layers of neurons, one output; the weights do not matter here."""
    node: Node = Input((inputs,))
    blocks = []
    for _ in range(layers):
        weight = torch.ones(width, node.shape[0], dtype=torch.float64)
        node = Elementwise(activation("relu"), Affine(((Dense(weight), node),)))
        blocks.append(node)
    return Graph(Affine(((Dense(torch.ones(1, node.shape[0], dtype=torch.float64)), node),))), blocks


def whole(graph: Graph, sets: int = SETS) -> dict[Node, Interval]:
    return {node: Interval.whole(graph.example.new_zeros(sets, 1, *node.shape)) for node in graph.nodes}


def numbers(generator: Generator, *shape: int) -> Tensor:
    """Positive, of one size."""
    return random_floats(shape, torch.float64, generator, (-1, 1)).abs()


class Line:
    """Two neurons one behind the other, with a path around each: all numbers positive, so that the extremes are known.

    Over every set the derivative is at most ``d + a s (e + b t c)`` for slopes up to s and t.
    """

    def __init__(self, errors: tuple[float, float, float], sign: float = 1.0) -> None:
        generator = Generator().manual_seed(3)
        self.graph, (first, second) = chain(2)
        x, out = self.graph.input, self.graph.output
        self.a, self.b, self.c, self.d, self.e = (numbers(generator, SETS, 1, 1) for _ in range(5))
        self.d, self.e = self.d * 2.0**-8, self.e * 2.0**-8
        ends = numbers(generator, 2, 2, SETS, 1).sort(0).values
        self.s, self.t = ends[1]
        names = zip((x, first, second), errors, strict=True)
        self.error = {node: numbers(generator, SETS, 1, 1) * size for node, size in names}
        slopes: dict[Node, Interval] = {node: Interval(*ends[:, k]) for k, node in enumerate((first, second))}
        transfer = {
            (first, x): self.a,
            (second, first): self.b,
            (out, second): self.c,
            (out, x): self.d,
            (out, first): self.e,
        }
        transfer = {ends: matrix * (sign if ends[0] is out else 1.0) for ends, matrix in transfer.items()}
        mask = torch.ones(SETS, 1).bool()
        unstable = {node: Neurons.of(mask) for node in (first, second)}
        self.core = UnstableCore(self.graph, (first, second), unstable, slopes, transfer, self.error)
        self.recursion = Recursion(self.core, whole(self.graph), chord, Budget())
        self.recursion.run()
        self.blocks = (first, second)

    def largest(self) -> dict[Node, list[tuple[fmpq, fmpq]]]:
        """(largest value, errors that come with it) of the derivative by each start, set by set."""
        x, first, second = self.graph.input, *self.blocks
        found: dict[Node, list[tuple[fmpq, fmpq]]] = {x: [], first: [], second: []}
        parts = (self.a, self.b, self.c, self.d, self.e, self.s, self.t, *self.error.values())
        for a, b, c, d, e, s, t, p, q, r in zip(*map(rationals, parts), strict=True):
            found[second].append((c, r))
            found[first].append((e + b * t * c, q + b * t * r))
            found[x].append((d + a * s * (e + b * t * c), p + a * s * (q + b * t * r)))
        return found


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    "errors", [(0.0, 0.0, 0.0), (2.0**60, 0.0, 0.0), (2.0**60, 1.0, 1.0), (0.0, 2.0**-70, 0.0), (0.0, 0.0, 2.0**-70)]
)
def test_errors_of_all_starts_are_carried_along(errors: tuple[float, float, float], sign: float) -> None:
    line = Line(errors, sign)
    for start, expected in line.largest().items():
        found = line.recursion.bound(start)
        ends = found.upper if sign > 0 else -found.lower
        for number, (value, error) in zip(ends.flatten().tolist(), expected, strict=True):
            least = value + error
            assert least <= rational(number) <= least + value * 400 * U + error * 60 * U + fmpq(1, 10**280)


def test_errors_alone_are_rounded_up_at_every_step() -> None:
    """Large errors in front of small numbers: nothing else has room for what a step loses."""
    for errors in ((1.0, 2.0**-80, 2.0**-80), (1.0, 1.0, 2.0**-80), (1.0, 1.0, 1.0)):
        line = Line(errors)
        small = {ends: matrix * 2.0**-70 for ends, matrix in line.core.transfer.items() if ends[0] is line.graph.output}
        core = replace(line.core, transfer={**line.core.transfer, **small})
        recursion = Recursion(core, whole(line.graph), chord, Budget())
        recursion.run()
        # The sign of the derivative is not known now, so that the errors come with it at both neurons.
        price = recursion._price_of(line.graph.input)
        least = rationals(line.error[line.graph.input])
        assert all(a <= rational(b) for a, b in zip(least, price.flatten().tolist(), strict=True))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0**40])
def test_prices_count_every_sum_with_what_stands_behind(scale: float) -> None:
    """Six layers of two neurons, ten inputs; errors of each size."""
    generator = Generator().manual_seed(4)
    graph, blocks = chain(6, 10, 2)
    x, out = graph.input, graph.output
    order = [x, *blocks, out]
    size = {x: 10, **dict.fromkeys(blocks, 2), out: 1}
    transfer = {
        (target, start): random_floats((1, size[start], size[target]), torch.float64, generator, (-2, 1))
        for k, start in enumerate(order)
        for target in order[k + 1 :]
    }
    error = {node: numbers(generator, 1, 1, size[node]) * scale for node in order[:-1]}
    ends = {node: numbers(generator, 2, 1, 2).sort(0).values for node in blocks}
    slopes: dict[Node, Interval] = {node: Interval(*pair) for node, pair in ends.items()}
    unstable = {node: Neurons(torch.arange(2), None) for node in blocks}
    core = UnstableCore(graph, tuple(blocks), unstable, slopes, transfer, error)
    found = Recursion(core, whole(graph, 1), chord, Budget())
    found.run()
    for node in order[:-1]:
        price = found._price_of(node)
        assert found._price_of(node) is price
        total = [fmpq(0)] * size[node]
        for (target, start), matrix in transfer.items():
            if start is node:
                weight = [fmpq(1)] if target is out else rationals(found._weight[target])
                rows = [rationals(row) for row in matrix[0]]
                total = [
                    was + sum((abs(a) * w for a, w in zip(row, weight, strict=True)), fmpq(0))
                    for was, row in zip(total, rows, strict=True)
                ]
        own = [fmpq(0)] * size[node] if node is x else [abs(y) for y in largest(found._derivative[node])]
        terms = 12 + 10 + 6
        for given, e, t, y in zip(price.flatten().tolist(), rationals(error[node]), total, own, strict=True):
            last = 2 * U * y * int(node not in found._price)
            assert e + t * gamma(terms) + last <= rational(given)
            assert rational(given) <= e * (1 + 20 * U) + t * gamma(terms + 4) * fmpq(10001, 10000) + 3 * U * y


def largest(x: Interval) -> list[fmpq]:
    return [max(abs(a), abs(b)) for a, b in zip(rationals(x.lower), rationals(x.upper), strict=True)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_price_counts_the_rounding_of_the_product_with_the_derivative(sign: float) -> None:
    """Once the derivative of a block is known, two units of it; before that nothing."""
    line = Line((0.0, 0.0, 0.0), sign)
    first, second = line.blocks
    for block in (first, second):
        line.recursion._price.pop(block, None)
        with_it = line.recursion._price_of(block)
        line.recursion._price.pop(block)
        known = line.recursion._derivative.pop(block)
        without = line.recursion._price_of(block)
        line.recursion._derivative[block] = known
        for a, b, y in zip(rationals(with_it), rationals(without), largest(known), strict=True):
            assert b + 2 * U * y <= a <= (b + 2 * U * y) * (1 + 8 * U)
    with unrounded():
        line.recursion._price.clear()
        assert torch.equal(line.recursion._price_of(line.graph.input), line.error[line.graph.input])


def test_prices_of_a_direction_hold_for_long_sums() -> None:
    """1 + u + u + ...: a float sum loses many of the small terms."""
    graph, _ = chain(0, 4096)
    price = torch.full((1, 1, 4096), 0.9 * 2.0**-53, dtype=torch.float64)
    price[..., 0] = 1.0
    core = UnstableCore(
        graph, (), {}, {}, {(graph.output, graph.input): torch.zeros(1, 4096, 1).double()}, {graph.input: price}
    )
    recursion = Recursion(core, whole(graph, 1), chord, Budget())
    for u in (torch.ones(1, 1, 4096).double(), -torch.ones(1, 1, 4096).double()):
        found = recursion.along(u)
        exact = sum(rationals(price), fmpq(0))
        for end in (found.upper, -found.lower):
            assert exact <= rational(float(end)) <= exact * (1 + 100000 * U)
    half = recursion.along(torch.full((1, 1, 4096), 0.5).double())
    assert float(half.upper) == pytest.approx(0.5, rel=1e-9)


def test_prices_of_many_neurons_hold_for_long_sums() -> None:
    """Derivatives of the neurons are known to be 0 here, so that nothing is paid for products with them."""
    graph, (block,) = chain(1, 1, 4096)
    price = torch.full((1, 1, 4096), 0.9 * 2.0**-53, dtype=torch.float64)
    price[..., 0] = 1.0
    one = torch.ones(1, 4096).double()
    transfer = {(block, graph.input): one[:, None], (graph.output, block): torch.zeros(1, 4096, 1).double()}
    error = {graph.input: torch.zeros(1, 1, 1).double(), block: price}
    unstable = {block: Neurons(torch.arange(4096), None)}
    core = UnstableCore(graph, (block,), unstable, {block: Interval(one, one)}, transfer, error)
    known = Interval.exact(torch.zeros(1, 1, 4096).double())
    recursion = Recursion(core, {**whole(graph, 1), block: known}, chord, Budget())
    recursion.run()
    found = recursion.bound(graph.input)
    exact = sum(rationals(price), fmpq(0))
    for end in (found.upper, -found.lower):
        assert exact <= rational(float(end)) <= exact * (1 + 100000 * U)


def test_products_that_vanish_are_not_lost() -> None:
    """The derivative is positive, or negative, but far below the smallest number."""
    for sign in (1.0, -1.0):
        line = Line((0.0, 0.0, 0.0), sign)
        x, out = line.graph.input, line.graph.output
        small = {
            ends: matrix * 1e-200
            for ends, matrix in line.core.transfer.items()
            if ends not in ((out, x), (out, line.blocks[0]))
        }
        recursion = Recursion(replace(line.core, transfer=small), whole(line.graph), chord, Budget())
        recursion.run()
        found = recursion.bound(x)
        assert bool(((found.upper if sign > 0 else -found.lower) > 0).all()) and float(found.magnitude().max()) < 1e-290


def test_what_is_known_is_intersected() -> None:
    line = Line((0.0, 0.0, 0.0))
    plain = line.recursion.bound(line.graph.input)
    middle = (plain.lower + plain.upper) / 2
    wide = Interval(2 * plain.lower - plain.upper, 2 * plain.upper)
    for known, expected in ((Interval(plain.lower, middle), middle), (wide, plain.upper)):
        recursion = Recursion(line.core, {**whole(line.graph), line.graph.input: known}, chord, Budget())
        recursion.run()
        assert torch.equal(recursion.bound(line.graph.input).upper, expected)


def told(core: UnstableCore, memory: int) -> list[tuple[float, float, str]]:
    calls: list[tuple[float, float, str]] = []
    budget = Budget(memory=memory, progress=lambda *call: calls.append(call))
    recursion = Recursion(core, whole(core.graph, core.sets), chord, budget)
    recursion.run()
    recursion.bound(core.graph.input)
    return calls


def wide_core(inputs: int) -> UnstableCore:
    graph, (block,) = chain(1, inputs)
    transfer = {
        (block, graph.input): torch.ones(1, inputs, 1).double(),
        (graph.output, block): torch.ones(1, 1, 1).double(),
    }
    error = {graph.input: torch.zeros(1, 1, inputs).double(), block: torch.zeros(1, 1, 1).double()}
    slopes: dict[Node, Interval] = {block: Interval(torch.zeros(1, 1).double(), torch.ones(1, 1).double())}
    return UnstableCore(graph, (block,), {block: Neurons(torch.arange(1), None)}, slopes, transfer, error)


def test_columns_are_cut_into_chunks_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight numbers for each column, output, neuron and output; a quarter of the memory is always free."""
    core = wide_core(64)
    each, taken = 8 * 2 * 8, 10_000
    monkeypatch.setattr(recursions, "matrix_bytes", lambda *_: taken)
    for memory, step in ((taken + 40 * each, 40), (7 * 4 * each + 4, 7), (1, 1)):
        free = max(memory - taken, memory // 4)
        assert max(1, free // each) == step
        stops = [min(64, k + step) for k in range(0, 64, step)]
        calls = told(core, memory)
        assert calls[:2] == [(0, 2, "Jacobian"), (1, 1, "Jacobian columns")]
        assert calls[2:] == [(stop, 64, "Jacobian columns") for stop in stops]
    monkeypatch.setattr(recursions, "CHUNK", 30 * each)
    assert [done for done, *_ in told(core, 1 << 30)[2:]] == [30, 60, 64]


def test_offsets_of_many_neurons_are_added_outward() -> None:
    """1 + u + u + ...: a float sum loses many of the small terms, of either sign."""
    core = wide_core(1)
    recursion = Recursion(core, whole(core.graph, 1), chord, Budget())
    many = torch.full((1, 1, 4096), 0.9 * 2.0**-53, dtype=torch.float64)
    many[..., 0] = 1.0
    zero, (block,) = torch.zeros_like(many), core.blocks
    exact = sum(rationals(many), fmpq(0))
    for upper, lower in ((many, zero), (zero, -many)):
        recursion._lines[block] = ProductLines(zero, lower, zero, upper)
        for sign in (1.0, -1.0):
            before = torch.full((1, 1, 1, 1, 4096), sign, dtype=torch.float64)
            _, ((above, below),) = recursion._through(block, before)
            above, below = rational(float(above)), rational(float(below))
            assert above >= 0 >= below and above - below >= exact
            assert (above >= exact) == ((upper is many) == (sign > 0))
            assert above - below <= exact * (1 + 100000 * U)


def test_what_vanishes_counts_with_all_derivatives_behind() -> None:
    """Of the output, of the neurons, and of their arguments: slopes are small here, and derivatives large."""
    for sign, slope in ((1.0, 2.0**-10), (-1.0, 2.0**-10), (1.0, 2.0**10)):
        line = Line((0.0, 0.0, 0.0), sign * 1000.0)
        slopes = {node: Interval(one.lower * slope, one.upper * slope) for node, one in line.core.slopes.items()}
        recursion = Recursion(replace(line.core, slopes=slopes), whole(line.graph), chord, Budget())
        recursion.run()
        behind = [fmpq(1)] * SETS
        for block in line.blocks:
            parts = rationals(recursion._weight[block]), largest(recursion._derivative[block])
            behind = [b + w + y for b, w, y in zip(behind, *parts, strict=True)]
        floor = recursion._floor()
        assert isinstance(floor, Tensor) and floor.shape == (SETS, 1, 1, 1)
        terms, least = 2 + 1 + 2, rational(2.0**-1022)
        for found, total in zip(floor.flatten().tolist(), behind, strict=True):
            assert total * terms * least * 3 <= rational(found) <= total * (terms + 6) * least * 7
    with unrounded():
        assert recursion._floor() == 0.0


def test_columns_that_come_too_late_keep_what_is_known() -> None:
    """Chunks of one column; the time is over after the first, or before it, and the rest is as wide as before."""
    core = wide_core(3)
    ends = torch.tensor([[[5.0, 6.0, 7.0]]]).double()
    for allowed, expected in ((0, [5.0, 6.0, 7.0]), (1, [1.0, 6.0, 7.0]), (2, [1.0, 1.0, 7.0]), (9, [1.0, 1.0, 1.0])):
        recursion = Recursion(core, {**whole(core.graph, 1), core.graph.input: Interval(-ends, ends)}, chord, Budget())
        recursion.run()
        assert not recursion.late
        done: list[float] = []
        recursion._free = Budget(memory=1)
        recursion._budget = Counted(progress=lambda *call, done=done: done.append(call[0]), allowed=allowed, done=done)
        found = recursion.bound(core.graph.input)
        assert found.upper.flatten().tolist() == pytest.approx(expected) and recursion.late == (allowed < 3)


@dataclass(frozen=True)
class Counted(Budget):
    """A budget whose time is over after so many reports."""

    allowed: int = 0
    done: list[float] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        return len(self.done) >= self.allowed


@pytest.mark.parametrize("sets", [1, 3])
def test_columns_of_the_core_go_in_shares_of_what_every_set_has_left(
    sets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten inputs and one neuron: five at a time. Time that is over ends it between shares, not before the first."""
    monkeypatch.setattr(cores, "LEAST_COLUMNS", 1)
    graph, (block,) = chain(1, 10)
    slopes: dict[Node, Interval] = {block: Interval(torch.zeros(sets, 1).double(), torch.ones(sets, 1).double())}
    weights = {node: torch.ones(sets, 1, *node.shape).double() for node in graph.nodes}
    memory = sets * (cores.matrix_bytes(graph, 1) + 5 * cores.column_bytes(graph))
    told: list[tuple[float, float, str]] = []
    core = cores.build_core(graph, slopes, weights, Budget(memory=memory, progress=lambda *call: told.append(call)))
    assert core is not None and told == [(k, 3, "unstable core") for k in range(3)]
    assert core.transfer[block, graph.input].shape[1:] == (10, 1) and core.error[graph.input].shape[2] == 10
    late = Budget(1.0, memory, started=-1e9)
    assert cores.build_core(graph, slopes, weights, late) is None
    assert cores.build_core(graph, slopes, weights, replace(late, memory=1 << 20)) is not None


# --- memory and time -------------------------------------------------------------------------------------------------


def network(sets: int) -> tuple[Graph, Domain, dict[Node, Interval]]:
    generator = Generator().manual_seed(6)
    graph = jb.from_layers([normal((8, 3), generator), normal((8, 8), generator), normal((2, 8), generator)]).with_rows(
        None
    )
    middle = normal((sets, 3), generator)
    domain = Domain(Interval(middle - 0.5, middle + 0.5))
    return graph, domain, dict(derivative_ranges(graph, jb.CROWN().ranges(graph, domain, Budget())))


def test_sets_that_go_together_must_fit_the_memory_together() -> None:
    graph, _, slopes = network(4)
    counts = unstable_counts(graph, slopes)
    assert int(counts.amax(1).sum()) > int(counts.amin(1).sum())
    needed = 4 * core_bytes(graph, int(counts.amax(1).sum()))

    def status(memory: int, seconds: float | None = None) -> Status:
        budget = Budget(seconds, memory, started=-1e9) if seconds is not None else Budget(memory=memory)
        return recursions._recur_together(graph, slopes, {}, chord, budget, {}).status

    assert status(needed) is Status.CERTIFIED and status(needed - 1) is Status.MEMORY_LIMIT
    assert status(needed, 1.0) is Status.TIME_LIMIT and status(needed - 1, 1.0) is Status.MEMORY_LIMIT


def test_groups_of_sets_go_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _, slopes = network(4)
    asked = []
    honest = recursions._recur_together

    def spy(graph: Graph, own: dict[Node, Interval], *rest: Any) -> Any:
        asked.append(len(next(iter(own.values())).lower))
        return honest(graph, own, *rest)

    monkeypatch.setattr(recursions, "_recur_together", spy)
    found = []
    for groups in ([[0, 1, 2, 3]], [[2, 0], [3, 1]]):
        monkeypatch.setattr(recursions, "grouped", lambda *_, groups=groups: [torch.tensor(one) for one in groups])
        asked.clear()
        found.append(recur(graph, slopes, {}, chord, Budget()).entries)
        assert asked == [len(one) for one in groups]
    assert torch.allclose(found[0].upper, found[1].upper, rtol=1e-12)


# --- sums across -----------------------------------------------------------------------------------------------------


def test_what_a_row_behind_the_graph_says_is_intersected_with_the_entries() -> None:
    graph = jb.from_layers([torch.eye(3), torch.ones(3, 3)]).with_rows(None)
    generator = Generator().manual_seed(8)
    ends = normal((2, 1, 3, 3), generator).sort(0).values
    entries, directions = Interval(ends[0], ends[1]), normal((2, 3, 3), generator)

    def answer(size: float) -> Interval:
        def bound(merged: Graph, own: Mapping[Node, Interval]) -> Interval:
            full = torch.full((1, merged.out_shape[0], 3), size).double()
            return Interval(-full, full)

        return sums_across(graph, {}, entries, directions, bound, Budget())

    plain = interval_dot(directions.mT, entries.map(lambda end: end.mT.expand(2, -1, -1)))
    found = answer(1e6)
    assert torch.equal(found.lower, plain.lower) and torch.equal(found.upper, plain.upper)
    narrow = answer(0.0)
    held = (plain.lower <= 0) & (plain.upper >= 0)
    assert bool(held.any()) and not narrow.magnitude()[held].any()


def test_the_longest_columns_get_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recursions, "MOST_ROWS", 1)
    graph = jb.from_layers([torch.ones(2, 4)]).with_rows(None)
    size = torch.tensor([1.0, 4.0, 2.0, 3.0]).double()
    for ends in ((0 * size, size), (-size, 0 * size)):
        entries = Interval(*(end.expand(1, 2, 4) for end in ends))
        directions = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]]).double()[None]
        rows = []

        def bound(merged: Graph, own: Mapping[Node, Interval], rows: list[Tensor] = rows) -> Interval:
            rows.append(merged.output.terms[0][0].materialise())  # type: ignore[union-attr]
            return Interval.whole(torch.zeros(1, merged.out_shape[0], 4).double())

        sums_across(graph, {}, entries, directions, bound, Budget())
        assert rows[0].tolist() == [[1.0, 2.0], [1.0, 4.0]]


def test_without_neurons_every_set_has_the_one_derivative_also_in_sums() -> None:
    weight = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]]).double()
    graph = jb.from_layers([weight]).with_rows(None)
    ends = torch.ones(3, 3).double()
    found = RecurJac().enclose(Query(graph, Domain(Interval(-ends, ends)), Budget()))
    directions = normal((3, 2, 3), Generator().manual_seed(9))
    assert found.across is not None
    for sums, axis in ((found.across(directions), 1), (found.along(directions), 2)):
        assert torch.allclose(sums.upper, (weight * directions).sum(axis)) and math.isfinite(float(sums.width.max()))
