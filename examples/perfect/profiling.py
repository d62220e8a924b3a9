"""A submission with all tasks of profiling solved, in another style than the reference's."""

from collections import defaultdict

import torch
from torch import profiler
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode


class Recorder(TorchDispatchMode):
    """Notes how many multiplications each product makes."""

    def __init__(self):
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operator, then look at its shapes."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[-2:] if len(args) > 2 else args
            self.products.append(left.numel() * right.size(-1))
        elif name == "convolution":
            places = args[0] if args[6] else result
            self.products.append(places.numel() * args[1][0].numel())
        elif name == "convolution_backward":
            grad, x, weight, transposed, mask = args[0], args[1], args[2], args[7], args[10]
            places = x if transposed else grad
            self.products += [places.numel() * weight[0].numel() for wanted in mask[:2] if wanted]
        elif name.startswith("_scaled_dot_product_flash_attention_for_cpu"):
            back = name.endswith("_backward")
            q, k = args[1:3] if back else args[:2]
            self.products += [q.numel() * k.size(-2)] * (5 if back else 2)
        return result


def count_flops(work):
    """Two operations for each multiplication."""
    recorder = Recorder()
    with recorder:
        work()
    return 2 * sum(recorder.products)


def activation_bytes(model, *args):
    """Hold all that is saved until the end, then look at the memories."""
    saved = []

    def pack(tensor):
        saved.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(*args)
    sizes = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in saved}
    for tensor in [*model.parameters(), *model.buffers()]:
        sizes.pop(tensor.untyped_storage()._cdata, None)
    return sum(sizes.values())


def training_memory(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    """Count entries first, bytes afterwards."""
    if stage not in (0, 1, 2, 3) or world < 1 or dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError("no such training")
    if trained < 0 or frozen < 0 or activations < 0:
        raise ValueError("numbers must be 0 or more")
    states = gradients = trained
    parameters = trained + frozen
    if stage > 0:
        states = (states + world - 1) // world
    if stage > 1:
        gradients = (gradients + world - 1) // world
    if stage > 2:
        parameters = (parameters + world - 1) // world
    width = dtype.itemsize
    plan = dict(
        parameters=width * parameters,
        gradients=width * gradients,
        master=4 * states if width == 2 else 0,
        moments=8 * states,
        activations=activations,
    )
    plan["total"] = sum(plan.values())
    return plan


def self_times(events):
    """Thread by thread, with a stack of names and ends."""
    rows = defaultdict(lambda: dict(calls=0, total=0, self=0))
    threads = defaultdict(list)
    for name, thread, start, end in events:
        if end < start:
            raise ValueError("an event ends before it starts")
        threads[thread].append((start, -end, name))
    for mine in threads.values():
        mine.sort(key=lambda event: event[:2])
        stack = []
        for start, negative, name in mine:
            end = -negative
            while stack and stack[-1][1] <= start:
                stack.pop()
            if stack and stack[-1][1] < end:
                raise ValueError("events overlap")
            rows[name]["calls"] += 1
            rows[name]["self"] += end - start
            if stack:
                rows[stack[-1][0]]["self"] -= end - start
            within = stack[-1][2] if stack else frozenset()
            if name not in within:
                rows[name]["total"] += end - start
            stack.append((name, end, within | {name}))
    return dict(rows)


def profile_step(stages, operators, *, wait=1, warmup=1, active=3):
    """Go down from each label."""
    plan = profiler.schedule(wait=wait, warmup=warmup, active=active, repeat=1)
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], schedule=plan, record_shapes=True) as prof:
        for number in range(wait + warmup + active):
            for label, stage in stages.items():
                with profiler.record_function(label):
                    stage(number)
            prof.step()
    calls = defaultdict(int)

    def walk(label, events):
        for event in events:
            if event.name in operators:
                calls[label, event.name, tuple(tuple(shape) for shape in event.input_shapes)] += 1
            walk(label, event.cpu_children)

    for event in prof.events():
        if event.name in stages:
            walk(event.name, event.cpu_children)
    return sorted((*row, number) for row, number in calls.items())


def benchmark(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    """Sort the times and interpolate by hand."""
    for _ in range(warmup):
        work()
    times, total = [], 0.0
    while True:
        synchronize()
        begin = clock()
        work()
        synchronize()
        end = clock()
        times.append(end - begin)
        total += times[-1]
        if len(times) >= max_repeats or (len(times) >= repeats and total >= min_time):
            break
    times.sort()

    def quantile(q):
        place = q * (len(times) - 1)
        below = int(place)
        above = min(below + 1, len(times) - 1)
        return times[below] + (place - below) * (times[above] - times[below])

    return {"median": quantile(0.5), "iqr": quantile(0.75) - quantile(0.25), "runs": len(times)}


def roofline(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    """Say which of two times is longer."""
    flops = 2 * M * K * N
    moved = dtype.itemsize * K * (M + N) + (dtype if out_dtype is None else out_dtype).itemsize * M * N
    intensity = flops / moved
    sloping = intensity * bandwidth
    limited = sloping < peak
    return {
        "flops": flops,
        "bytes": moved,
        "intensity": intensity,
        "attainable": float(sloping if limited else peak),
        "bound": "memory" if limited else "compute",
        "mfu": flops / (seconds * peak),
    }
