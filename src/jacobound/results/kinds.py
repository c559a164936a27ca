"""What the library returns: `OutputBounds`, `JacobianBounds`, `LipschitzBound`, and what all results can do.

Every number says whether it is certified, and every result holds what was asked. JSON has each result twice: in plain
decimals to be read, and exactly (`results/exact_json.py`), from which `from_json` makes the same result, bit for bit.
"""

from __future__ import annotations

import hashlib
import html
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Self

from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.errors import InvalidResultError, MissingExtraError
from jacobound.inputs.exponents import Norm, plain_exponent, told_norm
from jacobound.results.exact_json import decoded, encoded, strict_json
from jacobound.results.provenance import Provenance as Provenance
from jacobound.results.provenance import Status as Status
from jacobound.results.question import Question
from jacobound.stored import kinds, stored
from jacobound.words import printable, rounded_down, rounded_up

HEX_ENTRIES = 1000  # larger results stand in hexadecimal only as bytes
FORMAT = 1  # of the exact part; a reader refuses others
WIDEST = 79  # characters of a line of `repr`: a terminal of 80 columns
SHOWN = 10  # rows of a table in a notebook


class Result(ABC):
    """What all results can do: say themselves, go to JSON and come back, be drawn."""

    status: Status
    provenance: Provenance

    @property
    def question(self) -> Question | None:
        """What was asked; None for results that were put together by hand."""
        return self.provenance.question

    def asking(self, question: Question) -> Self:
        """This result with what was asked."""
        return replace(self, provenance=replace(self.provenance, question=question))  # type: ignore[type-var]

    def asked_by(self, command: tuple[str, ...]) -> Self:
        """This result with the words of the command line that asked."""
        return self.asking(replace(Question("?") if self.question is None else self.question, command=command))

    @abstractmethod
    def headline(self) -> str:
        """The answer in one line, numbers rounded to the safe side."""

    @abstractmethod
    def table(self) -> list[dict[str, object]]:
        """Plain rows; `pandas.DataFrame(result.table())` makes a frame of them."""

    @abstractmethod
    def plot(self, *arguments: Any, **options: Any) -> Any:
        """The result as a figure, on the axes `ax` or new ones; returns the axes."""

    def _said(self) -> dict[str, str]:
        """Answer, question and status in a few lines, by what they are."""
        asked = {} if self.question is None else self.question.told()
        rest = ", ".join(f"{name} {asked[name]}" for name in ("rows", "columns", "norms", "budget") if name in asked)
        found = {"answer": self.headline(), "model": asked.get("model", ""), "region": asked.get("region", "")}
        found["region"] = "; ".join(part for part in (found["region"], rest) if part)
        return found | {"status": self.status.value}

    def __repr__(self) -> str:
        """At most four lines: the answer, the model, the region, the status."""
        said = {name: printable(text) for name, text in self._said().items() if text}
        first = f"{type(self).__name__}: {said.pop('answer')}"
        lines = [first, *(f"  {name}: {text}" for name, text in said.items())]
        return "\n".join(line if len(line) <= WIDEST else f"{_cut(line)}..." for line in lines)

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        table = self.table()
        told = ((html.escape(name), html.escape(text)) for name, text in self._said().items())
        said = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in told)
        rows = [tuple(table[0])] * bool(table) + [tuple(row.values()) for row in table[:SHOWN]]
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        left = len(table) - SHOWN
        more = f"<caption>{left} more rows in table()</caption>" if left > 0 else ""
        return f"<table>{said}</table><table>{more}{body}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, tensors as nested lists; and under "exact" the result itself.

        Bounds of at most `HEX_ENTRIES` numbers also stand in hexadecimal, under their name with "_hex".
        """
        exact = encoded(self)
        digest = hashlib.sha256(
            json.dumps(exact, sort_keys=True).encode()
        ).hexdigest()  # bits of a NaN show nowhere else
        return self._readable() | {"kind": type(self).__name__, "format": FORMAT, "exact": exact, "sha256": digest}

    def _readable(self) -> dict[str, Any]:
        found = {name: plain(value) for name, value in vars(self).items() if not name.startswith("_")}
        for name in ("lower", "upper"):
            bound = vars(self).get(name)
            if isinstance(bound, Tensor) and bound.numel() <= HEX_ENTRIES:
                found[f"{name}_hex"] = _hexadecimal(bound.detach().cpu().tolist())
        return found

    def to_json(self, indent: int | None = 2) -> str:
        """Strict JSON of `to_dict`: infinities are the strings "inf" and "-inf"."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The result that `to_json` wrote, bit for bit, with tensors on the CPU; here or in another process.

        It is a record, not a proof: whoever can write the file can write other numbers.

        Raises:
            InvalidResultError: when the text is damaged, contradicts itself, or is another kind of result.
        """
        return cls.from_dict(strict_json(text))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The result that `to_dict` told of; see `from_json`."""
        if not isinstance(told, Mapping) or not {"kind", "format", "exact"} <= set(told):
            raise InvalidResultError("no stored result: the entries 'kind', 'format' and 'exact' are not there")
        if told["format"] != FORMAT or isinstance(told["format"], bool):
            raise InvalidResultError(f"the result is stored in format {told['format']!r}; this version reads {FORMAT}")
        found = decoded(told["exact"], kinds())
        if not isinstance(found, Result):
            raise InvalidResultError("the exact part holds no result")
        if not isinstance(found, cls):
            raise InvalidResultError(f"this is a stored {type(found).__name__}, not a {cls.__name__}")
        if json.dumps(found.to_dict(), sort_keys=True) != json.dumps(dict(told), sort_keys=True, default=repr):
            raise InvalidResultError("the readable part of the result contradicts the exact one; the text was changed")
        return found


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

    def headline(self) -> str:
        return f"{_span(self.lower, self.upper)} for {self.lower.numel()} outputs"

    def table(self) -> list[dict[str, object]]:
        """One row per set (radius and point, in row-major order) and output: bounds."""
        count = self.lower.numel() // max(1, math.prod(self.lead))
        ends = zip(_listed(self.lower), _listed(self.upper), strict=True)
        return [
            {"set": k // count, "output": k % count, "lower": low, "upper": high} for k, (low, high) in enumerate(ends)
        ]

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

    @property
    def interval(self) -> Interval:
        return Interval(self.lower, self.upper)

    def headline(self) -> str:
        size = f"{self.lower.numel()} entries, {unknown_slopes(self)} slopes not known"
        return f"{_span(self.lower, self.upper)} for {size}"

    def table(self) -> list[dict[str, object]]:
        """One row per set (radius and point, in row-major order), row and input: bounds."""
        sets = self.unstable.numel()
        rows = self.lower.shape[self.unstable.dim()]
        inputs = self.lower.numel() // max(1, sets * rows)
        ends = zip(_listed(self.lower), _listed(self.upper), strict=True)
        return [
            {"set": k // (rows * inputs), "row": k // inputs % rows, "input": k % inputs, "lower": low, "upper": high}
            for k, (low, high) in enumerate(ends)
        ]

    def plot(self, row: int = 0, ax: Any = None) -> Any:
        """Bounds of one row of the first point, entry by entry (an image where the input is one); returns the axes."""
        return figures().plot_jacobian(self, row, ax)


@stored
@dataclass(frozen=True, eq=False)
class Candidate:
    """One of the constants of which the smallest certified one is the answer.

    Args:
        value: of the shape of the answer's `upper`; inf where the candidate was left out or proves nothing.
        status: whether it is certified, or why it is looser than its method could do.
        seconds: what it took; 0 for those that come along with another one.
        certificates: for methods that prove by multipliers what they proved, set by set; else empty.
        note: what there is to say besides: why a method failed, or that it was given up.
    """

    value: Tensor
    status: Status
    seconds: float = 0.0
    certificates: tuple[tuple[Any, ...], ...] = ()
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Value, status, seconds and note as plain numbers and strings."""
        found = {"value": plain(self.value), "status": plain(self.status), "seconds": self.seconds}
        return found | ({"note": self.note} if self.note else {})


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
        columns = {name: _listed(getattr(self, name)) for name in ("upper", "lower", "gap", "unstable")}
        count = self.upper.numel() // max(1, len(self.radii))
        rows: list[dict[str, object]] = []
        for k in range(self.upper.numel()):
            place: dict[str, object] = {"set": k}
            if self.radii:
                place |= {"radius": self.radii[k // count], "point": k % count}
            rows.append(place | {name: column[k] for name, column in columns.items()})
        return rows

    def plot(self, ax: Any = None) -> Any:
        """Upper and lower bound over the radii, both axes logarithmic; returns the axes."""
        return figures().plot_lipschitz(self, ax)


def figures() -> Any:
    """The drawing module, loaded only when a figure is wanted."""
    try:
        from jacobound.reports import figures as drawing
    except ImportError as error:
        if error.name and error.name.startswith("jacobound"):
            raise
        raise MissingExtraError("matplotlib", "report") from error
    return drawing


def _listed(values: Tensor) -> list[Any]:
    return values.detach().cpu().flatten().tolist()


def _cut(line: str) -> str:
    """The words of a long line that leave room for three dots."""
    return line[: WIDEST - 3].rsplit(" ", 1)[0]


def unknown_slopes(bounds: JacobianBounds) -> str:
    """How many slopes are not known, of those of all sets."""
    return f"{int(bounds.unstable.sum())} of {bounds.activations * bounds.unstable.numel()}"


def _span(lower: Tensor, upper: Tensor) -> str:
    """The least lower and the largest upper bound."""
    if not lower.numel():
        return "nothing"
    return f"{rounded_down(float(lower.min()))} to {rounded_up(float(upper.max()))}"


def _hexadecimal(value: Any) -> Any:
    return [_hexadecimal(item) for item in value] if isinstance(value, list) else float(value).hex()


def plain(value: Any) -> Any:
    """Plain numbers, lists and strings for readers; infinities as text."""
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Candidate):
        return value.to_dict()
    if isinstance(value, Status):
        return {"name": value.name.lower(), "certified": value.certified, "meaning": value.value}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value) if one.init}
    return str(value) if isinstance(value, Decimal | Fraction) else value
