"""`LipSDP` beside RecurJac and other tools: the l_1 norm of one output's gradient, over l_inf balls of many radii."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from benchmarks.layout import table
from benchmarks.plan import NETWORKS, SDP_SECONDS, Task

TOOLS = ("auto_LiRPA", "auto_LiRPA, alpha", "branch and bound")


def measured(task: Task) -> dict[str, Any]:
    """Bounds, seconds and states of `LipSDP` and of RecurJac with the same ranges, radius by radius."""
    import jacobound as jb
    from benchmarks import measure
    from benchmarks.problems import problem
    from jacobound.methods.constants import from_entries

    one = problem(task.name)
    graph, norm = one.graph.with_rows(one.row()), (math.inf, math.inf)
    found: dict[str, Any] = {}
    for radius in task.radii:
        (domain,), _ = one.ball(radius).domains(graph)
        budget = jb.Budget()
        shared = jb.CROWN().ranges(graph, domain, budget, with_output=False)
        ranges = {node: values[0] for node, values in shared.items()}
        samples, bounds = {"sdp": measure.Samples(), "recurjac": measure.Samples()}, {}

        def certificates(domain: Any = domain, ranges: Any = ranges, bounds: Any = bounds) -> None:
            method = jb.LipSDP(seconds=SDP_SECONDS)
            bounds["sdp"] = method.constant(graph, domain, norm, jb.Budget(), ranges)

        def entries(domain: Any = domain, bounds: Any = bounds) -> None:
            bounds["recurjac"] = from_entries(jb.RecurJac().enclose(graph, domain, jb.Budget()), *norm)

        samples["sdp"].time(certificates)
        samples["recurjac"].time(entries)
        unstable = sum(int((slope.lower != slope.upper).sum()) for slope in bounds["sdp"].slopes.values())
        found[str(radius)] = {
            "sdp": {"bound": float(bounds["sdp"].value), **samples["sdp"].summary()},
            "recurjac": {"bound": float(bounds["recurjac"]), **samples["recurjac"].summary()},
            "status": bounds["sdp"].status.name.lower(),
            "unstable": unstable,
        }
    return {"radii": found, "megabytes_peak": measure.peak_megabytes()}


def rendered(runs: list[dict[str, Any]], others: dict[str, Any]) -> list[str]:
    """The table, with a sentence on what it shows."""
    if not runs:
        return []
    lines = []
    for name, radius, entry, theirs in cells(runs, others):
        least = min((theirs[tool]["bound"] for tool in TOOLS if tool in theirs), default=math.inf)
        ours = entry["sdp"]["bound"]
        lines.append(
            (
                name,
                radius,
                str(entry["unstable"]),
                f"{ours:.4g}",
                f"{entry['sdp']['cpu']:.2f}",
                entry["status"].replace("_", " "),
                f"{entry['recurjac']['bound']:.4g}",
                f"{ours / entry['recurjac']['bound']:.3f}",
                *(f"{theirs[tool]['bound']:.4g}" if tool in theirs else "" for tool in TOOLS),
                "" if ours <= least * 1.001 else "other tool",
            )
        )
    means = ", ".join(
        f"{geometric_mean(found):.3f} of {name} ({len(found)} rows, {sum(x > 1.001 for x in found)} above)"
        for name, found in ratios(runs, others).items()
    )
    head = ("network", "radius", "unstable", "LipSDP", "CPU s", "status", "RecurJac", "ratio", *TOOLS, "smallest")
    return [
        "### Semidefinite certificates: the l_1 norm of one output's gradient over an l_inf ball",
        f"`LipSDP` with {SDP_SECONDS:g} seconds for each, besides the pre-activation bounds that RecurJac takes as "
        f"well. Geometric means: {means}.",
        table(head, lines),
    ]


def ratios(runs: list[dict[str, Any]], others: dict[str, Any]) -> dict[str, list[float]]:
    """`LipSDP` over what it is compared with, one number for every network and radius that both have done."""
    found: dict[str, list[float]] = {}
    for _, _, entry, theirs in cells(runs, others):
        compared = {"RecurJac": entry["recurjac"], **theirs}
        for name, other in compared.items():
            if name in ("RecurJac", *TOOLS) and other["bound"]:
                found.setdefault(name, []).append(entry["sdp"]["bound"] / other["bound"])
    return found


def cells(
    runs: list[dict[str, Any]], others: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Network, radius, what was measured, and what other tools gave, row by row."""
    for run in runs:
        name = run["task"]["name"]
        point = NETWORKS[name].point if name in NETWORKS else None
        for radius, entry in run["radii"].items():
            yield name, radius, entry, others.get(point or "", {}).get(radius, {})


def geometric_mean(numbers: list[float]) -> float:
    return math.exp(sum(map(math.log, numbers)) / len(numbers))
