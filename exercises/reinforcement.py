"""Reinforcement learning: from rewards to returns, advantages and losses, and to a policy that finds its way.

Every task stands alone. Time is the axis of size T, and B counts walks that happen side by side. Floating tensors are float32 or float64,
and results have their dtype; sums may be taken in any order.

Arguments, modes, generators and other global state are left as you found them, unless the statement says otherwise. Tensors may be
non-contiguous.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def discounted_returns(rewards: Tensor, done: Tensor, gamma: float, last: Tensor | None = None) -> Tensor:
    """Add up what is still to come at each step, later rewards for less (Sutton & Barto 2018, section 3.3).

        G[t] = rewards[t] + gamma · G[t + 1]   within an episode
        G[t] = rewards[t]                      where done[t]

    Step t was the last of its episode where done[t]; step t + 1 then belongs to the next one, whose rewards do not count. The record may
    end in the middle of an episode: then `last` is the worth of what comes after it, and takes the place of G[T]. It does not count where
    done[T − 1], and may be NaN there.

    Args:
        rewards: (T, B). T may be 0.
        done: (T, B), bool.
        gamma: from 0 to 1.
        last: (B,); None stands for zeros.

    Returns: (T, B), without a graph.
    """
    # TODO: about 7 lines.
    raise NotImplementedError("discounted_returns")


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    lam: float,
) -> tuple[Tensor, Tensor]:
    """Estimate how much better a step was than expected (Schulman et al. 2016, "GAE", equation 16).

    An episode ends in one of two ways. It is terminated: nothing comes any more. Or it is truncated, for instance by a limit of steps: it
    could have gone on, so the state that it had reached is worth what it is worth.

        δ[t] = rewards[t] + gamma · next_values[t] − values[t]
               (without next_values[t] where terminated[t])
        A[t] = δ[t] + gamma · lam · A[t + 1]
               (without A[t + 1] where the episode ended)

    A[T] is 0. The returns, which a value network learns, are A + values.

    Args:
        rewards: (T, B). T may be 0.
        values: (T, B), the worth of the state before step t.
        next_values: (T, B), the worth of the state that step t led to, before anything was reset. May be NaN where terminated.
        terminated, truncated: (T, B), bool. Both may be True; then it is terminated.
        gamma, lam: from 0 to 1.

    Returns: the advantages (T, B) and the returns (T, B), without a graph.
    """
    # TODO: about 6 lines.
    raise NotImplementedError("gae")


class ReplayBuffer:
    """Keep the latest steps, and draw some of them to learn from, in their n-step form (Hessel et al. 2018, "Rainbow").

    What is kept is made of up to n steps of one episode in a row. With the rewards r_0, …, r_(m−1) of m steps:

        obs, action   of the first step
        reward        r_0 + gamma · r_1 + … + gamma^(m−1) · r_(m−1)
        next_obs      what the last of them led to
        terminated    that of the last of them
        discount      gamma^m, for the worth of next_obs

    `push` takes a step. When n steps of the episode are there, the oldest of them has its n, and is kept, with m = n. When the episode
    ends, terminated or truncated, all that still wait are kept, oldest first, with the steps that they have, m < n; the next push begins
    a new episode. What still waits is not in the buffer. If there are more than `capacity`, the oldest goes.

    Args of the constructor:
        capacity: how many are kept, at least 1.
        n: at least 1.
        gamma: from 0 to 1.
    """

    def __init__(self, capacity: int, *, n: int = 1, gamma: float = 0.99) -> None:
        """Begin empty; see the class."""
        # TODO: about 3 lines.
        raise NotImplementedError("ReplayBuffer.__init__")

    def push(self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor, terminated: bool, truncated: bool = False) -> None:
        """Take a step. Whoever changes these tensors afterwards changes nothing here.

        Args:
            obs, next_obs: of one shape and dtype in all steps.
            action: 0-d, int64.
            reward: 0-d, floating.
            terminated, truncated: whether, and how, the episode ended with this step.
        """
        # TODO: about 18 lines.
        raise NotImplementedError("ReplayBuffer.push")

    def __len__(self) -> int:
        """How many are kept."""
        # TODO: about 1 line.
        raise NotImplementedError("ReplayBuffer.__len__")

    def sample(self, batch: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw different ones, all equally likely. How the generator is used is free: tests look at frequencies.

        Args:
            batch: how many, at least 1.

        Returns: the six entries of the class under their names, each stacked to (batch, …); terminated is bool, and discount has the
        rewards' dtype. Whoever changes them changes nothing here.
        Raises: ValueError if fewer are kept.
        """
        # TODO: about 4 lines.
        raise NotImplementedError("ReplayBuffer.sample")


