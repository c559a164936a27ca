"""What a call may use: chunks, time and memory by hand, and how much a set is said to need."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator

import pytest
import torch

from jacobound import Budget, FastLip, Graph, InvalidOptionError, InvalidRegionError, RecurJac
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.budget import Interrupt, OutOfTimeError, alarmed, checkpoint, interruptible, unalarmed
from jacobound.graph.derivative import increments
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian.core import core_bytes
from jacobound.method import (
    Deferred,
    JacobianEnclosure,
    derivative_ranges,
    ranges_bytes,
    sets_worth,
)
from jacobound.method import sharing as base
from jacobound.method.sharing import SHARED_PRODUCTS
from jacobound.operators.kinds import Dense


def network(name: str = "relu", dtype: torch.dtype = torch.float64) -> Graph:
    """Three inputs, five neurons, two outputs."""
    first, last = torch.ones(5, 3, dtype=dtype), torch.ones(2, 5, dtype=dtype)
    hidden = Elementwise(activation(name), Affine(((Dense(first), Input((3,))),), name="before"), name="hidden")
    return Graph(Affine(((Dense(last), hidden),)))


@pytest.mark.parametrize("memory", [0, -1])
def test_a_budget_has_some_memory_and_no_negative_time(memory: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"memory of a budget .*{memory}"):
        Budget(memory=memory)
    for seconds in (-1e-9, math.nan):
        with pytest.raises(InvalidOptionError, match=r"^seconds of a budget"):
            Budget(seconds=seconds)
        with pytest.raises(InvalidOptionError, match="cpu_seconds of a budget"):
            Budget(cpu_seconds=seconds)
    assert Budget(seconds=0.0, memory=1).memory == 1


def test_chunks_fit_the_memory_and_hold_every_item_once() -> None:
    def sizes(count: int, memory: int, each: int) -> list[tuple[int, int]]:
        return [(one.start, one.stop) for one in Budget(memory=memory).chunks(count, each)]

    assert sizes(7, 100, 30) == [(0, 3), (3, 6), (6, 7)]
    assert sizes(7, 100, 1000) == [(k, k + 1) for k in range(7)]
    assert sizes(7, 1 << 20, 1) == sizes(7, 8, 0) == [(0, 7)]
    assert sizes(0, 100, 30) == []


def test_what_is_as_large_as_the_memory_fits() -> None:
    assert Budget(memory=64).fits(64) and not Budget(memory=64).fits(65)


def test_time_runs_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("jacobound.budget.monotonic", lambda: now[0])
    free, tight = Budget(), Budget(seconds=2.0, started=100.0)
    assert free.remaining == math.inf and not free.is_over
    for moment, left, over in ((100.0, 2.0, False), (101.5, 0.5, False), (102.0, 0.0, True), (103.0, -1.0, True)):
        now[0] = moment
        assert tight.remaining == left and tight.is_over is over and not free.is_over
    now[0] = 101.0
    assert tight.within(1.0) is tight and tight.within(5.0) is tight and free.within(math.inf) is free
    share = tight.within(0.25)
    assert (share.seconds, share.started, share.memory) == (0.25, 101.0, tight.memory)
    assert free.within(3.0).remaining == 3.0
    now[0] = 110.0
    assert tight.within(1.0) is tight and tight.within(-math.inf).seconds == 0.0


def test_time_of_the_processor_passes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = [100.0], [5.0]
    monkeypatch.setattr("jacobound.budget.monotonic", lambda: wall[0])
    monkeypatch.setattr("jacobound.budget.process_time", lambda: cpu[0])
    busy, both = (Budget(s, cpu_seconds=2.0, started=100.0, cpu_started=5.0) for s in (None, 10.0))
    wall[0] = 109.0
    assert busy.remaining == 2.0 and both.remaining == 1.0 and busy.spent == 0.0 and both.spent == 9.0
    cpu[0] = 6.5
    assert busy.remaining == both.remaining == 0.5 and busy.limit == both.limit == 2.0
    share = busy.within(0.25)
    assert (share.seconds, share.cpu_seconds, share.remaining) == (None, 0.25, 0.25)
    cpu[0] = 6.75
    assert share.is_over and not busy.is_over and both.within(0.1).remaining == pytest.approx(0.1)
    assert busy.unlimited().remaining == math.inf and busy.started_now().cpu_started == 6.75


def test_an_interrupt_ends_all_parts_of_a_call() -> None:
    call = Budget(seconds=50.0).started_now()
    part, other = call.within(20.0), Budget(seconds=50.0).started_now()
    assert not part.is_over
    call.interrupt.ask()
    assert call.is_over and part.is_over and part.within(5.0).is_over and call.unlimited().is_over
    assert not other.is_over and not call.started_now().is_over


def test_work_is_given_up_at_the_alarm_alone() -> None:
    over = Budget(seconds=0.0)
    checkpoint()
    with pytest.raises(OutOfTimeError), alarmed(over, grace=0.0):
        with unalarmed():
            checkpoint()  # what has to come to its end
        checkpoint()
    with alarmed(Budget(), grace=0.0), alarmed(over, grace=1000.0):
        checkpoint()
    with pytest.raises(OutOfTimeError), alarmed(over, grace=0.0), alarmed(Budget(), grace=0.0):
        checkpoint()  # an inner alarm does not silence the outer one
    checkpoint()


@pytest.fixture
def interrupts_arrive() -> Iterator[None]:
    """Also where the tests run in the background of a shell, which lets its jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts_arrive")
