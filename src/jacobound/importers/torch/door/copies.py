"""A private copy of the user's module to be run and traced: in evaluation mode, with derived weights as plain ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def copied(module: nn.Module) -> nn.Module | None:
    """A copy that shares nothing with the module, or None when it can not be copied."""
    memo: dict[int, object] = {}
    for layer in module.modules():
        for value in vars(layer).values():
            # What an older hook computed from parameters; copying refuses tensors that have a history.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception:
        return None


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode inside; the flags are put back as they were."""
    flags = [(layer, layer.training) for layer in module.modules()]
    try:
        for layer, _ in flags:
            layer.training = False
        yield
    finally:
        for layer, training in flags:
            layer.training = training


def settle_eps(module: nn.Module, dtype: torch.dtype) -> None:
    """Write down the eps that a layer takes from the dtype it computes in, before the private copy changes it."""
    for layer in module.modules():
        if isinstance(layer, nn.RMSNorm) and layer.eps is None:
            layer.eps = torch.finfo(dtype).eps


class _Stored(nn.Module):
    """Stands for a parametrisation and returns the value that it gave."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self) -> Tensor:
        return self.value


def settle_weights(module: nn.Module) -> bool:
    """Replace weights that the module computes from others by their values, in the dtype of the module.

    These are parametrisations (spectral norm, weight norm, orthogonal, or the user's own) and the older hooks for
    spectral norm, weight norm and pruning. The module must be a private copy in evaluation mode.

    Returns:
        Whether there were any that round.
    """
    rounding = False
    with torch.no_grad():
        for layer in list(module.modules()):
            if parametrize.is_parametrized(layer):
                stored = layer.parametrizations
                assert isinstance(stored, nn.ModuleDict)
                for name in list(stored):
                    stored[name] = _Stored(getattr(layer, name).detach().clone())
                rounding = True
            for key, hook in list(layer._forward_pre_hooks.items()):
                found = _derived(layer, hook)
                if found is not None:
                    name, value = found
                    del layer._forward_pre_hooks[key]
                    delattr(layer, name)
                    layer.register_buffer(name, value.detach().clone())
                    rounding = rounding or not isinstance(hook, prune.BasePruningMethod)
    return rounding


def _derived(layer: nn.Module, hook: object) -> tuple[str, Tensor] | None:
    """Name and value of the weight that an older hook computes before each call."""
    if isinstance(hook, SpectralNorm):
        return hook.name, hook.compute_weight(layer, do_power_iteration=False)
    if isinstance(hook, WeightNorm):
        return hook.name, hook.compute_weight(layer)
    if isinstance(hook, prune.BasePruningMethod):
        return hook._tensor_name, hook.apply_mask(layer)
    return None
