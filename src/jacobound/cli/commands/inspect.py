"""``jacobound inspect``: the network as it was understood, node by node."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from jacobound.cli.given.networks import NetworkOptions
from jacobound.cli.shown.text import say, say_fact, say_json
from jacobound.graph.graph import Graph
from jacobound.words import sizes_text


def inspect(
    net: Path,
    /,
    *,
    network: NetworkOptions = NetworkOptions(),  # noqa: B008 - a frozen value
    json: bool = False,
    debug: bool = False,
) -> int:
    """Show the network as it was understood: affine maps and activations.

    Args:
        net: The network, an .onnx file.
        json: Write strict JSON on stdout.
        debug: Show where in the program an error came from.
    """
    graph = network.read(net)
    if json:
        say_json({"nodes": list(graph.table()), "totals": graph.totals(), "source": asdict(graph.source)})
        return 0
    say(str(graph))
    return 0


def summary(graph: Graph) -> str:
    """The sizes in one line."""
    return sizes_text(graph.totals())


def say_network(net: Path, graph: Graph) -> None:
    """Which network it is, and what is taken for granted about it."""
    say_fact("network", f"{net}: {summary(graph)}")
    for unit in graph.source.units:
        say_fact("units", unit)
    for assumption in graph.assumptions:
        say_fact("assuming", assumption)
