"""Operators that are the same at every position of a map, as windows: convolutions, channel scales, average pools.

On one axis: ``y[m] = sum_t K[t] x[s m + d t - p]`` with x = 0 outside of 0, ..., n - 1, for m = 0, ..., m' - 1. On a
circle of length N, a multiple of s, the same sum with positions modulo N gives the same y[m]: positions that it reads
lie in -p, ..., s (m' - 1) + r - p with the reach r = d (k - 1), and where ``N >= n + p`` and
``N >= s (m' - 1) + r - p + 1`` those outside of the map go to positions outside of it, on which x is zero. Where
nothing outside is read, x may be anything there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Convolution, Identity, Scale, Sparse


@dataclass(frozen=True, eq=False)
class Window:
    """A map (channels, *size) to another by one kernel at all positions.

    Args:
        kernel: shape (out, in, *taps), float64 on the CPU.
        doubt: how far the exact entries of the kernel may be from these, at most; 0 where they are exact.
        before, after: sizes of the maps without channels.
        stride, padding, dilation: one number per axis.
    """

    kernel: Tensor
    doubt: float
    before: tuple[int, ...]
    after: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @cached_property
    def reach(self) -> tuple[int, ...]:
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.kernel.shape[2:], strict=True))

    @cached_property
    def last_read(self) -> tuple[int, ...]:
        """The last position that is read on every axis."""
        spans = zip(self.stride, self.after, self.reach, self.padding, strict=True)
        return tuple(s * (m - 1) + r - p for s, m, r, p in spans)

    @cached_property
    def reads_outside(self) -> bool:
        """Whether some position outside of the map is read."""
        return any(self.padding) or any(end >= n for end, n in zip(self.last_read, self.before, strict=True))

    @property
    def is_pointwise(self) -> bool:
        """Whether every position depends on itself alone."""
        return prod(self.kernel.shape[2:]) == 1 and not any(self.padding) and set(self.stride) == {1}

    @cached_property
    def shortest(self) -> tuple[int, ...]:
        """The length of the circle that suffices on every axis."""
        found = []
        for n, m, s, p, end in zip(self.before, self.after, self.stride, self.padding, self.last_read, strict=True):
            found.append(max(n, s * m, *((n + p, end + 1) if self.reads_outside else ())))
        return tuple(found)


def window(operator: LinearOperator) -> Window | None:
    """An operator as a window; None when it is none, or none that is known here."""
    match operator:
        case Convolution(adjoint=False):
            return _of_convolution(operator)
        case Scale() if len(operator.factor.shape) > 1:
            return _of_scale(operator)
        case Identity() if operator.in_shape == operator.out_shape and len(operator.in_shape) > 1:
            return _pointwise(torch.eye(operator.in_shape[0], dtype=torch.float64), 0.0, operator.in_shape[1:])
        case Sparse():
            return _of_sparse(operator)
    return None


def _pointwise(matrix: Tensor, doubt: float, size: tuple[int, ...]) -> Window:
    ones, none = (1,) * len(size), (0,) * len(size)
    return Window(matrix.reshape(*matrix.shape, *ones), doubt, size, size, ones, none, ones)


def _of_convolution(operator: Convolution) -> Window:
    weight, groups = operator.weight.detach().to("cpu", torch.float64), operator.groups
    outputs, inputs = len(weight) // groups, weight.shape[1]
    kernel = weight.new_zeros(len(weight), inputs * groups, *weight.shape[2:])
    for k in range(groups):
        rows = slice(k * outputs, (k + 1) * outputs)
        kernel[rows, k * inputs : (k + 1) * inputs] = weight[rows]
    return Window(
        kernel, 0.0, operator.image[1:], operator.out_shape[1:], operator.stride, operator.padding, operator.dilation
    )


def _of_scale(operator: Scale) -> Window | None:
    factor = operator.factor.detach().to("cpu", torch.float64).flatten(1)
    if not bool((factor == factor[:, :1]).all()):
        return None
    doubt = 0.0 if operator.radius is None else float(operator.radius.detach().to(torch.float64).max())
    return _pointwise(torch.diag(factor[:, 0]), doubt, tuple(operator.factor.shape[1:]))


def _of_sparse(operator: Sparse) -> Window | None:
    """Equal weights at equal distances along one axis, the same for every channel: an average pool."""
    if len(operator.core_in) != 1 or operator.index.dim() != 2 or not operator.before:
        return None
    index, weight = operator.index.cpu(), operator.weight.detach().to("cpu", torch.float64)
    length, (taps, outputs) = operator.core_in[0], index.shape
    if not bool((index >= 0).all()) or not bool((weight == weight[:, :1]).all()):
        return None
    steps, gaps = index[0].diff().unique(), index.diff(dim=0).unique()
    if len(steps) > 1 or len(gaps) > 1 or outputs < 2 or int(index[0, 0]) != 0 or int(steps[0]) < 1:
        return None
    dilation = int(gaps[0]) if taps > 1 else 1
    if dilation < 1:
        return None
    axis, axes = len(operator.before), len(operator.before) + len(operator.after)
    shape, stride = [1] * axes, [1] * axes
    shape[axis - 1], stride[axis - 1] = taps, int(steps[0])
    channels = operator.before[0]
    kernel = torch.eye(channels, dtype=torch.float64).reshape(channels, channels, *[1] * axes) * weight[:, 0].reshape(
        shape
    )
    doubt = 0.0 if operator.radius is None else float(operator.radius.detach().to(torch.float64).max())
    dilations = [1] * axes
    dilations[axis - 1] = dilation
    before = (*operator.before[1:], length, *operator.after)
    after = (*operator.before[1:], outputs, *operator.after)
    return Window(kernel, doubt, before, after, tuple(stride), (0,) * axes, tuple(dilations))
