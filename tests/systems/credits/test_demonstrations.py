"""The exact properties of `anypo.systems.credits.demonstrations`, as the sources state them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from making_rows import make
from stepping import assert_descended, log_probabilities, place, steps
from torch import Tensor

from anypo.claims.beds.exact import Testbed
from anypo.context import Context, Memory
from anypo.data.records import DEMO, Trajectory
from anypo.generate.resume import decisions
from anypo.systems import find

BED = Testbed(vocabulary=3, horizon=3, prompts=4, batch=4, group=6, reward="sparse")
REVIEWED = {
    "control.samples": 6,
    "generate.delimiter": "",
    "generate.review": "comparison",
    "generate.continuations": 16,
}
TEXTS = Testbed(vocabulary=4, horizon=8, prompts=3, batch=3, graph="chain", reward="graded", kind="linear")
PREDICTED = {"generate.length": 2, "generate.chunks": 3}


def parted(groups: Sequence[Any]) -> tuple[list[list[Trajectory]], list[Trajectory]]:
    """The groups of rollouts, and the demonstrations."""
    rolled = [list(g.trajectories) for g in groups if g.trajectories[0].guidance != DEMO]
    return rolled, [t for g in groups for t in g.trajectories if t.guidance == DEMO]


def imitation(policy: Any, demos: Sequence[Trajectory]) -> Tensor:
    """Minus the mean log-probability of all tokens of the demonstrations."""
    return -torch.cat([log_probabilities(policy, t) for t in demos]).mean()


def grpo(policy: Any, groups: Sequence[Sequence[Trajectory]]) -> Tensor:
    """Mean over rollouts of their token means, the ratio at 1, rewards standardised in their group."""
    terms = []
    for group in groups:
        rewards = [t.reward for t in group]
        for t in group:
            spread = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
            advantage = (t.reward - statistics.mean(rewards)) / (spread + 1e-6)
            now = log_probabilities(policy, t)
            terms.append(-(advantage * (now - now.detach()).exp()).mean())
    return torch.stack(terms).mean()


@pytest.mark.exact("int")
def test_int_imitates_its_repaired_failures_first_and_is_grpo_afterwards() -> None:
    """Of twenty planned steps three imitate; every one from the weights that the one before it left."""
    seen = {"imitation": 0, "grpo": 0}
    for number, (before, run) in enumerate(steps("int", REVIEWED | {"objective.mixing.share": 0.15}, BED, 6)):
        groups, demos = parted(run.groups)
        early = number < 3
        if not demos and early:
            continue
        assert_descended(before, run.world.policy, imitation(before, demos) if early else grpo(before, groups))
        seen["imitation" if early else "grpo"] += 1
    assert min(seen.values()) > 1


@pytest.mark.exact("int")
def test_an_intervention_is_the_longest_right_beginning_one_right_letter_and_a_success_within_reach() -> None:
    """By enumeration: every failure's edit is that of its own text, and edits from which nothing succeeds are not kept."""
    for _, run in steps("int", REVIEWED, BED, 2):
        groups, demos = parted(run.groups)
        targets, policy = run.world.task.targets, run.world.policy  # type: ignore[attr-defined]
        allowed = set()
        for t in (t for group in groups for t in group if t.reward < 1):
            right = policy.answer(targets[place(policy, t)]).tolist()
            said = decisions(t).tolist()
            cut = next((k for k, (a, b) in enumerate(zip(said, right)) if a != b), min(len(said), len(right)))
            allowed.add((place(policy, t), t.sample, tuple(right[: cut + 1])))
        kept = {(place(policy, t), t.sample, tuple(decisions(t).tolist())) for t in demos}
        assert kept and kept <= allowed
        assert all(t.reward == 0 or t.guidance == DEMO for t in demos)


