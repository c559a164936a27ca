"""The campaign itself: it counts, goes on where it stopped, notices violations, and makes mistakes that matter."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from torch import Generator

from campaign import REPOSITORY, mutants, report, runner
from campaign.__main__ import parts
from campaign.code_swap import loaded_functions, swap
from campaign.ledger_keys import landmarks
from campaign.line_reach import Recorder, statement_lines
from campaign.mutant_session import in_order
from campaign.mutant_targets import SOURCES, TESTS
from campaign.report import BEGIN, END
from campaign.runner import Part, Tally, generator_of, read, run
from campaign.source_mutations import mutations
from zoo import integer


def counting(generator: Generator) -> Tally:
    """Ten cases a batch; a number above 990 is a violation."""
    drawn = [integer(0, 999, generator) for _ in range(10)]
    tally = Tally()
    tally.add("draws", 10, [f"{number}" for number in drawn if number > 990])
    tally.cases["other"] += 1
    return tally


PART = Part("draws", "draws", counting, ("draws",))


def test_a_part_runs_until_it_has_its_cases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = run(PART, 95, 0, tmp_path / "r.json")
    assert (state["total"], state["batches"]) == (100, 10) and state["cases"] == {"draws": 100, "other": 10}
    assert read(tmp_path / "r.json")["draws"] == state
    assert "100 of 95 draws" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = run(PART, 1000, 0, tmp_path / "whole.json")
    run(PART, 300, 0, tmp_path / "parts.json")
    halves = run(PART, 1000, 0, tmp_path / "parts.json")
    assert {**whole, "seconds": 0} == {**halves, "seconds": 0}
    assert whole["violations"] > 0 and whole["examples"][0].startswith("batch ")
    other = run(PART, 1000, 1, tmp_path / "parts.json")  # another seed begins again
    assert other["total"] == 1000 and other["examples"] != whole["examples"]


def test_other_sources_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(PART, 100, 0, tmp_path / "r.json")
    monkeypatch.setattr(runner, "fingerprint", lambda *folders: "other")
    assert run(PART, 50, 0, tmp_path / "r.json")["total"] == 50


def test_batches_do_not_depend_on_each_other() -> None:
    first, second = (generator_of("x", 0, k).initial_seed() for k in (1, 2))
    assert first != second and first == generator_of("x", 0, 1).initial_seed()
    assert generator_of("y", 0, 1).initial_seed() != first != generator_of("x", 1, 1).initial_seed()


def test_every_part_has_a_row_and_a_unit() -> None:
    known = parts()
    assert set(known) == set(report.WHAT) == set(report.UNITS)
    state = {"total": 1000, "cases": {"a": 1000}, "seconds": 61.7, "violations": 2}
    table = report.campaign_table({"primitives": state})
    assert "| 1,000 numbers | 1,000 | 62 | 2 |" in table


@pytest.mark.slow
@pytest.mark.parametrize("name", ["primitives", "exact", "lower", "graphs"])
def test_a_batch_of_every_part_holds(name: str) -> None:
    found = parts()[name].batch(generator_of(name, 1, 0))
    assert not found.violations and parts()[name].count(found.cases) > 0


# --- deliberate mistakes ------------------------------------------------------------------------------------------

SOURCE = '''
def bound(x, y, k=3):
    """Not a number: 1 + 2."""
    if k < 2 or x is None:
        raise ValueError(f"k is {k + 1}")
    total = up(x.lower + inflate(y.abs() * gamma(k + 2, y), 4))
    return torch.where(total > 0, total, -x.upper.clamp(min=0.0)).amax(0)
'''


def test_mistakes_are_made_where_numbers_are_computed() -> None:
    names = {one.name.removeprefix("bound: ") for one in mutations(SOURCE)}
    for wanted in (
        "< -> <=",
        "or -> and",
        "x.lower -> x.upper",
        "y.abs() -> y",
        "gamma(k + 2, y) -> 0.0",
        "inflate(y.abs() * gamma(k + 2, y), 4) -> (y.abs() * gamma(k + 2, y))",
        "2 -> 1",
        "> -> >=",
        "x.upper.clamp(min=0.0) -> x.upper",
        "-x.upper.clamp(min=0.0) -> (x.upper.clamp(min=0.0))",
    ):
        assert wanted in names, wanted
    assert not any("k is" in name or "Not a number" in name for name in names)
    assert len(names) == len(mutations(SOURCE))


@pytest.mark.slow
def test_every_mistake_in_the_sources_is_valid_and_different() -> None:
    total = 0
    for file in SOURCES:
        text = mutants.source_of(file).read_text(encoding="utf-8")
        found = mutations(text)
        assert [name for name, count in Counter(one.name for one in found).items() if count > 1] == []
        for one in found[::29]:
            assert text[one.start : one.end] == one.before != one.after
            ast.parse(one.applied(text))
        total += len(found)
    assert total > 5000


def test_a_mistake_is_known_by_its_function_wherever_that_stands() -> None:
    one, other = mutations(SOURCE), mutations("x = 1\n\n" + SOURCE)
    assert [mistake.name for mistake in one] == [mistake.name for mistake in other]
    assert [mistake.within for mistake in one] == [mistake.within for mistake in other]
    assert one[0].line != other[0].line


def test_tests_and_sources_of_the_mistakes_exist() -> None:
    assert [file for file in SOURCES if not mutants.source_of(file).is_file()] == []
    assert [file for file in TESTS if not (REPOSITORY / file).is_file()] == []
    assert len(set(SOURCES)) == len(SOURCES)


MODULE = """
import functools

