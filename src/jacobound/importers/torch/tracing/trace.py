"""Tracing a module with torch.export, quietly, and with an error that says where it failed."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from jacobound.errors import UnsupportedOpError
from jacobound.importers.torch.tracing.process import silent
from jacobound.importers.torch.tracing.program import Program
from jacobound.importers.torch.tracing.until import Cut, ended_at

VALUES: Final = ("data-dependent", "numpy()", "item()", "tolist", "data_ptr", "Boolean value", "unbacked", "dynamic")
"""Words in torch's messages about values that are not known while it traces."""

GUARD: Final = "GuardOnDataDependentSymNode"
"""The error of a branch on values, by name: its module takes half a second to load."""


def trace(module: nn.Module, traced: Tensor, cut: Cut | None = None) -> Program:
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


def _export(module: nn.Module, traced: Tensor) -> Program:
    with silent():
        program = torch.export.export(module, (traced,), strict=False)
        _spell_out_softshrink(program)
        return Program.of(program.run_decompositions({}))


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


def _untraceable(module: nn.Module, error: Exception) -> UnsupportedOpError:
    """The error for a module that torch.export fails on, with its likely cause."""
    subject, said = type(module).__name__, f"{type(error).__name__}: {first_line(error)}"
    part = "or import the part before it with from_torch(module, example, until='NAME')"
    if of_hook(error):
        return UnsupportedOpError(
            f"{subject} has a hook that fails when it is traced{user_line(error)}: {said}. Take the hook away for the "
            "import (handle.remove()), or let it use operations on tensors only"
        )
    if "ScriptModule" in said:
        return UnsupportedOpError(
            f"{subject} is TorchScript, which can not be traced by torch.export: {said}. Import the module that it was "
            "made from"
        )
    reason = "What fails there is no operation on tensors that can be traced: write it with those"
    if type(error).__name__ == GUARD or any(word in said for word in VALUES):
        reason = "Branches and loops must not depend on values of the input: replace them by operations on tensors"
    return UnsupportedOpError(
        f"{subject} can not be traced by torch.export{user_line(error)}: {said}. {reason}, {part}"
    )


def user_line(error: Exception) -> str:
    """The innermost line outside torch and this package that led to an error: " at model.py:41"."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and not frame.filename.startswith(ours)
    ]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def of_hook(error: Exception) -> bool:
    """Whether an error comes out of a hook of a module."""
    home = str(Path(torch.nn.__file__).parent / "modules" / "module.py")
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.filename == home and "hook(" in (frame.line or "") for frame in frames)


def first_line(error: Exception) -> str:
    """The first line of a message, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
