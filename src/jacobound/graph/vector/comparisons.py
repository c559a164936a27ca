"""`Maximum` and `Sort`: functions that compare entries, rewritten with ``max(a, b) = a + relu(b - a)``.

Both are rounds of comparisons. One round chooses among disjoint or overlapping pairs of entries of a node; it becomes
a node of differences, a ReLU, and an affine node that carries a `Choice`: what plain interval arithmetic forgets.
Source of the expansion: RecurJac (AAAI 2019), on networks with max-pooling.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import inf, prod

import torch
from torch import Tensor

from jacobound.activations import activation
from jacobound.arithmetic.intervals import Interval, concatenated
from jacobound.arithmetic.rounding import inflate
from jacobound.errors import ShapeError
from jacobound.graph.nodes import Affine, Choice, Elementwise, Node, VectorFunction
from jacobound.operators.base import LinearOperator
from jacobound.operators.kinds import Identity, Select, Sparse

DOUBLE = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Pairs:
    """One round: each entry of a new node is an entry that is kept, or the larger or smaller one of a pair.

    Args:
        first, second: flat positions of the pairs' members in the source, shape (pairs,).
        kept: shape of the new node; flat position in the source, or -1.
        larger: the same shape; number of the pair whose larger member the entry is, or -1.
        smaller: likewise for the smaller member. Of the three numbers of an entry exactly one is not -1.
    """

    first: Tensor
    second: Tensor
    kept: Tensor
    larger: Tensor
    smaller: Tensor

    @cached_property
    def base(self) -> Tensor:
        """The entry to which the gate adds (larger) or from which it subtracts (smaller)."""
        base = _looked_up(self.first, self.larger)
        base = torch.where(self.smaller >= 0, _looked_up(self.second, self.smaller), base)
        return torch.where(self.kept >= 0, self.kept, base)

    @cached_property
    def other(self) -> Tensor:
        """The entry that the base is compared with; the base itself where the entry is kept."""
        other = torch.where(self.larger >= 0, _looked_up(self.second, self.larger), self.base)
        return torch.where(self.smaller >= 0, _looked_up(self.first, self.smaller), other)

    def value(self, x: Tensor, in_shape: tuple[int, ...]) -> Tensor:
        """The choice itself: (*lead, *in_shape) -> (*lead, *shape of the new node)."""
        flat = x.reshape(*x.shape[: x.dim() - len(in_shape)], -1)
        one, two = flat[..., self.base], flat[..., self.other]
        return torch.where(self.smaller >= 0, torch.minimum(one, two), torch.maximum(one, two))

    def expand(self, source: Node, name: str, like: Tensor) -> Node:
        """The nodes of this round."""
        carried = _selected(self.base, source, like)
        if not len(self.first):
            return Affine((carried,), None, name)
        ones = like.new_ones(len(self.first))
        difference = Sparse(torch.stack((-ones, ones)), torch.stack((self.first, self.second)), source.shape)
        gate = Elementwise(
            activation("relu"), Affine(((difference, source),), None, f"{name}.difference"), f"{name}.gate"
        )
        added: LinearOperator = Select(self.larger, gate.shape, like)
        if bool((self.smaller >= 0).any()):
            sign = torch.where(self.smaller >= 0, -like.new_ones(()), like.new_ones(()))
            added = Sparse(sign[None], torch.maximum(self.larger, self.smaller)[None], gate.shape)
        return Affine((carried, (added, gate)), None, name, Chosen(source, gate, self, like))

    def to(self, device: torch.device) -> Pairs:
        return Pairs(*(index.to(device) for index in (self.first, self.second, self.kept, self.larger, self.smaller)))


@dataclass(frozen=True, eq=False)
class Chosen(Choice):
    """The entries of one round of comparisons."""

    source: Node
    gate: Elementwise
    pairs: Pairs
    like: Tensor

    def range(self, x: Interval) -> Interval:
        return x.map(lambda end: self.pairs.value(end, self.source.shape))

    def adjoint(self, slope: Interval, behind: Interval) -> Interval:
        """A member of a pair gets what stands behind the larger entry or the smaller one; which, the gate says."""
        larger, smaller = (self._of_pairs(index, behind) for index in (self.pairs.larger, self.pairs.smaller))
        either = larger.hull(smaller)
        closed, opened = ((slope.lower == end) & (slope.upper == end) for end in (0, 1))
        first = _where(closed, larger, _where(opened, smaller, either))
        second = _where(closed, smaller, _where(opened, larger, either))
        reading = torch.cat((self.pairs.kept.flatten(), self.pairs.first, self.pairs.second))
        back = Select(reading, self.source.shape, self.like).transpose()
        straight = behind.map(lambda end: end.flatten(2).expand(*first.shape[:2], -1))
        return back.enclose(concatenated((straight, first, second), 2))

    def _of_pairs(self, index: Tensor, behind: Interval) -> Interval:
        """Sums over the entries that belong to each pair, shape (N, outputs, pairs)."""
        return Select(index, self.gate.shape, self.like).transpose().enclose(behind)

    def rebuilt(self, source: Node, gate: Elementwise, device: torch.device) -> Chosen:
        like = gate.source.terms[0][0].example() if isinstance(gate.source, Affine) else self.like
        return Chosen(source, gate, self.pairs.to(device), like)


class Selecting(VectorFunction):
    """A function whose results are entries of its argument; monotone, so that ranges are exact."""

    compares = True
    expands = True

    @property
    @abstractmethod
    def multiplicity(self) -> int:
        """The number m with ``||f(x) - f(y)||_p <= m^(1/p) ||x - y||_p``: how many entries can follow one entry."""

    def range(self, x: Interval) -> Interval:
        return x.map(self.value)

    def constant(self, p: float, x: Interval) -> Tensor:
        times = DOUBLE + float(self.multiplicity)
        if p == inf or times <= 1:
            return times.clamp(max=1.0)
        return times if p == 1 else inflate(times.sqrt(), 2)


@dataclass(frozen=True, eq=False)
class Maximum(Selecting):
    """``y[i] = max_k x.flat[windows[k, i]]``: max-pooling of any kind, maxima over axes, of several tensors.

    Args:
        windows: integers of shape (k, *out_shape), flat positions into in_shape; -1 for an absent candidate.
        in_shape: shape of the argument.
        like: tensor that carries dtype and device.
    """

    windows: Tensor
    in_shape: tuple[int, ...]
    like: Tensor = DOUBLE

    def __post_init__(self) -> None:
        if self.windows.dim() < 1 or 0 in self.windows.shape:
            raise ShapeError(f"a maximum needs candidates and entries, not windows of {tuple(self.windows.shape)}")
        if self.windows.max() >= prod(self.in_shape) or self.windows.min() < -1:
            raise ShapeError(f"the windows of a maximum point outside its argument of shape {self.in_shape}")
        if not bool((self.windows >= 0).any(0).all()):
            raise ShapeError("a window of a maximum holds no entry at all; such a maximum is minus infinity")

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return tuple(self.windows.shape[1:])

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"maximum of {self.windows.shape[0]}"

    def value(self, x: Tensor) -> Tensor:
        flat = x.reshape(*x.shape[: x.dim() - len(self.in_shape)], prod(self.in_shape))
        largest = None
        for row in self.windows:
            found = torch.where(row >= 0, flat[..., row.clamp(min=0)], -torch.inf)
            largest = found if largest is None else torch.maximum(largest, found)
        assert largest is not None
        return largest

    def expand(self, source: Node, name: str) -> Node:
        """Rounds of pairs; an odd candidate is kept, and a pair that several windows need is compared once."""
        rounds = self._rounds()
        for k, pairs in enumerate(rounds, 1):
            last = k == len(rounds) and self.out_shape != ()
            source = pairs.expand(source, name if last else f"{name}.round{k}", self.like)
        return source if self.out_shape else Affine(((Identity((1,), (), self.like), source),), None, name)

    def _rounds(self) -> list[Pairs]:
        windows = _compacted(self.windows.reshape(len(self.windows), -1))
        found = []
        while not found or len(windows) > 1:
            if len(windows) % 2:
                windows = torch.cat((windows, windows.new_full((1, windows.shape[1]), -1)))
            couples = torch.stack((windows[0::2], windows[1::2]))
            if len(windows) > 2:
                codes, windows = torch.unique(couples.flatten(1), dim=1, return_inverse=True)
                windows = windows.reshape(couples.shape[1:])
                absent = (codes < 0).all(0)
                # The absent candidate, code (-1, -1), sorts first when it is there.
                windows, codes = windows - int(absent.sum()), codes[:, ~absent]
                found.append(_of_couples(codes))
            else:
                windows = windows[:1]
                found.append(_of_couples(couples.reshape(2, *(self.out_shape or (1,)))))
        return found

    @cached_property
    def multiplicity(self) -> int:  # type: ignore[override]
        """The most windows that share an entry: a window's maximum moves no more than the largest of its entries."""
        windows = _compacted(self.windows.reshape(len(self.windows), -1))
        return int(torch.bincount(windows[windows >= 0]).max())

    def structure(self) -> bytes:
        return b"maximum" + repr((self.in_shape, tuple(self.windows.shape))).encode() + _bytes(self.windows)

    def to(self, device: torch.device, dtype: torch.dtype) -> Maximum:
        return Maximum(self.windows.to(device), self.in_shape, self.like.to(device=device, dtype=dtype))


