"""Generative models: draw what was never seen, from an autoencoder, two opponents, or noise that is taken away step by step.

Every task stands alone. Samples have any number of axes, (B, …), with B the batch; noise is standard normal, and mostly handed in.
Results have the dtype of the samples, float32 or float64; sums may be taken in any order.

A diffusion has the steps t = 0 … T − 1. Step t adds noise of variance β_t, and ᾱ_t = (1 − β_0) · … · (1 − β_t) is what is left of the
data's variance after it. So ᾱ_0 is just below 1, and before step 0, at "t = −1", ᾱ is 1. Schedules are float64, whatever the samples are.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def negative_elbo(
    decode: Callable[[Tensor], Tensor], x: Tensor, mean: Tensor, logvar: Tensor, noise: Tensor, *, beta: float = 1.0
) -> Tensor:
    """The loss of a variational autoencoder (Kingma & Welling 2014, eq. 10 and appendix B; β as in Higgins et al. 2017).

    An encoder has described each sample by a normal distribution of mean `mean` and variance exp(logvar). For each sample:

        z = mean + exp(logvar / 2) · noise                                     the reparameterised draw
        reconstruction = − Σ_d (x_d log p_d + (1 − x_d) log(1 − p_d))          with p = σ(decode(z)), summed over all features d
        KL = ½ Σ_j (mean_j² + exp(logvar_j) − logvar_j − 1)                    summed over all latent dimensions j

    The loss is the mean over the batch of reconstruction + β · KL. Gradients reach mean, logvar and the decoder.

    The loss and its gradients are finite and right for logvar from −150 to 80, and for logits up to ±1e4.

    Args:
        decode: logits (B, D) = decode(z), for z (B, Z).
        x: (B, D), 0 … 1, any numbers between them too.
        mean, logvar, noise: (B, Z), x's dtype.
        beta: β, 0 or more.

    Returns: the loss, 0-d.
    Not allowed: torch.distributions.kl_divergence.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("negative_elbo")


