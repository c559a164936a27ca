"""`Sources`: the tensors of a module that the weights of its graph derive from, found again at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from jacobound.errors import InvalidModelError
from jacobound.importers.torch.tracing.program import Program

STATISTICS: Final = ("running_mean", "running_var")


@dataclass(frozen=True, eq=False)
class Sources:
    """Where a traced module has its floating tensors from.

    Args:
        getters: by name in the traced copy, how the user's module gives the value of this moment.
        moving: the names whose values training changes.
    """

    getters: Mapping[str, Callable[[], Tensor]]
    moving: frozenset[str]

    @staticmethod
    def of(module: nn.Module, program: Program) -> Sources:
        """For the floating tensors that the traced operations read.

        Raises:
            InvalidModelError: for a weight that an older hook computes; names it.
        """
        getters = {}
        used = [name for step, name in program.placeholders().items() if step.users and name is not None]
        for name in dict.fromkeys(name for name in used if name not in program.lifted):
            getter = _getter(module, name)
            if getter().is_floating_point():
                getters[name] = getter
        moving = {
            name
            for name in getters
            if name in program.parameters or _is_derived(name) or name.rpartition(".")[2] in STATISTICS
        }
        return Sources(getters, frozenset(moving))

    @property
    def dtype(self) -> torch.dtype:
        """float64 when one of the tensors is, else float32."""
        kinds = {getter().dtype for getter in self.getters.values()}
        return torch.float32 if kinds == {torch.float32} else torch.float64

    def values(self) -> list[Tensor]:
        """The tensors of this moment, with their gradients."""
        return [getter() for getter in self.getters.values()]

    def generic(self, seed: int) -> dict[str, Tensor]:
        """Values near those of this moment, none of them special (zero, one, equal to another); no gradients."""
        random = torch.Generator().manual_seed(seed)
        found = {}
        for name, getter in self.getters.items():
            value = getter().detach().clone()
            if name in self.moving:
                noise = torch.rand(value.shape, generator=random, dtype=torch.float64).to(value)
                # Positive, because variances are to stay so.
                value = value + (0.01 + 0.01 * value.abs()) * (1 + noise)
            found[name] = value
        return found


def _is_derived(name: str) -> bool:
    return "parametrizations" in name.split(".")


def _getter(module: nn.Module, name: str) -> Callable[[], Tensor]:
    """How the module gives what its traced copy calls by a name."""
    owner, parts = module, name.split(".")
    for k, part in enumerate(parts):
        if part == "parametrizations":
            return lambda owner=owner, weight=parts[k + 1]: getattr(owner, weight)
        if isinstance(owner, nn.MultiheadAttention) and part != "out_proj":
            if part != "out":
                return lambda owner=owner, part=part, kind=parts[k + 1]: _projection(owner, part, kind)
            part = "out_proj"
        if k == len(parts) - 1:
            if part not in owner._parameters and part not in owner._buffers:
                raise InvalidModelError(
                    f"'{name}' is computed by a hook before every call, which training can not follow; use "
                    "torch.nn.utils.parametrizations (weight_norm, spectral_norm), or prune.remove"
                )
            return lambda owner=owner, part=part: getattr(owner, part)
        owner = getattr(owner, part)
    raise InvalidModelError(f"the module has nothing called '{name}'")


def _projection(attention: nn.MultiheadAttention, part: str, kind: str) -> Tensor:
    """Weight or bias of the queries, keys or values of an attention, which may hold all three in one tensor."""
    place = ("query", "key", "value").index(part)
    if kind == "bias":
        packed = attention.in_proj_bias
    elif attention.in_proj_weight is None:
        return (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)[place]
    else:
        packed = attention.in_proj_weight
    assert packed is not None
    return packed.chunk(3)[place]
