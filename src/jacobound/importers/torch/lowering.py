"""From a traced module to nodes: walks the operations, evaluates what is constant, and refuses by name and place."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor
from torch.fx import Node as Step

from jacobound.activations import torch_builder
from jacobound.errors import InvalidModelError, JacoboundError, ShapeError, UnsupportedOpError
from jacobound.graph.nodes import Input, Node
from jacobound.importers.fusions.bells import elementwise
from jacobound.importers.lowering.common import exact_weight, unsupported
from jacobound.importers.lowering.fourier import Complex
from jacobound.importers.lowering.infinities import InfiniteError, without_infinities
from jacobound.importers.lowering.piecewise import JUMPS, Pieces, piecewise
from jacobound.importers.lowering.steps import MIXED, AffineSteps
from jacobound.importers.torch.operations.call import INFINITE, Absent, Call, Turned, Value, is_node, leaves, map_values
from jacobound.importers.torch.operations.spectra import COMPLEX, TRANSFORMS, spectral
from jacobound.importers.torch.operations.turned import straightened
from jacobound.importers.torch.rules import ALIKE, EXACT, ROUNDING, RULES, TURNING
from jacobound.importers.torch.tracing.places import at, cut_before, place, refused_layer, step_names
from jacobound.importers.torch.tracing.program import Program
from jacobound.importers.torch.tracing.refusals import LAYERS, advice, unknown

PRELU: Final = ("aten.prelu.default", "aten._prelu_kernel.default")


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


def lower(
    program: Program,
    steps: AffineSteps,
    shape: tuple[int, ...],
    until: str | None = None,
    weights: Mapping[str, Tensor] | None = None,
    *,
    name: str = "input",
) -> Lowered:
    """Lower a traced module with one input of points of `shape` and one output.

    Args:
        until: name of the operation (`step_names`) whose result is the output; None for the module's own.
        weights: values in the place of the traced ones, by their names in the module.
        name: of the input.

    Raises:
        UnsupportedOpError, InvalidModelError: see `from_torch`.
    """
    names = step_names(program)
    values: dict[Step, Value] = dict(_placeholders(program, Input(shape, name), weights or {}))
    rounded = False

    def refused(step: Step, reason: str) -> UnsupportedOpError:
        before = cut_before(step, names, lambda source: is_node(values.get(source)))
        return _refusal(step, reason, before)

    for step in program.graph.nodes:
        if step.op == "call_function" and step in names:
            args = torch.fx.map_arg(tuple(step.args), values.__getitem__)
            kwargs = torch.fx.map_arg(dict(step.kwargs), values.__getitem__)
            values[step] = _evaluate(step, names[step], args, kwargs, steps, refused)
            rounded = rounded or _rounds(step, args, kwargs)
            if until is not None and names[step] == until and not isinstance(values[step], list):
                return Lowered(_finite(_result(values[step], f"'{until}'"), values, refused, steps.like), rounded)
        elif step.op == "get_attr":
            values[step] = None  # a traced branch; the operation that takes it is refused by name
        elif step.op == "output":
            _refuse_changes(program)
            results = leaves(torch.fx.map_arg(step.args[0], values.__getitem__))
            output = _result(results[program.result], "the module's output")
            return Lowered(_finite(output, values, refused, steps.like), rounded)
    raise InvalidModelError("the traced module has no output")


def _result(value: Value, what: str) -> Node:
    if isinstance(value, Turned):
        raise value.error
    if isinstance(value, Pieces):
        raise value.error or UnsupportedOpError(JUMPS)
    if isinstance(value, Absent):
        raise UnsupportedOpError(f"{what} can not be bounded. {value.reason}")
    if isinstance(value, Complex):
        raise UnsupportedOpError(f"{what} can not be bounded. {COMPLEX}")
    if not is_node(value):
        raise InvalidModelError(f"{what} does not depend on its input; there is nothing to bound")
    return value


def _finite(
    output: Node, values: Mapping[Step, Value], refused: Callable[[Step, str], UnsupportedOpError], like: Tensor
) -> Node:
    """The output with numbers only: what masks with minus infinity leave out is left out of what reads them."""
    try:
        return without_infinities(output, like)
    except InfiniteError as error:
        for step, value in values.items():
            if error.origin in leaves(value):
                raise refused(step, f"{INFINITE} Here {error}") from None
        raise


def _placeholders(program: Program, source: Input, weights: Mapping[str, Tensor]) -> dict[Step, Value]:
    """The input node and the weights, checked under the names they have in the module."""
    found: dict[Step, Value] = {}
    for step, name in program.placeholders().items():
        if name is None:
            found[step] = source
            continue
        value = weights.get(name, program.values.get(name))
        if not isinstance(value, Tensor):
            raise InvalidModelError(f"the module holds '{name}', a {type(value).__name__}; only tensors are understood")
        if step.users and (value.is_floating_point() or value.is_complex()):
            # Constants may be infinite where an operation can take that (the mask of attention).
            exact_weight(value if name in program.parameters else _without_infinities(value), name)
        # A graph owns its weights: what the module shares with its user may change. Training gives its own ones.
        found[step] = value.detach() if name in weights else value.detach().clone()
    return found


def _without_infinities(constant: Tensor) -> Tensor:
    return (
        torch.where(constant.isinf(), torch.zeros_like(constant), constant)
        if constant.is_floating_point()
        else constant
    )


def _refuse_changes(program: Program) -> None:
    if program.changed:
        raise InvalidModelError(
            f"the module changes '{program.changed[0]}' when it is called, so it is not one function; remove that, or "
            "call module.eval() if it is a statistic of training"
        )


def _evaluate(
    step: Step,
    name: str,
    args: tuple[Value, ...],
    kwargs: Mapping[str, Value],
    steps: AffineSteps,
    refused: Callable[[Step, str], UnsupportedOpError],
) -> Value:
    """The value of one operation; `refused` makes the error that names it and its place."""
    op = str(step.target)
    if step.target is operator.getitem:
        return args[0][args[1]]
    if _draws(op, step.target):
        raise InvalidModelError(
            f"{op}{at(step)} draws random numbers, so the module is not one function; "
            "if it is a part of training, call module.eval() first"
        )
    found = leaves([args, kwargs])
    for value in found:
        if isinstance(value, Absent):
            raise refused(step, value.reason)
    pieces = [value for value in found if isinstance(value, Pieces)]
    if pieces:
        return _in_pieces(pieces, step, name, args, kwargs, steps, refused)
    waiting = next((value for value in found if isinstance(value, Turned)), None)
    if waiting is None and not any(is_node(value) or isinstance(value, Complex) for value in found):
        with torch.no_grad():
            return step.target(*args, **kwargs)  # type: ignore[operator]
    call = Call(op, step.target, args, kwargs, steps, name, step.meta.get("val"))  # type: ignore[arg-type]
    try:
        _check_dtype(call)
        rule = TRANSFORMS.get(op, RULES.get(op, _activate))
        if any(isinstance(one, Complex) for one in found) and op not in TRANSFORMS:
            value = spectral(call, rule, rule in ALIKE)
        elif waiting is None or rule in TURNING:
            value = rule(call)
        else:
            value = straightened(call, rule, rule is _activate and op not in PRELU)
        _check_values(call, value)
    except (UnsupportedOpError, ShapeError) as error:
        if waiting is not None and str(error) == str(waiting.error):
            raise waiting.error from None
        raise refused(step, str(error)) from None
    except JacoboundError:
        raise
    except Exception as error:
        reason = f"It is used in a way that is not understood ({type(error).__name__}: {error})."
        raise refused(step, reason) from error

    def placed(value: Value) -> Value:
        """With the place of the movement that the points were moved away by, or of the comparison."""
        if isinstance(value, Pieces):
            return replace(value, error=refused(step, JUMPS))
        is_new = isinstance(value, Turned) and value is not waiting
        return replace(value, error=refused(step, MIXED) if waiting is None else waiting.error) if is_new else value

    return map_values(value, placed)


def _in_pieces(
    pieces: list[Pieces],
    step: Step,
    name: str,
    args: tuple[Value, ...],
    kwargs: Mapping[str, Value],
    steps: AffineSteps,
    refused: Callable[[Step, str], UnsupportedOpError],
) -> Value:
    """The value of an operation on values that are other ones on each stretch."""

    def on(start: float) -> Value:
        given = map_values([list(args), dict(kwargs)], lambda x: x.on(start) if isinstance(x, Pieces) else x)
        return _evaluate(step, name, tuple(given[0]), given[1], steps, refused)

    try:
        return piecewise(pieces, on, steps, name)
    except Exception as error:
        raise pieces[0].error or error from None


def _refusal(step: Step, reason: str, before: str | None) -> UnsupportedOpError:
    """The error for an operation, or for the layer of torch.nn that is refused as a whole with it."""
    op, layer = str(step.target), refused_layer(step)
    if layer is not None:
        path, kind = layer
        own = f" '{path}'" if path else ""
        reason = f"It is a part of the layer{own}, a {kind}: {LAYERS[kind][0]}."
    return unsupported(op, place(step), reason, advice(op, None if layer is None else layer[1], before))


def _draws(op: str, target: object) -> bool:
    """Whether an operation is random; rules look at dropout and rrelu themselves, recurrent layers only may be."""
    if op in RULES or any(part in op for part in ("lstm", "gru", "rnn_", "attention")):
        return False
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _check_dtype(call: Call) -> None:
    """Nodes are real numbers: an operation that turns one into half precision is refused."""
    for result in leaves(call.result):
        if isinstance(result, Tensor) and result.dtype in (torch.float16, torch.bfloat16):
            raise UnsupportedOpError(f"It computes in {result.dtype}.")


def _check_values(call: Call, value: Value) -> None:
    """Results that depend on the input are real numbers."""
    for node, result in zip(leaves(value), leaves(call.result), strict=False):
        if is_node(node) and isinstance(result, Tensor) and result.dtype not in (torch.float32, torch.float64):
            raise UnsupportedOpError(f"It rounds its result to {result.dtype}.")


def _activate(call: Call) -> Node:
    """An elementwise activation from the registry."""
    builder = torch_builder(call.op)
    if builder is None or not is_node(call.args[0]):
        raise UnsupportedOpError(unknown(call.op))
    rest = list(call.args[1:])
    if any(is_node(value) for value in leaves([rest, call.kwargs])):
        raise UnsupportedOpError("Its parameters depend on the input.")
    source = call.args[0]
    if call.op in PRELU:
        rest[0] = _per_channel(exact_weight(rest[0], f"{call.name}.weight"), source, call)
    return elementwise(builder(*rest, **call.kwargs), source, call.name, call.steps.like)


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
    if not any(is_node(value) for value in values) and any(tensor.is_floating_point() for tensor in tensors):
        return True
    numbers = [value for value in values if isinstance(value, float)]
    return (rule is None or rule in ROUNDING) and any(torch.tensor(n, dtype=torch.float32).item() != n for n in numbers)
