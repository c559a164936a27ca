"""Fourier transforms and complex numbers of torch: pairs of nodes, until a real number is made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from jacobound.errors import UnsupportedOpError
from jacobound.graph.nodes import Node
from jacobound.importers.lowering.fourier import Complex, scale_of
from jacobound.importers.torch.operations.call import Call, Rule, Value, is_node, leaves, map_values

COMPLEX: Final = "Its result is complex; make real numbers of it in the model (torch.view_as_real, .real, .abs())."


def _pair(call: Call, value: Value) -> Complex:
    """A value, also a constant or a real one, as a pair of nodes."""
    if isinstance(value, Complex):
        return value
    if is_node(value):
        return Complex(value, None)
    raise UnsupportedOpError("It computes with complex constants in a way that is not understood.")


def transform(call: Call) -> Value:
    """fft, ifft, rfft, irfft, hfft without, in one, two and more dimensions."""
    kind = call.op.split(".")[1].removeprefix("fft_")
    value = _pair(call, call.args[0])
    inverse, many = kind.startswith("i"), kind.rstrip("2n") != kind
    rank = call.rank(value.real)
    keyword = ("s", "dim") if many else ("n", "dim")
    sizes = call.argument(1, keyword[0])
    dims = call.argument(2, keyword[1], [-2, -1] if kind.endswith("2") else None if many else -1)
    dims = ([dims] if isinstance(dims, int) else dims) or list(range(-len(sizes or range(rank)), 0))
    counts = [sizes] if isinstance(sizes, int) else sizes
    axes = [call.axis(dim, rank) for dim in dims]
    half = kind.lstrip("i").startswith("r")
    if counts is None:
        counts = [value.real.shape[axis] for axis in axes]
        if half and inverse:
            counts[-1] = 2 * (counts[-1] - 1)
    order = list(zip(axes, counts, strict=True))
    norm, steps = call.argument(3, "norm"), call.steps
    if half and not inverse:
        order.reverse()  # the real axis first
    for number, (axis, count) in enumerate(order):
        scale = scale_of(norm, count, inverse, steps.like)
        name = f"{call.name}.axis{axis}"
        if half and inverse and number == len(order) - 1:
            return steps.real_fourier(value, axis, count, scale, call.name)
        value = steps.fourier(value, axis, count, inverse, scale, name)
        if half and not inverse and number == 0:
            value = _kept(call, value, axis + call.front, count // 2 + 1, f"{name}.half")
    return value


def _kept(call: Call, value: Complex, place: int, count: int, name: str) -> Complex:
    """The first frequencies."""
    parts = [
        None if part is None else call.steps.move(part, lambda x: x.narrow(place, 0, count), f"{name}{k}")
        for k, part in enumerate((value.real, value.imaginary))
    ]
    return _of(parts)


def _imaginary(call: Call, value: Complex) -> Node:
    """The imaginary part, zeros where there is none."""
    if value.imaginary is not None:
        return value.imaginary
    return call.steps.constant_node(call.steps.like.new_zeros(value.real.shape), value.real, f"{call.name}.zero")


def real(call: Call) -> Value:
    return _pair(call, call.args[0]).real


def imaginary(call: Call) -> Value:
    return _imaginary(call, _pair(call, call.args[0]))


def as_pairs(call: Call) -> Node:
    """Real and imaginary parts beside each other along a new last axis."""
    value = _pair(call, call.args[0])
    parts = [value.real, _imaginary(call, value)]
    return call.steps.stacked(parts, lambda *xs: torch.stack(xs, -1), call.name)


def from_both(call: Call) -> Complex:
    """A last axis of two as real and imaginary part; or two values."""
    if "view_as_complex" not in call.op:
        one, two = (call.node(x) for x in call.args[:2])
        return Complex(one, two)
    parts = [call.steps.move(call.args[0], lambda x, k=k: x.select(-1, k), f"{call.name}.part{k}") for k in range(2)]
    return Complex(parts[0], parts[1])


def size(call: Call) -> Node:
    """The absolute value: a length of two."""
    node = as_pairs(replace(call, name=f"{call.name}.both"))
    return call.steps.length(node, [-1], False, call.name)


def conjugate(call: Call) -> Value:
    value = _pair(call, call.args[0])
    if value.imaginary is None:
        return value
    return Complex(value.real, call.steps.add([(-1.0, value.imaginary)], None, call.name))


def multiply(call: Call) -> Complex:
    """A product of complex values, or of one with constants: four real ones."""
    one, two = call.args[:2]
    if not isinstance(one, Complex) and not is_node(one):
        one, two = two, one
    first = _pair(call, one)
    other = _parts(call, two)
    pieces = []
    for sign, a, b in (
        (1.0, first.real, other[0]), (-1.0, first.imaginary, other[1]),
        (1.0, first.real, other[1]), (1.0, first.imaginary, other[0]),
    ):  # fmt: skip
        pieces.append(None if a is None or b is None else (sign, _times(call, a, b, f"{call.name}.{len(pieces)}")))
    sums = []
    for k, part in ((0, "real"), (2, "imaginary")):
        known = [piece for piece in pieces[k : k + 2] if piece is not None]
        sums.append(call.steps.add(known, None, f"{call.name}.{part}") if known else None)
    return _of(sums)


def _of(parts: Sequence[Node | None]) -> Complex:
    """A value by its parts."""
    real_part, other = parts
    if real_part is None:
        raise UnsupportedOpError(COMPLEX)
    return Complex(real_part, other)


def _parts(call: Call, value: Value) -> tuple[Node | Tensor | None, Node | Tensor | None]:
    """Real and imaginary part of a factor; None for zero."""
    if isinstance(value, Complex):
        return value.real, value.imaginary
    if is_node(value):
        return value, None
    given = torch.as_tensor(value)
    if not given.is_complex():
        return given.double(), None
    return given.real.double(), given.imag.double()


def _times(call: Call, node: Node, factor: Node | Tensor, name: str) -> Node:
    wide = call.node(node)
    if isinstance(factor, Tensor):
        return call.steps.scale(wide, call.steps.constant(factor, wide.shape), name)
    return call.steps.product(wide, call.node(factor), name)


def add(call: Call) -> Complex:
    """Sums and differences: parts of a kind."""
    sign = -1.0 if ".sub." in call.op else 1.0
    if call.kwargs.get("alpha", 1) != 1:
        raise UnsupportedOpError("It scales a complex addend.")
    parts = [(own, _parts(call, value)) for own, value in zip((1.0, sign), call.args[:2], strict=True)]
    sums: list[Node | None] = []
    for k, name in enumerate(("real", "imaginary")):
        known = [(own, both[k]) for own, both in parts if both[k] is not None]
        nodes = [(own, call.node(x)) for own, x in known if isinstance(x, Node)]
        numbers = [own * call.steps.constant(x, call.shape) for own, x in known if isinstance(x, Tensor)]
        bias = numbers[0] if numbers else None
        if not nodes and bias is not None:
            raise UnsupportedOpError(COMPLEX)
        sums.append(call.steps.add(nodes, bias, f"{call.name}.{name}") if nodes else None)
    return _of(sums)


def divide(call: Call) -> Complex:
    """By a real constant."""
    value, divisor = call.args[:2]
    given = None if isinstance(divisor, Complex) or is_node(divisor) else torch.as_tensor(divisor)
    if given is None or given.is_complex() or not isinstance(value, Complex):
        raise UnsupportedOpError("It divides by a complex number, or by a value of the network.")
    parts = [
        None if part is None
        else call.steps.divide(call.node(part), call.steps.constant(given.double(), call.shape), f"{call.name}.{k}")
        for k, part in enumerate((value.real, value.imaginary))
    ]  # fmt: skip
    return _of(parts)


def part_by_part(call: Call, rule: Rule) -> Value:
    """Movements, sums and means, which treat real and imaginary parts alike."""
    for leaf in leaves([list(call.args), dict(call.kwargs)]):
        if is_node(leaf) or (isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())):
            raise UnsupportedOpError("It joins complex values and real ones.")
    result = map_values(
        call.result if isinstance(call.result, list | tuple) else [call.result],
        lambda x: torch.view_as_real(x)[..., 0] if isinstance(x, Tensor) and x.is_complex() else x,
    )
    result = result if isinstance(call.result, list | tuple) else result[0]

    def of(part: int) -> Value:
        def chosen(x: Value) -> Value:
            return (x.real, _imaginary(call, x))[part] if isinstance(x, Complex) else x

        args, kwargs = map_values([list(call.args), dict(call.kwargs)], chosen)
        return rule(replace(call, args=tuple(args), kwargs=kwargs, name=f"{call.name}.{part}", result=result))

    one, two = of(0), of(1)
    return [Complex(a, b) for a, b in zip(one, two, strict=True)] if isinstance(one, list) else Complex(one, two)


def _rules(rows: Sequence[tuple[Rule, str]]) -> Mapping[str, Rule]:
    return MappingProxyType({f"aten.{name}": rule for rule, names in rows for name in names.split()})


TRANSFORMS: Final = _rules((
    (transform,
     "fft_fft.default fft_ifft.default fft_rfft.default fft_irfft.default fft_fft2.default fft_ifft2.default "
     "fft_rfft2.default fft_irfft2.default fft_fftn.default fft_ifftn.default fft_rfftn.default fft_irfftn.default"),
    (from_both, "view_as_complex.default complex.default"),
))  # fmt: skip
"""Of real values or complex ones."""

OF_COMPLEX: Final = _rules((
    (real, "real.default"), (imaginary, "imag.default"), (as_pairs, "view_as_real.default"), (size, "abs.default"),
    (conjugate, "conj.default _conj.default conj_physical.default"),
    (multiply, "mul.Tensor mul.Scalar"), (add, "add.Tensor sub.Tensor"), (divide, "div.Tensor div.Scalar"),
))  # fmt: skip
"""Of complex values; what else takes them treats real and imaginary parts alike, or is refused."""


def spectral(call: Call, rule: Rule | None, alike: bool) -> Value:
    """The result of an operation on complex values.

    Args:
        rule: of the operation on real values.
        alike: whether it treats real and imaginary parts alike.
    """
    if call.op in OF_COMPLEX:
        return OF_COMPLEX[call.op](call)
    if rule is None or not alike:
        raise UnsupportedOpError("It takes complex values, which is not understood.")
    return part_by_part(call, rule)
