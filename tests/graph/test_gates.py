"""Products as gates: what the derivative of a network with products is made of, and what every question gains by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor, nn

import jacobound as jb
from jacobound.arithmetic.rounding import strict
from jacobound.graph.derivative import derivative, increments
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Product, Vector
from jacobound.graph.vector.attention import Attention
from jacobound.graph.vector.smooth import LogSumExp
from jacobound.jacobian.fastlip import interval_adjoints
from jacobound.method import Budget
from jacobound.relaxation.ranges import CROWN
from zoo import KINDS, LIKE

GATED = ("gates", "quotients", "shares", "normalisations", "attentions")


def imported(function: object, inputs: int) -> Graph:
    return jb.from_torch(function, torch.zeros(1, inputs, dtype=torch.float64))


def head(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), *last).double()


def test_equal_products_are_one_node_and_a_node_times_itself_is_a_square() -> None:
    cancelled = imported(lambda x: x[:, :1] * x[:, 1:] - x[:, 1:] * x[:, :1], 2)
    assert float(jb.lipschitz(cancelled, jb.Ball([0.3, -2.0], 0.5), jb.FastLip(), search=None).upper) < 1e-300
    assert sum(isinstance(node, Product) for node in cancelled.expanded().nodes) == 1
    square = imported(lambda x: x * x, 2).expanded()
    assert [node.activation.name for node in square.nodes if isinstance(node, Elementwise)] == ["square"]

    def binomial(x: Tensor) -> Tensor:
        a, b = x[:, :1], x[:, 1:]
        return (a + b) * (a + b) - a * a - b * b - 2 * (a * b)

    found = jb.lipschitz(imported(binomial, 2), jb.Ball([0.3, -2.0], 0.5), jb.LinearSlopes(), search=None)
    assert float(found.upper) < 1e-12


@pytest.mark.parametrize("kind", GATED)
def test_derivatives_are_affine_nodes_and_gates(kind: str) -> None:
    graph = KINDS[kind](Generator().manual_seed(5))
    domain = jb.Ball(torch.zeros(graph.in_shape), 0.1).domains(graph)[0][0:1]
    ranges = CROWN().ranges(graph, domain, Budget())
    gates = derivative(graph, ranges)
    assert {type(node) for node in gates.graph.nodes} <= {Input, Affine, Elementwise}
    assert set(gates.slopes) == {node for node in gates.graph.nodes if isinstance(node, Elementwise)}
    assert set(gates.factors) | set(gates.activations) <= set(gates.slopes)
    assert not set(gates.factors) & set(gates.activations)


@pytest.mark.parametrize("kind", GATED)
def test_increments_between_points_of_two_balls_have_slopes_of_chords(kind: str) -> None:
    """``f(y) - f(z)`` lies in the products of slopes times ``y - z``, for z of the smaller ball and y of the larger."""
    for seed in range(4):
        generator = Generator().manual_seed(seed)
        graph = KINDS[kind](generator).with_rows(None)
        centre = torch.randn(graph.in_shape, generator=generator, dtype=torch.float64)
        with torch.no_grad(), strict(graph.device, graph.dtype):
            near, far = (
                CROWN().ranges(graph, jb.Ball(centre, radius).domains(graph)[0][0:1], Budget())
                for radius in (0.05, 0.4)
            )
            gates = increments(graph, near, far)
            matrix = interval_adjoints(gates.graph, gates.slopes)[gates.graph.input].map(lambda end: end.flatten(2))[0]
            for _ in range(8):
                z, y = (
                    centre + radius * (2 * torch.rand(centre.shape, generator=generator, dtype=torch.float64) - 1)
                    for radius in (0.05, 0.4)
                )
                rise, move = (graph(y) - graph(z)).flatten(), (y - z).flatten()
                low, high = (
                    torch.minimum(matrix.lower * move, matrix.upper * move),
                    torch.maximum(matrix.lower * move, matrix.upper * move),
                )
                assert bool((rise >= low.sum(1) - 1e-9).all() and (rise <= high.sum(1) + 1e-9).all())


@pytest.mark.parametrize("inner", [0.0, 0.25])
def test_increments_of_a_product_reach_its_corners(inner: float) -> None:
    """Of x1 x2, from corners of a box to those of a larger one, nothing wider stands in the way of a missing term."""
    graph = imported(lambda x: x[:, :1] * x[:, 1:], 2).expanded()
    near, far = (CROWN().ranges(graph, jb.Ball([1.0, 1.0], r).domains(graph)[0][0:1], Budget()) for r in (inner, 1.0))
    gates = increments(graph, near, far)
    matrix = interval_adjoints(gates.graph, gates.slopes)[gates.graph.input].map(lambda end: end.flatten())
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2)
    for z in 1 + inner * corners:
        for y in 1 + corners:
            rise, move = float(y.prod() - z.prod()), y - z
            ends = torch.stack((matrix.lower * move, matrix.upper * move))
            assert float(ends.amin(0).sum()) - 1e-12 <= rise <= float(ends.amax(0).sum()) + 1e-12


def test_hidden_keys_have_no_derivative() -> None:
    """Of a masked pair neither score nor value counts, and the others' shares add up to 1."""
    mask = torch.tensor([[0.0, -math.inf], [0.0, 0.0]], dtype=torch.float64)
    x = Input((12,))
    graph = Graph(Vector(Attention((2, 2), (2, 2), (2, 2), 0.5, mask, LIKE), x, "attention"))
    found = jb.bound_jacobian(graph, jb.Ball(torch.linspace(-1, 1, 12), 0.2), jb.RecurJac())
    low, high = found.lower.reshape(2, 2, 12), found.upper.reshape(2, 2, 12)
    silent = [0, 1, 4, 5, 6, 7, 10, 11]  # query 0, both keys, and value 1: query 0 sees value 0 alone
    assert not bool((low[0][:, silent].abs() > 1e-12).any()) and not bool((high[0][:, silent].abs() > 1e-12).any())
    assert torch.allclose(high[0][:, 8:10], torch.eye(2, dtype=torch.float64))
    assert bool((high[1] - low[1] > 1e-6).any())


