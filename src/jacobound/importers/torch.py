"""`from_torch`: a PyTorch module becomes a graph, or is refused by the name and place of what is not understood."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from jacobound.errors import InvalidModelError, ShapeError, UnsupportedOpError
from jacobound.graph import Graph
from jacobound.importers.common import check_storage, verify
from jacobound.importers.steps import AffineSteps
from jacobound.importers.torch_lowering import Lowered, lower

BATCH = 3
"""Length of the batch that modules are traced with: more than one, so that operations that mix points show."""


def from_torch(module: nn.Module, example: Tensor, *, batched: bool = True) -> Graph:
    """The graph of a module in evaluation mode.

    The graph is the real-number function of the stored weights, in float64 (exact for float32 weights). Constants are
    what the module computes with: a number in ``x + 0.1`` is rounded to float32 when the module computes in float32,
    and a weight that the module derives from others (weight norm, spectral norm) is the float that torch derives, in
    the weights' own dtype. Options of layers (slope, alpha, eps) are the Python numbers given. Factors that are no
    floats (1/9 of a pooling window, gamma / sqrt(var + eps)) are enclosed. Nothing is folded together that would
    round.

    Before it is returned the graph is compared with the module on random points, in float64 where the module runs in
    float64. The values themselves are estimates; bounds computed on the graph are certified for the graph.

    Args:
        module: any module whose operations are affine, data movement, or known activations. It is not changed.
        example: a batch of points as the module takes it, shape (n, *in_shape) with n >= 1; only its shape and, for
            the comparison, its magnitude matter.
        batched: False when the module takes a single point without batch axis; `example` is then one point.

    Returns:
        A graph on points of shape in_shape, on the device of the weights.

    Raises:
        UnsupportedOpError: an operation is neither affine nor a known activation, mixes the points of a batch, or the
            module can not be traced (control flow that depends on values); names the operation, line and module.
        InvalidModelError: training mode, NaN or infinite weights, weights that are not float32 or float64, several
            outputs, or a graph that does not give the module's values.
        ShapeError: the example is not a batch of points of real numbers, or the module does not take it.
    """
    if not isinstance(module, nn.Module):
        raise InvalidModelError(f"from_torch takes a torch.nn.Module, not {type(module).__name__}")
    _refuse_training(module)
    _refuse_storage(module)
    example = _as_example(module, example, batched)
    traced = example if not batched else example[:1].expand(BATCH, *example.shape[1:]).clone()
    shape = tuple(example.shape[1:]) if batched else tuple(example.shape)
    steps = AffineSteps(torch.zeros((), dtype=torch.float64, device=example.device), BATCH if batched else None)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _evaluation(module):
            _try(module, traced, batched)
            lowered = lower(_trace(module, traced), steps, shape)
        graph = Graph(lowered.output)
        _compare(graph, module, example if batched else example[None], batched, lowered)
    return graph


def _refuse_training(module: nn.Module) -> None:
    """Layers that behave differently in training must be in evaluation mode already."""
    kinds = (
        nn.modules.batchnorm._NormBase,
        nn.modules.dropout._DropoutNd,
        nn.RReLU,
        nn.FractionalMaxPool2d,
        nn.FractionalMaxPool3d,
    )
    for name, layer in module.named_modules():
        if layer.training and isinstance(layer, kinds):
            raise InvalidModelError(
                f"'{name or type(module).__name__}' ({type(layer).__name__}) is in training mode, where the module is "
                "not one function; call module.eval() first"
            )


def _refuse_storage(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        check_storage(parameter, name)
    for name, buffer in module.named_buffers():
        # Integer buffers count batches or hold positions; torch says where they meet real numbers.
        if buffer.is_floating_point() or buffer.is_complex() or buffer.is_meta or buffer.is_quantized:
            check_storage(buffer, name)


def _as_example(module: nn.Module, example: Tensor, batched: bool) -> Tensor:
    """The example on the device and in the dtype of the weights, after checking that it can be one."""
    example = torch.as_tensor(example).detach()
    if example.dtype not in (torch.float32, torch.float64):
        raise ShapeError(
            f"the example is {example.dtype}; bounds are for inputs of real numbers: pass float32 or float64"
            + (
                ", and import the part of the model behind the embedding or table"
                if not example.is_floating_point()
                else ""
            )
        )
    if batched and (example.dim() == 0 or example.shape[0] == 0):
        raise ShapeError(
            f"the example has shape {tuple(example.shape)}; pass a batch of points (n, *shape) with n >= 1, "
            "or batched=False for a module that takes one point"
        )
    if example.numel() == 0:
        raise ShapeError(f"the example of shape {tuple(example.shape)} has no entries")
    weights = [tensor for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    return example.to(device=weights[0].device, dtype=weights[0].dtype) if weights else example


@contextmanager
def _evaluation(module: nn.Module) -> Iterator[None]:
    """Every submodule in evaluation mode inside; the flags are put back as they were."""
    flags = [(layer, layer.training) for layer in module.modules()]
    try:
        for layer, _ in flags:
            layer.training = False
        yield
    finally:
        for layer, training in flags:
            layer.training = training


def _try(module: nn.Module, traced: Tensor, batched: bool) -> None:
    """Run the module once, so that a wrong example is told apart from what can not be traced."""
    try:
        result = module(traced)
    except Exception as error:
        taken = (
            f"a batch of {len(traced)} points of shape {tuple(traced.shape[1:])}"
            if batched
            else (f"one point of shape {tuple(traced.shape)}")
        )
        other = (
            "if it takes one point without batch axis, pass batched=False"
            if batched
            else ("if it takes a batch, pass batched=True")
        )
        raise ShapeError(
            f"the module does not take {taken}: {_first_line(error)}. Pass an example of the right shape; {other}"
        ) from error
    if not isinstance(result, Tensor):
        several = f"{len(result)} values" if isinstance(result, tuple | list | dict) else "no tensor"
        raise InvalidModelError(
            f"the module returns {several} ({type(result).__name__}); wrap it in a module that returns the one tensor "
            "to bound"
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch.export from writing its internals to the terminal when it fails; the error says enough."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _trace(module: nn.Module, traced: Tensor) -> ExportedProgram:
    """The module's operations without in-place changes, none of them decomposed."""
    try:
        with _quietly():
            return torch.export.export(module, (traced,), strict=False).run_decompositions({})
    except Exception as error:
        raise UnsupportedOpError(
            f"{type(module).__name__} can not be traced by torch.export{_user_line(error)}: {type(error).__name__}: "
            f"{_first_line(error)}. Branches and loops must not depend on values of the input: replace them by "
            "operations on tensors, or import the parts between them"
        ) from error


