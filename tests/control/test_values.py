"""Prompts by their values: the nearest to the target, and learned from the step's own rollouts."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from making_groups import MANY, at
from making_systems import assert_same_gradient

from anypo.claims.beds.items import ItemCritic, Items, follow
from anypo.context import Context, Memory
from anypo.control.values import PromptCritic, ValueBand
from anypo.data.batch import Batch
from anypo.outlook import Outlook
from anypo.run.trainer import Trainer
from anypo.systems import find

TWENTY = Items(prompts=8, samples=8, critic_lr=0.05)


class Known(ValueBand, name="test_known_values"):
    """Values that are given: those of problem i are i / 1000."""

    def _values(self, indices: np.ndarray, context: Context) -> np.ndarray:
        return np.asarray(indices) / 1000


del ValueBand.parts["test_known_values"]


@pytest.mark.exact("pcl")
def test_the_kept_prompts_have_the_smallest_summed_distance() -> None:
    part = Known(prompts=3, samples=4, candidates=4, target=0.3)
    context = at(part)
    for context.step in range(5):
        kept = [ask.index for ask in part.choose(1000, 3, context)]
        rng = np.random.default_rng([0, context.step, 3 * context.step, 53])
        drawn = rng.permutation(1000)[:12]
        cost = lambda chosen: sum(abs(i / 1000 - 0.3) for i in chosen)
        assert set(kept) <= set(drawn.tolist())
        assert cost(kept) == pytest.approx(min(map(cost, itertools.combinations(drawn.tolist(), 3))))
        assert context.metrics["control/candidates"] == 12


@pytest.mark.exact("pcl")
def test_one_candidate_is_uniform_sampling() -> None:
    part = Known(prompts=4, samples=4, candidates=1)
    context, counts = at(part), np.zeros(20)
    for context.step in range(1500):
        counts[[ask.index for ask in part.choose(20, 4, context)]] += 1
    assert abs(counts - 300).max() < 5 * np.sqrt(300 * 0.8)
    assert "set control.candidates=4" in str(part.dormant(None, Outlook(20, MANY)))


@pytest.mark.exact("pcl")
def test_the_loss_is_the_squared_distance_to_the_group_means() -> None:
    run = follow("pcl", TWENTY, 3, 0).trainer
    batch: Batch = run.batch
    value = torch.randn(len(batch), dtype=torch.float64, requires_grad=True)
    part = run.algorithm.control
    loss = part.value_loss(batch.with_rows(prompt_value=value), Context(0, 10, 0, Memory(part)))
    means = {g: np.mean([t.reward for t in group.trajectories]) for g, group in enumerate(run.groups)}
    targets = torch.tensor([means[g] for g in batch.group.tolist()], dtype=torch.float64)
    assert float(loss.detach()) == pytest.approx(float(((value.detach() - targets) ** 2).mean()))
    (slope,) = torch.autograd.grad(loss, [value])
    torch.testing.assert_close(slope, 2 * (value.detach() - targets) / len(value))


@pytest.mark.exact("pcl")
def test_the_gradient_is_reinforce_with_a_mean_baseline_over_lengths() -> None:
    def loss(case):
        advantage = (case.reward - case.group_mean(case.reward))[:, None]
        score = (case.logp - case.logp.detach()) * case.mask
        return -((score * advantage).sum(1) / case.length).mean()

    assert_same_gradient("pcl", loss)


@pytest.mark.exact("pcl")
def test_the_model_finds_the_band_among_prompts_that_nobody_answered() -> None:
    """Ten thousand problems, twenty steps: hardly one is met twice, and yet the model tells them apart by their words."""
    far = {}
    for name, candidates in (("model", 4), ("even", 1)):
        run = follow("pcl", TWENTY, 20, 1, lambda method, k=candidates: method.set({"control.candidates": k}))
        assert run.coverage > 0.95
        far[name] = np.abs(np.concatenate(run.asked[10:]) - 0.5).mean()
    assert far["model"] < 0.75 * far["even"]


def test_the_model_reads_every_prompt_once_and_no_answer() -> None:
    """Its cost is that of the prompts, however many rollouts answer them and however long: value and gradient are those of reading
    each rollout."""
    run = follow("pcl", TWENTY, 3, 0).trainer
    batch, read = run.batch, []

    class Reading(ItemCritic):
        def fill(self, batch: Batch, names, grad):
            read.append(len(batch.trajectories))
            return super().fill(batch, names, grad)

    critic = Reading(TWENTY)
    with torch.no_grad():
        critic.topics.copy_(torch.linspace(0, 1, TWENTY.topics))
    once = PromptCritic(critic).fill(batch, ["prompt_value"], grad=True)["prompt_value"]
    assert read == [len({t.prompt for t in batch.trajectories})] and read[0] < len(batch.trajectories)
    pull = torch.randn(len(batch), dtype=torch.float64)
    (slope,) = torch.autograd.grad((pull * once).sum(), [critic.topics])
    each = critic.fill(batch, ["value"], grad=True)["value"]
    torch.testing.assert_close(once, each)
    torch.testing.assert_close(slope, torch.autograd.grad((pull * each).sum(), [critic.topics])[0])


def test_a_resumed_run_asks_for_the_same_prompts() -> None:
    def trainer() -> Trainer:
        return Trainer(TWENTY.adapt("pcl"), TWENTY.world(0), 0, 8)

    whole = trainer()
    asked = []
    for step in range(6):
        if step == 3:
            saved = copy.deepcopy(whole.state_dict())
        whole.step()
        asked.append([group.index for group in whole.groups])
    second = trainer()
    second.load_state_dict(saved)
    for step in range(3, 6):
        second.step()
        assert [group.index for group in second.groups] == asked[step]
    assert find("pcl").algorithm().control == ValueBand()
