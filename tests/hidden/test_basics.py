"""Hidden suite of the module basics."""

import itertools
import os
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn

from grader.testing import measured, raised, task, with_ones

# Helpers for probes


def leaf(x):
    """A fresh copy of x that collects a gradient."""
    return x.clone().requires_grad_()


def filled(model, *values):
    """The model with these numbers as its parameters, in order."""
    with torch.no_grad():
        for p, value in zip(model.parameters(), values, strict=True):
            p.copy_(value)
    return model


def two_layers(weights):
    """A small network with the given w1, b1, w2, b2."""
    w1, _, w2, _ = weights
    return filled(nn.Sequential(nn.Linear(w1.shape[1], len(w1)), nn.Tanh(), nn.Linear(w2.shape[1], len(w2))), *weights)


def with_statistics(weights, mean):
    """Linear and batch norm, the latter with this running mean."""
    model = nn.Sequential(filled(nn.Linear(weights[0].shape[1], len(weights[1])), *weights), nn.BatchNorm1d(len(weights[1])))
    model[1].running_mean.copy_(mean)
    return model


def parameters_of(model):
    """Copies of all parameters."""
    return [p.detach().clone() for p in model.parameters()]


def state_of(model):
    """Copies of all parameters and buffers, by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def draw_layers(draw, *sizes):
    """Weights and biases for `two_layers`, or for as many as there are sizes."""
    return [t for d, m in itertools.pairwise(sizes) for t in (draw.normal(m, d), draw.normal(m))]


@task("from_rows")
class TestFromRows:
    def test_whole_numbers_become_float32(self, agree, draw):
        """A table of ints becomes a float32 tensor with the same numbers."""
        rows = draw.integers(-1000, 1000, 5, 7).tolist()
        agree(lambda m: m.from_rows(rows), rtol=1e-6, atol=0)

    def test_fractions(self, agree, draw):
        """A table of floats becomes float32 too, digits behind the point and all."""
        rows = draw.normal(7, 3, dtype=torch.float64).tolist()
        agree(lambda m: m.from_rows(rows), rtol=1e-6, atol=0)

    def test_ints_and_floats_mixed(self, agree, draw):
        """Ints and floats may stand side by side."""
        rows = [draw.integers(-9, 9, 4).tolist(), draw.normal(4).tolist(), [draw.integer(-99, 99), 0.5, -3, draw.integer(-99, 99) / 4]]
        agree(lambda m: m.from_rows(rows), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("shape", [*with_ones(5, 3), (61, 47)], ids=str)
    def test_any_size(self, agree, draw, shape):
        """Every row and column is there, be it one or many."""
        rows = draw.integers(-(10**6), 10**6, *shape).tolist()
        agree(lambda m: m.from_rows(rows), rtol=1e-6, atol=0)


@task("describe")
class TestDescribe:
    @pytest.mark.parametrize("axes", [1, 2, 3, 4])
    def test_shape_and_entries(self, agree, draw, axes):
        """The shape has all sizes in order, and the number of entries is their product, for any number of axes."""
        cases = [draw.normal(*draw.integers(2, 9, axes).tolist()) for _ in range(3)] + [draw.normal(draw.integer(100, 999), 3)]
        agree(lambda m: [m.describe(x) for x in cases], rtol=0, atol=0)

    def test_one_number_and_none(self, agree, draw):
        """A tensor of shape () has one entry; one with a size of 0 has none."""
        cases = [draw.normal(), draw.normal(0, draw.integer(2, 999)), draw.normal(draw.integer(2, 999), 1)]
        agree(lambda m: [m.describe(x) for x in cases], rtol=0, atol=0)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.uint8, torch.bool, torch.float16], ids=str)
    def test_dtype(self, agree, draw, dtype):
        """The dtype is the tensor's own."""
        x = draw.integers(0, 2, draw.integer(2, 999), 3).to(dtype)
        agree(lambda m: m.describe(x), rtol=0, atol=0)

    def test_device(self, agree, draw):
        """The device is the tensor's own, as a string: here "meta", a device without numbers that every machine has."""
        n = draw.integer(2, 999)
        agree(lambda m: [m.describe(torch.empty(n, 2, device=device)) for device in ("meta", "cpu")], rtol=0, atol=0)


@task("grid")
class TestGrid:
    def test_row_by_row(self, agree, draw):
        """The numbers run along the first row, then along the second, up to rows · columns − 1."""
        rows, columns = draw.integer(2, 50), draw.integer(50, 99)
        agree(lambda m: [m.grid(rows, columns), m.grid(columns, rows)], rtol=0, atol=0)

    def test_a_square(self, agree, draw):
        """Where rows and columns are equal, rows still come first."""
        n = draw.integer(3, 99)
        agree(lambda m: m.grid(n, n), rtol=0, atol=0)

    def test_a_single_row_or_column(self, agree, draw):
        """One row and one column are tables too."""
        n = draw.integer(3, 999)
        agree(lambda m: [m.grid(1, n), m.grid(n, 1), m.grid(1, 1)], rtol=0, atol=0)


