"""What users give to a question: graph, region, rows, method, budget; taken as they meant it or refused with a cure."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from jacobound.budget import Budget
from jacobound.checks import instance, real, shown
from jacobound.errors import InvalidModelError, InvalidOptionError, InvalidRegionError, ShapeError
from jacobound.graph.execution import Executed
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import size
from jacobound.graph.units import real_tensor
from jacobound.inputs.regions import Region
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import JacobianMethod, Method, OutputMethod

Rows = int | Tensor | np.ndarray | Sequence[int] | Sequence[float] | Sequence[Sequence[float]]
Columns = int | Tensor | np.ndarray | Sequence[int] | Sequence[bool]
Limit = Budget | float
Semantics = Literal["real", "executed"] | Executed

JACOBIAN = "it takes RecurJac(), FastLip() or LinearSlopes()"
OUTPUT = "it takes CROWN(), AlphaCROWN(), FastLin(), IBP() or SinglePrecision()"
CONSTANT = (
    "it takes RecurJac(), FastLip(), LinearSlopes(), AutoLip(), SeqLip(), LipSDP(), ECLipsE(), FourierSDP() or "
    "Best(...)"
)


def graph_given(graph: object) -> Graph:
    """A graph.

    Raises:
        InvalidModelError: when it is something else, such as the module itself; says how to import it.
    """
    if isinstance(graph, Graph):
        return graph
    cure = "import a network first: jb.from_torch(module, example), jb.from_onnx(path) or jb.from_layers(weights)"
    if isinstance(graph, nn.Module):
        cure = "write graph = jb.from_torch(module.eval(), example) (example: a batch of points)"
    elif isinstance(graph, str | os.PathLike):
        cure = "write graph = jb.from_onnx(path) and give the graph"
    raise InvalidModelError(f"the network must be a Graph, not a {type(graph).__name__}; {cure}")


def region_given(region: object) -> Region:
    """A region.

    Raises:
        InvalidRegionError: when it is something else, such as a point; says how to make one.
    """
    if isinstance(region, type) and issubclass(region, Region):
        raise InvalidRegionError(f"the region is the class {region.__name__} itself; write {region.__name__}(...)")
    if isinstance(region, Region):
        return region
    cure = "give jb.Ball(point, radius), jb.Box(lower, upper) or jb.WholeSpace()"
    raise InvalidRegionError(f"the region can not be a {type(region).__name__}; {cure}")


def no_scale_given(scale: object, asked: str) -> None:
    """Refuse units of each input where a question is about distances from points.

    Raises:
        InvalidOptionError: with how to ask it.
    """
    if scale is not None:
        raise InvalidOptionError(
            f"{asked} has no scale=. For radii in units of each input let the network hold the units: with "
            "unit = graph.with_preprocessing(mean, 1 / scale) the input (x / scale) + mean stands for x; ask "
            f"{asked}(unit, x / scale + mean) and read the radius in these units (mean may be 0)"
        )


def budget_given(budget: Any) -> Budget | None:
    """A budget; a number is its seconds.

    Raises:
        InvalidOptionError: when it is neither.
    """
    if budget is None or isinstance(budget, Budget):
        return budget
    if isinstance(budget, type):
        return instance(budget, Budget, "the budget", "write Budget(seconds=30) or 30")
    return Budget(real(budget, "the budget in seconds (or a Budget)", 0.0))


def output_method_given(method: Any) -> OutputMethod | None:
    """A method that bounds outputs, or None."""
    return None if method is None else instance(method, OutputMethod, "the method for outputs", OUTPUT)


def jacobian_method_given(method: Any) -> JacobianMethod | None:
    """A method that bounds Jacobians, or None."""
    return None if method is None else instance(method, JacobianMethod, "the method for Jacobians", JACOBIAN)


def constant_method_given(method: Any) -> Method | None:
    """A method that bounds constants, or None."""
    return None if method is None else instance(method, Method, "the method for constants", CONSTANT)


def radius_method_given(method: Any) -> OutputMethod | Method | None:
    """A method that bounds outputs, Jacobians or constants, or None."""
    kinds, cure = (OutputMethod, Method), "it takes CROWN(), RecurJac(), LipSDP() or others"
    return None if method is None else instance(method, kinds, "the method for radii", cure)


def search_given(search: Any) -> Sampling | None:
    """A search for attained values, or None."""
    return None if search is None else instance(search, Sampling, "the search", "it takes Sampling() or None")


def row_matrix(rows: Any, graph: Graph) -> Tensor | None:
    """Row combinations as an exact float64 matrix, shape (k, outputs).

    Args:
        rows: None for the outputs as they are; a whole number or a list of whole numbers for outputs by their index; a
            list of other numbers, one for every output, for one combination; a matrix (k, outputs) for several.

    Raises:
        ShapeError: when it is none of this, or there is no such output.
    """
    if rows is None:
        return None
    outputs = size(graph.output)
    if isinstance(rows, str | bytes | dict | set | bool):
        raise ShapeError(f"rows can not be {shown(rows)}; {_rows_help(outputs)}")
    given = real_tensor(list(rows) if isinstance(rows, range) else rows, "rows")
    if not bool(given.isfinite().all()) or not given.numel():
        raise ShapeError(f"rows hold finite numbers, at least one; {_rows_help(outputs)}")
    if given.dim() < 2 and _is_whole(rows):
        chosen = given.reshape(-1).to(torch.int64)
        if bool(((chosen < 0) | (chosen >= outputs)).any()):
            known = f"whole numbers are outputs by their index, from 0 to {outputs - 1}"
            raise ShapeError(f"rows={shown(rows)}: {known}; {_rows_help(outputs)}")
        return torch.eye(outputs, dtype=torch.float64)[chosen.cpu()]
    if given.dim() == 1 and len(given) == outputs:
        given = given.unsqueeze(0)
    if given.dim() != 2 or given.shape[1] != outputs:
        raise ShapeError(f"rows of shape {tuple(given.shape)} do not fit {outputs} outputs; {_rows_help(outputs)}")
    return given


def columns_given(columns: Columns | None, graph: Graph) -> Tensor | None:
    """Flat places of the inputs in question, ascending or as given, int64; None for all.

    Raises:
        ShapeError: when they are no places of inputs, or one stands there twice; says what to write.
    """
    if columns is None:
        return None
    inputs = size(graph.input)
    cure = (
        f"columns=3 is input 3, columns=[0, 2] are two of the {inputs} inputs (0 to {inputs - 1}, counted row by row), "
        f"columns=range(4) the first four, and a mask of truth values of shape {tuple(graph.in_shape)} says it for each"
    )
    if isinstance(columns, str | bytes | dict | set | bool):
        raise ShapeError(f"columns can not be {shown(columns)}; {cure}")
    try:
        given = torch.as_tensor(list(columns) if isinstance(columns, range) else columns)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ShapeError(f"columns can not be {shown(columns)}; {cure}") from None
    if given.dtype == torch.bool:
        if given.shape not in (graph.in_shape, (inputs,)):
            raise ShapeError(f"a mask of shape {tuple(given.shape)} does not fit the input; {cure}")
        given = given.flatten().nonzero().squeeze(1)
    if given.is_floating_point() or given.is_complex() or given.dim() > 1 or not given.numel():
        raise ShapeError(f"columns={shown(columns)} are no places of inputs; {cure}")
    given = given.reshape(-1).to("cpu", torch.int64)
    if bool(((given < 0) | (given >= inputs)).any()) or len(given.unique()) < len(given):
        raise ShapeError(f"columns={shown(columns)}: each is an input of its own; {cure}")
    return given


def _is_whole(rows: Any) -> bool:
    """Whether numbers are whole by their type, as indices are."""
    if isinstance(rows, Tensor):
        return not rows.is_floating_point()
    return np.asarray(list(rows) if isinstance(rows, range) else rows).dtype.kind in "iu"


def _rows_help(outputs: int) -> str:
    return (
        "rows=3 is output 3, rows=[0, 2] are outputs 0 and 2, rows=[1.0, -1.0] is one combination of two outputs, and "
        f"a matrix of shape (k, {outputs}) holds k combinations (of whole numbers, too)"
    )


def limits_of(budget: Budget | None) -> dict[str, float | None]:
    """The limits that a budget sets, by name."""
    if budget is None:
        return {}
    return {name: getattr(budget, name) for name in ("seconds", "cpu_seconds", "memory")}


def check_choice(value: object, known: Sequence[str], what: str) -> None:
    """Refuse a word that is none of the known ones.

    Raises:
        InvalidOptionError: when it is not.
    """
    if not isinstance(value, str) or value not in known:
        raise InvalidOptionError(f"{what} is one of {', '.join(known)}, not {shown(value)}")


def semantics_given(semantics: object) -> Semantics:
    """Which values of the network are meant, checked."""
    if semantics is Executed:
        return Executed()
    if isinstance(semantics, Executed) or (isinstance(semantics, str) and semantics in ("real", "executed")):
        return semantics  # type: ignore[return-value]
    raise InvalidOptionError(f"semantics is 'real', 'executed' or Executed(dtype), not {shown(semantics)}")


def meaning_of(semantics: Semantics) -> str:
    """How an answer names the semantics."""
    if semantics == "real":
        return "real"
    return f"executed in {(Executed() if isinstance(semantics, str) else semantics).dtype}"
