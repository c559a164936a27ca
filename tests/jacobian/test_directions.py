"""Forward versions of RecurJac: the reversed network, both directions together, and what they cost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq, fmpq_mat
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import zoo
from exact import rational, rationals
from jacobound import CROWN, Ball, Budget, Graph, InvalidOptionError, RecurJac, ShapeError, Status, from_layers
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import strict, unrounded
from jacobound.graph.nodes import Elementwise, Node, size
from jacobound.jacobian import fastlip
from jacobound.jacobian.recursion import directions, recursion, reversal
from jacobound.jacobian.recursion.product_lines import ProductRelaxation, chord, constant
from jacobound.jacobian.recursion.reversal import reversed_graph, tail
from jacobound.jacobian.tangents import unstable_entries
from jacobound.method import JacobianEnclosure, Query, derivative_ranges
from oracles import exact_derivative, point_inside
from single import nth, single

interval_adjoints, operations = single(fastlip.interval_adjoints), single(reversal.operations)
recur, forward, forward_shifted, both = map(
    single, (recursion.recur, reversal.forward, reversal.forward_shifted, directions.both)
)
from_the_other_side, sweep_operations = map(single, (directions.from_the_other_side, directions.sweep_operations))
GRAPHS = ("mlp", "residual", "dense_connections", "input_skip", "node_used_twice", "convolution", "several_consumers")
RUNS = {"backward": recur, "forward": forward, "forward-shifted": forward_shifted, "both": both}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(x: Interval) -> Interval:
    return x.map(lambda end: end.flatten(1))


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("seed", range(3))
def test_the_derivative_of_the_reversed_network_is_the_transposed_one(kind: str, seed: int) -> None:
    """With one known slope per neuron both are one matrix, whatever the graph looks like."""
    graph = zoo.realised(getattr(zoo, kind)(generator(seed)), generator(seed)).with_rows(None).with_affine_output()
    draw = generator(seed + 100)
    slopes: dict[Node, Interval] = {
        node: Interval.exact(torch.randn(node.shape, generator=draw, dtype=torch.float64))
        for node in graph.nodes
        if isinstance(node, Elementwise)
    }
    backwards, their_slopes = reversed_graph(graph, slopes)
    straight = flat(interval_adjoints(graph, slopes)[graph.input])
    mirrored = flat(interval_adjoints(backwards, their_slopes)[backwards.input])
    assert len(their_slopes) == len(slopes)
    scale = 1e-11 * (1 + float(straight.magnitude().max()))
    assert float((straight.lower - mirrored.upper.T).max()) <= scale
    assert float((mirrored.lower.T - straight.upper).max()) <= scale
    assert float(straight.width.max()) <= scale and float(mirrored.width.max()) <= scale


def random_slopes(graph: Graph, draw: torch.Generator) -> dict[Node, Interval]:
    """Some neurons with a known slope, most with an interval, some of it with both signs."""
    found: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            ends = torch.randn(2, *node.shape, generator=draw, dtype=torch.float64).clamp(min=-0.25).sort(0).values
            known = torch.rand(node.shape, generator=draw) < 0.3
            found[node] = Interval(*(torch.where(known, 1.0, end) for end in ends))
    return found


def holds(bounds: Interval, exact: list[fmpq]) -> bool:
    ends = zip(bounds.lower.flatten().tolist(), exact, bounds.upper.flatten().tolist(), strict=True)
    return all(
        (low == -math.inf or rational(low) <= x) and (high == math.inf or x <= rational(high)) for low, x, high in ends
    )


def weighted_sums(jacobian: fmpq_mat, weights: Tensor, axis: int) -> list[fmpq]:
    """``sum J[j, k] weights[j, k]`` over the columns (axis 1) or over the rows (axis 0)."""
    rows, columns = range(jacobian.nrows()), range(jacobian.ncols())
    term = [[jacobian[j, k] * rational(float(weights[j, k])) for k in columns] for j in rows]
    lines = term if axis == 1 else list(zip(*term, strict=True))
    return [sum(line, fmpq(0)) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("relax", (constant, chord))
def test_every_direction_encloses_the_exact_derivative_for_all_slopes(kind: str, relax: ProductRelaxation) -> None:
    """Entries, sums along rows and across columns, and what one direction tells the other; nothing is tolerated."""
    for seed in range(2):
        draw = generator(seed)
        graph = zoo.realised(getattr(zoo, kind)(draw), draw).with_rows(None).with_affine_output()
        slopes = random_slopes(graph, draw)
        shape = (size(graph.output), size(graph.input))
        smooth = torch.randn(shape, generator=draw, dtype=torch.float64)
        signs = torch.randint(-1, 2, shape, generator=draw).double()
        with torch.no_grad(), strict(graph.device, graph.dtype):
            found = {name: run(graph, slopes, {}, relax, Budget()) for name, run in RUNS.items()}
            behind = from_the_other_side(graph, slopes, relax, Budget())
            sums = {
                (name, which): (found[name].along(u), across(found[name], u))
                for name in RUNS
                for which, u in enumerate((smooth, signs))
            }
        for _ in range(3):
            picked = {node: point_inside(slopes[node], draw) for node in slopes}
            jacobian = exact_derivative(graph, picked)
            for name, enclosure in found.items():
                assert holds(enclosure.entries, jacobian.entries()), name
                for node, bounds in enclosure.adjoints.items():
                    assert holds(bounds, exact_derivative(graph, picked, node).entries()), (name, node.name)
                for which, u in enumerate((smooth, signs)):
                    along, across_it = sums[name, which]
                    assert holds(along, weighted_sums(jacobian, u, 1)), (name, which)
                    assert holds(across_it, weighted_sums(jacobian, u, 0)), (name, which)
            for node, bounds in behind.items():
                assert holds(bounds, exact_derivative(graph, picked, node).entries()), node.name


@pytest.mark.slow
@pytest.mark.parametrize("relax", (constant, chord))
def test_where_all_weights_are_positive_every_direction_is_exact(relax: ProductRelaxation) -> None:
    """The extreme slopes are known then: the bounds must hold for them without any tolerance, and hardly more."""
    for seed in range(3):
        draw = generator(seed)
        widths = (3, 6, 5, 5, 4, 2)
        weights = [torch.rand(b, a, generator=draw, dtype=torch.float64) for a, b in itertools.pairwise(widths)]
        graph = from_layers(weights).with_rows(None).with_affine_output()
        slopes: dict[Node, Interval] = {}
        for node in graph.nodes:
            if isinstance(node, Elementwise):
                low = torch.rand(node.shape, generator=draw, dtype=torch.float64)
                slopes[node] = Interval(low, low + torch.rand(node.shape, generator=draw, dtype=torch.float64))
        ends = []
        for end in ("lower", "upper"):
            picked = {node: [rational(x) for x in getattr(slope, end).tolist()] for node, slope in slopes.items()}
            ends.append(exact_derivative(graph, picked))
        for name, run in RUNS.items():
            found = run(graph, slopes, {}, relax, Budget())
            ones = torch.ones_like(found.entries.lower)
            for bounds, (low, high) in (
                (found.entries, [end.entries() for end in ends]),
                (found.along(ones), [weighted_sums(end, ones, 1) for end in ends]),
                (across(found, ones), [weighted_sums(end, ones, 0) for end in ends]),
            ):
                assert holds(bounds, low) and holds(bounds, high), name
                best = Interval(*(torch.tensor([float(x) for x in end], dtype=torch.float64) for end in (low, high)))
                assert width(bounds) <= width(best) * (1 + 1e-9), name


@pytest.mark.slow
@pytest.mark.parametrize("unstable", [1, 4096])
def test_long_sums_of_the_interval_step_are_paid_for(unstable: int) -> None:
    """1 + u + u + ... loses small terms in floating point, whichever way it goes."""
    terms = torch.full((4096, 1), 0.9 * 2.0**-53, dtype=torch.float64)
    terms[0] = 1.0
    graph = from_layers([terms, torch.ones(1, 4096)]).with_rows(None).with_affine_output()
    one = torch.ones(4096, dtype=torch.float64)
    low = one.clone()
    low[:unstable] = 0.5
    slopes: dict[Node, Interval] = {graph.crossings[0]: Interval(low, one)}
    found = forward_shifted(graph, slopes, {}, chord, Budget())
    for bounds in (found.entries, found.along(torch.ones(1, 1, dtype=torch.float64))):
        assert holds(Interval(bounds.lower.flatten(), bounds.upper.flatten()), [sum(rationals(terms), fmpq(0))])
        assert float(bounds.lower) <= 0.5


def across(enclosure: JacobianEnclosure, u: Tensor) -> Interval:
    assert enclosure.across is not None
    return enclosure.across(u)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ("mlp", "residual", "dense_connections", "several_consumers"))
@pytest.mark.parametrize("relaxation", ["constant", "chord"])
def test_both_directions_are_never_wider_than_either(kind: str, relaxation: str) -> None:
    for seed in range(4):
        graph = getattr(zoo, kind)(generator(seed)).with_rows(None).with_affine_output()
        centre = torch.randn(graph.in_shape, generator=generator(seed + 50), dtype=torch.float64)
        (domain,), _ = Ball(centre, 0.3).domains(graph)
        with torch.no_grad(), strict(graph.device, graph.dtype):
            ranges = CROWN().ranges(graph, domain, Budget())
            found = {
                direction: nth(
                    RecurJac(relaxation, direction=direction).enclose(Query(graph, domain, Budget(), ranges=ranges))
                )  # type: ignore[arg-type]
                for direction in RUNS
            }
            ones = torch.ones_like(found["both"].entries.lower)
            sums = {direction: (result.along(ones), across(result, ones)) for direction, result in found.items()}
        for direction in ("backward", "forward"):
            assert bool((found["both"].entries.lower >= found[direction].entries.lower).all())
            assert bool((found["both"].entries.upper <= found[direction].entries.upper).all())
            for together, alone in zip(sums["both"], sums[direction], strict=True):
                assert bool((together.upper <= alone.upper).all()) and bool((together.lower >= alone.lower).all())
        for one, other in itertools.product(found.values(), repeat=2):  # they enclose one matrix, so any two meet
            assert bool((one.entries.lower <= other.entries.upper).all())


def layered(widths: tuple[int, ...], seed: int, radius: float) -> tuple[Graph, dict[Node, Interval]]:
    """A random ReLU network and its slopes over a ball."""
    draw = generator(seed)
    weights = [zoo.normal((b, a), draw, 1.3 / math.sqrt(a)) for a, b in itertools.pairwise(widths)]
    biases = [zoo.normal((b,), draw, 0.3) for b in widths[1:]]
    graph = from_layers(weights, biases).with_rows(None).with_affine_output()
    (domain,), _ = Ball(zoo.normal((widths[0],), draw), radius).domains(graph)
    with torch.no_grad(), strict(graph.device, graph.dtype):
        return graph, nth(derivative_ranges(graph, CROWN().ranges(graph, domain, Budget(), with_output=False)))


def width(x: Interval) -> float:
    return float((x.upper - x.lower).sum())


@pytest.mark.slow
def test_the_second_sweep_narrows_what_both_directions_found() -> None:
    gains = {}
    for relax in (constant, chord):
        ratios = []
        for seed in range(4):
            graph, slopes = layered((6, 12, 12, 12, 12, 12, 3), seed, 0.3)
            together = both(graph, slopes, {}, relax, Budget()).entries
            plain = recur(graph, slopes, {}, relax, Budget()).entries
            plain = plain.intersect(forward(graph, slopes, {}, relax, Budget()).entries)
            ratios.append(width(together) / width(plain))
        gains[relax] = sum(ratios) / len(ratios)
        assert max(ratios) <= 1.0
    assert gains[constant] <= 0.975 and gains[chord] <= 0.99, gains


def test_a_second_sweep_with_the_own_bounds_gains_nothing() -> None:
    """The recursion is subadditive: it never lies above an interval step from the bounds that it met behind."""
    for relax, seed in itertools.product((constant, chord), range(3)):
        graph, slopes = layered((5, 9, 9, 9, 9, 3), seed, 0.3)
        once = recur(graph, slopes, {}, relax, Budget())
        twice = recur(graph, slopes, {}, relax, Budget(), dict(once.adjoints))
        again = recur(graph, slopes, {}, relax, Budget(), {k: v for k, v in once.adjoints.items() if k in slopes})
        assert width(again.entries) >= width(once.entries) * (1 - 1e-10)
        assert width(twice.entries) >= width(once.entries) * (1 - 1e-10)


@pytest.mark.parametrize("kind", ("residual", "dense_connections", "several_consumers", "node_used_twice"))
def test_the_tail_behind_any_activation_has_the_derivative_behind_it(kind: str) -> None:
    for seed in range(3):
        graph = getattr(zoo, kind)(generator(seed)).with_rows(None).with_affine_output()
        draw = generator(seed + 100)
        slopes: dict[Node, Interval] = {
            node: Interval.exact(torch.randn(node.shape, generator=draw, dtype=torch.float64))
            for node in graph.nodes
            if isinstance(node, Elementwise)
        }
        picked = {node: point_inside(slopes[node], draw) for node in slopes}
        for node in slopes:
            assert isinstance(node, Elementwise)
            entries = torch.randperm(size(node), generator=draw)[: zoo.integer(1, size(node), draw)].sort().values
            exact = exact_derivative(graph, picked, node)
            part, their_slopes = tail(graph, node, slopes, entries)
            found = interval_adjoints(part, their_slopes)[part.input]
            chosen = [exact[j, i] for j in range(exact.nrows()) for i in entries.tolist()]
            assert holds(found, chosen) and width(found) <= 1e-9 * (1 + float(found.magnitude().max()))


def test_the_tail_of_a_network_is_the_network_behind_the_node() -> None:
    graph = zoo.elementwise_chain(generator(1)).with_rows(None).with_affine_output()
    start = graph.crossings[0]
    (domain,), _ = Ball(torch.zeros(graph.in_shape, dtype=torch.float64), 0.1).domains(graph)
    slopes = derivative_ranges(graph, CROWN().ranges(graph, domain, Budget()))
    behind, _ = tail(graph, start, slopes)
    x = torch.randn(5, *graph.in_shape, generator=generator(2), dtype=torch.float64)
    assert torch.equal(behind(graph.values(x)[start]), graph(x))


def test_one_interval_step_for_a_whole_direction_is_tighter_than_for_its_entries() -> None:
    """In front of the first activation a direction is one vector: signs that differ inside it cancel."""
    gains = []
    for seed in range(4):
        graph, slopes = layered((6, 8, 8, 8, 2), seed, 0.1)
        found = forward_shifted(graph, slopes, {}, chord, Budget())
        low, high = found.entries.lower, found.entries.upper
        signs = torch.where(low >= 0, 1.0, torch.where(high <= 0, -1.0, 0.0)).to(low)
        whole, parts = found.along(signs), (signs.abs() * found.entries.magnitude()).sum(1)
        assert bool((whole.upper <= parts * (1 + 1e-12) + 1e-300).all())
        gains.append(float((parts / whole.upper).max()))
    assert max(gains) > 1.02


# --- cost ------------------------------------------------------------------------------------------------------


def counted(run: object, graph: Graph, slopes: dict[Node, Interval]) -> float:
    """Multiplications and additions in torch's matrix products."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), unrounded(), counter:
        run(graph, slopes, {}, chord, Budget())  # type: ignore[operator]
    return float(counter.get_total_flops())


