"""`Product`, `Quotient` and `MatrixProduct`: functions of two values of the network, with a constant for each of them.

A product has no constant on the whole space; over a set each factor counts with the size of the other one:
``d(x y) = y dx + x dy``, ``d(x / y) = dx / y - x / y^2 dy``, ``d(X Y) = dX Y + X dY``. Source of the rule for AutoLip:
Scaman and Virmaux (NeurIPS 2018), with ranges in place of global suprema.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import prod
from typing import Self

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import induced_norm_upper, vector_norm_upper
from jacobound.errors import InvalidRegionError, ShapeError
from jacobound.graph import nodes
from jacobound.graph.nodes import Elementwise, Node, Part, Vector, VectorFunction
from jacobound.graph.vector.rows import DOUBLE, flat_part, interval_matmul, joined, largest, split
from jacobound.graph.vector.value_nodes import MOST_PRODUCTS, entries, everything, matrix_products


@dataclass(frozen=True, eq=False)
class Pointwise(VectorFunction):
    """A function of two tensors, entry by entry; they lie one behind the other in the source, (2, *out_shape).

    Args:
        out_shape: shape of either argument and of the result.
        like: tensor that carries dtype and device.
    """

    out_shape: tuple[int, ...]
    like: Tensor = DOUBLE

    def __post_init__(self) -> None:
        if 0 in self.out_shape:
            raise ShapeError(f"{self.name} of tensors of shape {self.out_shape} has no entries")

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (2, *self.out_shape)

    def sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two arguments, from (*lead, *in_shape)."""
        axis = -len(self.in_shape)
        return x.select(axis, 0), x.select(axis, 1)

    def both(self, x: Interval) -> tuple[Interval, Interval]:
        """The enclosures of the two arguments."""
        lower, upper = self.sides(x.lower), self.sides(x.upper)
        return Interval(lower[0], upper[0]), Interval(lower[1], upper[1])

    def operands(self, source: Node, name: str) -> tuple[Node, Node]:
        """The two arguments as nodes."""
        places = everything(source, self.like)
        first, second = (entries(source, place, self.like, name) for place in places)
        return first, second

    @abstractmethod
    def slopes(self, x: Interval) -> tuple[Tensor, Tensor]:
        """Certified bounds of the derivatives by the two arguments, entry by entry, each of shape out_shape."""

    def constant(self, p: float, x: Interval) -> Tensor:
        """Entry by entry the dual norm of the two derivatives, because no two entries share an argument."""
        pair = torch.stack(self.slopes(x), -1)
        dual = {1.0: float("inf"), 2.0: 2.0}.get(p, 1.0)
        return largest(vector_norm_upper(pair, dual))

    def parts(self, p: float, x: Interval) -> tuple[Part, ...]:
        count = prod(self.out_shape)
        return tuple(
            Part(flat_part(2 * count, k * count, (k + 1) * count).reshape(self.in_shape), largest(slope))
            for k, slope in enumerate(self.slopes(x))
        )

    def structure(self) -> bytes:
        return repr((type(self).__name__, self.out_shape)).encode()

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        return replace(self, like=self.like.to(device=device, dtype=dtype))


class Product(Pointwise):
    """``x y``, entry by entry (gates, GLU, SwiGLU): x counts with max |y| and y with max |x|."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return "product of two values"

    def value(self, x: Tensor) -> Tensor:
        one, two = self.sides(x)
        return one * two

    def range(self, x: Interval) -> Interval:
        one, two = self.both(x)
        return one * two

    def lower(self, source: Node, name: str) -> Node:
        return nodes.Product(*self.operands(source, f"{name}.operand"), name)

    def slopes(self, x: Interval) -> tuple[Tensor, Tensor]:
        one, two = self.both(x)
        return two.magnitude(), one.magnitude()

    def require(self, x: Interval, node: str) -> None:
        refuse_unbounded(x, node, self.name)


class Quotient(Pointwise):
    """``x / y``, entry by entry, for y away from zero."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return "quotient of two values"

    def value(self, x: Tensor) -> Tensor:
        one, two = self.sides(x)
        return one / two

    def range(self, x: Interval) -> Interval:
        one, two = self.both(x)
        return one / two

    def lower(self, source: Node, name: str) -> Node:
        first, second = self.operands(source, f"{name}.operand")
        return nodes.Product(first, Elementwise(activation("reciprocal"), second, f"{name}.inverse"), name)

    def slopes(self, x: Interval) -> tuple[Tensor, Tensor]:
        one, two = self.both(x)
        inverse = two.reciprocal()
        return inverse.magnitude(), (one * inverse.square()).magnitude()

    def require(self, x: Interval, node: str) -> None:
        two = self.both(x)[1]
        near = ((two.lower <= 0) & (two.upper >= 0)).nonzero()
        if len(near):
            entry = tuple(near[0].tolist())
            raise InvalidRegionError(
                f"node '{node}': {self.name}, whose divisor may be zero: its certified range at entry {entry} is "
                f"[{float(two.lower[entry]):.6g}, {float(two.upper[entry]):.6g}]. Take a smaller region, or keep the "
                "divisor positive in the model (y.abs() + 1e-3, softplus(y))"
            )
        refuse_unbounded(x, node, self.name)


