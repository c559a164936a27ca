"""`python -m campaign.report`: put the table of the last run into docs/soundness.md, between two comments."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
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
    "certificates": "certificates of tiny networks, from choices drawn by chance too, as the checker proves them",
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
    "certificates": "networks",
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
        f"{file}:{one['line']} {one['key']}"
        for file, state in results.items()
        for name, one in state["mistakes"].items()
        if not one["killed"] and explained(name, state["mistakes"], known.get(file, {})) is None
    ]


def outdated(results: Mapping[str, Any], known: Excuses, possible: Mapping[str, set[str]]) -> list[str]:
    """Written reasons that excuse nothing: no such mistake can be made (any more), or a test notices it.

    Args:
        possible: the keys of all mistakes that can be made, by file.
    """
    found = []
    for file, keys in known.items():
        made = {one["key"]: one for one in results.get(file, {}).get("mistakes", {}).values()}
        for key in keys:
            if isinstance(key, Pattern):
                if not any(matches(one, key) for one in possible.get(file, ())):
                    found.append(f"{file} {key}: covers nothing")
            elif key not in possible.get(file, ()):
                found.append(f"{file} {key}: there is no such mistake{_alike(key, possible.get(file, ()))}")
            elif key in made and made[key]["killed"]:
                found.append(f"{file} {key}: {made[key]['test']} notices it")
    return found


def _alike(key: str, possible: Iterable[str]) -> str:
    """Mistakes of the same text in other statements of the same function: where the entry may have stood."""
    text = key.rpartition(" @")[0]
    found = sorted(one for one in possible if one.rpartition(" @")[0] == text)
    return f" (any more? The statement may have changed; there are {', '.join(found)})" if found else ""


def every_reason(known: Excuses) -> str:
    """The ledger as a list: class, reason, and below them what they cover."""
    groups: dict[tuple[str, str], list[str]] = {}
    for file, keys in known.items():
        for key, why in keys.items():
            groups.setdefault(why, []).append(f"    {file}  {key}")
    return "\n".join("\n".join([f"{kind}: {reason}", *lines]) for (kind, reason), lines in sorted(groups.items()))


COLUMNS = ("mistakes", "tried", "killed", "explained", "alive", "unfinished")


def mutants_table(results: Mapping[str, Any], known: Excuses) -> str:
    """Mistakes by folder: how many there are and were tried, and what became of these.

    "explained" are survivors with a written reason; of the others, which are "alive", "unfinished" have not met all
    tests that reach them.
    """
    rows: dict[str, Counter[str]] = {}
    for file, state in results.items():
        folder = file.partition("/")[0] if "/" in file else "others"
        rows.setdefault(folder, Counter()).update(_counts(state, known.get(file, {})))
    lines = ["| folder | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    total = sum(rows.values(), Counter[str]())
    for name, row in [*((f"`{folder}`", row) for folder, row in rows.items()), ("all", total)]:
        lines.append(f"| {name} | " + " | ".join(f"{row[column]:,}" for column in COLUMNS) + " |")
    return "\n".join(lines)


def _counts(state: Mapping[str, Any], known: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """The row of one file."""
    mistakes = state["mistakes"]
    alive = {name: one for name, one in mistakes.items() if not one["killed"]}
    open_ones = [one for name, one in alive.items() if explained(name, mistakes, known) is None]
    unfinished = sum(one["left"] > 0 or (one["fresh"] and not one["passed_fresh"]) for one in open_ones)
    numbers = (state["planned"], len(mistakes), len(mistakes) - len(alive), len(alive) - len(open_ones),
               len(open_ones), unfinished)  # fmt: skip
    return dict(zip(COLUMNS, numbers, strict=True))


CLASSES = {
    "equivalent": "the changed program computes the same",
    "hint": "only chooses: what is chosen is proved afterwards, so any choice holds",
    "margin": "rounding is counted more than once, and the rest still covers it",
    "speed": "only decides how much work is done",
    "tightness": "a bound that holds all the same, perhaps a wider one",
}


def classes_table(results: Mapping[str, Any], known: Excuses) -> str:
    """Why survivors live, by class, with their number and that of the reasons."""
    counts: dict[str, Counter[str]] = {}
    for file, state in results.items():
        for name, one in state["mistakes"].items():
            why = None if one["killed"] else explained(name, state["mistakes"], known.get(file, {}))
            if why is not None:
                counts.setdefault(why[0], Counter())[why[1]] += 1
    lines = ["| class | what it means | reasons | survivors |", "|---|---|---:|---:|"]
    lines += [
        f"| {kind} | {CLASSES.get(kind, '')} | {len(reasons)} | {reasons.total()} |"
        for kind, reasons in sorted(counts.items())
    ]
    return "\n".join(lines)


def render(results: Mapping[str, Any], mutants: Mapping[str, Any]) -> str:
    """The tables of a run, in Markdown."""
    parts = [campaign_table(results)] if results else []
    if mutants:
        known = excuses()
        parts += [mutants_table(mutants, known), classes_table(mutants, known)]
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
