"""Named wrong answers to the tasks of ecosystem: the hidden suite must reject every one.

One of break_free's is what the stub shows: code that works, and that the compiler can't take whole.
"""

import os
from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn

from grader.testing import misconception
from solutions.ecosystem import launch_spec as reference_launch

# twice_op


def _empty(x):
    return x.new_empty(2 * x.shape[0], *x.shape[1:])


def _operator(name, *, work=None, fake=_empty, backward=None, remember=None):
    """The reference's operator with some of its parts replaced."""

    @torch.library.custom_op(name, mutates_args=())
    def twice(x: Tensor, scale: float) -> Tensor:
        return work(x, scale) if work else torch.cat([x, x * scale])

    if fake:
        twice.register_fake(lambda x, scale: fake(x))

    def usual_remember(ctx, inputs, output):
        ctx.scale = inputs[1]

    def usual_backward(ctx, grad):
        first, second = grad.tensor_split(2)
        return first + ctx.scale * second, None

    if backward is not False:
        twice.register_autograd(backward or usual_backward, setup_context=remember or usual_remember)
    return twice


@misconception("twice_op", "Gives the fake the shape of x: the result has twice as many rows.")
def fakes_the_shape_of_x(name):
    return _operator(name, fake=torch.empty_like)


@misconception("twice_op", "Registers no fake: without one the operator runs neither on meta nor in a compiled graph.")
def registers_no_fake(name):
    return _operator(name, fake=None)


@misconception("twice_op", "Registers no gradient: the result is cut off from x.")
def registers_no_gradient(name):
    return _operator(name, backward=False)


@misconception("twice_op", "Makes the fake with torch.empty alone, so that it has the default dtype.")
def fakes_the_default_dtype(name):
    return _operator(name, fake=lambda x: torch.empty(2 * x.shape[0], *x.shape[1:], device=x.device))


@misconception("twice_op", "Makes the fake on the CPU, wherever x is.")
def fakes_on_the_cpu(name):
    return _operator(name, fake=lambda x: torch.empty(2 * x.shape[0], *x.shape[1:], dtype=x.dtype))


@misconception("twice_op", "Computes in the fake with NumPy: a fake has no numbers.")
def fakes_with_numpy(name):
    return _operator(name, fake=lambda x: torch.from_numpy(np.concatenate([x.numpy(), x.numpy()])))


@misconception("twice_op", "Keeps one size of the fake only: all axes after the first are lost.")
def fakes_one_axis(name):
    return _operator(name, fake=lambda x: x.new_empty(2 * x.numel()))


@misconception("twice_op", "Leaves the second half out of the gradient: x stands in the result twice.")
def forgets_the_second_half(name):
    return _operator(name, backward=lambda ctx, grad: (grad.tensor_split(2)[0], None))


@misconception("twice_op", "Adds both halves of the gradient as they are: the second one needs the factor scale.")
def forgets_the_scale(name):
    return _operator(name, backward=lambda ctx, grad: (sum(grad.tensor_split(2)), None))


@misconception("twice_op", "Scales the wrong half of the gradient.")
def scales_the_first_half(name):
    def backward(ctx, grad):
        first, second = grad.tensor_split(2)
        return ctx.scale * first + second, None

    return _operator(name, backward=backward)


@misconception("twice_op", "Divides the gradient by scale, as if to undo what the forward pass did.")
def divides_by_scale(name):
    def backward(ctx, grad):
        first, second = grad.tensor_split(2)
        return first + second / ctx.scale, None

    return _operator(name, backward=backward)


@misconception("twice_op", "Keeps scale in one variable for all calls: a second call overwrites what the first one's gradient needs.")
def remembers_for_all_calls(name):
    kept = {}

    def remember(ctx, inputs, output):
        kept["scale"] = inputs[1]

    def backward(ctx, grad):
        first, second = grad.tensor_split(2)
        return first + kept["scale"] * second, None

    return _operator(name, remember=remember, backward=backward)


@misconception("twice_op", "Computes the gradient with detached tensors, so that it can't be differentiated again.")
def detaches_the_gradient(name):
    def backward(ctx, grad):
        first, second = grad.detach().tensor_split(2)
        return first + ctx.scale * second, None

    return _operator(name, backward=backward)


@misconception("twice_op", "Computes the gradient in float32, whatever x has.")
def gradient_in_single(name):
    def backward(ctx, grad):
        first, second = grad.float().tensor_split(2)
        return (first + ctx.scale * second).to(grad.dtype), None

    return _operator(name, backward=backward)


@misconception("twice_op", "Computes the gradient with NumPy, which autograd can't look into.")
def gradient_by_numpy(name):
    def backward(ctx, grad):
        first, second = np.split(grad.detach().numpy(), 2)
        return torch.from_numpy(first + np.asarray(ctx.scale, first.dtype) * second), None

    return _operator(name, backward=backward)


@misconception("twice_op", "Returns one gradient for two arguments: scale needs a None.")
def one_gradient_for_two(name):
    def backward(ctx, grad):
        first, second = grad.tensor_split(2)
        return first + ctx.scale * second

    return _operator(name, backward=backward)


@misconception("twice_op", "Multiplies x in place, and says that nothing is changed.")
def multiplies_in_place(name):
    return _operator(name, work=lambda x, scale: torch.cat([x.clone(), x.mul_(scale)]))


@misconception("twice_op", "Repeats each row beside itself instead of x behind x.")
def interleaves(name):
    return _operator(name, work=lambda x, scale: torch.stack([x, x * scale], 1).flatten(0, 1))


@misconception("twice_op", "Puts the scaled copy first.")
def scaled_first(name):
    return _operator(name, work=lambda x, scale: torch.cat([x * scale, x]))


@misconception("twice_op", "Puts the copies side by side, along the last axis.")
def along_the_last_axis(name):
    return _operator(name, work=lambda x, scale: torch.cat([x, x * scale], -1), fake=lambda x: torch.cat([x, x], -1))


@misconception("twice_op", "Computes in float32, whatever x has.")
def work_in_single(name):
    return _operator(name, work=lambda x, scale: torch.cat([x, (x.float() * scale).to(x.dtype)]))


@misconception("twice_op", "Lets NumPy make float64 of float32.")
def work_in_double(name):
    return _operator(name, work=lambda x, scale: torch.from_numpy(np.concatenate([x.numpy(), x.numpy() * np.float64(scale)])))


