"""Which rollouts are too like one that they oppose, and who is never thrown away for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from credit_making import batch_of, context_for

from anypo.claims.beds.exact import Testbed
from anypo.credit.alike import ngrams
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.select.distinct import Distinct, NGrams, ScoreGap
from anypo.data.batch import Batch
from anypo.data.records import ACTION, DEMO, Group, Tokens, Trajectory
from anypo.run.trainer import Trainer

GRPO = Pipeline(scale=StandardDeviation())
JUDGED = Distinct(distance=ScoreGap())


def written(texts: list[str], right: list[bool], anchors: int = 0) -> Batch:
    """One group of answers, letters for tokens; the last `anchors` are demonstrations."""
    made = []
    for i, (text, ok) in enumerate(zip(texts, right)):
        tokens = np.array([ord(c) for c in text], dtype=np.int32)
        content = Tokens(tokens, np.full(len(tokens), ACTION, dtype=np.int8))
        zeros = np.zeros(len(tokens))
        demo = DEMO if i >= len(texts) - anchors else ""
        made.append(Trajectory(0, content, zeros, zeros, reward=float(ok), sample=i, guidance=demo))
    return Batch.pack([Group(0, tuple(made))], torch.float64)


def kept(batch: Batch, **fields) -> list[int]:
    return Distinct(**fields).select(batch, context_for(GRPO)).sequences["sample"].tolist()


@pytest.mark.exact("dagrpo")
def test_ngrams_counts_runs_as_often_as_they_occur() -> None:
    assert ngrams(list("aab"), 2) == {("a",): 2, ("b",): 1, ("a", "a"): 1, ("a", "b"): 1}
    distance = NGrams(longest=2).between(written(["aab", "aab", "aac", "xyz", ""], [True] * 5), [0, 1, 2, 3, 4])
    assert torch.equal(distance, distance.T) and distance.diagonal().tolist() == [0.0] * 5
    assert distance[0].tolist() == pytest.approx([0, 0, 1 - 2 * 3 / 10, 1, 1])


@pytest.mark.exact("dagrpo")
def test_what_opposes_only_near_copies_is_dropped() -> None:
    texts, right = ["12+7=19", "12+7=18", "the sum is nineteen", "no idea"], [True, False, True, False]
    batch = written(texts, right)
    assert kept(batch, threshold=0.0) == [0, 1, 2, 3]
    assert kept(batch, threshold=math.inf) == []
    assert kept(batch) == [0, 1, 2, 3]  # each still differs from one that it opposes
    assert kept(batch, rule="any") == [2, 3]
    assert kept(written([*texts[:2], texts[3]], [True, False, False])) == [0, 2]  # 18 opposes nothing but its twin
    alike = written(texts, [True] * 4)
    assert kept(alike, threshold=math.inf) == [0, 1, 2, 3]


def test_the_threshold_is_relative_so_a_judge_may_use_any_part_of_its_scale() -> None:
    grades, rewards = np.array([0.9, 0.5, 0.45, 0.1]), [[1.0, 1, 0, 0]]
    for scale in (1.0, 0.05):
        batch = GRPO.assign(batch_of(rewards, components={"judge": [(scale * grades).tolist()]}), context_for(GRPO))
        assert JUDGED.select(batch, context_for(GRPO)).sequences["sample"].tolist() == [0, 1, 2, 3]
        strict = JUDGED.replace(rule="any", threshold=0.25)
        out = strict.select(batch, context_for(GRPO))
        assert out.sequences["sample"].tolist() == [0, 3]
        assert torch.equal(out.sequences["advantage"], batch.sequences["advantage"][[0, 3]])  # those of the full group
    unknown = batch_of(rewards, components={"judge": [[math.nan] * 4]})
    assert JUDGED.replace(threshold=math.inf).select(unknown, context_for(GRPO)).n_sequences == 4


@pytest.mark.parametrize("seed", range(20))
def test_right_and_wrong_answers_both_survive_in_every_mixed_group(seed: int) -> None:
    """The pair that differs most is at least as far as the mean: what its two members oppose is not all near."""
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice(list("abc"), rng.integers(1, 6))) for _ in range(8)]
    right = [bool(r) for r in rng.permutation([True] * (1 + seed % 7) + [False] * (7 - seed % 7))]
    survivors = kept(written(texts, right), threshold=1.0)
    assert {right[i] for i in survivors} == {True, False}


def test_anchors_are_never_dropped_and_a_near_failure_is() -> None:
    batch = written(["abcdefgx", "xyzw", "mnop", "abcdefgh"], [False, False, False, True], anchors=1)
    assert kept(batch, threshold=math.inf) == [3] and kept(batch) == [1, 2, 3]


def test_after_twenty_steps_anchors_and_own_right_answers_are_trained_on() -> None:
    """On the bed of its claim; with a head that predicts success, hardly any anchor or right answer was left from step 10 on."""
    bed = Testbed(reward="sparse", horizon=5, lr=0.05)
    method, world = bed.adapt("dagrpo"), bed.world(3)
    run = Trainer(method, world, 3, 60)
    anchors, own = np.zeros(2), np.zeros(2)
    dropped = 0
    for step in range(25):
        run.step()
        made = [t for g in run.groups for t in g.trajectories]
        if step < 10:
            continue
        for place, rollouts in enumerate((made, run.batch.trajectories)):
            anchors[place] += sum(t.guidance == DEMO for t in rollouts)
            own[place] += sum(t.reward >= 1 and t.guidance != DEMO for t in rollouts)
        dropped += len(made) - run.batch.n_sequences
    assert anchors[0] > 10 and anchors[1] == anchors[0]
    assert own[0] > 10 and own[1] > 0.8 * own[0]
    assert dropped > 0  # it selects
