"""What follows from a certificate: every question with the numbers that its choices prove."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jacobound_check.constants import DUAL, by_multipliers, crossed, norms_ahead, row_sums
from jacobound_check.errors import UnprovedError, UnreadableError
from jacobound_check.functions import Function
from jacobound_check.jacobians import Core, Derivative, Recursion, adjoints_of, core_of, derivative_of
from jacobound_check.network import Network, network_of
from jacobound_check.norms import factor_between, length_above, norm_above
from jacobound_check.ranges import Choices, Slopes, image_of, ranges_of
from jacobound_check.reading import Arrays, array_of, entry, list_of, number_of, text_of, whole_of
from jacobound_check.regions import EXPONENTS, Set, sets_of
from jacobound_check.rounding import Array, Interval, down, gamma, up

ASKS = ("bound_output", "bound_jacobian", "lipschitz", "robust_radius", "monotone_features")
DEEPEST = 64  # cuts behind each other


@dataclass(frozen=True, eq=False)
class Question:
    """What a certificate answers.

    Args:
        network: with the rows of the question behind it.
        norms: (p, q) of a constant.
        labels, targets: of `robust_radius`, (points,) and (points, targets).
    """

    asks: str
    network: Network
    sets: tuple[Set, ...]
    norms: tuple[float, float] | None = None
    labels: np.ndarray | None = None
    targets: np.ndarray | None = None


Proved = Mapping[str, Array]


def question_of(told: Any, network: Any, arrays: Arrays) -> Question:
    """The question of a certificate."""
    told = entry(told, "question", ("asks", "region", "rows", "norm", "labels", "targets"))
    asks = text_of(told["asks"], "question: asks", ASKS)
    graph = network_of(network, arrays)
    sets = sets_of(told["region"], arrays, graph.inputs)
    if told["rows"] is not None:
        rows = array_of(arrays, told["rows"], "question: rows")
        if rows.ndim != 2 or rows.shape[1] != graph.outputs or not len(rows):
            raise UnreadableError("question: the rows do not fit the network's outputs")
        graph = graph.with_rows(rows)
    norms = None
    if (asks == "lipschitz") != (told["norm"] is not None):
        raise UnreadableError("question: a constant has a pair of norms, other questions have none")
    if told["norm"] is not None:
        pair = [EXPONENTS[text_of(one, "question: norm", EXPONENTS)] for one in list_of(told["norm"], "question: norm")]
        if len(pair) != 2:
            raise UnreadableError("question: norms are a pair")
        norms = pair[0], pair[1]
    if (asks == "robust_radius") != (told["labels"] is not None) or (told["labels"] is None) != (
        told["targets"] is None
    ):
        raise UnreadableError("question: a robust radius has labels and targets, other questions have none")
    if told["labels"] is None:
        return Question(asks, graph, tuple(sets), norms)
    labels = array_of(arrays, told["labels"], "question: labels", (len(sets),), np.int64)
    targets = array_of(arrays, told["targets"], "question: targets", kind=np.int64)
    fits = targets.ndim == 2 and len(targets) == len(sets) and all(one.centre is not None for one in sets)
    inside = all(((x >= 0) & (x < graph.outputs)).all() for x in (labels, targets))
    if not fits or not inside or (targets == labels[:, None]).any():
        raise UnreadableError("question: labels and targets do not fit the points and outputs")
    return Question(asks, graph, tuple(sets), None, labels, targets)


def proved(question: Question, told: Any, claims: Proved, arrays: Arrays) -> dict[str, Array]:
    """The numbers that the choices of a certificate prove, in the form of its claims.

    Raises:
        UnprovedError: when a choice proves nothing.
        UnreadableError: when it does not fit the question.
    """
    listed = list_of(entry(told, "proof", ("sets",))["sets"], "proof: sets")
    if question.asks == "robust_radius":
        return {"radius": _radii(question, listed, claims["radius"], arrays)}
    if len(listed) != len(question.sets):
        raise UnreadableError(f"the proof speaks of {len(listed)} sets, the question of {len(question.sets)}")
    found = [
        _Leaves(question, f"set {k}", arrays).of(one, part, 0)
        for k, (one, part) in enumerate(zip(question.sets, listed, strict=True))
    ]
    return {name: np.stack([np.asarray(one[name]) for one in found]) for name in found[0]}


def _radii(question: Question, listed: list[Any], claimed: Array, arrays: Arrays) -> Array:
    """Radii whose margins stay above 0: those claimed, or 0 where the proof is left out."""
    assert question.labels is not None and question.targets is not None
    if len(listed) != question.targets.size or claimed.shape != question.targets.shape:
        raise UnreadableError("the proof of a robust radius speaks of every point and target")
    found = np.zeros(question.targets.shape)
    for k, part in enumerate(listed):
        point, target = divmod(k, question.targets.shape[1])
        if part is None:
            continue
        row = np.zeros((1, question.network.outputs))
        row[0, question.labels[point]], row[0, question.targets[point, target]] = 1.0, -1.0
        ball = replace(question.sets[point], radius=float(claimed[point, target]))
        asked = Question("bound_output", question.network.with_rows(row), (ball,))
        if not claimed[point, target] >= 0:
            raise UnreadableError("a radius is negative")
        margin = _Leaves(asked, f"point {point}, target {target}", arrays).of(ball, part, 0)["lower"]
        if not margin[0] > 0:
            raise UnprovedError(f"point {point}: the margin to class {question.targets[point, target]} may be 0")
        found[point, target] = claimed[point, target]
    return found


class _Leaves:
    """The proof over one set, or over the parts that cuts leave of it; lives for one set."""

    def __init__(self, question: Question, where: str, arrays: Arrays) -> None:
        self._question, self._where, self._arrays = question, where, arrays

    def of(self, region: Set, told: Any, depth: int) -> dict[str, Array]:
        """Both sides of a cut together cover the set, whatever the cut is: nothing can be left out."""
        if not (isinstance(told, dict) and "axis" in told):
            return self._leaf(region, told)
        told = entry(told, f"a cut of {self._where}", ("axis", "at", "below", "above"), ("lower",))
        if depth > DEEPEST:
            raise UnreadableError(f"{self._where}: more than {DEEPEST} cuts behind each other")
        axis = whole_of(told["axis"], "axis of a cut", 0, self._question.network.inputs - 1)
        at, sides = number_of(told["at"], "a cut"), []
        low, high = region.low.copy(), region.high.copy()
        low[axis], high[axis] = max(low[axis], at), min(high[axis], at)
        for name, side in (("below", replace(region, high=high)), ("above", replace(region, low=low))):
            if (side.box.low <= side.box.high).all():
                sides.append(self.of(side, told[name], depth + 1))
            elif told[name] is not None:
                raise UnreadableError(f"{self._where}: a cut leaves nothing on one side, which has a proof")
        joined = {"lower": np.minimum, "upper": np.maximum}
        if self._question.asks == "lipschitz":
            found = {"upper": np.max([side["upper"] for side in sides], 0)}
            found["lower"] = np.asarray(self._witness(region, told.get("lower")))
            return found
        return {name: joined[name].reduce([side[name] for side in sides]) for name in sides[0]}

    def _leaf(self, region: Set, told: Any) -> dict[str, Array]:
        told = entry(told, self._where, ("ranges",), ("jacobian", "upper", "lower"))
        network = self._question.network
        known = ranges_of(network, region, choices_of(told["ranges"], network, self._where, self._arrays))
        if self._question.asks == "bound_output":
            return {"lower": known[-1].low, "upper": known[-1].high}
        gates = derivative_of(network, known)
        rule = text_of(told.get("jacobian"), f"{self._where}: jacobian", ("intervals", "chord", "constant", "none"))
        if self._question.asks == "lipschitz":
            upper = _constant(self._question, gates, rule, told.get("upper"), self._where, self._arrays)
            return {"upper": np.asarray(upper), "lower": np.asarray(self._witness(region, told.get("lower")))}
        entries = adjoints_of(gates)[0] if rule == "intervals" else Recursion(gates, rule).entries
        return {"lower": entries.low, "upper": entries.high}

    def _witness(self, region: Set, told: Any) -> float:
        """What a point, with a direction or a second point, proves of the constant from below; 0 without."""
        if told is None:
            return 0.0
        told = entry(told, f"{self._where}: lower", ("point", "other", "direction"))
        network, norms = self._question.network, self._question.norms
        assert norms is not None
        shape = (network.inputs,)
        point = array_of(self._arrays, told["point"], f"{self._where}: point", shape)
        other = None if told["other"] is None else array_of(self._arrays, told["other"], f"{self._where}: point", shape)
        if not all(region.holds(one) for one in (point, other) if one is not None):
            raise UnprovedError(f"{self._where}: a point of the lower end lies outside of the set")
        known = [_values(network, one) for one in (point, other) if one is not None]
        if other is not None:
            change = known[0][-1] - known[1][-1]
            step = Interval.at(point) - Interval.at(other)
            return _ratio(change, float(length_above(step.size(), norms[0])), norms[1])
        direction = array_of(self._arrays, told["direction"], f"{self._where}: direction", shape)
        return _ratio(
            _tangent(derivative_of(network, known[0]), direction), float(length_above(direction, norms[0])), norms[1]
        )


def _values(network: Network, point: Array) -> list[Interval]:
    """Enclosures of all nodes' values at a point."""
    known = [Interval.at(point)]
    for k, node in enumerate(network.nodes[1:], 1):
        if isinstance(node.function, Function):
            node.function.require(known[node.sources[0]], f"node {k}")
        known.append(image_of(node, known))
    return known


