"""A Python function of tensors as a module, so that it can be checked and traced as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import Tensor, nn
from torch.export import ExportedProgram

from jacobound.errors import InvalidModelError


class FunctionModule(nn.Module):
    """Calls a function; the modules that it uses are submodules.

    It is never copied: what the function refers to would stay behind.

    Args:
        function: of one tensor or several.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        for name, module in _modules_of(function).items():
            self.add_module(f"used_{name}", module)
        self.training = any(layer.training for layer in self.children())

    def forward(self, *given: Tensor, **named: Tensor) -> Tensor:
        return self.function(*given, **named)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        raise TypeError("a function is not copied")


def as_module(given: object) -> nn.Module:
    """A module as it is, a function as a module of its name.

    Raises:
        InvalidModelError: when it is neither, or the function takes several arguments.
    """
    if isinstance(given, nn.Module):
        return given
    if isinstance(given, ExportedProgram):
        return given.module()  # which takes batches of any length when it was exported with dynamic_shapes
    if not callable(given) or isinstance(given, type):
        kind = given.__name__ if isinstance(given, type) else type(given).__name__
        raise InvalidModelError(f"from_torch takes a torch.nn.Module or a function of one tensor, not {kind}")
    name = getattr(given, "__name__", type(given).__name__)
    return type(name, (FunctionModule,), {})(given)


def _modules_of(function: Callable[..., object]) -> Mapping[str, nn.Module]:
    """The modules that a function refers to: its own object, its surroundings, and what is bound to it."""
    found: dict[str, object] = {}
    owner = getattr(function, "__self__", None)
    if owner is not None:
        found["self"] = owner
    inner = inspect.unwrap(getattr(function, "func", function))  # of a partial or a decorated one
    plain = getattr(inner, "__func__", inner)
    if inspect.isfunction(plain):
        around = inspect.getclosurevars(plain)
        found |= {**around.globals, **around.nonlocals}
    return {name: value for name, value in found.items() if isinstance(value, nn.Module)}
