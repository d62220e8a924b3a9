"""Examples for the module reinforcement. Run one task's with `pytest tests/public -k gae`."""

import math

import torch
from reinforcement import (
    GridWorld,
    ReplayBuffer,
    discounted_returns,
    dpo_loss,
    dqn_targets,
    gae,
    grpo_loss,
    ppo_loss,
    reinforce_loss,
    train_gridworld,
)
from torch import nn
from torch.testing import assert_close


def column(*numbers):
    """(T, 1): one walk."""
    return torch.tensor(numbers)[:, None]


def test_discounted_returns_of_two_episodes():
    """With gamma ½: the second step ends an episode; the record breaks off after the fourth, whose state is worth 8."""
    rewards, done = column(1.0, 2.0, 0.0, 3.0), column(False, True, False, False)
    got = discounted_returns(rewards, done, 0.5, torch.tensor([8.0]))
    assert_close(got, column(2.0, 2.0, 3.5, 7.0))


def test_discounted_returns_without_last():
    """Nothing comes after the record: 1 + ½ · 2."""
    assert_close(discounted_returns(column(1.0, 2.0), column(False, False), 0.5), column(2.0, 2.0))


def test_gae_tells_the_two_ends_apart():
    """One step of reward 1 from a state worth 2 to one worth 4, with gamma ½: terminated 1 − 2, truncated 1 + 2 − 2."""
    rewards, values, following = torch.ones(1, 2), torch.full((1, 2), 2.0), torch.full((1, 2), 4.0)
    terminated = torch.tensor([[True, False]])
    advantages, returns = gae(rewards, values, following, terminated, ~terminated, gamma=0.5, lam=0.9)
    assert_close(advantages, torch.tensor([[-1.0, 1.0]]))
    assert_close(returns, torch.tensor([[1.0, 3.0]]))


def test_gae_of_two_steps():
    """δ is 1 twice, so A is 1 + ½ · ½ · 1 and 1."""
    no = column(False, False)
    advantages, _ = gae(column(1.0, 1.0), column(0.0, 0.0), column(0.0, 0.0), no, no, gamma=0.5, lam=0.5)
    assert_close(advantages, column(1.25, 1.0))


def test_ReplayBuffer_keeps_two_steps():
    """With n = 2 and gamma ½, three steps of one episode, of rewards 1, 2 and 4, make three entries."""
    buffer = ReplayBuffer(10, n=2, gamma=0.5)
    for t, reward in enumerate((1.0, 2.0, 4.0)):
        buffer.push(torch.tensor([t]), torch.tensor(t), torch.tensor(reward), torch.tensor([t + 1]), terminated=t == 2)
        assert len(buffer) == (0, 1, 3)[t]
    drawn = buffer.sample(3, generator=torch.Generator().manual_seed(0))
    order = drawn["action"].argsort()
    assert_close(drawn["reward"][order], torch.tensor([2.0, 4.0, 4.0]))
    assert_close(drawn["discount"][order], torch.tensor([0.25, 0.25, 0.5]))
    assert drawn["next_obs"][order].tolist() == [[2], [3], [3]]
    assert drawn["terminated"][order].tolist() == [False, True, True]


def test_dqn_targets_in_both_ways():
    """The online network likes action 0, which the target network says is worth 1; its own largest is 5."""
    obs = torch.zeros(2, 3)
    online, target = (lambda x: torch.tensor([[2.0, 1.0]] * 2)), (lambda x: torch.tensor([[1.0, 5.0]] * 2))
    rewards, terminated = torch.tensor([10.0, 20.0]), torch.tensor([False, True])
    assert_close(dqn_targets(online, target, rewards, obs, terminated, 0.5), torch.tensor([10.5, 20.0]))
    assert_close(dqn_targets(online, target, rewards, obs, terminated, 0.5, double=False), torch.tensor([12.5, 20.0]))


