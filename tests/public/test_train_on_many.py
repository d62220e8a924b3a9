"""Examples for the module train_on_many. Run one task's with `pytest tests/public -k SlicedAdam`.

`in_two_processes` runs a function on two real ranks, each a process of its own, and returns what they return.
"""

import datetime
import json
import sys
import traceback
import warnings

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close
from train_on_many import HeadParallelAttention, ShardedCheckpoint, SlicedAdam, train_data_parallel

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


class Folder:
    """A store whose files lie in a folder, so that two processes can share it."""

    def __init__(self, path):
        self.path = path

    def __setitem__(self, name, data):
        place = self.path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def __getitem__(self, name):
        return (self.path / name).read_bytes()

    def __iter__(self):
        return iter([place.relative_to(self.path).as_posix() for place in self.path.rglob("*") if place.is_file()])


def test_train_data_parallel_of_three_samples(tmp_path):
    """Two samples on rank 0 and one on rank 1: the gradient is the mean of all three. Rank 1's own weights do not count."""
    x, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 1])

    def work(rank):
        model = nn.Linear(1, 2, bias=False)
        nn.init.constant_(model.weight, float(rank))
        return train_data_parallel(model, [(x, y)], 0.3), model.weight.detach()

    assert_close(in_two_processes(work, tmp_path), [([0.693147], torch.tensor([[-0.2], [0.2]]))] * 2, rtol=1e-4, atol=1e-5)


def test_train_data_parallel_of_one_sample(tmp_path):
    """Rank 1 has nothing to do, and joins in the sum."""
    x, y = torch.tensor([[2.0]]), torch.tensor([1])

    def work(rank):
        model = nn.Linear(1, 2, bias=False)
        nn.init.constant_(model.weight, 0.5)
        return train_data_parallel(model, [(x, y)], 0.5), model.weight.detach()

    assert_close(in_two_processes(work, tmp_path), [([0.693147], torch.tensor([[0.0], [1.0]]))] * 2, rtol=1e-4, atol=1e-5)


def test_SlicedAdam_of_five_entries(tmp_path):
    """Each rank has three entries of the state; the last one is a zero that fills up. The gradients 1 and 2 make 3."""

    def work(rank):
        params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
        optimizer = SlicedAdam(params, lr=0.1)
        for p in params:
            p.grad = torch.full_like(p, 1.0 + rank)
        optimizer.step()
        return optimizer.m, optimizer.v, optimizer.t, [p.detach() for p in params]

    after = [torch.full((2,), 0.9), torch.full((3,), 0.9)]
    first, second = in_two_processes(work, tmp_path)
    assert_close(first, (torch.tensor([0.3, 0.3, 0.3]), torch.tensor([0.009, 0.009, 0.009]), 1, after), rtol=1e-4, atol=1e-5)
    assert_close(second, (torch.tensor([0.3, 0.3, 0.0]), torch.tensor([0.009, 0.009, 0.0]), 1, after), rtol=1e-4, atol=1e-5)


def test_SlicedAdam_equals_torchs(tmp_path):
    """Three steps with different gradients give torch's parameters."""
    grads = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, -4.0], [2.0, 2.0, 2.0]])

    def work(rank):
        p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        optimizer = SlicedAdam([p], lr=0.2)
        for grad in grads:
            p.grad = grad * (0.75 if rank else 0.25)
            optimizer.step()
        return p.detach()

    p = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = torch.optim.Adam([p], lr=0.2)
    for grad in grads:
        p.grad = grad
        optimizer.step()
    assert_close(in_two_processes(work, tmp_path), [p.detach()] * 2, rtol=1e-4, atol=1e-5)


def test_HeadParallelAttention_equals_one_process(tmp_path):
    """Each rank has one of two heads: its rows of queries, keys and values. Output and gradient of x are whole on both."""
    torch.manual_seed(0)
    qkv, out, bias, x = torch.randn(12, 4), torch.randn(4, 4), torch.randn(4), torch.randn(2, 3, 4)

    def work(rank):
        layer, own = HeadParallelAttention(qkv, out, bias, 2), x.clone().requires_grad_()
        y = layer(own)
        y.square().sum().backward()
        return tuple(layer.out.shape), layer.qkv.detach(), y.detach(), own.grad

    whole = x.clone().requires_grad_()
    q, k, v = (part.unflatten(2, (2, 2)).transpose(1, 2) for part in F.linear(whole, qkv).chunk(3, 2))
    expected = F.linear(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2), out, bias)
    expected.square().sum().backward()
    for rank, (shape, own_qkv, y, grad) in enumerate(in_two_processes(work, tmp_path)):
        assert shape == (4, 2)
        first = 2 * rank
        assert_close(own_qkv, torch.stack([qkv[first + start : first + start + 2] for start in (0, 4, 8)]))
        assert_close(y, expected.detach(), rtol=1e-4, atol=1e-4)
        assert_close(grad, whole.grad, rtol=1e-3, atol=1e-3)


def test_ShardedCheckpoint_saves_on_two_ranks(tmp_path):
    """Rank 0 has one row, rank 1 has two; rank 0 saves the replicated tensor, too."""
    store = Folder(tmp_path / "bucket")
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])

    def work(rank):
        state = {"weight": weight[1:] if rank else weight[:1], "scale": torch.tensor(7)}
        ShardedCheckpoint(store).save(20, state, {"weight": 0})

    in_two_processes(work, tmp_path)
    assert sorted(store) == ["20/index", "20/shard-0", "20/shard-1"]
    assert json.loads(store["20/index"]) == {"ranks": 2, "sharded": {"weight": {"dim": 0, "sizes": [1, 2]}}}
    assert_close(safetensors.torch.load(store["20/shard-0"]), {"scale": torch.tensor(7), "weight": weight[:1]})
    assert_close(safetensors.torch.load(store["20/shard-1"]), {"weight": weight[1:]})


def test_ShardedCheckpoint_loads_what_three_ranks_saved(tmp_path):
    """Step 100 is not finished. Of the five columns of step 20, rank 0 gets three and rank 1 two."""
    store = Folder(tmp_path / "bucket")
    x = torch.arange(10.0).reshape(2, 5)
    for rank, columns in enumerate([slice(0, 1), slice(1, 1), slice(1, 5)]):
        store[f"20/shard-{rank}"] = safetensors.torch.save({"x": x[:, columns].contiguous()})
    store["20/index"] = json.dumps({"ranks": 3, "sharded": {"x": {"dim": 1, "sizes": [1, 0, 4]}}}).encode()
    store["100/shard-0"] = b"torn"
    first, second = in_two_processes(lambda rank: ShardedCheckpoint(store).load(), tmp_path)
    assert (first[0], second[0]) == (20, 20)
    assert_close([first[1], second[1]], [{"x": x[:, :3]}, {"x": x[:, 3:]}])
