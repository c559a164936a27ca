"""Certificates of deep networks: floats from a forward sweep; what these miss is a part of the constant."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import pytest
import torch
from torch import Generator, Tensor

import jacobound as jb
from certificate_cases import NORMS
from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import strict
from jacobound.budget import Budget
from jacobound.certificates.dense.barrier import Barrier
from jacobound.certificates.dense.forwards import forward_core, sdp_core
from jacobound.certificates.dense.matrices import SdpCore, whole_core
from jacobound.certificates.dense.search import feasible_start
from jacobound.certificates.lipsdp import _Solver, problems, recheck
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.jacobian.fastlip import interval_adjoints
from jacobound.jacobian.known_slopes import NARROW, KnownSlopes
from jacobound.jacobian.recursion.product_lines import chord
from jacobound.jacobian.recursion.recursion import recur
from jacobound.jacobian.rounding_weights import defect_weights
from jacobound.operators.kinds import Dense, Scale
from jacobound.questions.certificates import _of_row


def network(kind: str, width: int, depth: int, gain: float) -> torch.nn.Sequential:
    generator = Generator().manual_seed(3)
    sizes, layers = (5, *[width] * depth, 3), []
    for before, after in pairwise(sizes):
        layer = torch.nn.Linear(before, after).double()
        with torch.no_grad():
            layer.weight.copy_(torch.randn(after, before, generator=generator) * gain / before**0.5)
            layer.bias.copy_(0.1 * torch.randn(after, generator=generator))
        layers += [layer, torch.nn.ReLU() if kind == "relu" else torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def jacobian(module: torch.nn.Module, x: Tensor) -> Tensor:
    found = torch.autograd.functional.jacobian(module, x)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize(("kind", "gain"), [("relu", 2**0.5), ("tanh", 1.0)])
def test_at_a_point_a_certificate_of_a_deep_network_is_its_norm(kind: str, gain: float) -> None:
    module, x = network(kind, 16, 30, gain), torch.rand(5, generator=Generator().manual_seed(1), dtype=torch.float64)
    true, graph = jacobian(module, x), jb.from_torch(module, x[None])
    for norm, exact in (
        ((2, 2), torch.linalg.matrix_norm(true, 2)),
        ((2, math.inf), true.norm(dim=1).max()),
        ((1, 2), true.norm(dim=0).max()),
    ):
        found = jb.lipschitz(graph, jb.Ball(x, 0.0), jb.LipSDP(), norm=norm, search=None)
        assert float(exact) * (1 - 1e-12) <= float(found.upper) <= float(exact) * (1 + 1e-9)


def test_in_a_ball_a_certificate_of_a_deep_network_holds() -> None:
    module, x = network("relu", 16, 40, 2**0.5), torch.rand(5, generator=Generator().manual_seed(1)).double()
    graph = jb.from_torch(module, x[None])
    found = jb.lipschitz(graph, jb.Ball(x, 3e-3), jb.LipSDP(), search=None)
    steps = torch.randn(20, 5, generator=Generator().manual_seed(2)).double()
    norms = [float(torch.linalg.matrix_norm(jacobian(module, x + 3e-3 * step / step.norm()), 2)) for step in steps]
    assert max(norms) <= float(found.upper) <= 3 * max(norms)


def positive_chain(width: int, depth: int) -> tuple[Graph, dict[Node, Interval], dict[Node, Tensor]]:
    """A network of positive weights, slopes as wide as known ones may be, and their upper ends.

    Without any cancelling, the derivative with all slopes at their upper ends is as far off as defects can make it.
    """
    generator = Generator().manual_seed(5)
    node: Node = Input((2,))
    slopes: dict[Node, Interval] = {}
    for _ in range(depth):
        weight = torch.rand(width, node.shape[0], generator=generator).double() * 2 / node.shape[0]
        node = Elementwise(activation("tanh"), Affine(((Dense(weight), node),)))
        middle = 0.5 + 0.5 * torch.rand(width, generator=generator).double()
        slopes[node] = Interval(middle, middle * (1 + 1.9 * NARROW))[None]
    graph = Graph(Affine(((Dense(torch.rand(2, width, generator=generator).double()), node),)))
    return graph, slopes, {node: slope.upper for node, slope in slopes.items()}


def by_chain_rule(graph: Graph, slopes: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
    """Derivatives of the output by every node, (outputs, size)."""
    found: dict[Node, Tensor] = {graph.output: torch.eye(2).double()}
    for node in reversed(graph.nodes):
        if isinstance(node, Affine):
            ((operator, source),) = node.terms
            found[source] = found[node] @ operator.materialise()
        elif isinstance(node, Elementwise):
            found[node.source] = found[node] * slopes[node]
    return found


@pytest.mark.parametrize("grown", [False, True])
def test_defects_of_known_slopes_are_paid_in_full_and_no_more(grown: bool) -> None:
    """`grown`: with weights by norms between cuts, as if absolute values had grown."""
    depth = 12
    graph, slopes, upper = positive_chain(6, depth)
    true = by_chain_rule(graph, upper)
    with strict(graph.device, graph.dtype):
        adjoints = interval_adjoints(graph, slopes)
        if grown:
            adjoints = {node: Interval(-1e6 * one.upper, 1e6 * one.upper) for node, one in adjoints.items()}
        known = KnownSlopes.of(slopes)
        weights = defect_weights(graph, known.ranges, adjoints, known.defects)
        entries = recur(graph, slopes, {}, chord, Budget()).entries
        core = forward_core(graph, slopes)
        rows = whole_core(graph, slopes)
    for node, exact in true.items():
        assert bool((exact * (1 - 1e-13) <= weights[node][0].flatten(1)).all())
        assert bool((weights[node][0].flatten(1) <= exact * (1 + 20 * depth * NARROW)).all())
    exact = true[graph.input]
    assert core is not None and core.missed is not None and core.neurons == rows.neurons == 0
    for most in (entries.upper[0], core.matrix + core.missed, rows.matrix + rows.radius):
        assert bool((exact * (1 - 1e-13) <= most).all())
        assert bool((most <= exact * (1 + 20 * depth * NARROW)).all())


def test_defects_at_every_node_count_for_every_column() -> None:
    """Positive layers with uncertain factors and slopes: with all at their upper ends nothing of the bound is spare."""
    generator = Generator().manual_seed(7)
    node: Node = Input((2,))
    derivative, slopes = torch.eye(2).double(), dict[Node, Interval]()
    for _ in range(4):
        weight = torch.rand(3, node.shape[0], generator=generator).double()
        factor, radius = torch.rand(2, 3, generator=generator).double() * torch.tensor([[1.0], [0.02]]).double()
        node = Affine(((Scale(factor, radius), Affine(((Dense(weight), node),))),))
        node = Elementwise(activation("tanh"), node)
        slopes[node] = Interval(torch.full((3,), 0.4).double(), torch.tensor([0.4, 0.8, 1.0]).double())
        derivative = (slopes[node].upper * (factor + radius)).unsqueeze(1) * (weight @ derivative)
    graph = Graph(Affine(((Dense(torch.rand(2, 3, generator=generator).double()), node),)))
    derivative = graph.output.terms[0][0].materialise() @ derivative  # type: ignore[union-attr]
    with strict(graph.device, graph.dtype):
        core = forward_core(graph, slopes)
    assert core is not None and core.missed is not None and core.neurons == 8
    upper, lower = core.matrix[:2], core.matrix[2:]
    floats = upper[:, :2] + upper[:, 2:] @ torch.linalg.solve(torch.eye(8).double() - lower[:, 2:], lower[:, :2])
    assert bool((derivative <= floats + core.missed).all())
    assert bool((floats + core.missed <= 1.005 * derivative).all()) and bool((1.01 * floats < derivative).all())


@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("neurons", [0, 2])
def test_what_a_core_misses_is_a_part_of_the_constant(norm: tuple[float, float], neurons: int) -> None:
    """Positive matrices: the worst Jacobian is the sum of all, and positive vectors come near its norm."""
    generator = Generator().manual_seed(11)
    matrix = torch.rand(3 + neurons, 4 + neurons, generator=generator, dtype=torch.float64)
    matrix[3:, 4:] = matrix[3:, 4:].tril(-1)
    missed = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    matrix[:, 1], missed[:, 1] = 0.0, missed[:, 1] * 3  # an input that the floats know nothing of
    matrix[2, :4], missed[0, 3] = 0.0, 0.0
    core = SdpCore(matrix, torch.zeros_like(matrix), 3, 4, (1,) * neurons, missed=missed).pruned()
    parts = problems(core, norm)
    value = max(one.value for one in _Solver(1e-4, Budget()).solve(parts).values())
    through = torch.linalg.solve(torch.eye(neurons).double() - matrix[3:, 4:], matrix[3:, :4])
    whole = matrix[:3, :4] + matrix[:3, 4:] @ through + missed
    x = torch.rand(2000, 4, generator=generator, dtype=torch.float64) ** 3
    x = torch.cat((x, torch.eye(4).double(), torch.ones(1, 4).double()))
    reached = float((torch.linalg.vector_norm(x @ whole.T, norm[1], 1) / torch.linalg.vector_norm(x, norm[0], 1)).max())
    assert reached <= value * (1 + 1e-12) < math.inf


def test_a_row_of_a_margin_pays_what_its_core_misses() -> None:
    matrix = torch.tensor([[1.0, 2.0, 0.5], [0.5, 0.1, 0.2], [0.3, 0.4, 0.0]]).double()
    missed = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    core = SdpCore(matrix, torch.zeros_like(matrix), 2, 2, (1,), missed=missed)
    start = feasible_start(Barrier(core, False, False))
    assert start is not None
    without = [_of_row(core, row, start.logs, 2.0, math.inf, lambda: True) for row in range(2)]
    assert math.hypot(1.0, 2.0) <= without[0] < 4.0 and 5.0 + math.hypot(0.5, 0.1) <= without[1] < 7.0


def test_inputs_without_a_path_stay_left_out() -> None:
    """Floors for underflow must not make inputs of them."""
    graph, slopes, _ = positive_chain(4, 3)
    first = graph.nodes[1]
    assert isinstance(first, Affine)
    weight = first.terms[0][0].materialise()
    weight[:, 1] = 0.0
    node: Node = Affine(((Dense(weight), Input((2,))),))
    chosen = {}
    for old in graph.nodes[2:]:
        if isinstance(old, Elementwise):
            node = Elementwise(old.activation, node)
            chosen[node] = slopes[old]
        elif isinstance(old, Affine):
            node = Affine(((old.terms[0][0], node),))
    core = sdp_core(Graph(node), chosen)
    assert core.inputs == 1 and recheck(Graph(node), chosen, (2.0, 2.0), ()) == math.inf
    forwards = forward_core(Graph(node), chosen)
    assert forwards is not None and forwards.pruned().inputs == 1
