"""Graphs: order, readers, crossings, copies, expansions, tables and fingerprints, on networks small enough to see."""

from __future__ import annotations

import pytest
import torch

from jacobound import Executed, Graph, InvalidModelError, ShapeError, UnsafeArithmeticError, UnsupportedOpError
from jacobound.activations import activation
from jacobound.graph.execution import Execution
from jacobound.graph.nodes import Affine, Elementwise, Input, Vector, no_expansion
from jacobound.graph.vector.comparisons import Maximum, Sort
from jacobound.graph.vector.normalising import Standardised
from jacobound.graph.vector.smooth import LogSumExp, Softmax
from jacobound.operators.kinds import Dense, Identity, Scale, Select
from small_cases import numbers

LIKE = torch.zeros((), dtype=torch.float64)


def dense(weight: object, source: object, bias: object = None, name: str = "dense") -> Affine:
    return Affine(((Dense(numbers(weight)), source),), None if bias is None else numbers(bias), name)  # type: ignore[arg-type]


def relu(source: object, name: str = "relu") -> Elementwise:
    return Elementwise(activation("relu"), source, name)  # type: ignore[arg-type]


def branching() -> tuple[Graph, list[object]]:
    """x -> a -> r -> b -> s, and out = s + r."""
    x = Input((2,), "x")
    a = dense([[1, 2], [3, 4]], x, [1, -1], "a")
    r = relu(a, "r")
    b = dense([[1, -1], [0, 2]], r, None, "b")
    s = relu(b, "s")
    same = Identity((2,), (2,), LIKE)
    out = Affine(((same, s), (same, r)), None, "out")
    return Graph(out), [x, a, r, b, s, out]


def test_nodes_come_after_their_sources() -> None:
    graph, nodes = branching()
    assert list(graph.nodes) == nodes
    x, a, r, b, s, out = nodes
    assert graph.input is x
    assert dict(graph.consumers) == {x: (a,), a: (r,), r: (b, out), b: (s,), s: (out,), out: ()}
    twice = Graph(Affine(((Scale(numbers([1.0, 1.0])), r), (Scale(numbers([2.0, 1.0])), r)), None, "twice"))
    assert twice.consumers[r] == (twice.output,)
    point = numbers([[1.0, -1.0], [0.5, 2.0]])
    first = (point @ numbers([[1, 2], [3, 4]]).T + numbers([1, -1])).relu()
    expected = (first @ numbers([[1, -1], [0, 2]]).T).relu() + first
    assert torch.equal(graph(point), expected)
    assert torch.equal(graph.values(point)[r], first)
    for wrong in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(())):
        with pytest.raises(ShapeError, match="points of shape"):
            graph(wrong)


def test_crossings_lie_on_every_path() -> None:
    graph, (_, _, r, b, s, _) = branching()
    assert graph.crossings == (r,)
    assert Graph(s).crossings == (r,)
    assert Graph(dense([[1, 1]], s)).crossings == (r, s)
    assert Graph(r).crossings == ()
    assert Graph(b).crossings == (r,)
    x = Input((2,), "x")
    beside = Affine(((Dense(torch.eye(2).double()), relu(dense([[1, 0], [0, 1]], x))), (Identity((2,), (2,), LIKE), x)))
    assert Graph(beside).crossings == ()


def test_the_kind_of_a_graph_is_that_of_its_weights() -> None:
    graph, (x, *_) = branching()
    assert (graph.dtype, graph.device, graph.in_shape, graph.out_shape) == (
        torch.float64, torch.device("cpu"), (2,), (2,),
    )  # fmt: skip
    assert graph.to(dtype=torch.float32).dtype == torch.float32
    assert graph.to(dtype=torch.float32).to(device="cpu").dtype == torch.float32
    assert graph.single.dtype == torch.float32
    assert graph.single.single is graph.single
    assert Graph(Vector(Sort((2,), torch.zeros((), dtype=torch.float32)), x)).dtype == torch.float32
    assert Graph(relu(x)).dtype == torch.float64
    assert torch.equal(graph.single(numbers([1.0, 2.0])).double(), graph(numbers([1.0, 2.0])))
    fine = dense([[0.1, 1.0]], x)
    with pytest.raises(UnsafeArithmeticError, match="dense weight"):
        Graph(fine).to(dtype=torch.float32)
    with pytest.raises(UnsafeArithmeticError, match="bias"):
        Graph(dense([[1.0, 1.0]], x, [0.1])).to(dtype=torch.float32)


