"""Named wrong answers to the tasks of profiling: the hidden suite must reject every one."""

import math
import statistics
from collections import Counter

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile, record_function, schedule
from torch.utils._python_dispatch import TorchDispatchMode

from grader.testing import misconception
from solutions.profiling import activation_bytes as reference_activations
from solutions.profiling import benchmark as reference_benchmark
from solutions.profiling import count_flops as reference_flops
from solutions.profiling import profile_step as reference_profile
from solutions.profiling import roofline as reference_roofline
from solutions.profiling import self_times as reference_times
from solutions.profiling import training_memory as reference_memory

# count_flops


class _Count(TorchDispatchMode):
    """The reference's counter with one formula replaced."""

    def __init__(self, **formulas):
        super().__init__()
        self.total, self.formulas = 0, formulas

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        formula = self.formulas.get(name, _FORMULAS.get(name))
        if formula:
            self.total += formula(args, out)
        return out


def _backward(args, out, each=None):
    x = args[1] if args[7] else args[0]
    return sum(args[-1][:2]) * 2 * x.numel() * args[2][0].numel()


_FORMULAS = {
    "mm": lambda args, out: 2 * args[0].numel() * args[1].shape[-1],
    "bmm": lambda args, out: 2 * args[0].numel() * args[1].shape[-1],
    "addmm": lambda args, out: 2 * args[1].numel() * args[2].shape[-1],
    "baddbmm": lambda args, out: 2 * args[1].numel() * args[2].shape[-1],
    "convolution": lambda args, out: 2 * (args[0] if args[6] else out).numel() * args[1][0].numel(),
    "convolution_backward": _backward,
    "_scaled_dot_product_flash_attention_for_cpu": lambda args, out: 4 * args[0].numel() * args[1].shape[-2],
    "_scaled_dot_product_flash_attention_for_cpu_backward": lambda args, out: 10 * args[1].numel() * args[2].shape[-2],
}


def _counted(work, **formulas):
    with _Count(**formulas) as counter:
        work()
    return counter.total


@misconception("count_flops", "Takes a multiplication and its addition for one operation: they are two.")
def multiply_add_is_one(work):
    return reference_flops(work) // 2


@misconception("count_flops", "Adds the bias: it is left out.")
def counts_the_bias(work):
    return _counted(
        work,
        addmm=lambda args, out: _FORMULAS["addmm"](args, out) + out.numel(),
        baddbmm=lambda args, out: _FORMULAS["baddbmm"](args, out) + out.numel(),
    )


@misconception("count_flops", "Counts one addition less than multiplications: the convention is 2 · K for each entry.")
def counts_one_addition_less(work):
    return _counted(work, **{name: lambda args, out, name=name: _FORMULAS[name](args, out) - out.numel() for name in ("mm", "addmm")})


@misconception("count_flops", "Takes addmm(c, a, b) for a product of c and a: the first argument is what is added.")
def takes_the_wrong_arguments(work):
    return _counted(work, addmm=lambda args, out: 2 * args[0].numel() * args[1].shape[-1])


@misconception("count_flops", "Forgets that a batch holds many products.")
def forgets_the_batch(work):
    return _counted(work, bmm=lambda args, out: 2 * args[0][0].numel() * args[1].shape[-1])


@misconception("count_flops", "Knows no baddbmm.")
def forgets_baddbmm(work):
    return _counted(work, baddbmm=lambda args, out: 0)


@misconception("count_flops", "Counts every operator's output: only products count.")
def counts_every_output(work):
    class Mode(_Count):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = super().__torch_dispatch__(func, types, args, kwargs)
            known = func.overloadpacket.__name__ in _FORMULAS
            self.total += out.numel() if isinstance(out, torch.Tensor) and not known else 0
            return out

    with Mode() as counter:
        work()
    return counter.total


@misconception("count_flops", "Counts a grouped convolution as if each filter saw all channels.")
def ignores_groups(work):
    return _counted(work, convolution=lambda args, out: _FORMULAS["convolution"](args, out) * args[8])


@misconception("count_flops", "Takes the input's size for the output's: with a stride or without padding they differ.")
def takes_the_input_for_the_output(work):
    return _counted(work, convolution=lambda args, out: 2 * args[0][:, 0].numel() * args[1].numel())


