"""A submission with all tasks of reinforcement solved, in another style than the reference's."""

import torch


def _walk_back(rows, last):
    """Fold rows from the last to the first: each is (term, factor) with term + factor applied to what follows."""
    out = []
    for term, going in reversed(rows):
        last = term + going(last)
        out.insert(0, last)
    return out


@torch.no_grad()
def discounted_returns(rewards, done, gamma, last=None):
    """Backwards through time."""
    if not len(rewards):
        return torch.empty_like(rewards)
    last = rewards.new_zeros(rewards.shape[1]) if last is None else last
    rows = [(r, lambda g, d=d: torch.where(d, g.new_zeros(()), gamma * g)) for r, d in zip(rewards, done, strict=True)]
    return torch.stack(_walk_back(rows, last))


@torch.no_grad()
def gae(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    """δ first, then backwards."""
    over = terminated.logical_or(truncated)
    error = rewards - values + gamma * torch.where(terminated, next_values.new_zeros(()), next_values)
    rows = [(e, lambda a, o=o: torch.where(o, a.new_zeros(()), gamma * lam * a)) for e, o in zip(error, over, strict=True)]
    advantages = torch.stack(_walk_back(rows, error.new_zeros(error.shape[1]))) if len(error) else error.clone()
    return advantages, advantages + values


class ReplayBuffer:
    """A list for the episode, and a list of finished entries."""

    NAMES = ("obs", "action", "reward", "next_obs", "terminated", "discount")

    def __init__(self, capacity, *, n=1, gamma=0.99):
        self.capacity, self.n, self.gamma = capacity, n, gamma
        self.entries, self.path = [], []

    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        """Close as many as can be closed."""
        self.path.append((obs.clone(), action.clone(), reward.clone()))
        closing = len(self.path) if terminated or truncated else int(len(self.path) == self.n)
        for _ in range(closing):
            weights = [self.gamma**k for k in range(len(self.path))]
            total = sum(w * step[2] for w, step in zip(weights, self.path, strict=True))
            first, act, _ = self.path.pop(0)
            end = torch.tensor(bool(terminated)), torch.as_tensor(weights[-1] * self.gamma, dtype=reward.dtype)
            self.entries.append((first, act, total.to(reward.dtype), next_obs.clone(), *end))
        del self.entries[: -self.capacity]

    def __len__(self):
        return len(self.entries)

    def sample(self, batch, *, generator):
        """The places of the smallest of random numbers."""
        if len(self) < batch:
            raise ValueError("not enough")
        places = torch.rand(len(self), generator=generator, dtype=torch.float64).topk(batch, largest=False).indices
        return {name: torch.stack([self.entries[i][k] for i in places]) for k, name in enumerate(self.NAMES)}


def dqn_targets(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    """Choose, then look up."""
    with torch.no_grad():
        q = target(next_obs)
        a = (online(next_obs) if double else q).max(1).indices
        future = torch.where(terminated, 0.0, q[torch.arange(len(q)), a])
        return torch.add(rewards, future.to(rewards.dtype), alpha=gamma)


class GridWorld:
    """Cells as numbers."""

    def __init__(self, worlds, size, *, max_steps, generator):
        self.worlds, self.size, self.max_steps, self.generator = worlds, size, max_steps, generator
        self.cell = torch.zeros(worlds, dtype=torch.int64)
        self.age = torch.zeros(worlds, dtype=torch.int64)

    def _obs(self):
        return torch.stack([self.cell // self.size, self.cell % self.size], dim=1)

    def _new(self, places):
        if len(places):
            self.cell[places] = torch.randint(self.size**2 - 1, (len(places),), generator=self.generator)
            self.age[places] = 0

    def reset(self):
        """All of them."""
        self._new(torch.arange(self.worlds))
        return self._obs()

    def step(self, actions):
        """Look at the walls, and add."""
        if actions.min() < 0 or actions.max() > 3:
            raise ValueError("no such action")
        row, column = self._obs().unbind(1)
        free = torch.stack([row > 0, column < self.size - 1, row < self.size - 1, column > 0])
        moves = torch.tensor([-self.size, 1, self.size, -1])
        self.cell = self.cell + moves[actions] * free[actions, torch.arange(self.worlds)]
        self.age = self.age + 1
        there = self.cell == self.size**2 - 1
        late = (self.age >= self.max_steps).logical_and(~there)
        final = self._obs()
        self._new((there | late).nonzero().flatten())
        return self._obs(), there * 1.1 - 0.1, there, late, final


def reinforce_loss(logits, actions, returns, *, baseline=None, mask=None):
    """Flat rows of what is kept."""
    keep = torch.full_like(actions, True, dtype=torch.bool) if mask is None else mask
    rows = keep.nonzero(as_tuple=True)
    weight = returns[rows] - (baseline[rows] if baseline is not None else 0)
    taken = torch.log_softmax(logits[rows], 1).gather(1, actions[rows].unsqueeze(1)).squeeze(1)
    return torch.dot(taken, weight.detach()).neg() / max(len(taken), 1)


def ppo_loss(logits, values, actions, old_log_probs, old_values, advantages, returns, *, clip=0.2, value_weight=0.5, entropy_weight=0.01):
    """Three terms and their sum."""
    with torch.no_grad():
        spread = advantages.var(correction=0).sqrt()
        normal = (advantages - advantages.mean()) / (spread + 1e-8)
        goal, before, old = returns.clone(), old_values.clone(), old_log_probs.clone()
    log_pi = torch.log_softmax(logits, dim=1)
    ratio = torch.exp(torch.take_along_dim(log_pi, actions[:, None], 1).squeeze(1) - old)
    policy = torch.max(-normal * ratio, -normal * ratio.clip(1 - clip, 1 + clip)).mean()
    moved = before + torch.clip(values - before, -clip, clip)
    value = torch.max((values - goal) ** 2, (moved - goal) ** 2).mean().div(2)
    entropy = torch.linalg.vecdot(log_pi.exp(), log_pi).mean().neg()
    return {"loss": policy + value_weight * value - entropy_weight * entropy, "policy": policy, "value": value, "entropy": entropy}


def dpo_loss(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    """Softplus of minus the margin."""

    def total(x, mask):
        return torch.where(mask, x, x.new_zeros(())).sum(1)

    for_chosen = total(chosen, chosen_mask) - total(reference_chosen, chosen_mask).detach()
    for_rejected = total(rejected, rejected_mask) - total(reference_rejected, rejected_mask).detach()
    margin = beta * (for_chosen - for_rejected)
    return torch.nn.functional.softplus(-margin).mean(), margin.detach()


def grpo_loss(log_probs, old_log_probs, reference_log_probs, rewards, mask, *, clip=0.2, beta=0.04):
    """Groups first, then tokens."""
    with torch.no_grad():
        centred = rewards - rewards.mean(1, keepdim=True)
        spread = rewards.var(1, keepdim=True, correction=0).sqrt()
        alike = (rewards == rewards[:, :1]).all(1, keepdim=True)
        A = torch.where(alike, 0.0, centred / torch.where(alike, 1.0, spread)).unsqueeze(-1)
        old, ref = (x.masked_fill(mask.logical_not(), 0.0) for x in (old_log_probs, reference_log_probs))
    p = log_probs.masked_fill(mask.logical_not(), 0.0)
    r, d = (p - old).exp(), ref - p
    token = beta * (d.expm1() - d) - torch.minimum(r * A, r.clip(1 - clip, 1 + clip) * A)
    return (token.masked_fill(mask.logical_not(), 0.0).sum(2) / mask.sum(2).clip(min=1)).mean()


def train_gridworld(env, policy, *, generator, iterations=60, steps=30):
    """REINFORCE, with the mean return of all steps as the baseline."""
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=0.1)
    for _ in range(iterations):
        obs, taken, rewards, over = env.reset(), [], [], []
        for _ in range(steps):
            log_pi = torch.log_softmax(policy(obs), 1)
            action = torch.multinomial(log_pi.detach().exp(), 1, generator=generator)
            taken.append(log_pi.gather(1, action).squeeze(1))
            obs, reward, terminated, truncated, _ = env.step(action.squeeze(1))
            rewards.append(reward)
            over.append(terminated | truncated)
        worth = discounted_returns(torch.stack(rewards), torch.stack(over), 0.9)
        worth = (worth - worth.mean()) / worth.std().clamp(min=1e-6)
        optimizer.zero_grad()
        (torch.stack(taken) * worth).mean().neg().backward()
        optimizer.step()
