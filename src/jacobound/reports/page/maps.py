"""Heat maps of Jacobian bounds: over an image, or a field for each row and named feature."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure

from jacobound.reports.figures import GREY, new_figure
from jacobound.reports.page.drawings import NAME, WIDTH, Hover, cell_texts
from jacobound.reports.page.sections import HeatMap
from jacobound.words import cut

LEVELS = 31  # of colour; a bar of more would be stored as a picture
FIELD = 0.23  # inches of a field with a name


def map_figure(section: HeatMap) -> tuple[Figure, Hover]:
    """The middle of the bounds in colours around zero, grey where the sign is not certified; of an image the half-width
    beside it.
    """
    lower, upper = np.asarray(section.lower, dtype=float), np.asarray(section.upper, dtype=float)
    middle = lower + (upper - lower) / 2
    certain = ((lower > 0) | (upper < 0)) & np.isfinite(middle)
    texts = cell_texts(_names(section, lower.shape), lower, upper)
    top = _top(np.abs(middle[certain]))
    colours = _colours(middle, "RdBu_r", -top, top)
    colours[~certain] = to_rgba(GREY)
    if section.columns:
        return _fields(section, colours, top, texts)
    figure = new_figure(WIDTH, 0.75 + 0.45 * WIDTH * min(2.0, lower.shape[0] / lower.shape[1]))
    left, right = figure.subplots(1, 2)
    hover = {"cells0": texts, "cells1": texts}
    _cells(left, colours, "cells0")
    _bar(figure, left, "RdBu_r", -top, top)
    left.set_title("middle (grey: sign not certified)", fontsize=8)
    half = (upper - lower) / 2
    most = _top(half[np.isfinite(half)])
    widths = _colours(half, "viridis", 0.0, most)
    widths[~np.isfinite(half)] = to_rgba(GREY)
    _cells(right, widths, "cells1")
    _bar(figure, right, "viridis", 0.0, most)
    right.set_title("half the distance of the bounds", fontsize=8)
    for ax in (left, right):
        ax.set_aspect("equal")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, hover


def _fields(section: HeatMap, colours: np.ndarray, top: float, texts: list[str]) -> tuple[Figure, Hover]:
    """A field for each row and column, with their names."""
    rows, columns = colours.shape[:2]
    beside = 0.085 * max([min(len(name), NAME) for name in section.rows], default=1)
    below = 0.07 * max([min(len(name), NAME) for name in section.columns], default=1)
    width = max(WIDTH, beside + 0.4 + FIELD * columns)
    figure = new_figure(width, 0.8 + below + FIELD * max(rows, 2))
    ax = figure.add_subplot()
    _cells(ax, colours, "cells0")
    ax.set_xticks(np.arange(columns) + 0.5, [cut(name, NAME) for name in section.columns], rotation=90)
    ax.set_yticks(np.arange(rows) + 0.5, [cut(name, NAME) for name in section.rows])
    ax.tick_params(length=0)
    _bar(figure, ax, "RdBu_r", -top, top)
    return figure, {"cells0": texts}


def _names(section: HeatMap, shape: tuple[int, ...]) -> Sequence[str]:
    """What each cell is called."""
    rows, columns = shape
    if section.columns:
        return [f"d {row} / d {column}" for row in section.rows for column in section.columns]
    return [f"{section.entry} / d pixel ({y}, {x})" for y in range(rows) for x in range(columns)]


def _top(values: np.ndarray) -> float:
    return float(values.max()) if values.size and values.max() > 0 else 1.0


def _colours(values: np.ndarray, name: str, low: float, high: float) -> np.ndarray:
    """Colours (rows, columns, 4) of a few levels."""
    shares = np.clip((values - low) / (high - low), 0.0, 1.0)
    return matplotlib.colormaps[name].resampled(LEVELS)(np.nan_to_num(shares, nan=0.5))


def _cells(ax: Axes, colours: np.ndarray, gid: str) -> None:
    """Rectangles in rows from above."""
    rows, columns = colours.shape[:2]
    corners = np.stack(np.meshgrid(np.arange(columns + 1.0), np.arange(rows + 1.0)), axis=-1)
    mesh = QuadMesh(corners, facecolors=colours.reshape(-1, 4), antialiased=False)
    mesh.set_gid(gid)
    ax.add_collection(mesh)
    ax.set_xlim(0, columns)
    ax.set_ylim(rows, 0)


def _bar(figure: Figure, ax: Axes, name: str, low: float, high: float) -> None:
    """What the colours mean."""
    scale = ScalarMappable(Normalize(low, high), matplotlib.colormaps[name].resampled(LEVELS))
    bar = figure.colorbar(scale, ax=ax, location="bottom", fraction=0.06, pad=0.03, aspect=30)
    bar.ax.locator_params(nbins=5)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)  # type: ignore[operator]
