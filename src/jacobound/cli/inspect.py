"""``jacobound inspect``: the network as it was understood, node by node."""

from __future__ import annotations

from pathlib import Path

from jacobound.cli.networks import NetworkOptions
from jacobound.cli.text import say, say_json, say_table
from jacobound.graph import Elementwise, Graph, size

TITLES = ("<name", "<kind", "<detail", "<shape", "parameters", "<sources")


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
    rows = list(graph.table())
    if json:
        say_json({"nodes": rows, "totals": totals(graph)})
        return 0
    say_table(TITLES, [[_cell(row[title.lstrip("<")]) for title in TITLES] for row in rows])
    say("\n" + summary(graph))
    say(f"SHA-256 of structure and weights: {graph.fingerprint}")
    return 0


def totals(graph: Graph) -> dict[str, object]:
    """Sizes of the network, and its fingerprint."""
    activations = [node for node in graph.nodes if isinstance(node, Elementwise)]
    return {
        "inputs": size(graph.input),
        "input_shape": graph.in_shape,
        "outputs": size(graph.output),
        "output_shape": graph.out_shape,
        "nodes": len(graph.nodes),
        "activations": sum(size(node) for node in activations),
        "parameters": sum(int(str(row["parameters"])) for row in graph.table()),
        "fingerprint": graph.fingerprint,
    }


def summary(graph: Graph) -> str:
    """The sizes in one line."""
    found = totals(graph)
    return (
        f"{found['inputs']} inputs{_sides(graph.in_shape)}, {found['outputs']} outputs{_sides(graph.out_shape)}, "
        f"{found['activations']} activations, {found['parameters']} parameters"
    )


def say_network(net: Path, graph: Graph) -> None:
    """Which network it is, and what is taken for granted about it."""
    say(f"network   {net}: {summary(graph)}")
    for assumption in graph.assumptions:
        say(f"assuming  {assumption}")


def _sides(shape: tuple[int, ...]) -> str:
    return f" ({_cell(shape)})" if len(shape) > 1 else ""


def _cell(value: object) -> str:
    """Shapes as 3 x 28 x 28, lists of names with commas."""
    if not isinstance(value, tuple):
        return str(value)
    numbers = bool(value) and all(isinstance(item, int) for item in value)
    return (" x " if numbers else ", ").join(map(str, value))
