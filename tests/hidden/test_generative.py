"""Hidden suite of the module generative."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64
SHAPES = [(7,), (5, 3), (4, 3, 2), (3, 2, 5, 4), (2, 3, 1, 5, 4)]


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def loaded(model, state):
    """The model in the dtype of the state, with the given weights in it."""
    model = model.to(next(iter(state.values())).dtype)
    model.load_state_dict(state)
    return model


def gradients(*models):
    """The gradient of each parameter of some models, zeros where there is none."""
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for model in models for p in model.parameters()]


def linear_decoder(w, b):
    """Logits from latent vectors, whose size stays in bounds however large z is."""
    return lambda z: torch.tanh(z) @ w + b


# Helpers for the trusted side


def alpha_bars_of(draw, T, low=0.02, high=0.9995):
    """T falling numbers between low and high, not evenly spaced."""
    return draw.uniform(T, low=low, high=high, dtype=F64).sort(descending=True).values


def betas_of(draw, T, low=0.01, high=0.4):
    """T numbers between low and high, in random order."""
    return draw.uniform(T, low=low, high=high, dtype=F64)


def check_close(got, want, tolerance, what):
    """Assert that a tensor has the shape, dtype and values that it should have."""
    assert isinstance(got, torch.Tensor), f"{what} must be a tensor."
    assert got.shape == want.shape, f"{what} must have the shape {tuple(want.shape)}, not {tuple(got.shape)}."
    assert got.dtype == want.dtype, f"{what} must be {want.dtype}, not {got.dtype}."
    error = (got - want).abs().max().item()
    assert error <= tolerance, f"{what} differs by up to {error:.3g}."


# negative_elbo


def vae(draw, B, D, Z, dtype=torch.float32):
    """Decoder weights, then x, mean, logvar and noise."""
    parts = draw.normal(Z, D, dtype=dtype), draw.normal(D, dtype=dtype)
    return parts, [draw.uniform(B, D, dtype=dtype), *(draw.normal(B, Z, dtype=dtype) for _ in range(3))]


@task("negative_elbo")
class TestNegativeElbo:
    def test_values(self, agree, draw):
        """The loss is right: sums over features and latent dimensions, the mean over the batch."""
        weights, inputs = vae(draw, 7, 5, 3)
        agree(lambda m: m.negative_elbo(linear_decoder(*weights), *inputs), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("beta", [0.0, 0.25, 4, 300.0])
    def test_beta(self, agree, draw, beta):
        """Beta weighs the KL; 0 leaves it out."""
        weights, inputs = vae(draw, 7, 5, 3)
        agree(lambda m: m.negative_elbo(linear_decoder(*weights), *inputs, beta=beta), rtol=1e-4, atol=1e-4)

    def test_expected_reconstruction(self, student, draw):
        """At mean 0 and logvar 0 the KL is 0, and the loss is torch's binary cross-entropy of the decoded noise."""
        w, b, x, noise = draw.normal(3, 5), draw.normal(5), draw.bools(7, 5).float(), draw.normal(7, 3)
        want = nn.BCELoss(reduction="sum")((noise.tanh() @ w + b).sigmoid(), x) / 7
        got = student(lambda m: m.negative_elbo(linear_decoder(w, b), x, torch.zeros(7, 3), torch.zeros(7, 3), noise))
        check_close(got, want, 1e-3, "The loss at a KL of 0")

    def test_kl_of_torch(self, student, draw):
        """With a decoder that knows nothing, the loss is D log 2 and the KL of torch's distributions."""
        x, mean, logvar, noise = draw.uniform(7, 5), *(draw.normal(7, 3) for _ in range(3))
        normal = torch.distributions.Normal
        kl = torch.distributions.kl_divergence(normal(mean, (logvar / 2).exp()), normal(0.0, 1.0)).sum(1).mean()
        got = student(lambda m: m.negative_elbo(lambda z: torch.zeros(7, 5), x, mean, logvar, noise))
        check_close(got, kl + 5 * math.log(2), 1e-3, "The loss of a decoder that knows nothing")

    def test_gradients(self, agree, draw):
        """Gradients reach mean, logvar and the decoder, through the draw and through the KL."""
        weights, inputs = vae(draw, 7, 5, 3, F64)

        def probe(m):
            leaves = [leaf(i) for i in (*weights, *inputs[1:3])]
            loss = m.negative_elbo(linear_decoder(*leaves[:2]), inputs[0], *leaves[2:], inputs[3], beta=0.7)
            return torch.autograd.grad(loss, leaves), loss.detach()

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_extreme_variances(self, agree, draw):
        """A logvar from −150 to 80 gives a right loss and right gradients."""
        weights, (x, mean, _, noise) = vae(draw, 7, 5, 3)
        logvars = [draw.uniform(7, 3, low=low, high=high) for low, high in ((-150, -100), (-30, 20), (70, 80))]

        def probe(m):
            out = []
            for logvar in logvars:
                leaves = leaf(mean), leaf(logvar)
                loss = m.negative_elbo(linear_decoder(*weights), x, *leaves, noise)
                out.append((loss.detach(), torch.autograd.grad(loss, leaves)))
            return out

        agree(probe, rtol=1e-3, atol=1e-3)

    def test_extreme_logits(self, agree, draw):
        """Logits up to ±1e4 give a right loss and right gradients, for any x between 0 and 1."""
        _, inputs = vae(draw, 7, 5, 3)
        logits = draw.magnitudes(7, 5, low=1e-2, high=1e4)

        def probe(m):
            out = leaf(logits)
            loss = m.negative_elbo(lambda z: out + 0 * z.sum(), *inputs)
            return loss.detach(), torch.autograd.grad(loss, out)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sample, one feature or one latent dimension."""
        cases = [vae(draw, *shape) for shape in with_ones(7, 5, 3)]
        agree(lambda m: [m.negative_elbo(linear_decoder(*w), *inputs) for w, inputs in cases], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way; the sizes are larger, too."""
        w, b, x = draw.normal(11, 23), draw.normal(23), draw.uniform(37, 23, layout=layout)
        inputs = [draw.normal(37, 11, layout=layout) for _ in range(3)]
        agree(lambda m: m.negative_elbo(linear_decoder(w, b), x, *inputs), rtol=1e-4, atol=1e-3)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        weights, inputs = vae(draw, 7, 5, 3, F64)
        agree(lambda m: m.negative_elbo(linear_decoder(*weights), *inputs, beta=2.0), rtol=1e-11, atol=1e-11)


# VectorQuantizer


def quantized(m, codes, batches, *, training=True, **settings):
    """What a quantizer gives for some batches, and its buffers after each."""
    q = m.VectorQuantizer(codes, **settings).train(training)
    return [(q(z), {name: b.clone() for name, b in sorted(q.named_buffers())}) for z in batches]


def near(draw, codes, *shape, dtype=torch.float32):
    """Vectors (…, D) near codes that are drawn."""
    chosen = draw.integers(0, len(codes), *shape)
    return codes[chosen] + 0.3 * draw.normal(*shape, codes.shape[1], dtype=dtype)


