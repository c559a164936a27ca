"""`recorded`: the operations of `nn.Sequential` of torch's own layers, whose forward is known; nothing is traced.

torch.export is general, and takes seconds to load and a tenth of a second for every small module. Layers that do what
their class says, one after the other, need neither. What is recorded here is checked like every import, and is the
program that torch.export finds, name by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.fx import Node as Step
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from jacobound.importers.torch.tracing.program import Program

ATEN: Final = torch.ops.aten

Operation = tuple[Any, tuple[Any, ...], dict[str, Any]]
"""An operation of ATEN, its arguments behind the first, and those by keyword."""

Says = Callable[[Any], Operation | None]
"""What a layer does to its argument; None where it is left to the tracer."""


def recorded(module: nn.Module, traced: Tensor) -> Program | None:
    """The operations of a sequence of layers in evaluation mode; None for every other module.

    Args:
        module: in evaluation mode.
        traced: the example that it is recorded with, which gives every result its shape and dtype.
    """
    if not is_sequence(module) or _is_watched():
        return None
    recording = _Recording.start(module, traced)
    last = recording.run(module, recording.source, (("", module),))
    if last is None or last is recording.source or not _same(last.meta["val"], module(traced.clone())):
        return None
    recording.graph.output((last,))
    names, values = recording.names, recording.values
    parameters = frozenset(name for name in names.values() if isinstance(values[name], nn.Parameter))
    return Program(recording.graph, names, parameters, values)


def is_sequence(module: nn.Module) -> bool:
    """Whether a module passes its argument through layers of torch, one after the other, and does nothing else."""
    if not isinstance(module, nn.Sequential):
        return False
    return all(_is_plain(layer) and (type(layer) in LAYERS or _is_container(type(layer))) for layer in module.modules())


def _is_container(kind: type[nn.Module]) -> bool:
    """Sequential, or a class of one's own that leaves its way of working alone."""
    if not issubclass(kind, nn.Sequential):
        return False
    ways = ("forward", "__call__", "__iter__", "__getattr__", "__getattribute__", "_call_impl", "_wrapped_call_impl")
    return all(getattr(kind, way) is getattr(nn.Sequential, way) for way in ways)


def _is_plain(layer: nn.Module) -> bool:
    """Whether nothing stands between a layer's class and what it does: hooks, a forward or tensors of its own."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    held = [one for one in (*layer._parameters.values(), *layer._buffers.values()) if one is not None]
    return (
        not any(hooks)
        and "forward" not in vars(layer)
        and layer._compiled_call_impl is None
        and all(type(one) in (Tensor, nn.Parameter) for one in held)
    )


def _is_watched() -> bool:
    """Whether operations of torch mean something else at the moment: hooks of all modules, modes."""
    modes = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    return bool(modes or torch._C._len_torch_dispatch_stack() or nn.modules.module._has_any_global_hook())


def _same(found: object, expected: object) -> bool:
    if not (isinstance(found, Tensor) and isinstance(expected, Tensor)):
        return False
    return found.dtype == expected.dtype and torch.equal(found, expected)


@dataclass(frozen=True, eq=False)
class _Recording:
    """A graph of operations that grows layer by layer.

    Args:
        graph, source: so far, and the step of the input.
        steps: of tensors that layers hold, by name.
        names, values: as `Program` has them.
        known: name of a tensor by identity; one that several layers share has that of the first.
        paths: names of the layers; one that stands in several places has that of the first.
    """

    graph: torch.fx.Graph
    source: Step
    steps: dict[str, Step] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    known: dict[int, str] = field(default_factory=dict)
    paths: dict[nn.Module, str] = field(default_factory=dict)

    @staticmethod
    def start(module: nn.Module, traced: Tensor) -> _Recording:
        """With a placeholder for the input and for every tensor of the module, in its order."""
        graph = torch.fx.Graph()
        source = graph.placeholder("input")
        source.meta["val"] = traced
        recording = _Recording(graph, source, paths={layer: name for name, layer in module.named_modules()})
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            step = graph.placeholder(f"held_{len(recording.names)}")
            step.meta["val"] = value
            recording.steps[name], recording.names[step.name] = step, name
            recording.values[name], recording.known[id(value)] = value, name
        return recording

    def run(self, layer: nn.Module, given: Step, stack: tuple[tuple[str, nn.Module], ...]) -> Step | None:
        """The step of a layer's result; None where the layer is none of those that are known."""
        if isinstance(layer, nn.Sequential):
            for child in layer._modules.values():
                found = None if child is None else self.run(child, given, (*stack, (self.paths[child], child)))
                if found is None:
                    return None
                given = found
            return given
        said = LAYERS[type(layer)](layer)
        if said is None:
            return None
        target, rest, named = said
        if target is None:
            return given
        rest = _without_defaults(target, rest)
        if any(isinstance(one, Tensor) and id(one) not in self.known for one in rest):
            return None
        step = self.graph.call_function(target, (given, *map(self._held, rest)), named)
        step.meta["val"] = target(given.meta["val"], *rest, **named)
        step.meta["nn_module_stack"] = {
            str(k): (path, f"{type(one).__module__}.{type(one).__qualname__}") for k, (path, one) in enumerate(stack)
        }
        return step

    def _held(self, value: Any) -> Any:
        return self.steps[self.known[id(value)]] if isinstance(value, Tensor) else value


