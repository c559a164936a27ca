"""The experiments of `examples/paper`: rows survive interruptions, downloads are checked, tiny runs are right."""

from __future__ import annotations

import csv
import hashlib
import importlib
import json
import math
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import jacobound as jb

pytest.importorskip("matplotlib")

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "paper"
if not SCRIPTS.is_dir():
    pytest.skip("examples/paper is not part of this copy", allow_module_level=True)

NAMES = ("drawing", "training", "material", "ledger")
EXPERIMENTS = ("figure1_constants", "figure2_landscape", "table1_radii", "seqlip_table", "ideal_scenario")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """All modules of the folder, imported as the scripts do it: from beside them."""
    sys.path.insert(0, str(SCRIPTS))
    yield {name: importlib.import_module(name) for name in (*NAMES, *EXPERIMENTS)}
    sys.path.remove(str(SCRIPTS))
    for name in (*NAMES, *EXPERIMENTS):
        sys.modules.pop(name, None)


def ledger(scripts: dict[str, ModuleType], path: Path, fresh: bool = False) -> Any:
    return scripts["ledger"].Ledger(path, ("depth", "weights"), ("value",), fresh)


def test_an_interrupted_run_goes_on_where_it_stopped(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    asked: list[int] = []

    def work(depth: int, weights: str) -> Iterator[dict[str, object]]:
        asked.append(depth)
        if depth == 2 and len(asked) == 2:
            raise KeyboardInterrupt
        yield {"value": depth / 3}

    cells = [{"depth": depth, "weights": "a"} for depth in (1, 2, 3)]
    path = tmp_path / "rows.csv"
    with pytest.raises(KeyboardInterrupt):
        ledger(scripts, path).fill(cells, work)
    assert path.read_text(encoding="utf-8") == "depth,weights,value\n1,a,0.333333\n"
    path.write_text(path.read_text(encoding="utf-8") + "2,a", encoding="utf-8")  # as a crash may leave it
    again = ledger(scripts, path)
    again.fill(cells, work)
    assert asked == [1, 2, 2, 3]
    assert again.number("value", depth=3) == pytest.approx(1.0)
    assert math.isnan(again.number("value", depth=4))
    assert len(ledger(scripts, path).rows) == 3 and not ledger(scripts, path, fresh=True).rows


def test_rows_of_other_weights_do_not_count(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    def work(depth: int, weights: str) -> Iterator[dict[str, object]]:
        yield {"value": 1.0 if weights == "old" else 2.0}

    path = tmp_path / "rows.csv"
    ledger(scripts, path).fill([{"depth": 1, "weights": "old"}], work)
    renewed = ledger(scripts, path)
    renewed.fill([{"depth": 1, "weights": "new"}], work)
    assert renewed.number("value", depth=1) == 2.0 and len(renewed.rows) == 1


def test_an_interruption_says_that_rows_are_kept(
    scripts: dict[str, ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        scripts["ledger"].run(stopped)
    assert ended.value.code == 130 and "goes on from there" in capsys.readouterr().out


def test_results_are_gathered_on_one_page(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    module, results = scripts["ledger"], tmp_path / "results"
    results.mkdir()
    (results / "seqlip_table.md").write_text("## B\n\n![B](b.svg)\n", encoding="utf-8")
    (results / "table1_radii.md").write_text("## A\n", encoding="utf-8")
    page = tmp_path / "README.md"
    page.write_text(f"before\n{module.BEGIN}\nold\n{module.END}\nafter\n", encoding="utf-8")
    module.gather(page, results)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert text.index("## A") < text.index("## B") and "](results/b.svg)" in text
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="once and in this order"):
        module.gather(page, results)


def test_the_committed_page_holds_the_committed_results() -> None:
    page = (SCRIPTS / "README.md").read_text(encoding="utf-8")
    for name in EXPERIMENTS:
        first, _, rest = (SCRIPTS / "results" / f"{name}.md").read_text(encoding="utf-8").partition("\n")
        assert first in page and rest.strip().splitlines()[0] in page
        assert f"](results/{name}.svg)" in page
        assert (SCRIPTS / "results" / f"{name}.svg").stat().st_size < 200_000


def test_downloads_are_checked(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(b"images")
    found = scripts["material"].Material(tmp_path / "none", tmp_path / "cache")
    with pytest.raises(SystemExit, match="nothing was kept"):
        found._download("file.bin", source.as_uri(), "0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []
    path = found._download("file.bin", source.as_uri(), hashlib.sha256(b"images").hexdigest())
    assert path.read_bytes() == b"images"
    with pytest.raises(SystemExit, match="--data"):
        found._download("other.bin", (tmp_path / "absent").as_uri(), "0" * 64)


def test_photographs_are_read_from_the_archive(
    scripts: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    records = b"".join(bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in enumerate(pixels))
    path = tmp_path / "cifar.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
        entry.size = len(records)
        archive.addfile(entry, BytesIO(records))
    module = scripts["material"]
    monkeypatch.setattr(module.Material, "_download", lambda self, *_: path)
    images = module.Material(tmp_path / "none", tmp_path).photographs("test")
    assert (images.pixels == pixels).all() and images.labels.tolist() == [0, 1]
    assert images.centred().shape == (2, 3072) and float(np.abs(images.centred()).max()) <= 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist_3layer_leaky_20", "mnist_3layer_relu_16_adv", "mnist_cnn_paper4"])
def test_networks_are_trained_where_there_are_none(
    scripts: dict[str, ModuleType], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    np.savez(
        tmp_path / "mnist.npz",
        x_train=generator.integers(0, 256, (64, 28, 28), dtype=np.uint8),
        y_train=generator.integers(0, 10, 64, dtype=np.uint8),
    )
    module = scripts["material"]
    monkeypatch.setattr(module.Material, "_download", lambda self, *_: tmp_path / "mnist.npz")
    found = module.Material(tmp_path / "none", tmp_path, short=True)
    graph = found.network(name)
    assert found.network(name).fingerprint == graph.fingerprint  # read back, not trained again
    assert graph(torch.zeros(1, *graph.in_shape, dtype=torch.float64)).shape == (1, 10)


def test_prescribed_spectra(scripts: dict[str, ModuleType]) -> None:
    ideal, generator = scripts["ideal_scenario"], torch.Generator().manual_seed(0)
    values = torch.linalg.svdvals(ideal.spectral_matrix(6, 9, 0.1, generator))
    assert torch.allclose(values, torch.tensor([1.0] + [0.1] * 5, dtype=torch.float64))
    graph = ideal.ideal_network(3, 0.1, 0, 10)
    assert float(jb.lipschitz(graph, jb.WholeSpace(), jb.AutoLip(), search=None).upper) == pytest.approx(1.0)


def tiny(scripts: dict[str, ModuleType], name: str, folder: Path, data: Path) -> str:
    """What a tiny run tells; it must write all four files."""
    arguments = ["--tiny", "--out", str(folder), "--data", str(data), "--cache", str(folder / "cache")]
    scripts[name].main(arguments)
    assert all((folder / f"{name}.{kind}").stat().st_size > 500 for kind in ("svg", "png"))
    return (folder / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_ideal_scenario_runs_without_data(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    text = tiny(scripts, "ideal_scenario", tmp_path, tmp_path / "none")
    assert "| 1      | 0.3183" in text and "](ideal_scenario.svg)" in text


COLUMNS = {
    "figure1_constants": ("method", "constant"),
    "table1_radii": ("method", "radius"),
    "seqlip_table": ("method", "value"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COLUMNS))
def test_tiny_runs(scripts: dict[str, ModuleType], shared_data: Path, name: str, tmp_path: Path) -> None:
    text = tiny(scripts, name, tmp_path, shared_data)
    assert "paper" in text and "nan" not in text
    assert tiny(scripts, name, tmp_path, shared_data) == text  # from the rows of the first run
    with (tmp_path / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    label, column = COLUMNS[name]
    for row in rows:
        if "attained" in row[label]:  # no certified constant of the same thing may lie below
            same = [one for one in rows if one.get("kind") == row.get("kind") and one["status"] == "certified"]
            assert min(float(one[column]) for one in same) >= float(row[column]) * (1 - 1e-9)
        if row["status"] == "adversarial":  # no certified radius may reach it
            same = [one for one in rows if one["target"] == row["target"] and one["status"] == "certified"]
            assert len(same) >= 2 and max(float(one[column]) for one in same) < float(row[column])


def test_a_gradient_that_is_zero_has_no_radius(scripts: dict[str, ModuleType]) -> None:
    weights = [torch.eye(4, dtype=torch.float64), torch.ones(10, 4, dtype=torch.float64)]
    weights[1][1] = 0.0  # the logit that is asked about
    module = scripts["figure2_landscape"]
    centre = torch.full((4,), 0.5, dtype=torch.float64)
    assert module.published_radius(jb.from_layers(weights, activation="relu"), centre, 2.0) == 0
    weights[1][1, 2] = 1.0  # relu(x) has a slope within 0.5 of x = 0.5
    found = module.published_radius(jb.from_layers(weights, activation="relu"), centre, 2.0)
    assert 0.4985 < found < 0.5


def test_a_bound_that_is_exactly_zero_is_no_sign(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = SimpleNamespace(lower=torch.zeros(1, 4), upper=torch.ones(1, 4))
    module = scripts["figure2_landscape"]
    monkeypatch.setattr(module.jb, "bound_jacobian", lambda *_, **__: ends)
    assert module.published_radius(None, torch.zeros(4), 2.0) == 0


@pytest.mark.slow
def test_published_radii_are_those_of_the_authors(
    scripts: dict[str, ModuleType], shared_data: Path, tmp_path: Path
) -> None:
    tiny(scripts, "figure2_landscape", tmp_path, shared_data)
    module = scripts["figure2_landscape"]
    summary = json.loads((shared_data / "reference" / "recurjac" / "summary.json").read_text(encoding="utf-8"))
    known = summary["landscape"]
    rows = scripts["ledger"].Ledger(
        tmp_path / "figure2_landscape.csv",
        ("depth", "weights", "norm", "method", "image"),
        ("radius", "status", "cpu_s"),
    )
    for name, key in (("l∞", "depth3_pinf"), ("l2", "depth3_p2.0")):
        for index, theirs in list(zip(known["indices"], known["res"][key]["eps_max"], strict=True))[:2]:
            cell = {"depth": 3, "norm": name, "image": index}
            assert rows.number("radius", method=module.PUBLISHED, **cell) == pytest.approx(theirs, rel=0.01)
            assert rows.number("radius", method=module.OURS, **cell) > theirs