@task("pick")
class TestPick:
    def test_three_parts(self, agree, draw):
        """Rows by number, the last column, and rows 0, 2, 4, …, of an odd and of an even number of rows."""
        cases = [(draw.normal(n, 5), draw.integers(0, n, 4)) for n in (7, 8)]
        agree(lambda m: [m.pick(*case) for case in cases], rtol=0, atol=0)

    def test_rows_in_any_order_and_twice(self, agree, draw):
        """The index decides on the order of the rows, and may name one twice."""
        x, order = draw.normal(6, 3), draw.permutation(6)
        index = torch.cat([order, order[:2], order[:1]])
        agree(lambda m: m.pick(x, index), rtol=0, atol=0)

    def test_a_square_table(self, agree, draw):
        """Rows stay rows and columns columns where there are as many of both."""
        x, index = draw.normal(5, 5), draw.integers(0, 5, 5)
        agree(lambda m: m.pick(x, index), rtol=0, atol=0)

    @pytest.mark.parametrize("shape", with_ones(7, 3, 4), ids=str)
    def test_sizes_of_one(self, agree, draw, shape):
        """A table of one row or one column, and an index of one number, keep their axes."""
        n, d, k = shape
        x, index = draw.normal(n, d), draw.integers(0, n, k)
        agree(lambda m: m.pick(x, index), rtol=0, atol=0)


@task("matrix_product")
class TestMatrixProduct:
    @pytest.mark.parametrize("sizes", with_ones(7, 3, 5), ids=str)
    def test_every_row_meets_every_row(self, agree, draw, sizes):
        """The entry at (n, m) is the product of row n of x and row m of w, also where a size is 1."""
        n, m, d = sizes
        x, w = draw.normal(n, d), draw.normal(m, d)
        agree(lambda module: module.matrix_product(x, w), rtol=1e-4, atol=1e-5)

    def test_square_tables(self, agree, draw):
        """Where all sizes agree, w is still transposed, and nothing is multiplied entry by entry."""
        x, w = draw.normal(4, 4), draw.normal(4, 4)
        agree(lambda m: m.matrix_product(x, w), rtol=1e-4, atol=1e-5)

    def test_large_tables(self, agree, draw):
        """Every row counts, down to the last."""
        x, w = draw.normal(61, 37), draw.normal(43, 37)
        agree(lambda m: m.matrix_product(x, w), rtol=1e-4, atol=1e-4)


@task("add_bias")
class TestAddBias:
    @pytest.mark.parametrize("shape", [*with_ones(7, 5), (61, 43)], ids=str)
    def test_one_row_for_all(self, agree, draw, shape):
        """Every row of x gets all of b, in tables of any size."""
        x, b = draw.normal(*shape), draw.normal(shape[1])
        agree(lambda m: m.add_bias(x, b), rtol=1e-5, atol=1e-6)

    def test_a_square_table(self, agree, draw):
        """With as many rows as columns, b still belongs to the columns."""
        x, b = draw.normal(5, 5), draw.normal(5)
        agree(lambda m: m.add_bias(x, b), rtol=1e-5, atol=1e-6)

    def test_x_stays_as_it_was(self, agree, draw):
        """A second call with the same x gives what the first one gave, with another b added."""
        x, b, c = draw.normal(4, 3), draw.normal(3), draw.normal(3)
        agree(lambda m: [m.add_bias(x, b), m.add_bias(x, c)], rtol=1e-5, atol=1e-6)


