"""A submission with all tasks of generative solved, in another style than the reference's."""

import math

import torch
from torch import nn
from torch.nn import functional as F


def negative_elbo(decode, x, mean, logvar, noise, *, beta=1.0):
    """Sum each sample's terms, then average."""
    logits = decode(mean + noise * torch.exp(0.5 * logvar))
    reconstruction = (F.softplus(logits) - x * logits).sum(dim=1)
    kl = -0.5 * (1 + logvar - mean**2 - torch.exp(logvar)).sum(dim=1)
    return (reconstruction + beta * kl).mean()


class VectorQuantizer(nn.Module):
    """Look codes up by differences, and follow with index_add."""

    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__()
        self.commitment = commitment
        self.decay = decay
        self.register_buffer("codebook", codes.detach().clone())
        self.register_buffer("counts", torch.ones(codes.shape[0], dtype=codes.dtype))
        self.register_buffer("sums", codes.detach().clone())

    def forward(self, z):
        """Quantize, and learn in train mode."""
        distances = (z.detach().unsqueeze(-2) - self.codebook).pow(2).sum(-1)
        indices = distances.argmin(-1)
        codes = F.embedding(indices, self.codebook).clone()
        loss = self.commitment * F.mse_loss(z, codes)
        if self.training:
            self.follow(z.detach().reshape(-1, z.shape[-1]), indices.reshape(-1))
        return z + (codes - z).detach(), indices, loss

    @torch.no_grad()
    def follow(self, vectors, indices):
        """Move the averages, and the codes that have any weight."""
        n = torch.bincount(indices, minlength=len(self.counts)).to(self.counts.dtype)
        s = torch.zeros_like(self.sums).index_add(0, indices, vectors)
        self.counts.copy_(self.decay * self.counts + (1 - self.decay) * n)
        self.sums.copy_(self.decay * self.sums + (1 - self.decay) * s)
        for k, count in enumerate(self.counts.tolist()):
            if count > 0:
                self.codebook[k] = self.sums[k] / count


def gan_losses(generator, discriminator, real, noise, *, kind="non_saturating"):
    """Freeze the discriminator for a moment to score the fakes for the generator."""
    if kind == "non_saturating":

        def good(scores):
            return -F.logsigmoid(scores).mean()

        def bad(scores):
            return -F.logsigmoid(-scores).mean()

    elif kind == "hinge":

        def good(scores):
            return (1 - scores).clamp(min=0).mean()

        def bad(scores):
            return (1 + scores).clamp(min=0).mean()

    else:
        raise ValueError(f"no such kind: {kind}")
    fake = generator(noise)
    d_loss = good(discriminator(real)) + bad(discriminator(fake.detach()))
    flags = [(p, p.requires_grad) for p in discriminator.parameters()]
    for p, _ in flags:
        p.requires_grad_(False)
    judged = discriminator(fake)
    for p, flag in flags:
        p.requires_grad_(flag)
    return d_loss, -judged.mean() if kind == "hinge" else good(judged)


def noise_schedule(kind, T):
    """Compute β one by one, as floats."""
    if kind not in ("linear", "cosine"):
        raise ValueError("kind is linear or cosine")
    if T < 1:
        raise ValueError("no steps")

    def f(step):
        return math.cos(math.pi / 2 * (step / T + 0.008) / 1.008) ** 2

    if kind == "linear":
        betas = [1e-4 + (0.02 - 1e-4) * t / max(T - 1, 1) for t in range(T)]
    else:
        betas = [min(0.999, 1 - f(t + 1) / f(t)) for t in range(T)]
    betas = torch.tensor(betas, dtype=torch.float64)
    return betas, torch.cumprod(1 - betas, 0)


def per_sample(values, x):
    """(B,) numbers in x's dtype, with axes of size 1 behind the first."""
    return values.to(x.dtype)[(...,) + (None,) * (x.dim() - 1)]


