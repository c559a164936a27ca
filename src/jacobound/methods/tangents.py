"""Derivatives in flight: several vectors at one node, pushed through operators; used forwards and backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from jacobound.intervals import Interval
from jacobound.methods.base import flat_indices
from jacobound.operators import LinearOperator, positions, unit_rows
from jacobound.rounding import rigorous, underflow

Key = TypeVar("Key")


@dataclass(frozen=True, eq=False)
class Tangents:
    """Vectors at one node, on some of its flat entries (zero elsewhere).

    Args:
        entries: flat entries, or None for all.
        values: shape (vectors, len(entries)), or None for the unit vectors of `entries`.
        like: tensor that carries dtype and device.
    """

    entries: Tensor | None
    values: Tensor | None
    like: Tensor

    def on(self, wanted: Tensor | None, count: int) -> Tensor:
        """Values on the wanted entries (None for all `count` of the node), shape (vectors, wanted)."""
        values, entries = self.values, self.entries
        if values is None:
            assert entries is not None
            values = unit_rows(len(entries), self.like)
        if entries is None:
            return values if wanted is None else values[:, wanted]
        if wanted is not None:
            place = entries.new_full((count,), -1)
            place[entries] = positions(len(entries), values)
            position = place[wanted]
            if bool((position >= 0).all()):
                return values[:, position]
        full = values.new_zeros(len(values), count).index_copy_(1, entries, values)
        return full if wanted is None else full[:, wanted]


def push_through(operator: LinearOperator, groups: Mapping[Key, Tangents], needed: Tensor | None) -> dict[Key, Tensor]:
    """Images of several groups of vectors on the needed entries; the operator is cut down once for all of them.

    Images of unit vectors are columns of the operator, without rounding.
    """
    moving = [group for group in groups.values() if group.values is not None]
    push = None
    if moving:
        vectors = sum(len(group.values) for group in moving if group.values is not None)
        push = operator.between(moving[0].entries, needed, vectors)
    images = {}
    for key, group in groups.items():
        if group.values is None:
            assert group.entries is not None
            images[key] = operator.columns(group.entries, needed)
        elif push is not None and group.entries is moving[0].entries:
            images[key] = push(group.values)
        else:
            images[key] = operator.between(group.entries, needed, len(group.values))(group.values)
    return images


def unstable_entries(slope: Interval) -> Tensor:
    """Flat positions of neurons with more than one possible slope (NaN counts as unstable)."""
    return flat_indices(~(slope.lower == slope.upper))


def can_differ(slope: Interval) -> Tensor:
    """Mask of the neurons whose slope can differ from zero (NaN counts)."""
    return ~((slope.lower == 0) & (slope.upper == 0))


def passing_entries(slope: Interval) -> Tensor:
    """Flat positions of neurons with one known slope that is not zero."""
    return flat_indices((slope.lower == slope.upper) & (slope.lower != 0))


def underflow_of(operator: LinearOperator, weight: Tensor) -> Tensor | float:
    """Underflow of one application of the operator's transpose, counted with the derivative behind it.

    Args:
        weight: bound of that derivative, shape (outputs, *operator.in_shape).

    Returns:
        Shape (outputs, 1).
    """
    if not rigorous() or not operator.longest_sum:
        return 0.0
    return underflow(operator.longest_sum, weight) * weight.flatten(1).sum(1, keepdim=True)
