"""What each ATen operation that is affine becomes: one short rule per operation, from a `Call` to a node.

Values are nodes (they depend on the input; their shapes have no batch axis) or tensors (they do not; they are as the
model holds them). A rule is called when at least one argument is a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph import Affine, Elementwise, Input, Node
from jacobound.importers.common import exact_weight
from jacobound.importers.steps import MIXED, AffineSteps

Value = Any
"""A node, a constant tensor, a number, or a list of those."""

PRODUCT: Final = "It multiplies two values that both depend on the input."
TRAINING: Final = "it behaves as in training; call module.eval() first"


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of the traced module with its arguments looked up.

    Args:
        op: overload name, "aten.linear.default".
        target: the operation itself, to be run on tensors of positions.
        args, kwargs: values.
        steps: builds nodes.
        name: name for the resulting node.
        result: what torch says of the result: a tensor without data, or a list of those.
    """

    op: str
    target: Callable[..., Any]
    args: tuple[Value, ...]
    kwargs: Mapping[str, Value]
    steps: AffineSteps
    name: str
    result: Any

    def argument(self, position: int, keyword: str, default: Value = None) -> Value:
        """An argument that torch may pass by position, by keyword or not at all."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(keyword, default)

    @property
    def front(self) -> int:
        """Number of batch axes: 0 or 1."""
        return 0 if self.steps.batch is None else 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result without batch axis."""
        return self.point(tuple(self.result.shape))

    def point(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape of the model's own tensors without its batch axis."""
        if self.front and (not shape or shape[0] != self.steps.batch):
            raise UnsupportedOpError(MIXED)
        return shape[self.front :]

    def axis(self, dim: int, axes: int) -> int:
        """A node's axis for the model's axis `dim`, when the model's tensor has `axes` of them."""
        axis = dim % max(axes, 1) - self.front
        if axis < 0:
            raise UnsupportedOpError(MIXED)
        return axis

    def weight(self, value: Value, label: str = "weight") -> Tensor:
        """A constant tensor as float64."""
        if is_node(value):
            raise UnsupportedOpError(PRODUCT)
        return exact_weight(value, f"{self.name}.{label}")

    def optional(self, value: Value, label: str) -> Tensor | None:
        return None if value is None else self.weight(value, label)

    def operand(self, value: Value) -> Tensor:
        """A constant operand as the float that the model computes with, in float64, for the shape of the result."""
        tensor = torch.as_tensor(value, dtype=None if isinstance(value, Tensor) else torch.float64)
        if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
            tensor = exact_weight(tensor, f"constant of {self.name}")
        return self.steps.constant(tensor.to(self.result.dtype), self.shape)

    def node(self, value: Node) -> Node:
        """A node broadcast to the shape of the result."""
        if len(value.shape) == len(self.shape):
            return self.steps.expand(value, self.shape, f"{self.name}.expand")
        # Fewer axes: torch aligns the last ones, so a batch axis would meet another axis.
        full = tuple(self.result.shape)
        return self.steps.move(value, lambda x: x.broadcast_to(full), f"{self.name}.expand")


Rule = Callable[[Call], Value]


def is_node(value: Value) -> bool:
    """Whether a value depends on the input."""
    return isinstance(value, (Input, Affine, Elementwise))


def map_values(value: Value, function: Callable[[Value], Value]) -> Value:
    """Apply a function to every leaf of nested lists, tuples and dictionaries."""
    if isinstance(value, (list, tuple)):
        return [map_values(entry, function) for entry in value]
    if isinstance(value, Mapping):
        return {key: map_values(entry, function) for key, entry in value.items()}
    return function(value)


def leaves(value: Value) -> list[Value]:
    """All leaves of nested lists, tuples and dictionaries."""
    found: list[Value] = []
    map_values(value, found.append)
    return found


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
        raise UnsupportedOpError("It divides by a value that depends on the input.")
    return call.steps.divide(call.node(call.args[0]), call.operand(call.args[1]), call.name)


def linear(call: Call) -> Node:
    if is_node(call.argument(2, "bias")):
        raise UnsupportedOpError("Its bias depends on the input.")
    weight = call.weight(call.args[1])
    _keep_batch(call, call.args[0], 1)
    return call.steps.dense(call.args[0], weight, call.optional(call.argument(2, "bias"), "bias"), call.name)


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
    bias, weight = call.weight(call.args[0], "bias"), call.weight(call.args[2])
    _keep_batch(call, call.args[1], 1)
    return call.steps.dense(call.args[1], weight.T.contiguous(), bias, call.name)


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
    return _on_image(call, count, lambda image: call.steps.convolution(
        image, weight, bias, call.name, stride=stride, pads=pads, dilation=dilation, groups=groups))


def batch_norm(call: Call) -> Value:
    """Normalisation by stored statistics; by those of the batch it would tie points together."""
    inference = call.op == "aten._native_batch_norm_legit_no_training.default"
    if not inference and call.argument(5, "training", False):
        raise InvalidModelError(f"'{call.name}' normalises by the statistics of the batch: {TRAINING}")
    if call.args[3] is None or call.args[4] is None:
        raise UnsupportedOpError("It has no running statistics, so it normalises by those of the batch.")
    eps = call.args[6] if inference else call.args[7]
    gamma, beta = call.optional(call.args[1], "weight"), call.optional(call.args[2], "bias")
    mean, variance = call.weight(call.args[3], "running_mean"), call.weight(call.args[4], "running_var")
    source = call.args[0]
    count = len(source.shape) - 2 + call.front
    node = _on_image(call, count, lambda image: call.steps.batch_norm(
        image, mean, variance, gamma, beta, eps, call.name))
    return node if call.op == "aten.batch_norm.default" else [node, None, None]


def average_pool(call: Call) -> Node:
    count = 1 if "1d" in call.op else 2
    kernel = _per_axis(call.args[1], count)
    stride = _per_axis(call.argument(2, "stride") or kernel, count)
    padding = _per_axis(call.argument(3, "padding", 0), count)
    return _on_image(call, count, lambda image: call.steps.average_pool(
        image, kernel, stride, padding, call.name, ceil_mode=call.argument(4, "ceil_mode", False),
        count_padding=call.argument(5, "count_include_pad", True),
        divisor=call.argument(6, "divisor_override")))


def adaptive_average_pool(call: Call) -> Node:
    count = 1 if "1d" in call.op else 2
    size, wanted = call.args[0].shape[-count:], _per_axis(call.args[1], count)
    if any(n % m for n, m in zip(size, wanted, strict=True)):
        raise UnsupportedOpError(f"Only output sizes that divide the input's {tuple(size)} are understood.")
    kernel = [n // m for n, m in zip(size, wanted, strict=True)]
    return _on_image(call, count, lambda image: call.steps.average_pool(
        image, kernel, kernel, [0] * count, call.name))


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


def like(call: Call) -> Tensor:
    """zeros_like, new_full and their kin look at the shape of a node only."""
    blank = torch.zeros(call.steps.batch or 1, dtype=call.result.dtype, device=call.result.device)

    def stand_in(value: Value) -> Value:
        if not is_node(value):
            return value
        return blank[:1].expand(value.shape if not call.front else (call.steps.batch, *value.shape))

    return call.target(*map_values(list(call.args), stand_in), **call.kwargs)


def movement(call: Call, indices: frozenset[int]) -> Value:
    """Any data movement; the tensors at the positions `indices` say where to look and are no data."""
    sources: list[Value] = []
    for position, argument in enumerate(call.args):
        found = [leaf for leaf in leaves(argument) if is_node(leaf) or isinstance(leaf, Tensor)]
        if position not in indices:
            sources.extend(found)
        elif any(is_node(leaf) for leaf in found):
            raise UnsupportedOpError("Which entries it takes depends on the input.")

    def run(*codes: Tensor) -> Any:
        remaining = iter(codes)

        def replace(leaf: Value) -> Value:
            return next(remaining) if is_node(leaf) or isinstance(leaf, Tensor) else leaf

        args = [argument if position in indices else map_values(argument, replace)
                for position, argument in enumerate(call.args)]
        return call.target(*args, **call.kwargs)

    if not isinstance(call.result, (list, tuple)):
        return _with_batch(call, call.steps.rearrange(sources, run, call.name))
    return [
        _with_batch(call, call.steps.rearrange(sources, lambda *codes, k=k: run(*codes)[k], f"{call.name}.{k}"))
        for k in range(len(call.result))
    ]


def pad(call: Call) -> Value:
    """Padding by a number, a reflection, a copy of the border, or the other end."""
    amounts = call.args[1]
    constant = call.op == "aten.constant_pad_nd.default"
    mode = "constant" if constant else call.argument(2, "mode", "constant")
    if mode != "constant":
        # Some of these kernels know no integers; positions are exact in float64.
        return _with_batch(call, call.steps.rearrange(
            [call.args[0]], lambda x: torch.nn.functional.pad(x.double(), amounts, mode).long(), call.name))
    value = call.argument(2 if constant else 3, "value", 0) or 0
    filler = torch.tensor([float(value)], dtype=call.result.dtype, device=call.result.device)
    return _with_batch(call, call.steps.rearrange(
        [call.args[0], filler],
        lambda x, code: torch.nn.functional.pad(x, amounts, value=int(code) if value else 0), call.name))


def resize(call: Call) -> Value:
    """Nearest-neighbour resizing copies entries; its kernels know no integers."""
    return _with_batch(call, call.steps.rearrange(
        [call.args[0]], lambda x: call.target(x.double(), *call.args[1:], **call.kwargs).long(), call.name))


def _with_batch(call: Call, value: Node | Tensor) -> Node | Tensor:
    """A constant that a movement left is given back the way the model holds it."""
    if not isinstance(value, Tensor) or not call.front:
        return value
    return value.expand(call.steps.batch or 1, *value.shape)


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

    def put(rule: Rule, names: str) -> None:
        rules.update({f"aten.{name}": rule for name in names.split()})

    put(add, "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar")
    put(negate, "neg.default negative.default")
    put(multiply, "mul.Tensor mul.Scalar multiply.Tensor multiply.Scalar")
    put(divide, "div.Tensor div.Scalar divide.Tensor divide.Scalar true_divide.Tensor true_divide.Scalar")
    put(linear, "linear.default")
    put(matmul, "matmul.default mm.default mv.default")
    put(addmm, "addmm.default")
    put(convolution, "conv1d.default conv1d.padding conv2d.default conv2d.padding convolution.default")
    put(batch_norm, "batch_norm.default native_batch_norm.default _native_batch_norm_legit.default "
        "_native_batch_norm_legit_no_training.default _native_batch_norm_legit_functional.default")
    put(average_pool, "avg_pool1d.default avg_pool2d.default")
    put(adaptive_average_pool,
        "adaptive_avg_pool1d.default adaptive_avg_pool2d.default _adaptive_avg_pool2d.default")
    put(reduce, "mean.default mean.dim sum.default sum.dim_IntList")
    put(keep, "clone.default contiguous.default detach.default alias.default lift_fresh_copy.default "
        "dropout.default feature_dropout.default alpha_dropout.default feature_alpha_dropout.default")
    put(cast, "_to_copy.default to.dtype to.dtype_layout to.device to.other type_as.default")
    put(like, "zeros_like.default ones_like.default full_like.default new_zeros.default new_ones.default "
        "new_full.default new_tensor.default")
    put(pad, "constant_pad_nd.default pad.default")
    put(resize, "upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest2d.default upsample_nearest2d.vec")
    nothing: frozenset[int] = frozenset()
    put(lambda call: movement(call, nothing),
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
        "select_copy.int slice_copy.Tensor view_copy.default permute_copy.default expand_copy.default")
    put(lambda call: movement(call, frozenset({1})), "index.Tensor")
    put(lambda call: movement(call, frozenset({2})), "index_select.default gather.default")
    put(lambda call: movement(call, frozenset({0})), "where.self")
    return MappingProxyType(rules)


RULES: Final[Mapping[str, Rule]] = _table()
