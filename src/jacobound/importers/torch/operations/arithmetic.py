"""Entry-by-entry arithmetic in traced modules: sums, products, quotients, powers, extrema of two values."""

from __future__ import annotations

import math

import torch

from jacobound.activations import torch_builder
from jacobound.arithmetic.intervals import Interval
from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.fusions.bells import elementwise
from jacobound.importers.fusions.fusions import product
from jacobound.importers.fusions.norms import normalisation
from jacobound.importers.torch.operations import patterns as patterns
from jacobound.importers.torch.operations.call import PRODUCT, TRAINING, TRAINING_ONLY, Call, Value, is_node


def activate(call: Call, op: str, source: Node, *numbers: Value, name: str | None = None) -> Node:
    """The activation that the ATen operation `op` with these numbers is.

    Raises:
        UnsupportedOpError: when no activation answers to `op`.
    """
    builder = torch_builder(op)
    if builder is None:
        raise UnsupportedOpError(f"There is no activation for {op}.")
    return elementwise(builder(*numbers), source, call.name if name is None else name, call.steps.like)


def add(call: Call) -> Node:
    """``a + alpha b``; `sub` and `rsub` are the same with other signs."""
    alpha = call.argument(2, "alpha", 1)
    left, right = call.args[0], call.args[1]
    signs = {"aten.sub": (1, -alpha), "aten.subtract": (1, -alpha), "aten.rsub": (-alpha, 1)}.get(
        call.op.rpartition(".")[0], (1, alpha)
    )
    terms, bias = [], None
    for sign, value in zip(signs, (left, right), strict=True):
        if is_node(value):
            terms.append((call.number(sign), call.node(value)))
        else:
            bias = call.addend(value) if sign == 1 else call.addend(value * sign)
    return patterns.difference(terms, bias, call.name) or call.steps.add(terms, bias, call.name)


def negate(call: Call) -> Node:
    return call.steps.add([(-1.0, call.args[0])], None, call.name)


def multiply(call: Call) -> Node:
    return _multiply(call, call.args[0], call.args[1], call.name)


def _multiply(call: Call, left: Value, right: Value, name: str) -> Node:
    if is_node(left) and is_node(right):
        one, two = call.node(left), call.node(right)
        found = product(one, two, name, call.steps.like)
        return call.steps.product(one, two, name) if found is None else found
    node, factor = (left, right) if is_node(left) else (right, left)
    return call.steps.scale(call.node(node), call.operand(factor), name)


def divide(call: Call) -> Node:
    if call.argument(2, "rounding_mode") is not None:
        raise UnsupportedOpError("It rounds the quotient, so it jumps.")
    return _divide(call, call.args[0], call.args[1], call.name)


def _divide(call: Call, top: Value, bottom: Value, name: str) -> Node:
    if not is_node(bottom):
        return call.steps.divide(call.node(top), call.operand(bottom), name)
    if is_node(top):
        one, two = call.node(top), call.node(bottom)
        found = patterns.quotient(one, two, name, call.steps.like)
        found = normalisation(one, two, name, call.steps.variance_floor, call.steps.like) if found is None else found
        return call.steps.quotient(one, two, name) if found is None else found
    inverse = activate(call, "aten.reciprocal.default", call.node(bottom), name=f"{name}.reciprocal")
    return call.steps.scale(inverse, call.operand(top), name)


def add_scaled(call: Call) -> Node:
    """addcmul and addcdiv: ``a + value * b * c`` and ``a + value * b / c``."""
    start, left, right = call.args[:3]
    factor = call.number(call.argument(3, "value", 1))
    if is_node(left) or is_node(right):
        combine = _multiply if "addcmul" in call.op else _divide
        term, bias = [(factor, combine(call, left, right, f"{call.name}.term"))], None
    else:
        term, bias = [], (left * right if "addcmul" in call.op else left / right) * factor
    if is_node(start):
        return call.steps.add([(1.0, call.node(start)), *term], bias if bias is None else call.operand(bias), call.name)
    return call.steps.add(term, call.operand(start), call.name)


