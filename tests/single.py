"""One set at a time: the functions of the library work on N sets, and many tests are clearest for a single one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from jacobound import Budget, Graph
from jacobound.arithmetic.intervals import Interval
from jacobound.inputs.domains import Domain
from jacobound.inputs.regions import Region
from jacobound.jacobian.core import UnstableCore
from jacobound.jacobian.recursion.product_lines import ProductLines
from jacobound.method import Deferred, JacobianEnclosure, JacobianMethod, Query


def lifted(x: Any) -> Any:
    """The same with an axis for one set in front of every tensor; what holds none is left alone."""
    if isinstance(x, Interval):
        return x.map(lambda end: end.unsqueeze(0))
    if isinstance(x, Tensor):
        return x.unsqueeze(0)
    if isinstance(x, JacobianEnclosure):
        return _enclosure(x, lifted, nth)
    return {key: lifted(value) for key, value in x.items()} if isinstance(x, Mapping) else x


def nth(x: Any, k: int = 0) -> Any:
    """What belongs to one of the sets."""
    if isinstance(x, Interval | Tensor):
        return x[min(k, len(x.lower if isinstance(x, Interval) else x) - 1)]
    if isinstance(x, JacobianEnclosure):
        return _enclosure(x, lambda y: nth(y, k), lambda y: _repeated(y, len(x.entries.lower)), k)
    if isinstance(x, ProductLines):
        return ProductLines(*(nth(end, k) for end in vars(x).values()))
    if isinstance(x, UnstableCore):
        parts = {name: nth(getattr(x, name), k) for name in ("slopes", "transfer", "error")}
        return replace(x, **parts)
    return {key: nth(value, k) for key, value in x.items()} if isinstance(x, Mapping) else x


def _repeated(x: Tensor, sets: int) -> Tensor:
    return x.unsqueeze(0).expand(sets, *x.shape)


def _enclosure(x: JacobianEnclosure, turn: Callable[[Any], Any], back: Callable[[Any], Any], k: int = 0) -> Any:
    def sums(ask: Callable[[Tensor], Interval]) -> Callable[[Tensor], Interval]:
        return lambda u: turn(ask(back(u)))

    return replace(
        x,
        entries=turn(x.entries),
        along=sums(x.along),
        across=None if x.across is None else sums(x.across),
        rows=None if x.rows is None else lambda p: turn(x.rows(p)),  # type: ignore[misc]
        adjoints=Deferred(lambda: turn(x.adjoints)),
        slopes=turn(x.slopes),
        ranges=turn(x.ranges),
    )


def single(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the library that takes and gives tensors without the axis of sets."""

    def call(*arguments: Any, **named: Any) -> Any:
        found = function(*map(lifted, arguments), **{key: lifted(value) for key, value in named.items()})
        return nth(found)

    call.__name__ = getattr(function, "__name__", "call")
    return call


def enclosure_of(method: JacobianMethod, graph: Graph, region: Region, ranges: Any = None) -> JacobianEnclosure:
    """What a method finds over a region of one set."""
    (domain,), _ = region.domains(graph)
    return nth(method.enclose(Query(graph, domain, Budget(), ranges=None if ranges is None else lifted(ranges))))


def together(domains: list[Domain]) -> Domain:
    """Several domains as one; single points may be put among balls, and balls among boxes and balls in units
    become boxes."""
    box = Interval(*(torch.cat([getattr(one.box, end) for one in domains]) for end in ("lower", "upper")))
    norms = {one.p for one in domains if one.centre is not None}
    balls_or_points = [one.centre is not None or torch.equal(one.box.lower, one.box.upper) for one in domains]
    if len(norms) != 1 or not all(balls_or_points) or any(one.scale is not None for one in domains):
        return Domain(box)
    radii = [torch.zeros_like(one.box.lower.flatten(1)[:, 0]) if one.radius is None else one.radius for one in domains]
    centres = [one.box.lower if one.centre is None else one.centre for one in domains]
    return Domain(box, torch.cat(centres), torch.cat(radii), norms.pop())
