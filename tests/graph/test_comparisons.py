"""Maxima and sorting, round by round: what a choice knows, names, constants and hashes."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import rational
from jacobound import Graph
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input, Vector, VectorFunction
from jacobound.graph.vector.comparisons import Chosen, Maximum, Sort
from small_cases import numbers

INF = math.inf


def chosen(function: VectorFunction) -> list[Affine]:
    """The nodes of an expansion that choose."""
    graph = Graph(Vector(function, Input(function.in_shape, "x"), "pool")).expanded()
    return [node for node in graph.nodes if isinstance(node, Affine) and node.choice is not None]


def functions() -> list[VectorFunction]:
    generator = Generator().manual_seed(0)
    windows = torch.randint(-1, 5, (4, 6), generator=generator)
    windows[0] = torch.arange(6) % 5
    return [
        Sort((2,)),
        Sort((2, 3)),
        Sort((5,)),
        Maximum(torch.tensor([[0], [1]]), (2,)),
        Maximum(torch.tensor([[0, 1], [1, 2], [2, -1]]), (3,)),
        Maximum(windows, (5,)),
    ]


def image(node: Affine, source: Tensor, slopes: Tensor) -> Tensor:
    """The node as a linear map of its source, for fixed slopes of its gate."""
    assert node.choice is not None
    gate = node.choice.gate
    assert isinstance(gate.source, Affine)
    difference = gate.source.terms[0][0].apply(source)
    terms = [op.apply(source) if at is node.choice.source else op.apply(slopes * difference) for op, at in node.terms]
    return sum(terms[1:], terms[0])


@pytest.mark.parametrize("function", functions(), ids=lambda function: function.name)
def test_choices_have_exact_ranges(function: VectorFunction) -> None:
    """An entry of its source is the larger or the smaller one of a pair, so the ends of ranges follow the ends."""
    generator = Generator().manual_seed(1)
    for node in chosen(function):
        choice = node.choice
        assert isinstance(choice, Chosen)
        ends = torch.randint(-9, 10, (2, 20, *choice.source.shape), generator=generator).double().sort(0).values
        found = choice.range(Interval(ends[0], ends[1]))
        gate = choice.gate.source
        assert isinstance(gate, Affine)
        for end, bound in zip(ends, (found.lower, found.upper), strict=True):
            slopes = (gate.terms[0][0].apply(end) > 0).double()
            assert torch.equal(image(node, end, slopes), bound)


@pytest.mark.parametrize("function", functions(), ids=lambda function: function.name)
def test_choices_give_derivatives_of_every_slope(function: VectorFunction) -> None:
    """For every pattern of slopes that is allowed, and every derivative behind; exactly where both are known."""
    generator = Generator().manual_seed(2)
    for node in chosen(function):
        choice = node.choice
        assert isinstance(choice, Chosen)
        pairs, inputs = math.prod(choice.gate.shape), math.prod(choice.source.shape)
        for trial in range(6):
            known = torch.rand(pairs, generator=generator) < (0.0, 0.3, 0.6, 1.0, 1.0, 1.0)[trial]
            pattern = (torch.rand(pairs, generator=generator) < 0.5).double()
            lower = torch.where(known, pattern, 0.0).reshape(1, 1, *choice.gate.shape)
            upper = torch.where(known, pattern, 1.0).reshape(1, 1, *choice.gate.shape)
            ends = torch.randint(-5, 6, (2, 1, 2, *node.shape), generator=generator).double().sort(0).values
            if trial % 2:
                ends[1] = ends[0]
            found = choice.adjoint(Interval(lower, upper), Interval(ends[0], ends[1]))
            patterns = itertools.islice(itertools.product((0.0, 1.0), repeat=pairs), 64)
            allowed = [numbers(one) for one in patterns if bool((numbers(one) == pattern)[known].all())]
            units = torch.eye(inputs, dtype=torch.float64).reshape(inputs, *choice.source.shape)
            truths = []
            for slopes in allowed:
                matrix = image(node, units, slopes.reshape(choice.gate.shape)).reshape(inputs, -1)
                for behind in ends:
                    truths.append((behind.reshape(2, -1) @ matrix.T).reshape(1, 2, *choice.source.shape))
            if not truths:
                continue
            least, most = torch.stack(truths).amin(0), torch.stack(truths).amax(0)
            assert bool((found.lower <= least).all() and (found.upper >= most).all())
            if bool(known.all()) and trial % 2:
                assert torch.allclose(found.lower, least, rtol=0, atol=1e-12)
                assert torch.allclose(found.upper, most, rtol=0, atol=1e-12)


def test_derivatives_of_a_pair_by_hand() -> None:
    """(min, max) of two entries."""
    (node,) = chosen(Sort((2,)))
    assert node.choice is not None
    behind = Interval(numbers([[[2.0, 5.0]]]), numbers([[[3.0, 7.0]]]))
    for slope, lower, upper in (
        ((0.0, 0.0), [5.0, 2.0], [7.0, 3.0]),  # the first one is the larger
        ((1.0, 1.0), [2.0, 5.0], [3.0, 7.0]),
        ((0.0, 1.0), [2.0, 2.0], [7.0, 7.0]),
    ):
        found = node.choice.adjoint(Interval(*(numbers([[[end]]]) for end in slope)), behind)
        assert torch.allclose(found.lower.flatten(), numbers(lower), atol=1e-12)
        assert torch.allclose(found.upper.flatten(), numbers(upper), atol=1e-12)


def test_constants_count_how_often_an_entry_is_compared() -> None:
    whole = Interval.whole(torch.zeros(3, dtype=torch.float64))
    for multiplicity, windows in (
        (1, [[0, 2], [1, -1]]),
        (2, [[0, 1], [1, 2]]),
        (2, [[0, 0, 1], [1, 0, 2]]),
        (3, [[0, 1, 2], [1, 0, 0]]),
    ):
        function = Maximum(torch.tensor(windows), (3,))
        assert function.multiplicity == multiplicity
        assert float(function.constant(1.0, whole)) == multiplicity
        assert float(function.constant(INF, whole)) == 1
        found = rational(float(function.constant(2.0, whole))) ** 2
        assert multiplicity <= found <= multiplicity * (1 + fmpq(0 if multiplicity == 1 else 1, 10**14))
    assert [float(Sort((3,)).constant(p, whole)) for p in (1.0, 2.0, INF)] == [1.0] * 3


def test_rounds_are_named_after_the_node() -> None:
    def names(function: VectorFunction) -> list[str]:
        graph = Graph(Vector(function, Input(function.in_shape, "x"), "pool")).expanded()
        return [node.name for node in graph.nodes if isinstance(node, Affine) and "difference" not in node.name]

    assert names(Maximum(torch.tensor([[0, 1], [1, 2]]), (3,))) == ["pool"]
    assert names(Maximum(torch.tensor([[0, 1], [1, 2], [2, 0]]), (3,))) == ["pool.round1", "pool"]
    alone = Maximum(torch.tensor([0, 1, 2]), (3,)).expand(Input((3,)), "pool")
    assert (alone.name, alone.shape) == ("pool", ())
    assert [node.name for node in Graph(alone).nodes if isinstance(node, Affine) and node.choice] == [
        "pool.round1", "pool.round2",
    ]  # fmt: skip
    assert names(Sort((2, 4)))[-1] == "pool"


def test_choices_are_moved_with_their_graph() -> None:
    graph = Graph(Vector(Sort((2, 3)), Input((2, 3), "x"), "sort")).expanded().to(dtype=torch.float32)
    choices = [node.choice for node in graph.nodes if isinstance(node, Affine) and node.choice is not None]
    assert len(choices) == 3
    for choice in choices:
        assert isinstance(choice, Chosen)
        assert choice.like.dtype == torch.float32
        assert choice.gate in graph.nodes
        assert choice.source in graph.nodes
        assert isinstance(choice.gate, Elementwise)


def test_comparisons_are_told_apart() -> None:
    windows = torch.tensor([[0, 1], [1, 2]])
    functions_ = [
        Maximum(windows, (3,)),
        Maximum(windows, (4,)),
        Maximum(windows.reshape(2, 2, 1), (3,)),
        Maximum(windows.reshape(4, 1), (3,)),
        Maximum(windows.flip(1), (3,)),
        Sort((3,)),
        Sort((1, 3)),
        Sort((4,)),
    ]
    assert len({function.structure() for function in functions_}) == len(functions_)
