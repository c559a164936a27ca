"""The core of a deep network: floats from a forward sweep, and one bound of all that they miss of the Jacobian.

Radii of rows that are pushed back (`matrices`) grow by absolute values in every layer and enter the constant in first
order. Here unit tangents of the inputs and of the unstable neurons go forwards through the middle slopes m. The floats
R, S, P, Q that come out are a core of their own, with a Jacobian

    J~ u = R u + S w,    z = P u + Q w,    w = d r z,

and for every choice of slopes, with the same d on both sides,

    |J - J~| <= error[inputs] + sum over blocks b of error[b] diag(r_b) Z_b,
    Z_b = |P_b| + sum over blocks a before b of |Q_ba| diag(r_a) Z_a.

Derivation: ``v = sum_k V_k u_k + sum_i V_i w_i`` with the computed tangents V obeys the network's equations but for
the defects of the columns, at an unstable neuron exactly (entries of P and Q *are* its computed tangents), so d acts on
the same z. What a defect at a node moves the output by is at most the derivative with respect to that node times its
size: that is `UnstableCore.error` (`jacobian/core.py`), per unit of a column; ``|w| <= r Z`` is what a unit input gives
the columns. Hence ``||J|| <= ||J~|| + ||that bound||``. Source: this project.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import inflate
from jacobound.certificates.dense.matrices import SdpCore, scaled, whole_core
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Node, size
from jacobound.jacobian.core import UnstableCore, build_core
from jacobound.jacobian.fastlip import interval_adjoints
from jacobound.jacobian.known_slopes import KnownSlopes, middle_slopes
from jacobound.jacobian.rounding_weights import defect_weights
from jacobound.jacobian.tangents import path_sums
from jacobound.method import Facts
from jacobound.operators.kinds import Identity

# Radii in relation to the matrix beyond which they are rounding of many layers. Shallow networks stay below 1e-12.
GROWN = 1e-7


def sdp_core(graph: Graph, slopes: Facts, ties: Mapping[Node, int] | None = None) -> SdpCore:
    """The core of a graph without what changes nothing; entries that can not be bounded get an infinite radius.

    Args:
        slopes: derivative range of every elementwise node.
        ties: nodes whose rows are tied, with the length of a row (`Derivative.ties`).
    """
    core = whole_core(graph, slopes, ties)
    grown = not float(core.radius.norm()) <= GROWN * float(core.matrix.norm())
    forwards = forward_core(graph, slopes) if grown and core.ties is None else None  # tied rows bound z otherwise
    # Where many layers are uncertain, absolute values of their neurons may make the one bound the larger one.
    if forwards is not None and forwards.is_finite and _length(forwards.missed) < _length(core.radius):
        core = forwards
    return core.pruned()


def _length(entries: Tensor | None) -> float:
    return 0.0 if entries is None else float(entries.norm())


def forward_core(graph: Graph, slopes: Facts) -> SdpCore | None:
    """The core with `SdpCore.missed`; None when there was no time for it.

    Args:
        slopes: derivative range of every elementwise node.
    """
    lifted: Facts = {
        node: slope.map(lambda end, node=node: end.reshape(1, *node.shape)) for node, slope in slopes.items()
    }
    known = KnownSlopes.of(lifted)
    graph = _read_out(graph)
    weights = defect_weights(graph, known.ranges, interval_adjoints(graph, lifted), known.defects)
    parts = {node: middle_slopes(slope.map(lambda end: end.flatten(1))) for node, slope in known.ranges.items()}
    core = build_core(
        graph, known.ranges, weights, defects=known.defects, through={node: part[0] for node, part in parts.items()}
    )
    if core is None:
        return None
    halves = {block: _exact(parts[block][1][0, core.unstable[block].union]) for block in core.blocks}
    matrix = _matrix(graph, core)
    factor = torch.cat((matrix.new_ones(size(graph.input)), *(halves[block] for block in core.blocks)))
    missed = _missed(graph, core, halves)
    # Where no path leads the derivative is 0, and so is that of the floats: floors for underflow are left out.
    missed = torch.where(_exact(path_sums(graph, lifted, lambda sums: (sums > 0).to(sums))[0]) == 0, 0.0, missed)
    blocks = tuple(len(core.unstable[block]) for block in core.blocks)
    columns = scaled(matrix, torch.zeros_like(matrix), factor)
    return SdpCore(*columns, size(graph.output), size(graph.input), blocks, missed=missed)


def _read_out(graph: Graph) -> Graph:
    """The graph with an affine output of one axis, as the sweeps take it."""
    output = graph.output
    if isinstance(output, Affine) and len(output.shape) == 1:
        return graph
    return Graph(Affine(((Identity(output.shape, (size(output),), graph.example), output),)))


def _exact(x: Tensor) -> Tensor:
    return x.to("cpu", torch.float64)


def _matrix(graph: Graph, core: UnstableCore) -> Tensor:
    """``[R S; P Q]`` of one set."""
    columns = {graph.input: size(graph.input), **{block: len(core.unstable[block]) for block in core.blocks}}
    rows: dict[Node, int] = {**columns, graph.output: size(graph.output)}

    def part(target: Node, start: Node) -> Tensor:
        found = core.transfer.get((target, start))
        shape = (rows[target], columns[start])
        return torch.zeros(shape, dtype=torch.float64) if found is None else _exact(found[0].mT)

    targets = (graph.output, *core.blocks)
    return torch.cat([torch.cat([part(target, start) for start in columns], 1) for target in targets])


def _missed(graph: Graph, core: UnstableCore, halves: Mapping[Elementwise, Tensor]) -> Tensor:
    """Bound of ``|J - J~|`` entry by entry, shape (outputs, inputs)."""
    inputs, behind = size(graph.input), dict[Elementwise, Tensor]()
    total = _exact(core.error[graph.input][0])
    for block in core.blocks:
        found = core.transfer.get((block, graph.input))
        reach = total.new_zeros(len(halves[block]), inputs) if found is None else _exact(found[0].mT).abs()
        terms = 2
        for before, sizes in behind.items():
            if (block, before) in core.transfer:
                reach = reach + (_exact(core.transfer[block, before][0].mT).abs() * halves[before]) @ sizes
                terms += len(sizes) + 2
        behind[block] = inflate(reach, terms)
        error = _exact(core.error[block][0]) * halves[block]
        total = inflate(total + error @ behind[block], len(halves[block]) + 3)
    return total
