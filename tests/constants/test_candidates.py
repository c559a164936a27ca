"""Candidates and their minimum, with methods that answer what the test says: names, statuses, shares of the time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from flint import fmpq

import jacobound as jb
from exact import rational
from jacobound import Budget, Candidate, Graph, InvalidRegionError, SolverError, Status, UnsupportedOpError
from jacobound.arithmetic.intervals import Interval
from jacobound.budget import checkpoint
from jacobound.graph.nodes import Elementwise, Node, Vector
from jacobound.graph.vector.comparisons import Maximum
from jacobound.graph.vector.smooth import Softmax
from jacobound.inputs.domains import Domain
from jacobound.method import (
    About,
    ConstantBound,
    JacobianEnclosure,
    JacobianMethod,
    LipschitzMethod,
    Query,
    candidates,
)
from jacobound.method.candidates import Candidates, conversion, converted
from jacobound.method.from_entries import from_entries

INF = math.inf
TWO = (2.0, 2.0)


def network(dtype: torch.dtype = torch.float64, activation: str = "relu") -> Graph:
    """Three inputs, two neurons, two outputs."""
    first = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0]])
    return jb.from_layers([first, torch.eye(2)], activation=activation).to(dtype=dtype).with_rows(None)


def boxes(sets: int, dtype: torch.dtype = torch.float64) -> Domain:
    ends = torch.ones(sets, 3, dtype=dtype)
    return Domain(Interval(-ends, ends))


def slope(graph: Graph, low: list[list[float]], high: list[list[float]]) -> dict[Node, Interval]:
    hidden = next(node for node in graph.nodes if isinstance(node, Elementwise))
    return {hidden: Interval(*(torch.tensor(end).to(graph.example) for end in (low, high)))}


@dataclass
class Known(LipschitzMethod):
    """Says what it was told, and remembers what it was asked."""

    about: ClassVar[About] = About("any", "this file")

    values: list[float]
    statuses: list[Status] = field(default_factory=lambda: [Status.CERTIFIED] * 9)
    certificates: list[tuple[Any, ...]] = field(default_factory=lambda: [()] * 9)
    asked: list[tuple[Domain, tuple[float, float], Budget, Any]] = field(default_factory=list)

    def constant(self, query: Query) -> ConstantBound:
        k = len(self.asked)
        self.asked.append((query.domain, query.norm, query.budget, query.ranges))
        slopes = {node: one[0] for node, one in slope(query.graph, [[0.0] * 2], [[float(k > 0), 1.0]]).items()}
        value = torch.tensor(self.values[k], dtype=torch.float64)
        return ConstantBound(value, self.statuses[k], {}, self.certificates[k], slopes, {})


@dataclass(frozen=True)
class Entries(JacobianMethod):
    """An enclosure that does not depend on the network."""

    about: ClassVar[About] = About("any", "this file")

    size: float = 2.0
    status: Status = Status.CERTIFIED
    asked: list[Any] = field(default_factory=list)

    def enclose(self, query: Query) -> JacobianEnclosure:
        graph, sets = query.graph, len(query.domain)
        self.asked.append((query.domain, query.budget, query.ranges))
        exact = Interval.exact(torch.full((1, 2, 3), self.size).to(graph.example))
        known = slope(graph, [[0.0, 1.0]] * sets, [[1.0, 1.0]] * sets)
        adjoints = {node: Interval.exact(torch.ones(sets, 2, *node.shape).to(graph.example)) for node in graph.nodes}
        return JacobianEnclosure(exact, lambda u: Interval.whole(u[..., 0]), adjoints, known, {}, self.status)


def one(*values: float, status: Status = Status.CERTIFIED) -> Candidate:
    return Candidate(torch.tensor(values, dtype=torch.float64), status, 1.0)


# --- what stands side by side --------------------------------------------------------------------------------------


def test_the_status_is_that_of_the_winners_of_any_set() -> None:
    few = one(1.0, 5.0, status=Status.MEMORY_LIMIT)
    found = Candidates({"few": few, "sure": one(2.0, 3.0)}, torch.tensor([0, 0]))
    assert found.upper.tolist() == [1.0, 3.0] and found.winner == "few" and found.status is Status.MEMORY_LIMIT
    late = Candidates({"few": few, "late": one(2.0, 3.0, status=Status.TIME_LIMIT)}, torch.tensor([0, 0]))
    assert late.status in (Status.MEMORY_LIMIT, Status.TIME_LIMIT)
    lost = Candidates({"few": few, "late": one(9.0, 9.0, status=Status.TIME_LIMIT)}, torch.tensor([0, 0]))
    assert lost.status is Status.MEMORY_LIMIT
    loser = Candidates({"few": few, "sure": one(0.5, 0.5)}, torch.tensor([0, 0]))
    assert loser.status is Status.CERTIFIED and loser.winner == "sure"


def test_certificates_and_seconds_of_runs_are_joined() -> None:
    proved = Candidate(torch.tensor([1.0, 2.0]), Status.CERTIFIED, 1.5, (("a",), ("b",)))
    first = Candidates({"x": proved, "y": Candidate(torch.ones(2), Status.CERTIFIED, 0.25)}, torch.tensor([1, 2]))
    second = Candidates({"y": Candidate(torch.ones(3), Status.CERTIFIED, 0.5)}, torch.tensor([3, 4, 5]))
    joined = Candidates.joined([first, second])
    assert joined.known["x"].certificates == (("a",), ("b",), (), (), ()) and joined.known["x"].seconds == 1.5
    assert joined.known["y"].certificates == () and joined.known["y"].seconds == 0.75
    assert joined.known["x"].value.tolist() == [1.0, 2.0, INF, INF, INF]
    assert joined.known["x"].value.dtype == torch.float32


# --- one method ----------------------------------------------------------------------------------------------------


def test_an_enclosure_gives_its_norm_and_products_of_norms() -> None:
    graph, domain = network(), boxes(2)
    behind = next(node for node in graph.crossings)
    asked = Query(graph, domain, Budget(), (INF, INF))
    found = Entries().constants(asked)
    assert found.enclosure is not None
    in_l2 = candidates.products_through(2.0, found.enclosure, asked)
    name = f"derivative behind {behind.name}, product of norms before"
    assert set(found.known) == {"Entries", name, "product of norms"} and set(in_l2) == {f"{name} in l_2"}
    assert found.known["Entries"].value.tolist() == pytest.approx([6.0, 6.0]) and found.unstable.tolist() == [1, 1]
    assert found.known["Entries"].seconds > 0.0 and found.known[name].seconds == 0.0
    # l_inf: rows 4 and 1.5 before two neurons of slope 1, rows of two ones behind them.
    assert float(found.known[name].value[0]) == pytest.approx(8.0)
    spectral = float(torch.linalg.matrix_norm(torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0]]), 2))
    expected = spectral * math.sqrt(2) * math.sqrt(3)  # of l_2 -> l_inf, from l_inf by sqrt(3)
    assert float(in_l2[f"{name} in l_2"].value[1]) == pytest.approx(expected, rel=1e-6)
    few = Entries(status=Status.MEMORY_LIMIT).constants(Query(graph, domain, Budget(), TWO))
    assert {candidate.status for candidate in few.known.values()} == {Status.MEMORY_LIMIT}
    wide = Entries(INF).constants(Query(graph, domain, Budget(), TWO))
    assert wide.known["Entries"].status is Status.OVERFLOW and wide.known[name].status is Status.CERTIFIED


def test_converted_constants_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    factor = conversion(graph, (2.0, INF), (INF, INF))
    for k in range(40):
        value = math.pi + k / 7
        exact = rational(value) * rational(factor)
        found = float(converted(one(value), graph, (2.0, INF), (INF, INF)).value)
        assert exact <= rational(found) <= exact * (1 + fmpq(4, 2**53))
        monkeypatch.setattr(candidates, "split_products", lambda *_, value=value: {"x": torch.tensor([value]).double()})
        given = float(torch.tensor([value]).double())
        asked = Query(graph, boxes(1), Budget(), (INF, INF))
        split = candidates.products_through(2.0, Entries().enclose(asked), asked)["x in l_2"]
        exact = rational(given) * rational(factor)
        assert exact <= rational(float(split.value)) <= exact * (1 + fmpq(4, 2**53))
    same = one(1.0)
    assert converted(same, graph, TWO, TWO) is same and converted(same, graph, (2.0, 2.0), (1.0, 2.0)) is same


def test_sets_are_asked_one_by_one_with_their_ranges_and_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacobound.budget.monotonic", lambda: 0.0)
    graph, domain = network(), boxes(3)
    domain = Domain(Interval(domain.box.lower * torch.tensor([[1.0], [2.0], [3.0]]).double(), domain.box.upper))
    ranges = {node: Interval.exact(torch.arange(3.0).double().reshape(3, 1)) for node in graph.nodes}
    statuses = [Status.CERTIFIED, Status.TIME_LIMIT, Status.CERTIFIED]
    method = Known([1.0, 2.0, 0.5], statuses, [("a",), (), ("c",)])
    found = method.constants(Query(graph, domain, Budget(12.0, started=0.0), TWO, ranges))
    (candidate,) = found.known.values()
    assert candidate.value.tolist() == [1.0, 2.0, 0.5] and candidate.status is Status.TIME_LIMIT
    assert candidate.certificates == (("a",), (), ("c",)) and candidate.seconds == 0.0
    assert found.unstable.tolist() == [1, 2, 2]
    assert [one.box.lower[0, 0].item() for one, *_ in method.asked] == [-1.0, -2.0, -3.0]
    assert [len(one) for one, *_ in method.asked] == [1, 1, 1]
    assert [share.seconds for _, _, share, _ in method.asked] == [4.0, 6.0, 12.0]
    assert [float(known[graph.input].lower[0]) for *_, known in method.asked] == [0.0, 1.0, 2.0]
    bare = Known([1.0])
    assert bare.constants(Query(graph, boxes(1), Budget(), TWO)).known["Known"].certificates == ()
    assert bare.asked[0][3] is None


def test_constants_are_rounded_up_to_the_dtype_of_the_graph() -> None:
    values = [1.0, 1 + 2.0**-40, 1 - 2.0**-40, 1 / 3, 2.0**-300]
    graph = network(torch.float32)
    found = Known(values).constants(Query(graph, boxes(5, torch.float32), Budget(), TWO)).known["Known"].value
    assert found.dtype == torch.float32 and float(found[0]) == 1.0
    near = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    for value, number in zip(values, found.tolist(), strict=True):
        assert value <= number <= max(value * float(near) ** 4, 1e-37)


def test_neurons_are_counted_where_there_are_any() -> None:
    linear = jb.from_layers([torch.eye(2)])
    assert candidates.unstable_neurons({}, 3).tolist() == [0, 0, 0]
    assert jb.lipschitz(linear, jb.Ball(torch.zeros(2, 2), 1.0), jb.RecurJac()).unstable.tolist() == [0, 0]
    asked = Entries().constants(Query(network(), boxes(2), Budget(), TWO))
    assert set(asked.known) >= {"Entries"}
    assert set(Known([1.0, 2.0]).constants(Query(network(), boxes(2), Budget(), TWO)).known) == {"Known"}
    assert float(from_entries(Entries().enclose(Query(network(), boxes(1), Budget())), INF, INF)) == pytest.approx(6.0)


# --- several methods -----------------------------------------------------------------------------------------------


def rows_of(graph: Graph, region: jb.Ball | jb.WholeSpace, **more: Any) -> set[str]:
    """Names of the methods among the details of the default."""
    names = {type(method).__name__ for method in (jb.RecurJac(), jb.FastLip(), jb.LinearSlopes())}
    found = jb.lipschitz(graph, region, search=None, **more)
    return set(found.details) & (names | {"AutoLip", "LipSDP", "SeqLip"})


@pytest.mark.slow
def test_methods_that_choose_depend_on_network_and_region() -> None:
    ball, pooled = jb.Ball([0.1] * 3, 0.5), Graph(Vector(Maximum(torch.tensor([[0], [1]]), (2,)), network().output))
    assert rows_of(network(), ball) == {"RecurJac", "LipSDP"}  # a finished certificate implies products and pairs
    assert rows_of(network(), jb.WholeSpace()) == {"FastLip", "LipSDP"}
    assert rows_of(network(activation="tanh"), ball) == {"RecurJac", "LinearSlopes", "LipSDP"}
    assert rows_of(network(activation="tanh"), jb.WholeSpace()) == {"FastLip", "LipSDP"}
    assert rows_of(Graph(Vector(Softmax((2,)), network().output)), ball) == {
        "RecurJac",
        "LinearSlopes",
        "LipSDP",
        "AutoLip",
        "SeqLip",
    }
    assert rows_of(pooled, ball) == {"RecurJac", "LipSDP", "AutoLip", "SeqLip"}  # its constant the expansion hides
    assert "AutoLip over the whole space" in jb.lipschitz(network(), ball).details


def test_where_the_certificate_of_a_region_fails_one_for_all_inputs_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, wide = network(), jb.Box([-1e3] * 3, [1e3] * 3)
    everywhere, own = jb.lipschitz(graph, jb.WholeSpace(), jb.LipSDP(), search=None), jb.LipSDP.constant

    def failing(method: jb.LipSDP, query: Query) -> object:
        if bool(query.domain.bounded.all()):
            raise SolverError("out of steps")
        return own(method, query)

    monkeypatch.setattr(jb.LipSDP, "constant", failing)
    found = jb.lipschitz(graph, wide, search=None)
    assert "LipSDP over the whole space" in found.details
    assert float(found.upper) <= float(everywhere.upper) * (1 + 1e-9)
    assert "LipSDP over the whole space" not in jb.lipschitz(graph, jb.WholeSpace(), search=None).details


def test_every_method_gets_a_part_of_what_is_left_and_the_last_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacobound.budget.monotonic", lambda: 0.0)
    first, second, third = Entries(), Known([1.0]), Known([3.0])
    found = jb.Best(first, second, third).constants(Query(network(), boxes(1), Budget(8.0, started=0.0), TWO))
    assert [first.asked[0][1].seconds, second.asked[0][2].seconds, third.asked[0][2].seconds] == [4.0, 4.0, 8.0]
    assert first.asked[0][2] is not None and second.asked[0][3] is not None
    assert set(found.known) >= {"Entries", "Known"} and found.unstable.tolist() == [1]
    (again,) = [name for name in found.known if name.startswith("Known ")]
    assert float(found.known["Known"].value) == 1.0 and float(found.known[again].value) == 3.0


@pytest.mark.parametrize("norm", [(INF, INF), (1.0, 2.0), (2.0, INF)])
def test_norms_that_a_method_does_not_know_are_converted(norm: tuple[float, float]) -> None:
    graph = network()
    pairs = jb.lipschitz(graph, jb.WholeSpace(), jb.Best(jb.SeqLip()), norm=norm, search=None)
    plain = jb.lipschitz(graph, jb.WholeSpace(), jb.SeqLip(), search=None)
    (name,) = pairs.details
    assert name == "SeqLip from l2 to l2"
    assert float(pairs.upper) == pytest.approx(float(plain.upper) * conversion(graph, TWO, norm), rel=1e-9)


FAILURES = (
    RuntimeError("The algorithm failed to converge"),
    torch.linalg.LinAlgError("singular"),
    UnsupportedOpError("not this one"),
    InvalidRegionError("not here"),
    MemoryError("too much"),
    ZeroDivisionError("by zero"),
)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", [jb.RecurJac, jb.FastLip, jb.LinearSlopes, jb.LipSDP, jb.AutoLip, jb.SeqLip])
def test_the_minimum_survives_each_of_its_candidates(
    method: type[Any], failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks is a row that says why; the others answer. When all break the error is of the library's own."""

    def broken(*_: Any, **__: Any) -> None:
        raise failure

    verb = "enclose" if issubclass(method, JacobianMethod) else "constant"
    monkeypatch.setattr(method, verb, broken)
    tanh, pooled = network(activation="tanh"), Graph(Vector(Maximum(torch.tensor([[0], [1]]), (2,)), network().output))
    for graph, region in ((tanh, jb.Ball([0.1] * 3, 0.5)), (tanh, jb.WholeSpace()), (pooled, jb.Ball([0.1] * 3, 0.5))):
        found = jb.lipschitz(graph, region)
        assert found.status.certified and float(found.lower) <= float(found.upper) < INF
        for row in [one for name, one in found.details.items() if name.startswith(method.__name__)]:
            assert row.status in (Status.FAILED, Status.CERTIFIED)
            assert row.status is Status.CERTIFIED or (str(failure) in row.note and float(row.value) == INF)
    with pytest.raises((jb.JacoboundError, MemoryError), match=str(failure)):
        jb.lipschitz(tanh, jb.Ball([0.1] * 3, 0.5), jb.Best(method()))