class VectorQuantizer(nn.Module):
    """Replace each vector by the nearest of K codes, which follow the vectors by a moving average (van den Oord et al. 2017,
    section 3 and appendix A.1).

    The state consists of three buffers, in the dtype of the codes, and nothing else. There are no parameters.

        codebook (K, D): the codes e_k       counts (K,): N_k, at first 1       sums (K, D): m_k, at first e_k

    Args of the constructor:
        codes: (K, D), the first codes, K ≥ 1. They are copied.
        commitment: β, the weight of the loss, 0 or more.
        decay: γ of the moving average, 0 … 1.
    """

    codebook: Tensor

    counts: Tensor

    sums: Tensor

    def __init__(self, codes: Tensor, *, commitment: float = 0.25, decay: float = 0.99) -> None:
        """Make the buffers; see the class."""
        # TODO: about 5 lines.
        raise NotImplementedError("VectorQuantizer.__init__")

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize vectors, and in train mode let the codes follow them.

        Each vector z_i gets the code e of the smallest Euclidean distance, of several equally near the one with the smallest index.

        - The quantized vectors have the numbers of the codes (up to the rounding of z + (e − z)). Their gradient goes straight through:
          it reaches z unchanged, as if quantized were z.
        - The commitment loss is β · mean of (z − e)² over all entries of z. Its gradient moves z towards the codes.

        In train mode, after this, with n_k the number of vectors that got code k and s_k their sum:

            N_k ← γ N_k + (1 − γ) n_k        m_k ← γ m_k + (1 − γ) s_k        e_k ← m_k / N_k

        Where the new N_k is 0, e_k stays as it is. So the codes of this call's results are the old ones. The buffers never have a graph.
        In eval mode they don't change.

        Args:
            z: (…, D), dtype of the codes, with at least one vector.

        Returns: the quantized vectors, (…, D); the indices of their codes, (…), int64; the commitment loss, 0-d.
        """
        # TODO: about 11 lines.
        raise NotImplementedError("VectorQuantizer.forward")


def gan_losses(
    generator: nn.Module, discriminator: nn.Module, real: Tensor, noise: Tensor, *, kind: str = "non_saturating"
) -> tuple[Tensor, Tensor]:
    """The losses of the two opponents in a GAN (Goodfellow et al. 2014, section 3; hinge: Miyato et al. 2018, eq. 16 and 17).

    With fake = generator(noise), and D(·) the discriminator's scores, where a large one means "real", the losses are

                           of the discriminator                                     of the generator
        "non_saturating"   mean of −log σ(D(real)) + mean of −log(1 − σ(D(fake)))   mean of −log σ(D(fake))
        "hinge"            mean of max(0, 1 − D(real)) + mean of max(0, 1 + D(fake))    − mean of D(fake)

    Each loss trains one of the two. The discriminator's loss gives gradients to the discriminator's parameters, and none to the
    generator's. The generator's loss gives gradients to the generator's parameters, and none to the discriminator's: after
    g_loss.backward() their .grad is as before. Both backward passes may follow, in either order, before any parameter changes.

    Scores from −1e4 to 1e4 give finite, right losses and gradients.

    Args:
        generator: fake (F, …) = generator(noise).
        discriminator: scores (N,) = discriminator(samples), for samples (N, …).
        real: (N, …), N ≥ 1. noise: (F, …), F ≥ 1; F need not be N.
        kind: "non_saturating" or "hinge".

    Returns: the discriminator's loss and the generator's, both 0-d.
    Raises: ValueError for another kind.
    """
    # TODO: about 8 lines.
    raise NotImplementedError("gan_losses")


def noise_schedule(kind: str, T: int) -> tuple[Tensor, Tensor]:
    """How much noise each of T steps adds: β_0 … β_{T−1}, and the products ᾱ.

        "linear" (Ho et al. 2020): from β_0 = 1e-4 to β_{T−1} = 0.02 in equal steps. For T = 1, β_0 = 1e-4.
        "cosine" (Nichol & Dhariwal 2021, eq. 17): with f(u) = cos²(π/2 · (u / T + 0.008) / 1.008),
            β_t = 1 − f(t + 1) / f(t), but at most 0.999.

    ᾱ_t = (1 − β_0) · … · (1 − β_t), so it belongs to the β that are returned, the limited ones too. Both are computed in float64; the
    tests ask for nine digits of β and ᾱ.

    Args:
        kind: "linear" or "cosine".
        T: at least 1.

    Returns: betas and alpha_bars, each (T,), float64.
    Raises: ValueError for another kind, or T below 1.
    """
    # TODO: about 11 lines.
    raise NotImplementedError("noise_schedule")


def add_noise(x0: Tensor, noise: Tensor, t: Tensor, alpha_bars: Tensor) -> Tensor:
    """Jump from clean samples to step t of the diffusion at once (Ho et al. 2020, eq. 4).

        x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε

    Each sample has its own t. Both roots are taken in float64, so that 1 − ᾱ_t keeps its digits where ᾱ_t is almost 1.

    Args:
        x0: (B, …), clean samples, float32 or float64; any number of axes behind the first, none too; B may be 0.
        noise: ε, shape and dtype of x0.
        t: (B,), int64, 0 … T − 1.
        alpha_bars: ᾱ, (T,), float64, between 0 and 1.

    Returns: x_t, shape and dtype of x0.
    Raises: ValueError if t is not (B,).
    """
    # TODO: about 4 lines.
    raise NotImplementedError("add_noise")


def predict_x0(x_t: Tensor, output: Tensor, t: Tensor, alpha_bars: Tensor, *, kind: str = "noise") -> Tensor:
    """What the clean samples are, if a model's output is right.

    With x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε, a model is trained to output one of these, given x_t:

        "noise": ε (Ho et al. 2020)
        "v": √ᾱ_t · ε − √(1 − ᾱ_t) · x_0 (Salimans & Ho 2022, appendix D)

    Solve for x_0. In float64 it is exact to ten digits for ᾱ_t from 1e-6 on. Both roots are taken in float64. For "v", nothing is divided,
    and float32 is exact to six digits of the largest number for any ᾱ_t.

    Args:
        x_t: (B, …), noisy samples, float32 or float64; any number of axes behind the first, none too.
        output: the model's, shape and dtype of x_t.
        t: (B,), int64, 0 … T − 1, the step of each sample.
        alpha_bars: ᾱ, (T,), float64, between 0 and 1.
        kind: "noise" or "v".

    Returns: x_0, shape and dtype of x_t.
    Raises: ValueError for another kind.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("predict_x0")


