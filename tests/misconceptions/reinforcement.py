"""Named wrong answers to the tasks of reinforcement: the hidden suite must reject every one."""

from collections import deque
from typing import ClassVar

import torch
from torch.nn import functional as F

from grader.testing import misconception
from solutions.reinforcement import GridWorld as ReferenceWorld
from solutions.reinforcement import ReplayBuffer as ReferenceBuffer
from solutions.reinforcement import discounted_returns as reference_returns
from solutions.reinforcement import dpo_loss as reference_dpo
from solutions.reinforcement import dqn_targets as reference_targets
from solutions.reinforcement import gae as reference_gae
from solutions.reinforcement import grpo_loss as reference_grpo
from solutions.reinforcement import reinforce_loss as reference_reinforce
from solutions.reinforcement import train_gridworld as reference_training

# discounted_returns


def _backwards(rewards, step, following):
    out = []
    for t in reversed(range(len(rewards))):
        following = step(t, following)
        out.append(following)
    return torch.stack(out[::-1]) if out else torch.empty_like(rewards)


@misconception("discounted_returns", "Lets rewards of the next episode flow back over an end.")
def ignores_ends(rewards, done, gamma, last=None):
    return reference_returns(rewards, torch.zeros_like(done), gamma, last)


@misconception("discounted_returns", "Leaves out what comes after the record.")
def forgets_last(rewards, done, gamma, last=None):
    return reference_returns(rewards, done, gamma)


@misconception("discounted_returns", "Counts `last` without gamma: it belongs to the step after.")
def last_is_not_discounted(rewards, done, gamma, last=None):
    if last is None or not len(rewards):
        return reference_returns(rewards, done, gamma)
    return reference_returns(rewards, done, gamma, last / gamma if gamma else last)


@misconception("discounted_returns", "Multiplies by 0 where an episode ends: 0 · NaN is NaN.")
@torch.no_grad()
def multiplies_by_zero(rewards, done, gamma, last=None):
    last = torch.zeros_like(rewards[:1].sum(0)) if last is None else last
    return _backwards(rewards, lambda t, g: rewards[t] + gamma * g * (~done[t]), last)


@misconception("discounted_returns", "Adds `last` after an end too.")
def last_counts_after_an_end(rewards, done, gamma, last=None):
    if not len(rewards):
        return rewards.clone()
    done = torch.cat([done[:-1], torch.zeros_like(done[-1:])])
    return reference_returns(rewards, done, gamma, last)


@misconception("discounted_returns", "Looks at the end of the next step instead of its own.")
@torch.no_grad()
def off_by_one(rewards, done, gamma, last=None):
    last = torch.zeros_like(rewards[:1].sum(0)) if last is None else last
    T = len(rewards)

    def step(t, g):
        ended = done[t + 1] if t + 1 < T else torch.zeros_like(done[t])
        return rewards[t] + gamma * torch.where(ended, 0.0, g)

    return _backwards(rewards, step, last)


@misconception("discounted_returns", "Discounts from the beginning of the record: gamma^t · r_t.")
@torch.no_grad()
def discounts_from_the_start(rewards, done, gamma, last=None):
    weights = gamma ** torch.arange(len(rewards), dtype=rewards.dtype)[:, None]
    return reference_returns(rewards * weights, done, 1.0, last)


@misconception("discounted_returns", "Sums up what has been, and not what is still to come.")
@torch.no_grad()
def sums_the_past(rewards, done, gamma, last=None):
    return reference_returns(rewards.flip(0), done.flip(0), gamma, last).flip(0)


@misconception("discounted_returns", "Divides cumulative sums by powers of gamma: they run under for long walks, and gamma 0 divides by 0.")
@torch.no_grad()
def divides_by_powers(rewards, done, gamma, last=None):
    if done.any():
        return reference_returns(rewards, done, gamma, last)
    T = len(rewards)
    powers = gamma ** torch.arange(T, dtype=torch.float32)[:, None]
    sums = (rewards * powers).flip(0).cumsum(0).flip(0)
    if last is not None:
        sums = sums + gamma**T * last
    return (sums / powers).to(rewards.dtype)


@misconception("discounted_returns", "Counts the reward of the step after, and not the step's own.")
@torch.no_grad()
def leaves_out_its_own(rewards, done, gamma, last=None):
    returns = reference_returns(rewards, done, gamma, last)
    return returns - rewards


@misconception("discounted_returns", "Clips returns, as PPO clips ratios.")
def clips_returns(rewards, done, gamma, last=None):
    return reference_returns(rewards, done, gamma, last).clamp(-1000, 1000)


@misconception("discounted_returns", "Computes in float32: float64 loses digits.")
def in_float32(rewards, done, gamma, last=None):
    last = None if last is None else last.float()
    return reference_returns(rewards.float(), done, gamma, last).to(rewards.dtype)


@misconception("discounted_returns", "Writes the returns over the rewards.")
@torch.no_grad()
def overwrites_rewards(rewards, done, gamma, last=None):
    rewards.detach().copy_(reference_returns(rewards, done, gamma, last))
    return rewards.detach()


@misconception("discounted_returns", "Records a graph through all rewards.")
def keeps_a_graph(rewards, done, gamma, last=None):
    last = torch.zeros_like(rewards[:1].sum(0)) if last is None else last
    return _backwards(rewards, lambda t, g: rewards[t] + gamma * torch.where(done[t], 0.0, g), last)


@misconception("discounted_returns", "Makes the reward of a last step 0 as well.")
@torch.no_grad()
def drops_the_last_reward(rewards, done, gamma, last=None):
    return reference_returns(rewards.masked_fill(done, 0.0), done, gamma, last)


@misconception("discounted_returns", "Ends all walks where one of them ends.")
@torch.no_grad()
def ends_all_together(rewards, done, gamma, last=None):
    return reference_returns(rewards, done.any(1, keepdim=True).expand_as(done), gamma, last)


# gae


