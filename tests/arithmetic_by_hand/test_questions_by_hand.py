"""Around a method: runs of sets and their time, meanings, attained values, what products of norms ask for."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import jacobound as jb
from jacobound import Budget, Graph, InvalidRegionError, asking
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.constants.enclosures import Enclosures
from jacobound.constants.executed import executed
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector
from jacobound.graph.vector.comparisons import Maximum
from jacobound.graph.vector.products import Product
from jacobound.graph.vector.smooth import Length, Softmax
from jacobound.inputs.domains import Domain
from jacobound.lower_ends.sampling import Witness
from jacobound.method import Query
from jacobound.operators.kinds import Dense

INF = math.inf


def linear(dtype: torch.dtype = torch.float64) -> Graph:
    return jb.from_layers([torch.eye(2), torch.ones(1, 2)]).to(dtype=dtype)


def sets_of(count: int, graph: Graph) -> Any:
    return jb.Ball(torch.arange(2.0 * count).double().reshape(count, 2), 1.0).domains(graph)[0]


# --- lower ends --------------------------------------------------------------------------------------------------


def witness(values: list[float], size: float = 0.0) -> Witness:
    value = torch.tensor(values, dtype=torch.float64)
    point = torch.full((len(values), 2), size, dtype=torch.float64)
    return Witness(point, value, torch.full_like(point, math.nan), ("proved",) * len(values))


def test_lower_ends_are_rounded_down_into_the_dtype_of_the_upper_ones() -> None:
    values = [0.1, 1 / 3, 2.0, 1e-60, 0.0]
    for dtype in (torch.float64, torch.float32):
        found = witness(values).rounded(torch.ones(5, dtype=dtype), assumed=False).value
        assert found.dtype == dtype and all(0 <= a <= b for a, b in zip(found.tolist(), values, strict=True))
        assert float(found[2]) == 2.0 and float(found[0]) > 0.1 * (1 - 1e-6)
    found = witness(values).rounded(torch.ones(5), assumed=False)
    assert "below the range" in found.reason[3] and float(found.value[3]) == 0 and found.reason[0] == "proved"


def test_a_witness_above_a_bound_that_takes_something_for_granted_is_none() -> None:
    upper = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert witness([2.0, 2.0]).rounded(upper, assumed=False).value.tolist() == [2.0, 2.0]
    found = witness([2.0, 2.0]).rounded(upper, assumed=True)
    assert found.value.tolist() == [0.0, 2.0] and "assumption" in found.reason[0] and found.reason[1] == "proved"


def test_witnesses_of_runs_are_put_together() -> None:
    whole = Witness.joined([witness([1.0], 1.0), witness([2.0, 2.0], 2.0)])
    assert whole.point.shape == whole.partner.shape == (3, 2) and whole.value.tolist() == [1.0, 2.0, 2.0]
    assert whole.point[:, 0].tolist() == [1.0, 2.0, 2.0] and whole.reason == ("proved",) * 3


# --- runs ----------------------------------------------------------------------------------------------------------


def test_runs_share_the_time_by_their_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacobound.budget.monotonic", lambda: 0.0)
    graph, told = linear(), []
    budget = Budget(10.0, 80, lambda *call: told.append(call), started=0.0)
    asked: list[tuple[int, float | None]] = []

    def work(domain: Domain, share: Budget) -> int:
        asked.append((len(domain), share.seconds))
        return len(asked)

    assert asking.in_runs(work, sets_of(10, graph), graph, budget, 10) == [1, 2, 3]
    assert asked == [(4, 4.0), (4, pytest.approx(40 / 6)), (2, 10.0)]
    assert told == [(k, 10, "regions") for k in (0, 4, 8, 10)]


def test_memory_that_runs_out_is_halved_until_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, seen = linear(), []
    least = asking.LEAST_MEMORY

    def never(domain: Domain, budget: Budget) -> None:
        seen.append((len(domain), budget.memory / least))
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        asking.in_runs(never, sets_of(4, graph), graph, Budget(memory=4 * least), least // 2)
    assert seen == [(4, 4.0), (2, 4.0), (1, 4.0), (1, 2.0), (1, 1.0), (1, 0.5)]


# --- meanings ------------------------------------------------------------------------------------------------------


def test_semantics_are_named() -> None:
    graph, region = linear(), jb.Ball([0.0, 0.0], 1.0)
    for semantics, name, wide in (
        ("real", "real", False),
        ("executed", "executed in float32", True),
        (jb.Executed("bfloat16"), "executed in bfloat16", True),
    ):
        found = jb.bound_output(graph, region, semantics=semantics)  # type: ignore[arg-type]
        constant = jb.lipschitz(graph, region, jb.FastLip(), semantics=semantics, search=None)  # type: ignore[arg-type]
        assert found.provenance.semantics == constant.provenance.semantics == name
        assert (constant.delta is not None) == wide == (float(found.upper) > 2 + 1e-9)
    assert constant.provenance.seed is None
    sought = jb.lipschitz(graph, region, jb.FastLip(), search=jb.Sampling(points=2, seed=7))
    assert sought.provenance.seed == 7 and sought.witness is not None


@pytest.mark.parametrize("norm", [(3, 2), (2, 3)])
def test_either_exponent_of_a_norm_must_be_known(norm: tuple[float, float]) -> None:
    with pytest.raises(jb.JacoboundError, match="1, 2"):
        jb.lipschitz(linear(), jb.Ball([0.0, 0.0], 1.0), norm=norm)  # type: ignore[arg-type]
    assert jb.lipschitz(linear(), jb.Ball([0.0, 0.0], 1.0), norm=(1, INF), search=None).norm == (1.0, INF)


# --- ranges --------------------------------------------------------------------------------------------------------


def test_functions_without_a_slope_everywhere_keep_a_range_of_their_own() -> None:
    """The root of a sum of squares is not defined around 0 in steps; its range is."""
    z = Affine(((Dense(torch.eye(2).double()), Input((2,))),))
    graph, region = Graph(Vector(Length((2,)), z)), jb.Box([-3.0, -4.0], [3.0, 4.0])
    found = jb.bound_output(graph, region)
    assert float(found.upper) == pytest.approx(5.0, rel=1e-9) and -1e-9 <= float(found.lower) <= 0.0
    shares = jb.bound_output(Graph(Vector(Softmax((2,)), z)), region)
    assert shares.status.certified and float(shares.upper.max()) < 1.0


def test_a_region_on_which_an_activation_is_not_defined_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = jb.from_layers([torch.eye(2), torch.ones(1, 2)], activation="log")
    asked = []
    honest = jb.IBP.ranges
    monkeypatch.setattr(jb.IBP, "ranges", lambda *given, **more: asked.append(1) or honest(*given, **more))
    with pytest.raises(InvalidRegionError):
        jb.bound_output(graph, jb.Ball([0.0, 0.0], 1.0), jb.IBP())
    assert asked == [1]


@pytest.mark.parametrize("run", [False, True])
def test_single_precision_keeps_the_box_of_real_inputs(run: bool) -> None:
    """Inputs that are rounded before they are used lie in a larger box."""
    graph = executed(linear(), jb.Executed()) if run else linear()
    (domain,), _ = jb.Box([0.1, 0.2], [0.3, 0.4]).domains(graph)
    found = jb.SinglePrecision().ranges(graph, domain, Budget())[graph.input]
    assert torch.equal(found.lower, domain.box.lower) == (not run)
    assert bool((found.lower <= domain.box.lower).all() & (found.upper >= domain.box.upper).all())
    single = jb.SinglePrecision().bytes_per_set(linear())
    assert single == jb.CROWN().bytes_per_set(linear(torch.float32)) + jb.CROWN().bytes_per_set(linear())


# --- what products of norms ask for ----------------------------------------------------------------------------------


def box(graph: Graph, size: float) -> Domain:
    ends = torch.full((1, *graph.in_shape), size).double()
    return Domain(Interval(-ends, ends))


class Unasked(jb.CROWN):
    def ranges(self, *given: Any, **more: Any) -> Any:
        raise AssertionError("ranges are known")


def test_known_ranges_are_used_and_others_found() -> None:
    graph = jb.from_layers([torch.eye(2), torch.ones(1, 2)], activation="tanh")
    hidden = next(node for node in graph.nodes if isinstance(node, Elementwise))
    ranges: dict[Node, Interval] = {**jb.IBP().ranges(graph, box(graph, 1.0), Budget())}
    found = Enclosures.of(Query(graph, box(graph, 1.0), Budget(), ranges=ranges), Unasked())
    assert set(found.ranges) == set(ranges) and found.of_activations[hidden] is found.slopes[hidden]
    assert not found.of_arguments
    assert set(found.of_activations) == {hidden}
    with pytest.raises(AssertionError, match="known"):
        Enclosures.of(Query(graph, box(graph, 1.0), Budget(), ranges={graph.input: ranges[graph.input]}), Unasked())
    wide = Enclosures.of(Query(graph, box(graph, INF), Budget()), None)  # intervals alone: CROWN would do the same
    assert float(wide.slopes[hidden].upper.max()) == pytest.approx(1.0)


def test_the_default_for_ranges_depends_on_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, asked = linear(), []
    for method in (jb.CROWN, jb.IBP):
        honest = method.ranges

        def ranges(self: Any, *given: Any, honest: Any = honest, **more: Any) -> Any:
            asked.append(type(self).__name__)
            return honest(self, *given, **more)

        monkeypatch.setattr(method, "ranges", ranges)
    for size, name in ((1.0, "CROWN"), (INF, "IBP")):
        asked.clear()
        Enclosures.of(Query(graph, box(graph, size), Budget()), None)
        assert asked == [name]
        asked.clear()
        Enclosures.of(Query(graph, box(graph, size), Budget()), jb.FastLin())
        assert asked == []


def test_arguments_of_functions_of_vectors_are_enclosed_and_checked() -> None:
    x = Input((2,))
    both = Affine(((Dense(torch.eye(2).double()), x),))
    graph = Graph(Vector(Product(()), both, "xy"))
    known = Enclosures.of(Query(graph, box(graph, 2.0), Budget()), None)
    (argument,) = known.of_arguments.values()
    assert float(argument.upper[0]) == pytest.approx(2.0) and argument.lower.dtype == torch.float64
    with pytest.raises(InvalidRegionError, match="xy"):
        Enclosures.of(Query(graph, box(graph, INF), Budget()), None)


def test_slopes_behind_a_comparison_are_those_of_the_network() -> None:
    """The comparison is expanded, and what stands behind it is another node there."""
    z = Affine(((Dense(torch.eye(2).double()), Input((2,))),))
    largest = Vector(Maximum(torch.tensor([[0], [1]]), (2,)), z)
    hidden = Elementwise(activation("relu"), Affine(((Dense(torch.ones(1, 1).double()), largest),)))
    graph = Graph(Affine(((Dense(torch.ones(1, 1).double()), hidden),)))
    found = Enclosures.of(Query(graph, box(graph, 2.0), Budget()), None)
    assert set(found.of_activations) == {hidden} and hidden not in found.slopes
    slope = found.of_activations[hidden]
    assert slope.lower.tolist() == [0.0] and slope.upper.tolist() == [1.0]
    assert float(found.of_arguments[largest].upper.max()) == pytest.approx(2.0)
