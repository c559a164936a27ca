"""``x / max(||x||, eps)`` where a model writes it out: one normalisation, instead of a quotient of two values."""

from __future__ import annotations

import torch
from torch import Tensor

from jacobound.graph.nodes import Affine, Elementwise, Node, Vector
from jacobound.graph.vector.normalising import Normalised
from jacobound.graph.vector.smooth import Length
from jacobound.operators.kinds import Identity, Select


def normalisation(top: Node, bottom: Node, name: str, floor: float | None, like: Tensor) -> Node | None:
    """The quotient of two nodes of one shape as a normalisation of rows; None when it is none.

    Args:
        floor: what the user claims about the mean square of rows.
    """
    limited, back = _unmoved(bottom, like)
    if not isinstance(limited, Elementwise):
        return None
    kind, _, numbers = limited.activation.name.partition(":")
    limits = [float(part) for part in numbers.split(",") if part] if kind == "clip" else []
    if len(limits) != 2 or limits[0] <= 0 or limits[1] != float("inf"):
        return None
    length, inner = _unmoved(limited.source, like)
    if not isinstance(length, Vector) or not isinstance(length.function, Length):
        return None
    rows = length.source
    source, places = (top, _positions(top, like)) if rows is top else _unmoved(rows, like)
    if source is not top or back is None or inner is None or places is None:
        return None
    count = rows.shape[-1]
    flat = places.flatten()
    inverse = torch.full_like(_positions(top, like).flatten(), -1)
    inverse[flat] = torch.arange(len(flat), device=flat.device)
    row_of_divisor = inner.flatten()[back.flatten()]
    if len(flat) != len(inverse) or not torch.equal(row_of_divisor, inverse // count) or bool((inverse < 0).any()):
        return None
    found = Vector(Normalised(rows.shape, like, limits[0], floor), rows, f"{name}.rowwise")
    return Affine(((Select(inverse.reshape(top.shape), rows.shape, like), found),), None, name)


def _unmoved(node: Node, like: Tensor) -> tuple[Node, Tensor | None]:
    """What a node's entries were moved from, and at which flat positions they stood there; None when one is zero."""
    places: Tensor | None = _positions(node, like)
    while isinstance(node, Affine) and len(node.terms) == 1 and node.bias is None:
        operator, source = node.terms[0]
        if isinstance(operator, Select):
            places = None if places is None else operator.index.flatten()[places]
        elif not isinstance(operator, Identity):
            break
        if places is None or bool((places < 0).any()):
            return node, None
        node = source
    return node, places


def _positions(node: Node, like: Tensor) -> Tensor:
    count = 1
    for length in node.shape:
        count *= length
    return torch.arange(count, device=like.device).reshape(node.shape)
