"""Constants by frequencies: starts, their improvement within a time, and a proof of the result."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf

from torch import Tensor

from jacobound.budget import Budget
from jacobound.certificates.dense.proof import LARGEST, SMALLEST
from jacobound.certificates.frequencies.proof import stacked_constant
from jacobound.certificates.frequencies.search import Joined
from jacobound.certificates.frequencies.stacks import Stacked
from jacobound.certificates.layered.descent import Ends, descended

MARGINS = (1.2, 1.5, 2.0)
# Factors by which multipliers are raised until a proof succeeds.
RAISED = (1.0, 1 + 1e-6, 1 + 1e-3, 1.5)
# A proof takes about as long as so many evaluations: real arithmetic, one frequency after the other.
OF_A_PROOF = 20.0


@dataclass(frozen=True, eq=False)
class Proved:
    """What one way of taking a network by frequencies proved.

    Args:
        value: the constant; infinite when nothing was proved.
        least: the constant of the best multipliers is not below it, up to rounding; 0 where nothing is known.
        finished: whether the search came to its end.
    """

    value: float
    least: float
    finished: bool


def solved(network: Stacked, tolerance: float, budget: Budget) -> Proved:
    """The certified constant of the best multipliers that were found in time."""
    joined = Joined(network)
    best: tuple[float, Tensor] | None = None
    for margin in MARGINS:
        budget.tell(0, 1, "frequencies")
        at = joined.start(margin)
        value = inf if at is None else joined.value(at)
        if at is not None and value < inf and (best is None or value < best[0]):
            best = value, at
        if best is not None and budget.is_over:
            break
    if best is None:
        return Proved(inf, 0.0, False)
    began_at = budget.spent
    joined.value(best[1])
    reserved = OF_A_PROOF * (budget.spent - began_at)
    late = False

    def over() -> bool:
        nonlocal late
        budget.tell(0, 1, "multipliers")
        late = late or budget.remaining < reserved
        return late

    found = best
    least = 0.0
    if not over():
        ended = descended(joined, joined, best, over, Ends(2 * tolerance))
        found, least = (ended.value, ended.at), exp(ended.least / 2)
    for _, logarithms in (found, best):
        for factor in RAISED:
            multipliers = logarithms.exp()
            raised = len(multipliers) - network.channels
            multipliers[:raised] *= factor
            value = stacked_constant(network, multipliers.clamp(SMALLEST, LARGEST), lambda: budget.tell(0, 1, "proof"))
            if value < inf:
                return Proved(value, least, not late)
    return Proved(inf, least, False)
