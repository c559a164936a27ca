"""`RecurJac`: Jacobian bounds by recursion over the unstable neurons (Zhang, Zhang, Hsieh, AAAI 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jacobound.checks import shown
from jacobound.errors import InvalidOptionError
from jacobound.jacobian.recursion.directions import both
from jacobound.jacobian.recursion.product_lines import chord, constant
from jacobound.jacobian.recursion.recursion import recur
from jacobound.jacobian.recursion.reversal import forward, forward_shifted
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

_RELAXATIONS = {"constant": constant, "chord": chord}
_DIRECTIONS = {"backward": recur, "forward": forward, "forward-shifted": forward_shifted, "both": both}


@dataclass(frozen=True)
class RecurJac(JacobianMethod):
    """Certified Jacobian bounds by recursion with the stable-neuron rule.

    Args:
        relaxation: "chord" (tighter, the default) or "constant" (as published).
        preactivation: how the ranges of the nodes are found.
        direction: "backward" (the default; cost grows with the number of outputs), "forward" (F0 of the paper; cost
            grows with the number of inputs), "forward-shifted" (F1: cost grows with the width of the first layer), or
            "both": backward and forward and a second sweep of each, entry by entry the narrowest. Where three or more
            layers are unstable and the second sweep is not too dear, it gains some percent in width at most; see
            `jacobound.jacobian.recursion.directions.both`.
    """

    about: ClassVar[About] = About("any network and region, all norms", "Zhang et al., AAAI 2019")

    relaxation: Literal["constant", "chord"] = "chord"
    preactivation: OutputMethod = field(default_factory=CROWN)
    direction: Literal["backward", "forward", "forward-shifted", "both"] = "backward"

    def __post_init__(self) -> None:
        object.__setattr__(self, "preactivation", output_method(self.preactivation))
        for what, given, known in (
            ("relaxation", self.relaxation, _RELAXATIONS),
            ("direction", self.direction, _DIRECTIONS),
        ):
            if not isinstance(given, str) or given not in known:
                raise InvalidOptionError(f"{what} must be one of {', '.join(known)}, not {shown(given)}")

    def enclose(self, query: Query) -> JacobianEnclosure:
        graph = query.graph.with_affine_output()
        ranges, slopes = facts_for(query, graph, self.preactivation)
        found = _DIRECTIONS[self.direction](graph, slopes, ranges, _RELAXATIONS[self.relaxation], query.budget)
        return found.over(len(query.domain))
