"""`Verdict`: what `verify` answers."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from jacobound.reports.page.sections import Names, Section, Table
from jacobound.results.kinds import Provenance, Result, Status, figures
from jacobound.stored import stored
from jacobound.words import rounded_down, rounded_up


@stored
class Decision(enum.Enum):
    """Whether a property holds; the value is what to tell the user."""

    HOLDS = "holds: certified for every input that the property speaks of"
    VIOLATED = "violated: proved at the witness"
    UNKNOWN = "unknown: neither proved nor refuted within the limits"


@stored
@dataclass(frozen=True)
class EngineRun:
    """What an inference engine computes at a witness; an observation, not a proof.

    Args:
        engine: its name.
        outputs: the flattened outputs.
        violates: whether they satisfy the violation as they stand; None where that can not be said of outputs at one
            point.
    """

    engine: str
    outputs: tuple[float, ...]
    violates: bool | None


@stored
@dataclass(frozen=True, eq=False, repr=False)
class Verdict(Result):
    """Whether a property holds over its inputs, with a proof either way or the bound that was reached.

    The margin of a point is how far it is from being a violation: 0 or less at a violation. For linear conditions on
    outputs it is the least over the alternatives of the largest left side minus bound (whole factors without a common
    divisor); for a constant the bound minus the constant; for monotone inputs the least derivative in the claimed
    direction.

    Args:
        decision: holds, violated or unknown.
        lower, upper: certified bracket of the least margin, float64, 0-d: ``lower`` holds for all points, `upper` is
            reached at one. Infinite where nothing is known.
        witness: the point of `upper`, float64, of the input's shape: the violation when it is "violated", else
            the nearest to one that was found; None without one. It lies in the region exactly, but for inputs that the
            property fixes at a number that is no float: there it is the nearest float, and the proof is about the
            number.
        partner: a second point where two points are the proof (see `LipschitzBound.partner`, `MonotoneFeatures.pair`).
        outputs_lower, outputs_upper: certified enclosure of the flattened outputs at the witness, float64; None
            without one, or where outputs prove nothing.
        engine: what an inference engine makes of the witness; None where none was asked.
        parts: how many parts of the region were bounded.
        open_parts: how many of them stayed open.
        note: what there is to say besides.
        status: whether the bracket is certified, or why not.
        seconds: wall-clock time.
        provenance: how it was found.
    """

    decision: Decision
    lower: Tensor
    upper: Tensor
    witness: Tensor | None
    partner: Tensor | None
    outputs_lower: Tensor | None
    outputs_upper: Tensor | None
    engine: EngineRun | None
    parts: int
    open_parts: int
    note: str
    status: Status
    seconds: float
    provenance: Provenance
    told_as: ClassVar[str] = "Verdict"

    @property
    def holds(self) -> bool | None:
        """True, False, or None for unknown."""
        return {Decision.HOLDS: True, Decision.VIOLATED: False}.get(self.decision)

    def headline(self) -> str:
        low, high = float(self.lower), float(self.upper)
        margin = f"least margin {rounded_down(low)} to {rounded_up(high)}"
        return f"{self.decision.name.lower()}; {margin}; {self.parts} parts in {self.seconds:.2f} s"

    def table(self) -> list[dict[str, object]]:
        """One row: decision, bracket of the least margin, parts, seconds."""
        return [
            {
                "decision": self.decision.name.lower(),
                "margin_lower": float(self.lower),
                "margin_upper": float(self.upper),
                "parts": self.parts,
                "open_parts": self.open_parts,
                "seconds": self.seconds,
            }
        ]

    def claim(self) -> str:
        return f"The claim that was asked {self.decision.value}."

    def sections(self, names: Names) -> Sequence[Section]:
        rows = [Table.of("Verdict", self.table(), self.note)]
        if self.witness is not None:
            points = [one.flatten().tolist() for one in (self.witness, self.partner) if one is not None]
            called = names.inputs(tuple(self.witness.shape), None)
            heads = ("value", "second_value")
            told = [
                {"input": name} | dict(zip(heads, values, strict=False))
                for name, *values in zip(called, *points, strict=True)
            ]
            title = "The violation" if self.decision is Decision.VIOLATED else "The nearest point that was found"
            rows.append(Table.of(title, told))
        if self.outputs_lower is not None and self.outputs_upper is not None:
            ends = zip(self.outputs_lower.tolist(), self.outputs_upper.tolist(), strict=True)
            told = [{"output": k, "lower": low, "upper": high} for k, (low, high) in enumerate(ends)]
            rows.append(Table.of("Certified outputs at that point", told))
        return rows

    def plot(self, ax: Any = None) -> Any:
        """The bracket of the least margin beside 0; returns the axes."""
        return figures().plot_verdict(self, ax)
