"""What each ATen operation that is affine becomes: one short rule per operation, and the table of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph import Node
from jacobound.importers.steps import MIXED
from jacobound.importers.torch_call import PRODUCT, Call, Rule, Value, is_node
from jacobound.importers.torch_movement import index, like, move, pad, put, resize, take, where

DIVISION: Final = "It divides by a value that depends on the input."
TRAINING: Final = "it behaves as in training; call module.eval() first"


def add(call: Call) -> Node:
    """``a + alpha b``; `sub` and `rsub` are the same with other signs."""
    alpha = call.argument(2, "alpha", 1)
    left, right = call.args[0], call.args[1]
    signs = {"aten.sub": (1, -alpha), "aten.rsub": (-alpha, 1)}.get(call.op.rpartition(".")[0], (1, alpha))
    terms, bias = [], None
    for sign, value in zip(signs, (left, right), strict=True):
        if is_node(value):
            terms.append((torch.tensor(float(sign), dtype=call.result.dtype).item(), call.node(value)))
        else:
            bias = call.operand(value) if sign == 1 else call.operand(value * sign)
    return call.steps.add(terms, bias, call.name)


def negate(call: Call) -> Node:
    return call.steps.add([(-1.0, call.args[0])], None, call.name)


def multiply(call: Call) -> Node:
    left, right = call.args[0], call.args[1]
    if is_node(left) and is_node(right):
        raise UnsupportedOpError(PRODUCT)
    node, factor = (left, right) if is_node(left) else (right, left)
    return call.steps.scale(call.node(node), call.operand(factor), call.name)


def divide(call: Call) -> Node:
    if is_node(call.args[1]):
        raise UnsupportedOpError(DIVISION)
    return call.steps.divide(call.node(call.args[0]), call.operand(call.args[1]), call.name)


def linear(call: Call) -> Node:
    if is_node(call.argument(2, "bias")):
        raise UnsupportedOpError("Its bias depends on the input.")
    weight = call.weight(call.args[1])
    _keep_batch(call, call.args[0], 1)
    bias = call.argument(2, "bias")
    return call.steps.dense(call.args[0], weight, None if bias is None else call.operand(bias), call.name)


def matmul(call: Call) -> Node:
    """A product with a constant matrix or vector on either side."""
    left, right = call.args[0], call.args[1]
    if is_node(left):
        weight = call.weight(right)
        if weight.dim() == 1:
            _keep_batch(call, left, 1)
            return call.steps.reshape(call.steps.dense(left, weight[None], None, call.name), call.shape, call.name)
        if weight.dim() == 2:
            _keep_batch(call, left, 1)
            return call.steps.dense(left, weight.T.contiguous(), None, call.name)
    else:
        weight = call.weight(left)
        if weight.dim() <= 2:
            _keep_batch(call, right, 2)
            turned = call.steps.move(right, lambda x: x.transpose(-1, -2), f"{call.name}.turn")
            rows = weight if weight.dim() == 2 else weight[None]
            product = call.steps.dense(turned, rows, None, f"{call.name}.product")
            if weight.dim() == 1:
                return call.steps.reshape(product, call.shape, call.name)
            return call.steps.move(product, lambda x: x.transpose(-1, -2), call.name)
    raise UnsupportedOpError("Products with a constant of more than two axes are not understood.")


def addmm(call: Call) -> Node:
    if call.kwargs.get("beta", 1) != 1 or call.kwargs.get("alpha", 1) != 1 or not is_node(call.args[1]):
        raise UnsupportedOpError("Only bias + x @ W, with constant bias and W, is understood.")
    if is_node(call.args[0]):
        raise UnsupportedOpError("Its bias depends on the input.")
    weight = call.weight(call.args[2])
    _keep_batch(call, call.args[1], 1)
    return call.steps.dense(call.args[1], weight.T.contiguous(), call.operand(call.args[0]), call.name)


def convolution(call: Call) -> Node:
    """conv1d, conv2d and the general form, with numbers or "same" / "valid" for the padding."""
    if call.op == "aten.convolution.default":
        stride, padding, dilation, transposed, _, groups = call.args[3:9]
        if transposed:
            raise UnsupportedOpError("Transposed convolution is not understood yet.")
    else:
        stride, padding = call.argument(3, "stride", 1), call.argument(4, "padding", 0)
        dilation, groups = call.argument(5, "dilation", 1), call.argument(6, "groups", 1)
    weight, bias = call.weight(call.args[1]), call.optional(call.argument(2, "bias"), "bias")
    count = weight.dim() - 2
    if count > 2:
        raise UnsupportedOpError("Convolutions over one or two axes are understood.")
    stride, dilation = _per_axis(stride, count), _per_axis(dilation, count)
    if padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        pads = [(span // 2, span - span // 2) for span in spans]
    else:
        pads = [(p, p) for p in _per_axis(0 if padding == "valid" else padding, count)]
    return _on_image(
        call,
        count,
        lambda image: call.steps.convolution(
            image, weight, bias, call.name, stride=stride, pads=pads, dilation=dilation, groups=groups
        ),
    )


def batch_norm(call: Call) -> Value:
    """Normalisation by stored statistics; by those of the batch it would tie points together."""
    if call.op.endswith("no_stats"):
        raise UnsupportedOpError("It has no running statistics, so it normalises by those of the batch.")
    inference = call.op == "aten._native_batch_norm_legit_no_training.default"
    if not inference and call.argument(5, "training", False):
        raise InvalidModelError(f"'{call.name}' normalises by the statistics of the batch: {TRAINING}")
    eps = call.args[6] if inference else call.args[7]
    gamma, beta = call.optional(call.args[1], "weight"), call.optional(call.args[2], "bias")
    mean, variance = call.weight(call.args[3], "running_mean"), call.weight(call.args[4], "running_var")
    source = call.args[0]
    count = len(source.shape) - 2 + call.front
    node = _on_image(
        call, count, lambda image: call.steps.batch_norm(image, mean, variance, gamma, beta, eps, call.name)
    )
    return node if call.op == "aten.batch_norm.default" else [node, None, None]


def average_pool(call: Call) -> Node:
    count = 1 if "1d" in call.op else 2
    kernel = _per_axis(call.args[1], count)
    stride = _per_axis(call.argument(2, "stride") or kernel, count)
    padding = _per_axis(call.argument(3, "padding", 0), count)
    return _on_image(
        call,
        count,
        lambda image: call.steps.average_pool(
            image,
            kernel,
            stride,
            padding,
            call.name,
            ceil_mode=call.argument(4, "ceil_mode", False),
            count_padding=call.argument(5, "count_include_pad", True),
            divisor=call.argument(6, "divisor_override"),
        ),
    )


def adaptive_average_pool(call: Call) -> Node:
    count = 1 if "1d" in call.op else 2
    size, wanted = call.args[0].shape[-count:], _per_axis(call.args[1], count)
    if any(n % m for n, m in zip(size, wanted, strict=True)):
        raise UnsupportedOpError(f"Only output sizes that divide the input's {tuple(size)} are understood.")
    kernel = [n // m for n, m in zip(size, wanted, strict=True)]
    return _on_image(call, count, lambda image: call.steps.average_pool(image, kernel, kernel, [0] * count, call.name))


def reduce(call: Call) -> Node:
    """Sum or mean over axes that are not the batch axis."""
    node = call.args[0]
    axes = len(node.shape) + call.front
    dims = call.argument(1, "dim")
    dims = [dims] if isinstance(dims, int) else dims
    over = [call.axis(dim, axes) for dim in (dims or range(axes))]
    keep = bool(call.argument(2, "keepdim", False))
    step = call.steps.mean if ".mean." in call.op else call.steps.sum
    return step(node, over, keep, call.name)


def keep(call: Call) -> Node:
    """clone, detach, dropout outside training: the value itself."""
    if "dropout" in call.op and call.argument(2, "train", True):
        raise InvalidModelError(f"'{call.name}' drops entries at random: {TRAINING}")
    return call.args[0]


def cast(call: Call) -> Node:
    """A change of dtype is nothing for real numbers, as long as the model goes on in float32 or float64."""
    if call.result.dtype not in (torch.float32, torch.float64):
        raise UnsupportedOpError(f"It rounds its input to {call.result.dtype}.")
    return call.args[0]


def _keep_batch(call: Call, node: Node, axes: int) -> None:
    """Refuse a product over `axes` trailing axes that would reach the batch axis."""
    if len(node.shape) < axes:
        raise UnsupportedOpError(MIXED if call.front else "Its argument has too few axes.")


def _on_image(call: Call, count: int, step: Callable[[Node], Node]) -> Node:
    """Run a step on (channels, *size), and undo an axis of length 1 that an unbatched model put in front."""
    node = call.args[0]
    if len(node.shape) == count + 1:
        return step(node)
    if not call.front and len(node.shape) == count + 2 and node.shape[0] == 1:
        return call.steps.reshape(step(call.steps.reshape(node, node.shape[1:], call.name)), call.shape, call.name)
    raise UnsupportedOpError(MIXED if call.front else "Its argument has the wrong number of axes.")


def _per_axis(value: int | Sequence[int], count: int) -> list[int]:
    """One number per spatial axis."""
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * count if len(numbers) == 1 else numbers


def _table() -> Mapping[str, Rule]:
    rules: dict[str, Rule] = {}

    def enter(rule: Rule, names: str) -> None:
        rules.update({f"aten.{name}": rule for name in names.split()})

    enter(add, "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar")
    enter(negate, "neg.default negative.default")
    enter(multiply, "mul.Tensor mul.Scalar multiply.Tensor multiply.Scalar")
    enter(divide, "div.Tensor div.Scalar divide.Tensor divide.Scalar true_divide.Tensor true_divide.Scalar")
    enter(linear, "linear.default")
    enter(matmul, "matmul.default mm.default mv.default")
    enter(addmm, "addmm.default")
    enter(convolution, "conv1d.default conv1d.padding conv2d.default conv2d.padding convolution.default")
    enter(
        batch_norm,
        "batch_norm.default native_batch_norm.default _native_batch_norm_legit.default "
        "_native_batch_norm_legit.no_stats _native_batch_norm_legit_no_training.default "
        "_native_batch_norm_legit_functional.default",
    )
    enter(average_pool, "avg_pool1d.default avg_pool2d.default")
    enter(adaptive_average_pool, "adaptive_avg_pool1d.default adaptive_avg_pool2d.default _adaptive_avg_pool2d.default")
    enter(reduce, "mean.default mean.dim sum.default sum.dim_IntList")
    enter(
        keep,
        "clone.default contiguous.default detach.default alias.default lift_fresh_copy.default fill.Tensor "
        "dropout.default feature_dropout.default alpha_dropout.default feature_alpha_dropout.default",
    )
    enter(cast, "_to_copy.default to.dtype to.dtype_layout to.device to.other type_as.default")
    enter(
        like,
        "zeros_like.default ones_like.default full_like.default new_zeros.default new_ones.default "
        "new_full.default fill.Scalar",
    )
    enter(pad, "constant_pad_nd.default pad.default")
    enter(resize, "upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest2d.default upsample_nearest2d.vec")
    enter(
        move,
        "view.default reshape.default _unsafe_view.default flatten.using_ints unflatten.int ravel.default "
        "permute.default transpose.int t.default numpy_T.default mT.default swapaxes.default swapdims.default "
        "movedim.int movedim.intlist moveaxis.int moveaxis.intlist squeeze.default squeeze.dim squeeze.dims "
        "unsqueeze.default slice.Tensor select.int narrow.default expand.default expand_as.default "
        "broadcast_to.default repeat.default tile.default repeat_interleave.self_int roll.default flip.default "
        "fliplr.default flipud.default rot90.default cat.default concat.default concatenate.default stack.default "
        "hstack.default vstack.default dstack.default split.Tensor split.sizes split_with_sizes.default "
        "chunk.default tensor_split.sections tensor_split.indices unbind.int unsafe_split.Tensor "
        "unsafe_chunk.default pixel_shuffle.default pixel_unshuffle.default channel_shuffle.default "
        "unfold.default diagonal.default tril.default triu.default view_as.default reshape_as.default "
        "slice_scatter.default select_scatter.default diagonal_scatter.default copy.default fill.Tensor "
        "select_copy.int slice_copy.Tensor view_copy.default permute_copy.default expand_copy.default",
    )
    enter(index, "index.Tensor")
    enter(take, "index_select.default gather.default")
    enter(put, "index_put.default")
    enter(where, "where.self where.ScalarOther where.ScalarSelf masked_fill.Scalar masked_fill.Tensor")
    return MappingProxyType(rules)


RULES: Final[Mapping[str, Rule]] = _table()
