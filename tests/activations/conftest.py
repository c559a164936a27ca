"""What all tests of activations share."""

from __future__ import annotations

from collections.abc import Iterator

import flint
import pytest


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    """Ball arithmetic of 300 bits."""
    with flint.ctx.workprec(300):
        yield
