"""``jacobound vnncomp``: a competition's list of instances, with its time-outs, into its file of results."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.given.options import RunOptions, check_target
from jacobound.cli.shown.summaries import say_answer, say_files
from jacobound.cli.shown.text import say
from jacobound.errors import JacoboundError
from jacobound.inputs.properties import Property
from jacobound.verifying import verify
from jacobound.verifying.standard import (
    Instance,
    ResultRow,
    counterexample_text,
    located,
    read_instances,
    read_results,
    result_word,
)

DECIDED = ("sat", "unsat")


def vnncomp(
    instances: Path,
    /,
    *,
    results: Annotated[Path, Parameter(group="Output")] = Path("results.csv"),
    counterexamples: Annotated[Path | None, Parameter(group="Output")] = None,
    category: Annotated[str | None, Parameter(group="Output")] = None,
    most_seconds: Annotated[float | None, Parameter(group="Run")] = None,
    cpu: Annotated[bool, Parameter(group="Run")] = False,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - frozen values, here and below
    run: RunOptions = RunOptions(),  # noqa: B008
) -> int:
    """Decide every instance of a VNN-COMP list within its time-out.

    One line per instance: category, network, property, seconds to prepare, result (unsat, sat, timeout, unknown,
    error), seconds. What the file of results holds already is not done again, so that a run that was stopped goes on.

    Exit code: 0 when every instance was decided, 1 when one was not, 2 for an error.

    Args:
        instances: A .csv file with lines network.onnx,property.vnnlib,seconds; paths stand beside it, .gz or not.
        results: File of results, appended to.
        counterexamples: Folder for violations, one .counterexample.gz file each.
        category: First column of the results. [default: name of the list's folder]
        most_seconds: No instance gets more, whatever its time-out is.
        cpu: Time-outs are seconds of the processor.
    """
    check_target(results, (".csv", ".txt"), "--results")
    if run.seconds is not None:
        raise JacoboundError("every instance has its own time-out; --most-seconds shortens them, leave --seconds out")
    if most_seconds is not None and not most_seconds > 0:
        raise JacoboundError("--most-seconds must be above 0")
    listed, name = read_instances(instances), category or instances.resolve().parent.name
    rows, whole = read_results(results)
    if counterexamples is not None:
        counterexamples.mkdir(parents=True, exist_ok=True)
    known = {row.key: row for row in rows}
    with results.open("ab") as stream:
        stream.truncate(whole)
        for count, instance in enumerate(listed, 1):
            key = (name, instance.network, instance.claim)
            if key not in known:
                limit = min(instance.seconds, most_seconds or instance.seconds)
                row = _row(name, instance, instances.parent, limit, cpu, network, run, counterexamples)
                known[key] = row
                stream.write(row.text().encode())
                stream.flush()
                os.fsync(stream.fileno())
                say(f"{count:>5}/{len(listed)}  {row.result:<8} {row.seconds:8.2f} s  {row.network} {row.claim}")
    counts = Counter(known[name, one.network, one.claim].result for one in listed)
    say_files(results)
    say_answer(", ".join(f"{number} {word}" for word, number in sorted(counts.items())))
    return 0 if all(word in DECIDED for word in counts) else 1


def _row(
    category: str,
    instance: Instance,
    folder: Path,
    limit: float,
    cpu: bool,
    network: NetworkOptions,
    run: RunOptions,
    counterexamples: Path | None,
) -> ResultRow:
    """The row of one instance; what goes wrong is a row, too."""
    began, prepared = monotonic(), 0.0
    try:
        net = located(folder, instance.network)
        graph = run.placed(network.read(net))
        claim = Property.from_vnnlib(located(folder, instance.claim), graph.in_shape)
        prepared = monotonic() - began
        with run.budget(instance.claim, limit) as budget:
            own = replace(budget, seconds=None, cpu_seconds=limit) if cpu else budget
            found = verify(graph, claim, budget=own, model=net)
        word = result_word(found)
        if word == "sat" and counterexamples is not None:
            names = (Path(one).name.removesuffix(".gz") for one in (instance.network, instance.claim))
            target = counterexamples / f"{'_'.join(one.rpartition('.')[0] for one in names)}.counterexample.gz"
            target.write_bytes(gzip.compress(counterexample_text(found).encode(), mtime=0))
        seconds = found.seconds
    except (JacoboundError, ArithmeticError, MemoryError, OSError, RuntimeError, ValueError) as error:
        say(f"{instance.network} {instance.claim}: {error}", error=True)
        word, seconds = "error", monotonic() - began - prepared
    return ResultRow(category, instance.network, instance.claim, prepared, word, seconds)
