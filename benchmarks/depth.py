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
)


def network(activation: str, width: int, layers: int) -> nn.Sequential:
    """A perceptron with He's initialisation (Xavier's for tanh)."""
    torch.manual_seed(0)
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
    print("| network | radius | at the centre | l2 by RecurJac | widest entry | unstable | seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for activation, width, layers, radius in ROWS:
        module = network(activation, width, layers)
        torch.manual_seed(1)
        x = torch.rand(INPUTS, dtype=torch.float64)
        linear = [layer for layer in module if isinstance(layer, nn.Linear)]
        graph = jb.from_layers(
            [layer.weight.detach() for layer in linear], [layer.bias.detach() for layer in linear], activation
        )
        ball = jb.Ball(x, radius)
        start = time.process_time()
        entries = jb.bound_jacobian(graph, ball, jb.RecurJac())
        seconds = time.process_time() - start
        constant = float(jb.lipschitz(graph, ball, jb.RecurJac(), search=None).upper)
        widest = float((entries.upper - entries.lower).max())
        first = f"{activation} {width} x {layers} | {radius:g} | {truth(module, x):.9g}"
        print(f"| {first} | {constant:.9g} | {widest:.2g} | {int(entries.unstable)} | {seconds:.2f} |")


if __name__ == "__main__":
    main()