@task("standardize_columns")
class TestStandardizeColumns:
    def test_each_column_by_itself(self, agree, draw):
        """Columns of different means and deviations all come out with mean 0 and deviation 1."""
        x = draw.normal(11, 5) * draw.uniform(5, low=0.5, high=5) + draw.uniform(5, low=-10, high=10)
        agree(lambda m: m.standardize_columns(x), rtol=1e-4, atol=1e-4)

    def test_a_square_table(self, agree, draw):
        """With as many rows as columns, the statistics still run down the columns."""
        x = draw.normal(7, 7) + draw.uniform(7, low=-10, high=10)
        agree(lambda m: m.standardize_columns(x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", [(23, 1), (2, 9), (3, 4), (150, 2)], ids=str)
    def test_few_rows_and_many(self, agree, draw, shape):
        """One column, two rows or many: the deviation divides by N − 1."""
        n, d = shape
        x = torch.stack([draw.permutation(n) for _ in range(d)], dim=1) * draw.uniform(d, low=1, high=9) + draw.normal(d)
        y = draw.normal(5, d) * 3
        agree(lambda m: [m.standardize_columns(x), m.standardize_columns(torch.cat([x, y]))], rtol=1e-4, atol=1e-4)


@task("relu")
class TestRelu:
    @pytest.mark.parametrize("shape", [(101,), (7, 5), (2, 3, 5), (1,), (3, 1)], ids=str)
    def test_any_shape(self, agree, draw, shape):
        """Negative numbers become 0, the others stay, in tensors of any shape."""
        x = draw.normal(*shape) * 10
        agree(lambda m: [m.relu(x), m.relu(-x)], rtol=1e-6, atol=0)

    def test_a_single_number(self, agree, draw):
        """A tensor of shape () is a tensor, too."""
        x = draw.normal().abs() + 0.1
        agree(lambda m: [m.relu(x), m.relu(-x)], rtol=1e-6, atol=0)

    def test_small_and_large_numbers(self, agree, draw):
        """0 stays 0, a positive number keeps its value, however small or large, and a negative one goes, however small."""
        x = draw.magnitudes(5, 9, low=1e-6, high=1e6)
        x[draw.integer(0, 5), 3] = 0
        agree(lambda m: m.relu(x), rtol=1e-6, atol=0)

    def test_three_million_entries(self, agree, draw):
        """A tensor of three million entries is a matter of milliseconds: no loop runs over it."""
        x = draw.normal(1000)

        def probe(m):
            y = m.relu(x.repeat(3000))
            return y.shape, y[:1000], y[-1000:], y.mean()

        agree(probe, rtol=1e-4, atol=1e-6)


@task("flatten_images")
class TestFlattenImages:
    @pytest.mark.parametrize("shape", [*with_ones(2, 3, 5, 7), (11, 1, 28, 28)], ids=str)
    def test_one_row_for_each_image(self, agree, draw, shape):
        """Row n holds image n, channel after channel, also where a size is 1."""
        images = draw.normal(*shape)
        agree(lambda m: m.flatten_images(images), rtol=0, atol=0)

    def test_axes_that_were_swapped(self, agree, draw):
        """Images whose axes were permuted before come out the same way."""
        images = draw.normal(5, 4, 6, 3)
        agree(lambda m: [m.flatten_images(images.permute(0, 3, 1, 2)), m.flatten_images(images.transpose(2, 3))], rtol=0, atol=0)

    def test_as_many_images_as_pixels(self, agree, draw):
        """Rows are still images where both sizes of the result are equal."""
        images = draw.normal(12, 3, 2, 2)
        agree(lambda m: m.flatten_images(images), rtol=0, atol=0)


@task("image_to_float")
class TestImageToFloat:
    @pytest.mark.parametrize("shape", [*with_ones(5, 7, 3), (6, 6, 3), (3, 3, 3), (13, 11, 4)], ids=str)
    def test_colours_first(self, agree, draw, shape):
        """The colours come first, rows stay rows and columns columns, also where sizes are equal or 1."""
        image = draw.integers(0, 256, *shape).to(torch.uint8)
        agree(lambda m: m.image_to_float(image), rtol=1e-5, atol=1e-6)

    def test_from_black_to_white(self, agree, draw):
        """0 becomes 0.0 and 255 becomes 1.0, exactly."""
        image = (draw.bools(4, 9, 3) * 255).to(torch.uint8)
        agree(lambda m: m.image_to_float(image), rtol=0, atol=1e-6)

    def test_dark_images_stay_dark(self, agree, draw):
        """The divisor is 255, whatever the brightest pixel is."""
        image = draw.integers(3, 90, 5, 4, 3).to(torch.uint8)
        agree(lambda m: m.image_to_float(image), rtol=1e-5, atol=1e-6)


@task("count_correct")
class TestCountCorrect:
    def test_some_are_correct(self, agree, draw):
        """The count is right for different numbers of samples and classes."""
        cases = [(draw.normal(n, c), draw.integers(0, c, n)) for n, c in [(210, 3), (171, 2), (331, 10), (40, 300)]]
        agree(lambda m: [m.count_correct(*case) for case in cases], rtol=0, atol=0)

    def test_hundreds_of_classes(self, agree, draw):
        """Class 256 is not class 0 again: a label that is 256 too high is wrong."""
        scores = torch.cat([draw.normal(200, 44), draw.normal(200, 256) - 9], dim=1)
        best = scores.argmax(dim=1)
        cases = [(scores, torch.where(draw.bools(200), best, best + 256)) for _ in range(2)]
        agree(lambda m: [m.count_correct(*case) for case in cases], rtol=0, atol=0)

    def test_as_many_samples_as_classes(self, agree, draw):
        """A sample is a row, also where there are as many rows as columns."""
        cases = []
        for n in (41, 50, 67):
            scores = draw.normal(n, n)
            cases.append((scores, torch.where(draw.bools(n), scores.argmax(dim=1), draw.integers(0, n, n))))
        agree(lambda m: [m.count_correct(*case) for case in cases], rtol=0, atol=0)

    def test_all_none_and_one(self, agree, draw):
        """All of N is N, none is 0, and one sample counts 0 or 1."""
        scores = draw.normal(draw.integer(50, 999), 7) - 3
        best = scores.argmax(dim=1)
        cases = [(scores, best), (scores, (best + 1) % 7), (scores[:1], best[:1]), (scores[:1], (best[:1] + 2) % 7)]
        agree(lambda m: [m.count_correct(*case) for case in cases], rtol=0, atol=0)


@task("ones_like_column")
class TestOnesLikeColumn:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64], ids=str)
    def test_dtype(self, agree, draw, dtype):
        """The ones have the dtype of x, whatever it is."""
        x = draw.integers(-9, 9, draw.integer(2, 99), 3).to(dtype)
        agree(lambda m: (m.ones_like_column(x), x), rtol=0, atol=0)

    def test_device(self, agree, draw):
        """The ones are where x is: here on "meta", a device without numbers that every machine has."""
        n = draw.integer(2, 9999)
        agree(lambda m: m.ones_like_column(torch.empty(n, 3, device="meta", dtype=torch.float64)), rtol=0, atol=0)

    def test_one_row_or_column(self, agree, draw):
        """A table of one column or of one row gets a column, too."""
        cases = [draw.normal(draw.integer(2, 999), 1), draw.normal(1, 5), draw.normal(7, 7)]
        agree(lambda m: [(m.ones_like_column(x), x) for x in cases], rtol=0, atol=0)


