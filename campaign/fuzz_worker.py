"""A process that reads damaged files, one for every number it is given, and says what came of each.

A line with a number comes in, one line of JSON goes out. The parent (`fuzzing`) notices crashes and hangs.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import process_time

import torch

from campaign.mutations import checksummed, damaged, reheaded, retold
from campaign.onnx_mutations import rearranged
from campaign.seeds import seeds
from jacobound import Box, JacoboundError, from_onnx
from jacobound.graph.nodes import size
from jacobound.inputs.points import read_point

MEMORY = 4 << 30  # bytes of address space
SHARES = {"onnx": 70, "vnnlib": 12, ".npy": 5, ".npz": 6, ".csv": 3, ".png": 4}


def mutant(number: int) -> tuple[str, bytes]:
    """Kind and content of the damaged file with a number."""
    random = Random(number)
    kinds = [kind for kind in SHARES if seeds()[kind]]
    (kind,) = random.choices(kinds, [SHARES[kind] for kind in kinds])
    pool = seeds()[kind]
    data = random.choice(pool)
    if kind == "onnx":
        return kind, (rearranged if random.random() < 0.75 else damaged)(data, pool, random)
    if kind in ("vnnlib", ".csv"):
        return kind, (retold if random.random() < 0.75 else damaged)(data, pool, random)
    if kind in (".npy", ".npz") and random.random() < 0.5:
        return kind, reheaded(data, random)
    data = damaged(data, pool, random)
    return kind, checksummed(data) if kind == ".png" and data.startswith(b"\x89PNG") else data


def read_network(data: bytes, folder: Path) -> int:
    """A network that is accepted can also be evaluated; returns the entries of its largest node."""
    graph = from_onnx(data)
    point = torch.zeros(1, *graph.in_shape, dtype=graph.dtype)
    if graph(point).shape != (1, *graph.out_shape):
        raise AssertionError("the graph gives another shape than it says")
    return max(map(size, graph.nodes))


def read_property(data: bytes, folder: Path) -> int:
    """The boxes of a property have ordered ends."""
    for box in Box.all_from_vnnlib(data):
        if not bool((torch.as_tensor(box.lower) <= torch.as_tensor(box.upper)).all()):
            raise AssertionError("a box with crossed ends")
    return 0


def read_numbers(suffix: str) -> Callable[[bytes, Path], int]:
    """Reading a point from a file with this suffix, as a whole and as one entry of several."""

    def read(data: bytes, folder: Path) -> int:
        file = folder / f"point{suffix}"
        file.write_bytes(data)
        refusal: JacoboundError | None = None
        for index, shape in ((None, (2, 2)), (0, (2,))):
            try:
                found = read_point(file, shape, index=index)
            except JacoboundError as error:
                refusal = refusal or error
                continue
            if not bool(torch.isfinite(found.values).all()):
                raise AssertionError("a point that is not finite")
            return 0
        if refusal is not None:
            raise refusal
        return 0

    return read


READERS: dict[str, Callable[[bytes, Path], int]] = {
    "onnx": read_network,
    "vnnlib": read_property,
    **{suffix: read_numbers(suffix) for suffix in (".npy", ".npz", ".csv", ".png")},
}


def outcome(number: int, folder: Path) -> dict[str, object]:
    """What came of one file: "valid", "refused" with a typed error, or "raised" with anything else."""
    kind, data = mutant(number)
    started, what, said, entries = process_time(), "valid", "", 0
    try:
        entries = READERS[kind](data, folder)
    except JacoboundError as error:
        what = "refused"
        said = "" if str(error).strip() else "an error without a message"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        what = "raised"
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{error!r:.300} at {Path(place.filename).name}:{place.lineno}"
    seconds = round(process_time() - started, 3)
    return {"kind": kind, "outcome": what, "said": said, "seconds": seconds, "entries": entries}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    replies, sys.stdout = sys.stdout, sys.stderr  # nothing else may write between the replies
    with tempfile.TemporaryDirectory() as folder:
        print("ready", file=replies, flush=True)
        for line in sys.stdin:
            print(json.dumps(outcome(int(line), Path(folder))), file=replies, flush=True)


if __name__ == "__main__":
    main()
