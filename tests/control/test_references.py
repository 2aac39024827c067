"""Difficulty from references: the attention by hand, how problems are drawn by it, who pays, and what is trained on."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from anypo.claims.beds.items import Items, follow
from anypo.control.references import Attention, Predictor, affine
from anypo.data.prompts import REFERENCES
from anypo.data.tokens import WIDTH
from anypo.errors import UserError
from anypo.replay.recent import RecentGroups, _mixed
from anypo.run.trainer import Trainer
from anypo.systems import find

BED = Items(count=2000, prompts=6, samples=4, lr=0.3)


def words(count: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1
    )


@pytest.mark.exact("dots-rr")
def test_the_attention_by_hand() -> None:
    model, q, r, rates = Attention(dim=4, heat=0.5), words(3), words(5, 1), torch.tensor([0.0, 0.25, 1.0, 0.5, 0.75])
    with torch.no_grad():
        model.calibrate[2].bias.copy_(torch.tensor([1.3, 0.4]))
    for i, value in enumerate(model(q, r, rates).tolist()):
        scores = [
            float((q[i] @ model.query).detach() @ (r[j] @ model.key).detach()) / math.sqrt(4) / 0.5 for j in range(5)
        ]
        weight = [math.exp(s - max(scores)) for s in scores]
        mixed = sum(w * float(d) for w, d in zip(weight, rates)) / sum(weight)
        heat = math.log1p(math.exp(1.3))
        assert value == pytest.approx(
            1 / (1 + math.exp(-(math.log(mixed / (1 - mixed)) / heat + math.tanh(0.4)))), abs=1e-5
        )


@pytest.mark.exact("dots-rr")
def test_limits_of_the_prediction() -> None:
    r, rates = words(6, 1), torch.tensor([0.0, 0.25, 1.0, 0.5, 0.75, 0.125])
    sharp = Attention(heat=1e-3)
    torch.testing.assert_close(sharp.mixed(r, r, rates), rates)  # what equals a reference has its rate
    torch.testing.assert_close(
        sharp(r, r, rates), rates.clamp(1e-4, 1 - 1e-4), atol=1e-5, rtol=0
    )  # t = 1, b = 0 in the beginning
    wide = Attention().mixed(words(50), r, rates).detach()
    assert float(wide.min()) >= 0 and float(wide.max()) <= 1
    # a reference without itself is what the others say
    one = Attention().mixed(r, r, rates, itself=False)[2]
    torch.testing.assert_close(one, Attention().mixed(r[2:3], r[[0, 1, 3, 4, 5]], rates[[0, 1, 3, 4, 5]])[0])


@pytest.mark.exact("dots-rr")
def test_the_refit_leaves_no_mean_residual_on_the_references() -> None:
    predicted, seen = torch.rand(9, generator=torch.Generator().manual_seed(3)), torch.rand(9)
    slope, offset = affine(predicted, seen)
    left = seen - (slope * predicted + offset)
    assert float(left.mean()) == pytest.approx(0, abs=1e-6) and float((left * predicted).sum()) == pytest.approx(
        0, abs=1e-5
    )
    assert affine(torch.full((4,), 0.3), torch.tensor([0.0, 1.0, 1.0, 0.0])) == (0.0, pytest.approx(0.5))


def test_the_predictor_learns_which_words_are_hard() -> None:
    generator = torch.Generator().manual_seed(2)
    kind = torch.randint(2, (80,), generator=generator)
    marks = torch.nn.functional.normalize(words(80) + 1.5 * words(2, 9)[kind], dim=1)
    rates, guess = kind.float() * 0.8 + 0.1, Predictor(lr=1e-2)
    error = lambda: float((guess.predict(marks[40:], marks[:16], rates[:16]) - rates[40:]).abs().mean())
    before = error()
    for _ in range(5):
        guess.learn(marks[16:40], rates[16:40], marks[:16], rates[:16], 8)
    assert error() < 0.7 * before
    other = Predictor(lr=1e-2)
    other.load_state_dict(copy.deepcopy(guess.state_dict()))
    torch.testing.assert_close(
        other.predict(marks[40:], marks[:16], rates[:16]), guess.predict(marks[40:], marks[:16], rates[:16])
    )


@pytest.mark.exact("dots-rr")
def test_who_is_asked_and_who_pays() -> None:
    seen: list[tuple[int, int]] = []

    def watch(trainer: Trainer) -> None:
        seen.append((len(trainer.producer.fresh), len(trainer.groups)))
        rates = trainer.memory.shelf.find(REFERENCES)
        asked = {g.prompt: float(g.rewards.mean()) for g in trainer.producer.fresh if g.prompt in rates["prompts"]}
        assert {p: rates["rates"][p] for p in asked} == asked

    run = follow("dots-rr", BED, 4, 0, lambda a: a.set({"control.references": 5}), watch)
    assert seen == [(11, 6), (6, 6), (11, 6), (6, 6)]
    assert run.rollouts == (6 + 5 / 2) * 4
    assert [row.get("control/reference_rollouts", 0.0) for row in run.rows] == [20.0, 0.0, 20.0, 0.0]
    # ten thousand problems or two thousand, none met before: the words of a cycle's problems are all it needs
    assert run.coverage > 0.9 and all("control/expected_success" in row for row in run.rows)


@pytest.mark.exact("dots-rr")
def test_problems_are_drawn_by_their_distance_to_a_half() -> None:
    def chosen(heat: float, seed: int) -> float:
        run = follow("dots-rr", BED, 2, seed, lambda a: a.set({"control.heat": heat, "control.candidates": 60}))
        memory = run.trainer.memory[run.trainer.algorithm.control]
        taken = [g.index for g in run.trainer.groups]
        order = sorted(memory["expected"], key=lambda i: abs(memory["expected"][i] - 0.5))
        return float(np.mean([order.index(i) for i in taken]))

    assert np.mean([chosen(1e-3, s) for s in range(4)]) < 8 < 20 < np.mean([chosen(1e3, s) for s in range(4)])


@pytest.mark.exact("dots-rr")
def test_the_store_of_groups() -> None:
    """The newest of every problem, mixed ones only, the older half dropped, nothing in the first two steps."""
    part = RecentGroups()
    run = follow("dots-rr", Items(count=9, prompts=4, samples=4, lr=0.01, hard=0.0), 8, 1,
                 lambda a: a.set({"control": {"part": "uniform", "prompts": 4, "samples": 4}, "filter": "screen"}))  # fmt: skip
    shares = [row["replay/share"] for row in run.rows]
    assert shares[:2] == [0, 0] and max(shares) == 0.5 and part.fresh == 0.5
    stored = run.trainer.memory[run.trainer.algorithm.replay]["groups"]
    assert len(stored) <= 8 and [g["step"] for g in stored[-4:]] == [7] * 4
    old = stored[:-4]
    assert len({g["prompt"] for g in old}) == len(old)
    assert all(0 < np.mean([t["reward"] for t in g["trajectories"]]) < 1 for g in old)
    trained = run.trainer.batch
    fresh = trained["version"] == trained["version"].max()
    ratio = (trained["logp_old"] - trained["logp_behaviour"]).exp()
    assert torch.allclose(ratio[fresh], torch.ones(int(fresh.sum()), dtype=ratio.dtype), atol=1e-5)
    assert bool((trained["version"] < trained["version"].max()).any())


def test_what_cannot_be_is_refused() -> None:
    for changes, said in (
        ({"filter.rounds": 1}, "set filter.rounds=2"),
        ({"filter.survival": []}, "needs 'references'"),
    ):
        with pytest.raises(UserError, match=said):
            find("dots-rr").algorithm().set(changes).check()


def test_a_resumed_run_goes_on_as_it_would_have() -> None:
    def trainer() -> Trainer:
        return Trainer(BED.adapt("dots-rr"), BED.world(0), 0, 8)

    whole = trainer()
    for _ in range(3):
        whole.step()
    saved = copy.deepcopy(whole.state_dict())
    second = trainer()
    second.load_state_dict(saved)
    for _ in range(3):
        whole.step(), second.step()
        assert [g.index for g in whole.groups] == [g.index for g in second.groups]
    assert torch.equal(whole.world.policy.weight, second.world.policy.weight)


def test_what_is_stored_has_contrast_whatever_the_scale_of_rewards() -> None:
    """With a point for the form beside one for the answer a mean of 1.5 is mixed, and one of 0.1 may be all the same."""
    groups = {"form alone": [0.1, 0.1], "mixed": [1.0, 2.0], "wrong": [0.0, 0.0], "half": [0.0, 1.0]}
    stored = {name: {"trajectories": [{"reward": r} for r in rewards]} for name, rewards in groups.items()}
    assert [name for name, saved in stored.items() if _mixed(saved)] == ["mixed", "half"]
