"""`Pool`: local processes with limits that hold: one that runs too long, takes too much memory or dies is a row.

Workers are started afresh (not forked), import the library once, and answer one task after another. The driver looks
after them: it ends the process of a task that is over its limits and starts another one.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from jacobound.errors import InvalidOptionError
from jacobound.sweeps.engines import Engine, lost
from jacobound.sweeps.tasks import CRASHED, LATE, MEMORY, Outcome, Task

LOOKS = 0.1  # seconds between two looks at the memory of workers
BEGINS = 300.0  # seconds within which a worker must be ready
ROOM = 1.5  # of the address space to the memory that a task may take: libraries reserve more than they use
WORK = "jacobound.sweeps.tasks:attempt"


@dataclass(eq=False)
class _Worker:
    """One process, what it held when it was ready, and what it is at since when."""

    process: Any
    pipe: Connection
    since: float
    ready: bool = False
    idle: int = 0
    task: Task | None = None

    def end(self) -> None:
        """End it, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.pipe.close()

    @property
    def held(self) -> int:
        """Bytes of memory that it holds; 0 where the system does not tell."""
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Pool(Engine):
    """Local processes.

    Args:
        workers: how many.
        end_after: seconds after which a task is ended; None for no limit.
        end_above: GiB of memory above which it is ended, beside what an idle worker holds; None for no limit.
        threads: of each worker.
        work: module and function that a task's data is given to, for tests.
    """

    workers: int = 1
    end_after: float | None = None
    end_above: float | None = None
    threads: int = 1
    work: str = WORK
    running: list[_Worker] = field(default_factory=list, init=False, repr=False)

    def outcomes(self, tasks: Iterator[Task]) -> Iterator[Outcome]:
        """How the tasks end.

        Raises:
            InvalidOptionError: when no worker can be started.
        """
        waiting = next(tasks, None)
        try:
            while waiting is not None or any(one.task for one in self.running):
                while waiting is not None and len(self.running) < self.workers:
                    self.running.append(self._started())
                for one in self.running:
                    if waiting is not None and one.ready and one.task is None:
                        one.task, one.since = waiting, time.monotonic()
                        with contextlib.suppress(OSError):  # it has died, which is noticed below
                            one.pipe.send(waiting.plain)
                        waiting = next(tasks, None)
                yield from self._ended()
        finally:
            for one in self.running:
                one.end()
            self.running = []

    def _started(self) -> _Worker:
        """A new process."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        above = None if self.end_above is None else int(ROOM * self.end_above * (1 << 30))
        process = context.Process(target=_serve, args=(theirs, self.work, self.threads, above), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, time.monotonic())

    def _ended(self) -> Iterator[Outcome]:
        """What has ended since the last look, at the latest after a short while; workers over a limit are replaced."""
        speaking = wait([one.pipe for one in self.running], LOOKS)
        for one in list(self.running):
            if one.pipe in speaking:
                yield from self._heard(one)
            elif not one.process.is_alive():
                yield from self._dropped(one, CRASHED, f"its process ended with code {one.process.exitcode}")
            elif one.task is None:
                if not one.ready and time.monotonic() - one.since > BEGINS:
                    raise InvalidOptionError(
                        f"a worker was not ready after {BEGINS:.0f} s; the machine may be too busy"
                    )
            elif self.end_after is not None and time.monotonic() - one.since > self.end_after:
                yield from self._dropped(one, LATE, f"ended after {self.end_after:g} s")
            elif self.end_above is not None and one.held > one.idle + self.end_above * (1 << 30):
                yield from self._dropped(one, MEMORY, f"ended above {self.end_above:g} GiB")

    def _heard(self, one: _Worker) -> Iterator[Outcome]:
        try:
            said = one.pipe.recv()
        except (EOFError, OSError):
            one.process.join(1.0)
            yield from self._dropped(one, CRASHED, f"its process ended with code {one.process.exitcode}")
            return
        if one.task is None:
            one.ready, one.idle = True, one.held
            return
        one.task = None
        if said["state"] == MEMORY:  # what is left of it may be in pieces
            one.end()
            self.running.remove(one)
        yield said

    def _dropped(self, one: _Worker, state: str, why: str) -> Iterator[Outcome]:
        """End a worker; what it was at is a row.

        Raises:
            InvalidOptionError: when it ended before it was ready.
        """
        one.end()
        self.running.remove(one)
        if one.task is None and not one.ready:
            raise InvalidOptionError(
                f"a worker could not start: {why}. In a script put the call under `if __name__ == '__main__':`"
            )
        if one.task is not None:
            yield lost(one.task, why, state, time.monotonic() - one.since)


def _serve(pipe: Connection, work: str, threads: int, above: int | None) -> None:
    """The life of a worker: it says that it is ready, then answers until nobody asks."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    module, _, name = work.partition(":")
    do = getattr(importlib.import_module(module), name)
    importlib.import_module("torch").set_num_threads(threads)
    if above is not None:
        _limit_memory(above)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        pipe.send("ready")
        while True:
            asked = pipe.recv()
            try:
                said = do(asked)
            except MemoryError:
                said = lost(Task.of(asked), "the memory was not enough", MEMORY)
            pipe.send(said)


def _limit_memory(more: int) -> None:
    """No more address space than there is now and some bytes: an allocation beyond fails in this process alone."""
    try:
        resource = importlib.import_module("resource")
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError, ValueError):
        return  # the driver looks at what is held
    most = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
