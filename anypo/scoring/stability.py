"""How stable is what a reward asks for? Ties, gaps and the policy's response to small changes of the reward.

Where several answers are (nearly) best, the reward-maximising policy jumps under arbitrarily small changes, such as a judge's bias or
a length bonus: a policy cliff (arXiv:2507.20150). Two numbers foretell it, the gap between the best and the next answer and the
mass of answers within a tolerance of the best; and entropy bounds it: with M(r) = softmax(Q_r / beta), Q_r the soft optimal
value, max_s |M(r) - M(r')|_1 <= |r - r'|_inf / (beta (1 - gamma)). Constants follow from the softmax being 1/beta-Lipschitz from the
sup norm to L1 and Q being 1/(1 - gamma)-Lipschitz in r. All pure functions of tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anypo.errors import UserError


def greedy(values: Tensor, tolerance: float = 0.0) -> Tensor:
    """The maximising policy of action values [..., A]: 1 on the first of the actions within `tolerance` of the best."""
    best = (values >= values.max(-1, keepdim=True).values - tolerance).to(values.dtype)
    return torch.nn.functional.one_hot(best.argmax(-1), values.shape[-1]).to(values.dtype)


def gap(values: Tensor) -> Tensor:
    """Best minus second-best action value, [...] (0 in a tie; inf where there is one action only)."""
    if values.shape[-1] < 2:
        return torch.full(values.shape[:-1], torch.inf, dtype=values.dtype)
    top = values.topk(2, -1).values
    return top[..., 0] - top[..., 1]


def distance(policy: Tensor, other: Tensor) -> float:
    """Largest L1 distance between two policies [..., A] over the states; at most 2."""
    return float((policy - other).abs().sum(-1).max())


def effective_reward(rewards: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k r_k of several rewards [K, ..., A] under weights [K] or state-dependent ones [K, ...]: the reward whose stability
    counts. A change of the weights is a change of it, and may itself cross a cliff."""
    return (weights.reshape(*weights.shape, *[1] * (rewards.dim() - weights.dim())) * rewards).sum(0)


def soft_optimal(
    transitions: Tensor, rewards: Tensor, discount: float, beta: float, tolerance: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Optimal action values of the entropy-regularised process and their policy softmax(Q / beta), both [S, A]; beta 0 is the plain
    optimum with its greedy policy. Transitions [S, A, S], rewards [S, A], discount in [0, 1); soft value iteration to `tolerance`."""
    q = rewards.clone()
    while True:
        v = q.max(1).values if beta == 0 else beta * torch.logsumexp(q / beta, 1)
        after = rewards + discount * transitions @ v
        change, q = float((after - q).abs().max()), after
        if change <= tolerance * max(1.0, float(q.abs().max())):
            break
    return q, greedy(q) if beta == 0 else (q / beta).softmax(1)


def lipschitz(beta: float, discount: float = 0.0) -> float:
    """The bound on L1 policy change per sup-norm reward change, 1 / (beta (1 - discount)); inf without entropy."""
    return 1.0 / (beta * (1.0 - discount)) if beta > 0 else torch.inf


@dataclass(frozen=True)
class Stability:
    """What `stress` found, means over prompts. gap: best minus next distinct answer. tie_mass: share of the answers' prior mass within
    `eps` of the best. flips: share of (prompt, perturbation) pairs that change the best answer. sensitivity[beta]: largest
    |pi - pi'|_1 / |dr|_inf over prompts and perturbations (beta 0: of the greedy policy); bound[beta] = 1 / beta."""

    eps: float
    gap: float
    tie_mass: float
    flips: float
    sensitivity: dict[float, float]
    bound: dict[float, float]

    @property
    def on_a_cliff(self) -> bool:
        """A perturbation of this size can change which answer is best for at least one prompt in ten."""
        return self.flips >= 0.1


def stress(
    rewards: Sequence[Tensor],
    eps: float,
    betas: Sequence[float] = (0.001, 0.01, 0.1, 1.0),
    priors: Sequence[Tensor] | None = None,
    directions: Sequence[Tensor] | None = None,
    draws: int = 32,
    seed: int = 0,
) -> Stability:
    """Re-rank the distinct answers of every prompt under perturbed rewards.

    rewards: for every prompt, the rewards [A] of its distinct answers. eps: size of the perturbations in units of reward, small
    against its range (1e-3 to 1e-1 of it). priors: probabilities [A] of the
    answers before the reward acts (uniform when absent): pi_beta is proportional to prior exp(r / beta). directions: a
    secondary reward [A] per prompt (lengths, format), scaled to eps and tried with both signs beside `draws` random signs.
    Raises `UserError` without answers, for shapes that do not match, or for eps or beta not positive.
    """
    _check(rewards, eps, betas, priors, directions)
    generator = torch.Generator().manual_seed(seed)
    gaps, ties, flips = [], [], []
    worst = dict.fromkeys((0.0, *betas), 0.0)
    for number, answers in enumerate(rewards):
        r = answers.double()
        prior = torch.ones_like(r) / len(r) if priors is None else priors[number].double()
        gaps.append(float(gap(r)))
        ties.append(float(prior[r >= r.max() - eps].sum() / prior.sum()))
        for change in _perturbations(r, eps, directions[number] if directions else None, draws, generator):
            size = float(change.abs().max())
            jump = distance(greedy(r), greedy(r + change))
            flips.append(float(jump > 0))
            worst[0.0] = max(worst[0.0], jump / size)
            for beta in betas:
                soft = [(prior.log() + x / beta).softmax(0) for x in (r, r + change)]
                worst[beta] = max(worst[beta], distance(*soft) / size)
    finite = [g for g in gaps if g < torch.inf]
    return Stability(
        eps, sum(finite) / len(finite) if finite else torch.inf, sum(ties) / len(ties), sum(flips) / max(1, len(flips)), worst,
        {beta: lipschitz(beta) for beta in worst},
    )  # fmt: skip


def _perturbations(
    rewards: Tensor, eps: float, direction: Tensor | None, draws: int, generator: torch.Generator
) -> list[Tensor]:
    signs = torch.randint(0, 2, (draws, len(rewards)), generator=generator).double() * 2 - 1
    out = list(eps * signs)
    if direction is not None:
        centred = direction.double() - direction.double().mean()
        largest = float(centred.abs().max())
        out += [sign * eps * centred / largest for sign in (1.0, -1.0)] if largest > 0 else []
    return out


def _check(
    rewards: Sequence[Tensor],
    eps: float,
    betas: Sequence[float],
    priors: Sequence[Tensor] | None,
    directions: Sequence[Tensor] | None,
) -> None:
    if not rewards or any(r.dim() != 1 or not len(r) for r in rewards):
        raise UserError("a stability check needs the rewards of at least one answer for every prompt, as one list each")
    for name, other in (("prior", priors), ("direction", directions)):
        if other is not None and [x.shape for x in other] != [r.shape for r in rewards]:
            raise UserError(f"the stability check needs one {name} per answer; shapes differ from those of the rewards")
    if not eps > 0 or not all(beta > 0 for beta in betas):
        raise UserError("the size of a perturbation and every beta of a stability check must be positive")
