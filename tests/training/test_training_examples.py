"""The training examples at tiny size: they run to the end, certify, print and draw."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    """A script of the examples as a module."""
    specification = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # where dataclasses look their annotations up
    specification.loader.exec_module(module)
    return module


def test_the_classifier(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    random = np.random.default_rng(0)
    patterns = random.integers(0, 256, size=(10, 28, 28))
    for part, count in (("train", 600), ("test", 40)):
        labels = np.arange(count) % 10
        noise = random.integers(-20, 21, size=(count, 28, 28))
        np.savez(tmp_path / f"mnist_{part}.npz", x=np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), y=labels)
    script = example("train_mnist_radius")
    monkeypatch.setattr(script, "WIDTHS", (784, 12, 10))
    figure = tmp_path / "radii.png"
    script.main([str(tmp_path), "--epochs", "6", "--images", "1", "--figure", str(figure)])
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["network", "plain", "penalised"]
    plain, penalised = ([float(number) for number in row.split()[1:]] for row in rows[1:])
    assert penalised[1] < plain[1]  # certified constants
    assert figure.stat().st_size > 1000


def test_a_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="does not exist"):
        example("train_mnist_radius").main([str(tmp_path)])


def test_the_critic(capsys: pytest.CaptureFixture[str]) -> None:
    example("train_wgan_critic").main(["--steps", "4"])
    rows = capsys.readouterr().out.splitlines()
    divided = re.match(r"divided by bound +([\d.]+) +-?[\d.]+ +([\d.]+)$", rows[1])
    assert divided is not None and float(divided[1]) <= 1.0
    assert rows[2].startswith("CriticPenalty")
