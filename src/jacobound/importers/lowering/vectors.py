"""Steps that are functions of whole vectors: softmax, norms, normalisation, products of two nodes, attention.

Bounds of a Jacobian's entries are not known through them (`VectorFunction.expand` raises); products of norms are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Elementwise, Node, Vector, VectorFunction
from jacobound.graph.vector.attention import Attention
from jacobound.graph.vector.normalising import Normalised, Standardised
from jacobound.graph.vector.products import MatrixProduct, Product, Quotient
from jacobound.graph.vector.smooth import Length, LogSoftmax, LogSumExp, Softmax
from jacobound.importers.fusions.attention import Scores, scores_of
from jacobound.importers.lowering.basic import MIXED
from jacobound.importers.lowering.products import ProductSteps, einsum_labels, per_channel

Back = Callable[[Node, str], Node]


class VectorSteps(ProductSteps):
    """Functions of whole vectors. Axes are counted without batch."""

    def softmax(self, node: Node, axis: int, name: str) -> Node:
        """Softmax along an axis."""
        return self._by_rows(node, [axis], name, lambda rows: Softmax(rows, self.like))

    def log_softmax(self, node: Node, axis: int, name: str) -> Node:
        """Logarithm of softmax along an axis."""
        return self._by_rows(node, [axis], name, lambda rows: LogSoftmax(rows, self.like))

    def logsumexp(self, node: Node, axes: Sequence[int], keepdim: bool, name: str) -> Node:
        """``log sum exp`` over axes."""
        return self._reduced(node, axes, keepdim, name, lambda rows: LogSumExp(rows, self.like))

    def length(self, node: Node, axes: Sequence[int], keepdim: bool, name: str) -> Node:
        """Euclidean length over axes."""
        return self._reduced(node, axes, keepdim, name, lambda rows: Length(rows, self.like))

    def layer_norm(
        self, node: Node, axes: Sequence[int], gamma: Tensor | None, beta: Tensor | None, eps: float, name: str
    ) -> Node:
        """``gamma (x - mean) / sqrt(variance + eps) + beta`` with statistics over axes; gamma, beta as broadcast."""
        inner = name if gamma is None and beta is None else f"{name}.standard"
        found = self._by_rows(node, axes, inner, self._standardised(eps, True))
        return self._scaled(found, gamma, beta, name)

    def rms_norm(self, node: Node, axes: Sequence[int], gamma: Tensor | None, eps: float, name: str) -> Node:
        """``gamma x / sqrt(mean of squares + eps)`` over axes."""
        inner = name if gamma is None else f"{name}.standard"
        found = self._by_rows(node, axes, inner, self._standardised(eps, False))
        return self._scaled(found, gamma, None, name)

    def group_norm(
        self, node: Node, groups: int, gamma: Tensor | None, beta: Tensor | None, eps: float, name: str
    ) -> Node:
        """Statistics over groups of channels (axis 0) and all axes behind; gamma and beta per channel.

        As many groups as channels make an instance normalisation without running statistics.
        """
        channels = node.shape[0]
        if channels % groups:
            raise UnsupportedOpError(f"{channels} channels can not be parted into {groups} groups.")
        inner = name if gamma is None and beta is None else f"{name}.standard"
        rows = self.reshape(node, (groups, prod(node.shape) // groups), f"{inner}.rows")
        found = Vector(self._standardised(eps, True)(rows.shape), rows, f"{inner}.rowwise")
        back = self.reshape(found, node.shape, inner)
        factor, shift = (None if x is None else per_channel(x, node.shape) for x in (gamma, beta))
        return self._scaled(back, factor, shift, name)

    def normalize(self, node: Node, axes: Sequence[int], eps: float, name: str) -> Node:
        """``x / max(||x||_2, eps)`` over axes."""
        return self._by_rows(node, axes, name, lambda rows: Normalised(rows, self.like, eps, self.variance_floor))

    def product(self, left: Node, right: Node, name: str) -> Node:
        """``left * right``, entry by entry, of one shape."""
        return Vector(Product(left.shape, self.like), self._stacked(left, right, name), name)

    def quotient(self, left: Node, right: Node, name: str) -> Node:
        """``left / right``, entry by entry, of one shape."""
        return Vector(Quotient(left.shape, self.like), self._stacked(left, right, name), name)

    def glu(self, node: Node, axis: int, name: str) -> Node:
        """The first half of an axis times the sigmoid of the second."""
        axis = axis % len(node.shape)
        if node.shape[axis] % 2:
            raise UnsupportedOpError("A gate needs an even number of entries along its axis.")
        place, half = axis + (0 if self.batch is None else 1), node.shape[axis] // 2
        first = self.move(node, lambda x: x.narrow(place, 0, half), f"{name}.first")
        second = self.move(node, lambda x: x.narrow(place, half, half), f"{name}.second")
        return self.product(first, Elementwise(activation("sigmoid"), second, f"{name}.gate"), name)

    def matrix_product(self, left: Node, right: Node, name: str) -> Node:
        """numpy's matrix product of two nodes with at least one axis each.

        ``softmax(scale Q K' + bias) V`` becomes one `Attention`, whose constant is smaller than that of its steps.
        """
        if not left.shape or not right.shape:
            raise UnsupportedOpError("A matrix product needs operands with axes.")
        row, column = len(left.shape) == 1, len(right.shape) == 1
        if self.batch is not None and (row or column or len(left.shape) != len(right.shape)):
            raise UnsupportedOpError(MIXED)
        one = self.reshape(left, (1, *left.shape), f"{name}.row") if row else left
        two = self.reshape(right, (*right.shape, 1), f"{name}.column") if column else right
        scores = scores_of(one)
        if scores is not None and scores.function.left[:-2] == two.shape[:-2]:
            found = self._attention_from(scores, two, name)
        else:
            one, two = self._aligned_stacks([one, two], name)
            found = Vector(MatrixProduct(one.shape, two.shape, self.like), self._flat([one, two], name), name)
        shape = (*found.shape[:-2], *(() if row else (found.shape[-2],)), *(() if column else (found.shape[-1],)))
        return self.reshape(found, shape, f"{name}.shape")

    def contraction(self, equation: str, left: Node, right: Node, name: str) -> Node:
        """numpy's einsum of two nodes, as one matrix product; the equation has the batch axis if there is one."""
        front = 0 if self.batch is None else 1
        (one, two), result = einsum_labels(equation, [len(left.shape) + front, len(right.shape) + front])
        if front and (
            one[:1] != two[:1] or one[:1] != result[:1] or any(x.count(one[0]) > 1 for x in (one, two, result))
        ):
            raise UnsupportedOpError(MIXED)
        left, one = self._node_diagonal(left, one, f"{name}.left")
        right, two = self._node_diagonal(right, two, f"{name}.right")
        one, two, result = one[front:], two[front:], result[front:]
        left, one = self._without_own(left, one, {*two, *result}, f"{name}.left")
        right, two = self._without_own(right, two, {*one, *result}, f"{name}.right")
        sizes = dict(zip(one, left.shape, strict=True))
        if any(sizes.get(label, n) != n for label, n in zip(two, right.shape, strict=True)):
            raise UnsupportedOpError(f"Shapes {left.shape} and {right.shape} do not fit the equation '{equation}'.")
        sizes |= dict(zip(two, right.shape, strict=True))
        shared = [label for label in result if label in one and label in two]
        rows, columns = ([label for label in result if label in own and label not in shared] for own in (one, two))
        summed = [label for label in one if label in two and label not in result]
        lead = [sizes[label] for label in shared]
        m, k, n = (prod(sizes[label] for label in labels) for labels in (rows, summed, columns))
        first = self._arranged(left, one, [*shared, *rows, *summed], f"{name}.left")
        second = self._arranged(right, two, [*shared, *summed, *columns], f"{name}.right")
        first = self.reshape(first, (*lead, m, k), f"{name}.rows")
        second = self.reshape(second, (*lead, k, n), f"{name}.columns")
        order = [*shared, *rows, *columns]
        found = self.matrix_product(first, second, name if order == result else f"{name}.product")
        found = self.reshape(found, tuple(sizes[label] for label in order), f"{name}.shape")
        return self._arranged(found, order, result, name)

    def _without_own(self, node: Node, labels: list[str], others: set[str], name: str) -> tuple[Node, list[str]]:
        """The sum over axes that nothing else has."""
        own = [axis for axis, label in enumerate(labels) if label not in others]
        found = self.sum(node, own, False, f"{name}.own") if own else node
        return found, [label for label in labels if label in others]

    def attention(self, q: Node, k: Node, v: Node, scale: float, bias: Tensor | None, name: str) -> Node:
        """``softmax(scale Q K' + bias) V``: Q (*lead, n, d), K (*lead, m, d), V (*lead, m, e).

        Args:
            bias: float64, broadcastable to (*lead, n, m); -inf where a query may not look at a key.
        """
        q, k, v = self._aligned_stacks([q, k, v], name)
        function = Attention(q.shape, k.shape, v.shape, scale, bias, self.like)
        return Vector(function, self._flat([q, k, v], name), name)

    def _attention_from(self, scores: Scores, v: Node, name: str) -> Node:
        """Attention on the operands of a written-out product of queries and keys."""
        product, front = scores.function, 0 if self.batch is None else 1
        start = prod(product.left)
        key = (*product.left[:-2], product.right[-1], product.right[-2])

        def operands(flat: Tensor, values: Tensor) -> Tensor:
            turned = flat[..., start:].reshape(*flat.shape[:front], *product.right).mT
            return torch.cat((flat[..., :start], turned.flatten(front), values.flatten(front)), front)

        source = cast(Node, self.rearrange([scores.source, v], operands, f"{name}.operands"))
        function = Attention(product.left, key, v.shape, scores.scale, scores.bias, self.like)
        return Vector(function, source, name)

    def _aligned_stacks(self, nodes: list[Node], name: str) -> list[Node]:
        """Nodes broadcast to equal axes in front of their matrices."""
        try:
            lead = torch.broadcast_shapes(*(node.shape[:-2] for node in nodes))
        except RuntimeError:
            raise UnsupportedOpError("Its operands have shapes that do not fit together.") from None
        if self.batch is not None and len({len(node.shape) for node in nodes}) > 1:
            raise UnsupportedOpError(MIXED)
        return [self.expand(node, (*lead, *node.shape[-2:]), f"{name}.operand{k}") for k, node in enumerate(nodes)]

    def _stacked(self, left: Node, right: Node, name: str) -> Node:
        front = 0 if self.batch is None else 1
        both = self.rearrange([left, right], lambda *parts: torch.stack(parts, front), f"{name}.operands")
        return cast(Node, both)

    def _flat(self, nodes: list[Node], name: str) -> Node:
        """The entries of nodes one behind the other."""
        front = 0 if self.batch is None else 1

        def function(*parts: Tensor) -> Tensor:
            return torch.cat([part.flatten(front) if part.dim() > front else part[..., None] for part in parts], front)

        return cast(Node, self.rearrange(nodes, function, f"{name}.operands"))

    def _standardised(self, eps: float, centred: bool) -> Callable[[tuple[int, ...]], VectorFunction]:
        return lambda rows: Standardised(rows, self.like, eps, self.variance_floor, centred)

    def _scaled(self, node: Node, gamma: Tensor | None, beta: Tensor | None, name: str) -> Node:
        bias = None if beta is None else beta.broadcast_to(node.shape).clone()
        if gamma is not None:
            return self.scale(node, gamma.broadcast_to(node.shape), name, bias)
        return self.add([(1.0, node)], bias, name)

    def _by_rows(
        self, node: Node, axes: Sequence[int], name: str, make: Callable[[tuple[int, ...]], VectorFunction]
    ) -> Node:
        """A function of rows along axes that keeps the shape."""
        kept, gone = _sides(node, axes)
        order, front = [*kept, *gone], 0 if self.batch is None else 1
        rows = self._rows(node, kept, gone, name)
        straight = order == sorted(order)
        found = Vector(make(rows.shape), rows, name if straight and rows is node else f"{name}.rowwise")
        if straight:
            return self.reshape(found, node.shape, name)
        back = [*range(front), *(order.index(axis) + front for axis in range(len(order)))]
        lengths = [node.shape[axis] for axis in order]
        return self.move(found, lambda x: x.reshape(*x.shape[:front], *lengths).permute(back), name)

    def _reduced(
        self,
        node: Node,
        axes: Sequence[int],
        keepdim: bool,
        name: str,
        make: Callable[[tuple[int, ...]], VectorFunction],
    ) -> Node:
        """A function of rows along axes that gives one number each."""
        kept, gone = _sides(node, axes)
        rows = self._rows(node, kept, gone, name)
        shape = tuple(1 if k in gone else n for k, n in enumerate(node.shape) if keepdim or k not in gone)
        found = Vector(make(rows.shape), rows, name if (*rows.shape[:-1], 1) == shape else f"{name}.rowwise")
        return self.reshape(found, shape, name)

    def _rows(self, node: Node, kept: list[int], gone: list[int], name: str) -> Node:
        """The node with some axes as one last axis."""
        front = 0 if self.batch is None else 1
        lead = [node.shape[axis] for axis in kept]
        if [*kept, *gone] == list(range(len(node.shape))):
            return self.reshape(node, (*lead, prod(node.shape[len(lead) :])), f"{name}.rows")
        order = [*range(front), *(axis + front for axis in (*kept, *gone))]
        return self.move(node, lambda x: x.permute(order).reshape(*x.shape[:front], *lead, -1), f"{name}.rows")


def _sides(node: Node, axes: Sequence[int]) -> tuple[list[int], list[int]]:
    """The axes that are kept and those that are gone, both ascending."""
    rank = len(node.shape)
    if not rank:
        raise UnsupportedOpError("It is a function of an axis, and its argument has none.")
    gone = sorted({axis % rank for axis in axes})
    return [axis for axis in range(rank) if axis not in gone], gone
