"""Running a part of the campaign batch by batch: seeded, resumable, with its result in a JSON file."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from torch import Generator

from campaign import REPOSITORY

KEPT_VIOLATIONS = 50  # of each part, with their batches; the rest is only counted
SAVED_EVERY = 5.0  # seconds


@dataclass
class Tally:
    """What a batch found.

    Args:
        cases: how many things were compared with the truth, by kind.
        violations: what was wrong, in words; each entry is one wrong case.
    """

    cases: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def add(self, kind: str, count: int, wrong: list[str]) -> None:
        """Count cases of one kind, and note the wrong ones."""
        self.cases[kind] += count
        self.violations += [f"{kind}: {line}" for line in wrong]

    def merge(self, other: Tally) -> None:
        self.cases += other.cases
        self.violations += other.violations


@dataclass(frozen=True)
class Part:
    """One part of the campaign.

    Args:
        name: as on the command line.
        unit: what is counted: "numbers", "networks".
        batch: makes and checks the cases of one batch from its own generator.
        counted: the kinds of cases that count towards the wanted number; all when empty.
    """

    name: str
    unit: str
    batch: Callable[[Generator], Tally]
    counted: tuple[str, ...] = ()

    def count(self, cases: Counter[str]) -> int:
        return sum(number for kind, number in cases.items() if not self.counted or kind in self.counted)


def generator_of(part: str, seed: int, index: int) -> Generator:
    """The randomness of one batch, which does not depend on what ran before."""
    digest = hashlib.sha256(f"{part}/{seed}/{index}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def fingerprint(*folders: str) -> str:
    """SHA-256 over the Python files of folders of the repository."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            digest.update(str(path.relative_to(REPOSITORY)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def read(file: Path) -> dict[str, Any]:
    """Results so far; empty when there are none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write(file: Path, results: dict[str, Any]) -> None:
    """Replace a result file in one step, so that an interrupted run leaves a whole one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, file)


def _fresh(seed: int, source: str) -> dict[str, Any]:
    return {
        "seed": seed,
        "source": source,
        "batches": 0,
        "cases": {},
        "total": 0,
        "seconds": 0.0,
        "violations": 0,
        "examples": [],
    }


def steps(part: Part, wanted: int, seed: int, state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Run batches until `wanted` cases are there; yields the state after each batch."""
    cases = Counter(state["cases"])
    while part.count(cases) < wanted:
        started = monotonic()
        found = part.batch(generator_of(part.name, seed, state["batches"]))
        cases += found.cases
        lines = [f"batch {state['batches']}: {line}" for line in found.violations]
        state = {
            **state,
            "batches": state["batches"] + 1,
            "cases": dict(sorted(cases.items())),
            "total": part.count(cases),
            "seconds": round(state["seconds"] + monotonic() - started, 3),
            "violations": state["violations"] + len(lines),
            "examples": (state["examples"] + lines)[:KEPT_VIOLATIONS],
        }
        yield state


def run(part: Part, wanted: int, seed: int, file: Path) -> dict[str, Any]:
    """Run a part up to `wanted` cases, going on where an earlier run with this seed and these sources stopped."""
    results, source = read(file), fingerprint("src/jacobound")
    known = results.get(part.name)
    if known is None or (known["seed"], known["source"]) != (seed, source):
        known = _fresh(seed, source)
    saved = told = monotonic()
    state = known
    for state in steps(part, wanted, seed, known):
        now = monotonic()
        if now - saved > SAVED_EVERY:
            write(file, {**read(file), part.name: state})
            saved = now
        if now - told > SAVED_EVERY:
            tell(part, state, wanted)
            told = now
    write(file, {**read(file), part.name: state})
    tell(part, state, wanted)
    return state


def tell(part: Part, state: dict[str, Any], wanted: int) -> None:
    """One line of progress on standard error."""
    print(
        f"{part.name}: {state['total']} of {wanted} {part.unit}, {state['seconds']:.0f} s, "
        f"{state['violations']} violations",
        file=sys.stderr,
        flush=True,
    )
