"""AutoLip/SeqLip's tables: global l_2 constants of perceptrons on the plane and of convolutional MNIST networks.

Perceptrons of 4 to 10 linear layers are fitted to a random smooth function of two variables. For them SeqLip is exact
here, and its greedy search, an estimate, stands beside it; a grid shows how large the constant is at least. For
convolutional networks SeqLip is the certified dual. `jacobound.lipschitz` without a method chooses for itself.

Run: ``python examples/paper/seqlip_table.py [--full]``
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from math import isnan, prod
from typing import Any

import torch
from drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, panels, save
from ledger import Ledger, Options, options, publish, run, table, timed
from torch import Tensor

import jacobound as jb
from training import smooth_surface, surface_network

NAME = "seqlip_table"
PLANE, CNN = "perceptron", "convolutional"
FROBENIUS, AUTO, SEQ, DUAL, GREEDY = "Frobenius", "AutoLip", "SeqLip, exact", "SeqLip, dual", "Greedy SeqLip (estimate)"
OURS, DATA, SEARCH, GRID = "ours: lipschitz()", "attained: data", "attained: search", "attained: grid"
STYLES = {
    FROBENIUS: (GREY, "s"),
    AUTO: (ORANGE, "o"),
    SEQ: (VERMILION, "D"),
    DUAL: (PURPLE, "x"),
    GREEDY: (SKY, "+"),
    OURS: (BLUE, "o"),
    GRID: (GREEN, "^"),
    SEARCH: (BLACK, "v"),
    DATA: (GREY, "v"),
}
# The authors' poster.
PUBLISHED = {
    (PLANE, 4): {FROBENIUS: 648.2, AUTO: 33.04, SEQ: 21.47, GREEDY: 21.47, DATA: 4.36, SEARCH: 4.55, GRID: 6.56},
    (PLANE, 5): {FROBENIUS: 4283.1, AUTO: 134.4, SEQ: 72.87, GREEDY: 72.87, DATA: 6.77, SEARCH: 5.8, GRID: 7.1},
    (PLANE, 7): {FROBENIUS: 22341.0, AUTO: 294.6, SEQ: 130.2, GREEDY: 130.2, DATA: 5.4, SEARCH: 5.27, GRID: 6.51},
    (PLANE, 10): {
        FROBENIUS: 7343800.0,
        AUTO: 19248.2,
        SEQ: 2463.44,
        GREEDY: 2463.36,
        DATA: 10.04,
        SEARCH: 5.77,
        GRID: 17.1,
    },
    (CNN, 4): {AUTO: 174.0, GREEDY: 86.0, DATA: 12.64, SEARCH: 25.5},
    (CNN, 5): {AUTO: 790.1, GREEDY: 335.0, DATA: 16.79, SEARCH: 22.2},
    (CNN, 7): {AUTO: 12141.0, GREEDY: 3629.0, DATA: 31.22, SEARCH: 43.6},
    (CNN, 10): {AUTO: 4.5e6, GREEDY: 8.2e5, DATA: 38.26, SEARCH: 107.8},
}
WHOLE = jb.WholeSpace()


def steepest(graph: jb.Graph, points: Tensor) -> float:
    """The largest spectral norm of the Jacobian at some points (N, *input shape), in plain floating point."""
    largest = 0.0
    for part in points.split(2000):
        x = part.to(graph.dtype).requires_grad_()
        outputs = graph(x).flatten(1)
        rows = [torch.autograd.grad(one.sum(), x, retain_graph=True)[0].flatten(1) for one in outputs.unbind(1)]
        largest = max(largest, float(torch.linalg.matrix_norm(torch.stack(rows, 1), ord=2).max()))
    return largest


def certified(graph: jb.Graph, method: Any, seconds: float) -> tuple[float, str]:
    """A global constant and its status."""
    found = jb.lipschitz(graph, WHOLE, method, search=None, budget=jb.Budget(seconds))
    return float(found.upper), found.status.name.lower()


def searched(graph: jb.Graph, low: float, high: float, points: int, steps: int = 30) -> tuple[float, str]:
    """The steepest point that `Sampling` finds in a box."""
    box = jb.Box(torch.full(graph.in_shape, low), torch.full(graph.in_shape, high))
    search = jb.Sampling(points=points, steps=steps, ascents=min(10, points))
    found = jb.lipschitz(graph, box, jb.AutoLip(jb.IBP()), search=search, budget=jb.Budget(10.0))
    return float(found.lower), "attained"


Question = Callable[[], tuple[float, str]]


def plane_questions(graph: jb.Graph, weights: list[Tensor], given: Options) -> dict[str, Question]:
    """Everything that is asked of a perceptron on the plane."""
    points, _ = smooth_surface()
    count = given.pick(50, 400, 2000)
    line = torch.linspace(-4, 4, count)
    grid = torch.cartesian_prod(line, line)
    return {
        FROBENIUS: lambda: (prod(float(weight.norm()) for weight in weights), "float"),
        AUTO: lambda: certified(graph, jb.AutoLip(), 60.0),
        SEQ: lambda: certified(graph, jb.SeqLip("exact"), given.pick(5.0, 60.0, 600.0)),
        DUAL: lambda: certified(graph, jb.SeqLip(), 60.0),
        GREEDY: lambda: certified(graph, jb.SeqLip("greedy"), 60.0),
        OURS: lambda: certified(graph, None, 20.0),
        DATA: lambda: (steepest(graph, points), "attained"),
        SEARCH: lambda: searched(graph, -4.0, 4.0, 200),
        GRID: lambda: (steepest(graph, grid), "attained"),
    }


def cnn_questions(graph: jb.Graph, depth: int, given: Options) -> dict[str, Question]:
    """Everything that is asked of a convolutional network, whose pixels lie in [-1, 1]."""
    digits = given.material.digits("test")
    images = torch.from_numpy(2 * digits.centred()[: given.pick(10, 1000, 10000)]).reshape(-1, *graph.in_shape)
    dear: dict[str, Question] = {
        DUAL: lambda: certified(graph, jb.SeqLip(), given.pick(1.0, 40.0, 1800.0)),
        OURS: lambda: certified(graph, None, given.pick(1.0, 10.0, 600.0)),
    }
    wanted = given.pick((), (DUAL, OURS) if depth <= 5 else (OURS,), (DUAL, OURS))
    return {
        AUTO: lambda: certified(graph, jb.AutoLip(), 60.0),
        **{name: dear[name] for name in wanted},
        DATA: lambda: (steepest(graph, images), "attained"),
        SEARCH: lambda: searched(graph, -1.0, 1.0, *given.pick((2, 2), (50, 30), (50, 30))),
    }


def draw(given: Options, ledger: Ledger, depths: Mapping[str, Sequence[int]]) -> None:
    """Constants over depth, one panel for each kind; the paper's as open marks joined by a dotted line."""
    figure, axes = panels(1, 2, 5.6, 4.6)
    for panel, kind in zip(axes, depths, strict=True):
        for name, (colour, mark) in STYLES.items():
            values = [ledger.number("value", kind=kind, layers=depth, method=name) for depth in depths[kind]]
            if not all(map(isnan, values)):
                panel.plot(depths[kind], values, f"{mark}-", color=colour, ms=6, label=name)
        for name in (AUTO, GREEDY):
            theirs = [PUBLISHED[kind, depth][name] for depth in depths[kind]]
            label = f"{name}: paper (its weights)"
            panel.plot(depths[kind], theirs, "o:", mfc="none", color=STYLES[name][0], label=label)
        panel.set(yscale="log", title=f"{kind} networks", xticks=list(depths[kind]))
        panel.set_xlabel("linear layers")
        panel.set_ylabel("global l2 Lipschitz constant")
    save(figure, axes, given.out / NAME, 4)


