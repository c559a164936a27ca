"""The benchmarks' own machinery: planning, counting, tables, and the writer of README.md; nothing is timed here."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import constants, measure, peers, plan, readme, sdp, tables
from benchmarks.plan import DEMO, NETWORKS, Task
from benchmarks.worker import measured

MODULES = (
    *("__main__", "constants", "layout", "measure", "peers", "plan", "problems"),
    *("questions", "readme", "sdp", "tables", "worker"),
)


@pytest.mark.parametrize("name", MODULES)
def test_modules_import(name: str) -> None:
    assert importlib.import_module(f"benchmarks.{name}").__doc__


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
    machine = {"cpu": "some processor", "cores": 2, "simd": "none", "load": 0.0, "python": "3", "torch": "2"}
    return {
        "date": "2000-01-01",
        "machine": machine,
        "repetitions": 1,
        "with_data": False,
        "runs": runs,
        "peers": peers.peer_results(None),
    }


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


def test_the_readme_gets_the_tables_between_its_comments(results: dict[str, Any], tmp_path: Path) -> None:
    page, latest = tmp_path / "README.md", tmp_path / "latest.json"
    latest.write_text(json.dumps(results), encoding="utf-8")
    page.write_text(f"before\n{readme.BEGIN}\nof last year\n{readme.END}\nafter\n", encoding="utf-8")
    readme.update(page, latest)
    once = page.read_text(encoding="utf-8")
    assert once.startswith("before\n") and once.endswith(f"{readme.END}\nafter\n")
    assert "of last year" not in once and tables.render(results).strip() in once
    readme.update(page, latest)
    assert page.read_text(encoding="utf-8") == once


@pytest.mark.parametrize("text", ["", readme.BEGIN, f"{readme.END} {readme.BEGIN}", 2 * (readme.BEGIN + readme.END)])
def test_a_page_without_its_place_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="once and in this order"):
        readme.with_tables(text, "tables")


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
    assert set(cell) == set(peers.TOOLS)
    bounds = [entry["bound"] or 0.0 for entry in cell.values()]
    assert min(bounds) == cell["attained"]["bound"]
