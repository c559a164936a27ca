"""A network as stacks of layers: convolutions at all frequencies, and the dense layers behind them as one matrix each.

**The torus.** All maps lie on one torus each, on which every circular convolution agrees with the network's inside the
map's window (`windows`). What is outside of the window must be zero where a later layer reads it: neurons with a factor
0 or 1 at each position, that is, with slopes in the hull of 0 and their own. A constant of all functions on the torus
is one of the network, whose inputs are those with zeros outside of the window and whose outputs are a part.

**Slopes.** On the torus all neurons of a channel have one range and one multiplier: sums over positions of weighted
squares are sums over frequencies (Parseval), so that the same weight stands at every frequency and alias.

**The cut.** Layers behind a flatten are not the same everywhere: from some level on the network is a dense stack. With
weights d > 0 of the channels in between, ``sum d |y|^2 <= a |x|^2`` in front and ``|f|^2 <= b sum d |y|^2`` behind give
the squared constant ``a b``. The cut lies in front of neurons, so that in the dense stack each has its own multiplier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.certificates.frequencies.symbols import Symbol, Torus
from jacobound.certificates.frequencies.windows import Window, window
from jacobound.certificates.layered.chain import chain_bytes, layered_chain
from jacobound.certificates.layered.levels import Level, identity_rows, levels
from jacobound.errors import UnsupportedOpError
from jacobound.graph.graph import Graph
from jacobound.graph.nodes import Affine, Elementwise, Input, Node, size
from jacobound.jacobian.known_slopes import middle_slopes
from jacobound.method import Facts, flat_indices
from jacobound.operators.kinds import Identity
from jacobound.operators.norms import Chain

LARGEST_BLOCK = 1536  # channels times aliases at one frequency
MOST_CUTS = 2  # the last places that can be taken
LARGEST_DENSE = 2100  # entries of a map in front of which a dense stack begins


@dataclass(frozen=True, eq=False)
class Stack:
    """Layers in the order of the network, at one or many frequencies.

    Args:
        matrices: shape (frequencies, rows, columns) each, real or complex.
        errors: bound of the spectral distance of every exact layer from its matrices.
        middles, halves: slopes are m + r d with ``|d| <= 1`` behind every layer but the last, shape (rows,).
        shared: for every unstable entry behind a layer the number of its multiplier there.
        entering, leaving: for every entry at the ends the number of its weight; None for weights of one.
    """

    matrices: tuple[Tensor, ...]
    errors: tuple[float, ...]
    middles: tuple[Tensor, ...]
    halves: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    entering: Tensor | None = None
    leaving: Tensor | None = None

    @cached_property
    def unstable(self) -> tuple[Tensor, ...]:
        """Positions of the entries with more than one slope, layer by layer."""
        return tuple(flat_indices(half != 0) for half in self.halves)

    @cached_property
    def multipliers(self) -> tuple[int, ...]:
        """How many multipliers there are behind every layer."""
        return tuple(int(one.max()) + 1 if len(one) else 0 for one in self.shared)

    @cached_property
    def work(self) -> float:
        """Products of one evaluation, about."""
        sizes = [(len(one), *one.shape[1:]) for one in self.matrices]
        factor = 4 if self.matrices[0].is_complex() else 1
        return factor * sum(f * (r * c * (r + c) + r**3) for f, r, c in sizes)


@dataclass(frozen=True, eq=False)
class Stacked:
    """A network as a stack of frequencies and, behind a cut, a dense one.

    Args:
        stacks: one or two.
        channels: how many weights there are at the cut; 0 where there is none.
        name: where the cut lies, in words.
    """

    stacks: tuple[Stack, ...]
    channels: int
    name: str


def stacked(graph: Graph, slopes: Facts) -> list[Stacked]:
    """Every way in which the first layers of a graph of affine and elementwise nodes are taken by frequencies.

    A graph that begins with no convolution is one dense stack.

    Args:
        slopes: derivative range of every elementwise node.

    Raises:
        UnsupportedOpError: when there is none; says why.
    """
    steps = levels(graph)
    read, why = list[_Windows](), "the first layer is no convolution of a map"
    for level in steps:
        found = _windows(level, level is steps[-1])
        if isinstance(found, str):
            why = found
            break
        read.append(found)
    ways = []
    if len(read) == len(steps):
        ways.append(Stacked((_front(graph, steps, read, slopes, len(steps) - 1),), 0, "by frequencies alone"))
    for k in reversed(range(len(read) if not ways else 0)):
        cut = _cut(graph, steps, read, slopes, k)
        if cut is not None and len(ways) < MOST_CUTS:
            ways.append(cut)
    if not ways:
        whole = _dense(graph, slopes)
        ways = [] if whole is None else [Stacked((whole,), 0, "dense layers alone")]
    if not ways:
        raise UnsupportedOpError(
            f"no convolutional part of this network can be bounded by frequencies ({why}). "
            "Use LipSDP, ECLipsE or AutoLip for it"
        )
    return ways


# Of every node that a level reads, its chains as windows.
_Windows = Mapping[Node, tuple[tuple[Window, ...], ...]]


def _windows(level: Level, is_last: bool) -> _Windows | str:
    """The maps of a level as windows; why not, in words, where it has others."""
    found: dict[Node, tuple[tuple[Window, ...], ...]] = {}
    for root, chains in level.parts.items():
        own = []
        for chain in chains:
            own.append(_chain(chain, is_last))
            if own[-1] is None:
                return f"node '{level.node.name}' is not the same at all positions of a map"
        found[root] = tuple(one for one in own if one is not None)
    return found


def _chain(chain: Chain, is_last: bool) -> tuple[Window, ...] | None:
    """Windows one after the other, of which none but the first that moves anything reads outside of its map."""
    kept, moved = [], False
    operators = list(chain)
    while is_last and len(operators) > 1 and isinstance(operators[-1], Identity):
        operators.pop()  # another shape of the outputs changes no l2 norm
    for operator in operators:
        one = window(operator)
        if one is None or (moved and one.reads_outside):
            return None
        moved |= not one.is_pointwise
        kept.append(one)
    return tuple(kept)


def _needs_crop(chains: Sequence[tuple[Window, ...]]) -> bool:
    """Whether something outside of the map is read."""
    for chain in chains:
        first = next((one for one in chain if not one.is_pointwise), None)
        if first is not None and first.reads_outside:
            return True
    return False


def _coarseness(
    graph: Graph, steps: Sequence[Level], read: Sequence[_Windows], last: int
) -> dict[Node, tuple[int, ...]]:
    """The product of all strides from the input to every node.

    Raises:
        UnsupportedOpError: where paths with other strides meet.
    """
    axes = len(graph.input.shape) - 1
    found: dict[Node, tuple[int, ...]] = {graph.input: (1,) * axes}
    for level, windows in zip(steps[: last + 1], read, strict=False):
        own = set()
        for root, chains in windows.items():
            for chain in chains:
                step = found[root]
                for one in chain:
                    step = tuple(a * s for a, s in zip(step, one.stride, strict=True))
                own.add(step)
        if len(own) != 1:
            raise UnsupportedOpError(f"node '{level.node.name}' joins maps of different strides")
        found[level.node] = own.pop()
    return found


def _torus(
    coarse: Mapping[Node, tuple[int, ...]], steps: Sequence[Level], read: Sequence[_Windows], last: int
) -> Torus:
    """The shortest circles on which all windows fit."""
    end = coarse[steps[last].node]
    lengths = [1] * len(end)
    for windows in read[: last + 1]:
        for root, chains in windows.items():
            for chain in chains:
                step = coarse[root]
                for one in chain:
                    for axis, need in enumerate(one.shortest):
                        # Of the whole circle at the input, in units of the coarsest step.
                        lengths[axis] = max(lengths[axis], -(-need * step[axis] // end[axis]))
                    step = tuple(a * s for a, s in zip(step, one.stride, strict=True))
    return Torus(tuple(lengths))


@dataclass
class _Front:
    """Layers at all frequencies; lives for one stack."""

    torus: Torus
    aliases: dict[Node, tuple[int, ...]]
    channels: dict[Node, int]
    state: tuple[Node, ...]
    matrices: list[Tensor] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    middles: list[Tensor] = field(default_factory=list)
    halves: list[Tensor] = field(default_factory=list)
    shared: list[Tensor] = field(default_factory=list)

    def width(self, node: Node) -> int:
        return self.channels[node] * prod(self.aliases[node])

    def add(self, level: Level, windows: _Windows, slope: Interval | None, passing: tuple[Node, ...]) -> None:
        """One level.

        Args:
            slope: of every channel behind it, one number each; None where nothing acts.
            passing: what goes on beside it.
        """
        rows = self.width(level.node)
        count = len(self.torus.half)
        error, blocks = torch.zeros((), dtype=torch.float64), []
        for root in self.state:
            if root not in windows:
                blocks.append(torch.zeros(count, rows, self.width(root), dtype=torch.complex128))
                continue
            symbol = self._sum(root, windows[root])
            blocks.append(symbol.matrices)
            error = error + symbol.error
        layer = [torch.cat(blocks, 2)]
        for node in passing:
            layer.append(identity_rows(node, self.state, self.width).to(torch.complex128).expand(count, -1, -1))
        self.matrices.append(torch.cat(layer, 1))
        self.errors.append(float(error * (1 + 1e-9)))
        beside = self.matrices[-1].shape[1] - rows
        middle, half = torch.ones(rows, dtype=torch.float64), torch.zeros(rows, dtype=torch.float64)
        shared = torch.zeros(0, dtype=torch.int64)
        if slope is not None:
            copies = prod(self.aliases[level.node])
            middle, half = (part.repeat(copies) for part in middle_slopes(slope))
            unstable = flat_indices(half[: self.channels[level.node]] != 0)
            shared = torch.arange(len(unstable)).repeat(copies)
        self.middles.append(torch.cat((middle, middle.new_ones(beside))))
        self.halves.append(torch.cat((half, half.new_zeros(beside))))
        self.shared.append(shared)
        self.state = (level.node, *passing)

    def _sum(self, root: Node, chains: Sequence[tuple[Window, ...]]) -> Symbol:
        total = None
        for chain in chains:
            aliases, symbol = self.aliases[root], None
            for one in chain:
                step = self.torus.symbol(one, aliases)
                symbol = step if symbol is None else step.after(symbol)
                aliases = tuple(a // s for a, s in zip(aliases, one.stride, strict=True))
            assert symbol is not None
            total = symbol if total is None else total.plus(symbol)
        assert total is not None
        return total


def _front(graph: Graph, steps: Sequence[Level], read: Sequence[_Windows], slopes: Facts, last: int) -> Stack:
    """The levels up to `last` by frequencies; nothing acts on the last one."""
    coarse = _coarseness(graph, steps, read, last)
    end = coarse[steps[last].node]
    for node, step in coarse.items():
        if any(e % s for e, s in zip(end, step, strict=True)):
            raise UnsupportedOpError(f"node '{node.name}' has strides that no later one continues")
    torus = _torus(coarse, steps, read, last)
    aliases = {node: tuple(e // s for e, s in zip(end, step, strict=True)) for node, step in coarse.items()}
    channels: dict[Node, int] = {graph.input: graph.input.shape[0]}
    for level, windows in zip(steps[: last + 1], read, strict=False):
        channels[level.node] = len(next(iter(windows.values()))[0][-1].kernel)
    front = _Front(torus, aliases, channels, (graph.input,))
    widest = 0
    for k, level in enumerate(steps[: last + 1]):
        later = [windows[level.node] for windows in read[k + 1 : last + 1] if level.node in windows]
        slope = None
        crop = any(_needs_crop(chains) for chains in later)
        if k < last:
            slope = _slope_of_channels(level, slopes, crop)
        passing = () if k == last else level.passing
        widest = max(widest, front.width(level.node) + sum(front.width(node) for node in passing))
        if widest > LARGEST_BLOCK:
            raise UnsupportedOpError(f"node '{level.node.name}' has too many channels and strides for one block")
        front.add(level, read[k], slope, passing)
    parts = (
        tuple(one) for one in (front.matrices, front.errors, front.middles[:-1], front.halves[:-1], front.shared[:-1])
    )
    return Stack(*parts)  # type: ignore[arg-type]


def _slope_of_channels(level: Level, slopes: Facts, crop: bool) -> Interval | None:
    """The hull of the slopes of every channel, with 0 where what is outside of the map is read."""
    neurons = level.neurons
    if neurons is None:
        if crop:
            raise UnsupportedOpError(f"node '{level.node.name}' is read outside of its map without neurons before it")
        return None
    slope = slopes[neurons].map(lambda end: end.detach().to("cpu", torch.float64).flatten(1))
    lower, upper = slope.lower.amin(1), slope.upper.amax(1)
    return Interval(lower.clamp(max=0.0), upper.clamp(min=0.0)) if crop else Interval(lower, upper)


def _cut(graph: Graph, steps: Sequence[Level], read: Sequence[_Windows], slopes: Facts, k: int) -> Stacked | None:
    """Frequencies up to the arguments of the neurons of level k, dense from there on; None where that does not go."""
    level = steps[k]
    neurons = level.neurons
    if neurons is None or level.passing or len(level.node.shape) != len(graph.input.shape):
        return None
    if size(level.node) > LARGEST_DENSE:
        return None
    try:
        front = _front(graph, steps, read, slopes, k)
    except UnsupportedOpError:
        return None
    channels, positions = level.node.shape[0], prod(level.node.shape[1:])
    aliases = front.matrices[-1].shape[1] // channels
    tail = _tail(graph, neurons, slopes)
    if tail is None:
        return None
    whole = torch.arange(channels)
    stacks = (
        Stack(front.matrices, front.errors, front.middles, front.halves, front.shared, None, whole.repeat(aliases)),
        Stack(
            tail.matrices, tail.errors, tail.middles, tail.halves, tail.shared, whole.repeat_interleave(positions), None
        ),
    )
    return Stacked(stacks, channels, f"dense from '{level.node.name}' on")


def _tail(graph: Graph, neurons: Elementwise, slopes: Facts) -> Stack | None:
    """The graph from the arguments of neurons on, as a dense stack."""
    start = Input(neurons.shape)
    copies: dict[Node, Node] = {}
    for node in graph.nodes:
        if node is neurons:
            copies[node] = Elementwise(neurons.activation, start, neurons.name)
        elif isinstance(node, Affine) and node.terms and all(source in copies for _, source in node.terms):
            copies[node] = Affine(tuple((op, copies[source]) for op, source in node.terms), None, node.name)
        elif isinstance(node, Elementwise) and node.source in copies:
            copies[node] = Elementwise(node.activation, copies[node.source], node.name)
    if graph.output not in copies:
        return None
    known = {copies[node]: slope for node, slope in slopes.items() if node in copies}
    return _dense(Graph(copies[graph.output]), known)


def _dense(graph: Graph, slopes: Facts) -> Stack | None:
    """A graph as a stack of one matrix for each layer; None where one is too large."""
    if chain_bytes(graph) is None:
        return None
    chain = layered_chain(graph, slopes)
    shared = tuple(torch.arange(len(one)) for one in chain.unstable)
    matrices = tuple(one.unsqueeze(0) for one in chain.matrices)
    return Stack(matrices, chain.errors, chain.middles, chain.halves, shared)
