"""`About`: what a method says of itself, for the command line, the documentation and the tests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """What a reader wants to know of a method before choosing it.

    Args:
        networks: which networks, regions and norms it takes.
        source: the paper to cite.
        certified: whether its answers hold with rounding included; estimates never take part in `Best`.
    """

    networks: str
    source: str
    certified: bool = True
