"""Steps that are products with constants: matrices of any number of axes, einsum, sums, means, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.basic import MIXED, BasicSteps
from jacobound.operators.kinds import Blocks, Dense

Labels = Sequence[str]
"""Names of the axes of an operand, without batch."""


class ProductSteps(BasicSteps):
    """Products with constants."""

    def batch_norm(
        self,
        node: Node,
        mean: Tensor,
        variance: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        eps: float,
        name: str,
    ) -> Node:
        """``gamma (x - mean) / sqrt(variance + eps) + beta`` per channel (axis 0 of the node), without rounding."""

        def spread(x: Tensor) -> Tensor:
            return per_channel(x, node.shape)

        if not bool((variance.double() + eps > 0).all()):
            raise InvalidModelError(f"'{name}' has a running variance below -eps; check the file it was loaded from")
        factor = (Interval.exact(variance) + eps).sqrt().reciprocal()
        if gamma is not None:
            factor = factor * gamma
        centred = self.add([(1.0, node)], spread(-mean), f"{name}.centre")
        return self.scale(centred, factor.map(spread), name, None if beta is None else spread(beta))

    def sum(self, node: Node, axes: Sequence[int], keepdim: bool, name: str) -> Node:
        """Sum over axes (counted without batch), as a row of ones after moving the axes to the end."""
        gone = sorted({axis % len(node.shape) for axis in axes})
        kept = [axis for axis in range(len(node.shape)) if axis not in gone]
        length = prod(node.shape[axis] for axis in gone)
        lead = tuple(node.shape[axis] for axis in kept)
        front = 0 if self.batch is None else 1
        order = [*range(front), *(axis + front for axis in (*kept, *gone))]
        rows = self.move(node, lambda x: x.permute(order).reshape(*x.shape[:front], *lead, length), f"{name}.order")
        total = self.dense(rows, self.like.new_ones(1, length), None, f"{name}.sum")
        shape = lead if not keepdim else tuple(1 if k in gone else n for k, n in enumerate(node.shape))
        return self.reshape(total, shape, name)

    def mean(self, node: Node, axes: Sequence[int], keepdim: bool, name: str) -> Node:
        """Mean over axes (counted without batch)."""
        count = prod(node.shape[axis] for axis in {axis % len(node.shape) for axis in axes})
        return self.divide(self.sum(node, axes, keepdim, f"{name}.total"), float(count), name)

    def cumsum(self, node: Node, axis: int, name: str, *, exclusive: bool = False, reverse: bool = False) -> Node:
        """Running sums along an axis (counted without batch), of the entries before only when `exclusive`."""
        axis = axis % len(node.shape)
        ones = self.like.new_ones(node.shape[axis], node.shape[axis])
        matrix = ones.tril(-1 if exclusive else 0)
        labels = [str(k) for k in range(len(node.shape))]
        after = [*labels[:axis], "sum", *labels[axis + 1 :]]
        return self._contract(node, labels, matrix.T if reverse else matrix, ["sum", str(axis)], after, name)

    def matmul(self, left: Node | Tensor, right: Node | Tensor, name: str) -> Node:
        """numpy's matrix product of a node and a constant (without batch axis, of any number of axes).

        Raises:
            UnsupportedOpError: when both are nodes, shapes do not fit, or the product would reach the batch axis.
        """
        if isinstance(left, Tensor) == isinstance(right, Tensor):
            raise UnsupportedOpError("It needs a value of the network and a constant.")
        one, two = (_matrix_labels(len(x.shape), side) for x, side in ((left, "row"), (right, "column")))
        shared = one[:-2] if len(one) > len(two) else two[:-2]
        result = [*shared, *(label for label in (*one[-2:], *two[-2:]) if label in ("row", "column"))]
        node, own, constant, others = (
            (right, two, left, one) if isinstance(left, Tensor) else (left, one, right, two)  # type: ignore[assignment]
        )
        assert isinstance(constant, Tensor) and not isinstance(node, Tensor)
        if self.batch is not None and (len(own) < 1 + (node is right) or len(shared) > len(own[:-2])):
            raise UnsupportedOpError(MIXED)
        return self._contract(node, own, constant, others, result, name)

    def einsum(self, equation: str, operands: Sequence[Node | Tensor], name: str) -> Node:
        """numpy's einsum with exactly one node; the constants are multiplied on one by one, so nothing is rounded.

        Args:
            equation: of the model, so with the batch axis if it has one.
            operands: nodes without, constants as the model holds them.
        """
        nodes = [operand for operand in operands if not isinstance(operand, Tensor)]
        if len(nodes) != 1:
            raise UnsupportedOpError("It multiplies two values that both depend on the input.")
        front = 0 if self.batch is None else 1
        ranks = [len(x.shape) + (0 if isinstance(x, Tensor) else front) for x in operands]
        inputs, result = einsum_labels(equation, ranks)
        node, labels, factors = nodes[0], [""], []
        for operand, given in zip(operands, inputs, strict=True):
            if isinstance(operand, Tensor):
                factors.append(_diagonal(operand, given))
            else:
                node, labels = self._node_diagonal(node, given, name)
        if front:
            batch = labels[0]
            if not result or result[0] != batch or batch in result[1:]:
                raise UnsupportedOpError(MIXED)
            factors = [_without_batch(*factor, batch) for factor in factors]
            labels, result = labels[1:], result[1:]
        if not factors:
            factors = [(self.like.new_ones(()), [])]
        for k, (constant, others) in enumerate(factors):
            last = k == len(factors) - 1
            later = {*result, *(label for _, more in factors[k + 1 :] for label in more)}
            kept = result if last else [label for label in dict.fromkeys([*labels, *others]) if label in later]
            node = self._contract(node, labels, constant, others, kept, name if last else f"{name}.{k}")
            labels = kept
        return node

    def _node_diagonal(self, node: Node, labels: list[str], name: str) -> tuple[Node, list[str]]:
        """An axis that stands twice is its diagonal; labels include the batch axis if there is one."""
        if len(set(labels)) == len(labels):
            return node, labels
        if self.batch is not None and labels.count(labels[0]) > 1:
            raise UnsupportedOpError(MIXED)
        after = _diagonal(torch.zeros([1] * len(labels)), labels)[1]
        return self.move(node, lambda x: _diagonal(x, labels)[0], f"{name}.diagonal"), after

    def _contract(
        self, node: Node, labels: Labels, constant: Tensor, others: Labels, result: Labels, name: str
    ) -> Node:
        """``sum of node * constant`` over the labels that are not in the result; no label stands twice in an operand.

        The constant becomes one matrix, or a block of matrices where it shares axes with node and result; it is
        never added up beforehand, which would round.
        """
        constant, others = _squeezed(constant.to(self.like), others, labels)
        sizes = dict(zip(others, constant.shape, strict=True)) | {
            label: n for label, n in zip(labels, node.shape, strict=True) if n != 1 or label not in others
        }
        if any(sizes[label] != n for label, n in zip(others, constant.shape, strict=True)) or not {
            *result
        } <= sizes.keys() | {*labels}:
            raise UnsupportedOpError(f"Shapes {node.shape} and {tuple(constant.shape)} do not fit together.")
        summed = [label for label in dict.fromkeys([*labels, *others]) if label not in result]
        shared = [label for label in others if label in labels and label in result]
        free = [label for label in labels if label in result and label not in others]
        new = [label for label in others if label not in labels and label in result]
        if not summed and not new:
            factor = _aligned(constant, others, labels).broadcast_to([sizes[label] for label in labels])
            wide = self.expand(node, tuple(sizes[label] for label in labels), f"{name}.wide")
            product = (
                wide if not others and bool((constant == 1).all()) else self.scale(wide, factor, f"{name}.product")
            )
            return self._arranged(product, labels, result, name)
        rows = self._arranged(node, labels, [*free, *shared, *summed], f"{name}.rows", sizes)
        count = prod(sizes[label] for label in summed)
        rows = self.reshape(rows, (*(sizes[label] for label in (*free, *shared)), count), f"{name}.flat")
        order = [*shared, *new, *summed]
        full = _aligned(constant, others, order).broadcast_to([sizes[label] for label in order])
        matrix = full.reshape(*(sizes[label] for label in shared), prod(sizes[label] for label in new), count)
        lead = tuple(sizes[label] for label in free)
        product = self._as_affine(
            rows, Blocks(matrix.contiguous(), lead) if shared else Dense(matrix.contiguous(), lead), f"{name}.product"
        )
        shape = tuple(sizes[label] for label in (*free, *shared, *new))
        return self._arranged(self.reshape(product, shape, name), [*free, *shared, *new], result, name)

    def _arranged(
        self, node: Node, labels: Labels, order: Labels, name: str, sizes: dict[str, int] | None = None
    ) -> Node:
        """The axes of a node in another order; those that it lacks, or has with length one, are repeated."""
        if list(labels) == list(order) and (sizes is None or node.shape == tuple(sizes[label] for label in order)):
            return node
        front = 0 if self.batch is None else 1

        def function(x: Tensor) -> Tensor:
            moved = x.permute(*range(front), *(labels.index(label) + front for label in order if label in labels))
            for place, label in enumerate(order):
                moved = moved if label in labels else moved.unsqueeze(place + front)
            lengths = moved.shape[front:] if sizes is None else [sizes[label] for label in order]
            return moved.expand(*moved.shape[:front], *lengths)

        return self.move(node, function, name)


def einsum_labels(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """Labels of the operands and of the result; axes under an ellipsis are numbered from the right.

    Raises:
        UnsupportedOpError: when the equation does not fit the operands.
    """
    before, arrow, after = equation.replace(" ", "").partition("->")
    terms = before.split(",")
    if len(terms) != len(ranks):
        raise UnsupportedOpError(f"The equation '{equation}' has {len(terms)} operands where there are {len(ranks)}.")
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    covered = [count for term, count in zip(terms, hidden, strict=True) if "..." in term]
    if min(hidden) < 0 or any(count and "..." not in term for term, count in zip(terms, hidden, strict=True)):
        raise UnsupportedOpError(f"The equation '{equation}' does not fit operands of {list(ranks)} axes.")

    def split(term: str, count: int) -> list[str]:
        first, _, rest = term.partition("...")
        dots = [f"...{k}" for k in reversed(range(count))] if "..." in term else []
        return [*first, *dots, *rest]

    inputs = [split(term, count) for term, count in zip(terms, hidden, strict=True)]
    if not arrow:
        letters = "".join(terms).replace("...", "")
        single = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
        after = ("..." if covered else "") + single
    result = split(after, max(covered, default=0))
    if len(set(result)) != len(result) or not {*result} <= {label for labels in inputs for label in labels}:
        raise UnsupportedOpError(f"The result of the equation '{equation}' is not understood.")
    return inputs, result


def _matrix_labels(rank: int, side: str) -> list[str]:
    """Labels of an operand of a matrix product: batch axes counted from the right, then the matrix or vector."""
    own = ["summed"] if rank < 2 else ([side, "summed"] if side == "row" else ["summed", side])
    return [*(str(k) for k in reversed(range(rank - 2))), *own[:rank]]


def _diagonal(x: Tensor, labels: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Each label once; where it stood twice the diagonal, as the last axis."""
    left = list(labels)
    while len(set(left)) < len(left):
        label = next(label for label in left if left.count(label) > 1)
        one = left.index(label)
        two = left.index(label, one + 1)
        if x.shape[one] != x.shape[two]:
            raise UnsupportedOpError(f"The axes '{label}' of one operand have different lengths.")
        x = x.diagonal(dim1=one, dim2=two)
        left = [*(entry for k, entry in enumerate(left) if k not in (one, two)), label]
    return x, left


