"""Examples for the module generative. Run one task's with `pytest tests/public -k ddpm_step`."""

import math

import pytest
import torch
from generative import (
    VectorQuantizer,
    add_noise,
    ddim_step,
    ddpm_step,
    drop_labels,
    euler_sample,
    flow_matching_loss,
    gan_losses,
    guided_noise,
    negative_elbo,
    noise_schedule,
    predict_x0,
    train_ring_diffusion,
)
from torch import nn
from torch.testing import assert_close


def test_negative_elbo_adds_up():
    """Two latent dimensions, three features: the decoder knows nothing, so each feature costs log 2."""
    x, mean, logvar = torch.tensor([[1.0, 0.0, 0.3]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, math.log(4.0)]])
    kl = (4 + 1 - 0 - 1) / 2 + (0 + 4 - math.log(4.0) - 1) / 2
    noise = torch.zeros(1, 2)
    assert_close(negative_elbo(lambda z: torch.zeros(1, 3), x, mean, logvar, noise), torch.tensor(3 * math.log(2) + kl))
    assert_close(negative_elbo(lambda z: torch.zeros(1, 3), x, mean, logvar, noise, beta=0.0), torch.tensor(3 * math.log(2)))


def test_negative_elbo_decodes_the_draw():
    """The draw is z = 1 + 3 · 2 = 7, the logit of a feature that is 1."""
    x, mean, logvar, noise = torch.ones(1, 1), torch.ones(1, 1), torch.full((1, 1), math.log(9.0)), torch.full((1, 1), 2.0)
    loss = negative_elbo(lambda z: z, x, mean, logvar, noise, beta=0.0)
    assert_close(loss, torch.tensor(math.log1p(math.exp(-7.0))))


def test_VectorQuantizer_takes_the_nearest():
    """Codes 0 and 10: 4 goes to 0, 7 to 10. The gradient goes straight through."""
    q = VectorQuantizer(torch.tensor([[0.0], [10.0]]), commitment=0.5).eval()
    z = torch.tensor([[4.0], [7.0]], requires_grad=True)
    y, indices, loss = q(z)
    assert_close(y.detach(), torch.tensor([[0.0], [10.0]]))
    assert indices.tolist() == [0, 1]
    assert_close(loss.detach(), torch.tensor(0.5 * (16 + 9) / 2))
    (2 * y).sum().backward()
    assert_close(z.grad, torch.full((2, 1), 2.0))


def test_VectorQuantizer_follows():
    """With decay 0.5, the first code gets 4 and 2: counts 0.5 + 1, sums 0 + 3. The second gets nothing, and stays."""
    q = VectorQuantizer(torch.tensor([[0.0], [10.0]]), decay=0.5)
    y, _, _ = q(torch.tensor([[4.0], [2.0]]))
    assert_close(y, torch.zeros(2, 1))
    assert_close(q.counts, torch.tensor([1.5, 0.5]))
    assert_close(q.sums, torch.tensor([[3.0], [5.0]]))
    assert_close(q.codebook, torch.tensor([[2.0], [10.0]]))


class Scale(nn.Module):
    """Multiplies by its only weight."""

    def __init__(self, w):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x):
        """One number for each sample."""
        return (self.w * x)[:, 0]


def test_gan_losses_of_both_kinds():
    """The generator makes 2 · 3 = 6 of the noise; the discriminator halves: scores 0.5 for the real sample and 3 for the fake."""
    generator, discriminator = nn.Linear(1, 1, bias=False), Scale(0.5)
    nn.init.constant_(generator.weight, 2.0)
    real, noise = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    d_loss, g_loss = gan_losses(generator, discriminator, real, noise, kind="hinge")
    assert_close((d_loss, g_loss), (torch.tensor(0.5 + 4.0), torch.tensor(-3.0)))
    d_loss, g_loss = gan_losses(generator, discriminator, real, noise)
    d_want = math.log1p(math.exp(-0.5)) + math.log1p(math.exp(3.0))
    assert_close((d_loss, g_loss), (torch.tensor(d_want), torch.tensor(math.log1p(math.exp(-3.0)))))


