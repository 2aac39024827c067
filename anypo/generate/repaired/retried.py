"""Episodes that are looked back on and tried again from the turn at which they went wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group, Tokens, Trajectory, prompt_id
from anypo.engine.base import Sampling
from anypo.generate.base import World, rollout_key
from anypo.generate.groups.auxiliary import Question, QuestionTask
from anypo.generate.repaired.reports import GUIDANCE, REFLECTION, Report, asked, filled, read_report
from anypo.generate.resume import Start, first_decision, resume
from anypo.generate.trees.segments import _Forking
from anypo.outlook import Outlook
from anypo.policies.base import fits
from anypo.policies.views import behind
from anypo.tasks.base import Problem

RETRY, GUIDED_RETRY, REPORT = "retry", "guided_retry", "report"
"""The guidance of a second attempt as it is trained in its group, and with what it was shown; and that of a report, which is no
answer to the task: what it is paid is not the policy's reward."""

RETRYING, REPORTING = 71, 73
"""The roles of second attempts and of reports in their keys."""


@dataclass
class Attempt:
    """A first attempt, member `place` of group `home`, what is asked about it, and what came of it: the reply (`said`: as the policy
    wrote it), the report in it, and the second attempt."""

    home: int
    place: int
    first: Trajectory
    question: Problem
    report: Report | None = None
    said: Trajectory | None = None
    second: Trajectory | None = None

    @property
    def better(self) -> bool:
        """Whether the second is a success that the first was not, or one of fewer turns."""
        if self.second is None or self.second.reward < 1 - 1e-9:
            return False
        return self.second.reward > self.first.reward + 1e-9 or self.second.turns < self.first.turns

    @property
    def earned(self) -> bool:
        """Whether the report was worth writing: it led to a better attempt, or called a success one."""
        found = self.report is not None and self.report.perfect and self.first.reward >= 1 - 1e-9
        return self.better or found