def _tangent(gates: Derivative, direction: Array) -> Interval:
    """What the derivative does with one direction, for all slopes within their ranges."""
    at = [Interval.at(direction)]
    for edge in gates.edges[1:]:
        parts = [at[s] * way if isinstance(way, Interval) else way.image(at[s]) for way, s in edge]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        at.append(total)
    return at[-1]


def _ratio(change: Interval, length: float, q: float) -> float:
    """A lower bound of ``|change|_q / length``."""
    least = np.where((change.low <= 0) & (change.high >= 0), 0.0, np.minimum(np.abs(change.low), np.abs(change.high)))
    if not 0 < length < math.inf or not np.isfinite(least).all():
        return 0.0
    unit = 2.0 ** math.floor(math.log2(least.max())) if least.max() > 0 else 1.0
    least = least / unit
    total = (
        float(least.max()) if q == math.inf else float(least.sum()) if q == 1 else math.sqrt(float((least**2).sum()))
    )
    total = total * (1 - 2 * gamma(len(least) + 4)) * unit if total > 0 else 0.0
    return float(down(down(np.float64(total / length)))) if total > 0 else 0.0


def choices_of(told: Any, network: Network, where: str, arrays: Arrays) -> Choices:
    """Slopes of lines and entries to be bounded; "intervals" for none."""
    if told == "intervals":
        return Choices({}, {})
    told = entry(told, f"{where}: ranges", ("entries", "slopes"))
    entries, slopes = {}, {}
    for name in ("entries", "slopes"):
        if not isinstance(told[name], dict):
            raise UnreadableError(f"{where}: {name} of ranges are no entry with names")
    for number, array in told["entries"].items():
        k = _node(number, network, where)
        entries[k] = array_of(arrays, array, f"{where}: entries", kind=np.int64)
        size = network.nodes[k].size
        if entries[k].ndim != 1 or (entries[k].size and not (entries[k].min() >= 0 and entries[k].max() < size)):
            raise UnreadableError(f"{where}: an entry of node {k} does not exist")
    for number, lines in told["slopes"].items():
        k = _node(number, network, where)
        node, lines = network.nodes[k], entry(lines, f"{where}: slopes", ("below", "above", "points"))
        if node.function is None:
            raise UnreadableError(f"{where}: node {k} has slopes and is no activation")
        below, above = (array_of(arrays, lines[name], f"{where}: slopes", (node.size,)) for name in ("below", "above"))
        points = [
            None if one is None else array_of(arrays, one, f"{where}: points", (node.size,))
            for one in list_of(lines["points"], f"{where}: points")
        ]
        if len(points) != len(node.function.pieces):
            raise UnreadableError(f"{where}: node {k} has another number of pieces than of points")
        slopes[k] = Slopes(below, above, tuple(points))
    return Choices(slopes, entries)