def test_gan_losses_train_one_each():
    """Each loss gives gradients to one of the two."""
    generator, discriminator = nn.Linear(1, 1), Scale(0.5)
    d_loss, g_loss = gan_losses(generator, discriminator, torch.ones(1, 1), torch.ones(1, 1))
    d_loss.backward()
    assert generator.weight.grad is None
    before = discriminator.w.grad.clone()
    g_loss.backward()
    assert generator.weight.grad is not None
    assert_close(discriminator.w.grad, before)


def test_noise_schedule_in_equal_steps():
    """Three steps: 0.0001, 0.01005 and 0.02."""
    betas, alpha_bars = noise_schedule("linear", 3)
    assert_close(betas, torch.tensor([0.0001, 0.01005, 0.02], dtype=torch.float64))
    assert_close(alpha_bars, torch.tensor([0.9999, 0.9999 * 0.98995, 0.9999 * 0.98995 * 0.98], dtype=torch.float64))


def test_noise_schedule_of_a_cosine():
    """Two steps: the first from f(0) and f(1), the second is limited."""

    def f(u):
        return math.cos(math.pi / 2 * (u / 2 + 0.008) / 1.008) ** 2

    betas, alpha_bars = noise_schedule("cosine", 2)
    first = 1 - f(1) / f(0)
    assert_close(betas, torch.tensor([first, 0.999], dtype=torch.float64))
    assert_close(alpha_bars, torch.tensor([1 - first, (1 - first) * 0.001], dtype=torch.float64))


def test_add_noise_mixes():
    """ᾱ = 0.64 keeps 0.8 of the sample and adds 0.6 of the noise; ᾱ = 0.36 the other way round."""
    alpha_bars = torch.tensor([0.64, 0.36], dtype=torch.float64)
    x_t = add_noise(torch.full((2, 1, 2), 10.0), torch.ones(2, 1, 2), torch.tensor([1, 0]), alpha_bars)
    assert_close(x_t, torch.tensor([[[6.8, 6.8]], [[8.6, 8.6]]]))


def test_add_noise_needs_a_step_for_each():
    """One t for two samples is refused."""
    with pytest.raises(ValueError):
        add_noise(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0]), torch.tensor([0.64], dtype=torch.float64))


def test_predict_x0_from_both():
    """x_0 = 10 and ε = 1 at ᾱ = 0.64: x_t is 8.6, and v is 0.8 − 6 = −5.2."""
    alpha_bars, t = torch.tensor([0.64], dtype=torch.float64), torch.tensor([0])
    x_t = torch.tensor([[8.6]])
    assert_close(predict_x0(x_t, torch.tensor([[1.0]]), t, alpha_bars), torch.tensor([[10.0]]))
    assert_close(predict_x0(x_t, torch.tensor([[-5.2]]), t, alpha_bars, kind="v"), torch.tensor([[10.0]]))


def test_ddpm_step_goes_back():
    """β = 0.36 and 0.5: ᾱ is 0.64 and 0.32."""
    betas = torch.tensor([0.36, 0.5], dtype=torch.float64)
    x, predicted, z = torch.tensor([2.0]), torch.tensor([0.5]), torch.tensor([1.0])
    x0 = (2 - math.sqrt(0.68) * 0.5) / math.sqrt(0.32)
    mean = 0.8 * 0.5 / 0.68 * x0 + math.sqrt(0.5) * 0.36 / 0.68 * 2
    assert_close(ddpm_step(x, predicted, 1, betas, z), torch.tensor([mean + math.sqrt(0.36 / 0.68 * 0.5)]))


def test_ddpm_step_ends_without_noise():
    """At t = 0 the clean sample comes out: (2 − 0.6 · 0.5) / 0.8, or what the clip leaves of it."""
    betas, x, predicted = torch.tensor([0.36], dtype=torch.float64), torch.tensor([2.0]), torch.tensor([0.5])
    nan = torch.tensor([math.nan])
    assert_close(ddpm_step(x, predicted, 0, betas, nan), torch.tensor([2.125]))
    assert_close(ddpm_step(x, predicted, 0, betas, nan, clip=1.0), torch.tensor([1.0]))


