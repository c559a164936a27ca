"""AutoLip/SeqLip's "ideal scenario": how much pairs of layers gain over single ones for layers of prescribed spectra.

Hidden layers are square, 100 wide, with singular values 1, r, ..., r and random singular vectors; the input has two
entries and the output one. Theory: where r is small, SeqLip / AutoLip falls like 1 / pi for each hidden layer.

Run: ``python examples/paper/ideal_scenario.py [--full]``
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import pi
from statistics import fmean

import torch
from drawing import BLACK, BLUE, GREEN, ORANGE, panels, save
from ledger import Ledger, Options, options, publish, run, table, timed

import jacobound as jb

NAME = "ideal_scenario"
RATIOS = {0.5: BLUE, 0.1: ORANGE, 0.01: GREEN}
OURS = "LipSDP()"
WIDTH, INPUTS, OUTPUTS = 100, 2, 1
SECONDS = 6.0  # for each semidefinite constant in a short run


def spectral_matrix(rows: int, columns: int, r: float, generator: torch.Generator) -> torch.Tensor:
    """A random matrix with the singular values 1, r, ..., r, float64."""
    size = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, size, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, size, generator=generator, dtype=torch.float64))
    values = torch.full((size,), r, dtype=torch.float64)
    values[0] = 1.0
    return left @ (values[:, None] * right.T)


def ideal_network(hidden: int, r: float, seed: int, width: int) -> jb.Graph:
    """A ReLU network whose layers all have that spectrum; the product of its norms is 1."""
    generator = torch.Generator().manual_seed(seed)
    widths = [INPUTS, *[width] * hidden, OUTPUTS]
    matrices = [spectral_matrix(after, before, r, generator) for before, after in pairwise(widths)]
    return jb.from_layers(matrices, activation="relu")


def ratios(hidden: int, r: float, seed: int, width: int, seconds: float) -> Iterator[dict[str, object]]:
    """Certified constants of one network, over the product of norms."""
    graph = ideal_network(hidden, r, seed, width)
    auto = float(jb.lipschitz(graph, jb.WholeSpace(), jb.AutoLip(), search=None).upper)
    for name, method, limit in (("SeqLip", jb.SeqLip(), 120.0), (OURS, jb.LipSDP(), seconds)):
        found, cpu = timed(
            lambda m=method, s=limit: jb.lipschitz(graph, jb.WholeSpace(), m, search=None, budget=jb.Budget(s))
        )
        value, status = float(found.upper) / auto, found.status.name.lower()
        yield {"method": name, "ratio": value, "status": status, "cpu_s": cpu}


def mean(ledger: Ledger, hidden: int, r: float, method: str = "SeqLip") -> float:
    """Over the seeds."""
    return fmean(float(row["ratio"]) for row in ledger.find(hidden=hidden, r=r, method=method))


def draw(given: Options, ledger: Ledger, depths: Sequence[int]) -> None:
    """The ratio over the number of hidden layers, beside powers of 1 / pi."""
    figure, axes = panels(1, 1, 7.2, 4.8)
    (panel,) = axes
    for r, colour in RATIOS.items():
        panel.plot(depths, [mean(ledger, k, r) for k in depths], "o-", color=colour, label=f"SeqLip, r = {r:g}")
        ours = [mean(ledger, k, r, OURS) for k in depths]
        panel.plot(depths, ours, "x--", color=colour, label=f"{OURS}, r = {r:g}")
    panel.plot(depths, [pi**-k for k in depths], ":", color=BLACK, label="theory: π to the power -layers")
    panel.set(yscale="log", xticks=list(depths), title="Layers with singular values 1, r, ..., r")
    panel.set_xlabel(f"hidden layers of {given.pick(20, WIDTH, WIDTH)} neurons")
    panel.set_ylabel("certified l2 constant / product of norms")
    save(figure, axes, given.out / NAME, 3)


def tables(given: Options, ledger: Ledger, depths: Sequence[int]) -> list[str]:
    """Mean ratios over depth."""
    path = given.material.data / "reference" / "seqlip" / "figure_ideal.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and given.size != "tiny" else []
    stored = {(entry["hidden"], entry["r"]): entry["dual_CERT"] for entry in known}
    lines = []
    for hidden in depths:
        line: list[object] = [hidden, pi**-hidden]
        for r in RATIOS:
            other = f" ({stored[hidden, r]:.3g})" if (hidden, r) in stored else ""
            line += [f"{mean(ledger, hidden, r):.3g}{other}", mean(ledger, hidden, r, OURS)]
        lines.append(line)
    header = [name for r in RATIOS for name in (f"SeqLip, r = {r:g}", f"LipSDP, r = {r:g}")]
    falls = []
    last, first = depths[-1], depths[0]
    for r in RATIOS:
        fall = (mean(ledger, last, r) / mean(ledger, first, r)) ** (1 / (last - first))
        ours = (mean(ledger, last, r, OURS) / mean(ledger, first, r, OURS)) ** (1 / (last - first))
        theory = "1/π = 0.318 in the limit, slower for larger r"
        falls.append([f"factor for each further hidden layer, r = {r:g}", theory, f"{fall:.3f}; LipSDP {ours:.3f}"])
    seeds = len(ledger.find(hidden=first, r=0.5, method="SeqLip"))
    return [
        f"Certified constant over the product of norms, mean of {seeds} random networks; in brackets another "
        "implementation of the same dual on its own random matrices, where that is stored.",
        table(["hidden", "π^-hidden", *header], lines),
        "**Beside the paper** (its figure has no table)",
        table(["what", "paper", "here"], falls),
        "Random singular vectors differ. Curves lie above the powers of 1/π because the width is finite: for r → 0 a "
        "pair of layers with singular vectors u and v counts with the larger of the sums of the positive and of the "
        "negative products of entries, about 1/π + |<u, v>| / 2, and |<u, v>| is about 0.1 at width 100. With r = 0.5 "
        "the other singular values carry most of the norm, and little can be gained. With an even number of hidden "
        "layers SeqLip divides one layer between two pairs, which puts the root of r in the place of r. LipSDP sees "
        f"all layers at once; it had {given.pick(2, SECONDS, 60):g} seconds for each network.",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Find, tell and draw."""
    given = options(__doc__, arguments)
    width = given.pick(20, WIDTH, WIDTH)
    depths = given.pick([1, 2], [1, 2, 3, 5, 7, 9], list(range(1, 10)))
    seeds = given.pick(1, 2, 10)
    cells = [{"hidden": hidden, "r": r, "seed": seed} for hidden in depths for r in RATIOS for seed in range(seeds)]
    ledger = Ledger(
        given.out / f"{NAME}.csv", ("hidden", "r", "seed", "method"), ("ratio", "status", "cpu_s"), given.fresh
    )

    def work(hidden: int, r: float, seed: int) -> Iterator[dict[str, object]]:
        return ratios(hidden, r, seed, width, given.pick(2.0, SECONDS, 60.0))

    ledger.fill(cells, work)
    draw(given, ledger, depths)
    publish(given, NAME, "AutoLip/SeqLip: the ideal scenario", tables(given, ledger, depths))


if __name__ == "__main__":
    run(main)
