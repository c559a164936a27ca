"""Recurrent layers, unrolled: one step of RNN, LSTM and GRU, with the same weights in every step.

The products with the inputs of all steps are one affine node; each step adds what its state gives.
Source: Hochreiter and Schmidhuber (1997), Cho et al. (2014), in the forms of torch and of ONNX.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.activations import Activation, activation
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Elementwise, Node
from jacobound.importers.lowering.vectors import VectorSteps
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Identity, Select

State = Node | Tensor | None
"""What a cell remembers: a node, a constant (float64, of the node's shape), or zero."""

MOST_STEPS = 4096
"""Steps over which a recurrent layer is unrolled."""


@dataclass(frozen=True, eq=False)
class Response:
    """``factor * activation(inner * x) + shift``.

    Args:
        activation: None for x itself.
    """

    activation: Activation | None
    inner: float = 1.0
    factor: float = 1.0
    shift: float = 0.0

    def of(self, steps: RecurrentSteps, node: Node, name: str) -> Node:
        """Of every entry of a node."""
        if self.inner != 1:
            node = steps.add([(self.inner, node)], None, f"{name}.scaled")
        plain = self.factor == 1 and self.shift == 0
        if self.activation is not None:
            node = Elementwise(self.activation, node, name if plain else f"{name}.plain")
        return node if plain else steps.add([(self.factor, node)], steps.like.new_full(node.shape, self.shift), name)


@dataclass(frozen=True, eq=False)
class Cell(ABC):
    """One step of a recurrent layer.

    Args:
        recurrent: shape (gates * hidden, length of h), float64; rows in the order of the gates.
        bias: added to what `recurrent` gives, shape (gates * hidden,); None for zero.
        clip: limit of the arguments of all activations; None for none.
    """

    recurrent: Tensor
    bias: Tensor | None
    clip: float | None

    @abstractmethod
    def step(self, steps: RecurrentSteps, inputs: Node, state: Sequence[State], name: str) -> tuple[Node, ...]:
        """The next state, its output first.

        Args:
            inputs: what the gates get from the input of this step, shape (*lead, gates * hidden).
            state: before the step, in the same order.
        """

    def activated(self, steps: RecurrentSteps, response: Response, node: Node, name: str) -> Node:
        """A response behind the limit of its argument."""
        if self.clip is not None:
            node = Elementwise(activation(f"clip:{-self.clip!r},{self.clip!r}"), node, f"{name}.clip")
        return response.of(steps, node, name)


@dataclass(frozen=True, eq=False)
class RnnCell(Cell):
    """``h' = f(inputs + R h + b)``."""

    f: Response

    def step(self, steps: RecurrentSteps, inputs: Node, state: Sequence[State], name: str) -> tuple[Node, ...]:
        argument = steps.joined(inputs, self.recurrent, state[0], self.bias, f"{name}.argument")
        return (self.activated(steps, self.f, argument, name),)


@dataclass(frozen=True, eq=False)
class GruCell(Cell):
    """``h' = n + z (h - n)`` with ``r, z = f(...)``, ``n = g(...)``; gates in the order r, z, n.

    Args:
        behind: whether r is multiplied with what the matrix gives, ``g(.. + r (R h + b))`` as in torch, or with h,
            ``g(.. + R (r h) + b)``.
    """

    f: Response
    g: Response
    behind: bool

    def step(self, steps: RecurrentSteps, inputs: Node, state: Sequence[State], name: str) -> tuple[Node, ...]:
        size, h = len(self.recurrent) // 3, steps.held(state[0], inputs, f"{name}.before")
        rows = (slice(0, 2 * size), slice(2 * size, 3 * size))
        bias, new_bias = (None if self.bias is None else self.bias[part] for part in rows)
        both = steps.joined(
            steps.columns(inputs, rows[0], f"{name}.inputs"), self.recurrent[rows[0]], h, bias, f"{name}.argument"
        )
        gates = self.activated(steps, self.f, both, f"{name}.gates")
        reset = steps.columns(gates, slice(0, size), f"{name}.reset")
        update = steps.columns(gates, slice(size, 2 * size), f"{name}.update")
        part, matrix = steps.columns(inputs, rows[1], f"{name}.new_inputs"), self.recurrent[rows[1]]
        if self.behind:
            argument = self._after(steps, part, matrix, h, new_bias, reset, name)
        else:
            kept = None if h is None else steps.product(reset, h, f"{name}.kept")
            argument = steps.joined(part, matrix, kept, new_bias, f"{name}.new_argument")
        new = self.activated(steps, self.g, argument, f"{name}.new")
        if h is None:
            return (steps.product(steps.complement(update, f"{name}.share"), new, name),)
        change = steps.add([(1.0, h), (-1.0, new)], None, f"{name}.change")
        return (steps.add([(1.0, new), (1.0, steps.product(update, change, f"{name}.step"))], None, name),)

    def _after(
        self,
        steps: RecurrentSteps,
        part: Node,
        matrix: Tensor,
        h: Node | None,
        bias: Tensor | None,
        reset: Node,
        name: str,
    ) -> Node:
        """``part + r (R h + b)``."""
        if h is not None:
            inner = steps.dense(h, matrix, bias, f"{name}.new_state")
            return steps.add(
                [(1.0, part), (1.0, steps.product(reset, inner, f"{name}.kept"))], None, f"{name}.new_argument"
            )
        if bias is None or not bool(bias.any()):
            return part
        kept = steps.scale(reset, bias.broadcast_to(reset.shape), f"{name}.kept")
        return steps.add([(1.0, part), (1.0, kept)], None, f"{name}.new_argument")


@dataclass(frozen=True, eq=False)
class LstmCell(Cell):
    """``c' = f c + i g`` and ``h' = P (o k(c'))`` with gates in the order i, f, o, g.

    Args:
        f, g, k: activations of the three gates, of the new values, and of c.
        peepholes: factors of c in the arguments of i and f, and of c' in that of o, shape (3, hidden); None for none.
        projection: P, shape (length of h, hidden); None for none.
        coupled: whether ``f = 1 - i``.
    """

    f: Response
    g: Response
    k: Response
    peepholes: Tensor | None = None
    projection: Tensor | None = None
    coupled: bool = False

    def step(self, steps: RecurrentSteps, inputs: Node, state: Sequence[State], name: str) -> tuple[Node, ...]:
        size = len(self.recurrent) // 4
        whole = steps.joined(inputs, self.recurrent, state[0], self.bias, f"{name}.arguments")
        new = self.activated(
            steps, self.g, steps.columns(whole, slice(3 * size, None), f"{name}.new_argument"), f"{name}.new"
        )
        memory = state[1] if not isinstance(state[1], Tensor) or bool(state[1].any()) else None
        if self.peepholes is None:
            arguments = steps.columns(whole, slice(0, 3 * size), f"{name}.gate_arguments")
            gates = self.activated(steps, self.f, arguments, f"{name}.gates")
            enter, forget, leave = (
                steps.columns(gates, slice(k * size, (k + 1) * size), f"{name}.{gate}")
                for k, gate in enumerate(("enter", "forget", "leave"))
            )
        else:
            enter, forget = (self._gate(steps, whole, memory, k, name) for k in (0, 1))
            leave = None
        if self.coupled:
            forget = steps.complement(enter, f"{name}.coupled")
        entered = steps.product(enter, new, f"{name}.entered")
        if memory is None:
            cell = entered
        else:
            kept = (
                steps.scale(forget, memory, f"{name}.kept")
                if isinstance(memory, Tensor)
                else steps.product(forget, memory, f"{name}.kept")
            )
            cell = steps.add([(1.0, kept), (1.0, entered)], None, f"{name}.cell")
        leave = self._gate(steps, whole, cell, 2, name) if leave is None else leave
        read = self.k.of(steps, cell, f"{name}.read")
        if self.projection is None:
            return steps.product(leave, read, name), cell
        return steps.dense(steps.product(leave, read, f"{name}.hidden"), self.projection, None, name), cell

    def _gate(self, steps: RecurrentSteps, whole: Node, memory: State, place: int, name: str) -> Node:
        """A gate whose argument sees the cell."""
        assert self.peepholes is not None
        size, label = len(self.recurrent) // 4, f"{name}.gate{place}"
        argument = steps.columns(whole, slice(place * size, (place + 1) * size), f"{label}.argument")
        factor = self.peepholes[place].broadcast_to(argument.shape)
        held = steps.held(memory, argument, f"{label}.memory")
        if held is not None:
            seen = steps.scale(held, factor, f"{label}.peephole")
            argument = steps.add([(1.0, argument), (1.0, seen)], None, f"{label}.sum")
        return self.activated(steps, self.f, argument, label)


class RecurrentSteps(VectorSteps):
    """Recurrent layers. Sequences are nodes of shape (steps, *lead, features)."""

    def unrolled(
        self,
        sequence: Node,
        weight: Tensor,
        bias: Tensor | None,
        cell: Cell,
        state: Sequence[State],
        order: Sequence[int],
        name: str,
    ) -> tuple[list[Node], tuple[Node, ...]]:
        """All steps of a layer in one direction.

        Args:
            weight, bias: of the inputs, shapes (gates * hidden, features) and (gates * hidden,).
            state: before the first step; constants and nodes of shape (*lead, length).
            order: the steps, as positions in the sequence.

        Returns:
            The outputs, in the order in which they are made, and the last state.

        Raises:
            UnsupportedOpError: when there are more than 4096 steps, or none.
        """
        if not 0 < len(order) <= MOST_STEPS:
            raise UnsupportedOpError(f"It has {len(order)} steps; 1 to {MOST_STEPS} can be unrolled.")
        inputs = self.dense(sequence, weight, bias, f"{name}.inputs")
        outputs: list[Node] = []
        now: tuple[State, ...] = tuple(state)
        front = 0 if self.batch is None else 1
        for k in order:
            label = f"{name}.step{k}"
            part = self.move(inputs, lambda x, k=k: x.select(front, k), f"{label}.inputs")
            now = cell.step(self, part, now, label)
            assert now[0] is not None and not isinstance(now[0], Tensor)
            outputs.append(now[0])
        return outputs, now  # type: ignore[return-value]

    def stacked(self, nodes: Sequence[Node], stack: Callable[..., Tensor], name: str) -> Node:
        """Nodes of one shape put together by a movement that keeps some of their entries."""
        found = self.rearrange(nodes, stack, name)
        assert not isinstance(found, Tensor)
        return found

    def joined(self, inputs: Node, matrix: Tensor, state: State, bias: Tensor | None, name: str) -> Node:
        """``inputs + matrix @ state + bias`` as one affine node."""
        h = self.held(state, inputs, f"{name}.before")
        terms: list[tuple[LinearOperator, Node]] = [(Identity(inputs.shape, inputs.shape, self.like), inputs)]
        if isinstance(inputs, Affine) and inputs.bias is None:
            terms = list(inputs.terms)
        if h is not None:
            terms.append((Dense(matrix.contiguous(), h.shape[:-1]), h))
        full = None if bias is None or not bool(bias.any()) else bias.broadcast_to(inputs.shape).clone()
        return Affine(tuple(terms), full, name)

    def held(self, state: State, beside: Node, name: str) -> Node | None:
        """A state as a node; a constant one is none when it is zero."""
        if not isinstance(state, Tensor):
            return state
        return self.constant_node(state, beside, name) if bool(state.any()) else None

    def product_over(self, node: Node, axis: int, name: str) -> Node:
        """The product of all entries along an axis, which stays with length 1; in pairs of pairs."""
        front = axis + (0 if self.batch is None else 1)
        while node.shape[axis] > 1:
            length = node.shape[axis]
            half = length // 2
            left, right = (
                self.move(node, lambda x, a=a, half=half: x.narrow(front, a, half), f"{name}.part{half}.{a}")
                for a in (0, half)
            )
            found = self.product(left, right, f"{name}.of{half}")
            if length % 2:
                last = self.move(node, lambda x, a=length - 1: x.narrow(front, a, 1), f"{name}.last{half}")
                found = self.stacked([found, last], lambda *parts: torch.cat(parts, front), f"{name}.with{half}")
            node = found
        return node

    def constant_node(self, value: Tensor, beside: Node, name: str) -> Node:
        """A constant as a node that reads nothing of the node beside it, so that no product with it rounds."""
        nowhere = torch.full(tuple(value.shape), -1, device=self.like.device)
        return Affine(((Select(nowhere, beside.shape, self.like), beside),), value.clone(), name)

    def columns(self, node: Node, part: slice, name: str) -> Node:
        """Some entries of the last axis."""
        return self.move(node, lambda x: x[..., part], name)

    def complement(self, node: Node, name: str) -> Node:
        """``1 - node``."""
        return self.add([(-1.0, node)], self.like.new_ones(node.shape), name)
