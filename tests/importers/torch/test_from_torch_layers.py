"""Every class in torch.nn is imported and agrees with torch, or is refused by name with advice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jacobound import InvalidModelError, ShapeError, UnsupportedOpError, from_torch
from torch_agreement import agreement
from torch_layers import NO_MODULES, REFUSED, SPATIAL, TAKEN
from torch_models import Applied, randomised

ADVICE = ("Replace it", "wrap it", "call module.eval()", "run the module once", "Pass an example", "import the part")


def test_every_class_has_its_entry() -> None:
    known = {*TAKEN, *REFUSED, *NO_MODULES}
    assert set(nn.modules.__all__) <= known, "a class of torch.nn without an entry in torch_layers.py"


class Beside(nn.Module):
    """Several layers side by side, each behind a factor (some layers change their argument)."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(0.5 * x).flatten(1) for layer in self.layers], 1)


@pytest.mark.alike(32)
@pytest.mark.parametrize("kind", TAKEN)
def test_layer_is_imported(kind: str) -> None:
    for shape in dict.fromkeys(shape for _, shape in TAKEN[kind]):
        module = randomised(Beside([make() for make, other in TAKEN[kind] if other == shape])).double()
        graph = from_torch(module, torch.zeros(2, *shape, dtype=torch.float64))
        agreement(graph, module, shape, 1e-12, slopes=False)


@pytest.mark.slow
@pytest.mark.alike(22)
@pytest.mark.parametrize("kind", REFUSED)
def test_layer_is_refused(kind: str) -> None:
    make, shape, text = REFUSED[kind]
    with pytest.raises((UnsupportedOpError, InvalidModelError, ShapeError), match=text) as caught:
        from_torch(make().eval(), torch.zeros(2, *shape))
    message = str(caught.value)
    assert any(advice in message for advice in ADVICE), message


@pytest.mark.parametrize("count", SPATIAL)
def test_lazy_layers_are_taken_once_they_have_a_shape(count: int) -> None:
    shape = SPATIAL[count]
    module = nn.Sequential(getattr(nn, f"LazyConv{count}d")(3, 2), getattr(nn, f"LazyBatchNorm{count}d")()).eval()
    module(torch.zeros(1, *shape))
    agreement(from_torch(randomised(module), torch.zeros(1, *shape)), module, shape, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("count", SPATIAL)
def test_positions_of_maxima_are_refused_when_used(count: int) -> None:
    shape = SPATIAL[count]
    pool = getattr(nn, f"MaxPool{count}d")(2, return_indices=True)
    unpool = getattr(nn, f"MaxUnpool{count}d")(2)
    values = Applied(lambda found: found[0], pool).eval()
    agreement(from_torch(values, torch.zeros(1, *shape)), Applied(lambda x: x[0], pool), shape, 1e-12)
    for function in (lambda found: found[1] * 1.0, lambda found: unpool(*found)):
        with pytest.raises(UnsupportedOpError, match="positions that another operation found"):
            from_torch(Applied(function, pool).eval(), torch.zeros(1, *shape))
