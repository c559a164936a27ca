"""Sweeps: plans, stores, workers that are ended, drivers that are killed, and the same numbers everywhere."""

from __future__ import annotations

import csv
import json
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import jacobound as jb
from jacobound import cli
from jacobound.sweeps.engines import OnExecutor
from jacobound.sweeps.plan import Plan
from jacobound.sweeps.pool import Pool
from jacobound.sweeps.store import Store
from jacobound.sweeps.tasks import Task, answer, attempt
from sweep_cases import PLAN, folder_with

COSTS = {"seconds", "cpu_seconds", "megabytes"}


def values(sweep: jb.Sweep) -> list[dict[str, Any]]:
    """The rows without what differs from run to run."""
    return [{name: value for name, value in row.items() if name not in COSTS} for row in sweep.table()]


def in_threads(plan: Path, store: Path, **options: Any) -> jb.Sweep:
    with ThreadPoolExecutor(1) as executor:
        return jb.run_sweep(plan, store, executor=executor, **options)


# --- plans -------------------------------------------------------------------------------------------------------


def test_a_plan_is_the_product_of_its_axes(tmp_path: Path) -> None:
    tasks = list(Plan.read(folder_with(tmp_path)).tasks())
    assert len(tasks) == 2 * 2 * 2 * 2 * 2 * 2 * 2 and len({task.identity for task in tasks}) == len(tasks)
    assert {task.radii for task in tasks} == {("0.1",), ("8/255",)} and {task.label for task in tasks} == {0, 1}
    together = list(Plan.read(folder_with(tmp_path, PLAN.replace("together = false", ""))).tasks())
    assert len(together) == len(tasks) // 2 and together[0].radii == ("0.1", "8/255")


