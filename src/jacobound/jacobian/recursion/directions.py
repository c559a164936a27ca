"""Both directions of the recursion together: the cheaper first, the dearer while time lasts, then a second sweep.

The backward recursion bounds derivatives of the outputs with respect to unstable neurons, the forward one derivatives
of neurons with respect to the inputs. They share no number but the Jacobian, so their results can not simply be put
into each other. What one direction needs can be asked of the other, though: the network behind a layer, run forward,
bounds the same derivatives that the backward recursion meets at that layer. Neither bound dominates, and the
narrower of both gives better lines. (Putting the backward recursion's own bounds back gains nothing: it is
subadditive, hence never above one interval step from the bounds that it met behind.)
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from torch import Tensor

from jacobound.arithmetic.intervals import Interval, interval_dot
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Elementwise, Node
from jacobound.jacobian.fastlip import interval_adjoints
from jacobound.jacobian.recursion.groups import joined, one_by_one
from jacobound.jacobian.recursion.operations import recursion_operations
from jacobound.jacobian.recursion.product_lines import ProductRelaxation
from jacobound.jacobian.recursion.recursion import recur
from jacobound.jacobian.recursion.reversal import forward, forward_shifted, operations, reversed_graph, tail
from jacobound.jacobian.tangents import unstable_entries
from jacobound.method import Budget, Deferred, Facts, JacobianEnclosure
from jacobound.operators.base import positions
from jacobound.results.kinds import Status

# Each second sweep may take this many times the operations of both first ones; it gains some percent at most.
SWEEP = 2.0

# Operations per second that any machine does; networks are often too small for a measured rate to mean anything.
SLOWEST = 1e8

DIRECTIONS = {"backward": recur, "forward": forward, "forward-shifted": forward_shifted}


def both(graph: Graph, slopes: Facts, ranges: Facts, relax: ProductRelaxation, budget: Budget) -> JacobianEnclosure:
    """Both directions, set by set: what pays depends on the unstable neurons of each (see `_both_of_one`)."""
    sets = max((len(slope.lower) for slope in slopes.values()), default=1)
    pairs = zip(one_by_one(slopes, sets), one_by_one(ranges, sets), strict=True)
    parts = [_both_of_one(graph, *own, relax, budget) for own in pairs]
    if sets == 1:
        return replace(parts[0], ranges=ranges)
    groups = list(positions(sets, graph.example).split(1))
    return joined(graph, groups, parts, slopes, ranges)


def _both_of_one(
    graph: Graph, slopes: Facts, ranges: Facts, relax: ProductRelaxation, budget: Budget
) -> JacobianEnclosure:
    """Backward and forward, and a second sweep of each, entry by entry the narrowest; never wider than either.

    The direction with fewer counted operations goes first. Under a time limit the other is left out when it would
    take too long at the rate of the first (forward is then replaced by its shifted version, where that is cheap
    enough), and the status says so. A second sweep (module docstring) of either direction is made where at least
    three layers are unstable and it takes at most `SWEEP` times the operations of both first ones. It makes the whole
    two to four times as dear and gains little: 0 to 2 % of the width with chords, 0 to 10 % with the published
    constants (most where many neurons of a deep network are unstable, nothing up to three layers).
    """
    counts = operations(graph, slopes)
    first, second = sorted(("backward", "forward"), key=counts.__getitem__)
    before = budget.remaining
    found = [DIRECTIONS[first](graph, slopes, ranges, relax, budget)]
    spent = before - budget.remaining if before < inf else 0.0
    rate = max(SLOWEST, counts[first] / spent) if spent > 0 else inf
    chosen = affordable(second, counts, rate * budget.remaining if before < inf else inf)
    if chosen is not None:
        found.append(DIRECTIONS[chosen](graph, slopes, ranges, relax, budget))
    status = next((x.status for x in found if x.status is not Status.CERTIFIED), Status.CERTIFIED)
    if chosen == second and status is Status.CERTIFIED:
        found += _second_sweeps(graph, slopes, ranges, relax, budget, SWEEP * (counts[first] + counts[second]))
    elif status is Status.CERTIFIED:
        status = Status.TIME_LIMIT
    return replace(_narrowest(graph, found), status=status)


def affordable(direction: str, counts: dict[str, float], allowed: float) -> str | None:
    """The direction if it stays within the allowed operations, or the shifted forward version in its place."""
    choices = (direction, "forward-shifted") if direction == "forward" else (direction,)
    return next((choice for choice in choices if allowed > 0 and counts[choice] <= allowed), None)


def _narrowest(graph: Graph, found: list[JacobianEnclosure]) -> JacobianEnclosure:
    """What several enclosures of one Jacobian say together."""
    slopes, entries = found[0].slopes, found[0].entries
    for one in found[1:]:
        entries = entries.intersect(one.entries)

    def along(directions: Tensor) -> Interval:
        total = interval_dot(directions, entries)
        for one in found:
            total = total.intersect(one.along(directions))
        return total

    def across(directions: Tensor) -> Interval:
        total = interval_dot(directions.mT, entries.map(lambda end: end.mT))
        for one in found:
            total = total if one.across is None else total.intersect(one.across(directions))
        return total

    def adjoints() -> Facts:
        known = dict(found[0].adjoints)
        for one in found[1:]:
            known = {node: known[node].intersect(one.adjoints[node]) for node in graph.nodes}
        known[graph.input] = entries.map(lambda end: end.reshape(*end.shape[:2], *graph.in_shape))
        return interval_adjoints(graph, slopes, known)

    return replace(found[0], entries=entries, along=along, across=across, adjoints=Deferred(adjoints))


def _second_sweeps(
    graph: Graph, slopes: Facts, ranges: Facts, relax: ProductRelaxation, budget: Budget, allowed: float
) -> list[JacobianEnclosure]:
    """The backward recursion with bounds from the other direction, on the graph and on the reversed one."""
    found = []
    if sweep_operations(graph, slopes) <= allowed and not budget.is_over:
        known = from_the_other_side(graph, slopes, relax, budget)
        found.append(replace(recur(graph, slopes, ranges, relax, budget, known), across=None))
    backwards, their_slopes = reversed_graph(graph, slopes)
    if sweep_operations(backwards, their_slopes) <= allowed and not budget.is_over:
        known = from_the_other_side(backwards, their_slopes, relax, budget)
        mirrored = recur(backwards, their_slopes, {}, relax, budget, known)
        found.append(_mirrored(graph, slopes, ranges, mirrored))
    return found


def _mirrored(graph: Graph, slopes: Facts, ranges: Facts, mirrored: JacobianEnclosure) -> JacobianEnclosure:
    """An enclosure of the reversed graph's derivative as one of the graph's."""
    entries = mirrored.entries.map(lambda end: end.mT.contiguous())

    def along(directions: Tensor) -> Interval:
        return interval_dot(directions, entries)

    def across(directions: Tensor) -> Interval:
        return mirrored.along(directions.mT.contiguous())

    def adjoints() -> Facts:
        at_input: dict[Node, Interval] = {
            graph.input: entries.map(lambda end: end.reshape(*end.shape[:2], *graph.in_shape))
        }
        return interval_adjoints(graph, slopes, at_input)

    return JacobianEnclosure(entries, along, Deferred(adjoints), slopes, ranges, mirrored.status, across)


def from_the_other_side(graph: Graph, slopes: Facts, relax: ProductRelaxation, budget: Budget) -> dict[Node, Interval]:
    """Bounds of the outputs' derivatives with respect to unstable neurons, by forward recursions behind them.

    Returns:
        By layer an interval of shape (1, outputs, *layer shape), unbounded at stable neurons. The last two unstable
        layers are left out: both directions are exact there. So is what the time limit does not allow.
    """
    found: dict[Node, Interval] = {}
    for node in _doubtful(graph, slopes):
        if budget.is_over:
            break
        entries = unstable_entries(slopes[node])
        behind = forward(*tail(graph, node, slopes, entries), {}, relax, budget).entries
        whole = Interval.whole(behind.lower.new_empty(*behind.shape[:2], slopes[node].lower.numel()))
        put = Interval(
            whole.lower.index_copy(2, entries, behind.lower), whole.upper.index_copy(2, entries, behind.upper)
        )
        found[node] = put.map(lambda end, shape=node.shape: end.reshape(*end.shape[:2], *shape))
    return found


def sweep_operations(graph: Graph, slopes: Facts) -> float:
    """Counted operations of one second sweep; infinite where it can not gain anything."""
    doubtful = _doubtful(graph, slopes)
    if not doubtful:
        return inf
    tails = [tail(graph, node, slopes, unstable_entries(slopes[node])) for node in doubtful]
    behind = sum(recursion_operations(*reversed_graph(*part)) for part in tails)
    return behind + recursion_operations(graph, slopes)


def _doubtful(graph: Graph, slopes: Facts) -> list[Elementwise]:
    """Layers with unstable neurons, behind which two more come."""
    unstable = [node for node in graph.nodes if isinstance(node, Elementwise) and len(unstable_entries(slopes[node]))]
    return unstable[:-2]
