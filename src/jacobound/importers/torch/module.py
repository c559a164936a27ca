"""`from_torch`: a PyTorch module becomes a graph, or is refused by the name and place of what is not understood."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from jacobound.errors import JacoboundError
from jacobound.graph.graph import Graph
from jacobound.graph.source import Source, called
from jacobound.importers.lowering.steps import AffineSteps
from jacobound.importers.torch.door.checks import (
    as_example,
    not_taken,
    refuse_arguments,
    refuse_autocast,
    refuse_storage,
    refuse_training,
    run_once,
)
from jacobound.importers.torch.door.comparison import Comparison
from jacobound.importers.torch.door.copies import copied, evaluation, settle_weights
from jacobound.importers.torch.lowering import Lowered, lower
from jacobound.importers.torch.operations.attention import open_attention, opened
from jacobound.importers.torch.tracing.function import as_module
from jacobound.importers.torch.tracing.places import step_names
from jacobound.importers.torch.tracing.process import alone, eager, known
from jacobound.importers.torch.tracing.sequence import is_sequence, recorded
from jacobound.importers.torch.tracing.several import inner_name, is_several, side_by_side
from jacobound.importers.torch.tracing.trace import trace
from jacobound.importers.torch.tracing.until import Cut, ended_at, find_cut, unknown_name

BATCH = 3
"""Length of the batch that modules are traced with: more than one, so that operations that mix points show."""


def from_torch(
    module: nn.Module | ExportedProgram | Callable[..., Tensor],
    example: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor],
    *,
    batched: bool = True,
    until: str | None = None,
    variance_floor: float | None = None,
) -> Graph:
    """The graph of a module in evaluation mode, or of a function of tensors, on the device of the weights.

    The graph is the real-number function of the stored weights, in float64 (exact for float32 weights). Constants are
    what the module computes with: a number in ``x + 0.1`` is rounded to float32 when the module computes in float32,
    and a weight that the module derives from others (weight norm, spectral norm, orthogonal or any other
    parametrisation) is the float that torch derives once in evaluation mode, in the weights' own dtype. Options of
    layers (slope, alpha, eps) are the Python numbers given. Factors that are no floats (1/9 of a pooling window,
    gamma / sqrt(var + eps), weights of an interpolation) are enclosed. Nothing is folded together that would round.

    Before it is returned the graph is compared with the module on random points, in float64 where it runs in that and
    in its own dtype, one, three and five at a time, with and without gradients: they may differ by what rounding
    explains (`agreement.evaluated`). Values are estimates; bounds computed on the graph are certified for the graph,
    which shares no tensor with the module. Threads that import at once take turns.

    Args:
        module: any module whose operations are affine, data movement, extrema, known activations, or functions of whole
            vectors (softmax, normalisation, products, attention), through which only constants are known. A copy of it
            is traced (a module that can not be copied is put in evaluation mode for that time); it is run itself, and
            attributes and buffers are put back. Layers that behave differently in training must be in evaluation mode
            already. A Python function may use tensors and modules around it. An `ExportedProgram` counts as its module.
        example: a batch of points as the module takes it, shape (n, *in_shape) with n >= 1; only its shape and, for
            the comparison, its magnitude matter. A tuple of such tensors, or a dictionary by names of arguments, for a
            module with several inputs: points of shape (total,) then hold them one behind the other in this order,
            each row by row (`Box.side_by_side` joins a region for each).
        batched: False when the module takes a single point without batch axis; `example` is then one point.
        until: where to cut the model, for example before a final softmax. The qualified name of a submodule
            ("features.3", "fc") whose output becomes the output of the graph; when the submodule is called several
            times its last call, or with "fc#1", ... the call of that number. Otherwise the name of one operation as
            it stands in the graph ("relu", "add_1"). None for the module's own output.
        variance_floor: **an assumption**: what layer, group, instance and RMS normalisation and `normalize` divide by
            is never smaller, as a variance (mean square) of every row; results name it (`Provenance.assumptions`).
            None assumes nothing: constants are refused unless the region keeps it positive; 0 accepts what eps gives.

    Raises:
        UnsupportedOpError: an operation is none of these, mixes the points of a batch, or can not be traced (control
            flow that depends on values); names it, line and module, and where the model could be cut before it.
        InvalidModelError: training mode, NaN or infinite weights, weights that are not float32 or float64, several
            outputs or arguments, nothing called `until` (lists names like it), or a graph with other values.
        ShapeError: the example is not a batch of points of real numbers, or the module does not take it.
        UnsafeArithmeticError: autocast is active.
    """
    module, origin = as_module(module), Source("torch", called(module), until=until)
    with known(module), alone(module):
        refuse_training(module)
        refuse_storage(module)
        module, points, name = _one_input(module, example, batched)
        refuse_autocast(points.device)
        return _imported(module, points, batched, inner_name(module, until), variance_floor, name).named(origin)


def _imported(
    module: nn.Module, points: Tensor, batched: bool, until: str | None, floor: float | None, name: str
) -> Graph:
    """The graph of a module of one input: a sequence of torch's layers as it stands, whatever else as it is traced."""
    own, found = copied(module), None
    if until is None and own is not None and is_sequence(own):
        found = _recorded(module, own, points, batched, floor)
    if found is None:
        own = module if own is None else open_attention(own)
        with eager():
            found = _traced(module, own, points, batched, until, floor, name)
    return found


