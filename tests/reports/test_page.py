"""Pages of results: well-formed, without anything from outside, with the numbers of the results and nothing hostile."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch

import jacobound as jb
from jacobound import cli
from jacobound import words as jb_words
from jacobound.reports.page.sections import Accuracy, Answer, Check, Column, Curve, Curves, Names, Page, Table
from reports.html_pages import Element
from reports.html_pages import Page as Read

matplotlib = pytest.importorskip("matplotlib")

from jacobound.reports.page.document import LARGEST, document  # noqa: E402 - needs matplotlib

INF = math.inf
HOSTILE = '"><script>alert(1)</script></style><b onload=x>$\\frac{$ \x1b[31m\u202e 速度 &amp;'


def network(inputs: int = 4) -> jb.Graph:
    random = np.random.default_rng(0)
    weights = [random.normal(size=(8, inputs)) / 2, random.normal(size=(2, 8)) / 2]
    return jb.from_layers(weights, [random.normal(size=8) / 4, np.array([0.5, -0.5])], activation="relu")


@pytest.fixture(scope="module")
def results() -> dict[str, jb.Result]:
    graph, image, points = network(), network(16), torch.full((2, 4), 0.1, dtype=torch.float64)
    points[1] *= -1
    quick = {"search": None, "budget": 2}
    return {
        "constant": jb.lipschitz(graph, jb.Ball(points, [0.01, 0.1, 1.0]), jb.RecurJac(), budget=2),
        "other constant": jb.lipschitz(graph, jb.Ball(points, 2.0), jb.RecurJac(), budget=2),
        "global": jb.lipschitz(graph, jb.WholeSpace(), jb.AutoLip(), norm=(INF, INF), **quick),
        "estimate": jb.lipschitz(graph, jb.WholeSpace(), jb.GreedySeqLip(), **quick),
        "outputs": jb.bound_output(graph, jb.Ball(points, [0.1, 0.2])),
        "jacobian": jb.bound_jacobian(graph, jb.Ball(points[0], 0.3), rows=[[1.0, -1.0], [0.0, 1.0]]),
        "image": jb.bound_jacobian(image, jb.Box(np.zeros(16), np.full(16, 0.3))),
        "columns": jb.bound_jacobian(graph, jb.Ball(points[0], 0.3), columns=[3, 1]),
        "radius": jb.robust_radius(graph, points, budget=2, attack=jb.PGD(1, 2, 1)),
        "one radius": jb.robust_radius(graph, points[0], p=2, budget=2, attack=jb.PGD(1, 2, 1)),
        "landscape": jb.stationary_free_radius(graph, points, budget=2),
        "features": jb.monotone_features(graph, jb.Box(np.zeros(4), np.ones(4)), budget=2),
    }


KINDS = (
    *(
        "constant",
        "global",
        "estimate",
        "outputs",
        "jacobian",
        "image",
        "radius",
        "one radius",
        "landscape",
        "features",
    ),
)


def page_of(*results: jb.Result, names: Names = Names(), **more: object) -> str:  # noqa: B008 - a frozen value
    answers = tuple(result.answer(names) for result in results)
    return document(replace(Page("Certified bounds", answers), **more))


def tables(page: Read) -> dict[str, Element]:
    """Tables by the title in their captions."""
    return {table.all("caption")[0].text.partition(":")[0]: table for table in page.root.all("table")}


def check_well_formed(text: str) -> Read:
    """What every page must be, whatever is on it."""
    page = Read(text)
    everything = page.root.walk()
    ids = [one.attributes["id"] for one in everything if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for one in everything:
        for name, value in one.attributes.items():
            assert name != "style" and not name.startswith("on"), "nothing but the page's own style and script works"
            if name in ("for", "aria-controls", "aria-labelledby"):
                assert value in ids
            if name in ("href", "src", "action"):
                assert value and value.startswith("#") and value[1:] in ids
            for reference in re.findall(r"url\(([^)]*)\)", value or ""):
                assert reference[0] == "#" and reference[1:] in ids
    labels = {one.attributes.get("for") for one in page.root.all("label")}
    assert {one.attributes["id"] for one in page.root.all("input")} <= labels
    assert all(one.text.strip() for one in page.root.all("button") + page.root.all("a") + page.root.all("h3"))
    assert all(one.attributes.get("aria-label") for one in everything if one.attributes.get("role") == "region")
    levels = [int(one.name[1]) for one in everything if one.name in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for table in page.root.all("table"):
        assert table.all("caption")[0].text and all(head.attributes["scope"] == "col" for head in table.all("th"))
        assert {len(row.children) for row in table.all("tr")} == {len(table.all("th"))}
    for picture in page.root.all("svg"):
        assert picture.attributes["role"] == "img" and picture.children[0].name == "title"
    assert page.root.all("html")[0].attributes["lang"] == "en"
    check_policy(page)
    return page


def check_policy(page: Read) -> None:
    """One style, one script, and both allowed by their hashes alone."""
    (style,), (script,) = page.root.all("style"), page.root.all("script")
    policies = [m for m in page.root.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy"]
    (policy,) = (one.attributes["content"] or "" for one in policies)
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules.pop("default-src") == "'none'"
    for name, one in (("style-src", style), ("script-src", script)):
        digest = base64.b64encode(hashlib.sha256(one.text.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules == {"base-uri": "'none'", "form-action": "'none'"}
    assert "http" not in style.text + script.text and "url(" not in style.text


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_makes_a_page(kind: str, results: dict[str, jb.Result], tmp_path: Path) -> None:
    result = results[kind]
    path = (
        result.report(tmp_path / "page.html", image=(4, 4)) if kind == "image" else result.report(tmp_path / "p.html")
    )
    text = path.read_text(encoding="utf-8")
    page = check_well_formed(text)
    shown = page.root.text
    assert result.headline() in shown and result.status.value in shown and result.provenance.network in shown
    assert ("NOT PROVED" in shown) == (not result.status.certified)
    assert "Not checked by a second program" in shown and result.to_dict()["sha256"] in shown
    assert page.root.all("svg") or kind in ("global", "estimate")
    if kind not in ("constant", "image", "estimate"):
        return
    # The same bytes from the stored result, and in the user's own style of figures.
    with matplotlib.rc_context({"lines.linewidth": 7.0, "svg.fonttype": "path", "font.size": 30.0}):
        before = dict(matplotlib.rcParams)
        again = type(result).from_json(result.to_json())
        names = {"image": (4, 4)} if kind == "image" else {}
        assert again.report(tmp_path / "again.html", **names).read_bytes() == text.encode()
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_the_result(kind: str, results: dict[str, jb.Result]) -> None:
    """Every float of `table()` stands behind a cell, bit for bit, and is shown rounded to the safe side."""
    result = results[kind]
    answer = result.answer()
    told = [section for section in answer.sections if isinstance(section, Table)]
    page = Read(document(Page("tables", (replace(answer, sections=tuple(told)),))))
    shown = tables(page)
    floats = [value for row in result.table() for value in row.values() if isinstance(value, float)]
    behind = []
    for section in told:
        rows = shown[section.title].all("tbody")[0].all("tr")
        assert len(rows) == len(section.rows)
        for row, cells in zip(rows, section.rows, strict=True):
            for cell, value, column in zip(row.children, cells, section.columns, strict=True):
                check_cell(cell, value, column)
                behind += [value] if isinstance(value, float) else []
    kept = iter(behind)
    wanted = [value for value in floats if value not in getattr(result, "radii", ())]
    assert all(any(value == other or (value != value and other != other) for other in kept) for value in wanted)


def check_cell(cell: Element, value: object, column: Column) -> None:
    if not isinstance(value, int | float):
        assert cell.text == str(value)
        return
    (datum,) = cell.all("data")
    exact = float(datum.attributes["value"] or "")
    assert exact == value or (exact != exact and value != value)
    if math.isfinite(exact) and column.kind in ("lower", "upper"):
        kept = Decimal(cell.text) - Decimal(exact)
        assert kept >= 0 if column.kind == "upper" else kept <= 0
        assert abs(kept) <= abs(Decimal(exact)) * Decimal("1e-5")


def test_bounds_are_marked_as_such(results: dict[str, jb.Result]) -> None:
    """Otherwise nothing would say on which side a number is rounded."""
    for kind in ("constant", "outputs", "jacobian", "features"):
        for section in results[kind].answer().sections:
            if isinstance(section, Table) and section.title != "Candidates":
                kinds = {column.title: column.kind for column in section.columns}
                assert kinds["lower"] == "lower" and kinds["upper"] == "upper"


def hovers(page: Read) -> list[str]:
    """Values that are shown on hover: the titles of marks, not those of figures."""
    return [one.text for one in page.root.all("title") if one.inside[-1].name in ("use", "path")]


def test_values_on_hover(results: dict[str, jb.Result]) -> None:
    """Every mark tells its own value: (radius, point, value) are those of the table, and stand where they are drawn."""
    page = Read(page_of(results["constant"]))
    texts, told = hovers(page), set()
    for text in texts:
        radius, side, value, point = re.findall(r"radius (\S+): at (most|least) (\S+) \(point (\d)", text)[0]
        told.add((side, float(radius), int(point), float(value)))
    ends = {"most": ("upper", jb_words.rounded_up), "least": ("lower", jb_words.rounded_down)}
    wanted = {
        (side, float(f"{row['radius']:.6g}"), row["point"], float(rounded(row[end])))
        for row in results["constant"].table()
        for side, (end, rounded) in ends.items()
    }
    assert told == wanted and len(texts) == 12
    marks = [one for one in page.root.all("use") if one.all("title")]
    values = [float(re.findall(r"at (?:most|least) (\S+)", one.text)[0]) for one in marks]
    heights = [float(one.attributes["y"] or "") for one in marks]
    rising = [value for _, value in sorted(zip(heights, values, strict=True), reverse=True)]
    assert all(after >= before * (1 - 1e-5) for before, after in itertools.pairwise(rising))


def test_fields_on_hover(results: dict[str, jb.Result]) -> None:
    image = results["image"]
    page = Read(page_of(image, names=Names(image=(4, 4))))
    texts = hovers(page)
    assert len(texts) == 2 * 2 * 16  # middle and half-width of two rows
    for k, text in enumerate(texts[32:48]):
        assert text.startswith(f"d output 1 / d pixel ({k // 4}, {k % 4}): ")
        low, high = map(float, re.findall(r": (\S+) to (\S+)", text)[0])
        assert low <= float(image.lower[1, k]) and float(image.upper[1, k]) <= high
        assert math.isclose(low, float(image.lower[1, k]), rel_tol=1e-5)
    fields = [one for one in page.root.all("path") if one.all("title")][:16]
    corners = [tuple(map(float, re.findall(r"M ([\d.]+) ([\d.]+)", one.attributes["d"] or "")[0])) for one in fields]
    assert [k for k, _ in sorted(enumerate(corners), key=lambda one: one[1][::-1])] == list(range(16))


def test_names_stand_in_tables_and_figures(results: dict[str, jb.Result]) -> None:
    names = Names(("speed", "angle", "mass", "wind"), ("left", "right"))
    page = check_well_formed(page_of(results["jacobian"], names=names))
    rows = tables(page)["Bounds of every entry"].all("tbody")[0].all("tr")
    assert [cell.text for cell in rows[1].children][:2] == ["left - right", "angle"]
    assert "d right / d mass" in " ".join(hovers(page))
    chosen = Read(page_of(results["columns"], names=names))
    rows = tables(chosen)["Bounds of every entry"].all("tbody")[0].all("tr")
    lower = results["columns"].table()[0]["lower"]
    assert rows[0].children[1].text == "wind" and rows[0].all("data")[0].attributes["value"] == repr(lower)
    for wrong in (Names(("one", "two")), Names((), ("one",)), Names(image=(3, 3))):
        with pytest.raises(jb.ShapeError, match="own"):
            results["jacobian"].answer(wrong)


def test_constants_of_several_results_are_one_curve(results: dict[str, jb.Result]) -> None:
    page = check_well_formed(page_of(results["constant"], results["other constant"], results["global"]))
    overview = next(one for one in page.root.walk() if one.attributes.get("id") == "overview")
    (picture,) = overview.all("svg")
    assert sum("at most" in text.text for text in picture.all("title")) == 8  # four radii of two points
    links = [one.attributes["href"] for one in overview.all("a")]
    assert links == ["#answer1", "#answer2", "#answer3"]


def test_accuracy_is_that_of_all_results(results: dict[str, jb.Result]) -> None:
    radius = results["radius"]
    (found,) = [part for part in radius.answer().sections if isinstance(part, Accuracy)]
    for wanted in (0.0, 0.01, 0.1, 1.0, *found.held):
        assert math.isclose(found.certified(wanted), float(radius.certified_accuracy(wanted)))
        assert math.isclose(found.unattacked(wanted), float(radius.attacked_accuracy(wanted)))
    margin = radius.margin.clone()
    margin[0, 0] = -1.0  # a point that is not decided as its label says counts against both shares
    wrong = replace(radius, margin=margin)
    (found,) = [part for part in wrong.answer().sections if isinstance(part, Accuracy)]
    for wanted in (0.0, 0.01):
        assert found.certified(wanted) == float(wrong.certified_accuracy(wanted)) == 0.5
        assert found.unattacked(wanted) == float(wrong.attacked_accuracy(wanted))
    page = Read(page_of(radius, radius))
    overview = next(one for one in page.root.walk() if one.attributes.get("id") == "overview")
    first = overview.all("table")[1].all("tr")[1]
    assert [cell.text for cell in first.children][1:4] == ["4", "0", "1"]


@pytest.mark.parametrize("steps", [(0.1, 0.2, 0.2, 0.5), tuple(k / 1000 for k in range(1000))], ids=["few", "many"])
def test_drawn_accuracy_promises_no_more_than_is_certified(steps: tuple[float, ...]) -> None:
    drawings = pytest.importorskip("jacobound.reports.page.drawings")
    found = Accuracy((), (-1.0, *steps), (INF, *(2 * step + 0.01 for step in steps)))
    figure, _ = drawings.accuracy_figure([("", found)])
    for line, share, below in zip(
        figure.axes[0].get_lines(), (found.certified, found.unattacked), (True, False), strict=True
    ):
        places, heights = line.get_xdata(), line.get_ydata()
        for radius in np.linspace(0, places[-1], 301):
            k = int(np.searchsorted(places, radius, side="left" if below else "right"))
            drawn = heights[k] if below else heights[k - 1]
            assert drawn <= share(radius) if below else drawn >= share(radius)
            assert drawn == share(radius) or len(steps) > 100


def test_failures_are_listed(results: dict[str, jb.Result]) -> None:
    missing = (("net.onnx, radius 0.1", "out of memory"),)
    page = check_well_formed(page_of(results["global"], results["estimate"], failures=missing))
    listed = tables(page)["Failures"].text
    assert "out of memory" in listed and results["estimate"].status.value in listed and "answer 2" in listed
    assert "1 not certified" in page.root.text and "1 failures" in page.root.text
    lost = jb.Candidate(torch.tensor(INF), jb.Status.FAILED, 0.1, note="no solution found")
    failed = replace(results["global"], details=dict(results["global"].details) | {"Lost": lost})
    assert "no solution found" in check_well_formed(page_of(failed)).root.text


def test_who_checked(results: dict[str, jb.Result]) -> None:
    answer = results["global"].answer()
    for passed, words in ((True, "proved it again"), (False, "did NOT prove it")):
        check = Check("a second program 1.0", passed, "value 3.5", "net.json, SHA-256 abc")
        text = check_well_formed(document(Page("p", (replace(answer, check=check),)))).root.text
        assert words in text and "net.json, SHA-256 abc" in text and "Not checked" not in text


def hostile_answers(results: dict[str, jb.Result]) -> tuple[Answer, ...]:
    names = Names((HOSTILE, "a", "b", "c"), (HOSTILE, "d"))
    answers = [results[kind].answer(names) for kind in ("jacobian", "radius", "features")]
    parts = (("network", HOSTILE),)
    curves = Curves(HOSTILE, (Curve(parts, ((1.0, 1.0, 2.0), (2.0, 1.0, 3.0))), Curve((), ((1.0, 1.0, 2.0),))))
    table = Table(HOSTILE, (Column(HOSTILE), Column("n", "number")), ((HOSTILE, 1.5), ("", -INF)), HOSTILE)
    text = {name: HOSTILE for name in ("kind", "headline", "status", "meaning", "claim", "network", "method", "source")}
    more = {"assumptions": (HOSTILE,), "asked": ((HOSTILE, HOSTILE),), "failures": ((HOSTILE, HOSTILE),)}
    made = replace(answers[0], **text, **more, sections=(*answers[0].sections, curves, table))
    return (*answers, made, replace(made, check=Check(HOSTILE, True, HOSTILE, HOSTILE), certified=False))


@pytest.mark.slow
def test_hostile_names_are_text(results: dict[str, jb.Result]) -> None:
    text = document(Page(HOSTILE, hostile_answers(results), failures=((HOSTILE, HOSTILE),)))
    page = check_well_formed(text)  # one script, no attribute of events
    assert not page.root.all("b") and "\x1b" not in text and "\u202e" not in text
    assert page.root.all("title")[0].text.startswith('"><script>alert(1)</script>')
    assert any(one.text.startswith('"><script>') for one in page.root.all("text"))
    assert "速度" in text


@pytest.mark.slow
def test_a_page_stays_small() -> None:
    """Thousands of answers with tables and figures: what is left out is told, the overview has all."""
    rows = tuple((f"point {k}", k / 7) for k in range(2100))
    table = Table("Numbers", (Column("point"), Column("value", "upper")), rows)
    answer = Answer("Lipschitz constant", "1 <= L <= 2", "certified", "certified: holds", True, sections=(table,))
    text = document(Page("many", (answer,) * 2500))
    assert len(text.encode()) < LARGEST
    page = check_well_formed(text)
    assert "more answers are told in the overview alone" in page.root.text
    assert len(tables(page)["All answers"].all("tr")) == 2501
    alone = check_well_formed(document(Page("one", (answer,))))
    assert "the first 2000 of 2100 rows" in alone.root.text
    with pytest.raises(jb.InvalidResultError, match="at least one"):
        document(Page("none"))


def test_options_are_refused_by_name(results: dict[str, jb.Result], tmp_path: Path) -> None:
    result, path = results["global"], tmp_path / "page.html"
    for wrong in ({"features": "abc"}, {"outputs": [1, 2]}, {"image": (0, 3)}, {"image": 28}):
        with pytest.raises(jb.InvalidOptionError, match=next(iter(wrong))):
            result.report(path, **wrong)
    for nothing in ([], [3]):
        with pytest.raises(jb.InvalidResultError):
            jb.report(nothing, path)
    with pytest.raises(jb.InvalidOptionError, match="leave features"):
        result.report(path, outputs=["left", "right"])
    assert not path.exists()
    assert (
        jb.report([result, results["features"]], path, title="Two").read_text(encoding="utf-8").count("<article") == 2
    )


Written = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def command(results: dict[str, jb.Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Written:
    """Runs ``jacobound report`` on files of a temporary folder."""
    (tmp_path / "good.json").write_text(results["constant"].to_json())
    (tmp_path / "features.json").write_text(results["features"].to_json())
    (tmp_path / "open.json").write_text(json.dumps([results["global"].to_dict(), results["estimate"].to_dict()]))
    both = {"output": results["outputs"].to_dict(), "jacobian": results["image"].to_dict()}
    (tmp_path / "both.json").write_text(json.dumps(both))
    (tmp_path / "changed.json").write_text(results["global"].to_json().replace('"lower": 0.0', '"lower": 0.5'))
    (tmp_path / "other.json").write_text('{"output": [1, 2]}')
    (tmp_path / "names.txt").write_text("speed\nangle\n mass \nwind\n")

    def run(line: str) -> tuple[int, str, str]:
        words = [str(tmp_path / word) if word.endswith((".json", ".html", ".txt")) else word for word in line.split()]
        code = cli.main(["report", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.slow
def test_the_command_writes_a_page(command: Written, tmp_path: Path) -> None:
    code, said, _ = command("features.json -o page.html --features names.txt --title Release")
    assert code == 0 and "1 results, 1 certified" in said
    page = check_well_formed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert page.root.all("h1")[0].text == "Release" and "features.json" in page.root.text and "mass" in page.root.text
    code, said, _ = command("good.json open.json -o page.html")
    assert code == 1 and "3 results, 2 certified" in said and "estimate" in said
    assert command("both.json -o page.html")[0] == 0
    assert "d pixel (3, 3)" not in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("-o page.html", "at least one file"),
        ("good.json -o page.txt", ".html"),
        ("changed.json -o page.html", "contradicts"),
        ("good.json other.json -o page.html", "other.json"),
        ("good.json -o page.html --image 28", "28x28"),
        ("good.json -o page.html --features a,b", "leave features"),
        ("both.json -o page.html --features a,b", "16 inputs"),
        ("missing.json -o page.html", "missing.json"),
    ],
)
def test_the_command_refuses(line: str, complaint: str, command: Written, tmp_path: Path) -> None:
    code, shown, said = command(line)
    assert code == 2 and shown == "" and complaint in said and "Traceback" not in said
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
def test_certificates_are_checked_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A certificate counts for the result of its own question alone, and not where it proves less."""
    graph, point = network(), np.full(4, 0.1)
    results = {radius: jb.lipschitz(graph, jb.Ball(point, radius), jb.RecurJac(), budget=5) for radius in (0.1, 0.2)}
    results[0.1].save_certificate(tmp_path / "c.json")
    for radius, result in results.items():
        (tmp_path / f"{radius}.json").write_text(result.to_json())
    better = replace(results[0.1], upper=results[0.1].upper * 0.99)
    (tmp_path / "better.json").write_text(better.to_json())

    def run(*files: str) -> tuple[int, list[str], str]:
        paths = [str(tmp_path / file) for file in files]
        more = ["--certificate", str(tmp_path / "c.json"), "-o", str(tmp_path / "page.html")]
        code = cli.main(["report", *paths, *more])
        page = check_well_formed((tmp_path / "page.html").read_text(encoding="utf-8")) if code < 2 else None
        articles = [] if page is None else [one.text for one in page.root.all("article")]
        return code, articles, capsys.readouterr().err

    code, (small, large, wrong), _ = run("0.1.json", "0.2.json", "better.json")
    assert (
        code == 1 and "proved it again" in small and "not compared with a file" in small and "c.json, SHA-256" in small
    )
    assert "Not checked by a second program" in large
    assert "did NOT prove it: weaker numbers for upper" in wrong
    assert run("0.1.json", "0.2.json")[0] == 0
    radius = jb.robust_radius(graph, torch.from_numpy(point), budget=2, attack=jb.PGD(1, 2, 1))
    (tmp_path / "radius.json").write_text(radius.to_json())
    turned = replace(radius, label=1 - radius.label, targets=1 - radius.targets)
    (tmp_path / "turned.json").write_text(turned.to_json())
    radius.save_certificate(tmp_path / "c.json")
    code, (same, other), _ = run("radius.json", "turned.json")
    assert "Checked by jacobound_check" in same and "Not checked" in other
    assert (code == 0) == ("proved it again: radius as told here" in same)
    results[0.1].save_certificate(tmp_path / "c.json")
    code, _, said = run("0.2.json")
    assert code == 2 and "another question" in said
    (tmp_path / "c.json").write_text((tmp_path / "c.json").read_text().replace("0x1.", "0x2.", 1))
    code, _, said = run("0.1.json")
    assert code == 2 and "c.json" in said
