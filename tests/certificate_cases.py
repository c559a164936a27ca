"""Small networks, cores and chains that certificates are tried on, and the exact norms of their Jacobians."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from jacobound import IBP, Ball, Budget, Graph, from_layers
from jacobound.arithmetic.intervals import Interval
from jacobound.certificates.dense.matrices import SdpCore
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.graph.derivative import Derivative, derivative
from jacobound.graph.nodes import Node

NORMS = tuple((p, q) for p in (1.0, 2.0, math.inf) for q in (1.0, 2.0, math.inf))


def network(widths: tuple[int, ...], seed: int, activation: str = "relu") -> Graph:
    generator = Generator().manual_seed(seed)
    weights = [
        torch.randn(after, before, generator=generator, dtype=torch.float64) * math.sqrt(2 / before)
        for before, after in itertools.pairwise(widths)
    ]
    biases = [0.3 * torch.randn(width, generator=generator, dtype=torch.float64) for width in widths[1:]]
    return from_layers(weights, biases, activation=activation)


def image(shared_data: Path, graph: Graph) -> Tensor:
    with np.load(shared_data / "mnist" / "mnist_test.npz") as images:
        return torch.as_tensor(images["x"][2] / 255 - 0.5, dtype=torch.float64).reshape(graph.in_shape)


def random_core(generator: Generator, blocks: tuple[int, ...], outputs: int = 2, inputs: int = 3) -> SdpCore:
    neurons = sum(blocks)
    matrix = torch.randn(outputs + neurons, inputs + neurons, generator=generator, dtype=torch.float64)
    start = 0
    for count in blocks:
        matrix[outputs + start : outputs + start + count, inputs + start :] = 0
        start += count
    return SdpCore(0.7 * matrix, torch.zeros_like(matrix), outputs, inputs, blocks)


def random_chain(generator: Generator, widths: tuple[int, ...], error: float = 0.0) -> LayeredChain:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    matrices = tuple(draw(after, before) for before, after in itertools.pairwise(widths))
    halves = tuple(draw(width).abs() * (draw(width) > -1) for width in widths[1:-1])
    return LayeredChain(matrices, (error,) * len(matrices), tuple(draw(width) for width in widths[1:-1]), halves)


def gates_of(graph: Graph, radius: float, seed: int = 0) -> Derivative:
    """The network of gates around a random point; that of affine and elementwise nodes is the network itself."""
    centre = torch.randn(graph.in_shape, generator=Generator().manual_seed(seed), dtype=torch.float64)
    (domain,), _ = Ball(centre, radius).domains(graph)
    return derivative(graph, IBP().ranges(graph, domain, Budget()))


def slopes_of(graph: Graph, radius: float, seed: int = 0) -> Mapping[Node, Interval]:
    return gates_of(graph, radius, seed).slopes


def jacobians(core: SdpCore) -> Tensor:
    """At every vertex of the cube of slopes, shape (vertices, outputs, inputs)."""
    q, n, found = core.outputs, core.inputs, []
    for d in itertools.product((-1.0, 1.0), repeat=core.neurons):
        signs = torch.tensor(d, dtype=torch.float64).unsqueeze(1)
        inner = torch.eye(core.neurons, dtype=torch.float64) - signs * core.matrix[q:, n:]
        middle = torch.linalg.solve(inner, signs * core.matrix[q:, :n])
        found.append(core.matrix[:q, :n] + core.matrix[:q, n:] @ middle)
    return torch.stack(found)


def sign_vectors(count: int) -> Tensor:
    """All of them, or some thousand where there are too many: the norm is then bounded from below."""
    if count <= 10:
        return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=count)), dtype=torch.float64)
    return 2.0 * torch.randint(0, 2, (2048, count), generator=Generator().manual_seed(0)).double() - 1


def norm_of(matrices: Tensor, p: float, q: float) -> Tensor:
    """Exact induced norms of small matrices, by the vertices of a unit ball where there is no formula."""
    if p == 1:
        return torch.linalg.vector_norm(matrices, ord=q, dim=-2).amax(-1)
    if q == math.inf:
        return torch.linalg.vector_norm(matrices, ord={2.0: 2, math.inf: 1}[p], dim=-1).amax(-1)
    if (p, q) == (2, 2):
        return torch.linalg.matrix_norm(matrices, 2)
    if p == math.inf:
        signs = sign_vectors(matrices.shape[-1])
        return torch.linalg.vector_norm(matrices @ signs.T, ord=q, dim=-2).amax(-1)
    return norm_of(matrices.transpose(-1, -2), math.inf, 2)  # (2, 1) is dual to (inf, 2)
