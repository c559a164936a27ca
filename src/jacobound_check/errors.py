"""Why a certificate proves nothing: it can not be read, or it can but what it claims does not follow."""

from __future__ import annotations


class CertificateError(Exception):
    """A certificate that proves nothing; says what is wrong and where."""


class UnreadableError(CertificateError):
    """The files are damaged, hold something else, or contradict each other."""


class UnprovedError(CertificateError):
    """The certificate can be read, and what it claims does not follow from it."""


class OtherModelError(CertificateError):
    """The network of the certificate is not the one in the model's file."""
