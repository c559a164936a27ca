"""Train an MNIST classifier twice, without and with a penalty on its Lipschitz constant, and certify both.

The penalty is `jacobound.training.PairBound`: the logarithm of a bound of the network's l_2 constant. What it gains is
measured outside of training, with certified numbers alone:

- for all test images the radius ``margin / (sqrt(2) L)`` within which no pixel noise of that length can change the
  decision, where L is the global constant by `jb.lipschitz`;
- for the first few test images the larger of that and the radius by `jb.robust_radius`, which looks at the
  surroundings of each image.

Run (two minutes on one core; nothing is downloaded)::

    python examples/train_mnist_radius.py path/to/mnist --figure radii.svg

where the folder holds ``mnist_train.npz`` and ``mnist_test.npz``, each with ``x`` (uint8, N x 28 x 28) and ``y``.
Without an argument the folder is ``$JACOBOUND_SHARED_DATA/mnist``, or ``shared/data/mnist`` beside the repository.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound import training

REPOSITORY = Path(__file__).resolve().parents[1]
WIDTHS = (784, 100, 100, 100, 100, 10)
BATCH = 256
LEARNING_RATE = 4e-3
STRENGTH = 0.2  # of the penalty, against a cross entropy of mean 1 or less
REFRESH = 200  # steps between two searches for multipliers


@dataclass(frozen=True)
class Digits:
    """One part of MNIST: `pixels` (N, 784) float32 in [-0.5, 0.5], `labels` (N,) int64."""

    pixels: Tensor
    labels: Tensor

    @staticmethod
    def load(folder: Path, part: str) -> Digits:
        path = folder / f"mnist_{part}.npz"
        if not path.is_file():
            raise SystemExit(f"{path} does not exist; give the folder with mnist_train.npz and mnist_test.npz")
        with np.load(path) as file:
            pixels = torch.from_numpy(file["x"].reshape(len(file["x"]), -1)).float() / 255 - 0.5
            return Digits(pixels, torch.from_numpy(file["y"].astype(np.int64)))


@dataclass(frozen=True)
class Certified:
    """What is proved of one network.

    Args:
        accuracy: on all test images.
        constant: certified global l_2 constant.
        by_constant: certified radius of every test image, 0 where the network is wrong.
        best: of the first images, the larger of that and `robust_radius`.
    """

    accuracy: float
    constant: float
    by_constant: Tensor
    best: Tensor


def network() -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(WIDTHS):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(digits: Digits, epochs: int, strength: float) -> nn.Sequential:
    """Fit the network; `strength` 0 is plain training."""
    torch.manual_seed(0)
    model = network()
    penalty = training.PairBound(training.Live(model, digits.pixels[:1])) if strength else None
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(digits.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        for number, batch in enumerate(torch.randperm(len(digits.labels)).split(BATCH)):
            loss = nn.functional.cross_entropy(model(digits.pixels[batch]), digits.labels[batch])
            if penalty is not None:
                loss = loss + strength * penalty()
                if number % REFRESH == 0:
                    penalty.refresh()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def certify(model: nn.Sequential, digits: Digits, images: int) -> Certified:
    """Accuracy, certified constant and certified radii."""
    graph = jb.from_torch(model, digits.pixels[:1])
    constant = float(jb.lipschitz(graph, jb.WholeSpace(), jb.SeqLip(), search=None).upper)
    logits = jb.bound_output(graph, jb.Box(digits.pixels, digits.pixels), jb.IBP())  # enclosed, with all rounding
    labels = digits.labels.unsqueeze(1)
    others = logits.upper.scatter(1, labels, -torch.inf).amax(1)
    margins = (logits.lower.gather(1, labels).squeeze(1) - others).clamp(min=0.0)
    by_constant = margins / (2**0.5 * constant * (1 + 1e-12))
    radius = jb.robust_radius(graph, digits.pixels[:images], digits.labels[:images], p=2, seconds=0.0, attack=None)
    best = torch.maximum(radius.untargeted, by_constant[:images])
    return Certified(float((margins > 0).double().mean()), constant, by_constant, best)


def table(found: dict[str, Certified]) -> str:
    """One row per network."""
    lines = ["network        accuracy  constant  median radius: by constant  first images, best"]
    for name, one in found.items():
        medians = [float(radii.median()) for radii in (one.by_constant, one.best)]
        lines.append(f"{name:<14} {one.accuracy:8.4f}  {one.constant:8.3f}  {medians[0]:26.3f}  {medians[1]:18.3f}")
    return "\n".join(lines)


def draw(found: dict[str, Certified], path: Path) -> None:
    """Certified accuracy over the radius."""
    from jacobound.reports import figures

    figure = figures.new_figure(7.2, 4.6)
    axes = figure.add_subplot()
    for (name, one), colour in zip(found.items(), (figures.VERMILION, figures.BLUE), strict=True):
        for radii, style, how in (
            (one.by_constant, "-", f"global constant, {len(one.by_constant)} images"),
            (one.best, ":", f"or robust_radius, {len(one.best)} images"),
        ):
            ordered = radii[radii > 0].sort().values
            share = (len(ordered) - torch.arange(len(ordered) + 1)) / len(radii)
            corners = torch.cat((ordered.new_zeros(1), ordered))
            axes.step(corners.numpy(), share.numpy(), style, where="post", color=colour, label=f"{name}: {how}")
    axes.set_xlabel("radius in l2 (pixels from 0 to 1)")
    axes.set_ylabel("certified accuracy")
    axes.set_title("MNIST: share of test images certified within a radius")
    axes.set_xlim(left=0.0)
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(path)


def main(arguments: list[str] | None = None) -> None:
    """Train, certify, print, draw."""
    shared = Path(os.environ.get("JACOBOUND_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=shared / "mnist")
    parser.add_argument("--figure", type=Path, help="where to draw certified accuracy (.svg, .png)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--images", type=int, default=8, help="how many get a robust_radius")
    parser.add_argument("--full", action="store_true", help="30 epochs and 100 images")
    given = parser.parse_args(arguments)
    epochs, images = (30, 100) if given.full else (given.epochs, given.images)
    torch.set_num_threads(1)
    digits, test = Digits.load(given.folder, "train"), Digits.load(given.folder, "test")
    found = {}
    for name, strength in (("plain", 0.0), ("penalised", STRENGTH)):
        found[name] = certify(train(digits, epochs, strength), test, images)
    print(table(found))
    if given.figure is not None:
        draw(found, given.figure)


if __name__ == "__main__":
    main()
