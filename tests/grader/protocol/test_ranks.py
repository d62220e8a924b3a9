"""Ranks in one process: what they compute, how they end, what they leave behind, and that they work in a confined worker."""

import os
import sys
import threading
import warnings

import pytest
import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import nn

from grader.base.time_limit import OutOfTime, time_limit
from grader.course.manifest import Course
from grader.grading.engine import Engine
from grader.protocol import ranks_group
from grader.protocol.ranks import Comm, Deadlock, Mismatch, on_group, on_ranks
from grader.protocol.state import reset_state
from grader.submissions.sources import Source
from tests.grader.conftest import COUNTER, SOLUTION, forget_suites, mini_course


def _left():
    return {
        "threads": threading.active_count(),
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "default device": torch.get_default_device(),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "threads of autograd": torch.autograd.is_multithreading_enabled() if hasattr(torch.autograd, "is_multithreading_enabled") else None,
        "hook for uncaught errors": sys.excepthook,
        "torch.distributed": c10d._world,
        "a default group": dist.is_initialized(),
        "filters of warnings": list(warnings.filters),
    }


@pytest.fixture(autouse=True)
def _nothing_is_left():
    """What every test here has to leave as it was."""
    import torch._dynamo  # sets a variable of the environment; the zygote has imported it
    import torch.distributed.fsdp
    import torch.distributed.tensor  # noqa: F401
    from torch.testing._internal.distributed import multi_threaded_pg  # noqa: F401

    before = _left()
    yield
    assert _left() == before
    dist.init_process_group(
        "fake", rank=0, world_size=1, store=dist.HashStore()
    )  # fails where threads are still kept apart, or a name is taken
    group = dist.group.WORLD
    seen = []
    thread = threading.Thread(target=lambda: seen.append(c10d._resolve_process_group(group.group_name)))
    thread.start()
    thread.join()
    dist.destroy_process_group()
    sys.excepthook = before["hook for uncaught errors"]
    assert seen == [group], "threads are still kept apart"


def _ring(x):
    def work(comm: Comm):
        after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
        chunks = list(x[comm.rank].clone().tensor_split(comm.size))
        for step in range(comm.size - 1):
            comm.send(chunks[(comm.rank - step) % comm.size], after)
            chunks[(comm.rank - step - 1) % comm.size] += comm.recv(before)
        for step in range(comm.size - 1):
            comm.send(chunks[(comm.rank + 1 - step) % comm.size], after)
            chunks[(comm.rank - step) % comm.size] = comm.recv(before)
        return torch.cat(chunks)

    return work


# ---- on_ranks


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_ring_sums_up(size):
    """All ranks have the sum; the transcript shows 2(n - 1) messages to the next rank, each as the next one receives it."""
    x = torch.randint(100, (size, 7))
    results, transcript = on_ranks(size, _ring(x))
    assert all(torch.equal(result, x.sum(0)) for result in results)
    assert len(results) == len(transcript) == size
    for rank, said in enumerate(transcript):
        sent = [tensor for operation, peer, tensor in said if (operation, peer) == ("send", (rank + 1) % size)]
        got = [tensor for operation, peer, tensor in transcript[(rank + 1) % size] if (operation, peer) == ("receive", rank)]
        assert len(said) == 4 * (size - 1)
        assert len(sent) == len(got) == 2 * (size - 1)
        assert all(torch.equal(a, b) for a, b in zip(sent, got, strict=True))


def test_a_ring_is_the_same_every_time():
    """Ranks run in turn, so draws from the shared generator come in the same order."""

    def work(comm):
        x = torch.rand(3)
        comm.send(x, (comm.rank + 1) % comm.size)
        return x + comm.recv((comm.rank - 1) % comm.size) + torch.rand(3)

    torch.manual_seed(3)
    first = on_ranks(4, work)
    torch.manual_seed(3)
    assert str(first) == str(on_ranks(4, work))


