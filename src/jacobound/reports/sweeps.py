"""Figures of a sweep's rows: constants and certified accuracy over the radius."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from jacobound.errors import InvalidResultError
from jacobound.reports.figures import new_figure

# Colours that people with any kind of colour vision can tell apart (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
CURVE = ("model", "ball", "p", "q", "rows", "method")
Rows = Sequence[Mapping[str, Any]]


def plot_constants(rows: Rows, ax: Axes | None = None) -> Axes:
    """Medians of both ends over the points, for each model, norms, rows and method; see `Sweep.plot_constants`."""
    used = [row for row in rows if row.get("ask") == "lipschitz" and row.get("radius") is not None and "upper" in row]
    used = [row for row in used if row["upper"] is not None and math.isfinite(row["upper"]) and row.get("certified")]
    if not used:
        raise InvalidResultError("the sweep holds no certified constants over balls; ask = 'lipschitz' with radii")
    ax = new_figure().add_subplot() if ax is None else ax
    for k, (name, curve) in enumerate(_curves(used).items()):
        colour, radii = COLOURS[k % len(COLOURS)], sorted({row["radius"] for row in curve})
        ends = {end: [[row[end] for row in curve if row["radius"] == r] for r in radii] for end in ("upper", "lower")}
        upper, lower = ([float(np.median(x)) for x in ends[end]] for end in ("upper", "lower"))
        ax.plot(radii, upper, color=colour, marker="o", label=name or "upper")
        ax.plot(radii, lower, color=colour, marker="o", linestyle=":", fillstyle="none")
        ax.fill_between(
            radii, [min(x) for x in ends["upper"]], [max(x) for x in ends["upper"]], color=colour, alpha=0.15
        )
    ax.set(xlabel="radius", ylabel="Lipschitz constant (line: proved upper end, dots: proved lower end)")
    if all(row["radius"] > 0 for row in used):
        ax.set_xscale("log")
    if all(row["lower"] > 0 for row in used):
        ax.set_yscale("log")
    ax.legend()
    return ax


def plot_accuracy(rows: Rows, ax: Axes | None = None) -> Axes:
    """The share of points that are certified at each radius, and of those not attacked; see `Sweep.plot_accuracy`."""
    used = [row for row in rows if row.get("ask") == "robust_radius" and row.get("radius") is not None]
    if not used:
        raise InvalidResultError("the sweep holds no robust radii; ask = 'robust_radius'")
    ax = new_figure().add_subplot() if ax is None else ax
    for k, (name, curve) in enumerate(_curves(used).items()):
        points: dict[object, list[Mapping[str, Any]]] = defaultdict(list)
        for row in curve:
            points[row["task"]].append(row)
        held = [min(row["radius"] if row.get("certified") else 0.0 for row in one) for one in points.values()]
        broken = [min(row["attack_radius"] for row in one) for one in points.values()]
        colour = COLOURS[k % len(COLOURS)]
        _steps(ax, held, {"color": colour, "label": f"{name} certified".strip()})
        _steps(ax, broken, {"color": colour, "label": f"{name} not attacked".strip(), "linestyle": ":"})
    ax.set(xlabel="radius", ylabel="share of points", ylim=(0, 1.02))
    ax.legend()
    return ax


def _curves(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each curve, named by the columns in which curves differ."""
    told = [name for name in CURVE if len({row.get(name) for row in rows}) > 1]
    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        found[", ".join(str(row.get(name)) for name in told)].append(row)
    return dict(found)


def _steps(ax: Axes, radii: Sequence[float], style: Mapping[str, Any]) -> None:
    """The share of points whose radius is above x."""
    finite = sorted(r for r in radii if math.isfinite(r))
    shares = [1 - k / len(radii) for k in range(len(finite) + 1)]
    ax.step([0.0, *finite], [shares[0], *shares[1:]] if finite else shares, where="post", **style)