@misconception("twice_op", "Registers the operator under a name of its own, and not under the one that was given.")
def ignores_the_name(name):
    return _operator("lab::twice")


@misconception("twice_op", "Takes scale as a whole number.")
def takes_whole_scales(name):
    def work(x: Tensor, scale: int) -> Tensor:
        return torch.cat([x, x * scale])

    op = torch.library.custom_op(name, work, mutates_args=())
    op.register_fake(lambda x, scale: _empty(x))
    return op


@misconception("twice_op", "Returns a plain function: nothing is registered with torch.")
def plain_function(name):
    return lambda x, scale: torch.cat([x, x * scale])


@misconception("twice_op", "Returns an autograd function: it has a gradient, but no name in torch.ops and no node of its own in a graph.")
def autograd_function(name):
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, scale):
            ctx.scale = scale
            return torch.cat([x, x * scale])

        @staticmethod
        def backward(ctx, grad):
            first, second = grad.tensor_split(2)
            return first + ctx.scale * second, None

    return Twice.apply


# break_free


@misconception("break_free", "Asks for numbers while it runs: item() in a condition, in a loop over rows, and in a print.", stub=True)
def asks_for_numbers(x, limit):
    x = x.clone()
    bad = 0
    for i in range(len(x)):
        if not torch.isfinite(x[i]).all().item():
            x[i] = 0.0
            bad += 1
    total = x.norm()
    factor = torch.ones((), dtype=x.dtype)
    if total.item() > limit:
        factor = limit / total
    print(f"{bad} bad rows, norm {total.item():.3f}, factor {factor.item():.3f}")
    return x * factor, factor, torch.tensor(bad)


def _rows(x):
    good = x.isfinite().all(1)
    return torch.where(good[:, None], x, 0), (~good).sum()


@misconception("break_free", "Clamps limit / total to 1: for zeros that is limit / 0, and its gradient is NaN.")
def clamps_the_quotient(x, limit):
    rows, bad = _rows(x)
    factor = (limit / rows.square().sum().sqrt()).clamp(max=1)
    return rows * factor, factor, bad


@misconception(
    "break_free", "Chooses by torch.where between a quotient by zero and 1: the gradient of the other branch is NaN all the same."
)
def one_where(x, limit):
    rows, bad = _rows(x)
    total = rows.square().sum().sqrt()
    factor = torch.where(total > limit, limit / total, 1)
    return rows * factor, factor, bad


@misconception("break_free", "Adds a small number to the norm, as clip_grad_norm_ does: results are a little too small.")
def adds_epsilon(x, limit):
    rows, bad = _rows(x)
    factor = (limit / (torch.linalg.vector_norm(rows) + 1e-6)).clamp(max=1)
    return rows * factor, factor, bad


@misconception("break_free", "Multiplies bad rows by zero: NaN · 0 is NaN.")
def multiplies_by_zero(x, limit):
    good = x.isfinite().all(1)
    rows = x * good[:, None]
    squares = rows.square().sum()
    clipped = squares.sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~good).sum()


@misconception("break_free", "Replaces single numbers by zeros (nan_to_num), where the whole row is due.")
def single_numbers(x, limit):
    bad = (~x.isfinite()).any(1).sum()
    rows = x.nan_to_num(0.0, 0.0, 0.0)
    squares = rows.square().sum()
    clipped = squares.sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, bad


@misconception("break_free", "Looks for NaN only: infinities stay.")
def nan_only(x, limit):
    good = ~x.isnan().any(1)
    rows = torch.where(good[:, None], x, 0)
    squares = rows.square().sum()
    clipped = squares.sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~good).sum()


@misconception("break_free", "Clips each row by its own norm: total is that of the whole batch.")
def clips_each_row(x, limit):
    rows, bad = _rows(x)
    squares = rows.square().sum(1, keepdim=True)
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor.amin() if len(x) else x.new_ones(()), bad


@misconception("break_free", "Takes the norm of a batch in which bad rows still are.")
def norm_of_all(x, limit):
    rows, bad = _rows(x)
    squares = x.square().sum()
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, bad


@misconception("break_free", "Detaches the norm, so that no gradient flows through the factor.")
def detached_norm(x, limit):
    rows, bad = _rows(x)
    squares = rows.detach().square().sum()
    clipped = squares.sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor + 0 * rows.sum(), factor + 0 * rows.sum(), bad


@misconception("break_free", "Drops bad rows by a mask: how many are left depends on the numbers.")
def drops_rows(x, limit):
    good = x.isfinite().all(1)
    rows = torch.zeros_like(x)
    rows[good.nonzero().squeeze(1)] = x[good]
    squares = rows.square().sum()
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~good).sum()


@misconception("break_free", "Still loops over rows: the loop is unrolled, and each number of rows has a graph of its own.")
def loops_over_rows(x, limit):
    rows = torch.stack([torch.where(x[i].isfinite().all(), x[i], 0) for i in range(len(x))]) if len(x) else x * 1
    bad = (~x.isfinite().all(1)).sum()
    squares = rows.square().sum()
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, bad


@misconception("break_free", "Writes zeros into the caller's batch.")
def writes_into_x(x, limit):
    good = x.isfinite().all(1)
    x.detach().masked_fill_(~good[:, None], 0)
    rows = torch.where(good[:, None], x, 0)
    squares = rows.square().sum()
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~good).sum()


@misconception("break_free", "Scales up as well, to a norm of exactly limit.")
def scales_up(x, limit):
    rows, bad = _rows(x)
    squares = rows.square().sum()
    some = squares.detach() > 0
    factor = torch.where(some, limit / torch.where(some, squares, 1).sqrt(), 1)
    return rows * factor, factor, bad


@misconception("break_free", "Takes total = limit for too large: the factor is 1, but its gradient is not 0.")
def clips_at_the_limit(x, limit):
    rows, bad = _rows(x)
    squares = rows.square().sum()
    clipped = (squares.detach().sqrt() >= limit) & (squares.detach() > 0)
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, bad


@misconception("break_free", "Returns the count in the dtype of x.")
def counts_in_floats(x, limit):
    good = x.isfinite().all(1)
    rows = torch.where(good[:, None], x, 0)
    squares = rows.square().sum()
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~good).to(x.dtype).sum()