def test_messages_are_copies_in_order():
    """What changes after a send does not arrive; messages do not overtake each other; a rank may send to itself."""

    def work(comm):
        x = torch.zeros(2)
        for step in range(3):
            x += 1
            comm.send(x, step % 2)
        x += 100
        if comm.rank == 0:
            return [comm.recv(0), comm.recv(1), comm.recv(1), comm.recv(0)]
        return [comm.recv(1), comm.recv(0)]

    results, transcript = on_ranks(2, work)
    assert [[t[0].item() for t in result] for result in results] == [[1, 1, 3, 3], [2, 2]]
    assert [tensor[0].item() for _, _, tensor in transcript[1]] == [1, 2, 3, 2, 2]


def test_a_changed_message_leaves_the_transcript_alone():
    """Neither the sender nor the receiver can reach what was written down."""

    def work(comm):
        x = torch.ones(2)
        comm.send(x, 0)
        x.zero_()
        comm.recv(0).fill_(7)

    _, transcript = on_ranks(1, work)
    assert [tensor.tolist() for _, _, tensor in transcript[0]] == [[1, 1], [1, 1]]


def test_gradients_are_recorded_as_for_the_caller():
    """A new thread would record them."""
    with torch.no_grad():
        assert on_ranks(2, lambda comm: torch.is_grad_enabled())[0] == [False, False]
    x = torch.ones(2, requires_grad=True)
    results, _ = on_ranks(2, lambda comm: [comm.send(x * 2, comm.rank), comm.recv(comm.rank).requires_grad, torch.is_grad_enabled()])
    assert results == [[None, False, True]] * 2


@pytest.mark.parametrize("size", [1, 2, 3])
def test_all_receive_first(size):
    """A cycle is found, and the sentence names everyone in it; every waiting rank gets the same error."""
    seen = []

    def work(comm):
        try:
            comm.recv((comm.rank + 1) % comm.size)
        except Deadlock as error:
            seen.append(str(error))
            raise

    with pytest.raises(Deadlock) as caught:
        on_ranks(size, work)
    parts = "; ".join(f"rank {rank} waits for a message from rank {(rank + 1) % size}" for rank in range(size))
    assert str(caught.value) == f"no rank can go on: {parts}"
    assert seen == [str(caught.value)] * size


def test_a_rank_that_has_ended_sends_nothing():
    """The others learn that it has ended."""
    with pytest.raises(Deadlock, match=r"rank 1 waits for a message from rank 0, which has ended; rank 2 waits .* rank 1$"):
        on_ranks(3, lambda comm: comm.recv(comm.rank - 1) if comm.rank else None)


def test_a_swallowed_deadlock_is_raised_all_the_same():
    """A rank that catches it does not hide it."""

    def work(comm):
        try:
            comm.recv(0)
        except Deadlock:
            return 1

    with pytest.raises(Deadlock):
        on_ranks(2, work)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_ends_the_others(failing):
    """They do not hang, not even where they catch exceptions; the caller gets the error with its rank."""
    caught = []

    def work(comm):
        if comm.rank == failing:
            raise (KeyError if failing == 2 else ValueError)("no")
        try:
            comm.recv(failing)
        except Exception as error:
            caught.append(error)

    with pytest.raises(KeyError if failing == 2 else ValueError) as error:
        on_ranks(3, work)
    assert error.value.__notes__ == [f"raised in rank {failing}"]
    assert str(error.value) == ("'no'" if failing == 2 else f"rank {failing}: no")
    assert caught == []


def test_a_stub_stays_a_stub():
    """NotImplementedError passes through, with the line that raised it."""

    def work(comm):
        raise NotImplementedError

    with pytest.raises(NotImplementedError, match=r"^in rank 0") as error:
        on_ranks(2, work)
    assert error.traceback[-1].name == "work"


def test_wrong_use_is_refused():
    """Ranks that do not exist, what is no tensor, no size, another thread, and a rank that has ended."""
    with pytest.raises(ValueError, match="there is no rank 2: the ranks are 0 to 1"):
        on_ranks(2, lambda comm: comm.send(torch.ones(1), 2))
    with pytest.raises(ValueError, match="there is no rank -1"):
        on_ranks(2, lambda comm: comm.recv(-1))
    with pytest.raises(TypeError, match="not int"):
        on_ranks(2, lambda comm: comm.send(3, 0))
    with pytest.raises(ValueError, match="at least 1"):
        on_ranks(0, lambda comm: None)
    with pytest.raises(RuntimeError, match="only in its own thread"):
        on_ranks(2, lambda comm: comm)[0][0].send(torch.ones(1), 0)


