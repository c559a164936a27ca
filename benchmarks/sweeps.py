"""`python -m benchmarks.sweeps`: what a sweep costs beside its tasks, and what a driver that is killed loses.

A thousand tasks on the packaged network: undisturbed, and with a driver that is killed at twenty random moments; then
forty tasks of about a second on one worker and on two.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jacobound as jb

DATA = Path(jb.__file__).parent / "data"
KILLS = 20
COSTS = {"seconds", "cpu_seconds", "megabytes"}
SMALL = f"""
models = ["{DATA / "mnist_4layer_relu_64.onnx"}"]
radii = [0.001, 0.002, 0.003, 0.004, 0.005]
norms = [["inf", "inf"], [2, 2]]
rows = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
methods = ["fastlip"]
together = false
[points]
files = ["{DATA / "mnist_images.npz"}"]
key = "x"
index = "0:10"
scale = "1/255"
shift = "-1/2"
"""
LONG = SMALL.replace('["fastlip"]', '["best"]').replace('[["inf", "inf"], [2, 2]]', '[["inf", "inf"]]')
LONG = LONG.replace('"3", "4", "5", "6", "7", "8", "9"]', '"3"]').replace(
    "together = false", "limits = {cpu_seconds = 1}"
)
LONG = LONG.replace("[0.001, 0.002, 0.003, 0.004, 0.005]", "0.05")


def values(store: Path) -> list[dict[str, Any]]:
    """The rows without what differs from run to run."""
    rows = jb.load_sweep(store).table()
    return [{name: value for name, value in row.items() if name not in COSTS} for row in rows]


def undisturbed(plan: Path, store: Path, workers: int) -> float:
    """Print how long a sweep takes and what it costs beside its tasks; returns the seconds."""
    jb.run_sweep(plan, store, workers=workers)  # warm files
    store.unlink()
    began = time.monotonic()
    found = jb.run_sweep(plan, store, workers=workers)
    took = time.monotonic() - began
    tasks = [outcome["seconds"] for _, outcome in found.entries if outcome is not None]
    beside = 1000 * (took - sum(tasks) / workers) / len(tasks)
    print(
        f"{len(tasks)} tasks on {workers}: {took:.1f} s, {sum(tasks):.1f} s in tasks, {beside:.1f} ms beside each task"
    )
    return took


def killed(plan: Path, store: Path) -> None:
    """Run the command and kill it, again and again."""
    call = [sys.executable, "-m", "jacobound", "sweep", str(plan), "--store", str(store)]
    moments = random.Random(0)
    for _ in range(KILLS):
        run = subprocess.Popen(call, env=os.environ.copy(), stdout=subprocess.DEVNULL)
        time.sleep(4.0 + 3.0 * moments.random())  # it takes some seconds to start
        run.send_signal(signal.SIGKILL)
        run.wait()
    print(f"killed {KILLS} times: {jb.load_sweep(store)!r}")


def main() -> None:
    """Print everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan, store = folder / "plan.toml", folder / "whole.sqlite"
        plan.write_text(SMALL, encoding="utf-8")
        undisturbed(plan, store, 1)
        killed(plan, folder / "killed.sqlite")
        jb.run_sweep(plan, folder / "killed.sqlite")
        print("the table is identical:", values(folder / "killed.sqlite") == values(store))
        plan.write_text(LONG, encoding="utf-8")
        one, two = (undisturbed(plan, folder / f"long{workers}.sqlite", workers) for workers in (1, 2))
        print(f"two workers: {one / two:.2f} times the throughput of one")


if __name__ == "__main__":
    main()
