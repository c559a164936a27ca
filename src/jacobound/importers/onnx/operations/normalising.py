"""Normalisation that a file writes out, ``d / sqrt(mean(d d) + eps)``, read back from the operations that made it.

Quotients of two values have constants only where the divisor is bounded away from zero, and count both sides; one
normalisation has a smaller constant, and takes what the user claims about the variance. Every step is checked, so that
what is recognised is the same real function, with eps as the file has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jacobound.graph.nodes import Node
from jacobound.importers.onnx.operations.call import Call, Traced


def normalised(call: Call, top: Traced, bottom: Traced, *, inverse: bool = False) -> Node | None:
    """``top / bottom``, or ``top bottom`` when `bottom` is to be an inverse, as one normalisation; None if it is none.

    Recognised: division by the root of a mean square (of the same values), which is layer normalisation when the mean
    was taken off before, else RMS normalisation; and division by the Euclidean length, kept from zero by Clip or Max.
    """
    if top.shape != call.shape:
        return None
    if not inverse:
        found = _by_length(call, top, bottom)
        if found is not None:
            return found
    root = _radicand(call, bottom, inverse)
    if root is None:
        return None
    epsilon, square = _without_number(call, root)
    mean = _maker(call, square, "ReduceMean")
    base = None if mean is None else _base(call, mean.traced())
    if mean is None or base is None or not _same(call, base.node, top.node):
        return None
    axes = mean.reduced_axes()
    if not axes or epsilon < 0 or not _kept(bottom, top, axes):
        return None
    centred = _source_of_centred(call, top, axes)
    if centred is not None:
        return call.steps.layer_norm(centred, axes, None, None, epsilon, call.name)
    return call.steps.rms_norm(top.node, axes, None, epsilon, call.name)


def _by_length(call: Call, top: Traced, bottom: Traced) -> Node | None:
    """``x / max(||x||, eps)``."""
    expanded = _maker(call, bottom, "Expand")
    if expanded is not None:
        if bottom.shape != top.shape:
            return None
        bottom = expanded.traced()
    least, inner = 0.0, bottom
    limited = _maker(call, bottom, "Clip", "Max")
    if limited is not None:
        values = [value for value in limited.inputs if isinstance(value, Traced)]
        limit = _lower_limit(limited)
        if len(values) != 1 or limit is None or limit < 0:
            return None
        least, inner = limit, values[0]
    length = _maker(call, inner, "ReduceL2")
    if length is None or length.traced().node is not top.node:
        return None
    axes = length.reduced_axes()
    return call.steps.normalize(top.node, axes, least, call.name) if axes and _kept(bottom, top, axes) else None


def _lower_limit(made: Call) -> float | None:
    """The one number below which a Clip or Max of two lets nothing pass; None when there is none, or another limit."""
    if made.proto.op_type == "Max":
        return _number([value for value in made.inputs if not isinstance(value, Traced)])
    if made.version < 11:
        low, high = float(made.number("min")), float(made.number("max"))
        return low if high >= float(np.finfo(np.float32).max) else None
    return _number([made.get(1)]) if made.get(2) is None else None


def _radicand(call: Call, value: Traced, inverse: bool) -> Traced | None:
    """What a value is the square root of, or the inverse of the square root."""
    made = call.made.get(value.node)
    if made is None:
        return None
    if made.proto.op_type == "Sqrt" and not inverse:
        return made.traced()
    if made.proto.op_type == "Pow" and isinstance(made.get(0), Traced):
        return made.traced() if _number([made.get(1)]) == (-0.5 if inverse else 0.5) else None
    if inverse and made.proto.op_type == "Reciprocal":
        return _radicand(call, made.traced(), False)
    if inverse and made.proto.op_type == "Div" and _number([made.get(0)]) == 1:
        return _radicand(call, made.traced(1), False)
    return None


def _without_number(call: Call, value: Traced) -> tuple[float, Traced]:
    """A value as the sum of one number and another value."""
    made = _maker(call, value, "Add")
    values = [] if made is None else [entry for entry in made.inputs if isinstance(entry, Traced)]
    number = None if made is None else _number([entry for entry in made.inputs if not isinstance(entry, Traced)])
    return (0.0, value) if number is None or len(values) != 1 else (number, values[0])


def _base(call: Call, value: Traced) -> Traced | None:
    """What a value is the square of."""
    made = _maker(call, value, "Pow", "Mul")
    if made is None or not isinstance(made.get(0), Traced) or made.traced().shape != made.shape:
        return None
    if made.proto.op_type == "Pow":
        return made.traced() if not isinstance(made.get(1), Traced) and _number([made.get(1)]) == 2 else None
    other = made.get(1)
    return made.traced() if isinstance(other, Traced) and _same(call, made.traced().node, other.node) else None


def _source_of_centred(call: Call, value: Traced, axes: Sequence[int]) -> Node | None:
    """x when a value is ``x - mean(x)`` over those axes."""
    made = _maker(call, value, "Sub")
    if made is None or not isinstance(made.get(0), Traced) or not isinstance(made.get(1), Traced):
        return None
    x, middle = made.traced(0), made.traced(1)
    mean = _maker(call, middle, "ReduceMean")
    if mean is None or x.shape != made.shape or mean.traced().node is not x.node or mean.reduced_axes() != list(axes):
        return None
    return x.node if _kept(middle, x, axes) else None


def _same(call: Call, one: Node, two: Node) -> bool:
    """Whether two nodes are the same function: one node, or the same mean, or the same difference computed twice.

    Each pair is looked at once: differences of differences would double the work at every level.
    """
    waiting, seen = [(one, two)], set[tuple[Node, Node]]()
    while waiting:
        pair = waiting.pop()
        left, right = (call.made.get(node) for node in pair)
        if pair[0] is pair[1] or pair in seen:
            continue
        seen.add(pair)
        if left is None or right is None or left.proto.op_type != right.proto.op_type or left.shape != right.shape:
            return False
        if left.proto.op_type == "ReduceMean":
            if left.reduced_axes() != right.reduced_axes() or left.traced().node is not right.traced().node:
                return False
            continue
        if left.proto.op_type != "Sub":
            return False
        for k in (0, 1):
            a, b = left.get(k), right.get(k)
            if not isinstance(a, Traced) or not isinstance(b, Traced) or a.shape != b.shape:
                return False
            waiting.append((a.node, b.node))
    return True


def _maker(call: Call, value: Traced, *operations: str) -> Call | None:
    """The operation that gave a value, if it is one of those."""
    made = call.made.get(value.node)
    return made if made is not None and made.proto.op_type in operations else None


def _kept(reduced: Traced, value: Traced, axes: Sequence[int]) -> bool:
    """Whether a value, reduced over axes of its node, broadcasts back along just these axes."""
    lengths = (1 if axis in axes else length for axis, length in enumerate(value.node.shape))
    dropped, front = (len(value.shape) - len(one) for one in (value.node.shape, reduced.shape))
    return front >= 0 and (1,) * front + reduced.shape == (*value.shape[:dropped], *lengths)


def _number(constants: Sequence[object]) -> float | None:
    """The one number that the only constant holds; None when it is no such constant."""
    if len(constants) != 1 or not isinstance(constants[0], np.ndarray):
        return None
    numbers = np.unique(np.asarray(constants[0], dtype=np.float64))
    return float(numbers[0]) if numbers.size == 1 else None