def test_no_more_threads(monkeypatch):
    """Where a thread can't be started, those that were are ended."""
    start, started = threading.Thread.start, []

    def limited(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        on_ranks(3, lambda comm: comm.recv(0))
    monkeypatch.undo()


def test_an_interrupted_call():
    """A limit on time ends the caller at once, and each rank at its next operation."""

    def work(comm):
        while True:
            comm.send(torch.ones(1), 1 - comm.rank)
            comm.recv(1 - comm.rank)

    with pytest.raises(OutOfTime), time_limit(0.2):
        on_ranks(2, work)
    for thread in threading.enumerate():
        if thread.name.startswith("rank "):
            thread.join()


def test_an_error_that_refuses_notes():
    """An error of the student's own class ends the call all the same."""

    class Stubborn(ValueError):
        def add_note(self, note):
            raise RuntimeError(note)

    def work(comm):
        raise Stubborn("no")

    with pytest.raises(Stubborn, match="no"):
        on_ranks(2, work)


def test_calls_can_be_nested():
    """In a rank of either kind, and one after another."""

    def inner(rank):
        x = torch.tensor([rank + 1.0])
        dist.all_reduce(x)
        return x.item()

    def outer(rank):
        before = inner(rank)
        return [before, on_group(3, inner)[0], on_ranks(2, _ring(torch.ones(2, 3)))[0][0].sum().item(), inner(rank)]

    assert on_group(2, outer)[0] == [[3, [6, 6, 6], 6, 3]] * 2
    assert on_ranks(2, lambda comm: on_group(2, inner)[0])[0] == [[3, 3]] * 2
    assert on_group(2, inner)[0] == [3, 3]


# ---- on_group


def _collectives(rank):
    n = dist.get_world_size()
    x = torch.arange(2 * n).double() + 10 * rank
    found = {}
    for op in ("SUM", "AVG", "PRODUCT", "MIN", "MAX"):
        found[op] = x.clone()
        dist.all_reduce(found[op], getattr(dist.ReduceOp, op))
    found["BOR"] = torch.tensor([1 << rank])
    dist.all_reduce(found["BOR"], dist.ReduceOp.BOR)
    found["broadcast"] = x.clone()
    dist.broadcast(found["broadcast"], 1)
    found["reduce"] = x.clone()
    dist.reduce(found["reduce"], 2)
    found["all_gather"] = [torch.zeros(2 * n).double() for _ in range(n)]
    dist.all_gather(found["all_gather"], x)
    found["single"] = torch.zeros(2 * n * n).double()
    dist.all_gather_single(found["single"], x)
    found["gather"] = [torch.zeros(2 * n).double() for _ in range(n)] if rank == 1 else None
    dist.gather(x, found["gather"], 1)
    found["scatter"] = torch.zeros(2).double()
    dist.scatter(found["scatter"], list(x.split(2)) if rank == 2 else None, 2)
    found["reduce_scatter"] = torch.zeros(2).double()
    dist.reduce_scatter(found["reduce_scatter"], list(x.split(2)))
    found["scatter_single"] = torch.zeros(2).double()
    dist.reduce_scatter_single(found["scatter_single"], x)
    found["all_to_all"] = [torch.zeros(2).double() for _ in range(n)]
    dist.all_to_all(found["all_to_all"], list(x.split(2)))
    found["exchange"] = torch.zeros(2 * n).double()
    dist.all_to_all_single(found["exchange"], x)
    found["objects"] = [None] * n
    dist.all_gather_object(found["objects"], {"rank": rank})
    dist.barrier()
    return found


def test_collectives():
    """Each gives what its documentation says."""
    n = 3
    xs = torch.stack([torch.arange(2 * n).double() + 10 * rank for rank in range(n)])
    results, _ = on_group(n, _collectives)
    for rank, found in enumerate(results):
        own = slice(2 * rank, 2 * rank + 2)
        expected = {
            "SUM": xs.sum(0),
            "AVG": xs.mean(0),
            "PRODUCT": xs.prod(0),
            "MIN": xs[0],
            "MAX": xs[2],
            "BOR": torch.tensor([7]),
            "broadcast": xs[1],
            "reduce": xs.sum(0) if rank == 2 else xs[rank],
            "all_gather": list(xs),
            "single": xs.reshape(-1),
            "gather": list(xs) if rank == 1 else None,
            "scatter": xs[2, own],
            "reduce_scatter": xs.sum(0)[own],
            "scatter_single": xs.sum(0)[own],
            "all_to_all": list(xs[:, own]),
            "exchange": xs[:, own].reshape(-1),
            "objects": [{"rank": other} for other in range(n)],
        }
        torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)


