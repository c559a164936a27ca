"""`run_sweep`: ask what a plan says and the store does not know yet, and keep every outcome as it comes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing

from jacobound.checks import instance, path, text, whole, yes_or_no
from jacobound.errors import InvalidOptionError
from jacobound.sweeps.engines import Engine, OnExecutor, OnRay
from jacobound.sweeps.loaded import Sweep, load_sweep
from jacobound.sweeps.plan import Plan
from jacobound.sweeps.pool import Pool
from jacobound.sweeps.store import Store
from jacobound.sweeps.tasks import Task

Tell = Callable[[float, float, str], None]


def run_sweep(
    plan: str | os.PathLike[str],
    store: str | os.PathLike[str],
    *,
    workers: int = 1,
    executor: Executor | None = None,
    ray: str | None = None,
    again: bool = False,
    progress: Tell | None = None,
) -> Sweep:
    """Answer all questions of a plan, and keep the answers in a store.

    Killed at any moment, the same call goes on: nothing that was finished is lost or done twice. Tasks are known by
    what they ask (files by their content), so a store may serve several plans. Errors, and tasks that were ended over
    a limit, are rows. The certified numbers do not depend on where a task runs, unless a limit of time ends it.

    Args:
        plan: a TOML file (`docs/sweeps.md`).
        store: an SQLite file, made when there is none.
        workers: local processes of one thread each, which the limits `end_after` and `end_above` of the plan end.
        executor: an executor of `concurrent.futures` in place of them, such as Dask's or submitit's.
        ray: address of a Ray cluster in place of them, "auto" or "local".
        again: whether tasks that ended without an answer are asked once more.
        progress: called with (tasks finished, tasks in all, what is left); it may raise KeyboardInterrupt.

    Returns:
        What the store holds.

    Raises:
        InvalidOptionError: when the plan is none, or options do not go together.
        InvalidResultError: when the store is none, or another sweep writes it.
        MissingExtraError: without Ray.
        KeyboardInterrupt: when it is interrupted; what was finished is kept.
    """
    read, again = Plan.read(path(plan, "the plan")), yes_or_no(again, "again")
    engine = _engine(read, whole(workers, "workers", 1), executor, ray)
    with Store(store, writes=True) as kept:
        tasks = kept.plan(read.tasks())
        finished = kept.finished(again=again)
        left = [task for task in tasks if task.identity not in finished]
        _run(engine, left, len(tasks), kept, progress)
    return load_sweep(store)


def _run(engine: Engine, left: list[Task], count: int, kept: Store, progress: Tell | None) -> None:
    """Answer what is left, outcome by outcome."""
    began, before = time.monotonic(), count - len(left)
    waiting: Iterator[Task] = iter(left)
    with closing(engine.outcomes(waiting)) as outcomes:  # type: ignore[type-var]
        for done, outcome in enumerate(outcomes, 1):
            kept.keep(outcome)
            if progress is not None:
                rest = (time.monotonic() - began) / done * (len(left) - done)
                progress(before + done, count, f"{_length(rest)} left")


def _length(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _engine(plan: Plan, workers: int, executor: Executor | None, ray: str | None) -> Engine:
    if executor is not None and ray is not None:
        raise InvalidOptionError("a sweep runs on an executor or on Ray; leave one of them out")
    if executor is None and ray is None:
        return Pool(workers, plan.end_after, plan.end_above)
    if plan.end_after is not None or plan.end_above is not None:
        raise InvalidOptionError(
            "limits.end_after and limits.end_above are kept by local workers; an executor or Ray can not end a task: "
            "leave them out of the plan, and give limits.seconds to the calls"
        )
    if executor is None:
        return OnRay(text(ray, "ray"))
    return OnExecutor(
        instance(executor, Executor, "the executor", "give an executor of concurrent.futures"), max(8, workers)
    )