def ddpm_step(x: Tensor, predicted: Tensor, t: int, betas: Tensor, noise: Tensor, *, clip: float | None = None) -> Tensor:
    """Go one step back, from x_t to x_{t−1}, with fresh noise (Ho et al. 2020, eq. 6, 7 and 15).

    With α_t = 1 − β_t, ᾱ_t the product of α_0 … α_t, and ᾱ_{−1} = 1:

        x̂_0 = (x_t − √(1 − ᾱ_t) · ε̂) / √ᾱ_t          clamped to −clip … clip, if clip is given
        μ = √ᾱ_{t−1} β_t / (1 − ᾱ_t) · x̂_0 + √α_t (1 − ᾱ_{t−1}) / (1 − ᾱ_t) · x_t
        β̃ = (1 − ᾱ_{t−1}) / (1 − ᾱ_t) · β_t
        x_{t−1} = μ + √β̃ · z

    At t = 0, β̃ is 0: the result is x̂_0, and what z holds does not matter, not even NaN or inf.

    Args:
        x: x_t, (B, …), float32 or float64. predicted: ε̂, the noise that the model sees in it. noise: z. All of one shape and dtype.
        t: the step of all samples, 0 … T − 1.
        betas: β, (T,), float64, between 0 and 1.
        clip: the largest size of an entry of x̂_0, 0 or more; None means no limit.

    Returns: x_{t−1}, shape and dtype of x.
    Raises: ValueError if t is not in 0 … T − 1.
    """
    # TODO: about 11 lines.
    raise NotImplementedError("ddpm_step")