def test_a_result_is_written_in_wait():
    """Who reads before waiting reads the old numbers; who divides before waiting has not divided; other operations may come between."""

    def work(rank):
        x, y = torch.full((3,), rank + 1.0), torch.zeros(1)
        waiting = dist.all_reduce(x, async_op=True)
        early = x.clone()
        x /= 2
        if rank == 0:
            dist.send(torch.tensor([5.0]), 1)
        else:
            dist.recv(y, 0)
        waiting.wait()
        return [early, x, y]

    (first, second), _ = on_group(2, work)
    assert [t[0].item() for t in (*first, *second)] == [1, 3, 0, 2, 3, 5]


def test_the_transcript_of_a_group():
    """Kind with reduction and the ranks of a smaller group, root or peer, and copies of what is given."""

    def work(rank):
        x = torch.tensor([rank])
        pair = dist.new_group([0, 2])
        dist.broadcast(x, 1)
        if rank != 1:
            dist.all_reduce(x, dist.ReduceOp.MAX, group=pair)
            dist.broadcast(x, 2, group=pair)
        if rank == 0:
            dist.send(x, 2)
        elif rank == 2:
            dist.recv(x, 0)

    _, transcript = on_group(3, work)
    plain = [[[operation, peer, [t.tolist() for t in tensors]] for operation, peer, tensors in said] for said in transcript]
    reduced = ["all_reduce max among 0, 2", -1, [[1]]]
    assert plain == [
        [["broadcast", 1, []], reduced, ["broadcast among 0, 2", 2, []], ["send", 2, [[1]]]],
        [["broadcast", 1, [[1]]]],
        [["broadcast", 1, []], reduced, ["broadcast among 0, 2", 2, [[1]]], ["receive", 0, [[1]]]],
    ]


def test_isend_and_irecv():
    """With tags, in a batch, from any source, and asked whether they are done."""

    def work(rank):
        a, b, c, d = (torch.zeros(2) for _ in range(4))
        if rank == 0:
            one, two = dist.irecv(a, 1, tag=1), dist.irecv(b, 1, tag=2)
            before = one.is_completed()
            two.wait()
            while not one.is_completed():
                pass
        else:
            before = None
            dist.isend(torch.ones(2) * 20, 0, tag=2).wait()
            dist.isend(torch.ones(2) * 10, 0, tag=1).wait()
        batch = [dist.P2POp(dist.isend, torch.ones(2) * rank, 1 - rank), dist.P2POp(dist.irecv, c, 1 - rank)]
        for request in dist.batch_isend_irecv(batch):
            request.wait()
        dist.send(torch.ones(2) * 7, 1 - rank)
        source = dist.recv(d)
        return [before, a[0].item(), b[0].item(), c[0].item(), d[0].item(), source]

    results, _ = on_group(2, work)
    assert results[0][1:] == [10, 20, 1, 7, 1]
    assert results[1] == [None, 0, 0, 0, 7, 0]


def test_asking_for_ever_is_a_deadlock():
    """A loop that asks for a message that nobody sends ends as waiting for it does."""

    def work(rank):
        request = dist.irecv(torch.zeros(1), 1 - rank)
        while not request.is_completed():
            pass

    with pytest.raises(Deadlock, match="rank 0 waits for a message from rank 1; rank 1 waits for a message from rank 0"):
        on_group(2, work)


