"""`Store`: the tasks of sweeps and how they ended, in one SQLite file that the driver alone writes.

Every outcome is one transaction: a driver that is killed at any moment leaves a file with all that was finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jacobound.checks import path
from jacobound.errors import InvalidResultError
from jacobound.sweeps.tasks import ANSWERED, Outcome, Task

FORMAT = 1
WAITS = 10.0  # seconds for another process that reads
TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tasks (
    identity TEXT PRIMARY KEY, place INTEGER NOT NULL, task TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS outcomes (
    identity TEXT PRIMARY KEY REFERENCES tasks (identity), state TEXT NOT NULL, seconds REAL, cpu_seconds REAL,
    megabytes REAL, error TEXT NOT NULL, rows TEXT NOT NULL, result TEXT
);
"""
COLUMNS: tuple[str, ...] = ("identity", "state", "seconds", "cpu_seconds", "megabytes", "error", "rows", "result")


class Store:
    """One file; a context that closes it.

    Args:
        file: of the store, made when there is none.
        writes: whether this process is the driver; there is one at a time.

    Raises:
        InvalidResultError: when the file is none, is of another format, or another driver writes it.
    """

    def __init__(self, file: str | os.PathLike[str], *, writes: bool = False) -> None:
        self.file = path(file, "the store")
        if not writes and not self.file.is_file():
            raise InvalidResultError(f"there is no store {self.file}")
        self._lock = _locked(self.file) if writes else None
        try:
            self._base = sqlite3.connect(self.file, timeout=WAITS, isolation_level=None)
            if writes:
                self._base.execute("PRAGMA journal_mode=WAL")
                self._base.executescript(TABLES)
                self._base.execute("INSERT OR IGNORE INTO about VALUES ('format', ?)", (str(FORMAT),))
            found = dict(self._base.execute("SELECT name, value FROM about"))
        except sqlite3.DatabaseError as error:
            raise InvalidResultError(f"{self.file} is no store of a sweep: {error}") from None
        if found.get("format") != str(FORMAT):
            raise InvalidResultError(f"{self.file} has the format {found.get('format')}; this version reads {FORMAT}")

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        if self._lock is not None:
            self._lock.close()

    def plan(self, tasks: Iterable[Task]) -> list[Task]:
        """Keep tasks that are not known yet; returns each once, in order."""
        given = {task.identity: task for task in tasks}
        (known,) = self._base.execute("SELECT COUNT(*) FROM tasks").fetchone()
        rows = ((name, known + k, json.dumps(task.plain)) for k, (name, task) in enumerate(given.items()))
        with self._transaction():
            self._base.executemany("INSERT OR IGNORE INTO tasks VALUES (?, ?, ?)", rows)
        return list(given.values())

    def finished(self, *, again: bool = False) -> set[str]:
        """Tasks that are not asked any more.

        Args:
            again: whether those without an answer are asked once more.
        """
        only = f" WHERE state = '{ANSWERED}'" if again else ""
        return {name for (name,) in self._base.execute(f"SELECT identity FROM outcomes{only}")}

    def keep(self, outcome: Outcome) -> None:
        """An outcome, for good."""
        with self._transaction():
            marks = ", ".join("?" * len(COLUMNS))
            values = [outcome[name] for name in COLUMNS]
            self._base.execute(f"INSERT OR REPLACE INTO outcomes ({', '.join(COLUMNS)}) VALUES ({marks})", values)

    def entries(self) -> Iterator[tuple[Task, Mapping[str, Any] | None]]:
        """Every task in order with how it ended; None where it has not."""
        joined = ", ".join(f"outcomes.{name}" for name in COLUMNS)
        query = f"SELECT tasks.task, {joined} FROM tasks LEFT JOIN outcomes USING (identity) ORDER BY place"
        for task, *values in self._base.execute(query):
            outcome = None if values[0] is None else dict(zip(COLUMNS, values, strict=True))
            yield Task.of(json.loads(task)), outcome

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")


def is_store(file: Path) -> bool:
    """Whether a file looks like a store."""
    with file.open("rb") as stream:
        return stream.read(16) == b"SQLite format 3\0"


def _locked(file: Path) -> Any:
    """The mark of the one driver, given back by the system however the driver ends."""
    if not file.parent.is_dir():
        raise InvalidResultError(f"the store {file} can not be written there; make the folder '{file.parent}' first")
    mark = file.with_name(f"{file.name}.driver").open("a")
    try:
        import fcntl
    except ImportError:  # where there are no such marks, SQLite's own locks keep the file whole
        return mark
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        mark.close()
        raise InvalidResultError(f"another sweep is writing {file}; wait for it, or stop it") from None
    return mark