def ddim_step(
    x: Tensor, predicted: Tensor, t: int, previous: int, alpha_bars: Tensor, *, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """Go back from step t to any earlier step s at once (Song et al. 2021, eq. 12 and 16).

    With s = previous, where s = −1 stands for the clean samples and ᾱ_{−1} = 1:

        x̂_0 = (x_t − √(1 − ᾱ_t) · ε̂) / √ᾱ_t
        σ² = η² · (1 − ᾱ_s) / (1 − ᾱ_t) · (1 − ᾱ_t / ᾱ_s)
        x_s = √ᾱ_s · x̂_0 + √(1 − ᾱ_s − σ²) · ε̂ + σ · z

    η = 0 is deterministic; η = 1 with s = t − 1 has the mean and the variance of DDPM's step. Where σ is 0, what z holds does not matter,
    not even NaN or inf.

    Args:
        x: x_t, (B, …), float32 or float64. predicted: ε̂, the noise that the model sees in it, shape and dtype of x.
        t: the step of all samples.
        previous: s, with −1 ≤ s < t < T.
        alpha_bars: ᾱ, (T,), float64, falling, between 1e-9 and 1.
        eta: η, 0 … 1.
        noise: z, shape and dtype of x. It may be None if eta is 0.

    Returns: x_s, shape and dtype of x.
    Raises: ValueError if s or t is out of range, or if eta is above 0 and noise is None.
    """
    # TODO: about 9 lines.
    raise NotImplementedError("ddim_step")


def guided_noise(model: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, t: Tensor, labels: Tensor, null: int, w: float) -> Tensor:
    """Predict noise with classifier-free guidance (Ho & Salimans 2022), in one run of the model.

        ε̂ = ε_null + w · (ε_label − ε_null)

    So w = 0 ignores the labels, w = 1 is the model with its labels, and w > 1 goes beyond it. (The paper's own w is smaller by 1.)

    The model is called once, with a batch of 2B: first the B samples with their labels, then the same B samples, in the same order, all
    with the label `null`. The test's model may compute each row differently, depending on its place in the batch.

    Args:
        model: ε (N, …) = model(x, t, labels), for x (N, …), t (N,) and labels (N,).
        x: (B, …), float32 or float64. t: (B,), int64.
        labels: (B,), int64.
        null: the label that stands for "no label"; any integer, 0 too.
        w: the strength, 0 or more.

    Returns: ε̂, shape and dtype of x.
    """
    # TODO: about 3 lines.
    raise NotImplementedError("guided_noise")


def drop_labels(labels: Tensor, p: float, null: int, *, generator: torch.Generator) -> Tensor:
    """Replace some labels by "no label", so that one network learns with and without them (Ho & Salimans 2022, algorithm 1).

    u = torch.rand(B, generator=generator), in float32, is drawn, once, and nothing else. Label b is replaced where u_b < p.

    Args:
        labels: (B,), int64; B may be 0.
        p: the probability, 0 … 1.
        null: the label that stands for "no label"; any integer, 0 too.
        generator: where the numbers come from. It goes on from its present state.

    Returns: a new tensor (B,), int64.
    Raises: ValueError if p is not in 0 … 1; then nothing is drawn.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("drop_labels")


def flow_matching_loss(model: Callable[[Tensor, Tensor], Tensor], x0: Tensor, x1: Tensor, t: Tensor, *, sigma_min: float = 0.0) -> Tensor:
    """Teach a model the velocity of straight paths from noise to data (Lipman et al. 2023, eq. 22 and 23).

    Here time runs the other way than in a diffusion: noise x_0 at t = 0, data x_1 at t = 1. With σ = sigma_min, for each pair:

        x_t = (1 − (1 − σ) t) · x_0 + t · x_1          where the path is at time t
        u = x_1 − (1 − σ) · x_0                        its velocity
        loss = mean of (model(x_t, t) − u)² over all entries of all samples

    Args:
        model: velocity (B, …) = model(x, t). It is called once, with t as given.
        x0: (B, …), noise. x1: (B, …), data, shape and dtype of x0; any number of axes behind the first, none too.
        t: (B,), 0 … 1, dtype of x0, the time of each pair.
        sigma_min: σ, 0 … 1, the width that is left around each sample of the data.

    Returns: the loss, 0-d. Gradients reach the model.
    Raises: ValueError if t is not (B,).
    """
    # TODO: about 5 lines.
    raise NotImplementedError("flow_matching_loss")


def euler_sample(velocity: Callable[[Tensor, Tensor], Tensor], x0: Tensor, steps: int) -> Tensor:
    """Carry noise to data along a velocity field, dx/dt = v(x, t), from t = 0 to t = 1 (Euler's method).

    With N = steps, for k = 0 … N − 1:

        x ← x + v(x, k / N) / N

    So the velocity is asked N times, always at the beginning of a step, never at t = 1. No graph is recorded, even if the velocity has
    parameters.

    Args:
        velocity: v (B, …) = velocity(x, t), with t (B,), the same time for all samples, in x's dtype.
        x0: (B, …), noise, float32 or float64.
        steps: N, at least 1.

    Returns: x at t = 1, shape and dtype of x0.
    Raises: ValueError if steps is below 1.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("euler_sample")


def train_ring_diffusion(net: nn.Module, data: Tensor, alpha_bars: Tensor, *, generator: torch.Generator, updates: int = 500) -> None:
    """Train a network to see the noise in noisy points (Ho et al. 2020, algorithm 1), so that one can draw new points with it.

    In each update, a batch of points, a step t of its own for each of them, uniform in 0 … T − 1, and standard normal noise ε are drawn.
    The loss is the mean squared difference between ε and net(√ᾱ_t · x_0 + √(1 − ᾱ_t) · ε, t).

    The test's 2,000 points lie around eight centres with a standard deviation of 0.05 R. The centres lie evenly on a circle of radius
    R = 1.5, which is turned by any angle, and whose middle is at most 0.6 away from 0. T is 40, the schedule the cosine one; the network
    is a small one that knows sines and cosines of x and t. After the default number of updates, this is asked of the network's weights:

    - For fresh points, steps and noise, the loss is at most 0.42.
    - 1,000 points are drawn from the network with DDPM's steps. At least 75 % of them are within R / 4 of a centre, and each centre has
      at least 4 % of them so near. (A network that has found the circle but not the centres gets to 65 %.)

    Adam with a batch of 128 and a learning rate that starts at 2e-2 and falls linearly to 0 gets to a loss of 0.34 and to 91 % of the
    points, in about a second on one core. You have ten seconds of it.

    Args:
        net: ε̂ (B, 2) = net(x, t), for x (B, 2) float32 and t (B,) int64. It is trained in place, in the mode in which it is, from the
            weights that it has.
        data: (M, 2), float32, M ≥ 1; M may be smaller than your batch.
        alpha_bars: ᾱ, (T,), float64; T ≥ 1.
        generator: all random numbers come from it: with a generator in the same state, the same weights become the same weights.
        updates: how many steps of the optimizer are made. 0 leaves the weights as they are.
    """
    # TODO: about 11 lines.
    raise NotImplementedError("train_ring_diffusion")
