"""Cuts of a region in certificates: where one proof is weaker than the result, parts are proved by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jacobound_check.regions import Set

MOST_PARTS = 32
MOST_INPUTS = 12

Bounds = dict[str, np.ndarray]


@dataclass(eq=False)
class _Part:
    """A part of the region: its proof and what it proves, or the cut that replaced it."""

    region: Set
    proof: dict[str, Any]
    found: Bounds
    cut: tuple[int, float, _Part | None, _Part | None] | None = None

    def told(self) -> dict[str, Any]:
        if self.cut is None:
            return self.proof
        axis, at, below, above = self.cut
        sides = {"below": below, "above": above}
        told = {name: None if side is None else side.told() for name, side in sides.items()}
        return {"axis": axis, "at": float(at).hex(), **told}


def with_cuts(
    region: Set,
    whole: tuple[dict[str, Any], Bounds],
    of_part: Callable[[Set], tuple[dict[str, Any], Bounds]],
    missing: Callable[[Bounds], float],
) -> dict[str, Any]:
    """The proof over a region, cut where it is weakest until nothing is missing or there are `MOST_PARTS`.

    Args:
        whole: the proof over the whole region, and what it proves.
        of_part: the same for a part.
        missing: how far bounds are from what is wanted; 0 or less for not at all.
    """
    first = _Part(region, *whole)
    box, parts = region.box, [first]
    if len(box.low) > MOST_INPUTS or not region.bounded:
        return first.told()
    while len(parts) < MOST_PARTS:
        worst = max(parts, key=lambda part: missing(part.found))
        width = worst.region.box.high - worst.region.box.low
        if missing(worst.found) <= 0 or not width.any():
            break
        axis = int(width.argmax())
        at = float(worst.region.box.low[axis] + 0.5 * width[axis])
        sides = []
        for end in ("high", "low"):
            ends = getattr(worst.region, end).copy()
            ends[axis] = min(ends[axis], at) if end == "high" else max(ends[axis], at)
            side = replace(worst.region, **{end: ends})
            sides.append(_Part(side, *of_part(side)) if (side.box.low <= side.box.high).all() else None)
        worst.cut = axis, at, sides[0], sides[1]
        parts = [part for part in parts if part is not worst] + [side for side in sides if side is not None]
    return first.told()
