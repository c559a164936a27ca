"""`Task`: one question as plain data, small enough to send, with the hash of what it asks; and how it is answered.

Processes that answer tasks import this module and what it imports, and nothing else of `sweeps`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jacobound.budget import Budget
from jacobound.errors import InvalidModelError, InvalidOptionError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.importers import from_onnx
from jacobound.inputs.grammar import parse_clip, parse_rows, row_matrix
from jacobound.inputs.radii import Radii
from jacobound.inputs.regions import Ball, Region, WholeSpace
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import JacobianMethod, Method, OutputMethod
from jacobound.methods import every
from jacobound.questions import PGD, monotone_features, robust_radius
from jacobound.results.result import Result
from jacobound.solve import bound_jacobian, bound_output, lipschitz
from jacobound.version import VERSION

MODELS_KEPT = 4
NOT_ASKED = ("file", "name")  # parts of a task that say where something is or what it is called, not what is asked
BEST = "best"


@dataclass(frozen=True)
class Task:
    """One question.

    Args:
        ask: the function that answers it, such as "lipschitz".
        model: file, name, SHA-256 of the file, and until.
        point: name, shape, and the values as base64 of float64 in row-major order; None for the whole space.
        label: the class that counts as right; None for what the network says.
        ball: norm of the balls: "1", "2" or "inf".
        radii: exact decimals or ratios; all are asked in one call.
        clip: lowest and highest value of an input, as decimals; None for no limit.
        norm: (p, q) of a constant.
        rows: "all", "label", "margins", or outputs and margins such as "3,3-5".
        method: a word of the command line, and options of the class by name.
        seed: of searches.
        limits: seconds, cpu_seconds, memory (GiB) of the call.
        library: version that answers.
    """

    ask: str
    model: Mapping[str, str | None]
    point: Mapping[str, Any] | None = None
    label: int | None = None
    ball: str = "inf"
    radii: tuple[str, ...] = ()
    clip: tuple[str, str] | None = None
    norm: tuple[str, str] | None = None
    rows: str = "all"
    method: Mapping[str, Any] | None = None
    seed: int = 0
    limits: Mapping[str, float] | None = None
    library: str = VERSION

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON and other processes."""
        return json.loads(json.dumps(asdict(self)))

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Task:
        """The task that `plain` is of."""
        pairs = {name: None if plain[name] is None else tuple(plain[name]) for name in ("clip", "norm", "radii")}
        return Task(**{**plain, **pairs})

    @functools.cached_property
    def identity(self) -> str:
        """SHA-256 of the question: files by their content, points by their numbers, names left out."""
        asked = self.plain
        for part in (asked["model"], asked["point"] or {}):
            for name in NOT_ASKED:
                part.pop(name, None)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    @property
    def called(self) -> dict[str, Any]:
        """The columns by which a person finds it."""
        method = dict(self.method or {"name": BEST})
        name = method.pop("name")
        options = ", ".join(f"{key}={value}" for key, value in method.items())
        p, q = self.norm or (None, None)
        return {
            "model": self.model["name"], "point": (self.point or {}).get("name"), "label": self.label, "ask": self.ask,
            "ball": self.ball if self.point else None, "p": p, "q": q, "rows": self.rows,
            "method": f"{name}({options})" if options else name, "seed": self.seed,
        }  # fmt: skip


def told_point(values: Tensor, name: str) -> dict[str, Any]:
    """Values as a task holds them."""
    array = np.ascontiguousarray(values.to(torch.float64).numpy())
    return {"name": name, "shape": list(array.shape), "values": base64.b64encode(array.tobytes()).decode()}


def answer(task: Task) -> Result:
    """The answer to a task.

    Raises:
        JacoboundError: as the function that is asked does.
        InvalidModelError: when the file is not the one that was planned.
    """
    graph = network(str(task.model["file"]), str(task.model["sha256"]), task.model.get("until"))
    return asked(task, graph)


def asked(task: Task, graph: Graph) -> Result:
    """The answer to a task about a network that is loaded."""
    limits, point = task.limits or {}, _values(task)
    memory = int(limits.get("memory", 2.0) * (1 << 30))
    budget = Budget(limits.get("seconds"), memory, cpu_seconds=limits.get("cpu_seconds"))
    label = _label(task, graph, point)
    if task.ask == "robust_radius":
        assert point is not None
        clip, p = _clip(task), _exponent(task.ball)
        method = _made(task.method, Method)
        return robust_radius(
            graph, point, label, p, clip=clip, method=method, budget=budget, attack=PGD(seed=task.seed)
        )
    region, matrix = _region(task, point), _matrix(task.rows, label, graph)
    if task.ask == "lipschitz":
        p, q = task.norm or ("2", "2")
        norm, method = (_exponent(p), _exponent(q)), _made(task.method, Method)
        search = Sampling(seed=task.seed)
        return lipschitz(graph, region, method, norm=norm, rows=matrix, budget=budget, search=search)
    if task.ask == "bound_output":
        return bound_output(graph, region, _made(task.method, OutputMethod), rows=matrix, budget=budget)
    if task.ask == "bound_jacobian":
        return bound_jacobian(graph, region, _made(task.method, JacobianMethod), rows=matrix, budget=budget)
    if task.ask == "monotone_features":
        return monotone_features(graph, region, matrix, method=_made(task.method, JacobianMethod), budget=budget)
    raise InvalidOptionError(f"a sweep can not ask '{task.ask}'; it asks {', '.join(KINDS)}")


