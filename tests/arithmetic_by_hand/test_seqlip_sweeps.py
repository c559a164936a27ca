"""SeqLip over graphs in parts: what is rounded up, which pairs are known again, and what is said of an early end."""

from __future__ import annotations

import itertools

import pytest
import torch
from flint import fmpq
from torch import Tensor

from exact import rational
from jacobound import Budget, Graph, SeqLip, Status, WholeSpace
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.constants.autolip import Sweeps
from jacobound.constants.enclosures import Enclosures
from jacobound.constants.pairs import layers as seqlip_layers
from jacobound.constants.pairs import seqlip
from jacobound.constants.pairs.chain import Edge, State, Stretch
from jacobound.constants.pairs.dual import PairBound
from jacobound.constants.pairs.layers import Layer
from jacobound.constants.pairs.seqlip import Pairs, PairSweeps, _key
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector
from jacobound.graph.vector.comparisons import Maximum
from jacobound.method import Query
from jacobound.operators.kinds import Dense
from small_cases import vector

UNIT = fmpq(1, 2**53)


def dense(weight: Tensor, source: Node) -> Affine:
    return Affine(((Dense(weight), source),))


def steep(slope: float, source: Node) -> Elementwise:
    return Elementwise(activation(f"leaky_relu:{slope!r}"), source)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numbers(*shape: int) -> list[list[float]]:
    generator = torch.Generator().manual_seed(1)
    return (0.5 + torch.rand(shape, generator=generator, dtype=torch.float64)).tolist()


def chain_of(*widths: int, seed: int = 1) -> Graph:
    node: Node = Input((widths[0],))
    for k, (before, after) in enumerate(itertools.pairwise(widths)):
        node = dense(drawn(after, before, seed=seed + k), steep(0.1, node) if k else node)
    return Graph(node)


def sweeps(graph: Graph, pairs: Pairs = "dual", budget: Budget | None = None) -> PairSweeps:
    (domain,), _ = WholeSpace().domains(graph.lowered())
    return PairSweeps(graph, Enclosures.of(Query(graph, domain, Budget()), None), pairs, budget or Budget())


def constant(graph: Graph, pairs: Pairs = "dual", budget: Budget | None = None) -> tuple[float, Status]:
    (domain,), _ = WholeSpace().domains(graph.lowered())
    found = SeqLip(pairs).constant(Query(graph, domain, budget or Budget(), (2.0, 2.0)))
    return float(found.value), found.status


