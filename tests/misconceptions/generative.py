"""Named wrong answers to the tasks of generative: the hidden suite must reject every one."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import misconception
from solutions.generative import VectorQuantizer as ReferenceQuantizer
from solutions.generative import add_noise as reference_add_noise
from solutions.generative import ddim_step as reference_ddim_step
from solutions.generative import ddpm_step as reference_ddpm_step
from solutions.generative import euler_sample as reference_euler
from solutions.generative import flow_matching_loss as reference_flow
from solutions.generative import gan_losses as reference_gan_losses
from solutions.generative import guided_noise as reference_guided
from solutions.generative import negative_elbo as reference_elbo
from solutions.generative import noise_schedule as reference_schedule
from solutions.generative import predict_x0 as reference_predict_x0
from solutions.generative import train_ring_diffusion as reference_train


def _column(a, x):
    return a.reshape(-1, *[1] * (x.dim() - 1))


# negative_elbo


def _elbo(decode, x, mean, logvar, noise, beta, *, deviation=None, reconstruct=None, kl=None, join=None):
    """The loss with one part replaced."""
    z = mean + ((logvar / 2).exp() if deviation is None else deviation(logvar)) * noise
    per_feature = F.binary_cross_entropy_with_logits(decode(z), x, reduction="none") if reconstruct is None else reconstruct(decode(z), x)
    per_latent = 0.5 * (mean**2 + logvar.exp() - logvar - 1) if kl is None else kl(mean, logvar)
    if join is None:
        return (per_feature.sum() + beta * per_latent.sum()) / len(x)
    return join(per_feature, per_latent)


@misconception("negative_elbo", "Averages the KL over the latent dimensions: it is summed over them.")
def averages_the_kl(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(decode, x, mean, logvar, noise, beta, join=lambda r, k: r.sum(1).mean() + beta * k.mean())


@misconception("negative_elbo", "Averages the cross-entropy over the features, as torch does if nothing is said: it is summed over them.")
def averages_the_features(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(decode, x, mean, logvar, noise, beta, join=lambda r, k: r.mean() + beta * k.sum(1).mean())


@misconception("negative_elbo", "Sums over the batch: the loss is the mean over it.")
def sums_over_the_batch(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(decode, x, mean, logvar, noise, beta, join=lambda r, k: r.sum() + beta * k.sum())


@misconception("negative_elbo", "Takes logvar for the logarithm of the deviation: half of it is.")
def takes_logvar_for_the_deviation(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(decode, x, mean, logvar, noise, beta, deviation=torch.exp)


@misconception("negative_elbo", "Takes the root of exp(logvar): for a small logvar that is 0, and its slope is NaN.")
def root_of_the_variance(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(decode, x, mean, logvar, noise, beta, deviation=lambda v: v.exp().sqrt())


@misconception("negative_elbo", "Takes the logarithm of the rounded variance: it is −inf where exp(logvar) is 0.")
def logarithm_of_the_variance(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(decode, x, mean, logvar, noise, beta, kl=lambda m, v: 0.5 * (m**2 + v.exp() - v.exp().log() - 1))


@misconception("negative_elbo", "Clamps logvar, which changes the loss of a small or large one.")
def clamps_logvar(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(decode, x, mean, logvar.clamp(-30, 20), noise, beta=beta)


@misconception("negative_elbo", "Takes the logarithm of the rounded probability: it is −inf for a large logit.")
def logarithm_of_the_probability(decode, x, mean, logvar, noise, *, beta=1.0):
    def cross_entropy(logits, x):
        p = logits.sigmoid()
        return -(x * p.log() + (1 - x) * (1 - p).log())

    return _elbo(decode, x, mean, logvar, noise, beta, reconstruct=cross_entropy)


@misconception("negative_elbo", "Computes torch's binary_cross_entropy of the sigmoid, which cuts logarithms at −100.")
def cross_entropy_of_the_sigmoid(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(
        decode, x, mean, logvar, noise, beta, reconstruct=lambda logits, x: F.binary_cross_entropy(logits.sigmoid(), x, reduction="none")
    )


@misconception("negative_elbo", "Returns the bound itself: the loss is its negative.")
def returns_the_bound(decode, x, mean, logvar, noise, *, beta=1.0):
    return -reference_elbo(decode, x, mean, logvar, noise, beta=beta)


@misconception("negative_elbo", "Subtracts the KL from the reconstruction: in a loss both are added.")
def subtracts_the_kl(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(decode, x, mean, logvar, noise, beta=-beta)


@misconception("negative_elbo", "Forgets the ½ of the KL.")
def forgets_the_half(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(decode, x, mean, logvar, noise, beta=2 * beta)


@misconception("negative_elbo", "Takes `beta or 1`: a β of 0 leaves the KL out.")
def zero_beta_is_one(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(decode, x, mean, logvar, noise, beta=beta or 1.0)


@misconception("negative_elbo", "Weighs the reconstruction with β, too.")
def beta_weighs_all(decode, x, mean, logvar, noise, *, beta=1.0):
    return beta * reference_elbo(decode, x, mean, logvar, noise)


@misconception("negative_elbo", "Draws noise of its own: the noise is an argument.")
def draws_its_own_noise(decode, x, mean, logvar, noise, *, beta=1.0):
    state = torch.get_rng_state()
    noise = torch.randn_like(mean)
    torch.set_rng_state(state)
    return reference_elbo(decode, x, mean, logvar, noise, beta=beta)


@misconception("negative_elbo", "Decodes the mean: the noise never reaches the decoder.")
def decodes_the_mean(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(decode, x, mean, logvar, torch.zeros_like(noise), beta=beta)


@misconception("negative_elbo", "Draws without a graph: the encoder learns nothing from the reconstruction.")
def draws_without_a_graph(decode, x, mean, logvar, noise, *, beta=1.0):
    z = (mean + (logvar / 2).exp() * noise).detach()
    kl = 0.5 * (mean**2 + logvar.exp() - logvar - 1).sum()
    return (F.binary_cross_entropy_with_logits(decode(z), x, reduction="sum") + beta * kl) / len(x)


@misconception("negative_elbo", "Takes the squared error: the decoder gives logits of x.")
def squared_error(decode, x, mean, logvar, noise, *, beta=1.0):
    return _elbo(decode, x, mean, logvar, noise, beta, reconstruct=lambda logits, x: (logits.sigmoid() - x) ** 2)


@misconception("negative_elbo", "Rounds x to 0 or 1: numbers between them count as they are.")
def rounds_the_pixels(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(decode, (x > 0.5).to(x.dtype), mean, logvar, noise, beta=beta)


@misconception("negative_elbo", "Cuts logits at ±100: the loss and the slope of larger ones are lost.")
def cuts_the_logits(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(lambda z: decode(z).clamp(-100, 100), x, mean, logvar, noise, beta=beta)


@misconception("negative_elbo", "Computes in float32: float64 loses half of its digits.")
def elbo_in_single_precision(decode, x, mean, logvar, noise, *, beta=1.0):
    return reference_elbo(lambda z: decode(z.to(x.dtype)).float(), x.float(), mean.float(), logvar.float(), noise.float(), beta=beta).to(
        x.dtype
    )


# VectorQuantizer


@misconception("VectorQuantizer", "Takes the code of the largest product: long codes win, near ones don't.")
class LargestProduct(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, indices=(z.reshape(-1, z.shape[-1]) @ self.codebook.T).argmax(1))


def _quantize(q, z, *, indices=None, through=None, loss=None, update=None, shape=None):
    """The reference's forward with one part replaced."""
    rows = z.reshape(-1, z.shape[-1])
    if indices is None:
        indices = (rows.detach()[:, None] - q.codebook).square().sum(2).argmin(1)
    e = q.codebook[indices].reshape(z.shape)
    the_loss = q.commitment * (z - e).square().mean() if loss is None else loss(z, e)
    if q.training:
        with torch.no_grad():
            hits = F.one_hot(indices, len(q.codebook)).to(rows.dtype)
            (_ema if update is None else update)(q, rows.detach(), hits)
    y = z + (e - z).detach() if through is None else through(z, e)
    return y, indices.reshape(z.shape[:-1]) if shape is None else shape(indices), the_loss


def _ema(q, rows, hits):
    q.counts.copy_(q.decay * q.counts + (1 - q.decay) * hits.sum(0))
    q.sums.copy_(q.decay * q.sums + (1 - q.decay) * hits.T @ rows)
    q.codebook.copy_(torch.where(q.counts[:, None] > 0, q.sums / q.counts[:, None], q.codebook))


@misconception("VectorQuantizer", "Returns the codes themselves: no gradient reaches z.")
class NoStraightThrough(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, through=lambda z, e: e + 0.0 * z)


