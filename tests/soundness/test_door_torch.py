"""Modules with random options and behaviour keep their values when imported, or are refused; mistakes are noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from campaign.door_operations import MAKERS, Maker
from campaign.door_torch import check
from campaign.runner import Tally, generator_of
from jacobound.importers.torch import rules as torch_rules
from jacobound.importers.torch.door import comparison as torch_comparison
from jacobound.importers.torch.operations.call import Call, Rule


def tried(count: int, makers: tuple[Maker, ...] = (), name: str = "door torch") -> Tally:
    """What becomes of some modules."""
    tally = Tally()
    for k in range(count):
        tally.merge(check(generator_of(name, 0, k), makers))
    return tally


@pytest.mark.slow
def test_modules_have_their_own_values_or_are_refused() -> None:
    tally = tried(12)
    assert not tally.violations, tally.violations
    assert tally.cases["modules imported"] >= 3 and tally.cases["modules refused"] >= 3


@pytest.mark.slow
def test_modules_that_are_not_run_in_other_ways_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_comparison.Comparison, "_repeat", lambda *_: None)
    assert tried(12, (MAKERS["limits"],), "behaviour").violations


def ruled(monkeypatch: pytest.MonkeyPatch, op: str, change: Callable[[Call], Call]) -> None:
    """Give the rule of an operation other arguments."""
    honest: Rule = torch_rules.RULES[op]
    changed = {**torch_rules.RULES, op: lambda call: honest(change(call))}
    monkeypatch.setattr("jacobound.importers.torch.lowering.RULES", changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("op", "maker", "count"), [("aten.softplus.default", "softplus", 4), ("aten.add.Tensor", "arithmetic", 16)]
)
def test_options_that_are_ignored_are_noticed(op: str, maker: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def bare(call: Call) -> Call:
        return call.retarget(op, *call.args[: 2 if "add" in op else 1])

    ruled(monkeypatch, op, bare)
    assert tried(count, (MAKERS[maker],), op).violations


def test_an_inexact_comparison_lets_other_values_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from jacobound.importers.lowering import agreement

    monkeypatch.setattr(agreement, "SAFETY", 1e12)
    ruled(monkeypatch, "aten.softplus.default", lambda call: call.retarget(call.op, *call.args[:1]))
    assert tried(4, (MAKERS["softplus"],), "inexact").violations
