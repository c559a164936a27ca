"""`from_torch` on functions of whole vectors, written-out attention, and plain Python functions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jacobound import (
    AutoLip,
    Ball,
    Graph,
    InvalidModelError,
    InvalidRegionError,
    RecurJac,
    Sampling,
    ShapeError,
    UnsupportedOpError,
    WholeSpace,
    bound_jacobian,
    bound_output,
    from_torch,
    lipschitz,
)
from jacobound.graph.nodes import Vector
from torch_agreement import agreement
from torch_models import Applied, randomised

BRIEF = Sampling(points=3, steps=1, ascents=2)


def kinds(graph: Graph) -> list[str]:
    """The functions of whole vectors in a graph, by the first word of their names."""
    return [node.function.name.split()[0] for node in graph.nodes if isinstance(node, Vector)]


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], list[str]]] = {
    "softmax": (lambda x: x.softmax(1), (3, 4), ["softmax"]),
    "log-softmax": (lambda x: functional.log_softmax(x, -1), (3, 4), ["log-softmax"]),
    "logsumexp": (lambda x: x.logsumexp((1, 2)), (3, 4), ["log-sum-exp"]),
    "logsumexp, kept": (lambda x: x.logsumexp(1, keepdim=True), (3, 4), ["log-sum-exp"]),
    "length": (lambda x: x.norm(dim=-1), (3, 4), ["length"]),
    "layer norm": (lambda x: functional.layer_norm(x, (3, 4)), (2, 3, 4), ["standardisation"]),
    "group norm": (lambda x: functional.group_norm(x, 2), (4, 3), ["standardisation"]),
    "normalised": (lambda x: functional.normalize(x), (3, 4), ["normalisation"]),
    "normalised along another axis": (lambda x: functional.normalize(x, dim=2, eps=0.5), (3, 4), ["normalisation"]),
    "product": (lambda x: x * x.tanh(), (4,), ["product"]),
    "product with broadcasting": (lambda x: x[..., :1] * x.tanh(), (3, 4), ["product"]),
    "quotient": (lambda x: x / (x.flip(1).square() + 1), (4,), ["quotient"]),
    "sum of products": (lambda x: torch.linalg.vecdot(x, x.tanh()), (3, 4), ["product"]),
    "matrix product": (lambda x: x @ x.mT.tanh(), (3, 4), ["matrix"]),
    "stacks of matrices": (lambda x: x[:, :1] @ x.mT.tanh(), (2, 3, 4), ["matrix"]),
    "batched product": (lambda x: torch.bmm(x, x.mT.relu()), (3, 4), ["matrix"]),
    "einsum": (lambda x: torch.einsum("bik,bjk->bji", x, x.tanh()), (3, 4), ["matrix"]),
    "outer product": (lambda x: torch.einsum("bi,bj->bij", x, x.relu()), (4,), ["matrix"]),
    "pointwise einsum": (lambda x: torch.einsum("bij,bj->bij", x, x.tanh()[:, 0]), (3, 4), ["matrix"]),
    "gate": (lambda x: functional.glu(x, 1), (4, 3), ["product"]),
    "gated by SiLU": (lambda x: functional.silu(x[:, :2]) * x[:, 2:], (4,), ["product"]),
    "attention": (lambda x: functional.scaled_dot_product_attention(x, x.tanh(), x[..., :2]), (3, 4), ["attention"]),
    "attention with a scale": (
        lambda x: functional.scaled_dot_product_attention(x, x, x, scale=0.3, is_causal=True),
        (2, 3, 4),
        ["attention"],
    ),
    "attention with a mask": (
        lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.eye(3)[None].flip(1) + 0.5),
        (3, 4),
        ["attention"],
    ),
    "attention with a mask of truths": (
        lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(3, 3).tril() > 0),
        (2, 3, 4),
        ["attention"],
    ),
    "written-out attention": (lambda x: (x @ x.mT / 2.7).softmax(-1) @ x.tanh(), (3, 4), ["attention"]),
    "written-out attention with a mask": (
        lambda x: ((x @ x.mT * 0.5).masked_fill(torch.ones(3, 3).triu(1) > 0, -math.inf)).softmax(-1) @ x,
        (3, 4),
        ["attention"],
    ),
    "written-out attention by einsum": (
        lambda x: torch.einsum("bij,bjk->bik", torch.einsum("bid,bjd->bij", x, x.tanh()).softmax(-1), x),
        (3, 4),
        ["attention"],
    ),
    "shares along the other axis": (lambda x: (x @ x.mT).softmax(-2) @ x, (3, 4), ["matrix", "softmax", "matrix"]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_imported_as_what_they_are(name: str) -> None:
    function, shape, expected = FUNCTIONS[name]
    graph = from_torch(function, torch.zeros(2, *shape, dtype=torch.float64), variance_floor=0.0)
    agreement(graph, Applied(function, nn.Identity()), shape, 1e-9)
    assert kinds(graph) == expected
    region = Ball(torch.randn(shape, generator=torch.Generator().manual_seed(0)), 0.01)
    found = lipschitz(graph, region, AutoLip(), search=BRIEF)
    assert found.status.certified and 0 < float(found.lower) <= float(found.upper) < 1e4
    entries = bound_jacobian(graph, region, RecurJac())
    assert entries.status.certified
    point = torch.as_tensor(region.center).requires_grad_()
    exact = torch.autograd.functional.jacobian(lambda x: graph(x).flatten(), point).reshape(entries.lower.shape)
    assert bool((entries.lower <= exact + 1e-9).all() and (exact - 1e-9 <= entries.upper).all())
    if expected != ["length"]:
        with pytest.raises(UnsupportedOpError, match=r"no combination of affine maps.*AutoLip\(\).*until="):
            lipschitz(graph, region, AutoLip(), semantics="executed")
    assert bound_output(graph, region).status.certified


class Block(nn.Module):
    """A transformer's block as many models write it: packed projections, a causal mask, pre-normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(8), nn.RMSNorm(8, eps=1e-5)
        self.packed, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.gate, self.up, self.down = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)
        self.register_buffer("mask", torch.ones(4, 4).tril())

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (
            part.view(batch, tokens, 2, 4).transpose(1, 2) for part in self.packed(self.first(x)).split(width, 2)
        )
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        shares = scores.masked_fill(self.mask == 0, float("-inf")).softmax(-1)
        x = x + self.out((shares @ v).transpose(1, 2).reshape(batch, tokens, width))
        h = self.second(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class SelfAttention(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x)
        return self.attention(x, x, x)[0]


class Packed(nn.Module):
    """Queries, keys and values in one axis that is moved in front of the batch, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        found = functional.scaled_dot_product_attention(q, k, v)
        return self.out(found.transpose(1, 2).flatten(2))


class SequenceFirst(nn.Module):
    """An attention whose first axis is the sequence, between two transpositions."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return self.attention(x, x, x, need_weights=False)[0].transpose(0, 1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "block": Block,
    "packed": Packed,
    "sequence first": SequenceFirst,
    "attention": SelfAttention,
    "attention without bias": lambda: SelfAttention(bias=False),
    "encoder": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_transformers_have_certified_constants(name: str) -> None:
    torch.manual_seed(0)
    module = MODELS[name]().eval()
    graph = from_torch(module, torch.randn(2, 4, 8))
    assert kinds(graph).count("attention") == 1
    agreement(graph, module, (4, 8), 1e-6, slopes=False)
    centre = torch.randn(4, 8, dtype=torch.float64)
    found = lipschitz(graph, Ball(centre, 0.01), AutoLip(), search=BRIEF)
    assert found.status.certified and float(found.lower) <= float(found.upper) < 2e4
    with pytest.raises(InvalidRegionError, match=r"node '.*': (attention|standardisation|division).*region"):
        lipschitz(graph, WholeSpace(), AutoLip())
    with pytest.raises(UnsupportedOpError, match="no combination of affine maps"):
        lipschitz(graph, Ball(centre, 0.01), AutoLip(), semantics="executed")


@pytest.mark.slow
def test_weights_of_an_attention_are_understood_too() -> None:
    class Shares(SelfAttention):
        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, average_attn_weights=False)[1]

    graph = from_torch(randomised(Shares()).eval(), torch.zeros(1, 4, 8))
    assert kinds(graph) == ["matrix", "softmax"]


