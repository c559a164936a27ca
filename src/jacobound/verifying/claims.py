"""Claims about constants and derivatives, which `verify` takes as it takes a `Property`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from jacobound.checks import instance, places, real
from jacobound.errors import InvalidOptionError
from jacobound.given import Rows
from jacobound.inputs.exponents import Norm, norm_pair
from jacobound.inputs.properties import Number, exact_number
from jacobound.inputs.regions import Region


@dataclass(frozen=True, eq=False)
class LipschitzAtMost:
    """The Lipschitz constant over a region is at most a bound.

    Args:
        region: where the input is; of several sets the claim is about each.
        bound: exact; a float, or a decimal as text.
        norm: (p, q), as for `lipschitz`.
        rows: outputs or combinations of them, as for `lipschitz`.
    """

    region: Region
    bound: Number
    norm: Norm | tuple[Norm, Norm] = (2, 2)
    rows: Rows | None = None

    def __post_init__(self) -> None:
        instance(self.region, Region, "the region", "give jb.Ball(point, radius), jb.Box(lower, upper), WholeSpace()")
        norm_pair(self.norm)
        if self.exact < 0:
            raise InvalidOptionError("a Lipschitz constant is never below 0; give a bound >= 0")

    @property
    def exact(self) -> Fraction:
        """The bound."""
        return exact_number(self.bound)


@dataclass(frozen=True, eq=False)
class Monotone:
    """Outputs never fall, or never rise, while one of some inputs rises alone within a box.

    Args:
        region: a bounded `Box`, or an l_inf `Ball`.
        increasing: inputs by position among the flattened ones that can only raise the rows.
        decreasing: inputs that can only lower them.
        rows: outputs or combinations of them, as for `monotone_features`; None for all outputs.
        negligible: what a derivative may miss the sign by and still count, as a share of the input's own scale (see
            `MonotoneFeatures.slack`): rounding leaves a derivative that can be 0 with a bound that is not quite 0. With
            0 the claim is strict.
    """

    region: Region
    increasing: Sequence[int] = ()
    decreasing: Sequence[int] = ()
    rows: Rows | None = None
    negligible: float = 1e-9

    def __post_init__(self) -> None:
        instance(self.region, Region, "the region", "give jb.Box(lower, upper) or jb.Ball(point, radius)")
        for name in ("increasing", "decreasing"):
            object.__setattr__(self, name, places(getattr(self, name), name))
        if not (*self.increasing, *self.decreasing):
            raise InvalidOptionError("a claim about monotone inputs names at least one, by its position from 0")
        object.__setattr__(self, "negligible", real(self.negligible, "negligible", 0.0))