def _node(number: str, network: Network, where: str) -> int:
    if not (number.isascii() and number.isdigit() and len(number) < 9 and 0 < int(number) < len(network.nodes)):
        raise UnreadableError(f"{where}: there is no node {number[:20]!r}")
    return int(number)


def _constant(question: Question, gates: Derivative, rule: str, told: Any, where: str, arrays: Arrays) -> float:
    """The constant that one of the forms of proof gives."""
    assert question.norms is not None
    p, q = question.norms
    told = entry(told, f"{where}: upper", ("by",), ("norm", "node", "parts"))
    by = text_of(told["by"], f"{where}: by", ("entries", "rows", "products", "multipliers", "nothing"))
    if by == "nothing":
        return math.inf
    own = (p, q)
    if by in ("products", "multipliers"):
        names = [text_of(one, f"{where}: norm", EXPONENTS) for one in list_of(told.get("norm"), f"{where}: norm")]
        if len(names) != 2:
            raise UnreadableError(f"{where}: norms are a pair")
        own = EXPONENTS[names[0]], EXPONENTS[names[1]]
    if by == "multipliers":
        found = _of_parts(core_of(gates), own, told.get("parts"), where, arrays)
    elif by == "products":
        found = _product(gates, rule, own, told.get("node"), where)
    else:
        recursion = None if rule in ("intervals", "none") else Recursion(gates, rule)
        entries = adjoints_of(gates)[0] if recursion is None else recursion.entries
        if by == "rows" and (recursion is None or p != math.inf):
            raise UnreadableError(f"{where}: sums of rows are for p = inf and a recursion")
        found = norm_above(entries, p, q)
        if by == "rows" and recursion is not None:
            found = min(found, float(length_above(row_sums(recursion), q)))
    factor = factor_between(gates.sizes[0], gates.sizes[-1], own, (p, q))
    return found if factor == 1 else float(up(np.float64(found * factor)))


