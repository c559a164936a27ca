"""What other tools gave for the same network, point, radius and question; read from the reference data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

QUESTIONS = ("row", "rows", "full")
TOOLS = ("auto_LiRPA", "auto_LiRPA, alpha", "RecurJac, reference code", "branch and bound", "attained")


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
