"""`python -m benchmarks.copies`: how far an 8-bit copy of the packaged network is from it, paired and one by one.

Weights of the copy are the nearest of 255 multiples of one number per layer. The paired columns are bounds of
`jacobound.difference`; the others subtract the bounds of two networks. Seconds are those of one processor.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path

import numpy as np
import torch

import jacobound as jb

DATA = Path(jb.__file__).parent / "data"
RADII = (0.001, 0.005, 0.01, 0.02, 0.05)


def networks() -> tuple[jb.Graph, jb.Graph, torch.Tensor]:
    """The packaged network, its copy, and an image."""
    onnx = importlib.import_module("onnx")
    path = DATA / "mnist_4layer_relu_64.onnx"
    model = onnx.load(path)
    for one in model.graph.initializer:
        values = onnx.numpy_helper.to_array(one)
        if values.ndim == 2 and values.dtype.kind == "f":
            step = np.abs(values).max() / 127
            rounded = (np.round(values / step) * step).astype(values.dtype)
            one.CopyFrom(onnx.numpy_helper.from_array(rounded, one.name))
    graph, copy = jb.from_onnx(path), jb.from_onnx(model.SerializeToString())
    image = torch.tensor(np.load(DATA / "mnist_images.npz")["x"][3].astype("float32")) / 255 - 0.5
    return graph, copy, image.reshape(graph.in_shape)


def largest(lower: torch.Tensor, upper: torch.Tensor) -> float:
    return float(torch.maximum(lower.abs(), upper.abs()).max())


def main() -> None:
    """Print the table."""
    graph, copy, image = networks()
    apart = jb.difference(graph, copy)
    print("| radius | output, paired | one by one | sampled | Jacobian, paired | one by one | seconds |")
    print("|---|---|---|---|---|---|---|")
    for radius in RADII:
        ball, began = jb.Ball(image, radius), time.process_time()
        outputs, entries = jb.bound_output(apart, ball, jb.CROWN()), jb.bound_jacobian(apart, ball)
        took = time.process_time() - began
        first, second = (jb.bound_output(one, ball, jb.CROWN()) for one in (graph, copy))
        here, there = (jb.bound_jacobian(one, ball) for one in (graph, copy))
        points = ball.domains(apart)[0][:1].sample(200, torch.Generator().manual_seed(0))[0]
        cells = (
            largest(outputs.lower, outputs.upper),
            largest(first.lower - second.upper, first.upper - second.lower),
            float(apart(points).abs().max()),
            largest(entries.lower, entries.upper),
            largest(here.lower - there.upper, here.upper - there.lower),
            took,
        )
        print(f"| {radius} | " + " | ".join(f"{cell:.4g}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