def stored(given: Options, depth: int) -> str:
    """What another implementation of the dual gave for a convolutional network of the data folder."""
    path = given.material.data / "reference" / "seqlip" / "mnist_cnn.json"
    if not path.is_file():
        return ""
    found = json.loads(path.read_text(encoding="utf-8")).get(f"mnist_cnn_paper{depth}", {})
    return f"{found['autolip_dense_chol_CERT'] / found['seqlip_CERT']:.2f}" if found else ""


def tables(given: Options, ledger: Ledger, depths: Mapping[str, Sequence[int]]) -> list[str]:
    """Constants with the paper's below, and the gain of SeqLip."""
    parts = []
    for kind, names in ((PLANE, [*STYLES]), (CNN, [AUTO, DUAL, GREEDY, OURS, SEARCH, DATA])):
        lines, ratios = [], []
        for depth in depths[kind]:
            lines.append([depth, "here", *(_cell(ledger, kind, depth, name) for name in names)])
            theirs = PUBLISHED[kind, depth]
            lines.append([depth, "paper", *(f"{theirs[name]:.5g}" if name in theirs else "" for name in names)])
            auto, pairs, best = (
                ledger.number("value", kind=kind, layers=depth, method=name)
                for name in (AUTO, SEQ if kind == PLANE else DUAL, OURS)
            )
            rows = ledger.find(kind=kind, layers=depth, status="attained")
            low = max(float(row["value"]) for row in rows)
            gained = (theirs[AUTO] / theirs[GREEDY], auto / pairs, auto / best, best / low)
            ratios.append([depth, *("" if isnan(gain) else f"{gain:.2f}" for gain in gained)])
            ratios[-1] += [stored(given, depth)] if kind == CNN else []
        gains = ["AutoLip / Greedy SeqLip, paper", "AutoLip / SeqLip, here", "AutoLip / ours", "ours / attained"]
        gains += ["AutoLip / SeqLip, another implementation"] if kind == CNN else []
        head = ["layers", "", *names]
        parts += [f"**{kind} networks**", table(head, lines), table(["layers", *gains], ratios)]
    return [*parts, WHY]