@pytest.mark.exact("int", "refine")
@pytest.mark.parametrize("drift", [0.0, 0.4])
def test_the_two_terms_of_the_losses_by_hand(drift: float) -> None:
    """Rollouts of two prompts and the texts of two more, the policy having moved since the step began: refine is GRPO and five times
    the likelihood; int one of the two. A term without rows is nothing."""
    batch = make([[3, 2], [1, 2], [4], [1]], [[1, 0], [0, 1], [0], [0]], drift=drift, seed=3)
    demo = torch.tensor([False] * 4 + [True] * 2)
    for name, weights in (("refine", {0: (1.0, 5.0), 9: (1.0, 5.0)}), ("int", {0: (0.0, 1.0), 9: (1.0, 0.0)})):
        method = find(name).algorithm()
        credit, objective = (type(part).parse(part.dump()) for part in (method.credit, method.objective))
        method = method.replace(credit=credit, objective=objective)
        credited = credit.assign(batch.with_sequences(demo=demo), Context(0, 10, 0, Memory(method)))
        for step, (first, second) in weights.items():
            for rows in (demo | True, ~demo, demo, demo & False):
                chosen = credited.select(rows)
                logp = chosen["logp"].clone().requires_grad_()
                loss = objective.loss(chosen.with_rows(logp=logp), Context(step, 10, 0, Memory(method)))
                (found,) = torch.autograd.grad(loss, logp)
                size = chosen.sequences["length"].tolist()
                ours = [i for i, is_demo in enumerate(chosen.sequences["demo"].tolist()) if not is_demo]
                taught = sum(n for i, n in enumerate(size) if i not in ours)
                for row, i in enumerate(chosen.sequence.tolist()):
                    if i not in ours:
                        assert float(found[row]) == pytest.approx(-second / taught, abs=1e-12)
                        continue
                    value = {1.0: 1, 0.0: -1}[float(chosen.sequences["reward"][i])] * 0.5 / (math.sqrt(0.5) + 1e-6)
                    ratio = math.exp(float(chosen["logp"][row] - chosen["logp_old"][row]))
                    inside = ratio <= 1.2 if value > 0 else ratio >= 0.8
                    wanted = -first * ratio * value * inside / size[i] / len(ours)
                    assert float(found[row]) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.exact("refine")
def test_refines_run_is_descent_on_grpo_and_five_times_the_likelihood_with_rewards_from_the_graph() -> None:
    """A reward is the mean cosine of the states behind the sampled and the true tokens, walked through the graph; rollouts of one text
    begin in each third of it. Every step from the weights that the one before it left."""
    for before, run in steps("refine", PREDICTED, TEXTS, 3):
        groups, texts = parted(run.groups)
        graph, policy = before.graph, before
        features = policy.inputs.reshape(policy.prompts, graph.states, -1).float().double().numpy()
        for group in groups:
            (text,) = (t for t in texts if place(policy, t) == place(policy, group[0]))
            true = decisions(text).tolist()
            begun = []
            for t in group:
                tokens = [k for k in t.content.tokens.tolist() if k < graph.vocabulary]  # type: ignore[union-attr]
                cut = len(tokens) - len(decisions(t))
                assert tokens[:cut] == true[:cut]
                begun.append(cut)
                ours, theirs, cosines = walked(graph, tokens), walked(graph, true), []
                for j in range(cut + 1, cut + 3):
                    if j < len(ours) and j < len(theirs) and min(ours[j], theirs[j]) >= 0:
                        a, b = (features[place(policy, t), states[j]] for states in (ours, theirs))
                        cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
                assert t.reward == pytest.approx(sum(cosines) / 2, abs=1e-6)
            thirds = np.array_split(np.arange(len(true) - 2), 3)
            assert all(cut in third for cut, third in zip(begun, thirds))
        assert_descended(before, run.world.policy, grpo(before, groups) + 5 * imitation(before, texts))


def walked(graph: Any, tokens: Sequence[int]) -> list[int]:
    """The states before the first token and behind every one, -1 behind an end."""
    states = [0]
    for token in tokens:
        states.append(int(graph.child[states[-1], token]))
    return states
