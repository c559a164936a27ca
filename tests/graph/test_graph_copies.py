"""Graphs go to worker processes and into copies: the same fingerprint, the same bounds, however long the chain."""

from __future__ import annotations

import copy
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch

import jacobound as jb
import zoo
from activation_cases import CASES
from jacobound import Graph
from jacobound.activations import Activation, activation
from jacobound.activations.kinds.tanh_gelu import gelu_by_tanh
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from torch_models import MODELS, built


def sent(thing: Any) -> Any:
    """What arrives in another process."""
    reading: Any = ForkingPickler
    return reading.loads(ForkingPickler.dumps(thing))


@pytest.mark.parametrize("name", CASES)
def test_an_activation_arrives_as_the_same_function(name: str) -> None:
    same_function(CASES[name].activation)


def test_activations_of_several_numbers_arrive() -> None:
    same_function(gelu_by_tanh(0.044714998, 0.044715002))


def same_function(act: Activation) -> None:
    there = sent(act)
    points = torch.linspace(0.5, 3.0, 11, dtype=torch.float64)
    assert there.name == act.name and len(there.parameters) == len(act.parameters)
    if all(parameter.dim() == 0 for parameter in act.parameters):
        assert torch.equal(there.value(points), act.value(points))


@pytest.mark.parametrize("name", sorted(zoo.KINDS))
def test_a_graph_arrives_with_its_fingerprint_and_bounds(name: str) -> None:
    graph = zoo.KINDS[name](torch.Generator().manual_seed(3))
    region = jb.Ball(torch.zeros(graph.in_shape), 0.125)
    for there in (sent(graph), copy.deepcopy(graph), copy.copy(graph)):
        assert there.fingerprint == graph.fingerprint
        assert [node.name for node in there.nodes] == [node.name for node in graph.nodes]
        first, second = (jb.bound_output(one, region, jb.IBP()) for one in (graph, there))
        assert torch.equal(first.lower, second.lower) and torch.equal(first.upper, second.upper)


@pytest.mark.alike(8)
@pytest.mark.parametrize("name", sorted(MODELS))
def test_an_imported_module_arrives(name: str) -> None:
    module, shape = built(name)
    graph = jb.from_torch(module, torch.zeros(1, *shape))
    there = sent(graph)
    assert (there.fingerprint, there.source) == (graph.fingerprint, graph.source)


@pytest.mark.slow
def test_choices_arrive_with_the_expansion_of_comparisons() -> None:
    graph = zoo.KINDS["maxima"](torch.Generator().manual_seed(0)).expanded()
    there = sent(graph)
    assert sum(getattr(node, "choice", None) is not None for node in graph.nodes) > 0
    for mine, theirs in zip(graph.nodes, there.nodes, strict=True):
        if isinstance(mine, Affine) and mine.choice is not None:
            assert isinstance(theirs, Affine) and theirs.choice is not None
            assert theirs.choice.source in there.nodes and theirs.choice.gate in there.nodes
    region = jb.Ball(torch.zeros(graph.in_shape), 0.125)
    first, second = (jb.bound_output(one, region) for one in (graph, there))
    assert torch.equal(first.lower, second.lower) and torch.equal(first.upper, second.upper)


@pytest.mark.slow
def test_long_chains_are_copied() -> None:
    node: Node = Input((3,))
    for k in range(3000):
        node = Elementwise(activation("tanh") if k % 2 else activation("relu"), node, f"step{k}")
    graph = Graph(node)
    assert copy.deepcopy(graph).fingerprint == sent(graph).fingerprint == graph.fingerprint
    assert len(repr(graph)) < 200 and str(graph).count("\n") > 3000
