"""`Live`: the graph of a module whose weights are the module's parameters at this moment, with gradients to them.

The module is traced and lowered once, as `from_torch` does it, with the operations recorded that lead from its
parameters to the weights of the graph (`tape`); every look at the graph repeats these few operations alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from jacobound.activations.kinds.base import Activation
from jacobound.errors import InvalidModelError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, Vector
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.torch.door.checks import as_example, refuse_arguments, refuse_storage, run_once
from jacobound.importers.torch.door.copies import copied, evaluation, settle_weights
from jacobound.importers.torch.lowering import lower
from jacobound.importers.torch.module import BATCH
from jacobound.importers.torch.operations.attention import open_attention
from jacobound.importers.torch.tracing.process import alone, eager
from jacobound.importers.torch.tracing.program import Program
from jacobound.importers.torch.tracing.trace import trace
from jacobound.operators.base import LinearOperator
from jacobound.training.sources import Sources
from jacobound.training.tape import Tape

UNCERTAIN: Final = "radius"
"""The field in which operators keep by how much a weight may be off; training leaves it out."""

Part = TypeVar("Part")


class Graphs(NamedTuple):
    """A network in the two forms that regularisers read.

    Args:
        whole: with one output axis; may hold `Vector` nodes.
        expanded: the same in affine and elementwise nodes, or None where a function has no expansion.
    """

    whole: Graph
    expanded: Graph | None

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes of both, each after its sources; those that both share come once."""
        found = dict.fromkeys(self.whole.nodes)
        yield from found
        if self.expanded is not None:
            yield from (node for node in self.expanded.nodes if node not in found)


class Live:
    """A module as a graph that follows its parameters.

    The graph is that of the module in evaluation mode: normalisation by running statistics, no dropout. Its weights
    are floats of the module's own dtype, on its device (move the module first); what is computed on it in plain
    arithmetic is an estimate. For certified values import the module with `from_torch`, outside the training step.

    Args:
        module: what `from_torch` takes, but for functions and modules that can not be copied. It may be in training
            mode. Parameters, floating buffers and parametrised weights are followed; its structure is looked at once.
        example: a batch of points as the module takes it, shape (n, *in_shape); only its shape matters.
        variance_floor: as for `from_torch`.

    Raises:
        UnsupportedOpError, ShapeError: as `from_torch` does.
        InvalidModelError: likewise, and when a weight can not be followed; names it.
    """

    def __init__(self, module: nn.Module, example: Tensor, variance_floor: float | None = None) -> None:
        if not isinstance(module, nn.Module):
            raise InvalidModelError(f"training follows a torch.nn.Module, not {type(module).__name__}")
        with alone(module), eager():
            program, shape = _traced(module, example)
            self._sources = Sources.of(module, program)
            steps = AffineSteps(torch.zeros((), dtype=torch.float64, device=example.device), BATCH, variance_floor)

            def lowered(weights: Mapping[str, Tensor]) -> tuple[Graphs, Tape]:
                with Tape(list(weights.values())) as tape:
                    whole = Graph(lower(program, steps, shape, None, weights).output).with_rows(None)
                    return Graphs(whole, whole.plain() if whole.is_plain else None), tape

            # Weights without special values, so that a bias which happens to be zero now is not left out.
            self._template, tape = lowered(self._sources.generic(0))
            self._like = torch.zeros((), dtype=self._sources.dtype, device=example.device)
            numbered = ((id(x), tape.slot(x)) for x in _tensors(self._template) if x.is_floating_point())
            self._slots = {key: slot for key, slot in numbered if slot is not None}
            self._programme = tape.programme(sorted(set(self._slots.values())))
            self._constant: dict[int, Any] = {}
            other = self._sources.generic(1)
            _compare(self._graphs(list(other.values())), lowered(other)[0], self._like.dtype)
        self.graphs()

    def graphs(self) -> Graphs:
        """The network with the weights of this moment; gradients reach the module's parameters."""
        return self._graphs(self._sources.values())

    def _graphs(self, sources: list[Tensor]) -> Graphs:
        known = {slot: value.to(self._like.dtype) for slot, value in self._programme.run(sources).items()}

        def now(tensor: Tensor) -> Tensor:
            slot = self._slots.get(id(tensor))
            if slot is not None:
                return known[slot]
            return self._cached(tensor, lambda: tensor.to(self._like.dtype) if tensor.is_floating_point() else tensor)

        def part(whole: Part) -> Part:
            if any(id(tensor) in self._slots for tensor in _tensors_of(whole)):
                return _with_tensors(whole, now)
            return self._cached(whole, lambda: _with_tensors(whole, now))

        moved: dict[Node, Node] = {}
        for node in self._template.nodes:
            if isinstance(node, Affine):
                terms = tuple((part(operator), moved[source]) for operator, source in node.terms)
                moved[node] = Affine(terms, None if node.bias is None else now(node.bias), node.name)
                if node.choice is not None:
                    gate = moved[node.choice.gate]
                    assert isinstance(gate, Elementwise)
                    choice = node.choice.rebuilt(moved[node.choice.source], gate, self._like.device)
                    moved[node] = replace(moved[node], choice=choice)
            elif isinstance(node, Elementwise):
                moved[node] = Elementwise(part(node.activation), moved[node.source], node.name)
            elif isinstance(node, Vector):
                moved[node] = Vector(part(node.function), moved[node.source], node.name)
            else:
                moved[node] = node
        checked = frozenset(moved.values())  # a network that has diverged shows in its loss
        whole, expanded = self._template
        return Graphs(
            Graph(moved[whole.output], checked),
            None if expanded is None else Graph(moved[expanded.output], checked),
        )

    def _cached(self, key: object, make: Any) -> Any:
        """What does not change, made once; the key is kept alive by the template."""
        if id(key) not in self._constant:
            self._constant[id(key)] = make()
        return self._constant[id(key)]


