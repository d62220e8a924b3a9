"""Other correct answers to the tasks of reinforcement: the hidden suite must accept every one."""

import math
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from grader.testing import alternative

# discounted_returns


@alternative("discounted_returns")
def walk_by_walk(rewards, done, gamma, last=None):
    T, B = rewards.shape
    out = torch.zeros(T, B, dtype=torch.float64)
    for b in range(B):
        total = 0.0 if last is None else last[b].item()
        for t in reversed(range(T)):
            total = rewards[t, b].item() + (0.0 if done[t, b] else gamma * total)
            out[t, b] = total
    return out.to(rewards.dtype)


@alternative("discounted_returns")
def by_a_matrix(rewards, done, gamma, last=None):
    T = len(rewards)
    with torch.no_grad():
        t = torch.arange(T)
        ahead = t[None, :] - t[:, None]  # of step s, from step t
        weights = torch.where(ahead >= 0, torch.tensor(float(gamma), dtype=torch.float64) ** ahead.clamp(min=0), 0.0)
        ends = torch.cat([torch.zeros(1, done.shape[1], dtype=torch.int64), done.cumsum(0)])  # before step t
        same = ends[:-1][None] == ends[:-1][:, None]  # (t, s, B): no end from t on, before s
        out = (weights[..., None] * same * rewards[None].double()).sum(1) if T else rewards.double()
        if last is not None and T:
            left = (float(gamma) ** (T - t).double())[:, None]
            out = out + torch.where(ends[-1] == ends[:-1], left * last.double(), 0.0)
        return out.to(rewards.dtype)


# gae


