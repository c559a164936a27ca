"""Which direction goes when, for how long, and which sets go together: choices by given counts and clocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import jacobound as jb
from jacobound import Budget, Graph, Status
from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.graph.nodes import Elementwise, Node
from jacobound.jacobian.recursion import directions, groups
from jacobound.jacobian.recursion.directions import sweep_operations
from jacobound.jacobian.recursion.groups import grouped, joined, one_by_one, only
from jacobound.jacobian.recursion.operations import recursion_operations
from jacobound.jacobian.recursion.product_lines import chord
from jacobound.jacobian.recursion.reversal import reversed_graph, tail
from jacobound.jacobian.tangents import unstable_entries
from jacobound.method import Deferred, JacobianEnclosure
from zoo import normal

INF = math.inf
COUNTS = {"backward": 1e9, "forward": 4e9, "forward-shifted": 2e9}


def network() -> tuple[Graph, dict[Node, Interval]]:
    generator = torch.Generator().manual_seed(2)
    weights = [normal(shape, generator) for shape in ((5, 3), (4, 5), (4, 4), (2, 4))]
    graph = jb.from_layers(weights).with_rows(None)
    slopes: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            slopes[node] = Interval(torch.zeros(1, *node.shape).double(), torch.ones(1, *node.shape).double())
    return graph, slopes


def enclosure(graph: Graph, low: float, high: float, status: Status = Status.CERTIFIED) -> JacobianEnclosure:
    """All derivatives, and all sums, between two numbers; at the first input a little more is known."""

    def between(*shape: int) -> Interval:
        return Interval(torch.full(shape, low).double(), torch.full(shape, high).double())

    adjoints = Deferred(lambda: {node: between(1, 2, *node.shape) for node in graph.nodes})
    return JacobianEnclosure(
        between(1, 2, 3), lambda u: between(1, 2), adjoints, {}, {}, status, across=lambda u: between(1, 3)
    )


class Runs:
    """Directions that take the time they are told, and answer with wide bounds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, took: float, status: Status = Status.CERTIFIED) -> None:
        self.now, self.took, self.asked, self.allowed = 0.0, took, list[str](), list[float]()
        self.graph, self.slopes = network()
        monkeypatch.setattr("jacobound.budget.monotonic", lambda: self.now)
        monkeypatch.setattr(directions, "operations", lambda *_: dict(COUNTS))
        known = {name: self._run(name, status) for name in COUNTS}
        monkeypatch.setattr(directions, "DIRECTIONS", known)
        monkeypatch.setattr(directions, "_second_sweeps", lambda *given: self.allowed.append(given[-1]) or [])

    def _run(self, name: str, status: Status) -> Callable[..., JacobianEnclosure]:
        def run(graph: Graph, *_: Any) -> JacobianEnclosure:
            self.asked.append(name)
            self.now += self.took
            return enclosure(graph, -1.0, 1.0, status)

        return run

    def status(self, seconds: float | None) -> Status:
        self.now = 0.0
        self.asked.clear()
        self.allowed.clear()
        budget = Budget(seconds, started=0.0)
        return directions._both_of_one(self.graph, self.slopes, {}, chord, budget).status


@pytest.mark.parametrize(
    ("took", "seconds", "second"),
    [
        (10.0, 100.0, "forward"),  # 1e8 operations in a second, 9e9 in what is left
        (10.0, 40.0, "forward-shifted"),  # 3e9
        (10.0, 25.0, None),  # 1.5e9
        (100.0, 130.0, "forward-shifted"),  # no machine is slower than 1e8
        (1.0, 4.5, "forward-shifted"),  # 1e9 in a second, 3.5e9
        (1.0, 5.5, "forward"),
        (0.0, 1e-3, "forward"),  # nothing is known of the speed
        (10.0, None, "forward"),
    ],
)
def test_the_dear_direction_goes_when_the_rate_of_the_first_allows_it(
    took: float, seconds: float | None, second: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch, took)
    status = runs.status(seconds)
    assert runs.asked == ["backward", *([second] if second else [])]
    assert (status is Status.CERTIFIED) == (second == "forward")
    assert status in (Status.CERTIFIED, Status.TIME_LIMIT)
    assert runs.allowed == ([2.0 * 5e9] if second == "forward" else [])