@misconception("count_flops", "Counts a transposed convolution like a plain one, by the entries of its output.")
def transposed_by_its_output(work):
    return _counted(work, convolution=lambda args, out: 2 * out.numel() * args[1][0].numel())


@misconception("count_flops", "Takes backward for twice forward, whichever gradients are wanted.")
def backward_is_always_twice(work):
    return _counted(work, convolution_backward=lambda args, out: 2 * 2 * (args[1] if args[7] else args[0]).numel() * args[2][0].numel())


@misconception("count_flops", "Counts the gradient of the bias like the others.")
def bias_gradient_counts(work):
    return _counted(
        work,
        convolution_backward=lambda args, out: sum(args[-1]) * 2 * (args[1] if args[7] else args[0]).numel() * args[2][0].numel(),
    )


@misconception("count_flops", "Forgets the backward pass of convolutions.")
def no_backward_of_convolutions(work):
    return _counted(work, convolution_backward=lambda args, out: 0)


@misconception("count_flops", "Counts like torch's FlopCounterMode, which misses attention on a CPU.")
def misses_attention(work):
    return _counted(
        work,
        _scaled_dot_product_flash_attention_for_cpu=lambda args, out: 0,
        _scaled_dot_product_flash_attention_for_cpu_backward=lambda args, out: 0,
    )


@misconception("count_flops", "Takes attention's backward pass for twice forward: it computes the scores again.")
def attention_backward_is_twice(work):
    return _counted(work, _scaled_dot_product_flash_attention_for_cpu_backward=lambda args, out: 8 * args[1].numel() * args[2].shape[-2])


@misconception("count_flops", "Takes the number of queries for the number of keys.")
def as_many_keys_as_queries(work):
    return _counted(work, _scaled_dot_product_flash_attention_for_cpu=lambda args, out: 4 * args[0].numel() * args[0].shape[-2])


@misconception("count_flops", "Compares with aten.mm.default: the overload that writes to out= is another.")
def one_overload_only(work):
    class Mode(_Count):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if func in (torch.ops.aten.mm.out, torch.ops.aten.addmm.out, torch.ops.aten.bmm.out):
                self.total -= _FORMULAS[func.overloadpacket.__name__](args, out)
            return out

    with Mode() as counter:
        work()
    return counter.total


@misconception("count_flops", "Watches torch's functions instead of its operators: the backward pass calls none.")
def watches_functions(work):
    class Mode(TorchFunctionMode):
        total = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if getattr(func, "__name__", "") in ("matmul", "mm", "bmm", "__matmul__", "__rmatmul__", "linear"):
                self.total += 2 * args[0].numel() * out.shape[-1]
            return out

    with Mode() as mode:
        work()
    return mode.total


_total = [0]


@misconception("count_flops", "Keeps the number from call to call: each count begins at 0.")
def keeps_the_total(work):
    _total[0] += reference_flops(work)
    return _total[0]


@misconception("count_flops", "Runs the work once to warm up: it runs once.")
def runs_the_work_twice(work):
    work()
    return reference_flops(work)


@misconception("count_flops", "Counts in floating point: large numbers lose their last digits.")
def counts_in_floats(work):
    return int(float(reference_flops(work)))


# activation_bytes


def _saved(model, args, size, own=True):
    """The sizes of what is saved, by the number of the memory."""
    mine = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]} if own else set()
    kept, tensors = {}, []

    def pack(t):
        tensors.append(t)
        if t.untyped_storage()._cdata not in mine:
            kept.setdefault(t.untyped_storage()._cdata, []).append(size(t))
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        model(*args)
    return kept


def _memory(t):
    return t.untyped_storage().nbytes()


@misconception("activation_bytes", "Counts a tensor each time that it is saved: a memory counts once.")
def counts_shared_memory_twice(model, *args):
    return sum(map(sum, _saved(model, args, _memory).values()))


@misconception("activation_bytes", "Counts the parameters that are saved: they are there anyway.")
def counts_parameters(model, *args):
    return sum(sizes[0] for sizes in _saved(model, args, _memory, own=False).values())