@dataclass(frozen=True, eq=False)
class MatrixProduct(VectorFunction):
    """``X Y`` for stacks of matrices X (*lead, m, k) and Y (*lead, k, n); the source holds X and then Y, flattened.

    ``||dX Y||_p <= ||Y'||_p ||dX||_p`` and ``||X dY||_p <= ||X||_p ||dY||_p`` with norms of matrices on the right and
    of all entries on the left.

    Args:
        left, right: shapes of X and Y.
        like: tensor that carries dtype and device.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    like: Tensor = DOUBLE

    def __post_init__(self) -> None:
        fits = min(len(self.left), len(self.right)) >= 2 and self.left[:-2] == self.right[:-2]
        if not fits or self.left[-1] != self.right[-2] or 0 in (*self.left, *self.right):
            raise ShapeError(f"matrices of shapes {self.left} and {self.right} have no product, or an empty one")

    @property
    def in_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (prod(self.left) + prod(self.right),)

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.left[:-1], self.right[-1])

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"matrix product over {self.left[-1]}"

    @property
    def lowers(self) -> bool:  # type: ignore[override]
        return prod(self.left) * self.right[-1] <= MOST_PRODUCTS

    def value(self, x: Tensor) -> Tensor:
        one, two = split(x, (self.left, self.right))
        return one @ two

    def both(self, x: Interval) -> tuple[Interval, Interval]:
        """The enclosures of X and Y."""
        lower, upper = (split(end, (self.left, self.right)) for end in (x.lower, x.upper))
        return Interval(lower[0], upper[0]), Interval(lower[1], upper[1])

    def range(self, x: Interval) -> Interval:
        return interval_matmul(*self.both(x))

    def lower(self, source: Node, name: str) -> Node:
        rows = everything(source, self.like, 0, self.left)
        columns = everything(source, self.like, prod(self.left), self.right).mT
        return matrix_products(source, rows, source, columns, self.like, name, Vector(self, source, name))

    def constant(self, p: float, x: Interval) -> Tensor:
        return joined(self.parts(p, x), p)

    def parts(self, p: float, x: Interval) -> tuple[Part, ...]:
        one, two = self.both(x)
        middle, count = prod(self.left), prod(self.left) + prod(self.right)
        return (
            Part(flat_part(count, 0, middle), _largest_norm(two.map(lambda end: end.mT), p)),
            Part(flat_part(count, middle, count), _largest_norm(one, p)),
        )

    def require(self, x: Interval, node: str) -> None:
        refuse_unbounded(x, node, self.name)

    def structure(self) -> bytes:
        return repr((type(self).__name__, self.left, self.right)).encode()

    def to(self, device: torch.device, dtype: torch.dtype) -> MatrixProduct:
        return replace(self, like=self.like.to(device=device, dtype=dtype))


def _largest_norm(matrices: Interval, p: float) -> Tensor:
    """The largest norm from l_p to l_p among the matrices of a stack of intervals."""
    return largest(induced_norm_upper(matrices.lower, matrices.upper, p, p))


def refuse_unbounded(x: Interval, node: str, name: str) -> None:
    """Raise where a product would have to be bounded without bounds of its factors.

    Raises:
        InvalidRegionError: names the node, an entry, and what to do.
    """
    unbounded = (~(torch.isfinite(x.lower) & torch.isfinite(x.upper))).nonzero()
    if len(unbounded):
        raise InvalidRegionError(
            f"node '{node}': {name} has no Lipschitz constant where its arguments are unbounded, and {len(unbounded)} "
            f"of {x.lower.numel()} entries of its source are; take a bounded region (Ball or Box), or bound the values "
            "in the model before they are multiplied (clamp, tanh, layer normalisation)"
        )
