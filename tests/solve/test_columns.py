"""Derivatives by some inputs alone: what the entries say, what the norms of the columns are, what is recorded."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound import cli

COLUMNS = [4, 1]


class Gated(nn.Module):
    """A product of two layers behind a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(6, 5), nn.Linear(6, 5), nn.LayerNorm(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.tanh(self.one(x))) * torch.sigmoid(self.two(x))


MODULES = {
    "mixed": lambda: nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)),
    "gated": Gated,
    "maxima": lambda: nn.Sequential(nn.Linear(6, 8), nn.Unflatten(1, (1, 8)), nn.MaxPool1d(2), nn.Flatten()),
}
REGIONS = {
    "l2": jb.Ball(torch.full((6,), 0.1), 0.3, p=2),
    "l1": jb.Ball(torch.full((6,), 0.1), 0.5, p=1),
    "box": jb.Box(torch.full((6,), -0.2), torch.tensor([0.2, 0.1, 0.0, 0.3, 0.2, -0.2])),
    "two": jb.Ball(torch.tensor([[0.0] * 6, [0.2] * 6]), 0.1, p=2),
}


def columns_at(graph: jb.Graph, points: Tensor) -> Tensor:
    """Jacobians by automatic differentiation at points, (points, outputs, columns)."""
    return torch.stack([torch.autograd.functional.jacobian(graph, x).flatten(1) for x in points])[..., COLUMNS]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("called", MODULES)
@pytest.mark.parametrize("where", REGIONS)
def test_no_columns_are_longer_and_what_is_attained_changes_them_alone(called: str, where: str) -> None:
    torch.manual_seed(3)
    graph, region = jb.from_torch(MODULES[called]().double().eval(), torch.zeros(1, 6).double()), REGIONS[where]
    found = jb.lipschitz(graph, region, columns=COLUMNS, budget=5)
    whole = jb.lipschitz(graph, region, budget=5)
    assert bool((found.lower <= found.upper).all()) and bool((found.upper <= whole.upper * (1 + 1e-9)).all())
    assert bool((found.lower >= 0.4 * found.upper).all())
    domains, _ = region.domains(graph)
    points = domains[: len(domains)].sample(40, torch.Generator().manual_seed(1))
    for k, own in enumerate(points):
        sizes = torch.linalg.matrix_norm(columns_at(graph, own), 2)
        assert float(sizes.max()) <= float(found.upper.flatten()[k]) * (1 + 1e-12)
    assert found.witness is not None and found.partner is not None
    for point, partner in zip(found.witness.reshape(-1, 6), found.partner.reshape(-1, 6), strict=True):
        if not bool(partner.isnan().any()):
            assert torch.equal(torch.tensor([k in COLUMNS for k in range(6)]) | (point == partner), torch.ones(6) > 0)


@pytest.mark.parametrize(
    "method",
    [jb.AutoLip(), jb.RecurJac(), jb.FastLip(), jb.LinearSlopes(), jb.SeqLip(), jb.LipSDP(), jb.ECLipsE(), None],
    ids=repr,
)
def test_one_matrix_has_the_norm_of_its_columns(method: jb.Method | None) -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = jb.from_layers([weight], [torch.zeros(4, dtype=torch.float64)], "relu")
    found = jb.lipschitz(graph, REGIONS["l2"], method, columns=COLUMNS)
    exact = float(torch.linalg.matrix_norm(weight[:, COLUMNS], 2))
    assert exact * (1 - 1e-9) <= float(found.lower) <= exact * (1 + 1e-12)
    assert exact * (1 - 1e-12) <= float(found.upper) <= exact * 1.01


