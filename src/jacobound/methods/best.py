"""`Best`: the smallest certified constant of several methods, which share the ranges of the neurons and the time."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from jacobound.domains import Domain
from jacobound.errors import InvalidOptionError, InvalidRegionError, JacoboundError, UnsupportedOpError
from jacobound.graph import Graph, Vector
from jacobound.methods.autolip import AutoLip
from jacobound.methods.base import Budget, JacobianMethod
from jacobound.methods.candidates import Candidates, Norm, Ranges, converted, of_jacobian, of_sets
from jacobound.methods.crown import CROWN
from jacobound.methods.fastlip import FastLip
from jacobound.methods.ibp import IBP
from jacobound.methods.linear_slopes import LinearSlopes, smooth
from jacobound.methods.lipschitz_method import LipschitzMethod
from jacobound.methods.lipsdp import LipSDP
from jacobound.methods.recurjac import RecurJac
from jacobound.methods.seqlip import SeqLip
from jacobound.results import Status

SECONDS = 10.0
"""Time limit of a call that chooses its methods itself and was given no budget."""

Method = JacobianMethod | LipschitzMethod


class Best:
    """Several methods, of whose certified constants the smallest counts.

    Without methods it chooses them: `RecurJac` (`FastLip` on unbounded regions) with products of norms, `LinearSlopes`
    for smooth activations, `AutoLip`, `LipSDP`, and `SeqLip` where the one before it was cut short or where it sees
    more (functions such as max-pooling). Constants for other norms are converted. Each method gets a part of the time
    that is left, the last one all of it.

    Args:
        methods: in the order in which they are asked.
    """

    def __init__(self, *methods: Method) -> None:
        if any(isinstance(method, SeqLip) and method.pairs == "greedy" for method in methods):
            raise InvalidOptionError(
                "SeqLip(pairs='greedy') is an estimate and can not take part in a minimum of certified constants; "
                "ask for it alone"
            )
        self.methods = methods

    def __repr__(self) -> str:
        return f"Best({', '.join(map(repr, self.methods))})"

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory for each set in bytes; only Jacobian methods take several sets together."""
        return max(method.bytes_per_set(graph) for method in self.methods or (RecurJac(),))

    def candidates(self, graph: Graph, domain: Domain, norm: Norm, budget: Budget) -> Candidates:
        """Every constant that was found, by name; all sets of a domain get the same methods.

        Raises:
            UnsupportedOpError, InvalidRegionError: when no method can take the network on this region.
        """
        methods = self.methods or _chosen(bool(domain.bounded.all()), graph)
        ranges = _ranges(graph, domain, budget)
        found: dict[str, Candidates] = {}
        refused: list[JacoboundError] = []
        for k, method in enumerate(methods):
            if not self.methods and isinstance(method, SeqLip) and not _worth_pairs(graph, found):
                continue
            share = budget.within(budget.remaining * (1.0 if k == len(methods) - 1 else _part(method, norm)))
            name = type(method).__name__
            try:
                one = _asked(method, graph, domain, norm, share, ranges)
            except (InvalidRegionError, UnsupportedOpError) as error:
                if self.methods:
                    raise
                refused.append(
                    error
                )  # another method may see more: the length of a vector has a constant, its root not
                continue
            found[name if name not in found else f"{name} {k}"] = one
        if not found:
            raise refused[0]
        known = {}
        for called, one in found.items():
            known |= {name if name not in known else f"{called}: {name}": value for name, value in one.known.items()}
        return Candidates(known, next(iter(found.values())).unstable)


def _chosen(bounded: bool, graph: Graph) -> tuple[Method, ...]:
    """The methods of a call that names none."""
    if not graph.expands:
        return AutoLip(), SeqLip()
    entries: tuple[Method, ...] = (FastLip(),)
    if bounded:
        entries = (RecurJac(), LinearSlopes()) if smooth(graph.expanded()) else (RecurJac(),)
    return *entries, AutoLip(), LipSDP(), SeqLip()


def _part(method: Method, norm: Norm) -> float:
    """The part of the time that is left which a method may take while others wait."""
    if isinstance(method, LipSDP):
        return 0.7 if norm == (2, 2) else 0.95  # pairs of layers know other norms by conversion only
    return 0.25 if isinstance(method, LinearSlopes) else 0.5


def _worth_pairs(graph: Graph, found: dict[str, Candidates]) -> bool:
    """Whether pairs of layers can gain: a finished `LipSDP` on the same graph implies them."""
    solved = found.get(LipSDP.__name__)
    finished = solved is not None and solved.known[LipSDP.__name__].status is Status.CERTIFIED
    return not finished or any(isinstance(node, Vector) for node in graph.nodes)


def _ranges(graph: Graph, domain: Domain, budget: Budget) -> Ranges | None:
    """Enclosures of all nodes of the expanded graph, found once for all methods; None when there are none."""
    method = CROWN() if bool(domain.bounded.all()) else IBP()
    try:
        return method.ranges(graph.expanded(), domain, budget, with_output=False)
    except (InvalidRegionError, UnsupportedOpError):
        return None


def _asked(
    method: Method, graph: Graph, domain: Domain, norm: Norm, budget: Budget, ranges: Ranges | None
) -> Candidates:
    """What one method knows, for norms that it does not know by conversion."""
    name = type(method).__name__
    if isinstance(method, JacobianMethod):
        through = (norm[0], 2.0) if norm[0] == inf else (norm[0],)
        return of_jacobian(method, name, graph.expanded(), domain, norm, budget, ranges, through)
    if not graph.expands or graph.lowered() is not graph.expanded():
        ranges = None  # the method looks at other nodes
    if not isinstance(method, SeqLip) or norm == (2, 2):
        return of_sets(method, name, graph, domain, norm, budget, ranges)
    found = of_sets(method, name, graph, domain, (2.0, 2.0), budget, ranges)
    return replace(found, known={f"{name} from l2 to l2": converted(found.known[name], graph, (2.0, 2.0), norm)})
