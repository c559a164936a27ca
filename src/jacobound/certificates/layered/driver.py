"""Constants of chains from multipliers layer by layer: closed forms, their improvement, and a proof of the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from jacobound.budget import Budget
from jacobound.certificates.dense.proof import LARGEST, SMALLEST
from jacobound.certificates.layered.chain import LayeredChain
from jacobound.certificates.layered.proof import LayeredCertificate, layered_constant
from jacobound.certificates.layered.search import Multipliers, Sweep, best_closed_form, improved

# Factors by which multipliers are raised until a proof succeeds.
RAISED = (1.0, 1 + 1e-6, 1 + 1e-3, 1.5, 4.0)

# A certificate is not begun when it is expected to take so many times what is left of the time, and some more seconds.
LATE, SOON = 1.5, 0.2

Norm = tuple[float, float]
LayeredProblems = dict[str, tuple[LayeredChain, Norm]]


def layered_problems(chain: LayeredChain, norm: Norm) -> LayeredProblems:
    """Chains and norms whose largest constant is the one that is asked for, by name: rows where q = inf."""
    if norm[1] == math.inf:
        return {f"row {j}": (chain.row(j), (norm[0], 2.0)) for j in range(chain.outputs)}
    return {"all": (chain, norm)}


def by_closed_form(chain: LayeredChain, norm: Norm, over: Callable[[], bool]) -> dict[str, LayeredCertificate]:
    """Certificates of the best closed forms from the inputs and, while there is time, from the outputs."""
    found = {}
    for name, turned in (("from the inputs", False), ("from the outputs", True)):
        if not found or not over():
            sweep = Sweep.of(chain, norm, turned)
            multipliers = best_closed_form(sweep, over)[1] if _is_worth_it(chain) else None
            found[name] = proved(chain, norm, turned, multipliers)
    return found


def _is_worth_it(chain: LayeredChain) -> bool:
    return chain.is_usable and not chain.is_constant


def proved(chain: LayeredChain, norm: Norm, turned: bool, found: Multipliers | None) -> LayeredCertificate:
    """The certificate that multipliers lead to, raised by as little as is needed; infinite when nothing was proved."""
    nothing = torch.zeros(0, dtype=torch.float64)
    best = LayeredCertificate(math.inf, norm, turned, nothing, nothing, ())
    if found is None or len(found.neurons) != len(chain.halves):
        return replace(best, value=layered_constant(chain, best))
    ends = [part.exp().clamp(SMALLEST, LARGEST) for part in (found.entering, found.leaving)]
    for factor in RAISED:
        neurons = tuple((part.exp() * factor).clamp(SMALLEST, LARGEST) for part in found.neurons)
        best = LayeredCertificate(math.inf, norm, turned, ends[0], ends[1], neurons)
        best = replace(best, value=layered_constant(chain, best))
        if best.value < math.inf:
            break
    return best


def distance_from_optimum(value: float, least: float) -> str:
    """How far a constant may be above the optimum of its own problem, in words; empty where nothing is known.

    Args:
        least: the optimum is not below it; 0 where nothing is known.
    """
    if not 0 < least < value < math.inf:
        return ""
    percent = math.ceil(1e4 * (value / least - 1)) / 100
    return f"at most {percent:.2f} % above the optimum of its problem"


@dataclass
class LayeredSolver:
    """Solves the parts of a maximum one after the other; lives for one call.

    Args:
        tolerance: relative, of the constant.
        budget: its time and progress.
        interrupted: whether a search was cut short.
        least: the constant of the best multipliers is not below it, up to rounding; 0 where nothing is known.
        largest: the largest constant so far.
    """

    tolerance: float
    budget: Budget
    interrupted: bool = False
    least: float = 0.0
    largest: float = 0.0

    @property
    def note(self) -> str:
        """How far from the SDP's own optimum the constant may be, in words; empty where nothing is known."""
        return distance_from_optimum(self.largest, self.least)

    def solve(self, parts: LayeredProblems) -> dict[str, LayeredCertificate]:
        """A certificate of every part."""
        found: dict[str, LayeredCertificate] = {}
        for done, (name, (chain, norm)) in enumerate(parts.items()):
            self.budget.tell(done, len(parts), "certificates")
            found[name] = self._solve(chain, norm, self.largest, len(parts) - done)
            self.largest = max(self.largest, found[name].value)
        return found

    def _solve(self, chain: LayeredChain, norm: Norm, largest: float, left: int) -> LayeredCertificate:
        # Towards the larger end the optimum is smooth; columns (p = 1) are a maximum where the sweep ends.
        turned = norm[0] == 1 or chain.outputs < chain.inputs
        if not _is_worth_it(chain):
            return proved(chain, norm, turned, None)
        share = self.budget.within(self.budget.remaining / left)
        began = share.spent
        if chain.seconds > SOON + LATE * max(0.0, share.remaining):
            self.interrupted = True
            return proved(chain, norm, turned, None)
        first = Sweep.of(chain, norm, turned).closed_form(1.5)
        reserved, late = 3 * (share.spent - began), False  # the proof takes about as long as two sweeps

        def over() -> bool:
            nonlocal late
            self.budget.tell(0, 1, "multipliers")
            late = late or share.remaining < reserved
            return late

        enough = 2 * math.log(largest) - 1e-6 if 0 < largest < math.inf else -math.inf
        searched = _Search(chain, norm, over, self.tolerance, enough)
        searched.run(turned, first)
        if norm == (2, 2) and not searched.ended:  # the other direction has the same optimum, but other stages
            searched.run(not turned, None)
        self.interrupted |= late and searched.value > enough
        self.least = max(self.least, math.exp(searched.least / 2))
        certificate = proved(chain, norm, turned, None)
        for turned, multipliers in searched.best_first():
            certificate = proved(chain, norm, turned, multipliers)
            if certificate.value < math.inf:
                break
        return certificate


