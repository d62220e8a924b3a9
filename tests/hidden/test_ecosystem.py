"""Hidden suite of the module ecosystem."""

import contextlib
import io
import math
import operator

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from grader.testing import LAYOUTS, NotEvents, measured, raised, read_scalars, task, with_ones

F64 = torch.float64


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def collected(graphs):
    """A backend that runs graphs as they are, and appends each to a list."""

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return backend


# twice_op


def name_of(draw):
    """A name for an operator that nobody has used."""
    return f"lab_{draw.integer(0, 10**9)}::twice_{draw.integer(0, 10**9)}"


def registered(name):
    """The operator of this name, as everybody finds it."""
    from torch import ops  # here, because it can't be shipped with a probe

    namespace, _, own = name.partition("::")
    return getattr(getattr(ops, namespace), own)


def scale_of(draw):
    """A factor that is neither 0 nor 1."""
    return 1.5 + draw.integer(0, 10**6) / 10**6


@task("twice_op")
class TestTwiceOp:
    @pytest.mark.parametrize("layout", ["contiguous", *LAYOUTS])
    def test_values(self, agree, draw, layout):
        """X comes first, and then x times scale, along the first axis, in every layout."""
        name, scale, x = name_of(draw), scale_of(draw), draw.normal(3, 5, 2, dtype=F64, layout=layout)
        agree(lambda m: m.twice_op(name)(x, scale), rtol=1e-14, atol=0)

    @pytest.mark.parametrize("shape", [*with_ones(5, 3), (7,), (2, 3, 2, 5)])
    def test_shapes(self, agree, draw, shape):
        """Any number of axes from one on, and sizes of 1."""
        name, scale, x = name_of(draw), scale_of(draw), draw.normal(*shape)
        agree(lambda m: m.twice_op(name)(x, scale), rtol=1e-6, atol=0)

    def test_nothing(self, agree, draw):
        """No rows give no rows, and the other sizes stay."""
        name, scale, n = name_of(draw), scale_of(draw), draw.integer(2, 10**5)

        def probe(m):
            op = m.twice_op(name)
            x = torch.zeros(0, n, requires_grad=True)
            y = op(x, scale)
            return y, torch.autograd.grad(y.sum(), x), op(torch.ones(2), scale)

        agree(probe, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_dtypes(self, agree, draw, dtype):
        """The result has the dtype of x, and its precision."""
        name, scale, x = name_of(draw), scale_of(draw), draw.magnitudes(11, low=1e-30, high=1e30, dtype=dtype)
        agree(lambda m: m.twice_op(name)(x, scale), rtol=1e-6 if dtype is torch.float32 else 1e-14, atol=0)

    @pytest.mark.parametrize("scale", [0.0, -1.0, -2.5, 1.0, 1e-3])
    def test_scales(self, agree, draw, scale):
        """A scale may be 0, 1 or negative, in the value and in the gradient."""
        name, x, g = name_of(draw), draw.normal(3, 2, dtype=F64), draw.normal(6, 2, dtype=F64)

        def probe(m):
            inner = leaf(x)
            y = m.twice_op(name)(inner, scale)
            return y.detach(), torch.autograd.grad(y, inner, g)

        agree(probe, rtol=1e-13, atol=1e-13)

    def test_found_by_its_name(self, agree, draw):
        """The operator is torch.ops' under the name that was given, with the schema that the statement has."""
        name, scale, x = name_of(draw), scale_of(draw), draw.normal(4, 3)

        def probe(m):
            op = m.twice_op(name)
            found = registered(name)
            return str(found.default._schema), found(x, scale), found(scale=scale, x=x), op(x=x, scale=scale)

        agree(probe, rtol=1e-6, atol=0)

    def test_two_names(self, agree, draw):
        """Two operators stand beside each other."""
        first, second, scale, x = name_of(draw), name_of(draw), scale_of(draw), draw.normal(4, 3)

        def probe(m):
            ops = m.twice_op(first), m.twice_op(second)
            return [op(x, scale) for op in ops] + [registered(name)(x, -scale) for name in (first, second)]

        agree(probe, rtol=1e-6, atol=0)

    def test_a_name_again(self, agree, draw):
        """A name may be registered again."""
        name, scale, x, g = name_of(draw), scale_of(draw), draw.normal(4, 3, dtype=F64), draw.normal(8, 3, dtype=F64)

        def probe(m):
            m.twice_op(name)
            inner = leaf(x)
            y = m.twice_op(name)(inner, scale)
            return y.detach(), torch.autograd.grad(y, inner, g), registered(name)(x, scale)

        agree(probe, rtol=1e-13, atol=1e-13)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_on_meta(self, agree, draw, dtype):
        """Without numbers, shape, dtype and device come out all the same."""
        name, scale = name_of(draw), scale_of(draw)
        shapes = [(draw.integer(2, 10**9),), (draw.integer(2, 10**5), draw.integer(2, 999)), (draw.integer(2, 99), 3, draw.integer(2, 99))]

        def probe(m):
            op = m.twice_op(name)
            return [op(torch.empty(shape, dtype=dtype, device="meta"), scale) for shape in shapes], op(torch.ones(1), scale)

        agree(probe, rtol=1e-6, atol=0)

    def test_fake_tensors(self, agree, draw):
        """Fake tensors, with which the compiler plans, get shape, dtype and device of a CPU tensor."""
        name, scale, a, b = name_of(draw), scale_of(draw), draw.integer(2, 10**5), draw.integer(2, 10**3)

        def probe(m):
            from torch._subclasses.fake_tensor import FakeTensorMode

            op = m.twice_op(name)
            with FakeTensorMode():
                fakes = [op(torch.ones(a, b, dtype=dtype), scale) for dtype in (torch.float32, torch.float64)]
            return [(list(fake.shape), str(fake.dtype), str(fake.device)) for fake in fakes], op(torch.ones(1), scale)

        agree(probe, rtol=1e-6, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_gradient(self, agree, draw, dtype):
        """The gradient for x is the first half of the incoming one, and scale times the second."""
        name, scale, x, g = name_of(draw), scale_of(draw), draw.normal(3, 5, dtype=dtype), draw.normal(6, 5, dtype=dtype)

        def probe(m):
            inner = leaf(x)
            return torch.autograd.grad(m.twice_op(name)(inner, scale), inner, g)

        agree(probe, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts_of_the_gradient(self, agree, draw, layout):
        """A gradient that comes in with holes is taken as well."""
        name, scale = name_of(draw), scale_of(draw)
        x, g = draw.normal(3, 5, dtype=F64, layout=layout), draw.normal(6, 5, dtype=F64, layout=layout)

        def probe(m):
            inner = x.detach().requires_grad_()
            return torch.autograd.grad(m.twice_op(name)(inner, scale), inner, g)

        agree(probe, rtol=1e-13, atol=1e-13)

    def test_gradient_within_a_network(self, agree, draw):
        """Gradients arrive at the weights before the operator, and at those behind it."""
        name, scale = name_of(draw), scale_of(draw)
        x, v, w = draw.normal(4, 3, dtype=F64), draw.normal(3, 2, dtype=F64), draw.normal(8, 2, dtype=F64)

        def probe(m):
            before, behind = leaf(v), leaf(w)
            ((m.twice_op(name)((x @ before).tanh(), scale) * behind) ** 2).sum().backward()
            return before.grad, behind.grad

        agree(probe, rtol=1e-12, atol=1e-13)

    def test_each_call_has_its_scale(self, agree, draw):
        """Two calls are pending when the gradient is asked for: each uses its own scale."""
        name, s, t = name_of(draw), scale_of(draw), -scale_of(draw)
        x, g, h = draw.normal(5, dtype=F64), draw.normal(10, dtype=F64), draw.normal(10, dtype=F64)

        def probe(m):
            op, inner = m.twice_op(name), leaf(x)
            first, second = op(inner, s), op(inner, t)
            return torch.autograd.grad((first, second), inner, (g, h))

        agree(probe, rtol=1e-13, atol=1e-13)

    def test_applied_twice(self, agree, draw):
        """The operator takes its own result."""
        name, s, t = name_of(draw), scale_of(draw), scale_of(draw)
        x, g = draw.normal(3, 2, dtype=F64), draw.normal(12, 2, dtype=F64)

        def probe(m):
            op, inner = m.twice_op(name), leaf(x)
            y = op(op(inner, s), t)
            return y.detach(), torch.autograd.grad(y, inner, g)

        agree(probe, rtol=1e-13, atol=1e-13)

    def test_gradient_of_the_gradient(self, agree, draw):
        """The gradient can be differentiated in its turn."""
        name, scale = name_of(draw), scale_of(draw)
        x, g, v = draw.normal(3, 2, dtype=F64), draw.normal(6, 2, dtype=F64), draw.normal(3, 2, dtype=F64)

        def probe(m):
            op, inner, outer = m.twice_op(name), leaf(x), leaf(g)
            (first,) = torch.autograd.grad(op(inner, scale), inner, outer, create_graph=True)
            (second,) = torch.autograd.grad(op(inner**3, scale), inner, outer, create_graph=True)
            return torch.autograd.grad(first, outer, v), torch.autograd.grad(second, (inner, outer), v)

        agree(probe, rtol=1e-13, atol=1e-13)

    def test_memory_of_its_own(self, agree, draw):
        """Who writes to the result does not write to x."""
        name, scale, x = name_of(draw), scale_of(draw), draw.normal(4, 3)

        def probe(m):
            mine = x.clone()
            y = m.twice_op(name)(mine, scale)
            kept = y.clone()
            y.add_(1)
            return kept, mine

        agree(probe, rtol=1e-6, atol=0)

    @measured("graphs")
    def test_one_node_of_a_graph(self, agree, draw):
        """The compiler takes the operator as one node, and computes with it."""
        name, scale, x, g = name_of(draw), scale_of(draw), draw.normal(4, 3), draw.normal(8, 3)

        def probe(m):
            op, graphs, inner = m.twice_op(name), [], leaf(x)
            torch._dynamo.reset()
            compiled = torch.compile(lambda x: op(x, scale) - 1, fullgraph=True, backend=collected(graphs))
            y = compiled(inner)
            nodes = [str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "call_function"]
            return nodes.count(f"{name.replace('::', '.')}.default"), len(nodes), y.detach(), torch.autograd.grad(y, inner, g)

        agree(probe, rtol=1e-5, atol=1e-6)


# break_free


def compiled(m, **settings):
    """The task's function, compiled whole."""
    torch._dynamo.reset()
    return torch.compile(m.break_free, fullgraph=True, backend="eager", **settings)


def gradients(f, x, limit, g):
    """The results, and the gradient of x for the gradient g of the rows and a gradient of 1 of factor."""
    inner = leaf(x)
    rows, factor, bad = f(inner, limit)
    (inner_grad,) = torch.autograd.grad((rows * g).sum() + factor, inner)
    return rows.detach(), factor.detach(), bad, inner_grad


def spoilt(draw, x, rows):
    """X with a NaN or an infinity somewhere in each of these rows."""
    x = x.clone()
    for number, row in enumerate(rows):
        x[row, draw.integer(0, x.shape[1])] = (math.nan, math.inf, -math.inf)[(number + draw.integer(0, 3)) % 3]
    return x


@task("break_free")
class TestBreakFree:
    @pytest.mark.parametrize(
        ("layout", "limit"),
        [("contiguous", 1.25), ("contiguous", math.inf), ("transposed", 1.25), ("sliced", 1e3), ("expanded", 1.25)],
    )
    def test_clean_batches(self, agree, draw, layout, limit):
        """Without bad rows, only the norm counts: above limit, all is scaled down to it."""
        x = draw.normal(5, 3, dtype=F64, layout=layout)
        agree(lambda m: compiled(m)(x, limit), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_dtypes(self, agree, draw, dtype):
        """Rows and factor have the dtype of x; the number of bad rows is int64."""
        x = spoilt(draw, draw.normal(6, 4, dtype=dtype), [2])

        def probe(m):
            f = compiled(m)
            return f(x, 0.75), f(x, 100.0)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_bad_rows(self, agree, draw):
        """A row with NaN, inf or -inf becomes zeros, is counted, and does not count in the norm."""
        x = spoilt(draw, draw.normal(9, 4, dtype=F64), draw.permutation(9)[: draw.integer(3, 8)].tolist())
        agree(lambda m: compiled(m)(x, 1.25), rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("kind", [math.nan, math.inf, -math.inf])
    def test_each_kind_of_bad(self, agree, draw, kind):
        """Each of NaN, inf and -inf is enough; several in a row are one bad row."""
        x = draw.normal(7, 3, dtype=F64)
        x[draw.integer(0, 3)] = kind
        x[draw.integer(3, 7), draw.integer(0, 3)] = kind
        agree(lambda m: compiled(m)(x, 0.5), rtol=1e-12, atol=1e-13)

    def test_all_bad(self, agree, draw):
        """If all rows are bad, zeros are left, and the factor is 1."""
        x = draw.normal(draw.integer(2, 20), draw.integer(2, 999))
        bad = torch.full_like(x, math.nan)

        def probe(m):
            f = compiled(m)
            return f(bad, 0.5), f(x, 0.5)

        agree(probe, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("shape", [(0, 3), (1, 3), (4, 1), (1, 1), (3, 0)])
    def test_small_batches(self, agree, draw, shape):
        """One row, one column, or none of either."""
        x, y = draw.normal(*shape, dtype=F64), draw.normal(5, 2, dtype=F64)

        def probe(m):
            f = compiled(m)
            return f(x, 0.01), None if x.numel() else f(y, 0.01)

        agree(probe, rtol=1e-12, atol=1e-13)

    def test_a_limit_of_zero(self, agree, draw):
        """With limit 0 all becomes 0, with factor 0; a batch of zeros has factor 1."""
        x, y = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64)

        def probe(m):
            f = compiled(m)
            return f(x, 0.0), f(torch.zeros_like(x), 0.0), f(y, 0.5)

        agree(probe, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("limit", [0.75, 1e3])
    def test_gradients(self, agree, draw, limit):
        """Gradients flow to x; where all was scaled down, through factor too."""
        x, g = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64)
        agree(lambda m: gradients(compiled(m), x, limit, g), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("limit", [0.75, 1e3])
    def test_gradients_of_bad_rows(self, agree, draw, limit):
        """A bad row has gradient 0, and spoils no other row's."""
        x, g = spoilt(draw, draw.normal(7, 3, dtype=F64), [1, 4, 5]), draw.normal(7, 3, dtype=F64)
        agree(lambda m: gradients(compiled(m), x, limit, g), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("limit", [0.0, 0.5])
    def test_gradients_of_zeros(self, agree, draw, limit):
        """A batch of zeros gets the gradient that came in, not NaN; so do rows of which all are bad get zeros."""
        g, zeros = draw.normal(4, 3, dtype=F64), torch.zeros(4, 3, dtype=F64)

        def probe(m):
            f = compiled(m)
            return gradients(f, zeros, limit, g), gradients(f, zeros / zeros, limit, g), gradients(f, g, limit, g)

        agree(probe, rtol=1e-11, atol=1e-12)

    def test_at_the_limit(self, agree, draw):
        """Where total equals limit, factor is the constant 1, and gradients pass as they are."""
        k, g = 2.0 ** draw.integer(-20, 20), draw.normal(1, 2, dtype=F64)
        x = torch.tensor([[3 * k, 4 * k]], dtype=F64)
        agree(lambda m: gradients(compiled(m), x, 5 * k, g), rtol=1e-11, atol=0)

    @pytest.mark.parametrize(("total", "limit"), [(0.5, 0.375), (0.5, 0.625), (3.0, 2.5), (3.0, 5.0)])
    def test_around_the_limit(self, agree, draw, total, limit):
        """The norm is compared with limit, and not its square."""
        x, g = draw.normal(4, 3, dtype=F64), draw.normal(4, 3, dtype=F64)
        x = x * (total / x.norm())
        agree(lambda m: gradients(compiled(m), x, limit, g), rtol=1e-11, atol=1e-12)

    @pytest.mark.parametrize("size", [1e-100, 1e100])
    def test_sizes_of_numbers(self, agree, draw, size):
        """Tiny and large numbers are good ones, and are clipped as others are; infinity is bad beside them."""
        x, g = draw.normal(5, 3, dtype=F64) * size, draw.normal(5, 3, dtype=F64)
        x[draw.integer(0, 5), 1] = math.inf

        def probe(m):
            rows, factor, bad, gradient = gradients(compiled(m), x, size / 4, g / size)
            return rows / size, factor, bad, gradient * size

        agree(probe, rtol=1e-10, atol=1e-12)

    def test_two_limits(self, agree, draw):
        """One compiled function serves one limit after another."""
        x, limits = draw.normal(5, 3, dtype=F64), draw.uniform(3, low=0.1, high=2.0).tolist()

        def probe(m):
            f = compiled(m)
            return [f(x, limit) for limit in limits]

        agree(probe, rtol=1e-12, atol=1e-13)

    @pytest.mark.parametrize("dtype", [torch.float32, F64])
    def test_on_meta(self, agree, draw, dtype):
        """Where there are no numbers, shapes and dtypes come out all the same."""
        n, d = draw.integer(2, 60), draw.integer(2, 10**9)
        agree(lambda m: m.break_free(torch.empty(n, d, dtype=dtype, device="meta"), 1.5), rtol=0, atol=0)

    @measured("graphs")
    def test_one_graph_for_every_number_of_rows(self, agree, draw):
        """With dynamic sizes, one graph serves batches of several numbers of rows."""
        batches = [spoilt(draw, draw.normal(n, 3, dtype=F64), [1]) for n in (7, 2, 13, 5)]

        def probe(m):
            graphs = []
            torch._dynamo.reset()
            f = torch.compile(m.break_free, fullgraph=True, dynamic=True, backend=collected(graphs))
            return [f(x, 1.5) for x in batches], len(graphs)

        agree(probe, rtol=1e-12, atol=1e-13)

    def test_prints_nothing(self, agree, draw):
        """Nothing is printed, compiled or not."""
        x = spoilt(draw, draw.normal(6, 3, dtype=F64), [4])

        def probe(m):
            with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
                plain, whole = m.break_free(x, 1.5), compiled(m)(x, 1.5)
            return plain, whole, out.getvalue() + errors.getvalue()

        agree(probe, rtol=1e-12, atol=1e-13)

    def test_leaves_x_alone(self, agree, draw):
        """The batch is what it was, with its bad rows, compiled or not."""
        x = spoilt(draw, draw.normal(6, 3, dtype=F64), [0, 3])

        def probe(m):
            mine = x.clone()
            whole = compiled(m)(mine, 1.5)
            return whole, mine, m.break_free(mine, 1.5), mine

        agree(probe, rtol=1e-12, atol=1e-13)


# CountingBackend

FUNCTIONS = (("call_function", torch.sin), ("call_function", torch.relu), ("call_function", F.softplus), ("call_function", torch.exp2))
METHODS = (("call_method", "neg"), ("call_method", "abs"), ("call_method", "cos"))
MODULES = (("call_module", "tanh"), ("call_module", "block.0"), ("call_module", "block.1"))


def steps_of(draw, table, n):
    """So many steps, drawn from a table."""
    return [table[number] for number in draw.integers(0, len(table), n).tolist()]


def graph_of(steps):
    """A graph that takes these steps one after another."""
    root = nn.Module()
    root.tanh, root.block = nn.Tanh(), nn.Sequential(nn.Sigmoid(), nn.ELU())
    graph = fx.Graph()
    value = graph.placeholder("x")
    for op, target in steps:
        value = graph.create_node(op, target, (value,))
    graph.output(value)
    return fx.GraphModule(root, graph)


def records(backend):
    """All that a backend tells."""
    return backend.graphs, backend.recompiles, dict(backend.ran())


@task("CountingBackend")
class TestCountingBackend:
    def test_functions(self, agree, draw):
        """A graph's operations are the names of its functions, in order, also where one comes twice."""
        steps, x = steps_of(draw, FUNCTIONS, 12), draw.normal(3, 5)

        def probe(m):
            backend = m.CountingBackend()
            y = backend(graph_of(steps), [x])(x)
            return records(backend), y

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_methods_and_modules(self, agree, draw):
        """Methods have their own name, and modules that of their class, wherever in the tree they are."""
        steps, x = [*steps_of(draw, FUNCTIONS + METHODS + MODULES, 14), *METHODS, *MODULES], draw.normal(2, 3)

        def probe(m):
            backend = m.CountingBackend()
            y = backend(graph_of(steps), [x])(x)
            return records(backend), y

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_no_other_nodes(self, agree, draw):
        """Inputs, weights and outputs are no operations."""
        steps, x, w = steps_of(draw, FUNCTIONS, 6), draw.normal(3, 4), draw.normal(3, 4)

        def probe(m):
            root = nn.Module()
            root.weight = nn.Parameter(w)
            graph = fx.Graph()
            value = graph.placeholder("x")
            graph.placeholder("unused")
            for op, target in steps:
                value = graph.create_node(op, target, (value,))
            value = graph.call_function(operator.mul, (value, graph.get_attr("weight")))
            graph.output((value, value))
            backend = m.CountingBackend()
            y = backend(fx.GraphModule(root, graph), [x, x])(x, x)
            return records(backend), [part.detach() for part in y]

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_no_operations(self, agree, draw):
        """A graph may have none; before there is a graph, all is empty."""
        steps, x = steps_of(draw, FUNCTIONS, 9), draw.normal(2, 3)

        def probe(m):
            backend = m.CountingBackend()
            before = [list(backend.graphs), backend.recompiles, dict(backend.ran())]
            y = backend(graph_of([]), [x])(x)
            backend(graph_of(steps), [x])
            return before, records(backend), y

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_calls(self, agree, draw):
        """Each graph has its own number of runs, and none has run before it is called."""
        kinds = [steps_of(draw, FUNCTIONS + METHODS, n) for n in (2, 3, 4)]
        order, x = draw.integers(0, 2, draw.integer(9, 40)).tolist(), draw.normal(2, 3)

        def probe(m):
            backend = m.CountingBackend()
            runs = [backend(graph_of(steps), [x]) for steps in kinds]
            before = [record["calls"] for record in backend.graphs]
            values = [runs[number](x) for number in order]
            return before, records(backend), values[-1]

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_a_run_that_fails(self, agree, draw):
        """A run that ends in an error is counted, and its error passed on."""
        n, steps = draw.integer(2, 60), steps_of(draw, FUNCTIONS, 5)

        def probe(m):
            def broken(*args):
                raise KeyError("inner")

            backend = m.CountingBackend(lambda graph, inputs: broken)
            run = backend(graph_of(steps), [])
            return [raised(KeyError, lambda: run(torch.ones(1))) for _ in range(n)], records(backend)

        agree(probe, rtol=0, atol=0)

    def test_ran(self, agree, draw):
        """How often an operation ran: as often as it stands in a graph, times the graph's runs, over all graphs."""
        kinds = [steps_of(draw, FUNCTIONS + METHODS + MODULES, 7) for _ in range(3)]
        times, x = [draw.integer(1, 20) for _ in range(3)], draw.normal(2)

        def probe(m):
            backend = m.CountingBackend()
            for steps, n in zip(kinds, times, strict=True):
                run = backend(graph_of(steps), [x])
                for _ in range(n):
                    run(x)
            return dict(backend.ran()), dict(backend.ran())

        agree(probe, rtol=0, atol=0)

    def test_what_never_ran_is_left_out(self, agree, draw):
        """Operations of graphs that were never called are not in ran()."""
        first, second = steps_of(draw, FUNCTIONS, 6), steps_of(draw, MODULES + METHODS, 6)
        n = draw.integer(2, 99)

        def probe(m):
            backend = m.CountingBackend()
            run = backend(graph_of(first), [])
            backend(graph_of(second), [])
            for _ in range(n):
                run(torch.ones(1))
            return sorted(backend.ran().items())

        agree(probe, rtol=0, atol=0)

    def test_shapes(self, agree, draw):
        """The sizes of each tensor among the inputs, and nothing for what is no tensor."""
        shapes = [tuple(draw.integers(1, 50, n).tolist()) for n in (2, 0, 3, 1)]
        number = draw.integer(2, 99)

        def probe(m):
            backend = m.CountingBackend()
            tensors = [torch.zeros(shape) for shape in shapes]
            backend(graph_of([]), [tensors[0], number, tensors[1], 0.5, nn.Parameter(tensors[2]), None, tensors[3]])
            return records(backend)

        agree(probe, rtol=0, atol=0)

    def test_recompiles(self, agree, draw):
        """A graph with the operations of an earlier one is a recompile, also where others came between."""
        kinds = [[*METHODS[:n], *steps_of(draw, FUNCTIONS, 3)] for n in range(3)]
        order = [*draw.permutation(3).tolist(), *draw.integers(0, 3, draw.integer(3, 60)).tolist()]

        def probe(m):
            backend = m.CountingBackend()
            counts = []
            for number in order:
                backend(graph_of(kinds[number]), [])
                counts.append(backend.recompiles)
            return counts, backend.graphs

        agree(probe, rtol=0, atol=0)

    def test_another_order_is_another_graph(self, agree, draw):
        """The same operations in another order are no recompile; other sizes are no difference."""
        steps = [FUNCTIONS[0], METHODS[0], *steps_of(draw, FUNCTIONS + METHODS, 5), MODULES[0]]
        n = draw.integer(2, 99)

        def probe(m):
            backend = m.CountingBackend()
            backend(graph_of(steps), [torch.ones(n, 2)])
            backend(graph_of(steps[::-1]), [torch.ones(n, 2)])
            backend(graph_of(steps[:-1]), [torch.ones(n, 2)])
            backend(graph_of(steps), [torch.ones(n + 1, 2), torch.ones(3)])
            return records(backend)

        agree(probe, rtol=0, atol=0)

    @measured("calls")
    def test_inner(self, agree, draw):
        """The backend inside gets graph and inputs once, as they are, and what it returns is run."""
        steps, x, w = steps_of(draw, FUNCTIONS, 4), draw.normal(3, 2), draw.normal(3, 2)

        def probe(m):
            seen = []

            def inner(graph, inputs):
                seen.append((len(list(graph.graph.nodes)), [x.clone() for x in inputs]))
                return lambda *args: [graph(*args) * w, w]

            backend = m.CountingBackend(inner)
            run = backend(graph_of(steps), [x])
            return seen, run(x), run(w), records(backend)

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_recorded_before_inner(self, agree, draw):
        """What the backend inside does to the graph is not in the record."""
        steps, x = steps_of(draw, METHODS, 5), draw.normal(3)

        def probe(m):
            def inner(graph, inputs):
                for node in graph.graph.nodes:
                    if node.op == "call_method":
                        node.target = "exp"
                graph.recompile()
                inputs.clear()
                return graph

            backend = m.CountingBackend(inner)
            run = backend(graph_of(steps), [x])
            again = backend(graph_of(steps), [x])
            return run(x / 100), records(backend), again(x / 100)

        agree(probe, rtol=1e-4, atol=1e-6)

    def test_an_inner_that_fails(self, agree, draw):
        """Where the backend inside raises, the graph stays recorded, and the error is passed on."""
        steps, x = steps_of(draw, FUNCTIONS + METHODS, 5), draw.normal(3)

        def probe(m):
            def inner(graph, inputs):
                raise KeyError("inner")

            backend = m.CountingBackend(inner)
            ends = [raised(KeyError, lambda: backend(graph_of(steps), [x])) for _ in range(2)]
            return ends, records(backend)

        agree(probe, rtol=0, atol=0)

    def test_two_backends(self, agree, draw):
        """Each backend has a record of its own."""
        first, second, x = steps_of(draw, FUNCTIONS, 5), steps_of(draw, METHODS, 5), draw.normal(2)

        def probe(m):
            one, other = m.CountingBackend(), m.CountingBackend()
            one(graph_of(first), [x])(x)
            other(graph_of(second), [x])
            other(graph_of(first), [x])
            return records(one), records(other)

        agree(probe, rtol=0, atol=0)

    def test_several_outputs(self, agree, draw):
        """What a graph returns comes back as it is: several values, and those that are no tensors."""
        x, y, n = draw.normal(3), draw.normal(3), draw.integer(2, 10**6)

        def probe(m):
            graph = fx.Graph()
            a, b = graph.placeholder("a"), graph.placeholder("b")
            graph.output((graph.call_function(torch.sub, (a, b)), [b, n]))
            backend = m.CountingBackend()
            return backend(fx.GraphModule(nn.Module(), graph), [x, y])(x, y), records(backend)

        agree(probe, rtol=1e-6, atol=0)

    def test_with_the_compiler(self, agree, draw):
        """torch.compile compiles anew for each shape, and calls what it has for one that it knows."""
        sizes = (draw.permutation(50)[:3] + 2).tolist()
        order, w = [0, 1, 1, 2, *draw.integers(0, 3, 8).tolist()], draw.normal(3)

        def probe(m):
            torch._dynamo.reset()
            backend = m.CountingBackend()
            f = torch.compile(lambda x: (x.sin() * w).sum(0), backend=backend, dynamic=False)
            values = [f(torch.ones(sizes[number], 3)) for number in order]
            return records(backend), values

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_sizes_left_open(self, agree, draw):
        """With dynamic shapes one graph serves all. Its open sizes are inputs of their own, and are counted."""
        sizes, d = (draw.permutation(50)[:4] + 2).tolist(), draw.integer(60, 99)
        x = draw.normal(d)

        def probe(m):
            torch._dynamo.reset()
            backend = m.CountingBackend()
            f = torch.compile(lambda a, b: a.cos() + b, backend=backend)
            values = []
            for n in sizes:
                a = torch.ones(n, d)
                torch._dynamo.mark_dynamic(a, 0)
                values.append(f(a, x).sum())
            f(torch.ones(3, 1), torch.ones(1))
            return records(backend), values

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_broken_graphs(self, agree, draw):
        """Code that breaks its graph has two: they come in order, and each is counted."""
        x, n = draw.normal(4, 3), draw.integer(2, 30)

        def probe(m):
            torch._dynamo.reset()
            backend = m.CountingBackend()

            def broken(x):
                y = x.sin() + 1
                torch._dynamo.graph_break()
                return y.tanh() * y

            f = torch.compile(broken, backend=backend)
            values = [f(x) for _ in range(n)]
            return records(backend), values[-1]

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_training(self, agree, draw):
        """Gradients pass through the graphs."""
        x, v, w = draw.normal(5, 3), draw.normal(4, 3), draw.normal(4)

        def probe(m):
            torch._dynamo.reset()
            backend = m.CountingBackend()
            net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
            net.load_state_dict({"0.weight": v, "0.bias": w})
            loss = torch.compile(net, backend=backend)(x).square().sum()
            loss.backward()
            return [p.grad for p in net.parameters()], loss.detach(), records(backend)

        agree(probe, rtol=1e-5, atol=1e-5)


# launch_spec


def words_of(draw):
    """A name of a machine, and a port."""
    return f"node-{draw.integer(0, 10**9)}", draw.integer(1024, 60000)


@task("launch_spec")
class TestLaunchSpec:
    @pytest.mark.parametrize("node", [0, 1, 2])
    def test_equal_nodes(self, agree, draw, node):
        """Each process of each node gets its numbers, as strings."""
        n, (master, port) = draw.integer(2, 9), words_of(draw)
        agree(lambda m: m.launch_spec([n, n, n], node, master=master, port=port), rtol=0, atol=0)

    def test_unequal_nodes(self, agree, draw):
        """Nodes may start different numbers of processes: ranks go on from node to node."""
        processes, (master, port) = draw.integers(1, 9, 5).tolist(), words_of(draw)
        agree(lambda m: [m.launch_spec(processes, node, master=master, port=port) for node in range(5)], rtol=0, atol=0)

    def test_many_processes(self, agree, draw):
        """Numbers of several digits are no trouble."""
        processes, (master, port) = (draw.integers(9, 40, 12)).tolist(), words_of(draw)
        agree(lambda m: m.launch_spec(tuple(processes), 11, master=master, port=port)[-3:], rtol=0, atol=0)

    def test_one_process(self, agree, draw):
        """One process alone gets all variables but OMP_NUM_THREADS."""
        master, port = words_of(draw)
        agree(lambda m: [m.launch_spec([1], 0, master=master, port=port), m.launch_spec([1, 2, 1], 2, port=port)], rtol=0, atol=0)

    def test_threads(self, agree, draw):
        """OMP_NUM_THREADS is 1 where the node itself has several processes, unless env says something else."""
        threads, port = str(draw.integer(2, 10**6)), draw.integer(1024, 60000)

        def probe(m):
            env = {"OMP_NUM_THREADS": threads}
            nodes = [m.launch_spec([1, 3], node, port=port) for node in (0, 1)]
            return nodes, [m.launch_spec([1, 3], node, port=port, env=env) for node in (0, 1)]

        agree(probe, rtol=0, atol=0)

    def test_usual_address(self, agree, draw):
        """If nothing is said, all meet on localhost at port 29500."""
        n = draw.integers(1, 30, 2).tolist()
        agree(lambda m: m.launch_spec(n, 1), rtol=0, atol=0)

    def test_more_variables(self, agree, draw):
        """What env has is there for each process, and stays as it is."""
        env = {f"NAME_{number}": str(draw.integer(0, 10**9)) for number in range(3)}
        n = draw.integer(2, 6)

        def probe(m):
            mine = dict(env)
            return m.launch_spec([n], 0, env=mine), mine, m.launch_spec([n], 0, env={})

        agree(probe, rtol=0, atol=0)

    def test_each_has_a_dict_of_its_own(self, agree, draw):
        """Who changes one process's variables changes no other's, nor those of the next call."""
        n, (master, port) = draw.integer(3, 9), words_of(draw)
        processes, env = [n, 2], {"A": str(port)}

        def probe(m):
            spec = m.launch_spec(processes, 0, master=master, port=port, env=env)
            spec[0].clear()
            spec[1]["B"] = "1"
            return spec, m.launch_spec(processes, 0, master=master, port=port, env=env), processes, env

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("processes", [[], [0], [2, 0, 1], [3, -1], [2.0], ["2"], [2, None], ()])
    def test_refused_counts(self, agree, draw, processes):
        """Each node starts at least one process, there is a node, and counts are ints."""
        port, n = draw.integer(1024, 60000), draw.integer(1, 9)

        def probe(m):
            return raised(ValueError, lambda: m.launch_spec(processes, 0, port=port)), m.launch_spec([n], 0, port=port)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("node", [-1, -3, 3, 99, 1.0, "1", None])
    def test_refused_nodes(self, agree, draw, node):
        """The node is one of those that there are, counted from 0."""
        processes, port = draw.integers(1, 9, 3).tolist(), draw.integer(1024, 60000)

        def probe(m):
            return raised(ValueError, lambda: m.launch_spec(processes, node, port=port)), m.launch_spec(processes, 1, port=port)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("where", ["processes", "node", "port"])
    def test_true_is_no_number(self, agree, draw, where):
        """True and False are no numbers, though Python counts with them."""
        n, port = draw.integer(2, 9), draw.integer(1024, 60000)
        bad = {"processes": ([True, 2], 0, port), "node": ([n, n], True, port), "port": ([n], 0, True)}[where]
        also = {"processes": ([2, True], 0, port), "node": ([n, n], False, port), "port": ([n, 1], 0, True)}[where]

        def probe(m):
            ends = [raised(ValueError, lambda a=a: m.launch_spec(a[0], a[1], port=a[2])) for a in (bad, also)]
            return ends, m.launch_spec([n, 1], 1, port=port)

        agree(probe, rtol=0, atol=0)

    def test_ports(self, agree, draw):
        """Ports go from 1 to 65535, and are ints."""
        n = draw.integers(1, 30, 2).tolist()

        def probe(m):
            bad = [raised(ValueError, lambda p=p: m.launch_spec(n, 0, port=p)) for p in (0, -1, 65536, 10**6, 80.0, "29500", None)]
            return bad, [m.launch_spec(n, 1, port=port)[0] for port in (1, 65535)]

        agree(probe, rtol=0, atol=0)

    def test_addresses(self, agree, draw):
        """An address is not empty and has no whitespace; all else may be in it."""
        n, number = draw.integers(1, 30, 2).tolist(), draw.integer(0, 10**6)

        def probe(m):
            bad = [raised(ValueError, lambda a=a: m.launch_spec(n, 0, master=a)) for a in ("", " ", "a b", "host\n", "\thost", " host")]
            return bad, [m.launch_spec(n, 1, master=name)[0] for name in (f"10.0.0.{number}", f"fe80::{number}", f"h{number}.example.org")]

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "name",
        ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"],
    )
    def test_refused_variables(self, agree, draw, name):
        """What the launcher sets, env may not set; names that are alike are fine."""
        n, value = draw.integer(1, 9), str(draw.integer(0, 10**6))

        def probe(m):
            end = raised(ValueError, lambda: m.launch_spec([n], 0, env={"A": "1", name: value}))
            return end, m.launch_spec([n], 0, env={f"MY_{name}": value, name.lower(): value})

        agree(probe, rtol=0, atol=0)


# log_run


def files_in(folder):
    """The bytes of all files below a folder, in hexadecimal digits."""
    from pathlib import Path

    return [path.read_bytes().hex() for path in sorted(Path(folder).rglob("*")) if path.is_file()]


def logged(m, *runs):
    """What each run returns, and all that the runs have written into one folder that was not there."""
    import tempfile

    with tempfile.TemporaryDirectory() as parent:
        folder = f"{parent}/runs/one"
        steps = [m.log_run(folder, epochs, accuracies, **settings) for epochs, accuracies, settings in runs]
        return steps, files_in(folder)


def curves(files):
    """The points of all curves in these files, or what is wrong with a file."""
    found = {}
    try:
        for text in files:
            for tag, step, value in read_scalars(bytes.fromhex(text)):
                found.setdefault(tag, []).append((step, value))
    except (NotEvents, ValueError) as problem:
        return str(problem)
    return {tag: sorted(points, key=lambda point: point[0]) for tag, points in found.items()}


def alike(a, b):
    """Whether two numbers are the same but for float32's last digits."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-30) or (math.isnan(a) and math.isnan(b))


def compare_runs(student, reference, *runs):
    """Compare what is logged, point by point: student's files are read here, where his code does not run."""

    def probe(m):
        return logged(m, *runs)

    steps, files = student(probe, like=([0] * len(runs), [""] * len(runs)))
    due_steps, due_files = reference(probe)
    assert steps == due_steps, f"the step that comes next is {due_steps}, not {steps}"
    got, due = curves(files), curves(due_files)
    assert not isinstance(got, str), got
    assert sorted(got) == sorted(due), f"the tags are {sorted(got)[:9]}, and should be {sorted(due)}"
    for tag, points in due.items():
        steps, due_steps = [step for step, _ in got[tag]], [step for step, _ in points]
        assert steps == due_steps, f"{tag} has the steps {steps[:20]}, and should have {due_steps[:20]}"
        bad = [(step, a, b) for (step, a), (_, b) in zip(got[tag], points, strict=True) if not alike(a, b)]
        assert not bad, f"{tag} is {bad[0][1]:.6g} at step {bad[0][0]}, and should be {bad[0][2]:.6g}"


def losses_of(draw, *lengths):
    """Losses for epochs of so many batches, and an accuracy for each epoch."""
    return [draw.uniform(n, low=0.1, high=9.0).tolist() for n in lengths], draw.uniform(len(lengths)).tolist()


@task("log_run")
@pytest.mark.needs("tensorboard")
class TestLogRun:
    def test_three_curves(self, student, reference, draw):
        """All batches, the epochs' means and the accuracies are written, with steps that go on from epoch to epoch."""
        compare_runs(student, reference, (*losses_of(draw, 5, 5, 5), {}))

    def test_uneven_epochs(self, student, reference, draw):
        """Epochs may have different numbers of batches, also one."""
        compare_runs(student, reference, (*losses_of(draw, 3, 1, 7, 2), {}))

    @pytest.mark.parametrize("every", [2, 3, 7, 100])
    def test_every(self, student, reference, draw, every):
        """Of the batches, those are written whose step is a multiple of every, over the ends of epochs; means are of all batches."""
        compare_runs(student, reference, (*losses_of(draw, 5, 4, 8), {"every": every}))

    def test_goes_on(self, student, reference, draw):
        """A continued run begins with its first step, from which also every counts."""
        first = draw.integer(1, 10**6)
        runs = [(*losses_of(draw, 6, 5), {"first_step": first + more, "every": 3}) for more in (0, 1)]
        compare_runs(student, reference, runs[0])
        compare_runs(student, reference, runs[1])

    def test_large_steps(self, student, reference, draw):
        """Steps may be larger than 32 bits hold."""
        compare_runs(student, reference, (*losses_of(draw, 2, 3), {"first_step": 10**12 + draw.integer(0, 10**6), "every": 2}))

    @pytest.mark.parametrize("lengths", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 4)])
    def test_empty_epochs(self, student, reference, draw, lengths):
        """An epoch without batches writes nothing, and disturbs none of the others."""
        compare_runs(student, reference, (*losses_of(draw, *lengths), {}))

    def test_one_batch(self, student, reference, draw):
        """One epoch of one batch."""
        compare_runs(student, reference, (*losses_of(draw, 1), {"first_step": draw.integer(0, 10**6)}))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64])
    def test_tensors(self, student, reference, draw, dtype):
        """Losses may be 0-d tensors of any floating dtype, and floats beside them."""
        epochs, accuracies = losses_of(draw, 4, 3)
        epochs = [[*draw.uniform(4, low=0.1, high=9.0).to(dtype).unbind(), *losses] for losses in epochs]
        compare_runs(student, reference, (epochs, accuracies, {}))

    def test_means_of_small_floats(self, student, reference, draw):
        """The mean of many losses in float16 is as exact as that of Python floats, also where their sum is too large."""
        losses = (draw.uniform(40, low=2000.0, high=9000.0)).to(torch.float16).unbind()
        compare_runs(student, reference, ([losses], draw.uniform(1).tolist(), {"every": 50}))

    def test_losses_with_a_graph(self, student, reference, draw):
        """A loss may still have its graph, whose gradient can be asked for afterwards."""
        w, accuracies = draw.normal(5, dtype=F64), draw.uniform(1).tolist()

        def probe(m):
            leaf_w = leaf(w)
            losses = list((leaf_w**2).unbind())
            found = logged(m, ([losses], accuracies, {}))
            return *found, torch.autograd.grad(sum(losses), leaf_w)[0]

        steps, files, gradient = student(probe, like=([0], [""], w))
        due_steps, due_files, due_gradient = reference(probe)
        got, due = curves(files), curves(due_files)
        assert steps == due_steps, f"the step that comes next is {due_steps}, not {steps}"
        assert not isinstance(got, str), got
        assert got.keys() == due.keys(), f"the tags are {sorted(got)[:9]}, and should be {sorted(due)}"
        assert all(len(got[tag]) == len(due[tag]) for tag in due), "there are not as many points as there should be"
        pairs = [(a, b) for tag in due for a, b in zip(got[tag], due[tag], strict=True)]
        assert all(a[0] == b[0] and alike(a[1], b[1]) for a, b in pairs), "a point is not what it should be"
        assert torch.equal(gradient, due_gradient), "the losses' gradient is another one afterwards"

    def test_no_numbers(self, student, reference, draw):
        """NaN and infinities are written as they are."""
        epochs, accuracies = losses_of(draw, 4, 4, 4)
        epochs[0][draw.integer(0, 4)] = math.nan
        epochs[1][draw.integer(0, 4)] = math.inf
        accuracies[2] = math.nan
        compare_runs(student, reference, (epochs, accuracies, {}))

    def test_two_runs(self, student, reference, draw):
        """A second run in the same folder goes on where the first one ended, in a file of its own."""
        first = draw.integer(0, 10**6)
        runs = [(*losses_of(draw, 3, 2), {"first_step": first}), (*losses_of(draw, 2, 4), {"first_step": first + 5, "every": 2})]
        compare_runs(student, reference, *runs)

    @pytest.mark.parametrize(
        ("epochs", "accuracies", "every"),
        [([[1.0]], [], 1), ([[1.0]], [0.5, 0.5], 1), ([], [0.5], 1), ([[1.0]], [0.5], 0), ([[1.0]], [0.5], -2)],
    )
    def test_refuses(self, agree, draw, epochs, accuracies, every):
        """What does not fit is refused before anything is written."""
        losses, (accuracy,) = losses_of(draw, draw.integer(2, 20))
        first = draw.integer(0, 10**6)

        def probe(m):
            import tempfile
            from pathlib import Path

            with tempfile.TemporaryDirectory() as parent:
                end = raised(ValueError, lambda: m.log_run(f"{parent}/bad", epochs, accuracies, every=every))
                step = m.log_run(f"{parent}/good", losses, [accuracy], first_step=first)
                return end, step, sorted(path.name for path in Path(parent).iterdir()), len(files_in(parent))

        agree(probe, rtol=0, atol=0)


# lit_classifier


@contextlib.contextmanager
def quiet():
    """Lightning warns of loaders without workers, tells which devices there are, and sets variables. Nobody has to see that."""
    import logging
    import os
    import random
    import warnings

    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    levels, variables = [logger.level for logger in loggers], dict(os.environ)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = random.getstate()
            import lightning.pytorch  # noqa: F401

            random.setstate(state)  # its import draws a number
            for logger in loggers:  # its import sets levels, too
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name in os.environ.keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)


def silent(probe):
    """The probe, in quiet."""

    def run(m):
        with quiet():
            return probe(m)

    return run


def trainer_of(**settings):
    """A trainer that computes on the CPU, and writes and prints nothing."""
    from lightning import Trainer

    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", devices=1, **silent, **settings)


def loader_of(x, y, size):
    """Batches [x, y] in order; the last one may be short."""
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size)


