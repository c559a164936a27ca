"""Mutation testing: every deliberate mistake in a private copy of the sources must turn a fast test red.

One process imports the heavy packages once and forks for every mistake. The tests that are run are those of `TESTS`,
in that order, until the first fails. Survivors stay until a test kills them or ``survivors.toml`` says why they may.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from campaign import REPOSITORY
from campaign.runner import read, write
from campaign.source_mutations import Mutation, mutations

PATIENCE = 300  # seconds of processor time for the tests of one mistake; one that hangs is noticed by its hanging

_PRIMITIVES = "tests/soundness/test_primitives.py"
_ARITHMETIC = ("tests/test_rounding.py", "tests/test_intervals.py", "tests/test_linalg.py", _PRIMITIVES)
_ABSORPTION = "tests/soundness/test_absorption.py"
_ENDS = ("tests/soundness/test_exact.py", "tests/soundness/test_networks.py")
_GRAPHS = "tests/soundness/test_random_graphs.py"
_JACOBIANS = ("tests/test_core.py", "tests/test_directions.py", "tests/test_constants.py", *_ENDS,
              "tests/test_solve.py", "tests/test_tightness.py", _GRAPHS)  # fmt: skip
_LINES = ("tests/test_activations.py", _PRIMITIVES, *_ENDS, "tests/test_tightness.py")
_OPERATORS = ("tests/test_operators.py", _ABSORPTION, _PRIMITIVES, "tests/test_core.py", *_ENDS)

TESTS: Mapping[str, tuple[str, ...]] = {
    "rounding.py": (*_ARITHMETIC, "tests/test_operators.py", _ABSORPTION, "tests/test_core.py", *_ENDS),
    "intervals.py": (*_ARITHMETIC[1:], "tests/test_activations.py", "tests/test_core.py", *_ENDS),
    "linalg.py": ("tests/test_linalg.py", _PRIMITIVES, "tests/test_constants.py", *_ENDS),
    "operators.py": _OPERATORS,
    "operator_kinds.py": _OPERATORS,
    "convolution.py": _OPERATORS,
    "linear_bounds.py": (_ABSORPTION, *_ENDS, "tests/test_solve.py", "tests/test_tightness.py", _GRAPHS),
    "regions.py": ("tests/test_regions.py", _PRIMITIVES, "tests/test_vnnlib.py", *_ENDS),
    "execution.py": ("tests/test_executed.py",),
    "methods/executed.py": ("tests/test_executed.py",),
    "methods/noise.py": ("tests/test_executed.py",),
    "results.py": ("tests/test_solve.py", *_ENDS),
    "methods/relaxed.py": (*_ENDS, "tests/test_solve.py", "tests/test_tightness.py", _GRAPHS),
    "methods/base.py": _JACOBIANS,
    "methods/core.py": _JACOBIANS,
    "methods/constants.py": ("tests/test_constants.py", *_JACOBIANS),
    "methods/defects.py": _JACOBIANS,
    "methods/fastlip.py": _JACOBIANS,
    "methods/product_relaxation.py": ("tests/test_core.py", _PRIMITIVES, *_JACOBIANS),
    "methods/recurjac.py": _JACOBIANS,
    "methods/recursion.py": _JACOBIANS,
    "methods/reversal.py": ("tests/test_directions.py", *_JACOBIANS),
    "methods/tangents.py": _JACOBIANS,
    "activations/formulas.py": _LINES,
    "activations/lines.py": _LINES,
    "activations/numbers.py": _LINES,
    "activations/pieces.py": _LINES,
    "activations/piecewise.py": _LINES,
    "activations/sigmoidal.py": _LINES,
    "activations/smooth.py": _LINES,
}


def source_of(file: str, root: Path = REPOSITORY) -> Path:
    return root / "src" / "jacobound" / file


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextlib.contextmanager
def private_copy() -> Iterator[Path]:
    """Sources and tests in a folder of their own, where a mistake harms nobody."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        root = Path(name)
        for folder in ("src", "tests", "campaign"):
            ignored = shutil.ignore_patterns("__pycache__", "results", "*.egg-info")
            shutil.copytree(REPOSITORY / folder, root / folder, ignore=ignored)
        shutil.copy(REPOSITORY / "pyproject.toml", root)
        yield root


