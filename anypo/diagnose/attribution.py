"""Attribution: which rollouts, and which of their tokens, moved the weights in a step.

The gradient of an update is a sum over decisions, g = sum_t c_t d log pi_t / d theta (+ the same for other live columns), with
coefficients c_t = dL / d log pi_t. Grouped by rollout, g = sum_s g_s; the share of rollout s in the step is <g_s, g> / |g|^2 (the
shares add up to 1), its direction the cosine of g_s and g, and what cancels between rollouts is 1 - |g| / sum_s |g_s|.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anypo import policies, roles
from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.data.batch import Batch
from anypo.data.records import ACTION, Group, Tokens, Trajectory
from anypo.diagnose import again
from anypo.diagnose.again import Tell
from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.run.settings.config import RunConfig
from anypo.update.gradient import by_gradient
from anypo.update.pulls import push
from anypo.update.weights import Weights


@dataclass(frozen=True)
class Share:
    """What one rollout did: gradient norm, share of the step's gradient, cosine with it; per token its text and c_t [T]."""

    group: int
    sample: int
    reward: float
    advantage: float
    norm: float
    share: float
    cosine: float
    pieces: tuple[str, ...]
    coefficients: tuple[float, ...]

    def strongest(self, count: int) -> list[tuple[str, float]]:
        """The tokens with the largest coefficients, in their order."""
        place = sorted(sorted(range(len(self.coefficients)), key=lambda i: -abs(self.coefficients[i]))[:count])
        return [(self.pieces[i] if self.pieces else str(i), self.coefficients[i]) for i in place]


@dataclass(frozen=True)
class Attribution:
    """`rollouts`, the largest shares first. `against`: share of the moving rollouts with a negative inner product with the step.
    `cancelled`: 1 - |g| / sum |g_s|. `notes`: what is not exactly the step's."""

    step: int
    norm: float
    against: float
    cancelled: float
    rollouts: tuple[Share, ...]
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def contributions(
    weights: Weights, batch: Batch, context: Context
) -> tuple[Tensor, Mapping[str, Tensor], np.ndarray, np.ndarray]:
    """The gradient of the policy for `batch` as one flat vector [P] (float64, before clipping), the coefficients of its rows by
    column [N], and for every sequence |g_s| and <g_s, g>, both [S]. No weights change."""
    pull = by_gradient(weights.algorithm).pull(batch, weights, True, context)
    if not pull.finite:
        raise UserError("the loss of this step or its derivative is not finite, so nothing can be attributed")
    policy = weights.policy
    mine = {name: pull.gradients[name].detach() for name in sorted(policy.columns & pull.gradients.keys())}
    budget = weights.algorithm.engine.token_budget

    def gradient(part: Batch, rows: Tensor) -> Tensor:
        for parameter in policy.parameters():
            parameter.grad = None
        push(policy, part, {name: column[rows] for name, column in mine.items()}, budget)
        flat = [
            (torch.zeros_like(p) if p.grad is None else p.grad).detach().reshape(-1).double()
            for p in policy.parameters()
        ]
        for parameter in policy.parameters():
            parameter.grad = None
        return torch.cat(flat)

    whole = gradient(pull.batch, torch.ones(len(batch), dtype=torch.bool))
    norms, inner = np.zeros(batch.n_sequences), np.zeros(batch.n_sequences)
    for number in range(batch.n_sequences):
        rows = pull.batch.sequence == number
        if any(bool((column[rows] != 0).any()) for column in mine.values()):
            part = gradient(pull.batch.select(torch.tensor([number])), rows)
            norms[number], inner[number] = float(part.norm()), float(part @ whole)
    return whole, mine, norms, inner


def attribute(
    run: Path | str, step: int | None = None, trust: bool = False, recompute: bool = False, tell: Tell = lambda _: None
) -> Attribution:
    """Attribute the update of `step` (default: the last with rollouts) to its stored rollouts.

    The weights are those of the newest checkpoint at or before the step's beginning; `notes` says so when they are older. recompute:
    take the steps in between again, all of them where no checkpoint is left, so that they are those of the step's own beginning;
    `tell` hears of each. Raises `UserError` when the run has no such rollouts or checkpoint, or the step trained on none of its own
    rollouts.
    """
    folder = RunFolder.read(run)
    steps = folder.rollout_steps()
    step = step if step is not None else max(steps, default=0)
    rows = folder.rollouts(step).to_pylist(maps_as_pydicts="lossy")
    trained = [row for row in rows if row["trained"] and row["tokens"] is not None and row["length"]]
    if not trained:
        raise UserError(
            f"no rollout of step {step} was trained on, so there is nothing to attribute; choose another --step"
        )
    config = RunConfig.recorded(folder.config(), trust)
    if config.recipe:
        raise UserError("a step of a recipe cannot be attributed; train its last stage alone from the run with --init")
    if recompute:
        trainer, notes = again.before(folder, config, step, tell)
        algorithm, weights, memory, total = trainer.algorithm, trainer.weights, trainer.memory, trainer.total
    else:
        algorithm, weights, memory, notes = _kept(folder, config, step)
        total = config.steps
    update, generate = by_gradient(algorithm), algorithm.generate
    if update.epochs * update.minibatches_per_epoch > 1:
        notes.append("the step made several optimiser steps; this is the whole batch at the weights before the first")
    if generate.top_p < 1 or generate.top_k or generate.min_p:
        notes.append(
            "truncated sampling: the kept mass is not stored, so ratios to the sampler are those without truncation"
        )
    batch = _batch(trained)
    context = Context(step - 1, total, config.seed, memory)
    batch = weights.fill(batch)
    batch = algorithm.credit.assign(batch, context)
    if all(row["advantages"] is not None for row in trained) and batch.n_sequences == len(trained):
        stored = torch.tensor([value for row in trained for value in row["advantages"]], dtype=batch.weight.dtype)
        batch = batch.with_rows(advantage=stored)
    whole, columns, norms, inner = contributions(weights, batch, context)
    return _result(step, whole, columns.get("logp", torch.zeros(len(batch))), norms, inner, batch, trained, notes)


