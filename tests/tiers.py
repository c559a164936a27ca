"""Three tiers: `make quick` runs one case of every test, `make test` meets every value, `make soundness` runs all.

A test that is parametrised by several things, say kinds of networks, regions and norms, has a case for every
combination. In the tier "test" as many of them run as it takes to meet every kind, every region and every norm, in
combinations that are mixed by chance, the same ones each time; of several seeds one will do. So a loop inside of a
test over methods, norms or seeds is better written as one more list that it is parametrised by. Three marks say more:
`slow`, of a test that takes longer than about half a second, keeps it out of "quick"; `soundness` keeps it out of
both; `alike(n)` says that its cases differ little: n of them, spread evenly, run in the tier "test".
Hypothesis draws 3, 10 and 30 examples.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import pytest
from hypothesis import settings

TIERS = ("quick", "test", "soundness")
EXAMPLES = {"quick": 3, "test": 10, "soundness": 30}  # of hypothesis
MARKS = (
    "slow: takes longer than about half a second; not in the tier 'quick'",
    "soundness: only in the tier 'soundness'",
    "alike(n): cases that differ little; n of them, spread evenly, run in the tier 'test'",
)

Case = TypeVar("Case")
Values = frozenset[tuple[Hashable, Hashable]]  # of every thing that a test is parametrised by: its name and the value


def chosen(cases: Mapping[Case, Values]) -> list[Case]:
    """Cases that together meet every value, in their order: as many as the longest list of values, or few more."""
    mixed = list(cases)
    random.Random(len(mixed)).shuffle(mixed)
    unseen, found = set().union(*cases.values()), set()
    while unseen:
        best = max(mixed, key=lambda case: len(unseen & cases[case]))
        unseen -= cases[best]
        found.add(best)
    return [case for case in cases if case in found] or list(cases)[:1]


def values_of(item: pytest.Item) -> Values:
    """What one case of a test was parametrised with; names that one mark lists together count as one thing."""
    params = dict(item.callspec.params) if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    params.pop("seed", None)  # more of the same
    found: set[tuple[Hashable, Hashable]] = set()
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
        found.add((names, tuple(id(params.pop(name, None)) for name in names)))
    return frozenset(found | {(name, id(value)) for name, value in params.items()})


def kept(items: Sequence[pytest.Item], tier: str) -> list[pytest.Item]:
    """Those of the collected tests that a tier runs, in their order."""
    if tier == "soundness":
        return list(items)
    barred = ("soundness", "slow") if tier == "quick" else ("soundness",)
    wanted: set[pytest.Item] = set()
    for cases in by_test(item for item in items if not any(map(item.get_closest_marker, barred))).values():
        some = chosen({case: values_of(case) for case in cases})
        alike = cases[0].get_closest_marker("alike")
        some = some[:: -(-len(some) // alike.args[0])] if alike else some
        wanted.update(some[:1] if tier == "quick" else some)
    return [item for item in items if item in wanted]


def by_test(items: Iterable[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """Cases by the test that they are of."""
    found: dict[str, list[pytest.Item]] = {}
    for item in items:
        found.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--tier", choices=TIERS, default="test", help="how many cases of every test run: see tests/tiers.py"
    )


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if config.getoption("--hypothesis-profile", None) is None:
        name = f"deterministic, {config.getoption('--tier')}"
        settings.register_profile(
            name, settings.get_profile("deterministic"), max_examples=EXAMPLES[config.getoption("--tier")]
        )
        settings.load_profile(name)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = kept(items, config.getoption("--tier"))
    left_out = set(items) - set(wanted)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = wanted
