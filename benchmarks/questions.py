"""Tables for the questions: ``python -m benchmarks.questions radii|attack|landscape|signs``, beside the reference data.

Set ``JACOBOUND_SHARED_DATA`` to the folder of reference data. Times are CPU seconds of this process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import jacobound as jb

ROBUST = (
    "mnist_3layer_relu_1024",
    "mnist_3layer_relu_1024_adv",
    "mnist_4layer_relu_1024",
    "mnist_4layer_relu_1024_adv",
)
METHODS: dict[str, tuple[Any, int]] = {
    "published": (jb.RecurJac("constant"), 32),
    "recurjac": (jb.RecurJac(), 4),
    "crown": (jb.CROWN(), 8),
    "all": (None, 8),
}


def data() -> Path:
    """The folder of reference data."""
    return Path(os.environ.get("JACOBOUND_SHARED_DATA", "../shared/data"))


def summary(key: str) -> dict[str, Any]:
    """A part of what the reference code measured."""
    return json.loads((data() / "reference" / "recurjac" / "summary.json").read_text(encoding="utf-8"))[key]


def pixels(indices: list[int]) -> np.ndarray:
    """MNIST test images as the networks take them."""
    with np.load(data() / "mnist" / "mnist_test.npz") as archive:
        images = archive["x"][indices].reshape(len(indices), -1)
    return images.astype(np.float32) / np.float32(255) - np.float32(0.5)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the CPU seconds that it took."""
    began = time.process_time()
    found = work()
    return found, time.process_time() - began


def subjects(nets: list[str], images: list[int]) -> Iterator[tuple[str, jb.Graph, dict[str, Any], np.ndarray]]:
    """Networks with images and what the reference found for them."""
    for net in nets:
        graph = jb.from_onnx(data() / "nets" / f"{net}.onnx")
        known = summary("robustness")[net]["images"]
        for place in images:
            yield net, graph, known[place], pixels([known[place]["idx"]])[0]


def radii(options: argparse.Namespace) -> None:
    """Certified radii per image, over all nine targets, beside those of the reference for its three."""
    heads = ("image", "method", "untargeted", "mean", ">= reference", "CPU s", "reference")
    print(f"{'network':28}" + "".join(f"{head:>13}" for head in heads))
    for net, graph, image, point in subjects(options.nets, options.images):
        for name in options.methods:
            method, steps = METHODS[name]
            result, seconds = timed(
                lambda m=method, s=steps, g=graph, x=point, i=image: jb.robust_radius(
                    g, x, i["label"], method=m, steps=s, attack=None, seconds=options.seconds
                )
            )
            places = [result.targets.tolist().index(target) for target in image["targets"].values()]
            ratio = float((result.radius[places] / torch.tensor(image["radius"]["recurjac"])).min())
            numbers = (float(result.untargeted), float(result.radius.mean()), ratio, seconds, image["cpu_s"])
            print(f"{net:28}{image['idx']:>13}{name:>13}" + "".join(f"{x:>13.5g}" for x in numbers), flush=True)


def attack(options: argparse.Namespace) -> None:
    """Projected gradient descent, many restarts, on the sphere of each certified radius: none may succeed."""
    for net, graph, image, point in subjects(options.nets, options.images):
        result = jb.robust_radius(graph, point, image["label"], attack=None, seconds=options.seconds)
        rows = torch.eye(10, dtype=torch.float64)
        rows = rows[image["label"]] - rows[result.targets]
        balls, _ = jb.Ball(np.repeat(point[None], len(rows), 0), 0.0).balls(graph)
        pgd = jb.PGD(restarts=options.restarts, steps=20, seed=image["idx"])
        generator = torch.Generator().manual_seed(pgd.seed)
        found = pgd.within(graph, balls, rows, result.radius, generator, jb.Budget(memory=1 << 28))
        lost = int((~found.isnan().any(1)).sum())
        print(
            f"{net:28}{image['idx']:>6}  {lost} of {len(rows)} targets reached inside the certified radii", flush=True
        )


def landscape(options: argparse.Namespace) -> None:
    """Radii without stationary points of the leaky networks, over depth, beside the reference."""
    known = summary("landscape")
    points = pixels(known["indices"])
    row = torch.eye(10, dtype=torch.float64)[[known["cls"]]]
    print(f"{'depth':>6}{'norm':>6}{'mean':>10}{'reference':>11}{'least ratio':>13}{'CPU s/image':>13}{'ref':>8}")
    for depth in options.depths:
        graph = jb.from_onnx(data() / "nets" / f"mnist_{depth}layer_leaky_20.onnx")
        for p, largest in ((math.inf, 1.0), (2.0, 10.0)):
            theirs = known["res"][f"depth{depth}_p{'inf' if math.isinf(p) else p}"]
            result, seconds = timed(
                lambda g=graph, q=p, r=largest: jb.stationary_free_radius(g, points, row, q, largest=r)
            )
            ours, reference = result.radius[:, 0], torch.tensor(theirs["eps_max"])
            print(
                f"{depth:>6}{p:>6g}{float(ours.mean()):>10.5f}{float(reference.mean()):>11.5f}"
                f"{float((ours / reference).min()):>13.3f}{seconds / len(points):>13.3f}{theirs['cpu_s'] / 20:>8.3f}",
                flush=True,
            )


def signs(options: argparse.Namespace) -> None:
    """Certified signs of the ACAS Xu networks' derivatives over the boxes of their properties."""
    for net in ("ACASXU_run2a_1_1_batch_2000", "ACASXU_run2a_2_2_batch_2000"):
        graph = jb.from_onnx(data() / "third_party" / f"{net}.onnx")
        for name in ("prop_3", "prop_7", "prop_1"):
            for box in jb.Box.all_from_vnnlib(data() / "vnnlib" / f"{name}.vnnlib", graph.in_shape):
                result, seconds = timed(
                    lambda g=graph, b=box: jb.monotone_features(
                        g, b, most=options.parts, budget=jb.Budget(seconds=options.seconds)
                    )
                )
                words = result.words()
                counts = ", ".join(f"{words.count(word)} {word}" for word in sorted(set(words)))
                print(
                    f"{net} {name}: {counts} of {len(words)}; {int(result.boxes)} parts, {seconds:.1f} CPU s",
                    flush=True,
                )
                print(_signs(words, result.lower.reshape(-1, 5)), flush=True)


def _signs(words: list[str], shaped: Tensor) -> str:
    """One line per output: + certified rising, - falling, x both, ? undecided, for every input."""
    marks = {"increasing": "+", "decreasing": "-", "both": "x", "undecided": "?", "constant": "0"}
    width = shaped.shape[1]
    return "\n".join(
        "    " + " ".join(marks[word] for word in words[k : k + width]) for k in range(0, len(words), width)
    )


def main() -> None:
    """Parse and run one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("radii", "attack", "landscape", "signs"))
    parser.add_argument("--nets", nargs="+", default=list(ROBUST))
    parser.add_argument("--images", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--depths", nargs="+", type=int, default=list(range(2, 11)))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--restarts", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"radii": radii, "attack": attack, "landscape": landscape, "signs": signs}[options.table](options)


if __name__ == "__main__":
    main()
