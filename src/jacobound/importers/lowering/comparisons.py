"""Steps that compare entries: maxima over windows, axes and tensors, and sorting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.errors import InvalidModelError, ShapeError, UnsupportedOpError
from jacobound.graph.nodes import Affine, Elementwise, Node, Vector
from jacobound.graph.vector.comparisons import Maximum, Sort
from jacobound.importers.lowering.basic import MIXED, BasicSteps
from jacobound.importers.lowering.windows import adaptive_windows, pooling_windows
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Identity, Select


class ComparisonSteps(BasicSteps):
    """Maxima, minima and sorting. A minimum is minus the maximum of minus."""

    def max_pool(
        self,
        node: Node,
        kernel: Sequence[int],
        stride: Sequence[int],
        pads: Sequence[tuple[int, int]],
        name: str,
        *,
        dilation: Sequence[int] | None = None,
        ceil_mode: bool = False,
    ) -> Node:
        """Largest entries of windows of a node (channels, *size); the padding never wins.

        One axis after the other: windows that overlap share what they have in common.
        """
        return self._pooled(node, pooling_windows(node.shape[1:], kernel, stride, pads, dilation, ceil_mode), name)

    def adaptive_max_pool(self, node: Node, output_size: Sequence[int | None], name: str) -> Node:
        """Largest entries of as many windows per axis as wanted."""
        return self._pooled(node, adaptive_windows(node.shape[1:], output_size), name)

    def _pooled(self, node: Node, windows: list[list[list[int]]], name: str) -> Node:
        """Maxima over windows along each axis behind the first, the shrinking ones first."""
        size = node.shape[1:]
        inside = [[[tap for tap in w if 0 <= tap < n] for w in taps] for n, taps in zip(size, windows, strict=True)]
        if not all(window for taps in inside for window in taps):
            raise UnsupportedOpError("A window lies entirely in the padding, so that it has no largest entry.")
        changing = [
            axis for axis, taps in enumerate(inside, 1) if taps != [[place] for place in range(node.shape[axis])]
        ]
        changing.sort(key=lambda axis: len(inside[axis - 1]) / node.shape[axis])
        for axis in changing:
            last = axis == changing[-1]
            node = self._along_axis(node, axis, inside[axis - 1], name if last else f"{name}.axis{axis}")
        return node

    def _along_axis(self, node: Node, axis: int, taps: list[list[int]], name: str) -> Node:
        longest = max(len(window) for window in taps)
        table = torch.tensor([[*window, *[-1] * (longest - len(window))] for window in taps]).T
        places = self._places(node).movedim(axis, -1)[..., table.clamp(min=0).to(self.like.device)]
        places = torch.where(table.to(places) >= 0, places, -1)  # (*others, k, windows)
        return self._maximum(node, places.movedim(-2, 0).movedim(-1, axis + 1), name)

    def _places(self, node: Node) -> Tensor:
        """Flat positions of a node's entries, in its shape."""
        count = 1
        for length in node.shape:
            count *= length
        return torch.arange(count, device=self.like.device).reshape(node.shape)

    def _maximum(self, node: Node, windows: Tensor, name: str) -> Node:
        """The largest of the candidates, shape (k, *result); one candidate is a movement."""
        if len(windows) == 1:
            index, like = windows[0], self.like
            return Affine(((Select(index.contiguous(), node.shape, like), node),), None, name)
        try:
            return Vector(Maximum(windows.contiguous(), node.shape, self.like), node, name)
        except ShapeError as error:
            raise UnsupportedOpError(f"{error}.") from None

    def largest_of(self, node: Node, windows: Tensor, smallest: bool, name: str) -> Node:
        """The largest or smallest of the entries at flat positions, shape (k, *result); -1 for none."""
        if not smallest:
            return self._maximum(node, windows, name)
        return self._negative(self._maximum(self._negative(node, f"{name}.minus"), windows, f"{name}.max"), name)

    def maximum_over(self, node: Node, axes: Sequence[int], keepdim: bool, name: str) -> Node:
        """Largest entries along axes (counted without batch)."""
        gone = sorted({axis % len(node.shape) for axis in axes})
        kept = [axis for axis in range(len(node.shape)) if axis not in gone]
        shape = tuple(1 if axis in gone else n for axis, n in enumerate(node.shape) if keepdim or axis not in gone)
        windows = self._places(node).permute(*gone, *kept).reshape(-1, *shape)
        return self.reshape(node, shape, name) if len(windows) == 1 else self._maximum(node, windows, name)

    def minimum_over(self, node: Node, axes: Sequence[int], keepdim: bool, name: str) -> Node:
        """Smallest entries along axes (counted without batch)."""
        return self._negative(
            self.maximum_over(self._negative(node, f"{name}.minus"), axes, keepdim, f"{name}.max"), name
        )

    def maximum(self, operands: Sequence[Node | Tensor], name: str) -> Node:
        """The largest of nodes and constants, entry by entry; they are broadcast to one shape.

        A constant c needs no comparison of nodes: ``max(x, c) = c + relu(x - c)``.

        Raises:
            UnsupportedOpError: when shapes do not fit, or reach the batch axis.
            InvalidModelError: when a constant is NaN or plus infinity.
        """
        nodes = list(dict.fromkeys(operand for operand in operands if not isinstance(operand, Tensor)))
        constants = [operand for operand in operands if isinstance(operand, Tensor)]
        if not nodes:
            raise UnsupportedOpError("It compares constants only.")
        if any(bool((constant.isnan() | (constant == torch.inf)).any()) for constant in constants):
            raise InvalidModelError(f"'{name}' compares with NaN or infinity; check the constants of the model")
        shape = self._common_shape(nodes, constants)
        try:
            nodes = [self.expand(node, shape, f"{name}.operand{k}") for k, node in enumerate(nodes)]
        except RuntimeError:
            raise UnsupportedOpError("Its operands have shapes that do not fit together.") from None
        found = nodes[0]
        label = f"{name}.nodes" if constants else name
        if len(nodes) > 1:
            front = 0 if self.batch is None else 1
            both = self.rearrange(nodes, lambda *parts: torch.stack(parts, front), f"{name}.operands")
            assert not isinstance(both, Tensor)
            found = self._maximum(both, self._places(both), label)
        if not constants:
            return found
        floor = self.constant(constants[0], shape)
        for constant in constants[1:]:
            floor = torch.maximum(floor, self.constant(constant, shape))
        return self._at_least(found, floor, name)

    def minimum(self, operands: Sequence[Node | Tensor], name: str) -> Node:
        """The smallest of nodes and constants, entry by entry."""
        minus = [
            -operand if isinstance(operand, Tensor) else self._negative(operand, f"{name}.minus{k}")
            for k, operand in enumerate(operands)
        ]
        return self._negative(self.maximum(minus, f"{name}.max"), name)

    def sort(self, node: Node, axis: int, descending: bool, name: str) -> Node:
        """Sorted values along an axis (counted without batch)."""
        axis = axis % len(node.shape)
        if node.shape[axis] == 1:
            return node
        place = axis + (0 if self.batch is None else 1)
        rows = self.move(node, lambda x: x.movedim(place, -1), f"{name}.rows")
        ordered = Vector(Sort(rows.shape, self.like), rows, f"{name}.sorted" if descending else name)
        turned = (lambda x: x.flip(-1).movedim(-1, place)) if descending else (lambda x: x.movedim(-1, place))
        return self.move(ordered, turned, name)

    def _common_shape(self, nodes: Sequence[Node], constants: Sequence[Tensor]) -> tuple[int, ...]:
        """The shape to which all operands broadcast, without batch."""
        shapes = [self._with_batch(node.shape) for node in nodes]
        try:
            full = torch.broadcast_shapes(*shapes, *(constant.shape for constant in constants))
        except RuntimeError:
            raise UnsupportedOpError("Its operands have shapes that do not fit together.") from None
        if self.batch is None:
            return tuple(full)
        if len(full) > max(map(len, shapes)) or full[0] != self.batch:
            raise UnsupportedOpError(MIXED)
        return tuple(full[1:])

    def _at_least(self, node: Node, floor: Tensor, name: str) -> Node:
        """``max(node, floor)``; entries without a floor (minus infinity) pass through and cost no comparison."""
        limited = torch.isfinite(floor)
        if not bool(limited.any()):
            return node
        places = limited.flatten().nonzero().squeeze(1)
        part: LinearOperator = Select(places, node.shape, self.like)
        back = torch.full(node.shape, -1, device=self.like.device)
        back[limited] = torch.arange(len(places), device=self.like.device)
        spread: LinearOperator = Select(back, tuple(places.shape), self.like)
        if bool(limited.all()):
            part, spread = (Identity(node.shape, node.shape, self.like) for _ in range(2))
            places = torch.arange(floor.numel(), device=self.like.device)
        above = floor.flatten()[places].reshape(part.out_shape)
        gate = Elementwise(activation("relu"), Affine(((part, node),), -above, f"{name}.above"), f"{name}.gate")
        terms: list[tuple[LinearOperator, Node]] = [(spread, gate)]
        if not bool(limited.all()):
            passing = torch.where(limited.flatten(), -1, torch.arange(floor.numel(), device=self.like.device))
            terms.append((Select(passing.reshape(node.shape), node.shape, self.like), node))
        return Affine(tuple(terms), torch.where(limited, floor, 0.0), name)

    def _negative(self, node: Node, name: str) -> Node:
        return self.add([(-1.0, node)], None, name)
