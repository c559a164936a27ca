"""`Executed`: the network as an inference engine runs it, every operation rounded, in any order of summation.

The model of an execution: an affine node is evaluated by sums of products in some order, perhaps with normalisations
folded into neighbouring weights; an activation is accurate to a few units of max(1, |argument|, |value|). It does not
hold for TF32, Winograd or FFT convolution. Source: the a-priori analysis of Higham, applied to another unit roundoff.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from jacobound.checks import shown
from jacobound.errors import InvalidOptionError, UnsafeArithmeticError

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_SINGLE = torch.finfo(torch.float32).eps / 2

FOLDED = 8
"""Further roundings of one product when an engine folds scales and shifts into the weights before or after it."""

FUNCTION_UNITS = 8
"""Error of an activation in units of 2 u max(1, |argument|, |value|), taken for granted of an engine.

PyTorch in float32 on a CPU stays below half of it for every registered activation (`tests/solve/test_executed.py`
measures).
"""


@dataclass(frozen=True)
class Executed:
    """Semantics of a network that runs in `dtype`: inputs, results of layers and activations are rounded to it.

    Args:
        dtype: "float64", "float32", "float16" or "bfloat16"; sums of the last two are accumulated in float32, as
            inference engines do, and weights that are folded together are rounded to the dtype.
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str) or self.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise InvalidOptionError(f"an execution has one of the dtypes {known}, not {shown(self.dtype)}")

    @cached_property
    def torch_dtype(self) -> torch.dtype:
        return _DTYPES[self.dtype]

    @property
    def unit(self) -> float:
        """Unit roundoff."""
        return torch.finfo(self.torch_dtype).eps / 2

    @property
    def tiny(self) -> float:
        """Smallest normal number: smaller results may be flushed to zero."""
        return torch.finfo(self.torch_dtype).tiny

    @property
    def largest(self) -> float:
        return torch.finfo(self.torch_dtype).max

    def share(self, terms: int) -> float:
        """What a rounded sum of `terms` products is off, relative to the sum of their absolute values; rounded up.

        Raises:
            UnsafeArithmeticError: when the sum is too long for the dtype.
        """
        accumulated = min(self.unit, _SINGLE)
        long = (terms + FOLDED) * accumulated
        if long >= 0.25:
            raise UnsafeArithmeticError(
                f"sums of {terms} products have no useful rounding bound when they are accumulated in "
                f"{'float32' if accumulated == _SINGLE else self.dtype}; state the semantics of a wider dtype"
            )
        stored = 0.0 if accumulated == self.unit else (FOLDED + 2) * self.unit
        return (long / (1 - long) + stored * (1 + stored)) * (1 + 1e-6)

    def holds(self, value: float) -> bool:
        """Whether a number is one of the dtype."""
        return float(torch.tensor(value, dtype=self.torch_dtype)) == value


@dataclass(frozen=True, eq=False)
class Execution:
    """Which nodes of a graph an engine evaluates; combinations of outputs added later are exact.

    Args:
        arithmetic: how.
        nodes: the nodes.
    """

    arithmetic: Executed
    nodes: frozenset[object]

    def on(self, moved: Mapping[Any, object]) -> Execution:
        """This execution on a copy of the graph, given the copy of every node."""
        return Execution(self.arithmetic, frozenset(moved[node] for node in self.nodes if node in moved))