def test_graphs_that_make_no_sense() -> None:
    x, y = Input((2,), "x"), Input((2,), "y")
    same = Identity((2,), (2,), LIKE)
    with pytest.raises(InvalidModelError, match="has 2"):
        Graph(Affine(((same, x), (same, y))))
    for value in (float("nan"), float("inf")):
        for bad in (dense([[1.0, value]], x), dense([[1.0, 1.0]], x, [value])):
            with pytest.raises(InvalidModelError, match=r"has a NaN entry|has an infinite entry"):
                Graph(bad)
            assert Graph(bad, frozenset([bad])).output is bad
    single = Affine(((Dense(torch.ones(1, 2)), dense([[1, 2], [3, 4]], x)),))
    with pytest.raises(InvalidModelError, match="one device and dtype"):
        Graph(single)
    with pytest.raises(InvalidModelError, match="float64 first"):
        Graph(Affine(((Dense(torch.ones(1, 2, dtype=torch.float16)), x),)))
    with pytest.raises(ShapeError, match="takes"):
        Affine(((Dense(torch.ones(1, 3)), x),))
    with pytest.raises(ShapeError, match="terms of shapes"):
        Affine(((Dense(torch.ones(1, 2)), x), (Dense(torch.ones(2, 2)), x)))
    with pytest.raises(ShapeError, match="bias of shape"):
        Affine(((Dense(torch.ones(1, 2)), x),), torch.ones(2))
    with pytest.raises(ShapeError, match="takes"):
        Vector(Sort((3,)), x)


def test_rows_combine_outputs() -> None:
    graph, _ = branching()
    point = numbers([1.0, -1.0])
    assert graph.with_rows(None).output is graph.output
    row = graph.with_rows(numbers([[2.0, -1.0]]))
    assert torch.equal(row(point), graph(point) @ numbers([[2.0], [-1.0]]))
    x = Input((2, 2), "x")
    matrix = Graph(Affine(((Scale(numbers([[1.0, 2.0], [3.0, 4.0]])), x),)))
    assert torch.equal(matrix.with_rows(None)(torch.ones(2, 2)), numbers([1.0, 2.0, 3.0, 4.0]))
    assert torch.equal(matrix.with_rows(torch.ones(1, 4))(torch.ones(2, 2)), numbers([10.0]))
    for rows in (torch.ones(4), torch.ones(1, 3), torch.ones(1, 2, 2)):
        with pytest.raises(ShapeError, match="rows must have shape"):
            matrix.with_rows(rows)
    executed = Graph(graph.output, execution=Execution(Executed(), frozenset(graph.nodes)))
    assert executed.with_rows(numbers([[2.0, -1.0]])).execution is executed.execution
    assert graph.with_affine_output() is graph
    last = Graph(relu(graph.output)).with_affine_output()
    assert isinstance(last.output, Affine)
    assert torch.equal(last(point), graph(point).relu())


def test_expansions_replace_what_they_must_and_nothing_else() -> None:
    graph, (x, a, r, *_) = branching()
    assert graph.lowered() is graph
    assert graph.expanded() is graph
    assert graph.expands
    pooled = Vector(Maximum(torch.tensor([[0], [1]]), (2,)), r, "pool")
    summed = Vector(LogSumExp((2,)), a, "sum")
    both = Affine(((Dense(numbers([[1.0]])), pooled), (Dense(numbers([[2.0]])), summed)), numbers([1.0]), "both")
    whole = Graph(relu(both, "end"), execution=Execution(Executed(), frozenset([x, a, r, pooled, both])))
    point = numbers([[0.3, -0.2], [1.0, 2.0]])
    lowered, expanded, computed = whole.lowered(), whole.expanded(), whole.computed()
    for other in (lowered, expanded, computed):
        assert torch.allclose(other(point), whole(point), rtol=1e-13)
    kinds = [
        {type(node.function) for node in g.nodes if isinstance(node, Vector)} for g in (lowered, expanded, computed)
    ]
    assert kinds == [{LogSumExp}, {LogSumExp}, {Maximum}]
    assert x in lowered.nodes and a in lowered.nodes and r in lowered.nodes
    assert lowered.execution is not None
    names = {node.name for node in lowered.execution.nodes}  # type: ignore[attr-defined]
    assert names == {"x", "a", "r", "both"}
    assert all(node in lowered.nodes for node in lowered.execution.nodes)
    moved = whole.to(dtype=torch.float32)
    assert moved.execution is not None
    assert {node.name for node in moved.execution.nodes} == {"x", "a", "r", "pool", "both"}  # type: ignore[attr-defined]
    assert all(node in moved.nodes for node in moved.execution.nodes)
    assert isinstance(moved.output, Elementwise)
    soft = Graph(Vector(Softmax((2,)), relu(pooled_pair(x)), "soft"))
    assert soft.expands
    assert not soft.is_plain
    assert torch.allclose(soft.expanded()(point), soft(point), rtol=1e-13)
    assert any(isinstance(node, Vector) for node in soft.lowered().nodes)
    with pytest.raises(UnsupportedOpError, match="'soft'"):
        soft.plain()


def pooled_pair(source: Input) -> Vector:
    return Vector(Sort((2,)), source, "sort")


