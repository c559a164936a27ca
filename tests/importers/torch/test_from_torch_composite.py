"""`from_torch` on operations that are a few others together: values and derivatives against torch itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jacobound.errors import UnsupportedOpError
from jacobound.importers.torch.module import from_torch
from torch_agreement import agreement
from torch_models import Applied

OTHER = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64).reshape(4, 3)
FORM = torch.linspace(-1.0, 1.0, 18, dtype=torch.float64).reshape(2, 3, 3)
PLACES = torch.tensor([[0, 1, 1]])
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": lambda x: functional.bilinear(x, x.tanh(), FORM, FORM[:, 0, 0]),
    "bilinear with a constant": lambda x: functional.bilinear(x, OTHER.expand_as(x), FORM),
    "cosine": lambda x: functional.cosine_similarity(x, OTHER[None], -1),
    "distances": lambda x: torch.cdist(x, x[:, :2].tanh()) + torch.cdist(x, OTHER[None, :2].expand(len(x), 2, 3), p=1),
    "largest distances": lambda x: torch.cdist(x, OTHER.expand(len(x), 4, 3), p=math.inf),
    "distances of points": lambda x: torch.cdist(x[:, 0], OTHER),
    "pairs": lambda x: functional.pairwise_distance(x[:, :2], x[:, 2:], keepdim=True),
    "variances": lambda x: x.var(-1) + x.var(-1, unbiased=False) + x.var((1, 2), keepdim=True)[..., 0],
    "deviations": lambda x: x.std(1) + torch.std(x, 1, correction=0),
    "with means": lambda x: sum(torch.std_mean(x, -1)) + sum(torch.var_mean(x, -1)),  # type: ignore[arg-type,return-value]
    "cross": lambda x: torch.linalg.cross(x, x.tanh()) + torch.cross(x, OTHER.expand_as(x), dim=-1),
    "hypotenuse": lambda x: torch.hypot(x[..., :1], x[..., 1:]) + torch.logaddexp(x[..., :1], x[..., 1:]),
    "products": lambda x: x.prod(-1) + x.prod(2) * x.sum(-1),
    "products along the first axis": lambda x: x.prod(1, keepdim=True),
    "running products": lambda x: x.cumprod(1),
    "logits": lambda x: torch.logit(0.2 + 0.5 * x.sigmoid()) + torch.special.logit(x.sigmoid(), eps=1e-2),
    "hyperbolic": lambda x: x.cosh() - 2 * x.sinh(),
    "einsum, own sum": lambda x: torch.einsum("bij,bik->bj", x, x.tanh()),
    "einsum, diagonal": lambda x: torch.einsum("bii,bij->bj", x @ OTHER.T[:, :4], x.tanh()),
    "einsum of three": lambda x: torch.einsum("bi,bj,bk->bijk", x[:, 0], x[:, 1].tanh(), x[:, 2].exp()),
    "largest in each place": lambda x: torch.zeros(len(x), 3, dtype=x.dtype).scatter_reduce(
        1, PLACES.expand(len(x), 3), x[:, 0], "amax"
    ),
    "smallest and sums": lambda x: (
        x[:, 1].scatter_reduce(1, PLACES.expand(len(x), 3), x[:, 0], "amin")
        + x[:, 1].scatter_reduce(1, PLACES.expand(len(x), 3), x[:, 0], "sum")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_are_those_of_torch(name: str) -> None:
    module = Applied(CASES[name], nn.Identity()).double()
    agreement(from_torch(module, torch.randn(1, 4, 3, dtype=torch.float64)), module, (4, 3), 1e-9)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.cdist(x, x.tanh(), p=3.0), r"cdist.*order 1, 2 and infinity"),
        (lambda x: x.var(0), "mixes the points"),
        (lambda x: x.prod(), "mixes the points"),
        (lambda x: x[..., :1].var(-1), "less the correction"),
        (lambda x: x[:, 1].scatter_reduce(1, PLACES.expand(len(x), 3), x[:, 0], "prod"), "'mean', 'amax' and 'amin'"),
    ],
)
def test_refusals_name_the_reason(function: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(UnsupportedOpError, match=message):
        from_torch(function, torch.randn(1, 4, 3))
