"""Other correct answers to the tasks of generative: the hidden suite must accept every one."""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# negative_elbo


@alternative("negative_elbo")
def as_in_the_pytorch_examples(decode, x, mu, logvar, noise, *, beta=1.0):
    std = torch.exp(0.5 * logvar)
    logits = decode(mu + noise * std)
    bce = nn.BCEWithLogitsLoss(reduction="none")(logits, x).sum(dim=-1)
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=-1)
    return torch.mean(bce + beta * kld)


@alternative("negative_elbo")
def with_softplus_and_expm1(decode, x, mean, logvar, noise, *, beta=1.0):
    logits = decode(torch.addcmul(mean, logvar.mul(0.5).exp(), noise))
    losses = []
    for n in range(len(x)):
        reconstruction = (x[n] * F.softplus(-logits[n]) + (1 - x[n]) * F.softplus(logits[n])).sum()
        losses.append(reconstruction + beta * 0.5 * (mean[n] ** 2 + logvar[n].expm1() - logvar[n]).sum())
    return torch.stack(losses).mean()


@alternative("negative_elbo")
def with_logsigmoid_and_bernoulli(decode, x, mean, logvar, noise, *, beta=1.0):
    logits = decode(mean + (logvar / 2).exp() * noise)
    log_likelihood = (x * F.logsigmoid(logits) + (1 - x) * F.logsigmoid(-logits)).sum(1)
    sigma2 = logvar.exp()
    kl = 0.5 * (mean * mean + sigma2 - 1 - logvar).sum(1)
    return -(log_likelihood - beta * kl).mean(0)


# VectorQuantizer


@alternative("VectorQuantizer")
class AsInSonnet(nn.Module):
    """The expanded distance, one-hot encodings, buffers that are replaced."""

    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__()
        self._beta, self._gamma = commitment, decay
        self.register_buffer("codebook", codes.detach().clone())
        self.register_buffer("counts", torch.ones(codes.shape[0], dtype=codes.dtype))
        self.register_buffer("sums", codes.detach().clone())

    def forward(self, z):
        flat = z.reshape(-1, self.codebook.shape[1])
        distances = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.codebook.t() + self.codebook.pow(2).sum(1)
        indices = torch.argmin(distances, dim=1)
        encodings = torch.zeros(len(indices), len(self.codebook), dtype=z.dtype)
        encodings.scatter_(1, indices[:, None], 1)
        quantized = torch.matmul(encodings, self.codebook).view(z.shape)
        loss = self._beta * F.mse_loss(quantized.detach(), z)
        if self.training:
            with torch.no_grad():
                self.counts = self.counts * self._gamma + (1 - self._gamma) * encodings.sum(0)
                self.sums = self.sums * self._gamma + (1 - self._gamma) * torch.matmul(encodings.t(), flat)
                means = self.sums / self.counts.unsqueeze(1)
                self.codebook = torch.where(self.counts.unsqueeze(1) > 0, means, self.codebook)
        quantized = z + (quantized - z).detach()
        return quantized, indices.view(z.shape[:-1]), loss


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, e):
        return e.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@alternative("VectorQuantizer")
class WithAFunctionAndLoops(nn.Module):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__()
        self.beta, self.gamma = commitment, decay
        for name, value in (("codebook", codes.clone()), ("counts", torch.ones_like(codes[:, 0])), ("sums", codes.clone())):
            self.register_buffer(name, value)

    def forward(self, z):
        vectors = z.detach().flatten(0, -2) if z.dim() > 1 else z.detach()[None]
        distances = torch.stack([(vectors - code).norm(dim=1) for code in self.codebook], dim=1)
        indices = distances.min(dim=1).indices
        e = F.embedding(indices, self.codebook).reshape(z.shape)
        y = _Straight.apply(z, e) if z.requires_grad else e.clone()
        loss = self.beta * ((z - e) ** 2).mean()
        if self.training:
            for k in range(len(self.codebook)):
                mine = vectors[indices == k]
                self.counts[k].mul_(self.gamma).add_(len(mine) * (1 - self.gamma))
                self.sums[k].mul_(self.gamma).add_(mine.sum(0) * (1 - self.gamma))
                if self.counts[k] > 0:
                    self.codebook[k] = self.sums[k] / self.counts[k]
        return y, indices.reshape(z.shape[:-1]), loss


