"""``jacobound demo``: certify the small network that comes with the package, and draw what was found."""

from __future__ import annotations

import importlib
import io
import math
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jacobound.cli.commands.inspect import summary
from jacobound.cli.commands.lipschitz import joined
from jacobound.cli.given.options import FIGURES, check_target, cpu_threads
from jacobound.cli.shown.summaries import certain_signs, say_files, say_outputs, say_status, told_gap
from jacobound.cli.shown.text import say, say_json, say_table
from jacobound.errors import JacoboundError, MissingExtraError
from jacobound.graph.graph import Graph
from jacobound.importers import from_onnx
from jacobound.inputs.regions import Ball
from jacobound.results.kinds import JacobianBounds, LipschitzBound, OutputBounds
from jacobound.solve import bound_jacobian, bound_output, lipschitz
from jacobound.words import Table, nearest, rounded_down, rounded_up

NETWORK = "mnist_4layer_relu_64.onnx"
IMAGES = "mnist_images.npz"
SIDE = 28  # pixels
ACCURACY = "97.72 % of the 10,000 MNIST test images right"
RADIUS = "0.01"
RADII = ("0.0001", "0.0003", "0.001", "0.003", "0.01", "0.02", "0.05", "0.1")
PIXELS = 5
LIMITS = (-0.5, 0.5)
FIGURE = Path("jacobound-demo.png")

TABLE = Table(
    ("radius", "linf <=", ">=", "gap", "l2 <=", ">=", "gap", "unstable", "seconds"),
    (7, 9, 9, 6, 9, 9, 6, 8, 7),
)


@dataclass(frozen=True, eq=False)
class Subject:
    """The network and the image that the demo looks at.

    Args:
        graph: the packaged network.
        point: one packaged image as the network takes it, shape (784,), pixels from -0.5 to 0.5.
        label: its digit, which the network gets right.
        rival: the digit with the second largest output.
        right: how many of the packaged images the network gets right, and how many there are.
    """

    graph: Graph
    point: Tensor
    label: int
    rival: int
    right: tuple[int, int]

    def ball(self, radius: str) -> Ball:
        """Images whose pixels differ by at most the radius and stay valid."""
        return Ball(self.point, radius, math.inf, clip=LIMITS)

    def row(self) -> Tensor:
        """The true digit's output."""
        return torch.eye(self.graph.out_shape[0], dtype=torch.float64)[[self.label]]

    def margins(self) -> Tensor:
        """The true digit's output minus each other, the rival first."""
        unit = torch.eye(self.graph.out_shape[0], dtype=torch.float64)
        others = [k for k in range(len(unit)) if k not in (self.label, self.rival)]
        return unit[self.label] - unit[[self.rival, *others]]


def demo(*, digit: int = 3, plot: Path | None = None, json: bool = False, debug: bool = False) -> int:
    """Certify the small network that comes with the package.

    Args:
        digit: Which image, 0 to 9.
        plot: Where the figure goes. [default: jacobound-demo.png, none with --json]
        json: Write strict JSON on stdout and nothing else there.
        debug: Show where in the program an error came from.
    """
    if not 0 <= digit <= 9:
        raise JacoboundError(f"--digit is 0 to 9, not {digit}")
    plot = FIGURE if plot is None and not json else plot
    if plot is not None:
        check_target(plot, FIGURES, "--plot")
    with cpu_threads(1):  # the network is so small that more threads only wait for each other
        return _demo(load(digit), plot, json)


def _demo(subject: Subject, plot: Path | None, json: bool) -> int:
    """All computations and what is said of them; the exit code."""
    ball = subject.ball(RADIUS)
    outputs = bound_output(subject.graph, ball)
    margins = bound_output(subject.graph, ball, rows=subject.margins())
    jacobian = bound_jacobian(subject.graph, ball, rows=subject.row())
    if not json:
        _say_network(subject)
        _say_outputs(subject, outputs, margins)
        _say_jacobian(subject, jacobian)
    rows, differences = _constants(subject, quiet=json)
    if json:
        constants = {"output": [b.to_dict() for b in rows], "margin": [b.to_dict() for b in differences]}
        results = {"output": outputs, "margins": margins, "jacobian": jacobian}
        told = {name: result.to_dict() for name, result in results.items()}
        say_json({"digit": subject.label, "rival": subject.rival, **told, "constants": constants})
    if plot is not None:
        _draw(plot, subject, jacobian, rows, differences)
    statuses = [result.status for result in (outputs, margins, jacobian, *rows, *differences)]
    return 0 if all(status.certified for status in statuses) else 1


def load(digit: int) -> Subject:
    """The packaged network and one packaged image."""
    folder = files("jacobound") / "data"
    graph = from_onnx((folder / NETWORK).read_bytes())
    with np.load(io.BytesIO((folder / IMAGES).read_bytes()), allow_pickle=False) as images:
        pixels, labels = images["x"], images["y"]
    points = torch.from_numpy(pixels.reshape(len(pixels), -1) / 255 - 0.5)
    scores = graph(points)
    right = int((scores.argmax(1).numpy() == labels).sum())
    place = int(np.flatnonzero(labels == digit)[0])
    rival = next(k for k in scores[place].argsort(descending=True).tolist() if k != digit)
    return Subject(graph, points[place], digit, rival, (right, len(labels)))


