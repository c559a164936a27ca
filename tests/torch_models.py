"""Modules that `from_torch` must take, by name: a function that makes one, and the shape of its points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations


class Applied(nn.Module):
    """A linear layer (or another one) followed by a function of tensors."""

    def __init__(self, function: Callable[[Tensor], object], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4) if layer is None else layer
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(self.layer(x))


class Residual(nn.Module):
    """A skip straight from the input, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.inner(x))
        return self.outer(x + torch.relu(self.inner(hidden)))


class DenseBlock(nn.Module):
    """Every convolution sees all maps before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(2 + 2 * k, 2, 3, padding=1) for k in range(3))

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(torch.tanh(layer(torch.cat(maps, dim=1))))
        return torch.cat(maps, 1).flatten(1)


class InPlace(nn.Module):
    """relu_ changes the tensor that is read again afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        view = hidden[:, :2]
        hidden += 1
        view.relu_()
        return hidden * 2 + hidden.sigmoid()


class OwnConstants(nn.Module):
    """Buffers and constants in arithmetic and in indices."""

    mean: Tensor
    deviation: Tensor
    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("deviation", torch.rand(4) + 0.5)
        self.register_buffer("order", torch.tensor([5, 0, 3, 3]))
        self.token = nn.Parameter(torch.randn(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.layer((x - self.mean) / self.deviation))
        taken = hidden[:, self.order] * torch.tensor([1.0, -2.0, 0.5, 3.0])
        full = torch.cat([self.token.expand(x.shape[0], -1), taken, torch.zeros_like(taken) + 2, x], dim=1)
        return 3.0 - full / 7


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


def assigned(x: Tensor) -> Tensor:
    """Entries written into a tensor of zeros and into a copy."""
    blank = torch.zeros_like(x)
    blank[:, 1] = x[:, 3]
    copied = x.clone()
    copied[:, [0, 2]] = blank[:, 1:3]
    copied[:, 3] = 0.25
    return blank + copied


def randomised(module: nn.Module) -> nn.Module:
    """Statistics of normalisation as after training, in evaluation mode."""
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.1, 3.0)
            if layer.affine:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
    return module.eval()


def image(function: Callable[[Tensor], object]) -> nn.Module:
    """A function of a convolution's result of shape (4, 6, 6), and of the input's shape (2, 6, 6)."""
    return Applied(function, nn.Conv2d(2, 4, 3, padding=1))


def sequence(function: Callable[[Tensor], object]) -> nn.Module:
    return Applied(function, nn.Conv1d(3, 4, 3, padding=1))


