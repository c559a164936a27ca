"""Attention that a model writes out: the scores behind a softmax, ``scale Q K' + bias``, read back from the nodes."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import unit
from jacobound.graph.nodes import Affine, Node, Vector
from jacobound.graph.vector.attention import SCALE_UNITS
from jacobound.graph.vector.products import MatrixProduct
from jacobound.graph.vector.smooth import Softmax
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Identity, Scale, Select


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of queries and keys.

    Args:
        function: the product of Q (on the left) and K'.
        source: its operands.
        scale: what the product is multiplied with.
        bias: what is added, of the product's shape, -inf for pairs that are left out; None for nothing.
    """

    function: MatrixProduct
    source: Node
    scale: float
    bias: Tensor | None


def scores_of(shares: Node) -> Scores | None:
    """The scores whose softmax along the last axis a node is; None when it is none, or they are no such product.

    Steps in between are read backwards: at most one factor that is one number (within the rounding that `Attention`
    covers), and added constants behind it; entries that are replaced by minus infinity are left out.
    """
    if not isinstance(shares, Vector) or not isinstance(shares.function, Softmax):
        return None
    node, scale, bias = shares.source, 1.0, None
    while isinstance(node, Affine):
        if len(node.terms) != 1 or node.choice is not None:
            return None
        operator, source = node.terms[0]
        step = _step(operator, node.bias)
        if step is None or (scale != 1 and (step[0] != 1 or not _leaves_out_only(step[1]) or scale < 0)):
            return None
        scale = scale * step[0]
        if step[1] is not None and bias is not None:
            if not bool(((bias == 0) | (step[1] == 0) | bias.isinf() | step[1].isinf()).all()):
                return None  # their sum would round
            bias = bias + step[1]
        elif step[1] is not None:
            bias = step[1]
        node = source
    if not isinstance(node, Vector) or not isinstance(node.function, MatrixProduct):
        return None
    if node.function.left[:-2] != node.function.right[:-2] or shares.shape != node.shape:
        return None
    if bias is not None and not bool((bias > -inf).any(-1).all()):
        return None
    return Scores(node.function, node.source, scale, bias)


def _leaves_out_only(bias: Tensor | None) -> bool:
    """Whether what is added changes nothing but entries that it leaves out; no positive factor changes that."""
    return bias is None or bool(((bias == 0) | (bias == -inf)).all())


def _step(operator: LinearOperator, bias: Tensor | None) -> tuple[float, Tensor | None] | None:
    """Factor and added constant of an affine node that moves nothing; None when it is anything else."""
    if isinstance(operator, Identity):
        return (1.0, bias) if operator.in_shape == operator.out_shape else None
    if isinstance(operator, Select) and operator.in_shape == operator.out_shape:
        index = operator.index
        places = torch.arange(index.numel(), device=index.device).reshape(index.shape)
        gone = index < 0
        if bias is None or not bool(((index == places) | gone).all()) or not bool((bias[gone] == -inf).all()):
            return None
        return 1.0, bias
    if not isinstance(operator, Scale):
        return None
    factor = operator.factor.flatten()[0]
    spread = 0.0 if operator.radius is None else float(operator.radius.amax())
    if not bool((operator.factor == factor).all()) or spread > SCALE_UNITS * unit(torch.float64) * abs(float(factor)):
        return None
    return float(factor), bias
