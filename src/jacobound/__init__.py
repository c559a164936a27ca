"""jacobound: certified bounds of neural-network Jacobians and Lipschitz constants, sound in floating point.

Names are loaded when they are first asked for, so that `jacobound --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from jacobound.version import VERSION as __version__

if TYPE_CHECKING:
    from jacobound import training
    from jacobound.errors import (
        InvalidModelError,
        InvalidOptionError,
        InvalidRegionError,
        InvalidResultError,
        JacoboundError,
        MissingExtraError,
        ShapeError,
        SolverError,
        UnsafeArithmeticError,
        UnsupportedOpError,
    )
    from jacobound.graph.execution import Executed
    from jacobound.graph.graph import Graph
    from jacobound.graph.vector.difference import difference
    from jacobound.importers import from_layers, from_onnx, from_torch
    from jacobound.inputs.exponents import Weighted
    from jacobound.inputs.properties import Inequality, Property
    from jacobound.inputs.radii import Radii
    from jacobound.inputs.regions import Ball, Box, WholeSpace
    from jacobound.methods import (
        CROWN,
        IBP,
        AlphaCROWN,
        AutoLip,
        Best,
        Budget,
        ECLipsE,
        FastLin,
        FastLip,
        FourierSDP,
        GreedySeqLip,
        LinearSlopes,
        LipSDP,
        RecurJac,
        Sampling,
        SeqLip,
        SinglePrecision,
        Split,
        SplitNeurons,
    )
    from jacobound.questions import (
        PGD,
        MonotoneFeatures,
        Result,
        RobustRadius,
        StationaryFreeRadius,
        monotone_features,
        robust_radius,
        stationary_free_radius,
    )
    from jacobound.results.kinds import Candidate, Provenance, Status
    from jacobound.results.pages import report
    from jacobound.results.question import Question
    from jacobound.solve import JacobianBounds, LipschitzBound, OutputBounds, bound_jacobian, bound_output, lipschitz
    from jacobound.sweeps import Sweep, load_sweep, run_sweep
    from jacobound.verifying import Decision, LipschitzAtMost, Monotone, Verdict, verify

__all__ = [
    "CROWN",
    "IBP",
    "PGD",
    "AlphaCROWN",
    "AutoLip",
    "Ball",
    "Best",
    "Box",
    "Budget",
    "Candidate",
    "Decision",
    "ECLipsE",
    "Executed",
    "FastLin",
    "FastLip",
    "FourierSDP",
    "Graph",
    "GreedySeqLip",
    "Inequality",
    "InvalidModelError",
    "InvalidOptionError",
    "InvalidRegionError",
    "InvalidResultError",
    "JacobianBounds",
    "JacoboundError",
    "LinearSlopes",
    "LipSDP",
    "LipschitzAtMost",
    "LipschitzBound",
    "MissingExtraError",
    "Monotone",
    "MonotoneFeatures",
    "OutputBounds",
    "Property",
    "Provenance",
    "Question",
    "Radii",
    "RecurJac",
    "Result",
    "RobustRadius",
    "Sampling",
    "SeqLip",
    "ShapeError",
    "SinglePrecision",
    "SolverError",
    "Split",
    "SplitNeurons",
    "StationaryFreeRadius",
    "Status",
    "Sweep",
    "UnsafeArithmeticError",
    "UnsupportedOpError",
    "Verdict",
    "Weighted",
    "WholeSpace",
    "__version__",
    "bound_jacobian",
    "bound_output",
    "difference",
    "from_layers",
    "from_onnx",
    "from_torch",
    "lipschitz",
    "load_sweep",
    "monotone_features",
    "report",
    "robust_radius",
    "run_sweep",
    "stationary_free_radius",
    "training",
    "verify",
]

# Where names are found, for `__getattr__`; a test compares with the imports above. Results come with all that their
# stored forms may hold.
_HOMES = {
    "AlphaCROWN": "methods",
    "Decision": "verifying",
    "AutoLip": "methods",
    "Ball": "inputs.regions",
    "Best": "methods",
    "Box": "inputs.regions",
    "Budget": "methods",
    "CROWN": "methods",
    "Candidate": "results.kinds",
    "ECLipsE": "methods",
    "Executed": "graph.execution",
    "FastLin": "methods",
    "FastLip": "methods",
    "FourierSDP": "methods",
    "Graph": "graph.graph",
    "GreedySeqLip": "methods",
    "IBP": "methods",
    "Inequality": "inputs.properties",
    "InvalidModelError": "errors",
    "InvalidOptionError": "errors",
    "InvalidRegionError": "errors",
    "InvalidResultError": "errors",
    "JacobianBounds": "solve",
    "JacoboundError": "errors",
    "LinearSlopes": "methods",
    "LipSDP": "methods",
    "LipschitzAtMost": "verifying",
    "LipschitzBound": "solve",
    "MissingExtraError": "errors",
    "Monotone": "verifying",
    "MonotoneFeatures": "questions",
    "OutputBounds": "solve",
    "PGD": "questions",
    "Property": "inputs.properties",
    "Provenance": "results.kinds",
    "Question": "results.question",
    "Radii": "inputs.radii",
    "RecurJac": "methods",
    "Result": "questions",
    "RobustRadius": "questions",
    "Sampling": "methods",
    "SeqLip": "methods",
    "ShapeError": "errors",
    "SinglePrecision": "methods",
    "SolverError": "errors",
    "Split": "methods",
    "SplitNeurons": "methods",
    "StationaryFreeRadius": "questions",
    "Status": "results.kinds",
    "Sweep": "sweeps",
    "UnsafeArithmeticError": "errors",
    "UnsupportedOpError": "errors",
    "Verdict": "verifying",
    "Weighted": "inputs.exponents",
    "WholeSpace": "inputs.regions",
    "bound_jacobian": "solve",
    "bound_output": "solve",
    "difference": "graph.vector.difference",
    "from_layers": "importers",
    "from_onnx": "importers",
    "from_torch": "importers",
    "lipschitz": "solve",
    "load_sweep": "sweeps",
    "monotone_features": "questions",
    "report": "results.pages",
    "robust_radius": "questions",
    "run_sweep": "sweeps",
    "stationary_free_radius": "questions",
    "training": "",
    "verify": "verifying",
}


def __getattr__(name: str) -> Any:
    """A public name, loaded with its module."""
    if name not in __all__:
        raise AttributeError(f"jacobound has no {name!r}; public names are listed by dir(jacobound)")
    module = importlib.import_module(f"jacobound.{_HOMES[name] or name}")
    found = getattr(module, name) if _HOMES[name] else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Public names alone, for tab completion."""
    return sorted(__all__)
