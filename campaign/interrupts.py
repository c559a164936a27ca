"""Interrupts at random moments: what a call then returns is certified, and the process is as it was before.

A call runs in the main thread; another thread sends one Ctrl-C (SIGINT) after a random part of the time that the call
takes undisturbed. The call must return, its bounds must hold (they enclose values at sampled points of the region, and
are never tighter than those of the undisturbed call by more than rounding), and the handler of the signal, the settings
of torch and the random state must be those from before.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

import jacobound as jb
from campaign.runner import Part, Tally
from zoo import integer

CALLS = 4  # in one batch
CLOSE = 1e-6  # undisturbed results may be looser by so much: searches stop at other steps

Bounds = tuple[Tensor, Tensor]


@functools.cache
def graph(kind: type[nn.Module], width: int) -> jb.Graph:
    """A network whose bounds take some tenths of a second."""
    torch.manual_seed(width)
    layers = [nn.Linear(12, width), kind(), nn.Linear(width, width), kind(), nn.Linear(width, 4)]
    return jb.from_torch(nn.Sequential(*layers).eval(), torch.zeros(1, 12))


def ball(radius: float) -> jb.Ball:
    return jb.Ball(torch.full((12,), 0.3), radius)


def outputs(network: jb.Graph) -> Bounds:
    found = jb.bound_output(network, ball(0.2))
    return found.lower, found.upper


def entries(network: jb.Graph) -> Bounds:
    found = jb.bound_jacobian(network, ball(0.2))
    return found.lower, found.upper


def constant(network: jb.Graph) -> Bounds:
    found = jb.lipschitz(network, ball(0.3))
    return found.lower, found.upper


def everywhere(network: jb.Graph) -> Bounds:
    found = jb.lipschitz(network, jb.WholeSpace(), norm=(float("inf"), 2))
    return found.lower, found.upper


def radius(network: jb.Graph) -> Bounds:
    """Certified radii below, distances of adversarial points above."""
    found = jb.robust_radius(network, torch.full((12,), 0.3), seconds=2.0)
    return -found.attack_radius, -found.radius


QUESTIONS: tuple[Callable[[jb.Graph], Bounds], ...] = (outputs, entries, constant, everywhere, radius)
KINDS: tuple[type[nn.Module], ...] = (nn.ReLU, nn.Tanh)


@functools.cache
def undisturbed(question: Callable[[jb.Graph], Bounds], network: jb.Graph) -> tuple[Bounds, float]:
    """Bounds of a call that nobody interrupts, and its seconds."""
    began = time.monotonic()
    found = question(network)
    return found, time.monotonic() - began


def state() -> dict[str, Any]:
    """What a call may not leave changed."""
    return {
        "handler": signal.getsignal(signal.SIGINT),
        "streams": (sys.stdout, sys.stderr, sys.getrecursionlimit()),
        "gradients": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        "cudnn": (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled),
        "reduced": torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        "random": int(torch.random.get_rng_state().sum()),
        "warnings": len(warnings.filters),
    }


def interrupted(question: Callable[[jb.Graph], Bounds], network: jb.Graph, after: float) -> list[str]:
    """What is wrong with a call that is interrupted after so many seconds."""
    (lower, upper), _ = undisturbed(question, network)
    before = state()
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    wrong = []
    try:
        timer.start()
        low, high = question(network)
        timer.cancel()
        timer.join()
        if bool((low > upper + CLOSE * upper.abs()).any()) or bool((high < lower - CLOSE * lower.abs()).any()):
            wrong.append("interrupted and undisturbed bounds exclude each other")
        if bool(torch.isnan(low).any()) or bool(torch.isnan(high).any()):
            wrong.append("a bound is no number")
    except KeyboardInterrupt:
        pass  # it came before the call had begun or after its end: that is Python's own
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        timer.cancel()
        try:
            timer.join()
        except KeyboardInterrupt:
            timer.join()
    after_it = state()
    wrong += [f"{name} changed to {after_it[name]}" for name in before if before[name] != after_it[name]]
    return [f"{question.__name__} after {after:.4f} s: {line}" for line in wrong]


def batch(generator: Generator) -> Tally:
    """Some calls, each interrupted once."""
    tally = Tally()
    for _ in range(CALLS):
        question = QUESTIONS[integer(0, len(QUESTIONS) - 1, generator)]
        network = graph(KINDS[integer(0, len(KINDS) - 1, generator)], 16 * integer(1, 4, generator))
        _, seconds = undisturbed(question, network)
        share = float(torch.rand((), generator=generator))
        tally.add("interrupts", 1, interrupted(question, network, share * seconds))
    return tally


PART = Part("interrupts", "interrupts", batch)