MISMATCHES = {
    "another kind": (
        lambda rank: dist.all_reduce(torch.ones(3)) if rank == 0 else dist.broadcast(torch.ones(3), 0),
        "rank 0 joins in all_reduce sum of (3,) float32, but rank 1 in broadcast of (3,) float32 with root 0",
    ),
    "another reduction": (
        lambda rank: dist.all_reduce(torch.ones(3), dist.ReduceOp.MAX if rank else dist.ReduceOp.SUM),
        "rank 0 joins in all_reduce sum of (3,) float32, but rank 1 in all_reduce max of (3,) float32",
    ),
    "another shape": (
        lambda rank: dist.all_reduce(torch.ones(3 - rank)),
        "rank 0 joins in all_reduce sum of (3,) float32, but rank 1 in all_reduce sum of (2,) float32",
    ),
    "another dtype": (
        lambda rank: dist.all_reduce(torch.ones(3, dtype=torch.float64 if rank else torch.float32)),
        "rank 0 joins in all_reduce sum of (3,) float32, but rank 1 in all_reduce sum of (3,) float64",
    ),
    "another root": (
        lambda rank: dist.broadcast(torch.ones(3), rank),
        "rank 0 joins in broadcast of (3,) float32 with root 0, but rank 1 in broadcast of (3,) float32 with root 1",
    ),
    "too little room": (
        lambda rank: dist.all_gather([torch.ones(2), torch.ones(2)], torch.ones(2 + rank)),
        "rank 0 has room for (2,) float32, (2,) float32 in all_gather, but gets (2,) float32, (3,) float32",
    ),
    "a message of another shape": (
        lambda rank: dist.send(torch.ones(3), 1) if rank == 0 else dist.recv(torch.ones(2), 0),
        "rank 0 sends (3,) float32, but rank 1 receives it into (2,) float32",
    ),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_mismatch(what):
    """The caller gets a sentence with both ranks."""
    work, sentence = MISMATCHES[what]
    with pytest.raises(Mismatch) as error:
        on_group(2, work)
    assert str(error.value) == sentence


def test_all_ranks_get_a_mismatch():
    """Those that waited, the one that noticed, and those that come later."""
    seen = []

    def work(rank):
        try:
            dist.all_reduce(torch.ones(3 if rank == 1 else 2))
        except Mismatch:
            seen.append(rank)

    with pytest.raises(Mismatch):
        on_group(3, work)
    assert sorted(seen) == [0, 1, 2]


def test_a_deadlock_in_a_group():
    """A collective that one rank leaves out, and one that meets a message."""
    with pytest.raises(Deadlock) as error:
        on_group(3, lambda rank: dist.barrier() if rank else None)
    said = "in barrier for rank 0, which has ended"
    assert str(error.value) == f"no rank can go on: rank 1 waits {said}; rank 2 waits {said}"
    with pytest.raises(Deadlock, match=r"rank 0 waits in all_reduce sum for rank 1; rank 1 waits for a message from rank 0$"):
        on_group(2, lambda rank: dist.recv(torch.ones(1), 0) if rank else dist.all_reduce(torch.ones(1)))


def test_an_error_in_a_group():
    """It comes with its rank, and the next group works."""

    def work(rank):
        if rank == 1:
            raise ValueError("no")
        dist.barrier()

    with pytest.raises(ValueError, match=r"^rank 1: no"):
        on_group(3, work)
    assert on_group(3, lambda rank: dist.get_rank())[0] == [0, 1, 2]


def test_a_group_may_be_destroyed_by_the_work():
    """As programs do at their end."""
    assert on_group(2, lambda rank: [dist.get_world_size(), dist.destroy_process_group()])[0] == [[2, None]] * 2


def _mlp(state=None):
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)).double()
    if state is not None:
        model.load_state_dict(state)
    return model


def _train(model, batches, optimizer=torch.optim.AdamW):
    chosen = optimizer(model.parameters(), lr=0.1)
    for x, y in batches:
        chosen.zero_grad()
        (model(x) - y).square().mean().backward()
        chosen.step()
    return model


@pytest.fixture
def lesson():
    """The state of a model, three batches, and the parameters after three steps on all of them."""
    torch.manual_seed(5)
    state = {name: value.clone() for name, value in _mlp().state_dict().items()}
    batches = [(torch.randn(6, 4).double(), torch.randn(6, 2).double()) for _ in range(3)]
    trained = _train(_mlp(state), batches)
    return state, batches, [parameter.detach() for parameter in trained.parameters()]


