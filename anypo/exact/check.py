"""Checking a method's gradient: against an independently written loss, and against the exact expectation over all batches.

check = library_gradient(algorithm, case) - written_gradient(my_loss, case)      # autograd of a loss written again, plainly
mean, truth = expectation(algorithm, Setting(prompts=1, vocabulary=3, horizon=2, group=2))      # no sampling at all
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anypo.algorithm import Algorithm
from anypo.data import segments
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, FINISHED, TRUNCATED, Group, Tokens, Trajectory
from anypo.exact.bench import Setting, pack, scene
from anypo.exact.estimators import Estimator
from anypo.exact.graph import EOS
from anypo.exact.policy import EnumerablePolicy
from anypo.fits import POLICY
from anypo.update.gradient import by_gradient
from anypo.update.pulls import push
from anypo.update.rules.head import Head


@dataclass(frozen=True)
class Case:
    """One batch as padded tables [S, T], for losses written without the library.

    logp, entropy: current, connected to the policy. old, behaviour, ref: log-probabilities without gradient. mask: 1 where there is
    a decision. reward, length, group, truncated: [S]. `n_groups` groups; `setting` is where the batch comes from.
    """

    logp: Tensor
    entropy: Tensor
    old: Tensor
    behaviour: Tensor
    ref: Tensor
    mask: Tensor
    reward: Tensor
    length: Tensor
    group: Tensor
    truncated: Tensor
    n_groups: int
    setting: Setting
    policy: EnumerablePolicy
    batch: Batch

    def group_mean(self, values: Tensor) -> Tensor:
        """Mean of a [S] table over each sequence's group, [S] (a plain loop)."""
        return torch.stack([values[self.group == g].mean() for g in self.group.tolist()])

    def group_std(self, values: Tensor, ddof: int = 1) -> Tensor:
        """Standard deviation over each sequence's group, [S]."""
        return torch.stack([values[self.group == g].std(correction=ddof) for g in self.group.tolist()])


def case(setting: Setting | None = None, seed: int = 0) -> Case:
    """A random batch of a setting (graded rewards, 16 updates stale by default)."""
    setting = setting or Setting(staleness=16, reward="graded", group=4, prompts=3)
    place = scene(setting)
    policy = place.policy()
    batch = pack(place.draw(1, seed), policy)
    reference = place.policy()
    with torch.no_grad():
        reference.weight.copy_(place.weights[0])
    live = policy.fill(batch, {"logp", "entropy"}, grad=True)
    ref = reference.fill(batch, {"logp"}, grad=False)["logp"]
    old = batch["logp_behaviour"] if setting.old == "sampler" else live["logp"].detach()

    def table(rows: Tensor) -> Tensor:
        return segments.pad(rows, batch.sequence, batch.n_sequences, 0.0)[0]

    columns = batch.sequences
    return Case(
        table(live["logp"]), table(live["entropy"]), table(old), table(batch["logp_behaviour"]), table(ref),
        table(torch.ones_like(old)), columns["reward"], columns["length"], columns["group"], columns["truncated"],
        batch.n_groups, setting, policy, batch,
    )  # fmt: skip


def library_gradient(algorithm: Algorithm, given: Case) -> Tensor:
    """d loss / d parameters [D] by the library: columns, credit, objective, and the library's backward pass."""
    estimator = Estimator(algorithm, scene(given.setting), seed=0)
    context = estimator.context(0)
    batch = estimator.algorithm.credit.assign(estimator.weights.fill(given.batch), context)
    pull = by_gradient(estimator.algorithm).pull(batch, estimator.weights, estimator.current, context)
    mine = {name: g for name, g in pull.gradients.items() if name in estimator.weights.names.live[POLICY]}
    estimator.policy.zero_grad(set_to_none=True)
    push(estimator.policy, pull.batch, mine, token_budget=16)
    grad = estimator.policy.weight.grad
    return (torch.zeros_like(estimator.policy.weight) if grad is None else grad).flatten()