VECTOR, SEQUENCE, IMAGE = (4,), (3, 9), (2, 6, 6)
MATRIX = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)), VECTOR),
    "nested sequential": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(4, 5), nn.Sequential(nn.ReLU(), nn.Linear(5, 5))),
            nn.ReLU(inplace=True),
            nn.Linear(5, 2, bias=False),
        ),
        VECTOR,
    ),
    "residual, input skip, layer called twice": (Residual, (5,)),
    "dense block": (DenseBlock, (2, 4, 4)),
    "in place": (InPlace, VECTOR),
    "in place on the input": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), VECTOR),
    "constants": (OwnConstants, VECTOR),
    "float64": (
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), Applied(lambda x: x * 0.1, nn.Identity())).double(),
        VECTOR,
    ),
    "linear on a sequence": (lambda: nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2)), SEQUENCE),
    "cnn with batch norm and pooling": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Dropout(),
            nn.Conv2d(4, 4, 2, groups=2, dilation=2, bias=False),
            nn.BatchNorm2d(4, affine=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        IMAGE,
    ),
    "batch norm of vectors": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3)), VECTOR),
    "batch norm of sequences": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Conv1d(3, 2, 3, stride=2)), SEQUENCE),
    "strided convolution": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), IMAGE),
    "padding same, even kernel": (lambda: nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), IMAGE),
    "padding valid": (lambda: nn.Conv1d(3, 2, 4, padding="valid"), SEQUENCE),
    "padding by reflection": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), IMAGE),
    "padding circular": (lambda: nn.Conv1d(3, 2, 3, padding=1, padding_mode="circular"), SEQUENCE),
    "prelu per channel": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(3, 0.1), nn.PReLU()), IMAGE),
    "weight norm": (
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(5, 2))
        ),
        VECTOR,
    ),
    "adaptive pool": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(12, 2)), IMAGE),
    "global pool": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGE),
    "adaptive pool of sequences": (lambda: nn.AdaptiveAvgPool1d(3), SEQUENCE),
    "pool of sequences": (lambda: nn.AvgPool1d(3, stride=2, padding=1), SEQUENCE),
    "identity": (lambda: nn.Identity(), VECTOR),
    "tensor methods": (lambda: Applied(lambda x: x.neg().add(x, alpha=0.3).sub(1).mul(2).div(3).tanh()), VECTOR),
    "rsub and alpha": (lambda: Applied(lambda x: torch.rsub(x, 1.5, alpha=2) - x.relu()), VECTOR),
    "constant with alpha": (lambda: Applied(lambda x: torch.sub(x, torch.arange(4.0), alpha=0.3)), VECTOR),
    "twice itself": (lambda: Applied(lambda x: torch.cat([x + x, x, x.relu() - x], 1)), VECTOR),
    "broadcast of nodes": (lambda: image(lambda x: x * 2 - x.mean((2, 3), keepdim=True)), IMAGE),
    "sums": (lambda: image(lambda x: torch.cat([x.sum((1, 3)), x.sum(-1).flatten(1), x.mean(1).flatten(1)], 1)), IMAGE),
    "sum of everything in a point": (lambda: Applied(lambda x: x.sum(1)), VECTOR),
    "matmul on the right": (lambda: image(lambda x: x @ MATRIX.to(x)), IMAGE),
    "matmul on the left": (lambda: image(lambda x: MATRIX.T.to(x) @ x), IMAGE),
    "matrix and vector": (lambda: image(lambda x: (x @ MATRIX[:, 0].to(x)) @ MATRIX[:, 1].to(x)), IMAGE),
    "vector and matrix": (lambda: image(lambda x: torch.matmul(MATRIX[:, 0].to(x), x)), IMAGE),
    "addmm": (lambda: Applied(lambda x: torch.addmm(MATRIX[0].to(x), x, MATRIX[:4].to(x))), VECTOR),
    "integers in arithmetic": (lambda: Applied(lambda x: x * torch.arange(4) + torch.ones(4).bool()), VECTOR),
    "permute, slice, pad": (
        lambda: image(
            lambda x: functional.pad(
                x.permute(0, 2, 3, 1)[:, 1:, ::2, :-1].contiguous(), (1, 0, 2, 1), value=0.7
            ).transpose(1, 3)
        ),
        IMAGE,
    ),
    "stack, split, chunk": (
        lambda: image(
            lambda x: torch.stack([x.chunk(2, dim=1)[1], torch.split(x, [2, 1, 1], dim=1)[0], x[:, :2]], dim=2)
        ),
        IMAGE,
    ),
    "unbind, select, squeeze": (lambda: image(lambda x: x.unbind(1)[2].unsqueeze(1).squeeze(1)[..., 3]), IMAGE),
    "roll, flip, repeat": (lambda: image(lambda x: x.roll((1, 2), (2, 3)).flip(1).repeat(1, 2, 1, 1)), IMAGE),
    "expand, unflatten": (lambda: Applied(lambda x: x.unflatten(1, (2, 2)).unsqueeze(1).expand(-1, 3, -1, -1)), VECTOR),
    "pixel shuffle": (lambda: image(lambda x: functional.pixel_unshuffle(functional.pixel_shuffle(x, 2), 4)), IMAGE),
    "nearest upsampling": (lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2, 1, 3)), IMAGE),
    "gather, index_select": (
        lambda: Applied(
            lambda x: torch.cat(
                [x.index_select(1, torch.tensor([2, 0])), x.gather(1, torch.tensor([[1, 1]]).expand(len(x), -1))], 1
            )
        ),
        VECTOR,
    ),
    "where, triangle": (lambda: image(lambda x: torch.where(MATRIX[:, :1] > 0, x, 0.5) + x.tril()), IMAGE),
    "masks": (
        lambda: image(lambda x: torch.where(MATRIX[:, :1] > 0, x, x.flip(3)).masked_fill(MATRIX[:, 1] < 0, 3.0)),
        IMAGE,
    ),
    "assignment": (lambda: Applied(assigned), VECTOR),
    "unfold": (lambda: sequence(lambda x: x.unfold(2, 3, 2).movedim(1, 3)), SEQUENCE),
    "tied weights": (Tied, VECTOR),
    "batch size in shapes": (lambda: image(lambda x: x.view(x.size(0), x.shape[1], -1).reshape(len(x), -1)), IMAGE),
    "zeros of the batch": (
        lambda: Applied(lambda x: torch.cat([torch.zeros(len(x), 2), x, x.new_full((len(x), 1), 2.5)], dim=1)),
        VECTOR,
    ),
}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.3),
    "elu": functional.elu,
    "elu alpha": lambda x: functional.elu(x, 1.7),
    "celu": lambda x: functional.celu(x, 0.5),
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "softplus": functional.softplus,
    "softplus beta": lambda x: functional.softplus(x, beta=2.0),
    "hardsigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": Tensor.tanh,
    "arctan": torch.arctan,
    "atan": Tensor.atan,
}


def built(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    make, shape = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return randomised(make()), shape
