"""Prompts chosen by what each of them did when it was last rolled out, and by what may have become of it since.

Every problem of the pool has its own belief, an entry of arrays as long as the pool, and all beliefs change in every step: choosing
and learning are a few operations on whole arrays, whatever the size of the pool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask, Uniform
from anypo.control.choosing import again, best, counted, outcome
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.outlook import Outlook

FLOOR = 0.01
"""Least pseudo-count of a belief: below it draws are no numbers any more."""


class _Tracked(Uniform):
    """The `prompts` problems of the highest score, out of all of the pool; equal ones in the order of the pass.

    Its memory holds arrays over the pool (none before the first step), which are checkpointed.
    """

    outcome: str = ""

    def start(self) -> dict[str, Any]:
        return {"cursor": 0}

    def begun(self, problems: int) -> Mapping[str, np.ndarray]:
        """The arrays before anything is known, each [problems, ...]."""
        raise NotImplementedError

    def score(self, memory: dict[str, Any], context: Context) -> np.ndarray:
        """Of every problem, [problems]."""
        raise NotImplementedError

    def learn(self, index: np.ndarray, solved: np.ndarray, size: np.ndarray, memory: dict[str, Any]) -> None:
        """What a step showed: `solved` of `size` rollouts of the problems `index` were right; all others were not asked for."""
        raise NotImplementedError

    def choose(self, problems: int, count: int, context: Context) -> list[Ask]:
        memory, pool = context.memory[self], self.pool(problems, context.total)
        fresh = self.begun(pool)
        for name, array in fresh.items():  # a run that is continued to more steps has a larger pool
            known = memory.get(name, array[:0])[:pool]
            memory[name] = np.concatenate([known, array[len(known) :]])
        score = self.score(memory, context)
        score[again(memory, context, pool)] = -np.inf
        order = np.random.default_rng([context.seed, memory["cursor"] // pool]).permutation(pool)
        chosen = order[best(score[order], count)]
        memory["cursor"] += count
        memory["asked"] += chosen.tolist()
        return [Ask(int(index), self.samples) for index in chosen]

    def observe(self, groups: Sequence[Group], batch: Batch, context: Context) -> None:
        index, solved, size = counted(groups, outcome(self.outcome, context))
        self.learn(index, solved, size, context.memory[self])


class Thompson(_Tracked, name="thompson"):
    """Problems as arms of a bandit whose means drift (VADE, arXiv:2511.18902). A Beta(a, b) belief about every problem's success rate;
    each step draws one rate p from each belief and takes the problems of the largest p (1 - p)^2, the variance of a reward tilted to
    what is hard (largest at 1/3).

    Afterwards beliefs fade towards the prior Beta(1, 1), at two speeds: of the problems rolled out a <- `asked` a + right,
    b <- `asked` b + wrong; of all others a <- `idle` a + (1 - `idle`), b likewise.
    """

    passes: float = Field(5.0, ge=0.0)
    asked: float = Field(0.5, ge=0.0, le=1.0, description="what is kept of a belief whose problem was rolled out")
    idle: float = Field(0.99, ge=0.0, le=1.0, description="what is kept of every other belief, a step")

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if outlook.problems and (pool := self.pool(outlook.problems, outlook.steps)) <= self.prompts:
            return f"{pool} problems for {self.prompts} prompts a step leave no choice; plan more steps or set fewer control.prompts"
        return self.seldom(outlook)

    def begun(self, problems: int) -> Mapping[str, np.ndarray]:
        return {"a": np.ones(problems), "b": np.ones(problems)}

    def score(self, memory: dict[str, Any], context: Context) -> np.ndarray:
        a, b = memory["a"], memory["b"]
        rng = np.random.default_rng([context.seed, context.step, memory["cursor"], 59])
        p, known = rng.random(len(a)), np.flatnonzero((a != 1) | (b != 1))
        p[known] = rng.beta(a[known], b[known])
        return p * (1 - p) ** 2  # type: ignore[no-any-return]

    def learn(self, index: np.ndarray, solved: np.ndarray, size: np.ndarray, memory: dict[str, Any]) -> None:
        for name, seen in (("a", solved), ("b", size - solved)):
            belief = memory[name]
            kept = self.asked * belief[index] + seen
            memory[name] = 1 + self.idle * (belief - 1)
            memory[name][index] = np.maximum(kept, FLOOR)


Prior = Literal["even", "progress", "stability", "local"]
PRIORS: Mapping[Prior, tuple[tuple[float, ...], ...]] = {
    "even": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    "progress": ((1.0, 0.5, 0.5), (1.0, 1.0, 0.5), (1.0, 1.0, 1.0)),
    "stability": ((1.0, 0.5, 0.5), (0.5, 1.0, 0.5), (0.5, 0.5, 1.0)),
    "local": ((1.0, 1.0, 1e-6), (1.0, 1.0, 1.0), (1e-6, 1.0, 1.0)),
}
"""Counts of transitions before any was seen, entry [next][now] of the states none, some and all right. The release's ``local`` has 0
where this has 1e-6: a transition that was forbidden and is observed would give 0 / 0."""

STILL = 1e-9
"""How near to where forgetting leads a belief is taken to be there."""

SOME = 1
"""The state of a problem some of whose rollouts are right."""


class Dynamics(_Tracked, name="dynamics"):
    """Problems that a hidden Markov model of each predicts to be partly solved (DPS, arXiv:2603.10887). States: none of a problem's
    rollouts right, some, all; asking shows the state. The problems of the largest predicted chance of *some* are taken.

    Per problem: counts alpha of transitions, Phi(i | j) = alpha(i, j) / sum_i alpha(i, j), a belief `before` the step and the
    prediction mu. Asked and seen in state y: alpha <- decayed + xi with xi(i, j) = [i = y] Phi(y | j) before(j) / sum,
    before <- y, mu <- Phi before. Not asked: alpha <- decayed, before <- mu, mu <- Phi mu. decayed = `memory` alpha +
    (1 - `memory`) prior, so what was seen long ago is forgotten and every problem returns to 1/3.

    `candidates`: how many times the problems of a step are looked at, the next ones of the pass, as the release's loader gives them
    (0: all of the pool, which is what 32 x 256 of 7,500 come to). A problem that was never looked at is not predicted further.
    """

    memory: float = Field(0.7, ge=0.0, le=1.0)
    prior: Prior = "even"
    candidates: int = Field(0, ge=0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if not outlook.problems:
            return None
        pool = self.pool(outlook.problems, outlook.steps)
        seen = self.candidates * self.prompts or pool
        if self.candidates == 1 or pool <= self.prompts:
            return f"{min(seen, pool)} candidates for {self.prompts} prompts leave no choice; set control.candidates=0"
        if seen * outlook.steps <= pool:
            return f"{outlook.steps} steps look at {seen} of {pool} problems each, and none comes back; set control.candidates=0"
        return None

    def begun(self, problems: int) -> Mapping[str, np.ndarray]:
        even = np.full((problems, 3), 1 / 3)
        prior = np.tile(np.array(PRIORS[self.prior]), (problems, 1, 1))
        return {"mu": even, "before": even.copy(), "alpha": prior, "met": np.zeros(problems, dtype=bool)}

    def start(self) -> dict[str, Any]:
        return super().start() | {"moving": np.zeros(0, dtype=np.int64)}

    def score(self, memory: dict[str, Any], context: Context) -> np.ndarray:
        pool = len(memory["met"])
        if not self.candidates or self.candidates * self.prompts >= pool:
            memory["met"][:] = True
            return memory["mu"][:, SOME].copy()  # type: ignore[no-any-return]
        looked = self._next(memory, context, pool)
        memory["met"][looked] = True
        score = np.full(pool, -1.0)
        score[looked] = memory["mu"][looked, SOME]
        return score

    def _next(self, memory: dict[str, Any], context: Context, pool: int) -> np.ndarray:
        """The candidates of this step: the next ones of the pass, where the cursor counts prompts asked for."""
        begin = memory["cursor"] * self.candidates
        places = np.arange(begin, begin + self.candidates * self.prompts)
        orders = {
            n: np.random.default_rng([context.seed, 61, n]).permutation(pool) for n in set((places // pool).tolist())
        }
        return np.array([orders[place // pool][place % pool] for place in places.tolist()])

    def learn(self, index: np.ndarray, solved: np.ndarray, size: np.ndarray, memory: dict[str, Any]) -> None:
        state = np.where(solved == 0, 0, np.where(solved == size, 2, SOME))
        mu, before, alpha = memory["mu"], memory["before"], memory["alpha"]
        prior, rows = np.array(PRIORS[self.prior]), np.arange(len(index))
        old = alpha[index]
        xi = (old / old.sum(1, keepdims=True))[rows, state] * before[index]
        at = np.union1d(memory["moving"] if self.prior == "even" else np.flatnonzero(memory["met"]), index)
        alpha[at] = self.memory * alpha[at] + (1 - self.memory) * prior
        alpha[index, state] += xi / xi.sum(1, keepdims=True)
        before[at] = mu[at]
        before[index] = np.eye(3)[state]
        own = alpha[at]
        mu[at] = np.einsum("pij,pj->pi", own / own.sum(1, keepdims=True), before[at])
        memory["moving"] = self._moving(at, memory) if self.prior == "even" else at

    def _moving(self, at: np.ndarray, memory: dict[str, Any]) -> np.ndarray:
        """Those of the problems whose beliefs still change where nobody asks; the others are put where forgetting has led them."""
        mu, alpha = memory["mu"][at], memory["alpha"][at]
        away = (np.abs(mu - 1 / 3).max(1) > STILL) | (np.abs(alpha - 1).reshape(-1, 9).max(1) > STILL)
        memory["mu"][at[~away]], memory["before"][at[~away]], memory["alpha"][at[~away]] = 1 / 3, 1 / 3, 1.0
        return at[away]
