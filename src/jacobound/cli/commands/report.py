"""``jacobound report``: stored results as one HTML page."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.given.options import check_target
from jacobound.cli.shown.summaries import say_answer, say_files
from jacobound.cli.shown.text import say_fact
from jacobound.errors import InvalidOptionError, InvalidResultError, JacoboundError, MissingExtraError
from jacobound.reports.page.sections import Answer, Names, Page
from jacobound.results.pages import UNUSED, names_given, write_page
from jacobound.results.reading import results_in

LARGEST = 1 << 28  # bytes of a file with results


def report(
    *results: Path,
    output: Annotated[Path, Parameter(name=("--output", "-o"), group="Output")],
    title: Annotated[str, Parameter(group="Output")] = "Certified bounds",
    features: Annotated[str | None, Parameter(group="Names")] = None,
    outputs: Annotated[str | None, Parameter(group="Names")] = None,
    image: Annotated[str | None, Parameter(group="Names")] = None,
    debug: Annotated[bool, Parameter(group="Output")] = False,
) -> int:
    """Write results as one HTML page without network: the question, what is proved, tables, figures.

    Exit code: 0 when every answer on the page is certified, 1 when one is not, 2 for an error.

    Args:
        results: Files with results: what --json printed, or result.to_json().
        output: The page, an .html file; it is replaced when it exists.
        title: Title of the page.
        features: Names of the inputs between commas, or a text file with one on each line.
        outputs: Names of the network's outputs, likewise.
        image: HEIGHTxWIDTH where the inputs are an image in a row, as 28x28.
        debug: Show where in the program an error came from.
    """
    if not results:
        raise InvalidResultError("name at least one file with results: what --json printed")
    check_target(output, (".html", ".htm"), "--output")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report")
    names = names_given(_names(features), _names(outputs), _image(image))
    answers = tuple(answer for file in results for answer in answers_in(file, names))
    if names != Names() and answers == tuple(answer for file in results for answer in answers_in(file, Names())):
        raise InvalidOptionError(UNUSED)
    write_page(Page(title, answers), output)
    certified = sum(answer.certified for answer in answers)
    say_files(output)
    for answer in answers:
        if not answer.certified:
            say_fact("open:", f"{answer.kind}: {answer.meaning}")
    say_answer(f"{len(answers)} results, {certified} certified")
    return 0 if certified == len(answers) else 1


def answers_in(file: Path, names: Names) -> list[Answer]:
    """The answers that a file holds, which name it.

    Raises:
        InvalidResultError: when there are none; names the file.
    """
    for module in ("solve", "questions"):  # they bring the kinds of results
        importlib.import_module(f"jacobound.{module}")
    if file.stat().st_size > LARGEST:
        raise InvalidResultError(f"{file} has more than {LARGEST >> 20} MiB; make one page of each part")
    try:
        found = results_in(file.read_bytes())
    except InvalidResultError as error:
        raise InvalidResultError(f"{file}: {error}") from error
    return [replace(result.answer(names), source=file.name) for result in found]


def _names(text: str | None) -> list[str]:
    """Names between commas, or the lines of a file that is there."""
    if text is None:
        return []
    if "," not in text and Path(text).is_file():
        return [line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip()]
    return [name.strip() for name in text.split(",")]


def _image(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text.strip())
    if found is None:
        raise JacoboundError(f"--image {text}: write HEIGHTxWIDTH, as 28x28")
    return int(found.group(1)), int(found.group(2))
