"""From a traced module to nodes: walks the operations, evaluates what is constant, and refuses by name and place."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node as Step

from jacobound.activations import families, torch_builder
from jacobound.errors import InvalidModelError, JacoboundError, ShapeError, UnsupportedOpError
from jacobound.graph import Elementwise, Input, Node
from jacobound.importers.common import exact_weight, unsupported
from jacobound.importers.steps import AffineSteps
from jacobound.importers.torch_call import Call, Value, is_node, leaves
from jacobound.importers.torch_movement import index, move, pad, put, take, where
from jacobound.importers.torch_rules import DIVISION, RULES, add, cast, divide, keep, multiply, negate

ADVICE: Final = "Replace it, or import only the part of the model before it."
EXACT: Final = (keep, move, take, index, put, negate)
PRELU: Final = ("aten.prelu.default", "aten._prelu_kernel.default")
FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


@dataclass(frozen=True, eq=False)
class Lowered:
    """What `lower` found.

    Args:
        output: the node of the module's result.
        rounded: whether a constant was rounded to the module's dtype on the way (0.1 in a float32 module, a weight
            that the module computes from others), so that the module in float64 is a slightly different function.
    """

    output: Node
    rounded: bool


def lower(program: ExportedProgram, steps: AffineSteps, shape: tuple[int, ...]) -> Lowered:
    """Lower a traced module with one input of points of `shape` and one output.

    Raises:
        UnsupportedOpError, InvalidModelError: see `from_torch`.
    """
    values: dict[Step, Value] = dict(_placeholders(program, Input(shape)))
    used: Counter[str] = Counter()
    rounded = False
    result: Value = None
    needed = _needed(program)
    for step in program.graph_module.graph.nodes:
        if step.op == "call_function" and step in needed:
            name = _name(step, used)
            args = torch.fx.map_arg(tuple(step.args), values.__getitem__)
            kwargs = torch.fx.map_arg(dict(step.kwargs), values.__getitem__)
            values[step] = _evaluate(step, name, args, kwargs, steps)
            rounded = rounded or _rounds(step, args, kwargs)
        elif step.op == "get_attr":
            values[step] = None  # a traced branch; the operation that takes it is refused by name
        elif step.op == "output":
            result = _output(program, step, values)
    return Lowered(result, rounded)


def _placeholders(program: ExportedProgram, source: Input) -> dict[Step, Value]:
    """The input node and the weights, checked under the names they have in the module."""
    signature = program.graph_signature
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    found: dict[Step, Value] = {}
    for step in program.graph_module.graph.nodes:
        if step.op != "placeholder":
            continue
        if step.name not in names:
            found[step] = source
            continue
        name = names[step.name]
        value = program.state_dict.get(name, program.constants.get(name))
        if not isinstance(value, Tensor):
            raise InvalidModelError(f"the module holds '{name}', a {type(value).__name__}; only tensors are understood")
        if step.users and (value.is_floating_point() or value.is_complex()):
            exact_weight(value, name)
        found[step] = value.detach()
    return found


def _needed(program: ExportedProgram) -> set[Step]:
    """The steps that the results depend on; what the module computes besides (assertions, say) is left out."""
    found: set[Step] = set()
    for step in reversed(program.graph_module.graph.nodes):
        if step.op == "output" or step in found:
            found.update(step.all_input_nodes)
    return found


def _output(program: ExportedProgram, step: Step, values: Mapping[Step, Value]) -> Node:
    changed = [
        *program.graph_signature.buffers_to_mutate.values(),
        *program.graph_signature.user_inputs_to_mutate.values(),
    ]
    if changed:
        raise InvalidModelError(
            f"the module changes '{changed[0]}' when it is called, so it is not one function; remove that, or call "
            "module.eval() if it is a statistic of training"
        )
    results = leaves(torch.fx.map_arg(step.args[0], values.__getitem__))
    if not is_node(results[0]):
        raise InvalidModelError("the module's output does not depend on its input; there is nothing to bound")
    return results[0]


def _evaluate(step: Step, name: str, args: tuple[Value, ...], kwargs: Mapping[str, Value], steps: AffineSteps) -> Value:
    """The value of one operation."""
    op = str(step.target)
    if step.target is operator.getitem:
        return args[0][args[1]]
    if _draws(op, step.target):
        raise InvalidModelError(
            f"{op}{_at(step)} draws random numbers, so the module is not one function; "
            "if it is a part of training, call module.eval() first"
        )
    if not any(is_node(value) for value in leaves([args, kwargs])):
        with torch.no_grad():
            return step.target(*args, **kwargs)  # type: ignore[operator]
    call = Call(op, step.target, args, kwargs, steps, name, step.meta.get("val"))  # type: ignore[arg-type]
    try:
        _check_dtype(call)
        return RULES[op](call) if op in RULES else _activate(call)
    except (UnsupportedOpError, ShapeError) as error:
        raise unsupported(op, place(step), str(error), ADVICE) from None
    except JacoboundError:
        raise
    except Exception as error:
        reason = f"It is used in a way that is not understood ({type(error).__name__}: {error})."
        raise unsupported(op, place(step), reason, ADVICE) from error


def _draws(op: str, target: object) -> bool:
    """Whether an operation is random; `keep` looks at dropout itself, and recurrent layers only may be random."""
    if RULES.get(op) is keep or any(part in op for part in ("lstm", "gru", "rnn_", "attention")):
        return False
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _check_dtype(call: Call) -> None:
    """Nodes are real numbers: an operation that turns one into integers or half precision is refused."""
    for result in leaves(call.result):
        if isinstance(result, Tensor) and result.dtype in (torch.float16, torch.bfloat16):
            raise UnsupportedOpError(f"It computes in {result.dtype}.")


def _activate(call: Call) -> Node:
    """An elementwise activation from the registry."""
    builder = torch_builder(call.op)
    if builder is None or not is_node(call.args[0]):
        raise UnsupportedOpError(_why(call.op))
    rest = list(call.args[1:])
    if any(is_node(value) for value in leaves([rest, call.kwargs])):
        raise UnsupportedOpError("Its parameters depend on the input.")
    source = call.args[0]
    if call.op in PRELU:
        rest[0] = _per_channel(exact_weight(rest[0], f"{call.name}.weight"), source, call)
    return Elementwise(builder(*rest, **call.kwargs), source, call.name)


def _why(op: str) -> str:
    """Why an operation is not understood."""
    if op == "aten.reciprocal.default":
        return DIVISION
    if not op.startswith("aten."):
        return "It is control flow that depends on values of the input, or an operation of another library."
    known = ", ".join(sorted(family.name for family in families()))
    return f"It is neither affine nor elementwise with a known activation ({known})."


def _per_channel(weight: Tensor, source: Node, call: Call) -> Tensor:
    """PReLU's weight with axes of length 1 behind, so that it meets the channels (the model's axis 1)."""
    if weight.numel() == 1:
        return weight.reshape(())
    channel = call.axis(1, len(source.shape) + call.front)
    return weight.reshape(-1, *(1 for _ in source.shape[channel + 1 :]))


def _rounds(step: Step, args: tuple[Value, ...], kwargs: Mapping[str, Value]) -> bool:
    """Whether the operation rounds a constant to the module's dtype, or its input to float32."""
    result = step.meta.get("val")
    if not isinstance(result, Tensor) or result.dtype != torch.float32:
        return False
    rule = RULES.get(str(step.target))
    values = leaves([args, kwargs])
    tensors = [value for value in values if isinstance(value, Tensor)]
    if rule in EXACT:
        return False
    if rule is cast:
        return True
    if not any(is_node(value) for value in values) and any(tensor.is_floating_point() for tensor in tensors):
        return True
    numbers = [value for value in values if isinstance(value, float)]
    arithmetic = rule in (add, multiply, divide, pad, where, None)
    return arithmetic and any(torch.tensor(n, dtype=torch.float32).item() != n for n in numbers)


def _name(step: Step, used: Counter[str]) -> str:
    """The path of torch's own layer that made the step, else the step's name; numbered when met again."""
    stack = _modules(step)
    name = stack[-1][0] if stack and stack[-1][1].startswith("torch.nn.") and stack[-1][0] else step.name
    used[name] += 1
    return name if used[name] == 1 else f"{name}#{used[name]}"


def _modules(step: Step) -> list[tuple[str, str]]:
    """Path and class of the modules around a step, outermost first."""
    found = []
    for path, kind in (step.meta.get("nn_module_stack") or {}).values():
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        found.append((re.sub(r"@\d+", "", path), kind))
    return found


def place(step: Step) -> str:
    """Where an operation comes from: "model.py:41 in Encoder.pool ('encoder.pool')"; empty when torch does not say."""
    stack = _modules(step)
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


def _at(step: Step) -> str:
    where = place(step)
    return f" at {where}" if where else ""
