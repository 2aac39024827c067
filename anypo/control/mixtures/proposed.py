"""Sources in the proportions that probes of the present policy propose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask, Control
from anypo.control.mixtures.laws import fit, propose
from anypo.control.mixtures.probes import Probed, Probes, Read
from anypo.outlook import Outlook, part_of, unreached
from anypo.tasks.mixture import Mixture, mixture_of


class Proposed(Control, name="proposed"):
    """Problems of a mixture's sources in proportions that are chosen for the present policy. Until step `begin` (below 1: a share of
    the run) they are those that the mixture states, the prior q. Then the policy is probed and new ones are taken, and again `every`
    so many steps (0: they stay) (OP-Mix, arXiv:2605.15220; michahu/on-policy-mix 0b4469c).

    Probes are copies of the run that train adapters (`rank`, `alpha`, `lr` times the learning rate) for `steps` steps (below 1: a
    share of the run): one in the present proportions, one for every source that has `share` of it and the rest in the present
    proportions. `candidates` sums of their weights, with coefficients drawn evenly from the simplex, have losses on `size` of every
    source's last training problems: those that are finite are fitted by a law for each source, exp(c) + exp(t . w) of the
    proportions w that the coefficients amount to (Huber loss with `delta`, from `starts` starts), and the proportions with the
    smallest mean of exp(t_j . w) + `lam` KL(w || q) are taken. Fewer usable rows than sources: the proportions stay.

    read: what the losses are: of the sources' worked solutions, or the share of their problems that is wrong (for reinforcement;
    ours). Prompts of a source come in an order drawn anew for every pass. What probes cost is in the run's tokens, and in
    ``control/probe_tokens`` and ``control/probe_read``.
    """

    lam: float = Field(0.05, gt=0.0)
    begin: float = Field(0.2, gt=0.0, description="steps before the first choice, below 1 a share of the run")
    every: float = Field(0.0, ge=0.0, description="steps between choices, below 1 a share of the run; 0: one choice")
    steps: float = Field(0.25, gt=0.0, description="steps of a probe, below 1 a share of the run")
    share: float = Field(0.9, gt=0.0, le=1.0)
    candidates: int = Field(20, ge=2)
    delta: float = Field(0.02, gt=0.0)
    starts: int = Field(300, ge=10)
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0.0)
    lr: float = Field(2.0, gt=0.0, description="a probe's learning rate over the run's")
    size: int = Field(32, ge=1, description="problems of every source that a loss is taken over")
    read: Read = "solutions"

    def start(self) -> dict[str, Any]:
        return {"weights": [], "behind": [], "places": [], "chosen": 0, "probe": False}

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        mixture = None if outlook.task is None else mixture_of(outlook.task)
        if outlook.task is not None and (mixture is None or len(mixture.tasks) < 2):
            return "this task has one source, so that there is nothing to mix; give several: --task '{mix: [...]}'"
        if mixture is not None and self.read == "solutions":
            bare = [name for name, task in mixture.tasks.items() if not _worked(task)]
            if bare:
                return f"source '{bare[0]}' has no worked solutions to read a loss off; set control.read=errors"
        late = unreached(self.begin, outlook.steps, "control.begin")
        if late:
            return f"beyond the proportions that the mixture states: {late}"
        if part_of(self.steps, outlook.steps) < 2:
            return (
                "much beyond the proportions that the mixture states: probes of a single step hardly differ; plan more steps, or set "
                "control.steps"
            )
        return None

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory, mixture = context.memory[self], mixture_of(context.world.task)
        tasks = [len(task) for task in mixture.tasks.values()] if mixture is not None else [problems]
        prior = np.array([source.weight for source in mixture.sources] if mixture is not None else [1.0])
        prior = prior / prior.sum()
        if not memory["weights"]:
            memory |= {"weights": prior.tolist(), "behind": [0.0] * len(tasks), "places": [0] * len(tasks)}
        number = self._number(context)
        if mixture is not None and number > memory["chosen"] and not memory["probe"]:
            memory["chosen"] = number
            self._propose(mixture, prior, context)
        for name, weight in zip(mixture.tasks if mixture is not None else (), memory["weights"]):
            context.log(f"control/weight/{name}", weight)
        asks = []
        for _ in range(count):
            source = self._next(memory)
            place = drawn(memory["places"][source], tasks[source], [context.seed, source])
            memory["places"][source] += 1
            index = place if mixture is None else mixture.index(source, place)
            asks.append(Ask(index, self.samples))
        return asks

    def _number(self, context: Context) -> int:
        """How many choices are due by now."""
        since = context.step - context.moment(self.begin)
        if since < 0:
            return 0
        return 1 + (since // max(1, context.moment(self.every)) if self.every else 0)

    def _next(self, memory: dict[str, Any]) -> int:
        """The source that is furthest behind its share."""
        behind = [lag + weight for lag, weight in zip(memory["behind"], memory["weights"])]
        source = int(np.argmax(behind))
        behind[source] -= 1.0
        memory["behind"] = behind
        return source

    def _propose(self, mixture: Mixture, prior: np.ndarray, context: Context) -> None:
        memory = context.memory[self]
        plan = Plan.of(np.array(memory["weights"]), self.share, self.candidates, [context.seed, memory["chosen"], 83])
        steps = part_of(self.steps, context.total)
        apart = [{**memory, "weights": row.tolist(), "probe": True} for row in plan.probes]
        wanted = Probes(self, apart, steps, plan.mixtures, self.rank, self.alpha, self.lr, self.read, self.size)
        found: Probed = context.world.trial.probes(wanted)
        context.add("tokens/trained", found.trained)
        context.add("control/probe_tokens", found.trained)
        context.add("control/probe_read", found.read)
        weights = self.proposal(plan.weights, found.losses, prior, context)
        if weights is not None:
            memory["weights"] = weights.tolist()

    def proposal(self, rows: np.ndarray, losses: np.ndarray, prior: np.ndarray, context: Context) -> np.ndarray | None:
        """The proportions that losses [R, J] at mixtures [R, d] propose, [d]; None where too few rows are finite and positive."""
        usable = (np.isfinite(losses) & (losses >= 0)).all(1)
        context.log("control/usable", float(usable.mean()))
        if usable.sum() < rows.shape[1]:
            return None
        laws = [
            fit(rows[usable], losses[usable, j], j, self.starts, self.delta, context.seed)
            for j in range(losses.shape[1])
        ]
        context.log("control/fit_error", float(np.mean([law.error for law in laws])))
        context.log("control/loss_spread", float(np.ptp(losses[usable], axis=0).max()))
        try:
            return propose(np.stack([law.slopes for law in laws]), prior, self.lam)
        except (ValueError, np.linalg.LinAlgError):
            return None


@dataclass(frozen=True)
class Plan:
    """Which proportions each probe trains in [P, d], and which policies in between are looked at [R, P]."""

    probes: np.ndarray
    mixtures: np.ndarray

    @classmethod
    def of(cls, present: np.ndarray, share: float, count: int, seed: Sequence[int]) -> Plan:
        """A probe in the `present` proportions and one for each source with `share` of it; `count` draws from Dirichlet(1, ..., 1)."""
        present = present / present.sum()
        probes = np.concatenate([present[None], (1.0 - share) * present + share * np.eye(len(present))])
        return cls(probes, np.random.default_rng(list(seed)).dirichlet(np.ones(len(probes)), count))

    @property
    def weights(self) -> np.ndarray:
        """The proportions that the policies in between stand for, [R, d]."""
        return self.mixtures @ self.probes  # type: ignore[no-any-return]


def drawn(number: int, problems: int, seed: Sequence[int]) -> int:
    """The problem that is met as number `number`: every one once per pass, in an order drawn for the pass."""
    lap, place = divmod(number, problems)
    return int(np.random.default_rng([*seed, lap]).permutation(problems)[place])


def _worked(task: Any) -> bool:
    return any(task.train(index).solution for index in range(max(0, len(task) - 64), len(task)))


__all__ = ["Plan", "Proposed", "drawn"]
