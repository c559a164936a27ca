"""Lipschitz constants from Jacobian enclosures and from products of norms; all certified.

Every function returns an upper bound of ``sup ||J||_{p->q}`` over a convex domain, which bounds the Lipschitz
constant by the mean value theorem. Sources: RecurJac (AAAI 2019) eqs. 22-23 for merged columns; merged rows, the chord
of |.| and the split products are ours (ARCHITECTURE.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import induced_norm_upper, vector_norm_upper
from jacobound.arithmetic.rounding import down, up
from jacobound.budget import checkpoint
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node
from jacobound.method.enclosure import JacobianEnclosure
from jacobound.method.facts import Facts
from jacobound.operators.base import LinearOperator
from jacobound.operators.norms import LITTLE_WORK, norms_of_rows, operator_norm


def merged_row_sums(enclosure: JacobianEnclosure) -> Tensor:
    """Upper bounds of ``sum_k |J[j, k]|`` for every set and output j, shape (N, outputs).

    ``|J_k| <= s_k J_k + t_k`` holds with s = ±1, t = 0 where the sign is known, and with the chord of |.| elsewhere;
    ``sum_k s_k J_k`` is one directional derivative, bounded as a whole. The minimum with the published choice (s = 0
    where the sign is unknown), with the plain row sum and with what the enclosure knows of rows is returned.
    """
    found = _merged_sums(enclosure.entries, enclosure.along, -1)
    return found if enclosure.rows is None else torch.minimum(found, enclosure.rows(math.inf))


def merged_column_sums(enclosure: JacobianEnclosure) -> Tensor:
    """Upper bounds of ``sum_j |J[j, k]|`` for every set and input k, shape (N, inputs).

    The mirror image of `merged_row_sums` (ours): a column is summed with signs over the outputs, and the sum is bounded
    as the derivative of one more output. Never above the plain column sum; equal to it for a single output, and for
    enclosures that know their entries alone.
    """
    if enclosure.across is None or enclosure.entries.shape[1] < 2:
        return vector_norm_upper(enclosure.entries.magnitude(), 1, dim=-2)
    return _merged_sums(enclosure.entries, enclosure.across, -2)


def _merged_sums(entries: Interval, signed: Callable[[Tensor], Interval], axis: int) -> Tensor:
    """Sums of absolute values over an axis, from bounds of the sums with given weights."""
    low, high, sizes = entries.lower, entries.upper, entries.magnitude()
    signs = torch.where(low >= 0, 1.0, torch.where(high <= 0, -1.0, 0.0)).to(low)
    uncertain = signs == 0
    width = torch.where(high > low, high - low, 1.0)  # where there is none the sign is known; finite gradients
    slopes = ((high + low) / width).nan_to_num(nan=0.0).clamp(-1.0, 1.0)
    chords = torch.where(uncertain, slopes, signs)
    # The offset must cover |x| - s x at both ends; it is convex, so nowhere is it larger.
    at_high, at_low = up(high - down(slopes * high)), up(-low - down(slopes * low))
    offsets = torch.where(uncertain, torch.maximum(at_high, at_low).clamp(min=0.0), 0.0)
    plain = vector_norm_upper(sizes, 1, dim=axis)
    published = up(signed(signs).upper + vector_norm_upper(torch.where(uncertain, sizes, 0.0), 1, dim=axis))
    chorded = up(signed(chords).upper + vector_norm_upper(offsets, 1, dim=axis))
    return torch.minimum(plain, torch.minimum(published, chorded))


def from_entries(enclosure: JacobianEnclosure, p: float, q: float) -> Tensor:
    """Constant from element-wise bounds, with merged columns for p = inf and merged rows for 1 -> 1 and 2 -> 1."""
    plain = induced_norm_upper(enclosure.entries.lower, enclosure.entries.upper, p, q)
    if p == math.inf:
        return torch.minimum(plain, vector_norm_upper(merged_row_sums(enclosure), q, dim=-1))
    if p == 2 and enclosure.rows is not None:
        plain = torch.minimum(plain, vector_norm_upper(enclosure.rows(2.0), q, dim=-1))
    if q == 1:
        # 1 -> 1 is the largest column sum; for 2 -> 1 the vector of column sums bounds |J x| summed over outputs.
        sums = merged_column_sums(enclosure)
        return torch.minimum(plain, vector_norm_upper(sums, math.inf if p == 1 else 2, dim=-1))
    return plain


def split_products(
    graph: Graph, enclosure: JacobianEnclosure, p: float, q: float, most_work: int = LITTLE_WORK
) -> dict[str, Tensor]:
    """For every node that all paths cross: norm of the derivative behind it times a product of norms before it.

    Args:
        most_work: products that the certificate of one norm may take.

    Returns:
        Certified constants by description, shapes (N or 1,); splitting right before the last layer is the product of
        norms with local slopes, and for p = q the plain product over the whole graph is there too.
    """
    before = norms_before(graph, enclosure.slopes, p, most_work)
    found = {"product of norms": before[graph.output]} if p == q else {}
    for node in graph.crossings:
        checkpoint()
        behind = enclosure.adjoints[node].map(lambda end: end.flatten(2))
        value = up(induced_norm_upper(behind.lower, behind.upper, p, q) * before[node])
        name = f"derivative behind {node.name}, product of norms before"
        found[name] = torch.minimum(value, found[name]) if name in found else value
    return found


def norms_before(graph: Graph, slopes: Facts, p: float, most_work: int = LITTLE_WORK) -> dict[Node, Tensor]:
    """Certified l_p Lipschitz constants of every node as a function of the input, by sums and products of norms.

    Returns:
        Shapes (N or 1,).
    """
    like = graph.example
    found: dict[Node, Tensor] = {}
    for node in graph.nodes:
        checkpoint()
        if isinstance(node, Input):
            found[node] = like.new_ones(1)
        elif isinstance(node, Affine):
            total = like.new_zeros(1)
            for operator, source in node.terms:
                total = up(total + up(_norms(operator, p, _gate(graph, node, slopes), most_work) * found[source]))
            found[node] = total
        else:
            assert isinstance(node, Elementwise)
            steepest = slopes[node].magnitude().flatten(1)
            steepest = steepest.amax(1) if steepest.shape[1] else like.new_zeros(1)
            found[node] = up(found[node.source] * steepest)
    return found


def _gate(graph: Graph, node: Affine, slopes: Facts) -> Tensor | None:
    """Entries (N, *shape) of an affine node that its only reader, an activation, passes on; None when all count."""
    readers = graph.consumers[node]
    if len(readers) != 1 or node is graph.output or not isinstance(readers[0], Elementwise):
        return None
    return slopes[readers[0]].magnitude() != 0


def _norms(operator: LinearOperator, p: float, kept: Tensor | None, most_work: int) -> Tensor:
    """Norms of the rows that count in every set, (N,), or (1,) of all rows; dear certificates are left to `AutoLip`."""
    if kept is None:
        return operator_norm(operator, p, None, most_work).reshape(1)
    return norms_of_rows(operator, p, kept, most_work)
