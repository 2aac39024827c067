"""Value models beside a language policy."""

import numpy as np
import pytest
import torch
from policies_making import batch_of, rollout

from anypo import policies
from anypo.policies import Critic
from anypo.policies.base import Learner

SMALL = {"model": "tiny", "layers": 2, "hidden": 64, "intermediate": 96}


def rollouts(seed=0):
    rng = np.random.default_rng(seed)
    return batch_of([rollout(rng, shape, 98) for shape in ([5, 4], [3, 1], [2, 3, 2, 5])], torch.float32)


def values(critic, batch, grad=False):
    return critic.fill(batch, {"value"}, grad)["value"]


@pytest.mark.parametrize(
    ("mode", "width", "rank"), [("head", 0, 0), ("head", 16, 2), ("copy", 0, 0), ("copy", 16, 0), ("copy", 0, 2)]
)
def test_a_critic_starts_at_zero_learns_and_never_moves_the_policy(mode, width, rank):
    policy = policies.load(SMALL, lora=rank)
    before = policy.state_dict()
    critic = Critic(policy, mode, width, seed=3)
    batch = rollouts()
    assert isinstance(critic, Learner)
    assert torch.equal(values(critic, batch), torch.zeros(len(batch)))
    target = torch.linspace(-1, 1, len(batch))
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = ((values(critic, batch, grad=True) - target) ** 2).mean()
        loss.backward()
        optimiser.step()
    assert loss < 0.1 * target.square().mean()
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    assert all(parameter.grad is None for parameter in policy.parameters())

    twin = Critic(policy, mode, width, seed=4)
    twin.load_state_dict(critic.state_dict())
    assert torch.equal(values(twin, batch), values(critic, batch))
    assert not {id(p) for p in critic.parameters()} & {id(p) for p in policy.parameters()}


def test_the_head_follows_the_policy_unless_the_batch_holds_its_states():
    policy = policies.load(SMALL)
    critic = Critic(policy)
    torch.nn.init.normal_(critic.parameters()[0], generator=torch.Generator().manual_seed(0))
    batch = rollouts()
    kept = batch.with_rows(**policy.fill(batch, {"hidden"}, grad=False))
    first = values(critic, batch)
    torch.testing.assert_close(values(critic, kept), first)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.testing.assert_close(values(critic, kept), first)
    assert (values(critic, batch) - first).abs().max() > 1e-2


def test_the_copy_has_gradients_of_its_own_trunk():
    policy = policies.load(SMALL)
    critic = Critic(policy, "copy")
    batch = rollouts()
    torch.nn.init.normal_(critic.parameters()[0], generator=torch.Generator().manual_seed(0))
    values(critic, batch, grad=True).square().sum().backward()
    trunk = critic.trunk.own()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in trunk.items() if n != "lm_head.weight")


def test_edges():
    policy = policies.load(SMALL)
    assert values(Critic(policy), batch_of([], torch.float32)).shape == (0,)
    assert values(Critic(policy, "copy"), batch_of([], torch.float32)).shape == (0,)
    assert Critic(policy).fill(rollouts(), set(), grad=True) == {}
    with pytest.raises(ValueError, match="'head' or 'copy'"):
        Critic(policy, "tail")
    low = policies.load(SMALL, dtype="bfloat16")
    assert values(Critic(low), rollouts()).dtype == torch.float32
    assert values(Critic(low, "copy"), rollouts()).dtype == torch.float32
