"""`python -m campaign.report`: put the table of the last run into docs/soundness.md, between two comments."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from campaign import REPOSITORY, RESULTS
from campaign.mutants import Pattern, all_results, excuses, explained, matches
from campaign.runner import read

BEGIN, END = "<!-- campaign:begin -->", "<!-- campaign:end -->"
DOCUMENT = REPOSITORY / "docs" / "soundness.md"
WHAT = {
    "primitives": "enclosed numbers of every primitive, float64 and float32, against rationals and balls",
    "exact": "tiny networks, every method, direction and norm, against exact values, Jacobians and slopes",
    "lower": "lower ends of constants of tiny networks, for all pairs of norms, at the witnesses that they name",
    "graphs": "random graphs of all operators and activations, against sampled points and autodiff",
    "exchange": "networks of PyTorch and ONNX, imported, against their own values and derivatives",
    "door": "valid ONNX models of every operation, and modules, against their own values: equal, or refused",
    "calls": "random calls of the public interface, with values of right and wrong types: answers or typed errors",
    "interrupts": "calls interrupted at random moments: what they return holds, and no trace is left",
    "results": "results written to JSON and read again: bit for bit the same",
    "files": "damaged ONNX, VNN-LIB, npz, npy, csv and image files: typed errors only",
}
UNITS = {
    "primitives": "numbers",
    "exact": "networks",
    "lower": "networks",
    "graphs": "graphs",
    "exchange": "networks",
    "door": "networks",
    "calls": "calls",
    "interrupts": "interrupts",
    "results": "results",
    "files": "files",
}


def campaign_table(results: Mapping[str, Any]) -> str:
    """One row for every part that has run."""
    lines = ["| part | cases | compared | seconds | violations |", "|---|---:|---:|---:|---:|"]
    for name, what in WHAT.items():
        if name in results:
            state = results[name]
            comparisons = sum(number for kind, number in state["cases"].items() if kind != UNITS[name])
            lines.append(
                f"| {what} | {state['total']:,} {UNITS[name]} | {comparisons:,} | {state['seconds']:,.0f} "
                f"| {state['violations']:,} |"
            )
    return "\n".join(lines)


Excuses = Mapping[str, Mapping[str, tuple[str, str]]]


def unexcused(results: Mapping[str, Any], known: Excuses) -> list[str]:
    """Survivors without a written reason."""
    return [
        f"{file}:{one['line']} {name}"
        for file, state in results.items()
        for name, one in state["mistakes"].items()
        if not one["killed"] and explained(name, state["mistakes"], known.get(file, {})) is None
    ]


def outdated(results: Mapping[str, Any], known: Excuses, possible: Mapping[str, set[str]]) -> list[str]:
    """Written reasons that excuse nothing: no such mistake can be made (any more), or a test notices it.

    Args:
        possible: the names of all mistakes that can be made, by file.
    """
    found = []
    for file, names in known.items():
        made = results.get(file, {}).get("mistakes", {})
        for name in names:
            if isinstance(name, Pattern):
                if not any(matches(one, name) for one in possible.get(file, ())):
                    found.append(f"{file} {name}: covers nothing")
            elif name not in possible.get(file, ()):
                found.append(f"{file} {name}: there is no such mistake")
            elif name in made and made[name]["killed"]:
                found.append(f"{file} {name}: {made[name]['test']} notices it")
    return found


def mutants_table(results: Mapping[str, Any], known: Excuses) -> str:
    """Mistakes by file: how many there are and were tried, and what became of these.

    "explained" are survivors with a written reason; of the others, which are "alive", "unfinished" have not met all
    tests that reach them.
    """
    names = ("mistakes", "tried", "killed", "explained", "alive", "unfinished")
    lines = ["| file | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    sums, untried = Counter[str](), Counter[str]()
    for file, state in results.items():
        mistakes = state["mistakes"]
        alive = {name: one for name, one in mistakes.items() if not one["killed"]}
        open_ones = [
            one for name, one in alive.items() if explained(name, state["mistakes"], known.get(file, {})) is None
        ]
        unfinished = sum(one["left"] > 0 or (one["fresh"] and not one["passed_fresh"]) for one in open_ones)
        numbers = (state["planned"], len(mistakes), len(mistakes) - len(alive), len(alive) - len(open_ones),
                   len(open_ones), unfinished)  # fmt: skip
        row = dict(zip(names, numbers, strict=True))
        sums.update(row)
        if mistakes:
            lines.append(f"| `{file}` | " + " | ".join(f"{count:,}" for count in numbers) + " |")
        else:
            untried.update({"files": 1, "mistakes": state["planned"]})
    if untried:
        lines.append(f"| {untried['files']} files not tried | {untried['mistakes']:,} | 0 | 0 | 0 | 0 | 0 |")
    return "\n".join([*lines, "| all | " + " | ".join(f"{sums[name]:,}" for name in names) + " |"])


def reasons_table(results: Mapping[str, Any], known: Excuses) -> str:
    """Why survivors live, with their number."""
    counts: Counter[tuple[str, str]] = Counter()
    for file, state in results.items():
        for name, one in state["mistakes"].items():
            why = None if one["killed"] else explained(name, state["mistakes"], known.get(file, {}))
            if why is not None:
                counts[why] += 1
    lines = ["| class | reason | survivors |", "|---|---|---:|"]
    lines += [f"| {kind} | {reason} | {count} |" for (kind, reason), count in sorted(counts.items())]
    return "\n".join(lines)


def render(results: Mapping[str, Any], mutants: Mapping[str, Any]) -> str:
    """The tables of a run, in Markdown."""
    parts = [campaign_table(results)] if results else []
    if mutants:
        known = excuses()
        parts += [mutants_table(mutants, known), reasons_table(mutants, known)]
    return "\n\n".join(parts)


def with_tables(text: str, tables: str) -> str:
    """The text with everything between the two comments replaced.

    Raises:
        ValueError: unless each comment stands there once, in this order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the text needs the lines '{BEGIN}' and '{END}', once and in this order")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables.strip()}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    results, mutants = read(RESULTS / "latest.json"), all_results(RESULTS)
    if not results and not mutants:
        sys.exit("no results yet; run python -m campaign first")
    document = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCUMENT
    document.write_text(with_tables(document.read_text(encoding="utf-8"), render(results, mutants)), encoding="utf-8")


if __name__ == "__main__":
    main()
