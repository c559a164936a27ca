"""Lipschitz constants: multipliers of a semidefinite certificate, products of norms, sums of signed columns."""

from __future__ import annotations

import math

import numpy as np

from jacobound_check.errors import UnprovedError
from jacobound_check.jacobians import Core, Derivative, Recursion
from jacobound_check.norms import is_definite, length_above, norm_above, spectral_above
from jacobound_check.operators import Operator
from jacobound_check.rounding import LEAST, Array, Interval, down, gamma, grown, up

SMALLEST, LARGEST = 1e-100, 1e100  # of multipliers: no product of two roots of them leaves the range of floats
MOST_ENTRIES = 1 << 24  # of a matrix whose norm is taken
DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


def by_multipliers(core: Core, p: float, q: float, neurons: Array, inputs: Array, outputs: Array) -> float:
    """The constant that multipliers tau, nu, upsilon > 0 of neurons, inputs and outputs prove (LipSDP on the core).

    If ``diag(upsilon, tau) - B diag(nu, tau) B'`` is positive semidefinite for ``B = [R S; P Q]``, then for every v

        sum nu_k (J'v)_k^2 <= sum upsilon_j v_j^2 + sum tau_i (w_i^2 - z_i^2) <= sum upsilon_j v_j^2,

    with z = S'v + Q'w, w = D z of the transposed derivative, and so ``|J u|_q <= sqrt(c_out c_in) |u|_p`` with c_in the
    sum (p = inf) or the largest of 1 / nu, c_out the sum (q = 1) or the largest of upsilon.

    Raises:
        UnprovedError: when there are too many or too few multipliers, or the matrix is not proved semidefinite.
    """
    count = len(core.middle) - core.outputs
    if (len(neurons), len(inputs), len(outputs)) != (count, core.inputs, core.outputs):
        raise UnprovedError(f"the multipliers do not fit {core.outputs} outputs, {core.inputs} inputs, {count} neurons")
    if not core.inputs or not core.outputs:
        return 0.0
    if not (np.isfinite(core.middle).all() and np.isfinite(core.radius).all()):
        raise UnprovedError("the core of the network is not finite")
    own, inner = np.concatenate((outputs, neurons)), np.concatenate((inputs, neurons))
    if not all(((x >= SMALLEST) & (x <= LARGEST)).all() for x in (own, inner)):
        raise UnprovedError("a multiplier is not a positive number of a sensible size")
    scale, root = 1 / np.sqrt(own), np.sqrt(inner)  # any floats near: what they miss is counted as an error
    middle, radius = (x * scale[:, None] * root for x in (core.middle, core.radius))
    rows, columns = middle.shape
    form = -(middle @ middle.T)
    np.fill_diagonal(form, down(down(down(scale * scale) * own) + np.diagonal(form)))
    size, radius = np.abs(middle), grown(radius, 10)
    most = up(size + radius)
    # Per row: the sums themselves, two products and a root in each entry on both sides, and the core's own radius.
    error = grown(gamma(columns + 24) * grown(size @ size.sum(0), rows + columns + 2), 4)
    error = up(error + grown(most @ radius.sum(0) + radius @ most.sum(0), rows + columns + 4))
    error = up(error + columns * rows * LEAST + 1e-200)
    if not is_definite(form, float(error.max())):
        raise UnprovedError("the matrix of the multipliers is not positive semidefinite")
    inverse = up(1 / inputs)
    entering = grown(inverse.sum(), len(inputs)) if p == math.inf else inverse.max()
    leaving = grown(outputs.sum(), len(outputs)) if q == 1 else outputs.max()
    return float(grown(np.sqrt(grown(entering * leaving, 2)), 3))


def row_sums(recursion: Recursion) -> Array:
    """Upper bounds of ``sum_k |J[j, k]|`` for every output.

    ``|x| <= s x + t`` with s = 1 or -1 and t = 0 where the sign is known, and with the chord of |.| elsewhere (or s = 0
    and t the size); the sum of ``s_k J_k`` is a derivative in one direction, bounded as a whole.
    """
    x = recursion.entries
    signs = np.where(x.low >= 0, 1.0, np.where(x.high <= 0, -1.0, 0.0))
    width = np.where(x.high > x.low, x.high - x.low, 1.0)
    slopes = np.clip((x.high + x.low) / width, -1.0, 1.0)
    chords = np.where(signs == 0, slopes, signs)
    offsets = np.maximum(up(x.high - down(slopes * x.high)), up(-x.low - down(slopes * x.low)))
    offsets = np.where(signs == 0, np.maximum(offsets, 0.0), 0.0)
    found = length_above(x.size(), 1.0)
    for direction, rest in ((signs, np.where(signs == 0, x.size(), 0.0)), (chords, offsets)):
        found = np.minimum(found, up(recursion.along(direction).high + length_above(rest, 1.0)))
    return found


def operator_norm(operator: Operator, p: float, kept: np.ndarray | None = None) -> float:
    """Upper bound of a map's norm from l_p to l_p; of some of its rows alone where they are named."""
    if operator.inputs * operator.outputs > MOST_ENTRIES:
        raise UnprovedError("a map is too large for its norm to be taken as that of a matrix")
    matrix = operator.matrix()
    doubt = None if operator.doubt is None else operator.doubt.matrix()
    if kept is not None:
        matrix, doubt = matrix[kept], None if doubt is None else doubt[kept]
    if p == 2:
        extra = 0.0 if doubt is None else spectral_above(doubt)
        return float(up(np.float64(spectral_above(matrix) + extra))) if extra else spectral_above(matrix)
    radius = np.zeros_like(matrix) if doubt is None else doubt
    return norm_above(
        Interval(down(matrix - radius), up(matrix + radius)) if doubt is not None else Interval.at(matrix), p, p
    )


def norms_ahead(network: Derivative, p: float) -> list[float]:
    """Constants of every node as a function of the input in the l_p norm, by sums and products of norms.

    Rows of a map that its only reader, a gate, can not pass on do not count.
    """
    readers: list[list[Interval | Operator]] = [[] for _ in network.sizes]
    for edge in network.edges:
        for way, source in edge:
            readers[source].append(way)
    found = [1.0]
    for k, edge in enumerate(network.edges[1:], 1):
        gate = readers[k][0] if len(readers[k]) == 1 else None
        kept = gate.size() != 0 if isinstance(gate, Interval) else None
        total = 0.0
        for way, source in edge:
            size = float(way.size().max(initial=0.0)) if isinstance(way, Interval) else operator_norm(way, p, kept)
            part = size * found[source]
            total = float(
                up(np.float64(total + (part if size == 1.0 or found[source] == 1.0 else up(np.float64(part)))))
            )
        found.append(total)
    return found


def crossed(network: Derivative) -> list[int]:
    """Nodes that all paths from the input to the output go through."""
    reads = [min((source for _, source in edge), default=0) for edge in network.edges]
    # A node is passed by no edge when every later node reads nothing before it.
    return [k for k in range(1, network.output) if all(first >= k for first in reads[k + 1 :])]
