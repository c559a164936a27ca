"""The parts that `RecurJac` is made of: how slope times derivative is relaxed, and which way the recursion goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from jacobound.budget import Budget
from jacobound.checks import shown
from jacobound.errors import InvalidOptionError
from jacobound.graph.graph import Graph
from jacobound.jacobian.recursion.directions import both
from jacobound.jacobian.recursion.product_lines import ProductRelaxation, chord, constant
from jacobound.jacobian.recursion.recursion import recur
from jacobound.jacobian.recursion.reversal import forward, forward_shifted
from jacobound.method import Facts, JacobianEnclosure


class Relaxation(ABC):
    """Lines around slope times derivative."""

    word: ClassVar[str]

    @property
    @abstractmethod
    def lines(self) -> ProductRelaxation:
        """What bounds the products of the neurons by lines."""


@dataclass(frozen=True)
class Chord(Relaxation):
    """The best possible line over the range of the derivative, as in Shi et al. (NeurIPS 2022)."""

    word: ClassVar[str] = "chord"

    @property
    def lines(self) -> ProductRelaxation:
        return chord


@dataclass(frozen=True)
class Constant(Relaxation):
    """A constant where the sign of the derivative is unknown, as published (RecurJac, AAAI 2019, section 3)."""

    word: ClassVar[str] = "constant"

    @property
    def lines(self) -> ProductRelaxation:
        return constant


class Direction(ABC):
    """Which way a recursion goes."""

    word: ClassVar[str]

    @abstractmethod
    def enclose(
        self, graph: Graph, slopes: Facts, ranges: Facts, relaxation: Relaxation, budget: Budget
    ) -> JacobianEnclosure:
        """The Jacobian of a graph with an affine output, from the slopes of its neurons."""


@dataclass(frozen=True)
class Backward(Direction):
    """From the outputs to the inputs; cost grows with the number of outputs."""

    word: ClassVar[str] = "backward"

    def enclose(
        self, graph: Graph, slopes: Facts, ranges: Facts, relaxation: Relaxation, budget: Budget
    ) -> JacobianEnclosure:
        return recur(graph, slopes, ranges, relaxation.lines, budget)


@dataclass(frozen=True)
class Forward(Direction):
    """From the inputs to the outputs (F0 of the paper); cost grows with the number of inputs."""

    word: ClassVar[str] = "forward"

    def enclose(
        self, graph: Graph, slopes: Facts, ranges: Facts, relaxation: Relaxation, budget: Budget
    ) -> JacobianEnclosure:
        return forward(graph, slopes, ranges, relaxation.lines, budget)


@dataclass(frozen=True)
class ForwardShifted(Direction):
    """From the first layer to the outputs (F1 of the paper); cost grows with the width of the first layer."""

    word: ClassVar[str] = "forward-shifted"

    def enclose(
        self, graph: Graph, slopes: Facts, ranges: Facts, relaxation: Relaxation, budget: Budget
    ) -> JacobianEnclosure:
        return forward_shifted(graph, slopes, ranges, relaxation.lines, budget)


@dataclass(frozen=True)
class Both(Direction):
    """Backward and forward and a second sweep of each, entry by entry the narrowest (`directions.both`).

    Where three or more layers are unstable and the second sweep is not too dear, it gains some percent of the width.
    """

    word: ClassVar[str] = "both"

    def enclose(
        self, graph: Graph, slopes: Facts, ranges: Facts, relaxation: Relaxation, budget: Budget
    ) -> JacobianEnclosure:
        return both(graph, slopes, ranges, relaxation.lines, budget)


def relaxation_given(given: object) -> Relaxation:
    """A relaxation; "chord" or "constant" is the word for one."""
    return _part(Relaxation, (Chord, Constant), given, "relaxation")


def direction_given(given: object) -> Direction:
    """A direction; "backward", "forward", "forward-shifted" or "both" is the word for one."""
    return _part(Direction, (Backward, Forward, ForwardShifted, Both), given, "direction")


def _part(kind: Any, known: tuple[type[Any], ...], given: object, what: str) -> Any:
    """A part, made from its class or its word where one was given.

    Raises:
        InvalidOptionError: when it is neither.
    """
    if isinstance(given, kind):
        return given
    for one in known:
        if given is one or (isinstance(given, str) and given == one.word):
            return one()
    words = ", ".join(one.word for one in known)
    classes = ", ".join(f"{one.__name__}()" for one in known)
    raise InvalidOptionError(f"{what} must be one of {words} (or {classes}), not {shown(given)}")