def test_every_question_looks_through_products() -> None:
    graph = jb.from_torch(head(nn.Softmax(-1)), torch.zeros(1, 4, dtype=torch.float64))
    x = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
    bound = jb.lipschitz(graph, jb.Ball(x, 0.01), norm=(math.inf, math.inf))
    assert 0.99 * float(bound.upper) < float(bound.lower)  # proved at a point, behind softmax
    outputs = jb.bound_output(graph, jb.Ball(x, 0.01))
    assert bool((outputs.upper - outputs.lower <= 2 * 0.01 * bound.upper * 1.02).all())
    assert jb.monotone_features(graph, jb.Box(x - 0.01, x + 0.01), rows=0).status.certified
    assert float(jb.stationary_free_radius(graph, x, rows=0).radius) > 0.01


def test_decisions_are_those_before_a_head_that_keeps_the_order() -> None:
    x = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
    heads = {
        "softmax of 3": nn.Softmax(-1),
        "log-softmax of 3": nn.LogSoftmax(-1),
        "sigmoid": nn.Sigmoid(),
        "leaky_relu:0.01": nn.LeakyReLU(),
    }
    plain = jb.robust_radius(jb.from_torch(head(), torch.zeros(1, 4, dtype=torch.float64)), x, seconds=0)
    assert plain.decided_before == ()
    for name, last in heads.items():
        graph = jb.from_torch(head(last), torch.zeros(1, 4, dtype=torch.float64))
        found = jb.robust_radius(graph, x, seconds=0)
        assert found.decided_before == (name,) and name in found.headline()
        assert torch.equal(found.radius, plain.radius) and found.provenance.network == graph.fingerprint
    for last in (nn.ReLU(), nn.Linear(3, 3).double()):  # classes that are cut off are equal; a layer mixes them
        graph = jb.from_torch(head(nn.Softmax(-1), last), torch.zeros(1, 4, dtype=torch.float64))
        assert jb.robust_radius(graph, x, seconds=0, method=jb.CROWN(), attack=None).decided_before == ()


def test_log_sum_exp_stays_a_node_with_planes_of_its_own() -> None:
    graph = imported(lambda x: x.logsumexp(-1, keepdim=True), 3)
    assert [type(node.function) for node in graph.expanded().nodes if isinstance(node, Vector)] == [LogSumExp]
    assert not any(isinstance(node, Vector) for node in graph.plain().nodes)
