"""`Split`: the parts cover the region, their largest bound holds and falls to the truth, and stopping is safe.

Truths are found without the library's bounds: by all activation patterns of networks with one input, in fractions.
"""

from __future__ import annotations

from fractions import Fraction
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch

import jacobound as jb
from split_cases import drawn, slopes_on_a_line, steepest

BOX = jb.Box([-1.0, -0.75], [0.5, 1.0])


@pytest.mark.parametrize("seed", range(4))
def test_constants_of_one_input_are_exact(seed: int) -> None:
    truth = max(max(map(abs, slopes)) for slopes in slopes_on_a_line(seed, Fraction(-2), Fraction(2)))
    found = jb.lipschitz(drawn(seed, 1), jb.Box([-2.0], [2.0]), jb.Split(most=400), norm=(inf, inf))
    assert Fraction(float(found.lower)) <= truth <= Fraction(float(found.upper))
    assert float(found.upper) <= float(truth) * (1 + 1e-6), found.details["Split"].note
    assert found.details["Split"].note.startswith("exact up to")
    assert found.status is jb.Status.CERTIFIED


@pytest.mark.parametrize("seed", range(4))
def test_entries_of_one_input_are_the_extreme_slopes(seed: int) -> None:
    slopes = slopes_on_a_line(seed, Fraction(-2), Fraction(2))
    found = jb.bound_jacobian(drawn(seed, 1), jb.Box([-2.0], [2.0]), jb.Split(most=400))
    for row, (low, high) in enumerate(zip(found.lower.flatten().tolist(), found.upper.flatten().tolist(), strict=True)):
        truths = [slope[row] for slope in slopes]
        assert Fraction(low) <= min(truths) and max(truths) <= Fraction(high)
        assert high - low <= float(max(truths) - min(truths)) + 1e-5


