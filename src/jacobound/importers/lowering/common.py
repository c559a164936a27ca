"""What every importer shares: refusals, weights taken exactly, and the check at the door.

The affine steps that importers share are in ``importers/lowering/steps.py``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import unit
from jacobound.errors import InvalidModelError, UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.importers.lowering.agreement import Evaluation, evaluated
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
    subject: str,
    dtype: torch.dtype = torch.float64,
    roundoff: float | None = None,
    points: int = 5,
    cause: str = "Report this, with the model if you can",
) -> None:
    """Compare an imported graph with the model it came from, on random points of several scales.

    The two may differ by what rounding does to either (`agreement.evaluated`), and not by more.

    Args:
        graph: the imported graph.
        original: maps a batch of points (n, *in_shape) in `dtype` to outputs (n, *out_shape).
        example: points (n, *in_shape) near which the two are compared as well.
        subject: what the model is called in the message.
        dtype: in which the original is run.
        roundoff: unit roundoff of the original; None for that of `dtype`.
        points: number of points.
        cause: what may be the matter when they differ, and what to do, as a sentence without its full stop.

    Raises:
        InvalidModelError: when shapes or values differ.
    """
    compared: Tensor | None = None
    for x in test_points(graph, example, points, dtype):
        finite = compare(original(x), evaluated(graph, x, dtype, roundoff or unit(dtype)), subject, cause).any(0)
        compared = finite if compared is None else compared | finite
    refuse_infinite(compared, subject)


def test_points(graph: Graph, example: Tensor, count: int, dtype: torch.dtype) -> list[Tensor]:
    """Batches of random points: near the example, and around zero on three scales; shape (count, *in_shape) each."""
    generator, found = torch.Generator("cpu").manual_seed(0), []
    for scale in (None, 1.0, 0.05, 10.0):
        x = torch.randn(count, *graph.in_shape, generator=generator, dtype=torch.float64, device="cpu")
        centre = example[torch.arange(count, device=example.device) % len(example)].to("cpu", torch.float64)
        x = centre + 0.01 * (1 + centre.abs()) * x if scale is None else scale * x
        found.append(x.to(example.device, dtype))
    return found


def compare(expected: Tensor, found: Evaluation, subject: str, cause: str) -> Tensor:
    """Where both are finite, shape (n, *out_shape).

    Args:
        expected: values of the original at the points of `found`.

    Raises:
        InvalidModelError: when they differ by more than rounding.
    """
    got = found.values
    if expected.shape != got.shape:
        raise InvalidModelError(
            f"{subject} maps the points to outputs of shape {tuple(expected.shape)}, its imported graph to "
            f"{tuple(got.shape)}: it depends on the size of the batch. Make it treat every point alike"
        )
    precise = expected.dtype == torch.float64
    expected = expected.to(got)
    finite = torch.isfinite(expected) & torch.isfinite(got)
    both = torch.isfinite(expected) == torch.isfinite(got)
    undefined = expected.isnan()  # outside the domain of a logarithm, say
    known = torch.isfinite(found.allowed)
    if (precise and not (both | ~known).all()) or (undefined & ~got.isnan() & known).any():
        raise InvalidModelError(
            f"{subject} and its imported graph are not finite at the same points; look for overflow, or for "
            "operations that give NaN"
        )
    error = torch.where(finite, (expected - got).abs(), 0.0)
    excess = torch.where(error > found.allowed, error / found.allowed, 0.0)
    if excess.any():
        k = int(excess.argmax())
        theirs, ours, apart, most = (float(x.flatten()[k]) for x in (expected, got, error, found.allowed))
        raise InvalidModelError(
            f"the imported graph is not {subject}: outputs differ by {apart:.3g} ({theirs:.9g}, in the graph "
            f"{ours:.9g}), and rounding explains no more than {most:.2g}. {cause}"
        )
    return finite


def refuse_infinite(compared: Tensor | None, subject: str) -> None:
    """Refuse a model with an output that was finite at no point.

    Raises:
        InvalidModelError: says so.
    """
    if compared is not None and not compared.all():
        raise InvalidModelError(
            f"{subject} has an output that is not finite at any point near the example, nor at random points; look for "
            "overflow, or pass an example where its logarithms, roots and quotients are defined"
        )
