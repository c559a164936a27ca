"""`from_torch(..., until=...)`: the graph ends at the result of a submodule or of an operation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from jacobound import (
    AutoLip,
    Ball,
    InvalidModelError,
    ShapeError,
    UnsupportedOpError,
    bound_output,
    from_torch,
    lipschitz,
)
from jacobound.graph.nodes import Elementwise
from torch_agreement import agreement
from torch_models import Applied


class Classifier(nn.Module):
    """Ends in a softmax, and calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Flatten())
        self.shared = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 3)
        self.head = nn.Softmax(dim=1)
        self.spare = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.shared(self.features(x)))
        hidden = torch.tanh(self.shared(hidden))
        return self.head(self.fc(hidden))


PARTS: dict[str, Callable[[Classifier, Tensor], Tensor]] = {
    "features.0": lambda m, x: m.features[0](x),
    "features.1": lambda m, x: m.features[1](m.features[0](x)),
    "features.3": lambda m, x: m.features(x),  # flattens what is flat: no operation of its own
    "features": lambda m, x: m.features(x),
    "shared#1": lambda m, x: m.shared(m.features(x)),
    "shared": lambda m, x: m.shared(torch.tanh(m.shared(m.features(x)))),
    "shared#2": lambda m, x: m.shared(torch.tanh(m.shared(m.features(x)))),
    "tanh": lambda m, x: torch.tanh(m.shared(m.features(x))),
    "tanh_1": lambda m, x: torch.tanh(m.shared(torch.tanh(m.shared(m.features(x))))),
    "fc": lambda m, x: m.fc(torch.tanh(m.shared(torch.tanh(m.shared(m.features(x)))))),
}


class Part(nn.Module):
    """What a cut should give, written out."""

    def __init__(self, whole: Classifier, function: Callable[[Classifier, Tensor], Tensor]) -> None:
        super().__init__()
        self.whole, self.function = whole, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.whole, x)


@pytest.mark.slow
@pytest.mark.parametrize("until", PARTS)
def test_cut_is_the_part(until: str) -> None:
    module = Classifier().eval()
    graph = from_torch(module, torch.zeros(2, 4), until=until)
    agreement(graph, Part(module, PARTS[until]), (4,), 1e-12)
    assert "forward" not in vars(module) and not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.slow
def test_where_to_cut_before_a_softmax_is_said_when_executed_values_are_asked_for() -> None:
    module, region = Classifier().eval(), Ball(torch.zeros(4), 0.1)
    graph = from_torch(module, torch.zeros(2, 4))
    with pytest.raises(UnsupportedOpError, match=r"node 'head': softmax of 3 .*AutoLip.*until='fc'"):
        bound_output(graph, region, semantics="executed")
    assert from_torch(module, torch.zeros(2, 4), until="fc").output.name == "fc"
    assert lipschitz(graph, region, AutoLip()).status.certified


def test_advice_names_the_call_of_a_layer_that_is_called_again() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).softmax(1))

    graph = from_torch(Again().eval(), torch.zeros(1, 4))
    with pytest.raises(UnsupportedOpError, match=r"until='layer#1'"):
        bound_output(graph, Ball(torch.zeros(4), 0.1), semantics="executed")
    assert from_torch(Again().eval(), torch.zeros(1, 4), until="layer#1").output.name == "layer"


@pytest.mark.parametrize(
    ("until", "text"),
    [
        ("feature.1", r"no submodule or operation 'feature.1'.*'features.1'"),
        ("fcc", r"no submodule or operation 'fcc'.*'fc'"),
        ("shared#3", r"no submodule or operation 'shared#3'.*'shared"),
        ("tanh_7", r"no submodule or operation 'tanh_7'.*'tanh"),
        ("", r"no submodule or operation ''"),
        ("spare", r"'spare' is not called"),
    ],
)
def test_names_that_are_not_there(until: str, text: str) -> None:
    with pytest.raises(InvalidModelError, match=text):
        from_torch(Classifier().eval(), torch.zeros(1, 4), until=until)


class Branching(nn.Module):
    """Can not be traced behind `inside`, and returns two values."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.inside(x)
        if x.sum() > 0:
            x = x.exp()
        return x, x


@pytest.mark.slow
def test_what_is_behind_the_cut_need_not_be_understood() -> None:
    module = Branching().eval()
    for until in ("inside", "inside.1", "inside.1.0"):
        graph = from_torch(module, torch.zeros(1, 4), until=until)
        agreement(graph, module.inside, (4,), 1e-12)
        assert [node.name for node in graph.nodes] == ["input", "inside.0", "inside.1.0"]
    with pytest.raises(ShapeError, match="Branching does not take a batch of 3 points"):
        from_torch(module, torch.zeros(1, 5), until="inside")


@pytest.mark.slow
def test_cut_at_an_operation_needs_no_single_output() -> None:
    module = Applied(lambda x: (torch.tanh(x), x.softmax(1))).eval()
    graph = from_torch(module, torch.zeros(1, 4), until="tanh")
    assert isinstance(graph.output, Elementwise) and graph.output.name == "tanh"
    unbatched = Applied(lambda x: (torch.tanh(x), x.softmax(0))).eval()
    assert from_torch(unbatched, torch.zeros(4), until="tanh", batched=False).out_shape == (4,)


class Tuples(nn.Module):
    def forward(self, x: Tensor, *, scale: float = 2.0, extra: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        return x * scale, [x, x if extra is None else extra]


def test_submodule_that_returns_several_values() -> None:
    module = nn.Sequential(nn.Linear(4, 4), Tuples(), Applied(lambda found: found[0] + found[1][1], nn.Identity()))
    agreement(from_torch(module, torch.zeros(1, 4)), module, (4,), 1e-12)
    with pytest.raises(InvalidModelError, match=r"'1' returns 2 values"):
        from_torch(module, torch.zeros(1, 4), until="1")


def test_a_cut_that_depends_on_the_batch_is_noticed() -> None:
    module = Applied(lambda x: (x.view(3, 2, 2) * 2).softmax(1)).eval()
    with pytest.raises((InvalidModelError, UnsupportedOpError), match="depends on the size of the batch"):
        from_torch(module, torch.zeros(1, 4), until="mul")
