"""Hidden suite of the module reinforcement."""

import pytest
import torch
from torch import nn

from grader.testing import LAYOUTS, measured, raised, task, with_ones

F64 = torch.float64


# Helpers for probes


def leaf(x):
    """A fresh parameter with the values of x."""
    return x.clone().requires_grad_()


def walks(draw, T, B, dtype=torch.float32, p=0.2):
    """Rewards and ends of B walks."""
    return draw.normal(T, B, dtype=dtype), draw.bools(T, B, p=p)


def seeded(seed):
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


# discounted_returns


@task("discounted_returns")
class TestDiscountedReturns:
    def test_episodes(self, agree, draw):
        """Rewards of later steps count less, and those of the next episode not at all."""
        rewards, done = walks(draw, 23, 5)
        agree(lambda m: [m.discounted_returns(rewards, done, gamma) for gamma in (0.9, 0.35)], rtol=1e-4, atol=1e-5)

    def test_last(self, agree, draw):
        """What comes after the record is worth `last`, where the record breaks off."""
        rewards, done, last = *walks(draw, 7, 6), draw.normal(6)
        done[-1] = torch.tensor([True, False] * 3)[draw.permutation(6)]
        agree(lambda m: m.discounted_returns(rewards, done, 0.8, last), rtol=1e-4, atol=1e-5)

    def test_last_may_be_nan_after_an_end(self, agree, draw):
        """Where the last step ended its episode, `last` does not count, not even NaN or inf."""
        rewards, done, last = *walks(draw, 7, 6), draw.normal(6)
        done[-1] = torch.tensor([True, False] * 3)[draw.permutation(6)]
        last = draw.poisoned(last, done[-1])
        agree(lambda m: m.discounted_returns(rewards, done, 0.8, last), rtol=1e-4, atol=1e-5)

    def test_gamma_of_0_and_1(self, agree, draw):
        """With 0 only the step's own reward counts, with 1 all count alike."""
        rewards, done, last = *walks(draw, 9, 4, F64), draw.normal(4, dtype=F64)
        agree(lambda m: [m.discounted_returns(rewards, done, gamma, last) for gamma in (0.0, 1.0)], rtol=1e-9, atol=1e-9)

    def test_float64(self, agree, draw):
        """Long walks in float64 lose nothing, and keep their dtype."""
        rewards, done, last = *walks(draw, 120, 3, F64, p=0.01), draw.normal(3, dtype=F64)
        agree(lambda m: m.discounted_returns(rewards, done, 0.99, last), rtol=1e-10, atol=1e-10)

    def test_a_long_walk(self, agree, draw):
        """A walk of many steps without an end runs neither under nor over."""
        rewards, last = draw.normal(draw.integer(300, 400), 2), draw.normal(2)
        agree(lambda m: m.discounted_returns(rewards, torch.zeros_like(rewards, dtype=torch.bool), 0.6, last), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", with_ones(5, 3))
    def test_sizes_of_one(self, agree, draw, shape):
        """One step, and one walk; an end at every step, and at none."""
        rewards, last = draw.normal(*shape), draw.normal(shape[1])

        def probe(m):
            ends = [torch.full(shape, ended) for ended in (True, False)]
            return [m.discounted_returns(rewards, done, 0.7, w) for done in ends for w in (last, None)]

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_no_steps(self, agree, draw):
        """A record without steps has no returns; one of a step has one."""
        rewards, done, last = *walks(draw, 1, 4), draw.normal(4)

        def probe(m):
            return [m.discounted_returns(rewards[:n], done[:n], 0.7, w) for n in (0, 1) for w in (last, None)]

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        rewards, done, last = draw.normal(9, 4, layout=layout), draw.bools(9, 4, layout=layout), draw.normal(4, 2, layout=layout)[:, 1]
        agree(lambda m: m.discounted_returns(rewards, done, 0.7, last), rtol=1e-4, atol=1e-5)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """No graph is recorded, also where rewards or last have gradients."""
        rewards, done, last = *walks(draw, 5, 4), draw.normal(4)

        def probe(m):
            got = m.discounted_returns(leaf(rewards), done, 0.7, leaf(last))
            return "there is a graph" if got.requires_grad else got

        agree(probe, rtol=1e-4, atol=1e-5)


# gae


def experience(draw, T, B, dtype=torch.float32):
    """Everything that gae takes, with ends of both kinds."""
    rewards, values, following = (draw.normal(T, B, dtype=dtype) for _ in range(3))
    return rewards, values, following, draw.bools(T, B, p=0.15), draw.bools(T, B, p=0.15)


@task("gae")
class TestGae:
    def test_both_ends(self, agree, draw):
        """Termination takes the next value away, and both ends cut the advantages."""
        given = experience(draw, 19, 6)
        agree(lambda m: m.gae(*given, gamma=0.9, lam=0.8), rtol=1e-4, atol=1e-4)

    def test_truncated_only(self, agree, draw):
        """A truncated episode counts its last state, and nothing of the next episode."""
        rewards, values, following, _, truncated = experience(draw, 11, 6)
        no = torch.zeros_like(truncated)
        agree(lambda m: m.gae(rewards, values, following, no, truncated, gamma=0.9, lam=0.8), rtol=1e-4, atol=1e-4)

    def test_terminated_only(self, agree, draw):
        """A terminated episode is worth its rewards."""
        rewards, values, following, terminated, _ = experience(draw, 11, 6)
        no = torch.zeros_like(terminated)
        agree(lambda m: m.gae(rewards, values, following, terminated, no, gamma=0.9, lam=0.8), rtol=1e-4, atol=1e-4)

    def test_both_at_once(self, agree, draw):
        """Where both are True, the episode is terminated."""
        rewards, values, following, ends, other = experience(draw, 11, 6)
        agree(lambda m: m.gae(rewards, values, following, ends, ends | other, gamma=0.9, lam=0.8), rtol=1e-4, atol=1e-4)

    def test_next_values_may_be_nan(self, agree, draw):
        """What a terminated episode led to may be NaN or inf."""
        rewards, values, following, terminated, truncated = experience(draw, 11, 6)
        poisoned = draw.poisoned(following, terminated)
        agree(lambda m: m.gae(rewards, values, poisoned, terminated, truncated, gamma=0.9, lam=0.8), rtol=1e-4, atol=1e-4)

    def test_limits(self, agree, draw):
        """With lam 0 the advantage is δ, with lam 1 the return less the value; gamma may be 0 or 1."""
        given = experience(draw, 8, 4, F64)
        pairs = [(gamma, lam) for gamma in (0.0, 0.7, 1.0) for lam in (0.0, 0.6, 1.0)]
        agree(lambda m: [m.gae(*given, gamma=gamma, lam=lam) for gamma, lam in pairs], rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("shape", [*with_ones(5, 3), (0, 3)])
    def test_sizes_of_one_and_none(self, agree, draw, shape):
        """One step, one walk, and no step."""
        given, more = experience(draw, *shape), experience(draw, 2, 3)
        agree(lambda m: [m.gae(*some, gamma=0.9, lam=0.8) for some in (given, more)], rtol=1e-4, atol=1e-4)

    def test_float64(self, agree, draw):
        """Long walks in float64 lose nothing."""
        given = experience(draw, 90, 3, F64)
        agree(lambda m: m.gae(*given, gamma=0.99, lam=0.95), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        given = [draw.normal(7, 4, layout=layout) for _ in range(3)] + [draw.bools(7, 4, p=0.2, layout=layout) for _ in range(2)]
        agree(lambda m: m.gae(*given, gamma=0.9, lam=0.8), rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """Neither result has a graph, also where the values have gradients."""
        rewards, values, following, *ends = experience(draw, 7, 4)

        def probe(m):
            got = m.gae(leaf(rewards), leaf(values), leaf(following), *ends, gamma=0.9, lam=0.8)
            return "there is a graph" if any(x.requires_grad for x in got) else got

        agree(probe, rtol=1e-4, atol=1e-4)


# ReplayBuffer


def steps_of(draw, count, *, dtype=torch.float32, p=0.25):
    """A record of steps: an episode may end with each of them, in both ways."""
    obs = draw.normal(count + 1, 3)
    return [
        (obs[t], draw.integers(0, 99)[()], draw.normal(dtype=dtype), obs[t + 1], bool(draw.bools(p=p)), bool(draw.bools(p=p)))
        for t in range(count)
    ]


def everything(buffer, seed=0):
    """All that a buffer keeps, in the order of its rewards, since they are drawn and so differ."""
    if not len(buffer):
        return 0
    drawn = buffer.sample(len(buffer), generator=seeded(seed))
    order = drawn["reward"].argsort()
    return {name: drawn[name][order] for name in ("obs", "action", "reward", "next_obs", "terminated", "discount")}


def filled(m, record, capacity, **settings):
    """A buffer with these steps."""
    buffer = m.ReplayBuffer(capacity, **settings)
    for step in record:
        buffer.push(*step)
    return buffer


@task("ReplayBuffer")
class TestReplayBuffer:
    def test_single_steps(self, agree, draw):
        """With n = 1 each step is kept as it is, with its own end and one discount."""
        record = steps_of(draw, 20)
        agree(lambda m: everything(filled(m, record, 50, gamma=0.9)), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_n_steps(self, agree, draw, n):
        """Several steps make one, within an episode; at its end each has those that are left."""
        record = steps_of(draw, 40, p=0.1)
        agree(lambda m: everything(filled(m, record, 50, n=n, gamma=0.8)), rtol=1e-4, atol=1e-5)

    def test_truncation_is_no_termination(self, agree, draw):
        """A truncated episode ends, but its entries are not terminated."""
        record = [(*step[:4], False, ended) for *step, ended in steps_of(draw, 30, p=0.3)]
        agree(lambda m: everything(filled(m, record, 50, n=3, gamma=0.8)), rtol=1e-4, atol=1e-5)

    def test_waiting_steps_are_not_kept(self, agree, draw):
        """What has not yet got its n steps can't be drawn, and comes in with its n-th step or the end."""
        record = [(*step[:4], t == 6, False) for t, step in enumerate(steps_of(draw, 9))]

        def probe(m):
            buffer, seen = m.ReplayBuffer(50, n=4, gamma=0.5), []
            for step in record:
                buffer.push(*step)
                seen.append((len(buffer), everything(buffer)))
            return seen

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("capacity", [1, 4, 7])
    def test_the_oldest_goes(self, agree, draw, capacity):
        """A full buffer gives up its oldest entry for a new one, also if several come at once."""
        record = steps_of(draw, 25, p=0.15)

        def probe(m):
            out = []
            for n in (1, 3):
                buffer = filled(m, record, capacity, n=n, gamma=0.7)
                out.append((len(buffer), everything(buffer)))
            return out

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_no_episode_reaches_into_the_next(self, agree, draw):
        """Episodes of one step, in a row, with a large n."""
        record = [(*step[:4], t % 2 == 0, t % 2 == 1) for t, step in enumerate(steps_of(draw, 8))]
        agree(lambda m: everything(filled(m, record, 50, n=6, gamma=0.9)), rtol=1e-5, atol=1e-6)

    def test_gamma_of_0_and_1(self, agree, draw):
        """With 0 only the first reward counts, with 1 all alike; the discount is 0 or 1."""
        record = steps_of(draw, 20, p=0.1)
        agree(lambda m: [everything(filled(m, record, 50, n=3, gamma=gamma)) for gamma in (0.0, 1.0)], rtol=1e-4, atol=1e-5)

    def test_defaults(self, agree, draw):
        """Without more, n is 1 and gamma 0.99; push takes truncated to be False."""
        record = [step[:5] for step in steps_of(draw, 12)]
        agree(lambda m: [everything(filled(m, record, 50, **more)) for more in ({}, {"n": 3})], rtol=1e-5, atol=1e-6)

    def test_shapes_and_dtypes(self, agree, draw):
        """Observations have any shape and dtype; float64 rewards stay what they are."""
        images, record = draw.integers(0, 255, 9, 2, 5, 3).to(torch.uint8), steps_of(draw, 8, dtype=F64, p=0.1)
        record = [(images[t], a, r, images[t + 1], *ends) for t, (_, a, r, _, *ends) in enumerate(record)]
        agree(lambda m: everything(filled(m, record, 50, n=2, gamma=0.6)), rtol=1e-9, atol=1e-9)

    def test_different_ones(self, student, draw):
        """A batch has different entries; which ones, the generator's state decides alone."""
        record, seed, size = [(*step[:4], False, False) for step in steps_of(draw, 40)], draw.seed(), draw.integer(12, 20)

        def probe(m):
            buffer, out = filled(m, record, 100), []
            for state, s in (1, seed), (2, seed), (1, seed + 1):
                torch.manual_seed(state)
                out.append(buffer.sample(size, generator=seeded(s))["reward"])
            return out

        first, again, other = student(probe)
        rewards = torch.stack([step[2] for step in record])
        for drawn in (first, again, other):
            assert drawn.shape == (size,), f"Of {size} entries that were asked for, the rewards have the shape {tuple(drawn.shape)}."
            assert len(drawn.unique()) == size, "A batch has the same entry twice."
            assert torch.isin(drawn, rewards).all(), "A reward came back that was never pushed."
        assert torch.equal(first, again), "The same state of the generator must draw the same entries."
        assert not torch.equal(first, other), "Another state of the generator must draw others."

    def test_all_are_equally_likely(self, student, draw):
        """Each entry comes as often as any other, in a full buffer too."""
        record, seed = [(*step[:4], False, False) for step in steps_of(draw, 13)], draw.seed()

        def probe(m):
            buffer, generator = filled(m, record, 8), seeded(seed)
            return torch.stack([buffer.sample(3, generator=generator)["reward"] for _ in range(800)])

        drawn = student(probe)
        counts = torch.stack([(drawn == step[2]).sum() for step in record])
        assert counts[:5].sum() == 0, "Entries that had to go are drawn."
        worst = (counts[5:].double() / 300 - 1).abs().max().item()
        assert counts.sum() == 2400 and worst < 0.3, f"An entry comes up to {worst:.0%} more or less often than it should."

    def test_copies(self, agree, draw):
        """Neither who pushed nor who has drawn can change what is kept."""
        record = steps_of(draw, 6, p=0.0)

        def probe(m):
            buffer = m.ReplayBuffer(50, n=2, gamma=0.5)
            for obs, action, reward, following, *ends in record:
                mine = [x.clone() for x in (obs, action, reward, following)]
                buffer.push(*mine, *ends)
                for x in mine:
                    x.zero_()
            drawn = buffer.sample(3, generator=seeded(1))
            for x in drawn.values():
                x.zero_()
            return everything(buffer)

        agree(probe, rtol=1e-5, atol=1e-6)

    def test_too_few(self, agree, draw):
        """Drawing more than there are raises a ValueError, also if enough steps wait; drawing all is allowed."""
        record = [(*step[:4], False, False) for step in steps_of(draw, 5)]

        def probe(m):
            empty, buffer = m.ReplayBuffer(9), filled(m, record, 9, n=3)
            calls = [(empty, 1), (buffer, 4), (buffer, 5)]
            refused = [raised(ValueError, lambda b=b, k=k: b.sample(k, generator=seeded(0))) for b, k in calls]
            return refused, len(empty), everything(buffer)

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_two_buffers(self, agree, draw):
        """Each buffer has its own entries."""
        record = steps_of(draw, 10)

        def probe(m):
            one, two = filled(m, record[:4], 9), filled(m, record[4:], 9)
            return everything(one), everything(two), len(one), len(two)

        agree(probe, rtol=1e-5, atol=1e-6)


# dqn_targets


class Network(nn.Module):
    """A linear network with batch norm, so that its mode and its batch tell."""

    def __init__(self, w, sign=1.0):
        super().__init__()
        self.w, self.norm = nn.Parameter(w), nn.BatchNorm1d(w.shape[0], affine=False).to(w.dtype)
        self.sign = sign

    def forward(self, x):
        """(B, D) to (B, A)."""
        return self.norm(x) @ self.w * self.sign


def q_task(draw, B=9, D=5, A=4, dtype=torch.float32):
    """Two networks' weights, and steps."""
    return draw.normal(D, A, dtype=dtype), draw.normal(D, A, dtype=dtype), draw.normal(B, dtype=dtype), draw.normal(B, D, dtype=dtype)


@task("dqn_targets")
class TestDqnTargets:
    def test_double(self, agree, draw):
        """The online network chooses, the target network values."""
        online, target, rewards, obs = q_task(draw)
        no = torch.zeros(9, dtype=torch.bool)
        agree(lambda m: m.dqn_targets(lambda x: x @ online, lambda x: x @ target, rewards, obs, no, 0.9), rtol=1e-4, atol=1e-4)

    def test_single(self, agree, draw):
        """Without double, the target network does both."""
        online, target, rewards, obs = q_task(draw)
        no = torch.zeros(9, dtype=torch.bool)

        def probe(m):
            return m.dqn_targets(lambda x: x @ online, lambda x: x @ target, rewards, obs, no, 0.9, double=False)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_terminated(self, agree, draw):
        """After the end only the reward counts; what the networks say there may be NaN."""
        online, target, rewards, obs = q_task(draw)
        terminated = torch.tensor([True, False, False] * 3)[draw.permutation(9)]
        hidden = draw.poisoned(obs, terminated[:, None].expand_as(obs))

        def probe(m):
            both = (lambda x: x @ online, lambda x: x @ target)
            return [m.dqn_targets(*both, rewards, o, terminated, 0.9, double=d) for o in (obs, hidden) for d in (True, False)]

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_gamma(self, agree, draw):
        """Gamma may be 0 and 1."""
        online, target, rewards, obs = q_task(draw, dtype=F64)
        ends = draw.bools(9)

        def probe(m):
            return [m.dqn_targets(lambda x: x @ online, lambda x: x @ target, rewards, obs, ends, gamma) for gamma in (0.0, 0.37, 1.0)]

        agree(probe, rtol=1e-9, atol=1e-9)

    def test_dtype(self, agree, draw):
        """The result has the rewards' dtype, also where the networks compute in another."""
        online, target, rewards, obs = q_task(draw)
        ends, wide = draw.bools(9, p=0.3), (online.double(), target.double())

        def probe(m):
            networks = [lambda x, w=w: x.double() @ w for w in wide]
            return m.dqn_targets(*networks, rewards, obs, ends, 0.9), m.dqn_targets(*networks, rewards.double(), obs, ends, 0.9)

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_images(self, agree, draw):
        """Observations have any shape, and sizes of 1 are no exception."""
        cases = []
        for B, C, H, A in with_ones(5, 2, 3, 4):
            online, target = draw.normal(C * H * H, A), draw.normal(C * H * H, A)
            cases.append((online, target, draw.normal(B), draw.normal(B, C, H, H), draw.bools(B, p=0.3)))

        def probe(m):
            return [
                m.dqn_targets(lambda x, w=online: x.flatten(1) @ w, lambda x, w=target: x.flatten(1) @ w, *rest, 0.9)
                for online, target, *rest in cases
            ]

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("flags")
    def test_no_graph(self, agree, draw):
        """Nothing has a graph: neither the targets, nor what the networks compute."""
        online, target, rewards, obs = q_task(draw)
        ends = draw.bools(9, p=0.3)

        def probe(m):
            seen = []

            def network(w):
                def call(x):
                    y = x @ w
                    seen.append(y.requires_grad)
                    return y

                return call

            got = m.dqn_targets(network(leaf(online)), network(leaf(target)), leaf(rewards), leaf(obs), ends, 0.9)
            return "there is a graph" if got.requires_grad or any(seen) else got

        agree(probe, rtol=1e-4, atol=1e-4)

    @measured("calls")
    def test_one_call(self, agree, draw):
        """Each network sees the whole batch once; without double the online network sees nothing."""
        online, target, rewards, obs = q_task(draw)
        ends = draw.bools(9, p=0.5)

        def probe(m):
            out = []
            for double in (True, False):
                seen = []
                networks = [
                    lambda x, name=name, w=w, seen=seen: (seen.append((name, len(x))), x @ w)[1]
                    for name, w in (("o", online), ("t", target))
                ]
                got = m.dqn_targets(*networks, rewards, obs, ends, 0.9, double=double)
                due = [("o", 9), ("t", 9)] if double else [("t", 9)]
                out.append(got if sorted(seen) == due else f"the calls were {seen}")
            return out

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_modes(self, agree, draw):
        """Networks run in the mode in which they are: batch norm looks at the whole batch in train mode."""
        online, target, rewards, obs = q_task(draw)
        ends = draw.bools(9, p=0.3)

        def probe(m):
            out = []
            for mode in (True, False):
                both = Network(online).train(mode), Network(target, -1.0).train(mode)
                out.append((m.dqn_targets(*both, rewards, obs, ends, 0.9), both[1].norm.running_mean.clone()))
            return out

        agree(probe, rtol=1e-3, atol=1e-4)


# GridWorld


def rolled(m, seed, worlds, size, max_steps, actions):
    """All that a walk gives."""
    env = m.GridWorld(worlds, size, max_steps=max_steps, generator=seeded(seed))
    return [env.reset(), *(env.step(a) for a in actions)]


@task("GridWorld")
class TestGridWorld:
    def test_walks(self, agree, draw):
        """Moves, walls, rewards, both ends and new starts, over many steps."""
        actions, seed = draw.integers(0, 4, 40, 7), draw.seed()
        agree(lambda m: rolled(m, seed, 7, 4, 9, actions), rtol=1e-6, atol=0)

    @pytest.mark.parametrize("size", [2, 3, 6])
    def test_sizes(self, agree, draw, size):
        """Small and large squares."""
        actions, seed = draw.integers(0, 4, 25, 5), draw.seed()
        agree(lambda m: rolled(m, seed, 5, size, 6, actions), rtol=1e-6, atol=0)

    def test_walls(self, agree, draw):
        """Who would leave the square stays, at each of its sides."""
        seed = draw.seed()
        actions = torch.arange(4).repeat_interleave(5)[:, None].expand(20, 30)
        agree(lambda m: rolled(m, seed, 30, 4, 50, actions), rtol=1e-6, atol=0)

    def test_one_world(self, agree, draw):
        """A single world."""
        actions, seed = draw.integers(0, 4, 30, 1), draw.seed()
        agree(lambda m: rolled(m, seed, 1, 2, 4, actions), rtol=1e-6, atol=0)

    def test_one_step(self, agree, draw):
        """With max_steps = 1 each step ends its episode."""
        actions, seed = draw.integers(0, 4, 12, 9), draw.seed()
        agree(lambda m: rolled(m, seed, 9, 3, 1, actions), rtol=1e-6, atol=0)

    def test_the_goal_at_the_last_step(self, agree, draw):
        """Who reaches the goal with the last step is terminated, and not truncated."""
        seed = draw.seed()
        actions = torch.tensor([1, 2] * 10)[:, None].expand(20, 40)
        agree(lambda m: [rolled(m, seed, 40, 3, limit, actions) for limit in (2, 3, 4)], rtol=1e-6, atol=0)

    def test_steps_count_anew(self, agree, draw):
        """After a new start the limit counts from 0, also after reset."""
        actions, seed = draw.integers(0, 4, 12, 6), draw.seed()

        def probe(m):
            env = m.GridWorld(6, 5, max_steps=5, generator=seeded(seed))
            out = []
            for part in (actions[:3], actions[3:6], actions[6:]):
                out += [env.reset(), *(env.step(a) for a in part)]
            return out

        agree(probe, rtol=1e-6, atol=0)

    def test_only_the_generator(self, agree, draw):
        """Starts come from the generator, as the statement says, and nothing else is drawn from it."""
        actions, seed = draw.integers(0, 4, 15, 6), draw.seed()

        def probe(m):
            out = []
            for state in (1, 2):
                torch.manual_seed(state)
                generator = seeded(seed)
                env = m.GridWorld(6, 4, max_steps=4, generator=generator)
                env.reset()
                out.append([env.step(a) for a in actions])
                out.append(torch.rand(3, generator=generator))
            return out

        agree(probe, rtol=1e-6, atol=1e-6)

    def test_two_at_once(self, agree, draw):
        """Worlds of two environments don't know each other."""
        actions, one, two = draw.integers(0, 4, 10, 5), draw.seed(), draw.seed()

        def probe(m):
            envs = [m.GridWorld(5, 4, max_steps=4, generator=seeded(s)) for s in (one, two)]
            out = [env.reset() for env in envs]
            for a in actions:
                out += [env.step(a) for env in envs]
            return out

        agree(probe, rtol=1e-6, atol=0)

    def test_what_was_returned_stays(self, agree, draw):
        """Later steps change no tensor that was returned, and who changes one changes nothing in the worlds."""
        actions, seed = draw.integers(0, 4, 12, 8), draw.seed()

        def probe(m):
            env = m.GridWorld(8, 3, max_steps=4, generator=seeded(seed))
            kept = [env.reset()]
            for a in actions:
                kept += env.step(a)
            env = m.GridWorld(8, 3, max_steps=4, generator=seeded(seed))
            start = env.reset()
            spoiled = [start.clone()]
            start.zero_()
            for a in actions:
                given = env.step(a)
                spoiled += [x.clone() for x in given]
                for x in given:
                    x.zero_()
            return kept, spoiled

        agree(probe, rtol=1e-6, atol=0)

    def test_wrong_actions(self, agree, draw):
        """An action that is none of the four raises a ValueError, and no world has moved."""
        actions, seed, bad = draw.integers(0, 4, 6, 5), draw.seed(), [4, -1, draw.integer(5, 9), -draw.integer(2, 9)]

        def probe(m):
            env = m.GridWorld(5, 4, max_steps=3, generator=seeded(seed))
            out = [env.reset()]
            for a in actions:
                for action in bad:
                    wrong = a.clone()
                    wrong[2] = action
                    out.append(raised(ValueError, lambda w=wrong: env.step(w)))
                out.append(env.step(a))
            return out

        agree(probe, rtol=1e-6, atol=0)


# reinforce_loss


def policy_task(draw, T=5, B=4, A=3, dtype=torch.float32):
    """Logits, actions, returns and a baseline."""
    return draw.normal(T, B, A, dtype=dtype), draw.integers(0, A, T, B), draw.normal(T, B, dtype=dtype), draw.normal(T, B, dtype=dtype)


@task("reinforce_loss")
class TestReinforceLoss:
    def test_loss(self, agree, draw):
        """The mean of minus log-probability times return."""
        logits, actions, returns, _ = policy_task(draw)
        agree(lambda m: m.reinforce_loss(logits, actions, returns), rtol=1e-4, atol=1e-5)

    def test_baseline(self, agree, draw):
        """The baseline is subtracted."""
        logits, actions, returns, baseline = policy_task(draw)
        agree(lambda m: m.reinforce_loss(logits, actions, returns, baseline=baseline), rtol=1e-4, atol=1e-5)

    def test_mask(self, agree, draw):
        """Only what the mask keeps counts, in the sum and in the number of steps."""
        logits, actions, returns, baseline = policy_task(draw)
        mask = draw.bools(5, 4)
        mask[0, 0], mask[1, 1] = True, False
        agree(lambda m: m.reinforce_loss(logits, actions, returns, baseline=baseline, mask=mask), rtol=1e-4, atol=1e-5)

    def test_gradients(self, agree, draw):
        """Gradients reach the logits, and neither returns nor baseline."""
        logits, actions, returns, baseline = policy_task(draw, dtype=F64)
        mask = draw.bools(5, 4, p=0.7)

        def probe(m):
            given = [leaf(logits), leaf(returns), leaf(baseline)]
            m.reinforce_loss(given[0], actions, given[1], baseline=given[2], mask=mask).backward()
            return [x.grad if x.grad is None else x.grad.clone() for x in given]

        agree(probe, rtol=1e-9, atol=1e-10)

    def test_hidden_poison(self, agree, draw):
        """What the mask hides may be NaN, inf or an action that there is not, and gets the gradient 0."""
        logits, actions, returns, baseline = policy_task(draw)
        mask = draw.bools(5, 4)
        mask[0, 0], mask[1, 1] = True, False
        logits = draw.poisoned(logits, ~mask[..., None].expand_as(logits))
        returns, baseline = draw.poisoned(returns, ~mask), draw.poisoned(baseline, ~mask)
        actions = torch.where(mask, actions, draw.integers(-100, 100, 5, 4))

        def probe(m):
            x = leaf(logits)
            loss = m.reinforce_loss(x, actions, returns, baseline=baseline, mask=mask)
            loss.backward()
            return loss, x.grad

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_nothing_is_kept(self, agree, draw):
        """Where the mask keeps nothing, the loss and all gradients are 0; it may also keep a single step."""
        logits, actions, returns, baseline = policy_task(draw)

        def probe(m):
            out = []
            for kept in (0, 1, 20):
                x, mask = leaf(logits), (torch.arange(20) < kept).reshape(5, 4)
                loss = m.reinforce_loss(x, actions, returns, baseline=baseline, mask=mask)
                loss.backward()
                out.append((loss, x.grad))
            return out

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_large_logits(self, agree, draw):
        """Logits of some hundreds neither overflow nor give −inf."""
        logits, actions, returns, _ = policy_task(draw)

        def probe(m):
            x = leaf(300 * logits)
            loss = m.reinforce_loss(x, actions, returns)
            loss.backward()
            return loss, x.grad

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", [*with_ones(3, 4, 5), (0, 4, 3)])
    def test_sizes_of_one_and_none(self, agree, draw, shape):
        """One step, one walk, one action; and no step, where the loss is 0."""
        given, more = policy_task(draw, *shape), policy_task(draw)
        agree(lambda m: [m.reinforce_loss(*g[:3], baseline=g[3]) for g in (given, more)], rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        logits, actions = draw.normal(5, 4, 3, layout=layout), draw.integers(0, 3, 5, 4, layout=layout)
        returns, mask = draw.normal(5, 4, layout=layout), draw.bools(5, 4, p=0.8, layout=layout)
        agree(lambda m: m.reinforce_loss(logits, actions, returns, mask=mask), rtol=1e-4, atol=1e-5)


# ppo_loss


def ppo_task(draw, N=17, A=4, dtype=torch.float32, spread=1.0):
    """Everything that ppo_loss takes, with ratios and values on both sides of their limits."""
    logits, actions = draw.normal(N, A, dtype=dtype), draw.integers(0, A, N)
    old = logits.log_softmax(1).gather(1, actions[:, None])[:, 0] + 0.4 * draw.normal(N, dtype=dtype)
    values, old_values = draw.normal(N, dtype=dtype), draw.normal(N, dtype=dtype)
    return logits, values, actions, old, old_values, spread * draw.normal(N, dtype=dtype) + 1, draw.normal(N, dtype=dtype)


@task("ppo_loss")
class TestPpoLoss:
    def test_all_parts(self, agree, draw):
        """All four entries, for ratios and values on both sides of the limits."""
        given = ppo_task(draw)
        agree(lambda m: m.ppo_loss(*given), rtol=1e-4, atol=1e-4)

    def test_settings(self, agree, draw):
        """The limit and both weights, also 0, are those that are given."""
        given, weights = ppo_task(draw, dtype=F64), draw.uniform(2, 3, low=0.1, high=0.9, dtype=F64).tolist()
        settings = [*weights, [0.3, 0.0, 0.0]]

        def probe(m):
            return [m.ppo_loss(*given, clip=c, value_weight=v, entropy_weight=e) for c, v, e in settings]

        agree(probe, rtol=1e-8, atol=1e-9)

    def test_gradients(self, agree, draw):
        """Gradients reach logits and values, through every part that is not clipped; nothing else has one."""
        given = ppo_task(draw, dtype=F64)

        def probe(m):
            leaves = [leaf(x) if x.is_floating_point() else x for x in given]
            m.ppo_loss(*leaves, entropy_weight=0.3)["loss"].backward()
            return [x.grad for x in leaves]

        agree(probe, rtol=1e-7, atol=1e-9)

    @pytest.mark.parametrize("part", ["policy", "value", "entropy"])
    def test_gradients_of_parts(self, agree, draw, part):
        """Each entry has its own gradient."""
        given = ppo_task(draw, dtype=F64)

        def probe(m):
            logits, values = leaf(given[0]), leaf(given[1])
            parts = m.ppo_loss(logits, values, *given[2:])
            grads = torch.autograd.grad(parts[part], (logits, values), allow_unused=True)
            return parts[part], [torch.zeros_like(x) if g is None else g for x, g in zip((logits, values), grads, strict=True)]

        agree(probe, rtol=1e-7, atol=1e-9)

    def test_both_signs(self, agree, draw):
        """For good actions the gain is limited, for bad ones the loss is not: min, for both signs."""
        logits, values, actions, old, old_values, _, returns = ppo_task(draw, N=12)
        old = logits.log_softmax(1).gather(1, actions[:, None])[:, 0] + torch.tensor([2.0, -2.0]).repeat(6)[draw.permutation(12)]
        advantages = draw.magnitudes(12, low=0.5, high=2.0)
        agree(lambda m: m.ppo_loss(logits, values, actions, old, old_values, advantages, returns), rtol=1e-4, atol=1e-3)

    def test_one_step(self, agree, draw):
        """With one step, and with equal advantages, nothing is NaN, and the policy term is about 0."""
        one, many = ppo_task(draw, N=1), list(ppo_task(draw, N=8))
        many[5] = torch.full((8,), float(draw.integer(2, 64)))

        def probe(m):
            out = []
            for given in (one, many):
                x = leaf(given[0])
                parts = m.ppo_loss(x, *given[1:])
                parts["loss"].backward()
                out.append((parts, x.grad))
            return out

        agree(probe, rtol=1e-4, atol=1e-5)

    def test_deviation_of_all(self, agree, draw):
        """The deviation is that of two or three advantages, and not an estimate for more."""
        cases = [ppo_task(draw, N=n, dtype=F64) for n in (2, 3)]
        agree(lambda m: [m.ppo_loss(*given) for given in cases], rtol=1e-6, atol=1e-8)

    def test_tiny_advantages(self, agree, draw):
        """The 1e-8 stands beside the deviation: small advantages are normalised as far as it lets them."""
        cases = [ppo_task(draw, dtype=F64, spread=s) for s in (1e-8, 1e-6)]
        agree(lambda m: [m.ppo_loss(*given)["policy"] for given in cases], rtol=1e-4, atol=1e-5)

    def test_sure_policy(self, agree, draw):
        """Where π of an action is 0 in float32, the entropy and its gradient are not NaN."""
        logits, values, actions, _, old_values, advantages, returns = ppo_task(draw)
        logits = 300 * logits
        actions = logits.argmax(1)
        old = -0.1 * draw.uniform(17, low=0.0, high=1.0)

        def probe(m):
            x = leaf(logits)
            parts = m.ppo_loss(x, values, actions, old, old_values, advantages, returns)
            parts["loss"].backward()
            return parts, x.grad

        agree(probe, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous; a single action has the probability 1."""
        logits, actions = draw.normal(9, 4, layout=layout), draw.integers(0, 4, 9, 2, layout=layout)[:, 1]
        values, old_values, advantages, returns = (draw.normal(9, 2, layout=layout)[:, 1] for _ in range(4))
        old, none = draw.uniform(9, low=-2.0, high=-1.0), draw.normal(9, 1)

        def probe(m):
            two = (logits, actions), (none, torch.zeros_like(actions))
            return [m.ppo_loss(x, values, a, old, old_values, advantages, returns) for x, a in two]

        agree(probe, rtol=1e-3, atol=1e-3)


# dpo_loss


def dpo_task(draw, B=5, T=7, S=4, dtype=torch.float32):
    """Four log-probabilities and two masks."""
    given = [-draw.uniform(B, n, low=0.1, high=5.0, dtype=dtype) for n in (T, S, T, S)]
    return [*given, draw.bools(B, T, p=0.7), draw.bools(B, S, p=0.7)]


@task("dpo_loss")
class TestDpoLoss:
    def test_loss_and_margins(self, agree, draw):
        """Sums over the kept tokens, against the reference's, of answers of different lengths."""
        given = dpo_task(draw)
        agree(lambda m: m.dpo_loss(*given), rtol=1e-4, atol=1e-4)

    def test_beta(self, agree, draw):
        """The rewards are beta times the differences."""
        given, beta = dpo_task(draw, dtype=F64), draw.uniform(1, low=0.2, high=2.0).item()
        agree(lambda m: [m.dpo_loss(*given, beta=b) for b in (beta, 1.0)], rtol=1e-9, atol=1e-9)

    def test_gradients(self, agree, draw):
        """Gradients reach the policy only."""
        given = dpo_task(draw, dtype=F64)

        def probe(m):
            leaves = [leaf(x) for x in given[:4]]
            m.dpo_loss(*leaves, *given[4:])[0].backward()
            return [x.grad for x in leaves]

        agree(probe, rtol=1e-9, atol=1e-10)

    @measured("flags")
    def test_margins_have_no_graph(self, agree, draw):
        """The loss has a graph, the margins have none."""
        given = dpo_task(draw)

        def probe(m):
            loss, margins = m.dpo_loss(leaf(given[0]), leaf(given[1]), *given[2:])
            return loss.requires_grad, "they have a graph" if margins.requires_grad else margins, loss

        agree(probe, rtol=1e-4, atol=1e-4)

    def test_large_margins(self, agree, draw):
        """Margins up to ±10⁴ give the right loss and gradients in float32."""
        given, sizes = dpo_task(draw, B=6), torch.tensor([1e4, -1e4, 200.0, -200.0, 30.0, -30.0])[draw.permutation(6)]
        given[4][:, 0] = True
        given[0][:, 0] += sizes

        def probe(m):
            x = leaf(given[0])
            loss, margins = m.dpo_loss(x, *given[1:], beta=1.0)
            loss.backward()
            return loss, margins, x.grad

        agree(probe, rtol=1e-3, atol=1e-6)

    def test_hidden_poison(self, agree, draw):
        """What a mask hides may be NaN or inf, and gets the gradient 0."""
        given = dpo_task(draw)
        given[4][:, 0], given[5][:, 1] = False, False
        for i in range(4):
            given[i] = draw.poisoned(given[i], ~given[4 + i % 2])

        def probe(m):
            leaves = [leaf(x) for x in given[:2]]
            loss, margins = m.dpo_loss(*leaves, *given[2:])
            loss.backward()
            return loss, margins, [x.grad for x in leaves]

        agree(probe, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("shape", [*with_ones(5, 4, 3), (3, 0, 4), (3, 4, 0)])
    def test_sizes_of_one_and_none(self, agree, draw, shape):
        """One pair, one token, and an answer without tokens, whose reward is 0."""
        given, more = dpo_task(draw, *shape), dpo_task(draw)
        agree(lambda m: [m.dpo_loss(*g) for g in (given, more)], rtol=1e-4, atol=1e-4)

    def test_the_policy_is_the_reference(self, agree, draw):
        """Then all margins are 0, the loss is log 2, and the gradient is ∓ beta / 2 / B."""
        given, more = dpo_task(draw), dpo_task(draw)

        def probe(m):
            x = leaf(given[0])
            loss, margins = m.dpo_loss(x, given[1], given[0], given[1], *given[4:])
            loss.backward()
            return loss, margins, x.grad, m.dpo_loss(*more)

        agree(probe, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        given = [draw.normal(4, n, layout=layout) for n in (5, 3, 5, 3)]
        masks = [draw.bools(4, n, p=0.7, layout=layout) for n in (5, 3)]
        agree(lambda m: m.dpo_loss(*given, *masks), rtol=1e-4, atol=1e-4)


# grpo_loss


def grpo_task(draw, B=3, G=4, T=6, dtype=torch.float32):
    """Log-probabilities whose ratios are on both sides of the limits, rewards and a mask."""
    p = -draw.uniform(B, G, T, low=0.5, high=3.0, dtype=dtype)
    old, ref = p + 0.4 * draw.normal(B, G, T, dtype=dtype), p + 0.6 * draw.normal(B, G, T, dtype=dtype)
    return [p, old, ref, draw.normal(B, G, dtype=dtype), draw.bools(B, G, T, p=0.7)]


@task("grpo_loss")
class TestGrpoLoss:
    def test_loss(self, agree, draw):
        """Advantages within each question, a limited ratio, and the distance to the reference."""
        given = grpo_task(draw)
        agree(lambda m: m.grpo_loss(*given), rtol=1e-3, atol=1e-4)

    def test_settings(self, agree, draw):
        """The limit and beta are those that are given; beta may be 0."""
        given, pairs = grpo_task(draw, dtype=F64), draw.uniform(2, 2, low=0.1, high=0.9, dtype=F64).tolist()
        agree(lambda m: [m.grpo_loss(*given, clip=clip, beta=beta) for clip, beta in [*pairs, (0.3, 0.0)]], rtol=1e-8, atol=1e-9)

    def test_gradients(self, agree, draw):
        """Gradients reach the policy's log-probabilities only."""
        given = grpo_task(draw, dtype=F64)

        def probe(m):
            leaves = [leaf(x) for x in given[:4]]
            m.grpo_loss(*leaves, given[4], beta=0.5).backward()
            return [x.grad for x in leaves]

        agree(probe, rtol=1e-8, atol=1e-10)

    def test_lengths(self, agree, draw):
        """The mean is taken over each answer's tokens first: long answers do not count more. One without tokens counts as 0."""
        given = grpo_task(draw, dtype=F64)
        lengths = torch.stack([draw.permutation(7)[:4] for _ in range(3)])
        lengths[0, 0] = 0
        mask = torch.arange(6) < lengths[..., None]
        agree(lambda m: m.grpo_loss(*given[:4], mask), rtol=1e-8, atol=1e-9)

    def test_equal_rewards(self, agree, draw):
        """A question whose answers all have the same reward has the advantages 0, and not NaN or rounding errors."""
        given = grpo_task(draw)
        given[3][1] = 0.1 * draw.integer(1, 99)

        def probe(m):
            x = leaf(given[0])
            loss = m.grpo_loss(x, *given[1:], beta=0.0)
            loss.backward()
            return loss, x.grad

        agree(probe, rtol=1e-3, atol=1e-5)

    def test_all_equal(self, agree, draw):
        """Where all rewards are equal, only the distance to the reference is left; one answer is always equal to itself."""
        given, one = grpo_task(draw, dtype=F64), grpo_task(draw, G=1, dtype=F64)
        given[3] = torch.full_like(given[3], draw.integer(1, 99) / 7)

        def probe(m):
            return [m.grpo_loss(*g, beta=beta) for g in (given, one) for beta in (0.5, 0.0)]

        agree(probe, rtol=1e-8, atol=1e-12)

    def test_small_differences(self, agree, draw):
        """Rewards that differ little are told apart as clearly as others."""
        given = grpo_task(draw, dtype=F64)
        given[3] = given[3] * 1e-7 + draw.integer(1, 9)
        agree(lambda m: m.grpo_loss(*given), rtol=1e-4, atol=1e-5)

    def test_both_signs(self, agree, draw):
        """For good answers the gain is limited, for bad ones the loss is not."""
        given = grpo_task(draw)
        given[1] = given[0] + torch.where(draw.bools(3, 4, 6), 1.5, -1.5)
        agree(lambda m: m.grpo_loss(*given), rtol=1e-3, atol=1e-3)

    def test_hidden_poison(self, agree, draw):
        """What the mask hides may be NaN or inf, and gets the gradient 0."""
        given = grpo_task(draw)
        given[4][0, 0, 0], given[4][1] = False, True
        given[:3] = [draw.poisoned(x, ~given[4]) for x in given[:3]]

        def probe(m):
            x = leaf(given[0])
            loss = m.grpo_loss(x, *given[1:])
            loss.backward()
            return loss, x.grad

        agree(probe, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("shape", [*with_ones(2, 3, 4), (2, 3, 0)])
    def test_sizes_of_one_and_none(self, agree, draw, shape):
        """One question, one answer, one token; and answers without tokens."""
        given, more = grpo_task(draw, *shape), grpo_task(draw)
        agree(lambda m: [m.grpo_loss(*g) for g in (given, more)], rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, agree, draw, layout):
        """Tensors may be non-contiguous."""
        p = draw.normal(3, 4, 5, layout=layout)
        rewards, mask = draw.normal(3, 4, layout=layout), draw.bools(3, 4, 5, p=0.7, layout=layout)
        more, less = p + 0.3, p - 0.4
        agree(lambda m: m.grpo_loss(p, more, less, rewards, mask), rtol=1e-3, atol=1e-4)


# train_gridworld


class Grid:
    """A square whose goal and whose actions are drawn, and which counts what is asked of it."""

    def __init__(self, goal, order, seed, *, worlds=32, size=4, max_steps=30):
        self.goal, self.worlds, self.size, self.max_steps = goal, worlds, size, max_steps
        self.generator = torch.Generator().manual_seed(seed)
        self.moves = torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1]])[order]
        self.resets = self.walked = 0

    def reset(self):
        """Start all anew."""
        self.resets += 1
        self.cells, self.steps = self._starts(self.worlds), torch.zeros(self.worlds, dtype=torch.int64)
        return self.cells.clone()

    def step(self, actions):
        """As GridWorld has it."""
        assert actions.shape == (self.worlds,), f"the actions have the shape {tuple(actions.shape)}"
        self.walked += 1
        self.cells = (self.cells + self.moves[actions]).clamp(0, self.size - 1)
        self.steps += 1
        there = self.cells[:, 0] * self.size + self.cells[:, 1] == self.goal
        late = ~there & (self.steps >= self.max_steps)
        final, ended = self.cells.clone(), there | late
        if ended.any():
            self.cells[ended] = self._starts(int(ended.sum()))
            self.steps[ended] = 0
        return self.cells.clone(), torch.where(there, 1.0, -0.1), there, late, final

    def _starts(self, k):
        cell = torch.randint(self.size**2 - 1, (k,), generator=self.generator)
        cell = cell + (cell >= self.goal)
        return torch.stack([cell // self.size, cell % self.size], 1)


class Policy(nn.Module):
    """A table of logits, with dropout that shows the mode."""

    def __init__(self, start, p=0.0):
        super().__init__()
        self.table, self.dropout = nn.Embedding.from_pretrained(start.clone(), freeze=False), nn.Dropout(p)

    def forward(self, obs):
        """(B, 2) to (B, 4)."""
        return self.dropout(self.table(obs[:, 0] * 4 + obs[:, 1]))


def steps_to_goal(logits, goal, order, at_most=200):
    """How many steps the policy takes on average over all starts, counting at most 200: exactly, from its probabilities."""
    chances, moves = logits.double().softmax(1), torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1]])[order]
    there = torch.zeros(16, 16, dtype=F64)
    for cell in range(16):
        for action in range(4):
            row, column = (torch.tensor([cell // 4, cell % 4]) + moves[action]).clamp(0, 3).tolist()
            there[cell, 4 * row + column] += chances[cell, action]
    there[:, goal] = 0.0  # who has arrived walks no more
    walking = torch.ones(16, dtype=F64)
    walking[goal] = 0.0
    walking, steps = walking / 15, 0.0
    for _ in range(at_most):
        steps += walking.sum().item()
        walking = walking @ there
    return steps


def puzzle(draw):
    """A goal, an order of the actions, and seeds."""
    return draw.integer(0, 16), draw.permutation(4), draw.seed(), draw.seed()


def taught(m, start, goal, order, env_seed, seed, **settings):
    """The table after training."""
    policy = Policy(start)
    m.train_gridworld(Grid(goal, order, env_seed), policy, generator=torch.Generator().manual_seed(seed), **settings)
    return policy.table.weight.detach()


@task("train_gridworld")
class TestTrainGridworld:
    def test_reaches_the_goal(self, student, draw):
        """After 60 iterations the goal is 5 steps away or fewer, on average over all starts, wherever it is and whatever actions do."""
        goal, order, env_seed, seed = puzzle(draw)
        logits = student(lambda m: taught(m, torch.zeros(16, 4), goal, order, env_seed, seed))
        steps = steps_to_goal(logits, goal, order)
        assert steps <= 5, f"The policy takes {steps:.1f} steps to the goal on average; at most 5 are asked for."

    def test_generator_decides(self, student, draw):
        """The same generator gives the same policy whatever the global state is, another another; and it has begun to learn."""
        goal, order, env_seed, seed = puzzle(draw)
        start = 0.3 * draw.normal(16, 4)

        def probe(m):
            out = []
            for state, s in (1, seed), (2, seed), (1, seed + 1):
                torch.manual_seed(state)
                out.append(taught(m, start, goal, order, env_seed, s, iterations=15))
            return out

        first, again, other = student(probe)
        before, after = (steps_to_goal(x, goal, order) for x in (start, first))
        assert after < 0.8 * before, f"15 iterations take the steps to the goal from {before:.1f} to {after:.1f}: that is no learning."
        assert torch.allclose(first, again, rtol=1e-3, atol=1e-4), "A generator in the same state must give the same policy."
        assert (first - other).abs().max() > 1e-3, "Another generator must give another policy."

    def test_from_the_weights_that_it_has(self, student, draw):
        """A policy that knows its way is trained on from there: one iteration does not make it forget."""
        goal, order, env_seed, seed = puzzle(draw)
        known = 2 * draw.normal(16, 4)
        got = student(lambda m: taught(m, known, goal, order, env_seed, seed, iterations=1))
        assert torch.corrcoef(torch.stack([got.flatten(), known.flatten()]))[0, 1] > 0.7, (
            "After one iteration the policy has little left of the weights that it came with."
        )
        assert (got - known).abs().max() > 1e-6, "One iteration has changed nothing."

    def test_no_iterations(self, agree, draw):
        """0 iterations change nothing; one does."""
        goal, order, env_seed, seed = puzzle(draw)
        start = draw.normal(16, 4)

        def probe(m):
            moved = taught(m, start, goal, order, env_seed, seed, iterations=1)
            return taught(m, start, goal, order, env_seed, seed, iterations=0), bool((moved != start).any())

        agree(probe, rtol=1e-6, atol=0)

    @measured("calls")
    def test_steps_are_counted(self, student, draw):
        """Each iteration resets the environment once, and takes exactly `steps` steps."""
        goal, order, env_seed, seed = puzzle(draw)
        iterations, steps = draw.integer(12, 16), draw.integer(19, 25)

        def probe(m):
            env, policy = Grid(goal, order, env_seed), Policy(torch.zeros(16, 4))
            m.train_gridworld(env, policy, generator=torch.Generator().manual_seed(seed), iterations=iterations, steps=steps)
            return policy.table.weight.detach(), env.resets, env.walked

        logits, resets, walked = student(probe)
        before, after = (steps_to_goal(x, goal, order) for x in (torch.zeros(16, 4), logits))
        assert after < 0.9 * before, f"{iterations} iterations take the steps to the goal from {before:.1f} to {after:.1f}."
        assert resets == iterations, f"In {iterations} iterations the environment was reset {resets} times."
        assert walked == iterations * steps, f"In {iterations} iterations of {steps} steps {walked} steps were taken."

    @measured("modes")
    def test_mode(self, student, draw):
        """The policy is used in the mode in which it is, and left in it."""
        goal, order, env_seed, seed = puzzle(draw)

        def probe(m):
            out = []
            for mode in (True, False):
                policy, seen = Policy(torch.zeros(16, 4), p=0.1).train(mode), []
                policy.dropout.register_forward_hook(lambda module, args, y, seen=seen: seen.append(module.training))
                m.train_gridworld(
                    Grid(goal, order, env_seed), policy, generator=torch.Generator().manual_seed(seed), iterations=12, steps=20
                )
                out.append((policy.table.weight.detach(), sorted(set(seen)), policy.training))
            return out

        for (logits, seen, after), mode in zip(student(probe), (True, False), strict=True):
            before, now = (steps_to_goal(x, goal, order) for x in (torch.zeros(16, 4), logits))
            assert now < 0.9 * before, f"12 iterations take the steps to the goal from {before:.1f} to {now:.1f}."
            assert seen == [mode], f"In {'train' if mode else 'eval'} mode, the policy ran with training = {seen}."
            assert after is mode, "The policy was left in another mode."
