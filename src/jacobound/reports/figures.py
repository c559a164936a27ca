"""A figure for each kind of result: every function draws on the axes it is given and returns them.

Without axes a new figure is made on the Agg canvas, so that no window and no global state of pyplot is involved; save
it with ``axes.figure.savefig(...)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from torch import Tensor

from jacobound.errors import ShapeError
from jacobound.inputs.exponents import Norm, plain_exponent
from jacobound.reports.question_figures import draw_features, draw_landscape, draw_radius, draw_verdict
from jacobound.reports.shown import Bracket, Entries, Features, Landscape, Margins, Outputs, Radius

# Colours that people with any kind of colour vision can tell apart (Okabe and Ito).
BLUE = "#0072B2"
VERMILION = "#D55E00"
GREY = "#bdbdbd"


def new_figure(width: float = 6.4, height: float = 4.4) -> Figure:
    """An empty figure that needs no screen, width and height in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot_jacobian(bounds: Entries, row: int = 0, ax: Axes | None = None, shape: tuple[int, ...] | None = None) -> Axes:
    """Certified bounds of one row of the Jacobian, for the first point and radius.

    An image shows the middle of the bounds, grey where the sign is not certified; other inputs show every entry as a
    bar from its lower to its upper bound.

    Args:
        bounds: what `bound_jacobian` returned.
        row: which row.
        ax: where to draw; None for a new figure.
        shape: how the inputs are arranged, (height, width); None for the input's own shape.

    Returns:
        The axes.

    Raises:
        ShapeError: when there is no such row or the shape does not fit.
    """
    lower, upper = row_bounds(bounds, row)
    ax = new_figure().add_subplot() if ax is None else ax
    picture = _picture(lower, shape)
    if picture is None:
        _bars(lower.flatten(), upper.flatten(), ax)
        ax.set_title(f"Jacobian row {row}: certified bounds")
    else:
        draw_middle(lower.reshape(picture), upper.reshape(picture), ax)
        ax.set_title(f"Jacobian row {row}: middle of the certified bounds")
    return ax


def plot_output(bounds: Outputs, ax: Axes | None = None) -> Axes:
    """Certified bounds of every output, for the first point and radius, as bars; blue where the sign is certified.

    Args:
        bounds: what `bound_output` returned.
        ax: where to draw; None for a new figure.

    Returns:
        The axes.
    """
    ax = new_figure().add_subplot() if ax is None else ax
    first = (0,) * len(bounds.lead)
    lower, upper = (end[first].detach().cpu().double().flatten() for end in (bounds.lower, bounds.upper))
    _bars(lower, upper, ax)
    ax.set_xlabel("output")
    ax.set_ylabel("value")
    ax.set_title("Certified bounds of the outputs")
    return ax


def plot_radius(found: Radius, ax: Axes | None = None) -> Axes:
    """Certified radii and nearest attacks; a new figure without `ax`."""
    return draw_radius(found, new_figure().add_subplot() if ax is None else ax)


def plot_landscape(found: Landscape, ax: Axes | None = None) -> Axes:
    """Radii without zero gradients; a new figure without `ax`."""
    return draw_landscape(found, new_figure().add_subplot() if ax is None else ax)


def plot_features(found: Features, row: int = 0, ax: Axes | None = None) -> Axes:
    """Bounds of the derivatives of a row; a new figure without `ax`."""
    return draw_features(found, row, new_figure().add_subplot() if ax is None else ax)


def plot_verdict(found: Margins, ax: Axes | None = None) -> Axes:
    """The certified bracket of the least margin beside 0; a new figure without `ax`."""
    return draw_verdict(found, new_figure(6.4, 2.2).add_subplot() if ax is None else ax)


def row_bounds(bounds: Entries, row: int) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds of one row for the first point and radius, float64 on the CPU, of the input's shape."""
    lead = bounds.unstable.dim()
    count = bounds.lower.shape[lead]
    if not 0 <= row < count:
        raise ShapeError(f"there is no row {row}: these bounds have the rows 0 to {count - 1}")
    lower, upper = (end.detach().to("cpu", torch.float64)[(0,) * lead + (row,)] for end in (bounds.lower, bounds.upper))
    return lower, upper


