"""Candidates and their minimum, with methods that answer what the test says: names, statuses, shares of the time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from flint import fmpq

import jacobound as jb
from exact import rational
from jacobound import Budget, Candidate, Status
from jacobound.domains import Domain
from jacobound.errors import InvalidRegionError, UnsupportedOpError
from jacobound.graph import Elementwise, Graph, Node, Vector
from jacobound.intervals import Interval
from jacobound.methods import base, best, candidates
from jacobound.methods.base import JacobianEnclosure, JacobianMethod
from jacobound.methods.candidates import Candidates, converted, of_jacobian, of_sets
from jacobound.methods.constants import from_entries
from jacobound.methods.lipschitz_method import ConstantBound, LipschitzMethod, conversion
from jacobound.vector_functions import Maximum
from jacobound.vector_smooth import Length, Softmax

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

    values: list[float]
    statuses: list[Status] = field(default_factory=lambda: [Status.CERTIFIED] * 9)
    certificates: list[tuple[Any, ...]] = field(default_factory=lambda: [()] * 9)
    asked: list[tuple[Domain, tuple[float, float], Budget, Any]] = field(default_factory=list)

    def constant(
        self,
        graph: Graph,
        domain: Domain,
        norm: tuple[float, float],
        budget: Budget,
        ranges: Mapping[Node, Interval] | None = None,
    ) -> ConstantBound:
        k = len(self.asked)
        self.asked.append((domain, norm, budget, ranges))
        slopes = {node: one[0] for node, one in slope(graph, [[0.0] * 2], [[float(k > 0), 1.0]]).items()}
        value = torch.tensor(self.values[k], dtype=torch.float64)
        return ConstantBound(value, self.statuses[k], {}, self.certificates[k], slopes, {})


@dataclass(frozen=True)
class Entries(JacobianMethod):
    """An enclosure that does not depend on the network."""

    size: float = 2.0
    status: Status = Status.CERTIFIED
    asked: list[Any] = field(default_factory=list)

    def enclose(
        self, graph: Graph, domain: Domain, budget: Budget, ranges: Any = None, slopes: Any = None
    ) -> JacobianEnclosure:
        self.asked.append((domain, budget, ranges))
        sets = len(domain)
        exact = Interval.exact(torch.full((1, 2, 3), self.size).to(graph.example))
        known = slope(graph, [[0.0, 1.0]] * sets, [[1.0, 1.0]] * sets)
        adjoints = {node: Interval.exact(torch.ones(sets, 2, *node.shape).to(graph.example)) for node in graph.nodes}
        return JacobianEnclosure(exact, lambda u: Interval.whole(u[..., 0]), adjoints, known, {}, self.status)


class Clock:
    """Every look at it takes a second."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


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


def test_an_enclosure_gives_its_norm_and_products_of_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "monotonic", Clock())
    graph, domain = network(), boxes(2)
    behind = next(node for node in graph.crossings)
    found = of_jacobian(Entries(), "E", graph, domain, (INF, INF), Budget(), through=(INF, 2.0))
    name = f"derivative behind {behind.name}, product of norms before"
    assert set(found.known) == {"E", name, f"{name} in l_2", "product of norms"}
    assert found.known["E"].value.tolist() == pytest.approx([6.0, 6.0]) and found.unstable.tolist() == [1, 1]
    assert found.known["E"].seconds == 1.0 and found.known[name].seconds == 0.0
    # l_inf: rows 4 and 1.5 before two neurons of slope 1, rows of two ones behind them.
    assert float(found.known[name].value[0]) == pytest.approx(8.0)
    spectral = float(torch.linalg.matrix_norm(torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 1.0]]), 2))
    expected = spectral * math.sqrt(2) * math.sqrt(3)  # of l_2 -> l_inf, from l_inf by sqrt(3)
    assert float(found.known[f"{name} in l_2"].value[1]) == pytest.approx(expected, rel=1e-6)
    alone = of_jacobian(Entries(), "E", graph, domain, (INF, INF), Budget())
    assert set(alone.known) == {"E", name, "product of norms"}
    few = of_jacobian(Entries(status=Status.MEMORY_LIMIT), "E", graph, domain, TWO, Budget())
    assert {candidate.status for candidate in few.known.values()} == {Status.MEMORY_LIMIT}
    wide = of_jacobian(Entries(INF), "E", graph, domain, TWO, Budget())
    assert wide.known["E"].status is Status.OVERFLOW and wide.known[name].status is Status.CERTIFIED


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
        split = of_jacobian(Entries(), "E", graph, boxes(1), (INF, INF), Budget(), through=(2.0,)).known["x in l_2"]
        exact = rational(given) * rational(factor)
        assert exact <= rational(float(split.value)) <= exact * (1 + fmpq(4, 2**53))
    same = one(1.0)
    assert converted(same, graph, TWO, TWO) is same and converted(same, graph, (2.0, 2.0), (1.0, 2.0)) is same