def add_noise(x0, noise, t, alpha_bars):
    """Roots first, then the step of each sample."""
    if t.dim() != 1 or len(t) != len(x0):
        raise ValueError("each sample needs a step")
    signal, sigma = alpha_bars**0.5, (1 - alpha_bars) ** 0.5
    return per_sample(signal[t], x0) * x0 + per_sample(sigma[t], x0) * noise


def predict_x0(x_t, output, t, alpha_bars, *, kind="noise"):
    """One formula for each kind."""
    if kind not in ("noise", "v"):
        raise ValueError("kind is noise or v")
    signal = per_sample((alpha_bars**0.5)[t], x_t)
    sigma = per_sample(((1 - alpha_bars) ** 0.5)[t], x_t)
    return signal * x_t - sigma * output if kind == "v" else (x_t - sigma * output) / signal


def ddpm_step(x, predicted, t, betas, noise, *, clip=None):
    """Coefficients as floats."""
    if t not in range(len(betas)):
        raise ValueError(f"no step {t}")
    bars = [1.0, *torch.cumprod(1 - betas, 0).tolist()]
    before, now, beta = bars[t], bars[t + 1], float(betas[t])
    x0 = (x - math.sqrt(1 - now) * predicted) / math.sqrt(now)
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    if t == 0:
        return x0
    mean = math.sqrt(before) * beta / (1 - now) * x0 + math.sqrt(1 - beta) * (1 - before) / (1 - now) * x
    return mean + math.sqrt((1 - before) / (1 - now) * beta) * noise


def ddim_step(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    """Coefficients as floats."""
    if not (0 <= t < len(alpha_bars) and -1 <= previous < t):
        raise ValueError(f"no way from {t} to {previous}")
    if noise is None and eta > 0:
        raise ValueError("noise is missing")
    now, then = float(alpha_bars[t]), 1.0 if previous == -1 else float(alpha_bars[previous])
    sigma = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    x0 = (x - math.sqrt(1 - now) * predicted) / math.sqrt(now)
    y = math.sqrt(then) * x0 + math.sqrt(max(0.0, 1 - then - sigma**2)) * predicted
    return y if sigma == 0 else y + sigma * noise


def guided_noise(model, x, t, labels, null, w):
    """Weigh the two halves."""
    none = torch.tensor(null).expand(len(labels))
    out = model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, none]))
    with_label, without = out.split(len(x))
    return w * with_label + (1 - w) * without


def drop_labels(labels, p, null, *, generator):
    """Copy, then fill."""
    if p < 0 or p > 1:
        raise ValueError("p is a probability")
    out = labels.clone()
    out[torch.rand(len(labels), generator=generator) < p] = null
    return out


def flow_matching_loss(model, x0, x1, t, *, sigma_min=0.0):
    """The path as a start and a velocity."""
    if t.shape != (x0.shape[0],):
        raise ValueError("each pair needs a time")
    velocity = x1 - (1 - sigma_min) * x0
    return F.mse_loss(model(x0 + per_sample(t, x0) * velocity, t), velocity)


def euler_sample(velocity, x0, steps):
    """Move a copy."""
    if steps < 1:
        raise ValueError("at least one step")
    x = x0.detach().clone()
    for k in range(steps):
        with torch.no_grad():
            x += velocity(x, torch.full((x.shape[0],), k / steps, dtype=x.dtype)) / steps
    return x


def train_ring_diffusion(net, data, alpha_bars, *, generator, updates=500):
    """Adam with a cosine for the learning rate."""
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    for k in range(updates):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 + math.cos(math.pi * k / updates))
        x0 = data[torch.randint(len(data), (128,), generator=generator)]
        t = torch.randint(len(alpha_bars), (128,), generator=generator)
        noise = torch.randn(x0.shape, generator=generator)
        loss = F.mse_loss(net(add_noise(x0, noise, t, alpha_bars), t), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
