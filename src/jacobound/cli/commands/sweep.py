"""``jacobound sweep``: many questions from one plan."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.given.options import FIGURES, check_target
from jacobound.cli.shown.progress import progress
from jacobound.cli.shown.summaries import say_answer, say_files
from jacobound.cli.shown.text import say, say_fact, say_json
from jacobound.errors import InvalidOptionError, MissingExtraError
from jacobound.sweeps import Sweep, load_sweep, run_sweep
from jacobound.sweeps.tasks import ANSWERED

INTERRUPTED = 130
MOST_ERRORS = 5


def sweep(
    plan: Path,
    /,
    *,
    store: Annotated[Path, Parameter(group="Run")],
    workers: Annotated[int | None, Parameter(group="Run")] = None,
    ray: Annotated[str | None, Parameter(group="Run")] = None,
    again: Annotated[bool, Parameter(group="Run")] = False,
    csv: Annotated[Path | None, Parameter(group="Output")] = None,
    parquet: Annotated[Path | None, Parameter(group="Output")] = None,
    constants: Annotated[Path | None, Parameter(group="Output")] = None,
    accuracy: Annotated[Path | None, Parameter(group="Output")] = None,
    json: Annotated[bool, Parameter(group="Output")] = False,
    debug: Annotated[bool, Parameter(group="Output")] = False,
) -> int:
    """Answer all questions of a plan, and keep the answers in one file.

    The same command goes on where it was stopped. Exit code: 0 when every task is answered, 1 when one is not, 2 for
    an error.

    Args:
        plan: A .toml file with models, points, radii, norms, rows and methods.
        store: An SQLite file with all answers; made when there is none.
        workers: Local processes, of one thread each. [default: 1]
        ray: Address of a Ray cluster in place of them: auto, local, or an address.
        again: Ask tasks that ended without an answer once more.
        csv: Write all rows into this .csv file.
        parquet: Write all rows into this .parquet file.
        constants: Draw constants over the radius into this .png, .pdf or .svg file.
        accuracy: Draw certified accuracy over the radius into this .png, .pdf or .svg file.
        json: Write all rows as JSON on stdout and nothing else.
        debug: Show where in the program an error came from.
    """
    if workers is not None and ray is not None:
        raise InvalidOptionError("--workers are local processes, --ray is a cluster; leave one of them out")
    _check(csv, parquet, constants, accuracy)
    stopped = False
    try:
        with progress("sweep") as tell:
            found = run_sweep(plan, store, workers=workers or 1, ray=ray, again=again, progress=tell)
    except KeyboardInterrupt:
        found, stopped = load_sweep(store), True
    _write(found, csv, parquet, constants, accuracy)
    if json:
        say_json([{name: _plain(value) for name, value in row.items()} for row in found.table()])
    else:
        _say(found)
        say_files(csv, parquet, constants, accuracy)
        again_too = "; stopped, the same command goes on" if stopped else ""
        say_answer(f"{found!r}{again_too}".removeprefix("Sweep: "))
    answered = found.states.get(ANSWERED, 0) == len(found.entries)
    return INTERRUPTED if stopped else 0 if answered else 1


def _check(csv: Path | None, parquet: Path | None, *figures: Path | None) -> None:
    """Refuse files that could not be written before the work is done, not after it."""
    for file, suffixes, option in ((csv, (".csv",), "--csv"), (parquet, (".parquet",), "--parquet")):
        if file is not None:
            check_target(file, suffixes, option)
    if parquet is not None and importlib.util.find_spec("pyarrow") is None:
        raise MissingExtraError("pyarrow", "sweep")
    for file, option in zip(figures, ("--constants", "--accuracy"), strict=True):
        if file is not None:
            check_target(file, FIGURES, option)
            if importlib.util.find_spec("matplotlib") is None:
                raise MissingExtraError("matplotlib", "report")


def _write(found: Sweep, csv: Path | None, parquet: Path | None, constants: Path | None, accuracy: Path | None) -> None:
    if csv is not None:
        found.write_csv(csv)
    if parquet is not None:
        found.write_parquet(parquet)
    if constants is not None:
        found.plot_constants().figure.savefig(constants, dpi=150)
    if accuracy is not None:
        found.plot_accuracy().figure.savefig(accuracy, dpi=150)


def _say(found: Sweep) -> None:
    """What went wrong, the first few of each kind."""
    bad = [(task, outcome) for task, outcome in found.entries if outcome is not None and outcome["state"] != ANSWERED]
    for task, outcome in bad[:MOST_ERRORS]:
        called = task.called
        say_fact(
            f"{outcome['state']}:", f"{called['model']}, {called['point']}, {called['method']}: {outcome['error']}"
        )
    if len(bad) > MOST_ERRORS:
        say(f"... and {len(bad) - MOST_ERRORS} more; --csv has all")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, float) and value - value != 0 else value
