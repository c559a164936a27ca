"""What every importer shares: refusals, weights taken exactly, and the check at the door.

The affine steps that importers share are in ``steps.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph import Graph, Node
from jacobound.words import not_finite


def unsupported(op: str, place: str, reason: str, advice: str) -> UnsupportedOpError:
    """The refusal of one operation: what, where (file and line, module or node name), why, and what to do next."""
    where = f" at {place}" if place else ""
    return UnsupportedOpError(f"{op}{where}. {reason} {advice}")


def check_storage(weight: Tensor, name: str) -> None:
    """Refuse a weight that is no dense tensor of float32 or float64.

    Raises:
        InvalidModelError: names the tensor and what to do.
    """
    if torch.nn.parameter.is_lazy(weight):
        raise InvalidModelError(f"'{name}' has no shape yet; run the module once on an example first")
    if weight.is_meta:
        raise InvalidModelError(f"'{name}' is on the meta device and has no values; load the weights first")
    if weight.layout != torch.strided:
        raise InvalidModelError(f"'{name}' is sparse ({weight.layout}); make it dense with .to_dense() first")
    if weight.is_quantized:
        raise InvalidModelError(f"'{name}' is quantised ({weight.dtype}); dequantise the model first")
    if weight.dtype in (torch.float16, torch.bfloat16):
        raise InvalidModelError(
            f"'{name}' is {weight.dtype}, whose products round far more than the bounds account for. "
            "module.double() keeps these weights exactly; import that"
        )
    if weight.dtype not in (torch.float32, torch.float64):
        raise InvalidModelError(f"'{name}' is {weight.dtype}; weights must be float32 or float64")


def exact_weight(weight: Tensor, name: str) -> Tensor:
    """A weight as float64, exactly (detached, on its own device).

    Raises:
        InvalidModelError: when it is not a dense finite tensor of float32 or float64.
    """
    check_storage(weight, name)
    if not torch.isfinite(weight).all():
        raise InvalidModelError(not_finite(f"'{name}'", nan=bool(weight.isnan().any())))
    return weight.detach().to(torch.float64)


def verify(
    graph: Graph,
    original: Callable[[Tensor], Tensor],
    *,
    example: Tensor,
    tolerance: float,
    subject: str,
    dtype: torch.dtype = torch.float64,
    points: int = 5,
) -> None:
    """Compare an imported graph with the model it came from, on random points of several scales.

    Args:
        graph: the imported graph.
        original: maps a batch of points (n, *in_shape) in `dtype` to outputs (n, *out_shape).
        example: points (n, *in_shape) near which the two are compared as well.
        tolerance: largest error relative to the largest output. A thousandth of it, relative to the largest value
            inside the network, is forgiven besides: large values that cancel leave that much rounding.
        subject: what the model is called in the message.
        dtype: in which the original is run.
        points: number of points; choose another one than the batch the model was traced with.

    Raises:
        InvalidModelError: when shapes or values differ.
    """
    generator = torch.Generator().manual_seed(0)
    compared: Tensor | None = None
    for scale in (None, 1.0, 0.05, 10.0):
        x = torch.randn(points, *graph.in_shape, generator=generator, dtype=torch.float64)
        centre = example[torch.arange(points) % len(example)].to("cpu", torch.float64)
        x = centre + 0.01 * (1 + centre.abs()) * x if scale is None else scale * x
        x = x.to(example.device, dtype)
        with torch.no_grad():
            try:
                expected = original(x)
            except Exception as error:
                raise InvalidModelError(
                    f"{subject} does not take a batch of {points} points ({type(error).__name__}: {error}); it depends "
                    "on the size of the batch. Make it treat every point alike"
                ) from error
            values = graph.values(x)
        finite = _compare(expected, values[graph.output], values, tolerance, subject).any(0)
        compared = finite if compared is None else compared | finite
    if compared is not None and not compared.all():
        raise InvalidModelError(
            f"{subject} has an output that is not finite at any point near the example, nor at random points; look for "
            "overflow, or pass an example where its logarithms, roots and quotients are defined"
        )


def _compare(expected: Tensor, got: Tensor, values: Mapping[Node, Tensor], tolerance: float, subject: str) -> Tensor:
    """Raise unless `got` is `expected` up to rounding (see `verify`); returns where both are finite."""
    if expected.shape != got.shape:
        raise InvalidModelError(
            f"{subject} maps the points to outputs of shape {tuple(expected.shape)}, its imported graph to "
            f"{tuple(got.shape)}: it depends on the size of the batch. Make it treat every point alike"
        )
    precise = expected.dtype == torch.float64
    expected = expected.to(got)
    finite = torch.isfinite(expected) & torch.isfinite(got)
    undefined = expected.isnan()  # outside the domain of a logarithm, say
    if (precise and not torch.equal(torch.isfinite(expected), torch.isfinite(got))) or (undefined & ~got.isnan()).any():
        raise InvalidModelError(
            f"{subject} and its imported graph are not finite at the same points; look for overflow, or for "
            "operations that give NaN"
        )

    def largest(x: Tensor) -> float:
        return x.abs().nan_to_num(nan=0.0, posinf=0.0).amax().item() if x.numel() else 0.0

    error, size = largest(torch.where(finite, expected - got, 0.0)), largest(expected)
    if not error <= tolerance * size + 1e-3 * tolerance * max(largest(value) for value in values.values()):
        raise InvalidModelError(
            f"the imported graph is not {subject}: outputs differ by {error:.3g} where the largest is {size:.3g} "
            f"(allowed: {tolerance:.0e} relative). The model does something at run time that its traced operations "
            "do not show (branches on values, randomness, the size of the batch); simplify it, or report this"
        )
    return finite
