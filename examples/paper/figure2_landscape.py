"""RecurJac's Figure 2: radii around test images without stationary points, for leaky ReLU networks of 2 to 10 layers.

As published, a radius is found by bisection: the largest ball over which some entry of the gradient of the class logit
has a strict sign, by RecurJac's backward bounds. `stationary_free_radius` asks for directional derivatives as well, and
takes the tighter relaxation. Digits 1 that all networks classify correctly, both in l_2 and l_inf.

Run: ``python examples/paper/figure2_landscape.py [--full]``
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import inf, sqrt
from statistics import fmean
from typing import Any

import torch
from drawing import BLUE, VERMILION, panels, save
from ledger import Ledger, Options, options, publish, run, table, timed
from material import first_right

import jacobound as jb

NAME = "figure2_landscape"
DIGIT = 1
PUBLISHED, OURS = "RecurJac-B, signs of entries (as published)", "ours: stationary_free_radius()"
LARGEST = {2.0: 10.0, inf: 1.0}  # no larger radius is tried
TOLERANCE = 1e-3
METHODS = {PUBLISHED: (VERMILION, "s"), OURS: (BLUE, "o")}


def images(given: Options, graphs: Sequence[jb.Graph], count: int) -> dict[int, torch.Tensor]:
    """The first digits 1 of the test part that all networks classify correctly, by their index."""
    digits = given.material.digits("test")
    points, known = digits.centred(), digits.labels
    right = set(range(len(known)))
    for graph in graphs:
        right &= set(first_right(graph, points, known, len(known)))
    chosen = [k for k in sorted(right) if known[k] == DIGIT][:count]
    return {k: torch.from_numpy(points[k]) for k in chosen}


def published_radius(graph: jb.Graph, centre: torch.Tensor, p: float) -> float:
    """The largest verified radius of a bisection, as in the paper, but with strict signs."""
    row = torch.eye(10, dtype=torch.float64)[[DIGIT]]

    def has_sign(radius: float) -> bool:
        found = jb.bound_jacobian(graph, jb.Ball(centre, radius, p), jb.RecurJac("constant"), rows=row)
        return bool(((found.lower > 0) | (found.upper < 0)).any())

    low, high, radius = 0.0, inf, 0.1
    while low < LARGEST[p] and low < (1 - TOLERANCE) * high and radius > 1e-6:
        low, high = (radius, high) if has_sign(radius) else (low, radius)
        middle = sqrt(low * high) if low > 0 else high / 4
        radius = min(4 * low, LARGEST[p]) if high == inf else middle
    return low


def radii(graph: jb.Graph, points: dict[int, torch.Tensor], p: float, method: str) -> Iterator[dict[str, object]]:
    """One row per image."""
    if method == PUBLISHED:
        for index, centre in points.items():
            radius, cpu = timed(lambda x=centre: published_radius(graph, x, p))
            yield {"image": index, "radius": radius, "cpu_s": cpu, "status": "certified"}
        return
    row = torch.eye(10, dtype=torch.float64)[[DIGIT]]
    batch = torch.stack(list(points.values()))
    found, cpu = timed(lambda: jb.stationary_free_radius(graph, batch, row, p, largest=LARGEST[p], tolerance=TOLERANCE))
    for index, radius in zip(points, found.radius[:, 0].tolist(), strict=True):
        status = found.status.name.lower()
        yield {"image": index, "radius": radius, "cpu_s": cpu / len(points), "status": status}


def norm(p: float) -> str:
    return "l∞" if p == inf else f"l{p:g}"


def draw(given: Options, ledger: Ledger, depths: Sequence[int]) -> None:
    """Means over depth with the range over the images; two panels."""
    figure, axes = panels(1, 2)
    for panel, p in zip(axes, LARGEST, strict=True):
        for k, (method, (colour, mark)) in enumerate(METHODS.items()):
            means, lows, highs = [], [], []
            for depth in depths:
                values = _radii(ledger, depth, p, method)
                means.append(fmean(values))
                lows.append(means[-1] - min(values))
                highs.append(max(values) - means[-1])
            places = [depth + (k - 0.5) * 0.16 for depth in depths]
            panel.errorbar(places, means, [lows, highs], fmt=f"{mark}-", ms=5, capsize=3, color=colour, label=method)
        panel.set(
            yscale="log", xticks=list(depths), title=f"{norm(p)} radius without stationary points: mean and range"
        )
        if 2 in depths:
            note = f"2 layers: no stationary point\nwithin {LARGEST[p]:g}, the largest\nradius that was tried"
            panel.annotate(note, (3.2, LARGEST[p]), va="top", fontsize="small")
        panel.set_xlabel("linear layers (20 neurons in each hidden one)")
        panel.set_ylabel(f"certified {norm(p)} radius")
    save(figure, axes, given.out / NAME, 2)


def _radii(ledger: Ledger, depth: int, p: float, method: str) -> list[float]:
    return [float(row["radius"]) for row in ledger.find(depth=depth, norm=norm(p), method=method)]


def reference(given: Options) -> dict[str, Any] | None:
    """What the authors' own code gave for the same networks, when the data folder has it."""
    path, networks = given.material.data / "reference" / "recurjac" / "summary.json", given.material.data / "nets"
    complete = path.is_file() and networks.is_dir()
    return json.loads(path.read_text(encoding="utf-8"))["landscape"] if complete else None


