"""The core of a network with middle slopes: one matrix with certified errors, from which the SDP certificates start.

On a region every neuron's slope is ``m_i + r_i d_i`` with ``|d_i| <= 1``. Neurons with ``r_i > 0`` are unstable; with
w_i = d_i z_i, so that ``|w_i| <= |z_i|``, everything else is linear:

    J u = R u + S w,        z = P u + Q w        (Q strictly lower triangular in topological order).

Rows of outputs and of unstable neurons are pushed back through the graph once, by the transposed operators, as
middle and radius. The radius grows by absolute values, which is harmless as long as its start, a roundoff, is small;
where it has grown in a deep network, `forwards` takes floats and bounds what they miss of the Jacobian as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import inflate, rigorous, tiny, unit, up
from jacobound.errors import UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.known_slopes import KnownSlopes, middle_slopes
from jacobound.jacobian.tangents import unstable_entries
from jacobound.method import Facts, flat_indices
from jacobound.operators.base import LinearOperator


@dataclass(frozen=True, eq=False)
class SdpCore:
    """``[R S; P Q]`` as middle and radius, float64 on the CPU.

    Args:
        matrix: shape (outputs + neurons, inputs + neurons); rows are outputs, then unstable neurons in topological
            order, columns are inputs, then the same neurons.
        radius: same shape: the exact matrix lies within it, entry by entry.
        outputs, inputs: how many rows and columns come before the neurons.
        blocks: how many neurons each group holds within which Q is zero, in order.
        ties: for every neuron the number of its row, shape (neurons,), where neurons are scaled by rows: of a row's
            ``w = D z`` no more is known than ``||D||_2 <= 1``, so that one multiplier serves the row. None where every
            neuron stands for itself.
        missed: how far the exact Jacobian may lie from that of the core, entry by entry over all slopes, shape
            (outputs, inputs); its norm is a part of the constant. None where the radius covers everything.
    """

    matrix: Tensor
    radius: Tensor
    outputs: int
    inputs: int
    blocks: tuple[int, ...]
    ties: Tensor | None = None
    missed: Tensor | None = None

    @property
    def neurons(self) -> int:
        """How many unstable neurons are left."""
        return self.matrix.shape[0] - self.outputs

    @property
    def is_finite(self) -> bool:
        parts = (self.matrix, self.radius) if self.missed is None else (self.matrix, self.radius, self.missed)
        return all(bool(torch.isfinite(part).all()) for part in parts)

    def transposed(self) -> SdpCore:
        """The core of the transposed Jacobian; the neurons stand in reverse order."""

        def turned(entries: Tensor) -> Tensor:
            rows = torch.cat((entries[: self.outputs], entries[self.outputs :].flip(0)))
            return torch.cat((rows[:, : self.inputs], rows[:, self.inputs :].flip(1)), 1).T.contiguous()

        ties = None if self.ties is None else self.ties.flip(0)
        missed = None if self.missed is None else self.missed.T
        both, blocks = (turned(self.matrix), turned(self.radius)), self.blocks[::-1]
        return SdpCore(*both, self.inputs, self.outputs, blocks, ties, missed)

    def together(self, numbers: Tensor, start: int = 0) -> Tensor:
        """The largest number of every row that neurons are tied to, for each of them; from neuron `start` on."""
        if self.ties is None or not len(numbers):
            return numbers
        ties = self.ties[start : start + len(numbers)]
        most = numbers.new_zeros(int(ties.max()) + 1)
        return most.scatter_reduce(0, ties, numbers, "amax", include_self=False)[ties]

    def rows(self, chosen: Tensor) -> SdpCore:
        """The core of some outputs alone; all neurons are kept, so that multipliers of one row serve another."""
        neurons = torch.arange(self.outputs, len(self.matrix))
        kept = torch.cat((chosen, neurons))
        matrix, radius = self.matrix[kept], self.radius[kept]
        missed = None if self.missed is None else self.missed[chosen]
        present, inexact = (matrix != 0) | (radius != 0), _columns(missed, self.inputs)
        if not bool(present[: len(chosen)].any() or inexact.any()):  # no derivative at all
            return SdpCore(matrix[: len(chosen), :0], radius[: len(chosen), :0], len(chosen), 0, ())
        inputs = flat_indices(present[:, : self.inputs].any(0) | inexact)
        columns = torch.cat((inputs, torch.arange(self.inputs, matrix.shape[1])))
        both, missed = (matrix[:, columns], radius[:, columns]), None if missed is None else missed[:, inputs]
        return SdpCore(*both, len(chosen), len(inputs), self.blocks, self.ties, missed)

    def pruned(self) -> SdpCore:
        """Without inputs and neurons that change nothing: their row or column is exactly zero.

        Neurons that are tied read and are read together.
        """
        present = (self.matrix != 0) | (self.radius != 0)
        q, n = self.outputs, self.inputs
        alive = torch.ones(self.neurons, dtype=torch.bool)
        while True:
            rows = torch.cat((torch.ones(q, dtype=torch.bool), alive))
            reads = self._any(present[q:, :n].any(1) | (present[q:, n:] & alive).any(1)) & alive
            kept = reads & self._any((present[:, n:] & rows.unsqueeze(1)).any(0))
            if bool((kept == alive).all()):
                break
            alive = kept
        rows = flat_indices(rows)
        inputs = flat_indices(present[rows, :n].any(0) | _columns(self.missed, n))
        columns = torch.cat((inputs, n + flat_indices(alive)))
        blocks = tuple(int(part.sum()) for part in alive.split(self.blocks)) if self.blocks else ()
        matrix, radius = (entries[rows][:, columns] for entries in (self.matrix, self.radius))
        ties = None if self.ties is None else self.ties[alive]
        missed = None if self.missed is None else self.missed[:, inputs]
        return SdpCore(matrix, radius, q, len(inputs), tuple(count for count in blocks if count), ties, missed)

    def _any(self, flags: Tensor) -> Tensor:
        return self.together(flags.to(torch.uint8)).to(torch.bool)


def _columns(missed: Tensor | None, inputs: int) -> Tensor:
    """Mask of the inputs by which something is missed."""
    return torch.zeros(inputs, dtype=torch.bool) if missed is None else (missed != 0).any(0)


def unstable_count(graph: Graph, slopes: Facts) -> int:
    """How many neurons have more than one possible slope."""
    ranges = KnownSlopes.of(slopes).ranges
    return sum(len(unstable_entries(ranges[node])) for node in graph.nodes if isinstance(node, Elementwise))


def sdp_bytes(graph: Graph, slopes: Facts) -> int:
    """Upper estimate of the memory that the search for multipliers needs, in bytes."""
    neurons = unstable_count(graph, slopes)
    rows, columns = size(graph.output) + neurons, size(graph.input) + neurons
    widest = max(size(node) for node in graph.nodes)
    return 8 * (6 * rows * widest + 8 * max(rows, columns) ** 2)


def core_operations(graph: Graph, slopes: Facts) -> float:
    """Multiplications that `whole_core` takes, about."""
    rows, total, ranges = size(graph.output), 0.0, KnownSlopes.of(slopes).ranges
    for node in reversed(graph.nodes):
        if isinstance(node, Elementwise):
            rows += len(unstable_entries(ranges[node]))
        elif isinstance(node, Affine):
            total += 2.0 * rows * sum(operator.out_size * max(1, operator.terms) for operator, _ in node.terms)
    return total


def whole_core(graph: Graph, slopes: Facts, ties: Mapping[Node, int] | None = None) -> SdpCore:
    """The core with all inputs and all unstable neurons, also those that change nothing, by rows that are pushed back.

    Args:
        slopes: derivative range of every elementwise node.
        ties: nodes whose rows are tied, with the length of a row (`Derivative.ties`).

    Returns:
        Entries that can not be bounded have an infinite radius.
    """
    return _Backwards(graph, slopes, ties).build()


# Products of rows with a layer between two looks at the clock.
AT_ONCE = 2.0**29

Rows = tuple[Tensor, Tensor]  # middle and radius, shape (rows, entries of a node)


class _Backwards:
    """The backward sweep; lives for one call. Rows are outputs first, then neurons, last ones first."""

    def __init__(self, graph: Graph, slopes: Facts, ties: Mapping[Node, int] | None = None) -> None:
        self._graph, self._known, self._ties = graph, KnownSlopes.of(slopes), ties or {}
        self._at: dict[Node, Rows] = {}
        self._count = size(graph.output)
        self._columns: list[Rows] = []
        self._tied: list[Tensor] = []

    def build(self) -> SdpCore:
        graph, outputs = self._graph, self._count
        unit_rows = torch.eye(outputs, dtype=torch.float64)
        self._add(graph.output, unit_rows, torch.zeros_like(unit_rows))
        for node in reversed(graph.nodes):
            if isinstance(node, Input) or node not in self._at:
                continue
            middle, radius = self._at.pop(node)
            if isinstance(node, Elementwise):
                self._through_elementwise(node, middle, radius)
            elif isinstance(node, Affine):
                self._through_affine(node, middle, radius)
            else:
                raise UnsupportedOpError(
                    f"node '{node.name}' is neither affine nor elementwise; expand the graph first"
                )
        inputs = size(graph.input)
        found = [self._at[graph.input]] if graph.input in self._at else []
        found = found or [(unit_rows.new_zeros(0, inputs), unit_rows.new_zeros(0, inputs))]
        whole = [torch.cat([_padded(rows[end], self._count) for rows in (*found, *self._columns)], 1) for end in (0, 1)]
        blocks = tuple(columns[0].shape[1] for columns in reversed(self._columns))
        ties = torch.cat(self._tied) if self._ties and self._tied else None
        return _in_order(SdpCore(whole[0], whole[1], outputs, inputs, blocks, ties))

    def _add(self, node: Node, middle: Tensor, radius: Tensor) -> None:
        if node in self._at:
            known, doubt = self._at[node]
            rows = max(len(known), len(middle))
            middle = _padded(known, rows) + _padded(middle, rows)
            doubt = _padded(doubt, rows) + _padded(radius, rows) + _roundoff(middle)
            radius = torch.where(doubt == 0, 0.0, inflate(doubt, 4))
        self._at[node] = middle, radius

    def _through_affine(self, node: Affine, middle: Tensor, radius: Tensor) -> None:
        rows = len(middle)
        middle, radius = middle.reshape(rows, *node.shape), radius.reshape(rows, *node.shape)
        magnitude = up(middle.abs() + radius)
        present = (middle != 0) | (radius != 0)
        touched, empty = present.any(0).to(torch.float64), ~present.flatten(1).any(1)
        for operator, source in node.terms:
            backward = _in_float64(operator).transpose()
            images, doubts = [], []
            step = max(1, int(AT_ONCE / (backward.out_size * max(1, backward.terms))))
            for parts in zip(middle.split(step), magnitude.split(step), radius.split(step), strict=True):
                images.append(backward.apply(parts[0]))
                doubts.append(backward.slack(parts[1], parts[2]))  # asks the clock
            image, doubt = torch.cat(images), torch.cat(doubts)
            # The floor for underflow must not fill empty rows, nor entries that no weight reaches.
            doubt = torch.where(backward.abs().apply(touched) != 0, doubt, 0.0)
            doubt[empty] = 0.0
            doubt = torch.where(torch.isfinite(image), doubt, torch.inf).nan_to_num_(nan=torch.inf, posinf=torch.inf)
            image = image.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
            self._add(source, image.reshape(rows, size(source)), doubt.reshape(rows, size(source)))

    def _through_elementwise(self, node: Elementwise, middle: Tensor, radius: Tensor) -> None:
        slope = self._known.ranges[node].map(lambda end: end.flatten().to("cpu", torch.float64))
        steepness, half = middle_slopes(slope)
        unstable = flat_indices(half != 0)
        if len(unstable):
            self._columns.append(scaled(middle[:, unstable], radius[:, unstable], half[unstable]))
        passed, doubt = scaled(middle, radius, steepness)
        if node in self._known.defects:
            defect = self._known.defects[node].flatten().to("cpu", torch.float64)
            size = up(middle.abs() + radius)
            doubt = torch.where((middle == 0) & (radius == 0), 0.0, inflate(doubt + size * defect, 4))
        if len(unstable):
            first, count = self._count, len(unstable)
            rows = unstable // self._ties.get(node, 1)  # all entries of a tied row have one range of slopes
            self._tied.append(first + rows.unique(return_inverse=True)[1])
            self._count += count
            passed, doubt = _padded(passed, self._count), _padded(doubt, self._count)
            passed[torch.arange(first, self._count), unstable] = 1.0
        self._add(node.source, passed, doubt)


def _in_float64(operator: LinearOperator) -> LinearOperator:
    example = operator.example()
    if example.dtype == torch.float64 and example.is_cpu:
        return operator
    return operator.to(torch.device("cpu"), torch.float64)


def _roundoff(result: Tensor) -> Tensor:
    """Bound of the rounding of one correctly rounded operation with this result; 0 where the result is 0."""
    if not rigorous():
        return torch.zeros_like(result)
    return torch.where(result != 0, result.abs() * (2 * unit(result.dtype)) + tiny(result.dtype), 0.0)


def scaled(middle: Tensor, radius: Tensor, factor: Tensor) -> Rows:
    """Rows times one exact float per entry; factors 0 and 1 round nothing, and zeros stay zeros."""
    product = middle * factor
    exact = (factor == 0) | (factor == 1)
    floor = tiny(middle.dtype) if rigorous() else 0.0
    rounded = inflate(radius * factor.abs() + _roundoff(product), 4) + floor
    doubt = torch.where(exact, radius * factor, rounded)
    doubt = torch.where((middle == 0) & (radius == 0), 0.0, doubt)
    doubt = torch.where(torch.isfinite(product), doubt, torch.inf).nan_to_num_(nan=torch.inf, posinf=torch.inf)
    return product.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0), doubt


def _padded(rows: Tensor, count: int) -> Tensor:
    """Rows of zeros appended, up to `count` rows."""
    if len(rows) == count:
        return rows
    return torch.cat((rows, rows.new_zeros(count - len(rows), rows.shape[1])))


def _in_order(core: SdpCore) -> SdpCore:
    """Neurons from topological order of blocks reversed to topological order."""
    reverse = torch.arange(core.neurons).split(core.blocks[::-1]) if core.blocks else ()
    order = torch.cat(reverse[::-1]) if core.blocks else torch.arange(0)
    rows = torch.cat((torch.arange(core.outputs), core.outputs + order))
    columns = torch.cat((torch.arange(core.inputs), core.inputs + order))
    matrix, radius = (entries[rows][:, columns] for entries in (core.matrix, core.radius))
    ties = None if core.ties is None else core.ties[order]
    return SdpCore(matrix, radius, core.outputs, core.inputs, core.blocks, ties)