def test_a_first_interrupt_ends_a_call_with_what_it_has_and_a_second_one_raises() -> None:
    interrupt = Interrupt()
    with interruptible(interrupt):
        signal.raise_signal(signal.SIGINT)
        assert interrupt.is_asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with interruptible(Interrupt()):
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_progress_is_passed_on() -> None:
    calls: list[tuple[float, float, str]] = []
    Budget(progress=lambda *call: calls.append(call)).tell(1.0, 2.0, "x")
    Budget().tell(1.0, 2.0, "x")
    assert calls == [(1.0, 2.0, "x")]


@pytest.mark.parametrize(("dtype", "each"), [(torch.float64, 8), (torch.float32, 4)])
def test_the_memory_of_a_set_is_counted_in_numbers(dtype: torch.dtype, each: int) -> None:
    """Nodes of 3, 5, 5 and 2 entries: 16 numbers for each entry, 48 for the widest; rows of 2 outputs on top."""
    graph = network(dtype=dtype)
    assert ranges_bytes(graph) == (16 * 15 + 48 * 5) * each
    assert FastLip().bytes_per_set(graph) == ranges_bytes(graph) + 2 * (2 * 15 + 16 * 5) * each
    assert core_bytes(graph, 4) == (4 * (3 + 2) + 3 * (3 + 4) * 5) * each
    assert core_bytes(Graph(Input((3,))), 0) == 0
    assert RecurJac().bytes_per_set(graph) == FastLip().bytes_per_set(graph)


def test_sets_share_small_products_only(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = network()  # 15 and 10 products
    assert sets_worth(graph) == SHARED_PRODUCTS // 25
    monkeypatch.setattr(base, "SHARED_PRODUCTS", 24)
    assert sets_worth(graph) == 1
    monkeypatch.setattr(base, "SHARED_PRODUCTS", 50)
    assert sets_worth(graph) == 2 and sets_worth(Graph(Input((3,)))) == 50


def test_one_derivative_for_all_sets_is_written_out() -> None:
    entries = Interval.exact(torch.arange(6.0).reshape(1, 2, 3))
    one = JacobianEnclosure(entries, lambda u: entries[..., 0], {}, {}, {})
    several = one.over(4)
    assert one.over(1) is one and several.over(4) is several and several.along is one.along
    assert several.entries.shape == (4, 2, 3) and torch.equal(several.entries.lower[3], entries.lower[0])


def test_deferred_intervals_are_found_once_when_they_are_asked_for() -> None:
    asked = []

    def find() -> dict[Node, Interval]:
        asked.append(1)
        return {x: Interval.exact(torch.ones(1, 3))}

    x = Input((3,))
    found = Deferred(find)
    assert not asked
    assert list(found) == [x] and len(found) == 1 and torch.equal(found[x].lower, torch.ones(1, 3)) and asked == [1]


def test_slopes_are_asked_for_where_they_are_defined() -> None:
    graph = network("sqrt")
    before, hidden = graph.nodes[1:3]
    good, bad = (Interval(torch.full((1, 5), end).double(), torch.full((1, 5), 4.0).double()) for end in (1.0, -1.0))
    (slope,) = derivative_ranges(graph, {before: good}).items()
    assert slope[0] is hidden and torch.allclose(slope[1].upper, torch.tensor(0.5).double())
    assert torch.allclose(slope[1].lower, torch.tensor(0.25).double())
    near = Interval.exact(torch.full((1, 5), 1.0).double())
    (secant,) = increments(graph, {before: near}, {before: good}).slopes.values()
    assert torch.allclose(secant.lower, torch.tensor(1 / 3).double()) and secant.shape == (1, 5)
    for ask in (
        lambda: derivative_ranges(graph, {before: bad}),
        lambda: increments(graph, {before: near}, {before: bad}),
    ):
        with pytest.raises(InvalidRegionError, match="node 'hidden'"):
            ask()
