"""LipSDP in parts: which problems a norm splits into, deadlines by a clock that stands still, and what is raised."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Generator, Tensor

from certificate_cases import NORMS, jacobians, network, norm_of, random_chain, random_core, slopes_of
from jacobound import AutoLip, Ball, Budget, ECLipsE, LipSDP, Status
from jacobound.budget import stopping
from jacobound.certificates import lipsdp
from jacobound.certificates.dense.barrier import Barrier
from jacobound.certificates.dense.proof import LARGEST, SMALLEST
from jacobound.certificates.layered import driver as layered_solver
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.certificates.layered.driver import RAISED, LayeredSolver, proved
from jacobound.certificates.layered.proof import LayeredCertificate
from jacobound.certificates.layered.search import Multipliers, Sweep
from jacobound.certificates.lipsdp import _barrier, _chain, _Solver, problems, recheck
from jacobound.method import Query
from single import lifted

INF = math.inf


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("jacobound.budget.monotonic", lambda: self.now)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("few", [64, 6, 3, 2, 1])
@pytest.mark.parametrize(("outputs", "inputs"), [(2, 3), (3, 2), (1, 1), (2, 2)])
def test_problems_have_the_constant_that_is_asked_for_as_their_largest(
    norm: tuple[float, float], few: int, outputs: int, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lipsdp, "FEW", few)
    core = random_core(Generator().manual_seed(1), (2, 1), outputs, inputs)
    parts = problems(core, norm)
    truth = float(norm_of(jacobians(core), *norm).max())
    found = max(float(norm_of(jacobians(part), *kind).max()) for part, kind in parts.values())
    assert found == pytest.approx(truth, rel=1e-9)
    rows, columns = ([f"{word} {k}" for k in range(count)] for word, count in (("row", outputs), ("column", inputs)))
    if norm == (1.0, INF) and outputs * inputs <= few:
        assert list(parts) == [f"{row}, row {k}" for row in rows for k in range(inputs)]
    elif norm[1] == INF:
        assert list(parts) == rows and all(part.outputs == 1 for part, _ in parts.values())
    elif norm[0] == 1 and inputs <= few:
        assert list(parts) == columns and all(part.outputs == 1 for part, _ in parts.values())
    else:
        assert list(parts) == ["all"] and parts["all"][0].outputs <= parts["all"][0].inputs


@pytest.mark.parametrize("outputs", [1, 2])
def test_what_is_free_in_a_search(outputs: int) -> None:
    core = random_core(Generator().manual_seed(1), (2,), outputs)
    for p, q in NORMS:
        barrier = _barrier(core, (p, q))
        assert (barrier.free_inputs, barrier.free_outputs) == (p == INF, q == 1 and outputs > 1)


def test_chains_that_do_not_fit_are_none() -> None:
    graph = network((4, 6, 3), 1)
    slopes = slopes_of(graph, 0.5)
    assert _chain(graph, slopes, Budget()) is not None
    assert _chain(graph, slopes, Budget(memory=10)) is None


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_step_is_not_begun_that_would_end_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step is expected to take as long as the longest so far."""
    clock = Clock(monkeypatch)
    over = stopping(Budget(seconds=10.0, started=100.0))
    for now, late in ((103.0, False), (107.0, True), (105.5, False), (106.0, False), (106.1, True)):
        clock.now = now
        assert over() is late


class Found(Exception):
    """Thrown by a search that only looks at what it is given."""


