"""Multipliers for certificates layer by layer: closed forms, and their improvement by gradients. Plain floating point.

Closed forms: V is in proportion to the absolute row sums of Z (Syed and Hu, "Improved scalable Lipschitz bounds for
deep neural networks", 2025, have such diagonal families), scaled by the largest eigenvalue so that V is `margin` times
what Z asks for at least; a multiple of the identity with margin 2 would be ECLipsE-Fast.

Gradients: with the stored factors of one sweep the derivative of the constant with respect to every multiplier costs
matrix-vector products only. The largest eigenvalue at the end is smoothed. A chain is best swept towards its larger
end: there the optimum has several largest eigenvalues, which smoothing handles, and S stays away from singular.

The sweep, in the notation of `chain` (slopes m + r d, ``|d| <= 1``, unstable neurons U). Y starts as the diagonal
matrix of the entering weights; ``a'Ya`` bounds the weighted square sum of the entering adjoints when a is the adjoint
in front of layer W. With Z = W Y W' it is ``b'Zb`` for the adjoint b behind W, and where a is now the adjoint behind
the neurons, ``b = m a + h`` with ``h = d g``, ``g = r a``. For any V > 0 on U

    b'Zb <= (m a + h)' Z (m a + h) + sum_U V (g^2 - h^2)                                  since h^2 <= g^2
         <= a' [ m (Z + Z_U' S^-1 Z_U) m + diag(r^2 V) ] a  =: a' Y_next a,               S = V - Z_UU,

the second line being the maximum over all h, which is finite exactly where S is positive definite (elsewhere the
multipliers prove nothing, and the value is inf). Source: the elimination of ECLipsE (Xu, Sivaranjani, NeurIPS 2024).
By the envelope theorem the maximiser h may be held fixed: the value changes with log V by ``V (g^2 - h^2)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, log

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import dual_exponent, eigenvalues, eigenvectors
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.certificates.layered.descent import SMOOTHING, Ends, Evaluation, Over, descended

LARGE = 400  # from this many neurons in a layer on the search runs in float32
WORTH = 1e-6  # weights of eigenvectors below are left out


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Weights of a swept chain, as logarithms.

    Args:
        neurons: of V, layer by layer.
        entering: of the diagonal matrix that the sweep begins with.
        leaving: of the weights of the space where it ends.
    """

    neurons: tuple[Tensor, ...]
    entering: Tensor
    leaving: Tensor

    def to(self, kind: torch.dtype) -> Multipliers:
        return Multipliers(tuple(part.to(kind) for part in self.neurons), self.entering.to(kind), self.leaving.to(kind))


