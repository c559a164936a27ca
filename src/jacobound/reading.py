"""Reading stored results: which kinds of data there are, by name. Nothing else is made, and nothing is unpickled."""

from __future__ import annotations

from typing import Any, Final

from jacobound.errors import InvalidResultError
from jacobound.exact_json import decoded
from jacobound.exponents import Weighted
from jacobound.methods.layered_certificate import LayeredCertificate
from jacobound.methods.sdp_barrier import Weights
from jacobound.methods.sdp_certificate import SdpCertificate
from jacobound.provenance import Provenance, Status
from jacobound.question import Question
from jacobound.questions import MonotoneFeatures, RobustRadius, StationaryFreeRadius
from jacobound.radii import Radii
from jacobound.regions import Ball, Box, WholeSpace
from jacobound.results import Candidate, JacobianBounds, LipschitzBound, OutputBounds, Result
from jacobound.source import Source

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
