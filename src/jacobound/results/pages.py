"""`report`: results as one HTML page that can be sent to somebody who has nothing but a browser; and its figures."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jacobound.checks import items, shown, text
from jacobound.errors import InvalidOptionError, InvalidResultError, MissingExtraError
from jacobound.reports.page.sections import Answer, Names, Page

UNUSED = "no result on this page tells of inputs or outputs by these names; leave features, outputs and image out"


class Answering(Protocol):
    """What can tell itself on a page."""

    def answer(self, names: Names = ...) -> Answer: ...


def report(
    results: Answering | Iterable[Answering],
    path: str | os.PathLike[str],
    *,
    title: str = "Certified bounds",
    features: Sequence[str] = (),
    outputs: Sequence[str] = (),
    image: Sequence[int] | None = None,
) -> Path:
    """Write results as one self-contained HTML page of less than 5 MB.

    The page holds the questions, what is proved under which assumptions, tables that can be sorted and filtered, and
    figures; constants of several results about the same thing are drawn as curves over the radius. The same results
    make the same bytes. Certified numbers are rounded to the safe side; the page says which are certified.

    Args:
        results: one or more of what the entry points return.
        path: of the file, which is replaced if it exists.
        title: of the page.
        features: a name for each input entry, in row-major order.
        outputs: a name for each output of the network.
        image: (height, width) where the entries of the input are an image in a row.

    Returns:
        The path.

    Raises:
        InvalidResultError: when there are no results, or too many for one page.
        ShapeError: when names or image do not fit the results.
        InvalidOptionError: when an option is none.
        MissingExtraError: without matplotlib (the extra `report`).
    """
    names = names_given(features, outputs, image)
    several = list(results) if isinstance(results, Iterable) else [results]
    answers = []
    for result in several:
        if not hasattr(result, "answer"):
            raise InvalidResultError(f"a page holds results, not a {type(result).__name__}")
        answers.append(result.answer(names))
    if names != Names() and answers == [result.answer() for result in several]:
        raise InvalidOptionError(UNUSED)
    return write_page(Page(text(title, "title"), tuple(answers)), path)


def write_page(page: Page, path: str | os.PathLike[str]) -> Path:
    """A page as a file; see `report`."""
    target = Path(path)
    target.write_text(drawing("page.document").document(page), encoding="utf-8", newline="\n")
    return target


def figures() -> Any:
    """The drawing module, loaded only when a figure is wanted."""
    return drawing("figures")


def drawing(name: str) -> Any:
    """A module of `reports` that needs matplotlib, loaded only when it is wanted.

    Raises:
        MissingExtraError: without matplotlib.
    """
    try:
        return importlib.import_module(f"jacobound.reports.{name}")
    except ImportError as error:
        if error.name and error.name.startswith("jacobound"):
            raise
        raise MissingExtraError("matplotlib", "report") from error


def names_given(features: Sequence[str], outputs: Sequence[str], image: Sequence[int] | None) -> Names:
    """Names as users give them.

    Raises:
        InvalidOptionError: when they are no names, or the image has no height and width.
    """
    features, outputs = (
        tuple(text(one, f"an entry of {what}") for one in items(given, what, "['speed', 'angle']"))
        for what, given in (("features", features), ("outputs", outputs))
    )
    if image is None:
        return Names(features, outputs)
    sides = tuple(image) if isinstance(image, Sequence) and not isinstance(image, str) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise InvalidOptionError(f"image is (height, width), two whole numbers above 0, not {shown(image)}")
    return Names(features, outputs, (sides[0], sides[1]))
