"""Hidden suite of the module interpretability."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F32, F64 = torch.float32, torch.float64
SHAPES = [(4,), (5, 3), (4, 3, 2), (3, 2, 5, 4), (2, 3, 1, 5, 4)]


# Models


class Classifier(nn.Module):
    """A smooth model of flattened samples, with as many scores as asked for. It can be told to raise an error."""

    def __init__(self, entries, classes, width=6):
        super().__init__()
        self.body = nn.Linear(entries, width)
        self.head = nn.Linear(width, classes)
        self.error = None

    def forward(self, x):
        if self.error:
            raise self.error("asked for")
        return self.head(torch.tanh(self.body(x.reshape(len(x), -1))) + 0.3 * self.body(x.reshape(len(x), -1)).square())


class Noisy(nn.Module):
    """A model with dropout and two batch norms."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.body = nn.Sequential(nn.Linear(3, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Dropout(0.5))
        self.head = nn.Linear(7, 4)

    def forward(self, x):
        return self.head(self.body(self.norm(x)))


class Moody(nn.Module):
    """Another module, whose outputs are three times as large in train mode."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) * (3 if self.training else 1)


class Narrow(nn.Module):
    """Another module, which refuses more than some samples in one call."""

    def __init__(self, inner, limit):
        super().__init__()
        self.inner, self.limit = inner, limit

    def forward(self, x):
        if len(x) > self.limit:
            raise RuntimeError(f"a call of {len(x)} samples, where at most {self.limit} are allowed")
        return self.inner(x)


def filled(draw, model, dtype=F64):
    """The model with drawn values in it, in which signals neither fade nor grow."""
    model = model.to(dtype)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith("running_var"):
                value.copy_(draw.uniform(*value.shape, low=0.5, high=2.0))
            else:
                value.copy_(draw.normal(*value.shape, dtype=F64) / max(1, value[0].numel() if value.dim() > 1 else 1) ** 0.5)
    return model


def classifier(draw, shape, classes=5, dtype=F64):
    """A classifier, samples of this shape, and a class for each."""
    x = draw.normal(*shape, dtype=dtype)
    return filled(draw, Classifier(x[0].numel(), classes), dtype), x, draw.integers(0, classes, shape[0])


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def check_close(got, want, tolerance, what):
    """Assert that a tensor has the shape, dtype and values that it should have."""
    assert isinstance(got, torch.Tensor), f"{what} must be a tensor."
    assert got.shape == want.shape, f"{what} must have the shape {tuple(want.shape)}, not {tuple(got.shape)}."
    assert got.dtype == want.dtype, f"{what} must be {want.dtype}, not {got.dtype}."
    error = (got - want).abs().max().item()
    assert error <= tolerance, f"{what} differs by up to {error:.3g}."


# saliency


@task("saliency")
class TestSaliency:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_values(self, agree, draw, shape):
        """Each sample has the slopes of its own class, without signs, for samples of any number of axes."""
        model, x, target = classifier(draw, shape)
        agree(lambda m: m.saliency(model, x, target), rtol=1e-8, atol=1e-9)

    def test_linear_model(self, student, draw):
        """The slopes of a linear model are its weights, in every size from 1e-20 to 1e20."""
        model = nn.Linear(5, 301)
        weights = draw.magnitudes(301, 5, low=1e-20, high=1e20)
        with torch.no_grad():
            model.weight.copy_(weights)
        x, target = draw.magnitudes(37, 5, low=1e-10, high=1e10), draw.integers(0, 301, 37)
        got = student(lambda m: m.saliency(model, x, target))
        check_close(got / weights[target].abs(), torch.ones(37, 5), 1e-4, "The saliency of a linear model, divided by its weights,")

    def test_sure_model(self, agree, draw):
        """Where one score is hundreds above the others, the slopes of the scores are as steep as ever."""
        model, x, target = classifier(draw, (6, 3), dtype=F32)
        with torch.no_grad():
            model.head.weight.mul_(30)
            model.head.bias.copy_(1000.0 * draw.permutation(5))
        agree(lambda m: m.saliency(model, x, target), rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("mode", [True, False])
    def test_mode(self, agree, draw, mode):
        """Dropout drops nothing and batch norm uses its statistics, whatever the mode, which is then as it was."""
        model, x, target = filled(draw, Noisy()).train(mode), draw.normal(6, 3, dtype=F64), draw.integers(0, 4, 6)
        agree(lambda m: m.saliency(model, x, target), rtol=1e-8, atol=1e-9)

    def test_mixed_modes(self, agree, draw):
        """Modules in different modes are all in eval mode during the call, and each in its own afterwards."""
        model, x, target = filled(draw, Noisy()), draw.normal(6, 3, dtype=F64), draw.integers(0, 4, 6)
        model.body[1].eval()
        other = filled(draw, Noisy()).eval()
        other.body[3].train()
        other.norm.train()
        agree(lambda m: (m.saliency(model, x, target), m.saliency(other, x, target)), rtol=1e-8, atol=1e-9)

    def test_error_of_the_model(self, agree, draw):
        """An error of the model is passed on, whatever its type, and all modes are as before."""
        model, x, target = classifier(draw, (5, 3))
        model.train().head.eval()

        def probe(m):
            endings = []
            for error in (KeyError, ValueError, RuntimeError):
                model.error = error
                endings.append(raised(error, lambda: m.saliency(model, x, target)))
            model.error = None
            return endings, m.saliency(model, x, target)

        agree(probe, rtol=1e-3, atol=1e-3)

    @measured("flags")
    def test_inside_no_grad(self, agree, draw):
        """It works where gradients are switched off, and they stay so."""
        model, x, target = classifier(draw, (5, 3))

        def probe(m):
            with torch.no_grad():
                y = m.saliency(model, x, target)
                return "gradients are on" if (2 * leaf(x)).requires_grad else y

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_gradients_stay(self, agree, draw):
        """The gradients of parameters and samples are what they were; frozen parameters are fine."""
        model, x, target = classifier(draw, (5, 3))
        grads, own = [draw.normal(*p.shape, dtype=F64) for p in model.parameters()], draw.normal(5, 3, dtype=F64)
        frozen = classifier(draw, (5, 3))[0].requires_grad_(False)

        def probe(m):
            point = leaf(x)
            point.grad = own.clone()
            for p, grad in zip(model.parameters(), grads, strict=True):
                p.grad = grad.clone()
            maps = m.saliency(model, point, target), m.saliency(frozen, point, target)
            after = [p.grad for p in model.parameters()], point.grad
            for p in model.parameters():
                p.grad = None
            return [y.detach() for y in maps], after

        agree(probe, rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """The result has no graph, also for samples that require gradients."""
        model, x, target = classifier(draw, (5, 3))

        def probe(m):
            y, z = m.saliency(model, x, target), m.saliency(model, leaf(x), target)
            return "a graph" if y.requires_grad or z.requires_grad else (y, z)

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_samples_apart(self, agree, draw):
        """NaN and infinity in one sample reach no other."""
        model, x, target = classifier(draw, (7, 3))
        x = draw.poisoned(x, torch.arange(7)[:, None] == draw.integer(0, 6))
        bad = x.isfinite().all(1).logical_not()
        agree(lambda m: m.saliency(model, x, target)[~bad], rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples and classes may lie in memory in any way."""
        x = draw.normal(11, 3, 7, dtype=F64, layout=layout)
        target = draw.integers(0, 5, 11, layout="sliced" if layout == "transposed" else layout)
        model = filled(draw, Classifier(21, 5))
        agree(lambda m: m.saliency(model, x, target), rtol=1e-8, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sample, one entry or one class."""
        cases = [classifier(draw, shape[:2], shape[2]) for shape in with_ones(4, 3, 5)]
        agree(lambda m: [m.saliency(*case) for case in cases], rtol=1e-8, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 stays float32."""
        model, x, target = classifier(draw, (5, 3, 4), dtype=F32)
        agree(lambda m: m.saliency(model, x, target), rtol=1e-4, atol=1e-4)

    def test_wrong_targets(self, agree, draw):
        """A target that is not one class for each sample is a ValueError."""
        model, x, target = classifier(draw, (5, 3))
        wrong = [target[:4], target[:1], target[0], target[:, None], target.repeat(2)]
        agree(
            lambda m: ([raised(ValueError, lambda t=t: m.saliency(model, x, t)) for t in wrong], m.saliency(model, x, target)),
            rtol=1e-3,
            atol=1e-3,
        )


# integrated_gradients


@task("integrated_gradients")
class TestIntegratedGradients:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_values(self, agree, draw, shape):
        """The mean slope on the way from zeros, times the difference, for samples of any number of axes."""
        model, x, target = classifier(draw, shape)
        agree(lambda m: m.integrated_gradients(model, x, target, steps=7), rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("steps", [1, 2, 3, 13, 100])
    def test_midpoints(self, agree, draw, steps):
        """The slopes are those at the middle of each piece, for few steps and many."""
        model, x, target = classifier(draw, (5, 3))
        baseline = draw.normal(5, 3, dtype=F64)
        agree(lambda m: m.integrated_gradients(model, x, target, baseline=baseline, steps=steps), rtol=1e-10, atol=1e-11)

    def test_fifty_steps(self, agree, draw):
        """If nothing is said, there are 50 steps from zeros."""
        model, x, target = classifier(draw, (5, 3))
        agree(lambda m: m.integrated_gradients(model, 3 * x, target), rtol=1e-10, atol=1e-11)

    def test_baselines(self, agree, draw):
        """The baseline may be one for each sample, one for all, with or without its first axis, or one for many entries."""
        model, x, target = classifier(draw, (4, 3, 2))
        shapes = [(4, 3, 2), (1, 3, 2), (3, 2), (2,), (1,), (), (4, 1, 1), (1, 3, 1)]
        baselines = [draw.normal(*shape, dtype=F64) for shape in shapes]
        agree(lambda m: [m.integrated_gradients(model, x, target, baseline=b, steps=5) for b in baselines], rtol=1e-8, atol=1e-9)

    def test_completeness(self, student, draw):
        """With a thousand steps, the entries of each sample add up to the difference of the scores, to 1e-6."""
        model, baseline, target = classifier(draw, (3, 5))
        x = baseline + 0.5 * draw.normal(3, 5, dtype=F64)
        got = student(lambda m: m.integrated_gradients(model, x, target, baseline=baseline, steps=1000))
        with torch.no_grad():
            rise = (model(x) - model(baseline)).gather(1, target[:, None])[:, 0]
        check_close(got.sum(1), rise, 1e-6, "The sum of a sample's entries, beside the difference of its scores,")

    @measured("calls")
    def test_max_rows(self, agree, draw):
        """No call holds more samples than allowed, also where that is fewer than there are samples, and the values are the same."""
        model, x, target = classifier(draw, (4, 3))
        baseline, limits = draw.normal(4, 3, dtype=F64), (1, 4, 7, 10, 1000)

        def probe(m):
            settings = {"baseline": baseline, "steps": 9}
            return [m.integrated_gradients(Narrow(model, n), x, target, max_rows=n, **settings) for n in limits]

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_linear_model(self, student, draw):
        """A linear model gives weight times difference, for one step as for many, in every size."""
        weights, x, target = (
            draw.normal(301, 5, dtype=F64),
            draw.magnitudes(37, 5, low=1e-9, high=1e9, dtype=F64),
            draw.integers(0, 301, 37),
        )
        baseline = draw.magnitudes(5, low=1e-9, high=1e-3, dtype=F64)
        got = student(lambda m: [m.integrated_gradients(lambda s: s @ weights.T, x, target, baseline=baseline, steps=n) for n in (1, 4)])
        for y in got:
            ratio = y / (weights[target] * (x - baseline))
            check_close(ratio, torch.ones(37, 5, dtype=F64), 1e-6, "The result for a linear model, divided by weight times difference,")

    def test_same_as_the_baseline(self, agree, draw):
        """Entries that are as in the baseline get 0, whatever their slope."""
        model, x, target = classifier(draw, (6, 4))
        baseline = torch.where(draw.bools(6, 4), x, draw.normal(6, 4, dtype=F64))
        agree(lambda m: m.integrated_gradients(model, x, target, baseline=baseline, steps=6), rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_mode(self, agree, draw):
        """The model is used in the mode in which it is."""
        model, x, target = classifier(draw, (5, 3))
        cases = [Moody(model).train(), Moody(model).eval()]
        agree(lambda m: [m.integrated_gradients(case, x, target, steps=4) for case in cases], rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_no_graph_and_no_gradients(self, agree, draw):
        """The result has no graph, also where sample and baseline require gradients; nothing gets a gradient; weights may be frozen."""
        model, x, target = classifier(draw, (5, 3))
        baseline, frozen = draw.normal(3, dtype=F64), classifier(draw, (5, 3))[0].requires_grad_(False)

        def probe(m):
            a, b = leaf(x), leaf(baseline)
            maps = [m.integrated_gradients(f, a, target, baseline=b, steps=4) for f in (model, frozen)]
            clean = all(t.grad is None for t in (a, b, *model.parameters())) and not any(y.requires_grad for y in maps)
            return maps if clean else "a graph or a gradient"

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_samples_apart(self, agree, draw):
        """NaN and infinity in one sample reach no other."""
        model, x, target = classifier(draw, (7, 3))
        x = draw.poisoned(x, torch.arange(7)[:, None] == draw.integer(0, 6))
        bad = x.isfinite().all(1).logical_not()
        agree(lambda m: m.integrated_gradients(model, x, target, steps=4, max_rows=5)[~bad], rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples, baseline and classes may lie in memory in any way."""
        x, baseline = (draw.normal(11, 3, 7, dtype=F64, layout=layout) for _ in range(2))
        target = draw.integers(0, 5, 11, layout="sliced" if layout == "transposed" else layout)
        model = filled(draw, Classifier(21, 5))
        agree(
            lambda m: [
                m.integrated_gradients(model, x, target, baseline=b, steps=5, max_rows=8) for b in (baseline, baseline[0], baseline[:1])
            ],
            rtol=1e-8,
            atol=1e-9,
        )

    def test_sizes_of_one(self, agree, draw):
        """There may be one sample, one entry or one class."""
        cases = [classifier(draw, shape[:2], shape[2]) for shape in with_ones(4, 3, 5)]
        agree(lambda m: [m.integrated_gradients(*case, steps=3) for case in cases], rtol=1e-8, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 stays float32."""
        model, x, target = classifier(draw, (5, 3, 4), dtype=F32)
        agree(lambda m: m.integrated_gradients(model, x, target, baseline=x.flip(0), steps=9), rtol=1e-3, atol=1e-4)

    def test_refuses(self, agree, draw):
        """Steps or max_rows below 1, and a target of another shape, are ValueErrors."""
        model, x, target = classifier(draw, (5, 3))
        wrong = [{"steps": 0}, {"steps": -3}, {"max_rows": 0}, {"max_rows": -1}, {"steps": 0, "max_rows": 5}]
        targets = [target[:4], target[:1], target[0], target[:, None]]

        def probe(m):
            endings = [raised(ValueError, lambda w=w: m.integrated_gradients(model, x, target, **w)) for w in wrong]
            endings += [raised(ValueError, lambda t=t: m.integrated_gradients(model, x, t)) for t in targets]
            return endings, m.integrated_gradients(model, x, target, steps=1, max_rows=1)

        agree(probe, rtol=1e-3, atol=1e-3)


# smooth_grad

KINDS = ("mean", "square", "variance")


@task("smooth_grad")
class TestSmoothGrad:
    @pytest.mark.parametrize("shape", SHAPES[1:])
    @pytest.mark.parametrize("kind", KINDS)
    def test_values(self, agree, draw, kind, shape):
        """The three kinds are right for samples of any number of axes."""
        model, x, target = classifier(draw, shape)
        noise = draw.normal(6, *shape, dtype=F64)
        agree(lambda m: m.smooth_grad(model, x, target, noise, level=0.3, kind=kind), rtol=1e-7, atol=1e-9)

    def test_usual_settings(self, agree, draw):
        """If nothing is said, the mean is taken, and the level is 0.15."""
        model, x, target = classifier(draw, (5, 3))
        noise = draw.normal(4, 5, 3, dtype=F64)
        agree(lambda m: m.smooth_grad(model, 3 * x, target, noise), rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("level", [0, 0.0, 0.01, 1.0, 4])
    def test_levels(self, agree, draw, level):
        """The level widens the noise; at 0 there is none, and the variance is 0."""
        model, x, target = classifier(draw, (5, 3))
        noise = draw.normal(4, 5, 3, dtype=F64)
        agree(lambda m: [m.smooth_grad(model, x, target, noise, level=level, kind=kind) for kind in KINDS], rtol=1e-7, atol=1e-9)

    def test_ranges(self, agree, draw):
        """Each sample's noise is a share of its own range, from tiny ranges to large ones, wherever they begin."""
        _, _, target = classifier(draw, (9, 4, 3))
        sizes, places = draw.magnitudes(9, low=1e-6, high=1e3, dtype=F64), draw.normal(9, dtype=F64)
        x = places[:, None, None] + sizes[:, None, None] * draw.normal(9, 4, 3, dtype=F64)
        noise, model = draw.normal(3, 9, 4, 3, dtype=F64), filled(draw, Classifier(12, 5))
        agree(lambda m: m.smooth_grad(model, x, target, noise, level=0.5), rtol=1e-6, atol=1e-8)

    def test_constant_samples(self, agree, draw):
        """A sample without range has no noise; one of the others may have."""
        model, x, target = classifier(draw, (5, 3))
        x[1], x[3] = draw.normal(1, dtype=F64), 0.0
        noise = draw.normal(4, 5, 3, dtype=F64)
        agree(lambda m: [m.smooth_grad(model, x, target, noise, level=0.7, kind=kind) for kind in KINDS], rtol=1e-7, atol=1e-9)

    def test_signs(self, student, draw):
        """Slopes keep their signs: those of a linear model are its weights, and a slope that turns cancels."""
        weights, x, target, noise = draw.normal(7, 5), draw.normal(6, 5), draw.integers(0, 7, 6), draw.normal(9, 6, 5)
        got = student(lambda m: m.smooth_grad(lambda s: s @ weights.T, x, target, noise))
        check_close(got, weights[target], 1e-4, "The smooth slope of a linear model")

    @pytest.mark.parametrize("count", [1, 2, 23])
    def test_numbers_of_copies(self, agree, draw, count):
        """There may be one noisy copy, whose variance is 0, or many."""
        model, x, target = classifier(draw, (4, 3))
        noise = draw.normal(count, 4, 3, dtype=F64)
        agree(lambda m: [m.smooth_grad(model, x, target, noise, level=0.5, kind=kind) for kind in KINDS], rtol=1e-7, atol=1e-9)

    @measured("flags")
    def test_mode(self, agree, draw):
        """The model is used in the mode in which it is."""
        model, x, target = classifier(draw, (5, 3))
        cases, noise = [Moody(model).train(), Moody(model).eval()], draw.normal(4, 5, 3, dtype=F64)
        agree(lambda m: [m.smooth_grad(case, x, target, noise) for case in cases], rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_no_graph_and_no_gradients(self, agree, draw):
        """The result has no graph, also where samples and noise require gradients; nothing gets a gradient; weights may be frozen."""
        model, x, target = classifier(draw, (5, 3))
        noise, frozen = draw.normal(4, 5, 3, dtype=F64), classifier(draw, (5, 3))[0].requires_grad_(False)

        def probe(m):
            a, b = leaf(x), leaf(noise)
            maps = [m.smooth_grad(f, a, target, b, kind=kind) for f in (model, frozen) for kind in KINDS]
            clean = all(t.grad is None for t in (a, b, *model.parameters())) and not any(y.requires_grad for y in maps)
            return maps if clean else "a graph or a gradient"

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_samples_apart(self, agree, draw):
        """NaN and infinity in one sample reach no other."""
        model, x, target = classifier(draw, (7, 3))
        x, noise = draw.poisoned(x, torch.arange(7)[:, None] == draw.integer(0, 6)), draw.normal(4, 7, 3, dtype=F64)
        bad = x.isfinite().all(1).logical_not()
        agree(lambda m: m.smooth_grad(model, x, target, noise)[~bad], rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Samples, noise and classes may lie in memory in any way."""
        x, noise = draw.normal(11, 3, 7, dtype=F64, layout=layout), draw.normal(5, 11, 3, 7, dtype=F64, layout=layout)
        target = draw.integers(0, 5, 11, layout="sliced" if layout == "transposed" else layout)
        model = filled(draw, Classifier(21, 5))
        agree(lambda m: [m.smooth_grad(model, x, target, noise, kind=kind) for kind in KINDS], rtol=1e-7, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sample, one entry or one class."""
        cases = [(*classifier(draw, s[:2], s[2]), draw.normal(4, *s[:2], dtype=F64)) for s in with_ones(4, 3, 5)]
        agree(lambda m: [m.smooth_grad(*case, level=0.5) for case in cases], rtol=1e-8, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 stays float32."""
        model, x, target = classifier(draw, (5, 3, 4), dtype=F32)
        noise = draw.normal(4, 5, 3, 4)
        agree(lambda m: [m.smooth_grad(model, x, target, noise, kind=kind) for kind in KINDS], rtol=1e-2, atol=1e-3)

    def test_refuses(self, agree, draw):
        """Another kind, and noise of another shape, are ValueErrors."""
        model, x, target = classifier(draw, (5, 3))
        noise = draw.normal(4, 5, 3, dtype=F64)
        shapes = [noise[0], noise[:, :1], noise[:, :4], noise[..., :1], noise[None]]

        def probe(m):
            endings = [raised(ValueError, lambda k=k: m.smooth_grad(model, x, target, noise, kind=k)) for k in ("median", "", "Mean")]
            endings += [raised(ValueError, lambda n=n: m.smooth_grad(model, x, target, n)) for n in shapes]
            return endings, m.smooth_grad(model, x, target, noise)

        agree(probe, rtol=1e-3, atol=1e-3)


# grad_cam


class Seeing(nn.Module):
    """A convolutional network: layers that shrink the image, with a ReLU that may work in place, and a head. It can be told to fail."""

    def __init__(self, channels=3, maps=4, classes=5, *, inplace=False):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, maps, 3, padding=1),
            nn.ReLU(inplace=inplace),
            nn.AvgPool2d(2),
            nn.Conv2d(maps, maps + 2, (2, 3)),
            nn.BatchNorm2d(maps + 2),
            nn.ReLU(inplace=inplace),
        )
        self.head = nn.Linear(maps + 2, classes)
        self.error = None

    def forward(self, x):
        y = self.features(x)
        if self.error:
            raise self.error("asked for")
        return self.head(torch.tanh(y + 0.1 * y.square()).mean((2, 3)))


def seeing(draw, size=(9, 14), B=4, dtype=F64, **options):
    """A network in eval mode, images, and a class for each."""
    model = filled(draw, Seeing(**options), dtype).eval()
    return model, draw.normal(B, options.get("channels", 3), *size, dtype=dtype), draw.integers(0, options.get("classes", 5), B)


@task("grad_cam")
class TestGradCam:
    @pytest.mark.parametrize("layer", range(6))
    @pytest.mark.parametrize("inplace", [False, True])
    def test_layers(self, agree, draw, layer, inplace):
        """The maps of each layer, of any size, weigh as stated, also before a ReLU that works in place."""
        model, x, target = seeing(draw, inplace=inplace)
        agree(lambda m: m.grad_cam(model, model.features[layer], x, target), rtol=1e-7, atol=1e-9)

    def test_every_class(self, agree, draw):
        """What speaks against a class is cut off, for each class: some maps are nearly empty."""
        model, x, _ = seeing(draw, B=5)
        image, target = x[:1].expand(5, -1, -1, -1), draw.permutation(5)
        agree(lambda m: m.grad_cam(model, model.features[3], image, target), rtol=1e-7, atol=1e-9)

    def test_negative_sums(self, student, draw):
        """Where the weighted sum is negative everywhere, the map is 0, and the opposite class shows it all."""
        weights, x = draw.uniform(3, low=0.5, high=2.0, dtype=F64), draw.uniform(2, 3, 5, 7, low=0.5, high=2.0, dtype=F64)
        model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)).double()
        with torch.no_grad():
            model[3].weight.copy_(torch.stack((weights, -weights)))
        got = student(lambda m: m.grad_cam(model, model[0], x, torch.tensor([0, 1])))
        want = (x[0] * weights[:, None, None] / 35).sum(0)
        check_close(got, torch.stack((want, torch.zeros_like(want))), 1e-8, "The map for a class and for its opposite")

    def test_upsampling(self, agree, draw):
        """The cut-off comes before the growing, which is bilinear between the middles of pixels, to sizes that are no multiples."""
        x, target = draw.normal(3, 4, 7, 11, dtype=F64), draw.integers(0, 5, 3)
        model = nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Identity(), nn.Flatten(), filled(draw, nn.Linear(24, 5)))
        agree(lambda m: m.grad_cam(model, model[0], x, target), rtol=1e-7, atol=1e-10)

    def test_not_scaled(self, agree, draw):
        """Maps are neither divided by their largest entry nor moved, tiny and large ones alike."""
        model, x, target = seeing(draw, B=6)
        sizes = draw.magnitudes(5, low=1e-6, high=1e6, dtype=F64)
        with torch.no_grad():
            model.head.weight.mul_(sizes[:, None])
        agree(lambda m: m.grad_cam(model, model.features[5], x, target), rtol=1e-6, atol=1e-15)

    def test_sure_model(self, agree, draw):
        """Where one score is hundreds above the others, the slopes are those of the scores."""
        model, x, target = seeing(draw)
        with torch.no_grad():
            model.head.bias.copy_(1000.0 * draw.permutation(5))
        agree(lambda m: m.grad_cam(model, model.features[3], x, target), rtol=1e-7, atol=1e-9)

    def test_error_of_the_model(self, agree, draw):
        """An error of the model behind the layer is passed on, and the layer has the hooks that it had."""
        model, x, target = seeing(draw)

        def probe(m):
            endings = []
            for error in (KeyError, ValueError, RuntimeError):
                model.error = error
                endings.append(raised(error, lambda: m.grad_cam(model, model.features[3], x, target)))
            model.error = None
            return endings, m.grad_cam(model, model.features[3], x, target)

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_other_hooks(self, agree, draw):
        """Hooks that were there stay there, and work; a second call gives the same."""
        model, x, target = seeing(draw)
        model.features[5].register_forward_hook(lambda module, args, output: output * 1.5)
        model.features[3].register_forward_pre_hook(lambda module, args: (args[0] * 0.7,))
        layer = model.features[3]
        agree(lambda m: [m.grad_cam(model, layer, x, target) for _ in range(2)], rtol=1e-7, atol=1e-9)

    @measured("flags")
    def test_mode(self, agree, draw):
        """The model is used in the mode in which it is."""
        model, x, target = seeing(draw)
        cases = [Moody(model), Moody(model).eval()]
        agree(lambda m: [m.grad_cam(case, model.features[3], x, target) for case in cases], rtol=1e-7, atol=1e-9)

    def test_frozen(self, agree, draw):
        """Parameters may be frozen, all or those up to the layer."""
        model, x, target = seeing(draw)
        model.features.requires_grad_(False)
        frozen = seeing(draw)[0].requires_grad_(False)
        agree(
            lambda m: [m.grad_cam(f, f.features[i], x, target) for f in (model, frozen) for i in (0, 3)],
            rtol=1e-7,
            atol=1e-9,
        )

    @measured("flags")
    def test_no_graph_and_no_gradients(self, agree, draw):
        """The result has no graph, and nothing gets a gradient, images that require one neither."""
        model, x, target = seeing(draw)

        def probe(m):
            point = leaf(x)
            y = m.grad_cam(model, model.features[3], point, target)
            clean = all(t.grad is None for t in (point, *model.parameters())) and not y.requires_grad
            return y if clean else "a graph or a gradient"

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_samples_apart(self, agree, draw):
        """NaN and infinity in one image reach no other."""
        model, x, target = seeing(draw, B=5)
        row = draw.integer(0, 5)
        x = draw.poisoned(x, (torch.arange(5) == row)[:, None, None, None])
        kept = torch.arange(5) != row
        agree(lambda m: m.grad_cam(model, model.features[3], x, target)[kept], rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Images and classes may lie in memory in any way, and the maps, too."""
        model = filled(draw, Seeing()).eval().to(memory_format=torch.channels_last)
        x = draw.normal(4, 3, 9, 14, dtype=F64, layout=layout)
        target = draw.integers(0, 5, 4, layout="sliced" if layout == "transposed" else layout)
        agree(lambda m: m.grad_cam(model, model.features[3], x, target), rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("options", [{"B": 1}, {"channels": 1}, {"maps": 1}, {"classes": 1}, {"size": (4, 6)}, {"size": (5, 33)}])
    def test_sizes(self, agree, draw, options):
        """There may be one image, one channel, one map, one class, or one place for a map."""
        model, x, target = seeing(draw, **options)
        agree(lambda m: [m.grad_cam(model, model.features[i], x, target) for i in (0, 3)], rtol=1e-7, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 stays float32."""
        model, x, target = seeing(draw, dtype=F32)
        agree(lambda m: m.grad_cam(model, model.features[3], x, target), rtol=1e-3, atol=1e-4)


# occlusion

WINDOWS = [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((3, 2), (3, 2)), ((4, 3), (2, 3)), ((5, 7), (1, 1)), ((5, 7), (5, 7)), ((1, 7), (1, 3))]


@task("occlusion")
class TestOcclusion:
    @pytest.mark.parametrize(("window", "stride"), WINDOWS)
    def test_values(self, agree, draw, window, stride):
        """Each pixel gets the mean drop of the windows that cover it, for windows that fit and for those that are cut off."""
        model, x, target = classifier(draw, (3, 2, 5, 7))
        agree(lambda m: m.occlusion(model, x, target, window=window, stride=stride), rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize(("window", "stride"), WINDOWS)
    def test_sum_of_pixels(self, student, draw, window, stride):
        """Of a score that adds up pixels, windows cost what they cover."""
        x = draw.normal(1, 1, 5, 7, dtype=F64)
        got = student(lambda m: m.occlusion(lambda s: s.flatten(1).sum(1, True), x, torch.tensor([0]), window=window, stride=stride))
        total, count = torch.zeros(5, 7, dtype=F64), torch.zeros(5, 7, dtype=F64)
        rows = [r for r in range(0, 5, stride[0]) if r == 0 or r - stride[0] + window[0] < 5]
        columns = [c for c in range(0, 7, stride[1]) if c == 0 or c - stride[1] + window[1] < 7]
        for r in rows:
            for c in columns:
                part = slice(r, r + window[0]), slice(c, c + window[1])
                total[part] += x[0, 0][part].sum()
                count[part] += 1
        check_close(got, (total / count)[None], 1e-8, "The map of a score that adds up pixels")

    @pytest.mark.parametrize("baseline", [0, 0.0, 1, -7.3])
    def test_numbers(self, agree, draw, baseline):
        """The baseline may be any number."""
        model, x, target = classifier(draw, (3, 2, 5, 7))
        agree(lambda m: m.occlusion(model, x, target, window=(2, 3), stride=(2, 2), baseline=baseline), rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("shape", [(), (7,), (5, 7), (2, 1, 1), (3, 2, 5, 7), (3, 1, 1, 1), (1, 2, 5, 7)])
    def test_tensors(self, agree, draw, shape):
        """The baseline may be a tensor: a colour, an image, or one for each sample."""
        model, x, target = classifier(draw, (3, 2, 5, 7))
        baseline = draw.normal(*shape, dtype=F64)
        agree(lambda m: m.occlusion(model, x, target, window=(2, 3), stride=(2, 2), baseline=baseline), rtol=1e-8, atol=1e-9)

    def test_sure_model(self, agree, draw):
        """Where one score is hundreds above the others, drops are those of the scores, with their signs."""
        model, x, target = classifier(draw, (3, 2, 5, 7))
        with torch.no_grad():
            model.head.bias.copy_(1000.0 * draw.permutation(5))
        agree(lambda m: m.occlusion(model, x, target, window=(2, 2), stride=(2, 2)), rtol=1e-7, atol=1e-8)

    def test_covered_pixels_do_not_matter(self, agree, draw):
        """What is covered is replaced, not multiplied: NaN below the window does not reach the score."""
        model, x, target = classifier(draw, (3, 2, 5, 7))
        x = draw.poisoned(x, torch.zeros(5, 7, dtype=torch.bool).index_fill(0, torch.tensor([1]), True))

        def score(s):
            return model(s.nan_to_num(50.0).clamp(-50, 50))

        agree(lambda m: m.occlusion(score, x, target, window=(2, 7), stride=(1, 7)), rtol=1e-7, atol=1e-8)

    def test_samples_apart(self, agree, draw):
        """NaN and infinity in one image reach no other."""
        model, x, target = classifier(draw, (5, 2, 4, 3))
        row = draw.integer(0, 5)
        x, kept = draw.poisoned(x, (torch.arange(5) == row)[:, None, None, None]), torch.arange(5) != row
        agree(lambda m: m.occlusion(model, x, target, window=(2, 2), stride=(1, 2))[kept], rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_mode(self, agree, draw):
        """The model is used in the mode in which it is."""
        model, x, target = classifier(draw, (3, 2, 5, 4))
        cases = [Moody(model).train(), Moody(model).eval()]
        agree(lambda m: [m.occlusion(case, x, target, window=(2, 2), stride=(2, 2)) for case in cases], rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """The result has no graph, though the images and the model's parameters require gradients."""
        model, x, target = classifier(draw, (3, 2, 5, 4))

        def probe(m):
            y = m.occlusion(model, leaf(x), target, window=(2, 2), stride=(2, 2))
            return "a graph" if y.requires_grad else y

        agree(probe, rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Images, baseline and classes may lie in memory in any way."""
        x, baseline = (draw.normal(4, 3, 6, 5, dtype=F64, layout=layout) for _ in range(2))
        target = draw.integers(0, 5, 4, layout="sliced" if layout == "transposed" else layout)
        model = filled(draw, Classifier(90, 5))
        agree(lambda m: m.occlusion(model, x, target, window=(3, 2), stride=(2, 2), baseline=baseline), rtol=1e-8, atol=1e-9)

    def test_sizes_of_one(self, agree, draw):
        """There may be one image, one channel, one row, one column or one class."""
        shapes = with_ones(3, 2, 4, 5)
        cases = [(*classifier(draw, shape), tuple(min(2, n) for n in shape[2:])) for shape in shapes]
        cases.append((*classifier(draw, (3, 2, 4, 5), 1), (2, 2)))
        agree(
            lambda m: [m.occlusion(model, x, target, window=w, stride=(1, w[1])) for model, x, target, w in cases],
            rtol=1e-8,
            atol=1e-9,
        )

    def test_large_images(self, agree, draw):
        """Images may be larger than usual, and windows cover each pixel many times."""
        x, target = draw.normal(2, 1, 41, 6, dtype=F64), draw.integers(0, 3, 2)
        model = filled(draw, Classifier(246, 3))
        agree(lambda m: m.occlusion(model, x, target, window=(17, 4), stride=(5, 3)), rtol=1e-8, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 stays float32, for a number and for a tensor as baseline."""
        model, x, target = classifier(draw, (3, 2, 5, 7), dtype=F32)
        baselines = [0.0, 1, draw.normal(2, 1, 1)]
        agree(
            lambda m: [m.occlusion(model, x, target, window=(2, 3), stride=(2, 2), baseline=b) for b in baselines],
            rtol=1e-3,
            atol=1e-3,
        )

    def test_refuses(self, agree, draw):
        """Strides that are below 1 or leave gaps, and windows larger than the image, are ValueErrors, for rows and for columns."""
        model, x, target = classifier(draw, (3, 2, 5, 7))
        wrong = [
            *(((2, 2), (3, 1)), ((2, 2), (1, 3)), ((2, 2), (0, 1)), ((2, 2), (1, 0)), ((2, 2), (-1, 1))),
            *(((6, 2), (1, 1)), ((2, 8), (1, 1)), ((0, 2), (0, 1)), ((2, 0), (1, 0)), ((7, 5), (1, 1))),
        ]

        def probe(m):
            endings = [raised(ValueError, lambda w=w, s=s: m.occlusion(model, x, target, window=w, stride=s)) for w, s in wrong]
            return endings, m.occlusion(model, x, target, window=(5, 7), stride=(5, 7))

        agree(probe, rtol=1e-3, atol=1e-3)


# shapley_values


def game(x, table):
    """Any game: the score of a sample is the table's entry for the set of features that have x's values, exactly."""
    return lambda samples: table[((samples == x).long() * 2 ** torch.arange(len(x))).sum(1)]


def two_samples(draw, d, dtype=F64):
    """A sample and a baseline of very different sizes, which differ in each feature."""
    return draw.magnitudes(d, low=1e-6, high=1e6, dtype=dtype), draw.magnitudes(d, low=1e-6, high=1e6, dtype=dtype)


def orders_of(draw, count, d):
    """Some permutations, as rows."""
    return torch.stack([draw.permutation(d) for _ in range(count)])


@task("shapley_values")
class TestShapleyValues:
    @pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 10])
    def test_any_game(self, agree, draw, d):
        """The shares are right for a game in which each set of features has a score of its own."""
        (x, baseline), table = two_samples(draw, d), draw.normal(2**d, dtype=F64)
        agree(lambda m: m.shapley_values(game(x, table), x, baseline), rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize(("d", "count"), [(1, 1), (2, 5), (4, 1), (5, 7), (10, 3), (13, 4)])
    def test_given_orders(self, agree, draw, d, count):
        """With orders, each feature gets its mean gain over these, for many features, too."""
        (x, baseline), table, orders = two_samples(draw, d), draw.normal(2**d, dtype=F64), orders_of(draw, count, d)
        agree(lambda m: m.shapley_values(game(x, table), x, baseline, orders=orders), rtol=1e-8, atol=1e-9)

    def test_all_orders(self, student, draw):
        """All 24 orders of four features, in any order and one of them twice as often, give means of gains; once each, the exact shares."""
        (x, baseline), table = two_samples(draw, 4), draw.normal(16, dtype=F64)
        orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
        orders = orders[(orders.sort(1).values == torch.arange(4)).all(1)][draw.permutation(24)]
        exact, averaged = student(
            lambda m: [m.shapley_values(game(x, table), x, baseline, orders=some) for some in (None, orders)],
        )
        want = torch.zeros(4, dtype=F64)
        for order in orders.tolist():
            members = 0
            for i in order:
                want[i] += (table[members | 1 << i] - table[members]) / 24
                members |= 1 << i
        check_close(exact, want, 1e-8, "The exact share")
        check_close(averaged, want, 1e-8, "The share over all orders")

    def test_additive_model(self, student, draw):
        """Where features don't work together, each gets weight times difference, with or without orders."""
        w, x, baseline, orders = draw.normal(6, dtype=F64), draw.normal(6, dtype=F64), draw.normal(6, dtype=F64), orders_of(draw, 2, 6)
        x[4] = baseline[4]
        got = student(lambda m: [m.shapley_values(lambda s: s @ w, x, baseline, orders=some) for some in (None, orders)])
        for shares in got:
            check_close(shares, w * (x - baseline), 1e-8, "The share in a linear model")

    def test_smooth_model(self, agree, draw):
        """The shares of a network's score are right, and add up to the difference of the scores."""
        model, x, baseline = filled(draw, Classifier(7, 1)), draw.normal(7, dtype=F64), draw.normal(7, dtype=F64)
        orders = orders_of(draw, 9, 7)

        def probe(m):
            shares = [m.shapley_values(lambda s: model(s)[:, 0], x, baseline, orders=some) for some in (None, orders)]
            return shares, [y.sum() for y in shares]

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_values_are_exact(self, agree, draw):
        """A sample holds x's value or the baseline's, unchanged, whatever the other one is: NaN, infinite or huge."""
        (x, baseline), table = two_samples(draw, 5), draw.normal(32, dtype=F64)
        baseline = draw.poisoned(baseline, draw.permutation(5) < 4)
        orders = orders_of(draw, 3, 5)
        agree(lambda m: [m.shapley_values(game(x, table), x, baseline, orders=some) for some in (None, orders)], rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_mode_and_graph(self, agree, draw):
        """The model is used in the mode in which it is; the shares have no graph."""
        model, x, baseline = filled(draw, Classifier(4, 1)), draw.normal(4, dtype=F64), draw.normal(4, dtype=F64)
        cases, orders = [Moody(model).train(), Moody(model).eval()], orders_of(draw, 3, 4)

        def probe(m):
            out = []
            for case in cases:
                for some in (None, orders):
                    shares = m.shapley_values(lambda s, case=case: case(s)[:, 0], leaf(x), leaf(baseline), orders=some)
                    out.append("a graph" if shares.requires_grad else shares)
            return out

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_layouts(self, agree, draw):
        """Sample, baseline and orders may lie in memory in any way."""
        x, baseline, table = draw.normal(6, dtype=F64, layout="sliced"), draw.normal(1, dtype=F64).expand(6), draw.normal(64, dtype=F64)
        orders = orders_of(draw, 5, 6)
        layouts = [orders.T.contiguous().T, orders.repeat_interleave(2, 1)[:, ::2], orders[:1].expand(4, 6)]
        agree(
            lambda m: [m.shapley_values(game(x, table), x, baseline, orders=some) for some in (None, *layouts)],
            rtol=1e-8,
            atol=1e-9,
        )

    def test_single_precision(self, agree, draw):
        """float32 stays float32."""
        (x, baseline), table, orders = two_samples(draw, 6, F32), draw.normal(64), orders_of(draw, 5, 6)
        agree(lambda m: [m.shapley_values(game(x, table), x, baseline, orders=some) for some in (None, orders)], rtol=1e-4, atol=1e-5)

    def test_too_many_features(self, agree, draw):
        """Eleven features without orders are a ValueError, and ten are not."""
        (x, baseline), w, orders = two_samples(draw, 11), draw.normal(11, dtype=F64), orders_of(draw, 2, 11)

        def probe(m):
            ending = raised(ValueError, lambda: m.shapley_values(lambda s: s.tanh() @ w, x, baseline))
            few = m.shapley_values(lambda s: s.tanh() @ w[:10], x[:10], baseline[:10])
            return ending, few, m.shapley_values(lambda s: s.tanh() @ w, x, baseline, orders=orders)

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_wrong_orders(self, agree, draw):
        """A row that is no permutation of all features is a ValueError: too few, too many, one twice, one too large or negative."""
        (x, baseline), table, orders = two_samples(draw, 5), draw.normal(32, dtype=F64), orders_of(draw, 3, 5)
        twice, pairs, large, negative = orders.clone(), orders.clone(), orders + 1, orders - 1
        twice[1, 2] = twice[1, 3]
        pairs[2] = torch.tensor([0, 0, 3, 3, 4])[draw.permutation(5)]  # adds up to as much as a permutation
        wrong = [twice, pairs, large, negative, orders[:, :4], orders_of(draw, 3, 4), orders_of(draw, 3, 6), torch.zeros_like(orders)]

        def probe(m):
            endings = [raised(ValueError, lambda w=w: m.shapley_values(game(x, table), x, baseline, orders=w)) for w in wrong]
            return endings, m.shapley_values(game(x, table), x, baseline, orders=orders)

        agree(probe, rtol=1e-3, atol=1e-4)


# logit_lens


class Mixing(nn.Module):
    """A block that adds what it sees in a context and in the positions so far; its ways of taking and giving the stream differ."""

    def __init__(self, d, way):
        super().__init__()
        self.inner, self.way = nn.Linear(d, d), way

    def forward(self, stream, context, *, scale):
        seen = torch.tanh(self.inner(stream.cumsum(1) / 3) + context) * scale
        if self.way == "in place":
            stream += seen
            return stream
        return (stream + seen, seen * 2) if self.way == "tuple" else stream + seen


WAYS = ("plain", "tuple", "in place")


class Speaker(nn.Module):
    """A language model with positions, and with blocks that get more than the stream. It can be told to fail at its end."""

    def __init__(self, V=7, d=4, ways=("plain", "tuple", "in place"), length=30):
        super().__init__()
        self.embed, self.positions = nn.Embedding(V, d), nn.Embedding(length, d)
        self.blocks = nn.ModuleList(Mixing(d, way) for way in ways)
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, V)
        self.error = None

    def forward(self, ids):
        stream = self.embed(ids) + self.positions.weight[: ids.shape[1]]
        context = stream.mean(1, keepdim=True)
        for k, block in enumerate(self.blocks):
            stream = block(stream, context, scale=1.0 + k)
            stream = stream[0] if isinstance(stream, tuple) else stream
        logits = self.head(self.norm(stream))
        if self.error:
            raise self.error("asked for")
        return logits


def speaker(draw, B=2, T=5, dtype=F64, **options):
    """A language model, and texts."""
    return filled(draw, Speaker(**options), dtype), draw.integers(0, options.get("V", 7), B, T)


@task("logit_lens")
class TestLogitLens:
    @pytest.mark.parametrize("ways", [("plain",) * 3, ("tuple",) * 2, ("in place",) * 3, WAYS, WAYS[::-1], ("in place", "tuple")])
    def test_layers(self, agree, draw, ways):
        """The stream before and after each block gives logits, whether blocks return it alone, in a tuple, or changed in place."""
        model, ids = speaker(draw, ways=ways)
        agree(lambda m: m.logit_lens(model, ids), rtol=1e-8, atol=1e-9)

    def test_many_blocks(self, agree, draw):
        """There may be many blocks."""
        model, ids = speaker(draw, ways=WAYS * 5)
        agree(lambda m: m.logit_lens(model, ids), rtol=1e-7, atol=1e-8)

    def test_last_layer(self, student, draw):
        """The last logits are those of the model, and the first those of its embeddings."""
        model, ids = speaker(draw)
        got = student(lambda m: m.logit_lens(model, ids))
        with torch.no_grad():
            first, last = model.head(model.norm(model.embed(ids) + model.positions.weight[:5])), model(ids)
        check_close(got[-1], last, 1e-8, "What the lens sees behind the last block")
        check_close(got[0], first, 1e-8, "What the lens sees before the first block")

    def test_size_of_the_stream(self, agree, draw):
        """The final norm is applied to each layer's stream: its size does not count, only its direction."""
        model, ids = speaker(draw)
        with torch.no_grad():
            model.embed.weight.mul_(100)
        agree(lambda m: m.logit_lens(model, ids), rtol=1e-7, atol=1e-8)

    def test_error_of_the_model(self, agree, draw):
        """An error of the model is passed on, and all blocks have the hooks that they had."""
        model, ids = speaker(draw)

        def probe(m):
            endings = []
            for error in (KeyError, ValueError, RuntimeError):
                model.error = error
                endings.append(raised(error, lambda: m.logit_lens(model, ids)))
            model.error = None
            return endings, m.logit_lens(model, ids)

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_other_hooks(self, agree, draw):
        """Hooks that were there stay there, and work; a second call gives the same."""
        model, ids = speaker(draw, ways=("plain", "in place", "plain"))
        model.blocks[1].register_forward_hook(lambda module, args, output: output * 1.5)
        model.norm.register_forward_hook(lambda module, args, output: output * 0.7)
        model.blocks[2].register_forward_pre_hook(lambda module, args: None)
        agree(lambda m: [m.logit_lens(model, ids) for _ in range(2)], rtol=1e-8, atol=1e-9)

    @measured("calls, hooks")
    def test_one_call(self, agree, draw):
        """The model is called once, and each block once."""
        model, ids = speaker(draw)

        def probe(m):
            calls = []
            handles = [part.register_forward_pre_hook(lambda *_: calls.append(1)) for part in (model, *model.blocks)]
            logits = m.logit_lens(model, ids)
            for handle in handles:
                handle.remove()
            return logits if len(calls) == 4 else f"{len(calls)} calls of the model and its three blocks"

        agree(probe, rtol=1e-8, atol=1e-9)

    @measured("flags")
    def test_mode_and_graph(self, agree, draw):
        """The model is used in the mode in which it is; the logits have no graph, and nothing gets a gradient."""
        model, ids = speaker(draw)
        model.norm, other = Moody(model.norm).train(), speaker(draw)[0]
        other.norm = Moody(other.norm).eval()

        def probe(m):
            logits = m.logit_lens(model, ids), m.logit_lens(other, ids)
            clean = not any(y.requires_grad for y in logits) and all(p.grad is None for p in model.parameters())
            return logits if clean else "a graph or a gradient"

        agree(probe, rtol=1e-8, atol=1e-9)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The ids may lie in memory in any way, and be of many tokens."""
        model, ids = filled(draw, Speaker(V=301)), draw.integers(0, 301, 7, 29, layout=layout)
        agree(lambda m: m.logit_lens(model, ids), rtol=1e-7, atol=1e-8)

    def test_sizes_of_one(self, agree, draw):
        """There may be one text, one position, one token, one feature or one block."""
        cases = [speaker(draw, B=B, T=T, V=V, d=d) for B, T, V, d in with_ones(2, 5, 7, 4)]
        cases += [speaker(draw, ways=(way,)) for way in WAYS]
        agree(lambda m: [m.logit_lens(*case) for case in cases], rtol=1e-8, atol=1e-9)

    def test_single_precision(self, agree, draw):
        """float32 stays float32."""
        model, ids = speaker(draw, dtype=F32)
        agree(lambda m: m.logit_lens(model, ids), rtol=1e-3, atol=1e-4)


# activation_patch


class Attention(nn.Module):
    """Causal attention in several heads, with a projection of its own kind."""

    def __init__(self, d, heads):
        super().__init__()
        self.qkv, self.heads = nn.Linear(d, 3 * d), heads
        self.out_proj = nn.Sequential(nn.Linear(d, d), nn.Tanh())

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        z = F.scaled_dot_product_attention(2 * q, k, v, is_causal=True)
        return self.out_proj(z.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    """Attention, then a little network, both added to the stream."""

    def __init__(self, d, heads):
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(d), Attention(d, heads), nn.Linear(d, d)

    def forward(self, x):
        x = x + self.attn(self.norm(x))
        return x + torch.tanh(self.mlp(x))


class Transformer(nn.Module):
    """A small transformer. It can be told to fail at a call to come, at its end."""

    def __init__(self, layers=2, heads=3, width=2, V=11):
        super().__init__()
        d = heads * width
        self.embed, self.positions = nn.Embedding(V, d), nn.Embedding(9, d)
        self.blocks = nn.ModuleList(Layer(d, heads) for _ in range(layers))
        self.head = nn.Linear(d, V)
        self.error, self.calls = None, 0

    def forward(self, ids):
        x = self.embed(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        if self.error:
            self.calls -= 1
            if self.calls == 0:
                raise self.error("asked for")
        return self.head(x)


def prompts(draw, B=2, T=4, dtype=F64, **options):
    """A transformer, and two prompts in which every token differs."""
    V = options.get("V", 11)
    clean = draw.integers(0, V, B, T)
    return filled(draw, Transformer(**options), dtype), clean, (clean + draw.integers(1, V, B, T)) % V


def difference(logits):
    """How much the first token is above the others at the last position, for all prompts together."""
    return (logits[:, -1, 0] - logits[:, -1].logsumexp(-1)).mean() + logits[0, 0, -1].sin()


@task("activation_patch")
class TestActivationPatch:
    def test_effects(self, agree, draw):
        """Each head at each position in each block has the effect that is due."""
        model, clean, corrupt = prompts(draw)
        agree(lambda m: m.activation_patch(model, clean, corrupt, difference, num_heads=3), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("sizes", with_ones(2, 3, 2, 2, 3))
    def test_sizes(self, agree, draw, sizes):
        """There may be one block, one head, one feature for each, one prompt, or one position."""
        layers, heads, width, B, T = sizes
        model, clean, corrupt = prompts(draw, B, T, layers=layers, heads=heads, width=width)
        agree(lambda m: m.activation_patch(model, clean, corrupt, difference, num_heads=heads), rtol=1e-6, atol=1e-7)

    def test_more_heads(self, agree, draw):
        """Five heads of one feature each, and three positions, for a model of one block."""
        model, clean, corrupt = prompts(draw, 1, 3, layers=1, heads=5, width=1)
        agree(lambda m: m.activation_patch(model, clean, corrupt, difference, num_heads=5), rtol=1e-6, atol=1e-7)

    def test_one_token_differs(self, agree, draw):
        """Where the prompts differ in one token, the heads before it have no effect."""
        model, clean, other = prompts(draw, 2, 5)
        at = draw.integer(1, 4)
        corrupt = clean.clone()
        corrupt[:, at] = other[:, at]

        def metric(logits):
            return logits[:, -1, 2].sum()

        agree(lambda m: m.activation_patch(model, clean, corrupt, metric, num_heads=3), rtol=1e-6, atol=1e-7)

    def test_worse_than_corrupt(self, agree, draw):
        """The metric may be smaller for the clean prompt, as a loss is, and an effect may be negative or above 1."""
        model, clean, corrupt = prompts(draw, 2, 2)
        target = draw.integers(0, 11, 2)

        def metric(logits):
            return F.cross_entropy(logits[:, -1], target)

        def both(m):
            return [m.activation_patch(model, *pair, metric, num_heads=3) for pair in ((clean, corrupt), (corrupt, clean))]

        agree(both, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("call", [1, 2])
    def test_error_of_the_model(self, agree, draw, call):
        """An error of the model in its first run or its second is passed on, and all modules have the hooks that they had."""
        model, clean, corrupt = prompts(draw, 1, 1)

        def probe(m):
            endings = []
            for error in (KeyError, ValueError):
                model.error, model.calls = error, call
                endings.append(raised(error, lambda: m.activation_patch(model, clean, corrupt, difference, num_heads=3)))
            model.error, model.calls = None, 0
            return endings, m.activation_patch(model, clean, corrupt, difference, num_heads=3)

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_error_of_a_later_run(self, agree, draw):
        """Nor does a hook stay behind where a later run raises an error."""
        model, clean, corrupt = prompts(draw, 1, 1)

        def probe(m):
            for call in (3, 5):
                model.error, model.calls = KeyError, call
                raised(KeyError, lambda: m.activation_patch(model, clean, corrupt, difference, num_heads=3))
            model.error, model.calls = None, 0
            return m.activation_patch(model, clean, corrupt, difference, num_heads=3)

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_error_of_the_metric(self, agree, draw):
        """An error of the metric is passed on, and no hook stays behind."""
        model, clean, corrupt = prompts(draw, 1, 1)

        def broken(logits):
            raise KeyError("asked for")

        def probe(m):
            ending = raised(KeyError, lambda: m.activation_patch(model, clean, corrupt, broken, num_heads=3))
            return ending, m.activation_patch(model, clean, corrupt, difference, num_heads=3)

        agree(probe, rtol=1e-3, atol=1e-4)

    def test_other_hooks(self, agree, draw):
        """Hooks that were there stay there, and work; a second call gives the same."""
        model, clean, corrupt = prompts(draw, 1, 2)
        model.blocks[0].attn.out_proj.register_forward_hook(lambda module, args, output: output * 1.5)
        model.blocks[1].attn.register_forward_pre_hook(lambda module, args: (args[0] * 0.7,))
        agree(lambda m: [m.activation_patch(model, clean, corrupt, difference, num_heads=3) for _ in range(2)], rtol=1e-6, atol=1e-7)

    @measured("flags")
    def test_mode_and_graph(self, agree, draw):
        """The model is used in the mode in which it is; the effects have no graph, and nothing gets a gradient."""
        model, clean, corrupt = prompts(draw, 2, 2)
        model.blocks[1].mlp, other = Moody(model.blocks[1].mlp).train(), prompts(draw, 2, 2)[0]
        other.blocks[1].mlp = Moody(other.blocks[1].mlp).eval()

        def probe(m):
            effects = [m.activation_patch(f, clean, corrupt, difference, num_heads=3) for f in (model, other)]
            clear = not any(y.requires_grad for y in effects) and all(p.grad is None for p in model.parameters())
            return effects if clear else "a graph or a gradient"

        agree(probe, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """The ids may lie in memory in any way."""
        model, clean = filled(draw, Transformer(V=301)), draw.integers(0, 301, 3, 2, layout=layout)
        corrupt = draw.integers(0, 301, 3, 2, layout=layout)
        agree(lambda m: m.activation_patch(model, clean, corrupt, difference, num_heads=3), rtol=1e-6, atol=1e-7)

    def test_single_precision(self, agree, draw):
        """float32 stays float32."""
        model, clean, _ = prompts(draw, T=3, dtype=F32)

        def metric(logits):
            return logits.square().sum()

        others = draw.integers(0, 11, 20, 2, 3)
        with torch.no_grad():
            gaps = torch.stack([(metric(model(ids)) - metric(model(clean))).abs() for ids in others])
        corrupt = others[gaps.argmax()]  # a small gap would make errors large

        agree(lambda m: m.activation_patch(model, clean, corrupt, metric, num_heads=3), rtol=1e-2, atol=1e-2)

    def test_refuses(self, agree, draw):
        """Prompts of different shapes, and prompts with the same metric, are ValueErrors."""
        model, clean, corrupt = prompts(draw, 2, 2)
        pairs = [(clean, corrupt[:1]), (clean, corrupt[:, :1]), (clean[:1], corrupt), (clean[:, :1], corrupt), (clean, clean)]

        def flat(logits):
            return 0 * logits.sum() + 1

        def probe(m):
            endings = [raised(ValueError, lambda p=p: m.activation_patch(model, *p, difference, num_heads=3)) for p in pairs]
            endings.append(raised(ValueError, lambda: m.activation_patch(model, clean, corrupt, flat, num_heads=3)))
            return endings, m.activation_patch(model, clean, corrupt, difference, num_heads=3)

        agree(probe, rtol=1e-3, atol=1e-4)


# SparseAutoencoder


def autoencoder_state(draw, d=4, m=9, dtype=F64):
    """Weights for an autoencoder, with rows of different lengths."""
    return {
        "W_enc": draw.normal(d, m, dtype=dtype),
        "W_dec": draw.normal(m, d, dtype=dtype),
        "b_enc": draw.normal(m, dtype=dtype),
        "b_dec": draw.normal(d, dtype=dtype),
    }


def autoencoder(m, state, l1=0.3, seed=0):
    """An autoencoder with these weights."""
    d, features = state["W_enc"].shape
    model = m.SparseAutoencoder(d, features, l1=l1, generator=torch.Generator().manual_seed(seed)).to(state["W_enc"].dtype)
    model.load_state_dict(state)
    return model


def parameters_of(model):
    """Copies of the parameters, in the order of their names."""
    return {name: p.detach().clone() for name, p in sorted(model.named_parameters())}


@task("SparseAutoencoder")
class TestSparseAutoencoder:
    @pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
    def test_forward(self, agree, draw, shape):
        """With given weights, reconstruction and features are right, for activations with any axes before the last."""
        state, x = autoencoder_state(draw), draw.normal(*shape, 4, dtype=F64)
        agree(lambda m: autoencoder(m, state)(x), rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("l1", [0, 0.0, 0.02, 3])
    @pytest.mark.parametrize("shape", [(), (7,), (3, 5)])
    def test_loss(self, agree, draw, l1, shape):
        """The squared error is summed over the dimensions, the features are weighed, and both are averaged over the activations."""
        state, x = autoencoder_state(draw), draw.normal(*shape, 4, dtype=F64)
        agree(lambda m: (autoencoder(m, state, l1).loss(x), autoencoder(m, state, l1)(x)[1]), rtol=1e-9, atol=1e-10)

    def test_gradients(self, agree, draw):
        """The loss gives the right gradients to all four parameters and to the activations."""
        state, x = autoencoder_state(draw), draw.normal(6, 4, dtype=F64)

        def probe(m):
            model, point = autoencoder(m, state), leaf(x)
            model.loss(point).backward()
            return {name: p.grad for name, p in sorted(model.named_parameters())}, point.grad

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_gradients_of_forward(self, agree, draw):
        """Reconstruction and features have gradients of their own."""
        state, x, a, b = autoencoder_state(draw), draw.normal(6, 4, dtype=F64), draw.normal(6, 4, dtype=F64), draw.normal(6, 9, dtype=F64)

        def probe(m):
            model = autoencoder(m, state)
            y, f = model(x)
            ((y * a).sum() + (f * b).sum()).backward()
            return {name: p.grad for name, p in sorted(model.named_parameters())}

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_long_rows(self, agree, draw):
        """The price of the features does not look at the lengths of the decoder's rows."""
        state, x = autoencoder_state(draw), draw.normal(6, 4, dtype=F64)
        state["W_dec"] *= draw.magnitudes(9, 1, low=0.01, high=100, dtype=F64)

        def probe(m):
            free, dear = autoencoder(m, state, 0.0), autoencoder(m, state, 500.0)
            return dear.loss(x) - free.loss(x), dear.loss(x)

        agree(probe, rtol=1e-8, atol=1e-8)

    def test_start(self, agree, draw):
        """The decoder's rows are drawn from the generator and of length 1, the encoder is its transpose, the biases are 0."""
        seed, d, features = draw.seed(), draw.integer(2, 7), draw.integer(7, 20)

        def probe(m):
            out = []
            for sizes in ((d, features), (features, d), (1, 1), (1, features), (d, 1)):
                generator = torch.Generator().manual_seed(seed)
                model = m.SparseAutoencoder(*sizes, l1=1.0, generator=generator)
                out.append((parameters_of(model), torch.rand(3, generator=generator)))
            return out

        agree(probe, rtol=1e-5, atol=1e-6)

    @measured("flags")
    def test_state(self, agree, draw):
        """The state consists of the four parameters, which all require gradients, and nothing else."""
        d, features, seed = draw.integer(2, 40), draw.integer(2, 40), draw.seed()

        def probe(m):
            model = m.SparseAutoencoder(d, features, l1=1.0, generator=torch.Generator().manual_seed(seed))
            model.loss(torch.ones(3, d)).backward()
            shapes = {name: (tuple(p.shape), p.dtype, p.requires_grad) for name, p in sorted(model.named_parameters())}
            return shapes, sorted(model.state_dict()), len(list(model.buffers())), model.W_dec

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_encoder_is_free(self, agree, draw):
        """Encoder and decoder start alike, and go their own ways afterwards: neither is a view of the other."""
        x, seed, new = draw.normal(6, 4), draw.seed(), draw.normal(9, 4)

        def probe(m):
            model = m.SparseAutoencoder(4, 9, l1=0.3, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                model.W_dec.copy_(new)
            return model(x), parameters_of(model)

        agree(probe, rtol=1e-4, atol=1e-5)

    @measured("flags")
    @pytest.mark.parametrize("dtype", [F32, F64])
    def test_parallel_gradient(self, agree, draw, dtype):
        """What is left of each row's gradient has no part along the row, and no graph; the other gradients stay as they were."""
        state, gradients = autoencoder_state(draw, dtype=dtype), autoencoder_state(draw, dtype=dtype)

        def probe(m):
            model = autoencoder(m, state)
            for name, p in model.named_parameters():
                p.grad = gradients[name].clone()
            model.remove_parallel_gradient()
            graph = any(p.grad.requires_grad for p in model.parameters())
            return "a graph" if graph else {name: p.grad for name, p in sorted(model.named_parameters())}, parameters_of(model)

        agree(probe, rtol=1e-4 if dtype is F32 else 1e-9, atol=1e-5 if dtype is F32 else 1e-10)

    @pytest.mark.parametrize(("low", "high"), [(1e-15, 1e-13), (1e-9, 1e-3), (1e3, 1e9), (1e13, 1e15)])
    def test_lengths_of_rows(self, agree, draw, low, high):
        """Rows may be very short or very long, when the gradient's part is removed and when they are brought to length 1."""
        state, gradient = autoencoder_state(draw, dtype=F32), draw.normal(9, 4)
        lengths = draw.uniform(9, 1, low=low, high=high)
        state["W_dec"] *= lengths / state["W_dec"].norm(dim=1, keepdim=True)

        def probe(m):
            model = autoencoder(m, state)
            model.W_dec.grad = gradient.clone()
            model.remove_parallel_gradient()
            model.normalize_decoder()
            return model.W_dec.grad, model.W_dec.detach()

        agree(probe, rtol=1e-3, atol=1e-5)

    def test_without_gradient(self, agree, draw):
        """Where the decoder has no gradient, there is nothing to remove, and other gradients stay."""
        state, gradient = autoencoder_state(draw), draw.normal(4, 9, dtype=F64)

        def probe(m):
            model = autoencoder(m, state)
            model.remove_parallel_gradient()
            model.W_enc.grad = gradient.clone()
            model.remove_parallel_gradient()
            return parameters_of(model), {name: p.grad for name, p in sorted(model.named_parameters())}

        agree(probe, rtol=1e-9, atol=0)

    @measured("flags, object identity")
    def test_normalize(self, agree, draw):
        """Each row of the decoder gets the length 1, in place, without a graph; nothing else changes."""
        state = autoencoder_state(draw)

        def probe(m):
            model = autoencoder(m, state)
            weight = model.W_dec
            model.normalize_decoder()
            same = model.W_dec is weight and weight.requires_grad and weight.is_leaf
            return parameters_of(model) if same else "W_dec is another tensor, or one with a graph"

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_training(self, agree, draw):
        """Some steps of training with momentum end at the right weights; the parameters are those from the beginning."""
        state, x = autoencoder_state(draw), draw.normal(3, 16, 4, dtype=F64)

        def probe(m):
            model = autoencoder(m, state, 0.05)
            model.normalize_decoder()
            parameters, losses = dict(model.named_parameters()), []
            speed = {name: torch.zeros_like(p) for name, p in parameters.items()}
            for batch in x:
                loss = model.loss(batch)
                loss.backward()
                model.remove_parallel_gradient()
                with torch.no_grad():
                    for name, p in parameters.items():
                        speed[name] = 0.9 * speed[name] + p.grad
                        p -= 0.02 * speed[name]
                        p.grad = None
                model.normalize_decoder()
                losses += [loss.detach()]
            return losses, parameters_of(model)

        agree(probe, rtol=1e-7, atol=1e-8)

    def test_saved_and_loaded(self, agree, draw):
        """Weights that are loaded count at once, in train mode and in eval mode alike."""
        states, x = [autoencoder_state(draw) for _ in range(2)], draw.normal(6, 4, dtype=F64)

        def probe(m):
            model, out = autoencoder(m, states[0]), []
            model.normalize_decoder()
            for mode in (True, False):
                out.append((model.train(mode)(x), model.loss(x)))
                model.load_state_dict(states[1])
            return out

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_nothing_active(self, agree, draw):
        """Where no feature is active, the reconstruction is b_dec, and costs its error alone."""
        state, x = autoencoder_state(draw), draw.normal(6, 4, dtype=F64)
        state["b_enc"] -= 100

        def probe(m):
            model = autoencoder(m, state)
            model.loss(x).backward()
            return model(x), model.loss(x), model.b_dec.grad

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_sizes_of_one(self, agree, draw):
        """There may be one activation, one dimension or one feature."""
        cases = [(autoencoder_state(draw, d, features), draw.normal(n, d, dtype=F64)) for n, d, features in with_ones(5, 4, 9)]

        def probe(m):
            out = []
            for state, x in cases:
                model = autoencoder(m, state)
                model.normalize_decoder()
                out.append((model(x), model.loss(x), parameters_of(model)))
            return out

        agree(probe, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Activations may lie in memory in any way, and there may be many of them, and of the features."""
        state, x = autoencoder_state(draw, 7, 301), draw.normal(3, 37, 7, dtype=F64, layout=layout)
        agree(lambda m: (autoencoder(m, state)(x), autoencoder(m, state).loss(x)), rtol=1e-8, atol=1e-9)
