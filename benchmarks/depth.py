"""`python -m benchmarks.depth`: what rounding alone widens in deep networks with random weights, against the truth.

At radius 0 the Jacobian is one matrix, so anything above it is rounding; small balls show what relaxation adds. Weights
have variance 2 / width (1 / width for tanh), seeds are 0 and 1; seconds are those of one processor.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

import jacobound as jb

INPUTS, OUTPUTS = 20, 10
# activation, width, layers, radius
ROWS = (
    ("relu", 64, 10, 0.0),
    ("relu", 64, 25, 1e-3),
    ("relu", 64, 50, 0.0),
    ("relu", 64, 50, 1e-3),
    ("relu", 64, 100, 0.0),
    ("relu", 64, 100, 1e-4),
    ("relu", 64, 200, 0.0),
    ("relu", 256, 30, 0.0),
    ("relu", 256, 30, 1e-4),
    ("relu", 256, 100, 0.0),
    ("tanh", 64, 15, 0.0),
    ("tanh", 64, 50, 0.0),
    ("residual relu", 64, 50, 0.0),
    ("residual relu", 64, 50, 1e-3),
    ("residual tanh", 64, 50, 0.0),
)


class Block(nn.Module):
    """Two layers, the second scaled down to 0.14, around which the argument is carried."""

    def __init__(self, width: int, activation: nn.Module) -> None:
        super().__init__()
        layers = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.normal_(layers[0].weight, 0.0, (2.0 / width) ** 0.5)
        nn.init.normal_(layers[1].weight, 0.0, 0.14 * (2.0 / width) ** 0.5)
        self.inner = nn.Sequential(layers[0], activation, layers[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def network(activation: str, width: int, layers: int) -> nn.Sequential:
    """A perceptron with He's initialisation (Xavier's for tanh), or one of residual blocks."""
    torch.manual_seed(0)
    if activation.startswith("residual"):
        kind = nn.ReLU if activation.endswith("relu") else nn.Tanh
        blocks = [Block(width, kind()) for _ in range(layers)]
        return nn.Sequential(nn.Linear(INPUTS, width), *blocks, nn.Linear(width, OUTPUTS)).double()
    gain = 2.0**0.5 if activation == "relu" else 1.0
    sizes = [INPUTS, *[width] * layers, OUTPUTS]
    modules: list[nn.Module] = []
    for number in range(layers + 1):
        layer = nn.Linear(sizes[number], sizes[number + 1])
        nn.init.normal_(layer.weight, 0.0, gain / sizes[number] ** 0.5)
        modules += [layer, nn.ReLU() if activation == "relu" else nn.Tanh()]
    return nn.Sequential(*modules[:-1]).double()


def truth(module: nn.Module, x: Tensor) -> float:
    """Spectral norm of the Jacobian at a point."""
    found = torch.autograd.functional.jacobian(module, x)
    assert isinstance(found, Tensor)
    return float(torch.linalg.matrix_norm(found, 2))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(
        "| network | radius | at the centre | l2 by RecurJac | by LipSDP | widest entry | unstable | seconds | LipSDP |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for activation, width, layers, radius in ROWS:
        module = network(activation, width, layers)
        torch.manual_seed(1)
        x = torch.rand(INPUTS, dtype=torch.float64)
        graph = jb.from_torch(module, x[None])
        ball = jb.Ball(x, radius)
        start = time.process_time()
        entries = jb.bound_jacobian(graph, ball, jb.RecurJac())
        seconds = time.process_time() - start
        constant = float(jb.lipschitz(graph, ball, jb.RecurJac(), search=None).upper)
        start = time.process_time()
        certificate = float(jb.lipschitz(graph, ball, jb.LipSDP(), search=None).upper)
        longer = time.process_time() - start
        widest = float((entries.upper - entries.lower).max())
        first = f"{activation} {width} x {layers} | {radius:g} | {truth(module, x):.9g}"
        both = f"{constant:.9g} | {certificate:.9g} | {widest:.2g} | {int(entries.unstable)}"
        print(f"| {first} | {both} | {seconds:.2f} | {longer:.2f} |", flush=True)


if __name__ == "__main__":
    main()
