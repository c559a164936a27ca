"""The rigorous half of the SDP: multipliers in, certified constant out. The multipliers may come from anywhere.

For positive floats tau, nu, upsilon and the exact matrix ``B = [R S; P Q]`` of a core (`sdp_core`), if

    F = diag(upsilon, tau) - B diag(nu, tau) B'

is positive semidefinite, then for all slopes of the region and every v

    sum_k nu_k (J'v)_k^2 <= sum_j upsilon_j v_j^2 + sum_i tau_i (w_i^2 - z_i^2) <= sum_j upsilon_j v_j^2,

where ``z = S'v + Q'w`` and ``w_i = d_i z_i`` are what the transposed derivative does at the neurons. Hence
``|J u|_q <= sqrt(c_out c_in) |u|_p`` with c_in = sum 1/nu (p = inf) or max 1/nu (p = 1, 2) and c_out = sum upsilon
(q = 1) or max upsilon (q = 2, inf). This is LipSDP-neuron (Fazlyab et al. 2019) on the core, with weights for other
norms as in the D-scaling of robust control; the coupling of neurons in that paper is not valid and not used.

Where a row of neurons is tied, ``w = D z`` with ``||D||_2 <= 1`` for the row as a whole, ``|w|^2 <= |z|^2`` holds for
its sums of squares alone: its tau have to be one number, and then the same sum is at most 0. Other tau prove nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import dual_exponent, eigenvalues, is_positive_definite, vector_norm_upper
from jacobound.arithmetic.rounding import down, gamma, inflate, rigorous, tiny, underflow, up
from jacobound.certificates.dense.barrier import Barrier, Weights
from jacobound.certificates.dense.matrices import SdpCore
from jacobound.errors import InvalidOptionError
from jacobound.stored import stored

# Multipliers outside are refused, so that no product of two factors leaves the range of float64 unnoticed.
SMALLEST, LARGEST = 1e-100, 1e100
ROWS = 256  # of F at a time
MANY = 100  # rows of F from which the first inflation is larger, because each proof costs more
MULTIPLIERS = ("neurons", "inputs", "outputs")
MIXTURES = (1e-9, 1e-6, 1e-4, 1e-2, 1.0)


@stored
@dataclass(frozen=True, eq=False)
class SdpCertificate:
    """A certified constant with what proves it.

    Args:
        value: the constant; infinite when nothing was proved.
        weights: the multipliers.
        norm: (p, q) of the core that they belong to.
    """

    value: float
    weights: Weights
    norm: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Strings and lists alone, ready for JSON: every float in hexadecimal, so that nothing is lost."""
        named = {name: [number.hex() for number in getattr(self.weights, name).tolist()] for name in MULTIPLIERS}
        return {"value": self.value.hex(), "norm": [exponent.hex() for exponent in self.norm], **named}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> SdpCertificate:
        """The certificate that `to_dict` told of. Nothing in it is believed: `lipsdp.recheck` proves it again.

        Raises:
            InvalidOptionError: when an entry is missing, no number, or not the list that it should be.
        """
        named = {name: numbers_of(stored.get(name), name) for name in MULTIPLIERS}
        value, norm = stored_pair(stored)
        return SdpCertificate(value, Weights(**named), norm)


def stored_pair(stored: Mapping[str, Any]) -> tuple[float, tuple[float, float]]:
    """Value and norm of a stored certificate.

    Raises:
        InvalidOptionError: when they are not a number and a pair of numbers.
    """
    norm = numbers_of(stored.get("norm"), "norm")
    if len(norm) != 2:
        raise InvalidOptionError(f"'norm' of a stored certificate holds {len(norm)} numbers; it is a pair (p, q)")
    return float(numbers_of([stored.get("value")], "value")), (float(norm[0]), float(norm[1]))