@alternative("gae")
@torch.no_grad()
def as_a_sum(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    ended = terminated | truncated
    delta = rewards + torch.where(terminated, torch.zeros_like(values), gamma * next_values) - values
    A = torch.zeros_like(delta)
    for t in range(len(delta)):
        weight = torch.ones_like(delta[t])
        for s in range(t, len(delta)):
            A[t] += weight * delta[s]
            weight = weight * (gamma * lam) * (~ended[s]).to(delta.dtype)
    return A, values + A


@alternative("gae")
def in_numpy(rewards, values, next_values, terminated, truncated, *, gamma, lam):
    r, v, w = (x.detach().numpy().astype(np.float64) for x in (rewards, values, next_values))
    dead, cut = terminated.numpy(), (terminated | truncated).numpy()
    A = np.zeros_like(r)
    running = np.zeros(r.shape[1])
    for t in range(len(r) - 1, -1, -1):
        running = r[t] + gamma * np.where(dead[t], 0.0, w[t]) - v[t] + gamma * lam * np.where(cut[t], 0.0, running)
        A[t] = running
    return torch.from_numpy(A).to(rewards.dtype), torch.from_numpy(A + v).to(rewards.dtype)


# ReplayBuffer


@alternative("ReplayBuffer")
class InRings:
    def __init__(self, capacity, *, n=1, gamma=0.99):
        self.capacity, self.n, self.gamma = capacity, n, gamma
        self.rows, self.at, self.episode = [None] * capacity, 0, []

    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        self.episode.append([x.detach().clone() for x in (obs, action, reward, next_obs)])
        first = len(self.episode) - self.n
        if first >= 0:
            self._add(first, len(self.episode), terminated)
        if terminated or truncated:
            for start in range(max(0, first + 1), len(self.episode)):
                self._add(start, len(self.episode), terminated)
            self.episode = []

    def _add(self, start, stop, terminated):
        part = self.episode[start:stop]
        reward = sum((self.gamma**k * step[2] for k, step in enumerate(part)), torch.zeros_like(part[0][2]))
        discount = torch.tensor(self.gamma ** len(part), dtype=reward.dtype)
        self.rows[self.at % self.capacity] = (part[0][0], part[0][1], reward, part[-1][3], torch.tensor(bool(terminated)), discount)
        self.at += 1

    def __len__(self):
        return min(self.at, self.capacity)

    def sample(self, batch, *, generator):
        if batch > len(self):
            raise ValueError("too few")
        chosen = torch.multinomial(torch.ones(len(self)), batch, replacement=False, generator=generator)
        columns = zip(*(self.rows[i] for i in chosen.tolist()), strict=True)
        names = ("obs", "action", "reward", "next_obs", "terminated", "discount")
        return {name: torch.stack(column) for name, column in zip(names, columns, strict=True)}


@alternative("ReplayBuffer")
class InLists:
    def __init__(self, capacity, n=1, gamma=0.99):
        self.capacity, self.n, self.gamma = capacity, n, gamma
        self.entries, self.open = [], []

    def __len__(self):
        return len(self.entries)

    def push(self, obs, action, reward, next_obs, terminated, truncated=False):
        for entry in self.open:
            entry["reward"] = entry["reward"] + entry["discount"] * reward
            entry["discount"] = entry["discount"] * self.gamma
            entry["steps"] += 1
        first = {"obs": obs.clone(), "action": action.clone(), "reward": reward.clone(), "steps": 1}
        self.open.append({**first, "discount": torch.full_like(reward, self.gamma)})
        while self.open and (terminated or truncated or self.open[0]["steps"] == self.n):
            entry = self.open.pop(0)
            del entry["steps"]
            self.entries.append({**entry, "next_obs": next_obs.clone(), "terminated": torch.tensor(terminated)})
        self.entries = self.entries[-self.capacity :]

    def sample(self, batch, *, generator):
        if len(self.entries) < batch:
            raise ValueError(f"only {len(self.entries)}")
        rng = random.Random(torch.randint(2**62, (), generator=generator).item())
        chosen = rng.sample(self.entries, batch)
        return {name: torch.stack([entry[name] for entry in chosen]).clone() for name in chosen[0]}


# dqn_targets


@alternative("dqn_targets")
def by_one_hot(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    with torch.inference_mode():
        values = target(next_obs)
        chooser = online(next_obs) if double else values
        best = F.one_hot(chooser.nan_to_num().argmax(1), values.shape[1]).bool()
        following = torch.where(best, values, 0).sum(1)
        following = torch.where(terminated, torch.zeros_like(following), following)
    return rewards.detach() + gamma * following.to(rewards.dtype)


@alternative("dqn_targets")
@torch.no_grad()
def in_a_loop(online, target, rewards, next_obs, terminated, gamma, *, double=True):
    values = target(next_obs)
    choices = online(next_obs).max(dim=1).indices if double else values.max(dim=1).indices
    out = rewards.clone()
    for i, (choice, over) in enumerate(zip(choices.tolist(), terminated.tolist(), strict=True)):
        if not over:
            out[i] += gamma * values[i, choice]
    return out


# GridWorld


@alternative("GridWorld")
class NumberedCells:
    def __init__(self, worlds, size, *, max_steps, generator):
        self.n, self.size, self.limit, self.generator = worlds, size, max_steps, generator

    def _draw(self, k):
        return torch.randint(self.size**2 - 1, (k,), generator=self.generator).tolist() if k else []

    def _tensor(self, cells):
        return torch.tensor([divmod(cell, self.size) for cell in cells], dtype=torch.int64).reshape(-1, 2)

    def reset(self):
        self.cell, self.age = self._draw(self.n), [0] * self.n
        return self._tensor(self.cell)

    def step(self, actions):
        actions = actions.tolist()
        if any(a not in (0, 1, 2, 3) for a in actions):
            raise ValueError("actions are 0 to 3")
        last = self.size - 1
        for i, action in enumerate(actions):
            row, column = divmod(self.cell[i], self.size)
            row = min(last, max(0, row + (action == 2) - (action == 0)))
            column = min(last, max(0, column + (action == 1) - (action == 3)))
            self.cell[i], self.age[i] = row * self.size + column, self.age[i] + 1
        final = self._tensor(self.cell)
        terminated = [cell == self.size**2 - 1 for cell in self.cell]
        truncated = [age >= self.limit and not over for age, over in zip(self.age, terminated, strict=True)]
        ended = [i for i in range(self.n) if terminated[i] or truncated[i]]
        for i, cell in zip(ended, self._draw(len(ended)), strict=True):
            self.cell[i], self.age[i] = cell, 0
        reward = torch.tensor([1.0 if over else -0.1 for over in terminated])
        return self._tensor(self.cell), reward, torch.tensor(terminated), torch.tensor(truncated), final


@alternative("GridWorld")
class RowsAndColumns:
    def __init__(self, worlds, size, max_steps, generator):
        self.generator, self.max_steps, self.size = generator, max_steps, size
        self.rows = self.columns = self.left = torch.zeros(worlds, dtype=torch.int64)

    def reset(self):
        everyone = torch.ones_like(self.rows, dtype=torch.bool)
        self._renew(everyone)
        return torch.stack((self.rows, self.columns), 1)

    def _renew(self, who):
        if not who.any():
            return
        number = torch.zeros_like(self.rows)
        number[who] = torch.randint(self.size * self.size - 1, (int(who.sum()),), generator=self.generator)
        self.rows = torch.where(who, number.div(self.size, rounding_mode="floor"), self.rows)
        self.columns = torch.where(who, number.remainder(self.size), self.columns)
        self.left = self.left.masked_fill(who, self.max_steps)

    def step(self, actions):
        if ((actions < 0) | (actions > 3)).any():
            raise ValueError("an action is unknown")
        down, right = (actions == 2).long() - (actions == 0).long(), (actions == 1).long() - (actions == 3).long()
        self.rows = (self.rows + down).clamp(min=0, max=self.size - 1)
        self.columns = (self.columns + right).clamp(min=0, max=self.size - 1)
        self.left = self.left - 1
        home = (self.rows == self.size - 1) & (self.columns == self.size - 1)
        late = (self.left <= 0) & ~home
        final = torch.stack((self.rows, self.columns), 1)
        reward = torch.full(home.shape, -0.1).masked_fill(home, 1.0)
        self._renew(home | late)
        return torch.stack((self.rows, self.columns), 1), reward, home, late, final


# reinforce_loss


@alternative("reinforce_loss")
def over_kept_rows(logits, actions, returns, *, baseline=None, mask=None):
    mask = torch.full(actions.shape, True) if mask is None else mask
    weight = returns[mask] if baseline is None else returns[mask] - baseline[mask]
    log_pi = logits[mask] - logits[mask].logsumexp(-1, keepdim=True)
    picked = log_pi[torch.arange(len(log_pi)), actions[mask]]
    return -(picked * weight.detach()).sum() / max(1, len(picked))


@alternative("reinforce_loss")
def by_distributions(logits, actions, returns, *, baseline=None, mask=None):
    keep = torch.ones(actions.shape) if mask is None else mask
    hidden = keep == 0
    policy = torch.distributions.Categorical(logits=torch.where(hidden[..., None], torch.zeros_like(logits), logits), validate_args=False)
    with torch.no_grad():
        weight = returns - (0 if baseline is None else baseline)
        weight = torch.where(hidden, torch.zeros_like(weight), weight)
    terms = policy.log_prob(torch.where(hidden, torch.zeros_like(actions), actions)) * weight
    return terms.sum() * (-1.0 / max(1, int((~hidden).sum())))


# ppo_loss


@alternative("ppo_loss")
def by_cases(logits, values, actions, old_log_probs, old_values, advantages, returns, *, clip=0.2, value_weight=0.5, entropy_weight=0.01):
    old, old_v, A, R = old_log_probs.detach(), old_values.detach(), advantages.detach(), returns.detach()
    A = A - A.mean()
    A = A / (A.pow(2).mean().sqrt() + 1e-8)
    log_pi = logits - torch.logsumexp(logits, 1, keepdim=True)
    ratio = torch.exp(log_pi[torch.arange(len(A)), actions] - old)
    gain = torch.where(A >= 0, torch.clamp(ratio, max=1 + clip), torch.clamp(ratio, min=1 - clip)) * A
    v = torch.minimum(torch.maximum(values, old_v - clip), old_v + clip)
    errors = torch.stack([(values - R) ** 2, (v - R) ** 2]).amax(0)
    pi = logits.softmax(1)
    entropy = torch.special.entr(pi).sum(1).mean() if (pi > 0).all() else -(pi * log_pi).sum(1).mean()
    policy, value = -gain.mean(), errors.mean() / 2
    return {"loss": policy + value_weight * value - entropy_weight * entropy, "policy": policy, "value": value, "entropy": entropy}


@alternative("ppo_loss")
def by_a_distribution(
    logits, values, actions, old_log_probs, old_values, advantages, returns, *, clip=0.2, value_weight=0.5, entropy_weight=0.01
):
    with torch.no_grad():
        centred = advantages - advantages.sum() / len(advantages)
        normal = centred / ((centred @ centred / len(centred)).sqrt() + 1e-8)
    pi = torch.distributions.Categorical(logits=logits)
    ratio = (pi.log_prob(actions) - old_log_probs.detach()).exp()
    surrogates = -normal * ratio, -normal * ratio.clip(1 - clip, 1 + clip)
    policy = torch.max(*surrogates).mean()
    near = old_values.detach() + torch.clamp(values - old_values.detach(), -clip, clip)
    value = (
        torch.max(F.mse_loss(values, returns.detach(), reduction="none"), F.mse_loss(near, returns.detach(), reduction="none")).mean() / 2
    )
    entropy = pi.entropy().mean()
    return {"policy": policy, "value": value, "entropy": entropy, "loss": policy + value_weight * value - entropy_weight * entropy}


# dpo_loss


@alternative("dpo_loss")
def by_softplus(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    zero = torch.zeros((), dtype=chosen.dtype)
    sums = [
        torch.where(mask, x, zero).sum(-1)
        for x, mask in (
            (chosen, chosen_mask),
            (reference_chosen.detach(), chosen_mask),
            (rejected, rejected_mask),
            (reference_rejected.detach(), rejected_mask),
        )
    ]
    margin = beta * (sums[0] - sums[1]) - beta * (sums[2] - sums[3])
    return F.softplus(-margin).mean(), margin.detach().clone()


@alternative("dpo_loss")
def pair_by_pair(chosen, rejected, reference_chosen, reference_rejected, chosen_mask, rejected_mask, *, beta=0.1):
    margins = []
    for i in range(len(chosen)):
        up, down = chosen_mask[i], rejected_mask[i]
        gain = chosen[i][up].sum() - reference_chosen[i][up].sum().detach()
        loss = rejected[i][down].sum() - reference_rejected[i][down].sum().detach()
        margins.append(beta * (gain - loss))
    margin = torch.stack(margins)
    return F.binary_cross_entropy_with_logits(margin, torch.ones_like(margin)), margin.detach()


# grpo_loss


@alternative("grpo_loss")
def answer_by_answer(log_probs, old_log_probs, reference_log_probs, rewards, mask, *, clip=0.2, beta=0.04):
    B, G, _ = log_probs.shape
    total = log_probs.sum() * 0 if torch.isfinite(log_probs).all() else log_probs[mask].sum() * 0
    for b in range(B):
        group = [rewards[b, g].item() for g in range(G)]
        mean = math.fsum(group) / G
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in group) / G)
        for g in range(G):
            advantage = 0.0 if min(group) == max(group) else (group[g] - mean) / deviation
            keep = mask[b, g]
            if not keep.any():
                continue
            p, old, ref = (x[b, g][keep] for x in (log_probs, old_log_probs.detach(), reference_log_probs.detach()))
            r = torch.exp(p - old)
            limited = r.clamp(max=1 + clip) if advantage > 0 else r.clamp(min=1 - clip)
            total = total + (beta * (torch.expm1(ref - p) - (ref - p)) - limited * advantage).mean()
    return total / (B * G)


@alternative("grpo_loss")
def with_weights(log_probs, old_log_probs, reference_log_probs, rewards, mask, *, clip=0.2, beta=0.04):
    with torch.no_grad():
        r = rewards.double()
        centred = r - r.mean(1, keepdim=True)
        spread = centred.pow(2).mean(1, keepdim=True).sqrt()
        varied = (rewards != rewards[:, :1]).any(1, keepdim=True)
        A = torch.where(varied, centred / torch.where(varied, spread, 1.0), 0.0).to(log_probs.dtype)[..., None]
        weight = mask.to(log_probs.dtype)
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=1)
        old, ref = (torch.where(mask, x, 0.0) for x in (old_log_probs, reference_log_probs))
    p = torch.where(mask, log_probs, 0.0)
    ratio = torch.exp(p - old)
    gain = torch.min(torch.stack([ratio * A, torch.clip(ratio, 1 - clip, 1 + clip) * A]), 0).values
    ahead = ref - p
    return ((beta * (ahead.exp() - 1 - ahead) - gain) * weight).sum(-1).mean()


