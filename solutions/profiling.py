"""Profiling: know before you optimise: what a program computes, what it keeps, and where the time goes.

Every task stands alone. No result depends on how fast this machine is: where time is measured, the clock is handed in.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def count_flops(work: Callable[[], object]) -> int:
    """Count the floating-point operations of the products in whatever `work` computes, backward passes included.

    While a TorchDispatchMode (of torch.utils._python_dispatch) is entered, its __torch_dispatch__ is asked for every operator that
    runs. nn.Linear, einsum, conv2d and the like arrive there as the operators below, and so do their backward passes. A
    multiplication and the addition that follows it are two operations. These count, in each overload (out=… too):

        mm(a, b), addmm(c, a, b)
            (M, K) · (K, N): 2 · M · K · N
        bmm(a, b), baddbmm(c, a, b)
            (B, M, K) · (B, K, N): 2 · B · M · K · N
        convolution(x, w, bias, stride, padding,
                    dilation, transposed, …)
            2 · entries of the output · entries of w[0];
            transposed: 2 · entries of x · entries of w[0]
        convolution_backward(grad, x, w, sizes, stride,
            padding, dilation, transposed, …, mask)
            as many as forward, with grad for the output,
            for mask[0] and again for mask[1], where true
        _scaled_dot_product_flash_attention_for_cpu(q, k, v, …)
            two products: 4 · B · H · Tq · Tk · D
        and the same with _backward(grad, q, k, v, …)
            five products: 10 · B · H · Tq · Tk · D

    q is (B, H, Tq, D) there, and k has Tk in the place of Tq. The first two entries of mask, the last argument, say whether the
    gradients of x and w are wanted. All else counts 0: a bias that is added, activations, softmax, views, products of a matrix
    and a vector. (torch's FlopCounterMode counts so too, but misses attention on a CPU, and groups in the backward pass.)

    Args:
        work: is called once. It may compute on any device, "meta" too, where 10¹⁹ operations cost nothing.

    Returns: the number, exact, an int. An error of work's is passed on.
    Not allowed: FlopCounterMode and what stands in torch.utils.flop_counter.
    """
    with _FlopCounter() as counter:
        work()
    return counter.total


class _FlopCounter(TorchDispatchMode):
    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += _flops(func.overloadpacket, args, out)
        return out


def _flops(operator: Any, args: Any, out: Any) -> int:
    if operator in (aten.mm, aten.bmm):
        return 2 * args[0].numel() * args[1].shape[-1]
    if operator in (aten.addmm, aten.baddbmm):
        return 2 * args[1].numel() * args[2].shape[-1]
    if operator is aten.convolution:
        return 2 * (args[0] if args[6] else out).numel() * args[1][0].numel()
    if operator is aten.convolution_backward:
        return sum(args[10][:2]) * 2 * (args[1] if args[7] else args[0]).numel() * args[2][0].numel()
    if operator is aten._scaled_dot_product_flash_attention_for_cpu:
        return 4 * args[0].numel() * args[1].shape[2]
    if operator is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return 10 * args[1].numel() * args[2].shape[2]
    return 0


def activation_bytes(model: nn.Module, *args: Any) -> int:
    """Count the bytes that autograd saves for the backward pass when a model is called: its activations.

    Within torch.autograd.graph.saved_tensors_hooks(pack, unpack), `pack` gets every tensor that autograd saves, and returns what
    is to be kept in its place: here, the tensor itself. What a tensor takes is its memory, tensor.untyped_storage(), with all its
    nbytes(), however few of them the tensor looks at. A memory that is saved several times, also through views, counts once.

    What is there anyway does not count: the memory of the model's parameters and buffers. The memory of an input counts, where
    it is saved. So does all that is saved while the model runs, also what never reaches its output. Work that runs under
    torch.utils.checkpoint with use_reentrant=False saves its inputs only, which needs nothing from you.

    The model may be on the device "meta", which tells what a model will take before there is memory for it. All addresses
    (data_ptr) are 0 there; a memory's number, untyped_storage()._cdata, is its own everywhere. And a memory that is freed gives
    its address, or number, to the next: keep those that you have seen until you are done.

    Args:
        model: called once as model(*args), in the mode that it is in, with gradients recorded or not as the caller has it (under
            torch.no_grad() nothing is saved). The result is thrown away.
        args: the model's arguments, of which some are tensors.

    Returns: the bytes, an int.
    """
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(*args)
    return sum(storage.nbytes() for storage in kept.values())


def training_memory(
    trained: int,
    frozen: int = 0,
    *,
    activations: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    world: int = 1,
    stage: int = 0,
) -> dict[str, int]:
    """Plan the bytes that training with Adam takes on each GPU, shared out by ZeRO (Rajbhandari et al. 2020, sections 3 and 5).

        kind           entries            bytes each    shared from
        "parameters"   trained + frozen   of dtype      stage 3
        "gradients"    trained            of dtype      stage 2
        "master"       trained            4, or 0       stage 1
        "moments"      trained            2 · 4         stage 1

    The master weights are a float32 copy of the trained parameters, which a training in 16 bits needs; where dtype is float32,
    there are none. Adam's two moments are float32. A frozen parameter has neither gradient nor state.

    Where a kind is shared, each GPU holds ⌈entries / world⌉ entries of it (the last one is padded), and otherwise all. Stage 0
    shares nothing. Activations are each GPU's own.

    Args:
        trained, frozen: how many entries the trained and the frozen parameters have in all, 0 or more; 10¹⁸ is fine.
        activations: the bytes of activations on each GPU, 0 or more.
        dtype: of parameters and gradients: torch.float32, torch.float16 or torch.bfloat16.
        world: the number of GPUs, at least 1.
        stage: of ZeRO, 0 to 3.

    Returns: {"parameters", "gradients", "master", "moments", "activations", "total": bytes on one GPU}, exact ints.
    Raises: ValueError if a number or the dtype is not as stated.
    """
    if min(trained, frozen, activations) < 0 or world < 1 or stage not in range(4):
        raise ValueError(f"no such training: {trained=}, {frozen=}, {activations=}, {world=}, {stage=}")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"no training in {dtype}")

    def held(entries: int, first: int) -> int:
        return -(-entries // world) if stage >= first else entries

    memory = {
        "parameters": held(trained + frozen, 3) * dtype.itemsize,
        "gradients": held(trained, 2) * dtype.itemsize,
        "master": 0 if dtype is torch.float32 else held(trained, 1) * 4,
        "moments": held(trained, 1) * 8,
        "activations": activations,
    }
    return memory | {"total": sum(memory.values())}


def self_times(events: Sequence[tuple[str, int, int, int]]) -> dict[str, dict[str, int]]:
    """Sum up what a profiler recorded: for each name, how often it ran, how long, and how long without what it called.

    An event (name, thread, start, end) ran on a thread from start to end. On one thread, an event whose time lies within another's was
    called by it, directly or through others. Two events on one thread are nested, or one ends before or when the other starts. Events on
    different threads have nothing to do with each other, whatever their times.

        "calls"   how many events have this name
        "total"   the sum of end − start over these events; but one that runs, at any depth, within an
                  event of the same name adds nothing: its time is in there already
        "self"    the sum over these events of end − start, less the times of those that it called directly

    So the "self" of all names add up to the time in which the threads were busy. Of two events with the same times on one thread, the one
    that comes first in the list called the other.

    Args:
        events: in any order. Times are ints, such as nanoseconds, start ≤ end. Thousands of events may be nested in each other, so
            mind the limit of recursion.

    Returns: {name: {"calls", "total", "self": ints}}; {} if there are no events.
    Raises: ValueError if an event ends before it starts, or two events on one thread overlap and neither lies within the other.
    """
    rows: dict[str, dict[str, int]] = {}
    running: dict[int, list[tuple[str, int]]] = {}  # the open events of each thread, the innermost last
    names: dict[int, Counter[str]] = {}
    for name, thread, start, end in sorted(events, key=lambda event: (event[2], -event[3])):
        stack, open_names = running.setdefault(thread, []), names.setdefault(thread, Counter())
        while stack and stack[-1][1] <= start:
            open_names[stack.pop()[0]] -= 1
        if end < start or (stack and end > stack[-1][1]):
            raise ValueError(f"{name} from {start} to {end} is not nested")
        row = rows.setdefault(name, {"calls": 0, "total": 0, "self": 0})
        row["calls"] += 1
        row["self"] += end - start
        if not open_names[name]:
            row["total"] += end - start
        if stack:
            rows[stack[-1][0]]["self"] -= end - start
        stack.append((name, end))
        open_names[name] += 1
    return rows


def profile_step(
    stages: Mapping[str, Callable[[int], object]],
    operators: Collection[str],
    *,
    wait: int = 1,
    warmup: int = 1,
    active: int = 3,
) -> list[tuple[str, str, tuple[tuple[int, ...], ...], int]]:
    """Say which operators the stages of a training step call, with which shapes, and how often.

    Run wait + warmup + active steps under torch.profiler.profile, on the CPU, with a torch.profiler.schedule of these three numbers and
    record_shapes=True. A step runs all stages in order, stage(step), with step counted from 0, each within
    torch.profiler.record_function(its label), and ends with the profiler's step(). Only the last `active` steps are recorded.

    Then look through the profiler's events(). One whose name is among the operators counts for a stage if it ran within that label, at
    any depth: follow event.cpu_parent. What runs outside of the stages does not count.

    Args:
        stages: what a step is made of, by label: {"forward": …, "backward": …}. No stage has another's label within.
        operators: names such as "aten::mm", as the profiler spells them.
        wait: steps that are not recorded, 0 or more.
        warmup: steps that the profiler throws away, at least 1.
        active: steps that are recorded, at least 1.

    Returns: a sorted list of rows (label, operator, shapes, calls), one for each different (label, operator, shapes) that ran. shapes
        is event.input_shapes as a tuple of tuples, such as ((5, 3), (3, 2)), and calls is how often it ran in all recorded steps. No
        times: these are never the same twice.
    """
    plan = schedule(wait=wait, warmup=warmup, active=active, repeat=1)
    with profile(activities=[ProfilerActivity.CPU], schedule=plan, record_shapes=True) as profiler:
        for step in range(wait + warmup + active):
            for label, stage in stages.items():
                with record_function(label):
                    stage(step)
            profiler.step()
    rows: Counter[tuple[str, str, tuple[tuple[int, ...], ...]]] = Counter()
    for event in profiler.events():
        if event.name in operators:
            above = event.cpu_parent
            while above is not None and above.name not in stages:
                above = above.cpu_parent
            if above is not None:
                rows[above.name, event.name, tuple(map(tuple, event.input_shapes))] += 1
    return sorted((*row, calls) for row, calls in rows.items())


def benchmark(
    work: Callable[[], object],
    *,
    clock: Callable[[], float],
    synchronize: Callable[[], object],
    warmup: int = 3,
    repeats: int = 5,
    min_time: float = 0.0,
    max_repeats: int = 1000,
) -> dict[str, float]:
    """Measure how long work takes, on a device that may still be busy when a call returns.

    A GPU takes orders and lets the program go on: work() returns before the work is done, and synchronize() waits until it is. So one
    measurement is:

    1. synchronize, so that nothing from before is still running;
    2. read the clock;
    3. call work;
    4. synchronize;
    5. read the clock: its time is the difference to 2.

    First call work `warmup` times without measuring: first calls load, compile and fill caches. Then measure, one call a
    measurement, until there are at least `repeats` measurements and their times add up to at least min_time, or there are max_repeats.

    Args:
        clock: seconds, such as time.perf_counter.
        synchronize: such as torch.cuda.synchronize.
        warmup: 0 or more.
        repeats: at least 1.
        min_time: seconds, 0 or more.
        max_repeats: at least repeats.

    Returns: {"median": the median of the times; "iqr": the distance from their first to their third quartile; "runs": the number of
        measurements, an int}. Quantile q of n sorted times is at place q · (n − 1), counted from 0, and between two times on the
        straight line from one to the other, as in torch.quantile, computed in float64. (A mean would follow every outlier.)
    """
    for _ in range(warmup):
        work()
    times: list[float] = []
    while len(times) < max_repeats and (len(times) < repeats or sum(times) < min_time):
        synchronize()
        start = clock()
        work()
        synchronize()
        times.append(clock() - start)
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    low, median, high = torch.tensor(times, dtype=torch.float64).quantile(quartiles).tolist()
    return {"median": median, "iqr": high - low, "runs": len(times)}


def roofline(
    M: int,
    K: int,
    N: int,
    *,
    dtype: torch.dtype,
    peak: float,
    bandwidth: float,
    seconds: float,
    out_dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Say how fast a matrix product could run on a machine, what limits it, and how near to that it came (Williams et al. 2009).

    The product is (M, K) · (K, N). Each matrix crosses the memory bus once: two are read, the result is written.

        "flops"       2 · M · K · N
        "bytes"       of all three matrices
        "intensity"   flops / bytes
        "attainable"  min(peak, intensity · bandwidth)
        "bound"       "compute" if intensity · bandwidth ≥ peak, else "memory"
        "mfu"         flops / seconds / peak

    mfu is the model FLOPs utilisation: how much of the peak was used.

    Args:
        M, K, N: at least 1.
        dtype: of both factors.
        peak: the most operations that the machine makes in a second.
        bandwidth: the most bytes that it moves in a second.
        seconds: how long the product took.
        out_dtype: of the result; None: like the factors.

    Returns: a dict with the six keys above: two ints, exact, then floats, and the bound as a string.
    """
    flops = 2 * M * K * N
    moved = (M * K + K * N) * dtype.itemsize + M * N * (out_dtype or dtype).itemsize
    intensity = flops / moved
    return {
        "flops": flops,
        "bytes": moved,
        "intensity": intensity,
        "attainable": float(min(peak, intensity * bandwidth)),
        "bound": "compute" if intensity * bandwidth >= peak else "memory",
        "mfu": flops / seconds / peak,
    }