@task("VectorQuantizer")
class TestVectorQuantizer:
    def test_nearest_codes(self, agree, draw):
        """Each vector gets its nearest code: numbers, index and loss are right in eval mode."""
        codes, z = draw.normal(11, 3, dtype=F64), 2 * draw.normal(7, 5, 3, dtype=F64)
        agree(lambda m: quantized(m, codes, [z], training=False), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("shape", [(), (9,), (4, 3), (2, 3, 5, 2)])
    def test_any_axes(self, agree, draw, shape):
        """Vectors may have any number of axes before the last, none too."""
        codes, zs = draw.normal(6, 3, dtype=F64), [2 * draw.normal(*shape, 3, dtype=F64) for _ in range(2)]
        agree(lambda m: [quantized(m, codes, zs, training=training) for training in (False, True)], rtol=1e-4, atol=1e-5)

    def test_long_codes_are_not_always_nearest(self, agree, draw):
        """The distance counts, not the product: codes have very different lengths."""
        codes = draw.normal(9, 3, dtype=F64) * 3 ** torch.arange(-4.0, 5.0)[draw.permutation(9), None]
        z = draw.magnitudes(41, 3, low=1e-2, high=1e2, dtype=F64)
        agree(lambda m: quantized(m, codes, [z], training=False), rtol=1e-4, atol=1e-4)

    def test_ties(self, agree, draw):
        """Of codes that are equally near, the first is taken."""
        codes = draw.integers(-2, 3, 19, 2).float()
        z = draw.integers(-2, 3, 31, 2).float()
        agree(lambda m: quantized(m, codes, [z, z + 0.5], training=False), rtol=1e-5, atol=1e-6)

    def test_gradients(self, agree, draw):
        """The quantized vectors' gradient goes straight to z, the loss's pulls z towards the codes, and neither needs the codes."""
        codes, z, w = draw.normal(11, 3, dtype=F64), 2 * draw.normal(7, 3, dtype=F64), draw.normal(7, 3, dtype=F64)

        def probe(m):
            q, out = m.VectorQuantizer(codes, commitment=0.6), []
            for a, b in ((1.0, 0.0), (0.0, 1.0), (1.0, 3.0)):
                x = leaf(z)
                y, indices, loss = q.eval()(x)
                out.append((torch.autograd.grad(a * (y * w).sum() + b * loss, x), indices))
            return out

        agree(probe, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("commitment", [0.0, 0.25, 3])
    def test_commitment(self, agree, draw, commitment):
        """The loss is the mean square distance times the commitment, which may be 0."""
        codes, z = draw.normal(11, 3), 2 * draw.normal(7, 3)

        def probe(m):
            return quantized(m, codes, [z], commitment=commitment), m.VectorQuantizer(codes)(z)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_moving_averages(self, agree, draw):
        """In train mode, counts, sums and codes follow the vectors over several batches of different sizes."""
        codes = 3 * draw.normal(7, 3)
        batches = [near(draw, codes, n) for n in (23, 5, 41)]
        agree(lambda m: quantized(m, codes, batches, decay=0.8), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("decay", [0.0, 0.5, 1, 1.0])
    def test_decays(self, agree, draw, decay):
        """With decay 0 codes are the means of this batch's vectors, and codes without vectors stay; with 1 nothing moves."""
        codes = 3 * draw.normal(13, 3)
        batches = [near(draw, codes[:8], 9), near(draw, codes[3:], 9)]
        agree(lambda m: quantized(m, codes, batches, decay=decay), rtol=1e-4, atol=1e-5)

    def test_the_usual_decay(self, agree, draw):
        """If nothing is said, the decay is 0.99 and the commitment 0.25."""
        codes = 3 * draw.normal(7, 3)
        z = near(draw, codes, 300)
        agree(lambda m: quantized(m, codes, [z, z]), rtol=1e-5, atol=1e-6)

    def test_results_have_the_old_codes(self, agree, draw):
        """Numbers and loss of a call in train mode are of the codes before it."""
        codes, z = draw.normal(5, 3, dtype=F64), 5 * draw.normal(17, 3, dtype=F64)

        def probe(m):
            q = m.VectorQuantizer(codes, decay=0.1)
            return [q(z) for _ in range(3)], q.eval()(z)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_eval_leaves_the_buffers(self, agree, draw):
        """In eval mode no buffer changes; back in train mode they go on."""
        codes = 3 * draw.normal(7, 3)
        z = near(draw, codes, 23)

        def probe(m):
            q, out = m.VectorQuantizer(codes, decay=0.7), []
            for training in (True, False, True):
                q.train(training)(z)
                out.append([b.clone() for _, b in sorted(q.named_buffers())])
            return out

        agree(probe, rtol=1e-4, atol=1e-5)

    @measured("flags")
    def test_state(self, agree, draw):
        """The state consists of the three buffers, without graph, also after a call with a graph; there are no parameters."""
        K, D = draw.integer(2, 40), draw.integer(2, 40)
        codes, z = draw.normal(K, D), draw.normal(9, D)

        def probe(m):
            q = m.VectorQuantizer(codes)
            y, _, loss = q(leaf(z))
            (y.sum() + loss).backward()
            buffers = {name: (tuple(b.shape), b.dtype, b.requires_grad) for name, b in sorted(q.named_buffers())}
            return buffers, sorted(q.state_dict()), len(list(q.parameters())), y.requires_grad, loss.requires_grad

        agree(probe, rtol=0, atol=0)

    def test_start_and_copy(self, agree, draw):
        """The buffers start as stated; the first codes are copied and stay as they are, with two quantizers of the same codes, too."""
        codes, z = draw.normal(5, 3), 3 * draw.normal(17, 3)

        def probe(m):
            first, second = m.VectorQuantizer(codes, decay=0.5), m.VectorQuantizer(codes, decay=0.5)
            start = [b.clone() for _, b in sorted(first.named_buffers())]
            first(z)
            return start, [b.clone() for _, b in sorted(second.named_buffers())], codes

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_saved_and_loaded(self, agree, draw):
        """A quantizer that loads the state of another goes on like it, in train mode and in eval mode."""
        codes, other = 3 * draw.normal(7, 3), draw.normal(7, 3)
        first, z = near(draw, codes, 23), near(draw, codes, 29)

        def probe(m):
            a, b = m.VectorQuantizer(codes, decay=0.7), m.VectorQuantizer(other, decay=0.7)
            b(first)
            a(first)
            b.load_state_dict({name: value.clone() for name, value in a.state_dict().items()})
            return b.eval()(z), b.train()(z), b(z), [x for _, x in sorted(b.named_buffers())]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """There may be one code, one vector or one dimension."""
        cases = [(draw.normal(K, D), draw.normal(N, D)) for K, N, D in with_ones(7, 5, 3)]
        agree(lambda m: [quantized(m, codes, [z, z], decay=0.5) for codes, z in cases], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Codes and vectors may lie in memory in any way; there may be hundreds of codes."""
        codes, z = draw.normal(301, 5, dtype=F64, layout=layout), draw.normal(3, 37, 5, dtype=F64, layout=layout)
        if layout == "expanded":
            codes = draw.normal(301, 1, dtype=F64).expand(301, 5)
        agree(lambda m: quantized(m, codes, [z, z], decay=0.5), rtol=1e-4, atol=1e-5)

    def test_double_precision(self, agree, draw):
        """float64 stays float64 in results and buffers."""
        codes = 3 * draw.normal(7, 3, dtype=F64)
        z = near(draw, codes, 23, dtype=F64)
        agree(lambda m: quantized(m, codes, [z, z], decay=0.7), rtol=1e-10, atol=1e-11)


# gan_losses

KINDS = ("non_saturating", "hinge")


def opponents(weights):
    """A generator of 3 to 5 numbers and a discriminator of 5 numbers, with the given weights."""

    class Scores(nn.Sequential):
        def forward(self, x):
            return super().forward(x)[:, 0]

    generator = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5))
    discriminator = Scores(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))
    return loaded(generator, weights[0]), loaded(discriminator, weights[1])


def opponents_weights(draw, dtype=torch.float32):
    """Random weights for `opponents`."""
    shapes = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (5, 4), "2.bias": (5,)}
    judge = {"0.weight": (6, 5), "0.bias": (6,), "2.weight": (1, 6), "2.bias": (1,)}
    return [{name: draw.normal(*shape, dtype=dtype) for name, shape in part.items()} for part in (shapes, judge)]


class Scale(nn.Module):
    """A discriminator or generator with one weight: the sum of a sample's entries, scaled."""

    def __init__(self, w, *, summed):
        super().__init__()
        self.w, self.summed = nn.Parameter(w.clone()), summed

    def forward(self, x):
        y = self.w * x
        return y.flatten(1).sum(1) if self.summed else y


@task("gan_losses")
class TestGanLosses:
    @pytest.mark.parametrize("kind", KINDS)
    def test_values(self, agree, draw, kind):
        """Both losses are right, for different numbers of real samples and fakes."""
        weights, real, noise = opponents_weights(draw), draw.normal(7, 5), draw.normal(11, 3)
        agree(lambda m: m.gan_losses(*opponents(weights), real, noise, kind=kind), rtol=1e-4, atol=1e-5)

    def test_the_usual_kind(self, agree, draw):
        """If nothing is said, the losses are the non-saturating ones."""
        weights, real, noise = opponents_weights(draw), draw.normal(7, 5), draw.normal(11, 3)
        agree(lambda m: m.gan_losses(*opponents(weights), real, noise), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradients_of_the_discriminator(self, agree, draw, kind):
        """The discriminator's loss gives gradients to its own parameters and none to the generator's."""
        weights, real, noise = opponents_weights(draw, F64), draw.normal(7, 5, dtype=F64), draw.normal(11, 3, dtype=F64)

        def probe(m):
            generator, discriminator = opponents(weights)
            m.gan_losses(generator, discriminator, real, noise, kind=kind)[0].backward()
            return gradients(generator), gradients(discriminator)

        agree(probe, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradients_of_the_generator(self, agree, draw, kind):
        """The generator's loss gives gradients to its own parameters and none to the discriminator's."""
        weights, real, noise = opponents_weights(draw, F64), draw.normal(7, 5, dtype=F64), draw.normal(11, 3, dtype=F64)

        def probe(m):
            generator, discriminator = opponents(weights)
            m.gan_losses(generator, discriminator, real, noise, kind=kind)[1].backward()
            return gradients(generator), gradients(discriminator)

        agree(probe, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("kind", KINDS)
    def test_both_passes(self, agree, draw, kind):
        """Both backward passes work, in either order, and gradients from before stay and are added to."""
        weights, real, noise = opponents_weights(draw, F64), draw.normal(7, 5, dtype=F64), draw.normal(11, 3, dtype=F64)

        def probe(m):
            out = []
            for order in ((0, 1), (1, 0)):
                generator, discriminator = opponents(weights)
                for p in (*generator.parameters(), *discriminator.parameters()):
                    p.grad = torch.full_like(p, 0.5)
                losses = m.gan_losses(generator, discriminator, real, noise, kind=kind)
                for i in order:
                    losses[i].backward()
                    out.append((gradients(generator), gradients(discriminator)))
            return out

        agree(probe, rtol=1e-8, atol=1e-10)

    @measured("flags")
    @pytest.mark.parametrize("kind", KINDS)
    def test_parameters_and_modes_stay(self, agree, draw, kind):
        """All parameters are the same objects afterwards and trained as before: frozen ones stay frozen. So do modes."""
        weights, real, noise = opponents_weights(draw), draw.normal(7, 5), draw.normal(11, 3)

        def probe(m):
            parts = opponents(weights)
            for part in parts:
                part[0].bias.requires_grad_(False)
                part[1].eval()
            before = [p for part in parts for p in part.parameters()]
            losses = m.gan_losses(*parts, real, noise, kind=kind)
            after = [p for part in parts for p in part.parameters()]
            same = all(a is b for a, b in zip(before, after, strict=True))
            sum(losses).backward()
            modes = [layer.training for part in parts for layer in part.modules()]
            return same, modes, [p.requires_grad for p in after], gradients(*parts), [loss.detach() for loss in losses]

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", KINDS)
    def test_extreme_scores(self, agree, draw, kind):
        """Scores from −1e4 to 1e4 give right losses and gradients."""
        scales = draw.magnitudes(6, low=1e-2, high=1e4)
        real, noise = draw.normal(3, 1), draw.normal(5, 1)

        def probe(m):
            out = []
            for w in (*scales, scales.new_tensor(1e4), scales.new_tensor(-1e4)):
                generator, discriminator = Scale(torch.tensor(1.0), summed=False), Scale(w, summed=True)
                losses = m.gan_losses(generator, discriminator, real.sign(), noise.sign(), kind=kind)
                sum(losses).backward()
                out.append(([loss.detach() for loss in losses], gradients(generator, discriminator)))
            return out, m.gan_losses(generator, discriminator, real, noise, kind=kind)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_hinge_has_margins(self, agree, draw):
        """Scores beyond the margin give the hinge discriminator nothing, and the generator still something."""
        w = draw.uniform(1, low=2.0, high=30.0)[0]
        real, noise = draw.uniform(7, 1, low=-2, high=2), draw.uniform(5, 1, low=-2, high=2)

        def probe(m):
            generator, discriminator = Scale(w, summed=False), Scale(1 / w, summed=True)
            losses = m.gan_losses(generator, discriminator, real, noise, kind="hinge")
            sum(losses).backward()
            return [loss.detach() for loss in losses], gradients(generator, discriminator)

        agree(probe, rtol=1e-4, atol=1e-6)

    def test_images(self, agree, draw):
        """Samples may have any axes; one sample is enough of each."""
        w, cases = draw.normal(2), [(draw.normal(n, 2, 3, 5), draw.normal(f, 2, 3, 5)) for n, f in ((4, 3), (1, 3), (4, 1))]

        def probe(m):
            parts = Scale(w[0], summed=False), Scale(w[1], summed=True)
            return [m.gan_losses(*parts, real, noise, kind=kind) for real, noise in cases for kind in ("non_saturating", "hinge")]

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Real samples and noise may lie in memory in any way, and be many."""
        weights, real, noise = opponents_weights(draw), draw.normal(131, 5, layout=layout), draw.normal(67, 3, layout=layout)
        agree(lambda m: [m.gan_losses(*opponents(weights), real, noise, kind=k) for k in ("non_saturating", "hinge")], rtol=1e-4, atol=1e-5)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        weights, real, noise = opponents_weights(draw, F64), draw.normal(7, 5, dtype=F64), draw.normal(11, 3, dtype=F64)

        def probe(m):
            return [m.gan_losses(*opponents(weights), real, noise, kind=k) for k in ("non_saturating", "hinge")]

        agree(probe, rtol=1e-10, atol=1e-11)

    def test_other_kinds(self, agree, draw):
        """Another kind is a ValueError."""
        weights, real, noise = opponents_weights(draw), draw.normal(7, 5), draw.normal(11, 3)

        def probe(m):
            parts = opponents(weights)
            wrong = [raised(ValueError, lambda k=k: m.gan_losses(*parts, real, noise, kind=k)) for k in ("saturating", "", "Hinge", None)]
            return wrong, m.gan_losses(*parts, real, noise)

        agree(probe, rtol=1e-2, atol=1e-2)


# noise_schedule


@task("noise_schedule")
class TestNoiseSchedule:
    @pytest.mark.parametrize("kind", ["linear", "cosine"])
    def test_values(self, agree, draw, kind):
        """β and ᾱ have the stated numbers, in float64, to nine digits."""
        T = draw.integer(20, 1500)
        agree(lambda m: m.noise_schedule(kind, T), rtol=1e-9, atol=1e-16)

    @pytest.mark.parametrize("kind", ["linear", "cosine"])
    def test_numbers_of_the_formula(self, student, draw, kind):
        """The first, the last and three other β are those of the formula, computed without torch."""
        T = draw.integer(40, 700)
        at = [0, T - 1, *draw.integers(1, T - 1, 3).tolist()]

        def f(t):
            return math.cos(math.pi / 2 * (t / T + 0.008) / 1.008) ** 2

        want = [min(1 - f(t + 1) / f(t), 0.999) if kind == "cosine" else 1e-4 + (0.02 - 1e-4) * t / (T - 1) for t in at]
        betas, alpha_bars = student(lambda m: m.noise_schedule(kind, T))
        assert betas.shape == alpha_bars.shape == (T,), f"Both must be of shape ({T},)."
        check_close(betas[at], torch.tensor(want, dtype=F64), 1e-10, "β at five steps")
        check_close(alpha_bars, torch.exp(torch.log1p(-betas).cumsum(0)), 1e-10, "ᾱ, which is the product of the 1 − β,")

    @pytest.mark.parametrize("kind", ["linear", "cosine"])
    def test_few_steps(self, agree, draw, kind):
        """One step is enough, and so are two and three."""
        T = draw.integer(4, 2000)
        agree(lambda m: [m.noise_schedule(kind, n) for n in (1, 2, 3, T)], rtol=1e-9, atol=1e-16)

    def test_the_limit(self, agree, draw):
        """The cosine's last β are at most 0.999, and ᾱ belongs to the limited ones: it never reaches 0."""
        T = draw.integer(3, 5000)

        def probe(m):
            betas, alpha_bars = m.noise_schedule("cosine", T)
            return betas[-3:], alpha_bars[-3:].log()

        agree(probe, rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize("kind", ["linear", "cosine"])
    def test_many_steps(self, agree, draw, kind):
        """Tens of thousands of steps keep their digits."""
        T = draw.integer(20000, 40000)
        agree(lambda m: [x[-1000:] for x in m.noise_schedule(kind, T)], rtol=1e-8, atol=1e-16)

    def test_not_possible(self, agree, draw):
        """Another kind, and a T below 1, are a ValueError."""
        T = draw.integer(20, 1500)

        def probe(m):
            kinds = [raised(ValueError, lambda k=k: m.noise_schedule(k, T)) for k in ("sigmoid", "", "Linear", None)]
            sizes = [raised(ValueError, lambda k=k, n=n: m.noise_schedule(k, n)) for k in ("linear", "cosine") for n in (0, -1, -7)]
            return kinds, sizes, m.noise_schedule("linear", T)

        agree(probe, rtol=1e-2, atol=1e-2)


# add_noise


@task("add_noise")
class TestAddNoise:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_values(self, agree, draw, shape):
        """Each sample is mixed with its noise by its own t, for any number of axes."""
        x0, noise, t, ab = draw.normal(*shape), draw.normal(*shape), draw.integers(0, 13, shape[0]), alpha_bars_of(draw, 13)
        agree(lambda m: m.add_noise(x0, noise, t, ab), rtol=1e-5, atol=1e-6)

    def test_first_and_last_step(self, agree, draw):
        """Step 0 has ᾱ_0 and step T − 1 the last ᾱ."""
        x0, noise, ab = draw.normal(5, 3), draw.normal(5, 3), alpha_bars_of(draw, 11)
        agree(lambda m: [m.add_noise(x0, noise, torch.full((5,), t), ab) for t in (0, 1, 10)], rtol=1e-5, atol=1e-6)

    def test_square_batches(self, agree, draw):
        """With as many samples as features, t still belongs to samples."""
        cases = [(draw.normal(*s), draw.normal(*s), draw.integers(0, 13, s[0])) for s in ((4, 4), (3, 3, 3), (5, 2, 5, 5))]
        ab = alpha_bars_of(draw, 13)
        agree(lambda m: [m.add_noise(*case, ab) for case in cases], rtol=1e-5, atol=1e-6)

    def test_almost_no_noise(self, agree, draw):
        """Where ᾱ is almost 1, 1 − ᾱ keeps its digits; where it is almost 0, ᾱ does. Results are float32."""
        tiny = draw.magnitudes(20, low=1e-12, high=1e-6, dtype=F64).abs()
        ab, x0, noise = torch.cat((1 - tiny[:10], tiny[10:])), draw.normal(20, 3), draw.normal(20, 3)
        x0[:10], noise[10:] = 0.0, 0.0
        agree(lambda m: m.add_noise(x0, noise, torch.arange(20), ab), rtol=1e-4, atol=0)

    def test_gradients(self, agree, draw):
        """Gradients reach the samples and the noise."""
        x0, noise, w = (draw.normal(5, 3, 2, dtype=F64) for _ in range(3))
        t, ab = draw.integers(0, 13, 5), alpha_bars_of(draw, 13)

        def probe(m):
            leaves = leaf(x0), leaf(noise)
            return torch.autograd.grad((m.add_noise(*leaves, t, ab) * w).sum(), leaves)

        agree(probe, rtol=1e-9, atol=1e-11)

    def test_sizes_of_one_and_none(self, agree, draw):
        """There may be one sample, one feature, one step, or no sample."""
        cases = [
            (draw.normal(B, C, D), draw.normal(B, C, D), draw.integers(0, T, B), alpha_bars_of(draw, T))
            for B, C, D, T in with_ones(5, 3, 2, 7)
        ]
        none = torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)
        agree(lambda m: ([m.add_noise(*case) for case in cases], m.add_noise(*none, cases[0][3])), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way, and the steps be many."""
        x0, noise, ab = draw.normal(37, 3, 5, layout=layout), draw.normal(37, 3, 5, layout=layout), alpha_bars_of(draw, 2002)[::2]
        t = draw.integers(0, 1001, 74)[::2]
        agree(lambda m: m.add_noise(x0, noise, t, ab), rtol=1e-5, atol=1e-6)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        x0, noise, t, ab = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), draw.integers(0, 13, 5), alpha_bars_of(draw, 13)
        agree(lambda m: m.add_noise(x0, noise, t, ab), rtol=1e-12, atol=1e-13)

    def test_t_must_fit(self, agree, draw):
        """A t of another shape is a ValueError, one that would broadcast too."""
        x0, noise, t, ab = draw.normal(5, 3, 2), draw.normal(5, 3, 2), draw.integers(0, 13, 5), alpha_bars_of(draw, 13)
        wrong = [draw.integers(0, 13, *shape) for shape in ((), (1,), (3,), (2,), (5, 1), (5, 1, 1), (1, 5), (0,))]

        def probe(m):
            return [raised(ValueError, lambda t=t: m.add_noise(x0, noise, t, ab)) for t in wrong], m.add_noise(x0, noise, t, ab)

        agree(probe, rtol=1e-2, atol=1e-2)


# predict_x0

OUTPUTS = ("noise", "v")


@task("predict_x0")
class TestPredictX0:
    @pytest.mark.parametrize("kind", OUTPUTS)
    @pytest.mark.parametrize("shape", SHAPES[:4])
    def test_values(self, agree, draw, kind, shape):
        """The clean samples are right for any number of axes, whatever the output is."""
        x, output, t, ab = draw.normal(*shape), draw.normal(*shape), draw.integers(0, 13, shape[0]), alpha_bars_of(draw, 13)
        agree(lambda m: m.predict_x0(x, output, t, ab, kind=kind), rtol=1e-4, atol=1e-5)

    def test_the_usual_output(self, agree, draw):
        """If nothing is said, the output is the noise."""
        x, output, t, ab = draw.normal(5, 3), draw.normal(5, 3), draw.integers(0, 13, 5), alpha_bars_of(draw, 13)
        agree(lambda m: m.predict_x0(x, output, t, ab), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", OUTPUTS)
    def test_inverts_the_noise(self, student, draw, kind):
        """A right output gives back the clean samples in float64, to ten digits."""
        x0, noise, ab = draw.normal(9, 3, dtype=F64), draw.normal(9, 3, dtype=F64), alpha_bars_of(draw, 9, low=1e-6)
        t = draw.permutation(9)
        a = ab[t, None]
        x, output = a.sqrt() * x0 + (1 - a).sqrt() * noise, noise if kind == "noise" else a.sqrt() * noise - (1 - a).sqrt() * x0
        got = student(lambda m: m.predict_x0(x, output, t, ab, kind=kind))
        check_close(got, x0, 1e-10, "x_0 from a right output")

    @pytest.mark.parametrize("kind", OUTPUTS)
    def test_square_batches(self, agree, draw, kind):
        """With as many samples as features, t still belongs to samples; step 0 and step T − 1 are steps as well."""
        cases = [(draw.normal(*s), draw.normal(*s), torch.tensor([0, 5, 12])) for s in ((3, 3), (3, 3, 3))]
        ab = alpha_bars_of(draw, 13)
        agree(lambda m: [m.predict_x0(*case, ab, kind=kind) for case in cases], rtol=1e-4, atol=1e-5)

    def test_extreme_steps(self, agree, draw):
        """Where ᾱ is almost 1 or almost 0, both roots keep their digits: for v in float32, for noise in float64."""
        tiny = draw.magnitudes(20, low=1e-12, high=1e-6, dtype=F64).abs()
        ab, x, output = torch.cat((1 - tiny[:10], tiny[10:])), draw.normal(20, 3), draw.normal(20, 3)
        x[:10], output[10:] = 0.0, 0.0

        def probe(m):
            t = torch.arange(20)
            return m.predict_x0(x, output, t, ab, kind="v"), m.predict_x0(x.double(), output.double(), t, ab)

        agree(probe, rtol=1e-4, atol=0)

    @pytest.mark.parametrize("kind", OUTPUTS)
    def test_gradients(self, agree, draw, kind):
        """Gradients reach the noisy samples and the output."""
        x, output, w = (draw.normal(5, 3, 2, dtype=F64) for _ in range(3))
        t, ab = draw.integers(0, 13, 5), alpha_bars_of(draw, 13)

        def probe(m):
            leaves = leaf(x), leaf(output)
            return torch.autograd.grad((m.predict_x0(*leaves, t, ab, kind=kind) * w).sum(), leaves)

        agree(probe, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("kind", OUTPUTS)
    def test_sizes_of_one(self, agree, draw, kind):
        """There may be one sample, one feature or one step."""
        cases = [
            (draw.normal(B, C, D), draw.normal(B, C, D), draw.integers(0, T, B), alpha_bars_of(draw, T))
            for B, C, D, T in with_ones(5, 3, 2, 7)
        ]
        agree(lambda m: [m.predict_x0(*case, kind=kind) for case in cases], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way, and the steps be many."""
        x, output, ab = draw.normal(37, 3, 5, layout=layout), draw.normal(37, 3, 5, layout=layout), alpha_bars_of(draw, 2002)[::2]
        t = draw.integers(0, 1001, 74)[::2]
        agree(lambda m: [m.predict_x0(x, output, t, ab, kind=kind) for kind in ("noise", "v")], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("kind", OUTPUTS)
    def test_double_precision(self, agree, draw, kind):
        """float64 is computed in float64."""
        x, output, t, ab = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), draw.integers(0, 13, 5), alpha_bars_of(draw, 13)
        agree(lambda m: m.predict_x0(x, output, t, ab, kind=kind), rtol=1e-11, atol=1e-12)

    def test_other_kinds(self, agree, draw):
        """Another kind is a ValueError."""
        x, output, t, ab = draw.normal(5, 3), draw.normal(5, 3), draw.integers(0, 13, 5), alpha_bars_of(draw, 13)

        def probe(m):
            wrong = [raised(ValueError, lambda k=k: m.predict_x0(x, output, t, ab, kind=k)) for k in ("x0", "", "V", None)]
            return wrong, m.predict_x0(x, output, t, ab, kind="v")

        agree(probe, rtol=1e-2, atol=1e-2)


# ddpm_step and ddim_step


def gaussian_noise(x, ab, mean, var):
    """The best prediction of the noise in x if the data are normal, with this mean and variance."""
    return (1 - ab).sqrt() * (x - ab.sqrt() * mean) / (ab * var + 1 - ab)


def check_moments(x, mean, deviation, what):
    """Assert that numbers have this mean and deviation, within what chance allows and 2 %."""
    n = x.numel()
    got = x.mean().item(), x.std().item()
    off = abs(got[0] - mean) > 6 * deviation / math.sqrt(n) + 0.02 * deviation
    wide = abs(got[1] / deviation - 1) > 6 / math.sqrt(2 * n) + 0.02
    assert not off and not wide, (
        f"{what} should have the mean {mean:.3f} and the deviation {deviation:.3f}, not {got[0]:.3f} and {got[1]:.3f}."
    )


@task("ddpm_step")
class TestDdpmStep:
    @pytest.mark.parametrize("t", [1, 2, 7, 12])
    def test_values(self, agree, draw, t):
        """Mean and variance are right at early and at late steps."""
        x, predicted, noise, betas = draw.normal(5, 3), draw.normal(5, 3), draw.normal(5, 3), betas_of(draw, 13)
        agree(lambda m: m.ddpm_step(x, predicted, t, betas, noise), rtol=1e-4, atol=1e-5)

    def test_variance(self, student, draw):
        """The noise is scaled by the root of β̃, which is far below β in the last steps."""
        x, noise, betas = torch.zeros(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), betas_of(draw, 5)
        a = [1.0, *(1 - betas).cumprod(0).tolist()]
        got = student(lambda m: [m.ddpm_step(x, x, t, betas, noise) for t in range(5)])
        for t in range(5):
            want = math.sqrt((1 - a[t]) / (1 - a[t + 1]) * betas[t].item())
            check_close(got[t], want * noise, 1e-9, f"At t = {t}, the noise that is added")

    def test_mean_of_the_paper(self, student, draw):
        """Without noise and clipping, the mean is (x − β / √(1 − ᾱ) ε̂) / √α."""
        x, predicted, betas, t = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), betas_of(draw, 13), draw.integer(1, 13)
        ab = (1 - betas).cumprod(0)
        want = (x - betas[t] / (1 - ab[t]).sqrt() * predicted) / (1 - betas[t]).sqrt()
        check_close(student(lambda m: m.ddpm_step(x, predicted, t, betas, torch.zeros_like(x))), want, 1e-9, "The mean")

    def test_no_noise_at_the_end(self, agree, draw):
        """At t = 0 the clean samples come out, and NaN in the noise does not matter."""
        x, predicted, betas = draw.normal(5, 3), draw.normal(5, 3), betas_of(draw, 7)
        noise = draw.poisoned(draw.normal(5, 3), torch.ones(5, 3, dtype=torch.bool))
        agree(lambda m: [m.ddpm_step(x, predicted, 0, betas, noise, clip=clip) for clip in (None, 0.7)], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("clip", [0.0, 0, 0.3, 1.0, 50.0])
    def test_clip(self, agree, draw, clip):
        """The clean samples are clamped before the mean is taken; 0 is a limit, too."""
        x, predicted, noise, betas = 2 * draw.normal(5, 3), draw.normal(5, 3), draw.normal(5, 3), betas_of(draw, 9)
        agree(lambda m: [m.ddpm_step(x, predicted, t, betas, noise, clip=clip) for t in (0, 1, 8)], rtol=1e-4, atol=1e-5)

    def test_a_chain_draws_a_gaussian(self, student, draw):
        """A hundred steps with the exact prediction turn noise into samples of the data's distribution."""
        mean, deviation = draw.uniform(2, low=0.5, high=2.0, dtype=F64).tolist()
        betas = torch.linspace(1e-3, 0.12, 100, dtype=F64)
        ab, seed = (1 - betas).cumprod(0), draw.seed()

        def probe(m):
            g = torch.Generator().manual_seed(seed)
            x = torch.randn(4000, 1, generator=g, dtype=torch.float64)
            for t in reversed(range(100)):
                noise = torch.randn(4000, 1, generator=g, dtype=torch.float64)
                x = m.ddpm_step(x, gaussian_noise(x, ab[t], mean, deviation**2), t, betas, noise)
            return x

        x = student(probe)
        assert x.isfinite().all(), "The samples must be finite."
        check_moments(x, mean, deviation, "The samples")

    def test_a_chain(self, agree, draw):
        """A chain of steps down to 0 gives the same samples, for the same noise."""
        betas, x, noises = betas_of(draw, 17), draw.normal(5, 3, dtype=F64), draw.normal(17, 5, 3, dtype=F64)
        ab = (1 - betas).cumprod(0)

        def probe(m):
            y, path = x, []
            for t in reversed(range(17)):
                y = m.ddpm_step(y, gaussian_noise(y, ab[t], 1.5, 0.3), t, betas, noises[t])
                path.append(y)
            return path

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_small_betas(self, agree, draw):
        """β may be tiny, and 1 − ᾱ keeps its digits: the schedule is float64, the samples are float32."""
        x, predicted, noise = draw.normal(5, 3), draw.normal(5, 3), 1e3 * draw.normal(5, 3)
        betas = draw.magnitudes(9, low=1e-9, high=1e-5, dtype=F64).abs()
        agree(lambda m: [m.ddpm_step(0 * x, 0 * predicted, t, betas, noise) for t in (1, 2, 8)], rtol=1e-4, atol=0)

    def test_gradients(self, agree, draw):
        """Gradients reach the samples and the prediction, as guidance by a classifier needs it."""
        x, predicted, noise, w = (draw.normal(5, 3, dtype=F64) for _ in range(4))
        betas = betas_of(draw, 9)

        def probe(m):
            leaves = leaf(x), leaf(predicted)
            return [torch.autograd.grad((m.ddpm_step(*leaves, t, betas, noise) * w).sum(), leaves) for t in (0, 4)]

        agree(probe, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("shape", [(7,), (3, 2, 5), *with_ones(2, 3, 5, 4)])
    def test_shapes(self, agree, draw, shape):
        """Samples may have any axes, sizes of 1 too; one step is enough."""
        x, predicted, noise = (draw.normal(*shape) for _ in range(3))
        betas, single = betas_of(draw, 9), betas_of(draw, 1)
        agree(lambda m: (m.ddpm_step(x, predicted, 6, betas, noise), m.ddpm_step(x, predicted, 0, single, noise)), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way, and the steps be many."""
        x, predicted, noise = (draw.normal(37, 3, layout=layout) for _ in range(3))
        betas, t = betas_of(draw, 2002, 1e-4, 0.01)[::2], draw.integer(900, 1001)
        agree(lambda m: m.ddpm_step(x, predicted, t, betas, noise), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        x, predicted, noise = (draw.normal(5, 3, dtype=F64) for _ in range(3))
        betas = betas_of(draw, 9)
        agree(lambda m: [m.ddpm_step(x, predicted, t, betas, noise) for t in (0, 1, 8)], rtol=1e-10, atol=1e-11)

    def test_steps_that_are_not_there(self, agree, draw):
        """A t outside 0 … T − 1 is a ValueError, a negative one too."""
        x, predicted, noise, betas = draw.normal(5, 3), draw.normal(5, 3), draw.normal(5, 3), betas_of(draw, 7)

        def probe(m):
            wrong = [raised(ValueError, lambda t=t: m.ddpm_step(x, predicted, t, betas, noise)) for t in (7, 8, 100, -1, -7)]
            return wrong, m.ddpm_step(x, predicted, 6, betas, noise)

        agree(probe, rtol=1e-2, atol=1e-2)


@task("ddim_step")
class TestDdimStep:
    @pytest.mark.parametrize(("t", "previous"), [(1, 0), (2, 1), (12, 11), (12, 5), (7, 0), (3, 1)])
    @pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
    def test_values(self, agree, draw, t, previous, eta):
        """One step or several at once, with and without noise."""
        x, predicted, noise, ab = draw.normal(5, 3), draw.normal(5, 3), draw.normal(5, 3), alpha_bars_of(draw, 13)
        agree(lambda m: m.ddim_step(x, predicted, t, previous, ab, eta=eta, noise=noise), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("t", [0, 1, 6])
    def test_to_the_clean_samples(self, agree, draw, t):
        """With previous = −1 the clean samples come out, whatever η is, and NaN in the noise does not matter."""
        x, predicted, ab = draw.normal(5, 3), draw.normal(5, 3), alpha_bars_of(draw, 7)
        noise = draw.poisoned(draw.normal(5, 3), torch.ones(5, 3, dtype=torch.bool))

        def probe(m):
            return [m.ddim_step(x, predicted, t, -1, ab, eta=eta, noise=noise) for eta in (0.0, 0.5, 1.0)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_deterministic_without_eta(self, agree, draw):
        """If nothing is said, η is 0: no noise is needed, and what it holds does not matter."""
        x, predicted, ab = draw.normal(5, 3), draw.normal(5, 3), alpha_bars_of(draw, 7)
        noise = draw.poisoned(draw.normal(5, 3), torch.ones(5, 3, dtype=torch.bool))

        def probe(m):
            calls = {}, {"noise": noise}, {"eta": 0, "noise": None}, {"eta": 0.0, "noise": noise}
            return [m.ddim_step(x, predicted, 5, s, ab, **settings) for settings in calls for s in (3, -1)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_equals_ddpm(self, student, draw):
        """With η = 1 and s = t − 1, the mean and the variance are those of DDPM."""
        x, predicted, noise, betas = (*(draw.normal(5, 3, dtype=F64) for _ in range(3)), betas_of(draw, 9))
        ab, t = (1 - betas).cumprod(0), draw.integer(1, 9)
        mean = (x - betas[t] / (1 - ab[t]).sqrt() * predicted) / (1 - betas[t]).sqrt()
        want = mean + ((1 - ab[t - 1]) / (1 - ab[t]) * betas[t]).sqrt() * noise
        got = student(lambda m: m.ddim_step(x, predicted, t, t - 1, ab, eta=1.0, noise=noise))
        check_close(got, want, 1e-9, "x with η = 1")

    def test_follows_the_same_noise(self, student, draw):
        """With η = 0, a right prediction leads from x_t to the x_s of the same noise, over any distance."""
        x0, noise, ab = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), alpha_bars_of(draw, 13)
        steps = [(12, 11), (12, 2), (5, 0), (8, -1)]
        levels = [*ab, torch.ones((), dtype=F64)]  # levels[-1] is 1

        def at(t):
            return levels[t].sqrt() * x0 + (1 - levels[t]).sqrt() * noise

        starts = [at(t) for t, _ in steps]
        got = student(lambda m: [m.ddim_step(x, noise, t, s, ab) for x, (t, s) in zip(starts, steps, strict=True)])
        for y, (t, s) in zip(got, steps, strict=True):
            check_close(y, at(s), 1e-9, f"From step {t} to {s}, x")

    @pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
    def test_uneven_strides(self, agree, draw, eta):
        """A chain of uneven strides with the exact prediction gives the same samples, for the same noise."""
        ab, x, noises = alpha_bars_of(draw, 50), draw.normal(5, 3, dtype=F64), draw.normal(12, 5, 3, dtype=F64)
        times = [*draw.permutation(50)[:11].sort(descending=True).values.tolist(), -1]

        def probe(m):
            y, path = x, []
            for t, s, noise in zip(times[:-1], times[1:], noises[:11], strict=True):
                y = m.ddim_step(y, gaussian_noise(y, ab[t], 1.5, 0.3), t, s, ab, eta=eta, noise=noise)
                path.append(y)
            return path

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_extreme_schedules(self, agree, draw):
        """Where ᾱ is almost 1 or almost 0, nothing becomes NaN, and the digits stay."""
        ends = 1 - draw.magnitudes(4, low=1e-8, high=1e-4, dtype=F64).abs(), draw.magnitudes(4, low=1e-8, high=1e-3, dtype=F64).abs()
        ab = torch.cat(ends).sort(descending=True).values
        x, predicted, noise = (draw.normal(5, 3, dtype=F64) for _ in range(3))

        def probe(m):
            pairs = [(7, 6), (7, 3), (7, -1), (5, 4), (3, 2), (1, 0), (0, -1)]
            return [m.ddim_step(x, predicted, t, s, ab, eta=eta, noise=noise) for t, s in pairs for eta in (0.0, 1.0)]

        agree(probe, rtol=1e-6, atol=1e-9)

    def test_digits_of_the_schedule(self, agree, draw):
        """With float32 samples, 1 − ᾱ still has the digits of float64."""
        ab = (1 - draw.magnitudes(6, low=1e-9, high=1e-6, dtype=F64).abs()).sort(descending=True).values
        zeros, predicted, noise = torch.zeros(5, 3), draw.normal(5, 3), draw.normal(5, 3)

        def probe(m):
            return [m.ddim_step(zeros, zeros, t, s, ab, eta=1.0, noise=noise) for t, s in ((5, 4), (5, 1), (2, 0))], predicted

        agree(probe, rtol=1e-4, atol=0)

    def test_gradients(self, agree, draw):
        """Gradients reach the samples and the prediction."""
        x, predicted, noise, w = (draw.normal(5, 3, dtype=F64) for _ in range(4))
        ab = alpha_bars_of(draw, 9)

        def probe(m):
            leaves = leaf(x), leaf(predicted)
            outs = [m.ddim_step(*leaves, t, s, ab, eta=0.5, noise=noise) for t, s in ((8, 3), (4, -1))]
            return [torch.autograd.grad((y * w).sum(), leaves) for y in outs]

        agree(probe, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("shape", [(7,), (3, 2, 5), *with_ones(2, 3, 5, 4)])
    def test_shapes(self, agree, draw, shape):
        """Samples may have any axes, sizes of 1 too; a schedule of one step is enough."""
        x, predicted, noise = (draw.normal(*shape) for _ in range(3))
        ab, single = alpha_bars_of(draw, 9), alpha_bars_of(draw, 1)

        def probe(m):
            return m.ddim_step(x, predicted, 6, 2, ab, eta=0.8, noise=noise), m.ddim_step(x, predicted, 0, -1, single)

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way, and the steps be many."""
        x, predicted, noise = (draw.normal(37, 3, layout=layout) for _ in range(3))
        ab, t = alpha_bars_of(draw, 2002)[::2], draw.integer(800, 1001)
        agree(lambda m: m.ddim_step(x, predicted, t, t - 300, ab, eta=0.7, noise=noise), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        x, predicted, noise = (draw.normal(5, 3, dtype=F64) for _ in range(3))
        ab = alpha_bars_of(draw, 9)
        agree(lambda m: [m.ddim_step(x, predicted, 7, s, ab, eta=0.7, noise=noise) for s in (-1, 0, 6)], rtol=1e-10, atol=1e-11)

    def test_not_possible(self, agree, draw):
        """Steps out of range or in the wrong order, and η > 0 without noise, are a ValueError."""
        x, predicted, noise, ab = draw.normal(5, 3), draw.normal(5, 3), draw.normal(5, 3), alpha_bars_of(draw, 7)
        steps = [(7, 3), (100, 3), (3, 3), (3, 5), (3, -2), (-1, -2), (-1, -1), (0, 0), (7, 7), (-2, -5)]

        def probe(m):
            wrong = [raised(ValueError, lambda t=t, s=s: m.ddim_step(x, predicted, t, s, ab, eta=0.5, noise=noise)) for t, s in steps]
            quiet = [raised(ValueError, lambda t=t, s=s: m.ddim_step(x, predicted, t, s, ab)) for t, s in steps]
            missing = [raised(ValueError, lambda s=s, e=e: m.ddim_step(x, predicted, 6, s, ab, eta=e)) for s in (3, -1) for e in (0.1, 1.0)]
            return wrong, quiet, missing, m.ddim_step(x, predicted, 6, 2, ab, eta=0.5, noise=noise)

        agree(probe, rtol=1e-2, atol=1e-2)


# guided_noise


def conditional(table, w):
    """A model whose answer depends on x, t, the label and the row's place in the batch."""

    def model(x, t, labels):
        place = torch.arange(len(x), dtype=x.dtype) * 0.1
        shift = (table[labels] + w * t + place).reshape(-1, *[1] * (x.dim() - 1))
        return torch.sin(x + shift) + 0.3 * shift

    return model


@task("guided_noise")
class TestGuidedNoise:
    @pytest.mark.parametrize("w", [0.0, 0, 1.0, 0.4, 3.5, 12])
    def test_values(self, agree, draw, w):
        """Guidance is right for w = 0, 1, between and above."""
        x, t, labels, table = draw.normal(5, 3), draw.integers(0, 20, 5), draw.integers(0, 6, 5), draw.normal(7)
        agree(lambda m: m.guided_noise(conditional(table, 0.2), x, t, labels, 6, w), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("null", [0, 3, 6])
    def test_any_null(self, agree, draw, null):
        """The label that stands for none may be any, 0 too; samples may have it already."""
        x, t, labels, table = draw.normal(5, 3), draw.integers(0, 20, 5), draw.integers(0, 7, 5), draw.normal(7)
        labels[1] = null
        agree(lambda m: m.guided_noise(conditional(table, 0.2), x, t, labels, null, 2.5), rtol=1e-4, atol=1e-4)

    def test_negative_null(self, agree, draw):
        """A negative label means none to some models."""
        x, t, labels, table = draw.normal(5, 3), draw.integers(0, 20, 5), draw.integers(0, 6, 5), draw.normal(7)
        agree(lambda m: m.guided_noise(lambda x, t, y: conditional(table, 0.2)(x, t, y + 1), x, t, labels, -1, 2.5), rtol=1e-4, atol=1e-4)

    @measured("calls")
    def test_what_the_model_sees(self, agree, draw):
        """The model gets x, t and labels twice: first with the labels, then with `null`."""
        x, t, labels = draw.normal(5, 3), draw.integers(0, 20, 5), draw.integers(0, 6, 5)

        def probe(m):
            seen = []

            def model(*inputs):
                seen.append([i.clone() for i in inputs])
                return inputs[0] * (1 + inputs[2][:, None])

            return m.guided_noise(model, x, t, labels, 9, 1.5), seen

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_gradients(self, agree, draw):
        """Gradients reach x and the model."""
        x, table, v = draw.normal(5, 3, dtype=F64), draw.normal(7, dtype=F64), draw.normal(5, 3, dtype=F64)
        t, labels = draw.integers(0, 20, 5), draw.integers(0, 6, 5)

        def probe(m):
            leaves = leaf(x), leaf(table)
            return torch.autograd.grad((m.guided_noise(conditional(leaves[1], 0.2), leaves[0], t, labels, 6, 2.5) * v).sum(), leaves)

        agree(probe, rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("shape", [(5,), (4, 3, 2), *with_ones(3, 2, 5, 4)])
    def test_shapes(self, agree, draw, shape):
        """Samples may have any axes; sizes of 1 keep theirs, a single sample too."""
        x, t, labels, table = draw.normal(*shape), draw.integers(0, 20, shape[0]), draw.integers(0, 6, shape[0]), draw.normal(7)
        agree(lambda m: m.guided_noise(conditional(table, 0.2), x, t, labels, 6, 2.5), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way, and be many."""
        x, t, labels = draw.normal(37, 3, 5, layout=layout), draw.integers(0, 20, 74)[::2], draw.integers(0, 301, 74)[::2]
        table = draw.normal(302)
        agree(lambda m: m.guided_noise(conditional(table, 0.2), x, t, labels, 301, 2.5), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        x, t, labels, table = draw.normal(5, 3, dtype=F64), draw.integers(0, 20, 5), draw.integers(0, 6, 5), draw.normal(7, dtype=F64)
        agree(lambda m: m.guided_noise(conditional(table, 0.2), x, t, labels, 6, 2.5), rtol=1e-10, atol=1e-11)


# drop_labels


@task("drop_labels")
class TestDropLabels:
    @pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
    def test_values(self, agree, draw, p):
        """Exactly the labels whose number is below p are replaced."""
        labels, seed = draw.integers(0, 1000, 301), draw.seed()
        agree(lambda m: m.drop_labels(labels, p, 1000, generator=torch.Generator().manual_seed(seed)), rtol=0, atol=0)

    def test_none_and_all(self, agree, draw):
        """P = 0 leaves all labels, p = 1 none."""
        labels, seed, null = draw.integers(0, 1000, 37), draw.seed(), draw.integer(0, 1000)

        def probe(m):
            return [m.drop_labels(labels, p, null, generator=torch.Generator().manual_seed(seed)) for p in (0, 0.0, 0.5, 1, 1.0)]

        agree(probe, rtol=0, atol=0)

    def test_share(self, student, draw):
        """Of 20,000 labels, a share of p is replaced."""
        labels, seed, p = draw.integers(1, 1000, 20000), draw.seed(), draw.integer(10, 90) / 100
        got = student(lambda m: m.drop_labels(labels, p, 0, generator=torch.Generator().manual_seed(seed)))
        assert got.shape == labels.shape, "There must be as many labels as before."
        dropped = got == 0
        assert (got == labels)[~dropped].all(), "The labels that are kept must be as they were."
        share = dropped.double().mean().item()
        assert abs(share - p) < 6 * math.sqrt(p * (1 - p) / 20000), f"With p = {p}, a share of {share:.3f} was replaced."

    @pytest.mark.parametrize("null", [0, -1, 10, 2**40])
    def test_any_null(self, agree, draw, null):
        """The label that stands for none may be any, 0 and negative ones too, and large ones keep their digits."""
        labels, seed = draw.integers(0, 2**45, 41), draw.seed()
        agree(lambda m: m.drop_labels(labels, 0.5, null, generator=torch.Generator().manual_seed(seed)), rtol=0, atol=0)

    def test_generator_goes_on(self, agree, draw):
        """One number is drawn for each label: a second call drops others, and what comes next is the same."""
        labels, seed = draw.integers(0, 1000, 53), draw.seed()

        def probe(m):
            g = torch.Generator().manual_seed(seed)
            return [m.drop_labels(labels, p, 1000, generator=g) for p in (0.5, 0.0, 1.0, 0.5)], torch.rand(3, generator=g)

        agree(probe, rtol=1e-6, atol=0)

    def test_global_generator(self, agree, draw):
        """Torch's global generator decides nothing and stays as it is."""
        labels, seed = draw.integers(0, 1000, 53), draw.seed()

        def probe(m):
            out = []
            for state in (1, 2):
                torch.manual_seed(state)
                out.append((m.drop_labels(labels, 0.5, 1000, generator=torch.Generator().manual_seed(seed)), torch.rand(2)))
            return out

        agree(probe, rtol=1e-6, atol=0)

    def test_few_labels(self, agree, draw):
        """There may be one label, or none."""
        labels, seed = draw.integers(0, 10**9, 1), draw.seed()

        def probe(m):
            g = torch.Generator().manual_seed(seed)
            return [m.drop_labels(x, p, -5, generator=g) for x in (labels, labels[:0]) for p in (0.0, 0.5, 1.0)]

        agree(probe, rtol=0, atol=0)

    def test_labels_in_any_layout(self, agree, draw):
        """Every second label of a longer tensor, and one label that is repeated without copies."""
        labels, seed = draw.integers(0, 10**9, 74)[::2], draw.seed()

        def probe(m):
            g = torch.Generator().manual_seed(seed)
            return [m.drop_labels(x, 0.5, 7, generator=g) for x in (labels, labels[:1].expand(31))]

        agree(probe, rtol=0, atol=0)

    def test_not_a_probability(self, agree, draw):
        """A p outside 0 … 1 is a ValueError, and then nothing is drawn."""
        labels, seed = draw.integers(0, 1000, 37), draw.seed()

        def probe(m):
            g = torch.Generator().manual_seed(seed)
            wrong = [raised(ValueError, lambda p=p: m.drop_labels(labels, p, 1000, generator=g)) for p in (-0.1, 1.1, -1, 50)]
            return wrong, m.drop_labels(labels, 0.5, 1000, generator=g)

        agree(probe, rtol=0, atol=0)


# flow_matching_loss


def moving(a, b):
    """A velocity that depends on x and on each sample's time."""
    return lambda x, t: torch.tanh(a * x) + b * t.reshape(-1, *[1] * (x.dim() - 1)).square()


@task("flow_matching_loss")
class TestFlowMatchingLoss:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_values(self, agree, draw, shape):
        """The loss is right for any number of axes, with a time of its own for each sample."""
        x0, x1, t, (a, b) = draw.normal(*shape), draw.normal(*shape) + 2, draw.uniform(shape[0]), draw.normal(2)
        agree(lambda m: m.flow_matching_loss(moving(a, b), x0, x1, t), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("sigma_min", [0.0, 0, 0.1, 0.7, 1.0, 1])
    def test_sigma_min(self, agree, draw, sigma_min):
        """What is left of the noise at the end changes the path and the velocity."""
        x0, x1, t, (a, b) = draw.normal(5, 3), draw.normal(5, 3) + 2, draw.uniform(5), draw.normal(2)
        agree(lambda m: m.flow_matching_loss(moving(a, b), x0, x1, t, sigma_min=sigma_min), rtol=1e-4, atol=1e-5)

    def test_ends_of_time(self, agree, draw):
        """At t = 0 the model sees the noise, at t = 1 the data."""
        x0, x1, (a, b) = draw.normal(5, 3), draw.normal(5, 3) + 2, draw.normal(2)
        agree(lambda m: [m.flow_matching_loss(moving(a, b), x0, x1, torch.full((5,), t)) for t in (0.0, 1.0)], rtol=1e-4, atol=1e-5)

    def test_a_right_model(self, student, draw):
        """A model that knows the pairs has a loss of 0, and one that is off by c a loss of c²."""
        x0, x1, t, c = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), draw.uniform(5, dtype=F64), draw.normal(5, 3, dtype=F64)
        right, off = student(lambda m: [m.flow_matching_loss(lambda x, s, c=c: x1 - x0 + c, x0, x1, t) for c in (0.0, c)])
        check_close(right, torch.zeros((), dtype=F64), 1e-12, "The loss of a right model")
        check_close(off, c.square().mean(), 1e-9, "The loss of a model that is off")

    @measured("calls")
    def test_what_the_model_sees(self, agree, draw):
        """The model is called once, with the points on the path and t as given."""
        x0, x1, t = draw.normal(5, 3, 2), draw.normal(5, 3, 2), draw.uniform(5)

        def probe(m):
            seen = []

            def model(*inputs):
                seen.append([i.clone() for i in inputs])
                return 2 * inputs[0]

            return m.flow_matching_loss(model, x0, x1, t, sigma_min=0.2), seen

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_gradients(self, agree, draw):
        """Gradients reach the model."""
        x0, x1, t = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), draw.uniform(5, dtype=F64)
        weights = draw.normal(2, dtype=F64)

        def probe(m):
            w = leaf(weights)
            return torch.autograd.grad(m.flow_matching_loss(moving(w[0], w[1]), x0, x1, t, sigma_min=0.05), w)

        agree(probe, rtol=1e-8, atol=1e-10)

    def test_square_batches(self, agree, draw):
        """With as many samples as features, t still belongs to samples."""
        cases = [(draw.normal(*s), draw.normal(*s) + 1, draw.uniform(s[0])) for s in ((4, 4), (3, 3, 3), (5, 2, 5, 5))]
        a, b = draw.normal(2)
        agree(lambda m: [m.flow_matching_loss(moving(a, b), *case) for case in cases], rtol=1e-4, atol=1e-5)

    def test_sizes_of_one(self, agree, draw):
        """There may be one sample or one feature."""
        cases = [(draw.normal(*s), draw.normal(*s) + 1, draw.uniform(s[0])) for s in (*with_ones(4, 3, 2), (1,))]
        a, b = draw.normal(2)
        agree(lambda m: [m.flow_matching_loss(moving(a, b), *case) for case in cases], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """All arguments may lie in memory in any way, and be many."""
        x0, x1, t = draw.normal(37, 3, 5, layout=layout), draw.normal(37, 3, 5, layout=layout), draw.uniform(74)[::2]
        a, b = draw.normal(2)
        agree(lambda m: m.flow_matching_loss(moving(a, b), x0, x1, t), rtol=1e-4, atol=1e-5)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64."""
        x0, x1, t = draw.normal(5, 3, dtype=F64), draw.normal(5, 3, dtype=F64), draw.uniform(5, dtype=F64)
        a, b = draw.normal(2, dtype=F64)
        agree(lambda m: m.flow_matching_loss(moving(a, b), x0, x1, t, sigma_min=0.25), rtol=1e-11, atol=1e-12)

    def test_t_must_fit(self, agree, draw):
        """A t of another shape is a ValueError, one that would broadcast too."""
        x0, x1, t, (a, b) = draw.normal(5, 3, 2), draw.normal(5, 3, 2), draw.uniform(5), draw.normal(2)
        wrong = [draw.uniform(*shape) for shape in ((), (1,), (3,), (2,), (5, 1), (5, 1, 1), (1, 5))]

        def probe(m):
            flat = lambda x, t: a * x + b  # noqa: E731  a model that takes any t
            return [raised(ValueError, lambda t=t: m.flow_matching_loss(flat, x0, x1, t)) for t in wrong], m.flow_matching_loss(
                flat, x0, x1, t
            )

        agree(probe, rtol=1e-2, atol=1e-2)


# euler_sample


@task("euler_sample")
class TestEulerSample:
    @pytest.mark.parametrize("steps", [1, 2, 7, 30])
    def test_values(self, agree, draw, steps):
        """The result is right for few steps and many."""
        x0, (a, b) = draw.normal(5, 3), draw.normal(2)
        agree(lambda m: m.euler_sample(moving(a, b), x0, steps), rtol=1e-4, atol=1e-4)

    @measured("calls")
    def test_when_it_is_asked(self, agree, draw):
        """The velocity is asked at the beginning of each step, with the same time for each sample."""
        x0, N = draw.normal(5, 3), draw.integer(3, 40)

        def probe(m):
            seen = []

            def velocity(x, t):
                seen.append((x.clone(), t.clone()))
                return x + t[:, None]

            return m.euler_sample(velocity, x0, N), seen

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_transports_a_gaussian(self, student, draw):
        """The exact velocity carries noise to mean + deviation · noise, as closely as 400 steps can."""
        mean, deviation = draw.uniform(2, low=0.5, high=2.0, dtype=F64).tolist()
        x0 = draw.normal(101, 1, dtype=F64)

        def velocity(x, t):
            t = t[:, None]
            slope = (t * deviation**2 - (1 - t)) / ((1 - t) ** 2 + (t * deviation) ** 2)
            return mean + slope * (x - t * mean)

        got = student(lambda m: m.euler_sample(velocity, x0, 400))
        check_close(got, mean + deviation * x0, 0.05, "The noise that was carried to the data")

    def test_straight_paths(self, agree, draw):
        """A constant velocity needs one step, and more give the same."""
        x0, v = draw.normal(5, 3), draw.normal(5, 3)
        agree(lambda m: [m.euler_sample(lambda x, t: v, x0, n) for n in (1, 2, 9)], rtol=1e-4, atol=1e-5)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """No graph is recorded, even if velocity and noise could have one."""
        x0, (a, b) = draw.normal(5, 3), draw.normal(2)

        def probe(m):
            inside = []

            def velocity(x, t):
                v = leaf(a) * x + b
                inside.append(v.requires_grad)
                return v

            y = m.euler_sample(velocity, leaf(x0), 4)
            return y.detach(), y.requires_grad, y.grad_fn is None, any(inside)

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", [(7,), (3, 2, 5), *with_ones(2, 3, 5, 4)])
    def test_shapes(self, agree, draw, shape):
        """Samples may have any axes, sizes of 1 too."""
        x0, (a, b) = draw.normal(*shape), draw.normal(2)
        agree(lambda m: m.euler_sample(moving(a, b), x0, 3), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Noise may lie in memory in any way, and be much."""
        x0, (a, b) = draw.normal(37, 3, 5, layout=layout), draw.normal(2)
        agree(lambda m: m.euler_sample(moving(a, b), x0, 4), rtol=1e-4, atol=1e-4)

    def test_double_precision(self, agree, draw):
        """float64 is computed in float64, times too."""
        x0, (a, b) = draw.normal(5, 3, dtype=F64), draw.normal(2, dtype=F64)

        def probe(m):
            return [m.euler_sample(lambda x, t: moving(a, b)(x, t).to(t.dtype) + t[:, None] / 3, x0, n) for n in (3, 97)]

        agree(probe, rtol=1e-11, atol=1e-12)

    def test_no_steps(self, agree, draw):
        """Fewer than one step is a ValueError."""
        x0, (a, b) = draw.normal(5, 3), draw.normal(2)

        def probe(m):
            return [raised(ValueError, lambda n=n: m.euler_sample(moving(a, b), x0, n)) for n in (0, -1, -5)], m.euler_sample(
                moving(a, b), x0, 2
            )

        agree(probe, rtol=1e-2, atol=1e-2)


# train_ring_diffusion

RADIUS = 1.5


class RingNet(nn.Module):
    """Sees the noise in points of the plane: a small network over sines and cosines of x and t."""

    def __init__(self, T):
        super().__init__()
        s = torch.arange(1, T + 1)[:, None] / T * torch.tensor([0.5, 1.0, 2.0]) * torch.pi
        self.register_buffer("times", torch.cat((s.sin(), s.cos()), dim=1), persistent=False)  # (T, 6): t must be in 0 … T − 1
        self.layers = nn.Sequential(nn.Linear(20, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, t):
        f = (x[:, :, None] * torch.tensor([1.0, 2.0, 4.0])).flatten(1)
        return self.layers(torch.cat((x, f.sin(), f.cos(), self.times[t]), dim=1))


def cosine(T):
    """β and ᾱ of the cosine schedule."""
    f = (math.pi / 2 * (torch.arange(T + 1, dtype=F64) / T + 0.008) / 1.008).cos().square()
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return betas, (1 - betas).cumprod(0)


def start_of(draw, T):
    """Start values for a RingNet, as torch would draw them."""
    return {
        name: draw.uniform(*p.shape, low=-1, high=1) / math.sqrt(20 if name.startswith("layers.0") else 64)
        for name, p in RingNet(T).state_dict().items()
    }


def ring(draw, radius):
    """The eight centres (8, 2), turned by a random angle and moved by up to 0.4 along both axes; and the middle of the ring (2,)."""
    angles = torch.arange(8) * math.pi / 4 + draw.uniform(1, high=math.pi / 4)
    middle = draw.uniform(2, low=-0.4, high=0.4)
    return middle + radius * torch.stack((angles.cos(), angles.sin()), dim=1), middle


def points_around(draw, centres, count, deviation):
    """Points (count, 2) around centres that are drawn."""
    return centres[draw.integers(0, len(centres), count)] + deviation * draw.normal(count, 2)


def net_with(state, T):
    """The network with these weights. Asserts that they have its names, shapes and dtypes."""
    net = RingNet(T)
    want = {name: (p.shape, p.dtype) for name, p in net.state_dict().items()}
    right = isinstance(state, dict) and {name: (getattr(x, "shape", 0), getattr(x, "dtype", 0)) for name, x in state.items()} == want
    assert right, "The network must keep the names, shapes and dtypes of its weights."
    assert all(x.isfinite().all() for x in state.values()), "The weights must be finite."
    net.load_state_dict(state)
    return net


def sampled(net, betas, alpha_bars, count, generator):
    """Points (count, 2) that are drawn with DDPM's steps."""
    x = torch.randn(count, 2, generator=generator)
    with torch.no_grad():
        for t in reversed(range(len(betas))):
            beta, now, before = betas[t].item(), alpha_bars[t].item(), alpha_bars[t - 1].item() if t else 1.0
            x = (x - beta / math.sqrt(1 - now) * net(x, torch.full((count,), t))) / math.sqrt(1 - beta)
            x = x + math.sqrt((1 - before) / (1 - now) * beta) * torch.randn(count, 2, generator=generator)
    return x


def noise_loss(net, data, alpha_bars, draw):
    """The mean squared error of the prediction for fresh noise."""
    x0, noise, t = data[draw.integers(0, len(data), 4000)], draw.normal(4000, 2), draw.integers(0, len(alpha_bars), 4000)
    a = alpha_bars[t, None].float()
    with torch.no_grad():
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise).item()


def trained(m, start, T, data, alpha_bars, seed, **settings):
    """The weights after training from the given ones."""
    net = RingNet(T)
    net.load_state_dict(start)
    m.train_ring_diffusion(net, data, alpha_bars, generator=torch.Generator().manual_seed(seed), **settings)
    return {name: p.detach().clone() for name, p in net.state_dict().items()}


@task("train_ring_diffusion")
class TestTrainRingDiffusion:
    def test_draws_the_ring(self, student, draw):
        """Of 1,000 points that are drawn from the network, 75 % are near a centre; each centre has its share; the noise is seen well."""
        (betas, ab), start, seed = cosine(40), start_of(draw, 40), draw.seed()
        centres, middle = ring(draw, RADIUS)
        data = points_around(draw, centres, 2000, 0.05 * RADIUS)
        net = net_with(student(lambda m: trained(m, start, 40, data, ab, seed), like=None), 40)
        loss = noise_loss(net, data, ab, draw)
        assert loss <= 0.42, f"For fresh noise and steps, the mean squared error is {loss:.2f}; at most 0.42 is asked for."
        points = sampled(net, betas, ab, 1000, torch.Generator().manual_seed(draw.seed()))
        distance, nearest = torch.cdist(points, centres).min(1)
        close, off = distance <= RADIUS / 4, ((points - middle).norm(dim=1) / RADIUS - 1).abs().mean().item()
        assert close.double().mean() >= 0.75, (
            f"Of the points that are drawn, {close.double().mean():.0%} are within R / 4 of a centre; at least 75 % are asked for. "
            f"On average, their distance from the middle is off by {off:.2f} R."
        )
        least = torch.bincount(nearest[close], minlength=8).min().item() / 1000
        assert least >= 0.04, f"One of the eight centres has {least:.1%} of the points near it; each should have at least 4 %."

    def test_generator_decides(self, student, draw):
        """The same generator gives the same weights whatever the global state is, another others; for a network that has begun to learn."""
        (_, ab), start, seed = cosine(23), start_of(draw, 23), draw.seed()
        data = points_around(draw, ring(draw, RADIUS)[0], 500, 0.1)

        def probe(m):
            out = []
            for state, s in (1, seed), (2, seed), (1, seed + 1):
                torch.manual_seed(state)
                out.append(trained(m, start, 23, data, ab, s, updates=25))
            return out

        first, again, other = (net_with(state, 23).state_dict() for state in student(probe, like=None))
        before, after = noise_loss(net_with(start, 23), data, ab, draw), noise_loss(net_with(first, 23), data, ab, draw)
        assert after < before - 0.15, f"25 updates take the loss from {before:.2f} to {after:.2f}: that is too little to have learnt."
        pairs = torch.stack((first["layers.2.weight"].flatten(), start["layers.2.weight"].flatten()))
        assert torch.corrcoef(pairs)[0, 1] > 0.2, "The network must be trained from the weights that it has; these come from others."
        same = all(torch.allclose(first[name], again[name], rtol=1e-3, atol=1e-4) for name in first)
        assert same, "A generator in the same state must give the same weights, whatever was drawn from global generators before."
        assert any((first[name] - other[name]).abs().max() > 1e-3 for name in first), "Another generator must give other weights."

    def test_no_updates(self, agree, draw):
        """0 updates leave the weights as they are; 1 changes them all."""
        (_, ab), start, seed = cosine(11), start_of(draw, 11), draw.seed()
        data = points_around(draw, ring(draw, RADIUS)[0], 300, 0.1)

        def probe(m):
            moved = trained(m, start, 11, data, ab, seed, updates=1)
            return trained(m, start, 11, data, ab, seed, updates=0), {name: bool((moved[name] != start[name]).any()) for name in start}

        agree(probe, rtol=1e-6, atol=0)

    @measured("modes")
    def test_mode(self, agree, draw):
        """The network learns in the mode in which it is, and is left in it; 0 updates change nothing."""
        (_, ab), start, seed = cosine(11), start_of(draw, 11), draw.seed()
        data = points_around(draw, ring(draw, RADIUS)[0], 30, 0.1)

        def probe(m):
            out = []
            for mode in (True, False):
                net = RingNet(11).train(mode)
                net.load_state_dict(start)
                m.train_ring_diffusion(net, data, ab, generator=torch.Generator().manual_seed(seed), updates=1)
                moved = {name: bool((p != start[name]).any()) for name, p in net.state_dict().items()}
                still = trained(m, start, 11, data, ab, seed, updates=0)
                out.append((moved, still) if net.training is mode else "it was left in the other mode")
            return out

        agree(probe, rtol=1e-6, atol=0)

    def test_one_point_and_one_step(self, student, draw):
        """With a schedule of one step and copies of a single point the noise can be seen almost exactly; one copy is enough of data."""
        start, seed, point = start_of(draw, 1), draw.seed(), draw.uniform(1, 2, low=2.0, high=3.0) * (1 - 2 * draw.integers(0, 2, 1, 2))
        ab = draw.uniform(1, low=0.4, high=0.6, dtype=F64)

        def probe(m):
            return [trained(m, start, 1, point.repeat(n, 1), ab, seed, updates=150) for n in (200, 1)]

        for state, copies, limit in zip(student(probe, like=None), (200, 1), (0.2, 0.5), strict=True):
            loss = noise_loss(net_with(state, 1), point, ab, draw)
            assert loss <= limit, f"With {copies} copies of one point, and one step, the loss is {loss:.2f}, and {limit} is allowed."