@task("slope")
class TestSlope:
    def test_polynomials(self, agree, draw):
        """The slope of ax² + bx is 2ax + b, at places on both sides of 0 and at 0."""
        coefficients, places = draw.normal(4, 2).tolist(), [*draw.normal(3).tolist(), 0.0]

        def probe(m):
            return [m.slope(lambda x, a=a, b=b: a * x**2 + b * x, place) for (a, b), place in zip(coefficients, places, strict=True)]

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_other_functions(self, agree, draw):
        """Any function of torch's operations has a slope, also one that uses x many times."""
        a, b, place = draw.uniform(3, low=0.5, high=2).tolist()

        def looped(x):
            y = x
            for _ in range(3):
                y = torch.sin(a * y) + b * x
            return y

        fs = [lambda x: torch.exp(a * x), lambda x: torch.tanh(x * x) / b, looped]
        agree(lambda m: [m.slope(f, place) for f in fs], rtol=1e-3, atol=1e-4)

    def test_whole_numbers(self, agree, draw):
        """A place may be an int, 0 included."""
        a, b, place = draw.normal().item(), draw.normal().item(), draw.integer(-5, 6)
        agree(lambda m: [m.slope(lambda x: a * x**3 + b * x, p) for p in (place, 0)], rtol=1e-3, atol=1e-4)

    def test_far_from_zero(self, agree, draw):
        """Where f is as large as 10¹², its slope is still exact: no difference of two values is."""
        offset, a, place = draw.uniform(3, low=1, high=2).tolist()
        agree(lambda m: m.slope(lambda x: a * x**2 + offset * 1e12, place), rtol=1e-3, atol=1e-4)


@task("gradient_step")
class TestGradientStep:
    @pytest.mark.parametrize("shape", [(), (7,), (5, 3), (2, 1, 3)], ids=str)
    def test_one_step(self, agree, draw, shape):
        """W becomes w − lr · gradient, for any shape, and the gradient becomes None."""
        x, c, lr = draw.normal(*shape), draw.normal(*shape), draw.uniform(1, low=0.01, high=0.9).item()

        def probe(m):
            w = leaf(x)
            (c * w).sum().backward()
            m.gradient_step(w, lr)
            return w.detach(), w.grad

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_several_steps(self, agree, draw):
        """Each step uses the gradient of its own loss alone, and w can go on learning."""
        x, target = draw.normal(5), draw.normal(5)

        def probe(m):
            w, path = leaf(x), []
            for lr in (0.3, 0.0, 0.1, 0.2):
                (w - target).square().sum().backward()
                m.gradient_step(w, lr)
                path.append(w.detach().clone())
            return path

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_in_place(self, agree, draw):
        """The tensor itself changes, so that a model which holds it learns."""
        x, c = draw.normal(3, 4), draw.normal(3, 4)

        def probe(m):
            w = leaf(x)
            same_numbers = w.detach()
            (c * w).sum().backward()
            m.gradient_step(w, 0.5)
            return same_numbers

        agree(probe, rtol=1e-4, atol=1e-5)


