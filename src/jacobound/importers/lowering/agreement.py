"""How far rounding alone can move the outputs of a graph: what two evaluations of one network may differ by.

At every node that an engine rounds, the value is moved up or down at random by as much as its rounding can be, and
what reaches the outputs tells how far two evaluations may lie apart: the first-order running error, with the
derivatives that the network has there, where a bound by absolute values would grow with the norms of all layers.
Sizes of the single errors: Higham, Mary, "A new approach to probabilistic rounding error analysis", 2019 (sums err
with the root of their length), with the absolute values of all products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import tiny, unit
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Vector

SAFETY: Final = 20.0
"""Allowed difference in units of the largest one that the random errors made."""

LANES: Final = 5
"""How many evaluations with errors an output is seen in at least, points of one scale taken together."""

STEPS: Final = 32.0
"""Roundings of a weight that an engine computes (of an interpolation, of a normalisation) in units of a single one."""

SHORTCUT: Final = math.exp(-20) / 20 * 1.01
"""Softplus less its argument, relative to it, where the product of argument and beta is 20."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Values of a graph at some points, and how far another evaluation may lie from them.

    Args:
        points: shape (n, *in_shape), numbers of the other engine's dtype.
        values: shape (n, *out_shape), float64.
        allowed: how far apart the outputs may lie, shape (n, *out_shape); infinite where nothing is known.
    """

    points: Tensor
    values: Tensor
    allowed: Tensor

    def scaled(self, factor: float) -> Evaluation:
        """With errors of another size."""
        return Evaluation(self.points, self.values, self.allowed * factor)


def evaluated(graph: Graph, points: Tensor, dtype: torch.dtype, roundoff: float) -> Evaluation:
    """Evaluate a float64 graph in plain arithmetic, with and without errors (an estimate).

    Args:
        points: shape (n, *in_shape), in any dtype.
        dtype: what the other engine computes in.
        roundoff: unit roundoff of the other engine, or of the constants that it holds instead of the graph's.
    """
    x = points.to(graph.device, graph.dtype)
    noise = _Noise(roundoff + unit(graph.dtype), tiny(dtype), x)
    lanes = max(1, math.ceil(LANES / len(points)))
    found: dict[Node, Tensor] = {}
    last = {source: node for node in graph.nodes for source in node.sources}
    for node in graph.nodes:
        if isinstance(node, Input):
            found[node] = x.expand(1 + lanes, *x.shape)
        else:
            found[node] = noise.added(node, found)
        for source in node.sources:
            if last[source] is node and source is not graph.output:
                found.pop(source, None)  # only what is still read is held
    outputs = found[graph.output]
    values = outputs[0]
    moved = (outputs[1:] - values).abs()
    moved = torch.where(torch.isfinite(values), moved.nan_to_num(nan=torch.inf), 0.0)
    spread = SAFETY * moved.amax((0, 1))
    return Evaluation(points, values, spread + 2 * noise.roundoff * values.abs().nan_to_num(0.0) + noise.floor)


class _Noise:
    """Errors of single nodes; lives for one evaluation.

    Args:
        roundoff: of both evaluations together.
        floor: what is lost when small results are flushed to zero.
    """

    def __init__(self, roundoff: float, floor: float, like: Tensor) -> None:
        self.roundoff, self.floor, self._like = roundoff, floor, like
        self._generator = torch.Generator(like.device).manual_seed(0)

    def added(self, node: Node, values: Mapping[Node, Tensor]) -> Tensor:
        """Values of a node, shape (1 + lanes, n, *node shape), all but the first with its own errors besides."""
        if isinstance(node, Affine):
            images = [operator.apply(values[source]) for operator, source in node.terms]
            found = sum(images[1:], images[0]) if node.bias is None else sum(images, node.bias)
            return self._moved(found, self._of_sums(node, values))
        if isinstance(node, Elementwise):
            argument = values[node.source]
            found = node.activation.value(argument)
            if all(piece.line is not None and _passes(*piece.line) for piece in node.activation.pieces):
                return found
            by = 2 * self.roundoff * (found[0].abs() + argument[0].abs())
            by = by + _shortcut(node, found[0], argument[0]) + self._cancelled(node, found)
            return self._moved(found, by, found[0].sign())  # an engine's own formula errs to one side, time and again
        assert isinstance(node, Vector)
        argument = values[node.source]
        if node.function.compares:
            return node.function.value(argument)
        terms = math.prod(node.function.in_shape)
        argument = self._moved(argument, 2 * self._share(terms) * argument[0].abs())
        found = node.function.value(argument)
        return self._moved(found, 2 * self.roundoff * found[0].abs())

    def _of_sums(self, node: Affine, values: Mapping[Node, Tensor]) -> Tensor | None:
        terms = sum(operator.terms for operator, _ in node.terms)
        if terms == 0 and len(node.terms) == 1 and node.bias is None:
            return None  # data movement
        zero = self._like.new_zeros(node.shape)
        size, doubt = zero if node.bias is None else node.bias.abs(), zero
        for operator, source in node.terms:
            magnitude = values[source][0].abs()
            size = size + operator.abs().apply(magnitude)
            unsure = operator.uncertainty(magnitude)
            if unsure is not None:  # weights that are no floats: an engine computes them, in several steps
                doubt = doubt + STEPS * (self.roundoff / unit(magnitude.dtype)) * unsure
        return size * self._share(terms + len(node.terms)) + doubt

    def _cancelled(self, node: Elementwise, values: Tensor) -> Tensor | float:
        """What is lost by an engine that computes exp(x) - 1 as it stands, times the factor in front."""
        if node.activation.name.partition(":")[0] not in ("elu", "selu", "celu"):
            return 0.0
        return self.roundoff * node.activation.value(values.new_full((), -1e3)).abs()

    def _share(self, terms: int) -> float:
        """Error of a sum of products, relative to their absolute values; engines sum in blocks of eight or more."""
        return self.roundoff * (1 + math.sqrt(terms) / 8)

    def _moved(self, values: Tensor, by: Tensor | None, side: Tensor | None = None) -> Tensor:
        """With errors of that size: at random, in one evaluation to the given side."""
        if by is None:
            return values
        lanes = values[1:]
        drawn = 2 * torch.rand(lanes.shape, generator=self._generator, dtype=lanes.dtype, device=lanes.device)
        shares = torch.where(drawn < 1, drawn - 1.5, drawn - 0.5)  # of two equal errors the sum is rarely 0
        if side is not None:
            shares[0] = side
        by = (by + self.floor).nan_to_num(nan=0.0, posinf=0.0)
        return torch.cat([values[:1], lanes + by * shares])


def _shortcut(node: Elementwise, value: Tensor, argument: Tensor) -> Tensor | float:
    """What torch leaves out of softplus above its usual threshold of 20 (`activations.smooth.softplus`)."""
    if node.activation.name.partition(":")[0] != "softplus":
        return 0.0
    missing = value - argument
    return torch.where(missing < SHORTCUT * value, missing, 0.0)


def _passes(slope: float | Tensor, offset: float | Tensor) -> bool:
    """A piece that passes its argument on, or is zero: an engine rounds neither."""
    if isinstance(slope, Tensor) or isinstance(offset, Tensor):
        return False
    return slope in (0, 1) and offset == 0