def network(v, w, middle=None):
    """A network of two layers with these weights."""
    net = nn.Sequential(nn.Linear(v.shape[1], v.shape[0], bias=False), middle or nn.Tanh(), nn.Linear(w.shape[1], w.shape[0], bias=False))
    net.load_state_dict({"0.weight": v, "2.weight": w})
    return net


def fitted(m, net, train, val=None, *, size, epochs, **settings):
    """The weights after a fit, and all that was logged."""
    trainer = trainer_of(max_epochs=epochs, num_sanity_val_steps=0)
    trainer.fit(m.lit_classifier(net, **settings), loader_of(*train, size), loader_of(*val, size) if val else None)
    weights = [weight.detach() for weight in net.state_dict().values()]
    return weights, {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}


def samples(draw, n, d=4, classes=3):
    """Inputs and classes."""
    return draw.normal(n, d), draw.integers(0, classes, n)


def weights_of(draw, d=4, hidden=5, classes=3):
    """Weights for `network`."""
    return draw.normal(hidden, d), draw.normal(classes, hidden)


@task("lit_classifier")
@pytest.mark.needs("lightning")
class TestLitClassifier:
    @pytest.mark.parametrize("epochs", [1, 2])
    def test_training(self, agree, draw, epochs):
        """The trainer takes steps of plain SGD on the mean cross entropy of each batch."""
        train, (v, w) = samples(draw, 11), weights_of(draw)
        agree(silent(lambda m: fitted(m, network(v, w), train, size=4, epochs=epochs, lr=0.5, warmup=3)), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("warmup", [1, 2, 50])
    def test_warm_up(self, agree, draw, warmup):
        """The rate grows with each step, not with each epoch, and stays at lr once it is there."""
        train, (v, w) = samples(draw, 9), weights_of(draw)
        agree(silent(lambda m: fitted(m, network(v, w), train, size=2, epochs=2, lr=0.75, warmup=warmup)), rtol=1e-4, atol=1e-5)

    def test_usual_settings(self, agree, draw):
        """If nothing is said, lr is 0.1, after a warm-up of 4 steps."""
        train, (v, w) = samples(draw, 12), weights_of(draw)
        agree(silent(lambda m: fitted(m, network(v, w), train, size=2, epochs=1)), rtol=1e-4, atol=1e-6)

    def test_validation(self, agree, draw):
        """val_loss and val_acc are means over all samples, where the last batch is short."""
        train, val, (v, w) = samples(draw, 5), samples(draw, 13), weights_of(draw)
        agree(silent(lambda m: fitted(m, network(v, w), train, val, size=4, epochs=1, lr=0.5, warmup=2)), rtol=1e-4, atol=1e-5)

    def test_validation_alone(self, agree, draw):
        """The trainer validates without training; weights stay."""
        val, (v, w) = samples(draw, 10), weights_of(draw)

        def probe(m):
            net = network(v, w, nn.Dropout(0.5))
            found = trainer_of().validate(m.lit_classifier(net), loader_of(*val, 3), verbose=False)
            return [dict(sorted(row.items())) for row in found], [weight.detach() for weight in net.state_dict().values()]

        agree(silent(probe), rtol=1e-4, atol=1e-5)

    def test_batches_of_other_forms(self, agree, draw):
        """Inputs are whatever the model takes, in tuples as well as in lists, and y says how many samples there are."""
        x, y, w = draw.normal(2, 7, 4), draw.integers(0, 2, 7), draw.normal(2, 4)

        class Swapped(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 2, bias=False)

            def forward(self, x):
                return self.layer(x.sum(0))

        def probe(m):
            net = Swapped()
            net.load_state_dict({"layer.weight": w})
            batches = torch.utils.data.DataLoader([(x[:, :5], y[:5]), (x[:, 5:], y[5:])], batch_size=None)
            trainer = trainer_of(max_epochs=1, num_sanity_val_steps=0)
            trainer.fit(m.lit_classifier(net, lr=0.5, warmup=1), batches, batches)
            return net.layer.weight.detach(), {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}

        agree(silent(probe), rtol=1e-4, atol=1e-5)

    def test_frozen_parameters(self, agree, draw):
        """Parameters without requires_grad are in no group of the optimizer, and stay as they are."""
        train, (v, w) = samples(draw, 9), weights_of(draw)

        def probe(m):
            net = network(v, w)
            net[0].requires_grad_(False)
            lit = m.lit_classifier(net, lr=0.5, warmup=1)
            groups = lit.configure_optimizers()["optimizer"].param_groups
            return [len(group["params"]) for group in groups], fitted(m, net, train, size=4, epochs=1, lr=0.5, warmup=1)

        agree(silent(probe), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("pair", [True, False])
    def test_predictions(self, agree, draw, pair):
        """The classes with the largest logits, of pairs and of inputs alone, under the trainer, in eval mode."""
        (x, y), (v, w) = samples(draw, 23), weights_of(draw)

        def probe(m):
            net = network(v, w, nn.Dropout(0.5))
            loader = loader_of(x, y, 8) if pair else torch.utils.data.DataLoader(x, batch_size=8)
            return trainer_of().predict(m.lit_classifier(net), loader)

        agree(silent(probe), rtol=0, atol=0)

    def test_logits(self, agree, draw):
        """Called as a function, it gives the model's logits, and lit.model is the model."""
        (x, _), (v, w) = samples(draw, 6), weights_of(draw)

        def probe(m):
            lit = m.lit_classifier(network(v, w))
            return lit(x), lit.model(x), lit.predict_step(x, 0), lit.predict_step((x, None), 1), list(lit.state_dict().items())

        agree(silent(probe), rtol=1e-5, atol=1e-6)

    def test_loss_and_gradient(self, agree, draw):
        """training_step gives the mean cross entropy with its graph, also for large logits and for one sample, and calls no backward."""
        (x, y), (v, w) = samples(draw, 7), weights_of(draw)

        def probe(m):
            found = []
            for inputs, classes in ((x, y), (x * 1e4, y), (x[:1], y[:1])):
                net = network(v, w, nn.ReLU())
                loss = m.lit_classifier(net).training_step((inputs, classes), 0)
                found.append((loss.detach(), torch.autograd.grad(loss, list(net.parameters())), [p.grad for p in net.parameters()]))
            return found

        agree(silent(probe), rtol=1e-4, atol=1e-5)

    def test_settings_are_kept(self, agree, draw):
        """The hparams are lr and warmup, and not the model."""
        lr, warmup, (v, w) = draw.integer(1, 10**6) / 10**6, draw.integer(1, 10**6), weights_of(draw)

        def probe(m):
            return [sorted(m.lit_classifier(network(v, w), **some).hparams.items()) for some in ({"lr": lr, "warmup": warmup}, {"lr": lr})]

        agree(silent(probe), rtol=1e-12, atol=0)

    def test_optimizer_and_schedule(self, agree, draw):
        """The optimizer is plain SGD; the schedule is stepped with every step, and gives lr · min(1, (n + 1) / warmup)."""
        lr, warmup, (v, w) = 0.5 + draw.integer(1, 10**6) / 10**6, draw.integer(3, 9), weights_of(draw)

        def probe(m):
            net = network(v, w)
            lit = m.lit_classifier(net, lr, warmup)
            found = lit.configure_optimizers()
            optimizer, plan = found["optimizer"], found["lr_scheduler"]
            for p in net.parameters():
                p.grad = torch.ones_like(p)
            rates = []
            for _ in range(12):
                rates.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                plan["scheduler"].step()
            return plan["interval"], rates, [p.detach() for p in net.parameters()], len(optimizer.param_groups)

        agree(silent(probe), rtol=1e-5, atol=1e-6)

    def test_draws_nothing(self, agree, draw):
        """The caller's random numbers are the same, whether a classifier was made or not; nor are weights drawn anew."""
        seed, (v, w) = draw.seed(), weights_of(draw)

        def probe(m):
            torch.manual_seed(seed)
            lit = m.lit_classifier(network(v, w))
            return torch.rand(3), [p.detach() for p in lit.parameters()], lit.hparams["warmup"]

        agree(silent(probe), rtol=1e-6, atol=0)