# train_gridworld


@alternative("train_gridworld")
def plain_gradient(env, policy, *, generator, iterations=60, steps=30):
    optimizer = torch.optim.SGD(policy.parameters(), lr=5.0)
    for _ in range(iterations):
        obs, rows = env.reset(), []
        for _ in range(steps):
            pi = policy(obs).softmax(-1)
            action = torch.multinomial(pi.detach(), 1, generator=generator).squeeze(1)
            taken = pi[torch.arange(len(obs)), action].log()
            obs, reward, terminated, truncated, _ = env.step(action)
            rows.append((taken, reward, ~(terminated | truncated)))
        loss, following = 0.0, torch.zeros(len(obs))
        returns = []
        for _, reward, going in reversed(rows):
            following = reward + 0.9 * following * going
            returns.insert(0, following)
        everything = torch.stack(returns)
        for (taken, _, _), G in zip(rows, returns, strict=True):
            loss = loss - (taken * (G - everything.mean()) / (everything.std() + 1e-6)).sum()
        optimizer.zero_grad()
        (loss / everything.numel()).backward()
        optimizer.step()


@alternative("train_gridworld")
def actor_and_critic(env, policy, *, generator, iterations=60, steps=30):
    worth = nn.Parameter(torch.zeros(64, 64))  # of each cell
    optimizer = torch.optim.Adam([{"params": list(policy.parameters()), "lr": 0.15}, {"params": [worth], "lr": 0.1}])
    for _ in range(iterations):
        obs, path = env.reset(), []
        for _ in range(steps):
            log_pi = policy(obs).log_softmax(1)
            action = torch.multinomial(log_pi.exp().detach(), 1, generator=generator)
            value = worth[obs[:, 0], obs[:, 1]]
            obs, reward, terminated, truncated, final = env.step(action.flatten())
            after = worth[final[:, 0], final[:, 1]].detach().masked_fill(terminated, 0.0)
            path.append((log_pi.gather(1, action).flatten(), value, reward + 0.95 * after - value.detach(), terminated | truncated))
        A, loss = torch.zeros(len(obs)), 0.0
        for taken, value, delta, ended in reversed(path):
            A = delta + 0.95 * 0.9 * A.masked_fill(ended, 0.0)
            loss = loss - (taken * A).mean() + 0.5 * (value - (A + value.detach())).square().mean()
        optimizer.zero_grad()
        (loss / steps).backward()
        optimizer.step()