def _kept(folder: RunFolder, config: RunConfig, step: int) -> tuple[Algorithm, Weights, Memory, list[str]]:
    """The newest checkpoint from before `step`: what trains, its weights and memory, and a sentence where it is older than that."""
    before = folder.before(step)
    count, seconds = again.cost(folder, step)
    advice = f"--recompute takes {count} step{'s' * (count != 1)} again, which took {seconds:.0f} s"
    if before is None:
        kept = ", ".join(map(str, folder.checkpoints())) or "none"
        raise UserError(
            f"no checkpoint from before step {step} is left (kept: {kept}); choose a later --step, or begin anew: {advice}"
        )
    algorithm = config.composition()
    source = config.begun_from or config.model
    lora = config.lora or None
    policy = policies.load(source, dtype=config.dtype, lora=lora, seed=config.seed, chat=config.chat_args)
    state = folder.load_checkpoint(before)
    models = roles.cast(algorithm.models, policy, algorithm.engine.sampler(policy), config.seed)
    for role, kept in state["world"]["models"].items():
        models[role].load_state_dict(kept)
    weights, memory = Weights(algorithm, policy, config.seed, models=models), Memory(algorithm)
    weights.load_state_dict(state["weights"])
    memory.load_state_dict(state["memory"])
    notes = [
        f"the weights are those of the checkpoint after step {before}, not of the beginning of step {step}; {advice}"
    ]
    return algorithm, weights, memory, notes if before != step - 1 else []


def _result(
    step: int, whole: Tensor, coefficients: Tensor, norms: np.ndarray, inner: np.ndarray, batch: Batch,
    rows: Sequence[Mapping[str, Any]], notes: Sequence[str],
) -> Attribution:  # fmt: skip
    by_content = {(row["group_id"], row["sample"], tuple(row["tokens"])): row for row in rows}
    size, total = float(whole @ whole), float(norms.sum())
    shares = []
    for number, trajectory in enumerate(batch.trajectories):
        assert isinstance(trajectory.content, Tokens)
        key = (trajectory.extra["group"], trajectory.sample, tuple(trajectory.content.tokens.tolist()))
        row = by_content[key]
        pieces = [piece for piece, role in zip(row["pieces"] or (), row["roles"]) if role == ACTION]
        mine = coefficients[batch.sequence == number].double().tolist()
        cosine = inner[number] / max(norms[number] * size**0.5, 1e-300)
        shares.append(
            Share(
                row["group_id"], row["sample"], row["reward"], row["advantage"] or 0.0, float(norms[number]),
                float(inner[number] / max(size, 1e-300)), float(cosine), tuple(pieces), tuple(mine),
            )
        )  # fmt: skip
    moving = norms > 0
    against = float((inner[moving] < 0).mean()) if moving.any() else 0.0
    lost = 1 - size**0.5 / total if total > 0 else 0.0
    return Attribution(step, size**0.5, against, lost, tuple(sorted(shares, key=lambda s: -abs(s.share))), tuple(notes))


def _batch(rows: Sequence[Mapping[str, Any]]) -> Batch:
    """Stored rollouts as the batch they were trained in."""
    members: dict[int, list[Trajectory]] = {}
    for row in rows:
        members.setdefault(row["group_id"], []).append(trajectory(row))
    return Batch.pack([Group(found[0].prompt, tuple(found)) for found in members.values()])


def trajectory(row: Mapping[str, Any]) -> Trajectory:
    """A stored row as the record it was (versions are known only as a range: the oldest is taken for every decision)."""
    return Trajectory(
        row["prompt"],
        Tokens(np.array(row["tokens"], dtype=np.int32), np.array(row["roles"], dtype=np.int8)),
        np.array(row["logp"], dtype=np.float64),
        np.full(row["length"], row["version_min"] if row["version_min"] is not None else 0, dtype=np.int64),
        dict(row["rewards"] or {}),
        row["reward"],
        entropy=np.array(row["entropy"], dtype=np.float64) if row["entropy"] is not None else None,
        turn=np.array(row["turns"], dtype=np.int64) if row["turns"] is not None else None,
        finish=row["finish"],
        text=row["text"],
        temperature=row["temperature"],
        sample=row["sample"],
        parent=row["parent"],
        fork=row["fork"],
        guidance=row["guidance"],
        extra={"failed": row["failed"], "group": row["group_id"]},
    )