@pytest.mark.parametrize("norm", [(inf, inf), (2, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("p", [1, 2, inf])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_balls_are_covered_by_their_parts(norm: tuple[float, float], p: float, activation: str) -> None:
    graph, centre, radius = drawn(7, 2, activation), [0.1, -0.2], 1.0
    plain = jb.lipschitz(graph, jb.Ball(centre, radius, p=p), jb.RecurJac(), norm=norm)
    found = jb.lipschitz(graph, jb.Ball(centre, radius, p=p), jb.Split(most=120), norm=norm)
    axis = torch.linspace(-radius, radius, 301, dtype=torch.float64)
    offsets = torch.cartesian_prod(axis, axis)
    inside = offsets[torch.linalg.vector_norm(offsets, p, dim=1) <= radius]
    assert float(found.upper) >= steepest(graph, inside + torch.tensor(centre).double(), norm)
    assert float(found.lower) <= float(found.upper) <= float(plain.upper)
    assert float(found.upper) < 0.95 * float(plain.upper)  # it is worth something


@pytest.mark.parametrize(
    "method", [jb.RecurJac(), jb.FastLip(), jb.LinearSlopes(), jb.LipSDP(), jb.AutoLip()], ids=repr
)
def test_any_method_is_split(method: object) -> None:
    graph = drawn(3, 2)
    plain = jb.lipschitz(graph, BOX, method)  # type: ignore[arg-type]
    found = jb.lipschitz(graph, BOX, jb.Split(method, most=24))  # type: ignore[arg-type]
    assert float(plain.lower) <= float(found.upper) <= float(plain.upper)


def test_more_parts_are_never_looser_and_memory_holds_what_is_left_out() -> None:
    graph = drawn(5, 2, "tanh")
    values = [float(jb.lipschitz(graph, BOX, jb.Split(boxes=8, most=n), search=None).upper) for n in (1, 9, 40, 100)]
    assert values == sorted(values, reverse=True) and values[-1] < values[0]
    tight = jb.lipschitz(graph, BOX, jb.Split(boxes=2, most=100), budget=jb.Budget(memory=1 << 12))
    assert float(tight.lower) <= float(tight.upper) <= values[0]
    axes = (torch.linspace(-1, 0.5, 201).double(), torch.linspace(-0.75, 1, 201).double())
    assert float(tight.upper) >= steepest(graph, torch.cartesian_prod(*axes), (2, 2))


def test_a_call_that_is_stopped_returns_what_is_proved() -> None:
    graph, told = drawn(5, 2, "tanh"), []
    truth = steepest(graph, torch.cartesian_prod(*[torch.linspace(-0.75, 0.5, 101).double()] * 2), (2, 2))
    for limit in (0.0, 0.05, 0.5):
        budget = jb.Budget(cpu_seconds=limit, progress=lambda done, total, what: told.append((done, total, what)))
        found = jb.lipschitz(graph, BOX, jb.Split(), budget=budget)
        assert float(found.upper) >= truth and found.status.certified
    assert found.status is jb.Status.TIME_LIMIT
    assert all(done <= total for done, total, _ in told)
    assert any("upper" in what and "lower" in what and "gap" in what for _, _, what in told)


def test_what_can_not_be_split_is_refused_or_left_whole() -> None:
    graph = drawn(1, 2)
    with pytest.raises(jb.InvalidOptionError, match="estimate"):
        jb.Split(jb.GreedySeqLip())
    with pytest.raises(jb.InvalidOptionError, match="Split of a Split"):
        jb.Split(jb.Split())
    with pytest.raises(jb.InvalidOptionError, match="at least 2"):
        jb.Split(boxes=1)
    with pytest.raises(jb.InvalidOptionError, match="no entries"):
        jb.bound_jacobian(graph, BOX, jb.Split(jb.LipSDP()))
    everywhere = jb.lipschitz(graph, jb.WholeSpace(), jb.Split(jb.FastLip()))
    assert float(everywhere.upper) <= float(jb.lipschitz(graph, jb.WholeSpace(), jb.FastLip()).upper)


@pytest.mark.slow
def test_halves_keep_what_is_known_of_the_whole(shared_data: Path) -> None:
    """Linear bounds over a half may be looser than over the whole: without its ranges this search stalls at 0.12."""
    graph = jb.from_onnx(shared_data / "third_party" / "ACASXU_run2a_1_1_batch_2000.onnx")
    with np.load(shared_data / "reference" / "peers" / "points.npz") as points:
        ball = jb.Ball(points["acas11__x0_0"].reshape(graph.in_shape), 0.1)
        row = int(points["acas11__c_0"])
    found = jb.lipschitz(graph, ball, jb.Split(most=800), norm=(inf, inf), rows=row)
    assert 0.0154 < float(found.lower) <= 0.01690001 and float(found.lower) <= float(found.upper) < 0.03


@pytest.mark.parametrize("method", [jb.IBP(), jb.FastLin(), jb.CROWN(), jb.SinglePrecision()], ids=repr)
def test_ranges_within_known_ones_are_never_looser_and_hold(method: jb.CROWN) -> None:
    graph = drawn(5, 3, "tanh")
    domains, _ = jb.Ball([[0.0, 0.5, 0.0], [0.3, 0.0, -0.2]], 0.5).domains(graph)
    wide, _ = jb.Ball([[0.0, 0.5, 0.0], [0.3, 0.0, -0.2]], 0.6).domains(graph)
    known = jb.CROWN().ranges(graph, wide[:], jb.Budget())
    found = method.ranges_within(graph, domains[:], jb.Budget(), known)
    plain = method.ranges(graph, domains[:], jb.Budget(), with_output=False)
    points = domains[:].box.lower + torch.rand(200, 2, 3) * (domains[:].box.upper - domains[:].box.lower)
    values = graph.values(points)
    for node in graph.nodes:
        own = found[node]
        assert bool((own.lower >= known[node].lower).all() and (own.upper <= known[node].upper).all())
        assert bool((own.upper - own.lower <= (plain[node].upper - plain[node].lower) * (1 + 1e-6)).all())
        assert bool((values[node] >= own.lower - 1e-12).all() and (values[node] <= own.upper + 1e-12).all())
