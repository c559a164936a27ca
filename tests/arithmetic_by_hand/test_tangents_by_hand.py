"""Derivatives in flight, and both ways through a network: what is put where, and what is intersected with what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

import jacobound as jb
from jacobound import Budget, Graph
from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.arithmetic.rounding import unrounded
from jacobound.graph.nodes import Elementwise, Node
from jacobound.jacobian.recursion import reversal
from jacobound.jacobian.recursion.product_lines import chord
from jacobound.jacobian.tangents import Neurons, Tangents, push_through, underflow_of
from jacobound.method import JacobianEnclosure
from jacobound.operators.kinds import Dense, Identity
from zoo import normal

LIKE = torch.zeros((), dtype=torch.float64)


def test_values_are_found_on_any_entries() -> None:
    entries = torch.tensor([4, 1, 2])
    values = torch.tensor([[[40.0, 10.0, 20.0]]]).double()
    held = Tangents(entries, values, LIKE)
    assert held.on(None, 6).flatten().tolist() == [0, 10, 20, 0, 40, 0]
    for wanted, expected in (
        ([1, 2, 4], [10, 20, 40]),
        ([2, 4], [20, 40]),
        ([0, 1, 5], [0, 10, 0]),
        ([0, 3], [0, 0]),
        ([1, 4, 5], [10, 40, 0]),
    ):
        assert held.on(torch.tensor(wanted), 6).flatten().tolist() == expected
    whole = Tangents(None, torch.arange(4.0).double().reshape(1, 1, 4), LIKE)
    assert whole.on(torch.tensor([3, 0]), 4).flatten().tolist() == [3, 0] and whole.on(None, 4).shape == (1, 1, 4)
    unit = Tangents.unit(Neurons(torch.tensor([1, 3]), None), LIKE)
    assert unit.on(None, 4).tolist() == [[[0, 1, 0, 0], [0, 0, 0, 1]]]
    assert unit.on(torch.tensor([0, 3]), 4).tolist() == [[[0, 0], [0, 1]]]


def test_parts_of_the_chosen_neurons() -> None:
    one = Neurons(torch.tensor([1, 3, 4]), None).part(slice(1, 3))
    assert one.place is None and one.union.tolist() == [3, 4] and len(one) == 2
    several = Neurons.of(torch.tensor([[True, False, True], [False, True, True], [False, False, True]])).part(
        slice(1, 2)
    )
    assert len(several) == 1 and several.entries(9).tolist() == [[2], [2], [9]]


@pytest.mark.parametrize("needed", [None, torch.tensor([2, 0])])
def test_groups_with_entries_of_their_own_are_pushed_apart(needed: torch.Tensor | None) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = normal((3, 5), generator)
    shared = torch.tensor([0, 2])
    groups: dict[str, Tangents] = {
        "one": Tangents(shared, normal((1, 2, 2), generator), LIKE),
        "same": Tangents(shared, normal((2, 4, 2), generator), LIKE),
        "other": Tangents(torch.tensor([4, 1, 3]), normal((1, 2, 3), generator), LIKE),
        "all": Tangents(None, normal((2, 1, 5), generator), LIKE),
        "unit": Tangents.unit(Neurons(torch.tensor([1, 3]), None), LIKE),
    }
    found = push_through(Dense(weight), groups, needed)
    for key, group in groups.items():
        image = group.on(None, 5) @ weight.T
        assert torch.allclose(found[key], image if needed is None else image[..., needed], rtol=1e-12)
    only_units = push_through(Dense(weight), {"unit": groups["unit"]}, needed)
    assert torch.equal(only_units["unit"], found["unit"])


def test_what_only_moves_entries_loses_nothing() -> None:
    weight = torch.ones(1, 2, 3).double()
    assert underflow_of(Identity((3,), (3,), LIKE), weight) == 0.0
    floor = underflow_of(Dense(torch.ones(3, 4).double()), weight)
    assert isinstance(floor, torch.Tensor) and floor.shape == (1, 2, 1) and float(floor.min()) >= 3 * 4 * 2.0**-1022
    with unrounded():
        assert underflow_of(Dense(torch.ones(3, 4).double()), weight) == 0.0


# --- both ways -----------------------------------------------------------------------------------------------------


def network() -> tuple[Graph, dict[Node, Interval]]:
    generator = torch.Generator().manual_seed(2)
    graph = jb.from_layers([normal((5, 3), generator), normal((4, 5), generator), normal((2, 4), generator)]).with_rows(
        None
    )
    slopes: dict[Node, Interval] = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            ends = torch.rand(2, 2, *node.shape, generator=generator).double().sort(0).values
            slopes[node] = Interval(ends[0], ends[1])
    return graph, slopes


def same(one: Interval, other: Interval) -> bool:
    return torch.equal(one.lower, other.lower) and torch.equal(one.upper, other.upper)


def test_forward_sums_are_never_wider_than_those_of_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rows that are asked for again say nothing."""
    graph, slopes = network()
    found = reversal.forward(graph, slopes, {}, chord, Budget())
    u = normal((2, 2, 3), torch.Generator().manual_seed(3))
    usual = found.along(u)
    plain = interval_dot(u, found.entries)
    assert bool((usual.width <= plain.width * (1 + 1e-12)).all()) and bool((usual.width < plain.width * 0.99).any())

    def nothing(graph: Graph, own: Mapping[Node, Interval], *_: Any) -> JacobianEnclosure:
        count = next(iter(own.values())).lower.shape[0]
        entries = Interval.whole(torch.zeros(count, graph.out_shape[0], *graph.in_shape).double())
        return JacobianEnclosure(entries, lambda v: Interval.whole(v[..., 0]), {}, {}, {})

    monkeypatch.setattr(reversal, "recur", nothing)
    assert same(found.along(u), plain)
    entries = Interval(-torch.ones(2, 3, 2).double(), torch.ones(2, 3, 2).double())
    monkeypatch.setattr(
        reversal,
        "recur",
        lambda *_: JacobianEnclosure(entries, lambda v: Interval.whole(v[..., 0]), {}, {}, {}),
    )
    blind = reversal.forward(graph, slopes, {}, chord, Budget())
    assert blind.across is not None
    assert torch.allclose(blind.across(u).upper, u.abs().sum(1), rtol=1e-12)


def test_shifted_sums_are_never_wider_than_those_of_the_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, slopes = network()
    found = reversal.forward_shifted(graph, slopes, {}, chord, Budget())
    u = normal((2, 2, 3), torch.Generator().manual_seed(3))
    plain = interval_dot(u, found.entries)

    def nothing(graph: Graph, *_: Any) -> dict[Node, Interval]:
        return {node: Interval.whole(torch.zeros(2, 2, *node.shape).double()) for node in graph.nodes}

    monkeypatch.setattr(reversal, "interval_tangents", nothing)
    assert same(found.along(u), plain)