def _say_network(subject: Subject) -> None:
    right, all_images = subject.right
    say(f"The packaged network {NETWORK}: {summary(subject.graph)}")
    say(f"It gets {ACCURACY}, and {right} of the {all_images} packaged ones.")
    say(f"The image: a handwritten {subject.label}, pixels from -0.5 to 0.5; the runner-up is {subject.rival}.")
    say("Upper bounds are printed rounded up and lower bounds rounded down, so the printed numbers hold too.\n")


def _say_outputs(subject: Subject, outputs: OutputBounds, margins: OutputBounds) -> None:
    say(f"1. Outputs when every pixel may change by {RADIUS}\n")
    say_outputs(outputs, [str(k) for k in range(outputs.lower.numel())], subject.graph(subject.point))
    say_status(outputs.status)
    least = float(margins.lower.min())
    held = outputs.status.certified and margins.status.certified and least > 0
    answer = "no such change alters the answer" if held else "this does not show that the answer stays"
    say(f"The {subject.label} leads every other digit by at least {rounded_down(least)}: {answer}.\n")


def _say_jacobian(subject: Subject, jacobian: JacobianBounds) -> None:
    lower, upper = jacobian.lower[0], jacobian.upper[0]
    slope = _gradient(subject)
    say(f"2. Derivative of output {subject.label} by every pixel, when every pixel may change by {RADIUS}\n")
    signs = int(certain_signs(lower, upper).sum())
    say(f"{signs} of {lower.numel()} derivatives have a certified sign. The {PIXELS} that are farthest from zero:\n")
    strongest = torch.maximum(lower, -upper).topk(PIXELS).indices.tolist()
    numbers = zip(
        strongest, lower[strongest].tolist(), slope[strongest].tolist(), upper[strongest].tolist(), strict=True
    )
    rows = [(f"{k // SIDE}, {k % SIDE}", rounded_down(a), nearest(b), rounded_up(c)) for k, a, b, c in numbers]
    say_table(("<pixel (row, column)", "certified lower", "autodiff at the image", "certified upper"), rows)
    say(f"slopes not known over the region: {int(jacobian.unstable)} of {jacobian.activations} activations")
    say_status(jacobian.status)
    say("")


def _gradient(subject: Subject) -> Tensor:
    """What automatic differentiation gives at the image."""
    point = subject.point.clone().requires_grad_()
    return torch.autograd.grad(subject.graph(point)[subject.label], point)[0]


def _constants(subject: Subject, quiet: bool) -> tuple[list[LipschitzBound], list[LipschitzBound]]:
    """The two constants for every radius, printed as they are found."""
    if not quiet:
        say("3. Lipschitz constants while every pixel may change by the radius")
        say(f"   linf->linf of output {subject.label}; l2->l2 of output {subject.label} minus output {subject.rival}\n")
        say(TABLE.head())
    rows, differences = [], []
    for radius in RADII:
        ball = subject.ball(radius)
        rows.append(lipschitz(subject.graph, ball, norm=(math.inf, math.inf), rows=subject.row()))
        differences.append(lipschitz(subject.graph, ball, norm=(2, 2), rows=subject.margins()[:1]))
        if not quiet:
            say(_line(radius, rows[-1], differences[-1]))
    if not quiet:
        say("\ngap: upper / lower, both certified; 1 when the constant is known.")
        say("unstable: slopes that are not known over the region.")
        say_status(*(bound.status for bound in (*rows, *differences)))
    return rows, differences


def _line(radius: str, row: LipschitzBound, difference: LipschitzBound) -> str:
    cells = [
        text
        for bound in (row, difference)
        for text in (rounded_up(float(bound.upper)), rounded_down(float(bound.lower)), told_gap(bound))
    ]
    seconds = f"{row.seconds + difference.seconds:.2f}"
    return TABLE.row((radius, *cells, int(row.unstable), seconds))


def _draw(
    path: Path, subject: Subject, jacobian: JacobianBounds, rows: list[LipschitzBound], margins: list[LipschitzBound]
) -> None:
    """The figure, or how to get it."""
    try:
        figures = importlib.import_module("jacobound.reports.figures")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("jacobound"):
            raise
        say(f"no figure: {MissingExtraError('matplotlib', 'report')}", error=True)
        return
    curves = {
        f"output {subject.label}": joined(rows),
        f"{subject.label} minus {subject.rival}": joined(margins),
    }
    image = subject.point.reshape(SIDE, SIDE)
    figure = figures.plot_demo(image, jacobian, curves, label=subject.label, radius=RADIUS)
    figure.savefig(path, dpi=150)
    say_files(path)