@pytest.mark.parametrize("widths", [(30, 40, 40, 40, 6), (12, 20, 20, 20, 20, 9), (40, 30, 4)], ids=str)
@pytest.mark.parametrize("radius", [0.02, 0.1, 1.0])
def test_operations_are_those_that_are_done(widths: tuple[int, ...], radius: float) -> None:
    graph, slopes = layered(widths, 1, radius)
    formula = operations(graph, slopes)
    assert list(formula) == ["backward", "forward", "forward-shifted"]
    for name, said in formula.items():
        done = counted(RUNS[name], graph, slopes)
        assert 0.7 * done <= said <= 1.02 * done, (name, said, done)


@pytest.mark.parametrize("kind", GRAPHS)
def test_operations_are_about_right_on_every_graph(kind: str) -> None:
    graph = getattr(zoo, kind)(generator(3)).with_rows(None).with_affine_output()
    slopes = random_slopes(graph, generator(4))
    for name, said in operations(graph, slopes).items():
        done = counted(RUNS[name], graph, slopes)
        assert done / 3 <= said <= 2 * done, (name, said, done)


def test_the_dear_direction_is_left_out_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves when progress is told: the first direction takes all there is."""
    graph, slopes = layered((40, 12, 12, 12, 2), 0, 0.3)
    now = [0.0]

    def tick(done: float, total: float, what: str) -> None:
        now[0] += 1.0

    monkeypatch.setattr("jacobound.budget.monotonic", lambda: now[0])
    cheap = recur(graph, slopes, {}, chord, Budget(progress=tick, started=0.0))
    needed = now[0]
    counts = operations(graph, slopes)
    assert counts["backward"] < counts["forward"] and cheap.status is Status.CERTIFIED
    for seconds, status in ((needed, Status.TIME_LIMIT), (1e9, Status.CERTIFIED)):
        now[0] = 0.0
        found = both(graph, slopes, {}, chord, Budget(seconds=seconds, progress=tick, started=0.0))
        assert found.status is status
        same = torch.equal(found.entries.lower, cheap.entries.lower)
        assert same == (status is Status.TIME_LIMIT)


def test_what_time_allows_is_chosen_by_the_count() -> None:
    counts = {"backward": 10.0, "forward": 1000.0, "forward-shifted": 100.0}
    assert directions.affordable("forward", counts, math.inf) == "forward"
    assert directions.affordable("forward", counts, 999.0) == "forward-shifted"
    assert directions.affordable("forward", counts, 99.0) is None
    assert directions.affordable("backward", counts, 9.0) is None
    assert directions.affordable("backward", counts, 10.0) == "backward"
    assert directions.affordable("forward", counts, -1.0) is None


def test_the_second_sweep_needs_three_unstable_layers() -> None:
    graph, slopes = layered((4, 8, 8, 2), 0, 0.3)
    assert sweep_operations(graph, slopes) == math.inf
    graph, slopes = layered((4, 8, 8, 8, 2), 0, 0.3)
    first = next(node for node in slopes if len(unstable_entries(slopes[node])))
    assert 0 < sweep_operations(graph, slopes) < math.inf
    assert list(from_the_other_side(graph, slopes, chord, Budget())) == [first]


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="direction must be one of backward, forward"):
        RecurJac(direction="sideways")  # type: ignore[arg-type]
    assert not issubclass(InvalidOptionError, ShapeError)