@pytest.mark.parametrize("norm", [(inf, inf), (1, 1), (2, inf), (jb.Weighted(2, [1.0, 2, 3, 4, 5, 6]), 2)], ids=repr)
def test_norms_of_columns(norm: tuple[float | jb.Weighted, float]) -> None:
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = jb.from_layers([weight], [torch.zeros(4, dtype=torch.float64)], "relu")
    found = jb.lipschitz(graph, REGIONS["box"], norm=norm, columns=COLUMNS)
    columns, p = weight[:, COLUMNS], norm[0]
    if isinstance(p, jb.Weighted):
        columns, p = columns / torch.tensor([5.0, 2.0]), 2
    ways = {
        (inf, inf): columns.abs().sum(1).max(),
        (1, 1): columns.abs().sum(0).max(),
        (2, inf): columns.norm(dim=1).max(),
        (2, 2): torch.linalg.matrix_norm(columns, 2),
    }
    exact = float(ways[(p, norm[1])])
    assert exact * (1 - 1e-9) <= float(found.lower) <= exact * (1 + 1e-12) <= float(found.upper) * (1 + 2e-12)
    assert float(found.upper) <= exact * 1.001


def test_entries_are_those_of_the_whole_jacobian_and_both_are_recorded() -> None:
    torch.manual_seed(0)
    image = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)).eval()
    graph, region = jb.from_torch(image, torch.zeros(1, 1, 3, 3)), jb.Ball(torch.zeros(1, 3, 3), 0.1)
    whole = jb.bound_jacobian(graph, region)
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 1, 1] = mask[0, 0, 2] = True
    for columns, places in ((mask, [2, 4]), ([4, 2], [4, 2]), (range(3), [0, 1, 2]), (5, [5])):
        found = jb.bound_jacobian(graph, region, columns=columns)
        assert found.lower.shape == (2, len(places))
        assert torch.equal(found.lower, whole.lower.flatten(1)[:, places])
        assert torch.equal(found.upper, whole.upper.flatten(1)[:, places])
        again = jb.JacobianBounds.from_json(found.to_json())
        assert again.provenance.question is not None
        assert torch.equal(again.provenance.question.options["columns"], torch.tensor(places))  # type: ignore[arg-type]
        assert again.provenance.question.told()["columns"].startswith(f"{len(places)} inputs")
    constant = jb.lipschitz(graph, region, columns=mask)
    assert jb.LipschitzBound.from_json(constant.to_json()).to_json() == constant.to_json()


@pytest.mark.parametrize(
    "columns",
    [[], [0, 0], 6, -1, [1.5], "a", True, [[1]], torch.ones(5, dtype=torch.bool), [True], {0}, [2**70]],
    ids=repr,
)
def test_what_are_no_inputs_is_refused(columns: object) -> None:
    graph = jb.from_layers([torch.ones(2, 6)], [torch.zeros(2)], "relu")
    for ask in (jb.bound_jacobian, jb.lipschitz):
        with pytest.raises(jb.ShapeError, match=r"columns=3 is input 3"):
            ask(graph, REGIONS["l2"], columns=columns)  # type: ignore[operator]


def test_the_command_line_takes_columns(capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(jb.__file__).parent / "data"
    image = ["--input", str(data / "mnist_images.npz"), "--key", "x", "--scale", "1/255", "--shift", "-0.5"]
    given = [str(data / "mnist_4layer_relu_64.onnx"), *image, "--index", "3", "--radius", "0.001", "--rows", "3"]
    for command, options in (("bound", []), ("lipschitz", ["--method", "recurjac"])):
        assert cli.main([command, *given, "--columns", "300:303,7", "--json", *options]) == 0
        told = json.loads(capsys.readouterr().out)
        found = jb.JacobianBounds.from_dict(told["jacobian"]) if command == "bound" else told[0]
        if command == "bound":
            assert found.lower.shape == (1, 1, 4) or found.lower.shape == (1, 4)
        else:
            columns = jb.LipschitzBound.from_dict(found)
            assert columns.provenance.question is not None
            assert columns.provenance.question.options["columns"].tolist() == [300, 301, 302, 7]  # type: ignore[union-attr]
    assert cli.main(["bound", *given, "--columns", "3-5"]) == 2
    assert "--columns takes" in capsys.readouterr().err
