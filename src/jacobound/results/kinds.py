"""What the library returns: `OutputBounds`, `JacobianBounds`, `LipschitzBound`.

Every number says whether it is certified, and every result holds what was asked. JSON has each result twice: in plain
decimals to be read, and exactly (`results/exact_json.py`), from which `from_json` makes the same result, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.inputs.exponents import Norm, plain_exponent, told_norm
from jacobound.reports.page.bounds import constant_sections, jacobian_sections, output_sections, set_names
from jacobound.reports.page.sections import Names, Section, Table
from jacobound.results.facts import about, apart, columns_of, places, radii_of, row_names
from jacobound.results.pages import figures as figures
from jacobound.results.provenance import Provenance as Provenance
from jacobound.results.provenance import Status as Status
from jacobound.results.readable import Candidate as Candidate
from jacobound.results.readable import listed, span
from jacobound.results.result import Result as Result
from jacobound.stored import stored
from jacobound.words import rounded_down, rounded_up


@stored
@dataclass(frozen=True, eq=False, repr=False)
class OutputBounds(Result):
    """Bounds of the network's outputs (or of chosen combinations of them) over a region.

    Args:
        lower, upper: shape (*lead, *output shape).
        status: certified or why not.
        provenance: how they were found.
        lead: (*radii, *batch), the leading shape of the region's sets.
    """

    lower: Tensor
    upper: Tensor
    status: Status
    provenance: Provenance
    lead: tuple[int, ...] = ()
    told_as: ClassVar[str] = "Bounds of the outputs"

    def headline(self) -> str:
        return f"{span(self.lower, self.upper)} for {self.lower.numel()} outputs"

    def table(self) -> list[dict[str, object]]:
        """One row per set (radius and point, in row-major order) and output: bounds."""
        count = self.lower.numel() // max(1, math.prod(self.lead))
        ends = zip(listed(self.lower), listed(self.upper), strict=True)
        return [
            {"set": k // count, "output": k % count, "lower": low, "upper": high} for k, (low, high) in enumerate(ends)
        ]

    def claim(self) -> str:
        return "For every input of the region every output (every row) lies between its lower and its upper bound."

    def sections(self, names: Names) -> Sequence[Section]:
        rows = row_names(self.question, self.lower.numel() // max(1, math.prod(self.lead)), names)
        sets = set_names(radii_of(self.question, self.lead), math.prod(self.lead))
        return output_sections(self, self.table(), sets, rows)

    def plot(self, ax: Any = None) -> Any:
        """Bounds of every output at the first point and radius; returns the axes."""
        return figures().plot_output(self, ax)


@stored
@dataclass(frozen=True, eq=False, repr=False)
class JacobianBounds(Result):
    """Element-wise bounds of the Jacobian over a region.

    They hold for every Jacobian of the network inside the region where it exists, and for every limit of such
    Jacobians from inside the region. A ReLU whose argument is known to be >= 0 counts as the identity, also at 0.

    Args:
        lower, upper: shape (*radii, *batch, rows, *input shape), or (..., rows, columns) for chosen inputs.
        status: certified or why not.
        provenance: how they were found.
        unstable: number of activations whose slope is not known over the region, shape (*radii, *batch).
        activations: number of all activations.
    """

    lower: Tensor
    upper: Tensor
    status: Status
    provenance: Provenance
    unstable: Tensor
    activations: int
    told_as: ClassVar[str] = "Bounds of the Jacobian"

    @property
    def interval(self) -> Interval:
        return Interval(self.lower, self.upper)

    def headline(self) -> str:
        size = f"{self.lower.numel()} entries, {unknown_slopes(self)} slopes not known"
        return f"{span(self.lower, self.upper)} for {size}"

    def table(self) -> list[dict[str, object]]:
        """One row per set (radius and point, in row-major order), row and input: bounds."""
        sets = self.unstable.numel()
        rows = self.lower.shape[self.unstable.dim()]
        inputs = self.lower.numel() // max(1, sets * rows)
        ends = zip(listed(self.lower), listed(self.upper), strict=True)
        return [
            {"set": k // (rows * inputs), "row": k // inputs % rows, "input": k % inputs, "lower": low, "upper": high}
            for k, (low, high) in enumerate(ends)
        ]

    def claim(self) -> str:
        return (
            "Every Jacobian of the network inside of the region, where it exists, and every limit of such Jacobians "
            "has each of its entries between the lower and the upper bound."
        )

    def sections(self, names: Names) -> Sequence[Section]:
        axes = self.unstable.dim()
        rows = row_names(self.question, self.lower.shape[axes], names)
        sets = set_names(radii_of(self.question, tuple(self.unstable.shape)), self.unstable.numel())
        shape, chosen = self.lower.shape[axes + 1 :], columns_of(self.question)
        inputs = names.inputs(shape, chosen)
        picture = None if names.features or chosen is not None else names.picture(shape)
        return jacobian_sections(self, self.table(), sets, rows, inputs, picture)

    def plot(self, row: int = 0, ax: Any = None) -> Any:
        """Bounds of one row of the first point, entry by entry (an image where the input is one); returns the axes."""
        return figures().plot_jacobian(self, row, ax)


@stored
@dataclass(frozen=True, eq=False, repr=False)
class LipschitzBound(Result):
    """A Lipschitz constant from l_p to l_q over a region, as a bracket ``lower <= true constant <= upper``.

    The constant of a set with an inside is the largest ``||f(x) - f(y)||_q / ||x - y||_p``. In a set without, such as a
    single point or a box with a fixed coordinate, changes out of the set count as well: it is the largest norm of the
    Jacobian at points of the set. Where the network has a kink at all of them, `lower` is what every choice of slopes
    at the kink reaches at least, and `upper` what none exceeds.

    Args:
        upper: certified when `status.certified`; shape (*radii, *batch), a 0-d tensor for one region.
        lower: certified as well, rounding included, whatever the status says of `upper` (but for `NOT_RIGOROUS`); 0
            where nothing could be proved; same shape.
        witness: the points where it is proved, float64 and exactly in the set, shape (*radii, *batch, *input shape);
            None when no search was made.
        status: certified or why not.
        norm: (p, q): ``||f(x) - f(y)||_q <= L ||x - y||_p``; either may be `Weighted`.
        method: the candidate that gave the smallest bound, for the first point.
        seconds: wall-clock time.
        details: every `Candidate` by name.
        unstable: number of activations whose slope is not known over the region, same shape as `upper`.
        activations: number of all activations.
        radii: the radii of the region's balls, empty when it has none.
        provenance: how it was found.
        delta: for executed semantics how far executed outputs are from the exact ones at most (l_q norm, certified,
            same shape as `upper`): ``||F(x) - F(y)||_q <= upper ||x - y||_p + 2 delta``; None for real semantics.
        partner: second points, like `witness`: where they are numbers, ``||f(witness) - f(partner)||_q`` is at least
            `lower` times their distance; where they are NaN, the norm of the Jacobian at the witness is.
        lower_reason: how `lower` is proved, or why it is 0; one sentence for each set, in row-major order.
    """

    upper: Tensor
    lower: Tensor
    witness: Tensor | None
    status: Status
    norm: tuple[Norm, Norm]
    method: str
    seconds: float
    details: Mapping[str, Candidate]
    unstable: Tensor
    activations: int
    radii: tuple[float, ...]
    provenance: Provenance
    delta: Tensor | None = None
    partner: Tensor | None = None
    lower_reason: tuple[str, ...] = ()
    told_as: ClassVar[str] = "Lipschitz constant"

    @property
    def gap(self) -> Tensor:
        """upper / lower: 1 when the constant is known, large when the bound says little."""
        return self.upper / self.lower

    def headline(self) -> str:
        names = " -> ".join(map(told_norm, self.norm))
        low, high = rounded_down(float(self.lower.min())), rounded_up(float(self.upper.max()))
        many = "" if self.upper.numel() == 1 else f" over {self.upper.numel()} sets"
        return f"{low} <= L ({names}) <= {high}{many}, by {self.method} in {self.seconds:.2f} s"

    @property
    def exponents(self) -> tuple[float, float]:
        """p and q without weights."""
        return plain_exponent(self.norm[0]), plain_exponent(self.norm[1])

    def table(self) -> list[dict[str, object]]:
        """One row per set (radius and point, in row-major order): the bracket and its gap."""
        columns = {name: listed(getattr(self, name)) for name in ("upper", "lower", "gap", "unstable")}
        count = self.upper.numel() // max(1, len(self.radii))
        rows: list[dict[str, object]] = []
        for k in range(self.upper.numel()):
            place: dict[str, object] = {"set": k}
            if self.radii:
                place |= {"radius": self.radii[k // count], "point": k % count}
            rows.append(place | {name: column[k] for name, column in columns.items()})
        return rows

    def claim(self) -> str:
        p, q = map(told_norm, self.norm)
        executed = "" if self.delta is None else f" + 2 delta, delta at most {rounded_up(float(self.delta.max()))}"
        chosen = columns_of(self.question)
        which = "" if chosen is None else " that differ in the chosen inputs alone"
        reasons = "; ".join(dict.fromkeys(self.lower_reason)) or "it is 0 where nothing was proved"
        return (
            f"For all x and y of the region{which} the {q} norm of f(x) - f(y) is at most the upper end times the {p} "
            f"norm of x - y{executed}. No constant below the lower end holds ({reasons})."
        )

    def failures(self) -> tuple[tuple[str, str], ...]:
        lost = ((name, one) for name, one in self.details.items() if one.status is Status.FAILED)
        return tuple((name, one.note or one.status.value) for name, one in lost)

    def sections(self, names: Names) -> Sequence[Section]:
        count = self.upper.numel()
        sets = set_names(self.radii, count)
        points = places(self.question, count // max(1, len(self.radii)))
        parts = [(*about(self.provenance), *place, *apart(self.provenance)) for place in points]
        candidates = [
            {
                "candidate": name,
                "value": float(one.value.max()),
                "seconds": one.seconds,
                "status": one.status.name.lower(),
            }
            | {"note": one.note}
            for name, one in self.details.items()
            if one.value.numel()
        ]
        told = Table.of(
            "Candidates",
            candidates,
            "The smallest certified one is the answer, set by set; values are the largest of all sets.",
        )
        return [*constant_sections(self, self.table(), sets, parts), *([told] if candidates else [])]

    def plot(self, ax: Any = None) -> Any:
        """Upper and lower bound over the radii, both axes logarithmic; returns the axes."""
        return figures().plot_lipschitz(self, ax)


def unknown_slopes(bounds: JacobianBounds) -> str:
    """How many slopes are not known, of those of all sets."""
    return f"{int(bounds.unstable.sum())} of {bounds.activations * bounds.unstable.numel()}"