def direct_gradient(algorithm: Algorithm, given: Case) -> Tensor:
    """d loss / d parameters [D] by one autograd pass from the objective into the policy, without coefficients per column."""
    estimator = Estimator(algorithm, scene(given.setting), seed=0)
    context = estimator.context(0)
    weights, policy = estimator.weights, estimator.policy
    batch = estimator.algorithm.credit.assign(weights.fill(given.batch), context)
    live = policy.fill(batch, sorted(weights.names.live[POLICY]), grad=True)
    batch = batch.with_rows(**live)
    for path, learner in weights.learners.items():
        if path != "policy":
            batch = batch.with_rows(**learner.fill(batch, sorted(learner.columns), grad=False))
    update = by_gradient(estimator.algorithm)
    context.head = Head.of(policy, weights.optimisers[POLICY], update.schedule.factor(context.step, context.total))
    for rule in update.rules:
        batch = batch.with_rows(weight=rule.weigh(batch, context))
    loss = torch.stack([owned.fit.loss(batch, context) for owned in weights.fits]).sum()
    if not loss.requires_grad:
        return torch.zeros_like(policy.weight).flatten()
    (found,) = torch.autograd.grad(loss, [policy.weight], allow_unused=True)
    return (torch.zeros_like(policy.weight) if found is None else found).flatten()


def written_gradient(loss: Callable[[Case], Tensor], given: Case) -> Tensor:
    """d loss(case) / d parameters [D] by autograd through the whole policy."""
    (found,) = torch.autograd.grad(loss(given), [given.policy.weight], retain_graph=True)
    return found.flatten()


def expectation(algorithm: Algorithm, setting: Setting) -> tuple[Tensor, Tensor]:
    """E g and G, both [D]: the exact mean over *every* possible batch of the method's ascent direction, and the true gradient.

    One prompt; every group of `setting.group` sequences is visited, weighted by its probability under the sampling policy, so
    keep vocabulary, horizon and group small (7 sequences at V = 3, T = 2 make 7^group batches). Only for methods that sample
    independent groups; `setting.versions` and `noise` are not used.
    """
    if setting.prompts != 1:
        raise ValueError("the expectation enumerates one prompt; use Setting(prompts=1, ...)")
    place = scene(setting)
    sampler = place.policy(setting.staleness)
    task = place.task
    single = [
        t.replace(reward=task.score(0, t.text), rewards={task.outcome: task.score(0, t.text)}) for t in _every(sampler)
    ]
    chance = np.array([np.exp(t.logp.sum()) for t in single])
    estimator = Estimator(algorithm, place, seed=0)
    on_logp, on_entropy = torch.zeros_like(estimator.logp), torch.zeros(estimator.logp.shape[:-1], dtype=torch.float64)
    start = estimator.memory.state_dict()
    for number, chosen in enumerate(itertools.product(range(len(single)), repeat=setting.group)):
        estimator.memory.load_state_dict(start)
        context = estimator.context(0, number)
        group = Group(0, tuple(single[k].replace(sample=i) for i, k in enumerate(chosen)))
        kept = estimator.algorithm.filter.screen([group], context)
        if not kept:
            continue
        batch = estimator.weights.fill(pack([kept], estimator.policy))
        batch = estimator.algorithm.credit.assign(batch, context)
        pull = by_gradient(estimator.algorithm).pull(batch, estimator.weights, estimator.current, context)
        own = torch.zeros_like(on_logp), torch.zeros_like(on_entropy)
        estimator.add(pull, *own)
        weight = float(chance[list(chosen)].prod())
        on_logp += weight * own[0]
        on_entropy += weight * own[1]
    return estimator.parameters(on_logp[None], on_entropy[None])[0], place.gradient


def _every(policy: EnumerablePolicy) -> list[Trajectory]:
    """Every sequence of prompt 0 as a trajectory of `policy`, without reward."""
    graph = policy.graph
    with torch.no_grad():
        logp = policy.log_table()[0]
    entropy = -(logp.exp() * logp).sum(-1)
    out = []
    for states, tokens in zip(*(table.numpy() for table in graph.sequences())):
        n = int((tokens >= 0).sum())
        states, tokens = states[:n], tokens[:n]
        whole = np.concatenate([[graph.vocabulary], tokens])
        roles = np.array([CONTEXT] + [ACTION] * n, dtype=np.int8)
        out.append(
            Trajectory(
                prompt=0,
                content=Tokens(whole, roles),
                logp=logp[states, tokens].numpy(),
                version=np.full(n, policy.version),
                entropy=entropy[states].numpy(),
                finish=FINISHED if tokens[-1] == EOS else TRUNCATED,
                text=policy.decode(tokens),
            )
        )
    return out
