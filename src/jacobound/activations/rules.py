"""How the slopes of the two lines are chosen. Nothing here has to be rigorous: offsets are bounded afterwards.

`bent` serves functions that are convex or concave everywhere, `s_shaped` those that are convex left of zero and
concave right of it with a point symmetry at zero, `envelope` every other function. All three minimise the distance
of the lines at the middle of the interval, which for a line is the same as minimising the area between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jacobound.activations.lines import Slopes
from jacobound.activations.pieces import Curve, clip, derivative_range, extents, tidy
from jacobound.intervals import Interval
from jacobound.rounding import unrounded

SlopeRule = Callable[[Curve, Interval], Slopes]

SEARCH_STEPS = 48
TANGENT_STEPS = 14
GRID = 8
POLISH_STEPS = 8


def middle(x: Interval) -> Tensor:
    """The middle of a finite interval, without overflow."""
    return x.lower * 0.5 + x.upper * 0.5


def chord(curve: Curve, x: Interval) -> Tensor:
    """Slope of the chord over the interval; the derivative at the middle where the interval is one point."""
    rise = curve.value(x.upper) * 0.5 - curve.value(x.lower) * 0.5
    run = x.upper * 0.5 - x.lower * 0.5
    return torch.where(run > 0, rise / run, slope_at(curve, middle(x)))


def slope_at(curve: Curve, z: Tensor) -> Tensor:
    """The derivative at `z`, as a plain number; at a kink that of the right-hand piece."""
    found = torch.zeros_like(z)
    with unrounded():
        for piece, (start, end) in zip(curve.pieces, extents(curve, z), strict=True):
            here = piece.line[0] if piece.line else piece.derivative(Interval.exact(clip(z, start, end))).lower
            found = torch.where(z >= start, here, found)
    return found


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


@torch.no_grad()
def envelope(curve: Curve, x: Interval) -> Slopes:
    """For any function: the best lines at the middle over the chords of a finite set of points.

    The points are the ends, the breaks and, on pieces that are not linear, a grid that is uniform and also graded
    towards both ends (a wide interval must still see what happens near a break).
    """
    x = tidy(x)
    point = middle(x)
    left, right = _grid(curve, Interval(x.lower, point)), _grid(curve, Interval(point, x.upper))
    heights = [curve.value(z) for z in (left, point, right)]
    steepness, slope = derivative_range(curve, x), slope_at(curve, point)
    upper = _best_slope((left, point, right), heights, slope).clamp(steepness.lower, steepness.upper)
    lower = -_best_slope((left, point, right), [-height for height in heights], -slope)
    lower = lower.clamp(steepness.lower, steepness.upper)
    # One exchange: the points where the curve stands farthest beyond these lines join the grid. Its error is squared.
    found = [z for z in tangent_points(curve, x, lower, upper) if z is not None]
    if found:
        farthest = torch.minimum(torch.maximum(torch.stack(found), x.lower), x.upper)
        left = torch.cat([left, torch.minimum(farthest, point)])
        right = torch.cat([right, torch.maximum(farthest, point)])
        heights = [curve.value(z) for z in (left, point, right)]
        upper = _best_slope((left, point, right), heights, slope).clamp(steepness.lower, steepness.upper)
        lower = -_best_slope((left, point, right), [-height for height in heights], -slope)
        lower = lower.clamp(steepness.lower, steepness.upper)
    return Slopes(lower, upper, tangent_points(curve, x, lower, upper))


def _grid(curve: Curve, x: Interval) -> Tensor:
    """Points of the interval, shape (k, *interval), in no order, ends included."""
    uniform = torch.linspace(0.0, 1.0, GRID, dtype=x.lower.dtype, device=x.lower.device)
    shares = torch.cat([uniform, uniform[1:-1] ** 5, 1 - uniform[1:-1] ** 5]).reshape(-1, *[1] * x.lower.dim())
    points = [x.lower[None], x.upper[None]]
    for piece, (start, end) in zip(curve.pieces, extents(curve, x.lower), strict=True):
        first, last = (torch.minimum(torch.maximum(clip(z, start, end), x.lower), x.upper) for z in (x.lower, x.upper))
        points.append(torch.stack([first, last]) if piece.curvature == "linear" else first + (last - first) * shares)
    return torch.cat(points)


def _best_slope(points: Sequence[Tensor], heights: Sequence[Tensor], slope: Tensor) -> Tensor:
    """Slope of the line that lies above all points and is lowest at the middle one.

    Alternates between the two sides: for a fixed right point the best left point is the one that all other left
    points lie below, and the reverse; when neither moves the line lies above everything, so it is optimal.

    Args:
        points: left points, the middle, right points; shapes (k, *interval), interval, (m, *interval).
        heights: the function there.
        slope: the function's derivative at the middle.
    """
    (left, middle_point, right), (left_height, middle_height, right_height) = points, heights

    def slopes(z: Tensor, height: Tensor, from_z: Tensor, from_height: Tensor, empty: float) -> Tensor:
        return torch.where(z == from_z, empty, (height - from_height) / (z - from_z))

    # While the middle itself is the contact, the slope may be anything between these two.
    most = slopes(left, left_height, middle_point, middle_height, torch.inf).amin(0)
    least = slopes(right, right_height, middle_point, middle_height, -torch.inf).amax(0)
    anchor, height, bridge, done = left[0], left_height[0], slope, torch.zeros_like(slope, dtype=torch.bool)
    for _ in range(POLISH_STEPS):
        index = slopes(right, right_height, anchor, height, -torch.inf).argmax(0, keepdim=True)
        anchor, height = right.gather(0, index)[0], right_height.gather(0, index)[0]
        best, index = slopes(left, left_height, anchor, height, torch.inf).min(0, keepdim=True)
        anchor, height = left.gather(0, index)[0], left_height.gather(0, index)[0]
        done = done | (best[0] == bridge)  # every entry stops by itself
        if bool(done.all()):
            break
        bridge = torch.where(done, bridge, best[0])
    inside = torch.minimum(torch.maximum(slope, least), most)
    return torch.where(least <= most, inside, bridge).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def tangent_points(curve: Curve, x: Interval, lower: Tensor, upper: Tensor) -> tuple[Tensor | None, ...]:
    """For each curved piece the point where the derivative equals the slope of the line that may touch it."""
    slopes, signs, firsts, lasts = [], [], [], []
    for piece, (start, end) in zip(curve.pieces, extents(curve, x.lower), strict=True):
        if piece.curvature != "linear":
            slopes.append(upper if piece.curvature == "concave" else lower)
            signs.append(-1.0 if piece.curvature == "concave" else 1.0)
            firsts.append(clip(x.lower, start, end))
            lasts.append(clip(x.upper, start, end))
    if not slopes:
        return (None,) * len(curve.pieces)
    sign = x.lower.new_tensor(signs).reshape(-1, *[1] * x.lower.dim())
    found = iter(_where_slope_is(curve, torch.stack(slopes), sign, torch.stack(firsts), torch.stack(lasts)))
    return tuple(None if piece.curvature == "linear" else next(found) for piece in curve.pieces)


def _where_slope_is(curve: Curve, k: Tensor, sign: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Solve s'(t) = k for a monotone s' by false position (Illinois), with a bisection in every third step."""

    def excess(z: Tensor) -> Tensor:
        return (_gradient(curve, z) - k) * sign

    low, high, below, above, t = first, last, excess(first), excess(last), first
    at_first, at_last = below >= 0, above <= 0
    done, found = torch.zeros_like(at_first), first
    for step in range(SEARCH_STEPS):
        t = low + (high - low) * 0.5 if step % 3 == 2 else low - below * (high - low) / (above - below)
        t = torch.minimum(torch.maximum(t.nan_to_num(nan=0.0), low), high)
        here = excess(t)
        rising = here < 0
        # Halving the value kept at the other end makes false position converge faster than linearly.
        low, below, above, high = (
            torch.where(rising, t, low),
            torch.where(rising, here, below * 0.5),
            torch.where(rising, above * 0.5, here),
            torch.where(rising, high, t),
        )
        found = torch.where(done, found, t)
        if step % 4 == 3:  # every entry stops by itself: its result does not depend on its neighbours
            done = done | (high - low <= 1e-7 * (last - first)) | (here == 0) | at_first | at_last
            if bool(done.all()):
                break
    return torch.where(at_first, first, torch.where(at_last, last, found))


def _gradient(curve: Curve, z: Tensor) -> Tensor:
    """The plain derivative inside a piece, by autograd (also under `torch.inference_mode`)."""
    with torch.inference_mode(False), torch.enable_grad():
        z = z.detach().clone().requires_grad_()
        return torch.autograd.grad(curve.value(z).sum(), z)[0]
