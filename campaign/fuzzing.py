"""Damaged files against a reading process under a watchdog: typed errors only, no crash, no hang, no memory bomb.

`python -m campaign.fuzzing 123 file` writes the damaged file with number 123, to look at it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from campaign import REPOSITORY
from campaign.runner import Part, Tally

PATIENCE = 5.0  # seconds of processor time for one file, and for every million entries of a network's largest node
WATCH = 60.0  # seconds until a process that says nothing is stopped; other work may slow it down
RENEWED = 3000  # files read by one process


class Reader:
    """The reading process, started again when it is gone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._read = 0

    def ask(self, number: int) -> dict[str, Any]:
        """What came of the file with a number; the outcome is "crashed" or "hung" when the process says nothing."""
        if self._process is None or self._process.poll() is not None or self._read >= RENEWED:
            self.close()
            self._process, self._read = self._start(), 0
        process = self._process
        assert process.stdin is not None
        self._read += 1
        process.stdin.write(f"{number}\n".encode())
        process.stdin.flush()
        line = self._line(process)
        if line:
            return json.loads(line)
        self.close()
        outcome = "hung" if line is None else "crashed"
        return {"kind": "?", "outcome": outcome, "said": f"exit code {process.returncode}", "seconds": WATCH}

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "campaign.fuzz_worker"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        if self._line(process) != b"ready\n":
            process.kill()
            raise RuntimeError("the reading process does not start; run python -m campaign.fuzz_worker to see why")
        return process

    def _line(self, process: subprocess.Popen[bytes]) -> bytes | None:
        """One line, an empty one when the process has ended, None when it is silent for too long."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], WATCH)
        return process.stdout.readline() if ready else None

    def close(self) -> None:
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)  # one that has crashed is about to end, and then has its own exit code
            self._process.kill()
            self._process.communicate()
            self._process = None


@cache
def reader() -> Reader:
    """The one reading process of this run."""
    return Reader()


def read_files(numbers: list[int], process: Reader) -> Tally:
    """The outcomes of damaged files, by kind of file."""
    tally = Tally()
    for number in numbers:
        found = process.ask(number)
        slow = found["seconds"] > PATIENCE * (1 + found.get("entries", 0) / 1e6)
        wrong = found["outcome"] not in ("valid", "refused") or bool(found["said"]) or slow
        line = f"file {number}: {found['outcome']} after {found['seconds']} s {found['said']}"
        tally.add(f"{found['kind']} {found['outcome']}", 1, [line] if wrong else [])
    return tally


def batch(generator: Generator) -> Tally:
    """A hundred files."""
    numbers = torch.randint(0, 2**48, (100,), generator=generator, dtype=torch.int64).tolist()
    return read_files(numbers, reader())


PART = Part("files", "files", batch)


def main() -> None:
    from campaign.fuzz_worker import mutant

    kind, data = mutant(int(sys.argv[1]))
    Path(sys.argv[2]).write_bytes(data)
    print(kind)


if __name__ == "__main__":
    main()