def test_a_task_is_known_by_what_it_asks(tmp_path: Path) -> None:
    """Not by where files lie or what they are called; by every number that decides the answer."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    first, second = (list(Plan.read(folder_with(tmp_path / name)).tasks()) for name in ("one", "two"))
    assert [task.identity for task in first] == [task.identity for task in second]
    changes = (
        ("0.1,", "0.1000001,"), ("clip = [-1, 1]", "clip = [-1, 2]"), ("index = ", "scale = '1/2'\nindex = "),
        ('["recurjac", "autolip"]', '["fastlip", {name = "recurjac", direction = "forward"}]'),
        ("together", "limits = {cpu_seconds = 3}\ntogether"), ('"label"]', '"margins"]'),
    )  # fmt: skip
    known = {task.identity for task in first}
    for old, new in changes:
        assert old in PLAN
        changed = {task.identity for task in Plan.read(folder_with(tmp_path / "two", PLAN.replace(old, new))).tasks()}
        assert changed - known, new
    assert Task.of(first[0].plain) == first[0] and Task.of(first[0].plain).identity == first[0].identity


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("norms", "norm", "did you mean 'norms'"),
        ('"lipschitz"', '"lipschtz"', "did you mean 'lipschitz'"),
        ("ball =", "balls =", "did you mean 'ball'"),
        ("key =", "keys =", "points.keys"),
        ('["recurjac", "autolip"]', '["crown"]', "does not answer"),
        ('["recurjac", "autolip"]', '[{name = "split", mots = 3}]', "mots"),
        ('["recurjac", "autolip"]', "[]", "empty"),
        ('ball = ["inf", 2]', "ball = [3]", "ball is a list"),
        ("[2, 2]]", "[2, 3]]", "norms are pairs"),
        ('"label"]', '"7"]', "no output 7"),
        ('"label"]', '"x"]', "not an output"),
        ("[0.1,", "[-0.1,", "radius"),
        ('radii = [0.1, "8/255"]', "", "radii are missing"),
        ("together = false", "together = 1", "true or false"),
        ("together = false", "seeds = [0.5]", "whole numbers"),
        ("together = false", "limits = {secnds = 3}", "did you mean 'seconds'"),
        ("together = false", "limits = {seconds = -3}", "above 0"),
        ("clip = [-1, 1]", "clip = [1]", "LOW, HIGH"),
        ('"net.onnx",', '"absent.onnx",', "can not be read"),
        ('labels = "y"', 'labels = "x"', "as many numbers"),
        ("[points]", "[points", "no TOML"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(old: str, new: str, said: str, tmp_path: Path) -> None:
    assert old in PLAN
    plan = folder_with(tmp_path, PLAN.replace(old, new))
    with pytest.raises(jb.JacoboundError, match=said):
        list(Plan.read(plan).tasks())


def test_the_whole_space_and_other_questions(tmp_path: Path) -> None:
    plan = folder_with(tmp_path, 'models = "net.onnx"\nmethods = ["autolip", "best"]\nlimits = {cpu_seconds = 2}\n')
    found = in_threads(plan, tmp_path / "a.sqlite")
    direct = jb.lipschitz(jb.from_onnx(tmp_path / "net.onnx"), jb.WholeSpace(), jb.AutoLip(), search=None)
    assert found.table()[0]["upper"] == float(direct.upper)
    points = '[points]\nfiles = ["points.npz"]\nkey = "x"\nindex = "0:3"\n'
    for ask, more, count in (
        ("robust_radius", "limits = {cpu_seconds = 1}\n", 6), ("bound_output", "radii = '0.1:0.3:2'\n", 18),
        ("bound_jacobian", "radii = 0.1\n", 27), ("monotone_features", "radii = 0.1\n", 27),
    ):  # fmt: skip
        plan = folder_with(tmp_path, f"ask = '{ask}'\nmodels = 'net.onnx'\n{more}{points}")
        found = in_threads(plan, tmp_path / f"{ask}.sqlite")
        assert found.states == {"answered": 3} and len(found.table()) == count, ask


def test_radii_in_one_call_are_those_alone(tmp_path: Path) -> None:
    text = PLAN.replace('index = "0:2"', 'index = "1"').replace("[0.1,", "[0.03, 0.1,")
    alone = in_threads(folder_with(tmp_path, text), tmp_path / "alone.sqlite").table()
    plan = folder_with(tmp_path, text.replace("together = false", ""))
    together = in_threads(plan, tmp_path / "together.sqlite").table()
    asked = ("model", "point", "ball", "p", "q", "rows", "method", "radius")
    wanted = {tuple(row[name] for name in asked): row["upper"] for row in alone}
    assert len(wanted) == len(alone) == len(together) and {key[-1] for key in wanted} == {0.03, 0.1, 8 / 255}
    for row in together:
        assert row["upper"] == pytest.approx(wanted[tuple(row[name] for name in asked)], rel=1e-9)


# --- stores ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_answers_are_those_of_the_functions_and_come_back_bit_for_bit(tmp_path: Path) -> None:
    plan = folder_with(tmp_path)
    found = in_threads(plan, tmp_path / "a.sqlite")
    assert found.states == {"answered": len(found.entries)}
    for (task, _), result in zip(found.entries[::9], list(found.results())[::9], strict=True):
        again = answer(task)
        assert isinstance(result, jb.LipschitzBound) and isinstance(again, jb.LipschitzBound)
        assert torch.equal(result.upper, again.upper) and torch.equal(result.lower, again.lower)
    row = found.table()[0]
    graph, points = jb.from_onnx(tmp_path / "net.onnx"), torch.linspace(-0.5, 0.5, 9).double().reshape(3, 3)
    ball = jb.Ball(torch.as_tensor(points[0]), "0.1", "inf", clip=(-1, 1))
    direct = jb.lipschitz(graph, ball, jb.RecurJac(), norm="inf")
    assert row["upper"] == pytest.approx(float(direct.upper), rel=1e-12) and row["certified"]
    assert (row["point"], row["model"], row["radius"]) == ("points.npz[0]", "net.onnx", 0.1)
    assert {row["radius"] for row in found.table()} == {0.1, 8 / 255}
    found.write_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(one["upper"]) for one in rows] == [one["upper"] for one in found.table()]


def test_what_is_finished_is_not_asked_again(tmp_path: Path) -> None:
    plan, store = folder_with(tmp_path), tmp_path / "a.sqlite"
    told: list[tuple[float, float]] = []

    def stop(done: float, total: float, what: str) -> None:
        told.append((done, total))
        if len(told) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_threads(plan, store, progress=stop)
    half = jb.load_sweep(store)
    assert half.states == {"answered": 7, "open": len(half.entries) - 7} and repr(half).startswith(
        "Sweep: 128 tasks, 7"
    )
    first = [outcome for _, outcome in half.entries if outcome is not None]
    found = in_threads(plan, store, progress=lambda *step: told.append(step[:2]))
    assert told[7] == (8, 128) and told[-1] == (128, 128) and len(told) == 128
    kept = {outcome["identity"]: outcome for _, outcome in found.entries if outcome is not None}
    assert all(kept[one["identity"]] == one for one in first)


def test_there_is_one_driver_and_readers_may_come(tmp_path: Path) -> None:
    plan, store = folder_with(tmp_path), tmp_path / "a.sqlite"
    with Store(store, writes=True) as kept:
        tasks = kept.plan(Plan.read(plan).tasks())
        with pytest.raises(jb.InvalidResultError, match="another sweep"), Store(store, writes=True):
            pass
        kept.keep(attempt(tasks[0].plain))
        assert jb.load_sweep(store).states == {"answered": 1, "open": 127}
    with Store(store, writes=True) as kept:
        assert kept.finished() == {tasks[0].identity}


def test_files_that_are_no_stores_are_refused(tmp_path: Path) -> None:
    with pytest.raises(jb.InvalidResultError, match="no store"):
        jb.load_sweep(tmp_path / "absent.sqlite")
    (tmp_path / "text").write_text("nothing")
    with pytest.raises(jb.InvalidResultError, match="no store"):
        jb.load_sweep(tmp_path / "text")
    base = sqlite3.connect(tmp_path / "other.sqlite")
    base.execute("CREATE TABLE about (name TEXT, value TEXT)")
    base.execute("INSERT INTO about VALUES ('format', '99')")
    base.commit()
    base.close()
    with pytest.raises(jb.InvalidResultError, match="format 99"):
        jb.load_sweep(tmp_path / "other.sqlite")


def test_a_model_that_changed_is_a_row(tmp_path: Path) -> None:
    plan = folder_with(tmp_path)
    tasks = list(Plan.read(plan).tasks())
    (tmp_path / "net.onnx").write_bytes((tmp_path / "net.onnx").read_bytes() + b" ")
    from jacobound.sweeps.tasks import network

    network.cache_clear()
    outcome = attempt(tasks[0].plain)
    assert outcome["state"] == "failed" and "not the file that was planned" in outcome["error"]


# --- workers -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tasks_that_end_badly_are_rows_and_the_sweep_goes_on(tmp_path: Path) -> None:
    text = PLAN.replace("together = false", "seeds = [1, 2, 3, 4, 5, 6]").replace('index = "0:2"', 'index = "0"')
    for old, new in (('["inf", 2]', '"inf"'), ('"all", ', ""), ('["recurjac", "autolip"]', '"autolip"')):
        text = text.replace(old, new)
    text = text.replace(', {file = "net.onnx", name = "again", until = "hidden"}', "").replace(", [2, 2]]", "]")
    plan = Plan.read(folder_with(tmp_path, text))
    pool = Pool(2, end_after=6.0, end_above=0.5, work="sweep_cases:misbehaving")
    with Store(tmp_path / "a.sqlite", writes=True) as kept:
        tasks = kept.plan(plan.tasks())
        assert [task.seed for task in tasks] == [1, 2, 3, 4, 5, 6]
        for outcome in pool.outcomes(iter(tasks)):
            kept.keep(outcome)
    found = jb.load_sweep(tmp_path / "a.sqlite")
    states = [outcome["state"] for _, outcome in found.entries if outcome is not None]
    assert states == ["late", "memory", "memory", "crashed", "failed", "answered"]
    errors = {row["seed"]: row["error"] for row in found.table()}
    assert "6 s" in errors[1] and "7" in errors[4] and "no output 9" in errors[5] and errors[6] is None
    with Store(tmp_path / "a.sqlite", writes=True) as kept:
        assert len(kept.finished()) == 6 and len(kept.finished(again=True)) == 1


@pytest.mark.slow
def test_the_numbers_are_the_same_wherever_tasks_run(tmp_path: Path) -> None:
    text = PLAN.replace('index = "0:2"', 'index = "1"').replace('"net.onnx", {', "{")
    plan = folder_with(tmp_path, text)
    found = values(in_threads(plan, tmp_path / "threads.sqlite"))
    assert len(found) == 32 and all(row["certified"] for row in found)
    assert values(jb.run_sweep(plan, tmp_path / "pool.sqlite", workers=2)) == found
    with ProcessPoolExecutor(1) as executor:
        assert values(jb.run_sweep(plan, tmp_path / "processes.sqlite", executor=executor)) == found
    for wrong in ({"workers": 0}, {"executor": 3}, {"executor": ThreadPoolExecutor(1), "ray": "auto"}):
        with pytest.raises(jb.InvalidOptionError):
            jb.run_sweep(plan, tmp_path / "x.sqlite", **wrong)  # type: ignore[arg-type]


@pytest.mark.slow
def test_ray_gives_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(Path(jb.__file__).parents[1]))  # for its workers
    text = PLAN.replace('index = "0:2"', 'index = "1"').replace('"net.onnx", {', "{")
    plan = folder_with(tmp_path, text)
    found = values(in_threads(plan, tmp_path / "threads.sqlite"))
    assert values(jb.run_sweep(plan, tmp_path / "ray.sqlite", ray="local")) == found


def test_a_broken_executor_is_said(tmp_path: Path) -> None:
    class Broken(Executor):
        def submit(self, *_: object, **__: object) -> Any:  # type: ignore[override]
            from concurrent.futures import BrokenExecutor

            raise BrokenExecutor("gone")

    tasks = iter(list(Plan.read(folder_with(tmp_path)).tasks()))
    with pytest.raises(jb.InvalidOptionError, match="executor broke"):
        list(OnExecutor(Broken()).outcomes(tasks))


@pytest.mark.slow
def test_a_driver_that_is_killed_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    plan, whole, killed = folder_with(tmp_path), tmp_path / "whole.sqlite", tmp_path / "killed.sqlite"
    found = in_threads(plan, whole)
    call = [sys.executable, "-m", "jacobound", "sweep", str(plan), "--store", str(killed)]
    paths = os.pathsep.join([str(Path(jb.__file__).parents[1]), *sys.path])
    moments, before = random.Random(0), 0
    for _ in range(3):
        run = subprocess.Popen(call, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.DEVNULL)
        wanted = before + moments.randint(3, 20)
        while run.poll() is None and before < wanted:
            time.sleep(0.02)
            before = _answered(killed)
        time.sleep(moments.random() * 0.05)
        run.send_signal(signal.SIGKILL)
        run.wait()
    kept = {one["identity"]: one for _, one in jb.load_sweep(killed).entries if one is not None}
    assert 0 < len(kept) < 128
    assert values(in_threads(plan, killed)) == values(found)
    after = {one["identity"]: one for _, one in jb.load_sweep(killed).entries if one is not None}
    assert all(after[name] == one for name, one in kept.items())


def _answered(store: Path) -> int:
    try:
        return jb.load_sweep(store).states.get("answered", 0)
    except jb.InvalidResultError:
        return 0


# --- tables, figures, command line -------------------------------------------------------------------------------


@pytest.mark.slow
def test_frames_files_and_figures(tmp_path: Path) -> None:
    text = PLAN.replace('["recurjac", "autolip"]', '["recurjac"]').replace('["inf", 2]', '["inf"]')
    found = in_threads(folder_with(tmp_path, text), tmp_path / "a.sqlite")
    pytest.importorskip("matplotlib")
    ax = found.plot_constants()
    assert len(ax.get_lines()) == 2 * 2 * 2 * 2 and "proved" in ax.get_ylabel()
    with pytest.raises(jb.InvalidResultError, match="robust radii"):
        found.plot_accuracy()
    points = 'limits = {cpu_seconds = 1}\n[points]\nfiles = ["points.npz"]\nkey = "x"\nlabels = "y"\nindex = "0:3"\n'
    plan = folder_with(tmp_path, f"ask = 'robust_radius'\nmodels = 'net.onnx'\n{points}")
    radii = in_threads(plan, tmp_path / "b.sqlite")
    held = {row["point"]: math.inf for row in radii.table()}
    for row in radii.table():
        held[row["point"]] = min(held[row["point"]], row["radius"])
    certified, attacked = radii.plot_accuracy().get_lines()
    at, share = certified.get_data()
    for r in (0.0, 0.05, 0.2, 0.5):
        told = [y for x, y in zip(at, share, strict=True) if x <= r][-1]
        assert told == pytest.approx(sum(one > r for one in held.values()) / 3)
    assert min(attacked.get_data()[1]) >= 0
    if _has("pandas"):
        assert list(found.to_dataframe()["upper"]) == [row["upper"] for row in found.table()]
    if _has("pyarrow"):
        found.write_parquet(tmp_path / "a.parquet")
        import pyarrow.parquet as parquet

        assert parquet.read_table(tmp_path / "a.parquet").to_pylist() == found.table()


@pytest.mark.slow
def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = PLAN.replace('index = "0:2"', 'index = "1"').replace('["recurjac", "autolip"]', '["recurjac"]')
    plan, store = folder_with(tmp_path, text.replace('["inf", 2]', '["inf"]')), tmp_path / "a.sqlite"
    files = {"--csv": tmp_path / "a.csv", "--constants": tmp_path / "a.svg"}
    call = ["sweep", str(plan), "--store", str(store)]
    assert cli.main([*call, *(str(x) for pair in files.items() for x in pair)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "answer:   16 tasks, 16 answered" and all(file.exists() for file in files.values())
    assert cli.main([*call, "--json"]) == 0 and len(json.loads(capsys.readouterr().out)) == 16
    assert cli.main(["report", str(store), "-o", str(tmp_path / "a.html")]) == 0
    assert "16 results, 16 certified" in capsys.readouterr().out
    for wrong, said in ((["--ray", "auto", "--workers", "2"], "cluster"), (["--csv", "a.txt"], ".csv")):
        assert cli.main([*call, *wrong]) == 2 and said in capsys.readouterr().err
    bad = folder_with(tmp_path, text.replace('["inf", 2]', '["inf"]').replace("seeds", "seed").replace("0.1", "1e400"))
    assert cli.main(["sweep", str(bad), "--store", str(tmp_path / "bad.sqlite")]) in (1, 2)


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None
