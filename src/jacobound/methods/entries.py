"""What bounds the entries of a Jacobian where the user named no method."""

from __future__ import annotations

from jacobound.graph.graph import Graph
from jacobound.jacobian.affine.linear_slopes import LinearSlopes, smooth
from jacobound.jacobian.intersection import Intersection
from jacobound.jacobian.recursion.recurjac import RecurJac
from jacobound.method import JacobianMethod


def usual_entries(graph: Graph) -> JacobianMethod:
    """`RecurJac`; where activations are smooth, or values multiplied, with `LinearSlopes` (an expanded graph)."""
    return Intersection(RecurJac(), LinearSlopes()) if smooth(graph) else RecurJac()
