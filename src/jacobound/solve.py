"""The three questions: `bound_output`, `bound_jacobian`, `lipschitz`.

Each checks its arguments, enters strict arithmetic, asks a method for every set of the region, and stamps the answer
with status and provenance. A Jacobian method answers `lipschitz` as well: the norm of an enclosure of the Jacobian is
a Lipschitz constant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval, concatenated
from jacobound.asking import in_runs, in_time, provenance, question, strictly
from jacobound.budget import Budget, OutOfTimeError, alarmed, unalarmed
from jacobound.constants.executed import executed, execution_error
from jacobound.errors import InvalidRegionError
from jacobound.given import (
    Columns,
    Limit,
    Rows,
    Semantics,
    budget_given,
    columns_given,
    constant_method_given,
    graph_given,
    jacobian_method_given,
    meaning_of,
    output_method_given,
    region_given,
    row_matrix,
    search_given,
    semantics_given,
)
from jacobound.graph.execution import Executed
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, size
from jacobound.graph.units import spread
from jacobound.inputs.domains import Domain, Domains
from jacobound.inputs.exponents import Norm, Weighted, norm_pair, plain_exponent
from jacobound.inputs.regions import Ball, Region, WholeSpace
from jacobound.inputs.weighted import (
    in_input_units,
    in_output_units,
    in_plain_units,
    inner_sets_in_units,
    sets_in_units,
)
from jacobound.jacobian.fastlip import FastLip
from jacobound.lower_ends.sampling import NO_SEARCH, Sampling, Witness
from jacobound.lower_ends.slices import searched_in_columns
from jacobound.method import JacobianEnclosure, JacobianMethod, Method, OutputMethod, Query
from jacobound.method.candidates import Candidates, unstable_neurons, worst
from jacobound.methods.best import SECONDS, Best, cheapest
from jacobound.methods.columns import in_columns
from jacobound.methods.entries import usual_entries
from jacobound.methods.increments import narrowed_by_constant
from jacobound.relaxation.ranges import CROWN, IBP
from jacobound.results.kinds import JacobianBounds, LipschitzBound, OutputBounds, Status
from jacobound.results.question import Question

# The part of a call's time that is for the upper bound; the rest is for the lower one.
OF_METHODS = 0.85


def bound_output(
    graph: Graph,
    region: Region,
    method: OutputMethod | None = None,
    *,
    rows: Rows | None = None,
    budget: Limit | None = None,
    semantics: Semantics = "real",
) -> OutputBounds:
    """Certified bounds of the network's outputs over a region.

    Args:
        graph: the network.
        region: where the input is.
        method: `IBP()`, `FastLin()` or `CROWN()`; None takes `CROWN`, and where its bounds are wider than a Lipschitz
            constant may allow, the output at the middle of the region plus or minus radius times constant as well.
        rows: 3 for output 3, [0, 2] for outputs 0 and 2, [1.0, -1.0] for one combination of two outputs, or a matrix of
            combinations of the flattened outputs, shape (k, outputs); None for the outputs as they are.
        budget: time, memory and progress, or seconds; None gives such constants 10 seconds in all.
        semantics: "real" for the exact network with the stored weights; "executed" (float32) or `Executed(dtype)` for
            what an inference engine computes, inputs rounded first, sums in any order; rows are then exact
            combinations of the executed outputs.

    Raises:
        ShapeError, InvalidRegionError: when region or rows do not fit the network.
        InvalidModelError, InvalidOptionError: when something else is given in place of a graph, method or budget.
        UnsafeArithmeticError: when the machine's settings break the rounding model.
    """
    graph, region, budget = graph_given(graph), region_given(region), budget_given(budget)
    method, semantics = output_method_given(method), semantics_given(semantics)
    # What a user claims about normalisations is for constants: ranges do without it.
    by_constant = method is None and semantics == "real" and not graph.assumptions
    method, meant, matrix = method or CROWN(), _meant(graph, semantics), row_matrix(rows, graph)
    asked = question("bound_output", graph, region, matrix, budget, by=method)
    target = meant if matrix is None else meant.with_rows(matrix)
    with _prepared(graph, target, region, budget) as (domains, lead, budget, clock):

        def work(domain: Domain, budget: Budget) -> Interval:
            found = _output_range(method, target, domain, budget)
            seconds = SECONDS * len(domain) / len(domains)
            return narrowed_by_constant(target, domain, found, budget, seconds) if by_constant else found

        found = concatenated(in_runs(work, domains, target, budget, method.bytes_per_set(target)), 0)
        shape = (*lead, *(graph.out_shape if rows is None else target.out_shape))
        lower, upper = found.lower.reshape(shape), found.upper.reshape(shape)
        status = Status.of(in_time(Status.CERTIFIED, budget), lower, upper)
        found_by = provenance(graph, method, clock(), semantics=meaning_of(semantics), asked=asked)
    return OutputBounds(lower, upper, status, found_by, lead)


def _output_range(method: OutputMethod, graph: Graph, domain: Domain, budget: Budget) -> Interval:
    """Enclosure of the output; functions whose expansion is not defined on the set keep a range of their own."""
    lowered = graph.lowered()
    try:
        with alarmed(budget):
            if graph.expands:
                expanded = graph.expanded()
                try:
                    return method.ranges(expanded, domain, budget)[expanded.output]
                except InvalidRegionError:
                    if lowered is expanded:
                        raise
            return method.ranges(lowered, domain, budget)[lowered.output]
    except OutOfTimeError:
        with unalarmed():
            return IBP().ranges(lowered, domain, budget)[lowered.output]


def bound_jacobian(
    graph: Graph,
    region: Region,
    method: JacobianMethod | None = None,
    *,
    rows: Rows | None = None,
    columns: Columns | None = None,
    budget: Limit | None = None,
) -> JacobianBounds:
    """Certified element-wise bounds of the Jacobian over a region.

    Args:
        graph: the network.
        region: where the input is.
        method: `RecurJac()`, `FastLip()`, `LinearSlopes()`; None takes `RecurJac`, and where activations are smooth
            the intersection with `LinearSlopes`.
        rows: outputs or combinations of them (one class, a margin e_c - e_t), as for `bound_output`; None for all.
        columns: derivatives by input 3, by [0, 2], or where a mask of the input's shape holds; None for all inputs.
        budget: time, memory and progress; a number is a time limit in seconds.

    Returns:
        Bounds of shape (*radii, *batch, rows, *input shape), with columns (*radii, *batch, rows, columns).

    Raises:
        ShapeError, InvalidRegionError: when region, rows or columns do not fit the network.
        InvalidModelError, InvalidOptionError: when something else is given in place of a graph, method or budget.
        UnsafeArithmeticError: when the machine's settings break the rounding model.
    """
    graph, region, budget = graph_given(graph), region_given(region), budget_given(budget)
    method, matrix, places = jacobian_method_given(method), row_matrix(rows, graph), columns_given(columns, graph)
    asked = question("bound_jacobian", graph, region, matrix, budget, by=method, **_told(places))
    target = graph.with_rows(matrix).expanded()
    if method is None:
        method = usual_entries(target)
    with _prepared(graph, target, region, budget) as (domains, lead, budget, clock):

        def work(domain: Domain, budget: Budget) -> tuple[Interval, Tensor, Status]:
            enclosure = _enclosed(method, target, domain, budget)
            return enclosure.entries, unstable_neurons(enclosure.slopes, len(domain)), enclosure.status

        found = in_runs(work, domains, target, budget, method.bytes_per_set(target))
        entries = concatenated([one if places is None else one[..., places] for one, _, _ in found], 0)
        shape = (*lead, size(target.output), *(graph.in_shape if places is None else places.shape))
        lower, upper = entries.lower.reshape(shape), entries.upper.reshape(shape)
        unstable = torch.cat([one for _, one, _ in found]).reshape(lead)
        status = Status.of(in_time(worst([one for _, _, one in found]), budget), lower, upper)
    found_by = provenance(graph, method, clock(), asked=asked)
    return JacobianBounds(lower, upper, status, found_by, unstable, _activations(target))


def _enclosed(method: JacobianMethod, graph: Graph, domain: Domain, budget: Budget) -> JacobianEnclosure:
    """What a method knows of the Jacobian; intervals alone where it was given up."""
    try:
        with alarmed(budget):
            return method.enclose(Query(graph, domain, budget))
    except OutOfTimeError:
        with unalarmed():
            return replace(FastLip(IBP()).enclose(Query(graph, domain, budget)), status=Status.TIME_LIMIT)


def lipschitz(
    graph: Graph,
    region: Region,
    method: Method | None = None,
    *,
    norm: Norm | tuple[Norm, Norm] = (2, 2),
    rows: Rows | None = None,
    columns: Columns | None = None,
    budget: Limit | None = None,
    search: Sampling | None = Sampling(),  # noqa: B008 - a frozen value
    semantics: Semantics = "real",
) -> LipschitzBound:
    """A Lipschitz constant over a region, as a bracket of two certified bounds.

    Args:
        graph: the network.
        region: where the input is.
        method: a Jacobian method, a Lipschitz method, or `Best(a, b)`, the smallest of several; None takes `Best()`.
        norm: (p, q) with p, q in {1, 2, inf}: ``||f(x) - f(y)||_q <= L ||x - y||_p``; 2 means (2, 2). Either may be
            `Weighted(p, weights)`: distances in units of the inputs, outputs in units of their own. Points of the
            lower end are then the nearest floats.
        rows: outputs or combinations of them, as for `bound_output`; None for all outputs.
        columns: x and y differ in these inputs alone, as for `bound_jacobian`; all others are anything in the region.
        budget: time, memory and progress, or seconds; None gives a call without a method 10 seconds.
        search: how the lower bound is found, within a seventh of the time at least; None leaves it out (it is 0).
        semantics: "real" for the exact network; with "executed" (float32) or `Executed(dtype)` the result has a
            certified `delta` besides: ``||F(x) - F(y)||_q <= upper ||x - y||_p + 2 delta`` for the executed network F.

    Raises:
        ShapeError, InvalidRegionError: when region, rows, columns or norm do not fit.
        InvalidModelError, InvalidOptionError: when something else is given in place of a graph, method or budget.
        UnsafeArithmeticError: when the machine's settings break the rounding model.
    """
    graph, region, budget = graph_given(graph), region_given(region), budget_given(budget)
    method, search, semantics = constant_method_given(method), search_given(search), semantics_given(semantics)
    if method is None:
        method, budget = Best(), Budget(SECONDS) if budget is None else budget
    options = _told(columns_given(columns, graph))
    asked = question(
        "lipschitz", graph, region, row_matrix(rows, graph), budget, norm_pair(norm), method, search=search, **options
    )
    return _bracket(asked, graph, method, budget, search, semantics)


def _bracket(
    asked: Question,
    graph: Graph,
    method: Method,
    budget: Budget | None,
    search: Sampling | None,
    semantics: Semantics,
) -> LipschitzBound:
    """The answer to a question about a constant."""
    region, matrix, norms, columns = asked.region, asked.rows, asked.norm, asked.options.get("columns")
    assert region is not None and norms is not None
    exponents = plain_exponent(norms[0]), plain_exponent(norms[1])
    units = None if not isinstance(norms[0], Weighted) else spread(norms[0].weights, graph.in_shape, "weights")
    target = in_input_units(in_output_units(graph.with_rows(matrix), norms[1]), units)
    if isinstance(columns, Tensor):
        method = in_columns(method, columns, target, not isinstance(region, WholeSpace))
    form = method.form(target)
    with _prepared(graph, graph, region, budget) as (places, lead, budget, clock):
        domains = sets_in_units(places, units)
        time = budget if search is None else budget.within(OF_METHODS * budget.remaining)
        above = partial(_above, method, target, exponents)
        found = Candidates.joined(in_runs(above, domains, form, time, method.bytes_per_set(form)))
        met = in_time(found.status, time)
        exact = in_input_units(in_output_units(graph.double.with_rows(matrix), norms[1]), units)
        inner = inner_sets_in_units(region.domains(exact)[0], units)
        witness = _below(search, exact, inner, exponents, budget, found, columns)
        meant = in_output_units(_meant(graph, semantics).with_rows(matrix), norms[1])
        delta = None if meant.execution is None else _distance(meant.expanded(), places, budget, exponents[1])
        status = Status.of(met, found.upper, *([] if delta is None else [delta]))
    point, partner = (
        in_plain_units(one, units).reshape(*lead, *graph.in_shape) for one in (witness.point, witness.partner)
    )
    return LipschitzBound(
        upper=found.upper.reshape(lead),
        lower=witness.value.reshape(lead),
        witness=None if search is None else point,
        partner=None if search is None else partner,
        lower_reason=witness.reason,
        status=status,
        norm=norms,
        method=found.winner,
        seconds=clock(),
        details={name: replace(one, value=one.value.reshape(lead)) for name, one in found.known.items()},
        unstable=found.unstable.reshape(lead),
        activations=_activations(form),
        radii=region.radii if isinstance(region, Ball) else (),
        provenance=provenance(
            graph, method, clock(), None if search is None else search.seed, meaning_of(semantics), asked
        ),
        delta=None if delta is None else delta.reshape(lead),
    )


def _distance(run: Graph, domains: Domains, budget: Budget, q: float) -> Tensor:
    """How far an executed graph can be from the exact one over each set, shape (N,)."""
    method = CROWN()

    def error(domain: Domain, budget: Budget) -> Tensor:
        return execution_error(run, domain, budget, method, q)

    return torch.cat(in_runs(error, domains, run, budget, method.bytes_per_set(run)))


def _above(
    method: Method,
    graph: Graph,
    norm: tuple[float, float],
    domain: Domain,
    budget: Budget,
) -> Candidates:
    """What a method knows of the constants of a run of sets; what is cheapest where it was given up."""
    try:
        with alarmed(budget):
            return replace(method.constants(Query(graph, domain, budget, norm)), enclosure=None)
    except OutOfTimeError:
        return cheapest(graph, domain, norm, budget)


def _below(
    search: Sampling | None,
    graph: Graph,
    domains: Domains,
    norm: tuple[float, float],
    budget: Budget,
    above: Candidates,
    columns: object,
) -> Witness:
    """Certified lower ends, in the dtype of the upper ones; what a search for them finds in float64.

    Args:
        graph: in float64.
        domains: sets whose points are in those that were asked for, in float64.
        above: what is known of the constants, with certified upper ends (N,).
        columns: flat places of the inputs that change; anything else for all.
    """
    upper, near = above.upper, above.near
    if search is None:
        nothing = graph.example.new_full((len(domains), *graph.in_shape), torch.nan)
        return Witness(nothing, torch.zeros_like(upper), nothing, (NO_SEARCH,) * len(domains))
    plain = graph.plain() if graph.is_plain else graph.lowered()
    first = 0

    def work(domain: Domain, budget: Budget) -> Witness:
        nonlocal first
        last = min(len(upper), first + len(domain))
        some, first = slice(first, last), last
        if isinstance(columns, Tensor):
            return searched_in_columns(search, columns, plain, domain, norm, budget, upper[some])
        return search.in_rounds(plain, domain, norm, budget, upper[some], None if near is None else near[some])

    found = Witness.joined(in_runs(work, domains, plain, budget, search.bytes_per_set(plain)))
    return found.rounded(upper, bool(graph.assumptions))


def _activations(graph: Graph) -> int:
    """Neurons of the activations, and gates of products (two each) and of functions of vectors."""
    count = 0
    for node in graph.nodes:
        if not isinstance(node, Input | Affine):
            count += size(node) if isinstance(node, Elementwise) else sum(map(size, node.sources))
    return count


@contextlib.contextmanager
def _prepared(
    graph: Graph, target: Graph, region: Region, budget: Budget | None
) -> Iterator[tuple[Domains, tuple[int, ...], Budget, Callable[[], float]]]:
    """The region's sets, the budget and a clock, inside strict arithmetic without gradients.

    Args:
        graph: that the call is about.
        target: what is made of it, whose sets are taken.
    """
    with strictly(graph, budget) as (budget, clock):
        domains, lead = region.domains(target)
        yield domains, lead, budget, clock


def _told(columns: Tensor | None) -> dict[str, Any]:
    """Columns among the options of a question."""
    return {} if columns is None else {"columns": columns}


def _meant(graph: Graph, semantics: Semantics) -> Graph:
    """The graph whose values are meant: exact ones, or those of an execution."""
    if semantics == "real":
        return graph
    return executed(graph, Executed() if isinstance(semantics, str) else semantics)
