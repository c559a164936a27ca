"""Networks of the experiments in the architectures of the papers, trained in short form where no weights are at hand.

Trained weights are kept in a cache folder. They are not those of the papers, which published none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 128
LEARNING_RATE = 1e-3
ATTACK_RADIUS = 0.3  # of adversarial training, l_inf, pixels in [-0.5, 0.5]
ATTACK_STEPS = 4
SHORT = 2000  # images for tests of the scripts
CONVOLUTIONAL = 20000  # images for convolutional networks

Data = Callable[[], tuple[np.ndarray, np.ndarray]]


def perceptron(widths: Sequence[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def convolutional(depth: int) -> nn.Sequential:
    """The MNIST networks of SeqLip's table: three strided convolutions and a head; deeper ones repeat the middle."""
    layers: list[nn.Module] = [nn.Conv2d(1, 32, 5, stride=2), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2), nn.ReLU()]
    for _ in range(depth - 4):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(64, 128, 3, stride=2), nn.ReLU(), nn.Conv2d(128, 10, 2), nn.Flatten()]
    return nn.Sequential(*layers)


def architecture(name: str) -> tuple[nn.Sequential, tuple[int, ...], float]:
    """An untrained network by its name, the shape of its input, and by what pixels in [-0.5, 0.5] are multiplied.

    Raises:
        ValueError: for an unknown name.
    """
    if name == "mnist_7layer_relu_1024":
        return perceptron((784, 1024, 512, 256, 128, 64, 32, 10), nn.ReLU), (784,), 1.0
    if name == "cifar_10layer_relu_2048":
        return perceptron((3072, 2048, 2048, 1024, 1024, 512, 512, 256, 256, 128, 10), nn.ReLU), (3072,), 1.0
    if found := re.fullmatch(r"mnist_cnn_paper(\d+)", name):
        return convolutional(int(found[1])), (1, 28, 28), 2.0
    if found := re.fullmatch(r"mnist_(\d+)layer_(leaky|tanh|relu)_(\d+)(_adv)?", name):
        activations = {"leaky": lambda: nn.LeakyReLU(0.3), "tanh": nn.Tanh, "relu": nn.ReLU}
        widths = (784, *[int(found[3])] * (int(found[1]) - 1), 10)
        return perceptron(widths, activations[found[2]]), (784,), 1.0
    raise ValueError(f"there is no network of the name {name}")


def trained(name: str, data: Data, folder: Path, short: bool) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A trained classifier and the shape of its input; weights are kept in the folder.

    Args:
        data: gives training images, uint8 (N, ...), and labels (N,).
        short: few images, one epoch.
    """
    torch.manual_seed(0)
    model, shape, scale = architecture(name)
    path = folder / f"{name}{'_short' if short else ''}.npz"
    if path.is_file():
        return _with_weights(model, path), shape
    pixels, labels = data()
    most = SHORT if short else CONVOLUTIONAL if len(shape) > 1 else len(labels)
    count = min(most, len(labels))
    points = scale * (torch.from_numpy(pixels[:count]).reshape(count, *shape).float() / 255 - 0.5)
    epochs = 1 if short or shape != (784,) or "1024" in name else 5
    radius = ATTACK_RADIUS if name.endswith("_adv") else 0.0
    print(f"training {name} in short form: {epochs} epochs", flush=True)
    _fit(model, points, torch.from_numpy(labels[:count]), epochs, radius)
    return kept(model, path), shape


def kept(model: nn.Sequential, path: Path) -> nn.Sequential:
    """Write the weights of a network and return it in evaluation mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {key: value.numpy() for key, value in model.state_dict().items()}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)  # pyright: ignore[reportArgumentType] - the stub takes no dict of arrays
    partial.rename(path)
    return model.eval()


def _with_weights(model: nn.Sequential, path: Path) -> nn.Sequential:
    with np.load(path) as file:
        model.load_state_dict({key: torch.from_numpy(file[key]) for key in file.files})
    return model.eval()


def _fit(model: nn.Sequential, points: Tensor, labels: Tensor, epochs: int, radius: float) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    total = epochs * math.ceil(len(labels) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    step = 0
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            x, y = points[batch], labels[batch]
            if radius:  # grows over the first half, else nothing is learnt
                x = _attacked(model, x, y, radius * min(1.0, 2 * step / total))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            schedule.step()
            step += 1
            if step % 100 == 0 or step == total:
                print(f"\r  step {step} of {total}", end="" if step < total else "\n", flush=True)


def _attacked(model: nn.Sequential, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Projected gradient ascent of the loss over the ball, from a random start."""
    moved = x + radius * (2 * torch.rand_like(x) - 1)
    for _ in range(ATTACK_STEPS):
        moved = moved.clamp(-0.5, 0.5).requires_grad_()
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(model(moved), y), moved)
        moved = x + (moved.detach() + 2.5 * radius / ATTACK_STEPS * slope.sign() - x).clamp(-radius, radius)
    return moved.clamp(-0.5, 0.5)


def smooth_surface(seed: int = 0, features: int = 200, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Points of the plane and a random smooth function there: a sample of a Gaussian process of length scale 1.

    Returns:
        Points, shape (count, 2), within [-4, 4], and values, (count, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    points = 8 * torch.rand(count, 2, generator=generator) - 4
    frequencies = torch.randn(2, features, generator=generator)
    phases = 2 * math.pi * torch.rand(features, generator=generator)
    heights = torch.randn(features, 1, generator=generator) * math.sqrt(2 / features)
    return points, torch.cos(points @ frequencies + phases) @ heights


def surface_network(depth: int, folder: Path, steps: int, width: int = 20) -> nn.Sequential:
    """A ReLU perceptron of so many linear layers that was fitted to `smooth_surface`; weights are kept."""
    torch.manual_seed(depth)
    model = perceptron((2, *[width] * (depth - 1), 1), nn.ReLU)
    path = folder / f"surface_{depth}layer_relu_{width}_{steps}.npz"
    if path.is_file():
        return _with_weights(model, path)
    points, values = smooth_surface()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        batch = torch.randint(len(points), (256,))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(points[batch]), values[batch])
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0:
            print(f"  {depth} layers, step {step + 1} of {steps}: squared error {float(loss):.3g}", flush=True)
    return kept(model, path)
