"""`Graph`: a network as a small graph of affine and elementwise nodes.

`Input` is where the point enters. `Affine` is a sum of linear operators applied to other nodes, plus a bias.
`Elementwise` is one activation. A `Vector` node is a function of all entries of another node: `Graph.lowered` rewrites
maxima and sorting into the other kinds, and `Graph.expanded` all that have an expansion, before a bound method looks.
Nodes compare by identity; a node used twice is one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.errors import InvalidModelError, ShapeError
from jacobound.graph.copies import flattened, moved_choice, on_sources, restored
from jacobound.graph.execution import Executed, Execution
from jacobound.graph.nodes import (
    Affine,
    Elementwise,
    Input,
    Node,
    Vector,
    VectorFunction,
    no_expansion,
)
from jacobound.graph.source import UNKNOWN, Source
from jacobound.graph.tables import fingerprint, rows, totals, weights_of, whole_text
from jacobound.graph.units import postprocessing, preprocessing, weighting
from jacobound.operators.kinds import Dense, Identity, convert_exactly, with_shapes
from jacobound.words import not_finite, printable


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
        kinds = set()
        for node in self.nodes:
            for tensor in weights_of(node):
                kinds.add((tensor.device, tensor.dtype))
                if node not in self.checked and not torch.isfinite(tensor).all():
                    raise InvalidModelError(not_finite(f"node '{node.name}'", nan=bool(tensor.isnan().any())))
        if len(kinds) > 1:
            raise InvalidModelError(
                f"weights live in {sorted(map(str, kinds))}; move the model to one device and dtype"
            )
        if any(dtype not in (torch.float32, torch.float64) for _, dtype in kinds):
            raise InvalidModelError(f"weights are {kinds}; convert them exactly to float64 first")

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
                stack.extend((source, False) for source in reversed(node.sources))
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
        moved: dict[Node, Node] = {}
        for node in self.nodes:
            if isinstance(node, Affine):
                terms = tuple((operator.to(device, dtype), moved[source]) for operator, source in node.terms)
                bias = None if node.bias is None else convert_exactly(node.bias, device, dtype, "a bias")
                moved[node] = Affine(terms, bias, node.name, moved_choice(node, moved, device))
            elif isinstance(node, Elementwise):
                moved[node] = Elementwise(node.activation.to(device, dtype), moved[node.source], node.name)
            elif isinstance(node, Vector):
                moved[node] = Vector(node.function.to(device, dtype), moved[node.source], node.name)
            else:
                moved[node] = node
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
        """This network as bound methods take it: without `Vector` nodes, and with one axis where a node has none.

        It is the graph itself when nothing has to change.

        Raises:
            UnsupportedOpError: when a function has no expansion.
        """
        return self._expanded

    @property
    def expands(self) -> bool:
        """Whether there is `expanded`."""
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
    def _expanded(self) -> Graph:
        rest = self._lowered
        return rest.computed() if any(isinstance(node, Vector) for node in rest.nodes) else rest

    def computed(self) -> Graph:
        """This network without the `Vector` nodes that an engine computes; comparisons stay.

        Raises:
            UnsupportedOpError: when a function has no expansion.
        """
        return self._rewritten(self._expansion(lambda function: not function.compares))

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
        return self._expansion(lambda function: function.compares)

    def _expansion(self, wanted: Callable[[VectorFunction], bool]) -> Mapping[Node, Node]:
        """For every node the one that stands for it when the functions that are wanted are expanded."""
        moved: dict[Node, Node] = {}
        for node in self.nodes:
            if isinstance(node, Vector) and wanted(node.function):
                if not node.function.expands:
                    raise no_expansion(node.function, node.source, node.name, {other.name for other in self.nodes})
                found = node.function.expand(moved[node.source], node.name)
                moved[node] = _with_axis(found, found.sources) if isinstance(found, Affine) else found
            elif isinstance(node, Affine) and () in (node.shape, *(source.shape for source in node.sources)):
                moved[node] = _with_axis(node, [moved[source] for source in node.sources])
            else:
                moved[node] = on_sources(node, moved, self.device)
        return moved

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


def _with_axis(node: Affine, sources: Sequence[Node]) -> Affine:
    """An affine node on other sources, with one axis if it has none."""
    shape = node.shape or (1,)
    if node.shape == shape and all(one is other for one, other in zip(sources, node.sources, strict=True)):
        return node
    terms = tuple(
        (with_shapes(operator, source.shape, shape), source)
        for (operator, _), source in zip(node.terms, sources, strict=True)
    )
    return Affine(terms, None if node.bias is None else node.bias.reshape(shape), node.name)


def _restored(
    flat: Sequence[tuple[object, ...]], output: int, run: tuple[Executed, list[int]] | None, source: Source
) -> Graph:
    """The graph of `Graph.__reduce__`."""
    nodes = restored(flat)
    execution = None if run is None else Execution(run[0], frozenset(nodes[k] for k in run[1]))
    return Graph(nodes[output], execution=execution, source=source)
