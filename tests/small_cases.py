"""Small exact numbers and random matrices, pairs of layers among them, for tests by hand."""

from __future__ import annotations

import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import rational
from jacobound.constants.pairs.dual import Pair


def vector(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def drawn(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def number(x: float | Tensor) -> fmpq:
    return rational(float(x))


def symmetric(generator: Generator, size: int) -> Tensor:
    part = drawn(generator, size, size)
    return part @ part.T + torch.eye(size, dtype=torch.float64)


def single(a: float, b: float, lower: float, upper: float) -> Pair:
    return Pair(vector(a).reshape(1, 1), vector(b).reshape(1, 1), vector(lower), vector(upper))


def drawn_pair(generator: Generator, p: int, n: int, q: int) -> Pair:
    lower = drawn(generator, n)
    return Pair(drawn(generator, p, n), drawn(generator, n, q), lower, lower + drawn(generator, n).abs())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=Generator().manual_seed(seed), dtype=torch.float64)


def numbers(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