@dataclass(frozen=True, eq=False)
class Sort(Selecting):
    """Ascending sort of the last axis (order statistics, group-sort), by Batcher's merging network.

    Source: K. E. Batcher, Sorting networks and their applications (1968).

    Args:
        in_shape: shape of the argument; its last axis is sorted.
        like: tensor that carries dtype and device.
    """

    in_shape: tuple[int, ...]
    like: Tensor = DOUBLE

    def __post_init__(self) -> None:
        if not self.in_shape or 0 in self.in_shape:
            raise ShapeError(f"there is nothing to sort in a tensor of shape {self.in_shape}")

    @property
    def out_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.in_shape

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"sort of {self.in_shape[-1]}"

    def value(self, x: Tensor) -> Tensor:
        return x.sort(-1).values

    def expand(self, source: Node, name: str) -> Node:
        rounds = sorting_network(self.in_shape[-1])
        if not rounds:
            same = Identity(self.in_shape, self.in_shape, self.like)
            return Affine(((same, source),), None, name)
        for k, comparators in enumerate(rounds, 1):
            pairs = self._pairs(comparators)
            source = pairs.expand(source, name if k == len(rounds) else f"{name}.round{k}", self.like)
        return source

    def _pairs(self, comparators: list[tuple[int, int]]) -> Pairs:
        """Pairs of entries for some comparators, repeated in every group."""
        place = torch.arange(prod(self.in_shape), device=self.like.device).reshape(-1, self.in_shape[-1])
        low, high = (list(ends) for ends in zip(*comparators, strict=True))
        count = len(comparators)
        number = torch.arange(len(place) * count, device=place.device).reshape(len(place), count)
        kept, larger, smaller = place.clone(), torch.full_like(place, -1), torch.full_like(place, -1)
        kept[:, low], kept[:, high], smaller[:, low], larger[:, high] = -1, -1, number, number
        first, second = place[:, low].flatten(), place[:, high].flatten()
        return Pairs(first, second, *(index.reshape(self.in_shape) for index in (kept, larger, smaller)))

    @property
    def multiplicity(self) -> int:
        """Sorting brings no two vectors further apart, in any of the norms."""
        return 1

    def structure(self) -> bytes:
        return b"sort" + repr(self.in_shape).encode()

    def to(self, device: torch.device, dtype: torch.dtype) -> Sort:
        return Sort(self.in_shape, self.like.to(device=device, dtype=dtype))


