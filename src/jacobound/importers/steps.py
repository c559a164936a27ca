"""`AffineSteps`: what every importer does to nodes; each step is the same real-number function as in the model.

Nothing here rounds: factors that are no floats (1/9, gamma / sqrt(var + eps)) become a `Scale` with a radius, and
neighbours are merged only where the merged operator is exact (data movement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, ShapeError, UnsafeArithmeticError, UnsupportedOpError
from jacobound.graph import Affine, Node
from jacobound.intervals import Interval
from jacobound.operator_kinds import Convolution, Dense, Identity, Scale, Select
from jacobound.operators import LinearOperator
from jacobound.rounding import rigorous

MIXED = "It mixes the points of a batch, or moves the batch axis away from the front."


@dataclass(frozen=True, eq=False)
class AffineSteps:
    """Builds affine nodes from nodes. Shapes of nodes are without the batch axis.

    Every method raises `UnsupportedOpError` with a reason (one sentence, without the place, which the importer knows
    and adds) when the step is not affine, or not within what is understood.

    Args:
        like: any float64 tensor on the device of the weights.
        batch: length of the batch axis (axis 0) in the model's own tensors; None when they have no batch axis. A
            length of at least 2 lets `rearrange` see operations that mix points.
    """

    like: Tensor
    batch: int | None

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
        table, ranks = torch.unique(flat, return_inverse=True)
        pieces = torch.split(-1 - ranks, [constant.numel() for constant in constants])
        constant_codes = (piece.reshape(constant.shape) for piece, constant in zip(pieces, constants, strict=True))
        node_codes = (self._codes(node, start, starts[-1]) for node, start in zip(nodes, starts, strict=False))
        codes = function(*[next(constant_codes if isinstance(s, Tensor) else node_codes) for s in sources])
        codes = self._first_point(codes, starts[-1])
        bias = None
        if bool((codes < 0).any()):
            bias = torch.where(codes < 0, table[(-1 - codes).clamp(min=0)], 0.0)
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
        """The same entries in the same order under another shape (without batch)."""
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
        """Cross-correlation of a node (channels, *size) over one or two axes.

        Args:
            weight: shape (out, in / groups, *kernel).
            bias: shape (out,).
            pads: zeros in front of and behind each spatial axis.
        """
        if any(before != after for before, after in pads):
            flat = [amount for pair in reversed(pads) for amount in pair]
            node = self.move(node, lambda x: torch.nn.functional.pad(x, flat), f"{name}.pad")
            pads = [(0, 0) for _ in pads]
        operator = Convolution(
            weight, node.shape, tuple(stride), tuple(before for before, _ in pads), tuple(dilation), groups
        )
        if bias is not None:
            bias = bias.reshape(-1, *(1 for _ in pads)).broadcast_to(operator.out_shape).clone()
        return self._as_affine(node, operator, name, bias)

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

        def per_channel(x: Tensor) -> Tensor:
            return x.reshape(-1, *(1 for _ in node.shape[1:])).broadcast_to(node.shape).clone()

        if not bool((variance.double() + eps > 0).all()):
            raise InvalidModelError(f"'{name}' has a running variance below -eps; check the file it was loaded from")
        factor = (Interval.exact(variance) + eps).sqrt().reciprocal()
        if gamma is not None:
            factor = factor * gamma
        centred = self.add([(1.0, node)], per_channel(-mean), f"{name}.centre")
        return self.scale(centred, factor.map(per_channel), name, None if beta is None else per_channel(beta))

    def average_pool(
        self,
        node: Node,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        name: str,
        *,
        ceil_mode: bool = False,
        count_padding: bool = True,
        divisor: int | None = None,
    ) -> Node:
        """Means over windows of a node (channels, *size): a depthwise convolution of ones, divided by window sizes."""
        size = node.shape[1:]
        spans = list(zip(size, kernel, stride, padding, strict=True))
        lengths = [_pooled_length(n, k, s, p, ceil_mode) for n, k, s, p in spans]
        pads = [(p, max(p, (length - 1) * s + k - n - p)) for (n, k, s, p), length in zip(spans, lengths, strict=True)]
        counts = self.like.new_ones(())
        for (n, k, s, p), length in zip(spans, lengths, strict=True):
            begin = torch.arange(length, dtype=torch.float64, device=self.like.device) * s - p
            stop = (begin + k).clamp(max=n + p)
            inside = (stop - begin) if count_padding else stop.clamp(max=n) - begin.clamp(min=0)
            counts = counts.unsqueeze(-1) * inside
        ones = self.like.new_ones(node.shape[0], 1, *kernel)
        total = self.convolution(
            node, ones, None, f"{name}.sum", stride=stride, pads=pads, dilation=[1] * len(size), groups=node.shape[0]
        )
        window = counts if divisor is None else torch.full_like(counts, float(divisor))
        return self.divide(total, window.broadcast_to(total.shape), name)

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


def _pooled_length(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Number of windows; with `ceil_mode` a last partial one that starts inside the input or its left padding."""
    reach = size + 2 * padding - kernel
    length = (-(-reach // stride) if ceil_mode else reach // stride) + 1
    return length - 1 if ceil_mode and (length - 1) * stride >= size + padding else length
