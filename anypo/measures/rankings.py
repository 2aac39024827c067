"""Does a policy rank answers as its training asked? Ranking accuracy and alignment gap (Chen et al., arXiv:2405.19534).

A pair is a better and a worse answer y_w, y_l to one prompt. Ranking accuracy is the share of pairs with
log pi(y_w) >= log pi(y_l), in which no reference takes part (reward accuracy compares log-ratios to the reference instead). A perfect
optimiser of DPO or of KL-regularised reward would reach log pi*(y_w)/pi*(y_l) = m_ref + logit(a) / beta, where m_ref is the
reference's own margin and a the share of raters who prefer y_w; what is missing to that is the alignment gap. Everything is in
log space: odds to the power 1 / beta overflow at small beta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from anypo.data.batch import Batch
from anypo.data.kept import Kept
from anypo.data.records import Group, Tokens, Trajectory
from anypo.errors import UserError, unknown
from anypo.measures.base import Estimate, Measure
from anypo.scoring.scores import wilson

if TYPE_CHECKING:
    from anypo.run.disk.folder import RunFolder

Row = Mapping[str, Any]

VOTES = 1e-3
"""Share of raters that a unanimous vote leaves to the other side, so that the idealised margin stays finite."""


def ranked(better: np.ndarray, worse: np.ndarray) -> np.ndarray:
    """Which pairs are ranked rightly, [n] bools from scores [n] of the better and the worse answers; ties count as right."""
    return np.asarray(better) >= np.asarray(worse)


def idealised(reference: np.ndarray, beta: float, agreement: float | np.ndarray) -> np.ndarray:
    """Which pairs the perfect optimiser would rank rightly, [n] bools: m_ref + logit(a) / beta >= 0.

    reference: log pi_ref(y_w) - log pi_ref(y_l), [n]. agreement: share of raters who prefer y_w, one for all or [n].
    """
    votes = np.clip(agreement, VOTES, 1 - VOTES)
    return np.asarray(np.asarray(reference) + np.log(votes / (1 - votes)) / beta >= 0)


def dpo_loss(margin: np.ndarray, reference: np.ndarray, beta: float) -> np.ndarray:
    """-log sigmoid(beta (m - m_ref)) of margins log pi(y_w) - log pi(y_l) of the policy and of the reference, [n]."""
    return np.logaddexp(0.0, -beta * (np.asarray(margin) - np.asarray(reference)))


def flip_threshold(reference: np.ndarray, beta: float) -> np.ndarray:
    """The DPO loss at which a pair changes sides, [n]: it is ranked rightly iff its loss is at most
    -log sigmoid(-beta m_ref), which falls exponentially in beta |m_ref| where the reference misranks the pair (m_ref < 0)."""
    return np.logaddexp(0.0, beta * np.asarray(reference))


def share(right: np.ndarray) -> Estimate:
    """The share of independent successes [n] with its Wilson interval."""
    low, high = wilson(int(right.sum()), len(right))
    return Estimate(float(right.mean()) if len(right) else float("nan"), low, high, len(right), "share")


def pairs(rows: Sequence[Row], better: str = "") -> list[tuple[Row, Row]]:
    """One (better, worse) pair of stored rollouts per group: the highest against the lowest by the reward component `better`
    (default: the scalar reward), the first of equals; groups without a difference give none. One pair a group, so that pairs
    are independent."""
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["step"], row["group_id"]), []).append(row)
    worth = lambda row: _component(row, better)
    out = []
    for group in groups.values():
        best, worst = max(group, key=worth), min(group, key=worth)
        if worth(best) > worth(worst):
            out.append((best, worst))
    return out


def _component(row: Row, name: str) -> float:
    if not name:
        return float(row["reward"])
    if name not in row["rewards"]:
        raise unknown("reward component", name, row["rewards"])
    return float(row["rewards"][name])


class RankingAccuracy(Measure, name="ranking_accuracy"):
    """Share of pairs of stored rollouts in which the policy (or the reward) ranks the better answer first; ties count as right.

    With `policy` = sampler the log-probabilities are those the answers were sampled with. With `final` the trained model scores
    the pairs of an earlier step anew, and the sampler of that step is the reference: details then hold the reference's own accuracy,
    the idealised one at `beta` and `agreement`, the alignment gap, and the share of misranked pairs that were flipped.
    """

    policy: Literal["sampler", "final"] = Field("sampler", description="whose log-probabilities rank the answers")
    by: Literal["logp", "logp_per_token", "reward"] = Field("logp", description="what ranks them")
    better: str = Field("", description="reward component that says which is better; empty: the reward itself")
    step: int | None = Field(None, ge=1, description="default: the last step (sampler) or the first (final)")
    beta: float = Field(0.1, gt=0.0, description="strength of the tie to the reference in the idealised accuracy")
    agreement: float = Field(0.75, ge=0.0, le=1.0, description="share of raters who prefer the better answer")

    def of(self, run: RunFolder) -> Estimate:
        if self.by == "reward" and not self.better:
            raise UserError(
                "by=reward ranks by the reward what the reward itself ordered; name another component with better="
            )
        steps = run.rollout_steps()
        if not steps:
            raise UserError(f"{run.path} holds no rollouts to make pairs of")
        step = self.step if self.step is not None else steps[-1 if self.policy == "sampler" else 0]
        found = pairs(run.rollouts(step).to_pylist(maps_as_pydicts="lossy"), self.better)
        if not found:
            raise UserError(
                f"no prompt of step {step} has a better and a worse answer; choose another with --set step=N"
            )
        both = [np.array([self._score(row) for row in side]) for side in zip(*found)]
        estimate = share(ranked(*both))
        if self.policy == "sampler" or self.by == "reward":
            return estimate
        return self._trained(run.path, found, both[0] - both[1])

    def _score(self, row: Row) -> float:
        if self.by == "reward":
            return float(row["reward"])
        total = float(np.sum(row["logp"], dtype=np.float64))
        return total / max(1, len(row["logp"])) if self.by == "logp_per_token" else total

    def _trained(self, path: Path, found: Sequence[tuple[Row, Row]], reference: np.ndarray) -> Estimate:
        """The final model on the same pairs, beside their sampler (margins `reference`)."""
        logp = final_logp(path, [row for pair in found for row in pair]).reshape(-1, 2)
        if self.by == "logp_per_token":
            logp = logp / np.array([[max(1, len(row["logp"])) for row in pair] for pair in found])
        right, before = ranked(logp[:, 0], logp[:, 1]), reference >= 0
        ideal = float(idealised(reference, self.beta, self.agreement).mean())
        estimate, wrong = share(right), ~before
        details = {"reference": float(before.mean()), "idealised": ideal, "gap": ideal - estimate.value}
        if wrong.any():
            details["flipped"] = float(right[wrong].mean())
        return Estimate(estimate.value, estimate.low, estimate.high, estimate.n, estimate.unit, details)


def final_logp(path: Path, rows: Sequence[Row]) -> np.ndarray:
    """log pi of stored rollouts under the final weights of the run at `path`, summed over their decisions at the temperature of
    their sampling, [n]. Raises `UserError` when there are no final weights or no tokens."""
    from anypo import policies

    if not (path / "model").is_dir():
        raise UserError(f"{path} has no final weights (model/); the run must have ended, or use policy=sampler")
    if any(row["tokens"] is None for row in rows):
        raise UserError("rollouts without tokens cannot be scored again; use policy=sampler")
    policy = policies.load(path / "model")
    batch = Batch.pack([Group(row["prompt"], (stored(row),)) for row in rows])
    logp = policy.fill(batch, {"logp"}, grad=False)["logp"].double()
    return np.bincount(batch.sequence.cpu().numpy(), logp.cpu().numpy(), minlength=len(rows))


def stored(row: Row) -> Trajectory:
    """The trajectory of a row of the rollouts table, as far as scoring it again takes."""
    content = Tokens(np.array(row["tokens"], np.int32), np.array(row["roles"], np.int8))
    logp = np.array(row["logp"], np.float64)
    version = np.full(len(logp), row["version_min"] or 0)
    kept = Kept.of(row["kept"]) if row.get("kept") is not None else None
    heat, sample = row["temperature"], row["sample"]
    return Trajectory(row["prompt"], content, logp, version, kept=kept, temperature=heat, sample=sample)


__all__ = [
    "RankingAccuracy", "dpo_loss", "final_logp", "flip_threshold", "idealised", "pairs", "ranked", "share", "stored",
]  # fmt: skip