def points(draw, n):
    """Points near a line that is drawn, with x in [-1, 2)."""
    x = draw.uniform(n, low=-1, high=2)
    return x, draw.uniform(1, low=-3, high=3) * x + draw.uniform(1, low=-3, high=3) + 0.3 * draw.normal(n)


def line_of(m, x, y, **settings):
    """What fit_line gives; torch's generator may change, because who makes an nn.Linear for the line draws from it."""
    torch.manual_seed(1)
    return m.fit_line(x, y, **settings)


@task("fit_line")
class TestFitLine:
    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_the_first_steps(self, agree, draw, steps):
        """After any number of steps, a and b are where gradient descent from 0 has brought them."""
        (x, y), lr = points(draw, 11), draw.uniform(1, low=0.05, high=0.3).item()
        agree(lambda m: line_of(m, x, y, steps=steps, lr=lr), rtol=1e-3, atol=1e-4)

    def test_close_to_the_exact_line(self, student, draw):
        """After 100 steps, the line is the one with the least squares."""
        x, y = points(draw, 40)
        a, b = student(lambda m: line_of(m, x, y, steps=100, lr=0.3))
        exact = torch.linalg.lstsq(torch.stack([x, torch.ones(40)], dim=1).double(), y[:, None].double()).solution.flatten()
        error = (torch.tensor([a, b], dtype=torch.float64) - exact).abs().max().item()
        assert error < 0.01, "After 100 steps with lr = 0.3, a or b is more than 0.01 away from the exact solution."

    @pytest.mark.parametrize("n", [1, 2, 83])
    def test_few_points_and_many(self, agree, draw, n):
        """The loss is a mean, so that the number of points does not change the size of a step."""
        x, y = points(draw, n)
        agree(lambda m: [line_of(m, x, y, steps=5, lr=0.1), line_of(m, x, y, steps=1, lr=0.05)], rtol=1e-3, atol=1e-4)


@task("make_model")
class TestMakeModel:
    def test_the_usual_sizes(self, agree, draw):
        """Without arguments it is 784 → 64 → 10, with 50,890 parameters."""
        weights, x = draw_layers(draw, 784, 64, 10), draw.normal(3, 784)

        def probe(m):
            model = m.make_model()
            return sum(p.numel() for p in model.parameters()), filled(model, *weights)(x).detach()

        agree(probe, rtol=1e-3, atol=1e-2)

    @pytest.mark.parametrize("sizes", [*with_ones(5, 7, 3), (11, 4, 23)], ids=str)
    def test_other_sizes(self, agree, draw, sizes):
        """The three sizes are the caller's, and the scores are those of linear, ReLU, linear."""
        weights, x = draw_layers(draw, *sizes), draw.normal(13, sizes[0])
        agree(lambda m: filled(m.make_model(*sizes), *weights)(x).detach(), rtol=1e-4, atol=1e-4)

    def test_keywords(self, agree, draw):
        """Each size can be given by its name, and the others keep theirs."""
        weights, x = draw_layers(draw, 784, 5, 10), draw.normal(2, 784)
        agree(lambda m: filled(m.make_model(hidden=5), *weights)(x).detach(), rtol=1e-3, atol=1e-3)

    def test_starting_weights(self, student, draw):
        """A new model has torch's own starting weights: small, different from each other, and different in the next model."""
        inputs, hidden, classes = draw.integer(100, 999), draw.integer(20, 60), draw.integer(10, 30)
        one, other = student(lambda m: [parameters_of(m.make_model(inputs, hidden, classes)) for _ in range(2)])
        for p, q, size in zip(one, other, [inputs, inputs, hidden, hidden], strict=True):
            bound = size**-0.5
            assert p.abs().max() <= bound * 1.01, "Starting weights are too large: leave them as nn.Linear makes them."
            assert p.std() >= bound * 0.2, "Starting weights hardly differ from each other: leave them as nn.Linear makes them."
            assert not torch.equal(p, q), (
                "Two models start with the same weights: make new layers in each call, and leave their weights alone."
            )


def taught(m, weights, batches, make_optimizer, stale=None):
    """The losses that train_step returns, and the weights after the last batch. `stale` are gradients from before."""
    model = two_layers(weights)
    optimizer = make_optimizer(model.parameters())
    if stale is not None:
        for p, g in zip(model.parameters(), stale, strict=True):
            p.grad = g.clone()
    return [m.train_step(model, optimizer, x, y) for x, y in batches], parameters_of(model)


