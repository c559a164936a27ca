"""Operators of every kind with weights that the caller draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from flint import fmpq_mat
from hypothesis import strategies as st
from torch import Generator, Tensor

from exact import random_floats, rational_matrix
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Blocks, Convolution, Dense, Identity, Scale, Scatter, Select, Sparse
from jacobound.operators.linear_maps import LinearMap
from small_cases import normal

Draw = Callable[[Sequence[int]], Tensor]  # a tensor of weights of the wanted shape


def integers(dtype: torch.dtype, generator: torch.Generator) -> Draw:
    """Small integers: products and sums of these are exact in both dtypes."""
    return lambda shape: torch.randint(-4, 5, tuple(shape), generator=generator).to(dtype)


def reals(dtype: torch.dtype, generator: torch.Generator, exponents: tuple[int, int] = (-3, 3)) -> Draw:
    """Full mantissas: nearly every product and sum rounds."""
    return lambda shape: random_floats(shape, dtype, generator, exponents)


def convolution(
    draw: Draw,
    image: tuple[int, ...],
    channels: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    padding: tuple[int, ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
    adjoint: bool = False,
) -> Convolution:
    axes = len(kernel)
    weight = draw((channels, image[0] // groups, *kernel))
    stride, padding, dilation = stride or (1,) * axes, padding or (0,) * axes, dilation or (1,) * axes
    return Convolution(weight, image, stride, padding, dilation, groups, adjoint)


REPEATING = torch.tensor([[3, -1, 0], [3, 5, 3]])  # one entry three times, one gap, some entries unused
MOVING = torch.tensor([4, -1, 2, 0, -1])
TABLE = torch.tensor(
    [[[0, 5], [3, -1], [4, 4]], [[1, 0], [-1, -1], [0, 3]]]
)  # shape (2, 3, 2) over 6 entries; 2 unused
LONG = torch.stack([torch.arange(7).roll(k) for k in range(3)], 1)  # seven weights for each of three outputs
PARTS = torch.tensor([[0, 2, 1, 3], [1, -1, 3, 0]])

KINDS: dict[str, Callable[[Draw], LinearOperator]] = {
    "identity": lambda draw: Identity((2, 3), (6,), draw((1,))),
    "dense": lambda draw: Dense(draw((4, 5))),
    "dense, long": lambda draw: Dense(draw((3, 40))),
    "dense, one row": lambda draw: Dense(draw((1, 3))),
    "dense, positions": lambda draw: Dense(draw((2, 3)), lead=(2,)),
    "conv 1d": lambda draw: convolution(draw, (2, 7), 3, (3,), (2,), (1,)),
    "conv 1d adjoint": lambda draw: convolution(draw, (2, 8), 3, (3,), (3,), adjoint=True),
    "conv 2d": lambda draw: convolution(draw, (2, 4, 5), 3, (3, 2), (1, 2), (1, 0)),
    "conv 2d groups": lambda draw: convolution(draw, (4, 3, 3), 2, (2, 2), padding=(1, 1), groups=2),
    "conv 2d dilated": lambda draw: convolution(draw, (1, 5, 5), 2, (2, 3), dilation=(3, 2)),
    "conv 2d adjoint": lambda draw: convolution(draw, (2, 4, 4), 2, (2, 3), (2, 2), (0, 1), adjoint=True),
    "select": lambda draw: Select(REPEATING, (2, 3), draw((1,))),
    "select, moving": lambda draw: Select(MOVING, (6,), draw((1,))),
    "scatter": lambda draw: Scatter(Select(REPEATING, (2, 3), draw((1,)))),
    "scatter, moving": lambda draw: Scatter(Select(MOVING, (6,), draw((1,)))),
    "scatter to one number": lambda draw: Scatter(Select(torch.tensor([0, -1, 0]), (), draw((1,)))),
    "scale": lambda draw: Scale(draw((2, 3))),
    "conv 3d": lambda draw: convolution(draw, (2, 3, 4, 3), 2, (2, 3, 2), (1, 2, 1), (1, 0, 1), (1, 1, 2)),
    "conv 3d adjoint": lambda draw: convolution(draw, (2, 3, 4, 3), 2, (2, 2, 1), (2, 1, 1), groups=2, adjoint=True),
    "sparse": lambda draw: Sparse(draw(TABLE.shape), TABLE, (2, 3)),
    "sparse, long rows": lambda draw: Sparse(draw(LONG.shape), LONG, (7,)),
    "sparse, one number": lambda draw: Sparse(draw((3,)), torch.tensor([4, 0, 1]), (2, 3)),
    "sparse, middle axis": lambda draw: Sparse(draw(PARTS.shape), PARTS, (4,), None, (2,), (3,)),
    "sparse adjoint": lambda draw: Sparse(draw(TABLE.shape), TABLE, (2, 3)).transpose(),
    "sparse adjoint, middle axis": lambda draw: Sparse(draw(PARTS.shape), PARTS, (4,), None, (2,), (2, 1)).transpose(),
    "blocks": lambda draw: Blocks(draw((3, 2, 4))),
    "blocks, positions": lambda draw: Blocks(draw((2, 2, 3, 2)), lead=(3,)),
}


def final_kinds() -> list[type[LinearOperator]]:
    """The classes of operators that the package defines."""
    return [kind for kind in LinearOperator.__subclasses__() if kind.__module__.startswith("jacobound.operators.")]


def sampled(kind: type[LinearOperator], which: int) -> Callable[[Draw], LinearOperator]:
    return lambda draw: kind.samples(draw)[which]


# A kind that brings samples of its own stands in the list without being written there.
KINDS |= {
    f"{kind.__name__}, sample {which}": sampled(kind, which)
    for kind in final_kinds()
    for which in range(len(kind.samples(lambda shape: torch.ones(tuple(shape), dtype=torch.float64))))
}


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    """Small convolutions of every stride, padding, dilation, with groups, on one to three axes, and adjoints."""
    axes = draw(st.sampled_from((1, 1, 2, 2, 3)))
    reach = 3 if axes == 3 else 5
    kernel = draw(st.tuples(*[st.integers(1, 2 if axes == 3 else 5)] * axes))
    padding = draw(st.tuples(*[st.integers(0, 2 if axes == 3 else 4)] * axes))
    dilation = draw(st.tuples(*[st.integers(1, 2)] * axes))
    stride = draw(st.tuples(*[st.integers(1, 3)] * axes))
    needed = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation, strict=True)]
    size = [draw(st.integers(least, least + reach)) for least in needed]
    groups, outputs, inputs = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    weight = normal(groups * outputs, inputs, *kernel, seed=draw(st.integers(0, 999)))
    if draw(st.booleans()):
        weight = weight.abs()
    image = (groups * inputs, *size)
    return Convolution(weight, image, stride, padding, dilation, groups, draw(st.booleans()))


def uncertain(dtype: torch.dtype, generator: Generator, radius: int) -> tuple[LinearMap, list[list[fmpq_mat]]]:
    """Two chains of non-negative weights, some uncertain; and the matrices at the far end of their radii."""

    def draw(*shape: int, exponents: tuple[int, int] = (-3, 3)) -> Tensor:
        return random_floats(shape, dtype, generator, exponents).abs()

    scales = [Scale(draw(5), draw(5, exponents=(radius, radius))) for _ in range(3)]
    chains: tuple[tuple[LinearOperator, ...], ...] = (
        (Dense(draw(5, 4)), scales[0], Dense(draw(5, 5)), scales[1]),
        (Dense(draw(5, 4)), scales[2]),
    )

    def far(operator: LinearOperator) -> fmpq_mat:
        found = rational_matrix(operator.materialise())
        if isinstance(operator, Scale) and operator.radius is not None:
            found = found + rational_matrix(torch.diag(operator.radius))
        return found

    return LinearMap(chains), [[far(operator) for operator in chain] for chain in chains]