def numbers_of(stored: object, name: str) -> Tensor:
    """A list of hexadecimal floats as a tensor, float64.

    Raises:
        InvalidOptionError: when it is none.
    """
    if not isinstance(stored, list):
        raise InvalidOptionError(f"a stored certificate has a list of numbers named '{name}'; this one has not")
    try:
        return torch.tensor([float.fromhex(number) for number in stored], dtype=torch.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidOptionError(
            f"'{name}' of a stored certificate holds something that is no float in hexadecimal: {error}"
        ) from error


def certified_constant(core: SdpCore, weights: Weights, norm: tuple[float, float]) -> float:
    """The constant that multipliers prove, rounded up; inf when they prove nothing. Independent of any search.

    Args:
        core: of the Jacobian, with certified radius.
        weights: any floats.
        norm: (p, q), each 1, 2 or inf.
    """
    shapes = (len(weights.neurons), len(weights.inputs), len(weights.outputs))
    if shapes != (core.neurons, core.inputs, core.outputs):
        return math.inf
    if not torch.equal(core.together(weights.neurons), weights.neurons) or not is_feasible(core, weights):
        return math.inf
    p, q = norm
    inverse = up(1 / weights.inputs)
    entering = inflate(inverse.sum(), core.inputs) if p == math.inf else _largest(inverse)
    leaving = inflate(weights.outputs.sum(), core.outputs) if q == 1 else _largest(weights.outputs)
    if not (core.inputs and core.outputs):
        return 0.0
    found = inflate(inflate(entering * leaving, 2).sqrt(), 4)
    return float(found if core.missed is None else inflate(found + _size(core.missed, norm), 1))


def _size(missed: Tensor, norm: tuple[float, float]) -> Tensor:
    """Bound of the norm of every matrix within these magnitudes: of the lengths of its rows, by Hoelder."""
    p, q = norm
    return vector_norm_upper(vector_norm_upper(missed, dual_exponent(p)), q)


def _largest(x: Tensor) -> Tensor:
    return x.amax() if len(x) else x.new_zeros(())


def is_feasible(core: SdpCore, weights: Weights) -> bool:
    """Prove that F is positive definite for every matrix within the core's radius; False means no proof."""
    own, inner = torch.cat((weights.outputs, weights.neurons)), torch.cat((weights.inputs, weights.neurons))
    for part in (own, inner):
        if not bool(((part >= SMALLEST) & (part <= LARGEST)).all()):
            return False  # NaN lands here too
    if not core.is_finite:
        return False
    scale, root = own.rsqrt(), inner.sqrt()  # near them: any floats do, what they miss is added as an error below
    middle = core.matrix * scale.unsqueeze(1) * root
    matrix, error = _scaled_form(middle, down(down(scale * scale) * own))
    radius = core.radius * scale.unsqueeze(1) * root
    return is_positive_definite(matrix, up(error + _doubt(middle, radius)).max().item() if len(matrix) else 0.0)


def _scaled_form(middle: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """Lower triangle of ``diag - C C'`` and, per row, a bound of the sum of its rounding errors."""
    rows, columns = middle.shape
    form = torch.zeros(rows, rows, dtype=torch.float64)
    for start in range(0, rows, ROWS):
        end = min(rows, start + ROWS)
        form[start:end, :end] = -(middle[start:end] @ middle[:end].T)
    form.diagonal().copy_(down(diagonal + form.diagonal()))
    size = middle.abs()
    spread = inflate(size @ size.sum(0), rows + columns + 2)
    # Each entry of C carries two products, one root (within 3 units) and the same again on the other side.
    return form, inflate(spread * gamma(columns + 24, middle), 4) + _floor(middle)


def _doubt(middle: Tensor, radius: Tensor) -> Tensor:
    """Row sums of what the core's radius can change in ``C C'``, at most |C| R' + R |C|' + R R'."""
    rows, columns = middle.shape
    radius = inflate(radius, 10)
    size = up(middle.abs() + radius)
    return inflate(size @ radius.sum(0) + radius @ size.sum(0), rows + columns + 4)


def _floor(middle: Tensor) -> float:
    """Underflow anywhere: entries are products of a float with numbers within 1e-50 and 1e50."""
    if not rigorous():
        return 0.0
    rows, columns = middle.shape
    return underflow(columns, middle) * rows + 1e-200


def certify(
    barrier: Barrier, found: Weights | None, start: Weights | None, norm: tuple[float, float]
) -> SdpCertificate:
    """The best certificate that found multipliers lead to: raised by as little as is needed, mixed, or replaced.

    First the output weights are lowered to the least that the other multipliers allow, and raised by growing factors
    until the proof succeeds. Should none do, the multipliers are mixed with those of the start (a convex combination
    of feasible multipliers is feasible), and at last replaced by diagonally dominant ones.
    """
    core = barrier.core
    if not core.is_finite:
        return SdpCertificate(math.inf, dominant(barrier), norm)
    best: SdpCertificate | None = None
    for tried in _candidates(barrier, found, start):
        candidate = tried if core.ties is None else replace(tried, neurons=core.together(tried.neurons))
        value = certified_constant(core, candidate, norm)
        best = SdpCertificate(value, candidate, norm) if best is None or value < best.value else best
        if value < math.inf:
            break
    assert best is not None
    return best


def _candidates(barrier: Barrier, found: Weights | None, start: Weights | None) -> Iterator[Weights]:
    core, last = barrier.core, dominant(barrier)
    start = last if start is None else start
    for weights in (found, start, last):
        if weights is None:
            continue
        least = _least_outputs(barrier, weights)
        if least is not None:
            first = 8 if len(core.matrix) > MANY else 10
            for power in range(first, 0, -1):
                yield Weights(weights.neurons, weights.inputs, least * (1 + 10.0**-power))
        yield weights
        if weights is found:
            for share in MIXTURES:
                yield _mixed(weights, start, share)


def _least_outputs(barrier: Barrier, weights: Weights) -> Tensor | None:
    """The output weights, scaled together to the least for which F is semidefinite (in floating point)."""
    inputs = weights.inputs.log() if barrier.free_inputs else weights.inputs[:0]
    needed = barrier.needed(torch.cat((weights.neurons.log(), inputs)))
    if needed is None or not len(needed):
        return None
    scale = weights.outputs.rsqrt()
    scaled = needed * scale * scale.unsqueeze(1)
    if not bool(torch.isfinite(scaled).all()):
        return None
    return weights.outputs * eigenvalues(scaled)[-1].clamp(min=tiny(torch.float64))


def _mixed(one: Weights, other: Weights, share: float) -> Weights:
    """A convex combination."""
    pairs = ((one.neurons, other.neurons), (one.inputs, other.inputs), (one.outputs, other.outputs))
    return Weights(*((1 - share) * a + share * b for a, b in pairs))


def dominant(barrier: Barrier, margin: float = 1.3) -> Weights:
    """Weights for which F is diagonally dominant, errors of the core included: they always prove something."""
    core = barrier.core
    q, p = core.outputs, core.inputs
    size = core.matrix.abs() + core.radius
    inputs = barrier.input_weights
    total = torch.cat((inputs, torch.zeros(core.neurons, dtype=torch.float64))) * size.sum(0)
    sums = size.sum(0)
    start = 0
    neurons = torch.zeros(core.neurons, dtype=torch.float64)
    for count in core.blocks:
        rows = slice(start, start + count)
        part = margin * (size[q + start : q + start + count] @ total)
        neurons[rows] = core.together(part.clamp(min=SMALLEST), start)
        total[p + start : p + start + count] = neurons[rows] * sums[p + start : p + start + count]
        start += count
    outputs = (margin * (size[:q] @ total)).clamp(min=SMALLEST)
    if not barrier.free_outputs and q:
        outputs = outputs.max().expand(q).clone()
    return Weights(neurons, inputs, outputs)
