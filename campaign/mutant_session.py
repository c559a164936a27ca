"""Tests against one mistake after the other: collected once, then run in a forked process for each mistake.

Which tests run and in which order follows from what they reach and from what they have noticed before: those that
notice mistakes of the same function come first, then quick ones and those that reach little else.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import mmap
import os
import resource
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from time import monotonic, process_time, sleep, time
from typing import Any

from campaign.line_reach import Recorder
from campaign.runner import read, write

MEMORY = 16 << 30  # bytes of address space of one process


class Tests:
    """The tests of one pytest session, each under a key that changes with its source."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items: dict[str, Any] = {}
        for item in items:
            source = inspect.getsource(_written(item.function))
            self.items[f"{item.nodeid}@{hashlib.sha256(source.encode()).hexdigest()[:8]}"] = item

    def run(self, keys: Sequence[str], before: Callable[[str], None], after: Callable[[str], None]) -> bool:
        """Run tests in this process until one fails; whether all passed."""
        for number, key in enumerate(keys):
            before(key)
            item = self.items[key]
            following = self.items[keys[number + 1]] if number + 1 < len(keys) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if item.session.testsfailed:
                return False
            after(key)
        return True


def _written(function: Any) -> Any:
    """The function as it stands in its file; hypothesis hides it."""
    return function.hypothesis.inner_test if hasattr(function, "hypothesis") else function