def _without_batch(constant: Tensor, labels: list[str], batch: str) -> tuple[Tensor, list[str]]:
    """A constant for one point; it must be the same for all."""
    if batch not in labels:
        return constant, labels
    place = labels.index(batch)
    first = constant.narrow(place, 0, 1)
    if not torch.equal(constant, first.expand_as(constant)):
        raise UnsupportedOpError("A constant is different for each point of the batch.")
    return first.squeeze(place), [label for label in labels if label != batch]


def _squeezed(constant: Tensor, others: Labels, labels: Labels) -> tuple[Tensor, list[str]]:
    """Axes of length one of a constant are left out where the node has them: that is what broadcasting means."""
    gone = [k for k, (label, n) in enumerate(zip(others, constant.shape, strict=True)) if n == 1 and label in labels]
    kept = [label for k, label in enumerate(others) if k not in gone]
    return constant.squeeze(tuple(gone)) if gone else constant, kept


def _aligned(constant: Tensor, labels: Labels, order: Labels) -> Tensor:
    """The axes of a constant in another order, with axes of length one for those that it lacks."""
    moved = constant.permute([list(labels).index(label) for label in order if label in labels])
    for place, label in enumerate(order):
        moved = moved if label in labels else moved.unsqueeze(place)
    return moved


def per_channel(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One number for each entry of axis 0, written out over a shape."""
    return x.reshape(-1, *(1 for _ in shape[1:])).broadcast_to(shape).clone()
