"""`docs/questions.md` from the records of `benchmarks.questions`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.layout import table

Records = Mapping[str, Mapping[str, Any]]

HEAD = """# Answers to questions: measurements

Written by `python -m benchmarks.questions tables` from `benchmarks/results/questions.json`. CPU seconds of one thread.
"""
RECURJAC = """## Radii by Jacobian bounds

l∞, the first images of the MNIST test set, all nine other classes as targets. The reference is what the code of
RecurJac's authors certifies by Theorem 2 for three targets of each image (runner-up, random, least likely; one march
with right end points, constant rule). `least` is the smallest ratio to it over images and those targets, `mean` the
mean ratio. CPU seconds are those of all nine targets, as a share of what the reference takes for its three (with
Fast-Lip), in the median over images; 0.2 at most is wanted.
"""
DEFAULT = """## The default beside CROWN

`robust_radius` without a method, l∞, all nine targets: ratio of its radius to that of the largest ball over which CROWN
keeps the margin positive, in the mean over targets, for the nearest target (`untargeted`), and the least; and the same
for RecurJac with the chord rule. `attacked` counts targets that projected gradient descent (random restarts in the
certified ball) reached inside the certified radius. `certified / attack` is the median ratio of certified radius to the
distance of the nearest adversarial point found, and its range over the targets. Each image had 60 s.
"""
SIGNS = """## Signs of derivatives of ACAS Xu networks

Over the box of each property: for every output the signs of its derivatives by the five inputs: `+` certified rising,
`-` falling, `x` both occur (proved by two pairs of points), `?` undecided.
"""
MARKS = {"increasing": "+", "decreasing": "-", "both": "x", "undecided": "?", "constant": "0"}


def rendered(records: Records) -> str:
    """The document."""
    parts = [HEAD, RECURJAC, _recurjac(records), DEFAULT, _default(records), SIGNS, _signs(records)]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _named(records: Records, kind: str) -> dict[tuple[str, ...], Mapping[str, Any]]:
    return {tuple(key.split()[1:]): value for key, value in records.items() if key.split()[0] == kind}


def _recurjac(records: Records) -> str:
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for (net, _, method), record in _named(records, "radii").items():
        if method in ("constant", "chord"):
            groups.setdefault((net, method), []).append(record)
    rows = []
    for (net, method), found in sorted(groups.items()):
        ratios, shares = [ratio for one in found for ratio in _to_reference(one)], [_cpu_share(one) for one in found]
        radius = fmean(fmean(one["radius"]) for one in found)
        numbers = (f"{radius:.5f}", f"{min(ratios):.3f}", f"{fmean(ratios):.3f}", f"{median(shares):.3f}")
        steps = sorted({one["steps"] for one in found})
        words = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        rows.append((net, method, words, str(len(found)), *numbers, f"{max(shares):.3f}"))
    heads = ("network", "rule", "`steps`", "images", "mean radius", "least", "mean", "CPU share", "largest share")
    return table(heads, rows)


def _to_reference(record: Mapping[str, Any]) -> list[float]:
    known = dict(zip(record["targets"], record["radius"], strict=True))
    return [known[int(target)] / radius for target, radius in record["reference"].items()]


def _cpu_share(record: Mapping[str, Any]) -> float:
    return record["cpu_s"] / record["reference_cpu_s"]


def _default(records: Records) -> str:
    radii, attacks = _named(records, "radii"), _named(records, "attack")
    rows, means = [], []
    for (net, image, method), found in sorted(radii.items()):
        crown = radii.get((net, image, "crown"))
        if method != "all" or crown is None:
            continue
        ratios = _ratios(found["radius"], crown["radius"])
        chord = radii.get((net, image, "chord"))
        above = "" if chord is None else f"{min(_ratios(found['radius'], chord['radius'])):.3f}"
        means.append(fmean(ratios))
        whole = min(found["radius"]) / min(crown["radius"])
        numbers = (f"{fmean(ratios):.3f}", f"{whole:.3f}", f"{min(ratios):.3f}", above, f"{found['cpu_s']:.0f}")
        rows.append((net, image, f"{min(crown['radius']):.5f}", f"{min(found['radius']):.5f}", *numbers))
        rows[-1] += _attacked(attacks.get((net, image)), found["radius"])
    heads = ("network", "image", "CROWN untargeted", "default untargeted", "mean / CROWN", "untargeted / CROWN")
    heads += ("least / CROWN", "least / RecurJac", "CPU s", "attacked", "certified / attack")
    summary = f"\nMean over {len(means)} images: {fmean(means):.3f} times CROWN.\n" if means else ""
    return table(heads, rows) + "\n" + summary


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _attacked(record: Mapping[str, Any] | None, radius: Sequence[float]) -> tuple[str, str]:
    if record is None or record["certified"] != list(radius):
        return "", ""
    ratios = [a / b for a, b in zip(radius, record["attack"], strict=True) if b == b]
    bracket = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else "none found"
    return f"{record['inside']} of {len(radius)} ({record['restarts']} restarts)", bracket


def _signs(records: Records) -> str:
    rows, words = [], Counter[str]()
    for (net, name, box), found in sorted(_named(records, "signs").items()):
        signs = [MARKS[word] for word in found["words"]]
        words.update(found["words"])
        lines = ["".join(signs[k : k + 5]) for k in range(0, len(signs), 5)]
        rows.append((net, f"{name}, box {box}", *(f"`{line}`" for line in lines), f"{found['parts']}"))
        rows[-1] += (f"{found['cpu_s']:.1f}",)
    heads = ("network", "property", "output 1", "output 2", "output 3", "output 4", "output 5", "parts", "CPU s")
    counts = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    return table(heads, rows) + f"\n\n{counts}.\n"
