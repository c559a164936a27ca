"""`Graph`: a network as a small graph of affine and elementwise nodes.

`Input` is where the point enters. `Affine` is a sum of linear operators applied to other nodes, plus a bias.
`Elementwise` is one activation, `Product` the product of two nodes. A `Vector` node is a function of all entries of
another node: `Graph.lowered` rewrites maxima and sorting into the other kinds, `Graph.expanded` all but log-sum-exp.
Nodes compare by identity; a node used twice is one node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, ShapeError
from jacobound.graph.copies import flattened, on_sources, restored, transferred
from jacobound.graph.execution import Executed, Execution
from jacobound.graph.merging import merged
from jacobound.graph.nodes import (
    Affine,
    Elementwise,
    Input,
    Node,
    Product,
    Vector,
)
from jacobound.graph.rewriting import in_gates, in_steps, rewritten
from jacobound.graph.source import UNKNOWN, Source
from jacobound.graph.tables import check_weights, fingerprint, rows, totals, whole_text
from jacobound.graph.units import postprocessing, preprocessing, weighting
from jacobound.operators.kinds import Dense, Identity, convert_exactly
from jacobound.words import printable


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A network: everything that `output` depends on.

    Args:
        output: the last node.
        checked: nodes whose weights are known to be finite, because another graph holds them.
        execution: which nodes stand for rounded values of an inference engine; None for real numbers throughout.
        source: the user's network that it came from.

    Raises:
        InvalidModelError: when a weight is NaN or infinite, there is not exactly one input, or weights are spread
            over several devices or dtypes.
    """

    output: Node
    checked: frozenset[Node] = frozenset()
    execution: Execution | None = None
    source: Source = UNKNOWN

    def __post_init__(self) -> None:
        inputs = [node for node in self.nodes if isinstance(node, Input)]
        if len(inputs) != 1:
            raise InvalidModelError(
                f"a graph has exactly one input, this one has {len(inputs)} "
                f"({', '.join(node.name for node in inputs) or 'the output does not depend on it'})"
            )
        check_weights(self.nodes, self.checked)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, every node after its sources."""
        order: dict[Node, None] = {}
        stack: list[tuple[Node, bool]] = [(self.output, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                order[node] = None
            elif node not in order:
                stack.append((node, True))
                beside = None if isinstance(node, Input | Vector) else node.beside
                stack.extend((source, False) for source in reversed(node.sources))
                stack.extend([] if beside is None else [(beside.source, False)])
        return tuple(order)

    @cached_property
    def input(self) -> Input:
        return next(node for node in self.nodes if isinstance(node, Input))

    @cached_property
    def consumers(self) -> Mapping[Node, tuple[Node, ...]]:
        """For each node the nodes that read it, in topological order, each once."""
        readers: dict[Node, list[Node]] = {node: [] for node in self.nodes}
        for node in self.nodes:
            for source in dict.fromkeys(node.sources):
                readers[source].append(node)
        return {node: tuple(found) for node, found in readers.items()}

    @cached_property
    def crossings(self) -> tuple[Elementwise, ...]:
        """Elementwise nodes, other than the output, that every path from the input to the output goes through."""
        position = {node: k for k, node in enumerate(self.nodes)}
        found, reach = [], 0  # how far an edge goes that starts earlier
        for node in self.nodes:
            if isinstance(node, Elementwise) and reach <= position[node] and node is not self.output:
                found.append(node)
            reach = max([reach, *(position[reader] for reader in self.consumers[node])])
        return tuple(found)

    @cached_property
    def example(self) -> Tensor:
        """A tensor of the graph's dtype and device."""
        for node in self.nodes:
            if isinstance(node, Affine):
                return node.terms[0][0].example()
            if isinstance(node, Vector):
                return node.function.like
        return torch.zeros((), dtype=torch.float64)

    @property
    def device(self) -> torch.device:
        return self.example.device

    @property
    def dtype(self) -> torch.dtype:
        return self.example.dtype

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.input.shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.output.shape

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate in plain floating point: shape (*batch, *in_shape) -> (*batch, *out_shape). An estimate."""
        return self.values(x)[self.output]

    def values(self, x: Tensor) -> dict[Node, Tensor]:
        """The value of every node, in plain floating point (an estimate)."""
        if tuple(x.shape[x.dim() - len(self.in_shape) :]) != self.in_shape:
            raise ShapeError(f"the network takes points of shape {self.in_shape}, got {tuple(x.shape)}")
        x = x.to(device=self.device, dtype=self.dtype)
        found: dict[Node, Tensor] = {}
        for node in self.nodes:
            if isinstance(node, Input):
                found[node] = x
            elif isinstance(node, Elementwise):
                found[node] = node.activation.value(found[node.source])
            elif isinstance(node, Vector):
                found[node] = node.function.value(found[node.source])
            elif isinstance(node, Product):
                found[node] = found[node.first] * found[node.second]
            else:
                images = [operator.apply(found[source]) for operator, source in node.terms]
                found[node] = sum(images[1:], images[0]) if node.bias is None else sum(images, node.bias)
        return found

    def with_rows(self, rows: Tensor | None) -> Graph:
        """The graph followed by fixed combinations of its (flattened) outputs.

        Args:
            rows: shape (k, out_size): one class, a margin e_c - e_t, ...; None for all outputs.
        """
        output = self.output
        if len(output.shape) != 1:
            flatten = Identity(output.shape, (prod(output.shape),), self.example)
            output = Affine(((flatten, output),), name="flatten")
        if rows is not None:
            if rows.dim() != 2 or rows.shape[1] != prod(output.shape):
                raise ShapeError(
                    f"rows must have shape (k, {prod(output.shape)}), one column per output, not {tuple(rows.shape)}"
                )
            weight = convert_exactly(rows, self.device, self.dtype, "a row combination")
            output = Affine(((Dense(weight), output),), name="rows")
        return Graph(output, frozenset(self.nodes), self.execution, self.source)

    def with_affine_output(self) -> Graph:
        """This network with an affine last node: derivatives start from there."""
        if isinstance(self.output, Affine):
            return self
        last = Identity(self.output.shape, self.output.shape, self.example)
        return Graph(Affine(((last, self.output),), name="output"), frozenset(self.nodes), self.execution, self.source)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Graph:
        """A copy elsewhere; refuses a dtype that cannot hold the weights exactly.

        Raises:
            UnsafeArithmeticError: when a weight would change.
        """
        device = self.device if device is None else torch.device(device)
        dtype = self.dtype if dtype is None else dtype
        moved = transferred(self.nodes, device, dtype)
        execution = None if self.execution is None else self.execution.on(moved)
        return Graph(moved[self.output], execution=execution, source=self.source)

    def with_preprocessing(self, mean: object = 0.0, std: object = 1.0) -> Graph:
        """The network behind ``(x - mean) / std``: regions, Jacobians and constants are then in the units of this x.

        Both steps are affine layers of the question: the division is enclosed, so that what is certified holds for
        exact division by the numbers given.

        Args:
            mean: what is subtracted: one number, one per channel (the first axis), or one per entry; exact floats.
            std: what is divided by, above 0, likewise; a `Fraction` or a string such as "1/255" is exact.

        Raises:
            ShapeError, InvalidOptionError: when the numbers do not fit the input, or are not finite, or not positive.
            UnsafeArithmeticError: when the graph's dtype can not hold a mean.
        """
        first, unit = preprocessing(self.input, self.example, mean, std)
        return self._behind(first, self.source.told_with(unit))

    def with_postprocessing(self, scale: object = 1.0, shift: object = 0.0) -> Graph:
        """The network followed by ``y * scale + shift``: outputs in other units.

        Args:
            scale: what every output is multiplied by: one number or one per entry; a `Fraction` or "1/3" is exact.
            shift: what is added afterwards; exact floats.

        Raises:
            ShapeError, InvalidOptionError: when the numbers do not fit the output, or are not finite.
            UnsafeArithmeticError: when the graph's dtype can not hold a number.
        """
        last, unit = postprocessing(self.output, self.example, scale, shift)
        return Graph(last, frozenset(self.nodes), self.execution, self.source.told_with(unit))

    def in_input_weights(self, weights: Tensor) -> Graph:
        """The network as a function of ``u = weights * x``, for norms of x with these weights (above 0)."""
        return self._behind(weighting(self.input, self.example, weights), self.source)

    def _behind(self, first: Affine, source: Source) -> Graph:
        """This network reading another node in place of its input."""
        moved: dict[Node, Node] = {self.input: first}
        for node in self.nodes:
            if node is not self.input:
                moved[node] = on_sources(node, moved, self.device)
        return Graph(moved[self.output], frozenset(moved.values()) - {first}, self.execution, source)

    @cached_property
    def single(self) -> Graph:
        """This network in float32, made once.

        Raises:
            UnsafeArithmeticError: when a weight would change.
        """
        return self if self.dtype == torch.float32 else self.to(dtype=torch.float32)

    @cached_property
    def double(self) -> Graph:
        """This network in float64, made once."""
        return self if self.dtype == torch.float64 else self.to(dtype=torch.float64)

    def lowered(self) -> Graph:
        """This network with comparisons (maximum, sort) expanded, and with one axis where a node has none.

        `Vector` nodes of other kinds stay: ranges and products of norms are known of them. It is the graph itself when
        nothing has to change.
        """
        return self._lowered

    def expanded(self) -> Graph:
        """The network as bound methods take it: `Product` nodes and log-sum-exp in place of other `Vector` nodes.

        Equal nodes are one node there. It is the graph itself when nothing has to change.

        Raises:
            UnsupportedOpError: when a function has no such form.
        """
        return self._expanded[0]

    @property
    def expands(self) -> bool:
        """Whether there is `expanded`."""
        return all(node.function.lowers for node in self.nodes if isinstance(node, Vector))

    @property
    def standing(self) -> Mapping[Node, Node]:
        """For every node of `lowered` the one of `expanded` with the same values."""
        return self._expanded[1]

    def plain(self) -> Graph:
        """The network in affine and elementwise nodes alone.

        Raises:
            UnsupportedOpError: when a function is not made of those.
        """
        return self._lowered.computed()

    @property
    def is_plain(self) -> bool:
        """Whether there is `plain`."""
        return all(node.function.expands for node in self.nodes if isinstance(node, Vector))

    @cached_property
    def assumptions(self) -> tuple[str, ...]:
        """What Lipschitz constants of the network take for granted, one sentence for each node that does."""
        nodes = (node for node in self.nodes if isinstance(node, Vector) and node.function.assumption)
        return tuple(f"node '{node.name}': {node.function.assumption}" for node in nodes)

    @cached_property
    def _lowered(self) -> Graph:
        return self._rewritten(self.expansion)

    @cached_property
    def _expanded(self) -> tuple[Graph, Mapping[Node, Node]]:
        rest = self._lowered
        if not any(isinstance(node, Vector | Product) for node in rest.nodes):
            return rest, {node: node for node in rest.nodes}
        parts = rewritten(rest.nodes, lambda _: True, in_gates, self.device)
        same = merged(Graph(parts[rest.output], frozenset(rest.nodes), source=self.source).nodes, self.device)
        whole = Graph(same[parts[rest.output]], frozenset(same.values()), source=self.source)
        return whole, {node: same[part] for node, part in parts.items() if part in same}

    def computed(self) -> Graph:
        """This network without the `Vector` nodes that an engine computes; comparisons stay.

        Raises:
            UnsupportedOpError: when a function has no expansion.
        """
        return self._rewritten(rewritten(self.nodes, lambda function: not function.compares, in_steps, self.device))

    def _rewritten(self, moved: Mapping[Node, Node]) -> Graph:
        """The graph of what stands for its nodes."""
        if moved[self.output] is self.output:
            return self
        execution = self.execution
        if execution is not None:
            # What stands for a comparison rounds nothing; other functions are expanded before a graph is executed.
            run = (moved[node] for node in self.nodes if node in execution.nodes and not isinstance(node, Vector))
            execution = Execution(execution.arithmetic, frozenset(run))
        return Graph(moved[self.output], frozenset(moved.values()), execution)

    @cached_property
    def expansion(self) -> Mapping[Node, Node]:
        """For every node the one that stands for it in `lowered`."""
        return rewritten(self.nodes, lambda function: function.compares, in_steps, self.device)

    def table(self) -> Iterator[dict[str, object]]:
        """One row per node: name, kind, operators or activation, shape, parameters, sources."""
        return rows(self.nodes)

    def totals(self) -> dict[str, object]:
        """Sizes of the network, and its fingerprint."""
        return totals(self.nodes, self.input, self.output) | {"fingerprint": self.fingerprint}

    def __str__(self) -> str:
        """Every node, the sizes, and the fingerprint: what `jacobound inspect` prints."""
        parts = (whole_text(self.nodes, self.input, self.output), printable(f"from {self.source}"))
        return "\n".join((*parts, f"SHA-256 of structure and weights: {self.fingerprint}"))

    def named(self, source: Source) -> Graph:
        """This network with a note where it came from."""
        return Graph(self.output, frozenset(self.nodes), self.execution, source)

    def __repr__(self) -> str:
        return f"Graph({self.in_shape} -> {self.out_shape}, {len(self.nodes)} nodes, from {printable(self.source)})"

    def __reduce__(self) -> tuple[object, ...]:
        """For worker processes and copies: nodes as a flat list, so that no chain is too long."""
        place = {node: k for k, node in enumerate(self.nodes)}
        run = None
        if self.execution is not None:
            run = self.execution.arithmetic, [place[node] for node in self.nodes if node in self.execution.nodes]
        return _restored, (flattened(self.nodes, self.device), place[self.output], run, self.source)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over structure and weights: names the network in a certificate."""
        return fingerprint(self.nodes)


def _restored(
    flat: Sequence[tuple[object, ...]], output: int, run: tuple[Executed, list[int]] | None, source: Source
) -> Graph:
    """The graph of `Graph.__reduce__`."""
    nodes = restored(flat)
    execution = None if run is None else Execution(run[0], frozenset(nodes[k] for k in run[1]))
    return Graph(nodes[output], execution=execution, source=source)
