"""The objective behind the SDP certificates, its derivatives, and a feasible start. Plain floating point, no rigour.

With ``B = [P Q; R S]`` (neurons first, then outputs) and positive weights tau, nu, upsilon the matrix

    F = diag(tau, upsilon) - B diag(nu, tau) B'

positive definite proves ``sum_k nu_k (J'v)_k^2 <= sum_j upsilon_j v_j^2`` for all slopes of the region, hence a
constant ``sqrt(c_in(nu) c_out(upsilon))``. F is linear in the weights and as large as outputs and neurons together.
The search minimises ``log c_out + log c_in - beta log det(D F D)``, D = diag(tau, upsilon)^(-1/2), over the logarithms
of the weights: the determinant does not change with the scale of any weight, so neurons that matter little cost
nothing.

Why F proves it (the S-procedure of LipSDP-Neuron, Fazlyab et al. 2019, on the core and in adjoint form). Slopes are
scaled to ``w = d z`` with ``|d_i| <= 1``. For output weights v let y be the adjoints of z, and g those of w:
``y_i = d_i g_i`` and ``B'(y, v) = (J'v, g)``. Then

    0 <= (y, v)' F (y, v) = sum_i tau_i (y_i^2 - g_i^2) + sum_j upsilon_j v_j^2 - sum_k nu_k (J'v)_k^2,

and the first sum is at most 0, because tau > 0 and ``|y_i| <= |g_i|``: this is where the signs of the weights matter.
The norms follow: ``||J'v||_1^2 <= (sum 1 / nu) sum nu (J'v)^2`` for p = inf (Cauchy and Schwarz; c_in = sum 1 / nu),
and c_out is the largest ``sum upsilon v^2`` over the dual ball of q: their sum for q = 1, else the largest one.

Derivatives: ``-log det(D F D) = -log det F + sum of the logs of tau and upsilon``, and F is a sum of terms e^theta A:
``A = e e' - b b'`` for a neuron (e its unit vector, b its column of B), ``-b b'`` for an input, ``e e'`` for an output.
With G the scaled inverse of F and C the scaled columns b, ``tr(F^-1 e^theta A)`` is G_ii - (C'GC)_ii, and the second
derivatives are the squares of entries of G and C'GC less those of GC, as `_barrier_derivatives` adds them up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jacobound.arithmetic.linalg import eigenvalues
from jacobound.budget import checkpoint
from jacobound.certificates.dense.matrices import SdpCore
from jacobound.stored import stored

# Groups of neurons are joined up to this size, so that products stay few.
GROUP = 48
# From this size on second derivatives are formed in float32: they only steer the search.
LARGE = 400


@stored
@dataclass(frozen=True, eq=False)
class Weights:
    """Multipliers of a certificate, all positive floats.

    Args:
        neurons: tau, shape (neurons,).
        inputs: nu, shape (inputs,).
        outputs: upsilon, shape (outputs,).
    """

    neurons: Tensor
    inputs: Tensor
    outputs: Tensor


@dataclass(frozen=True, eq=False)
class Point:
    """A feasible point of the search.

    Args:
        logs: logarithms of tau and, where inputs are free, nu.
        output_logs: logarithms of upsilon, one number where it is uniform.
        factor: Cholesky factor of D F D.
        value: the objective without its barrier.
        barrier: ``-log det(D F D)``.
    """

    logs: Tensor
    output_logs: Tensor
    factor: Tensor
    value: float
    barrier: float

    def merit(self, beta: float) -> float:
        return self.value + beta * self.barrier


@dataclass(frozen=True, eq=False)
class Derivatives:
    """Of the barrier, and of the objective ``log sum exp(output_logs) + log sum exp(-input logs)``.

    Args:
        gradient: of the barrier.
        hessian: of the barrier; only the lower triangle counts.
        shares: gradient of the objective.
        outer: where the output weights begin.
    """

    gradient: Tensor
    hessian: Tensor
    shares: Tensor
    outer: int

    def combined(self, beta: float) -> tuple[Tensor, Tensor]:
        """Gradient, and lower triangle of the Hessian, of objective plus `beta` times barrier."""
        total = self.hessian * beta
        for part in (slice(0, self.outer), slice(self.outer, len(self.shares))):
            share = self.shares[part]
            if bool((share != 0).any()) and len(share):
                used = slice(int((share != 0).nonzero()[0]), len(share))
                block = total[part, part][used, used]
                block.addr_(share[used], share[used], alpha=-1.0)
                block.diagonal().add_(share[used].abs())
        return self.shares + beta * self.gradient, total


@dataclass(frozen=True, eq=False)
class Barrier:
    """The search problem of one core.

    Args:
        core: finite; its radius plays no part here.
        free_inputs: whether every input has its own weight (p = inf) or all have weight 1.
        free_outputs: whether every output has its own weight (q = 1) or all the same.
    """

    core: SdpCore
    free_inputs: bool
    free_outputs: bool

    @cached_property
    def matrix(self) -> Tensor:
        """Rows of neurons, then of outputs; columns of inputs, then of neurons."""
        q = self.core.outputs
        return torch.cat((self.core.matrix[q:], self.core.matrix[:q]))

    @cached_property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """Ranges of neurons; within each one, and to later ones, Q has no entries that matter for its rows."""
        found, start, end = [], 0, 0
        for count in self.core.blocks:
            end += count
            if end - start >= GROUP:
                found.append((start, end))
                start = end
        return tuple(found) if start == end else (*found, (start, end))

    @cached_property
    def variables(self) -> Tensor | None:
        """The variable behind every weight, for neurons, inputs and outputs in a row; None where each has its own."""
        if self.core.ties is None:
            return None
        rows = self.core.ties.unique(return_inverse=True)[1]
        others = (self.core.inputs if self.free_inputs else 0) + (self.core.outputs if self.free_outputs else 1)
        return torch.cat((rows, (int(rows.max()) + 1 if len(rows) else 0) + torch.arange(others)))

    @cached_property
    def _input_gram(self) -> Tensor:
        part = self.matrix[:, : self.core.inputs]
        return part @ part.T

    def weights(self, point: Point) -> Weights:
        """The multipliers that a point stands for."""
        neurons, inputs = self.weights_of(point.logs)
        return Weights(self.core.together(neurons), inputs, point.output_logs.exp().expand(self.core.outputs).clone())

    def weights_of(self, logs: Tensor) -> tuple[Tensor, Tensor]:
        """tau and nu from their logarithms."""
        neurons, inputs = logs.exp().split((self.core.neurons, len(logs) - self.core.neurons))
        return neurons, inputs if self.free_inputs else torch.ones(self.core.inputs, dtype=torch.float64)

    def gram(self, logs: Tensor, rows: tuple[int, int], below: int) -> Tensor:
        """Rows of ``B diag(nu, tau) B'`` up to column `rows[1]`, from inputs and the first `below` neurons."""
        start, end = rows
        inputs, neurons = self.core.inputs, self.core.neurons
        tau = logs[:below].exp()
        if self.free_inputs:
            weight = torch.cat((logs[neurons:].exp(), tau))
            columns = self.matrix[:, : inputs + below]
            return (columns[start:end] * weight) @ columns[:end].T
        columns = self.matrix[:, inputs : inputs + below]
        return self._input_gram[start:end, :end] + (columns[start:end] * tau) @ columns[:end].T

    def _scaled_neurons(self, logs: Tensor) -> Tensor:
        """The lower triangle of D F D on the neurons."""
        count = self.core.neurons
        scale = (-0.5 * logs[:count]).exp()
        found = torch.zeros(count, count, dtype=torch.float64)
        for start, end in self.groups:
            found[start:end, :end] = -self.gram(logs, (start, end), end)
        found *= scale.unsqueeze(1) * scale
        found.diagonal().add_(1.0)
        return found

    @cached_property
    def input_weights(self) -> Tensor:
        """A guess of nu: 1, or with free inputs the inverse sizes of the columns, none much larger than the rest."""
        core = self.core
        if self.free_inputs:
            for rows in (core.matrix[: core.outputs], core.matrix[core.outputs :]):
                size = rows[:, : core.inputs].square().sum(0).sqrt()
                if bool(size.any()) and bool(torch.isfinite(size).all()):
                    return 1 / (size / size.mean() + 0.3)
        return torch.ones(core.inputs, dtype=torch.float64)

    def _eliminated(self, logs: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Cholesky factor on the neurons, the border to the outputs, and the least ``diag(upsilon)`` must dominate."""
        checkpoint()
        count, total = self.core.neurons, len(self.matrix)
        factor, failed = torch.linalg.cholesky_ex(self._scaled_neurons(logs))
        if bool(failed) or not bool(torch.isfinite(factor).all()):
            return None
        rest = self.gram(logs, (count, total), count)
        border = torch.linalg.solve_triangular(factor, (rest[:, :count] * (-0.5 * logs[:count]).exp()).T, upper=False)
        needed = rest[:, count:] + border.T @ border
        return (factor, border, needed) if bool(torch.isfinite(needed).all()) else None

    def needed(self, logs: Tensor) -> Tensor | None:
        """What ``diag(upsilon)`` has to dominate for these weights; None where nothing suffices."""
        parts = self._eliminated(logs)
        return None if parts is None else parts[2]

    def worst(self, logs: Tensor) -> tuple[Tensor, Tensor] | None:
        """For a single output: the least upsilon, and the neurons' tangents (neurons,) that ask for it."""
        parts = self._eliminated(logs)
        if parts is None:
            return None
        factor, border, needed = parts
        tangents = torch.linalg.solve_triangular(factor.T, border, upper=True)[:, 0]
        return needed[0, 0], tangents * (-0.5 * logs[: self.core.neurons]).exp()

    def evaluate(self, logs: Tensor, outputs: Tensor | None, beta: float) -> Point | None:
        """The point with these logarithms; None where F is not positive definite.

        Args:
            outputs: logarithms of the free output weights; None for uniform ones, whose best value is found here.
        """
        parts = self._eliminated(logs)
        if parts is None:
            return None
        factor, border, needed = parts
        count, total = self.core.neurons, len(self.matrix)
        if outputs is None:
            outputs = _best_uniform(needed, beta)
        scale = (-0.5 * outputs).exp().expand(total - count)
        corner, failed = torch.linalg.cholesky_ex(
            torch.eye(total - count, dtype=torch.float64) - needed * scale * scale.unsqueeze(1)
        )
        if bool(failed):
            return None
        whole = torch.zeros(total, total, dtype=torch.float64)
        whole[:count, :count] = factor
        whole[count:, :count] = -border.T * scale.unsqueeze(1)
        whole[count:, count:] = corner
        value = float(torch.logsumexp(outputs, 0))
        if self.free_inputs:
            value += float(torch.logsumexp(-logs[count:], 0))
        barrier = -2 * float(whole.diagonal().log().sum())
        if not (abs(value) < torch.inf and abs(barrier) < torch.inf):
            return None
        return Point(logs, outputs, whole, value, barrier)

    def derivatives(self, point: Point) -> Derivatives:
        """First and second derivatives over (logs, output_logs)."""
        gradient, hessian = self._barrier_derivatives(point)
        count = self.core.neurons
        shares = torch.zeros_like(gradient)
        if self.free_inputs:
            shares[count : len(point.logs)] = -torch.softmax(-point.logs[count:], 0)
        shares[len(point.logs) :] = torch.softmax(point.output_logs, 0)
        return Derivatives(gradient, hessian, shares, len(point.logs))

    def _barrier_derivatives(self, point: Point) -> tuple[Tensor, Tensor]:
        """Gradient and Hessian (lower triangle) of ``-log det(D F D)``."""
        n, p, q = self.core.neurons, self.core.inputs, self.core.outputs
        units, mixed, columns, (on_units, on_columns) = self._products(point)
        free = len(point.logs) - n
        gradient = torch.cat((on_columns[p if free else 0 :] - on_units[:n], on_columns[:free], -on_units[n:]))
        last = n + free
        hessian = torch.zeros(last + q, last + q, dtype=torch.float64)
        hessian[:n, :n] = columns[free:, free:].square_()
        inner = mixed[:n, free:].square_()
        hessian[:n, :n].add_(units[:n, :n].square_()).sub_(inner).sub_(inner.T)
        hessian[last:, :n] = units[n:, :n].square_() - mixed[n:, free:].square_()
        hessian[last:, last:] = units[n:, n:].square_()
        if free:
            hessian[n:last, :n] = columns[free:, :free].T.square() - mixed[:n, :free].T.square()
            hessian[n:last, n:last] = columns[:free, :free].square_()
            hessian[last:, n:last] = -mixed[n:, :free].square_()
        hessian.diagonal().add_(gradient)
        gradient[:n] += 1
        gradient[last:] += 1
        if not self.free_outputs and q > 1:
            border = hessian[last:].sum(0)
            border[last] = border[last:].sum()
            hessian = hessian[: last + 1, : last + 1].contiguous()
            hessian[last] = border[: last + 1]
            gradient = torch.cat((gradient[:last], gradient[last:].sum(0, keepdim=True)))
        return gradient, hessian

    def _products(self, point: Point) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """With G the scaled inverse of F: G itself, G C and C' G C for the weighted columns C, and two diagonals."""
        n, p, total = self.core.neurons, self.core.inputs, len(self.matrix)
        free = len(point.logs) - n
        scale = torch.cat((point.logs[:n], point.output_logs.expand(self.core.outputs))).mul(-0.5).exp()
        weight = (0.5 * torch.cat((point.logs[n:], point.logs[:n]))).exp()
        solved = self.matrix[:, p - free :] * scale.unsqueeze(1) * weight
        spans = [(0, 0, free)] if free else []
        spans += [(start, free + start, free + end) for start, end in self.groups]
        for row, start, end in spans:  # columns of a group are zero above it
            solved[row:, start:end] = torch.linalg.solve_triangular(
                point.factor[row:, row:], solved[row:, start:end], upper=False
            )
        units = torch.cholesky_inverse(point.factor)
        diagonals = units.diagonal().clone(), solved.square().sum(0)
        kind = torch.float32 if total >= LARGE else torch.float64
        factor, moved = point.factor.to(kind), solved.to(kind)
        mixed = torch.linalg.solve_triangular(factor.T, moved, upper=True)
        columns = torch.zeros(n + free, n + free, dtype=kind)
        for row, start, end in spans:
            columns[start:end, :end] = moved[row:, start:end].T @ moved[row:, :end]
        columns = columns.tril().add_(columns.tril(-1).T)
        return units, mixed.to(torch.float64), columns.to(torch.float64), diagonals


def _best_uniform(needed: Tensor, beta: float) -> Tensor:
    """The logarithm of rho > lambda_max that minimises ``log rho - beta log det(1 - needed / rho)``, shape (1,)."""
    sizes = eigenvalues(needed).clamp(min=0.0)
    largest = sizes[-1].clamp(min=torch.finfo(torch.float64).tiny)
    # In s = lambda_max / rho the stationary point solves g(s) = sum_j beta a_j s / (1 - a_j s) = 1. The largest a_j is
    # 1, so the root is not above that of its term alone; g is convex and rises, so Newton's steps from there only fall.
    share, s = sizes / largest, min(1 / (1 + beta), 1 - torch.finfo(torch.float64).eps)
    for _ in range(60):
        rest = 1 - share * s
        excess = beta * float((share * s / rest).sum()) - 1
        steepness = beta * float((share / rest.square()).sum())
        if not (excess > 0 and 0 < s - excess / steepness < s):
            break
        s -= excess / steepness
    return (largest / s).log().reshape(1)
