"""What is raised when every method of a minimum failed."""

from __future__ import annotations

from jacobound.errors import InvalidRegionError, JacoboundError, SolverError


def refusal(errors: list[Exception]) -> Exception:
    """What to raise when every method failed: the reason in the user's question, else what broke."""
    for kind in (InvalidRegionError, JacoboundError, MemoryError):
        for error in errors:
            if isinstance(error, kind):
                return error
    said = "; ".join(dict.fromkeys(f"{type(error).__name__}: {error}" for error in errors))
    found = SolverError(f"no method could bound this constant ({said}); name one method alone, or report this")
    found.__cause__ = errors[0]
    return found
