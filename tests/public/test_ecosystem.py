"""Examples for the module ecosystem. Run one task's with `pytest tests/public -k twice_op`."""

import math

import pytest
import torch
from ecosystem import CountingBackend, break_free, launch_spec, twice_op


def test_twice_op_of_two_numbers():
    """x, and behind it x / 2: by the operator, and by its name."""
    op = twice_op("public::twice")
    x = torch.tensor([1.0, 2.0])
    assert op(x, 0.5).tolist() == [1.0, 2.0, 0.5, 1.0]
    assert torch.ops.public.twice(x, -3.0).tolist() == [1.0, 2.0, -3.0, -6.0]


def test_twice_op_has_a_gradient():
    """Each entry of x counts once, and once more half."""
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    twice_op("public::twice_with_gradient")(x, 0.5).sum().backward()
    assert x.grad.tolist() == [1.5, 1.5]


def test_twice_op_without_numbers():
    """On meta there are shapes only; the compiler needs no more."""
    op = twice_op("public::twice_on_meta")
    assert op(torch.empty(3, 5, device="meta"), 0.5).shape == (6, 5)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: op(x, 2.0) + 1, fullgraph=True, backend="eager")
    assert compiled(torch.tensor([1.0])).tolist() == [2.0, 3.0]


def whole(x, limit):
    """The task's function, compiled as one graph."""
    torch._dynamo.reset()
    return torch.compile(break_free, fullgraph=True, backend="eager")(x, limit)


def test_break_free_of_four_rows():
    """The second row is bad. What is left has the norm √(3² + 4²) = 5, and is halved."""
    rows, factor, bad = whole(torch.tensor([[3.0, 0.0], [math.nan, 1.0], [0.0, 4.0], [0.0, 0.0]]), 2.5)
    assert rows.tolist() == [[1.5, 0.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    assert (factor.item(), bad.item(), bad.dtype) == (0.5, 1, torch.int64)


def test_break_free_has_gradients():
    """A batch below the limit passes as it is, and a bad row has gradient 0."""
    x = torch.tensor([[0.5, 0.0], [math.inf, 0.0]], requires_grad=True)
    rows, _, _ = whole(x, 2.5)
    rows.sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_CountingBackend_of_one_function():
    """Three runs, two shapes: two graphs with the same operations, of which the second is a recompile."""
    torch._dynamo.reset()
    backend = CountingBackend()
    f = torch.compile(lambda x: torch.relu(x.neg()), backend=backend, dynamic=False)
    assert f(torch.tensor([-1.0, 2.0])).tolist() == [1.0, 0.0]
    f(torch.zeros(2))
    f(torch.zeros(3))
    assert backend.graphs == [
        {"operations": ["neg", "relu"], "shapes": [(2,)], "calls": 2},
        {"operations": ["neg", "relu"], "shapes": [(3,)], "calls": 1},
    ]
    assert backend.recompiles == 1
    assert backend.ran() == {"neg": 3, "relu": 3}


def test_CountingBackend_around_another():
    """The backend inside gets the graph, and what it returns is run."""
    torch._dynamo.reset()
    backend = CountingBackend(lambda graph, inputs: lambda *args: [10 * value for value in graph(*args)])
    assert torch.compile(lambda x: x + 1, backend=backend)(torch.tensor([1.0])).tolist() == [20.0]
    assert [record["operations"] for record in backend.graphs] == [["add"]]


def test_launch_spec_of_the_second_node():
    """Node 0 starts two processes and node 1 three: the last one of these is number 4 of 5."""
    spec = launch_spec([2, 3], 1, master="10.0.0.7", env={"SEED": "1"})
    assert len(spec) == 3
    assert spec[2] == {
        "RANK": "4",
        "LOCAL_RANK": "2",
        "WORLD_SIZE": "5",
        "LOCAL_WORLD_SIZE": "3",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.7",
        "MASTER_PORT": "29500",
        "OMP_NUM_THREADS": "1",
        "SEED": "1",
    }


def test_launch_spec_refuses():
    """There is no node 2, and True is no number."""
    for processes, node in (([2, 3], 2), ([True], 0), ([], 0)):
        with pytest.raises(ValueError):
            launch_spec(processes, node)
