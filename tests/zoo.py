"""Random networks of every shape that the graph allows, and regions of every kind with points inside them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from jacobound import Ball, Box, Graph, WholeSpace
from jacobound.activations import Activation, Family, activation, families
from jacobound.activations.kinds.piecewise import prelu
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.copies import moved_beside, on_sources
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Product, Vector
from jacobound.graph.vector.attention import Attention
from jacobound.graph.vector.comparisons import Maximum, Sort
from jacobound.graph.vector.normalising import Normalised, Standardised
from jacobound.graph.vector.smooth import LogSoftmax, LogSumExp, Softmax
from jacobound.inputs.regions import Region
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Blocks, Convolution, Dense, Identity, Scale, Select, Sparse

LIKE = torch.zeros((), dtype=torch.float64)
NUMBERED = ("leaky_relu:0.25", "leaky_relu:-0.5", "leaky_relu:2", "elu:0.5", "elu:2", "softplus:3", "celu:2")


def normal(shape: tuple[int, ...], generator: Generator, scale: float = 1.0) -> Tensor:
    """Normal float64 numbers that float32 holds as well."""
    return (scale * torch.randn(shape, generator=generator)).to(torch.float32).to(torch.float64)


def integer(low: int, high: int, generator: Generator) -> int:
    """A number with low <= number <= high."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def activations(width: int, generator: Generator) -> list[Activation]:
    """One of every registered family, and some with numbers; a new family is tested as soon as it is registered."""
    named = [family.name for family in families() if family.name != "prelu" and _tame(family)]
    found = [activation(text) for text in (*named, *NUMBERED)]
    return [*found, prelu(normal((width,), generator).abs())]


@functools.cache
def _tame(family: Family) -> bool:
    """Whether an activation is defined everywhere and no steeper than the error analysis of the oracles allows."""
    slopes = family.make().derivative_range(Interval.whole(torch.zeros((), dtype=torch.float64)))
    return float(slopes.magnitude()) < 3.0


def any_activation(node: Node, generator: Generator, name: str = "") -> Elementwise:
    """A random activation on a node; ReLU as often as all others together."""
    choices = activations(node.shape[-1], generator)
    pick = integer(0, 2 * len(choices) - 1, generator)
    return Elementwise(choices[pick] if pick < len(choices) else activation("relu"), node, name)


def dense(source: Node, width: int, generator: Generator, name: str = "") -> Affine:
    fan_in = source.shape[-1]
    weight = Dense(normal((width, fan_in), generator, 1.3 / math.sqrt(fan_in)))
    return Affine(((weight, source),), normal((width,), generator, 0.5), name)


def mlp(generator: Generator) -> Graph:
    node: Node = Input((integer(1, 4, generator),))
    for layer in range(integer(0, 4, generator)):
        node = any_activation(dense(node, integer(1, 7, generator), generator, f"z{layer}"), generator, f"h{layer}")
    return Graph(dense(node, integer(1, 3, generator), generator, "out"))


def residual(generator: Generator) -> Graph:
    """x + f(x), twice, with an activation after the sum."""
    width = integer(2, 5, generator)
    node: Node = dense(Input((3,)), width, generator)
    for _ in range(2):
        inner = any_activation(dense(node, width + 1, generator), generator)
        weight = Dense(normal((width, width + 1), generator, 0.5))
        total = Affine(((weight, inner), (Identity((width,), (width,), weight.weight), node)), None, "sum")
        node = any_activation(total, generator)
    return Graph(dense(node, 2, generator))


def dense_connections(generator: Generator) -> Graph:
    """Every layer reads all earlier ones, concatenated by selections."""
    parts: list[Node] = [Input((2,))]
    for _ in range(3):
        parts.append(any_activation(dense(concatenation(parts), 3, generator), generator))
    return Graph(dense(concatenation(parts), 2, generator))


def concatenation(parts: list[Node]) -> Affine:
    total = sum(part.shape[0] for part in parts)
    terms, start = [], 0
    for part in parts:
        index = torch.full((total,), -1)
        index[start : start + part.shape[0]] = torch.arange(part.shape[0])
        terms.append((Select(index, part.shape, torch.zeros((), dtype=torch.float64)), part))
        start += part.shape[0]
    return Affine(tuple(terms), None, "concatenation")