def test_GridWorld_walks_and_starts_anew():
    """Two worlds of 2 × 2 cells: one step down or to the right reaches the goal from its neighbours."""
    env = GridWorld(2, 2, max_steps=5, generator=torch.Generator().manual_seed(1))
    start = env.reset()
    obs, reward, terminated, truncated, final = env.step(torch.tensor([0, 3]))  # up, and left
    assert final.tolist() == [[0, start[0, 1]], [start[1, 0], 0]]
    assert obs.tolist() == final.tolist()
    assert_close(reward, torch.tensor([-0.1, -0.1]))
    assert not terminated.any()
    assert not truncated.any()


def test_reinforce_loss_of_one_step():
    """Two equal logits: −log ½ · (3 − 1)."""
    loss = reinforce_loss(torch.zeros(1, 1, 2), torch.tensor([[1]]), torch.tensor([[3.0]]), baseline=torch.tensor([[1.0]]))
    assert_close(loss, torch.tensor(2 * math.log(2)))


def test_ppo_loss_clips_both_signs():
    """The ratio is 2 for both actions; Â is 1 and −1. So the policy term is −(1.2 − 2) / 2."""
    old = torch.full((2,), math.log(0.25))
    parts = ppo_loss(
        torch.zeros(2, 2),
        torch.zeros(2),
        torch.tensor([0, 1]),
        old,
        torch.zeros(2),
        torch.tensor([1.0, -1.0]),
        torch.tensor([0.0, 2.0]),
    )
    assert_close(parts["policy"], torch.tensor(0.4))
    assert_close(parts["value"], torch.tensor(1.0))
    assert_close(parts["entropy"], torch.tensor(math.log(2)))
    assert_close(parts["loss"], torch.tensor(0.4 + 0.5 - 0.01 * math.log(2)))


def test_dpo_loss_of_one_pair():
    """Sums over the answers' tokens: 0.1 · ((−3 + 5) − (−6 + 4)) = 0.4."""
    yes = torch.ones(1, 2, dtype=torch.bool)
    loss, margin = dpo_loss(
        torch.tensor([[-1.0, -2.0]]),
        torch.tensor([[-6.0, -9.0]]),
        torch.tensor([[-2.0, -3.0]]),
        torch.tensor([[-4.0, -9.0]]),
        yes,
        torch.tensor([[True, False]]),
    )
    assert_close(margin, torch.tensor([0.4]))
    assert_close(loss, torch.tensor(math.log1p(math.exp(-0.4))))


def test_grpo_loss_of_equal_policies():
    """The three policies are the same, so ratios are 1 and kl is 0: the loss is minus the mean advantage of 1 and −1."""
    p = torch.full((1, 2, 3), -1.0, requires_grad=True)
    loss = grpo_loss(p, p, p, torch.tensor([[5.0, 3.0]]), torch.ones(1, 2, 3, dtype=torch.bool))
    loss.backward()
    assert_close(loss.detach(), torch.tensor(0.0))
    assert_close(p.grad, torch.tensor([[[-1.0] * 3, [1.0] * 3]]) / 6)


class Corridor:
    """Four cells in a row in B worlds; the goal is at the right end, and action 1 leads there."""

    def reset(self):
        """Start at the left end."""
        self.at = torch.zeros(8, dtype=torch.int64)
        return self._obs()

    def step(self, actions):
        """Go right with action 1, else left."""
        self.at = (self.at + torch.where(actions == 1, 1, -1)).clamp(0, 3)
        final, ended = self._obs(), self.at == 3
        self.at = self.at.masked_fill(ended, 0)
        return self._obs(), torch.where(ended, 1.0, -0.1), ended, torch.zeros_like(ended), final

    def _obs(self):
        return torch.stack([torch.zeros_like(self.at), self.at], 1)


class Table(nn.Module):
    """Four logits for each cell of the corridor."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(4, 4))

    def forward(self, obs):
        """Look them up."""
        return self.logits[obs[:, 1]]


def test_train_gridworld_in_a_corridor():
    """After some iterations the policy goes to the right nearly always."""
    policy = Table()
    train_gridworld(Corridor(), policy, generator=torch.Generator().manual_seed(0), iterations=40, steps=20)
    assert policy.logits[:3].softmax(1)[:, 1].min() > 0.7
