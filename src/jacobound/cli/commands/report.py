"""``jacobound report``: stored results as one HTML page."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.given.certificates import checks
from jacobound.cli.given.options import check_target
from jacobound.cli.shown.summaries import say_answer, say_files
from jacobound.cli.shown.text import say_fact
from jacobound.errors import InvalidOptionError, InvalidResultError, JacoboundError, MissingExtraError
from jacobound.reports.page.sections import Check, Names, Page
from jacobound.results.pages import UNUSED, names_given, write_page
from jacobound.results.reading import results_in
from jacobound.results.result import Result
from jacobound.sweeps import load_sweep
from jacobound.sweeps.store import is_store

LARGEST = 1 << 28  # bytes of a file with results


def report(
    *results: Path,
    output: Annotated[Path, Parameter(name=("--output", "-o"), group="Output")],
    title: Annotated[str, Parameter(group="Output")] = "Certified bounds",
    features: Annotated[str | None, Parameter(group="Names")] = None,
    outputs: Annotated[str | None, Parameter(group="Names")] = None,
    image: Annotated[str | None, Parameter(group="Names")] = None,
    certificate: Annotated[tuple[Path, ...], Parameter(group="Certificates", consume_multiple=True)] = (),
    model: Annotated[Path | None, Parameter(group="Certificates")] = None,
    debug: Annotated[bool, Parameter(group="Output")] = False,
) -> int:
    """Write results as one HTML page without network: the question, what is proved, tables, figures.

    Exit code: 0 when every answer on the page is certified and no certificate proves less, 1 when not, 2 for an error.

    Args:
        results: Files with results: what --json printed, result.to_json(), or the store of a sweep.
        output: The page, an .html file; it is replaced when it exists.
        title: Title of the page.
        features: Names of the inputs between commas, or a text file with one on each line.
        outputs: Names of the network's outputs, likewise.
        image: HEIGHTxWIDTH where the inputs are an image in a row, as 28x28.
        certificate: Certificates of the results; the independent checker proves them anew, and the page says so.
        model: The network's file, which the certificates are compared with.
        debug: Show where in the program an error came from.
    """
    if not results:
        raise InvalidResultError("name at least one file with results: what --json printed")
    check_target(output, (".html", ".htm"), "--output")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "report")
    names = names_given(_names(features), _names(outputs), _image(image))
    if model is not None and not certificate:
        raise InvalidOptionError("--model is what certificates are compared with; name one with --certificate")
    found = [(file.name, result) for file in results for result in stored_in(file)]
    checked: dict[int, Check] = {}
    for one in certificate:
        said = checks([result for _, result in found], one, model)
        checked |= {k: check for k, check in said.items() if check.passed or k not in checked}
    told = [result.answer(names) for _, result in found]
    if names != Names() and told == [result.answer() for _, result in found]:
        raise InvalidOptionError(UNUSED)
    places = zip(told, found, strict=True)
    answers = tuple(replace(one, source=name, check=checked.get(k)) for k, (one, (name, _)) in enumerate(places))
    write_page(Page(title, answers), output)
    certified = sum(answer.certified for answer in answers)
    say_files(output)
    for answer in answers:
        if not answer.certified:
            say_fact("open:", f"{answer.kind}: {answer.meaning}")
    refused = [answer for answer in answers if answer.check is not None and not answer.check.passed]
    for answer in refused:
        say_fact("refused:", f"{answer.kind}, {answer.source}: the certificate proves weaker numbers")
    proved = sum(answer.check is not None and answer.check.passed for answer in answers)
    also = f", {proved} checked by a second program" if certificate else ""
    say_answer(f"{len(answers)} results, {certified} certified{also}")
    return 0 if certified == len(answers) and not refused else 1


def stored_in(file: Path) -> list[Result]:
    """The results that a file holds.

    Raises:
        InvalidResultError: when there are none; names the file.
    """
    for module in ("solve", "questions", "verifying.verdict"):  # they bring the kinds of results
        importlib.import_module(f"jacobound.{module}")
    if is_store(file):
        return list(load_sweep(file).results())
    if file.stat().st_size > LARGEST:
        raise InvalidResultError(f"{file} has more than {LARGEST >> 20} MiB; make one page of each part")
    try:
        return results_in(file.read_bytes())
    except InvalidResultError as error:
        raise InvalidResultError(f"{file}: {error}") from error


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