def test_ddp_equals_the_full_batch(lesson):
    """Real DistributedDataParallel, three steps on halves."""
    state, batches, expected = lesson

    def work(rank):
        model = _mlp(state)
        _train(nn.parallel.DistributedDataParallel(model), [(x[rank::2], y[rank::2]) for x, y in batches])
        return [parameter.detach() for parameter in model.parameters()]

    results, transcript = on_group(2, work)
    torch.testing.assert_close(results, [expected, expected], rtol=1e-9, atol=1e-9)
    assert any(operation == "all_reduce sum" for operation, _, _ in transcript[0])


def test_fully_shard_equals_a_single_process(lesson):
    """Real FSDP2, three steps of AdamW; each rank holds a part."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    state, batches, expected = lesson

    def work(rank):
        mesh = init_device_mesh("cpu", (2,))
        model = _mlp(state)
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh)
        _train(model, [(x[rank::2], y[rank::2]) for x, y in batches])
        shapes = [tuple(parameter.to_local().shape) for parameter in model.parameters()]
        return [shapes, [parameter.full_tensor().detach() for parameter in model.parameters()]]

    results, _ = on_group(2, work)
    assert results[0][0] == [(3, 4), (3,), (1, 6), (1,)]
    torch.testing.assert_close([parameters for _, parameters in results], [expected, expected], rtol=1e-9, atol=1e-9)


def test_dtensors_go_round():
    """Shard, replicate and partial on a mesh of two dimensions, there and back."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    x = torch.arange(24.0).reshape(4, 6)

    def work(rank):
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "model"))
        sharded = distribute_tensor(x, mesh, [Shard(0), Shard(1)])
        everywhere = sharded.redistribute(mesh, [Replicate(), Replicate()])
        line = mesh["model"]
        part = DTensor.from_local(torch.ones(3), line, [Partial()]).full_tensor()
        turned = distribute_tensor(x, line, [Shard(0)]).redistribute(line, [Shard(1)]).to_local()
        product = (sharded @ distribute_tensor(x.T.contiguous(), mesh, [Replicate(), Shard(0)])).full_tensor()
        return [sharded.to_local(), everywhere.to_local(), sharded.full_tensor(), part, turned, product]

    results, _ = on_group(4, work)
    for rank, (local, everywhere, full, part, turned, product) in enumerate(results):
        assert torch.equal(local, x[2 * (rank // 2) :, 3 * (rank % 2) :][:2, :3])
        assert torch.equal(everywhere, x)
        assert torch.equal(full, x)
        assert part.tolist() == [2, 2, 2]
        assert torch.equal(turned, x[:, 3 * (rank % 2) :][:, :3])
        assert torch.equal(product, x @ x.T)


def test_a_pipeline_equals_its_layers_in_a_row():
    """Real stages and a real schedule, which send and receive in batches."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    torch.manual_seed(2)
    weights, x, y = [torch.randn(4, 4) for _ in range(2)], torch.randn(8, 4), torch.randn(8, 4)

    def layer(weight):
        made = nn.Linear(4, 4, bias=False)
        made.weight = nn.Parameter(weight.clone())
        return made

    def work(rank):
        stage = layer(weights[rank])
        schedule = Schedule1F1B(
            PipelineStage(stage, rank, 2, torch.device("cpu")), n_microbatches=4, loss_fn=lambda out, due: (out - due).square().mean()
        )
        schedule.step(x) if rank == 0 else schedule.step(target=y)
        return stage.weight.grad

    row = nn.Sequential(*map(layer, weights))
    (row(x) - y).square().mean().backward()
    torch.testing.assert_close(on_group(2, work)[0], [made.weight.grad for made in row])


@pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional:FutureWarning")
def test_parallel_modules_and_functional_collectives():
    """parallelize_module gives the same output; a functional collective's result can be waited for and differentiated."""
    from torch.distributed import _functional_collectives as functional
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(2)
    state, x = _mlp().state_dict(), torch.randn(3, 4).double()

    def work(rank):
        model = parallelize_module(_mlp(state), init_device_mesh("cpu", (2,)), {"0": ColwiseParallel(), "2": RowwiseParallel()})
        own = torch.full((2,), rank + 1.0, requires_grad=True)
        total = torch.distributed.nn.functional.all_reduce(own * own)
        total.sum().backward()
        waited = functional.wait_tensor(functional.all_reduce(torch.ones(2) * rank, "sum", dist.group.WORLD))
        return [functional.wait_tensor(model(x)).detach(), own.grad, waited]

    for rank, (out, gradient, waited) in enumerate(on_group(2, work)[0]):
        torch.testing.assert_close(out, _mlp(state)(x).detach())
        assert gradient.tolist() == [4 * (rank + 1)] * 2  # both ranks sum up both totals
        assert waited.tolist() == [1, 1]


def test_what_ends_a_rank_passes_through_torch():
    """A wait in C++ code of torch, in a backward pass or in an operator, ends as one in Python does."""
    from torch.distributed import _functional_collectives as functional

    def backward(rank, error=None):
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
        loss = model(torch.ones(2, 4)).sum()
        if rank == 1:
            if error:
                raise error
            return
        loss.backward()

    def operator(rank):
        if rank:
            functional.wait_tensor(functional.all_reduce(torch.ones(2), "sum", dist.group.WORLD))

    with pytest.raises(Deadlock, match="rank 0 waits in all_reduce sum for rank 1, which has ended"):
        on_group(2, backward)
    with pytest.raises(ValueError, match="rank 1: no"):
        on_group(2, lambda rank: backward(rank, ValueError("no")))
    with pytest.raises(Deadlock, match="rank 1 waits in all_reduce sum for rank 0, which has ended"):
        on_group(2, operator)


def test_a_hook_of_ddp_gets_a_future():
    """What `get_future` gives has been reduced."""

    def work(rank):
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 3, bias=False))

        def hook(state, bucket):
            return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda future: future.value()[0] * 10)

        model.register_comm_hook(None, hook)
        model(torch.full((1, 4), rank + 1.0)).sum().backward()
        return model.module.weight.grad.unique().tolist()

    assert on_group(2, work)[0] == [[30], [30]]