def test_without_time_nothing_is_affordable() -> None:
    assert directions.affordable("backward", {"backward": 0.0}, 0.0) is None
    assert directions.affordable("backward", {"backward": 0.0}, 1.0) == "backward"


def test_a_direction_that_was_cut_short_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(monkeypatch, 1.0, Status.MEMORY_LIMIT)
    assert runs.status(None) is Status.MEMORY_LIMIT and runs.asked == ["backward", "forward"] and not runs.allowed
    assert runs.status(1.5) is Status.MEMORY_LIMIT and runs.asked == ["backward"]


def test_second_sweeps_are_made_while_they_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, slopes = network()
    monkeypatch.setattr(directions, "sweep_operations", lambda own, _: 5.0 if own is graph else 7.0)
    monkeypatch.setattr(directions, "from_the_other_side", lambda *_: {})
    monkeypatch.setattr(directions, "recur", lambda own, *_: enclosure(own, -1.0, 1.0))
    late = Budget(1.0, started=-1e9)
    for allowed, budget, count in (
        (7.0, Budget(), 2),
        (6.9, Budget(), 1),
        (5.0, Budget(), 1),
        (4.9, Budget(), 0),
        (9.0, late, 0),
    ):
        found = directions._second_sweeps(graph, slopes, {}, chord, budget, allowed)
        assert len(found) == count and all(one.entries.shape[0] == 1 for one in found)


def test_a_second_sweep_costs_its_tails_and_one_recursion() -> None:
    graph, slopes = network()
    first = next(iter(slopes))
    assert isinstance(first, Elementwise)
    part = tail(graph, first, slopes, unstable_entries(slopes[first]))
    expected = recursion_operations(*reversed_graph(*part)) + recursion_operations(graph, slopes)
    assert sweep_operations(graph, slopes) == expected > recursion_operations(graph, slopes)


def test_of_several_enclosures_the_narrowest_ends_count(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, slopes = network()
    one, other = enclosure(graph, -1.0, 5.0), enclosure(graph, -3.0, 2.0)
    for parts in ([one, other], [other, one]):
        parts[0] = JacobianEnclosure(**{**vars(parts[0]), "slopes": slopes})
        found = directions._narrowest(graph, parts)
        u = 100 * torch.ones(1, 2, 3).double()
        assert found.across is not None
        for sums in (found.entries, found.along(u), found.across(u)):
            assert float(sums.lower.max()) == float(sums.lower.min()) == -1.0 and float(sums.upper.max()) == 2.0
        known: dict[Node, Interval] = {}
        monkeypatch.setattr(directions, "interval_adjoints", lambda graph, slopes, ends, known=known: known | ends)
        ends = found.adjoints[graph.nodes[-2]]
        assert float(ends.lower.max()) == -1.0 and float(ends.upper.min()) == 2.0
        assert torch.equal(found.adjoints[graph.input].lower, found.entries.lower)
    alone = JacobianEnclosure(**{**vars(one), "slopes": slopes, "across": None})
    found = directions._narrowest(graph, [alone, other])
    assert found.across is not None and float(found.across(u).lower.max()) == -3.0
    narrow = 1e-3 * torch.ones(1, 2, 3).double()  # what the entries say of small sums
    assert float(found.along(narrow).upper.max()) == pytest.approx(3 * 2e-3)
    assert float(found.across(narrow).upper.max()) == pytest.approx(2 * 2e-3)


# --- sets together -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "memory", "expected"),
    [
        ([[10, 10, 10, 10, 1]], 10**9, [[4], [0, 1, 2], [3]]),  # 1 would be padded to 10; at most three together
        ([[10, 10, 10, 10, 1]], 25, [[4], [0, 1], [2, 3]]),
        ([[10, 10, 10]], 30, [[0, 1, 2]]),
        ([[3, 1]], 10**9, [[0, 1]]),  # 6 in place of 4, half as much again
        ([[4, 1]], 10**9, [[1], [0]]),
        ([[5, 0], [0, 5]], 10**9, [[0], [1]]),  # padded to 5 and 5
        ([[5, 5], [0, 1]], 10**9, [[0, 1]]),
        ([[7]], 1, [[0]]),
    ],
)
def test_sets_go_together_while_padding_and_memory_allow_it(
    counts: list[list[int]], memory: int, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "core_bytes", lambda graph, unstable: unstable)
    monkeypatch.setattr(groups, "sets_worth", lambda graph: 3)
    found = grouped(network()[0], torch.tensor(counts), Budget(memory=memory))
    assert [one.tolist() for one in found] == expected


