"""ONNX operations that multiply: by constants, which is affine, and of values that are one known function together."""

from __future__ import annotations

import math
from math import prod

import numpy as np
import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Elementwise, Node
from jacobound.importers.fusions.fusions import product
from jacobound.importers.lowering.products import einsum_labels
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.onnx.model.safety import LARGEST_TENSOR, check_size, check_work
from jacobound.importers.onnx.operations.call import Call, Traced, Value, point_shape
from jacobound.importers.onnx.operations.normalising import normalised

TWO_VALUES = (
    "It multiplies two values that both depend on the network's input; as MatMul, Mul or Div that is understood."
)


def multiply(call: Call) -> tuple[Value, ...]:
    """A constant factor, or a product that is one function of one value (SiLU, a square)."""
    values = [value for value in call.inputs if isinstance(value, Traced)]
    if len(values) == 2:
        one, two = (call.widened(value) for value in values)
        found = product(one, two, call.name, call.steps.like)
        found = normalised(call, values[0], values[1], inverse=True) if found is None else found
        found = normalised(call, values[1], values[0], inverse=True) if found is None else found
        return call.result(call.steps.product(one, two, call.name) if found is None else found)
    position = 1 if isinstance(call.inputs[0], Traced) else 0
    return call.result(_multiple(call, call.widened(values[0]), call.spread(call.needed(position), call.shape)))


def divide(call: Call) -> tuple[Value, ...]:
    """By a constant, or a constant by a value; a value by a value when that is one function of one value."""
    top, bottom = call.get(0), call.get(1)
    if not isinstance(bottom, Traced):
        divisor, node = call.spread(call.needed(1), call.shape), call.widened(call.traced())
        return call.result(node if bool((divisor == 1).all()) else call.steps.divide(node, divisor, call.name))
    divisor = call.widened(bottom)
    inverse = elementwise("reciprocal", divisor, f"{call.name}.reciprocal")
    if isinstance(top, Traced):
        node = call.widened(top)
        found = product(node, inverse, call.name, call.steps.like)
        found = normalised(call, top, bottom) if found is None else found
        return call.result(call.steps.quotient(node, divisor, call.name) if found is None else found)
    return call.result(_multiple(call, inverse, call.spread(call.needed(0), call.shape)))


def power(call: Call) -> tuple[Value, ...]:
    """A value to a constant power, or a positive constant to the power of a value."""
    base, exponent = call.get(0), call.get(1)
    if isinstance(base, Traced) and isinstance(exponent, Traced):
        raise UnsupportedOpError("Base and exponent both depend on the network's input.")
    if isinstance(exponent, Traced):  # c^x = exp(log(c) x)
        constant = call.spread(call.needed(0), call.shape)
        if not bool((constant > 0).all()):
            raise UnsupportedOpError("Its base is not positive.")
        node = call.steps.scale(call.widened(exponent), Interval.exact(constant).log(), f"{call.name}.exponent")
        return call.result(elementwise("exp", node, call.name))
    numbers = np.unique(np.asarray(call.constant(1), dtype=np.float64))
    if numbers.size != 1:
        raise UnsupportedOpError("Its exponents differ between entries; one exponent for all is understood.")
    node, number = call.widened(call.traced()), float(numbers[0])
    return call.result(node if number == 1 else elementwise(f"power:{number!r}", node, call.name))


def elementwise(kind: str, node: Node, name: str) -> Node:
    """A node with the activation of that name."""
    return Elementwise(activation(kind), node, name)


def _multiple(call: Call, node: Node, factor: Tensor) -> Node:
    return node if bool((factor == 1).all()) else call.steps.scale(node, factor, call.name)


def gemm(call: Call) -> tuple[Value, ...]:
    """alpha A' B' + beta C."""
    a, b = call.get(0), call.get(1)
    alpha, beta = (_finite(call, name) for name in ("alpha", "beta"))
    if isinstance(a, Traced) == isinstance(b, Traced):
        raise UnsupportedOpError(TWO_VALUES if isinstance(a, Traced) else "It multiplies two constants here.")
    added = call.get(2)
    constant = None if isinstance(added, Traced) else call.weight(2)
    bias = None if constant is None or beta == 0 else call.spread(_scaled(constant, beta, "beta"), call.shape)
    if isinstance(a, Traced):
        if call.flag("transA") and a.shape[0] == 1 and call.open_batch:
            raise UnsupportedOpError("transA=1 moves the batch axis away from the front.")
        weight = call.needed(1) if call.flag("transB") else call.needed(1).T
        value = _transposed(call, a, "transA") if call.flag("transA") else a
    else:  # (A' B')^T = B'^T A'^T
        weight = call.needed(0).T if call.flag("transA") else call.needed(0)
        value = call.traced(1) if call.flag("transB") else _transposed(call, call.traced(1), "transB")
    if bias is not None and not isinstance(a, Traced):
        bias = bias.reshape(call.shape).T
    name = f"{call.name}.product" if isinstance(added, Traced) else call.name
    node = _product(call, value, _scaled(weight, alpha, "alpha").contiguous(), bias, name)
    if not isinstance(a, Traced):
        node = _swapped(call, node, (call.shape[1], call.shape[0]))
    if isinstance(added, Traced) and beta:
        node = call.steps.reshape(node, point_shape(call.shape), name)
        node = call.steps.add([(1.0, node), (beta, call.widened(added))], None, call.name)
    return call.result(node)


