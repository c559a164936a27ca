"""Sets of inputs: ranges of linear functions against rational numbers, moves to float32, points, and who owns a row."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from flint import fmpq
from torch import Generator, Tensor

from exact import DTYPE_NAMES, DTYPES, random_floats, rational, rationals
from jacobound.arithmetic.intervals import Interval
from jacobound.arithmetic.rounding import tiny, unit
from jacobound.inputs.domains import Domain, Domains, Owners, dot_error, moved_ball, rounded_outward

both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_NAMES)
INF = math.inf


def boxes(dtype: torch.dtype, generator: Generator, sets: int, size: int, width: int = 0) -> Interval:
    ends = random_floats((2, sets, size), dtype, generator, (-3, 3))
    narrow = ends[0] + 2.0**width * (ends[1] - ends[0])
    return Interval(torch.minimum(ends[0], narrow), torch.maximum(ends[0], narrow))


def exact_range(row: Tensor, lower: Tensor, upper: Tensor) -> tuple[fmpq, fmpq, fmpq]:
    """Smallest and largest value over a box, and the sum of all absolute products."""
    parts = list(zip(*map(rationals, (row, lower, upper)), strict=True))
    least = sum((min(a * low, a * high) for a, low, high in parts), fmpq(0))
    most = sum((max(a * low, a * high) for a, low, high in parts), fmpq(0))
    return least, most, sum((abs(a) * max(abs(low), abs(high)) for a, low, high in parts), fmpq(0))


@both_dtypes
@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("width", [-60, -20, 0])
def test_ranges_over_boxes_hold_and_are_tight(dtype: torch.dtype, size: int, width: int) -> None:
    generator = Generator().manual_seed(size)
    domain = Domain(boxes(dtype, generator, 3, size, width))
    rows = random_floats((2, 60, size), dtype, generator, (-3, 3))
    for owners in (Owners(None, 1), Owners(torch.arange(3).repeat_interleave(20))):
        found = domain.range_of(rows, owners)
        sets = torch.ones(60, dtype=torch.long) if owners.index is None else owners.index
        for lead in range(2):
            for k in range(60):
                box = domain.box[int(sets[k])]
                least, most, total = exact_range(rows[lead, k], box.lower, box.upper)
                low, high = rational(float(found.lower[lead, k])), rational(float(found.upper[lead, k]))
                room = (4 * size + 26) * rational(unit(dtype)) * total + 100 * rational(tiny(dtype))
                assert least - room <= low <= least and most <= high <= most + room


@both_dtypes
def test_sums_that_cancel_pay_for_their_rounding(dtype: torch.dtype) -> None:
    """Around one point the value is tiny beside its terms, with and without a ball."""
    generator = Generator().manual_seed(3)
    centre = random_floats((1, 8), dtype, generator, (-3, 3))
    rows = random_floats((200, 8), dtype, generator, (-3, 3))
    rows[:, 7] = -(rows[:, :7] @ centre[0, :7]) / centre[0, 7]
    box = Interval.exact(centre)
    wide = Interval(centre - 100, centre + 100)
    radius = torch.zeros(1, dtype=dtype)
    for domain in (Domain(box), Domain(wide, centre, radius, 2.0), Domain(wide, centre, radius, 1.0)):
        found = domain.range_of(rows, Owners())
        for k in range(200):
            least, _, total = exact_range(rows[k], centre[0], centre[0])
            low, high = rational(float(found.lower[k])), rational(float(found.upper[k]))
            room = 60 * rational(unit(dtype)) * total + 200 * rational(tiny(dtype))
            assert least - room <= low <= least <= high <= least + room


@both_dtypes
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_ranges_over_balls_use_the_dual_norm(dtype: torch.dtype, p: float) -> None:
    """Rows along (3, 4, 0): the largest value over a ball is 5 r, or 4 r with corners on the axes."""
    generator = Generator().manual_seed(4)
    rows = torch.tensor([3.0, -4.0, 0.0], dtype=dtype) * random_floats((80, 1), dtype, generator, (-3, 3))
    rows = torch.cat([rows, rows.roll(1, 1)])
    centre = torch.zeros(2, 3, dtype=dtype)
    centre[1] = random_floats((3,), dtype, generator, (-30, -20))
    radius = random_floats((2,), dtype, generator, (-3, 3)).abs()
    domain = Domain(Interval(centre - 50, centre + 50), centre, radius, p)
    for owners in (Owners(None, 1), Owners(torch.arange(2).repeat_interleave(80)), Owners(None, 0)):
        found = domain.range_of(rows.expand(2, -1, -1), owners)
        for k in range(160):
            own = owners.only if owners.index is None else int(owners.index[k])
            scale = max(rationals(rows[k].abs())) / 4 * (5 if p == 2 else 4)
            if p == 2:  # 3, 4, 5 only if the products by 3 and 4 were exact
                squares = sum((a * a for a in rationals(rows[k])), fmpq(0))
                scale = fmpq(*math.sqrt(float(squares)).as_integer_ratio()) * (1 - fmpq(1, 2**52))
            middle, total, _ = exact_range(rows[k], centre[own], centre[own])
            reach = scale * rational(float(radius[own]))
            room = 70 * rational(unit(dtype)) * (reach + abs(total)) + 100 * rational(tiny(dtype))
            for lead in range(2):
                assert rational(float(found.upper[lead, k])) >= middle + reach
                assert rational(float(found.lower[lead, k])) <= middle - reach
                assert rational(float(found.upper[lead, k])) <= middle + reach + room
                assert rational(float(found.lower[lead, k])) >= middle - reach - room


def test_the_smaller_of_box_and_ball_counts() -> None:
    centre = torch.tensor([[1.0, -2.0]]).double()
    domain = Domain(
        Interval(centre - 0.5, centre + torch.tensor([0.5, 9.0])), centre, torch.tensor([3.0]).double(), 2.0
    )
    found = domain.range_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double(), Owners())
    assert torch.allclose(found.upper, torch.tensor([1.5, 1.0]).double(), atol=1e-13)
    assert torch.allclose(found.lower, torch.tensor([0.5, -2.5]).double(), atol=1e-13)


@both_dtypes
def test_the_error_of_a_product_counts_its_own_terms(dtype: torch.dtype) -> None:
    """One term, whatever the number of rows and of leading axes."""
    box = Interval(torch.full((1, 1), -1.0, dtype=dtype), torch.full((1, 1), 3.0, dtype=dtype))
    wide = Interval(box.lower - 9, box.upper + 9)
    for domain in (Domain(box), Domain(wide, box.upper - 2, torch.full((1,), 2.0, dtype=dtype), 2.0)):
        for shape in ((900, 1), (2, 900, 1), (3, 2, 900, 1)):
            found = domain.range_of(torch.ones(shape, dtype=dtype), Owners())
            assert found.shape == shape[:-1]
            assert (found.upper - 3 <= 120 * unit(dtype)).all() and (found.lower + 1 >= -120 * unit(dtype)).all()
    total = torch.ones(2, 3, dtype=dtype)
    for terms in (1, 50):
        error = dot_error(total, terms)
        assert error.shape == total.shape
        assert ((error >= (terms + 2) * unit(dtype)) & (error <= 1.01 * (terms + 6) * unit(dtype))).all()


def three() -> Domain:
    lower = torch.tensor([[-1.0, 0.0], [-INF, 2.0], [1.0, 1.0]]).double()
    return Domain(Interval(lower, torch.tensor([[1.0, 4.0], [1.0, 3.0], [1.5, INF]]).double()))


def test_some_of_the_sets_and_points_of_each() -> None:
    domain = three()
    assert domain.bounded.tolist() == [True, False, False] and len(domain) == 3
    assert domain.anchor.tolist() == [[0.0, 2.0], [0.0, 2.5], [1.25, 1.0]]
    later = domain[1:]
    assert len(later) == 2 and later.centre is None and torch.equal(later.box.upper, domain.box.upper[1:])
    centre, radius = torch.tensor([[0.5, 9.0], [2.0, 2.5], [1.0, -3.0]]).double(), torch.arange(3).double()
    ball = Domain(domain.box, centre, radius, 1.0)
    assert ball.anchor.tolist() == [[0.5, 4.0], [1.0, 2.5], [1.0, 1.0]]
    part = ball[torch.tensor([2, 0])]
    assert part.centre is not None and part.radius is not None and part.p == 1.0
    assert torch.equal(part.centre, centre[[2, 0]]) and part.radius.tolist() == [2.0, 0.0]


@pytest.mark.parametrize("p", [1.0, 2.0, INF])
def test_points_of_a_set_are_spread_as_stated(p: float) -> None:
    lower, width = torch.tensor([[[-1.0], [2.0]], [[0.0], [0.0]]]).double(), torch.tensor([[2.0], [0.5]]).double()
    box, count = Interval(lower, lower + width), 48
    middle = (box.lower + box.upper) / 2
    domain = Domain(box) if p == INF else Domain(box, middle, torch.tensor([0.75, 10.0]).double(), p)
    found = domain.sample(count, torch.Generator().manual_seed(1))
    again = torch.Generator().manual_seed(1)
    uniform = torch.rand(count, 2, 1, generator=again, dtype=torch.float64)
    uniform[::2] = uniform[::2].round()
    expected = box.lower.unsqueeze(1) + uniform * width
    if p == 1:
        axes = torch.randint(2, (count,), generator=again)
        for k in range(count):
            if k % 8 < 2:
                expected[:, k, 1 - axes[k]] = middle[:, 1 - axes[k]]
    if p != INF:
        offset = expected - middle.unsqueeze(1)
        length = offset.flatten(2).abs().sum(2) if p == 1 else offset.flatten(2).square().sum(2).sqrt()
        shrink = (torch.tensor([[0.75], [10.0]]).double() / length).clamp(max=1.0)
        assert (shrink[0] < 1).any() and (shrink[1] == 1).all()
        expected = middle.unsqueeze(1) + offset * shrink[..., None, None]
        inside = found - middle.unsqueeze(1)
        size = inside.flatten(2).abs().sum(2) if p == 1 else inside.flatten(2).square().sum(2).sqrt()
        assert (size[0] < 0.75).all()  # strictly, so that nothing sampled is outside by its own rounding
    assert found.shape == (2, count, 2, 1)
    assert torch.allclose(found, expected, rtol=0, atol=3e-9)


def test_projection_pulls_towards_the_part_of_the_box_that_the_ball_meets() -> None:
    """The ball's centre lies outside of the box; the anchor is the nearest point of the box."""
    box = Interval(torch.tensor([[0.0, 0.0]]).double(), torch.tensor([[2.0, 2.0]]).double())
    domain = Domain(box, torch.tensor([[-1.0, 1.0]]).double(), torch.tensor([1.5]).double(), 2.0)
    points = torch.tensor([[[5.0, 1.0], [-3.0, 1.0], [0.25, 1.0], [0.0, 9.0], [0.0, 1.0]]]).double()
    expected = torch.tensor([[[0.5, 1.0], [0.0, 1.0], [0.25, 1.0], [0.0, 1.5], [0.0, 1.0]]]).double()
    assert torch.allclose(domain.project(points), expected, atol=2e-9)
    far = Domain(box, torch.tensor([[-3.0, 1.0]]).double(), torch.tensor([1.5]).double(), 2.0)
    assert torch.equal(far.project(points), torch.tensor([0.0, 1.0]).double().expand(1, 5, 2))
    assert torch.equal(Domain(box).project(points), points.clamp(0.0, 2.0))


