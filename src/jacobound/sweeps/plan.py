"""`Plan`: what a sweep asks, from a TOML file; models x points x balls x norms x rows x methods x seeds.

Decimals are taken as they stand in the file: 0.1 is the number 1/10, rounded outward where a float is needed.
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

from jacobound.errors import InvalidOptionError, JacoboundError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.inputs.grammar import parse_clip, parse_fraction, parse_indices, parse_radii, parse_rows, row_matrix
from jacobound.inputs.points import read_point
from jacobound.sweeps.tasks import BEST, KINDS, Task, method_of, network, told_point

LARGEST = 1 << 22  # bytes of a plan
MOST_TASKS = 1 << 22
KEYS = ("ask", "models", "points", "ball", "radii", "together", "norms", "rows", "methods", "seeds", "limits")
OF_MODEL = ("file", "name", "until")
OF_POINTS = ("files", "key", "index", "scale", "shift", "clip", "labels")
OF_LIMITS = ("seconds", "cpu_seconds", "memory", "end_after", "end_above")
BALLS = ("1", "2", "inf")
NAMED_ROWS = ("all", "label", "margins")
SEEDED = ("lipschitz", "robust_radius")


@dataclass(frozen=True)
class Plan:
    """What a sweep asks.

    Args:
        folder: that files are named in.
        ask: "lipschitz", "bound_output", "bound_jacobian", "robust_radius" or "monotone_features".
        models: tables of file, name and until.
        points: table of files, key, index, scale, shift, clip, labels; None for the whole space.
        balls: norms of the balls.
        radii: exact decimals or ratios, as text.
        together: whether the radii of a point are one task, answered in one call, or each a task of its own.
        norms: (p, q) of constants.
        rows: "all", "label" (the output of the point's class), "margins" (that minus each other), or "3,3-5".
        methods: tables of a name, as on the command line, and options.
        seeds: of searches.
        limits: seconds, cpu_seconds and memory (GiB) of one call.
        end_after, end_above: seconds and GiB after which the process of a task is ended.
    """

    folder: Path
    ask: str
    models: tuple[Mapping[str, str], ...]
    points: Mapping[str, Any] | None
    balls: tuple[str, ...] = ("inf",)
    radii: tuple[str, ...] = ()
    together: bool = True
    norms: tuple[tuple[str, str] | None, ...] = (None,)
    rows: tuple[str, ...] = ("all",)
    methods: tuple[Mapping[str, Any], ...] = ({"name": BEST},)
    seeds: tuple[int, ...] = (0,)
    limits: Mapping[str, float] = field(default_factory=dict)
    end_after: float | None = None
    end_above: float | None = None

    @staticmethod
    def read(file: Path) -> Plan:
        """The plan in a TOML file; files that it names lie beside it.

        Raises:
            InvalidOptionError: when it is no plan; names the key, and what was likely meant.
        """
        try:
            data = file.read_bytes()
        except OSError as error:
            raise InvalidOptionError(f"the plan {file} can not be read: {error.strerror or error}") from None
        if len(data) > LARGEST:
            raise InvalidOptionError(f"the plan {file} has more than {LARGEST >> 20} MiB")
        try:
            told = tomllib.loads(data.decode(), parse_float=str)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidOptionError(f"the plan {file} is no TOML: {error}") from None
        try:
            return _plan(told, file.resolve().parent)
        except JacoboundError as error:
            raise InvalidOptionError(f"the plan {file}: {error}") from None

    def tasks(self) -> Iterator[Task]:
        """All tasks, in the order of the plan: models first, seeds last.

        Raises:
            JacoboundError: when a model or a point can not be read, or what is asked does not fit it.
        """
        for model in self.models:
            file = self.folder / model["file"]
            until, mark = model.get("until"), _hash(file)
            told = {"file": str(file), "name": model.get("name", file.name), "sha256": mark, "until": until}
            graph = network(str(file), mark, until)
            _check_rows(self.rows, graph)
            groups = [self.radii] if self.together or not self.radii else [(one,) for one in self.radii]
            axes = product(self._points(graph), self.balls, self.norms, self.rows, self.methods, self.seeds, groups)
            for (point, label), ball, norm, rows, method, seed, radii in axes:
                yield Task(
                    self.ask, told, point, label, ball, radii, self._clip if point else None, norm, rows, method, seed,
                    dict(self.limits),
                )  # fmt: skip

    @property
    def _clip(self) -> tuple[str, str] | None:
        clip = None if self.points is None else self.points.get("clip")
        return None if clip is None else (clip[0], clip[1])

    def _points(self, graph: Graph) -> list[tuple[dict[str, Any] | None, int | None]]:
        """The points in the input's shape, with labels where the plan names some."""
        if self.points is None:
            return [(None, None)]
        scale = self.points.get("scale")
        options: dict[str, Any] = {
            "key": self.points.get("key"),
            "scale": None if scale is None else parse_fraction(scale, "scale"),
            "shift": parse_fraction(self.points.get("shift", "0"), "shift"),
        }
        index = self.points.get("index")
        entries: list[int | None] = [None] if index is None else list(parse_indices(index, "index"))
        found = []
        for name in self.points["files"]:
            file = self.folder / name
            for entry in entries:
                point = read_point(file, graph.in_shape, index=entry, **options)
                label = None
                if "labels" in self.points:
                    (label,) = read_point(file, (1,), key=self.points["labels"], index=entry).values.tolist()
                    if label != int(label) or not 0 <= label < size(graph.output):
                        raise InvalidOptionError(f"label {label:g} of {point.name} is no output of the network")
                found.append((told_point(point.values, point.name), None if label is None else int(label)))
        return found


def _plan(told: Mapping[str, Any], folder: Path) -> Plan:
    _known(told, KEYS, "")
    ask = told.get("ask", "lipschitz")
    if ask not in KINDS:
        raise InvalidOptionError(f"ask is one of {', '.join(KINDS)}, not {ask!r}{_meant(str(ask), tuple(KINDS))}")
    models = tuple(_model(one) for one in _listed(told.get("models", []), "models"))
    if not models:
        raise InvalidOptionError("models is missing: models = ['net.onnx']")
    points, limits = told.get("points"), dict(told.get("limits", {}))
    if points is not None:
        points = _points(points)
    _known(limits, OF_LIMITS, "limits.")
    numbers = {name: _positive(value, f"limits.{name}") for name, value in limits.items()}
    ends = {name: numbers.pop(name, None) for name in ("end_after", "end_above")}
    methods = tuple(_method(one, ask) for one in _listed(told.get("methods", [BEST]), "methods"))
    radii = told.get("radii", [])
    radii = tuple(str(one) for text in _listed(radii, "radii") for one in parse_radii(str(text)))
    seeds = tuple(_listed(told.get("seeds", [0]), "seeds"))
    rows = tuple(_rows(one) for one in _listed(told.get("rows", ["all"]), "rows"))
    balls = tuple(str(one) for one in _listed(told.get("ball", ["inf"]), "ball"))
    plan = Plan(
        folder, ask, models, points, balls, radii, told.get("together", True), _norms(told, ask), rows, methods, seeds,
        numbers, **ends,
    )  # fmt: skip
    _check(plan, told)
    return plan


def _check(plan: Plan, told: Mapping[str, Any]) -> None:
    """Refuse what does not go together, and what is none of the choices.

    Raises:
        InvalidOptionError: with the key and the cure.
    """
    if not all(type(one) is int for one in plan.seeds):
        raise InvalidOptionError("seeds are whole numbers: seeds = [0, 1]")
    if not isinstance(plan.together, bool):
        raise InvalidOptionError("together is true or false")
    if not set(plan.balls) <= set(BALLS):
        raise InvalidOptionError(f"ball is a list of {', '.join(BALLS)}, not {list(plan.balls)}")
    around = plan.ask not in ("robust_radius",)
    if plan.points is None and (plan.ask != "lipschitz" or plan.radii or "ball" in told):
        raise InvalidOptionError("points are missing: without them a sweep bounds constants over the whole space alone")
    if plan.points is not None and around and not plan.radii:
        raise InvalidOptionError("radii are missing: radii = [0.01, '8/255'] or radii = '0.001:0.1:10log'")
    if not around and plan.radii:
        raise InvalidOptionError("robust_radius looks for the radius itself; leave radii out")
    if not around and plan.rows != ("all",):
        raise InvalidOptionError("robust_radius is about all classes; leave rows out")
    if plan.ask == "monotone_features" and (plan.balls != ("inf",) or (plan.together and len(plan.radii) > 1)):
        raise InvalidOptionError("monotone_features takes linf balls, one radius in a call; write together = false")
    if plan.points is None and set(plan.rows) & {"label", "margins"}:
        raise InvalidOptionError(
            "rows 'label' and 'margins' are about the class of a point; name outputs, such as '3-5'"
        )
    if plan.ask not in SEEDED and plan.seeds != (0,):
        raise InvalidOptionError(f"{plan.ask} draws no random numbers; leave seeds out")


def _known(table: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    if not isinstance(table, Mapping):
        raise InvalidOptionError(f"{where.rstrip('.')} is a table of {', '.join(keys)}")
    for name in table:
        if name not in keys:
            raise InvalidOptionError(
                f"there is no key '{where}{name}'{_meant(name, keys)}; there are {', '.join(keys)}"
            )


def _meant(name: str, keys: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, keys, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _listed(value: Any, what: str) -> list[Any]:
    """A list, or a single value that stands for one."""
    if isinstance(value, list):
        if not value and what != "radii" and what != "models":
            raise InvalidOptionError(f"{what} is an empty list; leave it out or name one")
        return value
    return [value]


def _model(one: Any) -> dict[str, str]:
    table = {"file": one} if isinstance(one, str) else one
    _known(table, OF_MODEL, "models.")
    if not all(isinstance(value, str) for value in table.values()) or "file" not in table:
        raise InvalidOptionError("a model is a file, or a table of texts: {file = 'net.onnx', name = 'small'}")
    return dict(table)


def _points(table: Any) -> dict[str, Any]:
    table = {"files": table} if isinstance(table, str | list) else table
    _known(table, OF_POINTS, "points.")
    if "files" not in table:
        raise InvalidOptionError("points.files is missing: the .npy, .npz, .csv or image files of the points")
    found = {name: value if isinstance(value, list) else str(value) for name, value in table.items()}
    found["files"] = [str(one) for one in _listed(table["files"], "points.files")]
    if "clip" in found:
        if not isinstance(found["clip"], list) or len(found["clip"]) != 2:
            raise InvalidOptionError("points.clip is [LOW, HIGH]")
        found["clip"] = [str(one) for one in found["clip"]]
        parse_clip((found["clip"][0], found["clip"][1]))
    if "labels" in found and not all(name.endswith(".npz") for name in found["files"]):
        raise InvalidOptionError("points.labels names an array of .npz files")
    return found


def _positive(value: Any, what: str) -> float:
    number = float(parse_fraction(str(value), what))
    if not number > 0:
        raise InvalidOptionError(f"{what} is above 0, not {value}")
    return number


def _method(one: Any, ask: str) -> dict[str, Any]:
    table = {"name": one} if isinstance(one, str) else one
    if not isinstance(table, Mapping) or not isinstance(table.get("name"), str):
        raise InvalidOptionError("a method is its word, or a table: {name = 'splitneurons', most = 500}")
    numbers = {key: _number(value) for key, value in table.items()}
    method_of(numbers, KINDS[ask])
    return numbers


def _number(value: Any) -> Any:
    """Decimals are text in the file (`parse_float`); options of methods are floats."""
    try:
        return (
            float(Fraction(value))
            if isinstance(value, str) and any(digit in value for digit in "0123456789")
            else value
        )
    except ValueError:
        return value


def _rows(one: Any) -> str:
    text = str(one)
    if text not in NAMED_ROWS:
        parse_rows(text)
    return text


def _check_rows(rows: Sequence[str], graph: Graph) -> None:
    for one in rows:
        if one not in NAMED_ROWS:
            row_matrix(parse_rows(one), size(graph.output))


def _norms(told: Mapping[str, Any], ask: str) -> tuple[tuple[str, str] | None, ...]:
    if ask != "lipschitz":
        if "norms" in told:
            raise InvalidOptionError(f"norms are those of constants; {ask} has none: leave them out")
        return (None,)
    given = told.get("norms", [["2", "2"]])
    pairs = given if isinstance(given, list) and all(isinstance(one, list) for one in given) else [given]
    found = []
    for pair in pairs:
        ends = [str(one) for one in (pair if isinstance(pair, list) else [pair, pair])]
        if len(ends) != 2 or not set(ends) <= set(BALLS):
            raise InvalidOptionError(f"norms are pairs of {', '.join(BALLS)}: norms = [['inf', 'inf'], [2, 2]]")
        found.append((ends[0], ends[1]))
    return tuple(found)


def _hash(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InvalidOptionError(f"the model {file} can not be read: {error.strerror or error}") from None
