"""`ColumnOptions`: by which inputs derivatives are taken, and which inputs change for constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from jacobound.cli.given.networks import NUMBERS
from jacobound.inputs.grammar import parse_indices


@Parameter(name="*", group="Method")
@dataclass(frozen=True, kw_only=True)
class ColumnOptions:
    """Which inputs are asked about.

    Args:
        columns: Inputs whose changes count, the others being fixed anywhere in the region: 3, or 0,3, or 0:10 for 0 to
            9. [default: all]
    """

    columns: Annotated[str | None, NUMBERS] = None

    @property
    def places(self) -> list[int] | None:
        """The chosen inputs by their numbers, None for all."""
        return None if self.columns is None else parse_indices(self.columns, "--columns")