def draw_batches(draw, sizes, inputs, classes):
    """Batches of these numbers of samples."""
    return [(draw.normal(n, inputs), draw.integers(0, classes, n)) for n in sizes]


@task("train_step")
class TestTrainStep:
    def test_one_step(self, agree, draw):
        """The loss is that from before the step, and the weights are those after one step of SGD."""
        weights, batches = draw_layers(draw, 5, 7, 3), draw_batches(draw, [11], 5, 3)
        agree(lambda m: taught(m, weights, batches, lambda ps: torch.optim.SGD(ps, lr=0.1)), rtol=1e-3, atol=1e-4)

    def test_several_batches(self, agree, draw):
        """Gradients of one batch are gone before the next, and every batch is seen once."""
        weights, batches = draw_layers(draw, 4, 6, 5), draw_batches(draw, [7, 3, 1, 8], 4, 5)
        agree(lambda m: taught(m, weights, batches, lambda ps: torch.optim.SGD(ps, lr=0.2, momentum=0.9)), rtol=1e-3, atol=1e-4)

    def test_gradients_from_before(self, agree, draw):
        """Gradients that are there before the first step are cleared."""
        weights, batches, stale = draw_layers(draw, 5, 4, 3), draw_batches(draw, [6], 5, 3), draw_layers(draw, 5, 4, 3)
        agree(lambda m: taught(m, weights, batches, lambda ps: torch.optim.SGD(ps, lr=0.1), stale), rtol=1e-3, atol=1e-4)

    def test_the_optimizer_decides(self, agree, draw):
        """The step is the optimizer's: with Adam, it is Adam's; with a rate of 0, the weights stay."""
        weights, batches = draw_layers(draw, 3, 5, 4), draw_batches(draw, [9, 9], 3, 4)
        # A large eps, since Adam divides by the gradient's size, and rounding decides on a gradient of almost 0.
        optimizers = [lambda ps: torch.optim.Adam(ps, lr=0.01, eps=0.01), lambda ps: torch.optim.SGD(ps, lr=0.0)]
        agree(lambda m: [taught(m, weights, batches, make) for make in optimizers], rtol=1e-3, atol=1e-4)

    def test_a_model_in_training_mode(self, agree, draw):
        """Batch norm in the model looks at the batch and counts, as training mode wants it: the mode is left alone."""
        weights, mean, (batch,) = draw_layers(draw, 4, 6), draw.normal(6), draw_batches(draw, [9], 4, 6)

        def probe(m):
            model = with_statistics(weights, mean)
            return m.train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), *batch), state_of(model)

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_it_learns(self, agree, draw):
        """Thirty steps on one batch bring the loss down, step by step, as they should."""
        weights, batches = draw_layers(draw, 5, 8, 3), draw_batches(draw, [12], 5, 3)
        agree(lambda m: taught(m, weights, batches * 30, lambda ps: torch.optim.SGD(ps, lr=0.05))[0], rtol=1e-2, atol=1e-3)


