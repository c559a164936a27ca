"""Lower ends of Lipschitz constants of tiny networks, checked without rounding at the witnesses they name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

import torch
from flint import ctx, fmpq, fmpq_mat
from torch import Generator, Tensor

from campaign.claims import (
    NORMS,
    Number,
    combined,
    middles,
    random_rows,
    smooth_network,
    smooth_truth,
)
from campaign.families import pick
from campaign.linear import square_of_norm
from campaign.networks import (
    FAMILIES,
    Point,
    random_cancelling,
    random_network,
    random_region,
    tangled_network,
)
from campaign.runner import Part, Tally
from exact import BITS, DTYPES, rational, rationals
from jacobound import IBP, AutoLip, Ball, Box, FastLip, Graph, InvalidRegionError, LipschitzBound, Sampling, lipschitz
from jacobound.graph.nodes import Elementwise, Node, size
from jacobound.inputs.regions import Region
from oracles import exact_derivative, exact_values, leaky_slope
from zoo import integer, realised

MOST_KINKS = 6
KINDS = ("layered", "layered", "tangled", "tangled", "cancelling", "smooth", "kinked", "kinked")


def reaches(matrix: Sequence[Sequence[fmpq]], bound: float, p: float, q: float) -> bool:
    """Whether the norm from l_p to l_q of an exact matrix with few rows and columns is at least a bound; exact."""
    square, rows, columns = rational(bound) ** 2, matrix, [*zip(*matrix, strict=True)]

    def signs(count: int) -> Iterator[tuple[int, ...]]:
        return itertools.product((1, -1), repeat=count)

    def turned(vectors: Sequence[Sequence[fmpq]], turn: Sequence[int]) -> list[fmpq]:
        return [
            sum((s * e for s, e in zip(turn, entries, strict=True)), fmpq(0)) for entries in zip(*vectors, strict=True)
        ]

    if p == 1:
        return any(square_of_norm([*column], q) >= square for column in columns)
    if q == math.inf:
        dual = {2.0: 2.0, math.inf: 1.0}[p]
        return any(square_of_norm([*row], dual) >= square for row in rows)
    if p == math.inf:
        return any(square_of_norm(turned(columns, turn), q) >= square for turn in signs(len(columns)))
    if q == 1:
        return any(square_of_norm(turned(rows, turn), 2) >= square for turn in signs(len(rows)))
    exact = fmpq_mat([[*row] for row in rows])
    rest = -(exact.transpose() * exact)
    count = rest.nrows()
    entries = [[rest[i, j] + (square if i == j else 0) for j in range(count)] for i in range(count)]
    minors = (fmpq_mat([row[:k] for row in entries[:k]]).det() for k in range(1, count + 1))
    return not all(minor > 0 for minor in minors)


def slope_choices(graph: Graph, values: Mapping[Node, list[fmpq]]) -> Iterator[dict[Node, list[fmpq]]]:
    """Every choice of a one-sided slope at every kink that is met; nothing when there are too many."""
    nodes = [node for node in graph.nodes if isinstance(node, Elementwise)]
    options = []
    for node in nodes:
        leak = leaky_slope(node)
        options.append([(fmpq(1),) if z > 0 else (leak,) if z < 0 else (leak, fmpq(1)) for z in values[node.source]])
    flat = [option for each in options for option in each]
    if sum(len(option) - 1 for option in flat) > MOST_KINKS:
        return
    for chosen in itertools.product(*flat):
        rest = iter(chosen)
        yield {node: [next(rest) for _ in each] for node, each in zip(nodes, options, strict=True)}


def is_inside(region: Region, point: Point) -> bool:
    """Whether an exact point lies in the region that was asked for (decimal radii as they are written)."""
    if isinstance(region, Box):
        low, high = (rationals(torch.as_tensor(end, dtype=torch.float64)) for end in (region.lower, region.upper))
        return all(a <= x <= b for a, x, b in zip(low, point, high, strict=True))
    if isinstance(region, Ball):
        centre = rationals(torch.as_tensor(region.center, dtype=torch.float64))
        radius = fmpq(*Decimal(str(region.radius)).as_integer_ratio())
        offset = [x - c for x, c in zip(point, centre, strict=True)]
        return square_of_norm(offset, region.p) <= radius**2
    return True


def check_lower(found: LipschitzBound, region: Region, facts: Facts, norm: tuple[float, float]) -> list[str]:
    """What is wrong with the lower end of one set."""
    p, q = norm
    lower, wrong = float(found.lower), []
    if not 0 <= lower < math.inf or not lower <= float(found.upper):
        return [f"[{lower!r}, {float(found.upper)!r}] is no bracket"]
    if lower == 0:
        return [] if found.lower_reason[0].startswith("nothing proved") else [f"0, but {found.lower_reason}"]
    assert found.witness is not None and found.partner is not None
    place = rationals(found.witness)
    if not is_inside(region, place):
        wrong.append(f"the witness {found.witness.tolist()} is not in the region")
    if bool(found.partner.isnan().all()):
        for matrix in facts.jacobians(place):
            if not reaches(matrix, lower, p, q):
                wrong.append(f"l_{p} to l_{q}: {lower!r} is not reached at {found.witness.tolist()}")
    else:
        other = rationals(found.partner)
        rise = facts.difference(place, other)
        if not is_inside(region, other):
            wrong.append(f"the partner {found.partner.tolist()} is not in the region")
        run = square_of_norm([a - b for a, b in zip(place, other, strict=True)], p)
        if rise is not None and not square_of_norm(rise, q) >= rational(lower) ** 2 * run:
            wrong.append(f"l_{p} to l_{q}: {lower!r} is not reached between {place} and {other}")
    return wrong


class Facts:
    """Exact values and Jacobians of a network (with rows behind it) at points that are asked for."""

    def __init__(self, graph: Graph, cases: Mapping[Node, str] | None, rows: Tensor | None) -> None:
        self._graph, self._cases, self._rows = graph, cases, rows

    def jacobians(self, point: Point) -> list[list[list[fmpq]]]:
        """All that the slopes at the point allow; none where they are not known well enough."""
        if self._cases is not None:
            truth = combined(self._rows, smooth_truth(self._graph, self._cases, [point]))
            rows = [middles(row) for row in truth.jacobians[0] or []]
            known = [_grown(row) for row in rows if row is not None]
            return [known] if known and len(known) == len(rows) else []
        graph = self._graph.with_rows(self._rows)
        values = exact_values(graph, point)
        return [[[*row] for row in exact_derivative(graph, slopes).tolist()] for slopes in slope_choices(graph, values)]

    def difference(self, x: Point, y: Point) -> list[fmpq] | None:
        """Of the outputs; None where it is not known well enough."""
        if self._cases is None:
            graph = self._graph.with_rows(self._rows)
            pairs = zip(exact_values(graph, x)[graph.output], exact_values(graph, y)[graph.output], strict=True)
            return [a - b for a, b in pairs]
        truth = combined(self._rows, smooth_truth(self._graph, self._cases, [x, y]))
        changes: list[Number] = [a - b for a, b in zip(*truth.values, strict=True)]
        known = middles(changes)
        return None if known is None else _grown(known)


def _grown(numbers: Sequence[fmpq]) -> list[fmpq]:
    """Middles of narrow balls, a little larger than their width could make them."""
    return [number * (1 + fmpq(1, 1 << 150)) for number in numbers]


def lower_case(kind: str, generator: Generator) -> tuple[Graph, Region, Graph, Mapping[Node, str] | None]:
    """A network as it is bounded, a region, the network that is meant, and the functions of a smooth one."""
    dtype = DTYPES[integer(0, 1, generator)]
    if kind == "cancelling":
        graph, box = random_cancelling(dtype, generator)
        return graph, box, graph, None
    if kind == "smooth":
        graph, cases = smooth_network(dtype, generator)
        return graph, random_region(size(graph.input), dtype, generator)[0], graph, cases
    if kind == "kinked":  # kinks at the middle of the region and on its sides, where slopes may cancel
        graph = random_network(FAMILIES["integers"], dtype, generator)
        width = torch.randint(0, 3, graph.in_shape, generator=generator).to(torch.float64)
        middle = torch.randint(-1, 2, graph.in_shape, generator=generator).to(torch.float64)
        return graph, Box(middle - width, middle + width), graph, None
    draw = FAMILIES[pick([*FAMILIES], generator)]
    graph = (random_network if kind == "layered" else tangled_network)(draw, dtype, generator)
    return graph, random_region(size(graph.input), dtype, generator)[0], realised(graph, generator), None


def examine(kind: str, generator: Generator) -> Tally:
    """One network, for three pairs of norms."""
    graph, region, meant, cases = lower_case(kind, generator)
    rows, tally = random_rows(graph, generator), Tally()
    search = Sampling(points=8, steps=4, ascents=4, seed=integer(0, 1000, generator))
    for _ in range(3):
        norm = NORMS[integer(0, len(NORMS) - 1, generator)]
        method = (AutoLip(), FastLip(IBP()), FastLip())[integer(0, 2, generator)]
        found = lipschitz(graph, region, method, norm=norm, rows=rows, search=search)
        tally.add("lower ends", 1, check_lower(found, region, Facts(meant, cases, rows), norm))
        tally.cases["lower ends above 0"] += int(float(found.lower) > 0)
        tally.cases["pairs of points"] += int(float(found.lower) > 0 and "partner" in found.lower_reason[0])
    return tally


def attempt(kind: str, generator: Generator) -> Tally:
    """One network of a kind; one whose argument may leave the domain of a function is refused, and counts as that."""
    try:
        found = examine(kind, generator)
        found.cases["networks"] += 1
    except InvalidRegionError as error:
        found = Tally(violations=[] if "is defined on" in str(error) else [f"raised {error!r}"])
        found.cases["refused"] += 1
    except Exception as error:
        found = Tally(violations=[f"raised {error!r}"])
        found.cases["networks"] += 1
    found.violations = [f"{kind}: {line}" for line in found.violations]
    return found


def batch(generator: Generator) -> Tally:
    """Twenty networks."""
    tally = Tally()
    with ctx.workprec(BITS):
        for _ in range(20):
            tally.merge(attempt(pick(KINDS, generator), generator))
    return tally


PART = Part("lower", "networks", batch, ("networks",))