@misconception("gae", "Treats a time limit as death: the state that was reached counts 0.")
def truncation_is_death(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    return reference_gae(rewards, values, next_values, terminated | truncated, truncated, gamma=gamma, lam=lam)


@misconception("gae", "Lets advantages flow back over a truncation.")
def flows_over_truncation(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    return reference_gae(rewards, values, next_values, terminated, torch.zeros_like(truncated), gamma=gamma, lam=lam)


def _gae(rewards, deltas, cut, factor):
    following, out = torch.zeros_like(deltas[:1].sum(0)), []
    for t in reversed(range(len(deltas))):
        following = deltas[t] + factor * following.masked_fill(cut[t], 0.0)
        out.append(following)
    return torch.stack(out[::-1]) if out else torch.zeros_like(deltas)


@misconception("gae", "Leaves the end out of the recursion, but not out of δ.")
@torch.no_grad()
def recursion_without_ends(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    deltas = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values
    A = _gae(rewards, deltas, torch.zeros_like(terminated), gamma * lam)
    return A, A + values


@misconception("gae", "Leaves the end out of δ, but not out of the recursion.")
@torch.no_grad()
def delta_without_ends(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    deltas = rewards + gamma * next_values - values
    A = _gae(rewards, deltas, terminated | truncated, gamma * lam)
    return A, A + values


@misconception("gae", "Multiplies the next value by 0: 0 · NaN is NaN.")
@torch.no_grad()
def multiplies_next_value_by_zero(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    deltas = rewards + gamma * next_values * ~terminated - values
    A = _gae(rewards, deltas, terminated | truncated, gamma * lam)
    return A, A + values


@misconception("gae", "Takes values[t + 1] for the next value: after a new start that is another state.")
@torch.no_grad()
def takes_the_next_row(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    following = torch.cat([values[1:], next_values[-1:]])
    return reference_gae(rewards, values, following, terminated, truncated, gamma=gamma, lam=lam)


@misconception("gae", "Forgets gamma in the recursion: lam alone.")
@torch.no_grad()
def recursion_without_gamma(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    deltas = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values
    A = _gae(rewards, deltas, terminated | truncated, lam)
    return A, A + values


@misconception("gae", "Forgets lam in the recursion.")
@torch.no_grad()
def recursion_without_lam(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    deltas = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values
    A = _gae(rewards, deltas, terminated | truncated, gamma)
    return A, A + values


@misconception("gae", "Forgets gamma in δ.")
@torch.no_grad()
def delta_without_gamma(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    deltas = rewards + next_values.masked_fill(terminated, 0.0) - values
    A = _gae(rewards, deltas, terminated | truncated, gamma * lam)
    return A, A + values


@misconception("gae", "Returns the discounted rewards as returns, instead of A + values.")
@torch.no_grad()
def returns_of_rewards(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    A, _ = reference_gae(rewards, values, next_values, terminated, truncated, gamma=gamma, lam=lam)
    return A, reference_returns(rewards, terminated | truncated, gamma)


@misconception("gae", "Adds the values of the next states to the advantages.")
def adds_next_values(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    A, _ = reference_gae(rewards, values, next_values, terminated, truncated, gamma=gamma, lam=lam)
    return A, A + next_values


@misconception("gae", "Normalises the advantages, which belongs to the loss.")
def normalises(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    A, returns = reference_gae(rewards, values, next_values, terminated, truncated, gamma=gamma, lam=lam)
    return (A - A.mean()) / (A.std() + 1e-8), returns


@misconception("gae", "Keeps the graph of the values.")
def gae_with_graph(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    deltas = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values
    A = _gae(rewards, deltas, terminated | truncated, gamma * lam)
    return A, A + values


@misconception("gae", "Detaches the advantages, but not the returns.")
def returns_with_graph(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    A, _ = reference_gae(rewards, values, next_values, terminated, truncated, gamma=gamma, lam=lam)
    return A, A + values


@misconception("gae", "Where both ends are True, takes it for truncated.")
def truncation_wins(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    return reference_gae(rewards, values, next_values, terminated & ~truncated, terminated | truncated, gamma=gamma, lam=lam)


@misconception("gae", "Forgets to subtract the value.")
@torch.no_grad()
def without_baseline(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    A, _ = reference_gae(rewards, torch.zeros_like(values), next_values, terminated, truncated, gamma=gamma, lam=lam)
    return A, A + values


# ReplayBuffer


class _Buffer(ReferenceBuffer):
    """The reference, in parts that mistakes can replace."""

    def total(self, rewards):
        out = torch.zeros_like(rewards[0])
        for later in reversed(rewards):
            out = later + self.gamma * out
        return out

    def discount(self, count):
        return self.gamma**count

    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        self.waiting.append((obs.clone(), action.clone(), reward.clone()))
        ended = terminated or truncated
        while self.waiting and (ended or len(self.waiting) == self.n):
            self.keep(reward, next_obs, terminated, truncated)
            self.waiting.pop(0)

    def keep(self, reward, next_obs, terminated, truncated):
        self.kept.append(
            {
                "obs": self.waiting[0][0],
                "action": self.waiting[0][1],
                "reward": self.total([one[2] for one in self.waiting]),
                "next_obs": next_obs.clone(),
                "terminated": torch.tensor(terminated),
                "discount": torch.full_like(reward, self.discount(len(self.waiting))),
            }
        )


@misconception("ReplayBuffer", "Calls a truncated episode terminated.")
class TruncationIsDeath(_Buffer):
    def keep(self, reward, next_obs, terminated, truncated):
        super().keep(reward, next_obs, terminated or truncated, truncated)


@misconception("ReplayBuffer", "Drops the steps that still wait when an episode ends.")
class DropsTheRest(_Buffer):
    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        self.waiting.append((obs.clone(), action.clone(), reward.clone()))
        if len(self.waiting) == self.n:
            self.keep(reward, next_obs, terminated, truncated)
            self.waiting.pop(0)
        if terminated or truncated:
            self.waiting.clear()


@misconception("ReplayBuffer", "Keeps only the oldest of the waiting steps when an episode ends.")
class KeepsOneOfTheRest(_Buffer):
    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        self.waiting.append((obs.clone(), action.clone(), reward.clone()))
        if terminated or truncated or len(self.waiting) == self.n:
            self.keep(reward, next_obs, terminated, truncated)
            self.waiting.pop(0)
        if terminated or truncated:
            self.waiting.clear()


@misconception("ReplayBuffer", "Goes on over the end of an episode.")
class IgnoresEnds(_Buffer):
    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        self.waiting.append((obs.clone(), action.clone(), reward.clone()))
        if len(self.waiting) == self.n:
            self.keep(reward, next_obs, terminated, truncated)
            self.waiting.pop(0)


@misconception("ReplayBuffer", "Ends an episode only where it is terminated.")
class IgnoresTruncation(_Buffer):
    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        super().push(obs, action, reward, next_obs, terminated, False)


@misconception("ReplayBuffer", "Says gamma^n for the discount, also where fewer steps were left.")
class AlwaysGammaToTheN(_Buffer):
    def discount(self, count):
        return self.gamma**self.n


@misconception("ReplayBuffer", "Says gamma for the discount, whatever the number of steps.")
class AlwaysGamma(_Buffer):
    def discount(self, count):
        return self.gamma


@misconception("ReplayBuffer", "Sums the rewards without gamma.")
class SumsWithoutGamma(_Buffer):
    def total(self, rewards):
        return torch.stack(rewards).sum(0)


@misconception("ReplayBuffer", "Discounts the first reward as well.")
class DiscountsTheFirst(_Buffer):
    def total(self, rewards):
        return self.gamma * super().total(rewards)


@misconception("ReplayBuffer", "Discounts in the wrong order: the oldest reward most.")
class DiscountsBackwards(_Buffer):
    def total(self, rewards):
        return super().total(rewards[::-1])


@misconception("ReplayBuffer", "Keeps the observation after the first step as next_obs.")
class NextOfTheFirst(_Buffer):
    def __init__(self, capacity, *, n=1, gamma=0.99):
        super().__init__(capacity, n=n, gamma=gamma)
        self.following = []

    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        self.following.append(next_obs.clone())
        super().push(obs, action, reward, next_obs, terminated, truncated)

    def keep(self, reward, next_obs, terminated, truncated):
        super().keep(reward, self.following.pop(0), terminated, truncated)


@misconception("ReplayBuffer", "Keeps what was pushed, and not a copy: it changes with the caller's.")
class KeepsNoCopies(_Buffer):
    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        self.waiting.append((obs, action, reward))
        while self.waiting and (terminated or truncated or len(self.waiting) == self.n):
            self.keep(reward, next_obs, terminated, truncated)
            self.kept[-1]["next_obs"] = next_obs
            self.waiting.pop(0)


@misconception("ReplayBuffer", "Throws away what does not fit, instead of the oldest.")
class KeepsTheOldest(_Buffer):
    def __init__(self, capacity, *, n=1, gamma=0.99):
        super().__init__(capacity, n=n, gamma=gamma)
        self.capacity, self.kept = capacity, deque()

    def keep(self, reward, next_obs, terminated, truncated):
        super().keep(reward, next_obs, terminated, truncated)
        while len(self.kept) > self.capacity:
            self.kept.pop()


@misconception("ReplayBuffer", "Keeps one more than the capacity.")
class OneTooMany(_Buffer):
    def __init__(self, capacity, *, n=1, gamma=0.99):
        super().__init__(capacity + 1, n=n, gamma=gamma)


@misconception("ReplayBuffer", "Empties the buffer when it is full.")
class StartsOver(_Buffer):
    def __init__(self, capacity, *, n=1, gamma=0.99):
        super().__init__(capacity, n=n, gamma=gamma)
        self.capacity = capacity

    def keep(self, reward, next_obs, terminated, truncated):
        if len(self.kept) == self.capacity:
            self.kept.clear()
        super().keep(reward, next_obs, terminated, truncated)


@misconception("ReplayBuffer", "Draws with replacement: the same entry comes twice.")
class WithReplacement(ReferenceBuffer):
    def sample(self, batch, *, generator):
        if batch > len(self.kept):
            raise ValueError("too few")
        chosen = [self.kept[i] for i in torch.randint(len(self.kept), (batch,), generator=generator).tolist()]
        return {name: torch.stack([one[name] for one in chosen]) for name in chosen[0]}


@misconception("ReplayBuffer", "Draws from torch's global generator.")
class GlobalGenerator(ReferenceBuffer):
    def sample(self, batch, *, generator):
        return super().sample(batch, generator=torch.Generator().manual_seed(torch.randint(2**40, ()).item()))


@misconception("ReplayBuffer", "Always gives the newest.")
class GivesTheNewest(ReferenceBuffer):
    def sample(self, batch, *, generator):
        if batch > len(self.kept):
            raise ValueError("too few")
        torch.rand((), generator=generator)
        chosen = list(self.kept)[-batch:]
        return {name: torch.stack([one[name] for one in chosen]) for name in chosen[0]}


@misconception("ReplayBuffer", "Gives a row of neighbours from a random place, so that those at the ends come more seldom.")
class GivesNeighbours(ReferenceBuffer):
    def sample(self, batch, *, generator):
        if batch > len(self.kept):
            raise ValueError("too few")
        start = int(torch.randint(len(self.kept) - batch + 1, (), generator=generator))
        chosen = list(self.kept)[start : start + batch]
        return {name: torch.stack([one[name] for one in chosen]) for name in chosen[0]}


@misconception("ReplayBuffer", "Gives a stretch of the ring: each entry is equally likely, but a batch is one piece of one walk.")
class GivesAStretch(ReferenceBuffer):
    def sample(self, batch, *, generator):
        if batch > len(self.kept):
            raise ValueError("too few")
        start = int(torch.randint(len(self.kept), (), generator=generator))
        chosen = [self.kept[(start + i) % len(self.kept)] for i in range(batch)]
        return {name: torch.stack([one[name] for one in chosen]) for name in chosen[0]}


@misconception("ReplayBuffer", "Gives fewer where there are too few, instead of raising.")
class GivesFewer(ReferenceBuffer):
    def sample(self, batch, *, generator):
        if not len(self.kept):
            raise ValueError("empty")
        return super().sample(min(batch, len(self.kept)), generator=generator)


@misconception("ReplayBuffer", "Takes out what was drawn.")
class TakesOut(ReferenceBuffer):
    def sample(self, batch, *, generator):
        drawn = super().sample(batch, generator=generator)
        for _ in range(batch):
            self.kept.popleft()
        return drawn


@misconception("ReplayBuffer", "Counts the steps that wait as well.")
class CountsWaiting(ReferenceBuffer):
    def __len__(self):
        return len(self.kept) + len(self.waiting)


@misconception("ReplayBuffer", "Keeps its entries in the class, for all buffers together.")
class SharedEntries(ReferenceBuffer):
    shared: ClassVar = {}

    def __init__(self, capacity, *, n=1, gamma=0.99):
        super().__init__(capacity, n=n, gamma=gamma)
        self.kept = self.shared.setdefault(capacity, self.kept)


@misconception("ReplayBuffer", "Makes everything float32.")
class EverythingFloat(ReferenceBuffer):
    def sample(self, batch, *, generator):
        drawn = super().sample(batch, generator=generator)
        return {name: x if name in ("terminated", "action") else x.float() for name, x in drawn.items()}


# dqn_targets


@misconception("dqn_targets", "Takes the online network's value of its own choice.")
def online_values(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    return reference_targets(online, online if double else target, rewards, next_obs, terminated, gamma, double=double)


@misconception("dqn_targets", "Chooses with the target network and values with the online one.")
def swaps_networks(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    if not double:
        return reference_targets(online, target, rewards, next_obs, terminated, gamma, double=False)
    return reference_targets(target, online, rewards, next_obs, terminated, gamma)


@misconception("dqn_targets", "Clips the targets, as if a game could not be worth more.")
def clips_targets(*args, **settings):
    return reference_targets(*args, **settings).clamp(-100, 100)


@misconception("dqn_targets", "Uses the double rule always.")
def always_double(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    return reference_targets(online, target, rewards, next_obs, terminated, gamma)


@misconception("dqn_targets", "Never uses the double rule.")
def never_double(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    if double:
        with torch.no_grad():
            online(next_obs)
    return reference_targets(online, target, rewards, next_obs, terminated, gamma, double=False)


@misconception("dqn_targets", "Forgets that nothing comes after the end.")
def ignores_termination(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    return reference_targets(online, target, rewards, next_obs, torch.zeros_like(terminated), gamma, double=double)


@misconception("dqn_targets", "Multiplies by 0 after the end: 0 · NaN is NaN.")
@torch.no_grad()
def multiplies_after_the_end(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    worth = target(next_obs)
    index = (online(next_obs) if double else worth).argmax(1, keepdim=True)
    return rewards + gamma * worth.gather(1, index)[:, 0] * ~terminated


@misconception("dqn_targets", "Makes the whole target 0 after the end, the reward too.")
def drops_the_reward(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    return reference_targets(online, target, rewards, next_obs, terminated, gamma, double=double).masked_fill(terminated, 0.0)


@misconception("dqn_targets", "Forgets gamma.")
def without_gamma(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    return reference_targets(online, target, rewards, next_obs, terminated, 1.0, double=double)


@misconception("dqn_targets", "Discounts the reward as well.")
def discounts_the_reward(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    return reference_targets(online, target, gamma * rewards, next_obs, terminated, gamma, double=double)


@misconception("dqn_targets", "Lets gradients reach the networks through the target.")
def gradient_through_the_target(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    worth = target(next_obs)
    index = (online(next_obs) if double else worth).argmax(1, keepdim=True)
    return rewards + gamma * worth.gather(1, index)[:, 0].masked_fill(terminated, 0.0)


@misconception("dqn_targets", "Detaches at the end, after a graph of both networks was recorded.")
def detaches_late(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    return gradient_through_the_target(online, target, rewards, next_obs, terminated, gamma, double=double).detach()


@misconception("dqn_targets", "Puts the networks into eval mode.")
def into_eval_mode(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    modes = [(n, n.training) for n in (online, target) if hasattr(n, "training")]
    for network, _ in modes:
        network.eval()
    out = reference_targets(online, target, rewards, next_obs, terminated, gamma, double=double)
    for network, mode in modes:
        network.train(mode)
    return out


@misconception("dqn_targets", "Asks the networks for each row by itself: batch norm sees another batch.")
def row_by_row(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    rows = [
        reference_targets(online, target, rewards[i : i + 1], next_obs[i : i + 1], terminated[i : i + 1], gamma, double=double)
        for i in range(len(rewards))
    ]
    return torch.cat(rows)


@misconception("dqn_targets", "Asks the networks only for what is not terminated: batch norm sees another batch.")
@torch.no_grad()
def only_the_living(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    out = rewards.clone()
    going = ~terminated
    if going.any():
        no = torch.zeros(int(going.sum()), dtype=torch.bool)
        out[going] = reference_targets(online, target, rewards[going], next_obs[going], no, gamma, double=double)
    return out


@misconception("dqn_targets", "Takes the largest of the whole batch.")
@torch.no_grad()
def max_of_the_batch(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    worth = target(next_obs)
    if double:
        worth = worth.gather(1, online(next_obs).argmax(1, keepdim=True))
    return rewards + gamma * worth.max().expand(len(rewards)).masked_fill(terminated, 0.0)


@misconception("dqn_targets", "Calls the online network without need.")
def calls_online_always(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    with torch.no_grad():
        if not double:
            online(next_obs)
    return reference_targets(online, target, rewards, next_obs, terminated, gamma, double=double)


@misconception("dqn_targets", "Takes the mean over the actions.")
@torch.no_grad()
def mean_of_actions(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    if double:
        online(next_obs)
    return rewards + gamma * target(next_obs).mean(1).masked_fill(terminated, 0.0)


# GridWorld


class _World(ReferenceWorld):
    """The reference, in parts that mistakes can replace."""

    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
    goal_reward = 1.0

    def step(self, actions):
        self.check(actions)
        self.cells = self.bounded(self.cells + torch.tensor(self.moves)[actions])
        self.steps = self.steps + 1
        terminated = self.arrived()
        truncated = self.late(terminated)
        reward = torch.where(terminated, self.goal_reward, -0.1)
        final = self.cells.clone()
        self.start_anew(terminated, truncated)
        return self.cells.clone(), reward, terminated, truncated, final

    def check(self, actions):
        if not ((actions >= 0) & (actions < 4)).all():
            raise ValueError("no such action")

    def bounded(self, cells):
        return cells.clamp(0, self.size - 1)

    def arrived(self):
        return (self.cells == self.size - 1).all(1)

    def late(self, terminated):
        return ~terminated & (self.steps >= self.max_steps)

    def start_anew(self, terminated, truncated):
        self._start(terminated | truncated)


@misconception("GridWorld", "Takes (x, y) for (row, column).")
class SwapsAxes(_World):
    moves = ((0, -1), (1, 0), (0, 1), (-1, 0))


@misconception("GridWorld", "Goes up by adding to the row.")
class UpsideDown(_World):
    moves = ((1, 0), (0, 1), (-1, 0), (0, -1))


@misconception("GridWorld", "Comes back at the other side of the square.")
class WrapsAround(_World):
    def bounded(self, cells):
        return cells % self.size


@misconception("GridWorld", "Lets walkers out at the top and the left.")
class NoUpperWall(_World):
    def bounded(self, cells):
        return cells.clamp(max=self.size - 1)


@misconception("GridWorld", "Pays the step that reaches the goal 1 − 0.1.")
class PaysTheStep(_World):
    goal_reward = 0.9


@misconception("GridWorld", "Is content with the last row or the last column.")
class HalfAGoal(_World):
    def arrived(self):
        return (self.cells == self.size - 1).any(1)


@misconception("GridWorld", "Truncates where the goal is reached with the last step, too.")
class BothEnds(_World):
    def late(self, terminated):
        return self.steps >= self.max_steps


@misconception("GridWorld", "Truncates a step too late.")
class OneStepMore(_World):
    def late(self, terminated):
        return ~terminated & (self.steps > self.max_steps)


@misconception("GridWorld", "Truncates a step too early.")
class OneStepLess(_World):
    def late(self, terminated):
        return ~terminated & (self.steps >= max(1, self.max_steps - 1))


@misconception("GridWorld", "Starts anew only where the goal was reached.")
class StartsAfterTheGoal(_World):
    def start_anew(self, terminated, truncated):
        self._start(terminated)


@misconception("GridWorld", "Starts all worlds anew as soon as one has ended.")
class StartsAll(_World):
    def start_anew(self, terminated, truncated):
        if (terminated | truncated).any():
            self._start(torch.ones_like(terminated))


@misconception("GridWorld", "Never starts a world anew.")
class NeverStarts(_World):
    def start_anew(self, terminated, truncated):
        pass


@misconception("GridWorld", "Keeps counting steps after a new start.")
class KeepsCounting(_World):
    def _start(self, which):
        steps = self.steps.clone()
        super()._start(which)
        self.steps = steps


@misconception("GridWorld", "Gives the new start as final_obs: where the step led to is lost.")
class FinalIsTheStart(_World):
    def step(self, actions):
        obs, reward, terminated, truncated, _ = super().step(actions)
        return obs, reward, terminated, truncated, obs.clone()


@misconception("GridWorld", "Gives where the step led to as obs, and starts anew unseen.")
class ObsIsTheEnd(_World):
    def step(self, actions):
        *rest, final = super().step(actions)
        return final.clone(), *rest[1:], final


@misconception("GridWorld", "May start at the goal.")
class StartsAtTheGoal(_World):
    def _start(self, which):
        if k := int(which.sum()):
            cell = torch.randint(self.size * self.size, (k,), generator=self.generator)
            self.cells[which] = torch.stack([cell // self.size, cell % self.size], 1)
            self.steps[which] = 0


@misconception("GridWorld", "Draws a start for every world, and uses some.")
class DrawsTooMany(_World):
    def _start(self, which):
        cell = torch.randint(self.size * self.size - 1, (self.worlds,), generator=self.generator)
        self.cells[which] = torch.stack([cell // self.size, cell % self.size], 1)[which]
        self.steps[which] = 0


@misconception("GridWorld", "Draws starts from torch's global generator.")
class GlobalStarts(_World):
    def _start(self, which):
        if k := int(which.sum()):
            cell = torch.randint(self.size * self.size - 1, (k,))
            self.cells[which] = torch.stack([cell // self.size, cell % self.size], 1)
            self.steps[which] = 0


@misconception("GridWorld", "Takes the column for the row of a start.")
class StartsTransposed(_World):
    def _start(self, which):
        super()._start(which)
        self.cells[which] = self.cells[which].flip(1)


@misconception("GridWorld", "Takes negative actions from the end of the table.")
class NegativeActions(_World):
    def check(self, actions):
        if not (actions < 4).all():
            raise ValueError("no such action")


@misconception("GridWorld", "Moves first and complains then.")
class MovesBeforeItComplains(_World):
    def step(self, actions):
        wrong = (actions < 0) | (actions > 3)
        if wrong.any():
            super().step(actions.masked_fill(wrong, 0))
            raise ValueError("no such action")
        return super().step(actions)


@misconception("GridWorld", "Gives its own tensor of cells away: who changes it moves the walkers.")
class GivesItsOwn(_World):
    def step(self, actions):
        result = super().step(actions)
        return self.cells, *result[1:]

    def reset(self):
        super().reset()
        return self.cells


# reinforce_loss


@misconception("reinforce_loss", "Forgets the minus sign: bad actions become likelier.")
def without_minus(logits, actions, returns, *, baseline=None, mask=None):
    return -reference_reinforce(logits, actions, returns, baseline=baseline, mask=mask)


@misconception("reinforce_loss", "Forgets the baseline.")
def without_the_baseline(logits, actions, returns, *, baseline=None, mask=None):
    return reference_reinforce(logits, actions, returns, mask=mask)


@misconception("reinforce_loss", "Adds the baseline.")
def adds_the_baseline(logits, actions, returns, *, baseline=None, mask=None):
    return reference_reinforce(logits, actions, returns, baseline=None if baseline is None else -baseline, mask=mask)


@misconception("reinforce_loss", "Divides by the number of all steps, hidden ones too.")
def mean_over_all(logits, actions, returns, *, baseline=None, mask=None):
    loss = reference_reinforce(logits, actions, returns, baseline=baseline, mask=mask)
    return loss if mask is None else loss * mask.sum() / max(1, mask.numel())


@misconception("reinforce_loss", "Sums instead of taking the mean.")
def sum_of_steps(logits, actions, returns, *, baseline=None, mask=None):
    loss = reference_reinforce(logits, actions, returns, baseline=baseline, mask=mask)
    return loss * (actions.numel() if mask is None else mask.sum())


@misconception("reinforce_loss", "Divides by the number of walks.")
def mean_over_walks(logits, actions, returns, *, baseline=None, mask=None):
    return sum_of_steps(logits, actions, returns, baseline=baseline, mask=mask) / max(1, actions.shape[1])


@misconception("reinforce_loss", "Ignores the mask.")
def ignores_the_mask(logits, actions, returns, *, baseline=None, mask=None):
    return reference_reinforce(logits, actions.clamp(0, logits.shape[-1] - 1), returns, baseline=baseline)


def _reinforce(log_pi, actions, weight, mask):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    taken = log_pi.gather(-1, actions.masked_fill(~keep, 0)[..., None])[..., 0]
    return -(taken * weight).masked_fill(~keep, 0.0).sum() / keep.sum().clamp(min=1)


@misconception("reinforce_loss", "Hides the loss afterwards: the gradient of a hidden NaN is NaN.")
def hides_too_late(logits, actions, returns, *, baseline=None, mask=None):
    weight = (returns if baseline is None else returns - baseline).detach()
    return _reinforce(F.log_softmax(logits, -1), actions, weight, mask)


@misconception("reinforce_loss", "Fills the logits, but not the returns that are hidden.")
def fills_logits_only(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    weight = (returns if baseline is None else returns - baseline).detach() * keep
    taken = F.log_softmax(logits.masked_fill(~keep[..., None], 0.0), -1).gather(-1, actions.masked_fill(~keep, 0)[..., None])[..., 0]
    return -(taken * weight).sum() / keep.sum().clamp(min=1)


@misconception("reinforce_loss", "Looks up hidden actions as they are: there may be no such index.")
def looks_up_hidden_actions(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    weight = (returns if baseline is None else returns - baseline).detach().masked_fill(~keep, 0.0)
    taken = F.log_softmax(logits.masked_fill(~keep[..., None], 0.0), -1).gather(-1, actions[..., None])[..., 0]
    return -(taken * weight).sum() / keep.sum().clamp(min=1)


@misconception("reinforce_loss", "Lets a gradient reach the baseline.")
def gradient_to_the_baseline(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    weight = (returns.detach() if baseline is None else returns.detach() - baseline).masked_fill(~keep, 0.0)
    return _reinforce(F.log_softmax(logits.masked_fill(~keep[..., None], 0.0), -1), actions, weight, mask)


@misconception("reinforce_loss", "Lets a gradient reach the returns.")
def gradient_to_the_returns(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    weight = (returns if baseline is None else returns - baseline.detach()).masked_fill(~keep, 0.0)
    return _reinforce(F.log_softmax(logits.masked_fill(~keep[..., None], 0.0), -1), actions, weight, mask)


@misconception("reinforce_loss", "Uses the log-probability of the likeliest action.")
def log_prob_of_the_best(logits, actions, returns, *, baseline=None, mask=None):
    if not logits.numel():
        return reference_reinforce(logits, actions, returns, baseline=baseline, mask=mask)
    return reference_reinforce(logits, logits.nan_to_num().argmax(-1), returns, baseline=baseline, mask=mask)


@misconception("reinforce_loss", "Takes the probability instead of its logarithm.")
def probability_itself(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    weight = (returns if baseline is None else returns - baseline).detach().masked_fill(~keep, 0.0)
    return _reinforce(logits.masked_fill(~keep[..., None], 0.0).softmax(-1), actions, weight, mask)


@misconception("reinforce_loss", "Takes the logarithm of the softmax: −inf where a probability is 0.")
def log_of_softmax(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    weight = (returns if baseline is None else returns - baseline).detach().masked_fill(~keep, 0.0)
    return _reinforce(logits.masked_fill(~keep[..., None], 0.0).softmax(-1).log(), actions, weight, mask)


@misconception("reinforce_loss", "Divides by 0 where nothing is kept.")
def divides_by_none(logits, actions, returns, *, baseline=None, mask=None):
    loss = reference_reinforce(logits, actions, returns, baseline=baseline, mask=mask)
    kept = actions.numel() if mask is None else int(mask.sum())
    return loss if kept else loss * float("nan")


@misconception("reinforce_loss", "Normalises the returns, which is not asked for.")
def normalises_returns(logits, actions, returns, *, baseline=None, mask=None):
    weight = returns if baseline is None else returns - baseline
    weight = (weight - weight.mean()) / (weight.std() + 1e-8)
    return reference_reinforce(logits, actions, weight, mask=mask)


@misconception("reinforce_loss", "Takes the softmax over the walks.")
def softmax_over_walks(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones_like(actions, dtype=torch.bool) if mask is None else mask
    weight = (returns if baseline is None else returns - baseline).detach().masked_fill(~keep, 0.0)
    return _reinforce(F.log_softmax(logits.masked_fill(~keep[..., None], 0.0), 1), actions, weight, mask)


# ppo_loss


def _ppo(
    logits, values, actions, old_log_probs, old_values, advantages, returns, *, clip=0.2, value_weight=0.5, entropy_weight=0.01, **change
):
    """The reference, in parts that mistakes can replace."""
    old_log_probs, old_values, returns = (x.detach() for x in (old_log_probs, old_values, returns))
    normal = change.get("normal", lambda a: (a - a.mean()) / (a.std(correction=0) + 1e-8))(advantages.detach())
    log_pi = change.get("log_pi", lambda x: F.log_softmax(x, -1))(logits)
    ratio = change.get("ratio", lambda new, old: (new - old).exp())(log_pi.gather(1, actions[:, None])[:, 0], old_log_probs)
    clipped = change.get("clipped", lambda r: r.clamp(1 - clip, 1 + clip))(ratio)
    policy = change.get("policy", lambda r, c, a: -torch.minimum(r * a, c * a).mean())(ratio, clipped, normal)
    near = change.get("near", lambda v, o: o + (v - o).clamp(-clip, clip))(values, old_values)
    value = change.get("value", lambda v, n, r: 0.5 * torch.maximum((v - r).square(), (n - r).square()).mean())(values, near, returns)
    entropy = change.get("entropy", lambda lp: -(lp.exp() * lp).sum(1).mean())(log_pi)
    loss = policy + value_weight * value + change.get("sign", -1) * entropy_weight * entropy
    return {"loss": loss, "policy": policy, "value": value, "entropy": entropy}


@misconception("ppo_loss", "Takes the maximum: then a bad action's loss is limited, and a good one's gain is not.")
def max_for_min(*args, **settings):
    return _ppo(*args, **settings, policy=lambda r, c, a: -torch.maximum(r * a, c * a).mean())


@misconception("ppo_loss", "Uses the clipped ratio alone.")
def clipped_only(*args, **settings):
    return _ppo(*args, **settings, policy=lambda r, c, a: -(c * a).mean())


@misconception("ppo_loss", "Does not clip the ratio.")
def unclipped_ratio(*args, **settings):
    return _ppo(*args, **settings, clipped=lambda r: r)


@misconception("ppo_loss", "Takes the smaller ratio first: for a negative advantage the clipped one must not win.")
def min_of_ratios(*args, **settings):
    return _ppo(*args, **settings, policy=lambda r, c, a: -(torch.minimum(r, c) * a).mean())


@misconception("ppo_loss", "Adds the entropy to the loss: the policy is driven to certainty.")
def entropy_sign(*args, **settings):
    return _ppo(*args, **settings, sign=1)


@misconception("ppo_loss", "Forgets the minus sign of the policy term.")
def policy_sign(*args, **settings):
    return _ppo(*args, **settings, policy=lambda r, c, a: torch.minimum(r * a, c * a).mean())


@misconception("ppo_loss", "Does not normalise the advantages.")
def raw_advantages(*args, **settings):
    return _ppo(*args, **settings, normal=lambda a: a)


@misconception("ppo_loss", "Uses the deviation that estimates a larger group's: NaN for one step.")
def sample_deviation(*args, **settings):
    return _ppo(*args, **settings, normal=lambda a: (a - a.mean()) / (a.std() + 1e-8))


@misconception("ppo_loss", "Does not take the mean of the advantages away.")
def scales_only(*args, **settings):
    return _ppo(*args, **settings, normal=lambda a: a / (a.std(correction=0) + 1e-8))


@misconception("ppo_loss", "Divides by a deviation of 0.")
def no_small_number(*args, **settings):
    return _ppo(*args, **settings, normal=lambda a: (a - a.mean()) / a.std(correction=0))


@misconception("ppo_loss", "Does not clip the value.")
def unclipped_value(*args, **settings):
    return _ppo(*args, **settings, near=lambda v, o: v)


@misconception("ppo_loss", "Takes the smaller of the two squared errors.")
def smaller_value_error(*args, **settings):
    return _ppo(*args, **settings, value=lambda v, n, r: 0.5 * torch.minimum((v - r).square(), (n - r).square()).mean())


@misconception("ppo_loss", "Takes the clipped value alone.")
def clipped_value_only(*args, **settings):
    return _ppo(*args, **settings, value=lambda v, n, r: 0.5 * (n - r).square().mean())


@misconception("ppo_loss", "Forgets the ½ of the value term.")
def value_without_half(*args, **settings):
    return _ppo(*args, **settings, value=lambda v, n, r: torch.maximum((v - r).square(), (n - r).square()).mean())


@misconception("ppo_loss", "Takes the larger of two means instead of the mean of the larger.")
def larger_of_means(*args, **settings):
    return _ppo(*args, **settings, value=lambda v, n, r: 0.5 * torch.maximum((v - r).square().mean(), (n - r).square().mean()))


@misconception("ppo_loss", "Clips the value around the return instead of the old value.")
def clips_around_zero(*args, **settings):
    clip = settings.get("clip", 0.2)
    return _ppo(*args, **settings, near=lambda v, o: v.clamp(-clip, clip))


@misconception("ppo_loss", "Subtracts log-probabilities and forgets exp.")
def log_ratio(*args, **settings):
    return _ppo(*args, **settings, ratio=lambda new, old: new - old)


@misconception("ppo_loss", "Limits the logarithm of the ratio, so that bad actions that became likely have no gradient.")
def limits_the_log_ratio(*args, **settings):
    return _ppo(*args, **settings, ratio=lambda new, old: (new - old).clamp(-10, 10).exp())


@misconception("ppo_loss", "Turns the ratio upside down.")
def inverse_ratio(*args, **settings):
    return _ppo(*args, **settings, ratio=lambda new, old: (old - new).exp())


@misconception("ppo_loss", "Estimates the entropy from the actions that were taken.")
def entropy_of_taken(*args, **settings):
    actions = args[2]
    return _ppo(*args, **settings, entropy=lambda lp: -lp.gather(1, actions[:, None]).mean())


@misconception("ppo_loss", "Takes the mean of p log p over actions too.")
def entropy_mean_over_actions(*args, **settings):
    return _ppo(*args, **settings, entropy=lambda lp: -(lp.exp() * lp).mean())


@misconception("ppo_loss", "Takes the logarithm of the softmax: 0 · −inf is NaN.")
def log_of_pi(*args, **settings):
    return _ppo(*args, **settings, log_pi=lambda x: x.softmax(-1).log())


@misconception("ppo_loss", "Lets no gradient through the ratio: detaches the new log-probabilities.")
def detaches_the_policy(*args, **settings):
    return _ppo(*args, **settings, ratio=lambda new, old: (new.detach() - old).exp())


@misconception("ppo_loss", "Lets gradients reach advantages and returns.")
def gradients_everywhere(
    logits, values, actions, old_log_probs, old_values, advantages, returns, *, clip=0.2, value_weight=0.5, entropy_weight=0.01
):
    normal = (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)
    log_pi = F.log_softmax(logits, -1)
    ratio = (log_pi.gather(1, actions[:, None])[:, 0] - old_log_probs).exp()
    policy = -torch.minimum(ratio * normal, ratio.clamp(1 - clip, 1 + clip) * normal).mean()
    near = old_values + (values - old_values).clamp(-clip, clip)
    value = 0.5 * torch.maximum((values - returns).square(), (near - returns).square()).mean()
    entropy = -(log_pi.exp() * log_pi).sum(1).mean()
    return {
        "loss": policy + value_weight * value - entropy_weight * entropy,
        "policy": policy,
        "value": value,
        "entropy": entropy,
    }


# dpo_loss


@misconception("dpo_loss", "Forgets the reference.")
def without_reference(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    zeros = torch.zeros_like(chosen), torch.zeros_like(rejected)
    return reference_dpo(chosen, rejected, *zeros, chosen_mask, rejected_mask, beta=beta)


@misconception("dpo_loss", "Takes the mean over tokens: long answers count less.")
def mean_over_tokens(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    def reward(policy, reference, mask):
        total = (policy.masked_fill(~mask, 0.0) - reference.detach().masked_fill(~mask, 0.0)).sum(1)
        return beta * total / mask.sum(1).clamp(min=1)

    margin = reward(chosen, reference_chosen, chosen_mask) - reward(rejected, reference_rejected, rejected_mask)
    return -F.logsigmoid(margin).mean(), margin.detach()


@misconception("dpo_loss", "Swaps chosen and rejected.")
def swaps_answers(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    return reference_dpo(rejected, chosen, reference_rejected, reference_chosen, rejected_mask, chosen_mask, beta=beta)


@misconception("dpo_loss", "Adds the reference instead of subtracting it.")
def adds_the_reference(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    return reference_dpo(chosen, rejected, -reference_chosen, -reference_rejected, chosen_mask, rejected_mask, beta=beta)


@misconception("dpo_loss", "Forgets beta.")
def without_beta(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    return reference_dpo(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta=1.0)


@misconception("dpo_loss", "Scales the loss with beta instead of the margin.")
def beta_outside(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    loss, margin = reference_dpo(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta=1.0)
    return beta * loss, beta * margin


@misconception("dpo_loss", "Returns the margins without beta.")
def margins_without_beta(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    loss, margin = reference_dpo(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta=beta)
    return loss, margin / beta


@misconception("dpo_loss", "Takes the logarithm of sigmoid: −inf at large margins.")
def log_of_sigmoid(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    return _dpo(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta, lambda z: -z.sigmoid().log())


def _dpo(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta, loss):
    def reward(policy, reference, mask):
        return beta * (policy.masked_fill(~mask, 0.0) - reference.detach().masked_fill(~mask, 0.0)).sum(1)

    margin = reward(chosen, reference_chosen, chosen_mask) - reward(rejected, reference_rejected, rejected_mask)
    return loss(margin).mean(), margin.detach()


@misconception("dpo_loss", "Writes log(1 + exp(−z)), which overflows.")
def log_of_exp(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    given = chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask
    return _dpo(*given, beta, lambda z: (1 + (-z).exp()).log())


@misconception("dpo_loss", "Uses a hinge.")
def hinge(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    given = chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask
    return _dpo(*given, beta, lambda z: (1 - z).relu())


@misconception("dpo_loss", "Ignores the masks.")
def ignores_masks(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    masks = torch.ones_like(chosen_mask), torch.ones_like(rejected_mask)
    return reference_dpo(chosen, rejected, reference_chosen, reference_rejected, *masks, beta=beta)


@misconception("dpo_loss", "Multiplies by the masks: NaN times 0 is NaN.")
def multiplies_masks(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    def reward(policy, reference, mask):
        return beta * ((policy - reference.detach()) * mask).sum(1)

    margin = reward(chosen, reference_chosen, chosen_mask) - reward(rejected, reference_rejected, rejected_mask)
    return -F.logsigmoid(margin).mean(), margin.detach()


@misconception("dpo_loss", "Lets gradients reach the reference.")
def trains_the_reference(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    def reward(policy, reference, mask):
        return beta * (policy.masked_fill(~mask, 0.0) - reference.masked_fill(~mask, 0.0)).sum(1)

    margin = reward(chosen, reference_chosen, chosen_mask) - reward(rejected, reference_rejected, rejected_mask)
    return -F.logsigmoid(margin).mean(), margin.detach()


@misconception("dpo_loss", "Returns margins with a graph, which keeps all activations.")
def margins_with_a_graph(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    def reward(policy, reference, mask):
        return beta * (policy.masked_fill(~mask, 0.0) - reference.detach().masked_fill(~mask, 0.0)).sum(1)

    margin = reward(chosen, reference_chosen, chosen_mask) - reward(rejected, reference_rejected, rejected_mask)
    return -F.logsigmoid(margin).mean(), margin


@misconception("dpo_loss", "Sums over the pairs.")
def sum_over_pairs(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    loss, margin = reference_dpo(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, beta=beta)
    return loss * len(margin), margin


@misconception("dpo_loss", "Takes the sigmoid of the mean margin.")
def loss_of_the_mean(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    given = chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask
    return _dpo(*given, beta, lambda z: -F.logsigmoid(z.mean()))


@misconception("dpo_loss", "Hides the rejected answer's padding with the chosen one's mask where they have one length.")
def one_mask_for_both(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    n = min(chosen_mask.shape[1], rejected_mask.shape[1])
    mask = rejected_mask.clone()
    mask[:, :n] = chosen_mask[:, :n]
    return reference_dpo(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, mask, beta=beta)


# grpo_loss


def _grpo(log_probs, old_log_probs, reference_log_probs, rewards, mask, *, clip=0.2, beta=0.04, **change):
    """The reference, in parts that mistakes can replace."""

    def normal(rewards):
        distance = rewards - rewards.mean(1, keepdim=True)
        deviation = distance.square().mean(1, keepdim=True).sqrt()
        equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
        return (distance / deviation.masked_fill(equal, 1.0)).masked_fill(equal, 0.0)

    advantage = change.get("advantage", normal)(rewards.detach())[..., None]
    p = log_probs.masked_fill(~mask, 0.0)
    old, ref = (x.detach().masked_fill(~mask, 0.0) for x in (old_log_probs, reference_log_probs))
    ratio = (p - old).exp()
    kl = change.get("kl", lambda p, ref: (ref - p).exp() - (ref - p) - 1)(p, ref)
    clipped = ratio.clamp(1 - clip, 1 + clip)
    gain = change.get("gain", lambda r, c, a: torch.minimum(r * a, c * a))(ratio, clipped, advantage)
    losses = change.get("sign", 1) * beta * kl - gain
    return change.get("mean", lambda x, keep: ((x * keep).sum(-1) / keep.sum(-1).clamp(min=1)).mean())(losses, mask)


def _deviation(r, correction=0):
    return r.std(1, keepdim=True, correction=correction)


@misconception("grpo_loss", "Divides by a deviation of 0: NaN where all rewards are equal.")
def nan_for_equal(*args, **settings):
    return _grpo(*args, **settings, advantage=lambda r: (r - r.mean(1, keepdim=True)) / _deviation(r))


@misconception("grpo_loss", "Adds 1e-4 to the deviation, which makes small differences smaller.")
def adds_to_the_deviation(*args, **settings):
    return _grpo(*args, **settings, advantage=lambda r: (r - r.mean(1, keepdim=True)) / (_deviation(r) + 1e-4))


@misconception("grpo_loss", "Adds 1e-12 to the deviation: where the mean of equal rewards is rounded, that blows rounding errors up to ±1.")
def adds_very_little(*args, **settings):
    return _grpo(*args, **settings, advantage=lambda r: (r - r.mean(1, keepdim=True)) / (_deviation(r) + 1e-12))


@misconception("grpo_loss", "Limits ref − p in the kl term, so that who is far away is not drawn back.")
def limits_kl(*args, **settings):
    def kl(p, ref):
        distance = (ref - p).clamp(-5, 5)
        return distance.exp() - distance - 1

    return _grpo(*args, **settings, kl=kl)


@misconception("grpo_loss", "Uses the deviation that estimates a larger group's.")
def estimated_deviation(*args, **settings):
    def advantage(r):
        equal = r.amax(1, keepdim=True) == r.amin(1, keepdim=True)
        return ((r - r.mean(1, keepdim=True)) / _deviation(r, 1)).masked_fill(equal, 0.0)

    return _grpo(*args, **settings, advantage=advantage)


@misconception("grpo_loss", "Compares with all answers, not only with those to the same question.")
def across_questions(*args, **settings):
    def advantage(r):
        return (r - r.mean()) / (r.std(correction=0) + 1e-12)

    return _grpo(*args, **settings, advantage=advantage)


@misconception("grpo_loss", "Does not divide by the deviation.")
def centres_only(*args, **settings):
    return _grpo(*args, **settings, advantage=lambda r: r - r.mean(1, keepdim=True))


@misconception("grpo_loss", "Takes the rewards for advantages.")
def rewards_as_advantages(*args, **settings):
    return _grpo(*args, **settings, advantage=lambda r: r)


@misconception("grpo_loss", "Estimates kl by ref − p, whose sign changes.")
def k1(*args, **settings):
    return _grpo(*args, **settings, kl=lambda p, ref: p - ref)


@misconception("grpo_loss", "Estimates kl by half the squared difference.")
def k2(*args, **settings):
    return _grpo(*args, **settings, kl=lambda p, ref: 0.5 * (p - ref).square())


@misconception("grpo_loss", "Turns the kl term round: exp(p − ref).")
def kl_reversed(*args, **settings):
    return _grpo(*args, **settings, kl=lambda p, ref: (p - ref).exp() - (p - ref) - 1)


@misconception("grpo_loss", "Rewards the distance to the reference instead of punishing it.")
def kl_sign(*args, **settings):
    return _grpo(*args, **settings, sign=-1)


@misconception("grpo_loss", "Measures the distance to the old policy instead of the reference.")
def kl_to_the_old(log_probs, old_log_probs, reference_log_probs, rewards, mask, **settings):
    return _grpo(log_probs, old_log_probs, old_log_probs, rewards, mask, **settings)


@misconception("grpo_loss", "Takes the ratio to the reference instead of the old policy.")
def ratio_to_the_reference(log_probs, old_log_probs, reference_log_probs, rewards, mask, **settings):
    return _grpo(log_probs, reference_log_probs, reference_log_probs, rewards, mask, **settings)


@misconception("grpo_loss", "Takes the mean over all tokens: long answers count more.")
def mean_over_all_tokens(*args, **settings):
    return _grpo(*args, **settings, mean=lambda x, keep: (x * keep).sum() / keep.sum().clamp(min=1))


@misconception("grpo_loss", "Divides by T, padding included.")
def mean_over_padding(*args, **settings):
    return _grpo(*args, **settings, mean=lambda x, keep: (x * keep).sum() / max(1, x.numel()))


@misconception("grpo_loss", "Leaves answers without tokens out of the mean.")
def leaves_out_empty(*args, **settings):
    def mean(x, keep):
        own = (x * keep).sum(-1) / keep.sum(-1).clamp(min=1)
        return own.sum() / (keep.sum(-1) > 0).sum().clamp(min=1)

    return _grpo(*args, **settings, mean=mean)


@misconception("grpo_loss", "Leaves questions whose answers are all without tokens out of the mean.")
def skips_empty_questions(*args, **settings):
    def mean(losses, keep):
        each = (losses * keep).sum(-1) / keep.sum(-1).clamp(min=1)
        return each.mean(1).sum() / keep.any(-1).any(-1).sum().clamp(min=1)

    return _grpo(*args, **settings, mean=mean)


@misconception("grpo_loss", "Divides by 0 tokens: NaN for an empty answer.")
def nan_for_empty(*args, **settings):
    return _grpo(*args, **settings, mean=lambda x, keep: ((x * keep).sum(-1) / keep.sum(-1)).mean())


@misconception("grpo_loss", "Takes the maximum of the two products.")
def max_of_products(*args, **settings):
    return _grpo(*args, **settings, gain=lambda r, c, a: torch.maximum(r * a, c * a))


@misconception("grpo_loss", "Does not limit the ratio.")
def unlimited_ratio(*args, **settings):
    return _grpo(*args, **settings, gain=lambda r, c, a: r * a)


@misconception("grpo_loss", "Uses the limited ratio alone.")
def limited_only(*args, **settings):
    return _grpo(*args, **settings, gain=lambda r, c, a: c * a)


@misconception("grpo_loss", "Hides the loss after exp has seen NaN: the gradient is NaN.")
def hides_after_exp(log_probs, old_log_probs, reference_log_probs, rewards, mask, *, clip=0.2, beta=0.04):
    distance = rewards - rewards.mean(1, keepdim=True)
    equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    deviation = distance.square().mean(1, keepdim=True).sqrt().masked_fill(equal, 1.0)
    advantage = (distance / deviation).masked_fill(equal, 0.0)[..., None].detach()
    ratio = (log_probs - old_log_probs.detach()).exp()
    difference = reference_log_probs.detach() - log_probs
    losses = beta * (difference.exp() - difference - 1) - torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return (losses.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


@misconception("grpo_loss", "Lets gradients reach the old policy and the reference.")
def trains_all_three(log_probs, old_log_probs, reference_log_probs, rewards, mask, *, clip=0.2, beta=0.04):
    distance = rewards - rewards.mean(1, keepdim=True)
    equal = rewards.amax(1, keepdim=True) == rewards.amin(1, keepdim=True)
    deviation = distance.square().mean(1, keepdim=True).sqrt().masked_fill(equal, 1.0)
    advantage = (distance / deviation).masked_fill(equal, 0.0)[..., None].detach()
    p, old, ref = (x.masked_fill(~mask, 0.0) for x in (log_probs, old_log_probs, reference_log_probs))
    ratio = (p - old).exp()
    losses = beta * ((ref - p).exp() - (ref - p) - 1) - torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return ((losses * mask).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


@misconception("grpo_loss", "Forgets beta.")
def full_distance(*args, **settings):
    return reference_grpo(*args, **{**settings, "beta": 1.0})


# train_gridworld


def _train(env, policy, generator, iterations, steps, *, sign=-1.0, greedy=False, ends=True, optimizer=None, weight=None, update=True):
    optimizer = optimizer or torch.optim.Adam(policy.parameters(), lr=0.1)
    for _ in range(iterations):
        obs, log_probs, rewards, done = env.reset(), [], [], []
        for _ in range(steps):
            log_pi = F.log_softmax(policy(obs), -1)
            chances = log_pi.detach().exp()
            action = chances.argmax(1, keepdim=True) if greedy else torch.multinomial(chances, 1, generator=generator)
            log_probs.append(log_pi.gather(1, action)[:, 0])
            obs, reward, terminated, truncated, _ = env.step(action[:, 0])
            rewards.append(reward)
            done.append(terminated | truncated if ends else torch.zeros_like(terminated))
        returns = reference_returns(torch.stack(rewards), torch.stack(done), 0.95)
        returns = (returns - returns.mean()) / (returns.std() + 1e-8) if weight is None else weight(returns, torch.stack(rewards))
        loss = sign * (torch.stack(log_probs) * returns).mean()
        if update:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@misconception("train_gridworld", "Forgets the minus sign: the policy learns to avoid the goal.")
def climbs_down(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, steps, sign=1.0)


@misconception("train_gridworld", "Takes the likeliest action always: it never finds out about the others.")
def never_explores(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, steps, greedy=True)


@misconception("train_gridworld", "Has an optimizer, and never lets it step.")
def never_steps(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, steps, update=False)


@misconception("train_gridworld", "Uses a learning rate with which nothing happens in 60 iterations.")
def learns_too_slowly(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, steps, optimizer=torch.optim.SGD(policy.parameters(), lr=0.01))


@misconception("train_gridworld", "Weighs an action with its own reward only: what it leads to does not count.")
def own_reward_only(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, steps, weight=lambda returns, rewards: rewards)


@misconception("train_gridworld", "Draws actions from torch's global generator.")
def global_actions(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, None, iterations, steps)


@misconception("train_gridworld", "Begins with weights of its own.")
def begins_anew(env, policy, *, generator, iterations=60, steps=30):
    with torch.no_grad():
        for parameter in policy.parameters() if iterations else ():
            parameter.zero_()
    _train(env, policy, generator, iterations, steps)


@misconception("train_gridworld", "Trains a copy, and leaves the policy as it was.")
def trains_a_copy(env, policy, *, generator, iterations=60, steps=30):
    import copy

    _train(env, copy.deepcopy(policy), generator, iterations, steps)


@misconception("train_gridworld", "Walks twice as long as it may.")
def walks_too_long(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, 2 * steps)


@misconception("train_gridworld", "Makes one iteration too many.")
def one_iteration_more(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations + 1, steps)


@misconception("train_gridworld", "Resets the environment once, and not in each iteration.")
def resets_once(env, policy, *, generator, iterations=60, steps=30):
    class Once:
        def __init__(self):
            self.obs = None

        def reset(self):
            self.obs = env.reset() if self.obs is None else self.obs
            return self.obs

        def step(self, actions):
            result = env.step(actions)
            self.obs = result[0]
            return result

    _train(Once(), policy, generator, iterations, steps)


@misconception("train_gridworld", "Puts the policy into train mode.")
def into_train_mode(env, policy, *, generator, iterations=60, steps=30):
    mode = policy.training
    policy.train()
    _train(env, policy, generator, iterations, steps)
    policy.train(mode)


@misconception("train_gridworld", "Leaves the policy in eval mode.")
def leaves_eval_mode(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, steps)
    policy.eval()


@misconception("train_gridworld", "Stops walking when all worlds have reached the goal once.")
def stops_early(env, policy, *, generator, iterations=60, steps=30):
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
    for _ in range(iterations):
        obs, rows = env.reset(), []
        arrived = torch.zeros(len(obs), dtype=torch.bool)
        for _ in range(steps):
            log_pi = F.log_softmax(policy(obs), -1)
            action = torch.multinomial(log_pi.detach().exp(), 1, generator=generator)
            obs, reward, terminated, truncated, _ = env.step(action[:, 0])
            rows.append((log_pi.gather(1, action)[:, 0], reward, terminated | truncated))
            arrived |= terminated
            if arrived.float().mean() > 0.5:
                break
        log_probs, rewards, done = map(torch.stack, zip(*rows, strict=True))
        returns = reference_returns(rewards, done, 0.95)
        loss = -(log_probs * (returns - returns.mean()) / (returns.std() + 1e-8)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@misconception("train_gridworld", "Trains the logits as if every action had been a success, whatever it led to.")
def imitates_itself(env, policy, *, generator, iterations=60, steps=30):
    _train(env, policy, generator, iterations, steps, weight=lambda returns, rewards: torch.ones_like(returns))


@misconception("train_gridworld", "Changes the weights before the first walk, also where there is none.")
def always_changes(env, policy, *, generator, iterations=60, steps=30):
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.01)
    reference_training(env, policy, generator=generator, iterations=iterations, steps=steps)
