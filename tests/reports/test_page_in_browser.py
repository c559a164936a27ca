"""Pages in headless Chromium: no complaints, sorting and filtering by mouse and keyboard, narrow, dark, printed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jacobound as jb
from reports.browser import Browser, browser
from reports.test_page import HOSTILE, hostile_answers, results  # noqa: F401 - a fixture

pytest.importorskip("matplotlib")
pytestmark = pytest.mark.slow

from jacobound.reports.page.document import document  # noqa: E402 - needs matplotlib
from jacobound.reports.page.sections import Names, Page  # noqa: E402

ENTER, TAB = "\ue007", "\ue004"
TABLE = (
    """[...document.querySelectorAll("table")].find(t => t.caption.textContent.startsWith("Bounds of every entry"))"""
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def page(results: dict[str, jb.Result], tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    path = tmp_path_factory.mktemp("pages") / "page.html"
    path.write_text(document(Page(HOSTILE, (results["image"].answer(Names(image=(4, 4))), *hostile_answers(results)))))
    return path


@pytest.fixture
def opened(chromium: Browser, page: Path) -> Browser:
    chromium.resize(1280)
    chromium.open(page)
    return chromium


def column(opened: Browser, which: int) -> list[str]:
    """The cells of a column that are shown."""
    rows = f"[...({TABLE}).tBodies[0].rows].filter(row => !row.hidden)"
    return opened.run(f"return {rows}.map(row => row.cells[{which}].textContent)")


def test_nothing_is_complained_of_or_fetched(opened: Browser) -> None:
    assert opened.complaints() == []
    assert opened.run("return performance.getEntriesByType('resource').length") == 0
    assert opened.run("return document.title").startswith('"><script>alert(1)')
    # The page's own policy holds: what something else puts there does not run.
    opened.run("const s = document.createElement('script'); s.textContent = 'window.bad = 1'; document.body.append(s)")
    assert opened.run("return window.bad") is None and len(opened.complaints()) == 1


def test_sorting_and_filtering(opened: Browser) -> None:
    before = column(opened, 2)
    opened.run(f"({TABLE}).tHead.rows[0].cells[2].querySelector('button').click()")
    assert column(opened, 2) == sorted(before, key=float) != before
    assert opened.run(f"return ({TABLE}).tHead.rows[0].cells[2].getAttribute('aria-sort')") == "ascending"
    opened.run(f"({TABLE}).tHead.rows[0].cells[2].querySelector('button').focus()")
    opened.press(ENTER)
    assert column(opened, 2) == sorted(before, key=float, reverse=True)
    opened.run(f'document.querySelector(`[data-filters="${{({TABLE}).id}}"] input`).focus()')
    opened.press(*"output 1 input 15")
    assert column(opened, 1) == ["input 15"] and column(opened, 0) == ["output 1"]
    told = opened.run(f'return document.querySelector(`[data-filters="${{({TABLE}).id}}"] output`).textContent')
    assert told == "1 of 32 rows"
    opened.press(*", output 0")
    assert column(opened, 1) == []


def test_everything_that_can_be_used_has_a_name(opened: Browser) -> None:
    """Walks the page by the Tab key: every stop has a name that a screen reader says, and is seen."""
    stops = opened.run("return document.querySelectorAll('a[href], button, input, [tabindex]').length")
    assert stops > 20
    for _ in range(12):
        opened.press(TAB)
        name = opened.run(
            "const e = document.activeElement; return e.getAttribute('aria-label') || e.textContent.trim() || "
            "(e.labels && e.labels[0].textContent)"
        )
        assert name
        assert opened.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_page_is_wider_than_its_screen(width: int, opened: Browser) -> None:
    opened.resize(width)
    assert opened.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out(dark: bool, opened: Browser) -> None:
    """Contrast of text on its ground is at least 4.5 (WCAG 2.2, success criterion 1.4.3)."""
    opened.resize(390, dark=dark)
    ground = "rgb(255, 255, 255)"
    for choice in ("body", ".soft", ".status", "a", "dt", "th button", "td", "svg text", ".filter input"):
        inner = f"getComputedStyle(document.querySelector('{choice}'))"
        attribute = "fill" if choice == "svg text" else "color"
        colour = opened.run(f"return {inner}.{attribute}")
        own = opened.run(
            f"let e = document.querySelector('{choice}'), c; do {{ c = getComputedStyle(e).backgroundColor; "
            "e = e.parentElement } while (e && c === 'rgba(0, 0, 0, 0)'); return c"
        )
        ground = own if own != "rgba(0, 0, 0, 0)" else ground
        assert contrast(colour, ground) >= 4.5, (choice, colour, ground)
    lines = opened.run("return getComputedStyle(document.querySelector('svg [stroke=\"#0072b2\"]')).stroke")
    assert contrast(lines, opened.run("return getComputedStyle(document.body).backgroundColor")) >= 3


def contrast(one: str, other: str) -> float:
    """Ratio of relative luminances, by WCAG."""

    def luminance(colour: str) -> float:
        shares = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_on_paper_everything_is_there(opened: Browser) -> None:
    opened.resize(800, printed=True)
    assert opened.run("return getComputedStyle(document.querySelector('.scroll')).maxHeight") == "none"
    assert opened.run("return getComputedStyle(document.querySelector('.filter')).display") == "none"