def _finite(call: Call, name: str) -> float:
    """A factor that is a number."""
    factor = float(call.number(name, 1.0))
    if not math.isfinite(factor):
        raise UnsupportedOpError(f"Its {name} is {factor}, which is no finite number.")
    return factor


def _scaled(weight: Tensor, factor: float, name: str) -> Tensor:
    """A weight times a number: float32 numbers have an exact product in float64; otherwise powers of two only."""
    product = weight * factor
    single = bool((weight.float().double() == weight).all()) and float(np.float32(factor)) == factor
    if factor in (0.0, 1.0) or single or (abs(np.frexp(factor)[0]) == 0.5 and torch.equal(product / factor, weight)):
        return product
    raise UnsupportedOpError(f"The product of a float64 weight with {name}={factor} would be rounded.")


def _product(call: Call, value: Traced, weight: Tensor, bias: Tensor | None, name: str) -> Node:
    """A matrix (out, in) on the last axis of a value; the bias has the shape of the result."""
    lead = value.shape[:-1]
    lead = lead[1:] if lead[:1] == (1,) else lead
    source = call.steps.reshape(value.node, (*lead, value.shape[-1]), f"{name}.rows")
    return call.steps.dense(source, weight, None if bias is None else bias.reshape(*lead, weight.shape[0]), name)


def _swapped(call: Call, node: Node, shape: tuple[int, ...]) -> Node:
    """A node whose entries stand for an ONNX tensor of `shape`, with the last two axes exchanged."""
    return call.steps.move(node, lambda x: x.reshape(shape).transpose(-1, -2).contiguous(), f"{call.name}.transpose")


def _transposed(call: Call, value: Traced, name: str) -> Traced:
    shape = (*value.shape[:-2], value.shape[-1], value.shape[-2])
    return Traced(_swapped(call, value.node, value.shape), shape, value.dtype)


def matmul(call: Call) -> tuple[Value, ...]:
    """Of a value and a matrix, in which axes of length one in front change nothing; or of two values."""
    a, b = call.get(0), call.get(1)
    if isinstance(a, Traced) and isinstance(b, Traced):
        check_work(prod(call.shape) * a.shape[-1], f"the product '{call.name}'")
        return call.result(_of_values(call, a, b))
    weight = call.needed(1 if isinstance(a, Traced) else 0)
    if prod(weight.shape[:-2]) != 1:
        left, right = (call.full(a), weight) if isinstance(a, Traced) else (weight, call.full(call.traced(1)))
        return call.result(call.steps.matmul(left, right, call.name))
    weight = weight.reshape(weight.shape[-2:])
    if isinstance(a, Traced):
        matrix = weight.reshape(-1, 1) if weight.dim() == 1 else weight
        return call.result(_product(call, a, matrix.T.contiguous(), None, call.name))
    value = call.traced(1)
    matrix = weight.reshape(1, -1) if weight.dim() == 1 else weight
    if len(value.shape) == 1:
        return call.result(_product(call, value, matrix, None, call.name))
    node = _product(call, _transposed(call, value, "columns"), matrix, None, call.name)
    return call.result(_swapped(call, node, (*value.shape[:-2], value.shape[-1], len(matrix))))


def _of_values(call: Call, a: Traced, b: Traced) -> Node:
    """A product of two values; the axis of the batch is left out where both have it, so that attention is seen."""
    if call.open_batch and min(len(a.shape), len(b.shape)) < 3:
        raise UnsupportedOpError(MIXED)
    alone = a.shape[0] == b.shape[0] == 1 and len(a.shape) == len(b.shape) > 2
    left, right = (a.node, b.node) if alone else (call.full(a), call.full(b))
    return call.steps.matrix_product(left, right, call.name)


def einsum(call: Call) -> tuple[Value, ...]:
    equation = str(call.attributes.get("equation", "")).replace(" ", "")
    values = [value for value in call.inputs if isinstance(value, Traced)]
    _check_contraction(call, equation)
    if len(values) == len(call.inputs) == 2:
        left, right = (call.full(value) for value in values)
        return call.result(call.steps.contraction(equation, left, right, call.name))
    if len(values) != 1:
        raise UnsupportedOpError(TWO_VALUES)
    operands: list[Node | Tensor] = [
        call.full(value) if isinstance(value, Traced) else call.needed(k) for k, value in enumerate(call.inputs)
    ]
    return call.result(call.steps.einsum(equation, operands, call.name))


def _check_contraction(call: Call, equation: str) -> None:
    """Refuse an Einsum with more products, or larger ones on the way, than can be held."""
    shapes = [value.shape for value in call.inputs if value is not None]
    labels, _ = einsum_labels(equation, [len(shape) for shape in shapes])
    lengths = {
        label: n for given, shape in zip(labels, shapes, strict=True) for label, n in zip(given, shape, strict=True)
    }
    check_work(prod(lengths.values()), f"the contraction '{call.name}'")
    if len(shapes) > 2:
        check_size(tuple(lengths.values()), f"the contraction '{call.name}'", LARGEST_TENSOR)
