"""ONNX operations that slide a window over an image: convolution and average pooling."""

from __future__ import annotations

import torch

from jacobound.errors import UnsupportedOpError
from jacobound.importers.onnx_call import Call, Traced, Value
from jacobound.importers.onnx_safety import LARGEST_RESULT, check_size


def _window(
    call: Call, size: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """Strides, dilations and zeros in front and behind of a convolution or a pooling, per spatial axis."""
    ones = tuple(1 for _ in size)
    stride, dilation = call.integers("strides", ones), call.integers("dilations", ones)
    given = call.integers("pads", tuple(0 for _ in (*size, *size)))
    automatic = call.text("auto_pad", ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"))
    if min(*stride, *dilation, *kernel) < 1 or min(given) < 0:
        raise UnsupportedOpError(
            f"strides {stride}, dilations {dilation} and the kernel {kernel} must be positive, pads {given} not."
        )
    if automatic != "NOTSET" and any(given):
        raise UnsupportedOpError(f"It has both auto_pad='{automatic}' and pads={given}.")
    pads = list(zip(given[: len(size)], given[len(size) :], strict=True))
    if automatic.startswith("SAME"):
        spans = zip(size, kernel, stride, dilation, strict=True)
        totals = [max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) for n, k, s, d in spans]
        halves = [(total // 2, total - total // 2) for total in totals]
        pads = halves if automatic == "SAME_UPPER" else [(more, less) for less, more in halves]
    padded = tuple(n + before + after for n, (before, after) in zip(size, pads, strict=True))
    check_size((call.traced().shape[1], *padded), f"the padded input of '{call.name}'", LARGEST_RESULT)
    return stride, dilation, pads


def _image(call: Call) -> Traced:
    """The first input as a batch of one image with one or two spatial axes."""
    value = call.traced()
    if len(value.shape) not in (3, 4) or value.shape[0] != 1:
        raise UnsupportedOpError(
            f"Its input has shape {value.shape}; (1, channels, length) or (1, channels, height, width) is understood."
        )
    return value


def convolution(call: Call) -> tuple[Value, ...]:
    value, weight, bias = _image(call), call.needed(1), call.weight(2)
    kernel = tuple(weight.shape[2:])
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise UnsupportedOpError(f"Its bias has shape {tuple(bias.shape)}; {(weight.shape[0],)} fits.")
    if call.integers("kernel_shape", kernel) != kernel:
        raise UnsupportedOpError(f"kernel_shape is not the shape {kernel} of its weight.")
    groups = int(call.number("group", 1))
    if groups < 1:
        raise UnsupportedOpError(f"group={groups} must be positive.")
    stride, dilation, pads = _window(call, value.shape[2:], kernel)
    return call.result(
        call.steps.convolution(
            value.node,
            weight,
            bias,
            call.name,
            stride=stride,
            pads=pads,
            dilation=dilation,
            groups=groups,
        )
    )


def average_pool(call: Call) -> tuple[Value, ...]:
    """Sums over windows by a depthwise convolution with ones, divided by how many entries each window counts."""
    value, size = _image(call), call.traced().shape[2:]
    kernel = call.integers("kernel_shape", tuple(0 for _ in size))
    stride, dilation, pads = _window(call, size, kernel)
    check_size((value.shape[1], *kernel), f"the window of '{call.name}'", LARGEST_RESULT)
    lengths, padded = call.shape[2:], call.flag("count_include_pad")
    axes = list(zip(size, kernel, stride, dilation, pads, lengths, strict=True))
    # A last window that sticks out (ceil_mode) needs further zeros behind; they are never counted.
    reach = [(p[0], max(p[1], (length - 1) * s + d * (k - 1) + 1 - n - p[0])) for n, k, s, d, p, length in axes]
    counts = torch.ones((), dtype=torch.float64)
    for n, k, s, d, (before, after), length in axes:
        taps = torch.arange(length).unsqueeze(1) * s + torch.arange(k) * d - before
        inside = (taps < n + after) if padded else (taps >= 0) & (taps < n)
        counts = counts.unsqueeze(-1) * inside.sum(1)
    if not bool((counts > 0).all()):
        raise UnsupportedOpError("A window lies entirely in the padding, so that its mean is not defined.")
    total = call.steps.convolution(
        value.node,
        torch.ones(value.shape[1], 1, *kernel, dtype=torch.float64),
        None,
        f"{call.name}.sum",
        stride=stride,
        pads=reach,
        dilation=dilation,
        groups=value.shape[1],
    )
    return call.result(call.steps.divide(total, counts.broadcast_to(total.shape), call.name))
