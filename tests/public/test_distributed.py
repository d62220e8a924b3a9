"""Examples for the module distributed. Run one task's with `pytest tests/public -k ring_all_reduce`.

`in_two_processes` runs a function on two real ranks, each a process of its own, and returns what they return. `on_ring` runs a function
that gets a `comm` on ranks that are threads.
"""

import datetime
import queue
import sys
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from distributed import (
    ColumnRowMLP,
    DataParallel,
    DistributedSampler,
    FullyShardedLinear,
    ZeroAdamW,
    bucket_gradients,
    federated_average,
    fsdp_wrap,
    pipeline_schedule,
    ring_all_reduce,
    shard_model,
    sync_batch_norm,
    vocab_parallel_cross_entropy,
)
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

SECONDS = 20
"""How long a rank waits for the other one."""


def in_two_processes(work, folder):
    """Run `work(rank)` on the ranks 0 and 1 of a process group, and return their results. What one of them raises is raised here."""
    if sys.platform == "win32" or not dist.is_available():
        pytest.skip("this test starts its ranks as forks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of every fork
        try:
            ranks = mp.start_processes(one_process, (work, str(folder)), nprocs=2, join=False, start_method="fork")
        except OSError as error:
            pytest.skip(f"this machine starts no processes: {error}")
    try:
        while not ranks.join(timeout=2 * SECONDS):
            pass
    finally:
        for process in ranks.processes:
            process.kill()
    results, errors = zip(*(torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)), strict=True)
    errors = sorted((error for error in errors if error), key=lambda error: "gloo" in str(error[0]))  # the other rank's end is no cause
    for error, file, line, name in errors[:1]:
        if "imed out" in str(error):
            pytest.fail("The ranks wait for each other for ever: both have to join in the same collectives in the same order.")
        raise_at(error, file, line, name)
    return list(results)


def one_process(rank, work, folder):
    """What each process does: join the group, work, and leave the result or the error in a file."""
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=SECONDS)
    result = problem = None
    try:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=wait)
        result = work(rank)
    except BaseException as error:
        frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        kept = (
            error
            if isinstance(error, NotImplementedError | ValueError | AssertionError)
            else RuntimeError(f"{type(error).__name__}: {error}")
        )
        problem = kept, frame.f_code.co_filename, line, frame.f_code.co_qualname
    torch.save((result, problem), f"{folder}/{rank}.pt")


def raise_at(error, file, line, name):
    """Raise an error as if it came from that line of that file, where it did come from in another process."""
    code = compile("\n" * (line - 1) + "raise error", file, "exec")
    exec(code.replace(co_name=name.rpartition(".")[2], co_qualname=name), {"error": error})


class Comm:
    """What a rank has of the others, and what it sent to whom."""

    def __init__(self, rank, size, boxes):
        self.rank, self.size, self.boxes, self.sent = rank, size, boxes, []

    def send(self, tensor, to):
        """Send a copy, without waiting."""
        self.sent.append((to, tensor.tolist()))
        self.boxes[self.rank, to].put(tensor.clone())

    def recv(self, source):
        """Wait for the next tensor from a rank."""
        try:
            return self.boxes[source, self.rank].get(timeout=3)
        except queue.Empty:
            pytest.fail(f"rank {self.rank} waits for a message from rank {source}, which never comes")


def on_ring(size, work):
    """Run `work(comm)` on ranks that are threads. Returns: their results, and what each sent to whom."""
    boxes = {(one, other): queue.Queue() for one in range(size) for other in range(size)}
    comms = [Comm(rank, size, boxes) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, comms)), [comm.sent for comm in comms]


def test_ring_all_reduce_of_three_ranks():
    """Chunks of 2, 1 and 1 entries go round twice: four messages from each rank, all to the next one."""
    xs = torch.tensor([[1.0, 2, 3, 4], [10, 20, 30, 40], [100, 200, 300, 400]])
    results, sent = on_ring(3, lambda comm: ring_all_reduce(comm, xs[comm.rank]))
    assert_close(results, [torch.tensor([111.0, 222, 333, 444])] * 3)
    assert sent[0] == [(1, [1, 2]), (1, [404]), (1, [333]), (1, [111, 222])]


