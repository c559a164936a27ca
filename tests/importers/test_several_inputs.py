"""Networks with several inputs, from torch and ONNX: one point with all of them side by side, a region for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jacobound import (
    Ball,
    Box,
    InvalidModelError,
    InvalidRegionError,
    ShapeError,
    bound_jacobian,
    bound_output,
    from_onnx,
    from_torch,
)


class Critic(nn.Module):
    """A value of a state, which is a small image, and an action."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.action = nn.Linear(6, 4), nn.Linear(2, 4)

    def forward(self, state: Tensor, action: Tensor | None = None) -> Tensor:
        assert action is not None
        return self.state(state.flatten(-2)).tanh() * self.action(action)


STATE, ACTION = torch.randn(2, 3, 2), torch.tensor([[0.95, -0.3], [0.2, 0.1]])


@pytest.mark.parametrize(
    ("example", "name", "order"),
    [
        ((STATE, ACTION), "state|action", ("state", "action")),
        ({"state": STATE, "action": ACTION}, "state|action", ("state", "action")),
        ({"action": ACTION, "state": STATE}, "action|state", ("action", "state")),
    ],
)
def test_inputs_stand_in_the_order_of_the_example(example: Any, name: str, order: tuple[str, str]) -> None:
    module = Critic().eval()
    graph = from_torch(module, example)
    assert (graph.in_shape, graph.input.name) == ((8,), name)
    given = {"state": torch.randn(5, 3, 2), "action": torch.randn(5, 2)}
    x = torch.cat([given[key].flatten(1) for key in order], 1).double()
    torch.testing.assert_close(graph(x), module.double()(**{key: one.double() for key, one in given.items()}).detach())


def test_functions_single_points_and_cuts_take_several_inputs() -> None:
    assert from_torch(lambda a, b: a @ b, (torch.ones(1, 2, 3), torch.ones(1, 3, 2))).out_shape == (2, 2)
    graph = from_torch(Critic().eval(), (STATE[0], ACTION[0]), batched=False, until="action")
    assert (graph.in_shape, graph.out_shape) == ((8,), (4,))


def test_a_region_for_each_input_holds_all_its_points() -> None:
    module = Critic().double().eval()
    graph = from_torch(module, (STATE.double(), ACTION.double()))
    region = Box.side_by_side(Box(STATE[0] - 0.1, STATE[0] + 0.2), Ball(ACTION[0], "1/10", clip=(-1.0, 1.0)))
    state = STATE[0].double() - 0.1 + 0.3 * torch.rand(99, 3, 2, dtype=torch.float64)
    action = (ACTION[0].double() + 0.2 * torch.rand(99, 2, dtype=torch.float64) - 0.1).clamp(-1, 1)
    inside = (torch.cat([state.flatten(1), action], 1) >= region.lower).all(1)
    values, bounds = module(state, action).detach(), bound_output(graph, region)
    assert bool(inside.any()) and bool(((values >= bounds.lower) & (values <= bounds.upper)).all())
    linear = from_torch(lambda a, b: a.sum(-1, keepdim=True) - 2 * b, (torch.ones(1, 2), torch.ones(1, 1)))
    joined = bound_jacobian(linear, Box.side_by_side(Ball(torch.zeros(2), 1.0), Ball(torch.ones(1), 0.0)))
    torch.testing.assert_close(joined.upper, torch.tensor([[1.0, 1.0, -2.0]], dtype=torch.float64))


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"batches of 2, 1 points"):
        from_torch(Critic().eval(), (STATE, ACTION[:1]))
    with pytest.raises(InvalidModelError, match=r"takes 3 arguments \(a, b, c\); give one tensor for each"):
        from_torch(lambda a, b, c: a + b + c, (torch.ones(1, 2), torch.ones(1, 2)))
    with pytest.raises(InvalidRegionError, match="joined as boxes"):
        Box.side_by_side(Ball(torch.zeros(2), 1.0, p=2), Ball(torch.zeros(2), 1.0))


def test_files_with_several_inputs() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx_models import model, node, weight

    for first, second, shape in (("N", "N", (6,)), (1, 1, (6,)), (5, 1, (14,))):

        def second_input(made: Any, length: Any = second) -> None:
            entry = onnx.helper.make_tensor_value_info("u", 1, (length, 4))
            made.graph.input.append(entry)

        nodes = [node("MatMul", "x w", "a"), node("MatMul", "u v", "b"), node("Mul", "a b")]
        data = model(nodes, (first, 2), {"w": weight(2, 3), "v": weight(4, 3)}, edit=second_input)
        graph = from_onnx(data)  # which compares values
        assert (graph.in_shape, graph.input.name) == (shape, "x|u")
        assert from_onnx(data, until="b").in_shape == (4,)
