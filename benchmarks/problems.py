"""Networks and points as the library takes them: a graph, a ball, and the rows that are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from math import inf
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import jacobound as jb
from benchmarks.plan import DEMO, NETWORKS, Network, data_folder

CHANNEL_MEANS, CHANNEL_DEVIATIONS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True, eq=False)
class Problem:
    """A network at a point.

    Args:
        graph: the network.
        centre: shape of the network's input.
        label: the output that single-row measurements ask about.
    """

    graph: jb.Graph
    centre: Tensor
    label: int

    def ball(self, radius: float) -> jb.Ball:
        return jb.Ball(self.centre, radius, inf)

    def row(self) -> Tensor:
        """The label's output as a matrix of one row."""
        return torch.eye(self.graph(self.centre).numel(), dtype=torch.float64)[[self.label]]


def problem(name: str) -> Problem:
    """The problem of that name; `DEMO` needs nothing but the package.

    Raises:
        FileNotFoundError: when the data folder is absent.
    """
    if name == DEMO:
        return _demo()
    data = data_folder()
    if data is None:
        raise FileNotFoundError(f"'{name}' needs the data folder; set JACOBOUND_SHARED_DATA to it")
    network = NETWORKS[name]
    graph = jb.from_onnx(data / network.file, until=network.until)
    if network.point is not None:
        with np.load(data / "reference" / "peers" / "points.npz") as points:
            centre, label = points[f"{network.point}__x0_0"], int(points[f"{network.point}__c_0"])
        return Problem(graph, torch.as_tensor(centre).reshape(graph.in_shape), label)
    if network.images == "none":
        centre = torch.zeros(graph.in_shape, dtype=torch.float64)
        return Problem(graph, centre, int(graph(centre).argmax()))
    images, labels = _images(network, data)
    images = images.reshape(-1, *graph.in_shape)
    index = network.image
    if index is None:
        index = int((graph(images).flatten(1).argmax(1) == labels).nonzero()[0])
    return Problem(graph, images[index], int(labels[index]))


def _demo() -> Problem:
    folder = files("jacobound") / "data"
    graph = jb.from_onnx((folder / "mnist_4layer_relu_64.onnx").read_bytes())
    with (folder / "mnist_images.npz").open("rb") as file, np.load(file) as images:
        pixels, label = images["x"][0], int(images["y"][0])
    return Problem(graph, torch.as_tensor(pixels / 255 - 0.5).reshape(graph.in_shape), label)


def _images(network: Network, data: Path) -> tuple[Tensor, Tensor]:
    """A few hundred test images as the network wants them, shape (images, ...), and their labels."""
    file = "mnist/mnist_test.npz" if network.images == "mnist" else "cifar10/cifar10_test_500.npz"
    with np.load(data / file) as stored:
        pixels, labels = stored["x"][:500] / 255, stored["y"][:500]
    if network.preparation == "centred":
        pixels = pixels - 0.5
    elif network.preparation == "bytes":
        pixels = pixels * 255
    elif network.preparation == "standardised":
        pixels = (pixels - np.array(CHANNEL_MEANS)) / np.array(CHANNEL_DEVIATIONS)
    if network.images == "cifar" and network.order == "chw":
        pixels = pixels.transpose(0, 3, 1, 2)
    return torch.as_tensor(np.ascontiguousarray(pixels)), torch.as_tensor(labels.astype(np.int64))