def lerp(call: Call) -> Node:
    """``start + weight (end - start)`` with a constant weight."""
    start, end, weight = call.args[:3]
    if is_node(weight):
        raise UnsupportedOpError(PRODUCT)
    step = _sum(call, ((1.0, end), (-1.0, start)), f"{call.name}.step")
    return _sum(
        call, ((1.0, start), (1.0, call.steps.scale(step, call.operand(weight), f"{call.name}.part"))), call.name
    )


def _sum(call: Call, terms: tuple[tuple[float, Value], tuple[float, Value]], name: str) -> Node:
    """A sum of two values with signs +1 or -1, at least one of them a node."""
    nodes = [(sign, call.node(value)) for sign, value in terms if is_node(value)]
    bias = next((sign * call.operand(value) for sign, value in terms if not is_node(value)), None)
    return call.steps.add(nodes, bias, name)


def power(call: Call) -> Node:
    """A constant power of a node; halves and small whole numbers have activations of their own."""
    source, exponent = call.args[0], call.args[1]
    if is_node(exponent):
        raise UnsupportedOpError("Its exponent depends on the input.")
    if isinstance(exponent, torch.Tensor):
        numbers = torch.unique(exponent)
        if len(numbers) != 1:
            raise UnsupportedOpError("Its exponents are different for each entry.")
        source, exponent = call.node(source), numbers.item()
    exponent = call.number(exponent)
    if exponent == 1:
        return source
    special = {2.0: "square", -1.0: "reciprocal", 0.5: "sqrt"}.get(exponent)
    if special is not None and torch_builder(f"aten.{special}.default") is not None:
        return activate(call, f"aten.{special}.default", source)
    if exponent == -0.5:
        return rsqrt(call.retarget("aten.rsqrt.default", source))
    return activate(call, "aten.pow.Tensor_Scalar", source, exponent)


def rsqrt(call: Call) -> Node:
    """1 / sqrt(x), in two steps where it is no activation of its own."""
    if torch_builder("aten.rsqrt.default") is not None:
        return activate(call, "aten.rsqrt.default", call.args[0])
    root = activate(call, "aten.sqrt.default", call.args[0], name=f"{call.name}.sqrt")
    return activate(call, "aten.reciprocal.default", root)


def exponential(call: Call) -> Node:
    """``base ** x`` as ``exp(x log base)``, the logarithm enclosed; exp2 is the same with base 2."""
    if torch_builder(call.op) is not None:
        return activate(call, call.op, call.args[0])
    base, exponent = (2.0, call.args[0]) if "exp2" in call.op else (call.args[0], call.args[1])
    if not isinstance(base, int | float) or not 0 < base < math.inf:
        raise UnsupportedOpError("Its base is not one positive number.")
    factor = Interval.exact(call.steps.like.new_full((), call.number(base))).log()
    scaled = call.steps.scale(exponent, factor.map(lambda x: x.broadcast_to(exponent.shape)), f"{call.name}.exponent")
    return activate(call, "aten.exp.default", scaled)


def logarithm(call: Call) -> Node:
    """log2 and log10: the natural logarithm times an enclosed constant."""
    if torch_builder(call.op) is not None:
        return activate(call, call.op, call.args[0])
    base = 2.0 if "log2" in call.op else 10.0
    inner = activate(call, "aten.log.default", call.args[0], name=f"{call.name}.log")
    factor = Interval.exact(call.steps.like.new_full((), base)).log().reciprocal()
    return call.steps.scale(inner, factor.map(lambda x: x.broadcast_to(inner.shape)), call.name)


