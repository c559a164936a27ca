"""Certified norms of linear operators from l_p to l_p, p in {1, 2, inf}, and of sums and products of them.

A whole operator's norm is found once and remembered with the operator. For p = 2 the cheapest certificate that is
nearly exact is taken: closed forms for data movement and scales, a verified Cholesky factorisation of the Gram matrix
up to order `linear_maps.LARGEST_ORDER`, batches of them for blocks, circulant embedding for large convolutions. The
square root of the l_1 times the l_inf norm always holds, and is what remains for anything larger.

Sources: `linear_maps.gram_norm`, `circulant`, `block_norms`; Singla and Feizi, "Fantastic four" (ICLR 2021) for the
norm of the reshaped kernel times the root of the overlap of its windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, prod

import torch
from torch import Tensor

from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import inflate, rigorous, up
from jacobound.errors import ShapeError
from jacobound.operators.base import LinearOperator
from jacobound.operators.block_norms import Family, largest_norm
from jacobound.operators.circulant import circulant_norm
from jacobound.operators.kinds import Blocks, Convolution, Dense, Identity, Scale, Scatter, Select, Sparse
from jacobound.operators.linear_maps import (
    LARGEST_ORDER,
    MOST_WORK,
    LinearMap,
    column_norm,
    gram_norm,
    largest_sums,
    mixed_norm,
    power_of_two_above,
)

# Products of one certificate when there is little time: about a second on one core.
LITTLE_WORK = 1 << 32
# Products of a certificate in a second on one core, about.
PRODUCTS = 2e10
# Products for the norm of some rows alone, which is asked anew for every region.
MOST_WORK_FOR_ROWS = 1 << 34
# Products for column sums of sums and products of operators, which gain what cancels.
MOST_WORK_FOR_SUMS = 1 << 34

Chain = tuple[LinearOperator, ...]


def operator_norm(operator: LinearOperator, p: float, kept: Tensor | None = None, most_work: int = MOST_WORK) -> Tensor:
    """Certified upper bound of an operator's norm from l_p to l_p, of the rows `kept` alone when given.

    Args:
        operator: any kind; uncertain weights are covered.
        p: 1, 2 or inf. For 1 and inf the bound is exact up to rounding.
        kept: mask of out_shape, or None for all rows.
        most_work: products that one certificate may take; what needs more is bounded by cheaper means.

    Returns:
        0-d, in the operator's dtype and on its device, rounded up.

    Raises:
        ShapeError: for another p.
    """
    _check_exponent(p)
    example = operator.example()
    if kept is None or bool(kept.all()):
        found = _remembered(operator, ("norm", p), most_work, lambda: _whole(_on_cpu(operator), p, most_work))
        return _moved(found, example)
    return _moved(_of_rows(operator, p, kept.to("cpu"), most_work), example)


def norms_of_rows(operator: LinearOperator, p: float, kept: Tensor, most_work: int = MOST_WORK) -> Tensor:
    """Certified upper bounds of the l_p norms of several selections of an operator's rows.

    Args:
        operator: any kind; uncertain weights are covered.
        p: 1, 2 or inf.
        kept: masks of the rows that count, shape (N, *out_shape).
        most_work: products that one certificate may take.

    Returns:
        Shape (N,), in the operator's dtype and on its device, rounded up.
    """
    _check_exponent(p)
    if p == 2:
        different, place = torch.unique(kept.reshape(len(kept), -1), dim=0, return_inverse=True)
        masks = different.reshape(-1, *operator.out_shape)
        return torch.stack([operator_norm(operator, p, mask, most_work) for mask in masks])[place]
    absolute, example = operator.abs(), operator.example()
    mask = kept.to(example)
    if p == inf:
        rows = inflate(absolute.apply(example.new_ones(operator.in_shape)), operator.terms + 1)
        return (rows * mask).reshape(len(mask), -1).amax(1) if rows.numel() else example.new_zeros(len(mask))
    columns = absolute.transpose().apply(mask).reshape(len(mask), -1)
    if not columns.numel():
        return example.new_zeros(len(mask))
    return inflate(columns.amax(1), operator.transpose().terms + 1)


def linear_norm(chains: Sequence[Chain], p: float, most_work: int = MOST_WORK) -> Tensor:
    """Certified upper bound of the l_p norm of a sum of products of operators, 0-d float64 on the CPU.

    The smaller of the sum of products of their norms and, where it is affordable, the norm of the whole map.

    Args:
        chains: each operator's result is the next one's argument; all chains share their ends' shapes.
        p: 1, 2 or inf.
        most_work: products that one certificate may take.
    """
    _check_exponent(p)
    chains = tuple(tuple(chain) for chain in chains)
    if not chains:
        return torch.zeros((), dtype=torch.float64)
    # The operators themselves are the key: they compare by identity, and are kept alive by it.
    return _remembered(
        chains[0][-1],
        (chains, p),
        most_work,
        lambda: _of_chains([_all_on_cpu(chain) for chain in chains], p, most_work),
    )


def _of_chains(chains: Sequence[Chain], p: float, most_work: int) -> Tensor:
    chains = [_without_ends(chains[0])] if len(chains) == 1 else chains
    plain = torch.zeros((), dtype=torch.float64)
    for chain in chains:
        product = torch.ones((), dtype=torch.float64)
        for operator in chain:
            product = up(product * operator_norm(operator, p, None, most_work))
        plain = up(plain + product)
    if sum(len(chain) for chain in chains) <= 1 or not 0 < float(plain) < inf:
        return plain
    linear = LinearMap(tuple(chains))
    if p == 2:
        return torch.minimum(plain, _of_map(linear, chains, most_work))
    linear = linear if p == 1 else linear.transposed
    found = torch.minimum(plain, largest_sums(linear)[1])
    if len(chains) == 1 and sum(not _is_thin(operator) for operator in chains[0]) <= 1:
        return found  # nothing can cancel
    return (
        torch.minimum(found, column_norm(linear))
        if linear.in_size * linear.work <= min(most_work, MOST_WORK_FOR_SUMS)
        else found
    )


def _of_map(linear: LinearMap, chains: Sequence[Chain], most_work: int) -> Tensor:
    """Spectral norm of a map of several operators."""
    rows, columns = largest_sums(linear)
    mixed = mixed_norm(rows, columns)
    if not 0 < float(mixed) < inf or (len(chains) == 1 and all(_is_thin(operator) for operator in chains[0])):
        return mixed
    if _affordable(linear, most_work):
        return torch.minimum(mixed, gram_norm(linear, mixed))
    merged = _merged_convolution(chains[0]) if len(chains) == 1 else None
    if merged is None:
        return mixed
    convolution, lost = merged
    return torch.minimum(mixed, up(_spectral(convolution, most_work) + lost))


def _check_exponent(p: float) -> None:
    if p not in (1, 2, inf):
        raise ShapeError(f"norms of operators are known for p = 1, 2 and inf, not {p}")


def _remembered(
    operator: LinearOperator, key: tuple[object, float], most_work: int, find: Callable[[], Tensor]
) -> Tensor:
    """What was found for this operator before with at least so much work, kept in its own dictionary."""
    known: dict[object, tuple[int, Tensor]] = vars(operator).setdefault("_norms", {})
    name = (*key, rigorous())
    if name not in known or known[name][0] < most_work:
        known[name] = (most_work, find())
    return known[name][1]


def _on_cpu(operator: LinearOperator) -> LinearOperator:
    """An operator moved to float64 on the CPU, where factorisations are trusted."""
    example = operator.example()
    if example.is_cpu and example.dtype == torch.float64:
        return operator
    return operator.to(torch.device("cpu"), torch.float64)


def _all_on_cpu(chain: Chain) -> Chain:
    return tuple(_on_cpu(operator) for operator in chain)


def _moved(norm: Tensor, like: Tensor) -> Tensor:
    """The float64 number in another dtype, not below."""
    moved = norm.to(like.dtype)
    return (moved if bool(moved.to(norm.dtype) >= norm) else up(moved)).to(like.device)


def _whole(operator: LinearOperator, p: float, most_work: int) -> Tensor:
    """The norm of a float64 operator on the CPU."""
    like = operator.example()
    weights = operator.parameters()
    if operator.in_size == 0 or operator.out_size == 0 or (weights and not any(bool(w.any()) for w in weights)):
        return like.new_zeros(())
    if isinstance(operator, Identity):
        return like.new_ones(())
    if isinstance(operator, Scatter):
        return _of_selection(operator.selection, {1: inf, inf: 1}.get(p, p), like)
    if isinstance(operator, Select):
        return _of_selection(operator, p, like)
    if isinstance(operator, Scale):
        return operator.abs().factor.amax()
    operator = _core(operator)
    rows, columns = largest_sums(LinearMap(((operator,),)))
    if p == inf:
        return rows
    return columns if p == 1 else _spectral(operator, most_work)


def _core(operator: LinearOperator) -> LinearOperator:
    """The part of an operator that acts; axes that it leaves alone change no norm."""
    if isinstance(operator, Dense):
        return Dense(operator.weight) if operator.lead else operator
    if isinstance(operator, Blocks):
        return replace(operator, lead=())
    return replace(operator, before=(), after=()) if isinstance(operator, Sparse) else operator


def _of_selection(selection: Select, p: float, like: Tensor) -> Tensor:
    """An entry that is used m times counts m^(1/p)."""
    times = float(selection.multiplicity)
    if p == inf:
        return like.new_tensor(min(times, 1.0))
    return like.new_tensor(times) if p == 1 else _root(like.new_tensor(times))


def _root(x: Tensor) -> Tensor:
    """Square root, rounded up unless it is exact."""
    root = x.sqrt()
    return root if bool(root * root == x) and float(x) < 2**50 and float(root) == int(root) else inflate(root, 2)


def _spectral(operator: LinearOperator, most_work: int) -> Tensor:
    """Spectral norm of an operator that is no data movement."""
    linear = LinearMap(((operator,),))
    rows, columns = largest_sums(linear)
    mixed = mixed_norm(rows, columns)
    if not 0 < float(mixed) < inf or _is_thin(operator):
        return mixed
    if isinstance(operator, Blocks):
        return torch.minimum(mixed, _of_blocks(operator.weight, float(mixed)))
    if isinstance(operator, Convolution) and operator.groups > 1:
        parts = _groups(operator)
        if _affordable(LinearMap(((parts[0],),)), most_work // len(parts)):
            return torch.minimum(mixed, torch.stack([_spectral(part, most_work) for part in parts]).amax())
    if _affordable(linear, most_work):
        return torch.minimum(mixed, gram_norm(linear, mixed))
    if isinstance(operator, Convolution):
        best = torch.minimum(mixed, _of_reshaped(operator, most_work))
        return torch.minimum(best, circulant_norm(operator, float(best), 2 * most_work))
    return mixed


def _is_thin(operator: LinearOperator) -> bool:
    """Whether no row and no column has two entries: then ``sqrt(l_1 l_inf)`` is nearly the norm, also of products."""
    return operator.terms <= 1 and operator.transpose().terms <= 1


def _affordable(linear: LinearMap, most_work: int) -> bool:
    return min(linear.in_size, linear.out_size) <= LARGEST_ORDER and linear.gram_work <= most_work


def _of_blocks(weight: Tensor, mixed: float) -> Tensor:
    """The largest norm among matrices of shape (*groups, out, in)."""
    blocks = weight.detach().flatten(0, -3)
    blocks = blocks if blocks.shape[1] <= blocks.shape[2] else blocks.mT
    scale = power_of_two_above(mixed)
    scaled = blocks / scale
    family = Family(len(blocks), blocks.shape[1], blocks.shape[2], lambda numbers: scaled[numbers])
    return up(largest_norm(family) * scale)


def _groups(convolution: Convolution) -> list[Convolution]:
    """One convolution for every group of channels."""
    count = convolution.groups
    image = (convolution.image[0] // count, *convolution.image[1:])
    return [replace(convolution, weight=part, image=image, groups=1) for part in convolution.weight.chunk(count)]


def _of_reshaped(convolution: Convolution, most_work: int) -> Tensor:
    """Norm of the kernel as a matrix (out, in taps), times the root of how many windows hold one entry."""
    weight, groups = convolution.weight.detach(), convolution.groups
    overlap = 1
    axes = zip(weight.shape[2:], convolution.stride, convolution.dilation, strict=True)
    for taps, stride, dilation in axes:
        overlap *= int(torch.bincount(torch.arange(taps) * dilation % stride).max())
    norms = [_spectral(Dense(part.flatten(1)), most_work) for part in weight.chunk(groups)]
    return up(torch.stack(norms).amax() * _root(weight.new_tensor(float(overlap))))


def _of_rows(operator: LinearOperator, p: float, kept: Tensor, most_work: int) -> Tensor:
    """The norm of some rows alone, float64 on the CPU; for p = 2 only where that is cheap."""
    index = kept.flatten().nonzero().squeeze(1)
    if len(index) == 0:
        return torch.zeros((), dtype=torch.float64)
    moved = _on_cpu(operator)
    if isinstance(moved, Dense) and not moved.lead:
        linear = LinearMap(((Dense(moved.weight[index]),),))
    else:
        linear = LinearMap(((moved, Select(index, moved.out_shape, moved.example())),))
    rows, columns = largest_sums(linear)
    if p != 2:
        return rows if p == inf else columns
    found = mixed_norm(rows, columns)
    if not 0 < float(found) < inf:
        return found
    if _affordable(linear, min(most_work, MOST_WORK_FOR_ROWS)):
        return torch.minimum(found, gram_norm(linear, found))
    return torch.minimum(found, operator_norm(operator, p, None, most_work).to("cpu", torch.float64))


def _without_ends(chain: Chain) -> Chain:
    """A single chain without what changes no norm at its ends: reshapes, permutations, padding with zeros."""
    first, last = 0, len(chain)
    while last > 1 and _keeps_lengths(chain[last - 1]):
        last -= 1
    while last - first > 1 and _keeps_lengths(chain[first].transpose()):
        first += 1
    return chain[first:last]


def _keeps_lengths(operator: LinearOperator) -> bool:
    """Whether the operator changes no norm of any vector: each entry of the argument turns up exactly once."""
    if isinstance(operator, Identity):
        return True
    if not isinstance(operator, Select):
        return False
    used = operator.index[operator.index >= 0]
    return len(used) == operator.in_size and operator.multiplicity == 1


def _merged_convolution(chain: Chain) -> tuple[Convolution, Tensor] | None:
    """One convolution with scales of channels around it as a single one, and the norm of what it misses, or None.

    The kernel of the product is found in intervals; its radius counts with the l_1 and l_inf norms.
    """
    places = [k for k, operator in enumerate(chain) if isinstance(operator, Convolution)]
    if len(places) != 1 or not all(isinstance(operator, Scale | Convolution) for operator in chain):
        return None
    convolution = chain[places[0]]
    assert isinstance(convolution, Convolution)
    kernel = Interval.exact(convolution.weight.detach())
    for k, scale in enumerate(chain):
        if not isinstance(scale, Scale):
            continue
        channels = _channel_factors(scale)
        if channels is None:
            return None
        by_rows = (k > places[0]) != convolution.adjoint
        kernel = kernel * channels.map(lambda end, by_rows=by_rows: _along_kernel(end, convolution, by_rows))
    middle, radius = kernel.midpoint_and_radius()
    if not bool(torch.isfinite(radius).all()):
        return None
    rows, columns = largest_sums(LinearMap(((replace(convolution, weight=radius),),)))
    return replace(convolution, weight=middle), mixed_norm(rows, columns)


def _along_kernel(channels: Tensor, convolution: Convolution, by_rows: bool) -> Tensor:
    """One number for each channel of the convolution's result (rows) or argument, broadcast against its weight."""
    weight, groups = convolution.weight, convolution.groups
    ones = (1,) * (weight.dim() - 2)
    if by_rows:
        return channels.reshape(-1, 1, *ones)
    # The kernel's second axis counts the channels of one group.
    return channels.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0).reshape(len(weight), -1, *ones)


def _channel_factors(scale: Scale) -> Interval | None:
    """The factors of every channel, shape (channels,), when a scale has one for each; None otherwise."""
    factor = scale.factor.detach().flatten(1)
    radius = torch.zeros_like(factor) if scale.radius is None else scale.radius.flatten(1)
    if prod(factor.shape) == 0 or not bool((factor == factor[:, :1]).all()):
        return None
    widest = radius.amax(1)
    return (
        Interval.outward(factor[:, 0] - widest, factor[:, 0] + widest)
        if bool(widest.any())
        else Interval.exact(factor[:, 0])
    )


__all__ = ["LITTLE_WORK", "MOST_WORK", "PRODUCTS", "Chain", "linear_norm", "norms_of_rows", "operator_norm"]
