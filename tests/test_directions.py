"""Forward versions of RecurJac: the reversed network, and the intersection of both directions."""

from __future__ import annotations

import pytest
import torch

import zoo
from jacobound import RecurJac, ShapeError
from jacobound.errors import InvalidOptionError
from jacobound.graph import Elementwise
from jacobound.intervals import Interval
from jacobound.methods.base import Budget, derivative_ranges
from jacobound.methods.crown import CROWN
from jacobound.methods.fastlip import interval_adjoints
from jacobound.methods.reversal import reversed_graph, tail
from jacobound.regions import Ball
from jacobound.rounding import strict

GRAPHS = ("mlp", "residual", "dense_connections", "input_skip", "node_used_twice", "convolution", "several_consumers")


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
    slopes = {
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


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("relaxation", ["constant", "chord"])
def test_both_directions_are_never_wider_than_either(seed: int, relaxation: str) -> None:
    graph = zoo.mlp(generator(seed)).with_rows(None).with_affine_output()
    centre = torch.randn(graph.in_shape, generator=generator(seed + 50), dtype=torch.float64)
    (domain,), _ = Ball(centre, 0.3).domains(graph)
    with torch.no_grad(), strict(graph.device, graph.dtype):
        ranges = CROWN().ranges(graph, domain, Budget())
        found = {
            direction: RecurJac(relaxation, direction=direction).enclose(graph, domain, Budget(), ranges)  # type: ignore[arg-type]
            for direction in ("backward", "forward", "forward-shifted", "both")
        }
        ones = torch.ones_like(found["both"].entries.lower)
        sums = {direction: result.along(ones) for direction, result in found.items()}
    for direction in ("backward", "forward"):
        assert bool((found["both"].entries.lower >= found[direction].entries.lower).all())
        assert bool((found["both"].entries.upper <= found[direction].entries.upper).all())
        assert bool((sums["both"].upper <= sums[direction].upper).all())
    for one in found.values():  # they enclose one matrix, so any two meet
        for other in found.values():
            assert bool((one.entries.lower <= other.entries.upper).all())


def test_the_tail_of_a_network_is_the_network_behind_the_node() -> None:
    graph = zoo.elementwise_chain(generator(1)).with_rows(None).with_affine_output()
    start = graph.crossings[0]
    (domain,), _ = Ball(torch.zeros(graph.in_shape, dtype=torch.float64), 0.1).domains(graph)
    slopes = derivative_ranges(graph, CROWN().ranges(graph, domain, Budget()))
    behind, _ = tail(graph, start, slopes)
    x = torch.randn(5, *graph.in_shape, generator=generator(2), dtype=torch.float64)
    assert torch.equal(behind(graph.values(x)[start]), graph(x))


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="direction must be one of backward, forward"):
        RecurJac(direction="sideways")  # type: ignore[arg-type]
    assert not issubclass(InvalidOptionError, ShapeError)