def draw_middle(lower: Tensor, upper: Tensor, ax: Axes) -> Any:
    """The middle of the bounds as an image with its colour bar, grey where the sign is not certified; the image."""
    middle = (lower + (upper - lower) / 2).numpy()
    unknown = ((lower <= 0) & (upper >= 0)).numpy() | ~np.isfinite(middle)
    image = _image(np.ma.masked_array(middle, unknown), ax, cmap="RdBu_r", **_symmetric(middle[~unknown]))
    grey = np.ma.masked_array(np.zeros_like(middle), ~unknown)
    ax.imshow(grey, cmap=ListedColormap([GREY]), interpolation="nearest")
    ax.set_xlabel("grey: sign not certified")
    return image


def draw_half_width(lower: Tensor, upper: Tensor, ax: Axes) -> Any:
    """Half the distance between the bounds as an image with its colour bar; the image."""
    half = ((upper - lower) / 2).numpy()
    finite = half[np.isfinite(half)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    return _image(np.ma.masked_invalid(half), ax, cmap="viridis", vmin=0.0, vmax=top)


def plot_lipschitz(bound: Bracket, ax: Axes | None = None) -> Axes:
    """Certified upper and lower bounds over the radii of the balls, both axes logarithmic.

    A batch of points gives one curve each. Values that are infinite or, on a logarithmic axis, zero are left out.

    Args:
        bound: what `lipschitz` returned, best for a list of radii; without radii the points stand side by side.
        ax: where to draw; None for a new figure.

    Returns:
        The axes.
    """
    ax = new_figure().add_subplot() if ax is None else ax
    draw_bracket(bound, ax, BLUE, norm_name(bound.norm))
    finish_bracket(ax, bound)
    ax.set_title(f"Lipschitz constant {norm_name(bound.norm)}")
    return ax


def draw_bracket(bound: Bracket, ax: Axes, colour: str, name: str) -> None:
    """Curves of the upper and the lower bound (dashed), and the gap between them shaded.

    Args:
        bound: one constant per radius and point.
        ax: where to draw.
        colour: of both curves.
        name: of the constant, for the legend.
    """
    upper = bound.upper.detach().cpu().reshape(max(1, len(bound.radii)), -1).numpy()
    lower = bound.lower.detach().cpu().reshape(upper.shape).numpy()
    places = np.asarray(bound.radii)
    if not bound.radii:
        upper, lower = upper.T, lower.T
        places = np.arange(1, len(upper) + 1)
    for point in range(upper.shape[1]):
        high, low = _visible(upper[:, point]), _visible(lower[:, point])
        ax.plot(places, high, "o-", color=colour, markersize=4, label=f"{name}: upper" if point == 0 else None)
        if bool(np.isfinite(low).any()):
            label = f"{name}: lower" if point == 0 else None
            ax.plot(places, low, "v--", color=colour, markersize=4, alpha=0.8, label=label)
            ax.fill_between(places, low, high, color=colour, alpha=0.12, lw=0)


def finish_bracket(ax: Axes, bound: Bracket) -> None:
    """Scales, labels, grid, and a legend below the axes, away from every curve."""
    if bound.radii and min(bound.radii) > 0:
        ax.set_xscale("log")
    ax.set_yscale("log")
    logarithmic(ax.yaxis, ax.get_ylim())
    ax.set_xlabel("radius of the ball" if bound.radii else "region")
    ax.set_ylabel("Lipschitz constant")
    ax.grid(True, which="major", alpha=0.35)
    ax.grid(True, which="minor", alpha=0.12)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False, fontsize="small")


