"""Packing, selecting and shuffling: what goes in comes out, aligned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anypo.data.batch import Batch
from anypo.data.records import Group, Steps, Trajectory, prompt_id

FAST = settings(max_examples=40, deadline=None, derandomize=True)


def trajectory(rng: np.random.Generator, prompt: int, sample: int, length: int) -> Trajectory:
    """A rollout whose arrays carry its identity, so that any misalignment shows."""
    tag = 1000.0 * prompt + 100.0 * sample
    return Trajectory(
        prompt=prompt,
        content=Steps(np.zeros((length, 1)), np.zeros((length, 1)), np.zeros(1)),
        logp=-(tag + np.arange(length)),
        version=np.full(length, sample),
        rewards={"correct": float(rng.integers(0, 2))} | ({"format": tag} if sample % 2 else {}),
        reward=tag,
        step_rewards=tag + np.arange(length) / 10,
        turn=np.arange(length) // 2,
        sample=sample,
        finish="length" if sample == 1 else "stop",
        temperature=1.0 + sample,
    )


def groups(sizes: list[list[int]], seed: int = 0) -> list[Group]:
    rng = np.random.default_rng(seed)
    return [
        Group(prompt, tuple(trajectory(rng, prompt, sample, length) for sample, length in enumerate(lengths)))
        for prompt, lengths in enumerate(sizes)
    ]


shapes = st.lists(st.lists(st.integers(0, 5), max_size=4), max_size=4)


def check(batch: Batch, expected: list[tuple[int, Trajectory]]) -> None:
    """The batch holds exactly these (group id, trajectory) in this order, rows in time order."""
    assert batch.n_sequences == len(expected)
    assert len(batch) == sum(len(t) for _, t in expected)
    for s, (group, t) in enumerate(expected):
        rows = (batch.sequence == s).nonzero().flatten()
        assert int(batch.group[s]) == group
        assert int(batch.sequences["prompt"][s]) == t.prompt and int(batch.sequences["sample"][s]) == t.sample
        assert int(batch.sequences["length"][s]) == len(t)
        assert float(batch.sequences["reward"][s]) == t.reward
        assert bool(batch.sequences["truncated"][s]) == t.truncated
        assert batch["position"][rows].tolist() == list(range(len(t)))
        assert batch["logp_behaviour"][rows].tolist() == t.logp.tolist()
        assert batch["version"][rows].tolist() == t.version.tolist()
        np.testing.assert_allclose(batch["step_reward"][rows].numpy(), t.step_rewards)
        for name in {n for _, other in expected for n in other.rewards} if expected else ():
            assert float(batch.sequences[f"reward/{name}"][s]) == t.rewards.get(name, 0.0)


@FAST
@given(shapes)
def test_pack_keeps_everything_aligned(sizes: list[list[int]]) -> None:
    made = groups(sizes)
    batch = Batch.pack(made, torch.float64)
    assert batch.n_groups == len(sizes)
    assert bool((batch.weight == 1).all())
    check(batch, [(g, t) for g, group in enumerate(made) for t in group.trajectories])


@FAST
@given(shapes, st.integers(0, 2**31))
def test_select_and_shuffle(sizes: list[list[int]], seed: int) -> None:
    made = groups(sizes)
    flat = [(g, t) for g, group in enumerate(made) for t in group.trajectories]
    batch = Batch.pack(made, torch.float64)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(flat))[: rng.integers(0, len(flat) + 1)]
    picked = batch.select(torch.as_tensor(chosen, dtype=torch.int64))
    check(picked, [flat[i] for i in chosen])
    assert picked.trajectories == tuple(flat[i][1] for i in chosen)
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[torch.as_tensor(chosen, dtype=torch.int64)] = True
    check(batch.select(mask), [flat[i] for i in sorted(chosen)])


@FAST
@given(shapes, st.integers(0, 2**31))
def test_group_quantities_do_not_depend_on_order(sizes: list[list[int]], seed: int) -> None:
    batch = Batch.pack(groups(sizes), torch.float64)
    order = torch.as_tensor(np.random.default_rng(seed).permutation(batch.n_sequences), dtype=torch.int64)
    shuffled = batch.select(order)
    reward = batch.sequences["reward"]
    torch.testing.assert_close(shuffled.group_mean(shuffled.sequences["reward"]), batch.group_mean(reward))
    per_row = batch.sequence_mean(batch["logp_behaviour"])[order]
    torch.testing.assert_close(shuffled.sequence_mean(shuffled["logp_behaviour"]), per_row)
    torch.testing.assert_close(shuffled.row_mean(shuffled["step_reward"]), batch.row_mean(batch["step_reward"]))


def test_a_prompt_drawn_twice_is_two_groups() -> None:
    one = groups([[1, 2]])[0]
    batch = Batch.pack([one, one])
    assert batch.n_groups == 2 and batch.group.tolist() == [0, 0, 1, 1]


def test_selecting_twice_is_refused() -> None:
    batch = Batch.pack(groups([[1, 2]]))
    with pytest.raises(ValueError, match="only once"):
        batch.select(torch.tensor([0, 0]))


def test_masked_rows_leave_every_mean_alone() -> None:
    batch = Batch.pack(groups([[3, 2]]), torch.float64)
    batch = batch.with_rows(weight=torch.tensor([1.0, 0, 1, 0, 0], dtype=torch.float64))
    values = torch.tensor([1.0, 99, 3, 99, 99], dtype=torch.float64)
    assert batch.sequence_mean(values).tolist() == [2.0, 0.0]
    assert batch.sequence_sum(values).tolist() == [4.0, 0.0]
    assert float(batch.row_mean(values)) == 2.0
    empty = batch.with_rows(weight=torch.zeros(5, dtype=torch.float64))
    assert float(empty.row_mean(values)) == 0.0


def test_columns_are_added_without_touching_the_original() -> None:
    batch = Batch.pack(groups([[2]]))
    fuller = batch.with_rows(advantage=torch.ones(2)).with_sequences(value=torch.ones(1))
    assert "advantage" in fuller and "value" in fuller and "advantage" not in batch
    with pytest.raises(KeyError, match="not filled"):
        batch["advantage"]
    assert fuller.spread(fuller.sequences["value"]).tolist() == [1.0, 1.0]


def test_prompt_identity_is_stable() -> None:
    assert prompt_id("2 + 2 =") == 4806962079924905420  # b2sum -l 64, top 63 bits
    assert prompt_id("2 + 2 =") != prompt_id("2 + 3 =")
    assert 0 <= prompt_id("") < 2**63