def input_skip(generator: Generator) -> Graph:
    """W (x + a(A x)): the input itself reaches the end."""
    x = Input((3,))
    inner = any_activation(dense(x, 3, generator), generator)
    like = torch.zeros((), dtype=torch.float64)
    total = Affine(((Identity((3,), (3,), like), x), (Identity((3,), (3,), like), inner)), None, "skip")
    return Graph(dense(any_activation(dense(total, 4, generator), generator), 2, generator))


def node_used_twice(generator: Generator) -> Graph:
    """W h + V h as two terms of one node, and of the output."""
    h = any_activation(dense(Input((3,)), 4, generator), generator)
    both = Affine(tuple((Dense(normal((4, 4), generator, 0.5)), h) for _ in range(2)), normal((4,), generator), "both")
    last = any_activation(both, generator)
    return Graph(Affine(tuple((Dense(normal((2, 4), generator)), last) for _ in range(2)), None, "out"))


def convolution(generator: Generator) -> Graph:
    """Convolution with stride, padding, groups, dilation; average pooling with factors that are no floats."""
    x = Input((2, 5, 4))
    groups = integer(1, 2, generator)
    kernel = Convolution(
        normal((4, 2 // groups, 3, 2), generator, 0.4),
        (2, 5, 4),
        (integer(1, 2, generator), 1),
        (1, 1),
        (1, integer(1, 2, generator)),
        groups,
    )
    node = any_activation(Affine(((kernel, x),), normal(kernel.out_shape, generator, 0.3), "conv"), generator)
    ones = torch.ones(4, 1, 2, 2, dtype=torch.float64)
    pool = Convolution(ones, node.shape, (2, 1), (0, 0), (1, 1), 4)
    pooled = Affine(((pool, node),), None, "sums")
    factor = torch.full(pool.out_shape, 0.25, dtype=torch.float64)
    mean = Affine(((Scale(factor, 1e-3 * factor), pooled),), None, "pool")
    flat = Affine(((Identity(mean.shape, (math.prod(mean.shape),), factor), mean),), None, "flat")
    return Graph(dense(any_activation(dense(flat, 4, generator), generator), 2, generator))


def batch_norm(generator: Generator) -> Graph:
    """Chains of uncertain scales and shifts between layers, one of them right before the output."""
    node: Node = dense(Input((3,)), 4, generator)
    for _ in range(2):
        node = any_activation(uncertain_scale(node, generator), generator)
        node = dense(node, 4, generator)
    return Graph(uncertain_scale(uncertain_scale(node, generator), generator))


def uncertain_scale(node: Node, generator: Generator) -> Affine:
    factor = normal(node.shape, generator)
    radius = (1e-2 * torch.rand(node.shape, generator=generator)).to(torch.float64)
    return Affine(((Scale(factor, radius), node),), normal(node.shape, generator), "norm")


def elementwise_input(generator: Generator) -> Graph:
    """An activation right on the input, which is read elsewhere too."""
    x = Input((3,))
    h = any_activation(x, generator)
    weights = [Dense(normal((4, 3), generator, 0.7)) for _ in range(2)]
    both = Affine(((weights[0], h), (weights[1], x)), normal((4,), generator), "both")
    return Graph(dense(any_activation(both, generator), 2, generator))


def elementwise_chain(generator: Generator) -> Graph:
    """Activations of activations, also as the output."""
    node = any_activation(any_activation(dense(Input((2,)), 4, generator), generator), generator)
    node = any_activation(dense(node, 3, generator), generator)
    return Graph(any_activation(node, generator) if integer(0, 1, generator) else node)


def several_consumers(generator: Generator) -> Graph:
    """One pre-activation read by two activations and by an affine node."""
    z = dense(Input((2,)), 4, generator, "z")
    readers: list[Node] = [any_activation(z, generator), any_activation(z, generator), z]
    terms = tuple((Dense(normal((3, 4), generator, 0.5)), reader) for reader in readers)
    node = any_activation(Affine(terms, normal((3,), generator), "joint"), generator)
    return Graph(dense(node, 2, generator))


def flat(node: Node) -> Affine:
    like = torch.zeros((), dtype=torch.float64)
    return Affine(((Identity(node.shape, (math.prod(node.shape),), like), node),), None, "flat")


def head(node: Node, generator: Generator) -> Graph:
    """A hidden layer and two outputs behind a node of any shape, as methods take it."""
    hidden = any_activation(dense(flat(node), 4, generator), generator)
    return Graph(dense(hidden, 2, generator)).expanded()


def convolution_of_any_axes(generator: Generator) -> Graph:
    """One or three spatial axes, twice, the second time as the adjoint."""
    axes = 2 * integer(0, 1, generator) + 1
    image = (2, *(integer(2, 4, generator) for _ in range(axes)))
    stride = tuple(integer(1, 2, generator) for _ in range(axes))
    kernel = normal((2, 2, *[2] * axes), generator, 0.5)
    first = Convolution(kernel, image, stride, (1,) * axes, (1,) * axes)
    node = any_activation(Affine(((first, Input(image)),), normal(first.out_shape, generator, 0.3), "conv"), generator)
    second = Convolution(normal((2, 2, *[2] * axes), generator, 0.5), image, stride, (1,) * axes, (1,) * axes)
    back = Affine(((second.transpose(), node),), normal(image, generator, 0.3), "transposed")
    return head(any_activation(back, generator), generator)


def maxima(generator: Generator) -> Graph:
    """Maxima over random windows that overlap, some short, with another reader of what is compared."""
    z = dense(Input((3,)), 6, generator, "z")
    windows = torch.randint(0, 6, (integer(2, 5, generator), 2, 2), generator=generator)
    windows[1:][torch.rand(windows[1:].shape, generator=generator) < 0.3] = -1
    largest = flat(Vector(Maximum(windows, (6,)), any_activation(z, generator), "maximum"))
    both = Affine(
        ((Dense(normal((4, 4), generator, 0.6)), largest), (Dense(normal((4, 6), generator, 0.4)), z)), None, "both"
    )
    return Graph(dense(any_activation(both, generator), 2, generator)).expanded()


def sorting(generator: Generator) -> Graph:
    """Group-sort between layers, and sorted outputs of the last one."""
    width = integer(2, 3, generator)
    node: Node = dense(Input((2,)), 2 * width, generator)
    groups = Affine(((Identity((2 * width,), (2, width), torch.zeros((), dtype=torch.float64)), node),), None, "groups")
    node = dense(flat(Vector(Sort((2, width)), groups, "sort")), 3, generator)
    return Graph(Vector(Sort((3,)), any_activation(node, generator), "sorted")).expanded()


def resampling(generator: Generator) -> Graph:
    """Weights that are no floats along one axis of three, with gaps; and a product of blocks."""
    image, length = (2, 3, 2), integer(2, 5, generator)
    index = torch.stack([torch.randperm(3, generator=generator) for _ in range(length)], 1)[:2]
    index[1][torch.rand(length, generator=generator) < 0.3] = -1
    weight = normal((2, length), generator)
    radius = (1e-2 * torch.rand(weight.shape, generator=generator)).to(torch.float64)
    table = Sparse(weight, index, (3,), radius, (2,), (2,))
    node = any_activation(Affine(((table, Input(image)),), None, "resampled"), generator)
    blocks = Blocks(normal((length, 3, 2), generator, 0.7), (2,))
    return head(any_activation(Affine(((blocks, node),), None, "blocks"), generator), generator)


def gates(generator: Generator) -> Graph:
    """Products of two layers, of a layer with itself and of a product; one factor is read twice."""
    x, width = Input((3,)), integer(2, 4, generator)
    one, two = (any_activation(dense(x, width, generator), generator) for _ in range(2))
    gated = Product(one, Elementwise(activation("sigmoid"), two), "gated")
    again = Product(dense(gated, width, generator), two, "again")
    other = dense(x, width, generator)
    weights = [Dense(normal((3, width), generator, 0.5)) for _ in range(3)]
    square = Product(other, other, "square")
    return Graph(Affine(tuple(zip(weights, (gated, again, square), strict=True)), None, "out")).expanded()


def quotients(generator: Generator) -> Graph:
    """One layer over one plus the squares of another."""
    x = Input((2,))
    one, two = dense(x, 3, generator), dense(x, 3, generator)
    divisor = Affine(((Identity((3,), (3,), LIKE), Product(two, two)),), torch.ones(3, dtype=torch.float64))
    return Graph(dense(Product(one, Elementwise(activation("reciprocal"), divisor)), 2, generator)).expanded()


def shares(generator: Generator) -> Graph:
    """Softmax, its logarithm and log-sum-exp of rows of one layer, some of their entries left out."""
    rows = (2, integer(2, 4, generator))
    scores = dense(any_activation(dense(Input((3,)), 5, generator), generator), math.prod(rows), generator)
    table = Affine(((Identity(scores.shape, rows, LIKE), scores),), None, "rows")
    open_ = torch.rand(rows, generator=generator) < 0.7
    open_[:, 0] = True
    allowed = open_ if integer(0, 1, generator) else None
    parts = [Vector(kind(rows, LIKE, allowed), table) for kind in (Softmax, LogSoftmax, LogSumExp)]
    flattened = [dense(flat(part), 2, generator) for part in parts]
    return Graph(Affine(tuple((Identity((2,), (2,), LIKE), part) for part in flattened), None, "out")).expanded()


def normalisations(generator: Generator) -> Graph:
    """Rows over their deviation, their root mean square, or their length, between layers."""
    rows = (2, integer(2, 4, generator))
    node = dense(Input((3,)), math.prod(rows), generator)
    table = Affine(((Identity(node.shape, rows, LIKE), node),), None, "rows")
    kinds = (
        Standardised(rows, LIKE, 0.25),
        Standardised(rows, LIKE, 0.125, None, False),
        Normalised(rows, LIKE, 0.5),
    )
    return head(Vector(kinds[integer(0, 2, generator)], table, "norm"), generator)


def attentions(generator: Generator) -> Graph:
    """Heads of attention, some keys hidden from some queries."""
    heads, queries, keys, width = integer(1, 2, generator), 2, integer(2, 3, generator), 2
    shapes = (heads, queries, width), (heads, keys, width), (heads, keys, 1)
    node = dense(any_activation(dense(Input((3,)), 4, generator), generator), sum(map(math.prod, shapes)), generator)
    bias = normal((heads, queries, keys), generator)
    bias[..., 1:][torch.rand(bias[..., 1:].shape, generator=generator) < 0.3] = -math.inf
    mask = bias if integer(0, 1, generator) else None
    return head(Vector(Attention(*shapes, 0.75, mask, LIKE), node, "attention"), generator)


KINDS: dict[str, Callable[[Generator], Graph]] = {
    function.__name__: function
    for function in (
        mlp,
        residual,
        dense_connections,
        input_skip,
        node_used_twice,
        convolution,
        batch_norm,
        elementwise_input,
        elementwise_chain,
        several_consumers,
        convolution_of_any_axes,
        maxima,
        sorting,
        resampling,
        gates,
        quotients,
        shares,
        normalisations,
        attentions,
    )
}


MULTIPLYING = {"gates", "quotients", "shares", "normalisations", "attentions"}
"""Kinds that multiply values of the network: no bounds of executed values are known there."""


def realised(graph: Graph, generator: Generator) -> Graph:
    """A graph with exact weights that an uncertain one stands for: every uncertain factor moved nearly to an end."""

    def settle(operator: LinearOperator) -> LinearOperator:
        if not isinstance(operator, Scale | Sparse) or operator.radius is None:
            return operator
        side = 2.0 * torch.randint(0, 2, operator.radius.shape, generator=generator) - 1
        if isinstance(operator, Scale):
            return Scale(operator.factor + 0.999 * operator.radius * side)
        return replace(operator, weight=operator.weight + 0.999 * operator.radius * side, radius=None)

    moved: dict[Node, Node] = {}
    for node in graph.nodes:
        if isinstance(node, Affine):
            terms = tuple((settle(op), moved[source]) for op, source in node.terms)
            moved[node] = Affine(terms, node.bias, node.name, None, moved_beside(node, moved))
        elif not isinstance(node, Input):
            moved[node] = on_sources(node, moved, graph.device)
        else:
            moved[node] = node
    return Graph(moved[graph.output])


# --- regions ---------------------------------------------------------------------------------------------------

Drawn = tuple[Region, Tensor]  # a region and points inside it, the first ones at its corners


def _directions(shape: tuple[int, ...], count: int, generator: Generator) -> Tensor:
    """Points of the cube [-1, 1]; half of them corners."""
    cube = 2 * torch.rand(count, *shape, generator=generator, dtype=torch.float64) - 1
    cube[::2] = torch.where(cube[::2] >= 0, 1.0, -1.0)
    return cube


def _ball(p: float, size: float) -> Callable[[tuple[int, ...], Generator], Drawn]:
    def draw(shape: tuple[int, ...], generator: Generator) -> Drawn:
        centre = torch.randn(shape, generator=generator, dtype=torch.float64)
        radius = size * float(torch.rand((), generator=generator, dtype=torch.float64))
        offsets = _directions(shape, 12, generator)
        if p != math.inf:
            offsets[4:8] *= (torch.rand(4, *shape, generator=generator) < 0.3).to(offsets)  # near the axes
            length = torch.linalg.vector_norm(offsets.flatten(1), ord=p, dim=1).clamp(min=1e-9)
            offsets = offsets / length.reshape(-1, *[1] * len(shape))
        return Ball(centre, radius, p), centre + radius * (1 - 1e-12) * offsets

    return draw


def _scaled(p: float, size: float) -> Callable[[tuple[int, ...], Generator], Drawn]:
    """Units from a thousandth to ten; some inputs do not move at all."""
    plain = _ball(p, size)

    def draw(shape: tuple[int, ...], generator: Generator) -> Drawn:
        ball, points = plain(shape, generator)
        assert isinstance(ball, Ball)
        scale = 10 ** (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 3)
        scale = scale * (torch.rand(shape, generator=generator) < 0.8).to(scale)
        assert isinstance(ball.center, Tensor)
        return replace(ball, scale=scale), ball.center + scale * (points - ball.center) * (1 - 1e-12)

    return draw


def _clipped(shape: tuple[int, ...], generator: Generator) -> Drawn:
    centre = torch.rand(shape, generator=generator, dtype=torch.float64)
    points = centre + 0.4 * _directions(shape, 12, generator) * (1 - 1e-12)
    return Ball(centre, 0.4, math.inf, clip=(0.0, 1.0)), points.clamp(0.0, 1.0)


def _box(shape: tuple[int, ...], generator: Generator) -> Drawn:
    """Some entries of no width at all."""
    middle = torch.randn(shape, generator=generator, dtype=torch.float64)
    half = torch.rand(shape, generator=generator, dtype=torch.float64)
    half = half * (torch.rand(shape, generator=generator) < 0.6).to(half)
    lower, upper = middle - half, middle + half
    points = lower + (upper - lower) * (_directions(shape, 12, generator) + 1) / 2
    return Box(lower, upper), torch.minimum(torch.maximum(points, lower), upper)


def _half_infinite(shape: tuple[int, ...], generator: Generator) -> Drawn:
    lower = torch.randn(shape, generator=generator, dtype=torch.float64)
    open_end = torch.rand(shape, generator=generator) < 0.5
    upper = torch.where(open_end, math.inf, lower + 1)
    reach = torch.where(open_end, 10.0 ** integer(-1, 3, generator), 1.0)
    return Box(lower, upper), lower + reach * (_directions(shape, 12, generator) + 1) / 2


def _whole_space(shape: tuple[int, ...], generator: Generator) -> Drawn:
    sizes = 10.0 ** torch.linspace(-2, 3, 12, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    return WholeSpace(), sizes * _directions(shape, 12, generator)


def _radius_zero(shape: tuple[int, ...], generator: Generator) -> Drawn:
    centre = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Ball(centre, 0.0, 2), centre.unsqueeze(0)


REGIONS: dict[str, Callable[[tuple[int, ...], Generator], Drawn]] = {
    "l1": _ball(1, 1.0),
    "l2": _ball(2, 0.5),
    "linf": _ball(math.inf, 0.3),
    "linf_small": _ball(math.inf, 0.02),
    "l1_units": _scaled(1, 1.0),
    "l2_units": _scaled(2, 0.5),
    "linf_units": _scaled(math.inf, 0.3),
    "huge": _ball(math.inf, 1e3),
    "clipped": _clipped,
    "box": _box,
    "half_infinite": _half_infinite,
    "whole_space": _whole_space,
    "radius_zero": _radius_zero,
}
