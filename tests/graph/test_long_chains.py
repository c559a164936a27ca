"""Chains that are longer than the stack is deep: nothing calls itself once for every node."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterator

import pytest
import torch

import jacobound as jb
from jacobound import Executed, Graph
from jacobound.activations import activation
from jacobound.constants.executed import executed
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.operators.kinds import Dense

LENGTH = 90
DEPTH = 75  # frames that remain: enough for one method, not for one frame a node
BALL = jb.Ball(torch.full((2,), 0.1), 0.05)


@pytest.fixture
def shallow() -> Iterator[None]:
    """A stack that a chain of `LENGTH` nodes would exhaust."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + DEPTH)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def chain(kind: str, length: int = LENGTH, *, mixed: bool) -> Graph:
    """Activations in a row, in pairs with affine nodes when `mixed`."""
    matrix = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    node: Node = Input((2,), "x")
    for k in range(length):
        if mixed or k == 0:
            node = Affine(((Dense(matrix), node),), name=f"a{k}")
        node = Elementwise(activation(kind), node, f"n{k}")
    return Graph(node)


ASKED: dict[str, Callable[[Graph], object]] = {
    "IBP": lambda graph: jb.bound_output(graph, BALL, jb.IBP()),
    "CROWN": lambda graph: jb.bound_output(graph, BALL, jb.CROWN()),
    "FastLip": lambda graph: jb.bound_jacobian(graph, BALL, jb.FastLip()),
    "RecurJac": lambda graph: jb.bound_jacobian(graph, BALL, jb.RecurJac()),
    "LinearSlopes": lambda graph: jb.bound_jacobian(graph, BALL, jb.LinearSlopes()),
    "AutoLip": lambda graph: jb.lipschitz(graph, BALL, jb.AutoLip()),
    "SeqLip": lambda graph: jb.lipschitz(graph, BALL, jb.SeqLip()),
    "ECLipsE": lambda graph: jb.lipschitz(graph, BALL, jb.ECLipsE(), norm=(2, 2)),
    "LipSDP": lambda graph: jb.lipschitz(graph, BALL, jb.LipSDP(), norm=(2, 2)),
    "best": lambda graph: jb.lipschitz(graph, jb.WholeSpace(), norm=(2, 2)),
}


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("mixed", [False, True])
def test_a_graph_of_a_long_chain_is_told_copied_moved_and_run(mixed: bool) -> None:
    graph = chain("tanh", 1200, mixed=mixed)
    assert graph.output.shape == (2,)
    assert len(repr(graph.output)) < 100
    assert "n1199" in repr(graph.output) and "x" in repr(graph.nodes[1])
    assert len(graph.nodes) == 1202 if not mixed else 2401
    point = torch.tensor([0.3, -0.2], dtype=torch.float64)
    for other in (copy.deepcopy(graph), copy.copy(graph), graph.to(dtype=torch.float64), graph.expanded()):
        assert other.fingerprint == graph.fingerprint
        assert torch.equal(other(point), graph(point))
    assert [row["name"] for row in graph.table()] == [node.name for node in copy.deepcopy(graph).nodes]
    assert len(graph.crossings) > 1000 and len(graph.consumers) == len(graph.nodes)


def test_copies_keep_choices_and_execution() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.MaxPool2d(2), torch.nn.Flatten())
    graph = jb.from_torch(layers.eval(), torch.zeros(1, 1, 6, 6)).lowered()
    choosing = [node.choice for node in graph.nodes if isinstance(node, Affine) and node.choice is not None]
    other = copy.deepcopy(executed(graph, Executed()))
    copied = [node.choice for node in other.nodes if isinstance(node, Affine) and node.choice is not None]
    assert choosing and len(copied) == len(choosing)
    assert all(choice.source in other.nodes and choice.gate in other.nodes for choice in copied)
    assert other.fingerprint == graph.fingerprint and other.execution is not None
    ball = jb.Ball(torch.zeros(1, 6, 6), 0.1)
    again, first = (jb.bound_output(each, ball, jb.IBP()) for each in (copy.deepcopy(graph), graph))
    assert torch.equal(again.lower, first.lower) and torch.equal(again.upper, first.upper)


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("method", ASKED)
def test_no_method_calls_itself_once_for_every_node(method: str) -> None:
    ASKED[method](chain("relu", mixed=True))


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("method", ["IBP", "FastLip"])
def test_nor_for_smooth_activations(method: str) -> None:
    ASKED[method](chain("sigmoid", mixed=method == "IBP"))


METHODS: dict[str, jb.JacobianMethod | jb.LipschitzMethod | jb.Best | None] = {
    "the default": None,
    "RecurJac": jb.RecurJac(),
    "LinearSlopes": jb.LinearSlopes(),
    "AutoLip": jb.AutoLip(),
    "SeqLip": jb.SeqLip(),
    "ECLipsE": jb.ECLipsE(),
    "LipSDP": jb.LipSDP(),
    "LipSDP, one by one": jb.Best(jb.LipSDP(), jb.ECLipsE()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_eigenvalues_that_do_not_converge_cost_tightness_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for multipliers of a thousand layers: torch raises an error of its own, and the constant is certified."""

    def failing(*matrices: torch.Tensor, **options: object) -> torch.Tensor:
        raise torch.linalg.LinAlgError("the algorithm failed to converge")  # pyright: ignore[reportPrivateImportUsage]

    for decomposition in ("eigh", "eigvalsh"):
        monkeypatch.setattr(torch.linalg, decomposition, failing)
    graph = chain("tanh", 3, mixed=True)  # its Jacobian at 0 is orthogonal
    for norm in ((2, 2), (float("inf"), 1)):
        if norm == (2, 2) or name != "SeqLip":
            found = jb.lipschitz(graph, jb.Box([-1.0, -1.0], [1.0, 1.0]), METHODS[name], norm=norm)
            assert found.status.certified and 1 - 1e-9 <= float(found.upper) <= 20
