"""What a module, an example and a finished graph must pass in `from_torch`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from jacobound.errors import InvalidModelError, ShapeError
from jacobound.graph import Graph
from jacobound.importers.common import check_storage, verify
from jacobound.importers.torch_copy import copied, evaluation, settle_eps
from jacobound.importers.torch_function import FunctionModule
from jacobound.importers.torch_trace import first_line, trace
from jacobound.importers.torch_until import Cut, ended_at, steps_until

POINTS: Final = 5
"""How many points a graph is compared on at once: not the length of the batch that modules are traced with."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The module that a graph is compared with, in the mode that the user left it in.

    Args:
        module: the user's own.
        points: examples (n, *in_shape).
        batched: whether the module takes batches.
        rounded: whether the module in float64 is a slightly different function.
        cut: the call of a submodule at which it ends, or None.
        until: the operation at which it ends, or None.
    """

    module: nn.Module
    points: Tensor
    batched: bool
    rounded: bool
    cut: Cut | None
    until: str | None

    def check(self, graph: Graph) -> None:
        """Compare on random points.

        Raises:
            InvalidModelError: when values differ, or do only in evaluation mode agree.
        """
        try:
            self._check_in_mode(graph)
        except InvalidModelError:
            if not any(layer.training for layer in self.module.modules()):
                raise
            with evaluation(self.module):
                self._check_in_mode(graph)  # raises when the graph itself is wrong
            raise InvalidModelError(
                f"{type(self.module).__name__} is in training mode and gives other values there than in evaluation "
                "mode; call module.eval() first"
            ) from None

    def _check_in_mode(self, graph: Graph) -> None:
        """In float64 where the module can be run in float64."""
        subject = type(self.module).__name__
        own = copied(self.module)
        if own is not None:
            tolerance = 1e-5 if self.rounded else 1e-9
            settle_eps(own, self.points.dtype)
            double = self._runner(own.double(), torch.float64)
            if double is not None:
                with ended_at(own, self.cut):
                    return verify(
                        graph, double, example=self.points, tolerance=tolerance, subject=subject, points=POINTS
                    )
        module = copied(self.module) or self.module
        run = self._runner(module, self.points.dtype)
        with ended_at(module, self.cut):
            verify(
                graph,
                run or self._in_points(module),
                example=self.points,
                tolerance=1e-4,
                subject=subject,
                dtype=self.points.dtype,
                points=POINTS,
            )

    def _runner(self, module: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
        """Runs a module up to the cut on `POINTS` points of a dtype; None when it does not take them."""
        points = self.points[torch.arange(POINTS) % len(self.points)].to(dtype)
        try:
            with torch.no_grad(), ended_at(module, self.cut):
                run = self._in_points(module if self.until is None else self._traced(module, points, self.until))
                return run if run(points).dtype == dtype else None
        except Exception:
            return None

    def _traced(self, module: nn.Module, points: Tensor, until: str) -> Callable[[Tensor], Tensor]:
        return steps_until(trace(module, points if self.batched else points[0]), until)

    def _in_points(self, run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        if self.batched:
            return lambda points: run(points.clone())  # a module may change its argument
        return lambda points: torch.stack([run(point.clone()) for point in points])


def refuse_arguments(module: nn.Module) -> None:
    """A module must be callable with its example alone."""
    called = module.function if isinstance(module, FunctionModule) else module.forward
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return  # a forward without a signature shows when it is called
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    wanted = [one.name for one in parameters if one.default is one.empty and one.kind in kinds]
    if len(wanted) > 1:
        raise InvalidModelError(
            f"{type(module).__name__} takes {len(wanted)} arguments ({', '.join(wanted)}); wrap it in a module that "
            "takes the one tensor to vary and holds the others as constants"
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
        if layer.training and (isinstance(layer, kinds) or statistics):
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


def as_example(module: nn.Module, example: Tensor, batched: bool) -> Tensor:
    """The example on the device and in the dtype of the weights, after checking that it can be one."""
    example = torch.as_tensor(example).detach()
    if example.dtype not in (torch.float32, torch.float64):
        behind = (
            "" if example.is_floating_point() else ", and import the part of the model behind the embedding or table"
        )
        raise ShapeError(
            f"the example is {example.dtype}; bounds are for inputs of real numbers: pass float32 or float64{behind}"
        )
    if batched and (example.dim() == 0 or example.shape[0] == 0):
        raise ShapeError(
            f"the example has shape {tuple(example.shape)}; pass a batch of points (n, *shape) with n >= 1, "
            "or batched=False for a module that takes one point"
        )
    if example.numel() == 0:
        raise ShapeError(f"the example of shape {tuple(example.shape)} has no entries")
    weights = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    return example.to(device=weights[0].device, dtype=weights[0].dtype) if weights else example


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


def not_taken(module: nn.Module, traced: Tensor, batched: bool, error: Exception) -> ShapeError:
    """The error for a module that fails on its example."""
    taken, other = f"one point of shape {tuple(traced.shape)}", "if it takes a batch, pass batched=True"
    if batched:
        taken = f"a batch of {len(traced)} points of shape {tuple(traced.shape[1:])}"
        other = "if it takes one point without batch axis, pass batched=False"
    return ShapeError(
        f"{type(module).__name__} does not take {taken}: {first_line(error)}. Pass an example of the right "
        f"shape; {other}"
    )