def test_reset_ends_a_group_that_was_left():
    """The next probe finds no default group of another one's."""
    before = sys.excepthook
    dist.init_process_group("fake", rank=0, world_size=2, store=dist.HashStore())
    reset_state(0)
    assert not dist.is_initialized()
    sys.excepthook = before


# ---- torch's private parts


def test_torch_has_what_this_needs():
    """Gates every change of the pin. What follows is tested above: this test only says it in a sentence."""
    assert ranks_group.parts_missing() is None


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch._C._distributed_c10d, "_set_thread_isolation_mode"),
        ("torch.testing._internal.distributed.multi_threaded_pg", "ThreadLocalWorld"),
        (dist.Work, "get_future"),
    ],
)
def test_a_missing_part_is_named(monkeypatch, owner, name):
    """on_group says what is missing, and in which torch."""
    owner = sys.modules[owner] if isinstance(owner, str) else owner
    monkeypatch.delattr(owner, name)
    with pytest.raises(RuntimeError, match=rf"on_group doesn't fit torch {torch.__version__.split('+')[0]}.*\.{name}, which .* is missing"):
        on_group(2, lambda rank: rank)
    monkeypatch.undo()


# ---- in a worker

RING = '''

def double(x):
    """Sums up, though its name is another."""

    def ring(comm):
        total = message = x
        for _ in range(comm.size - 1):
            comm.send(message, (comm.rank + 1) % comm.size)
            message = comm.recv((comm.rank - 1) % comm.size)
            total = total + message
        return total

    return ring
'''
PROBES = '''\
"""The graded suite."""

import torch
import torch.distributed as dist
from torch import nn

from grader.testing import on_group, on_ranks, raised, task
from grader.protocol.ranks import Deadlock


@task("double")
def test_ring(agree, draw):
    """A ring with its transcript."""
    x = draw.normal(5)
    agree(lambda m: [on_ranks(size, m.double(x)) for size in (1, 3, 5)], rtol=1e-6, atol=1e-6)


@task("double")
def test_group(agree, draw):
    """Real collectives, DistributedDataParallel and fully_shard, and a deadlock."""
    x, w = draw.normal(4, 3), draw.normal(2, 3)

    def probe(m):
        def work(rank):
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            total = x[rank].clone()
            dist.all_reduce(total)
            trained = []
            for wrap in (nn.parallel.DistributedDataParallel, lambda model: fully_shard(model, mesh=init_device_mesh("cpu", (2,)))):
                model = nn.Linear(3, 2, bias=False)
                with torch.no_grad():
                    model.weight.copy_(w)
                wrapped = wrap(model)
                optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.1)
                for _ in range(3):
                    wrapped(x[rank::2]).square().mean().backward()
                    optimizer.step()
                weight = model.weight.detach()
                trained.append(weight.full_tensor() if hasattr(weight, "full_tensor") else weight.clone())
            return [total, trained]

        waits = raised(Deadlock, lambda: on_group(2, lambda rank: dist.barrier() if rank else None))
        return [on_group(2, work)[0], waits, on_ranks(2, m.double(x))[0]]

    agree(probe, rtol=1e-5, atol=1e-5)
'''


