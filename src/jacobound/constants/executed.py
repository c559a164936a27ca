"""How far the outputs of an executed network can be from the exact ones: what `lipschitz` adds for pairs of points."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import vector_norm_upper
from jacobound.arithmetic.rounding import inflate
from jacobound.graph.execution import Executed, Execution
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Vector, no_expansion
from jacobound.inputs.domains import Domain
from jacobound.jacobian.fastlip import interval_adjoints
from jacobound.jacobian.rounding_weights import defect_weights
from jacobound.method import Budget, OutputMethod, derivative_ranges
from jacobound.relaxation.noise import noise_of


def execution_error(graph: Graph, domain: Domain, budget: Budget, method: OutputMethod, q: float) -> Tensor:
    """How far the executed outputs can be from the exact ones over a domain, in the l_q norm; certified, shape (N,).

    The outputs as functions of the noise at all nodes have the derivatives of the network's tails; along the segment
    from no noise to the actual one all values stay within the executed ranges, so adjoints over those ranges hold.

    Args:
        graph: with an `execution` and a one-axis output.
        method: encloses the executed values.
    """
    graph = graph.with_affine_output()
    ranges = method.ranges(graph, domain, budget, with_output=False)
    slopes = derivative_ranges(graph, ranges)
    adjoints = interval_adjoints(graph, slopes)
    weights = defect_weights(graph, slopes, adjoints)
    total, terms = graph.example.new_zeros(1, *graph.out_shape), 2
    for node in graph.nodes:
        noise = noise_of(graph, node, ranges)
        if noise is not None:
            # Weights are 0 where an activation's own slope is 0, but its value may be off there too.
            weight = adjoints[node].magnitude() if isinstance(node, Elementwise) else weights[node]
            products = torch.where(weight == 0, 0.0, weight * noise.unsqueeze(1))
            total = total + products.flatten(2).sum(2)
            terms += products[0, 0].numel() + 1
    return vector_norm_upper(inflate(total, terms), q, dim=-1).expand(len(domain))


def executed(graph: Graph, arithmetic: Executed) -> Graph:
    """A graph whose values are those that an engine computes in place of the exact ones.

    Raises:
        UnsupportedOpError: when it holds a function (softmax, attention, ...) whose rounding is not known.
    """
    names = frozenset(node.name for node in graph.nodes)
    for node in graph.nodes:
        if isinstance(node, Vector) and not node.function.runs_expanded:
            raise no_expansion(node.function, node.source, node.name, names)
    graph = graph.computed()
    return Graph(graph.output, frozenset(graph.nodes), Execution(arithmetic, frozenset(graph.nodes)))
