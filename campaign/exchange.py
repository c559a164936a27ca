"""Imported networks against the networks themselves: PyTorch modules by autograd, ONNX files by onnxruntime."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Generator, Tensor

from campaign.claims import JACOBIAN_METHODS, OUTPUT_METHODS, status_is_wrong
from campaign.families import pick
from campaign.runner import Part, Tally
from jacobound import Ball, Graph, bound_jacobian, bound_output, from_onnx, from_torch
from jacobound.arithmetic.intervals import Interval
from oracles import not_enclosed
from torch_models import MODELS, randomised
from zoo import integer

POINTS = 4
RADIUS = 0.05
CONSTANTS = 1e-6  # numbers in a module's code are rounded to float32 in the module, and to float64 in its double copy


def check_torch(generator: Generator) -> Tally:
    """A module with new random weights: values and Jacobians inside a small ball."""
    name, tally = pick([*MODELS], generator), Tally()
    make, shape = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(0, 2**30, generator))
        module = randomised(make())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
        graph = from_torch(module, torch.zeros(2, *shape, dtype=dtype))
    double = copy.deepcopy(module).double()
    centre, points = _points(shape, generator)
    with torch.no_grad():
        values = double(points.clone()).reshape(POINTS, -1)  # some modules work in place
    own = graph(points).reshape(POINTS, -1)
    far = ~torch.isclose(own, values, rtol=CONSTANTS, atol=CONSTANTS)
    tally.add("values of modules", values.numel(), [f"{name}: {int(far.sum())} values differ"] if far.any() else [])
    ball = Ball(centre, RADIUS)
    tally.merge(_output_bounds(name, graph, ball, values, CONSTANTS, generator))
    method = JACOBIAN_METHODS[integer(0, len(JACOBIAN_METHODS) - 1, generator)]
    found = bound_jacobian(graph, ball, method)
    truth = torch.stack([_jacobian(double, point) for point in points])
    error = 10 * CONSTANTS * (1 + truth.abs())
    bounds = Interval(*(end.reshape(truth.shape[1:]) for end in (found.lower, found.upper)))
    wrong = not_enclosed(bounds, truth, error) + status_is_wrong(found.status, found.lower, found.upper)
    tally.add("Jacobians of modules", truth.numel(), [f"{name}, {method}: {line}" for line in wrong])
    return tally


def _points(shape: tuple[int, ...], generator: Generator) -> tuple[Tensor, Tensor]:
    centre = torch.randn(shape, generator=generator).to(torch.float64)
    offsets = RADIUS * 0.999 * (2 * torch.rand(POINTS, *shape, generator=generator).to(torch.float64) - 1)
    return centre, centre + offsets


def _jacobian(module: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Shape (outputs, inputs), by reverse mode."""
    found = torch.autograd.functional.jacobian(lambda x: module(x.unsqueeze(0).clone()).flatten(), point)
    assert isinstance(found, Tensor)
    return found.reshape(found.shape[0], -1)


def _output_bounds(
    name: str, graph: Graph, ball: Ball, values: Tensor, tolerance: float, generator: Generator
) -> Tally:
    tally, method = Tally(), OUTPUT_METHODS[integer(0, len(OUTPUT_METHODS) - 1, generator)]
    found = bound_output(graph, ball, method)
    bounds = Interval(found.lower.flatten(), found.upper.flatten())
    wrong = not_enclosed(bounds, values, tolerance * (1 + values.abs()))
    wrong += status_is_wrong(found.status, found.lower, found.upper)
    tally.add("outputs of imported networks", values.numel(), [f"{name}, {method}: {line}" for line in wrong])
    return tally


# --- ONNX ---------------------------------------------------------------------------------------------------------

ELEMENTWISE = ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Softplus", "HardSigmoid", "Neg", "Identity")


def random_onnx(generator: Generator) -> tuple[bytes, tuple[int, ...]]:
    """A random chain of operations on an image, with skips, and then dense layers; and the shape of its input."""
    from onnx_models import model, node

    weights: dict[str, np.ndarray] = {}
    channels, height, width = integer(1, 3, generator), integer(4, 6, generator), integer(4, 6, generator)
    shape = (channels, height, width)
    nodes, last, same = [], "x", "x"

    def add(op: str, inputs: str, **attributes: object) -> None:
        nonlocal last
        name = f"t{len(nodes)}"
        nodes.append(node(op, inputs, name, **attributes))
        last = name

    def stored(*sizes: int) -> str:
        name = f"w{len(weights)}"
        weights[name] = (0.5 * torch.randn(sizes, generator=generator)).numpy()
        return name

    for _ in range(integer(1, 4, generator)):
        kind = integer(0, 5, generator)
        if kind == 0:
            add("Conv", f"{last} {stored(channels, channels, 3, 3)} {stored(channels)}", pads=[1, 1, 1, 1])
        elif kind == 1:
            add(ELEMENTWISE[integer(0, len(ELEMENTWISE) - 1, generator)], last)
        elif kind == 2:
            add("Mul" if integer(0, 1, generator) else "Add", f"{last} {stored(channels, 1, 1)}")
        elif kind == 3:
            add("Add" if integer(0, 1, generator) else "Sub", f"{last} {same}")
            same = last
        elif kind == 4:
            scale, shift, mean = (stored(channels) for _ in range(3))
            variance = stored(channels)
            weights[variance] = np.abs(weights[variance]) + np.float32(0.1)
            add("BatchNormalization", f"{last} {scale} {shift} {mean} {variance}")
        else:
            add("AveragePool", last, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    add("Flatten", last)
    size = channels * height * width
    for _ in range(integer(1, 2, generator)):
        after = integer(2, 5, generator)
        add("Gemm", f"{last} {stored(after, size)} {stored(after)}", transB=1)
        add(ELEMENTWISE[integer(0, len(ELEMENTWISE) - 1, generator)], last)
        size = after
    nodes[-1].output[0] = "y"
    return model(nodes, ("N", *shape), weights, opset=17), shape


def check_onnx(generator: Generator) -> Tally:
    """A random file: onnxruntime's float32 results agree with the graph and lie inside its bounds."""
    tally = Tally()
    if importlib.util.find_spec("onnxruntime") is None:
        return tally
    import onnxruntime

    data, shape = random_onnx(generator)
    graph = from_onnx(data)
    centre, points = _points(shape, generator)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    given = points.to(torch.float32)
    values = torch.tensor(session.run(None, {"x": given.numpy()})[0]).double().reshape(POINTS, -1)
    own = graph(given.double()).reshape(POINTS, -1)
    far = ~torch.isclose(own, values, rtol=1e-4, atol=1e-4)
    tally.add("values of ONNX files", values.numel(), [f"{int(far.sum())} values differ"] if far.any() else [])
    tally.merge(_output_bounds("ONNX", graph, Ball(centre, RADIUS), values, 1e-4, generator))
    return tally


def batch(generator: Generator) -> Tally:
    """One module and three files."""
    tally = Tally()
    for check in (check_torch, check_onnx, check_onnx, check_onnx):
        try:
            found = check(generator)
        except Exception as error:
            found = Tally(violations=[f"{check.__name__} raised {error!r:.500}"])
        found.cases["networks"] += 1
        tally.merge(found)
    return tally


PART = Part("exchange", "networks", batch, ("networks",))
