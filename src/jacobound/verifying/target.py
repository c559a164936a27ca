"""`Target`: the left sides of a property's inequalities as outputs of a network, and which of them make a violation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import down, up
from jacobound.errors import InvalidRegionError, UnsafeArithmeticError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Node
from jacobound.inputs.properties import Case, Factors, Inequality
from jacobound.inputs.vnnlib_linear import outward
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Dense, Identity, Select

MOST_PARTS = 8  # floats whose sum is a whole factor


@dataclass(frozen=True, eq=False)
class Target:
    """What is bounded, and when it is a violation; C inequalities, A alternatives.

    A left side is ``sign * row``, and an inequality holds where it is <= its bound (or < it).

    Args:
        graph: the network followed by the rows, as bound methods take it.
        double: the same in float64, for values at points.
        row, sign: of each inequality, (C,); signs are 1.0 or -1.0.
        below, above: the bounds, rounded down and up to float64, (C,).
        strict: bool (C,).
        members: the inequalities of each alternative, (A, longest), filled up with copies of its own.
        case_of: the case of each alternative, (A,).
        inequalities: as they were given.
    """

    graph: Graph
    double: Graph
    row: Tensor
    sign: Tensor
    below: Tensor
    above: Tensor
    strict: Tensor
    members: Tensor
    case_of: Tensor
    inequalities: tuple[Inequality, ...]

    @staticmethod
    def of(graph: Graph, cases: list[Case]) -> Target:
        """The target of a property's cases.

        Raises:
            UnsafeArithmeticError: when floats can not hold a factor.
        """
        inequalities = list(dict.fromkeys(one for case in cases for alternative in case.unsafe for one in alternative))
        place = {one: k for k, one in enumerate(inequalities)}
        signed = [_rising(one) for one in inequalities]
        rows = list(dict.fromkeys(key for key, _ in signed))
        alternatives = [(k, alternative) for k, case in enumerate(cases) for alternative in case.unsafe]
        longest = max(len(alternative) for _, alternative in alternatives)
        members = [
            [place[alternative[min(k, len(alternative) - 1)]] for k in range(longest)]
            for _, alternative in alternatives
        ]
        bounds = [one.bound for one in inequalities]
        followed, exact = _followed(graph, rows), _followed(graph.double, rows)
        device = graph.device
        below, above = (
            torch.tensor([outward(bound, way) for bound in bounds], dtype=torch.float64, device=device)
            for way in (-math.inf, math.inf)
        )
        return Target(
            graph=followed.expanded() if followed.expands else followed.lowered(),
            double=exact.expanded() if exact.expands else exact.lowered(),
            row=torch.tensor([rows.index(key) for key, _ in signed], device=device),
            sign=torch.tensor([sign for _, sign in signed], dtype=torch.float64, device=device),
            below=below,
            above=above,
            strict=torch.tensor([one.strict for one in inequalities], device=device),
            members=torch.tensor(members, device=device),
            case_of=torch.tensor([k for k, _ in alternatives], device=device),
            inequalities=tuple(inequalities),
        )

    def sides(self, rows: Interval) -> Interval:
        """The left sides, (N, C), in float64, from enclosures of the rows, (N, rows)."""
        lower, upper = (end.to(torch.float64)[:, self.row] for end in (rows.lower, rows.upper))
        kept = self.sign > 0
        return Interval.safe(torch.where(kept, lower, -upper), torch.where(kept, upper, -lower))

    def of_outputs(self, point: Tensor, outputs: Tensor) -> Tensor:
        """Which inequalities hold of outputs as they stand, exactly, for a point; both flattened, (C,)."""
        if not bool(outputs.isfinite().all()):
            return torch.zeros_like(self.strict)
        values = {k: Fraction(x) for k, x in enumerate(point.tolist())}
        values |= {~k: Fraction(y) for k, y in enumerate(outputs.tolist())}
        found: list[bool] = []
        for one in self.inequalities:
            factors = [(~k, factor) for k, factor in one.outputs] + list(one.inputs)
            side = sum((values[k] * factor for k, factor in factors), Fraction(0))
            found.append(side < one.bound or (side == one.bound and not one.strict))
        return torch.tensor(found, device=self.row.device)

    def refuted(self, lower: Tensor) -> Tensor:
        """Which inequalities hold nowhere, from lower bounds of their left sides; bool (N, C)."""
        # A float above the bound rounded down is above the bound, and one that is not below it rounded up neither.
        return torch.where(self.strict, lower >= self.above, lower > self.below)

    def met(self, upper: Tensor) -> Tensor:
        """Which inequalities hold everywhere, from upper bounds of their left sides; bool (N, C)."""
        return torch.where(self.strict, upper < self.above, upper <= self.below)

    def margins(self, sides: Interval) -> Interval:
        """How far each alternative is from being a violation: its largest left side minus bound, (N, A)."""
        lower, upper = down(sides.lower - self.above), up(sides.upper - self.below)
        return Interval(lower[:, self.members].amax(2), upper[:, self.members].amax(2))

    def own(self, case: Tensor) -> Tensor:
        """Which alternatives belong to the case of each of N sets, bool (N, A)."""
        return case.unsqueeze(1) == self.case_of


def _rising(one: Inequality) -> tuple[tuple[Factors, Factors], float]:
    """The row of an inequality, whose first factor is positive, and its sign."""
    first = (*one.outputs, *one.inputs)[0][1]
    if first > 0:
        return (one.outputs, one.inputs), 1.0
    return (_negative(one.outputs), _negative(one.inputs)), -1.0


def _negative(factors: Factors) -> Factors:
    return tuple((k, -factor) for k, factor in factors)


def _followed(graph: Graph, rows: list[tuple[Factors, Factors]]) -> Graph:
    """The network followed by sums of its outputs and inputs."""
    like, output = graph.example, graph.output
    units = [outputs[0][0] for outputs, inputs in rows if not inputs and len(outputs) == 1 and outputs[0][1] == 1]
    if len(units) == len(rows):  # moved without rounding
        chosen = Select(torch.tensor(units, device=graph.device), output.shape, like)
        last = Affine(((chosen, output),), name="rows")
    else:
        terms = _terms(graph, output, [outputs for outputs, _ in rows])
        terms += _terms(graph, graph.input, [inputs for _, inputs in rows])
        last = Affine(tuple(terms), name="rows")
    return Graph(last, frozenset(graph.nodes), graph.execution, graph.source)


def _terms(graph: Graph, node: Node, rows: list[Factors]) -> list[tuple[LinearOperator, Node]]:
    """Sums of the entries of a node as products with matrices whose sum is exact; none when there are no factors."""
    like, count = graph.example, math.prod(node.shape)
    if not any(rows):
        return []
    if len(node.shape) != 1:
        node = Affine(((Identity(node.shape, (count,), like), node),), name="flatten")
    left = {(k, column): Fraction(factor) for k, row in enumerate(rows) for column, factor in row}
    found: list[tuple[LinearOperator, Node]] = []
    while left and len(found) < MOST_PARTS:
        weight = like.new_zeros(len(rows), count)
        for place, factor in left.items():
            weight[place] = _nearest(factor)
        if not bool(weight.isfinite().all()):
            break
        left = {place: factor - Fraction(float(weight[place])) for place, factor in left.items()}
        left = {place: factor for place, factor in left.items() if factor}
        found.append((Dense(weight), node))
    if left:
        raise UnsafeArithmeticError(
            f"the factors of an inequality have too many digits for {graph.dtype}; give them with fewer digits, or use "
            "a graph in float64"
        )
    return found


def _nearest(factor: Fraction) -> float:
    try:
        return float(factor)
    except OverflowError:
        raise InvalidRegionError("a factor of an inequality is too large for a float") from None
