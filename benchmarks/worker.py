"""One measurement in a process of its own: `python -m benchmarks.worker '{"kind": ...}'` prints a line of JSON.

A fresh process gives a clean peak of memory and a fixed number of threads.
"""

from __future__ import annotations

import json
import platform
import sys
from math import inf
from typing import Any

from benchmarks import constants, sdp
from benchmarks.plan import ENDLESS, Task


def measured(task: Task) -> dict[str, Any]:
    """What the tables need to know about a task."""
    import torch

    from benchmarks.measure import peak_megabytes

    after_torch = peak_megabytes()
    torch.set_num_threads(task.threads)
    measures = {
        "target": _target,
        "network": _network,
        "peers": _peers,
        "sdp": sdp.measured,
        "constants": constants.measured,
        "growth": constants.grown,
    }
    found = measures[task.kind](task)
    versions = {"torch": str(torch.__version__), "python": platform.python_version()}
    capability = torch.backends.cpu.get_cpu_capability()
    return {"task": task.as_dict(), **found, "megabytes_torch": after_torch, "versions": versions, "simd": capability}


def _target(task: Task) -> dict[str, Any]:
    """Time with and without rounding in turn, memory, counted arithmetic."""
    import jacobound as jb
    from benchmarks import measure
    from benchmarks.problems import problem
    from jacobound.arithmetic.rounding import unrounded

    one = problem(task.name)
    ball, rows = one.ball(task.radii[0]), None if task.rows == "all" else one.row()
    loaded = measure.peak_megabytes()
    first, ranges = measure.Samples(), measure.Samples()

    def sound() -> jb.JacobianBounds:
        return jb.bound_jacobian(one.graph, ball, rows=rows)

    def plain() -> jb.JacobianBounds:
        with unrounded():
            return jb.bound_jacobian(one.graph, ball, rows=rows)

    first.time(sound)
    alone = measure.peak_megabytes()
    samples = measure.interleaved({"sound": sound, "plain": plain}, task.repetitions)
    timed = jb.RecurJac(preactivation=measure.Timed(jb.CROWN(), ranges))
    for _ in range(2):
        jb.bound_jacobian(one.graph, ball, timed, rows=rows)
    operations, rate = measure.counted_products(sound), measure.attainable_rate()
    return {
        "first_call": first.summary(),
        "sound": samples["sound"].summary(),
        "plain": samples["plain"].summary(),
        "ratio": measure.ratio(samples["sound"].cpu, samples["plain"].cpu),
        "ranges": ranges.summary(),
        "megabytes_loaded": loaded,
        "megabytes_peak": alone,
        "operations": operations,
        "attainable": rate,
        "share_of_peak": operations / samples["sound"].summary()["cpu"] / rate,
        **_facts(sound()),
    }


def _network(task: Task) -> dict[str, Any]:
    """Time and memory of the whole Jacobian, and two constants; a call that takes very long is made once."""
    import jacobound as jb
    from benchmarks import measure
    from benchmarks.problems import problem

    one = problem(task.name)
    ball = one.ball(task.radii[0])

    def sound() -> jb.JacobianBounds:
        return jb.bound_jacobian(one.graph, ball)

    samples = measure.Samples()
    result = samples.time(sound)
    if max(samples.wall) < ENDLESS:
        samples = measure.interleaved({"sound": sound}, task.repetitions)["sound"]
    peak = measure.peak_megabytes()
    constants = {
        name: float(jb.lipschitz(one.graph, ball, jb.RecurJac(), norm=norm, search=None).upper)
        for name, norm in (("linf", (inf, inf)), ("l2", (2, 2)))
    }
    return {
        "sound": samples.summary(),
        "megabytes_peak": peak,
        "constants": constants,
        **_facts(result),
    }


def _peers(task: Task) -> dict[str, Any]:
    """The l1 norm of one row's gradient, those of all rows, and the whole Jacobian, at several radii."""
    import jacobound as jb
    from benchmarks import measure
    from benchmarks.problems import problem

    one = problem(task.name)
    matrix, recursion = one.row(), jb.RecurJac()
    found: dict[str, Any] = {"label": one.label, "row": {}, "rows": {}, "full": {}}
    for radius in task.radii:
        ball = one.ball(radius)

        def row(ball: jb.Ball = ball) -> float:
            result = jb.lipschitz(one.graph, ball, recursion, norm=(inf, inf), rows=matrix, search=None)
            return float(result.upper)

        def rows(ball: jb.Ball = ball) -> float:
            return float(jb.lipschitz(one.graph, ball, recursion, norm=(inf, inf), search=None).upper)

        def full(ball: jb.Ball = ball) -> float:
            return _largest_row_sum(jb.bound_jacobian(one.graph, ball))

        for name, call in (("row", row), ("rows", rows), ("full", full)):
            samples = measure.interleaved({name: call}, task.repetitions)[name]
            found[name][str(radius)] = {"bound": call(), **samples.summary()}
        bracket = jb.lipschitz(one.graph, ball, recursion, norm=(inf, inf), rows=matrix)
        found["row"][str(radius)]["lower"] = float(bracket.lower)
    return {**found, "megabytes_peak": measure.peak_megabytes()}


def _largest_row_sum(result: Any) -> float:
    return float(result.interval.magnitude().flatten(1).sum(1).max())


def _facts(result: Any) -> dict[str, Any]:
    """What a Jacobian result says beside the bounds."""
    return {
        "unstable": int(result.unstable),
        "activations": result.activations,
        "status": result.status.name.lower(),
        "largest_row_sum": _largest_row_sum(result),
        "network": result.provenance.network,
    }


def main() -> None:
    task = Task.of(json.loads(sys.argv[1]))
    print(json.dumps(measured(task)))


if __name__ == "__main__":
    main()
