"""Networks with products for `benchmarks.gates`: gates, heads, normalisations, attention, cells, a control loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Difference(nn.Module):
    """``x0 x1 - x0 x1``, which is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.layer.weight.data = torch.eye(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        first, second = x[..., 0:1], x[..., 1:2]
        return first * second - first * second


def softmax_head(activation: type[nn.Module]) -> tuple[nn.Module, Shape]:
    """A trained perceptron of three hidden layers behind softmax."""
    torch.manual_seed(1)
    widths = (10, 64, 64, 64)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation())]
    model = nn.Sequential(*layers, nn.Linear(64, 10))
    points, weights = torch.randn(2000, 10), torch.randn(10, 10)
    labels = (torch.sin(points * 1.5) @ weights.T).argmax(1)
    steps = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(200):
        chosen = torch.randint(0, 2000, (256,))
        steps.zero_grad()
        nn.functional.cross_entropy(model(points[chosen]), labels[chosen]).backward()
        steps.step()
    return nn.Sequential(*model, nn.Softmax(-1)), (10,)


def normalised_policy() -> tuple[nn.Module, Shape]:
    """Two hidden layers with layer normalisation, four outputs behind tanh."""
    torch.manual_seed(2)
    hidden = (nn.Linear(12, 64), nn.LayerNorm(64), nn.Tanh(), nn.Linear(64, 64), nn.LayerNorm(64), nn.Tanh())
    return nn.Sequential(*hidden, nn.Linear(64, 4), nn.Tanh()), (12,)


class Gated(nn.Module):
    """``a(x) gate(b(x))``."""

    def __init__(self, inputs: int, outputs: int, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.value, self.score, self.gate = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs), gate

    def forward(self, x: Tensor) -> Tensor:
        return self.value(x) * self.gate(self.score(x))


def gated_units(gate: Callable[[Tensor], Tensor]) -> tuple[nn.Module, Shape]:
    """Two layers of gated units."""
    torch.manual_seed(3)
    return nn.Sequential(Gated(12, 32, gate), Gated(32, 32, gate), nn.Linear(32, 4)), (12,)


class Cell(nn.Module):
    """An LSTM or GRU unrolled over some inputs from the state 0, and a linear read-out of the last state."""

    def __init__(self, kind: str, inputs: int, width: int, steps: int) -> None:
        super().__init__()
        self.kind, self.steps, self.inputs = kind, steps, inputs
        gates = 4 if kind == "lstm" else 3
        self.of_input = nn.ModuleList(nn.Linear(inputs, width) for _ in range(gates))
        self.of_state = nn.ModuleList(nn.Linear(width, width) for _ in range(gates))
        self.out = nn.Linear(width, 2)

    def _score(self, gate: int, x: Tensor, state: Tensor | None) -> Tensor:
        return self.of_input[gate](x) if state is None else self.of_input[gate](x) + self.of_state[gate](state)

    def forward(self, x: Tensor) -> Tensor:
        state = memory = None
        for step in range(self.steps):
            now = x[..., step * self.inputs : (step + 1) * self.inputs]
            if self.kind == "lstm":
                scores = [self._score(gate, now, state) for gate in range(4)]
                entry, kept, new, read = (
                    torch.sigmoid(scores[0]),
                    torch.sigmoid(scores[1]),
                    torch.tanh(scores[2]),
                    torch.sigmoid(scores[3]),
                )
                memory = entry * new if memory is None else kept * memory + entry * new
                state = read * torch.tanh(memory)
            elif state is None:
                update, new = torch.sigmoid(self.of_input[1](now)), torch.tanh(self.of_input[2](now))
                state = new - update * new
            else:
                reset, update = (torch.sigmoid(self._score(gate, now, state)) for gate in range(2))
                new = torch.tanh(self.of_input[2](now) + reset * self.of_state[2](state))
                state = new + update * (state - new)
        return self.out(state)


def cell(kind: str, inputs: int, width: int, steps: int) -> tuple[nn.Module, Shape]:
    torch.manual_seed(4)
    return Cell(kind, inputs, width, steps), (inputs * steps,)


class MeanOf(nn.Module):
    """A linear read-out of the mean token."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def encoder() -> tuple[nn.Module, Shape]:
    """One encoder layer on four tokens."""
    torch.manual_seed(5)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    torch.manual_seed(9)
    return MeanOf(layer, 16), (4, 16)


class SelfAttention(nn.Module):
    """One head of attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        scores = self.query(x) @ self.key(x).transpose(-1, -2) / math.sqrt(self.width)
        return torch.softmax(scores, -1) @ self.value(x)


def attention() -> tuple[nn.Module, Shape]:
    torch.manual_seed(6)
    return SelfAttention(8), (4, 8)


class Transformer(nn.Module):
    """A small vision transformer: patches of an image, two encoder layers, a read-out of the mean token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 4, 4)
        self.places = nn.Parameter(torch.randn(4, 16) * 0.3)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def transformer() -> tuple[nn.Module, Shape]:
    torch.manual_seed(7)
    return Transformer(), (1, 8, 8)


class Pendulum(nn.Module):
    """Steps of a pendulum under a controller."""

    def __init__(self, steps: int, length: float = 0.1) -> None:
        super().__init__()
        self.steps, self.length = steps, length
        self.controller = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.steps):
            angle, speed, push = x[..., 0:1], x[..., 1:2], self.controller(x)
            turn = 9.81 * torch.sin(angle) - 3 * push * torch.cos(angle)
            x = torch.cat((angle + self.length * speed, speed + self.length * turn), -1)
        return x


def pendulum(steps: int) -> tuple[nn.Module, Shape]:
    torch.manual_seed(8)
    return Pendulum(steps), (2,)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Shape]]] = {
    "diff": lambda: (Difference(), (2,)),
    "glu": lambda: gated_units(torch.sigmoid),
    "bilinear": lambda: gated_units(lambda x: x),
    "ln_policy": normalised_policy,
    "mlp_softmax": lambda: softmax_head(nn.ReLU),
    "mlp_softmax_tanh": lambda: softmax_head(nn.Tanh),
    "attention": attention,
    "pendulum": lambda: pendulum(5),
    "pendulum20": lambda: pendulum(20),
    "lstm8x5": lambda: cell("lstm", 2, 8, 5),
    "lstm16x10": lambda: cell("lstm", 2, 16, 10),
    "gru8x5": lambda: cell("gru", 2, 8, 5),
    "gru16x10": lambda: cell("gru", 2, 16, 10),
    "enc4x16": encoder,
    "vit": transformer,
}
"""Modules by name, and the shape of one point."""
