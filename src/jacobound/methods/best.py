"""`Best`: the smallest certified constant of several methods, which share the ranges of the neurons and the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import inf, isfinite
from typing import ClassVar

import torch
from torch import Tensor

from jacobound.budget import Budget, OutOfTimeError, alarmed, unalarmed
from jacobound.certificates.convolutional import FourierSDP, begins_with_convolution
from jacobound.certificates.lipsdp import LipSDP
from jacobound.checks import instance
from jacobound.constants.autolip import AutoLip
from jacobound.constants.pairs.seqlip import SeqLip
from jacobound.errors import (
    InvalidOptionError,
    InvalidRegionError,
    JacoboundError,
    SolverError,
    UnsupportedOpError,
)
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Vector, size
from jacobound.inputs.domains import Domain
from jacobound.inputs.regions import WholeSpace
from jacobound.jacobian.affine.linear_slopes import LinearSlopes, smooth
from jacobound.jacobian.fastlip import FastLip
from jacobound.jacobian.intersection import intersected
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.method import (
    About,
    Facts,
    JacobianEnclosure,
    JacobianMethod,
    Method,
    Query,
)
from jacobound.method.candidates import Candidates, Norm, converted, failed, norm_of, products_through
from jacobound.methods.costs import entries_are_hopeful, few_bend_everywhere, is_gated, recursion_is_cheap
from jacobound.relaxation.ranges import CROWN, IBP
from jacobound.results.kinds import Candidate, Status
from jacobound.splitting.neurons import SplitNeurons
from jacobound.splitting.split import Split

SECONDS = 10.0
"""Time limit of a call that chooses its methods itself and was given no budget."""

# The part of the time that is left which the ranges of all neurons may take where they are dear.
OF_RANGES = 0.35
# The same behind products, where slopes are ranges of values and intervals alone blow up.
OF_GATED_RANGES = 0.6
# Branch and bound pays with so many unstable neurons, or inputs, at most.
FEW_UNSTABLE, FEW_INPUTS = 64, 8
# Certified norms are improved only where their product is at most so many times the best constant.
HOPEFUL = 100.0
EVERYWHERE = " over the whole space"


class Best(Method):
    """Several methods, of whose certified constants the smallest counts.

    Without methods it chooses them: products of cheaply certified norms, `RecurJac` (`FastLip` on unbounded regions)
    with products of norms, `LinearSlopes` for smooth activations, `FourierSDP` for convolutions on large regions,
    `LipSDP`, and `AutoLip` and `SeqLip` where the one before was cut short or where they see more (functions such as
    max-pooling); `SplitNeurons` and `Split` where few neurons are unstable, or inputs are few. Constants for other
    norms are converted. What is cheap runs to its end; of the others each gets a part of the time that is left, the
    last one all of it. A method that fails is a row of the details that says why.

    Args:
        methods: in the order in which they are asked.
    """

    about: ClassVar[About] = About("the smallest of several methods", "jacobound")

    def __init__(self, *methods: Method) -> None:
        cure = "it takes methods that bound constants, such as RecurJac() or LipSDP()"
        methods = tuple(instance(one, Method, "a method of Best", cure) for one in methods)
        if any(isinstance(method, Best) for method in methods):
            raise InvalidOptionError(f"a Best in a Best shares no time with it; {cure}")
        estimates = [repr(method) for method in methods if not method.is_certified]
        if estimates:
            raise InvalidOptionError(
                f"{estimates[0]} is an estimate and can not take part in a minimum of certified constants; "
                "ask for it alone"
            )
        self.methods = methods

    def __repr__(self) -> str:
        return f"Best({', '.join(map(repr, self.methods))})"

    def bytes_per_set(self, graph: Graph) -> int:
        """Working memory for each set in bytes; only Jacobian methods take several sets together."""
        return max(method.bytes_per_set(graph) for method in self.methods or (RecurJac(),))

    def constants(self, query: Query) -> Candidates:
        """Every constant that was found, by name; all sets of a domain get the same methods.

        Raises:
            UnsupportedOpError, InvalidRegionError: when no method can take the network on this region.
            SolverError: when all methods failed, with what each said.
        """
        with unalarmed():  # every method gets an alarm of its own
            return _Plan(self.methods, query.graph, query.domain, query.norm, query.budget).run()


@dataclass(eq=False)
class _Plan:
    """The candidates of one call, asked one after the other; lives for one call.

    Args:
        chosen: the methods that the user named, in order; none lets the plan choose.
    """

    chosen: tuple[Method, ...]
    graph: Graph
    domain: Domain
    norm: Norm
    budget: Budget
    found: dict[str, Candidates] = field(default_factory=dict)
    errors: list[Exception] = field(default_factory=list)
    enclosures: list[JacobianEnclosure] = field(default_factory=list)

    def run(self) -> Candidates:
        if self.chosen:
            for k, method in enumerate(self.chosen):
                self._ask(method, 1.0 if k == len(self.chosen) - 1 else 0.5)
        else:
            self._ask_own_choice()
        if self._smallest() is None and any(part.is_late for part in self.found.values()):
            self._ask_for_anything()
        return self._joined()

    def _ask_own_choice(self) -> None:
        """Cheap and strong methods before dear and weak ones; none that can not win any more."""
        bounded = bool(self.domain.bounded.all())
        if isfinite(self.budget.of_call):
            self._ask_whole_space(AutoLip(), self.budget.within(0.0))
        if self.graph.expands:
            entries: JacobianMethod = RecurJac() if bounded else FastLip()
            if entries_are_hopeful(self.graph.expanded(), len(self.domain), self.budget):
                self._ask(entries, 0.4, whole=self._recursion_is_cheap)
                if bounded and smooth(self.graph.expanded()):
                    self._ask(LinearSlopes(), 0.5)
            else:
                note = "not begun: bounds of all entries of the Jacobian would take longer than there is time"
                row = failed(_name(entries), len(self.domain), self.graph.example, Status.TIME_LIMIT, 0.0, note)
                self.found[_name(entries)] = row
            if self._norms_are_best():
                self._ask_whole_space(AutoLip(), self.budget.within(0.5 * self.budget.remaining))
            if bounded and self._is_gated:  # where a normalisation is steep, norms may win by far
                self._ask(AutoLip(), 0.25)
            if any(enclosure.settles(*self.norm) for enclosure in self.enclosures):
                return
            if not bounded and begins_with_convolution(self.graph):
                self._ask(FourierSDP(), 0.6)
            self._ask(LipSDP(), 0.7 if self.norm == (2, 2) else 0.95)  # pairs know other norms by conversion only
            if bounded:
                self._split()
            elif few_bend_everywhere(self.graph, FEW_UNSTABLE):
                self._ask(SplitNeurons(), 0.7)
        if bounded and self._whole_space_may_win():
            if begins_with_convolution(self.graph):
                self._ask_whole_space(FourierSDP(), self.budget.within(0.5 * self.budget.remaining))
            self._ask_whole_space(LipSDP(), self.budget.within(0.6 * self.budget.remaining))
        if self._norms_may_win():
            asked = self._has(LipSDP, Status.MEMORY_LIMIT) or self._has(AutoLip, Status.CERTIFIED)
            if not asked:  # a certificate that does not fit has asked for products of norms itself
                self._ask(AutoLip(), 0.5)
            self._ask(SeqLip(), 0.7)
            if self._norms_are_best() and isfinite(self.budget.of_call):  # better ones need what is left
                self._ask_whole_space(AutoLip(), self.budget.within(self.budget.remaining))

    def _split(self) -> None:
        """Branch and bound, where it is likely to tell something, for most of the time that is left."""
        unstable = max((int(part.unstable.max()) for part in self.found.values()), default=0)
        if unstable and not self._is_gated and not self.graph.assumptions:
            if unstable <= FEW_UNSTABLE:
                self._ask(SplitNeurons(), 0.7)
            elif size(self.graph.input) <= FEW_INPUTS:
                self._ask(Split(), 0.7)
                found = self.found[Split.__name__]  # what it knows of the whole set stands there already
                self.found[Split.__name__] = replace(found, known={Split.__name__: found.known[Split.__name__]})

    def _ask_whole_space(self, method: Method, share: Budget) -> None:
        """A constant that holds everywhere: one for all regions, and products of norms are never lost."""
        name, sets = f"{_name(method)}{EVERYWHERE}", len(self.domain)
        domain = WholeSpace().domains(self.graph)[0][:1]

        def find() -> Candidates:
            norm = method.norm_for(self.norm)
            found = method.constants(Query(self.graph, domain, share, norm))
            (one,) = found.known.values()
            own = converted(one, self.graph, norm, self.norm)
            known = {name: replace(own, value=own.value.expand(sets))}
            return Candidates(known, torch.zeros(sets, dtype=torch.int64))

        errors = len(self.errors)
        self._attempt(name, find, share if share.remaining > 0 else self.budget, self.budget)
        if any(isinstance(error, JacoboundError) for error in self.errors[errors:]):
            del self.found[name]  # some function has no constant everywhere: that is no answer to the user's question
        del self.errors[errors:]

    def _ask_for_anything(self) -> None:
        """The last resort when all methods were given up: intervals and the cheapest norms, whatever the clock says."""
        find = partial(cheapest, self.graph, self.domain, self.norm, self.budget)
        self._attempt(f"{AutoLip.__name__}({IBP()})", find, self.budget)

    def _ask(self, method: Method, part: float, *, whole: bool = False) -> None:
        """Ask one method; whatever it raises becomes a row of the details.

        Args:
            part: of the time that is left.
            whole: it is sure to be cheap, so nothing stops it but the end of the call.
        """
        name, budget = self._name_of(method), self.budget
        share = budget.within(part * budget.remaining)
        if whole:
            self._attempt(name, lambda: self._asked(method, name, budget.unlimited()), budget)
        else:
            self._attempt(name, lambda: self._asked(method, name, share), share, budget)

    def _attempt(self, name: str, find: Callable[[], Candidates], *budgets: Budget) -> None:
        """Rows from what `find` returns, or the row that says why there are none."""
        began = self.budget.spent
        row = partial(failed, name, len(self.domain), self.graph.example)
        try:
            with alarmed(*budgets):
                self.found[name] = find()
        except OutOfTimeError:
            self.found.setdefault(
                name, row(Status.TIME_LIMIT, self.budget.spent - began, "given up when time was over")
            )
        except torch.OutOfMemoryError:
            raise  # of an accelerator; the caller takes fewer sets together
        except Exception as error:
            if error is self.budget.interrupt.raised:
                raise  # by the user's own progress function
            self.errors.append(error)
            found = row(Status.FAILED, self.budget.spent - began, f"{type(error).__name__}: {error}")
            self.found.setdefault(name, found)

    def _name_of(self, method: Method) -> str:
        """Its class; methods that the user named twice are told apart."""
        name = _name(method)
        return f"{name} {len(self.found)}" if self.chosen and name in self.found else name

    def _asked(self, method: Method, name: str, budget: Budget) -> Candidates:
        """What one method knows, for norms that it does not know by conversion."""
        graph, norm = self.graph, self.norm
        asked = Query(graph, self.domain, budget, method.norm_for(norm), self._ranges_for(method.form(graph)))
        found = method.constants(asked)
        known = {name if called == _name(method) else called: one for called, one in found.known.items()}
        if asked.norm != norm:
            known = {
                f"{called} from l{asked.norm[0]:g} to l{asked.norm[1]:g}": converted(one, graph, asked.norm, norm)
                for called, one in known.items()
            }
        if found.enclosure is not None:
            known |= self._beside(found.enclosure, replace(asked, graph=method.form(graph)))
        return replace(found, known=known, enclosure=None)

    def _beside(self, enclosure: JacobianEnclosure, asked: Query) -> dict[str, Candidate]:
        """What an enclosure of the Jacobian says besides its norm: in the Euclidean norm, and with all the others."""
        known = products_through(2.0, enclosure, asked) if self.norm[0] == inf else {}
        self.enclosures.append(enclosure)
        if len(self.enclosures) > 1:
            name = "all enclosures together"
            known[name] = norm_of(intersected(self.enclosures), asked)
        return known

    def _ranges_for(self, form: Graph) -> Facts | None:
        """Enclosures of all nodes of a form of the graph, and of those that a method may look at besides."""
        if self.graph.expands and form is self.graph.expanded():
            return self._ranges_of_expanded
        known = self._ranges_of_lowered
        if self.graph.expands and self._ranges_of_expanded is not None:
            known = {**(known or {}), **self._ranges_of_expanded}  # each method reads the nodes that it looks at
        return known

    @cached_property
    def _ranges_of_expanded(self) -> Facts | None:
        """Enclosures of all nodes of the expanded graph, found once for all methods; None where there are none."""
        return self._ranges(self.graph.expanded())

    @cached_property
    def _ranges_of_lowered(self) -> Facts | None:
        lowered = self.graph.lowered()
        if self.graph.expands and self._ranges_of_expanded is not None:
            known = self._ranges_of_expanded
            return {node: known[other] for node, other in self.graph.standing.items()}
        return self._ranges(lowered)

    def _ranges(self, graph: Graph) -> Facts | None:
        """By linear bounds within a part of the time, else by intervals; None where a method has to say why not."""
        part = OF_GATED_RANGES if self.graph.expands and self._is_gated else OF_RANGES
        share = self.budget.within(part * self.budget.remaining)
        try:
            method = CROWN() if bool(self.domain.bounded.all()) else IBP()
            # What comes after the share is intervals alone, which have to come to their end.
            with alarmed(self.budget.within(1.5 * share.remaining), self.budget):
                return method.ranges(graph, self.domain, share, with_output=False)
        except OutOfTimeError:
            with unalarmed():
                return IBP().ranges(graph, self.domain, share.within(0.0), with_output=False)
        except (InvalidRegionError, UnsupportedOpError):
            return None

    @cached_property
    def _recursion_is_cheap(self) -> bool:
        """Whether the recursion is sure to take a small part of the time, counted by operations."""
        known = self._ranges_of_expanded
        return known is not None and recursion_is_cheap(self.graph.expanded(), known, len(self.domain), self.budget)

    @cached_property
    def _is_gated(self) -> bool:
        return is_gated(self.graph.expanded())

    def _norms_may_win(self) -> bool:
        """Whether products of norms, or of pairs, may still be smaller than what is known.

        A finished semidefinite certificate of the same graph implies both, but for functions such as max-pooling, whose
        constants their expansion does not show.
        """
        if self._has(LipSDP, Status.CERTIFIED) and not any(isinstance(node, Vector) for node in self.graph.nodes):
            return False
        return self._norms_are_near()

    def _whole_space_may_win(self) -> bool:
        """Whether a semidefinite certificate for the whole space may be smaller than what was found on the region.

        It is not where the one for the region, whose slopes are fewer, came to its end.
        """
        known = f"{AutoLip.__name__}{EVERYWHERE}" in self.found and self.graph.expands
        return known and not self._has(LipSDP, Status.CERTIFIED) and self._norms_are_near()

    def _norms_are_best(self) -> bool:
        """Whether nothing is below cheap products of norms over the whole space, which more work may improve."""
        norms, best = self.found.get(f"{AutoLip.__name__}{EVERYWHERE}"), self._smallest()
        return norms is not None and best is not None and bool((norms.upper <= best.to(norms.upper)).any())

    def _norms_are_near(self) -> bool:
        """Whether products of norms over the whole space are within `HOPEFUL` times what is known, or unknown."""
        norms, best = self.found.get(f"{AutoLip.__name__}{EVERYWHERE}"), self._smallest()
        return best is None or norms is None or not bool((norms.upper > HOPEFUL * best.to(norms.upper)).all())

    def _has(self, method: type[Method], status: Status) -> bool:
        """Whether a method ended with a status."""
        part = self.found.get(method.__name__)
        return part is not None and part.known[method.__name__].status is status

    def _smallest(self) -> Tensor | None:
        """The smallest constants so far; None where one of them is infinite."""
        values = [one.value for part in self.found.values() for one in part.known.values() if one.status.certified]
        best = torch.stack(values).amin(0) if values else None
        return best if best is not None and bool(torch.isfinite(best).all()) else None

    def _joined(self) -> Candidates:
        """All rows of all methods.

        Raises:
            JacoboundError: when every method failed; of the first, with what it said.
        """
        rows = [one for part in self.found.values() for one in part.known.values()]
        if all(one.status is Status.FAILED for one in rows):
            raise _refusal(self.errors)
        known: dict[str, Candidate] = {}
        for called, part in self.found.items():
            known |= {name if name not in known else f"{called}: {name}": one for name, one in part.known.items()}
        near = [part.near for part in self.found.values() if part.near is not None]
        unstable = torch.stack([part.unstable for part in self.found.values()]).amax(0)
        return Candidates(known, unstable, near=torch.cat(near, 1) if near else None)


def _name(method: Method) -> str:
    return type(method).__name__


def cheapest(graph: Graph, domain: Domain, norm: Norm, budget: Budget) -> Candidates:
    """Intervals and the cheapest norms, whatever the clock says: what is left when everything else was given up."""
    method = AutoLip(IBP())
    with unalarmed():
        found = method.constants(Query(graph, domain, budget.within(0.0), norm))
    return replace(found, known={repr(method): replace(one, status=Status.TIME_LIMIT) for one in found.known.values()})


def _refusal(errors: list[Exception]) -> Exception:
    """What to raise when every method failed: the reason in the user's question, else what broke."""
    for kind in (InvalidRegionError, JacoboundError, MemoryError):
        for error in errors:
            if isinstance(error, kind):
                return error
    said = "; ".join(dict.fromkeys(f"{type(error).__name__}: {error}" for error in errors))
    refusal = SolverError(f"no method could bound this constant ({said}); name one method alone, or report this")
    refusal.__cause__ = errors[0]
    return refusal
