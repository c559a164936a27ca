"""Operations on values whose points do not lie along the first axis (sequences first), done with the points in front.

Such a value is a movement of nodes; moved the other way its points stand in front, the usual rule applies, and the
result is moved back. That is right for what works entry by entry or along other axes than that of the points.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.torch.operations import arithmetic as arithmetic
from jacobound.importers.torch.operations import products as products
from jacobound.importers.torch.operations import vectors as vectors
from jacobound.importers.torch.operations.call import Call, Rule, Turned, Value, is_node

ENTRYWISE: Final[frozenset[Rule]] = frozenset(
    (
        arithmetic.add,
        arithmetic.negate,
        arithmetic.multiply,
        arithmetic.divide,
        arithmetic.add_scaled,
        arithmetic.lerp,
        arithmetic.power,
        arithmetic.rsqrt,
        arithmetic.exponential,
        arithmetic.logarithm,
        arithmetic.shifted,
        arithmetic.extremum,
        arithmetic.clamp,
        arithmetic.softplus,
    )
)
BEHIND: Final[frozenset[Rule]] = frozenset((products.linear, vectors.layer_norm, vectors.rms_norm, vectors.softmax))
"""Rules that work along the last axes, or one axis that they name."""


def straightened(call: Call, rule: Rule, entrywise: bool) -> Value:
    """The result of a rule on turned values.

    Args:
        entrywise: whether the rule works entry by entry, beside those listed here.

    Raises:
        UnsupportedOpError: when the points can not be brought to the front, or the rule works along their axis.
    """
    first = next(value for value in call.args if isinstance(value, Turned))
    if not isinstance(call.result, Tensor) or not (entrywise or rule in ENTRYWISE or rule in BEHIND):
        raise first.error
    rank = call.result.dim()
    place = _place(call, first) + rank - len(first.shape)
    args: list[Value] = []
    for position, value in enumerate(call.args):
        if isinstance(value, Turned):
            args.append(_in_front(call, value, place - rank + len(value.shape)))
        elif is_node(value):
            raise first.error
        elif isinstance(value, Tensor) and value.dim() and rule not in BEHIND:
            args.append(value.reshape(*(1 for _ in range(rank - value.dim())), *value.shape).movedim(place, 0))
        else:
            args.append(_argument(call, rule, position, value, place, first))
    kept = replace(call, args=tuple(args), result=call.result.movedim(place, 0))
    found = rule(kept)
    return Turned((found,), lambda x: x.movedim(0, place), first.error, tuple(call.result.shape))


def _argument(call: Call, rule: Rule, position: int, value: Value, place: int, turned: Turned) -> Value:
    """Other arguments: axes are counted with the points in front."""
    rank = len(turned.shape)
    if rule is vectors.softmax and position == 1:
        axis = value % rank
        if axis == place:
            raise turned.error
        return axis + 1 if axis < place else axis
    reached = 1 if rule is products.linear else len(call.args[1]) if rule in BEHIND and position == 1 else 0
    if rule is not vectors.softmax and place >= rank - reached:
        raise turned.error
    return value


def _place(call: Call, value: Turned) -> int:
    """The axis along which the points lie."""
    for axis in range(1, len(value.shape)):
        if value.shape[axis] == call.steps.batch:
            try:
                _in_front(call, value, axis)
            except UnsupportedOpError:
                continue
            return axis
    raise value.error


def _in_front(call: Call, value: Turned, axis: int) -> Node:
    if not 0 < axis < len(value.shape) or value.shape[axis] != call.steps.batch:
        raise UnsupportedOpError(str(value.error))
    found = call.steps.rearrange(
        value.sources, lambda *codes: value.run(*codes).movedim(axis, 0), f"{call.name}.points"
    )
    assert not isinstance(found, Tensor)
    return found