@misconception("break_free", "Counts single bad numbers instead of rows.")
def counts_numbers(x, limit):
    rows, _ = _rows(x)
    squares = rows.square().sum()
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~x.isfinite()).sum()


@misconception("break_free", "Still prints: a print breaks the graph as well.")
def still_prints(x, limit):
    rows, bad = _rows(x)
    squares = rows.square().sum()
    clipped = squares.detach().sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    print("bad rows:", bad)
    return rows * factor, factor, bad


@misconception("break_free", "Takes large numbers for infinities.")
def large_is_bad(x, limit):
    good = (x.abs() < 1e30).all(1)
    rows = torch.where(good[:, None], x, 0)
    squares = rows.square().sum()
    clipped = squares.sqrt() > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, (~good).sum()


@misconception("break_free", "Keeps the sum of squares away from 0 by a bound, which batches of tiny numbers run into.")
def bounded_below(x, limit):
    rows, bad = _rows(x)
    squares = rows.square().sum()
    factor = torch.where(squares.sqrt() > limit, limit / squares.clamp_min(1e-24).sqrt(), 1)
    return rows * factor, factor, bad


@misconception("break_free", "Compares the sum of squares with limit: its root is due.")
def compares_squares(x, limit):
    rows, bad = _rows(x)
    squares = rows.square().sum()
    clipped = squares > limit
    factor = torch.where(clipped, limit / torch.where(clipped, squares, 1).sqrt(), 1)
    return rows * factor, factor, bad


# CountingBackend


def _name(node, graph):
    if node.op == "call_function":
        return node.target.__name__
    return node.target if node.op == "call_method" else type(graph.get_submodule(node.target)).__name__


class _Parts:
    """The reference with parts that can be replaced."""

    def __init__(self, inner=None):
        self.inner, self.graphs, self.recompiles = inner, [], 0

    def names(self, graph):
        return [_name(node, graph) for node in graph.graph.nodes if node.op.startswith("call_")]

    def shapes(self, inputs):
        return [tuple(x.shape) for x in inputs if isinstance(x, Tensor)]

    def open(self, inputs):
        return sum(isinstance(x, torch.SymInt) for x in inputs)

    def again(self, record):
        return any(record["operations"] == other["operations"] for other in self.graphs)

    def runs(self, record):
        record["calls"] += 1

    def __call__(self, graph, inputs):
        record = {"operations": self.names(graph), "shapes": self.shapes(inputs), "open": self.open(inputs), "calls": 0}
        self.recompiles += self.again(record)
        self.graphs.append(record)
        run = self.inner(graph, inputs) if self.inner else graph.forward

        def counted(*args):
            self.runs(record)
            return run(*args)

        return counted

    def ran(self):
        total = Counter()
        for record in self.graphs:
            for name in record["operations"]:
                total[name] += record["calls"]
        return dict(+total)


@misconception("CountingBackend", "Counts all nodes of a graph, inputs and output as well.")
class CountsAllNodes(_Parts):
    def names(self, graph):
        return [_name(node, graph) if node.op.startswith("call_") else node.name for node in graph.graph.nodes]


@misconception("CountingBackend", "Takes functions only: methods of tensors, such as x.sum(), are operations too.")
class FunctionsOnly(_Parts):
    def names(self, graph):
        return [_name(node, graph) for node in graph.graph.nodes if node.op == "call_function"]


@misconception("CountingBackend", "Names an operation as its node is named: the second relu is relu_1 there.")
class NamesOfNodes(_Parts):
    def names(self, graph):
        return [node.name for node in graph.graph.nodes if node.op.startswith("call_")]


@misconception("CountingBackend", "Names a module by its place in the tree, and not by its class.")
class PlacesOfModules(_Parts):
    def names(self, graph):
        return [node.target if node.op == "call_module" else _name(node, graph) for node in graph.graph.nodes if "call_" in node.op]


@misconception("CountingBackend", "Finds only modules that are direct children.")
class DirectChildren(_Parts):
    def names(self, graph):
        def name(node):
            return type(getattr(graph, node.target)).__name__ if node.op == "call_module" else _name(node, graph)

        return [name(node) for node in graph.graph.nodes if node.op.startswith("call_")]


@misconception("CountingBackend", "Writes each operation's name once, so that repetitions are lost.")
class NamesOnce(_Parts):
    def names(self, graph):
        return list(dict.fromkeys(super().names(graph)))


@misconception("CountingBackend", "Sorts the names: the order of a graph's operations is lost.")
class SortsNames(_Parts):
    def names(self, graph):
        return sorted(super().names(graph))


@misconception("CountingBackend", "Keeps the graphs in a list of the class, which all backends share.")
class SharedGraphs(_Parts):
    graphs = []  # noqa: RUF012

    def __init__(self, inner=None):
        self.inner, self.recompiles = inner, 0


@misconception("CountingBackend", "Counts the compilation as a run.")
class CompilingIsRunning(_Parts):
    def __call__(self, graph, inputs):
        run = super().__call__(graph, inputs)
        self.graphs[-1]["calls"] = 1
        return run


@misconception("CountingBackend", "Returns the graph itself, so that runs are never counted.")
class NeverCounts(_Parts):
    def __call__(self, graph, inputs):
        super().__call__(graph, inputs)
        return self.inner(graph, inputs) if self.inner else graph.forward


@misconception("CountingBackend", "Counts each run for the newest graph.")
class CountsForTheNewest(_Parts):
    def runs(self, record):
        self.graphs[-1]["calls"] += 1


@misconception("CountingBackend", "Counts a run only after it went well.")
class CountsAfterwards(_Parts):
    def __call__(self, graph, inputs):
        record = {"operations": self.names(graph), "shapes": self.shapes(inputs), "open": self.open(inputs), "calls": 0}
        self.recompiles += self.again(record)
        self.graphs.append(record)
        run = self.inner(graph, inputs) if self.inner else graph.forward

        def counted(*args):
            values = run(*args)
            record["calls"] += 1
            return values

        return counted


@misconception("CountingBackend", "Ignores the backend inside.")
class IgnoresInner(_Parts):
    def __init__(self, inner=None):
        super().__init__()


@misconception("CountingBackend", "Calls the backend inside, and runs the graph all the same.")
class RunsTheGraph(_Parts):
    def __call__(self, graph, inputs):
        if self.inner:
            self.inner(graph, inputs)
        inner, self.inner = self.inner, None
        try:
            return super().__call__(graph, inputs)
        finally:
            self.inner = inner