def dqn_targets(
    online: Callable[[Tensor], Tensor],
    target: Callable[[Tensor], Tensor],
    rewards: Tensor,
    next_obs: Tensor,
    terminated: Tensor,
    gamma: float,
    *,
    double: bool = True,
) -> Tensor:
    """Say what a Q-network should have answered (Mnih et al. 2015, and van Hasselt, Guez & Silver 2016, "double DQN").

        y = rewards + gamma · target(next_obs)[a]
            (only rewards where terminated)

    a is the action for which target(next_obs) is largest; with `double` the one for which online(next_obs) is. Which of several largest
    ones is free. Where an episode was terminated, the networks may say NaN for its next_obs, and y is the reward all the same.

    No graph is recorded, neither here nor in the networks. Each network is called once, with all of next_obs, and in the mode in which it
    is; without `double` the online network is not called.

    Args:
        online, target: (B, …) → (B, actions).
        rewards: (B,). B ≥ 1.
        next_obs: (B, …).
        terminated: (B,), bool.
        gamma: from 0 to 1.

    Returns: (B,), of the rewards' dtype.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("dqn_targets")


class GridWorld:
    """Walk on a square of cells until the goal is reached, in many worlds side by side.

    A cell is (row, column), from (0, 0) to (size − 1, size − 1), which is the goal. A step goes one cell on:

        action 0   up      row − 1
        action 1   right   column + 1
        action 2   down    row + 1
        action 3   left    column − 1

    Who would leave the square stays. A step costs 0.1, a reward of −0.1; the step that reaches the goal has the reward 1 instead, and
    terminates the episode. An episode that has had max_steps steps and is not terminated is truncated. A world whose episode has ended
    starts anew at once, within the same step.

    An episode starts at a cell that is not the goal. For k ≥ 1 worlds that start, in the order of their index, the cells are drawn by one
    call, torch.randint(size · size − 1, (k,), generator=generator), and c stands for the cell (c // size, c % size). For none, nothing is
    drawn.

    Args of the constructor:
        worlds: how many there are, at least 1.
        size: at least 2.
        max_steps: at least 1.
        generator: what draws the starts.
    """

    def __init__(self, worlds: int, size: int, *, max_steps: int, generator: torch.Generator) -> None:
        """Make the worlds, which start with `reset`; see the class."""
        # TODO: about 3 lines.
        raise NotImplementedError("GridWorld.__init__")

    def reset(self) -> Tensor:
        """Start all worlds anew.

        Returns: (worlds, 2), int64, where they are.
        """
        # TODO: about 2 lines, and 5 in helpers of your own.
        raise NotImplementedError("GridWorld.reset")

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Go a step in each world. `reset` was called before.

        Args:
            actions: (worlds,), int64.

        Returns: five tensors with a row for each world, which nobody changes later: obs (worlds, 2), int64, where it is now, which is a
        new start where its episode has ended; reward (worlds,), float32; terminated and truncated (worlds,), bool; and final_obs
        (worlds, 2), int64, where the step led to, before a new start.
        Raises: ValueError if an action is none of the four. Then no world has moved.
        """
        # TODO: about 11 lines, and 5 in helpers of your own.
        raise NotImplementedError("GridWorld.step")


def reinforce_loss(
    logits: Tensor, actions: Tensor, returns: Tensor, *, baseline: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """Make actions likelier that were followed by more than expected (Williams 1992, "REINFORCE").

        loss = the mean of −log π(actions[t, b]) · (returns[t, b] − baseline[t, b])
               over the steps that the mask keeps

    π is the softmax of the logits. The weight of a step is a number: no gradient reaches the returns or the baseline. What the mask hides
    may be NaN or inf, and gets the gradient 0. Where the mask keeps nothing, the loss is 0, and so are all gradients.

    Args:
        logits: (T, B, actions).
        actions: (T, B), int64, those that were taken. Where the mask hides them, they may be any number.
        returns: (T, B).
        baseline: (T, B); None stands for zeros.
        mask: (T, B), bool; None keeps all.

    Returns: the loss, a 0-d tensor.
    Not allowed: torch.nn.functional.cross_entropy, torch.nn.functional.nll_loss, torch.nn.CrossEntropyLoss, torch.nn.NLLLoss.
    """
    # TODO: about 5 lines.
    raise NotImplementedError("reinforce_loss")


def ppo_loss(
    logits: Tensor,
    values: Tensor,
    actions: Tensor,
    old_log_probs: Tensor,
    old_values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    *,
    clip: float = 0.2,
    value_weight: float = 0.5,
    entropy_weight: float = 0.01,
) -> dict[str, Tensor]:
    """Improve a policy, but not further than the walks can tell (Schulman et al. 2017, "PPO", equations 7 and 9).

    With π, the softmax of the logits, r = π(actions) / exp(old_log_probs), and clipped(x) = x kept within 1 − clip … 1 + clip:

        Â        = (advantages − their mean) / (their deviation + 1e-8)
        policy   = −mean of min(r · Â, clipped(r) · Â)
        v        = old_values + (values − old_values, kept within ±clip)
        value    = ½ · mean of max((values − returns)², (v − returns)²)
        entropy  = mean of −Σ_a π(a) · log π(a)
        loss     = policy + value_weight · value − entropy_weight · entropy

    The deviation is that of all N advantages, the root of their mean squared distance from the mean: for N = 1 it is 0, and Â is 0 too.
    Gradients reach logits and values only.

    Args:
        logits: (N, actions), finite; differences may be so large that some π(a) is 0 in its dtype. N ≥ 1.
        values, old_values, advantages, returns: (N,).
        actions: (N,), int64.
        old_log_probs: (N,), such that r is at most 10⁶.
        clip: between 0 and 1.
        value_weight, entropy_weight: 0 or more.

    Returns: {"loss": …, "policy": …, "value": …, "entropy": …}, 0-d tensors.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("ppo_loss")


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_mask: Tensor,
    rejected_mask: Tensor,
    *,
    beta: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Learn which of two answers people prefer, without a reward model (Rafailov et al. 2023, "DPO", equation 7).

    The policy's and a frozen reference's log-probabilities of each token are given. An answer's is the sum over the tokens that its mask
    keeps: those of the answer, and not of the question or the padding.

        reward(answer) = beta · (policy's sum − reference's sum)
        margin         = reward(chosen) − reward(rejected)
        loss           = mean over the pairs of −log σ(margin)

    Margins up to ±10⁴ give the right loss and gradients. Gradients reach `chosen` and `rejected` only. What a mask hides may be NaN or
    inf, and gets the gradient 0.

    Args:
        chosen, reference_chosen: (B, T), floating. B ≥ 1.
        rejected, reference_rejected: (B, S), with an S of its own.
        chosen_mask: (B, T), bool.
        rejected_mask: (B, S), bool.
        beta: above 0.

    Returns: the loss, a 0-d tensor, and the margins, (B,), without a graph.
    """
    # TODO: about 4 lines.
    raise NotImplementedError("dpo_loss")


def grpo_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    reference_log_probs: Tensor,
    rewards: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    beta: float = 0.04,
) -> Tensor:
    """Compare a question's answers with each other, and learn from the better ones (Shao et al. 2024, "DeepSeekMath", section 4.1).

    Each of B questions has G answers of up to T tokens. An answer's advantage is by how many deviations its reward is above the mean of
    its question's; the deviation is the root of the mean squared distance from the mean. Where all rewards of a question are equal, all
    its advantages are exactly 0.

    For each token, with p, old and ref its log-probabilities under the policy, the policy that wrote the answer, and the reference:

        r   = exp(p − old)
        kl  = exp(ref − p) − (ref − p) − 1
        ℓ   = −min(r · A, (r kept within 1 ± clip) · A) + beta · kl

    The loss is the mean of ℓ over each answer's own tokens, then the mean over all B · G answers. An answer without tokens counts, with 0.
    Gradients reach log_probs only. What the mask hides may be NaN or inf, and gets the gradient 0.

    Args:
        log_probs, old_log_probs, reference_log_probs: (B, G, T); where the mask keeps them, they differ by less than 10.
        rewards: (B, G), finite. B, G ≥ 1.
        mask: (B, G, T), bool, True for an answer's own tokens.
        clip: between 0 and 1.
        beta: 0 or more.

    Returns: the loss, a 0-d tensor.
    """
    # TODO: about 10 lines.
    raise NotImplementedError("grpo_loss")


def train_gridworld(
    env: Any,
    policy: nn.Module,
    *,
    generator: torch.Generator,
    iterations: int = 60,
    steps: int = 30,
) -> None:
    """Teach a policy to reach its goal, by REINFORCE with a baseline or a better way.

    The environment has B worlds side by side. env.reset() starts all anew and returns where they are, (B, 2), int64. env.step(actions)
    takes int64 (B,), each 0, 1, 2 or 3, and returns (obs, reward, terminated, truncated, final_obs) as the task GridWorld has it: a world
    whose episode has ended starts anew at once, obs is that start, and reward belongs to the step before it. There is a cell with a goal,
    and a step that reaches it has a high reward; every other one costs a little. Where the goal is, and which action leads where, is not
    told.

    policy(obs) gives logits, (B, 4). Train its parameters in place, from the weights that it has. Each iteration resets the environment
    once, and then takes exactly `steps` steps, so that there are no more than iterations · steps of them in all. With 0 iterations
    nothing is changed. The policy is used in the mode in which it is.

    All that is random here comes from the generator, such as torch.multinomial(probabilities, 1, generator=generator); the environment
    has its own. The same generator state gives the same policy.

    With B = 32, 60 iterations of 30 steps, a square of 4 × 4 and a table of logits as the policy, the policy is then to reach the goal
    in 5 steps or fewer on average over all starts, with its actions drawn from it; when all logits are 0, it takes 20 to 50. Which
    optimizer, learning rate and baseline do it is yours to find out. All of it may take 5 seconds.

    Returns: None.
    """
    # TODO: about 20 lines.
    raise NotImplementedError("train_gridworld")
