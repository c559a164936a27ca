"""Mutation testing: every deliberate mistake in a private copy of the sources must turn a fast test red.

Tests are collected once, and a forked process meets each mistake in the code of its loaded functions. Mistakes in
what is computed at import need fresh imports; those are made last, in the text. Survivors stay until a test kills
them or a file in ``survivors`` says why they may live.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import re
import shutil
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from time import monotonic, time
from typing import Any

from campaign import REPOSITORY
from campaign.code_swap import Functions, loaded_functions, swap
from campaign.ledger_keys import landmarks
from campaign.line_reach import Recorder, statement_lines
from campaign.mutant_session import Reach, Tests, forked, in_order, name_of, pytest_session, show
from campaign.mutant_targets import SOURCES, TESTS
from campaign.runner import read, write
from campaign.source_mutations import Mutation, far_twin, mutations

PATIENCE = 20.0  # seconds of tests against one mistake in one run; the next run goes on with the others
A_DAY = 86400.0
SURVIVORS = REPOSITORY / "campaign" / "survivors"


def source_of(file: str, root: Path = REPOSITORY) -> Path:
    return root / "src" / "jacobound" / file


def results_of(file: str, results: Path) -> Path:
    """Where the results of one source file are kept."""
    return results / "mutants" / f"{file.removesuffix('.py').replace('/', '-')}.json"


def all_results(results: Path) -> dict[str, Any]:
    """What is known of the functions of every source file as they are now, by file."""
    found = {}
    for file in SOURCES:
        planned, known = mutations(source_of(file).read_text(encoding="utf-8")), read(results_of(file, results))
        kept = kept_of(planned, known.get("mistakes", {}))
        found[file] = {"planned": len(planned), "mistakes": kept}
    return found if any(state["mistakes"] for state in found.values()) else {}


def kept_of(planned: Iterable[Mutation], known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of mistakes whose function has not changed since."""
    return {one.name: {**known[one.name], "key": one.key} for one in planned if _same(one, known.get(one.name))}


def possible(files: Iterable[str]) -> dict[str, set[str]]:
    """The keys of all mistakes that can be made in files; none for a file that does not exist."""
    texts = {file: source_of(file).read_text(encoding="utf-8") for file in files if source_of(file).is_file()}
    return {file: {one.key for one in mutations(text)} for file, text in texts.items()}


def all_sources() -> dict[str, str]:
    """The text of every file of the package."""
    root = REPOSITORY / "src" / "jacobound"
    return {file.relative_to(root).as_posix(): file.read_text(encoding="utf-8") for file in root.rglob("*.py")}


class Pattern(str):
    """A key without its hash in which a star stands for any text, so that one reason may cover a function."""

    __slots__ = ()


def excuses(folder: Path = SURVIVORS) -> dict[str, dict[str, tuple[str, str]]]:
    """For every source file the survivors that may live: key or `Pattern` -> (class, reason).

    What the ledger says of a class or function that no file defines, or several do, is kept under that name.
    """
    found: dict[str, dict[str, tuple[str, str]]] = {}
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.toml"))]
    files = landmarks(all_sources())
    for group in (group for text in texts for group in tomllib.loads(text)["group"]):
        why = (group["class"], group["reason"])
        for landmark, keys in group.get("mistakes", {}).items():
            found.setdefault(files.get(landmark, landmark), {}).update(dict.fromkeys(keys, why))
        for landmark, keys in group.get("patterns", {}).items():
            found.setdefault(files.get(landmark, landmark), {}).update(dict.fromkeys(map(Pattern, keys), why))
    return found