@dataclass(frozen=True, eq=False)
class Sweep:
    """One direction of a chain, and the norms at its ends.

    Args:
        chain: in the order of the sweep.
        p, q: norms of the space where it begins and of that where it ends.
    """

    chain: LayeredChain
    p: float
    q: float

    @staticmethod
    def of(chain: LayeredChain, norm: tuple[float, float], turned: bool) -> Sweep:
        """The sweep over a chain, or over the transposed one with the dual norms."""
        if turned:
            return Sweep(chain.transposed(), dual_exponent(norm[1]), dual_exponent(norm[0]))
        return Sweep(chain, *norm)

    def single(self) -> Sweep:
        """A sweep in float32: enough to steer by."""
        return replace(self, chain=self.chain.to(torch.float32))

    @property
    def free_entering(self) -> bool:
        return self.p == inf

    @property
    def free_leaving(self) -> bool:
        return self.q == 1 and self.chain.outputs > 1

    def forms(self, found: Multipliers) -> _Forms | None:
        """Y in front of the last layer with the factors of the others; None where some V is not above its Z."""
        chain, factors = self.chain, []
        form = torch.diag(found.entering.exp())
        for k, matrix in enumerate(chain.matrices[:-1]):
            form = matrix @ form @ matrix.T
            weights, unstable = found.neurons[k].exp(), chain.unstable[k]
            factor, failed = torch.linalg.cholesky_ex(torch.diag(weights) - form[unstable][:, unstable])
            if bool(failed):
                return None
            solved = torch.linalg.solve_triangular(factor, form[unstable], upper=False)
            factors.append((factor, solved))
            form = _behind(form, solved, chain.middles[k], chain.halves[k], unstable, weights)
        return _Forms(form, factors) if bool(torch.isfinite(form).all()) else None

    def closed_form(self, margin: float) -> tuple[float, Multipliers]:
        """Logarithm of the squared constant, and multipliers, by the closed form."""
        chain = self.chain
        entering = torch.zeros(chain.inputs, dtype=torch.float64)
        if self.free_entering:
            size = self._sizes_at_start()
            entering = -(size / size.mean().clamp(min=1e-300) + 0.3).log()
        form, neurons = torch.diag(entering.exp()), []
        for k, matrix in enumerate(chain.matrices[:-1]):
            form = matrix @ form @ matrix.T
            unstable = chain.unstable[k]
            inner = form[unstable][:, unstable]
            weights = margin * dominating(inner)
            factor, failed = torch.linalg.cholesky_ex(torch.diag(weights) - inner)
            if bool(failed):
                return inf, Multipliers((), entering, entering)
            solved = torch.linalg.solve_triangular(factor, form[unstable], upper=False)
            neurons.append(weights.log())
            form = _behind(form, solved, chain.middles[k], chain.halves[k], unstable, weights)
        leaving = torch.zeros(chain.outputs, dtype=torch.float64)
        if self.free_leaving:
            last = chain.matrices[-1]
            size = (last * (last @ form)).sum(1).clamp(min=0).sqrt()
            leaving = -(size / size.mean().clamp(min=1e-300) + 0.1).log()
        found = Multipliers(tuple(neurons), entering, leaving)
        if not bool(torch.isfinite(form).all()):
            return inf, found
        end = self._ending(form, found, SMOOTHING[-1])
        return inf if end is None else end.value, found

    def _sizes_at_start(self) -> Tensor:
        """A guess of how much every entry of the first space matters: as if all slopes had independent signs."""
        form = torch.eye(self.chain.outputs, dtype=torch.float64)
        for k in reversed(range(len(self.chain.matrices))):
            matrix = self.chain.matrices[k]
            form = matrix.T @ form @ matrix
            if k:
                sizes = form.diagonal() * self.chain.halves[k - 1].square()
                form = form * torch.outer(self.chain.middles[k - 1], self.chain.middles[k - 1])
                form.diagonal().add_(sizes)
        return form.diagonal().clamp(min=0).sqrt()

    def _ending(self, form: Tensor, found: Multipliers, smoothing: float) -> _Ending | None:
        """The value at the end and its derivative as weighted vectors; None where numbers leave their range.

        Args:
            form: Y in front of the last layer.
        """
        root = (0.5 * found.leaving).exp()
        sizes, vectors = self._spectrum(form, root)
        if not bool(torch.isfinite(sizes).all()):
            return None
        # The smoothed maximum is a power mean, so that scaling a chain changes nothing but the value.
        sizes = sizes.clamp(min=max(1e-6 * float(sizes.amax()), 1e-30))
        relative = (sizes / sizes.amax()).log() / smoothing
        shares = torch.softmax(relative, 0)
        kept = shares > WORTH
        if vectors is None:
            vectors = torch.eye(len(sizes), dtype=sizes.dtype)
        vectors, shares, sizes = vectors[:, kept], shares[kept], sizes[kept]
        value = log(float(sizes.amax()))
        smooth = value + smoothing * float(torch.logsumexp(relative, 0))
        leaving = torch.zeros_like(found.leaving)
        if self.free_entering:
            total = float(torch.logsumexp(-found.entering, 0))
            value, smooth = value + total, smooth + total
        if self.free_leaving:
            total = float(torch.logsumexp(-found.leaving, 0))
            value, smooth = value + total, smooth + total
            leaving = vectors.square() @ shares - torch.softmax(-found.leaving, 0)
        return _Ending(value, smooth, vectors * root.unsqueeze(1), shares / sizes, leaving)

    def _spectrum(self, form: Tensor, root: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is to be maximised at the end: eigenvalues with vectors, or the diagonal of Z (vectors None).

        Args:
            form: Y in front of the last layer.
            root: roots of the weights behind it.
        """
        matrix = self.chain.matrices[-1]
        if self.q == inf or len(matrix) == 1:
            return (matrix * (matrix @ form)).sum(1), None
        matrix = matrix * root.unsqueeze(1)
        if len(matrix) > len(form):
            # The same eigenvalues from the smaller side, but for zeros.
            jitter = torch.finfo(form.dtype).eps * form.diagonal().sum()
            factor, failed = torch.linalg.cholesky_ex(form + jitter * torch.eye(len(form), dtype=form.dtype))
            if not bool(failed):
                half = matrix @ factor
                sizes, inner = eigenvectors(half.T @ half)
                return sizes, (half @ inner) * sizes.clamp(min=1e-30).rsqrt()
        return eigenvectors(matrix @ form @ matrix.T)

    def evaluate(self, found: Multipliers, smoothing: float) -> tuple[float, float, Multipliers | None, float]:
        """Value, smoothed value, its gradient over the logarithms, and a lower end of the smallest value.

        Infinite, without a gradient, where the multipliers prove nothing.
        """
        found = found.to(self.chain.matrices[0].dtype)
        forms = self.forms(found)
        end = None if forms is None else self._ending(forms.form, found, smoothing)
        if forms is None or end is None:
            return inf, inf, None, -inf
        chain = self.chain
        adjoint = chain.matrices[-1].T @ end.vectors
        dual = _Dual(adjoint, end.shares)
        slopes: list[Tensor] = []
        for k in reversed(range(len(chain.halves))):
            factor, solved = forms.factors[k]
            unstable = chain.unstable[k]
            passed = chain.middles[k].unsqueeze(1) * adjoint
            inner = torch.linalg.solve_triangular(factor.T, solved @ passed, upper=True)
            direct = chain.halves[k][unstable].unsqueeze(1) * adjoint[unstable]
            slopes.append(found.neurons[k].exp() * ((direct.square() - inner.square()) @ end.shares))
            dual.through(chain, k, factor, solved)
            passed[unstable] += inner
            adjoint = chain.matrices[k].T @ passed
        entering = torch.zeros_like(found.entering)
        if self.free_entering:
            entering = found.entering.exp() * (adjoint.square() @ end.shares) - torch.softmax(-found.entering, 0)
        gradient = Multipliers(tuple(slopes[::-1]), entering, end.leaving)
        return end.value, end.smooth, gradient.to(torch.float64), self._least(dual, end)

    def _least(self, dual: _Dual, end: _Ending) -> float:
        """A lower end of the smallest value, where the norms are Euclidean at both ends."""
        if self.q != 2 or self.p != 2:
            return -inf
        before, after = (float(part.square().sum(0) @ end.shares) for part in (end.vectors, dual.adjoint))
        return log(after / before) if before > 0 and after > 0 else -inf


@dataclass(eq=False)
class _Dual:
    """Adjoints that the certificate could not tell from those of a network, pushed back; lives for one evaluation.

    For any random adjoint at the end and any h that is linear in it with ``E h_i^2 <= E g_i^2`` at every neuron, no
    choice of V makes the constant smaller than ``E |a|^2`` in front over ``E |a|^2`` at the end: the sums of V vanish
    or count for it. The maximiser h of the multipliers is near the best one; entry by entry it is scaled to equality.

    Args:
        adjoint: in front of the layer reached, shape (n, vectors).
        shares: of the vectors in the expectation.
    """

    adjoint: Tensor
    shares: Tensor

    def through(self, chain: LayeredChain, k: int, factor: Tensor, solved: Tensor) -> None:
        """Back through the neurons and the layer of number k."""
        unstable = chain.unstable[k]
        passed = chain.middles[k].unsqueeze(1) * self.adjoint
        inner = torch.linalg.solve_triangular(factor.T, solved @ passed, upper=True)
        direct = chain.halves[k][unstable].unsqueeze(1) * self.adjoint[unstable]
        wanted, found = (part.square() @ self.shares for part in (direct, inner))
        passed[unstable] += inner * (wanted / found.clamp(min=1e-300)).sqrt().unsqueeze(1)
        self.adjoint = chain.matrices[k].T @ passed


@dataclass(frozen=True, eq=False)
class _Forms:
    """Y in front of the last layer, and for every layer before the factor of S and what it makes of Z_U."""

    form: Tensor
    factors: list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class _Ending:
    """Value and smoothed value, logarithms of squares; the derivative with respect to Z is a sum over vectors."""

    value: float
    smooth: float
    vectors: Tensor
    shares: Tensor
    leaving: Tensor


def _behind(form: Tensor, solved: Tensor, middle: Tensor, half: Tensor, unstable: Tensor, weights: Tensor) -> Tensor:
    found = (form + solved.T @ solved) * torch.outer(middle, middle)
    found.diagonal()[unstable] += half[unstable].square() * weights
    return found


def dominating(matrix: Tensor) -> Tensor:
    """A diagonal above a positive semidefinite matrix, in proportion to its absolute row sums; shape (n,)."""
    if not len(matrix):
        return matrix.new_zeros(0)
    size = matrix.abs().sum(1)
    size = size.clamp(min=max(1e-8 * float(size.max()), 1e-90))
    scaled = matrix * size.rsqrt() * size.rsqrt().unsqueeze(1)
    return size * eigenvalues(scaled)[-1].clamp(min=1e-3)


def best_closed_form(sweep: Sweep, over: Over) -> tuple[float, Multipliers]:
    """The closed form with the best margin, which is searched from 1.5 in steps."""
    margin, factor = 1.5, 1.25
    best = sweep.closed_form(margin)
    for direction in (factor, 1 / factor):
        at = margin
        while not over() and 1.02 < at * direction < 16:
            at *= direction
            found = sweep.closed_form(at)
            if not found[0] < best[0]:
                break
            best = found
        if at != margin * direction:
            break  # the first step this way was a good one
    return best


def improved(
    sweep: Sweep,
    start: tuple[float, Multipliers],
    over: Over,
    tolerance: float,
    enough: float = -inf,
    least: float = -inf,
) -> tuple[float, Multipliers, float]:
    """Better multipliers by L-BFGS on smoothed values; the best ones that were met, however early it ends.

    Args:
        start: logarithm of the squared constant, and multipliers.
        over: asked before every evaluation; true ends the search.
        tolerance: relative distance of the constant from the optimum at which it ends.
        enough: value at which it ends as well.
        least: a lower end of the optimum that is known already.

    Returns:
        Logarithm of the squared constant, multipliers, and a number that the optimum is not below (up to rounding).
    """
    whole = _Flat(sweep, [len(part) for part in start[1].neurons])
    objective = whole if sweep.chain.widest < LARGE else replace(whole, sweep=sweep.single())
    found = descended(objective, whole, (start[0], whole.joined(start[1])), over, Ends(2 * tolerance, enough, least))
    return found.value, whole.split(found.at), found.least


@dataclass(frozen=True, eq=False)
class _Flat:
    """Multipliers of a sweep as one vector."""

    sweep: Sweep
    sizes: list[int]

    def joined(self, found: Multipliers) -> Tensor:
        return torch.cat((*found.neurons, found.entering, found.leaving))

    def split(self, at: Tensor) -> Multipliers:
        ends = [self.sweep.chain.inputs, self.sweep.chain.outputs]
        *neurons, entering, leaving = at.split([*self.sizes, *ends])
        return Multipliers(tuple(neurons), entering, leaving)

    def evaluate(self, at: Tensor, smoothing: float) -> Evaluation:
        value, smooth, gradient, least = self.sweep.evaluate(self.split(at), smoothing)
        return Evaluation(value, smooth, None if gradient is None else self.joined(gradient), least)
