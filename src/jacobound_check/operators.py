"""Linear maps as matrices that are applied, turned around, and known in absolute value; what their rounding can do.

Every map acts on the last axis of an array of flat vectors. With the computed product ``fl(A x)``, ``|x| <= X`` and at
most n products in each sum, ``|fl(A x) - A x| <= gamma(n) |A| X`` and an underflow (`rounding`). The same vector bounds
what a computed row misses that is used in place of the exact one: ``|(a A - fl(a A)) x| <= |a| gamma(n) |A| X``.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from jacobound_check.rounding import LEAST, Array, Interval, down, gamma, grown, safe, up

Places = NDArray[np.int64]
AT_ONCE = 1 << 22  # numbers of one intermediate result


class Operator(ABC):
    """A matrix of exact floats, perhaps with a radius for each.

    Attributes:
        inputs, outputs: lengths of the vectors before and behind.
        terms: the most products in one sum, forwards or backwards; 0 where entries only move.
    """

    inputs: int
    outputs: int
    terms: int

    @abstractmethod
    def ahead(self, x: Array) -> Array:
        """A x for every vector, shape (*lead, inputs) -> (*lead, outputs)."""

    @abstractmethod
    def back(self, y: Array) -> Array:
        """A' y for every vector, shape (*lead, outputs) -> (*lead, inputs)."""

    @cached_property
    def sizes(self) -> Operator:
        """Absolute values, radii added and rounded up."""
        return self._sizes()

    @abstractmethod
    def _sizes(self) -> Operator:
        """Absolute values, formed once."""

    @property
    def doubt(self) -> Operator | None:
        """The radii, where the weights are not exact."""
        return None

    def slack(self, size: Array, backwards: bool = False, radius: Array | None = None) -> Array:
        """How far a computed product may be from the image of any x with ``|x| <= size``.

        Args:
            radius: how far the argument itself may be off; its image is added.
        """
        own = np.zeros_like(size) if radius is None else radius
        push = self.sizes.back if backwards else self.sizes.ahead
        with np.errstate(invalid="ignore", over="ignore"):
            if not self.terms:
                found = push(own)
            else:
                found = grown(push(up(size * gamma(self.terms + 2) + own) + LEAST), self.terms + 4)
                found = up(found + self.terms * LEAST)
            if self.doubt is not None:
                doubt = self.doubt.back(size) if backwards else self.doubt.ahead(size)
                found = up(found + grown(doubt, self.terms + 2))
        return np.where(np.isnan(found), np.inf, found)

    def image(self, x: Interval, backwards: bool = False) -> Interval:
        """All A x (A' x) of an interval."""
        push = self.back if backwards else self.ahead
        if not self.terms:
            return Interval(push(x.low), push(x.high))
        centre, radius = x.middle()
        with np.errstate(invalid="ignore", over="ignore"):
            middle = push(centre)
            spread = self.slack(up(np.abs(centre) + radius), backwards, radius)
            return safe(down(middle - spread), up(middle + spread))

    def matrix(self) -> Array:
        """The matrix, shape (outputs, inputs): images of unit vectors, which round nothing."""
        return self.ahead(np.eye(self.inputs)).T


@dataclass(frozen=True, eq=False)
class Moves(Operator):
    """``y[i] = x[index[i]]``, or 0 where the index is -1."""

    index: Places
    inputs: int

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return len(self.index)

    @cached_property
    def terms(self) -> int:  # type: ignore[override]
        used = np.bincount(self.index[self.index >= 0], minlength=1)
        return int(used.max()) if used.max() > 1 else 0

    def ahead(self, x: Array) -> Array:
        return np.where(self.index >= 0, x[..., np.maximum(self.index, 0)], 0.0)

    def back(self, y: Array) -> Array:
        kept = np.flatnonzero(self.index >= 0)
        found = np.zeros((*y.shape[:-1], self.inputs))
        if self.terms == 0:
            found[..., self.index[kept]] = y[..., kept]
        else:
            np.add.at(found, (..., self.index[kept]), y[..., kept])  # pyright: ignore[reportArgumentType]
        return found

    def _sizes(self) -> Operator:
        return self


@dataclass(frozen=True, eq=False)
class Turned(Operator):
    """The transposed map."""

    other: Operator

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return self.other.outputs

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.other.inputs

    @property
    def terms(self) -> int:  # type: ignore[override]
        return self.other.terms

    def ahead(self, x: Array) -> Array:
        return self.other.back(x)

    def back(self, y: Array) -> Array:
        return self.other.ahead(y)

    def _sizes(self) -> Operator:
        return Turned(self.other.sizes)


@dataclass(frozen=True, eq=False)
class Dense(Operator):
    """A matrix (out, in) on each of `count` vectors that lie one behind the other."""

    weight: Array
    count: int = 1

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return self.count * self.weight.shape[1]

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.count * self.weight.shape[0]

    @property
    def terms(self) -> int:  # type: ignore[override]
        return max(self.weight.shape)

    def ahead(self, x: Array) -> Array:
        parts = x.reshape(-1, self.weight.shape[1]) @ self.weight.T
        return parts.reshape(*x.shape[:-1], self.outputs)

    def back(self, y: Array) -> Array:
        parts = y.reshape(-1, self.weight.shape[0]) @ self.weight
        return parts.reshape(*y.shape[:-1], self.inputs)

    def _sizes(self) -> Operator:
        return Dense(np.abs(self.weight), self.count)