def test_some_of_the_sets_are_picked_where_there_are_several() -> None:
    graph, _ = network()
    several, one = (Interval.exact(torch.arange(float(k)).reshape(k, 1)) for k in (4, 1))
    picked = only({graph.input: several, graph.output: one}, torch.tensor([3, 1]))
    assert picked[graph.input].lower.flatten().tolist() == [3, 1] and picked[graph.output] is one
    singles = [single[graph.input].lower.tolist() for single in one_by_one({graph.input: several}, 4)]
    assert singles == [[[0.0]], [[1.0]], [[2.0]], [[3.0]]]


def test_what_groups_know_is_put_back_in_order() -> None:
    graph, _ = network()
    order = [torch.tensor([2, 0]), torch.tensor([1])]

    def part(*sets: float) -> JacobianEnclosure:
        numbers = torch.tensor(sets).double()

        def known(*shape: int) -> Interval:
            full = numbers.reshape(-1, *[1] * len(shape)).expand(-1, *shape)
            return Interval(full, full + 10)

        def scaled(u: Tensor) -> Interval:
            return Interval(numbers[:, None] * u[:, :, 0], numbers[:, None] * u[:, :, 0] + 10)

        return JacobianEnclosure(
            known(2, 3), scaled, {node: known(2, *node.shape) for node in graph.nodes}, {}, {}, across=scaled
        )

    parts = [part(2.0, 0.0), part(1.0)]
    found = joined(graph, order, parts, {}, {})
    u = torch.arange(3.0).double().reshape(3, 1, 1).expand(3, 2, 3) + 1
    assert found.across is not None
    for sums in (found.along(u), found.across(u)):
        assert sums.lower[:, 0].tolist() == [0.0, 2.0, 6.0] and sums.upper[:, 0].tolist() == [10.0, 12.0, 16.0]
    assert found.entries.lower[:, 0, 0].tolist() == [0, 1, 2] and found.entries.upper[:, 0, 0].tolist() == [10, 11, 12]
    assert found.adjoints[graph.output].upper[:, 0, 0].tolist() == [10, 11, 12] and found.status is Status.CERTIFIED
    without = JacobianEnclosure(**{**vars(parts[1]), "across": None, "status": Status.TIME_LIMIT})
    mixed = joined(graph, order, [parts[0], without], {}, {})
    assert mixed.across is None and mixed.status is Status.TIME_LIMIT
    plain = interval_dot(u, found.entries)
    assert plain.shape == (3, 2) and float(plain.upper.max()) < INF


def test_both_directions_of_one_set_and_of_several() -> None:
    graph, slopes = network()
    ranges = {node: Interval.exact(torch.zeros(1, *node.shape).double()) for node in graph.nodes}
    one = directions.both(graph, slopes, ranges, chord, Budget())
    assert one.ranges is ranges
    twice = {node: Interval(x.lower.repeat(2, 1), x.upper.repeat(2, 1)) for node, x in slopes.items()}
    double = {node: Interval.exact(torch.zeros(2, *node.shape).double()) for node in graph.nodes}
    two = directions.both(graph, twice, double, chord, Budget())
    assert two.ranges is double and two.entries.shape[0] == 2
    assert torch.equal(two.entries.upper[1:], one.entries.upper)
