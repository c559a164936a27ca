"""`Tape`: what torch computes from some tensors, written down once and done again for other values of them.

An importer derives the weights of a graph from those of a module by a few operations (a transpose, a broadcast, gamma
over the root of a variance). The tape holds these operations and nothing else, so that the graph follows the module
from step to step and gradients reach its parameters, without tracing and lowering it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

_aten = torch.ops.aten

# Importers look at weights outside of gradients; their values go on with them here.
TRANSPARENT: Final = frozenset((_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default))


@dataclass(frozen=True)
class _Slot:
    """Stands for a tensor that depends on the sources."""

    number: int


@dataclass(frozen=True, eq=False)
class _Step:
    """One operation: arguments and results, with slots in the place of tensors that depend on the sources."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[_Slot | None, ...]

    @property
    def reads(self) -> set[int]:
        return {leaf.number for leaf in tree_flatten((self.args, dict(self.kwargs)))[0] if isinstance(leaf, _Slot)}


class Tape(TorchDispatchMode):
    """Records while it is entered: ``with tape: ...``.

    Operations are written down as torch dispatches them. Numbers that leave torch (`item`, `tolist`) and branches on
    values are not followed: what was decided while recording stays.

    Args:
        sources: the tensors whose values will change.
    """

    def __init__(self, sources: Sequence[Tensor]) -> None:
        super().__init__()
        self._steps: list[_Step] = []
        self._kept: list[Tensor] = list(sources)  # alive, so that no other tensor gets the identity of one of them
        self._slots: dict[int, _Slot] = {id(source): _Slot(k) for k, source in enumerate(sources)}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        before = tree_map(self._slot_or_value, (tuple(args), kwargs))
        result = func(*args, **kwargs)
        if any(isinstance(leaf, _Slot) for leaf in tree_flatten(before)[0]):
            leaves = result if isinstance(result, tuple | list) else (result,)
            self._steps.append(_Step(func, before[0], before[1], tuple(self._new_slot(leaf) for leaf in leaves)))
        return result

    def _slot_or_value(self, value: Any) -> Any:
        return self._slots.get(id(value), value) if isinstance(value, Tensor) else value

    def _new_slot(self, value: object) -> _Slot | None:
        if not isinstance(value, Tensor):
            return None
        if id(value) not in self._slots:  # an operation in place keeps the slot of what it changes
            self._slots[id(value)] = _Slot(len(self._kept))
            self._kept.append(value)
        return self._slots[id(value)]

    def slot(self, tensor: Tensor) -> int | None:
        """The number under which a tensor was recorded; None when it does not depend on the sources."""
        found = self._slots.get(id(tensor))
        return None if found is None else found.number

    def programme(self, wanted: Sequence[int]) -> Programme:
        """The steps that the tensors of some numbers need."""
        needed, kept = set(wanted), []
        for step in reversed(self._steps):
            written = {slot.number for slot in step.results if slot is not None}
            if written & needed:
                kept.append(step)
                needed |= step.reads
        return Programme(tuple(reversed(kept)), tuple(wanted))


@dataclass(frozen=True, eq=False)
class Programme:
    """The recorded steps that are needed, in their order."""

    steps: tuple[_Step, ...]
    wanted: tuple[int, ...]

    def run(self, sources: Sequence[Tensor]) -> dict[int, Tensor]:
        """The wanted tensors by number, for new values of the sources; gradients pass.

        Args:
            sources: as many as were recorded, in their order, of the same shapes, dtypes and device.
        """
        known: dict[int, Any] = dict(enumerate(sources))
        for step in self.steps:
            args = [_filled(value, known) for value in step.args]
            kwargs = {name: _filled(value, known) for name, value in step.kwargs.items()}
            result = args[0] if step.function in TRANSPARENT else step.function(*args, **kwargs)
            leaves = result if isinstance(result, tuple | list) else (result,)
            for slot, leaf in zip(step.results, leaves, strict=True):
                if slot is not None:
                    known[slot.number] = leaf
        return {number: known[number] for number in self.wanted}


def _filled(value: Any, known: Mapping[int, Any]) -> Any:
    """An argument with the tensors of this run in the place of slots; operations take lists at most."""
    if isinstance(value, _Slot):
        return known[value.number]
    return [_filled(one, known) for one in value] if isinstance(value, list) else value
