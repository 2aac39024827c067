"""Problems that the policy itself puts into other words, where its own rollouts call for it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, prompt_id
from anypo.engine.base import Request
from anypo.generate.base import Independent, World, rollout_key
from anypo.generate.groups.rounds import all_at_once, solved
from anypo.outlook import Outlook
from anypo.tasks.base import Problem

REWRITE = -7
"""The role of rewritings in their keys."""

Kind = Literal["hard", "medium", "easy"]

WANTED: Mapping[Kind, str] = {
    "hard": "Rewrite the question below so that it is simpler, clearer and more direct. It must ask for the same thing.",
    "medium": "Rewrite the question below in other words. It must mean exactly the same.",
}
ASKED = """{wanted} Its answer must still be {answer}, but do not say the answer, and do not solve it. \
Write the new question alone, in one code block.

Question:
{question}"""

BLOCK = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)


class Restructured(Independent, name="restructured"):
    """`base` rollouts of every prompt; then the policy rewrites those it finds hard (a share of right ones of at most `low`) more
    simply, and those of medium difficulty (at most `high`) in other words, once each, and every rewriting gets `base` rollouts as a
    group of its own with the old answer (CLPO, arXiv:2509.25004).

    The rewriting is the last code block of the reply, or else the whole reply, and counts if it has `shortest` to `longest`
    characters. The policy is shown the answer that the new question must keep: the share of rewritings in which it stands is logged
    (``generate/leaked_share``). Rollouts say whether they are hard (component ``hard``: of a simplified question, or of a prompt at
    or below `low`). A step spends at most the rollouts of its asks; where not all rewritings can be afforded the hard come first.
    """

    base: int = Field(4, ge=1)
    low: float = Field(0.3, ge=0.0, le=1.0)
    high: float = Field(0.7, ge=0.0, le=1.0)
    shortest: int = Field(10, ge=1)
    longest: int = Field(2000, ge=1)
    provides = frozenset({"hardness"})

    def refuse(self, algorithm: Any) -> str | None:
        if self.turns > 1:
            return "puts single questions into other words; set generate.turns to 1"
        return None if self.low <= self.high else f"low {self.low:g} is above high {self.high:g}"

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        return all_at_once(self.base, algorithm) or super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        budget = sum(ask.samples for ask in asks)
        first = [dataclasses.replace(ask, samples=min(self.base, ask.samples)) for ask in asks]
        groups = super().rollout(first, world, context)
        left = budget - sum(ask.samples for ask in first)
        kinds = [self.kind([solved(t, world.task) for t in group.trajectories]) for group in groups]
        worst_first = [i for kind in ("hard", "medium") for i, own in enumerate(kinds) if own == kind]
        chosen = worst_first[: left // self.base]
        rewritten = self._rewritten([(asks[i], groups[i].problem, kinds[i]) for i in chosen], world, context)
        again = [Ask(-1, self.base, problem=new, visit=ask.visit) for ask, new, _ in rewritten]
        more = super().rollout(again, world, context) if again else []
        hard = [kind == "hard" for kind in kinds] + [kind == "hard" for _, _, kind in rewritten]
        for name in ("hard", "medium", "easy"):
            context.log(f"generate/{name}_share", float(np.mean([kind == name for kind in kinds])) if kinds else 0.0)
        context.log("generate/rewritten", float(len(rewritten)))
        context.log("generate/unspent", float(left - self.base * len(rewritten)))
        self._rescued(groups, more, [asks.index(ask) for ask, _, _ in rewritten], world, context)
        return [_marked(group, mark) for group, mark in zip([*groups, *more], hard)]

    def kind(self, right: Sequence[bool]) -> Kind:
        """What the share of right rollouts makes of a prompt."""
        share = sum(right) / max(1, len(right))
        return "hard" if share <= self.low else "medium" if share <= self.high else "easy"

    def _rewritten(
        self, wanted: Sequence[tuple[Ask, Problem, Kind]], world: World, context: Context
    ) -> list[tuple[Ask, Problem, Kind]]:
        """The problems that came out of it, with where they came from; a reply that is no question is left out, as is a problem whose
        rewriting the model's context has no room for."""
        sampling, requests, sources = self.sampling(context), [], []
        for ask, problem, kind in wanted:
            tokens = world.policy.encode(({"role": "user", "content": asked(problem, kind)},))
            if len(tokens) + sampling.max_new <= getattr(world.policy, "context", 1 << 30):
                requests.append(Request(tokens, sampling, rollout_key(context, problem, ask.visit, REWRITE, 0)))
                sources.append((ask, problem, kind))
        replies = world.sampler.generate(requests) if requests else []
        context.add("generate/rewriting_tokens", float(sum(len(reply.tokens) for reply in replies)))
        out, leaked = [], []
        for (ask, problem, kind), reply in zip(sources, replies):
            text = question_in(world.policy.decode(reply.tokens))
            if self.shortest <= len(text) <= self.longest:
                messages = (*problem.messages[:-1], {**problem.messages[-1], "content": text})
                out.append((ask, dataclasses.replace(problem, prompt=prompt_id(text), messages=messages), kind))
                leaked.append(bool(problem.answer) and problem.answer in text and problem.answer not in _words(problem))
        context.log("generate/leaked_share", float(np.mean(leaked)) if leaked else 0.0)
        return out

    def _rescued(
        self, groups: Sequence[Group], more: Sequence[Group], homes: Sequence[int], world: World, context: Context
    ) -> None:
        """Log the share of prompts of which nothing was right whose rewriting is solved at times, but not always."""
        shares = [np.mean([solved(t, world.task) for t in group.trajectories]) for group in (*groups, *more)]
        lost = [i for i in range(len(groups)) if shares[i] == 0]
        saved = {home for home, share in zip(homes, shares[len(groups) :]) if 0 < share < 1}
        if lost:
            context.log("generate/rescued_share", float(np.mean([i in saved for i in lost])))


def asked(problem: Problem, kind: Kind) -> str:
    """What the policy is told to rewrite, and how."""
    return ASKED.format(wanted=WANTED[kind], answer=problem.answer, question=_words(problem))


def question_in(reply: str) -> str:
    """The last code block of a reply, or all of it, without blanks around it."""
    blocks = BLOCK.findall(reply)
    return str(blocks[-1] if blocks else reply).strip()


def _words(problem: Problem) -> str:
    return str(problem.messages[-1]["content"])


def _marked(group: Group, hard: bool) -> Group:
    """The group whose rollouts say whether they are hard; their reward is as it was."""
    marked = [t.replace(rewards={**t.rewards, "hard": float(hard)}) for t in group.trajectories]
    return group.replace(trajectories=tuple(marked))
