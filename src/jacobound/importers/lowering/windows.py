"""Steps that slide windows over spatial axes, or resize them: convolutions, average pools, interpolation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import nextafter

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Node
from jacobound.importers.lowering.products import ProductSteps, per_channel
from jacobound.operators.kinds import Convolution, Sparse

Row = Mapping[int, Fraction]
"""The weights of one entry of a resampled axis, by positions of the axis before."""


class WindowSteps(ProductSteps):
    """Steps over the spatial axes of a node (channels, *size)."""

    def convolution(
        self,
        node: Node,
        weight: Tensor,
        bias: Tensor | None,
        name: str,
        *,
        stride: Sequence[int],
        pads: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        groups: int,
    ) -> Node:
        """Cross-correlation of a node (channels, *size) over one to three axes.

        Args:
            weight: shape (out, in / groups, *kernel).
            bias: shape (out,).
            pads: zeros in front of and behind each spatial axis.
        """
        if any(before != after for before, after in pads):
            node = self._padded(node, pads, f"{name}.pad")
            pads = [(0, 0) for _ in pads]
        operator = Convolution(
            weight, node.shape, tuple(stride), tuple(before for before, _ in pads), tuple(dilation), groups
        )
        if bias is not None:
            bias = per_channel(bias, operator.out_shape)
        return self._as_affine(node, operator, name, bias)

    def transposed_convolution(
        self,
        node: Node,
        weight: Tensor,
        bias: Tensor | None,
        name: str,
        *,
        stride: Sequence[int],
        pads: Sequence[tuple[int, int]],
        dilation: Sequence[int],
        groups: int,
        output_padding: Sequence[int],
    ) -> Node:
        """Adjoint of a convolution, of a node (channels, *size) over one to three axes.

        Args:
            weight: shape (in, out / groups, *kernel).
            bias: shape (out,).
            pads: entries that are cropped in front of and behind each axis.
            output_padding: entries that are added behind, after cropping.
        """
        if len(node.shape) != weight.dim() - 1 or weight.shape[0] != node.shape[0] or weight.shape[0] % groups:
            raise UnsupportedOpError(f"A weight of shape {tuple(weight.shape)} does not fit {node.shape}.")
        spans = list(zip(node.shape[1:], weight.shape[2:], stride, dilation, strict=True))
        full = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in spans]
        wanted = [f - sum(pad) + extra for f, pad, extra in zip(full, pads, output_padding, strict=True)]
        if min(wanted) < 1:
            raise UnsupportedOpError(f"Its pads {list(pads)} leave nothing of the result.")
        image = (weight.shape[1] * groups, *full)
        operator = Convolution(
            weight, image, tuple(stride), tuple(0 for _ in full), tuple(dilation), groups, adjoint=True
        )
        if bias is not None:
            bias = per_channel(bias, (image[0], *wanted))
        if tuple(wanted) == image[1:] and all(pad == (0, 0) for pad in pads):
            return self._as_affine(node, operator, name, bias)
        whole = self._as_affine(node, operator, f"{name}.whole")
        crop = [(-before, length + before - f) for f, length, (before, _) in zip(full, wanted, pads, strict=True)]
        part = self._padded(whole, crop, name)
        return Affine(part.terms, bias, name) if isinstance(part, Affine) and bias is not None else part

    def _padded(self, node: Node, amounts: Sequence[tuple[int, int]], name: str) -> Node:
        """Zeros in front of and behind each spatial axis; negative amounts crop."""
        flat = [amount for pair in reversed(amounts) for amount in pair]
        return self.move(node, lambda x: torch.nn.functional.pad(x, flat), name)

    def average_pool(
        self,
        node: Node,
        kernel: Sequence[int],
        stride: Sequence[int],
        pads: Sequence[tuple[int, int]],
        name: str,
        *,
        dilation: Sequence[int] | None = None,
        ceil_mode: bool = False,
        count_padding: bool = True,
        divisor: int | None = None,
    ) -> Node:
        """Means over windows of a node (channels, *size), one axis after the other.

        Args:
            count_padding: whether zeros of the padding count in the divisor; what a last window reaches beyond them
                never does.
            divisor: in place of the sizes of the windows.
        """
        windows = pooling_windows(node.shape[1:], kernel, stride, pads, dilation, ceil_mode)
        matrices = {}
        for axis, (length, taps, (_, after)) in enumerate(zip(node.shape[1:], windows, pads, strict=True), 1):
            rows = []
            for window in taps:
                inside = [tap for tap in window if 0 <= tap < length]
                counted = sum(tap < length + after for tap in window) if count_padding else len(inside)
                if divisor is not None:
                    counted = divisor if axis == 1 else 1
                if not counted:
                    raise UnsupportedOpError("A window lies entirely in the padding, so that its mean is not defined.")
                rows.append(dict.fromkeys(inside, Fraction(1, counted)))
            matrices[axis] = rows
        return self.resample(node, matrices, name)

    def adaptive_average_pool(self, node: Node, output_size: Sequence[int | None], name: str) -> Node:
        """Means over as many windows per axis as wanted; they overlap where the sizes do not divide."""
        windows = adaptive_windows(node.shape[1:], output_size)
        return self.resample(
            node,
            {
                axis: [dict.fromkeys(taps, Fraction(1, len(taps))) for taps in rows]
                for axis, rows in enumerate(windows, 1)
            },
            name,
        )

    def resample(self, node: Node, matrices: Mapping[int, Sequence[Row]], name: str) -> Node:
        """A rational matrix along each of some axes, the shrinking ones first.

        Args:
            matrices: by axis (counted without batch) the weights of every entry of the result.
        """
        changing = {
            axis: rows
            for axis, rows in matrices.items()
            if len(rows) != node.shape[axis] or any(dict(row) != {k: Fraction(1)} for k, row in enumerate(rows))
        }
        order = sorted(changing, key=lambda axis: Fraction(len(changing[axis]), node.shape[axis]))
        for axis in order:
            node = self._along(node, axis, changing[axis], name if axis == order[-1] else f"{name}.axis{axis}")
        return node

    def _along(self, node: Node, axis: int, rows: Sequence[Row], name: str) -> Node:
        """One matrix along one axis: copies, a mean over everything, or a table of weights."""
        length = node.shape[axis]
        rows = [{place: weight for place, weight in row.items() if weight} for row in rows]
        if not rows or any(place not in range(length) for row in rows for place in row):
            raise UnsupportedOpError(f"Its weights do not fit an axis of length {length}.")
        if all(list(row.values()) == [1] for row in rows):
            index = torch.tensor([place for row in rows for place in row], device=self.like.device)
            front = 0 if self.batch is None else 1
            return self.move(node, lambda x: x.index_select(axis + front, index), name)
        if len(rows) == 1 and len(rows[0]) == length and len(set(rows[0].values())) == 1 and rows[0][0].numerator == 1:
            return self.divide(self.sum(node, [axis], True, f"{name}.total"), float(rows[0][0].denominator), name)
        weight, index, radius = weight_table(rows)
        operator = Sparse(
            weight.to(self.like.device),
            index.to(self.like.device),
            (length,),
            None if radius is None else radius.to(self.like.device),
            node.shape[:axis],
            node.shape[axis + 1 :],
        )
        return self._as_affine(node, operator, name)


def weight_table(rows: Sequence[Row]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights, positions and radii, each of shape (longest row, rows), of a rational matrix given by its rows.

    Weights are the nearest floats; the radius is how far they are from the rational ones, rounded up, None for no
    difference anywhere.
    """
    longest = max(1, max(len(row) for row in rows))
    weight, radius = (torch.zeros(longest, len(rows), dtype=torch.float64) for _ in range(2))
    index = torch.full((longest, len(rows)), -1)
    for column, row in enumerate(rows):
        for k, (place, exact) in enumerate(sorted(row.items())):
            index[k, column] = place
            weight[k, column] = float(exact)
            radius[k, column] = _rounded_up(abs(exact - Fraction(float(exact))))
    return weight, index, radius if bool(radius.any()) else None


