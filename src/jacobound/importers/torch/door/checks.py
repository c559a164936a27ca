"""What a module, an example and a finished graph must pass in `from_torch`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from jacobound.errors import InvalidModelError, JacoboundError, ShapeError, UnsafeArithmeticError
from jacobound.importers.lowering.common import check_storage
from jacobound.importers.torch.tracing.function import FunctionModule
from jacobound.importers.torch.tracing.trace import first_line, of_hook, user_line


def refuse_arguments(module: nn.Module, given: int = 1) -> None:
    """A module must be callable with its example alone, which holds so many tensors."""
    called = module.function if isinstance(module, FunctionModule) else module.forward
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return  # a forward without a signature shows when it is called
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    wanted = [one.name for one in parameters if one.default is one.empty and one.kind in kinds]
    if len(wanted) > given:
        raise InvalidModelError(
            f"{type(module).__name__} takes {len(wanted)} arguments ({', '.join(wanted)}); give one tensor for each as "
            "the example, example=(x, ...), or wrap it in a module that takes the one tensor to vary and holds the "
            "others as constants"
        )


def refuse_training(module: nn.Module) -> None:
    """Layers that behave differently in training must be in evaluation mode already."""
    kinds = (
        nn.modules.batchnorm._BatchNorm,
        nn.modules.dropout._DropoutNd,
        nn.RReLU,
        nn.FractionalMaxPool2d,
        nn.FractionalMaxPool3d,
    )
    for name, layer in module.named_modules():
        statistics = isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats
        drops = isinstance(layer, nn.RNNBase) and layer.dropout > 0 and layer.num_layers > 1
        if layer.training and (isinstance(layer, kinds) or statistics or drops):
            raise InvalidModelError(
                f"'{name or type(module).__name__}' ({type(layer).__name__}) is in training mode, where the module is "
                "not one function; call module.eval() first"
            )


def refuse_storage(module: nn.Module) -> None:
    """Weights must be dense floats with values."""
    for name, parameter in module.named_parameters():
        check_storage(parameter, name)
    for name, buffer in module.named_buffers():
        # Integer buffers count batches or hold positions; torch says where they meet real numbers.
        if buffer.is_floating_point() or buffer.is_complex() or buffer.is_meta or buffer.is_quantized:
            check_storage(buffer, name)


def as_example(module: nn.Module, example: object, batched: bool) -> Tensor:
    """A copy of the example on the device and in the dtype of the weights, after checking that it can be one."""
    example = _tensor(module, example)
    if example.dtype not in (torch.float32, torch.float64):
        cure = "pass float32 or float64, and import the part of the model behind the embedding or table"
        if example.is_floating_point():
            cure = "pass example.float() (of the example only shape and magnitude matter), and a module in float32 too"
        elif not example.is_complex() and example.dtype != torch.bool:
            cure = f"pass example.float() if the model takes real numbers; else {cure}"
        kind = "half precision" if example.is_floating_point() else "no real numbers"
        raise ShapeError(f"the example is {example.dtype}, {kind}; bounds are for inputs in float32 or float64: {cure}")
    if example.is_meta:
        raise ShapeError(
            "the example is on the meta device and has no values (is torch.set_default_device('meta') in force?); "
            "pass one with device='cpu'"
        )
    if batched and (example.dim() == 0 or example.shape[0] == 0):
        raise ShapeError(
            f"the example has shape {tuple(example.shape)}; pass a batch of points (n, *shape) with n >= 1, "
            "or batched=False for a module that takes one point"
        )
    if example.numel() == 0:
        raise ShapeError(f"the example of shape {tuple(example.shape)} has no entries")
    if not bool(torch.isfinite(example).all()):
        raise ShapeError("the example has a NaN or infinite entry; pass a point that the model is made for")
    weights = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    return example.to(device=weights[0].device, dtype=weights[0].dtype, copy=True) if weights else example.clone()


def _tensor(module: nn.Module, example: object) -> Tensor:
    """The example as a dense tensor."""
    parts = list(example.values()) if isinstance(example, Mapping) else example
    if isinstance(parts, list | tuple) and any(isinstance(part, Tensor) for part in parts):
        shapes = ", ".join(str(tuple(one.shape)) for one in parts if isinstance(one, Tensor))
        raise ShapeError(
            f"the example holds {len(parts)} inputs ({shapes}), and bounds are for one tensor: join them into one "
            f"and split it in a function, from_torch(lambda x: module(x[:, :a], x[:, a:]), torch.cat(example, 1)), or "
            "hold all but one as constants"
        )
    try:
        tensor = example if isinstance(example, Tensor) else torch.as_tensor(example)
    except Exception as error:
        raise ShapeError(
            f"the example of type {type(example).__name__} can not be read as a tensor ({first_line(error)}); pass a "
            "batch of points as a torch.Tensor"
        ) from error
    if tensor.layout != torch.strided:
        raise ShapeError(f"the example is sparse ({tensor.layout}); pass it as .to_dense()")
    return tensor.detach()


def run_once(module: nn.Module, traced: Tensor, batched: bool, part: str | None = None) -> None:
    """Run the module once, so that a wrong example is told apart from what can not be traced.

    Args:
        part: the submodule at which it is cut.

    Raises:
        ShapeError: when it fails.
        InvalidModelError: when the result is no tensor.
    """
    try:
        result = module(traced.clone())  # which it may change
    except InvalidModelError:
        raise
    except Exception as error:
        raise not_taken(module, traced, batched, error) from error
    if not isinstance(result, Tensor):
        several = f"{len(result)} values" if isinstance(result, tuple | list | dict) else "no tensor"
        subject = type(module).__name__ if part is None else repr(part)
        raise InvalidModelError(
            f"{subject} returns {several} ({type(result).__name__}); wrap it in a module that returns the one tensor "
            "to bound"
        )


def refuse_autocast(device: torch.device) -> None:
    """Inside autocast a module is another network, one in half precision.

    Raises:
        UnsafeArithmeticError: says so.
    """
    if torch.is_autocast_enabled(device.type):
        raise UnsafeArithmeticError(
            f"autocast is active for {device.type}: the module would be traced in "
            f"{torch.get_autocast_dtype(device.type)}, which bounds do not cover. Import it outside of torch.autocast"
        )


def not_taken(module: nn.Module, traced: Tensor, batched: bool, error: Exception) -> JacoboundError:
    """The error for a module that fails on its example."""
    if of_hook(error):
        return InvalidModelError(
            f"{type(module).__name__} has a hook that fails{user_line(error)}: {type(error).__name__}: "
            f"{first_line(error)}. Take the hook away for the import (handle.remove())"
        )
    taken, other = f"one point of shape {tuple(traced.shape)}", "if it takes a batch, pass batched=True"
    if batched:
        taken = f"a batch of {len(traced)} points of shape {tuple(traced.shape[1:])}"
        other = "if it takes one point without batch axis, pass batched=False"
    return ShapeError(
        f"{type(module).__name__} does not take {taken}: {first_line(error)}. Pass an example of the right "
        f"shape; {other}"
    )