K = 3

def outer(x):
    def inner(y):
        return y + K
    return inner(x) * 2

kept = (lambda factor: lambda x: x * factor)(5)

@functools.cache
def remembered(x):
    return x - 1

class Thing:
    size: int = 4

    def double(self, by=2):
        return self.size * by
"""


@pytest.mark.parametrize(
    ("before", "after", "carried", "value"),
    [
        ("y + K", "y - K", True, (14, 50, 9, 8)),
        ("* 2", "* 3", True, (39, 50, 9, 8)),
        ("x * factor", "x + factor", True, (26, 15, 9, 8)),
        ("x - 1", "x + 1", True, (26, 50, 11, 8)),
        ("self.size * by", "self.size + by", True, (26, 50, 9, 6)),
        ("K = 3", "K = 4", False, None),
        ("int = 4", "int = 5", False, None),
        ("by=2", "by=3", False, None),
    ],
)
def test_loaded_functions_are_changed(
    before: str, after: str, carried: bool, value: tuple[int, ...] | None, tmp_path: Path
) -> None:
    place, names = tmp_path / "module.py", {}
    exec(compile(MODULE, str(place), "exec", dont_inherit=True), names)
    changed = MODULE.replace(before, after)
    assert changed != MODULE
    assert swap(place, MODULE, changed, loaded_functions(tmp_path)) == carried
    if carried:
        thing = names["Thing"]()
        assert (names["outer"](10), names["kept"](10), names["remembered"](10), thing.double()) == value


def test_lines_that_are_reached(tmp_path: Path) -> None:
    place, names = tmp_path / "module.py", {}
    exec(compile(MODULE, str(place), "exec", dont_inherit=True), names)
    recorder = Recorder(tmp_path)
    recorder.start()
    names["outer"](1)
    found = recorder.stop()["module.py"]
    lines = [MODULE.splitlines()[line - 1].strip() for line in found]
    assert "return y + K" in lines and "return x - 1" not in lines
    statements = statement_lines(MODULE)
    place_of = {text.strip(): number for number, text in enumerate(MODULE.splitlines(), 1)}
    assert list(statements[place_of["return y + K"]]) == [place_of["return y + K"]]
    assert len(statements[place_of["return x - 1"]]) > 10  # whoever asks first runs it


def test_tests_that_notice_much_in_little_time_come_first() -> None:
    reach = {
        f"t.py::{name}@0": {"seconds": seconds, "lines": {"a.py": list(range(lines))}}
        for name, seconds, lines in (("slow", 2.0, 50), ("quick", 0.1, 50), ("known", 0.5, 50), ("broad", 0.1, 5000))
    }
    order = in_order(reach, reach, Counter({"t.py::known": 1}), Counter())
    assert [mutants.name_of(key) for key in order] == [f"t.py::{n}" for n in ("known", "quick", "slow", "broad")]
    assert mutants.within(order, reach, 0.7) == order[:2]


def test_survivors_need_a_reason_and_reasons_a_survivor(tmp_path: Path) -> None:
    killed = {"killed": True, "line": 1, "test": "t.py::f"}
    alive = {"killed": False, "line": 2, "left": 3, "fresh": False, "passed_fresh": []}
    states = {"f: x -> y": killed, "f: y -> z": alive, "g: 1 -> 2": alive}
    mistakes = {name: {**state, "key": name} for name, state in states.items()}
    results = {"a.py": {"planned": 4, "mistakes": mistakes}}
    assert mutants.excuses(tmp_path) == {}
    (tmp_path / "area.toml").write_text(
        '[[group]]\nclass = "tightness"\nreason = "slopes are free"\n[group.mistakes]\n"a.py" = ["f: y -> z"]\n'
    )
    known = mutants.excuses(tmp_path)
    assert report.unexcused(results, known) == ["a.py:2 g: 1 -> 2"]
    table = report.mutants_table({**results, "b.py": {"planned": 5, "mistakes": {}}}, known)
    assert "| `others` | 9 | 3 | 1 | 1 | 1 | 1 |" in table and "| all | 9 | 3 | 1 | 1 | 1 | 1 |" in table
    assert "wider one | 1 | 1 |" in report.classes_table(results, known)
    assert report.every_reason(known) == "tightness: slopes are free\n    a.py  f: y -> z"
    assert report.outdated(results, known, {"a.py": {"f: y -> z"}}) == []
    assert "no such mistake" in report.outdated(results, known, {"a.py": {"f: x -> y"}})[0]
    too_much = {"a.py": {"f: x -> y": ("tightness", "slopes are free")}}
    assert "t.py::f notices it" in report.outdated(results, too_much, {"a.py": {"f: x -> y"}})[0]


@pytest.mark.slow
def test_every_written_reason_is_about_a_mistake_that_can_be_made() -> None:
    known = mutants.excuses()
    assert report.outdated({}, known, mutants.possible(known)) == []


def renamed(text: str) -> str | None:
    """A source text in which a function calls its most used local variable by another name; None without such."""
    uses: list[list[ast.Name]] = []
    for function in (node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)):
        names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        stored -= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg | ast.keyword)}
        uses += [[node for node in names if node.id == name] for name in stored]
    if not uses:
        return None
    lines = text.encode().split(b"\n")
    for node in sorted(max(uses, key=len), key=lambda node: -node.col_offset):
        line, start = lines[node.lineno - 1], node.col_offset
        lines[node.lineno - 1] = line[:start] + b"quite_another" + line[start + len(node.id.encode()) :]
    return b"\n".join(lines).decode()


def test_a_local_variable_may_be_renamed_without_breaking_the_ledger() -> None:
    tried, changed = 0, 0
    for file in mutants.excuses():
        text = mutants.source_of(file).read_text(encoding="utf-8")
        other = renamed(text) if tried < 20 else None
        if other is not None:
            before, after = mutations(text), mutations(other)
            assert [one.key for one in before] == [one.key for one in after], file
            changed += sum(one.name != two.name for one, two in zip(before, after, strict=True))
            tried += 1
    assert tried == 20 and changed > 40


def test_a_file_may_be_renamed_without_breaking_the_ledger() -> None:
    sources = mutants.all_sources()
    before = landmarks(sources)
    after = landmarks({f"elsewhere/{file}": text for file, text in sources.items()})
    assert after == {name: f"elsewhere/{file}" for name, file in before.items()}
    assert set(mutants.excuses()) <= set(before.values())


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("def f(a, b):\n    c = a + b\n    return c - a", True),
        ("def f(x, y):\n    print()\n    z = x + y\n    return z - x", True),
        ("def f(x, y):\n    z = y + x\n    return z - x", True),
        ("def f(x, y):\n    z = x + x\n    return z - x", False),
        ("def f(x, y):\n    z = x + y\n    return z - 2 * x", False),
        ("def f(x, y):\n    z = x + g(y)\n    return z - x", False),
        ("def f(self, y):\n    z = self + y\n    return z - self", False),
        ("def g(x, y):\n    z = x + y\n    return z - x", False),
    ],
)
def test_an_entry_is_about_one_statement_as_it_is_written(other: str, same: bool) -> None:
    known = {one.key for one in mutations("def f(x, y):\n    z = x + y\n    return z - x")}
    assert (known <= {one.key for one in mutations(other)}) == same


def test_tables_stand_between_two_comments() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter"
    found = report.with_tables(text, "| new |")
    assert "old" not in found and found.startswith("before") and found.endswith("after") and "| new |" in found
    assert report.with_tables(found, "| new |") == found
    with pytest.raises(ValueError, match="once"):
        report.with_tables("nothing", "x")


def test_the_copy_that_mistakes_are_made_in_has_every_source() -> None:
    with mutants.private_copy() as root:
        for folder in ("src", "tests"):
            ours = {file.relative_to(REPOSITORY) for file in (REPOSITORY / folder).rglob("*.py")}
            assert {file.relative_to(root) for file in (root / folder).rglob("*.py")} == ours
