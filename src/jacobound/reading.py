"""Reading stored results: which kinds of data there are, by name. Nothing else is made, and nothing is unpickled."""

from __future__ import annotations

from typing import Any, Final

from jacobound.certificates.dense.barrier import Weights
from jacobound.certificates.dense.proof import SdpCertificate
from jacobound.certificates.layered.proof import LayeredCertificate
from jacobound.errors import InvalidResultError
from jacobound.graph.source import Source
from jacobound.inputs.exponents import Weighted
from jacobound.inputs.radii import Radii
from jacobound.inputs.regions import Ball, Box, WholeSpace
from jacobound.questions import MonotoneFeatures, RobustRadius, StationaryFreeRadius
from jacobound.results.exact_json import decoded
from jacobound.results.kinds import Candidate, JacobianBounds, LipschitzBound, OutputBounds, Result
from jacobound.results.provenance import Provenance, Status
from jacobound.results.question import Question

RESULTS: Final = (OutputBounds, JacobianBounds, LipschitzBound, RobustRadius, StationaryFreeRadius, MonotoneFeatures)
PARTS: Final = (Candidate, Provenance, Question, Source, Status, Ball, Box, WholeSpace, Radii, Weighted)
CERTIFICATES: Final = (SdpCertificate, Weights, LayeredCertificate)


def read(stored: Any) -> Result:
    """The result in the exact part of a stored one.

    Raises:
        InvalidResultError: when there is none.
    """
    found = decoded(stored, {kind.__name__: kind for kind in (*RESULTS, *PARTS, *CERTIFICATES)})
    if not isinstance(found, Result):
        raise InvalidResultError("the exact part holds no result")
    return found
