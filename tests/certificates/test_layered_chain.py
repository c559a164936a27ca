"""Chains as matrices: what of a graph is kept, their sizes, and certificates that are checked again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from jacobound import CROWN, IBP, Ball, Budget, ECLipsE, Graph, ShapeError, Status, WholeSpace
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.certificates.layered.chain import LayeredChain, chain_bytes, layered_chain
from jacobound.certificates.layered.driver import (
    by_closed_form,
    layered_problems,
    recheck_layers,
)
from jacobound.constants.pairs import layers as seqlip_layers
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.domains import Domain
from jacobound.method import OutputMethod, Query
from jacobound.operators.kinds import Dense
from single import lifted
from small_cases import drawn, vector

INF = math.inf


# --- chains as matrices ----------------------------------------------------------------------------------------------


def dense(weight: Tensor, source: Node) -> Affine:
    return Affine(((Dense(weight), source),))


def hidden(source: Node) -> Elementwise:
    return Elementwise(activation("relu"), source)


def test_a_chain_keeps_what_passes_something_on() -> None:
    generator = Generator().manual_seed(9)
    weights = [drawn(generator, after, before) for after, before in ((4, 3), (5, 4), (2, 5))]
    first = hidden(dense(weights[0], Input((3,))))
    second = hidden(dense(weights[1], first))
    graph = Graph(dense(weights[2], second))
    slopes = {
        first: Interval(vector(0, 0, 1, 0.5), vector(1, 0, 1, 0.5)),
        second: Interval(vector(0, 0, 0, 1, 0), vector(0, 1, 1, 1, 1)),
    }
    chain = layered_chain(graph, slopes)
    kept = ([0, 2, 3], [1, 2, 3, 4])
    assert torch.equal(chain.matrices[0], weights[0][kept[0]])
    assert torch.equal(chain.matrices[1], weights[1][kept[1]][:, kept[0]])
    assert torch.equal(chain.matrices[2], weights[2][:, kept[1]])
    assert [x.tolist() for x in chain.middles] == [[0.5, 1.0, 0.5], [0.5, 0.5, 1.0, 0.5]]
    assert [x.tolist() for x in chain.unstable] == [[0], [0, 1, 3]]
    assert chain.errors == (0.0, 0.0, 0.0)
    assert (chain.inputs, chain.outputs, chain.widest) == (3, 2, 4)
    assert chain.seconds == pytest.approx(5 * (27 + 64) / seqlip_layers.FLOPS, rel=1e-12)
    back = chain.transposed()
    assert torch.equal(back.matrices[0], chain.matrices[2].T) and torch.equal(back.middles[0], chain.middles[1])
    assert torch.equal(back.halves[0], chain.halves[1]) and back.outputs == 3
    errors = replace(chain, errors=(1.0, 2.0, 3.0))
    assert errors.transposed().errors == (3.0, 2.0, 1.0)
    assert torch.equal(chain.row(1).matrices[-1], chain.matrices[-1][1:2]) and chain.row(1).outputs == 1
    assert all(one is other for one, other in zip(chain.row(0).matrices[:-1], chain.matrices[:-1], strict=True))
    single = errors.to(torch.float32)
    assert {part.dtype for part in (*single.matrices, *single.middles, *single.halves)} == {torch.float32}
    assert single.errors == errors.errors


def test_chains_that_begin_or_end_with_neurons_have_a_layer_there() -> None:
    x = Input((2,))
    first = hidden(x)
    graph = Graph(hidden(dense(vector(1, 2, 3, 4).reshape(2, 2), first)))
    ends = Interval(vector(0, 0), vector(1, 1))
    chain = layered_chain(graph, {first: ends, graph.output: ends})
    eye = torch.eye(2, dtype=torch.float64)
    assert torch.equal(chain.matrices[0], eye) and torch.equal(chain.matrices[2], eye) and len(chain.halves) == 2
    twice = hidden(first)
    chain = layered_chain(Graph(twice), {first: ends, twice: ends})
    assert len(chain.matrices) == 3 and all(torch.equal(matrix, eye) for matrix in chain.matrices)
    joined = Graph(Affine(((Dense(2 * eye), first), (Dense(3 * eye), x))))
    chain = layered_chain(joined, {first: ends})
    # Values that pass by the neurons stand behind them, with slopes of exactly 1.
    assert torch.equal(chain.matrices[0], torch.cat((eye, eye)))
    assert torch.equal(chain.matrices[1], torch.cat((2 * eye, 3 * eye), 1))
    assert [x[2:].tolist() for x in (*chain.middles, *chain.halves)] == [[1, 1], [0, 0]]
    assert chain_bytes(joined) is not None


def test_bytes_of_a_chain_are_those_of_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(dense(torch.ones(2, 7).double(), hidden(dense(torch.ones(7, 3).double(), Input((3,))))))
    sizes = [64 * (21 + 2 * 9) // 8, 64 * (14 + 2 * 4) // 8]
    assert chain_bytes(graph) == sum(sizes) + 64 * 49
    monkeypatch.setattr(seqlip_layers, "LARGEST_SIDE", 6)
    assert chain_bytes(graph) is None


def test_chains_that_are_constant_or_too_large() -> None:
    one, zero = torch.ones(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    chain = LayeredChain((one, one), (0.0, 0.0), (vector(1, 1),), (vector(0, 1),))
    assert chain.is_usable and not chain.is_constant
    assert replace(chain, matrices=(one, zero)).is_constant
    assert not replace(chain, matrices=(one, zero), errors=(0.0, 1e-9)).is_constant
    none = torch.zeros(2, 0, dtype=torch.float64)
    assert replace(chain, matrices=(one, none), errors=(0.0, 1e-9)).is_constant
    for limit, usable in ((1e100, True), (-1e100, True), (1.0001e100, False), (-1.0001e100, False), (math.nan, False)):
        for change in (
            {"matrices": (one, one * limit)},
            {"middles": (vector(1, limit),)},
            {"halves": (vector(0, limit),)},
        ):
            assert replace(chain, **change).is_usable is usable  # type: ignore[arg-type]
    assert replace(chain, errors=(0.0, 1e100)).is_usable and not replace(chain, errors=(0.0, 1.0001e100)).is_usable


# --- solving and checking again --------------------------------------------------------------------------------------


def test_certificates_of_rows_are_checked_row_by_row() -> None:
    """The largest of all; none may be missing, or be of another norm."""
    chain = LayeredChain((torch.diag(vector(1, 3, 2)),), (0.0,), (), ())
    parts = layered_problems(chain, (2.0, INF))
    assert list(parts) == ["row 0", "row 1", "row 2"] and {norm for _, norm in parts.values()} == {(2.0, 2.0)}
    assert layered_problems(chain, (2.0, 1.0)) == {"all": (chain, (2.0, 1.0))}
    found = [
        min(by_closed_form(one, norm, lambda: False).values(), key=lambda c: c.value) for one, norm in parts.values()
    ]
    assert recheck_layers(chain, (2.0, INF), found) == pytest.approx(3.0, rel=1e-8)
    assert recheck_layers(chain, (2.0, INF), found[:2]) == INF
    assert recheck_layers(chain, (2.0, INF), [replace(found[0], norm=(1.0, 2.0)), *found[1:]]) == INF
    whole = by_closed_form(chain, (2.0, INF), lambda: False)
    assert set(whole) == {"from the inputs", "from the outputs"}
    assert recheck_layers(chain, (2.0, INF), [whole["from the inputs"]]) == whole["from the inputs"].value
    assert set(by_closed_form(chain, (2.0, 2.0), lambda: True)) == {"from the inputs"}


# --- the method ------------------------------------------------------------------------------------------------------


def test_ranges_come_from_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """CROWN on bounded sets, intervals elsewhere, what was asked for, or what is known already."""
    graph = Graph(dense(torch.ones(2, 3).double(), hidden(dense(torch.ones(3, 2).double(), Input((2,))))))
    asked: list[str] = []

    for kind in (CROWN, IBP):

        def noted(method: OutputMethod, *rest: Any, _plain: Any = kind.ranges, **more: Any) -> Mapping[Node, Interval]:
            asked.append(type(method).__name__)
            return _plain(method, *rest, **more)

        monkeypatch.setattr(kind, "ranges", noted)
    for region, method, name in (
        (Ball(torch.zeros(2), 0.1), ECLipsE(), "CROWN"),
        (WholeSpace(), ECLipsE(), "IBP"),
        (Ball(torch.zeros(2), 0.1), ECLipsE(IBP()), "IBP"),
    ):
        (domain,), _ = region.domains(graph)
        found = method.constant(Query(graph, domain, Budget(), (2.0, 2.0)))
        assert asked.pop() == name and found.status is Status.CERTIFIED
        again = method.constant(Query(graph, domain, Budget(), (2.0, 2.0), ranges=lifted(found.ranges)))
        assert not asked and float(again.value) == float(found.value)


def test_layers_that_are_too_large_or_too_late_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(dense(torch.ones(2, 3).double(), hidden(dense(torch.ones(3, 2).double(), Input((2,))))))
    (domain,), _ = Ball(torch.zeros(2), 0.1).domains(graph)
    told: set[str] = set()
    budget = Budget(progress=lambda done, total, what: told.add(what))
    assert (
        ECLipsE().constant(Query(graph, domain, budget, (2.0, 2.0))).status is Status.CERTIFIED
        and "closed forms" in told
    )
    late = ECLipsE().constant(Query(graph, domain, Budget(seconds=0.0), (2.0, 2.0)))
    assert (
        late.status is Status.TIME_LIMIT and float(late.value) < math.inf and set(late.details) == {"from the inputs"}
    )
    for change in ("memory", "size"):
        with monkeypatch.context() as small:
            if change == "size":
                small.setattr(seqlip_layers, "LARGEST_SIDE", 2)
            memory = Budget(memory=10) if change == "memory" else Budget()
            found = ECLipsE().constant(Query(graph, domain, memory, (2.0, 2.0)))
            assert found.status is Status.MEMORY_LIMIT and float(found.value) == math.inf and not found.certificates


def test_a_constant_is_of_one_set() -> None:
    graph = Graph(dense(torch.ones(2, 2).double(), Input((2,))))
    several = Domain(Interval(torch.zeros(3, 2).double(), torch.ones(3, 2).double()))
    with pytest.raises(ShapeError, match="one set at a time, not for 3"):
        ECLipsE().constant(Query(graph, several, Budget()))
    assert ECLipsE().bytes_per_set(graph) > 0


def test_certificates_of_another_norm_or_too_many_prove_nothing() -> None:
    chain = LayeredChain((torch.diag(vector(1, 3, 2)),), (0.0,), (), ())
    for asked, given in (((2.0, 2.0), (1.0, 2.0)), ((2.0, INF), (2.0, 2.0))):
        other = by_closed_form(chain, given, lambda: False)["from the inputs"]
        assert other.value < INF and recheck_layers(chain, asked, [other]) == INF
    whole = by_closed_form(chain, (2.0, INF), lambda: False)["from the inputs"]
    assert recheck_layers(chain, (2.0, INF), [whole] * 3) == recheck_layers(chain, (2.0, INF), []) == INF
