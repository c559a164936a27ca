"""What networks really do at a point: Jacobians by autodiff with a bound of their own error, and exact ones over fmpq.

The exact side reads a graph through its materialised operators (exact by contract, `test_operators`), so it works for
every graph whose activations are piecewise linear with float slopes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from flint import arb, fmpq, fmpq_mat
from torch import Generator, Tensor

from exact import ball, rational, rational_matrix, rationals
from jacobound import Graph
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, Product, Vector, size
from jacobound.graph.vector.smooth import LogSumExp

NORMS = tuple((p, q) for p in (1, 2, math.inf) for q in (1, 2, math.inf))
AFFINE_ERROR = 1e-13  # relative to sums of absolute products; at most some hundred terms
STEEPEST = 3.0  # no activation of the zoo is steeper, nor bends faster, but for these that functions are lowered to
STEEP = ("square", "exp", "rsqrt", "sqrt", "reciprocal")


@dataclass(frozen=True)
class Observation:
    """Values and Jacobians of a graph at some points, and how wrong their evaluation may be.

    Args:
        values, value_error: for each node, shape (points, *node shape).
        jacobian, jacobian_error: shape (points, outputs, inputs).
    """

    values: Mapping[Node, Tensor]
    value_error: Mapping[Node, Tensor]
    jacobian: Tensor
    jacobian_error: Tensor


def observe(graph: Graph, points: Tensor) -> Observation:
    """Evaluate a float64 graph by autodiff, with a running error analysis beside it; kinks add their jump."""
    values = graph.values(points)
    value_error: dict[Node, Tensor] = {}
    tangent: dict[Node, Tensor] = {}  # (points, inputs, *shape), by forward accumulation
    error: dict[Node, Tensor] = {}
    count, inputs = len(points), size(graph.input)
    for node in graph.nodes:
        if isinstance(node, Input):
            value_error[node] = torch.zeros_like(points)
            tangent[node] = (
                torch.eye(inputs, dtype=points.dtype).expand(count, -1, -1).reshape(count, inputs, *node.shape)
            )
            error[node] = torch.zeros_like(tangent[node])
        elif isinstance(node, Affine):
            bias = torch.zeros(node.shape, dtype=points.dtype) if node.bias is None else node.bias
            value_error[node] = AFFINE_ERROR * bias.abs() + sum(
                operator.abs().apply(value_error[source] + AFFINE_ERROR * values[source].abs())
                for operator, source in node.terms
            )
            tangent[node] = sum(operator.apply(tangent[source]) for operator, source in node.terms)  # type: ignore[assignment]
            error[node] = sum(  # type: ignore[assignment]
                operator.abs().apply(error[source] + AFFINE_ERROR * tangent[source].abs())
                for operator, source in node.terms
            )
        elif isinstance(node, Product):
            _through_product(node, values, value_error, tangent, error)
        elif isinstance(node, Vector):
            _through_log_sum_exp(node, values, value_error, tangent, error)
        elif node.activation.name in STEEP:
            _through_steep(node, values, value_error, tangent, error)
        else:
            shift = value_error[node.source]
            value_error[node] = STEEPEST * shift + 1e-14 * (values[node].abs() + values[node.source].abs() + 1)
            slope = _slopes(node, values[node.source])
            doubt = STEEPEST * shift + 1e-14 + STEEPEST * _near_break(node, values[node.source], shift)
            tangent[node] = slope.unsqueeze(1) * tangent[node.source]
            error[node] = slope.abs().unsqueeze(1) * error[node.source] + doubt.unsqueeze(1) * (
                tangent[node.source].abs() + error[node.source]
            )
    jacobian_error = error[graph.output].reshape(count, inputs, -1).transpose(1, 2) * 2
    return Observation(values, value_error, autodiff(graph, points), jacobian_error)


Errors = dict[Node, Tensor]


def _through_product(
    node: Product, values: Mapping[Node, Tensor], shift: Errors, tangent: Errors, error: Errors
) -> None:
    """Both factors may be off, and so may their tangents."""
    (a, b), (da, db) = ([x[source] for source in node.sources] for x in (values, shift))
    shift[node] = a.abs() * db + b.abs() * da + da * db + 1e-14 * (a * b).abs()
    tangent[node] = b.unsqueeze(1) * tangent[node.first] + a.unsqueeze(1) * tangent[node.second]
    error[node] = torch.zeros_like(tangent[node])
    for source, other, doubt in ((node.first, b, db), (node.second, a, da)):
        size = tangent[source].abs() + error[source]
        doubt = doubt + 1e-14 * other.abs()
        error[node] = error[node] + other.abs().unsqueeze(1) * error[source] + doubt.unsqueeze(1) * size


def _through_log_sum_exp(
    node: Vector, values: Mapping[Node, Tensor], shift: Errors, tangent: Errors, error: Errors
) -> None:
    """Shares change by no more than twice the largest change of an argument, as a share of themselves."""
    function, x = node.function, values[node.source]
    assert isinstance(function, LogSumExp)
    share = function.masked(x, -math.inf).softmax(-1)
    most = shift[node.source].amax(-1, keepdim=True)
    shift[node] = most + 1e-14 * (x.abs().amax(-1, keepdim=True) + 1)
    tangent[node] = (share.unsqueeze(1) * tangent[node.source]).sum(-1, keepdim=True)
    doubt = share * (3 * most + 1e-13)
    size = tangent[node.source].abs() + error[node.source]
    error[node] = (share.unsqueeze(1) * error[node.source] + doubt.unsqueeze(1) * size).sum(-1, keepdim=True)


def _through_steep(
    node: Elementwise, values: Mapping[Node, Tensor], shift: Errors, tangent: Errors, error: Errors
) -> None:
    """Values and slopes over all that the argument may be."""
    z, doubt = values[node.source], shift[node.source]
    around = Interval(z - doubt, z + doubt)
    shift[node] = node.activation.range(around).width + 1e-14 * values[node].abs()
    slope = node.activation.derivative_range(around)
    steep, unsure = slope.magnitude().unsqueeze(1), (slope.width + 1e-14 * slope.magnitude()).unsqueeze(1)
    tangent[node] = _slopes(node, z).unsqueeze(1) * tangent[node.source]
    error[node] = steep * error[node.source] + unsure * (tangent[node.source].abs() + error[node.source])


def autodiff(graph: Graph, points: Tensor) -> Tensor:
    """Jacobians by torch's reverse mode, shape (points, outputs, inputs)."""
    x = points.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = graph(x).reshape(len(points), -1)
        rows = [
            torch.autograd.grad(outputs[:, j].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for j in range(outputs.shape[1])
        ]
    return torch.stack([row.reshape(len(points), -1) for row in rows], 1)


def _slopes(node: Elementwise, z: Tensor) -> Tensor:
    z = z.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(node.activation.value(z).sum(), z)[0]


def _near_break(node: Elementwise, z: Tensor, shift: Tensor) -> Tensor:
    """1 where the argument is too close to a break to say on which side it lies."""
    near = torch.zeros_like(z)
    for turn in node.activation.breaks:
        ends = turn if isinstance(turn, tuple) else (turn, turn)
        low, high = (torch.as_tensor(end, dtype=z.dtype) for end in ends)
        near = torch.maximum(near, ((z >= low - shift - 1e-12) & (z <= high + shift + 1e-12)).to(z))
    return near


def not_enclosed(bounds: Interval, truth: Tensor, error: Tensor) -> list[str]:
    """Entries (first axis: points) in which the truth leaves the bounds by more than its own error."""
    low, high = bounds.lower.double(), bounds.upper.double()
    inside = (low <= truth + error) & (truth - error <= high)  # NaN counts as outside
    return [
        f"at {tuple(place)}: {truth[tuple(place)].item()!r} ± {error[tuple(place)].item():.1e} is not in "
        f"[{low[tuple(place[1:])].item()!r}, {high[tuple(place[1:])].item()!r}]"
        for place in (~inside).nonzero().tolist()
    ]


# --- exact -----------------------------------------------------------------------------------------------------


def dot(a: Sequence[fmpq], b: Sequence[fmpq]) -> fmpq:
    return sum((x * y for x, y in zip(a, b, strict=True)), fmpq(0))


def point_inside(interval: Interval, generator: Generator) -> list[fmpq]:
    """A rational point of an interval: an end or between, entry by entry."""
    ends = zip(rationals(interval.lower), rationals(interval.upper), strict=True)
    shares = torch.randint(0, 5, (interval.lower.numel(),), generator=generator).tolist()
    return [low + (high - low) * fmpq(share, 4) for (low, high), share in zip(ends, shares, strict=True)]


def leaky_slope(node: Elementwise) -> fmpq:
    """The slope for negative arguments of relu or leaky relu, as the number that it is."""
    name, _, number = node.activation.name.partition(":")
    assert name in ("relu", "leaky_relu"), name
    return rational(float(number)) if number else fmpq(0)


def matrices(graph: Graph) -> dict[Affine, list[tuple[fmpq_mat, Node]]]:
    """The weights of all affine nodes over the rationals."""
    return {
        node: [(rational_matrix(operator.materialise()), source) for operator, source in node.terms]
        for node in graph.nodes
        if isinstance(node, Affine)
    }


def exact_values(graph: Graph, x: Sequence[fmpq]) -> dict[Node, list[fmpq]]:
    """The exact value of every node of a piecewise linear graph, flattened."""
    weights = matrices(graph)
    found: dict[Node, list[fmpq]] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            found[node] = list(x)
        elif isinstance(node, Elementwise):
            slope = leaky_slope(node)
            found[node] = [z if z >= 0 else slope * z for z in found[node.source]]
        else:
            total = fmpq_mat(size(node), 1, [fmpq(0)] * size(node))
            if node.bias is not None:
                total = rational_matrix(node.bias.flatten())
            for weight, source in weights[node]:
                total = total + weight * fmpq_mat(len(found[source]), 1, found[source])
            found[node] = total.entries()
    return found


def exact_slopes(graph: Graph, values: Mapping[Node, list[fmpq]]) -> dict[Node, list[fmpq]] | None:
    """Slopes of all activations at a point, or None at a kink."""
    found: dict[Node, list[fmpq]] = {}
    for node in graph.nodes:
        if isinstance(node, Elementwise):
            if any(z == 0 for z in values[node.source]):
                return None
            slope = leaky_slope(node)
            found[node] = [fmpq(1) if z > 0 else slope for z in values[node.source]]
    return found


def exact_derivative(graph: Graph, slopes: Mapping[Node, list[fmpq]], start: Node | None = None) -> fmpq_mat:
    """Derivative of the outputs with respect to a node (the input when None), for given slopes; (outputs, entries)."""
    start = graph.input if start is None else start
    weights = matrices(graph)
    zero = fmpq(0)
    found: dict[Node, fmpq_mat] = {}
    for node in graph.nodes:
        if node is start:
            count = size(node)
            found[node] = fmpq_mat(count, count, [fmpq(int(i == j)) for i in range(count) for j in range(count)])
        elif isinstance(node, Input):
            found[node] = fmpq_mat(size(node), size(start), [zero] * (size(node) * size(start)))
        elif isinstance(node, Elementwise):
            before = found[node.source]
            found[node] = fmpq_mat(
                size(node),
                size(start),
                [slopes[node][i] * before[i, k] for i in range(size(node)) for k in range(size(start))],
            )
        else:
            total = fmpq_mat(size(node), size(start), [zero] * (size(node) * size(start)))
            for weight, source in weights[node]:
                total = total + weight * found[source]
            found[node] = total
    return found[graph.output]


Function = Callable[[arb], arb]
SMOOTH: Mapping[str, tuple[Function, Function]] = {
    "tanh": (lambda z: z.tanh(), lambda z: 1 / z.cosh() ** 2),
    "sigmoid": (lambda z: 1 / (1 + (-z).exp()), lambda z: (-abs(z)).exp() / (1 + (-abs(z)).exp()) ** 2),
}


def ball_values_and_jacobian(
    weights: Sequence[Tensor], biases: Sequence[Tensor], name: str, x: Sequence[fmpq]
) -> tuple[list[arb], list[list[arb]]]:
    """Outputs and Jacobian of a plain network with one smooth activation, by 300-bit balls."""
    value, slope = SMOOTH[name]
    h = [ball(entry) for entry in x]
    jacobian = [[ball(float(i == k)) for k in range(len(x))] for i in range(len(x))]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        rows = [[ball(entry) for entry in row] for row in weight.tolist()]
        z = [_dot(row, h) + ball(b) for row, b in zip(rows, bias.tolist(), strict=True)]
        jacobian = [[_dot(row, [line[k] for line in jacobian]) for k in range(len(x))] for row in rows]
        if layer < len(weights) - 1:
            jacobian = [[slope(at) * entry for entry in line] for at, line in zip(z, jacobian, strict=True)]
            h = [value(at) for at in z]
        else:
            h = z
    return h, jacobian


def _dot(row: Sequence[arb], column: Sequence[arb]) -> arb:
    total = arb(0)
    for a, b in zip(row, column, strict=True):
        total = total + a * b
    return total