def forked(work: Callable[[], int], log: Path | None, seconds: float) -> int:
    """Exit code of `work` in a process of its own, negative when a signal ended it or its time was over.

    Args:
        log: where its output goes; None leaves it where it is.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setsid()
            if log is not None:
                with log.open("w") as stream:
                    os.dup2(stream.fileno(), 1)
                    os.dup2(stream.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            code = work()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)  # whatever happens, the child must not clean up what belongs to its parent
    started = monotonic()
    while monotonic() - started < seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def digests(folder: Path) -> dict[str, str]:
    """What the files below a folder hold, in short."""
    found = {path: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in sorted(folder.rglob("*.py"))}
    return {path.relative_to(folder).as_posix(): digest for path, digest in found.items()}


class Reach:
    """How long each test takes and which lines it reaches; measured once for each test, whatever the sources become.

    Of a source file that has changed since only that is known: whether a test reaches it at all.

    Args:
        folder: where it is remembered, one file for each file of tests.
        sources: the folder of the sources.
    """

    def __init__(self, folder: Path, sources: Path) -> None:
        self._folder, self._sources, self._now = folder, sources, digests(sources)
        self._version = hashlib.sha256(json.dumps(self._now).encode()).hexdigest()[:16]
        self._versions: dict[str, dict[str, str]] = {**read(folder / "versions.json"), self._version: self._now}
        self.tests: dict[str, dict[str, Any]] = {}
        self.at_import: dict[str, list[int]] = {}
        for file in sorted(folder.glob("test*.json")):
            self.tests.update(read(file))

    def measure(self, tests: Tests, log: Path, wait: float) -> None:
        """Run what is not known yet, one file of tests after the other; it must pass.

        Raises:
            RuntimeError: when a test fails without any mistake.
        """
        found = log.with_suffix(".json")
        write(self._folder / "versions.json", self._versions)
        for file, keys in groupby(tests.items, key=lambda key: key.partition("::")[0]):
            every = list(keys)
            missing = [key for key in every if key not in self.tests]
            if missing:
                code = forked(partial(self._measured, tests, missing, found), log, wait)
                if code:
                    raise RuntimeError(f"{file} fails without any mistake: {log.read_text(errors='replace')[-3000:]}")
                self.tests.update(json.loads(found.read_text(encoding="utf-8")))
                name = file.replace("/", "-").removesuffix(".py")
                write(self._folder / f"{name}.json", {key: self.tests[key] for key in every})

    def _measured(self, tests: Tests, keys: Sequence[str], file: Path) -> int:
        recorder, found = Recorder(self._sources), {}
        started = 0.0

        def before(key: str) -> None:
            nonlocal started
            started = process_time()
            recorder.start()

        def after(key: str) -> None:
            lines, seconds = recorder.stop(), round(process_time() - started, 3)
            found[key] = {"seconds": seconds, "lines": lines, "measured": time(), "version": self._version}

        passed = tests.run(keys, before, after)
        if not passed:
            print("failed:", keys[len(found)])
        file.write_text(json.dumps(found), encoding="utf-8")
        return int(not passed)

    def reaching(self, file: str, lines: Iterable[int], keys: Iterable[str]) -> list[str]:
        """Those of the tests that reach one of these lines of a source file, as far as that is known."""
        wanted, found = set(lines), []
        for key in keys:
            reached, known = (
                self.tests[key]["lines"].get(file, ()),
                self._versions[self.tests[key]["version"]].get(file),
            )
            same = known == self._now[file]
            if known is None or (not wanted.isdisjoint(reached) if same else reached):
                found.append(key)
        return found

    def imported(self, file: str, lines: Iterable[int]) -> bool:
        """Whether one of these lines was run before any test."""
        return not set(lines).isdisjoint(self.at_import.get(file, ()))


def name_of(key: str) -> str:
    """The test function, without its parameters."""
    return key.rpartition("@")[0].partition("[")[0]


def in_order(
    keys: Iterable[str],
    reach: Mapping[str, Any],
    near: Counter[str],
    far: Counter[str],
    file: str = "",
    judged: float = 0.0,
) -> list[str]:
    """The tests, those first that notice most for the time they take.

    Args:
        near, far: how many mistakes each test function has noticed in the same function, in the same file.
        file: the source file: tests that reach little else are about it.
        judged: when the mistake met tests last; some of those that came later may have been written for it.
    """
    variants: Counter[str] = Counter()
    worth: dict[str, float] = {}
    for key in sorted(keys, key=lambda key: reach[key]["seconds"]):
        name = name_of(key)
        lines = sum(map(len, reach[key]["lines"].values()))
        share = len(reach[key]["lines"].get(file, ())) / max(1, lines)
        expected = 30.0 * near[name] + 3.0 * far[name] + 100.0 / (50 + lines) + 10.0 * share
        if 0.0 < judged < reach[key].get("measured", 0.0):
            expected += 100.0 * share
        worth[key] = expected / (reach[key]["seconds"] + 0.02) / (1 + variants[name])
        variants[name] += 1
    return sorted(worth, key=lambda key: -worth[key])


def show(
    tests: Tests, keys: Sequence[str], reach: Mapping[str, Any], log: Path, change: Callable[[], bool]
) -> tuple[str, str] | None:
    """Run tests against a mistake in a forked process.

    Args:
        change: makes the mistake there; False when it can not be made in a running process.

    Returns:
        The key of the test that failed, and its name with how it ended; two empty texts when all passed; None when the
        mistake could not be made.
    """
    running = mmap.mmap(-1, 4096)
    expected = sum(reach[key]["seconds"] for key in keys)

    def before(key: str) -> None:
        running.seek(0)
        running.write(key.encode()[:4000].ljust(4096, b"\0"))
        limit = int(process_time() + 5 + 10 * reach[key]["seconds"])
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))

    def work() -> int:
        return 71 if not change() else int(not tests.run(keys, before, lambda key: None))

    code = forked(work, log, 120 + 30 * expected)
    if code in (0, 71):
        return ("", "") if code == 0 else None
    key = running[:].rstrip(b"\0").decode()
    if code == 99 or not key:
        raise RuntimeError(f"the tests did not run: {log.read_text(errors='replace')[-3000:]}")
    how = {1: "", -signal.SIGXCPU: " does not end", -signal.SIGKILL: " does not end"}
    return key, key.rpartition("@")[0] + how.get(code, f" ends with {code}")


def pytest_session(root: Path, files: Iterable[str], work: Callable[[Tests], None]) -> int:
    """Collect the tests of a copy of the repository in this process and hand them over; pytest's exit code."""
    os.chdir(root)
    sys.path[:] = [str(root / "src"), str(root / "tests"), str(root), *sys.path]
    import pytest

    class Plugin:
        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            if session.testsfailed:
                raise session.Interrupted("tests can not be collected")
            work(Tests(session.items))
            return True

    arguments = ["-q", "-s", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--tb=line",
                 "--hypothesis-profile=first-failure", "--tier=soundness", f"--rootdir={root}"]  # fmt: skip
    return int(
        pytest.main(
            [*arguments, *(file for file in files if (root / file.partition("::")[0]).is_file())], plugins=[Plugin()]
        )
    )