def run_tests(root: Path, tests: tuple[str, ...], log: Path) -> int:
    """Run pytest in a forked process with the copy's packages; its exit code, or -1 when it hangs."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = _tests_here(root, tests, log)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # whatever happens, the child must not clean up what belongs to its parent
    started = monotonic()
    while monotonic() - started < 12 * PATIENCE:  # other work may slow it down
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return -1 if code in (-signal.SIGXCPU, -signal.SIGKILL) else code
        sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _tests_here(root: Path, tests: tuple[str, ...], log: Path) -> int:
    """In the forked process: nothing of jacobound has been imported yet."""
    os.setsid()
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE))
    os.chdir(root)
    sys.path[:] = [str(root / "src"), str(root / "tests"), str(root), *_foreign(sys.path)]
    for name in [name for name in sys.modules if name.partition(".")[0] == "campaign"]:
        del sys.modules[name]  # the copy's own, not the one that runs this
    import pytest

    import jacobound

    if not Path(str(jacobound.__file__)).is_relative_to(root):
        return 70
    arguments = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--no-header",
        "--tb=line",
        f"--rootdir={root}",
    ]
    code = int(pytest.main([*arguments, *(test for test in tests if (root / test).is_file())]))
    sys.stdout.flush()
    return code


def _foreign(paths: list[str]) -> list[str]:
    """The search path without the repository itself."""
    ours = (str(REPOSITORY / "src"), str(REPOSITORY / "tests"), str(REPOSITORY), "")
    return [path for path in paths if path not in ours]


def judge(root: Path, file: str, mistake: Mutation, text: str) -> dict[str, Any]:
    """Make one mistake, run the tests, put the source back."""
    place, log, started = source_of(file, root), root / "log", monotonic()
    place.write_text(mistake.applied(text), encoding="utf-8")
    try:
        code = run_tests(root, TESTS[file], log)
    finally:
        place.write_text(text, encoding="utf-8")
    told = log.read_text(errors="replace")
    if code in (4, 5, 70, 99):
        raise RuntimeError(f"the tests did not run for '{mistake.name}': {told[-2000:]}")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", told, flags=re.MULTILINE)
    test = failed[1] if failed else ("does not end" if code == -1 else f"exit code {code}" if code else "")
    return {
        "killed": code != 0,
        "test": test,
        "line": mistake.line,
        "before": mistake.before,
        "after": mistake.after,
        "seconds": round(monotonic() - started, 1),
    }


def preload() -> None:
    """Import once what every forked process needs, but nothing of ours."""
    sys.dont_write_bytecode = True
    import flint  # noqa: F401
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch
    import torch.export

    torch.set_num_threads(1)


def run(wanted: list[str], results: Path, most: int | None = None) -> dict[str, Any]:
    """Judge the mistakes of some files (all when none is named); what is known of an unchanged file is kept.

    Args:
        most: at most this many mistakes of each file, spread evenly over it.
    """
    preload()
    with private_copy() as root:
        for file in wanted or TESTS:
            text = source_of(file, root).read_text(encoding="utf-8")
            if run_tests(root, TESTS[file], root / "log"):
                told = (root / "log").read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"the tests of {file} fail without any mistake: {told[-2000:]}")
            _judge_file(root, file, text, results, most)
    return read(results)


def _judge_file(root: Path, file: str, text: str, results: Path, most: int | None) -> None:
    known = read(results).get(file, {})
    if known.get("source") != _digest(text):
        known = {"source": _digest(text), "mistakes": {}}
    planned = mutations(text)
    if most is not None and len(planned) > most:
        planned = planned[:: -(-len(planned) // most)]
    for done, mistake in enumerate(planned):
        before = known["mistakes"].get(mistake.name)
        if before is None or not before["killed"]:
            known["mistakes"][mistake.name] = judge(root, file, mistake, text)
            write(results, {**read(results), file: known})
        if done % 20 == 19 or done == len(planned) - 1:
            alive = sum(not one["killed"] for one in known["mistakes"].values())
            print(f"{file}: {done + 1} of {len(planned)} mistakes, {alive} alive", file=sys.stderr, flush=True)
