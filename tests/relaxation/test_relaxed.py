"""The sweep over the nodes: which entries it bounds backwards, and what it hands on."""

from __future__ import annotations

import math

import pytest
import torch

from jacobound import CROWN, Ball, Box, Budget, Graph, InvalidRegionError
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector
from jacobound.graph.vector.smooth import Softmax
from jacobound.inputs.domains import Domain
from jacobound.operators.kinds import Dense
from jacobound.relaxation.sweep import _Sweep

EYE = torch.eye(2).double()


def act(source: Node, name: str = "relu") -> Elementwise:
    return Elementwise(activation(name), source)


def difference(one: Node, other: Node) -> Affine:
    """x - x, whose interval image does not know that it is zero."""
    return Affine(((Dense(EYE), one), (Dense(-EYE), other)))


def ranges(graph: Graph, region: Ball | Box) -> dict[Node, Interval]:
    (domain,), _ = region.domains(graph)
    return dict(CROWN().ranges(graph, domain, Budget()))


def test_sums_of_several_operators_on_the_input_are_bounded_backwards() -> None:
    x = Input((2,))
    z = difference(x, x)
    graph = Graph(Affine(((Dense(EYE), act(z)),)))
    assert ranges(graph, Box([0.5, -1.0], [1.0, 2.0]))[z].magnitude().max() < 1e-12


def test_unstable_entries_are_bounded_backwards() -> None:
    x = Input((2,))
    h = act(Affine(((Dense(EYE), x),)))
    z = difference(h, h)
    graph = Graph(Affine(((Dense(EYE), act(z)),)))
    assert ranges(graph, Box([0.5, 1.0], [1.0, 2.0]))[z].magnitude().max() < 1e-12


def test_the_first_layer_uses_dual_norms_even_for_decided_neurons() -> None:
    x = Input((2,))
    weight = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double()
    z = Affine(((Dense(weight), x),), torch.full((2,), 10.0).double())
    graph = Graph(Affine(((Dense(EYE), act(z)),)))
    found = ranges(graph, Ball(torch.zeros(2), 1.0, p=2))[z]
    assert torch.allclose(found.upper, torch.full_like(found.upper, 10 + math.sqrt(2)), rtol=1e-12)
    assert torch.allclose(found.lower, torch.full_like(found.lower, 10 - math.sqrt(2)), rtol=1e-12)


def test_bounded_sets_beside_an_unbounded_one_are_bounded_as_well() -> None:
    x = Input((2,))
    z = difference(x, x)
    graph = Graph(Affine(((Dense(EYE), act(z)),)))
    ends = torch.tensor([[0.5, 1.0], [math.inf, math.inf]]).double()
    found = CROWN().ranges(graph, Domain(Interval(-ends, ends)), Budget())[z]
    assert found.magnitude()[0].max() < 1e-12
    assert torch.all(found.upper[1] == math.inf) and torch.all(found.lower[1] == -math.inf)


def test_ranges_stop_where_an_activation_is_not_defined() -> None:
    graph = Graph(act(Affine(((Dense(EYE), Input((2,))),)), "log"))
    with pytest.raises(InvalidRegionError, match="log is defined on"):
        ranges(graph, Box([-1.0, 1.0], [1.0, 2.0]))


def test_lines_come_with_the_magnitude_of_their_argument() -> None:
    x = Input((2,))
    hidden = act(Affine(((Dense(EYE), x),)))
    graph = Graph(Affine(((Dense(EYE), hidden),)))
    (domain,), _ = Box([-3.0, -1.0], [1.0, 2.0]).domains(graph)
    sweep = _Sweep(graph, domain, Budget(), lambda function, argument: function.lines(argument), True)
    found = sweep.run()
    assert torch.equal(sweep._relaxations[hidden].magnitude, found[hidden.source].magnitude())


def told(graph: Graph, region: Ball | Box, with_output: bool = True) -> list[float]:
    """How far the sweep says that it is, before each node and after every row that it bounds backwards."""
    (domain,), _ = region.domains(graph)
    calls: list[tuple[float, float, str]] = []
    budget = Budget(memory=1, progress=lambda *call: calls.append(call))
    CROWN().ranges(graph, domain, budget, with_output=with_output)
    assert {call[1:] for call in calls} == {(len(graph.nodes), "ranges")}
    return [done for done, _, _ in calls]


def test_only_entries_that_can_profit_are_bounded_backwards() -> None:
    """On a box the first layer is exact by intervals; a decided neuron, and an output not asked for, gain nothing."""
    x = Input((2,))
    first = act(Affine(((Dense(EYE), x),)))
    second = act(Affine(((Dense(EYE), first),), torch.tensor([10.0, -0.5]).double()))
    graph = Graph(Affine(((Dense(EYE), second),)))
    box = Box([-1.0, -1.0], [1.0, 1.0])
    assert told(graph, box) == [0, 1, 2, 3, 4, 4, 5, 5.5, 6]
    assert told(graph, box, with_output=False) == [0, 1, 2, 3, 4, 4, 5]


def test_behind_a_function_of_vectors_intervals_go_on() -> None:
    shares = Vector(Softmax((2,)), Affine(((Dense(EYE), Input((2,))),)))
    output = Affine(((Dense(torch.tensor([[2.0, -1.0]]).double()), shares),))
    found = ranges(Graph(output), Box([-1.0, -1.0], [1.0, 1.0]))
    share = 1 / (1 + math.exp(-2.0))
    assert found[shares].upper[0].tolist() == pytest.approx([share, share], rel=1e-12)
    assert float(found[output].upper) == pytest.approx(2 * share - (1 - share), rel=1e-12)
