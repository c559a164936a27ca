"""``jacobound methods``: what bounds what, for which networks, certified or not, and which paper to cite."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from jacobound.cli.shown.text import say, say_json
from jacobound.lower_ends.sampling import Sampling
from jacobound.method import JacobianMethod, Method, OutputMethod
from jacobound.methods import every
from jacobound.words import SCREEN


@dataclass(frozen=True)
class Entry:
    """One method.

    Args:
        name: in Python; on the command line in small letters.
        bounds: what it bounds.
        networks: which networks, regions and norms it takes.
        status: "certified" or "estimate".
        source: the paper to cite.
    """

    name: str
    bounds: str
    networks: str
    status: str
    source: str


def entries() -> list[Entry]:
    """Every exported method: those that bound outputs, then Jacobians, constants, and constants from below."""
    kinds: tuple[type[Any], ...] = (OutputMethod, JacobianMethod, Method, Sampling)
    found = dict.fromkeys(one for kind in kinds for one in every(kind))
    return [
        Entry(
            one.__name__,
            one.bounds,
            one.about.networks,
            "certified" if one.about.certified else "estimate",
            one.about.source,
        )
        for one in found
    ]


def methods(*, json: bool = False) -> int:
    """List the methods: what they bound, for which networks, certified or estimate, and what to cite.

    "any network" means affine maps and elementwise activations, with max-pooling and sorting rewritten into them;
    AutoLip and SeqLip take softmax, normalisation, products and attention besides.

    Args:
        json: Write the list as JSON.
    """
    if json:
        say_json([asdict(entry) for entry in entries()])
        return 0
    for entry in entries():
        say(f"{entry.name:<17}{entry.bounds}; {entry.status}")
        for line in textwrap.wrap(f"{entry.networks}. {entry.source}", SCREEN - 17):
            say(" " * 17 + line)
    say("\ncertified: holds with rounding included. estimate: not.")
    return 0
