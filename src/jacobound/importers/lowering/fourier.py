"""Discrete Fourier transforms as matrices of enclosed cosines and sines; a complex value is a pair of nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Node
from jacobound.importers.fusions.lines import outward_float
from jacobound.importers.lowering.basic import BasicSteps
from jacobound.operators.kinds import Sparse

TWO_PI: Final = (
    2 * Fraction("3.14159265358979323846264338327950288"),
    2 * Fraction("3.14159265358979323846264338327950289"),
)
LARGEST: Final = 1 << 12
"""Transforms of more points would be matrices too large to be worked with."""


@dataclass(frozen=True, eq=False)
class Complex:
    """A complex value of the network: two nodes of one shape.

    Args:
        real, imaginary: the parts; None for an imaginary part of zero.
    """

    real: Node
    imaginary: Node | None


class FourierSteps(BasicSteps):
    """Transforms along one axis; sums of enclosed numbers times entries."""

    def fourier(self, value: Complex, axis: int, count: int, inverse: bool, scale: Interval, name: str) -> Complex:
        """``sum_j x_j exp(-+ 2 pi i j k / n)`` for all n frequencies.

        Args:
            value: cut off or filled with zeros to `count` points n.
            axis: without batch.
            scale: a factor, 0-d.
        """
        used = min(count, value.real.shape[axis])
        cosines, sines = self._waves(used, count, count)
        sines = sines if inverse else -sines
        parts = [(value.real, cosines, sines)]
        if value.imaginary is not None:
            parts.append((value.imaginary, -sines, cosines))
        terms = [
            [(self._wave_matrix(node, axis, (first, second)[k] * scale), node) for node, first, second in parts]
            for k in range(2)
        ]
        real, imaginary = (
            Affine(tuple(own), None, f"{name}.{part}") for own, part in zip(terms, ("real", "imaginary"), strict=True)
        )
        return Complex(real, imaginary)

    def real_fourier(self, value: Complex, axis: int, count: int, scale: Interval, name: str) -> Node:
        """The inverse transform of half a spectrum (frequencies up to n / 2) to `count` real points n."""
        half = min(count // 2 + 1, value.real.shape[axis])
        cosines, sines = self._waves(half, count, count)
        twice = self.like.new_tensor([1.0 if k == 0 or 2 * k == count else 2.0 for k in range(half)]).reshape(-1, 1)
        known = [(value.real, cosines * twice)]
        if value.imaginary is not None:
            # What an imaginary part of the frequencies 0 and n / 2 holds is left out.
            known.append((value.imaginary, -(sines * torch.where(twice > 1, twice, 0.0))))
        terms = [(self._wave_matrix(node, axis, weight * scale), node) for node, weight in known]
        return Affine(tuple(terms), None, name)

    def _waves(self, points: int, count: int, frequencies: int) -> tuple[Interval, Interval]:
        """Cosines and sines of ``2 pi j k / count``, (points, frequencies); those of quarter turns are exact."""
        if count > LARGEST:
            raise UnsupportedOpError(f"A transform of {count} points is a matrix of more than {LARGEST}^2 entries.")
        turns = torch.outer(torch.arange(points), torch.arange(frequencies)) % count
        found = []
        for shift in (0, -1):
            entries = [_cosine(Fraction(t, count) + Fraction(shift, 4)) for t in range(count)]
            ends = (self.like.new_tensor([one[k] for one in entries])[turns.to(self.like.device)] for k in range(2))
            found.append(Interval(*ends))
        return found[0], found[1]

    def _wave_matrix(self, node: Node, axis: int, weight: Interval) -> Sparse:
        """The matrix (points, results) along an axis of a node; further points of it are left out."""
        axis %= len(node.shape)
        middle, radius = weight.midpoint_and_radius()
        index = torch.arange(len(middle), device=middle.device).reshape(-1, 1).expand(middle.shape).contiguous()
        before, after = node.shape[:axis], node.shape[axis + 1 :]
        return Sparse(middle, index, (node.shape[axis],), radius if bool(radius.any()) else None, before, after)


def _cosine(turn: Fraction) -> tuple[float, float]:
    """The two floats around the cosine of a number of turns."""
    turn %= 1
    turn = min(turn, 1 - turn)  # even, of period 1
    exact = {Fraction(0): 1.0, Fraction(1, 4): 0.0, Fraction(1, 2): -1.0, Fraction(1, 6): 0.5, Fraction(1, 3): -0.5}
    if turn in exact:
        return exact[turn], exact[turn]
    low, high = (outward_float(turn * end, way) for end, way in zip(TWO_PI, (-math.inf, math.inf), strict=True))
    ends = (torch.tensor(end, dtype=torch.float64) for end in (low, high))
    found = Interval(*ends).cos()
    return float(found.lower), float(found.upper)


def scale_of(norm: str | None, count: int, inverse: bool, like: Tensor) -> Interval:
    """The factor of a transform of so many points: 1, 1 / n or 1 / sqrt(n)."""
    whole = Interval.exact(like.new_tensor(float(count)))
    if norm == "ortho":
        return whole.sqrt().reciprocal()
    scaled = inverse if norm in (None, "backward") else not inverse
    return whole.reciprocal() if scaled else Interval.exact(like.new_ones(()))
