"""ONNX operations along axes or over several tensors: sums, means, largest and smallest entries, running sums."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.onnx.model.safety import check_size
from jacobound.importers.onnx.operations.call import Call, Traced, Value
from jacobound.importers.onnx.operations.products import elementwise

LARGEST_MATRIX = 2**24  # entries of what a running sum multiplies with

Step = Callable[[Call, Node, list[int], str], Node]


def _sum(call: Call, node: Node, axes: list[int], name: str) -> Node:
    return call.steps.sum(node, axes, True, name)


def _mean(call: Call, node: Node, axes: list[int], name: str) -> Node:
    return call.steps.mean(node, axes, True, name)


def _largest(call: Call, node: Node, axes: list[int], name: str) -> Node:
    return call.steps.maximum_over(node, axes, True, name)


def _smallest(call: Call, node: Node, axes: list[int], name: str) -> Node:
    return call.steps.minimum_over(node, axes, True, name)


def _length(call: Call, node: Node, axes: list[int], name: str) -> Node:
    return call.steps.length(node, axes, True, name)


def _logsumexp(call: Call, node: Node, axes: list[int], name: str) -> Node:
    return call.steps.logsumexp(node, axes, True, name)


def _product(call: Call, node: Node, axes: list[int], name: str) -> Node:
    for axis in axes:
        node = call.steps.product_over(node, axis, f"{name}.axis{axis}")
    return node


def reduction(
    step: Step, before: str | None = None, after: str | None = None, alone: str | None = None
) -> Callable[[Call], tuple[Value, ...]]:
    """A reduction over axes, with one activation before and one after it; `alone` is what it does to single entries."""

    def lower(call: Call) -> tuple[Value, ...]:
        value, axes = call.traced(), call.reduced_axes()
        node = value.node if before is None else elementwise(before, value.node, f"{call.name}.{before}")
        if axes:
            node = step(call, node, axes, call.name if after is None else f"{call.name}.total")
        elif alone is not None:
            node = elementwise(alone, node, call.name)
        return call.result(node if after is None else elementwise(after, node, call.name))

    return lower


def extreme(largest: bool) -> Callable[[Call], tuple[Value, ...]]:
    """The largest or smallest of several values and constants, entry by entry."""

    def lower(call: Call) -> tuple[Value, ...]:
        operands = _operands(call)
        if len(operands) == 1:
            return (call.inputs[0],)  # type: ignore[return-value]
        step = call.steps.maximum if largest else call.steps.minimum
        return call.result(step(operands, call.name))

    return lower


def mean_of_several(call: Call) -> tuple[Value, ...]:
    factors: dict[Node, float] = {}
    bias: Tensor | None = None
    for operand in _operands(call):
        if not isinstance(operand, Tensor):
            factors[operand] = factors.get(operand, 0.0) + 1
        elif bias is not None:
            raise UnsupportedOpError("It adds two constants, whose sum would be rounded.")
        else:
            bias = operand
    total = call.steps.add([(factor, node) for node, factor in factors.items()], bias, f"{call.name}.total")
    count = torch.tensor(float(len(call.inputs)), dtype=torch.float64)
    return call.result(total if len(call.inputs) == 1 else call.steps.divide(total, count, call.name))


def _operands(call: Call) -> list[Node | Tensor]:
    return [
        call.widened(value) if isinstance(value, Traced) else call.spread(call.needed(k), call.shape)
        for k, value in enumerate(call.inputs)
    ]


def running_sum(call: Call) -> tuple[Value, ...]:
    value, given = call.traced(), call.constant(1)
    if given is None or given.size != 1:
        raise UnsupportedOpError("Its axis is not one number.")
    exclusive, reverse = call.flag("exclusive"), call.flag("reverse")
    axes = call.own_axes(value, [int(given.reshape(()))])
    if not axes:  # one entry: itself, or nothing before it
        if exclusive:
            raise UnsupportedOpError("It is zero: nothing of its input is left in the result.")
        return (value,)
    length = value.node.shape[axes[0]]
    check_size((length, length), f"the matrix of '{call.name}'", LARGEST_MATRIX)
    return call.result(call.steps.cumsum(value.node, axes[0], call.name, exclusive=exclusive, reverse=reverse))


REDUCTIONS = {
    "GlobalAveragePool": reduction(_mean),
    "GlobalMaxPool": reduction(_largest),
    "ReduceMean": reduction(_mean),
    "ReduceSum": reduction(_sum),
    "ReduceMax": reduction(_largest),
    "ReduceMin": reduction(_smallest),
    "ReduceProd": reduction(_product),
    "ReduceL1": reduction(_sum, before="abs"),
    "ReduceL2": reduction(_length, alone="abs"),
    "ReduceSumSquare": reduction(_sum, before="square"),
    "ReduceLogSum": reduction(_sum, after="log"),
    "ReduceLogSumExp": reduction(_logsumexp),
}
