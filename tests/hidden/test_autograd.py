"""The graded suite of autograd: scalars, gradients by hand, double backward, recomputation and hooks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64
INF = math.inf


# Helpers for probes


def leaf(x):
    """A fresh leaf with the values of x that requires a gradient."""
    return x.clone().requires_grad_()


def linear(weight, bias=None):
    """A linear layer with copies of the given parameters."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    layer.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return layer


def grads_of(module):
    """The gradients of all parameters, None where there is none."""
    return [p.grad for p in module.parameters()]


def graded(*values):
    """Data and grad of Values."""
    return [(value.data, value.grad) for value in values]


def away_from_zero(draw, n):
    """Floats of both signs and of size 0.5 to 2."""
    return (draw.uniform(n, low=0.5, high=2.0, dtype=F64) * (2 * draw.bools(n) - 1)).tolist()


def sizes(draw, n, low=1e-100, high=1e100):
    """Floats of both signs and of all powers of ten between these sizes."""
    return draw.magnitudes(n, low=low, high=high, dtype=F64).tolist()


OPERATIONS = {
    "a_plus_b": lambda a, b: a + b,
    "a_plus_2": lambda a, b: a + 2,
    "2_plus_a": lambda a, b: 2 + a + b,
    "a_times_b": lambda a, b: a * b,
    "a_times_1.5": lambda a, b: a * 1.5,
    "1.5_times_a": lambda a, b: 1.5 * a * b,
    "minus_a": lambda a, b: -a,
    "a_minus_b": lambda a, b: a - b,
    "a_minus_2": lambda a, b: a - 2,
    "2_minus_a": lambda a, b: 2 - a,
    "a_over_b": lambda a, b: a / b,
    "a_over_4": lambda a, b: a / 4,
    "4_over_a": lambda a, b: 4 / a,
    "cube": lambda a, b: a**3 + b**2,
    "inverse_square": lambda a, b: a**-2,
    "root": lambda a, b: (a * a) ** 0.5,
    "exp": lambda a, b: a.exp() * b,
    "tanh": lambda a, b: a.tanh() * b,
    "relu": lambda a, b: a.relu() + b.relu() + (-a).relu() * 3,
}

ON_ZEROS = {  # o is a Value of 0
    "a + 0": lambda a, o: a + 0,
    "0 + a": lambda a, o: 0 + a,
    "a - 0": lambda a, o: a - 0.0,
    "0 - a": lambda a, o: 0 - a,
    "a * 0": lambda a, o: a * 0,
    "0 * a": lambda a, o: 0.0 * a,
    "0 / a": lambda a, o: 0 / a,
    "a + o": lambda a, o: a + o,
    "o - a": lambda a, o: o - a,
    "o * a": lambda a, o: o * a,
    "o / a": lambda a, o: o / a,
    "o * o": lambda a, o: o * o,
    "-o": lambda a, o: -o,
    "exp": lambda a, o: o.exp(),
    "tanh": lambda a, o: o.tanh(),
    "relu": lambda a, o: o.relu(),
    "o**1": lambda a, o: o**1,
    "o**2": lambda a, o: o**2,
    "o**0": lambda a, o: o**0,
    "a**0": lambda a, o: a**0.0,
}