def sorting_network(length: int) -> list[list[tuple[int, int]]]:
    """Rounds of disjoint comparators (i, j), i < j, the smaller goes to i: Batcher's odd-even merge sort.

    Comparators beyond a length that is no power of two would only see +infinity, and are left out.
    """
    rounds = []
    width = 1
    while width < length:
        step = width
        while step >= 1:
            comparators = [
                (i + j, i + j + step)
                for j in range(step % width, length - step, 2 * step)
                for i in range(min(step, length - j - step))
                if (i + j) // (2 * width) == (i + j + step) // (2 * width)
            ]
            if comparators:
                rounds.append(comparators)
            step //= 2
        width *= 2
    return rounds


def _of_couples(couples: Tensor) -> Pairs:
    """A round whose entries are the larger ones of couples, shape (2, *shape); -1 behind an entry that is kept."""
    first, second = couples[0], couples[1]
    alone = second < 0
    number = torch.where(alone, -1, (~alone).flatten().cumsum(0).reshape(alone.shape) - 1)
    kept = torch.where(alone, first, -1)
    return Pairs(first[~alone], second[~alone], kept, number, torch.full_like(number, -1))


def _compacted(windows: Tensor) -> Tensor:
    """Candidates in descending order, repeated and absent ones last; rows that nobody needs are dropped."""
    ordered = windows.sort(0, descending=True).values
    repeated = torch.zeros_like(ordered, dtype=torch.bool)
    repeated[1:] = ordered[1:] == ordered[:-1]
    ordered = torch.where(repeated, -1, ordered).sort(0, descending=True).values
    return ordered[: max(1, int((ordered >= 0).sum(0).max()))]


def _looked_up(table: Tensor, index: Tensor) -> Tensor:
    """table[index], and -1 where the index is -1."""
    return torch.where(index >= 0, table[index.clamp(min=0)], -1) if len(table) else torch.full_like(index, -1)


def _selected(index: Tensor, source: Node, like: Tensor) -> tuple[LinearOperator, Node]:
    """The entries of a node at some places."""
    places = torch.arange(index.numel(), device=index.device)
    if index.numel() == prod(source.shape) and torch.equal(index.flatten(), places):
        return Identity(source.shape, tuple(index.shape), like), source
    return Select(index, source.shape, like), source


def _where(mask: Tensor, chosen: Interval, other: Interval) -> Interval:
    return Interval(torch.where(mask, chosen.lower, other.lower), torch.where(mask, chosen.upper, other.upper))


def _bytes(index: Tensor) -> bytes:
    return index.to("cpu", torch.int64).contiguous().numpy().tobytes()