def test_values_of_chains_are_multiplied_upward(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain that begins behind an activation, with a value that is as small as can be told."""
    for a, b, s, v in numbers(20, 4):
        monkeypatch.setattr(seqlip, "shortest", lambda *rest, v=v: State(vector(1e-3 * v)[0]))
        start = steep(1.0 + s, Input((1,)))
        graph = Graph(dense(vector(b).reshape(1, 1), steep(0.5, dense(vector(a).reshape(1, 1), start))))
        found = sweeps(graph)
        exact = rational(1e-3 * v) * rational(1.0 + s)
        assert exact <= rational(float(found.forward[graph.output])) <= exact * (1 + 12 * UNIT)


def test_single_layers_are_multiplied_upward(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a norm that misses nothing."""
    for a, s in numbers(40, 2):
        monkeypatch.setattr(PairSweeps, "_norm", lambda *rest, a=a: vector(a)[0])
        graph = Graph(dense(vector(a).reshape(1, 1), steep(1.0 + s, Input((1,)))))
        exact = rational(a) * rational(1.0 + s)
        assert (
            exact <= rational(float(sweeps(graph)._of_chain(graph.output, graph.nodes[1]))) <= exact * (1 + 12 * UNIT)
        )  # type: ignore[arg-type]


def stretch_of(*layers: Layer) -> Stretch:
    ends = Interval(vector(0, 0), vector(1, 1))
    return Stretch(layers, (ends,) * (len(layers) - 1))


def test_a_pair_is_known_by_both_layers_and_their_halves() -> None:
    one, two, three = (Layer(((Dense(drawn(2, 2, seed=k)),),)) for k in range(3))
    plain = Edge(0, False, False)
    assert _key(stretch_of(one, two), plain) == _key(stretch_of(three, one, two), Edge(1, False, False))
    keys = [_key(stretch_of(one, other), Edge(0, *split)) for other in (two, three)
            for split in itertools.product((False, True), repeat=2)]  # fmt: skip
    keys += [_key(stretch_of(three, two), plain)]
    assert len(set(keys)) == 9


def test_layers_with_one_first_layer_have_pairs_of_their_own() -> None:
    """Two second layers, one ten times the other: their bounds differ by that."""
    first, second = dense(drawn(3, 3, seed=3), Input((3,))), drawn(3, 3, seed=4)
    hidden = steep(0.1, first)
    branches = [steep(0.1, dense(scale * second, hidden)) for scale in (1.0, 10.0)]
    eyes = (torch.eye(6, 3, dtype=torch.float64), torch.eye(6, dtype=torch.float64)[:, 3:].contiguous())
    graph = Graph(Affine(tuple((Dense(eye), branch) for eye, branch in zip(eyes, branches, strict=True))))
    found = sweeps(graph)
    values = [float(found.forward[branch.source]) for branch in branches]
    assert values[1] == pytest.approx(10 * values[0], rel=1e-6)


def test_pairs_are_named_by_their_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    used = (Edge(0, False, True), Edge(1, True, False), Edge(2, False, False))
    monkeypatch.setattr(seqlip, "shortest", lambda *rest: State(vector(1e-3)[0], used))
    monkeypatch.setattr(PairSweeps, "_bound", lambda self, chain, edge: 1.0 + edge.number)
    found = sweeps(chain_of(2, 3, 3, 3, 2))
    assert {name: float(value) for name, value in found.details.items()} == {
        "pair 1: layer 1, layer 2 split": 1.0,
        "pair 2: layer 2 split, layer 3": 2.0,
        "pair 3: layer 3, layer 4": 3.0,
    }


def some_stretch() -> Stretch:
    """Two layers with three neurons between them."""
    layers = tuple(Layer(((Dense(weight),),)) for weight in (drawn(3, 2), drawn(2, 3)))
    return Stretch(layers, (Interval(vector(0, 0, 0), vector(1, 1, 1)),))


@pytest.mark.parametrize("pairs", ["exact", "dual", "greedy"])
def test_each_kind_of_pairs_asks_its_own_bound(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(name: str, value: float) -> None:
        def bound(*rest: object) -> PairBound:
            asked.append(name)
            return PairBound(value)

        monkeypatch.setattr(seqlip, f"{name}_bound", bound)

    answer("exact", 3.0)
    answer("dual", 5.0)
    found = sweeps(Graph(dense(drawn(2, 2), Input((2,)))), pairs)._of_pair(some_stretch(), Edge(0, False, False))
    assert asked == ([] if pairs == "greedy" else [pairs])
    assert found.upper == {"exact": 3.0, "dual": 5.0}.get(pairs, found.lower)


ENDS = ((True, True, True), (True, False, True), (False, False, True), (False, True, False))


@pytest.mark.parametrize(("complete", "over", "said"), ENDS)
def test_only_missing_time_is_called_missing_time(
    complete: bool, over: bool, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seqlip, "dual_bound", lambda *rest: PairBound(1.0, complete=complete))
    found = sweeps(Graph(dense(drawn(2, 2), Input((2,)))))
    monkeypatch.setattr(PairSweeps, "_over", lambda self: over)
    found._of_pair(some_stretch(), Edge(0, False, False))
    assert found.complete is said and not found.failed


@pytest.mark.parametrize(("share", "status"), [(0.6, Status.TIME_LIMIT), (0.4, Status.CERTIFIED)])
def test_layers_are_not_decomposed_when_there_is_no_time_for_both(
    share: float, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layer, "seconds", staticmethod(lambda chains: share * 1000.0))
    graph = chain_of(3, 4, 4, 4, 4, 3)
    assert constant(graph, budget=Budget(seconds=1000.0))[1] is status
    found = sweeps(graph, budget=Budget(seconds=1000.0))
    assert any("split" in name for name in found.details) or status is Status.TIME_LIMIT
    assert not any("split" in name for name in found.details) or status is Status.CERTIFIED


def test_progress_is_told_of_pairs() -> None:
    told: set[str] = set()
    constant(chain_of(3, 4, 3), budget=Budget(progress=lambda done, total, what: told.add(what)))
    assert {"norms", "pairs of layers"} <= told


@pytest.mark.parametrize("end", ["neurons", "neurons and a maximum", "a maximum", "two maxima"])
def test_chains_end_where_something_else_reads_them(end: str) -> None:
    """Two layers before the end of a graph, or before a function: their pair counts, not their norms."""
    last = dense(drawn(4, 6, seed=6), steep(0.1, dense(drawn(6, 4, seed=5), Input((4,)))))
    windows = torch.tensor([[0, 1], [2, 3]])
    graph = {
        "neurons": lambda: Graph(steep(0.1, last)),
        "neurons and a maximum": lambda: Graph(Vector(Maximum(windows, (4,)), steep(0.1, last))),
        "a maximum": lambda: Graph(Vector(Maximum(windows, (4,)), last)),
        "two maxima": lambda: Graph(Vector(Maximum(windows[:1], (2,)), Vector(Maximum(windows, (4,)), last))),
    }[end]()
    found = sweeps(graph)
    (domain,), _ = WholeSpace().domains(graph.lowered())
    plain = Sweeps(graph, Enclosures.of(Query(graph, domain, Budget()), None), 2.0, Budget())
    assert float(found.forward[last]) < 0.98 * float(plain.forward[last])
    assert len(found.details) == 1


def test_layers_that_do_not_fit_have_no_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain_of(3, 4, 3)
    assert sweeps(graph).details
    assert not sweeps(graph, budget=Budget(memory=10)).details
    monkeypatch.setattr(seqlip_layers, "LARGEST_SIDE", 3)
    assert not sweeps(graph).details
