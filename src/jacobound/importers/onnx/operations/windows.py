"""ONNX operations that slide a window over an image: convolutions and pooling, over one to three axes."""

from __future__ import annotations

from jacobound.errors import UnsupportedOpError
from jacobound.importers.onnx.model.safety import LARGEST_RESULT, LARGEST_WINDOWS, check_size
from jacobound.importers.onnx.operations.call import Call, Traced, Value

LARGEST_COMPARED = 2**25  # entries of all windows of a maximum together
PADDINGS = ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
Pads = list[tuple[int, int]]


def _steps_of(call: Call, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations, one for each spatial axis."""
    ones = tuple(1 for _ in size)
    stride, dilation = call.integers("strides", ones), call.integers("dilations", ones)
    if len(kernel) != len(size):
        raise UnsupportedOpError(f"Its kernel {kernel} does not fit {len(size)} spatial axes.")
    if min(*stride, *dilation, *kernel) < 1:
        raise UnsupportedOpError(f"strides {stride}, dilations {dilation} and the kernel {kernel} must be positive.")
    return stride, dilation


def _given_pads(call: Call, count: int) -> Pads:
    """The attribute pads as pairs."""
    given = call.integers("pads", (0,) * (2 * count))
    if min(given) < 0:
        raise UnsupportedOpError(f"pads {given} must not be negative.")
    automatic = call.text("auto_pad", PADDINGS)
    if automatic != "NOTSET" and any(given):
        raise UnsupportedOpError(f"It has both auto_pad='{automatic}' and pads={given}.")
    return list(zip(given[:count], given[count:], strict=True))


def _window(
    call: Call, size: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
    """Strides, dilations, and pads in front and behind of a convolution or a pooling, per spatial axis."""
    stride, dilation = _steps_of(call, size, kernel)
    pads, automatic = _given_pads(call, len(size)), call.text("auto_pad", PADDINGS)
    if automatic.startswith("SAME"):
        spans = zip(size, kernel, stride, dilation, strict=True)
        totals = [max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0) for n, k, s, d in spans]
        pads = [_halves(total, automatic == "SAME_UPPER") for total in totals]
    padded = tuple(n + before + after for n, (before, after) in zip(size, pads, strict=True))
    check_size((call.traced().shape[1], *padded), f"the padded input of '{call.name}'", LARGEST_RESULT)
    return stride, dilation, pads


def _halves(total: int, more_behind: bool) -> tuple[int, int]:
    less, more = total // 2, total - total // 2
    return (less, more) if more_behind else (more, less)


def _image(call: Call) -> Traced:
    """The first input as a batch of one image with one to three spatial axes."""
    value = call.traced()
    if len(value.shape) not in (3, 4, 5) or value.shape[0] != 1:
        raise UnsupportedOpError(
            f"Its input has shape {value.shape}; one image (1, channels, *size) with one to three spatial axes is "
            "understood: export the network for a batch of one, or with a dynamic batch axis."
        )
    return value


def convolution(call: Call) -> tuple[Value, ...]:
    value, weight, bias = _image(call), call.needed(1), call.weight(2)
    kernel = tuple(weight.shape[2:])
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise UnsupportedOpError(f"Its bias has shape {tuple(bias.shape)}; {(weight.shape[0],)} fits.")
    _check_kernel(call, kernel)
    stride, dilation, pads = _window(call, value.shape[2:], kernel)
    check_size((*call.shape, *kernel), f"the windows of '{call.name}' together", LARGEST_WINDOWS)
    return call.result(
        call.steps.convolution(
            value.node, weight, bias, call.name, stride=stride, pads=pads, dilation=dilation, groups=_groups(call)
        )
    )


def transposed_convolution(call: Call) -> tuple[Value, ...]:
    """pads crop the full result; output_shape says what is left of it instead."""
    value, weight, bias = _image(call), call.needed(1), call.weight(2)
    size, kernel, groups = value.shape[2:], tuple(weight.shape[2:]), _groups(call)
    if bias is not None and tuple(bias.shape) != (weight.shape[1] * groups,):
        raise UnsupportedOpError(f"Its bias has shape {tuple(bias.shape)}; {(weight.shape[1] * groups,)} fits.")
    _check_kernel(call, kernel)
    stride, dilation = _steps_of(call, size, kernel)
    added = call.integers("output_padding", tuple(0 for _ in size))
    if min(added) < 0:
        raise UnsupportedOpError(f"output_padding {added} must not be negative.")
    pads, automatic = _given_pads(call, len(size)), call.text("auto_pad", PADDINGS)
    wanted = _wanted(call, len(size))
    if automatic.startswith("SAME") and wanted is None:
        wanted = tuple(n * s for n, s in zip(size, stride, strict=True))
    if wanted is not None:
        spans = zip(size, kernel, stride, dilation, added, wanted, strict=True)
        totals = [s * (n - 1) + more + (k - 1) * d + 1 - length for n, k, s, d, more, length in spans]
        if min(totals) < 0:
            raise UnsupportedOpError(f"Its output_shape {wanted} is larger than what its kernel reaches.")
        pads = [_halves(total, automatic == "SAME_UPPER") for total in totals]
    check_size((weight.shape[1] * groups, *call.shape[2:]), f"the result of '{call.name}'", LARGEST_RESULT)
    check_size((weight.shape[1] * groups, *size, *kernel), f"the windows of '{call.name}' together", LARGEST_WINDOWS)
    return call.result(
        call.steps.transposed_convolution(
            value.node,
            weight,
            bias,
            call.name,
            stride=stride,
            pads=pads,
            dilation=dilation,
            groups=groups,
            output_padding=added,
        )
    )


def _wanted(call: Call, count: int) -> tuple[int, ...] | None:
    """The attribute output_shape, for the spatial axes."""
    given = call.attributes.get("output_shape")
    if given is None:
        return None
    found = tuple(int(length) for length in given)  # type: ignore[attr-defined]
    if len(found) not in (count, count + 2):
        raise UnsupportedOpError(f"Its output_shape {found} does not fit {count} spatial axes.")
    return found[-count:]


def _check_kernel(call: Call, kernel: tuple[int, ...]) -> None:
    if call.integers("kernel_shape", kernel) != kernel:
        raise UnsupportedOpError(f"kernel_shape is not the shape {kernel} of its weight.")


def _groups(call: Call) -> int:
    groups = int(call.number("group", 1))
    if groups < 1:
        raise UnsupportedOpError(f"group={groups} must be positive.")
    return groups


def average_pool(call: Call) -> tuple[Value, ...]:
    value, kernel, stride, dilation, pads = _pooling(call)
    check_size((*call.shape, *kernel), f"the windows of '{call.name}' together", LARGEST_WINDOWS)
    return call.result(
        call.steps.average_pool(
            value.node,
            kernel,
            stride,
            pads,
            call.name,
            dilation=dilation,
            ceil_mode=call.flag("ceil_mode"),
            count_padding=call.flag("count_include_pad"),
        )
    )


def max_pool(call: Call) -> tuple[Value, ...]:
    if len([name for name in call.proto.output if name]) > 1:
        raise UnsupportedOpError("Its second result, the places of the largest entries, is not a continuous function.")
    if call.flag("storage_order"):
        raise UnsupportedOpError("storage_order=1 (column by column) is not understood.")
    value, kernel, stride, dilation, pads = _pooling(call)
    check_size((*call.shape, *kernel), f"the windows of '{call.name}' together", LARGEST_COMPARED)
    return call.result(
        call.steps.max_pool(
            value.node, kernel, stride, pads, call.name, dilation=dilation, ceil_mode=call.flag("ceil_mode")
        )
    )


def _pooling(call: Call) -> tuple[Traced, tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads]:
    """The image, kernel, strides, dilations and pads of a pooling."""
    value, size = _image(call), call.traced().shape[2:]
    kernel = call.integers("kernel_shape", tuple(0 for _ in size))
    stride, dilation, pads = _window(call, size, kernel)
    check_size((value.shape[1], *kernel), f"the window of '{call.name}'", LARGEST_RESULT)
    return value, kernel, stride, dilation, pads