def test_sets_are_asked_one_by_one_with_their_ranges_and_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "monotonic", Clock())
    monkeypatch.setattr(base, "monotonic", lambda: 0.0)
    graph, domain = network(), boxes(3)
    domain = Domain(Interval(domain.box.lower * torch.tensor([[1.0], [2.0], [3.0]]).double(), domain.box.upper))
    ranges = {node: Interval.exact(torch.arange(3.0).double().reshape(3, 1)) for node in graph.nodes}
    statuses = [Status.CERTIFIED, Status.TIME_LIMIT, Status.CERTIFIED]
    method = Known([1.0, 2.0, 0.5], statuses, [("a",), (), ("c",)])
    found = of_sets(method, "K", graph, domain, TWO, Budget(12.0, started=0.0), ranges)
    (candidate,) = found.known.values()
    assert candidate.value.tolist() == [1.0, 2.0, 0.5] and candidate.status is Status.TIME_LIMIT
    assert candidate.certificates == (("a",), (), ("c",)) and candidate.seconds == 1.0
    assert found.unstable.tolist() == [1, 2, 2]
    assert [one.box.lower[0, 0].item() for one, *_ in method.asked] == [-1.0, -2.0, -3.0]
    assert [len(one) for one, *_ in method.asked] == [1, 1, 1]
    assert [share.seconds for _, _, share, _ in method.asked] == [4.0, 6.0, 12.0]
    assert [float(known[graph.input].lower) for *_, known in method.asked] == [0.0, 1.0, 2.0]
    bare = Known([1.0])
    assert of_sets(bare, "K", graph, boxes(1), TWO, Budget()).known["K"].certificates == ()
    assert bare.asked[0][3] is None


def test_constants_are_rounded_up_to_the_dtype_of_the_graph() -> None:
    values = [1.0, 1 + 2.0**-40, 1 - 2.0**-40, 1 / 3, 2.0**-300]
    graph = network(torch.float32)
    found = of_sets(Known(values), "K", graph, boxes(5, torch.float32), TWO, Budget()).known["K"].value
    assert found.dtype == torch.float32 and float(found[0]) == 1.0
    near = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    for value, number in zip(values, found.tolist(), strict=True):
        assert value <= number <= max(value * float(near) ** 4, 1e-37)


def test_neurons_are_counted_where_there_are_any() -> None:
    linear = jb.from_layers([torch.eye(2)])
    assert candidates.unstable_neurons({}, 3).tolist() == [0, 0, 0]
    assert jb.lipschitz(linear, jb.Ball(torch.zeros(2, 2), 1.0), jb.RecurJac()).unstable.tolist() == [0, 0]
    asked = candidates.candidates(Entries(), network(), boxes(2), TWO, Budget())
    assert set(asked.known) >= {"Entries"}
    assert set(candidates.candidates(Known([1.0, 2.0]), network(), boxes(2), TWO, Budget()).known) == {"Known"}
    assert float(from_entries(Entries().enclose(network(), boxes(1), Budget()), INF, INF)) == pytest.approx(6.0)


# --- several methods -----------------------------------------------------------------------------------------------