def test_work_that_never_looks_at_the_clock_is_given_up() -> None:
    class Endless(Known):
        def constant(self, *given: Any, **more: Any) -> ConstantBound:
            while True:
                checkpoint()

    graph, region = network(), jb.Ball([0.1] * 3, 0.5)
    found = jb.lipschitz(graph, region, jb.Best(Endless([]), jb.AutoLip()), budget=Budget(0.1), search=None)
    assert found.details["Endless"].status is Status.TIME_LIMIT and "given up" in found.details["Endless"].note
    assert float(found.upper) == float(found.details["AutoLip"].value) < INF and found.status is Status.TIME_LIMIT
    alone = jb.lipschitz(graph, region, Endless([]), budget=Budget(0.1), search=None)
    assert alone.status is Status.TIME_LIMIT and float(alone.upper) < INF


def test_what_the_users_own_progress_raises_reaches_the_user() -> None:
    class Enough(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Enough

    with pytest.raises(Enough):
        jb.lipschitz(network(), jb.Ball([0.1] * 3, 0.5), budget=Budget(progress=stop))


def test_memory_is_that_of_the_dearest_method() -> None:
    graph = network()
    dear, cheap = jb.RecurJac().bytes_per_set(graph), jb.AutoLip().bytes_per_set(graph)
    assert dear > cheap
    assert jb.Best().bytes_per_set(graph) == dear and jb.Best(jb.AutoLip()).bytes_per_set(graph) == cheap
    assert jb.Best(jb.AutoLip(), jb.FastLip()).bytes_per_set(graph) == dear
    with pytest.raises(jb.InvalidOptionError, match="an estimate"):
        jb.Best(jb.AutoLip(), jb.SeqLip(pairs="greedy"))
    assert "SeqLip" in repr(jb.Best(jb.SeqLip()))
