"""Plain arithmetic on a network at many points: gradients, also of a smoothed network, to climb on; all estimates.

A piecewise linear network has a constant Jacobian almost everywhere, so nothing says where it grows. With the slope of
every neuron replaced by a smooth function of its argument, a sigmoid around each break as wide as the arguments vary
times a temperature, it has a gradient that looks past the next break (ours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import turn_ends
from jacobound.arithmetic.linalg import dual_exponent, eigenvectors
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, size
from jacobound.lower_ends.attained import dual_vector
from jacobound.operators.base import positions, unit_rows

# Jacobians with so many rows are formed; of larger ones a row combination is sought by alternation.
FEW_OUTPUTS = 16
ALTERNATIONS = 5


@dataclass(frozen=True, eq=False)
class At:
    """A network's values at points.

    Args:
        points: shape (k, *input shape); they require gradients.
        values: of every node, (k, *node shape), with their history.
    """

    graph: Graph
    points: Tensor
    values: Mapping[Node, Tensor]

    @staticmethod
    def of(graph: Graph, points: Tensor) -> At:
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            return At(graph, points, graph.values(points))

    @property
    def outputs(self) -> Tensor:
        """Shape (k, outputs)."""
        return self.values[self.graph.output].detach().flatten(1)

    def gradient(self, behind: Tensor) -> Tensor:
        """The gradient of ``behind . f`` at every point: (k, outputs) to (k, inputs)."""
        with torch.enable_grad():
            total = (self.values[self.graph.output].flatten(1) * behind).sum()
            if not total.requires_grad:
                return torch.zeros_like(self.points).flatten(1)
            found = torch.autograd.grad(
                total, self.points, retain_graph=True, allow_unused=True, materialize_grads=True
            )[0]
        return found.flatten(1).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)

    def jacobian(self) -> Tensor:
        """Shape (k, outputs, inputs)."""
        units = unit_rows(size(self.graph.output), self.points)
        return torch.stack([self.gradient(row.expand(len(self.points), -1)) for row in units], 1)

    def uphill(self, behind: Tensor, p: float, widths: Mapping[Node, Tensor]) -> Tensor:
        """Where ``||behind . J||`` of the smoothed network grows: its gradient, (k, *input shape).

        Args:
            behind: shape (k, outputs).
            p: norm of the input; that of the gradient is the dual one.
            widths: of every piecewise linear activation, how wide its breaks are smeared, (k, *node shape).
        """
        graph, values = self.graph, self.values
        with torch.enable_grad():
            found: dict[Node, Tensor] = {graph.output: behind.reshape(-1, *graph.out_shape)}
            for node in reversed(graph.nodes):
                if node not in found:
                    continue  # no path leads from it to the output
                here = found.pop(node) if node is not graph.input else found[node]
                if isinstance(node, Affine):
                    images = [(source, operator.transpose().apply(here)) for operator, source in node.terms]
                elif isinstance(node, Elementwise) and node in widths:
                    slope = smoothed(node, values[node.source], widths[node])
                    images = [(node.source, here * slope)]
                else:
                    sources = dict.fromkeys(node.sources)
                    images = [(source, _pulled(values[node], values[source], here)) for source in sources]
                for source, image in images:
                    found[source] = found[source] + image if source in found else image
            gradient = found[graph.input].flatten(1)
            total = torch.linalg.vector_norm(gradient, dual_exponent(p), dim=1).sum()
            if not total.requires_grad:
                return torch.zeros_like(self.points)
            up = torch.autograd.grad(total, self.points, allow_unused=True, materialize_grads=True)[0]
        return up.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _pulled(image: Tensor, source: Tensor, behind: Tensor) -> Tensor:
    """The derivative of ``behind . image`` by what the image was made of, with its own history."""
    if not image.requires_grad:
        return torch.zeros_like(source)
    return torch.autograd.grad(image, source, behind, create_graph=True, allow_unused=True, materialize_grads=True)[0]


def is_piecewise_linear(node: Node) -> bool:
    """Whether an activation has kinks that can be smeared, and nothing else."""
    if not isinstance(node, Elementwise) or node.activation.reduce is not None:
        return False
    return bool(node.activation.breaks) and all(piece.curvature == "linear" for piece in node.activation.pieces)


def smoothed(node: Elementwise, z: Tensor, width: Tensor) -> Tensor:
    """The slope of a piecewise linear activation with a sigmoid of some width in place of every break."""
    slopes = [piece.slope(z.detach()) for piece in node.activation.pieces]
    total = slopes[0]
    for before, after, turn in zip(slopes[:-1], slopes[1:], node.activation.breaks, strict=True):
        total = total + (after - before) * torch.sigmoid((z - turn_ends(turn, z)[0]) / width)
    return total


def best_rows(at: At, norm: tuple[float, float], start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Combinations v of the outputs for which ``||v J||`` (dual to l_p) is large, with ``||v|| = 1`` (dual to l_q).

    The largest one, up to rounding, except for large Jacobians and the norm pairs that are hard to compute.

    Args:
        start: combinations to begin with, (k, outputs), for Jacobians that are not formed.

    Returns:
        Shapes (k, outputs), and the norms (k,).
    """
    p, q = norm
    outputs = size(at.graph.output)
    if outputs == 1:
        rows = at.points.new_ones(len(at.points), 1)
    elif outputs <= FEW_OUTPUTS:
        rows = _rows_of(at.jacobian(), p, q)
    else:
        rows = _alternated(at, p, q, at.outputs.sign() if start is None else start)
    rows = rows / torch.linalg.vector_norm(rows, dual_exponent(q), dim=1, keepdim=True).clamp(min=1e-300)
    return rows, torch.linalg.vector_norm(at.gradient(rows), dual_exponent(p), dim=1)


def _rows_of(jacobian: Tensor, p: float, q: float) -> Tensor:
    """`best_rows` of Jacobians (k, outputs, inputs)."""
    place = positions(len(jacobian), jacobian)
    if p == 1:
        column = torch.linalg.vector_norm(jacobian, q, dim=1).argmax(1)
        return dual_vector(jacobian[place, :, column], dual_exponent(q))
    longest = torch.linalg.vector_norm(jacobian, dual_exponent(p), dim=2).argmax(1)
    rows = torch.nn.functional.one_hot(longest, jacobian.shape[1]).to(jacobian)
    if q == torch.inf:
        return rows
    if p == 2 and q == 2:
        scale = jacobian.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)
        scaled = jacobian / scale
        return eigenvectors(scaled @ scaled.mT)[1][:, :, -1].nan_to_num(nan=0.0)
    for _ in range(ALTERNATIONS):
        direction = dual_vector((rows.unsqueeze(1) @ jacobian).squeeze(1), p)
        rows = dual_vector((jacobian @ direction.unsqueeze(2)).squeeze(2), dual_exponent(q))
    return rows


def _alternated(at: At, p: float, q: float, rows: Tensor) -> Tensor:
    """`best_rows` by steps between v and the direction of v J; what J makes of that is a difference of outputs."""
    for _ in range(ALTERNATIONS):
        direction = dual_vector(at.gradient(rows), p)
        step = 1e-4 * at.points.detach().abs().flatten(1).amax(1, keepdim=True).clamp(min=1e-3)
        moved = at.points.detach() + (step * direction).reshape(at.points.shape)
        change = (at.graph(moved).flatten(1) - at.outputs).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        dull = (change == 0).all(1, keepdim=True)
        rows = torch.where(dull, rows, dual_vector(change, dual_exponent(q)))
    return torch.where((rows == 0).all(1, keepdim=True), 1.0, rows)