@task("Value")
class TestValue:
    def test_classic_example(self, agree, draw):
        """For y = x² + 2x, x receives 2x + 2 from both places where it occurs: 8 at 3."""
        points = [3, 0.0, *away_from_zero(draw, 3)]

        def probe(m):
            out = []
            for point in points:
                x = m.Value(point)
                y = x**2 + 2 * x
                before = graded(x, y)
                y.backward()
                out.append((before, graded(x, y)))
            return out

        agree(probe, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("name", OPERATIONS)
    def test_operation(self, agree, draw, name):
        """Each operator and method has the right value and passes the gradient of its result on, times its own derivative."""
        operation, numbers = OPERATIONS[name], [away_from_zero(draw, 2) for _ in range(4)]

        def probe(m):
            out = []
            for x, y in numbers:
                a, b = m.Value(x), m.Value(y)
                result = operation(a, b)
                whole = result * -3
                whole.backward()
                out.append(graded(a, b, result, whole))
            return out

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_zeros(self, agree, draw):
        """A 0 is a number like others, as a Value and as a plain number; x**0 is 1 with derivative 0 even there."""
        (x,) = away_from_zero(draw, 1)

        def probe(m):
            out = {}
            for name, operation in ON_ZEROS.items():
                a, o = m.Value(x), m.Value(0)
                result = operation(a, o)
                whole = result * -3 + a * 5 + o * 7
                whole.backward()
                out[name] = graded(a, o, result, whole)
            return out

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_sizes(self, agree, draw):
        """Values and derivatives are right for numbers of 1e-100 as for those of 1e100."""
        names = [name for name in OPERATIONS if name not in ("exp", "tanh")]
        numbers = {name: (sizes(draw, 3), sizes(draw, 3)) for name in names}

        def probe(m):
            out = {}
            for name, (xs, ys) in numbers.items():
                for x, y in zip(xs, ys, strict=True):
                    a, b = m.Value(x), m.Value(y)
                    whole = OPERATIONS[name](a, b) * -3
                    whole.backward()
                    out.setdefault(name, []).append(graded(a, b, whole))
            return out

        agree(probe, rtol=1e-9, atol=0)

    @pytest.mark.parametrize(
        "shared",
        [lambda x, y: x + x, lambda x, y: x * x * x, lambda x, y: x / x + x - x, lambda x, y: x * y + x.exp() * y - (x * y).tanh()],
        ids=["sum", "product", "quotient", "both"],
    )
    def test_shared_inputs_accumulate(self, agree, draw, shared):
        """A Value that is used several times receives the sum over its uses, also if both operands are the same."""
        x, y = away_from_zero(draw, 2)

        def probe(m):
            a, b = m.Value(x), m.Value(y)
            result = shared(a, b) * 2 + a * 3
            result.backward()
            return graded(a, b, result)

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_a_node_waits_for_all_of_its_uses(self, agree, draw):
        """An intermediate result passes its gradient on when it is complete, whether its uses lie near to the end or far from it."""
        x, y = away_from_zero(draw, 2)

        def probe(m):
            out = []
            for near_first in (True, False):
                a, b = m.Value(x), m.Value(y)
                shared = a * b
                far = (((shared + 1) * b).tanh() * 2 + a).tanh()
                result = shared * 3 + far * shared if near_first else shared * far + 3 * shared
                result.backward()
                out.append(graded(a, b, shared, far, result))
            return out

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_random_graph(self, agree, draw):
        """In a graph of 60 operations on operands drawn from all before, every node has its derivative."""
        start = away_from_zero(draw, 3)
        picks = [(draw.integer(0, 5), draw.integer(0, 3 + i), draw.integer(0, 3 + i)) for i in range(60)]

        def probe(m):
            nodes = [m.Value(x) for x in start]
            for kind, i, j in picks:
                a, b = nodes[i], nodes[j]
                nodes.append([lambda a, b: (a * b).tanh(), lambda a, b: (a - b) * 0.5, lambda a, b: (a + b).tanh()][kind % 3](a, b))
            total = sum(nodes)
            total.backward()
            return graded(*nodes, total)

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_backward_again_adds(self, agree, draw):
        """A second backward adds the same derivatives once more; the gradients of intermediate results don't flow twice."""
        x, y = away_from_zero(draw, 2)

        def probe(m):
            a, b = m.Value(x), m.Value(y)
            middle = a * b
            result = middle * middle + a
            out = []
            for _ in range(3):
                result.backward()
                out.append(graded(a, b, middle, result))
            return out

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_backward_from_several_results(self, agree, draw):
        """Backward from two results that share nodes, and from an intermediate one, adds what each of them has to add."""
        x, y = away_from_zero(draw, 2)

        def probe(m):
            a, b = m.Value(x), m.Value(y)
            middle = a * b
            first, second = middle.tanh() + a, middle * 5
            out = []
            for result in (first, second, second, middle, a):
                result.backward()
                out.append(graded(a, b, middle, first, second))
            return out

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_gradient_descent(self, agree, draw):
        """Both data and grad can be set: twenty steps of gradient descent on a tanh neuron, gradients set to 0 between them."""
        xs, targets, start = away_from_zero(draw, 5), away_from_zero(draw, 5), away_from_zero(draw, 2)

        def probe(m):
            w, b = (m.Value(number) for number in start)
            losses = []
            for _ in range(20):
                loss = sum(((w * x + b).tanh() - t) ** 2 for x, t in zip(xs, targets, strict=True)) / len(xs)
                w.grad = b.grad = 0.0
                loss.backward()
                for p in (w, b):
                    p.data -= 0.1 * p.grad
                losses.append(loss.data)
            return losses, graded(w, b)

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_two_layers(self, agree, draw):
        """A small network of 3 inputs, 5 relu units and one output: gradients of all weights and inputs."""
        first, second, inputs = (draw.normal(*s, dtype=F64).tolist() for s in [(5, 3), (5,), (3,)])

        def probe(m):
            w1, w2, x = [[m.Value(w) for w in row] for row in first], [m.Value(w) for w in second], [m.Value(i) for i in inputs]
            hidden = [sum(w * i for w, i in zip(row, x, strict=True)).relu() + 0.1 for row in w1]
            score = sum(w * h for w, h in zip(w2, hidden, strict=True))
            score.backward()
            return graded(score, *(w for row in w1 for w in row), *w2, *x)

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_tanh_of_any_size(self, agree, draw):
        """Far from 0, tanh is ±1 with derivative 0; near to 0, it is x itself with derivative 1."""
        (y,), near, far = away_from_zero(draw, 1), sizes(draw, 7, high=0.5), sizes(draw, 7, low=30)

        def probe(m):
            out = []
            for point in (*near, *far, 1000.0, -1000.0):
                v = m.Value(point)
                result = v.tanh()
                (result * y).backward()
                out.append(graded(v, result))
            return out

        agree(probe, rtol=1e-9, atol=0)

    def test_relu_and_its_kink(self, agree, draw):
        """Negative numbers become 0 with derivative 0, and the derivative at 0 is 0 too."""
        (y,) = away_from_zero(draw, 1)

        def probe(m):
            out = []
            for point in (0.0, abs(y), -abs(y), 1e-90 * abs(y), -1e-90 * abs(y)):
                v = m.Value(point)
                result = v.relu() * y
                result.backward()
                out.append(graded(v, result))
            return out

        agree(probe, rtol=1e-9, atol=0)

    def test_new_data_counts_from_then_on(self, agree, draw):
        """Data that is set later changes neither results that are there nor their derivatives, only what is computed afterwards."""
        (x, y, z), w = away_from_zero(draw, 3), away_from_zero(draw, 6)

        def probe(m):
            a, b = m.Value(x), m.Value(y)
            results = [a * b, a / b, a**3, a.tanh(), (b * 0.5).exp(), a.relu() + b.relu()]
            whole = sum(result * weight for result, weight in zip(results, w, strict=True))
            numbers = graded(*results, whole)
            for value in (a, b, *results):
                value.data = -z
            whole.backward()
            again = a * b
            again.backward()
            return numbers, graded(a, b, whole, again)

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_exponent_must_be_a_number(self, agree, draw):
        """A Value as exponent is a TypeError; a number is fine."""
        x, y = draw.uniform(2, low=0.5, high=2.0, dtype=F64).tolist()

        def probe(m):
            a, b = m.Value(x), m.Value(y)
            outcome = raised(TypeError, lambda: a**b)
            result = a**2.5 * b
            result.backward()
            return outcome, graded(a, b, result)

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_operands_stay(self, agree, draw):
        """Operators and methods make new Values: names that hold the old ones see no change, also after +=."""
        x, y = away_from_zero(draw, 2)

        def probe(m):
            a, b = m.Value(x), m.Value(y)
            total = a
            total += b
            total *= a
            total -= 2
            total /= b
            total.backward()
            positive = m.Value(abs(x))
            parts = [positive.relu(), positive**1]  # equal to it, but not the same
            whole = parts[0] * 2 + parts[1] * 3 + positive * 5
            whole.backward()
            return graded(a, b, total), graded(positive, *parts, whole)

        agree(probe, rtol=1e-9, atol=1e-12)

    def test_deep_chain(self, agree, draw):
        """10,000 operations in a row, far beyond the recursion limit."""
        x, y = draw.uniform(2, low=0.1, high=1.0, dtype=F64).tolist()

        def probe(m):
            a, b = m.Value(x), m.Value(y)
            result = a
            for _ in range(5_000):
                result = result * 0.999 + b
            result.backward()
            return graded(a, b, result)

        agree(probe, rtol=1e-7, atol=1e-12)

    def test_every_node_is_visited_once(self, agree, draw):
        """Doubling 200 times makes 2²⁰⁰ paths: derivatives have to be added up before they are passed on."""
        (x,) = away_from_zero(draw, 1)

        def probe(m):
            a = m.Value(x)
            result = a
            for _ in range(200):
                result = result + result
            result.backward()
            return graded(a, result)

        agree(probe, rtol=1e-9, atol=1e-12)


@task("unbroadcast")
class TestUnbroadcast:
    @pytest.mark.parametrize(
        ("large", "small"),
        [
            ((2, 3, 5), (5,)),
            ((2, 3, 5), (3, 5)),
            ((2, 3, 5), (2, 1, 5)),
            ((2, 3, 5), (2, 1, 1)),
            ((2, 3, 5), (3, 1)),
            ((2, 3, 4, 5), (3, 1, 5)),
            ((2, 3, 2, 5, 3, 2), (2, 1, 3, 1)),
            ((2, 3, 5), (1, 1, 1)),
            ((2, 3, 5), (1,)),
            ((2, 3, 5), ()),
        ],
        ids=str,
    )
    def test_sums_over_all_places(self, agree, draw, large, small):
        """Missing dimensions and those of size 1 are summed; the shape is exactly the operand's."""
        grad = draw.normal(*large, dtype=F64)
        agree(lambda m: m.unbroadcast(grad, small), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("equal", [(3, 3), (3, 1), (1, 3), (3,), (1,)], ids=str)
    def test_equal_sizes(self, agree, draw, equal):
        """Dimensions line up at the end, which sizes alone don't tell when they are equal."""
        grad = draw.normal(3, 3, 3, dtype=F64)
        agree(lambda m: m.unbroadcast(grad, equal), rtol=1e-9, atol=1e-9)

    def test_nothing_to_sum(self, agree, draw):
        """Where nothing was broadcast, the gradient stays as it is, in a size of 1 too, and for single numbers."""
        a, b, c = draw.normal(2, 1, 5, dtype=F64), draw.normal(), draw.normal(3, 7)
        agree(lambda m: [m.unbroadcast(a, (2, 1, 5)), m.unbroadcast(b, ()), m.unbroadcast(c, (1, 7))], rtol=1e-5, atol=1e-6)

    def test_float32(self, agree, draw):
        """float32 in, float32 out."""
        grad = draw.normal(7, 5, 3)
        agree(lambda m: (m.unbroadcast(grad, (5, 1)), m.unbroadcast(grad, (7, 1, 3))), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("shape", with_ones(2, 3, 5), ids=str)
    def test_gradients_with_sizes_of_one(self, agree, draw, shape):
        """A size of 1 in the gradient itself is kept where the operand has it, and goes where the operand doesn't."""
        grad, (a, b, c) = draw.normal(*shape, dtype=F64), shape
        agree(lambda m: [m.unbroadcast(grad, s) for s in [(a, b, c), (a, 1, c), (b, c), (b, 1), (c,), ()]], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """A gradient may lie in memory in any way."""
        grad = draw.normal(7, 2, 5, 3, dtype=F64, layout=layout)
        agree(lambda m: [m.unbroadcast(grad, s) for s in [(7, 1, 5, 3), (5, 1), (2, 1, 3), (7, 1, 1, 1), ()]], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("kind", [list, torch.Size], ids=["list", "Size"])
    def test_kinds_of_shapes(self, agree, draw, kind):
        """A list or a torch.Size do as well as a tuple."""
        grad, shape = draw.normal(2, 3, 5, dtype=F64), kind([3, 1])
        agree(lambda m: m.unbroadcast(grad, shape), rtol=1e-9, atol=1e-9)

    def test_an_entry_gets_only_its_places(self, agree, draw):
        """NaN and inf in places of one entry reach no other entry."""
        grad = draw.poisoned(draw.normal(5, 3, 7, dtype=F64), torch.arange(7) == 2)
        agree(lambda m: [m.unbroadcast(grad, (7,)), m.unbroadcast(grad[:2], (2, 1, 7))], rtol=1e-9, atol=1e-9)

    def test_no_places(self, agree, draw):
        """An entry that was stretched to no places has the gradient 0, and sizes of 0 that fit stay."""
        grad = draw.normal(5, 3)
        agree(
            lambda m: [
                m.unbroadcast(grad[:0], (1, 3)),
                m.unbroadcast(grad[:0], (3,)),
                m.unbroadcast(grad[:0], (0, 1)),
                m.unbroadcast(grad[:0, :0], ()),
                m.unbroadcast(grad[:, :0], (0,)),
                m.unbroadcast(grad, (1, 3)),
            ],
            rtol=1e-5,
            atol=1e-5,
        )

    def test_impossible_shapes_raise(self, agree, draw):
        """Longer shapes, also with the same number of entries, and sizes that differ from what they should be are a ValueError."""
        grad = draw.normal(2, 3, dtype=F64)

        def probe(m):
            bad = [(2,), (3, 2), (6,), (2, 2), (1, 2, 3), (1, 1, 1), (0,), (4, 3), (2, 6)]
            outcomes = [raised(ValueError, lambda s=s: m.unbroadcast(grad, s)) for s in bad]
            outcomes.append(raised(ValueError, lambda: m.unbroadcast(grad[:, :1], (2, 3))))
            return outcomes, m.unbroadcast(grad, (2, 1))

        agree(probe, rtol=1e-3, atol=1e-4)


@task("numerical_gradient")
class TestNumericalGradient:
    @pytest.mark.parametrize("shape", [*with_ones(3, 5), (2, 3, 2), (61,), ()], ids=str)
    def test_any_shape(self, agree, draw, shape):
        """The gradient of a smooth function at a tensor of any number of dimensions."""
        x, w = draw.normal(*shape, dtype=F64), draw.normal(*shape, dtype=F64)
        agree(lambda m: m.numerical_gradient(lambda z: (w * z.sin() + z.square()).sum() * z.mean(), x), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("eps", [0.5, 0.125, 1e-3])
    def test_formula_with_large_steps(self, agree, draw, eps):
        """For z³ a step of eps adds eps² to the gradient: the difference is central, and divided by 2 · eps."""
        x, w = draw.normal(2, 5, dtype=F64), draw.uniform(2, 5, low=1.0, high=2.0, dtype=F64)
        agree(lambda m: m.numerical_gradient(lambda z: (w * z**3).sum(), x, eps), rtol=1e-9, atol=1e-9)

    @measured("calls")
    def test_float32_is_computed_in_float64(self, agree, draw):
        """At float32 points f gets float64 tensors of the same shape, and the result is float64, as precise as ever."""
        x = draw.normal(3, 5)

        def probe(m):
            seen = []

            def f(z):
                seen.append((z.dtype, z.shape))
                return (z.exp() * z.flip(0)).sum()

            result = m.numerical_gradient(f, x)
            return result, all(dtype == torch.float64 and tuple(shape) == (3, 5) for dtype, shape in seen), len(seen) > 0

        agree(probe, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout, dtype):
        """Strides don't matter: each entry is moved alone."""
        x, w = draw.normal(6, 5, dtype=dtype, layout=layout), draw.normal(6, 5, dtype=F64)
        agree(lambda m: m.numerical_gradient(lambda z: (w * z.sin()).sum() + z[0].prod(), x), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("eps", [1e-6, 0.3])
    def test_f_may_use_x_itself(self, agree, draw, eps):
        """While f is called for points around it, x stays where it is."""
        x = draw.normal(5, 7, dtype=F64)
        agree(lambda m: m.numerical_gradient(lambda z: (z.sin() * x).sum(), x, eps), rtol=1e-6, atol=1e-6)

    def test_default_step(self, agree, draw):
        """Without an eps the step is 1e-6, which a function that bends within 1e-6 shows."""
        x, w = 1e-6 * draw.normal(5, dtype=F64), draw.uniform(5, low=1.0, high=2.0, dtype=F64)
        agree(lambda m: m.numerical_gradient(lambda z: (w * (1e6 * z) ** 3).sum() / 1e6, x), rtol=1e-6, atol=1e-6)

    def test_f_may_leave_torch(self, agree, draw):
        """A function that goes through NumPy works, even at an x that requires a gradient."""
        x = draw.normal(2, 3, dtype=F64).requires_grad_()
        agree(lambda m: m.numerical_gradient(lambda z: torch.as_tensor(np.sin(z.numpy()).prod()), x), rtol=1e-6, atol=1e-6)

    def test_f_may_pick_an_entry(self, agree, draw):
        """The derivative of z[1, 2] is 1 there, although what f gives is a view of what it got."""
        x, w, number = draw.normal(2, 3, dtype=F64), draw.normal(2, 3, dtype=F64), draw.normal(dtype=F64)
        functions = [(lambda z: z[1, 2], x), (lambda z: (w * z).sum(), x), (lambda z: z, number)]
        agree(lambda m: [m.numerical_gradient(f, point) for f, point in functions], rtol=1e-6, atol=1e-6)

    @measured("flags")
    def test_x_and_parameters_may_require_gradients(self, agree, draw):
        """An x that requires a gradient is fine, as are parameters in f; the result has no graph, and nobody's grad changes."""
        x, w = draw.normal(5, dtype=F64), draw.normal(3, 5, dtype=F64)

        def probe(m):
            point, weight = leaf(x), leaf(w)
            result = m.numerical_gradient(lambda z: (weight @ z).tanh().sum(), point)
            computed = m.numerical_gradient(lambda z: (weight @ z).tanh().sum(), point * 2)
            return result, result.requires_grad, computed, computed.requires_grad, point.grad, weight.grad

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_empty(self, agree, draw):
        """Without entries there is nothing to move: the result is as empty."""
        x = draw.normal(2, 3)
        agree(lambda m: [m.numerical_gradient(lambda z: z.square().sum(), p) for p in (x[:, :0], x)], rtol=1e-6, atol=1e-6)

    def test_a_kink_is_averaged(self, agree, draw):
        """At the kink of |x| the central difference is 0; a one-sided one would be ±1."""
        x = draw.normal(7, dtype=F64)
        x = torch.where(x.abs() < 0.01, 1.0, x)
        x[3] = 0
        agree(lambda m: m.numerical_gradient(lambda z: z.abs().sum(), x), rtol=1e-6, atol=1e-6)


def close(value, expected):
    """Whether what a student returned is a tensor close to the expected one."""
    same = isinstance(value, torch.Tensor) and (value.shape, value.dtype) == (expected.shape, expected.dtype)
    return same and torch.allclose(value, expected)


def derivatives(function, x, w, order):
    """Values of the function and its first derivatives along w, up to `order`, each taken through the graph of the one before."""
    point, out = leaf(x), []
    y = function(point)
    out.append(y.detach().clone())
    for _ in range(order):
        (y,) = torch.autograd.grad((y * w).sum(), point, create_graph=True)
        out.append(y.detach().clone())
    return out


@task("Softplus")
class TestSoftplus:
    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (F64, 1e-8)], ids=["float32", "float64"])
    @pytest.mark.parametrize(("low", "high"), [(-3, 3), (-20, -3), (3, 20), (-80, -15), (15, 80), (-80, 80)])
    def test_value_and_gradient(self, agree, draw, low, high, dtype, tol):
        """log(1 + exp(x)) and its derivative are precise in the middle and in both tails."""
        x, w = draw.uniform(5, 7, low=low, high=high, dtype=dtype), draw.uniform(5, 7, low=0.5, high=2.0, dtype=dtype)
        agree(lambda m: derivatives(m.Softplus.apply, x, w, 1), rtol=tol, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
    def test_huge_numbers(self, agree, draw, dtype):
        """Far out the result is x or 0 and the gradient 1 or 0, with no NaN, also at infinity and in the second derivative."""
        x = draw.magnitudes(17, low=110, high=1e30, dtype=dtype)
        x[:8] = torch.tensor([1e4, -1e4, 800, -800, 1e30, -1e30, INF, -INF], dtype=dtype)
        x[8] = draw.normal()
        agree(lambda m: derivatives(m.Softplus.apply, x, torch.ones_like(x), 2), rtol=1e-5, atol=1e-30)

    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
    def test_the_ends_are_flat(self, agree, draw, dtype):
        """At −10,000 and below, the result and its gradient are 0, not a tiny number, and so is the second derivative at both ends."""
        x, w = draw.magnitudes(9, low=1e4, high=1e30, dtype=dtype), draw.uniform(9, low=0.5, high=2.0, dtype=dtype)
        x[:4] = torch.tensor([-1e4, 1e4, -INF, INF], dtype=dtype)
        agree(lambda m: derivatives(m.Softplus.apply, x, w, 2), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("order", [2, 3])
    def test_higher_derivatives(self, agree, draw, order):
        """The gradient can be differentiated, and the result of that once more."""
        x, w = draw.normal(3, 5, dtype=F64), draw.normal(3, 5, dtype=F64)
        agree(lambda m: derivatives(m.Softplus.apply, x, w, order), rtol=1e-9, atol=1e-10)

    def test_gradient_of_the_gradient_reaches_what_came_before(self, agree, draw):
        """A penalty on the gradient trains the weights through Softplus, those before and those behind it."""
        x, w1, w2 = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(7, dtype=F64)

        def probe(m):
            point, a, b = leaf(x), leaf(w1), leaf(w2)
            score = (m.Softplus.apply(point @ a.T) @ b).sum()
            (gradient,) = torch.autograd.grad(score, point, create_graph=True)
            gradient.square().sum().backward()
            return score, gradient, a.grad, b.grad, point.grad

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", ["number", "empty", "transposed", "expanded"])
    def test_any_shape(self, agree, draw, layout):
        """Single numbers, empty tensors, any strides of x and of the gradient."""
        base, w = draw.normal(3, 5, dtype=F64), draw.normal(3, 5, dtype=F64, layout="transposed")
        views = {
            "number": lambda t: t[1, 2],
            "empty": lambda t: t[:, :0],
            "transposed": lambda t: t.T[1:],
            "expanded": lambda t: t[:, :1].expand(3, 4),
        }
        view = views[layout]

        def probe(m):
            point = leaf(base)
            y, whole = m.Softplus.apply(view(point)), m.Softplus.apply(point)
            y.sum().backward()
            whole.backward(w)
            return y, whole, point.grad

        agree(probe, rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_is_a_custom_function(self, agree, draw):
        """Softplus is a torch.autograd.Function, and the result's grad_fn its backward; a graph is recorded only where needed."""
        x = draw.normal(3, 5)

        def probe(m):
            y, z = m.Softplus.apply(leaf(x)), m.Softplus.apply(x)
            custom = isinstance(y.grad_fn, torch.autograd.function.BackwardCFunction)
            return issubclass(m.Softplus, torch.autograd.Function), custom, y, z, z.requires_grad

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_x_is_left_as_it_is(self, agree, draw):
        """Forward and backward don't write into x, whether it requires a gradient or not, or into the gradient of the result."""
        x, point, w = draw.normal(3, 5), leaf(draw.normal(3, 5)), draw.normal(3, 5)

        def probe(m):
            z = point * 2
            y = m.Softplus.apply(z)
            y.backward(w, retain_graph=True)
            first = m.Softplus.apply(point)
            first.backward(w)
            return y, first, m.Softplus.apply(x), point.grad, z

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_a_change_in_place_is_noticed(self, student, draw):
        """If x changes between forward and backward, the gradient is right or an error, never wrong."""
        x = draw.uniform(5, low=0.5, high=1.0, dtype=F64)

        def probe(m):
            point = leaf(x)
            z = point * 1
            y = m.Softplus.apply(z)
            with torch.no_grad():
                z.mul_(-4)
            try:
                y.sum().backward()
            except RuntimeError as error:
                return y.detach(), "in-place" if "inplace" in str(error) else "another error"
            return y.detach(), point.grad

        y, gradient = student(probe, like=None)  # a gradient, or what the error was
        assert close(y, nn.functional.softplus(x)), "The result is wrong."
        if isinstance(gradient, torch.Tensor):
            message = (
                "x was changed in place after forward, and backward gave a wrong gradient without an error: use ctx.save_for_backward."
            )
            assert close(gradient, torch.sigmoid(x)), message
        else:
            assert gradient == "in-place", "Backward after a change of x in place gave neither the right gradient nor autograd's own error."


@task("RoundSTE")
class TestRoundSTE:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
    def test_rounds_and_passes_the_gradient(self, agree, draw, dtype):
        """Whole numbers forward, the gradient unchanged backward, in every floating dtype."""
        x, w = (10 * draw.normal(3, 7)).to(dtype), draw.normal(3, 7, dtype=dtype)

        def probe(m):
            point = leaf(x)
            y = m.RoundSTE.apply(point)
            y.backward(w)
            return y, point.grad

        agree(probe, rtol=0, atol=0)

    def test_halves_go_to_the_even_number(self, agree, draw):
        """0.5 and 2.5 go down, 1.5 and 3.5 go up, and the negative ones mirror that; their gradient passes too."""
        x, w = draw.permutation(41) / 2 - 10.0, draw.normal(41)

        def probe(m):
            point = leaf(x)
            y = m.RoundSTE.apply(point)
            (y * w).sum().backward()
            return y, point.grad

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, F64], ids=str)
    def test_halves_of_every_size(self, agree, draw, dtype):
        """Halves go to the even number, as far as the dtype has any; what lies next to one does not; larger numbers stay."""
        x = draw.magnitudes(29, low=1, high=0.5 / torch.finfo(dtype).eps, dtype=F64).floor() + 0.5
        x[:2] = torch.tensor([0.5, -0.5])
        x = x.to(dtype)
        below, above = torch.nextafter(x, torch.zeros_like(x)), torch.nextafter(x, x * 2)
        whole = draw.magnitudes(61, low=1 / torch.finfo(dtype).eps, high=60 / torch.finfo(dtype).eps, dtype=dtype)
        agree(lambda m: [m.RoundSTE.apply(points) for points in (x, below, above, whole)], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
    def test_huge_numbers_and_infinities(self, agree, draw, dtype):
        """Nothing is clipped: huge numbers and infinities stay, and every gradient passes, infinite ones and NaN too."""
        x, w = draw.magnitudes(17, low=0.3, high=1e30, dtype=dtype), draw.magnitudes(17, low=1e-30, high=1e30, dtype=dtype)
        x[1:6] = torch.tensor([1e30, -1e30, INF, -INF, 300.7])
        w = draw.poisoned(w, torch.arange(17) % 3 == 1)

        def probe(m):
            point = leaf(x)
            y = m.RoundSTE.apply(point)
            y.backward(w)
            return y, point.grad

        agree(probe, rtol=0, atol=0)

    def test_chain_rule_around_it(self, agree, draw):
        """What comes before and behind has its own derivatives, taken at the rounded numbers behind."""
        x, w = 3 * draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            point, weight = leaf(x), leaf(w)
            y = (m.RoundSTE.apply(point.exp() * weight) ** 2 * weight).sum()
            y.backward()
            return y, point.grad, weight.grad

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_second_derivative(self, agree, draw):
        """round(x)³ has the derivative 3 · round(x)² and the second derivative 6 · round(x)."""
        x, w = 3 * draw.normal(7, dtype=F64), draw.uniform(7, low=0.5, high=2.0, dtype=F64)
        agree(lambda m: derivatives(lambda z: m.RoundSTE.apply(z) ** 3, x, w, 2), rtol=1e-9, atol=1e-9)

    def test_learns_through_rounding(self, agree, draw):
        """Gradient descent on the hidden numbers moves the rounded ones to their targets, which the true derivative never would."""
        x, targets = draw.normal(11, dtype=F64), draw.integers(-5, 6, 11).double()

        def probe(m):
            point = leaf(x)
            for _ in range(60):
                y = m.RoundSTE.apply(point)
                (gradient,) = torch.autograd.grad((y - targets).square().sum() / 2, point)
                with torch.no_grad():
                    point -= 0.1 * gradient
            return m.RoundSTE.apply(point), point.detach()

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    def test_is_a_custom_function(self, agree, draw):
        """RoundSTE is a torch.autograd.Function, and the result's grad_fn its backward; a graph is recorded only where needed."""
        x = 5 * draw.normal(3, 5)

        def probe(m):
            y, z = m.RoundSTE.apply(leaf(x)), m.RoundSTE.apply(x)
            custom = isinstance(y.grad_fn, torch.autograd.function.BackwardCFunction)
            return issubclass(m.RoundSTE, torch.autograd.Function), custom, y, z, z.requires_grad

        agree(probe, rtol=0, atol=0)

    def test_x_is_left_as_it_is(self, agree, draw):
        """Rounding in place would destroy what is being learned, whether x is a parameter, is computed, or requires no gradient."""
        x, point, w = 5 * draw.normal(3, 5), leaf(5 * draw.normal(3, 5)), draw.normal(3, 5)

        def probe(m):
            z = point * 2
            y = m.RoundSTE.apply(z)
            y.backward(w)
            return y, z, point.grad, m.RoundSTE.apply(point), m.RoundSTE.apply(x)

        agree(probe, rtol=0, atol=0)

    @pytest.mark.parametrize("layout", ["number", "empty", "transposed", "expanded"])
    def test_any_shape(self, agree, draw, layout):
        """Single numbers, empty tensors, any strides."""
        base, w = 5 * draw.normal(3, 5, dtype=F64), draw.normal(5, 3, dtype=F64)
        views = {
            "number": lambda t: t[1, 2],
            "empty": lambda t: t[:, :0],
            "transposed": lambda t: t.T[1:],
            "expanded": lambda t: t[:, :1].expand(3, 4),
        }
        view = views[layout]

        def probe(m):
            point = leaf(base)
            y, whole = m.RoundSTE.apply(view(point)), m.RoundSTE.apply(point.T)
            ((y * 2).sum() + (whole * w).sum()).backward()
            return y, whole, point.grad

        agree(probe, rtol=1e-9, atol=1e-9)


@task("jacobian")
class TestJacobian:
    @pytest.mark.parametrize(
        ("inputs", "outputs"),
        [
            ((5,), (3,)),
            ((2, 5), (3,)),
            ((5,), (2, 3)),
            ((2, 3), (5, 7)),
            ((1, 5), (3, 1)),
            ((3, 1), (1, 7)),
            ((1,), (1,)),
            ((), (3,)),
            ((3,), ()),
            ((), ()),
        ],
        ids=str,
    )
    def test_dimensions_of_outputs_come_first(self, agree, draw, inputs, outputs):
        """Any shapes of output and input, single numbers and sizes of 1 included: (*outputs, *inputs)."""
        x = draw.normal(*inputs, dtype=F64)
        w = draw.normal(math.prod(outputs), math.prod(inputs), dtype=F64)
        agree(lambda m: m.jacobian(lambda z: (w @ z.sin().flatten()).tanh().reshape(outputs), x), rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    def test_square_and_not_symmetric(self, agree, draw, dtype, tol):
        """With as many outputs as inputs too, rows belong to outputs and columns to inputs."""
        x, w = draw.normal(5, dtype=dtype), draw.normal(5, 5, dtype=dtype)
        agree(lambda m: m.jacobian(lambda z: w @ z * z[0], x), rtol=tol, atol=10 * tol)

    def test_entry_by_entry(self, agree, draw):
        """The Jacobian of an entrywise function is diagonal, and the identity has the identity."""
        x = draw.normal(3, 7, dtype=F64)
        agree(lambda m: [m.jacobian(lambda z: z.exp(), x), m.jacobian(lambda z: z, x)], rtol=1e-9, atol=1e-9)

    def test_outputs_that_do_not_depend_on_x(self, agree, draw):
        """Constants among the outputs, and functions that return nothing but constants, have the derivative 0."""
        x, c = draw.normal(3, dtype=F64), draw.normal(2, dtype=F64)

        def probe(m):
            weight = leaf(c)
            functions = [
                lambda z: torch.cat([z[:2] * z[2], c]),
                lambda z: c,
                lambda z: weight * 2,
                lambda z: torch.cat([weight, z[:1] ** 2]),
                lambda z: z.detach() * 2,
                lambda z: torch.stack([z[0] * z[1], z[2].detach() ** 2]),
            ]
            return [m.jacobian(f, x) for f in functions]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_no_outputs(self, agree, draw):
        """An output of (0,) or (2, 0) gives as many rows."""
        x = draw.normal(5, 3)
        agree(
            lambda m: [m.jacobian(lambda z: z[0, :2].square(), x), m.jacobian(lambda z: z[0, :0], x), m.jacobian(lambda z: z[:2, :0], x)],
            rtol=1e-5,
            atol=1e-6,
        )

    @measured("flags")
    def test_kept_out_of_graphs(self, agree, draw):
        """The result has no graph, and neither x, required or computed, nor a parameter in f has a grad that changed."""
        point, weight, g = leaf(draw.normal(5, dtype=F64)), leaf(draw.normal(3, 5, dtype=F64)), draw.normal(3, 5, dtype=F64)

        def probe(m):
            out = [m.jacobian(lambda z: (weight @ z).tanh(), point)]
            weight.grad = g.clone()
            out.append(m.jacobian(lambda z: (weight @ z).tanh(), point * 2))
            return {"results": out, "requires_grad of the results": [J.requires_grad for J in out], "the weight's grad": weight.grad}

        agree(probe, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("required", [False, True])
    def test_x_in_f_is_a_constant(self, agree, draw, required):
        """Only the tensor that f gets is differentiated: where f uses x itself, that is a constant, even if x requires a gradient."""
        x = draw.normal(2, 3, dtype=F64).requires_grad_(required)
        agree(lambda m: m.jacobian(lambda z: (z * x).sin() + x.square(), x), rtol=1e-9, atol=1e-10)

    @measured("flags")
    def test_inside_no_grad(self, agree, draw):
        """Where the caller has switched gradients off, they are on for f, and off again afterwards."""
        x, w = draw.normal(5, dtype=F64), draw.normal(3, 5, dtype=F64)

        def probe(m):
            with torch.no_grad():
                result = m.jacobian(lambda z: (w @ z).sin(), x)
                return result, torch.is_grad_enabled()

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_exact(self, agree, draw):
        """Large and steep functions show that these are no finite differences."""
        x, w = draw.normal(5, dtype=F64), draw.normal(3, 5, dtype=F64)
        agree(lambda m: m.jacobian(lambda z: ((w @ z) * 50).sin() + 1e6, x), rtol=1e-9, atol=1e-8)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Both x and the output may lie in memory in any way."""
        x, w = draw.normal(2, 3, dtype=F64, layout=layout), draw.normal(7, 2, dtype=F64)
        functions = [lambda z: (w @ z).sin().T, lambda z: (w @ z)[:, 1:2].expand(7, 3)]
        agree(lambda m: [m.jacobian(f, x) for f in functions], rtol=1e-9, atol=1e-10)


@task("hessian_vector_product")
class TestHessianVectorProduct:
    @pytest.mark.parametrize("shape", [*with_ones(3, 5), (2, 3, 2), (7,), ()], ids=str)
    def test_any_shape(self, agree, draw, shape):
        """H v for a function in which all entries meet, at x of any shape."""
        x, v, w = (draw.normal(*shape, dtype=F64) for _ in range(3))
        agree(
            lambda m: m.hessian_vector_product(lambda z: ((w * z).sum().sin() * z.square().sum()).tanh() + (z**3).sum(), x, v),
            rtol=1e-8,
            atol=1e-9,
        )

    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (F64, 1e-9)], ids=["float32", "float64"])
    def test_quadratic_form(self, agree, draw, dtype, tol):
        """xᵀAx has the Hessian A + Aᵀ, wherever x is: no half of it, and not scaled to a v of length 1."""
        x, v, A = draw.normal(7, dtype=dtype), 5 * draw.normal(7, dtype=dtype), draw.normal(7, 7, dtype=dtype)
        agree(lambda m: m.hessian_vector_product(lambda z: z @ A @ z, x, v), rtol=tol, atol=10 * tol)

    def test_through_a_network(self, agree, draw):
        """Weights of a network for x: the product that second-order optimizers need."""
        x, v = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64)
        inputs, targets = draw.normal(11, 3, dtype=F64), draw.normal(11, 5, dtype=F64)
        agree(lambda m: m.hessian_vector_product(lambda w: ((inputs @ w.T).tanh() - targets).square().mean(), x, v), rtol=1e-9, atol=1e-10)

    def test_exact(self, agree, draw):
        """A steep function with a large constant shows that these are no finite differences."""
        x, v, w = (draw.normal(7, dtype=F64) for _ in range(3))
        agree(lambda m: m.hessian_vector_product(lambda z: (30 * (w @ z)).sin() + 1e6 + (z**4).sum(), x, v), rtol=1e-9, atol=1e-8)

    @measured("flags")
    def test_no_second_derivative(self, agree, draw):
        """Linear functions and those that don't depend on x, or on some of its entries, give zeros there, without a graph."""
        x, v, w = (draw.normal(7, dtype=F64) for _ in range(3))

        def probe(m):
            weight = leaf(w)
            functions = [
                lambda z: (w * z).sum(),
                lambda z: (weight * z).sum(),
                lambda z: weight.square().sum(),
                lambda z: w.sum(),
                lambda z: (w * z).sum() + z[2] * z[5] ** 2,
                lambda z: (w * z).relu().sum() + z[3] ** 3,
            ]
            products = [m.hessian_vector_product(f, x, v) for f in functions]
            return {"products": products, "requires_grad of the products": [p.requires_grad for p in products]}

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_never_builds_the_hessian(self, agree, draw):
        """A million entries: their Hessian would fill more than all memory."""
        n, seed = 1_000_003, draw.seed()

        def probe(m):
            generator = torch.Generator().manual_seed(seed)
            x, v = (torch.randn(n, generator=generator) for _ in range(2))
            product = m.hessian_vector_product(lambda z: (z[1:] * z[:-1] ** 2).sum() + (z**3).sum() / 3, x, v)
            return product.shape, product[:50], product[-50:], product[::25_013]

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_kept_out_of_graphs(self, agree, draw):
        """The result has no graph, and neither x, required or computed, nor a parameter in f has a grad that changed."""
        point, v, u = leaf(draw.normal(5, dtype=F64)), draw.normal(5, dtype=F64), leaf(draw.normal(5, dtype=F64))
        weight, g = leaf(draw.normal(3, 5, dtype=F64)), draw.normal(3, 5, dtype=F64)

        def probe(m):
            f = lambda z: (weight @ z).tanh().sum()  # noqa: E731
            out = [m.hessian_vector_product(f, point, v)]
            weight.grad = g.clone()
            out += [m.hessian_vector_product(f, point * 2, v), m.hessian_vector_product(f, point, u)]
            return {"results": out, "requires_grad of the results": [p.requires_grad for p in out], "the weight's grad": weight.grad}

        agree(probe, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("required", [False, True])
    def test_x_in_f_is_a_constant(self, agree, draw, required):
        """Only the tensor that f gets is differentiated: where f uses x itself, that is a constant, even if x requires a gradient."""
        x, v = draw.normal(2, 3, dtype=F64).requires_grad_(required), draw.normal(2, 3, dtype=F64)
        agree(lambda m: m.hessian_vector_product(lambda z: (z * z * x).sin().sum() * x.sum(), x, v), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Both x and v may lie in memory in any way."""
        x, v = (draw.normal(3, 5, dtype=F64, layout=layout) for _ in range(2))
        points = [(x, v), (x.contiguous(), v), (x, v.contiguous())]
        agree(
            lambda m: [m.hessian_vector_product(lambda z: z.sin().prod() + (z.T @ z).exp().sum(), *p) for p in points], rtol=1e-8, atol=1e-9
        )

    @measured("flags")
    def test_inside_no_grad(self, agree, draw):
        """Where the caller has switched gradients off, they are on for f, and off again afterwards."""
        x, v = draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            with torch.no_grad():
                return m.hessian_vector_product(lambda z: z.prod() + z.exp().sum(), x, v), torch.is_grad_enabled()

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_any_length(self, agree, draw):
        """The product grows with v, from v = 0 to any length."""
        x, v, A = draw.normal(5, dtype=F64), draw.uniform(5, low=0.5, high=1.0, dtype=F64), draw.uniform(5, 5, low=0.5, dtype=F64)
        vectors = [v * length for length in (1.0, 0.0, 1e-150, 1e150)]
        agree(lambda m: [m.hessian_vector_product(lambda z: z @ A @ z + z[0] ** 4, x, u) for u in vectors], rtol=1e-9, atol=0)

    def test_empty(self, agree, draw):
        """Without entries, the product is as empty."""
        x, v = draw.normal(2, 3, dtype=F64), draw.normal(2, 3, dtype=F64)
        points = [(x, v), (x[:, :0], v[:, :0]), (x[:0, 0], v[:0, 0])]
        agree(lambda m: [m.hessian_vector_product(lambda z: z.exp().sum(), *p) for p in points], rtol=1e-9, atol=1e-9)


def make_critic(w1, b1, w2):
    """Two layers with a tanh between them and one score a row, (B, 1)."""
    return nn.Sequential(nn.Flatten(), linear(w1, b1), nn.Tanh(), linear(w2))


def critic_parts(draw, inputs, dtype=F64):
    """Parameters for `make_critic`."""
    return draw.normal(7, inputs, dtype=dtype), draw.normal(7, dtype=dtype), draw.normal(1, 7, dtype=dtype)


def pair(draw, *shape, dtype=F64):
    """Real and fake samples, and an alpha for each."""
    return draw.normal(*shape, dtype=dtype), 2 * draw.normal(*shape, dtype=dtype), draw.uniform(shape[0], dtype=dtype)


@task("gradient_penalty")
class TestGradientPenalty:  # the tolerance leaves room for an epsilon of 1e-12 under a root
    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-3), (F64, 1e-5)], ids=["float32", "float64"])
    def test_value(self, agree, draw, dtype, tol):
        """The mean over samples of (slope − 1)², each slope at the sample's own mix."""
        (real, fake, alpha), critic = pair(draw, 11, 5, dtype=dtype), make_critic(*critic_parts(draw, 5, dtype))
        agree(lambda m: m.gradient_penalty(critic, real, fake, alpha), rtol=tol, atol=tol)

    def test_trains_the_critic(self, agree, draw):
        """penalty.backward() gives all parameters of the critic their gradient, through the slope."""
        (real, fake, alpha), critic = pair(draw, 11, 5), make_critic(*critic_parts(draw, 5))

        def probe(m):
            penalty = m.gradient_penalty(critic, real, fake, alpha)
            (penalty * 10).backward()
            return penalty, grads_of(critic)

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("shape", [(3, 2, 5, 7), (5, 3, 4), (1, 2, 1, 3), (3, 1, 5, 1), (7, 1)], ids=str)
    def test_norm_over_all_entries_of_a_sample(self, agree, draw, shape):
        """A sample may be an image: its slope has one norm over channels, rows and columns, of which there may be one each."""
        (real, fake, alpha), critic = pair(draw, *shape), make_critic(*critic_parts(draw, math.prod(shape[1:])))

        def probe(m):
            penalty = m.gradient_penalty(critic, real, fake, alpha)
            penalty.backward()
            return penalty, grads_of(critic)

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_scores_as_a_vector(self, agree, draw):
        """A plain function that gives (B,) is a critic as well."""
        (real, fake, alpha), w = pair(draw, 7, 5), draw.normal(5, dtype=F64)
        agree(lambda m: m.gradient_penalty(lambda x: (x.square() @ w).sin(), real, fake, alpha), rtol=1e-5, atol=1e-5)

    def test_slopes_below_one_count(self, agree, draw):
        """A flat critic is punished as a steep one is."""
        (real, fake, alpha), w = pair(draw, 7, 5), draw.uniform(5, low=0.05, high=0.2, dtype=F64)

        def probe(m):
            weight = leaf(w)
            penalty = m.gradient_penalty(lambda x: x @ weight, real, fake, alpha)
            penalty.backward()
            return penalty, weight.grad

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_alpha_weighs_the_real_sample(self, agree, draw):
        """With alpha 1 the slope is taken at the real sample, with alpha 0 at the fake one."""
        (real, fake, alpha), w = pair(draw, 6, 3), draw.uniform(3, low=0.5, high=2.0, dtype=F64)
        ends = [torch.zeros_like(alpha), torch.ones_like(alpha), (alpha > 0.5).to(F64), alpha]
        agree(lambda m: [m.gradient_penalty(lambda x: (x**3) @ w, real, fake, a) for a in ends], rtol=1e-5, atol=1e-5)

    def test_slopes_of_zero(self, agree, draw):
        """Where the critic is flat, as relu can be, the penalty is 1 and the gradient 0 rather than NaN."""
        (real, fake, alpha), parts = pair(draw, 7, 5), critic_parts(draw, 5)
        w, sizes = draw.uniform(5, low=0.5, high=1.0, dtype=F64), torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0, 1.0], dtype=F64)
        signed = (0.1 + real.abs()) * sizes[:, None]  # relu(x @ w) is flat in the rows of sign −1

        def probe(m):
            flat = make_critic(parts[0], parts[1], torch.zeros_like(parts[2]))
            weight = leaf(w)
            penalties = [
                m.gradient_penalty(flat, real, fake, alpha),
                m.gradient_penalty(lambda x: (x @ weight).relu().square(), signed, signed, alpha),
            ]
            for penalty in penalties:
                penalty.backward()
            return penalties, grads_of(flat)[:2], flat[3].weight.grad, weight.grad

        agree(probe, rtol=1e-5, atol=1e-5)

    def test_nothing_flows_into_the_samples(self, agree, draw):
        """Samples that require gradients get none, not even the fake ones that a generator made."""
        (real, fake, alpha), critic = pair(draw, 7, 5), make_critic(*critic_parts(draw, 5))
        real, fake = leaf(real), leaf(fake)

        def probe(m):
            penalty = m.gradient_penalty(critic, real, fake * 1.5, alpha)
            penalty.backward()
            return penalty, grads_of(critic), real.grad, fake.grad

        agree(probe, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples, alpha and the gradient itself may lie in memory in any way."""
        real, fake = (draw.normal(5, 2, 3, 7, dtype=F64, layout=layout) for _ in range(2))
        alpha = draw.uniform(5, dtype=F64, layout="sliced" if layout == "transposed" else layout)
        inner = make_critic(*critic_parts(draw, 42))
        critic = lambda x: inner(x.permute(0, 2, 3, 1).contiguous())  # noqa: E731

        def probe(m):
            penalty = m.gradient_penalty(critic, real, fake, alpha)
            penalty.backward()
            return penalty, grads_of(inner)

        agree(probe, rtol=1e-5, atol=1e-5)

    @measured("flags")
    def test_critic_keeps_its_modes(self, agree, draw):
        """A critic in training mode with a dropout in eval mode stays that, and its frozen layer stays frozen."""
        (real, fake, alpha), layers = pair(draw, 7, 5), make_critic(*critic_parts(draw, 5))
        critic = nn.Sequential(*layers[:3], nn.Dropout(0.5).eval(), layers[3])
        layers[1].requires_grad_(False)
        agree(lambda m: m.gradient_penalty(critic, real, fake, alpha), rtol=1e-5, atol=1e-5)

    @measured("calls, flags, hooks")
    def test_call_alone_changes_no_grad(self, agree, draw):
        """Before backward is called on the penalty, the critic's gradients are what they were; the critic is called once."""
        (real, fake, alpha), critic = pair(draw, 7, 5), make_critic(*critic_parts(draw, 5))

        def probe(m):
            shapes = []
            critic.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
            for p in critic.parameters():
                p.grad = torch.ones_like(p)
            penalty = m.gradient_penalty(critic, real, fake, alpha)
            return {
                "penalty": penalty,
                "requires_grad of the penalty": penalty.requires_grad,
                "the critic's gradients": grads_of(critic),
                "shapes that the critic got": shapes,
            }

        agree(probe, rtol=1e-5, atol=1e-5)


class Watched:
    """Calls f, and notes for each call whether gradients were enabled."""

    def __init__(self, f):
        self.f, self.enabled = f, []

    def __call__(self, *args):
        self.enabled.append(torch.is_grad_enabled())
        return self.f(*args)


@task("checkpoint")
class TestCheckpoint:
    @measured("calls, flags")
    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (F64, 1e-10)], ids=["float32", "float64"])
    def test_recomputes_in_the_backward(self, agree, draw, dtype, tol):
        """One run without a graph at the call, one with a graph in the backward; result and gradient as without checkpoint."""
        x, w = draw.normal(5, 3, dtype=dtype), draw.normal(5, 3, dtype=dtype)

        def probe(m):
            f, point = Watched(lambda z: z.sin() * z.exp().mean()), leaf(x)
            y = m.checkpoint(f, point)
            at_call = list(f.enabled)
            (y * w).sum().backward()
            return y, point.grad, at_call, f.enabled, y.requires_grad

        agree(probe, rtol=tol, atol=tol)

    @measured("calls, flags")
    def test_parameters_get_their_gradients(self, agree, draw):
        """The parameters of a module, which are no arguments, receive theirs too, added to what was there; it stays in its modes."""
        point, w1, w2 = leaf(draw.normal(5, 3, dtype=F64)), draw.normal(7, 3, dtype=F64), draw.normal(2, 7, dtype=F64)
        model = nn.Sequential(linear(w1), nn.Dropout(0.5).eval(), nn.Tanh(), linear(w2))

        def probe(m):
            enabled = []
            model[2].register_forward_hook(lambda module, args, output: enabled.append(torch.is_grad_enabled()))
            model[0].weight.grad = torch.ones_like(w1)
            y = m.checkpoint(model, point)
            y.square().sum().backward()
            return y, point.grad, grads_of(model), enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("flags")
    @pytest.mark.parametrize("training", [True, False])
    def test_modes_are_left_alone(self, agree, draw, training):
        """A module that is checkpointed stays in its mode, training or eval, after the call and after the backward."""
        point, model = leaf(draw.normal(5, 3, dtype=F64)), nn.Sequential(linear(draw.normal(7, 3, dtype=F64)), nn.Tanh()).train(training)

        def probe(m):
            y = m.checkpoint(model, point)
            modes = modes_of(model)
            y.square().sum().backward()
            return y, point.grad, modes

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after the call what it was before, and after a backward under no_grad, too."""
        x = draw.normal(5, dtype=F64)

        def probe(m):
            point, kept = leaf(x), []
            with torch.set_grad_enabled(recording):
                y = m.checkpoint(lambda z: z.sin() * z, point)
                kept.append(torch.is_grad_enabled())
            if recording:
                total = y.sum()
                with torch.no_grad():
                    total.backward()
                    kept.append(torch.is_grad_enabled())
            return y.detach(), point.grad, kept

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_arguments_of_all_kinds(self, agree, draw):
        """Tensors that need gradients, parameters among them, stand among others that don't, numbers, None, strings and lists."""
        x, y, mask, index = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), draw.bools(5, 3), draw.permutation(5)

        def probe(m):
            def f(mode, a, keep, order, scale, nothing, b, calls):
                assert (mode, scale, nothing) == ("scaled", 3, None)
                calls.append(mode)
                return a[order].where(keep, b) * scale * b.cos()

            a, b, c, calls = leaf(x), nn.Parameter(y.clone()), y.clone(), []
            f1, f2 = Watched(f), Watched(f)
            first = m.checkpoint(f1, "scaled", a, mask, index, 3, None, b, calls)
            second = m.checkpoint(f2, "scaled", a, mask, index, 3, None, c, calls)
            (first.sum() + second.square().sum()).backward()
            return first, second, a.grad, b.grad, c.grad, f1.enabled, f2.enabled, len(calls)

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_arguments_that_count_as_false(self, agree, draw):
        """Arguments such as 0, False, an empty string and an empty list reach f in both runs, each in its place."""
        x, y = draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            def f(start, a, flag, rate, nothing, b, name, entries):
                seen.append([start, flag, rate, nothing, name, entries])
                return a[start:].sin() * b + rate

            seen, point = [], leaf(x)
            result = m.checkpoint(f, 0, point, False, 0.0, None, y, "", [])
            result.sum().backward()
            return result, point.grad, seen

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Arguments, and the gradient of the result, may lie in memory in any way."""
        x, y, g = (draw.normal(3, 5, dtype=F64, layout=layout) for _ in range(3))

        def probe(m):
            f, a = Watched(lambda a, b: a.sin() * b), x.detach().requires_grad_()
            result = m.checkpoint(f, a, y)
            result.backward(g)
            return result, a.grad, f.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_which_arguments_require_gradients(self, agree, draw):
        """In the second run, the same arguments require gradients as in the first; others would cost memory for nothing."""
        x, y = draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            seen = []

            def f(a, b, c):
                seen.append([torch.is_grad_enabled(), a.requires_grad, b.requires_grad])
                return (a * b).sin() * c

            a = leaf(x)
            result = m.checkpoint(f, a, y, 2.0)
            result.sum().backward()
            return result, a.grad, [flags for flags in seen if flags[0]], len(seen)

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_same_tensor_twice(self, agree, draw):
        """A tensor that is passed twice receives the sum of both gradients."""
        x = draw.normal(5, dtype=F64)

        def probe(m):
            f, point = Watched(lambda a, b: a.sin() * b**2), leaf(x)
            y = m.checkpoint(f, point, point)
            y.sum().backward()
            return y, point.grad, f.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_in_the_middle_of_a_network(self, agree, draw):
        """Gradients go on to what computed the arguments; two checkpoints follow each other and share parameters."""
        x, w = draw.normal(5, 3, dtype=F64), draw.normal(3, 3, dtype=F64)

        def probe(m):
            layer, point = linear(w), leaf(x)
            f, g = Watched(lambda z: layer(z).tanh()), Watched(lambda z, s: layer(z).sin() + s)
            h = m.checkpoint(f, point * 2)
            y = m.checkpoint(g, h, h * 3) * h
            y.sum().backward()
            return y, point.grad, grads_of(layer), f.enabled, g.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_dropout_drops_the_same_entries(self, agree, draw):
        """The second run sees the random numbers of the first, though others were drawn in between."""
        x, p = draw.uniform(50, 7, low=1.0, high=2.0, dtype=F64), 0.5

        def probe(m):
            f, point = Watched(lambda z: nn.functional.dropout(z, p) + torch.randn(z.shape, dtype=z.dtype) * z**2), leaf(x)
            torch.rand(5)
            y = m.checkpoint(f, point)
            torch.rand(3)
            y.sum().backward()
            return y, point.grad, f.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_random_stream_goes_on(self, agree, draw):
        """What is drawn after the call and after the backward is what would be drawn without the second run."""
        x = draw.uniform(7, low=1.0, high=2.0, dtype=F64)

        def probe(m):
            f, point = Watched(lambda z: nn.functional.dropout(z, 0.5)), leaf(x)
            torch.rand(3)
            y = m.checkpoint(f, point)
            between = torch.rand(5)
            y.sum().backward()
            return y, point.grad, between, torch.rand(5), f.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_backward_twice(self, agree, draw):
        """With retain_graph, each backward runs f once more, and gradients add up."""
        x, w = draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            weight, point = leaf(w), leaf(x)
            f = Watched(lambda z: nn.functional.dropout((weight * z).sin(), 0.3))
            y = m.checkpoint(f, point)
            y.sum().backward(retain_graph=True)
            once = point.grad.clone()
            y.square().sum().backward()
            return y, once, point.grad, weight.grad, f.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_only_when_asked(self, agree, draw):
        """Nothing runs again where no backward reaches the result, and under no_grad the result has no graph."""
        x = draw.normal(5, dtype=F64)

        def probe(m):
            f, g, h = (Watched(lambda z: z.sin() * z) for _ in range(3))
            point = leaf(x)
            unused, used = m.checkpoint(f, point), m.checkpoint(g, point)
            with torch.no_grad():
                plain = m.checkpoint(h, point)
            used.sum().backward()
            return unused, used, plain, plain.requires_grad, point.grad, f.enabled, g.enabled, h.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_nested(self, agree, draw):
        """A function that calls checkpoint itself may be checkpointed: its inner part then runs three times."""
        x, w = draw.normal(5, dtype=F64), draw.normal(5, dtype=F64)

        def probe(m):
            weight, point = leaf(w), leaf(x)
            inner = Watched(lambda z: nn.functional.dropout(z * weight, 0.4).sin())
            outer = Watched(lambda z: m.checkpoint(inner, z * 2) * weight)
            y = m.checkpoint(outer, point)
            y.sum().backward()
            return y, point.grad, weight.grad, inner.enabled, outer.enabled

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags")
    def test_a_change_in_place_is_noticed(self, agree, draw):
        """Backward after a tensor or parameter among the arguments was changed in place is a RuntimeError, else it goes through."""
        x, y, w = (draw.normal(5, dtype=F64) for _ in range(3))

        def probe(m):
            out = []
            for changed in (None, 0, 1, 2):
                point = leaf(x)
                args, f = (point * 1, y.clone(), nn.Parameter(w)), Watched(lambda a, b, c: a.sin() * b * c)
                result = m.checkpoint(f, *args)
                with torch.no_grad():
                    if changed is not None:
                        args[changed].mul_(2)
                out.append((result, raised(RuntimeError, result.sum().backward), point.grad, f.enabled[0]))
            return out

        agree(probe, rtol=1e-9, atol=1e-10)


class Net(nn.Module):
    """A linear layer, a batch norm, and a head that may share the first layer's weight."""

    def __init__(self, dtype, tied):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, dtype=dtype)
        self.first, self.head = nn.Linear(3, 3, bias=False, dtype=dtype), nn.Linear(3, 3, dtype=dtype)
        if tied:
            self.head.weight = self.first.weight
        self.register_buffer("table", torch.zeros(5, dtype=torch.int64))
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x):
        return self.head(self.norm(self.first(x)).tanh()) * self.scale


def filled(draw, model):
    """The model with drawn numbers in all parameters and buffers; whole numbers have more digits than a float can hold."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(draw.normal(*p.shape, dtype=p.dtype))
        for b in model.buffers():
            b.copy_(
                draw.uniform(*b.shape, low=0.5, high=1.5, dtype=b.dtype) if b.dtype.is_floating_point else draw.integers(0, 2**62, *b.shape)
            )
    return model


def average_and_model(draw, *, dtype=F64, tied=False):
    """Two nets with different parameters and buffers."""
    return filled(draw, Net(dtype, tied)), filled(draw, Net(dtype, tied))


def modes_of(model):
    """Which modules are in training mode."""
    return {name: module.training for name, module in model.named_modules()}


def state_of(model):
    """Copies of all parameters and buffers by name, of those too that state_dict leaves out."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach().clone() for name, tensor in tensors}


@task("ema_update_")
class TestEmaUpdate:
    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
    @pytest.mark.parametrize("decay", [0.9, 0.25])
    def test_parameters_move_and_buffers_are_copied(self, agree, draw, decay, dtype, tol):
        """Each parameter goes the share 1 − decay of the way; running statistics, counters and tables are copied."""
        average, model = average_and_model(draw, dtype=dtype)
        model.norm.eval()  # the modes of both stay
        average.eval().head.train()

        def probe(m):
            m.ema_update_(average, model, decay)
            return state_of(average)

        agree(probe, rtol=tol, atol=tol)

    def test_several_updates(self, agree, draw):
        """Over a training of five steps, the average follows the weights; training goes on undisturbed."""
        (average, model), x = average_and_model(draw), draw.normal(11, 3, dtype=F64)

        def probe(m):
            for _ in range(5):
                gradients = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
                with torch.no_grad():
                    for p, gradient in zip(model.parameters(), gradients, strict=True):
                        p -= 0.05 * gradient
                m.ema_update_(average, model, 0.8)
            return state_of(average), state_of(model)

        agree(probe, rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("decay", [0.0, 1.0])
    def test_ends_of_the_range(self, agree, draw, decay):
        """Decay 0 copies the model, decay 1 keeps the parameters, and copies the buffers all the same."""
        average, model = average_and_model(draw)

        def probe(m):
            m.ema_update_(average, model, decay)
            return state_of(average)

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("frozen", ["model", "average", "both"])
    def test_frozen_parameters_move_too(self, agree, draw, frozen):
        """A parameter that requires no gradient, in the model or in the average, is averaged like the others, and stays frozen."""
        average, model = average_and_model(draw)
        for net in {"model": [model], "average": [average], "both": [average, model]}[frozen]:
            net.first.requires_grad_(False)
            net.scale.requires_grad_(False)

        def probe(m):
            m.ema_update_(average, model, 0.7)
            return state_of(average)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_buffers_of_all_kinds(self, agree, draw):
        """Buffers that state_dict leaves out are copied, a buffer may be None, and NaN in an old one leaves no trace."""
        average, model = average_and_model(draw)
        for net in (average, model):
            net.register_buffer("hidden", draw.normal(5, dtype=F64), persistent=False)
            net.register_buffer("mask", draw.bools(7))
            net.bare = nn.BatchNorm1d(3, affine=False, track_running_stats=False)  # its statistics are None
        average.hidden.copy_(draw.poisoned(average.hidden, torch.arange(5) > 0))

        def probe(m):
            m.ema_update_(average, model, 0.7)
            return state_of(average)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_layouts(self, agree, draw):
        """Parameters and buffers may be transposed, in one of the two or in both."""
        average, model = average_and_model(draw)
        for net, layouts in ((average, ("transposed", "contiguous")), (model, ("transposed", "transposed"))):
            net.mix, net.other = (nn.Parameter(draw.normal(5, 2, dtype=F64, layout=layout)) for layout in layouts)
            net.register_buffer("grid", draw.normal(5, 2, dtype=F64, layout=layouts[1]))

        def probe(m):
            m.ema_update_(average, model, 0.7)
            return state_of(average)

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags, object identity")
    def test_in_place_without_a_graph(self, agree, draw):
        """Whoever holds a tensor of the average sees the update; parameters stay leaves with their grad, and the result is None."""
        average, model = average_and_model(draw)
        average.scale.requires_grad_(False)

        def probe(m):
            for p in average.parameters():
                p.grad = torch.ones_like(p) if p.requires_grad else None
            held = {**dict(average.named_parameters()), **dict(average.named_buffers())}
            views = {name: tensor.detach() for name, tensor in held.items()}
            result = m.ema_update_(average, model, 0.7)
            flags = [(p.requires_grad, p.is_leaf, p.grad) for p in average.parameters()]
            now = {**dict(average.named_parameters()), **dict(average.named_buffers())}
            return result, views, flags, all(held[name] is tensor for name, tensor in now.items())

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_average_can_be_trained_on(self, agree, draw):
        """After an update inside a training step, backward goes through both models as if nothing had happened."""
        (average, model), x = average_and_model(draw), draw.normal(5, 3, dtype=F64)

        def probe(m):
            m.ema_update_(average, model, 0.7)
            (average(x).square().mean() + model(x).sin().sum()).backward()
            return state_of(average), grads_of(average), grads_of(model)

        agree(probe, rtol=1e-8, atol=1e-9)

    @measured("object identity")
    def test_tied_weights_move_once(self, agree, draw):
        """A weight that occurs twice in the model is one parameter."""
        average, model = average_and_model(draw, tied=True)

        def probe(m):
            m.ema_update_(average, model, 0.6)
            return state_of(average), average.head.weight is average.first.weight

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_later_changes_of_the_model(self, agree, draw):
        """What happens to the model after the update doesn't reach the average, not even after a copy with decay 0."""
        average, model = average_and_model(draw)

        def probe(m):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            m.ema_update_(average, model, 0.5)
            m.ema_update_(average, model, 0.0)
            after, grads = state_of(model), grads_of(model)
            with torch.no_grad():
                for tensor in [*model.parameters(), *model.buffers()]:
                    tensor.mul_(5)
            return after, grads, state_of(average)

        agree(probe, rtol=1e-9, atol=1e-9)

    @measured("flags")
    @pytest.mark.parametrize("recording", [True, False])
    def test_gradient_mode_is_left_alone(self, agree, draw, recording):
        """Whether autograd records is after the update what it was before, under no_grad, too."""
        average, model = average_and_model(draw)

        def probe(m):
            with torch.set_grad_enabled(recording):
                m.ema_update_(average, model, 0.5)
                return state_of(average), torch.is_grad_enabled()

        agree(probe, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("training", [True, False])
    def test_modes_are_left_alone(self, agree, draw, training):
        """Both modules stay in the mode that each is in, training or eval."""
        average, model = average_and_model(draw)
        average.train(training)
        model.train(not training)

        def probe(m):
            m.ema_update_(average, model, 0.5)
            return state_of(average)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_bad_decay_raises(self, agree, draw):
        """Below 0 or above 1 is a ValueError, and nothing has changed by then; 0.5 is fine."""
        (average, model), (untouched, _) = average_and_model(draw), average_and_model(draw)

        def probe(m):
            outcomes = [raised(ValueError, lambda d=d: m.ema_update_(untouched, model, d)) for d in (-0.1, 1.001, 2, -1)]
            m.ema_update_(average, model, 0.5)
            return outcomes, state_of(untouched), [p.detach() for p in average.parameters()]

        agree(probe, rtol=1e-3, atol=1e-4)


class Branches(nn.Module):
    """Calls `shared` three times, `side` without any use for the result, and `idle` never."""

    def __init__(self, weights):
        super().__init__()
        a, b, c = weights
        self.shared, self.side, self.idle = linear(a), linear(b), linear(b)
        self.tail = nn.Sequential(linear(c), nn.Tanh())
        self.alias = self.shared
        self.error = None

    def forward(self, x):
        h = self.shared(x).sin()
        h = self.shared(h) * h
        self.side(h)
        if self.error:
            raise self.error("asked for")
        return self.tail(self.shared(h).exp())


def branches(draw):
    """Weights for `Branches`, and an input."""
    return [draw.normal(3, 3, dtype=F64) / 2 for _ in range(3)], draw.normal(5, 3, dtype=F64)


def count_hooks(model):
    """How many hooks of any kind the modules hold, as [before forward, after forward, backward]."""
    kinds = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [sum(len(getattr(module, kind)) for module in model.modules()) for kind in kinds]


@task("record_activation_gradients")
class TestRecordActivationGradients:
    @pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-4), (F64, 1e-10)], ids=["float32", "float64"])
    def test_outputs_of_layers(self, agree, draw, dtype, tol):
        """The gradient of the loss with respect to what each named layer returned, of its shape and dtype."""
        x, w1, w2 = draw.normal(5, 3, dtype=dtype), draw.normal(7, 3, dtype=dtype), draw.normal(2, 7, dtype=dtype)
        model, names = nn.Sequential(linear(w1), nn.Tanh(), linear(w2)), ["2", "0", "1"]
        agree(lambda m: m.record_activation_gradients(model, names, x, lambda y: y.exp().mean()), rtol=tol, atol=tol)

    @pytest.mark.parametrize(("batch", "width"), [(1, 7), (5, 1), (1, 1), (9, 13)])
    def test_sizes(self, agree, draw, batch, width):
        """Each gradient has the shape of the output, for a batch of one and for layers of one unit too."""
        x, w1, w2 = draw.normal(batch, 3, dtype=F64), draw.normal(width, 3, dtype=F64), draw.normal(1, width, dtype=F64)
        model = nn.Sequential(linear(w1), nn.Tanh(), linear(w2))
        agree(lambda m: m.record_activation_gradients(model, ("0", "2"), x, lambda y: y.exp().sum()), rtol=1e-9, atol=1e-9)

    @measured("calls, flags, hooks")
    @pytest.mark.parametrize("training", [True, False])
    def test_parameters_get_their_gradients(self, agree, draw, training):
        """The loss goes backward once: each p.grad grows by its gradient; the model is called once, in its modes."""
        x, w1, w2 = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(2, 7, dtype=F64)
        model = nn.Sequential(linear(w1), nn.BatchNorm1d(7, dtype=F64), nn.Dropout(0.5), linear(w2)).train(training)
        model[2].train(not training)

        def probe(m):
            modes = []
            model[1].register_forward_hook(lambda module, args, output: modes.append((module.training, model[2].training)))
            model[0].weight.grad = torch.ones_like(w1)
            found = m.record_activation_gradients(model, ["1"], x, lambda y: y.square().sum())
            return found, grads_of(model), modes, [module.training for module in model.modules()]

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_no_names(self, agree, draw):
        """Without names the result is an empty dict, and the parameters get their gradients all the same."""
        x, w1, w2 = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(2, 7, dtype=F64)
        model = nn.Sequential(linear(w1), nn.Tanh(), linear(w2))
        agree(lambda m: (m.record_activation_gradients(model, [], x, lambda y: y.exp().mean()), grads_of(model)), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("after", [nn.ReLU, nn.ELU, nn.Hardtanh], ids=["relu", "elu", "hardtanh"])
    def test_before_an_overwriting_layer(self, agree, draw, after):
        """The gradient is that of what the layer returned, although the next layer works in place."""
        x, w1, w2 = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(2, 7, dtype=F64)

        def probe(m):
            model = nn.Sequential(linear(w1), after(inplace=True), linear(w2))
            found = m.record_activation_gradients(model, ["0", "1", "2"], x, lambda y: y.square().sum())
            return found, grads_of(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_repeated_calls(self, agree, draw):
        """A layer that is called three times has three gradients, in the order of the forward, by each of its names."""
        parts, x = branches(draw)
        model = Branches(parts)
        agree(
            lambda m: m.record_activation_gradients(model, ["shared", "alias", "tail"], x, lambda y: y.square().sum()),
            rtol=1e-9,
            atol=1e-10,
        )

    def test_many_calls(self, agree, draw):
        """A cell that is called for each of 23 steps has 23 gradients, and one that gives its input unchanged has as many."""
        x, w = draw.normal(5, 3, dtype=F64), draw.normal(3, 3, dtype=F64) / 2
        cell = linear(w)
        model = nn.Sequential(*[cell, nn.Tanh(), nn.Identity()] * 23)
        agree(lambda m: m.record_activation_gradients(model, ["0", "1", "2"], x, lambda y: y.square().sum()), rtol=1e-8, atol=1e-9)

    @measured("hooks")
    def test_output_is_what_the_call_returned(self, agree, draw):
        """Where a hook of the layer's own changes its output, the gradient is that of the changed one."""
        x, w1, w2 = draw.normal(5, 3, dtype=F64), draw.normal(7, 3, dtype=F64), draw.normal(2, 7, dtype=F64)
        model = nn.Sequential(linear(w1), nn.Tanh(), linear(w2))

        def probe(m):
            model[0].register_forward_hook(lambda module, args, output: output * 3)
            found = m.record_activation_gradients(model, ["0", "1"], x, lambda y: y.square().sum())
            return found, count_hooks(model)

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_unused_and_uncalled(self, agree, draw):
        """An output that the loss ignores has zeros, a layer that is never called an empty list."""
        parts, x = branches(draw)

        def probe(m):
            return m.record_activation_gradients(Branches(parts), ["side", "idle", "tail.0"], x, lambda y: y.square().sum())

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_nested_names_and_the_model_itself(self, agree, draw):
        """Dotted names lead inside, and the empty name is the whole model."""
        parts, x = branches(draw)

        def probe(m):
            return m.record_activation_gradients(Branches(parts), ["tail.0", "tail.1", ""], x, lambda y: (y * y.exp()).sum())

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_convolutions(self, agree, draw):
        """Outputs of four dimensions, as for Grad-CAM."""
        x, w1, w2 = draw.normal(2, 3, 7, 5, dtype=F64), draw.normal(4, 3, 3, 3, dtype=F64), draw.normal(5, 4, dtype=F64)

        def probe(m):
            conv = nn.Conv2d(3, 4, 3, bias=False, dtype=F64)
            conv.load_state_dict({"weight": w1})
            model = nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(w2))
            return m.record_activation_gradients(model, ["0", "2", "4"], x, lambda y: y.logsumexp(1).mean())

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("calls, flags, hooks")
    def test_hooks_are_removed(self, agree, draw):
        """Afterwards the modules hold the hooks they held before, and those work; a second call gives the same, without a graph."""
        parts, x = branches(draw)

        def probe(m):
            model, fired = Branches(parts), []
            model.shared.register_forward_hook(lambda module, args, output: fired.append("forward"))
            model.tail.register_full_backward_hook(lambda module, before, after: fired.append("backward"))
            before = count_hooks(model)
            first = m.record_activation_gradients(model, ["shared", "side", "tail.0", "tail"], x, lambda y: y.square().sum())
            after = count_hooks(model)
            again = m.record_activation_gradients(model, ["shared"], x, lambda y: y.square().sum())
            graphs = [gradient.requires_grad for gradients in first.values() for gradient in gradients]
            return first, again, before == after, graphs, fired

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("hooks")
    @pytest.mark.parametrize("place", ["model", "loss"])
    def test_hooks_are_removed_after_an_error(self, agree, draw, place):
        """An error in the model or in the loss is passed on, whatever its type, and leaves no hook behind."""
        parts, x = branches(draw)

        def probe(m):
            def loss_fn(y):
                if error and place == "loss":
                    raise error("asked for")
                return y.square().sum()

            model, out = Branches(parts), []
            before = count_hooks(model)
            for error in (KeyError, AttributeError, ValueError, None):
                model.error = error if place == "model" else None
                call = lambda: out.append(m.record_activation_gradients(model, ["shared", "tail"], x, loss_fn))  # noqa: E731
                out.append(raised(error or KeyError, call))
                out.append(count_hooks(model) == before)
            return out

        agree(probe, rtol=1e-3, atol=1e-4)

    @measured("calls, hooks")
    def test_unknown_names_raise(self, agree, draw):
        """A name that leads to nothing or to a parameter is a ValueError before the model is called, and leaves no hook."""
        parts, x = branches(draw)

        def probe(m):
            model, calls = Branches(parts), []
            model.register_forward_pre_hook(lambda module, args: calls.append("called"))
            before = count_hooks(model)
            bad = [["shared", "missing"], ["tail.7"], ["shared.weight"], ["tail", "tail.0.x"]]
            outcomes = [raised(ValueError, lambda n=n: m.record_activation_gradients(model, n, x, lambda y: y.sum())) for n in bad]
            state = list(calls), count_hooks(model) == before
            return outcomes, state, m.record_activation_gradients(model, ["tail"], x, lambda y: y.square().sum())

        agree(probe, rtol=1e-3, atol=1e-4)
