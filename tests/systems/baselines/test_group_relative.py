"""The exact properties of `anypo.systems.baselines.group_relative`, as the sources state them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from making_rows import make
from making_systems import assign

from anypo.data import segments
from anypo.systems import find


@pytest.mark.exact("lite-ppo")
def test_lite_ppo_divides_all_prompts_by_one_number() -> None:
    rewards = [[1, 0, 0, 0], [1, 1, 1, 0]]
    batch = make([[2, 3, 1, 4], [2, 2, 2, 2]], rewards=rewards)
    lite = assign(find("lite-ppo").algorithm(), batch).sequences["advantage"]
    plain = assign(find("dr-grpo").algorithm(), batch).sequences["advantage"]
    scale = torch.tensor(rewards, dtype=torch.float64).flatten().std() + 1e-8
    torch.testing.assert_close(lite, plain / scale)
    one = batch.select(torch.arange(4))
    torch.testing.assert_close(
        assign(find("lite-ppo").algorithm(), one).sequences["advantage"],
        assign(find("grpo").algorithm(), one).sequences["advantage"],
        rtol=1e-5, atol=0.0,
    )  # fmt: skip


def test_group_std_levels_prompts_and_batch_std_does_not() -> None:
    """Effective weight Var(A) of a prompt with success p: 1 under the group's std, p (1 - p) / const under the batch's."""
    rng = np.random.default_rng(0)
    success, size = (0.05, 0.5, 0.95), 4000
    rewards = [(rng.random(size) < p).astype(float).tolist() for p in success]
    batch = make([[1] * size] * 3, rewards=rewards)
    per_prompt = lambda name: segments.variance(
        assign(find(name).algorithm(), batch).sequences["advantage"], batch.group, 3
    )
    assert per_prompt("grpo").tolist() == pytest.approx([1.0] * 3, rel=0.01)
    lite = per_prompt("lite-ppo")
    assert (lite / lite[1]).tolist() == pytest.approx([0.19, 1.0, 0.19], rel=0.15)
