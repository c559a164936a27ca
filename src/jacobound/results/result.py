"""`Result`: what all results can do: say themselves, go to JSON and come back, be drawn, be written as a page."""

from __future__ import annotations

import html
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from jacobound.errors import InvalidResultError
from jacobound.reports.page.sections import Answer, Names, Section, Table
from jacobound.results.exact_json import decoded, digest, encoded, strict_json
from jacobound.results.facts import told_answer
from jacobound.results.pages import report
from jacobound.results.provenance import Provenance, Status
from jacobound.results.question import Question
from jacobound.results.readable import hexadecimal, plain
from jacobound.stored import kinds
from jacobound.words import printable

HEX_ENTRIES = 1000  # larger results stand in hexadecimal only as bytes
FORMAT = 1  # of the exact part; a reader refuses others
WIDEST = 79  # characters of a line of `repr`: a terminal of 80 columns
SHOWN = 10  # rows of a table in a notebook


class Result(ABC):
    """What all results can do: say themselves, go to JSON and come back, be drawn."""

    status: Status
    provenance: Provenance
    told_as: ClassVar[str] = ""  # on a page; the name of the class where it is empty

    @property
    def question(self) -> Question | None:
        """What was asked; None for results that were put together by hand."""
        return self.provenance.question

    def asking(self, question: Question) -> Self:
        """This result with what was asked."""
        return replace(self, provenance=replace(self.provenance, question=question))  # type: ignore[type-var]

    def asked_by(self, command: tuple[str, ...]) -> Self:
        """This result with the words of the command line that asked."""
        known = Question("?") if self.question is None else self.question
        return self.asking(replace(known, command=command).made_by(known.maker))

    def save_certificate(self, path: str | Path) -> Any:
        """Write what `jacobound_check` proves this result from: JSON, and arrays beside it (`docs/certificates.md`).

        Returns:
            `certifying.maker.Written`; its `note` names both values where a weaker one had to be written.

        Raises:
            InvalidOptionError: when the result is not certified, was stored, or is of a kind without certificates.
            UnsupportedOpError: when the network or the question holds what certificates do not.
        """
        return Question("?").written(self, path) if self.question is None else self.question.written(self, path)

    @abstractmethod
    def headline(self) -> str:
        """The answer in one line, numbers rounded to the safe side."""

    @abstractmethod
    def table(self) -> list[dict[str, object]]:
        """Plain rows; `pandas.DataFrame(result.table())` makes a frame of them."""

    @abstractmethod
    def plot(self, *arguments: Any, **options: Any) -> Any:
        """The result as a figure, on the axes `ax` or new ones; returns the axes."""

    def claim(self) -> str:
        """What a certified answer proves, in a sentence."""
        return ""

    def sections(self, names: Names) -> Sequence[Section]:
        """Tables and figures of the answer for a page, with names of inputs and outputs."""
        return (Table.of(type(self).__name__, self.table()),)

    def failures(self) -> tuple[tuple[str, str], ...]:
        """(who, why) of what could not answer."""
        return ()

    def answer(self, names: Names = Names()) -> Answer:  # noqa: B008 - a frozen value
        """The result as a page tells it."""
        return told_answer(self, names)

    def report(self, path: str | os.PathLike[str], **options: Any) -> Path:
        """Write this result as one self-contained HTML page; options and errors are those of `jacobound.report`."""
        return report(self, path, **options)

    def _said(self) -> dict[str, str]:
        """Answer, question and status in a few lines, by what they are."""
        asked = {} if self.question is None else self.question.told()
        rest = ", ".join(f"{name} {asked[name]}" for name in ("rows", "columns", "norms", "budget") if name in asked)
        found = {"answer": self.headline(), "model": asked.get("model", ""), "region": asked.get("region", "")}
        found["region"] = "; ".join(part for part in (found["region"], rest) if part)
        return found | {"status": self.status.value}

    def __repr__(self) -> str:
        """At most four lines: the answer, the model, the region, the status."""
        said = {name: printable(text) for name, text in self._said().items() if text}
        first = f"{type(self).__name__}: {said.pop('answer')}"
        lines = [first, *(f"  {name}: {text}" for name, text in said.items())]
        return "\n".join(line if len(line) <= WIDEST else f"{_cut(line)}..." for line in lines)

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        table = self.table()
        told = ((html.escape(name), html.escape(text)) for name, text in self._said().items())
        said = "".join(f"<tr><th>{name}</th><td>{text}</td></tr>" for name, text in told)
        rows = [tuple(table[0])] * bool(table) + [tuple(row.values()) for row in table[:SHOWN]]
        body = "".join(f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        left = len(table) - SHOWN
        more = f"<caption>{left} more rows in table()</caption>" if left > 0 else ""
        return f"<table>{said}</table><table>{more}{body}</table>"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings, tensors as nested lists; and under "exact" the result itself.

        Bounds of at most `HEX_ENTRIES` numbers also stand in hexadecimal, under their name with "_hex".
        """
        exact = encoded(self)
        told = {"kind": type(self).__name__, "format": FORMAT, "exact": exact, "sha256": digest(exact)}
        return self._readable() | told

    def _readable(self) -> dict[str, Any]:
        found = {name: plain(value) for name, value in vars(self).items() if not name.startswith("_")}
        for name in ("lower", "upper"):
            bound = vars(self).get(name)
            if isinstance(bound, Tensor) and bound.numel() <= HEX_ENTRIES:
                found[f"{name}_hex"] = hexadecimal(bound.detach().cpu().tolist())
        return found

    def to_json(self, indent: int | None = 2) -> str:
        """Strict JSON of `to_dict`: infinities are the strings "inf" and "-inf"."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The result that `to_json` wrote, bit for bit, with tensors on the CPU; here or in another process.

        It is a record, not a proof: whoever can write the file can write other numbers.

        Raises:
            InvalidResultError: when the text is damaged, contradicts itself, or is another kind of result.
        """
        return cls.from_dict(strict_json(text))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """The result that `to_dict` told of; see `from_json`."""
        if not isinstance(told, Mapping) or not {"kind", "format", "exact"} <= set(told):
            raise InvalidResultError("no stored result: the entries 'kind', 'format' and 'exact' are not there")
        if told["format"] != FORMAT or isinstance(told["format"], bool):
            raise InvalidResultError(f"the result is stored in format {told['format']!r}; this version reads {FORMAT}")
        found = decoded(told["exact"], kinds())
        if not isinstance(found, Result):
            raise InvalidResultError("the exact part holds no result")
        if not isinstance(found, cls):
            raise InvalidResultError(f"this is a stored {type(found).__name__}, not a {cls.__name__}")
        if json.dumps(found.to_dict(), sort_keys=True) != json.dumps(dict(told), sort_keys=True, default=repr):
            raise InvalidResultError("the readable part of the result contradicts the exact one; the text was changed")
        return found


def _cut(line: str) -> str:
    """The words of a long line that leave room for three dots."""
    return line[: WIDEST - 3].rsplit(" ", 1)[0]
