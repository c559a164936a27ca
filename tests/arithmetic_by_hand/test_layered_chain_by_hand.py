"""Single functions behind `certificates/test_layered_chain.py`, number by number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from jacobound import Budget
from jacobound.certificates.layered import driver as layered_solver
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.certificates.layered.driver import (
    LayeredSolver,
    _is_worth_it,
)
from jacobound.certificates.layered.search import Sweep
from small_cases import vector

INF = math.inf


def test_chains_that_are_searched() -> None:
    one, zero = torch.ones(2, 2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64)
    chain = LayeredChain((one, one), (0.0, 0.0), (vector(1, 1),), (vector(0, 1),))
    assert _is_worth_it(chain)
    assert not _is_worth_it(replace(chain, matrices=(one, zero)))
    assert not _is_worth_it(replace(chain, halves=(vector(0, INF),)))


def test_what_a_search_begins_with_and_what_is_kept_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best closed form while there is time, the first one else; no search from what proves nothing."""
    chain = LayeredChain((torch.eye(2).double(), torch.eye(2).double()), (0.0, 0.0), (vector(1, 1),), (vector(1, 1),))
    first = Sweep.of(chain, (2.0, 2.0), False).closed_form(1.5)
    best = (first[0] - 5.0, first[1])
    moved = replace(first[1], neurons=tuple(part + 0.01 for part in first[1].neurons))
    seen: list[float] = []

    def improved(sweep: Sweep, start: tuple[float, Any], *rest: Any) -> tuple[float, Any, float]:
        seen.append(start[0])
        return start[0] - 1.0, moved, start[0]

    monkeypatch.setattr(layered_solver, "improved", improved)
    monkeypatch.setattr(layered_solver, "best_closed_form", lambda *rest: best)
    for limit, begun in ((Budget(), best[0]), (Budget(seconds=1e-9), first[0])):
        found = LayeredSolver(0.5, limit)._solve(chain, (2.0, 2.0), 0.0, 1)
        assert seen.pop() == begun and found.value < INF
        assert torch.equal(found.multipliers[0], moved.neurons[0].exp())
    told: set[str] = set()
    budget = Budget(progress=lambda done, total, what: told.add(what))
    monkeypatch.setattr(layered_solver, "best_closed_form", lambda *rest: (INF, first[1]))
    monkeypatch.setattr(Sweep, "closed_form", lambda *rest: (INF, first[1]))
    LayeredSolver(0.5, budget)._solve(chain, (2.0, 2.0), 0.0, 1)
    assert not seen and "multipliers" in told
