"""The exceptions that jacobound raises, as one tree.

    JacoboundError
    ├── UnsupportedOpError     an operation of the user's model that is not understood; names it and its place
    ├── InvalidModelError      the model can not be certified as it is (NaN weights, training mode, ...)
    ├── InvalidRegionError     the region makes no sense (negative radius, crossed box, NaN)
    ├── InvalidOptionError     an option has a value that it can not have
    ├── InvalidResultError     a stored result is damaged, contradicts itself, or is none
    ├── ShapeError             shapes or dtypes do not fit together
    ├── UnsafeArithmeticError  the machine's arithmetic breaks the rounding model (TF32, autocast, flushing, ...)
    ├── SolverError            a numerical solver gave nothing that can be certified
    └── MissingExtraError      an optional dependency is absent; the message holds the install line

Every message says what happened, where, and what to do next.
"""

from __future__ import annotations


class JacoboundError(Exception):
    """Base of all errors that jacobound raises on purpose."""


class UnsupportedOpError(JacoboundError):
    """An operation is neither affine nor a known activation, or is used in a way that is not."""


class InvalidModelError(JacoboundError, ValueError):
    """The model can not be certified as it is."""


class InvalidRegionError(JacoboundError, ValueError):
    """The input region is not a region."""


class InvalidOptionError(JacoboundError, ValueError):
    """An option of a method, of a budget or of a search has a value that it can not have."""


class InvalidResultError(JacoboundError, ValueError):
    """A stored result can not be read, or a result can not be stored."""


class ShapeError(JacoboundError, ValueError):
    """Shapes or dtypes do not fit together."""


class UnsafeArithmeticError(JacoboundError, ArithmeticError):
    """Rounding errors can not be bounded with the machine's present settings."""


class SolverError(JacoboundError, RuntimeError):
    """A numerical solver returned nothing from which a certificate could be made."""


class MissingExtraError(JacoboundError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: the import name that is missing.
        extra: the extra of jacobound that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package '{package}', which is not installed; run: pip install 'jacobound[{extra}]'"
        )
