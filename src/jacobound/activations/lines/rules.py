"""How the slopes of the two lines are chosen. Nothing here has to be rigorous: offsets are bounded afterwards.

`bent` serves functions that are convex or concave everywhere, `s_shaped` those that are convex left of zero and
concave right of it with a point symmetry at zero, `envelope` (in its own file) every other function. All three
minimise the distance of the lines at the middle, which for a line is the same as minimising the area between them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jacobound.activations.calculus.pieces import Curve, derivative_range, tidy
from jacobound.activations.lines.contacts import slope_at, tangent_points
from jacobound.activations.lines.offsets import Slopes
from jacobound.arithmetic.intervals import Interval

SlopeRule = Callable[[Curve, Interval], Slopes]

TANGENT_STEPS = 14


def middle(x: Interval) -> Tensor:
    """The middle of a finite interval, without overflow."""
    return x.lower * 0.5 + x.upper * 0.5


def chord(curve: Curve, x: Interval) -> Tensor:
    """Slope of the chord over the interval; the derivative at the middle where the interval is one point."""
    rise = curve.value(x.upper) * 0.5 - curve.value(x.lower) * 0.5
    run = x.upper * 0.5 - x.lower * 0.5
    return torch.where(run > 0, rise / run, slope_at(curve, middle(x)))


def bent(convex: bool | Tensor) -> SlopeRule:
    """For a function that is convex (else concave) everywhere: chord on one side, tangent at the middle on the other.

    For ReLU these are the adaptive lines of CROWN (Zhang et al. 2018): lower slope 1 if u >= -l, else 0.
    """

    def choose(curve: Curve, x: Interval) -> Slopes:
        x = tidy(x)
        point = middle(x)
        steepness = derivative_range(curve, x)
        # A tiny interval leaves only noise in its chord, and its middle may round to a kink at its end.
        slopes = (chord(curve, x), slope_at(curve, point))
        secant, tangent = (k.clamp(steepness.lower, steepness.upper) for k in slopes)
        points = tuple(None if piece.curvature == "linear" else point for piece in curve.pieces)
        if isinstance(convex, Tensor):
            return Slopes(torch.where(convex, tangent, secant), torch.where(convex, secant, tangent), points)
        return Slopes(tangent, secant, points) if convex else Slopes(secant, tangent, points)

    return choose


def s_shaped(derivative: Callable[[Tensor], Tensor], steepest: Callable[[Tensor], Tensor]) -> SlopeRule:
    """For an increasing function, convex left of 0 and concave right of it, point-symmetric, with a bell-shaped slope.

    Args:
        derivative: plain s'(z).
        steepest: plain inverse of s' on z >= 0: the point where the derivative has the given value.

    The upper line from the left end l < 0 touches at d* with s'(d*) (d* - l) = s(d*) - s(l), where the chord from l is
    steepest. The map d -> steepest(chord slope from l to d) never falls below d*, decreases towards it and converges
    quadratically, because the chord slope is stationary there. The lower line is the mirror image.
    """

    @torch.no_grad()
    def choose(curve: Curve, x: Interval) -> Slopes:
        x = tidy(x)
        ends = torch.stack([x.lower, -x.upper]), torch.stack([x.upper, -x.lower])  # upper line; mirrored lower line
        left, right = ends
        centre, start = left * 0.5 + right * 0.5, curve.value(left)

        def secant(d: Tensor) -> Tensor:
            return (curve.value(d) - start) / (d - left)

        whole = secant(right)
        flattest = torch.minimum(derivative(left), derivative(right))
        whole = whole.clamp(flattest, derivative(right.clamp(max=0.0) + left.clamp(min=0.0))).nan_to_num(nan=0.0)
        touch, done = right, torch.zeros_like(right, dtype=torch.bool)
        for step in range(TANGENT_STEPS):
            closer = torch.minimum(steepest(secant(touch)).nan_to_num(nan=0.0, posinf=torch.inf), touch).clamp(min=0.0)
            if step % 3 == 2:  # every entry stops by itself: its lines do not depend on its neighbours
                done = done | (touch - closer <= 1e-9 * touch)
                if bool(done.all()):
                    break
            touch = torch.where(done, touch, closer)
        point = torch.maximum(touch, centre)
        by_chord = (right <= 0) | ((left < 0) & (derivative(right) >= whole))
        point = torch.where(by_chord, right, point)
        slope = torch.where(by_chord, whole, derivative(point))
        return Slopes(slope[1], slope[0], (-point[1], point[0]))

    return choose


@torch.no_grad()
def parallel(curve: Curve, x: Interval) -> Slopes:
    """The chord's slope on both sides (Fast-Lin, Weng et al. 2018)."""
    x = tidy(x)
    steepness = derivative_range(curve, x)
    secant = chord(curve, x).clamp(steepness.lower, steepness.upper)
    return Slopes(secant, secant, tangent_points(curve, x, secant, secant))
