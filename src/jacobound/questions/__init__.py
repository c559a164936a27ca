"""Questions that users ask, answered with the bound methods; one module each."""

from __future__ import annotations

from jacobound.questions.attack import PGD
from jacobound.questions.landscape import StationaryFreeRadius, stationary_free_radius
from jacobound.questions.monotonicity import MonotoneFeatures, monotone_features
from jacobound.questions.robust_result import RobustRadius
from jacobound.questions.robustness import robust_radius
from jacobound.results.kinds import Result

__all__ = [
    "PGD",
    "MonotoneFeatures",
    "Result",
    "RobustRadius",
    "StationaryFreeRadius",
    "monotone_features",
    "robust_radius",
    "stationary_free_radius",
]
