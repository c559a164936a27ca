"""`Question`: what was asked, so that an answer can be read alone, elsewhere and later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jacobound.errors import InvalidOptionError
from jacobound.graph.source import UNKNOWN, Source
from jacobound.inputs.exponents import Norm, told_norm
from jacobound.inputs.regions import Ball, Box, Region, WholeSpace
from jacobound.stored import stored
from jacobound.version import VERSION
from jacobound.words import nearest, printable


@stored
@dataclass(frozen=True, eq=False)
class Question:
    """What was asked.

    Args:
        asks: name of the function that was called.
        model: the user's network: file or class, SHA-256 of the file, what was put in front of and behind it. The
            fingerprint of the graph is `Provenance.network`.
        region: where the input was, with exact numbers. For radii around points the points, as balls of radius 0 with
            their norm and valid range.
        rows: combinations of the outputs as exact numbers, shape (k, outputs); None for the outputs as they are.
        norm: of inputs and of outputs, for constants.
        budget: limits that were given, by name; None for none.
        options: everything else that decides the answer, by name.
        library: version of jacobound.
        command: the words of the command line, empty for calls from Python.
        maker: writes the certificate of the answer; it holds the network, and stays behind when the answer is stored.
    """

    asks: str
    model: Source = UNKNOWN
    region: Region | None = None
    rows: Tensor | None = None
    norm: tuple[Norm, Norm] | None = None
    budget: Mapping[str, float | None] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    library: str = VERSION
    command: tuple[str, ...] = ()
    maker: Callable[[Any, Path], Any] | None = field(default=None, init=False, repr=False, compare=False)

    def made_by(self, maker: Callable[[Any, Path], Any] | None) -> Question:
        """This question with what writes the certificate of its answer."""
        found = replace(self)
        object.__setattr__(found, "maker", maker)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """For other processes: without the network, which would go along with every answer."""
        return {**vars(self), "maker": None}

    def written(self, answer: object, path: str | Path) -> Any:
        """The certificate of an answer, written.

        Raises:
            InvalidOptionError: when there is nothing that could write it.
        """
        if self.maker is None:
            raise InvalidOptionError(
                f"this {type(answer).__name__} does not hold its network (it was stored or sent, or is of a kind "
                "without certificates); ask for it again and save the certificate of that answer"
            )
        return self.maker(answer, Path(path))

    def told(self) -> dict[str, str]:
        """The question in words."""
        found = {"model": printable(self.model)}
        if self.region is not None:
            found["region"] = told_region(self.region)
        if self.rows is not None:
            found["rows"] = f"{len(self.rows)} combinations of {self.rows.shape[1]} outputs"
        columns = self.options.get("columns")
        if isinstance(columns, Tensor):
            found["columns"] = f"{len(columns)} inputs: {', '.join(map(str, columns.tolist()[:8]))}" + (
                ", ..." if len(columns) > 8 else ""
            )
        if self.norm is not None:
            found["norms"] = " -> ".join(map(told_norm, self.norm))
        limits = ", ".join(f"{name} {value:g}" for name, value in self.budget.items() if value is not None)
        if limits:
            found["budget"] = limits
        if self.command:
            found["command"] = printable(" ".join(self.command))
        return found


def told_region(region: Region) -> str:
    """A region in words, numbers rounded to a few digits."""
    if isinstance(region, WholeSpace):
        return "the whole space"
    if isinstance(region, Box):
        return f"box of {_sides(torch.as_tensor(region.lower))} inputs"
    assert isinstance(region, Ball)
    radii = region.radii
    size = (
        f"radius {nearest(radii[0], 4)}"
        if len(radii) == 1
        else f"{len(radii)} radii from {nearest(min(radii), 4)} to {nearest(max(radii), 4)}"
    )
    clip = "" if region.clip is None else ", clipped"
    scale = "" if region.scale is None else ", in units of each input"
    inputs = _sides(torch.as_tensor(region.center))
    return f"{told_norm(region.p)} ball, {size}, around {inputs} inputs{clip}{scale}"


def _sides(points: Tensor) -> str:
    return " x ".join(map(str, points.shape)) or "1"
