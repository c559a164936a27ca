"""Norms as users write them: exponents 1, 2 and inf, pairs of them, and `Weighted` ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jacobound.checks import shown
from jacobound.errors import InvalidOptionError, ShapeError
from jacobound.graph.units import real_tensor
from jacobound.stored import stored

WORDS = {"1": 1.0, "2": 2.0, "inf": math.inf}


@stored
@dataclass(frozen=True, eq=False)
class Weighted:
    """The norm ``|x|_w = |w x|_p`` with a weight for every entry: distances in units of 1 / w.

    Args:
        p: 1, 2 or inf.
        weights: finite numbers above 0, taken as exact: one for every entry of the input (or of the rows of the
            output), one per channel of the input (its first axis), or one for all.

    Raises:
        InvalidOptionError: when p or a weight is none of this.
        ShapeError: when the weights are no array of numbers.
    """

    p: float
    weights: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", exponent(self.p, "p of Weighted"))
        weights = real_tensor(self.weights, "weights")
        if not weights.numel() or not bool(((weights > 0) & weights.isfinite()).all()):
            raise InvalidOptionError("weights of a norm are finite numbers above 0; fix an entry with a Box instead")
        object.__setattr__(self, "weights", weights)


Norm = float | Weighted


def exponent(p: object, what: str) -> float:
    """1, 2 or inf, also written as text or held by an array.

    Raises:
        InvalidOptionError: for everything else.
    """
    if isinstance(p, Tensor) and p.dim() == 0 and not p.is_meta and not p.is_complex():
        p = p.item()
    if isinstance(p, str):
        p = WORDS.get(p.strip().lower(), math.nan)
    try:
        number = math.nan if isinstance(p, bool) else float(p)  # type: ignore[arg-type]
    except Exception:  # the user's own __float__ may raise anything
        number = math.nan
    if number not in (1.0, 2.0, math.inf):
        raise InvalidOptionError(f"{what} is 1, 2 or inf (float('inf') or 'inf'), not {shown(p)}")
    return number


def norm_pair(norm: object) -> tuple[Norm, Norm]:
    """The norms of inputs and of outputs; one norm stands for both.

    Raises:
        ShapeError: when it is no norm and no pair of norms.
    """
    if isinstance(norm, Weighted):
        raise ShapeError("one Weighted norm can not be that of inputs and of outputs; write norm=(Weighted(p, w), q)")
    pair = norm if isinstance(norm, tuple | list) else (norm, norm)
    if len(pair) != 2:
        raise ShapeError(f"norm=(p, q) has two norms, of inputs and of outputs, not {len(pair)}: {shown(norm)}")
    try:
        found = [one if isinstance(one, Weighted) else exponent(one, "a norm") for one in pair]
    except InvalidOptionError as error:
        raise ShapeError(f"norm=(p, q): {error}; or Weighted(p, weights)") from None
    return found[0], found[1]


def plain_exponent(norm: Norm) -> float:
    """p of a norm, weighted or not."""
    return norm.p if isinstance(norm, Weighted) else norm


def told_norm(norm: Norm) -> str:
    """A norm in a word: l2, linf, weighted l2."""
    p = plain_exponent(norm)
    name = "linf" if math.isinf(p) else f"l{p:g}"
    return f"weighted {name}" if isinstance(norm, Weighted) else name


def spread_weights(norm: Norm, size: int) -> Tensor | None:
    """The weights of an output norm for so many rows; None for a norm without weights.

    Raises:
        ShapeError: when there are other numbers of weights and rows.
    """
    if not isinstance(norm, Weighted):
        return None
    weights = norm.weights.flatten()
    if len(weights) not in (1, size):
        raise ShapeError(f"the norm of the output has {len(weights)} weights for {size} rows; give one for each")
    return torch.broadcast_to(weights, (size,)).clone()
