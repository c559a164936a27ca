"""Layers that look at windows in traced modules: convolutions, pools, and normalisation by stored statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.torch.operations.call import POSITIONS, TRAINING, TRAINING_ONLY, Call, Value


def convolution(call: Call) -> Node:
    """conv1d to conv3d and the general form, with numbers or "same" / "valid" for the padding."""
    if call.op == "aten.convolution.default":
        stride, padding, dilation, transposed, extra, groups = call.args[3:9]
        if transposed:
            return _transposed(call, stride, padding, extra, groups, dilation)
    else:
        stride, padding = call.argument(3, "stride", 1), call.argument(4, "padding", 0)
        dilation, groups = call.argument(5, "dilation", 1), call.argument(6, "groups", 1)
    weight, bias = call.weight(call.args[1]), call.optional(call.argument(2, "bias"), "bias")
    count = weight.dim() - 2
    stride, dilation = per_axis(stride, count), per_axis(dilation, count)
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(span // 2, span - span // 2) for span in spans]
    else:
        pads = _both_sides(0 if padding == "valid" else padding, count)
    return on_image(
        call,
        count,
        lambda image: call.steps.convolution(
            image, weight, bias, call.name, stride=stride, pads=pads, dilation=dilation, groups=groups
        ),
    )


def transposed_convolution(call: Call) -> Node:
    return _transposed(
        call,
        call.argument(3, "stride", 1),
        call.argument(4, "padding", 0),
        call.argument(5, "output_padding", 0),
        call.argument(6, "groups", 1),
        call.argument(7, "dilation", 1),
    )


def _transposed(call: Call, stride: Value, padding: Value, extra: Value, groups: int, dilation: Value) -> Node:
    weight, bias = call.weight(call.args[1]), call.optional(call.argument(2, "bias"), "bias")
    count = weight.dim() - 2
    return on_image(
        call,
        count,
        lambda image: call.steps.transposed_convolution(
            image,
            weight,
            bias,
            call.name,
            stride=per_axis(stride, count),
            pads=_both_sides(padding, count),
            dilation=per_axis(dilation, count),
            groups=groups,
            output_padding=per_axis(extra, count),
        ),
    )


def batch_norm(call: Call) -> Value:
    """Normalisation by stored statistics; by those of the batch it would tie points together."""
    if call.op.endswith("no_stats"):
        raise UnsupportedOpError("It has no running statistics, so it normalises by those of the batch.")
    inference = call.op == "aten._native_batch_norm_legit_no_training.default"
    if not inference and call.argument(5, "training", False):
        raise InvalidModelError(f"'{call.name}' normalises by the statistics of the batch: {TRAINING}")
    node = _normalised(call, call.args[6] if inference else call.args[7])
    return node if call.op == "aten.batch_norm.default" else [node, TRAINING_ONLY, TRAINING_ONLY]


def instance_norm(call: Call) -> Node:
    """Instance normalisation: as batch normalisation with stored statistics, else each channel a group of its own."""
    if call.argument(5, "use_input_stats", True):
        gamma, beta = call.optional(call.args[1], "weight"), call.optional(call.args[2], "bias")
        return on_image(
            call,
            len(call.args[0].shape) - 2 + call.front,
            lambda image: call.steps.group_norm(image, image.shape[0], gamma, beta, call.args[7], call.name),
        )
    return _normalised(call, call.args[7])


def _normalised(call: Call, eps: float) -> Node:
    gamma, beta = call.optional(call.args[1], "weight"), call.optional(call.args[2], "bias")
    mean, variance = call.weight(call.args[3], "running_mean"), call.weight(call.args[4], "running_var")
    return on_image(
        call,
        len(call.args[0].shape) - 2 + call.front,
        lambda image: call.steps.batch_norm(image, mean, variance, gamma, beta, eps, call.name),
    )


def average_pool(call: Call) -> Node:
    count = axes_of(call)
    kernel = per_axis(call.args[1], count)
    stride = per_axis(call.argument(2, "stride") or kernel, count)
    pads = _both_sides(call.argument(3, "padding", 0), count)
    return on_image(
        call,
        count,
        lambda image: call.steps.average_pool(
            image,
            kernel,
            stride,
            pads,
            call.name,
            ceil_mode=call.argument(4, "ceil_mode", False),
            count_padding=call.argument(5, "count_include_pad", True),
            divisor=call.argument(6, "divisor_override"),
        ),
    )


def max_pool(call: Call) -> Value:
    """max_pool1d to max_pool3d; the positions of the maxima, where they are returned too, are refused when used."""
    count = axes_of(call)
    kernel = per_axis(call.args[1], count)
    stride = per_axis(call.argument(2, "stride") or kernel, count)
    pads = _both_sides(call.argument(3, "padding", 0), count)
    dilation = per_axis(call.argument(4, "dilation", 1), count)
    ceil = call.argument(5, "ceil_mode", False)
    node = on_image(
        call,
        count,
        lambda image: call.steps.max_pool(image, kernel, stride, pads, call.name, dilation=dilation, ceil_mode=ceil),
    )
    return [node, POSITIONS] if "indices" in call.op else node


def adaptive_average_pool(call: Call) -> Node:
    count = axes_of(call)
    return on_image(
        call, count, lambda image: call.steps.adaptive_average_pool(image, per_axis(call.args[1], count), call.name)
    )


def adaptive_max_pool(call: Call) -> Value:
    count = axes_of(call)
    node = on_image(
        call, count, lambda image: call.steps.adaptive_max_pool(image, per_axis(call.args[1], count), call.name)
    )
    return [node, POSITIONS]


def axes_of(call: Call) -> int:
    """The number of spatial axes in an operation's name."""
    return next(count for count in (1, 2, 3) if f"{count}d" in call.op)


def on_image(call: Call, count: int, step: Callable[[Node], Node]) -> Node:
    """Run a step on (channels, *size), and undo an axis of length 1 that an unbatched model put in front."""
    node = call.args[0]
    if len(node.shape) == count + 1:
        return step(node)
    if not call.front and len(node.shape) == count + 2 and node.shape[0] == 1:
        return call.steps.reshape(step(call.steps.reshape(node, node.shape[1:], call.name)), call.shape, call.name)
    raise UnsupportedOpError(MIXED if call.front else "Its argument has the wrong number of axes.")


def per_axis(value: int | Sequence[int], count: int) -> list[int]:
    """One number per spatial axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * count if len(numbers) == 1 else numbers


def _both_sides(padding: int | Sequence[int], count: int) -> list[tuple[int, int]]:
    return [(amount, amount) for amount in per_axis(padding, count)]
