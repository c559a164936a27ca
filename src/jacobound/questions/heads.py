"""Decisions before a head: last functions that keep the order of the classes, and the network without them.

Softmax and its logarithm, strictly increasing activations, one positive factor and one number added to all classes: the
largest entry stays the largest. Margins of what lies before are simpler, and do not saturate as probabilities do.
"""

from __future__ import annotations

from math import prod

import torch

from jacobound.activations import Activation
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, Vector
from jacobound.graph.vector.smooth import LogSoftmax, Softmax
from jacobound.operators.kinds import Identity, Scale, Select


def before_head(graph: Graph) -> tuple[Graph, tuple[str, ...]]:
    """The network up to the last function that may change the order of its outputs, and what comes behind, last first.

    For all x and all classes i and j output i of the one is larger than output j if and only if it is in the other.
    """
    node, names, kept = graph.output, [], graph.output
    while True:
        found = _step(node)
        if found is None:
            break
        node, name = found
        if name:
            names.append(name)
            kept = node
    if kept is graph.output:
        return graph, ()
    return Graph(kept, frozenset(graph.nodes), source=graph.source), tuple(names)


def _step(node: Node) -> tuple[Node, str] | None:
    """The node before one that keeps the order of all entries, and what it does; no name where it only reshapes."""
    if isinstance(node, Vector):
        whole = isinstance(node.function, Softmax | LogSoftmax) and node.function.allowed is None
        one_row = node.function.in_shape[-1:] == (prod(node.shape),)
        return (node.source, node.function.name) if whole and one_row else None
    if isinstance(node, Elementwise):
        return (node.source, node.activation.name) if strictly_increasing(node.activation) else None
    if not isinstance(node, Affine) or len(node.terms) != 1 or node.choice is not None:
        return None
    if node.bias is not None and not bool((node.bias == node.bias.flatten()[0]).all()):
        return None
    operator, source = node.terms[0]
    if isinstance(operator, Identity):
        return source, "" if node.bias is None else "a shift"
    if isinstance(operator, Select):
        places = torch.arange(operator.out_size, device=operator.index.device)
        same = operator.in_size == operator.out_size and torch.equal(operator.index.flatten(), places)
        return (source, "" if node.bias is None else "a shift") if same else None
    if isinstance(operator, Scale) and operator.radius is None:
        factor = operator.factor.flatten()
        return (source, "a factor") if bool((factor == factor[0]).all() & (factor[0] > 0)) else None
    return None


def strictly_increasing(function: Activation) -> bool:
    """Whether larger arguments give larger values everywhere: monotone, and no piece of it is constant."""
    if function.turns or not function.increasing or function.reduce is not None or function.parameters:
        return False
    for piece in function.pieces:
        if piece.curvature == "linear" and (piece.line is None or not float(piece.line[0]) > 0):
            return False
    return True
