"""Columns of the unstable core in shares that fit the memory, and what is left when time is over in between."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import Generator, Tensor

from jacobound import CROWN, Ball, Budget, FastLip, Graph, RecurJac, Status
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.domains import Domain
from jacobound.jacobian import core as cores
from jacobound.jacobian.core import UnstableCore, build_core, column_bytes, core_bytes, matrix_bytes
from jacobound.jacobian.fastlip import interval_adjoints
from jacobound.jacobian.rounding_weights import defect_weights
from jacobound.method import JacobianEnclosure, Query, derivative_ranges
from jacobound.operators.kinds import Dense

SHARES = (1, 3, 7, 1000)


def skipping_network() -> Graph:
    """Three hidden layers, the first of which is read twice, so that paths of all lengths exist."""
    generator = Generator().manual_seed(3)

    def dense(width: int, *sources: Node) -> Affine:
        def weight(n: int) -> Tensor:
            return torch.randn(width, n, generator=generator, dtype=torch.float64) / n**0.5

        bias = torch.randn(width, generator=generator, dtype=torch.float64) / 4
        return Affine(tuple((Dense(weight(source.shape[0])), source) for source in sources), bias)

    def act(node: Node, name: str = "relu") -> Elementwise:
        return Elementwise(activation(name), node)

    first = act(dense(9, Input((4,))))
    second = act(dense(8, first), "tanh")
    third = act(dense(7, second, first), "leaky_relu:0.2")
    return Graph(dense(3, third, second))


def neighbourhood(graph: Graph, sets: int) -> Domain:
    centres = torch.randn(sets, 4, generator=Generator().manual_seed(5), dtype=torch.float64)
    return Ball(centres, 0.6).domains(graph)[0][:]


def built(sets: int, budget: Budget) -> tuple[Graph, Mapping[Node, Interval], UnstableCore | None]:
    graph = skipping_network()
    slopes = derivative_ranges(graph, CROWN().ranges(graph, neighbourhood(graph, sets), Budget()))
    weights = defect_weights(graph, slopes, interval_adjoints(graph, slopes))
    return graph, slopes, build_core(graph, slopes, weights, budget)


@pytest.mark.parametrize("sets", (1, 3))
@pytest.mark.parametrize("columns", SHARES)
def test_shares_of_columns_give_the_same_core(columns: int, sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(sets, Budget())[2]
    monkeypatch.setattr(cores, "LEAST_COLUMNS", columns)
    told: list[tuple[float, float]] = []
    tight = Budget(memory=1, progress=lambda done, total, what: told.append((done, total)))
    graph, _, cut = built(sets, tight)
    assert whole is not None and cut is not None
    assert whole.neurons > 12 and len(told) == -(-(whole.neurons + 4) // columns) == told[-1][1]
    names = {node: k for k, node in enumerate(whole.graph.nodes)}
    others = {node: k for k, node in enumerate(graph.nodes)}
    matrices = {(others[target], others[start]): matrix for (target, start), matrix in cut.transfer.items()}
    assert set(matrices) == {(names[target], names[start]) for target, start in whole.transfer}
    for (target, start), matrix in whole.transfer.items():
        torch.testing.assert_close(matrices[names[target], names[start]], matrix, rtol=1e-12, atol=1e-14)
    errors = {others[start]: error for start, error in cut.error.items()}
    for start, error in whole.error.items():
        torch.testing.assert_close(errors[names[start]], error, rtol=1e-3, atol=1e-20)


def test_the_memory_says_how_many_columns_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "LEAST_COLUMNS", 1)
    told: list[float] = []
    graph, _, core = built(1, Budget())
    assert core is not None and core_bytes(graph, core.neurons) == core_bytes(graph, core.neurons, 1e9)
    assert column_bytes(graph) == 3 * 9 * 8 and matrix_bytes(graph, 10) == 10 * (4 + 5) * 8
    assert core_bytes(graph, 10, 6) == matrix_bytes(graph, 10) + 6 * column_bytes(graph)
    assert core_bytes(graph, 10) == matrix_bytes(graph, 10) + 14 * column_bytes(graph)
    memory = core_bytes(graph, core.neurons, 6)
    built(1, Budget(memory=memory, progress=lambda done, total, what: told.append(total)))
    assert told[0] == -(-(core.neurons + 4) // 6)


def inside(inner: Interval, outer: Interval) -> bool:
    slack = 1e-9 * (1 + outer.magnitude())
    return bool(((inner.lower >= outer.lower - slack) & (inner.upper <= outer.upper + slack)).all())


@pytest.mark.slow
def test_time_that_ends_anywhere_leaves_a_certified_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the bound of the whole recursion and that of interval arithmetic, and never narrower than the truth."""
    monkeypatch.setattr(cores, "LEAST_COLUMNS", 5)
    monkeypatch.setattr("jacobound.jacobian.recursion.recursion.LEAST_COLUMNS", 0)
    monkeypatch.setattr(Budget, "fits", lambda self, size: True)
    graph, domain = skipping_network(), neighbourhood(skipping_network(), 2)
    ranges = CROWN().ranges(graph, domain, Budget())
    best, plain = (method.enclose(Query(graph, domain, Budget(), ranges=ranges)) for method in (RecurJac(), FastLip()))
    assert best.status is Status.CERTIFIED and not inside(plain.entries, best.entries)
    seen: list[JacobianEnclosure] = []
    questions = 0
    while not seen or seen[-1].status is not Status.CERTIFIED:
        asked = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(Budget, "is_over", property(lambda self, n=questions, asked=asked: next(asked) >= n))
            seen.append(RecurJac().enclose(Query(graph, domain, Budget(memory=1), ranges=ranges)))
        found = seen[-1]
        assert found.status in (Status.CERTIFIED, Status.TIME_LIMIT)
        assert inside(best.entries, found.entries) and inside(found.entries, plain.entries)
        questions += 1
    assert inside(seen[-1].entries, best.entries) and len(seen) > 10
    widths = [float((one.entries.upper - one.entries.lower).sum()) for one in seen]
    assert widths[-1] < widths[-6] < widths[0]  # what is refined in time counts