@pytest.mark.slow
def test_constants_that_are_global() -> None:
    for function, constant in (
        (lambda x: x.softmax(1), 0.5),
        (lambda x: x.log_softmax(1), 2.0),
        (lambda x: x.logsumexp(1, keepdim=True), 1.0),
        (lambda x: torch.linalg.vector_norm(x, dim=1, keepdim=True), 1.0),
        (lambda x: functional.layer_norm(x, (4,)), 1e-5**-0.5),
    ):
        graph = from_torch(function, torch.zeros(1, 4, dtype=torch.float64), variance_floor=0.0)
        assert float(lipschitz(graph, WholeSpace(), AutoLip()).upper) == pytest.approx(constant, rel=1e-9)


@pytest.mark.slow
def test_assumed_floors_stand_in_the_result() -> None:
    module = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    graph = from_torch(module, torch.zeros(1, 4), variance_floor=0.25)
    found = lipschitz(graph, WholeSpace(), AutoLip())
    (assumption,) = found.provenance.assumptions
    assert assumption == "node '0.standard': the variance of every row is assumed to be at least 0.25"
    norm = float(torch.linalg.matrix_norm(module[1].weight.detach().double(), 2))  # type: ignore[union-attr]
    assert float(found.upper) <= 2 * norm * (1 + 1e-5)
    free = from_torch(module, torch.zeros(1, 4))
    with pytest.raises(InvalidRegionError, match=r"node '0.*variance of a row be 0.*is 316.2.*variance_floor=v"):
        lipschitz(free, WholeSpace(), AutoLip())
    far = lipschitz(free, Ball(torch.tensor([0.0, 1.0, 2.0, 3.0]), 0.01), AutoLip())
    assert far.provenance.assumptions == () and float(far.upper) < 1.0 * norm