@dataclass(frozen=True, eq=False)
class Scale(Operator):
    """Entry by entry; the exact factors lie within `radius` of the floats."""

    factor: Array
    radius: Array | None = None
    terms: int = 1

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return len(self.factor)

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return len(self.factor)

    def ahead(self, x: Array) -> Array:
        return x * self.factor

    def back(self, y: Array) -> Array:
        return y * self.factor

    def _sizes(self) -> Operator:
        size = np.abs(self.factor)
        return Scale(size if self.radius is None else up(size + self.radius))

    @property
    def doubt(self) -> Operator | None:
        return None if self.radius is None else Scale(self.radius)


@dataclass(frozen=True, eq=False)
class Entries(Operator):
    """A sparse matrix as a list of rows, columns and weights, which lie within `radius` of the floats."""

    row: Places
    column: Places
    weight: Array
    outputs: int
    inputs: int
    radius: Array | None = None

    @cached_property
    def terms(self) -> int:  # type: ignore[override]
        most = (np.bincount(x, minlength=1).max() for x in (self.row, self.column))
        return max(1, *map(int, most))

    def ahead(self, x: Array) -> Array:
        return self._summed(x, self.column, self.row, self.outputs)

    def back(self, y: Array) -> Array:
        return self._summed(y, self.row, self.column, self.inputs)

    def _summed(self, x: Array, read: Places, written: Places, count: int) -> Array:
        flat = x.reshape(-1, x.shape[-1])
        found = np.zeros((len(flat), count))
        for k, one in enumerate(flat):
            found[k] = np.bincount(written, one[read] * self.weight, count)
        return found.reshape(*x.shape[:-1], count)

    def _sizes(self) -> Operator:
        size = np.abs(self.weight)
        return replace(self, weight=size if self.radius is None else up(size + self.radius), radius=None)

    @property
    def doubt(self) -> Operator | None:
        return None if self.radius is None else replace(self, weight=self.radius, radius=None)


@dataclass(frozen=True, eq=False)
class Convolution(Operator):
    """Cross-correlation over the last axes of an image (channels, *size), padded with zeros.

    Args:
        weight: shape (out_channels, in_channels / groups, *kernel).
    """

    weight: Array
    image_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @cached_property
    def result(self) -> tuple[int, ...]:
        """Size of the result's axes."""
        spans = zip(self.image_shape[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in spans)

    @property
    def inputs(self) -> int:  # type: ignore[override]
        return math.prod(self.image_shape)

    @property
    def outputs(self) -> int:  # type: ignore[override]
        return self.weight.shape[0] * math.prod(self.result)

    @property
    def terms(self) -> int:  # type: ignore[override]
        return math.prod(self.weight.shape[2:]) * max(self.weight.shape[1], self.weight.shape[0] // self.groups)

    @property
    def _padded(self) -> tuple[int, ...]:
        return tuple(n + 2 * p for n, p in zip(self.image_shape[1:], self.padding, strict=True))

    @property
    def _inside(self) -> tuple[slice, ...]:
        return tuple(slice(p, p + n) for n, p in zip(self.image_shape[1:], self.padding, strict=True))

    def _taps(self) -> list[tuple[int, tuple[slice, ...]]]:
        """For every tap of the kernel the entries of the padded image that it reads for all results."""
        found = []
        for number, tap in enumerate(itertools.product(*map(range, self.weight.shape[2:]))):
            spans = zip(tap, self.result, self.stride, self.dilation, strict=True)
            found.append((number, tuple(slice(k * d, k * d + (m - 1) * s + 1, s) for k, m, s, d in spans)))
        return found

    def _kernels(self) -> Array:
        """Shape (taps, groups, out / groups, in / groups)."""
        out, own, *kernel = self.weight.shape
        flat = self.weight.reshape(self.groups, out // self.groups, own, math.prod(kernel))
        return np.moveaxis(flat, 3, 0)

    def _chunks(self, count: int) -> range:
        return range(0, count, max(1, AT_ONCE // (self.inputs + self.outputs)))

    def ahead(self, x: Array) -> Array:
        flat, kernels = x.reshape(-1, *self.image_shape), self._kernels()
        found = np.zeros((len(flat), self.groups, self.weight.shape[0] // self.groups, math.prod(self.result)))
        steps = self._chunks(len(flat))
        for first in steps:
            part = flat[first : first + steps.step]
            padded = np.zeros((len(part), self.image_shape[0], *self._padded))
            padded[(slice(None), slice(None), *self._inside)] = part
            for number, where in self._taps():
                read = padded[(slice(None), slice(None), *where)]
                read = read.reshape(len(part), self.groups, self.weight.shape[1], -1)
                found[first : first + steps.step] += kernels[number] @ read
        return found.reshape(*x.shape[:-1], self.outputs)

    def back(self, y: Array) -> Array:
        count = math.prod(y.shape[:-1])
        flat = y.reshape(count, self.groups, self.weight.shape[0] // self.groups, math.prod(self.result))
        found, kernels = np.zeros((count, *self.image_shape)), self._kernels()
        steps = self._chunks(count)
        for first in steps:
            part = flat[first : first + steps.step]
            padded = np.zeros((len(part), self.image_shape[0], *self._padded))
            for number, where in self._taps():
                share = np.swapaxes(kernels[number], 1, 2) @ part
                shape = (len(part), self.image_shape[0], *self.result)
                padded[(slice(None), slice(None), *where)] += share.reshape(shape)
            found[first : first + steps.step] = padded[(slice(None), slice(None), *self._inside)]
        return found.reshape(*y.shape[:-1], self.inputs)

    def _sizes(self) -> Operator:
        return replace(self, weight=np.abs(self.weight))