def _traced(module: nn.Module, example: Tensor) -> tuple[Program, tuple[int, ...]]:
    """The operations of a private copy in evaluation mode, and the shape of a point."""
    refuse_storage(module)
    example = as_example(module, example, True)
    refuse_arguments(module)
    own = copied(module)
    if own is None:
        raise InvalidModelError(f"{type(module).__name__} can not be copied (copy.deepcopy), so it can not be followed")
    own = open_attention(own)
    traced = example[:1].expand(BATCH, *example.shape[1:]).clone()
    with evaluation(own):
        settle_weights(own)
        run_once(own, traced, True, None)
        return trace(own, traced, None), tuple(example.shape[1:])


def _tensors_of(part: object) -> Iterator[Tensor]:
    """All tensors that an operator, an activation or a function holds."""
    if isinstance(part, Activation):
        yield from part.parameters
    elif is_dataclass(part):
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, LinearOperator):
                yield from _tensors_of(value)


def _tensors(graphs: Graphs) -> Iterator[Tensor]:
    """All tensors of two graphs, node by node."""
    for node in graphs.nodes:
        if isinstance(node, Affine):
            for operator, _ in node.terms:
                yield from _tensors_of(operator)
            if node.bias is not None:
                yield node.bias
        elif isinstance(node, Elementwise):
            yield from _tensors_of(node.activation)
        elif isinstance(node, Vector):
            yield from _tensors_of(node.function)


def _with_tensors(part: Any, now: Any) -> Any:
    """An operator, activation or function with other tensors, and without uncertainty of its weights."""
    if isinstance(part, Activation):
        return part if part.rebuild is None else part.rebuild(*map(now, part.parameters))
    changed = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = None if field.name == UNCERTAIN else now(value)
        elif isinstance(value, LinearOperator):
            changed[field.name] = _with_tensors(value, now)
    return replace(part, **changed)


def _compare(followed: Graphs, lowered: Graphs, dtype: torch.dtype) -> None:
    """Refuse a module whose graph depends on its weights in a way that was not followed.

    Raises:
        InvalidModelError: names the first node that differs.
    """
    for ours, theirs in zip(followed.nodes, lowered.nodes, strict=True):
        one, other = ([*_weights(node)] for node in (ours, theirs))
        same = len(one) == len(other) and _described(ours) == _described(theirs)
        if not same or not all(torch.equal(a, b.to(dtype)) for a, b in zip(one, other, strict=True)):
            raise InvalidModelError(
                f"node '{ours.name}' depends on the weights in a way that training can not follow (a branch on their "
                "values, numbers taken out of tensors); make it a function of tensors"
            )


def _described(node: Node) -> tuple[str, ...]:
    """What a node is apart from its weights."""
    if isinstance(node, Affine):
        return node.name, *(type(operator).__name__ for operator, _ in node.terms)
    if isinstance(node, Elementwise):
        return node.name, node.activation.name
    return (node.name, node.function.name) if isinstance(node, Vector) else (node.name,)


def _weights(node: Node) -> Iterator[Tensor]:
    """What a node computes with, without the uncertainty of its weights."""
    if isinstance(node, Affine):
        for operator, _ in node.terms:
            yield from _with_tensors(operator, lambda tensor: tensor).parameters()
        if node.bias is not None:
            yield node.bias
    elif isinstance(node, Elementwise):
        yield from node.activation.parameters