def shifted(call: Call) -> Node:
    """expm1, log1p and erfc as exp, log and erf with a constant added and a sign, where they are not known as such."""
    if torch_builder(call.op) is not None:
        return activate(call, call.op, call.args[0])
    source, one = call.args[0], call.steps.like.new_ones(call.args[0].shape)
    if "log1p" in call.op:
        return activate(call, "aten.log.default", call.steps.add([(1.0, source)], one, f"{call.name}.shift"))
    if "expm1" in call.op:
        inner = activate(call, "aten.exp.default", source, name=f"{call.name}.exp")
        return call.steps.add([(1.0, inner)], -one, call.name)
    inner = activate(call, "aten.erf.default", source, name=f"{call.name}.erf")
    return call.steps.add([(-1.0, inner)], one, call.name)


def extremum(call: Call) -> Node:
    """The larger or the smaller of two values, entry by entry."""
    step = call.steps.maximum if "max" in call.op else call.steps.minimum
    return step([_side(call, value) for value in call.args[:2]], call.name)


def clamp(call: Call) -> Node:
    """Limits on one or both sides, numbers or constant tensors; ``min(max(x, low), high)``."""
    only = {"aten.clamp_min": 0, "aten.clamp_max": 1}.get(call.op.rpartition(".")[0])
    limits = [call.argument(1, "min"), call.argument(2, "max")]
    if only is not None:
        value = call.argument(1, ("min", "max")[only])
        limits = [value, None] if only == 0 else [None, value]
    if not any(isinstance(limit, torch.Tensor) or is_node(limit) for limit in limits):
        return _between(call, *limits)
    node = call.node(call.args[0])
    if limits[0] is not None:
        name = call.name if limits[1] is None else f"{call.name}.low"
        node = call.steps.maximum([node, _side(call, limits[0])], name)
    return node if limits[1] is None else call.steps.minimum([node, _side(call, limits[1])], call.name)


def _between(call: Call, low: float | None, high: float | None) -> Node:
    """Limits that are numbers: an activation."""
    for limit in (low, high):
        if limit is not None and math.isnan(limit):
            raise InvalidModelError(f"'{call.name}' has NaN for a limit; check the model")
    low = None if low is None or low == -math.inf else call.number(low)
    high = None if high is None or high == math.inf else call.number(high)
    if low is None and high is None:
        return call.args[0]
    if low is not None and high is not None and low > high:
        low = high  # torch gives the upper limit then, everywhere
    return activate(call, "aten.clamp.default", call.args[0], low, high)


def _side(call: Call, value: Value) -> Value:
    """One side of a comparison: a node of the shape of the result, or a constant."""
    return call.node(value) if is_node(value) else call.operand(value)


def rrelu(call: Call) -> Node:
    """Outside training the leaky ReLU with the mean of the two slopes."""
    lower, upper = call.argument(1, "lower", 1 / 8), call.argument(2, "upper", 1 / 3)
    if call.argument(3, "training", False):
        raise InvalidModelError(f"'{call.name}' draws slopes at random: {TRAINING}")
    return activate(call, "aten.leaky_relu.default", call.args[0], (lower + upper) / 2)


def softplus(call: Call) -> Node:
    """log(1 + exp(beta z)) / beta, which torch leaves for z itself above a threshold: there it jumps.

    The jump of the usual threshold (exp(-20) / beta) counts as a detail of the implementation; no larger one does.
    """
    beta, threshold = float(call.argument(1, "beta", 1.0)), float(call.argument(2, "threshold", 20.0))
    if not threshold >= 20:
        jump = math.log1p(math.exp(-threshold)) if threshold > -700 else -threshold
        raise UnsupportedOpError(
            f"Softplus with threshold={threshold:g} jumps by {jump / beta:.3g} where its argument is "
            f"{threshold / beta:g}, so it has no bounded derivative there; leave the threshold out."
        )
    return activate(call, "aten.softplus.default", call.args[0], beta)


def log_sigmoid(call: Call) -> Value:
    """The form of the core operations, which returns a buffer as well."""
    return [activate(call, "aten.log_sigmoid.default", call.args[0]), TRAINING_ONLY]
