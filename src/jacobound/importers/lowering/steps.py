"""`AffineSteps`: what every importer does to nodes; each step is the same real-number function as in the model.

Shapes of nodes are without the batch axis. Every method raises `UnsupportedOpError` with a reason (one sentence,
without the place, which the importer knows and adds) when the step is not within what is understood.
"""

from __future__ import annotations

from jacobound.importers.lowering.basic import MIXED
from jacobound.importers.lowering.comparisons import ComparisonSteps
from jacobound.importers.lowering.fourier import FourierSteps
from jacobound.importers.lowering.recurrent import RecurrentSteps
from jacobound.importers.lowering.windows import WindowSteps

__all__ = ["MIXED", "AffineSteps"]


class AffineSteps(WindowSteps, ComparisonSteps, RecurrentSteps, FourierSteps):
    """All steps: basic ones, products, windows, comparisons, functions of whole vectors, recurrent layers."""