def _compare(graph: Graph, module: nn.Module, points: Tensor, batched: bool, lowered: Lowered) -> None:
    """The check at the door, with the module in the mode that the user left it in."""
    try:
        _compare_in_mode(graph, module, points, batched, lowered)
    except InvalidModelError:
        if not any(layer.training for layer in module.modules()):
            raise
        with _evaluation(module):
            _compare_in_mode(graph, module, points, batched, lowered)  # raises when the graph itself is wrong
        raise InvalidModelError(
            f"{type(module).__name__} is in training mode and gives other values there than in evaluation mode; call "
            "module.eval() first"
        ) from None


def _compare_in_mode(graph: Graph, module: nn.Module, points: Tensor, batched: bool, lowered: Lowered) -> None:
    """In float64 where the module can be run in float64."""
    subject = type(module).__name__
    precise = _in_double(module)
    if precise is not None:
        run = _runner(precise, batched)
        try:
            with torch.no_grad():
                double = run(points.double()).dtype == torch.float64
        except Exception:
            double = False
        if double:
            tolerance = 1e-5 if lowered.rounded else 1e-9
            return verify(graph, run, example=points, tolerance=tolerance, subject=subject)
    return verify(graph, _runner(module, batched), example=points, tolerance=1e-4, subject=subject, dtype=points.dtype)


def _in_double(module: nn.Module) -> nn.Module | None:
    """A copy in float64, in the module's own mode, or None when it can not be copied."""
    try:
        return copy.deepcopy(module).double()
    except Exception:
        return None


def _runner(module: nn.Module, batched: bool) -> Callable[[Tensor], Tensor]:
    return module if batched else lambda points: torch.stack([module(point) for point in points])


def _user_line(error: Exception) -> str:
    """The innermost line outside torch and this package that led to an error: " at model.py:41"."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and not frame.filename.startswith(ours)
    ]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