def test_ddim_step_jumps():
    """From ᾱ = 0.36 to ᾱ = 0.64: x̂_0 is (3.4 − 0.8) / 0.6, and the noise keeps its direction."""
    alpha_bars = torch.tensor([0.64, 0.5, 0.36], dtype=torch.float64)
    x, predicted, x0 = torch.tensor([3.4]), torch.tensor([1.0]), 2.6 / 0.6
    assert_close(ddim_step(x, predicted, 2, 0, alpha_bars), torch.tensor([0.8 * x0 + 0.6]))
    assert_close(ddim_step(x, predicted, 2, -1, alpha_bars), torch.tensor([x0]))


def test_ddim_step_with_noise():
    """η = 1: σ² = 0.36 / 0.64 · (1 − 0.36 / 0.64)."""
    alpha_bars = torch.tensor([0.64, 0.36], dtype=torch.float64)
    variance = 0.36 / 0.64 * (1 - 0.36 / 0.64)
    y = ddim_step(torch.tensor([3.4]), torch.tensor([1.0]), 1, 0, alpha_bars, eta=1.0, noise=torch.tensor([2.0]))
    assert_close(y, torch.tensor([0.8 * 2.6 / 0.6 + math.sqrt(0.36 - variance) + 2 * math.sqrt(variance)]))


def test_guided_noise_goes_beyond():
    """The model says its label: 5 with it, 1 without."""

    def model(x, t, labels):
        assert len(x) == len(t) == len(labels) == 2
        return labels[:, None] + 0.0 * x

    x, t, labels = torch.zeros(1, 1), torch.tensor([3]), torch.tensor([5])
    assert [guided_noise(model, x, t, labels, 1, w).item() for w in (0.0, 1.0, 2.0)] == [1.0, 5.0, 9.0]


def test_drop_labels_compares_with_the_numbers():
    """The labels whose number is below 0.5 become 10."""
    u = torch.rand(6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    dropped = drop_labels(labels, 0.5, 10, generator=torch.Generator().manual_seed(0))
    assert dropped.tolist() == [10 if number < 0.5 else label for label, number in enumerate(u.tolist())]
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]


def test_flow_matching_loss_of_a_straight_path():
    """From 1 to 5: at t = 0.25 the path is at 2, its velocity is 4. A model that says x is off by 2."""
    x0, x1, t = torch.tensor([[1.0]]), torch.tensor([[5.0]]), torch.tensor([0.25])
    assert_close(flow_matching_loss(lambda x, t: x, x0, x1, t), torch.tensor(4.0))
    assert_close(flow_matching_loss(lambda x, t: torch.full((1, 1), 4.5), x0, x1, t, sigma_min=0.5), torch.tensor(0.0))


def test_euler_sample_takes_steps():
    """A number doubles in a step of 1, and grows by a half in each of two."""
    x0 = torch.tensor([[3.0]])
    assert_close(euler_sample(lambda x, t: x, x0, 1), torch.tensor([[6.0]]))
    assert_close(euler_sample(lambda x, t: x, x0, 2), torch.tensor([[6.75]]))


def test_euler_sample_asks_at_the_beginning():
    """Four steps ask at 0, 0.25, 0.5 and 0.75."""
    assert_close(euler_sample(lambda x, t: t[:, None], torch.zeros(2, 1), 4), torch.full((2, 1), 0.375))


class Net(nn.Module):
    """Sees the noise in points of the plane, knowing how large it is."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(self, x, t):
        """The noise, (B, 2)."""
        return self.layers(torch.cat((x, t[:, None] / 10), dim=1))


def test_train_ring_diffusion_learns():
    """Two centres are easy: the loss falls far below 1, which is that of a network that says 0."""
    torch.manual_seed(0)
    net, alpha_bars = Net(), torch.linspace(0.95, 0.05, 10, dtype=torch.float64)
    data = torch.tensor([[2.0, 0.0], [-2.0, 0.0]]).repeat(100, 1)
    train_ring_diffusion(net, data, alpha_bars, generator=torch.Generator().manual_seed(0), updates=300)
    noise, t = torch.randn(1000, 2), torch.randint(10, (1000,))
    a = alpha_bars[t, None].float()
    with torch.no_grad():
        loss = (net(a.sqrt() * data.repeat(5, 1) + (1 - a).sqrt() * noise, t) - noise).square().mean()
    assert loss < 0.3