def test_a_radius_without_a_centre_is_not_read() -> None:
    box = Interval(torch.tensor([[-1.0, 0.0]]).double(), torch.tensor([[1.0, 4.0]]).double())
    domain, plain = Domain(box, None, torch.tensor([0.5]).double(), 2.0), Domain(box)
    rows, points = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([[[9.0, 9.0]]]).double()
    assert torch.equal(domain.range_of(rows, Owners()).upper, plain.range_of(rows, Owners()).upper)
    assert torch.equal(domain.project(points), plain.project(points))
    assert domain[:1].centre is None and domain.to(torch.float32).centre is None


def test_moving_to_float32_loses_nothing_and_hardly_gains() -> None:
    generator = torch.Generator().manual_seed(6)
    box = boxes(torch.float64, generator, 40, 5)
    box.lower[:, 0], box.upper[:, 0] = box.lower[:, 0].float().double(), box.upper[:, 0].float().double()
    moved = Domain(box).to(torch.float32)
    assert moved.centre is None and moved.box.lower.dtype == torch.float32
    for found, end, side in ((moved.box.lower, box.lower, -1), (moved.box.upper, box.upper, 1)):
        assert (side * (found.double() - end) >= 0).all()
        inward = found.nextafter(torch.full_like(found, -side * INF)).double()
        assert ((side * (inward - end) < 0) | (found == end)).all()
        assert torch.equal(found[:, 0].double(), end[:, 0])
    same = rounded_outward(box.lower, box.upper, torch.float64)
    assert torch.equal(same.lower, box.lower) and torch.equal(same.upper, box.upper)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_balls_in_float32_grow_by_as_much_as_their_centres_move(p: float) -> None:
    generator = torch.Generator().manual_seed(7)
    centre = random_floats((300, 3), torch.float64, generator, (-2, 2))
    centre[:100] = centre[:100].float().double()
    radius = random_floats((300,), torch.float64, generator, (-30, 2)).abs()
    radius[:50] = radius[:50].float().double()
    ball = Domain(Interval(centre - 20, centre + 20), centre, radius, p).to(torch.float32)
    assert ball.p == p and ball.centre is not None and ball.radius is not None
    assert torch.equal(ball.centre, centre.float()) and torch.equal(ball.radius[:50].double(), radius[:50])
    for k in range(300):
        gap = [a - b for a, b in zip(rationals(ball.centre[k]), rationals(centre[k]), strict=True)]
        found, before = rational(float(ball.radius[k])), rational(float(radius[k]))
        if p == 1:
            need = before + sum(map(abs, gap), fmpq(0))
            assert need <= found <= need * (1 + fmpq(1, 2**22))
        else:
            square = sum((x * x for x in gap), fmpq(0))
            assert (found - before) ** 2 >= square and found >= before
            assert (found * (1 - fmpq(1, 2**22)) - before) <= fmpq(*math.sqrt(float(square)).as_integer_ratio()) * 2
    exact, grown = moved_ball(centre, radius, p, torch.float64)
    assert torch.equal(exact, centre) and torch.equal(grown, radius)


