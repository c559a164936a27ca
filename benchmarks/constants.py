"""Global constants from l_2 to l_2: every method beside other tools, and how cost and value grow with the network."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.layout import circumstances, table
from benchmarks.plan import GLOBAL_SECONDS, GROWTH_SECONDS, NETWORKS, Task
from benchmarks.sdp import BELOW, WORDS_BELOW, below

METHODS = ("AutoLip", "SeqLip", "ECLipsE", "LipSDP")
TOOLS = {
    "ECLipsE-Fast (eclipse-nn 0.1.7)": "ECLipsE-Fast",
    "LipSDP-Neuron (cvxpy, CLARABEL)": "LipSDP-Neuron, Clarabel",
    "lower bound (max at 300 points)": "attained",
}
OTHERS = tuple(name for name in TOOLS.values() if name != "attained")


def measured(task: Task) -> dict[str, Any]:
    """Value, CPU seconds and status of every method, each with a time limit of its own, of the default; a lower end."""
    from benchmarks.problems import problem

    return _bracketed(problem(task.name).graph, task.seconds or GLOBAL_SECONDS)


def grown(task: Task) -> dict[str, Any]:
    """What `measured` tells, of a random network; the name says its shape: "width 200" or "depth 10"."""
    import torch

    import jacobound as jb

    kind, _, number = task.name.partition(" ")
    hidden = [int(number)] * 2 if kind == "width" else [50] * int(number)
    widths = [100, *hidden, 10]
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(after, before, generator=generator, dtype=torch.float64) * math.sqrt(2 / before)
        for before, after in itertools.pairwise(widths)
    ]
    return _bracketed(jb.from_layers(weights, activation="relu"), task.seconds or GROWTH_SECONDS)


def _bracketed(graph: Any, seconds: float) -> dict[str, Any]:
    """Upper ends of every method, and the lower end that a search proves within the same time."""
    import jacobound as jb

    whole = jb.lipschitz(graph, jb.WholeSpace(), jb.AutoLip(), norm=(2, 2), budget=jb.Budget(cpu_seconds=seconds))
    return {"methods": _methods(graph, seconds), "lower": float(whole.lower)}


def _methods(graph: Any, seconds: float) -> dict[str, Any]:
    import jacobound as jb
    from benchmarks import measure

    found: dict[str, Any] = {}
    for name in (*METHODS, "default"):
        method = None if name == "default" else getattr(jb, name)()
        samples = measure.Samples()
        try:
            bound = samples.time(
                lambda method=method: jb.lipschitz(
                    graph, jb.WholeSpace(), method, norm=(2, 2), search=None, budget=jb.Budget(cpu_seconds=seconds)
                )
            )
        except jb.UnsupportedOpError:
            continue
        found[name] = {
            "bound": float(bound.upper),
            **samples.summary(),
            "status": bound.status.name.lower(),
            "winner": bound.method,
        }
    return found


def others(data: Path | None) -> dict[str, dict[str, dict[str, float]]]:
    """What other tools gave: by the network's point, tool, then "bound" and "cpu"."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    path = None if data is None else data / "reference" / "peers" / "results.json"
    if path is None or not path.is_file():
        return found
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if row.get("quantity") == "global_l2_l2" and row["tool"] in TOOLS and row.get("value"):
            entry = {"bound": row["value"], "cpu": row["cpu_s"]}
            found.setdefault(row["net"], {})[TOOLS[row["tool"]]] = entry
    return found


def rendered(runs: list[dict[str, Any]], growth: list[dict[str, Any]], known: dict[str, Any]) -> list[str]:
    """The tables."""
    parts = []
    if runs:
        parts += [
            "## Global constants from l_2 to l_2",
            f"Each cell: certified constant, and CPU seconds of one thread; a star says that the limit of "
            f"{runs[0]['task']['seconds']:g} CPU s cut the search short. `default` is `lipschitz` without a method and "
            f"the same limit. The other tools' numbers are stored with the results; they do not account for rounding. "
            f"{WORDS_BELOW}",
            circumstances(runs),
            table(("network", "default", *METHODS, *OTHERS, *BELOW), _rows(runs, known, OTHERS)),
        ]
    if growth:
        parts += [
            "## How constants from l_2 to l_2 grow",
            f"Random ReLU networks of 100 inputs and 10 outputs: two hidden layers of some width, or hidden layers of "
            f"50 neurons in some number. Time limit {growth[0]['task']['seconds']:g} CPU s for each method; `lower` is "
            "proved.",
            circumstances(growth),
            table(("hidden", "default", *METHODS, BELOW[0]), (row[:-1] for row in _rows(growth, {}, ()))),
        ]
    return parts


def _rows(runs: list[dict[str, Any]], known: dict[str, Any], tools: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for run in runs:
        name = run["task"]["name"]
        theirs = known.get(NETWORKS[name].point or "", {}) if name in NETWORKS else {}
        ours = (_cell(run["methods"].get(method)) for method in ("default", *METHODS))
        yield (name, *ours, *(_cell(theirs.get(tool)) for tool in tools), *below(run, theirs))


def _cell(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    star = "" if entry.get("status", "certified") == "certified" else "*"
    return f"{entry['bound']:.4g}{star}, {entry['cpu']:.2g} s"


def draw(growth: list[dict[str, Any]], path: Path) -> None:
    """Value over the product of norms, and CPU seconds, over width and depth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, sharex="col")
    for column, kind in enumerate(("width", "depth")):
        runs = [run for run in growth if run["task"]["name"].startswith(kind)]
        if not runs:
            continue  # an empty panel has no logarithmic scale
        for name in METHODS:
            points = [
                (int(run["task"]["name"].split()[1]), run["methods"][name], run["methods"]["AutoLip"]["bound"])
                for run in runs
                if math.isfinite(run["methods"].get(name, {"bound": math.inf})["bound"])
            ]
            numbers = [number for number, _, _ in points]
            axes[0, column].plot(numbers, [one["bound"] / plain for _, one, plain in points], "o-", label=name)
            axes[1, column].plot(numbers, [max(one["cpu"], 1e-3) for _, one, _ in points], "o-", label=name)
        axes[1, column].set_xlabel("neurons in each of two hidden layers" if kind == "width" else "hidden layers of 50")
        for row in range(2):
            axes[row, column].set_xscale("log")
            axes[row, column].set_yscale("log")
            axes[row, column].grid(alpha=0.3)
    axes[0, 0].set_ylabel("certified constant / AutoLip")
    axes[1, 0].set_ylabel("CPU seconds (one thread)")
    axes[0, 0 if not axes[0, 1].lines else 1].legend()
    figure.suptitle("Certified l2 constants of random ReLU networks")
    figure.savefig(path)
