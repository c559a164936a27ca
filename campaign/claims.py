"""What every method claims of a tiny network, against its exact values, Jacobians and slopes between points."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from flint import arb, ctx, fmpq
from torch import Generator, Tensor

from activation_cases import CASES
from campaign.families import pick
from campaign.functions import accurate, certainly_outside, image
from campaign.linear import directions, is_norm_bound, square_of_norm
from campaign.networks import (
    FAMILIES,
    Draw,
    Point,
    plain,
    points_inside,
    random_cancelling,
    random_network,
    random_region,
    tangled_network,
)
from campaign.registered import made
from campaign.runner import Part, Tally
from exact import BITS, DTYPES, at_least, at_most, ball, rational
from jacobound import (
    IBP,
    AutoLip,
    Best,
    Budget,
    Graph,
    InvalidRegionError,
    SeqLip,
    Status,
    UnsafeArithmeticError,
    UnsupportedOpError,
    bound_jacobian,
    bound_output,
    lipschitz,
)
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.inputs.regions import Region
from jacobound.method import JacobianMethod, Method, OutputMethod
from jacobound.operators.kinds import Dense
from oracles import exact_derivative, exact_slopes, exact_values
from zoo import integer, realised

Number = fmpq | arb
OUTPUT_METHODS = made(OutputMethod)
JACOBIAN_METHODS = made(JacobianMethod)
CERTIFIED = tuple(one for one in made(Method) if one.is_certified)
CONSTANT_METHODS = (
    *(one for one in CERTIFIED if one not in JACOBIAN_METHODS),
    Best(SeqLip()),
    Best(SeqLip("exact"), AutoLip(IBP())),
)
REFUSALS = ("is defined on", "layer by layer", "float32")  # what some methods rightly refuse
FARTHEST = 10_000  # binary exponent of numbers that are still written as rationals
NORMS = tuple((p, q) for p in (1.0, 2.0, math.inf) for q in (1.0, 2.0, math.inf))


@dataclass(frozen=True)
class Truth:
    """What a network does at exact points.

    Args:
        points: the points.
        values: outputs at each point, flattened.
        jacobians: rows of the Jacobian at each point, None where a kink is met or the balls are too wide.
    """

    points: Sequence[Point]
    values: Sequence[Sequence[Number]]
    jacobians: Sequence[Sequence[Sequence[Number]] | None]


def piecewise_linear_truth(graph: Graph, points: Sequence[Point]) -> Truth:
    """By rational arithmetic."""
    values = [exact_values(graph, x) for x in points]
    jacobians = []
    for at in values:
        slopes = exact_slopes(graph, at)
        found = None if slopes is None else exact_derivative(graph, slopes)
        jacobians.append(None if found is None else [[*row] for row in found.tolist()])
    return Truth(points, [at[graph.output] for at in values], jacobians)


def smooth_truth(graph: Graph, cases: Mapping[Node, str], points: Sequence[Point]) -> Truth:
    """By balls, for a chain of matrices and activations of `CASES`."""
    values, jacobians = [], []
    for x in points:
        h: list[arb] = [ball(entry) for entry in x]
        rows: list[list[arb]] | None = [[ball(float(i == k)) for k in range(len(x))] for i in range(len(x))]
        for node in graph.nodes:
            if isinstance(node, Affine):
                ((operator, _),) = node.terms
                weight = [[ball(entry) for entry in row] for row in operator.materialise().tolist()]
                bias = [0.0] * len(weight) if node.bias is None else node.bias.tolist()
                h = [_dot(line, h) + ball(b) for line, b in zip(weight, bias, strict=True)]
                if rows is not None:
                    columns = list(zip(*rows, strict=True))
                    rows = [[_dot(line, column) for column in columns] for line in weight]
            elif isinstance(node, Elementwise):
                case = CASES[cases[node]]
                if rows is not None and not any(_may_break(node, z) for z in h):
                    rows = [
                        [image(case.derivative, z) * entry for entry in row] for z, row in zip(h, rows, strict=True)
                    ]
                else:
                    rows = None
                h = [image(case.value, z) for z in h]
        values.append(h)
        jacobians.append(rows if rows is not None and all(accurate(e) for row in rows for e in row) else None)
    return Truth(points, values, jacobians)


def _dot(row: Sequence[arb], column: Sequence[arb]) -> arb:
    return sum((a * b for a, b in zip(row, column, strict=True)), arb(0))


def _may_break(node: Elementwise, z: arb) -> bool:
    """Whether the function may have no derivative at any number of a ball."""
    for turn in node.activation.breaks:
        ends = turn if isinstance(turn, tuple) else (turn, turn)
        if isinstance(turn, Tensor) or not (z < ball(float(ends[0])) or z > ball(float(ends[1]))):
            return True
    return False


def denied(low: float, exact: Number, high: float) -> bool:
    """Whether an enclosure is wrong: the number lies outside, or an end is NaN or an impossible infinity."""
    if isinstance(exact, arb):
        return (accurate(exact) or not _finite(low, high)) and certainly_outside(exact, low, high)
    return not (at_most(low, exact) and at_least(high, exact))


def _finite(low: float, high: float) -> bool:
    return math.isfinite(low) and math.isfinite(high)


def _denials(lower: Tensor, upper: Tensor, truths: Sequence[Sequence[Number]], points: Sequence[Point]) -> list[str]:
    ends = list(zip(lower.flatten().tolist(), upper.flatten().tolist(), strict=True))
    return [
        f"entry {k} at {points[row]}: {number} is not in [{low!r}, {high!r}]"
        for row, truth in enumerate(truths)
        for k, ((low, high), number) in enumerate(zip(ends, truth, strict=True))
        if denied(low, number, high)
    ]


def status_is_wrong(status: Status, *bounds: Tensor) -> list[str]:
    """Certified means finite, and finite means certified."""
    finite = all(bool(torch.isfinite(bound).all()) for bound in bounds)
    return [] if status.certified == finite else [f"{status.name} with bounds {[bound.tolist() for bound in bounds]}"]


# --- the three questions --------------------------------------------------------------------------------------------


def random_budget(generator: Generator) -> Budget | None:
    """Mostly none; now and then one that leaves no memory or no time."""
    return (Budget(memory=1), Budget(seconds=0.0), Budget(memory=3000), *[None] * 9)[integer(0, 11, generator)]


def random_rows(graph: Graph, generator: Generator) -> Tensor | None:
    """Mostly none; now and then combinations of the outputs."""
    if integer(0, 3, generator):
        return None
    return torch.randint(-3, 4, (integer(1, 3, generator), size(graph.output)), generator=generator).to(graph.dtype)


def combined(rows: Tensor | None, truth: Truth) -> Truth:
    """The truth of combinations of the outputs."""
    if rows is None:
        return truth
    weight = [[rational(entry) for entry in row] for row in rows.tolist()]

    def times(column: Sequence[Number]) -> list[Number]:
        return [sum((w * v for w, v in zip(line, column, strict=True)), 0 * column[0]) for line in weight]  # type: ignore[operator]

    values = [times([*v]) for v in truth.values]
    jacobians = [
        None if rows is None else [list(row) for row in zip(*map(times, zip(*rows, strict=True)), strict=True)]
        for rows in truth.jacobians
    ]
    return Truth(truth.points, values, jacobians)


def check_outputs(
    graph: Graph, region: Region, truth: Truth, generator: Generator, method: OutputMethod | None = None
) -> Tally:
    """Outputs by a method; by any when none is given."""
    method = method or OUTPUT_METHODS[integer(0, len(OUTPUT_METHODS) - 1, generator)]
    rows, tally = random_rows(graph, generator), Tally()
    found = bound_output(graph, region, method, rows=rows, budget=random_budget(generator))
    truth = combined(rows, truth)
    wrong = _denials(found.lower, found.upper, truth.values, truth.points)
    wrong += status_is_wrong(found.status, found.lower, found.upper)
    tally.add("outputs", sum(map(len, truth.values)), [f"{method}: {line}" for line in wrong])
    return tally


def check_jacobian(
    graph: Graph, region: Region, truth: Truth, generator: Generator, method: JacobianMethod | None = None
) -> Tally:
    """Entries of the Jacobian by a method; by any when none is given."""
    method = method or JACOBIAN_METHODS[integer(0, len(JACOBIAN_METHODS) - 1, generator)]
    rows, tally = random_rows(graph, generator), Tally()
    found = bound_jacobian(graph, region, method, rows=rows, budget=random_budget(generator))
    truth = combined(rows, truth)
    known = [(p, [e for row in j for e in row]) for p, j in zip(truth.points, truth.jacobians, strict=True) if j]
    wrong = _denials(found.lower, found.upper, [entries for _, entries in known], [point for point, _ in known])
    wrong += status_is_wrong(found.status, found.lower, found.upper)
    tally.add("Jacobian entries", sum(len(entries) for _, entries in known), [f"{method}: {line}" for line in wrong])
    return tally


def check_constant(
    graph: Graph, region: Region, truth: Truth, generator: Generator, method: Method | None = None
) -> Tally:
    """Slopes between points and images of directions, against every candidate that `lipschitz` lists."""
    methods = (JACOBIAN_METHODS, CONSTANT_METHODS)[integer(0, 1, generator)]
    method = method or methods[integer(0, len(methods) - 1, generator)]
    p, q = method.norm_for(NORMS[integer(0, len(NORMS) - 1, generator)])
    found = lipschitz(graph, region, method, norm=(p, q), budget=random_budget(generator), search=None)
    steepest = steepest_slope(truth, p, q)
    wrong = status_is_wrong(found.status, found.upper)
    tally = Tally()
    for name, bound in (*((name, one.value) for name, one in found.details.items()), ("upper", found.upper)):
        if not is_norm_bound(float(bound), steepest):
            wrong.append(f"l_{p} to l_{q}, {name}: {float(bound)!r} is below {ball(steepest).sqrt()}")
    tally.add("constants", 1 + len(found.details), [f"{method}: {line}" for line in wrong])
    return tally


def steepest_slope(truth: Truth, p: float, q: float) -> fmpq:
    """The largest squared slope between two of the points, and along unit vectors and corners at them.

    Jacobians of balls count by their middle, and the result is then made a little smaller than their width could
    matter. Differences count by the least that balls allow: points may be closer than values are known.
    """
    steepest = fmpq(0)
    for (x, f), (y, g) in itertools.combinations(zip(truth.points, truth.values, strict=True), 2):
        run = square_of_norm([a - b for a, b in zip(x, y, strict=True)], p)
        rise = middles([_least_size(a - b) for a, b in zip(f, g, strict=True)])
        if run and rise is not None:
            steepest = max(steepest, square_of_norm(rise, q) / run)
    for jacobian in truth.jacobians:
        rows = [row for row in map(middles, jacobian or []) if row is not None]
        if not rows or jacobian is None or len(rows) < len(jacobian):
            continue
        for u in directions(len(truth.points[0])):
            image = [sum((a * b for a, b in zip(row, u, strict=True)), fmpq(0)) for row in rows]
            steepest = max(steepest, square_of_norm(image, q) / square_of_norm(u, p))
    by_balls = any(isinstance(number, arb) for v in truth.values for number in v)
    return steepest * (1 - fmpq(1, 1 << 50)) if by_balls else steepest


def _least_size(difference: Number) -> Number:
    """The smallest absolute value that a number known as a ball can have."""
    return difference.abs_lower() if isinstance(difference, arb) else abs(difference)


def middles(numbers: Sequence[Number]) -> list[fmpq] | None:
    """Exact numbers as they are, balls by their middle; None when a ball is wider than 200 bits."""
    found = []
    for number in numbers:
        if isinstance(number, arb):
            if not (number == 0 or (number.is_finite() and number.rel_accuracy_bits() > 200)):
                return None
            mantissa, exponent = (int(part) for part in number.mid().man_exp())
            if exponent > FARTHEST:
                return None
            number = fmpq(mantissa) * fmpq(2) ** exponent if exponent > -FARTHEST else fmpq(0)
        found.append(number)
    return found


# --- one network ----------------------------------------------------------------------------------------------------


def smooth_network(dtype: torch.dtype, generator: Generator) -> tuple[Graph, dict[Node, str]]:
    """A chain of one to three hidden layers with any registered activations, and the names of their true functions."""
    node: Node = Input((integer(1, 2, generator),))
    cases: dict[Node, str] = {}
    gain = (1.0, 3.0, 30.0, 1e-3)[integer(0, 3, generator)]
    family = FAMILIES["mixed"] if integer(0, 9, generator) == 0 else plain
    for _ in range(integer(1, 3, generator)):
        node = _affine(node, integer(1, 3, generator), family, gain, dtype, generator)
        name = pick([*CASES], generator)
        node = Elementwise(CASES[name].activation.to("cpu", dtype), node, "h")
        cases[node] = name
    if integer(0, 4, generator):
        node = _affine(node, integer(1, 2, generator), family, gain, dtype, generator)
    return Graph(node), cases


def _affine(source: Node, width: int, draw: Draw, gain: float, dtype: torch.dtype, generator: Generator) -> Affine:
    weight = gain * draw((width, source.shape[0]), dtype, generator)
    return Affine(((Dense(weight), source),), gain * draw((width,), dtype, generator), "z")


def exact_case(kind: str, generator: Generator) -> tuple[Graph, Region, Truth]:
    """A network as it is bounded, a region, and the truth at some points of it."""
    dtype = DTYPES[integer(0, 1, generator)]
    if kind == "cancelling":
        graph, box = random_cancelling(dtype, generator)
        return graph, box, piecewise_linear_truth(graph, points_inside(box, generator, 2, 2))
    if kind == "smooth":
        graph, cases = smooth_network(dtype, generator)
        region, points = random_region(size(graph.input), dtype, generator)
        return graph, region, smooth_truth(graph, cases, points)
    draw = FAMILIES[pick([*FAMILIES], generator)]
    graph = (random_network if kind == "layered" else tangled_network)(draw, dtype, generator)
    region, points = random_region(size(graph.input), dtype, generator)
    return graph, region, piecewise_linear_truth(realised(graph, generator), points)


KINDS = ("layered", "layered", "tangled", "cancelling", "smooth", "smooth")


def examine(graph: Graph, region: Region, truth: Truth, generator: Generator) -> Tally:
    """One or two of the three questions, each by one method."""
    tally = Tally()
    question = integer(0, 5, generator)
    if question in (0, 1, 5):
        tally.merge(check_outputs(graph, region, truth, generator))
    if question in (2, 3, 5):
        tally.merge(check_jacobian(graph, region, truth, generator))
    if question == 4:
        tally.merge(check_constant(graph, region, truth, generator))
    return tally


def examine_by(method: OutputMethod | Method) -> Callable[[Graph, Region, Truth, Generator], Tally]:
    """All questions that a method answers."""

    def ask(graph: Graph, region: Region, truth: Truth, generator: Generator) -> Tally:
        if isinstance(method, OutputMethod):
            return check_outputs(graph, region, truth, generator, method)
        tally = check_constant(graph, region, truth, generator, method)
        if isinstance(method, JacobianMethod):
            tally.merge(check_jacobian(graph, region, truth, generator, method))
        return tally

    return ask


def attempt(
    kind: str, generator: Generator, ask: Callable[[Graph, Region, Truth, Generator], Tally] = examine
) -> Tally:
    """One network of a kind; one that a method rightly refuses counts as that."""
    try:
        found = ask(*exact_case(kind, generator), generator)
        found.cases["networks"] += 1
    except (InvalidRegionError, UnsupportedOpError, UnsafeArithmeticError) as error:
        expected = any(reason in str(error) for reason in REFUSALS)
        found = Tally(Counter(refused=1), [] if expected else [f"raised {error!r}"])
    except Exception as error:
        found = Tally(Counter(networks=1), [f"raised {error!r}"])
    found.violations = [f"{kind}: {line}" for line in found.violations]
    return found


def batch(generator: Generator) -> Tally:
    """Twenty networks."""
    tally = Tally()
    with ctx.workprec(BITS):
        for _ in range(20):
            tally.merge(attempt(pick(KINDS, generator), generator))
    return tally


PART = Part("exact", "networks", batch, ("networks",))
