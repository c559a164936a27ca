"""Affine forms: quantities as linear functions of the input and of further symbols in [-1, 1], with rounding errors.

A form stands for numbers ``centre + sum_k linear_k e_k + r`` with ``|r| <= error``. The first symbols are the offset of
the input from a fixed point of its set; each later one is what a nonlinear step left unknown, and keeps its name, so
that it can cancel. Everything at one input x is described by the same values of the symbols. This is affine arithmetic
(Comba and Stolfi 1993); the bound of a product of two linear parts is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jacobound.activations.lines.offsets import Lines
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import dual_exponent, vector_norm_upper
from jacobound.arithmetic.rounding import down, gamma, inflate, smallest, underflow, unit, up
from jacobound.inputs.domains import Domain
from jacobound.operators.base import LinearOperator, positions, unit_rows


@dataclass(frozen=True, eq=False)
class Forms:
    """Affine forms of one node's flattened entries, or of derivatives with respect to them, over N sets.

    Args:
        centre: shape (N, *lead, entries); `lead` is empty for values, and the number of outputs for derivatives.
        linear: shape (N, *lead, symbols, entries); symbols beyond the last have the coefficient 0.
        error: non-negative, shape of `centre`.
    """

    centre: Tensor
    linear: Tensor
    error: Tensor

    @staticmethod
    def constant(x: Interval) -> Forms:
        """Forms without symbols."""
        centre, radius = x.midpoint_and_radius()
        return Forms(centre, centre.new_zeros(*centre.shape[:-1], 0, centre.shape[-1]), radius)

    @property
    def symbols(self) -> int:
        return self.linear.shape[-2]


@dataclass(frozen=True, eq=False)
class Symbols:
    """What the symbols can be, over each of N bounded sets.

    Args:
        middle: the point that the input's offset is measured from, shape (N, inputs).
        half: no input differs from it by more, shape (N, inputs).
        radius, dual: the offset's l_p norm is at most `radius`, shape (N,), with the dual exponent of p; or None.
        scale: units of the inputs in which that norm is taken, shape (inputs,); None when all are 1.
    """

    middle: Tensor
    half: Tensor
    radius: Tensor | None
    dual: float
    scale: Tensor | None = None

    @staticmethod
    def of(domain: Domain) -> Symbols:
        box = domain.box.map(lambda end: end.flatten(1))
        if domain.centre is None or domain.radius is None:
            return Symbols(*box.midpoint_and_radius(), None, 1.0)
        middle = domain.centre.flatten(1)
        half = torch.maximum(up(box.upper - middle), up(middle - box.lower))
        scale = None if domain.scale is None else domain.scale.flatten()
        return Symbols(middle, half, domain.radius, dual_exponent(domain.p), scale)

    def input(self) -> Forms:
        """The input itself: one symbol per entry."""
        linear = unit_rows(self.middle.shape[1], self.middle).expand(len(self.middle), -1, -1)
        return Forms(self.middle, linear, torch.zeros_like(self.middle))

    def spread(self, linear: Tensor) -> Tensor:
        """Upper bound of ``sum_k |linear_k| sup |e_k|``, shape (N, *lead, entries)."""
        count, inputs = linear.shape[-2], self.half.shape[1]
        if not count:
            return linear.sum(-2)
        sizes = torch.cat((self.half, self.half.new_ones(len(self.half), count - inputs)), 1)
        sizes = sizes.reshape(len(sizes), *[1] * (linear.dim() - 3), 1, count)
        return inflate((sizes @ linear.abs()).squeeze(-2), count + 2)

    def reach(self, linear: Tensor) -> Tensor:
        """Upper bound of ``|sum_k linear_k e_k|`` over the set, shape (N, *lead, entries)."""
        found = self.spread(linear)
        if self.radius is None or not linear.shape[-2]:
            return found
        inputs = self.half.shape[1]
        own = linear[..., :inputs, :]
        own = own if self.scale is None else up(own.abs() * self.scale.unsqueeze(1))
        norms = vector_norm_upper(own, self.dual, dim=-2)
        ball = up(norms * self.radius.reshape(-1, *[1] * (norms.dim() - 1)))
        further = inflate(linear[..., inputs:, :].abs().sum(-2), linear.shape[-2])
        return torch.minimum(found, up(ball + further))

    def size(self, forms: Forms) -> Tensor:
        """Upper bound of ``|centre| + sum_k |linear_k| sup |e_k|``: what rounding errors are relative to."""
        return up(forms.centre.abs() + self.spread(forms.linear))

    def range(self, forms: Forms) -> Interval:
        """Enclosure of the forms' values."""
        radius = up(self.reach(forms.linear) + forms.error)
        return Interval.safe(down(forms.centre - radius), up(forms.centre + radius))

    def rounded(self, forms: Forms, roundings: int, further: Tensor | float = 0.0) -> Forms:
        """Forms with the error of coefficients that were computed with so many roundings each.

        Args:
            further: sizes of terms of the sums that may be larger than the results.
        """
        lost = inflate((self.size(forms) + further) * gamma(roundings + 1, forms.centre), 4)
        return replace(forms, error=up(up(forms.error + lost) + self._total(forms) * underflow(roundings, lost)))

    def _total(self, forms: Forms) -> Tensor:
        """More than one plus the sizes of all symbols, shape (N, 1, ...): how often an absolute error counts."""
        total = 2.0 * (1.0 + forms.symbols + self.half.sum(1))
        return total.reshape(-1, *[1] * (forms.centre.dim() - 1))

    def image(self, operator: LinearOperator, forms: Forms) -> Forms:
        """The forms of a linear image."""
        lead, shape = forms.centre.shape[:-1], operator.in_shape

        def applied(x: Tensor) -> Tensor:
            if not x.numel():
                return x.new_zeros(*x.shape[:-1], operator.out_size)
            return operator.apply(x.reshape(*x.shape[:-1], *shape)).reshape(*x.shape[:-1], operator.out_size)

        size, doubt = (x.reshape(*x.shape[:-1], *shape) for x in (self.size(forms), forms.error))
        error = operator.slack(size, doubt).flatten(len(lead))
        if operator.longest_sum:
            # Every coefficient's column may lose to underflow what `slack` counts once.
            floor = operator.slack(torch.zeros_like(size[:1])).flatten(len(lead))
            error = up(error + inflate(floor * self._total(forms), 4))
        return Forms(applied(forms.centre), applied(forms.linear), error)

    def sum(self, a: Forms, b: Forms) -> Forms:
        """The sum of two forms."""
        count = max(a.symbols, b.symbols)
        linear = _padded(a.linear, count) + _padded(b.linear, count)
        return self.rounded(Forms(a.centre + b.centre, linear, up(a.error + b.error)), 1)

    def dot(self, forms: Forms, weights: Tensor) -> Forms:
        """Forms of ``sum_k forms_k weights_k`` for exact floats of the forms' shape (N, *lead, entries); one entry."""
        terms = weights.shape[-1]
        centre = (forms.centre * weights).sum(-1, keepdim=True)
        error = inflate((forms.error * weights.abs()).sum(-1, keepdim=True), terms + 1)
        sizes = inflate((self.size(forms) * weights.abs()).sum(-1, keepdim=True), terms + 1)
        return self.rounded(Forms(centre, forms.linear @ weights.unsqueeze(-1), error), terms, sizes)

    def between_lines(self, forms: Forms, lines: Lines, first: int) -> tuple[Forms, int]:
        """Forms of numbers that lie between parallel lines over the given ones.

        Args:
            lines: of the same slope below and above, shapes (N, entries).
            first: number of the next new symbol.

        Returns:
            The forms, and the number of the symbol after them.
        """
        slope = lines.upper_slope
        offset, unknown = Interval.safe(lines.lower_offset, lines.upper_offset).midpoint_and_radius()
        scaled = slope * forms.centre
        moved = Forms(scaled + offset, slope.unsqueeze(-2) * forms.linear, up(slope.abs() * forms.error))
        moved = self.rounded(moved, 2, scaled.abs())
        return _with_unknowns(moved, unknown, first)

    def product(self, a: Forms, b: Forms, first: int) -> tuple[Forms, int]:
        """Forms of the products of two forms, and the number of the symbol after them.

        Args:
            a: shape (N, 1, entries), shared by all outputs.
            b: shape (N, outputs, entries).
            first: number of the next new symbol.
        """
        count = max(a.symbols, b.symbols)
        left, right = _padded(a.linear, count), _padded(b.linear, count)
        known = self._product_of_linear(replace(a, linear=left), replace(b, linear=right))
        middle, unknown = known.midpoint_and_radius()
        straight = a.centre * b.centre
        linear = a.centre.unsqueeze(-2) * right + b.centre.unsqueeze(-2) * left
        # (a + r)(b + s) = a b + r (b + s) + a s
        error = up(a.error * up(self.size(b) + b.error)) + up(self.size(a) * b.error)
        # Both terms of a coefficient count, because they may cancel.
        sizes = up(up(self.size(a) * self.size(b)) + middle.abs())
        found = self.rounded(Forms(straight + middle, linear, up(error)), 3, sizes * 2)
        return _with_unknowns(found, unknown, first)

    def _product_of_linear(self, a: Forms, b: Forms) -> Interval:
        """Enclosure of the product of the linear parts of two forms with the same symbols, shape (N, *lead, entries).

        By ``4 u v = (t u + v / t)^2 - (t u - v / t)^2``, each square being bounded by the reach of one linear form: at
        most the product of the reaches, and about half of it where the two have little to do with each other.
        """
        left, right = self.reach(a.linear), self.reach(b.linear)
        most = up(left * right)
        if not b.symbols:
            return Interval(-most, most)
        balance = (right / left).sqrt()
        balance = torch.where((balance > 1e-30) & (balance < 1e30), balance, 1.0)
        inverse = 1 / balance  # their product lies within 1 ± unit: the squares below are a little too small
        few = 4 * unit(balance.dtype)
        scaled, other = balance.unsqueeze(-2) * a.linear, inverse.unsqueeze(-2) * b.linear
        spread = up(up(balance * self.spread(a.linear)) + up(inverse * self.spread(b.linear)))
        lost = up(inflate(spread * few, 4) + self._total(b) * (2 * smallest(spread)))
        plus, minus = (up(self.reach(x) + lost) for x in (scaled + other, scaled - other))
        above, below = (inflate(x.square() * (0.25 + few), 4) for x in (plus, minus))
        return Interval(torch.maximum(-below, -most), torch.minimum(above, most))


def _padded(linear: Tensor, count: int) -> Tensor:
    """The coefficients with zeros for symbols that are not used."""
    missing = count - linear.shape[-2]
    return torch.nn.functional.pad(linear, (0, 0, 0, missing)) if missing else linear


def _with_unknowns(forms: Forms, unknown: Tensor, first: int) -> tuple[Forms, int]:
    """One new symbol for every entry that may be off by ``unknown`` (N, *lead, entries) in some set or output."""
    entries = unknown.shape[-1]
    some = (unknown != 0).reshape(-1, entries).any(0).nonzero().squeeze(1)
    if not len(some):
        return forms, first
    linear = _padded(forms.linear, first)
    linear = torch.cat((linear, linear.new_zeros(*linear.shape[:-2], len(some), entries)), -2)
    linear[..., first + positions(len(some), some), some] = unknown[..., some]
    return replace(forms, linear=linear), first + len(some)
