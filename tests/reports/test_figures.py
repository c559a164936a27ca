"""Figures: axes come back labelled, what is drawn are the numbers, and no window system is touched."""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound.cli.commands.lipschitz import joined

pytest.importorskip("matplotlib")

from jacobound.reports import figures

INF = float("inf")


@pytest.fixture(scope="module")
def graph() -> jb.Graph:
    random = np.random.default_rng(0)
    weights = [random.normal(size=(8, 6)) / 2, random.normal(size=(2, 8)) / 2]
    return jb.from_layers(weights, [random.normal(size=8) / 4, np.zeros(2)], activation="tanh")


@pytest.fixture(scope="module")
def jacobian(graph: jb.Graph) -> jb.JacobianBounds:
    return jb.bound_jacobian(graph, jb.Ball(np.full(6, 0.1), 0.1))


def drawn(axes: figures.Axes) -> bytes:
    """The figure as a PNG."""
    stream = BytesIO()
    axes.figure.savefig(stream, format="png", dpi=40)
    return stream.getvalue()


@pytest.mark.slow
def test_output_bars(graph: jb.Graph) -> None:
    bounds = jb.bound_output(graph, jb.Ball(np.full((2, 6), 0.1), [0.1, 0.2]))
    axes = bounds.plot()
    assert axes.get_xlabel() == "output" and axes.get_ylabel()
    ends = np.concatenate([collection.get_segments() for collection in axes.collections])
    ends = ends[ends[:, 0, 0].argsort()]
    np.testing.assert_allclose(ends[:, 0, 1], bounds.lower[0, 0].numpy())
    np.testing.assert_allclose(ends[:, 1, 1], bounds.upper[0, 0].numpy())
    assert drawn(axes).startswith(b"\x89PNG")


def test_jacobian_bars(jacobian: jb.JacobianBounds) -> None:
    axes = jacobian.plot(row=1)
    assert axes.get_xlabel() and axes.get_ylabel() and "row 1" in axes.get_title()
    ends = np.concatenate([collection.get_segments() for collection in axes.collections])
    ends = ends[ends[:, 0, 0].argsort()]
    np.testing.assert_allclose(ends[:, 0, 1], jacobian.lower[1].numpy())
    np.testing.assert_allclose(ends[:, 1, 1], jacobian.upper[1].numpy())
    assert drawn(axes).startswith(b"\x89PNG")


def test_jacobian_image(jacobian: jb.JacobianBounds) -> None:
    axes = figures.plot_jacobian(jacobian, 0, shape=(2, 3))
    middle = axes.images[0].get_array()
    expected = ((jacobian.lower[0] + jacobian.upper[0]) / 2).reshape(2, 3).numpy()
    unknown = ((jacobian.lower[0] <= 0) & (jacobian.upper[0] >= 0)).reshape(2, 3).numpy()
    np.testing.assert_array_equal(np.ma.getmaskarray(middle), unknown)
    np.testing.assert_allclose(middle.compressed(), expected[~unknown])
    assert "grey" in axes.get_xlabel() and drawn(axes).startswith(b"\x89PNG")


def test_jacobian_of_a_batch_and_several_radii_shows_the_first(graph: jb.Graph) -> None:
    bounds = jb.bound_jacobian(graph, jb.Ball(np.zeros((3, 6)), [0.1, 0.2]))
    lower, upper = figures.row_bounds(bounds, 1)
    assert lower.equal(bounds.lower[0, 0, 1]) and upper.equal(bounds.upper[0, 0, 1])


def test_what_can_not_be_drawn_is_refused(jacobian: jb.JacobianBounds) -> None:
    with pytest.raises(jb.ShapeError, match="rows 0 to 1"):
        jacobian.plot(row=2)
    with pytest.raises(jb.ShapeError, match="arranged"):
        figures.plot_jacobian(jacobian, 0, shape=(2, 2))


@pytest.mark.slow
def test_lipschitz_over_radii(graph: jb.Graph) -> None:
    bound = jb.lipschitz(graph, jb.Ball(np.zeros(6), [0.01, 0.1, 1.0]), norm=(INF, INF))
    given = figures.new_figure().add_subplot()
    axes = bound.plot(given)
    assert axes is given and axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlabel() == "radius of the ball" and axes.get_ylabel() == "Lipschitz constant"
    certified, attained = axes.get_lines()
    np.testing.assert_allclose(certified.get_xdata(), bound.radii)
    np.testing.assert_allclose(certified.get_ydata(), bound.upper.numpy())
    np.testing.assert_allclose(attained.get_ydata(), bound.lower.numpy())
    legend = axes.get_legend()
    assert legend is not None and len(legend.get_texts()) == 2
    assert drawn(axes).startswith(b"\x89PNG")


def test_the_legend_covers_no_curve(graph: jb.Graph) -> None:
    axes = jb.lipschitz(graph, jb.Ball(np.zeros(6), [0.01, 0.1])).plot()
    drawn(axes)
    legend = axes.get_legend()
    assert legend is not None and not legend.get_window_extent().overlaps(axes.get_window_extent())


@pytest.mark.parametrize(
    "region",
    [
        jb.Ball(np.zeros(6), 0.1),
        jb.Ball(np.zeros((2, 6)), [0.0, 0.1]),
        jb.Box(np.zeros((3, 6)), np.ones((3, 6))),
        jb.WholeSpace(),
    ],
    ids=["one ball", "radius 0", "boxes", "whole space"],
)
def test_every_region_can_be_drawn(graph: jb.Graph, region: jb.Ball | jb.Box | jb.WholeSpace) -> None:
    assert drawn(jb.lipschitz(graph, region, search=None).plot()).startswith(b"\x89PNG")


def test_infinite_bounds_leave_a_gap(graph: jb.Graph) -> None:
    bound = jb.lipschitz(graph, jb.Ball(np.zeros(6), [0.1, 0.2]))
    bound.upper[1] = INF
    certified = bound.plot().get_lines()[0]
    assert np.isnan(certified.get_ydata()[1]) and not np.isnan(certified.get_ydata()[0])


@pytest.mark.slow
def test_demo_figure(graph: jb.Graph, jacobian: jb.JacobianBounds) -> None:
    singles = [jb.lipschitz(graph, jb.Ball(np.zeros(6), radius)) for radius in (0.1, 0.2)]
    curves = {"one": joined(singles), "two": joined(singles)}
    figure = figures.plot_demo(torch.zeros(2, 3), jacobian, curves, label=1, radius="0.1")
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert len(panels) == 4 and "half-width" in panels[2].get_title()
    right = panels[3]
    assert right.get_xlabel() and right.get_ylabel() and len(right.get_lines()) == 4
    np.testing.assert_allclose(right.get_lines()[0].get_xdata(), (0.1, 0.2))
    assert drawn(right).startswith(b"\x89PNG")


def test_no_global_state_of_pyplot(jacobian: jb.JacobianBounds) -> None:
    jacobian.plot()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
