"""Names of traced operations, where they stand in the user's code, and where a model can be cut before them."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch.fx import Node as Step

from jacobound.importers.torch.tracing.program import Program
from jacobound.importers.torch.tracing.refusals import LAYERS

FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


def needed(program: Program) -> set[Step]:
    """The steps that the results depend on; what the module computes besides (assertions, say) is left out."""
    found: set[Step] = set()
    for step in reversed(program.graph.nodes):
        if step.op == "output" or step in found:
            found.update(step.all_input_nodes)
    return found


def step_names(program: Program) -> dict[Step, str]:
    """For each operation the path of torch's own layer that made it, else its own name; numbered when met again."""
    used: Counter[str] = Counter()
    names: dict[Step, str] = {}
    kept = needed(program)
    for step in program.graph.nodes:
        if step.op != "call_function" or step not in kept:
            continue
        if step.target is operator.getitem:
            names[step] = names[step.all_input_nodes[0]]
            continue
        stack = modules(step)
        name = stack[-1][0] if stack and stack[-1][1].startswith("torch.nn.") and stack[-1][0] else step.name
        used[name] += 1
        names[step] = name if used[name] == 1 else f"{name}#{used[name]}"
    return names


def modules(step: Step) -> list[tuple[str, str]]:
    """Path and class of the modules around a step, outermost first."""
    found = []
    for path, kind in (step.meta.get("nn_module_stack") or {}).values():
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        found.append((re.sub(r"@\d+", "", path), kind))
    return found


def refused_layer(step: Step) -> tuple[str, str] | None:
    """Path and class of the outermost layer around a step that is refused as a whole, if any."""
    for path, kind in modules(step):
        short = kind.rpartition(".")[2]
        if kind.startswith("torch.nn.") and short in LAYERS:
            return path, short
    return None


def cut_before(step: Step, names: Mapping[Step, str], dependent: Callable[[Step], bool]) -> str | None:
    """What to pass as `until` to keep what stands before a step, or before the layer that is refused with it.

    Args:
        names: of all steps.
        dependent: whether a step's value depends on the input.
    """
    layer = refused_layer(step)
    for inner in [step] if layer is None else [one for one in names if refused_layer(one) == layer]:
        for source in inner.all_input_nodes:
            outside = layer is None or refused_layer(source) != layer
            if outside and source in names and dependent(source):
                name = names[source]
                return f"{name}#1" if f"{name}#2" in names.values() else name
    return None


def place(step: Step) -> str:
    """Where an operation comes from: "model.py:41 in Encoder.pool ('encoder.pool')"; empty when torch does not say."""
    stack = modules(step)
    inside = ""
    if stack:
        path, kind = stack[-1]
        short = kind.rpartition(".")[2]
        if kind.startswith("torch.nn.") and len(stack) > 1:
            inside = f"{stack[-2][1].rpartition('.')[2]}.{path.rpartition('.')[2]}"
        else:
            inside = f"{short}.forward"
        inside += f" ('{path}')" if path else ""
    home = str(Path(torch.__file__).parent)
    frames = [
        frame
        for frame in FRAME.finditer(step.meta.get("stack_trace") or "")
        if not frame["file"].startswith((home, "<"))
    ]
    line = f"{Path(frames[-1]['file']).name}:{frames[-1]['line']}" if frames else ""
    return " in ".join(part for part in (line, inside) if part)


def at(step: Step) -> str:
    """The place of a node in the model, led by the word "at"."""
    where = place(step)
    return f" at {where}" if where else ""
