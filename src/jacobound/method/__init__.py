"""What a method is, what it is asked and what it answers."""

from __future__ import annotations

from jacobound.budget import Budget
from jacobound.method.about import About
from jacobound.method.candidates import Candidates
from jacobound.method.enclosure import ConstantBound, Deferred, JacobianEnclosure
from jacobound.method.facts import Facts, derivative_ranges, flat_indices, is_unstable
from jacobound.method.kinds import JacobianMethod, LipschitzMethod, Method
from jacobound.method.query import OutputMethod, Query, facts_of_one, output_method, ranges_bytes
from jacobound.method.sharing import products_of, sets_worth

__all__ = [
    "About",
    "Budget",
    "Candidates",
    "ConstantBound",
    "Deferred",
    "Facts",
    "JacobianEnclosure",
    "JacobianMethod",
    "LipschitzMethod",
    "Method",
    "OutputMethod",
    "Query",
    "derivative_ranges",
    "facts_of_one",
    "flat_indices",
    "is_unstable",
    "output_method",
    "products_of",
    "ranges_bytes",
    "sets_worth",
]