WHY = (
    "Weights differ: the paper's perceptrons were fitted to a synthetic function of two variables (here a sample of a "
    "Gaussian process), its convolutional networks trained on MNIST, and none were published; the shapes of its 7 and "
    "10 layers are not known, so here the middle layer is repeated. These two are trained in short form (one epoch on "
    "20,000 images), which keeps their constants small. Compare the ratios. The paper's norms come from power "
    "iteration, which is a lower bound of each norm; its SeqLip for convolutional networks is greedy and truncated, "
    "an estimate. Here AutoLip, SeqLip (exact and dual) and `lipschitz()` are certified; a star marks a search that "
    "its time limit ended, whose value is certified all the same. SeqLip's first pair of these convolutional networks "
    "shares 4608 neurons, and its dual takes minutes that only `--full` has (the other implementation took 150 and 330 "
    "seconds for 4 and 5 layers). Greedy values are estimates also here. AlexNet is left out: its weights are not part "
    "of the data, and its overlapping max-pools have a constant of 2 each, which a product over its weights alone "
    "leaves out."
)


def _cell(ledger: Ledger, kind: str, depth: int, name: str) -> str:
    found = ledger.find(kind=kind, layers=depth, method=name)
    if not found:
        return ""
    late = "*" if found[0]["status"] == "time_limit" else ""
    return f"{float(found[0]['value']):.5g}{late} ({float(found[0]['cpu_s']):.2g} s)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Find, tell and draw."""
    given = options(__doc__, arguments)
    layers = given.pick([4], [4, 5, 7, 10], [4, 5, 7, 10])
    depths = {PLANE: layers, CNN: layers}
    steps, folder = given.pick(50, 3000, 20000), given.material.cache / "weights"

    @cache
    def questions(kind: str, depth: int) -> tuple[str, dict[str, Question]]:
        if kind == CNN:
            graph = given.material.network(f"mnist_cnn_paper{depth}")
            return graph.fingerprint[:8], cnn_questions(graph, depth, given)
        model = surface_network(depth, folder, steps)
        graph = jb.from_torch(model, torch.zeros(1, 2))
        matrices = [layer.weight.detach() for layer in model if isinstance(layer, torch.nn.Linear)]
        return graph.fingerprint[:8], plane_questions(graph, matrices, given)

    keys = ("kind", "layers", "weights", "method")
    ledger = Ledger(given.out / f"{NAME}.csv", keys, ("value", "status", "cpu_s"), given.fresh)
    cells = [
        {"kind": kind, "layers": depth, "weights": questions(kind, depth)[0], "method": method}
        for kind in depths
        for depth in depths[kind]
        for method in questions(kind, depth)[1]
    ]

    def work(kind: str, layers: int, weights: str, method: str) -> Iterator[dict[str, object]]:
        (value, status), cpu = timed(questions(kind, layers)[1][method])
        yield {"value": value, "status": status, "cpu_s": cpu}

    ledger.fill(cells, work)
    draw(given, ledger, depths)
    publish(given, NAME, "AutoLip/SeqLip: perceptrons and convolutional networks", tables(given, ledger, depths))


if __name__ == "__main__":
    run(main)
