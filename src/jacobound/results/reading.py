"""`results_in`: the results that a JSON text holds, as the library or the command line wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jacobound.errors import InvalidResultError
from jacobound.results.exact_json import strict_json
from jacobound.results.result import Result


def results_in(text: str | bytes) -> list[Result]:
    """One result (`Result.to_json`), or a list or a mapping of results (``jacobound ... --json``), in their order.

    Raises:
        InvalidResultError: when the text holds no result, or one that is damaged or contradicts itself.
    """
    return _found(strict_json(text), "the text")


def _found(told: Any, where: str) -> list[Result]:
    if isinstance(told, Mapping) and "exact" in told:
        try:
            return [Result.from_dict(told)]
        except InvalidResultError as error:
            raise InvalidResultError(f"{where}: {error}") from error
    if isinstance(told, list):
        named = [(f"entry {k}", part) for k, part in enumerate(told)]
    elif isinstance(told, Mapping):
        named = [(f"entry {name[:80]!r}", part) for name, part in told.items()]
    else:
        named = []
    if not named or not all(isinstance(part, Mapping) and "exact" in part for _, part in named):
        raise InvalidResultError(
            f"{where} holds no stored result; write one with result.to_json() or with --json on the command line"
        )
    return [result for place, part in named for result in _found(part, place)]