def test_ring_all_reduce_alone():
    """One rank sends nothing."""
    results, sent = on_ring(1, lambda comm: ring_all_reduce(comm, torch.tensor([[5, 6]])))
    assert_close(results, [torch.tensor([[5, 6]])])
    assert sent == [[]]


def test_DistributedSampler_without_shuffling():
    """Seven samples on three ranks: two come twice, or one is left out."""
    samplers = [DistributedSampler(range(7), 3, rank, shuffle=False) for rank in range(3)]
    assert [list(sampler) for sampler in samplers] == [[0, 3, 6], [1, 4, 0], [2, 5, 1]]
    assert len(samplers[0]) == 3
    assert list(DistributedSampler(range(7), 3, 2, shuffle=False, drop_last=True)) == [2, 5]
    with pytest.raises(ValueError):
        DistributedSampler(range(7), 3, 3)


def test_DistributedSampler_equals_torchs():
    """In every epoch, the indices are those of torch's sampler."""
    ours, theirs = DistributedSampler(range(10), 4, 1, seed=3), torch.utils.data.DistributedSampler(range(10), 4, 1, seed=3)
    for epoch in (0, 5):
        ours.set_epoch(epoch)
        theirs.set_epoch(epoch)
        assert list(ours) == list(theirs)


def test_DataParallel_averages_gradients(tmp_path):
    """The ranks' samples are 1 and 3, and both start with rank 0's weight: the gradient is their mean, 2."""

    def work(rank):
        module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(module.weight, 5.0 + rank)
        model = DataParallel(module)
        model(torch.tensor([[1.0 + 2 * rank]])).sum().backward()
        model.finish()
        return module.weight.tolist(), module.weight.grad.tolist()

    assert in_two_processes(work, tmp_path) == [([[5.0]], [[2.0]])] * 2


def test_DataParallel_without_synchronising(tmp_path):
    """Two micro-batches: the first one stays local, and the second one sends the sum of both."""

    def work(rank):
        model = DataParallel(nn.Linear(1, 1, bias=False))
        with model.no_sync():
            model(torch.tensor([[1.0 + rank]])).sum().backward()
        first = model.module.weight.grad.item()
        model(torch.tensor([[10.0]])).sum().backward()
        model.finish()
        return first, model.module.weight.grad.item()

    assert in_two_processes(work, tmp_path) == [(1.0, 11.5), (2.0, 11.5)]


def test_bucket_gradients_from_the_last_to_the_first(tmp_path):
    """In buckets of 16 bytes: the last two gradients fit in one, the one before them is too large, and one has no gradient."""

    def work(rank):
        parameters = [nn.Parameter(torch.zeros(n)) for n in (2, 5, 1, 3, 1)]
        for p in parameters:
            p.grad = torch.full_like(p, 2.0 * rank)
        parameters[2].grad = None
        return bucket_gradients(parameters, 16), [None if p.grad is None else p.grad.tolist() for p in parameters]

    expected = [[4, 3], [1], [0]], [[1.0] * 2, [1.0] * 5, None, [1.0] * 3, [1.0]]
    assert in_two_processes(work, tmp_path) == [expected] * 2


def test_sync_batch_norm_of_uneven_batches(tmp_path):
    """Three samples on one rank and one on the other have the output and gradients of one batch of four."""
    torch.manual_seed(0)
    x, w, weight, bias = torch.randn(4, 2), torch.randn(4, 2), torch.rand(2), torch.rand(2)
    parts = [slice(0, 3), slice(3, 4)]

    def work(rank):
        own = x[parts[rank]].clone().requires_grad_()
        y = sync_batch_norm(own, weight, bias)
        (y * w[parts[rank]]).sum().backward()
        return y.detach(), own.grad

    whole = x.clone().requires_grad_()
    expected = F.batch_norm(whole, None, None, weight, bias, training=True)
    (expected * w).sum().backward()
    results = in_two_processes(work, tmp_path)
    assert_close(torch.cat([y for y, _ in results]), expected.detach(), rtol=1e-4, atol=1e-5)
    assert_close(torch.cat([grad for _, grad in results]), whole.grad, rtol=1e-3, atol=1e-4)


