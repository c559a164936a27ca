"""The machinery of the benchmarks: planning, counting, tables, the writer of docs/benchmarks.md; nothing is timed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import constants, layout, measure, page, peers, plan, sdp, tables
from benchmarks.plan import DEMO, NETWORKS, Task
from benchmarks.worker import measured

MODULES = (
    *("__main__", "constants", "layout", "measure", "peers", "plan", "problems"),
    *("page", "questions", "sdp", "tables", "worker"),
)


@pytest.mark.parametrize("name", MODULES)
def test_modules_import(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").__doc__


WHERE = {
    "cpu": "some processor",
    "cores": 2,
    "simd": "none",
    "python": "3",
    "torch": "2",
    "date": "2000-01-01",
    "others": 0.0,
}


def demo_task(kind: Any) -> Task:
    name = "depth 2" if kind == "growth" else DEMO
    return Task(kind, name, (0.001,), "class", repetitions=1, label=DEMO, seconds=1e6, megabytes=1e6)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """A run on the demo network, as it comes back from JSON."""
    pytest.importorskip("onnx")
    threads = torch.get_num_threads()
    runs = [json.loads(json.dumps(measured(demo_task(kind)))) for kind in tables.KINDS]
    torch.set_num_threads(threads)
    return {
        "repetitions": 1,
        "with_data": False,
        "runs": [{**run, "where": WHERE} for run in runs],
        "peers": peers.peer_results(None),
    }


@pytest.mark.slow
def test_tables_show_every_measurement(results: dict[str, Any]) -> None:
    text = tables.render(results)
    assert "only the demo network" in text
    assert text.count(f"| {DEMO} ") >= 3
    assert "1e+06 kept" in text
    target, network, *_ = results["runs"]
    assert f"{target['unstable']} of {target['activations']}" in text
    assert f"{network['constants']['linf']:.4g}" in text


def test_tables_put_other_tools_beside_ours(results: dict[str, Any]) -> None:
    name = "mnist-net_256x4"
    run = {
        "task": {**results["runs"][2]["task"], "name": name},
        "where": WHERE,
        "row": {"0.001": {"bound": 3.0, "cpu": 0.25}},
        "rows": {},
        "full": {},
    }
    theirs = {NETWORKS[name].point: {"0.001": {"auto_LiRPA": {"bound": 4.0, "cpu": 0.5, "megabytes": 1.0}}}}
    kinds = {
        "runs": [{**run, "task": {**run["task"], "kind": "peers"}}],
        "peers": {"row": theirs, "rows": {}, "full": {}},
    }
    text = tables.render({**results, **kinds})
    assert "| 3, 0.250 s | 4, 0.500 s |" in text


def test_semidefinite_certificates_stand_beside_other_tools(results: dict[str, Any]) -> None:
    name = "mnist-net_256x4"
    run = results["runs"][3]
    entry = {**run["radii"]["0.001"], "default": {"bound": 3.0, "cpu": 0.5}, "recurjac": {"bound": 6.0}}
    ours = [{**run, "task": {**run["task"], "name": name}, "radii": {"0.001": entry}}]
    theirs = {NETWORKS[name].point or "": {"0.001": {"auto_LiRPA": {"bound": 2.0, "cpu": 0.5}}}}
    text = "\n".join(sdp.rendered(ours, theirs))
    assert "0.500 of RecurJac (1 rows, 0 above), 1.500 of auto_LiRPA (1 rows, 1 above)" in text
    assert "other tool" in text and "| 0.500 |" in text


@pytest.mark.slow
def test_global_constants_stand_beside_other_tools_and_grow(results: dict[str, Any], tmp_path: Path) -> None:
    of_kind = {run["task"]["kind"]: run for run in results["runs"]}
    name = "mnist-net_256x4"
    run = {**of_kind["constants"], "task": {**of_kind["constants"]["task"], "name": name}}
    assert set(run["methods"]) == {"default", *constants.METHODS}
    least = min(entry["bound"] for entry in run["methods"].values())
    assert run["methods"]["default"]["bound"] <= least * 1.001
    run["methods"]["SeqLip"].update(bound=3.0, cpu=0.5, status="time_limit")
    theirs = {NETWORKS[name].point or "": {"ECLipsE-Fast": {"bound": 2.0, "cpu": 0.25}}}
    text = "\n".join(constants.rendered([run], [of_kind["growth"]], theirs))
    assert "3*, 0.5 s" in text and "2, 0.25 s" in text and "| depth 2 " in text
    pytest.importorskip("matplotlib")
    constants.draw([of_kind["growth"]], tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text(encoding="utf-8")


def test_a_page_gets_the_tables_between_its_comments(results: dict[str, Any], tmp_path: Path) -> None:
    written, latest = tmp_path / "benchmarks.md", tmp_path / "latest.json"
    latest.write_text(json.dumps(results), encoding="utf-8")
    written.write_text(f"before\n{page.BEGIN}\nof last year\n{page.END}\nafter\n", encoding="utf-8")
    page.update(written, latest)
    once = written.read_text(encoding="utf-8")
    assert once.startswith("before\n") and once.endswith(f"{page.END}\nafter\n")
    assert "of last year" not in once and tables.render(results).strip() in once
    page.update(written, latest)
    assert written.read_text(encoding="utf-8") == once


@pytest.mark.parametrize("text", ["", page.BEGIN, f"{page.END} {page.BEGIN}", 2 * (page.BEGIN + page.END)])
def test_a_page_without_its_place_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="once and in this order"):
        page.with_tables(text, "tables")


def test_the_page_shows_the_stored_results() -> None:
    written = (plan.REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert tables.render(stored_results()).strip() in written, "run `python -m benchmarks.page`"


def stored_results() -> dict[str, Any]:
    return json.loads(page.LATEST.read_text(encoding="utf-8"))


def test_no_stored_bound_lies_below_what_is_proved_or_attained() -> None:
    results = stored_results()
    others = peers.with_attained(results["peers"])["row"]
    brackets = []
    for run in results["runs"]:
        point = NETWORKS[run["task"]["name"]].point if run["task"]["name"] in NETWORKS else None
        if run["task"]["kind"] == "sdp":
            brackets += [
                (entry["default"]["bound"], entry.get("lower"), point, radius) for radius, entry in run["radii"].items()
            ]
        if run["task"]["kind"] == "peers":
            brackets += [(entry["bound"], entry.get("lower"), point, radius) for radius, entry in run["row"].items()]
    assert len(brackets) > 50
    for upper, lower, point, radius in brackets:
        attained = others.get(point, {}).get(radius, {}).get("attained", {"bound": 0.0})["bound"]
        assert upper >= (lower or 0.0), (point, radius)
        assert upper >= attained * 0.999, (point, radius)  # stored to a few digits


def test_global_bounds_lie_above_what_is_proved_or_attained() -> None:
    results = stored_results()
    runs = [run for run in results["runs"] if run["task"]["kind"] in ("constants", "growth")]
    assert runs
    for run in runs:
        name = run["task"]["name"]
        point = NETWORKS[name].point if name in NETWORKS else None
        attained = results["global"].get(point, {}).get("attained", {"bound": 0.0})["bound"]
        for method, entry in run["methods"].items():
            assert entry["bound"] >= max(run.get("lower", 0.0), attained), (name, method)


def test_values_attained_in_a_ball_are_attained_in_larger_ones() -> None:
    found = peers.with_attained({"row": {"mnist256x2": {"0.3": {"attained": {"bound": 1.0, "cpu": None}}}}})["row"]
    assert found["mnist256x2"]["0.1"]["attained"]["bound"] == found["mnist256x2"]["0.03"]["attained"]["bound"] == 174
    assert found["mnist256x2"]["0.3"]["attained"]["bound"] == 174


@pytest.mark.parametrize(
    ("others", "said"), [((0.01, 0.02), "nothing else ran"), ((0.0, 1.5), "0.0 to 1.5"), ((None, 0.0), "not recorded")]
)
def test_tables_say_whether_anything_else_ran(others: tuple[float | None, ...], said: str) -> None:
    assert said in layout.circumstances([{"where": {**WHERE, "others": value}} for value in others])


def test_matrix_products_are_counted() -> None:
    a, b = torch.ones(3, 5, dtype=torch.float64), torch.ones(5, 7, dtype=torch.float64)
    assert measure.counted_products(lambda: a @ b) == 2 * 3 * 5 * 7
    assert measure.counted_products(lambda: a @ b[:, 0]) == 2 * 3 * 5
    assert measure.counted_products(lambda: a + 1) == 0


def test_without_data_the_demo_network_is_planned() -> None:
    assert {task.name for task in plan.tasks(None)} == {DEMO}
    planned = plan.tasks(Path("somewhere"))
    assert {task.name for task in planned} <= {*NETWORKS, *plan.GROWTH}
    assert {task.threads for task in planned if task.kind == "target"} == {1, 2}


def test_other_tools_results_are_read(shared_data: Path) -> None:
    found = peers.peer_results(shared_data)
    cell = found["row"]["mnist256x4"]["0.003"]
    assert set(cell) == {*peers.TOOLS, "attained"}
    bounds = [entry["bound"] or 0.0 for entry in cell.values()]
    assert min(bounds) == cell["attained"]["bound"]
