"""Functions of whole vectors in traced modules: softmax, normalisation by own statistics, gates, attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.steps import MIXED
from jacobound.importers.torch.operations.call import TRAINING, TRAINING_ONLY, Call, Value, is_node


def softmax(call: Call) -> Node:
    """Softmax and its logarithm along one axis."""
    node = call.args[0]
    axis = call.axis(call.argument(1, "dim", -1), call.rank(node))
    return (call.steps.log_softmax if "log_softmax" in call.op else call.steps.softmax)(node, axis, call.name)


def logsumexp(call: Call) -> Node:
    node, dims = call.args[0], call.argument(1, "dim")
    axes = [call.axis(dim, call.rank(node)) for dim in ([dims] if isinstance(dims, int) else dims)]
    return call.steps.logsumexp(node, axes, bool(call.argument(2, "keepdim", False)), call.name)


def layer_norm(call: Call) -> Value:
    """Statistics over the last axes; the form of the core operations returns them as well."""
    node, axes = call.args[0], _last(call, call.args[1])
    gamma = call.optional(call.argument(2, "weight"), "weight")
    beta = call.optional(call.argument(3, "bias"), "bias")
    found = call.steps.layer_norm(node, axes, gamma, beta, call.argument(4, "eps", 1e-5), call.name)
    return [found, TRAINING_ONLY, TRAINING_ONLY] if "native" in call.op else found


def rms_norm(call: Call) -> Node:
    """Without eps torch takes that of the dtype it computes in."""
    node, eps = call.args[0], call.argument(3, "eps")
    eps = torch.finfo(call.result.dtype).eps if eps is None else eps
    gamma = call.optional(call.argument(2, "weight"), "weight")
    return call.steps.rms_norm(node, _last(call, call.args[1]), gamma, eps, call.name)


def group_norm(call: Call) -> Value:
    """Statistics over groups of channels; the form of the core operations returns them as well."""
    if "native" in call.op:
        weights, groups, eps = call.args[1:3], call.args[6], call.args[7]
    else:
        weights, groups = (call.argument(2, "weight"), call.argument(3, "bias")), call.args[1]
        eps = call.argument(4, "eps", 1e-5)
    node = call.args[0]
    if not call.front or len(node.shape) < 1:
        raise UnsupportedOpError(MIXED)
    gamma, beta = (call.optional(weight, label) for weight, label in zip(weights, ("weight", "bias"), strict=True))
    found = call.steps.group_norm(node, groups, gamma, beta, eps, call.name)
    return [found, TRAINING_ONLY, TRAINING_ONLY] if "native" in call.op else found


def glu(call: Call) -> Node:
    node = call.args[0]
    return call.steps.glu(node, call.axis(call.argument(1, "dim", -1), call.rank(node)), call.name)


def attention(call: Call) -> Node:
    """Scaled dot-product attention, outside training."""
    q, k, v = call.args[:3]
    if not all(is_node(value) for value in (q, k, v)):
        raise UnsupportedOpError("Its queries, keys and values must all depend on the input.")
    if call.argument(4, "dropout_p", 0.0) != 0:
        raise InvalidModelError(f"'{call.name}' draws random numbers to drop shares: {TRAINING}")
    scale = call.argument(6, "scale")
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else float(scale)
    bias = _bias(call, q, k)
    if call.argument(7, "enable_gqa", False):
        k, v = (_repeated(call, value, q.shape[-3]) for value in (k, v))
    return call.steps.attention(q, k, v, scale, bias, call.name)


def _repeated(call: Call, node: Node, heads: int) -> Node:
    """Every head as often as queries ask for it."""
    times = heads // node.shape[-3]
    if times == 1:
        return node
    return call.steps.move(node, lambda x: x.repeat_interleave(times, -3), f"{call.name}.heads")


def _bias(call: Call, q: Node, k: Node) -> Tensor | None:
    """What is added to the scores: a mask or the lower triangle, with minus infinity where there is no way."""
    mask = call.argument(3, "attn_mask")
    if call.argument(5, "is_causal", False):
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=call.steps.like.device).tril()
    if mask is None:
        return None
    if is_node(mask):
        raise UnsupportedOpError("Its mask depends on the input.")
    if call.front and mask.dim() == call.rank(q):
        if not torch.equal(mask, mask[:1].expand_as(mask)):
            raise UnsupportedOpError("Its mask is different for each point of the batch.")
        mask = mask[0]
    if mask.dtype != torch.bool:
        return mask.to(call.steps.like)
    return torch.zeros_like(mask, dtype=torch.float64).masked_fill(~mask, -math.inf)


def _last(call: Call, shape: Sequence[int]) -> list[int]:
    """The last axes of a node that have a shape."""
    rank = len(call.args[0].shape)
    if len(shape) > rank:
        raise UnsupportedOpError(MIXED)
    return list(range(rank - len(shape), rank))
