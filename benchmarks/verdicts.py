"""`python -m benchmarks.verdicts SECONDS [COUNT]`: properties of ACAS Xu, decided or not within CPU seconds for each.

The list of VNN-COMP 2021 (its time-out is 116 seconds) in a shuffled order, the first COUNT of it; every witness is run
in onnxruntime, and no property that is said to hold may be violated at random points there.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import torch

import jacobound as jb
from benchmarks.plan import data_folder
from jacobound.importers.onnx.file import run_onnx
from jacobound.verifying.standard import read_instances

SAMPLES = 1000  # random points of a property that is said to hold


def violations(file: Path, graph: jb.Graph, claim: jb.Property) -> int:
    """Random points that the engine finds to violate a property, strict or not."""
    generator, found = torch.Generator().manual_seed(0), 0
    for case in claim.cases_for(graph.in_shape, 5):
        low, high = torch.as_tensor(case.box.lower), torch.as_tensor(case.box.upper)
        points = low + torch.rand(SAMPLES, *graph.in_shape, generator=generator, dtype=torch.float64) * (high - low)
        outputs = run_onnx(file, points.to(torch.float32).to(torch.float64))[0].double().flatten(1)
        for alternative in case.unsafe:
            sides = [sum(factor * outputs[:, k] for k, factor in one.outputs) - float(one.bound) for one in alternative]
            found += int((torch.stack([torch.as_tensor(side) for side in sides]) < 0).all(0).sum())
    return found


def main(seconds: float, count: int) -> None:
    """Print a line for each instance, and how many of each kind there were."""
    data = data_folder()
    assert data is not None, "the networks of ACAS Xu are in the folder that JACOBOUND_SHARED_DATA names"
    folder, counts, wrong = data / "acasxu", Counter[str](), 0
    listed = read_instances(folder / "instances.csv")
    Random(0).shuffle(listed)
    print(f"{'network':8} {'property':12} {'verdict':9} {'CPU s':>7} {'parts':>8}  least margin")
    for one in listed[:count]:
        file = folder / one.network
        graph = jb.from_onnx(file)
        claim = jb.Property.from_vnnlib(folder / one.claim, graph.in_shape)
        began = time.process_time()
        found = jb.verify(graph, claim, budget=jb.Budget(cpu_seconds=seconds), model=file)
        took, word = time.process_time() - began, found.decision.name.lower()
        counts[word] += 1
        if found.holds is True:
            wrong += violations(file, graph, claim) > 0
        elif found.holds is False:
            wrong += found.engine is None or not found.engine.violates
        margin = f"{float(found.lower):.4g} to {float(found.upper):.4g}"
        print(f"{one.network[13:16]:8} {one.claim:12} {word:9} {took:7.2f} {found.parts:8}  {margin}", flush=True)
    print(", ".join(f"{number} {word}" for word, number in sorted(counts.items())), f"; {wrong} wrong by onnxruntime")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 30)
