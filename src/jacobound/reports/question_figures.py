"""Figures of the answers to questions: robust radii, landscapes, monotone features."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from jacobound.errors import ShapeError
from jacobound.inputs.exponents import told_norm
from jacobound.reports.shown import Features, Landscape, Margins, Radius

BLUE, VERMILION, GREY, GREEN = "#0072B2", "#D55E00", "#bdbdbd", "#009E73"
COLOURS = {"increasing": BLUE, "decreasing": VERMILION, "both": GREEN, "constant": "black", "undecided": GREY}


def draw_radius(found: Radius, ax: Axes) -> Axes:
    """Certified radii as bars and nearest attacks as ticks, over the points, or over the targets of a single point."""
    alone = found.label.numel() == 1
    held = _numbers(found.radius if alone else found.untargeted)
    reached = _numbers(found.attack_radius if alone else found.untargeted_attack)
    names = [str(target) for target in found.targets.flatten().tolist()] if alone else None
    _bars(held, reached, names, ("certified", "attacked"), ax)
    ax.set_xlabel("target class" if alone else "point")
    ax.set_ylabel(f"{told_norm(found.p)} radius")
    title = f"Radii within which class {int(found.label)} holds" if alone else "Radii within which decisions hold"
    ax.set_title(title)
    return ax


def draw_landscape(found: Landscape, ax: Axes) -> Axes:
    """Radii without zero gradients as bars and radii with one as ticks, over the rows at the first point."""
    first = (0,) * (found.radius.dim() - 1)
    held, gone = _numbers(found.radius[first]), _numbers(found.vanishing_radius[first])
    _bars(held, gone, None, ("no zero gradient within", "a zero gradient within"), ax)
    ax.set_xlabel("row")
    ax.set_ylabel(f"{told_norm(found.p)} radius")
    ax.set_title("Radius without stationary points")
    return ax


def draw_features(found: Features, row: int, ax: Axes) -> Axes:
    """Bounds of the derivatives of one row over the first box, coloured by the answer.

    Raises:
        ShapeError: when there is no such row.
    """
    lead = found.boxes.dim()
    rows = found.lower.shape[lead]
    if not isinstance(row, int) or not 0 <= row < rows:
        raise ShapeError(f"there is no row {row}: these are about the rows 0 to {rows - 1}")
    place = (0,) * lead + (row,)
    low, high = _numbers(found.lower[place]), _numbers(found.upper[place])
    words = np.array(found.words()[row * len(low) : (row + 1) * len(low)])
    index = np.arange(len(low))
    for word, colour in COLOURS.items():
        mask = words == word
        if mask.any():
            ax.vlines(
                index[mask], low[mask], high[mask], color=colour, lw=min(6.0, max(0.8, 200 / len(index))), label=word
            )
    ax.axhline(0.0, color="black", lw=0.6)
    ax.set_xlabel("input")
    ax.set_ylabel("derivative")
    ax.set_title(f"Row {row}: certified bounds of the derivative by each input")
    _legend(ax)
    return ax


def draw_verdict(found: Margins, ax: Axes) -> Axes:
    """The certified bracket of the least margin, and 0, at and below which a property is violated."""
    low, high = float(found.lower), float(found.upper)
    ends = [end for end in (low, high) if np.isfinite(end)]
    if len(ends) == 2:
        ax.hlines(0.0, low, high, color=BLUE, lw=4)
    if np.isfinite(low):
        ax.plot([low], [0.0], "|", color=BLUE, markersize=18, mew=3, label="certified: no point is lower")
    if np.isfinite(high):
        ax.plot([high], [0.0], "|", color=VERMILION, markersize=18, mew=3, label="reached at the witness")
    ax.axvline(0.0, color="black", lw=0.8)
    ax.set_yticks([])
    ax.set_xlabel("margin: a violation where it is 0 or less")
    ax.set_title(found.headline().partition(";")[0])
    _legend(ax)
    return ax


def _bars(held: np.ndarray, reached: np.ndarray, names: list[str] | None, words: tuple[str, str], ax: Axes) -> None:
    index = np.arange(len(held))
    finite = np.isfinite(held)
    ax.bar(index[finite], held[finite], color=BLUE, label=words[0])
    known = np.isfinite(reached)
    ax.plot(index[known], reached[known], "_", color=VERMILION, markersize=12, mew=2, label=words[1])
    if names is not None and len(names) <= 30:
        ax.set_xticks(index, names)
    _legend(ax)


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, frameon=False, fontsize="small")


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().cpu().double().flatten().numpy()