# --- Python functions ----------------------------------------------------------------------------------------------

LAYER = randomised(nn.Linear(4, 3)).double()


def scaled(x: Tensor, factor: float) -> Tensor:
    return factor * LAYER(x)


class Owner:
    def __init__(self) -> None:
        self.weight = torch.arange(8.0, dtype=torch.float64).reshape(4, 2)

    def apply(self, x: Tensor) -> Tensor:
        return torch.sin(x @ self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize(
    ("function", "outputs"),
    [
        (torch.sin, 4),
        (lambda x: LAYER(x).relu() + 0.1, 3),
        (functools.partial(scaled, factor=0.3), 3),
        (Owner().apply, 2),
        (Owner(), 2),
        (LAYER.forward, 3),
        (torch.func.vmap(lambda x: x.cos()), 4),
    ],
)
def test_plain_functions_are_imported(function: Callable[[Tensor], Tensor], outputs: int) -> None:
    graph = from_torch(function, torch.zeros(2, 4, dtype=torch.float64))
    assert graph.out_shape == (outputs,)
    x = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(graph(x), function(x).detach(), rtol=1e-12, atol=1e-12)
    assert lipschitz(graph, Ball(x[0], 0.1)).status.certified


def test_functions_that_are_refused() -> None:
    x = torch.zeros(1, 4, dtype=torch.float64)
    with pytest.raises(InvalidModelError, match=r"two takes 2 arguments \(x, y\)"):

        def two(x: Tensor, y: Tensor) -> Tensor:
            return x + y

        from_torch(two, x)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOpError, match=r"branching can not be traced .* at test_from_torch_vectors.py"):

        def branching(x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

        from_torch(branching, x)
    with pytest.raises(UnsupportedOpError, match=r"aten.sign.default .*jumps"):
        from_torch(torch.sign, x)
    with pytest.raises(ShapeError, match=r"torch\.int64"):
        from_torch(torch.sin, torch.zeros(1, 4, dtype=torch.int64))
    drops = nn.Dropout()
    with pytest.raises(InvalidModelError, match=r"'used_drops' \(Dropout\) is in training mode"):
        from_torch(lambda x: drops(x), x)