def excuse(key: str, known: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """(class, reason) of one mistake: its own, or that of a pattern."""
    if key in known:
        return known[key]
    return next((why for one, why in known.items() if isinstance(one, Pattern) and matches(key, one)), None)


COVERED = ("margin", "An outward step moves by twice what an operation loses, so the next one covers a missing one; "
           "sixteen units the wrong way at the same place are noticed.")  # fmt: skip


def explained(name: str, mistakes: Mapping[str, Any], known: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """(class, reason) of a survivor of a file, by what is written or by what became of a larger mistake there."""
    twin = mistakes.get(far_twin(name))
    return excuse(mistakes[name]["key"], known) or (COVERED if twin is not None and twin["killed"] else None)


def matches(key: str, pattern: Pattern) -> bool:
    """Whether a pattern covers a mistake; only stars are special."""
    text = key.rpartition(" @")[0] or key
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def private_copy() -> Iterator[Path]:
    """Sources and tests in a folder of their own, where a mistake harms nobody."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        root = Path(name)
        for folder in ("src", "tests", "campaign"):
            left_out = ["__pycache__", "*.egg-info"] + ["results"] * (folder == "campaign")
            shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns(*left_out))
        shutil.copy(REPOSITORY / "pyproject.toml", root)
        yield root


def preload() -> None:
    """Import once what every process needs, but nothing of ours."""
    sys.dont_write_bytecode = True
    import flint  # noqa: F401
    import numpy  # noqa: F401
    import onnx  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torch.export

    torch.set_num_threads(1)
    ours = (str(REPOSITORY / "src"), str(REPOSITORY / "tests"), str(REPOSITORY), "")
    sys.path[:] = [path for path in sys.path if path not in ours]


def run(wanted: Sequence[str], results: Path, most: int | None = None, patience: float = PATIENCE) -> dict[str, Any]:
    """Judge the mistakes of some files (all when none is named); what is known of an unchanged function is kept.

    Survivors meet the tests that they have not met yet, unless ``survivors`` explains them.

    Args:
        results: folder; one file for each source file.
        most: at most this many mistakes of each file, spread evenly over it.
        patience: seconds of tests against one mistake; tests that a survivor has passed are not run again.
    """
    preload()
    with private_copy() as root:
        work = _Work(root, tuple(wanted or SOURCES), results, most, patience)
        for part in (work.in_loaded_code, work.in_fresh_imports):
            part()
    return all_results(results)


@dataclass(frozen=True)
class _Work:
    root: Path
    files: tuple[str, ...]
    results: Path
    most: int | None
    patience: float
    trusted: set[str] = field(default_factory=set)  # tests that have passed without a mistake in this process

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def sources(self) -> Path:
        return self.root / "src" / "jacobound"

    def in_loaded_code(self) -> None:
        """One process that imports everything, and forks for every mistake."""
        code = forked(lambda: self._session(self._judge_all), None, A_DAY)
        if code:
            raise RuntimeError(f"the tests could not be run (exit code {code})")

    def _session(self, work: Any) -> int:
        recorder = Recorder(self.sources)
        recorder.start()

        def begun(tests: Tests) -> None:
            lines = recorder.stop()
            reach = Reach(self.results / "reach", self.sources)
            reach.at_import = lines
            reach.measure(tests, self.log, A_DAY)
            work(tests, reach)

        return pytest_session(self.root, TESTS, begun)

    def _judge_all(self, tests: Tests, reach: Reach) -> None:
        functions = loaded_functions(self.sources)
        gc.freeze()
        for file in self.files:
            text = source_of(file, self.root).read_text(encoding="utf-8")
            judge = _Judge(self, file, text, tests, reach, functions)
            judge.run()

    def planned(self, text: str) -> tuple[list[Mutation], int]:
        """The mistakes to make, and how many there are."""
        found = mutations(text)
        chosen = found[:: -(-len(found) // self.most)] if self.most is not None and len(found) > self.most else found
        return chosen, len(found)

    def in_fresh_imports(self) -> None:
        """Mistakes that loaded code can not show: made in the text, imported anew."""
        for file in self.files:
            place, state = source_of(file, self.root), read(results_of(file, self.results))
            known = excuses().get(file, {})
            text = place.read_text(encoding="utf-8")
            for mistake in self.planned(text)[0]:
                one = state["mistakes"][mistake.name]
                if one["fresh"] and not one["killed"] and explained(mistake.name, state["mistakes"], known) is None:
                    started = monotonic()
                    place.write_text(mistake.applied(text), encoding="utf-8")
                    try:
                        found = self._fresh(file, mistake, one)
                    finally:
                        place.write_text(text, encoding="utf-8")
                    one.update(found, seconds=round(one["seconds"] + monotonic() - started, 2))
                    write(results_of(file, self.results), state)
            tell(file, state)

    def _fresh(self, file: str, mistake: Mutation, one: Mapping[str, Any]) -> dict[str, Any]:
        answer = self.root / "answer.json"
        answer.unlink(missing_ok=True)

        def judge(tests: Tests) -> None:
            reach = Reach(self.results / "reach", self.sources)
            known = [key for key in tests.items if key in reach.tests and key not in set(one["passed_fresh"])]
            keys = in_order(known, reach.tests, Counter(), Counter(), file)
            now = within(keys, reach.tests, self.patience)
            _, test = show(tests, now, reach.tests, self.log, lambda: True) or ("", "")
            passed = [] if test else [*one["passed_fresh"], *now]
            found = {"killed": bool(test), "test": test, "passed_fresh": passed, "left": len(keys) - len(now)}
            write(answer, found)

        log = self.root / "session"
        code = forked(lambda: pytest_session(self.root, TESTS, judge), log, 180 + 10 * self.patience)
        if answer.is_file():
            return read(answer)
        if code in (0, 3, 5, 99):  # neither an import that failed nor a crash
            raise RuntimeError(f"the tests of '{mistake.name}' did not run: {log.read_text(errors='replace')[-3000:]}")
        return {"killed": True, "test": f"import ends with {code}", "passed_fresh": [], "left": 0}


class _Judge:
    """One source file."""

    def __init__(self, work: _Work, file: str, text: str, tests: Tests, reach: Reach, functions: Functions) -> None:
        self.work, self.file, self.text = work, file, text
        self.tests, self.reach, self.functions = tests, reach, functions
        self.lines = statement_lines(text)

    def run(self) -> None:
        place = results_of(self.file, self.work.results)
        chosen, planned = self.work.planned(self.text)
        known = read(place).get("mistakes", {})
        kept = kept_of(mutations(self.text), known)
        state, reasons = {"planned": planned, "mistakes": kept}, excuses().get(self.file, {})
        for mistake in chosen:
            one = kept.get(mistake.name)
            if one is None or not (one["killed"] or explained(mistake.name, kept, reasons)):
                kept[mistake.name] = self._judged(mistake, one or _begun(mistake), kept)
                write(place, state)
        write(place, state)
        tell(self.file, state)

    def _judged(self, mistake: Mutation, one: dict[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
        started = monotonic()
        lines = self.lines.get(mistake.line, range(mistake.line, mistake.line + 1))
        reaching = self.reach.reaching(self.file, lines, self.tests.items)
        near, far = noticed(mistake, others)
        passed = set(one["passed"])
        keys = in_order(
            [key for key in reaching if key not in passed], self.reach.tests, near, far, self.file, one["judged"]
        )
        now = within(keys, self.reach.tests, self.work.patience)
        place = source_of(self.file, self.work.root)

        def change() -> bool:
            return swap(place, self.text, mistake.applied(self.text), self.functions)

        found = show(self.tests, now, self.reach.tests, self.work.log, change)
        key, test = found or ("", "")
        if key and key not in self.work.trusted:
            if show(self.tests, [key], self.reach.tests, self.work.log, lambda: True) != ("", ""):
                raise RuntimeError(f"{test} fails without any mistake")
            self.work.trusted.add(key)
        fresh = found is None or self.reach.imported(self.file, lines)
        return {
            **one,
            "line": mistake.line,
            "judged": time(),
            "killed": bool(test),
            "test": test,
            "seconds": round(monotonic() - started, 2),
            "fresh": fresh,
            "passed": [*one["passed"], *now] if found == ("", "") else [],
            "left": one["left"] if fresh else len(keys) - len(now),
        }


def _same(mistake: Mutation, known: Mapping[str, Any] | None) -> bool:
    return known is not None and known["within"] == digest(mistake.within)


def _begun(mistake: Mutation) -> dict[str, Any]:
    texts = {"before": mistake.before, "after": mistake.after, "within": digest(mistake.within), "key": mistake.key}
    return {
        **texts,
        "killed": False,
        "test": "",
        "seconds": 0.0,
        "passed": [],
        "passed_fresh": [],
        "left": 0,
        "judged": 0.0,
    }


def noticed(mistake: Mutation, others: Mapping[str, Any]) -> tuple[Counter[str], Counter[str]]:
    """How many mistakes of the same function, and of the same file, each test has noticed."""
    near: Counter[str] = Counter()
    far: Counter[str] = Counter()
    for name, one in others.items():
        if one["killed"]:
            test = name_of(one["test"] + "@")
            far[test] += 1
            near[test] += name.startswith(mistake.place + ":")
    return near, far


def within(keys: Sequence[str], reach: Mapping[str, Any], seconds: float) -> list[str]:
    """As many of the tests, from the first, as fit into the time."""
    times = accumulate(reach[key]["seconds"] for key in keys)
    return [key for key, total in zip(keys, times, strict=True) if total <= seconds]


def tell(file: str, state: Mapping[str, Any]) -> None:
    """One line of progress."""
    alive = [one for one in state["mistakes"].values() if not one["killed"]]
    seconds = sum(one["seconds"] for one in state["mistakes"].values())
    print(
        f"{file}: {len(state['mistakes'])} of {state['planned']} mistakes, {len(alive)} alive "
        f"({sum(one['fresh'] for one in alive)} to be imported anew), {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )
