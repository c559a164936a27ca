"""Aligned Markdown tables, and the sentence on where their numbers were measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

IDLE = 0.1
"""Processors that other programs may keep busy, in the mean, before a measurement counts as one on a shared machine."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns padded to one width; columns whose first cell is a number are set right."""
    body = [tuple(row) for row in rows]
    columns = list(zip(header, *body, strict=True))
    widths = [max(3, *(len(cell) for cell in column)) for column in columns]
    right = [len(column) > 1 and column[1][:1].isdigit() for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(cells, widths, right, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = (f"{'-' * (width - 1)}:" if flush else "-" * width for width, flush in zip(widths, right, strict=True))
    return "\n".join([line(header), f"| {' | '.join(rule)} |", *(line(row) for row in body)])


def circumstances(runs: Sequence[Mapping[str, Any]]) -> str:
    """Machines and days of some measurements, and whether other programs ran meanwhile."""
    machines: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        where = run["where"]
        machine = f"{where['cpu']} ({where['cores']} cores, {where['simd']})"
        name = f"{machine}, Python {where['python']}, torch {where['torch']}"
        machines.setdefault(name, []).append(where)
    return "Measured on " + "; and on ".join(
        f"{name}{_count(found, runs)}, {_days(found)}: {_company(found)}" for name, found in machines.items()
    )


def _count(found: Sequence[Any], runs: Sequence[Any]) -> str:
    return "" if len(found) == len(runs) else f" ({len(found)} of {len(runs)} measurements)"


def _days(found: Sequence[Mapping[str, Any]]) -> str:
    days = sorted({where["date"] for where in found})
    return days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"


def _company(found: Sequence[Mapping[str, Any]]) -> str:
    busy = [where["others"] for where in found]
    if any(value is None for value in busy):
        return "whether other programs ran was not recorded, so seconds may be those of a shared machine."
    if max(busy) < IDLE:
        return "nothing else ran, so seconds are those of the machine alone."
    idle = sum(value < IDLE for value in busy)
    return (
        f"other programs kept {min(busy):.1f} to {max(busy):.1f} processors busy (nothing else ran in {idle} of "
        f"{len(busy)} measurements), so seconds are upper ends of what the machine needs alone."
    )