class Retried(_Forking, name="retried"):
    """Half of a prompt's rollouts are made independently. The policy writes a report on each: how it went and, unless all was well,
    what to do otherwise and from which turn h. The episode is then put back to that turn and played again with the report in
    view (R3L, shiweijiezero/R3L d503f6c). Both attempts are members of the prompt's group, which has from half to all of its
    planned size.

    Pivotal credit: the decisions before turn h, which the two share, have weight 0 in both (`pivotal`); with h = 0, and without a
    valid report, everything counts. The second attempt is trained without the report. Where it is a success that the first was
    not, or one in fewer turns, two more groups of one rollout with reward 1 are made (`auxiliary`): the report, and the second
    attempt with the report in view; a report that calls a success a success is one, too. Success is a reward of 1.

    reflection, guidance: what the policy is asked about an attempt, with {question}, {log} and {reward}, and what it sees at the
    second try, before the conversation, with {report} (the JSON object) and {suggestion}. reply: most tokens of a report. role: a
    model that writes the reports in the policy's place; they are then not trained.
    """

    reflection: str = REFLECTION
    guidance: str = GUIDANCE
    reply: int = Field(1024, ge=1)
    pivotal: bool = True
    auxiliary: bool = True
    role: str = Field("", description="who writes the reports ('': the policy itself)")
    speaker: Literal["system", "user"] = Field(
        "system", description="who says the guidance (some chat templates know no system)"
    )

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if self.turns == 1 and self.pivotal:
            return "to shared turns: an answer of one turn can only be tried again from its beginning; choose a task of several"
        return super().dormant(algorithm, outlook)

    def required(self) -> frozenset[str]:
        asks = {f"model:{self.role}", f"model:{self.role}:ask"} if self.role else set()
        return super().required() | asks

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = self.roots(asks, [max(1, ask.samples // 2) for ask in asks], world, context)
        attempts = [
            Attempt(home, place, t, asked(group.problem, t, world.policy, self.reflection))
            for home, group in enumerate(groups)
            for place, t in enumerate(group.trajectories)
        ]
        self._reflect(attempts, groups, world, context)
        self._retry([a for a in attempts if a.report is not None and not a.report.perfect], groups, world, context)
        out = [
            group.replace(trajectories=self._members([a for a in attempts if a.home == home]))
            for home, group in enumerate(groups)
        ]
        extra = [self._alone(a, groups[a.home], context) for a in attempts] if self.auxiliary else []
        self._log(attempts, context)
        return [*out, *self._unused(attempts, groups), *(group for more in extra for group in more)]

    # -- the report -----------------------------------------------------------------------------------------------------------

    def _reflect(self, attempts: Sequence[Attempt], groups: Sequence[Group], world: World, context: Context) -> None:
        """Fill `report` and `said`; nothing is asked about what the writer's context has no room for."""
        problems = [a.question for a in attempts]
        if self.role:
            model, sampling = world.models[self.role], Sampling(self.reply, self.temperature)
            fitting = [n for n, p in enumerate(problems) if model.fits(p.messages, sampling)]
            seed = (context.seed, context.step, prompt_id("reports"))
            replies = model.ask([problems[n].messages for n in fitting], sampling, seed) if fitting else []
            for n, reply in zip(fitting, replies):
                attempts[n].report = read_report(reply, attempts[n].first.turns)
            return
        fitting = [n for n, p in enumerate(problems) if fits(world.policy, p.messages, self.reply)]
        table = {problems[n].prompt: Question("", lambda reply: 0.0, "reflection") for n in fitting}
        starts = [
            Start(
                problems[n],
                self._key(attempts[n], groups, REPORTING, context),
                sample=attempts[n].first.sample,
                most=self.reply,
                guidance=REPORT,
            )
            for n in fitting
        ]
        aside = World(QuestionTask(table), world.policy, world.sampler)  # type: ignore[arg-type]
        for n, said in zip(fitting, resume(starts, aside, self.sampling(context))):
            attempts[n].said, attempts[n].report = said, read_report(said.text, attempts[n].first.turns)

    # -- the second attempt ---------------------------------------------------------------------------------------------------

    def _retry(self, attempts: Sequence[Attempt], groups: Sequence[Group], world: World, context: Context) -> None:
        """Fill `second`."""
        sizes = [len(group.trajectories) for group in groups]
        starts = []
        for a in attempts:
            assert a.report is not None
            told = filled(self.guidance, {"{report}": a.report.text, "{suggestion}": a.report.suggestion})
            cut = first_decision(a.first, a.report.step) if a.report.step else 0
            start = Start(
                groups[a.home].problem,
                self._key(a, groups, RETRYING, context),
                sample=sizes[a.home],
                guidance=RETRY,
                shown=({"role": self.speaker, "content": told},),
                extra={"pivot": a.report.step},
            )
            forked: dict[str, Any] = {"seed": a.first, "cut": cut, "parent": a.first.sample, "fork": cut} if cut else {}
            starts.append(dataclasses.replace(start, **forked))
            sizes[a.home] += 1
        for a, second in zip(attempts, self.resumed(starts, world, context)):
            a.second = second

    def _key(self, a: Attempt, groups: Sequence[Group], role: int, context: Context) -> tuple[int, ...]:
        group = groups[a.home]
        return rollout_key(context, group.problem, group.visit, role, a.first.sample)

    # -- what is trained on -----------------------------------------------------------------------------------------------------

    def _members(self, attempts: Sequence[Attempt]) -> tuple[Trajectory, ...]:
        """First attempts, then second ones, without what they share."""
        firsts = [self._pivoted(a.first, a) for a in attempts]
        return (*firsts, *(self._pivoted(a.second, a) for a in attempts if a.second is not None))

    def _pivoted(self, trajectory: Trajectory, a: Attempt) -> Trajectory:
        """The decisions before the pivot do not count."""
        step = a.report.step if a.report is not None and a.second is not None else 0
        if not step or not self.pivotal or trajectory.turn is None:
            return trajectory
        return trajectory.replace(weight=(trajectory.turn >= step).astype(np.float64))

    def _alone(self, a: Attempt, group: Group, context: Context) -> list[Group]:
        """Groups of one rollout with reward 1: a report that was worth it, and the second attempt that it led to, as it was shown."""
        paid = lambda t, **more: t.replace(reward=1.0, weights={}, **more)
        out = []
        if a.earned and a.said is not None:
            out.append(Group(a.said.prompt, (paid(a.said),), a.question, context.step, visit=group.visit))
        if a.better and a.second is not None:
            content = a.second.content
            if isinstance(content, Tokens) and content.shown is not None:
                seen = self._pivoted(a.second, a).replace(content=behind(content.shown, content), parent=-1, fork=-1)
                out.append(group.replace(trajectories=(paid(seen, guidance=GUIDED_RETRY),)))
        return out

    def _unused(self, attempts: Sequence[Attempt], groups: Sequence[Group]) -> list[Group]:
        """Reports that are not trained on."""
        return [
            Group(a.said.prompt, (a.said,), a.question, groups[a.home].step, visit=groups[a.home].visit, aside=True)
            for a in attempts
            if a.said is not None and not (a.earned and self.auxiliary)
        ]

    def _log(self, attempts: Sequence[Attempt], context: Context) -> None:
        """Shares of first attempts: with a report that can be read, tried again, better then; the mean turn they were tried from."""
        share = lambda which: sum(which) / max(1, len(attempts))
        again = [a for a in attempts if a.second is not None]
        context.log("generate/reports_read", share(a.report is not None for a in attempts))
        context.log("generate/retried", share(a.second is not None for a in attempts))
        context.log("generate/retried_better", share(a.better for a in attempts))
        if again:
            context.log("generate/pivot", float(np.mean([a.report.step for a in again if a.report is not None])))


__all__ = ["Attempt", "Retried"]