@misconception("activation_bytes", "Counts the entries of a view: it keeps the whole memory that it looks at.")
def counts_the_entries(model, *args):
    return sum(max(sizes) for sizes in _saved(model, args, lambda t: t.numel() * t.element_size()).values())


@misconception("activation_bytes", "Takes 4 bytes for each entry, whatever the dtype.")
def four_bytes_each(model, *args):
    return sum(sizes[0] for sizes in _saved(model, args, lambda t: _memory(t) // t.element_size() * 4).values())


@misconception("activation_bytes", "Knows parameters by identity: a layer saves a view of its weight, which is another object.")
def knows_parameters_by_identity(model, *args):
    own = {id(t) for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(t):
        if id(t) not in own:
            kept[t.untyped_storage()._cdata] = t.untyped_storage()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        model(*args)
    return sum(storage.nbytes() for storage in kept.values())


@misconception("activation_bytes", "Tells memories apart by their address, which is 0 for all on meta.")
def tells_apart_by_address(model, *args):
    own = {t.data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        model(*args)
    return sum(storage.nbytes() for storage in kept.values())


@misconception("activation_bytes", "Forgets what it has seen: a memory that is freed gives its number to the next.")
def keeps_numbers_only(model, *args):
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    sizes = {}

    def pack(t):
        if t.untyped_storage()._cdata not in own:
            sizes[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    with saved_tensors_hooks(pack, lambda t: t):
        model(*args)
    return sum(sizes.values())


@misconception("activation_bytes", "Adds up the outputs of the modules: what autograd saves is something else.")
def adds_up_outputs(model, *args):
    total, handles = [0], []
    for module in model.modules():
        if not list(module.children()):
            handles.append(
                module.register_forward_hook(lambda m, a, out: total.__setitem__(0, total[0] + out.numel() * out.element_size()))
            )
    model(*args)
    for handle in handles:
        handle.remove()
    return total[0]


@misconception("activation_bytes", "Leaves the inputs out: where they are saved, they count.")
def leaves_inputs_out(model, *args):
    given = {t.untyped_storage()._cdata for t in args if isinstance(t, torch.Tensor)}
    return sum(sizes[0] for number, sizes in _saved(model, args, _memory).items() if number not in given)


@misconception("activation_bytes", "Switches gradients on, although the caller has them off.")
def switches_gradients_on(model, *args):
    with torch.enable_grad():
        return reference_activations(model, *args)


@misconception("activation_bytes", "Knows parameters but no buffers: batch norm saves its buffers in eval mode.")
def forgets_buffers(model, *args):
    own = {t.untyped_storage()._cdata for t in model.parameters()}
    return sum(sizes[0] for number, sizes in _saved(model, args, _memory, own=False).items() if number not in own)


@misconception("activation_bytes", "Hands on the first argument only.")
def one_argument(model, *args):
    return reference_activations(model, args[0])


@misconception("activation_bytes", "Puts the model into train mode, where batch norm saves other tensors.")
def in_train_mode(model, *args):
    modes = [(m, m.training) for m in model.modules()]
    model.train()
    try:
        return reference_activations(model, *args)
    finally:
        for m, mode in modes:
            m.training = mode


@misconception("activation_bytes", "Goes backward as well: gradients are left in the parameters.")
def goes_backward(model, *args):
    count = reference_activations(model, *args)
    out = model(*args)
    if isinstance(out, torch.Tensor) and out.requires_grad:
        out.sum().backward()
    return count


# training_memory


def _plan(trained, frozen, activations, dtype, world, stage, **changed):
    """The reference's table with some rows replaced."""
    memory = reference_memory(trained, frozen, activations=activations, dtype=dtype, world=world, stage=stage) | changed
    memory["total"] = sum(value for key, value in memory.items() if key != "total")
    return memory


def _share(n, world, shared):
    return -(-n // world) if shared else n


@misconception("training_memory", "Leaves out the master weights: in 16 bits, small updates would be rounded away.")
def no_master(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return _plan(trained, frozen, activations, dtype, world, stage, master=0)


@misconception("training_memory", "Keeps a master copy in float32 training, too: the weights are float32 already.")
def master_in_float32(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return _plan(trained, frozen, activations, dtype, world, stage, master=_share(trained, world, stage >= 1) * 4)


@misconception("training_memory", "Counts one moment: Adam has two.")
def one_moment(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return _plan(trained, frozen, activations, dtype, world, stage, moments=_share(trained, world, stage >= 1) * 4)


@misconception("training_memory", "Keeps the moments in the dtype of the parameters: they are float32.")
def moments_in_16_bits(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return _plan(trained, frozen, activations, dtype, world, stage, moments=_share(trained, world, stage >= 1) * 2 * dtype.itemsize)


@misconception("training_memory", "Gives frozen parameters gradients and moments.")
def frozen_ones_train(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return reference_memory(trained + frozen, activations=activations, dtype=dtype, world=world, stage=stage)


@misconception("training_memory", "Rounds shares down: the last entries would be nowhere.")
def rounds_down(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    shared = {"parameters": 3, "gradients": 2, "master": 1, "moments": 1}
    memory = reference_memory(trained, frozen, activations=activations, dtype=dtype, world=1, stage=0)
    each = {"parameters": dtype.itemsize, "gradients": dtype.itemsize, "master": 4, "moments": 8}
    changed = {key: memory[key] // each[key] // world * each[key] for key, first in shared.items() if stage >= first}
    return _plan(trained, frozen, activations, dtype, world, stage, **changed)


@misconception("training_memory", "Shares bytes instead of entries: an entry can't be cut.")
def shares_bytes(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    memory = reference_memory(trained, frozen, activations=activations, dtype=dtype, world=1, stage=0)
    first = {"parameters": 3, "gradients": 2, "master": 1, "moments": 1}
    return _plan(
        trained, frozen, activations, dtype, world, stage, **{key: -(-memory[key] // world) for key in first if stage >= first[key]}
    )


@misconception("training_memory", "Divides in floating point: large numbers lose their last digits.")
def divides_in_floats(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    held = math.ceil(trained / world) if stage else trained
    return _plan(trained, frozen, activations, dtype, world, stage, moments=held * 8)


@misconception("training_memory", "Shares the stages in the wrong order: parameters come last.")
def shares_parameters_first(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return _plan(
        trained,
        frozen,
        activations,
        dtype,
        world,
        stage,
        parameters=_share(trained + frozen, world, stage >= 1) * dtype.itemsize,
        moments=_share(trained, world, stage >= 3) * 8,
    )


@misconception("training_memory", "Shares activations, too: each GPU has its own.")
def shares_activations(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return _plan(trained, frozen, activations, dtype, world, stage, activations=_share(activations, world, stage == 3))


@misconception("training_memory", "Leaves the frozen parameters whole in stage 3.")
def frozen_ones_are_whole(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    return _plan(
        trained, frozen, activations, dtype, world, stage, parameters=(_share(trained, world, stage == 3) + frozen) * dtype.itemsize
    )


@misconception("training_memory", "Checks nothing.")
def checks_nothing(trained, frozen=0, *, activations=0, dtype=torch.bfloat16, world=1, stage=0):
    def held(n, first):
        return -(-n // world) if stage >= first and world else n

    memory = {
        "parameters": held(trained + frozen, 3) * dtype.itemsize,
        "gradients": held(trained, 2) * dtype.itemsize,
        "master": 4 * held(trained, 1) * (dtype is not torch.float32),
        "moments": 8 * held(trained, 1),
        "activations": activations,
    }
    return memory | {"total": sum(memory.values())}


# self_times


def _nested(events, *, key=lambda e: (e[2], -e[3]), touching=True, thread=lambda t: t):
    """Each event with the indices of the events that it lies in, the innermost last."""
    stacks, out = {}, []
    for e in sorted(events, key=key):
        if e[3] < e[2]:
            raise ValueError("ends before it starts")
        stack = stacks.setdefault(thread(e[1]), [])
        while stack and (stack[-1][3] <= e[2] if touching else stack[-1][3] < e[2]):
            stack.pop()
        if stack and touching and thread(1) != thread(2) and e[3] > stack[-1][3]:
            raise ValueError("not nested")
        out.append((e, list(stack)))
        stack.append(e)
    return out


def _summed(nested, total=None, own=None):
    rows = {}
    for e, above in nested:
        row = rows.setdefault(e[0], {"calls": 0, "total": 0, "self": 0})
        row["calls"] += 1
        row["self"] += e[3] - e[2]
        if total(e, above) if total else all(a[0] != e[0] for a in above):
            row["total"] += e[3] - e[2]
        for a in above if own == "all" else above[-1:]:
            rows[a[0]]["self"] -= e[3] - e[2]
    return rows


@misconception("self_times", "Adds an event to the total although it runs within another of its name: that time counts twice.")
def counts_recursion_twice(events):
    return _summed(_nested(events), total=lambda e, above: True)


@misconception("self_times", "Looks at the caller only: recursion may go through another function.")
def looks_at_the_caller_only(events):
    return _summed(_nested(events), total=lambda e, above: not above or above[-1][0] != e[0])


@misconception("self_times", "Takes the times of all that runs within from the own time: only direct calls count, or they count twice.")
def takes_off_grandchildren(events):
    return _summed(_nested(events), own="all")


@misconception("self_times", "Mixes the threads: an event of another thread was not called by this one.")
def mixes_threads(events):
    return _summed(_nested(events, thread=lambda t: 0))


@misconception("self_times", "Takes the events as sorted: they come in any order.")
def takes_them_as_sorted(events):
    return _summed(_nested(events, key=lambda e: 0))


@misconception("self_times", "Sorts by start alone: of two events that start together, the longer one is the caller.")
def sorts_by_start(events):
    return _summed(_nested(events, key=lambda e: e[2]))


@misconception("self_times", "Recurses: a deep nest of events is deeper than Python's stack.")
def recurses(events):
    nested = _nested(events)
    children = {}
    for i, (_, above) in enumerate(nested):
        children.setdefault(above[-1] if above else None, []).append(i)

    def walk(depth):
        return 0 if depth == 0 else walk(depth - 1)

    walk(max((len(above) for _, above in nested), default=0))
    return reference_times(events)


@misconception("self_times", "Gives the total where the own time is due.")
def self_is_total(events):
    return {name: row | {"self": row["total"]} for name, row in reference_times(events).items()}


@misconception("self_times", "Counts in floating point: nanoseconds lose their last digits.")
def times_in_floats(events):
    return reference_times([(name, thread, int(float(start)), int(float(end))) for name, thread, start, end in events])


@misconception("self_times", "Lets events overlap without a word.")
def lets_events_overlap(events):
    try:
        return reference_times(events)
    except ValueError:
        return {}


@misconception("self_times", "Keeps one event for each name: names come often.")
def one_event_each(events):
    return reference_times(list({name: (name, *rest) for name, *rest in events}.values()))


@misconception("self_times", "Drops events without duration: they were called, too.")
def drops_short_events(events):
    if any(e[3] < e[2] for e in events):
        raise ValueError("ends before it starts")
    return reference_times([e for e in events if e[3] > e[2]])


# profile_step


def _profile(stages, operators, wait, warmup, active, *, steps=None, plan=None, count=None, step=True):
    with profile(
        activities=[ProfilerActivity.CPU],
        record_shapes=True,
        schedule=schedule(**(plan or {"wait": wait, "warmup": warmup, "active": active, "repeat": 1})),
    ) as profiler:
        for number in steps if steps is not None else range(wait + warmup + active):
            for label, stage in stages.items():
                with record_function(label):
                    stage(number)
            if step:
                profiler.step()
    rows = Counter()
    for event in profiler.events():
        if event.name in operators:
            above = event.cpu_parent
            while above is not None and above.name not in stages:
                above = above.cpu_parent
            if above is not None:
                rows[above.name, event.name, tuple(map(tuple, event.input_shapes))] += count(event) if count else 1
    return sorted((*row, calls) for row, calls in rows.items() if calls)


@misconception("profile_step", "Records the warm-up as well.")
def records_the_warm_up(stages, operators, *, wait=1, warmup=1, active=3):
    plan = {"wait": wait, "warmup": 0, "active": warmup + active, "repeat": 1}
    return _profile(stages, operators, wait, warmup, active, plan=plan)


@misconception("profile_step", "Records all steps: those that wait or warm up are there to be left out.")
def records_all(stages, operators, *, wait=1, warmup=1, active=3):
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for number in range(wait + warmup + active):
            for label, stage in stages.items():
                with record_function(label):
                    stage(number)
    rows = Counter()
    for event in profiler.events():
        if event.name in operators:
            above = event.cpu_parent
            while above is not None and above.name not in stages:
                above = above.cpu_parent
            if above is not None:
                rows[above.name, event.name, tuple(map(tuple, event.input_shapes))] += 1
    return sorted((*row, calls) for row, calls in rows.items())


@misconception("profile_step", "Runs the active steps only: the profiler's schedule counts the others as well.")
def runs_active_steps_only(stages, operators, *, wait=1, warmup=1, active=3):
    return _profile(
        stages, operators, wait, warmup, active, plan={"wait": 0, "warmup": 1, "active": active, "repeat": 1}, steps=[0, *range(active)]
    )


@misconception("profile_step", "Looks at the direct caller only: an operator may be called by another operator.")
def direct_calls_only(stages, operators, *, wait=1, warmup=1, active=3):
    return _profile(stages, operators, wait, warmup, active, count=lambda e: int(e.cpu_parent is not None and e.cpu_parent.name in stages))


@misconception("profile_step", "Counts only what no other operator of the list has called.")
def outermost_only(stages, operators, *, wait=1, warmup=1, active=3):
    def outermost(event):
        above = event.cpu_parent
        while above is not None:
            if above.name in operators:
                return 0
            above = above.cpu_parent
        return 1

    return _profile(stages, operators, wait, warmup, active, count=outermost)


@misconception("profile_step", "Gives the calls of one step: they are of all recorded steps.")
def calls_per_step(stages, operators, *, wait=1, warmup=1, active=3):
    return [(*row, calls // active) for *row, calls in reference_profile(stages, operators, wait=wait, warmup=warmup, active=active)]


@misconception("profile_step", "Adds up all shapes of an operator: each has a row of its own.")
def adds_up_shapes(stages, operators, *, wait=1, warmup=1, active=3):
    rows = {}
    for label, name, shapes, calls in reference_profile(stages, operators, wait=wait, warmup=warmup, active=active):
        first, total = rows.get((label, name), (shapes, 0))
        rows[label, name] = first, total + calls
    return sorted((*key, *value) for key, value in rows.items())


@misconception("profile_step", "Looks for the operator's name within longer names.")
def looks_within_names(stages, operators, *, wait=1, warmup=1, active=3):
    class Within(list):
        def __contains__(self, name):
            return any(operator in name or operator.split("::")[-1] in name for operator in self)

    return _profile(stages, Within(operators), wait, warmup, active)


@misconception("profile_step", "Forgets the labels: all operators are taken for the first stage's.")
def first_label_for_all(stages, operators, *, wait=1, warmup=1, active=3):
    rows = Counter()
    for _, name, shapes, calls in reference_profile(stages, operators, wait=wait, warmup=warmup, active=active):
        rows[next(iter(stages)), name, shapes] += calls
    return sorted((*row, calls) for row, calls in rows.items())


@misconception("profile_step", "Counts steps from 1.")
def steps_from_one(stages, operators, *, wait=1, warmup=1, active=3):
    return _profile(stages, operators, wait, warmup, active, steps=range(1, wait + warmup + active + 1))


@misconception("profile_step", "Leaves the shapes as lists.")
def shapes_as_lists(stages, operators, *, wait=1, warmup=1, active=3):
    return [
        (label, name, [list(s) for s in shapes], calls)
        for label, name, shapes, calls in reference_profile(stages, operators, wait=wait, warmup=warmup, active=active)
    ]


@misconception("profile_step", "Lets the profiler go on with a second cycle, which throws the events of the first away.")
def one_step_more(stages, operators, *, wait=1, warmup=1, active=3):
    return _profile(stages, operators, wait, warmup, active, steps=range(wait + warmup + active + 1))


# benchmark


def _measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats, *, first=True, last=True, after_warmup=True, enough=None):
    for _ in range(warmup):
        work()
    times = []
    while len(times) < max_repeats and (len(times) < repeats or (enough or sum)(times) < min_time):
        if first:
            synchronize()
        start = clock()
        work()
        if last:
            synchronize()
        times.append(clock() - start)
    return times


def _result(times, median=None, quartiles=None):
    t = torch.tensor(times, dtype=torch.float64)
    low, high = quartiles(times) if quartiles else t.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    return {"median": median(times) if median else t.quantile(0.5).item(), "iqr": high - low, "runs": len(times)}


@misconception("benchmark", "Reads the clock before the device is done: it measures how long ordering takes.")
def no_wait_after(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats, last=False))


@misconception("benchmark", "Starts the clock while the device still works on the warm-up.")
def no_wait_before(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats, first=False))


@misconception("benchmark", "Never waits for the device.")
def never_waits(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats, first=False, last=False))


@misconception("benchmark", "Starts the clock before it waits: what was left from before is measured, too.")
def clock_before_waiting(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    for _ in range(warmup):
        work()
    times = []
    while len(times) < max_repeats and (len(times) < repeats or sum(times) < min_time):
        start = clock()
        synchronize()
        work()
        synchronize()
        times.append(clock() - start)
    return _result(times)


@misconception("benchmark", "Gives the mean: one outlier moves it.")
def gives_the_mean(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats), median=statistics.mean)


@misconception("benchmark", "Takes torch.median, which gives the lower of the two middle times.")
def takes_the_lower_median(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats), median=statistics.median_low)


@misconception("benchmark", "Measures the warm-up, too.")
def measures_the_warm_up(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, 0, repeats + warmup, min_time, max_repeats + warmup))


@misconception("benchmark", "Takes `warmup or 3`: 0 calls are possible.")
def always_warms_up(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, warmup or 3, repeats, min_time, max_repeats))


@misconception("benchmark", "Takes quartiles at other places: the smallest and largest times reach into them.")
def other_quartiles(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    def quartiles(times):
        if len(times) < 2:
            return times[0], times[0]
        low, _, high = statistics.quantiles(times, n=4)
        return low, high

    return _result(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats), quartiles=quartiles)


@misconception("benchmark", "Gives the range from the smallest to the largest time.")
def gives_the_range(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return _result(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats), quartiles=lambda t: (min(t), max(t)))


@misconception("benchmark", "Stops after the repeats, although the times don't add up to min_time.")
def ignores_min_time(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return reference_benchmark(work, clock=clock, synchronize=synchronize, warmup=warmup, repeats=repeats)


@misconception("benchmark", "Stops as soon as there is enough time: there must be enough measurements, too.")
def time_is_enough(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return reference_benchmark(
        work,
        clock=clock,
        synchronize=synchronize,
        warmup=warmup,
        repeats=1 if min_time else repeats,
        min_time=min_time,
        max_repeats=max_repeats,
    )


@misconception("benchmark", "Never gives up: with a clock that stands still it would run for ever.")
def never_gives_up(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    return reference_benchmark(
        work, clock=clock, synchronize=synchronize, warmup=warmup, repeats=repeats, min_time=min_time, max_repeats=10 * max_repeats
    )


@misconception("benchmark", "Looks at the time that has passed since the start, warm-up included: the measured times have to add up.")
def time_since_the_start(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    synchronize()
    begin = clock()
    for _ in range(warmup):
        work()
    times, now = [], begin
    while len(times) < max_repeats and (len(times) < repeats or now - begin < min_time):
        synchronize()
        start = clock()
        work()
        synchronize()
        now = clock()
        times.append(now - start)
    return _result(times)


@misconception("benchmark", "Measures all calls in one block and divides: then there is no median.")
def one_block(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    for _ in range(warmup):
        work()
    synchronize()
    start = clock()
    for _ in range(repeats):
        work()
    synchronize()
    each = (clock() - start) / repeats
    return {"median": each, "iqr": 0.0, "runs": repeats}


@misconception("benchmark", "Puts the times into a float32 tensor: their last digits are lost.")
def times_in_single_precision(work, *, clock, synchronize, warmup=3, repeats=5, min_time=0.0, max_repeats=1000):
    times = torch.tensor(_measure(work, clock, synchronize, warmup, repeats, min_time, max_repeats))
    low, median, high = times.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return {"median": median, "iqr": high - low, "runs": len(times)}


# roofline


@misconception("roofline", "Takes a multiplication and its addition for one operation.")
def half_the_flops(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    row = reference_roofline(M, K, N, dtype=dtype, peak=2 * peak, bandwidth=bandwidth, seconds=seconds, out_dtype=out_dtype)
    row["flops"] //= 2
    row["intensity"] /= 2
    row["attainable"] /= 2
    return row


@misconception("roofline", "Takes 4 bytes for each number, whatever the dtype.")
def four_bytes_a_number(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    return reference_roofline(M, K, N, dtype=torch.float32, peak=peak, bandwidth=bandwidth, seconds=seconds)


@misconception("roofline", "Forgets that the result is written.")
def forgets_the_result(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    moved = (M * K + K * N) * dtype.itemsize
    return _roof(2 * M * K * N, moved, peak, bandwidth, seconds)


def _roof(flops, moved, peak, bandwidth, seconds):
    return {
        "flops": flops,
        "bytes": moved,
        "intensity": flops / moved,
        "attainable": float(min(peak, flops / moved * bandwidth)),
        "bound": "compute" if flops / moved * bandwidth >= peak else "memory",
        "mfu": flops / seconds / peak,
    }


@misconception("roofline", "Writes the result in the dtype of the factors: it may have its own.")
def ignores_the_dtype_of_the_result(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    return reference_roofline(M, K, N, dtype=dtype, peak=peak, bandwidth=bandwidth, seconds=seconds)


@misconception("roofline", "Counts all three matrices in the dtype of the result.")
def all_in_the_dtype_of_the_result(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    return reference_roofline(M, K, N, dtype=out_dtype or dtype, peak=peak, bandwidth=bandwidth, seconds=seconds)


@misconception("roofline", "Divides the wrong way round: intensity is operations for each byte.")
def bytes_for_each_operation(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    row = reference_roofline(M, K, N, dtype=dtype, peak=peak, bandwidth=bandwidth, seconds=seconds, out_dtype=out_dtype)
    return row | {"intensity": row["bytes"] / row["flops"]}


@misconception("roofline", "Takes the sloping roof where it is above the flat one: the lower one counts.")
def the_higher_roof(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    row = reference_roofline(M, K, N, dtype=dtype, peak=peak, bandwidth=bandwidth, seconds=seconds, out_dtype=out_dtype)
    return row | {"attainable": float(max(peak, row["intensity"] * bandwidth))}


@misconception("roofline", "Takes the wrong side of the ridge: with many operations for each byte, computing limits.")
def the_wrong_side(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    row = reference_roofline(M, K, N, dtype=dtype, peak=peak, bandwidth=bandwidth, seconds=seconds, out_dtype=out_dtype)
    return row | {"bound": "memory" if row["bound"] == "compute" else "compute"}


@misconception("roofline", "Says memory at the ridge itself.")
def memory_at_the_ridge(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    row = reference_roofline(M, K, N, dtype=dtype, peak=peak, bandwidth=bandwidth, seconds=seconds, out_dtype=out_dtype)
    return row | {"bound": "compute" if row["intensity"] * bandwidth > peak else "memory"}


@misconception("roofline", "Divides what was reached by the attainable: mfu is a part of the peak.")
def part_of_the_attainable(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    row = reference_roofline(M, K, N, dtype=dtype, peak=peak, bandwidth=bandwidth, seconds=seconds, out_dtype=out_dtype)
    return row | {"mfu": row["flops"] / seconds / row["attainable"]}


@misconception("roofline", "Gives operations and bytes as floats: large ones are not exact.")
def numbers_as_floats(M, K, N, *, dtype, peak, bandwidth, seconds, out_dtype=None):
    row = reference_roofline(M, K, N, dtype=dtype, peak=peak, bandwidth=bandwidth, seconds=seconds, out_dtype=out_dtype)
    return row | {"flops": int(2.0 * M * K * N), "bytes": int(float(row["bytes"]))}
