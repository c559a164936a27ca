"""A figure for each section that has one: `drawn` makes SVG of it, with its values on hover."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jacobound.reports.figures import BLUE, GREY, VERMILION, logarithmic, new_figure
from jacobound.reports.page.markup import Markup
from jacobound.reports.page.sections import Accuracy, Brackets, Curve, Intervals
from jacobound.reports.page.svg import FOREGROUND, drawing, inline
from jacobound.words import cut, rounded_down, rounded_up

WIDTH = 5.0  # inches: a telephone shows letters of nine points at their size
COLOURS = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WORDS = {"increasing": BLUE, "decreasing": VERMILION, "both": "#009E73", "constant": FOREGROUND}
MOST_CURVES = len(COLOURS)
MOST_NAMES = 60  # of bars below each other
NAME = 22  # characters of a name beside an axis

Hover = dict[str, list[str]]


def drawn(figure: Callable[[], tuple[Figure, Hover]], prefix: str, label: str) -> Markup:
    """A figure as SVG.

    Args:
        figure: makes it, in the page's style; with the texts of its marks.
        prefix: of the ids on the page.
        label: what it is, in words.
    """
    with drawing():
        made, hover = figure()
        return inline(made, hover, prefix, label)


def curves_figure(curves: Sequence[tuple[str, Curve]]) -> tuple[Figure, Hover]:
    """Both proved ends of constants over radius; both axes logarithmic where no radius is 0.

    Values that are infinite or 0 have no place on a logarithmic axis and are left out.
    """
    figure = new_figure(WIDTH, 3.5)
    ax, hover = figure.add_subplot(), {}
    for k, (name, curve) in enumerate(curves):
        colour, points = COLOURS[k % MOST_CURVES], curve.sorted.points
        for end, words, style, opacity in ((2, "at most", "o-", 1.0), (1, "at least", "v--", 0.85)):
            shown = [point for point in points if 0 < point[end] < math.inf]
            if not shown:
                continue
            gid = f"marks{k}-{end}"
            texts = [f"radius {point[0]:.6g}: {words} {_safe(point[end], end == 2)} ({name})" for point in shown]
            places, values = [point[0] for point in shown], [point[end] for point in shown]
            legend = f"{cut(name, 48)}: {'upper' if end == 2 else 'lower'}"
            ax.plot(places, values, style, color=colour, markersize=4, alpha=opacity, gid=gid, label=legend)
            hover[gid] = texts
        both = [point for point in points if 0 < point[1] <= point[2] < math.inf]
        ax.fill_between(
            [p[0] for p in both], [p[1] for p in both], [p[2] for p in both], color=colour, alpha=0.12, lw=0
        )
    radii = [point[0] for _, curve in curves for point in curve.points]
    if radii and min(radii) > 0:
        ax.set_xscale("log")
        logarithmic(ax.xaxis, ax.get_xlim())
    if hover:
        ax.set_yscale("log")
        logarithmic(ax.yaxis, ax.get_ylim())
    ax.set_xlabel("radius")
    ax.set_ylabel("Lipschitz constant")
    _finish(ax)
    return figure, hover


def accuracy_figure(accuracies: Sequence[tuple[str, Accuracy]]) -> tuple[Figure, Hover]:
    """Shares of points that are certified (full) and that no attack moved (dashed), as steps over the radius."""
    figure = new_figure(WIDTH, 3.3)
    ax, hover = figure.add_subplot(), {}
    for k, (name, found) in enumerate(accuracies):
        colour = COLOURS[k % MOST_CURVES]
        ends = step_ends(found)
        for key, words, share, style, steps in (
            ("held", "certified", found.certified, "-", "steps-pre"),
            ("free", "not attacked", found.unattacked, "--", "steps-post"),
        ):
            radii = ends[key]
            shares = [share(radius) for radius in radii]
            gid, legend = f"marks{k}-{key}", f"{name}: {words}" if name else words
            how = {"color": colour, "marker": "o", "markersize": 2.5, "gid": gid, "label": cut(legend, 60)}
            ax.plot(radii, shares, style, drawstyle=steps, **how)
            hover[gid] = [f"radius {r:.6g}: {s:.1%} {words}" for r, s in zip(radii, shares, strict=True)]
    ax.set_ylim(-0.03, 1.03)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    ax.set_xlabel("radius")
    ax.set_ylabel("share of the points")
    _finish(ax)
    return figure, hover


def step_ends(found: Accuracy, most: int = 200) -> dict[str, list[float]]:
    """Radii at which the shares change, from 0 to the largest; of many points some of them.

    Certified shares are drawn as steps that end at these radii, so that between two of them the figure shows at most
    what is certified; shares of points that were not attacked as steps that begin at them, so that it shows at least
    what is left.
    """
    top = accuracy_radii(found, 2)[-1]
    changes = {
        "held": {0.0, top} | {value for value in found.held if 0 < value <= top},
        "free": {0.0, top} | {value for value in found.attacked if value <= top},
    }
    return {key: _thinned(sorted(radii), most) for key, radii in changes.items()}


def _thinned(radii: list[float], most: int) -> list[float]:
    """Evenly chosen ones of many, the first and the last among them."""
    count = len(radii)
    return radii if count <= most else [radii[k * (count - 1) // (most - 1)] for k in range(most)]


def accuracy_radii(found: Accuracy, count: int = 11) -> list[float]:
    """Evenly spaced radii from 0 to the largest at which something is known."""
    known = [value for value in (*found.held, *found.attacked) if math.isfinite(value)]
    top = max([*known, 0.0]) or 1.0
    return [top * k / (count - 1) for k in range(count)]


def pairs_figure(section: Brackets) -> tuple[Figure, Hover]:
    """The first number as a bar, the second as a tick, name by name from above."""
    count = min(len(section.names), MOST_NAMES)
    figure, ax = _names_below_each_other(section.names[:count])
    hover: Hover = {}
    finite = [k for k in range(count) if math.isfinite(section.first[k])]
    for k in finite:
        gid = f"bar{k}"
        label = section.words[0] if k == finite[0] else None
        (bar,) = ax.barh([k], [section.first[k]], color=BLUE, height=0.6, label=label)
        bar.set_gid(gid)
        hover[gid] = [f"{section.names[k]}: {section.words[0]} {rounded_down(section.first[k])}"]
    known = [k for k in range(count) if math.isfinite(section.second[k])]
    if known:
        values = [section.second[k] for k in known]
        ax.plot(values, known, "|", color=VERMILION, markersize=11, mew=2, label=section.words[1], gid="ticks")
        hover["ticks"] = [f"{section.names[k]}: {section.words[1]} {rounded_up(section.second[k])}" for k in known]
    ax.set_xlabel(section.axis)
    _finish(ax)
    return figure, hover


def intervals_figure(section: Intervals) -> tuple[Figure, Hover]:
    """Intervals name by name from above, coloured by their words or by whether the sign is certified."""
    count = min(len(section.names), MOST_NAMES)
    figure, ax = _names_below_each_other(section.names[:count])
    hover: Hover = {}
    seen: set[str] = set()
    for k in range(count):
        low, high = section.lower[k], section.upper[k]
        if not (math.isfinite(low) and math.isfinite(high)):
            continue
        certain = low > 0 or high < 0
        word = section.words[k] if section.words else f"sign {'' if certain else 'not '}certified"
        colour = WORDS.get(word, GREY) if section.words else BLUE if certain else GREY
        label = None if word in seen else word
        ax.plot([low, high], [k, k], "|-", color=colour, lw=3, markersize=8, mew=1.5, gid=f"span{k}", label=label)
        text = f"{section.names[k]}: {rounded_down(low)} to {rounded_up(high)}, {word}"
        hover[f"span{k}"] = [text, text]
        seen.add(word)
    ax.axvline(0.0, color=FOREGROUND, lw=0.8)
    ax.set_xlabel(section.axis)
    _finish(ax)
    return figure, hover


def _names_below_each_other(names: Sequence[str]) -> tuple[Figure, Axes]:
    """Axes with a line for each name, the first on top."""
    figure = new_figure(WIDTH, 1.2 + 0.2 * max(2, len(names)))
    ax = figure.add_subplot()
    ax.set_yticks(range(len(names)), [cut(name, NAME) for name in names])
    ax.set_ylim(max(1, len(names)) - 0.4, -0.6)
    return figure, ax


def _finish(ax: Axes) -> None:
    """A faint grid, and a legend below everything."""
    ax.grid(True, color=FOREGROUND, alpha=0.15, lw=0.6)
    ax.set_axisbelow(True)
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        columns = 2 if max(map(len, labels)) <= 30 else 1
        ax.figure.legend(loc="outside lower center", ncols=columns)


def _safe(value: float, upper: bool) -> str:
    return rounded_up(value) if upper else rounded_down(value)


def cell_texts(names: Sequence[str], lower: np.ndarray, upper: np.ndarray) -> list[str]:
    """What is shown at each cell of a map: its name and its bounds."""
    ends = zip(names, lower.ravel().tolist(), upper.ravel().tolist(), strict=True)
    return [f"{name}: {rounded_down(low)} to {rounded_up(high)}" for name, low, high in ends]