def _product(gates: Derivative, rule: str, own: tuple[float, float], node: Any, where: str) -> float:
    """Norms of all maps, or of the derivative behind a node that all paths cross and of the maps before it."""
    ahead = norms_ahead(gates, own[0])
    if node is None:
        if own[0] != own[1]:
            raise UnreadableError(f"{where}: products of norms have one norm")
        return ahead[-1]
    k = whole_of(node, f"{where}: node", 1, gates.output - 1)
    if k not in crossed(gates):
        raise UnprovedError(f"{where}: not all paths cross node {k}")
    narrower = None if rule in ("intervals", "none") else Recursion(gates, rule).narrower
    return float(up(np.float64(norm_above(adjoints_of(gates, narrower)[k], *own) * ahead[k])))


def _of_parts(core: Core, norms: tuple[float, float], told: Any, where: str, arrays: Arrays) -> float:
    """The constant of a core, of its transposed one in the dual norms, or the largest of its rows (q = inf)."""
    if isinstance(told, dict) and "turned" in told:
        turned = entry(told, where, ("turned",))["turned"]
        return _of_parts(core.transposed(), (DUAL[norms[1]], DUAL[norms[0]]), turned, where, arrays)
    if isinstance(told, list):
        if norms[1] != math.inf or len(told) != core.outputs:
            raise UnreadableError(f"{where}: {len(told)} rows have multipliers, of {core.outputs}; it takes q = inf")
        rows = [_of_parts(core.of_row(j), (norms[0], 2.0), one, where, arrays) for j, one in enumerate(told)]
        return max(rows)
    told = entry(told, f"{where}: multipliers", ("neurons", "inputs", "outputs"))
    numbers = [array_of(arrays, told[name], f"{where}: {name}") for name in ("neurons", "inputs", "outputs")]
    if any(x.ndim != 1 for x in numbers):
        raise UnreadableError(f"{where}: multipliers are lists")
    return by_multipliers(core, *norms, *numbers)
