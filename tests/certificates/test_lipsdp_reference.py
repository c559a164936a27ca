"""`LipSDP` against a conic solver on small networks: near the optimum of the same semidefinite program, never below.

The program is stated here once more, in the classical variables (values behind the activations, sector constraints
``(y - a z)(c z - y) >= 0``) and from the weights themselves, and solved by Clarabel through cvxpy (extra ``sdp``).
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping
from types import ModuleType

import pytest
import torch
from torch import Generator, Tensor

from jacobound import CROWN, Ball, Budget, Graph, LipSDP, WholeSpace, from_layers
from jacobound.arithmetic.intervals import Interval
from jacobound.graph.nodes import Elementwise, Node
from jacobound.inputs.regions import Region
from jacobound.method import Query, derivative_ranges
from single import lifted

INF = math.inf
NORMS = tuple((p, q) for p in (1.0, 2.0, INF) for q in (1.0, 2.0, INF))


@pytest.fixture(scope="module", name="cvxpy")
def cvxpy_fixture() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("cvxpy", reason="needs the extra 'sdp'")
        if "CLARABEL" not in found.installed_solvers():
            pytest.skip("needs Clarabel, of the extra 'sdp'")
    return found


def network(widths: tuple[int, ...], activation: str, seed: int) -> tuple[Graph, list[Tensor]]:
    generator = Generator().manual_seed(seed)
    weights = [
        torch.randn(after, before, generator=generator, dtype=torch.float64) * math.sqrt(2 / before)
        for before, after in itertools.pairwise(widths)
    ]
    biases = [0.3 * torch.randn(width, generator=generator, dtype=torch.float64) for width in widths[1:]]
    return from_layers(weights, biases, activation=activation), weights


def optimum(
    cvxpy: ModuleType, weights: list[Tensor], slopes: list[tuple[Tensor, Tensor]], norm: tuple[float, float]
) -> float:
    """The best constant of the semidefinite program, one for rows (q = inf) or columns (p = 1)."""
    p, q = norm
    if q == INF:
        rows = ([*weights[:-1], weights[-1][[j]]] for j in range(len(weights[-1])))
        return max(optimum(cvxpy, part, slopes, (p, 2.0)) for part in rows)
    if p == 1:
        columns = ([weights[0][:, [k]], *weights[1:]] for k in range(weights[0].shape[1]))
        return max(optimum(cvxpy, part, slopes, (2.0, q)) for part in columns)
    sectors = [(lower, upper, free) for lower, upper in slopes for free in (lower < upper,)]
    inputs, free = weights[0].shape[1], sum(int(part.sum()) for _, _, part in sectors)
    value, start = torch.eye(inputs, inputs + free, dtype=torch.float64), inputs
    tau = cvxpy.Variable(free, nonneg=True)
    form = 0
    for weight, (lower, upper, unstable) in zip(weights[:-1], sectors, strict=True):
        before = weight @ value
        value = lower.unsqueeze(1) * before
        positions = torch.arange(start, start + int(unstable.sum()))
        value[unstable] = torch.eye(inputs + free, dtype=torch.float64)[positions]
        for i, position in zip(unstable.nonzero().flatten().tolist(), positions.tolist(), strict=True):
            above, below = value[i] - lower[i] * before[i], upper[i] * before[i] - value[i]
            product = torch.outer(above, below)
            form = form + tau[position - inputs] * (product + product.T).numpy()
        start += len(positions)
    jacobian = (weights[-1] @ value).numpy()
    entering = cvxpy.Variable(inputs) if p == INF else cvxpy.Variable() * torch.ones(inputs).numpy()
    leaving = cvxpy.Variable(len(jacobian)) if q == 1 else cvxpy.Variable() * torch.ones(len(jacobian)).numpy()
    budget = cvxpy.diag(cvxpy.hstack([entering, torch.zeros(free).numpy()])) - form
    matrix = cvxpy.bmat([[cvxpy.diag(leaving), jacobian], [jacobian.T, budget]])
    sizes = [cvxpy.sum(x) if summed else cvxpy.max(x) for x, summed in ((entering, p == INF), (leaving, q == 1))]
    # Only the product of the two sizes counts, and both can be scaled: their mean is least where they are equal.
    problem = cvxpy.Problem(cvxpy.Minimize((sizes[0] + sizes[1]) / 2), [(matrix + matrix.T) / 2 >> 0])
    problem.solve(solver="CLARABEL")
    assert problem.status == "optimal"
    return float(problem.value)


def slopes_of(graph: Graph, ranges: Mapping[Node, Interval]) -> list[tuple[Tensor, Tensor]]:
    found = derivative_ranges(graph, ranges)
    return [(found[node].lower, found[node].upper) for node in graph.nodes if isinstance(node, Elementwise)]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("widths", "activation", "region"),
    [
        ((3, 6, 5, 2), "relu", WholeSpace()),
        ((2, 8, 3), "leaky_relu:0.2", WholeSpace()),
        ((3, 7, 6, 2), "relu", Ball(torch.full((3,), 0.1, dtype=torch.float64), 0.3)),
        ((4, 5, 5, 2), "tanh", Ball(torch.zeros(4, dtype=torch.float64), 0.5)),
    ],
    ids=("global", "leaky", "local", "tanh"),
)
def test_near_the_optimum_and_never_below(
    cvxpy: ModuleType, widths: tuple[int, ...], activation: str, region: Region, norm: tuple[float, float]
) -> None:
    graph, weights = network(widths, activation, len(widths))
    (domain,), _ = region.domains(graph)
    ranges = {node: x[0] for node, x in CROWN().ranges(graph, domain, Budget()).items()}
    best = optimum(cvxpy, weights, slopes_of(graph, ranges), norm)
    found = LipSDP(tolerance=1e-4).constant(Query(graph, domain, Budget(), norm, ranges=lifted(ranges)))
    assert best * (1 - 1e-6) <= float(found.value) <= best * (1 + 1e-3)
