"""`RecurJac`: Jacobian bounds by recursion over the unstable neurons (Zhang, Zhang, Hsieh, AAAI 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from jacobound.jacobian.recursion.parts import (
    Backward,
    Chord,
    Direction,
    Relaxation,
    direction_given,
    relaxation_given,
)
from jacobound.jacobian.tangents import facts_for
from jacobound.method import (
    About,
    JacobianEnclosure,
    JacobianMethod,
    OutputMethod,
    Query,
    output_method,
)
from jacobound.relaxation.ranges import CROWN


@dataclass(frozen=True)
class RecurJac(JacobianMethod):
    """Certified Jacobian bounds by recursion with the stable-neuron rule.

    Args:
        relaxation: `Chord()` (tighter, the default) or `Constant()` (as published), or their words in small letters.
        preactivation: how the ranges of the nodes are found.
        direction: `Backward()` (the default), `Forward()` (F0 of the paper), `ForwardShifted()` (F1) or `Both()`, or
            "backward", "forward", "forward-shifted", "both".
    """

    about: ClassVar[About] = About("any network and region, all norms", "Zhang et al., AAAI 2019")

    relaxation: Relaxation | Literal["constant", "chord"] = field(default_factory=Chord)
    preactivation: OutputMethod = field(default_factory=CROWN)
    direction: Direction | Literal["backward", "forward", "forward-shifted", "both"] = field(default_factory=Backward)

    def __post_init__(self) -> None:
        object.__setattr__(self, "preactivation", output_method(self.preactivation))
        object.__setattr__(self, "relaxation", relaxation_given(self.relaxation))
        object.__setattr__(self, "direction", direction_given(self.direction))

    def enclose(self, query: Query) -> JacobianEnclosure:
        gates, ranges = facts_for(query, query.graph.with_affine_output(), self.preactivation)
        relaxation, direction = relaxation_given(self.relaxation), direction_given(self.direction)
        found = direction.enclose(gates.graph, gates.slopes, ranges, relaxation, query.budget)
        return replace(found, graph=gates.graph).over(len(query.domain))