# What a sweep can ask, and the methods that answer it.
KINDS: Mapping[str, type] = {
    "lipschitz": Method,
    "bound_output": OutputMethod,
    "bound_jacobian": JacobianMethod,
    "robust_radius": Method,
    "monotone_features": JacobianMethod,
}


@functools.lru_cache(maxsize=MODELS_KEPT)
def network(file: str, sha256: str, until: str | None) -> Graph:
    """A network, read once by each process.

    Raises:
        InvalidModelError: when the file has changed since it was planned.
    """
    with open(file, "rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != sha256:
            raise InvalidModelError(
                f"{file} is not the file that was planned: its SHA-256 differs; plan the sweep anew"
            )
    return from_onnx(file, until=until)


def method_of(told: Mapping[str, Any] | None, kind: type) -> Any:
    """A method by its word and options; None for the library's choice.

    Raises:
        InvalidOptionError: when there is no such method for the question, or it has no such option.
    """
    return _made(told, kind)


def _made(told: Mapping[str, Any] | None, kind: type) -> Any:
    options = dict(told or {"name": BEST})
    word = str(options.pop("name")).lower()
    if word == BEST and not options:
        return None
    known = {one.__name__.lower(): one for one in every(kind)}
    if word not in known:
        raise InvalidOptionError(f"'{word}' does not answer this question; {BEST} and {', '.join(known)} do")
    try:
        return known[word](**options)
    except TypeError as error:
        raise InvalidOptionError(f"method {word}: {error}") from None


def _exponent(text: str) -> float:
    return math.inf if text == "inf" else float(text)


def _values(task: Task) -> Tensor | None:
    if task.point is None:
        return None
    flat = np.frombuffer(base64.b64decode(task.point["values"]), dtype=np.float64)
    return torch.from_numpy(flat.copy()).reshape(task.point["shape"])


def _label(task: Task, graph: Graph, point: Tensor | None) -> int | None:
    if task.label is not None or point is None or task.rows not in ("label", "margins"):
        return task.label
    return int(graph.double(point.unsqueeze(0)).flatten().argmax())


def _clip(task: Task) -> tuple[float, float] | None:
    return None if task.clip is None else parse_clip(task.clip)


def _region(task: Task, point: Tensor | None) -> Region:
    if point is None:
        return WholeSpace()
    radii = tuple(Fraction(one) for one in task.radii)
    return Ball(point, Radii(radii) if len(radii) != 1 else radii[0], _exponent(task.ball), clip=_clip(task))


def _matrix(rows: str, label: int | None, graph: Graph) -> Tensor | None:
    outputs = size(graph.output)
    if rows == "all":
        return None
    if rows == "label":
        return row_matrix([(int(label or 0), None)], outputs)
    if rows == "margins":
        return row_matrix([(int(label or 0), other) for other in range(outputs) if other != label], outputs)
    return row_matrix(parse_rows(rows), outputs)


# --- an attempt, which never raises ------------------------------------------------------------------------------

Outcome = dict[str, Any]
"""How a task ended: identity, state, seconds, cpu_seconds, megabytes, error, rows and result as JSON."""

ANSWERED, FAILED, LATE, MEMORY, CRASHED = "answered", "failed", "late", "memory", "crashed"


def attempt(plain: Mapping[str, Any], find: Callable[[Task], Result] = answer) -> Outcome:
    """The answer to a task, or why there is none; plain data."""
    task = Task.of(plain)
    began, cpu = time.monotonic(), time.process_time()
    state, error, rows, result = ANSWERED, "", "[]", None
    try:
        found = find(task)
        rows, result = json.dumps(_rows(found)), found.to_json(None)
    except MemoryError:
        state, error = MEMORY, "the memory was not enough"
    except Exception as problem:
        lacking = "allocate" in str(problem) and "memory" in str(problem)
        state = MEMORY if lacking else FAILED
        error = f"{type(problem).__name__}: {problem}"
        if not lacking and type(problem).__module__ != "jacobound.errors":
            error = f"{error}\n{traceback.format_exc()}"
    return {
        "identity": task.identity, "state": state, "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu, "megabytes": _peak(),
        "error": error, "rows": rows, "result": result,
    }  # fmt: skip


def _peak() -> float | None:
    """The most memory that this process has held, in MiB; None where the system does not tell."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _rows(found: Result) -> list[dict[str, Any]]:
    """The rows of a result's table, with its status; numbers that JSON has no word for are text."""
    status = getattr(found, "status", None)
    more = {} if status is None else {"certified": bool(status.certified), "status": status.name.lower()}
    return [
        {
            name: value if not isinstance(value, float) or math.isfinite(value) else str(value)
            for name, value in row.items()
        }
        | more
        for row in found.table()
    ]