@alternative("VectorQuantizer")
class WithCdistAndIndexAdd(nn.Module):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__()
        self.commitment, self.decay = commitment, decay
        self.register_buffer("codebook", codes.clone(memory_format=torch.contiguous_format))
        self.register_buffer("counts", torch.ones(len(codes)).to(codes))
        self.register_buffer("sums", codes.clone(memory_format=torch.contiguous_format))

    def forward(self, z):
        flat = z.reshape(-1, z.size(-1))
        indices = torch.cdist(flat.detach(), self.codebook, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
        codes = self.codebook.index_select(0, indices).reshape_as(z)
        loss = F.mse_loss(z, codes) * self.commitment
        if self.training:
            n = torch.bincount(indices, minlength=len(self.codebook)).to(z.dtype)
            s = torch.zeros_like(self.sums).index_add_(0, indices, flat.detach())
            self.counts.lerp_(n, 1 - self.decay)
            self.sums.lerp_(s, 1 - self.decay)
            alive = self.counts > 0
            self.codebook[alive] = self.sums[alive] / self.counts[alive].unsqueeze(-1)
        return codes.detach() + z - z.detach(), indices.reshape(z.shape[:-1]), loss


# gan_losses


@alternative("gan_losses")
def with_switched_parameters(generator, discriminator, real, noise, *, kind="non_saturating"):
    if kind not in {"non_saturating", "hinge"}:
        raise ValueError(f"unknown kind {kind}")
    fake = generator(noise)
    real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
    trained = [p for p in discriminator.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        g_logits = discriminator(fake)
    finally:
        for p in trained:
            p.requires_grad_(True)
    if kind == "hinge":
        return torch.relu(1.0 - real_logits).mean() + torch.relu(1.0 + fake_logits).mean(), -g_logits.mean()
    bce = F.binary_cross_entropy_with_logits
    d_loss = bce(real_logits, torch.ones_like(real_logits)) + bce(fake_logits, torch.zeros_like(fake_logits))
    return d_loss, bce(g_logits, torch.ones_like(g_logits))


@alternative("gan_losses")
def with_a_frozen_copy(generator, discriminator, real, noise, *, kind="non_saturating"):
    frozen = copy.deepcopy(discriminator).requires_grad_(False)
    match kind:
        case "non_saturating":
            terms = (lambda s: -F.logsigmoid(s), lambda s: -F.logsigmoid(-s), lambda s: -F.logsigmoid(s))
        case "hinge":
            terms = (lambda s: (1 - s).clamp(min=0), lambda s: (1 + s).clamp(min=0), lambda s: -s)
        case _:
            raise ValueError(kind)
    with torch.no_grad():
        still = generator(noise)
    d_loss = terms[0](discriminator(real)).mean() + terms[1](discriminator(still)).mean()
    return d_loss, terms[2](frozen(generator(noise))).mean()


# noise_schedule


@alternative("noise_schedule")
def in_plain_python(kind, T):
    if T < 1 or kind not in ("linear", "cosine"):
        raise ValueError((kind, T))
    betas, bars, product = [], [], 1.0
    for t in range(T):
        if kind == "linear":
            beta = 1e-4 + (0.02 - 1e-4) * t / (T - 1) if T > 1 else 1e-4
        else:
            now = math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2
            after = math.cos(((t + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = min(1 - after / now, 0.999)
        product *= 1 - beta
        betas.append(beta)
        bars.append(product)
    return torch.tensor(betas, dtype=torch.float64), torch.tensor(bars, dtype=torch.float64)


@alternative("noise_schedule")
def as_in_guided_diffusion(kind, T):
    if T <= 0:
        raise ValueError("no steps")
    if kind == "linear":
        betas = np.linspace(0.0001, 0.02, T, dtype=np.float64)
    elif kind == "cosine":

        def alpha_bar(time):
            return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = np.array([min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999) for i in range(T)])
    else:
        raise ValueError(f"unknown beta schedule: {kind}")
    return torch.from_numpy(betas), torch.from_numpy(np.cumprod(1.0 - betas, axis=0))


@alternative("noise_schedule")
def as_in_lucidrains(kind, T):
    if kind not in ("linear", "cosine") or T < 1:
        raise ValueError
    if kind == "linear":
        betas = torch.linspace(0.0001, 0.02, T, dtype=torch.float64)
    else:
        x = torch.linspace(0, T, T + 1, dtype=torch.float64)
        bars = torch.cos(((x / T) + 0.008) / (1 + 0.008) * math.pi * 0.5) ** 2
        bars = bars / bars[0]
        betas = torch.clip(1 - (bars[1:] / bars[:-1]), 0, 0.999)
    return betas, torch.cumprod(1.0 - betas, axis=0)


# add_noise


@alternative("add_noise")
def sample_by_sample(x0, noise, t, alpha_bars):
    if tuple(t.shape) != (x0.shape[0],):
        raise ValueError("t")
    rows = [math.sqrt(a) * x + math.sqrt(1 - a) * e for x, e, a in zip(x0, noise, alpha_bars[t].tolist(), strict=True)]
    return torch.stack(rows) if rows else torch.zeros_like(x0)


@alternative("add_noise")
def as_in_diffusers(x0, noise, t, alpha_bars):
    if t.ndim != 1 or len(t) != len(x0):
        raise ValueError("timesteps")
    signal, sigma = (alpha_bars[t] ** 0.5).to(x0.dtype), ((1 - alpha_bars[t]) ** 0.5).to(x0.dtype)
    while signal.dim() < x0.dim():
        signal, sigma = signal.unsqueeze(-1), sigma.unsqueeze(-1)
    return signal * x0 + sigma * noise


@alternative("add_noise")
def with_tables_and_double(x0, noise, t, alpha_bars):
    if t.shape != x0.shape[:1]:
        raise ValueError("t")
    signal, sigma = alpha_bars.sqrt(), (1 - alpha_bars).sqrt()
    shape = (x0.shape[0],) + (1,) * (x0.dim() - 1)
    return (signal.gather(0, t).view(shape) * x0.double() + sigma.gather(0, t).view(shape) * noise.double()).to(x0.dtype)


# predict_x0


@alternative("predict_x0")
def with_reciprocal_tables(x_t, output, t, alpha_bars, *, kind="noise"):
    def extract(table):
        return table[t].to(x_t.dtype).reshape([len(t)] + [1] * (x_t.ndim - 1))

    if kind == "noise":
        return extract((1 / alpha_bars).sqrt()) * x_t - extract((1 / alpha_bars - 1).sqrt()) * output
    if kind == "v":
        return extract(alpha_bars.sqrt()) * x_t - extract((1 - alpha_bars).sqrt()) * output
    raise ValueError(kind)


@alternative("predict_x0")
def each_in_double(x_t, output, t, alpha_bars, *, kind="noise"):
    if kind not in ("noise", "v"):
        raise ValueError(kind)
    rows = []
    for x, y, a in zip(x_t.double(), output.double(), alpha_bars[t].tolist(), strict=True):
        if kind == "noise":
            rows.append((x - (1 - a) ** 0.5 * y) / a**0.5)
        else:
            rows.append(a**0.5 * x - (1 - a) ** 0.5 * y)
    return torch.stack(rows).to(x_t.dtype)


# ddpm_step


@alternative("ddpm_step")
def as_in_the_paper(x, predicted, t, betas, noise, *, clip=None):
    if t < 0 or t >= len(betas):
        raise ValueError("t")
    alphas = (1 - betas).tolist()
    bar, before = math.prod(alphas[: t + 1]), math.prod(alphas[:t])
    bar1 = 1 - bar if bar < 0.9 else -math.expm1(sum(math.log1p(-b) for b in betas[: t + 1].tolist()))
    before1 = 1 - before if before < 0.9 else -math.expm1(sum(math.log1p(-b) for b in betas[:t].tolist()))
    beta = betas[t].item()
    if clip is None and t > 0:
        mean = (x - beta / math.sqrt(bar1) * predicted) / math.sqrt(alphas[t])
        return mean + math.sqrt(before1 / bar1 * beta) * noise
    x0 = (x - math.sqrt(bar1) * predicted) / math.sqrt(bar)
    if clip is not None:
        x0 = torch.clamp(x0, min=-clip, max=clip)
    if t == 0:
        return x0
    return math.sqrt(before) * beta / bar1 * x0 + math.sqrt(alphas[t]) * before1 / bar1 * x + math.sqrt(before1 / bar1 * beta) * noise


@alternative("ddpm_step")
def as_in_guided_diffusion_step(x, predicted, t, betas, noise, *, clip=None):
    if t not in range(len(betas)):
        raise ValueError("no such step")
    b = betas.numpy().astype(np.float64)
    bars = np.cumprod(1.0 - b)
    prev = np.append(1.0, bars[:-1])
    variance = b * (1.0 - prev) / (1.0 - bars)
    coef1 = b * np.sqrt(prev) / (1.0 - bars)
    coef2 = (1.0 - prev) * np.sqrt(1.0 - b) / (1.0 - bars)
    x0 = float(np.sqrt(1.0 / bars[t])) * x - float(np.sqrt(1.0 / bars[t] - 1)) * predicted
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    mean = float(coef1[t]) * x0 + float(coef2[t]) * x
    return mean if t == 0 else mean + float(np.sqrt(variance[t])) * noise


# ddim_step


@alternative("ddim_step")
def as_in_diffusers_step(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    if previous < -1 or previous >= t or t >= len(alpha_bars):
        raise ValueError("steps")
    if eta > 0 and noise is None:
        raise ValueError("noise")
    a_t = alpha_bars[t].item()
    a_prev = alpha_bars[previous].item() if previous >= 0 else 1.0
    beta_t, beta_prev = 1 - a_t, 1 - a_prev
    original = (x - beta_t**0.5 * predicted) / a_t**0.5
    std = eta * ((beta_prev / beta_t) * (1 - a_t / a_prev)) ** 0.5
    result = a_prev**0.5 * original + max(1 - a_prev - std**2, 0.0) ** 0.5 * predicted
    if eta > 0 and previous >= 0:
        result = result + std * noise
    return result


@alternative("ddim_step")
def with_appended_levels(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    T = alpha_bars.numel()
    if not (0 <= t < T and -1 <= previous < t):
        raise ValueError((t, previous))
    if noise is None and eta != 0:
        raise ValueError("eta without noise")
    levels = torch.cat((alpha_bars, alpha_bars.new_tensor([1.0])))  # the last is at −1
    a, s = levels[t], levels[previous]
    sigma = eta * ((1 - s) / (1 - a)).sqrt() * (1 - a / s).sqrt()
    x_double, e = x.double(), predicted.double()
    y = s.sqrt() * (x_double - (1 - a).sqrt() * e) / a.sqrt() + (1 - s - sigma**2).clamp(min=0).sqrt() * e
    if sigma > 0:
        y = y + sigma * noise.double()
    return y.to(x.dtype)


# guided_noise


@alternative("guided_noise")
def with_weights(model, x, t, labels, null, w):
    twice = [torch.cat([part, part], dim=0) for part in (x, t, labels)]
    twice[2][len(labels) :] = null
    out = model(*twice)
    return w * out[: len(x)] + (1 - w) * out[len(x) :]


@alternative("guided_noise")
def as_in_glide(model, x, t, labels, null, w):
    B = x.shape[0]
    y = torch.cat((labels, torch.tensor([null] * B, dtype=torch.int64)))
    cond, uncond = torch.split(model(x.repeat(2, *[1] * (x.dim() - 1)), t.repeat(2), y), B, dim=0)
    return torch.lerp(uncond, cond, float(w))


# drop_labels


@alternative("drop_labels")
def with_where(labels, p, null, *, generator):
    if p < 0 or p > 1:
        raise ValueError("p")
    drop = torch.rand(labels.shape[0], generator=generator) < p
    return torch.where(drop, null, labels)


@alternative("drop_labels")
def one_by_one(labels, p, null, *, generator):
    if not 0.0 <= p <= 1.0:
        raise ValueError("p")
    numbers = torch.rand(labels.numel(), generator=generator)
    kept = labels.clone(memory_format=torch.contiguous_format)
    for b in range(len(kept)):
        if numbers[b] < p:
            kept[b] = null
    return kept


# flow_matching_loss


@alternative("flow_matching_loss")
def as_in_torchcfm(model, x0, x1, t, *, sigma_min=0.0):
    if t.dim() != 1 or t.shape[0] != x0.shape[0]:
        raise ValueError("t")
    time = t.view(-1, *([1] * (x0.dim() - 1))) if t.is_contiguous() else t.contiguous().view(-1, *([1] * (x0.dim() - 1)))
    xt = time * x1 + (1 - (1 - sigma_min) * time) * x0
    ut = x1 - (1 - sigma_min) * x0
    return torch.mean((model(xt, t) - ut) ** 2)


@alternative("flow_matching_loss")
def one_sample_after_another(model, x0, x1, t, *, sigma_min=0.0):
    if t.shape != torch.Size([len(x0)]):
        raise ValueError("t")
    noise = [(1 - sigma_min) * a for a in x0]
    points = torch.stack([a + s * (b - n) for a, n, b, s in zip(x0, noise, x1, t, strict=True)])
    velocities = torch.stack([b - n for n, b in zip(noise, x1, strict=True)])
    return F.mse_loss(model(points, t), velocities)


# euler_sample


@alternative("euler_sample")
@torch.no_grad()
def with_a_decorator(velocity, x0, steps):
    if steps <= 0:
        raise ValueError("steps")
    x, h = x0.clone(), 1.0 / steps
    for time in torch.linspace(0, 1, steps + 1, dtype=x.dtype)[:-1]:
        x = x + h * velocity(x, time.expand(x.shape[0]))
    return x


@alternative("euler_sample")
def without_gradients_inside(velocity, x0, steps):
    if steps < 1:
        raise ValueError(steps)
    x, k = x0.detach(), 0
    while k < steps:
        with torch.inference_mode(False), torch.no_grad():
            t = torch.ones(len(x), dtype=x.dtype) * k / steps
            x = torch.add(x, velocity(x, t).detach(), alpha=1 / steps)
        k += 1
    return x


# train_ring_diffusion


@alternative("train_ring_diffusion")
def with_epochs_and_warm_up(net, data, alpha_bars, *, generator, updates=500):
    optimizer = torch.optim.AdamW(net.parameters(), lr=2.5e-2, weight_decay=0.0, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda k: min((k + 1) / 20, 1) * (0.5 + 0.5 * math.cos(math.pi * k / max(updates, 1)))
    )
    order, at, size = torch.randperm(len(data), generator=generator), 0, min(128, len(data))
    for _ in range(updates):
        if at + size > len(order):
            order, at = torch.randperm(len(data), generator=generator), 0
        x0, at = data[order[at : at + size]], at + size
        t = torch.randint(0, len(alpha_bars), (len(x0),), generator=generator)
        eps = torch.empty_like(x0).normal_(generator=generator)
        a = alpha_bars.float()[t].unsqueeze(1)
        loss = nn.MSELoss()(net(a.sqrt() * x0 + (1 - a).sqrt() * eps, t), eps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@alternative("train_ring_diffusion")
def with_an_average_of_weights(net, data, alpha_bars, *, generator, updates=500):
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-2)
    average = [p.detach().clone() for p in net.parameters()]
    T, B = len(alpha_bars), 192
    for k in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = 2e-2 * (1 - 0.9 * k / updates)
        x0 = data[(torch.rand(B, generator=generator) * len(data)).long().clamp(max=len(data) - 1)]
        t = (torch.arange(B) + int(torch.randint(T, (), generator=generator))) % T
        noise = torch.randn(x0.shape, generator=generator)
        a = alpha_bars[t][:, None]
        x_t = (a.sqrt() * x0 + (1 - a).sqrt() * noise).float()
        optimizer.zero_grad(set_to_none=True)
        (net(x_t, t) - noise).pow(2).mean().backward()
        optimizer.step()
        with torch.no_grad():
            for kept, p in zip(average, net.parameters(), strict=True):
                kept.lerp_(p, max(1 / (k + 1), 0.03))
    with torch.no_grad():
        for kept, p in zip(average, net.parameters(), strict=True):
            p.copy_(kept)
