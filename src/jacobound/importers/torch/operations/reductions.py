"""Operations along axes in traced modules: sums, means, extrema, norms, cumulative sums, sorted values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.torch.operations.arithmetic import activate
from jacobound.importers.torch.operations.call import POSITIONS, Call, Value

Reducer = Callable[[Node, Sequence[int], bool, str], Node]


def reduce(call: Call) -> Node:
    """Sum or mean over axes that are not the batch axis."""
    return _reduce(call, call.steps.mean if ".mean." in call.op else call.steps.sum)


def extremum_over(call: Call) -> Value:
    """amax, max.dim, max.default and the minima; the positions are refused when used."""
    node = _reduce(call, call.steps.maximum_over if "max" in call.op else call.steps.minimum_over)
    return [node, POSITIONS] if call.op.endswith(".dim") else node


def both_extrema(call: Call) -> list[Value]:
    """aminmax: minimum and maximum."""
    node, over, keep = call.args[0], _axes(call, call.kwargs.get("dim")), bool(call.kwargs.get("keepdim", False))
    return [
        call.steps.minimum_over(node, over, keep, f"{call.name}.min"),
        call.steps.maximum_over(node, over, keep, f"{call.name}.max"),
    ]


def norm(call: Call) -> Node:
    """Norms of order 1, 2 and infinity along axes."""
    node, order = call.args[0], float(call.argument(1, "ord", 2))
    over, keep = _axes(call, call.argument(2, "dim")), bool(call.argument(3, "keepdim", False))
    if order not in (1.0, 2.0, math.inf):
        raise UnsupportedOpError(f"Only norms of order 1, 2 and infinity are understood, not {order}.")
    if order == 2.0:
        return call.steps.length(node, over, keep, call.name)
    sizes = activate(call, "aten.abs.default", node, name=f"{call.name}.abs")
    return (call.steps.sum if order == 1.0 else call.steps.maximum_over)(sizes, over, keep, call.name)


def cumsum(call: Call) -> Node:
    node = call.args[0]
    return call.steps.cumsum(node, call.axis(call.argument(1, "dim"), call.rank(node)), call.name)


def sort(call: Call) -> Value:
    """Sorted values along an axis; the positions are refused when used."""
    if "msort" in call.op:
        return call.steps.sort(call.args[0], call.axis(0, call.rank(call.args[0])), False, call.name)
    shift = 1 if call.op == "aten.sort.stable" else 0  # its second argument may say that equal values keep their order
    if shift and len(call.args) == 1:
        shift = 0
    dim, descending = call.argument(1 + shift, "dim", -1), bool(call.argument(2 + shift, "descending", False))
    axis = call.axis(dim, call.rank(call.args[0]))
    return [call.steps.sort(call.args[0], axis, descending, call.name), POSITIONS]


def topk(call: Call) -> Value:
    """The first values in falling or rising order."""
    count, dim = call.args[1], call.argument(2, "dim", -1)
    if not call.argument(4, "sorted", True):
        raise UnsupportedOpError("Without sorting, the order of its values is not defined; pass sorted=True.")
    largest = bool(call.argument(3, "largest", True))
    return [_ranked(call, dim, largest, lambda n: slice(0, count), True), POSITIONS]


def kth_value(call: Call) -> Value:
    """The k-th smallest value."""
    rank, dim, keep = call.args[1], call.argument(2, "dim", -1), bool(call.argument(3, "keepdim", False))
    return [_ranked(call, dim, False, lambda n: slice(rank - 1, rank), keep), POSITIONS]


def median(call: Call) -> Value:
    """The lower one of two middle values, as torch has it."""
    dim, keep = call.argument(1, "dim", -1), bool(call.argument(2, "keepdim", False))
    return [_ranked(call, dim, False, lambda n: slice((n - 1) // 2, (n - 1) // 2 + 1), keep), POSITIONS]


def _ranked(call: Call, dim: int, descending: bool, places: Callable[[int], slice], keep: bool) -> Node:
    """Sorted values along an axis, at the places asked for; without `keep` the axis goes away."""
    node = call.args[0]
    axis = call.axis(dim, call.rank(node))
    ordered = call.steps.sort(node, axis, descending, f"{call.name}.sort")
    wanted, front = places(node.shape[axis]), axis + call.front
    return call.steps.move(
        ordered,
        lambda x: (
            x.narrow(front, wanted.start, wanted.stop - wanted.start)
            if keep
            else x.narrow(front, wanted.start, 1).squeeze(front)
        ),
        call.name,
    )


def difference(call: Call) -> Node:
    """diff: each entry less the one before it along an axis."""
    node = call.args[0]
    if len(call.args) > 3 or call.kwargs.keys() & {"prepend", "append"}:
        raise UnsupportedOpError("Entries put in front or behind are not understood; concatenate them first.")
    times, front = call.argument(1, "n", 1), call.argument(2, "dim", -1) % call.rank(node)
    call.axis(front, call.rank(node))
    for k in range(times):
        last = call.name if k == times - 1 else f"{call.name}.{k}"
        later = call.steps.move(node, lambda x: x.narrow(front, 1, x.shape[front] - 1), f"{last}.later")
        earlier = call.steps.move(node, lambda x: x.narrow(front, 0, x.shape[front] - 1), f"{last}.earlier")
        node = call.steps.add([(1.0, later), (-1.0, earlier)], None, last)
    return node


def _reduce(call: Call, step: Reducer) -> Node:
    return step(call.args[0], _axes(call, call.argument(1, "dim")), bool(call.argument(2, "keepdim", False)), call.name)


def _axes(call: Call, dims: int | Sequence[int] | None) -> list[int]:
    """A node's axes for the model's; None or none at all stands for all of them."""
    rank = call.rank(call.args[0])
    dims = [dims] if isinstance(dims, int) else dims
    return [call.axis(dim, rank) for dim in (dims or range(rank))]
