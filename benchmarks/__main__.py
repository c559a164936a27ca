"""`python -m benchmarks`: measure everything, write ``benchmarks/results`` and docs/benchmarks.md (about an hour).

`python -m benchmarks a mnist_cnn_avg sdp` measures only what has these labels, networks or kinds; it takes the place of
what is stored. Every stored measurement says on which machine it was made, and what else ran there. A run that was
interrupted goes on where it stopped, as long as the sources are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.constants import draw, others
from benchmarks.page import update
from benchmarks.peers import peer_results
from benchmarks.plan import REPETITIONS, REPOSITORY, Task, data_folder, tasks
from benchmarks.tables import render

RESULTS = REPOSITORY / "benchmarks" / "results"
PARTIAL = RESULTS / "partial.json"
LATEST = RESULTS / "latest.json"


def cpu_model() -> str:
    """What the processor calls itself."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def fingerprint() -> str:
    """A digest of the sources that are measured and of those that measure."""
    found = hashlib.sha256()
    for folder in ("src/jacobound", "benchmarks"):
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


def run(task: Task) -> dict[str, Any]:
    """One measurement in a fresh process, and where it was made.

    Raises:
        RuntimeError: when the process fails; its complaint has been shown.
    """
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(task.as_dict())]
    began, busy, own = time.monotonic(), _busy_seconds(), _own_seconds()
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring {task.name} failed with exit code {done.returncode}")
    result = json.loads(done.stdout.splitlines()[-1])
    ended, wall = _busy_seconds(), time.monotonic() - began
    result["where"] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "simd": result.pop("simd"),
        **result.pop("versions"),
        "date": datetime.now(UTC).date().isoformat(),
        "others": None if busy is None or ended is None else max(0.0, ended - busy - _own_seconds() + own) / wall,
    }
    return result


def _busy_seconds() -> float | None:
    """Seconds that all processors together have worked since the machine started; None where nobody counts them."""
    counted = Path("/proc/stat")
    if not counted.is_file():
        return None
    user, nice, system = map(int, counted.read_text(encoding="utf-8").split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure_all(wanted: set[str]) -> dict[str, Any]:
    """The results of the wanted tasks (all when none are named), with what a reader needs to judge them."""
    data = data_folder()
    planned = [task for task in tasks(data) if not wanted or {task.label, task.name, task.kind} & wanted]
    if not planned:
        known = sorted({name for task in tasks(data) for name in (task.label, task.name, task.kind)} - {""})
        raise RuntimeError(f"nothing is called {' or '.join(sorted(wanted))}; there are: {', '.join(known)}")
    sources = fingerprint()
    known = {} if not PARTIAL.is_file() else json.loads(PARTIAL.read_text(encoding="utf-8"))
    known = known if known.get("sources") == sources else {"sources": sources}
    runs = []
    for done, task in enumerate(planned):
        radii = ", ".join(f"{radius:g}" for radius in task.radii)
        print(f"[{done + 1}/{len(planned)}] {task.kind}: {task.name}, radius {radii}, threads {task.threads}",
              file=sys.stderr, flush=True)  # fmt: skip
        name = json.dumps(task.as_dict())
        if name not in known:
            known[name] = run(task)
            RESULTS.mkdir(exist_ok=True)
            PARTIAL.write_text(json.dumps(known), encoding="utf-8")
        runs.append(known[name])
    return {
        "repetitions": REPETITIONS,
        "with_data": data is not None,
        "runs": runs,
        "peers": peer_results(data),
        "global": others(data),
    }


def updated(stored: dict[str, Any], new: dict[str, Any]) -> dict[str, Any] | None:
    """Stored results with newer runs in their places; None where they are of another plan, or data were missing."""
    if stored["repetitions"] != new["repetitions"] or stored["with_data"] != new["with_data"]:
        return None
    runs = {json.dumps(run["task"]): run for results in (stored, new) for run in results["runs"]}
    order = [json.dumps(task.as_dict()) for task in tasks(data_folder())]
    return {**new, "runs": [runs[name] for name in order if name in runs]}


def write_down(results: dict[str, Any]) -> None:
    """Results, the figure, and the page of tables."""
    RESULTS.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if grown := [run for run in results["runs"] if run["task"]["kind"] == "growth"]:
        draw(grown, REPOSITORY / "docs" / "growth.svg")
    update(REPOSITORY / "docs" / "benchmarks.md", LATEST)


def main() -> None:
    wanted = set(sys.argv[1:])
    try:
        results = measure_all(wanted)
    except RuntimeError as error:
        sys.exit(str(error))
    print(render(results))
    if wanted:
        stored = json.loads(LATEST.read_text(encoding="utf-8")) if LATEST.is_file() else None
        results = None if stored is None else updated(stored, results)
    else:
        PARTIAL.unlink(missing_ok=True)
    if results is not None:
        write_down(results)


if __name__ == "__main__":
    main()