def logarithmic(axis: Axis, limits: tuple[float, float]) -> None:
    """Labels of a logarithmic axis as plain numbers: over few decades matplotlib would label hardly anything."""
    low, high = limits
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def norm_name(norm: tuple[Norm, Norm]) -> str:
    """The pair of norms in mathematical signs."""
    exponents = map(plain_exponent, norm)
    p, q = ("\\infty" if math.isinf(end) else f"{end:g}" for end in exponents)
    weighted = "" if norm == tuple(map(plain_exponent, norm)) else " (weighted)"
    return f"$\\ell_{{{p}}} \\to \\ell_{{{q}}}${weighted}"


def plot_demo(image: Tensor, jacobian: Entries, curves: Mapping[str, Bracket], *, label: int, radius: str) -> Figure:
    """Four panels: an image, the middle and half-width of its certified Jacobian row, constants over radii.

    Args:
        image: shape (height, width).
        jacobian: bounds whose first row is shown.
        curves: constants by name; at most two.
        label: the output whose derivative is shown.
        radius: of the ball that the Jacobian bounds are for.

    Returns:
        The figure.
    """
    figure = new_figure(15.0, 4.2)
    left, middle, half, right = figure.subplots(1, 4, width_ratios=(1, 1.15, 1.15, 1.5))
    left.imshow(image.cpu().numpy(), cmap="gray", interpolation="nearest")
    left.set(xticks=[], yticks=[])
    left.set_title(f"image of a {label}", fontsize="medium")
    lower, upper = (end.reshape(tuple(image.shape)) for end in row_bounds(jacobian, 0))
    draw_middle(lower, upper, middle)
    middle.set_title(f"d output {label} / d pixel, radius {radius}\nmiddle of the certified bounds", fontsize="medium")
    draw_half_width(lower, upper, half)
    half.set_title(f"d output {label} / d pixel, radius {radius}\nhalf-width of the bounds", fontsize="medium")
    for (name, bound), colour in zip(curves.items(), (BLUE, VERMILION), strict=False):
        draw_bracket(bound, right, colour, f"{norm_name(bound.norm)}, {name}")
        finish_bracket(right, bound)
    right.set_title("Lipschitz constants over $\\ell_\\infty$ balls", fontsize="medium")
    return figure


def _bars(lower: Tensor, upper: Tensor, ax: Axes) -> None:
    """Every entry as a vertical bar from lower to upper; blue where the sign is certified."""
    index = np.arange(len(lower))
    certain = ((lower > 0) | (upper < 0)).numpy()
    low, high = lower.numpy(), upper.numpy()
    for mask, colour, name in ((certain, BLUE, "sign certified"), (~certain, GREY, "sign not certified")):
        if mask.any():
            width = min(4.0, max(0.6, 200 / len(index)))
            ax.vlines(index[mask], low[mask], high[mask], color=colour, lw=width, label=name)
    dot = min(4.0, max(0.8, 300 / len(index)))
    ax.plot(index, (low + high) / 2, ".", color="black", markersize=dot, label="middle")
    ax.axhline(0.0, color="black", lw=0.6)
    ax.set_xlabel("input entry")
    ax.set_ylabel("derivative of the output")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False, fontsize="small")


def _picture(row: Tensor, shape: tuple[int, ...] | None) -> tuple[int, int] | None:
    """Height and width when the input is an image of one channel."""
    wanted = tuple(row.shape) if shape is None else shape
    if math.prod(wanted) != row.numel():
        raise ShapeError(f"{row.numel()} inputs can not be arranged as {wanted}")
    sides = [side for side in wanted if side != 1]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _image(values: np.ndarray, ax: Axes, **style: Any) -> Any:
    """An image without ticks and with a colour bar of its own height."""
    image = ax.imshow(values, interpolation="nearest", **style)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    return image


def _symmetric(values: np.ndarray) -> dict[str, float]:
    """Colour limits around zero."""
    top = float(np.abs(values).max()) if values.size else 0.0
    return {"vmin": -(top or 1.0), "vmax": top or 1.0}


def _visible(values: np.ndarray) -> np.ndarray:
    """With gaps where a logarithmic axis has no place for the value."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)
