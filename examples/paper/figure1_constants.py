"""RecurJac's Figures 1 and 3: local Lipschitz constants over l_inf balls of growing radius, for four networks.

One curve for each method of the paper (product of norms, Fast-Lip, RecurJac backward B and forward F0 and F1, all as
published), one for the tighter relaxation, one for `jacobound.lipschitz` without a method, and the attained values
that bound the truth from below. Constants are of the true class's logit, as in the paper.

Run: ``python examples/paper/figure1_constants.py [--full]``
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from math import inf
from typing import Any

import torch
from drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, panels, save
from ledger import Ledger, Options, options, publish, run, table, timed
from material import first_right

import jacobound as jb

NAME = "figure1_constants"
NAIVE, BEST, ATTAINED = "product of norms", "ours: lipschitz()", "attained"
CHORD = "ours: RecurJac(), chord"
METHODS: dict[str, Any] = {
    "Fast-Lip": jb.FastLip(),
    "RecurJac-B": jb.RecurJac("constant"),
    "RecurJac-F0": jb.RecurJac("constant", direction="forward"),
    "RecurJac-F1": jb.RecurJac("constant", direction="forward-shifted"),
    CHORD: jb.RecurJac(),
    BEST: None,
}
STYLES = {
    NAIVE: (GREY, ":", ""),
    "Fast-Lip": (ORANGE, "-", "s"),
    "RecurJac-B": (VERMILION, "-", "o"),
    "RecurJac-F0": (PURPLE, "--", "^"),
    "RecurJac-F1": (SKY, "--", "x"),
    CHORD: (GREEN, "-", "D"),
    BEST: (BLUE, "-", "o"),
    ATTAINED: (BLACK, ":", "v"),
}
# Forward versions cost the inputs (or the first layer) times the unstable neurons; beyond this they take minutes.
DEAR = 550_000
GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
# The authors' README on their 7-layer network, an image of class 1, l_inf.
PUBLISHED = {0.001: 172.16, 0.00298: 193.9, 0.01274: 486.4, 0.01833: 2157.0, 0.02637: 3.68e5, 0.1129: 1.881e6}
SEVEN, CIFAR = "mnist_7layer_relu_1024", "cifar_10layer_relu_2048"


@dataclass(frozen=True)
class Case:
    """One panel.

    Args:
        title: of the panel.
        radii: of the balls in a short run.
        digit: of the image; None for the first image that is classified correctly.
    """

    title: str
    radii: Sequence[float]
    digit: int | None = 1


CASES = {
    "mnist_10layer_leaky_20": Case("Figure 1: MNIST, 10 layers of 20, leaky ReLU", GRID),
    "mnist_5layer_tanh_50": Case("Figure 3: MNIST, 5 layers of 50, tanh", GRID),
    SEVEN: Case("Figure 3: MNIST, 7 layers from 1024, ReLU", (*PUBLISHED, 1.0)),
    CIFAR: Case("Figure 3: CIFAR-10, 10 layers from 2048, ReLU", (1e-4, 3e-4, 1e-3, 1e-2, 0.1), None),
}


@dataclass(frozen=True, eq=False)
class Problem:
    """A network at an image of class `label`."""

    graph: jb.Graph
    centre: torch.Tensor
    label: int

    @property
    def row(self) -> torch.Tensor:
        return torch.eye(10, dtype=torch.float64)[[self.label]]


def problem(given: Options, network: str) -> Problem:
    """The network and its first image (of the wanted digit) that is classified correctly."""
    graph, case = given.material.network(network), CASES[network]
    images = given.material.photographs("test") if network == CIFAR else given.material.digits("test")
    points = images.centred()[:500]
    labels = images.labels[:500]
    if case.digit is not None:
        points, labels = points[labels == case.digit], labels[labels == case.digit]
    (index,) = first_right(graph, points, labels, 1)
    return Problem(graph, torch.from_numpy(points[index]), int(labels[index]))


def constants(found: Problem, radius: float, given: Options) -> Iterator[dict[str, object]]:
    """Every method at one radius; constants from entries alone, because the paper has no products beside them."""
    inputs, unstable = found.centre.numel(), 0
    seconds = given.pick(2.0, 5.0 if inputs < 3000 else 10.0, 60.0)
    for name, method in METHODS.items():
        if "-F" in name and inputs * unstable > DEAR and given.size != "full":
            continue
        budget = jb.Budget(seconds if method is None else given.pick(10.0, 60.0, 3600.0))
        search = jb.Sampling() if method is None else None
        ball = jb.Ball(found.centre, radius, inf)
        bound, cpu = timed(
            lambda m=method, b=budget, s=search, r=ball: jb.lipschitz(
                found.graph, r, m, norm=(inf, inf), rows=found.row, budget=b, search=s
            )
        )
        unstable = int(bound.unstable)
        known = {"unstable": unstable, "neurons": bound.activations, "cpu_s": cpu}
        entries = bound.details.get(type(method).__name__)
        value = bound.upper if entries is None else entries.value
        yield {"method": name, "constant": float(value), "status": bound.status.name.lower(), **known}
        if method is None:
            yield {"method": ATTAINED, "constant": float(bound.lower), "status": "attained", **known}


def naive(found: Problem) -> dict[str, object]:
    """The product of the layers' norms, which knows no radius."""
    bound, cpu = timed(
        lambda: jb.lipschitz(found.graph, jb.WholeSpace(), jb.AutoLip(), norm=(inf, inf), rows=found.row, search=None)
    )
    known = {"unstable": bound.activations, "neurons": bound.activations, "cpu_s": cpu}
    return {"method": NAIVE, "constant": float(bound.upper), "status": bound.status.name.lower(), **known}