@misconception("CountingBackend", "Asks the backend inside at each run: compiling is done once.")
class CompilesAtEachRun(_Parts):
    def __call__(self, graph, inputs):
        record = {"operations": self.names(graph), "shapes": self.shapes(inputs), "open": self.open(inputs), "calls": 0}
        self.recompiles += self.again(record)
        self.graphs.append(record)

        def counted(*args):
            record["calls"] += 1
            return (self.inner(graph, inputs) if self.inner else graph.forward)(*args)

        return counted


@misconception("CountingBackend", "Records the graph after the backend inside has changed it.")
class RecordsAfterInner(_Parts):
    def __call__(self, graph, inputs):
        run = self.inner(graph, inputs) if self.inner else graph.forward
        inner, self.inner = self.inner, lambda graph, inputs: run
        try:
            return super().__call__(graph, inputs)
        finally:
            self.inner = inner


@misconception("CountingBackend", "Takes the graph out of the record again where the backend inside raises.")
class ForgetsFailures(_Parts):
    def __call__(self, graph, inputs):
        try:
            return super().__call__(graph, inputs)
        except Exception:
            self.graphs.pop()
            raise


@misconception("CountingBackend", "Goes on with the plain graph where the backend inside raises: the error is to be seen.")
class SwallowsErrors(_Parts):
    def __call__(self, graph, inputs):
        try:
            return super().__call__(graph, inputs)
        except Exception:
            return graph.forward


@misconception("CountingBackend", "Looks only at the graph before: one of an earlier graph can come again later.")
class ComparesWithTheLast(_Parts):
    def again(self, record):
        return bool(self.graphs) and self.graphs[-1]["operations"] == record["operations"]


@misconception("CountingBackend", "Takes graphs with the same operations in another order for the same.")
class IgnoresOrder(_Parts):
    def again(self, record):
        return any(sorted(record["operations"]) == sorted(other["operations"]) for other in self.graphs)


@misconception("CountingBackend", "Takes every graph after the first for a recompile.")
class AllButTheFirst(_Parts):
    def again(self, record):
        return bool(self.graphs)


@misconception("CountingBackend", "Takes only graphs of the same shapes for the same: a recompile comes of other shapes.")
class SameShapesToo(_Parts):
    def again(self, record):
        return any((record["operations"], record["shapes"]) == (other["operations"], other["shapes"]) for other in self.graphs)


@misconception("CountingBackend", "Compares with a graph as often as it has come before.")
class CountsAllPairs(_Parts):
    def again(self, record):
        return sum(record["operations"] == other["operations"] for other in self.graphs)


@misconception("CountingBackend", "Counts every number among the inputs as a size that is left open.")
class NumbersAreOpen(_Parts):
    def open(self, inputs):
        return sum(not isinstance(x, Tensor) for x in inputs)


@misconception(
    "CountingBackend", "Looks for open sizes in the tensors' shapes, where torch.compile has none: they are inputs of their own."
)
class OpenInShapes(_Parts):
    def open(self, inputs):
        return sum(isinstance(n, torch.SymInt) for x in inputs if isinstance(x, Tensor) for n in x.shape)


@misconception("CountingBackend", "Takes open sizes for shapes, too.")
class OpenSizesAreShapes(_Parts):
    def shapes(self, inputs):
        return [tuple(x.shape) if isinstance(x, Tensor) else (int(x),) for x in inputs if isinstance(x, Tensor | torch.SymInt)]


@misconception("CountingBackend", "Keeps an empty shape for inputs that are no tensors.")
class ShapesOfNumbers(_Parts):
    def shapes(self, inputs):
        return [tuple(x.shape) if isinstance(x, Tensor) else () for x in inputs]


@misconception("CountingBackend", "Counts each operation once for each graph, however often the graph ran.")
class UnweightedRan(_Parts):
    def ran(self):
        return dict(Counter(name for record in self.graphs if record["calls"] for name in record["operations"]))


@misconception("CountingBackend", "Has operations that never ran, with 0.")
class RanWithZeros(_Parts):
    def ran(self):
        total = Counter()
        for record in self.graphs:
            for name in record["operations"]:
                total[name] += record["calls"]
        return dict(total)


@misconception("CountingBackend", "Counts an operation once in each run of a graph, where it stands there twice.")
class RanOncePerGraph(_Parts):
    def ran(self):
        total = Counter()
        for record in self.graphs:
            for name in set(record["operations"]):
                total[name] += record["calls"]
        return dict(+total)


@misconception("CountingBackend", "Adds up in ran() what it added up when it was asked before.")
class RanAddsUp(_Parts):
    def ran(self):
        self.total = getattr(self, "total", Counter())
        for record in self.graphs:
            for name in record["operations"]:
                self.total[name] += record["calls"]
        return dict(+self.total)


# launch_spec

_CONTRACT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def _each(spec, change):
    """The spec with what `change(process, local)` says."""
    return [process | change(process, local) for local, process in enumerate(spec)]


@misconception("launch_spec", "Gives numbers: environment variables are strings.")
def numbers_not_strings(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return [{key: int(value) if key in _CONTRACT and value.isdecimal() else value for key, value in process.items()} for process in spec]


@misconception("launch_spec", "Takes node · (processes of this node) for the first rank: nodes may differ.")
def nodes_are_equal(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"RANK": str(node * processes[node] + local)})


@misconception("launch_spec", "Takes nodes · (processes of this node) for the world's size.")
def world_of_equal_nodes(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"WORLD_SIZE": str(len(processes) * processes[node])})


@misconception("launch_spec", "Counts the nodes as the world's size.")
def world_of_nodes(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"WORLD_SIZE": str(len(processes))})


@misconception("launch_spec", "Gives each process its global rank as its local one.")
def local_is_global(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"LOCAL_RANK": process["RANK"]})


@misconception("launch_spec", "Gives each process its local rank as its global one: two processes have rank 0.")
def global_is_local(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"RANK": process["LOCAL_RANK"]})


@misconception("launch_spec", "Counts this node's own processes among those that come before it.")
def counts_itself_before(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"RANK": str(sum(processes[: node + 1]) + local)})


@misconception("launch_spec", "Counts ranks from 1.")
def ranks_from_one(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"RANK": str(int(process["RANK"]) + 1)})


