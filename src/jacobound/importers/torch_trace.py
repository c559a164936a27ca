"""Tracing a module with torch.export, quietly, and with an error that says where it failed."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from jacobound.errors import UnsupportedOpError
from jacobound.importers.torch_until import Cut, ended_at


def trace(module: nn.Module, traced: Tensor, cut: Cut | None = None) -> ExportedProgram:
    """The module's operations up to the cut, without in-place changes, none of them decomposed.

    Raises:
        UnsupportedOpError: when torch.export can not trace the module.
    """
    try:
        with ended_at(module, cut, early=False):
            return _export(module, traced)
    except Exception as error:
        if cut is None:
            raise _untraceable(module, error) from error
    try:
        # What comes behind the cut may be what could not be traced.
        with ended_at(module, cut):
            return _export(module, traced)
    except Exception as error:
        raise _untraceable(module, error) from error


def _export(module: nn.Module, traced: Tensor) -> ExportedProgram:
    with _quietly():
        program = torch.export.export(module, (traced,), strict=False)
        _spell_out_softshrink(program)
        return program.run_decompositions({})


def _spell_out_softshrink(program: ExportedProgram) -> None:
    """Write softshrink as ``x - min(max(x, -l), l)``, before torch decomposes it into comparisons."""
    aten, graph = torch.ops.aten, program.graph_module.graph
    for step in list(graph.nodes):
        if step.op != "call_function" or step.target is not aten.softshrink.default:
            continue
        source, limit = step.args[0], step.args[1] if len(step.args) > 1 else step.kwargs.get("lambd", 0.5)
        with graph.inserting_before(step):
            middle = graph.call_function(aten.clamp.default, (source, -limit, limit))
            middle.meta = dict(step.meta)
        step.target, step.args, step.kwargs = aten.sub.Tensor, (source, middle), {}
    program.graph_module.recompile()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch.export from writing its internals to the terminal when it fails; the error says enough."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _untraceable(module: nn.Module, error: Exception) -> UnsupportedOpError:
    return UnsupportedOpError(
        f"{type(module).__name__} can not be traced by torch.export{_user_line(error)}: {type(error).__name__}: "
        f"{first_line(error)}. Branches and loops must not depend on values of the input: replace them by operations "
        "on tensors, or import the part before them with from_torch(module, example, until='NAME')"
    )


def _user_line(error: Exception) -> str:
    """The innermost line outside torch and this package that led to an error: " at model.py:41"."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and not frame.filename.startswith(ours)
    ]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def first_line(error: Exception) -> str:
    """The first line of a message, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
