"""The dual bound of a pair of layers as a function of its matrices, for multipliers that are kept.

With middle slopes c, half widths r and ``C = A D(c) B``, every t > 0 with ``A D(r^2 / t) A' < I`` gives

    ||A D(s) B||^2 <= largest eigenvalue of  B' D(t) B + C' (I - A D(r^2 / t) A')^-1 C

for all slopes s (`jacobound.constants.pairs.dual`). At the best t its gradient at fixed t is that of the bound itself.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.constants.pairs.dual import Pair
from jacobound.constants.pairs.search import dual_bound

MARGIN: Final = 1.05  # of multipliers above the least feasible multiple


def oriented(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The pair or its transpose, such that the second matrix has no more columns than the first one has rows."""
    return (left, right) if right.shape[1] <= left.shape[0] else (right.T, left.T)


def multipliers_of(left: Tensor, right: Tensor, slopes: Interval, start: Tensor | None) -> Tensor:
    """Good multipliers of an oriented pair, by the search of `SeqLip`; of a closed form where it finds none.

    Args:
        left, right: shapes (p, n) and (n, q), q <= p.
        slopes: of the neurons between, shape (n,).
        start: multipliers of a pair nearby, or None.

    Returns:
        Shape (n,), in the dtype and on the device of the matrices.
    """
    a, b, low, high = (x.detach().to("cpu", torch.float64) for x in (left, right, slopes.lower, slopes.upper))
    # Only A'A and BB' matter, so that smaller factors of them do as well.
    a = torch.linalg.qr(a)[1] if a.shape[0] > a.shape[1] else a
    b = torch.linalg.qr(b.T)[1].T.contiguous() if b.shape[1] > b.shape[0] else b
    alive = ((low != 0) | (high != 0)) & (a != 0).any(0) & (b != 0).any(1)
    found = torch.ones_like(low)
    if bool(alive.any()) and bool(torch.isfinite(a).all() & torch.isfinite(b).all()):
        pair = Pair(a[:, alive].contiguous(), b[alive].contiguous(), low[alive], high[alive])
        scale = float(pair.left.norm() / pair.scaled[0].left.norm()) ** 2  # what the search divides the rows of A by
        near = None if start is None else start.to("cpu", torch.float64)[alive] / scale
        t = dual_bound(pair, start=near).multipliers
        sizes = pair.left.norm(dim=0) / pair.right.norm(dim=1)
        found[alive] = sizes if t is None else t * scale
    return found.to(left)


def dual_value(left: Tensor, right: Tensor, slopes: Interval, multipliers: Tensor) -> Tensor:
    """The bound of ``||A D(s) B||`` that multipliers give, 0-d, up to rounding; raised first where not feasible.

    Args:
        left, right, slopes: as in `multipliers_of`; gradients pass.
        multipliers: shape (n,), positive; taken as numbers.
    """
    middle, half = (slopes.lower + slopes.upper) / 2, (slopes.upper - slopes.lower) / 2
    undecided = half > 0
    t = torch.where(undecided, multipliers.detach(), 1.0).clamp(min=torch.finfo(left.dtype).tiny)
    gram = left.T @ left if left.shape[0] > left.shape[1] else None
    outer = left * half / t.sqrt()
    least = torch.linalg.eigvalsh(outer.T @ outer if gram is not None else outer @ outer.T)[-1]
    t = torch.where(least < 1 - 1e-6, t, t * MARGIN * least)
    weight = torch.where(undecided, t, 0.0)
    if gram is not None:
        # (I - A D(r^2/t) A')^-1 = I + A D(r) (D(t) - D(r) A'A D(r))^-1 D(r) A'
        across = half.unsqueeze(1) * gram * middle
        inner = torch.linalg.solve(torch.diag(t) - half.unsqueeze(1) * gram * half, across)
        form = torch.diag(weight) + middle.unsqueeze(1) * gram * middle + across.T @ inner
        matrix = right.T @ form @ right
    else:
        passed = (left * middle) @ right
        free = torch.eye(len(left), dtype=left.dtype, device=left.device) - (left * (half.square() / t)) @ left.T
        matrix = right.T @ (weight.unsqueeze(1) * right) + passed.T @ torch.linalg.solve(free, passed)
    top = torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]
    return torch.where(top > 0, torch.where(top > 0, top, 1.0).sqrt(), 0.0)
