"""Networks at the door: valid ONNX models and PyTorch modules, imported with their own values or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Generator

from campaign import door_onnx, door_torch
from campaign.runner import Part, Tally

CHECKS: Final[tuple[tuple[Callable[[Generator], Tally], int], ...]] = ((door_onnx.check, 1), (door_torch.check, 10))
"""What is tried, and how often in one batch."""


def batch(generator: Generator) -> Tally:
    """One model of every ONNX operation, and some modules."""
    tally = Tally()
    for check, times in CHECKS:
        for _ in range(times):
            tally.merge(check(generator))
    return tally


PART = Part("door", "networks", batch, ("ONNX models tried", "modules tried"))
