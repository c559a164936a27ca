"""Tiny networks and regions whose values, Jacobians and constants can be computed without rounding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from flint import fmpq
from torch import Generator, Tensor

from campaign.families import pick
from exact import random_floats, rationals
from jacobound import Ball, Box, Graph, WholeSpace
from jacobound.activations import activation
from jacobound.arithmetic.rounding import tiny
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.inputs.regions import Region
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Identity, Scale, Select
from zoo import integer

Draw = Callable[[tuple[int, ...], torch.dtype, Generator], Tensor]
Point = list[fmpq]


def plain(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def integers(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    """Many zeros, ties and exact sums."""
    return torch.randint(-2, 3, shape, generator=generator).to(dtype)


def mixed(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    """Numbers whose sums lose the small ones."""
    return random_floats(shape, dtype, generator, (-30, 30))


def huge(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    """Products of three layers overflow."""
    return plain(shape, dtype, generator) * math.sqrt(torch.finfo(dtype).max) * 1e-4


def small(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    """Products vanish below the normal range; some weights are subnormal themselves."""
    weights = plain(shape, dtype, generator) * math.sqrt(tiny(dtype))
    return torch.where(torch.rand(shape, generator=generator) < 0.2, weights * math.sqrt(tiny(dtype)) * 1e-2, weights)


def extreme(shape: tuple[int, ...], dtype: torch.dtype, generator: Generator) -> Tensor:
    """All magnitudes of the dtype at once."""
    top = 400 if dtype == torch.float64 else 40
    return random_floats(shape, dtype, generator, (-top, top))


FAMILIES: dict[str, Draw] = {draw.__name__: draw for draw in (plain, integers, mixed, huge, small, extreme)}
NAMES = ("relu", "leaky_relu:0.25", "leaky_relu:0.1", "leaky_relu:-0.5", "leaky_relu:-1")


def layered(weights: Sequence[Tensor], biases: Sequence[Tensor | None], names: Sequence[str]) -> Graph:
    """A plain network in the dtype of its weights."""
    node: Node = Input((weights[0].shape[1],))
    for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if k:
            node = Elementwise(activation(names[k - 1]), node, f"h{k}")
        node = Affine(((Dense(weight), node),), bias, f"z{k + 1}")
    return Graph(node)


def random_network(draw: Draw, dtype: torch.dtype, generator: Generator) -> Graph:
    """One to three inputs, one to three hidden layers of at most four neurons, two outputs."""
    widths = [integer(1, 3, generator), *(integer(1, 4, generator) for _ in range(integer(1, 3, generator))), 2]
    weights = [draw((after, before), dtype, generator) for before, after in itertools.pairwise(widths)]
    biases = [draw((width,), dtype, generator) if integer(0, 1, generator) else None for width in widths[1:]]
    return layered(weights, biases, [pick(NAMES, generator) for _ in widths[2:]])


def tangled_network(draw: Draw, dtype: torch.dtype, generator: Generator) -> Graph:
    """Every node may read any earlier one, through matrices, scales (also uncertain ones) and selections."""
    nodes: list[Node] = [Input((integer(1, 3, generator),))]
    for layer in range(integer(2, 4, generator)):
        width = integer(1, 3, generator)
        sources = [nodes[-1], *(nodes[integer(0, len(nodes) - 1, generator)] for _ in range(integer(0, 1, generator)))]
        terms = tuple((_operator(node.shape[0], width, draw, dtype, generator), node) for node in sources)
        bias = draw((width,), dtype, generator) if integer(0, 1, generator) else None
        nodes.append(Affine(terms, bias, f"z{layer}"))
        if integer(0, 3, generator):
            nodes.append(Elementwise(activation(pick(NAMES, generator)), nodes[-1], f"h{layer}"))
    return Graph(nodes[-1])


def _operator(before: int, after: int, draw: Draw, dtype: torch.dtype, generator: Generator) -> LinearOperator:
    """A random kind of operator between two lengths."""
    like = torch.zeros((), dtype=dtype)
    kind = integer(0, 5, generator)
    if kind == 0:
        return Select(torch.randint(-1, before, (after,), generator=generator), (before,), like)
    if kind == 1 and before == after:
        return Identity((before,), (after,), like)
    if kind == 2 and before == after:
        factor = draw((after,), dtype, generator)
        return Scale(factor, (factor * 0.125).abs() if integer(0, 1, generator) else None)
    return Dense(draw((after, before), dtype, generator))


def cancelling_network(
    dtype: torch.dtype, row: Tensor, order: Sequence[int], name: str, gain: float = 1e6, large: float | None = None
) -> Graph:
    """Three equal neurons whose sum is one of them: w + 1 - w in some order, then a gain.

    The bias keeps the last activation away from its kink, so that no interval around it hides the mistake.
    """
    large = (2.0**54 if dtype == torch.float64 else 2.0**25) if large is None else large
    middle = torch.tensor([[large, 1.0, -large]], dtype=dtype)[:, list(order)]
    weights = [row.to(dtype).expand(3, -1).contiguous(), middle, torch.tensor([[gain]], dtype=dtype)]
    return layered(weights, [None, torch.ones(1, dtype=dtype), None], [name, name])


def random_cancelling(dtype: torch.dtype, generator: Generator) -> tuple[Graph, Box]:
    """A network of the cancellation family, on a box where its first neurons are stable."""
    order = torch.randperm(3, generator=generator).tolist()
    row = 0.5 + torch.rand(1, integer(1, 3, generator), generator=generator)
    bits = 53 if dtype == torch.float64 else 24
    large, gain = 2.0 ** integer(bits - 3, bits + 12, generator), 10.0 ** integer(-6, 6, generator)
    graph = cancelling_network(dtype, row, order, pick(("relu", "leaky_relu:0.25"), generator), gain, large)
    lower = torch.rand(row.shape[1], generator=generator).to(dtype)
    width = (0.0, 2.0**-40, 0.9)[integer(0, 2, generator)]
    return graph, Box(lower, lower + width)


# --- regions with exact points of theirs -----------------------------------------------------------------------------


def random_box(inputs: int, dtype: torch.dtype, generator: Generator) -> Box:
    """Wide, narrow, one float wide, or a point."""
    middle = torch.randn(inputs, generator=generator).to(dtype)
    width = (1.0, 1e-3, float(torch.finfo(dtype).eps), 0.0)[integer(0, 3, generator)]
    return Box(middle - width, middle + width)


def points_inside(box: Box, generator: Generator, corners: int = 8, inner: int = 4) -> list[Point]:
    """Corners and random rational points, exactly inside."""
    low, high = (rationals(torch.as_tensor(end)) for end in (box.lower, box.upper))
    found = [list(corner) for corner in itertools.product(*zip(low, high, strict=True))][:corners]
    shares = torch.randint(0, 1001, (inner, len(low)), generator=generator).tolist()
    return found + [[a + (b - a) * fmpq(s, 1000) for a, b, s in zip(low, high, row, strict=True)] for row in shares]


def random_region(inputs: int, dtype: torch.dtype, generator: Generator) -> tuple[Region, list[Point]]:
    """A region of any kind, and a few exact points of it."""
    kind = integer(0, 6, generator)
    if kind < 3:
        box = random_box(inputs, dtype, generator)
        return box, points_inside(box, generator, 3, 3)
    if kind == 3:  # far from zero, or tiny
        scale = 2.0 ** (integer(-400, 400, generator) if dtype == torch.float64 else integer(-60, 60, generator))
        x, y = (plain((inputs,), dtype, generator) * scale for _ in range(2))
        box = Box(torch.minimum(x, y), torch.maximum(x, y))
        return box, points_inside(box, generator, 3, 3)
    if kind == 4 and integer(0, 3, generator) == 0:
        rows = torch.randint(-99, 99, (5, inputs), generator=generator).tolist()
        return WholeSpace(), [[fmpq(n, 7) for n in row] for row in rows]
    return random_ball(inputs, generator)


def random_ball(inputs: int, generator: Generator) -> tuple[Ball, list[Point]]:
    """A ball with a decimal radius around a centre that float32 may not hold, and points in and on it."""
    p = (1, 2, math.inf)[integer(0, 2, generator)]
    radius = pick(("0.1", "0.3", "1e-3", "1.7", "1e-9", "0"), generator)
    centre = torch.randn(inputs, generator=generator, dtype=torch.float64)
    centre = centre + 1e-9 * torch.rand(inputs, generator=generator, dtype=torch.float64)
    middle, reach = rationals(centre), fmpq(*_decimal(radius))
    points = [middle]
    for row in torch.randint(-9, 10, (5, inputs), generator=generator).tolist():
        length = _length(row, p)
        points.append([c + reach * fmpq(n, length) for c, n in zip(middle, row, strict=True)] if length else middle)
    return Ball(centre, radius, p), points


def _decimal(text: str) -> tuple[int, int]:
    mantissa, _, exponent = text.partition("e")
    whole, _, digits = mantissa.partition(".")
    power = int(exponent or 0) - len(digits)
    number = int(whole + digits)
    return (number * 10**power, 1) if power >= 0 else (number, 10**-power)


def _length(row: Sequence[int], p: float) -> int:
    """A whole number that is at least the norm of whole numbers, the norm itself where that is whole."""
    if p == 2:
        square = sum(n * n for n in row)
        root = math.isqrt(square)
        return root if root * root == square else root + 1
    return sum(map(abs, row)) if p == 1 else max(map(abs, row))