@misconception("VectorQuantizer", "Detaches z in the commitment loss: then it moves nothing, for the codes are no parameters.")
class DetachesTheWrongSide(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, loss=lambda z, e: self.commitment * (z.detach() - e).square().mean() + 0.0 * z.sum())


@misconception("VectorQuantizer", "Adds the codebook's term to the loss, with weight 1: here the codes follow by averages.")
class AddsTheCodebookTerm(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, loss=lambda z, e: self.commitment * F.mse_loss(z, e) + F.mse_loss(z.detach(), e))


@misconception("VectorQuantizer", "Sums over the dimensions: the loss is the mean over all entries.")
class SumsOverDimensions(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, loss=lambda z, e: self.commitment * (z - e).square().sum(-1).mean())


@misconception("VectorQuantizer", "Forgets the weight of the loss.")
class ForgetsTheCommitment(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, loss=F.mse_loss)


@misconception("VectorQuantizer", "Lets the loss's gradient through the straight-through part as well: codes minus z are a constant there.")
class LossGradientTwice(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, through=lambda z, e: z + (e - z).detach() + (z - z.detach()))


@misconception("VectorQuantizer", "Averages the codes themselves, whatever their counts: e ← γ e + (1 − γ) mean.")
class AveragesMeans(ReferenceQuantizer):
    def forward(self, z):
        def update(q, rows, hits):
            n = hits.sum(0)
            means = torch.where(n[:, None] > 0, hits.T @ rows / n.clamp(min=1)[:, None], q.codebook)
            q.counts.copy_(q.decay * q.counts + (1 - q.decay) * n)
            q.sums.copy_(q.decay * q.sums + (1 - q.decay) * hits.T @ rows)
            q.codebook.copy_(q.decay * q.codebook + (1 - q.decay) * means)

        return _quantize(self, z, update=update)


@misconception("VectorQuantizer", "Exchanges γ and 1 − γ: the old averages hardly count.")
class DecayAndRest(ReferenceQuantizer):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__(codes, commitment=commitment, decay=1 - decay)


@misconception("VectorQuantizer", "Updates in eval mode, too.")
class UpdatesInEval(ReferenceQuantizer):
    def forward(self, z):
        training = self.training
        self.training = True
        try:
            return super().forward(z)
        finally:
            self.training = training


@misconception("VectorQuantizer", "Updates before it looks up: results and loss have the new codes.")
class UpdatesFirst(ReferenceQuantizer):
    def forward(self, z):
        rows = z.detach().reshape(-1, z.shape[-1])
        indices = (rows[:, None] - self.codebook).square().sum(2).argmin(1)
        if self.training:
            _ema(self, rows, F.one_hot(indices, len(self.codebook)).to(rows.dtype))
        e = self.codebook[indices].reshape(z.shape)
        return z + (e - z).detach(), indices.reshape(z.shape[:-1]), self.commitment * (z - e).square().mean()


@misconception("VectorQuantizer", "Divides by counts of 0: with a decay of 0, a code without vectors becomes NaN.")
class DividesByZero(ReferenceQuantizer):
    def forward(self, z):
        def update(q, rows, hits):
            _ema(q, rows, hits)
            q.codebook.copy_(q.sums / q.counts[:, None])

        return _quantize(self, z, update=update)


@misconception("VectorQuantizer", "Moves unused codes to 0 instead of leaving them.")
class UnusedCodesVanish(ReferenceQuantizer):
    def forward(self, z):
        def update(q, rows, hits):
            _ema(q, rows, hits)
            q.codebook.copy_(q.sums / q.counts.clamp(min=1e-5)[:, None])

        return _quantize(self, z, update=update)


@misconception("VectorQuantizer", "Keeps the averages in plain attributes: they are not in the state_dict, and loading forgets them.")
class PlainAttributes(nn.Module):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__()
        self.register_buffer("codebook", codes.clone())
        self.counts, self.sums = torch.ones(len(codes)).to(codes), codes.clone()
        self.commitment, self.decay = commitment, decay

    def forward(self, z):
        return _quantize(self, z)


@misconception("VectorQuantizer", "Makes the codes a parameter: an optimizer would move them, too.")
class CodesAreParameters(nn.Module):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__()
        self.codebook = nn.Parameter(codes.clone())
        self.register_buffer("counts", torch.ones(len(codes)).to(codes))
        self.register_buffer("sums", codes.clone())
        self.commitment, self.decay = commitment, decay

    def forward(self, z):
        return _quantize(self, z)


@misconception("VectorQuantizer", "Keeps the given tensor: its updates change the caller's codes.")
class KeepsTheCallersCodes(ReferenceQuantizer):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__(codes, commitment=commitment, decay=decay)
        self.codebook = codes


@misconception("VectorQuantizer", "Keeps the lengths of the codes from before: after loading, they belong to other codes.")
class KeepsOldLengths(ReferenceQuantizer):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__(codes, commitment=commitment, decay=decay)
        self._lengths = codes.square().sum(1)

    def forward(self, z):
        rows = z.detach().reshape(-1, z.shape[-1])
        out = _quantize(self, z, indices=(self._lengths - 2 * rows @ self.codebook.T).argmin(1))
        if self.training:
            self._lengths = self.codebook.square().sum(1)
        return out


@misconception("VectorQuantizer", "Leaves counts out of the state_dict: persistent=False is for what can be computed again.")
class CountsAreNotSaved(ReferenceQuantizer):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__(codes, commitment=commitment, decay=decay)
        self.register_buffer("counts", codes.new_ones(len(codes)), persistent=False)


@misconception("VectorQuantizer", "Starts counts at 0: the first codes then weigh nothing.")
class CountsStartAtZero(ReferenceQuantizer):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__(codes, commitment=commitment, decay=decay)
        self.counts.zero_()


@misconception("VectorQuantizer", "Flattens with view, which works for tensors without gaps only.")
class FlattensWithView(ReferenceQuantizer):
    def forward(self, z):
        z.view(-1, z.shape[-1])
        return super().forward(z)


@misconception("VectorQuantizer", "Returns a flat list of indices: they have z's axes but the last.")
class FlatIndices(ReferenceQuantizer):
    def forward(self, z):
        return _quantize(self, z, shape=lambda indices: indices)


@misconception("VectorQuantizer", "Looks at channels first: the last axis holds the vectors.")
class ChannelsFirst(ReferenceQuantizer):
    def forward(self, z):
        if z.dim() < 3:
            return super().forward(z)
        y, indices, loss = super().forward(z.transpose(1, -1).reshape(z.shape))
        return y.reshape(z.transpose(1, -1).shape).transpose(1, -1), indices, loss


@misconception("VectorQuantizer", "Takes `commitment or 0.25`: a commitment of 0 is 0.")
class ZeroCommitment(ReferenceQuantizer):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__(codes, commitment=commitment or 0.25, decay=decay)


@misconception("VectorQuantizer", "Takes `decay or 0.99`: a decay of 0 is 0.")
class ZeroDecay(ReferenceQuantizer):
    def __init__(self, codes, *, commitment=0.25, decay=0.99):
        super().__init__(codes, commitment=commitment, decay=decay or 0.99)


# gan_losses


def _softplus_losses(on_real, on_fake, judged):
    return F.softplus(-on_real).mean() + F.softplus(on_fake).mean(), F.softplus(-judged).mean()


def _hinge_losses(on_real, on_fake, judged):
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean(), -judged.mean()


def _gan(generator, discriminator, real, noise, kind, *, soft=_softplus_losses, hinge=_hinge_losses):
    """The losses with the formulas replaced."""
    if kind not in ("non_saturating", "hinge"):
        raise ValueError(kind)
    fake = generator(noise)
    frozen = {name: p.detach() for name, p in discriminator.named_parameters()}
    scores = discriminator(real), discriminator(fake.detach()), torch.func.functional_call(discriminator, frozen, (fake,))
    return (hinge if kind == "hinge" else soft)(*scores)


@misconception("gan_losses", "Forgets to cut the graph at the fakes: the discriminator's loss teaches the generator, too.")
def forgets_to_detach_the_fakes(generator, discriminator, real, noise, *, kind="non_saturating"):
    _, g_loss = reference_gan_losses(generator, discriminator, real, noise, kind=kind)
    on_real, on_fake = discriminator(real), discriminator(generator(noise))
    return (_hinge_losses if kind == "hinge" else _softplus_losses)(on_real, on_fake, on_fake)[0], g_loss


@misconception("gan_losses", "Lets the generator's loss give gradients to the discriminator as well.")
def generator_teaches_the_discriminator(generator, discriminator, real, noise, *, kind="non_saturating"):
    d_loss, _ = reference_gan_losses(generator, discriminator, real, noise, kind=kind)
    judged = discriminator(generator(noise))
    return d_loss, -judged.mean() if kind == "hinge" else F.softplus(-judged).mean()


