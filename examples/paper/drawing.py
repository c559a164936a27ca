"""Figures without a screen: panels, a palette for any kind of colour vision, legends below the axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito.
BLACK, BLUE, VERMILION, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY, GREY = "#E69F00", "#CC79A7", "#56B4E9", "#777777"


def panels(rows: int, columns: int, width: float = 5.4, height: float = 3.9) -> tuple[Figure, list[Any]]:
    """A figure and its axes in reading order; width and height of one panel in inches."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def save(figure: Figure, axes: list[Any], path: Path, columns: int = 4) -> None:
    """One legend below all panels, a grid in each; written as SVG and PNG."""
    known: dict[str, Any] = {}
    for panel in axes:
        panel.minorticks_off()  # half of the size of the SVG
        panel.grid(True, which="major", alpha=0.3)
        handles, names = panel.get_legend_handles_labels()
        known |= {name: handle for handle, name in zip(handles, names, strict=True) if name not in known}
    figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=columns, frameon=False)
    with rc_context({"svg.hashsalt": path.stem}):  # the same file for the same numbers
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