def test_the_radius_in_double_covers_the_last_unit() -> None:
    """The sum of radius and move is a little more than 2, and rounds to 2 in float64."""
    step = 2.0**-30 + 2.0**-54
    centre, radius = (torch.tensor(x, dtype=torch.float64) for x in ([[0.125 + step]], [2 - 2.0**-30]))
    moved, found = moved_ball(centre, radius, 1.0, torch.float32)
    assert float(moved) == 0.125 and float(centre) - 0.125 == step
    assert rational(float(found)) >= rational(step) + rational(float(radius)) > 2
    assert float(found) <= 2 + 2.0**-22


def test_rows_have_owners() -> None:
    for sets, count in ((torch.tensor([0, 0]), 1), (torch.tensor([], dtype=torch.long), 5)):
        assert vars(Owners.of(sets, count)) == vars(Owners()) == {"index": None, "only": 0}
    one = Owners.of(torch.tensor([3, 3, 3]), 5)
    assert one.index is None and one.only == 3
    sets = torch.tensor([1, 1, 4])
    assert Owners.of(sets, 5).index is sets
    for owners, own in ((one, [3, 3, 3]), (Owners(sets), [1, 1, 4])):
        x = torch.arange(10.0).reshape(5, 2) + 1
        picked = owners.pick(x)
        assert torch.equal(picked.expand(3, 2), x[own])
        assert torch.equal(owners.at(x, torch.tensor([0, 1, 1])), x[own, [0, 1, 1]])
        rows = torch.arange(12.0).reshape(2, 3, 2)
        assert torch.equal(owners.dot(rows, x), (rows * x[own]).sum(-1))


def test_sets_are_made_when_they_are_asked_for() -> None:
    asked: list[tuple[int, int]] = []

    def make(first: int, last: int) -> Domain:
        asked.append((first, last))
        ends = torch.arange(float(first), float(last)).unsqueeze(1)
        return Domain(Interval.exact(ends))

    domains = Domains(5, make)
    assert len(domains) == 5
    assert domains[1:3].box.lower.flatten().tolist() == [1.0, 2.0] and asked == [(1, 3)]
    assert domains[::2].box.lower.flatten().tolist() == [0.0, 2.0, 4.0] and asked[-1] == (0, 5)
    numbers = [float(one.box.lower) for one in domains]
    assert numbers == [0.0, 1.0, 2.0, 3.0, 4.0] and all(b - a == 1 for a, b in pairwise(numbers))
    assert asked[-5:] == [(k, k + 1) for k in range(5)]