def tables(given: Options, ledger: Ledger, depths: Sequence[int]) -> list[str]:
    """Mean radii, and the authors' code on the same images where that is known."""
    known, lines = reference(given), []
    for p in reversed(LARGEST):
        for depth in depths:
            rows = ledger.find(depth=depth, norm=norm(p), method=OURS)
            ours, theirs = (_radii(ledger, depth, p, method) for method in (OURS, PUBLISHED))
            costs = [
                fmean(float(row["cpu_s"]) for row in ledger.find(depth=depth, norm=norm(p), method=method))
                for method in (PUBLISHED, OURS)
            ]
            code, spent = _code(known, depth, p)
            shared = [(float(row["radius"]), code[row["image"]]) for row in rows if row["image"] in code]
            costs += [spent] if shared else []
            least = min((mine / other for mine, other in shared), default=None)
            lines.append(
                [
                    norm(p),
                    depth,
                    _mean([other for _, other in shared]),
                    _mean(theirs),
                    _mean(ours),
                    min(mine / other for mine, other in zip(ours, theirs, strict=True)),
                    "" if least is None else f"{least:.4g}",
                    ", ".join(f"{cost:.2g}" for cost in costs),
                ]
            )
    count = len(ledger.find(depth=depths[0], norm=norm(inf), method=OURS))
    header = ["norm", "layers", "authors' code", "as published", "ours", "least ours / as published"]
    first = f"Mean certified radii of {count} images of a 1, and the least ratios of any image."
    return [
        first,
        table([*header, "least ours / authors' code", "CPU s per image: published, ours, code"], lines),
        "**Beside the paper**",
        beside(ledger, depths),
        "Weights differ (the paper's were not published), so only the shape can be compared. Here signs are strict and "
        "rounding is covered." + ("" if known is None else CODE),
    ]


CODE = (
    " The authors' code was run on the very networks and images of this table (float32, exact zeros counted as signs, "
    "absolute tolerance 1e-5)."
)


def _mean(values: Sequence[float]) -> str:
    return f"{fmean(values):.5f}" if values else ""


def _code(known: dict[str, Any] | None, depth: int, p: float) -> tuple[dict[str, float], float]:
    """Radii of the authors' code by image, and its CPU seconds per image."""
    if known is None:
        return {}, 0.0
    found, indices = known["res"][f"depth{depth}_p{'inf' if p == inf else p}"], known["indices"]
    radii = {str(index): radius for index, radius in zip(indices, found["eps_max"], strict=True)}
    return radii, found["cpu_s"] / len(indices)


def beside(ledger: Ledger, depths: Sequence[int]) -> str:
    """What Figure 2 shows, and what was found."""
    lines = []
    for p, span in ((2.0, "0 to 1.5"), (inf, "0 to 0.1")):
        means = {depth: fmean(_radii(ledger, depth, p, PUBLISHED)) for depth in depths if depth > 2}
        ours = {depth: fmean(_radii(ledger, depth, p, OURS)) for depth in depths if depth > 2}
        first, last = min(means), max(means)
        here = f"{means[first]:.3g} to {means[last]:.3g}; ours {ours[first]:.3g} to {ours[last]:.3g}"
        lines.append([f"{norm(p)}: radii from {first} to {last} layers", f"falling, axis {span}", here])
    if 2 in depths:
        least = min(min(_radii(ledger, 2, p, OURS)) / LARGEST[p] for p in LARGEST)
        here = f"every image reaches {100 * least:.0f} % of the largest radius tried"
        lines.append(["2 layers", "no stationary point anywhere", here])
    return table(["what", "paper", "here"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Find, tell and draw."""
    given = options(__doc__, arguments)
    depths = given.pick([2, 3], range(2, 11), range(2, 11))
    graphs = {depth: given.material.network(f"mnist_{depth}layer_leaky_20") for depth in depths}
    points = images(given, list(graphs.values()), given.pick(2, 20, 100))
    values = ("radius", "status", "cpu_s")
    ledger = Ledger(given.out / f"{NAME}.csv", ("depth", "weights", "norm", "method", "image"), values, given.fresh)
    cells = [
        {"depth": depth, "weights": graph.fingerprint[:8], "norm": norm(p), "method": method}
        for depth, graph in graphs.items()
        for p in LARGEST
        for method in METHODS
    ]
    named = {norm(p): p for p in LARGEST}

    def work(depth: int, weights: str, norm: str, method: str) -> Iterator[dict[str, object]]:
        return radii(graphs[depth], points, named[norm], method)

    ledger.fill(cells, work)
    draw(given, ledger, depths)
    publish(given, NAME, "RecurJac, Figure 2: radii without stationary points", tables(given, ledger, depths))


if __name__ == "__main__":
    run(main)