@pytest.fixture(scope="module")
def ring_course(tmp_path_factory):
    """The course in miniature, with the ring as its first task."""
    root = mini_course(tmp_path_factory.mktemp("ranks"))
    head, _, tail = SOLUTION.partition("def double")
    counter = "class Counter" + tail.partition("class Counter")[2]
    (root / "solutions/mini.py").write_text(f"{head}{RING.strip()}\n\n\n{counter}")
    (root / "tests/hidden/test_mini.py").write_text(PROBES)
    manifest = (
        (root / "course.toml")
        .read_text()
        .replace("threads = 4", "threads = 16")
        .replace('bans = ["torch.softmax", "torch.nn.Linear"]\n', "")
        .replace("test_cpu_seconds = 1", "test_cpu_seconds = 3")
    )
    (root / "course.toml").write_text(
        manifest.replace("task_seconds = 6", "task_seconds = 60").replace("test_seconds = 4", "test_seconds = 40")
    )
    yield Course.read(root)
    forget_suites()


SUBMISSIONS = {
    "right": (RING, ["passed", "passed"], ""),
    "receives first": (
        RING.replace("comm.send(message, (comm.rank + 1) % comm.size)", "comm.recv(0)"),
        ["error", "error"],
        "Deadlock: no rank",
    ),
    "raises": (
        RING.replace("total = message", "raise ValueError('no')\n        total = message"),
        ["error", "error"],
        "ValueError: rank 0: no",
    ),
    "a stub": (RING.replace("total = message", "raise NotImplementedError\n        total = message"), ["not_implemented"] * 2, ""),
    "wrong": (RING.replace("total + message", "total - message"), ["failed", "failed"], ""),
    "sends twice": (  # the sum is right, the transcript is not
        RING.replace("message = comm.recv", "comm.send(message, comm.rank)\n            message = comm.recv"),
        ["failed", "passed"],
        "",
    ),
    "replaces on_ranks": (
        f"import grader.protocol.ranks as ranks\n\nranks.on_ranks = lambda size, work: ([0] * size, [[]] * size)\n{RING}",
        ["failed", "failed"],
        "",
    ),
    "hides an error": (
        "from grader.protocol.ranks import Room\n\n"
        "Room.check = lambda room, rank: None\nRoom.receive = lambda room, *_: type('M', (), {'tensor': None})()\n"
        "Room.wait = lambda *_: None\n" + RING,
        ["error", "error"],
        "AssertionError",
    ),
}


@pytest.mark.parametrize("what", SUBMISSIONS)
def test_ranks_in_a_confined_worker(ring_course, zygote, what):
    """Probes with ranks grade right and wrong answers, and those that meddle with the ranks, which run in the student's process."""
    text, statuses, message = SUBMISSIONS[what]
    graded = Engine(ring_course, zygote).grade(ring_course.modules[0], Source(text + "\n\n" + COUNTER), 1, explain=False)
    outcomes = [record.outcome for record in graded.records]
    assert [str(outcome.status) for outcome in outcomes] == statuses, [outcome.message for outcome in outcomes]
    assert message in outcomes[0].message
