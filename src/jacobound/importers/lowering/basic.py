"""Steps that all others are made of: data movement, sums, factors, matrices on the last axis.

Nothing here rounds: factors that are no floats (1/9, gamma / sqrt(var + eps)) become a `Scale` with a radius, and
neighbours are merged only where the merged operator is exact (data movement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import rigorous
from jacobound.errors import InvalidModelError, ShapeError, UnsafeArithmeticError, UnsupportedOpError
from jacobound.graph.nodes import Affine, Node
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Identity, Scale, Select

MIXED = "It mixes the points of a batch, or moves the batch axis away from the front."


@dataclass(frozen=True, eq=False)
class BasicSteps:
    """Builds affine nodes from nodes. Shapes of nodes are without the batch axis.

    Every method raises `UnsupportedOpError` with a reason (one sentence, without the place, which the importer knows
    and adds) when the step is not affine, or not within what is understood.

    Args:
        like: any float64 tensor on the device of the weights.
        batch: length of the batch axis (axis 0) in the model's own tensors; None when they have no batch axis. A
            length of at least 2 lets `rearrange` see operations that mix points.
        variance_floor: what the user claims about the rows that normalisations divide by (`vector_normalising`).
    """

    like: Tensor
    batch: int | None
    variance_floor: float | None = None

    def __post_init__(self) -> None:
        if not rigorous():
            raise UnsafeArithmeticError(
                "a model is being imported inside unrounded(), where factors such as 1/9 lose their enclosure; "
                "import it outside"
            )

    def rearrange(self, sources: Sequence[Node | Tensor], function: Callable[..., Tensor], name: str) -> Node | Tensor:
        """Any data movement (view, permute, slice, pad, concat, ...), by running it on tensors of positions.

        Args:
            sources: nodes, or constant tensors as the model holds them (that is, with the batch axis if any).
            function: the movement; gets one integer tensor per source, nodes with the batch axis in front, and must
                only move, copy or drop entries, or put 0 (which stands for the number zero).
            name: name of the new node.

        Returns:
            The moved node, or a constant (without batch axis) when no entry of a node is left.

        Raises:
            UnsupportedOpError: when an entry of the result belongs to another point of the batch.
        """
        nodes = [source for source in sources if not isinstance(source, Tensor)]
        constants = [source for source in sources if isinstance(source, Tensor)]
        starts = _running(prod(node.shape) for node in nodes)
        # Equal numbers get equal codes, so that a constant repeated along the batch axis is seen to be one constant.
        flat = torch.cat([constant.flatten().to(self.like) for constant in constants] or [self.like.new_zeros(0)])
        ranks = torch.unique(flat, return_inverse=True)[1]

        def moved(numbers: Tensor) -> Tensor:
            """The movement on codes of the nodes' entries and, below zero, on numbers of the constants' entries."""
            pieces = torch.split(-1 - numbers, [constant.numel() for constant in constants])
            constant_codes = (piece.reshape(constant.shape) for piece, constant in zip(pieces, constants, strict=True))
            node_codes = (self._codes(node, start, starts[-1]) for node, start in zip(nodes, starts, strict=False))
            return function(*[next(constant_codes if isinstance(s, Tensor) else node_codes) for s in sources])

        codes = self._first_point(moved(ranks), starts[-1])
        bias = None
        if bool((codes < 0).any()):
            # From their own places, so that every entry of a constant keeps its own gradient in training.
            places = moved(torch.arange(len(flat), device=flat.device))
            places = places if self.batch is None else places[0]
            bias = torch.where(codes < 0, flat[(-1 - places).clamp(min=0)], 0.0)
        terms = []
        for node, start, stop in zip(nodes, starts, starts[1:], strict=False):
            index = torch.where((codes > start) & (codes <= stop), codes - 1 - start, -1)
            if bool((index >= 0).any()):
                terms.append(self._selected(node, index))
        if not terms:
            return self.like.new_zeros(codes.shape) if bias is None else bias
        if len(terms) == 1 and bias is None and isinstance(terms[0][0], Identity) and _same_shape(*terms[0]):
            return terms[0][1]
        return Affine(tuple(terms), bias, name)

    def move(self, node: Node, function: Callable[[Tensor], Tensor], name: str) -> Node:
        """`rearrange` of one node that keeps some of its entries."""
        moved = self.rearrange([node], function, name)
        if isinstance(moved, Tensor):
            raise UnsupportedOpError("Nothing of its input is left in the result.")
        return moved

    def reshape(self, node: Node, shape: tuple[int, ...], name: str) -> Node:
        """A node's entries in their order under another shape (without batch)."""
        return node if node.shape == shape else self._as_affine(node, Identity(node.shape, shape, self.like), name)

    def expand(self, node: Node, shape: tuple[int, ...], name: str) -> Node:
        """Broadcast to a shape without batch."""
        full = self._with_batch(shape)
        return node if node.shape == shape else self.move(node, lambda x: x.broadcast_to(full), name)

    def constant(self, value: Tensor | float, shape: tuple[int, ...]) -> Tensor:
        """A constant of the model broadcast to the shape of a node, in float64 and without batch axis.

        Raises:
            UnsupportedOpError: when it differs between the points of a batch.
        """
        full = torch.as_tensor(value, device=self.like.device).to(torch.float64)
        full = full.broadcast_to(self._with_batch(shape))
        if self.batch is None:
            return full.clone()
        if not torch.equal(full, full[:1].expand_as(full)):
            raise UnsupportedOpError("A constant is different for each point of the batch.")
        return full[0].clone()

    def add(self, terms: Sequence[tuple[float, Node]], bias: Tensor | None, name: str) -> Node:
        """``sum_i factor_i node_i + bias``; the nodes and the bias have one shape already."""
        operators: list[tuple[LinearOperator, Node]] = []
        for factor, node in terms:
            exact = Identity(node.shape, node.shape, self.like)
            operators.append((exact if factor == 1 else Scale(self.like.new_full(node.shape, factor)), node))
        if bias is not None and not bias.any():
            bias = None
        if len(operators) == 1 and bias is None and terms[0][0] == 1:
            return terms[0][1]
        return Affine(tuple(operators), bias, name)

    def scale(self, node: Node, factor: Tensor | Interval, name: str, bias: Tensor | None = None) -> Node:
        """``factor * node + bias``, entry by entry; an interval encloses a factor that is no float.

        Raises:
            InvalidModelError: when the factor is not finite (division by zero, a variance below -eps).
        """
        if isinstance(factor, Tensor):
            middle, radius = factor, None
        else:
            middle, spread = factor.midpoint_and_radius()
            radius = spread.broadcast_to(node.shape).clone() if bool(spread.any()) else None
        if not torch.isfinite(middle).all() or (radius is not None and not torch.isfinite(radius).all()):
            raise InvalidModelError(
                f"'{name}' multiplies by a factor that is not a finite number; look for a zero divisor"
            )
        middle = middle.broadcast_to(node.shape).clone()
        return Affine(((Scale(middle, radius), node),), bias, name)

    def divide(self, node: Node, divisor: Tensor | float, name: str) -> Node:
        """``node / divisor``; the reciprocal is a float only for powers of two, and is enclosed otherwise."""
        divisor = torch.as_tensor(divisor, dtype=torch.float64, device=self.like.device)
        reciprocal = 1 / divisor
        exact = torch.frexp(divisor)[0].abs() == 0.5
        if exact.all() and torch.isfinite(reciprocal).all():
            return self.scale(node, reciprocal, name)
        enclosed = Interval.exact(divisor).reciprocal()
        return self.scale(
            node,
            Interval(torch.where(exact, reciprocal, enclosed.lower), torch.where(exact, reciprocal, enclosed.upper)),
            name,
        )

    def dense(self, node: Node, weight: Tensor, bias: Tensor | None, name: str) -> Node:
        """``weight @ x + bias`` on the last axis, weight (out, in); a bias of any shape that broadcasts."""
        if not node.shape or weight.dim() != 2:
            raise UnsupportedOpError("Only products of a matrix with the last axis are understood here.")
        operator = Dense(weight, node.shape[:-1])
        full = None if bias is None else bias.broadcast_to(operator.out_shape).clone()
        return self._as_affine(node, operator, name, full)

    def _with_batch(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape if self.batch is None else (self.batch, *shape)

    def _as_affine(self, node: Node, operator: LinearOperator, name: str, bias: Tensor | None = None) -> Node:
        try:
            return Affine(((operator, node),), bias, name)
        except ShapeError as error:
            raise UnsupportedOpError(f"Shapes do not fit: {error}.") from None

    def _codes(self, node: Node, start: int, total: int) -> Tensor:
        """Positions of a node's entries: 1 + start + entry, and `total` more for each further point."""
        first = 1 + start + torch.arange(prod(node.shape), device=self.like.device).reshape(node.shape)
        if self.batch is None:
            return first
        offsets = total * torch.arange(self.batch, device=self.like.device)
        return first + offsets.reshape(-1, *(1 for _ in node.shape))

    def _first_point(self, codes: Tensor, total: int) -> Tensor:
        """The positions that belong to point 0, after checking that every point is treated alike."""
        if self.batch is None:
            return codes
        if codes.dim() == 0 or codes.shape[0] != self.batch:
            raise UnsupportedOpError(MIXED)
        offsets = (total * torch.arange(self.batch, device=codes.device)).reshape(-1, *(1 for _ in codes.shape[1:]))
        expected = torch.where(codes[:1] > 0, codes[:1] + offsets, codes[:1])
        if bool((codes[0] > total).any()) or not torch.equal(codes, expected):
            raise UnsupportedOpError(MIXED)
        return codes[0].contiguous()

    def _selected(self, node: Node, index: Tensor) -> tuple[LinearOperator, Node]:
        """The operator for an index into a node; a movement of a movement is one movement."""
        while isinstance(node, Affine) and len(node.terms) == 1 and node.bias is None:
            operator, source = node.terms[0]
            if isinstance(operator, Select):
                index = torch.where(index >= 0, operator.index.flatten()[index.clamp(min=0)], -1)
            elif not isinstance(operator, Identity):
                break
            node = source
        in_order = index.numel() == prod(node.shape) and torch.equal(
            index.flatten(), torch.arange(index.numel(), device=index.device)
        )
        if in_order:
            return Identity(node.shape, tuple(index.shape), self.like), node
        return Select(index, node.shape, self.like), node


def _same_shape(operator: LinearOperator, node: Node) -> bool:
    return operator.out_shape == node.shape


def _running(lengths: Iterable[int]) -> list[int]:
    """0, a, a + b, ..., the total last."""
    found = [0]
    for length in lengths:
        found.append(found[-1] + length)
    return found
