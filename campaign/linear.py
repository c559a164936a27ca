"""Operators, norms, definiteness, regions and product lines against exact rationals."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from flint import fmpq, fmpq_mat
from torch import Generator, Tensor

from campaign.families import NUMBERS, WIDTHS, inside, intervals, numbers, pick
from campaign.runner import Tally
from exact import (
    at_least,
    bounds_spectral_norm,
    is_positive_semidefinite,
    outside,
    random_floats,
    rational,
    rational_matrix,
    rationals,
)
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.linalg import (
    frobenius_norm_upper,
    induced_norm_upper,
    is_positive_definite,
    spectral_norm_upper,
    spectral_norm_upper_interval,
    vector_norm_upper,
)
from jacobound.jacobian.recursion.product_lines import chord, constant
from jacobound.operators.base import LinearOperator
from jacobound.operators.norms import norms_of_rows, operator_norm
from jacobound.relaxation.linear_bounds import absorb, floor_of
from operator_cases import KINDS
from zoo import integer

MODERATE = ("ordinary", "mixed", "integers", "tiny", "root of tiny")
NORMS = (1.0, 2.0, math.inf)


def _operator(dtype: torch.dtype, generator: Generator) -> tuple[str, LinearOperator, fmpq_mat]:
    """A kind with weights of a family; kinds with uncertain weights get them, and the matrix is one they stand for."""
    kind, family = pick([*KINDS], generator), pick([*NUMBERS], generator)
    operator = KINDS[kind](lambda shape: numbers(family, shape, dtype, generator))
    exact = rational_matrix(operator.materialise())
    if getattr(operator, "radius", "none") is None and integer(0, 1, generator):
        operator, exact = _uncertain(operator, generator)
    return f"{kind}, {family}", operator, exact


def _uncertain(operator: LinearOperator, generator: Generator) -> tuple[LinearOperator, fmpq_mat]:
    """The same kind of operator with a radius, and an exact matrix that lies within it."""
    values = vars(operator)
    (name,) = [key for key in ("factor", "weight") if key in values]
    weight = values[name]
    radius = (weight * 0.25 * torch.rand(weight.shape, generator=generator).to(weight)).abs()
    share = integer(-4, 4, generator)
    uncertain = replace(operator, radius=radius)  # type: ignore[type-var]
    moved = replace(operator, **{name: radius}).materialise()  # type: ignore[type-var]
    return uncertain, rational_matrix(operator.materialise()) + rational_matrix(moved) * fmpq(share, 4)


def _image(matrix: fmpq_mat, points: list[fmpq]) -> list[fmpq]:
    return (matrix * fmpq_mat(len(points), 1, points)).entries()


def images(dtype: torch.dtype, generator: Generator) -> Tally:
    """`enclose` of every kind of operator, of its transpose and of its absolute values."""
    tally = Tally()
    for _ in range(4):
        name, operator, matrix = _operator(dtype, generator)
        if integer(0, 1, generator):
            operator, matrix = operator.transpose(), matrix.transpose()
        family, width = pick([*NUMBERS], generator), pick([*WIDTHS], generator)
        x = intervals(family, width, operator.in_shape, dtype, generator)
        found = operator.enclose(x)
        exact = _image(matrix, inside(x, generator))
        wrong = outside(found.lower, exact, found.upper)
        tally.add("image of an interval", len(exact), [f"{name}: {line}" for line in wrong])
        absolute = operator.abs().materialise().flatten().tolist()
        if all(map(math.isfinite, absolute)):  # a factor with a radius may overflow
            small = [k for k, (a, b) in enumerate(zip(matrix.entries(), absolute, strict=True)) if abs(a) > rational(b)]
            tally.add("absolute weights", len(absolute), [f"{name}: entry {k}" for k in small])
    return tally


def slacks(dtype: torch.dtype, generator: Generator) -> Tally:
    """`slack` against the error of `apply` and of an absorbed product."""
    tally = Tally()
    for _ in range(4):
        name, operator, matrix = _operator(dtype, generator)
        family = pick([*NUMBERS], generator)
        x = numbers(family, (2, *operator.in_shape), dtype, generator)
        magnitude = x.abs().amax(0)
        slack = operator.slack(magnitude).flatten()
        computed = operator.apply(x).reshape(2, -1)
        for row in range(2):
            exact = _image(matrix, rationals(x[row]))
            wrong, count = _off_by_more(computed[row], exact, slack.tolist())
            tally.add("slack of an operator", count, [f"{name}, {family}: {line}" for line in wrong])
        wrong, count = _absorbed(operator, matrix, magnitude, generator)
        tally.add("absorbed product", count, [f"{name}, {family}: {line}" for line in wrong])
    return tally


def _off_by_more(computed: Tensor, exact: list[fmpq], allowed: list[float]) -> tuple[list[str], int]:
    """Entries whose error is larger than allowed, among those that did not overflow."""
    finite = torch.isfinite(computed).nonzero().squeeze(1).tolist()
    wrong = [
        f"entry {k}: {computed[k].item()!r} is off by more than {allowed[k]!r}"
        for k in finite
        if not at_least(allowed[k], abs(rational(computed[k].item()) - exact[k]))
    ]
    return wrong, len(finite)


def _absorbed(
    operator: LinearOperator, matrix: fmpq_mat, magnitude: Tensor, generator: Generator
) -> tuple[list[str], int]:
    """|(A W - fl(A W)) x| <= |A| slack + floor for the worst |x| <= magnitude, with W the exact matrix."""
    dtype, count = magnitude.dtype, integer(1, 20, generator)
    rows = numbers(pick(MODERATE, generator), (count, operator.out_size), dtype, generator)
    found, slack = absorb(operator, None, None, count)(rows), operator.slack(magnitude).flatten()
    floor = float(floor_of(operator, magnitude.unsqueeze(0)))
    if not (torch.isfinite(found).all() and torch.isfinite(slack).all() and math.isfinite(floor)):
        return [], 0
    sizes, room = rationals(magnitude), rationals(slack)
    wrong = []
    picked = range(0, count, max(1, count // 2))
    for r in picked:
        row = rationals(rows[r])
        exact = (fmpq_mat(1, len(row), row) * matrix).entries()
        missed = sum((abs(a - b) * x for a, b, x in zip(exact, rationals(found[r]), sizes, strict=True)), fmpq(0))
        allowed = sum((abs(a) * s for a, s in zip(row, room, strict=True)), rational(floor))
        if missed > allowed:
            wrong.append(f"row {r} misses {float(missed)!r}, more than {float(allowed)!r}")
    return wrong, len(picked)


# --- norms ------------------------------------------------------------------------------------------------------


def square_of_norm(entries: list[fmpq], p: float) -> fmpq:
    """The square of the l_p norm of exact numbers."""
    if p == 2:
        return sum((entry * entry for entry in entries), fmpq(0))
    sizes = [abs(entry) for entry in entries]
    return (max(sizes, default=fmpq(0)) if p == math.inf else sum(sizes, fmpq(0))) ** 2


def is_norm_bound(bound: float, square: fmpq) -> bool:
    """Whether a float is at least the square root of an exact number; False for NaN."""
    return bound == math.inf or (bound >= 0 and math.isfinite(bound) and rational(bound) ** 2 >= square)


def vector_norms(dtype: torch.dtype, generator: Generator) -> Tally:
    tally = Tally()
    x = numbers(pick([*NUMBERS], generator), (60, integer(1, 20, generator)), dtype, generator)
    exact = [rationals(row) for row in x]
    for p in NORMS:
        bounds = vector_norm_upper(x, p).tolist()
        wrong = [
            f"l_{p} norm, row {k}: {bound!r}"
            for k, (bound, row) in enumerate(zip(bounds, exact, strict=True))
            if not is_norm_bound(bound, square_of_norm(row, p))
        ]
        tally.add("vector norm", 60, wrong)
    entries = [entry for row in exact for entry in row]
    bound = frobenius_norm_upper(x).item()
    tally.add("vector norm", 1, [] if is_norm_bound(bound, square_of_norm(entries, 2)) else ["Frobenius"])
    return tally


def _matrix(dtype: torch.dtype, generator: Generator) -> Tensor:
    """A small matrix: of a family of numbers, of rank one, or nearly orthogonal."""
    rows, columns = integer(1, 4, generator), integer(1, 4, generator)
    kind = integer(0, 3, generator)
    if kind == 0:
        left, right = random_floats((rows, 1), dtype, generator, (-9, 9)), torch.randn(1, columns, generator=generator)
        return left @ right.to(dtype)
    if kind == 1:
        return torch.eye(max(rows, columns), dtype=dtype)[:rows, :columns] + numbers(
            "ordinary", (rows, columns), dtype, generator
        ) * float(torch.finfo(dtype).eps)
    return numbers(pick([*NUMBERS], generator), (rows, columns), dtype, generator)


def matrix_norms(dtype: torch.dtype, generator: Generator) -> Tally:
    """Spectral and induced norms of matrices and interval matrices, at a matrix inside."""
    tally = Tally()
    for _ in range(6):
        middle = _matrix(dtype, generator)
        truth, bound = rational_matrix(middle), spectral_norm_upper(middle).item()
        holds = bounds_spectral_norm(truth, bound)
        tally.add("spectral norm", 1, [] if holds else [f"{middle.tolist()}: {bound!r}"])
        width = pick([*WIDTHS], generator)
        other = numbers(pick(MODERATE, generator), middle.shape, dtype, generator)
        x = Interval(middle, middle) if width == "zero width" else WIDTHS[width](middle, other, generator)
        member = fmpq_mat(len(middle), middle.shape[1], inside(x, generator))
        bound = spectral_norm_upper_interval(x.lower, x.upper).item()
        holds = bounds_spectral_norm(member, bound)
        tally.add("spectral norm", 1, [] if holds else [f"{x.lower.tolist()}, {x.upper.tolist()}: {bound!r}"])
        for p in NORMS:
            for q in NORMS:
                bound = induced_norm_upper(x.lower, x.upper, p, q).item()
                holds = _is_induced_bound(bound, member, p, q)
                line = f"l_{p} to l_{q} of {x.lower.tolist()}, {x.upper.tolist()}: {bound!r}"
                tally.add("induced norm", 1, [] if holds else [line])
    return tally


def directions(columns: int) -> list[list[fmpq]]:
    """Unit vectors and corners, where the norms of few columns are attained or nearly so."""
    units = [[fmpq(int(i == k)) for i in range(columns)] for k in range(columns)]
    signs = [[fmpq(1 if code >> i & 1 else -1) for i in range(columns)] for code in range(1 << (columns - 1))]
    return units + signs


def _is_induced_bound(bound: float, matrix: fmpq_mat, p: float, q: float) -> bool:
    """Whether no direction is stretched by more; all that matter for p = 1 and inf are tried, for p = 2 some."""
    rows = [[matrix[i, k] for k in range(matrix.ncols())] for i in range(matrix.nrows())]
    for u in [*directions(matrix.ncols()), *(row for row in rows if p == 2 and any(row))]:
        image = [sum((a * b for a, b in zip(row, u, strict=True)), fmpq(0)) for row in rows]
        length = square_of_norm(u, p)
        if length and not is_norm_bound(bound, square_of_norm(image, q) / length):
            return False
    return True


def operator_norms(dtype: torch.dtype, generator: Generator) -> Tally:
    """Norms of whole operators, as products of norms use them."""
    tally = Tally()
    for _ in range(3):
        name, operator, matrix = _operator(dtype, generator)
        rows = [[matrix[i, k] for k in range(matrix.ncols())] for i in range(matrix.nrows())]
        columns = [list(column) for column in zip(*rows, strict=True)]
        for p in NORMS:
            whole = torch.ones(1, *operator.out_shape, dtype=torch.bool)
            for bound in (operator_norm(operator, p).item(), norms_of_rows(operator, p, whole).item()):
                if p == 2:
                    holds = bounds_spectral_norm(matrix, bound) if matrix.ncols() <= 12 else True
                else:
                    lines = columns if p == 1 else rows
                    holds = at_least(bound, max(sum(map(abs, line), fmpq(0)) for line in lines)) or bound == math.inf
                tally.add("norm of an operator", 1, [] if holds else [f"{name}, l_{p}: {bound!r}"])
    return tally


def definiteness(dtype: torch.dtype, generator: Generator) -> Tally:
    """Proofs of positive definiteness of nearly singular matrices."""
    tally = Tally()
    for _ in range(20):
        size = integer(1, 5, generator)
        factor = torch.randn(size, max(1, size - 1), generator=generator).to(torch.float64)
        nudge = torch.randn((), generator=generator).item() * 10.0 ** -integer(13, 17, generator)
        full = factor @ factor.T + nudge * torch.eye(size, dtype=torch.float64)
        matrix = (full.tril() + full.tril(-1).T) * 2.0 ** integer(-400, 400, generator)
        proved = is_positive_definite(matrix)
        wrong = proved and not is_positive_semidefinite(rational_matrix(matrix))
        tally.add("definiteness", 1, [f"{matrix.tolist()}"] if wrong else [])
    return tally


def product_lines(dtype: torch.dtype, generator: Generator) -> Tally:
    """slope times derivative lies between its lines, for both relaxations."""
    tally, count = Tally(), 60
    slope = intervals(pick(("ordinary", "integers", "mixed"), generator), "wide", (count,), dtype, generator)
    family, width = pick([*NUMBERS], generator), pick([*WIDTHS], generator)
    derivative = intervals(family, width, (count,), dtype, generator)
    if integer(0, 1, generator):  # one end just beside zero
        dusty = derivative.magnitude().clamp(max=torch.finfo(dtype).max) * float(torch.finfo(dtype).eps)
        derivative = Interval(torch.minimum(-dusty, derivative.upper), derivative.upper)
    dust = numbers("tiny", (1, count), dtype, generator).abs()
    for relax in (constant, chord):
        lines = relax(slope, derivative.reshape(1, count), dust)
        s, y = inside(slope, generator), inside(derivative, generator)
        ends = [lines.lower_slope, lines.lower_offset, lines.upper_slope, lines.upper_offset]
        below, low, above, high = (end.flatten() for end in ends)
        over = [a * b - rational(k) * b for a, b, k in zip(s, y, above.tolist(), strict=True)]
        under = [a * b - rational(k) * b for a, b, k in zip(s, y, below.tolist(), strict=True)]
        wrong = [k for k, rest in enumerate(over) if not (high[k] == math.inf or at_least(high[k].item(), rest))]
        wrong += [k for k, rest in enumerate(under) if not (low[k] == -math.inf or at_least(-low[k].item(), -rest))]
        found = [f"{family}, {width}, entry {k}" for k in wrong]
        tally.add("product lines", 2 * count, found)
    return tally


CHECKS = (images, slacks, vector_norms, matrix_norms, operator_norms, definiteness, product_lines)