def test_nodes_without_axes_get_one() -> None:
    """As bound methods want it; with their bias, and what reads them."""
    x = Input((2,), "x")
    alone = Affine(((Select(torch.tensor(1), (2,), LIKE), x),), numbers(3.0), "alone")
    spread = Affine(
        ((Select(torch.zeros(2, dtype=torch.int64), (), LIKE), relu(alone)),), numbers([0.0, 1.0]), "spread"
    )
    graph = Graph(spread)
    lowered = graph.lowered()
    assert all(node.shape for node in lowered.nodes)
    for value in (-4.0, 2.0):
        point = numbers([7.0, value])
        assert torch.equal(lowered(point), graph(point))
        assert torch.equal(graph(point), numbers([max(0.0, value + 3), max(0.0, value + 3) + 1]))
    assert Graph(alone).lowered().out_shape == (1,)
    largest = Graph(Vector(Maximum(torch.tensor([0, 1]), (2,)), x, "largest"))
    assert largest.out_shape == ()
    assert largest.lowered().out_shape == (1,)
    assert torch.equal(largest.lowered()(numbers([3.0, 4.0])), numbers([4.0]))
    plain = dense([[1.0, 1.0]], x)
    assert Graph(plain).lowered().output is plain


def test_assumptions_are_those_of_its_functions() -> None:
    x = Input((1, 3), "x")
    claimed = Vector(Standardised((1, 3), floor=2.0), x, "norm")
    assert Graph(Vector(Softmax((1, 3)), claimed, "soft")).assumptions == (
        "node 'norm': the variance of every row is assumed to be at least 2",
    )
    assert Graph(Vector(Softmax((1, 3)), x)).assumptions == ()


def test_the_table_has_one_row_for_each_node() -> None:
    _, (_, _, r, *_) = branching()
    rows = list(Graph(Vector(Sort((2,)), r, "sorted")).table())  # type: ignore[arg-type]
    assert [(row["name"], row["kind"], row["detail"], row["parameters"]) for row in rows] == [
        ("x", "Input", "", 0),
        ("a", "Affine", "Dense", 6),
        ("r", "Elementwise", "relu", 0),
        ("sorted", "Vector", "sort of 2", 0),
    ]
    assert [row["sources"] for row in rows] == [(), ("x",), ("a",), ("r",)]
    assert [row["shape"] for row in rows] == [(2,)] * 4
    swish = Elementwise(activation("leaky_relu:0.25"), r, "leaky")  # type: ignore[arg-type]
    assert [row["parameters"] for row in Graph(swish).table()][-1] == len(swish.activation.parameters)


def test_fingerprints_tell_networks_apart() -> None:
    """Weights, radii, structure, order of sources, activations, functions; names do not count."""
    x = Input((2,), "x")
    one, two = relu(dense([[1, 2], [3, 4]], x)), relu(dense([[5, 6], [7, 8]], x))
    weight = numbers([1.0, 2.0])
    same = Identity((2,), (2,), LIKE)
    scale = numbers([[1.0, 2.0], [3.0, 4.0]])
    graphs = [
        Graph(Affine(((same, x),))),
        Graph(dense([[1, 2], [3, 4]], x)),
        Graph(dense([[1, 2], [3, 5]], x)),
        Graph(dense([[1, 2], [3, 4]], x, [0, 0])),
        Graph(one),
        Graph(Elementwise(activation("tanh"), one.source)),
        Graph(Affine(((Scale(weight, weight), x),))),
        Graph(Affine(((Scale(weight), x),), weight)),
        Graph(Affine(((Scale(weight), x), (Scale(weight), x)))),
        Graph(Affine(((Dense(scale), one), (Dense(2 * scale), two)))),
        Graph(Affine(((Dense(scale), two), (Dense(2 * scale), one)))),
        Graph(Affine(((Dense(scale), one.source), (Dense(2 * scale), one)))),
        Graph(Affine(((Dense(scale), one), (Dense(2 * scale), one.source)))),
        Graph(Affine(((Select(torch.tensor([0, 1]), (2,), LIKE), x),))),
        Graph(Affine(((Select(torch.tensor([1, 0]), (2,), LIKE), x),))),
        Graph(Vector(Sort((2,)), x)),
        Graph(Vector(Maximum(torch.tensor([[0, 1], [1, 0]]), (2,)), x)),
        Graph(Vector(Maximum(torch.tensor([[0, 1], [1, 1]]), (2,)), x)),
    ]
    assert len({graph.fingerprint for graph in graphs}) == len(graphs)
    assert Graph(dense([[1, 2], [3, 4]], Input((2,), "y"), None, "other")).fingerprint == graphs[1].fingerprint


def test_refused_expansions_say_where_to_cut() -> None:
    x = Input((2,), "x")
    inner = dense([[1, 2], [3, 4]], x, None, "soft.scaled")
    outer = dense([[1, 2], [3, 4]], inner, None, "head.operands")
    before = dense([[1, 2], [3, 4]], x, None, "layer")

    def cut(source: object, name: str, names: tuple[str, ...] = ()) -> str:
        message = str(no_expansion(Softmax((2,)), source, name, names))  # type: ignore[arg-type]
        return message.rpartition("until=")[2]

    assert cut(before, "soft") == "'layer')"
    assert cut(inner, "soft") == "'x')"
    assert cut(inner, "soft.rowwise") == "'x')"
    assert cut(inner, "head") == "'soft.scaled')"
    assert cut(outer, "soft") == "'x')"
    assert cut(x, "x") == "'x')"
    assert cut(before, "soft", ("layer#1", "layer#2")) == "'layer#1')"
    assert cut(before, "soft", ("layer#1",)) == "'layer')"