def radii(given: Options, network: str) -> Sequence[float]:
    """What one panel shows."""
    case = CASES[network]
    full = sorted({*case.radii, *(float(f"{10 ** (k / 4 - 4):.3g}") for k in range(17))})
    return given.pick(case.radii[2:3], case.radii, full)


def draw(given: Options, ledger: Ledger, networks: Sequence[str]) -> None:
    """Four panels, both axes logarithmic."""
    figure, axes = panels(-(-len(networks) // 2), min(2, len(networks)))
    for panel, network in zip(axes, networks, strict=False):
        for name, (colour, line, mark) in STYLES.items():
            rows = [row for row in ledger.find(network=network, method=name) if row["radius"] != "all"]
            places = [float(row["radius"]) for row in rows]
            if name == NAIVE:
                constant = ledger.number("constant", network=network, method=NAIVE)
                panel.axhline(constant, color=colour, ls=line, lw=1.8, label=NAIVE)
            elif rows:
                values = [float(row["constant"]) for row in rows]
                if name == ATTAINED:  # also inside every larger ball
                    values = list(accumulate(values, max))
                label = f"{name} (as published)" if name in METHODS and "ours" not in name else name
                panel.plot(places, values, ls=line, marker=mark, ms=4.5, lw=1.5, color=colour, label=label)
        panel.set(xscale="log", yscale="log", title=CASES[network].title)
        panel.set_xlabel("radius of the l∞ ball (pixel range is 1)")
        panel.set_ylabel("Lipschitz constant of the class logit, l∞")
    save(figure, axes[: len(networks)], given.out / NAME)


def tables(ledger: Ledger, networks: Sequence[str]) -> list[str]:
    """Constants of every network, then what the paper says beside what was found."""
    names = [name for name in STYLES if name != NAIVE]
    parts = []
    for network in networks:
        lines = []
        for radius in dict.fromkeys(row["radius"] for row in ledger.find(network=network) if row["radius"] != "all"):
            row = ledger.find(network=network, radius=radius)[0]
            values = [_cell(ledger, network, radius, name) for name in names]
            lines.append([radius, f"{row['unstable']} of {row['neurons']}", *values])
        product = ledger.number("constant", network=network, method=NAIVE)
        parts += [
            f"**{network}**, product of norms {product:.4g} (constants; CPU seconds in brackets)",
            table(["radius", "unstable", *names], lines),
        ]
    return [*parts, "**Beside the paper**", beside(ledger, networks), WHY]


def _cell(ledger: Ledger, network: str, radius: str, name: str) -> str:
    found = ledger.find(network=network, radius=radius, method=name)
    if not found:
        return "left out (dear)"
    late = "*" if found[0]["status"] == "time_limit" else ""
    seconds = "" if name == ATTAINED else f" ({float(found[0]['cpu_s']):.2g})"
    return f"{float(found[0]['constant']):.4g}{late}{seconds}"


WHY = (
    "The paper's weights were not published, so these are networks of the same shapes, trained anew: values differ "
    "with the weights (how much, the product of norms of the 7-layer network shows), and ratios between methods and "
    "the shape of the curves can be compared. A star marks a search that "
    "its time limit ended; such values are certified all the same. RecurJac's own constants are taken from the "
    "entries of the Jacobian alone, as in the paper. `lipschitz()` also asks products of norms and semidefinite "
    "certificates. F0 and F1 are left out of short runs where they would take minutes."
)


def beside(ledger: Ledger, networks: Sequence[str]) -> str:
    """What the paper says, and what was found."""
    lines: list[list[object]] = []

    def value(network: str, radius: float, name: str) -> float:
        return ledger.number("constant", network=network, radius=radius, method=name)

    if SEVEN in networks:
        for radius, theirs in PUBLISHED.items():
            here = f"{value(SEVEN, radius, 'RecurJac-B'):.4g}; ours {value(SEVEN, radius, BEST):.4g}"
            lines.append([f"7 layers, RecurJac-B at radius {radius}", f"{theirs:.4g}", here])
        product = ledger.number("constant", network=SEVEN, method=NAIVE)
        here = f"{product:.4g}; RecurJac-B at radius 1: {value(SEVEN, 1.0, 'RecurJac-B'):.4g}"
        lines.append(["7 layers, product of norms; RecurJac-B at radius 1", "1.935e+07; 2.028e+06", here])
    for network in networks:
        ratios = [
            float(one["constant"]) / value(network, float(one["radius"]), "RecurJac-B")
            for one in ledger.find(network=network, method="Fast-Lip")
        ]
        best = [
            value(network, float(one["radius"]), "RecurJac-B") / float(one["constant"])
            for one in ledger.find(network=network, method=BEST)
        ]
        here = f"up to {max(ratios):.3g} times; ours up to {max(best):.3g} times below RecurJac-B"
        lines.append([f"{network}: Fast-Lip over RecurJac-B", "up to two orders of magnitude", here])
    if CIFAR in networks:
        costs = [
            f"{name} {min(seconds):.2g} to {max(seconds):.2g} s"
            for name in ("Fast-Lip", "RecurJac-B", "RecurJac-F0", "RecurJac-F1", BEST)
            if (seconds := [float(row["cpu_s"]) for row in ledger.find(network=CIFAR, method=name)])
        ]
        lines.append(["CIFAR, time per constant", "2.4 s, B 10.5 s, F0 1 h, F1 5 h (1 core)", "; ".join(costs)])
    return table(["what", "paper", "here"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Find, tell and draw."""
    given = options(__doc__, arguments)
    values = ("constant", "status", "unstable", "neurons", "cpu_s")
    ledger = Ledger(given.out / f"{NAME}.csv", ("network", "weights", "radius", "method"), values, given.fresh)
    networks = given.pick(list(CASES)[1:2], list(CASES), list(CASES))
    known = cache(lambda network: problem(given, network))
    cells = [
        {"network": network, "weights": known(network).graph.fingerprint[:8], "radius": radius}
        for network in networks
        for radius in ("all", *radii(given, network))
    ]

    def work(network: str, weights: str, radius: Any) -> Iterator[dict[str, object]]:
        found = known(network)
        yield from [naive(found)] if radius == "all" else constants(found, radius, given)

    ledger.fill(cells, work)
    draw(given, ledger, networks)
    publish(given, NAME, "RecurJac, Figures 1 and 3: constants over radii", tables(ledger, networks))


if __name__ == "__main__":
    run(main)
