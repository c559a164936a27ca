"""The tiers of the tests: which cases run when."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

import tiers
from tiers import TIERS, chosen

TEST = """
import pytest

@pytest.fixture(params=range(3))
def seed(request):
    return request.param

@pytest.mark.parametrize("kind", ["a", "b", "c", "d", "e"])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_product(kind, p, q, seed):
    pass

@pytest.mark.parametrize("case", range(7))
def test_list(case):
    pass

@pytest.mark.slow
@pytest.mark.parametrize("case", range(3))
def test_slow(case):
    pass

@pytest.mark.soundness
def test_long():
    pass

def test_plain():
    pass
"""


@pytest.mark.parametrize(("tier", "counts"), [
    ("quick", {"test_product": 1, "test_list": 1, "test_plain": 1}),
    ("test", {"test_product": 5, "test_list": 7, "test_slow": 3, "test_plain": 1}),
    ("soundness", {"test_product": 60, "test_list": 7, "test_slow": 3, "test_long": 1, "test_plain": 1}),
])  # fmt: skip
def test_how_many_cases_run(tier: str, counts: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    found: Counter[str] = Counter()

    class Seen:
        def pytest_collection_finish(self, session: pytest.Session) -> None:
            found.update(item.name.partition("[")[0] for item in session.items)

    arguments = [str(tmp_path), f"--rootdir={tmp_path}", f"--confcutdir={tmp_path}", "--collect-only", "--quiet"]
    plugins = [
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--import-mode=importlib",
        "-W",
        "ignore:Module already imported",
    ]
    assert pytest.main([*arguments, *plugins, "--tier", tier], plugins=[tiers, Seen()]) == 0
    assert found == counts


def test_every_value_is_met_by_hardly_more_cases_than_there_are_values() -> None:
    lists = (range(9), "abcdefg", [(1, 2), (2, 1)], range(4))
    cases = {case: frozenset(enumerate(case)) for case in itertools.product(*lists)}
    found = chosen(cases)
    assert found == sorted(found, key=list(cases).index) and 9 <= len(found) <= 12
    for k, values in enumerate(lists):
        assert {case[k] for case in found} == set(values)
    assert chosen({"only": frozenset()}) == ["only"]
    assert chosen(cases) == found and TIERS == ("quick", "test", "soundness")
