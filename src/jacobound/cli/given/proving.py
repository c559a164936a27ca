"""``--certificate``: results as certificates that ``jacobound check`` proves anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from jacobound.cli.given.options import ShowOptions, check_target
from jacobound.cli.shown.summaries import say_files
from jacobound.cli.shown.text import say, say_fact, say_json
from jacobound.errors import InvalidOptionError
from jacobound.results.result import Result


@Parameter(name="*", group="Output")
@dataclass(frozen=True, kw_only=True)
class AnswerOptions(ShowOptions):
    """What is shown and written of answers that certificates can hold.

    Args:
        certificate: Write a certificate into this .json file (and its arrays beside it), which `jacobound check` proves
            anew without this program.
    """

    certificate: Path | None = None

    def check(self) -> None:
        """Refuse a file that could not be written before the work is done, not after it."""
        super().check()
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

    def say_json(self, value: Any, results: Mapping[str, Result]) -> None:
        """The answer as JSON, and the certificates of results; see `say_written`."""
        self._prove(results)
        say_json(value)

    def say_written(self, results: Mapping[str, Result], *files: Path | None) -> None:
        """Write the certificates, where they are wanted, and say which files there are.

        Args:
            results: by what stands before the suffix of the file's name; "" for the file itself.
            files: others that were written.

        Raises:
            InvalidOptionError, UnsupportedOpError: when a result has no certificate, with the reason.
        """
        self._prove(results)
        say_files(*files, self.plot)

    def _prove(self, results: Mapping[str, Result]) -> None:
        file = self.certificate
        if file is None:
            return
        for name, result in results.items():
            path = file.with_suffix(f".{name}.json") if name else file
            made = result.save_certificate(path)
            told = f"{path}, with {made.weights.name}{f'; {made.note}' if made.note else ''}"
            if not self.json:
                say_fact("certificate", told)
            elif made.note:  # standard output holds the results alone
                say(f"certificate: {told}", error=True)