class GradModes(nn.Module):
    """Passes its input on, and writes down whether a graph is recorded."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(torch.is_grad_enabled())
        return x


def labels_for(model, x, share, draw, classes):
    """Labels of which about this share agrees with the model in eval mode."""
    with torch.no_grad():
        best = model.eval()(x).argmax(dim=1)
    return torch.where(draw.bools(len(x), p=share), best, draw.integers(0, classes, len(x)))


@task("accuracy")
class TestAccuracy:
    def test_the_share_of_hits(self, agree, draw):
        """It is the number of hits divided by the number of samples, for any number of both."""
        weights = draw_layers(draw, 4, 6, 3)
        cases = [(draw.normal(n, 4), draw.integers(0, 3, n)) for n in (101, 257, 3, 83)]
        agree(lambda m: [m.accuracy(two_layers(weights), x, y) for x, y in cases], rtol=1e-5, atol=1e-6)

    def test_all_and_none(self, agree, draw):
        """All right is 1.0, all wrong 0.0, also for a single sample."""
        weights, x, some = draw_layers(draw, 4, 6, 5), draw.normal(97, 4), draw.integers(0, 5, 97)
        with torch.no_grad():
            best = two_layers(weights)(x).argmax(dim=1)
        cases = [(x, best), (x, (best + 1) % 5), (x[:1], best[:1]), (x[:1], (best[:1] + 1) % 5), (x, some)]
        agree(lambda m: [m.accuracy(two_layers(weights), *case) for case in cases], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("training", [True, False])
    def test_dropout_is_off(self, agree, draw, training):
        """In eval mode, no input is dropped, whatever mode the model comes in."""
        weights, x = draw_layers(draw, 6, 5), draw.normal(211, 6)
        y = labels_for(filled(nn.Linear(6, 5), *weights), x, 0.7, draw, 5)

        def probe(m):
            model = nn.Sequential(nn.Dropout(0.8), filled(nn.Linear(6, 5), *weights)).train(training)
            return m.accuracy(model, x, y)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_batch_norm_learns_nothing(self, agree, draw):
        """In eval mode, batch norm uses its running mean and variance, and leaves them as they are."""
        weights, x = draw_layers(draw, 6, 5), draw.normal(211, 6) + 2
        mean, y = draw.normal(6), draw.integers(0, 5, 211)

        def probe(m):
            model = nn.Sequential(nn.BatchNorm1d(6), filled(nn.Linear(6, 5), *weights))
            model[0].running_mean.copy_(mean)
            return m.accuracy(model, x, y), state_of(model)

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("flags")
    @pytest.mark.parametrize("training", [True, False])
    def test_the_mode_is_put_back(self, agree, draw, training):
        """Afterwards the model is in the mode that it had before, training or eval, with all its parts."""
        weights, x, y = draw_layers(draw, 4, 5), draw.normal(117, 4), draw.integers(0, 5, 117)

        def probe(m):
            model = nn.Sequential(nn.Dropout(0.5), filled(nn.Linear(4, 5), *weights)).train(training)
            return m.accuracy(model, x, y), [part.training for part in model.modules()]

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("flags")
    def test_nothing_is_recorded(self, agree, draw):
        """Inside the model, torch.is_grad_enabled() is False; afterwards it is what it was."""
        weights, x, y = draw_layers(draw, 4, 5), draw.normal(117, 4), draw.integers(0, 5, 117)

        def probe(m):
            model = nn.Sequential(GradModes(), filled(nn.Linear(4, 5), *weights))
            return m.accuracy(model, x, y), set(model[0].seen) == {False}, torch.is_grad_enabled()

        agree(probe, rtol=1e-5, atol=1e-6)


def content(path):
    """What torch.load finds at a path: a plain dict, or a sentence where there is nothing to read."""
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        return f"torch.load raises {type(error).__name__}"
    return dict(state) if isinstance(state, dict) else state


@task("save_model")
class TestSaveModel:
    def test_the_file_holds_the_state(self, agree, draw):
        """torch.load gives the state_dict: the names and tensors of all layers."""
        weights = draw_layers(draw, 5, 7, 3)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.pt")
                m.save_model(two_layers(weights), path)
                return content(path)

        agree(probe, rtol=0, atol=0)

    def test_what_was_counted_is_saved_too(self, agree, draw):
        """The running mean and variance of batch norm belong to the state; a model in training mode stays in it."""
        weights, mean, x = draw_layers(draw, 4, 6), draw.normal(6), draw.normal(9, 4)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                path = os.path.join(folder, "model.pt")
                model = with_statistics(weights, mean)
                m.save_model(model, path)
                return content(path), model(x).detach()

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("kind", [str, Path])
    def test_exactly_there(self, agree, draw, kind):
        """The file has exactly the given name, as a string or a Path; a second model overwrites the first; no other file is written."""
        first, second = draw_layers(draw, 5, 3), draw_layers(draw, 2, 4)

        def probe(m):
            with tempfile.TemporaryDirectory() as folder:
                path = kind(os.path.join(folder, "weights"))
                for weights in first, second:
                    m.save_model(filled(nn.Linear(weights[0].shape[1], len(weights[1])), *weights), path)
                return os.listdir(folder), content(path)

        agree(probe, rtol=0, atol=0)

    def test_two_files(self, agree, draw):
        """Two models go into two files, and the models are as they were."""
        both = [draw_layers(draw, 5, 3, 2), draw_layers(draw, 5, 3, 2)]

        def probe(m):
            models = [two_layers(weights) for weights in both]
            with tempfile.TemporaryDirectory() as folder:
                for i, model in enumerate(models):
                    m.save_model(model, os.path.join(folder, f"{i}.pt"))
                files = [content(os.path.join(folder, f"{i}.pt")) for i in range(2)]
            return files, [parameters_of(model) for model in models]

        agree(probe, rtol=0, atol=0)


def loaded(m, model, state, kind=str):
    """The state of the model after load_model from a file with this state."""
    with tempfile.TemporaryDirectory() as folder:
        path = kind(os.path.join(folder, "model.pt"))
        torch.save(state, path)
        m.load_model(model, path)
    return state_of(model)


@task("load_model")
class TestLoadModel:
    @pytest.mark.parametrize("kind", [str, Path])
    def test_the_model_gets_the_weights(self, agree, draw, kind):
        """All layers hold the file's tensors afterwards, whatever they held before; the path is a string or a Path."""
        old, new, x = draw_layers(draw, 5, 7, 3), draw_layers(draw, 5, 7, 3), draw.normal(4, 5)

        def probe(m):
            model = two_layers(old)
            return loaded(m, model, two_layers(new).state_dict(), kind), model(x).detach()

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_what_was_counted_is_loaded_too(self, agree, draw):
        """The running mean and variance of batch norm belong to the state; a model in training mode stays in it."""
        old, new, mean, x = draw_layers(draw, 4, 6), draw_layers(draw, 4, 6), draw.normal(2, 6), draw.normal(9, 4)

        def probe(m):
            model = with_statistics(old, mean[0])
            return loaded(m, model, with_statistics(new, mean[1]).state_dict()), model(x).detach()

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_files_that_do_not_fit(self, agree, draw):
        """A missing name, a name too many and another shape are a RuntimeError; a file that fits is loaded."""
        old, new = draw_layers(draw, 5, 3), draw_layers(draw, 5, 3)
        fits = {"weight": new[0], "bias": new[1]}
        bad = [{"weight": new[0]}, {**fits, "more": new[1]}, {"weight": new[0][:, :4], "bias": new[1]}]

        def probe(m):
            errors = [raised(RuntimeError, lambda s=s: loaded(m, filled(nn.Linear(5, 3), *old), s)) for s in bad]
            return errors, loaded(m, filled(nn.Linear(5, 3), *old), fits)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_two_files(self, agree, draw):
        """Each model gets what its own file holds, and a file can be read again."""
        olds, news = draw.normal(2, 3, 5), draw.normal(2, 3, 5)

        def probe(m):
            models = [filled(nn.Linear(5, 3, bias=False), old) for old in olds]
            with tempfile.TemporaryDirectory() as folder:
                for i, new in enumerate(news):
                    torch.save({"weight": new}, os.path.join(folder, f"{i}.pt"))
                for i, model in [*enumerate(models), *enumerate(models)]:
                    m.load_model(model, os.path.join(folder, f"{i}.pt"))
            return [state_of(model) for model in models]

        agree(probe, rtol=0, atol=0)


