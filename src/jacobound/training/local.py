"""`LocalLipschitz`: constants around the points of a batch; `CriticPenalty`: the penalty of a GAN's critic on them.

The ranges and Jacobian bounds are those of the library, run in plain arithmetic, which gradients pass.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jacobound.arithmetic.rounding import unrounded
from jacobound.errors import InvalidOptionError, UnsupportedOpError
from jacobound.inputs.regions import Ball
from jacobound.jacobian.fastlip import FastLip
from jacobound.method import Budget, JacobianMethod, Query
from jacobound.method.from_entries import from_entries
from jacobound.relaxation.ranges import IBP
from jacobound.training.live import Live


class LocalLipschitz:
    """Upper bounds of the Lipschitz constants over balls around the points of a batch, one per point.

    Above the true constants up to rounding, as `lipschitz` with the same Jacobian method is, which takes products of
    norms into account besides. Gradients are exact for ranges by intervals, and for piecewise linear activations; at
    curved activations `CROWN` keeps the slopes of its lines fixed in the derivative. Points get no gradients. Slopes of
    piecewise linear activations are piecewise constant, so which neurons are stable follows the weights in the value
    alone.

    Args:
        live: a network in affine and elementwise nodes (`Graph.is_plain`).
        radius: of the balls, non-negative.
        p: norm of the balls, 1, 2 or inf.
        method: `FastLip(IBP())` when None: cheap. `FastLip()` and `RecurJac(...)` are tighter and dearer.
        norm: (p, q) of the constants.

    Raises:
        UnsupportedOpError: when the network has functions that no Jacobian method can bound.
        InvalidOptionError: for a radius that is no non-negative number.
    """

    def __init__(
        self,
        live: Live,
        radius: float,
        p: float = 2,
        method: JacobianMethod | None = None,
        norm: tuple[float, float] = (2, 2),
    ) -> None:
        if not 0 <= radius < math.inf:
            raise InvalidOptionError(f"the radius must be a number >= 0, not {radius}")
        graphs = live.graphs()
        if graphs.expanded is None:
            graphs.whole.plain()  # says which function is to blame
            raise UnsupportedOpError("the network has no expansion")
        self._live, self._radius, self._p, self._norm = live, radius, p, norm
        self._method = FastLip(IBP()) if method is None else method

    def __call__(self, points: Tensor) -> Tensor:
        """Constants (n,) around points (n, *in_shape)."""
        graph = self._live.graphs().expanded
        assert graph is not None
        with unrounded():
            domains, lead = Ball(points, self._radius, self._p).domains(graph)
            enclosure = self._method.enclose(Query(graph, domains[:], Budget()))
            return from_entries(enclosure, *self._norm).reshape(lead)


class CriticPenalty:
    """``mean max(0, L - target)^2`` over balls around random mixtures of real and generated points.

    The gradient penalty of WGAN-GP looks at single points, and at gradient norms there; this one at all gradients in a
    ball, and is 0 below the target (one-sided). Source of the penalty: Gulrajani et al. (NeurIPS 2017); of
    local constants in its place: Zhang, Zhang and Hsieh (AAAI 2019), who name GANs as a use.

    Args:
        constants: of the critic, whose outputs are one number per point.
        target: the constant that costs nothing.
        generator: of the random mixtures; None for torch's own.
    """

    def __init__(
        self, constants: LocalLipschitz, target: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        self._constants, self._target, self._generator = constants, target, generator

    def __call__(self, real: Tensor, generated: Tensor) -> Tensor:
        """The penalty, 0-d, for two batches (n, *in_shape) of one length."""
        device = real.device if self._generator is None else self._generator.device
        share = torch.rand(len(real), *[1] * (real.dim() - 1), generator=self._generator, device=device).to(real)
        points = (share * real + (1 - share) * generated).detach()
        return (self._constants(points) - self._target).clamp(min=0.0).square().mean()