def test_ZeroAdamW_shares_out_the_state(tmp_path):
    """The largest parameter goes to rank 0, the next two to rank 1; the step is AdamW's with the mean gradient."""
    sizes = (2, 6, 3)

    def work(rank):
        params = [nn.Parameter(torch.ones(n)) for n in sizes]
        optimizer = ZeroAdamW(params, lr=0.1)
        for p in params:
            p.grad = torch.arange(1.0, len(p) + 1) + 2 * rank
        optimizer.step()
        return optimizer.owners, sorted(optimizer.state), [p.detach() for p in params]

    params = [nn.Parameter(torch.ones(n)) for n in sizes]
    for p in params:
        p.grad = torch.arange(1.0, len(p) + 1) + 1
    torch.optim.AdamW(params, lr=0.1).step()
    first, second = in_two_processes(work, tmp_path)
    assert (first[:2], second[:2]) == (([1, 0, 1], [1]), ([1, 0, 1], [0, 2]))
    assert_close([first[2], second[2]], [[p.detach() for p in params]] * 2)


def test_FullyShardedLinear_of_three_rows(tmp_path):
    """Rank 0 keeps two rows of three, and rank 1 one. Gradients are the mean of both ranks'."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])

    def work(rank):
        layer = FullyShardedLinear(weight)
        x = torch.tensor([[1.0, 3.0]]) + 2 * rank
        y = layer(x.requires_grad_())
        y.sum().backward()
        return [t.tolist() for t in (layer.weight, y, layer.weight.grad, x.grad)]

    assert in_two_processes(work, tmp_path) == [
        [[[1, 0], [0, 1]], [[1, 3, 8]], [[2, 4], [2, 4]], [[3, 3]]],
        [[[2, 2]], [[3, 5, 16]], [[2, 4]], [[3, 3]]],
    ]


def test_ColumnRowMLP_equals_one_process(tmp_path):
    """Each rank has two of four hidden features; output and gradient of x are whole on both."""
    torch.manual_seed(0)
    w1, b1, w2, b2, x = torch.randn(4, 3), torch.randn(4), torch.randn(3, 4), torch.randn(3), torch.randn(2, 3)

    def work(rank):
        model, own = ColumnRowMLP(w1, b1, w2, b2), x.clone().requires_grad_()
        y = model(own)
        y.square().sum().backward()
        return [tuple(p.shape) for p in (model.w1, model.b1, model.w2, model.b2)], y.detach(), own.grad

    whole = x.clone().requires_grad_()
    expected = F.linear(F.gelu(F.linear(whole, w1, b1)), w2, b2)
    expected.square().sum().backward()
    shapes = [(2, 3), (2,), (3, 2), (3,)]
    assert_close(in_two_processes(work, tmp_path), [(shapes, expected.detach(), whole.grad)] * 2, rtol=1e-4, atol=1e-4)


def test_vocab_parallel_cross_entropy_equals_torchs(tmp_path):
    """Three classes on rank 0 and two on rank 1: the losses are whole, the gradients are each rank's columns."""
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 5), torch.tensor([0, 4, 2, 3])
    parts = [slice(0, 3), slice(3, 5)]

    def work(rank):
        own = logits[:, parts[rank]].clone().requires_grad_()
        loss = vocab_parallel_cross_entropy(own, targets, parts[rank].start)
        loss.sum().backward()
        return loss.detach(), own.grad

    whole = logits.clone().requires_grad_()
    expected = F.cross_entropy(whole, targets, reduction="none")
    expected.sum().backward()
    for rank, (loss, grad) in enumerate(in_two_processes(work, tmp_path)):
        assert_close(loss, expected.detach())
        assert_close(grad, whole.grad[:, parts[rank]])


