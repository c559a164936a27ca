"""Engines: where tasks are answered. Any executor of `concurrent.futures`, or a cluster of Ray; `pool` has processes.

An engine draws tasks as it has room for them, and yields outcomes in the order in which they end.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jacobound.errors import InvalidOptionError, MissingExtraError
from jacobound.sweeps.tasks import Outcome, Task, answer, attempt

IN_FLIGHT = 4  # tasks for each worker that wait or run at a time


class Engine(ABC):
    """Answers tasks."""

    @abstractmethod
    def outcomes(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """How the tasks end, one by one; closing the iterator ends what runs."""


@dataclass
class OnExecutor(Engine):
    """Any executor, such as those of `concurrent.futures`, Dask or submitit.

    It has no limits of its own: an executor can not end a task. It is not shut down. All its workers must see the
    files of the models.

    Args:
        executor: where tasks are submitted.
        workers: about how many tasks it runs at a time.
    """

    executor: Executor
    workers: int = 8

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """How the tasks end.

        Raises:
            InvalidOptionError: when the executor breaks; what was finished is kept.
        """
        running: set[Future[Outcome]] = set()
        try:
            while True:
                room = IN_FLIGHT * self.workers - len(running)
                running |= {self.executor.submit(attempt, task.plain) for task in islice(tasks, room)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        except BrokenExecutor as error:
            raise InvalidOptionError(
                f"the executor broke ({error}); what was finished is kept, the same call with a new one goes on. "
                "Local workers (workers=2) survive tasks that end their process"
            ) from error
        finally:
            for one in running:
                one.cancel()


@dataclass
class OnRay(Engine):
    """Workers of a Ray cluster (extra `ray`); models are sent once to every node.

    Dead workers are asked again three times. Ray takes half a minute and a gigabyte to start on one machine.

    Args:
        address: "auto" for the cluster that runs, "local" to start one here, or its address.
        cpus, gpus: what a task needs.
        workers: most tasks in flight, in multiples of four.
    """

    address: str = "auto"
    cpus: float = 1.0
    gpus: float = 0.0
    workers: int = 64

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """How the tasks end.

        Raises:
            MissingExtraError: without Ray.
        """
        ray = _ray()
        begun = not ray.is_initialized()
        if begun:
            ray.init(
                address=None if self.address == "local" else self.address, log_to_driver=False, logging_level="error"
            )
        remote = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=3)(_on_ray)
        sent: dict[str, Any] = {}
        running: dict[Any, Task] = {}
        try:
            while True:
                for task in islice(tasks, IN_FLIGHT * self.workers - len(running)):
                    file = str(task.model["file"])
                    if file not in sent:
                        sent[file] = ray.put(Path(file).read_bytes())
                    running[remote.remote(task.plain, sent[file])] = task
                if not running:
                    return
                (first,), _ = ray.wait(list(running), num_returns=1)
                task = running.pop(first)
                try:
                    yield ray.get(first)
                except (ray.exceptions.RayError, RuntimeError) as error:
                    yield lost(task, f"{type(error).__name__}: {error}")
        finally:
            for one in running:
                ray.cancel(one, force=True)
            if begun:
                ray.shutdown()


def lost(task: Task, why: str, state: str = "crashed", seconds: float | None = None) -> Outcome:
    """The outcome of a task whose worker can not tell it."""
    empty = {"cpu_seconds": None, "megabytes": None, "rows": "[]", "result": None}
    return {"identity": task.identity, "state": state, "seconds": seconds, "error": why, **empty}


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error


def _on_ray(plain: dict[str, Any], data: bytes) -> Outcome:
    """Runs on a worker: the model's bytes become a file there, once."""
    import tempfile

    place = Path(tempfile.gettempdir()) / f"jacobound-{plain['model']['sha256']}.onnx"
    if not place.exists():
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as made:
            made.write(data)
        Path(made.name).replace(place)  # whole at once, whoever else does the same
    here = {**plain, "model": {**plain["model"], "file": str(place)}}

    def find(task: Task) -> Any:
        return answer(Task.of(here))

    return attempt(plain, find)
