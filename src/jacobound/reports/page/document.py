"""`document`: the whole page, one file that asks the network for nothing and runs no script but its own.

The same answers make the same bytes. Whatever comes from files is escaped; besides, the page's own policy
(Content-Security-Policy) lets no other style and no other script work than the two whose SHA-256 it names.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources

from jacobound.errors import InvalidResultError
from jacobound.reports.page.blocks import (
    Room,
    accuracies_block,
    differences,
    facts_block,
    labelled_curves,
    section_block,
    sections_block,
    table_block,
)
from jacobound.reports.page.markup import EMPTY, Markup, element, joined
from jacobound.reports.page.sections import Accuracy, Answer, Column, Curve, Curves, HeatMap, Page, Table
from jacobound.version import VERSION

LARGEST = 5_000_000  # bytes of a page
FIGURES = 120  # on a page, about half a second of work each
LINKS = 40  # in the list of contents; of more answers the overview alone has links
ROOMS = ((2000, 12000, 8, 500), (400, 4000, 4, 200), (100, 800, 2, 60), (2000, 0, 0, 0), (200, 0, 0, 0))
OVERVIEW = 8000  # rows of the table of all answers, unless there is no room for other tables

CELL, FIELD = 9, 90  # bytes of a cell of a table and of a field of a heat map, at least

TRUSTED = (
    "the network is the real-number function whose weights are the stored floating-point numbers, unless the answer "
    "says that an executed network is meant",
    "sums, products, quotients and roots round as IEEE 754 says, sums of n products by at most n u / (1 - n u) of "
    "their absolute values in any order, and elementary functions by at most four units in the last place",
    "Python, PyTorch and jacobound did what their code says; where a second program checked a certificate, the answer "
    "does not rest on them",
)


def document(page: Page) -> str:
    """The page as HTML, below `LARGEST` bytes: what would be too much is left out, and the page says so.

    Raises:
        InvalidResultError: when there is nothing to show, or too much for one page in its shortest form.
    """
    if not (page.answers or page.sections or page.failures):
        raise InvalidResultError("a page needs at least one result")
    for sizes in ROOMS:
        room = Room(*sizes)
        if _least_size(page, room) > LARGEST:
            continue
        made = _document(page, room)
        if len(made.encode()) < LARGEST:
            return made
    raise InvalidResultError(
        f"{len(page.answers)} results do not fit into a page of {LARGEST // 10**6} MB; make one page of each part"
    )


def _least_size(page: Page, room: Room) -> int:
    """Bytes that the page has at least; it is not made in vain where this is too much."""
    size = CELL * min(len(page.answers), _overview_rows(room)) * 8
    for sections in (page.sections, *(answer.sections for answer in page.answers[: room.answers])):
        size += sum(
            CELL * min(len(section.rows), room.rows) * len(section.columns)
            for section in sections
            if isinstance(section, Table)
        )
        cells = sum(
            len(part.lower) * len(part.lower[0]) for part in sections if isinstance(part, HeatMap) and part.lower
        )
        size += FIELD * min(cells, room.cells // 2)
    return size


def _document(page: Page, room: Room) -> str:
    style, script = (_own(name) for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="generator", content=f"jacobound {VERSION}"),
        element("title", page.title),
        element("style", style),
    )
    told = page.answers[: room.answers]
    body = element(
        "body",
        element("a", "To the answers", href="#answers", class_="skip"),
        _header(page),
        _contents(told),
        element("main", _overview(page, room), _assumptions(), *_articles(told, room), _rest(page, told), id="answers"),
        _footer(page),
        element("script", script),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _own(name: str) -> Markup:
    """A file of this folder; nothing in it ends its element early (a test looks)."""
    return Markup(resources.files("jacobound.reports.page").joinpath(name).read_text(encoding="utf-8"))


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _header(page: Page) -> Markup:
    count, certified = len(page.answers), sum(answer.certified for answer in page.answers)
    checked = sum(answer.check is not None and answer.check.passed for answer in page.answers)
    failed = len(page.failures)
    told = [f"{count} {'answer' if count == 1 else 'answers'}", f"{certified} certified"] if count else []
    told += [f"{count - certified} not certified"] * (count > certified) + [f"{failed} failures"] * bool(failed)
    told += [f"{checked} checked by a second program"] if checked else []
    return element("header", element("h1", page.title), element("p", ", ".join(told), class_="answer"))


def _contents(told: Sequence[Answer]) -> Markup:
    if not 1 < len(told) <= LINKS:
        return EMPTY
    links = (
        element("li", element("a", f"{k}. {answer.kind}", href=f"#answer{k}"), f": {answer.headline}")
        for k, answer in enumerate(told, 1)
    )
    return element("nav", element("h2", "Contents"), element("ul", *links), aria_label="answers")


def _overview(page: Page, room: Room) -> Markup:
    """What is about all answers together: their table, constants over radius, accuracies, failures."""
    blocks: list[Markup] = []
    if len(page.answers) > 1:
        names = ("answer", "question", "network", "result", "status", "checked", "method", "seconds")
        kinds = ("whole", "text", "text", "text", "text", "text", "text", "number")
        columns = tuple(Column(name, kind) for name, kind in zip(names, kinds, strict=True))
        rows = tuple(
            (k, one.kind, one.network, one.headline, one.status, _checked(one), one.method, one.seconds)
            for k, one in enumerate(page.answers, 1)
        )

        def link(k: int) -> str | None:
            return f"#answer{k + 1}" if k < room.answers else None

        wide = replace(room, rows=_overview_rows(room))
        blocks.append(table_block(Table("All answers", columns, rows), wide, link))
        blocks += _together(page, room)
    blocks += [section_block(section, room) for section in page.sections]
    failures = [*page.failures, *((f"answer {k}", one.meaning) for k, one in _failed(page))]
    if failures and (len(page.answers) > 1 or page.failures):
        columns = (Column("what"), Column("why"))
        blocks += [element("h3", "Failures"), table_block(Table("Failures", columns, tuple(failures)), room)]
    return element("section", element("h2", "Overview"), *blocks, id="overview") if blocks else EMPTY


def _assumptions() -> Markup:
    """What is taken for granted."""
    listed = element("ul", *(element("li", one) for one in TRUSTED))
    return element("section", element("h2", "What all proofs take for granted"), listed, id="assumptions")


def _overview_rows(room: Room) -> int:
    return OVERVIEW if room.answers or room.rows > ROOMS[-1][0] else room.rows


def _failed(page: Page) -> list[tuple[int, Answer]]:
    return [(k, answer) for k, answer in enumerate(page.answers, 1) if not answer.certified]


def _checked(answer: Answer) -> str:
    return "no" if answer.check is None else "yes" if answer.check.passed else "refused"


def _together(page: Page, room: Room) -> list[Markup]:
    """Constants and accuracies that several answers hold parts of."""
    sections = [section for answer in page.answers for section in answer.sections]
    curves = [curve for section in sections if isinstance(section, Curves) for curve in section.curves]
    several = [part for part in sections if isinstance(part, Accuracy)]
    blocks: list[Markup] = []
    if sum(isinstance(section, Curves) for section in sections) > 1:
        longer = tuple(curve for _, curve in labelled_curves(curves) if len(curve.sorted.points) > 1)
        blocks += [section_block(Curves("Constants over radius", longer), room)] if longer else []
    if len(several) > 1:
        blocks.append(accuracies_block("Certified accuracy against attack", _joined_accuracies(several), room))
    return blocks


def _joined_accuracies(several: Sequence[Accuracy]) -> list[tuple[str, Accuracy]]:
    """Points of answers about the same thing together."""
    found: dict[tuple[tuple[str, str], ...], Accuracy] = {}
    for one in several:
        before = found.get(one.parts, Accuracy(one.parts, (), ()))
        found[one.parts] = Accuracy(one.parts, before.held + one.held, before.attacked + one.attacked)
    return list(zip(differences(list(found), ""), found.values(), strict=True))


def _articles(told: Sequence[Answer], room: Room) -> list[Markup]:
    room = replace(room, figures=min(room.figures, FIGURES // max(1, len(told))))
    return [_article(answer, k, len(told), room) for k, answer in enumerate(told, 1)]


def _article(answer: Answer, number: int, count: int, room: Room) -> Markup:
    """One answer: what it is, what is proved under which assumptions, what was asked, numbers, how it was found."""
    mood = "good" if answer.certified else "bad"
    # A curve with a single point is no figure; with others it stands in the overview.
    alone = [
        part for part in answer.sections if not isinstance(part, Curves) or any(_points(one) > 1 for one in part.curves)
    ]
    failures = element("h3", "What could not answer") if answer.failures else EMPTY
    return element(
        "article",
        element("h2", f"{f'{number}. ' if count > 1 else ''}{answer.kind}", id=f"title{number}"),
        element("p", answer.headline, class_="answer"),
        element("p", element("span", answer.status, class_=f"status {mood}"), " ", answer.meaning),
        element("h3", "What is proved"),
        _claim(answer, mood),
        element("h3", "The question"),
        facts_block(answer.asked) if answer.asked else element("p", "The result does not hold its question."),
        sections_block(alone, room),
        failures,
        facts_block(answer.failures) if answer.failures else EMPTY,
        element("h3", "How it was found"),
        facts_block((*answer.found, *((("result file", answer.source),) if answer.source else ()))),
        id=f"answer{number}",
        aria_labelledby=f"title{number}",
    )


def _points(curve: Curve) -> int:
    return len(curve.sorted.points)


def _claim(answer: Answer, mood: str) -> Markup:
    """The claim, under what it holds, and who has checked it."""
    claim = answer.claim or "What the numbers below say."
    said = claim if answer.certified else f"NOT PROVED by this answer ({answer.meaning}): {claim}"
    own = element("ul", *(element("li", one) for one in answer.assumptions)) if answer.assumptions else EMPTY
    under = ", and under these of the user's own, which jacobound did not check:" if answer.assumptions else "."
    above = element("a", "assumptions that all proofs make", href="#assumptions")
    if answer.check is None:
        checked = "Not checked by a second program: the answer stands as jacobound found it."
    else:
        certificate = f" ({answer.check.certificate})" if answer.check.certificate else ""
        verdict = "proved it again" if answer.check.passed else "did NOT prove it"
        checked = f"Checked by {answer.check.by}, which {verdict}: {answer.check.said}{certificate}"
    return joined(
        element("div", element("p", said), class_=f"claim {mood}"),
        element("p", "It holds under the ", above, under),
        own,
        element("p", checked),
    )


def _rest(page: Page, told: Sequence[Answer]) -> Markup:
    left = len(page.answers) - len(told)
    return element("p", f"{left} more answers are told in the overview alone.", class_="soft") if left else EMPTY


def _footer(page: Page) -> Markup:
    words = (
        f"Written by jacobound {VERSION}. Upper bounds are shown rounded up, lower bounds rounded down; exact values "
        "stand behind every number. A page is a record, not a proof: whoever can write a file can write other numbers. "
        "Asking the question again, or checking a certificate, proves it."
    )
    return element("footer", element("p", words, class_="soft"))
