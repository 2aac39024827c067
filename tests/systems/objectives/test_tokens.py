"""The exact properties of `anypo.systems.objectives.tokens`, as the sources state them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from making_systems import assign, slope

from anypo.algorithm import Algorithm
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shape.conflict import ConflictTokens, EntropyFilter
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.systems import find


def text_batch(texts: list[str], rewards: list[float], entropy: float = 0.2) -> Batch:
    """One group of rollouts spelled in letters."""
    members = []
    for i, (text, reward) in enumerate(zip(texts, rewards)):
        tokens = np.array([99] + [ord(letter) - 96 for letter in text], dtype=np.int32)
        roles = np.array([CONTEXT] + [ACTION] * len(text), dtype=np.int8)
        n = len(text)
        members.append(
            Trajectory(0, Tokens(tokens, roles), -np.ones(n), np.zeros(n, np.int64), reward=reward, sample=i)
        )
    batch = Batch.pack([Group(0, tuple(members))], torch.float64)
    return batch.with_rows(entropy_old=torch.full((len(batch),), entropy, dtype=torch.float64))


def conflict_weights(texts: list[str], rewards: list[float], normalise: bool = False) -> list[list[float]]:
    batch = text_batch(texts, rewards)
    plain = assign(Algorithm(credit=Pipeline()), batch)
    shaped = assign(Algorithm(credit=Pipeline(shape=(ConflictTokens(normalise=normalise),))), batch)
    ratio = torch.where(plain["advantage"] != 0, shaped["advantage"] / plain["advantage"], torch.zeros(()).double())
    return [ratio[batch.sequence == s].tolist() for s in range(batch.n_sequences)]


@pytest.mark.exact("gtpo-conflict")
def test_the_cards_conflict_weights() -> None:
    assert conflict_weights(["abce", "abde"], [1, 0]) == [[2, 2, 1, 2], [0, 0, 1, 0]]
    assert conflict_weights(["abce", "abde"], [1, 0], normalise=True) == [
        [2 / 3, 2 / 3, 1 / 3, 2 / 3],
        [0, 0, 1 / 3, 0],
    ]
    assert conflict_weights(["abc", "abc"], [1, 0]) == [[4, 4, 4], [0, 0, 0]], "inside both runs"
    assert conflict_weights(["abxz", "cdz"], [1, 0]) == [[1, 1, 1, 2], [1, 1, 0]], "aligned at the end"
    assert conflict_weights(["ab", "cd"], [1, 0]) == [[1, 1], [1, 1]]
    assert conflict_weights(["abc", "abd", "abe"], [1, 1, 1]) == [[0] * 3] * 3, "no advantage, nothing to weigh"


@pytest.mark.exact("gtpo-conflict")
def test_gtpo_without_its_additions_is_on_policy_grpo() -> None:
    batch = text_batch(["abce", "abde", "fg"], [1, 0, 0]).with_rows()
    gtpo = find("gtpo-conflict").algorithm().set({"credit.shape": []})
    grpo = find("grpo").algorithm()
    on = lambda b: b.with_rows(logp=b["logp_behaviour"], logp_old=b["logp_behaviour"])
    ours = slope(gtpo.objective, on(assign(gtpo, batch)))
    torch.testing.assert_close(ours, slope(grpo.objective, on(assign(grpo, batch))))


def test_entropy_filter_drops_flat_answers_and_charges_the_others() -> None:
    method = Algorithm(credit=Pipeline(scale=StandardDeviation(eps=0.0), shape=(EntropyFilter(),)))
    for entropy, expected in ((0.2, [0.5**0.5 - 0.02, -(0.5**0.5) - 0.02]), (0.9, [0.0, 0.0])):
        out = assign(method, text_batch(["a", "b"], [1, 0], entropy))
        assert out["advantage"].tolist() == pytest.approx(expected)
