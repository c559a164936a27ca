"""``jacobound methods``: what bounds what, for which networks, certified or not, and which paper to cite."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass

from jacobound.cli.shown.text import say, say_json
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


METHODS = (
    Entry("IBP", "outputs", "any network and region", "certified", "Gowal et al. 2018, arXiv:1810.12715"),
    Entry("FastLin", "outputs", "any network, bounded regions", "certified", "Weng et al., ICML 2018"),
    Entry("CROWN", "outputs", "any network, bounded regions", "certified", "Zhang et al., NeurIPS 2018"),
    Entry("SinglePrecision", "outputs", "as the method that it wraps", "certified", "jacobound"),
    Entry("FastLip", "Jacobian, constants", "any network and region, all norms", "certified", "Weng et al., ICML 2018"),
    Entry(
        "RecurJac", "Jacobian, constants", "any network and region, all norms", "certified", "Zhang et al., AAAI 2019"
    ),
    Entry(
        "LinearSlopes",
        "Jacobian, constants",
        "any network and bounded region, all norms; for smooth activations on small regions",
        "certified",
        "jacobound",
    ),
    Entry("AutoLip", "constants", "any network and region, all norms", "certified", "Scaman and Virmaux, NeurIPS 2018"),
    Entry(
        "SeqLip",
        "constants",
        "chains of layers pair by pair; l2 to l2",
        "certified",
        "Scaman and Virmaux, NeurIPS 2018",
    ),
    Entry("SeqLip greedy", "constants", "as SeqLip", "estimate", "Scaman and Virmaux, NeurIPS 2018"),
    Entry(
        "LipSDP",
        "constants",
        "any network and region whose unstable neurons fit a matrix; all norms",
        "certified",
        "Fazlyab et al., NeurIPS 2019",
    ),
    Entry(
        "ECLipsE",
        "constants",
        "chains of layers, thousands of neurons wide; all norms",
        "certified",
        "Xu and Sivaranjani, NeurIPS 2024; Syed and Hu 2025",
    ),
    Entry("Best", "constants", "the smallest of several methods", "certified", "jacobound"),
    Entry("Sampling", "lower bounds of constants", "any network and region, all norms", "certified", "jacobound"),
)


def methods(*, json: bool = False) -> int:
    """List the methods: what they bound, for which networks, certified or estimate, and what to cite.

    "any network" means affine maps and elementwise activations, with max-pooling and sorting rewritten into them;
    AutoLip and SeqLip take softmax, normalisation, products and attention besides.

    Args:
        json: Write the list as JSON.
    """
    if json:
        say_json([asdict(entry) for entry in METHODS])
        return 0
    for entry in METHODS:
        say(f"{entry.name:<17}{entry.bounds}; {entry.status}")
        for line in textwrap.wrap(f"{entry.networks}. {entry.source}", SCREEN - 17):
            say(" " * 17 + line)
    say("\ncertified: holds with rounding included. estimate: not.")
    return 0