def _one_input(module: nn.Module, example: object, batched: bool) -> tuple[nn.Module, Tensor, str]:
    """The module as one of a single input, its example, and what the input is called."""
    if not is_several(example):
        points = as_example(module, example, batched)
        refuse_arguments(module)
        return module, points, "input"
    keys = tuple(map(str, example)) if isinstance(example, Mapping) else None
    given = list(example.values()) if isinstance(example, Mapping) else list(cast(Sequence[object], example))
    parts = [as_example(module, one, batched) for one in given]
    refuse_arguments(module, len(parts))
    return side_by_side(module, parts, keys, batched)


def _recorded(module: nn.Module, own: nn.Module, example: Tensor, batched: bool, floor: float | None) -> Graph | None:
    """The graph of a sequence of torch's layers; None where it is left to the tracer, refusals among them."""
    traced, steps = _prepared(example, batched, floor)
    try:
        with evaluation(own):
            program = recorded(own, traced)
            return program and _checked(lower(program, steps, _shape(example, batched)), module, example, batched)
    except Exception:  # whatever it is, the tracer says it in the same words as for every module
        return None


def _prepared(example: Tensor, batched: bool, floor: float | None) -> tuple[Tensor, AffineSteps]:
    """What a module is traced with, and what builds its nodes."""
    traced = example if not batched else example[:1].expand(BATCH, *example.shape[1:]).clone()
    like = torch.zeros((), dtype=torch.float64, device=example.device)
    return traced, AffineSteps(like, BATCH if batched else None, floor)


def _shape(example: Tensor, batched: bool) -> tuple[int, ...]:
    return tuple(example.shape[1:]) if batched else tuple(example.shape)


def _traced(
    module: nn.Module,
    own: nn.Module,
    example: Tensor,
    batched: bool,
    until: str | None,
    floor: float | None,
    name: str,
) -> Graph:
    """The graph of `own`, which is a private copy of `module` or, failing that, `module` itself."""
    traced, steps = _prepared(example, batched, floor)
    with evaluation(own), opened(own):
        derived = own is not module and settle_weights(own)
        cut = None if until is None else _cut(own, traced, batched, until)
        operation = until if cut is None else None
        if operation is None:
            with ended_at(own, cut):
                run_once(own, traced, batched, until)
        program = trace(own, traced, cut)
        if operation is not None and operation not in step_names(program).values():
            raise unknown_name(operation, own, program)
        lowered = lower(program, steps, _shape(example, batched), operation, name=name)
    derived = derived and example.dtype == torch.float32
    return _checked(lowered, module, example, batched, derived, cut, operation)


def _checked(
    lowered: Lowered,
    module: nn.Module,
    example: Tensor,
    batched: bool,
    derived: bool = False,
    cut: Cut | None = None,
    operation: str | None = None,
) -> Graph:
    """The graph, compared with the module; `derived` when weights were computed and rounded."""
    graph = Graph(lowered.output)
    points = example if batched else example[None]
    Comparison(module, points, batched, lowered.rounded or derived, cut, operation).check(graph)
    return graph


def _cut(own: nn.Module, traced: Tensor, batched: bool, until: str) -> Cut | None:
    """The call of a submodule that `until` names, or None when it names an operation."""
    try:
        return find_cut(own, traced, until)
    except JacoboundError:
        raise
    except Exception as error:
        raise not_taken(own, traced, batched, error) from error
