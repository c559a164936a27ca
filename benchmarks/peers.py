"""What other tools gave for the same network, point, radius and question; read from the reference data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUESTIONS = ("row", "rows", "full")
TOOLS = ("auto_LiRPA", "auto_LiRPA, alpha", "RecurJac, reference code", "branch and bound")
ATTAINED = Path(__file__).parent / "attained.json"
"""The largest values known to be reached, by the network's point and radius: ascents and leaves of branch and bound."""


def peer_results(data: Path | None) -> dict[str, dict[str, dict[str, dict[str, dict[str, float | None]]]]]:
    """Numbers by question, name of the network's point, radius and tool.

    The questions: "row", the largest l1 norm of one output's gradient over an l_inf ball; "rows", the same for all
    outputs, of which the largest is compared; "full", all entries of the Jacobian, compared by the largest row sum of
    their absolute bounds. "attained" is a value that the network reaches: no correct bound lies below it.

    Returns:
        ``found[question][point][radius][tool]`` with "bound", "cpu" (seconds of one thread) and "megabytes".
    """
    found: dict[str, Any] = {question: {} for question in QUESTIONS}
    path = None if data is None else data / "reference" / "peers" / "results.json"
    if path is None or not path.is_file():
        return found
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        for question, tool, entry in _entries(row):
            cell = found[question].setdefault(row["net"], {}).setdefault(str(row["eps"]), {})
            # Measured twice: the faster one counts.
            if tool not in cell or (entry["cpu"] or 0.0) < (cell[tool]["cpu"] or 0.0):
                cell[tool] = entry
    return found


def with_attained(others: dict[str, Any]) -> dict[str, Any]:
    """What other tools gave, with the largest stored value that the network reaches in every cell of question "row".

    A value that is reached in a ball is reached in every larger one.
    """
    known = json.loads(ATTAINED.read_text(encoding="utf-8"))["values"]
    row = {point: {radius: dict(cell) for radius, cell in cells.items()} for point, cells in others["row"].items()}
    for point, values in known.items():
        for radius, value in values.items():
            stored = row.setdefault(point, {}).setdefault(radius, {}).get("attained", {"bound": 0.0})
            row[point][radius]["attained"] = {"bound": max(value, stored["bound"]), "cpu": None, "megabytes": None}
    for cells in row.values():
        largest = 0.0
        for radius in sorted(cells, key=float):
            if "attained" in cells[radius]:
                largest = max(largest, cells[radius]["attained"]["bound"])
                cells[radius]["attained"] = {**cells[radius]["attained"], "bound": largest}
    return {**others, "row": row}


def _entries(row: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, float | None]]]:
    """The comparable numbers of one stored run: (question, tool, numbers); only those of the first point."""
    if row.get("idx") != 0 or "eps" not in row:
        return
    tool, cpu, memory = row["tool"], row.get("cpu_s", row.get("time_s")), row.get("rss_mb")
    question = {"l1_grad_fc_over_linf_ball": "row", "elementwise_jacobian": "full"}.get(row.get("quantity", ""))
    if tool.startswith("attained"):
        yield "row", "attained", {"bound": row["value"], "cpu": None, "megabytes": None}
    elif tool.startswith("auto_LiRPA") and question:
        name = "auto_LiRPA, alpha" if row.get("optimize") else "auto_LiRPA"
        value = row["value"] if question == "row" else row["all_rows"]["linf_linf"]
        yield question, name, {"bound": value, "cpu": cpu, "megabytes": memory}
    elif tool.startswith("LocalLip-BaB") and row.get("value") is not None:
        yield "row", "branch and bound", {"bound": row["value"], "cpu": cpu, "megabytes": memory}
    elif tool == "RecurJac-ref" and question == "row":
        yield "row", "RecurJac, reference code", {"bound": row["value"], "cpu": cpu, "megabytes": memory}
        if "all_rows" in row:
            cpu = row.get("cpu_all_s", row.get("time_all_s"))
            entry = {"bound": row["all_rows"]["linf_linf"], "cpu": cpu, "megabytes": memory}
            yield "rows", "RecurJac, reference code", entry
