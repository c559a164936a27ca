"""`monotone_features`: which inputs can only raise, or only lower, an output over a box; by branch and bound.

Enclosures of the gradient over parts of the box bound it over the whole. Parts where the sign of some derivative is
open are halved along the input with the largest effect, until all is decided or the budget is used up. A pair of
points that differ in one input alone shows that an output falls (or rises); it is checked in certified arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.asking import in_time, provenance, question, strictly
from jacobound.checks import real, whole
from jacobound.errors import InvalidRegionError
from jacobound.given import Limit, Rows, budget_given, graph_given, jacobian_method_given, region_given, row_matrix
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.domains import Domain
from jacobound.inputs.regions import Region
from jacobound.jacobian.tangents import path_sums
from jacobound.method import Budget, JacobianMethod, Query
from jacobound.methods.entries import usual_entries
from jacobound.questions.common import runs
from jacobound.questions.landscape import gradients
from jacobound.relaxation.ranges import IBP
from jacobound.reports.page.bounds import feature_sections
from jacobound.reports.page.sections import Names, Section
from jacobound.results.facts import row_names
from jacobound.results.kinds import Provenance, Result, Status, figures
from jacobound.stored import stored

LENGTHS = (1.0, 0.1, 0.01, 1e-3, 1e-4)  # of a pair of points, as shares of the box
PAIRS = 64  # that are proved together
TOGETHER = 64  # parts that are halved in one round at most


@stored
@dataclass(frozen=True, eq=False, repr=False)
class MonotoneFeatures(Result):
    """How every output depends on every input over a box.

    Args:
        lower, upper: certified sensitivity when `status.certified`: bounds of the derivative of each row with respect
            to each input over the box (over all its parts together), shape (*batch, rows, *input shape).
        rising, falling: pairs of points that differ in that input alone, such that the row is certified to be larger
            (smaller) at the second, as (number of the point in `bases`, smaller value of the input, larger one), shape
            (*batch, rows, *input shape, 3); `pair` makes points of them. NaN where none was found; none are looked for
            once the sign is certified.
        bases: shape (m, *input shape).
        swing: certified upper bound of how much the row can change when that input alone moves within the box.
        slack: what a derivative may miss a sign by and still count, shape (*batch, rows, *input shape): rounding leaves
            a derivative that can be 0 with a bound that is not quite 0. It is `negligible` times the feature's own
            scale: the derivative that it could have over the box if no two paths of the network cancelled.
        boxes: parts that were bounded, shape (*batch).
        status: certified or why not; `TIME_LIMIT` also when the number of parts ended the search.
        seconds: wall-clock time.
        provenance: how it was found.
    """

    lower: Tensor
    upper: Tensor
    rising: Tensor
    falling: Tensor
    bases: Tensor
    swing: Tensor
    slack: Tensor
    boxes: Tensor
    status: Status
    seconds: float
    provenance: Provenance
    told_as: ClassVar[str] = "Monotone features"

    @property
    def increasing(self) -> Tensor:
        """Where the derivative is certified to be at least -`slack`: with slack 0 the row never falls.

        Not where it is certified to be negative, and not where the row was shown to fall, unless it is constant too.
        Shape (*batch, rows, *input shape), bool.
        """
        falls = (self.upper < 0) | (_shown(self.falling, self.lower.dim()) & ~self.constant)
        return (self.lower >= -self.slack) & ~falls

    @property
    def decreasing(self) -> Tensor:
        """Where the derivative is certified to be at most `slack`; the mirror image of `increasing`."""
        rises = (self.lower > 0) | (_shown(self.rising, self.lower.dim()) & ~self.constant)
        return (self.upper <= self.slack) & ~rises

    @property
    def constant(self) -> Tensor:
        """Where the derivative is certified to be within `slack` of 0 on both sides, and its sign is not certified."""
        return (self.lower >= -self.slack) & (self.upper <= self.slack) & ~((self.lower > 0) | (self.upper < 0))

    def pair(self, kind: Literal["rising", "falling"], place: tuple[int, ...]) -> Tensor:
        """The two points (2, *input shape) at one place of `rising` or `falling`; NaN where there are none."""
        base, low, high = (self.rising if kind == "rising" else self.falling)[place].tolist()
        shape = self.bases.shape[1:]
        if math.isnan(base):
            return self.bases.new_full((2, *shape), math.nan)
        points = self.bases[int(base)].flatten().repeat(2, 1)
        features = torch.arange(points.shape[1]).reshape(shape)
        feature = int(features[place[len(place) - len(shape) :]])
        points[0, feature], points[1, feature] = low, high
        return points.reshape(2, *shape)

    @property
    def neither(self) -> Tensor:
        """Where both a rising and a falling pair of points were found."""
        return _shown(self.rising, self.lower.dim()) & _shown(self.falling, self.lower.dim())

    @property
    def undecided(self) -> Tensor:
        """Everything else."""
        return ~(self.increasing | self.decreasing | self.neither)

    def headline(self) -> str:
        words = self.words()
        return ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)) or "no inputs"

    def claim(self) -> str:
        return (
            "Over the box each derivative lies between its lower and its upper bound; where the answer is 'increasing' "
            "('decreasing') it is at least minus (at most) the slack, and 'both' has a rising and a falling pair of "
            "points, each proved."
        )

    def sections(self, names: Names) -> Sequence[Section]:
        axes = self.boxes.dim()
        rows = row_names(self.question, self.lower.shape[axes], names)
        return feature_sections(self, self.table(), rows, names, self.lower.shape[axes + 1 :])

    def plot(self, row: int = 0, ax: Any = None) -> Any:
        """Bounds of the derivatives of one row over the first box, coloured by the answers; returns the axes."""
        return figures().plot_features(self, row, ax)

    def table(self) -> list[dict[str, object]]:
        """One plain row per box, output row and input; `pandas.DataFrame(result.table())` makes a frame of it.

        Columns: box, row, input, answer, and in units of the row per unit of the input lower, upper and slack; swing in
        units of the row.
        """
        rows = self.boxes.numel()
        inputs = self.lower.numel() // max(1, rows) if rows else 0
        words = self.words()
        names = ("lower", "upper", "slack", "swing")
        columns = {name: getattr(self, name).flatten().tolist() for name in names}
        outputs = self.lower.shape[self.boxes.dim()]
        per_row = inputs // outputs
        table: list[dict[str, object]] = []
        for k, word in enumerate(words):
            place: dict[str, object] = {"box": k // inputs, "row": k % inputs // per_row, "input": k % per_row}
            table.append(place | {"answer": word} | {name: column[k] for name, column in columns.items()})
        return table

    def words(self) -> list[str]:
        """The answer for each box, row and input in a word, in row-major order."""
        words = [_word(*answer) for answer in itertools.product((False, True), repeat=3)]
        number = 4 * self.increasing.to(torch.int64) + 2 * self.decreasing + self.neither
        return [words[k] for k in number.flatten().tolist()]


def _word(increasing: bool, decreasing: bool, both: bool) -> str:
    if increasing and decreasing:
        return "constant"
    return "increasing" if increasing else "decreasing" if decreasing else "both" if both else "undecided"


def _shown(pairs: Tensor, axes: int) -> Tensor:
    return ~pairs.flatten(axes).isnan().any(-1)


def _side_by_side(bases: list[Tensor]) -> Tensor:
    return torch.cat(bases) if bases else torch.empty(0, dtype=torch.float64)


def monotone_features(
    graph: Graph,
    box: Region,
    rows: Rows | None = None,
    *,
    method: JacobianMethod | None = None,
    budget: Limit | None = None,
    most: int = 2000,
    negligible: float = 1e-9,
) -> MonotoneFeatures:
    """Which inputs can only raise, or only lower, an output over a box, and how much each can matter.

    Args:
        graph: the network.
        box: a `Box` or an l_inf `Ball`, or several; bounded, unless no parts are wanted.
        rows: outputs or combinations of them, as for `bound_output`; None for all outputs.
        method: `RecurJac()`, `FastLip()`, `LinearSlopes()`; None takes the first, with the last on smooth networks.
        budget: time, memory and progress, for all boxes together.
        most: how many parts of each box are bounded at most.
        negligible: `slack` as a share of the feature's own scale, see `MonotoneFeatures`; 0 for strict signs.

    Raises:
        ShapeError, InvalidRegionError: when box or rows do not fit the network, or the set is no box.
        InvalidOptionError: for options that make no sense.
    """
    graph, box, budget = graph_given(graph), region_given(box), budget_given(budget)
    named, matrix = jacobian_method_given(method), row_matrix(rows, graph)
    most, negligible = whole(most, "most (parts of a box)", 1), real(negligible, "negligible", 0.0, 0.999999)
    asked = question("monotone_features", graph, box, matrix, budget, most=most, negligible=negligible)
    target = graph.with_rows(matrix).expanded()
    method = named or usual_entries(target)
    with strictly(graph, budget) as (budget, clock):
        domains, lead = box.domains(graph)
        found = []
        for done, domain in enumerate(domains):
            budget.tell(done, len(domains), "boxes")
            if domain.centre is not None:
                raise InvalidRegionError("features are looked at over boxes; take a Box, or a Ball with p=inf")
            quiet = budget if len(domains) == 1 else replace(budget, progress=None)
            branching = _Branching(target, domain.box, method, quiet, most)
            found.append(branching.run(negligible))
        shape = (*lead, size(target.output), *graph.in_shape)
        lower, upper = (torch.stack([getattr(one, end) for one in found]).reshape(shape) for end in ("lower", "upper"))
        pairs, counts = (*shape, 3), [sum(map(len, one.bases)) for one in found]
        numbered = list(zip(found, itertools.accumulate(counts, initial=0), strict=False))
        return MonotoneFeatures(
            lower,
            upper,
            torch.stack([_renumbered(one.rising, first) for one, first in numbered]).reshape(pairs),
            torch.stack([_renumbered(one.falling, first) for one, first in numbered]).reshape(pairs),
            _side_by_side([base for one in found for base in one.bases]).reshape(-1, *graph.in_shape),
            torch.stack([one.swing for one in found]).reshape(shape),
            torch.stack([one.slack for one in found]).reshape(shape),
            torch.tensor([one.bounded for one in found]).reshape(lead),
            _cut(Status.of(in_time(Status.CERTIFIED, budget), lower, upper), [one.cut for one in found]),
            clock(),
            provenance(graph, method, clock(), asked=asked),
        )


def _renumbered(pairs: Tensor, first: int) -> Tensor:
    """Pairs whose base points come behind so many others."""
    return torch.cat((pairs[..., :1] + first, pairs[..., 1:]), -1)


def _cut(status: Status, cut: list[bool]) -> Status:
    return Status.TIME_LIMIT if status is Status.CERTIFIED and any(cut) else status


class _Branching:
    """Branch and bound on one box; lives for one call. Inputs are flattened; bounds have the shape (rows, inputs)."""

    def __init__(self, graph: Graph, box: Interval, method: JacobianMethod, budget: Budget, most: int) -> None:
        self._graph, self._method, self._budget, self._most = graph, method, budget, most
        self._box = box.map(lambda end: end.flatten())
        shape = (size(graph.output), size(graph.input))
        nothing = torch.full((*shape, 3), torch.nan, dtype=torch.float64, device=graph.device)
        self.rising, self.falling = nothing, nothing.clone()
        self.bases: list[Tensor] = []
        self.bounded, self.cut = 0, False

    def run(self, negligible: float) -> _Branching:
        parts = self._box.map(lambda end: end.unsqueeze(0))
        bounds = self._enclose(parts)
        scale = negligible * self._scale
        self.slack = torch.where(scale.isfinite(), scale, 0.0)
        self._witness(parts, bounds)
        while True:
            doubt = self._doubt(bounds)
            asked = doubt.flatten(1).any(1)
            splittable = (parts.upper > parts.lower) & parts.upper.isfinite() & parts.lower.isfinite()
            asked &= splittable.any(1)
            if not bool(asked.any()):
                break
            if self._budget.is_over or self.bounded + 2 > self._most:
                self.cut = True
                break
            self._budget.tell(self.bounded, self._most, "parts of the box")
            chosen = self._worst(bounds, doubt, asked)
            halves = self._halves(parts, bounds, splittable, chosen)
            new = self._enclose(halves).intersect(bounds[torch.cat((chosen, chosen))])
            kept = torch.ones(len(parts.lower), dtype=torch.bool, device=parts.lower.device)
            kept[chosen] = False
            parts, bounds = _joined(parts[kept], halves), _joined(bounds[kept], new)
            self._witness(halves, bounds)
        self.lower, self.upper = bounds.lower.amin(0).to(torch.float64), bounds.upper.amax(0).to(torch.float64)
        width = self._box.width.to(torch.float64)
        reach = Interval(self.lower, self.upper).magnitude()
        product = Interval.outward(reach * width, reach * width).upper
        self.swing = torch.where((reach == 0) | (width == 0), 0.0, product)
        return self

    def _enclose(self, parts: Interval) -> Interval:
        """Bounds of the gradients over some parts, (parts, rows, inputs)."""
        shape, quiet, found = self._graph.in_shape, replace(self._budget, progress=None), []
        count = len(parts.lower)
        for some in runs(count, self._graph, self._method.bytes_per_set(self._graph), self._budget):
            domain = Domain(parts[some].map(lambda end: end.reshape(-1, *shape)))
            enclosure = self._method.enclose(Query(self._graph, domain, quiet)).over(len(domain))
            # Underflow leaves even what no path reaches with bounds that are not quite 0.
            reached = path_sums(enclosure.graph or self._graph, enclosure.slopes, lambda sums: (sums > 0).to(sums)) > 0
            found.append(enclosure.entries.map(lambda end, reached=reached: torch.where(reached, end, 0.0)))
            if not self.bounded:  # the whole box
                scale = path_sums(enclosure.graph or self._graph, enclosure.slopes, lambda sums: sums)
                self._scale = scale[0].to(torch.float64)
        self.bounded += count
        return Interval(torch.cat([one.lower for one in found]), torch.cat([one.upper for one in found]))

    def _doubt(self, bounds: Interval) -> Tensor:
        """Which derivatives over which parts keep an open question open, bool (parts, rows, inputs)."""
        rises, falls = _shown(self.rising, 2), _shown(self.falling, 2)
        low, high, slack = bounds.lower.amin(0), bounds.upper.amax(0), self.slack
        is_open = (low < -slack) & (high > slack) & ~(rises & falls)
        return is_open & (((bounds.lower < -slack) & ~falls) | ((bounds.upper > slack) & ~rises))

    def _worst(self, bounds: Interval, doubt: Tensor, asked: Tensor) -> Tensor:
        """The parts with the widest open derivatives, as many as are halved together."""
        whole = (bounds.upper.amax(0) - bounds.lower.amin(0)).clamp(min=1e-300)
        gap = torch.where(doubt, torch.minimum(-bounds.lower, bounds.upper).clamp(min=0.0) / whole + 1e-9, 0.0)
        gap = torch.where(asked, gap.flatten(1).amax(1), -1.0)
        room = max(1, (self._most - self.bounded) // 2)
        count = min(TOGETHER, room, int(asked.sum()))
        return gap.topk(count).indices

    def _halves(self, parts: Interval, bounds: Interval, splittable: Tensor, chosen: Tensor) -> Interval:
        """Both halves of the chosen parts, each along the input with the largest effect on the rows."""
        lower, upper = parts.lower[chosen], parts.upper[chosen]
        effect = bounds[chosen].magnitude().nan_to_num(posinf=1e300).amax(1) * (upper - lower).nan_to_num(posinf=0.0)
        along = torch.where(splittable[chosen], effect, -1.0).argmax(1, keepdim=True)
        middle = lower.gather(1, along) / 2 + upper.gather(1, along) / 2
        left, right = upper.scatter(1, along, middle), lower.scatter(1, along, middle)
        return Interval(torch.cat((lower, right)), torch.cat((left, upper)))

    def _witness(self, parts: Interval, bounds: Interval) -> None:
        """Look for pairs of points at the middles of parts, for signs that are open and that gradients there show."""
        finite = (parts.lower.isfinite() & parts.upper.isfinite()).all(1)
        middle = (parts.lower[finite] / 2 + parts.upper[finite] / 2).clamp(self._box.lower, self._box.upper)
        if not len(middle):
            return
        slopes, slack = gradients(self._graph, middle.reshape(-1, *self._graph.in_shape)), self.slack
        is_open = (bounds.lower.amin(0) < -slack) & (bounds.upper.amax(0) > slack)
        first = sum(map(len, self.bases))
        self.bases.append(middle.to(torch.float64))
        for pairs, signed in ((self.rising, slopes), (self.falling, -slopes)):
            best, where = signed.max(0)
            wanted = ((best > 0) & is_open & ~_shown(pairs, 2)).nonzero()
            for some in wanted.split(PAIRS) if len(wanted) else ():
                rows, features = some.unbind(1)
                base = where[rows, features]
                ends, proved = self._prove(middle[base], rows, features, pairs is self.rising)
                found = torch.cat((base.unsqueeze(1) + first, ends), 1).to(pairs)
                pairs[rows[proved], features[proved]] = found[proved]

    def _prove(self, points: Tensor, rows: Tensor, features: Tensor, rising: bool) -> tuple[Tensor, Tensor]:
        """Two values (k, 2) of inputs `features` at points (k, inputs), and whether they prove a rise or fall, (k,)."""
        low, high = self._box.lower[features].unsqueeze(1), self._box.upper[features].unsqueeze(1)
        count, shares = len(points), points.new_tensor(LENGTHS)
        here = points.gather(1, features.unsqueeze(1))
        below, above = (here - shares * (here - low)).clamp(low, high), (here + shares * (high - here)).clamp(low, high)
        ends = torch.stack((below, above), 2)
        tried = points.reshape(count, 1, 1, -1).repeat(1, len(LENGTHS), 2, 1)
        place = (count, len(LENGTHS), 2, 1)
        tried.scatter_(3, features.reshape(-1, 1, 1, 1).expand(place), ends.unsqueeze(3))
        places = Domain(Interval.exact(tried.reshape(-1, *self._graph.in_shape)))
        values = IBP().ranges(self._graph, places, Budget())[self._graph.output]
        chosen = rows.reshape(-1, 1, 1, 1).expand(place)
        lower, upper = (
            end.reshape(*place[:3], -1).gather(3, chosen).squeeze(3) for end in (values.lower, values.upper)
        )
        proved = (lower[..., 1] > upper[..., 0] if rising else upper[..., 1] < lower[..., 0]) & (above > below)
        first = proved.to(torch.int8).argmax(1)
        return ends[torch.arange(count, device=first.device), first], proved.any(1)


def _joined(one: Interval, other: Interval) -> Interval:
    return Interval(torch.cat((one.lower, other.lower)), torch.cat((one.upper, other.upper)))
