"""ONNX operations that are functions of whole vectors: softmax, and normalisation by the values' own statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Affine, Node, Vector
from jacobound.graph.vector.smooth import Softmax
from jacobound.importers.onnx.operations.call import Call, Traced, Value
from jacobound.operators.kinds import Identity, Select

PER_CHANNEL = 21  # the opset from which GroupNormalization has its scale for every channel, before for every group


def softmax(logarithm: bool) -> Callable[[Call], tuple[Value, ...]]:
    """Softmax or its logarithm: along one axis from opset 13, over that axis and all behind it together before."""

    def lower(call: Call) -> tuple[Value, ...]:
        value, axis = call.traced(), int(call.number("axis"))
        axes = [_axis(value, axis)] if call.version >= 13 else _from(value, axis)
        own = call.own_axes(value, axes)
        if math.prod(value.node.shape[axis] for axis in own) == 1:  # a share of itself alone
            return ((np.zeros if logarithm else np.ones)(call.shape, call.dtype),)
        step = call.steps.log_softmax if logarithm else call.steps.softmax
        if len(own) == 1:
            return call.result(step(value.node, own[0], call.name))
        lead, length = value.node.shape[: own[0]], math.prod(value.node.shape[own[0] :])
        rows = call.steps.reshape(value.node, (*lead, length), f"{call.name}.rows")
        return call.result(step(rows, -1, f"{call.name}.flat"))

    return lower


def layer_norm(call: Call) -> tuple[Value, ...]:
    """Statistics over an axis and all behind it; scale and shift broadcast."""
    value = call.traced()
    axes = call.own_axes(value, _from(value, int(call.number("axis"))))
    gamma, beta = call.spread(call.needed(1), value.shape), call.weight(2)
    shift = None if beta is None else call.spread(beta, value.shape)
    return call.result(call.steps.layer_norm(value.node, axes, gamma, shift, _epsilon(call), call.name))


def rms_norm(call: Call) -> tuple[Value, ...]:
    """Mean squares over an axis and all behind it; the scale broadcasts."""
    value = call.traced()
    axes = call.own_axes(value, _from(value, int(call.number("axis"))))
    gamma = call.spread(call.needed(1), value.shape)
    return call.result(call.steps.rms_norm(value.node, axes, gamma, _epsilon(call), call.name))


def group_norm(call: Call) -> tuple[Value, ...]:
    """Statistics over groups of channels and all axes behind them."""
    groups = int(call.number("num_groups"))
    channels = _channels(call)
    if groups < 1 or channels % groups:
        raise UnsupportedOpError(f"{channels} channels can not be parted into {groups} groups.")
    return _grouped(call, groups, channels if call.version >= PER_CHANNEL else groups)


def instance_norm(call: Call) -> tuple[Value, ...]:
    """Statistics of every channel."""
    channels = _channels(call)
    return _grouped(call, channels, channels)


def _channels(call: Call) -> int:
    shape = call.traced().shape
    if len(shape) < 2 or shape[0] != 1:
        raise UnsupportedOpError(f"Only channels of a batch of one are understood, not an input of shape {shape}.")
    return shape[1]


def _grouped(call: Call, groups: int, parameters: int) -> tuple[Value, ...]:
    """Statistics of groups, with that many scales and shifts."""
    value, weights = call.traced(), [call.needed(1), call.needed(2)]
    for weight in weights:
        if tuple(weight.shape) != (parameters,):
            raise UnsupportedOpError(f"Its scale or shift has shape {tuple(weight.shape)}; {(parameters,)} fits.")
    gamma, beta = (weight.repeat_interleave(value.shape[1] // parameters) for weight in weights)
    return call.result(call.steps.group_norm(value.node, groups, gamma, beta, _epsilon(call), call.name))


def mean_variance(call: Call) -> tuple[Value, ...]:
    """``(x - mean) / (deviation + 1e-9)``, the deviation as the length of the centred row by the root of its length."""
    value, steps, name = call.traced(), call.steps, call.name
    axes = call.own_axes(value, call.attributes.get("axes") or (0, 2, 3))  # type: ignore[arg-type]
    node = value.node
    mean = steps.expand(steps.mean(node, axes, True, f"{name}.mean"), node.shape, f"{name}.means")
    centred = steps.add([(1.0, node), (-1.0, mean)], None, f"{name}.centred")
    length = steps.length(centred, axes, True, f"{name}.length")
    count = math.prod(node.shape[axis] for axis in axes)
    root = Interval.exact(steps.like.new_full(length.shape, float(count))).sqrt().reciprocal()
    floor = steps.like.new_full(length.shape, float(np.float32(1e-9)))
    deviation = steps.scale(length, root, f"{name}.deviation", floor)
    wide = steps.expand(deviation, node.shape, f"{name}.deviations")
    return call.result(steps.quotient(centred, wide, name))


def lp_norm(call: Call) -> tuple[Value, ...]:
    """Division by the Euclidean length along one axis."""
    value, order = call.traced(), int(call.number("p"))
    if order != 2:
        raise UnsupportedOpError(f"It divides by the l_p norm of its input for p={order}; p=2 is understood.")
    axes = call.own_axes(value, [_axis(value, int(call.number("axis")))])
    return call.result(call.steps.normalize(value.node, axes, 0.0, call.name))


def is_nan(call: Call) -> tuple[Value, ...]:
    """Exporters ask it of softmax, whose rows are numbers unless a mask leaves nothing of them (which is refused)."""
    value = call.traced()
    if not _is_softmax(value.node):
        raise UnsupportedOpError("It asks whether values of the network are numbers; that is understood of a Softmax.")
    return (np.zeros(call.shape, dtype=bool),)


def _is_softmax(node: Node) -> bool:
    """Whether all entries are results of a softmax, moved or not."""
    while isinstance(node, Affine) and len(node.terms) == 1 and node.bias is None:
        operator, source = node.terms[0]
        if not isinstance(operator, Identity | Select):
            return False
        node = source
    return isinstance(node, Vector) and isinstance(node.function, Softmax)


def _epsilon(call: Call) -> float:
    """What keeps the divisor from zero."""
    epsilon = float(call.number("epsilon"))
    if not 0 <= epsilon < math.inf:
        raise UnsupportedOpError(f"Its epsilon is {epsilon}; a number >= 0 is understood.")
    return epsilon


def _axis(value: Traced, axis: int) -> int:
    """An axis counted from the front."""
    rank = len(value.shape)
    if not -rank <= axis < rank:
        raise UnsupportedOpError(f"It works along axis {axis} of an input of shape {value.shape}.")
    return axis % rank


def _from(value: Traced, axis: int) -> list[int]:
    """An axis and all behind it."""
    return list(range(_axis(value, axis), len(value.shape)))


VECTORS: Mapping[str, Callable[[Call], tuple[Value, ...]]] = {
    "Softmax": softmax(logarithm=False),
    "LogSoftmax": softmax(logarithm=True),
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "MeanVarianceNormalization": mean_variance,
    "LpNormalization": lp_norm,
    "IsNaN": is_nan,
}