@misconception("gan_losses", "Detaches the fakes for both losses: the generator never learns.")
def detaches_for_both(generator, discriminator, real, noise, *, kind="non_saturating"):
    def frozen(x):
        return generator(x).detach()

    if kind not in ("non_saturating", "hinge"):
        raise ValueError(kind)
    d_loss, g_loss = reference_gan_losses(frozen, discriminator, real, noise, kind=kind)
    return d_loss, g_loss + 0.0 * sum(p.sum() for p in generator.parameters())


@misconception("gan_losses", "Freezes the discriminator's parameters and leaves them frozen.")
def leaves_the_discriminator_frozen(generator, discriminator, real, noise, *, kind="non_saturating"):
    losses = reference_gan_losses(generator, discriminator, real, noise, kind=kind)
    discriminator.requires_grad_(False)
    return losses


@misconception("gan_losses", "Switches all the discriminator's parameters on afterwards, those too that were frozen.")
def thaws_all_parameters(generator, discriminator, real, noise, *, kind="non_saturating"):
    losses = reference_gan_losses(generator, discriminator, real, noise, kind=kind)
    discriminator.requires_grad_(True)
    return losses


@misconception("gan_losses", "Minimises log(1 − σ(D(fake))) for the generator: that is the saturating loss.")
def saturating_generator(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        return F.softplus(-on_real).mean() + F.softplus(on_fake).mean(), -F.softplus(judged).mean()

    return _gan(generator, discriminator, real, noise, kind, soft=losses)


@misconception("gan_losses", "Exchanges the labels: the discriminator is to call real samples fake.")
def exchanges_the_labels(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        return F.softplus(on_real).mean() + F.softplus(-on_fake).mean(), F.softplus(-judged).mean()

    return _gan(generator, discriminator, real, noise, kind, soft=losses)


@misconception("gan_losses", "Halves the discriminator's loss: the two means are added.")
def halves_the_loss(generator, discriminator, real, noise, *, kind="non_saturating"):
    d_loss, g_loss = reference_gan_losses(generator, discriminator, real, noise, kind=kind)
    return d_loss / 2, g_loss


@misconception("gan_losses", "Averages over real samples and fakes together: each has a mean of its own.")
def averages_over_both(generator, discriminator, real, noise, *, kind="non_saturating"):
    def soft(on_real, on_fake, judged):
        return 2 * torch.cat((F.softplus(-on_real), F.softplus(on_fake))).mean(), F.softplus(-judged).mean()

    def hinge(on_real, on_fake, judged):
        return 2 * torch.cat((F.relu(1 - on_real), F.relu(1 + on_fake))).mean(), -judged.mean()

    return _gan(generator, discriminator, real, noise, kind, soft=soft, hinge=hinge)


@misconception("gan_losses", "Takes the logarithm of a sigmoid: for large scores it is −inf.")
def logarithm_of_a_sigmoid(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        return -on_real.sigmoid().log().mean() - (1 - on_fake.sigmoid()).log().mean(), -judged.sigmoid().log().mean()

    return _gan(generator, discriminator, real, noise, kind, soft=losses)


@misconception("gan_losses", "Adds 1e-8 in the logarithm: that cuts the loss of large scores, and their gradient vanishes.")
def epsilon_in_the_logarithm(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        real_term, fake_term = (on_real.sigmoid() + 1e-8).log().mean(), (1 - on_fake.sigmoid() + 1e-8).log().mean()
        return -real_term - fake_term, -(judged.sigmoid() + 1e-8).log().mean()

    return _gan(generator, discriminator, real, noise, kind, soft=losses)


@misconception("gan_losses", "Computes BCELoss of a sigmoid, which cuts logarithms at −100.")
def cross_entropy_of_a_sigmoid(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        bce, ones = nn.BCELoss(), torch.ones_like
        zero = torch.zeros_like(on_fake)
        return bce(on_real.sigmoid(), ones(on_real)) + bce(on_fake.sigmoid(), zero), bce(judged.sigmoid(), ones(judged))

    return _gan(generator, discriminator, real, noise, kind, soft=losses)


@misconception("gan_losses", "Has no margin in the hinge: max(0, −D(real)) is 0 as soon as the sign is right.")
def hinge_without_margin(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        return F.relu(-on_real).mean() + F.relu(on_fake).mean(), -judged.mean()

    return _gan(generator, discriminator, real, noise, kind, hinge=losses)


@misconception("gan_losses", "Puts the generator's score through a hinge as well: it is the plain mean.")
def hinge_for_the_generator(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean(), F.relu(1 - judged).mean()

    return _gan(generator, discriminator, real, noise, kind, hinge=losses)


@misconception("gan_losses", "Computes Wasserstein's critic instead of a hinge: the margins are missing.")
def wasserstein(generator, discriminator, real, noise, *, kind="non_saturating"):
    def losses(on_real, on_fake, judged):
        return on_fake.mean() - on_real.mean(), -judged.mean()

    return _gan(generator, discriminator, real, noise, kind, hinge=losses)


@misconception("gan_losses", "Takes every kind but hinge for the usual one, instead of refusing it.")
def any_kind(generator, discriminator, real, noise, *, kind="non_saturating"):
    return reference_gan_losses(generator, discriminator, real, noise, kind="hinge" if kind == "hinge" else "non_saturating")


@misconception("gan_losses", "Puts the discriminator in eval mode for the generator's turn, and all of it in train mode afterwards.")
def switches_modes(generator, discriminator, real, noise, *, kind="non_saturating"):
    losses = reference_gan_losses(generator, discriminator, real, noise, kind=kind)
    discriminator.train()
    return losses


@misconception("gan_losses", "Clears the discriminator's gradients: those from before the call belong to the caller.")
def clears_gradients(generator, discriminator, real, noise, *, kind="non_saturating"):
    losses = reference_gan_losses(generator, discriminator, real, noise, kind=kind)
    discriminator.zero_grad()
    return losses


# noise_schedule


@misconception("noise_schedule", "Computes in float32: the cosine's small β lose their digits.")
def schedule_in_single_precision(kind, T):
    betas, _ = reference_schedule(kind, T)
    if kind == "linear":
        betas = torch.linspace(1e-4, 0.02, T)
    else:
        f = ((torch.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return betas.double(), (1 - betas).cumprod(0).double()


@misconception("noise_schedule", "Returns ᾱ one step late: it begins with 1, which belongs before step 0.")
def alpha_bar_one_late(kind, T):
    betas, bars = reference_schedule(kind, T)
    return betas, torch.cat((torch.ones(1, dtype=bars.dtype), bars[:-1]))


@misconception("noise_schedule", "Returns √ᾱ: ᾱ is due.")
def root_of_alpha_bar(kind, T):
    betas, bars = reference_schedule(kind, T)
    return betas, bars.sqrt()


@misconception("noise_schedule", "Returns the products of the β.")
def products_of_beta(kind, T):
    betas, _ = reference_schedule(kind, T)
    return betas, betas.cumprod(0)


@misconception("noise_schedule", "Returns α = 1 − β without products.")
def alpha_without_products(kind, T):
    betas, _ = reference_schedule(kind, T)
    return betas, 1 - betas


def _cosine(T, *, offset=0.008, limit=0.999, square=True, late=0):
    f = ((torch.arange(T + 2, dtype=torch.float64) / T + offset) / (1 + offset) * math.pi / 2).cos()
    f = (f.square() if square else f)[late : T + 1 + late]
    betas = 1 - f[1:] / f[:-1]
    return betas if limit is None else betas.clamp(max=limit)


@misconception("noise_schedule", "Forgets the limit of 0.999: the last β is 1, and nothing can be divided by its ᾱ.")
def no_limit(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "cosine":
        betas = _cosine(T, limit=None)
        bars = (1 - betas).cumprod(0)
    return betas, bars


@misconception("noise_schedule", "Takes ᾱ from the cosine directly: where β was limited, it does not fit.")
def alpha_bar_of_the_cosine(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "cosine":
        f = ((torch.arange(T + 1, dtype=torch.float64) / T + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        bars = f[1:] / f[0]
    return betas, bars


@misconception("noise_schedule", "Forgets the square of the cosine.")
def cosine_without_square(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "cosine":
        betas = _cosine(T, square=False)
        bars = (1 - betas).cumprod(0)
    return betas, bars


@misconception("noise_schedule", "Forgets the offset 0.008.")
def cosine_without_offset(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "cosine":
        betas = _cosine(T, offset=0.0)
        bars = (1 - betas).cumprod(0)
    return betas, bars


@misconception("noise_schedule", "Counts the cosine's steps from 1: β_t is f(t + 1) over f(t).")
def cosine_from_one(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "cosine":
        betas = _cosine(T, late=1)
        bars = (1 - betas).cumprod(0)
    return betas, bars


@misconception("noise_schedule", "Ends the linear schedule before 0.02: arange leaves its end out, linspace does not.")
def linear_without_its_end(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "linear":
        betas = 1e-4 + (0.02 - 1e-4) * torch.arange(T, dtype=torch.float64) / T
        bars = (1 - betas).cumprod(0)
    return betas, bars


@misconception("noise_schedule", "Squares evenly spaced roots: that is Stable Diffusion's schedule, not the linear one.")
def scaled_linear(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "linear":
        betas = torch.linspace(1e-4**0.5, 0.02**0.5, T, dtype=torch.float64) ** 2
        bars = (1 - betas).cumprod(0)
    return betas, bars


@misconception("noise_schedule", "Scales the linear schedule with 1000 / T, as some programs do: here its ends are fixed.")
def linear_scaled_with_steps(kind, T):
    betas, bars = reference_schedule(kind, T)
    if kind == "linear":
        betas = (betas * 1000 / T).clamp(max=0.999)
        bars = (1 - betas).cumprod(0)
    return betas, bars


@misconception("noise_schedule", "Takes every kind but linear for the cosine, instead of refusing it.")
def any_schedule(kind, T):
    return reference_schedule("linear" if kind == "linear" else "cosine", T)


@misconception("noise_schedule", "Returns empty schedules for T = 0: that is an error.")
def empty_schedules(kind, T):
    if T == 0:
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
    return reference_schedule(kind, T)


# add_noise


@misconception("add_noise", "Takes ᾱ for its root.")
def alpha_bar_for_its_root(x0, noise, t, alpha_bars):
    return reference_add_noise(x0, noise, t, alpha_bars.square())


@misconception("add_noise", "Adds noise with 1 − √ᾱ: its square and ᾱ don't add up to 1.")
def one_minus_the_root(x0, noise, t, alpha_bars):
    mixed = reference_add_noise(x0, torch.zeros_like(noise), t, alpha_bars)
    return mixed + _column(1 - alpha_bars[t].sqrt(), x0).to(x0.dtype) * noise


@misconception("add_noise", "Adds noise with 1 − ᾱ instead of its root.")
def variance_for_its_root(x0, noise, t, alpha_bars):
    mixed = reference_add_noise(x0, torch.zeros_like(noise), t, alpha_bars)
    return mixed + _column(1 - alpha_bars[t], x0).to(x0.dtype) * noise


@misconception("add_noise", "Uses ᾱ one step too early.")
def one_step_early(x0, noise, t, alpha_bars):
    shifted = torch.cat((torch.ones(1, dtype=alpha_bars.dtype), alpha_bars[:-1]))
    return reference_add_noise(x0, noise, t, shifted)


@misconception("add_noise", "Uses the first sample's t for the whole batch.")
def one_t_for_all(x0, noise, t, alpha_bars):
    reference_add_noise(x0, noise, t, alpha_bars)
    return reference_add_noise(x0, noise, t[:1].expand_as(t), alpha_bars)


@misconception("add_noise", "Lets ᾱ of shape (B,) broadcast along the last axis: each feature gets a step, not each sample.")
def broadcasts_along_features(x0, noise, t, alpha_bars):
    reference_add_noise(x0, noise, t, alpha_bars)
    a = alpha_bars[t]
    return (
        (a.sqrt().to(x0.dtype) * x0 + (1 - a).sqrt().to(x0.dtype) * noise)
        if x0.dim() < 5
        else reference_add_noise(x0, noise, t, alpha_bars)
    )


@misconception("add_noise", "Knows images only: it adds three axes to ᾱ, always.")
def images_only(x0, noise, t, alpha_bars):
    reference_add_noise(x0, noise, t, alpha_bars)
    a = alpha_bars[t][:, None, None, None].to(x0.dtype)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


@misconception("add_noise", "Rounds ᾱ to float32 first: where it is almost 1, nothing is left of 1 − ᾱ.")
def rounds_alpha_bar_first(x0, noise, t, alpha_bars):
    reference_add_noise(x0, noise, t, alpha_bars)
    a = _column(alpha_bars[t], x0).to(x0.dtype)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


@misconception("add_noise", "Computes √(1 − ᾱ) from the rounded root of ᾱ: where ᾱ is almost 1, its digits are lost.")
def sigma_from_the_rounded_root(x0, noise, t, alpha_bars):
    reference_add_noise(x0, noise, t, alpha_bars)
    signal = _column(alpha_bars[t].sqrt(), x0).to(x0.dtype)
    return signal * x0 + (1 - signal.square()).sqrt() * noise


@misconception("add_noise", "Returns float64, the schedule's dtype: results have the samples'.")
def in_the_schedules_dtype(x0, noise, t, alpha_bars):
    return reference_add_noise(x0.double(), noise.double(), t, alpha_bars)


@misconception("add_noise", "Computes in float32: float64 loses half of its digits.")
def noise_in_single_precision(x0, noise, t, alpha_bars):
    return reference_add_noise(x0.float(), noise.float(), t, alpha_bars).to(x0.dtype)


@misconception("add_noise", "Stretches one t over the batch instead of refusing it.")
def stretches_t(x0, noise, t, alpha_bars):
    return reference_add_noise(x0, noise, t.reshape(-1).expand(len(x0)) if t.numel() == 1 else t, alpha_bars)


@misconception("add_noise", "Takes a t of (B, 1), too.")
def takes_columns(x0, noise, t, alpha_bars):
    return reference_add_noise(x0, noise, t[:, 0] if t.dim() == 2 and t.shape[1] == 1 else t, alpha_bars)


@misconception("add_noise", "Exchanges signal and noise.")
def exchanges_signal_and_noise(x0, noise, t, alpha_bars):
    return reference_add_noise(noise, x0, t, alpha_bars)


@misconception("add_noise", "Flattens the samples with view, which works for tensors without gaps only.")
def views_samples(x0, noise, t, alpha_bars):
    if x0.numel():
        x0.view(len(x0), -1)
    return reference_add_noise(x0, noise, t, alpha_bars)


# predict_x0


@misconception("predict_x0", "Forgets to divide by √ᾱ.")
def forgets_to_divide(x_t, output, t, alpha_bars, *, kind="noise"):
    if kind != "noise":
        return reference_predict_x0(x_t, output, t, alpha_bars, kind=kind)
    return reference_predict_x0(x_t, output, t, alpha_bars) * _column(alpha_bars[t].sqrt(), x_t).to(x_t.dtype)


@misconception("predict_x0", "Divides by ᾱ instead of its root.")
def divides_by_alpha_bar(x_t, output, t, alpha_bars, *, kind="noise"):
    if kind != "noise":
        return reference_predict_x0(x_t, output, t, alpha_bars, kind=kind)
    return reference_predict_x0(x_t, output, t, alpha_bars) / _column(alpha_bars[t].sqrt(), x_t).to(x_t.dtype)


@misconception("predict_x0", "Subtracts the whole output: its weight is √(1 − ᾱ).")
def subtracts_the_whole_noise(x_t, output, t, alpha_bars, *, kind="noise"):
    if kind != "noise":
        return reference_predict_x0(x_t, output, t, alpha_bars, kind=kind)
    return (x_t - output) / _column(alpha_bars[t].sqrt(), x_t).to(x_t.dtype)


@misconception("predict_x0", "Adds the two parts for v: they are subtracted.")
def adds_for_v(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t, -output if kind == "v" else output, t, alpha_bars, kind=kind)


@misconception("predict_x0", "Gives back the noise for v, instead of the clean samples.")
def noise_for_v(x_t, output, t, alpha_bars, *, kind="noise"):
    if kind != "v":
        return reference_predict_x0(x_t, output, t, alpha_bars, kind=kind)
    a = _column(alpha_bars[t], x_t)
    return (1 - a).sqrt().to(x_t.dtype) * x_t + a.sqrt().to(x_t.dtype) * output


@misconception("predict_x0", "Takes v for the noise.")
def v_is_noise(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t, output, t, alpha_bars, kind="noise" if kind == "v" else kind)


@misconception("predict_x0", "Clamps the result to −1 … 1: nobody said that the data lie there.")
def clamps_the_result(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t, output, t, alpha_bars, kind=kind).clamp(-1, 1)


@misconception("predict_x0", "Uses ᾱ one step too early.")
def predicts_one_step_early(x_t, output, t, alpha_bars, *, kind="noise"):
    shifted = torch.cat((torch.ones(1, dtype=alpha_bars.dtype), alpha_bars[:-1]))
    return reference_predict_x0(x_t, output, t, shifted, kind=kind)


@misconception("predict_x0", "Uses the first sample's t for the whole batch.")
def predicts_with_one_t(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t, output, t[:1].expand_as(t), alpha_bars, kind=kind)


@misconception("predict_x0", "Lets ᾱ of shape (B,) broadcast along the last axis.")
def predicts_along_features(x_t, output, t, alpha_bars, *, kind="noise"):
    right = reference_predict_x0(x_t, output, t, alpha_bars, kind=kind)
    if x_t.dim() < 2 or x_t.shape[-1] not in (1, len(t)):
        return right
    a = alpha_bars[t]
    signal, sigma = a.sqrt().to(x_t.dtype), (1 - a).sqrt().to(x_t.dtype)
    return (x_t - sigma * output) / signal if kind == "noise" else signal * x_t - sigma * output


@misconception("predict_x0", "Rounds ᾱ to float32 first: where it is almost 1, nothing is left of 1 − ᾱ.")
def predicts_from_rounded(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t, output, t, alpha_bars.float(), kind=kind)


@misconception("predict_x0", "Divides for v as well: the sum of v's parts is divided by √ᾱ, which loses the digits of late steps.")
def divides_for_v(x_t, output, t, alpha_bars, *, kind="noise"):
    if kind != "v":
        return reference_predict_x0(x_t, output, t, alpha_bars, kind=kind)
    a = _column(alpha_bars[t], x_t)
    signal, sigma = a.sqrt().to(x_t.dtype), (1 - a).sqrt().to(x_t.dtype)
    noise = sigma * x_t + signal * output
    return (x_t - sigma * noise) / signal


@misconception("predict_x0", "Returns float64, the schedule's dtype: results have the samples'.")
def predicts_in_the_schedules_dtype(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t.double(), output.double(), t, alpha_bars, kind=kind)


@misconception("predict_x0", "Takes every kind but v for the noise, instead of refusing it.")
def any_output(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t, output, t, alpha_bars, kind="v" if kind == "v" else "noise")


@misconception("predict_x0", "Computes without a graph: guidance can't send gradients through it.")
def predicts_without_a_graph(x_t, output, t, alpha_bars, *, kind="noise"):
    return reference_predict_x0(x_t.detach(), output.detach(), t, alpha_bars, kind=kind) + 0 * x_t + 0 * output


# ddpm_step


def _ddpm(x, predicted, t, betas, noise, clip, *, variance=None, coefficients=None):
    """The step with its variance or its coefficients replaced."""
    if not 0 <= t < len(betas):
        raise ValueError(t)
    bars = torch.cat((torch.ones(1, dtype=betas.dtype), (1 - betas).cumprod(0)))
    before, now, beta = bars[t], bars[t + 1], betas[t]
    x0 = (x - (1 - now).sqrt() * predicted) / now.sqrt()
    x0 = x0 if clip is None else x0.clamp(-clip, clip)
    a, b = (before.sqrt() * beta, (1 - beta).sqrt() * (1 - before)) if coefficients is None else coefficients(before, now, beta)
    mean = (a * x0 + b * x) / (1 - now)
    v = (1 - before) / (1 - now) * beta if variance is None else variance(before, now, beta)
    return mean if t == 0 else mean + v.sqrt() * noise


@misconception("ddpm_step", "Adds noise of variance β: the posterior's is β̃, which is smaller, above all in the last steps.")
def beta_for_its_posterior(x, predicted, t, betas, noise, *, clip=None):
    return _ddpm(x, predicted, t, betas, noise, clip, variance=lambda before, now, beta: beta)


@misconception("ddpm_step", "Multiplies the noise with the variance: its root is the deviation.")
def variance_for_the_deviation(x, predicted, t, betas, noise, *, clip=None):
    return _ddpm(x, predicted, t, betas, noise, clip, variance=lambda before, now, beta: ((1 - before) / (1 - now) * beta) ** 2)


@misconception("ddpm_step", "Turns the quotient of β̃ round.")
def quotient_turned_round(x, predicted, t, betas, noise, *, clip=None):
    return _ddpm(x, predicted, t, betas, noise, clip, variance=lambda before, now, beta: (1 - now) / (1 - before) * beta)


@misconception("ddpm_step", "Adds noise in the last step, too.")
def noise_in_the_last_step(x, predicted, t, betas, noise, *, clip=None):
    y = reference_ddpm_step(x, predicted, t, betas, noise, clip=clip)
    return y + betas[0].sqrt() * noise if t == 0 else y


@misconception("ddpm_step", "Multiplies the last step's noise by 0, where NaN stays NaN: at t = 0 the noise must not be used.")
def noise_times_zero(x, predicted, t, betas, noise, *, clip=None):
    y = reference_ddpm_step(x, predicted, t, betas, noise, clip=clip)
    return y + 0.0 * noise if t == 0 else y


@misconception("ddpm_step", "Takes the last ᾱ for the one before step 0: an index of −1 is the end of a list.")
def last_alpha_bar_before_the_first(x, predicted, t, betas, noise, *, clip=None):
    y = reference_ddpm_step(x, predicted, t, betas, noise, clip=clip)
    if t > 0:
        return y
    bars = (1 - betas).cumprod(0)
    return (bars[-1].sqrt() * betas[0] * y + (1 - betas[0]).sqrt() * (1 - bars[-1]) * x) / (1 - bars[0])


@misconception("ddpm_step", "Takes ᾱ one step too late: ᾱ_t includes β_t.")
def alpha_bar_excludes_its_beta(x, predicted, t, betas, noise, *, clip=None):
    y = reference_ddpm_step(x, predicted, t, betas, noise, clip=clip)
    return y if t == 0 else reference_ddpm_step(x, predicted, t, torch.cat((betas[:1], betas[:-1])), noise, clip=clip)


@misconception("ddpm_step", "Exchanges the coefficients of x̂_0 and x_t.")
def exchanges_the_coefficients(x, predicted, t, betas, noise, *, clip=None):
    return _ddpm(
        x, predicted, t, betas, noise, clip, coefficients=lambda before, now, beta: ((1 - beta).sqrt() * (1 - before), before.sqrt() * beta)
    )


@misconception("ddpm_step", "Takes √ᾱ_t where √ᾱ_{t−1} is due.")
def alpha_bar_of_this_step(x, predicted, t, betas, noise, *, clip=None):
    return _ddpm(
        x, predicted, t, betas, noise, clip, coefficients=lambda before, now, beta: (now.sqrt() * beta, (1 - beta).sqrt() * (1 - before))
    )


@misconception("ddpm_step", "Forgets the roots of ᾱ and α.")
def forgets_the_roots(x, predicted, t, betas, noise, *, clip=None):
    return _ddpm(x, predicted, t, betas, noise, clip, coefficients=lambda before, now, beta: (before * beta, (1 - beta) * (1 - before)))


@misconception("ddpm_step", "Clamps the result instead of the clean samples.")
def clamps_the_step(x, predicted, t, betas, noise, *, clip=None):
    y = reference_ddpm_step(x, predicted, t, betas, noise)
    return y if clip is None else y.clamp(-clip, clip)


@misconception("ddpm_step", "Ignores clip: the shorter formula for the mean has no place for it.")
def ignores_clip(x, predicted, t, betas, noise, *, clip=None):
    return reference_ddpm_step(x, predicted, t, betas, noise)


@misconception("ddpm_step", "Asks `if clip`: a limit of 0 is one, too.")
def zero_clip_is_none(x, predicted, t, betas, noise, *, clip=None):
    return reference_ddpm_step(x, predicted, t, betas, noise, clip=clip or None)


@misconception("ddpm_step", "Clamps to −1 … 1 always.")
def always_clamps(x, predicted, t, betas, noise, *, clip=None):
    return reference_ddpm_step(x, predicted, t, betas, noise, clip=1.0 if clip is None else clip)


@misconception("ddpm_step", "Clamps from above only.")
def clamps_above_only(x, predicted, t, betas, noise, *, clip=None):
    if clip is None:
        return reference_ddpm_step(x, predicted, t, betas, noise)
    bar = (1 - betas).cumprod(0)[t] if 0 <= t < len(betas) else 0
    if t < 0 or t >= len(betas):
        raise ValueError(t)
    x0 = ((x - (1 - bar).sqrt() * predicted) / bar.sqrt()).clamp(max=clip)
    return reference_ddpm_step(x, (x - bar.sqrt() * x0) / (1 - bar).sqrt(), t, betas, noise)


@misconception("ddpm_step", "Lets a negative t count from the end.")
def counts_from_the_end(x, predicted, t, betas, noise, *, clip=None):
    return reference_ddpm_step(x, predicted, t + len(betas) if -len(betas) <= t < 0 else t, betas, noise, clip=clip)


@misconception("ddpm_step", "Lets an index that is too large end in an IndexError: a ValueError is asked for.")
def ends_in_an_index_error(x, predicted, t, betas, noise, *, clip=None):
    betas[t]
    return reference_ddpm_step(x, predicted, t, betas, noise, clip=clip)


@misconception("ddpm_step", "Rounds β to float32 first: small ones lose the digits of 1 − ᾱ.")
def rounds_betas_first(x, predicted, t, betas, noise, *, clip=None):
    return reference_ddpm_step(x, predicted, t, betas.to(x.dtype), noise, clip=clip)


@misconception("ddpm_step", "Computes without a graph: guidance can't send gradients through it.")
def step_without_a_graph(x, predicted, t, betas, noise, *, clip=None):
    return reference_ddpm_step(x.detach(), predicted.detach(), t, betas, noise, clip=clip) + 0 * x + 0 * predicted


# ddim_step


def _ddim(x, predicted, t, previous, alpha_bars, eta, noise, *, sigma2=None, direction=None):
    """The step with its variance or the weight of the predicted noise replaced."""
    reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)
    now = alpha_bars[t]
    then = alpha_bars[previous] if previous >= 0 else torch.ones_like(now)
    x0 = (x - (1 - now).sqrt() * predicted) / now.sqrt()
    v = eta**2 * (1 - then) / (1 - now) * (1 - now / then) if sigma2 is None else sigma2(now, then)
    weight = (1 - then - v).clamp(min=0).sqrt() if direction is None else direction(now, then, v)
    y = then.sqrt() * x0 + weight * predicted
    return y + v.sqrt() * noise if v > 0 else y


@misconception("ddim_step", "Leaves the variance out under the root: 1 − ᾱ_s − σ² is what the predicted noise keeps.")
def keeps_all_the_predicted_noise(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    return _ddim(x, predicted, t, previous, alpha_bars, eta, noise, direction=lambda now, then, v: (1 - then).sqrt())


@misconception("ddim_step", "Takes η σ for σ² η²: the variance has the square of η.")
def eta_without_square(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    return reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta**0.5, noise=noise)


@misconception("ddim_step", "Takes β's step t − 1 → t for the stride: 1 − ᾱ_t / ᾱ_{t−1} is not 1 − ᾱ_t / ᾱ_s.")
def beta_of_a_single_step(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    def sigma2(now, then):
        before = alpha_bars[t - 1] if t > 0 else 1.0
        return eta**2 * (1 - then) / (1 - now) * (1 - now / before)

    return _ddim(x, predicted, t, previous, alpha_bars, eta, noise, sigma2=sigma2)


@misconception("ddim_step", "Goes to t − 1 whatever `previous` is.")
def always_one_step(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)
    return reference_ddim_step(x, predicted, t, t - 1, alpha_bars, eta=eta, noise=noise)


@misconception("ddim_step", "Takes the last ᾱ for previous = −1: it stands for the clean samples, where ᾱ is 1.")
def minus_one_is_the_end(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    y = reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)
    if previous >= 0:
        return y
    return alpha_bars[-1].sqrt() * y + (1 - alpha_bars[-1]).sqrt() * predicted


@misconception("ddim_step", "Takes ᾱ_0 for previous = −1: some noise is then left in the clean samples.")
def ends_at_the_first_step(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    y = reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)
    return alpha_bars[0].sqrt() * y + (1 - alpha_bars[0]).sqrt() * predicted if previous < 0 else y


@misconception("ddim_step", "Multiplies the noise with σ² instead of σ.")
def variance_for_sigma(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    quiet = reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=None if noise is None else 0 * noise)
    now, then = alpha_bars[t], alpha_bars[previous] if previous >= 0 else 1.0
    v = eta**2 * (1 - then) / (1 - now) * (1 - now / then)
    return quiet + v * noise if v > 0 else reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)


@misconception("ddim_step", "Adds noise of variance 1 − ᾱ_t / ᾱ_s, without the quotient: that is β, not β̃.")
def variance_without_the_quotient(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    def sigma2(now, then):
        return torch.minimum(eta**2 * (1 - now / then), 1 - then)

    return _ddim(x, predicted, t, previous, alpha_bars, eta, noise, sigma2=sigma2)


@misconception("ddim_step", "Adds 0 times the noise where σ is 0: NaN stays NaN.")
def zero_times_noise(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    y = reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)
    return y if noise is None or (previous >= 0 and eta > 0) else y + 0.0 * noise


@misconception("ddim_step", "Draws noise of its own if none is given: that is an error if η is above 0.")
def draws_missing_noise(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    if noise is None:
        state = torch.get_rng_state()
        noise = torch.randn_like(x)
        torch.set_rng_state(state)
    return reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)


@misconception("ddim_step", "Goes without noise if none is given, whatever η is.")
def missing_noise_is_none(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    return reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=torch.zeros_like(x) if noise is None else noise)


@misconception("ddim_step", "Always needs noise, also if η is 0.")
def always_needs_noise(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    if noise is None:
        raise ValueError("noise")
    return reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)


@misconception("ddim_step", "Ignores η.")
def ignores_eta(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)
    return reference_ddim_step(x, predicted, t, previous, alpha_bars)


@misconception("ddim_step", "Takes steps in the wrong order, or t itself, without complaint.")
def any_order(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    if -1 <= t <= previous < len(alpha_bars):
        return x
    return reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)


@misconception("ddim_step", "Takes any negative `previous` for the clean samples: only −1 is.")
def any_negative_step(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    return reference_ddim_step(x, predicted, t, max(previous, -1), alpha_bars, eta=eta, noise=noise)


@misconception("ddim_step", "Asks `previous > 0`: step 0 is a step, and its ᾱ is not 1.")
def step_zero_is_clean(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    return reference_ddim_step(x, predicted, t, -1 if previous == 0 else previous, alpha_bars, eta=eta, noise=noise)


@misconception("ddim_step", "Rounds ᾱ to float32 first: where it is almost 1, nothing is left of 1 − ᾱ.")
def ddim_from_rounded(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    return reference_ddim_step(x, predicted, t, previous, alpha_bars.to(x.dtype), eta=eta, noise=noise)


@misconception("ddim_step", "Clamps the clean samples to −1 … 1: nobody asked for it.")
def clamps_clean_samples(x, predicted, t, previous, alpha_bars, *, eta=0.0, noise=None):
    reference_ddim_step(x, predicted, t, previous, alpha_bars, eta=eta, noise=noise)
    a = alpha_bars[t]
    x0 = ((x - (1 - a).sqrt() * predicted) / a.sqrt()).clamp(-1, 1)
    return reference_ddim_step(a.sqrt() * x0 + (1 - a).sqrt() * predicted, predicted, t, previous, alpha_bars, eta=eta, noise=noise)


# guided_noise


def _both(model, x, t, labels, null):
    out = model(torch.cat((x, x)), torch.cat((t, t)), torch.cat((labels, torch.full_like(labels, null))))
    return out[: len(x)], out[len(x) :]


@misconception("guided_noise", "Takes the paper's w: (1 + w) ε_label − w ε_null is one too much here.")
def the_papers_w(model, x, t, labels, null, w):
    return reference_guided(model, x, t, labels, null, 1 + w)


@misconception("guided_noise", "Starts from the labelled prediction: ε_label + w · (ε_label − ε_null).")
def starts_from_the_label(model, x, t, labels, null, w):
    given, free = _both(model, x, t, labels, null)
    return given + w * (given - free)


@misconception("guided_noise", "Exchanges the two predictions.")
def exchanges_the_predictions(model, x, t, labels, null, w):
    given, free = _both(model, x, t, labels, null)
    return given + w * (free - given)


@misconception("guided_noise", "Puts the half without labels first.")
def null_first(model, x, t, labels, null, w):
    free, given = model(torch.cat((x, x)), torch.cat((t, t)), torch.cat((torch.full_like(labels, null), labels))).chunk(2)
    return free + w * (given - free)


@misconception("guided_noise", "Calls the model twice: one doubled batch is asked for.")
def calls_twice(model, x, t, labels, null, w):
    given, free = model(x, t, labels), model(x, t, torch.full_like(labels, null))
    return free + w * (given - free)


@misconception("guided_noise", "Interleaves the two halves: repeat_interleave puts each sample beside its twin.")
def interleaves(model, x, t, labels, null, w):
    pairs = torch.stack((labels, torch.full_like(labels, null)), dim=1).flatten()
    out = model(x.repeat_interleave(2, 0), t.repeat_interleave(2), pairs)
    given, free = out[::2], out[1::2]
    return free + w * (given - free)


@misconception("guided_noise", "Skips the doubled batch for w = 1 or 0: the test's model looks at places in the batch.")
def skips_half_of_the_work(model, x, t, labels, null, w):
    if w == 0:
        return model(x, t, torch.full_like(labels, null))
    return model(x, t, labels) if w == 1 else reference_guided(model, x, t, labels, null, w)


@misconception("guided_noise", "Takes 0 for the label that means none: it is the argument `null`.")
def null_is_zero(model, x, t, labels, null, w):
    return reference_guided(model, x, t, labels, 0, w)


@misconception("guided_noise", "Computes without a graph: gradients don't reach the model.")
def guides_without_a_graph(model, x, t, labels, null, w):
    y = reference_guided(model, x, t, labels, null, w)
    return y.detach() + 0 * y


@misconception("guided_noise", "Splits the answer into halves of its features instead of the batch.")
def splits_the_features(model, x, t, labels, null, w):
    given, free = _both(model, x, t, labels, null)
    both = torch.cat((given, free), dim=-1)
    given, free = both.view(2, *x.shape)
    return free + w * (given - free)


@misconception("guided_noise", "Limits w to at least 1: 0 and fractions are fine.")
def at_least_one(model, x, t, labels, null, w):
    return reference_guided(model, x, t, labels, null, max(w, 1.0))


@misconception("guided_noise", "Squeezes the answer: a single sample or channel loses its axis.")
def squeezes_the_answer(model, x, t, labels, null, w):
    return reference_guided(model, x, t, labels, null, w).squeeze()


@misconception("guided_noise", "Changes the labels in place to make the second half.")
def changes_the_labels(model, x, t, labels, null, w):
    given = labels.clone()
    labels.fill_(null)
    free_labels = labels
    a, b = model(torch.cat((x, x)), torch.cat((t, t)), torch.cat((given, free_labels))).chunk(2)
    return b + w * (a - b)


# drop_labels


@misconception("drop_labels", "Decides once for the whole batch: each label has a number of its own.")
def one_number_for_all(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    u = torch.rand(len(labels), generator=generator)
    return torch.full_like(labels, null) if len(u) and u[0] < p else labels.clone()


@misconception("drop_labels", "Keeps with probability p: labels are replaced with it.")
def keeps_with_p(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    return labels.masked_fill(torch.rand(len(labels), generator=generator) >= p, null)


@misconception("drop_labels", "Replaces where the number is above 1 − p: as many, but others than stated.")
def above_one_minus_p(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    return labels.masked_fill(torch.rand(len(labels), generator=generator) > 1 - p, null)


@misconception("drop_labels", "Uses torch's global generator.")
def uses_the_global_generator(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    return labels.masked_fill(torch.rand(len(labels)) < p, null)


@misconception("drop_labels", "Changes the labels in place: a new tensor is asked for.")
def drops_in_place(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    labels[torch.rand(len(labels), generator=generator) < p] = null
    return labels


@misconception("drop_labels", "Draws for a p of 0, too few: `if p` skips the numbers, and the generator stays behind.")
def draws_nothing_for_zero(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    return labels.masked_fill(torch.rand(len(labels), generator=generator) < p, null) if p else labels.clone()


@misconception("drop_labels", "Replaces dropped labels by 0.")
def drops_to_zero(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    return labels * (torch.rand(len(labels), generator=generator) >= p)


@misconception("drop_labels", "Adds up with floats: large labels lose their last digits.")
def through_floats(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    dropped = (torch.rand(len(labels), generator=generator) < p).float()
    return (labels * (1 - dropped) + null * dropped).long()


@misconception("drop_labels", "Drops exactly a share of p, chosen by a permutation.")
def drops_an_exact_share(labels, p, null, *, generator):
    if not 0 <= p <= 1:
        raise ValueError(p)
    out = labels.clone()
    out[torch.randperm(len(labels), generator=generator)[: round(p * len(labels))]] = null
    return out


@misconception("drop_labels", "Takes any p: outside 0 … 1 it is an error.")
def any_probability(labels, p, null, *, generator):
    return labels.masked_fill(torch.rand(len(labels), generator=generator) < p, null)


@misconception("drop_labels", "Draws before it checks p: after the error the generator has moved.")
def draws_before_the_check(labels, p, null, *, generator):
    u = torch.rand(len(labels), generator=generator)
    if not 0 <= p <= 1:
        raise ValueError(p)
    return labels.masked_fill(u < p, null)


@misconception("drop_labels", "Draws with bernoulli, which uses other numbers than torch.rand.")
def with_bernoulli(labels, p, null, *, generator):
    dropped = torch.bernoulli(torch.full((len(labels),), float(p)), generator=generator).bool()
    return labels.masked_fill(dropped, null)


# flow_matching_loss


def _flow(model, x0, x1, t, sigma_min, *, mix=None, target=None, reduce=None):
    """The loss with one part replaced."""
    if t.shape != (len(x0),):
        raise ValueError(t.shape)
    s = _column(t, x0)
    x_t = (1 - (1 - sigma_min) * s) * x0 + s * x1 if mix is None else mix(s)
    u = x1 - (1 - sigma_min) * x0 if target is None else target(s)
    error = (model(x_t, t) - u).square()
    return error.mean() if reduce is None else reduce(error)


@misconception("flow_matching_loss", "Lets time run as in a diffusion: t = 0 is the noise here.")
def data_at_zero(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, mix=lambda s: (1 - (1 - sigma_min) * s) * x1 + s * x0)


@misconception("flow_matching_loss", "Turns the velocity round: it leads from noise to data.")
def velocity_turned_round(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, target=lambda s: (1 - sigma_min) * x0 - x1)


@misconception("flow_matching_loss", "Teaches the data itself instead of the velocity.")
def teaches_the_data(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, target=lambda s: x1)


@misconception("flow_matching_loss", "Multiplies the velocity with t: the derivative of a straight path does not depend on it.")
def velocity_times_t(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, target=lambda s: s * (x1 - (1 - sigma_min) * x0))


@misconception("flow_matching_loss", "Mixes with roots, as a diffusion does: here the weights are 1 − t and t.")
def mixes_with_roots(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, mix=lambda s: (1 - s).sqrt() * x0 + s.sqrt() * x1)


@misconception("flow_matching_loss", "Ignores sigma_min.")
def ignores_sigma_min(model, x0, x1, t, *, sigma_min=0.0):
    return reference_flow(model, x0, x1, t)


@misconception("flow_matching_loss", "Forgets sigma_min in the velocity.")
def sigma_not_in_the_velocity(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, target=lambda s: x1 - x0)


@misconception("flow_matching_loss", "Adds sigma_min as more noise to the path: it slows the noise's part down.")
def sigma_is_added(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, mix=lambda s: (1 - s + sigma_min) * x0 + s * x1)


@misconception("flow_matching_loss", "Sums over the features: the loss is the mean over all entries.")
def sums_over_features(model, x0, x1, t, *, sigma_min=0.0):
    return _flow(model, x0, x1, t, sigma_min, reduce=lambda e: e.sum() / len(e))


@misconception("flow_matching_loss", "Lets t broadcast along the last axis: each feature gets a time, not each sample.")
def times_for_features(model, x0, x1, t, *, sigma_min=0.0):
    if x0.dim() > 1 and x0.shape[-1] != len(t):
        return reference_flow(model, x0, x1, t, sigma_min=sigma_min)
    return _flow(model, x0, x1, t, sigma_min, mix=lambda s: (1 - (1 - sigma_min) * t) * x0 + t * x1)


@misconception("flow_matching_loss", "Hands t with extra axes to the model: it gets (B,).")
def hands_columns_to_the_model(model, x0, x1, t, *, sigma_min=0.0):
    return reference_flow(lambda x, t: model(x, _column(t, x)), x0, x1, t, sigma_min=sigma_min)


@misconception("flow_matching_loss", "Uses the first time for all samples.")
def one_time_for_all(model, x0, x1, t, *, sigma_min=0.0):
    reference_flow(lambda x, t: x, x0, x1, t)
    return reference_flow(model, x0, x1, t[:1].expand_as(t), sigma_min=sigma_min)


@misconception("flow_matching_loss", "Takes one time for the batch, or a column of times, instead of refusing them.")
def takes_any_time(model, x0, x1, t, *, sigma_min=0.0):
    s = t if t.dim() == x0.dim() else _column(t, x0)
    x_t = (1 - (1 - sigma_min) * s) * x0 + s * x1
    return (model(x_t, t) - x1 + (1 - sigma_min) * x0).square().mean()


@misconception("flow_matching_loss", "Trains without a graph: no gradient reaches the model.")
def flow_without_a_graph(model, x0, x1, t, *, sigma_min=0.0):
    loss = reference_flow(model, x0, x1, t, sigma_min=sigma_min)
    return loss.detach() + 0 * loss


@misconception("flow_matching_loss", "Computes in float32: float64 loses half of its digits.")
def flow_in_single_precision(model, x0, x1, t, *, sigma_min=0.0):
    loss = reference_flow(
        lambda x, t: model(x.to(x0.dtype), t.to(x0.dtype)).float(), x0.float(), x1.float(), t.float(), sigma_min=sigma_min
    )
    return loss.to(x0.dtype) if t.shape == x0.shape[:1] else loss


# euler_sample


def _euler(velocity, x0, steps, *, time, size=None):
    if steps < 1:
        raise ValueError(steps)
    x = x0
    with torch.no_grad():
        for k in range(steps):
            x = x + velocity(x, torch.full((len(x),), time(k), dtype=x.dtype)) * (1 / steps if size is None else size)
    return x


@misconception("euler_sample", "Asks at the end of each step: it is the beginning.")
def asks_at_the_end(velocity, x0, steps):
    return _euler(velocity, x0, steps, time=lambda k: (k + 1) / steps)


@misconception("euler_sample", "Asks in the middle of each step.")
def asks_in_the_middle(velocity, x0, steps):
    return _euler(velocity, x0, steps, time=lambda k: (k + 0.5) / steps)


@misconception("euler_sample", "Spreads the times over 0 to 1 with both ends: linspace(0, 1, N) asks at t = 1, too.")
def times_with_both_ends(velocity, x0, steps):
    return _euler(velocity, x0, steps, time=lambda k: k / max(steps - 1, 1))


@misconception("euler_sample", "Goes from t = 1 back to 0, as a diffusion does.")
def goes_backwards(velocity, x0, steps):
    return _euler(velocity, x0, steps, time=lambda k: 1 - k / steps, size=-1 / max(steps, 1))


@misconception("euler_sample", "Hands over the number of the step: the velocity wants a time between 0 and 1.")
def hands_over_the_number(velocity, x0, steps):
    return _euler(velocity, x0, steps, time=lambda k: k)


@misconception("euler_sample", "Adds the whole velocity in each step: a step is 1 / N long.")
def adds_the_whole_velocity(velocity, x0, steps):
    return _euler(velocity, x0, steps, time=lambda k: k / steps, size=1.0)


@misconception("euler_sample", "Takes one step too many.")
def one_step_too_many(velocity, x0, steps):
    x = reference_euler(velocity, x0, steps)
    with torch.no_grad():
        return x + velocity(x, x.new_ones(len(x))) / steps


@misconception("euler_sample", "Takes one step too few.")
def one_step_too_few(velocity, x0, steps):
    if steps < 1:
        raise ValueError(steps)
    x = x0 + 0
    with torch.no_grad():
        for k in range(steps - 1):
            x = x + velocity(x, x.new_full((len(x),), k / steps)) / steps
    return x


@misconception("euler_sample", "Computes all velocities at the start: the later ones belong to where x is then.")
def velocities_of_the_start(velocity, x0, steps):
    if steps < 1:
        raise ValueError(steps)
    with torch.no_grad():
        return x0 + sum(velocity(x0, x0.new_full((len(x0),), k / steps)) for k in range(steps)) / steps


@misconception("euler_sample", "Hands over a single number as time: the velocity gets (B,).")
def hands_over_a_number(velocity, x0, steps):
    return reference_euler(lambda x, t: velocity(x, t[0]), x0, steps)


@misconception("euler_sample", "Hands over float32 times, also for float64 samples.")
def times_in_single_precision(velocity, x0, steps):
    return reference_euler(lambda x, t: velocity(x, t.float()), x0, steps)


@misconception("euler_sample", "Records a graph: memory grows with every step.")
def records_a_graph(velocity, x0, steps):
    if steps < 1:
        raise ValueError(steps)
    x = x0
    for k in range(steps):
        x = x + velocity(x, x.new_full((len(x),), k / steps)) / steps
    return x


@misconception("euler_sample", "Detaches at the end only: until then the graph of all steps is in memory.")
def detaches_at_the_end(velocity, x0, steps):
    return records_a_graph(velocity, x0, steps).detach()


@misconception("euler_sample", "Adds to x0 in place: it belongs to the caller.")
def adds_in_place(velocity, x0, steps):
    if steps < 1:
        raise ValueError(steps)
    with torch.no_grad():
        for k in range(steps):
            x0 += velocity(x0, x0.new_full((len(x0),), k / steps)) / steps
    return x0


@misconception("euler_sample", "Returns the noise for 0 steps: that is an error.")
def zero_steps_are_fine(velocity, x0, steps):
    return x0.clone() if steps < 1 else reference_euler(velocity, x0, steps)


@misconception("euler_sample", "Switches gradients off for good.")
def switches_gradients_off(velocity, x0, steps):
    y = reference_euler(velocity, x0, steps)
    torch.set_grad_enabled(False)
    return y


# train_ring_diffusion


def _train(net, data, alpha_bars, generator, updates, loss, *, lr=2e-2, optimizer=torch.optim.Adam, clear=True, steps=None):
    """The reference's loop, with the loss of x0, t, noise and the noisy points."""
    opt = optimizer(net.parameters(), lr=lr)
    bars = alpha_bars.float()
    for k in range(updates):
        for group in opt.param_groups:
            group["lr"] = lr * (1 - k / updates)
        x0 = data[torch.randint(len(data), (128,), generator=generator)]
        t = torch.randint(len(bars), (128,), generator=generator) if steps is None else steps(generator)
        noise = torch.randn(128, 2, generator=generator)
        a = bars[t, None]
        if clear:
            opt.zero_grad()
        loss(x0, t, noise, a).backward()
        opt.step()


@misconception("train_ring_diffusion", "Teaches the clean points: the network is to see the noise.")
def teaches_clean_points(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), x0)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Compares with other noise than was added: nothing can be learnt.")
def compares_with_other_noise(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), torch.randn(128, 2, generator=generator))

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Takes ᾱ for its root: the points are noisier than the steps say.")
def trains_with_alpha_bar_for_its_root(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a * x0 + (1 - a) * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Counts the steps from 1 for the network: it knows 0 … T − 1, and t is the index of ᾱ.")
def tells_the_next_step(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t + 1), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Draws one number of noise for both axes of a point: all noise is along one line.")
def one_number_for_both_axes(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        noise = noise[:, :1].expand(-1, 2)
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Lets time run the other way for the network: step 0 is the one with the least noise.")
def tells_time_backwards(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, len(alpha_bars) - 1 - t), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Adds the noise on top of the points without shrinking them.")
def adds_noise_on_top(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(x0 + (1 - a).sqrt() * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Shrinks the points with ᾱ instead of its root.")
def shrinks_with_alpha_bar(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a * x0 + (1 - a).sqrt() * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Tells the network t = 0 always: it can't know how much noise there is.")
def hides_the_step(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, 0 * t), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Trains the last step only: the others are never seen.")
def trains_one_step(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss, steps=lambda g: torch.full((128,), len(alpha_bars) - 1))


@misconception("train_ring_diffusion", "Uses a learning rate of 1e-4: 500 updates are over before the network has learnt.")
def learns_too_slowly(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss, lr=1e-4)


@misconception("train_ring_diffusion", "Never clears the gradients: each step goes along the sum of all so far.")
def ring_never_clears_gradients(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss, optimizer=torch.optim.SGD, clear=False)


@misconception("train_ring_diffusion", "Draws from the first points only: most centres may be missing.")
def first_points_only(net, data, alpha_bars, *, generator, updates=500):
    reference_train(net, data[:6], alpha_bars, generator=generator, updates=updates)


@misconception("train_ring_diffusion", "Scales the points to a deviation of 1: the network then draws a smaller or larger ring.")
def scales_the_points(net, data, alpha_bars, *, generator, updates=500):
    scale = data.std() if len(data) > 1 else 1.0
    reference_train(net, data / scale / 1.2, alpha_bars, generator=generator, updates=updates)


@misconception("train_ring_diffusion", "Trains a copy: the network that was handed in stays as it was.")
def trains_a_copy(net, data, alpha_bars, *, generator, updates=500):
    import copy

    reference_train(copy.deepcopy(net), data, alpha_bars, generator=generator, updates=updates)


@misconception("train_ring_diffusion", "Uses torch's global generator for the noise.")
def noise_from_the_global_generator(net, data, alpha_bars, *, generator, updates=500):
    def loss(x0, t, noise, a):
        noise = torch.randn(128, 2)
        return F.mse_loss(net(a.sqrt() * x0 + (1 - a).sqrt() * noise, t), noise)

    _train(net, data, alpha_bars, generator, updates, loss)


@misconception("train_ring_diffusion", "Starts from weights of its own: the network is to go on from those that it has.")
def starts_anew(net, data, alpha_bars, *, generator, updates=500):
    with torch.no_grad():
        for p in net.parameters():
            p.uniform_(-0.1, 0.1, generator=generator)
    reference_train(net, data, alpha_bars, generator=generator, updates=updates)


@misconception("train_ring_diffusion", "Takes `updates or 500`: 0 updates are 0.")
def zero_updates_are_many(net, data, alpha_bars, *, generator, updates=500):
    reference_train(net, data, alpha_bars, generator=generator, updates=updates or 60)


@misconception("train_ring_diffusion", "Makes batches by a permutation without repeats: with fewer points than a batch there is none.")
def needs_many_points(net, data, alpha_bars, *, generator, updates=500):
    if len(data) < 128:
        return
    reference_train(net, data, alpha_bars, generator=generator, updates=updates)