@pytest.mark.parametrize(
    ("budget", "left", "remaining"),
    [(Budget(100.0, started=100.0), 4, 22.0), (Budget(0.0, started=50.0), 4, -53.0), (Budget(), 1, INF)],
)
def test_every_part_gets_its_share_of_the_time(
    budget: Budget, left: int, remaining: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left divided by the parts that are left, less two proofs that take as long as the start did."""
    clock = Clock(monkeypatch)
    core = random_core(Generator().manual_seed(1), (2, 1), 1, 3)
    seen: list[object] = []

    def start(barrier: Barrier) -> object:
        clock.now += 3.0
        return begun(barrier)

    def search(barrier: object, point: object, tolerance: float, enough: float, over: object, first: object) -> None:
        seen.extend((tolerance, enough, over, first))
        raise Found

    begun = lipsdp.feasible_start
    monkeypatch.setattr(lipsdp, "feasible_start", start)
    monkeypatch.setattr(lipsdp, "search", search)
    monkeypatch.setattr(lipsdp, "stopping", lambda share, reserved, tell: (share.remaining, reserved))
    for largest, enough in ((0.0, -INF), (INF, -INF), (5.0, 2 * math.log(5.0) - 1e-6)):
        clock.now = 100.0
        with pytest.raises(Found):
            _Solver(0.25, budget)._solve(core, (2.0, 2.0), largest, left)
        assert seen == [0.25, pytest.approx(enough, abs=1e-12), (remaining, 6.0), lipsdp.FIRST]
        seen.clear()


def test_the_first_part_starts_the_others_and_all_that_is_left_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts by the size of their linear map; each knows the largest constant so far."""
    Clock(monkeypatch)
    core = random_core(Generator().manual_seed(2), (2, 1), 3, 3)
    parts = problems(core, (2.0, INF))
    told: list[tuple[int, int, str]] = []
    seen: list[tuple[float, float, int]] = []
    solve = _Solver._solve

    def noted(self: _Solver, one: object, norm: object, largest: float, left: int) -> object:
        seen.append((float(one.matrix[:1, : one.inputs].norm()), largest, left))  # type: ignore[attr-defined]
        return solve(self, one, norm, largest, left)  # type: ignore[arg-type]

    monkeypatch.setattr(_Solver, "_solve", noted)
    budget = Budget(progress=lambda done, total, what: told.append((int(done), int(total), what)))
    solver = _Solver(1e-3, budget)
    found = solver.solve(parts)
    assert list(found) == list(parts) and not solver.interrupted
    sizes, largest, left = zip(*seen, strict=True)
    assert list(sizes) == sorted(sizes, reverse=True) and left == (3, 2, 1)
    assert largest[0] == 0.0 and list(largest) == sorted(largest) and largest[2] > 0
    assert {entry for entry in told if entry[2] == "certificates"} == {(k, 3, "certificates") for k in range(3)}
    assert any(what == "multipliers" for _, _, what in told)


def test_searches_that_end_early_are_said_to_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    core = random_core(Generator().manual_seed(1), (2, 1), 1, 3)
    good = _Solver(1e-3, Budget())
    best = good._solve(core, (2.0, 2.0), 0.0, 1)
    assert not good.interrupted and good.before is not None
    late = _Solver(1e-3, Budget(seconds=0.0))
    assert best.value <= late._solve(core, (2.0, 2.0), 0.0, 1).value < INF and late.interrupted
    monkeypatch.setattr(lipsdp, "feasible_start", lambda barrier: None)
    failed = _Solver(1e-3, Budget())
    assert best.value <= failed._solve(core, (2.0, 2.0), 0.0, 1).value < INF and failed.interrupted
    warm = _Solver(1e-3, Budget(), before=good.before)
    assert warm._solve(core, (2.0, 2.0), 0.0, 1).value == pytest.approx(best.value, rel=1e-2) and not warm.interrupted
    broken = type(core)(core.matrix, core.radius * INF, 1, 3, core.blocks)
    none = _Solver(1e-3, Budget())
    assert none._solve(broken, (2.0, 2.0), 0.0, 1).value == INF and not none.interrupted


@pytest.mark.parametrize("seconds", [None, 0.0, 5.0])
def test_limits_of_the_method_and_of_the_budget(seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.now = 100.0
    seen: list[float] = []

    def certificates(self: object, graph: object, slopes: object, norm: object, budget: Budget) -> object:
        seen.append(budget.remaining)
        return {}, Status.CERTIFIED, ""

    monkeypatch.setattr(LipSDP, "_certificates", certificates)
    graph = network((3, 4, 2), 1)
    (domain,), _ = Ball(torch.zeros(3), 0.1).domains(graph)
    found = LipSDP(seconds=seconds).constant(Query(graph, domain, Budget(), (2.0, 2.0)))
    assert float(found.value) == 0.0 and found.status is Status.CERTIFIED and not found.certificates
    LipSDP(seconds=seconds).constant(Query(graph, domain, Budget(seconds=2.0, started=100.0), (2.0, 2.0)))
    assert seen[0] == (INF if seconds is None else seconds)
    assert seen[1] == min(seen[0], 2.0)


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("count", [9, 10])
@pytest.mark.parametrize("is_chain", [True, False])
@pytest.mark.parametrize("in_time", [True, False])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("interrupted", [True, False])
def test_which_way_is_taken(
    fits: bool,
    count: int,
    is_chain: bool,
    in_time: bool,
    late: bool,
    interrupted: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chains with many neurons, or too little time, go layer by layer, unless the core is likely to be solved."""
    asked: list[str] = []

    def told(name: str, answer: object) -> None:
        monkeypatch.setattr(lipsdp, name, lambda *rest: asked.append(name) or answer)

    class Solver:
        def __init__(self, *rest: object) -> None:
            self.interrupted, self.note = interrupted, ""

        def solve(self, parts: object) -> object:
            return parts

    monkeypatch.setattr(lipsdp, "MANY", 10)
    monkeypatch.setattr(lipsdp, "unstable_count", lambda *rest: count)
    monkeypatch.setattr(lipsdp, "_too_late", lambda *rest: late)
    monkeypatch.setattr(lipsdp, "sdp_bytes", lambda *rest: 1 if fits else 10**9)
    monkeypatch.setattr(lipsdp, "LayeredSolver", Solver)
    monkeypatch.setattr(lipsdp, "_Solver", Solver)
    told("_chain", "the chain" if is_chain else None)
    told("_in_time", "parts in time" if in_time else None)
    for name in ("layered_problems", "problems", "sdp_core"):
        told(name, name)
    found, status, _ = LipSDP()._certificates(None, {}, (2.0, 2.0), Budget(memory=1000))  # type: ignore[arg-type]
    many = not fits or late or count == 10
    chain = is_chain and many
    assert ("_chain" in asked) is many
    assert ("_in_time" in asked) is (chain and fits and not late)
    ended = Status.TIME_LIMIT if interrupted else Status.CERTIFIED
    if chain and not (fits and in_time and not late):
        assert (found, status) == ("layered_problems", ended)
    elif not fits:
        assert (found, status) == ({}, Status.MEMORY_LIMIT)
    elif late:
        assert (found, status) == ({}, Status.TIME_LIMIT)
    else:
        assert (found, status) == ("parts in time" if chain else "problems", ended)


@pytest.mark.parametrize("status", [Status.CERTIFIED, Status.TIME_LIMIT, Status.MEMORY_LIMIT])
@pytest.mark.parametrize("values", [(0.5, 0.25), (0.5, INF), ()])
def test_products_of_norms_stand_in_where_nothing_was_proved(
    status: Status, values: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    none = torch.zeros(0)
    parts = {str(k): LayeredCertificate(x, (2.0, 2.0), False, none, none, ()) for k, x in enumerate(values)}
    monkeypatch.setattr(LipSDP, "_certificates", lambda *rest: (parts, status, ""))
    graph = network((3, 4, 2), 1)
    (domain,), _ = Ball(torch.zeros(3), 0.1).domains(graph)
    found = LipSDP().constant(Query(graph, domain, Budget(), (2.0, 2.0)))
    if (status is not Status.CERTIFIED and not values) or INF in values:
        assert set(found.details) == {"products of norms"} and not found.certificates
        assert float(found.value) == float(
            AutoLip().constant(Query(graph, domain, Budget(), (2.0, 2.0), ranges=lifted(found.ranges))).value
        )
        assert found.status is (Status.TIME_LIMIT if status is Status.CERTIFIED else status)
    else:
        assert float(found.value) == max(values, default=0.0) and len(found.certificates) == len(values)
        assert found.status is status and {float(x) for x in found.details.values()} == set(values)


def test_certificates_of_either_kind_are_checked_again() -> None:
    graph = network((2, 3, 2), 1)
    (domain,), _ = Ball(torch.zeros(2), 0.5).domains(graph)
    for norm in ((2.0, 2.0), (2.0, INF)):
        found = LipSDP().constant(Query(graph, domain, Budget(), norm))
        assert recheck(graph, found.slopes, norm, found.certificates) == float(found.value) < INF
        assert recheck(graph, found.slopes, norm, found.certificates[1:]) == INF
        assert recheck(graph, found.slopes, norm, (*found.certificates, found.certificates[0])) == INF
        layered = ECLipsE().constant(Query(graph, domain, Budget(), norm, ranges=lifted(found.ranges)))
        assert recheck(graph, found.slopes, norm, layered.certificates) == float(layered.value) < INF


# --- layer by layer --------------------------------------------------------------------------------------------------


def multipliers_of(chain: LayeredChain) -> Multipliers:
    generator = Generator().manual_seed(3)
    parts = tuple(torch.randn(len(part), generator=generator).double() for part in chain.unstable)
    return Multipliers(parts, torch.zeros(chain.inputs).double(), torch.zeros(chain.outputs).double())


def test_multipliers_are_raised_until_they_prove_something(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = random_chain(Generator().manual_seed(1), (2, 3, 2))
    found = multipliers_of(chain)
    for failures, factor in enumerate(RAISED):
        left = iter([INF] * failures)
        monkeypatch.setattr(layered_solver, "layered_constant", lambda one, c, left=left: next(left, 7.0))
        best = proved(chain, (2.0, 2.0), False, found)
        assert best.value == 7.0 and not best.turned
        assert torch.allclose(best.multipliers[0], found.neurons[0].exp() * factor, rtol=1e-14)
        assert torch.equal(best.entering, torch.ones(2).double()) and torch.equal(best.leaving, torch.ones(2).double())
    assert tuple(sorted(RAISED)) == RAISED and RAISED[0] == 1.0 and 1 < RAISED[1] < RAISED[2] < 1.01
    wild = Multipliers(
        (torch.tensor([1e3, -1e3, 0.0]).double(),),
        torch.tensor([1e3, 0.0]).double(),
        torch.tensor([-1e3, 0.0]).double(),
    )
    best = proved(chain, (2.0, 2.0), True, wild)
    assert best.multipliers[0].tolist() == [LARGEST, SMALLEST, 1.0] and best.turned
    assert best.entering.tolist() == [LARGEST, 1.0] and best.leaving.tolist() == [SMALLEST, 1.0]
    for nothing in (None, Multipliers((), found.entering, found.leaving)):
        seen: list[LayeredCertificate] = []
        monkeypatch.setattr(layered_solver, "layered_constant", lambda one, c, seen=seen: seen.append(c) or INF)
        assert proved(chain, (2.0, 2.0), False, nothing).value == INF
        assert [len(part.entering) for part in seen] == [0]


TURNED = (((2.0, 2.0), 2, True), ((2.0, 2.0), 5, False), ((2.0, 2.0), 3, False), ((1.0, 2.0), 5, True))


@pytest.mark.parametrize(("norm", "outputs", "turned"), TURNED)
def test_chains_share_their_time(
    norm: tuple[float, float], outputs: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of 40 seconds, less three sweeps; a chain that takes far longer than that is not begun."""
    clock = Clock(monkeypatch)
    chain = random_chain(Generator().manual_seed(1), (3, 4, outputs))
    closed, calls = Sweep.closed_form, []

    def slowly(self: Sweep, margin: float) -> tuple[float, Multipliers]:
        clock.now += 2.0
        return closed(self, margin)

    def improved(
        sweep: Sweep, start: tuple[float, Multipliers], over: object, tolerance: float, enough: float, least: float
    ) -> object:
        calls.append((over, tolerance, enough, start[0]))
        return *start, start[0]

    monkeypatch.setattr(Sweep, "closed_form", slowly)
    monkeypatch.setattr(layered_solver, "improved", improved)
    monkeypatch.setattr(layered_solver, "best_closed_form", lambda sweep, over: (INF, multipliers_of(chain)))
    for largest, enough in ((0.0, -INF), (INF, -INF), (5.0, 2 * math.log(5.0) - 1e-6)):
        clock.now = 100.0
        solver = LayeredSolver(0.5, Budget(seconds=40.0, started=100.0))
        found = solver._solve(chain, norm, largest, 4)
        assert found.value < INF and found.turned is turned and not solver.interrupted
        over, tolerance, least, value = calls.pop()
        assert tolerance == 0.5 and least == pytest.approx(enough, abs=1e-12) and value < INF
        for now, late in ((104.0, False), (104.01, True), (90.0, True)):
            clock.now = now
            assert over() is late
    for seconds, begun in ((15.2, True), (15.21, False)):
        clock.now = 100.0
        monkeypatch.setattr(LayeredChain, "seconds", property(lambda self, seconds=seconds: seconds))
        solver = LayeredSolver(0.5, Budget(seconds=40.0, started=100.0))
        assert (solver._solve(chain, norm, 0.0, 4).value < INF) is begun and solver.interrupted is not begun
    late = LayeredSolver(0.5, Budget(seconds=0.0, started=50.0))
    clock.now = 100.0
    assert late._solve(chain, norm, 0.0, 4).value == INF and late.interrupted


def test_what_time_cuts_short_is_said_unless_it_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    chain = random_chain(Generator().manual_seed(1), (3, 4, 3))

    def improved(sweep: Sweep, start: tuple[float, Multipliers], over: object, *rest: object) -> object:
        clock.now = 1e6
        assert over()  # type: ignore[operator]
        return *start, -INF

    monkeypatch.setattr(layered_solver, "improved", improved)
    for largest, cut in ((0.0, True), (1e9, False), (1e-9, True)):
        clock.now = 100.0
        solver = LayeredSolver(0.5, Budget(seconds=99900.0, started=100.0))
        assert solver._solve(chain, (2.0, 2.0), largest, 1).value < INF
        assert solver.interrupted is cut


def test_improvements_that_prove_nothing_give_way_to_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = random_chain(Generator().manual_seed(1), (3, 4, 3))
    plain = LayeredSolver(0.5, Budget())
    monkeypatch.setattr(layered_solver, "improved", lambda sweep, start, *rest: (*start, -INF))
    best = plain._solve(chain, (2.0, 2.0), 0.0, 1)
    bad = multipliers_of(chain)
    bad = Multipliers(tuple(part - 100 for part in bad.neurons), bad.entering, bad.leaving)
    monkeypatch.setattr(layered_solver, "improved", lambda *rest: (-50.0, bad, -INF))
    assert LayeredSolver(0.5, Budget())._solve(chain, (2.0, 2.0), 0.0, 1).value == best.value < INF
    parts = {name: (chain.row(k), (2.0, 2.0)) for k, name in enumerate(("first", "second"))}
    told: list[tuple[int, int, str]] = []
    budget = Budget(progress=lambda done, total, what: told.append((int(done), int(total), what)))
    found = LayeredSolver(0.5, budget).solve(parts)
    assert list(found) == ["first", "second"]
    assert {entry[:2] for entry in told if entry[2] == "certificates"} == {(0, 2), (1, 2)}


def test_parts_of_a_chain_are_solved_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = random_chain(Generator().manual_seed(1), (3, 4, 3))
    seen: list[tuple[float, int]] = []
    values = itertools.cycle((2.0, 5.0, 3.0))

    def noted(self: object, one: LayeredChain, norm: object, largest: float, left: int) -> LayeredCertificate:
        seen.append((largest, left))
        none: Tensor = torch.zeros(0)
        return LayeredCertificate(next(values), (2.0, 2.0), False, none, none, ())

    monkeypatch.setattr(LayeredSolver, "_solve", noted)
    LayeredSolver(0.5, Budget()).solve({str(k): (chain.row(k), (2.0, 2.0)) for k in range(3)})
    assert seen == [(0.0, 3), (2.0, 2), (5.0, 1)]
