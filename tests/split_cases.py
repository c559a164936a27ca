"""Small networks for branch and bound, and their true slopes without the library's bounds."""

from __future__ import annotations

import itertools
from fractions import Fraction
from math import inf

import torch
from torch import Tensor

import jacobound as jb


def drawn(seed: int, inputs: int, activation: str = "relu", outputs: int = 2) -> jb.Graph:
    """A small network with biases, so that its kinks do not all meet in one point."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (inputs, 6, 5, outputs)
    weights = [torch.randn(b, a, generator=generator).double() for a, b in itertools.pairwise(sizes)]
    return jb.from_layers(weights, [torch.randn(len(w), generator=generator).double() for w in weights], activation)


def slopes_on_a_line(seed: int, low: Fraction, high: Fraction) -> list[list[Fraction]]:
    """Every gradient of a `drawn` network of one input between two points, in fractions: all kinks are found."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (1, 6, 5, 2)
    weights = [torch.randn(b, a, generator=generator).double() for a, b in itertools.pairwise(sizes)]
    biases = [torch.randn(len(w), generator=generator).double() for w in weights]
    exact = [[[Fraction(x) for x in row] for row in w.tolist()] for w in weights]
    shifts = [[Fraction(x) for x in b.tolist()] for b in biases]
    pieces = [(low, high, [(Fraction(1), Fraction(0))])]  # from, to, (slope, offset) of each neuron
    for k, (matrix, shift) in enumerate(zip(exact, shifts, strict=True)):
        found = []
        for start, end, lines in pieces:
            sums = [
                (
                    sum((a * line[0] for a, line in zip(row, lines, strict=True)), Fraction(0)),
                    sum((a * line[1] for a, line in zip(row, lines, strict=True)), b),
                )
                for row, b in zip(matrix, shift, strict=True)
            ]
            if k == len(exact) - 1:
                found.append((start, end, sums))
                continue
            kinks = sorted({-c / s for s, c in sums if s and start < -c / s < end})
            for left, right in itertools.pairwise([start, *kinks, end]):
                middle = (left + right) / 2
                found.append(
                    (left, right, [(s, c) if s * middle + c > 0 else (Fraction(0), Fraction(0)) for s, c in sums])
                )
        pieces = found
    return [[slope for slope, _ in lines] for _, _, lines in pieces]


def steepest(graph: jb.Graph, points: Tensor, norm: tuple[float, float]) -> float:
    """The largest induced norm at some points, by automatic differentiation."""
    jacobians = torch.func.vmap(torch.func.jacrev(lambda x: graph(x.unsqueeze(0)).squeeze(0)))(points)
    if norm == (2, 2):
        return float(torch.linalg.matrix_norm(jacobians, 2).max())
    if norm == (inf, inf):
        return float(jacobians.abs().sum(2).max())
    return float(jacobians.abs().sum(1).max())
