"""An independent checker of jacobound's certificates: numpy alone, no search, nothing of the library that wrote them.

`docs/certificates.md` derives every rule. Order of reading: rounding, functions, operators, network, regions, ranges,
jacobians, norms, constants, proofs, certificate.
"""

from __future__ import annotations

from jacobound_check.certificate import Verdict, check
from jacobound_check.errors import CertificateError, OtherModelError, UnprovedError, UnreadableError

__all__ = ["CertificateError", "OtherModelError", "UnprovedError", "UnreadableError", "Verdict", "check"]