def check_weights(state, pixels):
    """Assert that a state_dict belongs to the network of the statement; return that network, with the weights in it."""
    model = nn.Sequential(nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, 10))
    right_type = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    assert right_type, "It must return a state_dict: a dict of tensors."
    want = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    assert state.keys() == want.keys(), f"The keys must be {', '.join(want)}."
    for name, value in state.items():
        got = (tuple(value.shape), value.dtype)
        assert got == want[name], f'"{name}" must be {want[name][0]}, {want[name][1]}; it is {got[0]}, {got[1]}.'
    model.load_state_dict(state)
    return model


def share_of_hits(model, images, labels):
    """Share of the images that the model gets right."""
    with torch.no_grad():
        return (model(images).argmax(1) == labels).double().mean().item()


def weights_from(m, images, labels):
    """What first_classifier gives; torch may be seeded there."""
    torch.manual_seed(1)
    return m.first_classifier(images, labels)


@task("first_classifier")
class TestFirstClassifier:
    def test_reads_digits_that_it_has_not_seen(self, student, draw, digits):
        """The weights read at least 85 % of 600 held-out images, by the random names that the digits were given."""
        images, labels, new_images, new_labels = digits.split(draw)
        names, x, new_x = draw.permutation(10), images.flatten(1), new_images.flatten(1)
        y = names[labels]
        state = student(lambda m: weights_from(m, x, y), like=None)  # check_weights looks at its form
        share = share_of_hits(check_weights(state, x.shape[1]), new_x, names[new_labels])
        assert share >= 0.85, f"On 600 held-out images the weights are right for {share:.1%}; 85 % are needed."

    def test_images_of_another_size(self, student, draw, digits):
        """D is the number of pixels that the images have: here the lower part of each image is cut off, and the rest can still be read."""
        images, labels, new_images, new_labels = digits.split(draw)
        rows = images.shape[2] * 3 // 4
        names, x, new_x = draw.permutation(10), images[:200, :, :rows].flatten(1), new_images[:, :, :rows].flatten(1)
        y = names[labels[:200]]
        state = student(lambda m: weights_from(m, x, y), like=None)  # check_weights looks at its form
        share = share_of_hits(check_weights(state, x.shape[1]), new_x, names[new_labels])
        assert share >= 0.6, f"On the upper part of 600 held-out images the weights are right for {share:.1%}; 60 % are needed."
