"""Train a small Wasserstein GAN on eight clusters in the plane, with a critic whose Lipschitz constant is certified.

The critic is divided by `jacobound.training.PairBound` of itself, so that its constant is 1 at most in every step, up
to rounding; gradients pass through the divisor. After training the divisor is put into the last layer, and
`jb.lipschitz` certifies the constant of what is then an ordinary network. A critic with a constant of at most 1
proves something: its mean difference between two samples is a lower bound of their Wasserstein distance.

For comparison a second critic is trained on the same samples with `CriticPenalty`, the gradient penalty over balls; its
constant is certified as well, and is whatever it came to be.

Run (half a minute on one core)::

    python examples/train_wgan_critic.py
"""

from __future__ import annotations

import argparse
import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn

import jacobound as jb
from jacobound import training

BATCH = 128
REFRESH = 100


def clusters(count: int, generator: torch.Generator) -> Tensor:
    """Points (count, 2) of eight clusters on the unit circle."""
    angle = torch.randint(8, (count,), generator=generator) * (math.pi / 4)
    centre = torch.stack((angle.cos(), angle.sin()), 1)
    return centre + 0.05 * torch.randn(count, 2, generator=generator)


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with leaky ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def train_gan(steps: int, rounds: int, random: torch.Generator) -> tuple[nn.Sequential, nn.Sequential]:
    """Generator and critic, the critic's constant 1 at most; `rounds` steps of the critic to one of the generator."""
    generator, critic = perceptron(2, 64, 64, 2), perceptron(2, 64, 64, 1)
    bound = training.PairBound(training.Live(critic, torch.zeros(1, 2)), training.GramIteration())
    critics = torch.optim.Adam(critic.parameters(), 2e-3, betas=(0.5, 0.9))
    generators = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.9))
    for step in range(steps * (rounds + 1)):
        noise = torch.randn(BATCH, 2, generator=random)
        divisor = bound().exp().float()
        if step % (rounds + 1) < rounds:
            values = critic(torch.cat((clusters(BATCH, random), generator(noise).detach()))) / divisor
            optimizer, loss = critics, values[BATCH:].mean() - values[:BATCH].mean()
        else:
            optimizer, loss = generators, -(critic(generator(noise)) / divisor.detach()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % REFRESH == 0:
            bound.refresh()
    return generator, divided(critic)


def divided(critic: nn.Sequential) -> nn.Sequential:
    """The critic over a certified bound of its constant, rounded so that the result is certified as well."""
    scaled = copy.deepcopy(critic).eval()
    last = scaled[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        factor = 1 / (constant(critic) * (1 + 1e-6))  # float32 rounds the weights
        last.weight.mul_(factor)
        last.bias.mul_(factor)
    return scaled


def train_penalised(generator: nn.Sequential, steps: int, random: torch.Generator) -> nn.Sequential:
    """A critic of a fixed generator that pays for local constants above 1."""
    critic = perceptron(2, 64, 64, 1)
    local = training.LocalLipschitz(training.Live(critic, torch.zeros(1, 2)), radius=0.05)
    penalty = training.CriticPenalty(local, generator=random)
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3, betas=(0.5, 0.9))
    for _ in range(steps):
        real = clusters(BATCH, random)
        with torch.no_grad():
            made = generator(torch.randn(BATCH, 2, generator=random))
        loss = critic(made).mean() - critic(real).mean() + 10 * penalty(real[:16], made[:16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return critic.eval()


def constant(critic: nn.Sequential) -> float:
    """Certified l_2 constant of the critic over the whole plane."""
    graph = jb.from_torch(critic, torch.zeros(1, 2))
    return float(jb.lipschitz(graph, jb.WholeSpace(), jb.SeqLip(), search=None).upper)


def difference(critic: nn.Sequential, real: Tensor, made: Tensor) -> float:
    """Mean of the critic on one sample less that on the other, in float64."""
    critic = copy.deepcopy(critic).double()
    with torch.no_grad():
        return float(critic(real.double()).mean() - critic(made.double()).mean())


def main(arguments: list[str] | None = None) -> None:
    """Train, certify, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of the generator; the critics take four times as many")
    parser.add_argument("--full", action="store_true", help="3000 steps")
    given = parser.parse_args(arguments)
    steps = 3000 if given.full else given.steps
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    generator, critic = train_gan(steps, 4, random)
    other = train_penalised(generator, steps, random)
    with torch.no_grad():
        made, start = generator(torch.randn(2000, 2, generator=random)), torch.randn(2000, 2, generator=random)
    real = clusters(2000, random)
    print("critic             certified constant  mean difference  proved distance of the samples, at least")
    for name, one in (("divided by bound", critic), ("CriticPenalty", other)):
        largest, gap = constant(one), difference(one, real, made)
        print(f"{name:<17}  {largest:18.4f}  {gap:15.4f}  {max(gap, 0.0) / largest:40.4f}")
    print(f"the same critic on noise in the place of what the generator makes: {difference(critic, real, start):.4f}")


if __name__ == "__main__":
    main()
