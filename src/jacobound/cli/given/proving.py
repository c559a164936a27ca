"""``--certificate``: results as certificates that ``jacobound check`` proves anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.given.options import check_target
from jacobound.cli.shown.text import say, say_fact
from jacobound.errors import InvalidOptionError
from jacobound.results.result import Result


@Parameter(name="*", group="Output")
@dataclass(frozen=True, kw_only=True)
class CertificateOptions:
    """What an auditor gets.

    Args:
        certificate: Write a certificate into this .json file (and its arrays beside it), which `jacobound check` proves
            anew without this program.
    """

    certificate: Annotated[Path | None, Parameter(name="--certificate")] = None

    def check(self) -> None:
        """Refuse a file that could not be written before the work is done, not after it."""
        if self.certificate is not None:
            check_target(self.certificate, (".json",), "--certificate")

    def check_one(self, asked: int) -> None:
        """Refuse several questions, each of which has a certificate of its own.

        Raises:
            InvalidOptionError: with how to ask for one.
        """
        if self.certificate is not None and asked != 1:
            raise InvalidOptionError(
                f"a certificate is about one question, not {asked}; give one radius and one input (--index)"
            )

    def write(self, results: Mapping[str, Result], quiet: bool) -> None:
        """The certificates, where they are wanted, and what they prove less than the results.

        Args:
            results: by what stands before the suffix of the file's name; "" for the file itself.
            quiet: whether standard output holds something else.

        Raises:
            InvalidOptionError, UnsupportedOpError: when a result has no certificate, with the reason.
        """
        if self.certificate is None:
            return
        for name, result in results.items():
            path = self.certificate.with_suffix(f".{name}.json") if name else self.certificate
            made = result.save_certificate(path)
            told = f"{path}, with {made.weights.name}{f'; {made.note}' if made.note else ''}"
            if not quiet:
                say_fact("certificate", told)
            elif made.note:
                say(f"certificate: {told}", error=True)
