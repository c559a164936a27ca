"""Measurements of the questions: ``python -m benchmarks.questions radii|attack|landscape|signs``, then ``tables``.

Set ``JACOBOUND_SHARED_DATA`` to the folder of reference data. Times are CPU seconds of this process. Radii, attacks and
signs are recorded in ``benchmarks/results/questions.json``; what is recorded there is not measured again, so a run can
be interrupted and resumed. ``tables`` writes ``docs/questions.md`` from the records.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import jacobound as jb
from benchmarks.plan import REPOSITORY
from benchmarks.question_tables import rendered

ROBUST = (
    "mnist_3layer_relu_1024",
    "mnist_3layer_relu_1024_adv",
    "mnist_4layer_relu_1024",
    "mnist_4layer_relu_1024_adv",
)
METHODS: dict[str, tuple[Any, int]] = {
    "constant": (jb.RecurJac("constant"), 12),
    "chord": (jb.RecurJac(), 2),
    "crown": (jb.CROWN(), 8),
    "all": (None, 4),
}
RESULTS = REPOSITORY / "benchmarks" / "results" / "questions.json"
DOCUMENT = REPOSITORY / "docs" / "questions.md"


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


def stored(path: Path) -> dict[str, Any]:
    """All records."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


@contextlib.contextmanager
def records(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """One record, empty if there is none; what is put in is stored at the end, also beside other processes."""
    record: dict[str, Any] = dict(stored(path).get(key, {}))
    before = bool(record)
    yield record
    if record and not before:
        everything = stored(path) | {key: record}
        path.write_text(json.dumps(everything, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def subjects(nets: list[str], images: list[int]) -> Iterator[tuple[str, jb.Graph, dict[str, Any], np.ndarray]]:
    """Networks with images and what the reference found for them."""
    for net in nets:
        graph = jb.from_onnx(data() / "nets" / f"{net}.onnx")
        known = summary("robustness")[net]["images"]
        for place in images:
            yield net, graph, known[place], pixels([known[place]["idx"]])[0]


def radii(options: argparse.Namespace) -> None:
    """Certified radii per image, over all nine targets, beside those of the reference for its three."""
    for net, graph, image, point in subjects(options.nets, options.images):
        for name in options.methods:
            with records(options.results, f"radii {net} {image['idx']} {name}") as record:
                if record:
                    continue
                method, steps = METHODS[name]
                result, seconds = timed(
                    lambda m=method, s=steps, g=graph, x=point, i=image: jb.robust_radius(
                        g, x, i["label"], method=m, steps=s, attack=None, seconds=options.seconds
                    )
                )
                record |= {
                    "targets": result.targets.tolist(),
                    "radius": result.radius.tolist(),
                    "details": {key: value.tolist() for key, value in result.details.items()},
                    "cpu_s": seconds,
                    "steps": steps,
                    "reference": dict(zip(image["targets"].values(), image["radius"]["recurjac"], strict=True)),
                    "reference_cpu_s": image["cpu_s"],
                }
                print(f"{net} {image['idx']} {name}: {seconds:.1f} CPU s, {float(result.untargeted):.5f}", flush=True)


def attack(options: argparse.Namespace) -> None:
    """Projected gradient descent, many restarts, on the ball of each certified radius: none may succeed.

    Takes the radii that `radii` has recorded for the default method; also records the nearest adversarial points.
    """
    for net, graph, image, point in subjects(options.nets, options.images):
        known = stored(options.results).get(f"radii {net} {image['idx']} all")
        with records(options.results, f"attack {net} {image['idx']}") as record:
            if record or known is None:
                continue
            rows = torch.eye(10, dtype=torch.float64)
            rows = rows[image["label"]] - rows[known["targets"]]
            single = graph.to(dtype=torch.float32)
            balls, _ = jb.Ball(np.repeat(point[None], len(rows), 0), 0.0).balls(single)
            certified, began = torch.tensor(known["radius"], dtype=torch.float64), time.process_time()
            pgd = jb.PGD(restarts=options.restarts, steps=10, seed=image["idx"])
            generator = torch.Generator().manual_seed(pgd.seed)
            found = pgd.within(single, balls, rows, certified, generator, jb.Budget(memory=1 << 28))
            inside = int((~found.isnan().any(1)).sum())
            near = jb.PGD(restarts=20, steps=40, rounds=12).nearest(single, balls, rows, certified, jb.Budget())
            distance = (near.double() - torch.tensor(point).double()).abs().amax(1)
            record |= {"inside": inside, "restarts": options.restarts, "certified": known["radius"]}
            record |= {"attack": distance.tolist(), "cpu_s": time.process_time() - began}
            print(f"{net} {image['idx']}: {inside} of {len(rows)} targets reached inside certified radii", flush=True)


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
        for name in ("prop_1", "prop_3", "prop_7"):
            boxes = jb.Box.all_from_vnnlib(data() / "vnnlib" / f"{name}.vnnlib", graph.in_shape)
            for place, box in enumerate(boxes):
                with records(options.results, f"signs {net[13:16]} {name} {place}") as record:
                    if record:
                        continue
                    result, seconds = timed(
                        lambda g=graph, b=box: jb.monotone_features(
                            g, b, most=options.parts, budget=jb.Budget(seconds=options.seconds)
                        )
                    )
                    record |= {"words": result.words(), "parts": int(result.boxes), "cpu_s": seconds}
                    print(f"{net} {name}: {int(result.boxes)} parts, {seconds:.1f} CPU s", flush=True)


def main() -> None:
    """Parse and run one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("radii", "attack", "landscape", "signs", "tables"))
    parser.add_argument("--nets", nargs="+", default=list(ROBUST))
    parser.add_argument("--images", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--depths", nargs="+", type=int, default=list(range(2, 11)))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--restarts", type=int, default=1000)
    parser.add_argument("--parts", type=int, default=500)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table == "tables":
        DOCUMENT.write_text(rendered(stored(options.results)), encoding="utf-8")
        return
    {"radii": radii, "attack": attack, "landscape": landscape, "signs": signs}[options.table](options)


if __name__ == "__main__":
    main()
