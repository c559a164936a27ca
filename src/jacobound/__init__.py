"""jacobound: certified bounds of neural-network Jacobians and Lipschitz constants, sound in floating point."""

from __future__ import annotations

from jacobound import training
from jacobound.errors import (
    InvalidModelError,
    InvalidOptionError,
    InvalidRegionError,
    JacoboundError,
    MissingExtraError,
    ShapeError,
    SolverError,
    UnsafeArithmeticError,
    UnsupportedOpError,
)
from jacobound.execution import Executed
from jacobound.graph import Graph
from jacobound.importers import from_layers, from_onnx, from_torch
from jacobound.methods import (
    CROWN,
    IBP,
    AutoLip,
    Best,
    Budget,
    ECLipsE,
    FastLin,
    FastLip,
    LinearSlopes,
    LipSDP,
    RecurJac,
    Sampling,
    SeqLip,
    SinglePrecision,
)
from jacobound.questions import (
    PGD,
    MonotoneFeatures,
    RobustRadius,
    StationaryFreeRadius,
    monotone_features,
    robust_radius,
    stationary_free_radius,
)
from jacobound.radii import Radii
from jacobound.regions import Ball, Box, WholeSpace
from jacobound.results import Candidate, JacobianBounds, LipschitzBound, OutputBounds, Provenance, Status
from jacobound.solve import bound_jacobian, bound_output, lipschitz

__all__ = [
    "CROWN",
    "IBP",
    "PGD",
    "AutoLip",
    "Ball",
    "Best",
    "Box",
    "Budget",
    "Candidate",
    "ECLipsE",
    "Executed",
    "FastLin",
    "FastLip",
    "Graph",
    "InvalidModelError",
    "InvalidOptionError",
    "InvalidRegionError",
    "JacobianBounds",
    "JacoboundError",
    "LinearSlopes",
    "LipSDP",
    "LipschitzBound",
    "MissingExtraError",
    "MonotoneFeatures",
    "OutputBounds",
    "Provenance",
    "Radii",
    "RecurJac",
    "RobustRadius",
    "Sampling",
    "SeqLip",
    "ShapeError",
    "SinglePrecision",
    "SolverError",
    "StationaryFreeRadius",
    "Status",
    "UnsafeArithmeticError",
    "UnsupportedOpError",
    "WholeSpace",
    "bound_jacobian",
    "bound_output",
    "from_layers",
    "from_onnx",
    "from_torch",
    "lipschitz",
    "monotone_features",
    "robust_radius",
    "stationary_free_radius",
    "training",
]