def _without_defaults(operation: Any, rest: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments behind the first up to the last one that is not what the operation takes by itself."""
    given = list(zip(operation._schema.arguments[1:], rest, strict=False))
    while given and given[-1][0].has_default_value() and _equal(given[-1][1], given[-1][0].default_value):
        given.pop()
    return tuple(value for _, value in given)


def _equal(value: Any, default: Any) -> bool:
    if isinstance(default, list) and default:
        value = [value] * len(default) if isinstance(value, int) else list(value)
    return not isinstance(value, Tensor) and value == default


def _says(operation: Any, *attributes: str) -> Says:
    """An operation whose further arguments are attributes of the layer."""
    return lambda layer: (operation, tuple(getattr(layer, name) for name in attributes), {})


def _nothing(layer: Any) -> Operation:
    """What passes its argument on, dropout in evaluation mode included."""
    return None, (), {}


def _convolution(operations: Any) -> Says:
    def says(layer: Any) -> Operation | None:
        if layer.padding_mode != "zeros":
            return None
        by_name = isinstance(layer.padding, str)
        rest = (layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)
        return (operations.padding if by_name else operations.default), rest, {}

    return says


def _transposed(operation: Any) -> Says:
    def says(layer: Any) -> Operation | None:
        rest = (layer.weight, layer.bias, layer.stride, layer.padding, layer.output_padding)
        return operation, (*rest, layer.groups, layer.dilation), {}

    return says


def _pool(operation: Any, *attributes: str) -> Says:
    """Pools whose options have a number for every axis, or one for all of them."""

    def says(layer: Any) -> Operation | None:
        return None if getattr(layer, "return_indices", False) else _says(operation, *attributes)(layer)

    return says


def _adaptive(operation: Any, axes: int) -> Says:
    def says(layer: Any) -> Operation | None:
        size = layer.output_size
        sizes = (size,) * axes if isinstance(size, int) else tuple(size)
        return (operation, (list(sizes),), {}) if all(isinstance(one, int) for one in sizes) else None

    return says


def _batch_norm(layer: Any) -> Operation | None:
    if layer.running_mean is None or layer.running_var is None:
        return None  # it normalises by the statistics of the batch
    rest = (layer.weight, layer.bias, layer.running_mean, layer.running_var, False, 0.0, layer.eps, False)
    return ATEN.batch_norm.default, rest, {}


def _softmax(operation: Any) -> Says:
    return lambda layer: None if layer.dim is None else (operation, (layer.dim,), {})


def _gelu(layer: Any) -> Operation:
    return ATEN.gelu.default, (), {} if layer.approximate == "none" else {"approximate": layer.approximate}


LAYERS: Final[Mapping[type[nn.Module], Says]] = MappingProxyType(
    {
        nn.Linear: _says(ATEN.linear.default, "weight", "bias"),
        nn.Conv1d: _convolution(ATEN.conv1d),
        nn.Conv2d: _convolution(ATEN.conv2d),
        nn.Conv3d: _convolution(ATEN.conv3d),
        nn.ConvTranspose1d: _transposed(ATEN.conv_transpose1d.default),
        nn.ConvTranspose2d: _transposed(ATEN.conv_transpose2d.input),
        nn.ConvTranspose3d: _transposed(ATEN.conv_transpose3d.input),
        nn.MaxPool1d: _pool(ATEN.max_pool1d.default, "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
        nn.MaxPool2d: _pool(ATEN.max_pool2d.default, "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
        nn.MaxPool3d: _pool(ATEN.max_pool3d.default, "kernel_size", "stride", "padding", "dilation", "ceil_mode"),
        nn.AvgPool1d: _pool(
            ATEN.avg_pool1d.default, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"
        ),
        **{
            kind: _pool(
                operation, "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"
            )
            for kind, operation in ((nn.AvgPool2d, ATEN.avg_pool2d.default), (nn.AvgPool3d, ATEN.avg_pool3d.default))
        },
        nn.AdaptiveAvgPool1d: _adaptive(ATEN.adaptive_avg_pool1d.default, 1),
        nn.AdaptiveAvgPool2d: _adaptive(ATEN.adaptive_avg_pool2d.default, 2),
        nn.AdaptiveAvgPool3d: _adaptive(ATEN.adaptive_avg_pool3d.default, 3),
        **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
        nn.LayerNorm: _says(ATEN.layer_norm.default, "normalized_shape", "weight", "bias", "eps"),
        nn.GroupNorm: _says(ATEN.group_norm.default, "num_groups", "weight", "bias", "eps"),
        nn.Flatten: _says(ATEN.flatten.using_ints, "start_dim", "end_dim"),
        **dict.fromkeys((nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), _nothing),
        nn.Softmax: _softmax(ATEN.softmax.int),
        nn.LogSoftmax: _softmax(ATEN.log_softmax.int),
        nn.ReLU: _says(ATEN.relu.default),
        nn.ReLU6: _says(ATEN.hardtanh.default, "min_val", "max_val"),
        nn.Hardtanh: _says(ATEN.hardtanh.default, "min_val", "max_val"),
        nn.Hardsigmoid: _says(ATEN.hardsigmoid.default),
        nn.Hardswish: _says(ATEN.hardswish.default),
        nn.LeakyReLU: _says(ATEN.leaky_relu.default, "negative_slope"),
        nn.PReLU: _says(ATEN.prelu.default, "weight"),
        nn.ELU: _says(ATEN.elu.default, "alpha"),
        nn.CELU: _says(ATEN.celu.default, "alpha"),
        nn.SELU: _says(ATEN.selu.default),
        nn.GELU: _gelu,
        nn.SiLU: _says(ATEN.silu.default),
        nn.Mish: _says(ATEN.mish.default),
        nn.Sigmoid: _says(ATEN.sigmoid.default),
        nn.LogSigmoid: _says(ATEN.log_sigmoid.default),
        nn.Tanh: _says(ATEN.tanh.default),
        nn.Softplus: _says(ATEN.softplus.default, "beta", "threshold"),
    }
)
"""Layers of torch.nn that are one operation in evaluation mode, by their exact class."""