def _rounded_up(exact: Fraction) -> float:
    found = float(exact)
    return found if Fraction(found) >= exact else nextafter(found, 1.0)


def pooling_windows(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int] | None,
    ceil_mode: bool,
) -> list[list[list[int]]]:
    """By axis, the positions that each window looks at; those outside 0 ... n - 1 lie in the padding or beyond it.

    With `ceil_mode` there is a last partial window, if it starts inside the input or the padding in front.
    """
    dilation = [1] * len(size) if dilation is None else dilation
    found = []
    for n, k, s, (before, after), d in zip(size, kernel, stride, pads, dilation, strict=True):
        reach = n + before + after - d * (k - 1) - 1
        length = (-(-reach // s) if ceil_mode else reach // s) + 1
        if ceil_mode and (length - 1) * s >= n + before:
            length -= 1
        if length < 1:
            raise UnsupportedOpError(f"A window of {k} does not fit into an axis of {n}.")
        found.append([[o * s - before + d * tap for tap in range(k)] for o in range(length)])
    return found


def adaptive_windows(size: Sequence[int], output_size: Sequence[int | None]) -> list[list[list[int]]]:
    """By axis, the positions of each window: from floor(i n / m) up to ceil((i + 1) n / m)."""
    found = []
    for n, wanted in zip(size, output_size, strict=True):
        m = n if wanted is None else int(wanted)
        if m < 1:
            raise UnsupportedOpError(f"It has {m} windows along an axis.")
        found.append([list(range(i * n // m, -(-(i + 1) * n // m))) for i in range(m)])
    return found
