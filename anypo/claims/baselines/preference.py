"""Claims of `anypo.systems.baselines.preference`."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, DEMO, Tokens, Trajectory
from anypo.systems import find

ANSWERS, BETA, COPIES = 5, 0.5, 400


@claim("dpo", base="sft on the chosen answers", seconds=20, seeds=5, stand_in="a table over five answers for the language model",
       published="the optimum is pi_ref exp(r / beta) / Z (theorem 1 and equation 4)")  # fmt: skip
def dpo(run: ClaimRun) -> Outcome:
    """KL from the closed form to what is learned from Bradley-Terry preferences over every pair of answers, each label as frequent as
    its probability (to one in 400); the rewards and the reference are drawn by seed. Control: the reference, which nothing moved."""
    found = run.each(_divergences)
    base, ours, still = ([entry[k] for entry in found] for k in range(3))
    return compare(
        base, ours, "minus the KL to the closed form", run, least=0.01, controls={"the reference": still},
        premise=fails([value < -0.01 for value in base], "imitating the chosen answers ends elsewhere"),
    )  # fmt: skip


def _divergences(seed: int) -> tuple[float, ...]:
    """Minus KL(optimum, learned), for sft, for dpo and for the reference itself."""
    rng = np.random.default_rng(seed)
    reward, reference = torch.from_numpy(rng.normal(size=ANSWERS)), torch.from_numpy(rng.normal(size=ANSWERS))
    best = (reference + reward / BETA).log_softmax(0)
    pairs = [
        pair
        for a, b in itertools.combinations(range(ANSWERS), 2)
        for share in [round(COPIES * float(torch.sigmoid(reward[a] - reward[b])))]
        for pair in [(a, b)] * share + [(b, a)] * (COPIES - share)
    ]
    learned = [_learn(name, pairs, reference.log_softmax(0)) for name in ("sft", "dpo")]
    return tuple(-float((best.exp() * (best - logp)).sum()) for logp in (*learned, reference.log_softmax(0)))


def _learn(name: str, pairs: list[tuple[int, int]], reference: Tensor) -> Tensor:
    """Log-probabilities of the answers when the system's objective is minimised over all pairs at once."""
    method = find(name).algorithm().set({"objective.beta": BETA} if name == "dpo" else {})
    sides = [pair if name == "dpo" else pair[:1] for pair in pairs]
    answers = [_answer(answer, tag) for pair in sides for answer, tag in zip(pair, ("chosen", "rejected"))]
    batch = Batch.of(answers, [g for g, pair in enumerate(sides) for _ in pair], len(sides), torch.float64)
    index = torch.tensor([answer for pair in sides for answer in pair])
    logits = reference.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimiser.zero_grad()
        filled = batch.with_rows(logp=logits.log_softmax(0)[index], logp_ref=reference[index])
        loss = method.objective.loss(filled, Context(0, 1, 0, Memory(method)))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return logits.detach().log_softmax(0)


def _answer(token: int, tag: str) -> Trajectory:
    content = Tokens(np.array([ANSWERS, token], dtype=np.int32), np.array([CONTEXT, ACTION], dtype=np.int8))
    return Trajectory(0, content, np.zeros(1), np.full(1, -1), guidance=DEMO, tag=tag)