def test_pipeline_schedule_of_three_stages():
    """GPipe goes forward with everything first; with 1F1B the last stage goes backward as soon as it can."""
    assert pipeline_schedule(3, 2, "gpipe") == [
        ["F0", "F1", "", "", "", "", "B0", "B1"],
        ["", "F0", "F1", "", "", "B0", "B1", ""],
        ["", "", "F0", "F1", "B0", "B1", "", ""],
    ]
    assert pipeline_schedule(2, 3, "1f1b") == [
        ["F0", "F1", "", "B0", "F2", "B1", "", "B2"],
        ["", "F0", "B0", "F1", "B1", "F2", "B2", ""],
    ]
    with pytest.raises(ValueError):
        pipeline_schedule(2, 3, "zigzag")


def test_federated_average_by_samples():
    """Clients with 3 samples and 1 sample pull by 3/4 and 1/4; a third one dropped out. The counter is the larger client's."""
    start = {"weight": torch.tensor([0.0, 4.0]), "count": torch.tensor(10)}
    one = {"weight": torch.tensor([4.0, 4.0]), "count": torch.tensor(13)}
    two = {"weight": torch.tensor([0.0, 0.0]), "count": torch.tensor(99)}
    new = federated_average(start, [one, two, None], [3, 1, 50])
    assert_close(new, {"weight": torch.tensor([3.0, 3.0]), "count": torch.tensor(13)})


def test_federated_average_with_clipping():
    """The update (3, 4) has the norm 5 and is shortened to 1."""
    start, client = {"w": torch.zeros(2)}, {"w": torch.tensor([3.0, 4.0])}
    assert_close(federated_average(start, [client], [7], max_norm=1.0), {"w": torch.tensor([0.6, 0.8])})


class Block(nn.Module):
    """Two linear layers, as shard_model and fsdp_wrap expect them."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x):
        """Add what the layers give."""
        return x + self.down(F.relu(self.up(x)))


class Model(nn.Module):
    """Two blocks and a head."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(2, 6)

    def forward(self, x):
        """Go through all."""
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def test_shard_model_on_two_ranks(tmp_path):
    """Each rank has half of each layer; the output is whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import parallelize_module  # noqa: F401 (loaded once here instead of twice there)

    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 2)

    def work(rank):
        sharded = shard_model(model, init_device_mesh("cpu", (2,)))
        shapes = {name: tuple(p.to_local().shape) for name, p in sharded.named_parameters() if isinstance(p, DTensor)}
        return shapes, sharded(x).detach() + 0

    expected = model(x).detach()
    for shapes, y in in_two_processes(work, tmp_path):
        block = {"up.weight": (2, 2), "up.bias": (2,), "down.weight": (2, 2), "down.bias": (2,)}
        blocks = {f"blocks.{i}.{name}": shape for i in range(2) for name, shape in block.items()}
        assert shapes == {**blocks, "head.weight": (3, 2), "head.bias": (3,)}
        assert_close(y, expected)


def test_fsdp_wrap_on_two_ranks(tmp_path):
    """Each rank has half of each parameter; a step is that of one process with both ranks' samples."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard  # noqa: F401 (loaded once here instead of twice there)

    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 2)
    whole = Model()
    whole.load_state_dict(model.state_dict())

    def work(rank):
        optimizer = fsdp_wrap(model, init_device_mesh("cpu", (2,)), 0.1)
        model(x[rank : rank + 1]).square().mean().backward()
        optimizer.step()
        return tuple(model.head.weight.to_local().shape), [p.full_tensor().detach() for p in model.parameters()]

    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.1)
    whole(x).square().mean().backward()
    optimizer.step()
    for shape, parameters in in_two_processes(work, tmp_path):
        assert shape == (3, 2)
        assert_close(parameters, [p.detach() for p in whole.parameters()], rtol=1e-3, atol=1e-4)
