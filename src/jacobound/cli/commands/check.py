"""``jacobound check``: a certificate, proved anew by the independent checker; needs no torch."""

from __future__ import annotations

from pathlib import Path

from jacobound.cli.shown.text import say
from jacobound_check.__main__ import told
from jacobound_check.certificate import check as proved
from jacobound_check.errors import CertificateError, UnreadableError

REFUSED, UNREADABLE = 1, 2


def check(
    certificate: Path,
    /,
    *,
    model: Path | None = None,
    debug: bool = False,
) -> int:
    """Prove a certificate anew, by a program of its own that uses nothing of what wrote it.

    Args:
        certificate: The JSON file; its weights lie beside it.
        model: A model file (.onnx) that the network is compared with.
        debug: Show where in the program an error came from.
    """
    try:
        verdict = proved(certificate, model)
    except UnreadableError as error:
        say(f"unreadable: {error}", error=True)
        return UNREADABLE
    except CertificateError as error:
        say(f"refused: {error}", error=True)
        return REFUSED
    say("\n".join(told(verdict)))
    return 0