def test_methods_that_choose_depend_on_network_and_region() -> None:
    def names(bounded: bool, graph: Graph) -> list[str]:
        return [type(method).__name__ for method in best._chosen(bounded, graph)]

    rest = ["AutoLip", "LipSDP", "SeqLip"]
    assert names(True, network()) == ["RecurJac", *rest] and names(False, network()) == ["FastLip", *rest]
    assert names(True, network(activation="tanh")) == ["RecurJac", "LinearSlopes", *rest]
    assert names(False, network(activation="tanh")) == ["FastLip", *rest]
    soft = Graph(Vector(Softmax((2,)), network().output))
    assert names(True, soft) == ["AutoLip", "SeqLip"]


def test_parts_of_the_time() -> None:
    assert best._part(jb.LipSDP(), (2, 2)) == 0.7 and best._part(jb.LipSDP(), (INF, 2.0)) == 0.95
    assert best._part(jb.LinearSlopes(), (2, 2)) == 0.25 and best._part(jb.RecurJac(), (2, 2)) == 0.5


def test_every_method_gets_a_part_of_what_is_left_and_the_last_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "monotonic", lambda: 0.0)
    first, second, third = Entries(), Known([1.0]), Known([3.0])
    found = jb.Best(first, second, third).candidates(network(), boxes(1), TWO, Budget(8.0, started=0.0))
    assert [first.asked[0][1].seconds, second.asked[0][2].seconds, third.asked[0][2].seconds] == [4.0, 4.0, 8.0]
    assert first.asked[0][2] is not None and second.asked[0][3] is not None
    assert set(found.known) >= {"Entries", "Known", "Known 2: Known"} and found.unstable.tolist() == [1]
    assert float(found.known["Known"].value) == 1.0 and float(found.known["Known 2: Known"].value) == 3.0


def test_pairs_of_layers_are_asked_where_they_can_gain() -> None:
    graph = network()
    for status, worth in ((Status.CERTIFIED, False), (Status.TIME_LIMIT, True)):
        solved = Candidates({"LipSDP": one(1.0, status=status)}, torch.tensor([0]))
        assert best._worth_pairs(graph, {"LipSDP": solved}) is worth
    assert best._worth_pairs(graph, {})
    pooled = Graph(Vector(Maximum(torch.tensor([[0], [1]]), (2,)), graph.output))
    assert best._worth_pairs(pooled, {"LipSDP": Candidates({"LipSDP": one(1.0)}, torch.tensor([0]))})


def test_ranges_are_those_of_the_method_that_the_region_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()
    crown = jb.CROWN().ranges(graph, boxes(1), Budget(), with_output=False)
    found = best._ranges(graph, boxes(1), Budget())
    assert found is not None and torch.equal(found[graph.output].lower, crown[graph.output].lower)
    asked = []
    monkeypatch.setattr(jb.IBP, "ranges", lambda *_, **__: asked.append(1) or {})
    ends = torch.tensor([[1.0] * 3, [INF] * 3]).double()
    assert best._ranges(graph, Domain(Interval(-ends, ends)), Budget()) == {} and asked == [1]
    for error in (InvalidRegionError, UnsupportedOpError):

        def refuse(*_: Any, error: type[Exception] = error, **__: Any) -> None:
            raise error("no")

        monkeypatch.setattr(jb.CROWN, "ranges", refuse)
        assert best._ranges(graph, boxes(1), Budget()) is None