@misconception("launch_spec", "Plans the processes of all nodes, where one node's are due.")
def all_nodes(processes, node, *, master="localhost", port=29500, env=None):
    reference_launch(processes, node, master=master, port=port, env=env)
    return [process for n in range(len(processes)) for process in reference_launch(processes, n, master=master, port=port, env=env)]


@misconception("launch_spec", "Gives each process a port of its own: they would never meet.")
def a_port_each(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return _each(spec, lambda process, local: {"MASTER_PORT": str(port + local)})


@misconception("launch_spec", "Leaves GROUP_RANK and GROUP_WORLD_SIZE out.")
def no_groups(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return [{key: value for key, value in process.items() if not key.startswith("GROUP")} for process in spec]


@misconception("launch_spec", "Sets OMP_NUM_THREADS for a process that is alone on its node, too.")
def threads_always(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return [{"OMP_NUM_THREADS": "1"} | process for process in spec]


@misconception("launch_spec", "Sets OMP_NUM_THREADS where the world has several processes: it is the node's that share its cores.")
def threads_by_world(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return [{"OMP_NUM_THREADS": "1"} | process if sum(processes) > 1 else process for process in spec]


@misconception("launch_spec", "Overwrites the OMP_NUM_THREADS that env sets.")
def threads_over_env(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return [process | {"OMP_NUM_THREADS": "1"} if processes[node] > 1 else process for process in spec]


@misconception("launch_spec", "Leaves OMP_NUM_THREADS out.")
def no_threads(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    kept = {} if not env else {key: value for key, value in env.items() if key == "OMP_NUM_THREADS"}
    return [{key: value for key, value in process.items() if key != "OMP_NUM_THREADS"} | kept for process in spec]


@misconception("launch_spec", "Adds what this machine's own environment has.")
def the_whole_environment(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    return [{**os.environ, **process} for process in spec]


@misconception("launch_spec", "Returns one dict several times: a change of one process's variables changes all.")
def one_dict_for_all(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    if len(spec) > 2:
        spec[2] = spec[1]
    return spec


@misconception("launch_spec", "Writes into the caller's env.")
def writes_into_env(processes, node, *, master="localhost", port=29500, env=None):
    spec = reference_launch(processes, node, master=master, port=port, env=env)
    if env is not None:
        env.update(WORLD_SIZE=str(sum(processes)))
    return spec


@misconception("launch_spec", "Lets env silently win over the contract.")
def env_wins(processes, node, *, master="localhost", port=29500, env=None):
    given = dict(env or {})
    own = {key: value for key, value in given.items() if key not in _CONTRACT}
    return [process | given for process in reference_launch(processes, node, master=master, port=port, env=own)]


@misconception("launch_spec", "Lets the contract silently win over env, where it has to refuse.")
def contract_wins(processes, node, *, master="localhost", port=29500, env=None):
    own = {key: value for key, value in (env or {}).items() if key not in _CONTRACT}
    return reference_launch(processes, node, master=master, port=port, env=own)


@misconception("launch_spec", "Takes a negative node from the end, as Python's lists do.")
def nodes_from_the_end(processes, node, *, master="localhost", port=29500, env=None):
    if type(node) is int and -len(processes) <= node < 0:
        node += len(processes)
    return reference_launch(processes, node, master=master, port=port, env=env)


@misconception("launch_spec", "Raises IndexError for a node that is not there.")
def index_error(processes, node, *, master="localhost", port=29500, env=None):
    if type(node) is int and node >= 0:
        processes[node]
    return reference_launch(processes, node, master=master, port=port, env=env)


@misconception("launch_spec", "Takes True for 1.")
def true_is_one(processes, node, *, master="localhost", port=29500, env=None):
    def plain(n):
        return int(n) if isinstance(n, bool) else n

    return reference_launch([plain(n) for n in processes], plain(node), master=master, port=plain(port), env=env)


@misconception("launch_spec", "Looks for True only at the front: counts may be True.")
def true_counts(processes, node, *, master="localhost", port=29500, env=None):
    return reference_launch([int(n) if isinstance(n, bool) else n for n in processes], node, master=master, port=port, env=env)


@misconception("launch_spec", "Takes 2.0 for 2.")
def floats_are_fine(processes, node, *, master="localhost", port=29500, env=None):
    return reference_launch([int(n) if isinstance(n, float) else n for n in processes], node, master=master, port=port, env=env)


@misconception("launch_spec", "Raises TypeError for what is no number.")
def type_error(processes, node, *, master="localhost", port=29500, env=None):
    if not all(n > 0 for n in processes):
        raise ValueError("at least 1 each")
    return reference_launch(processes, node, master=master, port=port, env=env)


@misconception("launch_spec", "Lets a node start no process.")
def empty_nodes(processes, node, *, master="localhost", port=29500, env=None):
    if 0 in processes[1:]:
        return []
    return reference_launch(processes, node, master=master, port=port, env=env)


@misconception("launch_spec", "Takes 0 for a port.")
def port_of_zero(processes, node, *, master="localhost", port=29500, env=None):
    if type(port) is int and port == 0:
        return _each(reference_launch(processes, node, master=master, env=env), lambda process, local: {"MASTER_PORT": "0"})
    return reference_launch(processes, node, master=master, port=port, env=env)


@misconception("launch_spec", "Takes 65535 for too large.")
def one_port_too_few(processes, node, *, master="localhost", port=29500, env=None):
    if port == 65535:
        raise ValueError("no port")
    return reference_launch(processes, node, master=master, port=port, env=env)


@misconception("launch_spec", "Takes an address with whitespace, because it only looks whether there is one.")
def whitespace_is_fine(processes, node, *, master="localhost", port=29500, env=None):
    if master:
        spec = reference_launch(processes, node, port=port, env=env)
        return _each(spec, lambda process, local: {"MASTER_ADDR": master})
    return reference_launch(processes, node, master=master, port=port, env=env)


@misconception("launch_spec", "Strips whitespace from the address, where it has to refuse.")
def strips_the_address(processes, node, *, master="localhost", port=29500, env=None):
    return reference_launch(processes, node, master=master.strip(), port=port, env=env)


# log_run


def _written(folder, epochs, accuracies, every, first_step, *, step_of=None, mean=None, due=None, place=None, number=None, close=True):
    """The reference with parts replaced: a batch's step, an epoch's mean, which batches are written, and where the epoch's points go."""
    if len(accuracies) != len(epochs) or every < 1:
        raise ValueError("accuracies, every")
    from torch.utils.tensorboard import SummaryWriter

    number = number or (lambda loss: float(torch.as_tensor(loss).detach()))
    writer = SummaryWriter(folder)
    step = first_step
    for epoch, (losses, accuracy) in enumerate(zip(epochs, accuracies, strict=True)):
        for batch, loss in enumerate(losses):
            at = step_of(epoch, batch, step) if step_of else step
            if due(epoch, batch, step) if due else step % every == 0:
                writer.add_scalar("loss/batch", number(loss), at)
            step += 1
        if len(losses):
            at = place(epoch, step) if place else step - 1
            values = [number(loss) for loss in losses]
            writer.add_scalar("loss/epoch", mean(losses) if mean else sum(values) / len(values), at)
            writer.add_scalar("accuracy", accuracy, at)
    if close:
        writer.close()
    return step


@misconception("log_run", "Begins each epoch with step 0 again, so that curves lie on one another.")
def restarts_each_epoch(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, step_of=lambda epoch, batch, step: first_step + batch)


@misconception("log_run", "Takes the epoch's number for the step of its mean and accuracy.")
def epochs_as_steps(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, place=lambda epoch, step: first_step + epoch)


@misconception("log_run", "Puts mean and accuracy at the first step of the next epoch.")
def one_step_late(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, place=lambda epoch, step: step)


@misconception("log_run", "Counts steps from 1.")
def counts_from_one(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, step_of=lambda epoch, batch, step: step + 1)


@misconception("log_run", "Takes epoch · (batches of this epoch) + batch for the step: epochs may differ.")
def epochs_are_equal(folder, epochs, accuracies, *, every=1, first_step=0):
    def step_of(epoch, batch, step):
        return first_step + epoch * len(epochs[epoch]) + batch

    return _written(folder, epochs, accuracies, every, first_step, step_of=step_of)


@misconception("log_run", "Leaves first_step out of what it writes.")
def ignores_the_first_step(folder, epochs, accuracies, *, every=1, first_step=0):
    return first_step + _written(folder, epochs, accuracies, every, 0)


@misconception("log_run", "Counts `every` within each epoch, and not by steps.")
def every_within_an_epoch(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, due=lambda epoch, batch, step: batch % every == 0)


@misconception("log_run", "Counts `every` from the first step of this run, and not by the step itself.")
def every_within_a_run(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, due=lambda epoch, batch, step: (step - first_step) % every == 0)


@misconception("log_run", "Writes the batch before a multiple of `every`.")
def every_one_early(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, due=lambda epoch, batch, step: (step + 1) % every == 0)


@misconception("log_run", "Writes every batch, whatever `every` says.")
def writes_all(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, due=lambda epoch, batch, step: True)


@misconception("log_run", "Numbers the written batches through, instead of giving each its own step.")
def numbers_what_is_written(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, step_of=lambda epoch, batch, step: step // every)


@misconception("log_run", "Takes the mean in the losses' own dtype, which is coarse, or too small for the sum.")
def mean_in_the_losses_dtype(folder, epochs, accuracies, *, every=1, first_step=0):
    def mean(losses):
        total = sum(losses)
        return float(torch.as_tensor(total / len(losses)).detach())

    return _written(folder, epochs, accuracies, every, first_step, mean=mean)


@misconception("log_run", "Writes the last batch's loss as the epoch's.")
def last_loss(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, mean=lambda losses: float(torch.as_tensor(losses[-1]).detach()))


@misconception("log_run", "Writes the epoch's sum, not its mean.")
def sum_of_losses(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(
        folder, epochs, accuracies, every, first_step, mean=lambda losses: sum(float(torch.as_tensor(x).detach()) for x in losses)
    )


@misconception("log_run", "Takes the mean of the written batches only.")
def mean_of_the_written(folder, epochs, accuracies, *, every=1, first_step=0):
    means, step = [], first_step
    for losses in epochs:
        kept = [float(torch.as_tensor(x).detach()) for n, x in enumerate(losses, step) if n % max(every, 1) == 0]
        step += len(losses)
        if losses:
            means.append(sum(kept) / max(len(kept), 1))
    return _written(folder, epochs, accuracies, every, first_step, mean=lambda losses: means.pop(0))


@misconception("log_run", "Averages over the run so far, where the epoch's mean is due.")
def running_mean(folder, epochs, accuracies, *, every=1, first_step=0):
    seen = []

    def mean(losses):
        seen.extend(float(torch.as_tensor(x).detach()) for x in losses)
        return sum(seen) / len(seen)

    return _written(folder, epochs, accuracies, every, first_step, mean=mean)


@misconception("log_run", "Leaves the writer open: what is still in its queue is not in the file.")
def leaves_the_writer_open(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step, close=False)


@misconception("log_run", "Uses add_scalars, which makes a folder and a file of its own for each curve.")
def many_files(folder, epochs, accuracies, *, every=1, first_step=0):
    step = _written(folder, epochs, [0.0] * len(epochs) if len(accuracies) == len(epochs) else accuracies, every, first_step)
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(folder) as writer:
        writer.add_scalars("more", {"accuracy": sum(accuracies)}, step)
    return step


@misconception("log_run", "Leaves NaN out.")
def leaves_nan_out(folder, epochs, accuracies, *, every=1, first_step=0):
    def due(epoch, batch, step):
        return step % every == 0 and not torch.as_tensor(epochs[epoch][batch]).isnan()

    return _written(folder, epochs, accuracies, every, first_step, due=due)


@misconception("log_run", "Divides by the number of batches without a look: an epoch may have none.")
def divides_by_zero(folder, epochs, accuracies, *, every=1, first_step=0):
    for losses in epochs:
        1 / len(losses)
    return _written(folder, epochs, accuracies, every, first_step)


@misconception("log_run", "Writes the accuracy of an epoch without batches.")
def accuracy_of_nothing(folder, epochs, accuracies, *, every=1, first_step=0):
    following = _written(folder, epochs, accuracies, every, first_step)
    from torch.utils.tensorboard import SummaryWriter

    usual = SummaryWriter.add_scalar
    missing = [accuracy for losses, accuracy in zip(epochs, accuracies, strict=True) if not len(losses)]
    if missing:
        import shutil

        shutil.rmtree(folder)

        def add_scalar(self, tag, value, step):
            usual(self, tag, value, step)
            if tag == "accuracy" and missing:
                usual(self, tag, missing.pop(), step)

        SummaryWriter.add_scalar = add_scalar
        try:
            _written(folder, epochs, accuracies, every, first_step)
        finally:
            SummaryWriter.add_scalar = usual
    return following


@misconception("log_run", "Returns the last step that was written, and not the one that comes next.")
def returns_the_last_step(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step) - 1


@misconception("log_run", "Returns how many batches there were, without the steps before them.")
def returns_the_number(folder, epochs, accuracies, *, every=1, first_step=0):
    return _written(folder, epochs, accuracies, every, first_step) - first_step


@misconception("log_run", "Opens the writer before it looks at the arguments, so that a refused run leaves a folder.")
def opens_first(folder, epochs, accuracies, *, every=1, first_step=0):
    if len(accuracies) != len(epochs) or every < 1:
        from torch.utils.tensorboard import SummaryWriter

        SummaryWriter(folder).close()
    return _written(folder, epochs, accuracies, every, first_step)


@misconception("log_run", "Cuts epochs and accuracies to the same length, where it has to refuse.")
def cuts_to_length(folder, epochs, accuracies, *, every=1, first_step=0):
    n = min(len(epochs), len(accuracies))
    return _written(folder, epochs[:n], accuracies[:n], every, first_step)


@misconception("log_run", "Has another tag for the accuracy.")
def another_tag(folder, epochs, accuracies, *, every=1, first_step=0):
    from torch.utils.tensorboard import SummaryWriter

    class Renamed(SummaryWriter):
        pass

    usual = SummaryWriter.add_scalar

    def add_scalar(self, tag, *args, **kwargs):
        return usual(self, "accuracy/epoch" if tag == "accuracy" else tag, *args, **kwargs)

    SummaryWriter.add_scalar = add_scalar
    try:
        return _written(folder, epochs, accuracies, every, first_step)
    finally:
        SummaryWriter.add_scalar = usual


# lit_classifier


def _lit(model, lr, warmup, **methods):
    """The reference with these methods replaced."""
    from lightning import LightningModule

    class Lit(LightningModule):
        def __init__(self, model, lr, warmup):
            super().__init__()
            self.save_hyperparameters(ignore=["model"])
            self.model = model

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = nn.functional.cross_entropy(self(x), y)
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
            return loss

        def validation_step(self, batch, batch_idx):
            x, y = batch
            logits = self(x)
            self.log("val_loss", nn.functional.cross_entropy(logits, y), on_step=False, on_epoch=True, batch_size=len(y))
            self.log("val_acc", (logits.argmax(1) == y).float().mean(), on_step=False, on_epoch=True, batch_size=len(y))

        def predict_step(self, batch, batch_idx):
            return self(batch if isinstance(batch, Tensor) else batch[0]).argmax(1)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=lr)
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / warmup))
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    for name, method in methods.items():
        setattr(Lit, name, method)
    return Lit(model, lr, warmup)


def _step(loss_of, *, size=len, scale=1.0):
    """A training step with this loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = loss_of(self(x), y)
        self.log("train_loss", scale * loss, on_step=False, on_epoch=True, batch_size=size(y))
        return loss

    return training_step


def _optimizers(make=None, plan=None, factor=None, chosen=None):
    """A configure_optimizers with parts replaced."""

    def of(lr, warmup):
        def configure_optimizers(self):
            parameters = chosen(self) if chosen else [p for p in self.model.parameters() if p.requires_grad]
            optimizer = (make or torch.optim.SGD)(parameters, lr=lr)
            rule = factor or (lambda n, warmup: min(1, (n + 1) / warmup))
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: rule(n, warmup))
            return {"optimizer": optimizer, "lr_scheduler": plan(scheduler) if plan else {"scheduler": scheduler, "interval": "step"}}

        return configure_optimizers

    return of


@misconception("lit_classifier", "Takes the softmax before the cross entropy, which takes it once more.")
def double_softmax(model, lr=0.1, warmup=4):
    return _lit(model, lr, warmup, training_step=_step(lambda logits, y: nn.functional.cross_entropy(logits.softmax(1), y)))


@misconception("lit_classifier", "Sums the loss over the batch.")
def summed_loss(model, lr=0.1, warmup=4):
    return _lit(model, lr, warmup, training_step=_step(lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="sum")))


@misconception("lit_classifier", "Returns the loss without its graph.")
def detached_loss(model, lr=0.1, warmup=4):
    return _lit(model, lr, warmup, training_step=_step(lambda logits, y: nn.functional.cross_entropy(logits, y).detach()))


@misconception("lit_classifier", "Returns nothing from training_step: Lightning skips such a batch.")
def returns_nothing(model, lr=0.1, warmup=4):
    step = _step(nn.functional.cross_entropy)

    def training_step(self, batch, batch_idx):
        step(self, batch, batch_idx)

    return _lit(model, lr, warmup, training_step=training_step)


@misconception("lit_classifier", "Calls backward as well: the trainer does so already.")
def goes_backward_itself(model, lr=0.1, warmup=4):
    step = _step(nn.functional.cross_entropy)

    def training_step(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        loss.backward(retain_graph=True)
        return loss

    return _lit(model, lr, warmup, training_step=training_step)


@misconception("lit_classifier", "Logs every batch with the same weight: a short last batch counts as much as a whole one.")
def batches_weigh_the_same(model, lr=0.1, warmup=4):
    return _lit(model, lr, warmup, training_step=_step(nn.functional.cross_entropy, size=lambda y: 1))


@misconception("lit_classifier", "Lets Lightning guess the batch's size from its first tensor.")
def guesses_the_size(model, lr=0.1, warmup=4):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    return _lit(model, lr, warmup, training_step=training_step)


@misconception("lit_classifier", "Logs the training loss of each step only, so that the last batch's is left at the end.")
def logs_steps_only(model, lr=0.1, warmup=4):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    return _lit(model, lr, warmup, training_step=training_step)


@misconception("lit_classifier", "Logs the training loss as `loss`.")
def logs_another_name(model, lr=0.1, warmup=4):
    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    return _lit(model, lr, warmup, training_step=training_step)


@misconception("lit_classifier", "Logs how many are right, not their share.")
def counts_right_ones(model, lr=0.1, warmup=4):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", nn.functional.cross_entropy(logits, y), on_step=False, on_epoch=True, batch_size=len(y))
        self.log("val_acc", (logits.argmax(1) == y).float().sum(), on_step=False, on_epoch=True, batch_size=len(y))

    return _lit(model, lr, warmup, validation_step=validation_step)


@misconception("lit_classifier", "Leaves the validation loss out.")
def no_validation_loss(model, lr=0.1, warmup=4):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean(), on_step=False, on_epoch=True, batch_size=len(y))

    return _lit(model, lr, warmup, validation_step=validation_step)


@misconception("lit_classifier", "Uses the training step to validate, and so logs train_loss over it.")
def validates_by_training(model, lr=0.1, warmup=4):
    def validation_step(self, batch, batch_idx):
        x, y = batch
        loss = self.training_step(batch, batch_idx)
        self.log("val_loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        self.log("val_acc", (self(x).argmax(1) == y).float().mean(), on_step=False, on_epoch=True, batch_size=len(y))

    return _lit(model, lr, warmup, validation_step=validation_step)


@misconception("lit_classifier", "Switches to train mode by itself, also to validate: the trainer has switched to eval mode.")
def switches_modes(model, lr=0.1, warmup=4):
    def forward(self, x):
        self.model.train()
        return self.model(x)

    return _lit(model, lr, warmup, forward=forward)


@misconception("lit_classifier", "Predicts the logits themselves.")
def predicts_logits(model, lr=0.1, warmup=4):
    def predict_step(self, batch, batch_idx):
        return self(batch if isinstance(batch, Tensor) else batch[0])

    return _lit(model, lr, warmup, predict_step=predict_step)


@misconception("lit_classifier", "Compares samples, not classes, for the prediction.")
def predicts_along_the_batch(model, lr=0.1, warmup=4):
    def predict_step(self, batch, batch_idx):
        return self(batch if isinstance(batch, Tensor) else batch[0]).argmax(0)

    return _lit(model, lr, warmup, predict_step=predict_step)


@misconception("lit_classifier", "Takes every batch for a pair when it predicts.")
def predicts_pairs_only(model, lr=0.1, warmup=4):
    def predict_step(self, batch, batch_idx):
        x, _ = batch
        return self(x).argmax(1)

    return _lit(model, lr, warmup, predict_step=predict_step)


@misconception("lit_classifier", "Hands the whole batch to the model when it predicts, as Lightning does by itself.")
def predicts_by_default(model, lr=0.1, warmup=4):
    def predict_step(self, batch, batch_idx):
        return self(batch).argmax(1)

    return _lit(model, lr, warmup, predict_step=predict_step)


@misconception("lit_classifier", "Gives the scheduler alone: Lightning then steps it once an epoch.")
def steps_once_an_epoch(model, lr=0.1, warmup=4):
    make = _optimizers(plan=lambda scheduler: {"scheduler": scheduler, "interval": "epoch"})
    return _lit(model, lr, warmup, configure_optimizers=make(lr, warmup))


@misconception("lit_classifier", "Begins the warm-up with rate 0: the first step changes nothing.")
def begins_with_zero(model, lr=0.1, warmup=4):
    make = _optimizers(factor=lambda n, warmup: min(1, n / warmup))
    return _lit(model, lr, warmup, configure_optimizers=make(lr, warmup))


@misconception("lit_classifier", "Lets the rate grow beyond lr.")
def never_stops_growing(model, lr=0.1, warmup=4):
    make = _optimizers(factor=lambda n, warmup: (n + 1) / warmup)
    return _lit(model, lr, warmup, configure_optimizers=make(lr, warmup))


@misconception("lit_classifier", "Ends the warm-up one step late.")
def one_step_longer(model, lr=0.1, warmup=4):
    make = _optimizers(factor=lambda n, warmup: min(1, (n + 1) / (warmup + 1)))
    return _lit(model, lr, warmup, configure_optimizers=make(lr, warmup))


@misconception("lit_classifier", "Takes LinearLR over `warmup` steps: from 1 / warmup to 1 there are warmup − 1.")
def linear_over_warmup(model, lr=0.1, warmup=4):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=lr)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, total_iters=warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return _lit(model, lr, warmup, configure_optimizers=configure_optimizers)


@misconception("lit_classifier", "Uses Adam.")
def uses_adam(model, lr=0.1, warmup=4):
    return _lit(model, lr, warmup, configure_optimizers=_optimizers(make=torch.optim.Adam)(lr, warmup))


@misconception("lit_classifier", "Adds momentum.")
def adds_momentum(model, lr=0.1, warmup=4):
    make = _optimizers(make=lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9))
    return _lit(model, lr, warmup, configure_optimizers=make(lr, warmup))


@misconception("lit_classifier", "Hands frozen parameters to the optimizer, too.")
def frozen_ones_too(model, lr=0.1, warmup=4):
    return _lit(model, lr, warmup, configure_optimizers=_optimizers(chosen=lambda self: list(self.parameters()))(lr, warmup))


@misconception("lit_classifier", "Keeps the settings as attributes only, so that no checkpoint holds them.")
def no_hyperparameters(model, lr=0.1, warmup=4):
    return _lit(model, lr, warmup, save_hyperparameters=lambda self, **settings: None)


@misconception("lit_classifier", "Saves the model among the settings: a checkpoint then holds it twice, and pickled.")
def model_among_the_settings(model, lr=0.1, warmup=4):
    from lightning import LightningModule

    def save_hyperparameters(self, *, ignore):
        LightningModule.save_hyperparameters(self, {"model": model, "lr": lr, "warmup": warmup})

    return _lit(model, lr, warmup, save_hyperparameters=save_hyperparameters)


@misconception("lit_classifier", "Trains a copy: the model that was handed in stays as it is.")
def trains_a_copy(model, lr=0.1, warmup=4):
    import copy

    return _lit(copy.deepcopy(model), lr, warmup)


@misconception("lit_classifier", "Draws the weights anew, so that every run begins alike.")
def draws_weights_anew(model, lr=0.1, warmup=4):
    for part in model.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return _lit(model, lr, warmup)


@misconception("lit_classifier", "Seeds the random numbers of the whole program.")
def seeds_everything(model, lr=0.1, warmup=4):
    torch.manual_seed(0)
    return _lit(model, lr, warmup)
