"""`from_torch` on masks with minus infinity: what is left out contributes exactly nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jacobound import Ball, UnsupportedOpError, bound_output, from_torch

NONE = -math.inf
LATER = torch.ones(4, 4, dtype=torch.bool).triu(1)
ADDED = torch.zeros(4, 4).masked_fill(LATER, NONE)
HEADS = nn.MultiheadAttention(4, 2, batch_first=True).eval()
LAYER = nn.TransformerEncoderLayer(4, 2, 6, 0.0, batch_first=True).eval()
OTHERS = torch.randn(4, 4)


def attended(shares: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Written-out attention with its shares as a function of the scores."""
    return lambda x: shares(x @ x.tanh().mT / 2.0) @ x


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "added": attended(lambda s: torch.softmax(s + ADDED, -1)),
    "added twice": attended(lambda s: torch.softmax(s + OTHERS + ADDED + 2 * ADDED, -1)),
    "scaled behind": attended(lambda s: torch.softmax((s + ADDED) * 0.5, -1)),
    "behind a limit": attended(lambda s: torch.softmax(torch.tanh(s / 2) * 2 + ADDED, -1)),
    "filled": attended(lambda s: torch.softmax(s.masked_fill(LATER, NONE), -1)),
    "chosen": attended(lambda s: torch.softmax(torch.where(LATER, torch.full_like(s, NONE), s), -1)),
    "without NaN": attended(lambda s: torch.nan_to_num(torch.softmax(s + ADDED, -1))),
    "written out": attended(lambda s: (s + ADDED).exp() / (s + ADDED).exp().sum(-1, keepdim=True)),
    "shifted by the largest": attended(lambda s: (s + ADDED - (s + ADDED).amax(-1, keepdim=True)).exp()),
    "along another axis": lambda x: torch.softmax(x + ADDED.T, 1),
    "logarithm": lambda x: torch.log_softmax(x + ADDED, -1)[:, -1],
    "log-sum-exp": lambda x: torch.logsumexp(x + ADDED, -1),
    "largest": lambda x: (x + ADDED).amax(-1),
    "limits": lambda x: (x + ADDED).tanh() + (x + ADDED).sigmoid() + (x + ADDED).relu(),
    "scaled dot product": lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=ADDED),
    "heads": lambda x: HEADS(x, x, x, attn_mask=LATER)[0],
    "shares of heads": lambda x: HEADS(x, x, x, attn_mask=ADDED, average_attn_weights=False)[1],
    "padding": lambda x: HEADS(x, x, x, key_padding_mask=LATER[:1].expand(len(x), 4))[0],
    "layer": lambda x: LAYER(x, src_mask=ADDED, is_causal=True),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_bounds_are_those_of_what_is_left(name: str) -> None:
    function = CASES[name]
    graph = from_torch(function, torch.randn(1, 4, 4))  # which compares values
    centre = torch.randn(4, 4)
    x = centre + 0.01 * (2 * torch.rand(50, 4, 4) - 1)
    bounds = bound_output(graph, Ball(centre.double(), 0.0101))
    values, slack = function(x).detach().double(), 1e-4
    assert bool(((values >= bounds.lower - slack) & (values <= bounds.upper + slack)).all())


def test_what_is_left_out_has_the_derivative_zero() -> None:
    graph = from_torch(CASES["behind a limit"], torch.randn(1, 4, 4))
    x = torch.randn(4, 4, dtype=torch.float64)
    jacobian = torch.func.jacrev(lambda one: graph(one[None])[0])(x)
    for place in range(4):
        assert bool((jacobian[place, :, place + 1 :] == 0).all())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.softmax(x + torch.full((4, 4), NONE), -1), "add.Tensor.*a row with nothing left"),
        (lambda x: x + ADDED, "add.Tensor.*masks with -inf.*reach the output"),
        (lambda x: (x + ADDED).square(), "has no number for them"),
        (lambda x: (x + ADDED) @ OTHERS, "mixes them with others"),
        (lambda x: -(x + ADDED), "zero or a negative number"),
    ],
)
def test_what_gives_no_number_is_refused_where_the_mask_comes_in(
    function: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(UnsupportedOpError, match=message):
        from_torch(function, torch.randn(1, 4, 4))