def test_norms_that_a_method_does_not_know_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, ranges = network(), {"known": 1}
    asked: list[tuple[str, Any, Any]] = []

    def of_sets(method: Any, name: str, graph: Any, domain: Any, norm: Any, budget: Any, ranges: Any) -> Candidates:
        asked.append((name, norm, ranges))
        return Candidates({name: one(2.0)}, torch.tensor([0]))

    def of_jacobian(*given: Any) -> Candidates:
        asked.append((given[1], given[4], given[7]))
        return Candidates({}, torch.tensor([0]))

    monkeypatch.setattr(best, "of_sets", of_sets)
    monkeypatch.setattr(best, "of_jacobian", of_jacobian)

    def ask(method: Any, norm: tuple[float, float], graph: Graph = graph) -> Candidates:
        return best._asked(method, graph, boxes(1), norm, Budget(), ranges)  # type: ignore[arg-type]

    for method, norm, expected in (
        (jb.SeqLip(), TWO, ("SeqLip", TWO, ranges)),
        (jb.SeqLip(), (INF, INF), ("SeqLip", TWO, ranges)),
        (jb.AutoLip(), (INF, INF), ("AutoLip", (INF, INF), ranges)),
        (jb.RecurJac(), (INF, 2.0), ("RecurJac", (INF, 2.0), (INF, 2.0))),
        (jb.RecurJac(), (1.0, 2.0), ("RecurJac", (1.0, 2.0), (1.0,))),
    ):
        found = ask(method, norm)
        assert asked.pop() == expected
        if isinstance(method, jb.SeqLip) and norm != TWO:
            (name,) = found.known
            assert name == "SeqLip from l2 to l2"
            assert float(found.known[name].value) == pytest.approx(2 * conversion(graph, TWO, norm))
    soft = Graph(Vector(Softmax((2,)), network().output))
    ask(jb.AutoLip(), TWO, soft)
    assert asked.pop() == ("AutoLip", TWO, None)
    length = Graph(Vector(Length((2,)), graph.output))
    assert length.expands and length.lowered() is not length.expanded()
    ask(jb.AutoLip(), TWO, length)
    assert asked.pop() == ("AutoLip", TWO, None)


def test_refusals_end_the_question_unless_another_method_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Known):
        def constant(self, *given: Any, **more: Any) -> ConstantBound:
            raise UnsupportedOpError("not this one")

    with pytest.raises(UnsupportedOpError):
        jb.Best(Known([1.0]), Refusing([])).candidates(network(), boxes(1), TWO, Budget())
    monkeypatch.setattr(best, "_chosen", lambda *_: (Refusing([]), Known([1.0])))
    assert list(jb.Best().candidates(network(), boxes(1), TWO, Budget()).known) == ["Known"]
    monkeypatch.setattr(best, "_chosen", lambda *_: (Refusing([]), Refusing([])))
    with pytest.raises(UnsupportedOpError, match="not this one"):
        jb.Best().candidates(network(), boxes(1), TWO, Budget())


def test_a_choice_looks_at_all_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(best, "_chosen", lambda bounded, graph: seen.append(bounded) or (Known([1.0, 2.0]),))
    ends = torch.tensor([[1.0] * 3, [INF] * 3]).double()
    jb.Best().candidates(network(), Domain(Interval(-ends, ends)), TWO, Budget())
    jb.Best().candidates(network(), boxes(2), TWO, Budget())
    assert seen == [False, True]


def test_pairs_of_layers_are_left_out_only_of_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(method: Any, *_: Any) -> Candidates:
        asked.append(type(method).__name__)
        return Candidates({type(method).__name__: one(1.0)}, torch.tensor([0]))

    monkeypatch.setattr(best, "_asked", answer)
    jb.Best().candidates(network(), boxes(1), TWO, Budget())
    assert asked == ["RecurJac", "AutoLip", "LipSDP"]
    asked.clear()
    jb.Best(jb.LipSDP(), jb.SeqLip()).candidates(network(), boxes(1), TWO, Budget())
    assert asked == ["LipSDP", "SeqLip"]


def test_memory_is_that_of_the_dearest_method() -> None:
    graph = network()
    dear, cheap = jb.RecurJac().bytes_per_set(graph), jb.AutoLip().bytes_per_set(graph)
    assert dear > cheap
    assert jb.Best().bytes_per_set(graph) == dear and jb.Best(jb.AutoLip()).bytes_per_set(graph) == cheap
    assert jb.Best(jb.AutoLip(), jb.FastLip()).bytes_per_set(graph) == dear
    with pytest.raises(jb.InvalidOptionError, match="an estimate"):
        jb.Best(jb.AutoLip(), jb.SeqLip(pairs="greedy"))
    assert "SeqLip" in repr(jb.Best(jb.SeqLip()))
