"""The default beside RecurJac and other tools: the l_1 norm of one output's gradient, at many radii."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from benchmarks.layout import circumstances, table
from benchmarks.plan import NETWORKS, Task

TOOLS = ("auto_LiRPA", "auto_LiRPA, alpha", "branch and bound")
LIMIT = 10.0
"""CPU seconds of the default, which are its own limit of time on an idle machine."""
BELOW = ("`lower`", "attained elsewhere")
LIMIT = 10.0
"""CPU seconds of the default, which are its own limit of time on an idle machine."""
WORDS_BELOW = (
    "`lower` is proved by this library at a point of the region; `attained elsewhere` is the largest value that other "
    "tools and searches reached, in plain float64, where it is larger. The truth lies between these and every bound."
)


def measured(task: Task) -> dict[str, Any]:
    """Bounds, seconds and states of the default with its own time limit, and what it found of RecurJac.

    Seconds and upper bounds are those of a call that does not search from below; ``lower`` is what the complete call
    proves.
    """
    import jacobound as jb
    from benchmarks import measure
    from benchmarks.problems import problem

    one, limit = problem(task.name), jb.Budget(cpu_seconds=LIMIT)
    found: dict[str, Any] = {}
    for radius in task.radii:
        samples, ball = measure.Samples(), one.ball(radius)
        bound = samples.time(
            lambda ball=ball: jb.lipschitz(
                one.graph, ball, norm=(math.inf, math.inf), rows=one.row(), search=None, budget=limit
            )
        )
        whole = jb.lipschitz(one.graph, ball, norm=(math.inf, math.inf), rows=one.row(), budget=limit)
        found[str(radius)] = {
            "default": {"bound": float(bound.upper), **samples.summary()},
            "lower": float(whole.lower),
            "recurjac": {"bound": float(bound.details["RecurJac"].value)},
            "winner": bound.method,
            "status": bound.status.name.lower(),
            "unstable": int(bound.unstable),
        }
    return {"radii": found, "megabytes_peak": measure.peak_megabytes()}


def rendered(runs: list[dict[str, Any]], others: dict[str, Any]) -> list[str]:
    """The table, with a sentence on what it shows."""
    if not runs:
        return []
    lines = []
    for name, radius, entry, theirs in cells(runs, others):
        least = min((theirs[tool]["bound"] for tool in TOOLS if tool in theirs), default=math.inf)
        ours = entry["default"]["bound"]
        lines.append(
            (
                name,
                radius,
                str(entry["unstable"]),
                f"{ours:.4g}",
                f"{entry['default']['cpu']:.2f}",
                f"{entry['winner']}, {entry['status'].replace('_', ' ')}",
                f"{entry['recurjac']['bound']:.4g}",
                f"{ours / entry['recurjac']['bound']:.3f}",
                *(f"{theirs[tool]['bound']:.4g}" if tool in theirs else "" for tool in TOOLS),
                "" if ours <= least * 1.001 else "other tool",
                *below(entry, theirs),
            )
        )
    means = ", ".join(
        f"{geometric_mean(found):.3f} of {name} ({len(found)} rows, {sum(x > 1.001 for x in found)} above)"
        for name, found in ratios(runs, others).items()
    )
    head = (
        "network",
        "radius",
        "unstable",
        "default",
        "CPU s",
        "winner",
        "RecurJac",
        "ratio",
        *TOOLS,
        "smallest",
        *BELOW,
    )
    return [
        "## The smallest certified constant: the l_1 norm of one output's gradient over an l_inf ball",
        f"`default` is `lipschitz` without a method, with a limit of {LIMIT:g} CPU seconds. Geometric means of its "
        f"bound over others: {means}. {WORDS_BELOW}",
        circumstances(runs),
        table(head, lines),
    ]


def below(entry: dict[str, Any], theirs: dict[str, Any]) -> tuple[str, str]:
    """The proved lower end, and the stored attained value where that is larger; "" for what is not known."""
    ours, other = entry.get("lower"), theirs.get("attained", {}).get("bound")
    shown = other is not None and (ours is None or f"{other:.4g}" != f"{ours:.4g}") and other > (ours or 0.0)
    return "" if ours is None else f"{ours:.4g}", f"{other:.4g}" if shown else ""


def ratios(runs: list[dict[str, Any]], others: dict[str, Any]) -> dict[str, list[float]]:
    """The default over what it is compared with, one number for every network and radius that both have done."""
    found: dict[str, list[float]] = {}
    for _, _, entry, theirs in cells(runs, others):
        compared = {"RecurJac": entry["recurjac"], **theirs}
        for name, other in compared.items():
            if name in ("RecurJac", *TOOLS) and other["bound"]:
                found.setdefault(name, []).append(entry["default"]["bound"] / other["bound"])
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
