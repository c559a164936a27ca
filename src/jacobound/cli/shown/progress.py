"""A progress bar on stderr for work that takes long, drawn only when a person is looking."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Tell = Callable[[float, float, str], None]


@contextlib.contextmanager
def progress(what: str) -> Iterator[Tell | None]:
    """A callback for `Budget.progress`; None when stderr is not a terminal. The bar is gone afterwards."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: float, total: float, step: str) -> None:
            if total > 1:
                bar.update(task, description=f"{what}: {step}", completed=done, total=total)

        yield tell
