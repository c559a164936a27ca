"""`from_torch` on recurrent layers and cells: every form that torch has, against torch itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jacobound import AutoLip, Ball, InvalidModelError, UnsupportedOpError, bound_output, from_torch, lipschitz
from torch_agreement import agreement

KINDS = (nn.RNN, nn.LSTM, nn.GRU)
FORMS: tuple[dict[str, Any], ...] = (
    {"bias": False, "num_layers": 2, "dropout": 0.5},
    {"num_layers": 2, "bidirectional": True},
    {"bidirectional": True, "nonlinearity": "relu"},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2},
)


class Sequence(nn.Module):
    """A recurrent layer whose outputs and last states are all seen; the points stand first outside."""

    def __init__(self, layer: nn.RNNBase, *, start: str = "zero") -> None:
        super().__init__()
        self.layer, self.start = layer, start
        self.first = nn.Linear(3, 24)
        rows = layer.num_layers * (2 if layer.bidirectional else 1)
        self.kept = nn.Parameter(torch.linspace(-1.0, 1.0, 4 * rows).reshape(rows, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        given = x if self.layer.batch_first else x.transpose(0, 1)
        arguments = (given,) if self.start == "zero" else (given, self._state(x))
        found, last = self.layer(*arguments)
        found = found if self.layer.batch_first else found.transpose(0, 1)
        lasts = last if isinstance(last, tuple) else (last,)
        return torch.cat([found.flatten(1), *(one.transpose(0, 1).flatten(1) for one in lasts)], 1)

    def _state(self, x: Tensor) -> Any:
        state = self.kept.expand(-1, len(x), -1).contiguous()
        if self.start == "given":
            state = self.first(x[:, 0])[:, : self.kept.numel()].reshape(len(x), -1, 4).transpose(0, 1).contiguous()
        return (state, -state) if isinstance(self.layer, nn.LSTM) else state


@pytest.mark.slow
def test_layers_of_every_form_have_torchs_values_and_derivatives() -> None:
    count = 0
    for kind, form in itertools.product(KINDS, FORMS):
        known = {"nonlinearity": nn.RNN, "proj_size": nn.LSTM}
        if any(key in form and kind is not owner for key, owner in known.items()):
            continue
        torch.manual_seed(count)
        module = Sequence(kind(3, 4, batch_first=count % 2 == 0, **form)).eval()
        agreement(from_torch(module, torch.zeros(1, 3, 3)), module, (3, 3), 1e-12, slopes=count % 3 == 0)
        count += 1
    assert count == 8


@pytest.mark.parametrize("start", ["constant", "given"])
@pytest.mark.parametrize("kind", KINDS)
def test_initial_states_may_be_weights_or_values(kind: type[nn.RNNBase], start: str) -> None:
    module = Sequence(kind(3, 4, 2, batch_first=start == "given"), start=start).eval()
    agreement(from_torch(module, torch.zeros(1, 3, 3)), module, (3, 3), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_single_points_come_with_and_without_an_axis_of_their_own(kind: type[nn.RNNBase]) -> None:
    layer = kind(3, 4, batch_first=True).double().eval()
    for shape in ((5, 3), (2, 5, 3)):
        graph = from_torch(lambda x: layer(x)[0], torch.zeros(shape, dtype=torch.float64), batched=False)
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(graph(x[None])[0], layer(x)[0], rtol=1e-12, atol=1e-12)


class Cells(nn.Module):
    """All cells one behind the other; the input of the last one is a state."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.gated = nn.LSTMCell(3, 4), nn.GRUCell(4, 5, bias=False)
        self.plain, self.last = nn.RNNCell(5, 2, nonlinearity="relu"), nn.GRUCell(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        long = gated = plain = None
        for step in x.unbind(1):
            long = self.long(step, long)
            gated = self.gated(long[0], gated)
            plain = self.plain(gated, plain)
        assert plain is not None and long is not None
        return torch.cat([self.last(plain, x[:, 0]), long[1]], 1)


@pytest.mark.slow
def test_cells_in_a_loop() -> None:
    module = Cells().eval()
    agreement(from_torch(module, torch.zeros(1, 4, 3)), module, (4, 3), 1e-12)


@pytest.mark.slow
def test_bounds_of_a_recurrent_layer_hold_for_points_of_the_region() -> None:
    torch.manual_seed(0)
    module = Sequence(nn.GRU(3, 4, batch_first=True), start="constant").double().eval()
    graph = from_torch(module, torch.zeros(1, 3, 3, dtype=torch.float64))
    centre = torch.randn(3, 3, dtype=torch.float64)
    points = centre + 0.1 * (2 * torch.rand(200, 3, 3, dtype=torch.float64) - 1)
    values, bounds = module(points).detach(), bound_output(graph, Ball(centre, 0.1))
    assert bool(((values >= bounds.lower) & (values <= bounds.upper)).all())
    constant = lipschitz(graph, Ball(centre, 0.1), norm=(torch.inf, torch.inf), method=AutoLip()).upper
    steps = (points[1:] - points[:-1]).abs().flatten(1).amax(1)
    assert bool(((values[1:] - values[:-1]).abs().amax(1) <= constant * steps).all())


def test_what_is_no_function_of_one_point_is_refused_with_the_cure() -> None:
    layer = nn.LSTM(3, 2)
    with pytest.raises(UnsupportedOpError, match=r"mixes the points of a batch.*batch_first=True"):
        from_torch(lambda x: layer(x)[0], torch.zeros(1, 4, 3))
    with pytest.raises(InvalidModelError, match=r"\(GRU\) is in training mode.*module.eval"):
        from_torch(nn.GRU(3, 2, 2, dropout=0.5, batch_first=True), torch.zeros(1, 4, 3))

    def packed(x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), 4)
        found, _ = inner(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
        return nn.utils.rnn.pad_packed_sequence(found, batch_first=True)[0]

    inner = nn.GRU(3, 2, batch_first=True)
    with pytest.raises(UnsupportedOpError, match=r"padded tensor itself|can not be traced"):
        from_torch(packed, torch.zeros(1, 4, 3))


class StepsFirst(nn.Module):
    """Layers and arithmetic on values whose points lie along the second axis, as torch has sequences by default."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.norm, self.after = nn.Linear(3, 3), nn.LayerNorm(4), nn.Linear(4, 2)
        self.layer = nn.GRU(3, 4)
        self.places = nn.Parameter(torch.randn(5, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        found = self.norm(self.layer(self.before(x.transpose(0, 1)).relu())[0]) + self.places
        found = self.after(2.0 * found.tanh() - found.clamp(-0.3, 0.4) / 3.0)
        return found.softmax(0).transpose(0, 1)


@pytest.mark.slow
def test_operations_on_sequences_first() -> None:
    module = StepsFirst().double().eval()
    agreement(from_torch(module, torch.zeros(1, 5, 3, dtype=torch.float64)), module, (5, 3), 1e-12)
    tokens = nn.TransformerEncoderLayer(4, 2, 8, 0.0).double().eval()
    module = nn.Sequential(Swapped(), tokens, Swapped())
    agreement(from_torch(module, torch.zeros(1, 3, 4, dtype=torch.float64)), module, (3, 4), 1e-12)
    for function in (lambda x: x.transpose(0, 1).softmax(1), lambda x: x.transpose(0, 1).mean(1)):
        with pytest.raises(UnsupportedOpError, match="mixes the points of a batch"):
            from_torch(function, torch.zeros(1, 3, 4))


class Swapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)