class _Search:
    """What searches in both directions of a chain have found; lives for one part.

    Args:
        tolerance: relative distance of the constant from the optimum at which a search ends.
        enough: logarithm of a squared constant at which it ends as well.
    """

    def __init__(
        self, chain: LayeredChain, norm: Norm, over: Callable[[], bool], tolerance: float, enough: float
    ) -> None:
        self._chain, self._norm, self._over = chain, norm, over
        self._tolerance, self._enough = tolerance, enough
        self._found: list[tuple[float, bool, Multipliers]] = []
        self.least = -math.inf

    @property
    def value(self) -> float:
        """Logarithm of the smallest squared constant."""
        return min(value for value, _, _ in self._found)

    @property
    def ended(self) -> bool:
        """Whether a further search is of no use."""
        near = self.value - self.least <= 2 * self._tolerance
        return near or self.value <= self._enough or self._over()

    def run(self, turned: bool, first: tuple[float, Multipliers] | None) -> None:
        """Search in one direction.

        Args:
            first: value and multipliers that are known already.
        """
        sweep = Sweep.of(self._chain, self._norm, turned)
        starts = [first] if first is not None else []
        if not starts or not self._over():
            starts.append(best_closed_form(sweep, self._over))
        value, multipliers = min(starts, key=lambda pair: pair[0])
        self._found.append((value, turned, multipliers))
        if value < math.inf:
            value, better, least = improved(
                sweep, (value, multipliers), self._over, self._tolerance, self._enough, self.least
            )
            self._found.append((value, turned, better))
            self.least = max(self.least, least)

    def best_first(self) -> list[tuple[bool, Multipliers]]:
        """Directions and multipliers, the smallest constant first."""
        return [(turned, found) for _, turned, found in sorted(self._found, key=lambda one: one[0])]


def recheck_layers(chain: LayeredChain, norm: Norm, certificates: Sequence[LayeredCertificate]) -> float:
    """The constant that stored multipliers prove, computed anew from the chain; inf where they prove nothing.

    One certificate may speak of the whole chain, or one of every part of `layered_problems`.
    """
    parts = layered_problems(chain, norm)
    if len(certificates) == 1 and certificates[0].norm == norm:
        return layered_constant(chain, certificates[0])
    if [certificate.norm for certificate in certificates] != [kind for _, kind in parts.values()]:
        return math.inf
    pairs = zip(parts.values(), certificates, strict=True)
    return max((layered_constant(one, certificate) for (one, _), certificate in pairs), default=0.0)
